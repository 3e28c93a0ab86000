//! Every service spec that stock clients sent in the recordings goes through the model and comes back as the same JSON.
#![allow(clippy::unwrap_used, reason = "tests may unwrap, in their helpers, too")]

use std::path::Path;

use serde_json::{Map, Value};
use skep_api_types::{Refusal, ServiceSpec, decode};

fn steps(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/conformance/fixtures").join(file);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn exchanges(file: &str) -> Vec<Value> {
    steps(file).iter().filter_map(|step| step["exchanges"].as_array().cloned()).flatten().collect()
}

/// What means nothing is left out: `null`, empty texts, lists and objects, `false`, and numbers that Go omits.
fn meaning(value: &Value) -> Option<Value> {
    const GO_OMITS_ZERO: [&str; 5] = ["Delay", "Monitor", "StartPeriod", "Retries", "PublishedPort"];
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(value.clone()),
        Value::String(text) => (!text.is_empty()).then(|| value.clone()),
        Value::Array(list) => {
            (!list.is_empty()).then(|| list.iter().map(|item| meaning(item).unwrap_or_default()).collect())
        }
        Value::Object(map) => {
            let kept: Map<_, _> = map
                .iter()
                .filter(|(key, value)| !(GO_OMITS_ZERO.contains(&key.as_str()) && value.as_i64() == Some(0)))
                .filter(|(key, value)| **value != Value::Bool(false) || *key == "Init")
                .filter_map(|(key, value)| Some((key.clone(), meaning(value)?)))
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Number(number) => Some(number.as_f64().map_or(Value::Null, |number| Value::from(number as f32))),
    }
}

/// The engine's own additions, made on what a client sent.
fn with_engine_defaults(mut spec: Value) -> Value {
    for (from, to) in [("replicated", "Replicated"), ("global", "Global")] {
        if let Some(mode) = spec["Mode"].as_object_mut().and_then(|mode| mode.remove(from)) {
            spec["Mode"][to] = mode;
        }
    }
    let known_mode = spec["Mode"].as_object().is_some_and(|mode| !mode.is_empty());
    if !known_mode || spec["Mode"]["Replicated"] == serde_json::json!({}) {
        spec["Mode"] = serde_json::json!({"Replicated": {"Replicas": 1}});
    }
    if let Some(job) = spec["Mode"].get_mut("ReplicatedJob") {
        let at_a_time = job["MaxConcurrent"].as_u64().unwrap_or(1);
        let in_all = job["TotalCompletions"].as_u64().unwrap_or(at_a_time);
        *job = serde_json::json!({"MaxConcurrent": at_a_time, "TotalCompletions": in_all});
    }
    if spec["TaskTemplate"]["ForceUpdate"].is_null() {
        spec["TaskTemplate"]["ForceUpdate"] = 0.into();
    }
    spec["TaskTemplate"]["Runtime"] = "container".into();
    spec["TaskTemplate"]["ContainerSpec"]["Isolation"] = "default".into();
    if let Some(unknown) = spec["TaskTemplate"]["ContainerSpec"].as_object_mut() {
        unknown.remove("Unknown");
    }
    if let Some(map) = spec.as_object_mut() {
        map.remove("Bogus");
    }
    if !spec["EndpointSpec"].is_null() && spec["EndpointSpec"]["Mode"].is_null() {
        spec["EndpointSpec"]["Mode"] = "vip".into();
    }
    let policy = &mut spec["TaskTemplate"]["RestartPolicy"];
    if !policy.is_null() && policy["MaxAttempts"].is_null() {
        policy["MaxAttempts"] = 0.into();
    }
    for update in ["UpdateConfig", "RollbackConfig"] {
        let config = &mut spec[update];
        if !config.is_null() {
            for (key, default) in [("FailureAction", "pause"), ("Order", "stop-first")] {
                if config[key].is_null() || config[key] == "" {
                    config[key] = default.into();
                }
            }
        }
    }
    spec
}

#[test]
fn service_specs_survive_the_model() {
    let mut compared = 0;
    for file in [
        "07-service-create-flags.json",
        "08-service-create-errors.json",
        "09-service-update-rollback.json",
        "14-service-all-flags-running.json",
    ] {
        for exchange in exchanges(file) {
            let path = exchange["path"].as_str().unwrap();
            let sends_spec =
                path.ends_with("/services/create") || (path.contains("/services/") && path.ends_with("/update"));
            let body = &exchange["request_body"];
            if exchange["method"] != "POST" || !sends_spec || !body.is_object() {
                continue;
            }
            let sent: ServiceSpec<'static> = decode(body.to_string().as_bytes()).unwrap();
            let read = sent.into_model();
            let message = exchange["response_body"]["message"].as_str().unwrap_or_default();
            match read {
                Ok(definition) => {
                    let encoded = serde_json::to_value(ServiceSpec::of(&definition.spec, definition.replicas)).unwrap();
                    assert_eq!(meaning(&encoded), meaning(&with_engine_defaults(body.clone())), "{path} in {file}");
                    compared += 1;
                }
                Err(Refusal::Unsupported(text)) => assert!(text.contains("plugin"), "{text}"),
                Err(refusal) if exchange["status"].as_u64() >= Some(400) => {
                    assert_eq!(refusal.to_string(), message, "{path} in {file}: {body}");
                }
                // The engine takes it and stores nonsense; the model cannot hold a negative duration.
                Err(refusal) => {
                    assert!(refusal.to_string().ends_with("-monitor cannot be negative"), "{refusal} {body}")
                }
            }
        }
    }
    assert!(compared > 100, "only {compared} specs were compared");
}

#[test]
fn a_stored_spec_is_written_field_by_field_as_the_engine_writes_it() {
    let mut compared = 0;
    for exchange in exchanges("14-service-all-flags-running.json") {
        let path = exchange["path"].as_str().unwrap();
        let recorded = &exchange["response_body"]["Spec"];
        if exchange["method"] != "GET" || !path.contains("/services/") || !recorded.is_object() {
            continue;
        }
        let spec: ServiceSpec<'static> = decode(recorded.to_string().as_bytes()).unwrap();
        let definition = spec.into_model().unwrap();
        let mut encoded = ServiceSpec::of(&definition.spec, definition.replicas);
        if exchange["query"]["insertDefaults"] == "true" {
            encoded.insert_defaults();
        }
        let encoded = serde_json::to_value(encoded).unwrap();
        assert_eq!(numbers(encoded), numbers(recorded.clone()), "{path}");
        compared += 1;
    }
    assert!(compared > 3, "only {compared} specs were compared");
}

/// `0.25` is a `f32` in Go and an `f64` in the recording's JSON.
fn numbers(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => Value::from(number.as_f64().unwrap() as f32),
        Value::Array(list) => list.into_iter().map(numbers).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, numbers(value))).collect(),
        other => other,
    }
}

#[test]
fn what_the_engine_refuses_is_refused_with_its_text() {
    let refused = |patch: &str| {
        let text = format!(
            r#"{{"TaskTemplate":{{"ContainerSpec":{{"Image":"a"{}}}{}}}{}}}"#,
            part(patch, 0),
            part(patch, 1),
            part(patch, 2)
        );
        let spec: ServiceSpec<'static> = decode(text.as_bytes()).unwrap();
        spec.into_model().unwrap_err().to_string()
    };
    fn part(patch: &str, index: usize) -> &str {
        patch.split('|').nth(index).unwrap_or("")
    }
    let argument = "rpc error: code = InvalidArgument desc = ";
    for (patch, text) in [
        (r#"|,"RestartPolicy":{"Delay":-1}"#, format!("{argument}TaskSpec: restart-delay cannot be negative")),
        (r#"|,"RestartPolicy":{"Window":-1}"#, format!("{argument}TaskSpec: restart-window cannot be negative")),
        (r#"||,"UpdateConfig":{"Delay":-1}"#, format!("{argument}TaskSpec: update-delay cannot be negative")),
        (
            r#"||,"EndpointSpec":{"Ports":[{"TargetPort":0}]}"#,
            format!("{argument}EndpointSpec: invalid target port 0: must be 1 to 65535"),
        ),
        (
            r#"||,"EndpointSpec":{"Ports":[{"TargetPort":1,"PublishedPort":65536}]}"#,
            format!("{argument}EndpointSpec: invalid published port 65536: must be 0 to 65535"),
        ),
        (r#","Mounts":[{"Type":"x"}]"#, r#"invalid MountType: "x""#.to_owned()),
        (r#","Secrets":[{"SecretID":"x","SecretName":"s"}]"#, format!("{argument}secret not found: s")),
        (
            r#","Configs":[{"ConfigID":"x","ConfigName":"s"}]"#,
            "invalid Config: either File or Runtime should be set".to_owned(),
        ),
        (
            r#","Healthcheck":{"Interval":-1}"#,
            format!("{argument}ContainerSpec: Interval in HealthConfig cannot be less than 1ms"),
        ),
        (
            r#","Mounts":[{"Type":"image","ImageOptions":{"Subpath":"x"}}]"#,
            "ImageOptions.Subpath of a mount is not supported yet".to_owned(),
        ),
    ] {
        assert_eq!(refused(patch), text, "{patch}");
    }
}

#[test]
fn privileges_survive_the_model() {
    let text = r#"{"Name":"a","Labels":{},"TaskTemplate":{"ContainerSpec":{"Image":"a","Privileges":{
        "CredentialSpec":{"Config":"","File":"x.json","Registry":""},
        "SELinuxContext":{"Disable":false,"User":"u","Role":"","Type":"t","Level":"s0:c1"},
        "Seccomp":{"Mode":"custom","Profile":"e30="},"AppArmor":{"Mode":"disabled"},"NoNewPrivileges":true},
        "DNSConfig":{},"Isolation":"default"},"Resources":{},"Placement":{},"ForceUpdate":0,"Runtime":"container"},
        "Mode":{"Global":{}}}"#;
    let spec: ServiceSpec<'static> = decode(text.as_bytes()).unwrap();
    let definition = spec.into_model().unwrap();
    let encoded = serde_json::to_value(ServiceSpec::of(&definition.spec, definition.replicas)).unwrap();
    assert_eq!(encoded, serde_json::from_str::<Value>(text).unwrap());
}
