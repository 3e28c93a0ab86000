//! A user's request: judged, proposed, and answered after the commit.

use skep_admission::{Admitted, Code, Principal, Refusal, Request, admit};
use skep_model::{NetworkId, ServiceId};
use skep_raft::{ProposeError, Raft};
use skep_store::{Proposal, Rejection};

use crate::StoreMachine;
use crate::leading::Envs;

/// How often a request is judged anew when something it does not name changed meanwhile.
const TRIES: u32 = 5;

/// What a request that was carried out gives back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The id of a service that was created.
    pub service: Option<ServiceId>,
    /// The id of a network that was created.
    pub network: Option<NetworkId>,
    /// For the user.
    pub warnings: Vec<String>,
    /// Index of the log entry it was committed with; this manager's state has it.
    pub index: u64,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The rules do not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It lost against another change.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It could not be committed.
    #[error(transparent)]
    NotCommitted(#[from] ProposeError),
    /// There is no room on the disk; nothing was changed.
    #[error("no space left on the disk of this manager: nothing was changed, free some and try again")]
    DiskFull,
    /// There is no room on the disk, and the change was on its way there already.
    #[error(
        "no space left on the disk of this manager: the change may be carried out when there is some, look before you try again"
    )]
    DiskFilled,
}

/// How an error is classed for a client: gRPC's words, as Docker's engine turns them into HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// 400.
    InvalidArgument,
    /// 404.
    NotFound,
    /// 409.
    AlreadyExists,
    /// 400.
    FailedPrecondition,
    /// 501.
    Unimplemented,
    /// 503.
    Unavailable,
    /// 500: everything that Docker does not class.
    Unknown,
}

impl ErrorClass {
    /// gRPC's name, as it stands in the texts of a Docker engine.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "InvalidArgument",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Unimplemented => "Unimplemented",
            Self::Unavailable => "Unavailable",
            Self::Unknown => "Unknown",
        }
    }
}

impl SubmitError {
    /// The error's class. `update out of sequence` has none in Docker and so is a 500 there.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(refusal) => match refusal.code {
                Code::InvalidArgument => ErrorClass::InvalidArgument,
                Code::NotFound => ErrorClass::NotFound,
                Code::AlreadyExists => ErrorClass::AlreadyExists,
                Code::FailedPrecondition => ErrorClass::FailedPrecondition,
                Code::Unimplemented => ErrorClass::Unimplemented,
            },
            Self::Rejected(rejection) => match rejection {
                Rejection::NotFound { .. } => ErrorClass::NotFound,
                Rejection::NameConflict { .. } | Rejection::Exists { .. } => ErrorClass::AlreadyExists,
                Rejection::OutOfSequence | Rejection::Stale { .. } | Rejection::Unmet(_) | Rejection::Invalid(_) => {
                    ErrorClass::Unknown
                }
            },
            Self::DiskFull | Self::DiskFilled => ErrorClass::Unavailable,
            Self::NotCommitted(error) => match error {
                ProposeError::Busy => ErrorClass::Unavailable,
                ProposeError::TooLarge { .. } => ErrorClass::InvalidArgument,
                ProposeError::NotLeader | ProposeError::OutcomeUnknown | ProposeError::Stopped => ErrorClass::Unknown,
            },
        }
    }

    /// The text a Docker engine gives: `rpc error: code = … desc = …`.
    #[must_use]
    pub fn docker_text(&self) -> String {
        let text = match self {
            Self::NotCommitted(ProposeError::NotLeader | ProposeError::Stopped) => NO_LEADER.to_owned(),
            other => other.to_string(),
        };
        format!("rpc error: code = {} desc = {text}", self.class().name())
    }
}

/// Docker's text for a cluster whose managers cannot agree.
const NO_LEADER: &str = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than \
                         half of the managers are online.";

/// Judges a request on the newest state and commits it. What it names is checked by version at commit; if anything else it
/// was judged by has changed, it is judged anew.
pub(crate) async fn submit(
    raft: &Raft<StoreMachine>,
    envs: &std::sync::Mutex<Envs>,
    principal: Principal,
    request: Request,
) -> Result<Answer, SubmitError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut env = envs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).now(raft);
        let view = raft.state();
        let Admitted { changes, service, network, warnings } =
            admit(&view.state, principal, request.clone(), &mut env)?;
        if changes.is_empty() {
            return Ok(Answer { service, network, warnings, index: view.index });
        }
        let mut full = raft.disk_full();
        if *full.borrow_and_update() {
            return Err(SubmitError::DiskFull);
        }
        let committed = tokio::select! {
            biased;
            committed = raft.propose(Proposal { change_set: changes }) => committed?,
            Ok(_) = full.wait_for(|is_full| *is_full) => return Err(SubmitError::DiskFilled),
        };
        match committed.outcome.ok() {
            Ok(()) => return Ok(Answer { service, network, warnings, index: committed.index }),
            Err(Rejection::Stale { .. } | Rejection::Unmet(_)) if tries < TRIES => {}
            Err(rejection) => return Err(rejection.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_dockers() {
        let stale = SubmitError::Rejected(Rejection::OutOfSequence);
        assert_eq!(stale.docker_text(), "rpc error: code = Unknown desc = update out of sequence");
        let taken = SubmitError::Rejected(Rejection::NameConflict { kind: "service", name: "web".to_owned() });
        assert_eq!(
            taken.docker_text(),
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
        );
        let leaderless = SubmitError::NotCommitted(ProposeError::NotLeader);
        assert!(
            leaderless.docker_text().starts_with("rpc error: code = Unknown desc = The swarm does not have a leader.")
        );
    }
}
