//! Swarm routes: shapes of answers against recordings, what is asked of the cluster, refusals.
#![allow(clippy::unwrap_used, reason = "tests may unwrap, in their helpers, too")]

mod common;

use common::shape::Shape;
use common::{Call, FakeCluster, encoded, recorded, recorded_answers, rig, world};
use http::StatusCode;
use serde_json::{Value, json};
use skep_api_types::{ServiceSpec, decode};
use skep_http_api::{
    ClusterError, Code, LocalState, LogLine, LogMessage, LogOptions, LogSelector, LogStream, RotateTokens,
};
use skep_model::{DesiredState, Labels, ServiceMode, ServiceSpec as Spec, TaskState, Version, WallTime};
use skep_testkit::{
    AConfig, ASecret, World, a_config, a_node, a_secret, a_service, a_task, node_id, service_id, task_id,
};

const SERVICES: [&str; 4] = [
    "07-service-create-flags.json",
    "08-service-create-errors.json",
    "09-service-update-rollback.json",
    "14-service-all-flags-running.json",
];

/// The specs of a recorded service, as the model has them.
fn recorded_spec(service: &Value) -> Spec {
    let spec: ServiceSpec<'static> = decode(service["Spec"].to_string().as_bytes()).unwrap();
    let definition = spec.into_model().unwrap();
    (*definition.spec).clone()
}

/// The element of a list with this id.
fn with_id(list: &Value, id: impl ToString) -> &Value {
    let id = id.to_string();
    list.as_array().unwrap().iter().find(|object| object["ID"] == id.as_str()).unwrap()
}

fn web() -> World {
    world()
        .with(a_node("two"))
        .with(a_service("web").replicas(2).spec(|spec| {
            spec.labels = Labels::from([("tier".to_owned(), "front".to_owned())]);
        }))
        .with(a_service("webapi").mode(ServiceMode::Global))
        .with(a_task("t1", "web", 1).on("one", TaskState::Running))
        .with(a_task("t2", "web", 2).on("two", TaskState::Failed).desired(DesiredState::Shutdown))
}

#[tokio::test]
async fn services_look_as_recorded() {
    let recorded = recorded_answers(&SERVICES, |path| path.starts_with("/services/") && !path.ends_with("/logs"));
    let recorded: Vec<Value> = recorded.into_iter().filter(|answer| answer["ID"].is_string()).collect();
    assert!(recorded.len() > 50, "{}", recorded.len());
    let shape = Shape::of(&recorded);
    // One service for every recorded one, whatever it was made with.
    for answer in &recorded {
        let spec = recorded_spec(answer);
        let name = spec.name.clone();
        let mut world = world();
        for reference in &spec.task.container.secrets {
            if world.state.secret(reference.secret_id).is_none() {
                world.put(ASecret { id: reference.secret_id, ..a_secret(&reference.secret_name) });
            }
        }
        for reference in &spec.task.container.configs {
            if world.state.config(reference.config_id).is_none() {
                world.put(AConfig { id: reference.config_id, ..a_config(&reference.config_name) });
            }
        }
        let rig = rig(FakeCluster::manager(world.with(a_service("any").spec(|own| *own = spec))));
        let inspected = rig.get(&format!("/services/{name}")).await;
        assert_eq!(inspected.status, StatusCode::OK, "{name}");
        let inspected = inspected.json();
        assert_eq!(shape.differences(&inspected, &["NoNewPrivileges"], &[]), Vec::<String>::new(), "{name}");
        for place in ["Name", "Labels", "UpdateConfig", "EndpointSpec"] {
            if place != "EndpointSpec" || !answer["Spec"][place]["Ports"].is_null() {
                let (ours, theirs) = (numbers(&inspected["Spec"][place]), numbers(&answer["Spec"][place]));
                // The recording may have been read with defaults, or lacks what zero is.
                if !answer["Spec"]["RollbackConfig"].is_object() || place == "Name" {
                    assert_eq!(ours, theirs, "{name} {place}");
                }
            }
        }
    }
}

/// A ratio is 32 bits wide in the engine.
fn numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => Value::from(number.as_f64().unwrap_or_default() as f32),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), numbers(value))).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn lists_of_services_and_tasks_look_as_recorded() {
    let rig = rig(FakeCluster::manager(web()));
    let services = Shape::of(&recorded_answers(&SERVICES, |path| path == "/services"));
    let answer = rig.get("/v1.41/services?status=true").await.json();
    assert_eq!(
        services.differences(&answer, &[], &["EndpointSpec", "Init", "Limits", "Reservations"]),
        Vec::<String>::new()
    );
    assert_eq!(
        with_id(&answer, service_id("web"))["ServiceStatus"],
        json!({"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 0})
    );
    assert!(rig.get("/services").await.json()[0].get("ServiceStatus").is_none());
    assert!(rig.get("/v1.40/services?status=true").await.json()[0].get("ServiceStatus").is_none());

    let tasks = Shape::of(&recorded_answers(&SERVICES, |path| path == "/tasks"));
    let answer = rig.get("/tasks").await.json();
    assert_eq!(answer.as_array().unwrap().len(), 2);
    assert_eq!(tasks.differences(&answer, &[], &["Init", "Limits", "Reservations"]), Vec::<String>::new());
    assert_eq!(with_id(&answer, task_id("t1"))["Status"]["State"], "running");
    assert_eq!(with_id(&answer, task_id("t2"))["DesiredState"], "shutdown");
}

#[tokio::test]
async fn nodes_and_the_swarm_look_as_recorded() {
    let rig = rig(FakeCluster::manager(web()));
    let files = ["03-swarm-lifecycle.json"];
    let nodes = Shape::of(&recorded_answers(&files, |path| path == "/nodes"));
    let answer = rig.get("/nodes").await.json();
    // What a real node tells of its engine and trust is not in the fake.
    let missing = ["Addr", "EngineVersion", "Plugins", "CertIssuerPublicKey", "CertIssuerSubject", "TrustRoot"];
    assert_eq!(nodes.differences(&answer, &[], &missing), Vec::<String>::new());
    assert_eq!(
        with_id(&answer, node_id("one"))["ManagerStatus"],
        json!({"Leader": true, "Reachability": "reachable", "Addr": "192.0.2.1:2377"})
    );
    assert!(with_id(&answer, node_id("two")).get("ManagerStatus").is_none());

    let swarm = Shape::of(&recorded_answers(&files, |path| path == "/swarm"));
    let answer = rig.get("/swarm").await.json();
    let missing = ["CertIssuerPublicKey", "CertIssuerSubject", "TrustRoot"];
    assert_eq!(swarm.differences(&answer, &[], &missing), Vec::<String>::new());

    let info = Shape::of(&recorded_answers(&files, |path| path == "/info"));
    let answer = rig.get("/info").await.json();
    let newer = ["CDISpecDirs"];
    let gone = ["BridgeNfIp6tables", "BridgeNfIptables", "KernelMemory", "KernelMemoryTCP", "Expected"];
    let missing: Vec<&str> = gone.into_iter().chain(missing).collect();
    let differences = info.differences(&answer, &newer, &missing);
    let known = [".RegistryConfig", ".Runtimes", ".DriverStatus"];
    let unknown = differences.iter().filter(|line| !known.iter().any(|start| line.starts_with(start)));
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(answer["Swarm"]["Nodes"], 2);
    assert_eq!(answer["Swarm"]["Managers"], 1);
    assert!(answer["Swarm"]["Cluster"].get("JoinTokens").is_none());
}

#[tokio::test]
async fn services_are_found_by_id_name_and_prefix() {
    let rig = rig(FakeCluster::manager(web()));
    let id = service_id("web").to_string();
    for name in [id.as_str(), "web", "WEB", &id[..20]] {
        assert_eq!(rig.get(&format!("/services/{name}")).await.json()["ID"], id, "{name}");
    }
    for (path, status, text) in [
        ("/services/nosuch", 404, "service nosuch not found"),
        ("/services/we", 500, "service we is ambiguous (2 matches found)"),
        ("/tasks/nosuch", 404, "task nosuch not found"),
        ("/nodes/nosuch", 404, "node nosuch not found"),
        ("/secrets/nosuch", 404, "secret nosuch not found"),
        ("/configs/nosuch", 404, "config nosuch not found"),
        ("/services/web?insertDefaults=maybe", 400, "invalid value for insertDefaults: maybe"),
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert!(answer.message().starts_with(text), "{path}: {}", answer.message());
    }
    assert_eq!(rig.get("/nodes/two").await.json()["ID"], node_id("two").to_string());
}

#[tokio::test]
async fn lists_are_narrowed() {
    let rig = rig(FakeCluster::manager(web()));
    let count = async |path: &str, filters: &str| {
        let answer = rig.get(&format!("{path}?filters={}", encoded(filters))).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {filters}: {:?}", answer.body);
        answer.json().as_array().unwrap().len()
    };
    for (path, filters, expected) in [
        ("/services", r#"{"name":{"web":true}}"#, 2),
        ("/services", r#"{"name":["webapi"]}"#, 1),
        ("/services", r#"{"label":["tier=front"]}"#, 1),
        ("/services", r#"{"mode":["global"]}"#, 1),
        ("/services", r#"{"id":["zzz"]}"#, 0),
        ("/tasks", r#"{"service":["web"]}"#, 2),
        ("/tasks", r#"{"service":["web"],"desired-state":["running"]}"#, 1),
        ("/tasks", r#"{"node":["two"]}"#, 1),
        ("/tasks", r#"{"_up-to-date":["true"]}"#, 2),
        ("/tasks", r#"{"name":["web.1"]}"#, 1),
        ("/tasks", r#"{"label":["tier=front"]}"#, 2),
        ("/nodes", r#"{"role":["manager"]}"#, 1),
        ("/nodes", r#"{"name":["two"],"membership":["accepted"]}"#, 1),
    ] {
        assert_eq!(count(path, filters).await, expected, "{path} {filters}");
    }
    for (path, filters, status, text) in [
        ("/services", r#"{"bogus":["x"]}"#, 400, "invalid filter 'bogus'"),
        ("/services", "x", 400, "invalid filter"),
        ("/services", r#"{"mode":["x"]}"#, 400, "invalid filter 'mode=x'"),
        ("/tasks", r#"{"service":["nosuch"]}"#, 404, "service nosuch not found"),
        ("/tasks", r#"{"desired-state":["x"]}"#, 400, "invalid filter 'desired-state=x'"),
        ("/nodes", r#"{"role":["x"]}"#, 400, "invalid filter 'role=x'"),
    ] {
        let answer = rig.get(&format!("{path}?filters={}", encoded(filters))).await;
        assert_eq!((answer.status.as_u16(), answer.message().as_str()), (status, text), "{filters}");
    }
}

#[tokio::test]
async fn without_a_manager_every_route_says_why() {
    let no_swarm = rig(FakeCluster::outside());
    let mut worker = FakeCluster::manager(world());
    worker.status.control_available = false;
    let worker = rig(worker);
    let mut locked = FakeCluster::outside();
    locked.status.state = LocalState::Locked;
    let locked = rig(locked);
    for (rig, text) in [
        (&no_swarm, "This node is not a swarm manager. Use \"docker swarm init\""),
        (&worker, "This node is not a swarm manager. Worker nodes can't be used"),
        (&locked, "Swarm is encrypted and needs to be unlocked"),
    ] {
        for path in
            ["/services", "/services/a", "/nodes", "/tasks", "/swarm", "/swarm/unlockkey", "/secrets", "/configs"]
        {
            let answer = rig.get(path).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert!(answer.message().starts_with(text), "{path}: {}", answer.message());
        }
        assert_eq!(rig.get("/info").await.status, StatusCode::OK);
    }
    let leave = no_swarm.call("POST", "/swarm/leave", "").await;
    assert_eq!((leave.status.as_u16(), leave.message().as_str()), (503, "This node is not part of a swarm"));
    let join = worker.call("POST", "/swarm/join", "{}").await;
    assert!(join.message().starts_with("This node is already part of a swarm."));
    assert_eq!(no_swarm.call("POST", "/swarm/join", "{}").await.status, StatusCode::NOT_IMPLEMENTED);
    let unlock = worker.call("POST", "/swarm/unlock", r#"{"UnlockKey":"x"}"#).await;
    assert_eq!((unlock.status.as_u16(), unlock.message().as_str()), (409, "swarm is not locked"));
}

#[tokio::test]
async fn a_swarm_begins_with_dockers_defaults() {
    let rig = rig(FakeCluster::outside());
    let sent = recorded("03-swarm-lifecycle.json");
    let sent = sent.iter().find(|exchange| exchange["path"].as_str().is_some_and(|path| path.ends_with("/swarm/init")));
    let answer = rig.call("POST", "/v1.41/swarm/init", &sent.unwrap()["request_body"].to_string()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json(), json!(node_id("one").to_string()));
    let [Call::Init(options)] = &rig.calls()[..] else { panic!("{:?}", rig.calls()) };
    assert_eq!(options.listen_addr, "0.0.0.0:2377");
    assert_eq!(options.spec.raft, skep_model::RaftConfig::default());
    assert_eq!(options.spec.ca, skep_model::CaConfig::default());
    let refused = rig.call("POST", "/swarm/init", r#"{"Availability":"bogus"}"#).await;
    assert_eq!((refused.status.as_u16(), refused.message().as_str()), (400, r#"invalid Availability: "bogus""#));
}

#[tokio::test]
async fn the_cluster_is_updated_from_what_it_is() {
    let rig = rig(FakeCluster::manager(world()));
    let body = r#"{"Orchestration":{"TaskHistoryRetentionLimit":2}}"#;
    let answer =
        rig.call("POST", "/swarm/update?version=3&rotateWorkerToken=true&rotateManagerToken=false", body).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b""[..]));
    let [Call::UpdateCluster(Version(3), spec, rotate)] = &rig.calls()[..] else { panic!("{:?}", rig.calls()) };
    assert_eq!(spec.orchestration.task_history_retention_limit, 2);
    assert_eq!(spec.heartbeat_period.as_secs(), 5);
    assert_eq!(*rotate, RotateTokens { worker: true, ..RotateTokens::default() });
    let refused = rig.call("POST", "/swarm/update", "{}").await;
    assert_eq!(refused.message(), r#"invalid swarm version '': strconv.ParseUint: parsing "": invalid syntax"#);
    let refused = rig.call("POST", "/swarm/update?version=1&rotateWorkerToken=maybe", "{}").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
}

const BODY: &str = r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"busybox"}}}"#;

#[tokio::test]
async fn a_service_is_created_updated_rolled_back_and_removed() {
    let rig = rig(FakeCluster::manager(web()));
    let id = service_id("web");
    let created = rig.call("POST", "/services/create", BODY).await;
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.json(), json!({"ID": service_id("new").to_string()}));
    let updated = rig.call("POST", "/services/web/update?version=7&registryAuthFrom=spec", BODY).await;
    assert_eq!((updated.status, updated.json()), (StatusCode::OK, json!({"Warnings": null})));
    rig.call("POST", "/services/web/update?version=8&rollback=previous", BODY).await;
    let removed = rig.call("DELETE", "/services/web", "").await;
    assert_eq!((removed.status, &removed.body[..]), (StatusCode::OK, &b""[..]));
    let calls = rig.calls();
    let Call::Create(definition, None) = &calls[0] else { panic!("{:?}", calls[0]) };
    assert_eq!((definition.replicas, definition.spec.task.container.isolation.as_str()), (1, "default"));
    assert!(matches!(&calls[1], Call::Update(service, Version(7), _, None) if *service == id));
    assert_eq!(calls[2..], [Call::Rollback(id, Version(8)), Call::Remove(id)]);
}

#[tokio::test]
async fn refusals_of_updates_are_dockers() {
    let rig = rig(FakeCluster::manager(web()));
    for (path, status, text) in [
        ("/services/web/update", 400, r#"invalid service version '': strconv.ParseUint: parsing "": invalid syntax"#),
        ("/services/web/update?version=zz", 400, "invalid service version 'zz': strconv.ParseUint"),
        ("/services/nosuch/update?version=1", 404, "service nosuch not found"),
        ("/services/web/update?version=1&rollback=bogus", 500, "unrecognized rollback option bogus"),
        ("/services/web/update?version=1&registryAuthFrom=bogus", 500, "unsupported registryAuthFrom value"),
        ("/nodes/two/update?version=1", 400, r#"invalid Role: """#),
    ] {
        let answer = rig.call("POST", path, BODY).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert!(answer.message().starts_with(text), "{path}: {}", answer.message());
    }
    assert!(rig.calls().is_empty());
}

#[tokio::test]
async fn the_clusters_refusals_keep_their_class() {
    for (refusal, status, text) in [
        (
            ClusterError::rpc(Code::Unknown, "update out of sequence"),
            500,
            "rpc error: code = Unknown desc = update out of sequence",
        ),
        (ClusterError::rpc(Code::AlreadyExists, "x"), 409, "rpc error: code = AlreadyExists desc = x"),
        (ClusterError::rpc(Code::FailedPrecondition, "x"), 400, "rpc error: code = FailedPrecondition desc = x"),
        (ClusterError::rpc(Code::Unimplemented, "x"), 501, "rpc error: code = Unimplemented desc = x"),
        (ClusterError::rpc(Code::PermissionDenied, "x"), 403, "rpc error: code = PermissionDenied desc = x"),
        (ClusterError::Unavailable("busy".to_owned()), 503, "busy"),
    ] {
        let rig = rig(FakeCluster { refusal: Some(refusal), ..FakeCluster::manager(web()) });
        let answer = rig.call("POST", "/services/create", BODY).await;
        assert_eq!((answer.status.as_u16(), answer.message().as_str()), (status, text));
    }
}

#[tokio::test]
async fn registry_credentials_are_passed_on_unless_empty() {
    let rig = rig(FakeCluster::manager(web()));
    for (header, expected) in [
        ("e30=", None),
        ("not base64!", None),
        ("eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==", Some("eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==")),
    ] {
        let request = http::Request::post("/services/create").header("content-type", "application/json");
        let request = request.header("x-registry-auth", header).body(axum::body::Body::from(BODY)).unwrap();
        assert_eq!(rig.send(request).await.status, StatusCode::CREATED);
        let Some(Call::Create(_, auth)) = rig.calls().pop() else { panic!("nothing was created") };
        assert_eq!(auth.as_deref(), expected, "{header}");
    }
}

#[tokio::test]
async fn nodes_are_updated_and_removed_by_name() {
    let rig = rig(FakeCluster::manager(web()));
    let body = r#"{"Role":"worker","Availability":"drain","Labels":{"a":"b"}}"#;
    assert_eq!(rig.call("POST", "/nodes/two/update?version=4", body).await.status, StatusCode::OK);
    assert_eq!(rig.call("DELETE", "/nodes/two?force=1", "").await.status, StatusCode::OK);
    let calls = rig.calls();
    assert!(matches!(&calls[0], Call::UpdateNode(node, Version(4), spec)
        if *node == node_id("two") && spec.availability == skep_model::Availability::Drain));
    assert_eq!(calls[1], Call::RemoveNode(node_id("two"), true));
}

#[tokio::test]
async fn service_logs_say_whose_they_are() {
    let message = |stream, text: &'static str| {
        let line = LogLine { stream, time: WallTime(1_500_000_000), text: text.into() };
        Ok(LogMessage { node: node_id("one"), service: service_id("web"), task: task_id("t1"), line })
    };
    let lines = vec![
        message(LogStream::Stdout, "a\n"),
        message(LogStream::Stderr, "b\n"),
        Err("node x is not available".to_owned()),
    ];
    let rig = rig(FakeCluster { lines, ..FakeCluster::manager(web()) });
    let answer = rig.get("/services/web/logs?stdout=1&stderr=1&tail=5&details=1&since=2").await;
    assert_eq!(answer.header("content-type"), "application/vnd.docker.multiplexed-stream");
    let text = String::from_utf8_lossy(&answer.body);
    let details = format!(
        "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={} a\n",
        node_id("one"),
        service_id("web"),
        task_id("t1")
    );
    assert!(text.contains(&details), "{text}");
    assert_eq!(answer.body[0], 1);
    assert!(text.ends_with("Error grabbing logs: node x is not available\n"));
    let options = LogOptions {
        stdout: true,
        stderr: true,
        tail: Some(5),
        since: Some(WallTime(2_000_000_000)),
        ..LogOptions::default()
    };
    let selector = LogSelector { services: vec![service_id("web")], tasks: Vec::new() };
    assert_eq!(rig.calls(), [Call::Logs(selector, options)]);
    let old = rig.get(&format!("/v1.41/tasks/{}/logs?stdout=1", task_id("t1"))).await;
    assert_eq!(old.header("content-type"), "application/vnd.docker.raw-stream");
    for (query, status) in [("", 500), ("?stdout=1&tail=x", 400), ("?stdout=1&since=x", 400)] {
        assert_eq!(rig.get(&format!("/services/web/logs{query}")).await.status.as_u16(), status, "{query}");
    }
}

#[tokio::test]
async fn every_recorded_swarm_request_has_a_route() {
    let rig = rig(FakeCluster::manager(web()));
    let mut tried = 0;
    for file in SERVICES.into_iter().chain(["01-version-ping-info.json", "03-swarm-lifecycle.json", "04-images.json"]) {
        for exchange in recorded(file) {
            let path = exchange["path"].as_str().unwrap_or_default();
            let message = exchange["response_body"]["message"].as_str().unwrap_or_default();
            // Raw requests of a half-spoken protocol, and what the real engine did not know either.
            if !path.starts_with('/') || message.contains("page not found") || path.contains("nosuch") {
                continue;
            }
            let path = path.split('/').map(encoded).collect::<Vec<_>>().join("/");
            let answer = rig.call(exchange["method"].as_str().unwrap(), &path, "").await;
            if answer.status == StatusCode::NOT_FOUND && !answer.body.is_empty() {
                assert_ne!(answer.message(), "page not found", "{path}");
            }
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
}
