//! Typed object ids: 25 characters of `[0-9a-z]`, as SwarmKit makes them (17 random bytes in base 36).

use std::fmt;

/// Length of an object id in characters.
pub(crate) const ID_LENGTH: usize = 25;

/// A text that is not an object id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} id {text:?}: an id has 25 characters of 0-9 and a-z")]
pub struct IdError {
    /// What kind of id was expected.
    pub kind: &'static str,
    /// The text that was given.
    pub text: String,
}

/// What every typed id can do.
pub trait ObjectId: Sized + Clone + Ord + fmt::Display {
    /// Makes an id out of 17 random bytes (source: SwarmKit `identity/randomid.go`): the top bit is forced on, the number
    /// is written in base 36, its first digit dropped and the next 25 kept.
    fn from_random(bytes: [u8; 17]) -> Self;
    /// Checks and takes a text.
    fn parse(text: &str) -> Result<Self, IdError>;
    /// The id as text.
    fn as_str(&self) -> &str;
}

type IdText = [u8; ID_LENGTH];

fn text_of(mut bytes: [u8; 17]) -> IdText {
    bytes[0] |= 0x80;
    let mut digits = Vec::with_capacity(27);
    let mut number = bytes.to_vec();
    while number.iter().any(|byte| *byte != 0) {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = (rest << 8) | u32::from(*byte);
            *byte = u8::try_from(value / 36).expect("a quotient of a byte step fits a byte");
            rest = value % 36;
        }
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[rest as usize]);
    }
    digits.reverse();
    let mut text = [b'0'; ID_LENGTH];
    text.copy_from_slice(&digits[1..=ID_LENGTH]);
    text
}

macro_rules! object_id {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(IdText);

        impl $name {
            /// Not above any id: where a range over ids begins.
            pub const MIN: Self = Self([b'0'; ID_LENGTH]);
            /// Not below any id: where a range over ids ends.
            pub const MAX: Self = Self([b'z'; ID_LENGTH]);
        }

        impl ObjectId for $name {
            fn from_random(bytes: [u8; 17]) -> Self {
                Self(text_of(bytes))
            }

            fn parse(text: &str) -> Result<Self, IdError> {
                let bad = || IdError { kind: $kind, text: text.chars().take(80).collect() };
                let bytes: IdText = text.as_bytes().try_into().map_err(|_| bad())?;
                if bytes.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) {
                    Ok(Self(bytes))
                } else {
                    Err(bad())
                }
            }

            fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).expect("an id is ASCII by construction")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

object_id! {
    /// Names a cluster; it is also the organization in every node's certificate.
    ClusterId, "cluster";
    /// Names a machine.
    NodeId, "node";
    /// Names a service.
    ServiceId, "service";
    /// Names a task.
    TaskId, "task";
    /// Names a network.
    NetworkId, "network";
    /// Names a secret.
    SecretId, "secret";
    /// Names a config.
    ConfigId, "config";
    /// Names one session of a node with the dispatcher.
    SessionId, "session";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_25_base36_characters() {
        for seed in 0..=255u8 {
            let id = TaskId::from_random([seed; 17]);
            assert_eq!(TaskId::parse(id.as_str()), Ok(id));
        }
    }

    #[test]
    fn the_smallest_and_largest_numbers_keep_their_digits() {
        // 2^135 and 2^136-1 in base 36, first digit dropped, next 25 kept.
        assert_eq!(NodeId::from_random([0; 17]).as_str().len(), ID_LENGTH);
        assert_ne!(NodeId::from_random([0; 17]), NodeId::from_random([255; 17]));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "abc", "ABCDEFGHIJKLMNOPQRSTUVWXY", "aaaaaaaaaaaaaaaaaaaaaaaa-", "aaaaaaaaaaaaaaaaaaaaaaaaaa"]
        {
            assert!(ServiceId::parse(text).is_err(), "{text}");
        }
    }
}
