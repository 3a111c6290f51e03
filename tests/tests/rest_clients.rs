//! Clients of Kafka Connect that others wrote, from PyPI, drive a worker: create, status, pause, resume, restart, update, delete, and what else each has.
//! None knows that it is not Kafka Connect. Versions: `tests/python/rest_clients.txt`.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::{Client, Site, python, wait_until};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// A client's program, run in the site's folder, which is its home as well.
struct Tool {
    program: PathBuf,
    args: Vec<String>,
    home: PathBuf,
}

impl Tool {
    /// `args` come before those of each call.
    fn new(site: &Site, program: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { program: python::program("rest_clients", program), args, home: site.root.clone() }
    }

    /// Whether it ended well, and all that it said.
    fn run(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(&self.program);
        command.args(&self.args).args(args).current_dir(&self.home).env("HOME", &self.home).env("PYTHONUTF8", "1");
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), format!("{out}{err}"))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let (ok, said) = self.run(args);
        let broken = ["Client Error", "Server Error", "Error:", "Traceback"].iter().any(|word| said.contains(word));
        assert!(ok && !broken, "{args:?}: {said}");
        said
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let said = self.ok(args);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{args:?} ({error}): {said}"))
    }
}

fn worker() -> (Site, Client) {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    (site, client)
}

fn datagen(rate: &str) -> Value {
    json!({"connector.class": "datagen-source", "template": "orders", "topic": "orders", "rate": rate, "seed": "1"})
}

fn until(client: &Client, state: &str) {
    wait_until(SOON, &format!("c and its task are {state}"), || {
        (client.state("c") == state && client.task_states("c") == [state]).then_some(())
    });
}

fn rate(client: &Client) -> Value {
    client.get("/connectors/c/config").expect(200).json()["rate"].clone()
}

/// Its command `kc`. It ends with 0 whatever happens, and says what. What it lacks: offsets, stop (its library has it), loggers, PATCH. Its
/// `validate-config` sends a JSON text that holds the config's JSON: 500 from Kafka Connect, 400 from us.
#[test]
fn kafka_connect_py_drives_a_worker() {
    let (site, client) = worker();
    let kc = Tool::new(&site, "kc", &["--url", &client.base]);
    assert!(kc.ok(&["--version"]).contains("1.0.0"));
    assert_eq!(kc.json(&["info"])["version"], client.get("/").json()["version"]);
    let body = json!({"name": "c", "config": datagen("5")}).to_string();
    assert_eq!(kc.json(&["create", "-d", &body])["tasks"], json!([{"connector": "c", "task": 0}]));
    assert!(kc.run(&["create", "-d", &body]).1.contains("409 Client Error: Conflict"));
    until(&client, "RUNNING");
    assert_eq!(kc.json(&["status", "c"])["connector"]["state"], "RUNNING");
    assert_eq!(kc.json(&["list"]), json!(["c"]));
    let listed = kc.json(&["list", "--expand", "status", "--state", "running", "--pattern", "^c"]);
    assert_eq!(listed["c"]["status"]["tasks"][0]["state"], "RUNNING");
    assert_eq!(kc.json(&["list", "--expand", "info"])["c"]["info"]["config"]["rate"], "5");

    kc.ok(&["pause", "c"]);
    until(&client, "PAUSED");
    assert_eq!(kc.json(&["list", "--expand", "status", "--state", "PAUSED"])["c"]["status"]["connector"]["state"], "PAUSED");
    kc.ok(&["resume", "--all", "--state", "PAUSED"]);
    until(&client, "RUNNING");
    for args in
        [&["restart", "c"][..], &["restart", "--include-tasks", "c"], &["restart", "-i", "-o", "c"], &["restart-task", "c", "0"]]
    {
        kc.ok(args);
        until(&client, "RUNNING");
    }
    kc.ok(&["restart", "--all", "--include-tasks"]);
    until(&client, "RUNNING");

    assert_eq!(kc.json(&["update", "c", "-d", &datagen("7").to_string()])["config"]["rate"], "7");
    assert_eq!((rate(&client), kc.json(&["config", "c"])["rate"].clone()), (json!("7"), json!("7")));
    assert_eq!(kc.json(&["get", "c"])["type"], "source");
    assert_eq!(kc.json(&["list-tasks", "c"])[0]["id"], json!({"connector": "c", "task": 0}));
    assert_eq!(kc.json(&["task-status", "c", "0"])["id"], 0);
    wait_until(SOON, "its topic is listed", || {
        (kc.json(&["list-topics", "c"]) == json!({"c": {"topics": ["orders"]}})).then_some(())
    });
    kc.ok(&["reset-topics", "c"]);
    assert!(kc.json(&["list-plugins"]).as_array().unwrap().iter().any(|plugin| plugin["class"] == "datagen-source"));
    let twice_encoded = kc.run(&["validate-config", "datagen-source", "-d", &datagen("5").to_string()]).1;
    assert!(twice_encoded.contains("400 Client Error"), "{twice_encoded}");

    kc.ok(&["delete", "c"]);
    assert_eq!(kc.json(&["list"]), json!([]));
    assert!(kc.run(&["status", "c"]).1.contains("404 Client Error: Not Found"));
    // Its library, for what the command lacks.
    let script = format!(
        "from kafka_connect import KafkaConnect; import json, logging\nk = KafkaConnect('{}', None, True, logging.getLogger('k'))\n\
         k.create_connector(json.loads('''{body}'''))\nk.stop_connector('c')\nprint(json.dumps(k.validate_connector_config('datagen-source', {{'connector.class': 'datagen-source', 'rate': 'fast'}})))",
        client.base
    );
    let library = Tool::new(&site, "python", &["-c", &script]);
    assert!(library.json(&[])["error_count"].as_u64().unwrap() >= 1);
    wait_until(SOON, "c is STOPPED", || (client.state("c") == "STOPPED").then_some(()));
}

/// What it lacks: update by itself (`upload` is create and update), stop, offsets, tasks' statuses and restarts. `upload` validates first. It ends with 0
/// whatever happens.
#[test]
fn kafkaconnect_drives_a_worker() {
    let (site, client) = worker();
    let tool = Tool::new(&site, "kafkaconnect", &["--connect", &client.base]);
    let file = |name: &str, config: &Value| std::fs::write(site.path(name), config.to_string()).unwrap();
    file("c.json", &datagen("5"));
    file("wrong.json", &datagen("fast"));
    assert_eq!(tool.json(&["upload", "--name", "c", "--dry-run", "c.json"])["error_count"], 0);
    assert_eq!(tool.json(&["list"]), json!([]), "it was a dry run");
    tool.ok(&["upload", "--name", "c", "c.json"]);
    until(&client, "RUNNING");
    let wrong = tool.ok(&["upload", "--name", "other", "wrong.json"]);
    assert!(wrong.contains("\"error_count\": 1"), "{wrong}");
    assert_eq!(tool.json(&["list"]), json!(["c"]), "what is not valid is not created");
    assert_eq!(tool.json(&["status", "c"])["connector"]["state"], "RUNNING");
    assert_eq!(tool.json(&["info", "c"])["type"], "source");
    assert_eq!(tool.json(&["tasks", "c"])[0]["id"]["task"], 0);
    wait_until(SOON, "its topic is listed", || (tool.json(&["topics", "c"])["c"]["topics"] == json!(["orders"])).then_some(()));
    assert!(tool.json(&["plugins"]).as_array().unwrap().len() > 10);

    assert_eq!(tool.ok(&["pause", "c"]).trim(), "");
    until(&client, "PAUSED");
    assert_eq!(tool.ok(&["resume", "c"]).trim(), "");
    until(&client, "RUNNING");
    assert_eq!(tool.ok(&["restart", "c"]).trim(), "");
    until(&client, "RUNNING");
    file("c.json", &datagen("7"));
    tool.ok(&["upload", "--name", "c", "c.json"]);
    assert_eq!((rate(&client), tool.json(&["config", "c"])["rate"].clone()), (json!("7"), json!("7")));
    // A config for Confluent's JDBC sink is one of ours.
    let jdbc = json!({"name": "j", "connector.class": "JdbcSinkConnector", "topics": "orders", "connection.url": "jdbc:postgresql://127.0.0.1:1/d", "connection.user": "u"});
    file("jdbc.json", &jdbc);
    tool.ok(&["create", "jdbc-sink", "jdbc.json"]);
    assert_eq!(client.get("/connectors/j").expect(200).json()["type"], "sink");

    for name in ["c", "j"] {
        assert_eq!(tool.ok(&["delete", name]).trim(), "");
    }
    assert!(tool.ok(&["status", "c"]).contains("/connectors/c/status not found"));
    assert_eq!(tool.json(&["list"]), json!([]));
}

/// It sends a user and a password with each call. What it lacks: stop, offsets, plugins, validation, tasks, topics.
#[test]
fn connectorctl_drives_a_worker() {
    let (site, client) = worker();
    let tool = Tool::new(&site, "connectorctl", &[]);
    let port = site.port.to_string();
    tool.ok(&["set-env", "dev", "--server", "127.0.0.1", "--port", &port, "--user", "u", "--password", "p"]);
    let body = json!({"name": "c", "config": datagen("5")}).to_string();
    let said = tool.ok(&["create", &body]);
    assert!(said.contains("\"rate\": \"5\""), "{said}");
    until(&client, "RUNNING");
    assert!(tool.ok(&["list"]).contains("│ c "));
    for (command, done, state) in [
        ("pause", "Paused successfully", "PAUSED"),
        ("resume", "Resumed successfully", "RUNNING"),
        ("restart", "Restarted successfully", "RUNNING"),
    ] {
        let said = tool.ok(&[command, "c"]);
        assert!(said.contains(done), "{said}");
        until(&client, state);
        let said = tool.ok(&["status"]);
        assert!(said.contains(state), "{said}");
    }
    let said = tool.ok(&["update", "c", &datagen("7").to_string()]);
    assert!(said.contains("\"rate\": \"7\"") && rate(&client) == "7", "{said}");
    assert!(tool.ok(&["get", "c"]).contains("\"seed\": \"1\""));
    // It asks for the status of what it has just deleted, and calls the 404 an error.
    let (ok, said) = tool.run(&["delete", "c"]);
    assert!(ok && said.contains("Connector deleted successfully") && said.contains("Error: Status code N/A"), "{said}");
    client.get("/connectors/c").error(404);
    let (ok, said) = tool.run(&["get", "c"]);
    assert!(!ok && said.contains("Connector 'c' not found"), "{said}");
}

/// What it lacks: topics, tasks' restarts (its restart has the scope of tasks), loggers.
#[test]
fn bkkt_drives_a_worker() {
    let (site, client) = worker();
    // A second address of the same worker: it warns when workers of a cluster answer otherwise.
    let clusters = format!("clusters:\n  dev:\n    connect: {{hosts: [127.0.0.1, localhost], port: {}}}\n", site.port);
    std::fs::write(site.path("connectctl.yaml"), clusters).unwrap();
    let bkkt = Tool::new(&site, "bkkt", &[]);
    let file = |name: &str, config: Value| {
        std::fs::write(site.path(name), json!({"name": "c", "config": config}).to_string()).unwrap();
    };
    let connect = |args: &[&str]| {
        let said = bkkt.ok(&[&["connect"], args, &["--env", "dev"]].concat());
        assert!(!said.contains("WARN") && !said.contains("inconsistent"), "{said}");
        said
    };
    file("c.json", datagen("5"));
    assert!(connect(&["create", "c.json"]).contains("created: c"));
    until(&client, "RUNNING");
    let (ok, said) = bkkt.run(&["connect", "create", "c.json", "--env", "dev"]);
    assert!(!ok && said.contains("[connector_exists]"), "{said}");
    assert!(connect(&["status", "--status", "short"]).contains("c: connector=RUNNING tasks=['RUNNING']"));
    assert!(connect(&["status", "--until-healthy", "--timeout-seconds", "60"]).contains("RUNNING"));
    for (command, done, state) in [("pause", "paused: c", "PAUSED"), ("resume", "resumed: c", "RUNNING")] {
        assert!(connect(&[command, "--names", "c", "-y"]).contains(done));
        until(&client, state);
    }
    assert!(connect(&["restart", "--names", "c", "--scope", "all", "-y"]).contains("restarted=1"));
    until(&client, "RUNNING");
    let mut named = datagen("7");
    named["name"] = json!("c");
    file("c.json", named);
    assert!(connect(&["update", "c.json"]).contains("updated: c"));
    assert_eq!(rate(&client), "7");
    // GET and PUT of the whole: an update that changes nothing sends nothing, so the config must come back as it was put.
    assert!(connect(&["update", "c.json", "--dry-run", "--diff"]).to_lowercase().contains("no change"));
    assert!(connect(&["patch", "--names", "c", "--set", "rate=8"]).contains("patched: c"));
    assert_eq!(rate(&client), "8");
    assert!(bkkt.ok(&["get-connector", "--env", "dev", "c"]).contains("\"rate\": \"8\""));
    assert!(connect(&["plugins", "inventory"]).contains("datagen-source"));
    let endpoints = connect(&["endpoints"]);
    assert_eq!(endpoints.matches("HTTP 200").count(), 6, "{endpoints}");

    assert!(connect(&["stop", "--names", "c", "-y"]).contains("stopped: c"));
    wait_until(SOON, "c is STOPPED", || (client.state("c") == "STOPPED").then_some(()));
    assert!(connect(&["offsets", "get", "--name", "c"]).contains("\"template\": \"orders\""));
    let offsets = json!({"offsets": [{"partition": {"template": "orders"}, "offset": {"next": 3}}]});
    std::fs::write(site.path("offsets.json"), offsets.to_string()).unwrap();
    connect(&["offsets", "patch", "--name", "c", "--json-file", "offsets.json", "-y"]);
    assert_eq!(client.get("/connectors/c/offsets").json(), offsets);
    assert!(connect(&["delete", "--names", "c", "-y"]).contains("deleted: c"));
    client.get("/connectors/c").error(404);
}
