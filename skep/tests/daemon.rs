//! The daemon as its operator meets it: refusals to start in one clear line, stale things of a killed daemon, several daemons on
//! one machine, and containers that outlive it.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use skep_conformance::{Daemon, Setup, leftovers, missing, run, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);

fn is_skipped() -> bool {
    if std::env::var_os("SKEP_TEST_HOST").is_some() {
        eprintln!("skipped: about skep's own process");
        return true;
    }
    missing()
}

/// A start that must be refused with one line for the operator.
#[track_caller]
fn refused(setup: &Setup, parts: &[&str]) {
    let output = setup.run_refused();
    let text = output.clone().fails();
    // Log lines may come first; what is said to the operator is the last line.
    let line = text.lines().last().unwrap_or_default();
    assert!(line.starts_with("skep: "), "{output}");
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {output}");
    }
    assert!(!text.contains("panicked"), "{output}");
}

fn with_service(replicas: u32) -> Daemon {
    let daemon = Setup::new(SKEP).start();
    let archive = skep_conformance::busybox_archive("busybox:latest", skep_conformance::ArchiveKind::Today);
    let _ = daemon.docker_with(&["load"], &archive, &[]).ok();
    daemon.swarm_init();
    let count = replicas.to_string();
    let create =
        ["service", "create", "-d", "--name", "web", "--stop-signal", "SIGKILL", "--replicas", &count, "busybox"];
    let _ = daemon.docker(&[&create[..], &["sleep", "100000"]].concat()).ok();
    daemon.wait_running("web", replicas as usize, SOON);
    daemon
}

fn pids(daemon: &Daemon) -> Vec<(String, i64)> {
    let mut found: Vec<_> = daemon
        .running_tasks("web")
        .unwrap()
        .iter()
        .map(|task| {
            let status = &task["Status"]["ContainerStatus"];
            (status["ContainerID"].as_str().unwrap().to_owned(), status["PID"].as_i64().unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn an_ordinary_user_is_told_that_it_needs_root() {
    if is_skipped() {
        return;
    }
    // The binary lies in a folder that only root may enter.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("skep");
    fs::copy(SKEP, &copy).unwrap();
    for path in [dir.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy).arg("daemon");
    let text = run(&mut command, b"", SOON).fails();
    assert!(text.contains("root") && text.lines().count() == 1, "{text}");
}

#[test]
fn folders_and_sockets_of_a_running_daemon_are_not_taken() {
    if is_skipped() {
        return;
    }
    let daemon = Setup::new(SKEP).start();
    refused(daemon.setup(), &["in use", "skep daemon", &daemon.pid().to_string()]);

    // Another data root, the same exec root; then folders of its own, but the other's socket.
    let taken = daemon.setup();
    let other = taken.dir().join("other");
    let start = |data: &str, exec: &std::path::Path, host: &std::path::Path| {
        let mut command = taken.in_netns(SKEP);
        command.arg("daemon").arg("--data-root").arg(other.join(data)).arg("--exec-root").arg(exec);
        command.args(["--cgroup-parent", taken.cgroup(), "--host"]).arg(format!("unix://{}", host.display()));
        run(&mut command, b"", Duration::from_secs(10)).fails()
    };
    let text = start("data", &taken.exec_root(), &other.join("a.sock"));
    assert!(text.contains("in use") && text.contains("exec-root"), "{text}");
    let text = start("data2", &other.join("run2"), &taken.socket());
    assert!(text.contains("another daemon answers there"), "{text}");
    assert_eq!(daemon.http("GET", "/_ping", None).unwrap().text(), "OK");
}

#[test]
fn a_killed_daemon_is_followed_at_once() {
    if is_skipped() {
        return;
    }
    let mut daemon = Setup::new(SKEP).start();
    daemon.kill9();
    assert!(daemon.setup().socket().exists(), "the stale socket is part of the case");
    daemon.start();
    assert_eq!(daemon.http("GET", "/_ping", None).unwrap().text(), "OK");
    for _ in 0..5 {
        daemon.kill9_and_start();
    }
    assert_eq!(daemon.http("GET", "/_ping", None).unwrap().text(), "OK");
}

#[test]
fn something_else_at_the_sockets_place_is_not_removed() {
    if is_skipped() {
        return;
    }
    let setup = Setup::new(SKEP);
    fs::create_dir_all(setup.exec_root()).unwrap();
    fs::write(setup.socket(), "precious").unwrap();
    refused(&setup, &["something else than a socket", "skep.sock"]);
    assert_eq!(fs::read_to_string(setup.socket()).unwrap(), "precious");
    fs::remove_file(setup.socket()).unwrap();
    let _foreign = UnixListener::bind(setup.socket()).unwrap();
    refused(&setup, &["another daemon answers there"]);
}

#[test]
fn wrong_settings_are_refused_by_name() {
    if is_skipped() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let named = |text: &str, parts: &[&str]| {
        fs::write(file.path(), text).unwrap();
        refused(&Setup::new(SKEP).arg("--config").arg(file.path()), parts);
    };
    named("{ not json", &[&file.path().display().to_string(), "not valid"]);
    named(r#"{"data-rot": "/x"}"#, &["not valid", "data-rot"]);
    named(r#"{"data-root": "/x"}"#, &["both as a flag and in the configuration file: data-root"]);
    named(r#"{"log-level": "loud"}"#, &["log-level", "loud"]);
    named(r#"{"hosts": ["tcp://0.0.0.0:2375"]}"#, &["0.0.0.0:2375", "TLS"]);
    refused(&Setup::new(SKEP).arg("--config").arg("/nonexistent/skep.json"), &["/nonexistent/skep.json"]);
}

/// Every file below a folder.
fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn damaged_and_newer_state_is_named_and_kept() {
    if is_skipped() {
        return;
    }
    let mut daemon = with_service(1);
    daemon.terminate();
    let root = daemon.setup().data_root();

    // A container's record of a later release.
    let containers = fs::read_dir(root.join("containers")).unwrap().flatten().next().unwrap().path();
    let record = containers.join("container.json");
    let good = fs::read(&record).unwrap();
    let mut newer: Value = serde_json::from_slice(&good).unwrap();
    newer["version"] = 1_000_000.into();
    fs::write(&record, newer.to_string()).unwrap();
    refused(daemon.setup(), &["container.json", "1000000"]);
    fs::write(&record, &good).unwrap();

    // Files of the state cut short or overwritten: the daemon says which, or goes on without harm; it never panics.
    let state: Vec<_> = files(&root)
        .into_iter()
        .filter(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            !name.ends_with(".lock")
                && !name.ends_with("/lock")
                && !["image/", "containers/"].iter().any(|part| name.starts_with(part))
        })
        .collect();
    assert!(state.len() >= 3, "{state:?}");
    for path in state {
        let good = fs::read(&path).unwrap();
        if good.is_empty() {
            continue;
        }
        fs::write(&path, b"\xff\x00 this is no state of skep").unwrap();
        daemon.spawn_briefly();
        let log = daemon.log();
        assert!(!log.contains("panicked"), "{} overwritten:\n{log}", path.display());
        fs::write(&path, &good).unwrap();
    }
    daemon.start();
    daemon.wait_running("web", 1, SOON);
}

#[test]
fn several_daemons_live_side_by_side() {
    if is_skipped() {
        return;
    }
    let mut one = with_service(2);
    let two = with_service(1);
    let before = pids(&one);
    drop(two);
    assert_eq!(pids(&one), before, "the end of one daemon touches none of another's containers");
    one.restart();
    one.wait_running("web", 2, SOON);
    assert_eq!(pids(&one), before);
}

#[test]
fn containers_outlive_the_daemon_and_leave_nothing_when_removed() {
    if is_skipped() {
        return;
    }
    let mut daemon = with_service(3);
    let before = pids(&daemon);
    let daemon_memory = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(daemon_memory.contains("VmRSS"));
    daemon.terminate();
    assert!(!daemon.setup().socket().exists(), "an orderly end takes its socket along");
    for (_, pid) in &before {
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "container process {pid} is gone");
    }
    daemon.start();
    daemon.wait_running("web", 3, SOON);
    assert_eq!(pids(&daemon), before, "adopted, not replaced");
    assert_eq!(daemon.docker(&["ps", "-q"]).ok().lines().count(), 3);

    let _ = daemon.docker(&["service", "rm", "web"]).ok();
    wait_until("the containers to go", SOON, || daemon.docker(&["ps", "-aq"]).stdout.trim().is_empty());
    let left = skep_conformance::wait_for("nothing to be left", SOON, || {
        let left = leftovers(&daemon);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    left.unwrap();
}

#[test]
fn a_swarm_can_be_left_and_made_anew() {
    if is_skipped() {
        return;
    }
    let mut daemon = with_service(2);
    let text = daemon.docker(&["swarm", "leave"]).fails();
    assert!(text.contains("--force"), "{text}");
    let _ = daemon.docker(&["swarm", "leave", "--force"]).ok();
    wait_until("the containers to go", SOON, || daemon.docker(&["ps", "-aq"]).stdout.trim().is_empty());
    assert!(daemon.docker(&["node", "ls"]).fails().contains("This node is not a swarm manager"));
    daemon.restart();
    assert!(daemon.docker(&["node", "ls"]).fails().contains("This node is not a swarm manager"));
    daemon.swarm_init();
    assert_eq!(daemon.docker(&["service", "ls", "-q"]).ok(), "");
    assert_eq!(leftovers(&daemon), [""; 0]);
}

#[test]
fn versions_are_negotiated_and_errors_are_json() {
    if is_skipped() {
        return;
    }
    let daemon = Setup::new(SKEP).start();
    let ping = daemon.http("GET", "/_ping", None).unwrap();
    assert_eq!((ping.status, ping.text().as_str(), ping.header("api-version")), (200, "OK", Some("1.50")));
    let head = daemon.http("HEAD", "/_ping", None).unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    for (path, status, part) in [
        ("/v1.24/version", 200, ""),
        ("/v1.50/version", 200, ""),
        ("/version", 200, ""),
        ("/v1.23/version", 400, "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("/v1.99/version", 400, "client version 1.99 is too new. Maximum supported API version is 1.50"),
        ("/v1.50/nonsense", 404, "page not found"),
        ("/nonsense", 404, "page not found"),
        ("/v1.50/services/x", 503, "This node is not a swarm manager"),
        ("/v1.50/containers/nosuch/json", 404, "No such container: nosuch"),
        ("/v1.50/images/nosuch/json", 404, "No such image: nosuch:latest"),
        ("/v1.50/containers/json?filters=%7B", 400, ""),
        ("/v1.50/images/json?filters=%7B%22bogus%22%3A%5B%22x%22%5D%7D", 400, "bogus"),
    ] {
        let answer = daemon.http("GET", path, None).unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        if status != 200 {
            // Clients of that age expect plain text.
            let is_old = path.starts_with("/v1.23/");
            let kind = answer.header("content-type").unwrap_or_default();
            assert!(kind.starts_with(if is_old { "text/plain" } else { "application/json" }), "{path}: {kind}");
            let message = if is_old { answer.text() } else { answer.message() };
            assert!(message.contains(part), "{path}: {}", answer.text());
        }
    }
    assert!(daemon.docker(&["version"]).ok().contains("1.50"));
    let old =
        daemon.docker_with(&["version", "--format", "{{.Client.APIVersion}}"], b"", &[("DOCKER_API_VERSION", "1.30")]);
    assert_eq!(old.ok(), "1.30");
}

#[test]
fn requests_beyond_all_bounds_are_refused() {
    if is_skipped() {
        return;
    }
    let daemon = Setup::new(SKEP).start();
    daemon.swarm_init();
    let huge = format!("{{\"Name\":\"{}\"}}", "x".repeat(64 << 20));
    let answer = daemon.http("POST", "/v1.50/services/create", Some(huge.as_bytes())).unwrap();
    assert!((400..=413).contains(&answer.status), "{}", answer.status);
    let deep = "[".repeat(200_000);
    for body in [deep.as_bytes(), b"{", b"null", b"\"x\"", b"[]", b"", b"{}", b"{\"Name\":1}", b"\xff\xfe"] {
        let answer = daemon.http("POST", "/v1.50/services/create", Some(body)).unwrap();
        assert_eq!(answer.status, 400, "{:?}: {}", String::from_utf8_lossy(&body[..body.len().min(20)]), answer.text());
        assert!(!answer.message().is_empty());
    }
    assert_eq!(daemon.http("GET", "/_ping", None).unwrap().text(), "OK");
}
