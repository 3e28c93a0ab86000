//! What the API needs of the engine for containers that are made by hand, and the real engine behind it.

mod host;
mod limits;
mod ports;
mod storage;
mod wanted;

use std::time::Duration;

use async_trait::async_trait;
use skep_api_types::{ContainerCreate, ContainerCreated, ContainersPruned};

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
    /// Removes those that do not run.
    async fn prune(&self, filter: skep_engine::PruneFilter) -> Result<ContainersPruned, EngineError>;
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

    async fn prune(&self, filter: skep_engine::PruneFilter) -> Result<ContainersPruned, EngineError> {
        let pruned = skep_engine::Engine::prune(self, filter).await?;
        let deleted = (!pruned.containers.is_empty()).then_some(pruned.containers);
        Ok(ContainersPruned { containers_deleted: deleted, space_reclaimed: pruned.reclaimed })
    }
}
