//! A container from a busybox rootfs in a temporary directory, for the tests beside it.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries, none of which uses all of it")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep_oci::{
    AttachEnds, Bundle, Cgroups, ContainerConfig, ExecConfig, ExitRecord, LogConfig, RootFs, Running, ShimClient,
    ShimLaunch, StartError, Status,
};
use tokio::io::AsyncReadExt;

pub const SHIM: &str = env!("CARGO_BIN_EXE_skep-shim-test");
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A bundle with an overlay rootfs in a temporary directory; ends what is left of its container when dropped.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub config: ContainerConfig,
}

impl Fixture {
    pub fn new(script: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("layers/base");
        for name in ["bin", "etc", "tmp", "root"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "id", "sleep", "echo", "grep", "ls", "mount", "touch", "dd", "env", "pwd", "kill", "mkdir",
            "mknod", "unshare", "yes", "head", "stty", "tty", "test", "ps", "umount", "usleep", "wc", "mkfifo", "true",
            "hostname",
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
        config.log = Some(LogConfig { path: dir.path().join("log"), max_files: 1, ..LogConfig::default() });
        Self { dir, config }
    }

    pub fn with(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    pub fn bundle_dir(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub fn bundle(&self) -> Bundle {
        Bundle::new(self.bundle_dir())
    }

    pub fn create(&self) -> Bundle {
        Bundle::create(self.bundle_dir(), &self.config).unwrap()
    }

    pub async fn start(&self) -> Result<Running, StartError> {
        self.start_with(Vec::new()).await
    }

    pub async fn start_with(&self, attach: Vec<AttachEnds>) -> Result<Running, StartError> {
        ShimLaunch::spawn(Path::new(SHIM), &self.create(), attach).await
    }

    /// Runs to the end; the record and what was written.
    pub async fn run(&self) -> (ExitRecord, String) {
        let running = self.start().await.unwrap_or_else(|error| panic!("{error}"));
        let record = ended(&self.bundle(), &running).await;
        (record, self.output())
    }

    pub fn entries(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        let values = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap().to_owned();
        values.map(|value| (text(&value, "stream"), text(&value, "log"))).collect()
    }

    pub fn output(&self) -> String {
        self.entries().into_iter().map(|(_, text)| text).collect()
    }

    pub fn cgroup(&self, controller: &str) -> Option<PathBuf> {
        Cgroups::detect().unwrap().directory(controller, &self.config.cgroup_parent, &self.config.id)
    }

    /// Nothing may be left once the shim has ended.
    pub fn assert_no_leaks(&self, running: &Running) {
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

pub async fn ended(bundle: &Bundle, running: &Running) -> ExitRecord {
    match running.client.wait().await {
        Ok(record) => record,
        // Gone before we could ask.
        Err(_) => match bundle.status().unwrap() {
            Status::Exited(record) => record,
            other => panic!("{other:?}"),
        },
    }
}

pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

pub fn real(test: impl Future<Output = ()>) {
    if is_root() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
    }
}

pub async fn exec(client: &ShimClient, config: ExecConfig) -> (i32, String, String) {
    let mut exec = client.exec(config, false).await.unwrap_or_else(|error| panic!("{error}"));
    let (mut out, mut err) = (String::new(), String::new());
    exec.stdout.read_to_string(&mut out).await.unwrap();
    exec.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    (exec.exit.wait().await.unwrap().code, out, err)
}

pub fn command(script: &str) -> ExecConfig {
    ExecConfig { args: ["sh", "-c", script].map(str::to_owned).to_vec(), ..ExecConfig::default() }
}
