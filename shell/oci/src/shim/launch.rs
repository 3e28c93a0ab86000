//! The first steps of a shim: away from the daemon, and away from the file the daemon was started from.

use std::ffi::{CString, OsStr};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::unistd::{ForkResult, fork, setsid};

use crate::client::{Failure, Report};

pub(super) const RUN: &str = "--run";

/// Forks, and goes on as `shim --run` in the child.
pub(super) fn run(bundle: PathBuf) -> ExitCode {
    // SAFETY: this process has one thread; the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {
            let error = detach(&bundle);
            let message = format!("failed to create task for container: failed to start shim: {error}");
            let failed = Some(Failure { exit_code: 128, message });
            let report = serde_json::to_vec(&Report { running: None, failed }).unwrap_or_default();
            let _ = io::stdout().write_all(&report);
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn detach(bundle: &std::path::Path) -> io::Error {
    // SAFETY: closes what this process inherited by mistake; nothing here owns a descriptor above 2.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_int::MAX, 0) };
    if let Err(error) = setsid() {
        return error.into();
    }
    let binary = match read_only_self() {
        Ok(binary) => binary,
        Err(error) => return error,
    };
    execute(&binary, &[OsStr::new(RUN), bundle.as_os_str()])
}

/// Our own binary through a mount of its own that is read-only. Processes that enter a container run it for a moment,
/// and a container can get hold of `/proc/PID/exe` (CVE-2019-5736): through this mount it cannot write to it.
fn read_only_self() -> io::Result<OwnedFd> {
    let exe = std::fs::File::open("/proc/self/exe")?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: a valid descriptor, an empty NUL-terminated path, flags.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, exe.as_raw_fd(), c"".as_ptr(), flags) };
    let fd = match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(io::Error::last_os_error()),
    };
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: a valid mount descriptor, an empty NUL-terminated path, a mount_attr with its right size.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if set == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}

/// Executes `binary` as `skep shim ARGS` with an empty environment; returns only when that fails.
pub(super) fn execute(binary: &OwnedFd, args: &[&OsStr]) -> io::Error {
    let all = [OsStr::new("skep"), OsStr::new("shim")].into_iter().chain(args.iter().copied());
    let Ok(all) = all.map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    let pointers: Vec<_> = all.iter().map(|arg| arg.as_ptr()).chain([std::ptr::null()]).collect();
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: a valid descriptor, an empty path, NULL-terminated arrays of NUL-terminated strings that outlive the
    // call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            binary.as_raw_fd(),
            c"".as_ptr(),
            pointers.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// This process's own binary, to be executed again.
pub(super) fn own_binary() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/self/exe")?.into())
}
