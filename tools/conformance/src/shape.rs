//! The shape of JSON answers: which keys, with which types, and which of them always. Values do not count.
//!
//! A shape is learned from many answers of a real engine. An answer under test fits when it has no key and no type that the
//! engine never showed, and lacks none that the engine always showed. Where users choose the keys (labels, options), the
//! keys do not count either.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Objects whose keys are data.
const USER_MAPS: [&str; 18] = [
    "Labels",
    "Options",
    "Sysctls",
    "DriverOpts",
    "Networks",
    "Ports",
    "PortBindings",
    "ExposedPorts",
    "Volumes",
    "Containers",
    "Annotations",
    "Runtimes",
    "LogOpts",
    "Config/Labels",
    "Attributes",
    "Opts",
    "IndexConfigs",
    "Tmpfs",
];

/// What was seen at one place.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    types: BTreeSet<&'static str>,
    objects: usize,
    fields: BTreeMap<String, (usize, Shape)>,
    items: Option<Box<Shape>>,
}

impl Shape {
    /// The shape of one value.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let mut shape = Self::default();
        shape.learn(value);
        shape
    }

    /// True when nothing was learned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Adds what another value shows.
    pub fn learn(&mut self, value: &Value) {
        self.add(value, false);
    }

    fn add(&mut self, value: &Value, is_user_map: bool) {
        self.types.insert(type_of(value));
        match value {
            Value::Object(map) if is_user_map => {
                for value in map.values() {
                    self.items.get_or_insert_default().add(value, false);
                }
            }
            Value::Object(map) => {
                self.objects += 1;
                for (key, value) in map {
                    let (count, shape) = self.fields.entry(key.clone()).or_default();
                    *count += 1;
                    shape.add(value, USER_MAPS.contains(&key.as_str()));
                }
            }
            Value::Array(list) => {
                for value in list {
                    self.items.get_or_insert_default().add(value, false);
                }
            }
            _ => {}
        }
    }

    /// How an answer differs from what was learned; one line each, `PATH: what`. Empty means that it fits.
    #[must_use]
    pub fn differences(&self, answer: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.compare(&Self::of(answer), "", &mut found);
        found
    }

    fn compare(&self, answer: &Self, path: &str, found: &mut Vec<String>) {
        let at = if path.is_empty() { "the answer" } else { path };
        for kind in answer.types.difference(&self.types) {
            let known: Vec<_> = self.types.iter().copied().collect();
            found.push(format!("{at}: is {kind}, the real engine has {}", known.join(" or ")));
        }
        for (key, (_, shape)) in &answer.fields {
            match self.fields.get(key) {
                Some((_, known)) => known.compare(shape, &join(path, key), found),
                None if self.objects > 0 => found.push(format!("{}: the real engine has no such key", join(path, key))),
                None => {}
            }
        }
        if answer.objects > 0 {
            for (key, (count, _)) in &self.fields {
                let has = answer.fields.get(key).map_or(0, |(count, _)| *count);
                if *count == self.objects && has < answer.objects {
                    found.push(format!("{}: is missing, the real engine always has it", join(path, key)));
                }
            }
        }
        if let (Some(known), Some(items)) = (&self.items, &answer.items) {
            known.compare(items, &format!("{path}[]"), found);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_types_count_values_and_user_keys_do_not() {
        let mut shape = Shape::of(&json!({"Id": "x", "Labels": {"a": "b"}, "List": [{"A": 1}], "Extra": 1}));
        shape.learn(&json!({"Id": "y", "Labels": {}, "List": []}));
        let fits = json!({"Id": "z", "Labels": {"c": "d"}, "List": [{"A": 2}, {"A": 3}]});
        assert_eq!(shape.differences(&fits), [""; 0]);
        let differs = json!({"Id": 1, "Labels": {"c": 1}, "List": [{"A": 1, "B": 1}, {}], "New": 1});
        let lines = shape.differences(&differs).join("\n");
        for part in
            ["Id: is a number", "Labels[]: is a number", "List[].B: the real", "List[].A: is missing", "New: the"]
        {
            assert!(lines.contains(part), "{part}\n{lines}");
        }
        assert_eq!(shape.differences(&json!({"Id": "x", "Labels": null})).len(), 2);
    }
}
