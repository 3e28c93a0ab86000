//! Global services: one task on every node that is to have one (SwarmKit `manager/orchestrator/global`).

use skep_control::{Env, Plan};
use skep_model::{Availability, DesiredState, NodeId, RestartHistory, Service};
use skep_store::{AtomicGroup, Change, NewTask, Precondition, State, fulfils};

use crate::orchestrator::Orchestrator;
use crate::slots::SlotKey;

/// What a node is to a global service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has a task.
    Open,
    /// It keeps the task it has, and gets no other: it is paused.
    Frozen,
    /// It has no task: it is down or drained, or does not fulfil the constraints.
    Closed,
    /// It is no node of the cluster any more; even its history goes.
    Gone,
}

/// What a node is to a global service. Like SwarmKit only constraints are looked at here; what else a node may lack keeps its
/// task pending, with the scheduler's reason.
pub(crate) fn standing(view: &State, service: &Service, node: NodeId) -> Standing {
    let Some(node) = view.node(node) else { return Standing::Gone };
    if node.loses_tasks() || !fulfils(node, &service.spec.task.placement) {
        Standing::Closed
    } else if node.spec.availability == Availability::Pause {
        Standing::Frozen
    } else {
        Standing::Open
    }
}

impl Orchestrator {
    /// Gives a node its task.
    pub(crate) fn fill(&mut self, service: &Service, key: SlotKey, env: &mut Env, plan: &mut Plan) {
        let new = NewTask {
            id: env.rng.id(),
            service_id: service.id,
            slot: key.1,
            spec_version: service.spec_version,
            history: RestartHistory::default(),
            desired: DesiredState::Running,
            start_at: None,
            start_after: None,
            by_update: false,
        };
        let id = new.id;
        let group = AtomicGroup::of(Change::CreateTask(Box::new(new)))
            .when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version });
        self.index.set_occupied(key, true);
        self.propose(plan, key, &[(id, None)], group);
    }
}
