//! Options, checked and typed. No value is shown in an error but of options that cannot be secrets (invariant 9).

use super::names::{NAMES, Use, find};
use super::{Acks, ClientConfig, ClientKind, ConsumerConfig, OffsetReset, ProducerConfig, security};
use aqueduct_config::nearest;
use aqueduct_core::{Error, Options, Result};
use aqueduct_log::record_batch::{Compression, MAX_BATCH_BYTES};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Above it a limit in milliseconds is none.
const MILLIS_MAX: u64 = i32::MAX as u64;

pub(super) struct Parser<'a> {
    pub(super) kind: ClientKind,
    pub(super) options: &'a Options,
}

impl ClientConfig {
    /// Every option that this kind of client does not have, or that cannot be mapped.
    pub(super) fn check_names(kind: ClientKind, options: &Options) -> Vec<Error> {
        let parser = Parser { kind, options };
        options.iter().filter_map(|(name, value)| parser.check_name(name, value).err()).collect()
    }

    /// # Errors
    /// `kafka.config` (fatal) naming the option.
    pub(crate) fn parse(kind: ClientKind, client_id: &str, options: &Options) -> Result<Self> {
        let parser = Parser { kind, options };
        for (name, value) in options {
            parser.check_name(name, value)?;
        }
        let millis = |name, default, range| parser.millis(name, default, range);
        let connect_timeout = millis("socket.connection.setup.timeout.ms", 5_000, 1..=MILLIS_MAX)?;
        // No request has less time than its connection.
        let request_timeout = millis("request.timeout.ms", 30_000, 1..=MILLIS_MAX)?.max(connect_timeout);
        let api_timeout = match kind {
            ClientKind::Producer => millis("max.block.ms", 60_000, 1..=MILLIS_MAX)?,
            _ => millis("default.api.timeout.ms", 60_000, 1..=MILLIS_MAX)?,
        };
        let buffer = |name| parser.number(name, -1, -1..=i64::from(i32::MAX)).map(|bytes| usize::try_from(bytes).ok());
        Ok(Self {
            client_id: parser.text("client.id").unwrap_or(client_id).to_owned(),
            security: security::parse(options)?,
            request_timeout,
            connect_timeout,
            api_timeout,
            backoff: (millis("retry.backoff.ms", 100, 0..=MILLIS_MAX)?, millis("retry.backoff.max.ms", 1_000, 0..=MILLIS_MAX)?),
            max_idle: millis("connections.max.idle.ms", 540_000, 1_000..=MILLIS_MAX)?,
            send_buffer: buffer("send.buffer.bytes")?,
            receive_buffer: buffer("receive.buffer.bytes")?,
            rack: parser.text("client.rack").unwrap_or_default().to_owned(),
            producer: parser.producer()?,
            consumer: parser.consumer()?,
        })
    }
}

impl Parser<'_> {
    /// Of one name.
    fn check_name(&self, name: &str, value: &str) -> Result<()> {
        let Some((_, kinds, what)) = find(name) else {
            let all = NAMES.iter().filter(|(_, kinds, _)| kinds.contains(&self.kind)).map(|(known, ..)| *known);
            let error = wrong(name, "is no option of Kafka's clients that Aqueduct knows");
            return Err(match nearest(name, all) {
                Some(near) => error.fix(format!("did you mean {near}?")),
                None => error.fix("remove the line"),
            });
        };
        if !kinds.contains(&self.kind) {
            return Err(wrong(name, format!("is no option of {}", self.kind.plural())).fix("remove the line"));
        }
        match what {
            Use::Mapped | Use::Ignored => Ok(()),
            Use::Refused(why) => Err(wrong(name, format!("cannot be mapped: {why}")).fix("remove the line")),
            Use::Always(values) => {
                let plain: String = value.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
                if values.contains(&plain.as_str()) {
                    return Ok(());
                }
                let message = format!("cannot be mapped: here it is always {}", values.join(" or "));
                Err(wrong(name, message).fix("remove the line"))
            }
        }
    }

    /// Not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str, default: i64, range: RangeInclusive<i64>) -> Result<i64> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| wrong(name, format!("{text:?} is not a number from {} to {}", range.start(), range.end())))
    }

    pub(super) fn millis(&self, name: &str, default: u64, range: RangeInclusive<u64>) -> Result<Duration> {
        let range = *range.start() as i64..=*range.end() as i64;
        Ok(Duration::from_millis(self.number(name, default as i64, range)?.unsigned_abs()))
    }

    fn bytes(&self, name: &str, default: usize, most: usize) -> Result<usize> {
        Ok(self.number(name, default as i64, 0..=most as i64)? as usize)
    }

    pub(super) fn one_of<T: Copy>(&self, name: &str, default: T, known: &[(&str, T)]) -> Result<T> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let found = known.iter().find(|(value, _)| value.eq_ignore_ascii_case(text));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|(value, _)| *value).collect();
            wrong(name, format!("{text:?} is none of {}", names.join(", ")))
        })
    }

    fn producer(&self) -> Result<ProducerConfig> {
        let acks = [("all", Acks::All), ("-1", Acks::All), ("1", Acks::Leader), ("0", Acks::None)];
        let codecs = [
            ("none", Compression::None),
            ("gzip", Compression::Gzip),
            ("snappy", Compression::Snappy),
            ("lz4", Compression::Lz4),
            ("zstd", Compression::Zstd),
        ];
        Ok(ProducerConfig {
            acks: self.one_of("acks", Acks::All, &acks)?,
            compression: self.one_of("compression.type", Compression::None, &codecs)?,
            // Not Kafka's 16 KiB: records come in batches already, and a request for each 16 KiB would cost more than they.
            batch_bytes: self.bytes("batch.size", 1 << 20, MAX_BATCH_BYTES)?,
            buffer_bytes: self.bytes("buffer.memory", 32 << 20, 1 << 40)?,
            max_request_bytes: self.bytes("max.request.size", 1 << 20, MAX_BATCH_BYTES)?,
            linger: self.millis("linger.ms", 0, 0..=MILLIS_MAX)?,
            in_flight: self.number("max.in.flight.requests.per.connection", 5, 1..=5)? as usize,
            transaction_timeout: self.millis("transaction.timeout.ms", 60_000, 1_000..=MILLIS_MAX)?,
            delivery_timeout: self.millis("delivery.timeout.ms", 120_000, 1..=MILLIS_MAX)?,
        })
    }

    fn consumer(&self) -> Result<ConsumerConfig> {
        let resets = [("earliest", OffsetReset::Earliest), ("latest", OffsetReset::Latest), ("none", OffsetReset::Refuse)];
        Ok(ConsumerConfig {
            fetch_bytes: self.bytes("fetch.max.bytes", 50 << 20, i32::MAX as usize)?,
            partition_bytes: self.bytes("max.partition.fetch.bytes", 1 << 20, i32::MAX as usize)?,
            min_bytes: self.bytes("fetch.min.bytes", 1, i32::MAX as usize)?,
            fetch_wait: self.millis("fetch.max.wait.ms", 500, 0..=MILLIS_MAX)?,
            max_poll_interval: self.millis("max.poll.interval.ms", 300_000, 1..=MILLIS_MAX)?,
            offset_reset: self.one_of("auto.offset.reset", OffsetReset::Earliest, &resets)?,
        })
    }
}

impl ClientKind {
    fn plural(self) -> &'static str {
        match self {
            Self::Producer => "producers",
            Self::Consumer => "consumers",
            Self::Admin => "admin clients",
        }
    }
}

pub(super) fn wrong(name: &str, what: impl Display) -> Error {
    Error::fatal("kafka.config", format!("{name}: {what}"))
}
