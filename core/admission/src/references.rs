//! The secrets and configs that a service refers to (SwarmKit `manager/controlapi/service.go`).

use std::collections::BTreeMap;

use skep_model::{ContainerSpec, FileTarget, ServiceSpec};
use skep_store::State;

use crate::Refusal;

/// What can be said without the state: every reference has a place, and no two have the same.
pub(crate) fn check(container: &ContainerSpec) -> Result<(), Refusal> {
    let mut targets = Targets { kind: "secret", taken: BTreeMap::new() };
    for reference in &container.secrets {
        targets.take(&reference.secret_name, reference.file.as_ref())?;
    }
    let mut targets = Targets { kind: "config", taken: BTreeMap::new() };
    for reference in &container.configs {
        if reference.file.is_none() {
            return Err(Refusal::unsupported(format!(
                "config {:?} with a Runtime target (for credential specs)",
                reference.config_name
            )));
        }
        targets.take(&reference.config_name, reference.file.as_ref())?;
    }
    Ok(())
}

/// Where references of one kind lie, and whose the place is.
struct Targets<'a> {
    kind: &'static str,
    taken: BTreeMap<&'a str, &'a str>,
}

impl<'a> Targets<'a> {
    fn take(&mut self, name: &'a str, file: Option<&'a FileTarget>) -> Result<(), Refusal> {
        let kind = self.kind;
        if name.is_empty() {
            return Err(Refusal::invalid(format!("malformed {kind} reference")));
        }
        let Some(file) = file else {
            return Err(Refusal::invalid(format!("malformed {kind} reference, no target provided")));
        };
        if file.name.is_empty() {
            return Err(Refusal::invalid(format!(
                "malformed file {kind} reference, invalid target file name provided"
            )));
        }
        for (what, id) in [("UID", &file.uid), ("GID", &file.gid)] {
            // Docker finds out on the node, when the task fails.
            if !id.is_empty() && id.parse::<u32>().is_err() {
                return Err(Refusal::invalid(format!("{kind} reference '{name}' has an invalid {what}: {id:?}")));
            }
        }
        match self.taken.insert(&file.name, name) {
            None => Ok(()),
            Some(other) => Err(Refusal::invalid(format!(
                "{kind} references '{other}' and '{name}' have a conflicting target: '{}'",
                file.name
            ))),
        }
    }
}

/// Every reference leads to an object of the name that it says.
pub(crate) fn check_existence(view: &State, spec: &ServiceSpec) -> Result<(), Refusal> {
    let container = &spec.task.container;
    let secrets = container.secrets.iter().filter(|reference| {
        view.secret(reference.secret_id).is_none_or(|secret| secret.spec.name != reference.secret_name)
    });
    require_none("secret", secrets.map(|reference| reference.secret_name.as_str()).collect())?;
    let configs = container.configs.iter().filter(|reference| {
        view.config(reference.config_id).is_none_or(|config| config.spec.name != reference.config_name)
    });
    require_none("config", configs.map(|reference| reference.config_name.as_str()).collect())
}

fn require_none(kind: &str, missing: Vec<&str>) -> Result<(), Refusal> {
    if missing.is_empty() {
        return Ok(());
    }
    let plural = if missing.len() == 1 { "" } else { "s" };
    Err(Refusal::invalid(format!("{kind}{plural} not found: {}", missing.join(", "))))
}
