//! The configuration JSON of an image (OCI image config with Docker's additions) as types. The store keeps the raw bytes, whose
//! digest is the image id; these types are for reading, and for writing configurations of our own.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};

/// `null` reads as the default, as Go's JSON does.
fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A set in Go's JSON: an object whose values are empty objects.
pub type Set = BTreeMap<String, Empty>;

/// The empty object `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The whole document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// CPU architecture in Go's words (`amd64`, `arm64`).
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// Variant of the architecture, such as `v8`.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system in Go's words.
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(
        default,
        rename = "os.version",
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// When it was built, RFC 3339; empty if unknown.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub created: String,
    /// Who built it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Message of `docker commit` or `docker import`.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Version of the engine that built it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// Defaults for containers.
    #[serde(default, deserialize_with = "null_default")]
    pub config: ContainerConfig,
    /// How each layer came to be.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// The layers.
    #[serde(default, deserialize_with = "null_default")]
    pub rootfs: RootFs,
}

/// The layers of an image, bottom first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_default")]
    pub kind: String,
    /// Digests of the uncompressed layer archives.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One build step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub created: String,
    /// The command.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// A remark.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// What a container made from the image does unless told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// User and group, as `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports such as `80/tcp`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Set::is_empty")]
    pub exposed_ports: Set,
    /// Environment, `NAME=value`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Program; `None` and empty differ for `docker inspect`.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or the program without an entry point.
    pub cmd: Option<Vec<String>>,
    /// How to tell whether the container is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Whether the command is already escaped (Windows).
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Anonymous volumes.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Set::is_empty")]
    pub volumes: Set,
    /// Working directory.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Triggers for images built on this one.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Labels; `None` and empty differ for `docker inspect`.
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that asks the container to stop, such as `SIGTERM`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds between the stop signal and the kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell for the shell form of commands.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// A health check; all durations in nanoseconds, zero means inherited or default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", command]`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time after which a check has failed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when it is not the JSON of an image made of layers.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig> {
        // An empty array would read as a structure of defaults.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::InvalidConfig("not a JSON object".to_owned()));
        }
        let config: ImageConfig =
            serde_json::from_slice(bytes).map_err(|error| Error::InvalidConfig(error.to_string()))?;
        if !matches!(config.rootfs.kind.as_str(), "" | "layers") {
            return Err(Error::InvalidConfig(format!("unsupported rootfs type \"{}\"", config.rootfs.kind)));
        }
        Ok(config)
    }

    /// Writes a configuration; the digest of these bytes is the image id.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and maps with string keys always have a JSON form")
    }

    /// The platform this image is for.
    pub fn platform(&self) -> Platform {
        Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() }
    }
}

/// Operating system and architecture in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    /// Such as `amd64`.
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// Such as `v8`; empty if it does not matter.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: String::new() }
    }

    /// Parses `os/arch` or `os/arch/variant`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when it has another shape.
    pub fn parse(text: &str) -> Result<Platform> {
        let mut parts = text.split('/').map(str::to_lowercase);
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let word = |part: &String| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None)
                if word(&os) && word(&architecture) && variant.as_ref().is_none_or(word) =>
            {
                Ok(Platform { os, architecture, variant: variant.unwrap_or_default() })
            }
            _ => Err(Error::InvalidConfig(format!(
                "\"{text}\" is not a platform, expected os/architecture, such as linux/amd64"
            ))),
        }
    }

    /// Whether something for `self` runs on `host`. Empty fields match everything; `arm64` is `arm64/v8`.
    pub fn runs_on(&self, host: &Platform) -> bool {
        let same = |a: &str, b: &str| a.is_empty() || a == b;
        same(&self.os, &host.os) && same(&self.architecture, &host.architecture)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_docker_reads_with_nulls_and_unknown_fields() {
        let json = br#"{"architecture":"amd64","config":{"Hostname":"","Env":["PATH=/bin"],"Cmd":["/bin/sh"],"Volumes":null,"Entrypoint":null,
            "Labels":null,"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","x"],"Interval":1000}},"container":"abc",
            "created":"2026-11-22T14:19:39.637167246Z","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"history":null}"#;
        let config = ImageConfig::parse(json).unwrap();
        assert_eq!(config.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert_eq!(config.config.entrypoint, None);
        assert!(config.config.exposed_ports.contains_key("80/tcp"));
        assert_eq!(config.config.healthcheck.as_ref().unwrap().interval, 1000);
        assert_eq!(ImageConfig::parse(&config.to_bytes()).unwrap(), config);
    }

    #[test]
    fn a_configuration_that_is_not_one_is_refused() {
        for bad in [
            &b"[]"[..],
            b"{",
            b"{\"rootfs\":{\"type\":\"magic\"}}",
            b"{\"rootfs\":{\"diff_ids\":[\"x\"]}}",
            b"{\"config\":{\"Cmd\":\"sh\"}}",
        ] {
            assert!(matches!(ImageConfig::parse(bad), Err(Error::InvalidConfig(_))));
        }
    }

    #[test]
    fn platforms_parse_and_match() {
        let host = Platform::parse("linux/amd64").unwrap();
        assert!(Platform::parse("linux/amd64/v3").unwrap().runs_on(&host));
        assert!(!Platform::parse("linux/arm64").unwrap().runs_on(&host));
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/../x"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
