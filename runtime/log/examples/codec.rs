//! What the record batch codec costs, ours beside the crate `kafka-protocol`: the figures of ADR 0003.
//!
//! `cargo run --release -p aqueduct-log --example codec`
#![allow(clippy::print_stdout, reason = "a program for people")]

use aqueduct_core::{Batch, Bytes, ChunkBuilder, PayloadRef, Span, TopicPartition};
use aqueduct_log::record_batch::{Compression, decode_into, encode};
use kafka_protocol::records as theirs;
use std::sync::Arc;
use std::time::Instant;

const LINE: usize = 100;
/// As many as a batch of 256 KiB holds.
const RECORDS: usize = 2_500;
const ROUNDS: usize = 2_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = ChunkBuilder::new("lines".into());
    (0..RECORDS).for_each(|n| builder.push_span(None, Some(Span { start: (n * LINE) as u32, len: LINE as u32 }), Some(1), -1));
    let mut batch = Batch::new();
    batch.push_chunk(builder.finish(Bytes::from(vec![b'x'; RECORDS * LINE])));
    let tp = Arc::new(TopicPartition::new("lines", 0));
    let mut out = Vec::new();
    measure("encode, ours", || {
        out.clear();
        drop(encode(batch.iter(), 1, Compression::None, &mut out));
    });
    let encoded = Bytes::from(out);
    measure("decode, ours", || {
        let mut back = Batch::new();
        drop(decode_into(&encoded, 0, &tp, 0, &mut back));
        assert_eq!(back.len(), RECORDS);
    });
    let options = theirs::RecordEncodeOptions { version: 2, compression: theirs::Compression::None };
    measure("encode, kafka-protocol, its records made from the batch", || {
        let records: Vec<theirs::Record> =
            batch.iter().enumerate().map(|(n, record)| their_record(n as i64, record.value())).collect();
        let mut out = bytes::BytesMut::new();
        drop(theirs::RecordBatchEncoder::encode(&mut out, &records, &options));
    });
    measure("decode, kafka-protocol", || {
        let set = theirs::RecordBatchDecoder::decode(&mut encoded.clone());
        assert!(set.is_ok_and(|set| set.records.len() == RECORDS));
    });
    Ok(())
}

fn measure(what: &str, mut run: impl FnMut()) {
    run();
    let begin = Instant::now();
    (0..ROUNDS).for_each(|_| run());
    println!("{what}: {:.1} ns a record", begin.elapsed().as_nanos() as f64 / (RECORDS * ROUNDS) as f64);
}

fn their_record(offset: i64, value: PayloadRef<'_>) -> theirs::Record {
    let PayloadRef::Bytes(value) = value else { unreachable!("the batch has lines only") };
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
        timestamp: 1,
        key: None,
        value: Some(Bytes::copy_from_slice(value)),
        headers: Default::default(),
    }
}
