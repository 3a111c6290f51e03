//! Every log against the conformance kit.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../src/conformance/mod.rs"]
#[allow(unreachable_pub, reason = "public where the crate exposes it")]
mod conformance;

use aqueduct_log::memory::MemoryLog;
use aqueduct_log::{EmbeddedLog, EmbeddedOptions, Log};
use async_trait::async_trait;
use conformance::Site;
use std::sync::Arc;

struct Memory(Arc<MemoryLog>);

#[async_trait]
impl Site for Memory {
    async fn open(&mut self) -> Arc<dyn Log> {
        self.0.clone()
    }

    fn reopens(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_log() {
    conformance::run(|| Box::new(Memory(Arc::new(MemoryLog::new())))).await;
}

struct Embedded {
    dir: tempfile::TempDir,
}

#[async_trait]
impl Site for Embedded {
    async fn open(&mut self) -> Arc<dyn Log> {
        Arc::new(EmbeddedLog::open(self.dir.path(), EmbeddedOptions::default()).await.unwrap())
    }

    fn reopens(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_log() {
    conformance::run(|| Box::new(Embedded { dir: tempfile::tempdir().unwrap() })).await;
}
