//! Scenarios of one agent: assignments come, operations end, statuses go.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use skep_model::{ContainerStatus, DesiredState as D, TaskState as S};

use super::*;
use crate::fake::{FakeExecutor, task, task_id, task_of};
use crate::{Executor, Failure};

/// A node: an agent, an executor, a database and what the managers heard.
struct Rig {
    agent: Agent,
    config: AgentConfig,
    executor: Arc<FakeExecutor>,
    database: BTreeMap<TaskId, StoredTask>,
    heard: BTreeMap<TaskId, TaskStatus>,
    ended: Arc<Mutex<Vec<(TaskId, Finished)>>>,
    now: Moment,
}

impl Rig {
    fn new(preparations: usize) -> Self {
        let config = AgentConfig { preparations };
        let (agent, actions) = Agent::restore(config, Moment::default(), Vec::new(), &[]);
        assert!(actions.is_empty());
        Self {
            agent,
            config,
            executor: Arc::default(),
            database: BTreeMap::new(),
            heard: BTreeMap::new(),
            ended: Arc::default(),
            now: Moment::default(),
        }
    }

    fn input(&mut self, input: Input) {
        let actions = self.agent.step(self.now, input);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Actions) {
        for id in actions.forget {
            self.database.remove(&id);
        }
        for stored in actions.store {
            self.database.insert(stored.assignment.task_id, stored);
        }
        for report in actions.report {
            if let Some(before) = self.heard.insert(report.task_id, report.status.clone()) {
                assert!(report.status.state >= before.state, "{before:?} then {:?}", report.status);
            }
        }
        for id in actions.cancel {
            self.executor.cancel(id);
        }
        for operation in actions.begin {
            let (ended, id) = (self.ended.clone(), operation.task);
            self.executor.begin(operation, Box::new(move |finished| ended.lock().unwrap().push((id, finished))));
        }
    }

    /// Takes in what ended; true when something had.
    fn absorb(&mut self) -> bool {
        let ended = std::mem::take(&mut *self.ended.lock().unwrap());
        let some = !ended.is_empty();
        for (id, finished) in ended {
            self.input(Input::Finished(id, finished));
        }
        some
    }

    /// Runs everything that can run, time included.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.absorb() || self.executor.run_one() {
                continue;
            }
            let Some(at) = self.agent.wake_at() else { return };
            self.now.monotonic = self.now.monotonic.max(at);
            self.input(Input::Tick);
        }
        panic!("it does not settle");
    }

    fn restart(&mut self) {
        self.executor.restart();
        self.ended.lock().unwrap().clear();
        let stored = self.database.values().cloned().collect();
        let (agent, actions) = Agent::restore(self.config, self.now, stored, &self.executor.tasks());
        self.agent = agent;
        self.perform(actions);
    }

    /// The assignment as managers send it: with the status that they heard.
    fn assigned(&self, number: u8, desired: D) -> Assignment {
        Assignment { desired, known: self.heard.get(&task_id(number)).cloned(), ..task(number) }
    }

    fn state(&self, number: u8) -> Option<S> {
        self.agent.statuses().find(|(id, _)| *id == task_id(number)).map(|(_, status)| status.state)
    }
}

fn update(assignment: Assignment) -> Change {
    Change::Update(Box::new(assignment))
}

fn wanted(number: u8, desired: D) -> Input {
    Input::Incremental(vec![update(Assignment { desired, ..task(number) })])
}

fn removal(number: u8) -> Input {
    Input::Incremental(vec![Change::Remove(task_id(number))])
}

#[test]
fn a_task_runs_and_stops_with_dockers_texts() {
    let mut rig = Rig::new(4);
    rig.input(wanted(1, D::Running));
    assert_eq!(rig.heard[&task_id(1)].message, "preparing");
    rig.settle();
    assert_eq!(rig.state(1), Some(S::Running));
    assert_eq!(rig.heard[&task_id(1)].message, "started");
    assert_eq!(rig.heard[&task_id(1)].container.as_ref().unwrap().pid, 1);
    rig.input(wanted(1, D::Shutdown));
    rig.settle();
    assert_eq!(rig.heard[&task_id(1)].message, "shutdown");
    assert_eq!(rig.heard[&task_id(1)].state, S::Shutdown);
    rig.input(removal(1));
    rig.settle();
    assert_eq!(rig.state(1), None);
    assert!(rig.database.is_empty() && rig.executor.tasks().is_empty());
    assert_eq!(rig.heard[&task_id(1)].state, S::Shutdown, "no status after the removal");
}

#[test]
fn a_replacement_is_held_until_it_may_run() {
    let mut rig = Rig::new(4);
    rig.input(wanted(1, D::Ready));
    rig.settle();
    assert_eq!(rig.heard[&task_id(1)].message, "prepared");
    assert_eq!(rig.state(1), Some(S::Ready));
    rig.input(wanted(1, D::Running));
    rig.settle();
    assert_eq!(rig.state(1), Some(S::Running));
    rig.input(wanted(1, D::Ready));
    rig.settle();
    assert_eq!(rig.agent.assignment(task_id(1)).unwrap().desired, D::Running, "a lower desired state is ignored");
}

#[test]
fn exit_codes_and_errors_have_their_states() {
    for (image, failing, state, err) in [
        ("exit:0", None, S::Complete, ""),
        ("exit:3", None, S::Failed, "task: non-zero exit (3)"),
        ("web:1", Some("No such image: web:1"), S::Rejected, "No such image: web:1"),
    ] {
        let mut rig = Rig::new(4);
        if let Some(text) = failing {
            rig.executor.fail_next(Failure::Fatal(text.to_owned()));
        }
        rig.input(Input::Incremental(vec![update(task_of(1, image))]));
        rig.settle();
        let status = &rig.heard[&task_id(1)];
        assert_eq!((status.state, status.err.as_str()), (state, err), "{image}");
    }
}

#[test]
fn a_failing_start_fails_the_task() {
    let mut rig = Rig::new(4);
    rig.input(wanted(1, D::Running));
    assert!(rig.executor.run_one());
    rig.executor.fail_next(Failure::Fatal("starting container failed: no".to_owned()));
    rig.settle();
    let status = &rig.heard[&task_id(1)];
    assert_eq!((status.state, status.message.as_str()), (S::Failed, "starting"));
    assert_eq!(status.err, "starting container failed: no");
}

#[test]
fn a_temporary_error_is_retried_after_a_second() {
    let mut rig = Rig::new(4);
    rig.executor.fail_next(Failure::Temporary("busy".to_owned()));
    rig.input(wanted(1, D::Running));
    rig.executor.run_one();
    rig.absorb();
    assert_eq!((rig.heard[&task_id(1)].state, rig.heard[&task_id(1)].err.as_str()), (S::Preparing, "busy"));
    assert_eq!(rig.agent.wake_at(), Some(RETRY_DELAY));
    rig.settle();
    assert_eq!((rig.heard[&task_id(1)].state, rig.heard[&task_id(1)].err.as_str()), (S::Running, ""));
}

#[test]
fn a_stop_cuts_a_pause_short_and_cancels_what_is_in_flight() {
    let mut rig = Rig::new(4);
    rig.executor.fail_next(Failure::Temporary("busy".to_owned()));
    rig.input(wanted(1, D::Running));
    rig.executor.run_one();
    rig.absorb();
    rig.input(wanted(1, D::Shutdown));
    assert_eq!(rig.agent.wake_at(), None);
    rig.input(wanted(2, D::Running));
    rig.input(wanted(2, D::Shutdown));
    rig.settle();
    assert_eq!((rig.state(1), rig.state(2)), (Some(S::Shutdown), Some(S::Shutdown)));
    assert_eq!(rig.executor.starts(task_id(2)), 0);
}

#[test]
fn preparations_are_bounded_and_wait_in_order() {
    let mut rig = Rig::new(2);
    for number in [5, 4, 3, 2, 1] {
        rig.input(wanted(number, D::Running));
    }
    let states: Vec<_> = [5, 4, 3, 2, 1].map(|number| rig.state(number).unwrap()).into();
    assert_eq!(states, [S::Preparing, S::Preparing, S::Accepted, S::Accepted, S::Accepted]);
    rig.input(wanted(3, D::Shutdown));
    rig.executor.run_one();
    rig.absorb();
    assert_eq!((rig.state(2), rig.state(1)), (Some(S::Preparing), Some(S::Accepted)));
    rig.settle();
    assert_eq!(rig.state(1), Some(S::Running));
}

#[test]
fn a_restart_waits_for_what_runs_and_never_starts_it_again() {
    let mut rig = Rig::new(4);
    rig.input(wanted(1, D::Running));
    rig.settle();
    rig.restart();
    assert_eq!(rig.heard.remove(&task_id(1)).unwrap().state, S::Running);
    rig.input(Input::SessionOpened);
    assert_eq!(rig.heard[&task_id(1)].state, S::Running, "reported again");
    rig.executor.exit(task_id(1), 137);
    rig.settle();
    assert_eq!(rig.heard[&task_id(1)].err, "task: non-zero exit (137)");
    assert_eq!(rig.executor.starts(task_id(1)), 1);
    rig.restart();
    rig.settle();
    assert_eq!((rig.state(1), rig.executor.starts(task_id(1))), (Some(S::Failed), 1));
}

#[test]
fn without_memory_the_managers_are_believed() {
    let mut rig = Rig::new(4);
    let mut status = unknown_status(WallTime(5));
    status.state = S::Running;
    rig.input(Input::Complete(vec![Assignment { known: Some(status.clone()), ..task(1) }]));
    rig.settle();
    assert_eq!((rig.state(1), rig.executor.starts(task_id(1))), (Some(S::Failed), 0));
    status.state = S::Complete;
    rig.input(Input::Incremental(vec![update(Assignment { known: Some(status), ..task(2) })]));
    rig.settle();
    assert_eq!(rig.state(2), Some(S::Complete));
}

#[test]
fn what_nobody_remembers_waits_for_the_complete_set() {
    let mut rig = Rig::new(4);
    for number in [1, 2] {
        rig.input(wanted(number, D::Running));
    }
    rig.settle();
    rig.database.clear();
    rig.restart();
    rig.settle();
    assert!(rig.executor.is_running(task_id(1)) && rig.executor.is_running(task_id(2)));
    rig.heard.clear();
    rig.input(Input::Complete(vec![task(1)]));
    rig.settle();
    assert_eq!(rig.state(1), Some(S::Running), "found, though the managers know nothing of it either");
    assert_eq!(rig.executor.starts(task_id(1)), 1);
    assert_eq!(rig.executor.tasks(), [task_id(1)]);
}

#[test]
fn a_complete_set_removes_the_rest_and_a_removed_task_may_come_again() {
    let mut rig = Rig::new(4);
    for number in [1, 2] {
        rig.input(wanted(number, D::Running));
    }
    rig.settle();
    rig.input(Input::Complete(vec![task(2)]));
    rig.heard.clear();
    rig.input(wanted(1, D::Running));
    rig.settle();
    assert_eq!((rig.state(1), rig.executor.starts(task_id(1))), (Some(S::Running), 2));
    assert_eq!(rig.executor.starts(task_id(2)), 1);
}

#[test]
fn a_failing_removal_is_tried_again_with_longer_pauses() {
    let mut rig = Rig::new(4);
    rig.input(wanted(1, D::Running));
    rig.settle();
    rig.input(removal(1));
    assert!(rig.absorb(), "the wait was cancelled");
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let failed = Finished::failed(Failure::Fatal("busy".to_owned()));
        rig.input(Input::Finished(task_id(1), failed));
        rig.input(wanted(1, D::Shutdown));
        let at = rig.agent.wake_at().unwrap();
        pauses.push((at - rig.now.monotonic).as_secs());
        rig.now.monotonic = at;
        rig.input(Input::Tick);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32]);
}

#[test]
fn unexpected_ends_are_ignored() {
    let mut rig = Rig::new(4);
    rig.input(Input::Finished(task_id(1), Finished::done(None)));
    rig.input(wanted(1, D::Ready));
    rig.settle();
    let status = ContainerStatus { exit_code: 1, ..ContainerStatus::default() };
    rig.input(Input::Finished(task_id(1), Finished::done(Some(status))));
    assert_eq!(rig.state(1), Some(S::Ready));
}

#[derive(Debug, Clone)]
enum Move {
    Want(u8, D),
    Remove(u8),
    Complete(Vec<u8>),
    Work,
    Absorb,
    Exit(u8, i32),
    Fail(bool),
    Restart,
    Forget,
    Session,
    Later,
}

fn any_move() -> impl Strategy<Value = Move> {
    let desired = prop_oneof![Just(D::Ready), Just(D::Running), Just(D::Shutdown), Just(D::Remove)];
    prop_oneof![
        4 => (0..4u8, desired).prop_map(|(number, desired)| Move::Want(number, desired)),
        1 => (0..4u8).prop_map(Move::Remove),
        1 => proptest::collection::vec(0..4u8, 0..4).prop_map(Move::Complete),
        6 => Just(Move::Work),
        6 => Just(Move::Absorb),
        1 => (0..4u8, 0..2i32).prop_map(|(number, code)| Move::Exit(number, code)),
        1 => any::<bool>().prop_map(Move::Fail),
        2 => Just(Move::Restart),
        1 => Just(Move::Forget),
        1 => Just(Move::Session),
        1 => Just(Move::Later),
    ]
}

fn make(rig: &mut Rig, next: Move) {
    match next {
        Move::Want(number, desired) => {
            let assignment = rig.assigned(number, desired);
            rig.input(Input::Incremental(vec![update(assignment)]));
        }
        Move::Remove(number) => {
            rig.heard.remove(&task_id(number));
            rig.input(removal(number));
        }
        Move::Complete(numbers) => {
            rig.heard.retain(|id, _| numbers.iter().any(|number| task_id(*number) == *id));
            let assignments = numbers.iter().map(|number| rig.assigned(*number, D::Running)).collect();
            rig.input(Input::Complete(assignments));
        }
        Move::Work => {
            rig.executor.run_one();
        }
        Move::Absorb => {
            rig.absorb();
        }
        Move::Exit(number, code) => rig.executor.exit(task_id(number), code),
        Move::Fail(true) => rig.executor.fail_next(Failure::Temporary("busy".to_owned())),
        Move::Fail(false) => rig.executor.fail_next(Failure::Fatal("bad".to_owned())),
        Move::Restart => rig.restart(),
        Move::Forget => {
            rig.database.clear();
            rig.restart();
        }
        Move::Session => rig.input(Input::SessionOpened),
        Move::Later => {
            rig.now.monotonic += Duration::from_secs(2);
            rig.input(Input::Tick);
        }
    }
}

proptest! {
    /// Whatever happens, statuses only grow (the rig checks), and at the end everything that is removed is gone.
    #[test]
    fn removed_tasks_end_removed(moves in proptest::collection::vec(any_move(), 0..60)) {
        let mut rig = Rig::new(2);
        for next in moves {
            make(&mut rig, next);
        }
        rig.input(Input::Complete(Vec::new()));
        rig.settle();
        prop_assert!(rig.executor.tasks().is_empty());
        prop_assert!(rig.database.is_empty());
        prop_assert!(rig.agent.is_idle());
    }

    /// Restarts, wherever they happen, change nothing about where healthy tasks end and how often they start.
    #[test]
    fn restarts_change_nothing(restarts in proptest::collection::vec(any::<bool>(), 0..60), desired in 0..3usize) {
        let wanted_states = [D::Ready, D::Running, D::Shutdown];
        let mut rig = Rig::new(2);
        for number in 0..4 {
            rig.input(wanted(number, wanted_states[desired]));
        }
        for restart in restarts {
            if restart {
                rig.restart();
            } else if !rig.absorb() {
                rig.executor.run_one();
            }
        }
        rig.settle();
        for number in 0..4 {
            prop_assert_eq!(rig.state(number), Some(wanted_states[desired].as_state()));
            prop_assert_eq!(rig.executor.starts(task_id(number)), u32::from(desired == 1));
        }
    }
}

fn with_secret(number: u8) -> Assignment {
    let payload = crate::Payload { name: "tls".to_owned(), data: b"data".to_vec(), is_template: false };
    let mut assignment = task(number);
    assignment.secrets.insert(skep_model::ObjectId::from_random([9; 17]), Arc::new(payload));
    assignment
}

#[test]
fn values_are_held_until_the_start_and_a_restart_waits_for_them() {
    let mut rig = Rig::new(4);
    rig.input(Input::Incremental(vec![update(with_secret(1)), update(with_secret(2))]));
    rig.executor.run_one();
    rig.absorb();
    rig.settle();
    assert_eq!(rig.state(1), Some(S::Running));
    assert!(!rig.agent.assignment(task_id(1)).unwrap().has_values(), "a task that runs needs them no more");

    // As a database keeps it: without the values.
    rig.input(Input::Incremental(vec![update(with_secret(3)), update(task(4))]));
    for stored in rig.database.values_mut() {
        Arc::make_mut(&mut stored.assignment).forget_values();
    }
    rig.restart();
    rig.settle();
    assert_eq!((rig.state(1), rig.state(3), rig.state(4)), (Some(S::Running), Some(S::Preparing), Some(S::Running)));
    assert!(rig.heard[&task_id(3)].message.starts_with("waiting for a manager"));
    assert_eq!(rig.executor.starts(task_id(3)), 0);
    rig.restart();
    rig.settle();
    assert_eq!(rig.state(3), Some(S::Preparing), "it still waits after another restart");
    rig.input(Input::Incremental(vec![update(with_secret(3))]));
    rig.settle();
    assert_eq!((rig.state(3), rig.executor.starts(task_id(3))), (Some(S::Running), 1));
    assert_eq!(rig.heard[&task_id(3)].message, "started");
}

#[test]
fn a_task_whose_values_are_gone_waits_for_the_session_only() {
    let mut rig = Rig::new(4);
    rig.input(Input::Incremental(vec![update(with_secret(1))]));
    for stored in rig.database.values_mut() {
        Arc::make_mut(&mut stored.assignment).forget_values();
    }
    rig.restart();
    rig.settle();
    assert_eq!(rig.executor.starts(task_id(1)), 0);
    // The managers have nothing for it any more: the executor is asked, and refuses.
    rig.input(Input::Complete(vec![task(1)]));
    rig.settle();
    assert_eq!(rig.executor.starts(task_id(1)), 1, "the fake does not mind");
    rig.input(removal(1));
    rig.settle();
    assert!(rig.database.is_empty());
}
