//! `mqtt-sink`: records of the log to topics of an MQTT broker, durable when the broker has acknowledged them.

mod config;
mod link;
mod message;
mod template;

pub use config::Config;

use crate::client_id;
use crate::connection::{self, Manner};
use crate::error;
use crate::wire::Version;
use aqueduct_config::SinkConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{
    Ack, Batch, Delivery, Error, Issue, LogPosition, Rejects, Result, SinkTask, Stage, TaskContext, TaskSpec, TopicPartition,
};
use async_trait::async_trait;
use config::Settings;
use link::{Link, Numbered, Terms};
use message::Message;
use std::collections::BTreeMap;
use uuid::Uuid;

pub struct MqttSink;

#[async_trait]
impl SinkConnector for MqttSink {
    type Config = Config;
    type Task = MqttSinkTask;
    const NAME: &'static str = "mqtt-sink";
    const ALIASES: &'static [&'static str] = &["io.confluent.connect.mqtt.MqttSinkConnector"];
    const SUMMARY: &'static str =
        "Publishes records to topics of an MQTT broker; a record counts as written when the broker has acknowledged it.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings().err().unwrap_or_default()
    }

    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        config.settings().map_err(|issues| invalid(&issues))?;
        // Each needs a client id of its own.
        Ok((0..tasks_max.max(1)).map(|task| [("task".to_owned(), task.to_string())].into_iter().collect()).collect())
    }

    async fn open(config: Config, task: TaskSpec) -> Result<MqttSinkTask> {
        let settings = config.settings().map_err(|issues| invalid(&issues))?;
        let index = task.get("task").and_then(|text| text.parse().ok()).unwrap_or(0);
        let client_id = client_id::of_task(settings.client.id()?, index);
        let link = connect(&settings, &client_id).await?;
        Ok(MqttSinkTask { link, settings, client_id, topics: BTreeMap::new() })
    }
}

pub struct MqttSinkTask {
    settings: Settings,
    client_id: String,
    link: Link,
    topics: BTreeMap<TopicPartition, Uuid>,
}

impl MqttSinkTask {
    /// Until all is answered; what was refused. A broker may hang up on whom it refuses, and what it said before may be lost with the connection (mosquitto 2.0.11):
    /// so the rest goes on one by one, and each connection must bring an answer.
    async fn send(&mut self, mut messages: Vec<Numbered>) -> Result<Vec<(usize, u8)>> {
        let (mut refused, mut careful) = (Vec::new(), false);
        loop {
            if self.link.is_over() {
                self.link = connect(&self.settings, &self.client_id).await?;
            }
            let count = messages.len();
            let sent = self.link.send(messages, careful).await?;
            refused.extend(sent.refused);
            let Some(failed) = sent.failed else { return Ok(refused) };
            if sent.rest.is_empty() {
                return Ok(refused);
            }
            if careful && sent.rest.len() == count || failed.code() == "mqtt.timeout" || failed.code() == "mqtt_sink.busy" {
                return Err(failed);
            }
            tracing::warn!(left = sent.rest.len(), "{failed}; what is not answered is sent again, one by one");
            (messages, careful) = (sent.rest, true);
            self.link.end().await;
        }
    }
}

async fn connect(settings: &Settings, client_id: &str) -> Result<Link> {
    // Nothing is kept over a connection: what was not acknowledged is read from the log again.
    let manner = Manner { client_id, clean: true, session_expiry: 0, receive_maximum: u16::MAX };
    let (connection, connack) = connection::open(&settings.client, &manner).await?;
    let place = &connection.place;
    if connack.maximum_qos < settings.qos {
        let text = format!("{place} takes no message of QoS {}, {} at most", settings.qos, connack.maximum_qos);
        return Err(Error::fatal("mqtt_sink.qos", text).fix("lower mqtt.qos"));
    }
    if settings.retain && !connack.retain_available {
        return Err(Error::fatal("mqtt_sink.retain", format!("{place} keeps no retained messages"))
            .fix("set mqtt.retained.enabled: false"));
    }
    let mut window = usize::from(settings.max_inflight.min(connack.receive_maximum));
    if settings.client.version == Version::V3 && settings.qos == 2 {
        // 3.1.1 has no way to say how many; 20 is mosquitto's default, beyond which it may drop what it has acknowledged.
        window = window.min(20);
    }
    let terms = Terms {
        qos: settings.qos,
        retain: settings.retain,
        window,
        maximum_packet: connack.maximum_packet,
        patience: settings.client.timeout,
    };
    Ok(Link::start(connection, terms))
}

#[async_trait]
impl SinkTask for MqttSinkTask {
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        self.topics.extend(partitions.iter().map(|position| (position.topic_partition(), position.topic_id)));
        Ok(Vec::new())
    }

    async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.topics.retain(|partition, _| !partitions.contains(partition));
        Ok(())
    }

    /// A put waits for the broker's answers: so many share one wait.
    fn put_records(&self) -> usize {
        1000
    }

    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        let refuse = |rejects: &mut Rejects, record: aqueduct_core::RecordRef<'_>, error: Error| {
            rejects.push(record.to_record(), Stage::TaskPut, "mqtt-sink", error);
        };
        let (mut sent, mut messages) = (Vec::new(), Vec::new());
        for record in batch.iter() {
            let topic_id = record.origin().and_then(|(partition, _)| self.topics.get(&**partition)).copied();
            match (Message { settings: &self.settings, record, topic_id }).outgoing() {
                Ok(message) => {
                    messages.push((sent.len(), message));
                    sent.push(record);
                }
                Err(error) => refuse(rejects, record, error),
            }
        }
        if messages.is_empty() {
            return Ok(Ack::Durable);
        }
        for (index, reason) in self.send(messages).await? {
            let Some(record) = sent.get(index) else { continue };
            let text = format!("{} refuses the message: {}", self.link.place, error::reason(reason, None));
            let error = Error::fatal("mqtt_sink.refused", text).fix("see the broker's access rules and limits, and mqtt.topic");
            refuse(rejects, *record, error);
        }
        Ok(Ack::Durable)
    }

    /// A put waits for the answers to all it has sent: nothing is left.
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce(match self.settings.qos {
            0 => "QoS 0: the broker acknowledges nothing, and what it passes on is at most once".to_owned(),
            _ => "what was published and not acknowledged is published again after a break; aq-id tells repeats (5.0)".to_owned(),
        })
    }

    async fn close(&mut self) -> Result<()> {
        self.link.end().await;
        Ok(())
    }
}
