//! Sources, sinks and transforms from components, as a worker uses them: the examples, and a zoo of guests that do what they must not.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_config::worker_config::PluginGrant;
use aqueduct_config::{ByteSize, Millis};
use aqueduct_connectors::conformance::{self, SinkCase, SourceCase};
use aqueduct_core::{
    Ack, Batch, Bytes, CancellationToken, Error, Options, Payload, Plugin, Record, Rejects, Result, TaskContext, TaskId, TaskSpec,
};
use aqueduct_plugin_host::{Folders, Loaded, load, load_bytes};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

fn guest(package: &str) -> Vec<u8> {
    std::fs::read(plugin_services::guest(package)).unwrap()
}

/// Generous: the bound that the host keeps is the call's own limit, 300 ms here.
const DEADLINE: Duration = Duration::from_secs(180);

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn loaded(name: &str, grants: &[(&str, PluginGrant)]) -> Loaded {
    let grants = grants.iter().map(|(name, grant)| ((*name).to_owned(), grant.clone())).collect();
    load_bytes(guest(name), &grants).unwrap()
}

fn plugin(name: &str, grants: &[(&str, PluginGrant)]) -> Plugin {
    loaded(name, grants).plugins.remove(0)
}

fn context(wait_max: Duration) -> TaskContext {
    let interrupt = CancellationToken::new();
    TaskContext { task: TaskId::new("t", 0), wait_max, max_bytes: 1 << 20, max_records: 100, interrupt }
}

/// Hosts of this machine.
fn local() -> PluginGrant {
    let mut grant = PluginGrant { private_networks: true, call_timeout: Millis::from_secs(30), ..PluginGrant::default() };
    grant.http.0.push("127.0.0.1".to_owned());
    grant
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counter_is_a_source_as_ours_are() {
    let plugin = plugin("counter-source", &[]);
    conformance::descriptor(&plugin);
    let options = options(&[("topic", "numbers"), ("count", "20")]);
    assert_eq!(plugin.plan(&options, 3).await.unwrap().len(), 3);
    let issues = plugin.validate(&Options::from([("bytes".to_owned(), "5".to_owned())]));
    let found: Vec<(&str, &str)> = issues.iter().map(|issue| (issue.path.as_str(), issue.code.as_str())).collect();
    assert_eq!(found, [("topic", "config.missing"), ("bytes", "config.range")]);
    let Plugin::Source(source) = &plugin else { panic!("a source") };
    let mut task = source.open(&options, TaskSpec::new(), Vec::new()).await.unwrap();
    let cx = TaskContext { max_records: 15, ..context(Duration::from_millis(10)) };
    let first = task.poll(&cx).await.unwrap();
    assert_eq!((first.batch.len(), first.resume.len()), (15, 1));
    task.commit(&first.resume).await.unwrap();
    task.close().await.unwrap();
    let mut task = source.open(&options, TaskSpec::new(), first.resume).await.unwrap();
    let rest = task.poll(&cx).await.unwrap().batch.into_records().map(|record| record.value).collect::<Vec<_>>();
    assert_eq!(rest.len(), 5);
    let Payload::Bytes(last) = &rest[4] else { panic!("bytes") };
    assert!(last.starts_with(b" 19 ") && last.len() == 100, "{last:?}");
    // It waits without blocking, and returns when it is asked to.
    let cx = context(DEADLINE);
    cx.interrupt.cancel();
    assert!(task.poll(&cx).await.unwrap().batch.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paged_api_passes_the_kit_of_sources() {
    let url = serve(|request, _| {
        let number = |name: &str| -> usize {
            let found = request.split(['?', '&', ' ']).find_map(|part| part.strip_prefix(name)).unwrap();
            found.parse().unwrap()
        };
        let (after, limit) = (number("after="), number("limit="));
        let items: Vec<String> =
            (after + 1..=(after + limit).min(60)).map(|id| format!("{{\"id\":{id},\"name\":\"n{id}\"}}")).collect();
        (200, format!("[{}]", items.join(",")))
    })
    .await;
    let plugin = plugin("paged-api-source", &[("paged-api-source", local())]);
    conformance::descriptor(&plugin);
    let options = options(&[("url", &url), ("topic", "items"), ("page.size", "7"), ("interval.ms", "1")]);
    conformance::source(&SourceCase {
        plugin,
        options,
        records: 60,
        stream: |record| record.topic.to_string(),
        strip: conformance::all_of_it,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_pass_the_kit_of_sinks() {
    let lines = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let taken = lines.clone();
    let url = serve(move |_, body| {
        let mut taken = taken.lock().unwrap();
        taken.extend(String::from_utf8(body.to_vec()).unwrap().lines().map(|line| line.trim_matches('"').to_owned()));
        (200, String::new())
    })
    .await;
    let plugin = plugin("jsonl-sink", &[("jsonl-sink", local())]);
    conformance::descriptor(&plugin);
    let Plugin::Sink(sink) = &plugin else { panic!("a sink") };
    let options = options(&[("url", &url)]);
    let mut task = sink.open(&options, TaskSpec::new()).await.unwrap();
    let mut rejects = Rejects::default();
    let values = ["{\"a\":\n1}".as_bytes(), b"\xff", b"text"];
    let batch: Batch = values.map(|value| Record::new("t", Bytes::from_static(value))).into_iter().collect();
    assert_eq!(task.put(&batch, &mut rejects, &context(DEADLINE)).await.unwrap(), Ack::Durable);
    assert_eq!(*lines.lock().unwrap(), ["{\"a\":1}", "text"]);
    assert_eq!(
        (rejects.len(), rejects.iter().next().unwrap().record.value.clone()),
        (1, Payload::from(Bytes::from_static(b"\xff")))
    );
    assert_eq!(plugin.validate(&self::options(&[("url", "ftp://x")]))[0].path, "url");
    lines.lock().unwrap().clear();
    let read = Box::new(move || lines.lock().unwrap().clone());
    conformance::sink(&SinkCase { plugin: plugin.clone(), options, read, exactly_once: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_is_a_transform() {
    let loaded = loaded("mask-transform", &[]);
    let build = |fields: &str| loaded.transforms[0].build(&options(&[("fields", fields)]));
    assert_eq!(build("").err().unwrap()[0].path, "fields");
    let mut transform = build("email,phone").unwrap();
    let values = [r#"{"id":1.50,"email":"a@b"}"#, r#"{"id":2}"#, "[]", r#"{"phone":7,"id":3}"#];
    let mut batch: Vec<Record> = values.map(|value| Record::new("t", value)).into();
    batch[3].key = "k".into();
    let mut rejects = Rejects::default();
    for _ in 0..3 {
        let made = transform.apply(batch.iter().cloned().collect(), &mut rejects).await.unwrap();
        let made: Vec<Record> = made.into_records().collect();
        let expected = [r#"{"id":1.50,"email":"****"}"#, r#"{"id":2}"#, r#"{"phone":"****","id":3}"#];
        assert_eq!(made.iter().map(|record| record.value.clone()).collect::<Vec<_>>(), expected.map(Payload::from));
        assert_eq!(made[2].key, Payload::from("k"));
        let refused = rejects.take();
        assert_eq!((refused.len(), refused[0].error.code()), (1, "plugin.mask-transform.rejected"));
    }
}

#[test]
fn what_cannot_be_loaded_is_said_and_the_others_work() {
    let folder = tempfile::TempDir::new().unwrap();
    let good = guest("counter-source");
    std::fs::write(folder.path().join("a.wasm"), &good).unwrap();
    std::fs::write(folder.path().join("b.wasm"), &good[..good.len() / 2]).unwrap();
    std::fs::write(folder.path().join("c.wasm"), b"\0asm\x01\0\0\0").unwrap();
    std::fs::write(folder.path().join("d.wasm"), b"").unwrap();
    std::fs::write(folder.path().join("e.txt"), b"").unwrap();
    let found = load(&[folder.path().to_owned(), folder.path().join("none")], &BTreeMap::new());
    assert_eq!(found.plugins.len(), 1);
    let codes: Vec<&str> = found.issues.iter().map(|issue| issue.code.as_str()).collect();
    assert_eq!(codes[..1], ["plugin.malformed"]);
    assert_eq!((codes.len(), codes[3]), (4, "plugin.path"));
    let pinned = PluginGrant { sha256: Some("0".repeat(64)), ..PluginGrant::default() };
    let error = load_bytes(good, &[("counter-source".to_owned(), pinned)].into()).err().unwrap();
    assert_eq!(error.code(), "plugin.sha256");
}

#[test]
fn a_file_is_read_once_two_looks_saw_the_same() {
    let folder = tempfile::TempDir::new().unwrap();
    let (file, good) = (folder.path().join("a.wasm"), guest("counter-source"));
    let mut folders = Folders::new(vec![folder.path().to_owned()], BTreeMap::new());
    assert!(folders.look() && folders.loaded().plugins.is_empty());
    std::fs::write(&file, &good[..5_000]).unwrap();
    assert!(!folders.look());
    std::fs::write(&file, &good).unwrap();
    assert!(!folders.look(), "it is still being copied");
    assert!(folders.look() && folders.loaded().issues.is_empty());
    assert_eq!(folders.loaded().plugins.len(), 1);
    assert!(!folders.look());
    std::fs::write(&file, &good[..5_000]).unwrap();
    assert!(!folders.look() && folders.look());
    let found = folders.loaded();
    assert_eq!((found.plugins.len(), &*found.issues[0].code), (0, "plugin.malformed"));
    std::fs::remove_file(&file).unwrap();
    assert!(folders.look() && folders.loaded().issues.is_empty());
}

/// With another text of the same length in each of its places.
fn patched(package: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = guest(package);
    let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty() && from.len() == to.len());
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    bytes
}

#[test]
fn a_wrong_world_is_told_what_it_lacks() {
    let refused = |bytes: Vec<u8>| load_bytes(bytes, &BTreeMap::new()).err().unwrap();
    let error = refused(patched("counter-source", b"\"kind\": \"source\"", b"\"kind\":   \"sink\""));
    assert_eq!(error.code(), "plugin.interface");
    assert!(error.message().contains("does not export aqueduct:connector/sink@0.1.0"), "{error}");
    let error = refused(patched("paged-api-source", b"aqueduct:connector/http@0.1.0", b"aqueduct:connector/gftp@0.1.0"));
    assert_eq!(error.code(), "plugin.interface");
    assert!(error.message().contains("it imports aqueduct:connector/gftp@0.1.0"), "{error}");
    let error = refused(patched("counter-source", b"aqueduct:plugin", b"aqueduct:plogin"));
    assert_eq!(error.code(), "plugin.metadata");
}

#[test]
fn bytes_that_were_changed_never_end_the_process() {
    let good = guest("mask-transform");
    let mut dice = 7u64;
    let mut roll = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % below
    };
    for _ in 0..40 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            let at = roll(bytes.len());
            bytes[at] = roll(256) as u8;
        }
        if roll(3) == 0 {
            bytes.truncate(roll(good.len()));
        }
        if let Err(error) = load_bytes(bytes, &BTreeMap::new()) {
            assert!(error.code().starts_with("plugin."), "{error}");
        }
    }
}

fn small() -> PluginGrant {
    PluginGrant { memory: ByteSize::mib(16), call_timeout: Millis::from_millis(300), ..PluginGrant::default() }
}

async fn failing<T>(call: impl Future<Output = Result<T>>) -> Error {
    tokio::time::timeout(DEADLINE, call).await.expect("the host interrupts it").err().expect("an error")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zoo_of_sources_fails_alone_and_says_why() {
    let loaded = loaded("zoo", &[("zoo-source", small())]);
    let Some(Plugin::Source(source)) = loaded.plugins.iter().find(|plugin| plugin.descriptor().name == "zoo-source") else {
        panic!("a source")
    };
    let mode = |mode: &str| options(&[("mode", mode)]);
    for (what, code) in [
        ("loop", "plugin.timeout"),
        ("memory", "plugin.memory"),
        ("trap", "plugin.trap"),
        ("recursion", "plugin.trap"),
        ("logs", "plugin.timeout"),
        ("naps", "plugin.timeout"),
    ] {
        let issues = source.validate(&mode(&format!("{what}-validate")));
        assert_eq!(issues[0].code, code, "{what} in validate");
        let error = failing(source.plan(&mode(&format!("{what}-plan")), 1)).await;
        assert_eq!(error.code(), code, "{what} in plan: {error}");
        let error = failing(source.open(&mode(&format!("{what}-open")), TaskSpec::new(), Vec::new())).await;
        assert_eq!(error.code(), code, "{what} in open: {error}");
        for call in ["poll", "commit", "close"] {
            let mut task = source.open(&mode(&format!("{what}-{call}")), TaskSpec::new(), Vec::new()).await.unwrap();
            let begun = Instant::now();
            let error = failing(async {
                match call {
                    "poll" => task.poll(&context(Duration::from_millis(50))).await.map(drop),
                    "commit" => task.commit(&[]).await,
                    _ => task.close().await,
                }
            })
            .await;
            assert_eq!(error.code(), code, "{what} in {call} after {:?}: {error}", begun.elapsed());
            assert!(error.is_retriable() && error.hint().is_some(), "{error:?}");
            // The instance is never called again.
            assert_eq!(failing(task.close()).await.code(), "plugin.trap");
        }
    }
    for (what, code, part) in [
        ("many", "plugin.interface", "101 records, more than the 100"),
        ("topic", "plugin.interface", "no name of a topic"),
        ("same", "plugin.interface", "a record without a topic"),
        ("offsets", "plugin.interface", "20000 offsets"),
        ("http", "plugin.zoo-source.http_denied", "169.254.169.254 is not granted"),
        ("env", "plugin.zoo-source.env", "PATH is not granted"),
    ] {
        let mut task = source.open(&mode(what), TaskSpec::new(), Vec::new()).await.unwrap();
        let error = failing(task.poll(&context(Duration::from_millis(50)))).await;
        assert!(error.code() == code && error.message().contains(part), "{what}: {error}");
    }
    assert_eq!(failing(source.plan(&mode("shares"), 2)).await.code(), "plugin.interface");
    let issues = source.validate(&mode("issues"));
    assert!(issues.len() == 100 && !issues[0].message.contains('\n'));
    // After all that a good one works.
    let mut task = source.open(&mode("none"), TaskSpec::new(), Vec::new()).await.unwrap();
    assert_eq!(task.poll(&context(Duration::ZERO)).await.unwrap().batch.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_waits_for_is_interrupted_and_the_host_is_free() {
    let mut grant = small();
    grant.call_timeout = Millis::from_secs(3600);
    let loaded = loaded("zoo", &[("zoo-source", grant)]);
    let Some(Plugin::Source(source)) = loaded.plugins.iter().find(|plugin| plugin.descriptor().name == "zoo-source") else {
        panic!("a source")
    };
    // More than there are threads: each lets the others run.
    let mut tasks = Vec::new();
    for _ in 0..8 {
        tasks.push(source.open(&options(&[("mode", "loop-poll")]), TaskSpec::new(), Vec::new()).await.unwrap());
    }
    for task in &mut tasks {
        let polled = tokio::time::timeout(Duration::from_millis(50), task.poll(&context(Duration::ZERO))).await;
        assert!(polled.is_err(), "it loops for ever");
    }
    drop(tasks);
    let mut good = source.open(&options(&[]), TaskSpec::new(), Vec::new()).await.unwrap();
    let polled = tokio::time::timeout(DEADLINE, good.poll(&context(Duration::ZERO))).await.unwrap().unwrap();
    assert_eq!(polled.batch.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zoo_of_sinks_and_transforms_too() {
    let loaded = loaded("zoo", &[("zoo-sink", small()), ("zoo-transform", small())]);
    let Some(Plugin::Sink(sink)) = loaded.plugins.iter().find(|plugin| plugin.descriptor().name == "zoo-sink") else {
        panic!("a sink")
    };
    let batch = || -> Batch { ["1", "2"].map(|value| Record::new("t", value)).into_iter().collect() };
    for (mode, code) in [
        ("loop-put", "plugin.timeout"),
        ("trap-put", "plugin.trap"),
        ("memory-put", "plugin.memory"),
        ("reject-twice", "plugin.interface"),
        ("reject-beyond", "plugin.interface"),
    ] {
        let mut task = sink.open(&options(&[("mode", mode)]), TaskSpec::new()).await.unwrap();
        let error = failing(task.put(&batch(), &mut Rejects::default(), &context(DEADLINE))).await;
        assert_eq!(error.code(), code, "{mode}: {error}");
    }
    let mut task = sink.open(&options(&[("mode", "reject")]), TaskSpec::new()).await.unwrap();
    let mut rejects = Rejects::default();
    assert_eq!(task.put(&batch(), &mut rejects, &context(DEADLINE)).await.unwrap(), Ack::Buffered);
    assert!(!rejects.iter().next().unwrap().error.message().chars().any(char::is_control));
    for (mode, code) in [
        ("trap-open", Some("plugin.trap")),
        ("beyond", Some("plugin.interface")),
        ("bomb", Some("plugin.interface")),
        ("drop", None),
        ("none", None),
    ] {
        let mut transform = loaded.transforms[0].build(&options(&[("mode", mode)])).unwrap();
        let applied = tokio::time::timeout(DEADLINE, transform.apply(batch(), &mut Rejects::default())).await.unwrap();
        match code {
            Some(code) => assert_eq!(applied.err().unwrap().code(), code, "{mode}"),
            None => assert_eq!(applied.unwrap().len(), if mode == "drop" { 0 } else { 2 }),
        }
    }
    // A batch that ends the instance each time is halved until each record stands alone.
    for (mode, code) in [("loop-apply", "plugin.timeout"), ("trap-apply", "plugin.trap"), ("recursion-apply", "plugin.trap")] {
        let mut transform = loaded.transforms[0].build(&options(&[("mode", mode)])).unwrap();
        let mut rejects = Rejects::default();
        let applied = tokio::time::timeout(DEADLINE, transform.apply(batch(), &mut rejects)).await.unwrap().unwrap();
        let codes: Vec<String> = rejects.iter().map(|reject| reject.error.code().to_owned()).collect();
        assert_eq!((applied.len(), codes), (0, vec![code.to_owned(); 2]), "{mode}");
    }
}

/// An HTTP server for one path: what was asked (the first line) and the body become a status and a body.
async fn serve(answer: impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                loop {
                    let (mut first, mut length) = (String::new(), 0);
                    if stream.read_line(&mut first).await.unwrap_or(0) == 0 {
                        return;
                    }
                    loop {
                        let mut line = String::new();
                        stream.read_line(&mut line).await.unwrap();
                        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = text.trim().parse().unwrap();
                        }
                        if line.trim().is_empty() {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    stream.read_exact(&mut body).await.unwrap();
                    let (status, text) = answer(&first, &body);
                    let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                    stream.write_all(reply.as_bytes()).await.unwrap();
                }
            });
        }
    });
    url
}
