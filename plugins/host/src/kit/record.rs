//! The promises of what is given records: sinks and transforms.

use super::{Case, Check, Kept, check, context, within};
use crate::parts::is_crash;
use aqueduct_core::{
    Ack, Batch, Bytes, Header, Origin, Payload, Record, Rejects, SinkPlugin, SinkTask, TopicPartition, TransformPlugin,
};
use std::sync::Arc;
use std::time::Duration;

const TOPIC: &str = "plugin-test";
/// As large as a record may be on a broker that nobody has configured.
const LARGE_BYTES: usize = 1 << 20;
const MANY: usize = 500;

pub(super) async fn of_sink(plugin: &Arc<dyn SinkPlugin>, case: &Case) -> Vec<Check> {
    vec![
        check("put: any record is taken or refused, none ends the instance", takes(plugin, case).await),
        check("redelivery: what was put and not committed is put again", redelivered(plugin, case).await),
        check("kill: a task that was dropped is opened again", killed(plugin, case).await),
    ]
}

pub(super) async fn of_transform(plugin: &Arc<dyn TransformPlugin>, case: &Case) -> Vec<Check> {
    vec![
        check("apply: any record is changed, dropped or refused, none ends the instance", applies(plugin, case).await),
        check("kill: another instance makes the same of the same records", agrees(plugin, case).await),
        check("limits: one record, many and a large one", sizes(plugin, case).await),
    ]
}

/// With places in a log.
fn numbered(records: Vec<Record>) -> Batch {
    let partition = Arc::new(TopicPartition::new(TOPIC, 0));
    let place = |(offset, record): (usize, Record)| {
        let origin = Some(Origin { partition: partition.clone(), offset: offset as i64 });
        Record { origin, partition: Some(0), timestamp: record.timestamp.or(Some(1_767_225_600_000)), ..record }
    };
    records.into_iter().enumerate().map(place).collect()
}

/// The author's own, or plain ones.
fn usual(case: &Case) -> Vec<Record> {
    if case.records.is_empty() {
        (0..20).map(|n| Record::new(TOPIC, format!("{{\"id\":{n},\"name\":\"n{n}\"}}"))).collect()
    } else {
        case.records.clone()
    }
}

/// What the log may hold, whatever a plugin expects.
fn odd() -> Vec<Record> {
    let value = |value: Payload| Record { value, ..Record::new(TOPIC, "") };
    let bytes = |bytes: &'static [u8]| value(Payload::from(Bytes::from_static(bytes)));
    let mut keyed = bytes(b"{}");
    keyed.key = "a key".into();
    keyed.headers.push(Header { name: "a header".into(), value: "1".into() });
    keyed.headers.push(Header { name: "one without a value".into(), value: Payload::Null });
    vec![
        value(Payload::Null),
        bytes(b""),
        bytes(b"no JSON"),
        bytes(b"\xff\xfe\x00"),
        bytes(b"[1,2"),
        bytes(b"null"),
        bytes("\u{1f600} \u{0}".as_bytes()),
        keyed,
    ]
}

/// A record that ends its instance is refused with the code of how.
fn unharmed(rejects: &mut Rejects) -> Kept {
    let refused = rejects.take();
    let crash = refused.iter().find(|reject| is_crash(&reject.error));
    crash.map_or(Ok(()), |reject| {
        let value = crate::error::clean(&format!("{:?}", reject.record.value), 100);
        Err(format!("the record with the value {value} ends its instance: {}", reject.error))
    })
}

async fn open(plugin: &Arc<dyn SinkPlugin>, case: &Case) -> Result<Box<dyn SinkTask>, String> {
    let plan = within("plan", plugin.plan(&case.options, 1)).await?;
    within("open", plugin.open(&case.options, plan.into_iter().next().unwrap_or_default())).await
}

/// Durable in the target.
async fn put(task: &mut Box<dyn SinkTask>, records: Vec<Record>) -> Result<Rejects, String> {
    let (batch, mut rejects) = (numbered(records), Rejects::default());
    let cx = context(Duration::from_secs(5), batch.len());
    if within("put", task.put(&batch, &mut rejects, &cx)).await? == Ack::Buffered {
        within("flush", task.flush()).await?;
    }
    Ok(rejects)
}

async fn takes(plugin: &Arc<dyn SinkPlugin>, case: &Case) -> Kept {
    let mut task = open(plugin, case).await?;
    for records in [usual(case), odd(), odd().into_iter().take(1).collect()] {
        unharmed(&mut put(&mut task, records).await?)?;
    }
    within("close", task.close()).await
}

async fn redelivered(plugin: &Arc<dyn SinkPlugin>, case: &Case) -> Kept {
    for _ in 0..2 {
        let mut task = open(plugin, case).await?;
        put(&mut task, usual(case)).await?;
        within("close", task.close()).await?;
    }
    Ok(())
}

async fn killed(plugin: &Arc<dyn SinkPlugin>, case: &Case) -> Kept {
    for _ in 0..3 {
        let mut task = open(plugin, case).await?;
        put(&mut task, usual(case)).await?;
    }
    Ok(())
}

async fn apply(plugin: &Arc<dyn TransformPlugin>, case: &Case, records: Vec<Record>) -> Result<(Vec<Record>, Rejects), String> {
    let built = plugin.build(&case.options);
    let mut task = built.map_err(|issues| issues.first().map_or_else(String::new, ToString::to_string))?;
    let mut rejects = Rejects::default();
    let made = within("apply", task.apply(numbered(records), &mut rejects)).await?;
    Ok((made.into_records().collect(), rejects))
}

async fn applies(plugin: &Arc<dyn TransformPlugin>, case: &Case) -> Kept {
    for records in [usual(case), odd()] {
        unharmed(&mut apply(plugin, case, records).await?.1)?;
    }
    Ok(())
}

async fn agrees(plugin: &Arc<dyn TransformPlugin>, case: &Case) -> Kept {
    let (first, _) = apply(plugin, case, usual(case)).await?;
    let (second, _) = apply(plugin, case, usual(case)).await?;
    if first != second {
        return Err("a record became something else the second time: it reads a clock, or random numbers?".to_owned());
    }
    Ok(())
}

async fn sizes(plugin: &Arc<dyn TransformPlugin>, case: &Case) -> Kept {
    let usual = usual(case);
    let many = usual.iter().cycle().take(MANY).cloned().collect();
    let large = vec![Record::new(TOPIC, "x".repeat(LARGE_BYTES))];
    for (what, records) in [("one record", usual[..1].to_vec()), ("many records", many), ("a record of 1 MiB", large)] {
        let applied = apply(plugin, case, records).await.and_then(|(_, mut rejects)| unharmed(&mut rejects));
        applied.map_err(|why| format!("{what}: {why}"))?;
    }
    Ok(())
}
