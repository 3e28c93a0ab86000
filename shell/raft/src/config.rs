//! What can be set, with its defaults.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::OpenError;

/// How a manager keeps its log and takes part in elections.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where log, vote and snapshot lie: `<data-root>/swarm/raft`.
    pub directory: PathBuf,
    /// The cluster's id, in every file; files of another cluster are refused.
    pub cluster_id: String,
    /// The cluster's epoch, in every file; it is raised when a cluster is forced into a new one.
    pub epoch: u64,
    /// A snapshot is taken after this many entries (Docker's `SnapshotInterval`).
    pub snapshot_interval: u64,
    /// So many entries stay in the log after a snapshot (Docker's `LogEntriesForSlowFollowers`).
    pub log_entries_for_slow_followers: u64,
    /// A snapshot is also taken when the log has grown by so many bytes since the last one.
    pub snapshot_log_bytes: u64,
    /// A log file that has grown to this is followed by a new one; purging removes whole files. So much is allocated for
    /// each in advance.
    pub log_file_bytes: u64,
    /// The shortest and the longest time without a leader before this manager asks for votes.
    pub election_timeout: (Duration, Duration),
    /// How often a leader shows that it is alive.
    pub heartbeat_period: Duration,
    /// So many proposals may wait; the next one is refused as busy.
    pub proposal_queue: usize,
    /// So many proposals are put into one entry at most.
    pub batch_proposals_max: usize,
    /// So many bytes of proposals are put into one entry at most.
    pub batch_bytes_max: usize,
    /// A single proposal larger than this is refused (Docker: 1.5 MiB).
    pub proposal_bytes_max: usize,
    /// A subscriber may lag so many commits behind; after that it gets a reset.
    pub subscriber_buffer: usize,
}

impl Config {
    /// The defaults for a log in `directory`.
    pub fn new(directory: impl Into<PathBuf>, cluster_id: impl Into<String>) -> Config {
        Config {
            directory: directory.into(),
            cluster_id: cluster_id.into(),
            epoch: 1,
            snapshot_interval: 10_000,
            log_entries_for_slow_followers: 500,
            snapshot_log_bytes: 64 << 20,
            log_file_bytes: 4 << 20,
            election_timeout: (Duration::from_millis(500), Duration::from_millis(1000)),
            heartbeat_period: Duration::from_millis(100),
            proposal_queue: 4096,
            batch_proposals_max: 1000,
            batch_bytes_max: 1 << 20,
            proposal_bytes_max: 3 << 19,
            subscriber_buffer: 1024,
        }
    }

    pub(crate) fn for_openraft(&self) -> Result<openraft::Config, OpenError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: self.cluster_id.clone(),
            election_timeout_min: millis(self.election_timeout.0),
            election_timeout_max: millis(self.election_timeout.1),
            heartbeat_interval: millis(self.heartbeat_period),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_interval),
            max_in_snapshot_log_to_keep: self.log_entries_for_slow_followers,
            enable_pre_vote: Some(true),
            // Each leading begins with an election, so that a term stands for one uninterrupted leading.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| OpenError::Config { detail: error.to_string() })
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |detail: &str| Err(OpenError::Config { detail: detail.to_owned() });
        if self.cluster_id.is_empty() || self.cluster_id.len() > 255 {
            return refuse("the cluster id must have 1 to 255 bytes");
        }
        if self.snapshot_interval == 0 {
            return refuse("the snapshot interval must be at least 1 entry");
        }
        if self.proposal_queue == 0 || self.batch_proposals_max == 0 || self.subscriber_buffer == 0 {
            return refuse("queue, batch and subscriber buffer must hold at least 1");
        }
        if self.log_file_bytes > 1 << 30 {
            return refuse("a log file may have at most 1 GiB");
        }
        if self.proposal_bytes_max > 8 << 20 || self.batch_bytes_max > 8 << 20 {
            return refuse("a proposal and a batch may have at most 8 MiB");
        }
        Ok(())
    }
}
