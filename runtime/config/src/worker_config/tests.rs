use super::*;

fn load(text: &str, set: &[(&str, &str)], env: &[(&str, &str)]) -> Result<WorkerConfig, Vec<String>> {
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    WorkerConfig::load(Some(("worker.yaml", text)), &owned(set), owned(env))
        .map_err(|issues| issues.iter().map(ToString::to_string).collect())
}

#[test]
fn the_defaults_are_good() {
    let config = WorkerConfig::default();
    assert_eq!(
        (config.listeners.as_slice(), config.data_dir),
        (&["http://127.0.0.1:8083".to_owned()][..], PathBuf::from("data"))
    );
    assert_eq!(config.defaults, ConnectorDefaults::default());
    assert!(config.warnings.is_empty() && config.topic_tracking && config.connectors_dir.is_none());
}

#[test]
fn the_later_wins() {
    let text = "data: {dir: /a}\nconnectors:\n  dir: c\n  dir.prune: true\nvalue.converter: json\nvalue.converter.schemas.enable: false\n\
        topic.creation.default.partitions: 3\nlog.retention.ms: 1 day\ntask.shutdown.graceful.timeout.ms: 10 seconds\nproducer.acks: all\n";
    let env = [
        ("AQUEDUCT_DATA_DIR", "/b"),
        ("AQUEDUCT_LISTENERS", "http://[::1]:1"),
        ("AQUEDUCT_KEY_CONVERTER_A_B", "x"),
        ("AQUEDUCT_URL", "http://x"),
        ("HOME", "/"),
    ];
    let config = load(text, &[("data.dir", "/c")], &env).unwrap();
    assert_eq!((config.data_dir, config.connectors_dir), (PathBuf::from("/c"), Some(PathBuf::from("c"))));
    assert_eq!(config.listeners, ["http://[::1]:1"]);
    assert!(config.connectors_dir_prune);
    assert_eq!(config.defaults.value_converter.options["schemas.enable"], "false");
    assert_eq!(config.defaults.key_converter.options["a.b"], "x");
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    assert_eq!((&*config.defaults.topic["partitions"], &*config.defaults.topic["retention.ms"]), ("3", "1 day"));
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("worker.yaml:10:1: producer.acks: has no effect"), "{warnings:?}");
}

#[test]
fn every_issue_at_once_with_its_place() {
    let text = "listener: http://127.0.0.1:1\ndata.dir: ''\nconnectors.dir.prune: maybe\ntask:\n  shutdown.graceful.timeout.ms: soon\n\
        retention.ms: 5\ntasks.max: 3\ntopic.creation.default.partitions: 0\nlog.retention.bytes: lots\nconfig.providers: env,vault\n\
        config.providers.env.param.allowlist.patern: X\nconfig.providers.file.param.allowed.paths: relative\n";
    let issues = load(
        text,
        &[("offset.flush.interval.ms", "0"), ("colour", "red")],
        &[("AQUEDUCT_DATADIR", "/x"), ("AQUEDUCT_LOG", "nats")],
    )
    .unwrap_err();
    let starts = [
        "worker.yaml:1:1: listener: is no option of the worker; did you mean listeners? [config.unknown_key]",
        "worker.yaml:2:1: data.dir: a path cannot be empty",
        "worker.yaml:3:1: connectors.dir.prune: \"maybe\" is not true or false; write true or false [config.type]",
        "worker.yaml:5:3: task.shutdown.graceful.timeout.ms: \"soon\" is not a duration",
        "worker.yaml:6:1: retention.ms: is no option of the worker; did you mean log.retention.ms?",
        "worker.yaml:7:1: tasks.max: is no option of the worker; it is an option of a connector",
        "worker.yaml:8:1: topic.creation.default.partitions: \"0\" is not allowed here",
        "worker.yaml:9:1: log.retention.bytes: \"lots\" is not allowed here; write a size",
        "worker.yaml:11:1: config.providers.env.param.allowlist.patern: is no option of the provider env; did you mean config.providers.env.param.allowlist.pattern?",
        "worker.yaml:12:1: config.providers.file: file is not in config.providers",
        "log: \"nats\" is not allowed here (from AQUEDUCT_LOG)",
        "offset.flush.interval.ms: 0 is below the minimum of 1ms (from --set offset.flush.interval.ms)",
        "colour: is no option of the worker (from --set colour)",
        "the variable AQUEDUCT_DATADIR sets nothing; did you mean AQUEDUCT_DATA_DIR?",
    ];
    for start in starts {
        assert!(issues.iter().any(|issue| issue.starts_with(start)), "{start}: {issues:#?}");
    }
    assert!(issues.iter().any(|issue| issue.contains("config.providers.vault.class: is required")), "{issues:#?}");
    let listener = load("listeners: [localhost]", &[], &[]).unwrap_err();
    assert!(listener[0].contains("is not an address to listen on"), "{listener:?}");
}

#[test]
fn providers_allow_what_is_listed() {
    let text = "config.providers: env, secrets\nconfig.providers.env.param.allowlist.pattern: CARGO_PKG_.*\n\
        config.providers.secrets.class: org.apache.kafka.common.config.provider.DirectoryConfigProvider\nconfig.providers.secrets.param.allowed.paths: /nowhere\n";
    let providers = load(text, &[], &[]).unwrap().providers;
    let resolve = |value: &str| providers.resolve(&[("k".to_owned(), value.to_owned())].into_iter().collect());
    assert_eq!(resolve("${env:CARGO_PKG_NAME}").unwrap().options["k"], "aqueduct-config");
    assert!(resolve("${env:PATH}").unwrap_err().message().contains("not among the variables"));
    assert!(resolve("${secrets:/etc:passwd}").unwrap_err().message().contains("outside the paths"));
    assert!(resolve("${file:/etc/passwd:x}").unwrap_err().message().contains("worker.yaml allows no files"));
    let config = load("data.dir: ${env:CARGO_PKG_NAME}/d\n", &[], &[]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("aqueduct-config/d"));
    assert!(load("data.dir: ${env:NOPE_NOPE}\n", &[], &[]).unwrap_err()[0].contains("not set"));
    let wrong = load("offset.flush.interval.ms: ${env:CARGO_PKG_NAME}\n", &[], &[]).unwrap_err();
    assert!(wrong[0].contains("what ${env:CARGO_PKG_NAME} stands for is not allowed here"), "{wrong:?}");
    assert!(!wrong[0].contains("aqueduct-config"), "{wrong:?}");
}

#[test]
fn kafka_is_one_line() {
    let config = load("bootstrap.servers: k1:9092, PLAINTEXT://[::1]:9093\n", &[], &[]).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.defaults.kafka, Some(KafkaDefaults { overrides: OverridePolicy::All, exactly_once: true }));
    let kafka = config.kafka.unwrap();
    assert_eq!(kafka.bootstrap_servers, ["k1:9092", "PLAINTEXT://[::1]:9093"]);
    let topics = [&kafka.config_topic, &kafka.offset_topic, &kafka.status_topic];
    let shapes = topics.map(|topic| (topic.topic.as_str(), topic.partitions, topic.replication_factor));
    assert_eq!(shapes, [("aqueduct-configs", 1, None), ("aqueduct-offsets", 25, None), ("aqueduct-status", 5, None)]);
    assert_eq!(kafka.exactly_once, ExactlyOnceSource::Enabled);
}

#[test]
fn kafka_is_set_by_kafka_connects_names() {
    let text = "bootstrap.servers: [k:9092]\ngroup.id: connect\nconfig.storage.topic: c\nconfig.storage.replication.factor: 1\n\
        offset.storage: {topic: o, partitions: 50, replication.factor: -1, segment.bytes: 1048576, cleanup.policy: compact}\n\
        exactly.once.source.support: disabled\nconnector.client.config.override.policy: \
        org.apache.kafka.connect.connector.policy.PrincipalConnectorClientConfigOverridePolicy\n\
        security.protocol: SASL_SSL\nssl.truststore.location: /t\nsasl.jaas.config: top-secret\nproducer.linger.ms: 5\n\
        consumer.max.poll.records: 7\nadmin.retries: 1\nrequest.timeout.ms: 9\nsession.timeout.ms: 1\ndata.dir: d\nlog.retention.ms: 5\n\
        topic.creation.default: {min.insync.replicas: 2, compression.type: gzip}\n";
    let config = load(text, &[], &[]).unwrap();
    let warnings: Vec<_> = config.warnings.iter().map(|issue| (issue.path.as_str(), issue.code.as_str())).collect();
    let no_effect = ["session.timeout.ms", "data.dir", "log.retention.ms"].map(|key| (key, "config.no_effect"));
    assert_eq!(warnings, no_effect);
    assert!(!config.defaults.topic.contains_key("retention.ms"));
    assert_eq!(config.defaults.kafka, Some(KafkaDefaults { overrides: OverridePolicy::Principal, exactly_once: false }));
    let kafka = config.kafka.unwrap();
    assert_eq!((kafka.config_topic.topic.as_str(), kafka.config_topic.replication_factor), ("c", Some(1)));
    assert_eq!(kafka.status_topic.topic, "connect-status");
    let offsets = StorageTopic {
        topic: "o".to_owned(),
        partitions: 50,
        replication_factor: Some(-1),
        configs: [("segment.bytes".to_owned(), "1048576".to_owned())].into(),
    };
    assert_eq!(kafka.offset_topic, offsets);
    let keys: Vec<_> = kafka.common.0.keys().map(String::as_str).collect();
    assert_eq!(keys, ["request.timeout.ms", "sasl.jaas.config", "security.protocol", "ssl.truststore.location"]);
    assert_eq!(
        (&*kafka.producer.0["linger.ms"], &*kafka.consumer.0["max.poll.records"], &*kafka.admin.0["retries"]),
        ("5", "7", "1")
    );
    assert!(!format!("{kafka:?}").contains("top-secret"));
}

#[test]
fn what_cannot_be_of_kafka_is_said() {
    let text = "bootstrap.servers: [k, ':9', 'h:0']\nlog: embedded\nconfig.storage: {topic: a b, partitions: 3, replication.factor: 0}\n\
        offset.storage.topic: same\nstatus.storage.topic: same\noffset.storage.cleanup.policy: delete\nstatus.storage.partitions: 0\n\
        exactly.once.source.support: often\n";
    let issues = load(text, &[], &[]).unwrap_err();
    assert!(issues.iter().any(|issue| issue.contains("exactly.once.source.support: \"often\"")), "{issues:#?}");
    let issues =
        load(&text.replace("often", "preparing"), &[("connector.client.config.override.policy", "some")], &[]).unwrap_err();
    let starts = [
        "bootstrap.servers: \"k\" is no host:port",
        "bootstrap.servers: \":9\"",
        "bootstrap.servers: \"h:0\"",
        "log: stands beside bootstrap.servers",
        "config.storage.topic: \"a b\" is not a topic name",
        "config.storage.partitions: must be 1",
        "config.storage.replication.factor: 0 is not allowed",
        "status.storage.topic: same is also offset.storage.topic",
        "status.storage.partitions: 0 is not allowed",
        "offset.storage.cleanup.policy: must be compact",
        "connector.client.config.override.policy: \"some\" is no policy",
    ];
    for start in starts {
        assert!(issues.iter().any(|issue| issue.contains(start)), "{start}: {issues:#?}");
    }
}

#[test]
fn spans_go_where_worker_yaml_says() {
    assert!(load("group.id: g", &[], &[]).unwrap().telemetry.is_none());
    let yaml = "otel.exporter.otlp.endpoint: http://localhost:4318/\notel.exporter.otlp.headers: \"a=1, authorization=Bearer x=y\"\n\
                otel.traces.sampler.arg: 0.5";
    let config = load(yaml, &[], &[]).unwrap();
    let telemetry = config.telemetry.clone().unwrap();
    let headers: Vec<_> = telemetry.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("a", "1"), ("authorization", "Bearer x=y")]);
    assert_eq!(
        (telemetry.endpoint.as_str(), telemetry.service.as_str(), telemetry.sampled),
        ("http://localhost:4318", "aqueduct", 0.5)
    );
    assert!(!format!("{config:?}").contains("Bearer"));
    let wrong = load("otel.exporter.otlp.endpoint: localhost:4317\notel.exporter.otlp.headers: canary", &[], &[]).unwrap_err();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].contains("gRPC") && !wrong[1].contains("canary"), "{wrong:?}");
    assert!(load("otel.exporter.otlp.endpoint: http://h\notel.traces.sampler.arg: 2", &[], &[]).is_err());
}
