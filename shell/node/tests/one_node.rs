//! A cluster of one, from a user's request to running tasks and back, over the real Raft log and the real gRPC socket.

#![allow(clippy::unwrap_used, unreachable_pub, dead_code, missing_docs, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{Machine, Process, definition, running};
use skep_model::{DesiredState, NodeState, RestartPolicy, TaskId, TaskState};
use skep_node::{
    Answer, ErrorClass, InitOptions, LocalState, LogOptions, LogSelector, NodeError, Request, RotateTokens, SwarmStatus,
};

fn machine() -> (tempfile::TempDir, Arc<Machine>) {
    (tempfile::tempdir().unwrap(), Arc::default())
}

#[test]
fn a_service_comes_to_run_scales_and_goes() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    assert_eq!(process.node().status().state, LocalState::Inactive);
    assert_eq!(process.node().snapshot().unwrap_err(), NodeError::NoSwarm);
    let node_id = process.init();

    let status = process.node().status();
    assert_eq!((status.state, status.node_id, status.leader), (LocalState::Active, Some(node_id), Some(node_id)));
    assert!(status.control_available);
    assert_eq!(status.managers, [(node_id, "127.0.0.1:2377".to_owned())]);
    let state = process.until("a ready node", |state| {
        state.node(node_id).is_some_and(|node| node.observed.status.state == NodeState::Ready)
    });
    let node = state.node(node_id).unwrap();
    assert_eq!(node.observed.description.as_ref().unwrap().hostname, "host");
    assert!(!node.observed.description.as_ref().unwrap().tls.as_ref().unwrap().issuer_public_key.is_empty());
    assert_eq!(node.observed.status.addr, "127.0.0.1");

    let service = process.create("web", 3);
    let tasks = process.until_running(service, 3);
    assert!(tasks.iter().all(|task| machine.containers.is_running(*task)));
    let state = process.state();
    let task = state.task(tasks[0]).unwrap();
    assert_eq!(task.observed.as_ref().unwrap().message, "started");
    assert!(task.observed.as_ref().unwrap().container.is_some());

    let version = state.service(service).unwrap().meta.version;
    let scale = |version| process.node().update_service(service, version, definition("web", "web:1", 1), None);
    process.run(scale(version)).unwrap();
    process.until_running(service, 1);
    process.until("containers of the rest to be gone", |_| machine.containers_running(&tasks) == 1);
    let stale = process.run(scale(version)).unwrap_err();
    assert_eq!(stale.to_string(), "rpc error: code = Unknown desc = update out of sequence");

    process.run(process.node().submit(Request::RemoveService(service))).unwrap();
    process.until("no task", |state| state.task_count() == 0);
    process.stop();
}

#[test]
fn a_task_that_ends_is_replaced() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    process.init();
    let mut definition = definition("web", "web:1", 1);
    let policy = RestartPolicy { delay: Some(std::time::Duration::ZERO), ..RestartPolicy::default() };
    Arc::make_mut(&mut definition.spec).task.restart = Some(policy);
    let service = process.run(process.node().create_service(definition, None)).unwrap().service.unwrap();
    let first = process.until_running(service, 1)[0];
    machine.containers.exit(first, 3);
    let state = process.until("another task", |state| running(state, service).iter().any(|task| *task != first));
    let ended = state.task(first).unwrap();
    assert_eq!(ended.state(), TaskState::Failed);
    assert_eq!(ended.status().err, "task: non-zero exit (3)");
    process.stop();
}

#[test]
fn a_restart_keeps_every_task() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    let node_id = process.init();
    let service = process.create("web", 3);
    let before = process.until_running(service, 3);
    process.stop();
    assert!(before.iter().all(|task| machine.containers.is_running(*task)));
    machine.containers.restart();
    // While nobody looks, one ends.
    machine.containers.exit(before[0], 0);

    let process = Process::start(root.path(), &machine);
    let status = process.node().status();
    assert_eq!((status.state, status.node_id), (LocalState::Active, Some(node_id)), "{}", status.error);
    let state = process.until("the end of a task to be known", |state| {
        state.task(before[0]).is_some_and(|task| task.state() == TaskState::Complete)
    });
    for task in &before[1..] {
        assert_eq!(state.task(*task).unwrap().state(), TaskState::Running);
        assert_eq!(state.task(*task).unwrap().intent.desired, DesiredState::Running);
        assert_eq!(machine.containers.starts(*task), 1);
    }
    process.stop();
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    process.init();
    let service = process.create("web", 2);
    let before = process.until_running(service, 2);
    let other = process.create("other", 1);
    process.kill(&machine);

    let process = Process::start(root.path(), &machine);
    assert_eq!(process.node().status().state, LocalState::Active, "{}", process.node().status().error);
    assert_eq!(process.state().service(other).unwrap().spec.name, "other");
    let others = process.until_running(other, 1);
    let mut after = process.until_running(service, 2);
    after.sort();
    assert_eq!(after, before);
    for task in before.iter().chain(&others) {
        assert_eq!(machine.containers.starts(*task), 1);
    }
    process.kill(&machine);
    Process::start(root.path(), &machine).stop();
}

#[test]
fn a_kill_in_the_middle_of_starting_goes_on() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    process.init();
    *machine.is_stuck.lock().unwrap() = true;
    let service = process.create("web", 4);
    process.until("tasks that prepare", |state| {
        state.tasks().filter(|task| task.state() == TaskState::Preparing).count() == 4
    });
    let before: Vec<TaskId> = process.state().tasks().map(|task| task.id).collect();
    process.kill(&machine);
    *machine.is_stuck.lock().unwrap() = false;
    let process = Process::start(root.path(), &machine);
    assert_eq!(process.until_running(service, 4), before);
    process.stop();
}

#[test]
fn leaving_removes_everything_and_a_new_swarm_can_be_founded() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    assert_eq!(process.run(process.node().leave(true)).unwrap_err(), NodeError::NotPartOfSwarm);
    let first = process.init();
    let service = process.create("web", 2);
    process.until_running(service, 2);
    assert_eq!(process.run(process.node().init(InitOptions::default())).unwrap_err(), NodeError::AlreadyInSwarm);
    assert_eq!(process.run(process.node().leave(false)).unwrap_err(), NodeError::LastManager);
    process.run(process.node().leave(true)).unwrap();
    assert_eq!(process.node().status(), SwarmStatus::default());
    assert!(skep_agent::Executor::tasks(&*machine).is_empty());
    assert!(std::fs::read_dir(root.path().join("data/swarm")).unwrap().next().is_none());
    let second = process.init();
    assert_ne!(first, second);
    assert_eq!(process.state().services().count(), 0);
    process.stop();
}

fn write_phase(root: &std::path::Path, from: &str, to: &str) {
    let path = root.join("data/swarm/membership.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

#[test]
fn what_a_crash_cut_short_is_taken_back_or_finished() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    process.init();
    process.kill(&machine);
    write_phase(root.path(), "active", "founding");
    let process = Process::start(root.path(), &machine);
    assert_eq!(process.node().status().state, LocalState::Inactive);
    process.init();
    let service = process.create("web", 2);
    process.until_running(service, 2);
    process.kill(&machine);
    write_phase(root.path(), "active", "leaving");
    let process = Process::start(root.path(), &machine);
    assert_eq!(process.node().status().state, LocalState::Inactive);
    assert!(skep_agent::Executor::tasks(&*machine).is_empty());
    process.stop();
}

#[test]
fn bad_files_are_errors_and_leave_containers_alone() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    process.init();
    let service = process.create("web", 1);
    let tasks = process.until_running(service, 1);
    process.kill(&machine);
    let membership = root.path().join("data/swarm/membership.json");
    let good = std::fs::read_to_string(&membership).unwrap();
    for (text, part) in [("{", "is damaged"), ("{\"version\":99}", "run the newer skep")] {
        std::fs::write(&membership, text).unwrap();
        let process = Process::start(root.path(), &machine);
        let status = process.node().status();
        assert_eq!(status.state, LocalState::Error);
        assert!(status.error.contains(part), "{}", status.error);
        assert_eq!(process.node().snapshot().unwrap_err(), NodeError::NotReady);
        assert!(machine.containers.is_running(tasks[0]));
        process.stop();
    }
    std::fs::write(&membership, &good).unwrap();
    let key = root.path().join("data/swarm/manager.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let process = Process::start(root.path(), &machine);
    assert!(process.node().status().error.contains("does not exist"), "{}", process.node().status().error);
    process.stop();
    std::fs::write(&key, kept).unwrap();
    let process = Process::start(root.path(), &machine);
    assert_eq!(process.until_running(service, 1), tasks);
    process.kill(&machine);
    std::fs::write(&membership, "{").unwrap();
    let process = Process::start(root.path(), &machine);
    process.run(process.node().leave(true)).unwrap();
    assert!(!machine.containers.is_running(tasks[0]));
    assert_eq!(process.node().status().state, LocalState::Inactive);
    process.stop();
}

#[test]
fn logs_come_from_the_node_and_end() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    let node_id = process.init();
    let service = process.create("web", 2);
    let tasks = process.until_running(service, 2);
    let selector = LogSelector { services: vec![service], ..LogSelector::default() };
    let options = LogOptions { stdout: true, ..LogOptions::default() };
    let mut lines = process.run(async {
        let mut reader = process.node().service_logs(selector.clone(), options).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await {
            lines.push(line.unwrap());
        }
        lines
    });
    lines.sort_by_key(|line| line.task_id);
    assert_eq!(lines.iter().map(|line| line.task_id).collect::<Vec<_>>(), tasks);
    assert!(lines.iter().all(|line| line.node_id == node_id && line.service_id == Some(service) && !line.is_stderr));
    assert_eq!(lines[0].data, format!("out of {}\n", tasks[0]).into_bytes());

    let empty = process.run(async { process.node().service_logs(LogSelector::default(), options) });
    assert_eq!(empty.unwrap_err().to_string(), "log selector must not be empty");

    // A follower also gets what comes later.
    let follow = LogOptions { follow: true, stdout: true, stderr: true, ..LogOptions::default() };
    let mut reader = process.run(async { process.node().service_logs(selector, follow).unwrap() });
    for _ in 0..4 {
        process.run(reader.next()).unwrap().unwrap();
    }
    let version = process.state().service(service).unwrap().meta.version;
    process.run(process.node().update_service(service, version, definition("web", "web:1", 3), None)).unwrap();
    let line = process.run(reader.next()).unwrap().unwrap();
    assert!(!tasks.contains(&line.task_id));
    drop(reader);
    process.stop();
}

#[test]
fn requests_are_refused_in_dockers_words() {
    let (root, machine) = machine();
    let process = Process::start(root.path(), &machine);
    process.init();
    process.create("web", 1);
    let text = |result: Result<Answer, NodeError>| {
        let error = result.unwrap_err();
        (error.class(), error.to_string())
    };
    let (class, taken) = text(process.run(process.node().create_service(definition("web", "web:1", 1), None)));
    assert_eq!(class, ErrorClass::AlreadyExists);
    assert_eq!(
        taken,
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
    );
    let (class, bad) = text(process.run(process.node().create_service(definition("a b", "web:1", 1), None)));
    assert_eq!(class, ErrorClass::InvalidArgument);
    assert_eq!(bad, "rpc error: code = InvalidArgument desc = name must be valid as a DNS name component");

    let state = process.state();
    let cluster = state.cluster().unwrap();
    let tokens = cluster.root_ca.join_tokens.clone();
    let rotate = RotateTokens { worker: true, ..RotateTokens::default() };
    let update = process.node().update_cluster(cluster.meta.version, cluster.spec.clone(), rotate);
    process.run(update).unwrap();
    let state = process.state();
    assert_ne!(state.cluster().unwrap().root_ca.join_tokens.worker, tokens.worker);
    assert_eq!(state.cluster().unwrap().root_ca.join_tokens.manager, tokens.manager);
    process.stop();
}

impl Machine {
    fn containers_running(&self, tasks: &[TaskId]) -> usize {
        tasks.iter().filter(|task| self.containers.is_running(**task)).count()
    }
}
