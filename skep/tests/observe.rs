//! The stock docker client watches: events, usage, processes, execs with a terminal, files copied in and out, disk usage. Each case
//! also runs against a real engine (`SKEP_TEST_HOST`), but for what only skep does.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use skep_conformance::{Engine, missing, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);

/// An engine with an image; what an earlier test made is removed before.
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

fn run(engine: &Engine, name: &str, more: &[&str]) -> String {
    engine.docker(&[&["run", "-d", "--name", name], more, &["busybox", "sleep", "100000"]].concat()).ok()
}

fn write(path: &Path, text: &str) {
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn events_are_told_with_filters_and_times() {
    if missing() {
        return;
    }
    let engine = engine();
    let id = run(&engine, "told", &["--label", "a=b"]);
    assert_eq!(engine.docker(&["exec", "told", "true"]).ok(), "");
    let _ = engine.docker(&["rm", "-f", "told"]).ok();
    let told = |more: &[&str]| -> Vec<Value> {
        let args = ["events", "--since", "10m", "--until", "0s", "--format", "{{json .}}"];
        let text = engine.docker(&[&args[..], more].concat()).ok();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of = format!("container={id}");
    let wait = || told(&["--filter", &of, "--filter", "event=destroy"]).len() == 1;
    wait_until("the removal to be told", SOON, wait);
    let events = told(&["--filter", &of]);
    let actions: Vec<&str> = events.iter().map(|event| event["Action"].as_str().unwrap()).collect();
    for wanted in ["create", "start", "exec_create: true ", "exec_start: true ", "exec_die", "kill", "die", "destroy"] {
        assert!(actions.contains(&wanted), "{wanted} in {actions:?}");
    }
    let die = &told(&["--filter", &of, "--filter", "event=die"])[0];
    let attributes = &die["Actor"]["Attributes"];
    assert_eq!(
        (&attributes["exitCode"], &attributes["name"], &attributes["a"]),
        (&"137".into(), &"told".into(), &"b".into())
    );
    assert_eq!((&die["scope"], &die["from"], &die["id"]), (&"local".into(), &"busybox".into(), &id.as_str().into()));
    assert_eq!(told(&["--filter", &of, "--filter", "event=exec_start"]).len(), 1);
    assert!(told(&["--filter", &of, "--filter", "type=image"]).is_empty());
    assert!(!told(&["--filter", "label=a=b", "--filter", "container=told"]).is_empty());
    assert!(told(&["--filter", "label=a=c"]).is_empty());
}

#[test]
fn events_of_services_are_told() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    engine.load_busybox();
    engine.docker(&["service", "rm", "seen"]);
    let create =
        ["service", "create", "--detach", "--no-resolve-image", "--name", "seen", "busybox", "sleep", "100000"];
    let id = engine.docker(&create).ok();
    let _ = engine.docker(&["service", "scale", "--detach", "seen=2"]).ok();
    let _ = engine.docker(&["service", "rm", "seen"]).ok();
    let told = |action: &str| -> Vec<Value> {
        let (of, event) = (format!("service={id}"), format!("event={action}"));
        let args = ["events", "--since", "10m", "--until", "0s", "--format", "{{json .}}", "--filter", "scope=swarm"];
        let text = engine.docker(&[&args[..], &["--filter", &of, "--filter", &event]].concat()).ok();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    wait_until("the removal to be told", SOON, || told("remove").len() == 1);
    assert_eq!(told("create")[0]["Actor"]["Attributes"]["name"], "seen");
    let scaled = told("update").into_iter().any(|event| {
        let attributes = &event["Actor"]["Attributes"];
        attributes["replicas.old"] == "1" && attributes["replicas.new"] == "2"
    });
    assert!(scaled, "{:?}", told("update"));
}

#[test]
fn usage_processes_and_changes_are_shown() {
    if missing() {
        return;
    }
    let engine = engine();
    let id = run(&engine, "used", &["--memory", "64m"]);
    let line = engine.docker(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "used"]).ok();
    assert!(line.starts_with("used 1 ") && line.ends_with("/ 64MiB"), "{line}");
    let stats = engine.get(&format!("/containers/{id}/stats?stream=0&one-shot=1"));
    assert!(stats["cpu_stats"]["system_cpu_usage"].as_u64().unwrap() > 0, "{stats}");
    assert!(stats["networks"]["eth0"]["rx_bytes"].is_u64() && stats["memory_stats"]["stats"].is_object(), "{stats}");

    let top = engine.docker(&["top", "used"]).ok();
    let lines: Vec<Vec<&str>> = top.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!((lines.len(), &lines[1][7..]), (2, &["sleep", "100000"][..]), "{top}");
    let pid = engine.docker(&["inspect", "used", "--format", "{{.State.Pid}}"]).ok();
    let top = engine.docker(&["top", "used", "-o", "pid,args"]).ok();
    assert_eq!(top.split_whitespace().collect::<Vec<_>>(), ["PID", "COMMAND", &pid, "sleep", "100000"]);

    let script = "echo x >/new; mkdir /d; echo y >/d/f; rm /bin/busybox.no 2>/dev/null; true";
    let _ = engine.docker(&["exec", "used", "sh", "-c", script]).ok();
    let changes = engine.docker(&["diff", "used"]).ok();
    let mut changes: Vec<&str> = changes.lines().collect();
    changes.sort_unstable();
    assert_eq!(changes, ["A /d", "A /d/f", "A /new"]);
    let sizes = engine.docker(&["ps", "-s", "--filter", "name=used", "--format", "{{.Size}}"]).ok();
    assert!(sizes.starts_with("4B (virtual "), "{sizes}");
    let _ = engine.docker(&["stop", "-t", "0", "used"]).ok();
    assert!(engine.docker(&["top", "used"]).fails().contains("is not running"));
    let _ = engine.docker(&["rm", "used"]).ok();
}

#[test]
fn execs_have_terminals_and_go_on_detached() {
    if missing() {
        return;
    }
    let engine = engine();
    run(&engine, "ran", &[]);
    // The client wants a terminal of its own for -t.
    let exec = engine.docker_command(&[
        "exec",
        "-it",
        "-e",
        "Q=9",
        "-w",
        "/tmp",
        "ran",
        "sh",
        "-c",
        "tty; stty size; echo $Q; pwd; exit 7",
    ]);
    let mut script = Command::new("script");
    script.args(["-qec", &shell_words(&exec), "/dev/null"]).stdin(Stdio::null());
    for (key, value) in exec.get_envs() {
        if let Some(value) = value {
            script.env(key, value);
        }
    }
    let output = script.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/") && text.contains("9\r\n/tmp\r\n"), "{text:?}");
    assert_eq!(output.status.code(), Some(7), "{text:?}");

    let _ = engine.docker(&["exec", "-d", "ran", "sh", "-c", "echo done >/tmp/done; sleep 1000"]).ok();
    let done = || engine.docker(&["exec", "ran", "cat", "/tmp/done"]).stdout.trim() == "done";
    wait_until("a detached exec to write", SOON, done);
    assert_eq!(engine.docker_with(&["exec", "-i", "ran", "cat"], b"piped", &[]).ok(), "piped");
    assert_eq!(engine.docker(&["exec", "-u", "12:34", "ran", "id", "-u"]).ok(), "12");
    // The client prints what comes on the stream, and ends as the exec did.
    let missing = engine.docker(&["exec", "ran", "nosuchcmd"]);
    assert!(missing.stdout.contains("executable file not found in $PATH"), "{missing}");
    assert!([126, 127].contains(&missing.code), "{missing}");

    let create = serde_json::json!({"Cmd": ["true"], "AttachStdout": true});
    let exec = engine.post("/containers/ran/exec", &create).unwrap();
    let exec: Value = serde_json::from_slice(&exec.body).unwrap();
    let exec = exec["Id"].as_str().unwrap();
    let start = serde_json::json!({"Detach": true});
    assert_eq!(engine.post(&format!("/exec/{exec}/start"), &start).unwrap().status, 200);
    wait_until("the exec to end", SOON, || engine.get(&format!("/exec/{exec}/json"))["Running"] == false);
    let shown = engine.get(&format!("/exec/{exec}/json"));
    assert_eq!((&shown["ExitCode"], &shown["ProcessConfig"]["entrypoint"]), (&0.into(), &"true".into()));
    let _ = engine.docker(&["rm", "-f", "ran"]).ok();
}

/// A command line for a shell.
fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect::<Vec<_>>().join(" ")
}

#[test]
fn files_are_copied_in_and_out_and_links_do_not_lead_out() {
    if missing() {
        return;
    }
    let engine = engine();
    let here = tempfile::tempdir().unwrap();
    let path = |name: &str| here.path().join(name).to_string_lossy().into_owned();
    write(Path::new(&path("f.txt")), "hello\n");
    std::fs::create_dir_all(path("dir/sub")).unwrap();
    write(Path::new(&path("dir/sub/g")), "deep");
    let volume = ["-v", &format!("{}:/mnt/here", here.path().display())];
    run(&engine, "copied", &volume);
    let _ = engine.docker(&["create", "--name", "still", "busybox", "true"]).ok();
    for name in ["copied", "still"] {
        let _ = engine.docker(&["cp", &path("f.txt"), &format!("{name}:/tmp/f.txt")]).ok();
        let _ = engine.docker(&["cp", &path("dir"), &format!("{name}:/opt")]).ok();
        let back = path(&format!("back-{name}"));
        let _ = engine.docker(&["cp", &format!("{name}:/tmp/f.txt"), &back]).ok();
        assert_eq!(std::fs::read_to_string(&back).unwrap(), "hello\n");
        let tree = path(&format!("tree-{name}"));
        let _ = engine.docker(&["cp", &format!("{name}:/opt"), &tree]).ok();
        assert_eq!(std::fs::read_to_string(format!("{tree}/sub/g")).unwrap(), "deep");
        let text = engine.docker(&["cp", &format!("{name}:/nosuch"), &path("x")]).fails();
        assert!(text.contains(&format!("Could not find the file /nosuch in container {name}")), "{text}");
    }
    assert_eq!(engine.docker(&["exec", "copied", "cat", "/tmp/f.txt"]).ok(), "hello");
    // What is mounted is seen.
    let _ = engine.docker(&["cp", "copied:/mnt/here/f.txt", &path("mounted")]).ok();
    assert_eq!(std::fs::read_to_string(path("mounted")).unwrap(), "hello\n");

    // A container makes links to the machine's files: they lead to its own.
    let secret = path("secret");
    write(Path::new(&secret), "of the machine");
    let script = format!(
        "ln -s {0} /tmp/link; ln -s {1} /tmp/out; ln -s ../../../../../../.. /tmp/up",
        secret,
        here.path().display()
    );
    let _ = engine.docker(&["exec", "copied", "sh", "-c", &script]).ok();
    assert!(engine.docker(&["cp", "-L", "copied:/tmp/link", &path("stolen")]).code > 0);
    assert!(!Path::new(&path("stolen")).exists());
    engine.docker(&["cp", &path("f.txt"), "copied:/tmp/out/planted"]);
    assert!(!Path::new(&path("planted")).exists());
    engine.docker(&["cp", &path("f.txt"), &format!("copied:/tmp/up{}/planted", here.path().display())]);
    assert!(!Path::new(&path("planted")).exists());

    let _ = engine.docker(&["export", "-o", &path("all.tar"), "copied"]).ok();
    let list = Command::new("tar").args(["-tf", &path("all.tar")]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.lines().any(|line| line == "tmp/f.txt") && list.lines().any(|line| line.starts_with("bin/")),
        "{list}"
    );
    assert!(!list.contains("mnt/here/f.txt") && !list.contains("proc/1"), "mounts are no files of its own: {list}");
    let _ = engine.docker(&["rm", "-f", "copied", "still"]).ok();
}

#[test]
fn disk_usage_and_lists_are_counted() {
    if missing() {
        return;
    }
    let engine = engine();
    run(&engine, "counted", &["--label", "k=v"]);
    let _ = engine.docker(&["create", "--name", "made", "busybox", "true"]).ok();
    let lines = engine.docker(&["system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}"]).ok();
    assert!(lines.lines().any(|line| line == "Containers|2|1"), "{lines}");
    assert!(lines.lines().any(|line| line.starts_with("Images|") && line.ends_with("|1")), "{lines}");
    assert!(engine.docker(&["system", "df", "-v"]).ok().contains("counted"));
    let ps = |filters: &[&str]| {
        let mut args = vec!["ps", "-a", "--format", "{{.Names}}"];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        let mut names: Vec<String> = engine.docker(&args).ok().lines().map(str::to_owned).collect();
        names.sort_unstable();
        names.join(" ")
    };
    for (filters, names) in [
        (&["ancestor=busybox"][..], "counted made"),
        (&["status=created"], "made"),
        (&["label=k=v"], "counted"),
        (&["name=ount"], "counted"),
        (&["before=made"], "counted"),
        (&["since=counted"], "made"),
        (&["is-task=true"], ""),
        (&["exited=0"], ""),
        (&["health=none", "name=made"], "made"),
        (&["status=created", "status=running"], "counted made"),
    ] {
        assert_eq!(ps(filters), names, "{filters:?}");
    }
    assert_eq!(engine.docker(&["ps", "-n", "1", "--format", "{{.Names}}"]).ok(), "made");
    assert!(engine.docker(&["ps", "--filter", "bogus=1"]).fails().to_lowercase().contains("invalid filter 'bogus'"));
    let _ = engine.docker(&["rm", "-f", "counted", "made"]).ok();
}
