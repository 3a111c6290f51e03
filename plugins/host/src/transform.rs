//! A component's `transform`.

use crate::bindings::transform::TransformPlugin as World;
use crate::error::poisoned;
use crate::frames;
use crate::guest::Guest;
use crate::imports::{Reach, World as Kind};
use crate::measures::Measures;
use crate::parts::{FAILURES, Parts, crashed, is_crash, keep};
use crate::plugin::Common;
use crate::sink::refuse;
use aqueduct_core::{Batch, Descriptor, Issue, Measure, Options, Rejects, Result, Stage, Transform, TransformPlugin};
use async_trait::async_trait;
use std::sync::Arc;

pub(crate) struct Transforming(pub(crate) Arc<Common>);

impl TransformPlugin for Transforming {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    fn build(&self, options: &Options) -> Result<Box<dyn Transform>, Vec<Issue>> {
        let issues = self.0.validate(options);
        if issues.iter().any(Issue::is_error) {
            return Err(issues);
        }
        let config = self.0.config(options).map_err(|error| vec![Issue::error("", error.code(), error.message())])?;
        Ok(Box::new(Task { common: self.0.clone(), config, guest: None, measures: Arc::default() }))
    }
}

struct Task {
    common: Arc<Common>,
    config: String,
    /// Opened with the first batch: a chain is also built only to be validated.
    guest: Option<Guest<World>>,
    measures: Arc<Measures>,
}

impl Task {
    async fn open(&self) -> Result<Guest<World>> {
        let mut guest = self.common.start::<World>(Kind::Pure, &self.measures).await?;
        let config = self.config.clone();
        let opened = guest.call("open", Reach::Nothing, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_transform().call_open(&mut live.store, &config).await })
        });
        let opened = opened.await?;
        guest.returned("open", opened)?;
        guest.opened();
        Ok(guest)
    }

    /// `None`: the batch is as it was.
    async fn apply_once(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<Option<Batch>> {
        // An instance that trapped is replaced, and so is one that has grown.
        let mut guest = match self.guest.take().filter(|guest| !guest.has_grown()) {
            Some(guest) => guest,
            None => self.open().await?,
        };
        let frame = frames::write(batch);
        let applied = guest.call("apply", Reach::Nothing, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_transform().call_apply(&mut live.store, &frame).await })
        });
        let applied = applied.await?;
        let applied = guest.returned("apply", applied)?;
        let name = &*self.common.name;
        let (mut own, wrong) = (Rejects::default(), |what: String| poisoned(name, "apply", what));
        let rejected = applied.rejected.into_iter().map(|reject| (reject.record_index, reject.message));
        refuse(batch, name, Stage::Transformation, rejected, &mut own).map_err(wrong)?;
        let made = frames::merge(batch, applied.batch).map_err(wrong)?;
        keep(&mut own, rejects);
        self.guest = Some(guest);
        Ok(made)
    }

    /// A batch that ended its instance too often.
    async fn apply_in_parts(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<Batch> {
        let (mut made, mut parts) = (Batch::new(), Parts::of(batch.len()));
        while let Some(range) = parts.next() {
            let part = batch.slice(range.clone());
            match self.apply_once(&part, rejects).await {
                Ok(done) => made.append(done.unwrap_or(part)),
                Err(error) if !is_crash(&error) || parts.is_late() => return Err(error),
                Err(_) if parts.halve(range) => {}
                Err(error) => {
                    tracing::warn!(plugin = &*self.common.name, "a record ends its instance and is refused: {error}");
                    for record in part.iter() {
                        rejects.push(record.to_record(), Stage::Transformation, &*self.common.name, crashed(&error));
                    }
                }
            }
        }
        Ok(made)
    }
}

#[async_trait]
impl Transform for Task {
    fn measures(&self) -> Vec<Measure> {
        self.measures.all(&self.common.name)
    }

    /// A transform only computes: it is tried again at once, with a new instance.
    async fn apply(&mut self, batch: Batch, rejects: &mut Rejects) -> Result<Batch> {
        if batch.is_empty() {
            return Ok(batch);
        }
        for _ in 0..FAILURES {
            // One that cannot even be opened says nothing of the batch.
            if self.guest.is_none() {
                self.guest = Some(self.open().await?);
            }
            match self.apply_once(&batch, rejects).await {
                Err(error) if is_crash(&error) => tracing::debug!(plugin = &*self.common.name, "it is tried again: {error}"),
                done => return done.map(|made| made.unwrap_or(batch)),
            }
        }
        self.apply_in_parts(&batch, rejects).await
    }
}
