//! What registries refuse and how asking them fails, in the words of Docker and of its client of registries
//! (`distribution/registry/client/errors.go`, moby `distribution/errors.go`).

use serde_json::Value;

use crate::error::ErrorClass;
use crate::reference::Reference;

/// Why a registry did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// There is no answer, or none that counts.
    #[error("{method} \"{url}\": {reason}")]
    Request {
        /// `Get`, `Head`, `Post`, `Patch` or `Put`.
        method: &'static str,
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
        /// The credentials are the reason.
        unauthorized: bool,
    },
    /// The registry says no.
    #[error("{code}: {message}")]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// The registry API's code in words, such as `manifest unknown`.
        code: String,
        /// The registry's sentence.
        message: String,
    },
    /// An answer that is no refusal of the registry API.
    #[error("received unexpected HTTP status: {0}")]
    Status(String),
    /// What is asked for is not there, or not for us; the text is Docker's.
    #[error("{0}")]
    NotFound(String),
    /// The name and password, or their token, are wrong.
    #[error("{0}")]
    Unauthorized(String),
    /// What the registry has cannot be used here.
    #[error("{0}")]
    Unsupported(String),
    /// The registry's content is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// The connection was cut; trying again may help.
    #[error("{0}")]
    Cut(String),
}

impl RegistryError {
    /// The class of this error, for a status.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_) => ErrorClass::NotFound,
            Self::Unauthorized(_) | Self::Refused { status: 401, .. } => ErrorClass::Unauthorized,
            Self::Refused { status: 403, .. } => ErrorClass::Forbidden,
            Self::Refused { status: 404, .. } => ErrorClass::NotFound,
            Self::Refused { status: 400..=499, .. } | Self::Unsupported(_) => ErrorClass::Invalid,
            Self::Request { .. } | Self::Refused { .. } | Self::Status(_) | Self::Damaged(_) | Self::Cut(_) => {
                ErrorClass::Internal
            }
        }
    }

    /// The refusal in the body of an answer (`{"errors": [{"code", "message"}]}`).
    pub(crate) fn of_body(status: http::StatusCode, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let first = value.get("errors").and_then(|errors| errors.get(0));
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(shorten);
        if let Some(first) = first {
            let code = text(first.get("code")).unwrap_or_default().to_lowercase().replace('_', " ");
            let message = text(first.get("message")).unwrap_or_else(|| code.clone());
            if !code.is_empty() {
                return Self::Refused { status: status.as_u16(), code, message };
            }
        }
        // Token servers have forms of their own.
        let details = text(value.get("details")).or_else(|| text(value.get("message")));
        let details = details.or_else(|| text(value.get("error_description")));
        match (status.as_u16(), details) {
            (401, details) => {
                let message = details.unwrap_or_else(|| "authentication required".to_owned());
                Self::Refused { status: 401, code: "unauthorized".to_owned(), message }
            }
            (403, details) => {
                let message = details.unwrap_or_else(|| "requested access to the resource is denied".to_owned());
                Self::Refused { status: 403, code: "denied".to_owned(), message }
            }
            (429, details) => {
                let message = details.unwrap_or_else(|| "too many requests".to_owned());
                Self::Refused { status: 429, code: "toomanyrequests".to_owned(), message }
            }
            _ => Self::Status(status.to_string()),
        }
    }

    /// As a pull of `name` tells it (moby `translatePullError`).
    pub(crate) fn of_pull(self, name: &Reference) -> Self {
        let Self::Refused { code, .. } = &self else { return self };
        match code.as_str() {
            "denied" => Self::NotFound(format!(
                "pull access denied for {}, repository does not exist or may require 'docker login': {self}",
                name.familiar_name()
            )),
            "manifest unknown" => {
                Self::NotFound(format!("manifest for {} not found: {self}", name.clone().with_default_tag().familiar()))
            }
            "name unknown" => Self::NotFound(format!("repository {} not found: {self}", name.familiar_name())),
            // As in Docker, a failure of its own and no answer to this request.
            "unauthorized" => Self::Damaged(self.to_string()),
            _ => self,
        }
    }

    /// Whether trying again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Cut(_) | Self::Status(_) => true,
            Self::Request { unauthorized, .. } => !unauthorized,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

fn shorten(text: &str) -> String {
    crate::digest::shorten(text.trim())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn refusals_have_dockers_words() {
        let name = Reference::parse("r.test:5000/x:1").unwrap();
        let unknown = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"1"}}]}"#;
        let error = RegistryError::of_body(StatusCode::NOT_FOUND, unknown);
        assert_eq!(
            (error.to_string().as_str(), error.class()),
            ("manifest unknown: manifest unknown", ErrorClass::NotFound)
        );
        assert_eq!(
            error.of_pull(&name).to_string(),
            "manifest for r.test:5000/x:1 not found: manifest unknown: manifest unknown"
        );
        let denied =
            br#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied","detail":null}]}"#;
        assert_eq!(
            RegistryError::of_body(StatusCode::UNAUTHORIZED, denied)
                .of_pull(&Reference::parse("x").unwrap())
                .to_string(),
            "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        );
        let error = RegistryError::of_body(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(error.to_string(), "received unexpected HTTP status: 502 Bad Gateway");
        assert!(error.is_passing());
        assert_eq!(
            RegistryError::of_body(StatusCode::UNAUTHORIZED, br#"{"details":"incorrect username or password"}"#)
                .to_string(),
            "unauthorized: incorrect username or password"
        );
    }
}
