//! The fake engine, where containers are made by hand: it remembers what it was asked.

use async_trait::async_trait;
use skep_api_types::{ContainerCreate, ContainerCreated, ContainerUpdate, ContainerUpdated, ContainersPruned};
use skep_http_api::{AttachStreams, ByHand, EngineError, ErrorKind};

use super::FakeEngine;

#[async_trait]
impl ByHand for FakeEngine {
    async fn create(
        &self,
        name: &str,
        platform: &str,
        create: ContainerCreate,
    ) -> Result<ContainerCreated, EngineError> {
        if create.config.image != "box:1" {
            let text = format!("No such image: {}", create.config.image);
            return Err(EngineError::new(ErrorKind::NotFound, text));
        }
        self.did(format!("create {name} {platform} {:?}", create.config.cmd.unwrap_or_default()))?;
        Ok(ContainerCreated { id: "cd".repeat(32), warnings: Vec::new() })
    }
    async fn start(&self, name: &str) -> Result<(), EngineError> {
        self.did(format!("start {name}"))?;
        let kind = if self.fails_to_start { ErrorKind::Start } else { ErrorKind::NotModified };
        Err(EngineError::new(kind, "not started"))
    }
    async fn restart(&self, name: &str, signal: Option<&str>, grace: Option<i64>) -> Result<(), EngineError> {
        self.did(format!("restart {name} {signal:?} {grace:?}"))
    }
    async fn pause(&self, name: &str) -> Result<(), EngineError> {
        self.did(format!("pause {name}"))
    }
    async fn unpause(&self, name: &str) -> Result<(), EngineError> {
        self.did(format!("unpause {name}"))
    }
    async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        self.did(format!("rename {name} {new_name}"))
    }
    async fn update(&self, name: &str, update: ContainerUpdate) -> Result<ContainerUpdated, EngineError> {
        self.did(format!("update {name} {} {}", update.memory, update.restart_policy.name))?;
        Ok(ContainerUpdated::default())
    }
    async fn attach(&self, name: &str, stdin: bool) -> Result<AttachStreams, EngineError> {
        self.did(format!("attach {name} {stdin}"))?;
        Ok(AttachStreams {
            stdin: None,
            stdout: Some(Box::pin(&b"out\n"[..])),
            stderr: Some(Box::pin(&b"err\n"[..])),
            here: Box::new(()),
        })
    }
    async fn resize(&self, name: &str, rows: u16, cols: u16) -> Result<(), EngineError> {
        self.did(format!("resize {name} {rows} {cols}"))
    }
    async fn prune(&self, filter: skep_engine::PruneFilter) -> Result<ContainersPruned, EngineError> {
        self.did(format!("prune {:?} {:?}", filter.labels, filter.without_labels))?;
        Ok(ContainersPruned { containers_deleted: None, space_reclaimed: 7 })
    }
}
