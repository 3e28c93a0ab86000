//! The keys with which a client leaves a terminal without ending what runs in it: they are looked for in its input, and not passed
//! on once they are complete (Docker: `ctrl-p,ctrl-q` unless something else is asked for).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

use crate::hijack::Input;

/// ctrl-p, ctrl-q.
const DEFAULT: [u8; 2] = [16, 17];

/// Reads `a,ctrl-b,…`; empty is the default.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(DEFAULT.to_vec());
    }
    let key = |key: &str| match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
        ([one], _) => Some(*one),
        (_, Some([letter @ b'a'..=b'z'])) => Some(letter - b'a' + 1),
        (_, Some(b"@")) => Some(0),
        (_, Some(b"[")) => Some(27),
        (_, Some(b"\\")) => Some(28),
        (_, Some(b"]")) => Some(29),
        (_, Some(b"^")) => Some(30),
        (_, Some(b"_")) => Some(31),
        _ => None,
    };
    text.split(',').map(|part| key(part).ok_or_else(|| format!("Unknown character: '{part}'"))).collect()
}

/// An input that cancels `left` instead of passing the keys on.
pub(crate) struct Leaving {
    input: Input,
    keys: Vec<u8>,
    matched: usize,
    left: CancellationToken,
    /// What is to be passed on before anything else is taken.
    pending: Vec<u8>,
}

impl Leaving {
    pub(crate) fn new(input: Input, keys: Vec<u8>, left: CancellationToken) -> Self {
        Self { input, keys, matched: 0, left, pending: Vec::new() }
    }

    /// Passes on what waits.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            match self.input.as_mut().poll_write(context, &self.pending) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => drop(self.pending.drain(..count)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return self.left.cancel();
                }
            } else {
                // What looked like the beginning of the keys was ordinary input.
                self.pending.extend_from_slice(&self.keys[..self.matched]);
                self.matched = usize::from(self.keys.first() == Some(byte));
                if self.matched == 0 {
                    self.pending.push(*byte);
                }
            }
        }
    }
}

impl AsyncWrite for Leaving {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.drain(context))?;
        if !self.left.is_cancelled() {
            self.take(bytes);
        }
        // Whatever does not go now goes with the next write or flush.
        if let Poll::Ready(Err(error)) = self.drain(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.drain(context))?;
        self.input.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.drain(context))?;
        self.input.as_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn keys_are_letters_and_controls() {
        assert_eq!(parse(""), Ok(vec![16, 17]));
        assert_eq!(parse("a,ctrl-b,ctrl-["), Ok(vec![b'a', 2, 27]));
        assert_eq!(parse("ctrl-a,foo").unwrap_err(), "Unknown character: 'foo'");
    }

    #[tokio::test]
    async fn only_the_whole_sequence_leaves() {
        let (input, mut program) = tokio::io::duplex(64);
        let left = CancellationToken::new();
        let mut leaving = Leaving::new(Box::pin(input), vec![16, 17], left.clone());
        for piece in [&b"a\x10"[..], b"b\x10", b"\x10c"] {
            leaving.write_all(piece).await.unwrap();
            leaving.flush().await.unwrap();
        }
        assert!(!left.is_cancelled());
        leaving.write_all(b"\x10\x11never").await.unwrap();
        assert!(left.is_cancelled());
        leaving.flush().await.unwrap();
        drop(leaving);
        let mut got = Vec::new();
        program.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"a\x10b\x10\x10c");
    }
}
