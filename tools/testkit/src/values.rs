//! Secrets and configs with the few properties that a test is about.

use std::sync::Arc;

use skep_model::{
    ConfigId, ConfigReference, ConfigSpec, FileTarget, Lineage, Sealed, SecretId, SecretReference, SecretSpec,
};
use skep_store::Change;

use crate::builders::{AService, id};
use crate::world::{Put, World};

/// The id that a secret of this name has.
#[must_use]
pub fn secret_id(name: &str) -> SecretId {
    id(name)
}

/// The id that a config of this name has.
#[must_use]
pub fn config_id(name: &str) -> ConfigId {
    id(name)
}

/// A secret with some data.
#[must_use]
pub fn a_secret(name: &str) -> ASecret {
    let data = Sealed(name.as_bytes().to_vec());
    ASecret { id: secret_id(name), spec: SecretSpec { name: name.to_owned(), data, ..SecretSpec::default() } }
}

/// A secret to be.
#[derive(Debug, Clone)]
pub struct ASecret {
    /// Its id.
    pub id: SecretId,
    /// Its spec.
    pub spec: SecretSpec,
}

/// A config with some data.
#[must_use]
pub fn a_config(name: &str) -> AConfig {
    let data = name.as_bytes().to_vec();
    AConfig { id: config_id(name), spec: ConfigSpec { name: name.to_owned(), data, ..ConfigSpec::default() } }
}

/// A config to be.
#[derive(Debug, Clone)]
pub struct AConfig {
    /// Its id.
    pub id: ConfigId,
    /// Its spec.
    pub spec: ConfigSpec,
}

impl Put for ASecret {
    fn put(self, world: &mut World) {
        let lineage = Lineage { family: self.spec.name.clone(), generation: 1 };
        let change = Change::CreateSecret { secret: self.id, spec: Arc::new(self.spec), lineage };
        world.must_commit(vec![change.into()]);
    }
}

impl Put for AConfig {
    fn put(self, world: &mut World) {
        world.must_commit(vec![Change::CreateConfig { config: self.id, spec: Arc::new(self.spec) }.into()]);
    }
}

fn file(name: &str) -> Option<FileTarget> {
    Some(FileTarget { name: name.to_owned(), uid: "0".to_owned(), gid: "0".to_owned(), mode: 0o444 })
}

impl AService {
    /// Its tasks get this secret.
    #[must_use]
    pub fn secret(self, name: &str) -> Self {
        let reference = SecretReference { secret_id: secret_id(name), secret_name: name.to_owned(), file: file(name) };
        self.spec(|spec| spec.task.container.secrets.push(reference))
    }

    /// Its tasks get this config.
    #[must_use]
    pub fn config(self, name: &str) -> Self {
        let reference = ConfigReference { config_id: config_id(name), config_name: name.to_owned(), file: file(name) };
        self.spec(|spec| spec.task.container.configs.push(reference))
    }
}
