//! `kill -9` under transfers, Postgres → log → Postgres: of the worker, of either server, and connections cut in the middle of a message. Row by row the
//! copy is the original, nothing is there twice, and behind each commit of the copy the sum of the balances is that of the bank.
//!
//! `KILLS=300 SERVER_KILLS=50 SEED=… cargo test --test postgres_crash -- --nocapture`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::postgres_bank::{ACCOUNTS, BALANCE, Bank};
use aqueduct_tests::wait::{pause, wait_until};
use aqueduct_tests::{Run, env_number};
use postgres_services::{Options, Psql};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const TRANSFER_EVERY: Duration = Duration::from_millis(2);

/// Looks at the sum of the copy's balances all the time, and has the copy do so at each of its commits.
struct SumWatch {
    stop: Arc<AtomicBool>,
    looking: Option<JoinHandle<Looks>>,
}

#[derive(Debug, Default)]
struct Looks {
    count: u64,
    wrong: Vec<u64>,
    /// The copy notes wrong sums.
    noting: bool,
}

impl SumWatch {
    fn start(client: Psql) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looking = std::thread::spawn(move || {
            let mut looks = Looks::default();
            while !stopped.load(Ordering::Acquire) {
                if let Some(sum) = Bank::sum(&client) {
                    looks.count += 1;
                    looks.wrong.extend((sum != ACCOUNTS * BALANCE).then_some(sum));
                    looks.noting = looks.noting || Bank::note_wrong_sums(&client).is_ok();
                }
                pause(Duration::from_millis(20));
            }
            looks
        });
        Self { stop, looking: Some(looking) }
    }

    /// The sum was right at every look, and at every commit. Returns how often it looked.
    #[track_caller]
    fn was_right(mut self, bank: &Bank) -> u64 {
        self.stop.store(true, Ordering::Release);
        let looks = self.looking.take().unwrap().join().unwrap();
        assert!(looks.count > 0 && looks.noting, "nobody looked: {looks:?}");
        assert!(looks.wrong.is_empty(), "sums that were seen: {:?}, of {} looks", looks.wrong, looks.count);
        assert_eq!(bank.wrong_sums(), "0|", "sums behind commits of the copy");
        looks.count
    }
}

impl Drop for SumWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn seed() -> u64 {
    env_number("SEED", fastrand::u64(..1 << 40))
}

#[test]
fn the_worker_is_killed_and_the_copy_is_exact() {
    let (kills, seed) = (env_number("KILLS", 20), seed());
    let mut random = fastrand::Rng::with_seed(seed);
    println!("KILLS={kills} SEED={seed}");
    let mut bank = Bank::prepare(&Options::default(), "", "");
    bank.transfers(TRANSFER_EVERY);
    let watch = SumWatch::start(bank.target.client());
    bank.read_at_first();
    for kill in 0..kills {
        if kill > 0 {
            bank.site.spawn(&Run::default());
        }
        // One in four dies while it starts, so in recovery.
        if random.u8(..4) > 0 {
            bank.site
                .wait_healthy(aqueduct_tests::site::START_DEADLINE)
                .unwrap_or_else(|error| panic!("{error:#}\n{}", bank.why()));
        }
        pause(Duration::from_millis(random.u64(5..=2_000)));
        bank.site.kill();
        // Now and then it gets to the end in between: not all kills hit the same minute.
        if kill % 10 == 9 {
            bank.site.start();
            bank.goes_on();
            bank.site.kill();
        }
    }
    bank.site.start();
    bank.exact();
    let looks = watch.was_right(&bank);
    println!(
        "{kills} kills, {} transfers; the copy's sum was right at all of {looks} looks and at each commit",
        bank.source.psql_in("bank", "select count(*) - 1000 from ledger")
    );
}

fn cuts(bank: &Bank) -> u64 {
    bank.proxies.iter().map(postgres_services::Proxy::cuts).sum()
}

#[test]
fn servers_are_killed_and_connections_cut_and_the_copy_is_exact() {
    let (kills, seed) = (env_number("SERVER_KILLS", 3), seed());
    let mut random = fastrand::Rng::with_seed(seed);
    println!("SERVER_KILLS={kills} SEED={seed}");
    let mut bank = Bank::prepare(&Options::default(), "", "");
    bank.transfers(TRANSFER_EVERY);
    let watch = SumWatch::start(bank.target.client());
    bank.read_at_first();
    for kill in 0..kills {
        let before = cuts(&bank);
        for proxy in &bank.proxies {
            proxy.cut_after(200..=300_000, random.u64(..));
        }
        bank.proxies.iter().for_each(postgres_services::Proxy::reset);
        pause(Duration::from_millis(random.u64(500..=3_000)));
        wait_until(Duration::from_secs(30), "a connection is cut", || (cuts(&bank) > before).then_some(()));
        bank.proxies.iter().for_each(postgres_services::Proxy::heal);
        bank.more_transfers();
        pause(Duration::from_millis(random.u64(..1_000)));
        let server = if random.bool() { &mut bank.source } else { &mut bank.target };
        server.kill9();
        pause(Duration::from_millis(random.u64(..1_000)));
        server.restart();
        if kill % 5 == 4 {
            bank.goes_on();
        }
    }
    let cuts = cuts(&bank);
    bank.exact();
    let looks = watch.was_right(&bank);
    println!(
        "{kills} kills of servers, {cuts} cuts, {} transfers; the copy's sum was right at all of {looks} looks and at each commit",
        bank.source.psql_in("bank", "select count(*) - 1000 from ledger")
    );
}
