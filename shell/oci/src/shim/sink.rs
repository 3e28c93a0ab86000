//! A descriptor that is written to without ever waiting: what it does not take at once is kept, up to a bound that the
//! caller looks after.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use crate::attachment::set_nonblocking;

/// Bytes that wait in a sink before its source is no longer read.
const FULL: usize = 64 * 1024;

/// Somewhere to write.
pub(super) struct Sink {
    file: File,
    waiting: Vec<u8>,
    /// Since when it has taken nothing although something waits.
    stuck_since: Option<Instant>,
    /// Closed once everything has been taken.
    ending: bool,
}

impl Sink {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self { file: File::from(fd), waiting: Vec::new(), stuck_since: None, ending: false })
    }

    /// Takes bytes. False when nobody reads any more.
    #[must_use]
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        if !self.waiting.is_empty() {
            self.waiting.extend_from_slice(bytes);
            return true;
        }
        match self.push(bytes) {
            Ok(done) if done == bytes.len() => true,
            Ok(done) => {
                self.waiting.extend_from_slice(&bytes[done..]);
                self.stuck_since = Some(Instant::now());
                true
            }
            Err(_) => false,
        }
    }

    /// Passes on what waits. False when there is nothing more to be done with it.
    #[must_use]
    pub(super) fn flush(&mut self) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        match self.push(&waiting) {
            Ok(done) if done == waiting.len() => {
                self.stuck_since = None;
                !self.ending
            }
            Ok(done) => {
                if done > 0 {
                    self.stuck_since = Some(Instant::now());
                }
                self.waiting = waiting;
                self.waiting.drain(..done);
                true
            }
            Err(_) => false,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Nothing more comes. False when it can be closed at once.
    #[must_use]
    pub(super) fn end(&mut self) -> bool {
        self.ending = true;
        !self.waiting.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn stuck_since(&self) -> Option<Instant> {
        self.stuck_since
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// What to poll for: with nothing to write only whether the reader is gone, which needs no asking.
    pub(super) fn events(&self) -> i16 {
        if self.waiting.is_empty() { 0 } else { libc::POLLOUT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn nothing_is_lost_and_the_end_comes_last() {
        let (reader, writer) = crate::attachment::pipe_pair().expect("pipe");
        let mut sink = Sink::new(writer).expect("sink");
        let text: Vec<u8> = (0..300_000_u32).map(|number| u8::try_from(number % 251).expect("small")).collect();
        for piece in text.chunks(1000) {
            assert!(sink.write(piece));
        }
        assert!(sink.is_full() && sink.stuck_since().is_some() && sink.end());
        let mut reader = File::from(reader);
        let mut read = Vec::new();
        let mut buffer = vec![0; 10_000];
        let mut sink = Some(sink);
        loop {
            match reader.read(&mut buffer).expect("read") {
                0 => break,
                count => read.extend_from_slice(&buffer[..count]),
            }
            if sink.as_mut().is_some_and(|sink| !sink.flush()) {
                sink = None;
            }
        }
        assert!(read == text);
    }

    #[test]
    fn a_reader_that_is_gone_is_noticed() {
        let (reader, writer) = crate::attachment::pipe_pair().expect("pipe");
        let mut sink = Sink::new(writer).expect("sink");
        drop(reader);
        assert!(!sink.write(b"x"));
    }
}
