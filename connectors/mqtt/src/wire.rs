//! Packets of 3.1.1 and 5.0 as one set of types. Formats are `mqtt-proto`'s; only what every message passes (PUBLISH in, acknowledgements) is read and
//! written here, without a copy of the payload. docs/adr says why.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mqtt_proto::v5::PublishProperties;
use mqtt_proto::{Pid, QoS, QosPid, TopicFilter, TopicName, v3, v5};
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V5,
}

/// What a broker sends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    Connack(Box<Connack>),
    Publish(Publish),
    /// `reason` is 0 in 3.1.1.
    Ack {
        kind: Ack,
        pid: u16,
        reason: u8,
    },
    /// Codes in the order of the filters: 0 to 2 is the QoS granted.
    Suback {
        pid: u16,
        codes: Vec<u8>,
    },
    Unsuback,
    Pong,
    Disconnect {
        reason: u8,
        text: Option<Arc<str>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Connack {
    pub session_present: bool,
    pub reason: u8,
    pub text: Option<Arc<str>>,
    /// 65,535 where the broker says nothing.
    pub receive_maximum: u16,
    pub maximum_qos: u8,
    pub retain_available: bool,
    pub maximum_packet: usize,
    pub shared_available: bool,
    /// Seconds, in place of ours.
    pub keep_alive: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Publish {
    /// UTF-8, checked.
    pub topic: Bytes,
    pub qos: u8,
    /// 0 with QoS 0.
    pub pid: u16,
    pub dup: bool,
    pub retain: bool,
    pub properties: Option<Box<PublishProperties>>,
    pub payload: Bytes,
}

impl Publish {
    pub(crate) fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Broken {
    Malformed(String),
    /// Announced in bytes, more than the limit.
    TooLarge(usize),
}

impl Broken {
    fn new(what: &str) -> Self {
        Broken::Malformed(what.to_owned())
    }
}

impl From<mqtt_proto::Error> for Broken {
    fn from(error: mqtt_proto::Error) -> Self {
        Broken::Malformed(shortened(&error))
    }
}

impl From<v5::ErrorV5> for Broken {
    fn from(error: v5::ErrorV5) -> Self {
        Broken::Malformed(shortened(&error))
    }
}

/// An error may carry what it refused.
fn shortened(error: &dyn fmt::Display) -> String {
    error.to_string().chars().take(200).collect()
}

/// The first byte, the bytes of the header, the bytes after it.
fn frame(input: &[u8]) -> Result<Option<(u8, usize, usize)>, Broken> {
    let mut length = 0usize;
    for at in 0..4 {
        let Some(byte) = input.get(1 + at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((input[0], 2 + at, length)));
        }
    }
    Err(Broken::new("a length of more than four bytes"))
}

/// What is next in `input`: `None` until it is there as a whole. A packet above `limit` is refused by its header, before its bytes are waited for.
pub(crate) fn decode(version: Version, limit: usize, input: &mut BytesMut) -> Result<Option<Incoming>, Broken> {
    if input.first().is_some_and(|first| !is_sent_by_brokers(version, *first)) {
        return Err(Broken::new("a packet of no type that brokers send"));
    }
    let Some((first, header, length)) = frame(input)? else { return Ok(None) };
    if header + length > limit {
        return Err(Broken::TooLarge(header + length));
    }
    if input.len() < header + length {
        return Ok(None);
    }
    let mut body = input.split_to(header + length).freeze();
    body.advance(header);
    packet(version, first, body).map(Some)
}

/// By type and flags; told before the rest is waited for.
fn is_sent_by_brokers(version: Version, first: u8) -> bool {
    match first {
        0x20 | 0x40 | 0x50 | 0x62 | 0x70 | 0x90 | 0xb0 | 0xd0 => true,
        0xe0 => version == Version::V5,
        _ => first >> 4 == 3,
    }
}

/// Whether the next packet is a PUBLISH: one that there is no room for is left where it is.
pub(crate) fn publish_is_next(input: &[u8]) -> bool {
    input.first().is_some_and(|first| first >> 4 == 3)
}

/// The bytes of the next packet; 0 when its header is not there.
pub(crate) fn next_bytes(input: &[u8]) -> usize {
    frame(input).ok().flatten().map_or(0, |(_, header, length)| header + length)
}

fn packet(version: Version, first: u8, body: Bytes) -> Result<Incoming, Broken> {
    let ack = match first {
        0x40 => Some(Ack::Puback),
        0x50 => Some(Ack::Pubrec),
        0x62 => Some(Ack::Pubrel),
        0x70 => Some(Ack::Pubcomp),
        _ => None,
    };
    if first >> 4 == 3 {
        return publish(version, first, body).map(Incoming::Publish);
    }
    if let Some(kind) = ack {
        return acknowledgement(version, kind, first, &body);
    }
    match version {
        Version::V3 => packet_v3(first, &body),
        Version::V5 => packet_v5(first, &body),
    }
}

fn publish(version: Version, first: u8, mut body: Bytes) -> Result<Publish, Broken> {
    let qos = first >> 1 & 3;
    if qos == 3 {
        return Err(Broken::new("a PUBLISH of QoS 3"));
    }
    let short = || Broken::new("a PUBLISH that ends early");
    let topic_length = usize::from(number(&mut body).ok_or_else(short)?);
    if body.len() < topic_length {
        return Err(short());
    }
    let topic = body.split_to(topic_length);
    let text = std::str::from_utf8(&topic).map_err(|_| Broken::new("a topic that is not UTF-8"))?;
    // An empty one would be a topic alias, and we allow none.
    if text.is_empty() || TopicName::is_invalid(text) {
        return Err(Broken::new("a topic with a wildcard or a NUL, or none"));
    }
    let pid = if qos == 0 { 0 } else { number(&mut body).ok_or_else(short)? };
    if qos > 0 && pid == 0 {
        return Err(Broken::new("a PUBLISH with the packet identifier 0"));
    }
    let properties = match version {
        Version::V3 => None,
        Version::V5 => publish_properties(&mut body)?,
    };
    Ok(Publish { topic, qos, pid, dup: first & 8 != 0, retain: first & 1 != 0, properties, payload: body })
}

fn publish_properties(body: &mut Bytes) -> Result<Option<Box<PublishProperties>>, Broken> {
    if body.first() == Some(&0) {
        body.advance(1);
        return Ok(None);
    }
    let mut read = 0;
    // What the payload is said to be is not checked: a publisher that lies must not stop those behind it.
    let properties = PublishProperties::decode(body, &mut read, v5::PacketType::Publish)?;
    if properties.topic_alias.is_some() {
        return Err(Broken::new("a topic alias, which was not allowed"));
    }
    if read > body.len() {
        return Err(Broken::new("properties that end late"));
    }
    body.advance(read);
    Ok(Some(Box::new(properties)))
}

fn number(body: &mut Bytes) -> Option<u16> {
    (body.len() >= 2).then(|| body.get_u16())
}

fn acknowledgement(version: Version, kind: Ack, first: u8, body: &Bytes) -> Result<Incoming, Broken> {
    let Some(pid) = number(&mut body.clone()).filter(|pid| *pid != 0) else {
        return Err(Broken::new("an acknowledgement without a packet identifier"));
    };
    let reason = match (version, body.len()) {
        (_, 2) => 0,
        (Version::V3, _) => return Err(Broken::new("an acknowledgement of more than a packet identifier")),
        (Version::V5, _) => {
            let header = header_v5(first, body)?;
            let at = &mut 0;
            match kind {
                Ack::Puback => v5::Puback::decode(body, at, header)?.reason_code as u8,
                Ack::Pubrec => v5::Pubrec::decode(body, at, header)?.reason_code as u8,
                Ack::Pubrel => v5::Pubrel::decode(body, at, header)?.reason_code as u8,
                Ack::Pubcomp => v5::Pubcomp::decode(body, at, header)?.reason_code as u8,
            }
        }
    };
    Ok(Incoming::Ack { kind, pid, reason })
}

fn header_v5(first: u8, body: &[u8]) -> Result<v5::Header, Broken> {
    // Below 2^28: `frame` read it from four bytes of seven bits.
    let length = body.len() as u32;
    Ok(v5::Header::new_with(first, length, length + 2)?)
}

fn packet_v3(first: u8, body: &[u8]) -> Result<Incoming, Broken> {
    let length = body.len() as u32;
    let header = v3::Header::new_with(first, length, length + 2)?;
    let at = &mut 0;
    Ok(match header.typ {
        v3::PacketType::Connack => {
            let connack = v3::Connack::decode(body, at)?;
            Incoming::Connack(Box::new(Connack {
                session_present: connack.session_present,
                reason: connack.code as u8,
                text: None,
                receive_maximum: u16::MAX,
                maximum_qos: 2,
                retain_available: true,
                maximum_packet: usize::MAX,
                shared_available: true,
                keep_alive: None,
            }))
        }
        v3::PacketType::Suback => {
            let suback = v3::Suback::decode(body, at, header)?;
            let code = |code: &v3::SubscribeReturnCode| match code {
                v3::SubscribeReturnCode::MaxLevel0 => 0,
                v3::SubscribeReturnCode::MaxLevel1 => 1,
                v3::SubscribeReturnCode::MaxLevel2 => 2,
                v3::SubscribeReturnCode::Failure => 0x80,
            };
            Incoming::Suback { pid: suback.pid.value(), codes: suback.topics.iter().map(code).collect() }
        }
        v3::PacketType::Unsuback => Incoming::Unsuback,
        v3::PacketType::Pingresp => Incoming::Pong,
        _ => return Err(Broken::new("a packet of no type that brokers send")),
    })
}

fn packet_v5(first: u8, body: &[u8]) -> Result<Incoming, Broken> {
    let header = header_v5(first, body)?;
    let at = &mut 0;
    Ok(match header.typ {
        v5::PacketType::Connack => {
            let connack = v5::Connack::decode(body, at, header)?;
            let properties = connack.properties;
            Incoming::Connack(Box::new(Connack {
                session_present: connack.session_present,
                reason: connack.reason_code as u8,
                text: properties.reason_string,
                receive_maximum: properties.receive_max.unwrap_or(u16::MAX).max(1),
                maximum_qos: properties.max_qos.map_or(2, |qos| qos as u8),
                retain_available: properties.retain_available.unwrap_or(true),
                maximum_packet: properties.max_packet_size.map_or(usize::MAX, |size| size as usize),
                shared_available: properties.shared_subscription_available.unwrap_or(true),
                keep_alive: properties.server_keep_alive,
            }))
        }
        v5::PacketType::Suback => {
            let suback = v5::Suback::decode(body, at, header)?;
            Incoming::Suback { pid: suback.pid.value(), codes: suback.topics.iter().map(|code| *code as u8).collect() }
        }
        v5::PacketType::Unsuback => Incoming::Unsuback,
        v5::PacketType::Pingresp => Incoming::Pong,
        v5::PacketType::Disconnect => {
            let disconnect = v5::Disconnect::decode(body, at, header)?;
            Incoming::Disconnect { reason: disconnect.reason_code as u8, text: disconnect.properties.reason_string }
        }
        _ => return Err(Broken::new("a packet of no type that brokers send")),
    })
}

/// CONNECT.
pub(crate) struct Hello<'a> {
    pub client_id: &'a str,
    pub clean: bool,
    /// Seconds; 5.0 only.
    pub session_expiry: u32,
    /// Seconds.
    pub keep_alive: u16,
    /// 5.0 only.
    pub receive_maximum: u16,
    pub user: Option<&'a str>,
    pub password: Option<&'a str>,
    pub will: Option<&'a Will>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Will {
    pub topic: String,
    pub message: String,
    pub qos: u8,
    pub retain: bool,
}

fn qos(level: u8) -> QoS {
    match level {
        0 => QoS::Level0,
        1 => QoS::Level1,
        _ => QoS::Level2,
    }
}

type Encoded = Result<(), Broken>;

pub(crate) fn connect(version: Version, hello: &Hello<'_>, out: &mut BytesMut) -> Encoded {
    let password = hello.password.map(|password| Bytes::copy_from_slice(password.as_bytes()));
    let encoded = match version {
        Version::V3 => {
            let mut connect = v3::Connect::new(hello.client_id.into(), hello.keep_alive);
            connect.clean_session = hello.clean;
            connect.username = hello.user.map(Into::into);
            connect.password = password;
            connect.last_will = match hello.will {
                Some(will) => {
                    let topic = TopicName::try_from(will.topic.as_str())?;
                    let message = Bytes::copy_from_slice(will.message.as_bytes());
                    Some(v3::LastWill { qos: qos(will.qos), retain: will.retain, topic_name: topic, message })
                }
                None => None,
            };
            v3::Packet::Connect(connect).encode()?
        }
        Version::V5 => {
            let mut connect = v5::Connect::new(hello.client_id.into(), hello.keep_alive);
            connect.clean_start = hello.clean;
            connect.properties.session_expiry_interval = Some(hello.session_expiry).filter(|expiry| *expiry > 0);
            connect.properties.receive_max = Some(hello.receive_maximum.max(1));
            connect.username = hello.user.map(Into::into);
            connect.password = password;
            connect.last_will = match hello.will {
                Some(will) => {
                    let message = Bytes::copy_from_slice(will.message.as_bytes());
                    let mut last = v5::LastWill::new(qos(will.qos), TopicName::try_from(will.topic.as_str())?, message);
                    last.retain = will.retain;
                    Some(last)
                }
                None => None,
            };
            v5::Packet::Connect(connect).encode()?
        }
    };
    out.extend_from_slice(encoded.as_ref());
    Ok(())
}

/// How a subscription treats retained messages (5.0 only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retained {
    Always,
    New,
    Never,
}

pub(crate) fn subscribe(
    version: Version,
    pid: u16,
    filters: &[String],
    level: u8,
    retained: Retained,
    out: &mut BytesMut,
) -> Encoded {
    let pid = Pid::try_from(pid)?;
    let encoded = match version {
        Version::V3 => {
            let topics = filters.iter().map(|filter| Ok((TopicFilter::try_from(filter.as_str())?, qos(level))));
            v3::Packet::Subscribe(v3::Subscribe::new(pid, topics.collect::<Result<_, mqtt_proto::Error>>()?)).encode()?
        }
        Version::V5 => {
            let mut options = v5::SubscriptionOptions::new(qos(level));
            options.retain_as_published = true;
            options.retain_handling = match retained {
                Retained::Always => v5::RetainHandling::SendAtSubscribe,
                Retained::New => v5::RetainHandling::SendAtSubscribeIfNotExist,
                Retained::Never => v5::RetainHandling::DoNotSend,
            };
            let topics = filters.iter().map(|filter| Ok((TopicFilter::try_from(filter.as_str())?, options)));
            v5::Packet::Subscribe(v5::Subscribe::new(pid, topics.collect::<Result<_, mqtt_proto::Error>>()?)).encode()?
        }
    };
    out.extend_from_slice(encoded.as_ref());
    Ok(())
}

pub(crate) fn unsubscribe(version: Version, pid: u16, filters: &[String], out: &mut BytesMut) -> Encoded {
    let pid = Pid::try_from(pid)?;
    let topics = filters.iter().map(|filter| TopicFilter::try_from(filter.as_str())).collect::<Result<Vec<_>, _>>()?;
    let encoded = match version {
        Version::V3 => v3::Packet::Unsubscribe(v3::Unsubscribe::new(pid, topics)).encode()?,
        Version::V5 => v5::Packet::Unsubscribe(v5::Unsubscribe::new(pid, topics)).encode()?,
    };
    out.extend_from_slice(encoded.as_ref());
    Ok(())
}

/// One packet of four bytes, with a reason of five.
pub(crate) fn acknowledge(kind: Ack, pid: u16, reason: u8, out: &mut BytesMut) {
    let first = match kind {
        Ack::Puback => 0x40,
        Ack::Pubrec => 0x50,
        Ack::Pubrel => 0x62,
        Ack::Pubcomp => 0x70,
    };
    out.put_slice(&[first, if reason == 0 { 2 } else { 3 }]);
    out.put_u16(pid);
    if reason != 0 {
        out.put_u8(reason);
    }
}

pub(crate) fn ping(out: &mut BytesMut) {
    out.put_slice(&[0xc0, 0]);
}

/// `forget`: the broker drops the session too (5.0 only).
pub(crate) fn disconnect(version: Version, forget: bool, out: &mut BytesMut) {
    match (version, forget) {
        (Version::V5, true) => out.put_slice(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]),
        _ => out.put_slice(&[0xe0, 0]),
    }
}

/// What a sink sends. Texts are at most 65,535 bytes; the caller has checked that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outgoing {
    pub topic: TopicName,
    pub payload: Bytes,
    pub properties: Option<Box<PublishProperties>>,
}

/// The bytes of the packet, for the caller to compare with the broker's limit.
pub(crate) fn publish_out(version: Version, level: u8, pid: u16, retain: bool, message: &Outgoing) -> Result<Vec<u8>, Broken> {
    let qos_pid = match level {
        0 => QosPid::Level0,
        1 => QosPid::Level1(Pid::try_from(pid)?),
        _ => QosPid::Level2(Pid::try_from(pid)?),
    };
    let encoded = match version {
        Version::V3 => {
            let mut publish = v3::Publish::new(qos_pid, message.topic.clone(), message.payload.clone());
            publish.retain = retain;
            v3::Packet::Publish(publish).encode()?
        }
        Version::V5 => {
            let mut publish = v5::Publish::new(qos_pid, message.topic.clone(), message.payload.clone());
            publish.retain = retain;
            publish.properties = message.properties.as_deref().cloned().unwrap_or_default();
            v5::Packet::Publish(publish).encode()?
        }
    };
    Ok(match encoded {
        mqtt_proto::VarBytes::Dynamic(bytes) => bytes,
        other => other.as_ref().to_vec(),
    })
}

#[cfg(test)]
mod tests;
