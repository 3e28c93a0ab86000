//! Archives that mean harm, or are simply broken: each is refused with a clear error and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use std::fs;

use common::{Tar, config, docker_archive, gzip, header, hex, one_layer, store, store_with};
use proptest::prelude::*;
use skep_image::{Error, ErrorClass, Limits};
use tar::EntryType;

fn refused(archive: &[u8], message: &str) {
    let test = store();
    let error = test.load(archive).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    assert!(error.to_string().contains(message), "{error:?} does not say {message:?}");
    test.assert_empty();
}

fn layer_refused(layer: &[u8], message: &str) {
    refused(&one_layer(layer, "x:1"), message);
}

#[test]
fn names_in_the_archive_that_lead_outside_are_refused() {
    let with = |tar: Tar| tar.file("manifest.json", b"[]").end();
    refused(&with(Tar::new().file("../evil", b"x")), "leads outside");
    refused(&with(Tar::new().file("a/../../evil", b"x")), "leads outside");
    refused(&with(Tar::new().file("/etc/evil", b"x")), "absolute path");
    refused(&with(Tar::new().symlink("a", "/etc/passwd")), "leads outside");
    refused(&with(Tar::new().symlink("a", "../../etc/passwd")), "leads outside");
    refused(&with(Tar::new().hard_link("a", "../etc/passwd")), "leads outside");
    refused(&with(Tar::new().device("a", EntryType::Char, 1, 3)), "neither a file");
    refused(&with(Tar::new().file("a", b"1").file("a", b"2")), "twice");
    refused(&with(Tar::new().file("a", b"1").file("./a", b"2")), "twice");
}

#[test]
fn manifests_that_point_outside_are_refused() {
    for path in ["../../etc/passwd", "/etc/passwd", "missing"] {
        let manifest = format!(r#"[{{"Config":"{path}","Layers":[]}}]"#);
        refused(&Tar::new().file("manifest.json", manifest.as_bytes()).end(), "");
    }
    let looping =
        Tar::new().symlink("a", "b").symlink("b", "a").file("manifest.json", br#"[{"Config":"a","Layers":[]}]"#).end();
    refused(&looping, "missing");
}

#[test]
fn archives_that_are_no_image_are_refused_with_advice() {
    refused(b"this is not an archive", "unexpected end");
    refused(&[b'x'; 2048], "invalid tar header");
    refused(b"", "docker import");
    refused(&Tar::new().file("bin/sh", b"x").end(), "docker import");
    refused(&Tar::new().file("repositories", b"{}").end(), "older than 1.10");
    refused(&Tar::new().file("manifest.json", b"[]").end(), "no image");
    refused(&Tar::new().file("manifest.json", b"{").end(), "manifest.json");
    refused(b"BZh9xxxxxxxxxxx", "bzip2");
    refused(b"\xfd7zXZ\0xxxxxxxx", "xz");
    refused(
        &Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"9.0.0"}"#).file("index.json", b"{}").end(),
        "version",
    );
    refused(&Tar::new().file("index.json", b"{}").end(), "oci-layout");
}

#[test]
fn entries_of_layers_never_leave_them() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::write(&target, "untouched").unwrap();
    let target_name = target.to_str().unwrap();
    let outside_name = outside.path().to_str().unwrap();

    layer_refused(&Tar::new().file("../evil", b"x").end(), "leads outside");
    layer_refused(&Tar::new().file("a/../../evil", b"x").end(), "leads outside");
    layer_refused(&Tar::new().hard_link("a", "../../../evil").end(), "leads outside");
    layer_refused(&Tar::new().hard_link("a", target_name).end(), "points to nothing");
    layer_refused(&Tar::new().hard_link("a", "missing").end(), "points to nothing");
    // A link that leads outside is fine in itself; going through it stays inside, where there is no such directory.
    layer_refused(&Tar::new().symlink("a", outside_name).file("a/target", b"evil").end(), "leads to nothing");
    layer_refused(&Tar::new().symlink("a", "../../../..").file("a/../x", b"evil").end(), "leads outside");
    layer_refused(&Tar::new().symlink("a", "a").file("a/x", b"evil").end(), "loop");
    layer_refused(&Tar::new().file("a", b"").file("a/x", b"evil").end(), "not a directory");
    // Replacing the link itself must not follow it, nor must removing what is in the way.
    let test = store();
    let layer = Tar::new()
        .symlink("a", target_name)
        .file("a", b"mine")
        .symlink("d", outside_name)
        .dir("d/", 0o755)
        .file("d/target", b"mine")
        .end();
    let id = test.load(&one_layer(&layer, "x:1")).unwrap()[0].image_id;
    let root = test.store.create_snapshot("c", id).unwrap().lower[0].clone();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"mine");
    assert!(fs::symlink_metadata(root.join("a")).unwrap().is_file());
    // Through `..` and absolute links everything lands below the layer's root.
    let test = store();
    let layer = Tar::new()
        .dir("etc/", 0o755)
        .symlink("up", "../../../../etc")
        .symlink("abs", "/etc")
        .file("up/one", b"1")
        .file("abs/two", b"2")
        .end();
    let id = test.load(&one_layer(&layer, "x:1")).unwrap()[0].image_id;
    let root = test.store.create_snapshot("c", id).unwrap().lower[0].clone();
    assert_eq!(fs::read(root.join("etc/one")).unwrap(), b"1");
    assert_eq!(fs::read(root.join("etc/two")).unwrap(), b"2");
    assert!(!std::path::Path::new("/etc/one").exists() && !std::path::Path::new("/etc/two").exists());

    assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn links_planted_by_lower_layers_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let below = Tar::new().symlink("a", outside.path().to_str().unwrap()).end();
    let above = Tar::new().file("a/evil", b"x").end();
    let test = store();
    let archive = docker_archive(&config(&[&below, &above]), &[&below, &above], &["x:1"]);
    let id = test.load(&archive).unwrap()[0].image_id;
    let snapshot = test.store.create_snapshot("c", id).unwrap();
    assert_eq!(fs::read(snapshot.lower[0].join("a/evil")).unwrap(), b"x");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_overlayfs_keeps_for_itself_is_refused() {
    layer_refused(
        &Tar::new().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/x")]).dir("d/", 0o755).end(),
        "overlayfs keeps",
    );
    layer_refused(&Tar::new().device("w", EntryType::Char, 0, 0).end(), "overlayfs keeps");
    for name in [".wh.", ".wh..", ".wh..."] {
        layer_refused(&Tar::new().file(name, b"").end(), "not a whiteout");
    }
    layer_refused(&Tar::new().symlink("./", "x").end(), "root directory");
    layer_refused(&Tar::new().raw(header(b"s", EntryType::GNUSparse, 0), b"").end(), "sparse");
    layer_refused(&Tar::new().symlink("s", "").end(), "no target");
}

#[test]
fn wrong_digests_are_refused() {
    let (layer, other) = (Tar::new().file("f", b"1").end(), Tar::new().file("f", b"2").end());
    // The layer is not the one that the configuration speaks of.
    refused(&docker_archive(&config(&[&other]), &[&layer], &["x:1"]), "digest mismatch in uncompressed layer");
    refused(&docker_archive(&config(&[&layer, &layer]), &[&layer], &["x:1"]), "layers length mismatch");
    // A blob is not what its name says.
    refused(&Tar::new().file(&format!("blobs/sha256/{}", hex(b"a")), b"b").end(), "digest mismatch");
    refused(&Tar::new().file("blobs/sha256/short", b"b").end(), "not named by a digest");
    refused(&Tar::new().file(&format!("{}.json", hex(b"a")), b"b").end(), "digest mismatch");
    // Checked also where the store has the layer already.
    let test = store();
    test.load(&one_layer(&layer, "x:1")).unwrap();
    let before = test.contents();
    let error = test.load(&docker_archive(&config(&[&layer]), &[&other], &["x:2"])).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }));
    assert_eq!(test.contents(), before);
}

#[test]
fn a_bad_second_layer_takes_the_first_with_it() {
    let good = Tar::new().file("f", &[7; 4096]).end();
    let bad = Tar::new().file("../f", b"x").end();
    refused(&docker_archive(&config(&[&good, &bad]), &[&good, &bad], &["x:1"]), "leads outside");
}

#[test]
fn archives_cut_anywhere_are_refused() {
    let layer = Tar::new().file("f", &[7; 700]).end();
    for archive in [one_layer(&layer, "x:1"), gzip(&one_layer(&layer, "x:1"))] {
        let test = store();
        // The end marker itself may be missing, as everywhere.
        let end = if archive.starts_with(&[0x1f]) { archive.len() } else { archive.len() - 1024 };
        for cut in (0..end).step_by(97) {
            assert!(test.load(&archive[..cut]).is_err(), "{cut}");
        }
        test.assert_empty();
    }
}

#[test]
fn every_limit_holds() {
    let layer = Tar::new().file("a", &[0; 100_000]).file("b", b"").end();
    let archive = docker_archive(&config(&[&layer]), &[&gzip(&layer)], &["x:1"]);
    let base = Limits::default;
    let hit = |limits: Limits, what: &str| {
        let test = store_with(limits);
        match test.load(&archive) {
            Err(Error::LimitExceeded { what: found, .. }) => assert!(found.contains(what), "{found}"),
            other => panic!("{other:?}"),
        }
        test.assert_empty();
    };
    hit(Limits { max_unpacked_bytes: 50_000, ..base() }, "unpacked size");
    hit(Limits { max_entries: 1, ..base() }, "entries");
    hit(Limits { max_layers: 0, ..base() }, "layers");
    hit(Limits { max_json_bytes: 20, ..base() }, "JSON");
    hit(Limits { max_compression_ratio: 5, ratio_free_bytes: 1000, ..base() }, "ratio");
    hit(Limits { max_images: 0, ..base() }, "images");
    let test = store_with(base());
    test.load(&archive).unwrap();
}

#[test]
fn bad_names_and_configurations_are_refused() {
    let layer = Tar::new().file("f", b"1").end();
    for tag in ["Bad:1", "a b", "notag", "x@sha256:0000000000000000000000000000000000000000000000000000000000000000"] {
        refused(&one_layer(&layer, tag), "invalid tag");
    }
    refused(&docker_archive(b"[]", &[], &["x:1"]), "invalid image config");
    let deep = format!(r#"{{"config":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    refused(&docker_archive(deep.as_bytes(), &[], &["x:1"]), "invalid image config");
}

/// A small language of entries, thick with dots, slashes and links.
fn entries() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    let name = "(/|\\.\\./|a/|b/|\\./|\\.wh\\.){0,3}(a|b|\\.\\.|\\.wh\\.a|\\.wh\\.\\.wh\\.\\.opq)";
    prop::collection::vec((0..6_u8, name, "(/|\\.\\./|a/|b/|\\./){0,4}(a|b|\\.\\.)"), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn whatever_a_layer_says_nothing_outside_changes(entries in entries()) {
        let mut tar = Tar::new();
        for (kind, name, target) in &entries {
            tar = match kind {
                0 | 1 => tar.file(name, b"content"),
                2 => tar.dir(&format!("{name}/"), 0o755),
                3 | 4 => tar.symlink(name, target),
                _ => tar.hard_link(name, target),
            };
        }
        let test = store();
        let result = test.load(&one_layer(&tar.end(), "x:1"));
        prop_assert_eq!(fs::read_dir(test.dir.path()).unwrap().count(), 1);
        let mut names: Vec<String> =
            fs::read_dir(test.root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        match result {
            Ok(_) => {
                prop_assert_eq!(names, ["blobs", "images.json", "l", "layers", "lock", "snapshots", "tmp", "version"]);
                prop_assert_eq!(test.contents().len(), 4);
            }
            Err(error) => {
                prop_assert_eq!(error.class(), ErrorClass::Invalid, "{}", error);
                prop_assert_eq!(names, ["blobs", "l", "layers", "lock", "snapshots", "tmp", "version"]);
                prop_assert!(test.contents().is_empty());
            }
        }
    }
}
