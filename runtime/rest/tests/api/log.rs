//! `/aqueduct/v1/topics`

use super::Api;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn topic(api: &Api, name: &str, partitions: u32) -> Value {
    api.call("POST", "/aqueduct/v1/topics", Some(json!({"name": name, "partitions": partitions}))).await.expect(201).json()
}

async fn write(api: &Api, topic: &str, records: Value) -> Value {
    let path = format!("/aqueduct/v1/topics/{topic}/records");
    api.call("POST", &path, Some(json!({"records": records}))).await.expect(200).json()
}

fn values(page: &Value) -> Vec<&str> {
    page["records"].as_array().unwrap().iter().map(|record| record["value"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn topics_live() {
    let api = Api::start().await;
    assert_eq!(topic(&api, "t", 3).await["partitions"].as_array().unwrap().len(), 3);
    let again = json!({"name": "t"});
    api.call("POST", "/aqueduct/v1/topics", Some(again)).await.error(409);
    api.call("POST", "/aqueduct/v1/topics", Some(json!({"name": "no/slash"}))).await.error(400);
    assert_eq!(api.get("/aqueduct/v1/topics").await[0]["name"], "t");
    api.call("DELETE", "/aqueduct/v1/topics/t", None).await.expect(204);
    for path in ["/aqueduct/v1/topics/t", "/aqueduct/v1/topics/t/records"] {
        api.call("GET", path, None).await.error(404);
    }
    api.call("DELETE", "/aqueduct/v1/topics/t", None).await.error(404);
}

#[tokio::test]
async fn records_are_written_and_read_page_by_page() {
    let api = Api::start().await;
    topic(&api, "t", 1).await;
    let written = write(&api, "t", json!([{"key": "k", "value": "a"}, {"value": "b"}, {"value": "c"}])).await;
    assert_eq!(written, json!({"offsets": [{"partition": 0, "first": 0, "next": 3}]}));
    let page = api.get("/aqueduct/v1/topics/t/records?max=2").await;
    assert_eq!((values(&page), &page["at_end"], &page["cursor"]), (vec!["a", "b"], &json!(false), &json!("0:2")));
    let page = api.get("/aqueduct/v1/topics/t/records?cursor=0:2").await;
    assert_eq!((values(&page), &page["at_end"]), (vec!["c"], &json!(true)));
    assert_eq!(values(&api.get("/aqueduct/v1/topics/t/records?from=1&max=1").await), ["b"]);
    assert_eq!(values(&api.get("/aqueduct/v1/topics/t/records?from=timestamp:0").await).len(), 3);
    assert!(values(&api.get("/aqueduct/v1/topics/t/records?from=end").await).is_empty());
    api.call("GET", "/aqueduct/v1/topics/t/records?partition=5", None).await.error(404);
    api.call("GET", "/aqueduct/v1/topics/t/records?cursor=&partition=-5", None).await.error(404);
    api.call("GET", "/aqueduct/v1/topics/t/records?from=yesterday", None).await.error(400);
}

#[tokio::test]
async fn a_reader_at_the_end_is_woken() {
    let api = Api::start().await;
    topic(&api, "t", 2).await;
    let begin = Instant::now();
    let (page, _) =
        tokio::join!(api.get("/aqueduct/v1/topics/t/records?from=end&wait_ms=20000"), write(&api, "t", json!([{"value": "x"}])));
    assert_eq!(values(&page), ["x"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
}
