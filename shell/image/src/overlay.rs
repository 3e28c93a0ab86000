//! Finding out whether overlayfs works where the store lies, before the first container needs it. The mount is a detached one
//! (`fsopen`, `fsmount`): it is in no mount namespace and goes when its descriptor is closed.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use crate::error::{Error, IoContext, Result};
use crate::tree;

/// Tries overlayfs below `root`: a mount, a write, and a removal that needs a whiteout. Leaves nothing behind.
///
/// # Errors
/// [`Error::OverlayUnavailable`] with what is missing; an I/O error when `root` cannot be written.
pub fn probe_overlay(root: &Path) -> Result<()> {
    fs::create_dir_all(root).at("create", root)?;
    let directory = root.join(format!(".overlay-probe-{}", std::process::id()));
    tree::remove(&directory).at("remove", &directory)?;
    let result = probe_in(&directory);
    tree::remove(&directory).at("remove", &directory)?;
    result.map_err(|reason| Error::OverlayUnavailable { path: root.to_owned(), reason })
}

fn probe_in(directory: &Path) -> std::result::Result<(), String> {
    let prepare = || -> std::io::Result<()> {
        for name in ["lower", "upper", "work"] {
            fs::create_dir_all(directory.join(name))?;
        }
        fs::write(directory.join("lower/file"), "x")
    };
    prepare().map_err(|error| format!("cannot prepare a trial: {error}"))?;
    let mount = mount(directory)?;
    let write = |what: &str, error: Errno| format!("{what} in a trial mount failed: {error}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, "new", flags, Mode::RUSR).map_err(|error| write("creating a file", error))?;
    rustix::fs::unlinkat(&mount, "file", AtFlags::empty()).map_err(|error| write("removing a file", error))?;
    match rustix::fs::statat(CWD, directory.join("upper/file"), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no whiteout appeared in a trial mount: {error}")),
    }
}

fn mount(directory: &Path) -> std::result::Result<OwnedFd, String> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| match error {
        Errno::NODEV => {
            "the kernel has no overlay file system: load the module \"overlay\" or use a kernel that has it".to_owned()
        }
        Errno::PERM => "not permitted to mount: root with CAP_SYS_ADMIN is needed".to_owned(),
        Errno::NOSYS => "the kernel is too old: 5.6 or later is needed".to_owned(),
        error => format!("cannot open the overlay file system: {error}"),
    })?;
    // Values are bounded to 255 bytes by the kernel, so deep roots go through a descriptor.
    let opened = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("cannot open a trial directory: {error}"))?;
    for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        let path = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&opened));
        fsconfig_set_string(&context, key, path.as_str())
            .map_err(|error| format!("option {key} is refused: {error}"))?;
    }
    fsconfig_create(&context).map_err(|error| match error {
        Errno::INVAL => format!(
            "a trial mount is refused ({error}): the file system below must support d_type and extended attributes, and cannot be overlayfs itself"
        ),
        Errno::PERM => "not permitted to mount: root with CAP_SYS_ADMIN is needed".to_owned(),
        error => format!("a trial mount failed: {error}"),
    })?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(|error| format!("a trial mount failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_leaves_nothing_and_needs_no_mount_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let before = fs::read_to_string("/proc/self/mounts").unwrap();
        probe_overlay(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(
            fs::read_to_string("/proc/self/mounts").unwrap().matches(dir.path().to_str().unwrap()).count(),
            before.matches(dir.path().to_str().unwrap()).count()
        );
    }

    #[test]
    fn a_place_that_cannot_hold_an_upper_directory_says_so() {
        // procfs refuses directories outright.
        assert!(probe_overlay(Path::new("/proc/skep-no-such")).is_err());
    }
}
