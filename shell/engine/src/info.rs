//! What this machine is and has: for `docker info` and for the node's description.

use std::sync::Arc;

use skep_oci::{CgroupMode, HostInfo};

use crate::engine::Inner;
use crate::view::ContainerState;

/// What this machine is and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Host name.
    pub hostname: String,
    /// As `uname -m` says.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Name of the distribution.
    pub operating_system: String,
    /// Release of the kernel.
    pub kernel_version: String,
    /// Processors.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// `1` or `2`; empty without control groups.
    pub cgroup_version: String,
    /// `cgroupfs` or `none`.
    pub cgroup_driver: String,
    /// Containers that run, but for those that are paused.
    pub running: usize,
    /// Containers that are paused.
    pub paused: usize,
    /// Containers that do not run.
    pub stopped: usize,
    /// Images.
    pub images: usize,
    /// Where everything lies.
    pub data_root: String,
    /// Docker's word for the file system that it lies on, such as `extfs`.
    pub backing: String,
    /// Version of the distribution; empty when it has none.
    pub os_version: String,
    /// What is missing, one sentence each.
    pub warnings: Vec<String>,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// Whether there is a limit of memory, of processor time, of processes.
    pub limits: [bool; 3],
}

pub(crate) fn gather(inner: &Arc<Inner>) -> EngineInfo {
    let containers = inner.table.all();
    let active = |state: ContainerState| matches!(state, ContainerState::Running { .. } | ContainerState::Starting);
    let up = containers.iter().filter(|container| active(container.state())).count();
    let paused = containers.iter().filter(|container| active(container.state()) && container.is_paused()).count();
    let host = HostInfo::probe().ok();
    let cgroups = host.as_ref().and_then(|host| host.cgroups.as_ref());
    let has = |controller: &str| cgroups.is_some_and(|cgroups| cgroups.has(controller));
    EngineInfo {
        hostname: hostname(),
        architecture: machine(),
        os: "linux".to_owned(),
        operating_system: operating_system(),
        kernel_version: uname(nix::sys::utsname::UtsName::release),
        cpus: host.as_ref().map_or(1, |host| host.cpus),
        memory: host.as_ref().map_or(0, |host| host.memory),
        cgroup_version: match cgroups.map(|cgroups| cgroups.mode) {
            None => String::new(),
            Some(CgroupMode::V2) => "2".to_owned(),
            Some(_) => "1".to_owned(),
        },
        cgroup_driver: if cgroups.is_some() { "cgroupfs" } else { "none" }.to_owned(),
        running: up - paused,
        paused,
        stopped: containers.len() - up,
        backing: backing(inner.layout.data_root()),
        os_version: os_release("VERSION_ID").unwrap_or_default(),
        images: inner.images.list().len(),
        data_root: inner.layout.data_root().display().to_string(),
        warnings: host
            .as_ref()
            .map(|host| host.missing().iter().map(|text| format!("WARNING: {text}")).collect())
            .unwrap_or_default(),
        seccomp: host.as_ref().is_some_and(|host| host.seccomp),
        limits: [has("memory"), has("cpu"), has("pids")],
    }
}

pub(crate) fn hostname() -> String {
    uname(nix::sys::utsname::UtsName::nodename)
}

/// The processor as `uname -m` says.
pub(crate) fn machine() -> String {
    uname(nix::sys::utsname::UtsName::machine)
}

fn uname(part: impl Fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr) -> String {
    nix::sys::utsname::uname().map(|name| part(&name).to_string_lossy().into_owned()).unwrap_or_default()
}

fn operating_system() -> String {
    os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned())
}

/// A value of the distribution's description of itself.
fn os_release(key: &str) -> Option<String> {
    let text = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| std::fs::read_to_string(path).ok())?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// The file system that a directory lies on, in Docker's words (`daemon/graphdriver`).
fn backing(path: &std::path::Path) -> String {
    let magic = rustix::fs::statfs(path).map_or(0, |stat| u64::try_from(stat.f_type).unwrap_or(0));
    let name = match magic {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        _ => "<unknown>",
    };
    name.to_owned()
}
