//! Health checks of services and containers, by the stock docker client. What a real engine can do the same way also runs
//! against one (`SKEP_TEST_HOST`).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use skep_conformance::{Client, Engine, missing, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(30);
const OFTEN: [&str; 6] = ["--health-interval", "200ms", "--health-retries", "2", "--health-timeout", "5s"];

fn create(engine: &Client, name: &str, flags: &[&str], image: &str, command: &[&str]) {
    let create = ["service", "create", "-d", "--name", name, "--stop-signal", "SIGKILL", "--restart-delay", "0s"];
    let _ = engine.docker(&[&create[..], flags, &[image], command].concat()).ok();
}

/// All tasks of a service, also those that ended.
fn tasks_of(client: &Client, service: &str) -> Vec<Value> {
    let filter = format!("%7B%22service%22%3A%5B%22{service}%22%5D%7D");
    let answer = client.http("GET", &format!("/v1.41/tasks?filters={filter}"), None);
    answer.ok().and_then(|answer| answer.json().as_array().cloned()).unwrap_or_default()
}

fn in_state(client: &Client, service: &str, state: &str) -> Vec<Value> {
    tasks_of(client, service).into_iter().filter(|task| task["Status"]["State"] == state).collect()
}

fn container_of(task: &Value) -> String {
    task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap_or_default().to_owned()
}

/// The only container of a service's task in a state.
fn wait_container(client: &Client, service: &str, state: &str) -> String {
    let mut found = String::new();
    wait_until(&format!("a task of {service} that is {state}"), SOON, || {
        found = in_state(client, service, state).first().map(container_of).unwrap_or_default();
        !found.is_empty()
    });
    found
}

fn health_of(client: &Client, container: &str) -> Value {
    let text = client.docker(&["inspect", container, "--format", "{{json .State.Health}}"]).stdout;
    serde_json::from_str(text.trim()).unwrap_or_default()
}

#[test]
fn a_task_runs_only_when_it_is_healthy() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let check = "echo looked; test -e /tmp/ready";
    let flags = [&OFTEN[..], &["--health-cmd", check, "--health-start-period", "1h", "-p", "8081:80"]].concat();
    // Failures in the start period do not count, and it looks every five seconds only.
    let flags = if engine.is_dockerd() { flags } else { [&flags[..], &["--health-start-interval", "200ms"]].concat() };
    let web = "mkdir -p /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www";
    create(&engine, "web", &flags, "busybox", &["sh", "-c", web]);
    let mut container = String::new();
    wait_until("the first check", SOON, || {
        let ids = engine.docker(&["ps", "-q", "--no-trunc", "--filter", "health=starting"]).stdout;
        container = ids.trim().to_owned();
        health_of(&engine, &container)["Log"].as_array().is_some_and(|log| !log.is_empty())
    });
    assert!(in_state(&engine, "web", "running").is_empty(), "not before it is healthy");
    assert_eq!(in_state(&engine, "web", "starting").len(), 1);
    let health = health_of(&engine, &container);
    assert_eq!((&health["Status"], &health["FailingStreak"]), (&"starting".into(), &0.into()), "{health}");
    let last = &health["Log"][0];
    assert_eq!((&last["ExitCode"], &last["Output"]), (&1.into(), &"looked\n".into()), "{health}");
    assert!(engine.docker(&["ps", "--format", "{{.Status}}"]).ok().contains("(health: starting)"));
    // A real engine's routing mesh needs IPVS, which a test machine may lack.
    if !engine.is_dockerd() {
        assert_eq!(engine.web_get("127.0.0.1:8081"), None, "no traffic yet");
    }
    let _ = engine.docker(&["exec", &container, "touch", "/tmp/ready"]).ok();
    assert_eq!(wait_container(&engine, "web", "running"), container);
    assert_eq!(health_of(&engine, &container)["Status"], "healthy");
    assert!(engine.docker(&["ps", "--format", "{{.Status}}"]).ok().contains("(healthy)"));
    if !engine.is_dockerd() {
        wait_until("traffic", SOON, || engine.web_get("127.0.0.1:8081").as_deref() == Some("served"));
    }
    let until = engine.docker(&["info", "--format", "{{.SystemTime}}"]).ok();
    let events = ["events", "--since", "1h", "--until", &until, "--filter", "event=health_status", "--format"];
    let text = engine.docker(&[&events[..], &["{{.Action}} {{.Actor.Attributes.image}}"]].concat()).ok();
    assert!(text.contains("health_status: healthy busybox"), "{text}");
}

#[test]
fn an_unhealthy_task_is_stopped_and_replaced() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let flags = [&OFTEN[..], &["--health-cmd", "test ! -e /tmp/ill"]].concat();
    create(&engine, "web", &flags, "busybox", &["sleep", "100000"]);
    let first = wait_container(&engine, "web", "running");
    let _ = engine.docker(&["exec", &first, "touch", "/tmp/ill"]).ok();
    wait_until("the unhealthy task to fail and another one to run", SOON, || {
        let failed = in_state(&engine, "web", "failed");
        let text = "task: non-zero exit (137): dockerexec: unhealthy container";
        failed.iter().any(|task| container_of(task) == first && task["Status"]["Err"] == text)
            && in_state(&engine, "web", "running").iter().any(|task| container_of(task) != first)
    });
    // One that never becomes healthy never runs.
    let flags = [&OFTEN[..], &["--health-cmd", "false", "--restart-condition", "none"]].concat();
    create(&engine, "ill", &flags, "busybox", &["sleep", "100000"]);
    wait_until("the task to fail", SOON, || {
        let failed = in_state(&engine, "ill", "failed");
        failed.iter().any(|task| task["Status"]["Err"].as_str().unwrap().ends_with("dockerexec: unhealthy container"))
    });
    // Its end before it is healthy is told as what it is.
    let flags = [&OFTEN[..], &["--health-cmd", "false", "--health-start-period", "1h", "--restart-condition", "none"]];
    create(&engine, "ends", &flags.concat(), "busybox", &["sh", "-c", "exit 5"]);
    wait_until("the task to fail", SOON, || {
        in_state(&engine, "ends", "failed").iter().any(|task| task["Status"]["Err"] == "task: non-zero exit (5)")
    });
}

#[test]
fn a_task_that_is_not_healthy_yet_can_be_removed() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let flags = [&OFTEN[..], &["--health-cmd", "false", "--health-start-period", "1h"]].concat();
    create(&engine, "web", &flags, "busybox", &["sleep", "100000"]);
    let _ = wait_container(&engine, "web", "starting");
    let _ = engine.docker(&["service", "rm", "web"]).ok();
    wait_until("the container to go", SOON, || engine.docker(&["ps", "-aq"]).stdout.trim().is_empty());
}

/// Imports an image of a busybox with further Dockerfile instructions.
fn import(engine: &Client, name: &str, changes: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("bin")).unwrap();
    std::fs::copy("/bin/busybox", dir.path().join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "test", "touch", "echo"] {
        std::os::unix::fs::symlink("busybox", dir.path().join("bin").join(applet)).unwrap();
    }
    let tar = Command::new("tar").arg("-C").arg(dir.path()).args(["-cf", "-", "."]).output().unwrap().stdout;
    let mut args = vec!["import", "-c", "ENV PATH=/bin", "-c", "CMD [\"/bin/sleep\", \"100000\"]"];
    for change in changes {
        args.extend(["-c", change]);
    }
    args.extend(["-", name]);
    let _ = engine.docker_with(&args, &tar, &[]).ok();
}

#[test]
fn the_image_s_check_counts_unless_it_is_switched_off() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    import(&engine, "checked:1", &["HEALTHCHECK --interval=1s --retries=7 CMD echo of the image"]);
    create(&engine, "own", &[], "checked:1", &[]);
    let container = wait_container(&engine, "own", "running");
    let health = health_of(&engine, &container);
    assert_eq!((&health["Status"], &health["Log"][0]["Output"]), (&"healthy".into(), &"of the image\n".into()));
    let shown = engine.docker(&["inspect", &container, "--format", "{{json .Config.Healthcheck}}"]).ok();
    assert_eq!(shown, r#"{"Test":["CMD-SHELL","echo of the image"],"Interval":1000000000,"Retries":7}"#);
    // A part of it may be replaced.
    let flags = ["--health-cmd", "echo of the service", "--health-timeout", "9s"];
    create(&engine, "part", &flags, "checked:1", &[]);
    let container = wait_container(&engine, "part", "running");
    assert_eq!(health_of(&engine, &container)["Log"][0]["Output"], "of the service\n");
    create(&engine, "off", &["--no-healthcheck"], "checked:1", &[]);
    let container = wait_container(&engine, "off", "running");
    assert_eq!(health_of(&engine, &container), Value::Null);
    let status = engine.docker(&["ps", "--filter", &format!("id={container}"), "--format", "{{.Status}}"]).ok();
    assert!(!status.contains("health"), "{status}");
}

#[test]
fn a_container_by_hand_is_told_healthy_or_not() {
    if missing() {
        return;
    }
    let engine = Engine::start(SKEP);
    engine.load_busybox();
    let run = ["run", "-d", "--name", "healthy", "--stop-signal", "SIGKILL", "--health-cmd"];
    let check = "test -e /tmp/a && echo well || { echo ill >&2; exit 3; }";
    let _ = engine.docker(&[&run[..], &[check], &OFTEN, &["busybox", "sleep", "100000"]].concat()).ok();
    wait_until("it to be unhealthy", SOON, || health_of(&engine, "healthy")["Status"] == "unhealthy");
    let health = health_of(&engine, "healthy");
    assert!(health["FailingStreak"].as_u64().unwrap() >= 2, "{health}");
    assert_eq!((&health["Log"][0]["ExitCode"], &health["Log"][0]["Output"]), (&3.into(), &"ill\n".into()));
    let running = engine.docker(&["inspect", "healthy", "--format", "{{.State.Running}}"]).ok();
    assert_eq!(running, "true", "nobody stops it");
    let _ = engine.docker(&["exec", "healthy", "touch", "/tmp/a"]).ok();
    wait_until("it to be healthy", SOON, || health_of(&engine, "healthy")["Status"] == "healthy");
    assert_eq!(health_of(&engine, "healthy")["FailingStreak"], 0);
    let _ = engine.docker(&["rm", "-f", "healthy"]).ok();

    let run = ["run", "-d", "--name", "slow", "--stop-signal", "SIGKILL", "--health-cmd", "echo begun; sleep 1000"];
    let flags = ["--health-interval", "100ms", "--health-timeout", "300ms", "--health-retries", "1"];
    let _ = engine.docker(&[&run[..], &flags, &["busybox", "sleep", "100000"]].concat()).ok();
    wait_until("it to be unhealthy", SOON, || health_of(&engine, "slow")["Status"] == "unhealthy");
    let health = health_of(&engine, "slow");
    let last = &health["Log"][0];
    assert_eq!(last["ExitCode"], -1, "{health}");
    assert!(last["Output"].as_str().unwrap().starts_with("Health check exceeded timeout (300ms)"), "{health}");
    let _ = engine.docker(&["rm", "-f", "slow"]).ok();
}

#[test]
fn health_survives_the_daemon() {
    if missing() {
        return;
    }
    let mut engine = Engine::with_swarm(SKEP);
    let Engine::Skep(daemon) = &mut engine else {
        return eprintln!("skipped: a real engine is not killed here");
    };
    let web = "mkdir -p /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www";
    let flags = [&OFTEN[..], &["--health-cmd", "test ! -e /tmp/ill", "-p", "8082:80"]].concat();
    create(daemon, "web", &flags, "busybox", &["sh", "-c", web]);
    let flags = [&OFTEN[..], &["--health-cmd", "test -e /tmp/well", "--health-start-period", "1h"]].concat();
    let flags = [&flags[..], &["--health-start-interval", "200ms"]].concat();
    create(daemon, "slow", &flags, "busybox", &["sleep", "100000"]);
    let web = wait_container(daemon, "web", "running");
    let slow = wait_container(daemon, "slow", "starting");
    daemon.kill9_and_start();
    assert_eq!(health_of(daemon, &web)["Status"], "healthy", "it is what it was");
    assert_eq!(health_of(daemon, &slow)["Status"], "starting");
    let address = "127.0.0.1:8082";
    let netns = daemon.setup().netns();
    assert!(netns.exists());
    wait_until("traffic", SOON, || daemon.in_netns(&["busybox", "wget", "-qO-", address]).stdout.trim() == "served");
    let _ = daemon.docker(&["exec", &slow, "touch", "/tmp/well"]).ok();
    assert_eq!(wait_container(daemon, "slow", "running"), slow);
    // Becomes unhealthy while nobody looks.
    let _ = daemon.docker(&["exec", &web, "touch", "/tmp/ill"]).ok();
    daemon.kill9_and_start();
    wait_until("the unhealthy task to be replaced", SOON, || {
        let ended = in_state(daemon, "web", "failed");
        ended.iter().any(|task| container_of(task) == web)
            && in_state(daemon, "web", "running").iter().any(|task| container_of(task) != web)
    });
}
