//! Which slots a service gives up when it shrinks, and which it fills when it grows (SwarmKit
//! `manager/orchestrator/replicated`), with an order that does not depend on chance.

use std::collections::BTreeMap;

use skep_model::NodeId;

/// What counts of a slot when a service shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotLoad {
    /// Its number.
    pub(crate) number: u64,
    /// One of its tasks runs.
    pub(crate) is_running: bool,
    /// The node of its only task; `None` when it has none yet, or the slot has several tasks.
    pub(crate) node: Option<NodeId>,
}

/// The slots to give up so that `keep` remain: first those that are not settled on a node, then those on the most crowded
/// nodes, there first what does not run, then the highest numbers.
pub(crate) fn surplus(mut slots: Vec<SlotLoad>, keep: usize) -> Vec<u64> {
    slots.sort_by_key(|slot| (!slot.is_running, slot.number));
    let mut on_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut ordered: Vec<(usize, SlotLoad)> = slots
        .into_iter()
        .map(|slot| {
            let Some(node) = slot.node else { return (usize::MAX, slot) };
            let copies = on_node.entry(node).or_default();
            *copies += 1;
            (*copies, slot)
        })
        .collect();
    ordered.sort_by_key(|(copies, _)| *copies); // stable: ties keep the order from above
    ordered.split_off(keep.min(ordered.len())).into_iter().map(|(_, slot)| slot.number).collect()
}

/// The lowest free slot numbers, from 1.
pub(crate) fn free_numbers(mut is_taken: impl FnMut(u64) -> bool) -> impl Iterator<Item = u64> {
    (1..=u64::MAX).filter(move |number| !is_taken(*number))
}
