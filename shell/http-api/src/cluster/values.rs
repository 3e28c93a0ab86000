//! What the API asks of the cluster about secrets and configs. Reads are answered from the state.

use async_trait::async_trait;
use skep_model::{ConfigId, ConfigSpec, Driver, Labels, SecretId, Version};

use super::ClusterError;

/// Secrets and configs of the cluster.
#[async_trait]
pub trait Values: Send + Sync + 'static {
    /// Creates a secret; its data is sealed before anything else is done with it.
    async fn create_secret(&self, new: NewSecret) -> Result<SecretId, ClusterError>;
    /// Changes the labels of a secret, and refuses anything else.
    async fn update_secret(&self, secret: SecretId, version: Version, edit: Edit) -> Result<(), ClusterError>;
    /// Removes a secret that no service uses.
    async fn remove_secret(&self, secret: SecretId) -> Result<(), ClusterError>;

    /// Creates a config.
    async fn create_config(&self, spec: ConfigSpec) -> Result<ConfigId, ClusterError>;
    /// Changes the labels of a config, and refuses anything else.
    async fn update_config(&self, config: ConfigId, version: Version, edit: Edit) -> Result<(), ClusterError>;
    /// Removes a config that no service uses.
    async fn remove_config(&self, config: ConfigId) -> Result<(), ClusterError>;
}

/// A secret as the user gave it, open.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct NewSecret {
    /// Its name.
    pub name: String,
    /// The user's labels.
    pub labels: Labels,
    /// Its data.
    pub data: Vec<u8>,
    /// How the data is filled in.
    pub templating: Option<Driver>,
    /// An external driver.
    pub driver: Option<Driver>,
}

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewSecret({:?}, {} bytes)", self.name, self.data.len())
    }
}

/// What an update of a secret or config says: name and data must be what is stored.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Edit {
    /// The name.
    pub name: String,
    /// The new labels.
    pub labels: Labels,
    /// The data, when it was given.
    pub data: Option<Vec<u8>>,
}

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.data.as_ref().map(Vec::len);
        write!(f, "Edit({:?}, {:?}, data of {size:?} bytes)", self.name, self.labels)
    }
}
