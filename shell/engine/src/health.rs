//! The health of containers: a check is run in a container from time to time, and what it says makes the container healthy or
//! unhealthy. The rules and texts are Docker's (`daemon/health.go`).
//!
//! Whoever waits for the first healthy moment of a task, or for an unhealthy one, watches [`Health`]; traffic of the routing mesh
//! comes only after the first. Checks of all containers share a bounded number of turns, and those of containers that were taken
//! over begin at different moments, so that they do not all run at once. Timers are not kept: a new engine starts them anew. The
//! last word on a run of a container is in `health.json`, so that one that was healthy does not lose its traffic.

mod check;
mod probe;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::layout::{Durability, write_json};
use crate::logs::parse_time;
use crate::record::PortRecord;
use crate::tell::NOTHING;
use crate::view::ContainerState;

pub use check::HealthCheck;

/// Results that are kept.
const KEPT: usize = 5;
/// Why a task failed whose container was unhealthy (moby `executor/container/errors.go`).
const UNHEALTHY: &str = "dockerexec: unhealthy container";

/// What is known of a container's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No check has decided yet.
    #[default]
    Starting,
    /// The last check went well, or too few have failed since.
    Healthy,
    /// Too many checks in a row have failed.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How the checks of a container went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// What they say together.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u64,
    /// The last results, oldest first.
    pub log: Vec<HealthResult>,
    /// It has been healthy in this run.
    was_healthy: bool,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthResult {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// 0 is healthy; -1 when there is none.
    pub exit_code: i32,
    /// What it printed, cut at 4096 bytes.
    pub output: String,
}

impl Health {
    /// Takes one result in; `counts` is false for a failure in the start period.
    fn note(&mut self, result: HealthResult, retries: u64, counts: bool) {
        if result.exit_code == 0 {
            (self.status, self.failing_streak, self.was_healthy) = (HealthStatus::Healthy, 0, true);
        } else if counts || self.status != HealthStatus::Starting {
            self.failing_streak += 1;
            if self.failing_streak >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        let surplus = (self.log.len() + 1).saturating_sub(KEPT);
        self.log.drain(..surplus);
        self.log.push(result);
    }
}

/// `health.json`: the last word on one run of a container.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LastWord {
    started_at: String,
    status: HealthStatus,
}

/// The checks of one run of a container.
#[derive(Debug)]
struct Run {
    health: watch::Sender<Health>,
    /// It was taken over from an earlier engine.
    adopted: bool,
}

/// The health of all containers that have a check.
#[derive(Debug)]
pub(crate) struct Healths {
    runs: Mutex<BTreeMap<String, Arc<Run>>>,
    /// Checks that may run at a time; the others wait.
    turns: Semaphore,
}

impl Default for Healths {
    fn default() -> Self {
        let turns = 2 * std::thread::available_parallelism().map_or(2, usize::from).max(2);
        Self { runs: Mutex::default(), turns: Semaphore::new(turns) }
    }
}

impl Healths {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, container: &str) -> Option<Arc<Run>> {
        self.runs().get(container).cloned()
    }

    pub(crate) fn of(&self, container: &str) -> Option<Health> {
        self.run(container).map(|run| run.health.borrow().clone())
    }

    pub(crate) fn forget(&self, container: &str) {
        self.runs().remove(container);
    }

    fn begin(&self, container: &str, run: Run) {
        self.runs().insert(container.to_owned(), Arc::new(run));
    }
}

impl Inner {
    /// A container is about to run anew.
    pub(crate) fn begin_health(&self, container: &Container) {
        if container.check().is_none() {
            return;
        }
        let log = self.healths.of(container.id()).map(|health| health.log).unwrap_or_default();
        let health = watch::Sender::new(Health { log, ..Health::default() });
        self.healths.begin(container.id(), Run { health, adopted: false });
    }

    /// A container runs that an earlier engine started: the last word on this run counts.
    pub(crate) fn adopt_health(&self, container: &Container) {
        if container.check().is_none() {
            return;
        }
        let state = container.state();
        let started_at = started_at(&state);
        let bytes = std::fs::read(container.directory.health()).unwrap_or_default();
        let last = serde_json::from_slice::<LastWord>(&bytes).ok().filter(|last| last.started_at == started_at);
        let status = last.map(|last| last.status).unwrap_or_default();
        let was_healthy = status != HealthStatus::Starting;
        let health = watch::Sender::new(Health { status, was_healthy, ..Health::default() });
        self.healths.begin(container.id(), Run { health, adopted: true });
    }

    /// The ports on which a container may have traffic now: those of the routing mesh wait until it is healthy.
    pub(crate) fn open_ports(&self, container: &Container) -> Vec<PortRecord> {
        let mut ports = container.ports();
        if container.check().is_some() && !self.healths.of(container.id()).is_some_and(|health| health.was_healthy) {
            ports.retain(|port| port.host_mode);
        }
        ports
    }

    /// Runs the checks of a container until it ends, in the background.
    pub(crate) fn watch_health(self: &Arc<Self>, container: &Arc<Container>) {
        let (Some(check), Some(run)) = (container.check().cloned(), self.healths.run(container.id())) else { return };
        let (inner, container) = (self.clone(), container.clone());
        self.tracker.spawn_on(
            async move {
                let closing = inner.closing.clone();
                tokio::select! {
                    biased;
                    () = closing.cancelled() => {}
                    () = inner.keep_checking(&container, &check, &run) => {}
                }
            },
            &self.runtime,
        );
    }

    async fn keep_checking(self: &Arc<Self>, container: &Arc<Container>, check: &HealthCheck, run: &Arc<Run>) {
        let state = container.reach(|state| *state != ContainerState::Starting).await;
        let started_at = started_at(&state).to_owned();
        let begun = Instant::now();
        let age = age(&started_at);
        let goes_on = || {
            // Another run of the container has checks of its own.
            self.healths.run(container.id()).is_some_and(|current| Arc::ptr_eq(&current, run))
                && container.state().is_running()
        };
        let mut first = run.adopted;
        while goes_on() {
            let starting = run.health.borrow().status == HealthStatus::Starting;
            let mut pause = check.pause(age + begun.elapsed(), starting);
            if std::mem::take(&mut first) {
                pause = pause.mul_f64(share(container.id()));
            }
            tokio::select! {
                biased;
                _ = container.ended() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if container.is_paused() {
                continue;
            }
            let before = age + begun.elapsed();
            let Some(result) = self.probe(container, check).await else { return };
            if !goes_on() {
                return;
            }
            self.take_result(container, check, run, result, before >= check.start_period(), &started_at).await;
        }
    }

    async fn take_result(
        self: &Arc<Self>,
        container: &Arc<Container>,
        check: &HealthCheck,
        run: &Arc<Run>,
        result: HealthResult,
        counts: bool,
        started_at: &str,
    ) {
        let before = run.health.borrow().clone();
        let mut after = before.clone();
        after.note(result, check.retries(), counts);
        let status = after.status;
        if status == before.status {
            run.health.send_replace(after);
            return;
        }
        if status != HealthStatus::Healthy || before.was_healthy {
            run.health.send_replace(after);
        } else {
            // Traffic first: who hears that it is healthy may rely on it.
            run.health.send_modify(|health| health.was_healthy = true);
            if let Err(error) = self.admit(container).await {
                let error = error.full_text();
                tracing::error!(
                    container.id = container.id(),
                    error,
                    "cannot publish the ports of a healthy container"
                );
            }
            run.health.send_replace(after);
        }
        let (last, path) = (LastWord { started_at: started_at.to_owned(), status }, container.directory.health());
        let written = self.blocking(move |_| write_json(&path, &last, Durability::Process)).await;
        if let Err(error) = written {
            tracing::warn!(
                container.id = container.id(),
                error = error.full_text(),
                "cannot note the health of a container"
            );
        }
        self.tell(container, format!("health_status: {}", status.name()), NOTHING);
    }

    /// Waits until a task's container that was just started is healthy, if it has a check. One that becomes unhealthy is
    /// stopped.
    pub(crate) async fn first_healthy(
        self: &Arc<Self>,
        container: &Arc<Container>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let Some(run) = self.healths.run(container.id()) else { return Ok(()) };
        let mut watch = run.health.subscribe();
        let status = tokio::select! {
            biased;
            state = container.ended() => return match state.exit_code() {
                0 => Ok(()),
                code => Err(EngineError::Ended(format!("task: non-zero exit ({code})"))),
            },
            health = watch.wait_for(|health| health.status != HealthStatus::Starting) => {
                health.map(|health| health.status).unwrap_or_default()
            }
            () = cancel.cancelled() => return Err(EngineError::Cancelled),
        };
        if status == HealthStatus::Unhealthy { self.stop_unhealthy(container).await } else { Ok(()) }
    }

    /// Ends when a container is unhealthy; never without a check.
    pub(crate) async fn unhealthy(&self, container: &Container) {
        if let Some(run) = self.healths.run(container.id()) {
            let mut watch = run.health.subscribe();
            if watch.wait_for(|health| health.status == HealthStatus::Unhealthy).await.is_ok() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Stops the unhealthy container of a task, in order; the error is why the task failed.
    pub(crate) async fn stop_unhealthy(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        // Whoever asks for its end meanwhile gets it with the same grace.
        self.stop(container, None, None, &CancellationToken::new()).await?;
        Err(EngineError::Ended(match container.state().exit_code() {
            0 => UNHEALTHY.to_owned(),
            code => format!("task: non-zero exit ({code}): {UNHEALTHY}"),
        }))
    }
}

impl Container {
    /// Its health check, if it is to be run.
    fn check(&self) -> Option<&HealthCheck> {
        self.record.health.as_ref().filter(|check| check.is_run())
    }
}

fn started_at(state: &ContainerState) -> &str {
    if let ContainerState::Running { started_at, .. } = state { started_at } else { "" }
}

/// How long ago it was started, by the clock of the wall: that of the machine is not the one it was started by.
fn age(started_at: &str) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started = parse_time(started_at).ok().flatten().and_then(|nanos| u64::try_from(nanos).ok());
    started.map_or(Duration::ZERO, |nanos| now.saturating_sub(Duration::from_nanos(nanos)))
}

/// A number from 0 to 1 that is different for every container.
fn share(id: &str) -> f64 {
    let digits = id.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    f64::from(digits.unwrap_or(u16::MAX)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthResult {
        HealthResult { exit_code, ..HealthResult::default() }
    }

    #[test]
    fn failures_count_in_a_row_and_not_in_the_start_period() {
        let mut health = Health::default();
        health.note(result(1), 2, false);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        health.note(result(1), 2, true);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 1));
        health.note(result(0), 2, true);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        // Once it was healthy the start period is over.
        health.note(result(1), 2, false);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 1));
        health.note(result(-1), 2, true);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 2));
        health.note(result(1), 2, true);
        assert_eq!((health.log.len(), health.failing_streak), (5, 3));
        assert_eq!(health.log.iter().map(|result| result.exit_code).collect::<Vec<_>>(), [1, 0, 1, -1, 1]);
        health.note(result(0), 2, true);
        assert_eq!(health.status, HealthStatus::Healthy);
    }
}
