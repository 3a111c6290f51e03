use super::*;
use aqueduct_core::{Batch, Bytes, Payload, PayloadRef, Record, RecordRef, TopicPartition};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;

fn tp() -> Arc<TopicPartition> {
    Arc::new(TopicPartition::new("t", 3))
}

fn record(key: Option<&[u8]>, value: Option<&[u8]>, timestamp: Option<i64>) -> Record {
    let payload = |bytes: Option<&[u8]>| bytes.map_or(Payload::Null, |bytes| Payload::Bytes(Bytes::copy_from_slice(bytes)));
    Record { key: payload(key), value: payload(value), timestamp, ..Record::new("t", "") }
}

fn encoded(batch: &Batch, compression: Compression) -> Vec<u8> {
    let mut out = b"before".to_vec();
    let summary = encode(batch.iter(), 42, compression, &mut out).unwrap();
    assert_eq!((summary.records, summary.bytes), (batch.len(), out.len() - 6));
    out.split_off(6)
}

fn decoded(bytes: Vec<u8>) -> Result<Batch, Damage> {
    let mut out = Batch::new();
    decode_into(&Bytes::from(bytes), 0, &tp(), 0, &mut out)?;
    Ok(out)
}

type Plain = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, i64);

fn plain(record: RecordRef<'_>) -> Plain {
    let bytes = |payload: PayloadRef<'_>| match payload {
        PayloadRef::Null => None,
        PayloadRef::Bytes(bytes) => Some(bytes.to_vec()),
        PayloadRef::Data(data) => panic!("{data:?}"),
    };
    let headers = record.headers().iter().map(|header| (header.name.to_string(), bytes(header.value.as_ref()))).collect();
    (bytes(record.key()), bytes(record.value()), headers, record.timestamp().unwrap_or(42))
}

fn arbitrary_record() -> impl Strategy<Value = Record> {
    let payload = || proptest::option::of(vec(any::<u8>(), 0..200));
    let headers = vec(("[a-zé]{0,9}", payload()), 0..4);
    let timestamp = proptest::option::of(0..i64::MAX / 2);
    (payload(), payload(), headers, timestamp).prop_map(|(key, value, headers, timestamp)| {
        let mut record = record(key.as_deref(), value.as_deref(), timestamp);
        let mut seen = std::collections::HashSet::new();
        for (name, value) in headers {
            // kafka-protocol keeps headers in a map; repeated names have a test of their own.
            if seen.insert(name.clone()) {
                let value = value.map_or(Payload::Null, |value| Payload::Bytes(value.into()));
                record.headers.push(aqueduct_core::Header { name: name.into(), value });
            }
        }
        record
    })
}

fn arbitrary_batch() -> impl Strategy<Value = Batch> {
    vec(arbitrary_record(), 1..40).prop_map(|records| records.into_iter().collect())
}

fn arbitrary_compression() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        Just(Compression::Gzip),
        Just(Compression::Snappy),
        Just(Compression::Lz4),
        Just(Compression::Zstd)
    ]
}

proptest! {
    #[test]
    fn what_we_encode_kafka_protocol_decodes(batch in arbitrary_batch(), compression in arbitrary_compression()) {
        let bytes = encoded(&batch, compression);
        let set = theirs::RecordBatchDecoder::decode(&mut Bytes::from(bytes)).unwrap();
        prop_assert_eq!(set.records.len(), batch.len());
        for (index, (ours, theirs)) in batch.iter().zip(&set.records).enumerate() {
            let headers = theirs.headers.iter().map(|(name, value)| (name.to_string(), value.as_ref().map(|v| v.to_vec()))).collect();
            let found = (theirs.key.as_ref().map(|v| v.to_vec()), theirs.value.as_ref().map(|v| v.to_vec()), headers, theirs.timestamp);
            prop_assert_eq!(plain(ours), found);
            prop_assert_eq!((theirs.offset, theirs.producer_id, theirs.partition_leader_epoch), (index as i64, -1, 0));
        }
    }

    #[test]
    fn what_kafka_protocol_encodes_we_decode(batch in arbitrary_batch(), codec in 0..5) {
        let records: Vec<theirs::Record> = batch.iter().enumerate().map(|(index, record)| their_record(index as i64, record)).collect();
        use theirs::Compression::{Gzip, Lz4, None, Snappy, Zstd};
        let compression = [None, Gzip, Snappy, Lz4, Zstd][codec as usize];
        let mut bytes = bytes::BytesMut::new();
        theirs::RecordBatchEncoder::encode(&mut bytes, &records, &theirs::RecordEncodeOptions { version: 2, compression }).unwrap();
        let back = decoded(bytes.to_vec()).unwrap();
        prop_assert_eq!(batch.iter().map(plain).collect::<Vec<_>>(), back.iter().map(plain).collect::<Vec<_>>());
        prop_assert!(back.iter().enumerate().all(|(index, record)| record.origin().unwrap() == (&tp(), index as i64)));
    }

    #[test]
    fn any_change_is_found_and_nothing_panics(
        batch in arbitrary_batch(),
        compression in arbitrary_compression(),
        changes in vec((any::<prop::sample::Index>(), 1u8..), 1..4),
    ) {
        let sound = encoded(&batch, compression);
        let mut bytes = sound.clone();
        for (at, change) in changes {
            // Kafka's CRC does not cover the base offset and the leader epoch.
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] ^= change;
        }
        prop_assert!(bytes == sound || decoded(bytes).is_err());
    }

    #[test]
    fn damage_behind_a_right_crc_does_not_panic(
        batch in arbitrary_batch(),
        compression in arbitrary_compression(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encoded(&batch, compression);
        if cut.index(4) == 0 {
            bytes.truncate(HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES));
        }
        for (at, change) in changes {
            let at = CRC_FROM + at.index(bytes.len() - CRC_FROM);
            bytes[at] = change;
        }
        seal(&mut bytes);
        let mut out = Batch::new();
        if decode_into(&Bytes::from(bytes), 0, &tp(), 0, &mut out).is_ok() {
            out.iter().for_each(|record| drop(plain(record)));
        }
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300)) {
        let mut forged = bytes.clone();
        prop_assert!(decoded(bytes).is_err());
        if forged.len() >= HEADER_BYTES {
            forged[MAGIC_AT] = MAGIC;
            forged[..8].fill(0);
            forged[LAST_DELTA_AT] &= 0x7f;
            seal(&mut forged);
            let _ = decoded(forged);
        }
    }

    #[test]
    fn records_below_the_wanted_offset_are_left_out(batch in arbitrary_batch(), from in 0i64..60, base in 0i64..20) {
        let mut bytes = encoded(&batch, Compression::None);
        stamp_base_offset(&mut bytes, base);
        let mut out = Batch::new();
        decode_into(&Bytes::from(bytes), 0, &tp(), from, &mut out).unwrap();
        let skipped = (from - base).clamp(0, batch.len() as i64) as usize;
        let expected: Vec<_> = batch.iter().skip(skipped).map(plain).collect();
        prop_assert_eq!(out.iter().map(plain).collect::<Vec<_>>(), expected);
        prop_assert!(out.iter().all(|record| record.origin().unwrap().1 >= from));
    }

    #[test]
    fn sparse_batches_keep_their_offsets(gaps in vec((1i64..1000, arbitrary_record()), 0..20), base in 0i64..1 << 40, rest in 0i64..100) {
        let batch: Batch = gaps.iter().map(|(_, record)| record.clone()).collect();
        let mut offset = base - 1;
        let offsets: Vec<i64> = gaps.iter().map(|(gap, _)| { offset += gap; offset }).collect();
        let last = offset.max(base) + rest;
        let mut bytes = Vec::new();
        encode_sparse(base, last, offsets.iter().copied().zip(batch.iter()), Compression::Lz4, &mut bytes).unwrap();
        let header = verify(&bytes).unwrap();
        prop_assert_eq!((header.base_offset, header.last_offset(), header.records as usize), (base, last, batch.len()));
        let back = decoded(bytes).unwrap();
        prop_assert_eq!(back.iter().map(|r| r.origin().unwrap().1).collect::<Vec<_>>(), offsets);
        prop_assert_eq!(back.iter().map(plain).collect::<Vec<_>>(), batch.iter().map(plain).collect::<Vec<_>>());
    }
}

/// Makes length and CRC right, whatever stands between them.
fn seal(bytes: &mut [u8]) {
    let length = (bytes.len() - PREFIX_BYTES) as i32;
    bytes[LENGTH_AT..EPOCH_AT].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
}

fn their_record(offset: i64, record: RecordRef<'_>) -> theirs::Record {
    let (key, value, headers, timestamp) = plain(record);
    theirs::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: theirs::TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp,
        key: key.map(Bytes::from),
        value: value.map(Bytes::from),
        headers: headers.into_iter().map(|(name, value)| (StrBytes::from_string(name), value.map(Bytes::from))).collect(),
    }
}

#[test]
fn batches_follow_each_other_in_one_buffer_and_are_not_copied() {
    let batch: Batch = (0..100).map(|i| record(None, Some(format!("line {i}").as_bytes()), Some(1000 + i))).collect();
    let mut bytes = Vec::new();
    for base in [0, 100, 200] {
        let start = bytes.len();
        let summary = encode(batch.iter(), 0, Compression::None, &mut bytes).unwrap();
        assert_eq!(summary.max_timestamp, 1099);
        stamp_base_offset(&mut bytes[start..], base);
    }
    let buffer = Bytes::from(bytes);
    let (mut out, mut at) = (Batch::new(), 0);
    while at < buffer.len() {
        at += decode_into(&buffer, at, &tp(), 150, &mut out).unwrap();
    }
    assert_eq!(at, buffer.len());
    assert_eq!((out.len(), out.chunks().len()), (150, 2));
    assert_eq!(out.iter().map(|r| r.origin().unwrap().1).collect::<Vec<_>>(), (150..300).collect::<Vec<_>>());
    let inside = buffer.as_ptr_range();
    assert!(out.chunks().iter().all(|chunk| inside.contains(&chunk.buffer().as_ptr())));
    assert!(out.chunks()[0].bytes() < 2 * buffer.len(), "a chunk accounts for its own batch, not for all that was read");
    assert_eq!((out.chunks()[0].partition, out.chunks()[0].origin.as_deref()), (Some(3), Some(&*tp())));
}

#[test]
fn repeated_header_names_are_kept() {
    let mut one = record(None, Some(b"v"), Some(1));
    for value in ["1", "2"] {
        one.headers.push(aqueduct_core::Header { name: "h".into(), value: value.into() });
    }
    one.headers.push(aqueduct_core::Header { name: "".into(), value: Payload::Null });
    let batch: Batch = [one.clone(), one].into_iter().collect();
    let back = decoded(encoded(&batch, Compression::Zstd)).unwrap();
    assert_eq!(batch.iter().map(plain).collect::<Vec<_>>(), back.iter().map(plain).collect::<Vec<_>>());
}

#[test]
fn a_batch_of_nothing_and_a_batch_of_the_past() {
    let bytes = encoded(&Batch::new(), Compression::Lz4);
    assert_eq!(bytes.len(), HEADER_BYTES);
    assert!(decoded(bytes).unwrap().is_empty());
    let past: Batch = [record(None, None, Some(-5)), record(None, Some(b""), Some(i64::MAX))].into_iter().collect();
    let back = decoded(encoded(&past, Compression::None)).unwrap();
    assert_eq!(back.iter().map(|r| r.timestamp()).collect::<Vec<_>>(), [Some(-5), Some(i64::MAX)]);
    assert_eq!(back.iter().map(|r| r.value().is_null()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn compression_makes_it_smaller_or_is_left_out() {
    let text = "the same words over and over ".repeat(100);
    let batch: Batch = (0..50).map(|_| record(None, Some(text.as_bytes()), Some(1))).collect();
    let sizes = [Compression::None, Compression::Lz4, Compression::Zstd].map(|c| (c, encoded(&batch, c)));
    for (compression, bytes) in &sizes[1..] {
        assert!(bytes.len() * 10 < sizes[0].1.len(), "{compression:?}: {}", bytes.len());
        assert_eq!(verify(bytes).unwrap().compression(), Ok(*compression));
    }
    let tiny: Batch = [record(None, Some(b"x"), Some(1))].into_iter().collect();
    assert_eq!(verify(&encoded(&tiny, Compression::Zstd)).unwrap().compression(), Ok(Compression::None));
}

#[test]
fn a_bomb_is_refused_and_never_written() {
    let zeros = vec![0; 40 << 20];
    let batch: Batch = [record(None, Some(&zeros), Some(1))].into_iter().collect();
    let bytes = encoded(&batch, Compression::Zstd);
    assert_eq!(
        verify(&bytes).unwrap().compression(),
        Ok(Compression::None),
        "zstd takes zeros 1:10,000: a reader would refuse it"
    );
    assert_eq!(decoded(bytes).unwrap().len(), 1);

    let mut bomb = encoded(&Batch::new(), Compression::None);
    bomb[CRC_FROM + 1] = 4;
    bomb[COUNT_AT + 3] = 1;
    bomb.extend(zstd::bulk::compress(&zeros, 3).unwrap());
    seal(&mut bomb);
    assert!(matches!(decoded(bomb), Err(Damage::Bomb { .. })));
}

#[test]
fn snappy_as_librdkafka_writes_it_and_codecs_that_nobody_knows() {
    let plain = encoded(&[record(None, Some(b"x"), Some(1))].into_iter().collect(), Compression::None);
    let packed = |codec: u8, records: &[u8]| {
        let mut bytes = [&plain[..HEADER_BYTES], records].concat();
        bytes[CRC_FROM + 1] = codec;
        seal(&mut bytes);
        bytes
    };
    let bare = snap::raw::Encoder::new().compress_vec(&plain[HEADER_BYTES..]).unwrap();
    assert_eq!(decoded(packed(2, &bare)).unwrap().len(), 1);
    assert_eq!(decoded(packed(5, &bare)).unwrap_err(), Damage::Unsupported("an unknown"));
    // A length of 4 GiB, in snappy's own header; in gzip 40 MiB of zeros.
    let huge = [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0; 20]].concat();
    assert!(matches!(decoded(packed(2, &huge)), Err(Damage::Bomb { .. })));
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut zeros, &vec![0; 40 << 20]).unwrap();
    assert!(matches!(decoded(packed(1, &zeros.finish().unwrap())), Err(Damage::Bomb { .. })));
}

#[test]
fn torn_and_impossible_batches_have_names() {
    let batch: Batch = [record(Some(b"k"), Some(b"v"), Some(1))].into_iter().collect();
    let bytes = encoded(&batch, Compression::None);
    assert_eq!(Header::parse(&bytes[..60]), Ok(None));
    assert_eq!(Header::parse(&bytes[..61]).unwrap().unwrap().bytes, bytes.len());
    assert_eq!(verify(&bytes[..65]), Err(Damage::Torn { have: 65, need: bytes.len() }));
    assert_eq!(Header::parse(&[0; 61]), Err(Damage::Length(0)));
    let mut huge = bytes.clone();
    huge[LENGTH_AT] = 0x7f;
    assert!(matches!(Header::parse(&huge), Err(Damage::Length(_))));
    let mut old = bytes.clone();
    old[MAGIC_AT] = 1;
    assert_eq!(Header::parse(&old), Err(Damage::Magic(1)));
    let mut flipped = bytes;
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(verify(&flipped), Err(Damage::Crc { .. })));
}

#[test]
fn errors_leave_the_buffer_as_it_was() {
    let large: Batch = [record(None, Some(&vec![0; MAX_BATCH_BYTES]), Some(1))].into_iter().collect();
    let mut structured = record(None, None, Some(1));
    structured.value = Payload::data(None, aqueduct_core::Data::Int32(1));
    let structured: Batch = [record(None, Some(b"v"), None), structured].into_iter().collect();
    for (batch, code) in [(large, "log.record_too_large"), (structured, "log.not_encoded")] {
        let mut out = vec![7; 3];
        assert_eq!(encode(batch.iter(), 0, Compression::None, &mut out).unwrap_err().code(), code);
        assert_eq!(out, [7; 3]);
    }
    let two: Batch = [record(None, None, None), record(None, None, None)].into_iter().collect();
    for (base, last, offsets) in [(5, 9, [5, 5]), (5, 9, [4, 5]), (5, 9, [5, 10]), (5, 4, [5, 6]), (0, i64::MAX, [0, 1])] {
        let mut out = vec![7; 3];
        let error = encode_sparse(base, last, offsets.into_iter().zip(two.iter()), Compression::None, &mut out).unwrap_err();
        assert_eq!((error.code(), out.as_slice()), ("log.offset_order", &[7u8; 3][..]));
    }
}
