//! `mqtt-source` and `mqtt-sink` keep the kit's promises on a real mosquitto. A broker forgets what is acknowledged, so the part of the kit that reads everything
//! again from any older offset cannot run on the source: `connectors/mqtt/tests/source.rs` loses tasks at each place instead.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SinkCase};
use aqueduct_core::{Options, Plugin};
use mqtt_services::{shared, wait_until};
use std::time::Duration;

fn plugin(name: &str) -> Plugin {
    builtins().into_iter().find(|plugin| plugin.descriptor().name == name).unwrap()
}

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn both_plan_without_touching_the_world() {
    let world = tempfile::TempDir::new().unwrap();
    for name in ["mqtt-source", "mqtt-sink"] {
        conformance::descriptor(&plugin(name));
        let mut options = options(&[("mqtt.server.uri", "tcp://127.0.0.1:1"), ("name", "x")]);
        if name == "mqtt-source" {
            options.insert("mqtt.topics".to_owned(), "a/#".to_owned());
        }
        conformance::plans_without_touching(&plugin(name), &options, world.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_loses_nothing() {
    let broker = shared();
    for (qos, version) in [("1", "5"), ("2", "5"), ("1", "3.1.1")] {
        let topic = format!("conformance/{version}/{qos}");
        let subscriber = broker.subscribe(&topic, 2, &[]);
        let (reader, to) = (shared(), topic.clone());
        conformance::sink(&SinkCase {
            plugin: plugin("mqtt-sink"),
            options: options(&[
                ("mqtt.server.uri", &broker.uri()),
                ("mqtt.topic", &topic),
                ("mqtt.qos", qos),
                ("mqtt.version", version),
                ("name", "conformance"),
            ]),
            read: Box::new(move || {
                // Comes after all that the broker has acknowledged to the sink.
                reader.publish(&to, 1, &["end"], &[]);
                let seen = || Some(subscriber.lines()).filter(|lines| lines.last().is_some_and(|line| line == "end"));
                let mut lines = wait_until(Duration::from_secs(60), "the last message came", seen);
                lines.pop();
                lines
            }),
            exactly_once: false,
        })
        .await;
    }
}
