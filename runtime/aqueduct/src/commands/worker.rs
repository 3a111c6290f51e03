//! `worker`: wires the parts together and runs until a signal.

mod banner;
mod loggers;
mod logging;
mod traces;

use crate::failure::{Failure, Outcome};
use crate::wiring;
use aqueduct_config::worker_config::WorkerConfig;
use aqueduct_core::Issue;
use aqueduct_rest::{Listener, OtherPlugin, RestOptions, Serves, Tls, Users};
use aqueduct_transforms::PartDescriptor;
use aqueduct_worker::folder::Folder;
use aqueduct_worker::{Worker, WorkerOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Run a worker: the connectors of its store and of connectors.dir, and the REST API.
///
/// Ends on SIGTERM or Ctrl-C: it stops reading, drains, commits, and exits with 0. A second signal ends it at once with 1. Nothing is lost either
/// way, nor by kill -9.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The worker's settings, in YAML, JSON or properties.
    #[arg(long, short, default_value = wiring::CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// One setting, over the file's: `--set listeners=http://127.0.0.1:8090`.
    #[arg(long, short, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How to write the log to stderr.
    #[arg(long, value_enum, default_value_t, env = "AQUEDUCT_LOG_FORMAT", hide_env_values = true)]
    log_format: logging::Format,
    /// What to log: `info`, `debug`, or by module as `info,aqueduct_worker=debug`.
    #[arg(long, default_value = "info", env = "AQUEDUCT_LOG_LEVEL", hide_env_values = true, value_name = "FILTER")]
    log_level: String,
}

/// After the connectors' own deadline the log still closes; that takes one commit.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// Between tries to start while Kafka is not there: soon enough for a person who waits, and no burden to brokers that come back.
const START_PAUSE: Duration = Duration::from_secs(2);
/// Between looks at `plugin.path`: a file that is still being copied is read at the second look that sees it the same.
const PLUGINS_PAUSE: Duration = Duration::from_secs(1);
/// REST, supervisors, stores: none of them computes, so two threads carry thousands of connectors.
const CONTROL_THREADS: usize = 2;

/// For reads, writes and syncs of files: enough to keep any disk busy. Tokio's 512 cost 200 MB when 1,000 connectors start at once.
const BLOCKING_THREADS_MAX: usize = 64;

pub(crate) fn run(args: Args) -> Outcome {
    let loggers = logging::start(args.log_format, &args.log_level)?;
    if let Ok(plan) = std::env::var("AQUEDUCT_FAILPOINTS") {
        aqueduct_core::failpoint::arm(&plan).map_err(|error| Failure::failed(format!("AQUEDUCT_FAILPOINTS: {error}")))?;
        tracing::warn!(plan, "failpoints are armed: this worker will fail on purpose");
    }
    let config = wiring::read_config(&args.config, &args.set)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // Dropped last: the spans of the shutdown are sent too.
    let _traces = config.telemetry.as_ref().map(traces::start).transpose()?;
    let access = Access {
        listeners: aqueduct_rest::check_listeners(&config.listeners, &config.rest)?,
        admin: match config.rest.admin_listeners.as_deref() {
            None => None,
            Some([]) => Some(Vec::new()),
            Some(listeners) => Some(aqueduct_rest::check_listeners(listeners, &config.rest.of_admin())?),
        },
        admin_tls: config.rest.admin_tls.clone().map(Tls::open).transpose()?.map(Arc::new),
        users: config.rest.users.as_deref().map(Users::open).transpose()?.map(Arc::new),
        tls: config.rest.tls.clone().map(Tls::open).transpose()?.map(Arc::new),
    };
    let mut plugins = wiring::Plugins::new(&config);
    tell(plugins.as_mut().and_then(wiring::Plugins::look).unwrap_or_default());
    raise_open_files();
    // Two runtimes: no call of a connector can hold up REST (invariant 10).
    let control = runtime("control", CONTROL_THREADS)?;
    let data = runtime("data", std::thread::available_parallelism().map_or(2, usize::from))?;
    let outcome = control.block_on(serve(config, plugins, access, data.handle().clone(), args.log_format, loggers));
    // What does not end by itself (a plugin that hangs) must not keep the process.
    data.shutdown_background();
    control.shutdown_background();
    outcome
}

fn runtime(name: &'static str, threads: usize) -> Outcome<Runtime> {
    let count = AtomicUsize::new(0);
    let named = move || format!("{name}-{}", count.fetch_add(1, Ordering::Relaxed));
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name_fn(named)
        .enable_all()
        .build();
    built.map_err(|error| Failure::failed(format!("cannot start threads: {error}")))
}

/// As many as the system allows: each tailed file and each segment holds one. A failure is only told, since few may do.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => tracing::debug!(?before, now = ?limit.current, "open files"),
        Err(error) => tracing::warn!(%error, ?before, "the limit of open files cannot be raised"),
    }
}

/// Who reaches REST, and how.
struct Access {
    listeners: Vec<Listener>,
    /// `admin.listeners`: `None`, and those before answer `/admin` too.
    admin: Option<Vec<Listener>>,
    users: Option<Arc<Users>>,
    tls: Option<Arc<Tls>>,
    /// Of the listeners of `/admin`.
    admin_tls: Option<Arc<Tls>>,
}

async fn serve(
    config: WorkerConfig,
    plugins: Option<wiring::Plugins>,
    access: Access,
    data: tokio::runtime::Handle,
    format: logging::Format,
    loggers: Arc<loggers::Loggers>,
) -> Outcome {
    let mut signals = Signals::new()?;
    // REST is there before anything else: it says `starting` until the log is open.
    let serves = if access.admin.is_some() { Serves::NoAdmin } else { Serves::All };
    let mut listeners = aqueduct_rest::bind(&access.listeners, serves, access.tls.as_ref()).await?;
    let bound: Vec<Listener> = listeners.iter().filter_map(aqueduct_rest::Bound::listener).collect();
    let admin = access.admin.as_deref().unwrap_or_default();
    listeners.extend(aqueduct_rest::bind(admin, Serves::Admin, access.admin_tls.as_ref()).await?);
    let (publish, published) = watch::channel(None);
    let (say, starting) = watch::channel(None);
    let stop_rest = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let router = aqueduct_rest::router(published, rest_options(&config, access.users, loggers, starting));
    tasks.spawn(aqueduct_rest::serve(listeners, router, stop_rest.clone()));
    let started = tokio::select! {
        worker = start_patiently(&config, &bound, data, &say) => worker.map(Some),
        name = signals.next() => {
            tracing::info!("{name} while starting: nothing ran yet");
            Ok(None)
        }
    };
    let worker = match started {
        Ok(Some(worker)) => worker,
        ended => {
            stop_rest.cancel();
            tasks.shutdown().await;
            return ended.map(drop);
        }
    };
    publish.send_replace(Some(worker.clone()));
    let mut watching = JoinSet::new();
    if let Some(plugins) = plugins {
        watching.spawn(follow_plugins(worker.clone(), plugins));
    }
    let greeting =
        banner::Place { rest: bound, data: wiring::data_place(&config), connectors_dir: config.connectors_dir.clone() };
    watching.spawn(follow_folder(worker.clone(), config.connectors_dir.clone(), config.connectors_dir_prune, greeting, format));
    let name = signals.next().await;
    tracing::info!("{name}: draining, at most {:?}; a second signal ends it at once", config.shutdown_timeout);
    watching.shutdown().await;
    let outcome = drain(&worker, &mut signals, config.shutdown_timeout + CLOSE_GRACE).await;
    drop(publish);
    stop_rest.cancel();
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        _ = signals.next() => {}
    }
    outcome
}

/// A broker may come later: REST says meanwhile what is missing. What cannot pass by itself (a wrong password, a topic that is not compacted) ends the worker.
async fn start_patiently(
    config: &WorkerConfig,
    bound: &[Listener],
    data: tokio::runtime::Handle,
    say: &watch::Sender<Option<String>>,
) -> Outcome<Worker> {
    loop {
        let error = match start(config, bound, data.clone()).await {
            Ok(worker) => return Ok(worker),
            // The disk of this machine is there or it is not.
            Err(error) if !error.is_retriable() || config.kafka.is_none() => return Err(error.into()),
            Err(error) => error,
        };
        let why = error.hint().map_or_else(|| error.to_string(), |hint| format!("{error}; {hint}"));
        if say.borrow().as_ref() != Some(&why) {
            tracing::error!("the worker cannot start yet and tries again every {START_PAUSE:?}: {why}");
            say.send_replace(Some(why));
        }
        tokio::time::sleep(START_PAUSE).await;
    }
}

async fn start(config: &WorkerConfig, bound: &[Listener], data: tokio::runtime::Handle) -> aqueduct_core::Result<Worker> {
    let (log, cluster_id) = wiring::worker_log(config).await?;
    let options = WorkerOptions {
        worker_id: worker_id(config, bound),
        cluster_id,
        shutdown_timeout: config.shutdown_timeout,
        defaults: Arc::new(wiring::defaults(config)),
        topic_tracking: config.topic_tracking,
        topic_tracking_reset: config.topic_tracking_reset,
        data,
    };
    let worker = Worker::new(options, wiring::registry(), log.clone());
    if let Err(error) = worker.start().await {
        // It holds connections, or a lock on files.
        if let Err(unclosed) = log.close().await {
            tracing::debug!("after a start that failed: {unclosed}");
        }
        return Err(error);
    }
    Ok(worker)
}

/// `host:port` under which clients know this worker.
fn worker_id(config: &WorkerConfig, bound: &[Listener]) -> String {
    let wanted = bound.iter().find(|listener| config.rest.advertised_tls.is_none_or(|tls| listener.tls == tls));
    let Some(known) = wanted.or(bound.first()) else { return "127.0.0.1".to_owned() };
    let mut address = known.address;
    address.set_port(config.rest.advertised_port.unwrap_or(address.port()));
    config.advertised_host.as_ref().map_or_else(|| address.to_string(), |host| format!("{host}:{}", address.port()))
}

fn rest_options(
    config: &WorkerConfig,
    users: Option<Arc<Users>>,
    loggers: Arc<loggers::Loggers>,
    starting: watch::Receiver<Option<String>>,
) -> RestOptions {
    let mut listener_names = aqueduct_rest::listener_names(&config.listeners);
    listener_names.extend(config.rest.admin_listeners.iter().flat_map(|admin| aqueduct_rest::listener_names(admin)));
    RestOptions {
        users,
        health_public: config.rest.health_public,
        rates: aqueduct_rest::Rates::new(config.rest.rate_limit).map(Arc::new),
        traced: config.telemetry.is_some(),
        advertised_host: config.advertised_host.clone(),
        listener_names,
        headers: config.rest.headers.clone(),
        allow_origin: config.allow_origin.clone(),
        allow_methods: config.allow_methods.clone(),
        other_plugins: Some(other_plugins),
        logging: Some(loggers),
        starting: Some(starting),
    }
}

async fn follow_folder(worker: Worker, dir: Option<PathBuf>, prune: bool, place: banner::Place, format: logging::Format) {
    let mut folder = dir.map(|dir| Folder::new(worker.clone(), dir, prune));
    if let Some(folder) = &mut folder {
        folder.sync().await;
    }
    if format == logging::Format::Text {
        // A terminal that is gone is no reason to stop.
        let _ = crate::output::print(&banner::text(&worker, &place));
    }
    tracing::info!(connectors = worker.connectors().len(), rest = %banner::url(&place.rest), "the worker is up");
    if let Some(folder) = folder {
        folder.run().await;
    }
}

/// What is put into `plugin.path`, or changes there, is for the connectors that use it at once.
async fn follow_plugins(worker: Worker, mut plugins: wiring::Plugins) {
    loop {
        tokio::time::sleep(PLUGINS_PAUSE).await;
        let look = move || {
            let issues = plugins.look();
            (plugins, issues)
        };
        let Ok((back, issues)) = tokio::task::spawn_blocking(look).await else { return };
        plugins = back;
        if let Some(issues) = issues {
            tracing::info!(plugins = wiring::registry().plugins().len(), "plugin.path has changed");
            tell(issues);
            worker.plugins_changed().await;
        }
    }
}

fn tell(issues: Vec<Issue>) {
    for issue in issues {
        if issue.is_error() { tracing::error!("{issue}") } else { tracing::warn!("{issue}") }
    }
}

async fn drain(worker: &Worker, signals: &mut Signals, deadline: Duration) -> Outcome {
    tokio::select! {
        ended = tokio::time::timeout(deadline, worker.shutdown()) => match ended {
            Ok(Ok(())) => {
                tracing::info!("drained and closed");
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Failure::failed(format!("not everything ended within {deadline:?}; what was not committed is read again"))
                .fix("raise task.shutdown.graceful.timeout.ms, or look which task hangs in the log")),
        },
        name = signals.next() => Err(Failure::failed(format!("second {name}: ended at once; what was not committed is read again"))),
    }
}

/// What `GET /connector-plugins?connectorsOnly=false` lists beside the connectors.
fn other_plugins() -> Vec<OtherPlugin> {
    let plugin = |(part, kind): (PartDescriptor, &str)| OtherPlugin {
        class: part.class.to_owned(),
        kind: kind.to_owned(),
        version: part.version.to_owned(),
        aliases: part.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        options: part.options,
    };
    wiring::parts().into_iter().map(plugin).collect()
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Outcome<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_config::{SourceConnector, plugin};
    use aqueduct_core::{Polled, Result, SourceOffset, SourceTask, TaskContext, TaskSpec};
    use aqueduct_log::memory::MemoryLog;
    use aqueduct_worker::{ConfigMap, Registry, State, TargetState};
    use async_trait::async_trait;
    use rustix::process::{Signal as Number, getpid, kill_process};
    use schemars::JsonSchema;
    use serde::Deserialize;

    /// A source that heeds nothing.
    struct Hangs;

    #[derive(Deserialize, JsonSchema)]
    struct NoOptions {}

    #[async_trait]
    impl SourceTask for Hangs {
        async fn poll(&mut self, _: &TaskContext) -> Result<Polled> {
            std::future::pending().await
        }
    }

    #[async_trait]
    impl SourceConnector for Hangs {
        type Config = NoOptions;
        type Task = Hangs;
        const NAME: &'static str = "hangs-source";
        const SUMMARY: &'static str = "Hangs.";

        async fn open(_: NoOptions, _: TaskSpec, _: Vec<SourceOffset>) -> Result<Hangs> {
            Ok(Hangs)
        }
    }

    async fn hanging() -> Worker {
        let options = WorkerOptions {
            worker_id: "w".into(),
            cluster_id: "c".into(),
            shutdown_timeout: Duration::from_secs(600),
            defaults: Arc::default(),
            topic_tracking: true,
            topic_tracking_reset: true,
            data: tokio::runtime::Handle::current(),
        };
        let worker = Worker::new(options, Registry::new(vec![plugin::source::<Hangs>()]), Arc::new(MemoryLog::new()));
        worker.start().await.unwrap();
        let config = ConfigMap::from([("connector.class".to_owned(), "hangs-source".to_owned())]);
        worker.create("h", config, TargetState::Started).await.unwrap();
        let begin = std::time::Instant::now();
        while worker.status("h").unwrap().tasks.first().is_none_or(|task| task.state != State::Running) {
            assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", worker.status("h"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        worker
    }

    #[tokio::test]
    async fn a_second_signal_ends_a_drain_that_hangs() {
        let (worker, mut signals) = (hanging().await, Signals::new().unwrap());
        let raise = async { kill_process(getpid(), Number::INT).unwrap() };
        let (outcome, ()) = tokio::join!(drain(&worker, &mut signals, Duration::from_secs(600)), raise);
        let failure = outcome.unwrap_err();
        assert!(failure.text().contains("second SIGINT"), "{}", failure.text());
    }

    #[tokio::test]
    async fn a_drain_has_an_end() {
        let (worker, mut signals) = (hanging().await, Signals::new().unwrap());
        let failure = drain(&worker, &mut signals, Duration::from_millis(20)).await.unwrap_err();
        // The other test's signal comes to this one too, when they run at once.
        assert!(
            failure.text().contains("task.shutdown.graceful.timeout.ms") || failure.text().contains("second"),
            "{}",
            failure.text()
        );
    }
}
