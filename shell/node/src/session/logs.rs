//! Logs that managers ask for: each subscription is answered by one stream of lines of the tasks known here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_model::{ObjectId as _, ServiceId, TaskId};
use skep_wire::swarmkit;
use swarmkit::log_broker_client::LogBrokerClient;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::SessionConfig;
use crate::log_source::{LogSource, TaskLogLine, TaskLogOptions};
use crate::worker::KnownTasks;

/// Lines on their way to the manager; at the bound reading waits.
const LINES_MAX: usize = 64;
/// How often a follower looks whether a task has a container at last.
const RETRY: Duration = Duration::from_millis(500);
/// Bytes a second of one task for one reader (SwarmKit's).
const RATE: usize = 10 << 20;
/// Subscriptions served at a time; more are refused.
const SUBSCRIPTIONS_MAX: usize = 256;

/// Serves subscriptions until the stream of them ends.
pub(super) async fn listen(
    mut client: LogBrokerClient<Channel>,
    config: &SessionConfig,
) -> Result<std::convert::Infallible, Status> {
    let listening = client.listen_subscriptions(swarmkit::ListenSubscriptionsRequest {}).await;
    let mut subscriptions = match listening {
        Ok(stream) => stream.into_inner(),
        // A manager without logs.
        Err(status) if status.code() == Code::Unimplemented => std::future::pending().await,
        Err(status) => return Err(status),
    };
    let mut serving = Serving::default();
    loop {
        let Some(message) = subscriptions.message().await? else {
            return Err(Status::aborted("the manager closed the stream of log subscriptions"));
        };
        serving.0.retain(|_, publisher| !publisher.is_finished());
        if message.close {
            serving.0.remove(&message.id);
        } else if serving.0.len() >= SUBSCRIPTIONS_MAX {
            tracing::warn!(subscription.id = %message.id, "too many readers of logs, one is not served");
        } else {
            let publisher = Publisher {
                id: message.id.clone(),
                selector: selector(message.selector.unwrap_or_default()),
                options: message.options.unwrap_or_default(),
                source: config.logs.clone(),
                tasks: config.tasks.clone(),
                node: config.node_id.to_string(),
            };
            let publishing = tokio::spawn(publisher.publish(client.clone())).abort_handle();
            serving.0.insert(message.id, Ending(publishing));
        }
    }
}

/// Subscriptions that are being served; they end with the session.
#[derive(Default)]
struct Serving(BTreeMap<String, Ending>);

struct Ending(AbortHandle);

impl Ending {
    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whose lines are wanted; a node is only asked when it is meant.
struct Selector {
    services: BTreeSet<ServiceId>,
    tasks: BTreeSet<TaskId>,
    all: bool,
}

fn selector(selector: swarmkit::LogSelector) -> Selector {
    Selector {
        services: selector.service_ids.iter().filter_map(|id| ServiceId::parse(id).ok()).collect(),
        tasks: selector.task_ids.iter().filter_map(|id| TaskId::parse(id).ok()).collect(),
        all: !selector.node_ids.is_empty(),
    }
}

impl Selector {
    fn matches(&self, task: TaskId, service: Option<ServiceId>) -> bool {
        self.all || self.tasks.contains(&task) || service.is_some_and(|service| self.services.contains(&service))
    }
}

struct Publisher {
    id: String,
    selector: Selector,
    options: swarmkit::LogSubscriptionOptions,
    source: Arc<dyn LogSource>,
    tasks: tokio::sync::watch::Receiver<KnownTasks>,
    node: String,
}

type Lines = mpsc::Sender<swarmkit::PublishLogsMessage>;

impl Publisher {
    async fn publish(self, mut client: LogBrokerClient<Channel>) {
        let (sender, messages) = mpsc::channel(LINES_MAX);
        let id = self.id.clone();
        // Reading ends when the manager does not want any more, and the call ends with the last line.
        let (result, ()) = tokio::join!(client.publish_logs(ReceiverStream::new(messages)), self.read(sender));
        if let Err(status) = result {
            tracing::debug!(subscription.id = %id, %status, "a reader of logs is gone");
        }
    }

    async fn read(mut self, sender: Lines) {
        let options = match options(&self.options) {
            Ok(options) => options,
            Err(reason) => {
                tracing::warn!(subscription.id = %self.id, reason, "a reader of logs gets nothing");
                return self.close(&sender).await;
            }
        };
        let mut readers = tokio::task::JoinSet::new();
        let mut begun = BTreeSet::new();
        loop {
            let known = self.tasks.borrow_and_update().clone();
            for (task, service) in known.iter() {
                if self.selector.matches(*task, *service) && begun.insert(*task) {
                    let reader = TaskReader {
                        subscription: self.id.clone(),
                        task: *task,
                        service: *service,
                        source: self.source.clone(),
                        tasks: self.tasks.clone(),
                        node: self.node.clone(),
                    };
                    readers.spawn(reader.read(options, sender.clone()));
                }
            }
            if !options.follow {
                break;
            }
            tokio::select! {
                () = sender.closed() => return,
                changed = self.tasks.changed() => if changed.is_err() { break },
            }
        }
        while readers.join_next().await.is_some() {}
        self.close(&sender).await;
    }

    async fn close(&self, sender: &Lines) {
        let last = swarmkit::PublishLogsMessage { subscription_id: self.id.clone(), messages: Vec::new(), close: true };
        // A manager that is gone needs no end.
        let _ = sender.send(last).await;
    }
}

/// Reads one task's lines.
struct TaskReader {
    subscription: String,
    task: TaskId,
    service: Option<ServiceId>,
    source: Arc<dyn LogSource>,
    tasks: tokio::sync::watch::Receiver<KnownTasks>,
    node: String,
}

impl TaskReader {
    async fn read(self, options: TaskLogOptions, sender: Lines) {
        let mut lines = loop {
            match self.source.task_logs(self.task, options) {
                Ok(Some(lines)) => break lines,
                Ok(None) if options.follow && self.tasks.borrow().contains_key(&self.task) => {
                    tokio::time::sleep(RETRY).await;
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(task.id = %self.task, error, "the log of a task cannot be read");
                    return;
                }
            }
        };
        let mut pace = Pace::begin();
        while let Some(line) = lines.recv().await {
            match line {
                Ok(line) => {
                    pace.take(line.data.len()).await;
                    if sender.send(self.message(line)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(task.id = %self.task, error, "the log of a task cannot be read on");
                    return;
                }
            }
        }
    }

    fn message(&self, line: TaskLogLine) -> swarmkit::PublishLogsMessage {
        let stream = if line.is_stderr { swarmkit::LogStream::Stderr } else { swarmkit::LogStream::Stdout };
        let message = swarmkit::LogMessage {
            context: Some(swarmkit::LogContext {
                service_id: self.service.map(|id| id.to_string()).unwrap_or_default(),
                node_id: self.node.clone(),
                task_id: self.task.to_string(),
            }),
            timestamp: Some(skep_wire::timestamp(line.time)),
            stream: stream.into(),
            data: line.data,
            attrs: Vec::new(),
        };
        swarmkit::PublishLogsMessage {
            subscription_id: self.subscription.clone(),
            messages: vec![message],
            close: false,
        }
    }
}

/// Holds a task's lines to [`RATE`], so that one that writes a lot leaves room for the others.
struct Pace {
    since: tokio::time::Instant,
    bytes: usize,
}

impl Pace {
    fn begin() -> Self {
        Self { since: tokio::time::Instant::now(), bytes: 0 }
    }

    /// Waits until so many bytes may go.
    async fn take(&mut self, bytes: usize) {
        let next = self.since + Duration::from_secs(1);
        if self.bytes >= RATE {
            tokio::time::sleep_until(next).await;
        }
        if tokio::time::Instant::now() >= next {
            *self = Self::begin();
        }
        self.bytes += bytes;
    }
}

fn options(wanted: &swarmkit::LogSubscriptionOptions) -> Result<TaskLogOptions, String> {
    let is_wanted = |stream: swarmkit::LogStream| {
        wanted.streams.is_empty() || wanted.streams.iter().any(|number| *number == i32::from(stream))
    };
    let tail = match wanted.tail {
        0 => None,
        lines if lines < 0 => Some(lines.unsigned_abs() - 1),
        _ => return Err("tail relative to start of logs not supported".to_owned()),
    };
    let since = wanted.since.map(skep_wire::wall_time).transpose().map_err(|error| error.to_string())?;
    Ok(TaskLogOptions {
        stdout: is_wanted(swarmkit::LogStream::Stdout),
        stderr: is_wanted(swarmkit::LogStream::Stderr),
        follow: wanted.follow,
        tail,
        since,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_count_from_the_end() {
        let tail = |tail| options(&swarmkit::LogSubscriptionOptions { tail, ..Default::default() }).map(|o| o.tail);
        assert_eq!(tail(0), Ok(None));
        assert_eq!(tail(-1), Ok(Some(0)));
        assert_eq!(tail(-11), Ok(Some(10)));
        assert!(tail(3).is_err());
    }
}
