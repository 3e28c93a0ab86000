//! The agent's executor: one background task per operation, which calls back when it ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_agent::{Done, Executor, Failure, Finished, Operation, Work};
use skep_model::{TaskId, WallTime};
use tokio_util::sync::CancellationToken;

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};
use crate::logs::parse_time;
use crate::view::ContainerState;

/// The operations in flight, at most one per task.
#[derive(Debug, Default)]
pub(crate) struct Operations(Mutex<BTreeMap<TaskId, CancellationToken>>);

impl Operations {
    fn map(&self) -> MutexGuard<'_, BTreeMap<TaskId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls back once, also when the work is dropped because the process ends.
struct Reply {
    inner: Arc<Inner>,
    task: TaskId,
    done: Option<Done>,
}

impl Reply {
    fn send(&mut self, finished: Finished) {
        if let Some(done) = self.done.take() {
            // The next operation of the task may begin within the call.
            self.inner.operations.map().remove(&self.task);
            done(finished);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Finished::failed(Failure::Cancelled));
    }
}

impl Executor for Engine {
    fn begin(&self, operation: Operation, done: Done) {
        let inner = self.inner.clone();
        // A child: what only waits ends when the engine closes.
        let cancel = inner.closing.child_token();
        inner.operations.map().insert(operation.task, cancel.clone());
        let mut reply = Reply { inner: inner.clone(), task: operation.task, done: Some(done) };
        let work = async move {
            let finished = inner.perform(operation, &cancel).await;
            reply.send(finished);
        };
        self.inner.tracker.spawn_on(work, &self.inner.runtime);
    }

    fn cancel(&self, task: TaskId) {
        if let Some(cancel) = self.inner.operations.map().get(&task) {
            cancel.cancel();
        }
    }

    fn tasks(&self) -> Vec<TaskId> {
        self.inner.table.tasks()
    }
}

impl Inner {
    async fn perform(self: &Arc<Self>, operation: Operation, cancel: &CancellationToken) -> Finished {
        let task = operation.task;
        let kind = match operation.work {
            Work::Start(_) => Kind::Start,
            Work::Shutdown | Work::Remove => Kind::End,
            _ => Kind::Other,
        };
        if self.closing.is_cancelled() {
            return Finished::failed(Failure::Cancelled);
        }
        let result = match operation.work {
            Work::Prepare(assignment) => self.prepare(assignment, cancel).await.map(Some),
            Work::Start(assignment) => match self.container_of(task) {
                Ok(container) => match self.provide_contents(&container, &assignment) {
                    Ok(()) => {
                        let started = self.start_task(&container, cancel).await;
                        // Also when it did not come to that.
                        container.take_contents();
                        started.map(|()| Some(container))
                    }
                    Err(error) => Err(error),
                },
                Err(_) => Err(EngineError::NoSuchContainer(skep_agent::container_name(&assignment))),
            },
            Work::Wait => self.wait_for(task, cancel).await.map(Some),
            Work::Shutdown => self.shut_down(task, cancel).await,
            Work::Remove => match self.table.of_task(task) {
                Some(container) => self.remove(&container).await.map(|()| None),
                None => Ok(None),
            },
        };
        match result {
            Ok(container) => finished(container.as_deref(), Ok(())),
            Err(error) => finished(self.table.of_task(task).as_deref(), Err(failure(&error, kind))),
        }
    }

    async fn wait_for(self: &Arc<Self>, task: TaskId, cancel: &CancellationToken) -> Result<Arc<Container>> {
        let container = self.container_of(task)?;
        if container.state() == ContainerState::Created {
            // It is said to have been started: the machine lost power before its records reached the disk.
            return Err(EngineError::NotRunning(container.record.name.clone()));
        }
        let state = tokio::select! {
            biased;
            state = container.ended() => state,
            () = self.unhealthy(&container) => {
                self.stop_unhealthy(&container).await?;
                container.state()
            }
            () = cancel.cancelled() => return Err(EngineError::Cancelled),
        };
        match state {
            ContainerState::Removed => Err(EngineError::NoSuchContainer(container.record.name.clone())),
            _ => Ok(container),
        }
    }

    /// Started is a task when its container is healthy.
    async fn start_task(self: &Arc<Self>, container: &Arc<Container>, cancel: &CancellationToken) -> Result<()> {
        self.start(container).await?;
        self.first_healthy(container, cancel).await
    }

    async fn shut_down(self: &Arc<Self>, task: TaskId, cancel: &CancellationToken) -> Result<Option<Arc<Container>>> {
        let Some(container) = self.table.of_task(task) else { return Ok(None) };
        self.stop(&container, None, None, cancel).await?;
        Ok(Some(container))
    }
}

fn finished(container: Option<&Container>, result: std::result::Result<(), Failure>) -> Finished {
    let ports = container.map(Container::ports).unwrap_or_default();
    let ports = ports.iter().filter(|port| port.host_mode && port.published != 0).map(|port| port.to_model());
    let ended_at = container.and_then(|container| match container.state() {
        ContainerState::Exited(record) => parse_time(&record.finished_at).ok().flatten().map(WallTime),
        _ => None,
    });
    Finished { result, container: container.map(Container::status), ports: ports.collect(), ended_at }
}

/// What a failure means depends on what failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start,
    /// A stop or a removal is always tried again: giving up would leave a container running.
    End,
    Other,
}

fn failure(error: &EngineError, kind: Kind) -> Failure {
    match error {
        EngineError::Cancelled | EngineError::Closing => return Failure::Cancelled,
        EngineError::NoSuchContainer(_) | EngineError::Ended(_) => return Failure::Fatal(error.full_text()),
        EngineError::Unkillable(_) | EngineError::Network(skep_network::NetworkError::Busy(_)) => {
            return Failure::Temporary(error.full_text());
        }
        _ => {}
    }
    match kind {
        Kind::Start => Failure::Fatal(format!("starting container failed: {}", error.full_text())),
        Kind::End => Failure::Temporary(error.full_text()),
        Kind::Other => Failure::Fatal(error.full_text()),
    }
}
