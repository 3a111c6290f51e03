//! Snapshots that an operator asks for.

use crate::harness::with;
use crate::rig::Rig;
use crate::{SERVER, TABLES, Writer, compare, make, snapshot_options};
use aqueduct_core::{Result, Signal};
use serde_json::{Value, json};

async fn signal(rig: &mut Rig, kind: &str, data: Value) -> Result<()> {
    rig.task().task.signal(Signal { id: "s".into(), kind: kind.into(), data }).await
}

#[tokio::test]
async fn an_incremental_snapshot_is_exact_under_writes_and_crashes() {
    fastrand::seed(7);
    let database = SERVER.database();
    make(&database, &TABLES, 150);
    let more =
        [("snapshot.mode", "no_data"), ("incremental.snapshot.chunk.size", "25"), ("table.exclude.list", "public.keyless.*")];
    let mut rig = Rig::start(with(snapshot_options(&database), &more)).await;
    let mut writer = Writer::new(&database, 150);
    let tables = &TABLES[..10];
    rig.poll().await;
    signal(&mut rig, "execute-snapshot", json!({"data-collections": ["public.by_.*"]})).await.unwrap();
    let report = rig.task().task.report();
    assert!(report.summary.contains("incremental snapshot of public.by_"), "{report:?}");
    while !rig.unread().is_empty() || rig.crashes < 5 {
        writer.write(tables);
        rig.poll().await;
        if fastrand::u8(0..6) == 0 && rig.crashes < 20 {
            rig.crash().await;
        }
    }
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, tables);
    assert!(rig.copy.marks.iter().all(|(_, mark)| mark == "incremental"));
}

#[tokio::test]
async fn the_signal_table_conditions_and_a_stop() {
    let database = SERVER.database();
    make(&database, &TABLES[..2], 100);
    SERVER.psql_in(&database, "create table signals (id varchar(42) primary key, type varchar(32) not null, data varchar(2048))");
    let more = [
        ("snapshot.mode", "no_data"),
        ("signal.data.collection", "public.signals"),
        ("incremental.snapshot.chunk.size", "10"),
        ("table.exclude.list", "public.signals"),
    ];
    let mut rig = Rig::start(with(snapshot_options(&database), &more)).await;
    rig.poll().await;
    let data = json!({"data-collections": ["public.by_int", "public.by_text"], "type": "incremental",
        "additional-conditions": [{"data-collection": "public.by_int", "filter": "id > 90 -- the last"}]});
    SERVER.psql_in(&database, &format!("insert into signals values ('a', 'execute-snapshot', '{data}')"));
    rig.catch_up(&SERVER, &database).await;
    for _ in 0..200 {
        rig.poll().await;
        if rig.copy.reads.get("by_text") == Some(&100) {
            break;
        }
    }
    assert_eq!((rig.copy.reads["by_int"], rig.copy.reads["by_text"]), (10, 100));
    assert!(rig.unread().is_empty());

    for (data, says) in [
        (json!({"data-collections": ["public.nothing"]}), "no captured table"),
        (json!({"data-collections": ["("]}), "no regular expression"),
    ] {
        let refused = signal(&mut rig, "execute-snapshot", data).await.unwrap_err();
        assert!(refused.code() == "postgres.signal" && refused.message().contains(says), "{refused}");
    }
    signal(&mut rig, "pause-snapshot", Value::Null).await.unwrap();
    signal(&mut rig, "execute-snapshot", json!({"data-collections": ["public.by_text"]})).await.unwrap();
    for _ in 0..5 {
        rig.poll().await;
    }
    assert_eq!(rig.copy.reads["by_text"], 100, "paused");
    let until = std::time::Instant::now() + crate::harness::DEADLINE;
    while !rig
        .stored()
        .iter()
        .any(|one| one.offset.as_ref().is_some_and(|offset| offset.contains_key("aqueduct.snapshot_paused")))
    {
        assert!(std::time::Instant::now() < until, "{:?}", rig.stored());
        rig.poll().await;
    }
    rig.crash().await;
    for _ in 0..5 {
        rig.poll().await;
    }
    assert_eq!(rig.copy.reads["by_text"], 100, "paused before the crash");
    assert!(rig.task().task.report().summary.ends_with("paused"));
    signal(&mut rig, "stop-snapshot", Value::Null).await.unwrap();
    signal(&mut rig, "resume-snapshot", Value::Null).await.unwrap();
    rig.catch_up(&SERVER, &database).await;
    assert_eq!(rig.copy.reads["by_text"], 100, "stopped");
}

#[tokio::test]
async fn a_condition_cannot_become_another_statement() {
    let database = SERVER.database();
    make(&database, &TABLES[..1], 10);
    let mut rig = Rig::start(with(snapshot_options(&database), &[("snapshot.mode", "no_data")])).await;
    rig.poll().await;
    let evil = "true) TO STDOUT; COMMIT; DROP TABLE by_int; COPY (SELECT 1 WHERE (true";
    let data = json!({"data-collections": ["public.by_int"], "additional-conditions": [{"data-collection": "public.by_int", "filter": evil}]});
    signal(&mut rig, "execute-snapshot", data).await.unwrap();
    for _ in 0..20 {
        rig.poll().await;
    }
    assert_eq!(SERVER.psql_in(&database, "select count(*) from by_int").trim(), "10");
    assert!(rig.unread().is_empty(), "it is given up, not tried for ever");
    rig.catch_up(&SERVER, &database).await;
}

#[tokio::test]
async fn a_blocking_snapshot_leads_to_the_same_state() {
    fastrand::seed(11);
    let database = SERVER.database();
    make(&database, &TABLES, 120);
    let more = [("snapshot.mode", "no_data"), ("table.exclude.list", "public.keyless.*")];
    let mut rig = Rig::start(with(snapshot_options(&database), &more)).await;
    rig.poll().await;
    signal(&mut rig, "execute-snapshot", json!({"type": "blocking", "data-collections": ["public.by_int", "public.by_uuid"]}))
        .await
        .unwrap();
    let mut writer = Writer::new(&database, 120);
    for _ in 0..10 {
        rig.poll().await;
        writer.write(&TABLES[9..10]);
    }
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &[("by_int", ""), ("by_uuid", "")]);
    assert_eq!((rig.copy.reads["by_int"], rig.copy.reads["by_uuid"]), (120, 120));
}

#[tokio::test]
async fn nothing_is_written_where_nothing_may_be() {
    let database = SERVER.database();
    make(&database, &TABLES[..1], 50);
    let more = [("snapshot.mode", "no_data"), ("read.only", "true"), ("incremental.snapshot.chunk.size", "20")];
    let mut options = with(snapshot_options(&database), &more);
    options.remove("heartbeat.interval.ms");
    let mut rig = Rig::start(options).await;
    rig.poll().await;
    signal(&mut rig, "execute-snapshot", json!({"data-collections": ["public.by_int"]})).await.unwrap();
    for _ in 0..600 {
        rig.poll().await;
        if rig.unread().is_empty() && rig.copy.reads.get("by_int") == Some(&50) {
            return;
        }
    }
    panic!("{:?} {:?}", rig.copy.reads, rig.stored());
}

#[tokio::test]
async fn signals_come_from_a_file() {
    let database = SERVER.database();
    make(&database, &TABLES[..2], 50);
    let file = SERVER.dir().join(format!("{database}.signals"));
    let path = file.display().to_string();
    let more = [
        ("snapshot.mode", "no_data"),
        ("signal.enabled.channels", "source,file"),
        ("signal.file", path.as_str()),
        ("signal.poll.interval.ms", "50"),
    ];
    let mut rig = Rig::start(with(snapshot_options(&database), &more)).await;
    rig.poll().await;
    let line = |table: &str| {
        let data = json!({"data-collections": [table], "type": "INCREMENTAL"});
        json!({"id": "1", "type": "execute-snapshot", "data": data}).to_string()
    };
    let taken = SERVER.dir().join(format!("{database}.signals.taken"));
    std::fs::write(&file, format!("no signal\n{}\n\n", line("public.by_int"))).unwrap();
    // Lost with the process before it was stored: it is there again.
    while !taken.exists() {
        let _ = rig.task().poll_only(1000).await.unwrap();
    }
    rig.crash().await;
    let until = std::time::Instant::now() + crate::harness::DEADLINE;
    while rig.copy.reads.get("by_int") != Some(&50) || taken.exists() {
        assert!(std::time::Instant::now() < until, "{:?} {}", rig.copy.reads, taken.exists());
        rig.poll().await;
    }
    std::fs::write(&file, line("public.by_text")).unwrap();
    while rig.copy.reads.get("by_text") != Some(&50) || taken.exists() || file.exists() {
        assert!(std::time::Instant::now() < until, "{:?} {}", rig.copy.reads, taken.exists());
        rig.poll().await;
    }
    assert_eq!(rig.copy.reads["by_int"], 50, "once");
}
