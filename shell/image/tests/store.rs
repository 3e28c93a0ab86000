//! Names, removal, snapshots, and what is left after a crash at the worst moment.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tar, TestStore, config, contents, docker_archive, store};
use skep_image::{
    ContainerConfig, ContainerUse, Error, ErrorClass, ImageBuilder, ImageId, ImageStore, Reference, Removed,
    probe_overlay,
};

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap().with_default_tag()
}

fn image(test: &TestStore, content: &str, name: &str) -> ImageId {
    ImageBuilder::new().file("f", content.as_bytes(), 0o644).build(&test.store, Some(&reference(name))).unwrap()
}

fn nobody(_: &ImageId) -> Option<ContainerUse> {
    None
}

fn user(running: bool) -> impl Fn(&ImageId) -> Option<ContainerUse> {
    move |_| Some(ContainerUse { container_id: "0cb33152512ce6b8ed7f224f8e752bd1".to_owned(), running })
}

fn untagged(name: &str) -> Removed {
    Removed::Untagged(name.to_owned())
}

fn check_conflict(result: Result<Vec<Removed>, Error>, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert_eq!(error.to_string(), message);
}

#[test]
fn names_are_given_moved_and_looked_up() {
    let test = store();
    let (a, b) = (image(&test, "a", "a:1"), image(&test, "b", "b:1"));
    test.store.tag("a:1", &reference("registry.test:5000/a")).unwrap();
    test.store.tag(&a.short(), &reference("b:1")).unwrap();
    let found = test.store.get("b:1").unwrap();
    assert_eq!(found.id, a);
    assert_eq!(found.repo_tags, ["a:1", "b:1", "registry.test:5000/a:latest"]);
    assert!(!found.last_tagged.is_empty());
    assert_eq!(test.store.dangling(), [b]);

    let digest = reference("a").with_digest(b.0);
    test.store.record_digest(a, &digest).unwrap();
    assert_eq!(test.store.get("a:1").unwrap().repo_digests, [format!("a@{}", b.0)]);
    assert_eq!(test.store.get(&format!("a:other@{}", b.0)).unwrap().id, a);
    assert!(matches!(test.store.tag("a:1", &digest), Err(Error::InvalidReference(_))));

    for (name, message) in [
        ("nosuch", "No such image: nosuch:latest"),
        ("x:y", "No such image: x:y"),
        (
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "No such image: sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ),
    ] {
        let error = test.store.tag(name, &reference("x")).unwrap_err();
        assert_eq!((error.class(), error.to_string()), (ErrorClass::NotFound, message.to_owned()));
    }
    let test = test.reopen();
    assert_eq!(test.store.get("b:1").unwrap().id, a);
    assert_eq!(test.store.list().len(), 2);
}

#[test]
fn a_layer_that_is_somebodys_stays_until_nobody_needs_it() {
    let test = store();
    let shared = ImageBuilder::new().file("base", b"base", 0o644).layer();
    let one = shared.clone().file("own", b"1", 0o644).build(&test.store, Some(&reference("one"))).unwrap();
    let two = shared.file("own", b"2", 0o644).build(&test.store, Some(&reference("two"))).unwrap();
    let chain = test.store.get("one").unwrap().chain_ids.clone();
    let removed = test.store.remove("one", false, nobody).unwrap();
    assert_eq!(
        removed,
        [untagged("one:latest"), Removed::Deleted(one.to_string()), Removed::Deleted(chain[1].to_string())]
    );
    let base = chain[0];
    let removed = test.store.remove("two", false, nobody).unwrap();
    assert_eq!(removed.len(), 4);
    assert_eq!(removed[1], Removed::Deleted(two.to_string()));
    assert_eq!(removed[3], Removed::Deleted(base.to_string()));
    test.assert_empty();
}

#[test]
fn removing_follows_dockers_rules() {
    let test = store();
    let id = image(&test, "a", "imported:v1");
    let twelve = id.short();
    test.store.tag("imported:v1", &reference("registry.test:5000/busybox:2.0")).unwrap();

    // By id, several repositories.
    check_conflict(
        test.store.remove(&twelve, false, nobody),
        &format!("conflict: unable to delete {twelve} (must be forced) - image is referenced in multiple repositories"),
    );
    // One name of several goes, whoever uses the image.
    assert_eq!(test.store.remove("imported:v1", false, user(true)).unwrap(), [untagged("imported:v1")]);
    // The last name with a container.
    check_conflict(
        test.store.remove("registry.test:5000/busybox:2.0", false, user(false)),
        &format!(
            "conflict: unable to remove repository reference \"registry.test:5000/busybox:2.0\" (must force) - container 0cb33152512c is using its referenced image {twelve}"
        ),
    );
    // By id with a container.
    check_conflict(
        test.store.remove(&twelve, false, user(false)),
        &format!(
            "conflict: unable to delete {twelve} (must be forced) - image is being used by stopped container 0cb33152512c"
        ),
    );
    for force in [false, true] {
        check_conflict(
            test.store.remove(&twelve, force, user(true)),
            &format!(
                "conflict: unable to delete {twelve} (cannot be forced) - image is being used by running container 0cb33152512c"
            ),
        );
    }
    assert_eq!(test.store.get(&twelve).unwrap().repo_tags, ["registry.test:5000/busybox:2.0"]);
    // Forced by name while a container runs: only the name goes.
    let removed = test.store.remove("registry.test:5000/busybox:2.0", true, user(true)).unwrap();
    assert_eq!(removed, [untagged("registry.test:5000/busybox:2.0")]);
    assert_eq!(test.store.dangling(), [id]);
    // Forced by id while a stopped container has it.
    assert_eq!(test.store.remove(&twelve, true, user(false)).unwrap()[0], Removed::Deleted(id.to_string()));
    let error = test.store.remove("imported:v1", false, nobody).unwrap_err();
    assert_eq!(error.to_string(), "No such image: imported:v1");
    test.assert_empty();
}

#[test]
fn removing_the_last_tag_takes_the_digests_of_its_repository_along() {
    let test = store();
    let id = image(&test, "a", "a:1");
    test.store.record_digest(id, &reference("a").with_digest(id.0)).unwrap();
    let removed = test.store.remove("a:1", false, nobody).unwrap();
    assert_eq!(removed[..2], [untagged("a:1"), untagged(&format!("a@{}", id.0))]);
    test.assert_empty();

    let id = image(&test, "a", "a:1");
    test.store.tag("a:1", &reference("b:1")).unwrap();
    let removed = test.store.remove(&id.to_string(), true, nobody).unwrap();
    assert_eq!(removed[..3], [untagged("a:1"), untagged("b:1"), Removed::Deleted(id.to_string())]);
    test.assert_empty();
}

#[test]
fn snapshots_keep_the_layers_of_an_image_that_was_removed_by_force() {
    let test = store();
    let id = image(&test, "content", "a:1");
    let snapshot = test.store.create_snapshot("c1", id).unwrap();
    assert!(matches!(test.store.create_snapshot("c1", id), Err(Error::SnapshotExists(_))));
    test.store.remove("a:1", true, user(false)).unwrap();
    let test = test.reopen();
    assert_eq!(test.store.snapshots(), std::slice::from_ref(&snapshot));
    assert_eq!(fs::read(snapshot.lower[0].join("f")).unwrap(), b"content");
    fs::write(snapshot.upper.join("written"), [0; 42]).unwrap();
    assert_eq!(test.store.usage("c1").unwrap().bytes, 42);
    test.store.remove_snapshot("c1").unwrap();
    assert!(matches!(test.store.remove_snapshot("c1"), Err(Error::NoSuchSnapshot(_))));
    assert!(matches!(test.store.usage("c1"), Err(Error::NoSuchSnapshot(_))));
    test.assert_empty();
}

#[test]
fn container_ids_and_unknown_images_are_checked() {
    let test = store();
    let id = image(&test, "x", "a:1");
    for bad in ["", ".", "..", "a/b", "../a", "-a", "ä", &"a".repeat(129)] {
        assert!(matches!(test.store.create_snapshot(bad, id), Err(Error::InvalidContainerId(_))), "{bad}");
        assert!(matches!(test.store.remove_snapshot(bad), Err(Error::InvalidContainerId(_))), "{bad}");
    }
    let unknown = ImageId(skep_image::Digest::of(b"unknown"));
    assert!(matches!(test.store.create_snapshot("c", unknown), Err(Error::NoSuchImage(_))));
}

/// Mounts a snapshot in a mount namespace of a child process, as a shim does, and runs a shell command in it.
fn run(test: &TestStore, container: &str, script: &str) -> String {
    let snapshot = test.store.snapshot(container).unwrap();
    let mount = format!(
        "mount --make-rprivate / && mount -t overlay overlay -o '{}' '{}' && exec chroot '{}' /bin/sh -c '{script}'",
        snapshot.mount_options(),
        snapshot.merged.display(),
        snapshot.merged.display()
    );
    let output =
        Command::new("unshare").args(["-m", "sh", "-c", &mount]).current_dir(&snapshot.store_root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_busybox_image_runs_on_overlayfs() {
    let Ok(busybox) = fs::read("/bin/busybox") else { panic!("these tests need busybox-static") };
    let test = store();
    probe_overlay(&test.root()).unwrap();
    let mut builder = ImageBuilder::new().file("bin/busybox", &busybox, 0o755).directory("etc", 0o755);
    for applet in ["sh", "cat", "ls", "rm", "echo"] {
        builder = builder.symlink(&format!("bin/{applet}"), "busybox");
    }
    let config = ContainerConfig { cmd: Some(vec!["sh".to_owned()]), ..ContainerConfig::default() };
    let id = builder
        .file("etc/old", b"old", 0o644)
        .file("etc/kept", b"kept", 0o644)
        .layer()
        .remove("etc/old")
        .file("etc/new", b"new", 0o644)
        .config(config)
        .build(&test.store, Some(&reference("busybox")))
        .unwrap();
    let snapshot = test.store.create_snapshot("c1", id).unwrap();
    test.store.create_snapshot("c2", id).unwrap();
    assert_eq!(run(&test, "c1", "cd /etc && ls && cat new && rm kept && echo mine > own"), "kept\nnew\nnew");
    assert_eq!(run(&test, "c1", "cd /etc && ls"), "new\nown\n");
    assert_eq!(run(&test, "c2", "cd /etc && ls"), "kept\nnew\n");
    assert_eq!(fs::read_to_string(snapshot.upper.join("etc/own")).unwrap(), "mine\n");
    assert!(test.store.usage("c1").unwrap().bytes >= 5);
    let size = test.store.get("busybox").unwrap().size;
    assert_eq!(size, busybox.len() as u64 + 10);
}

#[test]
fn the_most_layers_still_fit_into_one_mount() {
    let Ok(busybox) = fs::read("/bin/busybox") else { panic!("these tests need busybox-static") };
    let test = store();
    let mut builder = ImageBuilder::new()
        .file("bin/busybox", &busybox, 0o755)
        .symlink("bin/sh", "busybox")
        .symlink("bin/cat", "busybox");
    for number in 1..test.store.limits().max_layers {
        builder = builder.layer().file("number", number.to_string().as_bytes(), 0o644);
    }
    let id = builder.build(&test.store, None).unwrap();
    let snapshot = test.store.create_snapshot(&"c".repeat(64), id).unwrap();
    assert!(snapshot.mount_options().len() < 4096);
    assert_eq!(run(&test, &snapshot.container_id, "cat /number"), (test.store.limits().max_layers - 1).to_string());
}

#[test]
fn an_image_without_layers_gets_an_empty_one_below() {
    let test = store();
    let id = test.load(&docker_archive(&config(&[]), &[], &["empty:1"])).unwrap()[0].image_id;
    let snapshot = test.store.create_snapshot("c", id).unwrap();
    assert!(snapshot.lower[0].is_dir());
    assert!(snapshot.mount_options().contains("snapshots/c/empty"));
}

/// Copies files, directories and links; `to` is made.
fn copy_tree(from: &Path, to: &Path) {
    let metadata = fs::symlink_metadata(from).unwrap();
    if metadata.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy_tree(&from.join(&name), &to.join(&name));
        }
    } else if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// A store with one image that a crash may not harm, and the same store after something more was done.
fn before_and_after(act: impl FnOnce(&ImageStore)) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let store = ImageStore::open(&after).unwrap();
    ImageBuilder::new()
        .file("f", b"kept", 0o644)
        .created("2026-01-01T00:00:00Z")
        .build(&store, Some(&reference("kept")))
        .unwrap();
    copy_tree(&after, &before);
    act(&store);
    drop(store);
    (dir, before, after)
}

/// Every entry that `to` has and `from` has not.
fn added(from: &Path, to: &Path) -> Vec<String> {
    let old = contents(from);
    contents(to).into_iter().filter(|name| !old.contains(name)).collect()
}

#[test]
fn a_crash_between_any_two_renames_of_a_load_leaves_the_old_store() {
    let (dir, before, after) = before_and_after(|store| {
        let builder = ImageBuilder::new().file("f", b"one", 0o644).layer().file("g", b"two", 0o644);
        builder.build(store, Some(&reference("new"))).unwrap();
    });
    let steps = added(&before, &after);
    assert_eq!(steps.len(), 2 + 2 + 3);
    // Every subset of what is renamed before the table is written.
    for subset in 0..1_u32 << steps.len() {
        let crashed = dir.path().join("crashed");
        copy_tree(&before, &crashed);
        fs::create_dir_all(crashed.join("tmp/0/layer-0/diff/deep")).unwrap();
        for (index, step) in steps.iter().enumerate() {
            if subset & 1 << index != 0 {
                copy_tree(&after.join(step), &crashed.join(step));
            }
        }
        let store = ImageStore::open(&crashed).unwrap();
        assert_eq!(store.list().len(), 1);
        assert_eq!(contents(&crashed), contents(&before));
        let kept = store.require("kept").unwrap().id;
        let snapshot = store.create_snapshot("c", kept).unwrap();
        assert_eq!(fs::read(snapshot.lower[0].join("f")).unwrap(), b"kept");
        drop(store);
        fs::remove_dir_all(&crashed).unwrap();
    }
}

#[test]
fn a_crash_between_any_two_steps_of_a_removal_leaves_the_new_store() {
    let (dir, before, after) = before_and_after(|store| {
        let builder = ImageBuilder::new().file("f", b"one", 0o644).layer().file("g", b"two", 0o644);
        builder.build(store, Some(&reference("doomed"))).unwrap();
    });
    let table = fs::read(before.join("images.json")).unwrap();
    let steps = added(&before, &after);
    for subset in 0..1_u32 << steps.len() {
        let crashed = dir.path().join("crashed");
        copy_tree(&after, &crashed);
        // The table is written first; then content goes, in any order.
        fs::write(crashed.join("images.json"), &table).unwrap();
        for (index, step) in steps.iter().enumerate() {
            if subset & 1 << index != 0 {
                let path = crashed.join(step);
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            }
        }
        let store = ImageStore::open(&crashed).unwrap();
        assert!(store.get("doomed").is_none() && store.get("kept").is_some());
        assert_eq!(contents(&crashed), contents(&before));
        drop(store);
        fs::remove_dir_all(&crashed).unwrap();
    }
}

#[test]
fn the_same_image_in_another_wrapping_leaves_one_set_of_archives() {
    let test = store();
    let layer = Tar::new().file("f", b"1").end();
    let packed = common::gzip(&layer);
    test.load(&docker_archive(&config(&[&layer]), &[&packed], &["a:1"])).unwrap();
    let before = test.contents();
    test.load(&docker_archive(&config(&[&layer]), &[&layer], &["b:1"])).unwrap();
    assert_eq!(test.contents(), before);
    assert_eq!(test.store.get("b:1").unwrap().repo_tags, ["a:1", "b:1"]);
}

#[test]
fn a_damaged_image_is_forgotten_and_can_be_loaded_again() {
    let test = store();
    let builder = ImageBuilder::new().file("f", b"x", 0o644).created("2026-01-01T00:00:00Z");
    let id = builder.build(&test.store, Some(&reference("a"))).unwrap();
    let blob = test.store.blob_path(id.0).unwrap();
    fs::write(blob, "{}").unwrap();
    let test = test.reopen();
    assert!(test.store.get("a").is_none());
    assert_eq!(builder.build(&test.store, Some(&reference("a"))).unwrap(), id);
    let test = test.reopen();
    assert_eq!(test.store.require("a").unwrap().id, id);
}

#[test]
fn loads_and_removals_at_once_never_tear_a_layer_away() {
    let test = store();
    let shared = Tar::new().file("shared", &[1; 2000]).end();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (store, shared) = (test.store.clone(), &shared);
            scope.spawn(move || {
                for round in 0..10 {
                    let own = Tar::new().file("own", &[thread]).end();
                    let name = format!("x{thread}:{round}");
                    let archive = docker_archive(&config(&[shared, &own]), &[shared, &own], &[&name]);
                    let id = store.load(archive.as_slice(), &mut |_| {}).unwrap()[0].image_id;
                    let container = format!("c{thread}");
                    let snapshot = store.create_snapshot(&container, id).unwrap();
                    assert_eq!(fs::read(snapshot.lower[1].join("shared")).unwrap().len(), 2000);
                    store.remove_snapshot(&container).unwrap();
                    store.remove(&name, false, nobody).unwrap();
                }
            });
        }
    });
    test.assert_empty();
}
