//! Which names objects may have, with the texts of Docker's refusals (SwarmKit `manager/controlapi/common.go`).

/// Why a name was refused. The texts are Docker's: scripts match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name at all.
    #[error("meta: name must be provided")]
    Missing,
    /// More than 63 characters.
    #[error("name must be 63 characters or fewer")]
    TooLong,
    /// Characters that a DNS label does not allow.
    #[error("name must be valid as a DNS name component")]
    NotDns,
    /// A secret's or config's name outside `[a-zA-Z0-9-_.]{1,64}`.
    #[error(
        "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
    )]
    NotObject,
}

/// Checks the name of a service or network: `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`, at most 63 characters.
pub fn check_service_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Missing);
    }
    if !has_shape(name, "-_") {
        return Err(NameError::NotDns);
    }
    if name.len() > 63 { Err(NameError::TooLong) } else { Ok(()) }
}

/// Checks the name of a secret or config.
pub fn check_object_name(name: &str) -> Result<(), NameError> {
    if has_shape(name, "-_.") && name.len() <= 64 { Ok(()) } else { Err(NameError::NotObject) }
}

fn has_shape(name: &str, inner: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || inner.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_docker_takes_them() {
        assert_eq!(check_service_name("web-1_a"), Ok(()));
        assert_eq!(check_service_name(""), Err(NameError::Missing));
        for bad in ["-a", "a-", "a.b", "ä", "a b"] {
            assert_eq!(check_service_name(bad), Err(NameError::NotDns), "{bad}");
        }
        assert_eq!(check_service_name(&"a".repeat(64)), Err(NameError::TooLong));
        assert_eq!(check_object_name("a.b"), Ok(()));
        assert_eq!(check_object_name(""), Err(NameError::NotObject));
    }
}
