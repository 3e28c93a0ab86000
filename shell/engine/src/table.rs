//! All containers of the machine, found by id, id prefix, name or task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_model::TaskId;

use crate::container::Container;
use crate::error::{EngineError, Result};

#[derive(Debug, Default)]
pub(crate) struct Table(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    by_id: BTreeMap<String, Arc<Container>>,
    by_name: BTreeMap<String, String>,
    by_task: BTreeMap<TaskId, String>,
}

impl Rows {
    fn refuse_taken(&self, name: &str) -> Result<()> {
        let Some(other) = self.by_name.get(name) else { return Ok(()) };
        Err(EngineError::Conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{other}\". You have to remove \
             (or rename) that container to be able to reuse that name."
        )))
    }
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a container; its name must be free.
    pub(crate) fn insert(&self, container: Arc<Container>) -> Result<()> {
        let mut rows = self.rows();
        let (record, name) = (&container.record, container.name());
        rows.refuse_taken(&name)?;
        rows.by_name.insert(name, record.id.clone());
        if let Some(task) = record.task_id() {
            rows.by_task.insert(task, record.id.clone());
        }
        rows.by_id.insert(record.id.clone(), container);
        Ok(())
    }

    pub(crate) fn remove(&self, container: &Container) {
        let mut rows = self.rows();
        let record = &container.record;
        rows.by_id.remove(&record.id);
        rows.by_name.retain(|_, id| *id != record.id);
        if let Some(task) = record.task_id() {
            rows.by_task.remove(&task);
        }
    }

    /// Gives a container a further name, which must be free, until [`Self::settle_name`].
    pub(crate) fn add_name(&self, container: &Container, name: &str) -> Result<()> {
        let mut rows = self.rows();
        rows.refuse_taken(name)?;
        rows.by_name.insert(name.to_owned(), container.id().to_owned());
        Ok(())
    }

    /// Takes all names of a container away but its own.
    pub(crate) fn settle_name(&self, container: &Container) {
        let name = container.name();
        self.rows().by_name.retain(|known, id| id != container.id() || *known == name);
    }

    /// All containers, newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.rows().by_id.values().cloned().collect();
        all.sort_by(|a, b| b.record.created_at.cmp(&a.record.created_at).then_with(|| a.id().cmp(b.id())));
        all
    }

    pub(crate) fn of_task(&self, task: TaskId) -> Option<Arc<Container>> {
        let rows = self.rows();
        rows.by_id.get(rows.by_task.get(&task)?).cloned()
    }

    pub(crate) fn tasks(&self) -> Vec<TaskId> {
        self.rows().by_task.keys().copied().collect()
    }

    /// Full id, then name, then unambiguous id prefix, as in Docker.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>> {
        let rows = self.rows();
        let wanted = name.strip_prefix('/').unwrap_or(name);
        let exact = rows.by_id.get(wanted).or_else(|| rows.by_id.get(rows.by_name.get(wanted)?));
        if let Some(container) = exact {
            return Ok(container.clone());
        }
        let shown: String = name.chars().take(200).collect();
        if wanted.is_empty() {
            return Err(EngineError::NoSuchContainer(shown));
        }
        let mut matches = rows.by_id.range(wanted.to_owned()..).take_while(|(id, _)| id.starts_with(wanted));
        match (matches.next(), matches.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (None, _) => Err(EngineError::NoSuchContainer(shown)),
            (Some(_), Some(_)) => Err(EngineError::Ambiguous(shown)),
        }
    }
}
