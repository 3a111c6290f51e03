//! What the worker says on the terminal when it is up: what it does, and where to look.

use aqueduct_rest::Listener;
use aqueduct_worker::{ConfigMap, ConnectorType, Worker};
use std::path::{Path, PathBuf};

pub(crate) struct Place {
    pub(crate) rest: Vec<Listener>,
    /// The directory of the log, or the brokers.
    pub(crate) data: String,
    pub(crate) connectors_dir: Option<PathBuf>,
}

/// Connectors listed by name; the others are only counted.
const LISTED: usize = 12;

/// One connector in a line.
struct Flow {
    name: String,
    class: String,
    kind: ConnectorType,
    from: String,
    to: String,
}

pub(crate) fn url(rest: &[Listener]) -> String {
    rest.first().map_or_else(|| "nowhere".to_owned(), Listener::to_string)
}

pub(crate) fn text(worker: &Worker, place: &Place) -> String {
    let infos: Vec<_> = worker.connectors().iter().filter_map(|name| worker.connector(name).ok()).collect();
    let flows: Vec<Flow> = infos.iter().map(|info| flow(&info.name, info.kind, &info.config)).collect();
    let errors = worker.folder_issues().iter().filter(|issue| issue.is_error()).count();
    render(&flows, errors, place, &me())
}

/// How the user started us, to start us again beside it: `cargo run` names the path of the binary.
fn me() -> String {
    std::env::args().next().unwrap_or_else(|| "aqueduct".to_owned())
}

fn render(flows: &[Flow], errors: usize, place: &Place, me: &str) -> String {
    let url = url(&place.rest);
    let mut text = format!("\nAqueduct {}: {url}, data in {}", env!("CARGO_PKG_VERSION"), place.data);
    if let Some(dir) = &place.connectors_dir {
        text.push_str(&format!(", connectors from {}", dir.display()));
    }
    text.push_str("\n\n");
    let (names, classes) = (width(flows, |flow| &flow.name), width(flows, |flow| &flow.class));
    for flow in flows.iter().take(LISTED) {
        text.push_str(&format!("  {:names$}  {:classes$}  {} → {}\n", flow.name, flow.class, flow.from, flow.to));
    }
    match flows.len() {
        0 => text.push_str(&format!("  No connectors yet. Try: {me} plugins list, and {me} plugins describe NAME --example\n")),
        count if count > LISTED => text.push_str(&format!("  … and {} more\n", count - LISTED)),
        _ => {}
    }
    if errors > 0 {
        text.push_str(&format!("  ! {errors} error(s) in the folder's files: see the log, or {me} status\n"));
    }
    text.push_str("\nLook:\n");
    let remote = if url == "http://127.0.0.1:8083" { String::new() } else { format!(" --url {url}") };
    let mut look = vec![format!("{me} status --watch{remote}")];
    if let Some(sink) = flows.iter().find(|flow| flow.kind == ConnectorType::Sink) {
        if let Some(topic) = sink.from.strip_prefix("topic ").and_then(|topics| topics.split(',').next()) {
            look.push(format!("{me} topics read {topic} --from end --follow{remote}"));
        }
        look.push(format!("curl -s {url}/connectors/{}/status", sink.name));
        if Path::new(&sink.to).components().count() > 1 {
            look.push(format!("ls -R {}", sink.to));
        }
    }
    look.push(format!("curl -s {url}/metrics"));
    for line in look {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str("\nCtrl-C stops it. It goes on where it stopped, also after kill -9.\n");
    text
}

fn width(flows: &[Flow], text: impl Fn(&Flow) -> &String) -> usize {
    flows.iter().take(LISTED).map(|flow| text(flow).chars().count()).max().unwrap_or(0)
}

/// From where to where, by the options that say so in most connectors.
fn flow(name: &str, kind: ConnectorType, config: &ConfigMap) -> Flow {
    let first = |keys: &[&str]| keys.iter().find_map(|key| config.get(*key)).cloned();
    let class = config.get("connector.class").cloned().unwrap_or_default();
    let target = first(&["file", "path", "directory", "dir", "url", "http.url"]);
    let topics = first(&["topic", "topics", "topics.regex"]).map(|topics| format!("topic {topics}"));
    let (from, to) = match kind {
        ConnectorType::Sink => (topics, target),
        _ if topics.is_none() => (first(&["template"]), target),
        _ => (target.or_else(|| first(&["template"])), topics),
    };
    let short = class.rsplit('.').next().unwrap_or_default().to_owned();
    Flow {
        name: name.to_owned(),
        from: from.unwrap_or_else(|| short.clone()),
        to: to.unwrap_or_else(|| short.clone()),
        class: short,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> ConfigMap {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn it_says_what_moves_and_where_to_look() {
        let source = flow(
            "log",
            ConnectorType::Source,
            &config(&[("connector.class", "file-source"), ("file", "./a.log"), ("topic", "t")]),
        );
        let sink = flow(
            "files",
            ConnectorType::Sink,
            &config(&[("connector.class", "x.FileStreamSinkConnector"), ("topics", "t,u"), ("file", "./out")]),
        );
        let rest = vec![Listener { address: "127.0.0.1:9000".parse().unwrap(), tls: false }];
        let place = Place { rest, data: "./data".into(), connectors_dir: None };
        let text = render(&[source, sink], 1, &place, "target/debug/aqueduct");
        assert!(text.contains("  log    file-source              ./a.log → topic t\n"), "{text}");
        assert!(text.contains("target/debug/aqueduct topics read t --from end --follow --url http://127.0.0.1:9000\n"), "{text}");
        assert!(
            text.contains("curl -s http://127.0.0.1:9000/connectors/files/status\n") && text.contains("ls -R ./out\n"),
            "{text}"
        );
        assert!(text.contains("! 1 error(s)"), "{text}");
    }

    #[test]
    fn without_connectors_it_says_how_to_get_one() {
        let place = Place { rest: Vec::new(), data: "d".into(), connectors_dir: Some("c".into()) };
        assert!(render(&[], 0, &place, "aqueduct").contains("aqueduct plugins list"));
    }
}
