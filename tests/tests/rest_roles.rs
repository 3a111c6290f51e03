//! Every role at every endpoint: the operations of the OpenAPI document against a table.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::Site;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Role {
    Read,
    Operate,
    Admin,
}

/// What one who is limited to some connectors may do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limited {
    /// As the role says: it tells or changes nothing of others.
    Open,
    /// Only with a connector of theirs.
    Own,
    /// Never: it is about all.
    Closed,
}

use Limited::{Closed, Open, Own};
use Role::{Admin, Operate, Read};

/// Every operation, the least role that it takes, and what is left of it for the limited.
const TABLE: &[(&str, &str, Role, Limited)] = &[
    ("GET", "/", Read, Open),
    ("GET", "/health", Read, Open),
    ("GET", "/metrics", Read, Closed),
    ("GET", "/connectors", Read, Open),
    ("POST", "/connectors", Admin, Own),
    ("GET", "/connectors/{connector}", Read, Own),
    ("DELETE", "/connectors/{connector}", Admin, Own),
    ("GET", "/connectors/{connector}/config", Read, Own),
    ("PUT", "/connectors/{connector}/config", Admin, Own),
    ("PATCH", "/connectors/{connector}/config", Admin, Own),
    ("GET", "/connectors/{connector}/status", Read, Own),
    ("PUT", "/connectors/{connector}/pause", Operate, Own),
    ("PUT", "/connectors/{connector}/resume", Operate, Own),
    ("PUT", "/connectors/{connector}/stop", Operate, Own),
    ("POST", "/connectors/{connector}/restart", Operate, Own),
    ("GET", "/connectors/{connector}/tasks", Read, Own),
    ("GET", "/connectors/{connector}/tasks/{task}/status", Read, Own),
    ("POST", "/connectors/{connector}/tasks/{task}/restart", Operate, Own),
    ("GET", "/connectors/{connector}/topics", Read, Own),
    ("PUT", "/connectors/{connector}/topics/reset", Admin, Own),
    ("GET", "/connectors/{connector}/offsets", Read, Own),
    ("PATCH", "/connectors/{connector}/offsets", Admin, Own),
    ("DELETE", "/connectors/{connector}/offsets", Admin, Own),
    ("GET", "/connector-plugins", Read, Open),
    ("GET", "/connector-plugins/{plugin}/config", Read, Open),
    ("PUT", "/connector-plugins/{plugin}/config/validate", Read, Open),
    ("GET", "/admin/loggers", Read, Open),
    ("GET", "/admin/loggers/{logger}", Read, Open),
    ("PUT", "/admin/loggers/{logger}", Admin, Closed),
    ("GET", "/aqueduct/v1/connectors/{connector}/logs", Read, Own),
    ("POST", "/aqueduct/v1/connectors/{connector}/signals", Admin, Own),
    ("GET", "/aqueduct/v1/summary", Read, Open),
    ("GET", "/aqueduct/v1/folder", Read, Closed),
    ("GET", "/aqueduct/v1/plugins", Read, Open),
    ("GET", "/aqueduct/v1/openapi.json", Read, Open),
    ("GET", "/aqueduct/v1/docs", Read, Open),
    ("GET", "/aqueduct/v1/topics", Read, Closed),
    ("POST", "/aqueduct/v1/topics", Admin, Closed),
    ("GET", "/aqueduct/v1/topics/{topic}", Read, Closed),
    ("DELETE", "/aqueduct/v1/topics/{topic}", Admin, Closed),
    ("GET", "/aqueduct/v1/topics/{topic}/records", Read, Closed),
    ("POST", "/aqueduct/v1/topics/{topic}/records", Admin, Closed),
];

struct User {
    token: String,
    role: Role,
    limited: bool,
}

/// Three roles, each for all connectors and for `team-a-*`.
fn users(site: &Site) -> Vec<User> {
    let (mut users, mut lines) = (Vec::new(), String::new());
    for (name, role) in [("read", Read), ("operate", Operate), ("admin", Admin)] {
        for limits in [&[][..], &["--connectors", "team-a-*"]] {
            let user = format!("{name}{}", limits.len());
            let args = [&["rest-user", &user, "--role", name, "--token"][..], limits].concat();
            let output = site.cli(&args);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            lines.push_str(&String::from_utf8(output.stdout).unwrap());
            let said = String::from_utf8(output.stderr).unwrap();
            users.push(User { token: said.trim().rsplit(' ').next().unwrap().to_owned(), role, limited: !limits.is_empty() });
        }
    }
    fs::write(site.path("users"), lines).unwrap();
    fs::set_permissions(site.path("users"), fs::Permissions::from_mode(0o600)).unwrap();
    users
}

#[test]
fn every_role_at_every_endpoint() {
    let mut site = Site::new();
    let users = users(&site);
    site.configure(&format!("rest.users: {}\nrest.health.public: true\n", site.path("users").display()));
    site.start();
    let http = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
    let call = |token: Option<&str>, method: &str, path: &str, body: Option<Value>| {
        let mut request = http.request(method.parse().unwrap(), format!("http://127.0.0.1:{}{path}", site.port));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    };

    let (status, document) = call(Some(&users[1].token), "GET", "/aqueduct/v1/openapi.json", None);
    assert_eq!(status, 200, "the document is for limited users with the least role, too: {document}");
    let document: Value = serde_json::from_str(&document).unwrap();
    let operations = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        item.as_object().unwrap().keys().map(|method| (method.to_ascii_uppercase(), path.clone())).collect()
    };
    let documented: BTreeSet<(String, String)> = document["paths"].as_object().unwrap().iter().flat_map(operations).collect();
    let listed: BTreeSet<(String, String)> =
        TABLE.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(documented, listed, "a new operation wants its line in the table: who may?");

    for &(method, path, needed, limits) in TABLE {
        let place = |connector: &str| {
            let filled = path.replace("{connector}", connector).replace("{task}", "0").replace("{topic}", "none");
            filled.replace("{plugin}", "file-source").replace("{logger}", "root")
        };
        // Nobody of this name: what is let through is 404, or a complaint about the body, or done to nobody. DELETE and PUT change nothing that is there.
        let body = |connector: &str| (path == "/connectors").then(|| json!({"name": connector, "config": {}}));
        for user in &users {
            for (connector, own) in [("team-a-1", true), ("team-b-1", false)] {
                let body = if method == "POST" { body(connector) } else { None };
                let (status, answer) = call(Some(&user.token), method, &place(connector), body);
                let kept_out = user.limited && (limits == Closed || (limits == Own && !own));
                let expected = user.role < needed || kept_out;
                let who = format!("{:?}{} {method} {}", user.role, if user.limited { " limited" } else { "" }, place(connector));
                assert_eq!(status == 403, expected, "{who}: {status} {answer}");
                assert_ne!(status, 401, "{who}");
                assert!(status < 500, "{who}: {status} {answer}");
            }
        }
        let (status, answer) = call(None, method, &place("team-a-1"), None);
        assert_eq!(status, if path == "/health" { 200 } else { 401 }, "{method} {path}: {answer}");
    }
}
