//! A container as others see it: all that `docker ps` and `docker inspect` need, taken at one moment.

use std::path::PathBuf;
use std::sync::Arc;

use skep_network::Endpoint;
use skep_oci::ExitRecord;

use crate::health::Health;
use crate::record::{PortRecord, Record};

/// How a container goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Prepared, never started.
    Created,
    /// Its shim is making it.
    Starting,
    /// It runs.
    Running {
        /// Process id of its first process.
        pid: i32,
        /// RFC 3339 with nanoseconds, UTC.
        started_at: String,
    },
    /// It has ended, or could not be started (then the record has an error).
    Exited(ExitRecord),
    /// It is deleted.
    Removed,
}

impl ContainerState {
    /// Docker's word: `created`, `running`, `exited` or `removing`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Exited(exit) if !exit.started_at.is_empty() => "exited",
            Self::Created | Self::Starting | Self::Exited(_) => "created",
            Self::Removed => "removing",
        }
    }

    /// True while its first process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Process id of its first process; 0 when it does not run.
    #[must_use]
    pub fn pid(&self) -> i32 {
        if let Self::Running { pid, .. } = self { *pid } else { 0 }
    }

    /// Exit code; 0 while it has none.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        if let Self::Exited(exit) = self { exit.exit_code } else { 0 }
    }
}

impl ContainerView {
    /// Docker's word: `created`, `running`, `paused`, `restarting`, `exited` or `removing`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self.state {
            ContainerState::Running { .. } if self.paused => "paused",
            ContainerState::Created | ContainerState::Exited(_) if self.restarting => "restarting",
            ContainerState::Created | ContainerState::Starting if self.last_run.is_some() => "exited",
            // A start that failed leaves a container as it was.
            ContainerState::Exited(_) if self.last_run.is_some() => "exited",
            _ => self.state.status(),
        }
    }
}

/// A container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// What it is: as it was prepared, with what was changed since.
    pub record: Arc<Record>,
    /// How it goes.
    pub state: ContainerState,
    /// It runs, but is frozen.
    pub paused: bool,
    /// It has ended, and its restart policy is about to start it again.
    pub restarting: bool,
    /// How often its restart policy started it since the user did.
    pub restarts: u32,
    /// How the run before ended, while there is none that ended since.
    pub last_run: Option<ExitRecord>,
    /// How the checks of its last run went, if it has some.
    pub health: Option<Health>,
    /// Its address and so on, while it has some.
    pub endpoint: Option<Endpoint>,
    /// Its published ports with the numbers really bound; those without a number are not bound.
    pub ports: Vec<PortRecord>,
    /// Its json-file log; empty when it has none.
    pub log_path: PathBuf,
    /// Its files for `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    pub etc: [PathBuf; 3],
    /// Ids of its execs that are still known.
    pub exec_ids: Vec<String>,
}
