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
    assert!(engine.docker(&["rename", "other", "bad name"]).fails().contains("Invalid container name (bad name)"));
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
