//! What the tests stand on: an engine in a network namespace of its own that can be closed and opened again, tasks for it,
//! and a look at what is left.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_agent::conformity::{Bench, Program, check};
use skep_agent::{
    Actions, Agent, AgentConfig, Assignment, Executor, Finished, Input, Moment, Operation, StoredTask, Work,
};
use skep_engine::{Engine, EngineConfig, ImageId, LogOptions};
use skep_image::{ContainerConfig, ImageBuilder, Reference};
use skep_model::{
    ContainerSpec, DesiredState, Labels, NodeId, ObjectId, PortConfig, Protocol, PublishMode, ServiceId, Slot,
    SpecVersion, TaskId, TaskSpec, TaskState, TaskStatus, WallTime,
};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Rig {
    engine: Option<Engine>,
    config: EngineConfig,
    directory: tempfile::TempDir,
    pub(crate) image: ImageId,
    next: u64,
}

/// Runs a test in a network namespace of its own; removes everything afterwards, also when it failed.
pub(crate) fn run<F: Future<Output = Rig>>(test: impl FnOnce(Rig) -> F + Send + 'static) {
    in_namespace(move |runtime| {
        let rig = runtime.block_on(Rig::new());
        let rig = runtime.block_on(async { tokio::time::timeout(4 * PATIENCE, test(rig)).await.expect("in time") });
        drop(runtime);
        drop(rig);
    });
}

pub(crate) fn conforms() {
    in_namespace(|runtime| {
        let rig = runtime.block_on(Rig::new());
        check(&mut RealBench { runtime, rig, ended: Vec::new() });
    });
}

fn in_namespace(test: impl FnOnce(tokio::runtime::Runtime) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("iproute2 is installed").success());
        test(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Rig {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut config = EngineConfig::new(root.join("data"), root.join("exec"));
        let unique = directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
        config.cgroup_parent = format!("/skep-test-{}-{unique}", std::process::id());
        config.shim_binary = PathBuf::from(env!("CARGO_BIN_EXE_skep-engine-shim"));
        let engine = Engine::open(config.clone()).await.unwrap();
        let image = build_image(&engine);
        Self { engine: Some(engine), config, directory, image, next: 0 }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub(crate) async fn close(&mut self) {
        self.engine.take().unwrap().close().await;
    }

    pub(crate) async fn open(&mut self) {
        // Handles that followers hold end soon after the engine closed.
        for _ in 0..100 {
            match Engine::open(self.config.clone()).await {
                Ok(engine) => return self.engine = Some(engine),
                Err(error) if error.to_string().contains("in use") => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{}", error.full_text()),
            }
        }
        panic!("the image store is still in use");
    }

    pub(crate) async fn open_another(&self) -> Result<Engine, skep_engine::EngineError> {
        Engine::open(self.config.clone()).await
    }

    /// Shim and first process of a task's container.
    pub(crate) fn processes(&self, task: &Assignment) -> Vec<skep_oci::ProcessId> {
        match self.bundle(task).status().unwrap() {
            skep_oci::Status::Alive(pids) => [Some(pids.shim), pids.init].into_iter().flatten().collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A reboot empties it.
    pub(crate) fn forget_exec_root(&self) {
        let pins = self.config.exec_root.join("netns");
        nix::mount::umount2(&pins, nix::mount::MntFlags::MNT_DETACH).unwrap();
        std::fs::remove_dir_all(&self.config.exec_root).unwrap();
    }

    pub(crate) fn layout(&self, path: &str) -> PathBuf {
        self.config.data_root.join(path)
    }

    pub(crate) fn task(&mut self, script: &str) -> Assignment {
        self.task_with(script, |_| {})
    }

    /// A task that runs a script in a shell.
    pub(crate) fn task_with(&mut self, script: &str, change: impl FnOnce(&mut TaskSpec)) -> Assignment {
        self.next += 1;
        let mut assignment = assignment(self.next, script);
        change(Arc::make_mut(&mut assignment.spec));
        assignment
    }
    pub(crate) fn begin(&self, task: TaskId, work: Work) -> oneshot::Receiver<Finished> {
        begin(self.engine(), task, work)
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub(crate) async fn work(&self, task: &Assignment, work: Work) -> Finished {
        let ended = self.begin(task.task_id, work);
        tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("it calls back")
    }

    pub(crate) async fn succeed(&self, task: &Assignment, work: Work) -> Finished {
        let name = work.name();
        let finished = self.work(task, work).await;
        assert_eq!(finished.result, Ok(()), "{name}");
        finished
    }

    pub(crate) async fn all(&self, tasks: &[Assignment], work: impl Fn(&Assignment) -> Work) {
        let begun: Vec<_> = tasks.iter().map(|task| self.begin(task.task_id, work(task))).collect();
        for ended in begun {
            assert_eq!(ended.await.unwrap().result, Ok(()));
        }
    }

    pub(crate) async fn prepare(&self, task: &Assignment) -> Finished {
        self.work(task, Work::Prepare(Arc::new(task.clone()))).await
    }

    pub(crate) async fn start(&self, task: &Assignment) -> Finished {
        self.work(task, Work::Start(Arc::new(task.clone()))).await
    }

    pub(crate) async fn prepare_and_start(&self, task: &Assignment) {
        assert_eq!(self.prepare(task).await.result, Ok(()));
        assert_eq!(self.start(task).await.result, Ok(()));
    }

    pub(crate) async fn logs(&self, id: &str, options: LogOptions) -> Vec<String> {
        let mut reader = self.engine().logs(id, options).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await {
            lines.push(String::from_utf8_lossy(&line.unwrap().message).trim_end().to_owned());
        }
        lines
    }

    pub(crate) async fn wait_for_line(&self, id: &str, wanted: &str) {
        let mut reader = self.engine().logs(id, LogOptions { follow: true, ..LogOptions::default() }).unwrap();
        while let Some(line) = reader.next().await {
            if &line.unwrap().message[..wanted.len()] == wanted.as_bytes() {
                return;
            }
        }
        panic!("the log ended without {wanted:?}");
    }

    pub(crate) async fn until(&self, reached: impl Fn() -> bool) {
        let reaching = async {
            while !reached() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reaching).await.expect("in time");
    }

    pub(crate) async fn read_port(&self, port: u16) -> String {
        let reading = async {
            loop {
                // The server takes one connection at a time.
                if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                    let mut text = String::new();
                    if stream.read_to_string(&mut text).await.is_ok() && !text.is_empty() {
                        return text;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the port answers")
    }

    fn bundle(&self, task: &Assignment) -> skep_oci::Bundle {
        let id = self.engine.as_ref().map(|engine| engine.of_task(task.task_id).unwrap().record.id.clone());
        let id = id.unwrap_or_else(|| self.stored_id(task));
        skep_oci::Bundle::new(self.layout("containers").join(id).join("bundle"))
    }

    fn stored_id(&self, task: &Assignment) -> String {
        let entries = std::fs::read_dir(self.layout("containers")).unwrap();
        let of_task = |path: &std::path::Path| {
            std::fs::read_to_string(path.join("container.json"))
                .is_ok_and(|text| text.contains(&format!("\"task_id\":\"{}\"", task.task_id)))
        };
        let path = entries.map(|entry| entry.unwrap().path()).find(|path| of_task(path)).unwrap();
        path.file_name().unwrap().to_string_lossy().into_owned()
    }

    pub(crate) fn shim_pid(&self, task: &Assignment) -> skep_oci::ProcessId {
        match self.bundle(task).status().unwrap() {
            skep_oci::Status::Alive(pids) => pids.shim,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn kill(&self, process: skep_oci::ProcessId) {
        assert!(process.kill(9));
    }

    pub(crate) async fn wait_for_exit_record(&self, task: &Assignment) {
        let bundle = self.bundle(task);
        self.until(|| matches!(bundle.status().unwrap(), skep_oci::Status::Exited(_))).await;
    }

    /// What an engine leaves that is killed while it prepares.
    pub(crate) fn half_made(&self, id: &str) {
        let images = skep_image::ImageStore::open(&self.layout("image")).unwrap();
        images.create_snapshot(id, self.image).unwrap();
        std::fs::create_dir(self.layout("containers").join(id)).unwrap();
    }

    pub(crate) fn check_nothing_is_left(&self) {
        let entries = |path: PathBuf| std::fs::read_dir(path).map(|entries| entries.count()).unwrap_or_default();
        assert_eq!(entries(self.layout("containers")), 0, "containers");
        assert_eq!(self.engine().images().snapshots().len(), 0, "snapshots");
        assert_eq!(entries(self.config.exec_root.join("netns")), 0, "network namespaces");
        let groups = skep_oci::Cgroups::detect().unwrap();
        for controller in ["memory", "pids"] {
            if let Some(directory) = groups.directory(controller, &self.config.cgroup_parent, "") {
                let children = std::fs::read_dir(&directory).map(|entries| {
                    entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count()
                });
                assert_eq!(children.unwrap_or_default(), 0, "{directory:?}");
            }
        }
    }
}

/// Begins an operation; the receiver gets its end.
pub(crate) fn begin(engine: &Engine, task: TaskId, work: Work) -> oneshot::Receiver<Finished> {
    let (sender, receiver) = oneshot::channel();
    engine.begin(Operation { task, work }, Box::new(move |finished| drop(sender.send(finished))));
    receiver
}

/// A task that runs a script in a shell.
pub(crate) fn assignment(number: u64, script: &str) -> Assignment {
    let mut bytes = [3; 17];
    bytes[4..12].copy_from_slice(&number.to_be_bytes());
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    let stop_grace_period = Some(Duration::from_secs(5));
    let container = ContainerSpec { image: "box:1".to_owned(), args, stop_grace_period, ..ContainerSpec::default() };
    Assignment {
        task_id: TaskId::from_random(bytes),
        task_name: String::new(),
        task_labels: Labels::new(),
        service_id: Some(ServiceId::from_random([1; 17])),
        service_name: "web".to_owned(),
        service_labels: Labels::new(),
        slot: Slot::Number(number),
        node_id: NodeId::from_random([2; 17]),
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

impl Drop for Rig {
    /// Also after a failure nothing of a test stays.
    fn drop(&mut self) {
        drop(self.engine.take());
        let config = self.config.clone();
        // A thread of its own, in the same network namespace: a failed test is dropped within its runtime.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(clean_up(config))
        });
        if !matches!(cleaned.join(), Ok(Some(()))) {
            eprintln!("cannot clean up {:?}", self.directory.path());
        }
    }
}

async fn clean_up(config: EngineConfig) -> Option<()> {
    for _ in 0..100 {
        let Ok(engine) = Engine::open(config.clone()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for view in engine.list() {
            let _ = engine.remove(&view.record.id, true, true).await;
        }
        let network = engine.network().clone();
        let _ = tokio::task::spawn_blocking(move || network.remove_all()).await;
        engine.close().await;
        return Some(());
    }
    None
}

fn build_image(engine: &Engine) -> ImageId {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut builder = ImageBuilder::new().file("bin/busybox", &busybox, 0o755).directory("tmp", 0o1777);
    let programs = "sh echo cat sleep true false grep id pwd df tail cut nc head yes ls kill wc";
    for program in programs.split(' ') {
        builder = builder.symlink(&format!("bin/{program}"), "busybox");
    }
    let builder = builder.config(ContainerConfig {
        env: vec!["PATH=/bin".to_owned()],
        cmd: Some(vec!["sh".to_owned()]),
        ..ContainerConfig::default()
    });
    builder.build(engine.images(), Some(&Reference::parse("box:1").unwrap())).unwrap()
}

pub(crate) fn port(target: u16, published: u16, host: bool) -> PortConfig {
    PortConfig {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: target,
        published_port: published,
        mode: if host { PublishMode::Host } else { PublishMode::Ingress },
    }
}

struct RealBench {
    runtime: tokio::runtime::Runtime,
    rig: Rig,
    ended: Vec<(TaskId, oneshot::Receiver<Finished>)>,
}

impl Bench for RealBench {
    fn executor(&self) -> &dyn Executor {
        self.rig.engine()
    }

    fn assignment(&mut self, program: Program) -> Assignment {
        match program {
            Program::Serves => self.rig.task("trap 'exit 0' TERM; while :; do sleep 0.05; done"),
            Program::Exits(code) => self.rig.task(&format!("exit {code}")),
        }
    }

    fn begin(&mut self, operation: Operation) {
        let ended = self.rig.begin(operation.task, operation.work);
        self.ended.push((operation.task, ended));
    }

    fn finished(&mut self, operation: &Operation) -> Finished {
        let at = self.ended.iter().position(|(task, _)| *task == operation.task).expect("it was begun");
        let (_, ended) = self.ended.remove(at);
        let waiting = async { tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("it calls back") };
        self.runtime.block_on(waiting)
    }

    fn restart(&mut self) {
        self.runtime.block_on(async {
            self.rig.close().await;
            self.rig.open().await;
        });
    }
}

/// A node around the engine: an agent, its database, and what ended.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    database: BTreeMap<TaskId, StoredTask>,
    sender: mpsc::UnboundedSender<(TaskId, Finished)>,
    ended: mpsc::UnboundedReceiver<(TaskId, Finished)>,
    began: std::time::Instant,
}

impl Node {
    pub(crate) fn new(rig: &Rig) -> Self {
        let (sender, ended) = mpsc::unbounded_channel();
        let found = rig.engine().tasks();
        let (agent, _) = Agent::restore(AgentConfig::default(), Moment::default(), Vec::new(), &found);
        Self { agent, database: BTreeMap::new(), sender, ended, began: std::time::Instant::now() }
    }

    pub(crate) fn restart(&mut self, rig: &Rig) {
        (self.sender, self.ended) = mpsc::unbounded_channel();
        let stored = self.database.values().cloned().collect();
        let found = rig.engine().tasks();
        let (agent, actions) = Agent::restore(AgentConfig::default(), self.now(), stored, &found);
        self.agent = agent;
        self.perform(rig, actions);
    }

    fn now(&self) -> Moment {
        Moment { monotonic: self.began.elapsed(), wall: WallTime::default() }
    }

    pub(crate) fn input(&mut self, rig: &Rig, input: Input) {
        let actions = self.agent.step(self.now(), input);
        self.perform(rig, actions);
    }

    fn perform(&mut self, rig: &Rig, actions: Actions) {
        for id in actions.forget {
            self.database.remove(&id);
        }
        for stored in actions.store {
            self.database.insert(stored.assignment.task_id, stored);
        }
        for id in actions.cancel {
            rig.engine().cancel(id);
        }
        for operation in actions.begin {
            let (sender, id) = (self.sender.clone(), operation.task);
            rig.engine().begin(operation, Box::new(move |finished| drop(sender.send((id, finished)))));
        }
    }

    pub(crate) async fn until(&mut self, rig: &Rig, reached: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !reached(self) {
            let ended = tokio::time::timeout_at(deadline, self.ended.recv()).await.expect("in time");
            let (id, finished) = ended.expect("the sender lives");
            self.input(rig, Input::Finished(id, finished));
        }
    }

    pub(crate) fn count(&self, state: TaskState) -> usize {
        self.agent.statuses().filter(|(_, status)| status.state == state).count()
    }

    pub(crate) fn status(&self, task: &Assignment) -> TaskStatus {
        let found = self.agent.statuses().find(|(id, _)| *id == task.task_id);
        found.expect("the task is known").1.clone()
    }
}
