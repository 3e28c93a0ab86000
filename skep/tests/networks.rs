//! The stock docker client makes networks, of the machine and of the swarm, and puts containers and tasks on them.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use skep_conformance::{ArchiveKind, Daemon, Setup, busybox_archive, missing, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);
const WEB: &str = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www";

fn load(daemon: &Daemon) {
    let archive = busybox_archive("busybox:latest", ArchiveKind::Today);
    let _ = daemon.docker_with(&["load"], &archive, &[]).ok();
}

/// The addresses of a container's links, by link.
fn addresses(daemon: &Daemon, container: &str) -> Vec<(String, String)> {
    let text = daemon.docker(&["exec", container, "busybox", "ip", "-o", "-4", "addr"]).ok();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(((*words.get(1)?).to_owned(), words.get(3)?.split('/').next()?.to_owned()))
    };
    text.lines().filter_map(row).filter(|(link, _)| link != "lo").collect()
}

#[test]
fn networks_of_the_machine_hold_containers_apart_and_outlast_the_daemon() {
    if missing() {
        return;
    }
    let mut daemon = Setup::new(SKEP).start();
    load(&daemon);
    let names = daemon.docker(&["network", "ls", "--format", "{{.Name}}/{{.Driver}}/{{.Scope}}"]).ok();
    for name in ["bridge/bridge/local", "host/host/local", "none/null/local"] {
        assert!(names.contains(name), "{names}");
    }
    let subnet = ["--subnet", "10.44.0.0/24", "--ip-range", "10.44.0.128/25", "--gateway", "10.44.0.1"];
    let _ = daemon.docker(&[&["network", "create", "--label", "a=b"], &subnet[..], &["back"]].concat()).ok();
    let _ = daemon.docker(&["network", "create", "front"]).ok();
    let text = daemon.docker(&["network", "create", "back"]).fails();
    assert!(text.contains("network with name back already exists"), "{text}");
    let text = daemon.docker(&["network", "create", "--subnet", "10.44.0.0/16", "other"]).fails();
    assert!(text.contains("Pool overlaps with other one on this address space"), "{text}");
    let text = daemon.docker(&["network", "create", "-d", "nosuch", "other"]).fails();
    assert!(text.contains("plugin \"nosuch\" not found"), "{text}");
    let text = daemon.docker(&["network", "rm", "bridge"]).fails();
    assert!(text.contains("bridge is a pre-defined network and cannot be removed"), "{text}");

    let run = ["run", "-d", "--stop-signal", "KILL", "--name"];
    let sleep = ["busybox", "sleep", "100000"];
    let _ = daemon.docker(&[&run[..], &["c1", "--network", "back", "--ip", "10.44.0.9"], &sleep].concat()).ok();
    let _ = daemon.docker(&[&run[..], &["c2", "--network", "back"], &sleep].concat()).ok();
    assert_eq!(addresses(&daemon, "c1"), [("eth0".to_owned(), "10.44.0.9".to_owned())]);
    assert_eq!(addresses(&daemon, "c2"), [("eth0".to_owned(), "10.44.0.128".to_owned())]);
    let text = daemon.docker(&["network", "rm", "back"]).fails();
    assert!(text.contains("has active endpoints"), "{text}");

    let _ = daemon.docker(&["network", "connect", "front", "c1"]).ok();
    assert_eq!(addresses(&daemon, "c1").len(), 2);
    daemon.kill9_and_start();
    assert_eq!(addresses(&daemon, "c1").len(), 2);
    let format = "{{len .Containers}} {{index .Labels \"a\"}} {{(index .IPAM.Config 0).Subnet}}";
    assert_eq!(daemon.docker(&["network", "inspect", "back", "--format", format]).ok(), "2 b 10.44.0.0/24");
    let _ = daemon.docker(&["network", "disconnect", "front", "c1"]).ok();
    assert_eq!(addresses(&daemon, "c1").len(), 1);
    let text = daemon.docker(&["network", "disconnect", "front", "c1"]).fails();
    assert!(text.contains("is not connected to network front"), "{text}");

    let own = daemon.docker(&["run", "--rm", "--network", "none", "busybox", "busybox", "ip", "-o", "link"]).ok();
    assert_eq!(own.lines().count(), 1, "{own}");
    let host = daemon.docker(&["run", "--rm", "--network", "host", "busybox", "busybox", "ip", "-o", "link"]).ok();
    assert!(host.contains("skep0"), "{host}");
    let with =
        daemon.docker(&["run", "--rm", "--network", "container:c1", "busybox", "busybox", "ip", "-o", "addr"]).ok();
    assert!(with.contains("10.44.0.9"), "{with}");

    let _ = daemon.docker(&["rm", "-f", "c1", "c2"]).ok();
    let pruned = daemon.docker(&["network", "prune", "-f"]).ok();
    assert!(pruned.contains("back") && pruned.contains("front"), "{pruned}");
    let links = daemon.in_netns(&["ip", "-br", "link"]).ok();
    assert!(!links.contains("br-"), "{links}");
}

#[test]
fn tasks_meet_on_overlays_and_leave_by_the_gateway_bridge() {
    if missing() {
        return;
    }
    let mut daemon = Setup::new(SKEP).start();
    load(&daemon);
    daemon.swarm_init();
    let format = "{{.Scope}} {{.Ingress}} {{(index .IPAM.Config 0).Subnet}}";
    assert_eq!(daemon.docker(&["network", "inspect", "ingress", "--format", format]).ok(), "swarm true 10.0.0.0/24");
    let _ = daemon.docker(&["network", "create", "-d", "overlay", "one"]).ok();
    let _ = daemon.docker(&["network", "create", "-d", "overlay", "--internal", "two"]).ok();
    let _ = daemon.docker(&["network", "create", "local"]).ok();
    let create = ["service", "create", "-d", "--stop-signal", "SIGKILL", "--name"];
    let web = ["busybox", "sh", "-c", WEB];
    let text = daemon.docker(&[&create[..], &["x", "--network", "local"], &web].concat()).fails();
    assert!(text.contains("network local not found"), "{text}");
    let flags = ["a", "--network", "one", "--replicas", "2", "-p", "8080:80"];
    let _ = daemon.docker(&[&create[..], &flags, &web].concat()).ok();
    let _ = daemon.docker(&[&create[..], &["b", "--network", "two"], &web].concat()).ok();
    let _ = daemon.docker(&[&create[..], &["h", "--network", "host"], &["busybox", "sleep", "100000"]].concat()).ok();
    let tasks = daemon.wait_running("a", 2, SOON);
    daemon.wait_running("b", 1, SOON);
    daemon.wait_running("h", 1, SOON);
    let service = daemon.get("/v1.41/services/a");
    assert_eq!(service["Endpoint"]["VirtualIPs"].as_array().unwrap().len(), 2);
    assert_eq!(tasks[0]["NetworksAttachments"].as_array().unwrap().len(), 2);

    let container =
        |task: &serde_json::Value| task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap().to_owned();
    let (first, second) = (container(&tasks[0]), container(&tasks[1]));
    let links = addresses(&daemon, &first);
    assert_eq!(links.len(), 3, "routing mesh, overlay, gateway bridge: {links:?}");
    let other = addresses(&daemon, &second)[1].1.clone();
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {other} 80");
    let answer = daemon.docker(&["exec", &first, "sh", "-c", &ask]).stdout;
    assert!(answer.contains(&second[..12]), "{answer:?}");
    let b = container(&daemon.running_tasks("b").unwrap()[0]);
    assert_eq!(addresses(&daemon, &b).len(), 1, "an internal network has no way out");
    let answer = daemon.docker(&["exec", &b, "sh", "-c", &ask]).stdout;
    assert!(!answer.contains(&second[..12]), "overlays are apart: {answer:?}");

    let text = daemon.docker(&["network", "rm", "one"]).fails();
    assert!(text.contains("code = FailedPrecondition") && text.contains("is in use by service"), "{text}");
    daemon.kill9_and_start();
    assert_eq!(daemon.wait_running("a", 2, SOON).len(), 2);
    assert_eq!(addresses(&daemon, &first), links);
    let _ = daemon.docker(&["service", "rm", "a", "b", "h"]).ok();
    wait_until("the tasks to be gone", SOON, || daemon.docker(&["ps", "-aq"]).stdout.trim().is_empty());
    let _ = daemon.docker(&["network", "rm", "one", "two", "local"]).ok();
    let links = daemon.in_netns(&["ip", "-br", "link"]).ok();
    assert!(!links.contains("ov-") && !links.contains("skep0gw"), "{links}");
    let _ = daemon.docker(&["network", "create", "-d", "overlay", "again"]).ok();
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    assert_eq!(daemon.docker(&["network", "inspect", "again", "--format", format]).ok(), "10.0.1.0/24");
}
