//! A client at a container's streams, and the size of its terminal.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::body::{Asked, Params, empty};
use crate::cluster::LogOptions;
use crate::engine::AttachStreams;
use crate::hijack::{Channel, Input, answer, frame, media_type};
use crate::logs::{LineStyle, container_lines};
use crate::{Api, ApiError};

/// Pieces of output that wait for a slow client; then reading stops.
const QUEUE: usize = 8;

/// With `logs=1` what was written before, with `stream=1` what comes. A container that does not run yet is waited for.
pub(crate) async fn attach(
    State(api): State<Api>,
    Asked(version): Asked,
    Path(name): Path<String>,
    query: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let container = api.engine.container(&name)?;
    let tty = container.config.tty;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    let keys = DetachKeys::parse(query.get("detachKeys").unwrap_or(""))?;
    let mut output: BoxStream<'static, Bytes> = stream::empty().boxed();
    let mut input: Option<Input> = None;
    let live = if query.flag("stream") {
        // By the name that was given: it is in the texts of refusals.
        let stdin = query.flag("stdin") && container.config.open_stdin;
        Some(api.engine.attach(&name, stdin).await?)
    } else {
        None
    };
    if query.flag("logs") {
        let options = LogOptions { stdout, stderr, ..LogOptions::default() };
        let style = LineStyle { timestamps: false, details: false, tty };
        output = output.chain(container_lines(api.engine.logs(&container.id, options)?, style)).boxed();
    }
    if let Some(AttachStreams { stdin, stdout: out, stderr: err, here }) = live {
        let detached = CancellationToken::new();
        input = stdin.map(|stdin| -> Input {
            if tty { Box::pin(Detaching { inner: stdin, keys, detached: detached.clone() }) } else { stdin }
        });
        // A terminal is one stream, whichever was asked for.
        let streams = [(out, Channel::Stdout, stdout || (tty && stderr)), (err, Channel::Stderr, stderr)];
        let stop = detached.cancelled_owned();
        output = output.chain(collect(streams, tty, here).take_until(stop)).boxed();
    }
    Ok(answer(request, media_type(version, tty), input, output))
}

pub(crate) async fn resize(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let number = |name: &str| {
        let text = query.get(name).unwrap_or("");
        text.parse::<u16>().map_err(|_| ApiError::invalid(format!("invalid resize {name}: {text:?} is not a size")))
    };
    api.engine.resize(&name, number("h")?, number("w")?).await?;
    Ok(empty())
}

type Output = Pin<Box<dyn AsyncRead + Send>>;

/// Both outputs until both have ended, those that are not wanted read and thrown away. Frames without a terminal.
fn collect(
    streams: [(Option<Output>, Channel, bool); 2],
    tty: bool,
    here: Box<dyn Send>,
) -> impl futures_util::Stream<Item = Bytes> + Send + use<> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let _here = here;
        let [out, err] = streams.map(|(output, channel, wanted)| pump(output, channel, wanted, tty, sender.clone()));
        let pumps = async { tokio::join!(out, err) };
        tokio::select! {
            _ = pumps => {}
            () = sender.closed() => {}
        }
    });
    stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) })
}

async fn pump(output: Option<Output>, channel: Channel, wanted: bool, tty: bool, sender: mpsc::Sender<Bytes>) {
    let Some(output) = output else { return };
    let mut pieces = ReaderStream::with_capacity(output, 16 << 10);
    while let Some(Ok(piece)) = pieces.next().await {
        let piece = if tty { piece } else { frame(channel, &piece) };
        if wanted && sender.send(piece).await.is_err() {
            return;
        }
    }
}

/// Keys that let a client go from a terminal and the container go on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed last.
    typed: usize,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`, `a,b`; empty is Docker's default.
    fn parse(text: &str) -> Result<Self, ApiError> {
        let given = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        let invalid = || ApiError::invalid(format!("invalid detach keys ({text}) provided"));
        let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
            (Some("@"), _) => Some(0),
            (Some("["), _) => Some(27),
            (Some("\\"), _) => Some(28),
            (Some("]"), _) => Some(29),
            (Some("^"), _) => Some(30),
            (Some("_"), _) => Some(31),
            (Some(letter), _) => match letter.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                _ => None,
            },
            (None, [letter]) => Some(*letter),
            (None, _) => None,
        };
        let keys = given.split(',').map(|word| key(word).ok_or_else(invalid)).collect::<Result<_, _>>()?;
        Ok(Self { keys, typed: 0 })
    }

    /// What of the typed bytes goes on to the container; true when all keys were typed.
    fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte != self.keys[self.typed] && self.typed > 0 {
                // It was something else: the container gets what was held back.
                through.extend_from_slice(&self.keys[..self.typed]);
                self.typed = 0;
            }
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return (through, true);
                }
            } else {
                through.push(*byte);
            }
        }
        (through, false)
    }
}

/// An input that notices the keys. The pipe behind it takes what little a person types at once; what it does not take is
/// offered again.
struct Detaching {
    inner: Input,
    keys: DetachKeys,
    detached: CancellationToken,
}

impl AsyncWrite for Detaching {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut keys = self.keys.clone();
        let held = keys.typed;
        let (through, detached) = keys.feed(bytes);
        if through.is_empty() {
            self.keys = keys;
        } else {
            let written = match self.inner.as_mut().poll_write(cx, &through) {
                Poll::Ready(Ok(written)) => written,
                other => return other,
            };
            if written < through.len() {
                // Some of what was held back may be among it: only whole input is taken for typed keys.
                self.keys.typed = 0;
                return Poll::Ready(Ok(written.saturating_sub(held).max(1).min(bytes.len())));
            }
            self.keys = keys;
        }
        if detached {
            self.detached.cancel();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.inner.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_let_go() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.keys, [16, 17]);
        assert_eq!(keys.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.feed(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.feed(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
        assert_eq!(DetachKeys::parse("a,ctrl-[").unwrap().keys, [b'a', 27]);
        assert!(DetachKeys::parse("ctrl-").is_err() && DetachKeys::parse("ab").is_err());
    }
}
