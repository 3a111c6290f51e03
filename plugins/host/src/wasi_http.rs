//! `wasi:http`'s outgoing handler, for guests that bring their own client (`fetch`, a crate): the hosts, the addresses, the bounds and the client
//! itself are those of `aqueduct:connector/http`.

use crate::bindings::http::Error as Refused;
use crate::bindings::runtime::Level;
use crate::http::{BODY_BYTES, HEADERS, TIMEOUT, allowed, client, judged};
use crate::imports::Imports;
use crate::lines::Lines;
use aqueduct_config::worker_config::PluginGrant;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use reqwest::Client;
use std::sync::Arc;
use tokio::sync::Semaphore;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Of one instance: a guest waits for many at once. Each holds a body of at most [`BODY_BYTES`].
const UNDER_WAY: usize = 8;

/// What an instance may send.
pub(crate) struct Outgoing {
    plugin: Arc<str>,
    grant: Arc<PluginGrant>,
    lines: Arc<Lines>,
    under_way: Arc<Semaphore>,
    client: Option<Client>,
    /// In `validate`, `plan` and a transform.
    pure: bool,
}

impl Outgoing {
    pub(crate) fn new(plugin: Arc<str>, grant: Arc<PluginGrant>, lines: Arc<Lines>) -> Self {
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        Self { plugin, grant, lines, under_way, client: None, pure: true }
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
        Ok(Prepared { call, body, permit, lines })
    }
}

struct Prepared {
    call: reqwest::RequestBuilder,
    body: WasiBody,
    permit: tokio::sync::OwnedSemaphorePermit,
    lines: Arc<Lines>,
}

impl Prepared {
    async fn send(self) -> Result<http::Response<WasiBody>, Error> {
        let Self { call, body, permit, lines } = self;
        let body = Limited::new(body, BODY_BYTES).collect().await.map_err(of_body(Error::HttpRequestBodySize))?;
        let sent = call.body(body.to_bytes()).send().await.map_err(|error| told(&lines, judged(&error)))?;
        let answer = http::Response::<reqwest::Body>::from(sent);
        let body = |body: reqwest::Body| {
            let body = Limited::new(body, BODY_BYTES).map_err(of_body(Error::HttpResponseBodySize));
            // It is under way until its body is read, or dropped.
            body.map_frame(move |frame| (frame, &permit).0).boxed_unsync()
        };
        Ok(answer.map(body))
    }
}

/// The guest is told a code alone; the log says what to change.
fn told(lines: &Lines, refused: Refused) -> Error {
    match refused {
        Refused::Denied(why) => {
            lines.write(Level::Warn, &format!("a request was refused: {why}"));
            Error::HttpRequestDenied
        }
        Refused::Invalid(_) => Error::HttpRequestUriInvalid,
        Refused::Failed(why) if why.contains("in time") => Error::HttpResponseTimeout,
        Refused::Failed(_) => Error::DestinationUnavailable,
    }
}

fn of_body(too_large: fn(Option<u64>) -> Error) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
    move |error| if error.is::<LengthLimitError>() { too_large(Some(BODY_BYTES as u64)) } else { Error::HttpResponseIncomplete }
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
