//! The stock docker client drives the daemon through every flow of a swarm of one node. Each case also runs against a real
//! engine (`SKEP_TEST_HOST`), but for what only skep does.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use serde_json::Value;
use skep_conformance::{ArchiveKind, Engine, busybox_archive, missing, wait_for, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);
const WEB: &str = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www";

/// Creates a service of sleeping tasks and waits until it runs.
#[track_caller]
fn sleeper(engine: &Engine, name: &str, flags: &[&str], replicas: usize) -> Vec<Value> {
    let command = ["busybox", "sleep", "100000"];
    let count = replicas.to_string();
    let create = ["service", "create", "-d", "--name", name, "--stop-signal", "SIGKILL", "--replicas", &count];
    let _ = engine.docker(&[&create[..], flags, &command].concat()).ok();
    engine.wait_running(name, replicas, SOON)
}

#[track_caller]
fn inspect(engine: &Engine, service: &str) -> Value {
    serde_json::from_str(&engine.docker(&["service", "inspect", service, "--format", "{{json .}}"]).ok()).unwrap()
}

fn container_of(task: &Value) -> &str {
    task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap()
}

#[test]
fn a_machine_becomes_a_swarm_and_leaves_it() {
    if missing() {
        return;
    }
    let engine = Engine::start(SKEP);
    for verb in [&["node", "ls"][..], &["service", "ls"], &["swarm", "join-token", "worker"]] {
        assert!(engine.docker(verb).fails().contains("This node is not a swarm manager"), "{verb:?}");
    }
    let text = engine.docker(&["swarm", "leave"]).fails();
    assert!(text.contains("This node is not part of a swarm"), "{text}");

    let init = ["swarm", "init", "--advertise-addr", "127.0.0.1", "--task-history-limit", "3"];
    let text = engine.docker(&init).ok();
    assert!(text.contains("is now a manager") && text.contains("SWMTKN-1-"), "{text}");
    assert!(engine.docker(&init).fails().contains("This node is already part of a swarm"));
    let format = "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.Managers}}";
    assert_eq!(engine.docker(&["info", "--format", format]).ok(), "active true 1 1");

    let worker = engine.docker(&["swarm", "join-token", "-q", "worker"]).ok();
    let manager = engine.docker(&["swarm", "join-token", "-q", "manager"]).ok();
    assert!(worker.starts_with("SWMTKN-1-") && worker.len() == manager.len() && worker != manager);
    let rotated = engine.docker(&["swarm", "join-token", "-q", "--rotate", "worker"]).ok();
    assert_ne!(rotated, worker);
    assert_eq!(engine.docker(&["swarm", "join-token", "-q", "worker"]).ok(), rotated);
    assert_eq!(engine.docker(&["swarm", "join-token", "-q", "manager"]).ok(), manager);

    let before = engine.get("/v1.41/swarm");
    assert_eq!(before["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"], 3);
    let _ = engine.docker(&["swarm", "update", "--task-history-limit", "7", "--cert-expiry", "2000h"]).ok();
    let after = engine.get("/v1.41/swarm");
    assert_eq!(after["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"], 7);
    assert_eq!(after["Spec"]["CAConfig"]["NodeCertExpiry"], 7_200_000_000_000_000_i64);
    assert!(after["Version"]["Index"].as_u64() > before["Version"]["Index"].as_u64());
    assert_eq!(after["ID"], before["ID"]);
    let stale = format!("/v1.41/swarm/update?version={}", before["Version"]["Index"]);
    let answer = engine.post(&stale, &after["Spec"]).unwrap();
    assert!(answer.message().contains("update out of sequence"), "{}", answer.text());

    assert!(engine.docker(&["swarm", "leave"]).fails().contains("Use `--force`"));
    let _ = engine.docker(&["swarm", "leave", "--force"]).ok();
    assert_eq!(engine.docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok(), "inactive");
    engine.swarm_init();
    assert_ne!(engine.get("/v1.41/swarm")["ID"], before["ID"]);
}

#[test]
fn the_node_is_listed_inspected_and_updated() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let row = engine.docker(&["node", "ls", "--format", "{{.Status}} {{.Availability}} {{.ManagerStatus}}"]).ok();
    assert_eq!(row, "Ready Active Leader");
    let id = engine.docker(&["node", "ls", "-q"]).ok();
    let me = engine.docker(&["node", "inspect", "self", "--format", "{{.ID}} {{.Spec.Role}} {{.Status.State}}"]).ok();
    assert_eq!(me, format!("{id} manager ready"));
    assert!(engine.docker(&["node", "inspect", "--pretty", "self"]).ok().contains("Leader:"));
    assert!(engine.docker(&["node", "inspect", "nosuch"]).fails().contains("node nosuch not found"));
    let by_prefix = engine.docker(&["node", "inspect", &id[..10], "--format", "{{.ID}}"]).ok();
    assert_eq!(by_prefix, id);

    let _ = engine.docker(&["node", "update", "--label-add", "zone=a", "--label-add", "ssd", &id]).ok();
    let _ = engine.docker(&["node", "update", "--label-rm", "ssd", &id]).ok();
    assert_eq!(engine.docker(&["node", "inspect", &id, "--format", "{{json .Spec.Labels}}"]).ok(), r#"{"zone":"a"}"#);
    assert_eq!(engine.docker(&["node", "ls", "-q", "--filter", "node.label=zone=a"]).ok(), id);
    assert_eq!(engine.docker(&["node", "ls", "-q", "--filter", "node.label=zone=b"]).ok(), "");
    assert!(
        engine.docker(&["node", "ls", "--filter", "bogus=1"]).fails().to_lowercase().contains("invalid filter 'bogus'")
    );
    assert!(
        engine.docker(&["node", "update", "--availability", "bogus", &id]).fails().contains("invalid Availability")
    );
    assert!(engine.docker(&["node", "demote", &id]).fails().contains("last manager"));
    assert!(engine.docker(&["node", "rm", &id]).fails().contains(&id));

    sleeper(&engine, "web", &["--constraint", "node.labels.zone==a"], 2);
    let rows = engine.docker(&["node", "ps", "--format", "{{.Name}} {{.DesiredState}}"]).ok();
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_unstable();
    assert_eq!(rows, ["web.1 Running", "web.2 Running"]);

    // Drained: the tasks end and wait for a node. Active again: they run.
    let _ = engine.docker(&["node", "update", "--availability", "drain", &id]).ok();
    wait_until("the drained node to be empty", SOON, || engine.docker(&["ps", "-q"]).stdout.trim().is_empty());
    let pending = || engine.docker(&["service", "ps", "web", "--no-trunc", "--filter", "desired-state=running"]).stdout;
    wait_until("the reason to be told", SOON, || pending().contains("no suitable node"));
    let _ = engine.docker(&["node", "update", "--availability", "active", &id]).ok();
    engine.wait_running("web", 2, SOON);
}

#[test]
fn images_come_from_archives_of_every_kind() {
    if missing() {
        return;
    }
    let engine = Engine::start(SKEP);
    for (kind, name) in [(ArchiveKind::Today, "kinds:today"), (ArchiveKind::Legacy, "kinds:legacy")] {
        let text = engine.docker_with(&["load"], &busybox_archive(name, kind), &[]).ok();
        assert!(text.ends_with(&format!("Loaded image: {name}")), "{kind:?}: {text}");
    }
    if !engine.is_dockerd() {
        let layout = busybox_archive("kinds:oci", ArchiveKind::OciLayout);
        let text = engine.docker_with(&["load"], &layout, &[]).ok();
        assert!(text.ends_with("Loaded image: kinds:oci"), "{text}");
        let _ = engine.docker(&["rmi", "kinds:oci"]).ok();
    }
    // The same content is the same image, whatever its archive is like.
    let ids = engine.docker(&["images", "-q", "--no-trunc", "kinds"]).ok();
    let ids: Vec<&str> = ids.lines().collect();
    assert!(ids.len() == 2 && ids[0] == ids[1] && ids[0].starts_with("sha256:"), "{ids:?}");
    let text = engine.docker_with(&["load"], b"this is no archive, and a rather long text that is none", &[]).fails();
    assert!(!text.is_empty());

    let _ = engine.docker(&["tag", "kinds:today", "registry.test:5000/other:1"]).ok();
    let format = "{{.Os}} {{json .Config.Cmd}} {{len .RootFS.Layers}} {{len .RepoTags}}";
    assert_eq!(engine.docker(&["image", "inspect", "kinds:today", "--format", format]).ok(), "linux [\"sh\"] 1 3");
    assert!(engine.docker(&["tag", "nosuch", "x:y"]).fails().contains("No such image: nosuch:latest"));
    assert!(engine.docker(&["image", "inspect", "nosuch"]).fails().to_lowercase().contains("no such image"));
    assert!(engine.docker(&["rmi", "nosuch"]).fails().contains("No such image: nosuch:latest"));
    let text = engine.docker(&["rmi", "registry.test:5000/other:1"]).ok();
    assert_eq!(text, "Untagged: registry.test:5000/other:1");
    let short = &ids[0]["sha256:".len()..][..12];
    assert!(engine.docker(&["rmi", short]).fails().contains("must be forced"), "two names are left");
    let text = engine.docker(&["rmi", "-f", short]).ok();
    assert!(text.contains("Untagged: kinds:legacy") && text.contains("Deleted: sha256:"), "{text}");
    assert_eq!(engine.docker(&["images", "-q", "kinds"]).ok(), "");

    // A file system alone becomes an image by import.
    let mut builder = tar_of(&[("hello.txt", b"hi")]);
    let text =
        engine.docker_with(&["import", "-c", "CMD [\"/bin/sh\"]", "-m", "made", "-", "fs:1"], &builder, &[]).ok();
    assert!(text.starts_with("sha256:"), "{text}");
    assert_eq!(engine.docker(&["image", "inspect", "fs:1", "--format", "{{json .Config.Cmd}}"]).ok(), "[\"/bin/sh\"]");
    builder.truncate(100);
    assert!(!engine.docker_with(&["import", "-", "fs:2"], &builder, &[]).fails().is_empty());
    let _ = engine.docker(&["rmi", "fs:1"]).ok();
    assert_eq!(engine.docker(&["images", "-q", "fs"]).ok(), "");
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let mut tar = std::process::Command::new("tar");
    tar.arg("-C").arg(dir.path()).args(["-cf", "-", "."]);
    tar.output().unwrap().stdout
}

#[test]
fn an_image_in_use_is_kept() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    sleeper(&engine, "web", &[], 1);
    let text = engine.docker(&["rmi", "busybox"]).fails();
    assert!(
        text.contains("is using its referenced image") || text.contains("is being used by running container"),
        "{text}"
    );
    engine.wait_running("web", 1, SOON);
}

#[test]
fn a_service_is_created_scaled_and_removed() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    // Without --detach the client shows the progress until the service has converged.
    let output = engine.docker(&[
        "service",
        "create",
        "--name",
        "web",
        "--stop-signal",
        "SIGKILL",
        "--replicas",
        "2",
        "busybox",
        "sleep",
        "100000",
    ]);
    let text = output.ok();
    assert!(text.contains("overall progress: 2 out of 2 tasks") && text.contains("converged"), "{text}");
    let id = text.lines().next().unwrap();
    assert!(skep_conformance::recording::is_id(id), "{text}");

    let format = "{{.ID}} {{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}";
    let row = engine.docker(&["service", "ls", "--format", format]).ok();
    assert_eq!(row, format!("{} web replicated 2/2 busybox:latest", &id[..12]));
    let rows =
        engine.docker(&["service", "ps", "web", "--format", "{{.Name}} {{.DesiredState}} {{.CurrentState}}"]).ok();
    assert!(rows.lines().count() == 2 && rows.lines().all(|row| row.contains(" Running Running ")), "{rows}");
    assert!(engine.docker(&["service", "inspect", "--pretty", "web"]).ok().contains("Replicas:\t2"));
    assert_eq!(inspect(&engine, &id[..8])["ID"], id, "found by prefix");

    let text = engine.docker(&["service", "create", "-d", "--name", "web", "busybox"]).fails();
    assert!(text.contains("name conflicts with an existing object: service web already exists"), "{text}");

    let _ = engine.docker(&["service", "scale", "-d", "web=5"]).ok();
    engine.wait_running("web", 5, SOON);
    let _ = engine.docker(&["service", "scale", "-d", "web=1"]).ok();
    engine.wait_running("web", 1, SOON);
    wait_until("four containers to go", SOON, || engine.docker(&["ps", "-q"]).stdout.lines().count() == 1);
    let _ = engine.docker(&["service", "scale", "-d", "web=0"]).ok();
    wait_until("the last container to go", SOON, || engine.docker(&["ps", "-q"]).stdout.trim().is_empty());
    assert_eq!(engine.docker(&["service", "ls", "--format", "{{.Replicas}}"]).ok(), "0/0");
    assert!(engine.docker(&["service", "scale", "-d", "nosuch=1"]).fails().contains("service nosuch not found"));
    let _ = engine.docker(&["service", "update", "-d", "--replicas", "2", "--label-add", "a=b", "web"]).ok();
    engine.wait_running("web", 2, SOON);
    assert_eq!(engine.docker(&["service", "ls", "-q", "--filter", "label=a=b"]).ok(), id[..12]);
    assert_eq!(engine.docker(&["service", "ls", "-q", "--filter", "name=nosuch"]).ok(), "");

    let text = engine.docker(&["service", "rm", "web", "nosuch"]).fails();
    assert!(text.contains("service nosuch not found"), "{text}");
    wait_until("the containers to go", SOON, || engine.docker(&["ps", "-aq"]).stdout.trim().is_empty());
    assert!(engine.docker(&["service", "inspect", "web"]).fails().contains("no such service: web"));
    wait_until("the tasks to go", SOON, || engine.get("/v1.41/tasks").as_array().is_some_and(Vec::is_empty));
}

#[test]
fn a_stale_update_loses() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    sleeper(&engine, "web", &[], 1);
    let service = engine.get("/v1.41/services/web");
    let mut spec = service["Spec"].clone();
    spec["Mode"]["Replicated"]["Replicas"] = 2.into();
    let path = format!("/v1.41/services/web/update?version={}", service["Version"]["Index"]);
    assert_eq!(engine.post(&path, &spec).unwrap().status, 200);
    let late = engine.post(&path, &spec).unwrap();
    assert_eq!(late.status, 500, "{}", late.text());
    assert!(late.message().contains("update out of sequence"), "{}", late.text());
    assert_eq!(engine.post("/v1.41/services/web/update", &spec).unwrap().status, 400);
    engine.wait_running("web", 2, SOON);
}

#[test]
fn every_supported_flag_of_service_create_reaches_the_container() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let dir = tempfile::tempdir().unwrap();
    let env_file = dir.path().join("env");
    std::fs::write(&env_file, "FROM_FILE=yes\n").unwrap();
    let env_file = env_file.to_string_lossy().into_owned();
    let flags = [
        "--env",
        "A=1",
        "--env",
        "B=two words",
        "--env-file",
        &env_file,
        "--label",
        "svc=1",
        "--container-label",
        "ctr=1",
        "--hostname",
        "h-{{.Task.Slot}}",
        "--user",
        "nobody",
        "--group",
        "10",
        "--workdir",
        "/tmp",
        "--entrypoint",
        "/bin/sleep",
        "--limit-cpu",
        "0.5",
        "--limit-memory",
        "64M",
        "--limit-pids",
        "50",
        "--reserve-cpu",
        "0.1",
        "--reserve-memory",
        "16M",
        "--constraint",
        "node.role==manager",
        "--placement-pref",
        "spread=node.labels.zone",
        "--replicas-max-per-node",
        "4",
        "--restart-condition",
        "on-failure",
        "--restart-delay",
        "1s",
        "--restart-max-attempts",
        "3",
        "--restart-window",
        "1m",
        "--stop-signal",
        "SIGKILL",
        "--stop-grace-period",
        "3s",
        "--no-resolve-image",
        "--isolation",
        "default",
        "--endpoint-mode",
        "vip",
        "--publish",
        "published=8085,target=80",
        "--with-registry-auth",
        "--init=false",
        "-q",
    ];
    let _ = engine
        .docker(&[&["service", "create", "-d", "--name", "all"], &flags[..], &["busybox", "100000"]].concat())
        .ok();
    let tasks = engine.wait_running("all", 1, SOON);
    let spec = &inspect(&engine, "all")["Spec"];
    let container = &spec["TaskTemplate"]["ContainerSpec"];
    assert_eq!(spec["Labels"]["svc"], "1");
    assert_eq!(container["Labels"]["ctr"], "1");
    assert_eq!(container["StopGracePeriod"], 3_000_000_000_i64);
    assert_eq!(spec["TaskTemplate"]["Resources"]["Limits"]["NanoCPUs"], 500_000_000);
    assert_eq!(spec["TaskTemplate"]["Resources"]["Limits"]["Pids"], 50);
    assert_eq!(spec["TaskTemplate"]["RestartPolicy"]["MaxAttempts"], 3);
    assert_eq!(spec["TaskTemplate"]["Placement"]["MaxReplicas"], 4);
    assert_eq!(spec["EndpointSpec"]["Ports"][0]["PublishedPort"], 8085);

    let id = container_of(&tasks[0]);
    let script = "id -u; id -G; pwd; hostname; echo $A-$B-$FROM_FILE; cat /proc/1/cmdline | head -c 10";
    let text = engine.docker(&["exec", id, "sh", "-c", script]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "65534", "{text}");
    assert!(lines[1].split(' ').any(|group| group == "10"), "{text}");
    assert_eq!(&lines[2..5], ["/tmp", "h-1", "1-two words-yes"], "{text}");
    assert!(lines[5].contains("/bin/sleep"), "{text}");
    let shown: Value = serde_json::from_str(&engine.docker(&["inspect", id, "--format", "{{json .}}"]).ok()).unwrap();
    assert_eq!(shown["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(shown["HostConfig"]["NanoCpus"], 500_000_000);
    assert_eq!(shown["HostConfig"]["PidsLimit"], 50);
    assert_eq!(shown["Config"]["User"], "nobody");
    assert_eq!(shown["Config"]["WorkingDir"], "/tmp");
    assert_eq!(shown["Config"]["StopSignal"], "SIGKILL");
    assert_eq!(shown["Config"]["Labels"]["com.docker.swarm.service.name"], "all");
    let memory = std::fs::read_to_string(format!("/proc/{}/cgroup", shown["State"]["Pid"])).unwrap();
    assert!(memory.contains(id), "{memory}");
}

#[test]
fn confinement_and_name_resolution_reach_the_container() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let flags = [
        "--read-only",
        "--cap-drop",
        "NET_RAW",
        "--cap-add",
        "SYS_PTRACE",
        "--ulimit",
        "nofile=100:200",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--host",
        "other:10.1.2.3",
        "--dns",
        "10.9.8.7",
        "--dns-search",
        "example.test",
        "--dns-option",
        "timeout:3",
    ];
    // Older engines than API 1.46 do not know it.
    let newer: &[&str] = if engine.is_dockerd() { &[] } else { &["--oom-score-adj", "100"] };
    let tasks = sleeper(&engine, "confined", &[&flags[..], newer].concat(), 1);
    let inside = |script: &str| engine.docker(&["exec", container_of(&tasks[0]), "sh", "-c", script]).ok();
    // Docker's default capabilities without NET_RAW (bit 13), with SYS_PTRACE (bit 19).
    let usual = 0xa804_25fb_u64;
    let expected = format!("{:016x}", usual & !(1 << 13) | 1 << 19);
    let capabilities = inside("grep CapEff /proc/1/status");
    assert!(capabilities.contains(&expected), "{capabilities} is not {expected}");
    let limits = inside("grep 'open files' /proc/1/limits");
    assert_eq!(limits.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"], "{limits}");
    assert_eq!(inside("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    if !engine.is_dockerd() {
        assert_eq!(inside("cat /proc/1/oom_score_adj").trim(), "100");
    }
    assert!(inside("touch /x 2>&1; echo $?").contains("Read-only file system"));
    assert!(inside("cat /etc/hosts").lines().any(|line| line.split_whitespace().eq(["10.1.2.3", "other"])));
    let names = inside("cat /etc/resolv.conf");
    for part in ["nameserver 10.9.8.7", "search example.test", "timeout:3"] {
        assert!(names.contains(part), "{names} lacks {part}");
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    if engine.is_dockerd() {
        return eprintln!("skipped: a real engine has all of it");
    }
    let cases: &[(&[&str], &str)] = &[
        (&["--mode", "replicated-job"], "replicated-job"),
        (&["--mode", "global-job"], "global-job"),
        (&["--mount", "type=cluster,source=v,target=/v"], "cluster"),
        (&["--mount", "type=npipe,source=v,target=/v"], "npipe"),
        (&["--mount", "type=image,source=busybox,target=/v"], "image"),
        (&["--credential-spec", "file://x.json"], "--credential-spec"),
    ];
    for (flags, name) in cases {
        let text = engine.docker(&[&["service", "create", "-d"], *flags, &["busybox"]].concat()).fails();
        assert!(text.contains(name) && text.contains("not supported"), "{flags:?}: {text}");
        assert!(!text.contains("unknown flag"), "{flags:?}: {text}");
    }
    assert_eq!(engine.docker(&["service", "ls", "-q"]).ok(), "", "nothing of it was half done");
    for args in [
        &["swarm", "update", "--autolock"][..],
        &["swarm", "ca", "--rotate", "--quiet"],
        &["network", "create", "-d", "overlay", "--opt", "encrypted", "net"],
        &["network", "create", "--ipv6", "--subnet", "fd00::/64", "net"],
        &["secret", "create", "--driver", "vault", "token"],
        &["run", "--gpus", "all", "busybox", "true"],
        &["commit", "nothing"],
        &["swarm", "join", "--token", "SWMTKN-1-x-y", "127.0.0.1:2377"],
    ] {
        let text = engine.docker(args).fails();
        assert!(!text.contains("page not found") && !text.contains("panicked") && text.len() > 20, "{args:?}: {text}");
    }
}

#[test]
fn wrong_requests_are_refused_in_dockers_words() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let _ = engine
        .docker(&["service", "create", "-d", "--name", "web", "--publish", "8080:80", "busybox", "sleep", "1000"])
        .ok();
    let long = "x".repeat(64);
    let cases: &[(&[&str], &str)] = &[
        (&["--name", "bad name"], "name must be valid as a DNS name component"),
        (&["--name", &long], "name must be 63 characters or fewer"),
        (&["--constraint", "bogus"], "constraint expected one operator from ==, !="),
        (&["--publish", "8080:80"], "port '8080' is already in use by service 'web'"),
        (&["--limit-cpu", "0.0000001"], "invalid cpu value 1e-07: Must be at least 0.001"),
        (&["--limit-memory", "1"], "invalid memory value 1: Must be at least 4MiB"),
        (&["--restart-condition", "bogus"], "invalid RestartCondition: \"bogus\""),
        (
            &["--endpoint-mode", "dnsrr", "--publish", "81:80"],
            "port published with ingress mode can't be used with dnsrr mode",
        ),
    ];
    for (flags, part) in cases {
        let text = engine.docker(&[&["service", "create", "-d"], *flags, &["busybox"]].concat()).fails();
        assert!(text.contains(part), "{flags:?}: {text}");
    }
    let text = engine.docker(&["service", "create", "-d", "BAD IMAGE"]).fails();
    assert!(text.contains("\"BAD IMAGE\" is not a valid repository/tag"), "{text}");
}

#[test]
fn containers_are_listed_inspected_killed_and_replaced() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let tasks = sleeper(&engine, "web", &["--restart-delay", "0s"], 2);
    let rows = engine.docker(&["ps", "--no-trunc", "--format", "{{.ID}} {{.Image}} {{.Names}} {{.State}}"]).ok();
    for task in &tasks {
        let name = format!("web.{}.{}", task["Slot"], task["ID"].as_str().unwrap());
        let row = format!("{} busybox:latest {name} running", container_of(task));
        assert!(rows.contains(&row), "{row}\n{rows}");
    }
    let id = container_of(&tasks[0]);
    assert_eq!(
        engine.docker(&["inspect", &id[..12], "--format", "{{.State.Status}} {{.State.Pid}}"]).ok(),
        format!("running {}", tasks[0]["Status"]["ContainerStatus"]["PID"])
    );
    let filter = format!("label=com.docker.swarm.task.id={}", tasks[0]["ID"].as_str().unwrap());
    assert_eq!(engine.docker(&["ps", "-q", "--no-trunc", "--filter", &filter]).ok(), id);
    assert!(engine.docker(&["inspect", "nosuch"]).fails().to_lowercase().contains("no such object: nosuch"));
    assert!(engine.docker(&["kill", "-s", "BOGUS", id]).fails().to_lowercase().contains("invalid signal: bogus"));

    let _ = engine.docker(&["kill", id]).ok();
    wait_until("a replacement", SOON, || {
        let now = engine.running_tasks("web").unwrap_or_default();
        now.len() == 2 && now.iter().all(|task| container_of(task) != id)
    });
    let list = wait_for("the history", SOON, || {
        let list = engine.docker(&["service", "ps", "web", "--no-trunc"]).stdout;
        if list.contains("task: non-zero exit (137)") { Ok(list) } else { Err(list) }
    });
    assert_eq!(list.unwrap().lines().count(), 4);
    let text = engine.docker(&["kill", id]).fails();
    assert!(text.contains("is not running") || text.contains("No such container"), "{text}");
}

#[test]
fn programs_run_in_containers() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let tasks = sleeper(&engine, "web", &["--env", "A=1"], 1);
    let id = container_of(&tasks[0]);
    let exec = |flags: &[&str], command: &[&str], input: &[u8]| {
        engine.docker_with(&[&["exec"], flags, &[id], command].concat(), input, &[])
    };
    assert_eq!(exec(&[], &["echo", "from exec"], b"").ok(), "from exec");
    let output = exec(&[], &["sh", "-c", "echo e >&2; echo o; exit 5"], b"");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (5, "o\n", "e\n"));
    let input = "0123456789abcdef\n".repeat(20_000);
    assert_eq!(exec(&["-i"], &["cat"], input.as_bytes()).stdout.len(), input.len());
    let text =
        exec(&["-e", "Q=9", "-w", "/tmp", "-u", "nobody"], &["sh", "-c", "echo $A $Q $(pwd) $(id -u)"], b"").ok();
    assert_eq!(text, "1 9 /tmp 65534");
    let output = exec(&[], &["nosuchcmd"], b"");
    assert!(output.code == 126 || output.code == 127, "{output}");
    assert!(format!("{}{}", output.stdout, output.stderr).contains("nosuchcmd"), "{output}");
    let _ = exec(&["-d"], &["sh", "-c", "echo done > /tmp/detached"], b"").ok();
    wait_until("the detached program to end", SOON, || exec(&[], &["cat", "/tmp/detached"], b"").stdout == "done\n");
    assert!(engine.docker(&["exec", "nosuch", "true"]).fails().contains("No such container: nosuch"));
    assert_eq!(exec(&[], &["sh", "-c", "kill -9 $$"], b"").code, 137);
}

#[test]
fn logs_are_told_by_service_task_and_container() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    // The two streams are read apart: without a pause their order is nobody's promise.
    let script = "echo out1; usleep 200000; echo err1 >&2; usleep 200000; echo out2; sleep 100000";
    let _ = engine.docker(&["service", "create", "-d", "--name", "lg", "busybox", "sh", "-c", script]).ok();
    let tasks = engine.wait_running("lg", 1, SOON);
    let (task, id) = (tasks[0]["ID"].as_str().unwrap(), container_of(&tasks[0]));
    wait_until("three lines", SOON, || {
        let output = engine.docker(&["logs", id]);
        output.stdout == "out1\nout2\n" && output.stderr == "err1\n"
    });
    let output = engine.docker(&["service", "logs", "lg"]);
    assert!(output.stdout.lines().count() == 2 && output.stdout.starts_with("lg.1."), "{output}");
    assert!(output.stdout.contains("| out1") && output.stderr.contains("| err1"), "{output}");
    assert_eq!(engine.docker(&["service", "logs", "--raw", "--tail", "1", "lg"]).ok(), "out2");
    assert_eq!(engine.docker(&["service", "logs", "--raw", task]).stdout, "out1\nout2\n");
    assert_eq!(engine.docker(&["logs", "--tail", "1", id]).ok(), "out2");
    let stamped = engine.docker(&["logs", "-t", id]).ok();
    assert!(stamped.lines().all(|line| line.starts_with("20") && line.contains("Z out")), "{stamped}");
    assert_eq!(engine.docker(&["logs", "--since", "1h", "--until", "1s", "nosuch"]).code, 1);
    assert!(engine.docker(&["service", "logs", "nosuch"]).fails().contains("no such task or service: nosuch"));

    // Followed, until the service is removed.
    let mut follow = engine.docker_command(&["service", "logs", "--raw", "-f", "lg"]);
    let mut child = follow.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut lines = std::io::BufReader::new(&mut pipe);
        let mut text = String::new();
        while !text.contains("later") {
            if std::io::BufRead::read_line(&mut lines, &mut text).unwrap_or(0) == 0 {
                break;
            }
        }
        text
    });
    let _ = engine.docker(&["exec", id, "sh", "-c", "echo later > /proc/1/fd/1"]).ok();
    wait_until("the line to be followed", SOON, || reader.is_finished());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(reader.join().unwrap(), "out1\nout2\nlater\n");
}

#[test]
fn an_ingress_port_reaches_every_task() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    if engine.is_dockerd() {
        return eprintln!("skipped: the routing mesh of a real engine needs IPVS");
    }
    let create =
        ["service", "create", "-d", "--name", "web", "--replicas", "3", "-p", "8080:80", "busybox", "sh", "-c", WEB];
    let _ = engine.docker(&create).ok();
    let tasks = engine.wait_running("web", 3, SOON);
    let mut hosts: Vec<String> = tasks.iter().map(|task| container_of(task)[..12].to_owned()).collect();
    hosts.sort();
    let answered = wait_for("an answer of every task", SOON, || {
        let mut seen: Vec<String> = (0..12).filter_map(|_| engine.web_get("127.0.0.1:8080")).collect();
        seen.sort();
        seen.dedup();
        if seen == hosts { Ok(()) } else { Err(format!("{seen:?} of {hosts:?}")) }
    });
    answered.unwrap();
    let ports = engine.docker(&["service", "ls", "--format", "{{.Ports}}"]).ok();
    assert_eq!(ports, "*:8080->80/tcp");
    let _ = engine.docker(&["service", "scale", "-d", "web=1"]).ok();
    wait_until("one task to be left", SOON, || engine.docker(&["ps", "-q"]).stdout.lines().count() == 1);
    for _ in 0..10 {
        assert!(engine.web_get("127.0.0.1:8080").is_some(), "only tasks that run get traffic");
    }
    let _ = engine.docker(&["service", "rm", "web"]).ok();
    wait_until("the port to be closed", SOON, || engine.web_get("127.0.0.1:8080").is_none());
    // A port without a number gets one, and is free again when its service is gone.
    let _ = engine.docker(&["service", "create", "-d", "--name", "any", "-p", "80", "busybox", "sh", "-c", WEB]).ok();
    let port = inspect(&engine, "any")["Endpoint"]["Ports"][0]["PublishedPort"].as_u64();
    let port = port.filter(|port| *port >= 30000).or_else(|| {
        wait_until("a port", SOON, || {
            inspect(&engine, "any")["Endpoint"]["Ports"][0]["PublishedPort"].as_u64() >= Some(30000)
        });
        inspect(&engine, "any")["Endpoint"]["Ports"][0]["PublishedPort"].as_u64()
    });
    wait_until("an answer", SOON, || engine.web_get(&format!("127.0.0.1:{}", port.unwrap())).is_some());
}

#[test]
fn a_host_port_reaches_the_task_of_this_node() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let publish = "published=8081,target=80,mode=host";
    let create = ["service", "create", "-d", "--name", "web", "--publish", publish, "busybox", "sh", "-c", WEB];
    let _ = engine.docker(&create).ok();
    let tasks = engine.wait_running("web", 1, SOON);
    wait_until("an answer", SOON, || {
        engine.web_get("127.0.0.1:8081").as_deref() == Some(&container_of(&tasks[0])[..12])
    });
    let ports = engine.docker(&["ps", "--format", "{{.Ports}}"]).ok();
    assert!(ports.contains("0.0.0.0:8081->80/tcp"), "{ports}");
    // A second task has no place: the port is taken.
    let _ = engine.docker(&["service", "scale", "-d", "web=2"]).ok();
    let reason = || engine.docker(&["service", "ps", "web", "--no-trunc"]).stdout;
    wait_until("the reason to be told", SOON, || reason().contains("host-mode port already in use"));
    engine.wait_running("web", 1, SOON);
    // Without a number the engine chooses one.
    let create = ["service", "create", "-d", "--name", "any", "--publish", "target=80,mode=host"];
    let _ = engine.docker(&[&create[..], &["busybox", "sh", "-c", WEB]].concat()).ok();
    let port = wait_for("a port to be reported", SOON, || {
        let tasks = engine.running_tasks("any")?;
        let port = tasks.first().and_then(|task| task["Status"]["PortStatus"]["Ports"][0]["PublishedPort"].as_u64());
        port.ok_or_else(|| format!("{tasks:?}"))
    });
    let port = port.unwrap();
    wait_until("an answer", SOON, || engine.web_get(&format!("127.0.0.1:{port}")).is_some());
}

#[test]
fn restart_policies_hold() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let create = |name: &str, flags: &[&str], script: &str| {
        let create = ["service", "create", "-d", "--name", name, "--restart-delay", "100ms"];
        let _ = engine.docker(&[&create[..], flags, &["busybox", "sh", "-c", script]].concat()).ok();
    };
    create("none", &["--restart-condition", "none"], "exit 3");
    create("failure", &["--restart-condition", "on-failure", "--restart-max-attempts", "2"], "exit 3");
    create("success", &["--restart-condition", "on-failure"], "exit 0");
    create("any", &["--restart-condition", "any", "--restart-max-attempts", "2"], "exit 0");
    create("nocmd", &["--restart-condition", "none", "--entrypoint", "/nosuchbinary"], "x");
    for (service, states) in [
        ("none", &["Failed"; 1][..]),
        ("failure", &["Failed"; 3]),
        ("success", &["Complete"]),
        ("any", &["Complete"; 3]),
        ("nocmd", &["Rejected"]),
    ] {
        let format = "{{.CurrentState}}";
        let list = || engine.docker(&["service", "ps", service, "--format", format]).stdout;
        let found = wait_for(service, SOON, || {
            let text = list();
            let ok = text.lines().count() == states.len()
                && text
                    .lines()
                    .zip(states)
                    .all(|(row, state)| row.starts_with(state) || (*state == "Rejected" && row.starts_with("Failed")));
            if ok { Ok(()) } else { Err(text) }
        });
        found.unwrap_or_else(|error| panic!("{service}: {error}"));
    }
    let errors = engine.docker(&["service", "ps", "failure", "--no-trunc", "--format", "{{.Error}}"]).ok();
    assert!(errors.lines().all(|row| row.contains("task: non-zero exit (3)")), "{errors}");
    let errors = engine.docker(&["service", "ps", "nocmd", "--no-trunc", "--format", "{{.Error}}"]).ok();
    assert!(errors.contains("/nosuchbinary") && errors.contains("no such file or directory"), "{errors}");
    assert_eq!(engine.docker(&["service", "ls", "--filter", "name=failure", "--format", "{{.Replicas}}"]).ok(), "0/1");
}

#[test]
fn what_fits_nowhere_waits_and_says_why() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    for (name, flags, part) in [
        ("zone", ["--constraint", "node.labels.zone==nowhere"], "scheduling constraints not satisfied"),
        ("memory", ["--reserve-memory", "900G"], "insufficient resources"),
        ("image", ["--no-resolve-image", "--label=x"], "nosuch"),
    ] {
        let image = if name == "image" { "registry.invalid:5000/nosuch:1" } else { "busybox" };
        let create = ["service", "create", "-d", "--name", name, "--restart-condition", "none"];
        let _ = engine.docker(&[&create[..], &flags, &[image, "sleep", "1000"]].concat()).ok();
        let list = || engine.docker(&["service", "ps", name, "--no-trunc"]).stdout;
        let told = wait_for(part, SOON, || if list().to_lowercase().contains(part) { Ok(()) } else { Err(list()) });
        told.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let id = engine.docker(&["node", "ls", "-q"]).ok();
    let _ = engine.docker(&["node", "update", "--label-add", "zone=nowhere", &id]).ok();
    engine.wait_running("zone", 1, SOON);
}

#[test]
fn the_client_verbs_of_skep_do_the_same() {
    if missing() {
        return;
    }
    let engine = Engine::start(SKEP);
    if engine.is_dockerd() {
        return eprintln!("skipped: skep's own verbs");
    }
    engine.load_busybox();
    let host = format!("unix://{}", engine.socket().display());
    let skep = |args: &[&str]| {
        skep_conformance::run(
            std::process::Command::new(SKEP).args(args).env("SKEP_HOST", &host),
            b"",
            Duration::from_secs(30),
        )
    };
    let _ = skep(&["swarm", "init", "--advertise-addr", "127.0.0.1"]).ok();
    wait_until("the node to be ready", SOON, || skep(&["node", "ls"]).stdout.contains("Ready"));
    assert!(skep(&["image", "ls"]).ok().contains("busybox"));
    let obedient = "trap 'exit 0' TERM; sleep 100000 & wait";
    let create = ["service", "create", "--name", "web", "--replicas", "2"];
    let _ = skep(&[&create[..], &["busybox", "sh", "-c", obedient]].concat()).ok();
    engine.wait_running("web", 2, SOON);
    assert!(skep(&["service", "ls"]).ok().contains("2/2"));
    assert_eq!(skep(&["ps", "--quiet"]).ok().lines().count(), 2);
    assert!(skep(&["service", "ps", "web"]).ok().contains("Running"));
    let _ = skep(&["service", "scale", "web=1"]).ok();
    engine.wait_running("web", 1, SOON);
    let _ = skep(&["service", "rm", "web"]).ok();
    wait_until("the container to go", SOON, || skep(&["ps", "--quiet", "--all"]).ok().is_empty());
    assert!(skep(&["service", "rm", "web"]).fails().contains("service web not found"));
    assert!(skep(&["version"]).ok().contains("1.50"));
    let _ = skep(&["swarm", "leave", "--force"]).ok();
}
