//! Logs of services: a reader's subscription goes to the nodes concerned, what they publish comes back to the reader.
//!
//! ```text
//!   reader ──subscribe──▶ Broker ──SubscriptionMessage──▶ node (ListenSubscriptions)
//!   reader ◀────lines──── Broker ◀──PublishLogs────────── node
//! ```
//!
//! The broker remembers nothing for longer than a reader is there. Every queue is bounded: a slow reader slows the nodes'
//! streams down, by the flow control of their connections. Rules: SwarmKit `manager/logbroker`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_model::{NodeId, ObjectId, ServiceId, Task, TaskId, TaskState, WallTime};
use skep_raft::{Next, Subscription as Commits};
use skep_store::{Event, State};
use skep_wire::swarmkit;
use tokio::sync::mpsc;
use tonic::Status;

use crate::StoreMachine;

/// Lines on their way to a reader; at the bound the nodes wait.
const LINES_MAX: usize = 256;
/// Messages on their way to a node; a node that does not take them is as good as gone.
const MESSAGES_MAX: usize = 128;
/// Tasks of which a follower's place is remembered.
const TASKS_MAX: usize = 4096;
/// Readers at a time.
const READERS_MAX: usize = 512;

/// Whose logs are wanted: those of any object named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSelector {
    /// Tasks of these services.
    pub services: Vec<ServiceId>,
    /// Tasks on these nodes.
    pub nodes: Vec<NodeId>,
    /// These tasks.
    pub tasks: Vec<TaskId>,
}

impl LogSelector {
    fn matches(&self, task: &Task) -> bool {
        self.services.contains(&task.service_id)
            || self.tasks.contains(&task.id)
            || task.placed.node.is_some_and(|node| self.nodes.contains(&node))
    }

    fn is_empty(&self) -> bool {
        self.services.is_empty() && self.nodes.is_empty() && self.tasks.is_empty()
    }
}

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Also what comes later, until the reader leaves.
    pub follow: bool,
    /// So many of the last lines of each task; `None` is all.
    pub tail: Option<u64>,
    /// Only lines from then on.
    pub since: Option<WallTime>,
}

/// One line of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The task's service; `None` for a task without.
    pub service_id: Option<ServiceId>,
    /// Where it ran.
    pub node_id: NodeId,
    /// The task.
    pub task_id: TaskId,
    /// When the line was written, by the node's clock.
    pub timestamp: Option<WallTime>,
    /// Standard error rather than standard output.
    pub is_stderr: bool,
    /// The line with its newline.
    pub data: Vec<u8>,
    /// What log options added.
    pub attributes: Vec<(String, String)>,
}

/// Why logs are not, or not wholly, there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Nothing was asked for (Docker's text).
    #[error("log selector must not be empty")]
    EmptySelector,
    /// Too many readers at a time.
    #[error("cannot read logs: {READERS_MAX} readers are reading already, try again later")]
    TooManyReaders,
    /// Some nodes or tasks gave nothing (Docker's text).
    #[error(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: {}",
        .0.join(", ")
    )]
    Incomplete(Vec<String>),
}

/// A reader's stream of lines. Dropping it ends the subscription on the nodes.
#[derive(Debug)]
pub struct LogReader {
    id: String,
    lines: mpsc::Receiver<LogLine>,
    errors: Arc<Mutex<Vec<String>>>,
    broker: Broker,
}

impl LogReader {
    /// The next line; `None` at the end. What could not be had is told last, once.
    pub async fn next(&mut self) -> Option<Result<LogLine, LogError>> {
        if let Some(line) = self.lines.recv().await {
            return Some(Ok(line));
        }
        let errors = std::mem::take(&mut *lock(&self.errors));
        (!errors.is_empty()).then_some(Err(LogError::Incomplete(errors)))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.broker.unsubscribe(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Messages = mpsc::Sender<Result<swarmkit::SubscriptionMessage, Status>>;

/// How far a follower is with each task: the time of the last line, and how many lines of that time it has. A node that comes back
/// begins anew, and what was passed on already is left out then.
type Progress = Arc<Mutex<BTreeMap<TaskId, Seen>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    at: WallTime,
    lines: u64,
}

/// Where readers and nodes meet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Broker(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    readers: BTreeMap<String, Reader>,
    listeners: BTreeMap<NodeId, Listener>,
    listeners_ever: u64,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    messages: Messages,
}

#[derive(Debug)]
struct Reader {
    selector: LogSelector,
    message: swarmkit::SubscriptionMessage,
    follow: bool,
    /// Nodes that were told and have not said that they are done.
    open: BTreeSet<NodeId>,
    /// Nodes that were told, but for those that were lost since.
    told: BTreeSet<NodeId>,
    progress: Progress,
    /// A node was lost: it goes on where it was when it comes back.
    resumes: bool,
    errors: Arc<Mutex<Vec<String>>>,
    lines: mpsc::Sender<LogLine>,
}

impl Reader {
    fn fail(&mut self, reason: String) {
        let mut errors = lock(&self.errors);
        if !errors.contains(&reason) {
            errors.push(reason);
        }
    }

    /// What a node is told: after the first lines, all from the time that every task's are known of.
    fn request(&self) -> swarmkit::SubscriptionMessage {
        let mut message = self.message.clone();
        let known = lock(&self.progress).values().map(|seen| seen.at).min();
        if let (Some(since), Some(options)) = (known, &mut message.options)
            && self.resumes
        {
            options.tail = 0;
            options.since = Some(skep_wire::timestamp(since));
        }
        message
    }

    fn is_over(&self) -> bool {
        !self.follow && self.open.is_empty()
    }
}

impl Tables {
    /// Tells a node of a reader, if it is there and was not told before.
    fn tell(&mut self, id: &str, node: NodeId) {
        let Some(reader) = self.readers.get_mut(id) else { return };
        if !reader.told.insert(node) {
            return;
        }
        let is_told =
            self.listeners.get(&node).is_some_and(|listener| listener.messages.try_send(Ok(reader.request())).is_ok());
        if is_told {
            reader.open.insert(node);
        } else if reader.follow {
            // It is told when it comes.
            reader.told.remove(&node);
        } else {
            reader.fail(format!("node {node} is not available"));
        }
    }

    fn drop_if_over(&mut self, id: &str) {
        if self.readers.get(id).is_some_and(Reader::is_over) {
            self.readers.remove(id);
        }
    }
}

impl Broker {
    /// Begins to read. `commits` must follow on `state`.
    pub(crate) fn subscribe(
        &self,
        state: &State,
        commits: Commits<StoreMachine>,
        selector: LogSelector,
        options: LogOptions,
    ) -> Result<LogReader, LogError> {
        if selector.is_empty() {
            return Err(LogError::EmptySelector);
        }
        let id = TaskId::from_random(skep_trust::random_bytes()).to_string();
        let (lines, receiver) = mpsc::channel(LINES_MAX);
        let errors = Arc::default();
        let reader = Reader {
            message: subscription_message(&id, &selector, options),
            selector: selector.clone(),
            follow: options.follow,
            open: BTreeSet::new(),
            told: BTreeSet::new(),
            progress: Progress::default(),
            resumes: false,
            errors: Arc::clone(&errors),
            lines: lines.clone(),
        };
        let mut tables = lock(&self.0);
        if tables.readers.len() >= READERS_MAX {
            return Err(LogError::TooManyReaders);
        }
        tables.readers.insert(id.clone(), reader);
        for task in matching(state, &selector) {
            let is_early = selector.services.contains(&task.service_id) && task.state() < TaskState::Running;
            match task.placed.node {
                _ if is_early && !options.follow => {}
                Some(node) => tables.tell(&id, node),
                None if options.follow => {}
                None => {
                    if let Some(reader) = tables.readers.get_mut(&id) {
                        reader.fail(format!("task {} has not been scheduled", task.id));
                    }
                }
            }
        }
        tables.drop_if_over(&id);
        drop(tables);
        if options.follow {
            tokio::spawn(self.clone().follow(id.clone(), selector, commits, lines));
        }
        Ok(LogReader { id, lines: receiver, errors, broker: self.clone() })
    }

    /// Tells nodes of a reader as its tasks come to them, until the reader leaves.
    async fn follow(
        self,
        id: String,
        selector: LogSelector,
        mut commits: Commits<StoreMachine>,
        lines: mpsc::Sender<LogLine>,
    ) {
        loop {
            let next = tokio::select! {
                () = lines.closed() => return,
                next = commits.next() => next,
            };
            let mut nodes = BTreeSet::new();
            match next {
                Next::Commit(commit) => {
                    let tasks = commit.events.iter().filter_map(|event| match event {
                        Event::Task(_, Some(task)) => Some(task),
                        _ => None,
                    });
                    nodes.extend(tasks.filter(|task| selector.matches(task)).filter_map(|task| task.placed.node));
                }
                Next::Reset(published) => {
                    nodes.extend(matching(&published.state, &selector).filter_map(|task| task.placed.node));
                }
            }
            let mut tables = lock(&self.0);
            for node in nodes {
                tables.tell(&id, node);
            }
        }
    }

    fn unsubscribe(&self, id: &str) {
        let mut tables = lock(&self.0);
        let Some(reader) = tables.readers.remove(id) else { return };
        for node in reader.open {
            if let Some(listener) = tables.listeners.get(&node) {
                let message = swarmkit::SubscriptionMessage { close: true, ..reader.message.clone() };
                // A node that does not take it finds out when it publishes.
                let _ = listener.messages.try_send(Ok(message));
            }
        }
    }

    /// A node listens. What it must know already is in the stream.
    pub(crate) fn listen(&self, node: NodeId, state: &State) -> Listening {
        let (messages, stream) = mpsc::channel(MESSAGES_MAX);
        let mut tables = lock(&self.0);
        tables.listeners_ever += 1;
        let number = tables.listeners_ever;
        tables.listeners.insert(node, Listener { number, messages });
        let concerned: Vec<String> = tables
            .readers
            .iter()
            .filter(|(_, reader)| reader.follow && state.tasks_on_node(node).any(|task| reader.selector.matches(task)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in concerned {
            tables.tell(&id, node);
        }
        Listening { node, number, stream, broker: self.clone() }
    }

    fn unlisten(&self, node: NodeId, number: u64) {
        let mut tables = lock(&self.0);
        if tables.listeners.get(&node).is_none_or(|listener| listener.number != number) {
            return;
        }
        tables.listeners.remove(&node);
        let ids: Vec<String> = tables.readers.keys().cloned().collect();
        for id in ids {
            tables_done(&mut tables, &id, node, true);
        }
    }

    /// A node publishes to a reader.
    pub(crate) fn publish(&self, node: NodeId, id: &str) -> Result<Publishing, Status> {
        let tables = lock(&self.0);
        let reader = tables.readers.get(id).ok_or_else(|| Status::not_found("unknown subscription id"))?;
        let known = if reader.follow { lock(&reader.progress).clone() } else { BTreeMap::new() };
        Ok(Publishing {
            node,
            id: id.to_owned(),
            lines: reader.lines.clone(),
            known,
            progress: reader.follow.then(|| Arc::clone(&reader.progress)),
            broker: self.clone(),
            is_closed: false,
        })
    }
}

fn tables_done(tables: &mut Tables, id: &str, node: NodeId, is_lost: bool) {
    if let Some(reader) = tables.readers.get_mut(id)
        && reader.open.remove(&node)
        && is_lost
    {
        if reader.follow {
            // It is told again when it comes back.
            reader.told.remove(&node);
            reader.resumes = true;
        } else {
            reader.fail(format!("node {node} disconnected unexpectedly"));
        }
    }
    tables.drop_if_over(id);
}

fn matching<'a>(state: &'a State, selector: &'a LogSelector) -> impl Iterator<Item = &'a Arc<Task>> {
    let of_services = selector.services.iter().flat_map(|service| state.tasks_of_service(*service));
    let on_nodes = selector.nodes.iter().flat_map(|node| state.tasks_on_node(*node));
    let named = selector.tasks.iter().filter_map(|task| state.task(*task));
    of_services.chain(on_nodes).chain(named)
}

fn subscription_message(id: &str, selector: &LogSelector, options: LogOptions) -> swarmkit::SubscriptionMessage {
    let streams = [(options.stdout, swarmkit::LogStream::Stdout), (options.stderr, swarmkit::LogStream::Stderr)];
    // From the end: minus lines minus one; zero is everything.
    let tail = options.tail.map_or(0, |lines| i64::try_from(lines).map_or(i64::MIN, |lines| -lines - 1));
    swarmkit::SubscriptionMessage {
        id: id.to_owned(),
        selector: Some(swarmkit::LogSelector {
            service_ids: selector.services.iter().map(ToString::to_string).collect(),
            node_ids: selector.nodes.iter().map(ToString::to_string).collect(),
            task_ids: selector.tasks.iter().map(ToString::to_string).collect(),
        }),
        options: Some(swarmkit::LogSubscriptionOptions {
            streams: streams.into_iter().filter(|(wanted, _)| *wanted).map(|(_, stream)| stream.into()).collect(),
            follow: options.follow,
            tail,
            since: options.since.map(skep_wire::timestamp),
        }),
        close: false,
    }
}

/// A node's standing stream of subscriptions.
#[derive(Debug)]
pub(crate) struct Listening {
    node: NodeId,
    number: u64,
    stream: mpsc::Receiver<Result<swarmkit::SubscriptionMessage, Status>>,
    broker: Broker,
}

impl tokio_stream::Stream for Listening {
    type Item = Result<swarmkit::SubscriptionMessage, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.stream.poll_recv(context)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.broker.unlisten(self.node, self.number);
    }
}

/// A node's stream of lines to one reader. Dropped without [`Self::close`] it counts as lost.
#[derive(Debug)]
pub(crate) struct Publishing {
    node: NodeId,
    id: String,
    lines: mpsc::Sender<LogLine>,
    /// How far the reader was when this stream began; a task is taken out when the stream is as far.
    known: BTreeMap<TaskId, Seen>,
    /// Kept for followers alone.
    progress: Option<Progress>,
    broker: Broker,
    is_closed: bool,
}

impl Publishing {
    /// Passes a message on; waits while the reader is behind.
    pub(crate) async fn pass(&mut self, message: swarmkit::PublishLogsMessage) -> Result<(), Status> {
        if message.subscription_id != self.id {
            return Err(Status::invalid_argument("different subscription IDs in the same session"));
        }
        let lines = self.lines.clone();
        for line in message.messages {
            let line = self.line(line)?;
            // First room, then the note that it is passed on: this may be cut off while it waits.
            let Ok(room) = lines.reserve().await else { return Err(Status::not_found("unknown subscription id")) };
            if self.is_new(&line) {
                room.send(line);
            }
        }
        Ok(())
    }

    /// Whether the reader does not have a line yet.
    fn is_new(&mut self, line: &LogLine) -> bool {
        let (Some(progress), Some(at)) = (&self.progress, line.timestamp) else { return true };
        if let Some(known) = self.known.get_mut(&line.task_id) {
            if at < known.at {
                return false;
            }
            if at == known.at && known.lines > 0 {
                known.lines -= 1;
                return false;
            }
            self.known.remove(&line.task_id);
        }
        let mut progress = lock(progress);
        if progress.len() >= TASKS_MAX && !progress.contains_key(&line.task_id) {
            // The one that has been silent for longest: most likely it is gone.
            let oldest = progress.iter().min_by_key(|(_, seen)| seen.at).map(|(task, _)| *task);
            oldest.map(|task| progress.remove(&task));
        }
        let seen = progress.entry(line.task_id).or_insert(Seen { at, lines: 0 });
        *seen = if seen.at == at { Seen { at, lines: seen.lines + 1 } } else { Seen { at, lines: 1 } };
        true
    }

    /// The node says that this was all.
    pub(crate) fn close(mut self) {
        self.is_closed = true;
    }

    fn line(&self, message: swarmkit::LogMessage) -> Result<LogLine, Status> {
        let context = message.context.unwrap_or_default();
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let node_id = NodeId::parse(&context.node_id).map_err(|error| invalid(&error))?;
        if node_id != self.node {
            let text = format!("invalid NodeID: expected={};received={node_id}", self.node);
            return Err(Status::permission_denied(text));
        }
        let service = &context.service_id;
        let service_id = (!service.is_empty()).then(|| ServiceId::parse(service)).transpose();
        Ok(LogLine {
            service_id: service_id.map_err(|error| invalid(&error))?,
            node_id,
            task_id: TaskId::parse(&context.task_id).map_err(|error| invalid(&error))?,
            timestamp: message.timestamp.map(skep_wire::wall_time).transpose().map_err(|error| invalid(&error))?,
            is_stderr: message.stream == i32::from(swarmkit::LogStream::Stderr),
            data: message.data,
            attributes: message.attrs.into_iter().map(|attr| (attr.key, attr.value)).collect(),
        })
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        let mut tables = lock(&self.broker.0);
        tables_done(&mut tables, &self.id, self.node, !self.is_closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_begins_anew_passes_on_what_is_new() {
        let (node, task) = (NodeId::from_random([1; 17]), TaskId::from_random([2; 17]));
        let (sender, mut lines) = mpsc::channel(LINES_MAX);
        let progress = Progress::default();
        let stream = |known| Publishing {
            node,
            id: "x".to_owned(),
            lines: sender.clone(),
            known,
            progress: Some(Arc::clone(&progress)),
            broker: Broker::default(),
            is_closed: false,
        };
        let message = |times: &[i64]| swarmkit::PublishLogsMessage {
            subscription_id: "x".to_owned(),
            messages: times
                .iter()
                .map(|at| swarmkit::LogMessage {
                    context: Some(swarmkit::LogContext {
                        node_id: node.to_string(),
                        task_id: task.to_string(),
                        ..Default::default()
                    }),
                    timestamp: Some(skep_wire::timestamp(WallTime(*at))),
                    ..Default::default()
                })
                .collect(),
            close: false,
        };
        stream(BTreeMap::new()).pass(message(&[1, 2, 2])).await.unwrap();
        let known = lock(&progress).clone();
        stream(known).pass(message(&[1, 2, 2, 2, 3, 1])).await.unwrap();
        let mut passed = Vec::new();
        while let Ok(line) = lines.try_recv() {
            passed.push(line.timestamp.unwrap().0);
        }
        // After the break: the third of time 2, then all, also when the clock goes back.
        assert_eq!(passed, [1, 2, 2, 2, 3, 1]);
    }
}
