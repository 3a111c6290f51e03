//! `/connectors`: Kafka Connect's `ConnectorsResource`.

use crate::access::Caller;
use crate::body::{Body, Names, Params, RawConfig, config as flat, text, texts};
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateConnector {
    /// A number is taken for its text, as in a config.
    name: Option<Box<RawValue>>,
    config: Option<RawConfig>,
    initial_state: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct TaskInfo {
    id: ConnectorTaskId,
    config: ConfigMap,
}

/// `[name, …]`, or with `expand` `{name: {info, status}}`.
pub(crate) async fn list(Ready(worker): Ready, caller: Caller, params: Params) -> ApiResult<Response> {
    let mut names = worker.connectors();
    names.retain(|name| caller.sees(name));
    let expand: Vec<&str> = params.all("expand").collect();
    if expand.is_empty() {
        return Ok(Json(names).into_response());
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
    Ok(Json(out).into_response())
}

pub(crate) async fn create(ready: Ready, caller: Caller, Body(request): Body<CreateConnector>) -> ApiResult<Response> {
    let (name, config, initial) = to_create(request)?;
    caller.check(&name)?;
    let info = ready.change(|worker| async move { worker.create(&name, config, initial).await }).await?;
    let location = format!("/connectors/{}", utf8_percent_encode(&info.name, SEGMENT));
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(info)).into_response())
}

pub(crate) async fn info(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConnectorInfo>> {
    Ok(Json(worker.connector(&name)?))
}

/// Unresolved, exactly as it was put (invariant 9).
pub(crate) async fn config(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConfigMap>> {
    Ok(Json(worker.connector(&name)?.config))
}

pub(crate) async fn put_config(ready: Ready, Names(name): Names<String>, Body(raw): Body<RawConfig>) -> ApiResult<Response> {
    let config = named(&name, whole(raw)?)?;
    let (created, info) = ready.change(|worker| async move { worker.put_config(&name, config).await }).await?;
    if !created {
        return Ok(Json(info).into_response());
    }
    let location = format!("/connectors/{}", utf8_percent_encode(&info.name, SEGMENT));
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(info)).into_response())
}

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

pub(crate) async fn delete(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    ready.change(|worker| async move { worker.delete(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn status(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConnectorStatus>> {
    let unknown = unknown(&name, format!("No status found for connector {name}"));
    worker.status(&name).map(Json).map_err(|error| unknown(error.into()))
}

pub(crate) async fn pause(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    set_target(ready, name, TargetState::Paused, StatusCode::ACCEPTED).await
}

pub(crate) async fn resume(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    set_target(ready, name, TargetState::Started, StatusCode::ACCEPTED).await
}

/// 204, unlike pause and resume.
pub(crate) async fn stop(ready: Ready, Names(name): Names<String>) -> ApiResult<StatusCode> {
    set_target(ready, name, TargetState::Stopped, StatusCode::NO_CONTENT).await
}

async fn set_target(ready: Ready, name: String, target: TargetState, answer: StatusCode) -> ApiResult<StatusCode> {
    let unknown = unknown(&name, format!("Unknown connector {name}"));
    ready.change(|worker| async move { worker.set_target(&name, target).await }).await.map_err(unknown)?;
    Ok(answer)
}

/// 204 for the connector alone, 202 with the status when tasks are asked for.
pub(crate) async fn restart(ready: Ready, Names(name): Names<String>, params: Params) -> ApiResult<Response> {
    let (tasks, failed) = (params.flag("includeTasks", false), params.flag("onlyFailed", false));
    let unknown = unknown(&name, format!("Unknown connector: {name}"));
    let status = ready.change(|worker| async move { worker.restart(&name, tasks, failed).await }).await.map_err(unknown)?;
    if tasks || failed {
        return Ok((StatusCode::ACCEPTED, Json(status)).into_response());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn tasks(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<Vec<TaskInfo>>> {
    Ok(Json(worker.tasks(&name)?.into_iter().map(|(id, config)| TaskInfo { id, config }).collect()))
}

pub(crate) async fn task_status(Ready(worker): Ready, Names((name, task)): Names<(String, u32)>) -> ApiResult<Json<TaskStatus>> {
    let found = worker.status(&name).ok().and_then(|status| status.tasks.into_iter().find(|status| status.id == task));
    found.map(Json).ok_or_else(|| ApiError::not_found(format!("No status found for task {name}-{task}")))
}

pub(crate) async fn restart_task(ready: Ready, Names((name, task)): Names<(String, u32)>) -> ApiResult<StatusCode> {
    let unknown = unknown(&name, format!("Unknown connector: {name}"));
    ready.change(|worker| async move { worker.restart_task(&name, task).await }).await.map_err(unknown)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn topics(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<Value>> {
    let topics = known(worker.active_topics(&name))?;
    Ok(Json(json!({ name: { "topics": topics } })))
}

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
