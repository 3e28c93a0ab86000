//! The socket's side of a shim: connections that never block the loop. A client that does not read loses its
//! connection once its answers reach a bound; so does one that sends too long a frame.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::MsgFlags;

use super::terminal;
use crate::protocol::{Answer, FRAME_MAX, Hello, Op, PROTOCOL_VERSION, Reply, Request, frame};

/// Connections at once; more are closed as they come.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of answers that wait for one client.
const OUT_MAX: usize = 256 * 1024;
/// Descriptors that wait for their frame.
const FDS_MAX: usize = 12;

/// A client's connection; its number is never used again.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) stream: UnixStream,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    output: Vec<u8>,
    broken: bool,
}

impl Connection {
    pub(super) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes the descriptors that came with a request; none when there are not as many.
    fn take(&mut self, count: usize) -> Vec<OwnedFd> {
        if self.fds.len() < count { Vec::new() } else { self.fds.drain(..count).collect() }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let (count, fds) = match terminal::receive(self.stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            other => other?,
        };
        self.fds.extend(fds);
        if count == 0 || self.fds.len() > FDS_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.input.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// The next complete frame.
    fn next(&mut self) -> io::Result<Option<Request>> {
        let Some((head, rest)) = self.input.split_at_checked(4) else { return Ok(None) };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > FRAME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let request = serde_json::from_slice(body)?;
        self.input.drain(..4 + length);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(Some(request))
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) if count > 0 => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    self.broken = true;
                    return;
                }
            }
        }
        self.output = Vec::new();
    }
}

/// A request with the connection it came on.
pub(super) struct Asked {
    pub(super) connection: u64,
    pub(super) request: Request,
    /// The descriptors that came with it.
    pub(super) fds: Vec<OwnedFd>,
}

/// All connections.
pub(super) struct Server {
    pub(super) listener: UnixListener,
    pub(super) connections: Vec<Connection>,
    next: u64,
}

impl Server {
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: Vec::new(), next: 0 })
    }

    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.connections.len() >= CONNECTIONS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.next += 1;
            let mut connection = Connection {
                number: self.next,
                stream,
                input: Vec::new(),
                fds: VecDeque::new(),
                output: frame(&Hello { version: PROTOCOL_VERSION }).unwrap_or_default(),
                broken: false,
            };
            connection.flush();
            self.connections.push(connection);
        }
    }

    /// Reads what a client sent; answers the complete requests.
    pub(super) fn read(&mut self, number: u64) -> Vec<Asked> {
        let mut all = Vec::new();
        let Some(connection) = self.find(number) else { return all };
        let mut good = connection.receive().is_ok();
        while good {
            match connection.next() {
                Ok(Some(request)) => {
                    let count = match &request.op {
                        Op::Exec(_) => 3,
                        Op::Attach(streams) => streams.count(),
                        _ => 0,
                    };
                    all.push(Asked { connection: number, fds: connection.take(count), request });
                }
                Ok(None) => break,
                Err(_) => good = false,
            }
        }
        connection.broken |= !good;
        all
    }

    pub(super) fn write(&mut self, number: u64) {
        if let Some(connection) = self.find(number) {
            connection.flush();
        }
    }

    /// Sends an answer; a client that is gone gets none.
    pub(super) fn answer(&mut self, number: u64, seq: u64, answer: Answer) {
        let Some(connection) = self.find(number) else { return };
        match frame(&Reply { seq, answer }) {
            Ok(bytes) if connection.output.len() + bytes.len() <= OUT_MAX => {
                connection.output.extend_from_slice(&bytes);
                connection.flush();
            }
            _ => connection.broken = true,
        }
    }

    /// Forgets clients that are gone or misbehaved.
    pub(super) fn sweep(&mut self) {
        self.connections.retain(|connection| !connection.broken);
    }

    fn find(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Streams;

    /// Every byte of every request changed, and every length: refused or understood as something else, and never more than
    /// was sent.
    #[test]
    fn damaged_frames_do_no_harm() {
        let streams = Streams { stdin: true, stdout: true, stderr: false };
        let operations = [Op::State, Op::Kill { signal: 9 }, Op::Attach(streams), Op::Exec(Default::default())];
        for op in operations {
            let whole = frame(&Request { seq: 1, op }).expect("short");
            for index in 0..whole.len() {
                for value in [0, 1, b'"', b'{', b'9', 0x7f, 0xff] {
                    let mut bytes = whole.repeat(2);
                    bytes[index] = value;
                    assert!(requests(bytes) <= 2);
                }
                assert_eq!(requests(whole[..index].to_vec()), 0);
            }
            assert_eq!(requests(whole.repeat(3)), 3);
        }
    }

    fn requests(input: Vec<u8>) -> usize {
        let (stream, _other) = UnixStream::pair().expect("a pair");
        let (fds, output) = (VecDeque::new(), Vec::new());
        let mut connection = Connection { number: 1, stream, input, fds, output, broken: false };
        let mut count = 0;
        while let Ok(Some(_)) = connection.next() {
            count += 1;
        }
        count
    }
}
