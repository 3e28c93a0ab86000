//! Rolling updates, rollbacks and global services, driven by the stock docker client. Cases also run against a real engine
//! (`SKEP_TEST_HOST`), but for what only skep does.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use skep_conformance::{Engine, missing, wait_for, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(30);
/// Updates of a test do not wait long for new tasks to fail.
const QUICK: [&str; 4] = ["--update-monitor", "500ms", "--rollback-monitor", "500ms"];
const SLEEP: [&str; 3] = ["busybox", "sleep", "100000"];

/// Creates a service of sleeping tasks and waits until it runs.
#[track_caller]
fn sleeper(engine: &Engine, name: &str, flags: &[&str], count: usize) -> BTreeSet<String> {
    let create = ["service", "create", "-d", "--name", name, "--stop-signal", "SIGKILL", "--restart-delay", "100ms"];
    let _ = engine.docker(&[&create[..], &QUICK, flags, &SLEEP].concat()).ok();
    engine.wait_running(name, count, SOON);
    running(engine, name)
}

#[track_caller]
fn inspect(engine: &Engine, service: &str) -> Value {
    serde_json::from_str(&engine.docker(&["service", "inspect", service, "--format", "{{json .}}"]).ok()).unwrap()
}

/// State and message of the update.
fn update_status(engine: &Engine, service: &str) -> (String, String) {
    let status = inspect(engine, service)["UpdateStatus"].clone();
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    (text("State"), text("Message"))
}

/// Ids of the tasks that run and shall run.
fn running(engine: &Engine, service: &str) -> BTreeSet<String> {
    let tasks = engine.running_tasks(service).unwrap();
    tasks.iter().map(|task| task["ID"].as_str().unwrap().to_owned()).collect()
}

/// An environment of each task that runs.
fn environments(engine: &Engine, service: &str) -> Vec<String> {
    let tasks = engine.running_tasks(service).unwrap();
    tasks.iter().map(|task| task["Spec"]["ContainerSpec"]["Env"][0].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn update(engine: &Engine, args: &[&str]) -> String {
    engine.docker(&[&["service", "update"], args].concat()).ok()
}

#[test]
fn an_update_replaces_every_task_and_only_when_it_must() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let first = sleeper(&engine, "web", &["--replicas", "3"], 3);
    assert!(inspect(&engine, "web")["UpdateStatus"].is_null());

    // What tasks do not see touches none of them.
    let _ = update(&engine, &["--label-add", "a=b", "--update-parallelism", "2", "--update-delay", "10ms", "web"]);
    let _ = engine.docker(&["service", "scale", "web=4"]).ok();
    let scaled = running(&engine, "web");
    assert!(scaled.len() == 4 && scaled.is_superset(&first), "{first:?} {scaled:?}");
    assert!(inspect(&engine, "web")["UpdateStatus"].is_null());

    // The client waits until the update has converged.
    let _ = update(&engine, &["--env-add", "V=2", "web"]);
    let second = running(&engine, "web");
    assert!(second.len() == 4 && second.is_disjoint(&scaled));
    assert_eq!(environments(&engine, "web"), ["V=2"; 4]);
    wait_until("the update to end", SOON, || update_status(&engine, "web").0 == "completed");
    assert_eq!(update_status(&engine, "web").1, "update completed");
    let status = inspect(&engine, "web")["UpdateStatus"].clone();
    assert!(status["StartedAt"].is_string() && status["CompletedAt"].is_string(), "{status}");

    // By force, all at once.
    let _ = update(&engine, &["--force", "--update-parallelism", "0", "--update-order", "start-first", "web"]);
    let third = running(&engine, "web");
    assert!(third.len() == 4 && third.is_disjoint(&second));
    assert_eq!(inspect(&engine, "web")["Spec"]["TaskTemplate"]["ForceUpdate"], 1);

    // Back to the spec before, and back again.
    let _ = engine.docker(&["service", "rollback", "web"]).ok();
    wait_until("the rollback to end", SOON, || update_status(&engine, "web").0 == "rollback_completed");
    assert_eq!(update_status(&engine, "web").1, "rollback completed");
    assert_eq!(inspect(&engine, "web")["Spec"]["TaskTemplate"]["ForceUpdate"], 0);
    let _ = update(&engine, &["-d", "--rollback", "web"]);
    wait_until("the rollback of the rollback", SOON, || {
        update_status(&engine, "web").0 == "rollback_completed"
            && inspect(&engine, "web")["Spec"]["TaskTemplate"]["ForceUpdate"] == 1
            && running(&engine, "web").len() == 4
    });
    let history = engine.docker(&["service", "ps", "web", "--filter", "desired-state=shutdown", "-q"]).ok();
    assert!(history.lines().count() >= 8, "{history}");
}

#[test]
fn a_failing_update_pauses_and_is_rolled_back_by_hand() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let first = sleeper(&engine, "web", &["--replicas", "3", "--update-delay", "3s"], 3);
    let failed = engine.docker(&["service", "update", "--args", "false", "web"]).fails();
    let message = "update paused due to failure or early termination of task ";
    assert!(failed.contains("service update paused") && failed.contains(message), "{failed}");
    let (state, text) = update_status(&engine, "web");
    assert!(state == "paused" && text.starts_with(message), "{state} {text}");
    assert_eq!(running(&engine, "web").intersection(&first).count(), 2, "the others are left alone");
    if !engine.is_dockerd() {
        // A task of the spec before that ends is followed by one like it (a real engine would let the failure spread).
        let victim = running(&engine, "web").intersection(&first).next().unwrap().clone();
        let task: Value = serde_json::from_str(&engine.docker(&["inspect", &victim]).ok()).unwrap();
        let container = task[0]["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap().to_owned();
        let _ = engine.docker(&["kill", &container]).ok();
        wait_until("the task to be followed by its like", SOON, || {
            let now = running(&engine, "web");
            now.len() == 2 && !now.contains(&victim)
        });
    }
    let text = engine.docker(&["service", "rollback", "web"]).ok();
    assert!(text.contains("rollback"), "{text}");
    engine.wait_running("web", 3, SOON);
    wait_until("the rollback to end", SOON, || update_status(&engine, "web").0 == "rollback_completed");
    assert_eq!(inspect(&engine, "web")["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"][0], "sleep");
}

#[test]
fn a_failing_update_is_rolled_back_by_itself() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let flags = ["--replicas", "3", "--update-failure-action", "rollback", "--update-order", "start-first"];
    let first = sleeper(&engine, "web", &flags, 3);
    // A program that does not even start: what ran stays all the time.
    let _ = engine.docker(&["service", "update", "-d", "--args", "nosuchprogram", "web"]).ok();
    wait_until("the rollback to end", SOON, || update_status(&engine, "web").0 == "rollback_completed");
    assert_eq!(inspect(&engine, "web")["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"][0], "sleep");
    wait_for("the first tasks", SOON, || match running(&engine, "web") {
        now if now == first => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .unwrap();
    let refused = engine.docker(&["service", "rollback", "web"]).fails();
    assert!(refused.contains("does not have a previous spec"), "{refused}");
    // An update that may fail goes on to its end.
    let more = ["--args", "false", "--update-failure-action", "continue", "--update-delay", "10ms"];
    let _ = engine
        .docker(&[&["service", "update", "-d"], &more[..], &["--update-order", "stop-first", "web"]].concat())
        .ok();
    wait_until("the update to end", SOON, || update_status(&engine, "web").0 == "completed");
}

#[test]
fn a_global_service_has_a_task_on_the_node() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let first = sleeper(&engine, "agent", &["--mode", "global"], 1);
    let list = engine.docker(&["service", "ls", "--format", "{{.Mode}} {{.Replicas}}"]).ok();
    assert_eq!(list, "global 1/1");
    let node = engine.docker(&["node", "ls", "-q"]).ok();
    let names = engine.docker(&["service", "ps", "agent", "--format", "{{.Name}}"]).ok();
    assert_eq!(names, format!("agent.{node}"));
    let refused = engine.docker(&["service", "scale", "agent=2"]).fails();
    assert!(refused.contains("scale can only be used with replicated or replicated-job mode"), "{refused}");

    let _ = update(&engine, &["--env-add", "V=2", "agent"]);
    let second = running(&engine, "agent");
    assert!(second.len() == 1 && second.is_disjoint(&first));
    assert_eq!(environments(&engine, "agent"), ["V=2"]);

    let _ = engine.docker(&["node", "update", "--availability", "drain", &node]).ok();
    wait_until("the node to be empty", SOON, || engine.docker(&["ps", "-q"]).stdout.is_empty());
    let list = engine.docker(&["service", "ls", "--format", "{{.Replicas}}"]).ok();
    assert_eq!(list, "0/0");
    let _ = engine.docker(&["node", "update", "--availability", "active", &node]).ok();
    engine.wait_running("agent", 1, SOON);

    let _ = update(&engine, &["-d", "--constraint-add", "node.labels.zone==a", "agent"]);
    wait_until("the node not to fit", SOON, || engine.docker(&["ps", "-q"]).stdout.is_empty());
    let _ = engine.docker(&["node", "update", "--label-add", "zone=a", &node]).ok();
    engine.wait_running("agent", 1, SOON);
}

#[test]
fn wrong_update_settings_are_refused_in_dockers_words() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    sleeper(&engine, "web", &[], 1);
    let spec = || inspect(&engine, "web");
    let send = |edit: &dyn Fn(&mut Value)| {
        let found = spec();
        let mut body = found["Spec"].clone();
        edit(&mut body);
        let path = format!("/v1.41/services/web/update?version={}", found["Version"]["Index"]);
        let answer = engine.post(&path, &body).unwrap();
        (answer.status, answer.text())
    };
    let (status, text) = send(&|spec| spec["UpdateConfig"]["MaxFailureRatio"] = 2.into());
    assert!(status == 400 && text.contains("update-maxfailureratio cannot be less than 0 or bigger than 1"), "{text}");
    let (status, text) = send(&|spec| spec["UpdateConfig"]["Delay"] = (-1).into());
    assert!(status == 400 && text.contains("update-delay cannot be negative"), "{status} {text}");
    let (status, text) = send(&|spec| spec["UpdateConfig"]["Monitor"] = (-1).into());
    assert!(status == 400 && text.contains("update-monitor cannot be negative"), "{status} {text}");
    let (_, text) = send(&|spec| spec["UpdateConfig"]["FailureAction"] = "explode".into());
    assert!(text.contains("unrecognized update failure action explode"), "{text}");
    let (_, text) = send(&|spec| spec["UpdateConfig"]["Order"] = "sideways".into());
    assert!(text.contains("unrecognized update order"), "{text}");
    let (status, text) = send(&|spec| spec["Name"] = "other".into());
    assert!(status == 501 && text.contains("renaming services is not supported"), "{status} {text}");
    let (status, text) = send(&|spec| spec["Mode"] = serde_json::json!({ "Global": {} }));
    assert!(status == 501 && text.contains("service mode change is not allowed"), "{status} {text}");
    let (status, text) = send(&|spec| {
        spec["Mode"] = serde_json::json!({ "Global": {}, "Replicated": { "Replicas": 1 } });
    });
    assert!(status == 400 && text.contains("must specify only one service mode"), "{status} {text}");
    let refused = engine.docker(&["service", "rollback", "web"]).fails();
    assert!(refused.contains("does not have a previous spec"), "{refused}");
}

#[test]
fn no_request_is_lost_when_new_tasks_start_first() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    if engine.is_dockerd() {
        return eprintln!("skipped: the routing mesh of a real engine needs IPVS");
    }
    // A server that ends what it has begun when it is asked to stop.
    let server = "mkdir -p /www; echo $V > /www/index.html; httpd -p 80 -h /www; \
                  trap 'sleep 0.3; exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let create = ["service", "create", "--name", "web", "--replicas", "2", "-p", "8080:80", "-e", "V=1"];
    let start_first = ["--update-order", "start-first", "--update-monitor", "500ms"];
    let _ = engine.docker(&[&create[..], &start_first, &["busybox", "sh", "-c", server]].concat()).ok();
    wait_until("an answer", SOON, || engine.web_get("127.0.0.1:8080").is_some());
    let (stop, answered, lost) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let count = if engine.web_get("127.0.0.1:8080").is_some() { &answered } else { &lost };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let updated = engine.docker(&["service", "update", "--env-rm", "V", "--env-add", "V=2", "web"]);
        stop.store(true, Ordering::Relaxed);
        let _ = updated.ok();
    });
    assert_eq!(engine.web_get("127.0.0.1:8080").as_deref(), Some("2"));
    assert_eq!(lost.into_inner(), 0, "requests were lost; {} were answered", answered.into_inner());
}
