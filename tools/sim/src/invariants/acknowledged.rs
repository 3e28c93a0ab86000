//! What a user was told is committed stays: services exist as acknowledged until their removal is acknowledged, and none
//! exists that nobody asked for. Source: style §3, only a committed entry changes the store, and every field has one writer.

use std::collections::BTreeMap;

use skep_admission::Request;
use skep_model::ServiceId;
use skep_store::{Event, State};

use super::Commit;

/// What users were told.
#[derive(Debug, Default)]
pub(crate) struct History {
    replicas: BTreeMap<ServiceId, u64>,
}

impl History {
    /// A user gets an answer.
    pub(crate) fn acknowledge(
        &mut self,
        request: &Request,
        created: Option<ServiceId>,
        is_committed: bool,
        after: &State,
    ) {
        if !is_committed {
            return;
        }
        match request {
            Request::CreateService(definition) => {
                self.replicas.extend(created.map(|service| (service, definition.replicas)));
            }
            Request::UpdateService { service, definition, .. } => {
                self.replicas.insert(*service, definition.replicas);
            }
            Request::RollbackService { service, .. } => {
                self.replicas.extend(after.service(*service).map(|found| (*service, found.replicas)));
            }
            Request::RemoveService(service) => {
                self.replicas.remove(service);
            }
            // Not about services.
            _ => {}
        }
    }
}

pub(super) fn check(commit: &Commit<'_>, history: &mut History, found: &mut Vec<String>) {
    for event in commit.events {
        // The orchestrator may return to what the user asked for before.
        if let Event::Service(Some(before), Some(after)) = event
            && after.update.as_ref().is_some_and(|update| update.message.starts_with("update rolled back"))
            && before.previous.as_ref().is_some_and(|previous| Some(previous.replicas) == Some(after.replicas))
            && after.previous.is_none()
        {
            history.replicas.insert(after.id, after.replicas);
        }
    }
    let stored: BTreeMap<_, _> = commit.after.services().map(|service| (service.id, service.replicas)).collect();
    if stored != history.replicas {
        found.push(format!("users were told {:?}, stored is {stored:?}", history.replicas));
    }
}
