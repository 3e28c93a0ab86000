//! Restart policies of containers made by hand: whether one that ended is started again, and after which pause. The rules are
//! Docker's (`restartmanager`). Containers of tasks have none: the managers decide there.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_oci::ExitRecord;
use tokio_util::sync::CancellationToken;

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::facts::Facts;
use crate::lifecycle::never_started;
use crate::logs::parse_time;
use crate::view::ContainerState;

/// Pause before the first restart, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A run of this length makes the next pause the shortest again.
const LONG_RUN: Duration = Duration::from_secs(10);

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// In which case.
    pub kind: RestartKind,
    /// How often at most after failures; 0 is without end.
    #[serde(default)]
    pub max_retries: u32,
}

/// In which case a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartKind {
    /// Never.
    #[default]
    No,
    /// When its exit code is not 0.
    OnFailure,
    /// Unless the user stopped it; and when the engine starts, also then.
    Always,
    /// Unless the user stopped it.
    UnlessStopped,
}

impl RestartKind {
    /// Docker's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }
}

impl RestartPolicy {
    /// After failures, so often at most; 0 is without end.
    #[must_use]
    pub fn on_failure(max_retries: u32) -> Self {
        Self { kind: RestartKind::OnFailure, max_retries }
    }

    /// Reads Docker's words.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] with Docker's texts.
    pub fn parse(name: &str, max_retries: i64) -> Result<Self> {
        let kind = match name {
            "" | "no" => RestartKind::No,
            "on-failure" => RestartKind::OnFailure,
            "always" => RestartKind::Always,
            "unless-stopped" => RestartKind::UnlessStopped,
            other => {
                let text = format!(
                    "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', \
                                    'on-failure', or 'unless-stopped'"
                );
                return Err(EngineError::Invalid(text));
            }
        };
        let invalid = |text: &str| Err(EngineError::Invalid(format!("invalid restart policy: {text}")));
        if max_retries != 0 && kind != RestartKind::OnFailure {
            let and = if max_retries < 0 { " and cannot be negative" } else { "" };
            return invalid(&format!("maximum retry count can only be used with 'on-failure'{and}"));
        }
        match u32::try_from(max_retries) {
            Ok(max_retries) => Ok(Self { kind, max_retries }),
            Err(_) if max_retries < 0 => invalid("maximum retry count cannot be negative"),
            Err(_) => invalid("maximum retry count is too large"),
        }
    }

    /// Whether a container that ended like this is started again.
    fn mends(self, exit_code: i32, facts: &Facts) -> bool {
        match self.kind {
            RestartKind::No => false,
            RestartKind::Always | RestartKind::UnlessStopped => !facts.stopped_by_hand,
            RestartKind::OnFailure => {
                !facts.stopped_by_hand && exit_code != 0 && (self.max_retries == 0 || facts.restarts < self.max_retries)
            }
        }
    }
}

/// How long a run took.
pub(crate) fn ran(record: &ExitRecord) -> Duration {
    let time = |text: &str| parse_time(text).ok().flatten().unwrap_or(0);
    let nanos = time(&record.finished_at).saturating_sub(time(&record.started_at));
    if record.started_at.is_empty() { Duration::ZERO } else { Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)) }
}

/// The pause after a run of this length, when the one before was `last`.
fn next_pause(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < LONG_RUN => (last * 2).min(PAUSE_MAX),
        _ => PAUSE_MIN,
    }
}

impl Inner {
    /// What follows the end of a run; a restart is planned with it. Decided before the end is told, so that nobody sees a container as ended for good that
    /// is about to be restarted: [`Self::follow_end`] does it.
    pub(crate) fn decide_after(&self, container: &Arc<Container>, record: &ExitRecord) -> AfterEnd {
        if container.record.by_hand.is_none() || container.is_restarting_by_hand() || self.closing.is_cancelled() {
            return AfterEnd::Nothing;
        }
        if container.policy().mends(record.exit_code, &container.facts()) {
            let pause = next_pause(container.last_pause(), ran(record));
            container.set_last_pause(Some(pause));
            container.plan_restart();
            return AfterEnd::Restart(pause);
        }
        if container.is_auto_removed() { AfterEnd::Remove } else { AfterEnd::Nothing }
    }

    /// Restarts or removes a container that ended, in the background.
    pub(crate) fn follow_end(self: &Arc<Self>, container: &Arc<Container>, after: AfterEnd) {
        let (inner, container) = (self.clone(), container.clone());
        match after {
            AfterEnd::Nothing => {}
            AfterEnd::Remove => {
                self.tracker.spawn_on(
                    async move {
                        if let Err(error) = inner.remove(&container).await {
                            let error = error.full_text();
                            tracing::warn!(container.id = container.id(), error, "cannot remove an ended container");
                        }
                    },
                    &self.runtime,
                );
            }
            AfterEnd::Restart(pause) => {
                // Taken back already by who stopped or started it meanwhile.
                let Some(planned) = container.planned_restart() else { return };
                let work = async move { inner.restart_after(container, planned, pause).await };
                self.tracker.spawn_on(work, &self.runtime);
            }
        }
    }

    /// Starts a container again after its pause, unless somebody else decided meanwhile.
    async fn restart_after(
        self: Arc<Self>,
        container: Arc<Container>,
        planned: Arc<CancellationToken>,
        pause: Duration,
    ) {
        tokio::select! {
            () = self.closing.cancelled() => return,
            () = planned.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let operation = container.operation.lock().await;
        if planned.is_cancelled() || self.closing.is_cancelled() {
            return;
        }
        let Err(error) = self.restart_by_policy(&container).await else { return container.finish_restart(&planned) };
        let text = error.full_text();
        tracing::warn!(container.id = container.id(), error = text, "cannot restart a container");
        // As if it had run and failed: the policy says whether it is tried again.
        let record = match container.state() {
            ContainerState::Exited(record) if record.error.is_some() => record,
            _ => never_started(128, &text),
        };
        container.finish_restart(&planned);
        let after = self.decide_after(&container, &record);
        container.set_state(ContainerState::Exited(record));
        drop(operation);
        self.follow_end(&container, after);
    }

    /// The operation is held.
    async fn restart_by_policy(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let last_run = container.last_run();
        self.change_facts(container, move |facts| {
            facts.restarts = facts.restarts.saturating_add(1);
            facts.stopped_by_hand = false;
            facts.last_run = last_run;
        })
        .await?;
        self.launch_container(container).await
    }

    /// What earlier engines left to do for containers that do not run.
    pub(crate) fn resume_policies(self: &Arc<Self>, containers: &[Arc<Container>]) {
        for container in containers {
            let facts = container.facts();
            if container.record.by_hand.is_none() || !facts.started {
                continue;
            }
            let policy = container.policy();
            let after = match container.state() {
                // Its start was cut short.
                ContainerState::Created if policy.kind != RestartKind::No => AfterEnd::Restart(Duration::ZERO),
                // Docker starts also the stopped ones when it begins.
                ContainerState::Exited(_) if policy.kind == RestartKind::Always => AfterEnd::Restart(Duration::ZERO),
                ContainerState::Exited(record) if policy.mends(record.exit_code, &facts) => {
                    AfterEnd::Restart(Duration::ZERO)
                }
                ContainerState::Exited(_) if container.is_auto_removed() => AfterEnd::Remove,
                _ => AfterEnd::Nothing,
            };
            if let AfterEnd::Restart(_) = after {
                container.plan_restart();
            }
            self.follow_end(container, after);
        }
    }
}

/// What follows the end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterEnd {
    /// It stays as it is.
    Nothing,
    /// It is removed, as its user asked.
    Remove,
    /// It is started again after a pause.
    Restart(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_in_dockers_words() {
        assert_eq!(RestartPolicy::parse("on-failure", 3).unwrap(), RestartPolicy::on_failure(3));
        assert_eq!(RestartPolicy::parse("", 0).unwrap().kind.name(), "no");
        for (name, retries, text) in [
            ("bogus", 0, "unknown policy 'bogus'"),
            ("always", 1, "can only be used with 'on-failure'"),
            ("on-failure", -1, "cannot be negative"),
        ] {
            let error = RestartPolicy::parse(name, retries).unwrap_err().to_string();
            assert!(error.starts_with("invalid restart policy: ") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn what_ended_is_mended_by_its_policy() {
        let facts = |stopped_by_hand, restarts| Facts { stopped_by_hand, restarts, ..Facts::default() };
        let policy = |name| RestartPolicy::parse(name, 0).unwrap();
        assert!(!policy("no").mends(1, &facts(false, 0)));
        assert!(policy("always").mends(0, &facts(false, 9)) && !policy("always").mends(1, &facts(true, 0)));
        assert!(policy("unless-stopped").mends(0, &facts(false, 0)));
        let failing = RestartPolicy::on_failure(2);
        assert!(failing.mends(1, &facts(false, 1)) && !failing.mends(1, &facts(false, 2)));
        assert!(!failing.mends(0, &facts(false, 0)) && !failing.mends(137, &facts(true, 0)));
    }

    #[test]
    fn pauses_double_until_a_long_run() {
        let short = Duration::from_secs(1);
        let mut pause = next_pause(None, short);
        assert_eq!(pause, PAUSE_MIN);
        for _ in 0..20 {
            pause = next_pause(Some(pause), short);
        }
        assert_eq!(pause, PAUSE_MAX);
        assert_eq!(next_pause(Some(pause), LONG_RUN), PAUSE_MIN);
    }
}
