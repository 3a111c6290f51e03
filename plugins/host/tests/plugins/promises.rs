//! What the host does for a plugin: state, secrets, instances that are replaced, records that end them.

use super::{DEADLINE, context, failing, loaded, mode, options, small, zoo_source};
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{Batch, Origin, Payload, Plugin, Record, Rejects, SourceOffset, TaskSpec, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const WAIT: Duration = Duration::from_millis(50);

fn texts(batch: Batch) -> Vec<String> {
    let text = |record: Record| match record.value {
        Payload::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    batch.into_records().map(text).collect()
}

/// State goes with the offsets of the batch, to the same share and no other.
#[tokio::test(flavor = "multi_thread")]
async fn state_is_as_it_was_with_the_last_batch_that_was_stored() {
    let source = zoo_source(small());
    let mut stored = BTreeMap::<String, SourceOffset>::new();
    let mut task = source.open(&mode("state"), TaskSpec::new(), Vec::new()).await.unwrap();
    for n in 1..=3 {
        let polled = task.poll(&context(WAIT)).await.unwrap();
        assert_eq!(texts(polled.batch), [format!("poll {n}")]);
        // The third is lost in a crash.
        if n < 3 {
            stored.extend(polled.resume.iter().map(|offset| (offset.partition_key(), offset.clone())));
            task.commit(&polled.resume).await.unwrap();
        }
    }
    drop(task);
    let stored: Vec<SourceOffset> = stored.into_values().collect();
    assert!(stored.iter().all(|offset| offset.partition.contains_key("aqueduct.state")), "{stored:?}");
    let other = TaskSpec::from([("share".to_owned(), "2".to_owned())]);
    for (share, first) in [(TaskSpec::new(), "poll 3"), (other, "poll 1")] {
        let mut task = source.open(&mode("state"), share, stored.clone()).await.unwrap();
        assert_eq!(texts(task.poll(&context(WAIT)).await.unwrap().batch), [first]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_given_by_name_and_taken_out_of_what_is_said() {
    let given = |texts: &[(&str, &str)]| PluginGrant {
        secrets: texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        ..small()
    };
    let poll = async |grant: PluginGrant| {
        let mut task = zoo_source(grant).open(&mode("secret"), TaskSpec::new(), Vec::new()).await.unwrap();
        failing(task.poll(&context(WAIT))).await
    };
    let error = poll(given(&[("token", "correct-horse")])).await;
    assert_eq!((error.code(), error.message()), ("plugin.zoo-source.token", "poll: it is [hidden], of 13 bytes"));
    let error = poll(given(&[("other", "x")])).await;
    assert!(error.code() == "plugin.zoo-source.secret" && error.message().contains("token is not granted"), "{error}");
    let broken = given(&[("token", "${env:AQUEDUCT_NO_SUCH_VARIABLE}")]);
    let opened = zoo_source(broken).open(&mode("secret"), TaskSpec::new(), Vec::new()).await;
    assert_eq!(opened.err().unwrap().code(), "config.secret");
}

/// Each poll keeps 2 MiB of 16: the instance is replaced again and again, and nothing of that is seen.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_leaks_is_replaced_between_two_batches() {
    let mut task = zoo_source(small()).open(&mode("leak"), TaskSpec::new(), Vec::new()).await.unwrap();
    for n in 1..=30 {
        let polled = task.poll(&context(WAIT)).await.unwrap_or_else(|error| panic!("poll {n}: {error}"));
        assert_eq!(texts(polled.batch), [n.to_string()]);
    }
    task.close().await.unwrap();
}

fn batch(values: &[&'static str]) -> Batch {
    let partition = Arc::new(TopicPartition::new("t", 0));
    let origin = |offset: usize| Some(Origin { partition: partition.clone(), offset: offset as i64 });
    values.iter().enumerate().map(|(at, value)| Record { origin: origin(at), ..Record::new("t", *value) }).collect()
}

const VALUES: [&str; 7] = ["a", "b", "poison", "c", "d", "poison", "e"];

/// Three failures, each of which the worker answers with another task and the same records; then they are told apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_ends_its_sink_is_refused_and_the_others_are_not() {
    let loaded = loaded("zoo", &[("zoo-sink", small())]);
    let sink = loaded.plugins.iter().find_map(|plugin| match plugin {
        Plugin::Sink(sink) => Some(sink),
        Plugin::Source(_) => None,
    });
    let sink = sink.unwrap();
    let batch = batch(&VALUES);
    for _ in 0..3 {
        let mut task = sink.open(&mode("poison"), TaskSpec::new()).await.unwrap();
        let mut rejects = Rejects::default();
        let error = failing(task.put(&batch, &mut rejects, &context(DEADLINE))).await;
        assert_eq!((error.code(), rejects.len()), ("plugin.trap", 0), "{error}");
    }
    let mut task = sink.open(&mode("poison"), TaskSpec::new()).await.unwrap();
    let mut rejects = Rejects::default();
    let ack = tokio::time::timeout(DEADLINE, task.put(&batch, &mut rejects, &context(DEADLINE))).await.unwrap();
    assert_eq!(ack.unwrap(), aqueduct_core::Ack::Durable);
    let refused: Vec<(i64, &str)> =
        rejects.iter().map(|reject| (reject.record.origin.as_ref().unwrap().offset, reject.error.code())).collect();
    assert_eq!(refused, [(2, "plugin.trap"), (5, "plugin.trap")]);
    // What comes after it is a batch as any other.
    let rest = self::batch(&["f"]);
    task.put(&rest, &mut Rejects::default(), &context(DEADLINE)).await.unwrap();
    task.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_ends_its_transform_is_refused_and_the_others_keep_their_order() {
    let loaded = loaded("zoo", &[("zoo-transform", small())]);
    let mut transform = loaded.transforms[0].build(&mode("poison")).unwrap();
    let mut rejects = Rejects::default();
    let applied = tokio::time::timeout(DEADLINE, transform.apply(batch(&VALUES), &mut rejects)).await.unwrap().unwrap();
    assert_eq!(texts(applied), ["a", "b", "c", "d", "e"]);
    let refused: Vec<i64> = rejects.iter().map(|reject| reject.record.origin.as_ref().unwrap().offset).collect();
    assert_eq!(refused, [2, 5]);
}

/// Compiled without interruption, it does the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_plugin_is_a_plugin_as_any_other() {
    let trusted = PluginGrant { trusted: true, ..small() };
    let loaded = loaded("mask-transform", &[("mask-transform", trusted.clone())]);
    let mut transform = loaded.transforms[0].build(&options(&[("fields", "a")])).unwrap();
    let made = transform.apply(batch(&[r#"{"a":1,"b":2}"#]), &mut Rejects::default()).await.unwrap();
    assert_eq!(texts(made), [r#"{"a":"****","b":2}"#]);
    // Its memory has the same bound, and what REST waits for is interrupted all the same.
    let source = zoo_source(trusted);
    assert_eq!(source.validate(&mode("loop-validate"))[0].code, "plugin.timeout");
    let mut task = source.open(&mode("memory-poll"), TaskSpec::new(), Vec::new()).await.unwrap();
    assert_eq!(failing(task.poll(&context(WAIT))).await.code(), "plugin.memory");
}
