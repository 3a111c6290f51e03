//! A component's `sink`.

use crate::bindings::sink::SinkPlugin as World;
use crate::error::{clean, poisoned};
use crate::frames;
use crate::guest::Guest;
use crate::imports::{Reach, World as Kind};
use crate::measures::Measures;
use crate::parts::{FAILURES, Parts, crashed, is_crash, keep};
use crate::plugin::Common;
use aqueduct_core::{
    Ack, Batch, Descriptor, Error, Issue, Options, Rejects, Report, Result, SinkPlugin, SinkTask, Stage, TaskContext, TaskSpec,
};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) struct Sink(pub(crate) Arc<Common>);

#[async_trait]
impl SinkPlugin for Sink {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.0.validate(options)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        self.0.judged(options)?;
        Ok(vec![TaskSpec::new(); tasks_max.max(1) as usize])
    }

    async fn open(&self, options: &Options, _: TaskSpec) -> Result<Box<dyn SinkTask>> {
        let config = self.0.config(options)?;
        let measures = Arc::default();
        let guest = open(&self.0, &config, &measures).await?;
        let reports = watch::Sender::new(Report::default());
        Ok(Box::new(Task { common: self.0.clone(), config, guest, measures, reports, buffered: false }))
    }
}

async fn open(common: &Common, config: &str, measures: &Arc<Measures>) -> Result<Guest<World>> {
    let config = config.to_owned();
    let mut guest = common.start::<World>(Kind::Task, measures).await?;
    let opened = guest.call("open", Reach::World, move |live| {
        Box::pin(async move { live.bindings.aqueduct_connector_sink().call_open(&mut live.store, &config).await })
    });
    let opened = opened.await?;
    guest.returned("open", opened)?;
    guest.opened();
    Ok(guest)
}

struct Task {
    common: Arc<Common>,
    config: String,
    guest: Guest<World>,
    measures: Arc<Measures>,
    reports: watch::Sender<Report>,
    /// It holds what it has not made durable: an instance that took its place would not have it.
    buffered: bool,
}

impl Task {
    async fn put_once(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<Ack> {
        let frame = frames::write(batch);
        let put = self.guest.call("put", Reach::World, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_sink().call_put(&mut live.store, &frame).await })
        });
        let put = put.await?;
        let put = self.guest.returned("put", put)?;
        let name = self.guest.plugin();
        let rejected = put.rejected.into_iter().map(|reject| (reject.record_index, self.guest.redact(reject.message)));
        refuse(batch, name, Stage::TaskPut, rejected, rejects).map_err(|what| poisoned(name, "put", what))?;
        self.buffered = !put.durable;
        Ok(if put.durable { Ack::Durable } else { Ack::Buffered })
    }

    /// After each call that may have measured something.
    fn tell(&self) {
        if self.measures.take_changed() {
            let measures = self.measures.all(&self.common.name);
            self.reports.send_replace(Report { measures, ..Report::default() });
        }
    }

    /// One part, durable in the target.
    async fn put_durably(&mut self, part: &Batch, rejects: &mut Rejects) -> Result<()> {
        let mut own = Rejects::default();
        if self.put_once(part, &mut own).await? == Ack::Buffered {
            self.flush().await?;
        }
        keep(&mut own, rejects);
        Ok(())
    }

    /// A batch that ended its instance too often: each half is made durable before the next one, so that nothing is lost with an instance, and a
    /// record that ends one alone is refused.
    async fn put_in_parts(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<()> {
        if self.buffered {
            self.flush().await?;
        }
        let mut parts = Parts::of(batch.len());
        while let Some(range) = parts.next() {
            let part = batch.slice(range.clone());
            let Err(error) = self.put_durably(&part, rejects).await else { continue };
            if !is_crash(&error) || parts.is_late() {
                return Err(error);
            }
            self.guest = open(&self.common, &self.config, &self.measures).await?;
            self.buffered = false;
            if parts.halve(range) {
                continue;
            }
            tracing::warn!(plugin = self.guest.plugin(), "a record ends its instance and is refused: {error}");
            for record in part.iter() {
                rejects.push(record.to_record(), Stage::TaskPut, self.guest.plugin(), crashed(&error));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SinkTask for Task {
    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<Ack> {
        if !self.buffered && self.guest.has_grown() {
            self.close().await?;
            self.guest = open(&self.common, &self.config, &self.measures).await?;
        }
        if self.common.failures.count(&cx.task, batch) >= FAILURES {
            self.put_in_parts(batch, rejects).await?;
            self.common.failures.done(&cx.task, batch);
            return Ok(Ack::Durable);
        }
        let put = self.put_once(batch, rejects).await;
        self.tell();
        match &put {
            Ok(_) => self.common.failures.done(&cx.task, batch),
            // The task is opened again and given what is not committed, of which this batch is a part.
            Err(error) if is_crash(error) => self.common.failures.add(&cx.task, batch),
            Err(_) => {}
        }
        put
    }

    async fn flush(&mut self) -> Result<()> {
        let flushed = self.guest.call("flush", Reach::World, |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_sink().call_flush(&mut live.store).await })
        });
        let flushed = flushed.await?;
        self.guest.returned("flush", flushed)?;
        self.buffered = false;
        self.tell();
        Ok(())
    }

    fn reports(&self) -> Option<watch::Receiver<Report>> {
        Some(self.reports.subscribe())
    }

    async fn close(&mut self) -> Result<()> {
        let closed = self.guest.call("close", Reach::World, |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_sink().call_close(&mut live.store).await })
        });
        let closed = closed.await?;
        self.guest.returned("close", closed)
    }
}

/// Records by their index go to the dead letter queue; each once.
pub(crate) fn refuse(
    batch: &Batch,
    plugin: &str,
    stage: Stage,
    rejected: impl ExactSizeIterator<Item = (u32, String)>,
    rejects: &mut Rejects,
) -> Result<(), String> {
    if rejected.len() == 0 {
        return Ok(());
    }
    let records: Vec<_> = batch.iter().collect();
    let mut given: Vec<(u32, String)> = rejected.collect();
    given.sort_by_key(|(index, _)| *index);
    for pair in given.windows(2) {
        if pair[0].0 == pair[1].0 {
            return Err(format!("record {} is rejected twice", pair[0].0));
        }
    }
    if let Some((index, _)) = given.last().filter(|(index, _)| *index as usize >= records.len()) {
        return Err(format!("record {index} is rejected, where there are {}", records.len()));
    }
    for (index, message) in given {
        let error = Error::fatal(format!("plugin.{plugin}.rejected"), clean(&message, 1000));
        rejects.push(records[index as usize].to_record(), stage, plugin, error);
    }
    Ok(())
}
