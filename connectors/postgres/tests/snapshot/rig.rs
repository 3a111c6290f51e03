//! A task, the log behind it in memory, and what a consumer makes of the events.

use crate::harness::{DEADLINE, Got, Running, got, open};
use aqueduct_core::{Options, SourceOffset};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Tables as a consumer has them: by key, or, without one, all rows.
#[derive(Default)]
pub struct Copy {
    pub rows: BTreeMap<String, BTreeMap<String, Value>>,
    pub bags: BTreeMap<String, Vec<Value>>,
    /// The newest version of each key that was seen, deleted or not.
    versions: BTreeMap<(String, String), i64>,
    /// `r` events by topic.
    pub reads: BTreeMap<String, usize>,
    /// Of every event in order.
    pub marks: Vec<(String, String)>,
    /// What came of each row (topic, `id`), in order: `ruud`.
    pub ops: BTreeMap<(String, i64), String>,
}

impl Copy {
    /// Versions (column `v`, from one sequence) of a key never go back.
    pub fn apply(&mut self, event: &Got) {
        let op = event.op();
        if !matches!(op, "r" | "c" | "u" | "d") {
            return;
        }
        let topic = event.topic.strip_prefix("shop.public.").expect("a topic").to_owned();
        let (before, after) = (&event.value["before"], &event.value["after"]);
        let id = if op == "d" { &before["id"] } else { &after["id"] };
        // A delete may tell the key alone.
        if let Some(id) = id.as_i64() {
            self.ops.entry((topic.clone(), id)).or_default().push_str(op);
        }
        if op == "r" {
            *self.reads.entry(topic.clone()).or_default() += 1;
            self.marks.push((topic.clone(), event.value["source"]["snapshot"].as_str().unwrap_or_default().to_owned()));
        }
        if event.key.is_null() {
            let bag = self.bags.entry(topic).or_default();
            if op == "u" || op == "d" {
                // A row that changed since the slot's view, and was not read before a crash, comes by its change alone.
                let old = bag.iter().position(|row| row["id"] == before["id"] && row["v"] == before["v"]);
                old.map(|old| bag.swap_remove(old));
            }
            if op != "d" {
                bag.push(after.clone());
            }
            return;
        }
        let key = event.key.to_string();
        if let Some(version) = after["v"].as_i64() {
            let newest = self.versions.entry((topic.clone(), key.clone())).or_insert(version);
            assert!(version >= *newest, "{topic} {key}: {version} after {newest}: {event:?}");
            *newest = version;
        }
        let rows = self.rows.entry(topic).or_default();
        if op == "d" {
            rows.remove(&key);
            return;
        }
        let mut after = after.clone();
        if let (Some(old), Some(new)) = (rows.get(&key), after.as_object_mut()) {
            for (name, value) in new.iter_mut().filter(|(_, value)| *value == "(unavailable)") {
                value.clone_from(&old[name]);
            }
        }
        rows.insert(key, after);
    }

    /// `id|v` of each row, as `SELECT id, v … ORDER BY id, v` has them.
    pub fn listing(&self, table: &str) -> String {
        let keyed = self.rows.get(table).into_iter().flat_map(BTreeMap::values);
        let rows = keyed.chain(self.bags.get(table).into_iter().flatten());
        let mut list: Vec<(i64, i64)> =
            rows.map(|row| (row["id"].as_i64().expect("an id"), row["v"].as_i64().expect("a version"))).collect();
        list.sort_unstable();
        list.iter().map(|(id, v)| format!("{id}|{v}")).collect::<Vec<_>>().join("\n")
    }
}

pub struct Rig {
    options: Options,
    pub running: Option<Running>,
    stored: Vec<SourceOffset>,
    pub copy: Copy,
    pub crashes: usize,
    pub records: usize,
    /// The last failures of polls.
    errors: Vec<String>,
}

impl Rig {
    pub async fn start(options: Options) -> Self {
        let mut rig = Self {
            options,
            running: None,
            stored: Vec::new(),
            copy: Copy::default(),
            crashes: 0,
            records: 100,
            errors: Vec::new(),
        };
        rig.open().await;
        rig
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.options.insert(name.to_owned(), value.to_owned());
    }

    /// Opens the task; what still holds the slot goes away.
    pub async fn open(&mut self) {
        let until = Instant::now() + DEADLINE;
        loop {
            match open(&self.options, self.stored.clone()).await {
                Ok(running) => {
                    self.running = Some(running);
                    return;
                }
                Err(error) => {
                    assert!(error.is_retriable() && Instant::now() < until, "{}", error.trace());
                    self.errors.push(error.trace());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// As `kill -9`: what was polled and not kept is gone.
    pub async fn crash(&mut self) {
        self.kill();
        self.open().await;
    }

    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            self.stored = std::mem::take(&mut running.stored);
        }
        self.crashes += 1;
    }

    pub async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            self.stored = running.close().await;
        }
        self.open().await;
    }

    pub fn task(&mut self) -> &mut Running {
        self.running.as_mut().expect("it runs")
    }

    /// One poll, its events applied and its offsets stored in one commit.
    pub async fn poll(&mut self) -> usize {
        let records = self.records;
        let running = self.running.as_mut().expect("it runs");
        match running.poll_only(records).await {
            Ok(polled) => {
                got(&polled).iter().for_each(|event| self.copy.apply(event));
                running.keep(&polled).await.expect("commit");
                polled.batch.len()
            }
            Err(error) => {
                assert!(error.is_retriable(), "{}", error.trace());
                self.errors.push(error.trace());
                self.crash().await;
                0
            }
        }
    }

    /// Polled, and lost with the process.
    pub async fn poll_and_lose(&mut self) {
        let records = self.records;
        let _ = self.task().poll_only(records).await;
        self.crash().await;
    }

    pub fn stored(&self) -> &[SourceOffset] {
        self.running.as_ref().map_or(&self.stored, |running| &running.stored)
    }

    /// Tables whose reading is under way or waits.
    pub fn unread(&self) -> BTreeSet<String> {
        let reading =
            self.stored().iter().filter(|offset| offset.offset.as_ref().is_some_and(|offset| offset.contains_key("snapshot")));
        reading.map(|offset| offset.partition.get("table").and_then(Value::as_str).unwrap_or("").to_owned()).collect()
    }

    /// Polls until a row that is inserted now has come and nothing is left to read.
    pub async fn catch_up(&mut self, server: &postgres_services::Server, database: &str) {
        let id = server.psql_in(database, "insert into mark (id, v) values (nextval('ver'), nextval('ver')) returning id");
        let id: i64 = id.lines().next().expect("a row").parse().expect("an id");
        let until = Instant::now() + DEADLINE * 2;
        let seen = |rig: &Self| rig.copy.rows.get("mark").is_some_and(|rows| rows.values().any(|row| row["id"] == id));
        while !seen(self) || !self.unread().is_empty() {
            assert!(
                Instant::now() < until,
                "not in time; unread {:?}; {:?}; {:#?}",
                self.unread(),
                self.stored(),
                self.errors.last()
            );
            self.poll().await;
        }
    }
}

pub fn rows(server: &postgres_services::Server, database: &str, table: &str) -> String {
    server.psql_in(database, &format!("select id, v from {table} order by id, v")).trim().to_owned()
}
