//! What every connector promises, as functions that panic when it does not: one kit for built-ins and WASM plugins.
//!
//! The kit stands in for the worker: it keeps offsets and positions as the worker does, and drops tasks where a crash would.

mod sink;
mod source;

pub use sink::{SinkCase, sink};
pub use source::{SourceCase, all_of_it, source};

use aqueduct_core::plugin::OptionSpec;
use aqueduct_core::{Options, Plugin, TaskContext, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// No call of a healthy connector on a small input takes this long.
const DEADLINE: Duration = Duration::from_secs(90);

/// What the plugin says of itself is complete: names, a summary, and each option documented, once.
pub fn descriptor(plugin: &Plugin) {
    let descriptor = plugin.descriptor();
    let name = &descriptor.name;
    assert!(descriptor.is_called(name), "{name} is not called by its own name");
    for alias in &descriptor.aliases {
        assert!(descriptor.is_called(alias), "{name} is not called {alias}");
    }
    assert!(descriptor.summary.ends_with('.'), "the summary of {name} is a sentence: {:?}", descriptor.summary);
    assert!(!descriptor.version.is_empty(), "{name} has no version");
    let mut names = BTreeSet::new();
    for option in &descriptor.options {
        assert!(names.insert(&option.name), "{name} has {} twice", option.name);
        documented(name, option);
    }
}

fn documented(plugin: &str, option: &OptionSpec) {
    let what = format!("{plugin}: {}", option.name);
    assert!(
        option.documentation.trim_end().trim_end_matches(')').ends_with('.'),
        "{what} is not documented in a sentence: {:?}",
        option.documentation
    );
    assert!(!(option.required && option.default.is_some()), "{what} is required and has a default");
    let dotted = option
        .name
        .split('.')
        .all(|part| part == "*" || (!part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')));
    assert!(dotted, "{what} is no dotted name");
}

/// `validate` and `plan` give the same answer each time and leave `world` (a folder that the options point into) as it is; `plan` keeps to
/// `tasks_max` and is never empty. Options that are missing or nonsense are issues, not panics.
pub async fn plans_without_touching(plugin: &Plugin, options: &Options, world: &Path) {
    let name = plugin.descriptor().name.clone();
    let before = snapshot(world);
    for _ in 0..2 {
        let errors: Vec<String> =
            plugin.validate(options).into_iter().filter(|issue| issue.is_error()).map(|issue| issue.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    for tasks_max in [1, 3, 8] {
        let plan = within("plan", plugin.plan(options, tasks_max)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!((1..=tasks_max as usize).contains(&plan.len()), "{name} plans {} tasks of at most {tasks_max}", plan.len());
        let again = within("plan", plugin.plan(options, tasks_max)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(plan, again, "{name} plans differently each time");
    }
    let nonsense: Options =
        plugin.descriptor().options.iter().map(|option| (option.name.replace('*', "x"), "\u{1}(*[nonsense".to_owned())).collect();
    assert!(plugin.validate(&nonsense).iter().any(|issue| issue.is_error()) || nonsense.is_empty(), "{name} takes nonsense");
    let refused = within("plan", plugin.plan(&nonsense, 1)).await;
    assert!(refused.is_err() || nonsense.is_empty(), "{name} plans nonsense");
    assert_eq!(snapshot(world), before, "{name} touched the world");
}

/// Every file below a folder: its size and when it was written last.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let meta = entry.metadata().expect("the kit's own folder can be read");
            if meta.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path(), (if meta.is_dir() { 0 } else { meta.len() }, meta.modified().ok()));
        }
    }
    found
}

async fn within<T>(what: &str, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, call).await.unwrap_or_else(|_| panic!("{what} took longer than {DEADLINE:?}"))
}

fn context(wait_max: Duration, max_records: usize) -> TaskContext {
    let interrupt = CancellationToken::new();
    TaskContext { task: TaskId::new("conformance", 0), wait_max, max_bytes: 1 << 20, max_records, interrupt }
}
