//! What a program writes, on its way to one client: the outputs of an exec or of a container as one stream of pieces.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::hijack::{Channel, frame};

/// How long, in all, output is waited for after the program has ended: what it left behind may hold the streams open for ever.
/// Sending to a slow client does not count.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Bytes of one stream that are passed on after the program has ended: more than a pipe holds, so that what it left behind
/// cannot go on for ever either.
const LAST_BYTES: usize = 2 << 20;
/// Pieces of output that wait for a slow client; then reading stops, and the program blocks.
const QUEUE: usize = 8;

type Output = Pin<Box<dyn AsyncRead + Send>>;

/// Both outputs in frames, or a terminal's as it is, until both have ended and the exit code is known; a little longer than the program at most.
pub(crate) fn collect(
    stdout: Option<Output>,
    stderr: Option<Output>,
    exit: BoxFuture<'static, i32>,
    tty: bool,
) -> BoxStream<'static, Bytes> {
    gather(stdout, stderr, exit, tty, LAST_OUTPUT)
}

/// Waits for `last` where [`collect`] has its own time.
fn gather(
    stdout: Option<Output>,
    stderr: Option<Output>,
    exit: BoxFuture<'static, i32>,
    tty: bool,
    last: Duration,
) -> BoxStream<'static, Bytes> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let ended = CancellationToken::new();
        let out = pump(stdout, Channel::Stdout, tty, &sender, (&ended, last));
        let err = pump(stderr, Channel::Stderr, tty, &sender, (&ended, last));
        let exit = async {
            exit.await;
            ended.cancel();
        };
        tokio::select! {
            _ = async { tokio::join!(out, err, exit) } => {}
            () = sender.closed() => {}
        }
    });
    stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) }).boxed()
}

async fn pump(
    output: Option<Output>,
    channel: Channel,
    tty: bool,
    sender: &mpsc::Sender<Bytes>,
    (ended, mut patience): (&CancellationToken, Duration),
) {
    let Some(output) = output else { return };
    let mut pieces = ReaderStream::with_capacity(output, 16 << 10);
    let mut bytes = 0;
    loop {
        let has_ended = ended.is_cancelled();
        let since = Instant::now();
        let silence = async {
            ended.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        let piece = tokio::select! {
            biased;
            piece = pieces.next() => piece,
            () = silence => return,
        };
        let Some(Ok(piece)) = piece else { return };
        if has_ended {
            patience = patience.saturating_sub(since.elapsed());
            bytes += piece.len();
        }
        let piece = if tty { piece } else { frame(channel, &piece) };
        if sender.send(piece).await.is_err() || bytes > LAST_BYTES {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn of_a_program_that_has_ended(output: tokio::io::DuplexStream) -> BoxStream<'static, Bytes> {
        gather(Some(Box::pin(output)), None, std::future::ready(0).boxed(), true, Duration::ZERO)
    }

    #[tokio::test]
    async fn a_slow_client_gets_all_that_a_program_wrote() {
        let (mut left_behind, output) = tokio::io::duplex(1 << 20);
        left_behind.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        let mut pieces = of_a_program_that_has_ended(output);
        let mut got = 0;
        while let Some(piece) = pieces.next().await {
            got += piece.len();
            tokio::task::yield_now().await;
        }
        assert_eq!(got, 1 << 20);
        drop(left_behind);
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_does_not_go_on_for_ever() {
        let (mut left_behind, output) = tokio::io::duplex(4096);
        let writer = tokio::spawn(async move { while left_behind.write_all(&[b'x'; 1024]).await.is_ok() {} });
        let taken = collect(Some(Box::pin(output)), None, std::future::ready(0).boxed(), true).count().await;
        assert!(taken > 1);
        writer.await.unwrap();
    }
}
