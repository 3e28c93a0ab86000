//! What can be watched, over the router: events, usage, files.

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
