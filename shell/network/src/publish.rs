//! Publishing: which of the wanted ports can be had, and the kernel's rules made to show them.

use crate::error::{NetworkError, Result};
use crate::namespace;
use crate::network::{Network, PublishReport, RefusedPort};
use crate::ports::ReservedPorts;
use skep_dataplane::network::check_container_id;
use skep_dataplane::{
    Endpoint, NetworkDiff, NodeNetwork, PortChange, PortKey, Protocol, PublishMode, PublishedPort, ruleset,
};
use std::collections::{BTreeMap, BTreeSet};

impl Network {
    /// Replaces the published ports; returns when the kernel has them. Ports that cannot be published are named in
    /// the report, the others are published all the same. Concurrent calls share transactions; the last one wins.
    pub fn set_published(&self, wanted: Vec<PublishedPort>) -> Result<PublishReport> {
        let mut report = PublishReport::default();
        let mut guard = self.ports();
        let ports = &mut *guard;
        let endpoints = self.picture().network.endpoints.clone();
        let accepted = namespace::within(&self.home, || Ok(accept(wanted, &endpoints, ports, &mut report)))?;
        {
            let mut picture = self.picture();
            picture.network.published = accepted;
            // A container may have gone between the check and now.
            let gone: Vec<_> =
                endpoints.keys().filter(|id| !picture.network.endpoints.contains_key(*id)).cloned().collect();
            gone.iter().for_each(|container| picture.network.withdraw(container));
            self.state.set_published(picture.network.published.values())?;
        }
        drop(guard);
        self.flush()?;
        let mut ports = self.ports();
        let picture = self.picture();
        let unused: Vec<_> = ports.unowned().filter(|key| !picture.network.published.contains_key(key)).collect();
        unused.into_iter().for_each(|key| ports.release(key));
        Ok(report)
    }

    /// Reserves a host-mode port for the container before it starts, until its endpoint is removed: `port`, or with 0
    /// a free one between 32768 and 60999. Says which.
    pub fn reserve_host_port(&self, container: &str, protocol: Protocol, port: u16) -> Result<u16> {
        check_container_id(container)?;
        let mut guard = self.ports();
        let ports = &mut *guard;
        namespace::within(&self.home, || match port {
            0 => ports.reserve_any(protocol, container),
            port => ports.reserve(PortKey { protocol, port }, Some(container)).map(|()| port),
        })
    }

    /// Makes the kernel's rules show the picture. Whoever waits here while another call works finds its own change
    /// done when it gets its turn.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut applied = self.applied();
        let wanted = self.picture().network.clone();
        let (transaction, diff) = match &*applied {
            None => {
                (Some(ruleset::full(&wanted)), NetworkDiff::between(&NodeNetwork::new(wanted.bridge.clone()), &wanted))
            }
            Some(old) => {
                let diff = NetworkDiff::between(old, &wanted);
                let is_enough = ruleset::is_same_base(old, &wanted);
                (if is_enough { ruleset::update(&diff) } else { Some(ruleset::full(&wanted)) }, diff)
            }
        };
        if let Some(transaction) = transaction {
            *applied = None;
            self.nft.apply(&self.home, &transaction)?;
        }
        *applied = Some(wanted.clone());
        drop(applied);
        self.forget_redirected(&diff, &wanted)
    }

    /// UDP has no end of a connection: a client that goes on sending would be led for ever where its first datagram
    /// was led, to a backend that is gone, or to nobody.
    fn forget_redirected(&self, diff: &NetworkDiff, network: &NodeNetwork) -> Result<()> {
        let changed: BTreeSet<u16> = diff
            .ports
            .iter()
            .map(PortChange::key)
            .filter(|key| key.protocol == Protocol::Udp)
            .map(|key| key.port)
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let subnets: Vec<_> = network.all_bridges().map(|(_, bridge)| bridge.subnet).collect();
        let is_ours = |address| subnets.iter().any(|subnet| subnet.contains(address));
        self.forget(|flow| {
            let port = flow.original.destination_port;
            let key = PortKey { protocol: Protocol::Udp, port };
            // A container's own traffic to the same port of some server elsewhere is none of ours.
            let passing = is_ours(flow.original.source) && !is_ours(flow.reply.source);
            let backends = network.published.get(&key).map_or(&[][..], |published| &published.backends);
            let current = backends
                .iter()
                .any(|backend| (backend.address, backend.target_port) == (flow.reply.source, flow.reply.source_port));
            flow.original.protocol == Protocol::Udp.number() && changed.contains(&port) && !passing && !current
        })
        .map(drop)
    }
}

/// Which of the wanted ports can be published: each is checked and held; the first of two for one port wins.
pub(crate) fn accept(
    wanted: Vec<PublishedPort>,
    endpoints: &BTreeMap<String, Endpoint>,
    held: &mut ReservedPorts,
    report: &mut PublishReport,
) -> BTreeMap<PortKey, PublishedPort> {
    let mut accepted = BTreeMap::new();
    for port in wanted.into_iter().map(PublishedPort::normalized) {
        let key = port.key();
        let owner = match (port.mode, port.backends.first()) {
            (PublishMode::Host, Some(backend)) => Some(backend.container.as_str()),
            _ => None,
        };
        let nobody = port.mode == PublishMode::Host && port.backends.is_empty();
        let checked = if accepted.contains_key(&key) {
            Err(skep_dataplane::NetworkError::PortTwice(key).into())
        } else if nobody {
            // Its container holds it, or did.
            port.validate(endpoints).map_err(NetworkError::from)
        } else {
            port.validate(endpoints).map_err(NetworkError::from).and_then(|()| held.reserve(key, owner))
        };
        match checked {
            Ok(()) => drop(accepted.insert(key, port)),
            Err(error) => report.refused.push(RefusedPort { port: key, error }),
        }
    }
    accepted
}
