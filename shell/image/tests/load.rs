//! Archives of every accepted shape go in and come out as directories that overlayfs understands.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use common::{Tar, config, docker_archive, gzip, header, hex, one_layer, store};
use skep_image::{
    ContainerConfig, Digest, Error, ImageBuilder, Import, Platform, Progress, Reference, write_docker_archive,
};
use tar::EntryType;

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut buffer[..]).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

#[test]
fn an_archive_of_today_loads_with_dockers_lines_and_survives_a_restart() {
    let test = store();
    let mut archive = Vec::new();
    let config = ContainerConfig { cmd: Some(vec!["/bin/true".to_owned()]), ..ContainerConfig::default() };
    let id = write_docker_archive(&mut archive, "web:v1", &[("bin/true", b"program", 0o755)], &config).unwrap();
    let mut progress = Vec::new();
    let loaded = test.store.load(archive.as_slice(), &mut |step| progress.push(step)).unwrap();
    assert_eq!(loaded.iter().map(|loaded| loaded.line()).collect::<Vec<_>>(), ["Loaded image: web:v1"]);
    assert_eq!(loaded[0].image_id, id);
    assert!(loaded[0].runs_here && loaded[0].replaced.is_none());
    assert!(matches!(progress[..], [Progress::Layer { current, total, .. }] if current == total));

    let test = test.reopen();
    let image = test.store.get("web:v1").unwrap();
    assert_eq!((image.id, image.size, image.repo_tags), (id, 7, vec!["web:v1".to_owned()]));
    assert_eq!(image.config.config, config);
    assert_eq!(Digest::of(&image.raw_config), id.0);
    assert_eq!(test.store.get(&id.short()).unwrap().id, id);
    assert_eq!(test.store.get(&id.to_string()).unwrap().id, id);
    assert!(test.store.get("web").is_none());
    assert_eq!(test.store.layer_blobs(id).unwrap().len(), 1);
    assert!(test.store.blob_path(id.0).is_some());

    // Again: nothing new, but everything is checked.
    let before = test.contents();
    let mut progress = Vec::new();
    test.store.load(archive.as_slice(), &mut |step| progress.push(step)).unwrap();
    assert!(matches!(progress[..], [Progress::LayerExists { .. }]));
    assert_eq!(test.contents(), before);
}

#[test]
fn compressed_layers_and_compressed_archives_load() {
    let plain = Tar::new().file("f", b"content").end();
    let config = config(&[&plain]);
    for layer in [gzip(&plain), zstd::encode_all(&plain[..], 0).unwrap(), plain.clone()] {
        let archive = docker_archive(&config, &[&layer], &["x:1"]);
        for outer in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 0).unwrap()] {
            let test = store();
            let id = test.load(&outer).unwrap()[0].image_id;
            let snapshot = test.store.create_snapshot("c", id).unwrap();
            assert_eq!(fs::read(snapshot.lower[0].join("f")).unwrap(), b"content");
        }
    }
}

#[test]
fn a_legacy_archive_with_links_between_layers_loads() {
    let (a, b) = (Tar::new().file("a", b"1").end(), Tar::new().file("b", b"2").end());
    let config = config(&[&a, &b, &a]);
    let config_name = format!("{}.json", hex(&config));
    let manifest = format!(
        r#"[{{"Config":"{config_name}","RepoTags":["old:1","old:2"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}}]"#
    );
    let archive = Tar::new()
        .dir("a/", 0o755)
        .file("a/VERSION", b"1.0")
        .file("a/layer.tar", &a)
        .file("b/layer.tar", &b)
        .symlink("c/layer.tar", "../a/layer.tar")
        .file(&config_name, &config)
        .file("manifest.json", manifest.as_bytes())
        .file("repositories", b"{}")
        .end();
    let test = store();
    let lines: Vec<String> = test.load(&archive).unwrap().iter().map(|loaded| loaded.line()).collect();
    assert_eq!(lines, ["Loaded image: old:1", "Loaded image: old:2"]);
    let image = test.store.get("old:2").unwrap();
    assert_eq!(image.layer_sizes, [1, 1, 1]);
    assert_eq!(test.store.create_snapshot("c", image.id).unwrap().lower.len(), 3);
}

/// Manifest, configuration, packed layer, and what the index says about it.
type OciImage = (Vec<u8>, Vec<u8>, Vec<u8>, serde_json::Value);

fn oci_archive(manifests: &[OciImage], nested: bool) -> Vec<u8> {
    let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let descriptor = |kind: &str, bytes: &[u8]| serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}+json"), "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len()});
    let mut list = Vec::new();
    for (manifest, config, layer, extra) in manifests {
        for bytes in [manifest, config, layer] {
            tar = tar.file(&blob(bytes), bytes);
        }
        let mut entry = descriptor("manifest.v1", manifest);
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        list.push(entry);
    }
    let mut index = serde_json::json!({"schemaVersion": 2, "manifests": list}).to_string().into_bytes();
    if nested {
        tar = tar.file(&blob(&index), &index);
        let mut entry = descriptor("index.v1", &index);
        entry["annotations"] = serde_json::json!({"io.containerd.image.name": "docker.io/library/multi:1"});
        index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
    }
    tar.file("index.json", &index).end()
}

fn oci_image(content: &[u8], extra: serde_json::Value) -> OciImage {
    let layer = Tar::new().file("f", content).end();
    let (config, packed) = (config(&[&layer]), gzip(&layer));
    let part = |bytes: &[u8]| serde_json::json!({"mediaType": "x", "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len()});
    let manifest = serde_json::json!({"schemaVersion": 2, "config": part(&config), "layers": [part(&packed)]});
    (manifest.to_string().into_bytes(), config, packed, extra)
}

#[test]
fn an_oci_layout_loads_and_a_nested_index_is_resolved_for_this_platform() {
    let host = Platform::host().architecture;
    let platform = |architecture: &str| serde_json::json!({"platform": {"os": "linux", "architecture": architecture}});
    let test = store();
    let archive = oci_archive(&[oci_image(b"other", platform("s390x")), oci_image(b"ours", platform(&host))], true);
    let loaded = test.load(&archive).unwrap();
    assert_eq!(loaded.iter().map(|loaded| loaded.line()).collect::<Vec<_>>(), ["Loaded image: multi:1"]);
    let snapshot = test.store.create_snapshot("c", loaded[0].image_id).unwrap();
    assert_eq!(fs::read(snapshot.lower[0].join("f")).unwrap(), b"ours");

    let foreign = oci_archive(&[oci_image(b"other", platform("s390x"))], true);
    assert!(matches!(test.load(&foreign), Err(Error::NoMatchingPlatform { .. })));

    let nameless = oci_archive(&[oci_image(b"plain", serde_json::json!({}))], false);
    let loaded = test.load(&nameless).unwrap();
    assert_eq!(loaded[0].line(), format!("Loaded image ID: {}", loaded[0].image_id));
}

#[test]
fn an_image_for_another_platform_loads_and_says_so() {
    let test = store();
    let builder = ImageBuilder::new().file("f", b"", 0o644).platform(Platform::parse("linux/s390x").unwrap());
    let id = builder.build(&test.store, None).unwrap();
    let image = test.store.require(&id.to_string()).unwrap();
    assert!(!image.runs_here);
    assert_eq!(image.platform().to_string(), "linux/s390x");
}

#[test]
fn every_kind_of_entry_is_unpacked_with_its_metadata() {
    let mut setuid = header(b"bin/su", EntryType::Regular, 3);
    setuid.set_mode(0o4755);
    setuid.set_uid(12);
    setuid.set_gid(34);
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Tar::new()
        .dir("./", 0o711)
        .dir("bin/", 0o750)
        .raw(setuid, b"abc")
        .hard_link("bin/sudo", "bin/su")
        .symlink("sh", "/bin/busybox")
        .device("null", EntryType::Char, 1, 3)
        .device("disk", EntryType::Block, 7, 0)
        .raw(header(b"pipe", EntryType::Fifo, 0), b"")
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.k", b"v\0w"),
            ("mtime", b"1234567890.5"),
        ])
        .file("ping", b"x")
        .pax(&[("path", b"unicode/\xc3\xa4"), ("uid", b"3000000000")])
        .file("short", b"y")
        .file("/rooted", b"z")
        .end();
    let test = store();
    let id = test.load(&one_layer(&layer, "x:1")).unwrap()[0].image_id;
    let snapshot = test.store.create_snapshot("c", id).unwrap();
    let root = &snapshot.lower[0];
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(stat("").mode() & 0o7777, 0o711);
    assert_eq!(fs::metadata(&snapshot.upper).unwrap().mode() & 0o7777, 0o711);
    assert_eq!((stat("bin").mode() & 0o7777, stat("bin").mtime()), (0o750, 1_000_000_000));
    let su = stat("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink(), su.mtime()), (0o4755, 12, 34, 2, 1_000_000_000));
    assert_eq!(su.ino(), stat("bin/sudo").ino());
    assert_eq!(fs::read_link(root.join("sh")).unwrap(), Path::new("/bin/busybox"));
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(stat("disk").file_type().is_block_device());
    assert!(stat("pipe").file_type().is_fifo());
    assert_eq!(xattr(&root.join("ping"), "security.capability").unwrap(), capability);
    assert_eq!(xattr(&root.join("ping"), "user.k").unwrap(), b"v\0w");
    assert_eq!((stat("ping").mtime(), stat("ping").mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(stat("unicode/ä").uid(), 3_000_000_000);
    assert_eq!(stat("rooted").len(), 1);
    // Content of linked files counts once.
    assert_eq!(test.store.require("x:1").unwrap().size, 3 + 1 + 1 + 1);
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let below =
        Tar::new().file("gone", b"1").dir("opaque/", 0o755).file("opaque/old", b"1").dir("replaced/", 0o700).end();
    let above = Tar::new()
        .file(".wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"2")
        .file(".wh.replaced", b"")
        .dir("replaced/", 0o755)
        .file("replaced/new", b"2")
        .file(".wh..wh.plnk", b"")
        .file("kept", b"3")
        .file(".wh.kept", b"")
        .end();
    let test = store();
    let archive = docker_archive(&config(&[&below, &above]), &[&below, &above], &["x:1"]);
    let id = test.load(&archive).unwrap()[0].image_id;
    let snapshot = test.store.create_snapshot("c", id).unwrap();
    let top = &snapshot.lower[0];
    assert!(is_whiteout(&top.join("gone")));
    assert_eq!(xattr(&top.join("opaque"), "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(xattr(&top.join("replaced"), "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(fs::read(top.join("kept")).unwrap(), b"3");
    let mut names: Vec<String> =
        fs::read_dir(top).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["gone", "kept", "opaque", "replaced"]);
}

#[test]
fn later_entries_replace_earlier_ones_and_unnamed_directories_look_like_those_below() {
    let mut owned = header(b"home/", EntryType::Directory, 0);
    owned.set_mode(0o700);
    owned.set_uid(5);
    let below = Tar::new().raw(owned, b"").end();
    let above = Tar::new()
        .file("home/f", b"1")
        .file("home/f", b"two")
        .dir("d/", 0o755)
        .file("d/x", b"1")
        .symlink("d", "home")
        .file("d/through", b"3")
        .hard_link("home/f", "home/f")
        .end();
    let test = store();
    let archive = docker_archive(&config(&[&below, &above]), &[&below, &above], &["x:1"]);
    let id = test.load(&archive).unwrap()[0].image_id;
    let top = test.store.create_snapshot("c", id).unwrap().lower[0].clone();
    let home = fs::metadata(top.join("home")).unwrap();
    assert_eq!((home.mode() & 0o7777, home.uid()), (0o700, 5));
    assert_eq!(fs::read(top.join("home/f")).unwrap(), b"two");
    assert_eq!(fs::read_link(top.join("d")).unwrap(), Path::new("home"));
    assert_eq!(fs::read(top.join("home/through")).unwrap(), b"3");
}

#[test]
fn a_name_moves_to_the_image_that_was_loaded_last() {
    let test = store();
    let first = test.load(&one_layer(&Tar::new().file("a", b"1").end(), "x:1")).unwrap()[0].image_id;
    let loaded = test.load(&one_layer(&Tar::new().file("a", b"2").end(), "x:1")).unwrap();
    assert_eq!(loaded[0].replaced, Some(first));
    assert_eq!(
        loaded[0].replaced_line().unwrap(),
        format!("The image x:1 already exists, renaming the old one with ID {first} to empty string")
    );
    assert_eq!(test.store.dangling(), [first]);
}

#[test]
fn import_makes_an_image_as_docker_does() {
    let test = store();
    let rootfs = Tar::new().dir("bin/", 0o755).file("bin/sh", b"shell").end();
    let import = Import {
        name: Some(Reference::parse("imported:v1").unwrap()),
        changes: vec!["CMD [\"/bin/sh\"]".to_owned(), "ENV A=b".to_owned()],
        message: "imported".to_owned(),
        platform: None,
    };
    for input in [rootfs.clone(), gzip(&rootfs)] {
        let id = test.store.import(input.as_slice(), &import, &mut |_| {}).unwrap();
        let image = test.store.get("imported:v1").unwrap();
        assert_eq!((image.id, image.size), (id, 5));
        assert_eq!(image.config.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert_eq!(image.config.history[0].comment, "imported");
        assert_eq!(image.config.rootfs.diff_ids, [Digest::of(&rootfs)]);
        assert!(image.created_unix() > 0);
    }
    let bad = Import { changes: vec!["RUN x".to_owned()], ..Import::default() };
    assert!(matches!(test.store.import(&rootfs[..], &bad, &mut |_| {}), Err(Error::InvalidChange(_))));
    let cut = &rootfs[..rootfs.len() - 1024 - 100];
    let before = test.contents();
    assert!(matches!(test.store.import(cut, &Import::default(), &mut |_| {}), Err(Error::InvalidArchive(_))));
    assert_eq!(test.contents(), before);
}

#[test]
fn several_loads_at_once_end_in_one_store() {
    let test = store();
    let shared = Tar::new().file("shared", &[1; 5000]).end();
    let archives: Vec<Vec<u8>> = (0..6_u8)
        .map(|number| {
            let own = Tar::new().file("own", &[number / 2]).end();
            docker_archive(&config(&[&shared, &own]), &[&shared, &own], &[&format!("x:{number}")])
        })
        .collect();
    std::thread::scope(|scope| {
        for archive in &archives {
            let store = test.store.clone();
            scope.spawn(move || store.load(archive.as_slice(), &mut |_| {}).unwrap());
        }
    });
    assert_eq!(test.store.list().len(), 3);
    assert_eq!(fs::read_dir(test.root().join("layers")).unwrap().count(), 4);
    for number in 0..6 {
        assert!(test.store.get(&format!("x:{number}")).is_some());
    }
    let before = test.contents();
    assert!(!before.iter().any(|name| name.starts_with("tmp/")));
    assert_eq!(test.reopen().contents(), before);
}
