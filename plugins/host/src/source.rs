//! A component's `source`.

use crate::bindings::source::exports::aqueduct::connector::source::Limits;
use crate::bindings::source::{SourcePlugin as World, SourcePluginPre};
use crate::bindings::types;
use crate::error::{poisoned, returned};
use crate::frames;
use crate::guest::Guest;
use crate::imports::Reach;
use crate::plugin::Common;
use aqueduct_core::{
    Descriptor, Issue, JsonMap, Options, Polled, Result, SourceOffset, SourcePlugin, SourceTask, TaskContext, TaskSpec,
};
use async_trait::async_trait;

/// Of what a poll says where to resume: each is stored with the batch.
const OFFSETS_MAX: usize = 10_000;

pub(crate) struct Source(pub(crate) Common);

impl Source {
    async fn start(&self) -> Result<Guest<World>> {
        let code = self.0.code().await?;
        Guest::start(self.0.name.clone(), self.0.grant.clone(), |store| {
            Box::pin(async move { SourcePluginPre::new(code)?.instantiate_async(store).await })
        })
        .await
    }
}

#[async_trait]
impl SourcePlugin for Source {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.0.validate(options)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let (config, name) = (self.0.config(options)?, &*self.0.name);
        if let Some(issue) = self.0.validate(options).into_iter().find(Issue::is_error) {
            return Err(aqueduct_config::options::invalid(&[issue]));
        }
        let mut guest = self.start().await?;
        let planned = guest.call("plan", Reach::Nothing, move |live| {
            Box::pin(
                async move { live.bindings.aqueduct_connector_source().call_plan(&mut live.store, &config, tasks_max).await },
            )
        });
        let shares = returned(name, "plan", planned.await?)?;
        if shares.is_empty() || shares.len() > tasks_max as usize {
            return Err(poisoned(name, "plan", format!("{} tasks of at most {tasks_max}", shares.len())));
        }
        let share = |text: &String| serde_json::from_str(text).map_err(|error| poisoned(name, "plan", error));
        shares.iter().map(share).collect()
    }

    async fn open(&self, options: &Options, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>> {
        let config = self.0.config(options)?;
        let share = serde_json::to_string(&task).expect("a map of texts is JSON");
        let resume: Vec<types::Offset> = resume.iter().map(offset).collect();
        let mut guest = self.start().await?;
        let opened = guest.call("open", Reach::World, move |live| {
            Box::pin(async move {
                let source = live.bindings.aqueduct_connector_source();
                source.call_open(&mut live.store, &config, &share, &resume).await
            })
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
impl SourceTask for Task {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        let limits = Limits {
            max_records: u32::try_from(cx.max_records).unwrap_or(u32::MAX),
            max_bytes: u32::try_from(cx.max_bytes).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(cx.wait_max.as_millis()).unwrap_or(u32::MAX),
        };
        let polled = self.guest.call("poll", Reach::Sleep(cx.wait_max, cx.interrupt.clone()), move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_source().call_poll(&mut live.store, limits).await })
        });
        let polled = polled.await?;
        let name = self.guest.plugin();
        let polled = returned(name, "poll", polled)?;
        let wrong = |what: String| poisoned(name, "poll", what);
        if polled.resume.len() > OFFSETS_MAX {
            return Err(wrong(format!("{} offsets, more than {OFFSETS_MAX}", polled.resume.len())));
        }
        let resume = polled.resume.iter().map(stored).collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
        let batch = frames::read(polled.batch, cx.max_records).map_err(wrong)?;
        Ok(Polled { batch, resume })
    }

    async fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        let durable: Vec<types::Offset> = durable.iter().map(offset).collect();
        let committed = self.guest.call("commit", Reach::World, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_source().call_commit(&mut live.store, &durable).await })
        });
        let committed = committed.await?;
        returned(self.guest.plugin(), "commit", committed)
    }

    async fn close(&mut self) -> Result<()> {
        let closed = self.guest.call("close", Reach::World, |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_source().call_close(&mut live.store).await })
        });
        let closed = closed.await?;
        returned(self.guest.plugin(), "close", closed)
    }
}

fn offset(offset: &SourceOffset) -> types::Offset {
    let text = |map: &JsonMap| serde_json::to_string(map).expect("a JSON object is JSON");
    types::Offset { partition: text(&offset.partition), position: offset.offset.as_ref().map(text) }
}

fn stored(offset: &types::Offset) -> Result<SourceOffset, serde_json::Error> {
    let position = offset.position.as_deref().map(serde_json::from_str).transpose()?;
    Ok(SourceOffset { partition: serde_json::from_str(&offset.partition)?, offset: position })
}
