//! Texts, lists and maps that are borrowed when they come from the state, and owned when they come from a request.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serializer};

/// A text.
pub type Text<'a> = Cow<'a, str>;
/// A list of texts.
pub type Texts<'a> = Cow<'a, [String]>;
/// Labels, options and the like.
pub type Map<'a> = Cow<'a, BTreeMap<String, String>>;

/// Go's `omitempty` for values without a pointer.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Go's `omitempty` for a map.
pub(crate) fn is_empty_map(map: &Map<'_>) -> bool {
    map.is_empty()
}

/// Go's `omitempty` for a list of texts.
pub(crate) fn is_empty_list(list: &Texts<'_>) -> bool {
    list.is_empty()
}

/// Bytes as Go writes `[]byte`: standard base64.
pub(crate) mod bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, [u8]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Cow::Owned).map_err(serde::de::Error::custom)
    }
}
