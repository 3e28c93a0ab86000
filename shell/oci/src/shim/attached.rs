//! Who is attached to the container's streams. What the container writes goes to every reader; what any of them types goes
//! to the container. A reader that is slow slows the container down, as a pipe between two programs does; one that reads
//! nothing at all for [`STUCK`] is let go, so that nobody can hold a container up for good.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::sink::Sink;
use crate::attachment::{AttachEnds, set_nonblocking};

/// Attachments at once.
const ATTACHED_MAX: usize = 64;
/// How long a reader may read nothing while something waits for it.
const STUCK: Duration = Duration::from_secs(30);
/// Bytes that may wait for one reader once the container has ended: its pipes are read to their end then.
const LAST_WORDS: usize = 4 << 20;

/// One client's ends.
struct Client {
    stdin: Option<File>,
    outputs: [Option<Sink>; 2],
}

/// What a descriptor in the poll set is.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// A client's standard input.
    Stdin(usize),
    /// A client's reader of standard output (0) or error (1).
    Reader(usize, usize),
    /// The container's standard input.
    Input,
}

/// All that are attached, and the container's standard input.
pub(super) struct Attached {
    clients: Vec<Client>,
    input: Option<Sink>,
    /// The container's input ends with the first client's.
    once: bool,
    ended: bool,
}

impl Attached {
    pub(super) fn new(input: Option<Sink>, once: bool) -> Self {
        Self { clients: Vec::new(), input, once, ended: false }
    }

    pub(super) fn add(&mut self, ends: AttachEnds) -> Result<(), String> {
        if self.clients.len() >= ATTACHED_MAX {
            return Err(format!("too many are attached to this container, at most {ATTACHED_MAX}"));
        }
        let text = |error: std::io::Error| format!("cannot attach: {error}");
        let sink = |fd: Option<_>| fd.map(Sink::new).transpose().map_err(text);
        let outputs = [sink(ends.stdout)?, sink(ends.stderr)?];
        let stdin = ends.stdin.filter(|_| self.input.is_some()).map(File::from);
        if let Some(stdin) = &stdin {
            set_nonblocking(stdin).map_err(text)?;
        }
        self.clients.push(Client { stdin, outputs });
        Ok(())
    }

    /// The container wrote something.
    pub(super) fn output(&mut self, stream: usize, bytes: &[u8]) {
        for client in &mut self.clients {
            let slot = &mut client.outputs[stream];
            if slot.as_mut().is_some_and(|sink| !sink.write(bytes)) {
                *slot = None;
            }
        }
    }

    /// The container will write nothing more to a stream.
    pub(super) fn end_output(&mut self, stream: usize) {
        for client in &mut self.clients {
            let slot = &mut client.outputs[stream];
            if slot.as_mut().is_some_and(|sink| !sink.end()) {
                *slot = None;
            }
        }
    }

    /// The container has ended: what it wrote last is taken even for those that are slow, and nothing goes in any more.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.input = None;
        for client in &mut self.clients {
            client.stdin = None;
        }
    }

    /// Whether the container's output must not be read for now.
    pub(super) fn is_full(&self, stream: usize) -> bool {
        self.clients
            .iter()
            .filter_map(|client| client.outputs[stream].as_ref())
            .any(|sink| if self.ended { sink.waiting() >= LAST_WORDS } else { sink.is_full() })
    }

    /// Whether anybody still waits for something that was written.
    pub(super) fn is_behind(&self) -> bool {
        self.clients.iter().flat_map(|client| &client.outputs).flatten().any(|sink| sink.waiting() > 0)
    }

    pub(super) fn pollable(&self) -> Vec<(Part, RawFd, i16)> {
        let mut all = Vec::new();
        let room = self.input.as_ref().is_some_and(|input| !input.is_full());
        for (index, client) in self.clients.iter().enumerate() {
            if let Some(stdin) = client.stdin.as_ref().filter(|_| room) {
                all.push((Part::Stdin(index), stdin.as_raw_fd(), libc::POLLIN));
            }
            for (stream, sink) in client.outputs.iter().enumerate() {
                all.extend(sink.as_ref().map(|sink| (Part::Reader(index, stream), sink.fd(), sink.events())));
            }
        }
        // A terminal whose other end is closed for a moment is no reason to look at it again and again.
        let input = self.input.as_ref().filter(|input| input.waiting() > 0);
        all.extend(input.map(|input| (Part::Input, input.fd(), libc::POLLOUT)));
        all
    }

    /// Something happened on a descriptor.
    pub(super) fn happened(&mut self, part: Part, events: i16) {
        match part {
            Part::Stdin(index) => self.read(index),
            Part::Reader(index, stream) => {
                let Some(slot) = self.clients.get_mut(index).map(|client| &mut client.outputs[stream]) else { return };
                let gone = events & libc::POLLERR != 0;
                if gone || slot.as_mut().is_some_and(|sink| !sink.flush()) {
                    *slot = None;
                }
            }
            Part::Input => {
                if self.input.as_mut().is_some_and(|input| !input.flush()) {
                    self.input = None;
                }
            }
        }
    }

    fn read(&mut self, index: usize) {
        let Some(slot) = self.clients.get_mut(index).map(|client| &mut client.stdin) else { return };
        let Some(stdin) = slot else { return };
        let mut buffer = [0; 16 * 1024];
        match stdin.read(&mut buffer) {
            Ok(count) if count > 0 => {
                if self.input.as_mut().is_none_or(|input| !input.write(&buffer[..count])) {
                    self.input = None;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => {
                *slot = None;
                if self.once && self.input.as_mut().is_some_and(|input| !input.end()) {
                    self.input = None;
                }
            }
        }
    }

    /// When the next stuck reader is due to be let go.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sinks = self.clients.iter().flat_map(|client| &client.outputs).flatten();
        sinks.filter_map(Sink::stuck_since).min().map(|since| since + STUCK)
    }

    /// Forgets those that are gone or stuck.
    pub(super) fn sweep(&mut self) {
        let input = self.input.is_some();
        for client in &mut self.clients {
            for slot in &mut client.outputs {
                if slot.as_ref().and_then(Sink::stuck_since).is_some_and(|since| since.elapsed() >= STUCK) {
                    *slot = None;
                }
            }
            if !input {
                client.stdin = None;
            }
        }
        self.clients.retain(|client| client.stdin.is_some() || client.outputs.iter().any(Option::is_some));
    }
}
