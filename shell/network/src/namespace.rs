//! Network namespaces: work inside one on a thread of its own, pin one at a path, tell whether a path is a pin. A
//! worker thread of a runtime never changes its namespace.

use crate::error::{NetworkError, Result, Tried};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::statfs;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

const NSFS_MAGIC: i64 = 0x6e73_6673;
const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// The network namespace of this thread.
pub(crate) fn current() -> Result<OwnedFd> {
    Ok(File::open(THREAD_NETNS).tried(|| "open this thread's network namespace".into())?.into())
}

/// Is it the namespace that the machine booted with (as far as can be seen)?
pub(crate) fn is_initial(netns: &OwnedFd) -> bool {
    let own = netns.try_clone().map(File::from).and_then(|file| file.metadata());
    let first = fs::metadata("/proc/1/ns/net");
    matches!((own, first), (Ok(own), Ok(first)) if own.ino() == first.ino() && own.dev() == first.dev())
}

/// Runs `work` on a new thread inside the namespace.
pub(crate) fn within<T: Send>(netns: impl AsFd + Sync, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).tried(|| "enter a network namespace".into())?;
        work()
    })
}

/// Runs `work` on a new thread inside a new namespace, which lives as long as something holds it.
pub(crate) fn within_new<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).tried(|| "make a network namespace (root is needed)".into())?;
        work()
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("skep-netns".into()).spawn_scoped(scope, work);
        let thread = thread.tried(|| "start a thread for a network namespace".into())?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Pins the namespace of this thread at the path.
pub(crate) fn pin_current(pin: &Path) -> Result<()> {
    File::create(pin).tried(|| format!("create {pin:?}"))?;
    mount(Some(THREAD_NETNS), pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .tried(|| format!("pin a network namespace at {pin:?}"))
}

/// Is a namespace pinned at the path?
pub(crate) fn is_pin(pin: &Path) -> bool {
    statfs(pin).is_ok_and(|found| i128::from(found.filesystem_type().0) == i128::from(NSFS_MAGIC))
}

/// Takes the pin away; a file without a mount and no file at all are fine.
pub(crate) fn unpin(pin: &Path) -> Result<()> {
    // A crash between two mounts, or a second daemon's mistake, may have stacked them.
    while is_pin(pin) {
        umount2(pin, MntFlags::MNT_DETACH).tried(|| format!("unmount {pin:?}"))?;
    }
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::Io { what: format!("remove {pin:?}"), source: error })
        }
        _ => Ok(()),
    }
}

/// Makes the directory a private mount of its own, so that pins made in it reach no other mount namespace and none
/// of those keeps them busy.
pub(crate) fn prepare_pins(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).tried(|| format!("create {directory:?}"))?;
    let path = directory.canonicalize().tried(|| format!("resolve {directory:?}"))?;
    if !is_mount_point(&path)? {
        mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .tried(|| format!("mount {path:?} onto itself"))?;
    }
    mount(None::<&str>, &path, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
        .tried(|| format!("make mount {path:?} private"))
}

/// Undoes [`prepare_pins`]; the directory has no pins any more.
pub(crate) fn drop_pins(directory: &Path) -> Result<()> {
    let Ok(path) = directory.canonicalize() else { return Ok(()) };
    while is_mount_point(&path)? {
        umount2(&path, MntFlags::MNT_DETACH).tried(|| format!("unmount {path:?}"))?;
    }
    fs::remove_dir(&path).tried(|| format!("remove {path:?}"))
}

fn is_mount_point(path: &Path) -> Result<bool> {
    let table = fs::read("/proc/thread-self/mountinfo").tried(|| "read the mount table".into())?;
    let found = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .any(|point| unescape(point) == path.as_os_str().as_bytes());
    Ok(found)
}

/// The mount table writes blanks and backslashes as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match digits {
            Some([a, b, c]) if *first == b'\\' => {
                plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = &tail[3..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// Writes a kernel setting of this thread's namespace, unless it has that value.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<bool> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let normalized = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    if fs::read_to_string(&path).is_ok_and(|now| normalized(&now) == value) {
        return Ok(false);
    }
    fs::write(&path, value).tried(|| format!("set {name} to {value}"))?;
    Ok(true)
}

/// Like [`set_sysctl`], for a setting that this kernel may not have.
pub(crate) fn set_sysctl_if_present(name: &str, value: &str) -> Result<bool> {
    match set_sysctl(name, value) {
        Err(NetworkError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_escapes_are_read() {
        assert_eq!(unescape(br"/a\040b\134c"), b"/a b\\c");
        assert_eq!(unescape(br"/a\9"), br"/a\9");
    }
}
