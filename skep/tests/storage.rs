//! Volumes and mounts, by the stock docker client. What a real engine can do the same way also runs against one
//! (`SKEP_TEST_HOST`).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use skep_conformance::{Client, Engine, leftovers, missing, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);

fn container_of(task: &Value) -> &str {
    task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap()
}

/// Creates a service of one sleeping task and waits until it runs; gives its container.
#[track_caller]
fn sleeper(engine: &Engine, name: &str, image: &str, flags: &[&str]) -> String {
    let create = ["service", "create", "-d", "--name", name, "--stop-signal", "SIGKILL", "--restart-delay", "0s"];
    let _ = engine.docker(&[&create[..], flags, &[image, "sleep", "100000"]].concat()).ok();
    container_of(&engine.wait_running(name, 1, SOON)[0]).to_owned()
}

#[track_caller]
fn sh(engine: &Engine, container: &str, script: &str) -> String {
    engine.docker(&["exec", container, "sh", "-c", script]).ok()
}

#[track_caller]
fn inspect(engine: &Engine, kind: &str, name: &str) -> Value {
    serde_json::from_str(&engine.docker(&[kind, "inspect", name, "--format", "{{json .}}"]).ok()).unwrap()
}

/// All tasks of a service, also those that ended.
fn tasks_of(client: &Client, service: &str) -> Vec<Value> {
    let filter = format!("%7B%22service%22%3A%5B%22{service}%22%5D%7D");
    let answer = client.http("GET", &format!("/v1.41/tasks?filters={filter}"), None);
    answer.ok().and_then(|answer| answer.json().as_array().cloned()).unwrap_or_default()
}

fn volumes(engine: &Engine) -> Vec<String> {
    let names = engine.docker(&["volume", "ls", "-q"]).ok();
    names.lines().map(str::to_owned).collect()
}

/// The mount at a place inside, as `docker inspect` shows it.
#[track_caller]
fn mount_at(engine: &Engine, container: &str, destination: &str) -> Value {
    let container = inspect(engine, "container", container);
    let mounts = container["Mounts"].as_array().unwrap();
    mounts.iter().find(|mount| mount["Destination"] == destination).expect("it is mounted").clone()
}

/// An image with files at `/seed` that belong to somebody else.
fn import_seeded(engine: &Engine, name: &str, changes: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for folder in ["bin", "seed/below"] {
        std::fs::create_dir_all(path(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", path("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "cat", "stat", "ls", "touch", "id", "dd", "mount", "test", "grep", "df"] {
        std::os::unix::fs::symlink("busybox", path("bin").join(applet)).unwrap();
    }
    std::fs::write(path("seed/below/file"), "from the image").unwrap();
    chown(path("seed/below/file"), Some(65534), Some(12)).unwrap();
    std::fs::set_permissions(path("seed/below/file"), std::fs::Permissions::from_mode(0o640)).unwrap();
    chown(path("seed"), Some(7), Some(8)).unwrap();
    std::fs::set_permissions(path("seed"), std::fs::Permissions::from_mode(0o1770)).unwrap();
    let tar = Command::new("tar").arg("-C").arg(dir.path()).args(["-cf", "-", "."]).output().unwrap().stdout;
    let mut args = vec!["import", "-c", "ENV PATH=/bin", "-c", "CMD [\"/bin/sh\"]"];
    for change in changes {
        args.extend(["-c", change]);
    }
    args.extend(["-", name]);
    let _ = engine.docker_with(&args, &tar, &[]).ok();
}

#[test]
fn volumes_are_created_listed_inspected_and_pruned() {
    if missing() {
        return;
    }
    let engine = Engine::start(SKEP);
    for name in volumes(&engine) {
        engine.docker(&["volume", "rm", &name]);
    }
    assert_eq!(engine.docker(&["volume", "create", "--label", "a=b", "v1"]).ok(), "v1");
    assert_eq!(engine.docker(&["volume", "create", "v1"]).ok(), "v1", "there it is already");
    let anonymous = engine.docker(&["volume", "create"]).ok();
    assert_eq!(anonymous.len(), 64);
    let options = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m"];
    let _ = engine.docker(&[&["volume", "create"], &options[..], &["vt"]].concat()).ok();
    let v1 = inspect(&engine, "volume", "v1");
    assert_eq!((v1["Driver"].as_str(), v1["Scope"].as_str()), (Some("local"), Some("local")));
    assert!(v1["Mountpoint"].as_str().unwrap().ends_with("/volumes/v1/_data") && v1["Options"].is_null(), "{v1}");
    assert_eq!(v1["Labels"]["a"], "b");
    assert_eq!(inspect(&engine, "volume", "vt")["Options"]["o"], "size=1m");

    let listed = |filter: &str| engine.docker(&["volume", "ls", "-q", "--filter", filter]).ok();
    assert_eq!(listed("label=a=b"), "v1");
    assert_eq!(listed("name=v1"), "v1");
    assert_eq!(listed("driver=local").lines().count(), 3);
    assert_eq!((listed("dangling=true").lines().count(), listed("dangling=false")), (3, String::new()));
    for (args, text) in [
        (
            &["create", "-d", "nosuch", "v2"][..],
            "create v2: error looking up volume plugin nosuch: plugin \"nosuch\" not found",
        ),
        (&["create", "-o", "bogus=1", "vb"], "create vb: invalid option: \"bogus\""),
        (&["create", "-o", "type=tmpfs", "vb"], "missing required option: \"device\""),
        (&["create", "bad/name"], "includes invalid characters for a local volume name"),
        (&["create", "x"], "volume name is too short"),
        (&["inspect", "nosuch"], "get nosuch: no such volume"),
        (&["rm", "nosuch"], "get nosuch: no such volume"),
        (&["ls", "--filter", "bogus=1"], "nvalid filter 'bogus'"),
    ] {
        let answer = engine.docker(&[&["volume"], args].concat()).fails();
        assert!(answer.contains(text), "{args:?}: {answer}");
    }
    let _ = engine.docker(&["volume", "rm", "-f", "nosuch"]).ok();
    assert_eq!(engine.docker(&["volume", "rm", "vt"]).ok(), "vt");
    if engine.is_dockerd() {
        // Before version 23 it knows no anonymous volumes.
        let _ = engine.docker(&["volume", "prune", "-f"]).ok();
        return;
    }
    let text = engine.docker(&["volume", "prune", "-f"]).ok();
    assert!(text.contains(&anonymous) && !text.contains("v1"), "{text}");
    let text = engine.docker(&["volume", "prune", "-f", "-a", "--filter", "label!=a"]).ok();
    assert!(!text.contains("v1"), "{text}");
    let text = engine.docker(&["volume", "prune", "-f", "-a"]).ok();
    assert!(text.contains("v1"), "{text}");
    assert!(volumes(&engine).is_empty());
    let text = engine.docker(&["volume", "create", "--type", "block", "--scope", "single", "csi"]).fails();
    assert!(text.contains("cluster (CSI) is not supported"), "{text}");
}

#[test]
fn a_service_keeps_its_data_in_a_volume() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let mount = "type=volume,source=kept-{{.Service.Name}},target=/data,volume-label=of=web";
    let first = sleeper(&engine, "web", "busybox", &["--mount", mount]);
    assert_eq!(inspect(&engine, "volume", "kept-web")["Labels"]["of"], "web");
    let shown = mount_at(&engine, &first, "/data");
    let facts = ["Type", "Name", "Driver", "Mode", "Propagation"].map(|key| shown[key].as_str().unwrap_or("none"));
    assert_eq!((facts, &shown["RW"]), (["volume", "kept-web", "local", "z", ""], &Value::Bool(true)));
    let _ = sh(&engine, &first, "echo precious > /data/file");
    let text = engine.docker(&["volume", "rm", "kept-web"]).fails();
    assert!(text.contains(&format!("remove kept-web: volume is in use - [{first}]")), "{text}");
    let _ = engine.docker(&["kill", &first]).ok();
    wait_until("the task to be replaced", SOON, || {
        let tasks = tasks_of(&engine, "web");
        tasks.iter().any(|task| task["Status"]["State"] == "running" && container_of(task) != first)
    });
    let second = container_of(&engine.wait_running("web", 1, SOON)[0]).to_owned();
    assert_eq!(sh(&engine, &second, "cat /data/file"), "precious");
    let _ = engine.docker(&["service", "rm", "web"]).ok();
    wait_until("the volume to be free", SOON, || engine.docker(&["volume", "rm", "kept-web"]).code == 0);
    assert!(!volumes(&engine).contains(&"kept-web".to_owned()));
}

#[test]
fn new_volumes_get_the_image_s_files_and_anonymous_ones_go_with_the_task() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    import_seeded(&engine, "seeded:1", &["VOLUME /seed", "VOLUME /empty"]);
    let before = volumes(&engine);
    let facts = "stat -c '%a %u %g' /seed /seed/below/file; cat /seed/below/file";
    let expected = "1770 7 8\n640 65534 12\nfrom the image";
    let flags = ["--mount", "type=volume,source=named-seed,target=/named", "--mount", "type=volume,target=/anon"];
    let declared = sleeper(&engine, "declared", "seeded:1", &flags);
    assert_eq!(sh(&engine, &declared, facts), expected);
    let shown = mount_at(&engine, &declared, "/seed");
    assert_eq!((shown["Name"].as_str().unwrap().len(), shown["Mode"].as_str()), (64, Some("")));
    assert_eq!(mount_at(&engine, &declared, "/anon")["Mode"], "z");
    assert_eq!(volumes(&engine).len(), before.len() + 4, "two declared, one anonymous, one named");

    // A mount takes the place of what the image declares; without copying it stays empty.
    let flags = ["--mount", "type=volume,source=own-seed,target=/seed"];
    let own = sleeper(&engine, "own", "seeded:1", &flags);
    assert_eq!(sh(&engine, &own, facts), expected);
    let flags = ["--mount", "type=volume,source=no-seed,target=/seed,volume-nocopy"];
    let none = sleeper(&engine, "none", "seeded:1", &flags);
    assert_eq!(sh(&engine, &none, "ls /seed"), "");
    // What is there already stays as it is.
    let _ = sh(&engine, &own, "touch /seed/mine");
    let flags = ["--mount", "type=volume,source=own-seed,target=/bin/,readonly", "--mount", "type=tmpfs,target=/seed"];
    let create = ["service", "create", "-d", "--name", "other", "--restart-condition", "none"];
    let _ = engine.docker(&[&create[..], &flags, &["seeded:1", "/bin/sh"]].concat()).ok();
    wait_until("a task without programs to fail", SOON, || {
        tasks_of(&engine, "other").iter().any(|task| task["Status"]["State"] == "failed")
    });
    assert_eq!(sh(&engine, &own, "ls /seed"), "below\nmine");

    let _ = engine.docker(&["service", "rm", "declared", "own", "none", "other"]).ok();
    let mut named = before.clone();
    named.extend(["named-seed", "no-seed", "own-seed"].map(str::to_owned));
    named.sort_unstable();
    wait_until("anonymous volumes to go", SOON, || {
        let mut left = volumes(&engine);
        left.sort_unstable();
        left == named
    });
    for name in ["named-seed", "no-seed", "own-seed"] {
        wait_until("the volume to be free", SOON, || engine.docker(&["volume", "rm", name]).code == 0);
    }
}

#[test]
fn binds_and_tmpfs_are_mounted_as_asked() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "of the host").unwrap();
    let bind = format!("type=bind,source={},target=/host,readonly", dir.path().display());
    let tmpfs = "type=tmpfs,target=/mem,tmpfs-size=1m,tmpfs-mode=0700";
    let container = sleeper(&engine, "web", "busybox", &["--mount", &bind, "--mount", tmpfs]);
    assert_eq!(sh(&engine, &container, "cat /host/file"), "of the host");
    let text = engine.docker(&["exec", &container, "touch", "/host/new"]).fails();
    assert!(text.contains("Read-only file system"), "{text}");
    let shown = mount_at(&engine, &container, "/host");
    assert_eq!(
        (&shown["Type"], &shown["RW"], &shown["Propagation"]),
        (&"bind".into(), &false.into(), &"rprivate".into())
    );
    assert_eq!(sh(&engine, &container, "stat -c %a /mem"), "700");
    let text = engine.docker(&["exec", &container, "dd", "if=/dev/zero", "of=/mem/x", "bs=64k", "count=32"]).fails();
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(mount_at(&engine, &container, "/mem")["Type"], "tmpfs");

    let rejected = |name: &str, mount: &str, text: &str| {
        let create = ["service", "create", "-d", "--name", name, "--restart-condition", "none", "--mount", mount];
        let _ = engine.docker(&[&create[..], &["busybox", "sleep", "100"]].concat()).ok();
        wait_until(text, SOON, || {
            let tasks = tasks_of(&engine, name);
            let is_it = |task: &Value| task["Status"]["Err"].as_str().is_some_and(|error| error.contains(text));
            tasks.iter().any(|task| task["Status"]["State"] == "rejected" && is_it(task))
        });
    };
    let text = "invalid mount config for type \"bind\": bind source path does not exist: /no/such/source";
    rejected("lost", "type=bind,source=/no/such/source,target=/x", text);
    rejected(
        "plugin",
        "type=volume,source=nice,target=/x,volume-opt=bogus=1,volume-driver=local",
        "invalid option: \"bogus\"",
    );

    if engine.is_dockerd() {
        return;
    }
    for (mount, text) in [
        ("type=volume,source=v,target=relative", "invalid mount target, must be an absolute path: relative"),
        ("type=bind,source=/tmp,target=/", "destination can't be '/'"),
    ] {
        let text_given = engine.docker(&["service", "create", "-d", "--mount", mount, "busybox"]).fails();
        assert!(text_given.contains(text), "{text_given}");
    }
    let twice =
        ["service", "create", "-d", "--mount", "type=tmpfs,target=/a", "--mount", "type=volume,target=/a", "busybox"];
    assert!(engine.docker(&twice).fails().contains("duplicate mount point: /a"));
}

/// Unmounts when the test ends, however it does.
struct Mounted(PathBuf);

impl Mounted {
    fn on(path: &Path, flags: &[&str]) -> Self {
        std::fs::create_dir_all(path).unwrap();
        assert!(Command::new("mount").args(flags).arg(path).status().unwrap().success());
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn mounts_travel_as_their_propagation_says() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let Engine::Skep(daemon) = &engine else {
        return eprintln!("skipped: a real engine may live in a mount namespace of its own");
    };
    let source = daemon.setup().dir().join("source");
    let _base = Mounted::on(&source, &["-t", "tmpfs", "-o", "size=1m", "base"]);
    assert!(Command::new("mount").args(["--make-rshared"]).arg(&source).status().unwrap().success());
    let bind = |target: &str, more: &str| format!("type=bind,source={},target={target}{more}", source.display());
    let mounts = [
        bind("/private", ""),
        bind("/slave", ",bind-propagation=rslave"),
        bind("/shared", ",bind-propagation=rshared"),
    ];
    let flags: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount]).collect();
    let container = sleeper(&engine, "web", "busybox", &flags);
    assert_eq!(mount_at(&engine, &container, "/slave")["Propagation"], "rslave");
    let _later = Mounted::on(&source.join("later"), &["-t", "tmpfs", "later"]);
    std::fs::write(source.join("later/file"), "x").unwrap();
    assert_eq!(sh(&engine, &container, "ls /slave/later; ls /shared/later"), "file\nfile");
}

#[test]
fn what_is_mounted_on_use_survives_the_daemon_and_nothing_leaks() {
    if missing() {
        return;
    }
    let mut engine = Engine::with_swarm(SKEP);
    let Engine::Skep(daemon) = &mut engine else {
        return eprintln!("skipped: a real engine is not killed here");
    };
    let create = ["service", "create", "-d", "--stop-signal", "SIGKILL", "--restart-delay", "0s", "--name"];
    let options = "volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=1m";
    let mounts = [
        format!("type=volume,source=mem,target=/mem,{options}"),
        "type=volume,source=data,target=/part,volume-subpath=a/b".to_owned(),
        "type=volume,target=/anon".to_owned(),
    ];
    let _ = daemon.docker(&["volume", "create", "data"]).ok();
    let data = daemon.docker(&["volume", "inspect", "data", "--format", "{{.Mountpoint}}"]).ok();
    std::fs::create_dir_all(Path::new(&data).join("a/b")).unwrap();
    std::fs::write(Path::new(&data).join("a/b/inside"), "x").unwrap();
    let flags: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount]).collect();
    let command = ["web", "--replicas", "2"];
    let _ = daemon.docker(&[&create[..], &command, &flags, &["busybox", "sleep", "100000"]].concat()).ok();
    let tasks = daemon.wait_running("web", 2, SOON);
    let [first, second] = [&tasks[0], &tasks[1]].map(|task| container_of(task).to_owned());
    let exec = |daemon: &skep_conformance::Daemon, container: &str, script: &str| {
        daemon.docker(&["exec", container, "sh", "-c", script]).ok()
    };
    assert_eq!(exec(daemon, &first, "echo here > /mem/file; ls /part; df -k /mem | grep -c 1024"), "inside\n1");
    daemon.kill9_and_start();
    let after = daemon.wait_running("web", 2, SOON);
    assert!(after.iter().all(|task| [first.as_str(), &second].contains(&container_of(task))), "nothing was replaced");
    assert_eq!(exec(daemon, &second, "cat /mem/file; ls /part"), "here\ninside");
    // Removed while the daemon dies, and again.
    for _ in 0..3 {
        let _ = daemon.docker(&["kill", &first]);
        daemon.kill9_and_start();
    }
    let _ = daemon.wait_running("web", 2, SOON);
    let _ = daemon.docker(&["service", "rm", "web"]).ok();
    daemon.kill9_and_start();
    wait_until("everything to be gone", SOON, || daemon.docker(&["ps", "-aq"]).stdout.trim().is_empty());
    let left = daemon.docker(&["volume", "ls", "-q"]).ok();
    assert_eq!(left, "data\nmem", "anonymous volumes went with their tasks");
    for name in ["data", "mem"] {
        let _ = daemon.docker(&["volume", "rm", name]).ok();
    }
    wait_until("nothing to be left", SOON, || leftovers(daemon).is_empty());
    let root = daemon.setup().data_root().join("volumes");
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
}
