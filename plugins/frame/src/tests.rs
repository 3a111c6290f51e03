use crate::{Frame, FrameError, Part, Writer};
use proptest::prelude::*;

type Header = (String, Option<Vec<u8>>);

#[derive(Clone, Debug, PartialEq)]
struct Owned {
    topic: (String, Option<i32>),
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<Header>,
    timestamp: Option<i64>,
    offset: i64,
}

fn record() -> impl Strategy<Value = Owned> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let topic = ("[a-d]{0,3}", proptest::option::of(0..3i32));
    let headers = proptest::collection::vec(("[a-zé]{0,5}", bytes()), 0..4);
    (topic, bytes(), bytes(), headers, proptest::option::of(-5..i64::MAX), -1..i64::MAX)
        .prop_map(|(topic, key, value, headers, timestamp, offset)| Owned { topic, key, value, headers, timestamp, offset })
}

fn write(records: &[Owned]) -> Vec<u8> {
    let mut writer = Writer::new();
    for record in records {
        let topic = writer.topic(&record.topic.0, record.topic.1);
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        let (key, value) = (record.key.as_deref().into(), record.value.as_deref().into());
        writer.record_with_headers(topic, key, value, headers, record.timestamp, record.offset);
    }
    let bytes = writer.bytes();
    let frame = writer.finish();
    assert_eq!(frame.len(), bytes);
    frame
}

fn read(bytes: &[u8]) -> Result<Vec<Owned>, FrameError> {
    let frame = Frame::read(bytes)?;
    let owned = |part: Part<'_>| part.bytes().map(<[u8]>::to_vec);
    frame
        .records()
        .map(|record| {
            let record = record?;
            let topic = record.topic.map_or((String::new(), None), |index| {
                let (name, partition) = frame.topics()[index as usize];
                (name.to_owned(), partition)
            });
            assert_eq!(record.value_range().map(|at| &bytes[at]), record.value.bytes());
            assert_eq!(record.key_range().map(|at| &bytes[at]), record.key.bytes());
            let headers = record.headers()?.unwrap_or_default();
            let headers = headers.iter().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
            let (key, value) = (owned(record.key), owned(record.value));
            Ok(Owned { topic, key, value, headers, timestamp: record.timestamp, offset: record.offset })
        })
        .collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read(records in proptest::collection::vec(record(), 0..20)) {
        prop_assert_eq!(read(&write(&records)).unwrap(), records);
    }

    #[test]
    fn a_frame_that_is_cut_is_refused(records in proptest::collection::vec(record(), 0..8), cut in any::<prop::sample::Index>()) {
        let frame = write(&records);
        prop_assert!(read(&frame[..cut.index(frame.len())]).is_err());
    }

    #[test]
    fn changed_bytes_never_panic(records in proptest::collection::vec(record(), 0..8), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut frame = write(&records);
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let _ = read(&frame);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), begins_well in any::<bool>()) {
        if begins_well && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(b"AQB1\x01\x00\x00\x00");
        }
        let _ = read(&bytes);
    }
}

#[test]
fn the_bytes_are_those_of_frame_md() {
    let mut writer = Writer::new();
    let topic = writer.topic("t", Some(3));
    writer.record_with_headers(topic, Part::Null, Part::Bytes(b"v"), [("h", None)], Some(5), 7);
    let mut expected = b"AQB1\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00".to_vec();
    expected.extend(b"\x03\x00\x00\x00\x01\x00t");
    expected.extend(b"\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\x01\0\0\0\x09\0\0\0");
    expected.extend(b"v\x01\0\x01\0h\xff\xff\xff\xff");
    assert_eq!(writer.finish(), expected);
}

#[test]
fn counts_that_cannot_be_true_are_refused_before_they_are_used() {
    let what = |bytes: &[u8]| read(bytes).unwrap_err().what;
    assert_eq!(what(b"AQB1\x01\0\0\0\0\0\0\0\xff\xff\xff\xff"), "more records than the frame has room for");
    assert_eq!(what(b"AQB1\x01\0\0\0\xff\xff\xff\xff\0\0\0\0"), "more than 65,536 topics");
    assert_eq!(what(b"AQB1\x01\0\0\0\0\0\x01\0\0\0\0\0"), "a number that ends after the frame");
    assert_eq!(what(b"AQB1\x02\0\0\0\0\0\0\0\0\0\0\0"), "a version that this reader does not know");
    assert_eq!(what(b"AQB1\x01\0\x01\0\0\0\0\0\0\0\0\0"), "a flag that this reader does not know");
    assert_eq!(what(b"AQB2\x01\0\0\0\0\0\0\0\0\0\0\0"), "a frame begins with AQB1");
    assert_eq!(what(b"AQB1\x01\0\0\0\0\0\0\0\0\0\0\0x"), "bytes after the last record");
}

#[test]
fn what_stays_is_named_and_not_copied() {
    let mut writer = Writer::new();
    writer.changed(4, Part::Same, Part::Bytes(b"new"), None);
    let frame = writer.finish();
    let record = Frame::read(&frame).unwrap().records().next().unwrap().unwrap();
    assert_eq!((record.topic, record.key, record.value, record.offset), (None, Part::Same, Part::Bytes(b"new"), 4));
    assert!(record.headers().unwrap().is_none());
}
