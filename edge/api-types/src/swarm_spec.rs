//! The cluster's spec, and how a request changes one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;

use crate::spec::{Nanos, duration, nanos};
use crate::text::is_zero;
use crate::{Driver, Map, Refusal, Text};

/// What a user may edit of a cluster. In a request, what is zero or absent stays as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's SwarmSpec and documented there")]
pub struct SwarmSpec<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Text<'a>,
    pub labels: Option<Map<'a>>,
    pub orchestration: Orchestration,
    pub raft: Raft,
    pub dispatcher: Dispatcher,
    #[serde(rename = "CAConfig")]
    pub ca_config: CaConfig<'a>,
    pub task_defaults: TaskDefaults<'a>,
    pub encryption_config: EncryptionConfig,
}

/// Orchestration settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the name says it")]
pub struct Orchestration {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_history_retention_limit: Option<i64>,
}

/// Raft settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's RaftConfig and documented there")]
pub struct Raft {
    #[serde(skip_serializing_if = "is_zero")]
    pub snapshot_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_old_snapshots: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub log_entries_for_slow_followers: u64,
    pub election_tick: i64,
    pub heartbeat_tick: i64,
}

/// Dispatcher settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the name says it")]
pub struct Dispatcher {
    #[serde(skip_serializing_if = "is_zero")]
    pub heartbeat_period: Nanos,
}

/// Certificate settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's CAConfig and documented there")]
pub struct CaConfig<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    pub node_cert_expiry: Nanos,
    #[serde(rename = "ExternalCAs", skip_serializing)]
    pub external_cas: Vec<serde::de::IgnoredAny>,
    #[serde(rename = "SigningCACert", skip_serializing)]
    pub signing_ca_cert: Text<'a>,
    #[serde(rename = "SigningCAKey", skip_serializing)]
    pub signing_ca_key: Text<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub force_rotate: u64,
}

/// What tasks get that say nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the name says it")]
pub struct TaskDefaults<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<Driver<'a>>,
}

/// Autolock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the name says it")]
pub struct EncryptionConfig {
    pub auto_lock_managers: bool,
}

impl<'a> SwarmSpec<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(spec: &'a model::ClusterSpec) -> Self {
        Self {
            name: Cow::Borrowed(&spec.name),
            labels: Some(Cow::Borrowed(&spec.labels)),
            orchestration: Orchestration {
                task_history_retention_limit: Some(spec.orchestration.task_history_retention_limit),
            },
            raft: Raft {
                snapshot_interval: spec.raft.snapshot_interval,
                keep_old_snapshots: Some(spec.raft.keep_old_snapshots),
                log_entries_for_slow_followers: spec.raft.log_entries_for_slow_followers,
                election_tick: spec.raft.election_tick.into(),
                heartbeat_tick: spec.raft.heartbeat_tick.into(),
            },
            dispatcher: Dispatcher { heartbeat_period: nanos(spec.heartbeat_period) },
            ca_config: CaConfig {
                node_cert_expiry: nanos(spec.ca.node_cert_expiry),
                force_rotate: spec.ca.force_rotate,
                ..CaConfig::default()
            },
            task_defaults: TaskDefaults { log_driver: spec.log_driver.as_ref().map(Driver::of) },
            encryption_config: EncryptionConfig { auto_lock_managers: spec.auto_lock_managers },
        }
    }

    /// What `current` becomes by this request (the engine's `MergeSwarmSpecToGRPC`).
    pub fn merge_into(self, mut current: model::ClusterSpec) -> Result<model::ClusterSpec, Refusal> {
        if !self.ca_config.external_cas.is_empty() {
            return Err(Refusal::unsupported("an external CA"));
        }
        if !self.ca_config.signing_ca_cert.is_empty() || !self.ca_config.signing_ca_key.is_empty() {
            return Err(Refusal::unsupported("a signing CA certificate or key of your own"));
        }
        if !self.name.is_empty() {
            current.name = self.name.into_owned();
        }
        if let Some(labels) = self.labels {
            current.labels = labels.into_owned();
        }
        if let Some(limit) = self.orchestration.task_history_retention_limit {
            current.orchestration.task_history_retention_limit = limit;
        }
        let raft = &mut current.raft;
        set(&mut raft.snapshot_interval, self.raft.snapshot_interval);
        raft.keep_old_snapshots = self.raft.keep_old_snapshots.unwrap_or(raft.keep_old_snapshots);
        set(&mut raft.log_entries_for_slow_followers, self.raft.log_entries_for_slow_followers);
        set(&mut raft.election_tick, ticks("ElectionTick", self.raft.election_tick)?);
        set(&mut raft.heartbeat_tick, ticks("HeartbeatTick", self.raft.heartbeat_tick)?);
        let heartbeat =
            duration(self.dispatcher.heartbeat_period, "heartbeat time period cannot be a negative duration")?;
        set(&mut current.heartbeat_period, heartbeat);
        let expiry = duration(self.ca_config.node_cert_expiry, "minimum certificate expiry time is: 1h0m0s")?;
        set(&mut current.ca.node_cert_expiry, expiry);
        set(&mut current.ca.force_rotate, self.ca_config.force_rotate);
        if let Some(driver) = self.task_defaults.log_driver {
            current.log_driver = Some(driver.into_model());
        }
        current.auto_lock_managers = self.encryption_config.auto_lock_managers;
        Ok(current)
    }
}

fn set<T: Default + PartialEq>(field: &mut T, value: T) {
    if value != T::default() {
        *field = value;
    }
}

fn ticks(name: &str, value: i64) -> Result<u32, Refusal> {
    u32::try_from(value).map_err(|_| Refusal::Invalid(format!("invalid {name} {value}: must be 0 to {}", u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    fn merged(text: &str) -> Result<model::ClusterSpec, String> {
        let spec: SwarmSpec<'static> = decode(text.as_bytes()).unwrap();
        spec.merge_into(model::ClusterSpec::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn zero_values_of_a_request_keep_what_is_there() {
        let defaults = model::ClusterSpec::default();
        assert_eq!(merged("{}").unwrap(), defaults);
        let changed =
            merged(r#"{"Orchestration":{"TaskHistoryRetentionLimit":0},"Dispatcher":{"HeartbeatPeriod":1000000000}}"#);
        let changed = changed.unwrap();
        assert_eq!(changed.orchestration.task_history_retention_limit, 0);
        assert_eq!(changed.heartbeat_period.as_secs(), 1);
        assert_eq!(changed.raft, defaults.raft);
    }

    #[test]
    fn what_skep_lacks_is_named() {
        assert!(merged(r#"{"CAConfig":{"ExternalCAs":[{"URL":"x"}]}}"#).unwrap_err().contains("external CA"));
        assert!(merged(r#"{"CAConfig":{"SigningCAKey":"x"}}"#).unwrap_err().contains("signing CA"));
        assert!(merged(r#"{"Dispatcher":{"HeartbeatPeriod":-1}}"#).unwrap_err().contains("negative duration"));
        assert!(merged(r#"{"Raft":{"ElectionTick":-1}}"#).unwrap_err().contains("ElectionTick"));
    }
}
