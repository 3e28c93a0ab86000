//! A node with a fake executor that acts at once, and a process around it that can be killed.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skep_agent::fake::FakeExecutor;
use skep_agent::{Done, Executor, Operation};
use skep_model::{
    ByteSize, ContainerSpec, DesiredState, NanoCpus, NodeDescription, NodeId, Platform, Resources, ServiceDefinition,
    ServiceId, ServiceSpec, Task, TaskId, TaskSpec, TaskState, WallTime,
};
use skep_node::{
    DescriptionSource, InitOptions, LogSource, Node, NodeConfig, TaskLogLine, TaskLogLines, TaskLogOptions,
};
use skep_store::State;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Longest that anything is waited for; only reached when a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The machine: its containers outlive the daemon.
#[derive(Default)]
pub struct Machine {
    pub containers: FakeExecutor,
    /// Operations stay undone while it is set.
    pub is_stuck: Mutex<bool>,
}

impl Executor for Machine {
    fn begin(&self, operation: Operation, done: Done) {
        self.containers.begin(operation, done);
        if !*self.is_stuck.lock().unwrap() {
            self.containers.run_all();
        }
    }

    fn cancel(&self, task: TaskId) {
        self.containers.cancel(task);
    }

    fn tasks(&self) -> Vec<TaskId> {
        self.containers.tasks()
    }
}

struct Description;

impl DescriptionSource for Description {
    fn describe(&self) -> NodeDescription {
        NodeDescription {
            hostname: "host".to_owned(),
            platform: Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() },
            resources: Resources { cpus: NanoCpus(4_000_000_000), memory: ByteSize(8 << 30), generic: Vec::new() },
            ..NodeDescription::default()
        }
    }
}

struct Logs;

impl LogSource for Logs {
    fn task_logs(&self, task: TaskId, options: TaskLogOptions) -> Result<Option<TaskLogLines>, String> {
        let (sender, lines) = mpsc::channel(8);
        let line = |text: &str, is_stderr| TaskLogLine {
            time: WallTime(7),
            is_stderr,
            data: format!("{text} of {task}\n").into_bytes(),
        };
        if options.stdout {
            sender.try_send(Ok(line("out", false))).unwrap();
        }
        if options.stderr {
            sender.try_send(Ok(line("err", true))).unwrap();
        }
        Ok(Some(lines))
    }
}

/// A daemon's process.
pub struct Process {
    runtime: Option<Runtime>,
    pub node: Option<Node>,
}

impl Process {
    pub fn start(root: &Path, machine: &Arc<Machine>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = NodeConfig {
            data_root: root.join("data"),
            exec_root: root.join("exec"),
            executor: machine.clone(),
            describe: Arc::new(Description),
            logs: Arc::new(Logs),
        };
        std::fs::create_dir_all(&config.exec_root).unwrap();
        let node = runtime.block_on(async {
            loop {
                let node = Node::open(config.clone()).await;
                // Threads of a process that was "killed" in this one may hold its locks a moment longer.
                let error = node.status().error;
                if !(error.contains("in use by another") || error.contains("already open")) {
                    return node;
                }
                drop(node);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { runtime: Some(runtime), node: Some(node) }
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(PATIENCE, work).await.expect("in time") };
        self.runtime.as_ref().unwrap().block_on(limited)
    }

    pub fn init(&self) -> NodeId {
        let options = InitOptions { advertise_addr: "127.0.0.1".to_owned(), ..InitOptions::default() };
        self.run(self.node().init(options)).unwrap()
    }

    pub fn create(&self, name: &str, replicas: u64) -> ServiceId {
        let answer = self.run(self.node().create_service(definition(name, "web:1", replicas), None)).unwrap();
        answer.service.unwrap()
    }

    pub fn state(&self) -> State {
        self.node().snapshot().unwrap()
    }

    /// Waits until the state is as wanted.
    pub fn until(&self, what: &str, is_so: impl Fn(&State) -> bool) -> State {
        let (state, mut commits) = self.node().subscribe().unwrap();
        let reached = async {
            let mut state = state;
            while !is_so(&state) {
                state = match commits.next().await {
                    skep_raft::Next::Commit(commit) => commit.state.clone(),
                    skep_raft::Next::Reset(published) => published.state.clone(),
                };
            }
            state
        };
        let runtime = self.runtime.as_ref().unwrap();
        let result = runtime.block_on(async { tokio::time::timeout(PATIENCE, reached).await });
        result.unwrap_or_else(|_| panic!("{what} did not come about: {:#?}", self.state().tasks().collect::<Vec<_>>()))
    }

    pub fn until_running(&self, service: ServiceId, count: usize) -> Vec<TaskId> {
        let state = self.until("running tasks", |state| running(state, service).len() == count);
        running(&state, service)
    }

    /// A graceful end.
    pub fn stop(mut self) {
        let node = self.node.take().unwrap();
        self.run(node.shutdown());
        drop(node);
        self.runtime.take().unwrap().shutdown_timeout(PATIENCE);
    }

    /// The process dies. What ran in it is gone; containers are not.
    pub fn kill(mut self, machine: &Machine) {
        let node = self.node.take();
        self.runtime.take().unwrap().shutdown_timeout(PATIENCE);
        drop(node);
        machine.containers.restart();
    }
}

pub fn definition(name: &str, image: &str, replicas: u64) -> ServiceDefinition {
    let container = ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() };
    let spec = ServiceSpec {
        name: name.to_owned(),
        task: TaskSpec { container, ..TaskSpec::default() },
        ..ServiceSpec::default()
    };
    ServiceDefinition { spec: Arc::new(spec), replicas }
}

pub fn running(state: &State, service: ServiceId) -> Vec<TaskId> {
    let is_running =
        |task: &&Arc<Task>| task.state() == TaskState::Running && task.intent.desired == DesiredState::Running;
    state.tasks_of_service(service).filter(is_running).map(|task| task.id).collect()
}
