//! Namespaces and the like in a `HostConfig`.

use skep_api_types::{ContainerConfig, DeviceMapping, HostConfig};
use skep_engine::{Device, Share};

use super::wanted::{invalid, refuse};
use crate::engine::EngineError;

/// How a container shares the machine's namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Modes {
    pub(super) pid: Share,
    pub(super) ipc: Share,
    pub(super) uts: Share,
    pub(super) cgroupns: Share,
    /// Absolute; empty is the engine's.
    pub(super) cgroup_parent: String,
}

impl Modes {
    pub(super) fn parse(host: &HostConfig, config: &ContainerConfig) -> Result<Self, EngineError> {
        refuse(&[
            (host.ipc_mode.starts_with("container:"), "the IPC namespace of another container (--ipc container:)"),
            (host.ipc_mode == "none", "no shared memory at all (--ipc none)"),
        ])?;
        if !matches!(host.userns_mode.as_str(), "" | "host") {
            return invalid("invalid user namespace mode");
        }
        let uts = share(&host.uts_mode, "UTS", &["", "private"], false)?;
        if uts == Share::Host && !config.hostname.is_empty() {
            return invalid("conflicting options: hostname and the UTS mode");
        }
        Ok(Self {
            pid: share(&host.pid_mode, "PID", &["", "private"], true)?,
            ipc: share(&host.ipc_mode, "IPC", &["", "private", "shareable"], false)?,
            uts,
            cgroupns: share(&host.cgroupns_mode, "cgroup namespace", &["", "private"], false)?,
            cgroup_parent: cgroup_parent(&host.cgroup_parent)?,
        })
    }
}

fn share(mode: &str, kind: &str, own: &[&str], may_join: bool) -> Result<Share, EngineError> {
    match mode.strip_prefix("container:") {
        Some(name) if may_join && !name.is_empty() => Ok(Share::Container(name.to_owned())),
        None if own.contains(&mode) => Ok(Share::Own),
        None if mode == "host" => Ok(Share::Host),
        _ => invalid(format!("invalid {kind} mode: {mode}")),
    }
}

/// Device nodes of `--device`.
pub(super) fn devices(host: &HostConfig) -> Result<Vec<Device>, EngineError> {
    let device = |given: &DeviceMapping| {
        if !given.path_on_host.starts_with('/') {
            return invalid(format!("{:?} is not an absolute path", given.path_on_host));
        }
        let inside = if given.path_in_container.is_empty() { &given.path_on_host } else { &given.path_in_container };
        Ok(Device {
            host: given.path_on_host.clone().into(),
            container: inside.clone().into(),
            permissions: given.cgroup_permissions.clone(),
        })
    };
    host.devices.iter().flatten().map(device).collect()
}

fn cgroup_parent(given: &str) -> Result<String, EngineError> {
    if given.is_empty() {
        return Ok(String::new());
    }
    if given.split('/').any(|part| part == "..") {
        return invalid(format!("invalid cgroup parent {given:?}: must not contain \"..\""));
    }
    Ok(format!("/{}", given.trim_matches('/')))
}

/// What has no meaning here, or that no driver of this engine does.
pub(super) fn refuse_other_systems(host: &HostConfig) -> Result<(), EngineError> {
    if !matches!(host.isolation.as_str(), "" | "default") {
        return invalid(format!("invalid isolation {:?} on linux", host.isolation));
    }
    if !matches!(host.runtime.as_str(), "" | "skep") {
        return invalid(format!("unknown or invalid runtime name: {}", host.runtime));
    }
    refuse(&[
        (host.links.iter().flatten().next().is_some(), "links (--link): use a user-defined network"),
        (!host.cgroup.is_empty(), "a shared control group"),
        (!host.storage_opt.is_empty(), "storage options (--storage-opt)"),
        (host.device_requests.iter().flatten().next().is_some(), "device requests (--gpus)"),
        (host.cpu_count != 0 || host.cpu_percent != 0, "limits of Windows (--cpu-count, --cpu-percent)"),
        (host.io_maximum_iops != 0 || host.io_maximum_bandwidth != 0, "limits of Windows (--io-max*)"),
    ])
}
