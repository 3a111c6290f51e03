//! Sessions that die at any moment, deadlocks, a full disk.

use crate::rig::{Rig, pair};
use aqueduct_core::{Class, Error};
use postgres_services::{Options, Proxy, Server, shared};
use std::time::{Duration, Instant};

/// One call after the other until all is in the target; reopened after each retriable error, as the worker does.
async fn drive(rig: &mut Rig, records: i64, deadline: Duration) -> Result<u32, Error> {
    let (began, mut reopened) = (Instant::now(), 0);
    let mut live = None;
    let partition = rig.committed.keys().next().unwrap().clone();
    while rig.committed[&partition].offset < records {
        assert!(began.elapsed() < deadline, "stuck at {}", rig.committed[&partition].offset);
        if live.is_none() {
            live = match rig.open().await {
                Ok(live) => Some(live),
                Err(error) if error.is_retriable() => continue,
                Err(error) => return Err(error),
            };
        }
        let task = live.as_mut().unwrap();
        match rig.put(task, 7).await {
            Ok((_, rejects)) => {
                assert!(rejects.is_empty(), "{rejects:?}");
                if fastrand::bool() {
                    rig.commit(live.as_ref().unwrap());
                }
            }
            Err(error) if error.is_retriable() => {
                reopened += 1;
                live = None;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(reopened)
}

const RECORDS: i64 = 1500;

fn fresh(server: &Server) -> (String, Rig) {
    let db = server.database();
    server.psql_in(&db, "create table t (n bigint)");
    let mut rig = Rig::new(server, &db, "connection.password: postgres");
    rig.log("t", (0..RECORDS).map(|n| pair("null", &format!(r#"{{"n":{n}}}"#))));
    (db, rig)
}

fn whole(server: &Server, db: &str) {
    let found = server.psql_in(db, "select count(*), count(distinct n), min(n), max(n) from t");
    assert_eq!(found, format!("{RECORDS}|{RECORDS}|0|{}", RECORDS - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_ended_at_random() {
    let server = shared();
    let (db, mut rig) = fresh(&server);
    let stop = tokio_util::sync::CancellationToken::new();
    let killer = {
        let (stop, server, db) = (stop.clone(), shared(), db.clone());
        std::thread::spawn(move || {
            let mut session = server.session("postgres");
            while !stop.is_cancelled() {
                session.run(&format!("select pg_sleep(random() * 0.05); select pg_terminate_backend(pid) from pg_stat_activity where datname = '{db}' and backend_type = 'client backend'"));
            }
        })
    };
    let reopened = drive(&mut rig, RECORDS, Duration::from_secs(100)).await;
    stop.cancel();
    killer.join().unwrap();
    assert!(reopened.unwrap() > 3, "hardly a session was ended");
    whole(&server, &db);
}

/// Among them: the answer to COMMIT is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut_at_random_bytes() {
    let server = shared();
    let (db, mut rig) = fresh(&server);
    let proxy = Proxy::start(server.port());
    rig.options.insert("connection.url".into(), format!("postgresql://127.0.0.1:{}/{db}?sslmode=disable", proxy.port()));
    proxy.cut_after(3000..=30_000, 11);
    let reopened = drive(&mut rig, RECORDS, Duration::from_secs(100)).await.unwrap();
    assert!(reopened > 3 && proxy.cuts() > 3, "{reopened} reopened, {} cut", proxy.cuts());
    whole(&server, &db);
}

#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, v int); insert into t select n, 0 from generate_series(1, 2) n");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key");
    rig.log("t", (1..3).map(|id| pair(&format!(r#"{{"id":{id}}}"#), r#"{"v":1}"#)));
    let mut live = rig.open().await.unwrap();
    let mut other = server.session(&db);
    // It will not find the deadlock first: the sink does.
    other.run("set deadlock_timeout = '1min'; begin; update t set v = 7 where id = 2");
    let put = rig.put(&mut live, 10);
    let meet = async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        while server.psql_in(&db, waiting) == "0" {
            tokio::task::yield_now().await;
        }
        other.send("update t set v = 8 where id = 1; commit;");
    };
    let (outcome, ()) = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(put, meet) }).await.unwrap();
    assert!(outcome.unwrap().1.is_empty());
    assert!(server.log().contains("deadlock detected"), "there was none");
    assert_eq!(server.psql_in(&db, "select v from t order by id"), "1\n1");
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let server = Server::start(Options::default().on_disk("200M"));
    let (db, mut rig) = fresh(&server);
    let mut live = rig.open().await.unwrap();
    rig.put(&mut live, 10).await.unwrap();
    rig.commit(&live);
    server.psql_in(&db, "alter table t add filler text default repeat('x', 1000)");
    let ballast = server.disk().fill_but(0);
    let error = loop {
        // Until what is allocated is used up.
        match rig.put(&mut live, 40).await {
            Ok(_) => {
                rig.commit(&live);
                for (partition, log) in &rig.log {
                    assert!(live.next[partition] < log.len() as i64, "the disk is not full");
                }
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.class(), Class::Retriable, "{error:?}");
    std::fs::remove_file(ballast).unwrap();
    drop(live);
    drive(&mut rig, RECORDS, Duration::from_secs(60)).await.unwrap();
    whole(&server, &db);
}
