//! What goes wrong on real servers: processes that do not want to end, a full disk, huge logs, crowds of readers that do not
//! read, many replicas. The daemon stays up, says what is wrong, loses nothing, and its memory stays flat.
//!
//! `SKEP_ROBUST=full` takes the sizes of a bad day (200 replicas, 200 followers, 3 GB of log) instead of small ones.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use skep_conformance::{
    ArchiveKind, Daemon, Setup, busybox_archive, leftovers, missing, processes_below, wait_for, wait_until,
};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(60);

/// These cases are about skep's own processes and disks.
fn skipped() -> bool {
    missing() || std::env::var_os("SKEP_TEST_HOST").is_some()
}

fn size(small: usize, full: usize) -> usize {
    if std::env::var("SKEP_ROBUST").is_ok_and(|word| word == "full") { full } else { small }
}

fn swarm(setup: Setup) -> Daemon {
    let daemon = setup.start();
    let _ = daemon.docker_with(&["load"], &busybox_archive("busybox:latest", ArchiveKind::Today), &[]).ok();
    daemon.swarm_init();
    daemon
}

#[track_caller]
fn create(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    let create = ["service", "create", "-d", "--name", name];
    let _ = daemon.docker(&[&create[..], flags, &["busybox", "sh", "-c", script]].concat()).ok();
}

#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    wait_for("nothing to be left", SOON, || {
        let mut left = leftovers(daemon);
        left.extend(daemon.docker(&["ps", "-aq"]).stdout.lines().map(str::to_owned));
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Kilobytes of private memory of a process.
fn memory(pid: i32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok()).sum()
}

#[test]
fn processes_that_do_not_want_to_end_end() {
    if skipped() {
        return;
    }
    let daemon = swarm(Setup::new(SKEP));
    let grace = ["--stop-grace-period", "1s", "--restart-condition", "none"];
    create(&daemon, "deaf", &grace, "trap '' TERM INT HUP; while :; do sleep 1000; done");
    // Its children leave its session and its parents; one of them is deaf, too.
    let leaves = "for i in 1 2 3; do (setsid sh -c 'trap \"\" TERM; sleep 100000' &) ; done; sleep 100000";
    create(&daemon, "parent", &grace, leaves);
    // The first process ends at once and leaves another behind.
    create(&daemon, "leaver", &grace, "(setsid sleep 100000 &); exit 3");
    let limited = [&grace[..], &["--limit-pids", "20"]].concat();
    create(&daemon, "forker", &limited, "f() { f | f & }; f; sleep 100000");
    daemon.wait_running("deaf", 1, SOON);
    daemon.wait_running("parent", 1, SOON);
    wait_for("the leaver's exit code", SOON, || {
        let answer = daemon.http("GET", "/v1.41/tasks", None).map_err(|error| error.to_string())?.json();
        let codes = answer.as_array().into_iter().flatten().map(|task| &task["Status"]["ContainerStatus"]["ExitCode"]);
        if codes.into_iter().any(|code| *code == 3) { Ok(()) } else { Err(answer.to_string()) }
    })
    .unwrap();
    for name in ["deaf", "parent", "leaver", "forker"] {
        let _ = daemon.docker(&["service", "rm", name]).ok();
    }
    nothing_is_left(&daemon);
    assert!(processes_below(daemon.setup().cgroup()).is_empty());
}

/// Takes the room that is left on a file system.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 64 << 10, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_is_survived() {
    if skipped() {
        return;
    }
    let setup = Setup::new(SKEP);
    let data = setup.data_root();
    std::fs::create_dir_all(&data).unwrap();
    // The harness unmounts what is mounted below its folder.
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(&data).status();
    assert!(mounted.unwrap().success());
    let mut daemon = swarm(setup);
    let count = "i=0; while :; do i=$((i+1)); echo $i; usleep 50000; done";
    create(&daemon, "before", &["--restart-delay", "0s"], count);
    let before = daemon.wait_running("before", 1, SOON)[0]["Status"]["ContainerStatus"].clone();
    let filler = data.join("filler");
    fill(&filler);

    // Changes go through until the room that was taken in advance is used up; then they are refused with a reason.
    let mut acknowledged = Vec::new();
    let refusal = wait_for("a change to be refused", SOON, || {
        let name = format!("s{}", acknowledged.len());
        let labels = format!("filler={}", "x".repeat(100_000));
        let create = ["service", "create", "-d", "--replicas", "0", "--label", &labels, "--name", &name, "busybox"];
        let output = daemon.docker(&create);
        if output.code == 0 {
            acknowledged.push(name);
            return Err("it was accepted".to_owned());
        }
        Ok(output.stderr)
    })
    .unwrap();
    assert!(refusal.contains("no space left"), "{refusal}");
    let services = daemon.docker(&["service", "ls", "--format", "{{.Name}}"]).ok();
    assert!(acknowledged.iter().all(|name| services.lines().any(|line| line == name)), "{services}");
    assert_eq!(daemon.wait_running("before", 1, SOON)[0]["Status"]["ContainerStatus"], before);

    // Not even a restart changes that.
    daemon.kill9();
    daemon.start();
    std::fs::remove_file(&filler).unwrap();
    let services = wait_for("the services", SOON, || {
        let output = daemon.docker(&["service", "ls", "--format", "{{.Name}}"]);
        if output.code == 0 { Ok(output.stdout) } else { Err(output.stderr) }
    })
    .unwrap();
    assert!(acknowledged.iter().all(|name| services.lines().any(|line| line == name)), "{services}");
    assert_eq!(daemon.wait_running("before", 1, SOON)[0]["Status"]["ContainerStatus"], before);
    wait_for("changes to be accepted again", SOON, || {
        let output = daemon.docker(&["service", "create", "-d", "--name", "after", "busybox", "sleep", "100000"]);
        if output.code == 0 || output.stderr.contains("already exists") { Ok(()) } else { Err(output.stderr) }
    })
    .unwrap();
    daemon.wait_running("after", 1, SOON);
}

#[test]
fn a_long_log_is_read_from_its_end_and_a_crowd_costs_little() {
    if skipped() {
        return;
    }
    let daemon = swarm(Setup::new(SKEP));
    let megabytes = size(64, 3000);
    let line = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let bytes = megabytes << 20;
    let script = format!("yes {line} | head -c {bytes}; echo; echo the end; sleep 100000");
    create(&daemon, "talker", &["--stop-signal", "SIGKILL"], &script);
    let task = daemon.wait_running("talker", 1, SOON)[0].clone();
    let container = task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap().to_owned();
    let patience = Duration::from_secs(600);
    wait_until("the end of the log", patience, || {
        daemon.docker(&["logs", "--tail", "1", &container]).stdout.trim_end() == "the end"
    });
    let tail = daemon.docker(&["logs", "--tail", "3", &container]).ok();
    let lines: Vec<&str> = tail.lines().collect();
    assert_eq!(lines.last(), Some(&"the end"), "{tail}");
    assert_eq!(lines.len(), 3, "{tail}");

    // Followers that never read.
    let before = memory(daemon.pid());
    let crowd = size(40, 200);
    let followers: Vec<UnixStream> = (0..crowd)
        .map(|number| {
            let mut stream = UnixStream::connect(daemon.setup().socket()).unwrap();
            let path = match number % 2 {
                0 => format!("/v1.41/containers/{container}/logs?follow=1&stdout=1"),
                _ => "/v1.41/services/talker/logs?follow=1&stdout=1".to_owned(),
            };
            write!(stream, "GET {path} HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for stream in &followers {
        let mut first = [0; 12];
        (&mut &*stream).read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    // Others are served as if nobody else was there.
    for _ in 0..10 {
        assert!(daemon.docker(&["logs", "--tail", "1", &container]).ok().contains("the end"));
    }
    let grown = memory(daemon.pid()).saturating_sub(before);
    assert!(grown < crowd * 1024 + 20_000, "{crowd} idle followers cost {grown} kB");
    drop(followers);
    let _ = daemon.docker(&["service", "rm", "talker"]).ok();
    nothing_is_left(&daemon);
}

#[test]
fn clients_that_are_slow_or_vanish_disturb_nobody() {
    if skipped() {
        return;
    }
    let daemon = swarm(Setup::new(SKEP));
    let before = memory(daemon.pid());
    let half = |text: &str| {
        let mut stream = UnixStream::connect(daemon.setup().socket()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    // Half a head, half a body, a body that never comes, nothing at all.
    let slow: Vec<UnixStream> = (0..size(100, 400))
        .map(|number| match number % 4 {
            0 => half("GET /v1.41/info HTTP/1.1\r\nHo"),
            1 => half("POST /v1.41/services/create HTTP/1.1\r\nHost: d\r\nContent-Length: 1000\r\n\r\n{\"Name\":"),
            2 => half("POST /v1.41/images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"),
            _ => half(""),
        })
        .collect();
    assert_eq!(daemon.docker(&["service", "ls", "-q"]).ok(), "");
    // Some vanish in the middle of things.
    for number in 0..20 {
        let spec = format!(r#"{{"Name":"v{number}","TaskTemplate":{{"ContainerSpec":{{"Image":"busybox"}}}}}}"#);
        let length = spec.len();
        drop(half(&format!(
            "POST /v1.41/services/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{spec}"
        )));
        drop(half("GET /v1.41/events HTTP/1.1\r\nHost: d\r\n\r\n"));
    }
    let count = |answer: Value| answer.as_array().map_or(0, Vec::len);
    let services = count(daemon.get("/v1.41/services"));
    assert!(services <= 20);
    let grown = memory(daemon.pid()).saturating_sub(before);
    assert!(grown < 60_000, "{} slow clients cost {grown} kB", slow.len());
    drop(slow);
    // A request whose client is gone may still be carried out: what it makes is removed, too.
    wait_until("the services to go", SOON, || {
        let names = daemon.docker(&["service", "ls", "-q"]).ok();
        for name in names.lines() {
            let _ = daemon.docker(&["service", "rm", name]);
        }
        names.is_empty() && leftovers(&daemon).is_empty()
    });
    nothing_is_left(&daemon);
}

#[test]
fn many_replicas_come_and_go() {
    if skipped() {
        return;
    }
    let mut daemon = swarm(Setup::new(SKEP));
    let replicas = size(40, 200);
    let count = replicas.to_string();
    create(&daemon, "many", &["--replicas", &count, "--stop-signal", "SIGKILL"], "exec sleep 100000");
    daemon.wait_running("many", replicas, Duration::from_secs(240));
    let before = memory(daemon.pid());
    daemon.kill9();
    daemon.start();
    let tasks = daemon.wait_running("many", replicas, SOON);
    assert_eq!(tasks.len(), replicas);
    assert_eq!(daemon.docker(&["ps", "-q"]).ok().lines().count(), replicas);
    let after = memory(daemon.pid());
    assert!(after < before * 2 + 30_000, "{before} kB before the restart, {after} kB after");
    let _ = daemon.docker(&["service", "rm", "many"]).ok();
    nothing_is_left(&daemon);
}
