//! Recordings of a real engine (`fixtures/README.md` says what they are and how they may be compared).

use std::path::Path;

use serde_json::Value;

/// The files there are.
pub const FILES: [&str; 12] = [
    "01-version-ping-info",
    "03-swarm-lifecycle",
    "04-images",
    "05-networks",
    "06-secrets-configs",
    "07-service-create-flags",
    "08-service-create-errors",
    "09-service-update-rollback",
    "11-containers",
    "13-events",
    "14-service-all-flags-running",
    "16-docker-py",
];

/// One step of a session: a command line or a request.
#[derive(Debug, Clone)]
pub struct Step {
    /// The client's arguments, without `docker`; `None` for a raw request.
    pub cli: Option<Vec<String>>,
    /// The code that a step of another client ran.
    pub python: Option<String>,
    /// Why the step is there.
    pub note: String,
    /// True for a step on the second node, `node-2`.
    pub is_on_second_node: bool,
    /// How the client ended; `None` when it was stopped or there was none.
    pub exit_code: Option<i64>,
    /// What the client said on standard error.
    pub stderr: String,
    /// The requests that the step made, in order.
    pub exchanges: Vec<Exchange>,
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Such as `GET`.
    pub method: String,
    /// With the version in front, percent-decoded.
    pub path: String,
    /// The query as an object; `filters` in it is decoded.
    pub query: Value,
    /// What was sent: JSON, text or null.
    pub request: Value,
    /// The status; 0 when the client did not wait for it.
    pub status: u64,
    /// What was answered: JSON, text, null, or a marker object.
    pub response: Value,
}

impl Exchange {
    /// The path without version, with `{id}` for every id, so that equal routes are equal.
    #[must_use]
    pub fn route(&self) -> String {
        let parts = self.path.split('/').filter(|part| !part.is_empty() && !is_version(part));
        parts.map(|part| if is_id(part) { "/{id}".to_owned() } else { format!("/{part}") }).collect()
    }
}

fn is_version(part: &str) -> bool {
    part.strip_prefix("v1.").is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The two forms of ids: 25 of `[a-z0-9]`, 64 hex digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let is_object = text.len() == 25 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_container = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_object || is_container
}

/// The steps of a recording.
///
/// # Panics
/// When there is no such file, or it is damaged.
#[must_use]
pub fn steps(file: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file).with_extension("json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let list: Vec<Value> = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    list.iter().map(step).collect()
}

/// All exchanges of all recordings.
#[must_use]
pub fn exchanges() -> Vec<Exchange> {
    FILES.iter().flat_map(|file| steps(file)).flat_map(|step| step.exchanges).collect()
}

fn step(value: &Value) -> Step {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let words = |list: &Vec<Value>| list.iter().skip(1).filter_map(Value::as_str).map(str::to_owned).collect();
    Step {
        cli: value["cli"].as_array().map(words),
        python: value["docker_py"].as_str().map(str::to_owned),
        note: text("note"),
        is_on_second_node: value["engine"] == "node-2",
        exit_code: value["exit_code"].as_i64(),
        stderr: text("stderr"),
        exchanges: value["exchanges"].as_array().into_iter().flatten().map(exchange).collect(),
    }
}

fn exchange(value: &Value) -> Exchange {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Exchange {
        method: text("method"),
        path: text("path"),
        query: value["query"].clone(),
        request: value["request_body"].clone(),
        status: value["status"].as_u64().unwrap_or_default(),
        response: value["response_body"].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_can_be_read() {
        for file in FILES {
            assert!(steps(file).len() >= 10, "{file}");
        }
        let routes: Vec<String> = exchanges().iter().map(Exchange::route).collect();
        assert!(routes.contains(&"/tasks/{id}".to_owned()) && routes.contains(&"/services/create".to_owned()));
    }
}
