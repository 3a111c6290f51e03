//! Codes, and what a broker's reason code means.

use aqueduct_core::{Class, Error};
use std::fmt;

/// The broker is not there, or the connection broke.
pub(crate) fn unreachable(place: &str, why: impl fmt::Display) -> Error {
    Error::retriable("mqtt.unreachable", format!("{place}: {why}"))
        .fix("see whether the broker runs and mqtt.server.uri leads to it; it is tried again")
}

pub(crate) fn tls(place: &str, why: impl fmt::Display) -> Error {
    Error::fatal("mqtt.tls", format!("{place}: {why}"))
        .fix("check mqtt.ssl.trust.store.file and mqtt.ssl.key.store.file against the broker's certificate and listener")
}

pub(crate) fn timeout(place: &str, what: &str) -> Error {
    Error::retriable("mqtt.timeout", format!("{place}: {what}"))
        .fix("see what holds up the broker or the network; it is tried again")
}

pub(crate) fn malformed(place: &str, why: impl fmt::Display) -> Error {
    Error::retriable("mqtt.malformed", format!("{place} sends what is not MQTT: {why}"))
        .fix("check that mqtt.server.uri is the address of an MQTT broker, and mqtt.version")
}

pub(crate) fn too_large(place: &str, announced: usize, limit: usize) -> Error {
    Error::fatal("mqtt.packet_too_large", format!("{place} announces a packet of {announced} bytes, and {limit} are allowed"))
        .fix("raise mqtt.max.packet.bytes, or lower the broker's message_size_limit")
}

/// A refused CONNECT. Reason codes of 5.0; those of 3.1.1 (1 to 5) differ in number only.
pub(crate) fn refused(place: &str, code: u8, text: Option<&str>) -> Error {
    let (class, name, fix) = match code {
        1 | 0x84 => (Class::Fatal, "mqtt.version", "set mqtt.version to what the broker speaks"),
        2 | 0x85 => (Class::Fatal, "mqtt.client_id", "set mqtt.client.id to one that the broker accepts"),
        4 | 0x86 => (Class::Fatal, "mqtt.login", "correct mqtt.username and mqtt.password"),
        5 | 0x87 | 0x8A | 0x8C => (
            Class::Fatal,
            "mqtt.not_authorized",
            "correct mqtt.username, mqtt.password or the client's certificate, or the broker's access rules",
        ),
        0x90 | 0x99 | 0x9A | 0x9B => (Class::Fatal, "mqtt.will", "correct mqtt.will.topic, mqtt.will.qos and mqtt.will.retain"),
        0x81 | 0x82 | 0x95 => (Class::Fatal, "mqtt.refused", "correct the options: the broker does not take this CONNECT"),
        _ => (Class::Retriable, "mqtt.unavailable", "see the broker's log; it is tried again"),
    };
    Error::new(class, name, format!("{place} refuses the connection: {}", reason(code, text))).fix(fix)
}

/// DISCONNECT by the broker (5.0 only).
pub(crate) fn disconnected(place: &str, code: u8, text: Option<&str>) -> Error {
    let (class, name, fix) = match code {
        0x8E => (
            Class::Retriable,
            "mqtt.taken_over",
            "another client has the same mqtt.client.id (a second worker, or the same connector twice): each needs its own",
        ),
        0x87 => (Class::Fatal, "mqtt.not_authorized", "correct the login, or the broker's access rules"),
        0x95 => (Class::Fatal, "mqtt.packet_too_large", "the broker does not take packets of this size"),
        _ => (Class::Retriable, "mqtt.disconnected", "see the broker's log; it is tried again"),
    };
    Error::new(class, name, format!("{place} ends the connection: {}", reason(code, text))).fix(fix)
}

/// `not authorized (0x87), <the broker's words>`
pub(crate) fn reason(code: u8, text: Option<&str>) -> String {
    let name = match code {
        0x00 => "normal disconnection",
        1 | 0x84 => "unsupported protocol version",
        2 | 0x85 => "client identifier not valid",
        3 | 0x88 => "server unavailable",
        4 | 0x86 => "bad user name or password",
        5 | 0x87 => "not authorized",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA2 => "wildcard subscriptions not supported",
        _ => "unknown reason",
    };
    match text {
        Some(text) if !text.is_empty() => format!("{name} ({code:#04x}), {text:?}"),
        _ => format!("{name} ({code:#04x})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_login_does_not_spin_and_a_busy_broker_is_tried_again() {
        for (code, class, name) in [
            (5, Class::Fatal, "mqtt.not_authorized"),
            (0x86, Class::Fatal, "mqtt.login"),
            (3, Class::Retriable, "mqtt.unavailable"),
            (0x89, Class::Retriable, "mqtt.unavailable"),
            (0x97, Class::Retriable, "mqtt.unavailable"),
        ] {
            let error = refused("b:1", code, None);
            assert_eq!((error.class(), error.code()), (class, name), "{code}");
        }
        assert_eq!(disconnected("b:1", 0x8E, Some("x")).code(), "mqtt.taken_over");
    }
}
