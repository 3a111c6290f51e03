//! Kafka Connect's REST API: shapes and status codes as in compat.md.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Client, Site, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

fn datagen(topic: &str) -> Value {
    json!({"connector.class": "datagen-source", "template": "orders", "topic": topic, "rate": "50", "seed": "1"})
}

fn sink(topic: &str) -> Value {
    json!({"connector.class": "blackhole-sink", "topics": topic})
}

fn create(client: &Client, name: &str, config: Value) {
    client.post("/connectors", Some(&json!({"name": name, "config": config}))).expect(201);
}

fn until_state(client: &Client, name: &str, state: &str) {
    wait_until(SOON, &format!("{name} is {state}"), || (client.state(name) == state).then_some(()));
}

fn until_running(client: &Client, name: &str) {
    wait_until(SOON, &format!("{name} and its tasks run"), || {
        let tasks = client.task_states(name);
        (client.state(name) == "RUNNING" && !tasks.is_empty() && tasks.iter().all(|state| state == "RUNNING")).then_some(())
    });
}

#[test]
fn the_worker_says_what_it_is() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let root = client.get("/").expect(200).json();
    let version = root["version"].as_str().unwrap();
    let numbers: Vec<u32> = version.split('.').take(2).map(|n| n.parse().unwrap()).collect();
    assert!(numbers >= vec![4, 1], "kcctl gates features by Kafka's version: {version}");
    assert!(root["commit"].is_string() && root["kafka_cluster_id"].is_string(), "{root}");
    let health = client.get("/health").expect(200).json();
    assert_eq!(health["status"], "healthy");
    assert!(health["message"].is_string());
    let cluster = root["kafka_cluster_id"].clone();
    site.stop();
    site.start();
    assert_eq!(client.get("/").json()["kafka_cluster_id"], cluster, "the id is of the data directory");
}

#[test]
fn levels_change_and_a_connector_shows_what_it_logged() {
    let mut site = Site::new();
    std::fs::create_dir_all(site.path("taken")).unwrap();
    site.start();
    let client = site.client();
    let all = client.get("/admin/loggers/").expect(200).json();
    assert_eq!(all["root"], json!({"level": "INFO", "last_modified": null}));
    assert_eq!(client.get("/admin/loggers/root").expect(200).json()["level"], "INFO");
    assert_eq!(
        client.get("/admin/loggers/nobody").expect(404).json(),
        json!({"error_code": 404, "message": "Logger nobody not found."})
    );
    let level = |level: &str| json!({"level": level});
    let set = client.put("/admin/loggers/aqueduct_worker", Some(&level("debug"))).expect(200).json();
    assert_eq!(set, json!(["aqueduct_worker"]));
    let now = client.get("/admin/loggers/aqueduct_worker").json();
    assert!(now["level"] == "DEBUG" && now["last_modified"].is_i64(), "{now}");
    client.put("/admin/loggers/root?scope=cluster", Some(&level("WARN"))).expect(204);
    assert_eq!(client.get("/admin/loggers/aqueduct_worker").json()["level"], "WARN");
    client.put("/admin/loggers/root", Some(&level("LOUD"))).expect(404);
    client.put("/admin/loggers/root", Some(&json!({}))).expect(400);

    client.get("/aqueduct/v1/connectors/nobody/logs").expect(404);
    create(&client, "gen", datagen("t"));
    create(&client, "bad", json!({"connector.class": "file-sink", "topics": "t", "file": site.path("taken").to_str().unwrap()}));
    let failed = wait_until(SOON, "its task's failure is among its lines", || {
        let lines = client.get("/aqueduct/v1/connectors/bad/logs").expect(200).json();
        lines.as_array()?.iter().find(|line| line["task"] == 0 && line["level"] != "INFO").cloned()
    });
    assert!(failed["epoch"].as_u64().is_some_and(|epoch| epoch >= 1), "{failed}");
    assert!(failed["timestamp"].is_i64() && failed["message"].as_str().is_some_and(|text| text.contains("taken")), "{failed}");
}

#[test]
fn a_connectors_life() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    assert_eq!(client.get("/connectors").expect(200).json(), json!([]));

    let created = client.post("/connectors", Some(&json!({"name": "gen", "config": datagen("orders")})));
    created.expect(201);
    assert!(created.location.as_deref().unwrap().ends_with("/connectors/gen"), "{created:?}");
    let info = created.json();
    let mut wanted = datagen("orders");
    wanted["name"] = json!("gen");
    assert_eq!(info["config"], wanted, "exactly what was put, and the name: no injected default");
    assert_eq!((&info["name"], &info["type"]), (&json!("gen"), &json!("source")));
    assert_eq!(client.get("/connectors/gen").expect(200).json()["config"], wanted);
    assert_eq!(client.get("/connectors/gen/config").expect(200).json(), wanted);
    let status = client.get("/connectors/gen/status").expect(200).json();
    assert_eq!(status["tasks"].as_array().unwrap().len(), 1, "tasks are listed at once: {status}");
    until_running(&client, "gen");
    let status = client.get("/connectors/gen/status").json();
    assert_eq!(status["type"], "source");
    assert!(
        status["connector"].as_object().unwrap().values().all(Value::is_string),
        "Go clients decode map[string]string: {status}"
    );
    assert_eq!(status["connector"]["worker_id"], format!("127.0.0.1:{}", site.port));
    assert_eq!(client.get("/connectors/gen/tasks/0/status").expect(200).json()["id"], 0);
    let tasks = client.get("/connectors/gen/tasks").expect(200).json();
    assert_eq!(tasks[0]["id"], json!({"connector": "gen", "task": 0}));
    assert!(tasks[0]["config"].is_object());
    assert_eq!(client.get("/connectors").json(), json!(["gen"]));
    wait_until(SOON, "its topic is named", || {
        (client.get("/connectors/gen/topics").json() == json!({"gen": {"topics": ["orders"]}})).then_some(())
    });
    client.put("/connectors/gen/topics/reset", None).expect(202);

    client.post("/connectors", Some(&json!({"name": "gen", "config": datagen("orders")}))).error(409);

    client.put("/connectors/gen/pause", None).expect(202);
    until_state(&client, "gen", "PAUSED");
    client.put("/connectors/gen/resume", None).expect(202);
    until_running(&client, "gen");
    client.put("/connectors/gen/stop", None).expect(204);
    until_state(&client, "gen", "STOPPED");
    wait_until(SOON, "its tasks are gone", || client.task_states("gen").is_empty().then_some(()));
    client.post("/connectors/gen/tasks/0/restart", None).error(409);
    client.put("/connectors/gen/resume", None).expect(202);
    until_running(&client, "gen");

    client.post("/connectors/gen/restart", None).expect(204);
    let answer = client.post("/connectors/gen/restart?includeTasks=true", None);
    answer.expect(202);
    assert_eq!(answer.json()["connector"]["state"], "RESTARTING", "{}", answer.text);
    until_running(&client, "gen");
    client.post("/connectors/gen/tasks/0/restart", None).expect(204);
    client.post("/connectors/gen/tasks/7/restart", None).error(404);

    client.delete("/connectors/gen").expect(204);
    client.get("/connectors/gen/status").error(404);
    client.get("/connectors/gen").error(404);
    client.delete("/connectors/gen").error(404);
}

#[test]
fn configs_are_put_and_patched() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let mut config = datagen("t1");
    client.put("/connectors/c/config", Some(&config)).expect(201);
    config["rate"] = json!("20");
    client.put("/connectors/c/config", Some(&config)).expect(200);
    assert_eq!(client.get("/connectors/c/config").json()["rate"], "20");
    let patched = client.patch("/connectors/c/config", &json!({"rate": null, "seed": 9}));
    patched.expect(200);
    let config = client.get("/connectors/c/config").json();
    assert!(config.get("rate").is_none(), "null deletes a key: {config}");
    assert_eq!(config["seed"], "9", "numbers become the same text");
    client.patch("/connectors/nope/config", &json!({"a": "b"})).error(404);
    // A change takes effect, and survives a kill.
    until_running(&client, "c");
    site.kill();
    site.start();
    assert_eq!(client.get("/connectors/c/config").json(), config);
    until_running(&client, "c");
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let text = client
        .put("/connectors/c/config", Some(&json!({"connector.class": "datagen-source", "rate": "fast", "count": "lots"})))
        .error(400);
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    assert!(
        first.starts_with("Connector configuration is invalid and contains the following ") && first.ends_with(" error(s):"),
        "{text}"
    );
    assert!(text.contains("\nrate: ") && text.contains("\ncount: "), "every issue at once: {text}");
    assert!(
        text.ends_with(
            "You can also find the above list of errors at the endpoint `/connector-plugins/{connectorType}/config/validate`"
        ),
        "{text}"
    );
    let text = client.put("/connectors/c/config", Some(&json!({"connector.class": "datagen-sorce"}))).error(400);
    assert!(
        text.contains("Failed to find any class that implements Connector") && text.contains("datagen-source"),
        "kcctl reads this: {text}"
    );
    client.get("/connectors/c").error(404);
    client.get("/nothing/here").error(404);
    let raw = |method: Method, path: &str, body: &str| client.call(method, path, Some(body)).unwrap();
    raw(Method::POST, "/connectors", "{not json").error(400);
    raw(Method::POST, "/connectors", "[]").error(400);
    raw(Method::POST, "/connectors", r#"{"name": "x", "config": null}"#).error(400);
    raw(
        Method::POST,
        "/connectors",
        r#"{"name": "x", "config": {"name": "y", "connector.class": "blackhole-sink", "topics": "t"}}"#,
    )
    .error(400);
    raw(Method::PUT, "/connectors", "{}").error(405);
    let huge = format!(r#"{{"name": "x", "config": {{"a": "{}"}}}}"#, "x".repeat(2 << 20));
    assert_eq!(raw(Method::POST, "/connectors", &huge).status, 413);
    client.put("/connectors/nope/pause", None).error(404);
    client.put("/connectors/nope/stop", None).error(404);
    client.post("/connectors/nope/restart", None).error(404);
    client.get("/connectors/nope/offsets").error(404);
}

#[test]
fn offsets_are_shown_altered_and_reset() {
    let mut site = Site::new();
    std::fs::create_dir_all(site.path("in")).unwrap();
    let file = site.path("in/a.log");
    std::fs::write(&file, "one\ntwo\nthree\n").unwrap();
    site.start();
    let client = site.client();
    create(&client, "src", json!({"connector.class": "file-source", "file": file.to_str().unwrap(), "topic": "t"}));
    create(
        &client,
        "snk",
        json!({"connector.class": "FileStreamSink", "file": site.path("out").to_str().unwrap(), "topics": "t"}),
    );
    let position = |client: &Client| client.get("/connectors/snk/offsets").expect(200).json();
    let at =
        |n: i64| json!({"offsets": [{"partition": {"kafka_topic": "t", "kafka_partition": 0}, "offset": {"kafka_offset": n}}]});
    wait_until(SOON, "the sink is at 3", || (position(&client) == at(3)).then_some(()));
    assert_eq!(std::fs::read_to_string(site.path("out")).unwrap(), "one\ntwo\nthree\n");
    let source = client.get("/connectors/src/offsets").expect(200).json();
    assert_eq!(source["offsets"].as_array().unwrap().len(), 1, "{source}");
    assert!(source["offsets"][0]["partition"].is_object() && source["offsets"][0]["offset"].is_object());

    let message = client.patch("/connectors/snk/offsets", &at(1)).error(400);
    assert!(message.to_lowercase().contains("stopped"), "{message}");
    client.delete("/connectors/snk/offsets").error(400);
    client.put("/connectors/snk/stop", None).expect(204);
    until_state(&client, "snk", "STOPPED");
    client.patch("/connectors/snk/offsets", &json!({"offsets": []})).error(400);
    let answer = client.patch("/connectors/snk/offsets", &at(1));
    assert!(answer.expect(200).json()["message"].is_string());
    assert_eq!(position(&client), at(1));
    assert!(client.delete("/connectors/snk/offsets").expect(200).json()["message"].is_string());
    assert_eq!(position(&client), json!({"offsets": []}));

    client.put("/connectors/src/stop", None).expect(204);
    until_state(&client, "src", "STOPPED");
    client.delete("/connectors/src/offsets").expect(200);
    assert_eq!(client.get("/connectors/src/offsets").json(), json!({"offsets": []}));
    client.put("/connectors/src/resume", None).expect(202);
    create(
        &client,
        "second",
        json!({"connector.class": "FileStreamSink", "file": site.path("again").to_str().unwrap(), "topics": "t"}),
    );
    let again = "one\ntwo\nthree\n".repeat(2);
    wait_until(SOON, "the source read it again", || (std::fs::read_to_string(site.path("again")).ok()? == again).then_some(()));
}

#[test]
fn source_offsets_that_no_source_could_resume_from_are_refused_with_what_to_write() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let webhook = format!("http://127.0.0.1:{}", aqueduct_tests::site::free_port());
    for (class, options, partition, good, bad, named) in [
        ("datagen-source", json!({"topic": "t"}), json!({"template": "orders"}), json!({"next": 7}), json!({"nxt": 7}), "nxt"),
        (
            "http-source",
            json!({"kafka.topic": "t", "http.request.url": "https://api.example/x"}),
            json!({"endpoint": "https://api.example/x"}),
            json!({"page.number": 3}),
            json!({"page.number": "3"}),
            "page.number",
        ),
        (
            "mqtt-source",
            json!({"mqtt.server.uri": "tcp://broker.example:1883", "mqtt.topics": "a/#", "kafka.topic": "t"}),
            json!({"client": "aqueduct-mqtt-source"}),
            json!({"held": "3,7-9"}),
            json!({"held": 3}),
            "held",
        ),
        (
            "postgres-source",
            json!({"topic.prefix": "shop", "database.hostname": "h", "database.user": "u", "database.dbname": "d"}),
            json!({"server": "shop"}),
            json!({"lsn": 7}),
            json!({"lsn": "0/7"}),
            "lsn",
        ),
        (
            "webhook-source",
            json!({"listener": webhook, "path": "/in", "topic": "t"}),
            json!({"webhook": "requests"}),
            json!({"count": 7}),
            json!({"count": "7"}),
            "count",
        ),
    ] {
        let mut config = options;
        config["connector.class"] = json!(class);
        let body = json!({"name": class, "config": config, "initial_state": "STOPPED"});
        client.post("/connectors", Some(&body)).expect(201);
        until_state(&client, class, "STOPPED");
        let path = format!("/connectors/{class}/offsets");
        let offsets = |offset: &Value| json!({"offsets": [{"partition": partition, "offset": offset}]});
        let message = client.patch(&path, &offsets(&bad)).error(400);
        assert!(message.contains(&format!("{named:?}")) && message.contains("; write {"), "{class}: {message}");
        let message = client.patch(&path, &json!({"offsets": [{"partition": {"x": 1}, "offset": good}]})).error(400);
        assert!(message.contains("partition"), "{class}: {message}");
        client.patch(&path, &offsets(&good)).expect(200);
        assert_eq!(client.get(&path).json(), offsets(&good), "{class}");
        client.patch(&path, &json!({"offsets": [{"partition": partition, "offset": null}]})).expect(200);
        assert_eq!(client.get(&path).json(), json!({"offsets": []}), "{class}");
    }
}

#[test]
fn lists_expand_and_names_are_decoded() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    create(&client, "a/b ->", datagen("t"));
    create(&client, "z", sink("t"));
    until_running(&client, "z");
    for path in ["/connectors/a%2Fb%20%2D%3E", "/connectors/a%2Fb%20%2D%3E/status", "/connectors/a%2Fb%20%2D%3E/"] {
        assert_eq!(client.get(path).expect(200).json()["name"], "a/b ->", "{path}");
    }
    let both = client.get("/connectors?expand=info&expand=status").expect(200).json();
    assert_eq!(both["z"]["info"]["type"], "sink");
    assert_eq!(both["z"]["status"]["connector"]["state"], "RUNNING");
    let info = client.get("/connectors?expand=info").json();
    assert!(info["z"].get("status").is_none());
    assert_eq!(client.get("/connectors?expand=colour").json()["z"], json!({}));
    for path in ["/connectors/", "/connector-plugins/", "/health/", "/connectors/z/status/", "/connectors/z/config/"] {
        client.get(path).expect(200);
    }
    client.delete("/connectors/a%2Fb%20%2D%3E").expect(204);
    assert_eq!(client.get("/connectors").json(), json!(["z"]));
}

#[test]
fn connectors_may_be_created_stopped_or_paused() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    for (name, initial) in [("s", "STOPPED"), ("p", "PAUSED")] {
        let body = json!({"name": name, "config": datagen("t"), "initial_state": initial});
        client.post("/connectors", Some(&body)).expect(201);
        until_state(&client, name, initial);
    }
    let bad = json!({"name": "x", "config": datagen("t"), "initial_state": "DANCING"});
    client.post("/connectors", Some(&bad)).error(400);
    client.put("/connectors/s/resume", None).expect(202);
    until_running(&client, "s");
}

#[test]
fn plugins_are_listed_described_and_validated() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let plugins = client.get("/connector-plugins").expect(200).json();
    let kind = |class: &str| plugins.as_array().unwrap().iter().find(|p| p["class"] == class).map(|p| p["type"].clone());
    for (class, wanted) in
        [("file-source", "source"), ("file-sink", "sink"), ("datagen-source", "source"), ("blackhole-sink", "sink")]
    {
        assert_eq!(kind(class), Some(json!(wanted)), "{plugins}");
    }
    for name in [
        "file-source",
        "org.apache.kafka.connect.file.FileStreamSourceConnector",
        "FileStreamSource",
        "FileStreamSourceConnector",
    ] {
        let keys = client.get(&format!("/connector-plugins/{name}/config")).expect(200).json();
        assert!(keys.as_array().unwrap().iter().any(|key| key["name"] == "file"), "{name}: {keys}");
    }
    client.get("/connector-plugins/nope/config").error(404);
    let path = "/connector-plugins/FileStreamSink/config/validate";
    let answer =
        client.put(path, Some(&json!({"connector.class": "FileStreamSink", "name": "x", "topics": "t"}))).expect(200).json();
    assert!(answer["name"].is_string() && answer["groups"].is_array(), "{answer}");
    assert!(answer["error_count"].is_number());
    for config in answer["configs"].as_array().unwrap() {
        let definition = &config["definition"];
        assert!(matches!(
            definition["type"].as_str().unwrap(),
            "BOOLEAN" | "CLASS" | "DOUBLE" | "INT" | "LIST" | "LONG" | "PASSWORD" | "SHORT" | "STRING"
        ));
        assert!(matches!(definition["importance"].as_str().unwrap(), "HIGH" | "MEDIUM" | "LOW"));
        assert!(matches!(definition["width"].as_str().unwrap(), "SHORT" | "MEDIUM" | "LONG" | "NONE"));
        assert!(definition["order"].is_number() && definition["required"].is_boolean(), "{definition}");
        assert!(config["value"]["errors"].is_array() && config["value"]["name"] == definition["name"]);
    }
    let config = json!({"connector.class": "FileStreamSink", "name": "x", "topics": "t", "file": "/x", "format": "xml"});
    let wrong = client.put(path, Some(&config)).expect(200).json();
    assert_eq!(wrong["error_count"], 1, "errors are an answer, not a status: {wrong}");
    let of = |option: &str| {
        let config = wrong["configs"].as_array().unwrap().iter().find(|config| config["value"]["name"] == option).unwrap();
        config["value"]["errors"].as_array().unwrap().len()
    };
    assert_eq!((of("format"), of("file")), (1, 0));
    client.put(path, Some(&json!({"connector.class": "file-source"}))).error(400);
}

#[test]
fn metrics_and_status_agree_with_what_moved() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let mut config = datagen("t");
    config["count"] = json!("500");
    config["rate"] = json!("100000");
    create(&client, "gen", config);
    create(&client, "hole", sink("t"));
    wait_until(SOON, "500 records passed", || {
        let status = client.get("/connectors/hole/status").json();
        (status["tasks"][0]["aqueduct"]["records_out"] == 500).then_some(())
    });
    let metrics = client.get("/metrics");
    metrics.expect(200);
    assert!(metrics.text.contains("# TYPE "), "{}", metrics.text);
    let moved = |line: &&str| line.contains("hole") && !line.starts_with('#') && line.split_whitespace().nth(1) == Some("500");
    assert!(metrics.text.lines().any(|line| moved(&line)), "{}", metrics.text);
}

#[test]
fn a_connector_that_fails_says_why() {
    let mut site = Site::new();
    std::fs::create_dir_all(site.path("taken")).unwrap();
    site.start();
    let client = site.client();
    create(&client, "gen", datagen("t"));
    create(&client, "bad", json!({"connector.class": "file-sink", "topics": "t", "file": site.path("taken").to_str().unwrap()}));
    let trace = wait_until(SOON, "a task that writes to a folder fails", || {
        let status = client.get("/connectors/bad/status").json();
        let failed = status["tasks"][0]["state"] == "FAILED" || status["connector"]["state"] == "FAILED";
        let trace = status["tasks"][0]["trace"].as_str().or(status["connector"]["trace"].as_str()).map(str::to_owned);
        if failed { Some(trace.expect("a trace")) } else { None }
    });
    let first = trace.lines().next().unwrap();
    assert!(first.contains(": ") && !first.ends_with(')') && !first.ends_with("exception"), "{first}");
    assert_eq!(client.state("gen"), "RUNNING", "others go on");
    client.get("/health").expect(200);
}
