//! The example of a connector validates as it is, and so does every line of it that is commented out.

mod fakes;

use aqueduct_config::settings::ConnectorDefaults;
use aqueduct_config::{Check, Providers, UnknownKeys, connector_documents, example};
use aqueduct_core::Issue;

fn errors(text: &str) -> Vec<Issue> {
    let documents = connector_documents("example.yaml", text).unwrap_or_else(|issues| panic!("{issues:?}\n{text}"));
    let (defaults, providers) = (ConnectorDefaults::default(), Providers::default());
    let check = Check {
        find: &fakes::find,
        names: fakes::names(),
        parts: &fakes::parts,
        defaults: &defaults,
        providers: &providers,
        unknown_keys: UnknownKeys::Error,
    };
    check.run(&documents[0].flat).issues.into_iter().filter(Issue::is_error).collect()
}

#[test]
fn examples_validate_whole_and_line_by_line() {
    for plugin in fakes::plugins() {
        let text = example::yaml(plugin.descriptor());
        assert_eq!(errors(&text), Vec::new(), "{text}");
        for option in plugin.descriptor().options.iter().filter(|option| !aqueduct_config::check::is_alias(option)) {
            let name = option.name.trim_end_matches('*');
            assert!(text.lines().any(|line| line.trim_start_matches('#').starts_with(name)), "{name} is missing\n{text}");
        }
        for line in text.lines().filter(|line| line.starts_with('#') && !line.starts_with("# ")) {
            // Either this or that.
            let either = ["#topics.regex:", "#directory:"].iter().any(|other| line.starts_with(other));
            let group = ["#topic.creation.groups:", "#transforms:"].iter().any(|list| line.starts_with(list));
            if !either && !group {
                assert_eq!(errors(&text.replace(&format!("\n{line}\n"), &format!("\n{}\n", &line[1..]))), Vec::new(), "{line}");
            }
        }
    }
}
