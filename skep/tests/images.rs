//! Images and registries with the stock docker client: a registry with passwords (Debian's docker-registry), one with tokens that
//! cuts every connection, and what services make of them. Registries live in the daemon's network namespace.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skep_conformance::{Daemon, Setup, missing, wait_for, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(30);
/// `alice`, `wonder`.
const PASSWORDS: &str = "alice:$2y$05$M1IQD9Oto9NStKF5y09uhey0Yo.dL.b8lN.GCmzJzkCRNgjMcaOWK\n";
const HERE: &str = "127.0.0.1:5000";

/// A registry that ends with the test.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn started(setup: &Setup, program: &[&str]) -> Registry {
    let mut command: Command = setup.in_netns("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(program);
    Registry(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Debian's registry with a password, its content in the setup's folder.
fn debian(daemon: &Daemon) -> Registry {
    let dir = daemon.setup().dir();
    std::fs::write(dir.join("passwords"), PASSWORDS).unwrap();
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {0}/registry\nhttp:\n  addr: {HERE}\nlog:\n  level: error\n\
         auth:\n  htpasswd:\n    realm: test\n    path: {0}/passwords\n",
        dir.display()
    );
    std::fs::write(dir.join("registry.yml"), config).unwrap();
    let registry = started(daemon.setup(), &["docker-registry", "serve", dir.join("registry.yml").to_str().unwrap()]);
    answers(daemon, "no basic auth credentials");
    registry
}

/// The registry with tokens.
fn with_tokens(daemon: &Daemon) -> Registry {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/registry.py");
    let folder = daemon.setup().dir().to_str().unwrap().to_owned();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let registry = started(daemon.setup(), &["python3", script, "5000", &folder, architecture]);
    answers(daemon, "unauthorized");
    let _ = daemon.docker(&["login", "-u", "alice", "-p", "wonder", HERE]).ok();
    registry
}

#[track_caller]
fn answers(daemon: &Daemon, text: &str) {
    let asked = || {
        let answer = daemon.http("GET", &format!("/distribution/{HERE}/none:1/json"), None);
        let message = answer.map_err(|error| error.to_string())?.message();
        if message.contains(text) { Ok(()) } else { Err(message) }
    };
    wait_for("the registry", SOON, asked).unwrap_or_else(|error| panic!("{error}"));
}

fn skipped() -> bool {
    if missing() {
        return true;
    }
    let is_there = Path::new("/usr/bin/docker-registry").exists() && Path::new("/usr/bin/python3").exists();
    if !is_there {
        eprintln!("skipped: needs docker-registry and python3");
    }
    !is_there
}

fn with_swarm() -> Daemon {
    let daemon = Setup::new(SKEP).start();
    let archive = skep_conformance::busybox_archive("busybox:latest", skep_conformance::ArchiveKind::Today);
    let _ = daemon.docker_with(&["load", "-q"], &archive, &[]).ok();
    daemon.swarm_init();
    daemon
}

fn id_of(daemon: &Daemon, name: &str) -> String {
    daemon.docker(&["image", "inspect", name, "--format", "{{.Id}}"]).ok()
}

/// What the store has half made.
fn half_made(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.setup().data_root().join("image/tmp")).map_or(0, Iterator::count)
}

#[track_caller]
fn rejected(daemon: &Daemon, service: &str, text: &str) {
    let errors = || {
        let errors = daemon.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", service]).stdout;
        if errors.contains(text) { Ok(()) } else { Err(errors) }
    };
    wait_for("the task to be rejected", SOON, errors).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn images_go_to_a_registry_and_services_run_from_there() {
    if skipped() {
        return;
    }
    let daemon = with_swarm();
    let registry = debian(&daemon);
    let name = &format!("{HERE}/app:1");
    let id = id_of(&daemon, "busybox");
    let _ = daemon.docker(&["tag", "busybox", name]).ok();
    assert!(daemon.docker(&["push", name]).fails().contains("no basic auth credentials"));
    let wrong = daemon.docker(&["login", "-u", "alice", "-p", "wrong", HERE]).fails();
    assert!(wrong.contains("failed with status: 401 Unauthorized"), "{wrong}");
    assert!(daemon.docker(&["login", "-u", "alice", "-p", "wonder", HERE]).ok().contains("Login Succeeded"));

    let pushed = daemon.docker(&["push", name]).ok();
    let digest = pushed.split("digest: ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert!(daemon.docker(&["push", name]).ok().contains("Layer already exists"));
    let _ = daemon.docker(&["rmi", name, "busybox"]).ok();
    assert_eq!(daemon.docker(&["images", "-q"]).ok(), "");

    let pulled = daemon.docker(&["pull", name]).ok();
    for line in ["1: Pulling from app", "Pull complete", &format!("Digest: {digest}"), "Downloaded newer image for"] {
        assert!(pulled.contains(line), "{pulled}");
    }
    assert!(daemon.docker(&["pull", name]).ok().contains("Image is up to date for 127.0.0.1:5000/app:1"));
    assert_eq!(id_of(&daemon, name), id);
    let pinned = format!("{HERE}/app@{digest}");
    assert_eq!(daemon.docker(&["image", "inspect", name, "--format", "{{index .RepoDigests 0}}"]).ok(), pinned);
    assert!(daemon.docker(&["pull", "-q", &pinned]).ok().contains(&digest));
    assert!(daemon.docker(&["pull", "-a", &format!("{HERE}/app")]).ok().contains("up to date"));
    let missing = daemon.docker(&["pull", &format!("{HERE}/app:2")]).fails();
    assert!(
        missing.contains("manifest for 127.0.0.1:5000/app:2 not found: manifest unknown: manifest unknown"),
        "{missing}"
    );

    // The client pins the digest, and the node pulls with what the client knows of the registry.
    let _ = daemon.docker(&["rmi", "-f", &id]).ok();
    let create = ["service", "create", "-d", "--with-registry-auth", "--stop-signal", "SIGKILL"];
    let sleep = ["sleep", "100000"];
    let _ = daemon.docker(&[&create[..], &["--name", "pinned", name], &sleep].concat()).ok();
    let image =
        daemon.docker(&["service", "inspect", "pinned", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}"]);
    assert_eq!(image.ok(), format!("{name}@{digest}"));
    daemon.wait_running("pinned", 1, SOON);
    assert_eq!(id_of(&daemon, &pinned), id);
    let _ = daemon.docker(&["pull", "-q", name]).ok();

    // Not at the registry, not here.
    let nowhere = &format!("{HERE}/app:nowhere");
    let _ = daemon.docker(&[&create[..], &["--name", "nowhere", nowhere], &sleep].concat()).ok();
    rejected(&daemon, "nowhere", "No such image: 127.0.0.1:5000/app:nowhere");
    let _ = daemon.docker(&["service", "rm", "nowhere"]).ok();

    // The registry is gone: what is here serves, and what is not is told at once.
    drop(registry);
    let _ = daemon.docker(&[&create[..], &["--name", "local", name], &sleep].concat()).ok();
    daemon.wait_running("local", 1, SOON);
    let down = daemon.docker(&["pull", name]).fails();
    assert!(
        down.contains("Get \"http://127.0.0.1:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused"),
        "{down}"
    );
    let _ = daemon.docker(&["service", "rm", "local", "pinned"]).ok();
    wait_until("the containers to go", SOON, || daemon.docker(&["ps", "-aq"]).stdout.trim().is_empty());

    // Saved and loaded again: the same image, under the same names.
    let archive = daemon.setup().dir().join("saved.tar");
    let archive = archive.to_str().unwrap();
    let _ = daemon.docker(&["tag", name, "other:1"]).ok();
    let _ = daemon.docker(&["save", "-o", archive, name, "other"]).ok();
    assert!(daemon.docker(&["save", "-o", "/dev/null/x", "nosuch"]).code != 0);
    assert!(daemon.docker(&["image", "prune", "-f"]).ok().contains("Total reclaimed space: 0B"));
    let pruned = daemon.docker(&["image", "prune", "-af", "--filter", "label=nosuch"]).ok();
    assert!(pruned.contains("Total reclaimed space: 0B"), "{pruned}");
    let pruned = daemon.docker(&["image", "prune", "-af"]).ok();
    assert!(pruned.contains("untagged: other:1") && pruned.contains(&format!("deleted: {id}")), "{pruned}");
    assert_eq!(daemon.docker(&["images", "-q"]).ok(), "");
    let loaded = daemon.docker(&["load", "-i", archive]).ok();
    assert_eq!(
        loaded.lines().collect::<Vec<_>>(),
        [format!("Loaded image: {name}"), "Loaded image: other:1".to_owned()]
    );
    assert_eq!((id_of(&daemon, name), id_of(&daemon, "other:1")), (id.clone(), id));
    assert_eq!(half_made(&daemon), 0);

    // The client asks in whole seconds.
    let since = ["events", "--since", "1", "--until", "0s", "--filter", "type=image", "--format", "{{.Action}}"];
    let told = || {
        let events = daemon.docker(&since).ok();
        let all = ["load", "tag", "push", "untag", "delete", "pull", "save", "prune"];
        match all.iter().find(|action| !events.lines().any(|line| line == **action)) {
            None => Ok(()),
            Some(action) => Err(format!("{action} in {events}")),
        }
    };
    wait_for("all events", SOON, told).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn layers_arrive_over_cut_connections_with_tokens_and_for_the_right_platform() {
    if skipped() {
        return;
    }
    let mut daemon = Setup::new(SKEP).start();
    let _registry = with_tokens(&daemon);
    let folder = daemon.setup().dir().to_owned();
    let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let name = &format!("{HERE}/app:1");

    // Two at the same time share what they download, piece by piece.
    let pulls: Vec<Child> =
        (0..2).map(|_| daemon.docker_command(&["pull", name]).stdout(Stdio::null()).spawn().unwrap()).collect();
    for mut pull in pulls {
        assert!(pull.wait().unwrap().success());
    }
    let format = "{{.Architecture}} {{len .RootFS.Layers}} {{.Config.Labels.test}}";
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(daemon.docker(&["image", "inspect", name, "--format", format]).ok(), format!("{host} 3 1"));
    let log_text = log();
    let mut requests: Vec<&str> = log_text.lines().collect();
    assert!(requests.iter().filter(|line| !line.ends_with(" 0")).count() >= 4, "nothing was cut: {log_text}");
    // A configuration is small and may be asked for twice; a piece of a layer is not.
    requests.retain(|line| !line.ends_with(" 0"));
    let count = requests.len();
    requests.sort_unstable();
    requests.dedup();
    assert_eq!(requests.len(), count, "{log_text}");

    let other = daemon.docker(&["pull", "--platform", "linux/s390x", name]).fails();
    assert!(other.contains("no matching manifest for linux/s390x in the manifest list entries"), "{other}");
    let known = daemon.docker(&["run", "--rm", name, "/bin/busybox", "echo", "runs"]);
    assert_eq!(known.ok(), "runs");

    // A client that goes away takes its half-made image along, and so does a daemon that is killed.
    let slow = &format!("{HERE}/slow:1");
    let in_the_middle = |daemon: &Daemon| {
        let before = log().lines().count();
        let pull = daemon.docker_command(&["pull", slow]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The configuration and the layer that stops.
        wait_until("the layer to be asked for", SOON, || log().lines().count() >= before + 2 && half_made(daemon) > 0);
        pull
    };
    let mut pull = in_the_middle(&daemon);
    pull.kill().unwrap();
    pull.wait().unwrap();
    wait_until("the download to be swept", SOON, || half_made(&daemon) == 0);
    let mut pull = in_the_middle(&daemon);
    daemon.kill9_and_start();
    pull.wait().unwrap();
    assert_eq!(half_made(&daemon), 0);
    assert!(daemon.docker(&["image", "inspect", slow]).fails().contains("No such image"));
    std::fs::write(folder.join("go"), "").unwrap();
    let pulled = daemon.docker(&["pull", slow]).ok();
    assert!(pulled.contains("Already exists") && pulled.contains("Pull complete"), "{pulled}");
}

/// A small disk, gone with the test.
struct Disk<'a>(&'a Path);

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_done() {
    if skipped() {
        return;
    }
    let setup = Setup::new(SKEP);
    let root = setup.data_root();
    std::fs::create_dir_all(&root).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"]).arg(&root).status().unwrap();
    assert!(mounted.success());
    let _disk = Disk(&root);
    let daemon = setup.start();
    let _registry = with_tokens(&daemon);
    let refused = daemon.docker(&["pull", &format!("{HERE}/big:1")]).fails();
    assert!(refused.contains("No space left on device"), "{refused}");
    assert_eq!((half_made(&daemon), daemon.docker(&["images", "-q"]).ok().as_str()), (0, ""));

    let large = vec![b'x'; 60 << 20];
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(large.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "file", large.as_slice()).unwrap();
    let archive = archive.into_inner().unwrap();
    for command in [&["load"][..], &["import", "-"]] {
        let refused = daemon.docker_with(command, &archive, &[]).fails();
        // A client that is still sending when the answer comes may only see that nobody reads any more.
        assert!(["No space left on device", "broken pipe"].iter().any(|text| refused.contains(text)), "{refused}");
        wait_until("the rest to be swept", SOON, || half_made(&daemon) == 0);
    }
    let _ = daemon.docker(&["pull", &format!("{HERE}/app:1")]).ok();
    drop(daemon);
}
