//! A message as a record.

use super::captures;
use super::config::Settings;
use crate::topic::{Filter, Template, log_topic};
use crate::wire::Publish;
use aqueduct_core::{Header, Payload, Record, Topic};
use bytes::Bytes;
use mqtt_proto::v5::PublishProperties;
use rustc_hash::FxHashMap;
use std::sync::Arc;

pub(super) struct Records {
    filters: Vec<Filter>,
    topic: Template,
    key: Option<Template>,
    names: Option<Names>,
    /// What a topic of MQTT becomes. Forgotten when it is full: devices may make up topics without end.
    routes: FxHashMap<Bytes, Route>,
}

#[derive(Clone)]
struct Route {
    topic: Topic,
    key: Payload,
}

const ROUTES_MAX: usize = 10_000;

/// Of headers; shared by all records.
struct Names {
    qos: Arc<str>,
    retained: Arc<str>,
    duplicate: Arc<str>,
    content_type: Arc<str>,
    correlation_data: Arc<str>,
    response_topic: Arc<str>,
    expiry: Arc<str>,
    utf8: Arc<str>,
}

impl Records {
    pub(super) fn new(settings: &Settings) -> Self {
        let names = || Names {
            qos: "mqtt.qos".into(),
            retained: "mqtt.retained".into(),
            duplicate: "mqtt.duplicate".into(),
            content_type: "mqtt.content.type".into(),
            correlation_data: "mqtt.correlation.data".into(),
            response_topic: "mqtt.response.topic".into(),
            expiry: "mqtt.message.expiry.interval".into(),
            utf8: "mqtt.payload.format.indicator".into(),
        };
        Self {
            filters: settings.filters.clone(),
            topic: settings.topic.clone(),
            key: settings.key.clone(),
            names: settings.headers.then(names),
            routes: FxHashMap::default(),
        }
    }

    pub(super) fn record(&mut self, publish: Publish) -> Record {
        let Route { topic, key } = self.route(&publish);
        let mut record = Record { key, ..Record::new(topic, publish.payload) };
        if let Some(names) = &self.names {
            names.add(publish.qos, publish.retain, publish.dup, publish.properties.as_deref(), &mut record.headers);
        }
        record
    }

    fn route(&mut self, publish: &Publish) -> Route {
        if let Some(route) = self.routes.get(&publish.topic) {
            return route.clone();
        }
        let name = publish.topic();
        let captures = captures(&self.filters, name);
        let key = self.key.as_ref().map_or(Payload::Null, |key| key.apply(name, &captures).into());
        let route = Route { topic: log_topic(&self.topic.apply(name, &captures)).into(), key };
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        // A copy: the topic is a slice of the buffer that was read.
        self.routes.insert(Bytes::copy_from_slice(&publish.topic), route.clone());
        route
    }
}

impl Names {
    fn add(&self, qos: u8, retain: bool, dup: bool, properties: Option<&PublishProperties>, headers: &mut Vec<Header>) {
        let mut add = |name: &Arc<str>, value: Payload| headers.push(Header { name: name.clone(), value });
        add(&self.qos, ["0", "1", "2"][usize::from(qos.min(2))].into());
        if retain {
            add(&self.retained, "true".into());
        }
        if dup {
            add(&self.duplicate, "true".into());
        }
        let Some(properties) = properties else { return };
        if let Some(text) = &properties.content_type {
            add(&self.content_type, text.to_string().into());
        }
        if let Some(data) = &properties.correlation_data {
            add(&self.correlation_data, data.clone().into());
        }
        if let Some(topic) = &properties.response_topic {
            add(&self.response_topic, topic.to_string().into());
        }
        if let Some(seconds) = properties.message_expiry_interval {
            add(&self.expiry, seconds.to_string().into());
        }
        if let Some(utf8) = properties.payload_is_utf8 {
            add(&self.utf8, if utf8 { "1" } else { "0" }.into());
        }
        for property in &properties.user_properties {
            headers.push(Header { name: property.name.clone(), value: property.value.to_string().into() });
        }
    }
}
