//! Which containers get traffic on published ports. A container enters once it runs and leaves before its stop signal; the
//! call returns when the kernel knows. Calls that come while the kernel is being told share the next transaction.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_network::{Backend, Network, PortKey, PublishMode, PublishedPort};

use crate::error::{EngineError, Result};
use crate::record::PortRecord;

#[derive(Debug)]
pub(crate) struct Publisher {
    network: Arc<Network>,
    wanted: Mutex<Wanted>,
    applied: tokio::sync::Mutex<Applied>,
}

/// What the kernel has.
#[derive(Debug, Default)]
struct Applied {
    version: u64,
    /// Ports that could not be had, with the reason: tried again from time to time.
    refused: BTreeMap<PortKey, String>,
}

#[derive(Debug, Default)]
struct Wanted {
    version: u64,
    members: BTreeMap<String, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    address: Ipv4Addr,
    ports: Vec<PortRecord>,
}

impl Publisher {
    pub(crate) fn new(network: Arc<Network>) -> Self {
        Self { network, wanted: Mutex::default(), applied: tokio::sync::Mutex::default() }
    }

    /// Lets traffic in. Ports without a number are left out.
    pub(crate) async fn enter(&self, container: &str, address: Ipv4Addr, ports: &[PortRecord]) -> Result<()> {
        if self.add(container, address, ports) { self.apply().await } else { Ok(()) }
    }

    /// Adds without telling the kernel: true when there is something to tell. [`Self::apply`] has to follow.
    pub(crate) fn add(&self, container: &str, address: Ipv4Addr, ports: &[PortRecord]) -> bool {
        let ports: Vec<_> = ports.iter().filter(|port| port.published != 0).cloned().collect();
        if ports.is_empty() {
            return false;
        }
        let mut wanted = self.wanted();
        wanted.members.insert(container.to_owned(), Member { address, ports });
        wanted.version += 1;
        true
    }

    /// Takes a container out of traffic; nothing to do is fine.
    pub(crate) async fn leave(&self, container: &str) -> Result<()> {
        {
            let mut wanted = self.wanted();
            if wanted.members.remove(container).is_none() {
                return Ok(());
            }
            wanted.version += 1;
        }
        self.apply().await
    }

    /// Tells the kernel in any case: it may know ports of earlier times.
    pub(crate) async fn refresh(&self) -> Result<()> {
        self.wanted().version += 1;
        self.apply().await
    }

    /// Makes the kernel know everything that was wanted before the call. With nothing new it tries once more what was
    /// refused, if anything was.
    pub(crate) async fn apply(&self) -> Result<()> {
        let version = self.wanted().version;
        let mut applied = self.applied.lock().await;
        if applied.version >= version && applied.refused.is_empty() {
            return Ok(());
        }
        let (version, ports) = {
            let wanted = self.wanted();
            (wanted.version, published(&wanted.members))
        };
        let network = self.network.clone();
        let report = tokio::task::spawn_blocking(move || network.set_published(ports))
            .await
            .map_err(|_| EngineError::Closing)??;
        let refused = report.refused.iter().map(|refused| (refused.port, refused.error.to_string()));
        let refused: BTreeMap<PortKey, String> = refused.collect();
        for (port, reason) in &refused {
            if applied.refused.get(port) != Some(reason) {
                tracing::error!(%port, reason, "cannot publish a port: it is tried again");
            }
        }
        *applied = Applied { version, refused };
        Ok(())
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn published(members: &BTreeMap<String, Member>) -> Vec<PublishedPort> {
    let mut ports: BTreeMap<PortKey, PublishedPort> = BTreeMap::new();
    for (container, member) in members {
        for port in &member.ports {
            let protocol = port.network_protocol();
            let mode = if port.host_mode { PublishMode::Host } else { PublishMode::Ingress };
            let backend = Backend { container: container.clone(), address: member.address, target_port: port.target };
            ports
                .entry(PortKey { protocol, port: port.published })
                .or_insert_with(|| PublishedPort { protocol, port: port.published, mode, backends: Vec::new() })
                .backends
                .push(backend);
        }
    }
    ports.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_the_ports_of_the_mesh() {
        let port = |target, published, host_mode| PortRecord {
            name: String::new(),
            protocol: "tcp".to_owned(),
            target,
            published,
            host_mode,
        };
        let member = |last, ports: Vec<PortRecord>| Member { address: Ipv4Addr::new(172, 18, 0, last), ports };
        let members = BTreeMap::from([
            ("a".to_owned(), member(2, vec![port(80, 8080, false)])),
            ("b".to_owned(), member(3, vec![port(80, 8080, false), port(81, 9090, true)])),
        ]);
        let ports = published(&members);
        assert_eq!(ports.len(), 2);
        assert_eq!((ports[0].port, ports[0].mode, ports[0].backends.len()), (8080, PublishMode::Ingress, 2));
        assert_eq!((ports[1].port, ports[1].mode, ports[1].backends.len()), (9090, PublishMode::Host, 1));
    }
}
