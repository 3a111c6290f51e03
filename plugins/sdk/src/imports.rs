//! What a plugin may ask of the host. Outside of WebAssembly (in unit tests) log and metrics go to nowhere, time is the machine's, and nothing is granted.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Clone, Debug, Default)]
pub struct HttpRequest {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// At most 30 s.
    pub timeout: Duration,
}

impl HttpRequest {
    /// A GET that waits 10 s.
    pub fn get(url: impl Into<String>) -> Self {
        Self { method: "GET".to_owned(), url: url.into(), timeout: Duration::from_secs(10), ..Self::default() }
    }
}

#[derive(Clone, Debug)]
pub struct HttpResponse {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// Not granted: it never will be until worker.yaml changes.
    Denied(String),
    Invalid(String),
    /// It may come later.
    Failed(String),
}

impl From<HttpError> for crate::Error {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Denied(message) => Self::fatal("http_denied", message),
            HttpError::Invalid(message) => Self::fatal("http_invalid", message),
            HttpError::Failed(message) => Self::retriable("http_failed", message),
        }
    }
}

/// Numbers of the task: `/metrics` shows them as `aqueduct_plugin_<name>`, with the labels `connector`, `task` and `plugin` besides. Names have 1 to 64
/// of a-z, 0-9 and _, and so have labels, of which there are at most 8; a task has at most 100 series. What breaks a bound is left out, and the
/// worker's log says so.
pub mod metrics {
    use super::system;

    /// A gauge: what it is now.
    pub fn set(name: &str, labels: &[(&str, &str)], value: f64) {
        system::metric_set(name, labels, value);
    }

    /// A counter: what is added to it, nothing below 0. It begins at 0 when the task starts, and `_total` is appended to its name.
    pub fn add(name: &str, labels: &[(&str, &str)], delta: f64) {
        system::metric_add(name, labels, delta);
    }
}

/// A line for the worker's log.
pub fn log(level: Level, message: &str) {
    system::log(level, message);
}

/// Waits without blocking anyone; only in a source's `poll`. False: return soon.
pub fn sleep(time: Duration) -> bool {
    system::sleep(u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    system::now_ms()
}

/// At most 64 KiB.
pub fn random(n: u32) -> Vec<u8> {
    system::random(n)
}

/// A variable of the worker's environment, if it is granted.
///
/// # Errors
/// It is not granted.
pub fn env(name: &str) -> Result<Option<String>, String> {
    system::env(name)
}

/// A text that worker.yaml gives this plugin by `allow.secrets.<name>`.
///
/// # Errors
/// It is not granted, or the call is none that is given secrets.
pub fn secret(name: &str) -> Result<String, String> {
    system::secret(name)
}

/// What a source remembers beyond its offsets: stored with the batch of the `poll` that returns next, in the same commit. It belongs to the share of
/// the task: keys of 1 to 256 bytes, values of at most 64 KiB, 1 MiB in all. Outside of WebAssembly it lies in a map of the thread.
pub mod state {
    use super::system;

    /// # Errors
    /// The call is none of an open source.
    pub fn get(key: &str) -> Result<Option<Vec<u8>>, String> {
        system::state_get(key)
    }

    /// # Errors
    /// A bound, or the call is none of an open source.
    pub fn set(key: &str, value: &[u8]) -> Result<(), String> {
        system::state_set(key, value)
    }

    /// # Errors
    /// The call is none of an open source.
    pub fn delete(key: &str) -> Result<(), String> {
        system::state_delete(key)
    }

    /// In order.
    ///
    /// # Errors
    /// The call is none of an open source.
    pub fn keys() -> Result<Vec<String>, String> {
        system::state_keys()
    }
}

/// Sends a request to a granted host. Redirects are not followed.
///
/// # Errors
/// Denied, wrong, or without an answer; a status such as 500 is an answer.
pub fn http(request: HttpRequest) -> Result<HttpResponse, HttpError> {
    system::http(request)
}

#[cfg(target_arch = "wasm32")]
mod system {
    use super::{HttpError, HttpRequest, HttpResponse, Level};
    use crate::calls::source::aqueduct::connector::{environment, http as wire, metrics, runtime, secrets, state};

    pub(super) fn log(level: Level, message: &str) {
        let level = match level {
            Level::Trace => runtime::Level::Trace,
            Level::Debug => runtime::Level::Debug,
            Level::Info => runtime::Level::Info,
            Level::Warn => runtime::Level::Warn,
            Level::Error => runtime::Level::Error,
        };
        runtime::log(level, message);
    }

    pub(super) fn metric_set(name: &str, labels: &[(&str, &str)], value: f64) {
        metrics::set(name, &owned(labels), value);
    }

    pub(super) fn metric_add(name: &str, labels: &[(&str, &str)], delta: f64) {
        metrics::add(name, &owned(labels), delta);
    }

    fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    pub(super) use runtime::{now_ms, random, sleep};

    pub(super) use secrets::get as secret;
    pub(super) use state::{delete as state_delete, get as state_get, keys as state_keys, set as state_set};

    pub(super) fn env(name: &str) -> Result<Option<String>, String> {
        environment::variable(name)
    }

    pub(super) fn http(request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let request = wire::Request {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: request.body,
            timeout_ms: u32::try_from(request.timeout.as_millis()).unwrap_or(u32::MAX),
        };
        match wire::send(&request) {
            Ok(wire::Response { status, headers, body }) => Ok(HttpResponse { status, headers, body }),
            Err(wire::Error::Denied(message)) => Err(HttpError::Denied(message)),
            Err(wire::Error::Invalid(message)) => Err(HttpError::Invalid(message)),
            Err(wire::Error::Failed(message)) => Err(HttpError::Failed(message)),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod system {
    use super::{HttpError, HttpRequest, HttpResponse, Level};
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::time::{SystemTime, UNIX_EPOCH};

    thread_local!(static STATE: RefCell<BTreeMap<String, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) });

    pub(super) fn state_get(key: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(STATE.with_borrow(|state| state.get(key).cloned()))
    }

    pub(super) fn state_set(key: &str, value: &[u8]) -> Result<(), String> {
        STATE.with_borrow_mut(|state| state.insert(key.to_owned(), value.to_owned()));
        Ok(())
    }

    pub(super) fn state_delete(key: &str) -> Result<(), String> {
        STATE.with_borrow_mut(|state| state.remove(key));
        Ok(())
    }

    pub(super) fn state_keys() -> Result<Vec<String>, String> {
        Ok(STATE.with_borrow(|state| state.keys().cloned().collect()))
    }

    pub(super) fn secret(name: &str) -> Result<String, String> {
        Err(format!("{name} is not granted"))
    }

    pub(super) fn log(_: Level, _: &str) {}

    pub(super) fn metric_set(_: &str, _: &[(&str, &str)], _: f64) {}

    pub(super) fn metric_add(_: &str, _: &[(&str, &str)], _: f64) {}

    pub(super) fn sleep(_: u32) -> bool {
        true
    }

    pub(super) fn now_ms() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
    }

    pub(super) fn random(n: u32) -> Vec<u8> {
        (0..n).map(|i| i as u8).collect()
    }

    pub(super) fn env(name: &str) -> Result<Option<String>, String> {
        Err(format!("{name} is not granted"))
    }

    pub(super) fn http(request: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Denied(format!("{} is not granted", request.url)))
    }
}
