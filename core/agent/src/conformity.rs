//! What every executor must do, as a suite that is run on the fake and on the real one. A [`Bench`] supplies the executor,
//! tasks that behave as told, and the waiting (the suite itself has no clock and no threads).

use crate::{Assignment, Executor, Failure, Finished, Operation, Work};

/// How a task's program behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs until it is stopped; obeys its stop signal.
    Serves,
    /// Ends at once with this exit code.
    Exits(u8),
}

/// What the suite needs of a test.
pub trait Bench {
    /// The executor under test.
    fn executor(&self) -> &dyn Executor;
    /// A fresh task with such a program.
    fn assignment(&mut self, program: Program) -> Assignment;
    /// Begins an operation; its end is for [`Self::finished`].
    fn begin(&mut self, operation: Operation);
    /// Waits for the end of the operation in flight of that task.
    fn finished(&mut self, operation: &Operation) -> Finished;
    /// Replaces the executor by a new one on the same machine, as a restart of the daemon does. No operation is in flight.
    fn restart(&mut self);
}

/// Runs every case.
///
/// # Panics
/// When the executor does not conform.
pub fn check(bench: &mut dyn Bench) {
    runs_to_its_end(bench);
    reports_the_exit_code(bench);
    stops_when_asked(bench);
    repeats_are_harmless(bench);
    a_cancelled_wait_ends(bench);
    a_restart_adopts(bench);
    removal_is_total(bench);
    unknown_tasks(bench);
}

fn run(bench: &mut dyn Bench, assignment: &Assignment, work: Work) -> Finished {
    let operation = Operation { task: assignment.task_id, work };
    bench.begin(operation.clone());
    bench.finished(&operation)
}

fn succeed(bench: &mut dyn Bench, assignment: &Assignment, work: Work) -> Finished {
    let name = work.name();
    let finished = run(bench, assignment, work);
    assert_eq!(finished.result, Ok(()), "{name} of {}", assignment.task_id);
    finished
}

fn start(bench: &mut dyn Bench, program: Program) -> Assignment {
    let assignment = bench.assignment(program);
    let shared = std::sync::Arc::new(assignment.clone());
    let prepared = succeed(bench, &assignment, Work::Prepare(shared.clone()));
    let container = prepared.container.expect("a prepared task has a container");
    assert!(!container.container_id.is_empty());
    assert_eq!(container.pid, 0, "prepared only");
    succeed(bench, &assignment, Work::Start(shared));
    assignment
}

fn finish(bench: &mut dyn Bench, assignment: &Assignment) {
    succeed(bench, assignment, Work::Remove);
    assert!(!bench.executor().tasks().contains(&assignment.task_id), "a removed task is forgotten");
}

fn runs_to_its_end(bench: &mut dyn Bench) {
    let assignment = start(bench, Program::Exits(0));
    let container = succeed(bench, &assignment, Work::Wait).container.expect("an ended container is still there");
    assert_eq!((container.exit_code, container.pid), (0, 0));
    finish(bench, &assignment);
}

fn reports_the_exit_code(bench: &mut dyn Bench) {
    let assignment = start(bench, Program::Exits(3));
    let [first, second] = [(); 2].map(|()| succeed(bench, &assignment, Work::Wait));
    assert_eq!(first.ended_at, second.ended_at, "the time of the end, not of the wait");
    for finished in [first, second] {
        assert_eq!(finished.container.expect("an ended container is still there").exit_code, 3);
    }
    finish(bench, &assignment);
}

fn stops_when_asked(bench: &mut dyn Bench) {
    let assignment = start(bench, Program::Serves);
    let container = succeed(bench, &assignment, Work::Shutdown).container.expect("a stopped container is kept");
    assert_eq!(container.pid, 0);
    assert!(bench.executor().tasks().contains(&assignment.task_id));
    finish(bench, &assignment);
}

fn repeats_are_harmless(bench: &mut dyn Bench) {
    let assignment = start(bench, Program::Serves);
    let shared = std::sync::Arc::new(assignment.clone());
    let first = succeed(bench, &assignment, Work::Start(shared.clone())).container.expect("it runs");
    succeed(bench, &assignment, Work::Prepare(shared.clone()));
    let second = succeed(bench, &assignment, Work::Start(shared.clone())).container.expect("it runs");
    assert_eq!(first, second, "the same process");
    succeed(bench, &assignment, Work::Shutdown);
    succeed(bench, &assignment, Work::Shutdown);
    let stopped = succeed(bench, &assignment, Work::Start(shared)).container.expect("it is kept");
    assert_eq!(stopped.pid, 0, "a container is never started twice");
    finish(bench, &assignment);
    finish(bench, &assignment);
}

fn a_cancelled_wait_ends(bench: &mut dyn Bench) {
    let assignment = start(bench, Program::Serves);
    let operation = Operation { task: assignment.task_id, work: Work::Wait };
    bench.begin(operation.clone());
    bench.executor().cancel(assignment.task_id);
    assert_eq!(bench.finished(&operation).result, Err(Failure::Cancelled));
    bench.executor().cancel(assignment.task_id);
    succeed(bench, &assignment, Work::Shutdown);
    finish(bench, &assignment);
}

fn a_restart_adopts(bench: &mut dyn Bench) {
    let assignment = start(bench, Program::Serves);
    let shared = std::sync::Arc::new(assignment.clone());
    let before = succeed(bench, &assignment, Work::Start(shared.clone())).container;
    bench.restart();
    assert!(bench.executor().tasks().contains(&assignment.task_id));
    assert_eq!(succeed(bench, &assignment, Work::Start(shared)).container, before, "the same process");
    succeed(bench, &assignment, Work::Shutdown);
    finish(bench, &assignment);
}

fn removal_is_total(bench: &mut dyn Bench) {
    let assignment = start(bench, Program::Serves);
    finish(bench, &assignment);
    let finished = run(bench, &assignment, Work::Wait);
    assert!(matches!(finished.result, Err(Failure::Fatal(_))), "{finished:?}");
}

fn unknown_tasks(bench: &mut dyn Bench) {
    let assignment = bench.assignment(Program::Serves);
    let started = run(bench, &assignment, Work::Start(std::sync::Arc::new(assignment.clone())));
    assert!(matches!(started.result, Err(Failure::Fatal(_))), "{started:?}");
    succeed(bench, &assignment, Work::Shutdown);
    finish(bench, &assignment);
}
