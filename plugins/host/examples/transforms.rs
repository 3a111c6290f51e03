//! What a transform costs a record: `transforms mask_transform.wasm zoo.wasm RECORDS RUNS`. Prints, as JSON, the CPU-seconds of each run: of the
//! mask as a plugin, as a trusted plugin, and as the same code built in, and of a plugin that passes everything through.
//!
//! All are given the same batches, as a sink's task is given them by the log: one chunk of about 1 MiB, with offsets and timestamps and without
//! keys or headers. What is built in does what the built-in transforms of runtime/transforms do: an owned record for each, a new value, and a batch
//! of those.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people who measure")]

use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{
    Batch, BatchBuilder, Bytes, ChunkBuilder, Error, Options, Payload, Rejects, Result, Span, Stage, TopicPartition, Transform,
};
use aqueduct_plugin_host::load_bytes;
use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Of `aqueduct.batch.max.bytes`: 1 MiB of lines and their entries.
const BATCH_RECORDS: u64 = 6_800;
/// Between two values in a batch of the log: lengths, and what is null.
const GAP: usize = 9;
const FIELD: &str = "email";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (records, runs): (u64, usize) = (args[2].parse().unwrap(), args[3].parse().unwrap());
    let batches: Vec<Batch> = (0..8).map(batch).collect();
    let rounds = records / BATCH_RECORDS + 1;
    let mut steps: [(&str, Box<dyn Transform>); 4] = [
        ("native", Box::new(Mask { fields: [FIELD.to_owned()].into(), mask: r#""****""#.to_owned(), masked: Vec::new() })),
        ("mask", plugin(&args[0], false, &[("fields", FIELD)])),
        ("trusted", plugin(&args[0], true, &[("fields", FIELD)])),
        ("pass", plugin(&args[1], false, &[])),
    ];
    let made = made(&mut steps, &batches[0]).await;
    assert!(made[0] == made[1] && made[0] == made[2], "the plugin makes another thing of a record than what is built in");
    let mut spent: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..runs {
        for (name, step) in &mut steps {
            let before = cpu();
            for round in 0..rounds {
                let mut rejects = Rejects::default();
                let made = step.apply(batches[round as usize % batches.len()].clone(), &mut rejects).await.unwrap();
                assert!(made.len() as u64 == BATCH_RECORDS && rejects.is_empty());
            }
            spent.entry(name).or_default().push((cpu() - before).as_secs_f64());
        }
    }
    println!("{}", serde_json::json!({"records": rounds * BATCH_RECORDS, "seconds": spent}));
}

/// Also what compiles the plugins: it is not counted.
async fn made(steps: &mut [(&str, Box<dyn Transform>); 4], batch: &Batch) -> Vec<Vec<Payload>> {
    let mut all = Vec::new();
    for (_, step) in steps {
        let made = step.apply(batch.clone(), &mut Rejects::default()).await.unwrap();
        all.push(made.into_records().map(|record| record.value).collect());
    }
    all
}

/// Objects of 99 bytes.
fn batch(number: u64) -> Batch {
    let (mut buffer, from) = (Vec::new(), number * BATCH_RECORDS);
    let partition = Arc::new(TopicPartition::new("json", 0));
    let mut builder = ChunkBuilder::new("json".into()).partition(Some(0)).origin(Some(partition));
    for n in from..from + BATCH_RECORDS {
        buffer.extend_from_slice(&[0; GAP]);
        let start = buffer.len();
        let line = format!(r#"{{"id":{n:>12},"email":"{n:012}@example.com","text":"{}"}}"#, "x".repeat(35));
        buffer.extend_from_slice(line.as_bytes());
        let span = Span { start: start as u32, len: line.len() as u32 };
        builder.push_span(None, Some(span), Some(1_767_225_600_000 + n as i64), n as i64);
    }
    let mut batch = Batch::new();
    batch.push_chunk(builder.finish(Bytes::from(buffer)));
    batch
}

fn plugin(file: &str, trusted: bool, options: &[(&str, &str)]) -> Box<dyn Transform> {
    let grants =
        ["mask-transform", "zoo-transform"].map(|name| (name.to_owned(), PluginGrant { trusted, ..PluginGrant::default() }));
    let loaded = load_bytes(std::fs::read(file).unwrap(), &BTreeMap::from(grants)).unwrap();
    let options: Options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let built = loaded.transforms[0].build(&options);
    built.unwrap_or_else(|issues| panic!("{issues:?}"))
}

/// Of all threads.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let spent = threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("schedstat")).ok());
    Duration::from_nanos(spent.map(|text| text.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum())
}

/// plugins/examples/mask-transform, built in.
struct Mask {
    fields: BTreeSet<String>,
    mask: String,
    masked: Vec<u8>,
}

#[async_trait]
impl Transform for Mask {
    async fn apply(&mut self, batch: Batch, rejects: &mut Rejects) -> Result<Batch> {
        let (mut out, mut masked) = (BatchBuilder::new(), std::mem::take(&mut self.masked));
        for chunk in batch.into_chunks() {
            for record in chunk.iter() {
                let mut owned = record.to_record();
                let Payload::Bytes(value) = &owned.value else {
                    out.push(owned);
                    continue;
                };
                match self.mask(value, &mut masked) {
                    Ok(true) => owned.value = Payload::Bytes(Bytes::copy_from_slice(&masked)),
                    Ok(false) => {}
                    Err(error) => {
                        let error = Error::fatal("mask", format!("the value is no JSON object: {error}"));
                        rejects.push(owned, Stage::Transformation, "mask", error);
                        continue;
                    }
                }
                out.push(owned);
            }
        }
        self.masked = masked;
        Ok(out.finish())
    }
}

impl Mask {
    /// False: it has none of the fields.
    fn mask(&self, value: &[u8], out: &mut Vec<u8>) -> serde_json::Result<bool> {
        let Members(members) = serde_json::from_slice(value)?;
        out.clear();
        let mut found = false;
        for (index, (name, raw)) in members.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            name.serialize(&mut serde_json::Serializer::new(&mut *out))?;
            out.push(b':');
            let masked = self.fields.contains(&**name);
            found |= masked;
            out.extend_from_slice(if masked { self.mask.as_bytes() } else { raw.get().as_bytes() });
        }
        out.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
        Ok(found)
    }
}

/// In their order, as they were written.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}
