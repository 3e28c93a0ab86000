//! Ends of a container's streams: one half stays with the daemon, the other goes to the shim, when the container is launched
//! or later. What the container writes goes to every attached reader besides the log.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe;

use crate::protocol::Streams;

/// The daemon's half.
#[derive(Debug)]
pub struct Attachment {
    /// The container's standard input, if asked for. Dropping it is the end of this client's input.
    pub stdin: Option<pipe::Sender>,
    /// What the container writes to its standard output, or to its terminal. Ends with the container, and when it is not
    /// read for so long that the shim gives up on it.
    pub stdout: Option<pipe::Receiver>,
    /// What it writes to its standard error; `None` with a terminal.
    pub stderr: Option<pipe::Receiver>,
}

/// The shim's half. Dropped in the daemon, the other half ends.
#[derive(Debug)]
pub struct AttachEnds {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Both halves of an attachment to standard output and error, or to the terminal; with `stdin` also to standard input.
/// A half that is not wanted may be dropped. Call it within a tokio runtime.
///
/// # Errors
/// When the process has no descriptors left.
pub fn attachment(stdin: bool, tty: bool) -> io::Result<(Attachment, AttachEnds)> {
    let mut attachment = Attachment { stdin: None, stdout: None, stderr: None };
    let mut ends = AttachEnds { stdin: None, stdout: None, stderr: None };
    if stdin {
        let (reader, writer) = pipe_pair()?;
        (attachment.stdin, ends.stdin) = (Some(sender(writer)?), Some(reader));
    }
    let (reader, writer) = pipe_pair()?;
    (attachment.stdout, ends.stdout) = (Some(receiver(reader)?), Some(writer));
    if !tty {
        let (reader, writer) = pipe_pair()?;
        (attachment.stderr, ends.stderr) = (Some(receiver(reader)?), Some(writer));
    }
    Ok((attachment, ends))
}

impl AttachEnds {
    pub(crate) fn streams(&self) -> Streams {
        Streams { stdin: self.stdin.is_some(), stdout: self.stdout.is_some(), stderr: self.stderr.is_some() }
    }

    /// In the order of [`Streams`].
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }

    /// From the descriptors that came with `streams`; `None` when they are not as many.
    pub(crate) fn from_descriptors(streams: Streams, descriptors: Vec<OwnedFd>) -> Option<Self> {
        if descriptors.len() != streams.count() {
            return None;
        }
        let mut rest = descriptors.into_iter();
        let mut take = |wanted: bool| if wanted { rest.next() } else { None };
        Some(Self { stdin: take(streams.stdin), stdout: take(streams.stdout), stderr: take(streams.stderr) })
    }
}

/// Reading and writing end.
pub(crate) fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

pub(crate) fn sender(fd: OwnedFd) -> io::Result<pipe::Sender> {
    set_nonblocking(&fd)?;
    pipe::Sender::from_owned_fd(fd)
}

pub(crate) fn receiver(fd: OwnedFd) -> io::Result<pipe::Receiver> {
    set_nonblocking(&fd)?;
    pipe::Receiver::from_owned_fd(fd)
}

pub(crate) fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_raw_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_raw_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Reads nothing.
pub(crate) fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
