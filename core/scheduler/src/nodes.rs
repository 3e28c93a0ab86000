//! What each node has, runs and lately failed at: the scheduler's own table, kept from events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_model::{ClusterTime, Node, NodeId, Protocol, ServiceId, SpecVersion};

use crate::needs::{Needs, generic_by_kind};

/// A task counts as failing on a node when it failed there this often (SwarmKit `scheduler.go`).
pub(crate) const FAILURES_MAX: usize = 5;
/// Failures older than this do not count (SwarmKit `scheduler.go`).
pub(crate) const FAILURE_WINDOW: Duration = Duration::from_secs(5 * 60);

/// Names what tasks of a group have in common.
pub(crate) type GroupKey = (ServiceId, SpecVersion);

/// One node with all that counts for placing tasks on it.
#[derive(Debug)]
pub(crate) struct NodeInfo {
    /// The object; `None` while tasks are counted on a node that was removed.
    pub(crate) node: Option<Arc<Node>>,
    cpus_used: i64,
    memory_used: i64,
    generic_total: BTreeMap<String, i64>,
    generic_used: BTreeMap<String, i64>,
    host_ports: BTreeMap<(Protocol, u16), u32>,
    tasks: u64,
    tasks_of: BTreeMap<ServiceId, u64>,
    /// Every task that is counted here, wanted or not.
    occupants: u64,
    failures: BTreeMap<GroupKey, Vec<ClusterTime>>,
}

impl NodeInfo {
    fn new() -> Self {
        Self {
            node: None,
            cpus_used: 0,
            memory_used: 0,
            generic_total: BTreeMap::new(),
            generic_used: BTreeMap::new(),
            host_ports: BTreeMap::new(),
            tasks: 0,
            tasks_of: BTreeMap::new(),
            occupants: 0,
            failures: BTreeMap::new(),
        }
    }

    fn set_node(&mut self, node: Option<Arc<Node>>) {
        let description = node.as_ref().and_then(|node| node.observed.description.as_ref());
        self.generic_total = description.map(|described| generic_by_kind(&described.resources)).unwrap_or_default();
        self.node = node;
    }

    /// Wanted tasks on it.
    pub(crate) fn tasks(&self) -> u64 {
        self.tasks
    }

    /// Wanted tasks of one service on it.
    pub(crate) fn tasks_of(&self, service: ServiceId) -> u64 {
        self.tasks_of.get(&service).copied().unwrap_or(0)
    }

    /// How many more tasks its free resources carry.
    pub(crate) fn room_by_resources(&self, needs: &Needs) -> u64 {
        let has = self.node.as_ref().and_then(|node| node.observed.description.as_ref());
        let (cpus, memory) = has.map_or((0, 0), |described| (described.cpus().0, described.memory().0));
        let mut room = times(cpus.saturating_sub(self.cpus_used), needs.cpus);
        room = room.min(times(memory.saturating_sub(self.memory_used), needs.memory));
        for (kind, asked) in &needs.generic {
            let amount = |of: &BTreeMap<String, i64>| of.get(kind).copied().unwrap_or(0);
            room = room.min(times(amount(&self.generic_total).saturating_sub(amount(&self.generic_used)), *asked));
        }
        room
    }

    /// True when a task may bind these ports here.
    pub(crate) fn has_ports_free(&self, needs: &Needs) -> bool {
        needs.host_ports.iter().all(|port| !self.host_ports.contains_key(port))
    }

    /// Failures that count against a group now; 0 below [`FAILURES_MAX`].
    pub(crate) fn failures_counted(&self, group: GroupKey, now: ClusterTime) -> usize {
        let recent = self
            .failures
            .get(&group)
            .map_or(0, |times| times.iter().filter(|at| now.since(**at) < FAILURE_WINDOW).count());
        if recent >= FAILURES_MAX { recent } else { 0 }
    }

    fn is_forgettable(&self) -> bool {
        self.node.is_none() && self.occupants == 0
    }
}

/// How often `asked` fits into `free`.
fn times(free: i64, asked: i64) -> u64 {
    if asked <= 0 { u64::MAX } else { u64::try_from(free / asked).unwrap_or(0) }
}

/// One task's share of a node.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) node: NodeId,
    pub(crate) service: ServiceId,
    /// It is wanted, so it counts when tasks are spread.
    pub(crate) is_wanted: bool,
    pub(crate) needs: Arc<Needs>,
}

/// All nodes by id.
#[derive(Debug, Default)]
pub(crate) struct NodeTable {
    nodes: BTreeMap<NodeId, NodeInfo>,
}

impl NodeTable {
    /// Records that a node appeared, changed or was removed.
    pub(crate) fn set_node(&mut self, id: NodeId, node: Option<Arc<Node>>) {
        let info = self.nodes.entry(id).or_insert_with(NodeInfo::new);
        info.set_node(node);
        if info.is_forgettable() {
            self.nodes.remove(&id);
        }
    }

    /// Counts a task on its node.
    pub(crate) fn occupy(&mut self, share: &Share) {
        let info = self.nodes.entry(share.node).or_insert_with(NodeInfo::new);
        info.occupants += 1;
        info.cpus_used = info.cpus_used.saturating_add(share.needs.cpus);
        info.memory_used = info.memory_used.saturating_add(share.needs.memory);
        for (kind, amount) in &share.needs.generic {
            *info.generic_used.entry(kind.clone()).or_default() += amount;
        }
        for port in &share.needs.host_ports {
            *info.host_ports.entry(*port).or_default() += 1;
        }
        if share.is_wanted {
            info.tasks += 1;
            *info.tasks_of.entry(share.service).or_default() += 1;
        }
    }

    /// Takes back what [`Self::occupy`] counted.
    pub(crate) fn vacate(&mut self, share: &Share) {
        let Some(info) = self.nodes.get_mut(&share.node) else { return };
        info.occupants = info.occupants.saturating_sub(1);
        info.cpus_used = info.cpus_used.saturating_sub(share.needs.cpus);
        info.memory_used = info.memory_used.saturating_sub(share.needs.memory);
        for (kind, amount) in &share.needs.generic {
            take(&mut info.generic_used, kind.clone(), *amount);
        }
        for port in &share.needs.host_ports {
            take(&mut info.host_ports, *port, 1);
        }
        if share.is_wanted {
            info.tasks = info.tasks.saturating_sub(1);
            take(&mut info.tasks_of, share.service, 1);
        }
        if info.is_forgettable() {
            self.nodes.remove(&share.node);
        }
    }

    /// Remembers that a task of a group failed on a node.
    pub(crate) fn record_failure(&mut self, node: NodeId, group: GroupKey, at: ClusterTime, now: ClusterTime) {
        let Some(info) = self.nodes.get_mut(&node) else { return };
        info.failures.retain(|_, times| times.last().is_some_and(|last| now.since(*last) < FAILURE_WINDOW));
        let times = info.failures.entry(group).or_default();
        times.retain(|at| now.since(*at) < FAILURE_WINDOW);
        // More than the limit only ranks failing nodes among themselves, so it is bounded.
        if times.len() < 4 * FAILURES_MAX {
            times.push(at);
        }
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &NodeInfo)> {
        self.nodes.iter().map(|(id, info)| (*id, info))
    }
}

fn take<K: Ord, N: Copy + Ord + std::ops::SubAssign + Default>(amounts: &mut BTreeMap<K, N>, key: K, amount: N) {
    if let Some(stored) = amounts.get_mut(&key) {
        if *stored <= amount {
            amounts.remove(&key);
        } else {
            *stored -= amount;
        }
    }
}
