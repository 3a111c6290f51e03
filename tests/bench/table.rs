//! Rows of the answer.

use std::fmt;

#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

struct Row {
    what: String,
    ours: String,
    limit: String,
    bar: String,
    /// `None` where there is no bar.
    met: Option<bool>,
}

impl Table {
    pub(crate) fn row(&mut self, what: impl Into<String>, ours: impl Into<String>) {
        self.add(what.into(), ours.into(), String::new(), String::new(), None);
    }

    pub(crate) fn bar(&mut self, what: impl Into<String>, ours: impl Into<String>, bar: impl Into<String>, met: bool) {
        self.add(what.into(), ours.into(), String::new(), bar.into(), Some(met));
    }

    /// Rates, beside the near limit's: at least half of it.
    pub(crate) fn ratio(&mut self, what: impl Into<String>, ours: f64, limit: (&str, f64)) {
        let (name, rate) = limit;
        let ratio = ours / rate;
        self.add(
            what.into(),
            rate_text(ours),
            format!("{} ({name})", rate_text(rate)),
            format!("{ratio:.2} of it; ≥ 0.5"),
            Some(ratio >= 0.5),
        );
    }

    fn add(&mut self, what: String, ours: String, limit: String, bar: String, met: Option<bool>) {
        eprintln!("{what}: {ours} {limit} {bar}");
        self.0.push(Row { what, ours, limit, bar, met });
    }
}

pub(crate) fn rate_text(rate: f64) -> String {
    format!("{:.2} M/s", rate / 1e6)
}

pub(crate) fn mb(kib: u64) -> String {
    format!("{:.0} MB", kib as f64 * 1024.0 / 1e6)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | measured | near limit | bar | |\n| --- | ---: | ---: | ---: | --- |")?;
        for Row { what, ours, limit, bar, met } in &self.0 {
            let mark = met.map_or("", |met| if met { "met" } else { "**missed**" });
            writeln!(f, "| {what} | {ours} | {limit} | {bar} | {mark} |")?;
        }
        Ok(())
    }
}

/// The middle one; of two, the larger.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle() {
        assert_eq!([median(vec![3.0, 1.0, 2.0]), median(vec![4.0]), median(vec![1.0, 2.0])], [2.0, 4.0, 2.0]);
    }

    #[test]
    fn a_missed_bar_is_marked() {
        let mut table = Table::default();
        table.ratio("a", 4e6, ("plain", 1e7));
        table.ratio("b", 6e6, ("plain", 1e7));
        table.row("c", "1");
        let lines: Vec<String> = table.to_string().lines().skip(2).map(str::to_owned).collect();
        assert!(
            lines[0].ends_with("| 0.40 of it; ≥ 0.5 | **missed** |")
                && lines[1].ends_with("| met |")
                && lines[2].ends_with("|  |")
        );
    }
}
