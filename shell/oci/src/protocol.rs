//! The words on `shim.sock`. A frame is four bytes of length, most significant first, then that much JSON, at most
//! 64 KiB. The shim speaks first: [`Hello`] with its version. Then the client sends [`Request`]s, each with a number;
//! each [`Reply`] carries the number of its request. `wait` and `exec` are answered late, the rest at once. The
//! descriptors of an `exec` (stdin, stdout, stderr) and of an `attach` (those it names) travel with its frame by
//! `SCM_RIGHTS`.

use serde::{Deserialize, Serialize};

use crate::config::ExecConfig;
use crate::process::ProcessId;
use crate::record::ExitRecord;

/// Version of the protocol.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// Longest JSON in a frame, in bytes.
pub(crate) const FRAME_MAX: usize = 64 * 1024;

/// The shim's first frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
}

/// Which streams the descriptors of an attachment belong to, in this order.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// What a launcher says when it hands over the container's files in memory instead of an attachment.
pub(crate) const MEMORY: &[u8] = b"memory";

impl Streams {
    pub(crate) fn count(self) -> usize {
        usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

/// What a client asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) seq: u64,
    pub(crate) op: Op,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    State,
    Wait,
    /// To the first process.
    Kill {
        signal: i32,
    },
    /// To every process of the container.
    KillAll {
        signal: i32,
    },
    Pause,
    Resume,
    Exec(ExecConfig),
    /// More ends for the container's streams.
    Attach(Streams),
    /// Of the container's terminal.
    Resize {
        rows: u16,
        cols: u16,
    },
    /// Of the terminal of a process started by `exec`.
    ResizeExec {
        pid: i32,
        rows: u16,
        cols: u16,
    },
    /// To a process started by `exec`.
    KillExec {
        pid: i32,
        signal: i32,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) seq: u64,
    pub(crate) answer: Answer,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    State(State),
    Exited(ExitRecord),
    ExecStarted {
        pid: i32,
    },
    ExecExited {
        code: i32,
        signal: Option<i32>,
    },
    /// Could not be started; the code is 126 or 127 as in a shell.
    ExecFailed {
        code: i32,
        message: String,
    },
    Error {
        message: String,
    },
}

/// What a container does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its first process runs.
    Running,
    /// Frozen.
    Paused,
    /// Its first process has ended.
    Exited,
}

/// What a shim knows of its container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Running, paused or exited.
    pub phase: Phase,
    /// The container's first process.
    pub init: ProcessId,
    /// RFC 3339 with nanoseconds, UTC.
    pub started_at: String,
    /// Processes started by `exec` that still run.
    pub execs: usize,
    /// Log lines lost because the log could not be written.
    pub dropped_log_lines: u64,
}

/// A frame around `value`.
pub(crate) fn frame<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = bytes.len() - 4;
    if length > FRAME_MAX {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("message of {length} bytes is too long for the shim, at most {FRAME_MAX}"),
        ));
    }
    let length = u32::try_from(length).expect("at most FRAME_MAX");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}
