//! The OpenAPI document: what each handler says of itself, and what holds for all of them. And where it is read.

use crate::{ApiError, page};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::OnceLock;
use utoipa::PartialSchema;

const ABOUT: &str = "Kafka Connect's REST API, and what is Aqueduct's own under `/aqueduct/v1`.\n\n\
    Names in a path are percent-encoded. A path may end with a slash. Where there is GET there is HEAD, and OPTIONS answers with the methods of a \
    path; any other method is 405 with the header `Allow`. What is not 2xx has a JSON body with `error_code` and `message`. Query parameters that \
    are not known are ignored.\n\n\
    A worker on loopback asks nobody who they are. With `rest.users` every call needs basic or bearer credentials, or a client's certificate.";

const TAGS: [(&str, &str); 6] = [
    ("Connectors", "Connectors and their tasks."),
    ("Offsets", "How far connectors are (KIP-875)."),
    ("Plugins", "What connectors can be made of."),
    ("Loggers", "Levels of the worker's log (KIP-495)."),
    ("Topics", "The topics of the log and their records."),
    ("Worker", "The worker itself."),
];

/// OpenAPI 3.1 of every route, as `GET /aqueduct/v1/openapi.json` answers it. The same on every machine.
pub fn openapi() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let (_, handlers) = crate::routes().split_for_parts();
        complete(serde_json::to_value(handlers).unwrap_or_default())
    })
}

/// This document
#[utoipa::path(get, path = "/aqueduct/v1/openapi.json", operation_id = "openapi", tag = "Worker", responses(
    (status = 200, description = "OpenAPI 3.1 of this API", body = HashMap<String, Value>)))]
pub(crate) async fn document() -> Response {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let text = TEXT.get_or_init(|| openapi().to_string().into());
    ([(CONTENT_TYPE, "application/json")], text.clone()).into_response()
}

/// This document as a page for people
///
/// Needs no network and runs no script.
#[utoipa::path(get, path = "/aqueduct/v1/docs", operation_id = "docs", tag = "Worker", responses(
    (status = 200, description = "The page", body = String, content_type = "text/html")))]
pub(crate) async fn docs() -> Response {
    static PAGE: OnceLock<(Bytes, String)> = OnceLock::new();
    let (page, policy) = PAGE.get_or_init(|| (page::render(openapi()).into(), page::policy()));
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy.as_str()),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
    ];
    (headers, page.clone()).into_response()
}

/// Adds to the handlers' own words what the guards, the login and the extractors answer for all of them.
fn complete(mut document: Value) -> Value {
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Aqueduct",
        "description": ABOUT,
        "version": env!("CARGO_PKG_VERSION"),
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["tags"] = TAGS.iter().map(|(name, about)| json!({ "name": name, "description": about })).collect();
    document["security"] = json!([{}, { "basic": [] }, { "bearer": [] }]);
    document["components"]["securitySchemes"] =
        json!({ "basic": { "type": "http", "scheme": "basic" }, "bearer": { "type": "http", "scheme": "bearer" } });
    document["components"]["schemas"]["ApiError"] = serde_json::to_value(ApiError::schema()).unwrap_or_default();
    document["components"]["responses"] = shared();
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                complete_operation(path, method, operation);
            }
        }
    }
    document
}

fn complete_operation(path: &str, method: &str, operation: &mut Value) {
    let has_body = operation.get("requestBody").is_some();
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (_, response) in responses.iter_mut().filter(|(status, _)| status.as_str() >= "400") {
        if let Some(response) = response.as_object_mut() {
            response.entry("content").or_insert_with(error_content);
        }
    }
    for name in common(path, method, has_body) {
        let status = SHARED.iter().find(|(known, ..)| *known == name).map_or(500, |(_, status, _)| *status);
        responses.entry(status.to_string()).or_insert_with(|| json!({ "$ref": format!("#/components/responses/{name}") }));
    }
    responses.sort_keys();
}

fn error_content() -> Value {
    json!({ "application/json": { "schema": { "$ref": "#/components/schemas/ApiError" } } })
}

/// What may be answered to a call whatever its handler does, with why.
const SHARED: [(&str, u16, &str); 11] = [
    ("BadBody", 400, "The body is not what is expected, or a name is not UTF-8"),
    ("BadName", 400, "A name is not UTF-8"),
    ("Unauthorized", 401, "Nobody who is known: send the name and password of a user, or a token"),
    ("Forbidden", 403, "The user may not do this, or the call comes from another site or by a foreign name"),
    ("NotAcceptable", 406, "The client does not take application/json"),
    ("TooLarge", 413, "The body is larger than 1 MiB"),
    ("UnsupportedMediaType", 415, "The body is not application/json"),
    ("TooManyRequests", 429, "Too many logins failed: try again later"),
    ("InternalError", 500, "The call failed inside the worker, or took 90 seconds"),
    ("Unavailable", 503, "The worker still starts, or ends"),
    ("DiskFull", 507, "The disk is full"),
];

fn shared() -> Value {
    let response = |(name, status, description): &(&str, u16, &str)| {
        let header = match status {
            401 => Some(("WWW-Authenticate", "How to log in", "string")),
            429 => Some(("Retry-After", "Seconds", "integer")),
            _ => None,
        };
        let mut response = json!({ "description": description, "content": error_content() });
        if let Some((header, about, kind)) = header {
            response["headers"] = json!({ header: { "description": about, "schema": { "type": kind } } });
        }
        ((*name).to_owned(), response)
    };
    Value::Object(SHARED.iter().map(response).collect())
}

/// Of [`SHARED`], what an operation may answer. Of one status the first counts.
fn common(path: &str, method: &str, has_body: bool) -> Vec<&'static str> {
    let mut all = vec!["Unauthorized", "Forbidden", "TooManyRequests", "InternalError"];
    if has_body {
        all.extend(["BadBody", "TooLarge", "UnsupportedMediaType"]);
    }
    if path.contains('{') {
        all.push("BadName");
    }
    if crate::guard::is_kafka_connects(path) {
        all.push("NotAcceptable");
    }
    let waits =
        !["/health", "/admin/loggers", "/aqueduct/v1/openapi.json", "/aqueduct/v1/docs"].iter().any(|own| path.starts_with(own));
    if waits {
        all.push("Unavailable");
    }
    // Validation and levels of loggers write nothing.
    if waits && method != "get" && !path.ends_with("/validate") {
        all.push("DiskFull");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use serde_json::Map;
    use std::collections::BTreeSet;
    use tokio::sync::watch;
    use tower::ServiceExt;

    fn paths() -> &'static Map<String, Value> {
        openapi()["paths"].as_object().unwrap()
    }

    /// Both ways: axum shows its routes in `Debug`, and names the methods of each in the `Allow` of a 405.
    #[tokio::test]
    async fn the_document_has_every_route_and_no_other() {
        let (routes, _) = crate::routes().split_for_parts();
        let shown = format!("{routes:?}");
        let routed: BTreeSet<&str> =
            shown.split('"').filter(|text| text.starts_with('/') && !text.contains("__private")).collect();
        let documented: BTreeSet<&str> = paths().keys().map(String::as_str).collect();
        assert!(documented.len() > 20, "{documented:?}");
        assert_eq!(routed, documented);
        let router = crate::router(watch::channel(None).1, crate::RestOptions::default());
        for (path, item) in paths() {
            let place = path.replace("{task}", "0").replace(['{', '}'], "");
            let request = Request::builder().method("BREW").uri(&place).header("host", "localhost").body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 405, "{place}");
            let allow = answer.headers()["allow"].to_str().unwrap().to_ascii_lowercase();
            let allowed: BTreeSet<&str> = allow.split(',').filter(|method| *method != "head").collect();
            assert_eq!(allowed, item.as_object().unwrap().keys().map(String::as_str).collect(), "{path}");
        }
    }

    #[test]
    fn operations_have_names_of_their_own_and_every_reference_leads_somewhere() {
        let operations = paths().values().flat_map(|item| item.as_object().unwrap().values());
        let mut names = BTreeSet::new();
        for operation in operations {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} is there twice");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty() && !text.ends_with('.')), "{name}");
            let tag = operation["tags"][0].as_str().unwrap();
            assert!(TAGS.iter().any(|(known, _)| *known == tag), "{name}: {tag}");
        }
        let text = openapi().to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(openapi().pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn errors_have_one_body() {
        let delete = &paths()["/connectors/{connector}"]["delete"]["responses"];
        assert_eq!(delete["404"]["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/ApiError");
        assert!(delete["204"].get("content").is_none());
        assert_eq!(delete["429"]["$ref"], "#/components/responses/TooManyRequests");
        let refused = &openapi()["components"]["responses"]["TooManyRequests"];
        assert!(refused["headers"]["Retry-After"].is_object() && refused["content"].is_object(), "{refused}");
        let health = &paths()["/health"]["get"]["responses"];
        assert_eq!(health["503"]["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/HealthStatus");
        let create = paths()["/connectors"]["post"]["responses"].as_object().unwrap();
        let codes: Vec<&str> = create.keys().map(String::as_str).collect();
        assert_eq!(codes, ["201", "400", "401", "403", "406", "409", "413", "415", "429", "500", "503", "507"]);
    }
}
