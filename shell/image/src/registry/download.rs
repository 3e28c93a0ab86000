//! Downloads of layers, shared by all who want the same one at the same time: one connection per layer, a bounded number at a
//! time, cut connections taken up where they broke, the digest checked while the bytes arrive. A download that nobody waits for
//! any more ends, and its file with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::archive::mismatch;
use crate::digest::Digest;
use crate::error::{Error, IoContext as _, Result};
use crate::layout::Staging;
use crate::registry::error::RegistryError;
use crate::registry::session::{Ask, Session, innermost, refusal};
use crate::store::ImageStore;

/// Layers that are downloaded at a time, over all pulls (Docker's default).
pub(crate) const DOWNLOADS: usize = 3;
/// Failures in a row without a new byte after which a download is given up (Docker's `max-download-attempts`).
const FAILURES_MAX: u32 = 5;
/// Failures after which it is given up even when each attempt brought something.
const ATTEMPTS_MAX: u32 = 200;
/// How long a connection may bring nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// The first wait before a new attempt; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Bytes between two reports.
const REPORT_STEP: u64 = 512 << 10;

/// How a download goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Others go first.
    Waiting,
    /// Bytes so far.
    Running(u64),
    /// All bytes are there and right.
    Done,
    /// It is given up.
    Failed(Failure),
}

/// A failure that can be told to several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    Registry(RegistryError),
    Digest { expected: Digest, actual: Digest },
    Io { action: &'static str, path: PathBuf, kind: std::io::ErrorKind, text: String },
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Registry(error) => Error::Registry(error),
            Failure::Digest { expected, actual } => mismatch("filesystem layer", expected, actual),
            Failure::Io { action, path, kind, text } => {
                Error::Io { action, path, source: std::io::Error::new(kind, text) }
            }
        }
    }
}

/// A layer's archive on its way. Dropping the last handle ends it and removes the file.
pub(crate) struct Download {
    pub(crate) state: watch::Receiver<State>,
    staging: Arc<Staging>,
    _cancel: DropGuard,
}

impl Download {
    /// The file, once it is done.
    pub(crate) fn path(&self) -> PathBuf {
        file_in(&self.staging)
    }
}

fn file_in(staging: &Staging) -> PathBuf {
    staging.path().join("blob")
}

/// All downloads of a store.
pub(crate) struct Downloads {
    active: Mutex<BTreeMap<Digest, Weak<Download>>>,
    turns: Arc<Semaphore>,
}

impl Default for Downloads {
    fn default() -> Self {
        Self { active: Mutex::default(), turns: Arc::new(Semaphore::new(DOWNLOADS)) }
    }
}

impl Downloads {
    /// Joins the download of a layer, or begins it.
    pub(crate) fn join(
        &self,
        store: &ImageStore,
        session: &Arc<Session>,
        digest: Digest,
        size: u64,
    ) -> Result<Arc<Download>> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|_, download| download.strong_count() > 0);
        if let Some(known) = active.get(&digest).and_then(Weak::upgrade)
            && !matches!(*known.state.borrow(), State::Failed(_))
        {
            return Ok(known);
        }
        let staging = Arc::new(store.layout().staging()?);
        let (sender, state) = watch::channel(State::Waiting);
        let cancel = CancellationToken::new();
        let job = Job { session: session.clone(), staging: staging.clone(), digest, size, state: sender };
        let (turns, cancelled) = (self.turns.clone(), cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = job.run(turns) => {}
            }
        });
        let download = Arc::new(Download { state, staging, _cancel: cancel.drop_guard() });
        active.insert(digest, Arc::downgrade(&download));
        Ok(download)
    }
}

/// What the background task has.
struct Job {
    session: Arc<Session>,
    staging: Arc<Staging>,
    digest: Digest,
    size: u64,
    state: watch::Sender<State>,
}

/// What is on disk.
struct Partial {
    file: tokio::fs::File,
    hasher: Sha256,
    bytes: u64,
}

impl Job {
    async fn run(self, turns: Arc<Semaphore>) {
        let Ok(_turn) = turns.acquire_owned().await else { return };
        let state = match self.attempts().await {
            Ok(()) => State::Done,
            Err(failure) => State::Failed(failure),
        };
        self.state.send_replace(state);
    }

    async fn attempts(&self) -> Result<(), Failure> {
        let path = file_in(&self.staging);
        let file = tokio::fs::File::create(&path).await;
        let file = file.map_err(|error| io_failure("create", &path, &error))?;
        let mut partial = Partial { file, hasher: Sha256::new(), bytes: 0 };
        self.state.send_replace(State::Running(0));
        let (mut failures, mut pause) = (0, PAUSE_MIN);
        for _ in 0..ATTEMPTS_MAX {
            let before = partial.bytes;
            let result = self.attempt(&mut partial, &path).await;
            let failure = match result {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let is_passing = match &failure {
                Failure::Registry(error) => error.is_passing(),
                // Once more from the start: a proxy may have kept something broken.
                Failure::Digest { .. } => true,
                Failure::Io { .. } => false,
            };
            if matches!(failure, Failure::Digest { .. }) {
                failures += FAILURES_MAX / 2;
                restart(&mut partial, &path).await?;
            } else if partial.bytes > before {
                (failures, pause) = (0, PAUSE_MIN);
            }
            failures += 1;
            if !is_passing || failures >= FAILURES_MAX {
                return Err(failure);
            }
            tracing::debug!(digest = %self.digest, bytes = partial.bytes, ?failure, "download of a layer is tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(Failure::Registry(RegistryError::Cut(format!("download of {} was cut too often", self.digest))))
    }

    /// One connection: from what is there to the end.
    async fn attempt(&self, partial: &mut Partial, path: &Path) -> Result<(), Failure> {
        if partial.bytes < self.size || partial.bytes == 0 {
            self.fetch(partial, path).await?;
        }
        let actual = Digest::from_hasher(partial.hasher.clone());
        if actual != self.digest || partial.bytes != self.size {
            return Err(Failure::Digest { expected: self.digest, actual });
        }
        partial.file.flush().await.map_err(|error| io_failure("write", path, &error))
    }

    async fn fetch(&self, partial: &mut Partial, path: &Path) -> Result<(), Failure> {
        let url = self.session.url(&format!("blobs/{}", self.digest));
        let mut ask = Ask::default();
        // Bytes that are counted must be the bytes that are stored.
        ask.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if partial.bytes > 0 {
            let range = format!("bytes={}-", partial.bytes);
            ask.headers.insert(header::RANGE, HeaderValue::from_str(&range).expect("digits are a header's value"));
        }
        let answer = self.session.send(Method::GET, &url, ask).await.map_err(Failure::Registry)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(answer.headers(), partial.bytes) => {}
            StatusCode::OK => {
                if partial.bytes > 0 {
                    restart(partial, path).await?;
                }
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                restart(partial, path).await?;
                return Err(cut("the registry cannot resume"));
            }
            _ => return Err(Failure::Registry(refusal(answer).await)),
        }
        let mut body = answer.into_body();
        let mut reported = partial.bytes;
        while partial.bytes < self.size {
            let frame = match timeout(SILENCE, body.frame()).await {
                Err(_) => return Err(cut("nothing arrives")),
                Ok(None) => return Err(cut("unexpected EOF")),
                Ok(Some(Err(error))) => return Err(cut(&innermost(&error))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            if partial.bytes + bytes.len() as u64 > self.size {
                let text = format!("layer {} is larger than the {} bytes of its manifest", self.digest, self.size);
                return Err(Failure::Registry(RegistryError::Damaged(text)));
            }
            partial.file.write_all(&bytes).await.map_err(|error| io_failure("write", path, &error))?;
            partial.hasher.update(&bytes);
            partial.bytes += bytes.len() as u64;
            if partial.bytes >= reported + REPORT_STEP || partial.bytes == self.size {
                reported = partial.bytes;
                self.state.send_replace(State::Running(reported));
            }
        }
        // What is written in the background must have been written.
        partial.file.flush().await.map_err(|error| io_failure("write", path, &error))
    }
}

fn cut(why: &str) -> Failure {
    Failure::Registry(RegistryError::Cut(why.to_owned()))
}

async fn restart(partial: &mut Partial, path: &Path) -> Result<(), Failure> {
    let emptied = async {
        partial.file.set_len(0).await?;
        partial.file.seek(std::io::SeekFrom::Start(0)).await.map(drop)
    };
    emptied.await.map_err(|error| io_failure("write", path, &error))?;
    (partial.hasher, partial.bytes) = (Sha256::new(), 0);
    Ok(())
}

fn begins_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
    first == Some(offset)
}

fn io_failure(action: &'static str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Io { action, path: path.to_owned(), kind: error.kind(), text: error.to_string() }
}

/// Gives a finished download a second name in another temporary directory, where it outlives the download.
pub(crate) fn keep(download: &Download, path: &Path) -> Result<()> {
    match std::fs::hard_link(download.path(), path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).at("link", path),
        _ => Ok(()),
    }
}
