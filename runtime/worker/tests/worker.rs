//! The worker over a memory log, with connectors whose every move the test decides.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fakes;

use aqueduct_core::*;
use aqueduct_log::memory::MemoryLog;
use aqueduct_log::{Log, TopicSpec};
use aqueduct_worker::spec::Defaults;
use aqueduct_worker::*;
use fakes::*;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

struct Rig {
    worker: Worker,
    log: Arc<MemoryLog>,
    source: Arc<SourceScript>,
    sink: Arc<SinkScript>,
}

impl Rig {
    async fn new() -> Self {
        Self::on(Arc::new(MemoryLog::new())).await
    }

    async fn on(log: Arc<MemoryLog>) -> Self {
        let (source, sink) = (Arc::<SourceScript>::default(), Arc::<SinkScript>::default());
        let registry = Registry::new(vec![
            Plugin::Source(Arc::new(FakeSource(source.clone(), descriptor("fake-source", PluginKind::Source)))),
            Plugin::Sink(Arc::new(FakeSink(sink.clone(), descriptor("fake-sink", PluginKind::Sink)))),
        ]);
        let options = WorkerOptions {
            worker_id: "127.0.0.1:8083".into(),
            cluster_id: "test".into(),
            shutdown_timeout: Duration::from_millis(300),
            defaults: Arc::new(Defaults::default()),
            topic_tracking: true,
            topic_tracking_reset: true,
            data: tokio::runtime::Handle::current(),
        };
        let worker = Worker::new(options, registry, log.clone());
        worker.start().await.unwrap();
        Self { worker, log, source, sink }
    }

    async fn create(&self, name: &str, config: &[(&str, &str)]) -> ConnectorInfo {
        self.worker.create(name, config_map(config), TargetState::Started).await.unwrap()
    }

    async fn source(&self) {
        self.create("src", &[("connector.class", "fake-source"), ("topic", "t"), ("aqueduct.restart.backoff.initial.ms", "10")])
            .await;
    }

    async fn sink(&self, more: &[(&str, &str)]) {
        let mut config = vec![
            ("connector.class", "fake-sink"),
            ("topics", "t"),
            ("offset.flush.interval.ms", "20"),
            ("aqueduct.restart.backoff.initial.ms", "10"),
        ];
        config.extend(more);
        self.create("snk", &config).await;
    }

    /// Appends to topic `t` as some source would.
    async fn produce(&self, values: &[&str]) {
        if self.log.topic("t").await.unwrap().is_none() {
            self.log.create_topic("t", &TopicSpec::default()).await.unwrap();
        }
        let mut writer = self.log.writer(&TaskId::new("test", 0)).await.unwrap();
        let batch: Batch = values.iter().map(|value| Record::new("t", (*value).to_owned())).collect();
        writer.append(aqueduct_log::EncodedBatch::new(batch).unwrap(), vec![]).await.unwrap().await.unwrap();
    }

    async fn values(&self, topic: &str) -> Vec<String> {
        if self.log.topic(topic).await.unwrap().is_none() {
            return Vec::new();
        }
        let batch = self.log.fetch(&TopicPartition::new(topic, 0), 0, 1 << 20, Duration::ZERO).await.unwrap();
        batch
            .iter()
            .map(|record| match record.value() {
                PayloadRef::Bytes(value) => String::from_utf8(value.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn task_state(&self, name: &str) -> Option<State> {
        self.worker.status(name).unwrap().tasks.first().map(|task| task.state)
    }

    async fn until_state(&self, name: &str, state: State) {
        until(&format!("{name} is {state:?}"), async || self.task_state(name) == Some(state)).await;
    }

    async fn committed(&self) -> i64 {
        self.log.group_positions("connect-snk").await.unwrap().first().map_or(-1, |position| position.offset)
    }
}

fn config_map(config: &[(&str, &str)]) -> ConfigMap {
    config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_told_only_after_its_records_are_durable() {
    let rig = Rig::new().await;
    rig.log.hold_commits();
    rig.source.push(Step::Records(vec!["a", "b"]));
    rig.source.push(Step::Records(vec!["c"]));
    rig.source().await;
    until("both batches are in flight", async || rig.worker.status("src").unwrap().tasks[0].aqueduct.records_in == 3).await;
    assert!(rig.source.committed.lock().unwrap().is_empty());
    assert!(rig.values("t").await.is_empty());
    rig.log.release_commits();
    until("the source was told", async || rig.source.committed.lock().unwrap().last() == Some(&3)).await;
    assert_eq!(rig.values("t").await, ["a", "b", "c"]);
    assert_eq!(rig.worker.active_topics("src").unwrap(), ["t"]);
    let offsets = rig.worker.offsets("src").await.unwrap().offsets;
    assert_eq!(offsets[0].offset.as_ref().unwrap()["n"], 3);
    rig.worker.shutdown().await.unwrap();
    assert_eq!(rig.source.closes.load(SeqCst), 1);
}

/// A large batch is encoded on another thread: nothing overtakes it, and it does not wait for a source that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_keeps_its_place_and_waits_for_no_poll() {
    let rig = Rig::new().await;
    let large: &'static str = "x".repeat(100_000).leak();
    for step in [Step::Records(vec![large]), Step::Records(vec!["a", "b"]), Step::Records(vec![large, large]), Step::Hang] {
        rig.source.push(step);
    }
    let json = "org.apache.kafka.connect.json.JsonConverter";
    let config =
        [("connector.class", "fake-source"), ("topic", "t"), ("value.converter", json), ("aqueduct.stall.timeout.ms", "3000")];
    rig.create("src", &config).await;
    until("all of it is in the log", async || rig.values("t").await.len() == 5).await;
    let lengths: Vec<usize> = rig.values("t").await.iter().map(|value| value.matches('x').count()).collect();
    assert_eq!(lengths, [100_000, 0, 0, 100_000, 100_000]);
    let offsets = rig.worker.offsets("src").await.unwrap().offsets;
    assert_eq!(offsets[0].offset.as_ref().unwrap()["n"], 5);
    // The append in between does not hide that the poll has not returned.
    until("the stall is seen", async || {
        rig.worker.status("src").unwrap().tasks[0]
            .aqueduct
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("`poll` has not returned"))
    })
    .await;
    assert_eq!(rig.values("t").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retriable_error_reopens_the_source_where_it_was() {
    let rig = Rig::new().await;
    for step in
        [Step::Records(vec!["a"]), Step::Fail(Class::Retriable), Step::Records(vec!["b"]), Step::Panic, Step::Records(vec!["c"])]
    {
        rig.source.push(step);
    }
    rig.source().await;
    until("a and b", async || rig.values("t").await.len() >= 2).await;
    rig.until_state("src", State::Failed).await; // the panic
    let status = rig.worker.status("src").unwrap();
    assert!(
        status.tasks[0].trace.as_ref().unwrap().starts_with("worker.task_panicked: the task panicked: asked to panic"),
        "{status:?}"
    );
    assert_eq!(status.connector.state, State::Running);
    rig.worker.restart_task("src", 0).await.unwrap();
    until("c", async || rig.values("t").await == ["a", "b", "c"]).await;
    let resumed = rig.source.resumed_at.lock().unwrap().clone();
    assert_eq!(resumed, [0, 1, 2]);
    rig.until_state("src", State::Running).await;
    assert_eq!(rig.worker.status("src").unwrap().tasks[0].aqueduct.restarts, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_error_fails_the_task_with_a_trace_and_waits() {
    let rig = Rig::new().await;
    rig.source.push(Step::Fail(Class::Fatal));
    rig.source().await;
    rig.until_state("src", State::Failed).await;
    let trace = rig.worker.status("src").unwrap().tasks[0].trace.clone().unwrap();
    assert_eq!(trace.lines().next(), Some("fake.poll: asked to fail (really)."));
    assert_eq!(rig.source.opens.load(SeqCst), 1);
    let status = rig.worker.restart("src", true, true).await.unwrap();
    assert_eq!(status.tasks[0].state, State::Restarting);
    rig.until_state("src", State::Running).await;
    assert_eq!(rig.source.opens.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_hangs_is_not_running_and_can_be_stopped() {
    let rig = Rig::new().await;
    rig.source.push(Step::Hang);
    rig.source.push(Step::Records(vec!["a"]));
    let config = [
        ("connector.class", "fake-source"),
        ("topic", "t"),
        ("aqueduct.stall.timeout.ms", "200"),
        ("aqueduct.restart.backoff.initial.ms", "10"),
    ];
    rig.create("src", &config).await;
    until("the stall is seen and the task goes on by itself", async || rig.values("t").await == ["a"]).await;
    let last_error = rig.worker.status("src").unwrap().tasks[0].aqueduct.last_error.clone().unwrap();
    assert!(last_error.starts_with("worker.stalled: `poll` has not returned"), "{last_error}");
    rig.source.push(Step::Hang);
    rig.worker.set_target("src", TargetState::Stopped).await.unwrap();
    until("stopped although it hangs", async || rig.worker.status("src").unwrap().tasks.is_empty()).await;
    assert_eq!(rig.worker.status("src").unwrap().connector.state, State::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_holds_its_thread_is_left_behind_fenced_and_failed() {
    let rig = Rig::new().await;
    let (release, blocked) = std::sync::mpsc::channel();
    rig.source.push(Step::Block(blocked));
    let config = [("connector.class", "fake-source"), ("topic", "t"), ("aqueduct.stall.timeout.ms", "200")];
    rig.create("src", &config).await;
    until("left behind", async || rig.task_state("src") == Some(State::Failed) && rig.worker.tasks("src").is_ok()).await;
    let trace = || rig.worker.status("src").unwrap().tasks[0].trace.clone().unwrap();
    until("the trace tells", async || trace().contains("it holds a thread")).await;
    assert_eq!(rig.source.opens.load(SeqCst), 1, "it does not restart by itself");
    rig.source.push(Step::Records(vec!["a"]));
    rig.worker.restart_task("src", 0).await.unwrap();
    until("its successor works", async || rig.values("t").await == ["a"]).await;
    drop(release);
    rig.worker.set_target("src", TargetState::Stopped).await.unwrap();
    rig.worker.reset_offsets("src").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_position_moves_only_after_flush_and_metadata_comes_back() {
    let rig = Rig::new().await;
    rig.sink.buffers.store(true, SeqCst);
    rig.sink.fail_flushes.store(1, SeqCst);
    rig.produce(&["a", "b"]).await;
    rig.sink(&[]).await;
    until("committed", async || rig.committed().await == 2).await;
    // The failed flush made the worker put both again: at least once for a sink that keeps no position.
    assert_eq!(*rig.sink.put.lock().unwrap(), ["a", "b", "a", "b"]);
    assert_eq!(rig.sink.flushed.load(SeqCst), 1);
    rig.worker.set_target("snk", TargetState::Paused).await.unwrap();
    rig.until_state("snk", State::Paused).await;
    rig.produce(&["c"]).await;
    rig.worker.set_target("snk", TargetState::Started).await.unwrap();
    until("c", async || rig.committed().await == 3).await;
    let metadata = rig.sink.metadata.lock().unwrap().clone();
    assert_eq!(metadata.last().unwrap().as_deref(), Some("put 4"));
    let status = rig.worker.status("snk").unwrap();
    assert_eq!((status.tasks[0].aqueduct.lag, status.kind), (Some(0), ConnectorType::Sink));
    assert_eq!(rig.worker.offsets("snk").await.unwrap().offsets[0].offset.as_ref().unwrap()["kafka_offset"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_record_goes_to_the_dead_letter_queue_and_the_rest_is_written() {
    let rig = Rig::new().await;
    rig.sink.refuses.lock().unwrap().push("bad".into());
    rig.produce(&["a", "bad", "b"]).await;
    rig.sink(&[("errors.tolerance", "all"), ("errors.deadletterqueue.topic.name", "dlq")]).await;
    until("committed", async || rig.committed().await == 3).await;
    assert_eq!(*rig.sink.put.lock().unwrap(), ["a", "b"]);
    assert_eq!(rig.values("dlq").await, ["bad"]);
    assert_eq!(rig.worker.status("snk").unwrap().tasks[0].aqueduct.records_dead_lettered, 1);
}

const DEAD_LETTERS: [(&str, &str); 2] = [("errors.tolerance", "all"), ("errors.deadletterqueue.topic.name", "dlq")];

/// Nothing is durable in the target yet when the task fails: the letter must not be either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_written_with_the_position_that_passes_it_and_not_before() {
    let rig = Rig::new().await;
    rig.sink.refuses.lock().unwrap().push("bad".into());
    rig.sink.buffers.store(true, SeqCst);
    rig.sink.fail_flushes.store(3, SeqCst);
    rig.produce(&["a", "bad", "b"]).await;
    rig.sink(&DEAD_LETTERS).await;
    until("committed", async || rig.committed().await == 3).await;
    assert_eq!(rig.sink.put.lock().unwrap().iter().filter(|value| *value == "a").count(), 4);
    assert_eq!(rig.values("dlq").await, ["bad"]);
}

/// Invariant 6: a sink that refuses everything does not gather letters for a whole interval.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_dead_letters_are_committed_before_their_time() {
    let rig = Rig::new().await;
    rig.sink.refuses.lock().unwrap().push("bad".into());
    let limits =
        [("aqueduct.buffer.bytes", "4096"), ("aqueduct.batch.max.bytes", "1024"), ("offset.flush.interval.ms", "3600000")];
    rig.produce(&["bad"; 300]).await;
    rig.create("snk", &[&[("connector.class", "fake-sink"), ("topics", "t")], &DEAD_LETTERS[..], &limits[..]].concat()).await;
    until("most of them", async || rig.values("dlq").await.len() > 150).await;
    let (letters, committed) = (rig.values("dlq").await.len() as i64, rig.committed().await);
    assert!(committed >= letters, "{letters} letters, position {committed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_queue_that_was_deleted_is_there_again() {
    let rig = Rig::new().await;
    rig.sink.refuses.lock().unwrap().push("bad".into());
    rig.produce(&["bad"]).await;
    rig.sink(&DEAD_LETTERS).await;
    until("the first", async || rig.committed().await == 1).await;
    rig.log.delete_topic("dlq").await.unwrap();
    rig.produce(&["bad", "a"]).await;
    until("the second", async || rig.committed().await == 3).await;
    assert_eq!(rig.values("dlq").await, ["bad"]);
}

async fn small_queue(rig: &Rig, name: &str) {
    let configs = [("max.message.bytes".to_owned(), "300".to_owned())].into();
    rig.log.create_topic(name, &TopicSpec { configs, ..TopicSpec::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_without_room_for_its_headers_goes_without() {
    let rig = Rig::new().await;
    rig.sink.refuses.lock().unwrap().push("bad".into());
    small_queue(&rig, "dlq").await;
    rig.produce(&["a", "bad", "b"]).await;
    rig.sink(&[&DEAD_LETTERS[..], &[("errors.deadletterqueue.context.headers.enable", "true")]].concat()).await;
    until("committed", async || rig.committed().await == 3).await;
    let letters = rig.log.fetch(&TopicPartition::new("dlq", 0), 0, 1 << 20, Duration::ZERO).await.unwrap();
    assert_eq!((letters.len(), letters.iter().next().unwrap().headers().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_is_too_large_is_named_and_goes_on_when_it_is_mended() {
    let rig = Rig::new().await;
    let large = "x".repeat(2000);
    rig.sink.refuses.lock().unwrap().extend([large.clone(), "bad".into()]);
    small_queue(&rig, "dlq").await;
    rig.produce(&["a", "bad", &large, "b"]).await;
    rig.sink(&DEAD_LETTERS).await;
    rig.until_state("snk", State::Failed).await;
    let trace = rig.worker.status("snk").unwrap().tasks[0].trace.clone().unwrap();
    for part in ["worker.dead_letter_too_large", "t-0 offset 2", "topic dlq", "max.message.bytes"] {
        assert!(trace.contains(part), "no {part} in {trace}");
    }
    assert_eq!((rig.committed().await.max(0), rig.values("dlq").await.len()), (0, 0));
    let patch = [("errors.deadletterqueue.topic.name".to_owned(), Some("roomy".to_owned()))].into_iter().collect();
    rig.worker.patch_config("snk", patch).await.unwrap();
    until("committed", async || rig.committed().await == 4).await;
    assert_eq!(rig.values("roomy").await, ["bad", &large]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tolerance_a_bad_record_fails_the_task_and_no_position_passes_it() {
    let rig = Rig::new().await;
    rig.sink.refuses.lock().unwrap().push("bad".into());
    rig.produce(&["a", "bad", "b"]).await;
    rig.sink(&[]).await;
    rig.until_state("snk", State::Failed).await;
    assert!(rig.committed().await <= 0);
    let trace = rig.worker.status("snk").unwrap().tasks[0].trace.clone().unwrap();
    assert!(trace.contains("t-0 offset 1"), "{trace}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_before_a_bad_record_is_committed_when_the_task_fails() {
    let rig = Rig::new().await;
    rig.produce(&["1"]).await;
    let json = [("value.converter", "json"), ("value.converter.schemas.enable", "false"), ("offset.flush.interval.ms", "60000")];
    let base = [("connector.class", "fake-sink"), ("topics", "t")];
    rig.create("snk", &[&base[..], &json[..]].concat()).await;
    until("put", async || rig.sink.put.lock().unwrap().len() == 1).await;
    rig.produce(&["{"]).await;
    rig.until_state("snk", State::Failed).await;
    assert_eq!(rig.committed().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_targets_and_offsets_survive_the_worker() {
    let log = Arc::new(MemoryLog::new());
    let rig = Rig::on(log.clone()).await;
    rig.source.push(Step::Records(vec!["a"]));
    rig.source().await;
    until("a", async || rig.values("t").await == ["a"]).await;
    rig.sink(&[]).await;
    rig.worker.set_target("snk", TargetState::Stopped).await.unwrap();
    let stored = rig.worker.connector("src").unwrap().config;
    // A second worker on the same stores, as after kill -9.
    let next = Rig::on(log).await;
    assert_eq!(next.worker.connectors(), ["snk", "src"]);
    assert_eq!(next.worker.connector("src").unwrap().config, stored);
    assert_eq!(stored.keys().last().map(String::as_str), Some("name"));
    assert_eq!(next.worker.status("snk").unwrap().connector.state, State::Stopped);
    next.until_state("src", State::Running).await;
    assert_eq!(*next.source.resumed_at.lock().unwrap(), [1]);
    // The first worker's task is fenced now (invariant 5).
    rig.source.push(Step::Records(vec!["zombie"]));
    rig.until_state("src", State::Failed).await;
    assert!(rig.worker.status("src").unwrap().tasks[0].trace.clone().unwrap().starts_with("log.fenced"));
    assert_eq!(next.values("t").await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_config_again_restarts_nothing_and_a_new_one_does() {
    let rig = Rig::new().await;
    rig.source().await;
    rig.until_state("src", State::Running).await;
    let config = rig.worker.connector("src").unwrap().config;
    let (created, _) = rig.worker.put_config("src", config.clone()).await.unwrap();
    assert!(!created);
    let mut changed = config;
    changed.insert("tasks".into(), "2".into());
    changed.insert("tasks.max".into(), "2".into());
    let (_, info) = rig.worker.put_config("src", changed).await.unwrap();
    assert_eq!(info.tasks.len(), 2, "tasks are there as soon as the answer is");
    until("both run", async || rig.worker.status("src").unwrap().tasks.iter().all(|task| task.state == State::Running)).await;
    assert_eq!(rig.source.opens.load(SeqCst), 3);
    let patch = [("tasks".to_owned(), None), ("topic".to_owned(), Some("u".to_owned()))].into_iter().collect();
    let info = rig.worker.patch_config("src", patch).await.unwrap();
    assert_eq!((info.tasks.len(), info.config.get("tasks"), info.config["topic"].as_str()), (1, None, "u"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_edit_touches_nothing() {
    let rig = Rig::new().await;
    rig.source().await;
    rig.until_state("src", State::Running).await;
    let before = rig.worker.connector("src").unwrap();
    let bad = config_map(&[("connector.class", "fake-source"), ("topic", "t"), ("tasks.max", "many")]);
    let error = rig.worker.put_config("src", bad).await.unwrap_err();
    assert!(matches!(&error, AdminError::InvalidConfig(issues) if issues.len() == 1), "{error}");
    assert!(error.to_string().starts_with("Connector configuration is invalid and contains the following 1 error(s):\n"));
    let error = rig.worker.create("x", config_map(&[("connector.class", "fake-sauce")]), TargetState::Started).await.unwrap_err();
    assert!(error.to_string().starts_with("Failed to find any class that implements Connector"), "{error}");
    let error =
        rig.worker.create("src", config_map(&[("connector.class", "fake-source")]), TargetState::Started).await.unwrap_err();
    assert!(matches!(error, AdminError::Conflict(_)));
    assert_eq!(rig.worker.connector("src").unwrap(), before);
    assert_eq!(rig.source.opens.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_move_by_hand_only_while_stopped() {
    let rig = Rig::new().await;
    rig.produce(&["a", "b", "c"]).await;
    rig.sink(&[]).await;
    until("committed", async || rig.committed().await == 3).await;
    let to = |offset: i64| SourceOffset {
        partition: serde_json::from_str(r#"{"kafka_topic":"t","kafka_partition":"0"}"#).unwrap(),
        offset: Some(serde_json::from_value(serde_json::json!({ "kafka_offset": offset })).unwrap()),
    };
    assert!(matches!(rig.worker.alter_offsets("snk", vec![to(1)]).await, Err(AdminError::BadRequest(_))));
    rig.worker.set_target("snk", TargetState::Stopped).await.unwrap();
    rig.worker.alter_offsets("snk", vec![to(1)]).await.unwrap();
    assert!(matches!(rig.worker.alter_offsets("snk", vec![]).await, Err(AdminError::BadRequest(_))));
    rig.worker.set_target("snk", TargetState::Started).await.unwrap();
    until("b and c again", async || rig.committed().await == 3).await;
    assert_eq!(*rig.sink.put.lock().unwrap(), ["a", "b", "c", "b", "c"]);
    rig.worker.set_target("snk", TargetState::Stopped).await.unwrap();
    until("reset", async || rig.worker.reset_offsets("snk").await.is_ok()).await;
    assert_eq!(rig.worker.offsets("snk").await.unwrap().offsets, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_connector_is_gone_at_once_and_its_successor_waits_for_its_end() {
    let rig = Rig::new().await;
    rig.source.push(Step::Hang);
    rig.source().await;
    until("polling", async || rig.source.steps.lock().unwrap().is_empty()).await;
    rig.worker.delete("src").await.unwrap();
    assert!(matches!(rig.worker.status("src"), Err(AdminError::NotFound(_))));
    rig.source().await;
    rig.until_state("src", State::Running).await;
    assert_eq!(rig.source.opens.load(SeqCst), 2);
    assert!(
        rig.worker.metrics().contains("kafka_connect_source_task_metrics_source_record_poll_total{connector=\"src\",task=\"0\"}"),
        "{}",
        rig.worker.metrics()
    );
    assert!(rig.worker.metrics().ends_with("# EOF\n"));
}

/// Polls and fails by the script, with errors.retry.timeout.
async fn retrying(rig: &Rig, timeout: &str) {
    let config = [
        ("connector.class", "fake-source"),
        ("topic", "t"),
        ("errors.retry.timeout", timeout),
        ("errors.retry.delay.max.ms", "20"),
        ("aqueduct.restart.max.attempts", "0"),
    ];
    rig.create("src", &config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_retry_timeout_a_task_goes_on_and_stays_running() {
    let rig = Rig::new().await;
    rig.source.push(Step::Records(vec!["a"]));
    (0..5).for_each(|_| rig.source.push(Step::Fail(Class::Retriable)));
    rig.source.push(Step::Records(vec!["b"]));
    retrying(&rig, "-1").await;
    until("a and b", async || {
        assert_ne!(rig.task_state("src"), Some(State::Failed));
        rig.values("t").await == ["a", "b"]
    })
    .await;
    let progress = rig.worker.status("src").unwrap().tasks[0].aqueduct.clone();
    assert_eq!((progress.retries, progress.restarts), (5, 0));
    assert!(progress.last_error.unwrap().starts_with("fake.poll: asked to fail"));
    assert_eq!(*rig.source.resumed_at.lock().unwrap(), [0, 1, 1, 1, 1, 1]);
    assert_eq!(rig.source.closes.load(SeqCst), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_retry_timeout_a_task_fails() {
    let rig = Rig::new().await;
    rig.sink.fail_puts.store(u64::MAX, SeqCst);
    rig.produce(&["a"]).await;
    rig.sink(&[("errors.retry.timeout", "150"), ("errors.retry.delay.max.ms", "20"), ("aqueduct.restart.max.attempts", "0")])
        .await;
    rig.until_state("snk", State::Failed).await;
    let progress = rig.worker.status("snk").unwrap().tasks[0].aqueduct.clone();
    assert!(progress.retries >= 3, "{progress:?}");
    assert_eq!((progress.lag, progress.records_out, progress.records_in), (None, 0, progress.records_abandoned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_the_pause_before_a_retry_at_once() {
    let rig = Rig::new().await;
    (0..1000).for_each(|_| rig.source.push(Step::Fail(Class::Retriable)));
    let config = [
        ("connector.class", "fake-source"),
        ("topic", "t"),
        ("errors.retry.timeout", "-1"),
        ("errors.retry.delay.max.ms", "3600000"),
    ];
    rig.create("src", &config).await;
    // Pauses double: by then they are seconds long.
    until("some tries", async || rig.worker.status("src").unwrap().tasks[0].aqueduct.retries >= 4).await;
    let began = std::time::Instant::now();
    rig.worker.set_target("src", TargetState::Stopped).await.unwrap();
    until("stopped", async || rig.worker.status("src").unwrap().tasks.is_empty()).await;
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}: the worker had to abort it", began.elapsed());
}

async fn small_topic(rig: &Rig, bytes: &str) {
    let configs = [("max.message.bytes".to_owned(), bytes.to_owned())].into();
    rig.log.create_topic("t", &TopicSpec { configs, ..TopicSpec::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_above_the_topics_limit_is_skipped_alone_where_that_is_tolerated() {
    let rig = Rig::new().await;
    small_topic(&rig, "5").await;
    rig.source.push(Step::Records(vec!["a", "too large", "b"]));
    rig.source.push(Step::Records(vec!["too large as well"]));
    rig.source.push(Step::Records(vec!["c"]));
    rig.create("src", &[("connector.class", "fake-source"), ("topic", "t"), ("errors.tolerance", "all")]).await;
    until("the others", async || rig.values("t").await == ["a", "b", "c"]).await;
    until("told", async || rig.source.committed.lock().unwrap().last() == Some(&5)).await;
    let progress = rig.worker.status("src").unwrap().tasks[0].aqueduct.clone();
    assert_eq!((progress.records_in, progress.records_out, progress.records_skipped, progress.records_in_flight), (5, 3, 2, 0));
    assert!(progress.last_error.unwrap().starts_with("log.record_too_large: a record of 17 bytes for topic t"));
    assert_eq!(progress.restarts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tolerance_a_record_above_the_limit_fails_the_task() {
    let rig = Rig::new().await;
    small_topic(&rig, "5").await;
    rig.source.push(Step::Records(vec!["a", "too large"]));
    rig.source().await;
    rig.until_state("src", State::Failed).await;
    let trace = rig.worker.status("src").unwrap().tasks[0].trace.clone().unwrap();
    assert!(trace.contains("log.record_too_large") && trace.contains("KAFKA_PRODUCE"), "{trace}");
    assert!(rig.values("t").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_was_lowered_meanwhile_costs_a_restart_and_no_record() {
    let rig = Rig::new().await;
    small_topic(&rig, "50").await;
    rig.source.push(Step::Records(vec!["a"]));
    let config = [
        ("connector.class", "fake-source"),
        ("topic", "t"),
        ("errors.tolerance", "all"),
        ("aqueduct.restart.backoff.initial.ms", "10"),
    ];
    rig.create("src", &config).await;
    until("a is told", async || rig.source.committed.lock().unwrap().last() == Some(&1)).await;
    rig.log.delete_topic("t").await.unwrap();
    small_topic(&rig, "5").await;
    // The fake loses what it gave out and was not appended: it is given again.
    rig.source.push(Step::Records(vec!["b", "too large"]));
    rig.source.push(Step::Records(vec!["b", "too large"]));
    rig.source.push(Step::Records(vec!["c"]));
    until("b and c", async || rig.values("t").await == ["b", "c"]).await;
    let progress = rig.worker.status("src").unwrap().tasks[0].aqueduct.clone();
    assert_eq!((progress.restarts, progress.records_skipped, progress.records_abandoned), (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_that_cannot_start_says_how_often_and_when_again() {
    let rig = Rig::new().await;
    rig.create("a", &[("connector.class", "fake-source"), ("topic", "t"), ("plan", "fails")]).await;
    until("it was tried again", async || {
        let connector = rig.worker.status("a").unwrap().connector;
        let attempts = connector.aqueduct.filter(|attempts| attempts.attempt >= 2 && attempts.next_attempt_ms.is_some());
        attempts
            .is_some_and(|_| connector.state == State::Failed && connector.trace.is_some_and(|trace| trace.contains("fake.plan")))
    })
    .await;
    rig.worker.set_target("a", TargetState::Stopped).await.unwrap();
    until("stopped, and nothing is tried", async || rig.worker.status("a").unwrap().connector.aqueduct.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_panic_of_an_old_plan_does_not_fail_the_new_one() {
    let rig = Rig::new().await;
    let config = |plan| [("connector.class", "fake-source"), ("topic", "t"), ("plan", plan)];
    rig.create("src", &config("panics late")).await;
    until("the old plan is under way", async || rig.source.planning.load(SeqCst) == 1).await;
    rig.worker.put_config("src", config_map(&config("waits"))).await.unwrap();
    until("the new plan is under way", async || rig.source.planning.load(SeqCst) == 2).await;
    rig.source.release_panic.notify_one();
    until("the old plan has panicked", async || rig.source.panicked.load(SeqCst)).await;
    rig.source.release_plan.notify_one();
    until("planned", async || {
        assert_ne!(rig.worker.status("src").unwrap().connector.state, State::Failed);
        rig.task_state("src") == Some(State::Running)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_calls_that_hang_use_up_their_connectors_share_and_no_other() {
    let rig = Rig::new().await;
    let held = || rig.source.permits.lock().unwrap().len();
    let told = async |n: i64| until("told", async || rig.source.committed.lock().unwrap().last() == Some(&n)).await;
    let stop = async |name: &str| {
        rig.worker.set_target(name, TargetState::Stopped).await.unwrap();
        until("stopped", async || rig.worker.status(name).unwrap().tasks.is_empty()).await;
    };
    rig.source.push(Step::Permits);
    rig.source().await;
    told(1).await;
    assert_eq!(held(), 16);
    stop("src").await;
    // Its task is gone, its calls still hang.
    rig.source.push(Step::Permits);
    rig.worker.set_target("src", TargetState::Started).await.unwrap();
    told(2).await;
    assert_eq!(held(), 16);
    stop("src").await;
    rig.source.push(Step::Permits);
    rig.create("other", &[("connector.class", "fake-source"), ("topic", "t")]).await;
    until("another connector has its own", async || held() == 32).await;
}

/// `tasks.max` went down while a worker stood still: what it still runs of the former tasks is fenced before the new ones start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_are_no_more_are_fenced_before_the_new_generation() {
    let log = Arc::new(MemoryLog::new());
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let config = br#"{"properties":{"name":"src","connector.class":"fake-source","topic":"t"}}"#.to_vec();
    log.save(aqueduct_log::Store::Config, vec![("connector-src".to_owned(), Some(config))]).await.unwrap();
    let statuses = [0, 3].map(|task| (format!("status-task-src-{task}"), Some(b"{}".to_vec())));
    log.save(aqueduct_log::Store::Status, statuses.into()).await.unwrap();
    let mut zombie = log.writer(&TaskId::new("src", 3)).await.unwrap();
    let mut other = log.writer(&TaskId::new("other", 3)).await.unwrap();
    let rig = Rig::on(log.clone()).await;
    until("the new generation runs", async || rig.source.opens.load(SeqCst) == 1).await;
    let late = || aqueduct_log::EncodedBatch::new([Record::new("t", "late".to_owned())].into_iter().collect()).unwrap();
    let refused = match zombie.append(late(), vec![]).await {
        Ok(commit) => commit.await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused.code(), "log.fenced");
    other.append(late(), vec![]).await.unwrap().await.unwrap();
    assert!(!log.load(aqueduct_log::Store::Status).await.unwrap().contains_key("status-task-src-3"));
    rig.worker.shutdown().await.unwrap();
}

/// Invariant 2: what waits for the rest of its transaction is neither put nor passed by a position, and nothing is lost with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_transaction_waits_for_its_rest_and_its_position_with_it() {
    let rig = Rig::new().await;
    *rig.sink.wait.lock().unwrap() = Duration::from_secs(3600);
    let put = || rig.sink.put.lock().unwrap().join(" ");
    rig.produce(&["a1", "b1"]).await;
    rig.sink(&[]).await;
    until("a is committed", async || rig.committed().await == 1).await;
    rig.produce(&["b2"]).await;
    until("b2 is read", async || rig.worker.status("snk").unwrap().tasks[0].aqueduct.records_in == 3).await;
    assert_eq!(put(), "a1");
    // Stopped while b waits: it is read again.
    rig.worker.set_target("snk", TargetState::Stopped).await.unwrap();
    rig.worker.set_target("snk", TargetState::Started).await.unwrap();
    rig.produce(&["c1"]).await;
    until("b is committed", async || rig.committed().await == 3).await;
    assert_eq!(put(), "a1 b1 b2");
    // Nothing follows: what is there counts as whole when its time is over.
    *rig.sink.wait.lock().unwrap() = Duration::from_millis(20);
    rig.produce(&["d1", "d2"]).await;
    until("d is committed", async || rig.committed().await == 6).await;
    assert_eq!(put(), "a1 b1 b2 c1 d1 d2");
    // Counted a moment after the log has it; from 0 where the stop took the task away before it was started again.
    let settled = || {
        let progress = rig.worker.status("snk").unwrap().tasks[0].aqueduct.clone();
        let out = progress.records_out;
        [5, 6].contains(&out) && progress.records_in_flight == 0 && progress.records_in == out + progress.records_abandoned
    };
    until("all are counted", async || settled()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_that_wait_are_dead_letters_once() {
    let rig = Rig::new().await;
    *rig.sink.wait.lock().unwrap() = Duration::from_secs(3600);
    rig.sink.refuses.lock().unwrap().push("b1".into());
    rig.produce(&["a1", "b1", "b2"]).await;
    rig.sink(&DEAD_LETTERS).await;
    until("a is committed", async || rig.committed().await == 1).await;
    assert!(rig.values("dlq").await.is_empty());
    rig.produce(&["c1"]).await;
    until("b is committed", async || rig.committed().await == 3).await;
    assert_eq!(rig.values("dlq").await, ["b1"]);
    assert_eq!(rig.sink.put.lock().unwrap().join(" "), "a1 b2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_wants_many_records_gets_what_is_there_in_one_put() {
    for (wanted, most) in [(1, 2), (100, 20), (7, 9)] {
        let rig = Rig::new().await;
        rig.sink.put_records.store(wanted, SeqCst);
        let values: Vec<String> = (0..20).map(|n| format!("{n:0>600}")).collect();
        rig.produce(&values.iter().map(String::as_str).collect::<Vec<_>>()).await;
        rig.sink(&[("aqueduct.batch.max.bytes", "1024")]).await;
        until("committed", async || rig.committed().await == 20).await;
        assert_eq!(*rig.sink.put.lock().unwrap(), values);
        let sizes = rig.sink.sizes.lock().unwrap().clone();
        // The first put is of the first read alone.
        let largest = sizes[1..].iter().max().copied().unwrap_or_default();
        assert!(largest as u64 >= wanted.min(18) && largest <= most, "{wanted} wanted: {sizes:?}");
    }
}
