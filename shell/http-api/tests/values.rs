//! Secrets and configs over HTTP: what is shown of them, what is asked of the cluster, and Docker's answers.
#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod common;

use common::{Call, FakeCluster, rig, world};
use http::StatusCode;
use skep_testkit::{a_config, a_secret, config_id, secret_id};

fn cluster() -> FakeCluster {
    FakeCluster::manager(world().with(a_secret("tls")).with(a_secret("tls-old")).with(a_config("page")))
}

fn told(rig: &common::Rig) -> Vec<String> {
    let calls = rig.cluster.calls.lock().unwrap();
    calls.iter().filter_map(|call| if let Call::Value(text) = call { Some(text.clone()) } else { None }).collect()
}

#[tokio::test]
async fn secrets_are_shown_without_their_data() {
    let rig = rig(cluster());
    let one = rig.get("/secrets/TLS").await.json();
    assert_eq!(one["Spec"], serde_json::json!({"Name": "tls", "Labels": {}}));
    assert_eq!(one["ID"], secret_id("tls").to_string());
    assert_eq!(
        rig.get(&format!("/secrets/{}", &secret_id("tls-old").to_string()[..7])).await.json()["Spec"]["Name"],
        "tls-old"
    );
    let page = rig.get("/configs/page").await.json();
    assert_eq!(page["Spec"], serde_json::json!({"Name": "page", "Labels": {}, "Data": "cGFnZQ=="}));
    let count = async |path: &str| rig.get(path).await.json().as_array().unwrap().len();
    assert_eq!(count("/secrets").await, 2);
    assert_eq!(count("/secrets?filters=%7B%22name%22%3A%5B%22tls%22%5D%7D").await, 2, "names are prefixes");
    assert_eq!(count("/secrets?filters=%7B%22names%22%3A%5B%22tls%22%5D%7D").await, 1);
    assert_eq!(count("/configs?filters=%7B%22label%22%3A%5B%22a%22%5D%7D").await, 0);
    for (path, text) in [("/secrets/nosuch", "secret nosuch not found"), ("/configs/nosuch", "config nosuch not found")]
    {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, answer.message().as_str()), (StatusCode::NOT_FOUND, text));
    }
}

#[tokio::test]
async fn requests_reach_the_cluster_and_answers_are_dockers() {
    let rig = rig(cluster());
    let body = r#"{"Name":"s","Data":"dHdv","Templating":{"Name":"golang"}}"#;
    for path in ["/secrets/create", "/v1.36/secrets/create"] {
        let answer = rig.call("POST", path, body).await;
        assert_eq!(
            (answer.status, answer.json()["ID"].clone()),
            (StatusCode::CREATED, secret_id("new").to_string().into())
        );
    }
    assert_eq!(rig.call("POST", "/configs/create", r#"{"Name":"c","Data":"eA=="}"#).await.status, StatusCode::CREATED);
    let update =
        rig.call("POST", "/secrets/tls/update?version=7", r#"{"Name":"tls","Labels":{"a":"b"},"Data":""}"#).await;
    assert_eq!((update.status, update.body.len()), (StatusCode::OK, 0));
    let update = rig.call("POST", "/configs/page/update?version=x", "{}").await;
    assert_eq!((update.status.as_u16(), update.message().as_str()), (400, "invalid config version"));
    assert_eq!(rig.call("DELETE", "/secrets/tls", "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(rig.call("DELETE", "/configs/page", "").await.status, StatusCode::NO_CONTENT);
    let bad = rig.call("POST", "/secrets/create", r#"{"Name":"s","Data":"%%"}"#).await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        told(&rig),
        [
            "create secret s \"two\" Some(\"golang\")".to_owned(),
            "create secret s \"two\" None".to_owned(),
            "create config c 1 bytes".to_owned(),
            format!("update secret {} 7 Edit(\"tls\", {{\"a\": \"b\"}}, data of None bytes)", secret_id("tls")),
            format!("remove secret {}", secret_id("tls")),
            format!("remove config {}", config_id("page")),
        ]
    );
}
