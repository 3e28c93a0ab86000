//! Requests about secrets and configs (SwarmKit `manager/controlapi/secret.go` and `config.go`).

use std::sync::Arc;

use skep_model::{
    CONFIG_SIZE_LIMIT, ConfigId, ConfigSpec, Driver, Labels, Lineage, SECRET_SIZE_LIMIT, SecretId, SecretSpec, Service,
    TEMPLATE_DRIVER, Version, check_object_name,
};
use skep_store::{Change, State};

use crate::{Admitted, Code, Refusal};

pub(crate) fn create_secret(view: &State, id: SecretId, spec: SecretSpec, size: usize) -> Result<Admitted, Refusal> {
    check_name(&spec.name)?;
    if let Some(driver) = &spec.driver {
        if driver.name.is_empty() {
            return Err(Refusal::invalid("driver must have a name"));
        }
        return Err(Refusal::unsupported(format!("secret driver {:?} (--driver)", driver.name)));
    }
    check_size("secret", size, SECRET_SIZE_LIMIT)?;
    check_template(spec.templating.as_ref())?;
    if view.secret_by_name(&spec.name).is_some() {
        return Err(exists("secret", &spec.name));
    }
    let lineage = Lineage { family: spec.name.clone(), generation: 1 };
    admitted(Change::CreateSecret { secret: id, spec: Arc::new(spec), lineage })
}

pub(crate) fn update_secret(
    view: &State,
    id: SecretId,
    version: Version,
    name: &str,
    labels: Labels,
    is_same_data: bool,
) -> Result<Admitted, Refusal> {
    let stored = view.secret(id).ok_or_else(|| not_found("secret", id))?;
    check_only_labels(&stored.spec.name, name, is_same_data)?;
    admitted(Change::SetSecretLabels { secret: id, expect: version, labels })
}

pub(crate) fn remove_secret(view: &State, id: SecretId) -> Result<Admitted, Refusal> {
    let stored = view.secret(id).ok_or_else(|| not_found("secret", id))?;
    check_unused("secret", &stored.spec.name, view.users_of_secret(id))?;
    admitted(Change::RemoveSecret(id))
}

pub(crate) fn create_config(view: &State, id: ConfigId, spec: ConfigSpec) -> Result<Admitted, Refusal> {
    check_name(&spec.name)?;
    check_size("config", spec.data.len(), CONFIG_SIZE_LIMIT)?;
    check_template(spec.templating.as_ref())?;
    if view.config_by_name(&spec.name).is_some() {
        return Err(exists("config", &spec.name));
    }
    admitted(Change::CreateConfig { config: id, spec: Arc::new(spec) })
}

/// `data` is `None` when the request has none.
pub(crate) fn update_config(
    view: &State,
    id: ConfigId,
    version: Version,
    name: &str,
    labels: Labels,
    data: Option<&[u8]>,
) -> Result<Admitted, Refusal> {
    let stored = view.config(id).ok_or_else(|| not_found("config", id))?;
    check_only_labels(&stored.spec.name, name, data.is_none_or(|data| data == stored.spec.data))?;
    admitted(Change::SetConfigLabels { config: id, expect: version, labels })
}

pub(crate) fn remove_config(view: &State, id: ConfigId) -> Result<Admitted, Refusal> {
    let stored = view.config(id).ok_or_else(|| not_found("config", id))?;
    check_unused("config", &stored.spec.name, view.users_of_config(id))?;
    admitted(Change::RemoveConfig(id))
}

fn admitted(change: Change) -> Result<Admitted, Refusal> {
    Ok(Admitted { changes: vec![change.into()], ..Admitted::default() })
}

fn not_found(kind: &str, id: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::NotFound, format!("{kind} {id} not found"))
}

fn exists(kind: &str, name: &str) -> Refusal {
    Refusal::new(Code::AlreadyExists, format!("{kind} {name} already exists"))
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid("name must be provided"));
    }
    check_object_name(name).map_err(|error| Refusal::invalid(error.to_string()))
}

fn check_size(kind: &str, size: usize, limit: usize) -> Result<(), Refusal> {
    if size == 0 || size >= limit {
        let text = format!("{kind} data must be larger than 0 and less than {limit} bytes");
        return Err(Refusal::invalid(text));
    }
    Ok(())
}

/// Docker takes any name, and the task fails on its node.
fn check_template(templating: Option<&Driver>) -> Result<(), Refusal> {
    match templating {
        Some(driver) if !driver.name.is_empty() && driver.name != TEMPLATE_DRIVER => {
            let text = format!("unrecognized template type {:?}: there is {TEMPLATE_DRIVER:?} only", driver.name);
            Err(Refusal::invalid(text))
        }
        _ => Ok(()),
    }
}

fn check_only_labels(stored: &str, name: &str, is_same_data: bool) -> Result<(), Refusal> {
    if stored == name && is_same_data { Ok(()) } else { Err(Refusal::invalid("only updates to Labels are allowed")) }
}

fn check_unused<'a>(kind: &str, name: &str, users: impl Iterator<Item = &'a Arc<Service>>) -> Result<(), Refusal> {
    let users: Vec<&str> = users.map(|service| service.spec.name.as_str()).collect();
    if users.is_empty() {
        return Ok(());
    }
    let plural = if users.len() == 1 { "" } else { "s" };
    let text = format!("{kind} '{name}' is in use by the following service{plural}: {}", users.join(", "));
    Err(Refusal::invalid(text))
}

#[cfg(test)]
mod tests;
