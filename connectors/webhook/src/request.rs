//! One request, from its path to its answer.

use crate::answer::{Answer, Refusal, answer as respond};
use crate::coding::Coding;
use crate::config::Settings;
use crate::connection::Phase;
use crate::content::Request as Parts;
use crate::intake::now_seconds;
use crate::listener::Listener;
use crate::routes::{Route, Target};
use crate::signature::Denied;
use crate::{body, content};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use subtle::ConstantTimeEq;

/// Names and texts of a path's segments.
pub(crate) type Captures = Vec<(String, String)>;

pub(crate) async fn answer(listener: &Listener, phase: &Phase, request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    match find(listener, head.uri.path()) {
        Err(refusal) => {
            body::drain(&head.headers, &mut body).await;
            refusal.answer()
        }
        Ok((target, captures)) => match take(&target, &captures, phase, &head, &mut body).await {
            Ok(answer) => answer,
            Err(refusal) => {
                target.intake.counts.refused.fetch_add(1, Relaxed);
                body::drain(&head.headers, &mut body).await;
                refusal.answer()
            }
        },
    }
}

fn find(listener: &Listener, path: &str) -> Result<(Arc<Target>, Captures), Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "no connector takes requests at this path");
    let table = listener.table();
    let (route, params) = table.at(path).ok_or_else(unknown)?;
    let Route::Open(target) = route else { return Err(Refusal::unavailable()) };
    let decoded = params.iter().map(|(name, text)| {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| unknown())?;
        Ok((name.to_owned(), text.into_owned()))
    });
    Ok((target.clone(), decoded.collect::<Result<_, Refusal>>()?))
}

async fn take(
    target: &Target,
    captures: &Captures,
    phase: &Phase,
    head: &request::Parts,
    body: &mut Incoming,
) -> Result<Answer, Refusal> {
    let settings = &*target.settings;
    if !settings.methods.contains(&head.method) {
        return greeting(settings, head).ok_or_else(|| Refusal::method(settings.allowed.clone()));
    }
    settings.auth.check(&head.headers)?;
    let coding = Coding::of(&head.headers)?;
    let mut held = target.intake.hold()?;
    let bytes = phase
        .within(settings.body_timeout, body::read(body, settings.body_max, &mut held))
        .await
        .unwrap_or_else(|| Err(body::slow()))?;
    verify(settings, head, &bytes)?;
    let bytes = match coding {
        None => bytes,
        Some(coding) => coding.decode(&bytes, settings.body_max, &mut held).await?,
    };
    if settings.challenge.slack
        && let Some(challenge) = content::slack_challenge(&bytes)
    {
        return Ok(respond(StatusCode::OK, &HeaderValue::from_static("text/plain"), challenge.into()));
    }
    let topic = target.topic(captures)?;
    let parts = Parts { settings, topic: &topic, headers: &head.headers, path: head.uri.path(), captures };
    let parsed = parts.parse(&bytes)?;
    let waiting = target.intake.admit(parsed, held)?;
    phase.within(settings.response_timeout, waiting).await.unwrap_or_else(|| Err(Refusal::timeout()))?;
    Ok(respond(settings.status, &settings.response_type, settings.response.clone()))
}

fn verify(settings: &Settings, head: &request::Parts, body: &[u8]) -> Result<(), Refusal> {
    let Some(signature) = &settings.signature else { return Ok(()) };
    signature.verify(&head.headers, body, now_seconds().into()).map_err(|denied| match denied {
        Denied::Missing => Refusal::unauthorized(None, "the signature or its time is missing or is not one"),
        Denied::Stale => {
            Refusal::new(StatusCode::FORBIDDEN, "the time that is signed is too far from now (signature.tolerance.ms)")
        }
        Denied::Wrong => Refusal::new(StatusCode::FORBIDDEN, "the signature is not of this body and secret"),
    })
}

/// Meta's handshake: what it sends comes back when it knows the token.
fn greeting(settings: &Settings, head: &request::Parts) -> Option<Answer> {
    let token = settings.challenge.token.as_ref().filter(|_| head.method == Method::GET)?;
    let query = head.uri.query()?;
    let value = |wanted: &str| {
        let found =
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted)?.1.replace('+', " ");
        Some(percent_decode_str(&found).decode_utf8().ok()?.into_owned())
    };
    let given = value("hub.verify_token")?;
    if value("hub.mode")? != "subscribe" || !bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
        return None;
    }
    Some(respond(StatusCode::OK, &HeaderValue::from_static("text/plain"), Bytes::from(value("hub.challenge")?)))
}
