//! What source and sink share: where the brokers are, who we are there, and what happens when we are gone.

use crate::tls::Files;
use crate::topic;
use crate::wire::{Version, Will};
use aqueduct_config::{ByteSize, List, PathText, Secret};
use aqueduct_core::{Error, Issue, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum MqttVersion {
    #[serde(rename = "3.1.1")]
    V3,
    #[default]
    #[serde(rename = "5")]
    V5,
}

/// The options of a connector: these, and its own. Not `#[serde(flatten)]`, under which numbers cannot be read from text.
macro_rules! with_broker {
    ($(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        pub struct $name {
            /// Brokers, as `tcp://host:1883` or `ssl://host:8883` (TLS); `mqtt` and `mqtts` mean the same. The first that answers is used.
            #[serde(rename = "mqtt.server.uri")]
            #[schemars(extend("x-importance" = "high", "x-group" = "Broker", "x-example" = "tcp://localhost:1883"))]
            uris: aqueduct_config::List<String>,
            /// The protocol.
            #[serde(rename = "mqtt.version", default)]
            #[schemars(extend("x-group" = "Broker"))]
            version: crate::config::MqttVersion,
            /// The name that the broker keeps the session under; `aqueduct-<name of the connector>` if not given. The second task and those after it add `-1`, `-2`, ….
            #[serde(rename = "mqtt.client.id", default)]
            #[schemars(length(min = 1, max = 60_000), extend("x-group" = "Broker"))]
            client_id: Option<String>,
            /// Who we are.
            #[serde(rename = "mqtt.username", default)]
            #[schemars(extend("x-group" = "Broker"))]
            user: Option<String>,
            /// Goes with `mqtt.username`.
            #[serde(rename = "mqtt.password", default)]
            #[schemars(extend("x-group" = "Broker"))]
            password: Option<aqueduct_config::Secret>,
            /// How long a broker may take to answer: to the connection, a subscription, a ping, a message.
            #[serde(rename = "mqtt.connect.timeout.seconds", default = "crate::config::half_minute")]
            #[schemars(range(min = 1, max = 600), extend("x-importance" = "low", "x-group" = "Broker"))]
            timeout_seconds: u32,
            /// After this time without a packet the broker is asked whether it is there; 0 is never.
            #[serde(rename = "mqtt.keepalive.interval.seconds", default = "crate::config::one_minute")]
            #[schemars(range(min = 0, max = 65_535), extend("x-importance" = "low", "x-group" = "Broker"))]
            keep_alive_seconds: u32,
            /// A PEM file with the authorities that sign the broker's certificate; the system's if not given.
            #[serde(rename = "mqtt.ssl.trust.store.file", default)]
            #[schemars(extend("x-group" = "TLS"))]
            trust: Option<aqueduct_config::PathText>,
            /// A PEM file with this client's certificate and private key, where the broker wants one.
            #[serde(rename = "mqtt.ssl.key.store.file", default)]
            #[schemars(extend("x-group" = "TLS"))]
            key: Option<aqueduct_config::PathText>,
            /// The last will: where the broker publishes when this client is gone without a word.
            #[serde(rename = "mqtt.will.topic", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Last will"))]
            will_topic: Option<String>,
            /// What it publishes there.
            #[serde(rename = "mqtt.will.message", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Last will"))]
            will_message: String,
            /// The will's QoS.
            #[serde(rename = "mqtt.will.qos", default)]
            #[schemars(range(min = 0, max = 2), extend("x-importance" = "low", "x-group" = "Last will"))]
            will_qos: u8,
            /// Whether the will is a retained message.
            #[serde(rename = "mqtt.will.retained.enabled", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Last will"))]
            will_retain: bool,
            /// The largest packet that is accepted. A larger one fails the task: nothing is passed over silently.
            #[serde(rename = "mqtt.max.packet.bytes", default = "crate::config::eight_mib")]
            #[schemars(range(min = 1024, max = 268_435_460), extend("x-importance" = "low", "x-group" = "Broker"))]
            max_packet: aqueduct_config::ByteSize,
            $($own)*
        }

        impl $name {
            fn broker(&self) -> crate::config::Broker<'_> {
                crate::config::Broker {
                    uris: &self.uris,
                    version: self.version,
                    client_id: &self.client_id,
                    user: &self.user,
                    password: &self.password,
                    timeout_seconds: self.timeout_seconds,
                    keep_alive_seconds: self.keep_alive_seconds,
                    trust: &self.trust,
                    key: &self.key,
                    will_topic: &self.will_topic,
                    will_message: &self.will_message,
                    will_qos: self.will_qos,
                    will_retain: self.will_retain,
                    max_packet: self.max_packet,
                }
            }
        }
    };
}
pub(crate) use with_broker;

/// What [`with_broker`] gives every connector.
pub(crate) struct Broker<'a> {
    pub uris: &'a List<String>,
    pub version: MqttVersion,
    pub client_id: &'a Option<String>,
    pub user: &'a Option<String>,
    pub password: &'a Option<Secret>,
    pub timeout_seconds: u32,
    pub keep_alive_seconds: u32,
    pub trust: &'a Option<PathText>,
    pub key: &'a Option<PathText>,
    pub will_topic: &'a Option<String>,
    pub will_message: &'a String,
    pub will_qos: u8,
    pub will_retain: bool,
    pub max_packet: ByteSize,
}

pub(crate) fn half_minute() -> u32 {
    30
}
pub(crate) fn one_minute() -> u32 {
    60
}
/// Eight times the log's default `max.message.bytes`.
pub(crate) fn eight_mib() -> ByteSize {
    ByteSize::mib(8)
}

/// Checked.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub addresses: Vec<Address>,
    pub version: Version,
    pub id: Option<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub timeout: Duration,
    /// Seconds; 0 is never.
    pub keep_alive: u16,
    pub tls: Files,
    pub will: Option<Will>,
    pub max_packet: usize,
}

impl Client {
    /// # Errors
    /// `mqtt.config` when nobody has named this client.
    pub(crate) fn id(&self) -> Result<&str> {
        self.id.as_deref().ok_or_else(|| {
            Error::fatal("mqtt.config", "mqtt.client.id: is not set, and the connector has no name").fix("set mqtt.client.id")
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Address {
    /// # Errors
    /// What is wrong, as a sentence's end; never the text itself, which may hold a password.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("tcp", text.trim()));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "tcp" | "mqtt" => false,
            "ssl" | "tls" | "mqtts" => true,
            "ws" | "wss" => return Err("is a WebSocket, which is not supported: use tcp:// or ssl://"),
            _ => return Err("begins with none of tcp://, ssl://, mqtt://, mqtts://"),
        };
        if rest.contains('@') {
            return Err("has a login in it: use mqtt.username and mqtt.password");
        }
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(plain) {
            return Err("has no host name");
        }
        let port = match port {
            None => {
                if tls {
                    8883
                } else {
                    1883
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("has no port from 1 to 65535")?,
        };
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

impl Broker<'_> {
    /// # Errors
    /// Every issue.
    pub(crate) fn client(&self) -> Result<Client, Vec<Issue>> {
        let mut issues = Vec::new();
        let mut wrong = |path: &str, message: String, fix: &str| issues.push(Issue::error(path, "mqtt.config", message).fix(fix));
        let mut addresses = Vec::new();
        for (index, uri) in self.uris.iter().enumerate() {
            match Address::parse(uri) {
                Ok(address) => addresses.push(address),
                Err(why) => wrong(
                    "mqtt.server.uri",
                    format!("address {} {why}", index + 1),
                    "write it as tcp://host:1883 or ssl://host:8883",
                ),
            }
        }
        if self.uris.is_empty() {
            wrong("mqtt.server.uri", "names no broker".into(), "write it as tcp://host:1883 or ssl://host:8883");
        }
        let bad = |text: &str| text.contains('\0') || text.len() > usize::from(u16::MAX);
        for (path, text) in [("mqtt.client.id", self.client_id), ("mqtt.username", self.user)] {
            if text.as_deref().is_some_and(bad) {
                wrong(path, "has a NUL, or more than 65,535 bytes".into(), "choose another one");
            }
        }
        if self.password.is_some() && self.user.is_none() {
            wrong("mqtt.password", "goes with mqtt.username".into(), "set mqtt.username too");
        }
        if self.password.as_ref().is_some_and(|password| password.expose().len() > usize::from(u16::MAX)) {
            wrong("mqtt.password", "has more than 65,535 bytes".into(), "choose another one");
        }
        if let Some(Err(why)) = self.will_topic.as_deref().map(topic::check_name) {
            wrong("mqtt.will.topic", format!("is no topic to publish to: it {why}"), "name a topic without wildcards");
        }
        if self.will_message.len() > usize::from(u16::MAX) {
            wrong("mqtt.will.message", "has more than 65,535 bytes".into(), "shorten it");
        }
        if !issues.is_empty() {
            return Err(issues);
        }
        let will = self.will_topic.clone().map(|topic| Will {
            topic,
            message: self.will_message.clone(),
            qos: self.will_qos,
            retain: self.will_retain,
        });
        Ok(Client {
            addresses,
            version: if self.version == MqttVersion::V3 { Version::V3 } else { Version::V5 },
            id: self.client_id.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            timeout: Duration::from_secs(self.timeout_seconds.into()),
            keep_alive: u16::try_from(self.keep_alive_seconds).unwrap_or(u16::MAX),
            tls: Files {
                trust: self.trust.as_ref().map(|path| path.as_path().to_owned()),
                key: self.key.as_ref().map(|path| path.as_path().to_owned()),
            },
            will,
            max_packet: self.max_packet.as_usize(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| Address::parse(text).map(|address| (address.tls, address.to_string()));
        for (text, tls, shown) in [
            ("tcp://a", false, "a:1883"),
            ("mqtt://a:7/", false, "a:7"),
            ("ssl://a.b", true, "a.b:8883"),
            ("MQTTS://a:1", true, "a:1"),
            ("tcp://[::1]:1884", false, "[::1]:1884"),
            ("tcp://[::1]", false, "[::1]:1883"),
            ("a:1", false, "a:1"),
        ] {
            assert_eq!(parse(text), Ok((tls, shown.to_owned())), "{text}");
        }
        for text in ["", "tcp://", "http://a", "ws://a", "tcp://a:0", "tcp://a:x", "tcp://u:p@a", "tcp://a b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
