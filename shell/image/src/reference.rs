//! Docker's image references: `busybox` means `docker.io/library/busybox:latest`. Parsing, normalising and the way back to the
//! familiar form, with the grammar and the error texts of `github.com/distribution/reference`.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, shorten};
use crate::error::{Error, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const NAME_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;

/// A normalised name of an image: domain, path, and a tag, a digest, both or neither.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what a user typed. No tag is added; see [`Reference::with_default_tag`].
    ///
    /// # Errors
    /// [`Error::InvalidReference`] with Docker's text.
    pub fn parse(text: &str) -> Result<Reference> {
        let invalid = |reason: String| Err(Error::InvalidReference(reason));
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return invalid(format!("invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.chars().any(char::is_uppercase) {
            return invalid(format!(
                "invalid reference format: repository name ({}) must be lowercase",
                shorten(remote)
            ));
        }
        let format = || Error::InvalidReference("invalid reference format".to_owned());
        let (named, digest) = match remainder.split_once('@') {
            None => (remainder.as_str(), None),
            Some((named, digest)) => (named, Some(parse_digest(digest)?)),
        };
        let (path, tag) = match named.split_once(':') {
            None => (named, None),
            Some((path, tag)) => (path, Some(tag)),
        };
        if !is_domain(&domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
            return Err(format());
        }
        if domain.len() + 1 + path.len() > NAME_LENGTH_MAX {
            return invalid(format!("repository name must not be more than {NAME_LENGTH_MAX} characters"));
        }
        Ok(Reference { domain, path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }

    /// The registry, such as `docker.io`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full name without tag and digest, such as `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// With `:latest` when there is neither a tag nor a digest.
    pub fn with_default_tag(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// [`Error::InvalidReference`] when the tag is not valid.
    pub fn with_tag(&self, tag: &str) -> Result<Reference> {
        if !is_tag(tag) {
            return Err(Error::InvalidReference("invalid tag format".to_owned()));
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository by digest and without a tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The name as people write it: `busybox`, `user/app`, `registry.example:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            // `docker.io/library/a/b` keeps its prefix: `a/b` would be another repository.
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The familiar name with the tag and digest that were given.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    /// The canonical form, such as `docker.io/library/busybox:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        Reference::parse(text)
    }
}

/// Separates the registry from the rest; a first component is a registry when it looks like a host name.
fn split_domain(text: &str) -> (String, String) {
    let (mut domain, mut remainder) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) =>
        {
            (first.to_owned(), rest.to_owned())
        }
        _ => (DEFAULT_DOMAIN.to_owned(), text.to_owned()),
    };
    if domain == LEGACY_DOMAIN {
        domain = DEFAULT_DOMAIN.to_owned();
    }
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        remainder = format!("{OFFICIAL_PREFIX}{remainder}");
    }
    (domain, remainder)
}

fn parse_digest(text: &str) -> Result<Digest> {
    let format = || Error::InvalidReference("invalid reference format".to_owned());
    let (algorithm, hex) = text.split_once(':').ok_or_else(format)?;
    if algorithm.is_empty() || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format());
    }
    if algorithm != "sha256" {
        return Err(Error::InvalidReference("unsupported digest algorithm".to_owned()));
    }
    Digest::from_hex(hex).map_err(|_| Error::InvalidReference("invalid checksum digest length".to_owned()))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            match rest {
                "" => return true,
                _ => match rest.strip_prefix(':') {
                    Some(port) => return !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()),
                    None => return false,
                },
            }
        }
        None => match text.split_once(':') {
            None => (text, None),
            Some((host, port)) => (host, Some(port)),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !plain(*first) || !plain(*last) {
        return false;
    }
    bytes
        .split(|b| plain(*b))
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| word(*b))
        && bytes.len() <= TAG_LENGTH_MAX
        && bytes.iter().all(|b| word(*b) || *b == b'.' || *b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, canonical: &str, familiar: &str) {
        let reference = Reference::parse(text).unwrap().with_default_tag();
        assert_eq!(reference.to_string(), canonical, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference, "{text}");
        assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference, "{text}");
    }

    fn refused(text: &str, message: &str) {
        assert_eq!(Reference::parse(text).unwrap_err().to_string(), message, "{text}");
    }

    #[test]
    fn names_are_normalised_and_shown_in_the_familiar_form() {
        check("busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36");
        check("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("user/app:v1", "docker.io/user/app:v1", "user/app:v1");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest");
        check(
            "registry.test:5000/a/b__c/d--e:x",
            "registry.test:5000/a/b__c/d--e:x",
            "registry.test:5000/a/b__c/d--e:x",
        );
        check("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest");
        let digest = Digest::of(b"x");
        check(
            &format!("busybox@{digest}"),
            &format!("docker.io/library/busybox@{digest}"),
            &format!("busybox@{digest}"),
        );
        check(
            &format!("busybox:1@{digest}"),
            &format!("docker.io/library/busybox:1@{digest}"),
            &format!("busybox:1@{digest}"),
        );
    }

    #[test]
    fn bad_names_are_refused_in_dockers_words() {
        refused("Foo", "invalid reference format: repository name (library/Foo) must be lowercase");
        refused("BAD:::y", "invalid reference format: repository name (library/BAD) must be lowercase");
        for text in [
            "",
            ":",
            "a:",
            "a::b",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "a:-x",
            "a@sha256:12",
            "x/../y",
            "..",
            "a\0b",
            "a@b@c",
        ] {
            refused(text, "invalid reference format");
        }
        refused(
            &"a".repeat(64),
            &format!("invalid repository name ({}), cannot specify 64-byte hexadecimal strings", "a".repeat(64)),
        );
        refused(&"z".repeat(250), "repository name must not be more than 255 characters");
        refused(&format!("a:{}", "t".repeat(129)), "invalid reference format");
        refused(&format!("a@sha512:{}", "0".repeat(64)), "unsupported digest algorithm");
        refused(&format!("a@sha256:{}", "0".repeat(40)), "invalid checksum digest length");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_survives_a_round_trip(text in "[a-zA-Z0-9./:@_\\-\\[\\]]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}
