//! `/connectors`: Kafka Connect's `ConnectorsResource`.

use crate::access::Caller;
use crate::body::{Body, Names, Params, RawConfig, config as flat, text, texts};
use crate::schemas::{self, ConnectorPath, TaskPath};
use crate::{ApiError, ApiResult, Ready, known};
use aqueduct_core::Issue;
use aqueduct_worker::{AdminError, ConfigMap, ConnectorInfo, ConnectorStatus, ConnectorTaskId, TargetState, TaskStatus};
use axum::Json;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use utoipa::{IntoParams, ToSchema};

/// What may stand unescaped in a segment of a path (RFC 3986's `pchar`, without `;`, which begins parameters for some servers).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// A connector to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "name": "orders",
    "config": {"connector.class": "datagen-source", "template": "orders", "topic": "orders", "rate": 10},
    "initial_state": "STOPPED"
}))]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateConnector {
    /// Without spaces at its ends and without control characters. A number is taken for its text, as in a config.
    #[schema(value_type = schemas::Scalar, required = true)]
    name: Option<Box<RawValue>>,
    #[schema(value_type = schemas::NewConfig, required = true)]
    config: Option<RawConfig>,
    /// `RUNNING` (which it is without this), `PAUSED` or `STOPPED`, in any case.
    #[schema(pattern = "^([Rr][Uu][Nn][Nn][Ii][Nn][Gg]|[Pp][Aa][Uu][Ss][Ee][Dd]|[Ss][Tt][Oo][Pp][Pp][Ee][Dd])$")]
    initial_state: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TaskInfo {
    #[schema(value_type = schemas::ConnectorTaskId)]
    id: ConnectorTaskId,
    #[schema(value_type = schemas::ConnectorConfig)]
    config: ConfigMap,
}

/// The names; or, with `expand`, an object with an entry for each name.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ConnectorList {
    Names(Vec<String>),
    #[schema(value_type = HashMap<String, Expanded>)]
    Expanded(Map<String, Value>),
}

/// What was asked for of a connector.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the document's: `list` writes it")]
struct Expanded {
    #[schema(nullable = false)]
    status: Option<schemas::ConnectorStatus>,
    #[schema(nullable = false)]
    info: Option<schemas::ConnectorInfo>,
}

/// Topics by the connector's name.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the document's: `topics` writes it")]
pub(crate) struct ActiveTopics(HashMap<String, TopicNames>);

#[derive(ToSchema)]
#[allow(dead_code, reason = "the document's: `topics` writes it")]
struct TopicNames {
    topics: Vec<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the document's: read by `Params`")]
pub(crate) struct ListQuery {
    /// `info`, `status`, or both by giving it twice: an object with these for each connector. Other words add nothing.
    #[param(example = json!(["status"]))]
    expand: Option<Vec<String>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the document's: read by `Params`")]
pub(crate) struct RestartQuery {
    /// Also its tasks. What is not `true` is false, as in Kafka Connect.
    #[param(rename = "includeTasks", example = "true")]
    include_tasks: Option<String>,
    /// Only what failed. What is not `true` is false, as in Kafka Connect.
    #[param(rename = "onlyFailed", example = "true")]
    only_failed: Option<String>,
}

/// The connectors
#[utoipa::path(get, path = "/connectors", operation_id = "list_connectors", tag = "Connectors", params(ListQuery), responses(
    (status = 200, description = "Their names, or what was asked for of each", body = ConnectorList)))]
pub(crate) async fn list(Ready(worker): Ready, caller: Caller, params: Params) -> Json<ConnectorList> {
    let mut names = worker.connectors();
    names.retain(|name| caller.sees(name));
    let expand: Vec<&str> = params.all("expand").collect();
    if expand.is_empty() {
        return Json(ConnectorList::Names(names));
    }
    let mut out = Map::new();
    for name in names {
        let mut entry = Map::new();
        // A connector that is deleted meanwhile is left out, as if it had been deleted before.
        if expand.contains(&"status") {
            let Ok(status) = worker.status(&name) else { continue };
            entry.insert("status".into(), json!(status));
        }
        if expand.contains(&"info") {
            let Ok(info) = worker.connector(&name) else { continue };
            entry.insert("info".into(), json!(info));
        }
        out.insert(name, Value::Object(entry));
    }
    Json(ConnectorList::Expanded(out))
}

/// Make a connector
#[utoipa::path(post, path = "/connectors", operation_id = "create_connector", tag = "Connectors", request_body = CreateConnector, responses(
    (status = 201, description = "It is made; its tasks start", body = schemas::ConnectorInfo,
        headers(("Location" = String, description = "Its path"))),
    (status = 400, description = "The config is not right; the message names every error"),
    (status = 409, description = "There is one of this name")))]
pub(crate) async fn create(ready: Ready, caller: Caller, Body(request): Body<CreateConnector>) -> ApiResult<Response> {
    let (name, config, initial) = to_create(request)?;
    caller.check(&name)?;
    let info = ready.change(|worker| async move { worker.create(&name, config, initial).await }).await?;
    let location = format!("/connectors/{}", utf8_percent_encode(&info.name, SEGMENT));
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(info)).into_response())
}

/// A connector
#[utoipa::path(get, path = "/connectors/{connector}", operation_id = "get_connector", tag = "Connectors", params(ConnectorPath), responses(
    (status = 200, description = "What it is", body = schemas::ConnectorInfo),
    (status = 404, description = "No such connector")))]
pub(crate) async fn info(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConnectorInfo>> {
    Ok(Json(worker.connector(&name)?))
}

/// The config of a connector
///
/// Exactly as it was put: references to secrets are not resolved (invariant 9).
#[utoipa::path(get, path = "/connectors/{connector}/config", operation_id = "get_config", tag = "Connectors", params(ConnectorPath), responses(
    (status = 200, description = "The config", body = schemas::ConnectorConfig),
    (status = 404, description = "No such connector")))]
pub(crate) async fn config(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConfigMap>> {
    Ok(Json(worker.connector(&name)?.config))
}

/// Change a connector, or make it
#[utoipa::path(put, path = "/connectors/{connector}/config", operation_id = "put_config", tag = "Connectors", params(ConnectorPath), request_body = schemas::NewConfig, responses(
    (status = 200, description = "It is changed", body = schemas::ConnectorInfo),
    (status = 201, description = "It is made; its tasks start", body = schemas::ConnectorInfo,
        headers(("Location" = String, description = "Its path"))),
    (status = 400, description = "The config is not right; the message names every error")))]
pub(crate) async fn put_config(ready: Ready, Names(name): Names<String>, Body(raw): Body<RawConfig>) -> ApiResult<Response> {
    let config = named(&name, whole(raw)?)?;
    let (created, info) = ready.change(|worker| async move { worker.put_config(&name, config).await }).await?;
    if !created {
        return Ok(Json(info).into_response());
    }
    let location = format!("/connectors/{}", utf8_percent_encode(&info.name, SEGMENT));
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(info)).into_response())
}

/// Change some options of a connector
///
/// What is null is removed; what is not named stays (KIP-477).
#[utoipa::path(patch, path = "/connectors/{connector}/config", operation_id = "patch_config", tag = "Connectors", params(ConnectorPath), request_body = schemas::PatchConfig, responses(
    (status = 200, description = "It is changed", body = schemas::ConnectorInfo),
    (status = 400, description = "The config would not be right; the message names every error"),
    (status = 404, description = "No such connector")))]
pub(crate) async fn patch_config(
    ready: Ready,
    Names(name): Names<String>,
    Body(raw): Body<RawConfig>,
) -> ApiResult<Json<ConnectorInfo>> {
    let patch = texts(raw)?;
    match patch.get("name") {
        Some(Some(other)) if *other != name => return Err(mismatch(other, &name)),
        Some(None) => {
            let issue = Issue::error("name", "config.required", "cannot be removed").fix("leave it out of the patch");
            return Err(AdminError::InvalidConfig(vec![issue]).into());
        }
        _ => {}
    }
    Ok(Json(ready.change(|worker| async move { worker.patch_config(&name, patch).await }).await?))
}

/// Delete a connector
///
/// Its tasks end. What it read and wrote stays, and so do the offsets.
#[utoipa::path(delete, path = "/connectors/{connector}", operation_id = "delete_connector", tag = "Connectors", params(ConnectorPath), responses(
    (status = 204, description = "It is gone"),
    (status = 404, description = "No such connector")))]
pub(crate) async fn delete(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    ready.change(|worker| async move { worker.delete(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a connector and its tasks are
#[utoipa::path(get, path = "/connectors/{connector}/status", operation_id = "get_status", tag = "Connectors", params(ConnectorPath), responses(
    (status = 200, description = "Its state", body = schemas::ConnectorStatus),
    (status = 404, description = "No such connector")))]
pub(crate) async fn status(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConnectorStatus>> {
    let unknown = unknown(&name, format!("No status found for connector {name}"));
    worker.status(&name).map(Json).map_err(|error| unknown(error.into()))
}

/// Pause a connector
///
/// Its tasks stay open and do nothing.
#[utoipa::path(put, path = "/connectors/{connector}/pause", operation_id = "pause_connector", tag = "Connectors", params(ConnectorPath), responses(
    (status = 202, description = "It will be paused"),
    (status = 404, description = "No such connector")))]
pub(crate) async fn pause(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    set_target(ready, name, TargetState::Paused, StatusCode::ACCEPTED).await
}

/// Let a paused or stopped connector go on
#[utoipa::path(put, path = "/connectors/{connector}/resume", operation_id = "resume_connector", tag = "Connectors", params(ConnectorPath), responses(
    (status = 202, description = "It will run"),
    (status = 404, description = "No such connector")))]
pub(crate) async fn resume(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    set_target(ready, name, TargetState::Started, StatusCode::ACCEPTED).await
}

/// Stop a connector
///
/// Its tasks end; its config and offsets stay.
#[utoipa::path(put, path = "/connectors/{connector}/stop", operation_id = "stop_connector", tag = "Connectors", params(ConnectorPath), responses(
    (status = 204, description = "It will be stopped"),
    (status = 404, description = "No such connector")))]
pub(crate) async fn stop(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    set_target(ready, name, TargetState::Stopped, StatusCode::NO_CONTENT).await
}

async fn set_target(ready: Ready, name: String, target: TargetState, answer: StatusCode) -> ApiResult<StatusCode> {
    let unknown = unknown(&name, format!("Unknown connector {name}"));
    ready.change(|worker| async move { worker.set_target(&name, target).await }).await.map_err(unknown)?;
    Ok(answer)
}

/// Restart a connector, and its tasks if asked for
#[utoipa::path(post, path = "/connectors/{connector}/restart", operation_id = "restart_connector", tag = "Connectors", params(ConnectorPath, RestartQuery), responses(
    (status = 202, description = "The connector and the tasks that were asked for will restart", body = schemas::ConnectorStatus),
    (status = 204, description = "The connector will restart, and no task"),
    (status = 404, description = "No such connector"),
    (status = 409, description = "It is busy: try again")))]
pub(crate) async fn restart(ready: Ready, Names(name): Names<String>, params: Params) -> ApiResult<Response> {
    let (tasks, failed) = (params.flag("includeTasks", false), params.flag("onlyFailed", false));
    let unknown = unknown(&name, format!("Unknown connector: {name}"));
    let status = ready.change(|worker| async move { worker.restart(&name, tasks, failed).await }).await.map_err(unknown)?;
    if tasks || failed {
        return Ok((StatusCode::ACCEPTED, Json(status)).into_response());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The tasks of a connector, with their configs
#[utoipa::path(get, path = "/connectors/{connector}/tasks", operation_id = "list_tasks", tag = "Connectors", params(ConnectorPath), responses(
    (status = 200, description = "The tasks", body = Vec<TaskInfo>),
    (status = 404, description = "No such connector")))]
pub(crate) async fn tasks(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<Vec<TaskInfo>>> {
    Ok(Json(worker.tasks(&name)?.into_iter().map(|(id, config)| TaskInfo { id, config }).collect()))
}

/// How a task is
#[utoipa::path(get, path = "/connectors/{connector}/tasks/{task}/status", operation_id = "get_task_status", tag = "Connectors", params(TaskPath), responses(
    (status = 200, description = "Its state", body = schemas::TaskStatus),
    (status = 404, description = "No such task")))]
pub(crate) async fn task_status(Ready(worker): Ready, Names((name, task)): Names<(String, u32)>) -> ApiResult<Json<TaskStatus>> {
    let found = worker.status(&name).ok().and_then(|status| status.tasks.into_iter().find(|status| status.id == task));
    found.map(Json).ok_or_else(|| ApiError::not_found(format!("No status found for task {name}-{task}")))
}

/// Restart a task
#[utoipa::path(post, path = "/connectors/{connector}/tasks/{task}/restart", operation_id = "restart_task", tag = "Connectors", params(TaskPath), responses(
    (status = 204, description = "It will restart"),
    (status = 404, description = "No such task"),
    (status = 409, description = "The connector is stopped, or busy")))]
pub(crate) async fn restart_task(ready: Ready, Names((name, task)): Names<(String, u32)>) -> ApiResult<StatusCode> {
    let unknown = unknown(&name, format!("Unknown connector: {name}"));
    ready.change(|worker| async move { worker.restart_task(&name, task).await }).await.map_err(unknown)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The topics that a connector used since they were last reset
///
/// Empty for a connector that does not exist, as in Kafka Connect.
#[utoipa::path(get, path = "/connectors/{connector}/topics", operation_id = "get_active_topics", tag = "Connectors", params(ConnectorPath), responses(
    (status = 200, description = "The topics", body = ActiveTopics)))]
pub(crate) async fn topics(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<Value>> {
    let topics = known(worker.active_topics(&name))?;
    Ok(Json(json!({ name: { "topics": topics } })))
}

/// Forget the topics that a connector used
///
/// The topics themselves stay. 202 also for a connector that does not exist, as in Kafka Connect.
#[utoipa::path(put, path = "/connectors/{connector}/topics/reset", operation_id = "reset_active_topics", tag = "Connectors", params(ConnectorPath), responses(
    (status = 202, description = "They are forgotten")))]
pub(crate) async fn reset_topics(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    known(crate::to_the_end(async move { ready.0.reset_active_topics(&name).await }).await)?;
    Ok(StatusCode::ACCEPTED)
}

fn to_create(request: CreateConnector) -> Result<(String, ConfigMap, TargetState), ApiError> {
    let config = request.config.ok_or_else(|| ApiError::bad_request("`config` is missing: {\"name\": …, \"config\": {…}}"))?;
    let config = whole(config)?;
    // The worker refuses an empty one.
    let name = request.name.map(|name| text("name", &name)).transpose()?.unwrap_or_default().trim().to_owned();
    let initial = match request.initial_state.as_deref().map(str::to_ascii_uppercase).as_deref() {
        None | Some("RUNNING") => TargetState::Started,
        Some("PAUSED") => TargetState::Paused,
        Some("STOPPED") => TargetState::Stopped,
        Some(other) => {
            return Err(ApiError::bad_request(format!("`initial_state` is `{other}`; it can be RUNNING, PAUSED or STOPPED")));
        }
    };
    let config = named(&name, config)?;
    Ok((name, config, initial))
}

/// A config to store. Kafka Connect refuses nulls as well, but for a few options that it then stores as null.
fn whole(raw: RawConfig) -> Result<ConfigMap, ApiError> {
    let nulls = raw.iter().filter(|(_, value)| value.is_none());
    let issue = |key: &String| {
        Issue::error(key.as_str(), "config.null", "Null value can not be supplied as the configuration value.")
            .fix("leave the key out")
    };
    let issues: Vec<Issue> = nulls.map(|(key, _)| issue(key)).collect();
    if issues.is_empty() { flat(raw) } else { Err(AdminError::InvalidConfig(issues).into()) }
}

/// Kafka Connect says it in other words at each path.
fn unknown(name: &str, text: String) -> impl FnOnce(ApiError) -> ApiError + use<> {
    let ours = format!("Connector {name} not found");
    move |error| if error.message == ours { ApiError::not_found(text) } else { error }
}

/// What was put plus `name`, and nothing else: Terraform and Strimzi put again for ever when a key differs.
fn named(name: &str, mut config: ConfigMap) -> Result<ConfigMap, ApiError> {
    match config.get("name") {
        Some(other) if other.trim() != name => Err(mismatch(other, name)),
        Some(_) => Ok(config),
        None => {
            config.insert("name".into(), name.into());
            Ok(config)
        }
    }
}

fn mismatch(config: &str, url: &str) -> ApiError {
    ApiError::bad_request(format!("Connector name configuration ({config}) doesn't match connector name in the URL ({url})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    fn create(body: &str) -> Result<(String, ConfigMap, TargetState), ApiError> {
        to_create(parse(body.as_bytes())?)
    }

    #[test]
    fn create_takes_the_three_fields_and_adds_only_the_name() {
        let (name, config, initial) = create(r#"{"name":" a/b ","config":{"x":1},"initial_state":"paused"}"#).unwrap();
        assert_eq!((name.as_str(), initial), ("a/b", TargetState::Paused));
        assert_eq!(serde_json::to_string(&config).unwrap(), r#"{"x":"1","name":"a/b"}"#);
        assert_eq!(create(r#"{"name":17,"config":{}}"#).unwrap().0, "17");
    }

    #[test]
    fn what_kafka_connect_answers_500_to_is_a_clear_400() {
        for (body, says) in [
            ("{}", "`config` is missing"),
            (r#"{"name":"a","config":null}"#, "`config` is missing"),
            (r#"{"name":"a","config":[]}"#, "expected a map"),
            (r#"{"config":{"name":"c"}}"#, "Connector name configuration (c) doesn't match connector name in the URL ()"),
            (r#"{"name":{},"config":{}}"#, "`name` is nested"),
            (r#"{"name":"a","config":{"x":null}}"#, "x: Null value can not be supplied"),
            (r#"{"name":"a","confg":{}}"#, "unknown field `confg`"),
            (r#"{"name":"a","config":{},"initial_state":"FAILED"}"#, "RUNNING, PAUSED or STOPPED"),
            (
                r#"{"name":"a","config":{"name":"b"}}"#,
                "Connector name configuration (b) doesn't match connector name in the URL (a)",
            ),
        ] {
            let error = create(body).unwrap_err();
            assert_eq!(error.error_code, 400, "{body}");
            assert!(error.message.contains(says), "{body}: {}", error.message);
        }
    }
}
