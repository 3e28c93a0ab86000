//! What a daemon has on this machine and nobody needs. Used where everything was removed, or where all that is known is named.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cgroup::{cgroup_dirs, processes_below};
use crate::daemon::{Daemon, mounts_below};

/// Everything of the daemon on this machine that belongs to none of the containers it lists: processes, shims, cgroups,
/// mounts, links and nft elements in its network, pins, folders of containers and snapshots. One line each; empty is good.
#[must_use]
pub fn leftovers(daemon: &Daemon) -> Vec<String> {
    let setup = daemon.setup();
    let listed = daemon.http("GET", "/v1.41/containers/json?all=1", None).map(|answer| answer.json());
    let Ok(Value::Array(listed)) = listed else {
        return vec![format!("the daemon does not list containers: {listed:?}")];
    };
    let known: Vec<&str> = listed.iter().filter_map(|container| container["Id"].as_str()).collect();
    let is_known = |text: &str| known.iter().any(|id| text.contains(id));
    let mut found = Vec::new();
    let mut add = |kind: &str, text: String| {
        if !is_known(&text) {
            found.push(format!("{kind} {text}"));
        }
    };

    for process in processes_below(setup.cgroup()) {
        add("process", format!("{} {} {}", process.pid, process.cgroup, process.command));
    }
    for pid in daemon.shims() {
        add("shim", format!("{pid} {}", crate::cgroup::command_line(pid)));
    }
    for dir in cgroup_dirs(setup.cgroup()) {
        if !dir.ends_with(setup.cgroup().trim_start_matches('/')) {
            add("cgroup", dir.display().to_string());
        }
    }
    for mount in mounts_below(setup.dir()) {
        if mount != setup.exec_root().join("netns") {
            add("mount", mount.display().to_string());
        }
    }
    for folder in [
        setup.data_root().join("containers"),
        setup.data_root().join("image/snapshots"),
        setup.data_root().join("network/endpoints"),
        setup.exec_root().join("netns"),
    ] {
        for entry in names(&folder) {
            add("file", folder.join(entry).display().to_string());
        }
    }
    for name in names(&setup.data_root().join("image/tmp")) {
        add("half-made image", name);
    }
    let running = listed.iter().filter(|container| container["State"] == "running").count();
    let ports = links(daemon);
    if ports.len() > running {
        add("links", format!("{running} containers run, the network has {ports:?}"));
    }
    if running == 0 {
        let rules = daemon.in_netns(&["nft", "list", "ruleset"]).stdout;
        for line in rules.lines().filter(|line| line.contains("dnat to") || line.contains("elements = {")) {
            add("nft", line.trim().to_owned());
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Links in the daemon's network that are neither the loopback nor a bridge.
fn links(daemon: &Daemon) -> Vec<String> {
    let list = daemon.in_netns(&["ip", "-json", "-details", "link"]).stdout;
    let Ok(Value::Array(links)) = serde_json::from_str(&list) else { return vec![format!("unreadable: {list}")] };
    links
        .iter()
        .filter(|link| link["ifname"] != "lo" && link["linkinfo"]["info_kind"] != "bridge")
        .filter_map(|link| link["ifname"].as_str().map(str::to_owned))
        .collect()
}
