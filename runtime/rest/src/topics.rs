//! `/aqueduct/v1/topics`: the log's topics and their records.

use crate::body::{Body, Names, Params};
use crate::schemas::{self, TopicPath};
use crate::{ApiError, ApiResult, App, TheLog, to_the_end};
use aqueduct_core::{BatchBuilder, Error, Header, Payload, PayloadRef, Record, RecordRef, TaskId, TopicPartition};
use aqueduct_log::{Appended, EncodedBatch, Log, LogWriter, TopicInfo, TopicSpec};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use utoipa::{IntoParams, ToSchema};

/// Records in one answer, when the client does not say, and at most.
const RECORDS_DEFAULT: usize = 100;
const RECORDS_MAX: usize = 10_000;
/// Bytes of records in one answer, about: enough for a page of records, little enough for many clients at once.
const ANSWER_MAX_BYTES: usize = 4 << 20;
/// Well below the request timeout.
const WAIT_MAX_MS: u64 = 30_000;
/// Under this name the API appends. A connector that took it would be fenced, and fence it.
const WRITER: &str = "__aqueduct_rest";

/// A topic to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateTopic {
    /// Not `.` or `..` alone.
    #[schema(pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "orders")]
    name: String,
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 10_000)]
    partitions: i32,
    /// Only Kafka heeds it; -1 is the broker's default.
    #[serde(default = "broker_default")]
    #[schema(minimum = -32_768, maximum = 32_767)]
    replication_factor: i16,
    /// Kafka's names: `retention.ms`, `cleanup.policy`, …
    #[serde(default)]
    configs: BTreeMap<String, String>,
}

fn one() -> i32 {
    1
}

fn broker_default() -> i16 {
    -1
}

/// The topics of the log
#[utoipa::path(get, path = "/aqueduct/v1/topics", operation_id = "list_topics", tag = "Topics", responses(
    (status = 200, description = "The topics", body = Vec<schemas::TopicInfo>)))]
pub(crate) async fn list(TheLog(log): TheLog) -> ApiResult<Json<Vec<TopicInfo>>> {
    Ok(Json(log.topics().await?))
}

/// Make a topic
#[utoipa::path(post, path = "/aqueduct/v1/topics", operation_id = "create_topic", tag = "Topics", request_body = CreateTopic, responses(
    (status = 201, description = "It is made", body = schemas::TopicInfo),
    (status = 400, description = "The name, the partitions or a config is not right"),
    (status = 409, description = "There is one of this name")))]
pub(crate) async fn create(TheLog(log): TheLog, Body(request): Body<CreateTopic>) -> ApiResult<(StatusCode, Json<TopicInfo>)> {
    let CreateTopic { partitions, replication_factor, configs, .. } = request;
    let spec = TopicSpec { partitions, replication_factor, configs };
    let info = to_the_end(async move { log.create_topic(&request.name, &spec).await }).await?;
    Ok((StatusCode::CREATED, Json(info)))
}

/// A topic
#[utoipa::path(get, path = "/aqueduct/v1/topics/{topic}", operation_id = "get_topic", tag = "Topics", params(TopicPath), responses(
    (status = 200, description = "What it is", body = schemas::TopicInfo),
    (status = 404, description = "No such topic")))]
pub(crate) async fn describe(TheLog(log): TheLog, Names(name): Names<String>) -> ApiResult<Json<TopicInfo>> {
    Ok(Json(topic(&log, &name).await?))
}

/// Delete a topic and its records
#[utoipa::path(delete, path = "/aqueduct/v1/topics/{topic}", operation_id = "delete_topic", tag = "Topics", params(TopicPath), responses(
    (status = 204, description = "It is gone"),
    (status = 404, description = "No such topic")))]
pub(crate) async fn delete(TheLog(log): TheLog, Names(name): Names<String>) -> ApiResult<StatusCode> {
    to_the_end(async move { log.delete_topic(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn topic(log: &Arc<dyn Log>, name: &str) -> ApiResult<TopicInfo> {
    log.topic(name).await?.ok_or_else(|| ApiError::not_found(format!("Topic {name} not found")))
}

/// Records, oldest first in each partition.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Records {
    #[schema(value_type = Vec<OneRecord>)]
    records: Vec<Value>,
    /// To pass as `cursor` for what follows.
    cursor: String,
    /// True when the answer reaches the end of each partition that was asked for.
    at_end: bool,
}

/// A record. Keys and values that are text (UTF-8) stand under `key` and `value`, others as base64 under `key_base64` and `value_base64`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the document's: `to_json` writes it")]
struct OneRecord {
    partition: i32,
    offset: i64,
    /// Milliseconds since the epoch.
    #[schema(required = true)]
    timestamp: Option<i64>,
    key: Option<String>,
    #[schema(nullable = false)]
    key_base64: Option<String>,
    value: Option<String>,
    #[schema(nullable = false)]
    value_base64: Option<String>,
    headers: Vec<OneHeader>,
}

#[derive(ToSchema)]
#[allow(dead_code, reason = "the document's: `to_json` writes it")]
struct OneHeader {
    name: String,
    value: Option<String>,
    #[schema(nullable = false)]
    value_base64: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the document's: read by `Params`")]
pub(crate) struct ReadQuery {
    /// Only this one.
    #[param(minimum = 0, maximum = 2_147_483_647)]
    partition: Option<i32>,
    /// An offset, `beginning` (or `earliest`), `end` (or `latest`), or `timestamp:` and milliseconds since the epoch.
    #[param(pattern = "^(beginning|earliest|end|latest|[0-9]{1,18}|timestamp:-?[0-9]{1,18})$", example = "beginning")]
    from: Option<String>,
    /// The `cursor` of the answer before, instead of `from` and `partition`.
    #[param(pattern = "^([0-9]{1,9}:[0-9]{1,18}(,[0-9]{1,9}:[0-9]{1,18})*)?$")]
    cursor: Option<String>,
    /// So many records at most; 10,000 if it is more, 100 if it is not given.
    #[param(minimum = 0)]
    max: Option<u64>,
    /// How long to wait for a first record at the end; 30,000 if it is more.
    #[param(minimum = 0, example = 0)]
    wait_ms: Option<u64>,
    /// `base64`: keys and values as base64, also those that are text.
    encoding: Option<String>,
}

/// Records of a topic
///
/// An answer has 4 MiB at most.
#[utoipa::path(get, path = "/aqueduct/v1/topics/{topic}/records", operation_id = "read_records", tag = "Topics", params(TopicPath, ReadQuery), responses(
    (status = 200, description = "The records", body = Records),
    (status = 400, description = "A number is not one, or a place is not one"),
    (status = 404, description = "No such topic or partition")))]
pub(crate) async fn read(TheLog(log): TheLog, Names(name): Names<String>, params: Params) -> ApiResult<Json<Records>> {
    let log = &log;
    let info = topic(log, &name).await?;
    let mut positions = positions(log, &info, &params).await?;
    let max = params.up_to("max", RECORDS_MAX as u64)?.map_or(RECORDS_DEFAULT, |max| max.max(1) as usize);
    let wait = Duration::from_millis(params.up_to("wait_ms", WAIT_MAX_MS)?.unwrap_or(0));
    let base64 = params.get("encoding") == Some("base64");
    let mut records = Vec::new();
    let mut bytes = 0;
    // Each partition has its share, so that a busy one does not hide the others.
    let share = max.div_ceil(positions.len().max(1));
    for (partition, next) in &mut positions {
        if records.len() >= max || bytes >= ANSWER_MAX_BYTES {
            break;
        }
        let partition = TopicPartition::new(info.name.clone(), *partition);
        let batch = log.fetch(&partition, *next, ANSWER_MAX_BYTES / 4, Duration::ZERO).await?;
        bytes += take(&batch, *next, share, base64, &mut records, next);
    }
    if records.is_empty() && !wait.is_zero() && !positions.is_empty() {
        let fetches = positions.iter().map(|&(partition, next)| {
            let partition = TopicPartition::new(info.name.clone(), partition);
            Box::pin(async move { log.fetch(&partition, next, ANSWER_MAX_BYTES / 4, wait).await })
        });
        let (batch, index, _) = select_all(fetches).await;
        let next = &mut positions[index].1;
        take(&batch?, *next, max, base64, &mut records, next);
    }
    let ends: BTreeMap<i32, i64> = info.partitions.iter().map(|partition| (partition.partition, partition.end)).collect();
    // The last offsets of a partition may be of no record: what compaction took, the end of a transaction on Kafka.
    let at_end =
        records.is_empty() || positions.iter().all(|(partition, next)| ends.get(partition).is_none_or(|end| next >= end));
    let cursor: Vec<String> = positions.iter().map(|(partition, next)| format!("{partition}:{next}")).collect();
    Ok(Json(Records { records, cursor: cursor.join(","), at_end }))
}

/// Adds at most `max` records from `from` on; moves `next` behind the last. Returns their bytes.
fn take(batch: &aqueduct_core::Batch, from: i64, max: usize, base64: bool, records: &mut Vec<Value>, next: &mut i64) -> usize {
    let mut bytes = 0;
    let wanted = batch.iter().filter(|record| record.origin().is_some_and(|(_, offset)| offset >= from));
    for record in wanted.take(max) {
        if let Some((_, offset)) = record.origin() {
            *next = offset + 1;
        }
        bytes += size(record.key()) + size(record.value());
        records.push(to_json(record, base64));
    }
    bytes
}

fn size(payload: PayloadRef<'_>) -> usize {
    match payload {
        PayloadRef::Bytes(bytes) => bytes.len(),
        _ => 0,
    }
}

async fn positions(log: &Arc<dyn Log>, info: &TopicInfo, params: &Params) -> ApiResult<Vec<(i32, i64)>> {
    // What a cursor stands instead of must be right all the same.
    let only: Option<i32> = params.number("partition")?;
    if let Some(only) = only.filter(|only| !info.partitions.iter().any(|partition| partition.partition == *only)) {
        return Err(ApiError::not_found(format!("Topic {} has no partition {only}", info.name)));
    }
    let from = From::parse(params.get("from").unwrap_or("beginning"))?;
    if let Some(cursor) = params.get("cursor") {
        return parse_cursor(cursor);
    }
    let mut positions = Vec::new();
    for partition in info.partitions.iter().filter(|partition| only.is_none_or(|only| partition.partition == only)) {
        let next = match from {
            From::Beginning => partition.start,
            From::End => partition.end,
            From::Offset(offset) => offset,
            From::Timestamp(ms) => {
                let partition_of = TopicPartition::new(info.name.clone(), partition.partition);
                log.offset_for_timestamp(&partition_of, ms).await?.unwrap_or(partition.end)
            }
        };
        positions.push((partition.partition, next));
    }
    Ok(positions)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Beginning,
    End,
    Offset(i64),
    Timestamp(i64),
}

impl From {
    fn parse(text: &str) -> ApiResult<Self> {
        let bad =
            || ApiError::bad_request(format!("`from={text}` can be an offset, beginning, end or timestamp:<ms since 1970>"));
        match text {
            "beginning" | "earliest" => Ok(From::Beginning),
            "end" | "latest" => Ok(From::End),
            _ => match text.strip_prefix("timestamp:") {
                Some(ms) => match ms.strip_prefix('-') {
                    Some(before) => digits(before).map(|ms: i64| From::Timestamp(-ms)).ok_or_else(bad),
                    None => digits(ms).map(From::Timestamp).ok_or_else(bad),
                },
                None => digits(text).map(From::Offset).ok_or_else(bad),
            },
        }
    }
}

/// A number without a sign.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_cursor(cursor: &str) -> ApiResult<Vec<(i32, i64)>> {
    let one = |text: &str| {
        let (partition, next) = text.split_once(':')?;
        Some((digits(partition)?, digits(next)?))
    };
    let parse = |text| one(text).ok_or_else(|| ApiError::bad_request("`cursor` is not one that an answer gave"));
    cursor.split(',').filter(|text| !text.is_empty()).map(parse).collect()
}

fn to_json(record: RecordRef<'_>, base64: bool) -> Value {
    let mut out = Map::new();
    if let Some((partition, offset)) = record.origin() {
        out.insert("partition".into(), json!(partition.partition));
        out.insert("offset".into(), json!(offset));
    }
    out.insert("timestamp".into(), json!(record.timestamp()));
    insert(&mut out, "key", record.key(), base64);
    insert(&mut out, "value", record.value(), base64);
    let header = |header: &Header| {
        let mut out = Map::from_iter([("name".to_owned(), json!(header.name))]);
        insert(&mut out, "value", header.value.as_ref(), base64);
        Value::Object(out)
    };
    out.insert("headers".into(), record.headers().iter().map(header).collect());
    Value::Object(out)
}

/// Text as `name`; what is not UTF-8 (or all, with `base64`) as `name_base64`.
fn insert(out: &mut Map<String, Value>, name: &str, payload: PayloadRef<'_>, base64: bool) {
    match payload {
        PayloadRef::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !base64 => out.insert(name.into(), json!(text)),
            _ => out.insert(format!("{name}_base64"), json!(BASE64.encode(bytes))),
        },
        // The log holds encoded records only.
        PayloadRef::Null | PayloadRef::Data(_) => out.insert(name.into(), Value::Null),
    };
}

/// Records to write; all or none.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"records": [{"key": "k", "value": {"a": 1}, "headers": [{"name": "h", "value": "v"}]}]}))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRecords {
    records: Vec<NewRecord>,
}

/// A text is taken as it is; any other JSON value as its JSON text. A value is given as text or as base64, not both.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRecord {
    /// By the key if it is not given, as Kafka's clients do.
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    partition: Option<i32>,
    #[serde(default)]
    key: Value,
    key_base64: Option<String>,
    #[serde(default)]
    value: Value,
    value_base64: Option<String>,
    /// Milliseconds since the epoch.
    timestamp: Option<i64>,
    #[serde(default)]
    headers: Vec<NewHeader>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewHeader {
    name: String,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    value_base64: Option<String>,
}

/// Where the records are.
#[derive(Serialize, ToSchema)]
pub(crate) struct Written {
    offsets: Vec<Range>,
}

#[derive(Serialize, ToSchema)]
struct Range {
    partition: i32,
    /// Of the first record.
    first: i64,
    /// Behind the last.
    next: i64,
}

/// Write records to a topic
///
/// They are durable when this answers.
#[utoipa::path(post, path = "/aqueduct/v1/topics/{topic}/records", operation_id = "write_records", tag = "Topics", params(TopicPath), request_body = NewRecords, responses(
    (status = 200, description = "Where they are", body = Written),
    (status = 400, description = "A record is not right"),
    (status = 404, description = "No such topic or partition")))]
pub(crate) async fn write(
    State(app): State<App>,
    TheLog(log): TheLog,
    Names(name): Names<String>,
    Body(request): Body<NewRecords>,
) -> ApiResult<Json<Written>> {
    topic(&log, &name).await?;
    let mut batch = BatchBuilder::new();
    for record in request.records {
        batch.push(record.into_record(&name)?);
    }
    let batch = EncodedBatch::new(batch.finish())?;
    let appended = to_the_end(async move { append(&log, &app.writer, batch).await }).await?;
    let range = |(partition, first, next): &(TopicPartition, i64, i64)| Range {
        partition: partition.partition,
        first: *first,
        next: *next,
    };
    Ok(Json(Written { offsets: appended.ranges.iter().map(range).collect() }))
}

async fn append(log: &Arc<dyn Log>, writer: &Mutex<Option<Box<dyn LogWriter>>>, batch: EncodedBatch) -> Result<Appended, Error> {
    let commit = {
        let mut writer = writer.lock().await;
        let mut open = match writer.take() {
            Some(open) => open,
            None => log.writer(&TaskId::new(WRITER, 0)).await?,
        };
        let commit = open.append(batch, Vec::new()).await?;
        *writer = Some(open);
        commit
    };
    let appended = commit.await;
    if appended.is_err() {
        // After a failure a writer fails for ever: the next call opens a new one.
        *writer.lock().await = None;
    }
    appended
}

impl NewRecord {
    fn into_record(self, topic: &str) -> ApiResult<Record> {
        let mut record = Record::new(topic, payload(self.value, self.value_base64)?);
        record.partition = self.partition;
        record.key = payload(self.key, self.key_base64)?;
        record.timestamp = self.timestamp;
        for header in self.headers {
            record.headers.push(Header { name: header.name.into(), value: payload(header.value, header.value_base64)? });
        }
        Ok(record)
    }
}

fn payload(value: Value, base64: Option<String>) -> ApiResult<Payload> {
    match (value, base64) {
        (Value::Null, Some(text)) => {
            let bytes = BASE64.decode(text).map_err(|error| ApiError::bad_request(format!("not base64: {error}")))?;
            Ok(Payload::Bytes(bytes.into()))
        }
        (Value::Null, None) => Ok(Payload::Null),
        (Value::String(text), None) => Ok(text.into()),
        (other, None) => Ok(other.to_string().into()),
        (_, Some(_)) => Err(ApiError::bad_request("a value is given as text and as base64; give one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    #[test]
    fn places_to_read_from() {
        let parse = |text| From::parse(text).ok();
        assert_eq!(parse("beginning"), Some(From::Beginning));
        assert_eq!(parse("end"), Some(From::End));
        assert_eq!(parse("17"), Some(From::Offset(17)));
        assert_eq!(parse("timestamp:-5"), Some(From::Timestamp(-5)));
        assert_eq!([parse("-1"), parse("+1"), parse(""), parse("yesterday")], [None; 4]);
        assert_eq!([parse("timestamp:x"), parse("timestamp:"), parse("timestamp:--1")], [None; 3]);
        assert_eq!(parse_cursor("0:5,12:9").unwrap(), [(0, 5), (12, 9)]);
        for bad in ["0:5,1", "-1:5", "0:-5", "0:+5", "0:99999999999999999999"] {
            assert_eq!(parse_cursor(bad).unwrap_err().error_code, 400, "{bad}");
        }
    }

    #[test]
    fn records_go_in_and_come_out_whole() {
        let body = br#"{"records":[{"key":"k","value":{"a":1},"headers":[{"name":"h","value_base64":"/w=="}]},{"value_base64":"//8=","timestamp":7}]}"#;
        let request: NewRecords = parse(body).unwrap();
        let records: Vec<Record> = request.records.into_iter().map(|record| record.into_record("t").unwrap()).collect();
        let batch = records.into_iter().collect::<aqueduct_core::Batch>();
        let json: Vec<Value> = batch.iter().map(|record| to_json(record, false)).collect();
        assert_eq!(
            json[0],
            json!({"timestamp": null, "key": "k", "value": "{\"a\":1}", "headers": [{"name": "h", "value_base64": "/w=="}]})
        );
        assert_eq!(json[1], json!({"timestamp": 7, "key": null, "value_base64": "//8=", "headers": []}));
        assert_eq!(to_json(batch.iter().next().unwrap(), true)["key_base64"], "aw==");
    }

    #[test]
    fn a_value_given_twice_is_refused() {
        assert_eq!(payload(json!("a"), Some("YQ==".into())).unwrap_err().error_code, 400);
        assert_eq!(payload(Value::Null, Some("!".into())).unwrap_err().error_code, 400);
    }
}
