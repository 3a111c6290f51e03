//! `topics list|describe|create|read|write|delete`, over REST or on a stopped worker's data directory.

use crate::client::{Api, Remote, segment};
use crate::failure::{Failure, Outcome};
use crate::output::{Format, Screen, bytes, grouped, lines, plain, print};
use aqueduct_log::Log;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use comfy_table::Cell;
use serde_json::{Value, json};
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Look into the log's topics, and write to them.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List all topics.
    List(#[command(flatten)] Place),
    /// Show a topic's partitions and settings.
    Describe {
        #[command(flatten)]
        place: Place,
        /// The topic's name.
        topic: String,
    },
    /// Create a topic.
    Create {
        #[command(flatten)]
        place: Place,
        /// The topic's name.
        topic: String,
        /// How many.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        partitions: i32,
        /// Copies of each partition, on Kafka; -1 is the broker's default.
        #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "COPIES")]
        replication_factor: i16,
        /// A setting of the topic, by its name in Kafka: `retention.ms=86400000`.
        #[arg(long = "config", value_name = "KEY=VALUE")]
        configs: Vec<String>,
    },
    /// Print records.
    #[command(after_help = "Examples:\n  aqueduct topics read access-log --follow\n  \
        aqueduct topics read orders --from 2026-01-31T08:00:00Z --format json --max 10\n  \
        aqueduct topics read orders --partition 0 --from 1500 --data-dir ./data")]
    Read(ReadArgs),
    /// Append records: lines of stdin, or one --value.
    Write(WriteArgs),
    /// Delete topics with all their records.
    Delete {
        #[command(flatten)]
        place: Place,
        /// Their names.
        #[arg(required = true, value_name = "TOPIC")]
        topics: Vec<String>,
    },
}

#[derive(clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    remote: Remote,
    /// Open this data directory instead; its worker must be stopped.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RecordFormat {
    /// The value, and a line end.
    Value,
    /// Key, tab, value.
    KeyValue,
    /// One JSON object a line: partition, offset, timestamp, key, value, headers. What is not text is in base64.
    Json,
    /// Partition, offset, time, key and value in columns.
    Table,
}

#[derive(clap::Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    place: Place,
    /// The topic's name.
    topic: String,
    /// `beginning`, `end`, an offset, or a time (RFC 3339, or milliseconds as `timestamp:1700000000000`).
    #[arg(long, default_value = "beginning", value_name = "WHERE", value_parser = start)]
    from: String,
    /// Only this partition.
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// Stop after so many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Wait for more at the end.
    #[arg(long, short)]
    follow: bool,
    /// How to print records; `value`, or `json` with --output json or yaml.
    #[arg(long, value_enum)]
    format: Option<RecordFormat>,
}

#[derive(clap::Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    place: Place,
    /// The topic's name.
    topic: String,
    /// One record with this value, instead of the lines of stdin.
    #[arg(long)]
    value: Option<String>,
    /// The key of every record.
    #[arg(long)]
    key: Option<String>,
    /// What stands between key and value in each line.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["key", "value"])]
    key_separator: Option<String>,
    /// The partition of every record; else by key, as Kafka's clients do.
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
}

/// Records a call when reading; the answer is bounded in bytes as well.
const PAGE: u64 = 1000;
/// How long a call waits for records when following.
const FOLLOW_WAIT_MS: u64 = 10_000;
/// Of one call when writing, in JSON: the API takes 1 MiB.
const WRITE_MAX_BYTES: usize = 512 << 10;
const WRITE_MAX_RECORDS: usize = 1000;

pub(crate) async fn run(command: Command, screen: &Screen) -> Outcome {
    let place = match &command {
        Command::List(place)
        | Command::Describe { place, .. }
        | Command::Create { place, .. }
        | Command::Delete { place, .. } => place,
        Command::Read(read) => &read.place,
        Command::Write(write) => &write.place,
    };
    let log = match &place.data_dir {
        Some(dir) => Some(crate::wiring::open_log(dir).await?),
        None => None,
    };
    let api = match &log {
        Some(log) => Api::Log(aqueduct_rest::log_router(log.clone())),
        None => place.remote.api()?,
    };
    let outcome = on(&api, &command, screen).await;
    // The routes hold the log too, and its writer.
    drop(api);
    close(log).await.and(outcome)
}

async fn close(log: Option<Arc<dyn Log>>) -> Outcome {
    match log {
        Some(log) => Ok(log.close().await?),
        None => Ok(()),
    }
}

async fn on(api: &Api, command: &Command, screen: &Screen) -> Outcome {
    match command {
        Command::List(_) => list(&api.get("/aqueduct/v1/topics").await?, screen),
        Command::Describe { topic, .. } => describe(&api.get(&path(topic)).await?, screen),
        Command::Create { topic, partitions, replication_factor, configs, .. } => {
            let config = |text: &String| match text.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), json!(value))),
                None => Err(Failure::usage(format!("--config {text:?} is not KEY=VALUE"))),
            };
            let configs: serde_json::Map<String, Value> = configs.iter().map(config).collect::<Outcome<_>>()?;
            let body =
                json!({ "name": topic, "partitions": partitions, "replication_factor": replication_factor, "configs": configs });
            let made = api.call("POST", "/aqueduct/v1/topics", Some(&body)).await?;
            screen.show(&made, || format!("{topic} created with {partitions} partition(s)"))
        }
        Command::Read(args) => read(api, args, screen).await,
        Command::Write(args) => write(api, args, screen).await,
        Command::Delete { topics, .. } => {
            for topic in topics {
                api.call("DELETE", &path(topic), None).await?;
                screen.done(&format!("{topic} deleted"))?;
            }
            Ok(())
        }
    }
}

fn path(topic: &str) -> String {
    format!("/aqueduct/v1/topics/{}", segment(topic))
}

fn partitions(topic: &Value) -> &[Value] {
    topic["partitions"].as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn records(partition: &Value) -> u64 {
    number(&partition["end"]).saturating_sub(number(&partition["start"]))
}

fn list(topics: &Value, screen: &Screen) -> Outcome {
    screen.show(topics, || {
        let mut table = screen.table(&["TOPIC", ">PARTITIONS", ">RECORDS", ">SIZE"]);
        let all = topics.as_array().map_or(&[][..], Vec::as_slice);
        for topic in all {
            table.add_row(vec![
                Cell::new(plain(&topic["name"])),
                Cell::new(partitions(topic).len()),
                Cell::new(grouped(partitions(topic).iter().map(records).sum())),
                Cell::new(bytes(partitions(topic).iter().map(|partition| number(&partition["bytes"])).sum())),
            ]);
        }
        if all.is_empty() { "no topics".to_owned() } else { lines(&table) }
    })
}

fn describe(topic: &Value, screen: &Screen) -> Outcome {
    screen.show(topic, || {
        let mut text = format!("{}  id {}\n", screen.bold(&plain(&topic["name"])), plain(&topic["id"]));
        for (key, value) in topic["configs"].as_object().into_iter().flatten() {
            text.push_str(&format!("{key}: {}\n", plain(value)));
        }
        let mut table = screen.table(&[">PARTITION", ">START", ">END", ">RECORDS", ">SIZE"]);
        for partition in partitions(topic) {
            table.add_row(vec![
                Cell::new(plain(&partition["partition"])),
                Cell::new(plain(&partition["start"])),
                Cell::new(plain(&partition["end"])),
                Cell::new(grouped(records(partition))),
                Cell::new(bytes(number(&partition["bytes"]))),
            ]);
        }
        format!("{text}\n{}", lines(&table))
    })
}

/// Checks `--from`; the API takes milliseconds.
fn start(text: &str) -> Result<String, String> {
    let known = matches!(text, "beginning" | "earliest" | "end" | "latest") || text.parse::<u64>().is_ok();
    let stamped = text.strip_prefix("timestamp:").unwrap_or(text);
    if known || (stamped != text && stamped.parse::<i64>().is_ok()) {
        return Ok(text.to_owned());
    }
    let time: jiff::Timestamp =
        stamped.parse().map_err(|_| "expected beginning, end, an offset, or a time such as 2026-01-31T08:00:00Z".to_owned())?;
    Ok(format!("timestamp:{}", time.as_millisecond()))
}

async fn read(api: &Api, args: &ReadArgs, screen: &Screen) -> Outcome {
    let format = args.format.unwrap_or(if screen.format == Format::Table { RecordFormat::Value } else { RecordFormat::Json });
    let partition = args.partition.map(|partition| format!("&partition={partition}")).unwrap_or_default();
    let mut place = format!("from={}{partition}", segment(&args.from));
    let mut left = args.max;
    loop {
        let max = left.unwrap_or(PAGE).min(PAGE);
        let wait = if args.follow { FOLLOW_WAIT_MS } else { 0 };
        let page = api.get(&format!("{}/records?{place}&max={max}&wait_ms={wait}", path(&args.topic))).await?;
        let records = page["records"].as_array().map_or(&[][..], Vec::as_slice);
        let wanted = left.map_or(records.len(), |left| records.len().min(left as usize));
        write_records(&records[..wanted], format, screen)?;
        if let Some(left) = &mut left {
            *left -= wanted as u64;
            if *left == 0 {
                return Ok(());
            }
        }
        // Without records there is nothing between the cursor and the end but what compaction took.
        if !args.follow && (page["at_end"] == true || records.is_empty()) {
            return Ok(());
        }
        place = format!("cursor={}", plain(&page["cursor"]));
    }
}

fn write_records(records: &[Value], format: RecordFormat, screen: &Screen) -> Outcome {
    if format == RecordFormat::Table && !records.is_empty() {
        let mut table = screen.table(&[">PARTITION", ">OFFSET", "TIME", "KEY", "VALUE"]);
        for record in records {
            let text = |name| Cell::new(String::from_utf8_lossy(&payload(record, name)));
            table.add_row(vec![
                Cell::new(plain(&record["partition"])),
                Cell::new(plain(&record["offset"])),
                Cell::new(time(&record["timestamp"])),
                text("key"),
                text("value"),
            ]);
        }
        return print(&lines(&table));
    }
    let mut out = std::io::stdout().lock();
    let mut text = Vec::with_capacity(records.len() * 128);
    for record in records {
        match format {
            RecordFormat::Json => text.extend(record.to_string().into_bytes()),
            RecordFormat::KeyValue => {
                text.extend(payload(record, "key"));
                text.push(b'\t');
                text.extend(payload(record, "value"));
            }
            RecordFormat::Value | RecordFormat::Table => text.extend(payload(record, "value")),
        }
        text.push(b'\n');
    }
    out.write_all(&text)?;
    Ok(out.flush()?)
}

fn time(ms: &Value) -> String {
    ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|time| time.to_string()).unwrap_or_default()
}

/// The bytes of a key or value; none for null.
fn payload(record: &Value, name: &str) -> Vec<u8> {
    match &record[format!("{name}_base64")] {
        Value::String(text) => BASE64.decode(text).unwrap_or_default(),
        _ => plain(&record[name]).into_bytes(),
    }
}

async fn write(api: &Api, args: &WriteArgs, screen: &Screen) -> Outcome {
    if let Some(value) = &args.value {
        let appended = append(api, args, vec![record(args, value.as_bytes())]).await?;
        return screen.show(&appended, || "1 record written".to_owned());
    }
    let (mut batch, mut size, mut total) = (Vec::new(), 0, 0);
    let stdin = std::io::stdin().lock();
    for line in Lines(stdin) {
        let record = record(args, &line?);
        let bytes = record.to_string().len();
        if batch.len() >= WRITE_MAX_RECORDS || (!batch.is_empty() && size + bytes > WRITE_MAX_BYTES) {
            total += batch.len() as u64;
            append(api, args, std::mem::take(&mut batch)).await?;
            size = 0;
        }
        size += bytes;
        batch.push(record);
    }
    total += batch.len() as u64;
    if !batch.is_empty() {
        append(api, args, batch).await?;
    }
    screen.show(&json!({ "records": total }), || format!("{} record(s) written", grouped(total)))
}

async fn append(api: &Api, args: &WriteArgs, records: Vec<Value>) -> Outcome<Value> {
    api.call("POST", &format!("{}/records", path(&args.topic)), Some(&json!({ "records": records }))).await
}

fn record(args: &WriteArgs, line: &[u8]) -> Value {
    let mut record = json!({});
    let (key, value) = match args.key_separator.as_deref().and_then(|separator| split_once(line, separator.as_bytes())) {
        Some((key, value)) => (Some(key), value),
        None => (args.key.as_deref().map(str::as_bytes), line),
    };
    for (name, bytes) in [("key", key), ("value", Some(value))] {
        match bytes.map(std::str::from_utf8) {
            None => {}
            Some(Ok(text)) => record[name] = json!(text),
            Some(Err(_)) => record[format!("{name}_base64")] = json!(BASE64.encode(bytes.unwrap_or_default())),
        }
    }
    if let Some(partition) = args.partition {
        record["partition"] = json!(partition);
    }
    record
}

fn split_once<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line.windows(separator.len().max(1)).position(|window| window == separator)?;
    Some((&line[..at], &line[at + separator.len()..]))
}

/// Lines as bytes, without their ends; a longer one than the API takes is an error, not a full memory.
struct Lines<R>(R);

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Outcome<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match self.0.by_ref().take(WRITE_MAX_BYTES as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) if line.last() != Some(&b'\n') && line.len() > WRITE_MAX_BYTES => {
                Some(Err(Failure::failed(format!("a line has more than {WRITE_MAX_BYTES} bytes"))
                    .fix("write long records with a connector")))
            }
            Ok(_) => {
                let end = line.strip_suffix(b"\n").unwrap_or(&line);
                Some(Ok(end.strip_suffix(b"\r").unwrap_or(end).to_vec()))
            }
            Err(error) => Some(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(key: Option<&str>, separator: Option<&str>) -> WriteArgs {
        let place = Place { remote: Remote::default(), data_dir: None };
        let (key, key_separator) = (key.map(str::to_owned), separator.map(str::to_owned));
        WriteArgs { place, topic: "t".into(), value: None, key, key_separator, partition: None }
    }

    #[test]
    fn places_to_start_from() {
        assert_eq!(start("1970-01-01T00:00:01Z").unwrap(), "timestamp:1000");
        assert_eq!(start("timestamp:-5").unwrap(), "timestamp:-5");
        assert_eq!((start("17").unwrap(), start("end").unwrap()), ("17".into(), "end".into()));
        assert!(start("yesterday").is_err() && start("-1").is_err());
    }

    #[test]
    fn lines_become_records_and_bytes_stay_bytes() {
        assert_eq!(record(&args(None, None), b"a:b"), json!({"value": "a:b"}));
        assert_eq!(record(&args(None, Some(":")), b"a:b:c"), json!({"key": "a", "value": "b:c"}));
        assert_eq!(record(&args(Some("k"), None), b"\xff"), json!({"key": "k", "value_base64": "/w=="}));
        assert_eq!(payload(&json!({"value_base64": "/w=="}), "value"), b"\xff");
        let lines: Vec<Vec<u8>> = Lines(&b"a\r\n\nb"[..]).map(Result::unwrap).collect();
        assert_eq!(lines, [b"a".to_vec(), Vec::new(), b"b".to_vec()]);
        let long = vec![b'x'; WRITE_MAX_BYTES + 1];
        assert!(Lines(&long[..]).next().unwrap().is_err());
    }
}
