//! Which of the fitting nodes takes the next task: branches of spread preferences first, the least busy node within.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use skep_model::NodeId;

/// A node that can take at least one task, ordered by how good it is: the smallest is the best. (SwarmKit's `nodeLess`, with
/// ties broken by id.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    /// Failures of the group there that count.
    pub(crate) failures: usize,
    /// Tasks of the service there.
    pub(crate) service_tasks: u64,
    /// All tasks there.
    pub(crate) tasks: u64,
    /// The node.
    pub(crate) node: NodeId,
    /// How many tasks of the group it takes.
    pub(crate) room: u64,
}

/// One node as the tree is told of it: where in the tree it is, what runs there, and whether it can take more.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    /// The node's values of the labels to spread over, most important first.
    pub(crate) path: Vec<&'a str>,
    /// Tasks of the service there; also of nodes that take no more.
    pub(crate) service_tasks: u64,
    /// Set when it takes tasks.
    pub(crate) candidate: Option<Candidate>,
}

/// Nodes in the branches of their labels.
#[derive(Debug)]
pub(crate) enum Tree {
    /// Nodes of one branch, the best on top.
    Leaf(BinaryHeap<Reverse<Candidate>>),
    /// Branches by label value, the one with the fewest tasks on top.
    Branches {
        /// The branches, in the order of their label values.
        children: Vec<Tree>,
        /// Tasks of the service in a branch, and which one; branches without room are dropped.
        order: BinaryHeap<Reverse<(u64, usize)>>,
    },
}

impl Tree {
    /// Builds the tree over `depth` labels.
    pub(crate) fn new(members: Vec<Member<'_>>, depth: usize) -> Self {
        Self::at(members, 0, depth)
    }

    fn at(members: Vec<Member<'_>>, level: usize, depth: usize) -> Self {
        if level == depth {
            return Self::Leaf(members.into_iter().filter_map(|member| member.candidate.map(Reverse)).collect());
        }
        let mut branches: BTreeMap<&str, Vec<Member<'_>>> = BTreeMap::new();
        for member in members {
            branches.entry(member.path[level]).or_default().push(member);
        }
        let mut children = Vec::with_capacity(branches.len());
        let mut order = BinaryHeap::with_capacity(branches.len());
        for (index, members) in branches.into_values().enumerate() {
            order.push(Reverse((members.iter().map(|member| member.service_tasks).sum(), index)));
            children.push(Self::at(members, level + 1, depth));
        }
        Self::Branches { children, order }
    }

    /// Gives one task to the best node of the least loaded branch; `None` when no node takes one.
    pub(crate) fn take(&mut self) -> Option<NodeId> {
        match self {
            Self::Leaf(heap) => {
                let mut best = heap.peek_mut()?;
                let node = best.0.node;
                if best.0.room <= 1 {
                    std::collections::binary_heap::PeekMut::pop(best);
                } else {
                    best.0.room -= 1;
                    best.0.service_tasks += 1;
                    best.0.tasks += 1;
                }
                Some(node)
            }
            Self::Branches { children, order } => loop {
                let Reverse((tasks, index)) = order.pop()?;
                if let Some(node) = children[index].take() {
                    order.push(Reverse((tasks + 1, index)));
                    return Some(node);
                }
            },
        }
    }
}
