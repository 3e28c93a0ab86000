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

fn head(text: &IdText) -> u64 {
    let (head, _) = text.split_first_chunk().expect("an id has more than eight characters");
    u64::from_be_bytes(*head)
}

/// 36^6, the largest power of 36 that a limb holds.
const BASE_POWER: u64 = 36 * 36 * 36 * 36 * 36 * 36;

fn text_of(mut bytes: [u8; 17]) -> IdText {
    bytes[0] |= 0x80;
    // The number in limbs, the highest first: one byte, then four times four.
    let mut limbs = [u32::from(bytes[0]), 0, 0, 0, 0];
    for (limb, chunk) in limbs[1..].iter_mut().zip(bytes[1..].chunks_exact(4)) {
        *limb = u32::from_be_bytes(chunk.try_into().expect("a chunk of four has four bytes"));
    }
    // Six digits at a time, the last ones first. A number of 136 bits with its top bit set has 27 digits.
    let mut digits = [b'0'; 30];
    for six in digits.chunks_exact_mut(6).rev() {
        let mut rest = 0u64;
        for limb in &mut limbs {
            let value = (rest << 32) | u64::from(*limb);
            *limb = u32::try_from(value / BASE_POWER).expect("the rest is below the divisor");
            rest = value % BASE_POWER;
        }
        for digit in six.iter_mut().rev() {
            *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::try_from(rest % 36).expect("below 36")];
            rest /= 36;
        }
    }
    let mut text = [b'0'; ID_LENGTH];
    text.copy_from_slice(&digits[4..4 + ID_LENGTH]);
    text
}

macro_rules! object_id {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(IdText);

        impl Ord for $name {
            /// In the order of the texts. Ids are random, so their first eight characters nearly always decide: one
            /// comparison of numbers instead of a call, and ids are compared more than anything else.
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                head(&self.0).cmp(&head(&other.0)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

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
    fn known_numbers_have_known_ids() {
        // Worked out with long integers elsewhere.
        let check = |bytes, text| assert_eq!(TaskId::from_random(bytes).as_str(), text);
        check([0; 17], "hvy0lj3x0b883f8e30fyp2172");
        check([255; 17], "zrw1727u0mgg6ugs60vxe42e4");
        check(std::array::from_fn(|at| u8::try_from(at).unwrap()), "hw05xdvcpbrfi4jekqvbjy4b2");
        check([7, 200, 13, 99, 0, 0, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "l5vnh0plty9i4g928fq2di12i");
    }

    #[test]
    fn ids_are_ordered_as_their_texts() {
        let id = |text: &str| TaskId::parse(&format!("{text:0<25}")).unwrap();
        let texts = ["a", "b", "aaaaaaaab", "aaaaaaaaa", "aaaaaaaab1", "0", "z", "zzzzzzzzzz"];
        for one in texts {
            for other in texts {
                let (one, other) = (id(one), id(other));
                assert_eq!(one.cmp(&other), one.as_str().cmp(other.as_str()));
            }
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "abc", "ABCDEFGHIJKLMNOPQRSTUVWXY", "aaaaaaaaaaaaaaaaaaaaaaaa-", "aaaaaaaaaaaaaaaaaaaaaaaaaa"]
        {
            assert!(ServiceId::parse(text).is_err(), "{text}");
        }
    }
}
