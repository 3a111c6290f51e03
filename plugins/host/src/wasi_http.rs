//! `wasi:http`'s outgoing handler, for guests that bring their own client (`fetch`, a crate): the hosts, the addresses, the bounds and the client
//! itself are those of `aqueduct:connector/http`.

use crate::bindings::http::Error as Refused;
use crate::bindings::runtime::Level;
use crate::http::{BODY_BYTES, HEADERS, TIMEOUT, allowed, client, judged};
use crate::imports::Imports;
use crate::lines::Lines;
use aqueduct_config::worker_config::PluginGrant;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use reqwest::Client;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Of one instance: a guest waits for many at once. Their request bodies, which are held until they are sent, have [`BODY_BYTES`] in all; each
/// response has as many, and is read as the guest reads it.
const UNDER_WAY: usize = 8;

/// What an instance may send.
pub(crate) struct Outgoing {
    plugin: Arc<str>,
    grant: Arc<PluginGrant>,
    lines: Arc<Lines>,
    under_way: Arc<Semaphore>,
    /// Bytes of request bodies (invariant 6).
    room: Arc<Semaphore>,
    client: Option<Client>,
    /// In `validate`, `plan` and a transform.
    pure: bool,
}

impl Outgoing {
    pub(crate) fn new(plugin: Arc<str>, grant: Arc<PluginGrant>, lines: Arc<Lines>) -> Self {
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        let room = Arc::new(Semaphore::new(BODY_BYTES));
        Self { plugin, grant, lines, under_way, room, client: None, pure: true }
    }

    /// One for all requests of the instance, made with the first.
    pub(crate) fn client(&mut self) -> Result<Client, Refused> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let made = client(&self.plugin, &self.grant)?;
        Ok(self.client.insert(made).clone())
    }

    fn prepared(&mut self, request: http::Request<WasiBody>, limit: RequestOptions) -> Result<Prepared, Error> {
        if self.pure {
            return Err(Error::HttpRequestDenied);
        }
        let refused = |refused: Refused| told(&self.lines, refused);
        let url = allowed(&self.plugin, &self.grant, &request.uri().to_string()).map_err(refused)?;
        if request.headers().len() > HEADERS {
            return Err(Error::HttpRequestHeaderSectionSize(None));
        }
        let permit = self.under_way.clone().try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
        let lines = self.lines.clone();
        let client = self.client().map_err(|error| told(&lines, error))?;
        let timeout = limit.first_byte_timeout.map_or(TIMEOUT, |wanted| wanted.min(TIMEOUT));
        let (parts, body) = request.into_parts();
        let call = client.request(parts.method, url).headers(parts.headers).timeout(timeout);
        Ok(Prepared { call, body, permit, room: self.room.clone(), lines })
    }
}

struct Prepared {
    call: reqwest::RequestBuilder,
    body: WasiBody,
    permit: OwnedSemaphorePermit,
    room: Arc<Semaphore>,
    lines: Arc<Lines>,
}

impl Prepared {
    async fn send(self) -> Result<http::Response<WasiBody>, Error> {
        let Self { call, body, permit, room, lines } = self;
        let (body, held) = whole(body, &room).await?;
        let sent = call.body(body).send().await.map_err(|error| match judged(&error) {
            Refused::Failed(_) if error.is_timeout() => Error::HttpResponseTimeout,
            refused => told(&lines, refused),
        })?;
        drop(held);
        let answer = http::Response::<reqwest::Body>::from(sent);
        let body = |body: reqwest::Body| {
            let body = Limited::new(body, BODY_BYTES).map_err(unread);
            // It is under way until its body is read, or dropped.
            body.map_frame(move |frame| (frame, &permit).0).boxed_unsync()
        };
        Ok(answer.map(body))
    }
}

/// A request's body, as the guest writes it: its length is told to the server, which not every one can do without. With its share of the room.
async fn whole(mut body: WasiBody, room: &Arc<Semaphore>) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Error> {
    let (mut bytes, mut held) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let too_large = || Error::HttpRequestBodySize(Some((bytes.len() + data.len()) as u64));
        let length = u32::try_from(data.len()).map_err(|_| too_large())?;
        let more = room.clone().try_acquire_many_owned(length).map_err(|_| too_large())?;
        match &mut held {
            Some(held) => held.merge(more),
            None => held = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.freeze(), held))
}

/// The guest is told a code alone; the log says what to change.
fn told(lines: &Lines, refused: Refused) -> Error {
    match refused {
        Refused::Denied(why) => {
            lines.write(Level::Warn, &format!("a request was refused: {why}"));
            Error::HttpRequestDenied
        }
        Refused::Invalid(_) => Error::HttpRequestUriInvalid,
        Refused::Failed(_) => Error::DestinationUnavailable,
    }
}

fn unread(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let is_too_large = error.is::<LengthLimitError>();
    if is_too_large { Error::HttpResponseBodySize(Some(BODY_BYTES as u64)) } else { Error::HttpResponseIncomplete }
}

/// What the worker of a request promises beside the response: nothing more, the body says how it ended.
type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io), Error>> + Send> {
        let prepared = self.prepared(request, options.unwrap_or_default());
        Box::new(async move {
            let response = prepared?.send().await?;
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}

impl WasiHttpView for Imports {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.outgoing.pure = self.call.is_pure();
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http_context }
    }
}

pub(crate) fn add_to_linker(linker: &mut Linker<Imports>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn bodies_that_are_being_sent_share_their_room() {
        let body = || Full::new(Bytes::from_static(b"123456")).map_err(|never| match never {}).boxed_unsync();
        let room = Arc::new(Semaphore::new(10));
        let (bytes, held) = whole(body(), &room).await.unwrap();
        assert_eq!(&bytes[..], b"123456");
        assert!(matches!(whole(body(), &room).await, Err(Error::HttpRequestBodySize(Some(6)))));
        drop(held);
        assert!(whole(body(), &room).await.is_ok());
    }
}
