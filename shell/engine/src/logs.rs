//! Reads logs, of both of Docker's drivers that keep files: from a point in time, the last lines, and on as they grow, also across rotation. Each reader is a
//! light task with one bounded buffer; nothing of a log is held in memory but the piece that is on its way.

mod cursor;
mod decoder;
mod file;
mod line;
mod seek;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::view::ContainerState;
use cursor::Cursor;

pub use line::{LogLine, LogStream, parse_time};

/// How often a follower looks for new lines.
const POLL: Duration = Duration::from_millis(100);
/// Lines that wait for a slow reader; then reading stops until it has caught up.
const BUFFERED_LINES: usize = 256;

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Not older than this, nanoseconds since the Unix epoch.
    pub since: Option<i64>,
    /// Not newer than this, nanoseconds since the Unix epoch.
    pub until: Option<i64>,
    /// Only so many of the last lines (counted before the other conditions, as Docker does).
    pub tail: Option<u64>,
    /// Go on until the container has ended.
    pub follow: bool,
}

impl Default for LogOptions {
    /// Everything there is.
    fn default() -> Self {
        Self { stdout: true, stderr: true, since: None, until: None, tail: None, follow: false }
    }
}

/// Gives lines one by one.
#[derive(Debug)]
pub struct LogReader(mpsc::Receiver<Result<LogLine>>);

impl LogReader {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<LogLine>> {
        self.0.recv().await
    }

    /// The channel that the lines come from.
    #[must_use]
    pub fn into_receiver(self) -> mpsc::Receiver<Result<LogLine>> {
        self.0
    }

    pub(crate) fn open(
        container: &Arc<Container>,
        options: LogOptions,
        closing: CancellationToken,
        tracker: &TaskTracker,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(BUFFERED_LINES);
        let container = container.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = sender.closed() => {}
                () = read(&container, options, &sender) => {}
            }
        });
        Self(receiver)
    }
}

async fn read(container: &Container, options: LogOptions, sender: &mpsc::Sender<Result<LogLine>>) {
    let Some(log) = container.record.config.log.clone() else { return };
    let (tail, since) = (options.tail, options.since);
    let mut watch = container.watch();
    let mut cursor = match blocking(move || Cursor::open(log.path, log.format, tail, since)).await {
        Ok(cursor) => cursor,
        Err(error) => return drop(sender.send(Err(error)).await),
    };
    loop {
        // Looked at before reading: what it wrote until it ended is then read, too.
        let ended = matches!(*watch.borrow_and_update(), ContainerState::Exited(_) | ContainerState::Removed);
        let piece = match blocking(move || cursor.read()).await {
            Ok((next, piece)) => {
                cursor = next;
                piece
            }
            Err(error) => return drop(sender.send(Err(error)).await),
        };
        for line in piece.lines {
            if options.until.is_some_and(|until| line.at > until) {
                return;
            }
            let wanted = match line.stream {
                LogStream::Stdout => options.stdout,
                LogStream::Stderr => options.stderr,
            };
            let young = options.since.is_none_or(|since| line.at >= since);
            if wanted && young && sender.send(Ok(line)).await.is_err() {
                return;
            }
        }
        if !piece.at_end {
            continue;
        }
        let past = options.until.is_some_and(|until| line::now() > until);
        if !options.follow || ended || past {
            return;
        }
        while let Err(_elapsed) = tokio::time::timeout(POLL, watch.changed()).await {
            if cursor.is_behind() || options.until.is_some_and(|until| line::now() > until) {
                break;
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Closing)?
}
