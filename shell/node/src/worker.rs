//! Drives the agent: assignments in, operations to the executor, memory to the database, statuses to whoever reports them.
//!
//! ```text
//!   session ──Complete, Incremental──▶ ┌────────┐ ──begin, cancel──▶ Executor
//!                                      │ Worker │ ◀───finished────── Executor
//!   session ◀──newest statuses──────── └────────┘ ──store, forget──▶ Database
//! ```
//!
//! It runs with or without a session: containers do not care whether a manager is there.

mod database;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skep_agent::{Actions, Agent, AgentConfig, Executor, Finished, Input, Moment};
use skep_model::{ServiceId, TaskId, TaskStatus};
use skep_raft::{Clock as _, SystemClock};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use database::Database;
pub(crate) use database::DatabaseError;
pub(crate) use database::assignment;

/// Messages of sessions that may wait.
const INPUTS_MAX: usize = 64;

/// What a worker is told.
pub(crate) enum Order {
    /// An input for the agent.
    Input(Input),
    /// Remove everything; answered when nothing is left.
    Clear(oneshot::Sender<()>),
    /// End, and leave containers alone; answered when all is on disk.
    Stop(oneshot::Sender<()>),
}

/// Tasks known here and the service each belongs to.
pub(crate) type KnownTasks = Arc<BTreeMap<TaskId, Option<ServiceId>>>;

/// A handle on the running worker. Dropping it ends the worker as a kill would.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: mpsc::Sender<Order>,
    outbox: Arc<Outbox>,
    tasks: watch::Receiver<KnownTasks>,
    running: JoinHandle<()>,
}

/// Statuses that wait to be sent, per task the newest.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    statuses: Mutex<BTreeMap<TaskId, TaskStatus>>,
    filled: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, TaskStatus>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, statuses: impl IntoIterator<Item = (TaskId, TaskStatus)>) {
        self.lock().extend(statuses);
        self.filled.notify_one();
    }

    /// Takes up to `most` statuses; waits while there is none.
    pub(crate) async fn take(&self, most: usize) -> Vec<(TaskId, TaskStatus)> {
        loop {
            let taken: Vec<_> = {
                let mut statuses = self.lock();
                let keys: Vec<TaskId> = statuses.keys().take(most).copied().collect();
                keys.into_iter().filter_map(|task| statuses.remove_entry(&task)).collect()
            };
            if !taken.is_empty() {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    /// Puts statuses back that could not be sent, unless newer ones came.
    pub(crate) fn put_back(&self, statuses: Vec<(TaskId, TaskStatus)>) {
        let mut waiting = self.lock();
        for (task, status) in statuses {
            waiting.entry(task).or_insert(status);
        }
        drop(waiting);
        self.filled.notify_one();
    }
}

impl Worker {
    /// Goes on where an earlier worker stopped: with its database and what the executor has.
    pub(crate) fn start(path: &Path, executor: Arc<dyn Executor>) -> Result<Self, DatabaseError> {
        let (database, stored) = Database::open(path)?;
        let (orders, receiver) = mpsc::channel(INPUTS_MAX);
        // At most one operation a task is in flight, so this is bounded by the tasks.
        let (finished, ended) = mpsc::unbounded_channel();
        let outbox: Arc<Outbox> = Arc::default();
        let clock = SystemClock::new();
        let now = Moment { monotonic: clock.monotonic(), wall: clock.wall() };
        let found = executor.tasks();
        let (agent, actions) = Agent::restore(AgentConfig::default(), now, stored, &found);
        let (known, tasks) = watch::channel(KnownTasks::default());
        let running = Running { agent, executor, database, outbox: outbox.clone(), finished, clock, known };
        let running = tokio::spawn(running.run(actions, receiver, ended));
        Ok(Self { orders, outbox, tasks, running })
    }

    /// Where sessions send assignments.
    pub(crate) fn orders(&self) -> mpsc::Sender<Order> {
        self.orders.clone()
    }

    /// Where sessions take statuses.
    pub(crate) fn outbox(&self) -> Arc<Outbox> {
        self.outbox.clone()
    }

    /// Tasks known here, and each change of that.
    pub(crate) fn tasks(&self) -> watch::Receiver<KnownTasks> {
        self.tasks.clone()
    }

    /// Stops and deletes every task's container; false when some are left after `most`.
    pub(crate) async fn clear(&self, most: Duration) -> bool {
        let (done, cleared) = oneshot::channel();
        let clear = async { self.orders.send(Order::Clear(done)).await.is_ok() && cleared.await.is_ok() };
        tokio::time::timeout(most, clear).await.unwrap_or(false)
    }

    /// Ends; containers are left alone.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            // Without an answer the worker has ended already.
            let _ = stopped.await;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.running.abort();
    }
}

struct Running {
    agent: Agent,
    executor: Arc<dyn Executor>,
    database: Database,
    outbox: Arc<Outbox>,
    finished: mpsc::UnboundedSender<(TaskId, Finished)>,
    clock: SystemClock,
    known: watch::Sender<KnownTasks>,
}

impl Running {
    async fn run(
        mut self,
        first: Actions,
        mut orders: mpsc::Receiver<Order>,
        mut ended: mpsc::UnboundedReceiver<(TaskId, Finished)>,
    ) {
        let mut clearing: Option<oneshot::Sender<()>> = None;
        self.act(first).await;
        self.announce();
        loop {
            if clearing.is_some() && self.agent.is_idle() && self.executor.tasks().is_empty() {
                // Whoever asked may have stopped waiting.
                let _ = clearing.take().map(|done| done.send(()));
            }
            let wait = self.agent.wake_at().map(|at| at.saturating_sub(self.clock.monotonic()));
            let deadline = Instant::now() + wait.unwrap_or_default();
            tokio::select! {
                biased;
                Some((task, finished)) = ended.recv() => self.step(Input::Finished(task, finished)).await,
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Input(input)) => {
                        // Nothing new while everything is being removed.
                        if clearing.is_none() {
                            self.step(input).await;
                            self.announce();
                        }
                    }
                    Some(Order::Clear(done)) => {
                        clearing = Some(done);
                        self.step(Input::Complete(Vec::new())).await;
                    }
                    Some(Order::Stop(done)) => {
                        self.database.close().await;
                        let _ = done.send(());
                        return;
                    }
                },
                () = tokio::time::sleep_until(deadline.into()), if wait.is_some() => self.step(Input::Tick).await,
            }
        }
    }

    async fn step(&mut self, input: Input) {
        let now = Moment { monotonic: self.clock.monotonic(), wall: self.clock.wall() };
        let actions = self.agent.step(now, input);
        self.act(actions).await;
    }

    async fn act(&mut self, actions: Actions) {
        let is_forgetting = !actions.forget.is_empty();
        self.database.write(actions.forget, actions.store).await;
        if is_forgetting {
            self.announce();
        }
        if !actions.report.is_empty() {
            self.outbox.put(actions.report.into_iter().map(|report| (report.task_id, report.status)));
        }
        for task in actions.cancel {
            self.executor.cancel(task);
        }
        for operation in actions.begin {
            let (task, finished) = (operation.task, self.finished.clone());
            tracing::debug!(task.id = %task, operation = operation.work.name(), "begins");
            let done = Box::new(move |end: Finished| {
                // Without a worker nobody wants to know.
                let _ = finished.send((task, end));
            });
            self.executor.begin(operation, done);
        }
    }

    /// Tells readers of logs which tasks are known.
    fn announce(&self) {
        let tasks: BTreeMap<_, _> = self
            .agent
            .statuses()
            .filter_map(|(task, _)| Some((task, self.agent.assignment(task)?.service_id)))
            .collect();
        self.known.send_if_modified(|known| {
            let is_new = **known != tasks;
            if is_new {
                *known = Arc::new(tasks);
            }
            is_new
        });
    }
}
