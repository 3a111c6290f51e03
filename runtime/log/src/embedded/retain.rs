//! Retention by time and bytes.

use super::core::Core;
use super::plan::Round;
use super::state::{Change, PartitionState};
use crate::topic_config::TopicConfig;
use std::sync::atomic::Ordering::Relaxed;

/// Scanned in about 10 ms.
const INDEX_EVERY_BYTES: u64 = 16 << 20;

impl Core {
    /// Writes the indexes of segments that grew much: a start after a crash scans the rest only.
    pub(crate) fn write_indexes(&self) {
        for topic in self.shared.catalogue.read().by_name.values() {
            for segment in topic.partitions.iter().filter_map(|view| view.segments().pop()) {
                if segment.len() - segment.indexed.load(Relaxed) >= INDEX_EVERY_BYTES {
                    segment.write_index(&*self.disk);
                }
            }
        }
    }

    /// Forgets what is too old or too much.
    pub(crate) fn retain(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let now_ms = self.shared.now_ms();
        let mut changes = Vec::new();
        let state = self.shared.state.read();
        let catalogue = self.shared.catalogue.read();
        for (id, topic) in &state.topics {
            let Some(view) = catalogue.by_id.get(id) else { continue };
            for (p, partition) in (0..).zip(&topic.partitions) {
                let Some(start) = start_after(partition, &view.config, now_ms) else { continue };
                if start == partition.end && partition.active().is_some() {
                    changes.push(Change::Sealed { t: *id, p });
                }
                changes.push(Change::Start { t: *id, p, offset: start });
            }
        }
        drop((state, catalogue));
        if !changes.is_empty() {
            self.apply_changes(Round { changes, ..Round::default() });
        }
    }
}

/// The log start that the config asks for, when it is a later one. Whole segments only, as in Kafka.
fn start_after(partition: &PartitionState, config: &TopicConfig, now_ms: i64) -> Option<i64> {
    if !config.delete {
        return None;
    }
    let mut bytes: u64 = partition.segments.iter().map(|segment| segment.len).sum();
    let mut start = None;
    for (index, segment) in partition.segments.iter().enumerate() {
        let old = config.retention_ms.is_some_and(|ms| segment.ts.max(0) < now_ms.saturating_sub(ms));
        // By size the active segment stays, and what remains is not below the limit.
        let last = index + 1 == partition.segments.len();
        let much = !last && config.retention_bytes.is_some_and(|max| bytes - segment.len >= max);
        if !(old || much) {
            break;
        }
        bytes -= segment.len;
        start = Some(partition.segment_end(index));
    }
    start.filter(|start| *start > partition.start)
}
