//! Why bytes or a message could not be understood.

use skep_model::{IdError, TaskState};
use skep_store::RestoreError;

/// Why bytes or a message could not be understood. Nothing is ever guessed: a message is taken whole or not at all.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not a message of this kind.
    #[error("cannot read the {what}: its bytes are damaged")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What the decoder said.
        #[source]
        source: prost::DecodeError,
    },
    /// The record has a format number that is above what this build knows.
    #[error(
        "cannot read the {what}: written by a newer skep (format {version}, this one reads up to {known}); start that \
         release or a later one"
    )]
    NewerFormat {
        /// What was read.
        what: &'static str,
        /// Its format.
        version: u32,
        /// The newest format that this build reads.
        known: u32,
    },
    /// A choice has a case that this build does not know.
    #[error("written by a newer skep: unknown {what}; start that release or a later one")]
    UnknownKind {
        /// What kind of choice.
        what: &'static str,
    },
    /// A number that stands for one of several values stands for none that is known.
    #[error("unknown {what} {number}")]
    UnknownNumber {
        /// What it should stand for.
        what: &'static str,
        /// The number.
        number: i32,
    },
    /// A part is not there.
    #[error("{field} is missing")]
    Missing {
        /// Which part.
        field: &'static str,
    },
    /// A text is not an address with a prefix length.
    #[error(transparent)]
    Address(#[from] skep_model::CidrError),
    /// A text is not an id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A number lies outside what its field may hold.
    #[error("{field} is out of range: {value}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i128,
    },
    /// A text does not have the form its field wants.
    #[error("{field} cannot be read: {value:?}")]
    BadText {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A task state that nobody can want.
    #[error("{} cannot be a desired state", .0.name())]
    NotDesired(TaskState),
    /// The parts of a snapshot do not fit together.
    #[error("cannot restore the snapshot")]
    Restore(#[from] RestoreError),
}

pub(crate) type Result<T> = std::result::Result<T, DecodeError>;

/// The value of a part that must be there.
pub(crate) fn require<T>(part: Option<T>, field: &'static str) -> Result<T> {
    part.ok_or(DecodeError::Missing { field })
}
