//! Namespaces and the like in a `HostConfig`.

use skep_api_types::HostConfig;

use super::wanted::{invalid, refuse};
use crate::engine::EngineError;

/// How a container shares the machine's namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Modes {
    /// Absolute; empty is the engine's.
    pub(super) cgroup_parent: String,
}

impl Modes {
    pub(super) fn parse(host: &HostConfig) -> Result<Self, EngineError> {
        refuse(&[
            (
                !matches!(host.network_mode.as_str(), "" | "default" | "bridge"),
                "a network other than bridge (--network)",
            ),
            (!matches!(host.pid_mode.as_str(), "" | "private"), "a shared PID namespace (--pid)"),
            (!matches!(host.ipc_mode.as_str(), "" | "private"), "a shared IPC namespace (--ipc)"),
            (!matches!(host.uts_mode.as_str(), "" | "private"), "the host's UTS namespace (--uts)"),
            (!matches!(host.cgroupns_mode.as_str(), "" | "private"), "the host's cgroup namespace (--cgroupns)"),
            (host.privileged, "all privileges (--privileged)"),
            (!host.devices.as_deref().unwrap_or_default().is_empty(), "devices (--device)"),
            (host.masked_paths.is_some() || host.readonly_paths.is_some(), "other masked or read-only paths"),
        ])?;
        if !matches!(host.userns_mode.as_str(), "" | "host") {
            return invalid("invalid user namespace mode");
        }
        Ok(Self { cgroup_parent: cgroup_parent(&host.cgroup_parent)? })
    }
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
        (host.device_cgroup_rules.iter().flatten().next().is_some(), "device rules (--device-cgroup-rule)"),
        (host.volumes_from.iter().flatten().next().is_some(), "the volumes of another container (--volumes-from)"),
        (host.cpu_count != 0 || host.cpu_percent != 0, "limits of Windows (--cpu-count, --cpu-percent)"),
        (host.io_maximum_iops != 0 || host.io_maximum_bandwidth != 0, "limits of Windows (--io-max*)"),
    ])
}
