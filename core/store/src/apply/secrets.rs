//! How secrets change: created whole, then only their labels, and removed when no service uses them.

use std::sync::Arc;

use skep_model::{Labels, Lineage, Secret, SecretId, SecretSpec, ServiceSpec, Version};

use super::{expect_version, new_meta, not_found};
use crate::state::NAMESPACE;
use crate::{Event, Rejection, State};

/// Every secret that the spec refers to is there, under the name that it says.
pub(super) fn require(state: &State, spec: &ServiceSpec) -> Result<(), Rejection> {
    for reference in &spec.task.container.secrets {
        if state.secret(reference.secret_id).is_none_or(|secret| secret.spec.name != reference.secret_name) {
            return Err(Rejection::Unmet(format!("secret not found: {}", reference.secret_name)));
        }
    }
    Ok(())
}

pub(super) fn create(
    state: &mut State,
    id: SecretId,
    spec: &Arc<SecretSpec>,
    lineage: &Lineage,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let name = (NAMESPACE, spec.name.to_lowercase());
    if state.secrets.contains_key(&id) {
        return Err(Rejection::Exists { kind: "secret", id: id.to_string() });
    }
    if state.secret_names.contains_key(&name) {
        return Err(Rejection::Exists { kind: "secret", id: spec.name.clone() });
    }
    let secret = Arc::new(Secret { id, meta: new_meta(state), spec: spec.clone(), lineage: lineage.clone() });
    state.secret_names.insert(name, id);
    state.secrets.insert(id, secret.clone());
    events.push(Event::Secret(None, Some(secret)));
    Ok(())
}

pub(super) fn set_labels(
    state: &mut State,
    id: SecretId,
    expect: Version,
    labels: &Labels,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let before = state.secrets.get(&id).cloned().ok_or_else(|| not_found("secret", &id))?;
    expect_version(before.meta.version, expect)?;
    let mut secret = (*before).clone();
    Arc::make_mut(&mut secret.spec).labels.clone_from(labels);
    secret.meta.version = Version(state.index);
    secret.meta.updated_at = state.wall;
    let after = Arc::new(secret);
    state.secrets.insert(id, after.clone());
    events.push(Event::Secret(Some(before), Some(after)));
    Ok(())
}

pub(super) fn remove(state: &mut State, id: SecretId, events: &mut Vec<Event>) -> Result<(), Rejection> {
    let before = state.secrets.get(&id).cloned().ok_or_else(|| not_found("secret", &id))?;
    if let Some(service) = state.users_of_secret(id).next() {
        let text = format!("secret {} is in use by service {}", before.spec.name, service.spec.name);
        return Err(Rejection::Unmet(text));
    }
    state.secrets.remove(&id);
    state.secret_names.remove(&(NAMESPACE, before.spec.name.to_lowercase()));
    events.push(Event::Secret(Some(before), None));
    Ok(())
}
