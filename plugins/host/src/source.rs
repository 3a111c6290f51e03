//! A component's `source`.

use crate::bindings::source::SourcePlugin as World;
use crate::bindings::source::exports::aqueduct::connector::source::Limits;
use crate::bindings::types;
use crate::error::{clean, poisoned};
use crate::frames;
use crate::guest::Guest;
use crate::imports::{Reach, World as Kind};
use crate::measures::Measures;
use crate::plugin::Common;
use crate::state::{State, is_reserved};
use aqueduct_core::{
    Descriptor, Issue, JsonMap, Options, Polled, Report, Result, SourceOffset, SourcePlugin, SourceTask, TaskContext, TaskSpec,
};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of what a poll says where to resume: each is stored with the batch.
const OFFSETS_MAX: usize = 10_000;

pub(crate) struct Source(pub(crate) Arc<Common>);

#[async_trait]
impl SourcePlugin for Source {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.0.validate(options)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let (config, name) = (self.0.judged(options)?, &*self.0.name);
        let mut guest = self.0.start::<World>(Kind::Pure, &Arc::default()).await?;
        let planned = guest.call("plan", Reach::Nothing, move |live| {
            Box::pin(
                async move { live.bindings.aqueduct_connector_source().call_plan(&mut live.store, &config, tasks_max).await },
            )
        });
        let planned = planned.await?;
        let shares = guest.returned("plan", planned)?;
        if shares.is_empty() || shares.len() > tasks_max as usize {
            return Err(poisoned(name, "plan", format!("{} tasks of at most {tasks_max}", shares.len())));
        }
        let share = |text: &String| serde_json::from_str(text).map_err(|error| poisoned(name, "plan", error));
        shares.iter().map(share).collect()
    }

    async fn open(&self, options: &Options, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>> {
        let config = self.0.config(options)?;
        let share = serde_json::to_string(&task).expect("a map of texts is JSON");
        let state = State::of(&share, &resume);
        let resume = Resume::new(resume);
        let measures = Arc::default();
        let guest = open(&self.0, &config, &share, &resume, state, &measures).await?;
        Ok(Box::new(Task { common: self.0.clone(), config, share, resume, guest, measures }))
    }
}

async fn open(
    common: &Common,
    config: &str,
    share: &str,
    resume: &Resume,
    state: State,
    measures: &Arc<Measures>,
) -> Result<Guest<World>> {
    let (config, share, resume) = (config.to_owned(), share.to_owned(), resume.offsets());
    let mut guest = common.start::<World>(Kind::Task, measures).await?;
    let opened = guest.call("open", Reach::World, move |live| {
        Box::pin(async move {
            live.store.data_mut().state = Some(state);
            let source = live.bindings.aqueduct_connector_source();
            source.call_open(&mut live.store, &config, &share, &resume).await
        })
    });
    let opened = opened.await?;
    guest.returned("open", opened)?;
    guest.opened();
    Ok(guest)
}

struct Task {
    common: Arc<Common>,
    config: String,
    share: String,
    resume: Resume,
    guest: Guest<World>,
    measures: Arc<Measures>,
}

impl Task {
    /// Another instance goes on where this one is: after what it polled, whether that is durable by now or not, and with what it remembers.
    async fn renew(&mut self) -> Result<()> {
        tracing::debug!(plugin = self.guest.plugin(), "its memory has grown: the instance is replaced");
        let closed = self.guest.call("close", Reach::World, |live| {
            Box::pin(async move {
                let closed = live.bindings.aqueduct_connector_source().call_close(&mut live.store).await?;
                Ok((closed, live.store.data_mut().state.take()))
            })
        });
        let (closed, state) = closed.await?;
        self.guest.returned("close", closed)?;
        let state = state.unwrap_or_else(|| State::of(&self.share, []));
        self.guest = open(&self.common, &self.config, &self.share, &self.resume, state, &self.measures).await?;
        Ok(())
    }
}

#[async_trait]
impl SourceTask for Task {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        if self.guest.has_grown() {
            self.renew().await?;
        }
        let limits = Limits {
            max_records: u32::try_from(cx.max_records).unwrap_or(u32::MAX),
            max_bytes: u32::try_from(cx.max_bytes).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(cx.wait_max.as_millis()).unwrap_or(u32::MAX),
        };
        let polled = self.guest.call("poll", Reach::Sleep(cx.wait_max, cx.interrupt.clone()), move |live| {
            Box::pin(async move {
                let polled = live.bindings.aqueduct_connector_source().call_poll(&mut live.store, limits).await?;
                // Of a poll that failed nothing counts: the task is opened again with what is stored.
                let changes = live.store.data_mut().state.as_mut().filter(|_| polled.is_ok()).map(State::take_changes);
                Ok((polled, changes.unwrap_or_default()))
            })
        });
        let (polled, changes) = polled.await?;
        let name = self.guest.plugin();
        let polled = self.guest.returned("poll", polled)?;
        let wrong = |what: String| poisoned(name, "poll", what);
        if polled.resume.len() > OFFSETS_MAX {
            return Err(wrong(format!("{} offsets, more than {OFFSETS_MAX}", polled.resume.len())));
        }
        let mut resume =
            polled.resume.iter().map(stored).collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
        if let Some(reserved) = resume.iter().find(|offset| is_reserved(offset)) {
            let partition = clean(&serde_json::Value::Object(reserved.partition.clone()).to_string(), 200);
            return Err(wrong(format!("the partition {partition} is the host's: call it something else")));
        }
        let batch = frames::read(polled.batch, cx.max_records).map_err(wrong)?;
        self.resume.moved(&resume);
        resume.extend(changes);
        Ok(Polled { batch, resume })
    }

    async fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        let own: Vec<types::Offset> = durable.iter().filter(|known| !is_reserved(known)).map(offset).collect();
        // Its state alone is nothing that the guest hears of.
        if own.is_empty() && !durable.is_empty() {
            return Ok(());
        }
        let committed = self.guest.call("commit", Reach::World, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_source().call_commit(&mut live.store, &own).await })
        });
        let committed = committed.await?;
        self.guest.returned("commit", committed)
    }

    fn report(&self) -> Report {
        Report { measures: self.measures.all(&self.common.name), ..Report::default() }
    }

    async fn close(&mut self) -> Result<()> {
        let closed = self.guest.call("close", Reach::World, |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_source().call_close(&mut live.store).await })
        });
        let closed = closed.await?;
        self.guest.returned("close", closed)
    }
}

/// Where a new instance goes on: what was stored when the task was opened, moved by each poll since.
struct Resume {
    /// As JSON: each task has those of the whole connector, and of 1,000 tasks 1,000 times 1,000 would be maps for half a GB.
    stored: Box<str>,
    moved: BTreeMap<String, SourceOffset>,
}

impl Resume {
    fn new(mut stored: Vec<SourceOffset>) -> Self {
        stored.retain(|offset| !is_reserved(offset));
        let stored = serde_json::to_string(&stored).expect("JSON objects are JSON");
        Self { stored: stored.into(), moved: BTreeMap::new() }
    }

    fn moved(&mut self, resume: &[SourceOffset]) {
        self.moved.extend(resume.iter().map(|offset| (offset.partition_key(), offset.clone())));
    }

    fn offsets(&self) -> Vec<types::Offset> {
        let stored: Vec<SourceOffset> = serde_json::from_str(&self.stored).expect("it was written above");
        let mut all: BTreeMap<String, SourceOffset> = stored.into_iter().map(|offset| (offset.partition_key(), offset)).collect();
        all.extend(self.moved.iter().map(|(key, offset)| (key.clone(), offset.clone())));
        // What was forgotten is none.
        all.values().filter(|known| known.offset.is_some()).map(offset).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_new_instance_goes_on_where_the_last_poll_was() {
        let known = |partition: &str, n: Option<f64>| SourceOffset {
            partition: [("p".to_owned(), json!(partition))].into_iter().collect(),
            offset: n.map(|n| [("n".to_owned(), json!(n))].into_iter().collect()),
        };
        let of_state =
            SourceOffset { partition: [("aqueduct.state".to_owned(), json!("{}"))].into_iter().collect(), offset: None };
        let mut resume = Resume::new(vec![known("a", Some(0.1)), known("b", Some(1.0)), of_state]);
        let told = |resume: &Resume| -> Vec<String> {
            resume.offsets().into_iter().map(|offset| offset.partition + &offset.position.unwrap()).collect()
        };
        assert_eq!(told(&resume), [r#"{"p":"a"}{"n":0.1}"#, r#"{"p":"b"}{"n":1.0}"#]);
        resume.moved(&[known("b", None), known("c", Some(2.0)), known("a", Some(0.30000000000000004))]);
        assert_eq!(told(&resume), [r#"{"p":"a"}{"n":0.30000000000000004}"#, r#"{"p":"c"}{"n":2.0}"#]);
        resume.moved(&[known("b", Some(3.0))]);
        assert_eq!(told(&resume).len(), 3);
    }
}
