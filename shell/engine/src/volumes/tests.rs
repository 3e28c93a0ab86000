//! The store of volumes without containers.

use super::*;

struct Rig {
    directory: tempfile::TempDir,
    volumes: Volumes,
}

fn open(directory: &Path) -> Result<Volumes> {
    Volumes::open(directory.join("volumes"), directory.join("pins"))
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let volumes = open(directory.path()).unwrap();
        Self { directory, volumes }
    }

    fn reopen(&mut self) {
        self.volumes = open(self.directory.path()).unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.volumes.list().into_iter().map(|volume| volume.record.name).collect()
    }
}

fn named(name: &str) -> VolumeRequest {
    VolumeRequest { name: name.to_owned(), ..VolumeRequest::default() }
}

fn with(name: &str, options: &[(&str, &str)]) -> VolumeRequest {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    VolumeRequest { options, ..named(name) }
}

#[test]
fn volumes_are_made_once_kept_and_removed() {
    let mut rig = Rig::new();
    let mut request = named("data");
    request.labels.insert("a".to_owned(), "b".to_owned());
    let (volume, is_new) = rig.volumes.create(request).unwrap();
    assert!(is_new && volume.mountpoint.is_dir() && volume.users == 0);
    std::fs::write(volume.mountpoint.join("file"), "kept").unwrap();
    let (again, is_new) = rig.volumes.create(named("data")).unwrap();
    assert!(!is_new && again.record.labels["a"] == "b");
    rig.reopen();
    assert_eq!(rig.volumes.get("data").unwrap(), volume);
    assert_eq!(rig.volumes.size("data").unwrap(), 4);
    rig.volumes.remove("data").unwrap();
    assert!(!volume.mountpoint.exists());
    assert_eq!(rig.volumes.get("data").unwrap_err().to_string(), "get data: no such volume");
    assert_eq!(rig.volumes.remove("data").unwrap_err().to_string(), "get data: no such volume");
    let (anonymous, _) = rig.volumes.create(named("")).unwrap();
    assert!(anonymous.record.name.len() == 64 && anonymous.record.labels.contains_key(ANONYMOUS_LABEL));
    assert_eq!(std::fs::read_dir(rig.directory.path().join("volumes")).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_is_refused_in_docker_s_words() {
    let rig = Rig::new();
    let refused = |request: VolumeRequest| rig.volumes.create(request).unwrap_err().to_string();
    assert!(refused(named("x")).contains("create x: volume name is too short"));
    assert!(refused(named("../etc")).starts_with("create ../etc: \"../etc\" includes invalid characters for a local"));
    assert!(refused(named(".hidden")).contains("includes invalid characters"));
    assert_eq!(refused(with("vb", &[("bogus", "1")])), "create vb: invalid option: \"bogus\"");
    assert_eq!(refused(with("vb", &[("type", "tmpfs")])), "create vb: missing required option: \"device\"");
    let request = VolumeRequest { driver: "nosuch".to_owned(), ..named("v2") };
    assert_eq!(refused(request), "create v2: error looking up volume plugin nosuch: plugin \"nosuch\" not found");
    assert!(rig.names().is_empty());
}

#[test]
fn a_volume_in_use_stays() {
    let rig = Rig::new();
    rig.volumes.acquire(named("data"), "c1", false).unwrap();
    let text = rig.volumes.remove("data").unwrap_err().to_string();
    assert_eq!(text, "remove data: volume is in use - [c1]");
    assert!(rig.volumes.release("c1").is_empty());
    rig.volumes.remove("data").unwrap();
}

#[test]
fn what_was_made_for_a_container_goes_with_it() {
    let mut rig = Rig::new();
    let (own, _) = rig.volumes.acquire(named(""), "c1", true).unwrap();
    let (kept, _) = rig.volumes.acquire(named(""), "c2", true).unwrap();
    let (shared, _) = rig.volumes.acquire(named("shared"), "c1", false).unwrap();
    let [own, kept, shared] = [own, kept, shared].map(|volume| volume.record.name);
    assert_eq!(rig.volumes.release("c1"), [own]);
    rig.volumes.disown("c2").unwrap();
    assert!(rig.volumes.release("c2").is_empty());
    // Killed before the container was there: nobody adopts it.
    let (orphan, _) = rig.volumes.acquire(named(""), "c3", true).unwrap();
    let (adopted, _) = rig.volumes.acquire(named(""), "c4", true).unwrap();
    rig.reopen();
    assert!(rig.volumes.adopt(&adopted.record.name, "c4", true));
    rig.volumes.settle(|_| false);
    let mut left = vec![adopted.record.name, kept, shared];
    left.sort();
    assert_eq!(rig.names(), left);
    assert!(!orphan.mountpoint.exists());
}

#[test]
fn half_made_and_half_removed_volumes_are_swept() {
    let mut rig = Rig::new();
    rig.volumes.create(named("data")).unwrap();
    let root = rig.directory.path().join("volumes");
    std::fs::create_dir_all(root.join(".new-x/_data")).unwrap();
    std::fs::create_dir_all(root.join(".gone-x/_data/deep")).unwrap();
    std::fs::create_dir_all(root.join("strange/_data")).unwrap();
    rig.reopen();
    assert_eq!(rig.names(), ["data"]);
    assert!(root.join("strange").exists(), "what cannot be read is not deleted on a guess");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 2);
    let text = rig.volumes.create(named("strange")).unwrap_err().to_string();
    assert!(text.contains("no volume can be read from it"), "{text}");
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn options_are_mounted_while_somebody_uses_the_volume() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let mut rig = Rig::new();
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=7")];
    let (volume, _) = rig.volumes.create(with("mem", &options)).unwrap();
    let data = volume.mountpoint.clone();
    for container in ["c1", "c2"] {
        rig.volumes.acquire(named("mem"), container, false).unwrap();
        assert_eq!(rig.volumes.enter("mem", container, 0, "").unwrap(), data);
        std::fs::write(data.join("file"), "x").unwrap();
    }
    let mounts = place::mounts_below(&data).unwrap();
    assert_eq!(mounts, std::slice::from_ref(&data), "once");
    rig.volumes.leave("c1");
    assert!(data.join("file").exists());
    // Killed: the next one finds the container that runs, and one that ended meanwhile.
    rig.reopen();
    rig.volumes.adopt("mem", "c2", true);
    rig.volumes.settle(|_| false);
    assert!(data.join("file").exists());
    rig.reopen();
    rig.volumes.adopt("mem", "c2", false);
    rig.volumes.settle(|_| false);
    assert!(place::mounts_below(&data).unwrap().is_empty());
    rig.volumes.release("c2");
    rig.volumes.remove("mem").unwrap();
}

#[test]
fn the_files_behind_a_bound_volume_are_never_removed() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let rig = Rig::new();
    let behind = tempfile::tempdir().unwrap();
    std::fs::write(behind.path().join("file"), "precious").unwrap();
    let device = behind.path().to_str().unwrap();
    rig.volumes.create(with("bound", &[("type", "none"), ("device", device), ("o", "bind")])).unwrap();
    let data = rig.volumes.enter("bound", "c1", 0, "").unwrap();
    assert!(data.join("file").exists());
    // Also when the daemon forgot to unmount it.
    rig.volumes.remove("bound").unwrap();
    assert!(behind.path().join("file").exists() && !data.exists());
    let missing = [("type", "none"), ("device", "/no/such/dir"), ("o", "bind")];
    rig.volumes.create(with("broken", &missing)).unwrap();
    let text = rig.volumes.enter("broken", "c1", 0, "").unwrap_err().to_string();
    assert!(text.starts_with("failed to mount local volume: mount /no/such/dir:"), "{text}");
}

#[test]
fn a_path_inside_is_pinned_and_cannot_lead_out() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let rig = Rig::new();
    let (volume, _) = rig.volumes.create(named("data")).unwrap();
    std::fs::create_dir_all(volume.mountpoint.join("a/b")).unwrap();
    std::fs::write(volume.mountpoint.join("a/b/file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc", volume.mountpoint.join("out")).unwrap();
    rig.volumes.acquire(named("data"), "c1", false).unwrap();
    let pin = rig.volumes.enter("data", "c1", 0, "a/b").unwrap();
    assert!(pin.join("file").exists());
    let file = rig.volumes.enter("data", "c1", 1, "a/b/file").unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "x");
    assert!(rig.volumes.enter("data", "c1", 2, "out").is_err());
    assert!(rig.volumes.enter("data", "c1", 2, "none").unwrap_err().to_string().starts_with("cannot access path"));
    rig.volumes.leave("c1");
    rig.volumes.release("c1");
    assert!(!pin.exists() && volume.mountpoint.join("a/b/file").exists());
    rig.volumes.remove("data").unwrap();
}

#[test]
fn trees_are_copied_with_all_that_they_are() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = from.path();
    std::fs::create_dir(source.join("d")).unwrap();
    std::fs::write(source.join("d/file"), "content").unwrap();
    std::fs::set_permissions(source.join("d/file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::fs::hard_link(source.join("d/file"), source.join("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", source.join("symlink")).unwrap();
    std::fs::set_permissions(source.join("d"), std::fs::Permissions::from_mode(0o1570)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(source.join("d/file"), Some(12), Some(34)).unwrap();
        std::fs::set_permissions(source.join("d/file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    }
    let open = |path: &Path| std::fs::File::open(path).unwrap();
    copy::copy_tree(open(source).as_fd(), open(to.path()).as_fd()).unwrap();
    let target = to.path();
    for name in ["d", "d/file", "link", "symlink", "."] {
        let before = source.join(name).symlink_metadata().unwrap();
        let after = target.join(name).symlink_metadata().unwrap();
        let facts = |it: &std::fs::Metadata| (it.mode(), it.uid(), it.gid(), it.mtime(), it.mtime_nsec(), it.nlink());
        assert_eq!(facts(&before), facts(&after), "{name}");
    }
    assert_eq!(std::fs::read_to_string(target.join("link")).unwrap(), "content");
    let inode = |name: &str| target.join(name).metadata().unwrap().ino();
    assert_eq!(inode("link"), inode("d/file"));
    // Again, over what is there.
    copy::copy_tree(open(source).as_fd(), open(target).as_fd()).unwrap();
}
