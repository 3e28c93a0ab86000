//! The `filters` of list routes: JSON in a query, as a map of maps (Go clients) or of lists (docker-py, curl).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Filters that make no sense. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not the JSON it should be.
    #[error("invalid filter")]
    Malformed,
    /// A key that this list does not know.
    #[error("invalid filter '{0}'")]
    Unknown(String),
    /// A value that this key does not know.
    #[error("invalid filter '{key}={value}'")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

/// What a list is narrowed to. Values of one key are alternatives (those of `label` must all hold), keys must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Reads the query's value and refuses keys that are not in `known`.
    pub fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, FilterError> {
        let filters = Self::parse_any(text)?;
        match filters.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::Unknown(key.clone())),
            None => Ok(filters),
        }
    }

    /// Reads the query's value with whatever keys; only events are so lenient.
    pub fn parse_any(text: Option<&str>) -> Result<Self, FilterError> {
        let text = text.unwrap_or("").trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Ok(Value::Object(map)) = serde_json::from_str(text) else { return Err(FilterError::Malformed) };
        let mut filters = BTreeMap::new();
        for (key, value) in map {
            let values = match value {
                Value::Object(values) => {
                    values.into_iter().filter(|(_, on)| *on != Value::Bool(false)).map(|(value, _)| value).collect()
                }
                Value::Array(values) => values
                    .into_iter()
                    .map(|value| match value {
                        Value::String(text) => Ok(text),
                        _ => Err(FilterError::Malformed),
                    })
                    .collect::<Result<_, _>>()?,
                _ => return Err(FilterError::Malformed),
            };
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// True when nothing is narrowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of a key, if it was given.
    #[must_use]
    pub fn values(&self, key: &str) -> Option<&BTreeSet<String>> {
        self.0.get(key).filter(|values| !values.is_empty())
    }

    /// True when the key was not given or one of its values passes.
    pub fn any(&self, key: &str, passes: impl FnMut(&String) -> bool) -> bool {
        self.values(key).is_none_or(|values| values.iter().any(passes))
    }

    /// True when the key was not given or one of its values is the beginning of the text.
    #[must_use]
    pub fn any_prefix(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| text.starts_with(value.as_str()))
    }

    /// True when the key was not given or all its values (`name` or `name=value`) are among the labels.
    #[must_use]
    pub fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).is_none_or(|values| {
            values.iter().all(|wanted| match wanted.split_once('=') {
                Some((name, value)) => labels.get(name).is_some_and(|label| label == value),
                None => labels.contains_key(wanted),
            })
        })
    }

    /// The one boolean of a key; nothing when it was not given.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, FilterError> {
        let Some(values) = self.values(key) else { return Ok(None) };
        let (yes, no) = (["1", "true"], ["0", "false"]);
        let has = |of: [&str; 2]| of.iter().any(|value| values.contains(*value));
        match (has(yes), has(no), values.len()) {
            (true, false, 1) => Ok(Some(true)),
            (false, true, 1) => Ok(Some(false)),
            _ => Err(FilterError::Value {
                key: key.to_owned(),
                value: values.iter().next().cloned().unwrap_or_default(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        for text in [r#"{"label":{"a=b":true,"c":true}}"#, r#"{"label":["a=b","c"]}"#] {
            let filters = Filters::parse(Some(text), &["label"]).unwrap();
            let mut labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
            assert!(!filters.labels("label", &labels), "all labels must hold");
            labels.insert("c".to_owned(), "x".to_owned());
            assert!(filters.labels("label", &labels));
        }
    }

    #[test]
    fn unknown_keys_and_malformed_texts_are_refused() {
        let refused = |text| Filters::parse(Some(text), &["id"]).unwrap_err().to_string();
        assert_eq!(refused(r#"{"bogus":{"1":true}}"#), "invalid filter 'bogus'");
        for bad in ["x", "[]", r#"{"id":"a"}"#, r#"{"id":[1]}"#] {
            assert_eq!(refused(bad), "invalid filter", "{bad}");
        }
        assert_eq!(Filters::parse(None, &[]), Ok(Filters::default()));
    }

    #[test]
    fn values_of_one_key_are_alternatives() {
        let filters = Filters::parse(Some(r#"{"id":["a","b"],"up":["true"]}"#), &["id", "up"]).unwrap();
        assert!(filters.any_prefix("id", "bcd") && !filters.any_prefix("id", "x") && filters.any_prefix("name", "x"));
        assert_eq!(filters.boolean("up"), Ok(Some(true)));
        assert!(filters.boolean("id").is_err());
        assert_eq!(filters.boolean("none"), Ok(None));
    }
}
