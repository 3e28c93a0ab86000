//! What the API needs of the engine for containers that are made by hand, and the real engine behind it.

mod host;
mod limits;
mod networks;
mod ports;
mod storage;
mod wanted;

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use skep_api_types::{ContainerCreate, ContainerCreated, ContainerUpdate, ContainerUpdated, ContainersPruned};
use tokio::io::{AsyncRead, AsyncWrite};

use super::adapter::FOREVER;
use super::{EngineError, ErrorKind};

/// Containers made by hand. Names may be ids, names or unambiguous id prefixes.
#[async_trait]
pub trait ByHand {
    /// Makes a container; without a name one is found.
    async fn create(
        &self,
        name: &str,
        platform: &str,
        create: ContainerCreate,
    ) -> Result<ContainerCreated, EngineError>;
    /// Starts one that does not run.
    async fn start(&self, name: &str) -> Result<(), EngineError>;
    /// Stop signal, grace in seconds (negative is without end), SIGKILL, start; `None` is the container's own.
    async fn restart(&self, name: &str, signal: Option<&str>, grace: Option<i64>) -> Result<(), EngineError>;
    /// Freezes it.
    async fn pause(&self, name: &str) -> Result<(), EngineError>;
    /// Lets it go on.
    async fn unpause(&self, name: &str) -> Result<(), EngineError>;
    /// Gives it another name.
    async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError>;
    /// Changes its limits and restart policy.
    async fn update(&self, name: &str, update: ContainerUpdate) -> Result<ContainerUpdated, EngineError>;
    /// Attaches to its output from now on, or from its next start on, and with `stdin` to its input.
    async fn attach(&self, name: &str, stdin: bool) -> Result<AttachStreams, EngineError>;
    /// Sets the size of its terminal.
    async fn resize(&self, name: &str, rows: u16, cols: u16) -> Result<(), EngineError>;
    /// Removes those that do not run.
    async fn prune(&self, filter: skep_engine::PruneFilter) -> Result<ContainersPruned, EngineError>;
}

/// A client's end of a container's streams.
pub struct AttachStreams {
    /// Its input, if it was asked for and there is one; dropping it is the end of this client's input.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Its output, or its terminal.
    pub stdout: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Its error output; none with a terminal.
    pub stderr: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// To be kept as long as the client is there.
    pub here: Box<dyn Send>,
}

/// A start that failed: 400 when its program cannot be run, else 500, as Docker has it.
fn start_failure(failure: skep_engine::EngineError) -> EngineError {
    let not_the_program =
        matches!(failure, skep_engine::EngineError::Start { exit_code, .. } if !matches!(exit_code, 126 | 127));
    let mut error = EngineError::from(failure);
    if not_the_program {
        error.kind = ErrorKind::Internal;
    }
    error
}

#[async_trait]
impl ByHand for skep_engine::Engine {
    async fn create(
        &self,
        name: &str,
        platform: &str,
        create: ContainerCreate,
    ) -> Result<ContainerCreated, EngineError> {
        let machine = wanted::Machine {
            gateway: self.network().bridge().gateway.to_string(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            platform: platform.to_owned(),
        };
        let (wanted, warnings) = wanted::wanted(name, create, &machine)?;
        let id = skep_engine::Engine::create(self, wanted).await?;
        Ok(ContainerCreated { id, warnings })
    }

    async fn start(&self, name: &str) -> Result<(), EngineError> {
        skep_engine::Engine::start(self, name).await.map_err(start_failure)
    }

    async fn restart(&self, name: &str, signal: Option<&str>, grace: Option<i64>) -> Result<(), EngineError> {
        let grace = grace.map(|seconds| u64::try_from(seconds).map_or(FOREVER, Duration::from_secs));
        skep_engine::Engine::restart(self, name, signal, grace).await.map_err(start_failure)
    }

    async fn pause(&self, name: &str) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::pause(self, name).await?)
    }

    async fn unpause(&self, name: &str) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::unpause(self, name).await?)
    }

    async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::rename(self, name, new_name).await?)
    }

    async fn update(&self, name: &str, update: ContainerUpdate) -> Result<ContainerUpdated, EngineError> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let (update, warnings) = limits::update(update, cpus)?;
        skep_engine::Engine::update(self, name, update).await?;
        Ok(ContainerUpdated { warnings })
    }

    async fn attach(&self, name: &str, stdin: bool) -> Result<AttachStreams, EngineError> {
        let mut attached = skep_engine::Engine::attach(self, name, stdin).await?;
        Ok(AttachStreams {
            stdin: attached.streams.stdin.take().map(|stream| Box::pin(stream) as _),
            stdout: attached.streams.stdout.take().map(|stream| Box::pin(stream) as _),
            stderr: attached.streams.stderr.take().map(|stream| Box::pin(stream) as _),
            here: Box::new(attached),
        })
    }

    async fn resize(&self, name: &str, rows: u16, cols: u16) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::resize(self, name, rows, cols).await?)
    }

    async fn prune(&self, filter: skep_engine::PruneFilter) -> Result<ContainersPruned, EngineError> {
        let pruned = skep_engine::Engine::prune(self, filter).await?;
        let deleted = (!pruned.containers.is_empty()).then_some(pruned.containers);
        Ok(ContainersPruned { containers_deleted: deleted, space_reclaimed: pruned.reclaimed })
    }
}
