//! What the API needs of this machine's engine. [`skep_engine::Engine`] implements it in [`adapter`]; tests have a fake.

mod adapter;
mod by_hand;
mod images;
mod inspect;
mod networks;
mod observe;
mod volumes;

pub(crate) use adapter::console_size;
pub use images::{ArchiveBytes, ImagePrune, ImagePull, Images, ProgressLines};
pub use observe::{Download, Observe};

pub use by_hand::{AttachStreams, ByHand};

use std::pin::Pin;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use skep_api_types::{ContainerInspect, ExecConfig, ExecInspect};
use tokio::io::{AsyncRead, AsyncWrite};

pub use networks::{EndpointWish, NetworkWish, Networks};
pub(crate) use volumes::is_anonymous;
pub use volumes::{VolumeFilter, Volumes};

use crate::cluster::{LogLine, LogOptions};

/// A stream of an uploaded archive.
pub type Archive = Pin<Box<dyn AsyncRead + Send>>;

/// One machine's containers, images and networks. Names of containers may be ids, names or unambiguous id prefixes.
#[async_trait]
pub trait Engine: ByHand + Images + Observe + Volumes + Networks {
    /// What this machine is and has.
    async fn facts(&self) -> EngineFacts;

    /// All containers, newest first.
    fn containers(&self) -> Vec<ContainerInspect>;
    /// One container.
    fn container(&self, name: &str) -> Result<ContainerInspect, EngineError>;
    /// Sends a signal; empty is SIGKILL.
    async fn kill(&self, name: &str, signal: &str) -> Result<(), EngineError>;
    /// Stop signal, grace in seconds (negative is without end), SIGKILL; `None` is the container's own.
    async fn stop(&self, name: &str, signal: Option<&str>, grace: Option<i64>) -> Result<(), EngineError>;
    /// Removes a container; a running one only by force. With `volumes` those that nobody named go, too.
    async fn remove(&self, name: &str, force: bool, volumes: bool) -> Result<(), EngineError>;
    /// Waits for an end; the container is looked up at once.
    fn wait(&self, name: &str, condition: WaitCondition) -> Result<BoxFuture<'static, Ended>, EngineError>;
    /// Output, line by line.
    fn logs(&self, name: &str, options: LogOptions)
    -> Result<BoxStream<'static, Result<LogLine, String>>, EngineError>;

    /// Prepares a program to be run in a container; gives its id.
    fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String, EngineError>;
    /// Runs it; rows and columns of its terminal may be given only now.
    async fn exec_start(&self, exec: &str, size: Option<[u16; 2]>) -> Result<ExecStreams, EngineError>;
    /// How it goes.
    fn exec_inspect(&self, exec: &str) -> Result<ExecInspect, EngineError>;
}

/// What this machine is and has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are those of Docker's SystemInfo and documented there")]
pub struct EngineFacts {
    pub hostname: String,
    pub architecture: String,
    pub operating_system: String,
    pub kernel_version: String,
    pub cpus: usize,
    pub memory: i64,
    pub cgroup_version: String,
    pub cgroup_driver: String,
    pub containers_running: usize,
    pub containers_paused: usize,
    pub containers_stopped: usize,
    pub backing: String,
    pub os_version: String,
    pub images: usize,
    pub data_root: String,
    pub warnings: Vec<String>,
    pub seccomp: bool,
    pub memory_limit: bool,
    pub cpu_limit: bool,
    pub pids_limit: bool,
}

/// Which end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run.
    #[default]
    NotRunning,
    /// The next end after the call.
    NextExit,
    /// It is deleted.
    Removed,
}

/// An end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    /// Exit code.
    pub exit_code: i64,
    /// Why it could not be run, if so.
    pub error: Option<String>,
}

/// The streams of a program that was started in a container.
pub struct ExecStreams {
    /// Its input, if wanted; dropping it ends the input.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Its output, if wanted.
    pub stdout: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Its error output, if wanted.
    pub stderr: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Resolves when it has ended and its exit code can be inspected.
    pub exit: BoxFuture<'static, i32>,
}

/// What an import is told beside the archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageImport {
    /// Name to give; empty for none.
    pub repository: String,
    /// Tag to give; empty for `latest`.
    pub tag: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// A remark.
    pub message: String,
    /// `os/architecture[/variant]`; empty is this machine's.
    pub platform: String,
}

/// Why the engine refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct EngineError {
    /// Its class.
    pub kind: ErrorKind,
    /// For people; Docker's where Docker has one.
    pub text: String,
}

impl EngineError {
    /// A refusal.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// Classes of the engine's failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not there.
    NotFound,
    /// The state does not allow it.
    Conflict,
    /// The input is wrong.
    Invalid,
    /// A registry does not know who asks.
    Unauthorized,
    /// It is not allowed.
    Forbidden,
    /// It is so already.
    NotModified,
    /// A program could not be started, which its exit code tells, too.
    Start,
    /// Not supported.
    Unsupported,
    /// The machine failed.
    Internal,
}
