//! One container in memory: what it was prepared as, how it goes, and the locks that keep its operations apart.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_model::ContainerStatus;
use skep_oci::{AttachEnds, Bundle, ExitRecord, ShimClient};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::attach::{self, Waiting};
use crate::contents::Contents;
use crate::ending::Ended;
use crate::error::Result;
use crate::facts::Facts;
use crate::layout::Directory;
use crate::record::{NetworkRecord, PortRecord, Record};
use crate::restart::RestartPolicy;
use crate::view::ContainerState;

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: Arc<Record>,
    pub(crate) directory: Directory,
    /// Changed only by who holds `operation`, and by the watcher of its end.
    state: watch::Sender<ContainerState>,
    /// Held while it is started or removed.
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// Held while its endpoint is taken away.
    pub(crate) release: tokio::sync::Mutex<()>,
    /// Ports with the numbers chosen here, from its start on.
    ports: Mutex<Option<Vec<PortRecord>>>,
    /// Changed only by who holds `changing`, after the file.
    facts: Mutex<Facts>,
    /// Held while its facts are changed.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// How many of its runs have ended, and the last end.
    ends: watch::Sender<(u64, Ended)>,
    paused: AtomicBool,
    /// A restart that waits for its time.
    planned: Mutex<Option<Arc<CancellationToken>>>,
    /// The pause before the last restart by its policy.
    last_pause: Mutex<Option<Duration>>,
    /// Clients that are attached to its next run.
    waiting: Mutex<Vec<Waiting>>,
    /// The user restarts it: its end is not one for good.
    restarting_by_hand: AtomicBool,
    /// What its secrets and configs hold, until it has started.
    contents: Mutex<Option<Contents>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    pub(crate) fn new(record: Record, facts: Facts, directory: Directory, state: ContainerState) -> Self {
        let last = if let ContainerState::Exited(exit) = &state { Ended::of(exit) } else { Ended::default() };
        Self {
            record: Arc::new(record),
            directory,
            state: watch::Sender::new(state),
            operation: tokio::sync::Mutex::new(()),
            release: tokio::sync::Mutex::new(()),
            ports: Mutex::new(None),
            facts: Mutex::new(facts),
            changing: tokio::sync::Mutex::new(()),
            ends: watch::Sender::new((0, last)),
            paused: AtomicBool::new(false),
            planned: Mutex::new(None),
            last_pause: Mutex::new(None),
            waiting: Mutex::default(),
            restarting_by_hand: AtomicBool::new(false),
            contents: Mutex::new(None),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn hold_contents(&self, contents: Contents) {
        *lock(&self.contents) = Some(contents);
    }

    pub(crate) fn take_contents(&self) -> Option<Contents> {
        lock(&self.contents).take()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.directory.bundle())
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    pub(crate) fn set_state(&self, state: ContainerState) {
        self.set_state_and(state, || {});
    }

    /// Changes the state, then does something, then tells those who wait for the change.
    pub(crate) fn set_state_and(&self, state: ContainerState, then: impl FnOnce()) {
        let ended = if let ContainerState::Exited(exit) = &state { Some(Ended::of(exit)) } else { None };
        if ended.is_some() {
            self.set_paused(false);
        }
        self.state.send_if_modified(|current| {
            *current = state;
            false
        });
        then();
        if let Some(ended) = ended {
            self.ends.send_modify(|(count, last)| {
                *count += 1;
                *last = ended;
            });
        }
        self.state.send_modify(|_| {});
    }

    /// How many of its runs have ended, and the last end; `Removed` is not counted.
    pub(crate) fn ends(&self) -> watch::Receiver<(u64, Ended)> {
        self.ends.subscribe()
    }

    /// Its name, which is that of its record until it is renamed.
    pub(crate) fn name(&self) -> String {
        lock(&self.facts).name.clone().unwrap_or_else(|| self.record.name.clone())
    }

    pub(crate) fn facts(&self) -> Facts {
        lock(&self.facts).clone()
    }

    /// For who holds `changing` and has written the file.
    pub(crate) fn set_facts(&self, facts: Facts) {
        *lock(&self.facts) = facts;
    }

    /// What it is now: the record with what was changed since.
    pub(crate) fn current(&self) -> Arc<Record> {
        let facts = lock(&self.facts);
        if facts.name.is_none() && facts.restart.is_none() && facts.resources.is_none() && facts.networks.is_none() {
            return self.record.clone();
        }
        let mut record = Record::clone(&self.record);
        if let Some(name) = &facts.name {
            record.name.clone_from(name);
        }
        if let Some(networks) = &facts.networks {
            record.networks.clone_from(networks);
        }
        if let Some(resources) = &facts.resources {
            record.config.resources.clone_from(resources);
        }
        if let (Some(by_hand), Some(restart)) = (&mut record.by_hand, facts.restart) {
            by_hand.restart = restart;
        }
        Arc::new(record)
    }

    /// Its networks now.
    pub(crate) fn networks(&self) -> Vec<NetworkRecord> {
        lock(&self.facts).networks.clone().unwrap_or_else(|| self.record.networks.clone())
    }

    /// When it is started again after an end.
    pub(crate) fn policy(&self) -> RestartPolicy {
        let asked = self.record.by_hand.as_ref().map(|by_hand| by_hand.restart).unwrap_or_default();
        lock(&self.facts).restart.unwrap_or(asked)
    }

    /// It is removed when it has ended.
    pub(crate) fn is_auto_removed(&self) -> bool {
        self.record.by_hand.as_ref().is_some_and(|by_hand| by_hand.auto_remove)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// A restart by its policy is to come.
    pub(crate) fn is_restarting(&self) -> bool {
        lock(&self.planned).is_some()
    }

    pub(crate) fn plan_restart(&self) {
        *lock(&self.planned) = Some(Arc::new(CancellationToken::new()));
    }

    pub(crate) fn planned_restart(&self) -> Option<Arc<CancellationToken>> {
        lock(&self.planned).clone()
    }

    /// The restart that was planned will not be; true when there was one.
    pub(crate) fn cancel_restart(&self) -> bool {
        lock(&self.planned).take().inspect(|planned| planned.cancel()).is_some()
    }

    /// This restart is done. Another one may be planned already, when it did not last long.
    pub(crate) fn finish_restart(&self, done: &Arc<CancellationToken>) {
        let mut planned = lock(&self.planned);
        if planned.as_ref().is_some_and(|planned| Arc::ptr_eq(planned, done)) {
            *planned = None;
        }
    }

    /// A client is attached to its next run.
    pub(crate) fn await_run(&self, client: Waiting) -> Result<()> {
        attach::add(&mut lock(&self.waiting), client)
    }

    /// The clients that waited for the run that begins.
    pub(crate) fn take_waiting(&self) -> Vec<AttachEnds> {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.into_iter().filter(Waiting::is_here).map(Waiting::into_ends).collect()
    }

    pub(crate) fn last_pause(&self) -> Option<Duration> {
        *lock(&self.last_pause)
    }

    pub(crate) fn set_last_pause(&self, pause: Option<Duration>) {
        *lock(&self.last_pause) = pause;
    }

    pub(crate) fn is_restarting_by_hand(&self) -> bool {
        self.restarting_by_hand.load(Ordering::Acquire)
    }

    pub(crate) fn set_restarting_by_hand(&self, restarting: bool) {
        self.restarting_by_hand.store(restarting, Ordering::Release);
    }

    /// How its last run ended, to be kept when the next one takes its place in the bundle.
    pub(crate) fn last_run(&self) -> Option<ExitRecord> {
        match self.state() {
            ContainerState::Exited(record) if !record.started_at.is_empty() => Some(record),
            _ => lock(&self.facts).last_run.clone(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<ContainerState> {
        self.state.subscribe()
    }

    /// Waits until the state is such, and gives it.
    pub(crate) async fn reach(&self, wanted: impl FnMut(&ContainerState) -> bool) -> ContainerState {
        let mut watch = self.watch();
        let reached = watch.wait_for(wanted).await;
        reached.expect("the sender lives as long as self").clone()
    }

    /// Waits until it neither runs nor starts.
    pub(crate) async fn ended(&self) -> ContainerState {
        self.reach(|state| matches!(state, ContainerState::Exited(_) | ContainerState::Removed)).await
    }

    pub(crate) fn ports(&self) -> Vec<PortRecord> {
        let chosen = lock(&self.ports);
        chosen.clone().unwrap_or_else(|| self.record.ports.clone())
    }

    pub(crate) fn set_ports(&self, ports: Vec<PortRecord>) {
        *lock(&self.ports) = Some(ports);
    }

    pub(crate) fn has_host_ports(&self) -> bool {
        self.record.ports.iter().any(|port| port.host_mode)
    }

    pub(crate) async fn client(&self) -> Result<ShimClient, skep_oci::ClientError> {
        ShimClient::connect(&self.bundle()).await
    }

    /// What the managers are told of it.
    pub(crate) fn status(&self) -> ContainerStatus {
        let state = self.state();
        ContainerStatus { container_id: self.id().to_owned(), pid: state.pid(), exit_code: state.exit_code() }
    }
}
