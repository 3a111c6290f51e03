//! A record as a message.

use super::config::Settings;
use crate::wire::{Outgoing, Version};
use aqueduct_core::{Data, Error, Header, Payload, PayloadRef, RecordRef, Result};
use bytes::Bytes;
use mqtt_proto::TopicName;
use mqtt_proto::v5::{PublishProperties, UserProperty};
use std::sync::Arc;
use uuid::Uuid;

pub(super) struct Message<'a> {
    pub settings: &'a Settings,
    pub record: RecordRef<'a>,
    /// Of the topic in the log.
    pub topic_id: Option<Uuid>,
}

impl Message<'_> {
    /// # Errors
    /// Why this record cannot be published.
    pub(super) fn outgoing(&self) -> Result<Outgoing> {
        let name = self.settings.topic.apply(self.record).map_err(|why| {
            Error::fatal("mqtt_sink.topic", format!("mqtt.topic: {why}"))
                .fix("correct mqtt.topic, or what the record has in these places")
        })?;
        let topic = TopicName::try_from(name.as_str()).map_err(|why| Error::fatal("mqtt_sink.topic", why.to_string()))?;
        let properties = match self.settings.client.version == Version::V5 && self.settings.headers {
            true => Some(Box::new(self.properties()?)),
            false => None,
        };
        Ok(Outgoing { topic, payload: self.payload()?, properties })
    }

    fn payload(&self) -> Result<Bytes> {
        match self.record.to_record().value {
            // A tombstone: an empty message deletes a retained one.
            Payload::Null => Ok(Bytes::new()),
            Payload::Bytes(bytes) => Ok(bytes),
            Payload::Data(structured) => match structured.data {
                Data::String(text) => Ok(text.into()),
                Data::Bytes(bytes) => Ok(bytes),
                _ => Err(Error::fatal("mqtt_sink.structured", "the value is structured").fix("set value.converter: plain")),
            },
        }
    }

    fn properties(&self) -> Result<PublishProperties> {
        let mut properties = PublishProperties::default();
        for header in self.record.headers() {
            self.property(header, &mut properties)?;
        }
        if let (Some(topic), Some((partition, offset))) = (self.topic_id, self.record.origin()) {
            let value = format!("{}-{}-{offset}", topic.simple(), partition.partition);
            properties.user_properties.push(UserProperty { name: "aq-id".into(), value: value.into() });
        }
        Ok(properties)
    }

    fn property(&self, header: &Header, properties: &mut PublishProperties) -> Result<()> {
        let wrong = |why: &str| {
            Error::fatal("mqtt_sink.header", format!("the header {} {why}", shown(&header.name)))
                .fix("drop the header with a transform, or set mqtt.headers.enabled: false")
        };
        let text = || -> Result<Arc<str>> {
            let text = match header.value.as_ref() {
                PayloadRef::Null => "",
                PayloadRef::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?,
                PayloadRef::Data(data) => data.data.as_str().ok_or_else(|| wrong("is structured"))?,
            };
            if !fits(text) { Err(wrong("has a NUL or more than 65,535 bytes")) } else { Ok(text.into()) }
        };
        match &*header.name {
            // What the message was when it came; it is published by our own options.
            "mqtt.qos" | "mqtt.retained" | "mqtt.duplicate" => {}
            "mqtt.content.type" => properties.content_type = Some(text()?),
            "mqtt.response.topic" => {
                let topic = TopicName::try_from(text()?).ok().filter(|topic| !topic.is_empty());
                properties.response_topic = Some(topic.ok_or_else(|| wrong("is no topic"))?);
            }
            "mqtt.correlation.data" => {
                let data = match &header.value {
                    Payload::Bytes(bytes) => bytes.clone(),
                    _ => Bytes::copy_from_slice(text()?.as_bytes()),
                };
                if data.len() > usize::from(u16::MAX) {
                    return Err(wrong("has more than 65,535 bytes"));
                }
                properties.correlation_data = Some(data);
            }
            "mqtt.message.expiry.interval" => {
                properties.message_expiry_interval =
                    Some(text()?.trim().parse().map_err(|_| wrong("is not a number of seconds"))?);
            }
            "mqtt.payload.format.indicator" => {
                properties.payload_is_utf8 = Some(match &*text()? {
                    "0" => false,
                    "1" => true,
                    _ => return Err(wrong("is neither 0 nor 1")),
                });
            }
            name if !fits(name) => return Err(wrong("has a name with a NUL or of more than 65,535 bytes")),
            name => properties.user_properties.push(UserProperty { name: name.into(), value: text()? }),
        }
        Ok(())
    }
}

fn fits(text: &str) -> bool {
    text.len() <= usize::from(u16::MAX) && !text.contains('\0')
}

fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}
