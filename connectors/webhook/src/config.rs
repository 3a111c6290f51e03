//! The options of `webhook-source`.

mod check;

pub(crate) use check::{Address, EventId, Key, Settings, never_copied};

use aqueduct_config::{ByteSize, List, Millis, PathText, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Content {
    #[default]
    Single,
    Array,
    Ndjson,
    CloudEvents,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ValueFormat {
    #[default]
    Bytes,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthKind {
    #[default]
    None,
    Bearer,
    Basic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scheme {
    #[default]
    None,
    Github,
    Stripe,
    Slack,
    StandardWebhooks,
    Custom,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Hex,
    Base64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Algorithm {
    Sha1,
    #[default]
    Sha256,
    Sha512,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Where to listen: `http://` or `https://`, an address of this machine and a port. Connectors with the same address share the listener; their
    /// paths, and only these, must differ.
    #[schemars(extend("x-importance" = "high", "x-group" = "Listener", "x-example" = "http://127.0.0.1:8088"))]
    listener: String,
    /// The paths to take requests at. `{name}` stands for one segment.
    #[schemars(length(min = 1), extend("x-importance" = "high", "x-group" = "Listener", "x-example" = "/orders"))]
    path: List<String>,
    /// The methods to take: `POST`, `PUT`, `PATCH`.
    #[serde(default = "post")]
    #[schemars(extend("x-group" = "Listener"))]
    methods: List<String>,
    /// Listens on an address that other machines reach though neither `auth`, `signature.scheme` nor client certificates say who may send.
    #[serde(rename = "allow.unauthenticated", default)]
    #[schemars(extend("x-group" = "Listener"))]
    allow_unauthenticated: bool,
    /// How many connections the listener holds at once; more wait until one ends.
    #[serde(rename = "connections.max", default = "connections")]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-importance" = "low", "x-group" = "Listener"))]
    connections_max: u32,
    /// The server's certificate and what it was signed with, PEM. A file that changes is read anew.
    #[serde(rename = "ssl.certificate.location", default)]
    #[schemars(extend("x-group" = "Listener"))]
    certificate: Option<PathText>,
    /// The private key of the certificate, PEM.
    #[serde(rename = "ssl.key.location", default)]
    #[schemars(extend("x-group" = "Listener"))]
    private_key: Option<PathText>,
    /// Authorities, PEM: only clients with a certificate of theirs may connect.
    #[serde(rename = "ssl.ca.location", default)]
    #[schemars(extend("x-group" = "Listener"))]
    client_ca: Option<PathText>,

    /// The topic. `{name}` is a segment of the path.
    #[schemars(extend("x-importance" = "high", "x-group" = "Records", "x-example" = "orders"))]
    topic: String,
    /// The record's key: `header:NAME`, `json:/pointer` into the record, or `path:name`. Null if not given or not there.
    #[serde(default)]
    #[schemars(extend("x-group" = "Records", "x-example" = "json:/customer/id"))]
    key: Option<String>,
    /// What a body holds: one record, a JSON array of records, records a line each, or CloudEvents (structured, binary or batch, as the content type says).
    /// All records of a body are stored in one commit, or none.
    #[serde(rename = "body.format", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Records"))]
    content: Content,
    /// `bytes`: as they came, parsed only as far as other options ask. `json`: structured, for transforms and JSON converters.
    #[serde(rename = "value.format", default)]
    #[schemars(extend("x-group" = "Records"))]
    value: ValueFormat,
    /// Request headers that become headers of the record; `x-github-*` is all that begin so. Never those that carry credentials or signatures.
    #[serde(default)]
    #[schemars(extend("x-group" = "Records", "x-example" = "content-type,x-github-event"))]
    headers: List<String>,

    /// By what an event is known when it is sent again: `header:NAME`, `json:/pointer` into the record, `none`, or `auto`: what the signature scheme or
    /// CloudEvents say, else the first of the headers `webhook-id`, `Idempotency-Key` and `X-GitHub-Delivery`. A repeat is answered as the first was, and stored once.
    #[serde(rename = "idempotency.key", default = "auto")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Repeats"))]
    idempotency: String,
    /// How long an event is known.
    #[serde(rename = "idempotency.ttl.ms", default = "one_day")]
    #[schemars(range(min = 1000, max = 2_592_000_000_u64), extend("x-group" = "Repeats"))]
    ids_ttl: Millis,
    /// How many events are known at most; the oldest are forgotten first. Each takes 30 bytes of the stored offsets and 60 of memory.
    #[serde(rename = "idempotency.max.ids", default = "hundred_thousand")]
    #[schemars(range(min = 1, max = 10_000_000), extend("x-group" = "Repeats"))]
    ids_max: u32,

    /// Who may send, beside the signature.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Authentication"))]
    auth: AuthKind,
    /// With `auth: bearer`: the token. Several (a comma list) while one replaces another.
    #[serde(rename = "auth.token", default)]
    #[schemars(extend("x-group" = "Authentication"))]
    token: Option<Secret>,
    /// With `auth: basic`: the user.
    #[serde(rename = "auth.username", default)]
    #[schemars(extend("x-group" = "Authentication"))]
    username: Option<String>,
    /// With `auth: basic`: the password. Several (a comma list) while one replaces another.
    #[serde(rename = "auth.password", default)]
    #[schemars(extend("x-group" = "Authentication"))]
    password: Option<Secret>,
    /// Whose signatures are verified; `standard-webhooks` is Svix's too, and `custom` is what the options `signature.*` say.
    #[serde(rename = "signature.scheme", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Authentication"))]
    scheme: Scheme,
    /// The secret that signatures are made with. Several (a comma list) while one replaces another.
    #[serde(rename = "signature.secret", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Authentication"))]
    secret: Option<Secret>,
    /// How far a signed time may be from now, either way: an older request may be a copy.
    #[serde(rename = "signature.tolerance.ms", default = "five_minutes")]
    #[schemars(range(min = 1000, max = 86_400_000), extend("x-group" = "Authentication"))]
    tolerance: Millis,
    /// With `custom`: the header of the signature.
    #[serde(rename = "signature.header", default)]
    #[schemars(extend("x-group" = "Authentication", "x-example" = "x-shopify-hmac-sha256"))]
    signature_header: Option<String>,
    /// With `custom`: how the signature is written.
    #[serde(rename = "signature.encoding", default)]
    #[schemars(extend("x-group" = "Authentication"))]
    encoding: Encoding,
    /// With `custom`: the hash of the HMAC.
    #[serde(rename = "signature.algorithm", default)]
    #[schemars(extend("x-group" = "Authentication"))]
    algorithm: Algorithm,
    /// With `custom`: what stands in front of the signature.
    #[serde(rename = "signature.prefix", default)]
    #[schemars(extend("x-group" = "Authentication", "x-example" = "sha256="))]
    prefix: String,
    /// With `custom`: what is signed, of `{body}`, `{timestamp}` and `{header:NAME}`.
    #[serde(rename = "signature.content", default = "body")]
    #[schemars(extend("x-group" = "Authentication", "x-example" = "{timestamp}.{body}"))]
    signed: String,
    /// With `custom`: the header of the time, in seconds since 1970. Without it a copy of a request cannot be told from the request.
    #[serde(rename = "signature.timestamp.header", default)]
    #[schemars(extend("x-group" = "Authentication"))]
    timestamp_header: Option<String>,
    /// Answers Meta's `GET …?hub.mode=subscribe` where it brings this token. Slack's `url_verification` is always answered, with `signature.scheme: slack`.
    #[serde(rename = "challenge.verify.token", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Authentication"))]
    verify_token: Option<Secret>,

    /// The status of the answer when the records are durable: 200, 201, 202 or 204.
    #[serde(rename = "response.status", default = "ok")]
    #[schemars(range(min = 200, max = 204), extend("x-group" = "Answers"))]
    status: u16,
    /// The body of that answer, at most 4 KiB.
    #[serde(rename = "response.body", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Answers"))]
    response: String,
    /// The content type of that body.
    #[serde(rename = "response.content.type", default = "text")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Answers"))]
    response_type: String,
    /// How long a request waits to be durable; then the answer is 504, and nobody knows: the sender must send it again.
    #[serde(rename = "response.timeout.ms", default = "thirty_seconds")]
    #[schemars(range(min = 100, max = 600_000), extend("x-importance" = "low", "x-group" = "Answers"))]
    response_timeout: Millis,

    /// The largest body; a larger one is answered with 413.
    #[serde(rename = "body.max.bytes", default = "eight_mib")]
    #[schemars(range(min = 1, max = 67_108_864), extend("x-group" = "Limits"))]
    body_max: ByteSize,
    /// The largest record (key, value and headers); a request with a larger one is answered with 413. Not more than the topic's `max.message.bytes`, or
    /// one request can stop the connector.
    #[serde(rename = "record.max.bytes", default = "one_megabyte")]
    #[schemars(range(min = 1, max = 67_108_864), extend("x-group" = "Limits"))]
    record_max: ByteSize,
    /// What may wait in memory: bodies as far as they have come, and requests that are not durable yet. What is more is answered with 429.
    #[serde(rename = "queue.max.bytes", default = "sixty_four_mib")]
    #[schemars(range(min = 4096, max = 8_589_934_592_u64), extend("x-group" = "Limits"))]
    queue_max: ByteSize,
    /// How long a body may take to come.
    #[serde(rename = "body.timeout.ms", default = "thirty_seconds")]
    #[schemars(range(min = 100, max = 600_000), extend("x-importance" = "low", "x-group" = "Limits"))]
    body_timeout: Millis,
}

fn post() -> List<String> {
    List(vec!["POST".to_owned()])
}
fn connections() -> u32 {
    16_384
}
fn auto() -> String {
    "auto".to_owned()
}
fn one_day() -> Millis {
    Millis::from_secs(86_400)
}
fn hundred_thousand() -> u32 {
    100_000
}
fn five_minutes() -> Millis {
    Millis::from_secs(300)
}
fn body() -> String {
    "{body}".to_owned()
}
fn ok() -> u16 {
    200
}
fn text() -> String {
    "text/plain".to_owned()
}
fn thirty_seconds() -> Millis {
    Millis::from_secs(30)
}
fn eight_mib() -> ByteSize {
    ByteSize::mib(8)
}
fn one_megabyte() -> ByteSize {
    ByteSize(1_000_000)
}
fn sixty_four_mib() -> ByteSize {
    ByteSize::mib(64)
}
