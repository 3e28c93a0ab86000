//! Who holds which published port, and which is free (SwarmKit `manager/allocator/portallocator.go`).

use std::collections::BTreeMap;

use skep_model::{PortConfig, Protocol, PublishMode, ServiceId};

/// First port that skep chooses itself.
pub const DYNAMIC_FIRST: u16 = 30_000;
/// Last port that skep chooses itself.
pub const DYNAMIC_LAST: u16 = 32_767;

/// A port of the routing mesh. Each protocol has a space of its own.
pub(crate) type PortKey = (Protocol, u16);

/// How a service holds a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hold {
    /// Its endpoint names the port.
    pub(crate) by_service: bool,
    /// Tasks that were given the port and have not ended.
    pub(crate) tasks: u64,
}

/// All ports that somebody holds.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    held: BTreeMap<PortKey, BTreeMap<ServiceId, Hold>>,
    next: BTreeMap<Protocol, u16>,
}

/// Why a service cannot have its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortConflict {
    /// Another holds this port.
    Held {
        /// Which port.
        port: PortKey,
        /// Who.
        by: ServiceId,
        /// How.
        hold: Hold,
    },
    /// Every port that could be chosen is held.
    Exhausted(Protocol),
}

impl PortTable {
    /// Changes how a service holds a port; true when it holds it no longer.
    pub(crate) fn change(&mut self, port: PortKey, service: ServiceId, edit: impl FnOnce(&mut Hold)) -> bool {
        let holders = self.held.entry(port).or_default();
        let hold = holders.entry(service).or_default();
        edit(hold);
        if *hold != Hold::default() {
            return false;
        }
        holders.remove(&service);
        if holders.is_empty() {
            self.held.remove(&port);
        }
        true
    }

    /// Who else than this service holds a port.
    fn other_holder(&self, port: PortKey, service: ServiceId) -> Option<(ServiceId, Hold)> {
        self.held.get(&port)?.iter().find(|(id, _)| **id != service).map(|(id, hold)| (*id, *hold))
    }

    /// Fills in the published numbers of what a service asks for. Numbers that skep chose before are kept for ports that are
    /// asked for again; new ones are the next free of the range, so that a port is not used again soon.
    pub(crate) fn choose(
        &mut self,
        service: ServiceId,
        wanted: &[PortConfig],
        before: &[PortConfig],
    ) -> Result<Vec<PortConfig>, PortConflict> {
        let mut chosen: Vec<PortConfig> = wanted.to_vec();
        let mut taken: Vec<PortKey> = Vec::new();
        for port in chosen.iter().filter(|port| is_ingress(port) && port.published_port != 0) {
            let key = (port.protocol, port.published_port);
            if let Some((by, hold)) = self.other_holder(key, service) {
                return Err(PortConflict::Held { port: key, by, hold });
            }
            taken.push(key);
        }
        let is_same = |a: &PortConfig, b: &PortConfig| {
            (&a.name, a.protocol, a.target_port, a.mode) == (&b.name, b.protocol, b.target_port, b.mode)
        };
        for port in chosen.iter_mut().filter(|port| is_ingress(port) && port.published_port == 0) {
            let kept = before
                .iter()
                .filter(|old| is_same(port, old))
                .map(|old| (old.protocol, old.published_port))
                .find(|key| !taken.contains(key) && self.other_holder(*key, service).is_none());
            let key = match kept {
                Some(key) => key,
                None => self.next_free(port.protocol, &taken).ok_or(PortConflict::Exhausted(port.protocol))?,
            };
            taken.push(key);
            port.published_port = key.1;
        }
        Ok(chosen)
    }

    fn next_free(&mut self, protocol: Protocol, taken: &[PortKey]) -> Option<PortKey> {
        let start = self.next.get(&protocol).copied().unwrap_or_else(|| self.after_highest(protocol));
        let free = (start..=DYNAMIC_LAST)
            .chain(DYNAMIC_FIRST..start)
            .find(|number| !self.held.contains_key(&(protocol, *number)) && !taken.contains(&(protocol, *number)))?;
        self.next.insert(protocol, following(free));
        Some((protocol, free))
    }

    /// Where a table without memory goes on: behind the highest chosen port.
    fn after_highest(&self, protocol: Protocol) -> u16 {
        let range = (protocol, DYNAMIC_FIRST)..=(protocol, DYNAMIC_LAST);
        self.held.range(range).next_back().map_or(DYNAMIC_FIRST, |((_, number), _)| following(*number))
    }
}

fn following(number: u16) -> u16 {
    if number >= DYNAMIC_LAST { DYNAMIC_FIRST } else { number + 1 }
}

/// The ports of a list that are unique in the cluster.
pub(crate) fn ingress_keys(ports: &[PortConfig]) -> impl Iterator<Item = PortKey> {
    ports
        .iter()
        .filter(|port| is_ingress(port) && port.published_port != 0)
        .map(|port| (port.protocol, port.published_port))
}

fn is_ingress(port: &PortConfig) -> bool {
    port.mode == PublishMode::Ingress
}
