//! The kit is tested first: each planted bug is caught, and without one it passes.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SinkCase, SourceCase};
use aqueduct_core::{
    Ack, Batch, Descriptor, Issue, LogPosition, Options, PayloadRef, Plugin, PluginKind, Polled, Rejects, Result, SinkPlugin,
    SinkTask, SourceOffset, SourcePlugin, SourceTask, TaskContext, TaskSpec, TopicPartition,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceBug {
    None,
    /// Resumes one record late, or one early.
    Skips,
    Repeats,
    /// Every task does the work of all.
    SharesNothing,
    HangsWhenIdle,
    IgnoresTheLimit,
}

/// The source that is known to be good, with a bug.
struct Bugged(Arc<dyn SourcePlugin>, SourceBug);

struct BuggedTask(Box<dyn SourceTask>, SourceBug);

#[async_trait]
impl SourcePlugin for Bugged {
    fn descriptor(&self) -> &Descriptor {
        self.0.descriptor()
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.0.validate(options)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let plan = self.0.plan(options, tasks_max).await?;
        Ok(if self.1 == SourceBug::SharesNothing { vec![plan[0].clone(); tasks_max as usize] } else { plan })
    }

    async fn open(&self, options: &Options, task: TaskSpec, mut resume: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>> {
        for offset in resume.iter_mut().filter_map(|stored| stored.offset.as_mut()) {
            let next = offset["next"].as_u64().unwrap();
            let wrong = match self.1 {
                SourceBug::Skips => next + 1,
                SourceBug::Repeats => next - 1,
                _ => next,
            };
            offset.insert("next".to_owned(), wrong.into());
        }
        Ok(Box::new(BuggedTask(self.0.open(options, task, resume).await?, self.1)))
    }
}

#[async_trait]
impl SourceTask for BuggedTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        match self.1 {
            SourceBug::IgnoresTheLimit => self.0.poll(&TaskContext { max_records: cx.max_records + 1, ..cx.clone() }).await,
            SourceBug::HangsWhenIdle if cx.interrupt.is_cancelled() => std::future::pending().await,
            _ => self.0.poll(cx).await,
        }
    }
}

async fn source(bug: SourceBug) {
    let Some(Plugin::Source(good)) = builtins().into_iter().find(|plugin| plugin.descriptor().name == "datagen-source") else {
        panic!("no datagen")
    };
    let options = [("topic", "t"), ("rate", "0"), ("count", "30")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let plugin = Plugin::Source(Arc::new(Bugged(good, bug)));
    conformance::source(&SourceCase { plugin, options, records: 30, stream: |_| String::new(), strip: conformance::all_of_it })
        .await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SinkBug {
    None,
    /// What was flushed, but not committed, stays: it comes twice.
    KeepsUncommitted,
    /// Says `Durable` of what is only in memory.
    DurableTooEarly,
    Reorders,
    ForgetsMetadata,
}

/// Writes to a list; exactly once by keeping its length as metadata, for each partition.
struct ListPlugin {
    descriptor: Descriptor,
    target: Target,
    bug: SinkBug,
}

type Target = Arc<Mutex<Vec<(i32, String)>>>;

struct ListTask {
    target: Target,
    buffer: Vec<(i32, String)>,
    bug: SinkBug,
}

#[async_trait]
impl SinkPlugin for ListPlugin {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn validate(&self, _: &Options) -> Vec<Issue> {
        Vec::new()
    }

    async fn plan(&self, _: &Options, _: u32) -> Result<Vec<TaskSpec>> {
        Ok(vec![TaskSpec::new()])
    }

    async fn open(&self, _: &Options, _: TaskSpec) -> Result<Box<dyn SinkTask>> {
        Ok(Box::new(ListTask { target: self.target.clone(), buffer: Vec::new(), bug: self.bug }))
    }
}

#[async_trait]
impl SinkTask for ListTask {
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        for position in partitions.iter().filter(|_| self.bug != SinkBug::KeepsUncommitted) {
            let mut left: usize = position.metadata.as_ref().map_or(0, |metadata| metadata.parse().unwrap());
            self.target.lock().retain(|(partition, _)| {
                let keep = *partition != position.partition || left > 0;
                left -= usize::from(*partition == position.partition && keep);
                keep
            });
        }
        Ok(Vec::new())
    }

    async fn put(&mut self, batch: &Batch, _: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        for record in batch.iter() {
            let PayloadRef::Bytes(text) = record.value() else { panic!("bytes") };
            self.buffer.push((record.partition().unwrap(), String::from_utf8_lossy(text).into_owned()));
        }
        Ok(if self.bug == SinkBug::DurableTooEarly { Ack::Durable } else { Ack::Buffered })
    }

    async fn flush(&mut self) -> Result<()> {
        if self.bug == SinkBug::Reorders {
            self.buffer.reverse();
        }
        self.target.lock().append(&mut self.buffer);
        Ok(())
    }

    fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        let count = self.target.lock().iter().filter(|(found, _)| *found == partition.partition).count();
        (self.bug != SinkBug::ForgetsMetadata).then(|| count.to_string())
    }
}

async fn sink(bug: SinkBug) {
    let target = Target::default();
    let descriptor = Descriptor {
        name: "list-sink".into(),
        aliases: Vec::new(),
        kind: PluginKind::Sink,
        version: "1".into(),
        summary: "A list.".into(),
        options: Vec::new(),
    };
    let plugin = Plugin::Sink(Arc::new(ListPlugin { descriptor, target: target.clone(), bug }));
    let read = Box::new(move || target.lock().iter().map(|(_, text)| text.clone()).collect());
    conformance::sink(&SinkCase { plugin, options: Options::new(), read, exactly_once: true }).await;
}

#[tokio::test]
async fn without_a_bug_the_kit_passes() {
    source(SourceBug::None).await;
    sink(SinkBug::None).await;
}

macro_rules! caught {
    ($($name:ident: $run:expr, $expected:literal;)*) => {$(
        #[tokio::test(start_paused = true)]
        #[should_panic(expected = $expected)]
        async fn $name() {
            $run.await;
        }
    )*};
}

caught! {
    a_source_that_skips: source(SourceBug::Skips), "records came";
    a_source_that_repeats: source(SourceBug::Repeats), "more records than there are";
    tasks_that_share_nothing: source(SourceBug::SharesNothing), "more records than there are";
    a_poll_that_hangs: source(SourceBug::HangsWhenIdle), "an interrupted poll took longer";
    a_batch_beyond_the_limit: source(SourceBug::IgnoresTheLimit), "records where 7 are allowed";
    a_sink_that_keeps_the_uncommitted: sink(SinkBug::KeepsUncommitted), "partition 0";
    a_sink_that_promises_too_early: sink(SinkBug::DurableTooEarly), "partition 0";
    a_sink_that_reorders: sink(SinkBug::Reorders), "partition 0";
    a_sink_that_forgets_its_metadata: sink(SinkBug::ForgetsMetadata), "partition 0";
}
