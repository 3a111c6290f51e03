use super::*;
use aqueduct_core::{Data, Origin};
use aqueduct_plugin_frame::Writer;
use std::iter::repeat_with;

/// Record by record, as it is said: what the chunks that are made must hold.
fn plainly(input: &Batch, frame: &[u8]) -> Vec<Record> {
    let (frame, records) = (Frame::read(frame).unwrap(), input.clone().into_records().collect::<Vec<_>>());
    let part = |part: Part<'_>, before: Payload| match part {
        Part::Same => before,
        Part::Null => Payload::Null,
        Part::Bytes(bytes) if matches!(before, Payload::Data(_)) => json::from_json(bytes).unwrap(),
        Part::Bytes(bytes) => Payload::Bytes(Bytes::copy_from_slice(bytes)),
    };
    let made = frame.records().map(|record| {
        let record = record.unwrap();
        let before = records[record.offset as usize].clone();
        let (topic, partition) = record.topic.map_or((before.topic.clone(), before.partition), |index| {
            let (name, partition) = frame.topics()[index as usize];
            (name.into(), partition)
        });
        let value = |value: Option<&[u8]>| value.map_or(Payload::Null, |value| Payload::Bytes(Bytes::copy_from_slice(value)));
        let headers = record.headers().unwrap().map_or(before.headers.clone(), |headers| {
            headers.iter().map(|(name, text)| Header { name: name.into(), value: value(text) }).collect()
        });
        let (key, value) = (part(record.key, before.key), part(record.value, before.value));
        Record { topic, partition, key, value, headers, timestamp: record.timestamp, origin: before.origin }
    });
    made.collect()
}

fn payload(random: &mut fastrand::Rng) -> Payload {
    let length = random.usize(..20);
    match random.u8(..12) {
        0 => Payload::Null,
        1 => Payload::data(None, Data::object([("n", i64::from(random.i32(..)).into())])),
        2 => Payload::from("x".repeat(INLINE_MAX_BYTES + random.usize(..3))),
        _ => Payload::from(repeat_with(|| random.alphanumeric()).take(length).collect::<String>()),
    }
}

fn given(random: &mut fastrand::Rng) -> Batch {
    let shared: Vec<Header> =
        vec![Header { name: "run".into(), value: "7".into() }, Header { name: "n".into(), value: Payload::Null }];
    let origins = [0, 1].map(|partition| Arc::new(TopicPartition::new("in", partition)));
    let count = random.usize(1..30);
    let mut records = Vec::new();
    for offset in 0..count {
        // Longer runs than records that stand alone.
        let turn = offset / 4;
        let origin = (turn % 3 > 0).then(|| Origin { partition: origins[turn % 2].clone(), offset: offset as i64 });
        let topic = if turn % 5 == 4 { "b" } else { "a" };
        let mut record = Record { origin, timestamp: Some(offset as i64), ..Record::new(topic, payload(random)) };
        record.key = payload(random);
        record.headers = match random.u8(..4) {
            0 => vec![Header { name: "own".into(), value: payload(random) }],
            1 => Vec::new(),
            _ => shared.clone(),
        };
        records.push(record);
    }
    records.into_iter().collect()
}

fn returned(random: &mut fastrand::Rng, input: &Batch) -> Vec<u8> {
    let (mut writer, count) = (Writer::new(), random.usize(..40));
    let large = format!("\"{}\"", "7".repeat(INLINE_MAX_BYTES));
    // JSON too: what is in place of a structured value must be.
    let texts = ["1", "\"some text\"", &large];
    let part = |random: &mut fastrand::Rng| match random.u8(..8) {
        0 => Part::Null,
        1..4 => Part::Bytes(texts[random.usize(..texts.len())].as_bytes()),
        _ => Part::Same,
    };
    let calm = random.bool();
    for at in 0..count {
        let index = if calm { at % input.len() } else { random.usize(..input.len()) };
        let (key, value) = if calm { (Part::Same, part(random)) } else { (part(random), part(random)) };
        let timestamp = random.bool().then_some(index as i64);
        match random.u8(..6) {
            0 if !calm => {
                let topic = writer.topic(["a", "c"][random.usize(..2)], random.bool().then_some(1));
                writer.record_with_headers(topic, key, value, [("new", Some(b"1".as_slice()))], timestamp, index as i64);
            }
            1 if !calm => {
                let topic = writer.topic("a", None);
                writer.record(topic, key, value, timestamp, index as i64);
            }
            _ => writer.changed(index, key, value, timestamp),
        }
    }
    writer.finish()
}

#[test]
fn chunks_hold_what_the_frame_says_record_by_record() {
    for seed in 0..3_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let input = given(&mut random);
        let frame = returned(&mut random, &input);
        let expected = plainly(&input, &frame);
        let made = merge(&input, frame).unwrap().unwrap_or_else(|| input.clone());
        assert_eq!(made.len(), expected.len(), "seed {seed}");
        assert_eq!(made.into_records().collect::<Vec<_>>(), expected, "seed {seed}");
    }
}

#[test]
fn values_alone_are_not_copied_and_headers_are_kept_once() {
    let header = Header { name: "run".into(), value: "7".into() };
    let record = |n: usize| Record { headers: vec![header.clone()], timestamp: Some(5), ..Record::new("a", n.to_string()) };
    let input: Batch = (0..100).map(record).collect();
    let mut writer = Writer::new();
    (0..100).for_each(|index| writer.changed(index, Part::Same, Part::Bytes(b"masked"), Some(5)));
    let frame = writer.finish();
    let within = frame.as_ptr_range();
    let made = merge(&input, frame).unwrap().unwrap();
    assert_eq!(made.chunks().len(), 1);
    assert!(within.contains(&made.chunks()[0].buffer().as_ptr()), "the payloads lie in the frame");
    assert!(made.bytes() < 100 * (48 + 40) + 200, "{} bytes: the header is there a hundred times", made.bytes());
}

#[test]
fn dropping_records_leaves_the_buffers_and_keeping_all_leaves_the_batch() {
    let input: Batch = (0..10).map(|n| Record { timestamp: Some(5), ..Record::new("a", n.to_string()) }).collect();
    let kept = |kept: &[usize]| {
        let mut writer = Writer::new();
        kept.iter().for_each(|index| writer.changed(*index, Part::Same, Part::Same, Some(5)));
        let made = merge(&input, writer.finish()).unwrap();
        made.map(|made| {
            assert!(made.chunks().iter().all(|chunk| chunk.buffer().as_ptr() == input.chunks()[0].buffer().as_ptr()));
            made.into_records().map(|record| record.value).collect::<Vec<_>>()
        })
    };
    assert_eq!(kept(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), None);
    let values = |all: &[&'static str]| Some(all.iter().map(|value| Payload::from(*value)).collect::<Vec<_>>());
    assert_eq!(kept(&[1, 2, 5, 8]), values(&["1", "2", "5", "8"]));
    assert_eq!(kept(&[0, 9]), values(&["0", "9"]));
    assert_eq!(kept(&[]), values(&[]));
}
