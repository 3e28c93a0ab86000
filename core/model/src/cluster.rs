//! The one cluster object: what holds for all nodes.

use std::time::Duration;

use crate::{ClusterId, Driver, GroupVersion, Labels, Meta, Sealed};

/// The newest cluster level this build knows. New kinds of change wait until every manager supports their level.
pub const LEVEL: u32 = 1;

/// What holds for the whole cluster. There is exactly one.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Also the organization in certificates.
    pub id: ClusterId,
    /// Edit version and times.
    pub meta: Meta,
    /// The highest level that all managers support; raised by a committed change.
    pub level: u32,
    /// What a user may edit.
    pub spec: ClusterSpec,
    /// Trust: root certificate, sealed key, join tokens. Written by `ca`.
    pub root_ca: RootCa,
    /// Version of the root group.
    pub root_version: GroupVersion,
    /// Pools that networks take subnets from, fixed at init, in CIDR form.
    pub address_pools: Vec<String>,
    /// Prefix length of those subnets.
    pub subnet_size: u32,
    /// UDP port of the overlay.
    pub data_path_port: u16,
}

/// What a user may edit of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSpec {
    /// Always `default`.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Orchestration settings.
    pub orchestration: Orchestration,
    /// Raft settings.
    pub raft: RaftConfig,
    /// How often nodes report.
    pub heartbeat_period: Duration,
    /// Certificate settings.
    pub ca: CaConfig,
    /// Log driver of tasks that name none.
    pub log_driver: Option<Driver>,
    /// Managers need an unlock key after a restart.
    pub auto_lock_managers: bool,
}

impl Default for ClusterSpec {
    /// Docker's defaults.
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            labels: Labels::new(),
            orchestration: Orchestration::default(),
            raft: RaftConfig::default(),
            heartbeat_period: Duration::from_secs(5),
            ca: CaConfig::default(),
            log_driver: None,
            auto_lock_managers: false,
        }
    }
}

/// Orchestration settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orchestration {
    /// Tasks kept per slot, the live one included; negative keeps all.
    pub task_history_retention_limit: i64,
}

impl Default for Orchestration {
    fn default() -> Self {
        Self { task_history_retention_limit: 5 }
    }
}

/// Raft settings as Docker shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftConfig {
    /// Applied entries between snapshots.
    pub snapshot_interval: u64,
    /// Older snapshots kept beside the newest.
    pub keep_old_snapshots: u64,
    /// Entries kept after a snapshot for followers that are behind.
    pub log_entries_for_slow_followers: u64,
    /// Ticks without a leader until an election.
    pub election_tick: u32,
    /// Ticks between heartbeats.
    pub heartbeat_tick: u32,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            snapshot_interval: 10_000,
            keep_old_snapshots: 0,
            log_entries_for_slow_followers: 500,
            election_tick: 10,
            heartbeat_tick: 1,
        }
    }
}

/// Certificate settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaConfig {
    /// How long a node's certificate is valid; at least 1 h.
    pub node_cert_expiry: Duration,
    /// A counter: raising it rotates the root.
    pub force_rotate: u64,
}

impl Default for CaConfig {
    fn default() -> Self {
        Self { node_cert_expiry: Duration::from_secs(90 * 24 * 3600), force_rotate: 0 }
    }
}

/// The root of trust.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootCa {
    /// Root certificate bundle, PEM.
    pub certificate: Vec<u8>,
    /// Its private key, PEM, sealed.
    pub key: Sealed,
    /// `sha256:` digest of the bundle.
    pub digest: String,
    /// Who may join.
    pub join_tokens: JoinTokens,
}

/// What a machine must show to join.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct JoinTokens {
    /// Joins as a worker.
    pub worker: String,
    /// Joins as a manager.
    pub manager: String,
}

impl std::fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinTokens(..)")
    }
}
