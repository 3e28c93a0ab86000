//! Sends the requests of a recording to a running daemon, in their order, with the daemon's own ids and versions in the
//! place of the recorded ones. What is right in an answer is for the caller to say.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::Value;

use crate::client::Client;
use crate::http::Answer;
use crate::recording::{Exchange, is_id};

/// What a replay has learned so far of how recorded objects are called here.
#[derive(Debug, Default)]
pub struct Replay {
    words: Vec<(String, String)>,
    ids: BTreeMap<String, String>,
    versions: BTreeMap<(String, u64), u64>,
}

impl Replay {
    /// Nothing is known yet but `words`: texts of the recording and what stands for them here.
    #[must_use]
    pub fn new(words: &[(&str, &str)]) -> Self {
        let words = words.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        Self { words, ..Self::default() }
    }

    /// Sends one request and learns from its answer.
    ///
    /// # Errors
    /// When no answer comes in `max`.
    pub fn send(&mut self, client: &Client, exchange: &Exchange, max: Duration) -> io::Result<Answer> {
        let path = self.target(client, exchange);
        let body = match &exchange.request {
            Value::Null => (exchange.method == "POST").then(String::new),
            Value::String(text) => Some(text.clone()),
            value => Some(self.here(&value.to_string())),
        };
        let answer = client.http_within(&exchange.method, &path, body.as_deref().map(str::as_bytes), max)?;
        self.learn(&exchange.response, &answer.json());
        Ok(answer)
    }

    /// Says what a recorded id is here.
    pub fn name(&mut self, recorded: &str, own: &str) {
        self.ids.insert(recorded.to_owned(), own.to_owned());
    }

    /// A recorded text with the names and ids of here. Ids may be cut short.
    #[must_use]
    pub fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.words {
            text = text.replace(from.as_str(), to);
        }
        let mut out = String::with_capacity(text.len());
        let mut word = String::new();
        for letter in text.chars().chain(['\0']) {
            if letter.is_ascii_alphanumeric() {
                word.push(letter);
                continue;
            }
            out += self.own(&word).as_deref().unwrap_or(&word);
            word.clear();
            out.push(letter);
        }
        out.pop();
        out
    }

    fn own(&self, word: &str) -> Option<String> {
        if word.len() < 12 {
            return None;
        }
        let (_, own) = self.ids.range(word.to_owned()..).next().filter(|(recorded, _)| recorded.starts_with(word))?;
        Some(own.chars().take(word.len()).collect())
    }

    fn target(&self, client: &Client, exchange: &Exchange) -> String {
        let path = self.here(&exchange.path);
        let mut pairs = Vec::new();
        for (key, value) in exchange.query.as_object().into_iter().flatten() {
            let values = match value {
                Value::Array(list) if key != "filters" => list.iter().map(plain).collect(),
                value => vec![plain(value)],
            };
            for value in values {
                let value = self.here(&value);
                let value = if key == "version" { self.version(client, &path, exchange, &value) } else { value };
                pairs.push(format!("{key}={}", encode(&value)));
            }
        }
        let path = path.split('/').map(encode).collect::<Vec<_>>().join("/");
        if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) }
    }

    /// The version here for one that the recording has; a recorded one that no answer showed, but later than all that
    /// were shown, is the newest.
    fn version(&self, client: &Client, path: &str, exchange: &Exchange, recorded: &str) -> String {
        let Ok(number) = recorded.parse::<u64>() else { return recorded.to_owned() };
        let object = exchange.path.trim_end_matches("/update");
        let id = object.rsplit('/').next().unwrap_or_default();
        let known = |id: &str| self.versions.range((id.to_owned(), 0)..=(id.to_owned(), u64::MAX)).next_back();
        if let Some(own) = self.versions.get(&(id.to_owned(), number)) {
            return own.to_string();
        }
        if number < 10 || known(id).is_some_and(|((_, last), _)| number < *last) {
            return recorded.to_owned();
        }
        let now = client.http("GET", path.trim_end_matches("/update"), None).map(|answer| answer.json());
        now.ok()
            .and_then(|now| now["Version"]["Index"].as_u64())
            .map_or_else(|| recorded.to_owned(), |own| own.to_string())
    }

    /// Pairs what was answered with what was recorded.
    fn learn(&mut self, recorded: &Value, own: &Value) {
        match (recorded, own) {
            (Value::Object(recorded), Value::Object(own)) => {
                if let (Some(id), Some(from), Some(to)) =
                    (recorded.get("ID").and_then(Value::as_str), index(recorded), index(own))
                {
                    let name = if recorded.contains_key("JoinTokens") { "swarm" } else { id };
                    self.versions.insert((name.to_owned(), from), to);
                }
                for (key, value) in recorded {
                    if let Some(other) = own.get(key) {
                        self.learn(value, other);
                    }
                }
            }
            (Value::Array(recorded), Value::Array(own)) => {
                for value in recorded {
                    let name = name_of(value);
                    if let Some(other) = own.iter().find(|other| name.is_some() && name_of(other) == name) {
                        self.learn(value, other);
                    }
                }
            }
            (Value::String(recorded), Value::String(own)) if is_id(recorded) && is_id(own) => {
                self.ids.entry(recorded.clone()).or_insert_with(|| own.clone());
            }
            _ => {}
        }
    }
}

fn index(object: &serde_json::Map<String, Value>) -> Option<u64> {
    object.get("Version")?.get("Index")?.as_u64()
}

fn name_of(value: &Value) -> Option<&str> {
    let names = [&value["Name"], &value["Spec"]["Name"], &value["Names"][0]];
    names.into_iter().find_map(Value::as_str).filter(|name| !name.is_empty())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn recorded_ids_and_versions_become_those_of_here() {
        let mut replay = Replay::new(&[("node-1", "host")]);
        let (recorded, own) = ("a".repeat(25), "b".repeat(25));
        replay.learn(
            &json!([{"ID": recorded, "Version": {"Index": 20}, "Spec": {"Name": "x"}}]),
            &json!([{"ID": "c".repeat(25), "Spec": {"Name": "y"}}, {"ID": own, "Version": {"Index": 7}, "Spec": {"Name": "x"}}]),
        );
        let text = replay.here(&format!("/nodes/{recorded}/node-1?id={}", &recorded[..12]));
        assert_eq!(text, format!("/nodes/{own}/host?id={}", &own[..12]));
        assert_eq!(replay.versions.get(&(recorded, 20)), Some(&7));
        assert_eq!(encode("{\"a b\"}"), "%7B%22a%20b%22%7D");
    }
}
