//! The step function of a task (SwarmKit `agent/exec/controller.go`, `Do`): what comes next, given what is wanted and how
//! far the task is, and what an ended operation does to its status.

use skep_model::{DesiredState, TaskState, TaskStatus, WallTime};

use crate::{Failure, Finished, Work};

/// What a task should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, until something else is wanted.
    Hold,
    /// Note that it is taken.
    Accept,
    /// Go to `PREPARING` as soon as fewer preparations run.
    AwaitPreparation,
    /// Run the operation.
    Prepare,
    /// Go to `STARTING`.
    Launch,
    /// Run the operation.
    Start,
    /// Run the operation.
    Wait,
    /// Run the operation.
    Shutdown,
}

/// Decides; the conditions and their order are Docker's.
pub(crate) fn next(desired: DesiredState, state: TaskState) -> Next {
    let wanted = desired.as_state();
    if !desired.wants_alive() {
        return if state >= TaskState::Complete { Next::Hold } else { Next::Shutdown };
    }
    if state > wanted {
        return Next::Hold;
    }
    match state {
        TaskState::Preparing => return Next::Prepare,
        TaskState::Starting => return Next::Start,
        TaskState::Running => return Next::Wait,
        _ => {}
    }
    if state >= wanted {
        return Next::Hold;
    }
    match state {
        TaskState::New | TaskState::Pending | TaskState::Assigned => Next::Accept,
        TaskState::Accepted => Next::AwaitPreparation,
        TaskState::Ready => Next::Launch,
        _ => Next::Hold,
    }
}

/// Moves a status on to a state, with Docker's short text; an earlier error is forgotten.
pub(crate) fn advance(status: &mut TaskStatus, state: TaskState, now: WallTime) {
    debug_assert!(state >= status.state, "a task's state only grows: {:?} to {state:?}", status.state);
    status.state = state;
    status.timestamp = now;
    status.err.clear();
    status.message = match state {
        TaskState::Accepted => "accepted",
        TaskState::Preparing => "preparing",
        TaskState::Ready => "prepared",
        TaskState::Starting => "starting",
        TaskState::Running => "started",
        TaskState::Complete => "finished",
        TaskState::Shutdown => "shutdown",
        _ => state.name(),
    }
    .to_owned();
}

fn fail(status: &mut TaskStatus, error: String, now: WallTime) {
    status.state = if status.state < TaskState::Starting { TaskState::Rejected } else { TaskState::Failed };
    status.timestamp = now;
    status.err = error;
}

/// What the end of an operation means for what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Look again at once.
    GoOn,
    /// Look again after a pause.
    Retry,
}

/// Folds how an operation ended into the status.
pub(crate) fn fold(status: &mut TaskStatus, work: &Work, finished: Finished, now: WallTime) -> After {
    if finished.container.is_some() {
        status.container = finished.container;
    }
    if !finished.ports.is_empty() {
        status.ports = finished.ports;
    }
    match finished.result {
        Ok(()) => {
            match work {
                Work::Prepare(_) => advance(status, TaskState::Ready, now),
                Work::Start(_) => advance(status, TaskState::Running, now),
                Work::Wait => exited(status, ended_at(finished.ended_at, status.timestamp, now)),
                Work::Shutdown => advance(status, TaskState::Shutdown, now),
                Work::Remove => {}
            }
            After::GoOn
        }
        Err(Failure::Cancelled) => After::Retry,
        Err(Failure::Temporary(error)) => {
            if status.err != error {
                status.err = error;
                status.timestamp = now;
            }
            After::Retry
        }
        Err(Failure::Fatal(error)) => {
            fail(status, error, now);
            After::GoOn
        }
    }
}

/// When a container ended that is heard of now: not before the status that it had, nor in the future, whatever the clock did.
fn ended_at(told: Option<WallTime>, before: WallTime, now: WallTime) -> WallTime {
    told.map_or(now, |told| told.max(before).min(now))
}

fn exited(status: &mut TaskStatus, now: WallTime) {
    match status.container.as_ref().map_or(0, |container| container.exit_code) {
        0 => advance(status, TaskState::Complete, now),
        code => fail(status, format!("task: non-zero exit ({code})"), now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_the_time_it_had() {
        let at = |told: Option<i64>| ended_at(told.map(WallTime), WallTime(10), WallTime(20)).0;
        assert_eq!([at(Some(12)), at(Some(5)), at(Some(30)), at(None)], [12, 10, 20, 20]);
        assert_eq!(ended_at(Some(WallTime(12)), WallTime(30), WallTime(20)), WallTime(20), "the clock was set back");
    }

    #[test]
    fn docker_order_of_conditions() {
        use DesiredState as D;
        use TaskState as S;
        let cases = [
            (D::Running, S::Assigned, Next::Accept),
            (D::Running, S::Accepted, Next::AwaitPreparation),
            (D::Running, S::Preparing, Next::Prepare),
            (D::Running, S::Ready, Next::Launch),
            (D::Running, S::Starting, Next::Start),
            (D::Running, S::Running, Next::Wait),
            (D::Running, S::Failed, Next::Hold),
            (D::Ready, S::Accepted, Next::AwaitPreparation),
            (D::Ready, S::Ready, Next::Hold),
            (D::Ready, S::Running, Next::Hold),
            (D::Complete, S::Running, Next::Wait),
            (D::Complete, S::Complete, Next::Hold),
            (D::Shutdown, S::Assigned, Next::Shutdown),
            (D::Shutdown, S::Running, Next::Shutdown),
            (D::Shutdown, S::Complete, Next::Hold),
            (D::Remove, S::Failed, Next::Hold),
            (D::Remove, S::Ready, Next::Shutdown),
        ];
        for (desired, state, expected) in cases {
            assert_eq!(next(desired, state), expected, "{desired:?} {state:?}");
        }
    }
}
