//! Shapes of JSON: which keys with which types. An answer must look like what was recorded.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Objects whose keys are a user's, not the API's.
const MAPS: [&str; 9] =
    ["Labels", "Options", "Sysctls", "Networks", "Ports", "Data", "Containers", "ExposedPorts", "PortBindings"];

/// What was seen at one place.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    types: BTreeSet<&'static str>,
    /// How many objects were seen here, and for each key in how many of them it was.
    objects: usize,
    fields: BTreeMap<String, (usize, Shape)>,
    elements: Option<Box<Shape>>,
}

impl Shape {
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut shape = Self::default();
        for value in values {
            shape.add(value, "");
        }
        shape
    }

    fn add(&mut self, value: &Value, name: &str) {
        self.types.insert(type_of(value));
        match value {
            Value::Object(map) => {
                self.objects += 1;
                for (key, value) in map {
                    let slot = if MAPS.contains(&name) { "*" } else { key };
                    let (count, shape) = self.fields.entry(slot.to_owned()).or_default();
                    *count += 1;
                    shape.add(value, key);
                }
            }
            Value::Array(list) => {
                let elements = self.elements.get_or_insert_default();
                for value in list {
                    elements.add(value, name);
                }
            }
            _ => {}
        }
    }

    /// Differences of an answer, one line each. `newer` are keys that the recording's version did not have.
    pub(crate) fn differences(&self, answer: &Value, newer: &[&str], without: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        self.compare(answer, "", "", newer, without, &mut lines);
        lines
    }

    fn compare(
        &self,
        answer: &Value,
        name: &str,
        path: &str,
        newer: &[&str],
        without: &[&str],
        lines: &mut Vec<String>,
    ) {
        let found = type_of(answer);
        if !self.types.contains(found) {
            lines.push(format!("{path}: {found}, recorded {:?}", self.types));
            return;
        }
        match answer {
            Value::Object(map) => {
                for (key, value) in map {
                    let slot = if MAPS.contains(&name) { "*" } else { key };
                    match self.fields.get(slot) {
                        Some((_, shape)) => shape.compare(value, key, &format!("{path}.{key}"), newer, without, lines),
                        None if MAPS.contains(&name) || newer.contains(&key.as_str()) => {}
                        None => lines.push(format!("{path}.{key}: not recorded")),
                    }
                }
                for (key, (count, _)) in &self.fields {
                    let always = key != "*" && *count >= self.objects;
                    if always && !map.contains_key(key) && !without.contains(&key.as_str()) {
                        lines.push(format!("{path}.{key}: missing"));
                    }
                }
            }
            Value::Array(list) => {
                let Some(elements) = &self.elements else { return };
                for value in list.iter().filter(|_| !elements.types.is_empty()) {
                    elements.compare(value, name, &format!("{path}[]"), newer, without, lines);
                }
            }
            _ => {}
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}
