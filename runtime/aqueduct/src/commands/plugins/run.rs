//! `plugins run`: one task of a plugin, without a worker and without a log.

use super::lines::{line, record};
use super::{Worker, install};
use crate::client::block_on;
use crate::failure::{Failure, Outcome};
use aqueduct_config::Providers;
use aqueduct_core::{
    Ack, Batch, CancellationToken, Issue, Options, Plugin, Record, Rejects, SinkTask, SourceOffset, SourcePlugin, TaskContext,
    TaskId, Transform,
};
use aqueduct_plugin_host::{Loaded, load_bytes};
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Run a plugin here: a source prints its records as lines of JSON; a transform and a sink read such lines, or plain ones, from standard input.
///
/// Nothing is stored: a source begins anew each time.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plugin.
    file: PathBuf,
    /// Its options: a connector's file, or for a transform its own options alone.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The worker's settings, whose grants hold; config/worker.yaml if there is one.
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Which one, where the file has several plugins.
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// Of a source: end after so many records; without end if not set.
    #[arg(long, short = 'n', value_name = "RECORDS")]
    max_messages: Option<usize>,
    /// Of a source: end when no record came for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
}

const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;
/// Of lines that name none.
const TOPIC: &str = "stdin";

/// A plugin of a file.
pub(super) enum Found {
    Connector(Plugin),
    Transform(Arc<dyn aqueduct_core::TransformPlugin>),
}

impl Found {
    pub(super) fn name(&self) -> &str {
        match self {
            Found::Connector(plugin) => &plugin.descriptor().name,
            Found::Transform(transform) => &transform.descriptor().name,
        }
    }
}

/// The plugins of a file with what worker.yaml grants them; the lines that they log go to standard error.
pub(super) fn found(file: &Path, worker: Option<PathBuf>) -> Outcome<Vec<Found>> {
    let subscriber =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_max_level(tracing::Level::INFO);
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    // A second one, in tests, is none.
    let _ = subscriber.without_time().try_init();
    let worker = Worker { config: worker }.read()?;
    let loaded = load_bytes(install::read(file)?, &worker.plugins).map_err(|error| install::refused(file, &error))?;
    let Loaded { plugins, transforms, .. } = loaded;
    let mut all: Vec<Found> = plugins.into_iter().map(Found::Connector).collect();
    all.extend(transforms.into_iter().map(Found::Transform));
    Ok(all)
}

/// Of a connector's file or of a transform's own, with its references resolved.
pub(super) fn options(config: Option<&Path>) -> Outcome<Options> {
    let Some(path) = config else { return Ok(Options::new()) };
    let text =
        String::from_utf8(install::read(path)?).map_err(|_| Failure::failed(format!("{} is not UTF-8", path.display())))?;
    let (documents, issues) = aqueduct_config::read(&path.display().to_string(), &text);
    refuse(&issues)?;
    let Some(document) = documents.first() else { return Ok(Options::new()) };
    let (flat, issues) = aqueduct_config::flatten(document);
    refuse(&issues)?;
    Ok(Providers::open().resolve(&flat.entries)?.options)
}

fn refuse(issues: &[Issue]) -> Outcome {
    let errors: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(|issue| format!("\n  {issue}")).collect();
    if errors.is_empty() { Ok(()) } else { Err(Failure::failed(format!("the config is wrong:{}", errors.concat()))) }
}

pub(crate) fn run(args: Args) -> Outcome {
    let mut all = found(&args.file, args.worker.clone())?;
    let options = options(args.config.as_deref())?;
    let names = all.iter().map(Found::name).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = &args.plugin {
        all.retain(|found| found.name() == wanted);
    }
    let (Some(plugin), true) = (all.pop(), all.is_empty()) else {
        return Err(Failure::usage(format!("{} has {names}", args.file.display())).fix("name one of them by --plugin"));
    };
    block_on(async {
        match plugin {
            Found::Transform(transform) => {
                let built = transform.build(&options).map_err(|issues| refuse(&issues).err().unwrap_or_else(Failure::said))?;
                change(built).await
            }
            Found::Connector(plugin) => {
                refuse(&plugin.validate(&options))?;
                match plugin {
                    Plugin::Source(source) => poll(&source, &options, &args).await,
                    Plugin::Sink(sink) => {
                        let spec = sink.plan(&options, 1).await?.into_iter().next().unwrap_or_default();
                        let mut task = sink.open(&options, spec).await?;
                        put(&mut task).await?;
                        Ok(task.close().await?)
                    }
                }
            }
        }
    })
}

fn context(max_records: usize, interrupt: &CancellationToken) -> TaskContext {
    let wait_max = Duration::from_secs(1);
    TaskContext {
        task: TaskId::new("plugin-run", 0),
        wait_max,
        max_bytes: BATCH_BYTES,
        max_records,
        interrupt: interrupt.clone(),
    }
}

async fn poll(source: &Arc<dyn SourcePlugin>, options: &Options, args: &Args) -> Outcome {
    let spec = source.plan(options, 1).await?.into_iter().next().unwrap_or_default();
    let mut task = source.open(options, spec, Vec::new()).await?;
    let (interrupt, mut left, mut heard) = (CancellationToken::new(), args.max_messages, Instant::now());
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    while left != Some(0) && args.idle.is_none_or(|idle| heard.elapsed() < Duration::from_secs(idle)) {
        let cx = context(left.unwrap_or(BATCH_RECORDS).min(BATCH_RECORDS), &interrupt);
        let polled = {
            let mut polling = std::pin::pin!(task.poll(&cx));
            // A call is never dropped midway: it is asked to return.
            tokio::select! {
                polled = &mut polling => polled?,
                _ = &mut stop => {
                    interrupt.cancel();
                    left = Some(0);
                    polling.await?
                }
            }
        };
        let offsets: BTreeMap<String, &SourceOffset> = polled.resume.iter().map(|o| (o.partition_key(), o)).collect();
        let durable: Vec<SourceOffset> = offsets.into_values().cloned().collect();
        let records: Vec<Record> = polled.batch.into_records().collect();
        left = left.map(|left| left.saturating_sub(records.len()));
        if !records.is_empty() {
            heard = Instant::now();
            show(&records)?;
        }
        if !durable.is_empty() {
            task.commit(&durable).await?;
        }
    }
    Ok(task.close().await?)
}

fn show(records: &[Record]) -> Outcome {
    let mut out = std::io::stdout().lock();
    for record in records {
        writeln!(out, "{}", line(record))?;
    }
    Ok(out.flush()?)
}

fn refused(rejects: &mut Rejects) {
    for reject in rejects.take() {
        // Nothing is left to do when stderr is closed.
        let _ = writeln!(std::io::stderr(), "refused: {}: {}", reject.error, line(&reject.record));
    }
}

/// Lines of standard input in batches.
fn batches() -> impl Iterator<Item = Outcome<Vec<Record>>> {
    let mut lines = std::io::stdin().lock().lines();
    std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            let text = match lines.next() {
                Some(Ok(text)) => text,
                Some(Err(error)) => return Some(Err(error.into())),
                None => break,
            };
            bytes += text.len();
            match record(&text, TOPIC) {
                Ok(record) => batch.push(record),
                Err(failure) => return Some(Err(failure)),
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

async fn change(mut transform: Box<dyn Transform>) -> Outcome {
    let mut rejects = Rejects::default();
    for batch in batches() {
        let made = transform.apply(batch?.into_iter().collect(), &mut rejects).await?;
        show(&made.into_records().collect::<Vec<_>>())?;
        refused(&mut rejects);
    }
    Ok(())
}

async fn put(task: &mut Box<dyn SinkTask>) -> Outcome {
    let mut rejects = Rejects::default();
    for batch in batches() {
        let batch: Batch = batch?.into_iter().collect();
        let cx = context(batch.len(), &CancellationToken::new());
        if task.put(&batch, &mut rejects, &cx).await? == Ack::Buffered {
            task.flush().await?;
        }
        refused(&mut rejects);
    }
    Ok(())
}
