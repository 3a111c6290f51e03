//! HTTP → log: `http-source` beside a loop of reqwest by hand that reads the same pages and discards them.

use crate::table::{Table, median};
use anyhow::{Context, Result, ensure};
use aqueduct_tests::site::cpu_time;
use aqueduct_tests::{Site, poll_for};
use axum::extract::Query;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

const PAGE: u64 = 100;

/// `records` of 100 bytes, 100 a page, one page after the other.
pub(crate) fn measure(dir: &Path, records: u64, runs: usize, table: &mut Table) -> Result<()> {
    let records = (records / PAGE).max(100) * PAGE;
    let (mut by_hand, mut ours, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        by_hand.push(hand(records)?);
        let (rate, spent) = source(dir, records)?;
        ours.push(rate);
        cpu.push(spent);
    }
    let (by_hand, ours) = (median(by_hand), median(ours));
    table.row(
        format!("HTTP → log, {records} records of 100 bytes in pages of {PAGE} by cursor"),
        format!(
            "{ours:.0} records/s, {:.2} of a loop of reqwest by hand that discards them ({by_hand:.0}); {:.2} CPU-s per million",
            ours / by_hand,
            median(cpu)
        ),
    );
    Ok(())
}

/// An API with a cursor: `?cursor=` is the number of the first record of a page.
struct Api {
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    fn start(records: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let page = move |Query(query): Query<HashMap<String, String>>| async move {
            let from = query.get("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
            ([("content-type", "application/json")], body(from, records))
        };
        let routes = axum::Router::new().route("/records", axum::routing::get(page));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { port, _runtime: runtime })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/records", self.port)
    }
}

fn body(from: u64, records: u64) -> String {
    let end = (from + PAGE).min(records);
    let mut text = String::with_capacity(11_000);
    text.push_str("{\"records\":[");
    for n in from..end {
        let comma = if n > from { "," } else { "" };
        text.push_str(&format!("{comma}{{\"n\":{n:>12},\"text\":\"{}\"}}", "x".repeat(72)));
    }
    text.push(']');
    if end < records {
        text.push_str(&format!(",\"next\":\"{end}\""));
    }
    text + "}"
}

/// Records per second. Each page is parsed, since it tells where the next one is.
fn hand(records: u64) -> Result<f64> {
    let api = Api::start(records)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    http_services::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let start = Instant::now();
    let read = runtime.block_on(async {
        let (mut read, mut url) = (0, api.url());
        loop {
            let bytes = client.get(&url).send().await?.error_for_status()?.bytes().await?;
            let page: serde_json::Value = serde_json::from_slice(&bytes)?;
            read += page["records"].as_array().map_or(0, Vec::len) as u64;
            let Some(next) = page["next"].as_str() else { return anyhow::Ok(read) };
            url = format!("{}?cursor={next}", api.url());
        }
    })?;
    ensure!(read == records, "{read} of {records}");
    Ok(records as f64 / start.elapsed().as_secs_f64())
}

/// Records per second until the embedded log has all, and CPU-seconds of the worker per million.
fn source(dir: &Path, records: u64) -> Result<(f64, f64)> {
    let api = Api::start(records)?;
    let mut site = Site::in_folder(dir, "");
    site.start();
    let pid = site.pid().context("the worker runs")?;
    let client = site.client();
    let stored = || client.get("/connectors/pages/status").json()["tasks"][0]["aqueduct"]["records_out"].as_u64().unwrap_or(0);
    site.connector(
        "pages",
        &format!(
            "name: pages\nconnector.class: http-source\nkafka.topic: pages\nhttp.request.url: {}\nhttp.allowed.hosts: 127.0.0.1\n\
             http.response.list.pointer: /records\nhttp.response.record.offset.pointer: key=/n\nhttp.page.mode: cursor\n\
             http.page.next.pointer: /next\n",
            api.url()
        ),
    );
    let limit = Duration::from_secs(60 + records / 5_000);
    let first = poll_for(Duration::from_secs(30), || Some(stored()).filter(|stored| *stored > 0)).context("it begins")?;
    let (start, before) = (Instant::now(), cpu_time(pid)?);
    poll_for(limit, || (stored() >= records).then_some(())).with_context(|| format!("{} of {records} in the log", stored()))?;
    let (time, cpu) = (start.elapsed(), cpu_time(pid)?.saturating_sub(before));
    ensure!(stored() == records, "{} records, where the API has {records}", stored());
    site.stop();
    let measured = (records - first) as f64;
    Ok((measured / time.as_secs_f64(), cpu.as_secs_f64() / measured * 1e6))
}
