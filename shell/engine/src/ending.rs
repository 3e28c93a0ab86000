//! How a container ends: its end is waited for by a watcher in the background, asked for by a stop, or forced by a removal.
//! Whoever learns of it first, the order is: out of traffic, ended, endpoint released.

use std::sync::Arc;
use std::time::Duration;

use skep_oci::{ExitRecord, Status};
use tokio_util::sync::CancellationToken;

use crate::blueprint::parse_signal;
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::lifecycle::{never_started, state_of};
use crate::tell::NOTHING;
use crate::view::ContainerState;

/// How long a container may live after SIGKILL before it is called stuck.
const KILL_PATIENCE: Duration = Duration::from_secs(15);
/// Longest pause before a shim that does not answer is asked again.
const REASK_MAX: Duration = Duration::from_secs(2);

/// Which end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run; at once when it does not.
    #[default]
    NotRunning,
    /// The next end after the call.
    NextExit,
    /// It is deleted.
    Removed,
}

/// An end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    /// Exit code.
    pub exit_code: i32,
    /// Why it could not be started, if so.
    pub error: Option<String>,
}

impl Ended {
    pub(crate) fn of(exit: &ExitRecord) -> Self {
        Self { exit_code: exit.exit_code, error: exit.error.clone() }
    }
}

/// Waits for an end. What counts as one is settled by the call, not by the first poll of the future.
pub(crate) fn wait(container: &Arc<Container>, condition: WaitCondition) -> impl Future<Output = Ended> + Send + use<> {
    let (mut ends, mut states) = (container.ends(), container.watch());
    let (before, last) = ends.borrow_and_update().clone();
    let state = states.borrow_and_update().clone();
    let runs = matches!(state, ContainerState::Running { .. } | ContainerState::Starting) || container.is_restarting();
    let now = state == ContainerState::Removed || (condition == WaitCondition::NotRunning && !runs);
    // Keeps the container's watches alive.
    let container = container.clone();
    async move {
        if now {
            return last;
        }
        let removed = async { states.wait_for(|state| *state == ContainerState::Removed).await.map(drop) };
        let ended = async { ends.wait_for(|(count, _)| *count > before).await.map(drop) };
        let waited = match condition {
            WaitCondition::Removed => removed.await,
            WaitCondition::NotRunning | WaitCondition::NextExit => tokio::select! {
                biased;
                waited = ended => waited,
                waited = removed => waited,
            },
        };
        waited.expect("the senders live as long as the container");
        container.ends().borrow().1.clone()
    }
}

impl Inner {
    /// Follows a container to its end, in the background.
    pub(crate) fn watch(self: &Arc<Self>, container: Arc<Container>) {
        self.watch_health(&container);
        let inner = self.clone();
        self.tracker.spawn_on(
            async move {
                let closing = inner.closing.clone();
                tokio::select! {
                    () = closing.cancelled() => {}
                    record = inner.end_of(&container) => inner.settle(&container, record).await,
                }
            },
            &self.runtime,
        );
    }

    async fn end_of(self: &Arc<Self>, container: &Arc<Container>) -> ExitRecord {
        let mut pause = Duration::from_millis(10);
        loop {
            if container.state() != ContainerState::Starting
                && let Ok(client) = container.client().await
                && let Ok(record) = client.wait().await
            {
                return record;
            }
            match self.look(container).await {
                Ok(ContainerState::Exited(record)) => return record,
                Ok(state) if state.is_running() && container.state() == ContainerState::Starting => {
                    self.begin_running(container, state).await;
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    let error = error.full_text();
                    tracing::error!(container.id = container.id(), error, "cannot tell how a container goes");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REASK_MAX);
        }
    }

    /// A container that an earlier engine was starting runs now.
    async fn begin_running(self: &Arc<Self>, container: &Arc<Container>, state: ContainerState) {
        let Some(endpoint) = self.network.endpoint(container.id()) else {
            return container.set_state(state);
        };
        if let Err(error) = self.publisher.enter(container.id(), endpoint.address, &self.open_ports(container)).await {
            let error = error.full_text();
            tracing::error!(container.id = container.id(), error, "cannot publish the ports of a container");
        }
        container.set_state(state);
    }

    /// What became of a container whose shim does not answer.
    async fn look(self: &Arc<Self>, container: &Arc<Container>) -> Result<ContainerState> {
        let bundle = container.bundle();
        self.blocking(move |_| {
            Ok(match state_of(&bundle)? {
                // It was starting and came to nothing.
                ContainerState::Created => {
                    ContainerState::Exited(never_started(128, "the container's shim was killed"))
                }
                state => state,
            })
        })
        .await
    }

    /// The end of a container: ports that the next one may want are free before anybody hears of it. Who starts it again
    /// waits for `release`, so that the network of the next run is not taken away with that of this one.
    async fn settle(self: &Arc<Self>, container: &Arc<Container>, record: ExitRecord) {
        let release = container.release.lock().await;
        if container.has_host_ports() {
            self.release_held(container).await;
        }
        self.leave_storage(container).await;
        let after = self.decide_after(container, &record);
        container.set_state_and(ContainerState::Exited(record.clone()), || self.tell_end(container, &record));
        self.execs.forget_ended(container.id());
        self.release_held(container).await;
        drop(release);
        self.follow_end(container, after);
    }

    /// Takes a container that does not run out of traffic and its endpoint away. A failure is for the next engine, or for
    /// the removal, to mend.
    pub(crate) async fn release(self: &Arc<Self>, container: &Arc<Container>) {
        let _release = container.release.lock().await;
        self.release_held(container).await;
    }

    /// [`Self::release`] for who holds the lock.
    async fn release_held(self: &Arc<Self>, container: &Arc<Container>) {
        self.withdraw(container).await;
        let Ok(_turn) = self.removals.acquire().await else { return };
        let id = container.id().to_owned();
        if self.network.endpoint(&id).is_some() {
            self.tell_networks("disconnect", container);
        }
        if let Err(error) = self.blocking(move |inner| Ok(inner.network.remove_endpoint(&id)?)).await {
            let error = error.full_text();
            tracing::warn!(container.id = container.id(), error, "cannot release a network endpoint");
        }
    }

    /// Takes a container out of traffic. It is stopped also when this fails: its endpoint's removal takes it out, too.
    pub(crate) async fn withdraw(&self, container: &Container) {
        if let Err(error) = self.publisher.leave(container.id()).await {
            let error = error.full_text();
            tracing::error!(container.id = container.id(), error, "cannot take a container out of the published ports");
        }
    }

    /// Sends a signal to the first process.
    pub(crate) async fn signal(self: &Arc<Self>, container: &Arc<Container>, signal: i32) -> Result<()> {
        Ok(container.client().await?.kill(signal).await?)
    }

    /// Out of traffic, stop signal, grace, SIGKILL. When cancelled, the rest of the grace is cut short. One that does not
    /// run is left as it is.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: Option<i32>,
        grace: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        match self.started(container).await? {
            ContainerState::Running { .. } => {}
            ContainerState::Created => {
                let _operation = container.operation.lock().await;
                if container.state() == ContainerState::Created {
                    self.release(container).await;
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.withdraw(container).await;
        let signal = signal.or_else(|| parse_signal(&container.record.stop_signal).ok()).unwrap_or(15);
        if let Err(error) = self.signal(container, signal).await {
            tracing::debug!(container.id = container.id(), %error, "cannot send the stop signal");
        }
        self.tell(container, "kill", [("signal", signal.to_string())]);
        if container.is_paused() {
            // A frozen process obeys no signal.
            self.thaw(container).await;
        }
        let grace = grace.unwrap_or_else(|| container.record.stop_grace());
        tokio::select! {
            biased;
            _ = container.ended() => {
                self.tell(container, "stop", NOTHING);
                return Ok(());
            }
            // The end of the daemon must not cut the grace short: looked at before `cancel`, which may be its child.
            () = self.closing.cancelled() => return Err(EngineError::Closing),
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(grace) => {}
        }
        self.tell(container, "kill", [("signal", nix::libc::SIGKILL.to_string())]);
        self.kill_hard(container).await?;
        self.tell(container, "stop", NOTHING);
        Ok(())
    }

    /// SIGKILL, until it has ended.
    pub(crate) async fn kill_hard(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if self.signal(container, nix::libc::SIGKILL).await.is_err() {
            let bundle = container.bundle();
            self.blocking(move |_| {
                if let Status::Alive(pids) = bundle.status()?
                    && let Some(init) = pids.init
                {
                    let _ = init.kill(nix::libc::SIGKILL);
                }
                Ok(())
            })
            .await?;
        }
        tokio::select! {
            biased;
            _ = container.ended() => Ok(()),
            // Nobody watches it any more: its end is for the next engine to learn.
            () = self.closing.cancelled() => Err(EngineError::Closing),
            () = tokio::time::sleep(KILL_PATIENCE) => Err(EngineError::Unkillable(container.id().to_owned())),
        }
    }

    /// How a container goes once it is no longer starting; an engine that closes does not learn it.
    pub(crate) async fn started(&self, container: &Container) -> Result<ContainerState> {
        tokio::select! {
            biased;
            state = container.reach(|state| *state != ContainerState::Starting) => Ok(state),
            () = self.closing.cancelled() => Err(EngineError::Closing),
        }
    }

    /// Ends a container and removes everything of it.
    pub(crate) async fn remove(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        self.remove_held(container).await
    }

    /// [`Self::remove`] for who holds the operation.
    pub(crate) async fn remove_held(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        container.set_restarting_by_hand(true);
        container.cancel_restart();
        match self.started(container).await? {
            ContainerState::Removed => return Ok(()),
            ContainerState::Running { .. } => {
                self.withdraw(container).await;
                self.tell(container, "kill", [("signal", nix::libc::SIGKILL.to_string())]);
                self.kill_hard(container).await?;
            }
            _ => {}
        }
        let _release = container.release.lock().await;
        self.withdraw(container).await;
        let _turn = self.removals.acquire().await.map_err(|_| EngineError::Closing)?;
        let (gone, created) = (container.clone(), container.state() == ContainerState::Created);
        self.blocking(move |inner| {
            if created && gone.directory.bundle().exists() {
                gone.bundle().cleanup()?;
            }
            inner.unmake(gone.id())
        })
        .await?;
        self.table.remove(container);
        self.execs.forget(container.id());
        self.healths.forget(container.id());
        drop(container.take_waiting());
        container.set_state_and(ContainerState::Removed, || self.tell(container, "destroy", NOTHING));
        Ok(())
    }
}
