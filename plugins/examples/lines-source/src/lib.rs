//! Lines by WASI, which has files, sockets and HTTP: of a TCP server (a stream has no position: what was sent while nobody read is gone), of a file, or of a page.

use aqueduct_sdk::{Error, Issue, Limits, Polled, Result, Share, Source, SourceOffset, export_plugin, metrics, now_ms};
use serde::Deserialize;
use std::time::Duration;
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{ErrorCode as HttpCode, Fields, IncomingBody, IncomingResponse, OutgoingRequest, Scheme};
use wasip2::io::poll::poll;
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, Network,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

#[derive(Deserialize)]
pub struct Config {
    topic: String,
    connect: Option<String>,
    file: Option<String>,
    url: Option<String>,
    patient: bool,
}

const READ_BYTES: u64 = 64 << 10;

pub struct Lines {
    config: Config,
    input: Option<Input>,
    /// Of a line that has no end yet.
    rest: Vec<u8>,
}

/// Dropped in this order: the streams before what they are of.
struct Input {
    stream: InputStream,
    _output: Option<OutputStream>,
    _of: Of,
}

#[allow(dead_code, reason = "kept until the stream is dropped")]
enum Of {
    Nothing,
    Socket(TcpSocket),
    Page(IncomingBody, IncomingResponse),
}

impl Source for Lines {
    type Config = Config;

    fn validate(config: &Config) -> Vec<Issue> {
        let given = [&config.connect, &config.file, &config.url].into_iter().flatten().count();
        match given {
            1 => Vec::new(),
            _ => vec![Issue::error("", "one of connect, file and url is needed", "set the one that has the lines")],
        }
    }

    fn open(config: Config, _: Share, _: Vec<SourceOffset>) -> Result<Self> {
        let input = match (&config.connect, &config.file, &config.url) {
            (Some(server), ..) => connect(server)?,
            (_, Some(path), _) => Input { stream: file(path)?, _output: None, _of: Of::Nothing },
            (.., Some(url)) => page(url)?,
            _ => return Err(Error::fatal("config", "none of connect, file and url is set")),
        };
        Ok(Self { config, input: Some(input), rest: Vec::new() })
    }

    fn poll(&mut self, limits: Limits) -> Result<Polled> {
        let mut polled = Polled::default();
        let Some(input) = &self.input else {
            aqueduct_sdk::sleep(limits.wait);
            return Ok(polled);
        };
        let read = if self.config.patient { input.stream.blocking_read(READ_BYTES) } else { read(&input.stream, limits.wait) };
        match read {
            Ok(bytes) => self.rest.extend(bytes),
            // What the server had to say is said.
            Err(StreamError::Closed) => self.input = None,
            Err(error) => return Err(Error::retriable("read", format!("{error:?}"))),
        }
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n').filter(|_| polled.batch.len() < limits.max_records)
        {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            polled.record(&self.config.topic, None, Some(&line[..end]), Some(now_ms()));
        }
        let from = if self.config.connect.is_some() { "socket" } else { "file" };
        metrics::add("lines", &[("from", from)], polled.batch.len() as f64);
        metrics::set("unfinished_bytes", &[], self.rest.len() as f64);
        Ok(polled)
    }
}

/// What comes within the time.
fn read(stream: &InputStream, wait: Duration) -> Result<Vec<u8>, StreamError> {
    let (ready, over) = (stream.subscribe(), monotonic_clock::subscribe_duration(wait.as_nanos() as u64));
    poll(&[&ready, &over]);
    stream.read(READ_BYTES)
}

fn failed(what: &str, error: ErrorCode) -> Error {
    let message = format!("{what}: {}", error.name());
    if error == ErrorCode::AccessDenied { Error::fatal("denied", message) } else { Error::retriable("connect", message) }
}

fn connect(server: &str) -> Result<Input> {
    let parts = server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let (host, port) = parts.ok_or_else(|| Error::fatal("config", "connect is no host:port"))?;
    let network = instance_network();
    let found = resolve_addresses(&network, host).map_err(|error| failed(host, error))?;
    let ready = found.subscribe();
    let mut last = Error::retriable("connect", format!("{host} has no address"));
    loop {
        match found.resolve_next_address() {
            Ok(Some(ip)) => match dial(&network, ip, port) {
                Ok(input) => return Ok(input),
                Err(error) => last = failed(server, error),
            },
            Ok(None) => return Err(last),
            Err(ErrorCode::WouldBlock) => ready.block(),
            Err(error) => return Err(failed(host, error)),
        }
    }
}

fn dial(network: &Network, ip: IpAddress, port: u16) -> Result<Input, ErrorCode> {
    let (family, address) = match ip {
        IpAddress::Ipv4(address) => (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })),
        IpAddress::Ipv6(address) => {
            let address = Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    };
    let socket = create_tcp_socket(family)?;
    // Nobody may listen: an example of what the host refuses, whatever is granted.
    if socket.start_listen().is_ok() {
        return Err(ErrorCode::Unknown);
    }
    socket.start_connect(network, address)?;
    loop {
        match socket.finish_connect() {
            Ok((stream, output)) => return Ok(Input { stream, _output: Some(output), _of: Of::Socket(socket) }),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

fn page(url: &str) -> Result<Input> {
    let wrong = || Error::fatal("config", "url is no http:// or https:// URL");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_scheme(Some(&scheme)).and(request.set_authority(Some(authority))).map_err(|()| wrong())?;
    request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(|()| wrong())?;
    let refused = |error: HttpCode| {
        let message = format!("{url}: {error:?}");
        let is_denied = matches!(error, HttpCode::HttpRequestDenied);
        if is_denied { Error::fatal("denied", message) } else { Error::retriable("page", message) }
    };
    let answer = handle(request, None).map_err(refused)?;
    let response = loop {
        match answer.get() {
            Some(Ok(answered)) => break answered.map_err(refused)?,
            Some(Err(())) => return Err(Error::retriable("page", "it was answered before")),
            None => answer.subscribe().block(),
        }
    };
    if response.status() != 200 {
        return Err(Error::retriable("page", format!("{url}: status {}", response.status())));
    }
    let gone = |()| Error::retriable("page", format!("{url}: it has no body"));
    let body = response.consume().map_err(gone)?;
    let stream = body.stream().map_err(gone)?;
    Ok(Input { stream, _output: None, _of: Of::Page(body, response) })
}

fn file(path: &str) -> Result<InputStream> {
    let missing = || Error::fatal("file", format!("{path} is in none of the folders that are granted"));
    let folders = get_directories();
    let below = |granted: &str| path.strip_prefix(granted).and_then(|rest| rest.strip_prefix('/'));
    let (folder, rest) = folders.iter().find_map(|(folder, name)| Some((folder, below(name)?))).ok_or_else(missing)?;
    let opened = folder.open_at(PathFlags::empty(), rest, OpenFlags::empty(), DescriptorFlags::READ);
    let file = opened.map_err(|error| Error::fatal("file", format!("{path}: {}", error.name())))?;
    file.read_via_stream(0).map_err(|error| Error::fatal("file", format!("{path}: {}", error.name())))
}

export_plugin!(metadata: "../plugin.json", source: Lines);
