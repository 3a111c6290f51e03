//! What is done about errors, from outside: tolerance, retries, and counters that add up.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::{Site, wait_until};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

/// The figure of task 0 of a connector; `None` where it is not shown.
fn figure(metrics: &str, name: &str, connector: &str) -> Option<u64> {
    let labels = format!("{{connector=\"{connector}\",task=\"0\"}} ");
    metrics.lines().find_map(|line| {
        let rest = line.strip_prefix("kafka_connect_")?.strip_prefix(name)?;
        rest.strip_prefix("_total").unwrap_or(rest).strip_prefix(&labels)?.parse().ok()
    })
}

fn metrics(site: &Site) -> String {
    site.client().get("/metrics").expect(200).text.clone()
}

/// in, out, filtered, skipped, dead-lettered, in flight, abandoned
fn counters(metrics: &str, connector: &str, kind: &str) -> [u64; 7] {
    let (taken, out) =
        if kind == "sink" { ("sink_record_read", "sink_record_send") } else { ("source_record_poll", "source_record_write") };
    [
        format!("{kind}_task_metrics_{taken}"),
        format!("{kind}_task_metrics_{out}"),
        "connector_task_metrics_records_filtered".to_owned(),
        "task_error_metrics_total_records_skipped".to_owned(),
        "task_error_metrics_deadletterqueue_produce_requests".to_owned(),
        format!("{kind}_task_metrics_{kind}_record_active_count"),
        "connector_task_metrics_records_abandoned".to_owned(),
    ]
    .map(|name| figure(metrics, &name, connector).unwrap_or_else(|| panic!("no {name} of {connector} in\n{metrics}")))
}

/// I12: in = out + filtered + skipped + dead-lettered + in flight (+ what was in flight when a try ended), in each scrape of a quiet task.
#[test]
fn what_goes_in_is_accounted_for() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    let root = site.root.display().to_string();
    // 1 of 10 is no JSON, 1 of 20 is above max.message.bytes of the topic.
    let line = |n: u32| match n {
        n if n % 10 == 3 => format!("no json {n}\n"),
        n if n % 20 == 5 => format!("{{\"n\": {n}, \"pad\": \"{}\"}}\n", "x".repeat(300)),
        n => format!("{{\"n\": {n}}}\n"),
    };
    fs::write(site.path("in/t.log"), (0..2_000).map(line).collect::<String>()).unwrap();
    fs::write(site.path("in/u.log"), "{}\n".repeat(500)).unwrap();
    site.connector(
        "src",
        &format!(
            "name: src\nconnector.class: file-source\nfile: {root}/in/t.log\ntopic: t\nerrors.tolerance: all\n\
             topic.creation.default.partitions: 1\ntopic.creation.default.replication.factor: 1\n\
             topic.creation.default.max.message.bytes: 200\n"
        ),
    );
    site.connector("drop", &format!("name: drop\nconnector.class: file-source\nfile: {root}/in/u.log\ntopic: u\n"));
    site.connector(
        "snk",
        &format!(
            "name: snk\nconnector.class: file-sink\nfile: {root}/out.log\ntopics: t,u\nformat: json\nfields: value\nenvelope: false\n\
             value.converter: org.apache.kafka.connect.json.JsonConverter\nvalue.converter.schemas.enable: false\n\
             transforms: drop\ntransforms.drop.type: org.apache.kafka.connect.transforms.Filter\ntransforms.drop.predicate: is-u\n\
             predicates: is-u\npredicates.is-u.type: org.apache.kafka.connect.transforms.predicates.TopicNameMatches\n\
             predicates.is-u.pattern: u\nerrors.tolerance: all\nerrors.deadletterqueue.topic.name: dead\n\
             errors.deadletterqueue.topic.replication.factor: 1\n"
        ),
    );
    site.start();
    let settled = wait_until(SOON, "all is accounted for", || {
        let now = metrics(&site);
        let [.., in_flight, _] = counters_if_there(&now)?;
        let [read, ..] = counters(&now, "snk", "sink");
        (read == 2_400 && in_flight == 0).then_some(now)
    });
    assert_eq!(counters(&settled, "src", "source"), [2_000, 1_900, 0, 100, 0, 0, 0]);
    assert_eq!(counters(&settled, "drop", "source"), [500, 500, 0, 0, 0, 0, 0]);
    assert_eq!(counters(&settled, "snk", "sink"), [2_400, 1_700, 500, 0, 200, 0, 0]);
    assert_eq!(fs::read_to_string(site.path("out.log")).unwrap().lines().count(), 1_700);
    assert_eq!(figure(&settled, "sink_task_metrics_sink_record_lag", "snk"), Some(0));

    // A sink that does not run says no lag.
    site.client().put("/connectors/snk/pause", None).expect(202);
    wait_until(SOON, "no lag is shown", || {
        let now = metrics(&site);
        figure(&now, "sink_task_metrics_sink_record_lag", "snk").is_none().then_some(())
    });
}

fn counters_if_there(metrics: &str) -> Option<[u64; 7]> {
    figure(metrics, "sink_task_metrics_sink_record_read", "snk")?;
    figure(metrics, "source_task_metrics_source_record_poll", "src")?;
    Some(counters(metrics, "snk", "sink"))
}
