//! From a [`ContainerConfig`] to the OCI runtime spec that libcontainer runs, with Docker's defaults for everything
//! that was not asked for. Needs the mounted rootfs, because users are looked up in it.

mod capabilities;
mod devices;
mod mounts;
mod resources;
pub(crate) mod seccomp;
pub(crate) mod user;

use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use serde_json::{Map, Value, json};

use crate::cgroup::Cgroups;
use crate::config::{ContainerConfig, Namespace, NetworkNamespace, Seccomp};
use crate::rootfs::read_inside;
pub(crate) use user::UserError;

/// Docker's `PATH` where the image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker hides these.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Docker makes these read-only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Why there is no spec; texts for people.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A setting is refused.
    #[error("{0}")]
    Invalid(String),
    /// The user or a group is not there.
    #[error(transparent)]
    User(#[from] UserError),
    /// The rootfs cannot be read.
    #[error("cannot read {path} of the container's root file system")]
    Rootfs {
        /// The file.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Our own JSON is no spec.
    #[error("cannot build the runtime spec")]
    Shape(#[from] serde_json::Error),
}

/// The spec for `config` with the rootfs mounted at `rootfs`, limited by `cgroups`.
///
/// # Errors
/// When a user, capability, mount or profile is refused.
pub fn build_spec(config: &ContainerConfig, rootfs: &Path, cgroups: &Cgroups) -> Result<Spec, SpecError> {
    let read = |path: &'static str| read_inside(rootfs, path).map_err(|source| SpecError::Rootfs { path, source });
    let user = user::resolve(&config.user, &config.groups, &read("/etc/passwd")?, &read("/etc/group")?)?;
    let available = capabilities::available();
    let mut capabilities =
        capabilities::select(&config.cap_add, &config.cap_drop, &available).map_err(SpecError::Invalid)?;
    if config.privileged {
        capabilities = available.iter().map(ToString::to_string).collect();
    }
    // Where nothing limits devices, a node made by the container would open the host's disks.
    let asked = config.privileged
        || config.cap_add.iter().any(|name| {
            let name = name.to_ascii_uppercase();
            name.ends_with("MKNOD") || name == "ALL"
        });
    if !cgroups.has("devices") && !asked {
        capabilities.retain(|name| name != "CAP_MKNOD");
    }
    // As execve does: capabilities in force are for root only.
    let in_force: &[String] = if user.uid == 0 { &capabilities } else { &[] };
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "umask": 0o022, "additionalGids": user.additional},
        "args": config.args,
        "env": environment(config, &user.home),
        "cwd": if config.cwd.is_empty() { "/" } else { &config.cwd },
        "capabilities": {
            "bounding": capabilities, "effective": in_force, "permitted": in_force, "inheritable": [], "ambient": [],
        },
        "rlimits": resources::rlimits(&config.rlimits).map_err(SpecError::Invalid)?,
    });
    // libcontainer loads the filter too late to be allowed to when this is an explicit `false`.
    if config.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(score) = config.oom_score_adj {
        process["oomScoreAdj"] = json!(score);
    }
    let paths = |asked: &Option<Vec<String>>, usual: &[&str]| match asked {
        Some(paths) => paths.clone(),
        None if config.privileged => Vec::new(),
        None => usual.iter().map(|&path| path.to_owned()).collect(),
    };
    let mut read_only = paths(&config.readonly_paths, &READ_ONLY);
    if !config.privileged {
        read_only.extend(mounts::read_only_cgroups(cgroups));
    }
    let devices = devices::devices(config).map_err(SpecError::Invalid)?;
    let mut linux = json!({
        "namespaces": namespaces(config)?,
        "cgroupsPath": format!("/{}/{}", config.cgroup_parent.trim_matches('/'), config.id),
        "resources": resources::resources(config, cgroups, devices.rules).map_err(SpecError::Invalid)?,
        "devices": devices.nodes,
        "maskedPaths": paths(&config.masked_paths, &MASKED),
        "readonlyPaths": read_only,
        "sysctl": sysctls(config)?,
        "rootfsPropagation": mounts::rootfs_propagation(config),
    });
    let profile = match &config.seccomp {
        Seccomp::Default if config.privileged => None,
        Seccomp::Default => Some(seccomp::default_profile(&capabilities)),
        Seccomp::Profile(text) => Some(seccomp::resolve_profile(text, &capabilities).map_err(SpecError::Invalid)?),
        Seccomp::Unconfined => None,
    };
    let has_seccomp = Path::new("/proc/sys/kernel/seccomp").exists();
    if let Some(profile) = profile.filter(|_| has_seccomp || config.seccomp != Seccomp::Default) {
        linux["seccomp"] = profile;
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": rootfs, "readonly": config.read_only_rootfs},
        "mounts": mounts::mounts(config).map_err(SpecError::Invalid)?,
        "linux": linux,
    });
    let own_names = config.uts == Namespace::Private;
    if own_names && !config.hostname.is_empty() {
        spec["hostname"] = json!(config.hostname);
    }
    if let Some(domainname) = config.domainname.as_ref().filter(|_| own_names) {
        spec["domainname"] = json!(domainname);
    }
    Ok(serde_json::from_value(spec)?)
}

/// The environment: Docker's own first, the container's over it, later ones over earlier ones.
fn environment(config: &ContainerConfig, home: &str) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut defaults = vec![DEFAULT_PATH.to_owned()];
    if !config.hostname.is_empty() {
        defaults.push(format!("HOSTNAME={}", config.hostname));
    }
    if config.tty {
        defaults.push("TERM=xterm".to_owned());
    }
    let mut all: Vec<String> = Vec::new();
    // A variable without `=` takes it away.
    for variable in defaults.into_iter().chain(config.env.iter().cloned()) {
        let same = all.iter().position(|other| name(other) == name(&variable));
        match (same, variable.contains('=')) {
            (Some(index), true) => all[index] = variable,
            (Some(index), false) => drop(all.remove(index)),
            (None, true) => all.push(variable),
            (None, false) => {}
        }
    }
    if !all.iter().any(|variable| variable.starts_with("HOME=")) {
        all.push(format!("HOME={home}"));
    }
    all
}

fn namespaces(config: &ContainerConfig) -> Result<Value, SpecError> {
    let mut all = vec![json!({"type": "mount"})];
    let others = [("pid", &config.pid), ("ipc", &config.ipc), ("uts", &config.uts), ("cgroup", &config.cgroupns)];
    for (kind, namespace) in others {
        match namespace {
            Namespace::Private => all.push(json!({"type": kind})),
            Namespace::Host => {}
            Namespace::Of(process) if process.is_alive() => {
                all.push(json!({"type": kind, "path": format!("/proc/{}/ns/{kind}", process.pid)}));
            }
            Namespace::Of(_) => {
                let text = format!("cannot join the {kind} namespace of another container: it is not running");
                return Err(SpecError::Invalid(text));
            }
        }
    }
    match &config.network {
        NetworkNamespace::Private => all.push(json!({"type": "network"})),
        NetworkNamespace::Host => {}
        NetworkNamespace::Path(path) => {
            if !path.exists() {
                return Err(SpecError::Invalid(format!("network namespace {} does not exist", path.display())));
            }
            all.push(json!({"type": "network", "path": path}));
        }
    }
    Ok(Value::Array(all))
}

/// Only what belongs to the container's own namespaces may be set.
fn sysctls(config: &ContainerConfig) -> Result<Value, SpecError> {
    let mut all = Map::new();
    for (key, value) in &config.sysctls {
        let ipc = matches!(
            key.as_str(),
            "kernel.msgmax"
                | "kernel.msgmnb"
                | "kernel.msgmni"
                | "kernel.sem"
                | "kernel.shmall"
                | "kernel.shmmax"
                | "kernel.shmmni"
                | "kernel.shm_rmid_forced"
        ) || key.starts_with("fs.mqueue.");
        let net = key.starts_with("net.") && config.network != NetworkNamespace::Host;
        let uts = key == "kernel.domainname";
        if !(ipc || net || uts) || key.contains('/') || key.contains("..") {
            return Err(SpecError::Invalid(format!("sysctl \"{key}\" is not in a separate kernel namespace")));
        }
        all.insert(key.clone(), json!(value));
    }
    Ok(Value::Object(all))
}
