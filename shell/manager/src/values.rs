//! Secrets and configs as users give them. A secret's data is sealed here, before anything else is done with it.

use skep_admission::{Principal, Request};
use skep_model::{ConfigId, ConfigSpec, Driver, Labels, SecretId, SecretSpec, Version};

use crate::{Manager, SubmitError};

/// A secret as a user gives it, open.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct NewSecret {
    /// Unique name.
    pub name: String,
    /// The user's labels.
    pub labels: Labels,
    /// The data.
    pub data: Vec<u8>,
    /// How the data is filled in for each task.
    pub templating: Option<Driver>,
    /// An external driver.
    pub driver: Option<Driver>,
}

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewSecret({:?}, {} bytes)", self.name, self.data.len())
    }
}

impl Manager {
    /// Creates a secret.
    ///
    /// # Errors
    /// As [`Manager::submit`].
    pub async fn create_secret(&self, principal: Principal, new: NewSecret) -> Result<SecretId, SubmitError> {
        let id = self.mint();
        let NewSecret { name, labels, data, templating, driver } = new;
        let sealed = self.opener().seal_secret(id, &data);
        let spec = SecretSpec { name, labels, data: sealed, templating, driver };
        self.submit(principal, Request::CreateSecret { secret: id, spec, size: data.len() }).await?;
        Ok(id)
    }

    /// Changes the labels of a secret. Data in the request must be what is stored.
    ///
    /// # Errors
    /// As [`Manager::submit`].
    pub async fn update_secret(
        &self,
        principal: Principal,
        id: SecretId,
        version: Version,
        name: String,
        labels: Labels,
        data: Option<Vec<u8>>,
    ) -> Result<(), SubmitError> {
        let is_same_data = data.is_none_or(|data| {
            let state = self.state();
            let stored = state.state.secret(id).map(|secret| self.opener().open_secret(id, &secret.spec.data));
            matches!(stored, Some(Ok(stored)) if stored == data)
        });
        let request = Request::UpdateSecret { secret: id, version, name, labels, is_same_data };
        self.submit(principal, request).await.map(drop)
    }

    /// Creates a config.
    ///
    /// # Errors
    /// As [`Manager::submit`].
    pub async fn create_config(&self, principal: Principal, spec: ConfigSpec) -> Result<ConfigId, SubmitError> {
        let config = self.mint();
        self.submit(principal, Request::CreateConfig { config, spec }).await?;
        Ok(config)
    }
}
