//! The options of `mqtt-sink`.

use super::template::Template;
use crate::config::{Client, with_broker};
use aqueduct_core::Issue;
use schemars::JsonSchema;
use serde::Deserialize;

with_broker! {
    #[derive(Debug, Deserialize, JsonSchema)]
    pub struct Config {
        /// The topic to publish to: a text with `${topic}`, `${key}`, `${value.field}` (of a JSON or structured value) and `${header.name}`.
        #[serde(rename = "mqtt.topic", default = "same")]
        #[schemars(extend("x-importance" = "high", "x-group" = "Messages", "x-example" = "fleet/${key}/command"))]
        topic: String,
        /// The QoS to publish with. With 0 the broker acknowledges nothing: what it has not read when it ends is lost.
        #[serde(rename = "mqtt.qos", default = "one")]
        #[schemars(range(min = 0, max = 2), extend("x-importance" = "high", "x-group" = "Messages"))]
        qos: u8,
        /// Whether the broker keeps the last message of each topic for those who subscribe later. A null value then deletes it.
        #[serde(rename = "mqtt.retained.enabled", default)]
        #[schemars(extend("x-group" = "Messages"))]
        retain: bool,
        /// 5.0: `mqtt.content.type`, `mqtt.correlation.data`, `mqtt.response.topic`, `mqtt.message.expiry.interval` and `mqtt.payload.format.indicator` become these
        /// properties, other headers user properties, and `aq-id` is added: the same for a record whenever it is published.
        #[serde(rename = "mqtt.headers.enabled", default = "yes")]
        #[schemars(extend("x-group" = "Messages"))]
        headers: bool,
        /// How many messages may be without an answer; fewer if the broker says so (5.0). With 3.1.1 and QoS 2 at most 20.
        #[serde(rename = "mqtt.max.inflight", default = "hundred")]
        #[schemars(range(min = 1, max = 65_000), extend("x-importance" = "low", "x-group" = "Messages"))]
        max_inflight: u16,
    }
}

fn same() -> String {
    "${topic}".to_owned()
}
fn one() -> u8 {
    1
}
fn yes() -> bool {
    true
}
fn hundred() -> u16 {
    100
}

/// Checked.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub client: Client,
    pub topic: Template,
    pub qos: u8,
    pub retain: bool,
    pub headers: bool,
    pub max_inflight: u16,
}

impl Config {
    /// # Errors
    /// Every issue.
    pub(super) fn settings(&self) -> Result<Settings, Vec<Issue>> {
        let mut issues = Vec::new();
        let client = self.broker().client().map_err(|found| issues.extend(found)).ok();
        let wrong = |why: String| Issue::error("mqtt.topic", "mqtt.config", why).fix("for example fleet/${key}/command");
        let topic = Template::parse(&self.topic).map_err(|why| issues.push(wrong(why))).ok();
        match (client, topic) {
            (Some(client), Some(topic)) => Ok(Settings {
                client,
                topic,
                qos: self.qos,
                retain: self.retain,
                headers: self.headers,
                max_inflight: self.max_inflight,
            }),
            _ => Err(issues),
        }
    }
}
