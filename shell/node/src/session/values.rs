//! Secrets and configs that the managers sent for the tasks of this node. They are held in memory, as long as a session says
//! that a task needs them, and are never written anywhere here.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_agent::{Assignment, Payload};
use skep_model::{ConfigId, ObjectId as _, SecretId};
use skep_wire::{AssignedValue, config_value, secret_value, swarmkit};
use swarmkit::assignment::Item;
use swarmkit::assignment_change::AssignmentAction;

/// What one stream of assignments has brought.
#[derive(Debug, Default)]
pub(super) struct Values {
    secrets: BTreeMap<SecretId, Arc<Payload>>,
    configs: BTreeMap<ConfigId, Arc<Payload>>,
}

impl Values {
    /// Takes secrets and configs out of a message, wherever in it they are, and gives back the rest: a task may come before
    /// what it needs.
    pub(super) fn take_in(&mut self, changes: Vec<swarmkit::AssignmentChange>) -> Vec<swarmkit::AssignmentChange> {
        let mut rest = Vec::with_capacity(changes.len());
        for change in changes {
            let is_update = change.action() == AssignmentAction::Update;
            match change.assignment {
                Some(swarmkit::Assignment { item: Some(Item::Secret(secret)) }) if is_update => {
                    match secret_value(secret) {
                        Ok((id, value)) => drop(self.secrets.insert(id, payload(value))),
                        Err(error) => tracing::error!(%error, "a secret is not understood"),
                    }
                }
                Some(swarmkit::Assignment { item: Some(Item::Config(config)) }) if is_update => {
                    match config_value(config) {
                        Ok((id, value)) => drop(self.configs.insert(id, payload(value))),
                        Err(error) => tracing::error!(%error, "a config is not understood"),
                    }
                }
                // Tasks that still have to start have their values already, and no new ones refer to it.
                Some(swarmkit::Assignment { item: Some(Item::Secret(secret)) }) => {
                    SecretId::parse(&secret.id).ok().map(|id| self.secrets.remove(&id));
                }
                Some(swarmkit::Assignment { item: Some(Item::Config(config)) }) => {
                    ConfigId::parse(&config.id).ok().map(|id| self.configs.remove(&id));
                }
                assignment => rest.push(swarmkit::AssignmentChange { assignment, action: change.action }),
            }
        }
        rest
    }

    /// The assignment with the values that its spec refers to. What is not there is left out: preparing the task says so.
    pub(super) fn filled(&self, mut assignment: Assignment) -> Assignment {
        let container = &assignment.spec.container;
        for reference in &container.secrets {
            if let Some(value) = self.secrets.get(&reference.secret_id) {
                assignment.secrets.insert(reference.secret_id, value.clone());
            }
        }
        for reference in &container.configs {
            if let Some(value) = self.configs.get(&reference.config_id) {
                assignment.configs.insert(reference.config_id, value.clone());
            }
        }
        assignment
    }
}

fn payload(value: AssignedValue) -> Arc<Payload> {
    let AssignedValue { name, data, is_template } = value;
    Arc::new(Payload { name, data, is_template })
}
