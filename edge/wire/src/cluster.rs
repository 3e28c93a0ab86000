//! The cluster's spec.

use skep_model::{CaConfig, ClusterSpec, JoinTokens, Orchestration, RaftConfig};

use crate::common::{annotations, duration, from_duration};
use crate::error::{DecodeError, Result};
use crate::swarmkit;

impl From<&ClusterSpec> for swarmkit::ClusterSpec {
    fn from(spec: &ClusterSpec) -> Self {
        Self {
            annotations: annotations(&spec.name, &spec.labels),
            acceptance_policy: Some(swarmkit::AcceptancePolicy::default()),
            orchestration: Some(swarmkit::OrchestrationConfig {
                task_history_retention_limit: spec.orchestration.task_history_retention_limit,
            }),
            raft: Some(swarmkit::RaftConfig {
                snapshot_interval: spec.raft.snapshot_interval,
                keep_old_snapshots: spec.raft.keep_old_snapshots,
                log_entries_for_slow_followers: spec.raft.log_entries_for_slow_followers,
                heartbeat_tick: spec.raft.heartbeat_tick,
                election_tick: spec.raft.election_tick,
            }),
            dispatcher: Some(swarmkit::DispatcherConfig { heartbeat_period: Some(duration(spec.heartbeat_period)) }),
            ca_config: Some(swarmkit::CaConfig {
                node_cert_expiry: Some(duration(spec.ca.node_cert_expiry)),
                force_rotate: spec.ca.force_rotate,
                ..swarmkit::CaConfig::default()
            }),
            task_defaults: Some(swarmkit::TaskDefaults { log_driver: spec.log_driver.as_ref().map(Into::into) }),
            encryption_config: Some(swarmkit::EncryptionConfig { auto_lock_managers: spec.auto_lock_managers }),
        }
    }
}

impl TryFrom<swarmkit::ClusterSpec> for ClusterSpec {
    type Error = DecodeError;

    /// A part that is not there gets its default.
    fn try_from(spec: swarmkit::ClusterSpec) -> Result<Self> {
        let default = Self::default();
        let annotations = spec.annotations.unwrap_or_default();
        let period = spec.dispatcher.and_then(|dispatcher| dispatcher.heartbeat_period);
        let ca = spec.ca_config.unwrap_or_default();
        Ok(Self {
            name: annotations.name,
            labels: annotations.labels,
            orchestration: spec.orchestration.map_or(default.orchestration, |orchestration| Orchestration {
                task_history_retention_limit: orchestration.task_history_retention_limit,
            }),
            raft: spec.raft.map_or(default.raft, |raft| RaftConfig {
                snapshot_interval: raft.snapshot_interval,
                keep_old_snapshots: raft.keep_old_snapshots,
                log_entries_for_slow_followers: raft.log_entries_for_slow_followers,
                election_tick: raft.election_tick,
                heartbeat_tick: raft.heartbeat_tick,
            }),
            heartbeat_period: period
                .map_or(Ok(default.heartbeat_period), |period| from_duration(period, "heartbeat period"))?,
            ca: CaConfig {
                node_cert_expiry: ca
                    .node_cert_expiry
                    .map_or(Ok(default.ca.node_cert_expiry), |expiry| from_duration(expiry, "certificate expiry"))?,
                force_rotate: ca.force_rotate,
            },
            log_driver: spec.task_defaults.and_then(|defaults| defaults.log_driver).map(Into::into),
            auto_lock_managers: spec.encryption_config.unwrap_or_default().auto_lock_managers,
        })
    }
}

impl From<&JoinTokens> for swarmkit::JoinTokens {
    fn from(tokens: &JoinTokens) -> Self {
        Self { worker: tokens.worker.clone(), manager: tokens.manager.clone() }
    }
}

impl From<swarmkit::JoinTokens> for JoinTokens {
    fn from(tokens: swarmkit::JoinTokens) -> Self {
        Self { worker: tokens.worker, manager: tokens.manager }
    }
}
