//! Versions of the API, and which of them are spoken.

use std::fmt;

/// A version of the API, for instance 1.50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// Before the dot.
    pub major: u32,
    /// After the dot.
    pub minor: u32,
}

/// A version that is not spoken. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Newer than this server.
    #[error("client version {0} is too new. Maximum supported API version is {max}", max = ApiVersion::MAX)]
    TooNew(String),
    /// Older than any that is still spoken.
    #[error(
        "client version {0} is too old. Minimum supported API version is {min}, please upgrade your client to a newer version",
        min = ApiVersion::MIN
    )]
    TooOld(String),
}

impl ApiVersion {
    /// The newest that is spoken; what requests without a version get.
    pub const MAX: Self = Self { major: 1, minor: 50 };
    /// The oldest that is spoken.
    pub const MIN: Self = Self { major: 1, minor: 24 };

    /// True from version 1.`minor` on.
    #[must_use]
    pub fn is_at_least(self, minor: u32) -> bool {
        self >= Self { major: 1, minor }
    }

    /// Reads the text between `/v` and the next slash. Docker compares the numbers between dots, so `1.5` is older than
    /// `1.24`, and more than two numbers are allowed.
    pub fn negotiate(text: &str) -> Result<Self, VersionError> {
        let mut numbers = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let asked = Self { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) };
        if asked > Self::MAX || (asked == Self::MAX && numbers.any(|number| number > 0)) {
            Err(VersionError::TooNew(text.to_owned()))
        } else if asked < Self::MIN {
            Err(VersionError::TooOld(text.to_owned()))
        } else {
            Ok(asked)
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_between_the_oldest_and_newest_are_taken() {
        assert_eq!(ApiVersion::negotiate("1.50"), Ok(ApiVersion::MAX));
        assert_eq!(ApiVersion::negotiate("1.24"), Ok(ApiVersion::MIN));
        assert!(ApiVersion::negotiate("1.41").is_ok_and(|version| version.is_at_least(41) && !version.is_at_least(42)));
    }

    #[test]
    fn others_are_refused_with_dockers_text() {
        let text = |version| ApiVersion::negotiate(version).unwrap_err().to_string();
        assert_eq!(text("1.99"), "client version 1.99 is too new. Maximum supported API version is 1.50");
        assert_eq!(
            text("1.5"),
            "client version 1.5 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        assert!(text("2").contains("too new"));
        assert!(text("1.50.1").contains("too new"));
        assert!(text("...").contains("too old"));
    }
}
