//! A worker that other machines reach: https, users from the command line, roles, and what the audit log says.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::{Client, Run, Site, wait_until};
use http_services::Certificates;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The line for the file, and what was said on stderr.
fn rest_user(site: &Site, args: &[&str], password: Option<&str>) -> (String, String) {
    let stdin = password.map(|password| {
        fs::write(site.path("password"), format!("{password}\n")).unwrap();
        site.path("password")
    });
    let output = site.cli_with(&[&["rest-user"], args].concat(), stdin.as_deref());
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn levels_of_loggers_may_have_a_listener_of_their_own_and_every_answer_the_operators_headers() {
    let port = aqueduct_tests::site::free_port();
    let mut site = Site::with(&format!(
        "admin.listeners: http://127.1:{port}\nrest.advertised.port: 8099\n\
         response.http.headers.config: 'set X-Frame-Options: DENY, \"add Cache-Control: no-cache, no-store\"'\n"
    ));
    site.start();
    let (client, admin) = (site.client(), Client::new(format!("http://127.1:{port}")));
    client.get("/connectors").expect(200);
    client.get("/admin/loggers").error(404);
    client.put("/admin/loggers/root", Some(&json!({"level": "DEBUG"}))).error(404);
    admin.get("/admin/loggers").expect(200);
    admin.get("/connectors").error(404);
    admin.get("/health").error(404);
    let config = json!({"connector.class": "blackhole-sink", "topics": "t"});
    client.put("/connectors/hole/config", Some(&config)).expect(201);
    let status = client.get("/connectors/hole/status").expect(200).json();
    assert_eq!(status["connector"]["worker_id"], "127.0.0.1:8099");
    let plain = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    for (base, path, status) in
        [(&client.base, "/health", 200), (&client.base, "/nothing", 404), (&admin.base, "/connectors", 404)]
    {
        let answer = plain.get(format!("{base}{path}")).send().unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap();
        assert_eq!(
            (answer.status().as_u16(), header("x-frame-options"), header("cache-control")),
            (status, "DENY", "no-cache, no-store")
        );
    }
}

#[test]
fn levels_of_loggers_may_have_a_certificate_of_their_own() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let port = aqueduct_tests::site::free_port();
    let own = others.server_pem();
    let mut site = Site::with(&format!(
        "admin.listeners: https://localhost:{port}\nadmin.listeners.https.ssl.keystore.location: {}\n\
         listeners.https.ssl.keystore.location: {}\n",
        own.display(),
        certificates.server_pem().display()
    ));
    let listeners = format!("https://localhost:{}", site.port);
    site.spawn(&Run { env: vec![("AQUEDUCT_LISTENERS".to_owned(), listeners.clone())], ..Run::default() });
    let (client, admin) = (certificates.authority(), others.authority());
    // 000: no answer, the handshake failed.
    let status = |authority: &Path, url: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--noproxy", "*", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert"]);
        text(&curl.arg(authority).arg(url).output().unwrap().stdout)
    };
    wait_until(SOON, "the worker answers", || (status(&client, &format!("{listeners}/health")) == "200").then_some(()));
    let admins = format!("https://localhost:{port}/admin/loggers");
    assert_eq!((status(&admin, &admins), status(&client, &admins)), ("200".to_owned(), "000".to_owned()));
    assert_eq!(status(&admin, &format!("{listeners}/health")), "000", "the certificate of the one is not that of the other");
}

#[test]
fn other_machines_reach_a_worker_with_credentials_only() {
    let certificates = Certificates::new();
    let mut site = Site::new();
    let (operator, said) = rest_user(&site, &["op", "--role", "operate", "--token"], None);
    let token = said.trim().rsplit(' ').next().unwrap().to_owned();
    let (reader, said) = rest_user(&site, &["ann", "--role", "read"], Some("correct horse battery"));
    assert!(said.is_empty() && !operator.contains(&token) && !reader.contains("correct horse"));
    fs::write(site.path("users"), operator + &reader).unwrap();
    fs::write(site.path("token"), &token).unwrap();

    // Nothing of this starts without users, or with users that others may read.
    let listeners = format!("https://0.0.0.0:{}", site.port);
    let run = Run { env: vec![("AQUEDUCT_LISTENERS".to_owned(), listeners)], ..Run::default() };
    let keystore = format!("listeners.https.ssl.keystore.location: {}\n", certificates.server_pem().display());
    let with_users = format!("{keystore}rest.users: {}\n", site.path("users").display());
    fs::set_permissions(site.path("users"), fs::Permissions::from_mode(0o644)).unwrap();
    for (settings, says) in [(&keystore, "rest.listener"), (&with_users, "chmod 600")] {
        site.configure(settings);
        site.spawn(&run);
        assert!(!site.wait_exit(SOON).success());
        assert!(site.log().contains(says), "{}", site.log_tail(10));
    }

    fs::set_permissions(site.path("users"), fs::Permissions::from_mode(0o600)).unwrap();
    site.connector("gen", "name: gen\nconnector.class: datagen-source\ntemplate: orders\ntopic: orders\nrate: 1\nseed: 1\n");
    site.spawn(&run);
    let url = format!("https://localhost:{}", site.port);
    let (authority, token_file) = (certificates.authority(), site.path("token"));
    let place = ["--url", url.as_str(), "--ca-file", authority.to_str().unwrap()];
    let call = |args: &[&str]| -> Output { site.cli(&[args, &place].concat()) };
    let with_token = |args: &[&str]| call(&[args, &["--token-file", token_file.to_str().unwrap()]].concat());
    wait_until(SOON, "the connector of the folder is listed", || {
        text(&with_token(&["connectors", "list"]).stdout).contains("gen").then_some(())
    });
    let refused = call(&["connectors", "list"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("401"), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("--token-file"), "{}", text(&refused.stderr));

    let paused = with_token(&["connectors", "pause", "gen"]);
    assert!(paused.status.success(), "{}", text(&paused.stderr));
    let deleted = with_token(&["connectors", "delete", "gen"]);
    assert!(!deleted.status.success() && text(&deleted.stderr).contains("needs admin"), "{}", text(&deleted.stderr));

    let log = site.log();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("audit") && line.contains("/connectors/gen")).collect();
    let line = |method: &str, status: &str| {
        audit.iter().any(|line| [method, status, "op", "operate"].iter().all(|word| line.contains(word)))
    };
    assert!(line("PUT", "202") && line("DELETE", "403"), "{audit:#?}");
    assert!(!log.contains(&token) && !log.contains("$argon2id$"), "a credential is in the log");
}
