//! `/`, `/connector-plugins`, `/metrics`, `/aqueduct/v1/summary`.

use super::{Api, count};
use serde_json::{Value, json};

#[tokio::test]
async fn the_worker_says_what_it_is() {
    let api = Api::start().await;
    let root = api.get("/").await;
    assert_eq!((&root["version"], &root["kafka_cluster_id"]), (&json!("4.1.0"), &json!("a-cluster")));
    assert!(root["commit"].is_string());
    assert_eq!(api.get("/health").await["status"], "healthy");
}

#[tokio::test]
async fn plugins_are_listed_and_described() {
    let api = Api::start().await;
    let plugins = api.get("/connector-plugins/").await;
    let short: Vec<(&Value, &Value)> =
        plugins.as_array().unwrap().iter().map(|plugin| (&plugin["class"], &plugin["type"])).collect();
    assert_eq!(short, [(&json!("count-source"), &json!("source")), (&json!("hole-sink"), &json!("sink"))]);
    for name in ["count-source", "org.example.CountSourceConnector", "CountSource", "CountSourceConnector"] {
        let keys = api.get(&format!("/connector-plugins/{name}/config")).await;
        let names: Vec<&str> = keys.as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"count") && names.contains(&"tasks.max"), "{name}: {names:?}");
    }
    api.call("GET", "/connector-plugins/nope/config", None).await.error(404);
}

#[tokio::test]
async fn a_config_is_validated_without_being_created() {
    let api = Api::start().await;
    let path = "/connector-plugins/CountSource/config/validate";
    let answer =
        api.call("PUT", path, Some(json!({"name": "x", "connector.class": "count-source", "topic": "t", "count": 1}))).await;
    assert_eq!(answer.expect(200).json()["error_count"], 0);
    let wrong = json!({"name": "x", "connector.class": "count-source", "topic": "t", "count": "x", "password": "hunter2"});
    let answer = api.call("PUT", path, Some(wrong)).await.expect(200);
    assert!(!answer.text.contains("hunter2"));
    let answer = answer.json();
    assert_eq!(answer["error_count"], 1, "{answer}");
    let count = answer["configs"].as_array().unwrap().iter().find(|config| config["value"]["name"] == "count").unwrap();
    assert_eq!(count["value"]["errors"].as_array().unwrap().len(), 1);
    assert_eq!((&count["definition"]["type"], &count["definition"]["required"]), (&json!("LONG"), &json!(true)));
    api.call("PUT", path, Some(json!({"connector.class": "hole-sink"}))).await.error(400);
    api.call("PUT", "/connector-plugins/nope/config/validate", Some(json!({}))).await.error(404);
    // AKHQ asks so for each plugin when its create page opens.
    let akhq = json!({"connector.class": "hole-sink", "topics": "getPlugins"});
    api.call("PUT", "/connector-plugins/hole-sink/config/validate", Some(akhq)).await.expect(200);
    assert_eq!(api.get("/connectors").await, json!([]));
}

#[tokio::test]
async fn figures_agree_in_status_metrics_and_summary() {
    let api = Api::start().await;
    api.create("c", count("t", 7)).await.expect(201);
    api.until("/connectors/c/status", |status| status["tasks"][0]["aqueduct"]["records_out"] == 7).await;
    let metrics = api.call("GET", "/metrics", None).await.expect(200);
    assert!(metrics.headers["content-type"].to_str().unwrap().contains("version="));
    assert!(
        metrics.text.lines().any(|line| line.contains("connector=\"c\"") && line.contains("write") && line.ends_with(" 7")),
        "{}",
        metrics.text
    );
    let summary = api.get("/aqueduct/v1/summary").await;
    assert_eq!((&summary["worker"]["health"], &summary["log"]["kind"]), (&json!("healthy"), &json!("memory")));
    assert_eq!(summary["connectors"][0]["status"]["tasks"][0]["aqueduct"]["records_out"], 7);
    assert_eq!((&summary["connectors"][0]["class"], &summary["folder"]), (&json!("count-source"), &json!([])));
    assert_eq!(api.get("/aqueduct/v1/folder").await, json!({"issues": []}));
}
