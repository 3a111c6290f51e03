//! Guests that do what they must not, and what the host makes of it.

use super::{DEADLINE, context, failing, loaded, options, small};
use aqueduct_config::Millis;
use aqueduct_core::{Ack, Batch, Plugin, Record, Rejects, TaskSpec};
use std::time::{Duration, Instant};

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
        ("reserved", "plugin.interface", "is the host's"),
        ("huge", "plugin.memory", "more than its limit"),
        ("hoard", "plugin.zoo-source.state", "at most 1048576 bytes"),
        ("utf8", "plugin.trap", "utf-8"),
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
