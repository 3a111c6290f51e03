//! What a component does by WASI, and what it measures: files and sockets only by grant, and no wait without an end.

use super::{DEADLINE, context, failing, loaded, options, plugin, serve, small, zoo_source};
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{Bytes, MeasureKind, Options, Payload, Plugin, Record, Rejects, SourcePlugin, SourceTask, TaskSpec};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn lines(grant: PluginGrant) -> Arc<dyn SourcePlugin> {
    let Plugin::Source(source) = plugin("lines-source", &[("lines-source", grant)]) else { panic!("a source") };
    source
}

fn sockets(rules: &[&str], private: bool) -> PluginGrant {
    let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
    PluginGrant { sockets: rules, private_networks: private, ..small() }
}

fn files(folder: &str) -> PluginGrant {
    PluginGrant { files: [folder.to_owned()].into_iter().collect(), ..small() }
}

async fn read(task: &mut Box<dyn SourceTask>, wanted: usize) -> Vec<String> {
    let (mut found, end) = (Vec::new(), Instant::now() + DEADLINE);
    while found.len() < wanted {
        assert!(Instant::now() < end, "{found:?}");
        let polled = task.poll(&context(Duration::from_millis(50))).await.unwrap();
        found.extend(polled.batch.into_records().map(|record| match record.value {
            Payload::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_reaches_what_is_granted_and_nothing_else() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let at = |host: &str| options(&[("topic", "t"), ("connect", &format!("{host}:{port}"))]);
    let (other, exact) = (format!("localhost:{}", port ^ 1), format!("localhost:{port}"));
    for (rules, private, host, why) in [
        (&[][..], true, "127.0.0.1", "denied"),
        (&["example.com"], true, "127.0.0.1", "denied"),
        (&["example.com"], true, "localhost", "denied"),
        (&[&*other], true, "localhost", "denied"),
        (&[&*exact], true, "127.0.0.1", "denied"),
        (&["localhost", "127.0.0.1"], false, "localhost", "denied"),
        (&["*"], false, "127.0.0.1", "denied"),
        (&["*"], true, "169.254.169.254", "denied"),
    ] {
        let source = lines(sockets(rules, private));
        let error = failing(source.open(&at(host), TaskSpec::new(), Vec::new())).await;
        assert_eq!(error.code(), format!("plugin.lines-source.{why}"), "{rules:?} {private} {host}: {error}");
        assert!(!error.is_retriable());
    }
    for (rules, host) in [(&[&*exact][..], "localhost"), (&["127.0.0.1"], "127.0.0.1"), (&["*"], "LOCALHOST")] {
        let source = lines(sockets(rules, true));
        let options = at(host);
        let mut task = source.open(&options, TaskSpec::new(), Vec::new()).await.unwrap();
        let mut stream = server.accept().await.unwrap().0;
        stream.write_all(b"one\ntwo\nthr").await.unwrap();
        assert_eq!(read(&mut task, 2).await, ["one", "two"]);
        let measures = task.report().measures;
        let told: Vec<_> = measures.iter().map(|measure| (&*measure.name, measure.kind, measure.value)).collect();
        assert_eq!(told, [("plugin_lines", MeasureKind::Counter, 2.0), ("plugin_unfinished_bytes", MeasureKind::Gauge, 3.0)]);
        let labels = [("plugin", "lines-source"), ("from", "socket")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(measures[0].labels, labels);
        stream.write_all(b"ee\n").await.unwrap();
        assert_eq!(read(&mut task, 1).await, ["three"]);
        // A poll without a word from the server ends in its time.
        assert!(task.poll(&context(Duration::from_millis(20))).await.unwrap().batch.is_empty());
        task.close().await.unwrap();
    }
}

/// It reads from a server that says nothing, without a limit of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_nobody_waits_for_ends_with_its_socket() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    let source = lines(sockets(&[&address], true));
    let options = options(&[("topic", "t"), ("connect", &address), ("patient", "true")]);
    let mut task = source.open(&options, TaskSpec::new(), Vec::new()).await.unwrap();
    let mut stream = server.accept().await.unwrap().0;
    let polled = tokio::time::timeout(Duration::from_millis(100), task.poll(&context(Duration::ZERO))).await;
    assert!(polled.is_err(), "it waits as long as it is let");
    drop(task);
    let ended = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 1])).await.expect("the instance is gone");
    assert!(matches!(ended, Ok(0) | Err(_)), "its socket is closed: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_those_of_the_granted_folders() {
    let folder = tempfile::TempDir::new().unwrap();
    let inside = folder.path().join("in");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("a.txt"), "one\ntwo\n").unwrap();
    std::fs::write(folder.path().join("secret.txt"), "no\n").unwrap();
    std::os::unix::fs::symlink(folder.path().join("secret.txt"), inside.join("link.txt")).unwrap();
    let granted = inside.display().to_string();
    let at = |name: &str| options(&[("topic", "t"), ("file", &format!("{granted}/{name}"))]);
    let source = lines(files(&granted));
    let mut task = source.open(&at("a.txt"), TaskSpec::new(), Vec::new()).await.unwrap();
    assert_eq!(read(&mut task, 2).await, ["one", "two"]);
    for name in ["../secret.txt", "link.txt", "/etc/passwd", "none.txt"] {
        let error = failing(source.open(&at(name), TaskSpec::new(), Vec::new())).await;
        assert_eq!(error.code(), "plugin.lines-source.file", "{name}: {error}");
    }
    let error = failing(lines(small()).open(&at("a.txt"), TaskSpec::new(), Vec::new())).await;
    assert!(error.message().contains("none of the folders"), "{error}");
    let gone = lines(files("/no/such/folder"));
    assert_eq!(failing(gone.open(&at("a.txt"), TaskSpec::new(), Vec::new())).await.code(), "plugin.files");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_those_of_the_granted_hosts() {
    let url = serve(|_, _| (200, "one\ntwo\n".to_owned())).await;
    let at = |url: &str| options(&[("topic", "t"), ("url", url)]);
    let http = |rules: &[&str], private: bool| {
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        PluginGrant { http: rules, private_networks: private, ..small() }
    };
    let mut task = lines(http(&["127.0.0.1"], true)).open(&at(&url), TaskSpec::new(), Vec::new()).await.unwrap();
    assert_eq!(read(&mut task, 2).await, ["one", "two"]);
    for (rules, private, url) in [
        (&[][..], true, &*url),
        (&["example.com"], true, &*url),
        (&["*"], false, &*url),
        (&["*"], true, "http://169.254.169.254/latest/meta-data"),
    ] {
        let error = failing(lines(http(rules, private)).open(&at(url), TaskSpec::new(), Vec::new())).await;
        assert_eq!(error.code(), "plugin.lines-source.denied", "{rules:?} {private} {url}: {error}");
    }
    let gone = failing(lines(http(&["*"], true)).open(&at("http://127.0.0.1:1/"), TaskSpec::new(), Vec::new())).await;
    assert!(gone.code() == "plugin.lines-source.page" && gone.is_retriable(), "{gone}");
}

/// What a plugin needs and worker.yaml does not grant is said before anything runs, wherever a config is judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_capability_that_is_needed_and_not_granted_is_named() {
    let refused = plugin("jsonl-sink", &[("jsonl-sink", small())]).validate(&options(&[("url", "http://127.0.0.1:1/x")]));
    let [issue] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(issue.code, "plugin.capability");
    assert!(issue.message.contains("needs http") && issue.message.contains("posts to the host of `url`"), "{issue:?}");
    assert!(issue.fix.as_deref().unwrap().contains("plugins.jsonl-sink.allow.http"), "{issue:?}");
    // Beside what is wrong with the options.
    let codes = plugin("jsonl-sink", &[]).validate(&Options::new()).into_iter().map(|issue| issue.code).collect::<Vec<_>>();
    assert_eq!(codes, ["plugin.capability", "config.missing"]);
    let granted = PluginGrant { http: ["127.0.0.1".to_owned()].into_iter().collect(), ..small() };
    let plugin = plugin("jsonl-sink", &[("jsonl-sink", granted)]);
    assert!(plugin.validate(&options(&[("url", "http://127.0.0.1:1/x")])).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sinks_and_transforms_measure_is_told() {
    let url = serve(|_, _| (200, String::new())).await;
    let Plugin::Sink(sink) = plugin("jsonl-sink", &[("jsonl-sink", super::local())]) else { panic!("a sink") };
    let mut task = sink.open(&options(&[("url", &url)]), TaskSpec::new()).await.unwrap();
    let reports = task.reports().unwrap();
    let batch = || [Record::new("t", Bytes::from_static(b"{}"))].into_iter().collect();
    for count in [1.0, 2.0] {
        task.put(&batch(), &mut Rejects::default(), &context(DEADLINE)).await.unwrap();
        let measures = reports.borrow().measures.clone();
        assert_eq!((measures.len(), &*measures[0].name, measures[0].value), (1, "plugin_requests", count));
    }
    let mut transform = loaded("mask-transform", &[]).transforms[0].build(&options(&[("fields", "a")])).unwrap();
    let record = Record::new("t", r#"{"a":1}"#);
    transform.apply([record].into_iter().collect(), &mut Rejects::default()).await.unwrap();
    let measures = transform.measures();
    assert_eq!((measures.len(), &*measures[0].name, measures[0].value), (1, "plugin_records_masked", 1.0));
}

/// 300 ms of its own time, at a quarter of a core: it has run 30 ticks, and rested three times as long in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_a_core_is_all_that_it_gets() {
    let elapsed = async |cpu: f64| {
        let source = zoo_source(PluginGrant { cpu, ..small() });
        let mut task = source.open(&options(&[("mode", "loop-poll")]), TaskSpec::new(), Vec::new()).await.unwrap();
        let begun = Instant::now();
        assert_eq!(failing(task.poll(&context(Duration::ZERO))).await.code(), "plugin.timeout");
        begun.elapsed()
    };
    // Its 30 ticks have 29 pauses of 30 ms between them. The ticks themselves may be short: each ends with the clock's next.
    let quarter = elapsed(0.25).await;
    assert!(quarter >= Duration::from_millis(29 * 30), "{quarter:?}");
    // Nobody waits for its rest either.
    let source = zoo_source(PluginGrant { cpu: 0.01, ..small() });
    let mut task = source.open(&options(&[("mode", "loop-poll")]), TaskSpec::new(), Vec::new()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), task.poll(&context(Duration::ZERO))).await.is_err());
}
