//! Pseudo terminals: made inside the container for an exec, received from there by a socket, sized.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::Mode;

/// What the kernel's pts file system calls itself (`linux/magic.h`).
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// The device number of `/dev/ptmx`.
const PTMX: (u64, u64) = (5, 2);

/// Sets the number of rows and columns; the kernel sends SIGWINCH to the program in the foreground.
pub(super) fn resize(master: &impl AsRawFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: a descriptor that we own, and a winsize, which is what this call reads.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A new terminal from the file system of the calling process's root: our end and the program's.
pub(super) fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/ptmx", flags, Mode::empty())?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    // The container may have put something else there.
    let stat = nix::sys::stat::fstat(master.as_raw_fd())?;
    let number = (nix::sys::stat::major(stat.st_rdev), nix::sys::stat::minor(stat.st_rdev));
    let magic = nix::sys::statfs::fstatfs(&master)?.filesystem_type().0;
    let device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && number == PTMX;
    if !device || magic != DEVPTS_MAGIC {
        return Err(io::Error::other("/dev/ptmx of the container is no terminal multiplexer"));
    }
    let unlock: libc::c_int = 0;
    // SAFETY: a valid descriptor and an int, which is what this call reads.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a valid descriptor and open flags.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok((master, unsafe { OwnedFd::from_raw_fd(slave) }))
}

/// Makes a terminal the calling session's own, and its standard streams.
pub(super) fn take(slave: &OwnedFd) -> io::Result<()> {
    // SAFETY: a valid descriptor; 0 means not to take it from another session.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for target in 0..3 {
        nix::unistd::dup2(slave.as_raw_fd(), target)?;
    }
    Ok(())
}

/// Gives a standard stream to a user, so that a program that opens `/dev/stdout` or its terminal by name may do so.
/// `/dev/null` stays as it is.
pub(super) fn give(fd: RawFd, uid: u32) {
    let Ok(stat) = nix::sys::stat::fstat(fd) else { return };
    let number = (nix::sys::stat::major(stat.st_rdev), nix::sys::stat::minor(stat.st_rdev));
    let null = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && number == (1, 3);
    if !null && stat.st_uid != uid {
        // A stream on a read-only file system keeps its owner: that is how it was mounted.
        let _ = nix::unistd::fchown(fd, Some(nix::unistd::Uid::from_raw(uid)), None);
    }
}

/// Sends a descriptor, with one line of text.
pub(super) fn send(socket: RawFd, line: &[u8], fd: &OwnedFd) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket, &[IoSlice::new(line)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Reads what there is, and the descriptors that came with it.
pub(super) fn receive(socket: RawFd, buffer: &mut [u8], flags: MsgFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([i32; 4]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut control), flags | MsgFlags::MSG_CMSG_CLOEXEC)?;
    let count = message.bytes;
    let mut all = Vec::new();
    for item in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = item {
            // SAFETY: the kernel has just installed these descriptors for us.
            all.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((count, all))
}
