//! The terminals of execs: what the program writes goes to its client, what the client types goes to the program. A client
//! that is slow holds its own program up, and nobody else.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::sink::Sink;
use super::terminal;
use crate::attachment::set_nonblocking;

/// How long what the program wrote last is read after its end.
const DRAIN: Duration = Duration::from_secs(2);

/// What a descriptor in the poll set is.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// What the program writes.
    Master,
    /// What the client types.
    Stdin,
    /// The client's reader.
    Reader,
    /// What the program reads.
    Input,
}

/// One terminal.
pub(super) struct Terminal {
    master: Option<File>,
    input: Option<Sink>,
    stdin: Option<File>,
    reader: Option<Sink>,
    /// The program has ended.
    deadline: Option<Instant>,
}

impl Terminal {
    /// `stdin` and `stdout` are the client's.
    pub(super) fn new(master: OwnedFd, stdin: OwnedFd, stdout: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&master)?;
        set_nonblocking(&stdin)?;
        let input = Sink::new(master.try_clone()?)?;
        Ok(Self {
            master: Some(File::from(master)),
            input: Some(input),
            stdin: Some(File::from(stdin)),
            reader: Some(Sink::new(stdout)?),
            deadline: None,
        })
    }

    pub(super) fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        match &self.master {
            Some(master) => terminal::resize(master, rows, cols),
            None => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    /// The program has ended.
    pub(super) fn end(&mut self) {
        self.deadline = Some(Instant::now() + DRAIN);
        (self.stdin, self.input) = (None, None);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the program has ended and all that it wrote is with the client, or never will be.
    pub(super) fn is_done(&self) -> bool {
        let read = self.master.is_none() && self.reader.is_none();
        self.deadline.is_some_and(|deadline| read || Instant::now() >= deadline)
    }

    pub(super) fn pollable(&self) -> impl Iterator<Item = (Part, RawFd, i16)> {
        let room_out = self.reader.as_ref().is_none_or(|reader| !reader.is_full());
        let room_in = self.input.as_ref().is_some_and(|input| !input.is_full());
        let master =
            self.master.as_ref().filter(|_| room_out).map(|file| (Part::Master, file.as_raw_fd(), libc::POLLIN));
        let stdin = self.stdin.as_ref().filter(|_| room_in).map(|file| (Part::Stdin, file.as_raw_fd(), libc::POLLIN));
        let reader = self.reader.as_ref().map(|sink| (Part::Reader, sink.fd(), sink.events()));
        let input = self.input.as_ref().filter(|sink| sink.waiting() > 0);
        let input = input.map(|sink| (Part::Input, sink.fd(), libc::POLLOUT));
        [master, stdin, reader, input].into_iter().flatten()
    }

    pub(super) fn happened(&mut self, part: Part, events: i16) {
        match part {
            Part::Master => self.read_master(),
            Part::Stdin => self.read_stdin(),
            Part::Reader => {
                // A client that is gone does not disturb the program: what it writes is thrown away.
                if events & libc::POLLERR != 0 || self.reader.as_mut().is_some_and(|reader| !reader.flush()) {
                    self.reader = None;
                }
            }
            Part::Input => {
                if self.input.as_mut().is_some_and(|input| !input.flush()) {
                    self.input = None;
                }
            }
        }
    }

    fn read_master(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match self.master.as_mut().map(|master| master.read(&mut buffer)) {
            Some(Ok(count)) if count > 0 => {
                if self.reader.as_mut().is_some_and(|reader| !reader.write(&buffer[..count])) {
                    self.reader = None;
                }
            }
            Some(Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // Nobody holds the terminal open any more.
            _ => {
                (self.master, self.input, self.stdin) = (None, None, None);
                if self.reader.as_mut().is_some_and(|reader| !reader.end()) {
                    self.reader = None;
                }
            }
        }
    }

    fn read_stdin(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match self.stdin.as_mut().map(|stdin| stdin.read(&mut buffer)) {
            Some(Ok(count)) if count > 0 => {
                if self.input.as_mut().is_none_or(|input| !input.write(&buffer[..count])) {
                    self.input = None;
                }
            }
            Some(Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.stdin = None,
        }
    }
}
