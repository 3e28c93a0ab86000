//! What is stored of a container: `container.json`. It is written once, when the container is prepared, and never changed;
//! how the container goes is in the bundle's files. It has a version, and a newer one is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_model::{ObjectId, PortConfig, Protocol, PublishMode, TaskId};

use crate::blueprint::Share;
use crate::error::{At, EngineError, Result};
use crate::health::HealthCheck;
use crate::restart::RestartPolicy;

/// The version of `container.json` this release writes, and the highest it reads.
pub(crate) const RECORD_VERSION: u32 = 1;

/// A container as it was prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Format version.
    pub version: u32,
    /// 64 hex digits.
    pub id: String,
    /// Its name, without a leading slash.
    pub name: String,
    /// RFC 3339 with nanoseconds, UTC.
    pub created_at: String,
    /// The task it belongs to.
    pub task: Option<TaskRecord>,
    /// The image as it was asked for.
    pub image: String,
    /// `sha256:` and the image's id.
    pub image_id: String,
    /// Labels: the image's, overlaid by the container's own.
    pub labels: BTreeMap<String, String>,
    /// Effective entrypoint.
    pub entrypoint: Vec<String>,
    /// Effective command: the arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// Ports the image declares, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Name of the signal that asks it to stop, such as `SIGTERM`.
    pub stop_signal: String,
    /// Time between that signal and SIGKILL in milliseconds.
    pub stop_grace_ms: u64,
    /// Published ports as they were asked for.
    pub ports: Vec<PortRecord>,
    /// `IP name` lines for `/etc/hosts`.
    pub hosts: Vec<String>,
    /// Name servers, search domains and options that replace the machine's.
    pub dns: [Vec<String>; 3],
    /// Mounts as `docker inspect` shows them.
    pub mounts: Vec<MountRecord>,
    /// `json-file`, `local` or `none`.
    pub log_driver: String,
    /// Options of the log driver.
    pub log_options: BTreeMap<String, String>,
    /// How its health is checked, if the container or its image says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// What the shim is given, but for network and `/etc` files, which are known at the start.
    pub config: skep_oci::ContainerConfig,
    /// What only a container has that was made by hand; `None` for a task's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<ByHand>,
    /// Its secrets and configs: where they lie, and nothing of what is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileRecord>,
    /// Its networks in the order of its links; none is the machine's `bridge`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkRecord>,
    /// `host`, `none`, `container:ID`, or empty for networks of its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network_mode: String,
}

/// A secret or config of a container, as a file that is in memory alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// `secret` or `config`.
    pub kind: String,
    /// Id of the object.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Path inside.
    pub target: PathBuf,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl FileRecord {
    pub(crate) fn is_secret(&self) -> bool {
        self.kind == "secret"
    }
}

/// A network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRecord {
    /// Its id; of a network that is looked up when the container starts, what the user wrote.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `bridge`, `host`, `null` or `overlay`.
    pub driver: String,
    /// Subnet of an overlay, CIDR.
    pub subnet: String,
    /// Gateway of an overlay.
    pub gateway: String,
    /// The container's address, with or without prefix length; empty lets the engine choose.
    pub address: String,
    /// Further names there.
    pub aliases: Vec<String>,
    /// Options of an overlay's driver.
    pub options: BTreeMap<String, String>,
    /// No way out of an overlay.
    pub internal: bool,
}

impl NetworkRecord {
    /// What a task is told of its network.
    pub(crate) fn of_task(network: &skep_agent::AttachedNetwork) -> Self {
        let first = |list: &[String]| list.first().cloned().unwrap_or_default();
        if matches!(network.driver.as_str(), "bridge" | "host") {
            return Self::of_the_machine(&network.driver);
        }
        Self {
            id: network.id.clone(),
            name: network.name.clone(),
            driver: network.driver.clone(),
            subnet: first(&network.subnets),
            gateway: first(&network.gateways),
            address: first(&network.addresses),
            aliases: network.aliases.clone(),
            options: network.options.clone(),
            internal: network.internal,
        }
    }
}

/// What only a container has that was made by hand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ByHand {
    /// When it is started again after an end.
    pub restart: RestartPolicy,
    /// It is removed when it has ended.
    pub auto_remove: bool,
    /// Whose process ids it has.
    pub pid: Share,
    /// Whose message queues and shared memory it has.
    pub ipc: Share,
    /// Its configuration in the words of who asked for it, to be shown as it was given. Nothing is read from it here.
    pub asked: Asked,
}

/// A request in the words of who made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// What the container runs.
    pub config: serde_json::Value,
    /// What of the machine it is given.
    pub host: serde_json::Value,
    /// What it is on its networks.
    pub networking: serde_json::Value,
}

impl Record {
    /// The task's id, if it belongs to one.
    #[must_use]
    pub fn task_id(&self) -> Option<TaskId> {
        TaskId::parse(&self.task.as_ref()?.task_id).ok()
    }

    /// Time between the stop signal and SIGKILL.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.stop_grace_ms)
    }

    pub(crate) fn load(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let bytes = std::fs::read(path).at("read", path)?;
        let parse = |error| std::io::Error::from(error);
        let found: Versioned = serde_json::from_slice(&bytes).map_err(parse).at("understand", path)?;
        if found.version > RECORD_VERSION {
            let (found, supported) = (found.version, RECORD_VERSION);
            return Err(EngineError::Newer { path: path.to_owned(), found, supported });
        }
        serde_json::from_slice(&bytes).map_err(parse).at("understand", path)
    }
}

/// Now, as Docker prints it: RFC 3339 with nine digits of nanoseconds, UTC.
pub(crate) fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second, nano) = now.to_hms_nano();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z", u8::from(month))
}

/// The task of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its id.
    pub task_id: String,
    /// Its service's id; empty without one.
    pub service_id: String,
    /// Its service's name.
    pub service_name: String,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// A name for it.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port inside.
    pub target: u16,
    /// Port outside; 0 while none is chosen.
    pub published: u16,
    /// On this node, for this container alone; otherwise in the routing mesh.
    pub host_mode: bool,
}

impl PortRecord {
    /// A declared port, such as `80/tcp` or `80`, published on a number that the engine chooses.
    #[must_use]
    pub fn exposed(text: &str) -> Option<Self> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let target = number.parse().ok().filter(|port| *port != 0)?;
        let protocol = ["tcp", "udp", "sctp"].into_iter().find(|known| protocol.eq_ignore_ascii_case(known))?;
        Some(Self { name: String::new(), protocol: protocol.to_owned(), target, published: 0, host_mode: true })
    }

    pub(crate) fn from_model(port: &PortConfig) -> Self {
        Self {
            name: port.name.clone(),
            protocol: port.protocol.name().to_owned(),
            target: port.target_port,
            published: port.published_port,
            host_mode: port.mode == PublishMode::Host,
        }
    }

    pub(crate) fn to_model(&self) -> PortConfig {
        PortConfig {
            name: self.name.clone(),
            protocol: match self.protocol.as_str() {
                "udp" => Protocol::Udp,
                "sctp" => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            target_port: self.target,
            published_port: self.published,
            mode: if self.host_mode { PublishMode::Host } else { PublishMode::Ingress },
        }
    }

    pub(crate) fn network_protocol(&self) -> skep_network::Protocol {
        match self.protocol.as_str() {
            "udp" => skep_network::Protocol::Udp,
            "sctp" => skep_network::Protocol::Sctp,
            _ => skep_network::Protocol::Tcp,
        }
    }
}

/// A mount as `docker inspect` shows it, and what is needed to make it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountRecord {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// Path on the host; empty for a tmpfs.
    pub source: String,
    /// Path inside.
    pub destination: String,
    /// Writable.
    pub rw: bool,
    /// Propagation; empty unless it is a bind.
    pub propagation: String,
    /// Docker's mode words, such as `z`; only shown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Make a bind's missing source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create_source: bool,
    /// The volume of a `volume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeMount>,
}

/// The volume of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Options of the driver, should it have to be made.
    pub options: BTreeMap<String, String>,
    /// Labels, should it have to be made.
    pub labels: BTreeMap<String, String>,
    /// Nobody named it: it was made for this container.
    pub anonymous: bool,
    /// Leave it empty.
    pub no_copy: bool,
    /// Path inside of it; empty is all of it.
    pub subpath: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let config = skep_oci::ContainerConfig::new(
            "c0ffee",
            skep_oci::RootFs::Overlay {
                lower: vec!["/l".into()],
                upper: "/u".into(),
                work: "/w".into(),
                merged: "/m".into(),
            },
            vec!["sh".to_owned()],
        );
        Record {
            version: RECORD_VERSION,
            id: "c0ffee".to_owned(),
            name: "web.1.x".to_owned(),
            created_at: "2026-01-02T03:04:05.000000006Z".to_owned(),
            task: Some(TaskRecord {
                task_id: "x".to_owned(),
                service_id: "y".to_owned(),
                service_name: "web".to_owned(),
            }),
            image: "box:1".to_owned(),
            image_id: "sha256:00".to_owned(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            entrypoint: Vec::new(),
            cmd: vec!["sh".to_owned()],
            exposed_ports: vec!["80/tcp".to_owned()],
            stop_signal: "SIGTERM".to_owned(),
            stop_grace_ms: 10_000,
            ports: vec![PortRecord {
                name: String::new(),
                protocol: "tcp".to_owned(),
                target: 80,
                published: 0,
                host_mode: true,
            }],
            hosts: Vec::new(),
            dns: Default::default(),
            mounts: Vec::new(),
            log_driver: "json-file".to_owned(),
            log_options: BTreeMap::new(),
            health: None,
            config,
            by_hand: None,
            files: Vec::new(),
            networks: Vec::new(),
            network_mode: String::new(),
        }
    }

    /// Containers of every release are adopted by the next: what version 1 wrote is read for ever.
    #[test]
    fn version_1_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/container-v1.json");
        assert_eq!(Record::load(&path).unwrap(), record());
    }

    #[test]
    fn a_newer_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("container.json");
        std::fs::write(&path, r#"{"version":2,"something":"new"}"#).unwrap();
        assert!(matches!(Record::load(&path), Err(EngineError::Newer { found: 2, .. })));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Record::load(&path), Err(EngineError::Io { .. })));
    }

    #[test]
    #[ignore = "writes the golden file of a new version"]
    fn write_golden() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/container-v1.json");
        std::fs::write(path, serde_json::to_string_pretty(&record()).unwrap()).unwrap();
    }
}
