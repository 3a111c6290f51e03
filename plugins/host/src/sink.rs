//! A component's `sink`.

use crate::bindings::sink::{SinkPlugin as World, SinkPluginPre};
use crate::error::{clean, poisoned, returned};
use crate::frames;
use crate::guest::Guest;
use crate::imports::Reach;
use crate::plugin::Common;
use aqueduct_core::{
    Ack, Batch, Descriptor, Error, Issue, Options, Rejects, Result, SinkPlugin, SinkTask, Stage, TaskContext, TaskSpec,
};
use async_trait::async_trait;

pub(crate) struct Sink(pub(crate) Common);

#[async_trait]
impl SinkPlugin for Sink {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.0.validate(options)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        if let Some(issue) = self.0.validate(options).into_iter().find(Issue::is_error) {
            return Err(aqueduct_config::options::invalid(&[issue]));
        }
        Ok(vec![TaskSpec::new(); tasks_max.max(1) as usize])
    }

    async fn open(&self, options: &Options, _: TaskSpec) -> Result<Box<dyn SinkTask>> {
        let (config, code) = (self.0.config(options)?, self.0.code().await?);
        let mut guest: Guest<World> = Guest::start(self.0.name.clone(), self.0.grant.clone(), |store| {
            Box::pin(async move { SinkPluginPre::new(code)?.instantiate_async(store).await })
        })
        .await?;
        let opened = guest.call("open", Reach::World, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_sink().call_open(&mut live.store, &config).await })
        });
        let opened = opened.await?;
        returned(&self.0.name, "open", opened)?;
        Ok(Box::new(Task { guest }))
    }
}

struct Task {
    guest: Guest<World>,
}

#[async_trait]
impl SinkTask for Task {
    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        let frame = frames::write(batch);
        let put = self.guest.call("put", Reach::World, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_sink().call_put(&mut live.store, &frame).await })
        });
        let put = put.await?;
        let name = self.guest.plugin();
        let put = returned(name, "put", put)?;
        refuse(batch, name, Stage::TaskPut, put.rejected.into_iter().map(|r| (r.record_index, r.message)), rejects)
            .map_err(|what| poisoned(name, "put", what))?;
        Ok(if put.durable { Ack::Durable } else { Ack::Buffered })
    }

    async fn flush(&mut self) -> Result<()> {
        let flushed = self.guest.call("flush", Reach::World, |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_sink().call_flush(&mut live.store).await })
        });
        let flushed = flushed.await?;
        returned(self.guest.plugin(), "flush", flushed)
    }

    async fn close(&mut self) -> Result<()> {
        let closed = self.guest.call("close", Reach::World, |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_sink().call_close(&mut live.store).await })
        });
        let closed = closed.await?;
        returned(self.guest.plugin(), "close", closed)
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
