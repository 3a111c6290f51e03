//! `mqtt-source`: messages of MQTT topics to the log, acknowledged when they are durable there.

mod config;
mod records;
mod session;

pub use config::Config;

use crate::client_id;
use crate::connection::{self, Connection, Manner};
use crate::error;
use crate::topic::Filter;
use crate::wire::{self, Ack, Incoming, Version};
use aqueduct_config::SourceConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{
    BatchBuilder, Error, Issue, JsonMap, Measure, Polled, Report, Result, SourceOffset, SourceTask, TaskContext, TaskSpec,
};
use async_trait::async_trait;
use config::{Lost, Settings};
use records::Records;
use session::{Fate, Session, Stored};
use std::time::Duration;
use tokio::time::Instant;

pub struct MqttSource;

#[async_trait]
impl SourceConnector for MqttSource {
    type Config = Config;
    type Task = MqttSourceTask;
    const NAME: &'static str = "mqtt-source";
    const ALIASES: &'static [&'static str] = &["io.confluent.connect.mqtt.MqttSourceConnector"];
    const SUMMARY: &'static str =
        "Subscribes to topics of an MQTT broker and acknowledges a message when it is durable in the log.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings().err().unwrap_or_default()
    }

    fn check_offset(offset: &SourceOffset) -> Result<()> {
        session::check(offset)
    }

    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        config.settings().map_err(|issues| invalid(&issues))?;
        Ok(config::plan(tasks_max))
    }

    async fn open(config: Config, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<MqttSourceTask> {
        let settings = config.settings().map_err(|issues| invalid(&issues))?;
        MqttSourceTask::open(settings, &task, &resume).await
    }
}

/// Packet ids of the two packets that we number ourselves: they are answered before others are sent.
const SUBSCRIBE: u16 = 1;
const UNSUBSCRIBE: u16 = 2;

/// While a commit is under way, which the next one waits for anyway, fewer messages than this wait so long for more: an append for each would cost ten times the CPU.
const FEW: usize = 8;
const LINGER: Duration = Duration::from_millis(1);

/// In bytes: what our own headers and the tables of a batch take.
const RECORD_OVERHEAD: usize = 1024;

pub struct MqttSourceTask {
    settings: Settings,
    client_id: String,
    connection: Connection,
    session: Session,
    session_present: bool,
    /// What is asked of the broker, and until when it is to answer.
    subscribing: Option<(Vec<String>, Instant)>,
    records: Records,
    counts: Counts,
}

/// Since the task was opened.
#[derive(Debug, Default)]
struct Counts {
    messages: u64,
    /// Messages of QoS 2 that came again and were known.
    known: u64,
    /// Messages with DUP that became records.
    again: u64,
}

impl MqttSourceTask {
    async fn open(settings: Settings, task: &TaskSpec, resume: &[SourceOffset]) -> Result<Self> {
        let (index, tasks) = config::share(task);
        let id = settings.client.id()?;
        let client_id = client_id::of_task(id, index);
        if index == 0 {
            left_behind(id, tasks, resume);
        }
        let stored = Stored::find(&client_id, resume);
        let manner = settings.manner(&client_id);
        let (mut connection, connack) = connection::open(&settings.client, &manner).await?;
        if tasks > 1 && !connack.shared_available {
            return Err(
                Error::fatal("mqtt.shared", format!("{} has no shared subscriptions", connection.place)).fix("set tasks.max: 1")
            );
        }
        let expected = !settings.clean && stored.is_some();
        let mut session = Session::new(stored.unwrap_or_default());
        if !connack.session_present {
            if expected {
                connection = lost(connection, &settings, &manner).await?;
            }
            session.begin_anew(expected);
        }
        let group = (tasks > 1).then_some(id);
        let wanted: Vec<String> = settings.filters.iter().map(|filter| filter.subscription(group)).collect();
        let unwritable = |why| Error::fatal("mqtt.config", format!("mqtt.topics cannot be written: {why:?}"));
        // A session keeps what was subscribed to once, whatever the config says now.
        let stale: Vec<String> = session.stored.filters.iter().filter(|filter| !wanted.contains(filter)).cloned().collect();
        if !stale.is_empty() {
            wire::unsubscribe(connection.version, UNSUBSCRIBE, &stale, &mut connection.output).map_err(unwritable)?;
        }
        wire::subscribe(connection.version, SUBSCRIBE, &wanted, settings.qos, settings.retained, &mut connection.output)
            .map_err(unwritable)?;
        connection.turn_now(false)?;
        let deadline = Instant::now() + settings.client.timeout;
        tracing::info!(place = connection.place, client = client_id, session_present = connack.session_present, "connected");
        Ok(Self {
            records: Records::new(&settings),
            session,
            session_present: connack.session_present,
            subscribing: Some((wanted, deadline)),
            counts: Counts::default(),
            connection,
            client_id,
            settings,
        })
    }

    /// Takes packets that are there whole, as far as the batch and the bound on what is unanswered allow.
    fn take(&mut self, cx: &TaskContext, batch: &mut BatchBuilder) -> Result<()> {
        loop {
            if self.connection.publish_is_next() && !self.has_room(cx, batch) {
                return Ok(());
            }
            match self.connection.next()? {
                None => return Ok(()),
                Some(Incoming::Publish(publish)) => self.message(publish, batch),
                Some(Incoming::Ack { kind: Ack::Pubrel, pid, .. }) => {
                    self.session.released(pid, self.connection.version == Version::V5);
                }
                Some(Incoming::Suback { pid: SUBSCRIBE, codes }) => self.subscribed(&codes)?,
                Some(Incoming::Unsuback | Incoming::Pong) => {}
                Some(_) => return Err(error::malformed(&self.connection.place, "an answer to what was not asked")),
            }
        }
    }

    fn has_room(&self, cx: &TaskContext, batch: &BatchBuilder) -> bool {
        // Invariant 6: what is not durable is bounded in messages here, in bytes by the worker, which stops polling.
        self.session.unsettled() < self.settings.max_inflight.into()
            && batch.len() < cx.max_records
            && (batch.is_empty() || batch.bytes() + self.connection.next_bytes() + RECORD_OVERHEAD <= cx.max_bytes)
    }

    fn message(&mut self, publish: wire::Publish, batch: &mut BatchBuilder) {
        match self.session.received(publish.qos, publish.pid, publish.dup) {
            Fate::Known => {
                self.counts.known += 1;
                return;
            }
            Fate::Record => {}
            Fate::Reused => tracing::warn!(
                client = self.client_id,
                id = publish.pid,
                "the broker has begun another message under an id that is not released"
            ),
        }
        if publish.retain && self.settings.drops_retained {
            return;
        }
        self.counts.messages += 1;
        self.counts.again += u64::from(publish.dup);
        batch.push(self.records.record(publish));
    }

    fn subscribed(&mut self, codes: &[u8]) -> Result<()> {
        let Some((filters, _)) = self.subscribing.take() else { return Ok(()) };
        for (filter, code) in filters.iter().zip(codes) {
            if *code >= 0x80 {
                let place = &self.connection.place;
                return Err(Error::fatal(
                    "mqtt.subscribe_refused",
                    format!("{place} refuses {filter:?}: {}", error::reason(*code, None)),
                )
                .fix("grant the user the right to read these topics, or correct mqtt.topics"));
            }
            if *code < self.settings.qos {
                tracing::warn!(client = self.client_id, filter, granted = code, "the broker grants a lower QoS than mqtt.qos");
            }
        }
        if codes.len() != filters.len() {
            return Err(error::malformed(&self.connection.place, "a SUBACK of other filters"));
        }
        self.session.subscribed(filters);
        Ok(())
    }

    /// What was taken, and the offset that goes with it.
    fn polled(&mut self, batch: BatchBuilder) -> Polled {
        Polled { batch: batch.finish(), resume: vec![self.session.step(&self.client_id)] }
    }
}

#[async_trait]
impl SourceTask for MqttSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        let deadline = Instant::now() + cx.wait_max;
        let (mut batch, mut linger) = (BatchBuilder::new(), None);
        loop {
            self.take(cx, &mut batch)?;
            let room = self.has_room(cx, &batch);
            // What has come meanwhile joins the batch; nothing is waited for.
            match self.connection.turn_now(room) {
                Ok(true) => continue,
                Ok(false) => {}
                // The next poll finds the same; what came before it counts, with QoS 0 too.
                Err(_) if !batch.is_empty() => return Ok(self.polled(batch)),
                Err(error) => return Err(error),
            }
            let few = batch.len() < FEW && room && self.session.is_waiting() && !cx.interrupt.is_cancelled();
            if !batch.is_empty() || self.session.is_changed() {
                let until = *linger.get_or_insert_with(|| Instant::now() + LINGER);
                if !few || Instant::now() >= until {
                    return Ok(self.polled(batch));
                }
            }
            if let Some((_, until)) = &self.subscribing
                && Instant::now() >= *until
            {
                return Err(error::timeout(&self.connection.place, "no answer to the subscription"));
            }
            if linger.is_none() && (cx.interrupt.is_cancelled() || Instant::now() >= deadline) {
                return Ok(Polled::default());
            }
            let until = [linger, self.subscribing.as_ref().map(|(_, until)| *until)];
            let until = until.into_iter().flatten().fold(deadline, Instant::min);
            tokio::select! {
                biased;
                turned = self.connection.turn(room, until) => match turned {
                    Err(_) if !batch.is_empty() => return Ok(self.polled(batch)),
                    turned => drop(turned?),
                },
                () = cx.interrupt.cancelled() => {}
            }
        }
    }

    async fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        for answer in self.session.durable(&self.client_id, durable) {
            wire::acknowledge(answer.kind, answer.pid, answer.reason, &mut self.connection.output);
        }
        // Without waiting: the next poll sends the rest.
        self.connection.turn_now(false).map(drop)
    }

    fn report(&self) -> Report {
        let (place, id, qos) = (&self.connection.place, &self.client_id, self.settings.qos);
        let mut summary = format!("{id} at {place}, QoS {qos}");
        if qos == 0 {
            summary.push_str(": at most once, a message that is under way when the worker ends is lost");
        }
        if self.session.stored.lost > 0 {
            summary
                .push_str(&format!("; the broker has lost the session {} times, and messages with it", self.session.stored.lost));
        }
        let (lost, held, unsettled) = (self.session.stored.lost, self.session.stored.held.len(), self.session.unsettled());
        let mut detail = JsonMap::new();
        for (name, value) in [
            ("broker", place.clone().into()),
            ("client_id", id.clone().into()),
            ("qos", qos.into()),
            ("delivery", ["at most once", "at least once", "exactly once in a session"][usize::from(qos.min(2))].into()),
            ("session_present", self.session_present.into()),
            ("sessions_lost", lost.into()),
            ("unacknowledged", unsettled.into()),
            ("held", held.into()),
            ("messages", self.counts.messages.into()),
            ("known", self.counts.known.into()),
        ] {
            detail.insert(name.to_owned(), value);
        }
        let measures = vec![
            Measure::new("mqtt_unacknowledged_messages", "Messages that the broker waits for an answer to.", unsettled as f64),
            Measure::new("mqtt_sessions_lost", "How often the broker had no session where there was one.", lost as f64),
            Measure::new(
                "mqtt_suppressed_messages",
                "Messages of QoS 2 that came again, since the task began.",
                self.counts.known as f64,
            ),
            Measure::new(
                "mqtt_redelivered_messages",
                "Messages with DUP that became records, since the task began.",
                self.counts.again as f64,
            ),
        ];
        Report { summary, detail, measures }
    }

    async fn close(&mut self) -> Result<()> {
        self.connection.end(false).await;
        Ok(())
    }
}

/// The broker has no session where there was one: goes on, or ends so that the next start finds the same.
async fn lost(connection: Connection, settings: &Settings, manner: &Manner<'_>) -> Result<Connection> {
    let text = format!(
        "{} has no session of {:?}, where there was one: what was published since then, and was not acknowledged, is lost",
        connection.place, manner.client_id
    );
    if settings.lost == Lost::Warn {
        tracing::warn!("{text}");
        return Ok(connection);
    }
    // The new session that CONNECT has made must go, or the next start would take it for the old one.
    let version = connection.version;
    let mut connection = connection;
    connection.end(true).await;
    if version == Version::V3 {
        let (mut clean, _) = connection::open(&settings.client, &Manner { clean: true, ..*manner }).await?;
        clean.end(true).await;
    }
    Err(Error::fatal("mqtt.session_lost", text).fix(
        "see why (persistence, mqtt.session.expiry.seconds, a broker that was set up anew); to go on, delete the connector's offsets or set mqtt.session.lost: warn",
    ))
}

/// Sessions of tasks that are no more: the broker goes on to queue for them.
fn left_behind(id: &str, tasks: u32, resume: &[SourceOffset]) {
    let tasks: Vec<String> = (0..tasks).map(|index| client_id::of_task(id, index)).collect();
    let left: Vec<&str> = session::clients(resume).filter(|client| !tasks.iter().any(|task| task == client)).collect();
    if !left.is_empty() {
        tracing::warn!("sessions that no task reads any more, for which the broker may keep messages: {}", left.join(", "));
    }
}

impl Settings {
    fn manner<'a>(&self, client_id: &'a str) -> Manner<'a> {
        Manner { client_id, clean: self.clean, session_expiry: self.session_expiry, receive_maximum: self.max_inflight }
    }
}

/// All filters, for a message that may match any.
fn captures<'a>(filters: &[Filter], topic: &'a str) -> Vec<&'a str> {
    filters.iter().find_map(|filter| filter.captures(topic)).unwrap_or_default()
}
