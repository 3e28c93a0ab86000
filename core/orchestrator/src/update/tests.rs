//! Tests of updates: tasks live as their image says, and the update is looked at step by step.

use std::time::Duration;

use skep_model::{
    Availability, DesiredState, FailureAction, NodeState, RestartCondition, ServiceMode, Slot, Task, TaskId, TaskState,
    UpdateConfig, UpdateOrder, UpdateState,
};
use skep_store::Change;
use skep_testkit::{AService, Seat, World, a_node, a_service, a_state, check_state, node_id, seat, service_id};

use crate::{Orchestrator, update};

const SECOND: Duration = Duration::from_secs(1);

struct Rig {
    world: World,
    seat: Seat<Orchestrator>,
}

fn image(service: AService, image: &str) -> AService {
    service.spec(|spec| image.clone_into(&mut spec.task.container.image))
}

fn web() -> AService {
    image(a_service("web"), "good:1").replicas(3)
}

fn with_update(service: AService, config: UpdateConfig) -> AService {
    service.spec(|spec| spec.update = Some(config))
}

/// The service runs as it was made.
fn running(service: &AService) -> Rig {
    let world = a_state().with(a_node("one")).with(a_node("two")).with(service);
    let mut rig = Rig { world, seat: seat(Orchestrator::default()) };
    while rig.advance() {}
    rig
}

impl Rig {
    /// What all decide and do, once; false when nothing happens without time.
    fn advance(&mut self) -> bool {
        let mut happens = self.world.settle(&mut self.seat) > 0;
        assert_eq!(check_state(&self.world.state), []);
        let tasks: Vec<Task> = self.world.state.tasks().map(|task| task.as_ref().clone()).collect();
        for task in tasks.into_iter().filter(|task| !task.state().is_terminal()) {
            happens |= self.live(&task);
        }
        happens
    }

    fn live(&mut self, task: &Task) -> bool {
        let image = self.world.state.spec_of(task).task.container.image.clone();
        let wants = task.intent.desired;
        let next = match task.state() {
            _ if task.placed.node.is_some() && !wants.wants_alive() => TaskState::Shutdown,
            TaskState::New => {
                self.place(task);
                return true;
            }
            TaskState::Assigned | TaskState::Ready if wants == DesiredState::Running => match image.as_str() {
                "bad:1" => TaskState::Failed,
                "slow:1" => return false,
                _ => TaskState::Running,
            },
            TaskState::Assigned => TaskState::Ready,
            _ => return false,
        };
        self.world.report(task.id, next);
        true
    }

    fn place(&mut self, task: &Task) {
        let node = match task.slot {
            Slot::Node(node) => node,
            Slot::Number(number) => node_id(if number % 2 == 0 { "two" } else { "one" }),
        };
        let expect = task.attachment.version;
        let attach = Change::Attach {
            task: task.id,
            expect,
            done: true,
            ports: Vec::new(),
            networks: Vec::new(),
            virtual_ips: Vec::new(),
            reason: None,
        };
        let place = Change::Place { task: task.id, expect: task.placed.version, node: Some(node), reason: None };
        self.world.must_commit(vec![attach.into(), place.into()]);
    }

    /// Lets everything happen, and time pass, second by second.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..=seconds {
            while self.advance() {}
            self.world.pass(SECOND);
        }
    }

    fn update(&mut self, service: &AService) {
        self.world.update(service);
    }

    /// Wanted tasks of an image that run, and those that do not.
    fn count(&self, image: &str) -> (usize, usize) {
        let state = &self.world.state;
        let of_image = state.tasks().filter(|task| state.spec_of(task).task.container.image == image);
        let (run, rest): (Vec<_>, Vec<_>) = of_image
            .filter(|task| task.intent.desired.wants_alive())
            .partition(|task| task.state() == TaskState::Running);
        (run.len(), rest.len())
    }

    #[track_caller]
    fn check(&self, state: UpdateState, message: &str) {
        let service = self.world.state.service(service_id("web")).unwrap();
        let update = service.update.as_ref().expect("an update");
        assert!(update.state == state && update.message.starts_with(message), "{update:?}");
        assert!(update.started_at.is_some());
        let is_over = matches!(state, UpdateState::Completed | UpdateState::RollbackCompleted);
        assert_eq!(update.completed_at.is_some(), is_over);
    }
}

#[test]
fn slots_are_replaced_one_after_the_other() {
    let mut rig = running(&web());
    rig.update(&image(web(), "good:2"));
    let mut fewest = 3;
    while rig.advance() {
        fewest = fewest.min(rig.count("good:1").0 + rig.count("good:2").0);
    }
    assert_eq!((fewest, rig.count("good:1"), rig.count("good:2")), (2, (0, 0), (3, 0)));
    rig.check(UpdateState::Updating, "update in progress");
    rig.pass(6);
    rig.check(UpdateState::Completed, "update completed");
    assert_eq!(rig.world.settle(&mut rig.seat), 0, "and then it is quiet");
}

#[test]
fn so_many_at_a_time_with_a_pause() {
    for (parallelism, after) in [(1, [1, 1, 2]), (2, [2, 2, 3]), (0, [3, 3, 3])] {
        let config = UpdateConfig { parallelism, delay: 10 * SECOND, ..UpdateConfig::default() };
        let service = with_update(web(), config);
        let mut rig = running(&service);
        rig.update(&image(service, "good:2"));
        let seen = [1, 7, 3].map(|seconds| {
            rig.pass(seconds);
            rig.count("good:2").0
        });
        assert_eq!(seen, after, "{parallelism} at a time");
    }
}

#[test]
fn what_tasks_do_not_see_is_no_update() {
    let mut rig = running(&web());
    rig.update(&with_update(web(), UpdateConfig::default()).replicas(4).spec(|spec| {
        spec.labels.insert("a".to_owned(), "b".to_owned());
    }));
    rig.pass(1);
    assert!(rig.world.state.service(service_id("web")).unwrap().update.is_none());
    assert_eq!((rig.count("good:1"), rig.world.state.task_count()), ((4, 0), 4));
}

#[test]
fn a_failure_pauses_and_the_update_does_not_spread() {
    let service = web().restart(RestartCondition::Any, SECOND);
    let mut rig = running(&service);
    rig.update(&image(service.clone(), "bad:1"));
    rig.pass(30);
    rig.check(UpdateState::Paused, "update paused due to failure or early termination of task ");
    assert_eq!(rig.count("good:1"), (2, 0));
    let victim = rig.world.state.tasks().find(|task| task.state() == TaskState::Running).unwrap().id;
    rig.world.report(victim, TaskState::Failed);
    rig.pass(5);
    assert_eq!(rig.count("good:1"), (2, 0), "its like follows");
    // Also a loop without memory leaves it so.
    rig.seat = seat(Orchestrator::default());
    rig.pass(5);
    assert_eq!(rig.count("good:1"), (2, 0));
    rig.update(&image(service, "good:2"));
    rig.pass(10);
    rig.check(UpdateState::Completed, "update completed");
    assert_eq!(rig.count("good:2"), (3, 0));
}

#[test]
fn a_late_end_is_no_failure_and_an_early_one_is() {
    for (seconds, state) in [(2, UpdateState::Paused), (7, UpdateState::Updating)] {
        let config = UpdateConfig { delay: 60 * SECOND, monitor: Some(5 * SECOND), ..UpdateConfig::default() };
        // The delay is longer than the time to watch, which is then a second longer than the delay.
        let config = UpdateConfig { delay: if seconds == 7 { SECOND } else { config.delay }, ..config };
        let service = with_update(web(), config).replicas(1);
        let mut rig = running(&service);
        rig.update(&image(service, "good:2"));
        while rig.advance() {}
        rig.world.pass(Duration::from_secs(seconds));
        let task = rig.world.state.tasks().find(|task| task.by_update).unwrap().id;
        rig.world.report(task, TaskState::Failed);
        rig.world.settle(&mut rig.seat);
        let update = rig.world.state.service(service_id("web")).unwrap().update.clone().unwrap();
        assert!(update.state == state || update.state == UpdateState::Completed && seconds == 7, "{update:?}");
    }
}

/// An update to one new task with five seconds to watch, and that task, which runs since just now.
fn watched() -> (Rig, TaskId) {
    let config =
        UpdateConfig { failure_action: FailureAction::Rollback, monitor: Some(5 * SECOND), ..UpdateConfig::default() };
    let service = with_update(web(), config).replicas(1).restart(RestartCondition::Any, SECOND);
    let mut rig = running(&service);
    rig.update(&image(service, "good:2"));
    while rig.advance() {}
    let task = rig.world.state.tasks().find(|task| task.by_update).expect("the new task").id;
    assert_eq!(rig.world.task(task).state(), TaskState::Running);
    (rig, task)
}

impl Rig {
    fn update_state(&self) -> UpdateState {
        self.world.state.service(service_id("web")).unwrap().update.as_ref().expect("an update").state
    }
}

#[test]
fn an_early_end_that_is_heard_of_late_turns_the_update_back() {
    // The node's daemon was away when the task ended, and was back only after the time to watch; or the manager's was, too.
    for has_new_leader in [false, true] {
        let (mut rig, task) = watched();
        let node = rig.world.task(task).placed.node.unwrap();
        rig.world.pass(SECOND);
        let ended = rig.world.state.time().after(SECOND);
        rig.world.set_node_state(node, NodeState::Unknown);
        if has_new_leader {
            rig.seat = seat(Orchestrator::default());
        }
        rig.pass(60);
        assert_eq!(rig.update_state(), UpdateState::Updating, "nobody knows what the task does");
        rig.world.set_node_state(node, NodeState::Ready);
        rig.pass(3);
        assert_eq!(rig.update_state(), UpdateState::Updating, "the node has not told everything yet");
        rig.world.report_since(task, TaskState::Failed, ended);
        rig.pass(10);
        rig.check(UpdateState::RollbackCompleted, "rollback completed");
        assert_eq!((rig.count("good:1"), rig.count("good:2")), ((1, 0), (0, 0)));
    }
}

#[test]
fn a_late_end_is_no_failure_after_an_absence_either() {
    let (mut rig, task) = watched();
    let node = rig.world.task(task).placed.node.unwrap();
    rig.world.set_node_state(node, NodeState::Unknown);
    rig.pass(20);
    rig.world.set_node_state(node, NodeState::Ready);
    let ended = rig.world.task(task).started.unwrap().after(15 * SECOND);
    rig.world.report_since(task, TaskState::Failed, ended);
    rig.pass(10);
    rig.check(UpdateState::Completed, "update completed");
}

#[test]
fn a_new_leader_hears_before_it_says_that_an_update_is_complete() {
    let (mut rig, task) = watched();
    // The daemon is killed just before the end of the time to watch, and the cluster's clock stands still meanwhile.
    let ended = rig.world.state.time().after(4900 * SECOND / 1000);
    rig.world.pass(4999 * SECOND / 1000);
    rig.seat = seat(Orchestrator::default());
    rig.pass(1);
    assert_eq!(rig.update_state(), UpdateState::Updating);
    rig.world.report_since(task, TaskState::Failed, ended);
    rig.pass(10);
    rig.check(UpdateState::RollbackCompleted, "rollback completed");
}

#[test]
fn some_may_fail() {
    let config = UpdateConfig { max_failure_ratio: 0.5, ..UpdateConfig::default() };
    let service = with_update(web(), config).replicas(4).restart(RestartCondition::None, SECOND);
    let mut rig = running(&service);
    rig.update(&image(service, "bad:1"));
    rig.pass(5);
    rig.check(UpdateState::Paused, "update paused");
    assert_eq!(rig.count("good:1"), (1, 0), "two of four may fail, three may not");
}

#[test]
fn failures_are_counted_across_leaders() {
    let config = UpdateConfig { max_failure_ratio: 0.5, delay: 2 * SECOND, ..UpdateConfig::default() };
    let service = with_update(web(), config).replicas(4).restart(RestartCondition::None, SECOND);
    let mut rig = running(&service);
    rig.update(&image(service, "bad:1"));
    for _ in 0..12 {
        rig.pass(0);
        rig.seat = seat(Orchestrator::default());
    }
    rig.check(UpdateState::Paused, "update paused");
    assert_eq!(rig.count("good:1"), (1, 0));
}

#[test]
fn a_failed_update_turns_back_and_a_failed_rollback_stops() {
    let config = UpdateConfig { failure_action: FailureAction::Rollback, ..UpdateConfig::default() };
    let service = with_update(web(), config).restart(RestartCondition::Any, SECOND);
    let mut rig = running(&service);
    rig.update(&image(service.clone(), "bad:1"));
    rig.pass(12);
    rig.check(UpdateState::RollbackCompleted, "rollback completed");
    assert_eq!((rig.count("good:1"), rig.count("bad:1")), ((3, 0), (0, 0)));
    assert!(rig.world.state.service(service.id).unwrap().previous.is_none());

    // By hand, to a spec that fails: it is paused, never rolled back again.
    let goes_on = UpdateConfig { failure_action: FailureAction::Continue, ..config };
    let fails = with_update(image(service.clone(), "bad:1"), goes_on);
    rig.update(&fails);
    rig.pass(20);
    rig.update(&service);
    rig.pass(20);
    rig.check(UpdateState::Completed, "update completed");
    let expect = rig.world.state.service(service.id).unwrap().meta.version;
    rig.world.must_commit(vec![Change::RollbackService { service: service.id, expect, reason: None }.into()]);
    rig.check(UpdateState::RollbackStarted, "manually requested rollback");
    rig.pass(5);
    rig.check(UpdateState::RollbackPaused, "rollback paused due to failure or early termination of task ");
    assert_eq!(rig.count("good:1"), (2, 0));
}

#[test]
fn the_new_task_starts_first_when_asked() {
    let config = UpdateConfig { order: UpdateOrder::StartFirst, ..UpdateConfig::default() };
    let service = with_update(web(), config);
    let mut rig = running(&service);
    rig.update(&image(service.clone(), "good:2"));
    let mut fewest = 3;
    while rig.advance() {
        fewest = fewest.min(rig.count("good:1").0 + rig.count("good:2").0);
    }
    assert_eq!((fewest, rig.count("good:2")), (3, (3, 0)));
    // When it fails the old one stays.
    rig.pass(10);
    rig.update(&image(service, "bad:1"));
    rig.pass(10);
    rig.check(UpdateState::Paused, "update paused");
    assert_eq!((rig.count("good:2"), rig.count("bad:1")), ((3, 0), (0, 0)));
}

#[test]
fn a_task_that_does_not_come_to_run_fails_in_the_end() {
    let mut rig = running(&web());
    rig.update(&image(web(), "slow:1"));
    rig.pass(5);
    rig.check(UpdateState::Updating, "update in progress");
    rig.world.pass(update::WAIT_MAX);
    rig.world.settle(&mut rig.seat);
    rig.check(UpdateState::Paused, "update paused due to failure or early termination of task ");
}

#[test]
fn an_update_overtakes_another() {
    let service = with_update(web(), UpdateConfig { parallelism: 2, ..UpdateConfig::default() });
    let mut rig = running(&service);
    rig.update(&image(service.clone(), "slow:1"));
    rig.pass(3);
    assert_eq!((rig.count("good:1"), rig.count("slow:1")), ((1, 0), (0, 2)));
    rig.update(&image(service, "good:2"));
    rig.pass(10);
    rig.check(UpdateState::Completed, "update completed");
    assert_eq!((rig.count("good:2"), rig.world.state.tasks_of_service(service_id("web")).count() > 3), ((3, 0), true));
}

#[test]
fn tasks_that_are_not_restarted_are_updated() {
    let service = web().restart(RestartCondition::None, SECOND).replicas(1);
    let mut rig = running(&service);
    let task = rig.world.state.tasks().next().unwrap().id;
    rig.world.report(task, TaskState::Complete);
    rig.pass(1);
    assert_eq!(rig.count("good:1"), (0, 0));
    rig.update(&image(service, "good:2"));
    rig.pass(1);
    assert_eq!(rig.count("good:2"), (1, 0));
}

#[test]
fn a_global_service_follows_its_nodes() {
    let service = image(a_service("web"), "good:1").mode(ServiceMode::Global).replicas(0);
    let mut rig = running(&service);
    assert_eq!(rig.count("good:1"), (2, 0));
    rig.world.put(a_node("three").label("zone", "a"));
    rig.pass(1);
    assert_eq!(rig.count("good:1"), (3, 0));
    // A paused node keeps its task and gets no other.
    rig.world.edit_node(node_id("one"), |spec| spec.availability = Availability::Pause);
    rig.world.edit_node(node_id("two"), |spec| spec.availability = Availability::Drain);
    rig.pass(1);
    assert_eq!(rig.count("good:1"), (2, 0));
    rig.update(&image(service.clone(), "good:2"));
    rig.pass(10);
    assert_eq!((rig.count("good:1"), rig.count("good:2")), ((1, 0), (1, 0)));
    rig.check(UpdateState::Completed, "update completed");
    for node in ["one", "two"] {
        rig.world.edit_node(node_id(node), |spec| spec.availability = Availability::Active);
    }
    rig.pass(1);
    assert_eq!((rig.count("good:1"), rig.count("good:2")), ((0, 0), (3, 0)));
    rig.world.set_node_state(node_id("one"), NodeState::Down);
    rig.pass(1);
    assert_eq!(rig.count("good:2"), (2, 0));
    rig.update(&image(service, "good:2").constraint("node.labels.zone==a"));
    rig.pass(1);
    assert_eq!(rig.count("good:2"), (1, 0));
    rig.world.must_commit(vec![Change::RemoveNode(node_id("three")).into()]);
    rig.pass(1);
    assert!(!rig.world.state.tasks().any(|task| task.slot == Slot::Node(node_id("three"))));
}
