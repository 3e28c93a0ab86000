//! What can be watched, over the router: events, usage, files.
#![allow(clippy::unwrap_used, reason = "tests may unwrap, in their helpers, too")]

mod common;

use axum::body::Body;
use common::{FakeCluster, encoded, rig};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

/// The JSON objects of a body, one a line.
fn lines(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_past_is_told_and_ends_at_once() {
    let rig = rig(FakeCluster::outside());
    let answer = rig.get("/v1.41/events?since=0&until=15").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/json");
    let told = lines(&answer.body);
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["status"], &told[0]["timeNano"]), (&"create".into(), &10_000_000_000_i64.into()));
    let filters = encoded(r#"{"event":["start"],"bogus":["1"]}"#);
    let told = lines(&rig.get(&format!("/events?since=1&until=25.5&filters={filters}")).await.body);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["Action"], "start");
}

#[tokio::test]
async fn the_future_is_told_line_by_line() {
    let rig = rig(FakeCluster::outside());
    let request = Request::get("/events").body(Body::empty()).unwrap();
    let response = skep_http_api::router(rig.api.clone()).oneshot(request).await.unwrap();
    let frame = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(lines(&frame)[0]["Action"], "die");
}

#[tokio::test]
async fn times_are_refused_in_the_engine_s_words() {
    let rig = rig(FakeCluster::outside());
    let answer = rig.get("/events?since=5&until=2").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.message(), "`since` time (5) cannot be after `until` time (2)");
    let answer = rig.get("/events?since=abc").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.message(), r#"strconv.ParseInt: parsing "abc": invalid syntax"#);
    assert_eq!(rig.get("/events?filters=x").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn usage_is_told_with_the_moment_before() {
    let rig = rig(FakeCluster::outside());
    let once = rig.get("/containers/web/stats?stream=0&one-shot=1").await.json();
    assert_eq!(once["preread"], "0001-01-01T00:00:00Z");
    let both = rig.get("/containers/web/stats?stream=false").await.json();
    assert_eq!((&both["read"], &both["preread"]), (&"1970-01-01T00:00:03Z".into(), &"1970-01-01T00:00:02Z".into()));
    let used = |stats: &Value, which: &str| stats[which]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert_eq!(used(&both, "cpu_stats") - used(&both, "precpu_stats"), 1_000_000_000);
    assert_eq!(rig.get("/containers/web/stats?stream=1&one-shot=1").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn files_are_copied_with_what_they_are() {
    let rig = rig(FakeCluster::outside());
    let head = rig.call("HEAD", "/v1.41/containers/web/archive?path=/f.txt", "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    let stat = head.header("x-docker-container-path-stat").to_owned();
    let whole = rig.get("/containers/web/archive?path=/f.txt").await;
    assert_eq!((whole.header("x-docker-container-path-stat"), &whole.body[..]), (stat.as_str(), &b"tar"[..]));
    assert_eq!(whole.header("content-type"), "application/x-tar");
    let missing = rig.get("/containers/web/archive?path=/nosuch").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(missing.message(), "Could not find the file /nosuch in container web");
    assert_eq!(rig.get("/containers/web/archive").await.status, StatusCode::BAD_REQUEST);
    let put = rig.call("PUT", "/containers/web/archive?path=/data&noOverwriteDirNonDir=true", "tar").await;
    assert_eq!(put.status, StatusCode::OK);
    assert_eq!(rig.engine.calls.lock().unwrap().last().unwrap(), "extract web /data true false 3");
}

#[tokio::test]
async fn disk_usage_counts_a_shared_layer_once() {
    let rig = rig(FakeCluster::outside());
    let all = rig.get("/v1.41/system/df").await.json();
    assert_eq!((&all["LayersSize"], &all["BuildCache"], &all["BuilderSize"]), (&110.into(), &Value::Null, &0.into()));
    assert_eq!(all["Images"][0]["SharedSize"], 100);
    let some = rig.get("/system/df?type=container").await.json();
    assert!(some["Images"].is_null() && some["Containers"].is_array());
    let wrong = rig.get("/system/df?type=bogus").await;
    assert_eq!((wrong.status, wrong.message().as_str()), (StatusCode::BAD_REQUEST, "unknown object type: bogus"));
}
