//! Routes about this machine: containers, logs, exec over a real socket, images, networks.
#![allow(clippy::unwrap_used, reason = "tests may unwrap, in their helpers, too")]

mod common;

use std::sync::Arc;

use common::shape::Shape;
use common::{FakeCluster, FakeEngine, Rig, encoded, recorded_answers, rig, with_engine, world};
use http::StatusCode;
use serde_json::{Value, json};
use skep_http_api::{Ended, Listener, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

const FILES: [&str; 2] = ["11-containers.json", "14-service-all-flags-running.json"];

#[tokio::test]
async fn containers_look_as_recorded() {
    let rig = rig(FakeCluster::manager(world()));
    let inspected = recorded_answers(&FILES, |path| path.starts_with("/containers/") && path.ends_with("/json"));
    let (lists, objects): (Vec<Value>, Vec<Value>) = inspected.into_iter().partition(Value::is_array);
    let answer = rig.get("/containers/web.1.t1/json").await.json();
    let gone = ["KernelMemory", "KernelMemoryTCP", "LowerDir", "MergedDir", "UpperDir", "WorkDir"];
    let differences = Shape::of(&objects).differences(&answer, &[], &gone);
    // Lists that clients send empty and a service's container does not have at all.
    let known = [".GraphDriver.Data", ".HostConfig.OomKillDisable", ".HostConfig.Dns:", ".HostConfig.Ulimits:"];
    let unknown = differences.iter().filter(|line| !known.iter().any(|start| line.starts_with(start)));
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());

    let answer = rig.get("/containers/json").await.json();
    assert_eq!(Shape::of(&lists).differences(&answer, &[], &[]), Vec::<String>::new());
    assert_eq!(answer[0]["Command"], "sh -c 'sleep 9'");
    assert_eq!(answer[0]["Names"], json!(["/web.1.t1"]));
}

#[tokio::test]
async fn lists_of_containers_are_narrowed() {
    let rig = rig(FakeCluster::outside());
    for (filters, expected) in [
        (r#"{"name":["web"]}"#, 1),
        (r#"{"name":["nosuch"]}"#, 0),
        (r#"{"label":["com.docker.swarm.task.id=t1"]}"#, 1),
        (r#"{"is-task":["true"]}"#, 1),
        (r#"{"status":["exited"]}"#, 0),
        (r#"{"ancestor":["busybox"]}"#, 1),
        (r#"{"network":["skep0"]}"#, 1),
        (r#"{"health":["none"]}"#, 1),
    ] {
        let answer = rig.get(&format!("/containers/json?filters={}", encoded(filters))).await;
        assert_eq!(answer.json().as_array().unwrap().len(), expected, "{filters}");
    }
    for (query, text) in [
        (format!("filters={}", encoded(r#"{"bogus":["1"]}"#)), "invalid filter 'bogus'"),
        (format!("filters={}", encoded(r#"{"status":["bogus"]}"#)), "invalid filter 'status=bogus'"),
        ("limit=x".to_owned(), "invalid limit"),
    ] {
        let answer = rig.get(&format!("/containers/json?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert!(answer.message().starts_with(text), "{}", answer.message());
    }
}

#[tokio::test]
async fn containers_are_signalled_stopped_and_removed() {
    let rig = rig(FakeCluster::outside());
    for (method, path, status) in [
        ("POST", "/containers/web.1.t1/kill?signal=HUP", 204),
        ("POST", "/containers/web.1.t1/stop?t=3", 304),
        ("DELETE", "/containers/web.1.t1?force=1", 204),
        ("POST", "/containers/nosuch/kill", 404),
        ("POST", "/containers/web.1.t1/stop?t=x", 400),
        ("POST", "/containers/web.1.t1/wait?condition=bogus", 400),
    ] {
        assert_eq!(rig.call(method, path, "").await.status.as_u16(), status, "{path}");
    }
    assert_eq!(rig.engine.calls.lock().unwrap()[..], ["kill HUP", "stop None Some(3)", "remove true"]);
    let missing = rig.get("/containers/nosuch/json").await;
    assert_eq!((missing.status.as_u16(), missing.message().as_str()), (404, "No such container: nosuch"));
}

#[tokio::test]
async fn logs_come_in_frames() {
    let rig = rig(FakeCluster::outside());
    let answer = rig.get("/containers/web.1.t1/logs?stdout=1&stderr=1&timestamps=1").await;
    assert_eq!(answer.header("content-type"), "application/vnd.docker.multiplexed-stream");
    let time = b"1970-01-01T00:00:01.000000000Z ";
    let expected = [b"\x01\0\0\0\0\0\0\x23", &time[..], b"out\n\x02\0\0\0\0\0\0\x23", time, b"err\n"].concat();
    assert_eq!(answer.body[..], expected[..]);
    assert_eq!(rig.get("/containers/web.1.t1/logs").await.status.as_u16(), 500);
}

/// A server on a real socket, and a way to it.
struct Served {
    path: std::path::PathBuf,
    rig: Rig,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Served {
    fn new(rig: Rig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, rig.api.clone(), stop.clone()));
        Self { path, rig, stop, server, _directory: directory }
    }

    async fn connect(&self, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

/// Reads the head of an answer, byte by byte, and leaves the rest.
async fn head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

const UPGRADE: &str = "POST /v1.50/exec/e1/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
    Content-Type: application/json\r\nContent-Length: 29\r\n\r\n{\"Detach\":false,\"Tty\":false}\n";

#[tokio::test]
async fn an_exec_is_a_two_way_stream_with_half_close() {
    let served = Served::new(rig(FakeCluster::outside()));
    let mut stream = served.connect(UPGRADE).await;
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    let lower = head.to_lowercase();
    for header in ["content-type: application/vnd.docker.multiplexed-stream", "connection: upgrade", "upgrade: tcp"] {
        assert!(lower.contains(header), "{head}");
    }
    stream.write_all(b"hello").await.unwrap();
    let mut frame = [0; 13];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x01\0\0\0\0\0\0\x05HELLO");
    // The end of input is not the end of output.
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x02\0\0\0\0\0\0\x03bye");
    assert_eq!(served.rig.get("/exec/e1/json").await.json()["ExitCode"], 0);
}

#[tokio::test]
async fn an_exec_that_cannot_start_says_so_on_the_stream() {
    let engine = FakeEngine { fails_to_start: true, ..FakeEngine::default() };
    let served = Served::new(with_engine(FakeCluster::outside(), engine));
    let mut stream = served.connect(UPGRADE).await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("OCI runtime exec failed: no such file\r\n"), "{text}");
}

#[tokio::test]
async fn execs_are_created_and_refused() {
    let rig = rig(FakeCluster::outside());
    let create = async |body| rig.call("POST", "/containers/web.1.t1/exec", body).await;
    let created = create(r#"{"Cmd":["id"],"AttachStdout":true}"#).await;
    assert_eq!((created.status, created.json()), (StatusCode::CREATED, json!({"Id": "ef".repeat(32)})));
    let refused = create(r#"{"Cmd":[]}"#).await;
    assert_eq!((refused.status.as_u16(), refused.message().as_str()), (400, "No exec command specified"));
    let refused = create(r#"{"Cmd":["sh"],"Tty":true,"DetachKeys":"ctrl-?"}"#).await;
    assert_eq!((refused.status.as_u16(), refused.message().as_str()), (400, "Unknown character: 'ctrl-?'"));
    assert_eq!(rig.call("POST", "/exec/e1/resize?h=40&w=100", "").await.status, StatusCode::OK);
    assert_eq!(rig.call("POST", "/exec/e1/resize?h=x&w=100", "").await.status, StatusCode::BAD_REQUEST);
    let missing = rig.call("POST", "/exec/nosuch/start", r#"{"Detach":false}"#).await;
    assert_eq!((missing.status.as_u16(), missing.message().as_str()), (404, "No such exec instance: nosuch"));
    assert_eq!(rig.call("POST", "/exec/e1/start", r#"{"Detach":true}"#).await.status, StatusCode::OK);
}

#[tokio::test]
async fn waiting_answers_its_head_at_once() {
    let (end, ended) = tokio::sync::oneshot::channel();
    let served = Served::new(rig(FakeCluster::outside()));
    *served.rig.engine.end.lock().unwrap() = Some(ended);
    let request = "POST /containers/web.1.t1/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let mut stream = served.connect(request).await;
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    end.send(Ended { exit_code: 137, error: None }).unwrap();
    let mut body = Vec::new();
    while !body.ends_with(b"0\r\n\r\n") {
        body.push(stream.read_u8().await.unwrap());
    }
    assert!(String::from_utf8_lossy(&body).contains(r#"{"StatusCode":137}"#));
}

#[tokio::test]
async fn a_stop_ends_idle_connections() {
    let served = Served::new(rig(FakeCluster::outside()));
    let mut stream = served.connect("GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
    head(&mut stream).await;
    served.stop.cancel();
    served.server.await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"OK");
}

#[tokio::test]
async fn images_are_listed_inspected_tagged_loaded_and_removed() {
    let rig = rig(FakeCluster::outside());
    let shapes = recorded_answers(&["04-images.json"], |path| path == "/images/json");
    let newest = rig.get("/images/json").await.json();
    assert_eq!(Shape::of(&shapes).differences(&newest, &[], &["VirtualSize"]), Vec::<String>::new());
    assert!(rig.get("/v1.41/images/json").await.json()[0]["VirtualSize"].is_number());
    let shapes = recorded_answers(&["04-images.json"], |path| path.starts_with("/images/") && path.ends_with("x/json"));
    let gone = ["Container", "ContainerConfig", "VirtualSize"];
    let inspected = rig.get("/images/registry.test:5000/a/busybox:1/json").await.json();
    let differences = Shape::of(&shapes).differences(&inspected, &[], &gone);
    let unknown = differences.iter().filter(|line| !line.starts_with(".GraphDriver.Data"));
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());

    assert_eq!(rig.call("POST", "/images/a/b:1/tag?repo=x/y&tag=2", "").await.status, StatusCode::CREATED);
    let removed = rig.call("DELETE", "/images/a/b:1?force=1", "").await;
    assert_eq!(removed.json(), json!([{"Untagged": "a/b:1"}]));
    let request = http::Request::post("/images/load?quiet=1").header("content-type", "application/x-tar");
    let loaded = rig.send(request.body("tar".into()).unwrap()).await;
    assert_eq!(loaded.json(), json!({"stream": "Loaded image: x:latest true\n"}));
    assert_eq!(*rig.engine.uploaded.lock().unwrap(), b"tar");
    let changes = encoded(r#"CMD ["sh"]"#);
    let request =
        http::Request::post(format!("/images/create?fromSrc=-&repo=r&tag=1&changes={changes}&changes=USER%20a"));
    let imported = rig.send(request.body("tar".into()).unwrap()).await;
    assert_eq!(imported.json(), json!({"status": "sha256:00"}));
    let calls = rig.engine.calls.lock().unwrap().clone();
    assert_eq!(calls[..2], ["tag a/b:1 x/y 2", "rmi a/b:1 true"]);
    assert!(calls[2].contains("CMD") && calls[2].contains("USER a"), "{}", calls[2]);
    let missing = rig.get("/images/nosuch/json").await;
    assert_eq!((missing.status.as_u16(), missing.message().as_str()), (404, "No such image: nosuch:latest"));
}

#[tokio::test]
async fn images_come_from_registries_and_go_there() {
    let rig = rig(FakeCluster::outside());
    let ask = |method: &str, path: &str| {
        http::Request::builder().method(method).uri(path).header("x-registry-auth", "e30=").body("".into()).unwrap()
    };
    let pulled = rig.send(ask("POST", "/images/create?fromImage=r.test:5000/x&tag=1&platform=linux/amd64")).await;
    assert_eq!((pulled.status, pulled.header("content-type")), (StatusCode::OK, "application/json"));
    let line = pulled.json()["status"].as_str().unwrap().to_owned();
    for part in ["r.test:5000/x", "linux/amd64", "e30="] {
        assert!(line.contains(part), "{line}");
    }
    let missing = rig.send(ask("POST", "/images/create?fromImage=nosuch")).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert!(missing.message().starts_with("manifest for nosuch:latest not found"));
    let cut = rig.send(ask("POST", "/images/create?fromImage=cut")).await;
    let lines: Vec<serde_json::Value> = std::str::from_utf8(&cut.body)
        .unwrap()
        .split("\r\n")
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(cut.status, StatusCode::OK);
    assert_eq!(lines[1], json!({"errorDetail": {"message": "unexpected EOF"}, "error": "unexpected EOF"}));

    let pushed = rig.send(ask("POST", "/images/r.test:5000/x/push?tag=1")).await;
    assert_eq!(pushed.json()["status"], "push r.test:5000/x 1 e30=");
    let known = rig.send(ask("GET", "/distribution/r.test:5000/x:1/json")).await;
    assert_eq!(
        known.json(),
        json!({"Descriptor": {"mediaType": "r.test:5000/x:1", "digest": "e30=", "size": 5},
               "Platforms": [{"architecture": "amd64", "os": "linux"}]})
    );
    assert_eq!(rig.get("/distribution/secret/json").await.status, StatusCode::UNAUTHORIZED);
    let login = rig.call("POST", "/auth", r#"{"username":"alice"}"#).await;
    assert_eq!(login.json(), json!({"IdentityToken": "alice", "Status": "Login Succeeded"}));

    let saved = rig.get("/images/get?names=a&names=b%3A1").await;
    assert_eq!((saved.header("content-type"), &saved.body[..]), ("application/x-tar", &b"ab:1"[..]));
    assert_eq!(&rig.get("/images/r.test:5000/x:1/get").await.body[..], b"r.test:5000/x:1");
    assert_eq!(rig.get("/images/nosuch/get").await.status, StatusCode::NOT_FOUND);
    let filters = encoded(r#"{"dangling":["false"],"label":["a=b"],"label!":["c"]}"#);
    let pruned = rig.call("POST", &format!("/images/prune?filters={filters}"), "").await;
    assert_eq!(pruned.json(), json!({"ImagesDeleted": [{"Untagged": "x:1"}], "SpaceReclaimed": 3}));
    let calls = rig.engine.calls.lock().unwrap().clone();
    assert_eq!(calls, [r#"prune ImagePrune { all: true, until: None, labels: ["a=b"], not_labels: ["c"] }"#]);
    let refused = rig.call("POST", "/images/prune?filters=%7B%22bogus%22%3A%5B%22x%22%5D%7D", "").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn other_kinds_of_objects_are_empty_or_what_the_machine_has() {
    let rig = rig(FakeCluster::manager(world()));
    for path in ["/secrets", "/configs", "/plugins"] {
        assert_eq!(rig.get(path).await.json(), json!([]), "{path}");
    }
    assert_eq!(rig.get("/networks").await.json()[0]["Name"], "back");
    for (path, text) in
        [("/networks/nosuch", "network nosuch not found"), ("/plugins/nosuch/json", "plugin \"nosuch\" not found")]
    {
        let answer = rig.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.message().as_str()), (404, text));
    }
    assert_eq!(rig.call("DELETE", "/networks/bridge", "").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn volumes_are_listed_made_removed_and_pruned() {
    let rig = rig(FakeCluster::manager(world()));
    let shown = json!({"CreatedAt": "0001-01-01T00:00:00Z", "Driver": "local", "Labels": null,
        "Mountpoint": "/volumes/data/_data", "Name": "data", "Options": null, "Scope": "local"});
    assert_eq!(rig.get("/volumes").await.json(), json!({"Volumes": [shown], "Warnings": null}));
    let none = rig.get("/volumes?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D").await.json();
    assert_eq!(none, json!({"Volumes": [], "Warnings": null}));
    assert_eq!(rig.get("/volumes?filters=%7B%22bogus%22%3A%5B%221%22%5D%7D").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(rig.get("/volumes/data").await.json(), shown);
    let missing = rig.get("/volumes/no/such").await;
    assert_eq!((missing.status.as_u16(), missing.message().as_str()), (404, "get no/such: no such volume"));
    let body = r#"{"Name":"data","Driver":"local","DriverOpts":{"type":"tmpfs"},"Labels":{"a":"b"}}"#;
    assert_eq!(rig.call("POST", "/volumes/create", body).await.status, StatusCode::CREATED);
    assert_eq!(rig.call("DELETE", "/volumes/data?force=1", "").await.status, StatusCode::NO_CONTENT);
    let calls = rig.engine.calls.lock().unwrap().clone();
    assert!(calls[0].starts_with("create volume data") && calls[1] == "remove volume data true", "{calls:?}");
    let all = "filters=%7B%22all%22%3A%5B%22true%22%5D%7D";
    for (path, deleted) in [
        ("/v1.42/volumes/prune".to_owned(), json!(["0123"])),
        (format!("/v1.42/volumes/prune?{all}"), json!(["data", "0123"])),
        ("/v1.41/volumes/prune".to_owned(), json!(["data", "0123"])),
    ] {
        assert_eq!(rig.call("POST", &path, "").await.json()["VolumesDeleted"], deleted, "{path}");
    }
    assert_eq!(rig.call("POST", &format!("/v1.41/volumes/prune?{all}"), "").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn many_clients_are_served_at_a_time() {
    let served = Arc::new(Served::new(rig(FakeCluster::outside())));
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let served = served.clone();
            tokio::spawn(async move {
                let mut stream = served.connect("GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert!(answer.contains("\"ApiVersion\":\"1.50\""), "{answer}");
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}
