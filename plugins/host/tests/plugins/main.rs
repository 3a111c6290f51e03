//! Sources, sinks and transforms from components, as a worker uses them: the examples, and a zoo of guests that do what they must not.
#![allow(clippy::unwrap_used, reason = "a test")]

mod loading;
mod memory;
mod promises;
mod wasi;
mod zoo;

use aqueduct_config::worker_config::PluginGrant;
use aqueduct_config::{ByteSize, Millis};
use aqueduct_connectors::conformance::{self, SinkCase, SourceCase};
use aqueduct_core::{
    Ack, Batch, Bytes, CancellationToken, Error, Options, Payload, Plugin, Record, Rejects, Result, SourcePlugin, TaskContext,
    TaskId, TaskSpec,
};
use aqueduct_plugin_host::{Loaded, load_bytes};
use std::sync::Arc;
use std::time::Duration;
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

/// Of the zoo, which has one of each.
fn zoo_source(grant: PluginGrant) -> Arc<dyn SourcePlugin> {
    let found = loaded("zoo", &[("zoo-source", grant)]).plugins.into_iter().find_map(|plugin| match plugin {
        Plugin::Source(source) => Some(source),
        Plugin::Sink(_) => None,
    });
    found.unwrap()
}

fn mode(mode: &str) -> Options {
    options(&[("mode", mode)])
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

fn small() -> PluginGrant {
    PluginGrant { memory: ByteSize::mib(16), call_timeout: Millis::from_millis(300), ..PluginGrant::default() }
}

async fn failing<T>(call: impl Future<Output = Result<T>>) -> Error {
    tokio::time::timeout(DEADLINE, call).await.expect("the host interrupts it").err().expect("an error")
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
