//! Topics, ACLs, offsets and coordinators over the protocol itself: a Java tool costs a JVM for each question.
//!
//! Written by hand and for the tests alone: versions without tagged fields, which every Kafka 4 still answers (KIP-896).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const LIST_OFFSETS: i16 = 2;
pub const METADATA: i16 = 3;
pub const OFFSET_COMMIT: i16 = 8;
pub const OFFSET_FETCH: i16 = 9;
pub const FIND_COORDINATOR: i16 = 10;
pub const JOIN_GROUP: i16 = 11;
pub const HEARTBEAT: i16 = 12;
pub const SYNC_GROUP: i16 = 14;
pub const API_VERSIONS: i16 = 18;
pub const CREATE_TOPICS: i16 = 19;
pub const DELETE_TOPICS: i16 = 20;
pub const INIT_PRODUCER_ID: i16 = 22;
pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
pub const ADD_OFFSETS_TO_TXN: i16 = 25;
pub const END_TXN: i16 = 26;
pub const TXN_OFFSET_COMMIT: i16 = 28;
pub const CREATE_ACLS: i16 = 30;
pub const DESCRIBE_CONFIGS: i16 = 32;
pub const CREATE_PARTITIONS: i16 = 37;
pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
pub const CONSUMER_GROUP_HEARTBEAT: i16 = 68;

/// The largest frame that a client or broker of a test may send; Kafka's own limit is 100 MiB.
const FRAME_MAX: usize = 128 << 20;

/// What a user may be allowed to do. The numbers are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Topic = 2,
    Group = 3,
    Cluster = 4,
    TransactionalId = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    All = 2,
    Read = 3,
    Write = 4,
    Create = 5,
    Describe = 8,
    IdempotentWrite = 12,
}

/// A connection for administration. Every method panics with Kafka's error code and message.
#[derive(Debug)]
pub struct Admin {
    bootstrap: String,
    stream: TcpStream,
    correlation: i32,
}

/// Where a partition's leader or a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: i32,
    pub address: String,
}

impl Admin {
    /// The first of `host:port,host:port` that accepts.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    pub fn connect(bootstrap: &str) -> Self {
        let stream = bootstrap.split(',').find_map(|address| TcpStream::connect(address).ok());
        let stream = stream.unwrap_or_else(|| panic!("no broker accepts on {bootstrap}"));
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("not zero");
        stream.set_nodelay(true).expect("an open socket");
        Self { bootstrap: bootstrap.to_owned(), stream, correlation: 0 }
    }

    #[track_caller]
    fn call(&mut self, api: i16, version: i16, body: &Body) -> Answer {
        self.try_call(api, version, body).unwrap_or_else(|error| panic!("{}: api {api}: {error}", self.bootstrap))
    }

    fn try_call(&mut self, api: i16, version: i16, body: &Body) -> io::Result<Answer> {
        self.correlation += 1;
        let head = Body::default().i16(api).i16(version).i32(self.correlation).text("aqueduct-test");
        let length = i32::try_from(head.0.len() + body.0.len()).expect("a small request");
        self.stream.write_all(&[&length.to_be_bytes()[..], &head.0, &body.0].concat())?;
        let frame = read_frame(&mut self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Answer { bytes: frame, at: 8 })
    }

    /// A topic with Kafka's own configs. Replicas: the broker's default.
    #[track_caller]
    pub fn create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let error = self.try_create_topic(name, partitions, configs);
        assert!(error.0 == 0, "create topic {name}: {error:?}");
        // The answer comes from the controller; a client may ask a broker that has not heard yet.
        crate::wait_until(Duration::from_secs(20), &format!("topic {name} has leaders"), || {
            let leaders = self.leaders(name);
            (leaders.len() == usize::try_from(partitions).ok()? && leaders.iter().all(|leader| *leader >= 0)).then_some(())
        });
    }

    /// The error code and message; `36` is `TOPIC_ALREADY_EXISTS`.
    pub fn try_create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> (i16, String) {
        let body = Body::default().i32(1).text(name).i32(partitions).i16(-1).i32(0).array(configs, |b, (k, v)| b.text(k).text(v));
        let mut answer = self.call(CREATE_TOPICS, 4, &body.i32(20_000).bool(false));
        answer.skip(4 + 4);
        answer.text();
        (answer.i16(), answer.text())
    }

    #[track_caller]
    pub fn delete_topic(&mut self, name: &str) {
        assert_eq!(self.try_delete_topic(name), 0, "delete topic {name}");
        crate::wait_until(Duration::from_secs(20), &format!("topic {name} is gone"), || {
            self.leaders(name).is_empty().then_some(())
        });
    }

    /// The error code. The brokers delete it some time later, and somebody may have created it anew by then.
    pub fn try_delete_topic(&mut self, name: &str) -> i16 {
        let mut answer = self.call(DELETE_TOPICS, 3, &Body::default().i32(1).text(name).i32(20_000));
        answer.skip(4 + 4);
        answer.text();
        answer.i16()
    }

    /// More partitions, `count` in all.
    #[track_caller]
    pub fn create_partitions(&mut self, topic: &str, count: i32) {
        let mut answer =
            self.call(CREATE_PARTITIONS, 1, &Body::default().i32(1).text(topic).i32(count).i32(-1).i32(20_000).bool(false));
        answer.skip(4 + 4);
        answer.text();
        let error = (answer.i16(), answer.text());
        assert!(error.0 == 0, "create partitions of {topic}: {error:?}");
    }

    /// Sets configs of a topic, others stay.
    #[track_caller]
    pub fn alter_topic(&mut self, topic: &str, configs: &[(&str, &str)]) {
        let body = Body::default().i32(1).i8(2).text(topic).array(configs, |b, (k, v)| b.text(k).i8(0).text(v));
        let mut answer = self.call(INCREMENTAL_ALTER_CONFIGS, 0, &body.bool(false));
        answer.skip(4 + 4);
        let error = (answer.i16(), answer.text());
        assert!(error.0 == 0, "alter {topic}: {error:?}");
    }

    /// All configs of a topic, defaults too.
    #[track_caller]
    pub fn topic_configs(&mut self, topic: &str) -> BTreeMap<String, String> {
        let mut answer = self.call(DESCRIBE_CONFIGS, 1, &Body::default().i32(1).i8(2).text(topic).i32(-1).bool(false));
        answer.skip(4 + 4);
        let error = (answer.i16(), answer.text());
        assert!(error.0 == 0, "configs of {topic}: {error:?}");
        answer.skip(1);
        answer.text();
        let entry = |answer: &mut Answer| {
            let pair = (answer.text(), answer.text());
            answer.skip(3 + 4);
            pair
        };
        answer.array(entry).into_iter().collect()
    }

    /// Allows a user one operation on a resource; `name` is literal, `*` is any. The cluster's name is `kafka-cluster`.
    #[track_caller]
    pub fn allow(&mut self, user: &str, resource: Resource, name: &str, operation: Operation) {
        let body = Body::default().i32(1).i8(resource as i8).text(name).i8(3);
        let body = body.text(&format!("User:{user}")).text("*").i8(operation as i8).i8(3);
        let mut answer = self.call(CREATE_ACLS, 1, &body);
        answer.skip(4 + 4);
        let error = (answer.i16(), answer.text());
        assert!(error.0 == 0, "allow {user} {operation:?} on {resource:?} {name}: {error:?}");
    }

    /// Names of all topics, internal ones too.
    #[track_caller]
    pub fn topics(&mut self) -> Vec<String> {
        self.metadata(None).1.into_iter().map(|(name, _)| name).collect()
    }

    /// The node id that leads each partition, `-1` where none does; empty when there is no such topic.
    #[track_caller]
    pub fn leaders(&mut self, topic: &str) -> Vec<i32> {
        self.metadata(Some(topic)).1.into_iter().flat_map(|(_, leaders)| leaders).collect()
    }

    fn metadata(&mut self, topic: Option<&str>) -> (Vec<Node>, Vec<(String, Vec<i32>)>) {
        let body = topic.map_or_else(|| Body::default().i32(-1), |name| Body::default().i32(1).text(name));
        let mut answer = self.call(METADATA, 4, &body.bool(false));
        answer.skip(4);
        let nodes = answer.array(|answer| {
            let (id, host, port) = (answer.i32(), answer.text(), answer.i32());
            answer.text();
            Node { id, address: format!("{host}:{port}") }
        });
        answer.text();
        answer.skip(4);
        let topics = answer.array(|answer| {
            answer.skip(2);
            let name = answer.text();
            answer.skip(1);
            let mut leaders = answer.array(|answer| {
                answer.skip(2);
                let pair = (answer.i32(), answer.i32());
                answer.array(Answer::i32);
                answer.array(Answer::i32);
                pair
            });
            leaders.sort_unstable();
            (name, leaders.into_iter().map(|(_, leader)| leader).collect())
        });
        (nodes, topics)
    }

    /// The next offset of a partition; with `committed`, the last stable offset: what a `read_committed` reader gets to.
    #[track_caller]
    pub fn end_offset(&mut self, topic: &str, partition: i32, committed: bool) -> i64 {
        self.offset_at(topic, partition, committed, -1)
    }

    /// The first offset that is still there.
    #[track_caller]
    pub fn start_offset(&mut self, topic: &str, partition: i32) -> i64 {
        self.offset_at(topic, partition, false, -2)
    }

    #[track_caller]
    fn offset_at(&mut self, topic: &str, partition: i32, committed: bool, timestamp: i64) -> i64 {
        let (nodes, topics) = self.metadata(Some(topic));
        let leader = topics.first().and_then(|(_, leaders)| leaders.get(usize::try_from(partition).ok()?).copied());
        let node =
            nodes.into_iter().find(|node| Some(node.id) == leader).unwrap_or_else(|| panic!("{topic}-{partition} has no leader"));
        let body = Body::default().i32(-1).i8(i8::from(committed)).i32(1).text(topic).i32(1).i32(partition).i64(timestamp);
        let mut answer = Self::connect(&node.address).call(LIST_OFFSETS, 2, &body);
        answer.skip(4 + 4);
        answer.text();
        answer.skip(4 + 4);
        assert_eq!(answer.i16(), 0, "end offset of {topic}-{partition}");
        answer.skip(8);
        answer.i64()
    }

    /// The broker that coordinates this consumer group.
    #[track_caller]
    pub fn group_coordinator(&mut self, group: &str) -> Node {
        self.coordinator(group, 0)
    }

    /// The broker that coordinates this transactional id.
    #[track_caller]
    pub fn transaction_coordinator(&mut self, transactional_id: &str) -> Node {
        self.coordinator(transactional_id, 1)
    }

    #[track_caller]
    fn coordinator(&mut self, key: &str, kind: i8) -> Node {
        // The first question creates the internal topic, and answers 15 (not available) until it has a leader.
        crate::wait_until(Duration::from_secs(30), &format!("{key} has a coordinator"), || {
            let mut answer = self.call(FIND_COORDINATOR, 2, &Body::default().text(key).i8(kind));
            answer.skip(4);
            let error = answer.i16();
            answer.text();
            let (id, host, port) = (answer.i32(), answer.text(), answer.i32());
            (error == 0).then(|| Node { id, address: format!("{host}:{port}") })
        })
    }

    /// Committed positions of a consumer group, by topic and partition.
    #[track_caller]
    pub fn committed(&mut self, group: &str) -> BTreeMap<(String, i32), i64> {
        let coordinator = self.group_coordinator(group);
        crate::wait_until(Duration::from_secs(30), &format!("positions of {group}"), || {
            let mut answer = Self::connect(&coordinator.address).call(OFFSET_FETCH, 3, &Body::default().text(group).i32(-1));
            answer.skip(4);
            let topics = answer.array(|answer| {
                let name = answer.text();
                let positions = answer.array(|answer| {
                    let pair = (answer.i32(), answer.i64());
                    answer.text();
                    answer.skip(2);
                    pair
                });
                (name, positions)
            });
            // Not 0: still loading after a move.
            (answer.i16() == 0).then(|| {
                let each = |(name, positions): (String, Vec<(i32, i64)>)| {
                    positions.into_iter().map(move |(p, o)| ((name.clone(), p), o))
                };
                topics.into_iter().flat_map(each).collect()
            })
        })
    }
}

/// A frame with its four bytes of length; `None` at the end of the stream.
///
/// # Errors
/// When the stream breaks inside of one, or it is too long.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let size = u32::from_be_bytes(length) as usize;
    if size > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {size} bytes")));
    }
    let mut frame = vec![0; 4 + size];
    frame[..4].copy_from_slice(&length);
    stream.read_exact(&mut frame[4..])?;
    Ok(Some(frame))
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn i8(self, value: i8) -> Self {
        self.raw(&value.to_be_bytes())
    }
    fn bool(self, value: bool) -> Self {
        self.i8(i8::from(value))
    }
    fn i16(self, value: i16) -> Self {
        self.raw(&value.to_be_bytes())
    }
    fn i32(self, value: i32) -> Self {
        self.raw(&value.to_be_bytes())
    }
    fn i64(self, value: i64) -> Self {
        self.raw(&value.to_be_bytes())
    }
    fn text(self, value: &str) -> Self {
        self.i16(i16::try_from(value.len()).expect("a short text")).raw(value.as_bytes())
    }
    fn array<T>(self, items: &[T], each: impl Fn(Self, &T) -> Self) -> Self {
        let count = i32::try_from(items.len()).expect("few items");
        items.iter().fold(self.i32(count), each)
    }
}

/// Panics on an answer that is too short: then the test has failed.
struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.bytes[self.at..self.at + N].try_into().expect("N bytes");
        self.at += N;
        bytes
    }
    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }
    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }
    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }
    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
    /// Null is empty.
    fn text(&mut self) -> String {
        let length = usize::try_from(self.i16()).unwrap_or(0);
        self.at += length;
        String::from_utf8_lossy(&self.bytes[self.at - length..self.at]).into_owned()
    }
    fn array<T>(&mut self, mut each: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.i32()).map(|_| each(self)).collect()
    }
}
