//! Real containers from a busybox rootfs, on this machine's kernel. Needs root; says so and passes otherwise.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep_oci::{
    Bundle, Cgroups, ClientError, ContainerConfig, ExecConfig, ExitRecord, LogConfig, Mount, ProcessId, Resources,
    Rlimit, RootFs, Running, Seccomp, ShimClient, ShimLaunch, StartError, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHIM: &str = env!("CARGO_BIN_EXE_skep-shim-test");
const PATIENCE: Duration = Duration::from_secs(60);

/// A bundle with an overlay rootfs in a temporary directory; ends what is left of its container when dropped.
struct Fixture {
    dir: tempfile::TempDir,
    config: ContainerConfig,
}

impl Fixture {
    fn new(script: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("layers/base");
        for name in ["bin", "etc", "tmp", "root"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "id", "sleep", "echo", "grep", "ls", "mount", "touch", "dd", "env", "pwd", "kill", "mkdir",
            "mknod", "unshare", "yes", "head",
        ] {
            std::os::unix::fs::symlink("busybox", base.join("bin").join(name)).unwrap();
        }
        std::fs::write(base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n")
            .unwrap();
        std::fs::write(base.join("etc/group"), "root:x:0:\nweb:x:102:\nmedia:x:103:web\n").unwrap();
        let top = dir.path().join("layers/top");
        std::fs::create_dir_all(&top).unwrap();
        std::fs::write(top.join("layer"), "top").unwrap();
        for name in ["upper", "work", "merged", "bundle"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let rootfs = RootFs::Overlay {
            lower: vec![top, base],
            upper: dir.path().join("upper"),
            work: dir.path().join("work"),
            merged: dir.path().join("merged"),
        };
        let id = format!("test{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut config = ContainerConfig::new(id, rootfs, ["sh", "-c", script].map(str::to_owned).to_vec());
        config.cgroup_parent = format!("/skep-test-{}", std::process::id());
        config.hostname = "box".to_owned();
        config.log = Some(LogConfig { path: dir.path().join("log"), max_size: None, max_files: 1 });
        Self { dir, config }
    }

    fn with(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    fn bundle_dir(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn bundle(&self) -> Bundle {
        Bundle::new(self.bundle_dir())
    }

    fn create(&self) -> Bundle {
        Bundle::create(self.bundle_dir(), &self.config).unwrap()
    }

    async fn start(&self) -> Result<Running, StartError> {
        ShimLaunch::spawn(Path::new(SHIM), &self.create()).await
    }

    /// Runs to the end; the record and what was written.
    async fn run(&self) -> (ExitRecord, String) {
        let running = self.start().await.unwrap_or_else(|error| panic!("{error}"));
        let record = ended(&self.bundle(), &running).await;
        (record, self.output())
    }

    fn entries(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        let values = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap().to_owned();
        values.map(|value| (text(&value, "stream"), text(&value, "log"))).collect()
    }

    fn output(&self) -> String {
        self.entries().into_iter().map(|(_, text)| text).collect()
    }

    fn cgroup(&self, controller: &str) -> Option<PathBuf> {
        Cgroups::detect().unwrap().directory(controller, &self.config.cgroup_parent, &self.config.id)
    }

    /// Nothing may be left once the shim has ended.
    fn assert_no_leaks(&self, running: &Running) {
        wait_until(|| !running.pids.shim.is_alive());
        assert!(!running.pids.init.unwrap().is_alive());
        for controller in ["memory", "cpu", "pids", "freezer", "devices"] {
            assert!(self.cgroup(controller).is_none_or(|dir| !dir.exists()), "cgroup of {controller} is left");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "a mount is left");
        let mut left: Vec<_> = std::fs::read_dir(self.bundle_dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "cancelled")
            .collect();
        left.sort();
        left.retain(|name| name != "pid.json");
        assert_eq!(left, ["exit.json", "shim.json"]);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let bundle = self.bundle();
        if let Ok(Status::Alive(pids) | Status::Starting(pids)) = bundle.status() {
            let _ = pids.shim.kill(9);
            let deadline = Instant::now() + PATIENCE;
            while pids.shim.is_alive() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = bundle.cleanup();
    }
}

async fn ended(bundle: &Bundle, running: &Running) -> ExitRecord {
    match running.client.wait().await {
        Ok(record) => record,
        // Gone before we could ask.
        Err(_) => match bundle.status().unwrap() {
            Status::Exited(record) => record,
            other => panic!("{other:?}"),
        },
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

fn real(test: impl Future<Output = ()>) {
    if is_root() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
    }
}

async fn exec(client: &ShimClient, config: ExecConfig) -> (i32, String, String) {
    let mut exec = client.exec(config, false).await.unwrap_or_else(|error| panic!("{error}"));
    let (mut out, mut err) = (String::new(), String::new());
    exec.stdout.read_to_string(&mut out).await.unwrap();
    exec.stderr.read_to_string(&mut err).await.unwrap();
    (exec.exit.wait().await.unwrap().code, out, err)
}

fn command(script: &str) -> ExecConfig {
    ExecConfig { args: ["sh", "-c", script].map(str::to_owned).to_vec(), ..ExecConfig::default() }
}

#[test]
fn a_container_runs_logs_and_leaves_nothing() {
    real(async {
        let fixture = Fixture::new("echo out; echo err >&2; cat /layer; touch /new; exit 7");
        let running = fixture.start().await.unwrap();
        let record = ended(&fixture.bundle(), &running).await;
        assert_eq!((record.exit_code, record.signal, record.oom_killed, &record.error), (7, None, false, &None));
        assert!(record.started_at < record.finished_at && record.finished_at.ends_with('Z'));
        let mut entries = fixture.entries();
        entries.sort();
        let wanted = [("stderr", "err\n"), ("stdout", "out\n"), ("stdout", "top")];
        assert_eq!(entries, wanted.map(|(stream, text)| (stream.to_owned(), text.to_owned())));
        assert!(fixture.dir.path().join("upper/new").exists());
        assert_eq!(fixture.bundle().status().unwrap(), Status::Exited(record));
        fixture.assert_no_leaks(&running);
    });
}

#[test]
fn signals_end_it() {
    real(async {
        let fixture = Fixture::new("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
        let running = fixture.start().await.unwrap();
        wait_until(|| fixture.output().contains("ready"));
        let (one, two) = (running.client.clone(), running.client.clone());
        let waiters = (tokio::spawn(async move { one.wait().await }), tokio::spawn(async move { two.wait().await }));
        assert_eq!(running.client.state().await.unwrap().init, running.pids.init.unwrap());
        running.client.kill(libc::SIGTERM).await.unwrap();
        assert_eq!(waiters.0.await.unwrap().unwrap().exit_code, 3);
        assert_eq!(waiters.1.await.unwrap().unwrap().exit_code, 3);
        fixture.assert_no_leaks(&running);

        let fixture = Fixture::new("sleep 1000");
        let running = fixture.start().await.unwrap();
        running.client.kill_all(libc::SIGKILL).await.unwrap();
        let record = ended(&fixture.bundle(), &running).await;
        assert_eq!((record.exit_code, record.signal), (137, Some(9)));
        assert!(matches!(
            running.client.kill(9).await,
            Err(ClientError::Unreachable { .. } | ClientError::Lost(_) | ClientError::Refused(_))
        ));
    });
}
