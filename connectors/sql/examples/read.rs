//! How fast rows come through the poll loop: `read URL MODE ROWS [option=value…]`. Prints rows, seconds and rows a second.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people who measure")]

use aqueduct_core::{CancellationToken, Options, Plugin, TaskContext, TaskId};
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut options: Options = [("connection.url", args[0].as_str()), ("mode", args[1].as_str()), ("topic.prefix", "t.")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    options.extend(args[3..].iter().map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())));
    let wanted: usize = args[2].parse().unwrap();
    let Plugin::Source(plugin) = aqueduct_connector_sql::plugins().remove(0) else { unreachable!("a source") };
    let spec = plugin.plan(&options, 1).await.unwrap().remove(0);
    let mut task = plugin.open(&options, spec, Vec::new()).await.unwrap();
    // The worker's defaults.
    let cx = TaskContext {
        task: TaskId::new("read", 0),
        wait_max: Duration::from_millis(500),
        max_bytes: 1 << 20,
        max_records: 10_000,
        interrupt: CancellationToken::new(),
    };
    let (start, mut rows, mut batches) = (Instant::now(), 0, 0);
    while rows < wanted {
        let polled = task.poll(&cx).await.unwrap();
        rows += polled.batch.len();
        batches += usize::from(!polled.batch.is_empty());
    }
    let seconds = start.elapsed().as_secs_f64();
    let memory = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = memory.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("{rows} rows, {batches} batches, {seconds:.2} s, {:.0} rows/s, {peak}", rows as f64 / seconds);
    task.close().await.unwrap();
}
