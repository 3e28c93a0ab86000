//! A daemon under test: in a network namespace of its own that outlives it as a machine's does, with folders and a cgroup of
//! its own. What it and its shims leave is removed when the value is dropped, also when the test panics or has killed the
//! daemon; what a killed test left is removed by the next.

use std::ffi::OsString;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{cgroup_dirs, command_line, pids, processes_below};
use crate::client::Client;
use crate::command::{Output, run};
use crate::wait::wait_for;

/// How long a daemon may take until it answers, and to end.
const START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(15);
const NAME: &str = "skep-test";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where a daemon under test lives, before it is started.
#[derive(Debug)]
pub struct Setup {
    binary: PathBuf,
    dir: PathBuf,
    cgroup: String,
    extra: Vec<OsString>,
    holder: Child,
}

impl Setup {
    /// Makes folder and namespace.
    ///
    /// # Panics
    /// When the machine does not allow it.
    #[must_use]
    pub fn new(binary: &str) -> Self {
        sweep_dead_tests();
        let name = format!("{NAME}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).expect("the temporary directory can be written");
        // Holds the namespace while no daemon runs, and ends with the test.
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sh", "-c"])
            .arg("ip link set lo up && touch \"$0\" && exec sleep 100000")
            .arg(dir.join("up"))
            .stdin(Stdio::null())
            .spawn()
            .expect("setpriv, unshare and sh can be run");
        let setup = Self { binary: binary.into(), dir, cgroup: format!("/{name}"), extra: Vec::new(), holder };
        let is_up = || setup.dir.join("up").exists().then_some(()).ok_or_else(|| "not up".to_owned());
        wait_for("a network namespace", START_MAX, is_up).unwrap_or_else(|error| panic!("{error}"));
        setup
    }

    /// Adds a flag for `skep daemon`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.extra.push(arg.into());
        self
    }

    /// Where the daemon keeps its state.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where its sockets and namespaces are.
    #[must_use]
    pub fn exec_root(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.exec_root().join("skep.sock")
    }

    /// The cgroup its containers are below.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A folder for the test's own files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// When it does not; the message has its log.
    #[must_use]
    pub fn start(self) -> Daemon {
        let client = Client::new(&self.socket());
        let mut daemon = Daemon { setup: self, client, child: None };
        daemon.start();
        daemon
    }

    /// Runs the daemon in the foreground until it ends, which it must do soon: for starts that are refused.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn run_refused(&self) -> Output {
        run(&mut self.command(), b"", Duration::from_secs(10))
    }

    /// `skep daemon` with all its flags, inside the namespace, not started.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.in_netns(&self.binary);
        command.arg("daemon").arg("--data-root").arg(self.data_root()).arg("--exec-root").arg(self.exec_root());
        command.args(["--cgroup-parent", &self.cgroup]).args(&self.extra).stdin(Stdio::null());
        command
    }

    /// A program inside the daemon's network namespace, not started.
    #[must_use]
    pub fn in_netns(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns().display())).arg("--").arg(program);
        command
    }

    /// The daemon's network namespace.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        remove(&self.dir, &self.cgroup);
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// A running daemon, or one that was stopped or killed and can be started again. Derefs to its [`Client`].
#[derive(Debug)]
pub struct Daemon {
    setup: Setup,
    client: Client,
    child: Option<Child>,
}

impl Deref for Daemon {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Daemon {
    /// Where it lives.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let child = self.child.as_ref().expect("the daemon was started and not stopped");
        i32::try_from(child.id()).expect("process ids are small")
    }

    /// Starts it again and waits until it answers; how long that took.
    ///
    /// # Panics
    /// When it does not; the message has its log.
    pub fn start(&mut self) -> Duration {
        let begin = Instant::now();
        self.spawn();
        let up = wait_for("the daemon to answer", START_MAX, || {
            if let Ok(Some(status)) = self.child.as_mut().map_or(Ok(None), Child::try_wait) {
                return Ok(Err(format!("the daemon ended: {status}")));
            }
            let answer = self.client.http_within("GET", "/_ping", None, Duration::from_secs(5));
            answer.map_err(|error| error.to_string()).map(|_| Ok(()))
        });
        if let Err(error) = up.and_then(|result| result) {
            panic!("{error}; its log says:\n{}", self.log());
        }
        begin.elapsed()
    }

    /// Starts it without waiting for anything.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log can be written");
        let error = log.try_clone().expect("a file can be opened twice");
        let child = self.setup.command().stdout(log).stderr(error).spawn();
        self.child = Some(child.expect("nsenter can be run"));
    }

    /// Starts it and ends it again by SIGTERM, whether it comes up or refuses to: for starts on damaged files.
    ///
    /// # Panics
    /// When it neither answers nor ends, or does not end after SIGTERM.
    pub fn spawn_briefly(&mut self) {
        self.spawn();
        let begun = wait_for("the daemon to answer or end", START_MAX, || {
            if let Ok(Some(_)) = self.child.as_mut().map_or(Ok(None), Child::try_wait) {
                return Ok(false);
            }
            let answer = self.client.http_within("GET", "/_ping", None, Duration::from_secs(5));
            answer.map(|_| true).map_err(|error| error.to_string())
        });
        match begun {
            Ok(true) => self.terminate(),
            Ok(false) => self.child = None,
            Err(error) => panic!("{error}; its log says:\n{}", self.log()),
        }
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// When it does not end, or not with code 0.
    pub fn terminate(&mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("the daemon is our child");
        let mut child = self.child.take().expect("the daemon runs");
        let ended = wait_for("the daemon to end after SIGTERM", STOP_MAX, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        match ended {
            Ok(status) => assert!(status.success(), "the daemon ended with {status}; its log says:\n{}", self.log()),
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                panic!("{error}; its log says:\n{}", self.log());
            }
        }
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("the daemon is our child");
        child.wait().expect("the daemon is our child");
    }

    /// SIGKILL, and a new start in the same breath: the old process may not be gone yet.
    ///
    /// # Panics
    /// When it does not run, or the new one does not come up.
    pub fn kill9_and_start(&mut self) {
        let mut old = self.child.take().expect("the daemon runs");
        old.kill().expect("the daemon is our child");
        self.start();
        old.wait().expect("the daemon was our child");
    }

    /// SIGTERM, and a new start.
    pub fn restart(&mut self) {
        self.terminate();
        self.start();
    }

    /// Runs a program in the daemon's network.
    #[track_caller]
    pub fn in_netns(&self, args: &[&str]) -> Output {
        let (program, rest) = args.split_first().expect("a program is named");
        run(self.setup.in_netns(program).args(rest), b"", Duration::from_secs(10))
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.setup.dir.join("daemon.log")
    }

    /// The shims of its containers: processes that name its folders, but for the daemon.
    #[must_use]
    pub fn shims(&self) -> Vec<i32> {
        shims_of(&self.setup.dir)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the daemon's log:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        } else if self.child.is_some() {
            let patience = Duration::from_secs(20);
            self.client.http_within("POST", "/v1.41/swarm/leave?force=1", None, patience).ok();
        }
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Shims whose bundle lies in `dir`.
#[must_use]
pub fn shims_of(dir: &Path) -> Vec<i32> {
    with_verbs(dir, &["shim"])
}

fn with_verbs(dir: &Path, verbs: &[&str]) -> Vec<i32> {
    let dir = format!("{}/", dir.display());
    let is_one = |pid: &i32| {
        let command = command_line(*pid);
        command.contains(&dir) && command.split(' ').nth(1).is_some_and(|verb| verbs.contains(&verb))
    };
    pids().into_iter().filter(is_one).collect()
}

/// Mounts at or below `dir`, deepest first.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    found.reverse();
    found
}

/// Ends every process and removes every cgroup, mount and file of a daemon that is gone.
fn remove(dir: &Path, cgroup: &str) {
    for group in cgroup_dirs(cgroup) {
        // A frozen process does not die.
        fs::write(group.join("freezer.state"), "THAWED").ok();
        fs::write(group.join("cgroup.freeze"), "0").ok();
    }
    let gone = wait_for("processes to end after SIGKILL", Duration::from_secs(10), || {
        let mut left = with_verbs(dir, &["daemon", "shim", "netd"]);
        left.extend(processes_below(cgroup).iter().map(|process| process.pid));
        for pid in &left {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left")) }
    });
    for mount in mounts_below(dir) {
        nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH).ok();
    }
    let cgroups = wait_for("cgroups to be removed", Duration::from_secs(5), || {
        let errors: Vec<String> = cgroup_dirs(cgroup)
            .iter()
            .filter_map(|path| fs::remove_dir(path).err().map(|error| format!("{}: {error}", path.display())))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join(", ")) }
    });
    let files = fs::remove_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()));
    for error in [gone, cgroups, files].into_iter().filter_map(Result::err) {
        eprintln!("cleaning up: {error}");
    }
}

/// Removes what tests left that were killed before they could clean up.
fn sweep_dead_tests() {
    let mut names: Vec<String> = Vec::new();
    let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for folder in controllers.chain([std::env::temp_dir(), "/sys/fs/cgroup".into()]) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    names.retain(|name| test_of(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    names.sort_unstable();
    names.dedup();
    for name in names {
        remove(&std::env::temp_dir().join(&name), &format!("/{name}"));
    }
}

/// The test process that a name made here is of.
fn test_of(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(NAME)?.strip_prefix('-')?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}
