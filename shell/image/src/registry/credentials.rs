//! Who asks: the credentials of `X-Registry-Auth`, and what a registry wants to be told (`WWW-Authenticate`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::Value;

/// What one says to a registry. The default is nobody.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credentials {
    /// Name; empty for none.
    pub username: String,
    /// Its password.
    pub password: String,
    /// An OAuth refresh token, which stands for name and password.
    pub identity_token: String,
    /// A bearer token, sent as it is.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Reads `X-Registry-Auth`: JSON in base64url. As in Docker, what cannot be read is nobody.
    #[must_use]
    pub fn from_header(text: &str) -> Credentials {
        let bytes = URL_SAFE.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).or_else(|_| STANDARD.decode(text));
        let value = bytes.ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        value.as_ref().map(Credentials::from_json).unwrap_or_default()
    }

    /// Reads Docker's `AuthConfig`; names of fields in any case, as in Go.
    #[must_use]
    pub fn from_json(value: &Value) -> Credentials {
        let field = |name: &str| {
            let fields = value.as_object().into_iter().flatten();
            let found = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).find_map(|(_, value)| value.as_str());
            found.unwrap_or_default().to_owned()
        };
        let mut credentials = Credentials {
            username: field("username"),
            password: field("password"),
            identity_token: field("identitytoken"),
            registry_token: field("registrytoken"),
        };
        if credentials.username.is_empty()
            && let Some((username, password)) = basic(&field("auth"))
        {
            (credentials.username, credentials.password) = (username, password);
        }
        credentials
    }

    /// Whether there is nothing to be told.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        *self == Credentials::default()
    }

    /// `Basic ...`, if there is a name.
    pub(crate) fn basic_header(&self) -> Option<String> {
        (!self.username.is_empty())
            .then(|| format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password))))
    }
}

fn basic(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

impl Challenge {
    /// Reads one `WWW-Authenticate` header (RFC 9110, 11.6.1); schemes that nobody uses with registries are none.
    pub(crate) fn parse(header: &str) -> Option<Challenge> {
        let header = header.trim();
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let field = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let realm = field("realm");
        (!realm.is_empty()).then(|| Challenge::Bearer { realm, service: field("service"), scope: field("scope") })
    }
}

/// `key=value` and `key="value"`, separated by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim().trim_start_matches(',').trim().to_owned();
        let after = after.trim_start();
        let value;
        if let Some(quoted) = after.strip_prefix('"') {
            let mut text = String::new();
            let mut end = quoted.len();
            let mut escaped = false;
            for (at, character) in quoted.char_indices() {
                match character {
                    '\\' if !escaped => escaped = true,
                    '"' if !escaped => {
                        end = at + 1;
                        break;
                    }
                    _ => {
                        text.push(character);
                        escaped = false;
                    }
                }
            }
            value = text;
            rest = quoted.get(end..).unwrap_or_default();
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value = after[..end].trim().to_owned();
            rest = &after[end..];
        }
        found.push((key, value));
        rest = rest.trim_start().trim_start_matches(',').trim_start();
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_are_read_and_malformed_ones_are_nobody() {
        let header = |json: &str| Credentials::from_header(&URL_SAFE.encode(json));
        let alice = header(r#"{"username":"alice","password":"wonder","serveraddress":"r.test"}"#);
        assert_eq!((alice.username.as_str(), alice.password.as_str()), ("alice", "wonder"));
        assert_eq!(alice.basic_header().as_deref(), Some("Basic YWxpY2U6d29uZGVy"));
        assert_eq!(header(r#"{"Auth":"YWxpY2U6d29uZGVy"}"#), alice);
        assert_eq!(header(r#"{"identitytoken":"t"}"#).identity_token, "t");
        assert_eq!(header(r#"{"registrytoken":"t"}"#).registry_token, "t");
        for nobody in ["", "e30=", "e30", "notjson", "bm90anNvbg==", "[]", "%%%"] {
            assert!(Credentials::from_header(nobody).is_anonymous(), "{nobody}");
        }
        assert!(header(r#"{"username":7}"#).is_anonymous());
        assert_eq!(format!("{alice:?}"), "Credentials(..)");
    }

    #[test]
    fn challenges_are_read() {
        assert_eq!(Challenge::parse(r#"Basic realm="Registry Realm""#), Some(Challenge::Basic));
        let bearer =
            r#"Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull,push""#;
        assert_eq!(
            Challenge::parse(bearer),
            Some(Challenge::Bearer {
                realm: "https://auth.test/token".to_owned(),
                service: "registry.test".to_owned(),
                scope: "repository:a/b:pull,push".to_owned(),
            })
        );
        assert!(
            matches!(Challenge::parse("bearer realm=https://x , service=y"), Some(Challenge::Bearer { realm, service, .. }) if realm == "https://x" && service == "y")
        );
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=x"), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "[a-zA-Z =\",\\\\é]{0,60}") {
            let _ = Challenge::parse(&format!("Bearer {text}"));
            let _ = Credentials::from_header(&text);
        }
    }
}
