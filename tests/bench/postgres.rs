//! Postgres → log beside `pg_recvlogical`, `COPY` and Debezium: changes that are in the WAL already, a snapshot, and how long after its commit a row is visible.

use crate::kafka_peers::{Spent, child};
use crate::postgres_sink;
use crate::table::{Table, mb};
use anyhow::{Context, Result, bail, ensure};
use aqueduct_tests::site::{cpu_time, memory_kib};
use aqueduct_tests::{Site, poll_for};
use kafka_services::{Broker, Connect, ConnectOptions};
use postgres_services::{Options, PASSWORD, Server, USER, bin_dir};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Of the worker, in whatever it does here.
const RSS_MAX: u64 = 150_000_000 / 1024;

/// A row as an order is: key, foreign keys, an amount, a text, a time.
const SCHEMA: &str = "
create table orders (id bigint primary key, customer int not null, product int not null, amount numeric(10, 2) not null, note text, at timestamptz not null);
create procedure orders(first bigint, count bigint) language plpgsql as $$
begin
  for n in first..first + count - 1 loop
    insert into orders values (n, n % 10007, n % 503, (n % 100000) / 100.0, 'order number ' || n, clock_timestamp());
    commit;
  end loop;
end $$;";

/// What all parts share.
pub(crate) struct Bench<'a> {
    pub dir: &'a Path,
    pub server: Server,
    /// Debezium's log, and the source of the JDBC sink.
    pub broker: Broker,
    pub rows: u64,
    pub site: Site,
    /// The highest that the worker was.
    pub peak_kib: u64,
}

pub(crate) fn measure(dir: &Path, rows: u64, table: &mut Table) -> Result<()> {
    // What a server in use has: room for its buffers and between checkpoints.
    let options = Options::default().with("shared_buffers = 256MB").with("max_wal_size = 4GB").with("checkpoint_timeout = 15min");
    let server = Server::start(options);
    server.psql("create database shop");
    server.psql_in("shop", SCHEMA);
    server.psql_in(
        "shop",
        "create publication recv for table orders; select pg_create_logical_replication_slot('recv', 'pgoutput')",
    );
    let broker = Broker::start(kafka_services::Options::fast().with("log.segment.delete.delay.ms=1000"));
    let mut site = Site::in_folder(dir, "");
    site.start();
    let mut bench = Bench { dir, server, broker, rows, site, peak_kib: 0 };
    bench.streaming(table)?;
    bench.snapshot(table)?;
    postgres_sink::measure(&mut bench, table)?;
    crate::postgres_latency::measure(&mut bench, table)?;
    table.bar("Postgres: peak RSS of the worker", mb(bench.peak_kib), "< 150 MB", bench.peak_kib < RSS_MAX);
    bench.site.stop();
    Ok(())
}

impl Bench<'_> {
    /// The slots are there before the rows: all three read the same WAL, one after the other.
    fn streaming(&mut self, table: &mut Table) -> Result<()> {
        let rows = self.rows;
        let connect = self.connect();
        connect.connector("dbz-stream", &self.source("dbz_stream", "no_data", true));
        self.wait_slot("dbz_stream")?;
        self.put("stream", &self.source("aq_stream", "no_data", false))?;
        self.wait_slot("aq_stream")?;
        ensure!(connect.call("PUT", "/connectors/dbz-stream/stop", None).0 == 204, "Connect stops");
        self.site.client().put("/connectors/stream/stop", None).expect(204);
        self.wait_free("dbz_stream")?;
        self.wait_free("aq_stream")?;
        eprintln!("  inserting {rows} rows, a transaction each");
        self.server
            .psql_in("shop", &format!("set synchronous_commit = off; call orders(1, {rows}); checkpoint; vacuum analyze orders"));
        // A message behind the last row, so that there is something to end at.
        let end =
            self.server.psql_in("shop", "select pg_logical_emit_message(false, 'end', ''); select pg_current_wal_flush_lsn()");
        let end = end.lines().last().context("an LSN")?.to_owned();

        let file = self.dir.join("recv.out");
        let mut recv = Command::new(bin_dir().join("pg_recvlogical"));
        recv.args(["-h"]).arg(self.server.dir()).args([
            "-p",
            &self.server.port().to_string(),
            "-U",
            USER,
            "-d",
            "shop",
            "-S",
            "recv",
            "--start",
        ]);
        recv.args(["-o", "proto_version=1", "-o", "publication_names=recv", "--no-loop", "--endpos", &end, "-f"]).arg(&file);
        let recv = child(&mut recv)?;
        report("pg_recvlogical", &recv, rows);
        fs::remove_file(file)?;

        let ours = self.ours("stream", rows, |client| client.put("/connectors/stream/resume", None).status == 202)?;
        let theirs =
            self.theirs(&connect, "dbz_stream", rows, || connect.call("PUT", "/connectors/dbz-stream/resume", None).0 == 202)?;
        let way = format!("Postgres → log, {rows} inserts in the WAL");
        peers(
            &way,
            &[("pg_recvlogical to a file", &recv), ("Debezium in Kafka Connect", &theirs), ("aqueduct", &ours)],
            rows,
            table,
        );
        beside(&way, &ours, &recv, "pg_recvlogical's rate", 0.5, table);
        beside(&way, &ours, &theirs, "Debezium's rate", 5.0, table);
        let cpu = theirs.cpu.as_secs_f64() / ours.cpu.as_secs_f64();
        table.bar(format!("{way}: CPU per record"), format!("1/{cpu:.1} of Debezium's"), "≤ 1/15", cpu >= 15.0);
        self.drop_slots()
    }

    fn snapshot(&mut self, table: &mut Table) -> Result<()> {
        let (first, rows) = (self.rows + 1, self.rows * 2);
        let fill = format!(
            "insert into orders select n, n % 10007, n % 503, (n % 100000) / 100.0, 'order number ' || n, clock_timestamp() from generate_series({first}, {rows}) n"
        );
        self.server.psql_in("shop", &fill);
        self.server.psql_in("shop", "vacuum analyze orders");
        let mut copies = Vec::new();
        // The first warms the cache for all.
        for _ in 0..2 {
            let file = self.dir.join("copy.out");
            let mut copy = Command::new(bin_dir().join("psql"));
            copy.args(["-X", "-q", "-h"]).arg(self.server.dir()).args([
                "-p",
                &self.server.port().to_string(),
                "-U",
                USER,
                "-d",
                "shop",
            ]);
            copies.push(child(copy.args(["-c", "copy orders to stdout"]).stdout(File::create(&file)?))?);
            fs::remove_file(file)?;
        }
        let copy = copies.pop().context("two runs")?;
        report("COPY TO STDOUT", &copy, rows);
        let config = self.source("aq_snapshot", "initial_only", false);
        let ours =
            self.ours("snapshot", rows, |client| client.put("/connectors/snapshot/config", Some(&config)).status == 201)?;
        let connect = self.connect();
        let config = self.source("dbz_snapshot", "initial_only", true);
        let theirs = self.theirs(&connect, "dbz_snapshot", rows, || {
            connect.call("PUT", "/connectors/dbz-snapshot/config", Some(&config)).0 == 201
        })?;
        let way = format!("Postgres → log, snapshot of {rows} rows");
        peers(
            &way,
            &[("COPY TO STDOUT to a file", &copy), ("Debezium in Kafka Connect", &theirs), ("aqueduct", &ours)],
            rows,
            table,
        );
        beside(&way, &ours, &copy, "COPY's rate", 0.4, table);
        beside(&way, &ours, &theirs, "Debezium's rate", 5.0, table);
        self.drop_slots()
    }

    pub(crate) fn connect(&self) -> Connect {
        Connect::start(
            &self.broker.bootstrap(),
            ConnectOptions::distributed(&format!("bench-{:08x}", fastrand::u32(..))).with_debezium().fast(),
        )
    }

    /// The topic prefix is the slot's name.
    pub(crate) fn source(&self, slot: &str, snapshot: &str, debezium: bool) -> Value {
        let mut config = Map::new();
        let class = if debezium { "io.debezium.connector.postgresql.PostgresConnector" } else { "postgres-source" };
        let json = "org.apache.kafka.connect.json.JsonConverter";
        for (name, value) in [
            ("connector.class", class),
            ("tasks.max", "1"),
            ("plugin.name", "pgoutput"),
            ("database.hostname", "127.0.0.1"),
            ("database.port", &self.server.port().to_string()),
            ("database.user", USER),
            ("database.password", PASSWORD),
            ("database.dbname", "shop"),
            ("topic.prefix", slot),
            ("slot.name", slot),
            ("publication.name", slot),
            ("publication.autocreate.mode", "filtered"),
            ("table.include.list", "public.orders"),
            ("snapshot.mode", snapshot),
            // Without a schema nobody could read the bytes of a decimal.
            ("decimal.handling.mode", "string"),
            ("key.converter", json),
            ("value.converter", json),
            ("key.converter.schemas.enable", "false"),
            ("value.converter.schemas.enable", "false"),
            ("topic.creation.default.partitions", "1"),
            ("topic.creation.default.replication.factor", "1"),
        ] {
            config.insert(name.to_owned(), value.into());
        }
        config.into()
    }

    pub(crate) fn put(&self, name: &str, config: &Value) -> Result<()> {
        let answer = self.site.client().put(&format!("/connectors/{name}/config"), Some(config));
        ensure!(answer.status < 300, "{name}: {}", answer.text);
        Ok(())
    }

    fn wait_slot(&self, slot: &str) -> Result<()> {
        let query = format!("select count(*) from pg_replication_slots where slot_name = '{slot}' and active");
        let there = poll_for(Duration::from_secs(90), || (self.server.psql(&query) == "1").then_some(()));
        there.with_context(|| format!("nobody streams from the slot {slot}\n{}", self.site.log_tail(10)))
    }

    fn wait_free(&self, slot: &str) -> Result<()> {
        let query = format!("select count(*) from pg_replication_slots where slot_name = '{slot}' and not active");
        poll_for(Duration::from_secs(60), || (self.server.psql(&query) == "1").then_some(()))
            .with_context(|| format!("the slot {slot} is not let go"))
    }

    fn drop_slots(&self) -> Result<()> {
        let free = "select count(*) from pg_replication_slots where active";
        poll_for(Duration::from_secs(60), || (self.server.psql(free) == "0").then_some(())).context("a slot is still read")?;
        self.server.psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots");
        Ok(())
    }

    /// From the call until the connector has so many records through; then it is deleted.
    pub(crate) fn ours(&mut self, name: &str, rows: u64, begin: impl FnOnce(&aqueduct_tests::Client) -> bool) -> Result<Spent> {
        let (pid, client) = (self.site.pid().context("the worker runs")?, self.site.client());
        // Resets the peak (proc(5), clear_refs).
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let (start, cpu) = (Instant::now(), cpu_time(pid)?);
        ensure!(begin(&client), "{name} does not start");
        let done = || {
            let status = client.get(&format!("/connectors/{name}/status")).json();
            if let Some(task) = status["tasks"].as_array().into_iter().flatten().find(|task| task["state"] == "FAILED") {
                return Some(Err(anyhow::anyhow!("{name}: {}", task["trace"])));
            }
            let through = &status["tasks"][0]["aqueduct"]["records_out"];
            (through.as_u64().unwrap_or(0) >= rows).then_some(Ok(()))
        };
        let limit = Duration::from_secs(120 + rows / 5_000);
        let seen = || client.get(&format!("/connectors/{name}/status")).text;
        poll_for(limit, done)
            .with_context(|| format!("{name}: not done within {limit:?}\n{}\n{}", seen(), self.site.log_tail(10)))??;
        let spent = Spent::new(start.elapsed(), cpu_time(pid)?.saturating_sub(cpu), memory_kib(pid, "VmHWM")?);
        client.delete(&format!("/connectors/{name}")).expect(204);
        self.peak_kib = self.peak_kib.max(spent.peak_kib);
        report(&format!("aqueduct, {name}"), &spent, rows);
        Ok(spent)
    }

    /// From the call until the topic has so many records.
    fn theirs(&self, connect: &Connect, prefix: &str, rows: u64, begin: impl FnOnce() -> bool) -> Result<Spent> {
        let pid = connect.pid().context("Connect runs")?;
        let topic = format!("{prefix}.public.orders");
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let mut admin = self.broker.admin();
        admin.create_topic(&topic, 1, &[]);
        let (start, cpu) = (Instant::now(), cpu_time(pid)?);
        ensure!(begin(), "Debezium does not start");
        let goal = i64::try_from(rows)?;
        let limit = Duration::from_secs(180 + rows / 2_000);
        let done = poll_for(limit, || (admin.end_offset(&topic, 0, true) >= goal).then_some(()));
        if done.is_none() {
            bail!(
                "Debezium is not done within {limit:?}: {} of {rows}\n{}",
                admin.end_offset(&topic, 0, true),
                connect.log_tail(20)
            );
        }
        let spent = Spent::new(start.elapsed(), cpu_time(pid)?.saturating_sub(cpu), memory_kib(pid, "VmHWM")?);
        let name = prefix.replace('_', "-");
        connect.call("DELETE", &format!("/connectors/{name}"), None);
        report("Debezium", &spent, rows);
        Ok(spent)
    }

    /// More lines for the address of a database of this server, as the sinks have it.
    pub(crate) fn sink(&self, class: &str, topics: &str, table: &str) -> Value {
        let json = "org.apache.kafka.connect.json.JsonConverter";
        json!({
            "connector.class": class, "tasks.max": "1", "topics": topics,
            "connection.url": format!("jdbc:postgresql://127.0.0.1:{}/copy", self.server.port()),
            "connection.username": USER, "connection.password": PASSWORD,
            "insert.mode": "upsert", "primary.key.mode": "record_key", "collection.name.format": table,
            "key.converter": json, "value.converter": json,
        })
    }
}

pub(crate) fn report(who: &str, spent: &Spent, rows: u64) {
    eprintln!("  {who}: {}", spent.text(rows));
}

pub(crate) fn peers(way: &str, spent: &[(&str, &Spent)], rows: u64, table: &mut Table) {
    for (who, spent) in spent {
        table.row(format!("{way}: {who}"), spent.text(rows));
    }
}

pub(crate) fn beside(way: &str, ours: &Spent, theirs: &Spent, of: &str, bar: f64, table: &mut Table) {
    let ratio = theirs.time.as_secs_f64() / ours.time.as_secs_f64();
    table.bar(format!("{way}: beside {of}"), format!("{ratio:.2} ×"), format!("≥ {bar} ×"), ratio >= bar);
}
