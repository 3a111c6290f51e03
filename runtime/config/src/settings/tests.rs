use super::*;

fn options(pairs: &[(&str, &str)]) -> Options {
    let common = [("name", "c"), ("connector.class", "x")];
    common.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn parse_as(kind: PluginKind, pairs: &[(&str, &str)]) -> Result<ConnectorSettings, Vec<String>> {
    ConnectorSettings::parse(kind, &options(pairs), &ConnectorDefaults::default())
        .map_err(|issues| issues.iter().map(ToString::to_string).collect())
}

fn source(pairs: &[(&str, &str)]) -> ConnectorSettings {
    parse_as(PluginKind::Source, pairs).unwrap()
}

#[test]
fn defaults_are_kafka_connects() {
    let settings = source(&[]);
    assert_eq!((settings.name.as_str(), settings.class.as_str(), settings.tasks_max), ("c", "x", 1));
    assert_eq!(settings.value_converter, ConverterSettings::new(PLAIN_CONVERTER));
    let errors = Errors {
        tolerate: false,
        retry_timeout: Some(Duration::ZERO),
        retry_delay_max: Duration::from_secs(60),
        log: false,
        log_messages: false,
        dead_letter_queue: None,
    };
    assert_eq!(settings.errors, errors);
    let restart = Restart { initial: Duration::from_secs(1), max: Duration::from_secs(300), attempts_max: u32::MAX };
    assert_eq!(settings.restart, restart);
    assert_eq!((settings.limits.buffer_bytes, settings.limits.batch_bytes), (8 << 20, 1 << 20));
    let Role::Source(source) = settings.role else { panic!("a source") };
    assert_eq!(source.topic_creation.default, TopicSettings::default());
}

#[test]
fn everything_can_be_set() {
    let settings = source(&[
        ("tasks.max", "3"),
        ("value.converter", "json"),
        ("value.converter.schemas.enable", "false"),
        ("value.converter.plugin.version", "1"),
        ("transforms", "b, a"),
        ("transforms.a.type", "Filter"),
        ("transforms.a.predicate", "p"),
        ("transforms.b.type", "InsertField$Value"),
        ("predicates", "p"),
        ("predicates.p.type", "TopicNameMatches"),
        ("errors.tolerance", "ALL"),
        ("errors.retry.timeout", "-1"),
        ("errors.retry.delay.max.ms", "10 seconds"),
        ("errors.deadletterqueue.topic.name", "bad"),
        ("aqueduct.restart.max.attempts", "5"),
        ("aqueduct.buffer.bytes", "8 MiB"),
        ("offset.flush.interval.ms", "250"),
        ("topic.creation.groups", "big"),
        ("topic.creation.big.include", "shop\\..*,x"),
        ("topic.creation.big.partitions", "4"),
        ("topic.creation.default.retention.ms", "7 days"),
        ("topic.creation.default.segment.bytes", "64 MiB"),
        ("topic.creation.default.min.insync.replicas", "2"),
    ]);
    assert_eq!(
        settings.value_converter.options.into_iter().collect::<Vec<_>>(),
        [("schemas.enable".to_owned(), "false".to_owned())]
    );
    assert!(settings.errors.tolerate && settings.errors.retry_timeout.is_none());
    assert_eq!(settings.errors.retry_delay_max, Duration::from_secs(10));
    assert_eq!(settings.errors.dead_letter_queue.unwrap().replication_factor, 3);
    assert_eq!(settings.restart.attempts_max, 5);
    assert_eq!(settings.limits.flush_interval, Duration::from_millis(250));
    let Role::Source(source) = settings.role else { panic!("a source") };
    let creation = source.topic_creation;
    let configs = [("retention.ms", "604800000"), ("segment.bytes", "67108864")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(creation.default.configs, configs.into());
    assert_eq!(creation.groups[0].topic, TopicSettings { partitions: 4, ..creation.default });
    assert!(creation.groups[0].include[0].is_match("shop.a") && !creation.groups[0].include[1].is_match("xy"));
}

#[test]
fn a_sink_reads_names_or_a_pattern() {
    let topics = |pairs: &[(&str, &str)]| {
        parse_as(PluginKind::Sink, pairs).map(|settings| match settings.role {
            Role::Sink(sink) => sink.topics,
            Role::Source(_) => panic!("a sink"),
        })
    };
    assert_eq!(topics(&[("topics", "a, b")]), Ok(Topics::Names(vec!["a".into(), "b".into()])));
    assert_eq!(topics(&[("topics.regex", "a.*")]), Ok(Topics::Regex("a.*".to_owned())));
    assert!(topics(&[]).unwrap_err()[0].starts_with("topics: is required"));
    assert!(topics(&[("topics", "a"), ("topics.regex", "b")]).unwrap_err()[0].starts_with("topics.regex: stands beside topics"));
    assert!(topics(&[("topics", "a b")]).unwrap_err()[0].starts_with("topics: \"a b\" is not a topic name"));
    let dlq = [("errors.deadletterqueue.topic.name", "a"), ("errors.tolerance", "all")];
    for topics_key in [("topics", "a"), ("topics.regex", "[a-c]")] {
        assert!(topics(&[dlq[0], dlq[1], topics_key]).unwrap_err()[0].contains("for ever"));
    }
}

#[test]
fn every_issue_at_once() {
    let pairs = [
        ("name", " a"),
        ("tasks.max", "0"),
        ("errors.tolerance", "some"),
        ("topic.creation.groups", "g"),
        ("topic.creation.g.exclude", "("),
        ("topic.creation.default.partitons", "3"),
        ("topic.creation.default.retention.ms", "soon"),
        ("topic.creation.default.cleanup.policy", "shred"),
    ];
    let issues = parse_as(PluginKind::Source, &pairs).unwrap_err();
    let starts = [
        "tasks.max: 0 is below the minimum of 1",
        "errors.tolerance: \"some\" is not allowed here",
        "topic.creation.default.cleanup.policy: \"shred\"",
        "topic.creation.default.partitons: is no config of a topic; did you mean topic.creation.default.partitions?",
        "topic.creation.default.retention.ms: \"soon\" is not allowed here; write a duration such as 7 days, or -1 without limit",
        "topic.creation.g.include: is required",
        "topic.creation.g.exclude: \"(\" is not a regular expression",
    ];
    for start in starts {
        assert!(issues.iter().any(|issue| issue.starts_with(start)), "{start}: {issues:#?}");
    }
    let unset = |text: &str| parse_as(PluginKind::Source, &[("name", text)]).unwrap_err()[0].clone();
    assert!(unset(" a").contains("white space") && unset("").contains("empty") && unset("a\nb").contains("control"));
}

#[test]
fn on_kafka_overrides_pass_the_policy_and_topics_take_any_config() {
    let parse = |overrides: OverridePolicy, pairs: &[(&str, &str)]| {
        let kafka = Some(KafkaDefaults { overrides, exactly_once: false });
        let defaults = ConnectorDefaults { kafka, ..ConnectorDefaults::default() };
        let (settings, issues) = ConnectorSettings::read(PluginKind::Source, &options(pairs), &defaults);
        (settings, issues.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let pairs = [
        ("producer.override.linger.ms", "5"),
        ("admin.override.sasl.jaas.config", "top-secret"),
        ("topic.creation.default.min.insync.replicas", "2"),
        ("topic.creation.default.compression.type", "gzip"),
        ("topic.creation.groups", "g"),
        ("topic.creation.g.include", ".*"),
        ("topic.creation.g.partitions", "4"),
        ("transaction.boundary", "interval"),
        ("transaction.boundary.interval.ms", "250"),
        ("offsets.storage.topic", "own"),
    ];
    let (settings, issues) = parse(OverridePolicy::All, &pairs);
    assert!(issues.is_empty(), "{issues:?}");
    let settings = settings.unwrap();
    assert_eq!(settings.clients.producer["linger.ms"], "5");
    assert!(!format!("{settings:?}").contains("top-secret"));
    let Role::Source(source) = settings.role else { panic!("a source") };
    assert_eq!(
        (source.transaction_boundary, source.transaction_interval),
        (TransactionBoundary::Interval, Some(Duration::from_millis(250)))
    );
    assert_eq!(source.offsets_topic.as_deref(), Some("own"));
    let configs = [("compression.type", "gzip"), ("min.insync.replicas", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let default = TopicSettings { partitions: -1, replication_factor: -1, configs: configs.into() };
    assert_eq!(source.topic_creation.groups[0].topic, TopicSettings { partitions: 4, ..default.clone() });
    assert_eq!(source.topic_creation.default, default);

    // What this list does not have may be known to the broker; what is only misspelt is not.
    let (settings, issues) = parse(OverridePolicy::All, &[("topic.creation.default.brand.new", "1")]);
    assert!(issues.is_empty(), "{issues:?}");
    let Role::Source(source) = settings.unwrap().role else { panic!("a source") };
    assert_eq!(source.topic_creation.default.configs["brand.new"], "1");
    let (settings, issues) = parse(OverridePolicy::All, &[("topic.creation.default.min.insync.replica", "1")]);
    assert!(settings.is_none() && issues[0].contains("did you mean topic.creation.default.min.insync.replicas?"), "{issues:?}");

    let (settings, issues) = parse(OverridePolicy::All, &[("exactly.once.support", "required")]);
    assert!(settings.is_none() && issues[0].starts_with("exactly.once.support: required cannot be"), "{issues:?}");

    let allowlist = OverridePolicy::Allowlist(["linger.ms".to_owned()].into());
    for (policy, refused) in [(OverridePolicy::None, 2), (OverridePolicy::Principal, 1), (allowlist, 1)] {
        let (settings, issues) = parse(policy.clone(), &pairs);
        assert!(settings.is_none() && issues.len() == refused, "{policy:?}: {issues:?}");
        assert!(issues[0].contains("does not allow"), "{issues:?}");
    }
}
