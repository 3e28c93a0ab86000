//! What can go wrong, with Docker's words where Docker has them. Callers that answer over HTTP look at
//! [`EngineError::class`].

use std::io;
use std::path::PathBuf;

/// Which kind of failure this is; maps to the status code of Docker's HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The named thing does not exist (404).
    NotFound,
    /// The request contradicts the state of the thing (409).
    Conflict,
    /// It is not allowed, here or at a registry (403).
    Forbidden,
    /// The input is wrong (400).
    Invalid,
    /// A registry does not know who asks (401).
    Unauthorized,
    /// It is so already (304).
    NotModified,
    /// The machine failed, not the request (500).
    Internal,
}

/// Everything the engine reports.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has this name, id or id prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// Several containers have this id prefix.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// No exec has this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// A path in a container leads to nothing.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The path, as it was given.
        path: String,
        /// The container, as it was given.
        container: String,
    },
    /// The thread that looked at a container's files ended early.
    #[error("the files of container {0:?} could not be looked at")]
    Files(String),
    /// The container does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The container was stopped already.
    #[error("container {0} is already stopped")]
    AlreadyStopped(String),
    /// The container runs already.
    #[error("container {0} is already running")]
    AlreadyStarted(String),
    /// The request contradicts the state of the container; the text is Docker's.
    #[error("{0}")]
    Conflict(String),
    /// It failed; the text is Docker's, which answers 500 here.
    #[error("{0}")]
    Failed(String),
    /// It is not allowed; the text is Docker's.
    #[error("{0}")]
    Forbidden(String),
    /// The input is wrong; the text says which.
    #[error("{0}")]
    Invalid(String),
    /// Something that is named does not exist; the text is Docker's.
    #[error("{0}")]
    NotFound(String),
    /// A volume cannot be mounted or filled; the text is Docker's.
    #[error("{0}")]
    Volume(String),
    /// The container could not be started; the text is Docker's, the code its exit code.
    #[error("{message}")]
    Start {
        /// 126, 127 or 128.
        exit_code: i32,
        /// For people.
        message: String,
    },
    /// A task's container did not stay as it should; the text is Docker's.
    #[error("{0}")]
    Ended(String),
    /// It was asked to end early.
    #[error("cancelled")]
    Cancelled,
    /// A container goes on after SIGKILL.
    #[error("container {0} does not end after SIGKILL: a process in it is stuck in the kernel")]
    Unkillable(String),
    /// The image store refused.
    #[error(transparent)]
    Image(#[from] skep_image::Error),
    /// The network refused.
    #[error(transparent)]
    Network(#[from] skep_network::NetworkError),
    /// A bundle cannot be handled.
    #[error(transparent)]
    Bundle(#[from] skep_oci::BundleError),
    /// A shim refused or does not answer.
    #[error(transparent)]
    Shim(#[from] skep_oci::ClientError),
    /// A file operation failed.
    #[error("cannot {what} {path:?}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record was written by a newer release.
    #[error("{path:?} has version {found}, this release reads up to {supported}: use the newer skep")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this release knows.
        supported: u32,
    },
    /// The directories are used by another engine.
    #[error("data root {0:?} is used by another skep: stop it or choose another data root")]
    InUse(PathBuf),
    /// The process is ending.
    #[error("the engine is shutting down")]
    Closing,
}

impl EngineError {
    /// The class of this failure, for the choice of a status code.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Forbidden(_) => ErrorClass::Forbidden,
            Self::NoSuchContainer(_) | Self::NoSuchExec(_) | Self::NotFound(_) | Self::NoSuchFile { .. } => {
                ErrorClass::NotFound
            }
            Self::NotRunning(_) | Self::Conflict(_) => ErrorClass::Conflict,
            Self::Invalid(_) | Self::Ambiguous(_) => ErrorClass::Invalid,
            Self::AlreadyStopped(_) | Self::AlreadyStarted(_) => ErrorClass::NotModified,
            Self::Image(error) => match error.class() {
                skep_image::ErrorClass::NotFound => ErrorClass::NotFound,
                skep_image::ErrorClass::Conflict => ErrorClass::Conflict,
                skep_image::ErrorClass::Invalid => ErrorClass::Invalid,
                skep_image::ErrorClass::Unauthorized => ErrorClass::Unauthorized,
                skep_image::ErrorClass::Forbidden => ErrorClass::Forbidden,
                skep_image::ErrorClass::Internal => ErrorClass::Internal,
            },
            Self::Start { exit_code: 126 | 127, .. } => ErrorClass::Invalid,
            _ => ErrorClass::Internal,
        }
    }

    /// The text with its causes, as it is shown to people.
    #[must_use]
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        text
    }
}

/// Result of the engine's calls.
pub(crate) type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Adds what was tried to an I/O error.
pub(crate) trait At<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| EngineError::Io { what, path: path.into(), source })
    }
}
