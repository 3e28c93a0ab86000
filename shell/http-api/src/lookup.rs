//! Which object a name in a path means: full id, then exact name, then unique id prefix, with Docker's texts.

use std::sync::Arc;

use skep_model::{Config, ConfigId, Node, NodeId, ObjectId, Secret, SecretId, Service, ServiceId, Task, TaskId};
use skep_store::State;

use crate::ApiError;

/// A service by id, name or id prefix.
pub(crate) fn service<'a>(state: &'a State, text: &str) -> Result<&'a Arc<Service>, ApiError> {
    let by_id = ServiceId::parse(text).ok().and_then(|id| state.service(id));
    match by_id.or_else(|| state.service_by_name(text)) {
        Some(service) => Ok(service),
        None => unique("service", text, state.services().filter(|service| service.id.as_str().starts_with(text))),
    }
}

/// A node by id, name (the spec's or the host's) or id prefix.
pub(crate) fn node<'a>(state: &'a State, text: &str) -> Result<&'a Arc<Node>, ApiError> {
    if let Some(node) = NodeId::parse(text).ok().and_then(|id| state.node(id)) {
        return Ok(node);
    }
    let hostname = |node: &Node| node.observed.description.as_ref().is_some_and(|about| about.hostname == text);
    let mut named = state.nodes().filter(|node| node.spec.name == text || hostname(node)).peekable();
    if !text.is_empty() && named.peek().is_some() {
        return unique("node", text, named);
    }
    unique("node", text, state.nodes().filter(|node| node.id.as_str().starts_with(text)))
}

/// A secret by id, name or id prefix.
pub(crate) fn secret<'a>(state: &'a State, text: &str) -> Result<&'a Arc<Secret>, ApiError> {
    let by_id = SecretId::parse(text).ok().and_then(|id| state.secret(id));
    match by_id.or_else(|| state.secret_by_name(text)) {
        Some(secret) => Ok(secret),
        None => unique("secret", text, state.secrets().filter(|secret| secret.id.as_str().starts_with(text))),
    }
}

/// A config by id, name or id prefix.
pub(crate) fn config<'a>(state: &'a State, text: &str) -> Result<&'a Arc<Config>, ApiError> {
    let by_id = ConfigId::parse(text).ok().and_then(|id| state.config(id));
    match by_id.or_else(|| state.config_by_name(text)) {
        Some(config) => Ok(config),
        None => unique("config", text, state.configs().filter(|config| config.id.as_str().starts_with(text))),
    }
}

/// A task by id or id prefix.
pub(crate) fn task<'a>(state: &'a State, text: &str) -> Result<&'a Arc<Task>, ApiError> {
    if let Some(task) = TaskId::parse(text).ok().and_then(|id| state.task(id)) {
        return Ok(task);
    }
    unique("task", text, state.tasks().filter(|task| task.id.as_str().starts_with(text)))
}

fn unique<'a, T>(kind: &str, text: &str, mut found: impl Iterator<Item = &'a T>) -> Result<&'a T, ApiError> {
    let missing = || ApiError::not_found(format!("{kind} {text} not found"));
    if text.is_empty() {
        return Err(missing());
    }
    let first = found.next().ok_or_else(missing)?;
    match found.count() {
        0 => Ok(first),
        more => Err(ApiError::internal(format!("{kind} {text} is ambiguous ({} matches found)", more + 1))),
    }
}
