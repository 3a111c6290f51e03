//! `/connectors`: shapes, codes and texts as compat.md has them.

use super::{Api, count, hole};
use serde_json::{Value, json};

#[tokio::test]
async fn a_connectors_life() {
    let api = Api::start().await;
    let created = api.create("c", count("t", 3)).await.expect(201);
    assert_eq!(created.headers["location"], "/connectors/c");
    let config = json!({"connector.class": "count-source", "topic": "t", "count": "3", "name": "c"});
    let info = json!({"name": "c", "config": config, "tasks": [{"connector": "c", "task": 0}], "type": "source"});
    assert_eq!(created.json(), info, "what was put and the name, nothing injected; the tasks at once");
    assert_eq!(api.get("/connectors/c").await, info);
    assert_eq!(api.get("/connectors/c/config").await, config);
    assert_eq!(api.get("/connectors").await, json!(["c"]));
    assert!(api.create("c", count("t", 3)).await.error(409).contains("already exists"));

    let status = api.until_running("c").await;
    assert_eq!(
        (&status["name"], &status["type"], &status["connector"]["worker_id"]),
        (&json!("c"), &json!("source"), &json!("127.0.0.1:8083"))
    );
    assert!(status["connector"].as_object().unwrap().values().all(Value::is_string), "Go reads map[string]string: {status}");
    let task = api.get("/connectors/c/tasks/0/status").await;
    assert_eq!((&task["id"], &task["state"]), (&json!(0), &json!("RUNNING")));
    let tasks = api.get("/connectors/c/tasks").await;
    assert_eq!(tasks[0]["id"], json!({"connector": "c", "task": 0}));
    assert_eq!(tasks[0]["config"]["topic"], "t");

    api.put("/connectors/c/pause").await.expect(202);
    api.until_state("c", "PAUSED").await;
    api.put("/connectors/c/resume").await.expect(202);
    api.until_running("c").await;
    api.put("/connectors/c/stop").await.expect(204);
    api.until_state("c", "STOPPED").await;
    api.until("/connectors/c/status", |status| status["tasks"] == json!([])).await;
    api.call("POST", "/connectors/c/tasks/0/restart", None).await.error(409);
    api.put("/connectors/c/resume").await.expect(202);
    api.until_running("c").await;

    api.call("POST", "/connectors/c/restart", None).await.expect(204);
    let restarted = api.call("POST", "/connectors/c/restart?includeTasks=true", None).await.expect(202).json();
    assert_eq!(restarted["connector"]["state"], "RESTARTING");
    api.until_running("c").await;
    api.call("POST", "/connectors/c/tasks/0/restart", None).await.expect(204);
    api.call("POST", "/connectors/c/tasks/9/restart", None).await.error(404);
    api.call("GET", "/connectors/c/tasks/9/status", None).await.error(404);

    api.call("DELETE", "/connectors/c", None).await.expect(204);
    for path in ["/connectors/c", "/connectors/c/status", "/connectors/c/config", "/connectors/c/tasks", "/connectors/c/offsets"]
    {
        assert!(api.call("GET", path, None).await.error(404).contains('c'), "{path}");
    }
    api.call("DELETE", "/connectors/c", None).await.error(404);
}

#[tokio::test]
async fn configs_are_put_and_patched() {
    let api = Api::start().await;
    assert_eq!(
        api.call("PUT", "/connectors/c/config", Some(count("t", 1))).await.expect(201).headers["location"],
        "/connectors/c"
    );
    api.call("PUT", "/connectors/c/config", Some(count("t", 2))).await.expect(200);
    let patched = api.call("PATCH", "/connectors/c/config", Some(json!({"count": 5, "tasks.max": "1"}))).await.expect(200).json();
    assert_eq!((&patched["config"]["count"], &patched["config"]["tasks.max"]), (&json!("5"), &json!("1")));
    let patched = api.call("PATCH", "/connectors/c/config", Some(json!({"tasks.max": null}))).await.expect(200).json();
    assert_eq!(patched["config"].get("tasks.max"), None);
    api.call("PATCH", "/connectors/c/config", Some(json!({"name": "d"}))).await.error(400);
    api.call("PATCH", "/connectors/nope/config", Some(json!({"a": "b"}))).await.error(404);
    api.until("/connectors/c/offsets", |offsets| offsets["offsets"][0]["offset"]["next"] == 6).await;
    assert_eq!(api.call("PUT", "/connectors/c/config", Some(hole("t"))).await.expect(200).json()["type"], "sink");
}

#[tokio::test]
async fn a_wrong_config_is_refused_with_every_issue_and_changes_nothing() {
    let api = Api::start().await;
    api.create("c", count("t", 1)).await.expect(201);
    let wrong = json!({"connector.class": "count-source", "count": "many", "tasks.max": "0"});
    let text = api.call("PUT", "/connectors/c/config", Some(wrong)).await.error(400);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("Connector configuration is invalid and contains the following 3 error(s):"), "{text}");
    assert!(["topic", "count", "tasks.max"].iter().all(|key| text.contains(key)), "{text}");
    assert_eq!(
        lines.next_back(),
        Some("You can also find the above list of errors at the endpoint `/connector-plugins/{connectorType}/config/validate`")
    );
    assert_eq!(api.get("/connectors/c/config").await["topic"], "t");
    let unknown = json!({"connector.class": "cuont-source"});
    let text = api.create("d", unknown).await.error(400);
    assert!(text.starts_with("Failed to find any class that implements Connector") && text.contains("count-source"), "{text}");
    api.create("d", json!({"topic": "t"})).await.error(400);
    api.call("GET", "/connectors/d", None).await.error(404);
}

#[tokio::test]
async fn a_failed_task_says_why() {
    let api = Api::start().await;
    let mut config = count("t", 1);
    config["fail"] = json!("it is broken (really)");
    api.create("c", config).await.expect(201);
    let status = api.until("/connectors/c/status", |status| status["tasks"][0]["state"] == "FAILED").await;
    let trace = status["tasks"][0]["trace"].as_str().unwrap();
    assert_eq!(trace.lines().next(), Some("count.fail: it is broken (really)."), "{trace}");
}

#[tokio::test]
async fn lists_expand_and_names_are_decoded() {
    let api = Api::start().await;
    let created = api.create(" a/b -> ", count("t", 1)).await.expect(201);
    assert_eq!(created.headers["location"], "/connectors/a%2Fb%20-%3E");
    for path in ["/connectors/a%2Fb%20%2D%3E", "/connectors/a%2Fb%20-%3E/", "/connectors/a%2Fb%20%2D%3E/status"] {
        assert_eq!(api.get(path).await["name"], "a/b ->", "{path}");
    }
    let all = api.get("/connectors?expand=info&expand=status&expand=colour").await;
    assert_eq!(all["a/b ->"]["info"]["type"], "source");
    assert_eq!(all["a/b ->"]["status"]["name"], "a/b ->");
    assert_eq!(api.get("/connectors?expand=colour").await, json!({"a/b ->": {}}));
}

#[tokio::test]
async fn initial_states_are_kept() {
    let api = Api::start().await;
    for state in ["STOPPED", "PAUSED"] {
        let body = json!({"name": state, "config": count("t", 1), "initial_state": state});
        api.call("POST", "/connectors", Some(body)).await.expect(201);
        let status = api.until_state(state, state).await;
        assert_eq!(status["tasks"], json!([]), "no tasks until it is resumed");
        assert_eq!(api.get(&format!("/connectors/{state}/offsets")).await, json!({"offsets": []}));
    }
    api.put("/connectors/PAUSED/resume").await.expect(202);
    api.until_running("PAUSED").await;
}

#[tokio::test]
async fn offsets_are_shown_altered_and_reset() {
    let api = Api::start().await;
    api.create("c", count("t", 3)).await.expect(201);
    api.create("s", hole("t")).await.expect(201);
    let at = |offset: u64| json!({"offsets": [{"partition": {"kafka_partition": 0, "kafka_topic": "t"}, "offset": {"kafka_offset": offset}}]});
    api.until("/connectors/s/offsets", |offsets| *offsets == at(3)).await;
    let source = api.until("/connectors/c/offsets", |offsets| offsets["offsets"][0]["offset"]["next"] == 4).await;
    assert_eq!(source["offsets"][0]["partition"], json!({"of": "count"}));

    assert!(api.call("PATCH", "/connectors/s/offsets", Some(at(1))).await.error(400).contains("STOPPED"));
    api.call("DELETE", "/connectors/c/offsets", None).await.error(400);
    for name in ["s", "c"] {
        api.put(&format!("/connectors/{name}/stop")).await.expect(204);
        api.until_state(name, "STOPPED").await;
    }
    api.call("PATCH", "/connectors/s/offsets", Some(json!({"offsets": []}))).await.error(400);
    let wrong = json!({"offsets": [{"partition": {"a": "b"}, "offset": {"c": 1}}]});
    api.call("PATCH", "/connectors/s/offsets", Some(wrong)).await.error(400);
    let message = api.call("PATCH", "/connectors/s/offsets", Some(at(1))).await.expect(200).json();
    assert!(message["message"].as_str().unwrap().contains("altered successfully"));
    assert_eq!(api.get("/connectors/s/offsets").await, at(1));
    let forget = json!({"offsets": [{"partition": {"kafka_partition": 0, "kafka_topic": "t"}, "offset": null}]});
    api.call("PATCH", "/connectors/s/offsets", Some(forget)).await.expect(200);
    assert_eq!(api.get("/connectors/s/offsets").await, json!({"offsets": []}));
    api.call("DELETE", "/connectors/c/offsets", None).await.expect(200);
    assert_eq!(api.get("/connectors/c/offsets").await, json!({"offsets": []}));
    api.put("/connectors/c/resume").await.expect(202);
    api.until("/aqueduct/v1/topics/t", |topic| topic["partitions"][0]["end"] == 6).await;
}

#[tokio::test]
async fn topics_are_tracked() {
    let api = Api::start().await;
    assert_eq!(api.get("/connectors/nope/topics").await, json!({"nope": {"topics": []}}));
    api.put("/connectors/nope/topics/reset").await.expect(202);
    api.create("c", count("t", 1)).await.expect(201);
    api.until("/connectors/c/topics", |topics| *topics == json!({"c": {"topics": ["t"]}})).await;
    api.put("/connectors/c/topics/reset").await.expect(202);
    assert_eq!(api.get("/connectors/c/topics").await, json!({"c": {"topics": []}}));
}

#[tokio::test]
async fn signals_are_taken_between_polls_and_reports_are_shown() {
    let api = Api::start().await;
    let mut config = count("t", 2);
    config["password"] = json!("hunter2-hunter2");
    api.create("c", config).await.expect(201);
    api.until("/connectors/c/status", |status| status["tasks"][0]["aqueduct"]["report"]["detail"]["next"] == 3).await;
    let send =
        async |name: &str, body: Value| api.call("POST", &format!("/aqueduct/v1/connectors/{name}/signals"), Some(body)).await;
    let taken = send("c", json!({"id": "s1", "type": "count-to", "data": {"count": 5}})).await.expect(202).json();
    assert_eq!(taken, json!({"id": "s1", "type": "count-to"}));
    let done = api.until("/connectors/c/status", |status| status["tasks"][0]["aqueduct"]["report"]["summary"] == "5 of 5").await;
    assert!(!done.to_string().contains("hunter2"), "{done}");
    let metrics = api.call("GET", "/metrics", None).await.expect(200).text;
    assert!(metrics.contains("aqueduct_source_left{connector=\"c\",task=\"0\",of=\"count\"} 0"), "{metrics}");

    assert!(send("c", json!({"type": "count-to"})).await.error(400).contains("count.signal: `count` is missing"));
    assert!(send("c", json!({"type": "sing"})).await.error(400).contains("unknown type"));
    send("c", json!({"kind": "sing"})).await.error(400);
    send("nope", json!({"type": "log"})).await.error(404);
    api.create("s", hole("t")).await.expect(201);
    api.until_running("s").await;
    assert!(send("s", json!({"type": "log"})).await.error(400).contains("only sources"));
    api.put("/connectors/c/pause").await.expect(202);
    api.until_state("c", "PAUSED").await;
    send("c", json!({"type": "log"})).await.error(409);
}

#[tokio::test]
async fn a_task_that_hangs_in_a_signal_holds_no_other_call() {
    let api = Api::start().await;
    api.create("c", count("t", 2)).await.expect(201);
    api.until_running("c").await;
    let path = "/aqueduct/v1/connectors/c/signals";
    let hangs = api.call("POST", path, Some(json!({"type": "hang"})));
    tokio::pin!(hangs);
    let status = async {
        // Invariant 10: the status answers meanwhile, and says in which call it hangs by its age alone.
        let status = api.until("/connectors/c/status", |status| status["tasks"][0]["state"] == "RUNNING").await;
        api.put("/connectors/c/pause").await.expect(202);
        status
    };
    tokio::select! {
        biased;
        answer = &mut hangs => panic!("{}", answer.text),
        status = status => assert_eq!(status["name"], "c"),
    }
    // Its task is aborted by the pause: the signal was not taken.
    assert!(hangs.await.error(409).contains("c-0"));
}
