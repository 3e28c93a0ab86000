//! What changes in the life of a container and must outlast the engine: `facts.json`, beside the record, which never changes.
//! It is small and replaced as a whole. Missing, it holds what is true of a container that nothing happened to; the
//! containers of tasks rarely have one, for their agent decides about them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use skep_oci::{ExitRecord, Resources};

use crate::error::{At, EngineError, Result};
use crate::record::NetworkRecord;
use crate::restart::RestartPolicy;

/// The version of `facts.json` this release writes, and the highest it reads.
const FACTS_VERSION: u32 = 1;

/// What became of a container by the hands of users and by its restart policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    pub(crate) version: u32,
    /// Its name, once it was renamed.
    pub(crate) name: Option<String>,
    /// Its restart policy, once it was changed.
    pub(crate) restart: Option<RestartPolicy>,
    /// Its limits, once they were changed.
    pub(crate) resources: Option<Resources>,
    /// It was started at least once.
    pub(crate) started: bool,
    /// The user stopped it after its last start: `unless-stopped` leaves it alone.
    pub(crate) stopped_by_hand: bool,
    /// It was paused, or is about to be.
    pub(crate) paused: bool,
    /// How often its restart policy started it since the user did.
    pub(crate) restarts: u32,
    /// Its networks, once they were changed.
    pub(crate) networks: Option<Vec<NetworkRecord>>,
    /// How the run before the one in the bundle ended.
    pub(crate) last_run: Option<ExitRecord>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            version: FACTS_VERSION,
            name: None,
            restart: None,
            resources: None,
            started: false,
            stopped_by_hand: false,
            paused: false,
            restarts: 0,
            networks: None,
            last_run: None,
        }
    }
}

impl Facts {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).at("read", path),
        };
        let parse = |error| std::io::Error::from(error);
        let found: Versioned = serde_json::from_slice(&bytes).map_err(parse).at("understand", path)?;
        if found.version > FACTS_VERSION {
            let (found, supported) = (found.version, FACTS_VERSION);
            return Err(EngineError::Newer { path: path.to_owned(), found, supported });
        }
        serde_json::from_slice(&bytes).map_err(parse).at("understand", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote is read for ever.
    const VERSION_1: &str = r#"{"version":1,"name":"web","restart":{"kind":"on_failure","max_retries":3},
        "started":true,"restarts":2,"last_run":{"version":1,"exit_code":1,"signal":null,"oom_killed":false,
        "started_at":"2026-01-02T03:04:05Z","finished_at":"2026-01-02T03:04:06Z","error":null}}"#;

    #[test]
    fn version_1_is_read_and_a_newer_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("facts.json");
        assert_eq!(Facts::load(&path).unwrap(), Facts::default());
        std::fs::write(&path, VERSION_1).unwrap();
        let facts = Facts::load(&path).unwrap();
        assert_eq!((facts.name.as_deref(), facts.restarts, facts.started), (Some("web"), 2, true));
        assert_eq!(facts.restart, Some(RestartPolicy::on_failure(3)));
        assert_eq!(facts.last_run.unwrap().exit_code, 1);
        std::fs::write(&path, r#"{"version":2}"#).unwrap();
        assert!(matches!(Facts::load(&path), Err(EngineError::Newer { found: 2, .. })));
    }
}
