//! `status [--watch]`

use super::connectors::{reports, state_cell, tasks, tasks_running};
use crate::client::{Api, Remote};
use crate::failure::{Failure, Outcome};
use crate::output::{Format, Screen, ago, bytes, grouped, lines, plain, print};
use comfy_table::Cell;
use serde_json::Value;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Show what a running worker does: its connectors, what moves, what is wrong.
///
/// Exits with 1 when something is wrong: the worker is not healthy, a connector or task has failed, a file of connectors.dir is broken.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    remote: Remote,
    /// Keep showing it, with rates.
    #[arg(long, short)]
    watch: bool,
    /// Seconds between two looks with --watch.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Records out of each task at a time, for rates.
type Seen = HashMap<String, u64>;

pub(crate) async fn run(args: &Args, screen: &Screen) -> Outcome {
    let api = args.remote.api()?;
    if !args.watch {
        let summary = summary(&api).await?;
        screen.show(&summary, || page(&summary, None, screen))?;
        return if is_well(&summary) { Ok(()) } else { Err(Failure::said()) };
    }
    let mut before: Option<(Instant, Seen)> = None;
    loop {
        let (now, answer) = (Instant::now(), summary(&api).await);
        // A worker that restarts comes back: watching goes on.
        match &answer {
            Ok(summary) if screen.format == Format::Table => {
                let rates = before.as_ref().map(|(then, seen)| (now.duration_since(*then), seen));
                let clear = if screen.terminal { "\x1b[H\x1b[2J" } else { "" };
                print(&format!("{clear}{}\n", page(summary, rates, screen)))?;
                before = Some((now, seen(summary)));
            }
            Ok(summary) => screen.show(summary, String::new)?,
            Err(failure) if failure.is_unreachable() && before.is_some() => print(&failure.text())?,
            Err(_) => return answer.map(drop),
        }
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
    }
}

async fn summary(api: &Api) -> Outcome<Value> {
    api.get("/aqueduct/v1/summary").await
}

fn connectors(summary: &Value) -> &[Value] {
    summary["connectors"].as_array().map_or(&[], Vec::as_slice)
}

fn is_well(summary: &Value) -> bool {
    let failed = |connector: &Value| {
        let status = &connector["status"];
        status["connector"]["state"] == "FAILED" || tasks(status).iter().any(|task| task["state"] == "FAILED")
    };
    let broken = |issue: &Value| issue["severity"] == "error";
    summary["worker"]["health"] == "healthy"
        && !connectors(summary).iter().any(failed)
        && !summary["folder"].as_array().is_some_and(|issues| issues.iter().any(broken))
}

fn seen(summary: &Value) -> Seen {
    connectors(summary).iter().map(|connector| (plain(&connector["name"]), sum(connector, "records_out"))).collect()
}

fn sum(connector: &Value, figure: &str) -> u64 {
    tasks(&connector["status"]).iter().filter_map(|task| task["aqueduct"][figure].as_u64()).sum()
}

fn page(summary: &Value, before: Option<(Duration, &Seen)>, screen: &Screen) -> String {
    let (worker, log) = (&summary["worker"], &summary["log"]);
    let health = plain(&worker["health"]);
    let health = screen.paint(&health, if health == "healthy" { "32" } else { "1;31" });
    let mut text = format!("{} {}  {health}", screen.bold("worker"), plain(&worker["id"]));
    if worker["health"] != "healthy" {
        text.push_str(&format!(": {}", plain(&worker["message"])));
    }
    let number = |name: &str| log[name].as_u64().unwrap_or(0);
    text.push_str(&format!(
        "\n{}    {}, since the start: {} records, {} in {} commits\n",
        screen.bold("log"),
        plain(&log["kind"]),
        grouped(number("records")),
        bytes(number("bytes")),
        grouped(number("commits"))
    ));
    if log["stopped"].is_string() {
        text.push_str(&format!("{} writers stand still: {}\n", screen.red("!"), plain(&log["stopped"])));
    }
    text.push_str(&format!("\n{}\n", table(summary, before, screen)));
    for connector in connectors(summary) {
        for (_, said) in reports(&connector["status"]) {
            text.push_str(&format!("\n{}: {said}\n", plain(&connector["name"])));
        }
    }
    text.push_str(&troubles(summary, screen));
    text
}

fn table(summary: &Value, before: Option<(Duration, &Seen)>, screen: &Screen) -> String {
    let mut columns = vec!["CONNECTOR", "TYPE", "STATE", "TASKS", ">IN", ">OUT", ">LAG", ">MOVED", "TOPICS"];
    if before.is_some() {
        columns.insert(6, ">OUT/S");
    }
    let mut table = screen.table(&columns);
    for connector in connectors(summary) {
        let status = &connector["status"];
        let (name, out) = (plain(&connector["name"]), sum(connector, "records_out"));
        // None of a source, nor of a sink that does not run.
        let lag = tasks(status).iter().filter_map(|task| task["aqueduct"]["lag"].as_i64()).reduce(|a, b| a + b);
        let idle = tasks(status).iter().filter_map(|task| task["aqueduct"]["idle_ms"].as_u64()).min();
        let topics: Vec<String> = connector["topics"].as_array().map_or(&[][..], Vec::as_slice).iter().map(plain).collect();
        let mut row = vec![
            Cell::new(&name),
            Cell::new(plain(&status["type"])),
            state_cell(status, screen),
            Cell::new(tasks_running(status)),
            Cell::new(grouped(sum(connector, "records_in"))),
            Cell::new(grouped(out)),
            Cell::new(lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string())),
            Cell::new(ago(idle)),
            Cell::new(topics.join(", ")),
        ];
        if let Some((time, seen)) = before {
            let moved = out.saturating_sub(seen.get(&name).copied().unwrap_or(out));
            row.insert(6, Cell::new(grouped((moved as f64 / time.as_secs_f64().max(0.001)).round() as u64)));
        }
        table.add_row(row);
    }
    if connectors(summary).is_empty() { "no connectors".to_owned() } else { lines(&table) }
}

/// What failed and why; what is broken in connectors.dir.
fn troubles(summary: &Value, screen: &Screen) -> String {
    let mut text = String::new();
    for connector in connectors(summary) {
        let (name, status) = (plain(&connector["name"]), &connector["status"]);
        let traces = std::iter::once((name.clone(), &status["connector"]["trace"]))
            .chain(tasks(status).iter().map(|task| (format!("{name}, task {}", task["id"]), &task["trace"])));
        for (what, trace) in traces.filter(|(_, trace)| trace.is_string()) {
            text.push_str(&format!("\n{} {}\n", screen.red(&format!("{what}:")), plain(trace).replace('\n', "\n  ")));
        }
        // Mostly the same for all of its tasks.
        // A sink that is at least once is so by its settings or its kind: its status says it, and nothing is wrong.
        let degraded = tasks(status).iter().find(|task| task["aqueduct"]["exactly_once"] == "degraded");
        let degraded = degraded.filter(|_| status["type"] != "sink");
        if let Some(task) = degraded {
            let (label, why) = (screen.red(&format!("{name}:")), plain(&task["aqueduct"]["exactly_once_reason"]));
            text.push_str(&format!("\n{label} exactly once is degraded: {why}\n"));
        }
    }
    for issue in summary["folder"].as_array().map_or(&[][..], Vec::as_slice) {
        let line = serde_json::from_value::<aqueduct_core::Issue>(issue.clone())
            .map_or_else(|_| issue.to_string(), |issue| issue.to_string());
        text.push_str(&format!("\n{} {line}\n", screen.red(&format!("{}:", plain(&issue["severity"])))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(state: &str, trace: Option<&str>) -> Value {
        json!({
            "worker": {"id": "127.0.0.1:8083", "health": "healthy"},
            "log": {"kind": "embedded", "records": 12_345, "bytes": 2048, "commits": 3, "stopped": null},
            "connectors": [{"name": "hole", "topics": ["t"], "status": {"name": "hole", "type": "sink", "connector": {"state": "RUNNING"},
                "tasks": [{"id": 0, "state": state, "trace": trace, "aqueduct": {"records_in": 1500, "records_out": 1200, "lag": 7, "idle_ms": 30}}]}}],
            "folder": [],
        })
    }

    #[test]
    fn a_page_says_what_moves_and_what_is_wrong() {
        let screen = Screen::new(Format::Yaml);
        let text = page(&one("RUNNING", None), None, &screen);
        assert!(text.contains("12,345 records, 2.0 KiB in 3 commits"), "{text}");
        assert!(text.contains("hole       sink  RUNNING  1/1    1,500  1,200    7    now  t"), "{text}");
        let before = Seen::from([("hole".to_owned(), 200)]);
        let text = page(&one("RUNNING", None), Some((Duration::from_secs(2), &before)), &screen);
        assert!(text.contains("500"), "{text}");
        let text = page(&one("FAILED", Some("file.open: no\nFix: look")), None, &screen);
        assert!(text.contains("hole, task 0: file.open: no\n  Fix: look"), "{text}");
        let mut stopped = one("UNASSIGNED", None);
        stopped["connectors"][0]["status"]["tasks"][0]["aqueduct"]["lag"] = Value::Null;
        let text = page(&stopped, None, &screen);
        assert!(text.contains("1,200    -    now"), "{text}");
        let mut copies = one("RUNNING", None);
        copies["connectors"][0]["status"]["tasks"][0]["aqueduct"]["report"] = json!({"summary": "snapshot: half of it"});
        assert!(page(&copies, None, &screen).contains("\nhole: snapshot: half of it\n"));
        let mut degraded = one("RUNNING", None);
        degraded["connectors"][0]["status"]["type"] = json!("source");
        let progress = &mut degraded["connectors"][0]["status"]["tasks"][0]["aqueduct"];
        (progress["exactly_once"], progress["exactly_once_reason"]) = (json!("degraded"), json!("an old broker"));
        let text = page(&degraded, None, &screen);
        assert!(text.contains("hole: exactly once is degraded: an old broker"), "{text}");
    }

    #[test]
    fn wrong_is_said_by_the_exit_code() {
        assert!(is_well(&one("RUNNING", None)) && !is_well(&one("FAILED", None)));
        let mut summary = one("RUNNING", None);
        summary["folder"] = json!([{"severity": "error", "path": "", "code": "config.syntax", "message": "no"}]);
        assert!(!is_well(&summary));
        assert!(troubles(&summary, &Screen::new(Format::Json)).contains("error: no [config.syntax]"));
    }
}
