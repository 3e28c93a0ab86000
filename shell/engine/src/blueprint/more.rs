//! What a container made by hand can ask for and a task cannot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_oci::{ContainerConfig, Device, Namespace, Resources};

use crate::error::{EngineError, Result};
use crate::record::{Asked, ByHand, PortRecord};
use crate::restart::RestartPolicy;

/// What a container made by hand can ask for and a task cannot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct More {
    /// When it is started again after an end.
    pub restart: RestartPolicy,
    /// It is removed when it has ended.
    pub auto_remove: bool,
    /// The request, to be shown as it was given.
    pub asked: Asked,
    /// Platform that the image must be for, `os/architecture[/variant]`; empty is any that runs here.
    pub platform: String,
    /// NIS domain name inside; empty is none.
    pub domainname: String,
    /// Without the image's entrypoint, also when there is no other.
    pub no_entrypoint: bool,
    /// Ports it declares beside the image's, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// All declared ports are published on numbers that the engine chooses.
    pub publish_all: bool,
    /// Bytes of `/dev/shm`; `None` is Docker's 64 MiB.
    pub shm_size: Option<u64>,
    /// Its limits; they take the place of those that a task names.
    pub limits: Option<Resources>,
    /// Cgroup below which its own is made; empty is the engine's.
    pub cgroup_parent: String,
    /// Its input ends with that of the first client.
    pub stdin_once: bool,
    /// Rows and columns of its terminal.
    pub console_size: Option<[u16; 2]>,
    /// All capabilities and devices of the machine, nothing filtered, masked or read-only.
    pub privileged: bool,
    /// Its process ids.
    pub pid: Share,
    /// Its message queues and shared memory.
    pub ipc: Share,
    /// Its host and domain name.
    pub uts: Share,
    /// Its view of control groups.
    pub cgroupns: Share,
    /// Device nodes it gets.
    pub devices: Vec<Device>,
    /// Further rules of its device control group.
    pub device_cgroup_rules: Vec<String>,
    /// Paths that are hidden in it; `None` is Docker's list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only in it; `None` is Docker's list.
    pub readonly_paths: Option<Vec<String>>,
    /// Containers whose mounts it gets, too, each `name[:ro|:rw]`.
    pub volumes_from: Vec<String>,
}

/// Whose namespace of a kind a container has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// One of its own.
    #[default]
    Own,
    /// The machine's.
    Host,
    /// That of the container with this name or id, which must run when this one starts.
    Container(String),
}

impl Share {
    fn namespace(&self) -> Namespace {
        match self {
            Self::Host => Namespace::Host,
            // That of another container is found at the start.
            Self::Own | Self::Container(_) => Namespace::Private,
        }
    }
}

impl More {
    /// What the record keeps of it.
    pub(super) fn by_hand(&self) -> ByHand {
        ByHand {
            restart: self.restart,
            auto_remove: self.auto_remove,
            pid: self.pid.clone(),
            ipc: self.ipc.clone(),
            asked: self.asked.clone(),
        }
    }

    /// Declared ports, the image's among them; when all are published, those that are not yet are added to `ports`.
    pub(super) fn exposed_ports<T>(
        &self,
        image: &BTreeMap<String, T>,
        ports: &mut Vec<PortRecord>,
    ) -> Result<Vec<String>> {
        let mut exposed: Vec<String> = image.keys().chain(&self.exposed_ports).cloned().collect();
        exposed.sort_unstable();
        exposed.dedup();
        if !self.publish_all {
            return Ok(exposed);
        }
        for text in &exposed {
            let port =
                PortRecord::exposed(text).ok_or_else(|| EngineError::Invalid(format!("invalid port: {text}")))?;
            let is_there = |other: &PortRecord| (other.target, &other.protocol) == (port.target, &port.protocol);
            if !ports.iter().any(is_there) {
                ports.push(port);
            }
        }
        Ok(exposed)
    }

    /// Puts the rest into what the shim is given.
    pub(super) fn apply(self, config: &mut ContainerConfig) {
        if !self.domainname.is_empty() {
            config.domainname = Some(self.domainname);
        }
        if let Some(size) = self.shm_size {
            config.shm_size = size;
        }
        if let Some(limits) = self.limits {
            config.resources = limits;
        }
        if !self.cgroup_parent.is_empty() {
            config.cgroup_parent = self.cgroup_parent;
        }
        config.stdin_once = self.stdin_once;
        config.console_size = self.console_size;
        config.privileged = self.privileged;
        config.pid = self.pid.namespace();
        config.ipc = self.ipc.namespace();
        config.uts = self.uts.namespace();
        config.cgroupns = self.cgroupns.namespace();
        config.devices = self.devices;
        config.device_cgroup_rules = self.device_cgroup_rules;
        config.masked_paths = self.masked_paths;
        config.readonly_paths = self.readonly_paths;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_declared_ports_are_published_when_asked() {
        let more = More { publish_all: true, exposed_ports: vec!["53/udp".to_owned()], ..More::default() };
        let image = BTreeMap::from([("80/tcp".to_owned(), ())]);
        let mut ports = vec![PortRecord { published: 8080, ..PortRecord::exposed("80").unwrap() }];
        assert_eq!(more.exposed_ports(&image, &mut ports).unwrap(), ["53/udp", "80/tcp"]);
        let numbers: Vec<_> = ports.iter().map(|port| (port.target, port.published)).collect();
        assert_eq!(numbers, [(80, 8080), (53, 0)]);
        assert!(PortRecord::exposed("x/tcp").is_none() && PortRecord::exposed("1/x").is_none());
    }
}
