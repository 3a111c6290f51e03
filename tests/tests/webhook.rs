//! `webhook-source` on the built worker: what was answered with 2xx is in the log whatever happens, and once.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::segment::{partitions, read_partition};
use aqueduct_tests::site::free_port;
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Run, Site, env_number, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const TOPIC: &str = "hooks";

fn hooks(site: &Site, port: u16, more: &str) {
    let yaml = format!(
        "name: hooks\nconnector.class: webhook-source\nlistener: http://127.0.0.1:{port}\npath: /hooks\ntopic: {TOPIC}\n{more}"
    );
    site.connector("hooks", &yaml);
}

struct Sender {
    http: reqwest::blocking::Client,
    url: String,
}

impl Sender {
    fn to(port: u16) -> Self {
        let http = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Self { http, url: format!("http://127.0.0.1:{port}/hooks") }
    }

    /// The status; `None` without an answer.
    fn send(&self, id: &str, body: &str) -> Option<u16> {
        let request = self.http.post(&self.url).header("webhook-id", id).body(body.to_owned());
        request.send().ok().map(|answer| answer.status().as_u16())
    }

    /// As senders do: the same event again until it is taken. How often that was.
    fn send_until_taken(&self, id: &str) -> u64 {
        let mut tries = 0;
        wait_until(SOON, "the event is taken", || {
            tries += 1;
            matches!(self.send(id, id), Some(200)).then_some(tries)
        })
    }
}

fn values(site: &Site) -> Vec<String> {
    let mut values = Vec::new();
    for (_, folder) in partitions(&site.data_dir(), TOPIC).unwrap() {
        let records = read_partition(&folder).unwrap();
        values.extend(records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()));
    }
    values
}

/// `KILLS` times; `SEED` for the moments.
#[test]
fn what_was_answered_is_in_the_log_after_every_kill_and_once() {
    const SENDERS: u64 = 4;
    let kills = env_number("KILLS", 10);
    let mut random = fastrand::Rng::with_seed(env_number("SEED", 1));
    let (mut site, port) = (Site::new(), free_port());
    hooks(&site, port, "");
    site.start();
    let (answered, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let sent: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let (answered, done) = (&answered, &done);
        let sender = |number: u64| {
            move || {
                let sender = Sender::to(port);
                let (mut next, mut repeats) = (0, 0);
                while !done.load(Relaxed) {
                    repeats += sender.send_until_taken(&format!("{number}-{next}")) - 1;
                    answered.fetch_add(1, Relaxed);
                    next += 1;
                }
                (next, repeats)
            }
        };
        let senders: Vec<_> = (0..SENDERS).map(|number| scope.spawn(sender(number))).collect();
        for _ in 0..kills {
            let goal = answered.load(Relaxed) + random.u64(1..150);
            wait_until(SOON, "events are taken", || (answered.load(Relaxed) >= goal).then_some(()));
            site.kill();
            // Each 2xx so far is in the log as the kill left it: nothing is there to write it later.
            site.start();
        }
        let goal = answered.load(Relaxed) + 20;
        wait_until(SOON, "events are taken after the last kill", || (answered.load(Relaxed) >= goal).then_some(()));
        done.store(true, Relaxed);
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    site.kill();
    let stored = values(&site);
    let distinct: BTreeSet<&String> = stored.iter().collect();
    assert_eq!(distinct.len(), stored.len(), "an event is there twice");
    let expected: BTreeSet<String> = sent
        .iter()
        .enumerate()
        .flat_map(|(number, (count, _))| (0..*count).map(move |next| format!("{number}-{next}")))
        .collect();
    let lost: Vec<_> = expected.iter().filter(|id| !distinct.contains(id)).take(5).collect();
    assert!(lost.is_empty(), "answered with 2xx and lost: {lost:?}");
    assert_eq!(distinct.len(), expected.len());
    // Or the kills hit nobody, and nothing was shown.
    assert!(sent.iter().map(|(_, repeats)| repeats).sum::<u64>() > 0, "no event was sent twice");
}

/// The worker dies at each gap between a request and its answer; the sender hears nothing, and sends again.
#[test]
fn a_cut_before_the_answer_is_a_repeat() {
    for point in ["source.polled", "source.appended", "source.committed"] {
        let (mut site, port) = (Site::new(), free_port());
        site.start();
        hooks(&site, port, "");
        let sender = Sender::to(port);
        sender.send_until_taken("first");
        site.stop();
        site.start_with(&Run::failpoints(format!("{point}=abort@1")));
        // Also until the listener is there.
        wait_until(SOON, point, || {
            let answered = sender.send("cut", "cut");
            assert_ne!(answered, Some(200), "{point}: the worker lives");
            site.exited()
        });
        let there = values(&site).iter().any(|value| value == "cut");
        if point == "source.committed" {
            assert!(there, "{point}: durable, and not there");
        }
        site.start();
        sender.send_until_taken("cut");
        sender.send_until_taken("first");
        site.stop();
        assert_eq!(values(&site), ["first", "cut"], "{point}");
    }
}

#[test]
fn a_paused_connector_says_503_and_others_on_its_port_go_on() {
    let (mut site, port) = (Site::new(), free_port());
    hooks(&site, port, "");
    site.connector(
        "other",
        &format!(
            "name: other\nconnector.class: webhook-source\nlistener: http://127.0.0.1:{port}\npath: /other\ntopic: others\n"
        ),
    );
    site.start();
    let (sender, client) = (Sender::to(port), site.client());
    sender.send_until_taken("1");
    client.put("/connectors/hooks/pause", None).expect(202);
    wait_until(SOON, "503 while it is paused", || (sender.send("2", "2") == Some(503)).then_some(()));
    let other = Sender { url: format!("http://127.0.0.1:{port}/other"), ..Sender::to(port) };
    other.send_until_taken("1");
    client.put("/connectors/hooks/resume", None).expect(202);
    assert!(sender.send_until_taken("2") >= 1);
    // A third connector that wants the same path fails by name, and disturbs nobody.
    site.connector(
        "third",
        &fs::read_to_string(site.connectors_dir().join("hooks.yaml")).unwrap().replace("name: hooks", "name: third"),
    );
    wait_until(SOON, "the conflict is named", || {
        let status = client.call(reqwest::Method::GET, "/connectors/third/status", None).ok()?;
        status.text.contains("webhook.path_taken").then_some(())
    });
    sender.send_until_taken("3");
    site.stop();
    assert_eq!(values(&site), ["1", "2", "3"]);
}

/// Heads and bodies that never end: others are served meanwhile, and the worker ends in time.
#[test]
fn slow_clients_hold_nobody_up() {
    let (mut site, port) = (Site::new(), free_port());
    hooks(&site, port, "");
    site.start();
    let sender = Sender::to(port);
    sender.send_until_taken("before");
    let mut slow: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let head = "POST /hooks HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n";
            stream.write_all(if n % 2 == 0 { head.to_owned() } else { format!("{head}\r\nabc") }.as_bytes()).unwrap();
            stream
        })
        .collect();
    sender.send_until_taken("meanwhile");
    // The heads' time is over first.
    let mut first = slow.remove(0);
    first.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(first.read(&mut [0; 100]).unwrap_or(0), 0, "half a head was answered");
    site.stop();
    assert_eq!(values(&site), ["before", "meanwhile"]);
}

struct Nginx {
    child: Child,
    _home: tempfile::TempDir,
}

impl Nginx {
    fn before(hooks: u16, port: u16) -> Self {
        let home = tempfile::Builder::new().prefix("aqueduct-nginx-").tempdir().unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", home.path().display()))
            .collect();
        let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
        let config = format!(
            "{user}daemon off;\nmaster_process off;\npid {home}/pid;\nerror_log {home}/error.log;\nevents {{}}\nhttp {{\n  access_log off;\n{temporary}\
             \x20 upstream hooks {{ server 127.0.0.1:{hooks}; keepalive 8; }}\n  server {{\n    listen 127.0.0.1:{port};\n    client_max_body_size 8m;\n    \
             location / {{\n      proxy_pass http://hooks;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
             proxy_set_header X-Forwarded-For $remote_addr;\n    }}\n  }}\n}}\n",
            home = home.path().display()
        );
        let file = home.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(if fs::exists("/usr/sbin/nginx").unwrap() { "/usr/sbin/nginx" } else { "nginx" });
        command.arg("-c").arg(file).arg("-e").arg(home.path().join("error.log")).stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("nginx: {error}; `cargo xtask services` installs it"));
        wait_until(SOON, "nginx listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, _home: home }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn behind_nginx_nothing_is_lost_either() {
    let (mut site, port, front) = (Site::new(), free_port(), free_port());
    hooks(&site, port, "headers: x-forwarded-for\nbody.max.bytes: 2 MiB\nrecord.max.bytes: 1 MiB\n");
    site.start();
    let _nginx = Nginx::before(port, front);
    let sender = Sender::to(front);
    for n in 0..50 {
        sender.send_until_taken(&n.to_string());
    }
    assert_eq!(sender.send("large", &"x".repeat(600_000)), Some(200));
    assert_eq!(sender.send("larger", &"x".repeat(3 << 20)), Some(413));
    // The worker is gone, and comes back: nginx answers for it meanwhile.
    site.kill();
    assert_eq!(sender.send("50", "50"), Some(502));
    site.start();
    for n in 50..60 {
        sender.send_until_taken(&n.to_string());
    }
    // Idle for longer than a connection keeps its buffers, on both sides of nginx.
    pause(Duration::from_millis(1500));
    sender.send_until_taken("60");
    site.stop();
    let mut stored = values(&site);
    stored.retain(|value| value.len() < 100);
    assert_eq!(stored, (0..=60).map(|n| n.to_string()).collect::<Vec<_>>());
    let records = read_partition(&partitions(&site.data_dir(), TOPIC).unwrap()[0].1).unwrap();
    assert!(records.iter().all(|record| record.headers == [("x-forwarded-for".to_owned(), Some(b"127.0.0.1".to_vec()))]));
}
