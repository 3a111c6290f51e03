//! What is done to the server and to sessions before anything is read.

use crate::harness::*;
use postgres_services::{Options as ServerOptions, Server, shared};
use std::process::Command;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_begin_with_the_users_statements_and_values_look_as_ever() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, day date); INSERT INTO t VALUES (1, '2024-02-01')");
    let statements = "SET application_name TO 'a;;b'; SET datestyle TO 'German'";
    let more = [("database.initial.statements", statements), ("snapshot.mode", "initial"), ("heartbeat.interval.ms", "100")];
    let mut source = open(&with(options(&server, &db), &more), Vec::new()).await.unwrap();
    let got = source.records(1).await;
    assert_eq!((got[0].op(), got[0].after("day")), ("r", &19_754.into()));
    let named = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{db}' AND application_name = 'a;b'");
    let until = Instant::now() + DEADLINE;
    while server.psql(&named) == "0" {
        assert!(Instant::now() < until, "no session has the name");
        source.poll(100).await.unwrap();
    }
    source.close().await;
    let wrong = with(options(&server, &db), &[("database.initial.statements", "SELECT nonsense")]);
    let refused = open(&wrong, Vec::new()).await.err().expect("refused");
    assert!(refused.message().contains("nonsense"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_identities_are_set_where_they_are_others() {
    let server = shared();
    let db = server.database();
    server.psql_in(
        &db,
        "CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY, code text NOT NULL); CREATE UNIQUE INDEX b_code ON b (code); \
         CREATE TABLE c (id int PRIMARY KEY); INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 'x')",
    );
    let identities = || {
        server.psql_in(
            &db,
            "SELECT string_agg(relreplident::text, '' ORDER BY relname) FROM pg_class WHERE relname IN ('a', 'b', 'c')",
        )
    };
    let versions = || {
        server.psql_in(&db, "SELECT string_agg(xmin::text, ',' ORDER BY relname) FROM pg_class WHERE relname IN ('a', 'b', 'c')")
    };
    let autoset = [("replica.identity.autoset.values", "public.A:full,public.b:INDEX b_code")];
    let options = with(options(&server, &db), &autoset);
    let mut source = open(&options, Vec::new()).await.unwrap();
    assert_eq!(identities(), "fid");
    server.psql_in(&db, "UPDATE a SET n = 2; DELETE FROM b");
    let got = source.records(2).await;
    assert_eq!((got[0].op(), &got[0].value["before"]["n"]), ("u", &1.into()));
    // The key is not part of that index: nobody can delete row 0 for it.
    assert_eq!((got[1].op(), &got[1].key, &got[1].value["before"]["code"]), ("d", &serde_json::Value::Null, &"x".into()));
    let (before, stored) = (versions(), source.close().await);
    open(&options, stored).await.unwrap().close().await;
    assert_eq!(versions(), before, "nothing is altered again");
    server.psql_in(&db, "CREATE ROLE visitor LOGIN REPLICATION PASSWORD 'v'; GRANT SELECT ON a, b, c TO visitor");
    let visitor = with(options, &[("database.user", "visitor"), ("replica.identity.autoset.values", "public.c:FULL")]);
    let refused = open(&visitor, Vec::new()).await.err().expect("refused");
    let fix = refused.hint().unwrap_or_default();
    assert!(fix.contains("ALTER TABLE \"public\".\"c\" REPLICA IDENTITY FULL"), "{refused:?}");
    server.psql_in(&db, "REVOKE ALL ON a, b, c FROM visitor; DROP ROLE visitor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_key_may_be_encrypted() {
    let server = Server::start(ServerOptions::tls());
    server.psql("CREATE ROLE alice SUPERUSER LOGIN REPLICATION");
    let certs = server.certs();
    let path = |name: &str| certs.join(name).display().to_string();
    for (name, form) in [("client.p8.pem", "PEM"), ("client.p8", "DER")] {
        let mut openssl = Command::new("openssl");
        openssl.args([
            "pkcs8",
            "-topk8",
            "-passout",
            "pass:key-secret",
            "-outform",
            form,
            "-in",
            &path("client.key"),
            "-out",
            &path(name),
        ]);
        assert!(openssl.status().unwrap().success());
    }
    let (root, cert) = (path("ca.pem"), path("client.pem"));
    let alice = |db: &str, key: &str, password: &str| {
        let mut options = with(
            options(&server, db),
            &[
                ("database.user", "alice"),
                ("database.sslmode", "verify-full"),
                ("database.sslrootcert", &root),
                ("database.sslcert", &cert),
                ("database.sslkey", key),
            ],
        );
        options.remove("database.password");
        if password.is_empty() { options } else { with(options, &[("database.sslpassword", password)]) }
    };
    for (name, password) in [("client.key", ""), ("client.p8.pem", "key-secret"), ("client.p8", "key-secret")] {
        let db = server.database();
        server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
        let mut source =
            open(&alice(&db, &path(name), password), Vec::new()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        server.psql_in(&db, "INSERT INTO t VALUES (1)");
        source.records(1).await;
        source.close().await;
    }
    for password in ["", "wrong-secret"] {
        let refused = open(&alice("postgres", &path("client.p8"), password), Vec::new()).await.err().expect("refused");
        assert!(
            refused.code() == "postgres.tls" && refused.hint().is_some_and(|hint| hint.contains("sslpassword")),
            "{refused:?}"
        );
        assert!(!refused.trace().contains("wrong-secret"));
    }
}
