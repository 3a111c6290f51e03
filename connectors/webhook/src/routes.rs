//! Which connector a path belongs to.

use crate::answer::Refusal;
use crate::config::Settings;
use crate::intake::Intake;
use crate::template::{self, Part};
use aqueduct_core::Topic;
use aqueduct_core::offset::is_valid_topic_name;
use hyper::StatusCode;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One connector on the listener.
pub(crate) struct Target {
    pub(crate) settings: Arc<Settings>,
    pub(crate) intake: Arc<Intake>,
    /// Where no segment of the path is in its name.
    topic: Option<Topic>,
    /// Otherwise: those that were named so far.
    topics: Mutex<BTreeSet<Topic>>,
}

/// Who sends chooses the names, and each is a topic that stays.
const TOPICS_MAX: usize = 1000;

impl Target {
    pub(crate) fn new(settings: Arc<Settings>, intake: Arc<Intake>) -> Self {
        let fixed = template::names(&settings.topic).next().is_none();
        let topic = fixed.then(|| Topic::from(filled(&settings.topic, &[])));
        Self { settings, intake, topic, topics: Mutex::default() }
    }

    /// # Errors
    /// 404 when a segment makes no name of a topic, or one too many.
    pub(crate) fn topic(&self, captures: &[(String, String)]) -> Result<Topic, Refusal> {
        if let Some(topic) = &self.topic {
            return Ok(topic.clone());
        }
        let name = filled(&self.settings.topic, captures);
        if !is_valid_topic_name(&name) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "this path names no topic"));
        }
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.get(name.as_str()) {
            return Ok(topic.clone());
        }
        if topics.len() >= TOPICS_MAX {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "the paths of this connector have named too many topics"));
        }
        let topic = Topic::from(name);
        topics.insert(topic.clone());
        Ok(topic)
    }
}

fn filled(parts: &[Part], captures: &[(String, String)]) -> String {
    let text = |part: &Part| match part {
        Part::Literal(text) => text.clone(),
        Part::Name(name) => captures.iter().find(|(known, _)| known == name).map(|(_, text)| text.clone()).unwrap_or_default(),
    };
    parts.iter().map(text).collect()
}

#[derive(Clone)]
pub(crate) enum Route {
    Open(Arc<Target>),
    /// Its connector is paused, restarting, failed or gone: told to come again, since nobody here knows which.
    Closed,
}

/// What the connections look at; replaced as a whole.
#[derive(Default)]
pub(crate) struct Table {
    router: matchit::Router<Route>,
}

impl Table {
    pub(crate) fn at<'a>(&self, path: &'a str) -> Option<(&Route, matchit::Params<'_, 'a>)> {
        self.router.at(path).ok().map(|found| (found.value, found.params))
    }
}

/// What the table is made from.
#[derive(Default)]
pub(crate) struct Routes {
    /// By path; the number of the place that holds it.
    held: BTreeMap<String, (u64, Route)>,
}

/// Paths of connectors that are gone, kept so that they answer 503: with the oldest names first, enough for any that restart together.
const CLOSED_MAX: usize = 1024;

impl Routes {
    /// All paths of a target, or none.
    ///
    /// # Errors
    /// The path that is taken, and why.
    pub(crate) fn add(&mut self, owner: u64, target: &Arc<Target>) -> Result<Table, (String, String)> {
        let paths = &target.settings.paths;
        let is_taken = |path: &&String| matches!(self.held.get(*path), Some((_, Route::Open(_))));
        if let Some(path) = paths.iter().find(is_taken) {
            return Err((path.clone(), "another connector has the same path".to_owned()));
        }
        let mut held = self.held.clone();
        held.extend(paths.iter().map(|path| (path.clone(), (owner, Route::Open(target.clone())))));
        let table = match table(&held) {
            Ok(table) => table,
            Err(_) => {
                // A path that nobody has any more must not keep another form of it away.
                held.retain(|_, (_, route)| matches!(route, Route::Open(_)));
                table(&held)?
            }
        };
        self.held = held;
        Ok(table)
    }

    pub(crate) fn close(&mut self, owner: u64) -> Table {
        for (_, route) in self.held.values_mut().filter(|(of, _)| *of == owner) {
            *route = Route::Closed;
        }
        let closed: Vec<String> =
            self.held.iter().filter(|(_, (_, route))| matches!(route, Route::Closed)).map(|(path, _)| path.clone()).collect();
        for path in closed.iter().take(closed.len().saturating_sub(CLOSED_MAX)) {
            self.held.remove(path);
        }
        table(&self.held).unwrap_or_default()
    }

    pub(crate) fn any_open(&self) -> bool {
        self.held.values().any(|(_, route)| matches!(route, Route::Open(_)))
    }
}

fn table(held: &BTreeMap<String, (u64, Route)>) -> Result<Table, (String, String)> {
    let mut router = matchit::Router::new();
    for (path, (_, route)) in held {
        router.insert(path.clone(), route.clone()).map_err(|why| (path.clone(), why.to_string()))?;
    }
    Ok(Table { router })
}
