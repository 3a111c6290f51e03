//! Who may do what, over every route.

use super::{Answer, Api, count};
use aqueduct_rest::{RestOptions, Role, Users, password_line, token_line};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Every route, and the least role that it takes. The connector is not there: what is let through is 404 or a complaint about the body.
const ROUTES: [(&str, &str, Role); 43] = [
    ("GET", "/", Role::Read),
    ("GET", "/health", Role::Read),
    ("GET", "/metrics", Role::Read),
    ("GET", "/connectors", Role::Read),
    ("GET", "/connectors/", Role::Read),
    ("HEAD", "/connectors", Role::Read),
    ("POST", "/connectors", Role::Admin),
    ("POST", "/connectors/", Role::Admin),
    ("GET", "/connectors/none", Role::Read),
    ("DELETE", "/connectors/none", Role::Admin),
    ("GET", "/connectors/none/config", Role::Read),
    ("PUT", "/connectors/none/config", Role::Admin),
    ("PATCH", "/connectors/none/config", Role::Admin),
    ("GET", "/connectors/none/status", Role::Read),
    ("PUT", "/connectors/none/pause", Role::Operate),
    ("PUT", "/connectors/none/pause/", Role::Operate),
    ("PUT", "/connectors/none%2Fx/resume", Role::Operate),
    ("PUT", "/connectors/none/stop", Role::Operate),
    ("POST", "/connectors/none/restart?includeTasks=true", Role::Operate),
    ("GET", "/connectors/none/tasks", Role::Read),
    ("GET", "/connectors/none/tasks/0/status", Role::Read),
    ("POST", "/connectors/none/tasks/0/restart", Role::Operate),
    ("GET", "/connectors/none/topics", Role::Read),
    ("PUT", "/connectors/none/topics/reset", Role::Admin),
    ("GET", "/connectors/none/offsets", Role::Read),
    ("PATCH", "/connectors/none/offsets", Role::Admin),
    ("DELETE", "/connectors/none/offsets", Role::Admin),
    ("GET", "/connector-plugins", Role::Read),
    ("GET", "/connector-plugins/count-source/config", Role::Read),
    ("PUT", "/connector-plugins/count-source/config/validate", Role::Read),
    ("GET", "/admin/loggers", Role::Read),
    ("GET", "/admin/loggers/root", Role::Read),
    ("PUT", "/admin/loggers/root", Role::Admin),
    ("GET", "/aqueduct/v1/connectors/none/logs", Role::Read),
    ("POST", "/aqueduct/v1/connectors/none/signals", Role::Admin),
    ("GET", "/aqueduct/v1/summary", Role::Read),
    ("GET", "/aqueduct/v1/folder", Role::Read),
    ("GET", "/aqueduct/v1/plugins", Role::Read),
    ("GET", "/aqueduct/v1/topics", Role::Read),
    ("POST", "/aqueduct/v1/topics", Role::Admin),
    ("DELETE", "/aqueduct/v1/topics/none", Role::Admin),
    ("POST", "/aqueduct/v1/topics/none/records", Role::Admin),
    ("DELETE", "/nothing", Role::Admin),
];

const PASSWORD: &str = "correct horse";

fn write(path: &Path, lines: &[String]) {
    let new = path.with_extension("new");
    std::fs::write(&new, lines.join("\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// A worker with users, and what each sends: `ann` has a password and may read, the others a token.
struct Guarded {
    api: Api,
    read: String,
    operate: String,
    admin: String,
    /// An admin of `team-a-*`.
    team: String,
    _dir: tempfile::TempDir,
}

impl Guarded {
    async fn start(health_public: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let (operate, operate_token) = token_line("op", Role::Operate, "").unwrap();
        let (admin, admin_token) = token_line("root", Role::Admin, "").unwrap();
        let (team, team_token) = token_line("team", Role::Admin, "team-a-*").unwrap();
        write(&path, &[password_line("ann", PASSWORD, Role::Read, "").unwrap(), operate, admin, team]);
        let users = Some(Arc::new(Users::open(&path).unwrap()));
        let api = Api::start_with(RestOptions { users, health_public, ..RestOptions::default() }).await;
        Self {
            api,
            read: basic("ann", PASSWORD),
            operate: bearer(&operate_token),
            admin: bearer(&admin_token),
            team: bearer(&team_token),
            _dir: dir,
        }
    }

    /// By a name that the worker was never told.
    async fn call(&self, credential: Option<&str>, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut headers = vec![("host", "worker-7.prod.example:8443")];
        headers.extend(credential.map(|credential| ("authorization", credential)));
        self.api.call_with(&headers, method, path, body).await
    }
}

#[tokio::test]
async fn every_role_reaches_its_routes_and_no_other() {
    let guarded = Guarded::start(false).await;
    for (method, path, needed) in ROUTES {
        for (role, credential) in [(Role::Read, &guarded.read), (Role::Operate, &guarded.operate), (Role::Admin, &guarded.admin)]
        {
            let answer = guarded.call(Some(credential), method, path, None).await;
            assert_ne!(answer.status, 401, "{role} {method} {path}");
            assert_eq!(answer.status == 403, role < needed, "{role} {method} {path}: {} {}", answer.status, answer.text);
            if answer.status == 403 {
                let message = answer.error(403);
                assert!(message.contains(&format!("needs {needed}")), "{message}");
            }
        }
        let answer = guarded.call(None, method, path, None).await;
        assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn who_is_not_known_is_told_how_to_log_in_and_nothing_else() {
    let guarded = Guarded::start(false).await;
    for credential in [None, Some(basic("ann", "wrong")), Some(basic("nobody", PASSWORD)), Some(bearer(&"x".repeat(40)))] {
        let answer = guarded.call(credential.as_deref(), "GET", "/connectors", None).await;
        let asks: Vec<&str> = answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
        assert!(asks[0].starts_with("Basic realm=\"Aqueduct\"") && asks[1].starts_with("Bearer realm=\"Aqueduct\""), "{asks:?}");
        assert_eq!(answer.error(401), "HTTP 401 Unauthorized: send the name and password of a user, or a token");
    }
    let again = guarded.call(Some(&guarded.read), "GET", "/connectors", None).await;
    assert_eq!(again.expect(200).json(), json!([]));
}

#[tokio::test]
async fn guesses_cost_time_and_other_users_none() {
    let guarded = Guarded::start(false).await;
    let wrong = basic("ann", "wrong password");
    let begin = Instant::now();
    let told = loop {
        let answer = guarded.call(Some(&wrong), "GET", "/connectors", None).await;
        if answer.status == 429 {
            break answer;
        }
        answer.expect(401);
        assert!(begin.elapsed() < Duration::from_secs(90), "nobody is ever told to wait");
    };
    assert!(told.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    told.error(429);
    guarded.call(Some(&guarded.operate), "GET", "/connectors", None).await.expect(200);
}

#[tokio::test]
async fn health_is_public_only_where_the_operator_says_so() {
    for (public, expected) in [(false, 401), (true, 200)] {
        let guarded = Guarded::start(public).await;
        assert_eq!(guarded.call(None, "GET", "/health", None).await.status, expected);
        assert_eq!(guarded.call(None, "GET", "/", None).await.status, 401);
        assert_eq!(guarded.call(None, "POST", "/health", None).await.status, 401);
    }
}

#[tokio::test]
async fn one_who_is_limited_to_connectors_has_those_alone() {
    let guarded = Guarded::start(false).await;
    for name in ["team-a-1", "team-b-1"] {
        let body = json!({ "name": name, "config": count(name, 1) });
        guarded.call(Some(&guarded.admin), "POST", "/connectors", Some(body)).await.expect(201);
    }
    let call = async |method: &str, path: &str, body: Option<Value>| guarded.call(Some(&guarded.team), method, path, body).await;
    assert_eq!(call("GET", "/connectors", None).await.expect(200).json(), json!(["team-a-1"]));
    let expanded = call("GET", "/connectors?expand=info&expand=status", None).await.expect(200).json();
    assert_eq!(expanded.as_object().unwrap().keys().collect::<Vec<_>>(), ["team-a-1"]);
    let summary = call("GET", "/aqueduct/v1/summary", None).await.expect(200);
    assert!(summary.text.contains("team-a-1") && !summary.text.contains("team-b-1"), "{}", summary.text);
    call("GET", "/connectors/team-a-1/status", None).await.expect(200);
    // The same whether it is there or not.
    let (there, nowhere) = (call("GET", "/connectors/team-b-1", None).await, call("GET", "/connectors/team-b-9", None).await);
    assert_eq!(there.error(403).replace("team-b-1", "team-b-9"), nowhere.error(403));
    for path in
        ["/connectors/team-b-1/status/", "/connectors/team%2Db-1", "/metrics", "/aqueduct/v1/topics", "/aqueduct/v1/folder"]
    {
        call("GET", path, None).await.error(403);
    }
    call("DELETE", "/connectors/team-b-1", None).await.error(403);
    call("PUT", "/connectors/team-b-2/config", Some(count("t", 1))).await.error(403);
    call("POST", "/connectors", Some(json!({ "name": "team-b-2", "config": count("t", 1) }))).await.error(403);
    call("POST", "/connectors", Some(json!({ "name": "team-a-2", "config": count("t", 1) }))).await.expect(201);
    let all = guarded.call(Some(&guarded.admin), "GET", "/connectors", None).await.expect(200).json();
    assert_eq!(all.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn one_who_calls_too_often_waits_and_the_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let (wild, wild_token) = token_line("wild", Role::Admin, "").unwrap();
    let (other, other_token) = token_line("other", Role::Read, "").unwrap();
    write(&path, &[wild, other]);
    let users = Some(Arc::new(Users::open(&path).unwrap()));
    let (rates, health_public) = (aqueduct_rest::Rates::new(1).map(Arc::new), true);
    let api = Api::start_with(RestOptions { users, rates, health_public, ..RestOptions::default() }).await;
    let call = async |token: &str, path: &str| api.call_with(&[("authorization", &bearer(token))], "GET", path, None).await;
    let mut refused = None;
    for _ in 0..100 {
        let answer = call(&wild_token, "/connectors").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert!(refused.error(429).contains("rest.rate.limit"));
    call(&other_token, "/connectors").await.expect(200);
    call(&wild_token, "/health").await.expect(200);
    // Nobody is asked who he is: it is this machine's own API.
    let rates = aqueduct_rest::Rates::new(1).map(Arc::new);
    let api = Api::start_with(RestOptions { rates, ..RestOptions::default() }).await;
    for _ in 0..100 {
        api.call("GET", "/connectors", None).await.expect(200);
    }
}

#[tokio::test]
async fn users_come_and_go_while_the_worker_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let (first, first_token) = token_line("ci", Role::Read, "").unwrap();
    let (second, second_token) = token_line("ci", Role::Read, "").unwrap();
    write(&path, std::slice::from_ref(&first));
    let users = Some(Arc::new(Users::open(&path).unwrap()));
    let api = Api::start_with(RestOptions { users, ..RestOptions::default() }).await;
    let status = async |token: &str| api.call_with(&[("authorization", &bearer(token))], "GET", "/connectors", None).await.status;
    let until = async |token: &str, wanted: &[u16]| {
        let begin = Instant::now();
        loop {
            let now = status(token).await;
            if wanted.contains(&now) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "still {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(status(&first_token).await, 200);
    write(&path, &[first, second.clone()]);
    until(&second_token, &[200]).await;
    write(&path, &[second]);
    until(&first_token, &[401, 429]).await;
    assert_eq!(status(&second_token).await, 200);
}

#[tokio::test]
async fn credentials_do_not_open_calls_from_other_sites() {
    let guarded = Guarded::start(false).await;
    let headers = [("host", "worker:8443"), ("authorization", guarded.admin.as_str()), ("origin", "https://evil.example")];
    guarded.api.call_with(&headers, "DELETE", "/connectors/none", None).await.error(403);
    // Without credentials to ask for, the name in the address must be this machine's.
    let open = Api::start().await;
    open.call_with(&[("host", "worker:8443")], "GET", "/connectors", None).await.error(403);
}
