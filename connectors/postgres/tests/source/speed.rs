//! How fast the stream is read, beside `pg_recvlogical` on the same changes in the same run.

use crate::harness::*;
use postgres_services::{Options as ServerOptions, Server, bin_dir};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROWS: usize = 1_000_000;

fn cpu_seconds(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("stat").1.split_whitespace().collect();
    (fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime")) / 100.0
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

/// `pg_recvlogical` to /dev/null, up to an LSN: seconds and CPU-seconds.
fn recvlogical(server: &Server, db: &str, slot: &str, end: &str) -> (f64, f64) {
    let began = Instant::now();
    let mut command = Command::new(bin_dir().join("pg_recvlogical"));
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &server.port().to_string(),
        "-U",
        "postgres",
        "-d",
        db,
        "-S",
        slot,
        "--start",
        "-f",
        "/dev/null",
    ]);
    command.args(["-o", "proto_version=1", "-o", &format!("publication_names={db}"), "-E", end, "--no-loop"]);
    let before = children_cpu();
    let status = command.stdout(Stdio::null()).status().expect("pg_recvlogical is there");
    assert!(status.success(), "{status}");
    (began.elapsed().as_secs_f64(), children_cpu() - before)
}

fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("stat").1.split_whitespace().collect();
    (fields[13].parse::<f64>().expect("cutime") + fields[14].parse::<f64>().expect("cstime")) / 100.0
}

async fn drain(source: &mut Running, rows: usize) -> (f64, f64) {
    let (began, before, mut seen) = (Instant::now(), cpu_seconds("self"), 0);
    while seen < rows {
        let polled = source.poll_only(100_000).await.expect("poll");
        seen += polled.batch.len();
        source.keep(&polled).await.expect("keep");
    }
    assert_eq!(seen, rows);
    (began.elapsed().as_secs_f64(), cpu_seconds("self") - before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: minutes long, and a busy machine makes it meaningless"]
async fn a_million_inserts_are_read_at_half_the_speed_of_pg_recvlogical() {
    let server = Server::start(ServerOptions::default().with("synchronous_commit = off").with("max_wal_size = 2GB"));
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, account int NOT NULL, amount numeric(12,2) NOT NULL, note text, at timestamptz NOT NULL DEFAULT now())");
    let mut source = open(&options(&server, &db), Vec::new()).await.unwrap();
    let peer = format!("{db}_peer");
    server.psql_in(&db, &format!("SELECT pg_create_logical_replication_slot('{peer}', 'pgoutput')"));
    source.task.close().await.unwrap();
    server.psql_in(
        &db,
        &format!("DO $$ BEGIN FOR i IN 1..{ROWS} LOOP INSERT INTO t VALUES (i, i % 1000, i / 100.0, 'payment number ' || i); COMMIT; END LOOP; END $$"),
    );
    let end = server.psql_in(&db, "SELECT pg_current_wal_insert_lsn()");
    server.psql_in(&db, "CREATE TABLE later (id int); INSERT INTO later VALUES (1)");
    let (theirs, their_cpu) = recvlogical(&server, &db, &peer, &end);
    let mut again = open(&options(&server, &db), source.stored).await.unwrap();
    let (ours, our_cpu) = drain(&mut again, ROWS).await;
    println!(
        "aqueduct {:.0}/s, {our_cpu:.2} CPU-s; pg_recvlogical {:.0}/s, {their_cpu:.2} CPU-s; ratio {:.2}; RSS {} MiB (debug profile, opt-level 1, no log)",
        ROWS as f64 / ours,
        ROWS as f64 / theirs,
        theirs / ours,
        rss_mib(),
    );
    again.close().await;
    assert!(theirs / ours >= 0.5);
}
