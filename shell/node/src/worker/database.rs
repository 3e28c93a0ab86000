//! The worker's memory on disk: what it was told to run and how far each task is. A thread of its own writes; what comes in
//! while one write is on its way to the disk becomes the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database as Redb, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use skep_agent::{Assignment, AttachedNetwork, Credential, StoredTask};
use skep_model::{ObjectId as _, TaskId};
use skep_wire::{AssignedNetwork, AssignedTask, WorkerTask, decode_worker_task, encode_worker_task};
use tokio::sync::{mpsc, oneshot};

const TASKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tasks");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const VERSION: u64 = 1;
/// Writes that may wait; at the bound the agent waits with them.
const WRITES_MAX: usize = 256;
/// Pause before a write is tried again that failed; a message ends it.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_POLL: Duration = Duration::from_millis(20);

/// Why the worker's database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    /// It cannot be opened, read or written.
    #[error(
        "cannot use the worker's database {path:?}: {source}; it can be deleted when no task of the swarm runs here"
    )]
    Redb {
        /// Its path.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A newer skep wrote it.
    #[error(
        "worker's database {path:?} has version {found}, this skep reads up to {VERSION}: run the newer skep that wrote it"
    )]
    Newer {
        /// Its path.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A record in it cannot be read.
    #[error("cannot read task {task:?} in the worker's database {path:?}: {source}")]
    Record {
        /// Its path.
        path: PathBuf,
        /// The key of the record.
        task: String,
        /// Why.
        #[source]
        source: Box<skep_wire::DecodeError>,
    },
}

/// What to write: a task, or that it is forgotten.
type Writes = BTreeMap<TaskId, Option<StoredTask>>;

enum Message {
    Write(Writes),
    Close(oneshot::Sender<()>),
}

/// The database, open for writing. Dropping it lets the thread end when it has written everything.
#[derive(Debug)]
pub(crate) struct Database(mpsc::Sender<Message>);

impl Database {
    /// Opens or makes the database; answers with what it holds.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<StoredTask>), DatabaseError> {
        let at = |error: redb::Error| DatabaseError::Redb { path: path.to_owned(), source: Box::new(error) };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| at(redb::Error::Io(error)))?;
        }
        let redb = Redb::create(path).map_err(|error| at(error.into()))?;
        prepare(&redb, path)?;
        let tasks = read(&redb, path)?;
        let (sender, receiver) = mpsc::channel(WRITES_MAX);
        let shown = path.to_owned();
        std::thread::Builder::new()
            .name("worker-db".to_owned())
            .spawn(move || run(redb, &shown, receiver))
            .map_err(|error| at(redb::Error::Io(error)))?;
        Ok((Self(sender), tasks))
    }

    /// Hands changes to the thread; waits only while too many are ahead.
    pub(crate) async fn write(&self, forget: Vec<TaskId>, store: Vec<StoredTask>) {
        let forgotten = forget.into_iter().map(|task| (task, None));
        let stored = store.into_iter().map(|task| (task.assignment.task_id, Some(task)));
        let writes: Writes = forgotten.chain(stored).collect();
        if !writes.is_empty() && self.0.send(Message::Write(writes)).await.is_err() {
            tracing::error!("the worker's database is closed: what tasks did is not remembered");
        }
    }

    /// Waits until everything is on disk and the file is closed.
    pub(crate) async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.0.send(Message::Close(done)).await.is_ok() {
            // An error says that the thread has ended already.
            let _ = closed.await;
        }
    }
}

fn prepare(redb: &Redb, path: &Path) -> Result<(), DatabaseError> {
    let at = |error: redb::Error| DatabaseError::Redb { path: path.to_owned(), source: Box::new(error) };
    let transaction = redb.begin_write().map_err(|error| at(error.into()))?;
    {
        transaction.open_table(TASKS).map_err(|error| at(error.into()))?;
        let mut meta = transaction.open_table(META).map_err(|error| at(error.into()))?;
        let found = meta.get("version").map_err(|error| at(error.into()))?.map(|version| version.value());
        match found {
            None => {
                meta.insert("version", VERSION).map_err(|error| at(error.into()))?;
            }
            Some(VERSION) => {}
            Some(found) => return Err(DatabaseError::Newer { path: path.to_owned(), found }),
        }
    }
    transaction.commit().map_err(|error| at(error.into()))
}

fn read(redb: &Redb, path: &Path) -> Result<Vec<StoredTask>, DatabaseError> {
    let at = |error: redb::Error| DatabaseError::Redb { path: path.to_owned(), source: Box::new(error) };
    let transaction = redb.begin_read().map_err(|error| at(error.into()))?;
    let table = transaction.open_table(TASKS).map_err(|error| at(error.into()))?;
    let mut tasks = Vec::new();
    for row in table.iter().map_err(|error| at(error.into()))? {
        let (key, value) = row.map_err(|error| at(error.into()))?;
        let memory = decode_worker_task(value.value()).map_err(|source| DatabaseError::Record {
            path: path.to_owned(),
            task: key.value().to_owned(),
            source: Box::new(source),
        })?;
        tasks.push(stored(memory));
    }
    Ok(tasks)
}

fn run(redb: Redb, path: &Path, mut messages: mpsc::Receiver<Message>) {
    let mut redb = Some(redb);
    // What is to be written; it stays here until it is.
    let mut writes = Writes::new();
    loop {
        let first = if writes.is_empty() { messages.blocking_recv() } else { waiting(&mut messages) };
        let mut closing = None;
        let mut next = match first {
            Some(first) => Some(first),
            None if messages.is_closed() && messages.is_empty() => return,
            None => None,
        };
        while let Some(message) = next {
            match message {
                Message::Write(more) => writes.extend(more),
                Message::Close(done) => {
                    closing = Some(done);
                    break;
                }
            }
            next = messages.try_recv().ok();
        }
        match write_or_reopen(&mut redb, path, &writes) {
            Ok(()) => writes.clear(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the worker's database cannot be written, it is tried again");
            }
        }
        if let Some(done) = closing {
            // Closed first: whoever asked may open it again.
            drop(redb);
            // Nobody may be waiting any more.
            let _ = done.send(());
            return;
        }
    }
}

/// The next message, or `None` after a pause: something is still to be written that could not be.
fn waiting(messages: &mut mpsc::Receiver<Message>) -> Option<Message> {
    let until = Instant::now() + RETRY_PAUSE;
    while Instant::now() < until {
        if let Ok(message) = messages.try_recv() {
            return Some(message);
        }
        if messages.is_closed() {
            return None;
        }
        std::thread::sleep(RETRY_POLL);
    }
    None
}

/// A database that failed once refuses everything until it is opened anew.
fn write_or_reopen(redb: &mut Option<Redb>, path: &Path, writes: &Writes) -> Result<(), redb::Error> {
    let opened = match redb.take() {
        Some(opened) => opened,
        None => Redb::create(path)?,
    };
    write(&opened, writes)?;
    *redb = Some(opened);
    Ok(())
}

fn write(redb: &Redb, writes: &Writes) -> Result<(), redb::Error> {
    if writes.is_empty() {
        return Ok(());
    }
    let transaction = redb.begin_write()?;
    {
        let mut table = transaction.open_table(TASKS)?;
        for (task, change) in writes {
            match change {
                Some(memory) => table.insert(task.as_str(), encode_worker_task(&remembered(memory)).as_slice())?,
                None => table.remove(task.as_str())?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

fn remembered(stored: &StoredTask) -> WorkerTask {
    WorkerTask {
        task: assigned(&stored.assignment),
        status: stored.status.clone(),
        removing: stored.removing,
        withheld: stored.withheld,
    }
}

fn stored(memory: WorkerTask) -> StoredTask {
    StoredTask {
        assignment: Arc::new(assignment(memory.task)),
        status: memory.status,
        removing: memory.removing,
        withheld: memory.withheld,
    }
}

/// An assignment out of the message that brought it.
pub(crate) fn assignment(task: AssignedTask) -> Assignment {
    Assignment {
        task_id: task.task_id,
        task_name: task.task_name,
        task_labels: task.task_labels,
        service_id: task.service_id,
        service_name: task.service_name,
        service_labels: task.service_labels,
        slot: task.slot,
        node_id: task.node_id,
        spec_version: task.spec_version,
        spec: task.spec,
        ports: task.ports,
        desired: task.desired,
        known: task.known,
        // For whoever knows them: see the session.
        secrets: Default::default(),
        configs: Default::default(),
        registry_auth: task.registry_auth.map(|auth| Arc::new(Credential(auth))),
        networks: task.networks.into_iter().map(attached).collect(),
    }
}

fn attached(network: AssignedNetwork) -> AttachedNetwork {
    AttachedNetwork {
        vni: network.vni(),
        id: network.id,
        name: network.name,
        driver: network.driver,
        subnets: network.subnets,
        gateways: network.gateways,
        addresses: network.addresses,
        aliases: network.aliases,
        options: network.options,
        internal: network.internal,
    }
}

fn to_assigned(network: AttachedNetwork) -> AssignedNetwork {
    AssignedNetwork {
        id: network.id,
        name: network.name,
        driver: network.driver,
        subnets: network.subnets,
        gateways: network.gateways,
        addresses: network.addresses,
        aliases: network.aliases,
        options: network.options,
        internal: network.internal,
    }
}

fn assigned(assignment: &Assignment) -> AssignedTask {
    let assignment = assignment.clone();
    AssignedTask {
        task_id: assignment.task_id,
        task_name: assignment.task_name,
        task_labels: assignment.task_labels,
        service_id: assignment.service_id,
        service_name: assignment.service_name,
        service_labels: assignment.service_labels,
        slot: assignment.slot,
        node_id: assignment.node_id,
        spec_version: assignment.spec_version,
        spec: assignment.spec,
        registry_auth: None,
        ports: assignment.ports,
        networks: assignment.networks.into_iter().map(to_assigned).collect(),
        desired: assignment.desired,
        known: None,
    }
}

#[cfg(test)]
mod tests {
    use skep_agent::fake;
    use skep_model::{TaskState, TaskStatus, WallTime};

    use super::*;

    fn task(number: u8, state: TaskState) -> StoredTask {
        let status = TaskStatus {
            state,
            timestamp: WallTime(5),
            applied_at: Default::default(),
            message: "m".to_owned(),
            err: String::new(),
            container: None,
            ports: Vec::new(),
        };
        let (removing, withheld) = (number == 2, number == 1);
        StoredTask { assignment: Arc::new(fake::task(number)), status, removing, withheld }
    }

    #[tokio::test]
    async fn tasks_are_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker/tasks.db");
        let (database, tasks) = Database::open(&path).unwrap();
        assert!(tasks.is_empty());
        let (one, two) = (task(1, TaskState::Running), task(2, TaskState::Accepted));
        database.write(Vec::new(), vec![task(1, TaskState::Starting), two.clone(), task(3, TaskState::Running)]).await;
        database.write(vec![fake::task_id(3)], vec![one.clone()]).await;
        database.close().await;
        let (database, mut tasks) = Database::open(&path).unwrap();
        tasks.sort_by_key(|task| task.removing);
        assert_eq!(tasks, [one, two]);
        database.close().await;
    }

    #[tokio::test]
    async fn other_files_and_newer_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tasks.db");
        std::fs::write(&path, b"something else").unwrap();
        assert!(matches!(Database::open(&path), Err(DatabaseError::Redb { .. })));
        std::fs::remove_file(&path).unwrap();
        let redb = Redb::create(&path).unwrap();
        let transaction = redb.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
        transaction.commit().unwrap();
        drop(redb);
        let error = Database::open(&path).unwrap_err();
        assert!(error.to_string().contains("run the newer skep"), "{error}");
    }
}
