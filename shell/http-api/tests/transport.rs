//! Versions, headers, errors of the transport, bodies.
#![allow(clippy::unwrap_used, reason = "tests may unwrap, in their helpers, too")]

mod common;

use axum::body::Body;
use common::{FakeCluster, rig, world};
use http::{Request, StatusCode};
use skep_http_api::{LocalState, SwarmStatus};

#[tokio::test]
async fn every_answer_carries_the_common_headers() {
    let rig = rig(FakeCluster::outside());
    for path in ["/_ping", "/v1.41/version", "/nosuch", "/v1.99/info"] {
        let answer = rig.get(path).await;
        assert_eq!(answer.header("api-version"), "1.50", "{path}");
        assert_eq!(answer.header("ostype"), "linux");
        assert_eq!(answer.header("docker-experimental"), "false");
        assert_eq!(answer.header("server"), "Docker/28.0.0-skep (linux)");
    }
}

#[tokio::test]
async fn versions_are_negotiated() {
    let rig = rig(FakeCluster::outside());
    for path in ["/version", "/v1.24/version", "/v1.50/version"] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json()["ApiVersion"], "1.50");
        assert_eq!(answer.json()["MinAPIVersion"], "1.24");
    }
    let newer = rig.get("/v1.99/version").await;
    assert_eq!(newer.status, StatusCode::BAD_REQUEST);
    assert_eq!(newer.message(), "client version 1.99 is too new. Maximum supported API version is 1.50");
    let older = rig.get("/v1.5/version").await;
    assert_eq!(older.status, StatusCode::BAD_REQUEST);
    assert!(older.header("content-type").starts_with("text/plain"));
    assert!(older.body.starts_with(b"client version 1.5 is too old. Minimum supported API version is 1.24"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_pages_not_found() {
    let rig = rig(FakeCluster::outside());
    for (method, path) in [
        ("GET", "/nosuch"),
        ("GET", "/v1.50/nosuch"),
        ("PUT", "/version"),
        ("DELETE", "/v1.41/info"),
        ("HEAD", "/info"),
        ("GET", "/images/a/b/nosuch"),
        ("POST", "/services"),
        ("GET", "/services/"),
        ("GET", "/"),
        ("GET", "/v1.50"),
    ] {
        let answer = rig.call(method, path, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
        if method != "HEAD" {
            assert_eq!(answer.message(), "page not found", "{method} {path}");
        }
    }
    assert_eq!(rig.call("OPTIONS", "/anything", "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn ping_tells_the_state_of_the_swarm() {
    let outside = rig(FakeCluster::outside());
    for method in ["GET", "HEAD"] {
        let answer = outside.call(method, "/_ping", "").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("swarm"), "inactive");
        assert_eq!(answer.header("builder-version"), "1");
        assert_eq!(answer.header("cache-control"), "no-cache, no-store, must-revalidate");
        assert_eq!(&answer.body[..], if method == "GET" { &b"OK"[..] } else { b"" });
    }
    assert_eq!(rig(FakeCluster::manager(world())).get("/_ping").await.header("swarm"), "active/manager");
    let locked = SwarmStatus { state: LocalState::Locked, ..SwarmStatus::default() };
    let locked = rig(FakeCluster { status: locked, ..FakeCluster::outside() });
    assert_eq!(locked.get("/_ping").await.header("swarm"), "locked");
}

#[tokio::test]
async fn bodies_must_be_json_and_say_so() {
    let rig = rig(FakeCluster::manager(world()));
    let create = |kind: Option<&str>, body: &'static str| {
        let mut request = Request::post("/services/create");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        request.body(Body::from(body)).unwrap()
    };
    for (kind, body, text) in [
        (Some("application/json"), "{", "invalid JSON: "),
        (Some("application/json"), "{} {}", "unexpected content after JSON"),
        (Some("text/plain"), "{}", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        (None, "{}", "unsupported Content-Type header (): must be 'application/json'"),
        (None, "", "mismatched Runtime and *Spec fields"),
        (Some("application/json; charset=utf-8"), "{}", "mismatched Runtime and *Spec fields"),
    ] {
        let answer = rig.send(create(kind, body)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.message().starts_with(text), "{}", answer.message());
    }
    assert!(rig.calls().is_empty());
}

#[tokio::test]
async fn a_body_has_a_largest_size() {
    let rig = rig(FakeCluster::manager(world()));
    let large = format!(r#"{{"Name":"{}"}}"#, "x".repeat(5 << 20));
    assert_eq!(rig.call("POST", "/services/create", &large).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn what_is_not_there_yet_is_named() {
    let rig = rig(FakeCluster::manager(world()));
    for (method, path, text) in [
        ("POST", "/commit", "making an image of a container"),
        ("GET", "/images/search?term=x", "searching a registry"),
        ("POST", "/images/a/b/push?platform=x", "for one platform only"),
    ] {
        let answer = rig.call(method, path, "").await;
        assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{path}");
        assert!(answer.message().contains(text), "{}", answer.message());
    }
}
