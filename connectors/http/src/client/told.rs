//! What a server was sent as credentials, to take it out of what it says: some show a refused request to its sender, and the beginning of their answer
//! stands in errors (invariant 9). Here, since only here it is known as it was sent (`Basic` and base64), and while it is whole.

use super::template::ENCODED;
use aqueduct_config::Secret;
use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use reqwest::header::{HeaderMap, HeaderName};

/// Errors show far less of an answer.
const SHOWN_MAX: usize = 64 << 10;
/// Shorter ones would blank out half of every text.
const BYTES_MIN: usize = 4;

/// Longest first. `own`: headers that the operator gave, which may be credentials too. `key`: what stands in the query. `proxy`: what the proxy was sent.
pub(super) fn told(sent: &HeaderMap, own: &[HeaderName], key: Option<&str>, proxy: Option<&Secret>) -> Vec<String> {
    let mut told = Vec::new();
    let proxy = proxy.map(Secret::expose).and_then(|login| login.split_once(' '));
    told.extend(proxy.map(|(_, login)| login.to_owned()));
    for (name, value) in sent.iter().filter(|(name, value)| value.is_sensitive() || own.contains(name)) {
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else { continue };
        if super::HARMLESS.contains(name) {
            continue;
        }
        told.push(value.to_owned());
        // `Bearer …` is often said back without its first word.
        told.extend(value.split_once(' ').map(|(_, rest)| rest.trim().to_owned()));
    }
    if let Some(key) = key {
        told.extend([key.to_owned(), utf8_percent_encode(key, ENCODED).to_string()]);
    }
    told.retain(|told| told.len() >= BYTES_MIN);
    told.sort_by_key(|told| std::cmp::Reverse(told.len()));
    told.dedup();
    told
}

/// The beginning of the answer, without them.
pub(super) fn without(body: &Bytes, told: &[String]) -> Bytes {
    let head = String::from_utf8_lossy(&body[..body.len().min(SHOWN_MAX)]);
    if !told.iter().any(|told| head.contains(told.as_str())) {
        return body.clone();
    }
    told.iter().fold(head.into_owned(), |text, told| text.replace(told.as_str(), "[hidden]")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};

    #[test]
    fn what_was_sent_is_not_said_back() {
        let mut sent = HeaderMap::new();
        let mut basic = HeaderValue::from_static("Basic dTpwdw==");
        basic.set_sensitive(true);
        sent.insert(AUTHORIZATION, basic);
        sent.insert(ACCEPT, HeaderValue::from_static("application/json"));
        sent.insert("x-key", HeaderValue::from_static("k3y-of-mine"));
        sent.insert("idempotency-key", HeaderValue::from_static("a-0-1"));
        let own = [HeaderName::from_static("x-key"), ACCEPT];
        let told = told(&sent, &own, Some("q&y1"), Some(&Secret::new("Basic cDpwdw==")));
        let said = "cDpwdw==: bad dTpwdw==, Basic dTpwdw==, k3y-of-mine, ?key=q%26y1 or q&y1 for a-0-1; want application/json";
        let shown = without(&Bytes::from(said), &told);
        let expected = "[hidden]: bad [hidden], [hidden], [hidden], ?key=[hidden] or [hidden] for a-0-1; want application/json";
        assert_eq!(shown, expected);
        assert_eq!(without(&Bytes::from_static(b"\xff no"), &told), b"\xff no"[..]);
    }
}
