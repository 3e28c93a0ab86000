//! What is mounted in a container: Docker's default file systems, then what was asked for.

use std::path::Path;

use serde_json::{Value, json};

use crate::cgroup::Cgroups;
use crate::config::{BindPropagation, ContainerConfig, Mount, Namespace};

/// All mounts, in the order they have to be made. The text of an error is for people.
pub(super) fn mounts(config: &ContainerConfig) -> Result<Vec<Value>, String> {
    let mut wanted: Vec<&Mount> = config.mounts.iter().collect();
    // What is above comes first.
    wanted.sort_by_key(|mount| target(mount).components().count());
    let mut all: Vec<Value> = defaults(config);
    all.retain(|default| wanted.iter().all(|mount| default["destination"].as_str() != target(mount).to_str()));
    for mount in wanted {
        all.push(one(mount)?);
    }
    Ok(all)
}

fn target(mount: &Mount) -> &std::path::Path {
    match mount {
        Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target,
    }
}

fn defaults(config: &ContainerConfig) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &str| {
        let options: Vec<_> = options.split(',').collect();
        json!({"destination": destination, "type": kind, "source": source, "options": options})
    };
    let shm_size = config.shm_size;
    let mut all = vec![
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ];
    if config.privileged {
        all.push(mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev"));
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev"));
    } else {
        all.push(mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"));
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro,nosuid,noexec,nodev"));
    }
    if config.ipc == Namespace::Host {
        all.push(mount("/dev/mqueue", "bind", "/dev/mqueue", "rbind,nosuid,noexec,nodev"));
        all.push(mount("/dev/shm", "bind", "/dev/shm", "rbind,nosuid,noexec,nodev"));
        all.retain(|mount| {
            mount["type"] != "bind" || mount["source"].as_str().is_some_and(|it| Path::new(it).exists())
        });
    } else {
        all.push(mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"));
        all.push(mount("/dev/shm", "tmpfs", "shm", &format!("nosuid,noexec,nodev,mode=1777,size={shm_size}")));
    }
    all
}

fn one(mount: &Mount) -> Result<Value, String> {
    let path = target(mount);
    let inside = path.is_absolute() && path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !inside || path.parent().is_none() {
        return Err(format!("invalid mount target, must be an absolute path: {}", path.display()));
    }
    match mount {
        Mount::Bind { source, target, read_only, propagation, non_recursive, writable_below } => {
            if !source.is_absolute() {
                return Err(format!("invalid bind mount source, must be an absolute path: {}", source.display()));
            }
            if !source.exists() {
                return Err(format!("invalid bind mount source, source path not found: {}", source.display()));
            }
            let mut options = vec![if *non_recursive { "bind" } else { "rbind" }];
            options.push(match propagation {
                BindPropagation::Rprivate => "rprivate",
                BindPropagation::Private => "private",
                BindPropagation::Rslave => "rslave",
                BindPropagation::Slave => "slave",
                BindPropagation::Rshared => "rshared",
                BindPropagation::Shared => "shared",
            });
            if *read_only {
                // Also what is mounted below, as Docker does since version 25.
                options.extend(if *non_recursive || *writable_below { vec!["ro"] } else { vec!["ro", "rro"] });
            }
            Ok(json!({"destination": target, "type": "bind", "source": source, "options": options}))
        }
        Mount::Tmpfs { target, size, mode, read_only, options } => {
            let mut all = vec!["nosuid".to_owned(), "nodev".to_owned()];
            if !options.iter().any(|option| option == "exec" || option == "noexec") {
                all.push("noexec".to_owned());
            }
            all.extend(size.map(|size| format!("size={size}")));
            all.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
            if *read_only {
                all.push("ro".to_owned());
            }
            for option in options {
                if option.is_empty() || option.contains([',', '\0']) {
                    return Err(format!("invalid tmpfs option \"{option}\""));
                }
                all.retain(|other| other.trim_start_matches("no") != option.trim_start_matches("no"));
                all.push(option.clone());
            }
            Ok(json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": all}))
        }
    }
}

/// libcontainer mounts version 1 hierarchies writable: a container could lift its own limits.
pub(super) fn read_only_cgroups(cgroups: &Cgroups) -> Vec<String> {
    let mut all: Vec<_> = cgroups.v1_mounts().iter().map(|name| format!("/sys/fs/cgroup/{name}")).collect();
    if !all.is_empty() {
        all.push("/sys/fs/cgroup".to_owned());
    }
    all
}

/// Mounts of the host arrive only where a bind mount asks for them.
pub(super) fn rootfs_propagation(config: &ContainerConfig) -> &'static str {
    let any = |kinds: [BindPropagation; 2]| {
        config
            .mounts
            .iter()
            .any(|mount| matches!(mount, Mount::Bind { propagation, .. } if kinds.contains(propagation)))
    };
    if any([BindPropagation::Shared, BindPropagation::Rshared]) {
        "shared"
    } else if any([BindPropagation::Slave, BindPropagation::Rslave]) {
        "slave"
    } else {
        "private"
    }
}
