use crate::harness::*;
use postgres_services::{Options as ServerOptions, Server, shared};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_comes_in_order() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, name text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL; CREATE TABLE other (id int)");
    let mut source = open(&with(options(&server, &db), &[("table.include.list", "public.t")]), Vec::new()).await.unwrap();
    server.psql_in(&db, "INSERT INTO t VALUES (1, 'one', repeat('x', 10000)); INSERT INTO other VALUES (1)");
    server.psql_in(&db, "UPDATE t SET name = 'eins'; UPDATE t SET id = 2; DELETE FROM t");
    server.psql_in(&db, "ALTER TABLE t ADD COLUMN more int DEFAULT 7; INSERT INTO t (id) VALUES (3); ALTER TABLE t DROP COLUMN name; INSERT INTO t (id) VALUES (4)");
    let got = source.records(6).await;
    for record in &got {
        println!("{record:?}");
    }
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_and_tls_log_in() {
    let server = Server::start(ServerOptions::tls());
    let root = server.certs().join("ca.pem").display().to_string();
    for mode in ["require", "verify-ca", "verify-full", "prefer"] {
        let db = server.database();
        server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
        let more = [("database.sslmode", mode), ("database.sslrootcert", root.as_str())];
        let mut source =
            open(&with(options(&server, &db), &more), Vec::new()).await.unwrap_or_else(|error| panic!("{mode}: {error:?}"));
        server.psql_in(&db, "INSERT INTO t VALUES (1)");
        source.records(1).await;
        source.close().await;
    }
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    for (more, code) in [
        (&[("database.sslmode", "disable")][..], "postgres.login"),
        (&[("database.sslmode", "require"), ("database.password", "wrong")], "postgres.login"),
        (&[("database.sslmode", "verify-full")], "postgres.tls"),
    ] {
        let refused = open(&with(options(&server, &db), more), Vec::new()).await.err().expect("refused");
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(!refused.trace().contains("wrong") && refused.hint().is_some());
    }
}
