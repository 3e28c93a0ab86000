//! Requests about nodes.

use std::sync::Arc;

use skep_model::{Node, NodeId, NodeRole, NodeSpec, NodeState, Version};
use skep_store::{Change, State};

use crate::{Admitted, Code, Refusal};

pub(crate) fn update(view: &State, id: NodeId, version: Version, spec: NodeSpec) -> Result<Admitted, Refusal> {
    let node = find(view, id)?;
    if spec.role != node.spec.role {
        let managers = view.nodes().filter(|node| node.spec.role == NodeRole::Manager).count();
        return Err(match spec.role {
            NodeRole::Worker if managers <= 1 => {
                Refusal::new(Code::FailedPrecondition, "attempting to demote the last manager of the swarm")
            }
            _ => Refusal::unsupported("changing the role of a node"),
        });
    }
    let change = Change::SetNodeSpec { node: id, expect: version, spec };
    Ok(Admitted { changes: vec![change.into()], ..Admitted::default() })
}

pub(crate) fn remove(view: &State, id: NodeId, force: bool) -> Result<Admitted, Refusal> {
    let node = find(view, id)?;
    if node.manager.is_some() {
        let text = format!(
            "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
        );
        return Err(Refusal::new(Code::FailedPrecondition, text));
    }
    if node.observed.status.state == NodeState::Ready && !force {
        return Err(Refusal::new(Code::FailedPrecondition, format!("node {id} is not down and can't be removed")));
    }
    Ok(Admitted { changes: vec![Change::RemoveNode(id).into()], ..Admitted::default() })
}

fn find(view: &State, id: NodeId) -> Result<&Arc<Node>, Refusal> {
    view.node(id).ok_or_else(|| Refusal::new(Code::NotFound, format!("node {id} not found")))
}
