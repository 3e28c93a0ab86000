//! A node's connection to the managers: one session after another, for as long as the node is a member.
//!
//! A session is the streams and calls of SwarmKit's dispatcher over one connection. Whatever fails in it ends all of it, and
//! the next one begins after a random pause (SwarmKit `agent/session.go`). Containers keep running meanwhile; what became of
//! them is reported again in the next session.

mod logs;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use skep_agent::{Change, Input};
use skep_control::Rng;
use skep_model::{NodeDescription, ObjectId as _, TaskId, TaskStatus};
use skep_wire::{AssignedTask, DecodeError, swarmkit};
use swarmkit::dispatcher_client::DispatcherClient;
use swarmkit::log_broker_client::LogBrokerClient;
use swarmkit::update_task_status_request::TaskStatusUpdate;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

use self::values::Values;
use crate::worker::{KnownTasks, Order, Outbox, assignment};
use crate::{DescriptionSource, LogSource};

/// Pause before the first retry, and what is added to twice the pause before.
const BACKOFF_STEP: Duration = Duration::from_millis(100);
/// Longest pause between sessions.
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Time for a call that does not wait for a commit, and for the first session message.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the machine is described anew; a difference opens a new session.
const DESCRIBE_PERIOD: Duration = Duration::from_secs(20);
/// Statuses in one call at most.
const STATUSES_MAX: usize = 256;

/// What sessions need.
pub(crate) struct SessionConfig {
    /// This node.
    pub(crate) node_id: skep_model::NodeId,
    /// The manager's socket.
    pub(crate) socket: PathBuf,
    pub(crate) describe: Arc<dyn DescriptionSource>,
    /// What this node trusts, for its description.
    pub(crate) tls: Option<skep_model::TlsInfo>,
    pub(crate) logs: Arc<dyn LogSource>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) tasks: watch::Receiver<KnownTasks>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot connect to the manager: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(#[from] Status),
    #[error("the manager did not answer in time")]
    TimedOut,
    #[error("the manager closed the {0} stream")]
    Closed(&'static str),
    #[error("the manager's message cannot be understood: {0}")]
    Message(#[from] DecodeError),
    #[error("the session message has no {0}")]
    Incomplete(&'static str),
    #[error("the description of this node changed")]
    Described,
    #[error("the worker has ended")]
    NoWorker,
}

/// Keeps sessions with the managers, until dropped.
pub(crate) async fn keep_sessions(config: SessionConfig) {
    let mut rng = Rng::seeded(u64::from_le_bytes(skep_trust::random_bytes()));
    let mut session_id = String::new();
    let mut backoff = Duration::ZERO;
    loop {
        let mut session = Session { config: &config, id: &mut session_id, was_opened: false };
        let ended = session.run().await;
        if session.was_opened {
            backoff = Duration::ZERO;
        }
        match ended {
            Ended::NoWorker => return,
            Ended::Described => tracing::info!(reason = %ended, "a new session with the manager begins"),
            _ => tracing::info!(reason = %ended, "the session with the manager ended, another one is tried"),
        }
        backoff = BACKOFF_MAX.min(BACKOFF_STEP + backoff * 2);
        let nanos = u64::try_from(backoff.as_nanos()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_nanos(rng.below(nanos))).await;
    }
}

/// The text of an id as it is in the store, for a check of what managers say.
fn is_task_id(text: &str) -> Option<TaskId> {
    TaskId::parse(text).ok()
}

struct Session<'a> {
    config: &'a SessionConfig,
    /// The id of the last session; managers that still know it go on with it.
    id: &'a mut String,
    was_opened: bool,
}

type Client = DispatcherClient<Channel>;

impl Session<'_> {
    /// Runs one session to its end, which is never a success.
    async fn run(&mut self) -> Ended {
        match self.try_run().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_run(&mut self) -> Result<std::convert::Infallible, Ended> {
        let channel = connect(&self.config.socket).await?;
        // Assignments may be larger than what a node sends.
        let mut client = DispatcherClient::new(channel.clone()).max_decoding_message_size(usize::MAX >> 1);
        let description = self.describe();
        let request =
            swarmkit::SessionRequest { description: Some((&description).into()), session_id: self.id.clone() };
        let opening = async {
            let mut messages = client.session(request).await?.into_inner();
            let first = messages.message().await?.ok_or(Ended::Closed("session"))?;
            Ok::<_, Ended>((messages, first))
        };
        let (mut messages, first) = in_time(opening).await?;
        if first.session_id.is_empty() {
            return Err(Ended::Incomplete("session id"));
        }
        self.id.clone_from(&first.session_id);
        self.was_opened = true;
        tracing::info!(session.id = %self.id, "a session with the manager is open");
        self.order(Input::SessionOpened).await?;
        let session_id = self.id.clone();
        tokio::select! {
            ended = watch_session(&mut messages) => ended,
            ended = heartbeat(client.clone(), &session_id) => ended,
            ended = self.follow_assignments(client.clone(), &session_id) => ended,
            ended = self.report(client, &session_id) => ended,
            ended = self.watch_description(&description) => ended,
            ended = logs::listen(LogBrokerClient::new(channel), self.config) => ended.map_err(Ended::from),
        }
    }

    fn describe(&self) -> NodeDescription {
        NodeDescription { tls: self.config.tls.clone(), ..self.config.describe.describe() }
    }

    async fn order(&self, input: Input) -> Result<(), Ended> {
        self.config.orders.send(Order::Input(input)).await.map_err(|_| Ended::NoWorker)
    }

    async fn watch_description(&self, sent: &NodeDescription) -> Result<std::convert::Infallible, Ended> {
        loop {
            tokio::time::sleep(DESCRIBE_PERIOD).await;
            if self.describe() != *sent {
                return Err(Ended::Described);
            }
        }
    }

    async fn follow_assignments(&self, mut client: Client, session: &str) -> Result<std::convert::Infallible, Ended> {
        use swarmkit::assignments_message::Type;
        loop {
            let request = swarmkit::AssignmentsRequest { session_id: session.to_owned() };
            let mut stream = client.assignments(request).await?.into_inner();
            let mut sequence: Option<String> = None;
            // In memory alone, and only while this stream says that they are needed.
            let mut values = Values::default();
            loop {
                let message = stream.message().await?.ok_or(Ended::Closed("assignments"))?;
                let is_complete = message.r#type() == Type::Complete;
                let is_next = is_complete || sequence.as_ref() == Some(&message.applies_to);
                if !is_next {
                    tracing::warn!("a message of the assignments stream is missing, it is opened anew");
                    break;
                }
                sequence = Some(message.results_in);
                self.order(input(&mut values, is_complete, message.changes)).await?;
            }
        }
    }

    async fn report(&self, mut client: Client, session: &str) -> Result<std::convert::Infallible, Ended> {
        loop {
            let statuses = self.config.outbox.take(STATUSES_MAX).await;
            let taken = Taken { outbox: &self.config.outbox, statuses };
            let update = |(task, status): &(TaskId, TaskStatus)| TaskStatusUpdate {
                task_id: task.to_string(),
                status: Some(status.into()),
            };
            let updates = taken.statuses.iter().map(update).collect();
            let request = swarmkit::UpdateTaskStatusRequest { session_id: session.to_owned(), updates };
            client.update_task_status(request).await?;
            taken.arrived();
        }
    }
}

/// Statuses on their way; put back when they do not arrive, also when the session ends in between.
struct Taken<'a> {
    outbox: &'a Outbox,
    statuses: Vec<(TaskId, TaskStatus)>,
}

impl Taken<'_> {
    fn arrived(mut self) {
        self.statuses.clear();
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.statuses.is_empty() {
            self.outbox.put_back(std::mem::take(&mut self.statuses));
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    tokio::time::timeout(CALL_TIMEOUT, work).await.unwrap_or(Err(Ended::TimedOut))
}

async fn connect(socket: &std::path::Path) -> Result<Channel, Ended> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is not looked at: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://control.sock").connect_timeout(CALL_TIMEOUT);
    Ok(endpoint.connect_with_connector(connector).await?)
}

async fn watch_session(
    messages: &mut tonic::Streaming<swarmkit::SessionMessage>,
) -> Result<std::convert::Infallible, Ended> {
    // Managers, keys and roots in later messages matter to nodes that are not managers themselves.
    while messages.message().await?.is_some() {}
    Err(Ended::Closed("session"))
}

async fn heartbeat(mut client: Client, session: &str) -> Result<std::convert::Infallible, Ended> {
    loop {
        let request = swarmkit::HeartbeatRequest { session_id: session.to_owned() };
        let beat = async { Ok(client.heartbeat(request).await?.into_inner()) };
        let period = in_time(beat).await?.period.ok_or(Ended::Incomplete("heartbeat period"))?;
        let period = Duration::try_from(period).map_err(|_| Ended::Incomplete("usable heartbeat period"))?;
        tokio::time::sleep(period.max(BACKOFF_STEP)).await;
    }
}

/// What a message says to the agent. Of a complete set that is not wholly understood only updates are taken: a task that is
/// not understood must not look removed.
fn input(values: &mut Values, is_complete: bool, changes: Vec<swarmkit::AssignmentChange>) -> Input {
    use swarmkit::assignment::Item;
    use swarmkit::assignment_change::AssignmentAction;
    let (mut understood, mut is_whole) = (Vec::new(), true);
    let changes = values.take_in(changes);
    for change in changes {
        let action = change.action();
        let Some(Item::Task(task)) = change.assignment.and_then(|assignment| assignment.item) else {
            // Volumes: no task that is run here refers to any.
            continue;
        };
        let id = task.id.clone();
        match action {
            AssignmentAction::Remove => match is_task_id(&id) {
                Some(task) => understood.push(Change::Remove(task)),
                None => tracing::warn!(task.id = %id, "an assignment with a bad id is not removed"),
            },
            AssignmentAction::Update => match AssignedTask::try_from(*task) {
                Ok(task) => understood.push(Change::Update(Box::new(values.filled(assignment(task))))),
                Err(error) => {
                    tracing::error!(task.id = %id, %error, "an assignment is not understood and is left as it is");
                    is_whole = false;
                }
            },
        }
    }
    if !(is_complete && is_whole) {
        return Input::Incremental(understood);
    }
    let updates = understood.into_iter().filter_map(|change| match change {
        Change::Update(assignment) => Some(*assignment),
        Change::Remove(_) => None,
    });
    Input::Complete(updates.collect())
}

#[cfg(test)]
mod tests {
    use swarmkit::assignment::Item;
    use swarmkit::assignment_change::AssignmentAction;

    use super::*;

    fn change(task: swarmkit::Task) -> swarmkit::AssignmentChange {
        let assignment = swarmkit::Assignment { item: Some(Item::Task(Box::new(task))) };
        swarmkit::AssignmentChange { assignment: Some(assignment), action: AssignmentAction::Update.into() }
    }

    #[test]
    fn a_task_that_is_not_understood_removes_nothing() {
        let bad = swarmkit::Task { id: "x".to_owned(), ..swarmkit::Task::default() };
        let values = &mut Values::default();
        assert_eq!(input(values, true, vec![change(bad)]), Input::Incremental(Vec::new()));
        assert_eq!(input(values, true, Vec::new()), Input::Complete(Vec::new()));
    }

    #[tokio::test]
    async fn a_status_that_was_not_sent_is_not_lost_and_does_not_win() {
        let outbox = Outbox::default();
        let status = |message: &str| TaskStatus {
            state: skep_model::TaskState::Running,
            timestamp: Default::default(),
            applied_at: Default::default(),
            message: message.to_owned(),
            err: String::new(),
            container: None,
            ports: Vec::new(),
        };
        let (one, two) = (skep_agent::fake::task_id(1), skep_agent::fake::task_id(2));
        outbox.put_back(vec![(one, status("old")), (two, status("old"))]);
        let statuses = outbox.take(10).await;
        outbox.put_back(vec![(one, status("new"))]);
        drop(Taken { outbox: &outbox, statuses });
        assert_eq!(outbox.take(1).await, [(one, status("new"))]);
        assert_eq!(outbox.take(10).await, [(two, status("old"))]);
    }
}
