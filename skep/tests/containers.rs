//! The stock docker client makes containers by hand: runs, stops, restarts, renames and removes them. Each case also runs
//! against a real engine (`SKEP_TEST_HOST`), but for what only skep does.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use skep_conformance::{Engine, missing, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);

/// An engine with an image; what the test makes is removed before.
fn engine() -> Engine {
    let engine = Engine::start(SKEP);
    engine.load_busybox();
    let old = engine.docker(&["ps", "-aq"]).stdout;
    let old: Vec<&str> = old.split_whitespace().collect();
    if !old.is_empty() {
        engine.docker(&[&["rm", "-f"], &old[..]].concat());
    }
    engine
}

#[track_caller]
fn show(engine: &Engine, name: &str, format: &str) -> String {
    engine.docker(&["container", "inspect", name, "--format", format]).ok()
}

#[track_caller]
fn wait_for(engine: &Engine, name: &str, format: &str, value: &str) {
    wait_until(&format!("{format} of {name} to be {value}"), SOON, || show(engine, name, format) == value);
}

#[test]
fn a_container_is_created_started_stopped_and_removed() {
    if missing() {
        return;
    }
    let engine = engine();
    let sleep =
        ["--name", "web", "--label", "a=b", "-e", "A=1", "-w", "/tmp", "--hostname", "hh", "--stop-signal", "KILL"];
    let id = engine.docker(&[&["create"], &sleep[..], &["busybox", "sleep", "100000"]].concat()).ok();
    assert!(id.len() == 64, "{id}");
    assert_eq!(
        show(&engine, "web", "{{.State.Status}} {{.State.Running}} {{.Name}} {{.Path}}"),
        "created false /web sleep"
    );
    assert_eq!(
        show(&engine, "web", "{{.Config.Hostname}} {{.Config.Labels}} {{.Config.WorkingDir}}"),
        "hh map[a:b] /tmp"
    );
    let _ = engine.docker(&["start", "web"]).ok();
    assert_eq!(show(&engine, "web", "{{.State.Status}} {{.RestartCount}}"), "running 0");
    let _ = engine.docker(&["start", "web"]).ok();
    assert_eq!(engine.docker(&["exec", "web", "sh", "-c", "hostname; pwd; echo $A"]).ok(), "hh\n/tmp\n1");
    assert!(engine.docker(&["rm", "web"]).fails().to_lowercase().contains("stop the container before"));

    let _ = engine.docker(&["pause", "web"]).ok();
    assert_eq!(show(&engine, "web", "{{.State.Status}} {{.State.Paused}} {{.State.Running}}"), "paused true true");
    assert!(engine.docker(&["ps", "--format", "{{.Status}}"]).ok().ends_with("(Paused)"));
    assert!(engine.docker(&["pause", "web"]).fails().contains("is already paused"));
    assert!(engine.docker(&["exec", "web", "true"]).fails().contains("is paused, unpause the container before exec"));
    assert!(engine.docker(&["start", "web"]).fails().contains("paused container"));
    let _ = engine.docker(&["unpause", "web"]).ok();
    assert!(engine.docker(&["unpause", "web"]).fails().contains("is not paused"));

    let _ = engine.docker(&["rename", "web", "other"]).ok();
    assert_eq!(show(&engine, "other", "{{.Id}} {{.Name}}"), format!("{id} /other"));
    assert!(engine.docker(&["rename", "other", "other"]).fails().contains("same name as its current name"));
    assert!(engine.docker(&["rename", "nosuch", "x1"]).fails().contains("No such container: nosuch"));
    assert!(engine.docker(&["rename", "other", "bad name"]).fails().to_lowercase().contains("bad name"));
    let text = engine.docker(&["create", "--name", "other", "busybox"]).fails();
    assert!(text.contains("Conflict. The container name \"/other\" is already in use by container"), "{text}");

    let _ = engine.docker(&["restart", "-t", "1", "other"]).ok();
    assert_eq!(show(&engine, "other", "{{.State.Status}}"), "running");
    let _ = engine.docker(&["stop", "other"]).ok();
    assert_eq!(show(&engine, "other", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"), "exited 137 0");
    assert!(engine.docker(&["ps", "-a", "--format", "{{.Status}}"]).ok().starts_with("Exited (137) "));
    assert!(engine.docker(&["kill", "other"]).fails().contains("is not running"));
    assert_eq!(engine.docker(&["wait", "other"]).ok(), "137");
    let _ = engine.docker(&["start", "other"]).ok();
    let _ = engine.docker(&["kill", "other"]).ok();
    assert_eq!(show(&engine, "other", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    let _ = engine.docker(&["rm", "-v", "other"]).ok();
    assert!(engine.docker(&["rm", "other"]).fails().contains("No such container: other"));
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn run_shows_every_byte_and_gives_the_exit_code() {
    if missing() {
        return;
    }
    let engine = engine();
    let run = |args: &[&str]| engine.docker(&[&["run", "--rm"], args].concat());
    let output = run(&["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
    let many = run(&["busybox", "seq", "1", "20000"]).ok();
    assert!(many.starts_with("1\n2\n") && many.ends_with("\n20000") && many.lines().count() == 20000);
    let typed = engine.docker_with(&["run", "--rm", "-i", "busybox", "cat"], b"typed\nlines", &[]).ok();
    assert_eq!(typed, "typed\nlines");
    assert_eq!(run(&["-t", "busybox", "sh", "-c", "test -t 0 && test -t 1 && echo terminal"]).ok(), "terminal");

    let nosuch = run(&["busybox", "nosuchcmd"]);
    assert!(nosuch.code == 127 && nosuch.stderr.contains("executable file not found"), "{nosuch:?}");
    let refused = run(&["busybox", "/etc"]);
    assert!(refused.code == 126, "{refused:?}");
    assert_eq!(run(&["--memory", "1k", "busybox", "true"]).code, 125);
    assert_eq!(run(&["--restart", "always", "busybox", "true"]).code, 125);
    let text = engine.docker(&["run", "--pull", "never", "nosuchimage:x"]).fails();
    assert!(text.contains("No such image: nosuchimage:x"), "{text}");
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "", "all were removed");

    // Once more by start, and by attach to one that runs.
    let _ =
        engine.docker(&["create", "--name", "again", "-i", "busybox", "sh", "-c", "read a; echo got $a; exit 3"]).ok();
    for word in ["one", "two"] {
        let output = engine.docker_with(&["start", "-a", "-i", "again"], format!("{word}\n").as_bytes(), &[]);
        assert_eq!((output.code, output.stdout), (3, format!("got {word}\n")));
    }
    let _ = engine.docker(&["start", "again"]).ok();
    let output = engine.docker_with(&["attach", "again"], b"three\n", &[]);
    assert_eq!((output.code, output.stdout.as_str()), (3, "got three\n"));
    assert_eq!(engine.docker(&["logs", "again"]).ok(), "got one\ngot two\ngot three");
}

#[test]
fn what_is_asked_for_is_what_the_container_has() {
    if missing() {
        return;
    }
    let engine = engine();
    let flags = [
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        "--cpu-shares",
        "512",
        "--dns",
        "192.0.2.1",
        "--add-host",
        "a:192.0.2.2",
        "--cap-add",
        "NET_ADMIN",
        "--ulimit",
        "nofile=100:200",
        "--user",
        "0:0",
        "-w",
        "/tmp",
        "--shm-size",
        "32m",
        "--read-only",
        "--tmpfs",
        "/run:rw,size=1m",
        "--group-add",
        "10",
        "--device",
        "/dev/null:/dev/xn",
        "--security-opt",
        "no-new-privileges",
        "--oom-score-adj",
        "100",
        "--label",
        "b=",
        "--stop-timeout",
        "2",
        "--pid",
        "host",
        "--domainname",
        "example.test",
        "-p",
        "8088:80",
        "--expose",
        "81",
    ];
    let _ =
        engine.docker(&[&["run", "-d", "--name", "all"], &flags[..], &["busybox", "sleep", "100000"]].concat()).ok();
    let inside = |command: &str| engine.docker(&["exec", "all", "sh", "-c", command]).ok();
    assert_eq!(inside("ulimit -n; df -k /dev/shm | tail -1 | awk '{print $2}'"), "100\n32768");
    assert!(inside("cat /etc/hosts").contains("192.0.2.2\ta") && inside("cat /etc/resolv.conf").contains("192.0.2.1"));
    assert_eq!(
        inside("id -G; echo x > /dev/xn && echo written; touch /x 2>/dev/null || echo read-only"),
        "0 10\nwritten\nread-only"
    );
    assert_ne!(inside("cat /proc/1/comm"), "sleep", "the machine's processes are seen");
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.MemorySwap}} \
                  {{.HostConfig.PidMode}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.ShmSize}} {{.Config.Domainname}}";
    assert_eq!(show(&engine, "all", format), "67108864 500000000 50 134217728 host true 33554432 example.test");
    assert_eq!(engine.docker(&["port", "all", "80/tcp"]).ok().lines().next(), Some("0.0.0.0:8088"));

    let update =
        ["update", "--memory", "96m", "--memory-swap", "-1", "--cpus", "1", "--restart", "unless-stopped", "all"];
    let _ = engine.docker(&update).ok();
    let format =
        "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(show(&engine, "all", format), "100663296 -1 1000000000 unless-stopped");
    assert!(engine.docker(&["update", "--memory", "96m", "nosuch"]).fails().contains("No such container: nosuch"));
    let _ = engine.docker(&["rm", "-f", "all"]).ok();

    // The real engine may lack capabilities on this machine, and then refuses.
    if !engine.is_dockerd() {
        let privileged = [
            "run",
            "--rm",
            "--privileged",
            "busybox",
            "sh",
            "-c",
            "grep CapEff /proc/self/status; cat /proc/sys/kernel/ostype",
        ];
        assert!(engine.docker(&privileged).ok().contains("Linux"));
    }
    for (flags, text) in [
        (&["--link", "x:y"][..], ""),
        (&["--runtime", "nosuch"], "runtime"),
        (&["-v", "bad/rel:/x"], "includes invalid characters for a local volume name"),
        (&["--name", "bad name"], "Invalid container name (bad name)"),
        (&["--device", "/nosuch:/dev/x"], "no such file or directory"),
    ] {
        let refused = engine.docker(&[&["run", "--rm"], flags, &["busybox", "true"]].concat()).fails();
        assert!(refused.contains(text), "{flags:?}: {refused}");
    }
}

#[test]
fn restart_policies_hold_through_a_killed_daemon() {
    if missing() {
        return;
    }
    let mut engine = engine();
    let run = |engine: &Engine, name: &str, policy: &str, command: &str| {
        let _ = engine.docker(&["run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", command]).ok();
    };
    run(&engine, "failing", "on-failure:2", "exit 4");
    wait_for(&engine, "failing", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "2 exited 4");
    run(&engine, "always", "always", "trap 'exit 0' TERM; sleep 100000 & wait");
    run(&engine, "stopped", "unless-stopped", "exec sleep 100000");
    run(&engine, "none", "no", "exec sleep 100000");
    let _ = engine.docker(&["stop", "-t", "0", "stopped"]).ok();
    let started = show(&engine, "always", "{{.State.StartedAt}}");
    let _ = engine.docker(&["exec", "always", "sh", "-c", "kill -TERM 1"]);
    let again = |engine: &Engine| {
        let now = show(engine, "always", "{{.State.StartedAt}} {{.State.Status}}");
        now.ends_with(" running") && !now.starts_with(&started)
    };
    wait_until("the container to be started again", SOON, || again(&engine));
    assert_eq!(show(&engine, "stopped", "{{.State.Status}}"), "exited");

    if let Engine::Skep(daemon) = &mut engine {
        let _ = daemon.docker(&["rename", "none", "kept"]).ok();
        let _ = daemon.docker(&["pause", "kept"]).ok();
        let count: u32 = show_on(daemon, "always", "{{.RestartCount}}").parse().unwrap();
        daemon.kill9();
        // Its end is learnt, and mended, by the next daemon.
        let shims = daemon.shims();
        assert_eq!(shims.len(), 2, "{shims:?}");
        daemon.start();
        assert_eq!(show_on(daemon, "kept", "{{.State.Status}}"), "paused");
        assert_eq!(show_on(daemon, "always", "{{.State.Status}} {{.RestartCount}}"), format!("running {count}"));
        let pid = show_on(daemon, "always", "{{.State.Pid}}");
        daemon.kill9();
        let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
        daemon.start();
        wait_until("the container to be started by the next daemon", SOON, || {
            let now = show_on(daemon, "always", "{{.State.Status}} {{.State.Pid}}");
            now.starts_with("running ") && !now.ends_with(&pid)
        });
        assert_eq!(show_on(daemon, "stopped", "{{.State.Status}}"), "exited");
        assert_eq!(show_on(daemon, "failing", "{{.State.Status}} {{.State.ExitCode}}"), "exited 4");
    }

    let _ = engine.docker(&["rm", "-f", "always", "failing"]).ok();
    let _ = engine.docker(&["create", "--name", "fresh", "--label", "keep", "busybox"]).ok();
    let pruned = engine.docker(&["container", "prune", "-f", "--filter", "label!=keep"]).ok();
    assert!(pruned.contains("Deleted Containers:"), "{pruned}");
    let mut left: Vec<String> =
        engine.docker(&["ps", "-a", "--format", "{{.Names}}"]).ok().lines().map(str::to_owned).collect();
    left.sort_unstable();
    assert_eq!(left, ["fresh", if engine.is_dockerd() { "none" } else { "kept" }]);
}

#[track_caller]
fn show_on(daemon: &skep_conformance::Daemon, name: &str, format: &str) -> String {
    daemon.docker(&["container", "inspect", name, "--format", format]).ok()
}
