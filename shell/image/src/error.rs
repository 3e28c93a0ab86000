//! What can go wrong in the image store, with Docker's words where Docker has them. Callers that answer over HTTP look at
//! [`Error::class`] for the status; the text goes to the user as it is.

use std::io;
use std::path::PathBuf;

/// Which kind of failure this is; maps one to one to the status code of Docker's HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The named thing does not exist (404).
    NotFound,
    /// The request contradicts the state of the store (409).
    Conflict,
    /// The input is wrong: a reference, an archive, an option (400).
    Invalid,
    /// A registry does not know who asks, or not enough (401).
    Unauthorized,
    /// A registry knows who asks, and refuses (403).
    Forbidden,
    /// The machine failed, not the request (500).
    Internal,
}

/// Everything the image store reports.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has this name, id or id prefix. The name is the familiar form with its tag, as Docker prints it.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// No snapshot exists for this container.
    #[error("no such snapshot: container \"{0}\" has no file system in the image store")]
    NoSuchSnapshot(String),
    /// A snapshot for this container is there already.
    #[error("cannot create a file system for container \"{0}\": it has one already")]
    SnapshotExists(String),
    /// A container id that cannot be the name of a directory.
    #[error("invalid container id \"{0}\": only letters, digits, '_', '.' and '-' are allowed, at most 128")]
    InvalidContainerId(String),
    /// Not a valid image reference; the text is Docker's.
    #[error("{0}")]
    InvalidReference(String),
    /// Not a valid `sha256:` digest.
    #[error("invalid digest \"{0}\": expected sha256: and 64 hexadecimal digits")]
    InvalidDigest(String),
    /// Refused because of tags or containers; the text is Docker's, beginning with `conflict:`.
    #[error("{0}")]
    Conflict(String),
    /// A registry refused, or could not be asked.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// A bad `--change` of `docker import`.
    #[error("{0}")]
    InvalidChange(String),
    /// The archive is damaged, hostile or not an image.
    #[error("invalid image archive: {0}")]
    InvalidArchive(String),
    /// A configuration that is not valid.
    #[error("invalid image config: {0}")]
    InvalidConfig(String),
    /// Content does not have the digest that was announced for it.
    #[error("digest mismatch in {what}: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was checked, for people.
        what: String,
        /// The announced digest.
        expected: String,
        /// The digest of the bytes.
        actual: String,
    },
    /// One of the configured limits was reached.
    #[error("image archive refused: {what} exceeds the limit of {limit}")]
    LimitExceeded {
        /// What grew too large.
        what: &'static str,
        /// The limit, in the unit `what` speaks of.
        limit: u64,
    },
    /// The archive holds no image for this machine.
    #[error("no image for platform {wanted} in the archive (it has: {available})")]
    NoMatchingPlatform {
        /// The platform that was looked for.
        wanted: String,
        /// What the archive has.
        available: String,
    },
    /// The stream the caller handed in failed or ended early.
    #[error("cannot read the image archive: {0}")]
    ReadStream(#[source] io::Error),
    /// A file operation in the store failed.
    #[error("cannot {action} \"{}\": {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store on disk was written by a newer release.
    #[error(
        "image store \"{}\" has format version {found}, this release reads up to {supported}: use the newer release or another data root",
        path.display()
    )]
    NewerStore {
        /// The store's root.
        path: PathBuf,
        /// The version on disk.
        found: u64,
        /// The newest version this code knows.
        supported: u64,
    },
    /// The store's own files are damaged.
    #[error("image store file \"{}\" is damaged: {reason}", path.display())]
    DamagedStore {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process holds the store.
    #[error("image store \"{}\" is in use by another process", .0.display())]
    StoreInUse(PathBuf),
    /// Overlayfs cannot be used at this place.
    #[error("overlayfs is not usable in \"{}\": {reason}", path.display())]
    OverlayUnavailable {
        /// Where it was tried.
        path: PathBuf,
        /// What is missing and what to do.
        reason: String,
    },
}

impl Error {
    /// The class of this failure, for the choice of a status code.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::NoSuchImage(_) | Error::NoSuchSnapshot(_) => ErrorClass::NotFound,
            Error::SnapshotExists(_) | Error::Conflict(_) => ErrorClass::Conflict,
            Error::Registry(error) => error.class(),
            Error::InvalidContainerId(_)
            | Error::InvalidReference(_)
            | Error::InvalidDigest(_)
            | Error::InvalidChange(_)
            | Error::InvalidArchive(_)
            | Error::InvalidConfig(_)
            | Error::DigestMismatch { .. }
            | Error::LimitExceeded { .. }
            | Error::NoMatchingPlatform { .. }
            | Error::ReadStream(_) => ErrorClass::Invalid,
            Error::Io { .. }
            | Error::NewerStore { .. }
            | Error::DamagedStore { .. }
            | Error::StoreInUse(_)
            | Error::OverlayUnavailable { .. } => ErrorClass::Internal,
        }
    }

    pub(crate) fn archive(text: impl Into<String>) -> Error {
        Error::InvalidArchive(text.into())
    }
}

/// Short for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was tried, and on which file, to an I/O failure.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.into(), source: source.into() })
    }
}
