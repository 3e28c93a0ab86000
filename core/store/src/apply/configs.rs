//! How configs change: created whole, then only their labels, and removed when no service uses them.

use std::sync::Arc;

use skep_model::{Config, ConfigId, ConfigSpec, Labels, ServiceSpec, Version};

use super::{expect_version, new_meta, not_found};
use crate::state::NAMESPACE;
use crate::{Event, Rejection, State};

/// Every config that the spec refers to is there, under the name that it says.
pub(super) fn require(state: &State, spec: &ServiceSpec) -> Result<(), Rejection> {
    for reference in &spec.task.container.configs {
        if state.config(reference.config_id).is_none_or(|config| config.spec.name != reference.config_name) {
            return Err(Rejection::Unmet(format!("config not found: {}", reference.config_name)));
        }
    }
    Ok(())
}

pub(super) fn create(
    state: &mut State,
    id: ConfigId,
    spec: &Arc<ConfigSpec>,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let name = (NAMESPACE, spec.name.to_lowercase());
    if state.configs.contains_key(&id) {
        return Err(Rejection::Exists { kind: "config", id: id.to_string() });
    }
    if state.config_names.contains_key(&name) {
        return Err(Rejection::Exists { kind: "config", id: spec.name.clone() });
    }
    let config = Arc::new(Config { id, meta: new_meta(state), spec: spec.clone() });
    state.config_names.insert(name, id);
    state.configs.insert(id, config.clone());
    events.push(Event::Config(None, Some(config)));
    Ok(())
}

pub(super) fn set_labels(
    state: &mut State,
    id: ConfigId,
    expect: Version,
    labels: &Labels,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let before = state.configs.get(&id).cloned().ok_or_else(|| not_found("config", &id))?;
    expect_version(before.meta.version, expect)?;
    let mut config = (*before).clone();
    Arc::make_mut(&mut config.spec).labels.clone_from(labels);
    config.meta.version = Version(state.index);
    config.meta.updated_at = state.wall;
    let after = Arc::new(config);
    state.configs.insert(id, after.clone());
    events.push(Event::Config(Some(before), Some(after)));
    Ok(())
}

pub(super) fn remove(state: &mut State, id: ConfigId, events: &mut Vec<Event>) -> Result<(), Rejection> {
    let before = state.configs.get(&id).cloned().ok_or_else(|| not_found("config", &id))?;
    if let Some(service) = state.users_of_config(id).next() {
        let text = format!("config {} is in use by service {}", before.spec.name, service.spec.name);
        return Err(Rejection::Unmet(text));
    }
    state.configs.remove(&id);
    state.config_names.remove(&(NAMESPACE, before.spec.name.to_lowercase()));
    events.push(Event::Config(Some(before), None));
    Ok(())
}
