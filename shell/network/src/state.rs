//! What a restarted daemon cannot read back from the kernel, in the state directory:
//!
//! - `network.json`: the main bridge, chosen once; written durably.
//! - `bridges/KEY.json`: the other bridges; written before one is made, removed after it is gone.
//! - `endpoints/ID.json`: the addresses of each container, written when its endpoint is whole.
//! - `published.json`: the ports, so that a restart does not interrupt them. Worth nothing after a reboot.
//!
//! Every file carries a version and is replaced by a rename.

use crate::error::{NetworkError, Result, Tried};
use crate::wiring::BridgePlan;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_dataplane::{
    Backend, Bridge, MAIN, Protocol, PublishMode, PublishedPort, Reach, Subnet, network::check_container_id,
};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// The state directory.
#[derive(Debug)]
pub(crate) struct State {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredBridge {
    bridge: String,
    subnet: String,
    mtu: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredEndpoint {
    /// The address on the main bridge, as the only place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    legs: Vec<StoredLeg>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredLeg {
    bridge: String,
    address: Ipv4Addr,
    link: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPlan {
    link: String,
    subnet: String,
    gateway: Ipv4Addr,
    mtu: u32,
    /// `outward`, `node` or `members`.
    reach: String,
    isolated: bool,
    range: Option<String>,
    reserved: Vec<Ipv4Addr>,
    transient: bool,
}

/// Bridge, address and link inside of a container's place.
pub(crate) type FoundLeg = (String, Ipv4Addr, String);

#[derive(Debug, Serialize, Deserialize)]
struct StoredPorts {
    ports: Vec<StoredPort>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPort {
    protocol: String,
    port: u16,
    ingress: bool,
    backends: Vec<(String, Ipv4Addr, u16)>,
}

impl State {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let [endpoints, bridges] = ["endpoints", "bridges"].map(|name| directory.join(name));
        for folder in [&endpoints, &bridges] {
            fs::create_dir_all(folder).tried(|| format!("create {folder:?}"))?;
        }
        for folder in [directory, &endpoints, &bridges] {
            sweep(folder)?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// The bridge chosen earlier.
    pub(crate) fn bridge(&self) -> Result<Option<Bridge>> {
        let path = self.directory.join("network.json");
        let Some(stored) = read::<StoredBridge>(&path)? else { return Ok(None) };
        let bad = |reason: String| NetworkError::BadState { path: path.clone(), reason };
        let subnet: skep_dataplane::Subnet = stored.subnet.parse().map_err(|error| bad(format!("{error}")))?;
        let (gateway, reach) = (subnet.gateway(), Reach::Outward);
        let bridge = Bridge { name: stored.bridge, subnet, gateway, mtu: stored.mtu, reach, isolated: true };
        bridge.validate().map_err(|error| bad(error.to_string()))?;
        Ok(Some(bridge))
    }

    pub(crate) fn set_bridge(&self, bridge: &Bridge) -> Result<()> {
        let stored = StoredBridge { bridge: bridge.name.clone(), subnet: bridge.subnet.to_string(), mtu: bridge.mtu };
        write(&self.directory.join("network.json"), stored, true)
    }

    /// The bridges beside the main one. A record that cannot be read is left out: its bridge counts as a leak.
    pub(crate) fn extra_bridges(&self) -> Result<Vec<BridgePlan>> {
        let mut found = Vec::new();
        for (key, path) in self.records("bridges")? {
            match read::<StoredPlan>(&path).map(|stored| stored.and_then(|stored| restore_plan(&key, stored))) {
                Ok(Some(plan)) => found.push(plan),
                Ok(None) => tracing::warn!(bridge = key, "ignoring the record of a bridge that makes no sense"),
                Err(error) => tracing::warn!(%error, bridge = key, "ignoring an unreadable record of a bridge"),
            }
        }
        Ok(found)
    }

    pub(crate) fn set_extra_bridge(&self, plan: &BridgePlan) -> Result<()> {
        let bridge = &plan.bridge;
        let reach = match bridge.reach {
            Reach::Outward => "outward",
            Reach::Node => "node",
            Reach::Members => "members",
        };
        let stored = StoredPlan {
            link: bridge.name.clone(),
            subnet: bridge.subnet.to_string(),
            gateway: bridge.gateway,
            mtu: bridge.mtu,
            reach: reach.to_owned(),
            isolated: bridge.isolated,
            range: plan.range.map(|range| range.to_string()),
            reserved: plan.reserved.clone(),
            transient: plan.transient,
        };
        write(&self.bridge_path(&plan.key), stored, true)
    }

    pub(crate) fn remove_bridge(&self, key: &str) -> Result<()> {
        remove(&self.bridge_path(key))
    }

    fn bridge_path(&self, key: &str) -> PathBuf {
        self.directory.join("bridges").join(format!("{key}.json"))
    }

    /// Names and paths of the records in a folder.
    fn records(&self, folder: &str) -> Result<Vec<(String, PathBuf)>> {
        let directory = self.directory.join(folder);
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).tried(|| format!("read {directory:?}"))? {
            let path = entry.tried(|| format!("read {directory:?}"))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            if let Some(name) = name.filter(|name| check_container_id(name).is_ok()) {
                found.push((name.to_owned(), path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Every container that was given a network, with its places. A record that cannot be read is left out: the container
    /// counts as one without a network.
    pub(crate) fn endpoints(&self) -> Result<Vec<(String, Option<Vec<FoundLeg>>)>> {
        let mut found = Vec::new();
        for (container, path) in self.records("endpoints")? {
            let legs = match read::<StoredEndpoint>(&path) {
                Ok(stored) => stored.map(|stored| {
                    let main = stored.address.map(|address| (MAIN.to_owned(), address, "eth0".to_owned()));
                    let others = stored.legs.into_iter().map(|leg| (leg.bridge, leg.address, leg.link));
                    main.into_iter().chain(others).collect()
                }),
                Err(error) => {
                    tracing::warn!(%error, container.id = container, "ignoring an unreadable address record");
                    None
                }
            };
            found.push((container, legs));
        }
        Ok(found)
    }

    pub(crate) fn set_endpoint(&self, endpoint: &skep_dataplane::Endpoint) -> Result<()> {
        let stored = match endpoint.legs.as_slice() {
            [only] if only.bridge == MAIN && only.container_link == "eth0" => {
                StoredEndpoint { address: Some(only.address), legs: Vec::new() }
            }
            legs => {
                let leg = |leg: &skep_dataplane::Leg| StoredLeg {
                    bridge: leg.bridge.clone(),
                    address: leg.address,
                    link: leg.container_link.clone(),
                };
                StoredEndpoint { address: None, legs: legs.iter().map(leg).collect() }
            }
        };
        write(&self.endpoint_path(&endpoint.container), stored, false)
    }

    pub(crate) fn remove_endpoint(&self, container: &str) -> Result<()> {
        remove(&self.endpoint_path(container))
    }

    /// The ports published last; none when the record is missing or unreadable (they are published anew anyway).
    pub(crate) fn published(&self) -> Vec<PublishedPort> {
        match read::<StoredPorts>(&self.directory.join("published.json")) {
            Ok(stored) => stored.map_or_else(Vec::new, |stored| stored.ports.into_iter().filter_map(restore).collect()),
            Err(error) => {
                tracing::warn!(%error, "ignoring an unreadable record of published ports");
                Vec::new()
            }
        }
    }

    pub(crate) fn set_published<'a>(&self, ports: impl Iterator<Item = &'a PublishedPort>) -> Result<()> {
        write(&self.directory.join("published.json"), StoredPorts { ports: ports.map(store).collect() }, false)
    }

    /// Removes every file of ours, and the directory when nothing else is in it.
    pub(crate) fn wipe(&self) -> Result<()> {
        for (container, _) in self.endpoints()? {
            self.remove_endpoint(&container)?;
        }
        for name in ["published.json", "network.json"] {
            remove(&self.directory.join(name))?;
        }
        for (key, _) in self.records("bridges")? {
            self.remove_bridge(&key)?;
        }
        for directory in [self.directory.join("endpoints"), self.directory.join("bridges"), self.directory.clone()] {
            if let Err(error) = fs::remove_dir(&directory) {
                tracing::debug!(%error, ?directory, "left a state directory behind");
            }
        }
        Ok(())
    }

    fn endpoint_path(&self, container: &str) -> PathBuf {
        self.directory.join("endpoints").join(format!("{container}.json"))
    }
}

fn restore_plan(key: &str, stored: StoredPlan) -> Option<BridgePlan> {
    let reach = match stored.reach.as_str() {
        "outward" => Reach::Outward,
        "node" => Reach::Node,
        "members" => Reach::Members,
        _ => return None,
    };
    let subnet: Subnet = stored.subnet.parse().ok()?;
    let (name, gateway, mtu, isolated) = (stored.link, stored.gateway, stored.mtu, stored.isolated);
    let bridge = Bridge { name, subnet, gateway, mtu, reach, isolated };
    bridge.validate().ok()?;
    let range = stored.range.and_then(|range| range.parse().ok());
    Some(BridgePlan { key: key.to_owned(), bridge, range, reserved: stored.reserved, transient: stored.transient })
}

fn store(port: &PublishedPort) -> StoredPort {
    StoredPort {
        protocol: port.protocol.name().to_owned(),
        port: port.port,
        ingress: port.mode == PublishMode::Ingress,
        backends: port.backends.iter().map(|b| (b.container.clone(), b.address, b.target_port)).collect(),
    }
}

fn restore(stored: StoredPort) -> Option<PublishedPort> {
    let protocol =
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| known.name() == stored.protocol)?;
    let mode = if stored.ingress { PublishMode::Ingress } else { PublishMode::Host };
    let backends = stored
        .backends
        .into_iter()
        .map(|(container, address, target_port)| Backend { container, address, target_port })
        .collect();
    Some(PublishedPort { protocol, port: stored.port, mode, backends })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).tried(|| format!("read {path:?}")),
    };
    let bad = |reason| NetworkError::BadState { path: path.to_owned(), reason };
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if version != VERSION {
        return Err(bad(format!("its version is {version}, this release reads {VERSION}")));
    }
    let stored: Versioned<T> = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    Ok(Some(stored.content))
}

/// Removes what a killed daemon was writing.
fn sweep(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).tried(|| format!("read {folder:?}"))? {
        let path = entry.tried(|| format!("read {folder:?}"))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(&path).tried(|| format!("remove {path:?}"))?;
        }
    }
    Ok(())
}

fn write(path: &Path, content: impl Serialize, durable: bool) -> Result<()> {
    let bytes =
        serde_json::to_vec(&Versioned { version: VERSION, content }).expect("plain data can be written as JSON");
    let new = path.with_extension("new");
    let store = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&new, path)?;
        match path.parent() {
            Some(directory) if durable => File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    };
    store().tried(|| format!("write {path:?}"))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).tried(|| format!("remove {path:?}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        assert_eq!(state.bridge().unwrap(), None);
        let subnet: skep_dataplane::Subnet = "172.20.0.0/16".parse().unwrap();
        let (gateway, reach) = (subnet.gateway(), Reach::Outward);
        let bridge = Bridge { name: "skep0".into(), subnet, gateway, mtu: 1450, reach, isolated: true };
        state.set_bridge(&bridge).unwrap();
        assert_eq!(state.bridge().unwrap(), Some(bridge.clone()));
        let plan = BridgePlan {
            key: "n1".into(),
            bridge: Bridge { name: "br-n1".into(), reach: Reach::Members, isolated: false, ..bridge },
            range: Some("172.20.1.0/24".parse().unwrap()),
            reserved: vec![Ipv4Addr::new(172, 20, 1, 9)],
            transient: true,
        };
        state.set_extra_bridge(&plan).unwrap();
        assert_eq!(state.extra_bridges().unwrap(), [plan]);
        let address = Ipv4Addr::new(172, 20, 0, 2);
        let mut endpoint = skep_dataplane::Endpoint::derived("web.1", String::new(), address);
        state.set_endpoint(&endpoint).unwrap();
        let main = || (MAIN.to_owned(), address, "eth0".to_owned());
        assert_eq!(state.endpoints().unwrap(), [("web.1".to_owned(), Some(vec![main()]))]);
        endpoint.legs.push(skep_dataplane::Leg::derived("web.1", "n1", Ipv4Addr::new(172, 20, 1, 3), "eth1".into()));
        state.set_endpoint(&endpoint).unwrap();
        let other = ("n1".to_owned(), Ipv4Addr::new(172, 20, 1, 3), "eth1".to_owned());
        assert_eq!(state.endpoints().unwrap(), [("web.1".to_owned(), Some(vec![main(), other]))]);
        let backends = vec![Backend { container: "web.1".into(), address, target_port: 80 }];
        let port = PublishedPort { protocol: Protocol::Udp, port: 53, mode: PublishMode::Host, backends };
        state.set_published([&port].into_iter()).unwrap();
        assert_eq!(state.published(), [port]);
        state.wipe().unwrap();
        assert!(!directory.path().exists());
    }

    #[test]
    fn a_bad_or_newer_file_is_refused_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let check = |text: &str| {
            fs::write(directory.path().join("network.json"), text).unwrap();
            state.bridge().unwrap_err().to_string()
        };
        assert!(check("").contains("network.json"));
        assert!(check("{\"version\":2}").contains("its version is 2, this release reads 1"));
        assert!(check(r#"{"version":1,"bridge":"skep0","subnet":"1.2.3.4/5","mtu":1500}"#).contains("invalid subnet"));
        assert!(check(r#"{"version":1,"bridge":"a b","subnet":"10.0.0.0/8","mtu":1500}"#).contains("invalid link"));
    }
}
