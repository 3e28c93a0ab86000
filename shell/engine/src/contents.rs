//! What lies in the secrets and configs of a container: held in memory from the order to start it until it has started, laid
//! into files that are in memory, too, and written nowhere else.

use skep_agent::{Assignment, Payload, TemplateContext};
use skep_model::{ConfigId, ObjectId as _, SecretId};
use skep_oci::{MemoryFile, MemoryFiles};

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{At, EngineError, Result};
use crate::record::FileRecord;
use crate::view::ContainerState;

/// The contents of a container's files, in the order of its record.
pub(crate) struct Contents(Vec<Vec<u8>>);

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contents({} files)", self.0.len())
    }
}

impl Contents {
    /// Fills in what the managers sent for a task.
    pub(crate) fn of_task(assignment: &Assignment, files: &[FileRecord], inner: &Inner) -> Result<Self> {
        let context = TemplateContext::of_payloads(assignment, &inner.hostname, &inner.platform);
        let content = |file: &FileRecord| {
            let payload = find(assignment, file).ok_or_else(|| {
                EngineError::Invalid(format!("{} not found: {} was removed from the swarm", file.kind, file.name))
            })?;
            context.expand_payload(payload, file.is_secret()).map_err(|error| EngineError::Invalid(error.to_string()))
        };
        files.iter().map(content).collect::<Result<_>>().map(Self)
    }

    /// Lays them into files in memory. Blocks.
    pub(crate) fn lay_out(&self, files: &[FileRecord]) -> Result<MemoryFiles> {
        let files: Vec<MemoryFile<'_>> = files
            .iter()
            .zip(&self.0)
            .map(|(file, data)| MemoryFile { data, uid: file.uid, gid: file.gid, mode: file.mode })
            .collect();
        MemoryFiles::create(&files).at("make", "files in memory for the container's secrets and configs")
    }
}

fn find<'a>(assignment: &'a Assignment, file: &FileRecord) -> Option<&'a Payload> {
    let payload = if file.is_secret() {
        assignment.secrets.get(&SecretId::parse(&file.id).ok()?)
    } else {
        assignment.configs.get(&ConfigId::parse(&file.id).ok()?)
    };
    payload.map(|payload| &**payload)
}

impl Inner {
    /// Gives a container of a task that is about to start what its files shall hold.
    pub(crate) fn provide_contents(&self, container: &Container, assignment: &Assignment) -> Result<()> {
        let files = &container.record.files;
        if files.is_empty() || container.state() != ContainerState::Created {
            return Ok(());
        }
        container.hold_contents(Contents::of_task(assignment, files, self)?);
        Ok(())
    }

    /// The files in memory of a container that starts, if it has any.
    pub(crate) fn lay_out_contents(&self, container: &Container) -> Result<Option<MemoryFiles>> {
        let files = &container.record.files;
        if files.is_empty() {
            return Ok(None);
        }
        let Some(contents) = container.take_contents() else {
            return Err(EngineError::Conflict(format!(
                "cannot start container {}: its secrets and configs come with its task and are not kept; scale or update \
                 the service instead",
                container.record.name
            )));
        };
        contents.lay_out(files).map(Some)
    }
}
