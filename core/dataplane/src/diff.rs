//! What separates two pictures of a node's network, so that the cost of a change follows what changed: links that come
//! and go, ports whose backends differ, and the flows that lost their backend.

use crate::network::{Backend, Bridge, Endpoint, NodeNetwork, PortKey, Protocol, PublishedPort};
use std::collections::BTreeMap;

/// What happened to one published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortChange {
    /// It is new.
    Added(PublishedPort),
    /// It leads elsewhere now.
    Replaced(PublishedPort),
    /// It is gone.
    Removed(PortKey),
}

impl PortChange {
    /// Which port.
    #[must_use]
    pub fn key(&self) -> PortKey {
        match self {
            Self::Added(port) | Self::Replaced(port) => port.key(),
            Self::Removed(key) => *key,
        }
    }
}

/// The steps from one picture to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDiff {
    /// The bridge wanted, when it differs: everything attached to it has to be looked at again.
    pub bridge: Option<Bridge>,
    /// Endpoints to remove; one that changed is removed and added.
    pub endpoints_removed: Vec<Endpoint>,
    /// Endpoints to add.
    pub endpoints_added: Vec<Endpoint>,
    /// Ports that differ, in the order of their keys.
    pub ports: Vec<PortChange>,
    /// Backends that a port no longer leads to: flows towards them are to be forgotten.
    pub backends_removed: Vec<(Protocol, Backend)>,
}

impl NetworkDiff {
    /// The steps from `old` to `new`.
    #[must_use]
    pub fn between(old: &NodeNetwork, new: &NodeNetwork) -> Self {
        let mut diff = Self { bridge: (old.bridge != new.bridge).then(|| new.bridge.clone()), ..Self::default() };
        diff.endpoints_removed = missing_or_changed(&old.endpoints, &new.endpoints);
        diff.endpoints_added = missing_or_changed(&new.endpoints, &old.endpoints);
        for (key, port) in &old.published {
            match new.published.get(key) {
                None => diff.ports.push(PortChange::Removed(*key)),
                Some(other) if other != port => diff.ports.push(PortChange::Replaced(other.clone())),
                Some(_) => {}
            }
            let kept = new.published.get(key).map_or(&[][..], |port| &port.backends);
            let lost = port.backends.iter().filter(|backend| !kept.contains(backend));
            diff.backends_removed.extend(lost.map(|backend| (key.protocol, backend.clone())));
        }
        let added = new.published.iter().filter(|(key, _)| !old.published.contains_key(key));
        diff.ports.extend(added.map(|(_, port)| PortChange::Added(port.clone())));
        diff.ports.sort_by_key(PortChange::key);
        diff
    }

    /// Is there nothing to do?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The values of `from` that `other` lacks or has differently.
fn missing_or_changed<V: Clone + PartialEq>(from: &BTreeMap<String, V>, other: &BTreeMap<String, V>) -> Vec<V> {
    from.iter().filter(|(key, value)| other.get(*key) != Some(value)).map(|(_, value)| value.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Protocol::{Tcp, Udp};
    use crate::network::PublishMode::{Host, Ingress};
    use crate::network::tests::{bridge, endpoint, port};

    #[test]
    fn equal_pictures_differ_in_nothing() {
        let network =
            NodeNetwork::from_parts(bridge(), vec![endpoint("a", 2)], vec![port(Tcp, 80, Host, &[("a", 2, 80)])]);
        let network = network.unwrap();
        assert!(NetworkDiff::between(&network, &network).is_empty());
    }

    #[test]
    fn only_what_changed_is_named() {
        let ends = || vec![endpoint("a", 2), endpoint("b", 3)];
        let old = vec![
            port(Tcp, 80, Ingress, &[("a", 2, 80), ("b", 3, 80)]),
            port(Tcp, 90, Ingress, &[("a", 2, 90)]),
            port(Udp, 53, Host, &[("a", 2, 53)]),
        ];
        let new = vec![
            port(Tcp, 70, Ingress, &[]),
            port(Tcp, 80, Ingress, &[("b", 3, 80)]),
            port(Tcp, 90, Ingress, &[("a", 2, 90)]),
        ];
        let mut added = ends();
        added.push(endpoint("c", 4));
        let old = NodeNetwork::from_parts(bridge(), ends(), old).unwrap();
        let new = NodeNetwork::from_parts(bridge(), added, new).unwrap();
        let diff = NetworkDiff::between(&old, &new);
        assert_eq!(diff.endpoints_added, [endpoint("c", 4)]);
        assert!(diff.endpoints_removed.is_empty() && diff.bridge.is_none());
        let ports: Vec<_> = diff.ports.iter().map(|change| change.key().to_string()).collect();
        assert_eq!(ports, ["70/tcp", "80/tcp", "53/udp"]);
        assert!(matches!(diff.ports[..], [PortChange::Added(_), PortChange::Replaced(_), PortChange::Removed(_)]));
        let lost: Vec<_> = diff.backends_removed.iter().map(|(p, b)| format!("{p} {}", b.container)).collect();
        assert_eq!(lost, ["tcp a", "udp a"]);
    }

    #[test]
    fn a_changed_endpoint_is_removed_and_added() {
        let old = NodeNetwork::from_parts(bridge(), vec![endpoint("a", 2)], vec![]).unwrap();
        let new = NodeNetwork::from_parts(bridge(), vec![endpoint("a", 9)], vec![]).unwrap();
        let diff = NetworkDiff::between(&old, &new);
        assert_eq!((diff.endpoints_removed, diff.endpoints_added), (vec![endpoint("a", 2)], vec![endpoint("a", 9)]));
    }
}
