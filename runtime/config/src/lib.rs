//! YAML and JSON to the flat connector config, typed options, secrets, and every issue with its place.
//!
//! ```text
//! text ─document::read─► tree ─flatten─► Flat (key → text, place of each) ─check─► issues, settings, plugin      (touches nothing)
//!                                                        └─Providers::resolve─► Resolved (Options with secrets) ─► Plugin::open
//! ```
//!
//! **For connectors**: [`SourceConnector`], [`SinkConnector`], [`plugin::source`], [`plugin::sink`], [`parse`], the option types
//! ([`Millis`], [`ByteSize`], [`GlobList`], [`Regex`], [`Secret`], …).
//!
//! **Files to connectors** (folder, `aqueduct validate`):
//! - [`connector_documents`]`(file, text) -> Result<Vec<ConnectorDocument { name, flat: Flat, warnings }>, Vec<Issue>>`: all or nothing.
//!   [`read_connectors`]: what could be read, and every issue.
//! - `Flat { entries: IndexMap<String, String>, … }`, [`Flat::location`]`(key) -> Option<Location>`, [`Flat::locate`]`(&mut issues)`;
//!   `Flat::from(IndexMap)` for a config that came over REST.
//!
//! **Checks** (`check`): touch nothing but the references that worker.yaml allows.
//! - `Check { find: &dyn Fn(&str) -> Option<Plugin>, names: Vec<String>, parts: &dyn Fn(&Options) -> Vec<Issue>, defaults: &ConnectorDefaults,
//!   providers: &Providers, unknown_keys: UnknownKeys::{Error, Warn} }`; `names` are all names and aliases, for "did you mean"; `parts` gives every
//!   issue below `transforms`, `predicates` and `{key,value,header}.converter` (what `transforms::{Chain, Converters, unknown_keys}` say).
//! - `Check::run(&self, &Flat) -> Checked { issues: Vec<Issue>, plugin: Option<Plugin>, settings: Option<ConnectorSettings> }`; issues have places, come
//!   in the order of the file, and show no secret. `settings` is of the resolved config: not for keeping.
//! - Without secrets, for what the supervisor keeps: `ConnectorSettings::parse` of the unresolved map.
//!
//! **What every connector has** (`settings`):
//! - `ConnectorSettings::parse(PluginKind, &Options, &ConnectorDefaults) -> Result<ConnectorSettings, Vec<Issue>>`
//! - `ConnectorSettings { name, class: String, tasks_max: u32, key_converter, value_converter, header_converter: ConverterSettings { class, options },
//!   errors: Errors { tolerate, retry_timeout: Option<Duration>, retry_delay_max, log,
//!   log_messages, dead_letter_queue: Option<DeadLetterQueue { topic, replication_factor: i16, context_headers }> },
//!   restart: Restart { initial, max: Duration, attempts_max: u32 }, limits: Limits { buffer_bytes, batch_bytes, batch_records: usize,
//!   stall_timeout, flush_interval: Duration }, role: Role::{Source(SourceSettings), Sink(SinkSettings)} }`
//! - `SourceSettings { exactly_once: ExactlyOnce, topic_creation: TopicCreation { default: TopicSettings { partitions: i32, replication_factor: i16,
//!   configs: BTreeMap }, groups: Vec<TopicGroup { name, include, exclude: Vec<Regex> (whole names), topic: TopicSettings }> } }`
//! - `SinkSettings { topics: aqueduct_core::Topics }`
//! - `settings::options(PluginKind) -> Vec<OptionSpec>`: the options above, for REST and the reference.
//!
//! **Secrets** (`providers`): `Providers` (cheap to clone; `Providers::default()` allows nothing, `Providers::open()` everything),
//! `Providers::resolve(&IndexMap<String, String>) -> Result<Resolved>` at the start of a task, `Resolved { options: Options }`,
//! `Resolved::secrets() -> &[String]`, `Resolved::redact(String) -> String`; `Providers::check(&Flat) -> Vec<Issue>`.
//!
//! **The worker's own file** (`worker_config`): `WorkerConfig::load(file: Option<(&str name, &str text)>, set: &[(String, String)],
//! env: impl IntoIterator<Item = (String, String)>) -> Result<WorkerConfig, Vec<Issue>>`; file < environment (`AQUEDUCT_DATA_DIR` is `data.dir`) <
//! `--set`. `WorkerConfig { listeners: Vec<String>, plugin_path: Vec<PathBuf>, data_dir: PathBuf, connectors_dir: Option<PathBuf>,
//! connectors_dir_prune: bool, group_id: String, shutdown_timeout: Duration, topic_tracking, topic_tracking_reset: bool,
//! advertised_host: Option<String>, allow_origin, allow_methods: String, defaults: ConnectorDefaults, providers: Providers, warnings: Vec<Issue> }`.
//!
//! **For people**: `render::render(&[Issue], &dyn Fn(&str file) -> Option<String text>, Style::{Plain, Coloured}) -> String`,
//! `example::yaml(&Descriptor) -> String`, `reference::markdown(&[OptionSpec]) -> String`.

pub mod check;
pub mod connector;
pub mod connector_file;
pub mod database_url;
pub mod document;
pub mod dynamic;
pub mod example;
pub mod flatten;
pub mod kafka_security;
pub mod list;
pub mod nearest;
pub mod options;
pub mod plugin;
pub mod providers;
pub mod reference;
pub mod render;
pub mod settings;
pub mod shape;
pub mod types;
pub mod version;
pub mod worker_config;

pub use check::{Check, Checked, UnknownKeys};
pub use connector::{SinkConnector, SourceConnector};
pub use connector_file::{ConnectorDocument, connector_documents, read_connectors};
pub use database_url::{DatabaseUrl, TlsMode};
pub use document::{Document, read};
pub use flatten::{Flat, flatten};
pub use kafka_security::KafkaSecurity;
pub use nearest::nearest;
pub use options::{from_options, parse};
pub use providers::{Providers, Resolved};
pub use settings::{ConnectorDefaults, ConnectorSettings};
pub use shape::specs;
pub use types::{ByteSize, Charset, Family, Glob, GlobList, List, Millis, PathText, Regex, Secret};
pub use worker_config::WorkerConfig;
