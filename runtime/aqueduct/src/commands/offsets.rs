//! `offsets show|set|reset`

use crate::client::{Remote, segment};
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, lines, plain};
use comfy_table::Cell;
use serde_json::{Value, json};
use std::path::PathBuf;

/// See and move how far connectors are. Setting and resetting need a stopped connector.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show the offsets of a source, or the positions of a sink.
    Show {
        #[command(flatten)]
        remote: Remote,
        /// The connector's name.
        name: String,
    },
    /// Set offsets of a stopped connector.
    #[command(after_help = "Examples:\n  aqueduct offsets set my-sink orders:0=1500\n  \
        aqueduct offsets set my-source --partition '{\"filename\":\"a.log\"}' --offset '{\"position\":0}'\n  \
        aqueduct offsets show my-source -o json > o.json; aqueduct offsets set my-source --file o.json")]
    Set {
        #[command(flatten)]
        remote: Remote,
        /// The connector's name.
        name: String,
        /// Of a sink: where each partition goes on. `null` for OFFSET forgets it.
        #[arg(value_name = "TOPIC:PARTITION=OFFSET", required_unless_present_any = ["partition", "file"])]
        positions: Vec<String>,
        /// A partition as `offsets show` has it, in JSON; each with its --offset.
        #[arg(long, value_name = "JSON", requires = "offset")]
        partition: Vec<String>,
        /// The offset of the --partition before it; `null` forgets it.
        #[arg(long, value_name = "JSON", requires = "partition")]
        offset: Vec<String>,
        /// What `offsets show --output json` printed, changed.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Forget all offsets of a stopped connector: it begins again.
    Reset {
        #[command(flatten)]
        remote: Remote,
        /// The connector's name.
        name: String,
    },
}

pub(crate) async fn run(command: Command, screen: &Screen) -> Outcome {
    match command {
        Command::Show { remote, name } => show(&remote.api()?.get(&path(&name)).await?, screen),
        Command::Set { remote, name, positions, partition, offset, file } => {
            let mut offsets = positions.iter().map(|text| sink_offset(text)).collect::<Outcome<Vec<_>>>()?;
            if partition.len() != offset.len() {
                return Err(Failure::usage("each --partition needs an --offset, and each --offset a --partition"));
            }
            for (partition, offset) in partition.iter().zip(&offset) {
                offsets.push(json!({ "partition": object(partition)?, "offset": object(offset)? }));
            }
            if let Some(file) = file {
                let text = std::fs::read_to_string(&file)
                    .map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))?;
                offsets.extend(object(&text)?["offsets"].as_array().cloned().unwrap_or_default());
            }
            let answer = remote.api()?.call("PATCH", &path(&name), Some(&json!({ "offsets": offsets }))).await?;
            screen.show(&answer, || plain(&answer["message"]))
        }
        Command::Reset { remote, name } => {
            let answer = remote.api()?.call("DELETE", &path(&name), None).await?;
            screen.show(&answer, || plain(&answer["message"]))
        }
    }
}

fn path(name: &str) -> String {
    format!("/connectors/{}/offsets", segment(name))
}

fn show(answer: &Value, screen: &Screen) -> Outcome {
    screen.show(answer, || {
        let mut table = screen.table(&["PARTITION", "OFFSET"]);
        let offsets = answer["offsets"].as_array().map_or(&[][..], Vec::as_slice);
        for offset in offsets {
            table.add_row(vec![Cell::new(pairs(&offset["partition"])), Cell::new(pairs(&offset["offset"]))]);
        }
        if offsets.is_empty() { "no offsets stored".to_owned() } else { lines(&table) }
    })
}

/// `{"a":1,"b":"x"}` → `a=1 b=x`
fn pairs(value: &Value) -> String {
    let pair = |(key, value): (&String, &Value)| format!("{key}={}", plain(value));
    value.as_object().map_or_else(|| plain(value), |map| map.iter().map(pair).collect::<Vec<_>>().join(" "))
}

fn object(text: &str) -> Outcome<Value> {
    let value: Value = serde_json::from_str(text).map_err(|error| Failure::usage(format!("{text:?} is not JSON: {error}")))?;
    match value {
        Value::Object(_) | Value::Null => Ok(value),
        other => Err(Failure::usage(format!("{other} is not a JSON object"))),
    }
}

fn sink_offset(text: &str) -> Outcome<Value> {
    let bad = || Failure::usage(format!("{text:?} is not TOPIC:PARTITION=OFFSET")).fix("for example orders:0=1500");
    let (place, offset) = text.rsplit_once('=').ok_or_else(bad)?;
    let (topic, partition) = place.rsplit_once(':').ok_or_else(bad)?;
    let partition: i32 = partition.parse().map_err(|_| bad())?;
    let offset = match offset {
        "null" => Value::Null,
        offset => json!({ "kafka_offset": offset.parse::<i64>().ok().filter(|offset| *offset >= 0).ok_or_else(bad)? }),
    };
    Ok(json!({ "partition": { "kafka_topic": topic, "kafka_partition": partition }, "offset": offset }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_sinks() {
        let expected = json!({"partition": {"kafka_topic": "a:b", "kafka_partition": 2}, "offset": {"kafka_offset": 7}});
        assert_eq!(sink_offset("a:b:2=7").unwrap(), expected);
        assert_eq!(sink_offset("t:0=null").unwrap()["offset"], Value::Null);
        for bad in ["t", "t:0", "t:x=1", "t:0=-1", "t=1"] {
            assert!(sink_offset(bad).is_err(), "{bad}");
        }
        assert!(object("[1]").is_err());
        assert_eq!(pairs(&json!({"a": 1, "b": "x"})), "a=1 b=x");
    }
}
