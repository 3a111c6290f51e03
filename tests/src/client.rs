//! REST calls, as a client of Kafka Connect makes them.

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Client {
    pub base: String,
    http: reqwest::blocking::Client,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub content_type: String,
    pub text: String,
}

impl Answer {
    /// # Panics
    /// When the body is not JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("not JSON ({error}): {} {:?}", self.status, self.text))
    }

    /// `{error_code, message}` with the code of the status (compat.md, rule 11).
    ///
    /// # Panics
    /// When the body has another shape.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert!(self.content_type.starts_with("application/json"), "{}: {}", self.content_type, self.text);
        let body = self.json();
        assert_eq!(body["error_code"], status, "{}", self.text);
        body["message"].as_str().unwrap_or_else(|| panic!("no message: {}", self.text)).to_owned()
    }

    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

impl Client {
    pub fn new(base: impl Into<String>) -> Self {
        http_services::install_crypto();
        let http = reqwest::blocking::Client::builder()
            .timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("a client without TLS cannot fail to build");
        Self { base: base.into(), http }
    }

    /// # Errors
    /// When there is no answer.
    pub fn call(&self, method: Method, path: &str, body: Option<&str>) -> Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let answer = request.send().with_context(|| path.to_owned())?;
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (status, location, content_type) =
            (answer.status().as_u16(), header("location"), header("content-type").unwrap_or_default());
        Ok(Answer { status, location, content_type, text: answer.text()? })
    }

    #[track_caller]
    fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let text = body.map(Value::to_string);
        self.call(method.clone(), path, text.as_deref()).unwrap_or_else(|error| panic!("{method} {path}: {error:#}"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.must(Method::GET, path, None)
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: Option<&Value>) -> Answer {
        self.must(Method::POST, path, body)
    }

    #[track_caller]
    pub fn put(&self, path: &str, body: Option<&Value>) -> Answer {
        self.must(Method::PUT, path, body)
    }

    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        self.must(Method::PATCH, path, Some(body))
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.must(Method::DELETE, path, None)
    }

    /// The `connector.state` of a status, or the status code's text when there is none.
    pub fn state(&self, name: &str) -> String {
        match self.call(Method::GET, &format!("/connectors/{name}/status"), None) {
            Ok(answer) if answer.status == 200 => answer.json()["connector"]["state"].as_str().unwrap_or("?").to_owned(),
            Ok(answer) => answer.status.to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// The states of the tasks of a connector.
    pub fn task_states(&self, name: &str) -> Vec<String> {
        let Ok(answer) = self.call(Method::GET, &format!("/connectors/{name}/status"), None) else { return Vec::new() };
        if answer.status != 200 {
            return Vec::new();
        }
        let tasks = answer.json()["tasks"].as_array().cloned().unwrap_or_default();
        tasks.iter().map(|task| task["state"].as_str().unwrap_or("?").to_owned()).collect()
    }
}
