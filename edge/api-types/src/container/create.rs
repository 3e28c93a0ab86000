//! The creation of a container by hand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ContainerConfig, EndpointSettings, HostConfig};
use crate::{DecodeError, decode};

/// The body of `POST /containers/create`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerCreate {
    /// What it runs; Docker's body has these fields at its top.
    pub config: ContainerConfig,
    /// What of the machine it is given; `None` is Docker's default.
    pub host: HostConfig,
    /// Where its networks are configured.
    pub networking: NetworkingConfig,
    /// True when the body said nothing at all.
    pub is_empty: bool,
}

/// What a container is on its networks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkingConfig {
    /// By name or id of the network.
    pub endpoints_config: BTreeMap<String, EndpointSettings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Rest {
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

impl ContainerCreate {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is no JSON, or a field has the wrong type.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let nothing: BTreeMap<String, serde_json::Value> = decode(body)?;
        let rest: Rest = decode(body)?;
        Ok(Self {
            config: decode(body)?,
            host: rest.host_config,
            networking: rest.networking_config,
            is_empty: nothing.is_empty(),
        })
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerCreated {
    /// 64 hex digits.
    pub id: String,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The answer of `POST /containers/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainersPruned {
    /// Ids; `null` without any.
    pub containers_deleted: Option<Vec<String>>,
    /// Bytes.
    pub space_reclaimed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_three_parts() {
        let body = br#"{"Image":"box","Cmd":"true","HostConfig":{"memory":1,"MaskedPaths":null,"ConsoleSize":[0,0],
            "RestartPolicy":{"Name":"always"}},"NetworkingConfig":{"EndpointsConfig":{"default":null}}}"#;
        let create = ContainerCreate::decode(body).unwrap();
        assert_eq!((create.config.image.as_str(), create.host.memory), ("box", 1));
        assert_eq!((create.host.masked_paths, create.host.restart_policy.name.as_str()), (None, "always"));
        assert!(create.networking.endpoints_config.contains_key("default") && !create.is_empty);
        assert!(ContainerCreate::decode(b"null").unwrap().is_empty);
        assert!(ContainerCreate::decode(b"[]").is_err());
    }
}
