//! The state machine: which operation each task needs next, and what to tell the managers.
//!
//! Per task one operation is in flight; at most [`AgentConfig::preparations`] tasks prepare at a time and the others wait
//! in the order they came. A task that is asked to stop has its operation cancelled and goes on when that has ended. The
//! node's memory of a task wins over what the managers believe; without memory (a lost database) their belief counts, so
//! that a task that ran is looked for and never started twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_model::{DesiredState, TaskId, TaskState, TaskStatus, WallTime};

use crate::transition::{self, After, Next};
use crate::{Assignment, Change, Finished, Operation, Work};

/// Pause after a temporary error (SwarmKit `agent/task.go`).
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// What the status of a task says that cannot start before a session brings its values again.
const WITHHELD: &str =
    "waiting for a manager: the task's secrets, configs and registry credentials are not kept on this node";
/// Longest pause between tries to delete what a task left.
const REMOVE_DELAY_MAX: Duration = Duration::from_secs(32);

/// Settings of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentConfig {
    /// Most preparations at a time; the rest wait in the order they came.
    pub preparations: usize,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self { preparations: 16 }
    }
}

/// Now, in both clocks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Monotonic time since any fixed moment.
    pub monotonic: Duration,
    /// Wall time, for statuses.
    pub wall: WallTime,
}

/// What can happen to an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The whole set of assignments: every other task is removed. Never give one before all is known: an empty set wipes
    /// the node.
    Complete(Vec<Assignment>),
    /// Changes to the set.
    Incremental(Vec<Change>),
    /// An operation ended.
    Finished(TaskId, Finished),
    /// A session with the managers was opened: everything is reported again.
    SessionOpened,
    /// Time passed: [`Agent::wake_at`] was reached.
    Tick,
}

/// What the caller must do, in this order: forget and store (one write of its database), then report, cancel and begin.
///
/// The write need not reach the disk at once: a task whose last status is lost is found again by the executor, which
/// neither prepares nor starts twice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Actions {
    /// Tasks to delete from the database.
    pub forget: Vec<TaskId>,
    /// Tasks to write to the database, each whole.
    pub store: Vec<StoredTask>,
    /// Statuses to send to the managers; per task only the newest counts.
    pub report: Vec<TaskReport>,
    /// Operations to end early.
    pub cancel: Vec<TaskId>,
    /// Operations to begin.
    pub begin: Vec<Operation>,
}

impl Actions {
    /// True when there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A status for the managers.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskReport {
    /// The task.
    pub task_id: TaskId,
    /// Its status; `applied_at` means nothing here.
    pub status: TaskStatus,
}

/// A node's memory of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTask {
    /// What to run, with the newest desired state.
    pub assignment: Arc<Assignment>,
    /// How far it is.
    pub status: TaskStatus,
    /// Its record is deleted and what it left is being removed.
    pub removing: bool,
    /// It had secrets, configs or registry credentials. They are not to be stored, so that after a restart a task that has
    /// yet to start waits until a session brings them again.
    pub withheld: bool,
}

/// A node's tasks and what to do about them.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    tasks: BTreeMap<TaskId, Entry>,
    /// Tasks that wait for their turn to prepare, in the order they came.
    waiting: BTreeSet<(u64, TaskId)>,
    preparing: usize,
    retries: BTreeSet<(Duration, TaskId)>,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry {
    /// `None` for something the executor had that nobody remembers: kept until a complete set says what it is.
    assignment: Option<Arc<Assignment>>,
    status: TaskStatus,
    busy: Option<Work>,
    cancelled: bool,
    removing: bool,
    /// Assigned again while it is being removed: begins anew afterwards.
    again: Option<Assignment>,
    retry_at: Option<Duration>,
    failed_removals: u32,
    arrival: u64,
    /// Its values were not stored and no session has brought them again.
    withheld: bool,
}

/// Which tasks a step touched, collected so that each is stored and reported once, with its last status.
#[derive(Default)]
struct Step {
    now: Moment,
    actions: Actions,
    stored: BTreeSet<TaskId>,
    reported: BTreeSet<TaskId>,
}

impl Agent {
    /// An agent that goes on where an earlier one stopped: `stored` is its database, `found` what the executor has.
    ///
    /// Stored tasks that ran are waited for and not started again. Found ones that are not stored are left alone until
    /// the first complete set of assignments claims or removes them.
    #[must_use]
    pub fn restore(config: AgentConfig, now: Moment, stored: Vec<StoredTask>, found: &[TaskId]) -> (Self, Actions) {
        let mut agent = Self {
            config,
            tasks: BTreeMap::new(),
            waiting: BTreeSet::new(),
            preparing: 0,
            retries: BTreeSet::new(),
            arrivals: 0,
        };
        let mut step = Step { now, ..Step::default() };
        for task in stored {
            let id = task.assignment.task_id;
            let mut entry = agent.entry(Some(task.assignment), task.status);
            entry.removing = task.removing;
            entry.withheld = task.withheld;
            agent.tasks.insert(id, entry);
        }
        let remembered: Vec<TaskId> = agent.tasks.keys().copied().collect();
        for id in found {
            if !agent.tasks.contains_key(id) {
                let entry = agent.entry(None, unknown_status(now.wall));
                agent.tasks.insert(*id, entry);
            }
        }
        for id in remembered {
            agent.proceed(id, &mut step);
        }
        let actions = step.finish(&agent.tasks);
        (agent, actions)
    }

    /// Takes in one input; says what to do.
    pub fn step(&mut self, now: Moment, input: Input) -> Actions {
        let mut step = Step { now, ..Step::default() };
        match input {
            Input::Complete(assignments) => self.complete(assignments, &mut step),
            Input::Incremental(changes) => {
                for change in changes {
                    match change {
                        Change::Update(assignment) => self.update(*assignment, &mut step),
                        Change::Remove(id) => self.remove(id, &mut step),
                    }
                }
            }
            Input::Finished(id, finished) => self.finished(id, finished, &mut step),
            Input::SessionOpened => {
                let known = self.tasks.iter().filter(|(_, entry)| entry.is_reportable());
                step.reported.extend(known.map(|(id, _)| *id));
            }
            Input::Tick => self.retry(&mut step),
        }
        step.finish(&self.tasks)
    }

    /// When the next [`Input::Tick`] is due, in the caller's monotonic time.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        self.retries.first().map(|(at, _)| *at)
    }

    /// The status of every task that is known and not being removed.
    pub fn statuses(&self) -> impl Iterator<Item = (TaskId, &TaskStatus)> {
        self.tasks.iter().filter(|(_, entry)| entry.is_reportable()).map(|(id, entry)| (*id, &entry.status))
    }

    /// What a task was assigned, if it is known.
    #[must_use]
    pub fn assignment(&self, task: TaskId) -> Option<&Arc<Assignment>> {
        self.tasks.get(&task)?.assignment.as_ref()
    }

    /// True when nothing is in flight, waiting or to be retried.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.retries.is_empty() && self.waiting.is_empty() && self.tasks.values().all(|entry| entry.busy.is_none())
    }

    fn entry(&mut self, assignment: Option<Arc<Assignment>>, status: TaskStatus) -> Entry {
        self.arrivals += 1;
        Entry {
            assignment,
            status,
            busy: None,
            cancelled: false,
            removing: false,
            again: None,
            retry_at: None,
            failed_removals: 0,
            arrival: self.arrivals,
            withheld: false,
        }
    }

    fn complete(&mut self, assignments: Vec<Assignment>, step: &mut Step) {
        let listed: BTreeSet<TaskId> = assignments.iter().map(|assignment| assignment.task_id).collect();
        let gone: Vec<TaskId> = self.tasks.keys().filter(|id| !listed.contains(id)).copied().collect();
        for id in gone {
            self.remove(id, step);
        }
        for assignment in assignments {
            self.update(assignment, step);
        }
    }

    fn update(&mut self, mut assignment: Assignment, step: &mut Step) {
        let id = assignment.task_id;
        match self.tasks.get_mut(&id) {
            Some(entry) if entry.removing => {
                entry.again = Some(assignment);
                return;
            }
            Some(entry) if entry.assignment.is_some() => {
                if !entry.want(assignment) {
                    return;
                }
                step.stored.insert(id);
                self.cut_pause(id);
            }
            _ => {
                let known = assignment.known.take().filter(|status| status.state >= TaskState::Accepted);
                let status = known.unwrap_or_else(|| unknown_status(step.now.wall));
                forget_unneeded(&mut assignment, &status);
                let entry = self.entry(Some(Arc::new(assignment)), status);
                self.tasks.insert(id, entry);
                step.stored.insert(id);
            }
        }
        self.proceed(id, step);
    }

    fn remove(&mut self, id: TaskId, step: &mut Step) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        entry.again = None;
        if entry.removing {
            return;
        }
        entry.removing = true;
        self.cut_pause(id);
        step.stored.insert(id);
        self.proceed(id, step);
    }

    fn finished(&mut self, id: TaskId, finished: Finished, step: &mut Step) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        let Some(work) = entry.busy.take() else { return };
        let cancelled = std::mem::take(&mut entry.cancelled);
        if matches!(work, Work::Remove) {
            self.removed(id, finished, step);
            return;
        }
        if matches!(work, Work::Prepare(_)) {
            self.preparing -= 1;
        }
        let entry = self.tasks.get_mut(&id).expect("looked up above");
        let before = entry.status.clone();
        let after = transition::fold(&mut entry.status, &work, finished, step.now.wall);
        if entry.status != before {
            step.stored.insert(id);
            step.reported.insert(id);
            entry.forget_unneeded();
        }
        if after == After::Retry && !cancelled {
            self.retry_after(id, RETRY_DELAY, step);
        } else {
            self.proceed(id, step);
        }
        self.fill_preparations(step);
    }

    fn removed(&mut self, id: TaskId, finished: Finished, step: &mut Step) {
        let entry = self.tasks.get_mut(&id).expect("a task whose removal ended is known");
        if finished.result.is_err() {
            let delay = RETRY_DELAY.saturating_mul(1 << entry.failed_removals.min(5)).min(REMOVE_DELAY_MAX);
            entry.failed_removals = entry.failed_removals.saturating_add(1);
            self.retry_after(id, delay, step);
            return;
        }
        let again = entry.again.take();
        self.tasks.remove(&id);
        step.actions.forget.push(id);
        step.stored.remove(&id);
        step.reported.remove(&id);
        if let Some(assignment) = again {
            self.update(assignment, step);
        }
    }

    fn retry_after(&mut self, id: TaskId, delay: Duration, step: &Step) {
        let at = step.now.monotonic + delay;
        let entry = self.tasks.get_mut(&id).expect("only known tasks are retried");
        entry.retry_at = Some(at);
        self.retries.insert((at, id));
    }

    /// Something else is wanted now: a pause before the next try has no meaning any more.
    fn cut_pause(&mut self, id: TaskId) {
        if let Some(at) = self.tasks.get_mut(&id).and_then(|entry| entry.retry_at.take()) {
            self.retries.remove(&(at, id));
        }
    }

    fn retry(&mut self, step: &mut Step) {
        while let Some((at, id)) = self.retries.first().copied()
            && at <= step.now.monotonic
        {
            self.retries.pop_first();
            self.tasks.get_mut(&id).expect("removal forgets its retry").retry_at = None;
            self.proceed(id, step);
        }
    }

    fn fill_preparations(&mut self, step: &mut Step) {
        while self.preparing < self.config.preparations
            && let Some((_, id)) = self.waiting.pop_first()
        {
            self.proceed(id, step);
        }
    }

    /// Takes the task as far as it gets without waiting.
    fn proceed(&mut self, id: TaskId, step: &mut Step) {
        let entry = self.tasks.get_mut(&id).expect("only known tasks proceed");
        let wanted_alive = !entry.removing && entry.desired().is_none_or(DesiredState::wants_alive);
        if let Some(work) = &entry.busy {
            let stoppable = match work {
                Work::Remove => false,
                Work::Shutdown => entry.removing,
                _ => !wanted_alive,
            };
            if stoppable && !entry.cancelled {
                entry.cancelled = true;
                step.actions.cancel.push(id);
            }
            return;
        }
        if !wanted_alive {
            self.waiting.remove(&(entry.arrival, id));
        }
        if entry.retry_at.is_some() {
            return;
        }
        if entry.removing {
            self.begin(id, Work::Remove, step);
            return;
        }
        self.follow(id, step);
    }

    fn follow(&mut self, id: TaskId, step: &mut Step) {
        loop {
            let entry = self.tasks.get_mut(&id).expect("only known tasks proceed");
            let Some(assignment) = entry.assignment.clone() else { return };
            let next = transition::next(assignment.desired, entry.status.state);
            if entry.withheld && matches!(next, Next::AwaitPreparation | Next::Prepare | Next::Start) {
                if entry.status.message != WITHHELD {
                    WITHHELD.clone_into(&mut entry.status.message);
                    step.stored.insert(id);
                    step.reported.insert(id);
                }
                return;
            }
            let state = match next {
                Next::Hold => return,
                Next::Accept => TaskState::Accepted,
                Next::Launch => TaskState::Starting,
                Next::AwaitPreparation | Next::Prepare if self.preparing >= self.config.preparations => {
                    self.waiting.insert((entry.arrival, id));
                    return;
                }
                Next::AwaitPreparation => TaskState::Preparing,
                Next::Prepare => return self.begin(id, Work::Prepare(assignment), step),
                Next::Start => return self.begin(id, Work::Start(assignment), step),
                Next::Wait => return self.begin(id, Work::Wait, step),
                Next::Shutdown => return self.begin(id, Work::Shutdown, step),
            };
            transition::advance(&mut entry.status, state, step.now.wall);
            step.stored.insert(id);
            step.reported.insert(id);
        }
    }

    fn begin(&mut self, id: TaskId, work: Work, step: &mut Step) {
        if matches!(work, Work::Prepare(_)) {
            self.preparing += 1;
        }
        let entry = self.tasks.get_mut(&id).expect("only known tasks begin operations");
        entry.busy = Some(work.clone());
        step.actions.begin.push(Operation { task: id, work });
    }
}

impl Entry {
    fn desired(&self) -> Option<DesiredState> {
        self.assignment.as_ref().map(|assignment| assignment.desired)
    }

    fn forget_unneeded(&mut self) {
        if let Some(assignment) = &mut self.assignment
            && assignment.has_values()
        {
            forget_unneeded(Arc::make_mut(assignment), &self.status);
        }
    }

    fn is_reportable(&self) -> bool {
        self.assignment.is_some() && !self.removing && self.status.state >= TaskState::Accepted
    }

    /// Takes over a newer assignment; a desired state lower than the known one is ignored. True when something changed.
    fn want(&mut self, mut newer: Assignment) -> bool {
        let Some(known) = &self.assignment else { return false };
        newer.known = None;
        newer.desired = newer.desired.max(known.desired);
        forget_unneeded(&mut newer, &self.status);
        let was_withheld = std::mem::take(&mut self.withheld);
        if newer == **known {
            return was_withheld;
        }
        self.assignment = Some(Arc::new(newer));
        true
    }
}

/// A container that was started has its values: the node need not hold them any longer.
fn forget_unneeded(assignment: &mut Assignment, status: &TaskStatus) {
    if status.state >= TaskState::Running {
        assignment.forget_values();
    }
}

impl Step {
    fn finish(mut self, tasks: &BTreeMap<TaskId, Entry>) -> Actions {
        for id in &self.stored {
            let Some(entry) = tasks.get(id) else { continue };
            let Some(assignment) = entry.assignment.clone() else { continue };
            let status = entry.status.clone();
            let withheld = entry.withheld || assignment.has_values();
            self.actions.store.push(StoredTask { assignment, status, removing: entry.removing, withheld });
        }
        for id in &self.reported {
            if let Some(entry) = tasks.get(id).filter(|entry| entry.is_reportable()) {
                self.actions.report.push(TaskReport { task_id: *id, status: entry.status.clone() });
            }
        }
        self.actions
    }
}

fn unknown_status(now: WallTime) -> TaskStatus {
    TaskStatus {
        state: TaskState::Assigned,
        timestamp: now,
        applied_at: skep_model::ClusterTime::default(),
        message: "assigned".to_owned(),
        err: String::new(),
        container: None,
        ports: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
