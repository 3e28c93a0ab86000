//! Secrets and configs: data that tasks get as files. Both are immutable but for their labels; a new value is a new object,
//! and an update of the service that uses it. A secret's data is sealed, a config's is not.

use std::sync::Arc;

use crate::{ConfigId, Driver, Labels, Meta, Sealed, SecretId, ServiceSpec};

/// A secret may have fewer bytes than this (Docker's limit).
pub const SECRET_SIZE_LIMIT: usize = 512_000;
/// A config may have fewer bytes than this (Docker's limit).
pub const CONFIG_SIZE_LIMIT: usize = 1_024_000;
/// The one language of templates there is: Go's `text/template`.
pub const TEMPLATE_DRIVER: &str = "golang";

/// What a user gave as a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretSpec {
    /// Unique, case-insensitive.
    pub name: String,
    /// The user's labels.
    pub labels: Labels,
    /// The data, sealed.
    pub data: Sealed,
    /// How the data is filled in for each task; `None` leaves it as it is.
    pub templating: Option<Driver>,
    /// An external driver that brings the data; none is supported yet.
    pub driver: Option<Driver>,
}

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub id: SecretId,
    /// Edit version and times.
    pub meta: Meta,
    /// What the user gave.
    pub spec: Arc<SecretSpec>,
    /// Which generation of its family it is.
    pub lineage: Lineage,
}

/// Secrets that replace one another are one family, each a generation of it. A secret that replaces none founds the family
/// of its own name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage {
    /// Name of the family.
    pub family: String,
    /// Counts from 1.
    pub generation: u64,
}

/// What a user gave as a config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigSpec {
    /// Unique, case-insensitive.
    pub name: String,
    /// The user's labels.
    pub labels: Labels,
    /// The data.
    pub data: Vec<u8>,
    /// How the data is filled in for each task; `None` leaves it as it is.
    pub templating: Option<Driver>,
}

/// A config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its id.
    pub id: ConfigId,
    /// Edit version and times.
    pub meta: Meta,
    /// What the user gave.
    pub spec: Arc<ConfigSpec>,
}

impl SecretSpec {
    /// True when the data is a template.
    #[must_use]
    pub fn is_template(&self) -> bool {
        is_given(self.templating.as_ref())
    }
}

impl ConfigSpec {
    /// True when the data is a template.
    #[must_use]
    pub fn is_template(&self) -> bool {
        is_given(self.templating.as_ref())
    }
}

fn is_given(driver: Option<&Driver>) -> bool {
    driver.is_some_and(|driver| !driver.name.is_empty())
}

impl ServiceSpec {
    /// Whether its tasks get this secret.
    #[must_use]
    pub fn uses_secret(&self, id: SecretId) -> bool {
        self.task.container.secrets.iter().any(|reference| reference.secret_id == id)
    }

    /// Whether its tasks get this config.
    #[must_use]
    pub fn uses_config(&self, id: ConfigId) -> bool {
        self.task.container.configs.iter().any(|reference| reference.config_id == id)
    }
}
