//! Secrets and configs: as the store keeps them, and as nodes get them. On the way to a node a secret's data is open, in the
//! store it is sealed; SwarmKit's message is the same.

use std::sync::Arc;

use skep_model::{
    Config, ConfigId, ConfigSpec, Driver, Labels, Lineage, Meta, ObjectId, Sealed, Secret, SecretId, SecretSpec,
    TEMPLATE_DRIVER,
};

use crate::common::{annotations, id, timestamp};
use crate::error::{DecodeError, Result, require};
use crate::{stored, swarmkit};

impl From<&SecretSpec> for swarmkit::SecretSpec {
    /// The data stays sealed.
    fn from(spec: &SecretSpec) -> Self {
        Self {
            annotations: annotations(&spec.name, &spec.labels),
            data: spec.data.0.clone(),
            templating: spec.templating.as_ref().map(Into::into),
            driver: spec.driver.as_ref().map(Into::into),
        }
    }
}

impl From<swarmkit::SecretSpec> for SecretSpec {
    /// The data is sealed.
    fn from(spec: swarmkit::SecretSpec) -> Self {
        let (name, labels) = named(spec.annotations);
        Self {
            name,
            labels,
            data: Sealed(spec.data),
            templating: spec.templating.map(Into::into),
            driver: spec.driver.map(Into::into),
        }
    }
}

impl From<&ConfigSpec> for swarmkit::ConfigSpec {
    fn from(spec: &ConfigSpec) -> Self {
        Self {
            annotations: annotations(&spec.name, &spec.labels),
            data: spec.data.clone(),
            templating: spec.templating.as_ref().map(Into::into),
        }
    }
}

impl From<swarmkit::ConfigSpec> for ConfigSpec {
    fn from(spec: swarmkit::ConfigSpec) -> Self {
        let (name, labels) = named(spec.annotations);
        Self { name, labels, data: spec.data, templating: spec.templating.map(Into::into) }
    }
}

fn named(annotations: Option<swarmkit::Annotations>) -> (String, Labels) {
    let annotations = annotations.unwrap_or_default();
    (annotations.name, annotations.labels)
}

impl From<&Lineage> for stored::Lineage {
    fn from(lineage: &Lineage) -> Self {
        Self { family: lineage.family.clone(), generation: lineage.generation }
    }
}

impl From<stored::Lineage> for Lineage {
    fn from(stored: stored::Lineage) -> Self {
        Self { family: stored.family, generation: stored.generation }
    }
}

impl From<&Secret> for stored::Secret {
    fn from(secret: &Secret) -> Self {
        Self {
            id: secret.id.to_string(),
            meta: Some(secret.meta.into()),
            spec: Some((&*secret.spec).into()),
            lineage: Some((&secret.lineage).into()),
        }
    }
}

impl TryFrom<stored::Secret> for Secret {
    type Error = DecodeError;

    fn try_from(stored: stored::Secret) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            meta: require(stored.meta, "meta")?.into(),
            spec: Arc::new(require(stored.spec, "secret spec")?.into()),
            lineage: stored.lineage.unwrap_or_default().into(),
        })
    }
}

impl From<&Config> for stored::Config {
    fn from(config: &Config) -> Self {
        Self { id: config.id.to_string(), meta: Some(config.meta.into()), spec: Some((&*config.spec).into()) }
    }
}

impl TryFrom<stored::Config> for Config {
    type Error = DecodeError;

    fn try_from(stored: stored::Config) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            meta: require(stored.meta, "meta")?.into(),
            spec: Arc::new(require(stored.spec, "config spec")?.into()),
        })
    }
}

fn meta(meta: Meta) -> swarmkit::Meta {
    swarmkit::Meta {
        version: Some(swarmkit::Version { index: meta.version.0 }),
        created_at: Some(timestamp(meta.created_at)),
        updated_at: Some(timestamp(meta.updated_at)),
    }
}

/// SwarmKit's message of a secret for a node whose tasks need it. `data` is the opened data: only such a node may get it.
#[must_use]
pub fn secret(secret: &Secret, data: Vec<u8>) -> swarmkit::Secret {
    let spec = swarmkit::SecretSpec { data, ..swarmkit::SecretSpec::from(&*secret.spec) };
    swarmkit::Secret { id: secret.id.to_string(), meta: Some(meta(secret.meta)), spec: Some(spec), internal: false }
}

/// SwarmKit's message of a config for a node whose tasks need it.
#[must_use]
pub fn config(config: &Config) -> swarmkit::Config {
    swarmkit::Config { id: config.id.to_string(), meta: Some(meta(config.meta)), spec: Some((&*config.spec).into()) }
}

/// The value of a secret or config as a node was sent it: never to be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct AssignedValue {
    /// Name of the object.
    pub name: String,
    /// Its data, open.
    pub data: Vec<u8>,
    /// The data is a template.
    pub is_template: bool,
}

impl std::fmt::Debug for AssignedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AssignedValue({:?}, {} bytes)", self.name, self.data.len())
    }
}

/// What a node was sent of a secret.
///
/// # Errors
/// When it has no id or no spec, or its template is of an unknown kind.
pub fn secret_value(secret: swarmkit::Secret) -> Result<(SecretId, AssignedValue)> {
    let spec = require(secret.spec, "secret spec")?;
    value(&secret.id, spec.annotations, spec.data, spec.templating)
}

/// What a node was sent of a config.
///
/// # Errors
/// As [`secret_value`].
pub fn config_value(config: swarmkit::Config) -> Result<(ConfigId, AssignedValue)> {
    let spec = require(config.spec, "config spec")?;
    value(&config.id, spec.annotations, spec.data, spec.templating)
}

fn value<T: ObjectId>(
    object: &str,
    annotations: Option<swarmkit::Annotations>,
    data: Vec<u8>,
    templating: Option<swarmkit::Driver>,
) -> Result<(T, AssignedValue)> {
    let templating: Driver = templating.map(Into::into).unwrap_or_default();
    let is_template = match templating.name.as_str() {
        "" => false,
        TEMPLATE_DRIVER => true,
        other => return Err(DecodeError::BadText { field: "template driver", value: other.to_owned() }),
    };
    Ok((id(object)?, AssignedValue { name: named(annotations).0, data, is_template }))
}
