//! Recordings of a real engine against the daemon: the shapes of its answers, its refusals, that every request that
//! clients sent finds a route, and whole recordings sent again, request by request.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use skep_conformance::recording::{self, Exchange};
use skep_conformance::replay::Replay;
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
        [kind @ ("services" | "nodes" | "tasks" | "networks" | "secrets" | "configs" | "volumes"), name]
            if !["create", "prune"].contains(name) =>
        {
            format!("/{kind}/{{id}}")
        }
        [kind @ ("services" | "nodes" | "secrets" | "configs"), _, verb @ ("update" | "logs")] => {
            format!("/{kind}/{{id}}/{verb}")
        }
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
        let is_short = bare.len() == 12 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        if recording::is_id(bare) || is_short { word.replace(bare, "ID") } else { word.to_owned() }
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

/// What of the recordings is not sent, with the reason: a recording (empty: all), and a part of the step or the route.
const NOT_SENT: &[(&str, &str, &str)] = &[
    ("", "/distribution/", "there is no registry"),
    ("", "node-2", "the second node"),
    ("", "mjcodozfqcc571eg2e24jiqsz", "the second node"),
    ("", "rh5t57d72m358d14nth9b3ow1", "the second node, when it came again"),
    ("", "rjob", "jobs are refused"),
    ("", "gjob", "jobs are refused"),
    ("", "--mode replicated-job", "jobs are refused"),
    ("", "credd", "credential specs are refused"),
    ("01", "/v1.50/version", "too new for the recorded engine, not for this one"),
    ("03", "swarm ca --rotate", "rotation of the root certificate is refused"),
    ("03", "swarm update --autolock", "locked managers are refused"),
    ("03", "swarm unlock-key --rotate", "locked managers are refused"),
    ("04", "import ", "the archive is not in the recording"),
    ("04", "push ", "there is no registry"),
    ("04", "pull ", "there is no registry"),
    ("04", "login ", "there is no registry"),
    ("04", "POST /v1.41/auth", "there is no registry"),
    ("04", "POST /v1.41/images/create", "there is no registry"),
    ("04", "search ", "searching a registry is refused"),
    ("04", "load", "the archive is not in the recording"),
    ("04", "build", "building is refused"),
    ("04", "rmi built", "building is refused"),
    ("04", "commit ", "making an image of a container is refused"),
    ("05", "--scope swarm", "a swarm's networks are overlays"),
    ("05", "cfgo", "configurations apart from networks are refused"),
    ("05", "--ipv6", "IPv6 is refused"),
    ("05", "--opt encrypted", "encrypted overlays are refused"),
    ("05", "--subnet 10.50.0.0/16 ovo", "a subnet that overlaps is refused at once"),
    ("05", "--network ov", "containers by hand on overlays are refused"),
    ("05", " c2", "a container by hand on an overlay"),
    ("05", "network rm ov2", "no container is on it here"),
    ("05", "network connect ov1", "containers by hand on overlays are refused"),
    ("06", "-d nosuchdriver", "drivers of secrets are refused by name, without a look for a plugin"),
    ("08", "--rollback-monitor -1s", "refused at once; the real engine takes it and never rolls back"),
    ("08", "type=bind,target=/x", "refused at once; the real engine's tasks are rejected"),
    ("08", "type=volume,target=rel", "refused at once; the real engine's tasks are rejected"),
    ("09", "/2ghm0031q4gv", "a job"),
    ("09", "/r4bkadeymzlg", "a job"),
    ("09", "/yih1p066p2io", "a job"),
    ("09", "/re6j3lknnens", "a service with a credential spec"),
    ("16", "c7a91af95e009a33", "an image of another recording"),
    ("13", "events --format {{json .}}", "the live stream: what is in it is compared below"),
    ("16", "options={\"encrypted\"", "encrypted overlays are refused"),
    ("16", "c.images.pull", "there is no registry"),
    ("16", "get_registry_data", "there is no registry"),
];

/// Answers that differ and are right: a recording (empty: all), how `METHOD route` begins, a part of the difference, and
/// the reason.
const RIGHT: &[(&str, &str, &str, &str)] = &[
    ("", "GET /networks", "EnableIPv4", "new in API 1.48, and sent to older clients, too"),
    ("", "GET /images/{id}/json", "no such image: ", "said once since 23.0"),
    ("", "GET /images/json", "wanted 500", "filters that cannot be read are the client's mistake since 23.0"),
    ("", "GET /exec/{id}/json", "ExitCode: is null", "what was attached to is not started here"),
    ("", "POST /containers/{id}/wait", "Error: is missing", "left out without an error since API 1.42"),
    ("", "GET /containers/{id}/stats", "memory_stats.stats.", "the kernel's own names"),
    ("", "GET /tasks", "IPAMOptions: is missing", "a network of the node itself has no addresses of the swarm"),
    ("05", "POST /networks/create", "invalid CIDR", "text and status since 25.0"),
    ("05", "POST /networks/create", "invalid name: ", "the client's mistake since 23.0"),
    ("09", "DELETE /configs", "services: credd, big", "credential specs are refused, so that one service less uses it"),
    ("09", "GET /services", "PreviousSpec.", "the updates of `rb` are not waited for"),
    ("09", "GET /services", "UpdateStatus.CompletedAt", "the updates of `rb` are not waited for"),
    ("", "POST /services", "constraint expected one operator", "the client's mistake is said to be one"),
];

/// Sends a recording again and says how the answers differ. `before` sees each step before it is sent.
fn differences(
    file: &str,
    engine: &Engine,
    replay: &mut Replay,
    mut before: impl FnMut(&str, &mut Replay),
) -> (usize, BTreeSet<String>) {
    let shapes = all_shapes();
    let mut wrong = BTreeSet::new();
    let mut sent = 0;
    for step in recording::steps(file) {
        let raw = || step.exchanges.first().map(|first| format!("{} {}", first.method, first.path)).unwrap_or_default();
        let title = step.cli.as_ref().map(|cli| cli.join(" ")).or_else(|| step.python.clone()).unwrap_or_else(raw);
        // There is one node here.
        if step.is_on_second_node || is_listed(file, &title) {
            continue;
        }
        before(&title, replay);
        let mut seen = BTreeSet::new();
        for exchange in &step.exchanges {
            let is_poll = exchange.method == "GET" && !seen.insert(format!("{} {}", exchange.path, exchange.query));
            // What was not answered, or streams until somebody ends it.
            let follows = exchange.path.starts_with("/v1.41/services/") && exchange.query["follow"] == "1";
            let has_no_end = matches!(exchange.status, 0 | 101) || !exchange.query["condition"].is_null() || follows;
            let is_cut = exchange.request["Data"].as_str().is_some_and(|data| data.starts_with('('));
            if is_poll || has_no_end || is_cut || is_listed(file, &exchange.path) {
                continue;
            }
            sent += 1;
            let name = format!("{} {}", exchange.method, family(exchange));
            let mut exchange = exchange.clone();
            if step.note.starts_with("stale version") {
                exchange.query["version"] = "1".into();
            }
            for line in answered(replay, engine, &exchange, shapes.get(&name)) {
                let is_right = |(of, start, part, _): &(&str, &str, &str, &str)| {
                    file.starts_with(of) && name.starts_with(start) && line.contains(part)
                };
                if !RIGHT.iter().any(is_right) && !is_excepted(&family(&exchange), &line) {
                    wrong.insert(format!("{name}: {line}    [{title:.80}]"));
                }
            }
        }
    }
    (sent, wrong)
}

fn is_listed(file: &str, what: &str) -> bool {
    NOT_SENT.iter().any(|(of, start, _)| file.starts_with(of) && what.contains(start))
}

/// What was answered to each method and route when it went well.
fn all_shapes() -> BTreeMap<String, Shape> {
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    for exchange in recording::exchanges() {
        if (200..300).contains(&exchange.status) {
            let name = format!("{} {}", exchange.method, family(&exchange));
            shapes.entry(name).or_default().learn(&exchange.response);
        }
    }
    shapes
}

/// Sends one request; says how its answer differs.
fn answered(replay: &mut Replay, engine: &Engine, exchange: &Exchange, shape: Option<&Shape>) -> Vec<String> {
    let answer = match replay.send(engine, exchange, SOON) {
        Ok(answer) => answer,
        Err(error) => return vec![error.to_string()],
    };
    if u64::from(answer.status) != exchange.status {
        return vec![format!(
            "wanted {} {}, got {} {}",
            exchange.status,
            short(&exchange.response.to_string()),
            answer.status,
            short(&answer.text())
        )];
    }
    if answer.status >= 400 {
        let message = exchange.response["message"].as_str().unwrap_or_default();
        let wanted = message.rsplit_once(" desc = ").map_or(message, |(_, text)| text);
        let wanted = without_ids(&replay.here(wanted)).to_lowercase();
        let got = without_ids(&answer.message()).to_lowercase();
        let is_decoder = ["eof", "invalid character"].iter().any(|part| wanted.contains(part));
        return if is_decoder || got.contains(&wanted) {
            vec![]
        } else {
            vec![format!("wanted {wanted:?}, got {got:?}")]
        };
    }
    let is_marker = |map: &serde_json::Map<String, Value>| map.keys().any(|key| key.starts_with("__"));
    match (&exchange.response, shape) {
        (Value::Object(map), _) if is_marker(map) => vec![],
        (Value::Object(_) | Value::Array(_), Some(shape)) => shape.differences(&answer.json()),
        (Value::Null, _) if !answer.body.is_empty() && exchange.method != "GET" => {
            vec![format!("nothing was wanted, got {}", short(&answer.text()))]
        }
        _ => vec![],
    }
}

fn short(text: &str) -> String {
    text.trim().chars().take(160).collect()
}

/// A replay with this engine's names for what the recorded engine had from the start.
fn replay_for(engine: &Engine) -> Replay {
    let info = engine.get("/v1.41/info");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let image = text(&engine.get("/v1.41/images/json")[0]["Id"]).replace("sha256:", "");
    let mut replay = Replay::new(&[
        ("busybox:1.36@sha256:a2e03539c77a4f0b451bd061bc078c2dbc3cf46a2e37950e137087832054ed0c", "busybox:1.36"),
        ("node-1", &text(&info["Name"])),
        ("192.168.99.11", "127.0.0.1"),
        // Refused, and in the way of all else that the service has.
        ("\"DriverOpts\":{\"foo\":\"bar\"}", "\"DriverOpts\":null"),
    ]);
    replay.name("9e03fc30e4155efdf71d96f38d967feaf8865cad84b0422429c3d4dff910f763", &image);
    if info["Swarm"]["LocalNodeState"] == "active" {
        replay.name("ra9ztzrzkf2ilip51dioruimv", &text(&info["Swarm"]["NodeID"]));
    }
    replay
}

#[track_caller]
fn check(file: &str, at_least: usize, engine: &Engine, before: impl FnMut(&str, &mut Replay)) {
    check_with(file, at_least, engine, &mut replay_for(engine), before);
}

#[track_caller]
fn check_with(
    file: &str,
    at_least: usize,
    engine: &Engine,
    replay: &mut Replay,
    before: impl FnMut(&str, &mut Replay),
) {
    let (sent, wrong) = differences(file, engine, replay, before);
    assert!(wrong.is_empty(), "{file}:\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
    assert!(sent >= at_least, "{file}: only {sent} requests were sent");
}

/// An engine outside of a swarm, with an image.
fn with_images() -> Engine {
    let engine = Engine::start(SKEP);
    engine.load_busybox();
    engine
}

/// A swarm with the image under its recorded name, and the networks, the secret and the config of the recorded services.
fn with_objects() -> Engine {
    let engine = Engine::with_swarm(SKEP);
    let _ = engine.docker(&["tag", "busybox", "registry.test:5000/busybox:1.36"]).ok();
    for name in ["net1", "net2"] {
        let _ = engine.docker(&["network", "create", "-d", "overlay", "--attachable", name]).ok();
    }
    for (kind, name) in [("secret", "tok"), ("config", "cfg")] {
        let _ = engine.docker_with(&[kind, "create", name, "-"], b"data", &[]).ok();
    }
    engine
}

#[test]
fn recording_01_of_version_and_info() {
    if !missing() {
        check("01-version-ping-info", 20, &with_images(), |_, _| {});
    }
}

#[test]
fn recording_03_of_a_swarm() {
    if !missing() {
        check("03-swarm-lifecycle", 50, &Engine::start(SKEP), |_, _| {});
    }
}

#[test]
fn recording_04_of_images() {
    if !missing() {
        let engine = with_images();
        check("04-images", 35, &engine, |step, _| {
            if step == "image inspect registry.test:5000/busybox:1.36" {
                // It was removed and pulled again.
                let _ = engine.docker(&["tag", "busybox", "registry.test:5000/busybox:1.36"]).ok();
            }
            if step == "tag imported:v1 registry.test:5000/busybox:2.0" {
                let empty = vec![0; 1024];
                let words = ["import", "-c", "CMD [\"/bin/sh\"]", "-m", "imported", "-", "imported:v1"];
                let _ = engine.docker_with(&words, &empty, &[]).ok();
            }
        });
    }
}

#[test]
fn recording_05_of_networks() {
    if !missing() {
        let engine = Engine::with_swarm(SKEP);
        check("05-networks", 55, &engine, |step, _| {
            // The recorded containers were removed by hand.
            if step.starts_with("network rm mv1") {
                let _ = engine.docker(&["rm", "-f", "c1"]).ok();
                let _ = engine.docker(&["network", "rm", "br1"]).ok();
            }
        });
    }
}

#[test]
fn recording_06_of_secrets_and_configs() {
    if !missing() {
        let engine = Engine::with_swarm(SKEP);
        check("06-secrets-configs", 60, &engine, |step, _| {
            // What uses them, and then no longer does, is in another recording.
            let user = ["service", "create", "-d", "--name", "user", "--secret", "secret1", "--config", "config1"];
            if step == "config inspect nosuch" {
                let _ = engine.docker(&[&user[..], &["busybox", "sleep", "1000"]].concat()).ok();
            }
            if step == "secret rm secret2 tplsecret nosuch" {
                let _ = engine.docker(&["service", "rm", "user"]).ok();
            }
        });
    }
}

#[test]
fn recording_07_of_new_services() {
    if !missing() {
        let engine = with_objects();
        check("07-service-create-flags", 100, &engine, |step, replay| {
            if step == "service logs lg" {
                let tasks = engine.wait_running("lg", 1, SOON);
                replay.name("c5621a75k78gjr0qof09bjhgb", tasks[0]["ID"].as_str().unwrap());
            }
        });
    }
}

#[test]
fn recording_08_of_refused_services() {
    if !missing() {
        let engine = with_objects();
        let _ = engine.docker(&["service", "create", "-d", "--name", "plain", "busybox", "sleep", "1000"]).ok();
        let big = ["service", "create", "-d", "--name", "big", "--publish", "8080:80", "busybox", "sleep", "1000"];
        let _ = engine.docker(&big).ok();
        check("08-service-create-errors", 60, &engine, |_, _| {});
    }
}

#[test]
fn recording_09_of_updates() {
    if !missing() {
        let engine = with_objects();
        let mut replay = replay_for(&engine);
        // The services of 07 are those that are updated.
        let _ = differences("07-service-create-flags", &engine, &mut replay, |_, _| {});
        check_with("09-service-update-rollback", 100, &engine, &mut replay, |_, _| {});
    }
}

#[test]
fn recording_14_of_a_service_with_all() {
    if !missing() {
        let engine = with_objects();
        check("14-service-all-flags-running", 25, &engine, |step, replay| {
            if step.starts_with("inspect --type task") {
                let task = &engine.wait_running("big2", 1, SOON)[0];
                replay.name("pte9892voqws0c82bijn02hur", task["ID"].as_str().unwrap());
                let container = task["Status"]["ContainerStatus"]["ContainerID"].as_str().unwrap();
                replay.name("552a1910e7e4bdc2de69787d58c2443eaa469610144d05dc9d53fbddfdfb46e2", container);
            }
        });
    }
}

#[test]
fn recording_16_of_another_client() {
    if !missing() {
        let engine = with_objects();
        let mut replay = replay_for(&engine);
        let net1 = engine.get("/v1.41/networks/net1");
        replay.name("jmkjnuje9x28snytmz8qo1a18", net1["Id"].as_str().unwrap());
        check_with("16-docker-py", 80, &engine, &mut replay, |_, _| {});
    }
}

/// What makes events: the arguments of the docker client.
const DEEDS: &str = "run -d --name e1 --label x=1 -v ev:/data busybox sleep 1000
exec e1 true
top e1
pause e1
unpause e1
update --memory 32m --memory-swap 64m e1
rename e1 e2
cp e2:/bin/busybox -
restart -t 0 e2
kill e2
rm -f e2
container prune -f
volume create ev2
volume rm ev2
volume prune -af
network create en
network rm en
network prune -f
network create -d overlay eo
network rm eo
tag busybox:latest et:1
save busybox:latest
rmi et:1
image prune -f
service create -d --name es busybox sleep 1000
service update -d --label-add a=b es
service rm es
secret rm tok
config rm cfg";

#[test]
fn recording_13_of_events() {
    if missing() {
        return;
    }
    let engine = with_objects();
    for deed in DEEDS.lines() {
        let _ = engine.docker(&deed.split(' ').collect::<Vec<_>>()).ok();
    }
    let until = engine.docker(&["run", "--rm", "busybox", "date", "+%s"]).ok();
    // Whole seconds: the next one is after all that was done.
    let until = &(until.trim().parse::<u64>().unwrap() + 1).to_string();
    let mut replay = Replay::new(&[("1795354679", "1"), ("1795356479", "1"), ("1795358279.469381953", until)]);
    check_with("13-events", 7, &engine, &mut replay, |_, _| {});

    // Each kind of event: what it always has.
    let mut recorded = BTreeMap::new();
    let streams = recording::steps("13-events").into_iter().flat_map(|step| step.exchanges);
    for exchange in streams {
        for event in exchange.response["__json_stream__"].as_array().into_iter().flatten() {
            let (kind, keys) = kind_of(event);
            let known = recorded.entry(kind).or_insert_with(|| (keys.clone(), Shape::default()));
            known.0.retain(|key| keys.contains(key));
            known.1.learn(event);
        }
    }
    let answer = engine.http("GET", &format!("/v1.41/events?since=1&until={until}"), None).unwrap();
    let mut wrong = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for line in answer.text().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let (kind, keys) = kind_of(&event);
        let Some((always, shape)) = recorded.get(&kind) else {
            wrong.insert(format!("{kind}: the real engine has no such event"));
            continue;
        };
        wrong.extend(always.difference(&keys).map(|key| format!("{kind}: Attributes.{key} is missing")));
        wrong.extend(shape.differences(&event).into_iter().map(|line| format!("{kind}: {line}")));
        seen.insert(kind);
    }
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
    assert!(seen.len() > 30, "only {seen:?}");
}

/// Which kind of event it is, and the keys of its attributes that are no labels of the recorded containers.
fn kind_of(event: &Value) -> (String, BTreeSet<String>) {
    let text = |key: &str| event[key].as_str().unwrap_or_default().split(':').next().unwrap_or_default().to_owned();
    let attributes = event["Actor"]["Attributes"].as_object().into_iter().flatten();
    let is_label = |key: &str| key.starts_with("com.docker.") || ["a", "x", "ctr"].contains(&key);
    let keys = attributes.map(|(key, _)| key.clone()).filter(|key| !is_label(key)).collect();
    (format!("{} {}", text("Type"), text("Action")), keys)
}
