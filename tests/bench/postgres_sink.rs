//! Log → Postgres: an upsert of each row beside UNNEST by hand and Debezium's JDBC sink.

use crate::kafka_peers::{Spent, child};
use crate::postgres::{Bench, beside, peers, report};
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use aqueduct_tests::poll_for;
use aqueduct_tests::site::{cpu_time, memory_kib};
use kafka_services::{Connect, ConnectOptions};
use postgres_services::{USER, bin_dir};
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const TABLE: &str = "(id bigint primary key, customer int not null, product int not null, amount numeric(10, 2) not null, note text, at timestamptz not null)";
/// Rows of a statement: what makes it fastest by hand.
const BATCHES: [u64; 2] = [2_000, 10_000];

pub(crate) fn measure(bench: &mut Bench<'_>, table: &mut Table) -> Result<()> {
    let rows = bench.rows;
    bench.server.psql("create database copy");
    let mut best: Option<(Spent, u64)> = None;
    for batch in BATCHES {
        let spent = by_hand(bench, batch)?;
        if best.as_ref().is_none_or(|(best, _)| spent.time < best.time) {
            best = Some((spent, batch));
        }
    }
    let (hand, batch) = best.context("two batches")?;
    let ours = aqueduct(bench)?;
    let theirs = debezium(bench)?;
    let way = format!("log → Postgres, upsert of {rows} rows");
    let name = format!("psql, UNNEST of {batch}, prepared by hand");
    peers(&way, &[(name.as_str(), &hand), ("Debezium's JDBC sink", &theirs), ("aqueduct, exactly once", &ours)], rows, table);
    beside(&way, &ours, &hand, "UNNEST by hand", 0.6, table);
    beside(&way, &ours, &theirs, "Debezium's JDBC sink", 3.0, table);
    Ok(())
}

/// Arrays as literals in a file, written before the clock starts.
fn by_hand(bench: &Bench<'_>, batch: u64) -> Result<Spent> {
    fresh(bench, "by_hand");
    let file = bench.dir.join("unnest.sql");
    statements(&file, bench.rows, batch)?;
    let mut psql = Command::new(bin_dir().join("psql"));
    psql.args(["-X", "-q", "-h"])
        .arg(bench.server.dir())
        .args(["-p", &bench.server.port().to_string(), "-U", USER, "-d", "copy", "-f"])
        .arg(&file);
    let spent = child(&mut psql)?;
    report(&format!("UNNEST of {batch}"), &spent, bench.rows);
    check(bench, "by_hand")?;
    fs::remove_file(file)?;
    Ok(spent)
}

fn statements(path: &Path, rows: u64, batch: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for first in (1..=rows).step_by(usize::try_from(batch)?) {
        let ids = first..(first + batch).min(rows + 1);
        let array = |cell: &dyn Fn(u64) -> String| ids.clone().map(cell).collect::<Vec<_>>().join(",");
        write!(file, "insert into by_hand select * from unnest('{{{}}}'::bigint[]", array(&|n| n.to_string()))?;
        write!(
            file,
            ", '{{{}}}'::int[], '{{{}}}'::int[]",
            array(&|n| (n % 10007).to_string()),
            array(&|n| (n % 503).to_string())
        )?;
        write!(file, ", '{{{}}}'::numeric[]", array(&|n| format!("{}.{:02}", n % 100_000 / 100, n % 100)))?;
        write!(file, ", '{{{}}}'::text[]", array(&|n| format!("\"order number {n}\"")))?;
        write!(file, ", '{{{}}}'::timestamptz[])", array(&|n| format!("\"2026-01-01 00:00:00.{:06}+00\"", n % 1_000_000)))?;
        writeln!(
            file,
            " on conflict (id) do update set customer = excluded.customer, product = excluded.product, amount = excluded.amount, note = excluded.note, at = excluded.at;"
        )?;
    }
    file.flush()?;
    Ok(())
}

fn fresh(bench: &Bench<'_>, name: &str) {
    bench.server.psql_in("copy", &format!("drop table if exists {name}; create table {name} {TABLE}; checkpoint"));
}

fn check(bench: &Bench<'_>, name: &str) -> Result<()> {
    let rows = bench.rows;
    let found = bench.server.psql_in("copy", &format!("select count(*), sum(id) from {name}"));
    ensure!(found == format!("{rows}|{}", rows * (rows + 1) / 2), "{name} has other rows than were written: {found}");
    Ok(())
}

/// From the topic that the streaming part left in the embedded log.
fn aqueduct(bench: &mut Bench<'_>) -> Result<Spent> {
    fresh(bench, "ours");
    let mut config = bench.sink("postgres-sink", "aq_stream.public.orders", "ours");
    config["quote.sql.identifiers"] = json!("always");
    for side in ["key", "value"] {
        config[format!("{side}.converter.schemas.enable")] = json!("false");
    }
    let rows = bench.rows;
    let spent = bench.ours("sink", rows, |client| client.put("/connectors/sink/config", Some(&config)).status == 201)?;
    check(bench, "ours")?;
    Ok(spent)
}

/// It reads values with schemas alone, so the topic is written for it first, by Debezium.
fn debezium(bench: &mut Bench<'_>) -> Result<Spent> {
    fresh(bench, "theirs");
    let group = format!("jdbc-{:08x}", fastrand::u32(..));
    let options = ConnectOptions::distributed(&group).with_debezium().with_debezium_jdbc().fast();
    let connect = Connect::start(&bench.broker.bootstrap(), options.with("consumer.auto.offset.reset=earliest"));
    let mut source = bench.source("jdbc_source", "initial_only", true);
    for side in ["key", "value"] {
        source[format!("{side}.converter.schemas.enable")] = json!("true");
    }
    source["decimal.handling.mode"] = json!("precise");
    source["snapshot.select.statement.overrides"] = json!("public.orders");
    source["snapshot.select.statement.overrides.public.orders"] =
        json!(format!("select * from public.orders where id <= {}", bench.rows));
    let mut admin = bench.broker.admin();
    admin.create_topic("jdbc_source.public.orders", 1, &[]);
    connect.connector("jdbc-source", &source);
    let (goal, limit) = (i64::try_from(bench.rows)?, Duration::from_secs(180 + bench.rows / 2_000));
    poll_for(limit, || (admin.end_offset("jdbc_source.public.orders", 0, true) >= goal).then_some(()))
        .context("the topic for the JDBC sink")?;
    connect.call("DELETE", "/connectors/jdbc-source", None);

    let pid = connect.pid().context("Connect runs")?;
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let (start, cpu) = (Instant::now(), cpu_time(pid)?);
    connect.connector("jdbc", &bench.sink("io.debezium.connector.jdbc.JdbcSinkConnector", "jdbc_source.public.orders", "theirs"));
    let count = format!("select count(*) from theirs having count(*) >= {}", bench.rows);
    poll_for(limit, || bench.server.try_psql("copy", &count).is_ok_and(|count| !count.is_empty()).then_some(()))
        .with_context(|| format!("the JDBC sink is not done within {limit:?}\n{}", connect.log_tail(20)))?;
    let spent = Spent::new(start.elapsed(), cpu_time(pid)?.saturating_sub(cpu), memory_kib(pid, "VmHWM")?);
    report("Debezium's JDBC sink", &spent, bench.rows);
    check(bench, "theirs")?;
    Ok(spent)
}
