//! How fast a snapshot is beside `COPY … TO STDOUT`: figures to look at, and a bound that only a fault breaks, since this is the debug profile.

use crate::harness::{context, open};
use crate::{SERVER, snapshot_options};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a minute of figures: cargo test -p aqueduct-connector-postgres --test snapshot -- --ignored --nocapture"]
async fn beside_copy() {
    const ROWS: usize = 2_000_000;
    let database = SERVER.database();
    SERVER.psql_in(
        &database,
        &format!(
            "create table orders (id bigint primary key, customer int, total numeric(10,2), note text, at timestamptz); \
             insert into orders select n, n % 1000, n * 0.01, 'order ' || md5(n::text), '2024-01-01'::timestamptz + n * interval '1 s' from generate_series(1, {ROWS}) n; \
             vacuum analyze orders;"
        ),
    );
    let copying = Instant::now();
    let out = SERVER.dir().join("orders.copy");
    SERVER.psql_in(&database, &format!("\\copy orders to '{}'", out.display()));
    let copy = copying.elapsed();
    let mut options = snapshot_options(&database);
    options.insert("snapshot.chunk.rows".into(), "50000".into());
    options.insert("max.batch.size".into(), "100000".into());
    let reading = Instant::now();
    let mut running = open(&options, Vec::new()).await.unwrap();
    let mut rows = 0;
    while rows < ROWS {
        let polled = running.task.poll(&context(100_000)).await.unwrap();
        rows += polled.batch.len();
        running.task.commit(&polled.resume).await.unwrap();
    }
    let ours = reading.elapsed();
    println!(
        "{ROWS} rows: COPY {copy:?}, snapshot {ours:?} ({:.0} rows/s), ratio {:.2}",
        ROWS as f64 / ours.as_secs_f64(),
        copy.as_secs_f64() / ours.as_secs_f64()
    );
    assert!(ours < copy * 100);
    running.close().await;
}
