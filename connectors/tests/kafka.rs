//! `kafka-source` and `kafka-sink` pass the conformance kit on a real broker.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SinkCase, SourceCase};
use aqueduct_core::{Options, Plugin};
use kafka_services::{Shared, shared};

fn plugin(name: &str) -> Plugin {
    builtins().into_iter().find(|plugin| plugin.descriptor().name == name).unwrap()
}

fn options(broker: &Shared, more: &[(&str, &str)]) -> Options {
    let bootstrap = broker.bootstrap();
    let first = [("bootstrap.servers", bootstrap.as_str())];
    first.into_iter().chain(more.iter().copied()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn the_source_resumes_exactly() {
    let broker = shared();
    broker.admin().create_topic("conformance-in", 3, &[]);
    for partition in 0..3 {
        let lines: Vec<String> = (0..14).map(|n| format!("{partition} line {n}")).collect();
        broker.produce("conformance-in", &lines, &["-p", &partition.to_string()]);
    }
    conformance::source(&SourceCase {
        plugin: plugin("kafka-source"),
        options: options(&broker, &[("topics", "conformance-in")]),
        records: 42,
        stream: |record| record.partition.unwrap_or_default().to_string(),
        strip: conformance::all_of_it,
    })
    .await;
}

#[tokio::test]
async fn the_sink_loses_nothing() {
    let broker = shared();
    for guarantee in ["exactly_once", "at_least_once"] {
        let format = format!("${{topic}}.{guarantee}");
        let topic = format!("conformance.{guarantee}");
        broker.admin().create_topic(&topic, 2, &[]);
        let reader = shared();
        conformance::sink(&SinkCase {
            plugin: plugin("kafka-sink"),
            options: options(&broker, &[("topic.format", &format), ("delivery.guarantee", guarantee)]),
            read: Box::new(move || reader.lines(&topic)),
            exactly_once: guarantee == "exactly_once",
        })
        .await;
    }
}
