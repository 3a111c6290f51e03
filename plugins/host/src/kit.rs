//! What every plugin promises, as checks with a readable answer. The kit stands in for the worker: it keeps offsets as the worker
//! does, and drops tasks where a crash would.

mod record;
mod source;

use aqueduct_core::{CancellationToken, Descriptor, Error, Options, Plugin, Record, TaskContext, TaskId, TransformPlugin};
use std::sync::Arc;
use std::time::Duration;

/// What is given to a plugin.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Of a connector, or of a transform.
    pub options: Options,
    /// For sinks and transforms, beside odd ones of the kit's own.
    pub records: Vec<Record>,
}

/// One promise.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// What happened instead.
    Failed(String),
    /// Why it could not be judged.
    Skipped(String),
}

/// A promise is kept, or what happened instead.
type Kept = Result<(), String>;

/// A call of a healthy plugin on little data; a Python one compiles for so long in a debug build.
const DEADLINE: Duration = Duration::from_secs(120);
const BATCH_BYTES: usize = 1 << 20;

/// Runs every check that concerns a source or a sink.
pub async fn connector(plugin: &Plugin, case: &Case) -> Vec<Check> {
    let mut checks = vec![
        check("metadata: described in sentences", described(plugin.descriptor())),
        check("validate: takes the config, refuses nonsense", validated(plugin.descriptor(), case, |o| plugin.validate(o))),
    ];
    if checks[1].verdict != Verdict::Passed {
        return checks;
    }
    checks.push(check("plan: 1 to tasks.max tasks, the same each time", planned(plugin, case).await));
    match plugin {
        Plugin::Source(source) => checks.extend(source::checks(source, case).await),
        Plugin::Sink(sink) => checks.extend(record::of_sink(sink, case).await),
    }
    checks
}

/// Runs every check that concerns a transform.
pub async fn transform(plugin: &Arc<dyn TransformPlugin>, case: &Case) -> Vec<Check> {
    let found = |options: &Options| plugin.build(options).err().unwrap_or_default();
    let mut checks = vec![
        check("metadata: described in sentences", described(plugin.descriptor())),
        check("validate: takes the config, refuses nonsense", validated(plugin.descriptor(), case, found)),
    ];
    if checks[1].verdict == Verdict::Passed {
        checks.extend(record::of_transform(plugin, case).await);
    }
    checks
}

fn check(name: &'static str, kept: Kept) -> Check {
    let verdict = kept.map_or_else(Verdict::Failed, |()| Verdict::Passed);
    Check { name, verdict }
}

fn skipped(name: &'static str, why: &str) -> Check {
    Check { name, verdict: Verdict::Skipped(why.to_owned()) }
}

fn described(descriptor: &Descriptor) -> Kept {
    let sentence = |text: &str| text.trim_end().trim_end_matches(')').ends_with('.');
    if !sentence(&descriptor.summary) {
        return Err(format!("its description is no sentence with a full stop: {:?}", descriptor.summary));
    }
    match descriptor.options.iter().find(|option| !sentence(&option.documentation)) {
        Some(option) => Err(format!("the option {} is not described in a sentence with a full stop", option.name)),
        None => Ok(()),
    }
}

fn validated(descriptor: &Descriptor, case: &Case, found: impl Fn(&Options) -> Vec<aqueduct_core::Issue>) -> Kept {
    let errors = |options: &Options| found(options).into_iter().filter(|issue| issue.is_error()).collect::<Vec<_>>();
    if let Some(issue) = errors(&case.options).first() {
        return Err(format!("the config: {issue} (give one by --config FILE)"));
    }
    for option in descriptor.options.iter().filter(|option| option.required) {
        let without: Options =
            case.options.iter().filter(|(key, _)| **key != option.name).map(|(k, v)| (k.clone(), v.clone())).collect();
        if errors(&without).is_empty() {
            return Err(format!("it takes a config without {}, which is required", option.name));
        }
    }
    let typed = descriptor.options.iter().find(|option| option.kind != aqueduct_core::OptionKind::String);
    if let Some(option) = typed {
        let mut nonsense = case.options.clone();
        nonsense.insert(option.name.replace('*', "x"), "\u{1}(*[nonsense".to_owned());
        if errors(&nonsense).is_empty() && option.kind != aqueduct_core::OptionKind::List {
            return Err(format!("it takes nonsense for {}", option.name));
        }
    }
    Ok(())
}

async fn planned(plugin: &Plugin, case: &Case) -> Kept {
    for tasks_max in [1, 3, 8] {
        let plan = within("plan", plugin.plan(&case.options, tasks_max)).await?;
        if plan.is_empty() || plan.len() > tasks_max as usize {
            return Err(format!("{} tasks of at most {tasks_max}", plan.len()));
        }
        if within("plan", plugin.plan(&case.options, tasks_max)).await? != plan {
            return Err(format!("the plan for {tasks_max} tasks is another one each time"));
        }
    }
    Ok(())
}

async fn within<T>(call: &str, run: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(DEADLINE, run).await {
        Ok(done) => done.map_err(|error| format!("{call}: {error}")),
        Err(_) => Err(format!("{call} did not return within {DEADLINE:?}")),
    }
}

fn context(wait_max: Duration, max_records: usize) -> TaskContext {
    let interrupt = CancellationToken::new();
    TaskContext { task: TaskId::new("plugin-test", 0), wait_max, max_bytes: BATCH_BYTES, max_records, interrupt }
}
