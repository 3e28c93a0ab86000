//! Why the node does not do what it was asked. Texts without a field are Docker's: clients match on them.

use skep_manager::{ErrorClass, LogError, SubmitError};

/// Why the node does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// A manager is asked for and the node is in no swarm.
    #[error(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm \
         and try again."
    )]
    NoSwarm,
    /// The manager on this node is starting or has failed.
    #[error("This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.")]
    NotReady,
    /// The node is in no swarm, so it can leave none.
    #[error("This node is not part of a swarm")]
    NotPartOfSwarm,
    /// The node is in a swarm already.
    #[error(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one."
    )]
    AlreadyInSwarm,
    /// A manager leaves only when it is forced to.
    #[error(
        "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager \
         erases all current state of the swarm. Use `--force` to ignore this message. "
    )]
    LastManager,
    /// Nothing to unlock.
    #[error("swarm is not locked")]
    NotLocked,
    /// The request is wrong; shown as it is.
    #[error("{0}")]
    Invalid(String),
    /// This version of skep does not do it.
    #[error("{0} is not supported by this version of skep")]
    Unsupported(String),
    /// The control API's refusal, as an engine words it.
    #[error("{}", .0.docker_text())]
    Submit(#[from] SubmitError),
    /// Logs cannot be read.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// The machine failed, not the request.
    #[error("{0}")]
    Internal(String),
}

impl NodeError {
    /// How the error is classed for a client.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoSwarm | Self::NotReady | Self::NotPartOfSwarm | Self::AlreadyInSwarm | Self::LastManager => {
                ErrorClass::Unavailable
            }
            Self::NotLocked => ErrorClass::AlreadyExists,
            Self::Invalid(_) | Self::Logs(LogError::EmptySelector) => ErrorClass::InvalidArgument,
            Self::Unsupported(_) => ErrorClass::Unimplemented,
            Self::Submit(error) => error.class(),
            Self::Logs(LogError::TooManyReaders) => ErrorClass::Unavailable,
            Self::Logs(LogError::Incomplete(_)) | Self::Internal(_) => ErrorClass::Unknown,
        }
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        Self::Internal(text_of(error))
    }
}

/// An error with its causes.
pub(crate) fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some texts hold their cause already.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
