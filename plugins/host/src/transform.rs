//! A component's `transform`.

use crate::bindings::transform::{TransformPlugin as World, TransformPluginPre};
use crate::error::{poisoned, returned};
use crate::frames;
use crate::guest::Guest;
use crate::imports::Reach;
use crate::plugin::Common;
use crate::sink::refuse;
use aqueduct_core::{Batch, Descriptor, Issue, Options, Rejects, Result, Stage, Transform, TransformPlugin};
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
        Ok(Box::new(Task { common: self.0.clone(), config, guest: None }))
    }
}

struct Task {
    common: Arc<Common>,
    config: String,
    /// Opened with the first batch: a chain is also built only to be validated.
    guest: Option<Guest<World>>,
}

impl Task {
    async fn open(&self) -> Result<Guest<World>> {
        let code = self.common.code().await?;
        let mut guest: Guest<World> = Guest::start(self.common.name.clone(), self.common.grant.clone(), |store| {
            Box::pin(async move { TransformPluginPre::new(code)?.instantiate_async(store).await })
        })
        .await?;
        let config = self.config.clone();
        let opened = guest.call("open", Reach::Nothing, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_transform().call_open(&mut live.store, &config).await })
        });
        let opened = opened.await?;
        returned(&self.common.name, "open", opened)?;
        Ok(guest)
    }
}

#[async_trait]
impl Transform for Task {
    async fn apply(&mut self, batch: Batch, rejects: &mut Rejects) -> Result<Batch> {
        if batch.is_empty() {
            return Ok(batch);
        }
        // An instance that trapped is replaced with the next batch.
        let mut guest = match self.guest.take() {
            Some(guest) => guest,
            None => self.open().await?,
        };
        let frame = frames::write(&batch);
        let applied = guest.call("apply", Reach::Nothing, move |live| {
            Box::pin(async move { live.bindings.aqueduct_connector_transform().call_apply(&mut live.store, &frame).await })
        });
        let applied = applied.await?;
        let name = &*self.common.name;
        let applied = returned(name, "apply", applied)?;
        let rejected = applied.rejected.into_iter().map(|reject| (reject.record_index, reject.message));
        refuse(&batch, name, Stage::Transformation, rejected, rejects).map_err(|what| poisoned(name, "apply", what))?;
        let batch = frames::merge(batch, applied.batch).map_err(|what| poisoned(name, "apply", what))?;
        self.guest = Some(guest);
        Ok(batch)
    }
}
