//! `plugins …`: the plugins of this binary and of `plugin.path`, and what an author of one does all day. Needs no running worker.

mod build;
mod c;
mod install;
mod lines;
mod new;
mod run;
mod test;

use crate::failure::{Failure, Outcome};
use crate::output::{Screen, lines as trimmed, print};
use crate::wiring;
use aqueduct_config::check::is_alias;
use aqueduct_config::worker_config::WorkerConfig;
use aqueduct_core::{Descriptor, OptionSpec, PluginKind};
use aqueduct_transforms::PartDescriptor;
use aqueduct_worker::spec::common_options;
use aqueduct_worker::{ConnectorType, Registry};
use comfy_table::Cell;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What connectors there are and what they can be told; and new ones: begin, build, test, run and install a plugin.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List the connector plugins.
    List {
        #[command(flatten)]
        worker: Worker,
        /// Also converters, transforms and predicates.
        #[arg(long)]
        all: bool,
    },
    /// Show a plugin's options.
    Describe {
        #[command(flatten)]
        worker: Worker,
        /// Its name, or a Java class that means it; of a converter, a transform or a predicate too.
        plugin: String,
        /// Of a connector: print a complete, commented config that validates: save it as config/connectors/NAME.yaml and edit it.
        #[arg(long)]
        example: bool,
        /// Also the options that every connector has.
        #[arg(long)]
        all: bool,
    },
    New(new::Args),
    Build(build::Args),
    Test(test::Args),
    Run(run::Args),
    Inspect(install::InspectArgs),
    Install(install::Args),
}

/// Whose `plugin.path` and grants count.
#[derive(clap::Args)]
pub(crate) struct Worker {
    /// The worker's settings, whose `plugin.path` has more plugins; config/worker.yaml if there is one.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Worker {
    fn read(&self) -> Outcome<WorkerConfig> {
        wiring::read_config(self.config.as_deref().unwrap_or(Path::new(wiring::CONFIG)), &[])
    }

    /// The plugins of this binary and of `plugin.path`.
    fn registry(&self) -> Outcome<Registry> {
        for issue in wiring::load_plugins(&self.read()?) {
            // The others are listed all the same; nothing is left to do when stderr is closed.
            let _ = writeln!(std::io::stderr(), "{issue}");
        }
        Ok(wiring::registry())
    }
}

pub(crate) fn run(command: Command, screen: &Screen) -> Outcome {
    match command {
        Command::List { worker, all } => list(&worker.registry()?, all, screen),
        Command::Describe { worker, plugin: name, example: as_example, all } => {
            let registry = worker.registry()?;
            let Some(plugin) = registry.find(&name) else { return describe_part(&name, as_example, &registry, screen) };
            let plugin = plugin.descriptor();
            if as_example {
                return print(&example(plugin));
            }
            let common = common_options(connector_type(plugin));
            let (aliases, own): (Vec<&OptionSpec>, Vec<&OptionSpec>) = plugin.options.iter().partition(|option| is_alias(option));
            let mut described = json!(plugin);
            described["options"] = json!(own);
            described["option_aliases"] = json!(aliases);
            described["common_options"] = json!(common);
            screen.show(&described, || describe(plugin, if all { &common } else { &[] }, screen))
        }
        Command::New(args) => new::run(&args, screen),
        Command::Build(args) => build::run(&args, screen),
        Command::Test(args) => test::run(&args, screen),
        Command::Run(args) => run::run(args),
        Command::Inspect(args) => install::inspect(&args, screen),
        Command::Install(args) => install::run(&args, screen),
    }
}

fn list(registry: &Registry, all: bool, screen: &Screen) -> Outcome {
    let plugins: Vec<Descriptor> = registry.plugins().iter().map(|plugin| plugin.descriptor().clone()).collect();
    let parts = if all { wiring::parts() } else { Vec::new() };
    let described: Vec<_> = plugins.iter().map(|plugin| json!(plugin)).chain(parts.iter().map(|(part, _)| json!(part))).collect();
    screen.show(&described, || {
        let mut table = screen.table(&["NAME", "TYPE", "VERSION", "WHAT IT DOES"]);
        for plugin in &plugins {
            table.add_row([&plugin.name, kind(plugin), &plugin.version, &plugin.summary].map(Cell::new));
        }
        for (part, kind) in &parts {
            table.add_row([short_name(part), kind, part.version, part.summary].map(Cell::new));
        }
        trimmed(&table)
    })
}

/// A converter, a transform or a predicate: some classes are of two kinds.
fn describe_part(name: &str, as_example: bool, registry: &Registry, screen: &Screen) -> Outcome {
    let parts: Vec<_> = wiring::parts().into_iter().filter(|(part, _)| part.is_called(name)).collect();
    if parts.is_empty() {
        return Err(unknown(name, registry));
    }
    if as_example {
        let failure = Failure::usage(format!("{name} is no connector: it has no config of its own"));
        return Err(failure.fix("leave --example out"));
    }
    let described: Vec<_> = parts.iter().map(|(part, _)| json!(part)).collect();
    screen.show(&described, || {
        let text = |(part, kind): &(PartDescriptor, &str)| {
            let head = format!("{}  {kind}, version {}\n{}\n", screen.bold(short_name(part)), part.version, part.summary);
            head + &options(part.options.iter(), screen)
        };
        parts.iter().map(text).collect::<Vec<_>>().join("\n")
    })
}

/// As one would write it: `json`, `InsertField$Value`, a plugin's name.
fn short_name(part: &PartDescriptor) -> &'static str {
    part.aliases.first().copied().unwrap_or(part.simple_name())
}

fn unknown(name: &str, registry: &Registry) -> Failure {
    let names: Vec<String> = registry.plugins().iter().map(|plugin| plugin.descriptor().name.clone()).collect();
    let failure = Failure::not_found(format!("there is no plugin {name}; there are {}", names.join(", ")));
    let parts = wiring::parts();
    match aqueduct_config::nearest(name, names.iter().map(String::as_str).chain(parts.iter().map(|(part, _)| short_name(part)))) {
        Some(near) => failure.fix(format!("did you mean {near}?")),
        None => failure,
    }
}

fn kind(plugin: &Descriptor) -> &'static str {
    match plugin.kind {
        PluginKind::Source => "source",
        PluginKind::Sink => "sink",
    }
}

fn connector_type(plugin: &Descriptor) -> ConnectorType {
    match plugin.kind {
        PluginKind::Source => ConnectorType::Source,
        PluginKind::Sink => ConnectorType::Sink,
    }
}

fn describe(plugin: &Descriptor, common: &[OptionSpec], screen: &Screen) -> String {
    let mut text = format!("{}  {}, version {}\n{}\n", screen.bold(&plugin.name), kind(plugin), plugin.version, plugin.summary);
    if !plugin.aliases.is_empty() {
        text.push_str(&format!("also called {}\n", plugin.aliases.join(", ")));
    }
    text.push_str(&options(plugin.options.iter().chain(common).filter(|option| !is_alias(option)), screen));
    let aliases: Vec<&str> = plugin.options.iter().filter(|option| is_alias(option)).map(|option| option.name.as_str()).collect();
    if !aliases.is_empty() {
        text.push_str(&format!("\nAlso taken, as other connectors call them: {}\n", aliases.join(", ")));
    }
    text
}

fn options<'a>(options: impl Iterator<Item = &'a OptionSpec>, screen: &Screen) -> String {
    let (mut text, mut group) = (String::new(), "");
    for option in options {
        if option.group != group {
            group = &option.group;
            text.push_str(&format!("\n{group}\n"));
        }
        text.push_str(&format!("  {}  {}\n", screen.bold(&option.name), traits(option)));
        for line in wrap(&option.documentation, 100) {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text
}

/// `long, duration, default 5000`
fn traits(option: &OptionSpec) -> String {
    let mut out = vec![format!("{:?}", option.kind).to_lowercase()];
    out.extend(option.format.clone());
    if option.required {
        out.push("required".to_owned());
    }
    if let Some(default) = option.default.as_ref().filter(|default| !default.is_empty()) {
        out.push(format!("default {default}"));
    }
    if !option.allowed.is_empty() {
        out.push(format!("one of {}", option.allowed.join(" | ")));
    }
    out.join(", ")
}

/// A complete, commented config that validates.
pub(crate) fn example(plugin: &Descriptor) -> String {
    let mut text = aqueduct_config::example::yaml(plugin);
    // Where one of several options must be set, the check names one: it is switched on.
    loop {
        let issues = super::validate::check_text("example.yaml", &text);
        let switch = |line: &str| {
            let wanted = issues.iter().any(|issue| issue.is_error() && line.starts_with(&format!("#{}: ", issue.path)));
            if wanted { line.trim_start_matches('#').to_owned() } else { line.to_owned() }
        };
        let better: String = text.lines().map(|line| switch(line) + "\n").collect();
        if better == text {
            return text;
        }
        text = better;
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_validates() {
        for plugin in wiring::registry().plugins() {
            let descriptor = plugin.descriptor();
            let text = example(descriptor);
            let issues = crate::commands::validate::check_text("example.yaml", &text);
            let errors: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(ToString::to_string).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}\n{text}", descriptor.name);
        }
    }

    #[test]
    fn text_is_wrapped_at_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    }
}
