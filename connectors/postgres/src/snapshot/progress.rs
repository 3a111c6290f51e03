//! How far the readings are, in words and figures.

use super::Snapshots;
use super::initial::Progress;
use super::state::Kind;
use aqueduct_core::{Measure, Report};
use serde_json::json;
use std::time::Duration;

/// What there is to tell of readings that are under way.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    what: &'static str,
    table: String,
    rows: u64,
    /// 0: unknown, no `ANALYZE` yet.
    estimate: u64,
    tables_done: usize,
    tables: usize,
    elapsed: Duration,
    /// Rows of the tables that are done or under way, sent since `elapsed`.
    sent: u64,
    left: u64,
    paused: bool,
}

pub(super) fn report(snapshots: &Snapshots, report: &mut Report) {
    let Some(figures) = figures(snapshots) else { return };
    report.summary = if report.summary.is_empty() { words(&figures) } else { format!("{}; {}", words(&figures), report.summary) };
    let detail = json!({
        "phase": figures.what,
        "table": figures.table,
        "rows": figures.rows,
        "rows_estimated": figures.estimate,
        "tables_done": figures.tables_done,
        "tables": figures.tables,
        "eta_seconds": eta(&figures).map(|eta| eta.as_secs()),
        "paused": figures.paused,
    });
    report.detail.insert("snapshot".into(), detail);
    let measures = [
        ("snapshot_rows", "Rows of the table that is being read, sent so far", figures.rows as f64),
        ("snapshot_rows_estimated", "Rows that this table has, about", figures.estimate as f64),
        ("snapshot_tables_left", "Tables that are not read to their end", (figures.tables - figures.tables_done) as f64),
    ];
    report.measures.extend(measures.map(|(name, help, value)| Measure::new(name, help, value)));
}

fn figures(snapshots: &Snapshots) -> Option<Figures> {
    if let Some(running) = &snapshots.running {
        let tables = running.snapshot.tables();
        let current = tables.iter().find(|reading| matches!(reading.progress, Progress::Reading { .. })).or(tables.last())?;
        let left = tables.iter().filter(|reading| reading.progress != Progress::Done);
        return Some(Figures {
            what: if running.kind == Kind::Blocking { "blocking snapshot" } else { "snapshot" },
            table: format!("{}.{}", current.name.0, current.name.1),
            rows: current.rows,
            estimate: current.facts.rows,
            tables_done: tables.iter().filter(|reading| reading.progress == Progress::Done).count(),
            tables: tables.len(),
            elapsed: running.snapshot.begun().elapsed(),
            sent: tables.iter().map(|reading| reading.rows).sum(),
            left: left.map(|reading| reading.facts.rows.saturating_sub(reading.rows)).sum(),
            paused: false,
        });
    }
    let queue = snapshots.states.queue(Kind::Incremental);
    let name = queue.first()?;
    let read = snapshots.states.0.get(name)?.read.as_ref()?;
    let estimate = snapshots.estimate.get(name).copied().unwrap_or(0);
    Some(Figures {
        what: "incremental snapshot",
        table: format!("{}.{}", name.0, name.1),
        rows: read.rows,
        estimate,
        tables_done: 0,
        tables: queue.len(),
        elapsed: snapshots.begun.map_or(Duration::ZERO, |begun| begun.elapsed()),
        sent: snapshots.rows,
        left: estimate.saturating_sub(read.rows),
        paused: snapshots.paused,
    })
}

fn eta(figures: &Figures) -> Option<Duration> {
    // Before a second nothing can be said; without an estimate neither.
    let rate = figures.sent as f64 / figures.elapsed.as_secs_f64();
    let known = figures.estimate > 0 && figures.sent > 0 && figures.elapsed >= Duration::from_secs(1);
    known.then(|| Duration::from_secs_f64((figures.left as f64 / rate).min(1e9)))
}

/// `snapshot of public.orders: 12,000 of about 40,000 rows, table 2 of 5, about 3 min left`
fn words(figures: &Figures) -> String {
    let rows = match figures.estimate {
        0 => format!("{} rows", grouped(figures.rows)),
        estimate => format!("{} of about {} rows", grouped(figures.rows), grouped(estimate.max(figures.rows))),
    };
    let mut words = format!("{} of {}: {rows}", figures.what, figures.table);
    match (figures.tables_done, figures.tables) {
        (_, 1) => {}
        (0, tables) if figures.what == "incremental snapshot" => words.push_str(&format!(", {tables} tables left")),
        (done, tables) => words.push_str(&format!(", table {} of {tables}", (done + 1).min(tables))),
    }
    if figures.paused {
        return words + ", paused";
    }
    match eta(figures).map(|eta| eta.as_secs()) {
        None => words,
        Some(seconds @ 0..100) => format!("{words}, about {seconds} s left"),
        Some(seconds @ 100..7200) => format!("{words}, about {} min left", seconds / 60),
        Some(seconds) => format!("{words}, about {} h left", seconds / 3600),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_words() {
        let figures = Figures {
            what: "snapshot",
            table: "public.orders".into(),
            rows: 12_000,
            estimate: 40_000,
            tables_done: 1,
            tables: 5,
            elapsed: Duration::from_secs(60),
            sent: 12_000,
            left: 36_000,
            paused: false,
        };
        assert_eq!(words(&figures), "snapshot of public.orders: 12,000 of about 40,000 rows, table 2 of 5, about 3 min left");
        let first = Figures { estimate: 0, tables: 1, tables_done: 0, ..figures };
        assert_eq!(words(&first), "snapshot of public.orders: 12,000 rows");
        let beside = Figures { what: "incremental snapshot", tables: 3, paused: true, estimate: 5, ..first };
        assert_eq!(words(&beside), "incremental snapshot of public.orders: 12,000 of about 12,000 rows, 3 tables left, paused");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
