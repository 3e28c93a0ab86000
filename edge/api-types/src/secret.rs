//! Secrets and configs as they are created, listed and inspected. A secret's data goes in only.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;
use skep_model::ObjectId as _;

use crate::{ApiVersion, Driver, Map, ObjectVersion, Text, Timestamp, text};

/// The API version since which data may be a template.
const TEMPLATING_SINCE: u32 = 37;

/// What a user gives as a secret or config. Configs have no driver.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's SecretSpec and ConfigSpec and documented there")]
pub struct DataSpec<'a> {
    pub name: Text<'a>,
    pub labels: Map<'a>,
    #[serde(with = "text::bytes", skip_serializing_if = "no_bytes")]
    pub data: Cow<'a, [u8]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templating: Option<Driver<'a>>,
}

impl std::fmt::Debug for DataSpec<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataSpec({:?}, {} bytes)", self.name, self.data.len())
    }
}

fn no_bytes(bytes: &[u8]) -> bool {
    bytes.is_empty()
}

impl<'a> DataSpec<'a> {
    /// What is shown of a secret: not its data.
    fn of_secret(spec: &'a model::SecretSpec) -> Self {
        Self {
            name: Cow::Borrowed(&spec.name),
            labels: Cow::Borrowed(&spec.labels),
            data: Cow::Borrowed(&[]),
            driver: spec.driver.as_ref().map(Driver::of),
            templating: spec.templating.as_ref().map(Driver::of),
        }
    }

    fn of_config(spec: &'a model::ConfigSpec) -> Self {
        Self {
            name: Cow::Borrowed(&spec.name),
            labels: Cow::Borrowed(&spec.labels),
            data: Cow::Borrowed(&spec.data),
            driver: None,
            templating: spec.templating.as_ref().map(Driver::of),
        }
    }

    /// Leaves out what the client's API version does not have.
    pub fn adjust_for(&mut self, version: ApiVersion) {
        if !version.is_at_least(TEMPLATING_SINCE) {
            self.templating = None;
        }
    }

    /// A config's spec. A driver is left out, as Docker does: its type has none.
    #[must_use]
    pub fn into_config(self) -> model::ConfigSpec {
        model::ConfigSpec {
            name: self.name.into_owned(),
            labels: self.labels.into_owned(),
            data: self.data.into_owned(),
            templating: self.templating.map(Driver::into_model),
        }
    }
}

/// A secret or config.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Secret and Config and documented there")]
pub struct DataObject<'a> {
    #[serde(rename = "ID")]
    pub id: Text<'a>,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: DataSpec<'a>,
}

impl<'a> DataObject<'a> {
    /// The JSON form of a secret.
    #[must_use]
    pub fn of_secret(secret: &'a model::Secret) -> Self {
        Self::of(secret.id.as_str(), secret.meta, DataSpec::of_secret(&secret.spec))
    }

    /// The JSON form of a config.
    #[must_use]
    pub fn of_config(config: &'a model::Config) -> Self {
        Self::of(config.id.as_str(), config.meta, DataSpec::of_config(&config.spec))
    }

    fn of(id: &'a str, meta: model::Meta, spec: DataSpec<'a>) -> Self {
        Self {
            id: Cow::Borrowed(id),
            version: meta.version.into(),
            created_at: meta.created_at.into(),
            updated_at: meta.updated_at.into(),
            spec,
        }
    }
}

/// What creating a secret or config answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataCreated {
    /// The new object's id.
    #[serde(rename = "ID")]
    pub id: String,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_model::{ConfigId, ConfigSpec, Lineage, Meta, Sealed, Secret, SecretId, SecretSpec};

    use super::*;

    #[test]
    fn a_secret_shows_no_data_and_a_config_does() {
        let spec = SecretSpec { name: "tls".to_owned(), data: Sealed(vec![1, 2]), ..SecretSpec::default() };
        let (id, meta) = (SecretId::from_random([1; 17]), Meta::default());
        let secret = Secret { id, meta, spec: Arc::new(spec), lineage: Lineage::default() };
        let text = serde_json::to_string(&DataObject::of_secret(&secret).spec).unwrap();
        assert_eq!(text, r#"{"Name":"tls","Labels":{}}"#);
        let spec = ConfigSpec { name: "page".to_owned(), data: b"two".to_vec(), ..ConfigSpec::default() };
        let config = model::Config { id: ConfigId::from_random([1; 17]), meta, spec: Arc::new(spec) };
        let text = serde_json::to_string(&DataObject::of_config(&config).spec).unwrap();
        assert_eq!(text, r#"{"Name":"page","Labels":{},"Data":"dHdv"}"#);
    }
}
