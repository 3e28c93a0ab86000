//! Secrets and configs: how they are read, and which services refer to them.

use std::sync::Arc;

use skep_model::{Config, ConfigId, Secret, SecretId, Service, ServiceId, ServiceSpec, UpdateState};

use super::{NAMESPACE, State};

impl State {
    /// All secrets by id.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }

    /// One secret.
    #[must_use]
    pub fn secret(&self, id: SecretId) -> Option<&Arc<Secret>> {
        self.secrets.get(&id)
    }

    /// The secret of this name; case does not matter.
    #[must_use]
    pub fn secret_by_name(&self, name: &str) -> Option<&Arc<Secret>> {
        self.secret(*self.secret_names.get(&(NAMESPACE, name.to_lowercase()))?)
    }

    /// The services that need a secret, by id: those whose spec refers to it, and those that may yet return to a spec that
    /// does, because their update goes on.
    pub fn users_of_secret(&self, id: SecretId) -> impl Iterator<Item = &Arc<Service>> {
        self.services_by_secret
            .range((id, ServiceId::MIN)..=(id, ServiceId::MAX))
            .filter_map(|(_, service)| self.service(*service))
            .filter(move |service| needs(service, |spec| spec.uses_secret(id)))
    }

    /// All configs by id.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    /// One config.
    #[must_use]
    pub fn config(&self, id: ConfigId) -> Option<&Arc<Config>> {
        self.configs.get(&id)
    }

    /// The config of this name; case does not matter.
    #[must_use]
    pub fn config_by_name(&self, name: &str) -> Option<&Arc<Config>> {
        self.config(*self.config_names.get(&(NAMESPACE, name.to_lowercase()))?)
    }

    /// The services that need a config, as [`Self::users_of_secret`].
    pub fn users_of_config(&self, id: ConfigId) -> impl Iterator<Item = &Arc<Service>> {
        self.services_by_config
            .range((id, ServiceId::MIN)..=(id, ServiceId::MAX))
            .filter_map(|(_, service)| self.service(*service))
            .filter(move |service| needs(service, |spec| spec.uses_config(id)))
    }

    /// Keeps the indexes by secret and config when a service changes, comes or goes.
    pub(crate) fn index_references(&mut self, before: Option<&Service>, after: Option<&Service>) {
        if let Some(service) = before {
            for spec in specs(service) {
                for reference in &spec.task.container.secrets {
                    self.services_by_secret.remove(&(reference.secret_id, service.id));
                }
                for reference in &spec.task.container.configs {
                    self.services_by_config.remove(&(reference.config_id, service.id));
                }
            }
        }
        if let Some(service) = after {
            for spec in specs(service) {
                for reference in &spec.task.container.secrets {
                    self.services_by_secret.insert((reference.secret_id, service.id));
                }
                for reference in &spec.task.container.configs {
                    self.services_by_config.insert((reference.config_id, service.id));
                }
            }
        }
    }
}

fn specs(service: &Service) -> impl Iterator<Item = &Arc<ServiceSpec>> {
    std::iter::once(&service.spec).chain(service.previous.iter().map(|previous| &previous.spec))
}

fn needs(service: &Service, uses: impl Fn(&ServiceSpec) -> bool) -> bool {
    let may_return = service
        .update
        .as_ref()
        .is_some_and(|update| matches!(update.state, UpdateState::Updating | UpdateState::Paused));
    uses(&service.spec) || may_return && service.previous.as_ref().is_some_and(|previous| uses(&previous.spec))
}
