//! What a shim leaves on disk for a daemon that comes later: who runs (`pid.json`) and how it ended (`exit.json`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// Version of `pid.json` and `exit.json`.
pub(crate) const RECORD_VERSION: u32 = 1;
pub(crate) const CONFIG_FILE: &str = "shim.json";
pub(crate) const PID_FILE: &str = "pid.json";
pub(crate) const EXIT_FILE: &str = "exit.json";
pub(crate) const SOCKET_FILE: &str = "shim.sock";
/// Its presence forbids a shim that is about to start to go on.
pub(crate) const CANCEL_FILE: &str = "cancelled";
/// The OCI bundle (config.json) and libcontainer's state.
pub(crate) const RUNTIME_DIR: &str = "runtime";
/// Short names for overlay layers.
pub(crate) const LAYERS_DIR: &str = "l";

/// The processes of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// Format version.
    pub version: u32,
    /// The shim.
    pub shim: ProcessId,
    /// The container's first process, once it exists.
    pub init: Option<ProcessId>,
    /// When the container's program was started, RFC 3339 with nanoseconds, UTC.
    pub started_at: Option<String>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Format version.
    pub version: u32,
    /// As Docker counts: the exit code, 128 plus the signal, 126 or 127 when the program could not be started.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in the container for lack of memory.
    pub oom_killed: bool,
    /// RFC 3339 with nanoseconds, UTC; empty when it never started.
    pub started_at: String,
    /// RFC 3339 with nanoseconds, UTC.
    pub finished_at: String,
    /// Why it could not be started, in Docker's words.
    pub error: Option<String>,
}

/// Now, as Docker prints it.
pub(crate) fn now() -> String {
    rfc3339(std::time::SystemTime::now())
}

/// RFC 3339 with nine digits of nanoseconds, UTC.
pub(crate) fn rfc3339(at: std::time::SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.nanosecond()
    )
}

/// Replaces `dir/name` so that after a crash the old or the new content is there, and the new one once this returns.
pub(crate) fn write_durably<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Replaces `dir/name` atomically, without waiting for the disk: for what a reboot makes worthless anyway.
pub(crate) fn write_atomically<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    std::fs::write(&temporary, serde_json::to_vec(value)?)?;
    std::fs::rename(&temporary, dir.join(name))
}

/// Reads a record; `None` when there is none or it is not readable as one.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
