//! Real Debezium in Kafka Connect and Aqueduct, the same configs on the same database: the same records, field by field and byte by byte.
//!
//! `cargo test --test postgres_debezium -- --nocapture`; `CASES=plain,bare` for some, `DUMP=/var/tmp/records` keeps what both wrote (one file a topic, one line
//! a record), `THEIRS=1` runs Debezium alone.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::Site;
use aqueduct_tests::postgres_records::{Differences, Topics, dump, read_topics, wait_marker};
use kafka_services::{Broker, Connect, ConnectOptions};
use postgres_services::{PASSWORD, Server, USER};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

const BEFORE: &str = include_str!("postgres_debezium/before.sql");
const AFTER: &str = include_str!("postgres_debezium/after.sql");
const MINUTE: Duration = Duration::from_secs(60);

/// A config, beside [`common`]. The name is the topic prefix.
struct Case {
    name: &'static str,
    config: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        name: "plain",
        config: &[
            ("key.converter.schemas.enable", "true"),
            ("value.converter.schemas.enable", "true"),
            ("skipped.operations", "none"),
        ],
    },
    Case {
        name: "bare",
        config: &[
            ("skipped.operations", "none"),
            ("provide.transaction.metadata", "true"),
            ("tombstones.on.delete", "false"),
            ("decimal.handling.mode", "string"),
            ("time.precision.mode", "connect"),
            ("binary.handling.mode", "base64"),
            ("interval.handling.mode", "string"),
            ("hstore.handling.mode", "map"),
            ("include.unknown.datatypes", "true"),
        ],
    },
    Case {
        name: "text",
        config: &[
            ("decimal.handling.mode", "double"),
            ("time.precision.mode", "isostring"),
            ("binary.handling.mode", "hex"),
            ("snapshot.mode", "no_data"),
            ("unavailable.value.placeholder", "(unchanged)"),
            ("message.prefix.exclude.list", "binary"),
            ("value.converter.replace.null.with.default", "false"),
            ("publish.via.partition.root", "true"),
        ],
    },
    Case {
        name: "shaped",
        config: &[
            ("key.converter.schemas.enable", "true"),
            ("value.converter.schemas.enable", "true"),
            (
                "table.include.list",
                "public.marker,public.numbers,public.times,public.texts,public.altered,public.composite,public.no_key_full,other.*,public.defaults",
            ),
            ("column.exclude.list", "other.customers.secret,public.numbers.c_cents"),
            ("column.mask.with.12.chars", "other.customers.ssn"),
            ("column.mask.hash.v2.SHA-256.with.salt.CzQMA0cB5K", "other.customers.email"),
            ("column.truncate.to.5.chars", "other.customers.name,public.texts.c_text"),
            ("column.propagate.source.type", "public.texts.*,public.numbers.c_numeric.*"),
            ("datatype.propagate.source.type", ".*int4"),
            ("message.key.columns", "public.no_key_full:a;other.customers:name,id"),
            ("schema.name.adjustment.mode", "avro"),
            ("field.name.adjustment.mode", "avro"),
            ("time.precision.mode", "adaptive_time_microseconds"),
            ("interval.handling.mode", "numeric"),
            ("skipped.operations", "u,t"),
            ("topic.delimiter", "."),
        ],
    },
];

/// Where Aqueduct is right and Debezium is not, or where the two cannot be the same. Every line is used by a run, or it is stale.
struct Allowed {
    /// Behind the case, and the beginning of the path behind the operation.
    topic: &'static str,
    path: &'static str,
    why: &'static str,
}

const ALLOWED: &[Allowed] = &[
    Allowed {
        topic: "public.arrays",
        path: "value.payload.after.c_moods",
        why: "a NULL in an array of an enum makes Debezium's whole array null",
    },
    Allowed { topic: "public.arrays", path: "value.after.c_moods", why: "as above" },
    Allowed {
        topic: "public.arrays",
        path: "value.schema.fields[after].fields[c_moods].items.optional",
        why: "… since it says that there are none",
    },
    Allowed { topic: "public.arrays", path: "value.schema.fields[before].fields[c_moods].items.optional", why: "as above" },
    Allowed {
        topic: "public.arrays",
        path: "value.payload.after.c_times",
        why: "Debezium cuts microseconds off in arrays of times",
    },
    Allowed { topic: "public.arrays", path: "value.after.c_times", why: "as above" },
    Allowed {
        topic: "public.bit_arrays",
        path: "value.schema.fields[after].fields[c_bits]",
        why: "Debezium takes an array of bits for bits, and cannot convert it",
    },
    Allowed { topic: "public.bit_arrays", path: "value.schema.fields[before].fields[c_bits]", why: "as above" },
    Allowed { topic: "public.bit_arrays", path: "value.payload.after.c_bits", why: "as above" },
    Allowed { topic: "public.bit_arrays", path: "value.after.c_bits", why: "as above" },
    Allowed {
        topic: "public.deep_arrays",
        path: "value.payload.after.",
        why: "Debezium's arrays of arrays are nulls, or Java's addresses; ours are their elements in order",
    },
    Allowed { topic: "public.deep_arrays", path: "value.after.", why: "as above" },
    Allowed {
        topic: "public.identity_index",
        path: "record",
        why: "Debezium takes a key's column that the replica identity has not for 0, and so an update for a change of the key",
    },
    Allowed {
        topic: "public.infinite",
        path: "value.after.c_date",
        why: "Debezium's infinite dates are numbers, others in the snapshot than in the stream, or days of the year 5877611",
    },
    Allowed { topic: "public.infinite", path: "value.payload.after.c_date", why: "as above" },
    Allowed { topic: "public.infinite", path: "value.after.c_timestamp", why: "as above" },
    Allowed {
        topic: "public.nans",
        path: "headers",
        why: "NaN and infinity in a decimal are null, as Debezium's; a header of ours says what they were",
    },
    Allowed {
        topic: "public.numbers",
        path: "value.schema.fields[after].fields[c_numeric].parameters.__debezium.source.column.",
        why: "Debezium knows another length of a numeric in the snapshot than in the stream; ours is the stream's",
    },
    Allowed {
        topic: "public.numbers",
        path: "value.schema.fields[before].fields[c_numeric].parameters.__debezium.source.column.",
        why: "as above",
    },
    Allowed {
        topic: "public.texts",
        path: "value.schema.fields[after].fields[c_mood].parameters.allowed",
        why: "a label that was added to an enum: Debezium tells it in the schema of the first table that has a row with it, and in no other",
    },
    Allowed { topic: "public.texts", path: "value.schema.fields[before].fields[c_mood].parameters.allowed", why: "as above" },
    Allowed { topic: "public.texts", path: "value.after.c_name", why: "Debezium loses columns of the type name in the stream" },
    Allowed { topic: "public.texts", path: "value.payload.after.c_name", why: "as above" },
    Allowed {
        topic: "public.times",
        path: "value.after.c_date",
        why: "Debezium's snapshot takes days before 1582-10-15 for those of the Julian calendar, its stream does not",
    },
    Allowed { topic: "public.times", path: "value.payload.after.c_date", why: "as above" },
    Allowed {
        topic: "public.toasted",
        path: "value.after.big_bytes",
        why: "unchanged bytes as text are null in Debezium: no one could tell them from null",
    },
    Allowed {
        topic: "transaction",
        path: "value.data_collections",
        why: "Debezium names a logical message by a Java object's address",
    },
    Allowed { topic: "transaction", path: "value.event_count", why: "… and counts it twice" },
];

fn cases() -> Vec<&'static Case> {
    let wanted = std::env::var("CASES").unwrap_or_default();
    CASES.iter().filter(|case| wanted.is_empty() || wanted.split(',').any(|name| name == case.name)).collect()
}

/// `who` has a slot and a publication of his own.
fn config(case: &Case, who: &str, server: &Server) -> Value {
    let mut config = Map::new();
    let common = [
        ("connector.class", "io.debezium.connector.postgresql.PostgresConnector"),
        ("tasks.max", "1"),
        ("plugin.name", "pgoutput"),
        ("publication.autocreate.mode", "filtered"),
        ("database.hostname", "127.0.0.1"),
        ("database.user", USER),
        ("database.password", PASSWORD),
        ("database.dbname", "app"),
        ("poll.interval.ms", "50"),
        ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("key.converter.schemas.enable", "false"),
        ("value.converter.schemas.enable", "false"),
        ("topic.creation.default.partitions", "1"),
        ("topic.creation.default.replication.factor", "1"),
    ];
    for (name, value) in common.iter().chain(case.config) {
        config.insert((*name).to_owned(), (*value).into());
    }
    config.insert("database.port".into(), server.port().to_string().into());
    config.insert("topic.prefix".into(), case.name.into());
    config.insert("slot.name".into(), format!("{who}_{}", case.name).into());
    config.insert("publication.name".into(), format!("{who}_{}", case.name).into());
    if who == "aq" {
        // A record that we cannot write is one difference, not the end of all that come behind it.
        config.insert("errors.tolerance".into(), "all".into());
        config.insert("errors.log.enable".into(), "true".into());
    }
    config.into()
}

/// One of the two, and the broker it writes to: each has its own, so that the topics have the same names.
struct Side<'a> {
    who: &'static str,
    broker: &'a Broker,
}

struct Run<'a> {
    server: &'a Server,
    cases: Vec<&'static Case>,
    sides: Vec<Side<'a>>,
    markers: u64,
}

impl Run<'_> {
    /// Every connector has seen all that was committed so far.
    fn sync(&mut self, why: impl Fn(&str, &str) -> String) {
        self.markers += 1;
        self.server.psql_in("app", &format!("insert into marker values ({})", self.markers));
        for case in &self.cases {
            for side in &self.sides {
                let seen =
                    wait_marker(&side.broker.bootstrap(), &format!("{}.public.marker", case.name), self.markers, MINUTE * 2);
                assert!(seen, "{} does not see marker {} in {}: {}", side.who, self.markers, case.name, why(side.who, case.name));
            }
        }
    }
}

#[test]
fn the_same_records_as_debezium() {
    let alone = std::env::var_os("THEIRS").is_some();
    let server =
        Server::start(postgres_services::Options::default().with("max_replication_slots = 40").with("max_wal_senders = 40"));
    server.psql("create database app");
    server.psql_in("app", BEFORE);
    let quick = || kafka_services::Options::default();
    let (their_broker, our_broker) = (Broker::start(quick()), (!alone).then(|| Broker::start(quick())));
    let connect = Connect::start(&their_broker.bootstrap(), ConnectOptions::distributed("debezium").with_debezium());
    let mut site =
        our_broker.as_ref().map(|broker| Site::with(&format!("bootstrap.servers: {}\ngroup.id: ours\n", broker.bootstrap())));
    if let Some(site) = &mut site {
        site.start();
    }
    let mut run = Run { server: &server, cases: cases(), sides: vec![Side { who: "dbz", broker: &their_broker }], markers: 0 };
    run.sides.extend(our_broker.as_ref().map(|broker| Side { who: "aq", broker }));
    for case in &run.cases {
        connect.connector(case.name, &config(case, "dbz", &server));
        if let Some(site) = &site {
            site.client().put(&format!("/connectors/{}/config", case.name), Some(&config(case, "aq", &server))).expect(201);
        }
    }
    let why = |who: &str, case: &str| match (&site, who) {
        (Some(site), "aq") => format!("{}\n{}", site.client().get(&format!("/connectors/{case}/status")).text, site.log_tail(20)),
        _ => format!("{}\n{}", connect.get(&format!("/connectors/{case}/status")), connect.log_tail(40)),
    };

    for case in &run.cases {
        for side in &run.sides {
            let slot =
                format!("select count(*) from pg_replication_slots where active and slot_name = '{}_{}'", side.who, case.name);
            let streams = aqueduct_tests::poll_for(MINUTE * 2, || (server.psql(&slot) == "1").then_some(()));
            assert!(streams.is_some(), "{} does not stream {}: {}", side.who, case.name, why(side.who, case.name));
        }
    }
    run.sync(why);
    for part in AFTER.split("\n--\n") {
        server.psql_in("app", part);
        run.sync(why);
    }
    let names: Vec<String> =
        run.cases.iter().flat_map(|case| [format!("{}.", case.name), format!("__debezium-heartbeat.{}", case.name)]).collect();
    let prefixes: Vec<&str> = names.iter().map(String::as_str).collect();
    let theirs = read_topics(&their_broker.bootstrap(), &prefixes);
    let ours = our_broker.as_ref().map(|broker| read_topics(&broker.bootstrap(), &prefixes)).unwrap_or_default();
    if let Some(folder) = std::env::var_os("DUMP").map(PathBuf::from) {
        dump(&theirs, &folder.join("theirs"));
        dump(&ours, &folder.join("ours"));
    }
    if !alone {
        judge(&run.cases, &ours, &theirs);
    }
}

fn judge(cases: &[&Case], ours: &Topics, theirs: &Topics) {
    let mut found = Differences::default();
    let mut compared = 0;
    for case in cases {
        // Both see the markers, but which of them in the snapshot is chance.
        let of_case = |topics: &Topics| -> Topics {
            let of_case =
                topics.iter().filter(|(topic, _)| topic.starts_with(&format!("{}.", case.name)) && !topic.ends_with(".marker"));
            of_case.map(|(topic, records)| (topic.clone(), records.clone())).collect()
        };
        compared += found.compare(case.name, &of_case(ours), &of_case(theirs));
    }
    let mut used = vec![0; ALLOWED.len()];
    found.0.retain(|difference, _| {
        let path = difference.path.split_once(' ').map_or(difference.path.as_str(), |(_, path)| path);
        let allowed = ALLOWED.iter().position(|allowed| difference.topic == allowed.topic && path.starts_with(allowed.path));
        allowed.inspect(|at| used[*at] += 1).is_none()
    });
    println!("{compared} records of {} cases compared", cases.len());
    assert!(found.0.is_empty(), "{} differences:\n{found}", found.0.len());
    let all = std::env::var_os("CASES").is_none();
    for (allowed, count) in ALLOWED.iter().zip(used) {
        assert!(
            count > 0 || !all,
            "no record needs this exception any more: {} {}: {}",
            allowed.topic,
            allowed.path,
            allowed.why
        );
    }
    assert!(compared > 500 || !all, "too little was compared to mean anything: {compared}");
}
