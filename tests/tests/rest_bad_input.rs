//! What nobody should send: odd names, large and deep bodies, and a hundred who write one connector at once.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::site::memory_kib;
use aqueduct_tests::{Client, Site, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

fn config() -> Value {
    json!({"connector.class": "datagen-source", "template": "orders", "topic": "t", "rate": "1", "seed": "1"})
}

/// A call as it stands: other clients tidy `..` and `%2e` away. Its status, head and body.
fn raw(site: &Site, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {answer:?}"));
    (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
}

/// Every byte that could mean something, as `%XX`.
fn encoded(name: &str) -> String {
    name.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[test]
fn any_printable_name_is_one_connector_and_nothing_else() {
    let mut site = Site::new();
    site.start();
    // The longest.
    let long = "n".repeat(200);
    let names = [
        "a/b",
        "a b",
        "ä€😀",
        "..",
        ".",
        "../../etc/passwd",
        "%2F",
        "a%2Fb",
        "a%20b",
        "a?b#c",
        "a\\b",
        "a;b=c",
        "a+b",
        "a&b=c",
        "'\"<script>",
        "{connector}",
        "*",
        "~",
        "a//b",
        "/",
        "-",
        "\u{202e}abc",
        "e\u{301}",
        &long,
    ];
    for (at, name) in names.into_iter().enumerate() {
        let body = json!({"name": name, "config": config(), "initial_state": "STOPPED"});
        let (status, head, answer) = raw(&site, "POST", "/connectors", &body.to_string());
        assert_eq!(status, 201, "{name}: {answer}");
        let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_owned();
        for path in [format!("/connectors/{}", encoded(name)), location] {
            let (status, _, answer) = raw(&site, "GET", &path, "");
            let found: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{name}: {path}: {error}: {answer}"));
            assert_eq!((status, found["name"].as_str()), (200, Some(name)), "{path}");
        }
        let path = format!("/connectors/{}", encoded(name));
        for (method, rest, expected) in [
            ("GET", "/status", 200),
            ("GET", "/config", 200),
            ("GET", "/topics", 200),
            ("GET", "/offsets", 200),
            ("PUT", "/resume", 202),
            ("PUT", "/stop/", 204),
        ] {
            let (status, _, answer) = raw(&site, method, &format!("{path}{rest}"), "");
            assert_eq!(status, expected, "{method} {path}{rest}: {answer}");
        }
        let listed = site.client().get("/connectors").expect(200).json();
        assert_eq!(listed.as_array().unwrap().len(), at + 1, "{name}: {listed}");
    }
    let listed: Vec<String> = serde_json::from_str(&site.client().get("/connectors").text).unwrap();
    assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), names.into_iter().collect());
    // They are the same after a restart, and no name became a path of the disk.
    site.stop();
    site.start();
    wait_until(SOON, "all are there again", || {
        (site.client().get("/connectors").json().as_array()?.len() == names.len()).then_some(())
    });
    let beside: Vec<_> = std::fs::read_dir(&site.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(beside.len() <= 4, "worker.yaml, worker.log, data and connectors: {beside:?}");
    for name in names {
        let (status, _, answer) = raw(&site, "DELETE", &format!("/connectors/{}", encoded(name)), "");
        assert_eq!(status, 204, "{name}: {answer}");
    }
    assert_eq!(site.client().get("/connectors").json(), json!([]));
}

#[test]
fn names_and_paths_that_are_none_are_refused_as_errors_in_json() {
    let mut site = Site::new();
    site.start();
    let long = "n".repeat(201);
    for name in ["", " ", "a\nb", "\u{0}", "a\u{7f}", "\u{1b}[2J", "\u{85}", &long] {
        let body = json!({"name": name, "config": config()}).to_string();
        let (status, _, answer) = raw(&site, "POST", "/connectors", &body);
        assert_eq!(status, 400, "{name:?}: {answer}");
        if !name.trim().is_empty() {
            let (status, _, answer) = raw(&site, "PUT", &format!("/connectors/{}/config", encoded(name)), &config().to_string());
            assert_eq!(status, 400, "{name:?}: {answer}");
        }
    }
    for (path, expected) in [
        ("/connectors/%FF", 400),
        ("/connectors/%C0%AF/status", 400),
        ("/connectors/%ED%A0%80", 400),
        ("/connectors/a%", 404),
        ("/connectors/%zz", 404),
        ("/connectors/%00", 404),
        ("/connectors/../connectors/x", 404),
        ("/connectors/a/../../connectors", 404),
        ("/connectors//status", 404),
        ("/connectors/x/tasks/-1/status", 404),
        ("/connectors/x/tasks/99999999999999999999/status", 404),
        ("/connectors/x/tasks/1e3/status", 404),
        ("/connectors/x/tasks/%EF%BC%91/status", 404),
        ("/aqueduct/v1/topics/..%2F..%2Fetc", 404),
        ("/aqueduct/v1/topics/%00", 404),
        ("/aqueduct/v1/topics/%FF/records", 400),
        ("/connector-plugins/%2E%2E/config", 404),
        ("/admin/loggers/%0A", 404),
    ] {
        let (status, _, answer) = raw(&site, "GET", path, "");
        let error: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"));
        assert_eq!((status, &error["error_code"]), (expected, &json!(expected)), "{path}: {answer}");
    }
    // A path of 200 kB: who is not listened to any longer may find the connection reset, and then has no answer.
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    let _ = stream.write_all(format!("GET /connectors/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(200_000)).as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    site.client().get("/health").expect(200);
}

/// Every operation that takes a body, with names in its path.
fn with_bodies(client: &Client) -> Vec<(Method, String)> {
    let document = client.get("/aqueduct/v1/openapi.json").expect(200).json();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.get("requestBody").is_some() {
                let path = path.replace("{plugin}", "file-source").replace("{logger}", "root").replace(['{', '}'], "");
                all.push((method.to_ascii_uppercase().parse().unwrap(), path));
            }
        }
    }
    assert!(all.len() >= 9, "{all:?}");
    all
}

#[test]
fn ten_megabytes_are_refused_and_do_not_stay_in_memory() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let calls = with_bodies(&client);
    // Warm: what the allocator keeps for good is not what this is about.
    client.call(Method::POST, "/connectors", Some(&"x".repeat(1 << 20))).unwrap().error(400);
    let pid = site.pid().unwrap();
    let before = memory_kib(pid, "VmHWM").unwrap();
    let big = format!("{{\"a\": \"{}\"}}", "x".repeat(10_000_000));
    std::thread::scope(|scope| {
        for (method, path) in &calls {
            let (client, big) = (&client, &big);
            scope.spawn(move || {
                let answer = client.call(method.clone(), path, Some(big)).unwrap();
                assert!(answer.error(413).contains("1048576"), "{method} {path}: {}", answer.text);
            });
        }
    });
    let grown = memory_kib(pid, "VmHWM").unwrap().saturating_sub(before);
    assert!(grown < 100 << 10, "{} bodies of 10 MB at once took {grown} KiB", calls.len());
    client.get("/health").expect(200);
}

#[test]
fn ten_thousand_levels_are_an_error_and_not_a_crash() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let (lists, objects) = (deep("[", "]"), deep("{\"a\":", "}"));
    client.post("/aqueduct/v1/topics", Some(&json!({"name": "topic"}))).expect(201);
    client.put("/connectors/connector/config", Some(&config())).expect(201);
    client.put("/connectors/connector/stop", None).expect(204);
    for (method, path) in with_bodies(&client) {
        for deep in [&lists, &objects] {
            for body in [
                deep.clone(),
                format!("{{\"config\": {deep}}}"),
                format!("{{\"name\": {deep}, \"config\": {{}}}}"),
                format!("{{\"x\": {deep}}}"),
                format!("{{\"level\": {deep}}}"),
                format!("{{\"offsets\": [{{\"partition\": {deep}, \"offset\": {{}}}}]}}"),
                format!("{{\"type\": \"log\", \"data\": {deep}}}"),
                format!("{{\"records\": [{{\"value\": {deep}}}]}}"),
                format!("{{\"records\": [{{\"value\": \"{}\"}}]}}", "\\u0000".repeat(3)),
                "{\"records\": [{".to_owned() + &"\"a\":{".repeat(10_000),
            ] {
                let status = client.call(method.clone(), &path, Some(&body)).unwrap().status;
                // The body with NULs in a value is a right one for records.
                let right = path.ends_with("/records") && body.contains("\\u0000");
                assert_eq!(
                    status,
                    if right { 200 } else { 400 },
                    "{method} {path}: {}",
                    body.chars().take(60).collect::<String>()
                );
            }
        }
    }
    client.get("/health").expect(200);
    assert!(!site.log().contains("panicked"), "{}", site.log_tail(20));
}

/// Which of the versions a config is.
///
/// # Panics
/// When it is none: a mix of two, or one that nobody wrote.
#[track_caller]
fn version(config: &Value) -> u64 {
    let number = |key: &str| config[key].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{config}"));
    let version: u64 = number("seed");
    assert_eq!(number("rate"), version + 1_000_000, "a mix: {config}");
    version
}

fn written(version: u64) -> Value {
    let mut config = config();
    config["seed"] = json!(version.to_string());
    config["rate"] = json!((version + 1_000_000).to_string());
    config
}

#[test]
fn a_hundred_writers_make_one_history() {
    const WRITERS: u64 = 100;
    const EACH: u64 = 3;
    let mut site = Site::new();
    site.start();
    let client = site.client();
    // Stopped: this is about the config, not about three hundred restarts.
    client.post("/connectors", Some(&json!({"name": "c", "config": written(0), "initial_state": "STOPPED"}))).expect(201);
    let done = AtomicBool::new(false);
    let (answers, mut seen) = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let (client, done) = (&client, &done);
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        let now = match reader % 2 {
                            0 => version(&client.get("/connectors/c/config").expect(200).json()),
                            _ => version(&client.get("/connectors/c").expect(200).json()["config"]),
                        };
                        if seen.last() != Some(&now) {
                            seen.push(now);
                        }
                    }
                    seen
                })
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = &client;
                let put = move |turn| {
                    let mine = 1 + writer + turn * WRITERS;
                    let answer = client.put("/connectors/c/config", Some(&written(mine)));
                    version(&answer.expect(200).json()["config"])
                };
                scope.spawn(move || (0..EACH).map(put).collect::<Vec<u64>>())
            })
            .collect();
        let answers: Vec<Vec<u64>> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        (answers, readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>())
    });
    let last = version(&client.get("/connectors/c/config").json());
    assert!((1..=WRITERS * EACH).contains(&last), "{last}");
    for version in answers.iter().flatten() {
        assert!((1..=WRITERS * EACH).contains(version), "{version} was answered and never written");
    }
    seen.iter_mut().filter(|seen| seen.last() != Some(&last)).for_each(|seen| seen.push(last));
    one_order(&seen, last);
    // Durable: the last is what a killed worker comes back with.
    site.kill();
    site.start();
    assert_eq!(version(&site.client().get("/connectors/c/config").expect(200).json()), last);
}

/// Each version was written once: what readers saw one after the other must fit into one order that ends with the last.
fn one_order(seen: &[Vec<u64>], last: u64) {
    let mut after: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for pair in seen.iter().flat_map(|seen| seen.windows(2)) {
        after.entry(pair[0]).or_default().insert(pair[1]);
        after.entry(pair[1]).or_default();
    }
    assert!(after.len() > 1, "the readers saw no change: {seen:?}");
    while !after.is_empty() {
        let followed: BTreeSet<u64> = after.values().flatten().copied().collect();
        let first = after.keys().copied().find(|version| !followed.contains(version));
        let Some(first) = first else { panic!("no order fits: {after:?}") };
        let rest = after.remove(&first).unwrap();
        assert!(first != last || rest.is_empty(), "{rest:?} came after the last, {last}");
    }
}
