//! What an answer means for the records of its request. Pure.

use crate::client::{Codes, Failure, Reply};
use aqueduct_core::Error;
use serde_json::Value;
use std::time::Duration;

/// Where the answer to a batch tells of each record.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub(super) results: Pointer,
    pub(super) status: Pointer,
    pub(super) error: Pointer,
    /// `None`: as many as the records, in their order.
    pub(super) index: Option<Pointer>,
}

/// RFC 6901; `/` alone is the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer(String);

impl Pointer {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "/" | "" => Ok(Self(String::new())),
            text if text.starts_with('/') => Ok(Self(text.to_owned())),
            text => Err(format!("{text:?} is no JSON pointer")),
        }
    }

    fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.pointer(&self.0)
    }
}

#[derive(Debug)]
pub(super) enum Verdict {
    Done,
    /// By their place in the request: refused, and to be tried again. The others are done.
    Each {
        refused: Vec<(usize, String)>,
        again: Vec<usize>,
        error: Option<Error>,
    },
    /// The same once more.
    Again {
        after: Option<Duration>,
        broken: bool,
        error: Error,
    },
    /// Something is wrong with what was sent.
    Refused(String),
    /// Something is wrong with every request.
    Fail(Error),
}

/// How answers are read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) fatal: Codes,
    /// Of single results within an answer.
    pub(super) retry: Codes,
    pub(super) mapping: Option<Mapping>,
    /// The URL comes from the record: what is wrong with it is the record's fault.
    pub(super) own_url: bool,
}

impl Reading {
    /// `count`: the records of the request.
    pub(super) fn judge(&self, answer: &Result<Reply, Failure>, count: usize, batches: bool) -> Verdict {
        match answer {
            Ok(reply) if !reply.status.is_success() => Verdict::Fail(
                Error::fatal("http_sink.answer", format!("the receiver answered {}", reply.status))
                    .fix("see what it means there"),
            ),
            Ok(reply) if batches => match &self.mapping {
                Some(mapping) => self.each(mapping, &reply.body, count),
                None if reply.status.as_u16() == 207 => Verdict::Fail(
                    Error::fatal(
                        "http_sink.multi_status",
                        "the receiver answered 207: what became of each record stands in the body",
                    )
                    .fix("say where: batch.response.results, batch.response.status"),
                ),
                None => Verdict::Done,
            },
            Ok(_) => Verdict::Done,
            Err(failure) => self.failure(failure),
        }
    }

    fn failure(&self, failure: &Failure) -> Verdict {
        let error = || copy(failure.error());
        let Some(status) = failure.status else {
            let denied = self.own_url && failure.error().code() == "http.denied";
            return match failure.is_retriable() {
                true => Verdict::Again { after: failure.after, broken: true, error: error() },
                false if denied => Verdict::Refused(failure.error().message().to_owned()),
                false => Verdict::Fail(error()),
            };
        };
        let fatal = self.fatal.contain(status) || (!self.own_url && matches!(status.as_u16(), 404 | 410));
        if failure.is_retriable() {
            let broken = status.is_server_error() || status.as_u16() == 408;
            Verdict::Again { after: failure.after, broken, error: error() }
        } else if fatal || status.is_redirection() {
            Verdict::Fail(error())
        } else {
            Verdict::Refused(failure.error().message().to_owned())
        }
    }

    fn each(&self, mapping: &Mapping, body: &[u8], count: usize) -> Verdict {
        let answer: Value = match serde_json::from_slice(body) {
            Ok(answer) => answer,
            Err(error) => return unread(format!("the answer to a batch is not JSON: {error}")),
        };
        let Some(results) = mapping.results.of(&answer).and_then(Value::as_array) else {
            // Where only failures are listed, no list means none.
            let none = mapping.index.is_some() && matches!(mapping.results.of(&answer), None | Some(Value::Null));
            return if none {
                Verdict::Done
            } else {
                unread("the answer to a batch has no array at batch.response.results".to_owned())
            };
        };
        if mapping.index.is_none() && results.len() != count {
            return unread(format!("the answer to a batch of {count} records has {} results", results.len()));
        }
        let (mut refused, mut again, mut seen, mut why) = (Vec::new(), Vec::new(), vec![false; count], None);
        for (position, result) in results.iter().enumerate() {
            let place = match &mapping.index {
                None => Some(position),
                Some(index) => index.of(result).and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok()),
            };
            let Some(place) = place.filter(|place| *place < count) else {
                return unread(format!("result {position} of a batch of {count} records names no record of it"));
            };
            // The first word about a record counts.
            if std::mem::replace(&mut seen[place], true) {
                continue;
            }
            let error = mapping.error.of(result).filter(|error| !error.is_null());
            match self.fate(mapping.status.of(result), error.is_some()) {
                Fate::Good => {}
                Fate::Bad(status) => refused.push((place, reason(&status, error))),
                Fate::Later(status) => {
                    again.push(place);
                    why.get_or_insert_with(|| reason(&status, error));
                }
            }
        }
        if refused.is_empty() && again.is_empty() {
            return Verdict::Done;
        }
        again.sort_unstable();
        let error = why.map(|why| {
            Error::retriable("http_sink.busy", format!("the receiver puts off {} of {count} records: {why}", again.len()))
        });
        Verdict::Each { refused, again, error }
    }

    fn fate(&self, status: Option<&Value>, error: bool) -> Fate {
        let by_error = |status: String| if error { Fate::Bad(status) } else { Fate::Good };
        match status {
            None | Some(Value::Null) => by_error(String::new()),
            Some(Value::Bool(true)) => Fate::Good,
            Some(Value::Bool(false)) => Fate::Bad("false".to_owned()),
            Some(Value::Number(number)) => self.by_code(number.as_u64()).unwrap_or_else(|| Fate::Bad(number.to_string())),
            Some(Value::String(word)) => match self.by_code(word.trim().parse().ok()) {
                Some(fate) => fate,
                None if GOOD.iter().any(|good| word.eq_ignore_ascii_case(good)) => Fate::Good,
                None => Fate::Bad(word.clone()),
            },
            Some(other) => Fate::Bad(other.to_string()),
        }
    }

    /// `None`: no status code.
    fn by_code(&self, code: Option<u64>) -> Option<Fate> {
        let code = reqwest::StatusCode::from_u16(u16::try_from(code?).ok()?).ok()?;
        Some(if code.is_success() {
            Fate::Good
        } else if self.retry.contain(code) {
            Fate::Later(code.as_u16().to_string())
        } else {
            Fate::Bad(code.as_u16().to_string())
        })
    }
}

enum Fate {
    Good,
    Bad(String),
    Later(String),
}

const GOOD: [&str; 10] = ["ok", "success", "succeeded", "created", "updated", "accepted", "deleted", "noop", "true", "done"];

/// An operator has to look: the records may have been taken.
fn unread(message: String) -> Verdict {
    Verdict::Fail(
        Error::fatal("http_sink.results", message).fix("correct batch.response.*, or leave batch.response.results away"),
    )
}

fn reason(status: &str, error: Option<&Value>) -> String {
    const CHARS_MAX: usize = 300;
    let text = match error {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
    match (status.is_empty(), text.is_empty()) {
        (false, false) => format!("{status}: {text}"),
        (true, true) => "no reason given".to_owned(),
        _ => format!("{status}{text}"),
    }
}

pub(super) fn copy(error: &Error) -> Error {
    let copy = Error::new(error.class(), error.code().to_owned(), error.message());
    match error.hint() {
        Some(hint) => copy.fix(hint),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use reqwest::header::HeaderMap;
    use reqwest::{StatusCode, Url};

    fn codes(text: &str) -> Codes {
        Codes::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    fn reading(index: Option<&str>) -> Reading {
        let pointer = |text: &str| Pointer::parse(text).unwrap();
        let mapping = Mapping {
            results: pointer("/results"),
            status: pointer("/status"),
            error: pointer("/error"),
            index: index.map(pointer),
        };
        Reading { fatal: codes("401-403"), retry: codes("429,500-"), mapping: Some(mapping), own_url: false }
    }

    fn reply(status: u16, body: &str) -> Reply {
        let (status, url) = (StatusCode::from_u16(status).unwrap(), Url::parse("http://h/").unwrap());
        Reply { status, headers: HeaderMap::new(), body: Bytes::copy_from_slice(body.as_bytes()), url }
    }

    fn failure(status: u16) -> Failure {
        let error =
            if matches!(status, 429 | 500..) { Error::retriable("http.status", "x") } else { Error::fatal("http.status", "x") };
        let mut failure = Failure::from(error);
        failure.status = StatusCode::from_u16(status).ok();
        failure
    }

    #[test]
    fn statuses() {
        let reading = Reading { mapping: None, ..reading(None) };
        let judged = |answer, batches| match reading.judge(&answer, 3, batches) {
            Verdict::Done => "done",
            Verdict::Each { .. } => "each",
            Verdict::Again { broken: true, .. } => "broken",
            Verdict::Again { .. } => "later",
            Verdict::Refused(_) => "refused",
            Verdict::Fail(_) => "fail",
        };
        for (answer, batches, expected) in [
            (Ok(reply(204, "")), true, "done"),
            (Ok(reply(207, "")), false, "done"),
            (Ok(reply(207, "")), true, "fail"),
            (Ok(reply(304, "")), false, "fail"),
            (Err(failure(429)), true, "later"),
            (Err(failure(503)), true, "broken"),
            (Err(failure(400)), true, "refused"),
            (Err(failure(401)), true, "fail"),
            (Err(failure(404)), true, "fail"),
            (Err(failure(301)), true, "fail"),
            (Err(Error::retriable("http.timeout", "x").into()), true, "broken"),
            (Err(Error::fatal("http.tls", "x").into()), true, "fail"),
            (Err(Error::fatal("http.denied", "x").into()), true, "fail"),
        ] {
            let shown = format!("{answer:?}");
            assert_eq!(judged(answer, batches), expected, "{shown}");
        }
        let own = Reading { own_url: true, ..reading };
        assert!(matches!(own.judge(&Err(failure(404)), 1, false), Verdict::Refused(_)));
        assert!(matches!(own.judge(&Err(Error::fatal("http.denied", "x").into()), 1, false), Verdict::Refused(_)));
    }

    fn each(reading: &Reading, body: &str, count: usize) -> (Vec<(usize, String)>, Vec<usize>) {
        match reading.judge(&Ok(reply(207, body)), count, true) {
            Verdict::Done => Default::default(),
            Verdict::Each { refused, again, error } => {
                assert_eq!(error.is_some(), !again.is_empty());
                (refused, again)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_record_has_its_own_fate() {
        let body = r#"{"results": [{"status": 201}, {"status": "429"}, {"status": 422, "error": {"m": "bad\nline"}}, {"status": "Created"},
            {"status": "failed", "error": "why"}, {"error": "alone"}, {}, {"status": false}, {"status": true}, {"error": null}]}"#;
        let (refused, again) = each(&reading(None), body, 10);
        let shown: Vec<_> = refused.iter().map(|(place, why)| format!("{place} {why}")).collect();
        assert_eq!(shown, [r#"2 422: {"m":"bad\nline"}"#, "4 failed: why", "5 alone", "7 false"]);
        assert_eq!(again, [1]);
    }

    #[test]
    fn failures_alone_may_be_listed() {
        let reading = reading(Some("/at"));
        assert_eq!(
            each(&reading, r#"{"results": [{"at": 2, "status": 400}, {"at": 2, "status": 500}, {"at": 0, "error": "x"}]}"#, 3)
                .0
                .len(),
            2
        );
        assert_eq!(each(&reading, "{}", 3), Default::default());
    }

    #[test]
    fn an_answer_that_is_not_understood_is_no_consent() {
        for (body, index) in
            [("", None), ("{}", None), (r#"{"results": [{}]}"#, None), (r#"{"results": [{"at": 3}]}"#, Some("/at"))]
        {
            let judged = reading(index).judge(&Ok(reply(200, body)), 3, true);
            assert!(matches!(&judged, Verdict::Fail(error) if error.code() == "http_sink.results"), "{judged:?}");
        }
    }
}
