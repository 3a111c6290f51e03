//! What commands print: tables for people, JSON and YAML for scripts.

use crate::failure::{Failure, Outcome};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;
use std::io::{IsTerminal, Write};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// In characters.
const WIDTH_MIN: u16 = 60;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) format: Format,
    pub(crate) terminal: bool,
    pub(crate) colour: bool,
}

impl Screen {
    pub(crate) fn new(format: Format) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { format, terminal, colour }
    }

    /// `value` for scripts, `text` for people.
    pub(crate) fn show(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
        match self.format {
            Format::Table => print(&text()),
            Format::Json => {
                let json = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?;
                print(&json)
            }
            Format::Yaml => {
                let yaml = serde_yaml::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
                print(&yaml)
            }
        }
    }

    /// A line that says what was done; only for people.
    pub(crate) fn done(&self, text: &str) -> Outcome {
        if self.format == Format::Table { print(text) } else { Ok(()) }
    }

    /// Without frames; numbers to the right where `columns` begin with `>`.
    pub(crate) fn table(&self, columns: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if !self.terminal {
            table.force_no_tty();
        }
        // Cells are wrapped to fit the terminal; not where it has no width to speak of (0 under some CI runners).
        if table.width().is_some_and(|width| width >= WIDTH_MIN) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if self.colour {
            table.enforce_styling();
        }
        let bold = |name: &str| {
            let cell = Cell::new(name.trim_start_matches('>'));
            if self.colour { cell.add_attribute(Attribute::Bold) } else { cell }
        };
        table.set_header(columns.iter().map(|name| bold(name)).collect::<Vec<_>>());
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if columns.get(index).is_some_and(|name| name.starts_with('>')) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// A state of Kafka Connect, in its colour.
    pub(crate) fn state(&self, state: &str) -> Cell {
        let colour = match state {
            "RUNNING" | "healthy" => Color::Green,
            "FAILED" | "unhealthy" => Color::Red,
            _ => Color::Yellow,
        };
        if self.colour { Cell::new(state).fg(colour) } else { Cell::new(state) }
    }

    pub(crate) fn paint(&self, text: &str, ansi: &str) -> String {
        if self.colour { format!("\x1b[{ansi}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint(text, "1")
    }

    pub(crate) fn red(&self, text: &str) -> String {
        self.paint(text, "1;31")
    }
}

/// The table's lines without what pads their ends.
pub(crate) fn lines(table: &Table) -> String {
    table.trim_fmt()
}

/// Prints a text and a line end, unless it has one.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// A JSON value as people read it: texts without quotes, nothing for null.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `1234567` → `1,234,567`
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1536` → `1.5 KiB`
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut size = number as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// `90_500` ms → `1 min`: how long ago, roughly.
pub(crate) fn ago(ms: Option<u64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 1000 => "now".to_owned(),
        Some(ms) if ms < 120_000 => format!("{} s", ms / 1000),
        Some(ms) if ms < 7_200_000 => format!("{} min", ms / 60_000),
        Some(ms) => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([None, Some(5), Some(2500), Some(130_000), Some(8_000_000)].map(ago), ["-", "now", "2 s", "2 min", "2 h"]);
    }

    #[test]
    fn tables_off_a_terminal_are_plain() {
        let screen = Screen { format: Format::Table, terminal: false, colour: false };
        let mut table = screen.table(&["NAME", ">LAG"]);
        table.add_row(vec![Cell::new("orders"), Cell::new("12")]).add_row(vec![screen.state("RUNNING"), Cell::new("5")]);
        assert_eq!(lines(&table), "NAME     LAG\norders    12\nRUNNING    5");
    }
}
