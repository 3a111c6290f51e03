//! `/connector-plugins`: what plugins there are, what they can be told, and whether a config is right, in Kafka's `ConfigDef` shapes.

use crate::body::{Body, Names, Params, RawConfig, config as flat};
use crate::schemas::{self, PluginPath};
use crate::{ApiError, ApiResult, App, Ready};
use aqueduct_core::{Descriptor, OptionKind, OptionSpec, PluginKind};
use aqueduct_worker::{ConfigMap, Validation};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

/// A converter, transform or predicate, for `GET /connector-plugins?connectorsOnly=false` and its options.
#[derive(Clone, Debug)]
pub struct OtherPlugin {
    pub class: String,
    /// `converter`, `header_converter`, `transformation` or `predicate`.
    pub kind: String,
    pub version: String,
    /// Also found by the last part of `class`.
    pub aliases: Vec<String>,
    pub options: Vec<OptionSpec>,
}

impl OtherPlugin {
    fn is_called(&self, class: &str) -> bool {
        self.class == class || self.class.rsplit('.').next() == Some(class) || self.aliases.iter().any(|alias| alias == class)
    }
}

impl App {
    fn other_plugins(&self) -> impl Iterator<Item = OtherPlugin> {
        self.options.other_plugins.into_iter().flat_map(|plugins| plugins())
    }
}

/// A plugin that there is.
#[derive(Serialize, ToSchema)]
pub(crate) struct PluginInfo {
    class: String,
    /// `source`, `sink`, `converter`, `header_converter`, `transformation` or `predicate`.
    #[serde(rename = "type")]
    kind: String,
    version: String,
    /// Ours; of sources and sinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    aqueduct: Option<PluginNames>,
}

#[derive(Serialize, ToSchema)]
struct PluginNames {
    /// Java classes and short names that mean this plugin.
    aliases: Vec<String>,
    /// One sentence.
    summary: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the document's: read by `Params`")]
pub(crate) struct PluginsQuery {
    /// `false`: converters, transforms and predicates too. What is not `true` is false, as in Kafka Connect.
    #[param(rename = "connectorsOnly", example = "false")]
    connectors_only: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the document's: read by `Params`")]
pub(crate) struct VersionQuery {
    /// Of several versions of a connector plugin: one, a range such as `[1.0,2.0)`, or the newest.
    #[param(example = "latest")]
    version: Option<String>,
}

/// The plugins that there are
#[utoipa::path(get, path = "/connector-plugins", operation_id = "list_plugins", tag = "Plugins", params(PluginsQuery), responses(
    (status = 200, description = "The plugins", body = Vec<PluginInfo>)))]
pub(crate) async fn list(State(app): State<App>, Ready(worker): Ready, params: Params) -> Json<Vec<PluginInfo>> {
    let mut plugins: Vec<PluginInfo> = worker.plugins().into_iter().map(about).collect();
    if !params.flag("connectorsOnly", true) {
        plugins.extend(app.other_plugins().map(|OtherPlugin { class, kind, version, .. }| PluginInfo {
            class,
            kind,
            version,
            aqueduct: None,
        }));
    }
    Json(plugins)
}

/// Everything that sources and sinks say of themselves
#[utoipa::path(get, path = "/aqueduct/v1/plugins", operation_id = "describe_plugins", tag = "Plugins", responses(
    (status = 200, description = "The plugins with their options", body = Vec<schemas::Descriptor>)))]
pub(crate) async fn descriptors(Ready(worker): Ready) -> Json<Vec<Descriptor>> {
    Json(worker.plugins())
}

/// The options of a plugin
///
/// A connector's own options and the common ones; the own ones of a converter, transform or predicate.
#[utoipa::path(get, path = "/connector-plugins/{plugin}/config", operation_id = "plugin_config", tag = "Plugins", params(PluginPath, VersionQuery), responses(
    (status = 200, description = "The options", body = Vec<ConfigKey>),
    (status = 400, description = "The plugin is there, but not in this version"),
    (status = 404, description = "No such plugin")))]
pub(crate) async fn config(
    State(app): State<App>,
    Ready(worker): Ready,
    Names(class): Names<String>,
    params: Params,
) -> ApiResult<Json<Vec<ConfigKey>>> {
    let version = params.get("version").unwrap_or("latest");
    let name = match worker.plugin(&class, Some(version)) {
        Ok(plugin) => plugin.name,
        Err(unknown) => {
            let other = app.other_plugins().find(|plugin| plugin.is_called(&class));
            return other.map(|plugin| Json(keys(&plugin.options))).ok_or_else(|| unknown.into());
        }
    };
    let config = [("connector.class", name.as_str()), ("connector.plugin.version", version)];
    let config: ConfigMap = config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Ok(Json(keys(&worker.validate(&name, &config)?.options)))
}

/// Whether a config is right
///
/// Nothing is made or changed, and nothing is connected to. Errors are in the answer.
#[utoipa::path(put, path = "/connector-plugins/{plugin}/config/validate", operation_id = "validate_config", tag = "Plugins", params(PluginPath), request_body = schemas::PatchConfig, responses(
    (status = 200, description = "Each option with its value and what is wrong with it", body = ConfigInfos),
    (status = 400, description = "The config is of another plugin"),
    (status = 404, description = "No such plugin")))]
pub(crate) async fn validate(
    Ready(worker): Ready,
    Names(class): Names<String>,
    Body(raw): Body<RawConfig>,
) -> ApiResult<Json<ConfigInfos>> {
    let mut config = flat(raw)?;
    let plugin = worker.plugin(&class, None)?;
    match config.get("connector.class") {
        Some(included) if !plugin.is_called(included) => {
            return Err(ApiError::bad_request(format!("Included connector type {included} does not match request type {class}")));
        }
        Some(_) => {}
        None => {
            config.insert("connector.class".into(), plugin.name.clone());
        }
    }
    let validation = worker.validate(&plugin.name, &config)?;
    // By the name that the config calls it.
    let class = config.get("connector.class").cloned().unwrap_or(plugin.name);
    Ok(Json(ConfigInfos::new(Validation { class, ..validation }, &config)))
}

fn about(Descriptor { name, aliases, kind, version, summary, .. }: Descriptor) -> PluginInfo {
    let kind = match kind {
        PluginKind::Source => "source",
        PluginKind::Sink => "sink",
    };
    PluginInfo { class: name, kind: kind.to_owned(), version, aqueduct: Some(PluginNames { aliases, summary }) }
}

/// A config with what is wrong with it: Kafka Connect's `ConfigInfos`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConfigInfos {
    name: String,
    error_count: usize,
    groups: Vec<String>,
    configs: Vec<ConfigEntry>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ConfigEntry {
    definition: ConfigKey,
    value: ConfigValue,
}

/// An option: Kafka Connect's `ConfigKeyInfo`. `order` is its name up to 4.0, `order_in_group` the one since: clients read the one or the other.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ConfigKey {
    name: String,
    #[serde(rename = "type")]
    #[schema(value_type = schemas::OptionKind)]
    kind: OptionKind,
    required: bool,
    #[schema(required = true)]
    default_value: Option<String>,
    #[schema(value_type = schemas::Importance)]
    importance: aqueduct_core::plugin::Importance,
    documentation: String,
    group: String,
    /// How wide a field for it is: `SHORT`, `MEDIUM` or `LONG`.
    width: &'static str,
    display_name: String,
    dependents: Vec<String>,
    order: usize,
    order_in_group: usize,
}

/// The value of an option; of a secret `[hidden]`.
#[derive(Debug, Serialize, ToSchema)]
struct ConfigValue {
    name: String,
    #[schema(required = true)]
    value: Option<String>,
    recommended_values: Vec<String>,
    errors: Vec<String>,
    visible: bool,
}

impl ConfigInfos {
    /// `config` has `connector.class`: issues of the whole config stand there.
    fn new(validation: Validation, config: &ConfigMap) -> Self {
        let errors = |name: &str| -> Vec<String> {
            let about = |path: &str| path == name || (path.is_empty() && name == "connector.class");
            let issues = validation.issues.iter().filter(|issue| issue.is_error() && about(&issue.path));
            issues
                .map(|issue| issue.fix.as_ref().map_or_else(|| issue.message.clone(), |fix| format!("{}; {fix}", issue.message)))
                .collect()
        };
        // A family (`transforms.*`) stands for the keys that the config has of it.
        let single = |spec: &&OptionSpec| !spec.name.ends_with(".*");
        let mut configs: Vec<ConfigEntry> = Vec::new();
        for (spec, key) in validation.options.iter().zip(keys(&validation.options)).filter(|(spec, _)| single(spec)) {
            let hidden = |text: String| if spec.kind == OptionKind::Password { "[hidden]".to_owned() } else { text };
            let value = config.get(&spec.name).cloned().or_else(|| spec.default.clone()).map(hidden);
            let name = spec.name.clone();
            let value =
                ConfigValue { errors: errors(&name), name, value, recommended_values: spec.allowed.clone(), visible: true };
            configs.push(ConfigEntry { definition: key, value });
        }
        let mut others: Vec<&str> =
            config.keys().map(String::as_str).chain(validation.issues.iter().map(|issue| issue.path.as_str())).collect();
        let mut seen = std::collections::HashSet::new();
        others
            .retain(|name| !name.is_empty() && seen.insert(*name) && !configs.iter().any(|entry| entry.definition.name == *name));
        for name in others {
            let family =
                validation.options.iter().find(|spec| spec.name.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix)));
            let errors = errors(name);
            // Unknown keys that nothing is wrong with are not Kafka's business either.
            if family.is_none() && errors.is_empty() {
                continue;
            }
            let password = family.is_none_or(|spec| spec.kind == OptionKind::Password);
            let value = config.get(name).map(|text| if password { "[hidden]".to_owned() } else { text.clone() });
            let order = configs.len() + 1;
            configs.push(ConfigEntry {
                definition: ConfigKey { order, order_in_group: order, ..key_for(name, family) },
                value: ConfigValue { name: name.to_owned(), value, recommended_values: Vec::new(), errors, visible: true },
            });
        }
        let mut groups: Vec<String> = Vec::new();
        for entry in &configs {
            if !groups.contains(&entry.definition.group) {
                groups.push(entry.definition.group.clone());
            }
        }
        let error_count = configs.iter().map(|entry| entry.value.errors.len()).sum();
        Self { name: validation.class, error_count, groups, configs }
    }
}

/// The order counts within each group, from 1.
fn keys(options: &[OptionSpec]) -> Vec<ConfigKey> {
    let mut orders = std::collections::HashMap::<&str, usize>::new();
    let mut keys = Vec::with_capacity(options.len());
    for spec in options {
        let next = orders.entry(spec.group.as_str()).or_insert(0);
        *next += 1;
        let key = ConfigKey { order: *next, order_in_group: *next, ..key(spec) };
        let of_kafka = KAFKAS.iter().find(|option| option.name == spec.name);
        keys.push(of_kafka.map_or(key.clone(), |of| ConfigKey {
            kind: of.kind,
            width: of.width,
            display_name: of.display_name.to_owned(),
            order: of.order,
            order_in_group: of.order,
            ..key
        }));
    }
    keys
}

/// How Kafka Connect shows an option that every connector has: user interfaces are built from this.
struct KafkasOption {
    name: &'static str,
    kind: OptionKind,
    order: usize,
    width: &'static str,
    display_name: &'static str,
}

/// `ConnectorConfig`, `SourceConnectorConfig` and `SinkConnectorConfig` of Kafka Connect 4.3.
const KAFKAS: &[KafkasOption] = &[
    kafkas("name", OptionKind::String, 1, "MEDIUM", "Connector name"),
    kafkas("connector.class", OptionKind::String, 2, "LONG", "Connector class"),
    kafkas("connector.plugin.version", OptionKind::String, 3, "MEDIUM", "Connector version"),
    kafkas("tasks.max", OptionKind::Int, 4, "SHORT", "Tasks max"),
    kafkas("tasks.max.enforce", OptionKind::Boolean, 5, "SHORT", "Enforce tasks max"),
    kafkas("key.converter", OptionKind::Class, 6, "SHORT", "Key converter class"),
    kafkas("value.converter", OptionKind::Class, 8, "SHORT", "Value converter class"),
    kafkas("header.converter", OptionKind::Class, 10, "SHORT", "Header converter class"),
    kafkas("transforms", OptionKind::List, 12, "LONG", "Transforms"),
    kafkas("predicates", OptionKind::List, 13, "LONG", "Predicates"),
    kafkas("config.action.reload", OptionKind::String, 14, "MEDIUM", "Reload Action"),
    kafkas("errors.retry.timeout", OptionKind::Long, 1, "MEDIUM", "Retry Timeout for Errors"),
    kafkas("errors.retry.delay.max.ms", OptionKind::Long, 2, "MEDIUM", "Maximum Delay Between Retries for Errors"),
    kafkas("errors.tolerance", OptionKind::String, 3, "SHORT", "Error Tolerance"),
    kafkas("errors.log.enable", OptionKind::Boolean, 4, "SHORT", "Log Errors"),
    kafkas("errors.log.include.messages", OptionKind::Boolean, 5, "SHORT", "Log Error Details"),
    kafkas("errors.deadletterqueue.topic.name", OptionKind::String, 6, "MEDIUM", "Dead Letter Queue Topic Name"),
    kafkas(
        "errors.deadletterqueue.topic.replication.factor",
        OptionKind::Short,
        7,
        "MEDIUM",
        "Dead Letter Queue Topic Replication Factor",
    ),
    kafkas("errors.deadletterqueue.context.headers.enable", OptionKind::Boolean, 8, "MEDIUM", "Enable Error Context Headers"),
    kafkas("topics", OptionKind::List, 4, "LONG", "Topics"),
    kafkas("topics.regex", OptionKind::String, 4, "LONG", "Topics regex"),
    kafkas("topic.creation.groups", OptionKind::List, 1, "LONG", "Topic Creation Groups"),
    kafkas("exactly.once.support", OptionKind::String, 2, "SHORT", "Exactly once support"),
    kafkas("transaction.boundary", OptionKind::String, 3, "SHORT", "Transaction Boundary"),
    kafkas("transaction.boundary.interval.ms", OptionKind::Long, 4, "SHORT", "Transaction boundary interval"),
    kafkas("offsets.storage.topic", OptionKind::String, 1, "LONG", "Offsets topic"),
];

const fn kafkas(
    name: &'static str,
    kind: OptionKind,
    order: usize,
    width: &'static str,
    display_name: &'static str,
) -> KafkasOption {
    KafkasOption { name, kind, order, width, display_name }
}

fn key(spec: &OptionSpec) -> ConfigKey {
    ConfigKey {
        name: spec.name.clone(),
        kind: spec.kind,
        required: spec.required,
        default_value: spec.default.clone(),
        importance: spec.importance,
        documentation: spec.documentation.clone(),
        group: spec.group.clone(),
        width: match spec.kind {
            OptionKind::Boolean | OptionKind::Int | OptionKind::Short | OptionKind::Double => "SHORT",
            OptionKind::List | OptionKind::Class => "LONG",
            OptionKind::Long | OptionKind::Password | OptionKind::String => "MEDIUM",
        },
        display_name: spec.name.clone(),
        dependents: Vec::new(),
        order: 0,
        order_in_group: 0,
    }
}

/// A definition for a key that has none of its own: Kafka answers null there, which generated clients trip over.
fn key_for(name: &str, family: Option<&OptionSpec>) -> ConfigKey {
    let unknown = OptionSpec {
        name: String::new(),
        kind: OptionKind::String,
        required: false,
        default: None,
        importance: aqueduct_core::plugin::Importance::Low,
        documentation: String::new(),
        group: "Unknown".into(),
        format: None,
        allowed: Vec::new(),
        example: None,
    };
    ConfigKey {
        name: name.to_owned(),
        display_name: name.to_owned(),
        required: false,
        default_value: None,
        ..key(family.unwrap_or(&unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::Issue;
    use aqueduct_core::plugin::Importance;
    use aqueduct_worker::ConnectorType;
    use serde_json::{Value, json};

    fn option(name: &str, kind: OptionKind, group: &str) -> OptionSpec {
        OptionSpec {
            name: name.into(),
            kind,
            required: name == "file",
            default: (name == "tasks.max").then(|| "1".into()),
            importance: Importance::High,
            documentation: "Says.".into(),
            group: group.into(),
            format: None,
            allowed: Vec::new(),
            example: None,
        }
    }

    fn infos(config: &[(&str, &str)], issues: Vec<Issue>) -> Value {
        let options = vec![
            option("file", OptionKind::String, "File"),
            option("password", OptionKind::Password, "File"),
            option("tasks.max", OptionKind::Int, "Common"),
            option("transforms.*", OptionKind::String, "Transforms"),
        ];
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        json!(ConfigInfos::new(Validation { class: "file-source".into(), kind: ConnectorType::Source, options, issues }, &config))
    }

    #[test]
    fn a_validation_has_kafkas_shape() {
        let answer =
            infos(&[], vec![Issue::error("file", "config.required", "Missing required configuration \"file\"").fix("set it")]);
        assert_eq!(
            (&answer["name"], &answer["error_count"], &answer["groups"]),
            (&json!("file-source"), &json!(1), &json!(["File", "Common"]))
        );
        let expected = json!({
            "definition": {"name": "file", "type": "STRING", "required": true, "default_value": null, "importance": "HIGH",
                "documentation": "Says.", "group": "File", "width": "MEDIUM", "display_name": "file", "dependents": [], "order": 1, "order_in_group": 1},
            "value": {"name": "file", "value": null, "recommended_values": [],
                "errors": ["Missing required configuration \"file\"; set it"], "visible": true},
        });
        assert_eq!(answer["configs"][0], expected);
        assert_eq!(answer["configs"][1]["definition"]["order"], 2);
        assert_eq!(answer["configs"][2]["value"]["value"], "1");
        let names: Vec<&String> = answer["configs"][0]["definition"].as_object().unwrap().keys().collect();
        assert_eq!(names[names.len() - 2..], ["order", "order_in_group"]);
        let common = &answer["configs"][2]["definition"];
        assert_eq!((&common["display_name"], &common["order_in_group"]), (&json!("Tasks max"), &json!(4)));
    }

    #[test]
    fn families_unknown_keys_and_whole_file_issues_find_a_place() {
        let issues = vec![
            Issue::error("fil", "config.unknown_key", "unknown option"),
            Issue::error("", "config.class", "no such class"),
            Issue::warning("x", "config.unused", "not used"),
        ];
        let answer = infos(&[("fil", "/x"), ("transforms.a.type", "Filter"), ("connector.class", "f")], issues);
        let found: Vec<(&str, &Value)> = answer["configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| (entry["value"]["name"].as_str().unwrap(), &entry["value"]["errors"]))
            .collect();
        assert_eq!(
            found[3..],
            [
                ("fil", &json!(["unknown option"])),
                ("transforms.a.type", &json!([])),
                ("connector.class", &json!(["no such class"]))
            ]
        );
        assert_eq!(answer["error_count"], 2);
    }

    #[test]
    fn secrets_are_not_echoed() {
        let answer = infos(
            &[("password", "hunter2"), ("pasword", "hunter2")],
            vec![Issue::error("pasword", "config.unknown_key", "unknown option")],
        );
        assert!(!answer.to_string().contains("hunter2"));
        assert_eq!(answer["configs"][1]["value"]["value"], "[hidden]");
    }
}
