//! The conformance kit of every log, on a real broker.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_log::Log;
use aqueduct_log::conformance::{self, Site};
use aqueduct_log_kafka::{KafkaLog, KafkaOptions};
use async_trait::async_trait;
use kafka_services::shared;
use std::sync::Arc;
use std::time::Duration;

/// A member hears of others with its heartbeat.
const QUIET: Duration = Duration::from_millis(500);

struct Cluster {
    bootstrap: String,
    group_id: String,
}

#[async_trait]
impl Site for Cluster {
    async fn open(&mut self) -> Arc<dyn Log> {
        let mut options = KafkaOptions::new(&self.bootstrap, &self.group_id);
        // A broker of a test has better things to do than to create 25 partitions.
        options.settings.offset_topic.partitions = 2;
        options.settings.status_topic.partitions = 1;
        KafkaLog::open(options).await.unwrap()
    }

    fn reopens(&self) -> bool {
        true
    }

    fn has_gaps(&self) -> bool {
        true
    }

    fn quiet(&self) -> Duration {
        QUIET
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_log() {
    let broker = shared();
    let group_id = format!("kit-{:08x}", fastrand::u32(..));
    let site = || Box::new(Cluster { bootstrap: broker.bootstrap(), group_id: group_id.clone() }) as Box<dyn Site>;
    conformance::run(site).await;
}
