//! `make demo`: a daemon in a network namespace of its own, an image made here, a service that heals and scales, told in
//! words. Cleans up whatever happens.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::check::{build_hello, hello_path};
use crate::setup::{Need, install};
use crate::shell::{is_root, read, root, run};

/// How long a step of the demo may take before it counts as failed.
const STEP_MAX: Duration = Duration::from_secs(30);
const PORT: &str = "127.0.0.1:8080";

/// Shows skep at work.
pub(crate) fn run_demo() -> anyhow::Result<()> {
    if !is_root() {
        bail!("the demo runs real containers and needs root: run `sudo make demo`");
    }
    install(&[&Need::RUN])?;
    println!("Building skep and a small web server (the first time takes a few minutes) ...");
    run("cargo", &["build", "--quiet", "--package", "skep"])?;
    build_hello()?;
    let demo = Demo::start()?;
    let result = demo.tell();
    let end = demo.end();
    result.and(end)
}

struct Demo {
    dir: PathBuf,
    skep: PathBuf,
    hello: PathBuf,
    cgroup: String,
    daemon: Child,
}

impl Demo {
    fn start() -> anyhow::Result<Self> {
        let id = std::process::id();
        let dir = std::env::temp_dir().join(format!("skep-demo-{id}"));
        std::fs::create_dir_all(&dir)?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("debug");
        let (skep, hello) = (target.join("skep"), hello_path());
        let cgroup = format!("/skep-demo-{id}");
        let log = std::fs::File::create(dir.join("daemon.log"))?;
        println!("\nStarting a skep daemon in a network namespace of its own (log: {}/daemon.log)", dir.display());
        let daemon = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
            .arg(&skep)
            .arg("daemon")
            .args(["--cgroup-parent", &cgroup, "--data-root"])
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the daemon")?;
        let demo = Self { dir, skep, hello, cgroup, daemon };
        if let Err(error) = demo.wait("the daemon to answer", || demo.skep(&["version"]).is_ok()) {
            let log = std::fs::read_to_string(demo.dir.join("daemon.log")).unwrap_or_default();
            demo.end().ok();
            bail!("{error:#}; its log says:\n{log}");
        }
        Ok(demo)
    }

    /// Runs a `skep` verb against the daemon.
    fn skep(&self, args: &[&str]) -> anyhow::Result<String> {
        let host = format!("unix://{}/run/skep.sock", self.dir.display());
        read(Command::new(&self.skep).args(args).env("SKEP_HOST", host))
    }

    /// Runs a verb, showing it and its answer.
    fn show(&self, args: &[&str]) -> anyhow::Result<String> {
        println!("  $ skep {}", args.join(" "));
        let answer = self.skep(args)?;
        for line in answer.lines() {
            println!("    {line}");
        }
        Ok(answer)
    }

    /// Calls the published port from inside the daemon's network.
    fn call(&self) -> anyhow::Result<String> {
        let pid = self.daemon.id().to_string();
        read(Command::new("nsenter").args(["--target", &pid, "--net", "--"]).arg(&self.hello).args(["get", PORT]))
    }

    fn wait(&self, what: &str, mut is_done: impl FnMut() -> bool) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        while !is_done() {
            if begin.elapsed() > STEP_MAX {
                bail!("waited {} s for {what}", STEP_MAX.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(begin.elapsed())
    }

    fn running(&self) -> Vec<String> {
        let list = self.skep(&["ps", "--quiet"]).unwrap_or_default();
        list.lines().map(str::to_owned).collect()
    }

    fn answers(&self, calls: usize) -> anyhow::Result<Vec<String>> {
        let mut hosts: Vec<String> = Vec::new();
        for _ in 0..calls {
            let answer = self.call()?;
            let host = answer.split(',').next().unwrap_or_default().replace("hello from ", "");
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        Ok(hosts)
    }

    fn tell(&self) -> anyhow::Result<()> {
        println!("\n1. This machine becomes a swarm.");
        self.show(&["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
        self.wait("the node to be ready", || self.skep(&["node", "ls"]).is_ok_and(|list| list.contains("Ready")))?;
        self.show(&["node", "ls"])?;

        println!("\n2. An image, made here out of one static program: no registry is asked.");
        let archive = self.dir.join("hello.tar");
        let pack = ["run", "--quiet", "--package", "skep-image", "--example", "pack", "--"];
        let files = [&archive.to_string_lossy()[..], "hello:1", &self.hello.to_string_lossy()];
        run("cargo", &[&pack[..], &files].concat())?;
        self.show(&["image", "load", "--input", &archive.to_string_lossy()])?;

        println!("\n3. A service of three tasks behind one published port.");
        let begin = Instant::now();
        let create = ["service", "create", "--name", "web", "--replicas", "3", "--publish", "8080:8080"];
        self.show(&[&create[..], &["--restart-delay", "0", "hello:1"]].concat())?;
        self.wait("three containers", || self.running().len() == 3)?;
        println!("  All three run {} ms after the command.", begin.elapsed().as_millis());
        self.show(&["service", "ps", "web"])?;

        println!("\n4. Calling port 8080: each task gets its turn.");
        self.wait("an answer", || self.call().is_ok())?;
        for _ in 0..3 {
            print!("    {}", self.call()?);
        }
        let hosts = self.answers(12)?;
        println!("  12 calls, answered by {} containers.", hosts.len());

        println!("\n5. Something kills a container. skep replaces it.");
        let before = self.running();
        let victim = before.first().context("no container runs")?.clone();
        let begin = Instant::now();
        self.kill(&victim)?;
        self.wait("a replacement", || {
            let now = self.running();
            now.len() == 3
                && !now.contains(&victim)
                && self.skep(&["service", "ls"]).is_ok_and(|list| list.contains("3/3"))
        })?;
        println!("  Container {victim} was killed; its replacement ran {} ms later.", begin.elapsed().as_millis());
        self.show(&["service", "ps", "web"])?;

        println!("\n6. Scaling up to 5, then down to 3.");
        for count in [5, 3] {
            self.show(&["service", "scale", &format!("web={count}")])?;
            let took = self.wait("the scale", || self.running().len() == count)?;
            println!("  {count} containers run, after {} ms.", took.as_millis());
        }
        self.show(&["service", "ls"])?;

        println!("\n7. A new version, under requests: no request may fail.");
        self.update_under_load()?;

        println!("\n8. Removing the service: nothing is left.");
        self.show(&["service", "rm", "web"])?;
        self.wait("the containers to go", || self.skep(&["ps", "--all", "--quiet"]).is_ok_and(|list| list.is_empty()))?;
        self.show(&["ps", "--all"])?;
        println!(
            "\nThat was skep: one binary, no registry, no other daemon. Any docker client could have said the same words."
        );
        Ok(())
    }

    /// Rolls an update while four clients ask without a pause, and counts what they got.
    fn update_under_load(&self) -> anyhow::Result<()> {
        let pid = self.daemon.id().to_string();
        let mut load = Command::new("nsenter")
            .args(["--target", &pid, "--net", "--"])
            .arg(&self.hello)
            .args(["load", PORT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the clients")?;
        let updated = self.roll("HELLO_VERSION=2");
        // Its input ends: it reports.
        drop(load.stdin.take());
        let output = load.wait_with_output().context("the clients ended badly")?;
        let took = updated?;
        let report = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        println!("  All three were replaced within {} ms, one at a time, the new one first.", took.as_millis());
        println!("  Requests meanwhile: {report}");
        if !report.contains(", 0 failed") || !report.contains("version 2") {
            bail!("the update was to lose no request: {report}");
        }
        Ok(())
    }

    fn roll(&self, variable: &str) -> anyhow::Result<Duration> {
        let before = self.running();
        let how = ["--update-order", "start-first", "--update-monitor", "500ms", "--env-add", variable];
        self.show(&[&["service", "update"][..], &how, &["web"]].concat())?;
        self.wait("the update", || {
            let now = self.running();
            now.len() == before.len() && !now.iter().any(|container| before.contains(container))
        })
    }

    /// SIGKILL for a container's first process, found by its cgroup.
    fn kill(&self, container: &str) -> anyhow::Result<()> {
        let pids = processes_in(&self.cgroup, container);
        let pid = pids.first().with_context(|| format!("container {container} has no process"))?;
        read(Command::new("kill").args(["-KILL", pid])).map(drop)
    }

    /// Ends the daemon and everything it started, and removes its files.
    fn end(mut self) -> anyhow::Result<()> {
        println!("\nCleaning up.");
        self.skep(&["swarm", "leave", "--force"]).ok();
        self.wait("the containers to go", || processes_in(&self.cgroup, "").is_empty()).ok();
        read(Command::new("kill").args(["-TERM", &self.daemon.id().to_string()])).ok();
        self.daemon.wait()?;
        for pid in processes_in(&self.cgroup, "") {
            read(Command::new("kill").args(["-KILL", &pid])).ok();
        }
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

/// Process ids in cgroups below `parent` whose path names `container`, lowest first.
fn processes_in(parent: &str, container: &str) -> Vec<String> {
    let mut pids = Vec::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<u32>() else { continue };
        let cgroups = std::fs::read_to_string(Path::new("/proc").join(&name).join("cgroup")).unwrap_or_default();
        if cgroups.lines().any(|line| line.contains(&format!(":{parent}/")) && line.contains(container)) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids.iter().map(u32::to_string).collect()
}
