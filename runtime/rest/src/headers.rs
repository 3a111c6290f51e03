//! `response.http.headers.config`: what the operator wants every answer to carry.

use aqueduct_config::worker_config::{HeaderAction, HeaderRule};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Rules that were checked when worker.yaml was read, ready to be applied.
#[derive(Clone)]
pub(crate) struct Headers(Arc<Vec<(HeaderAction, HeaderName, What)>>);

#[derive(Clone)]
enum What {
    Text(HeaderValue),
    /// Milliseconds from now.
    Date(i64),
}

impl Headers {
    /// `None` where there is nothing to do.
    pub(crate) fn new(rules: &[HeaderRule]) -> Option<Self> {
        let made = rules.iter().filter_map(|rule| {
            let what =
                if rule.action.is_date() { What::Date(rule.value.parse().ok()?) } else { What::Text(rule.value.parse().ok()?) };
            Some((rule.action, rule.name.parse().ok()?, what))
        });
        let made: Vec<_> = made.collect();
        (!made.is_empty()).then(|| Self(Arc::new(made)))
    }

    pub(crate) async fn apply(self, request: Request, next: Next) -> Response {
        let mut response = next.run(request).await;
        self.put(response.headers_mut());
        response
    }

    fn put(&self, headers: &mut HeaderMap) {
        for (action, name, what) in self.0.iter() {
            let value = match what {
                What::Text(value) => Some(value.clone()),
                What::Date(millis) => date(*millis),
            };
            let Some(value) = value else { continue };
            if matches!(action, HeaderAction::Set | HeaderAction::SetDate) {
                headers.insert(name.clone(), value);
            } else {
                headers.append(name.clone(), value);
            }
        }
    }
}

/// `None` for a moment that no date can be written of.
fn date(millis: i64) -> Option<HeaderValue> {
    let by = Duration::from_millis(millis.unsigned_abs());
    let now = SystemTime::now();
    let at = if millis < 0 { now.checked_sub(by) } else { now.checked_add(by) }?;
    // Years behind 9999 have no form.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    (at >= SystemTime::UNIX_EPOCH && at <= last).then(|| httpdate::fmt_http_date(at).parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_and_add_stands_beside() {
        let rule = |action, name: &str, value: &str| HeaderRule { action, name: name.to_owned(), value: value.to_owned() };
        let headers = Headers::new(&[
            rule(HeaderAction::Set, "X-A", "new"),
            rule(HeaderAction::Add, "X-B", "more"),
            rule(HeaderAction::SetDate, "Expires", "0"),
            rule(HeaderAction::AddDate, "X-Never", &i64::MAX.to_string()),
        ]);
        let mut map = HeaderMap::new();
        map.insert("x-a", HeaderValue::from_static("old"));
        map.insert("x-b", HeaderValue::from_static("first"));
        headers.unwrap().put(&mut map);
        assert_eq!(map.get_all("x-a").iter().collect::<Vec<_>>(), ["new"]);
        assert_eq!(map.get_all("x-b").iter().collect::<Vec<_>>(), ["first", "more"]);
        assert!(map["expires"].to_str().unwrap().ends_with("GMT"));
        assert!(!map.contains_key("x-never"));
        assert!(Headers::new(&[]).is_none());
    }
}
