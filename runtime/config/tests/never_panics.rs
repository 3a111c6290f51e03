//! No config makes the check panic, hang or leave an issue without its place; and a check is cheap.

mod fakes;

use aqueduct_config::settings::{self, ConnectorDefaults};
use aqueduct_config::{Check, Providers, UnknownKeys, WorkerConfig, connector_documents, worker_config};
use aqueduct_core::PluginKind;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn check(text: &str) -> usize {
    let Ok(documents) = connector_documents("c.yaml", text) else { return 0 };
    let (defaults, providers) = (ConnectorDefaults::default(), Providers::default());
    let unknown_keys = UnknownKeys::Error;
    let check = Check {
        find: &fakes::find,
        names: fakes::names(),
        parts: &fakes::parts,
        defaults: &defaults,
        providers: &providers,
        unknown_keys,
    };
    let issues: Vec<_> = documents.iter().flat_map(|document| check.run(&document.flat).issues).collect();
    assert!(issues.iter().all(|issue| issue.location.is_some()), "{issues:?}");
    issues.len()
}

fn keys() -> Vec<String> {
    let mut keys: Vec<String> =
        fakes::plugins().iter().flat_map(|plugin| plugin.descriptor().options.clone()).map(|option| option.name).collect();
    for kind in [PluginKind::Source, PluginKind::Sink] {
        keys.extend(settings::options(kind).into_iter().map(|option| option.name));
    }
    keys.extend(worker_config::options().into_iter().map(|option| option.name));
    keys.extend(
        ["transforms.a.type", "topic.creation.g.include", "topic.creation.default.retention.ms", "config.providers.env.class"]
            .map(str::to_owned),
    );
    keys
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("file-source".to_owned()),
        Just("file-sink".to_owned()),
        "-?[0-9]{1,22}( ?(ms|s|min|h|d|MiB|kB))?",
        "(g|a|,|default| ){0,6}",
        "\\$\\{(env|file|dir|x|):?[a-zA-Z/:.]{0,8}\\}",
        any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_given(pairs in prop::collection::vec((prop::sample::select(keys()), "(\\*|\\.x|)", value()), 0..12)) {
        let line = |(key, end, value): &(String, String, String)| format!("{key}{end}: {}\n", aqueduct_config::flatten::yaml_text(value));
        let text: String = pairs.iter().map(line).collect();
        check(&format!("name: a\n{text}"));
        let _ = WorkerConfig::load(Some(("worker.yaml", &text)), &[], []);
    }
}

/// A worker checks each connector when it starts, and 1,000 of them must not delay its first answer.
#[test]
fn a_check_is_cheap() {
    let text = "name: a\nconnector.class: file-source\nfile: /a\ntopic: t\ntransforms:\n  r: {type: RegexRouter, regex: a, replacement: b}\n";
    assert_eq!(check(text), 0);
    let start = Instant::now();
    for _ in 0..100 {
        check(text);
    }
    let each = start.elapsed() / 100;
    assert!(each < Duration::from_millis(20), "{each:?} a check, unoptimised");
}
