use super::*;
use crate::Data;

fn record(topic: &str, value: &str) -> Record {
    Record::new(topic, value.to_owned())
}

#[test]
fn records_come_out_as_they_went_in() {
    let mut large = record("b", &"x".repeat(5000));
    large.headers.push(Header { name: "h".into(), value: "1".into() });
    large.timestamp = Some(7);
    let mut structured = record("b", "");
    structured.value = Payload::data(None, Data::Int64(5));
    structured.key = "k".into();
    let records = vec![record("a", "1"), record("a", "2"), large, structured, record("a", "3")];
    let batch: Batch = records.iter().cloned().collect();
    assert_eq!((batch.len(), batch.chunks().len()), (5, 3));
    assert!(batch.chunks()[1].has_data());
    assert!(batch.bytes() > 5000);
    assert_eq!(batch.into_records().collect::<Vec<_>>(), records);
}

/// What a source says of every record is kept once, and each record has its own of what differs.
#[test]
fn headers_that_are_the_same_are_kept_once() {
    let common = [Header { name: "run".into(), value: "7".into() }, Header { name: "task".into(), value: "0".into() }];
    let with = |headers: &[Header]| Record { headers: headers.to_vec(), ..record("a", "v") };
    let other = [Header { name: "run".into(), value: "8".to_owned().into() }];
    let records =
        [with(&common), with(&common), with(&[]), with(&[]), with(&other), with(&common), with(&common[..1]), with(&common)];
    let batch: Batch = records.iter().cloned().collect();
    assert_eq!(batch.chunks()[0].headers.len(), 2 + 1 + 2 + 1 + 2);
    assert_eq!(batch.slice(1..4).into_records().collect::<Vec<_>>(), records[1..4]);
    assert_eq!(batch.into_records().collect::<Vec<_>>(), records);
}

#[test]
fn retain_and_slice_keep_order_and_counts() {
    let mut batch: Batch = (0..10).map(|i| record(if i < 4 { "a" } else { "b" }, &i.to_string())).collect();
    let values = |batch: &Batch| -> Vec<String> {
        batch
            .iter()
            .map(|r| match r.value() {
                PayloadRef::Bytes(b) => String::from_utf8(b.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(values(&batch.slice(3..6)), ["3", "4", "5"]);
    let mut index = 0;
    batch.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    assert_eq!(values(&batch), ["1", "3", "5", "7", "9"]);
    assert_eq!(batch.len(), 5);
}

#[test]
#[should_panic(expected = "a span ends at 5")]
fn a_span_outside_the_buffer_is_a_bug() {
    let mut builder = ChunkBuilder::new("t".into());
    builder.push_span(None, Some(Span { start: 1, len: 4 }), None, 0);
    builder.finish(Bytes::from_static(b"abcd"));
}
