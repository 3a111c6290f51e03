//! `/admin/loggers`: levels that change while the worker runs (KIP-495, KIP-976). And what a connector logged lately.

use crate::body::{Body, Names, Params};
use crate::schemas::{ConnectorPath, LoggerPath};
use crate::{ApiError, ApiResult, App, Ready};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// The worker's log, as REST sees it. Called on the control plane: no call waits.
pub trait Logging: Send + Sync {
    /// Loggers whose level was set or that the worker itself has, by name. `root` is among them.
    fn levels(&self) -> BTreeMap<String, LoggerLevel>;

    /// Sets a logger and those below it, `root` all. Their names; `None`: there is no such level.
    fn set(&self, logger: &str, level: &str) -> Option<Vec<String>>;

    /// The last lines of a connector and its tasks, oldest first.
    fn recent(&self, connector: &str) -> Vec<LogLine>;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoggerLevel {
    /// Log4j's name: `OFF FATAL ERROR WARN INFO DEBUG TRACE ALL`.
    pub level: String,
    /// Milliseconds since the epoch; null: as it was when the worker started.
    #[schema(required = true)]
    pub last_modified: Option<i64>,
}

/// One line of `GET /aqueduct/v1/connectors/{connector}/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LogLine {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    pub level: &'static str,
    /// Null: of the connector itself.
    #[schema(required = true)]
    pub task: Option<u64>,
    /// Which run of the task, counted since the worker started over all tasks of the connector. Null: of no run.
    #[schema(required = true)]
    pub epoch: Option<u64>,
    /// With its fields behind it, as ` name=value`.
    pub message: String,
}

/// A level to set.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the document's: `set` also takes what Kafka Connect does")]
pub(crate) struct NewLevel {
    /// Log4j's name: `OFF FATAL ERROR WARN INFO DEBUG TRACE ALL`.
    #[schema(example = "INFO")]
    level: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the document's: read by `Params`")]
pub(crate) struct LevelQuery {
    /// `worker`, or `cluster`, which is the same here: there is one worker (KIP-976).
    scope: Option<String>,
}

/// The levels of the worker's loggers
#[utoipa::path(get, path = "/admin/loggers", operation_id = "list_loggers", tag = "Loggers", responses(
    (status = 200, description = "Each logger with its level", body = BTreeMap<String, LoggerLevel>)))]
pub(crate) async fn list(State(app): State<App>) -> Json<BTreeMap<String, LoggerLevel>> {
    Json(app.options.logging.as_ref().map(|logging| logging.levels()).unwrap_or_default())
}

/// The level of a logger
#[utoipa::path(get, path = "/admin/loggers/{logger}", operation_id = "get_logger", tag = "Loggers", params(LoggerPath), responses(
    (status = 200, description = "Its level", body = LoggerLevel),
    (status = 404, description = "No such logger")))]
pub(crate) async fn show(State(app): State<App>, Names(name): Names<String>) -> ApiResult<Json<LoggerLevel>> {
    let mut levels = app.options.logging.as_ref().map(|logging| logging.levels()).unwrap_or_default();
    levels.remove(&name).map(Json).ok_or_else(|| ApiError::not_found(format!("Logger {name} not found.")))
}

/// Change the level of a logger, and of those below it
///
/// Takes effect at once, until the worker ends.
#[utoipa::path(put, path = "/admin/loggers/{logger}", operation_id = "set_logger", tag = "Loggers", params(LoggerPath, LevelQuery),
    request_body = NewLevel, responses(
    (status = 200, description = "The names that were set", body = Vec<String>),
    (status = 204, description = "It was set, with `scope=cluster`"),
    (status = 400, description = "No level is given"),
    (status = 404, description = "There is no such level")))]
pub(crate) async fn set(
    State(app): State<App>,
    Names(name): Names<String>,
    params: Params,
    Body(body): Body<BTreeMap<String, Value>>,
) -> ApiResult<Response> {
    let level = match body.get("level") {
        None | Some(Value::Null) => {
            return Err(ApiError::bad_request("Desired 'level' parameter was not specified in request."));
        }
        Some(Value::String(level)) => level.clone(),
        Some(other) => other.to_string(),
    };
    let set = app.options.logging.as_ref().and_then(|logging| logging.set(&name, &level));
    let set = set.ok_or_else(|| ApiError::not_found(format!("invalid log level '{level}'.")))?;
    let cluster = params.get("scope").is_some_and(|scope| scope.eq_ignore_ascii_case("cluster"));
    Ok(if cluster { StatusCode::NO_CONTENT.into_response() } else { Json(set).into_response() })
}

/// What a connector and its tasks logged lately
///
/// The last lines, oldest first.
#[utoipa::path(get, path = "/aqueduct/v1/connectors/{connector}/logs", operation_id = "connector_logs", tag = "Connectors", params(ConnectorPath), responses(
    (status = 200, description = "The lines", body = Vec<LogLine>),
    (status = 404, description = "No such connector")))]
pub(crate) async fn recent(
    State(app): State<App>,
    Ready(worker): Ready,
    Names(name): Names<String>,
) -> ApiResult<Json<Vec<LogLine>>> {
    worker.status(&name)?;
    Ok(Json(app.options.logging.as_ref().map(|logging| logging.recent(&name)).unwrap_or_default()))
}
