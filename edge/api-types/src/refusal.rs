//! Why a request's object could not become one of the model's.

/// Why a request's object was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The engine itself refuses it: status 400, the text as it is.
    #[error("{0}")]
    Invalid(String),
    /// Docker's managers refuse it, so the text carries their prefix: status 400.
    #[error("rpc error: code = InvalidArgument desc = {0}")]
    Argument(String),
    /// Docker has it and skep has it not, yet: status 501.
    #[error("{0}")]
    Unsupported(String),
}

impl Refusal {
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    pub(crate) fn argument(text: impl Into<String>) -> Self {
        Self::Argument(text.into())
    }

    pub(crate) fn unsupported(what: &str) -> Self {
        Self::Unsupported(format!("{what} is not supported yet"))
    }
}
