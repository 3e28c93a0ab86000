//! Secrets and configs by the stock docker client. Each case but the last also runs against a real engine
//! (`SKEP_TEST_HOST`).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use skep_conformance::{Engine, leftovers, missing, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(30);
const VALUE: &[u8] = b"correct-horse-battery-staple";

#[track_caller]
fn make(engine: &Engine, kind: &str, name: &str, flags: &[&str], data: &[u8]) -> String {
    engine.docker_with(&[&[kind, "create"], flags, &[name, "-"]].concat(), data, &[]).ok()
}

/// What a program in the only running task of a service prints.
#[track_caller]
fn inside(engine: &Engine, service: &str, command: &[&str]) -> String {
    let task = engine.wait_running(service, 1, SOON).remove(0);
    let container = task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap().to_owned();
    engine.docker(&[&["exec", container.as_str()], command].concat()).ok()
}

#[test]
fn secrets_and_configs_are_made_listed_and_removed() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    for kind in ["secret", "config"] {
        let docker = |args: &[&str]| engine.docker(&[&[kind], args].concat());
        let id = make(&engine, kind, "one", &["-l", "a=b"], VALUE);
        make(&engine, kind, "two", &["--template-driver", "golang"], b"{{.Service.Name}}");
        let text = engine.docker_with(&[kind, "create", "one", "-"], b"x", &[]).fails();
        assert!(text.contains(&format!("{kind} one already exists")), "{text}");
        let text = engine.docker_with(&[kind, "create", "bad name!", "-"], b"x", &[]).fails();
        assert!(text.contains("invalid name, only 64 [a-zA-Z0-9-_.] characters allowed"), "{text}");
        let large = vec![b'x'; if kind == "secret" { 512_000 } else { 1_024_000 }];
        let text = engine.docker_with(&[kind, "create", "large", "-"], &large, &[]).fails();
        assert!(text.contains(&format!("{kind} data must be larger than 0 and less than {}", large.len())), "{text}");
        make(&engine, kind, "largest", &[], &large[1..]);

        assert_eq!(docker(&["ls", "-q", "--filter", "label=a=b"]).ok(), id);
        assert_eq!(docker(&["ls", "-q", "--filter", "name=on"]).ok(), id);
        assert_eq!(docker(&["inspect", &id[..9], "--format", "{{.Spec.Name}} {{.Spec.Labels.a}}"]).ok(), "one b");
        let shown = docker(&["inspect", "one", "two"]).ok();
        assert_eq!(shown.contains("\"Data\""), kind == "config", "{shown}");
        assert!(shown.contains("golang"), "{shown}");
        assert!(docker(&["inspect", "nosuch"]).fails().contains("nosuch"));

        let path = format!("/v1.41/{kind}s/{id}");
        let version = engine.get(&path)["Version"]["Index"].clone();
        let update = |version: &serde_json::Value, body| {
            engine.post(&format!("{path}/update?version={version}"), &body).unwrap()
        };
        let answer = update(&version, serde_json::json!({"Name": "one", "Labels": {"c": "d"}}));
        assert_eq!((answer.status, engine.get(&path)["Spec"]["Labels"]["c"].clone()), (200, "d".into()));
        let answer = update(&version, serde_json::json!({"Name": "one", "Labels": {}}));
        assert!(answer.message().contains("update out of sequence"), "{}", answer.text());
        let version = engine.get(&path)["Version"]["Index"].clone();
        for wrong in [serde_json::json!({"Name": "one", "Data": "eA=="}), serde_json::json!({"Name": "other"})] {
            let answer = update(&version, wrong);
            assert!(answer.message().contains("only updates to Labels are allowed"), "{}", answer.text());
        }
        let text = docker(&["rm", "one", "nosuch", "two", "largest"]).fails();
        assert!(text.contains(&format!("{kind} nosuch not found")), "{text}");
        assert_eq!(docker(&["ls", "-q"]).ok(), "");
    }
    let text = engine.docker(&["secret", "create", "-d", "vault", "external"]).fails();
    assert!(text.contains("vault"), "{text}");
}

#[test]
fn tasks_get_files_and_an_update_gives_them_others() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    make(&engine, "secret", "old", &[], VALUE);
    make(&engine, "secret", "new", &[], b"another");
    // Docker gives two references to one object the owner of the last.
    make(&engine, "secret", "deep", &[], VALUE);
    make(&engine, "config", "plain", &[], b"{{as it is}}");
    let template = br#"{{.Service.Name}} {{.Task.Slot}} {{secret "pw"}} {{env "A"}}"#;
    make(&engine, "config", "page", &["--template-driver", "golang"], template);
    let create = ["service", "create", "-d", "--name", "web", "--stop-signal", "SIGKILL", "--env", "A=b"];
    let files = [
        "--secret=source=old,target=pw,uid=5,gid=6,mode=0400",
        "--secret=source=deep,target=/etc/deep/er",
        "--config=source=page,target=/www/index.html,mode=0440",
        "--config=plain",
    ];
    let _ = engine.docker(&[&create[..], &files, &["busybox", "sleep", "100000"]].concat()).ok();
    let value = String::from_utf8(VALUE.to_vec()).unwrap();
    assert_eq!(inside(&engine, "web", &["cat", "/run/secrets/pw"]), value);
    assert_eq!(inside(&engine, "web", &["cat", "/etc/deep/er"]), value);
    assert_eq!(inside(&engine, "web", &["cat", "/www/index.html"]), format!("web 1 {value} b"));
    assert_eq!(inside(&engine, "web", &["cat", "/plain"]), "{{as it is}}");
    let owners =
        inside(&engine, "web", &["stat", "-c", "%u %g %a", "/run/secrets/pw", "/etc/deep/er", "/www/index.html"]);
    assert_eq!(owners.lines().collect::<Vec<_>>(), ["5 6 400", "0 0 444", "0 0 440"]);
    let write = "echo x > /run/secrets/pw || mount -o remount,rw /run/secrets/pw; cat /run/secrets/pw";
    assert_eq!(inside(&engine, "web", &["sh", "-c", write]), value, "it cannot be written");

    let text = engine.docker(&["secret", "rm", "old"]).fails();
    assert!(text.contains("secret 'old' is in use by the following service: web"), "{text}");
    let _ =
        engine.docker(&["service", "create", "-d", "--name", "api", "--config", "plain", "busybox", "sleep", "1"]).ok();
    let text = engine.docker(&["config", "rm", "plain"]).fails();
    assert!(text.contains("config 'plain' is in use by the following services:"), "{text}");
    let _ = engine.docker(&["service", "rm", "api"]).ok();

    let update = ["service", "update", "-d", "--secret-rm", "old", "--secret-add", "source=new,target=pw", "web"];
    let _ = engine.docker(&update).ok();
    wait_until("the update to be complete", SOON, || {
        engine.docker(&["service", "inspect", "web", "--format", "{{.UpdateStatus.State}}"]).stdout.trim()
            == "completed"
    });
    assert_eq!(inside(&engine, "web", &["cat", "/run/secrets/pw"]), "another");
    assert_eq!(inside(&engine, "web", &["cat", "/www/index.html"]), "web 1 another b");
    let _ = engine.docker(&["secret", "rm", "old"]).ok();
    let text = engine.docker(&["service", "rollback", "-d", "web"]);
    assert!(engine.is_dockerd() || text.fails().contains("secret not found: old"));
}

/// Every regular file below a folder that holds the bytes.
fn holders(folder: &Path, bytes: &[u8], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            holders(&entry.path(), bytes, found);
        } else if kind.is_file()
            && fs::read(entry.path()).is_ok_and(|content| content.windows(bytes.len()).any(|part| part == bytes))
        {
            found.push(entry.path().display().to_string());
        }
    }
}

#[test]
fn a_killed_daemon_loses_no_value_and_no_file_of_the_machine_has_one() {
    if missing() {
        return;
    }
    let mut engine = Engine::with_swarm(SKEP);
    if engine.is_dockerd() {
        return;
    }
    make(&engine, "secret", "pw", &[], VALUE);
    make(&engine, "config", "page", &["--template-driver", "golang"], br#"{{secret "pw"}}"#);
    let create = ["service", "create", "-d", "--name", "web", "--stop-signal", "SIGKILL", "--restart-delay", "0s"];
    let files = ["--secret=pw", "--config=page", "busybox", "sleep", "100000"];
    let _ = engine.docker(&[&create[..], &files].concat()).ok();
    let value = String::from_utf8(VALUE.to_vec()).unwrap();
    assert_eq!(inside(&engine, "web", &["cat", "/page"]), value);
    let Engine::Skep(daemon) = &mut engine else { unreachable!("it is no real engine") };
    let look = |daemon: &skep_conformance::Daemon| {
        let mut found = Vec::new();
        for folder in [daemon.setup().data_root(), daemon.setup().exec_root()] {
            holders(&folder, VALUE, &mut found);
        }
        found
    };
    assert_eq!(look(daemon), [""; 0]);
    let before = daemon.wait_running("web", 1, SOON).remove(0);
    daemon.kill9();
    daemon.start();
    let after = daemon.wait_running("web", 1, SOON).remove(0);
    assert_eq!(before["ID"], after["ID"], "the container goes on");
    assert_eq!(inside(&engine, "web", &["cat", "/run/secrets/pw"]), value);
    let Engine::Skep(daemon) = &mut engine else { unreachable!("it is no real engine") };
    // In the middle of whatever a scale begins; the new tasks need the values again.
    let _ = daemon.docker(&["service", "scale", "-d", "web=6"]).ok();
    daemon.kill9();
    daemon.start();
    let tasks = daemon.wait_running("web", 6, SOON);
    for task in tasks {
        let container = task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap();
        assert_eq!(
            daemon.docker(&["exec", container, "cat", "/run/secrets/pw", "/page"]).ok(),
            format!("{value}{value}")
        );
        let inspected = daemon.docker(&["inspect", container]).ok();
        assert!(!inspected.contains(&value));
    }
    assert_eq!(look(daemon), [""; 0]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = daemon.setup().dir().join("data/containers");
    assert!(!mounts.contains(&*below.to_string_lossy()), "nothing is mounted on the machine");
    let _ = daemon.docker(&["service", "rm", "web"]).ok();
    wait_until("the containers to go", SOON, || daemon.docker(&["ps", "-aq"]).stdout.trim().is_empty());
    assert_eq!(leftovers(daemon), [""; 0]);
    assert!(!daemon.log().contains(&value));
}
