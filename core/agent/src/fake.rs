//! An executor without containers, for tests of whatever drives an agent: a table of containers in memory that ends
//! operations only when the test says so. Also builders for assignments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use skep_model::{
    ContainerSpec, ContainerStatus, DesiredState, Labels, NodeId, ObjectId, ServiceId, Slot, SpecVersion, TaskId,
    TaskSpec,
};

use crate::{Assignment, Done, Executor, Failure, Finished, Operation, Work};

/// What a fake container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Container {
    #[default]
    Created,
    Running,
    Exited(i32),
}

#[derive(Default)]
struct State {
    containers: BTreeMap<TaskId, Container>,
    pending: VecDeque<(Operation, Done)>,
    waits: BTreeMap<TaskId, Done>,
    failures: VecDeque<Failure>,
    starts: BTreeMap<TaskId, u32>,
    completed: VecDeque<(Done, Finished)>,
}

/// Containers in a table. The images `exit:N` end with code N as soon as they are started; all others run until stopped.
#[derive(Default)]
pub struct FakeExecutor(Mutex<State>);

impl FakeExecutor {
    /// Ends the oldest pending operation (a wait is not pending; it ends with its container). False without one.
    pub fn run_one(&self) -> bool {
        let next = self.state().pending.pop_front();
        if let Some((operation, done)) = next {
            self.perform(operation, done);
            self.deliver();
            return true;
        }
        false
    }

    /// Ends all pending operations, also those that begin while it does.
    pub fn run_all(&self) {
        while self.run_one() {}
    }

    /// Makes the next operation (not a removal) fail.
    pub fn fail_next(&self, failure: Failure) {
        self.state().failures.push_back(failure);
    }

    /// Ends a running container by itself.
    pub fn exit(&self, task: TaskId, code: i32) {
        let mut state = self.state();
        if let Some(container) = state.containers.get_mut(&task)
            && *container == Container::Running
        {
            *container = Container::Exited(code);
            state.end_wait(task);
        }
        drop(state);
        self.deliver();
    }

    /// The executor's process dies and starts again: operations in flight are lost, containers stay.
    pub fn restart(&self) {
        let mut state = self.state();
        state.pending.clear();
        state.waits.clear();
    }

    /// How often a task's container was started.
    #[must_use]
    pub fn starts(&self, task: TaskId) -> u32 {
        self.state().starts.get(&task).copied().unwrap_or_default()
    }

    /// True when the task's container runs.
    #[must_use]
    pub fn is_running(&self, task: TaskId) -> bool {
        self.state().containers.get(&task) == Some(&Container::Running)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn perform(&self, operation: Operation, done: Done) {
        let mut state = self.state();
        let task = operation.task;
        if !matches!(operation.work, Work::Remove)
            && let Some(failure) = state.failures.pop_front()
        {
            state.completed.push_back((done, Finished::failed(failure)));
            return;
        }
        match operation.work {
            Work::Prepare(_) => {
                state.containers.entry(task).or_default();
            }
            Work::Start(assignment) => {
                let image = assignment.spec.container.image.clone();
                let Some(container) = state.containers.get_mut(&task) else {
                    state.completed.push_back((done, Finished::failed(no_such(task))));
                    return;
                };
                if *container == Container::Created {
                    *container = match image.strip_prefix("exit:").and_then(|code| code.parse().ok()) {
                        Some(code) => Container::Exited(code),
                        None => Container::Running,
                    };
                    *state.starts.entry(task).or_default() += 1;
                }
            }
            Work::Wait => {
                match state.containers.get(&task) {
                    Some(Container::Exited(_)) => state.complete(task, done),
                    Some(_) => {
                        state.waits.insert(task, done);
                    }
                    None => state.completed.push_back((done, Finished::failed(no_such(task)))),
                }
                return;
            }
            Work::Shutdown => {
                if let Some(container) = state.containers.get_mut(&task)
                    && *container == Container::Running
                {
                    *container = Container::Exited(0);
                }
            }
            Work::Remove => {
                state.containers.remove(&task);
            }
        }
        state.complete(task, done);
    }

    /// Calls back without holding the lock: the callee may begin the next operation at once.
    fn deliver(&self) {
        loop {
            let Some((done, finished)) = self.state().completed.pop_front() else { return };
            done(finished);
        }
    }
}

impl State {
    fn complete(&mut self, task: TaskId, done: Done) {
        let container = self.containers.get(&task).map(|container| ContainerStatus {
            container_id: task.to_string(),
            pid: i32::from(*container == Container::Running),
            exit_code: if let Container::Exited(code) = container { *code } else { 0 },
        });
        self.completed.push_back((done, Finished::done(container)));
    }

    fn end_wait(&mut self, task: TaskId) {
        if let Some(done) = self.waits.remove(&task) {
            self.complete(task, done);
        }
    }
}

fn no_such(task: TaskId) -> Failure {
    Failure::Fatal(format!("No such container: {task}"))
}

impl Executor for FakeExecutor {
    fn begin(&self, operation: Operation, done: Done) {
        if matches!(operation.work, Work::Wait) {
            self.perform(operation, done);
            self.deliver();
        } else {
            self.state().pending.push_back((operation, done));
        }
    }

    fn cancel(&self, task: TaskId) {
        let mut state = self.state();
        if let Some(done) = state.waits.remove(&task) {
            state.completed.push_back((done, Finished::failed(Failure::Cancelled)));
        }
        let prepares = |operation: &Operation| operation.task == task && matches!(operation.work, Work::Prepare(_));
        if let Some(at) = state.pending.iter().position(|(operation, _)| prepares(operation)) {
            let (_, done) = state.pending.remove(at).expect("the position was just found");
            state.completed.push_back((done, Finished::failed(Failure::Cancelled)));
        }
        drop(state);
        self.deliver();
    }

    fn tasks(&self) -> Vec<TaskId> {
        self.state().containers.keys().copied().collect()
    }
}

/// A task id made of a number.
#[must_use]
pub fn task_id(number: u8) -> TaskId {
    let mut bytes = [7; 17];
    bytes[8] = number;
    TaskId::from_random(bytes)
}

/// The id of the node that builders use.
#[must_use]
pub fn node_id() -> NodeId {
    NodeId::from_random([9; 17])
}

/// An assignment of a service `web` that shall run.
#[must_use]
pub fn task(number: u8) -> Assignment {
    let container = ContainerSpec { image: "web:1".to_owned(), ..ContainerSpec::default() };
    Assignment {
        task_id: task_id(number),
        task_name: String::new(),
        task_labels: Labels::new(),
        service_id: Some(ServiceId::from_random([8; 17])),
        service_name: "web".to_owned(),
        service_labels: Labels::new(),
        slot: Slot::Number(1),
        node_id: node_id(),
        spec_version: SpecVersion(1),
        spec: Arc::new(TaskSpec { container, ..TaskSpec::default() }),
        ports: Vec::new(),
        desired: DesiredState::Running,
        known: None,
        secrets: Default::default(),
        configs: Default::default(),
        registry_auth: None,
        networks: Vec::new(),
    }
}

/// The same with another image.
#[must_use]
pub fn task_of(number: u8, image: &str) -> Assignment {
    let mut assignment = task(number);
    let mut spec = (*assignment.spec).clone();
    image.clone_into(&mut spec.container.image);
    assignment.spec = Arc::new(spec);
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformity::{Bench, Program, check};

    #[derive(Default)]
    struct FakeBench {
        executor: FakeExecutor,
        ended: Arc<Mutex<Vec<(TaskId, Finished)>>>,
        next: u8,
    }

    impl Bench for FakeBench {
        fn executor(&self) -> &dyn Executor {
            &self.executor
        }

        fn assignment(&mut self, program: Program) -> Assignment {
            self.next += 1;
            match program {
                Program::Serves => task(self.next),
                Program::Exits(code) => task_of(self.next, &format!("exit:{code}")),
            }
        }

        fn begin(&mut self, operation: Operation) {
            let (ended, id) = (self.ended.clone(), operation.task);
            self.executor.begin(operation, Box::new(move |finished| ended.lock().unwrap().push((id, finished))));
        }

        fn finished(&mut self, operation: &Operation) -> Finished {
            self.executor.run_all();
            let mut ended = self.ended.lock().unwrap();
            let at = ended.iter().position(|(id, _)| *id == operation.task).expect("the operation ended");
            ended.remove(at).1
        }

        fn restart(&mut self) {
            self.executor.restart();
        }
    }

    #[test]
    fn the_fake_conforms() {
        check(&mut FakeBench::default());
    }
}
