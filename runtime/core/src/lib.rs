//! The contracts of Aqueduct: records, batches, offsets, errors and the connector traits.
//!
//! No I/O, no spawn, no clock. Connector authors need this crate and `aqueduct-config`; they never see the worker, the log or
//! another connector.

pub mod batch;
pub mod blocking;
pub mod data;
pub mod egress;
pub mod encoder;
pub mod error;
pub mod failpoint;
pub mod issue;
pub mod offset;
pub mod plugin;
pub mod record;
pub mod schema;
pub mod sink;
pub mod source;
pub mod trace_context;
pub mod transform;

pub use batch::{Batch, BatchBuilder, Chunk, ChunkBuilder, Place, RecordRef, Span};
pub use data::Data;
pub use encoder::{Encoder, Fields, Objects, Values};
pub use error::{Class, Error, Result};
pub use issue::{Issue, Severity};
pub use offset::{JsonMap, LogPosition, SourceOffset, TaskId, Topic, TopicPartition, Topics};
pub use plugin::{Descriptor, OptionKind, OptionSpec, Options, Plugin, PluginKind, SinkPlugin, SourcePlugin, TransformPlugin};
pub use record::{Header, Origin, Payload, PayloadRef, Record, Structured};
pub use schema::Schema;
pub use sink::{Ack, Delivery, Projection, SinkTask, Unfinished};
pub use source::{Measure, MeasureKind, Polled, Report, Signal, SourceTask, TaskSpec};
pub use transform::{Reject, Rejects, Stage, Transform};

pub use bytes::Bytes;
pub use tokio_util::sync::CancellationToken;

use std::time::Duration;

/// What every call of a connector task is given. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskContext {
    pub task: TaskId,
    /// A call of `poll` returns within this time, maybe with an empty batch.
    pub wait_max: Duration,
    /// A batch should not be larger than this; a single record may be (it then stands alone in its batch).
    pub max_bytes: usize,
    /// A batch must not have more records than this.
    pub max_records: usize,
    /// Cancelled when the worker wants the call to return soon: the task is stopping, or a commit is waiting for its turn.
    /// `poll` should select on it while it *waits*; what it has read already it returns as always.
    pub interrupt: CancellationToken,
}
