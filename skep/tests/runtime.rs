//! What a service's container is given to live with: a terminal, an init process, a log driver, swap. Each case also runs
//! against a real engine (`SKEP_TEST_HOST`), but for what only skep does.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use serde_json::Value;
use skep_conformance::{Engine, missing, wait_for};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);

/// Creates a service that says something and stays; gives its container.
#[track_caller]
fn container(engine: &Engine, name: &str, flags: &[&str], script: &str) -> String {
    let script = format!("{script}; exec sleep 100000");
    let create = ["service", "create", "-d", "--name", name, "--stop-signal", "SIGKILL"];
    let _ = engine.docker(&[&create[..], flags, &["busybox", "sh", "-c", &script]].concat()).ok();
    let tasks = engine.wait_running(name, 1, SOON);
    tasks[0]["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap().to_owned()
}

/// Waits until the log of a container ends so, and gives all of it.
#[track_caller]
fn log_until(engine: &Engine, container: &str, end: &str) -> String {
    let ask = || {
        let output = engine.docker(&["logs", container]);
        if output.stdout.ends_with(end) { Ok(output.stdout) } else { Err(format!("{output}")) }
    };
    wait_for("the end of the log", SOON, ask).unwrap()
}

#[track_caller]
fn inspect(engine: &Engine, container: &str) -> Value {
    serde_json::from_str(&engine.docker(&["inspect", container, "--format", "{{json .}}"]).ok()).unwrap()
}

#[test]
fn terminal_init_and_swap() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let plain = container(&engine, "plain", &[], "test -t 1 || echo none; cat /proc/1/comm; echo end");
    assert_eq!(log_until(&engine, &plain, "end\n"), "none\nsh\nend\n");
    let script = "test -t 0 && test -t 2 && echo $TERM; echo err >&2; echo end";
    let tty = container(&engine, "tty", &["--tty"], script);
    assert_eq!(log_until(&engine, &tty, "end\r\n"), "xterm\r\nerr\r\nend\r\n");
    let raw = engine.docker(&["service", "logs", "--raw", "tty"]).ok();
    assert_eq!(raw.replace('\r', ""), "xterm\nerr\nend", "{raw:?}");
    let flags = ["--init", "--limit-memory", "32m", "--memory-swap", "64m", "--memory-swappiness", "10"];
    // An older client does not know the flags of swap.
    let flags = if engine.docker(&["service", "create", "--help"]).ok().contains("--memory-swap ") {
        &flags[..]
    } else {
        &flags[..3]
    };
    let init = container(&engine, "init", flags, "tr '\\0' ' ' < /proc/1/cmdline; echo; echo $$ end");
    let log = log_until(&engine, &init, "end\n");
    assert!(log.contains("docker-init -- sh -c") && !log.ends_with("\n1 end\n"), "{log}");
    let shown = inspect(&engine, &init);
    assert_eq!((&shown["HostConfig"]["Init"], &inspect(&engine, &tty)["Config"]["Tty"]), (&true.into(), &true.into()));
    // Signals reach the program through the init process.
    let _ = engine.docker(&["kill", "-s", "TERM", &init]).ok();
    let ended = || {
        let code = inspect(&engine, &init)["State"]["ExitCode"].clone();
        if code == 143 { Ok(()) } else { Err(code.to_string()) }
    };
    wait_for("the program has ended by the signal", SOON, ended).unwrap();
}

#[test]
fn log_drivers() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let count = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; echo end";
    let options = |options: &[&'static str]| -> Vec<&'static str> {
        options.iter().flat_map(|option| ["--log-opt", *option]).collect()
    };
    for (name, driver, opts) in [
        ("rotated", "json-file", options(&["max-size=20k", "max-file=3", "compress=true"])),
        ("local", "local", options(&["max-size=20k", "max-file=3"])),
    ] {
        let id = container(&engine, name, &[&["--log-driver", driver][..], &opts].concat(), count);
        let log = log_until(&engine, &id, "end\n");
        let first: usize = log.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(first > 1 && first < 2000, "rotated away: {first}");
        // What is left is whole and in order.
        let wanted: String = (first..=2000).map(|number| format!("line {number}\n")).collect();
        assert_eq!(log, wanted + "end\n");
        let tail = engine.docker(&["logs", "--tail", "300", &id]).ok();
        assert_eq!(tail.lines().count(), 300);
        assert!(tail.starts_with("line 1702\n"), "{}", &tail[..40]);
        let config = &inspect(&engine, &id)["HostConfig"]["LogConfig"];
        assert_eq!((&config["Type"], &config["Config"]["max-file"]), (&driver.into(), &"3".into()));
    }
    let none = container(&engine, "none", &["--log-driver", "none"], "echo x");
    let text = engine.docker(&["logs", &none]).fails();
    assert!(text.contains("configured logging driver does not support reading"), "{text}");

    for (name, flags, wanted) in [
        (
            "option",
            &["--log-driver", "json-file", "--log-opt", "nope=1"][..],
            "unknown log opt 'nope' for json-file log driver",
        ),
        ("size", &["--log-driver", "local", "--log-opt", "max-size=x"], "invalid size: 'x'"),
    ] {
        let create = ["service", "create", "-d", "--name", name, "--restart-condition", "none"];
        let _ = engine.docker(&[&create[..], flags, &["busybox", "true"]].concat()).ok();
        let ask = || {
            let shown =
                engine.docker(&["service", "ps", name, "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}"]).ok();
            if shown.contains(wanted) { Ok(()) } else { Err(shown) }
        };
        wait_for("the task is rejected with its reason", SOON, ask).unwrap();
    }
    let _ = engine.docker(&["service", "create", "-d", "--name", "other", "--log-driver", "x", "busybox", "true"]).ok();
    let ask = || {
        let format = "{{.CurrentState}} {{.Error}}";
        let shown = engine.docker(&["service", "ps", "other", "--no-trunc", "--format", format]).ok();
        if shown.starts_with("Pending") && shown.contains("missing plugin on 1 node") { Ok(()) } else { Err(shown) }
    };
    wait_for("no node has the driver", SOON, ask).unwrap();
}
