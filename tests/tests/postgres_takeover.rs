//! What real Debezium began, Aqueduct goes on with: its config, its offset in Kafka Connect's topic and its slot, without another snapshot; and back again.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::Site;
use kafka_services::{Broker, Connect, ConnectOptions, shared, wait_until};
use postgres_services::{PASSWORD, Server, USER};
use serde_json::{Value, json};
use std::ops::Range;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(90);

fn insert(server: &Server, rows: Range<usize>) {
    let (first, last) = (rows.start, rows.end - 1);
    server.psql(&format!("insert into orders select n, 'order ' || n from generate_series({first}, {last}) n"));
}

/// A `read_committed` reader sees each row once, those of the snapshot as `r` and all others as `c`, in their order and with their place in their transaction:
/// each has 300 rows.
#[track_caller]
fn exactly(broker: &Broker, topic: &str, snapshot: usize, rows: usize, why: impl Fn() -> String) {
    let mut count = 0;
    let found = kafka_services::poll_for(MINUTE, || {
        let found = broker.consume(topic);
        count = found.len();
        (count >= rows).then_some(found)
    });
    let found = found.unwrap_or_else(|| panic!("{count} of {rows} rows in {topic}\n{}", why()));
    let seen: Vec<(String, u64, Option<u64>)> = found
        .iter()
        .map(|record| {
            let event: Value = serde_json::from_str(&record.text()).unwrap();
            let place = event["transaction"]["total_order"].as_u64();
            (event["op"].as_str().unwrap().to_owned(), event["after"]["id"].as_u64().unwrap(), place)
        })
        .collect();
    let row = |id: usize| match id < snapshot {
        true => ("r".to_owned(), id as u64, None),
        false => ("c".to_owned(), id as u64, Some(id as u64 % 300 + 1)),
    };
    let expected: Vec<_> = (0..rows).map(row).collect();
    assert_eq!(seen.len(), expected.len(), "{topic}: {:?} …\n{}", &seen[..seen.len().min(5)], why());
    assert!(seen == expected, "{topic}: another order, or another operation");
}

#[test]
fn there_and_back_again() {
    let broker = shared();
    let server = Server::start(postgres_services::Options::default());
    let group = format!("cdc-{:08x}", fastrand::u32(..));
    let topic = format!("{group}.public.orders");
    server.psql("create table orders (id int primary key, note text)");
    insert(&server, 0..300);
    let config = json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "tasks.max": "1", "plugin.name": "pgoutput",
        "database.hostname": "127.0.0.1", "database.port": server.port().to_string(), "database.user": USER, "database.password": PASSWORD,
        "database.dbname": "postgres", "topic.prefix": group, "slot.name": "orders", "publication.name": "orders",
        "publication.autocreate.mode": "filtered", "table.include.list": "public.orders",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter", "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
        "provide.transaction.metadata": "true", "topic.creation.default.partitions": "1", "topic.creation.default.replication.factor": "1",
    });
    let slot = || server.psql("select slot_name, active from pg_replication_slots");
    let free = |who: &str| wait_until(MINUTE, &format!("{who} lets go of the slot"), || (slot() == "orders|f").then_some(()));

    broker.admin().create_topic(&topic, 1, &[]);
    let options = ConnectOptions::distributed(&group).with_debezium().with("offset.flush.interval.ms=500");
    let mut connect = Connect::start(&broker.bootstrap(), options);
    connect.connector("orders", &config);
    exactly(&broker, &topic, 300, 300, || connect.log_tail(30));
    wait_until(MINUTE, "Debezium streams", || (slot() == "orders|t").then_some(()));
    insert(&server, 300..600);
    exactly(&broker, &topic, 300, 600, || connect.log_tail(30));
    connect.stop();
    free("Kafka Connect");

    insert(&server, 600..900);
    let settings =
        format!("bootstrap.servers: {}\ngroup.id: {group}\nkey.converter: string\nvalue.converter: string\n", broker.bootstrap());
    let mut site = Site::with(&settings);
    site.start();
    let status = || format!("{}\n{}", site.client().get("/connectors/orders/status").text, site.log_tail(20));
    exactly(&broker, &topic, 300, 900, status);
    insert(&server, 900..1200);
    exactly(&broker, &topic, 300, 1200, status);
    let offsets = site.client().get("/connectors/orders/offsets").expect(200).json();
    let own = offsets["offsets"].as_array().unwrap().iter().any(|offset| offset["partition"] == json!({ "server": group }));
    assert!(own, "Debezium's own key: {offsets}");
    site.stop();
    free("Aqueduct");

    insert(&server, 1200..1500);
    connect.restart();
    connect.wait_state("orders", "RUNNING");
    exactly(&broker, &topic, 300, 1500, || connect.log_tail(30));
    insert(&server, 1500..1600);
    exactly(&broker, &topic, 300, 1600, || connect.log_tail(30));
    connect.stop();
}
