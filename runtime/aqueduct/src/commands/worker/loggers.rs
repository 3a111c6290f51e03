//! Levels that change while the worker runs, and the last lines of each connector: what `/admin/loggers` and `…/logs` ask for.

use aqueduct_rest::{LogLine, LoggerLevel, Logging};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::{Debug, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, reload};

/// A connector's last lines: more than one failure with its restarts, and at most some 100 KB.
const LINES_MAX: usize = 200;
/// A line is cut here: a trace of a driver may be long.
const LINE_BYTES_MAX: usize = 4 << 10;
/// Connectors that come and go under new names must not fill the memory: whoever was silent longest goes first.
const RINGS_MAX: usize = 2_000;
/// Names that clients make up are kept, as Log4j does; this many.
const LOGGERS_MAX: usize = 1_000;

const ROOT: &str = "root";

/// The crates that log, so that an operator need not guess their names.
const MODULES: [&str; 7] = [
    "aqueduct",
    "aqueduct_config",
    "aqueduct_connector",
    "aqueduct_log",
    "aqueduct_rest",
    "aqueduct_transforms",
    "aqueduct_worker",
];

/// A level for each logger; a logger without one has that of the longest name before it that has.
#[derive(Clone, Debug)]
pub(crate) struct Levels(BTreeMap<String, (LevelFilter, LoggerLevel)>);

impl FromStr for Levels {
    type Err = ParseError;

    /// `info`, or by module as `info,aqueduct_worker=debug`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let targets: Targets = text.parse()?;
        let root = targets.default_level().unwrap_or(LevelFilter::OFF);
        let mut levels = Self(BTreeMap::new());
        levels.put(ROOT, root, name_of(root), None);
        for module in MODULES {
            levels.put(module, root, name_of(root), None);
        }
        for (target, level) in &targets {
            for name in levels.below(target) {
                levels.put(&name, level, name_of(level), None);
            }
        }
        Ok(levels)
    }
}

impl Levels {
    pub(crate) fn targets(&self) -> Targets {
        let root = self.0.get(ROOT).map_or(LevelFilter::INFO, |(filter, _)| *filter);
        let others = self.0.iter().filter(|(name, _)| *name != ROOT);
        Targets::new().with_default(root).with_targets(others.map(|(name, (filter, _))| (name.clone(), *filter)))
    }

    fn put(&mut self, name: &str, filter: LevelFilter, level: &str, last_modified: Option<i64>) {
        self.0.insert(name.to_owned(), (filter, LoggerLevel { level: level.to_owned(), last_modified }));
    }

    /// The logger and those below it, sorted; of `root` all.
    fn below(&self, logger: &str) -> Vec<String> {
        let below = |name: &str| logger == ROOT || name == logger || name.starts_with(logger);
        let mut names: Vec<String> = self.0.keys().filter(|name| below(name)).cloned().collect();
        if !names.iter().any(|name| name == logger) {
            names.push(logger.to_owned());
            names.sort();
        }
        names
    }
}

/// Log4j's levels and ours.
const LEVELS: [(&str, LevelFilter); 8] = [
    ("OFF", LevelFilter::OFF),
    ("FATAL", LevelFilter::ERROR),
    ("ERROR", LevelFilter::ERROR),
    ("WARN", LevelFilter::WARN),
    ("INFO", LevelFilter::INFO),
    ("DEBUG", LevelFilter::DEBUG),
    ("TRACE", LevelFilter::TRACE),
    ("ALL", LevelFilter::TRACE),
];

fn name_of(filter: LevelFilter) -> &'static str {
    let exact = |(name, level): &&(&str, LevelFilter)| *level == filter && *name != "FATAL";
    LEVELS.iter().find(exact).map_or("INFO", |(name, _)| name)
}

/// The worker's log, as REST changes and shows it.
pub(crate) struct Loggers {
    levels: Mutex<Levels>,
    handle: reload::Handle<Targets, Registry>,
    rings: Arc<Rings>,
}

impl Loggers {
    pub(crate) fn new(levels: Levels, handle: reload::Handle<Targets, Registry>, rings: Arc<Rings>) -> Self {
        Self { levels: Mutex::new(levels), handle, rings }
    }
}

impl Logging for Loggers {
    fn levels(&self) -> BTreeMap<String, LoggerLevel> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels.0.iter().map(|(name, (_, level))| (name.clone(), level.clone())).collect()
    }

    fn set(&self, logger: &str, level: &str) -> Option<Vec<String>> {
        let (name, filter) = LEVELS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(level))?;
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = levels.below(logger);
        let room = LOGGERS_MAX.saturating_sub(levels.0.len());
        changed.retain(|changed| room > 0 || levels.0.contains_key(changed));
        for logger in &changed {
            levels.put(logger, filter, name, Some(now()));
        }
        if let Err(error) = self.handle.reload(levels.targets()) {
            tracing::warn!("the level of {logger} was not changed: {error}");
        }
        tracing::info!(logger, level = name, "log level");
        Some(changed)
    }

    fn recent(&self, connector: &str) -> Vec<LogLine> {
        self.rings.of(connector)
    }
}

/// The last lines of each connector.
#[derive(Default)]
pub(crate) struct Rings(Mutex<HashMap<Box<str>, VecDeque<LogLine>>>);

impl Rings {
    pub(crate) fn layer(self: Arc<Self>) -> RingLayer {
        RingLayer(self)
    }

    fn of(&self, connector: &str) -> Vec<LogLine> {
        let rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(connector).map(|ring| ring.iter().cloned().collect()).unwrap_or_default()
    }

    fn push(&self, connector: &str, line: LogLine) {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !rings.contains_key(connector) {
            if rings.len() >= RINGS_MAX {
                let last = |ring: &VecDeque<LogLine>| ring.back().map_or(0, |line| line.timestamp);
                let silent = rings.iter().min_by_key(|(_, ring)| last(ring)).map(|(name, _)| name.clone());
                silent.and_then(|name| rings.remove(&name));
            }
            rings.insert(connector.into(), VecDeque::new());
        }
        let Some(ring) = rings.get_mut(connector) else { return };
        if ring.len() >= LINES_MAX {
            ring.pop_front();
        }
        ring.push_back(line);
    }
}

/// Files each event under the connector that it names itself, or whose task it happened in.
pub(crate) struct RingLayer(Arc<Rings>);

/// Whose task a span is.
struct Owner {
    connector: String,
    task: Option<u64>,
    epoch: Option<u64>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RingLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut said = Said::default();
        attributes.record(&mut said);
        if let (Some(connector), Some(span)) = (said.connector, context.span(id)) {
            span.extensions_mut().insert(Owner { connector, task: said.task, epoch: said.epoch });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let level = event.metadata().level().as_str();
        let Said { connector, task, epoch, message, fields } = said;
        let line = |task, epoch| {
            let mut message = message + &fields;
            message.truncate(message.floor_char_boundary(LINE_BYTES_MAX));
            LogLine { timestamp: now(), level, task, epoch, message }
        };
        if let Some(connector) = connector {
            return self.0.push(&connector, line(task, epoch));
        }
        let spans = context.event_scope(event).into_iter().flatten();
        for span in spans {
            if let Some(owner) = span.extensions().get::<Owner>() {
                return self.0.push(&owner.connector, line(owner.task, owner.epoch));
            }
        }
    }
}

/// What an event or a span has to say.
#[derive(Default)]
struct Said {
    connector: Option<String>,
    task: Option<u64>,
    epoch: Option<u64>,
    message: String,
    /// ` name=value` of all others.
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "connector" => self.connector = Some(format!("{value:?}")),
            "task" => self.task = format!("{value:?}").parse().ok(),
            "epoch" => self.epoch = format!("{value:?}").parse().ok(),
            "message" => self.message = format!("{value:?}"),
            // Writing to a String does not fail.
            name => drop(write!(self.fields, " {name}={value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "connector" => self.connector = Some(value.to_owned()),
            "message" => value.clone_into(&mut self.message),
            name => drop(write!(self.fields, " {name}={value}")),
        }
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn loggers(filter: &str) -> (Loggers, impl Subscriber) {
        let levels: Levels = filter.parse().unwrap();
        let (targets, handle) = reload::Layer::new(levels.targets());
        let rings = Arc::new(Rings::default());
        let subscriber = tracing_subscriber::registry().with(targets).with(rings.clone().layer());
        (Loggers::new(levels, handle, rings), subscriber)
    }

    #[test]
    fn lines_are_filed_under_their_connector() {
        let (loggers, subscriber) = loggers("info");
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(connector = "a", task = 1usize, attempt = 2, "restarts");
            tracing::info!("of nobody");
            let _span = tracing::error_span!("task", connector = %"b", task = 0usize, epoch = 3u64).entered();
            tracing::info!(rows = 7, "read");
            tracing::debug!("not shown");
            for n in 0..LINES_MAX * 2 {
                tracing::error!("{n}");
            }
            tracing::error!("{}", "ö".repeat(LINE_BYTES_MAX));
        });
        let lines = loggers.recent("a");
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].level, lines[0].task, &*lines[0].message), ("WARN", Some(1), "restarts attempt=2"));
        let lines = loggers.recent("b");
        assert_eq!((lines.len(), lines[0].task, lines[0].epoch), (LINES_MAX, Some(0), Some(3)));
        assert!(lines.iter().all(|line| line.message.len() <= LINE_BYTES_MAX));
        assert_eq!(loggers.recent("c"), []);
    }

    #[test]
    fn levels_change_while_it_runs() {
        let (loggers, subscriber) = loggers("warn,aqueduct_worker=info");
        assert_eq!(loggers.levels()["root"], LoggerLevel { level: "WARN".into(), last_modified: None });
        assert_eq!(loggers.levels()["aqueduct_worker"].level, "INFO");
        let heard = |loggers: &Loggers| loggers.recent("a").len();
        tracing::subscriber::with_default(subscriber, || {
            let speak = || tracing::debug!(target: "aqueduct_log::embedded", connector = "a", "hello");
            speak();
            assert_eq!(heard(&loggers), 0);
            assert_eq!(loggers.set("aqueduct_log", "debug").unwrap(), ["aqueduct_log"]);
            speak();
            assert_eq!(heard(&loggers), 1);
            assert_eq!(loggers.levels()["aqueduct_log"].level, "DEBUG");
            assert!(loggers.levels()["aqueduct_log"].last_modified.is_some());
            let all = loggers.set("root", "ERROR").unwrap();
            assert!(all.len() > MODULES.len() && all.contains(&"aqueduct_log".to_owned()), "{all:?}");
            speak();
            assert_eq!(heard(&loggers), 1);
            assert_eq!(loggers.set("org.apache.kafka.connect", "TRACE").unwrap(), ["org.apache.kafka.connect"]);
        });
        assert_eq!(loggers.set("root", "LOUD"), None);
        assert!("aqueduct=loud".parse::<Levels>().is_err());
    }

    #[test]
    fn made_up_names_are_bounded() {
        let (loggers, _) = loggers("info");
        for n in 0..LOGGERS_MAX * 2 {
            loggers.set(&format!("x.{n}"), "INFO");
        }
        assert_eq!(loggers.levels().len(), LOGGERS_MAX);
        let rings = Rings::default();
        for n in 0..RINGS_MAX * 2 {
            rings.push(
                &n.to_string(),
                LogLine { timestamp: n as i64, level: "INFO", task: None, epoch: None, message: String::new() },
            );
        }
        assert_eq!((rings.of("0").len(), rings.of(&(RINGS_MAX * 2 - 1).to_string()).len()), (0, 1));
    }
}
