//! The promises of sources.

use super::{Case, Check, DEADLINE, Kept, check, context, skipped, within};
use aqueduct_core::{Record, SourceOffset, SourcePlugin, SourceTask};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Enough for many places to resume from; a source of an API may have few.
const SAMPLE: usize = 60;
/// Few, so that there are many such places.
const BATCH_RECORDS: usize = 7;
/// A source that brings nothing for so long has no more: a test API has a handful of records.
const QUIET: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_millis(200);
/// How much later than asked a poll may return: of a loaded machine.
const LATE: Duration = Duration::from_secs(5);

/// As the worker stores them: the last of each partition.
type Offsets = BTreeMap<String, SourceOffset>;
/// So many records were read, and then these were the offsets.
type Places = Vec<(usize, Offsets)>;

const RESUME: &str = "resume: from each stored offset exactly what follows it, also after a kill";
const AGAIN: &str = "redelivery: without offsets everything comes again";
const ONE: &str = "limits: one record a poll is enough to go on";
const INTERRUPTED: &str = "delays: a poll that is to return does so";

pub(super) async fn checks(plugin: &Arc<dyn SourcePlugin>, case: &Case) -> Vec<Check> {
    let name = "poll: bounded batches, each with where to resume, in time";
    let read = read(plugin, case, &Offsets::new(), SAMPLE, BATCH_RECORDS, true).await;
    let (records, places) = match read {
        Ok((records, places)) => (records, places),
        Err(why) => return vec![check(name, Err(why))],
    };
    let mut checks = vec![check(name, Ok(()))];
    if records.is_empty() {
        let why = "no record came within 10 s: give it a config that has some";
        checks.extend([RESUME, AGAIN, ONE].map(|name| skipped(name, why)));
    } else {
        checks.push(check(RESUME, resumes(plugin, case, &records, &places).await));
        checks.push(check(AGAIN, again(plugin, case, &records, 1000).await));
        checks.push(check(ONE, again(plugin, case, &records[..records.len().min(5)], 1).await));
    }
    checks.push(check(INTERRUPTED, interrupted(plugin, case, &places).await));
    checks
}

async fn open(plugin: &Arc<dyn SourcePlugin>, case: &Case, offsets: &Offsets) -> Result<Vec<Box<dyn SourceTask>>, String> {
    let mut tasks = Vec::new();
    for spec in within("plan", plugin.plan(&case.options, 1)).await? {
        tasks.push(within("open", plugin.open(&case.options, spec, offsets.values().cloned().collect())).await?);
    }
    Ok(tasks)
}

/// Up to `wanted` records, and the places between the batches. The task is closed in order, or dropped as in a crash.
async fn read(
    plugin: &Arc<dyn SourcePlugin>,
    case: &Case,
    offsets: &Offsets,
    wanted: usize,
    batch_records: usize,
    closes: bool,
) -> Result<(Vec<Record>, Places), String> {
    let (mut records, mut offsets, mut places) = (Vec::new(), offsets.clone(), Vec::new());
    let mut tasks = open(plugin, case, &offsets).await?;
    let (mut heard, until) = (Instant::now(), Instant::now() + DEADLINE);
    while records.len() < wanted && heard.elapsed() < QUIET && Instant::now() < until {
        for task in &mut tasks {
            // No more than is wanted: what comes after it is not to be stored.
            let cx = context(WAIT, batch_records.min(wanted.saturating_sub(records.len()).max(1)));
            let began = Instant::now();
            let polled = within("poll", task.poll(&cx)).await?;
            if began.elapsed() > WAIT + LATE && polled.batch.is_empty() {
                return Err(format!("poll was to return within {WAIT:?} and took {:?}", began.elapsed()));
            }
            if polled.batch.bytes() > cx.max_bytes && polled.batch.len() > 1 {
                return Err(format!("{} bytes in a batch where {} are asked for", polled.batch.bytes(), cx.max_bytes));
            }
            if !polled.batch.is_empty() && polled.resume.is_empty() {
                return Err("a batch without an offset: nothing says where to resume after it".to_owned());
            }
            for offset in &polled.resume {
                match offset.offset {
                    Some(_) => drop(offsets.insert(offset.partition_key(), offset.clone())),
                    None => drop(offsets.remove(&offset.partition_key())),
                }
            }
            if !polled.batch.is_empty() {
                heard = Instant::now();
                records.extend(polled.batch.into_records());
                places.push((records.len(), offsets.clone()));
            }
            if !polled.resume.is_empty() {
                within("commit", task.commit(&polled.resume)).await?;
            }
        }
    }
    if closes {
        for task in &mut tasks {
            within("close", task.close()).await?;
        }
    }
    Ok((records, places))
}

async fn resumes(plugin: &Arc<dyn SourcePlugin>, case: &Case, records: &[Record], places: &[(usize, Offsets)]) -> Kept {
    for (index, (taken, offsets)) in places.iter().enumerate().take(6) {
        let rest = &records[*taken..];
        let (found, _) = read(plugin, case, offsets, rest.len(), 1000, index % 2 == 0).await?;
        same(rest, &found).map_err(|what| format!("opened with what was stored after {taken} records, {what}"))?;
    }
    Ok(())
}

async fn again(plugin: &Arc<dyn SourcePlugin>, case: &Case, records: &[Record], batch_records: usize) -> Kept {
    let (found, _) = read(plugin, case, &Offsets::new(), records.len(), batch_records, true).await?;
    same(records, &found).map_err(|what| format!("opened without offsets, {what}"))
}

/// When it was read is no part of what was read.
fn same(expected: &[Record], found: &[Record]) -> Kept {
    let what = |record: &Record| (record.topic.clone(), record.key.clone(), record.value.clone(), record.headers.clone());
    for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
        if what(expected) != what(found) {
            return Err(format!("record {index} is {:?}, and was {:?}", what(found), what(expected)));
        }
    }
    match found.len() < expected.len() {
        true => Err(format!("{} of {} records came", found.len(), expected.len())),
        false => Ok(()),
    }
}

async fn interrupted(plugin: &Arc<dyn SourcePlugin>, case: &Case, places: &[(usize, Offsets)]) -> Kept {
    let offsets = places.last().map(|(_, offsets)| offsets.clone()).unwrap_or_default();
    for mut task in open(plugin, case, &offsets).await? {
        let cx = context(Duration::from_secs(600), BATCH_RECORDS);
        cx.interrupt.cancel();
        let began = Instant::now();
        within("poll", task.poll(&cx)).await?;
        if began.elapsed() > LATE * 6 {
            return Err(format!("it took {:?}: return when sleep says false", began.elapsed()));
        }
        within("close", task.close()).await?;
    }
    Ok(())
}
