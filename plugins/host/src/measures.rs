//! The numbers that a task of a plugin measures of itself (`metrics`), for `/metrics`: bounded, since a label's values may come from outside.

use crate::error::clean;
use aqueduct_core::{Measure, MeasureKind};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Of a task: 50 tasks of one plugin then have as many as a large exporter.
const SERIES_MAX: usize = 100;
const LABELS_MAX: usize = 8;
const NAME_BYTES: usize = 64;
const VALUE_CHARS: usize = 128;
/// The labels of every series.
const RESERVED: [&str; 4] = ["connector", "task", "plugin", "transform"];

/// Of one task: it outlives the instances, which may be replaced between two batches.
#[derive(Default)]
pub(crate) struct Measures {
    series: Mutex<BTreeMap<Series, f64>>,
    /// Since they were taken last.
    changed: AtomicBool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    is_counter: bool,
}

impl Measures {
    /// # Errors
    /// Which bound was passed; nothing has changed then.
    pub(crate) fn set(&self, name: &str, labels: Vec<(String, String)>, value: f64) -> Result<(), String> {
        self.change(name, labels, false, value, |kept| *kept = value)
    }

    /// # Errors
    /// As [`Measures::set`], and of less than 0.
    pub(crate) fn add(&self, name: &str, labels: Vec<(String, String)>, delta: f64) -> Result<(), String> {
        if delta < 0.0 {
            return Err(format!("a counter cannot have {delta} added to it"));
        }
        // The exporter appends it.
        let name = name.strip_suffix("_total").unwrap_or(name);
        self.change(name, labels, true, delta, |kept| *kept += delta)
    }

    fn change(
        &self,
        name: &str,
        mut labels: Vec<(String, String)>,
        is_counter: bool,
        value: f64,
        change: impl FnOnce(&mut f64),
    ) -> Result<(), String> {
        if !value.is_finite() {
            return Err(format!("{value} is no number"));
        }
        if !is_name(name) || labels.len() > LABELS_MAX || !labels.iter().all(|(name, _)| is_name(name)) {
            return Err(format!("names have 1 to {NAME_BYTES} of a-z, 0-9 and _, and there are at most {LABELS_MAX} labels"));
        }
        for (_, value) in &mut labels {
            *value = clean(value, VALUE_CHARS);
        }
        labels.sort();
        let twice = labels.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if twice || labels.iter().any(|(name, _)| RESERVED.contains(&name.as_str())) {
            return Err(format!("a label is there twice, or has one of the names {}", RESERVED.join(", ")));
        }
        let mut all = self.series.lock();
        let count = all.len();
        match all.entry(Series { name: name.to_owned(), labels, is_counter }) {
            Entry::Occupied(mut kept) => change(kept.get_mut()),
            Entry::Vacant(_) if count >= SERIES_MAX => return Err(format!("the task has {SERIES_MAX} series already")),
            Entry::Vacant(new) => change(new.insert(0.0)),
        }
        self.changed.store(true, Relaxed);
        Ok(())
    }

    /// Of the plugin.
    pub(crate) fn all(&self, plugin: &Arc<str>) -> Vec<Measure> {
        let all = self.series.lock();
        let measure = |(series, value): (&Series, &f64)| {
            let kind = if series.is_counter { MeasureKind::Counter } else { MeasureKind::Gauge };
            let help = "What plugins measure of themselves by this name";
            let measure = Measure { kind, ..Measure::new(format!("plugin_{}", series.name), help, *value) };
            let measure = measure.label("plugin", &**plugin);
            series.labels.iter().fold(measure, |measure, (name, value)| measure.label(name, value))
        };
        all.iter().map(measure).collect()
    }

    /// Whether something has changed since this was asked last.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Relaxed)
    }
}

fn is_name(name: &str) -> bool {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    begins && name.len() <= NAME_BYTES && name.bytes().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn the_last_of_a_gauge_and_the_sum_of_a_counter_are_kept() {
        let measures = Measures::default();
        assert!(!measures.take_changed());
        measures.set("depth", label("queue", "a"), 3.0).unwrap();
        measures.set("depth", label("queue", "a"), 2.0).unwrap();
        measures.add("pages_total", Vec::new(), 1.0).unwrap();
        measures.add("pages", Vec::new(), 2.0).unwrap();
        let all = measures.all(&"p".into());
        let told: Vec<_> =
            all.iter().map(|measure| (&*measure.name, measure.kind, measure.labels.len(), measure.value)).collect();
        let expected = [("plugin_depth", MeasureKind::Gauge, 2, 2.0), ("plugin_pages", MeasureKind::Counter, 1, 3.0)];
        assert_eq!(told, expected);
        assert!(measures.take_changed() && !measures.take_changed());
    }

    #[test]
    fn what_breaks_a_bound_is_left_out() {
        let measures = Measures::default();
        for (name, labels, value) in [
            ("Depth", Vec::new(), 1.0),
            ("1st", Vec::new(), 1.0),
            ("", Vec::new(), 1.0),
            ("depth", label("task", "7"), 1.0),
            ("depth", [label("a", "1"), label("a", "2")].concat(), 1.0),
            ("depth", (0..9).flat_map(|n| label(&format!("l{n}"), "x")).collect(), 1.0),
            ("depth", Vec::new(), f64::NAN),
        ] {
            assert!(measures.set(name, labels, value).is_err(), "{name}");
        }
        assert!(measures.add("pages", Vec::new(), -1.0).is_err());
        for n in 0..SERIES_MAX {
            measures.set("depth", label("queue", &format!("{n}\n")), 1.0).unwrap();
        }
        assert!(measures.set("depth", label("queue", "another"), 1.0).unwrap_err().contains("100 series"));
        measures.set("depth", label("queue", "7\n"), 5.0).unwrap();
        let all = measures.all(&"p".into());
        assert_eq!(all.len(), SERIES_MAX);
        assert!(all.iter().all(|measure| !measure.labels[1].1.contains('\n')));
    }
}
