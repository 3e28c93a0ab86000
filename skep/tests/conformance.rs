//! Recordings of a real engine against the daemon: the shapes of its answers, its refusals, and that every request that
//! clients sent finds a route.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use skep_conformance::recording::{self, Exchange};
use skep_conformance::shape::Shape;
use skep_conformance::{Engine, missing, wait_until};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");
const SOON: Duration = Duration::from_secs(20);

/// Differences that are right, with the reason. A `*` at the end stands for anything.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("/containers/{id}/json", "HostConfig.Dns", "lists for `docker run`, null for a task without name servers"),
    ("/containers/{id}/json", "HostConfig.KernelMemory*", "gone since API 1.42"),
    ("/containers/{id}/json", "NetworkSettings.Ports[]", "null is a port that is exposed and not published"),
    ("/containers/json", "Ports[].*", "a port that is exposed and not published has no address"),
    ("/images/{id}/json", "Container*", "gone since API 1.45"),
    ("/images/{id}/json", "GraphDriver.Data", "null where the layers' places are nobody's business"),
    ("/tasks", "Spec.Placement.Platforms", "known only when a registry was asked"),
    ("/info", "BridgeNf*", "gone since API 1.50"),
    ("/info", "CDISpecDirs", "new in API 1.44"),
    ("/info", "KernelMemory*", "gone since API 1.42"),
    ("/info", "RegistryConfig.*", "no registry is asked yet"),
    ("/info", "Runtimes[].path", "the runtime is built in"),
    ("/info", "Swarm.Cluster.DefaultAddrPool*", "only the recorded swarm had pools of its own"),
    ("/swarm", "DefaultAddrPool*", "only the recorded swarm had pools of its own"),
    ("/version", "BuildTime", "a build is told by its commit"),
];

/// A swarm with what the recorded one had: services with ports, limits and history, an exited container.
fn populated() -> Engine {
    let engine = Engine::with_swarm(SKEP);
    let create = |name: &str, rest: &[&str]| {
        let _ = engine.docker(&[&["service", "create", "-d", "--name", name], rest].concat()).ok();
    };
    create("plain", &["busybox", "sleep", "100000"]);
    let big = [
        "--replicas",
        "2",
        "--env",
        "A=1",
        "--label",
        "svc=1",
        "--container-label",
        "ctr=1",
        "--limit-memory",
        "64M",
        "--reserve-cpu",
        "0.1",
        "--constraint",
        "node.role==manager",
        "--publish",
        "8080:80",
        "--restart-delay",
        "1s",
        "--stop-grace-period",
        "2s",
        "busybox",
        "sleep",
        "100000",
    ];
    create("big", &big);
    create("exit1", &["--restart-condition", "none", "busybox", "sh", "-c", "exit 3"]);
    engine.wait_running("plain", 1, SOON);
    engine.wait_running("big", 2, SOON);
    wait_until("a failed task", SOON, || {
        engine.docker(&["service", "ps", "exit1", "--format", "{{.CurrentState}}"]).stdout.starts_with("Failed")
    });
    engine
}

/// What the real engine answered to a GET of each route.
fn recorded_shapes() -> BTreeMap<String, Shape> {
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    for exchange in recording::exchanges() {
        let wants_more = ["status", "size"].iter().any(|key| !exchange.query[key].is_null());
        if exchange.method == "GET" && exchange.status == 200 && !wants_more {
            shapes.entry(family(&exchange)).or_default().learn(&exchange.response);
            // What a list shows of an object is what the object is.
            if let ("/services" | "/nodes" | "/tasks", Value::Array(list)) = (&*exchange.route(), &exchange.response) {
                let shape = shapes.entry(format!("{}/{{id}}", exchange.route())).or_default();
                list.iter().for_each(|object| shape.learn(object));
            }
        }
    }
    shapes
}

/// The route, with one name for all ways to name an object.
fn family(exchange: &Exchange) -> String {
    let route = exchange.route();
    let parts: Vec<&str> = route.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        [kind @ ("services" | "nodes" | "tasks"), name] if *name != "create" => format!("/{kind}/{{id}}"),
        ["containers", name, "json"] if !name.is_empty() => "/containers/{id}/json".to_owned(),
        ["images", .., "json"] if parts.len() > 2 => "/images/{id}/json".to_owned(),
        ["images", .., "history"] => "/images/{id}/history".to_owned(),
        _ => route,
    }
}

#[test]
fn answers_have_the_shape_of_the_real_engines() {
    if missing() {
        return;
    }
    let shapes = recorded_shapes();
    let engine = populated();
    let first = |path: &str| engine.get(&format!("/v1.41{path}"))[0]["ID"].as_str().unwrap().to_owned();
    let container = engine.running_tasks("big").unwrap()[0]["Status"]["ContainerStatus"]["ContainerID"].clone();
    let failed = engine.docker(&["ps", "-aq", "--no-trunc", "--filter", "status=exited"]).ok();
    let cases = [
        ("/version", "/version".to_owned()),
        ("/info", "/info".to_owned()),
        ("/swarm", "/swarm".to_owned()),
        ("/nodes", "/nodes".to_owned()),
        ("/nodes/{id}", format!("/nodes/{}", first("/nodes"))),
        ("/services", "/services".to_owned()),
        ("/services/{id}", "/services/big".to_owned()),
        ("/services/{id}", "/services/plain?insertDefaults=true".to_owned()),
        ("/tasks", "/tasks".to_owned()),
        ("/tasks/{id}", format!("/tasks/{}", first("/tasks"))),
        ("/images/json", "/images/json".to_owned()),
        ("/images/{id}/json", "/images/busybox/json".to_owned()),
        ("/images/{id}/history", "/images/busybox/history".to_owned()),
        ("/containers/json", "/containers/json?all=1".to_owned()),
        ("/containers/{id}/json", format!("/containers/{}/json", container.as_str().unwrap())),
        ("/containers/{id}/json", format!("/containers/{}/json", failed.lines().next().unwrap())),
    ];
    let mut wrong = BTreeSet::new();
    for (family, path) in cases {
        let shape = shapes.get(family).unwrap_or_else(|| panic!("no recording has {family}"));
        let answer = engine.http("GET", &format!("/v1.41{path}"), None).unwrap();
        if answer.status != 200 {
            wrong.insert(format!("{family} {path}: {} {}", answer.status, answer.text()));
            continue;
        }
        for line in shape.differences(&answer.json()) {
            if !is_excepted(family, &line) {
                wrong.insert(format!("{family} {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

fn is_excepted(family: &str, line: &str) -> bool {
    let fits = |pattern: &str| {
        let place = line.split(": ").next().unwrap_or_default().trim_start_matches("[].");
        pattern.strip_suffix('*').map_or(place == pattern, |start| place.starts_with(start))
    };
    EXCEPTIONS.iter().any(|(of, pattern, _)| family.starts_with(of) && fits(pattern))
}

/// Refusals that depend on objects this swarm does not have yet, or on clients and flags that are refused earlier.
const NOT_HERE: [&str; 7] = ["--network", "--secret", "--config", "--mount", "--health", "--mode", "--init"];

#[test]
fn refusals_are_those_of_the_real_engine() {
    if missing() {
        return;
    }
    let engine = populated();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for step in recording::steps("08-service-create-errors") {
        let Some(cli) = step.cli else {
            for exchange in &step.exchanges {
                if exchange.method == "POST" && exchange.status >= 400 {
                    seen += 1;
                    wrong.extend(replay(&engine, exchange));
                }
            }
            continue;
        };
        let is_elsewhere = cli.iter().any(|word| NOT_HERE.iter().any(|flag| word.starts_with(flag)));
        if step.exit_code == Some(0) || is_elsewhere {
            continue;
        }
        seen += 1;
        let cli: Vec<String> = cli.iter().map(|word| local(word)).collect();
        let output = engine.docker(&cli.iter().map(String::as_str).collect::<Vec<_>>());
        let wanted = without_ids(&said(&step.stderr));
        let stderr = without_ids(&output.stderr);
        if Some(i64::from(output.code)) != step.exit_code || !stderr.contains(&wanted) {
            wrong.push(format!(
                "docker {}: wanted {:?} {wanted:?}, got {} {stderr:?}",
                cli.join(" "),
                step.exit_code,
                output.code
            ));
        }
    }
    assert!(seen > 25, "only {seen} cases were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn local(word: &str) -> String {
    word.replace("registry.test:5000/busybox:1.36", "busybox:latest")
}

/// What a client printed, without the name of the program and the gRPC status in front.
fn said(stderr: &str) -> String {
    let line = stderr.lines().next().unwrap_or_default();
    let text = line.rsplit_once(" desc = ").map_or(line, |(_, text)| text);
    text.trim_start_matches("Error response from daemon: ").to_owned()
}

fn without_ids(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
        if recording::is_id(bare) { word.replace(bare, "ID") } else { word.to_owned() }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Sends a recorded request; says how the answer differs.
fn replay(engine: &Engine, exchange: &Exchange) -> Option<String> {
    let body = match &exchange.request {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(local(&value.to_string())),
    };
    let answer = engine.http("POST", &exchange.path, body.as_deref().map(str::as_bytes)).unwrap();
    let message = exchange.response["message"].as_str().unwrap_or_default();
    let wanted = message.rsplit_once(" desc = ").map_or(message, |(_, text)| text);
    // Texts of the JSON decoder are Go's own; later engines put a prefix in front.
    let is_decoder = ["EOF", "invalid character"].iter().any(|part| wanted.contains(part));
    let fits = u64::from(answer.status) == exchange.status && (is_decoder || answer.message().contains(wanted));
    (!fits).then(|| {
        let body = body.unwrap_or_default();
        format!(
            "POST {} {body}: wanted {} {wanted:?}, got {} {:?}",
            exchange.path,
            exchange.status,
            answer.status,
            answer.message()
        )
    })
}

#[test]
fn every_recorded_request_has_a_route() {
    if missing() {
        return;
    }
    let engine = Engine::with_swarm(SKEP);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for exchange in recording::exchanges() {
        let unknown = exchange.response["message"].as_str().is_some_and(|text| text.contains("page not found"));
        let key = format!("{} {}", exchange.method, exchange.route());
        // Streams do not end by themselves; what ends the swarm or waits for input is not for here.
        let is_left_out = ["events", "attach", "/stats", "/wait", "swarm/leave", "/session", "logs"]
            .iter()
            .any(|part| exchange.path.contains(part));
        if unknown || is_left_out || !seen.insert(key.clone()) {
            continue;
        }
        let path = exchange.path.replace(' ', "%20");
        let answer = engine.http_within(&exchange.method, &path, Some(b"{}"), Duration::from_secs(5));
        match answer {
            Ok(answer) if answer.message().contains("page not found") => wrong.push(key),
            Ok(_) => {}
            Err(error) => wrong.push(format!("{key}: {error}")),
        }
    }
    assert!(seen.len() > 80, "only {} requests were found", seen.len());
    assert!(wrong.is_empty(), "no route for:\n{}", wrong.join("\n"));
}
