//! A complete, commented config of a connector: `aqueduct plugins describe NAME --example`. What is not commented out validates as it is.

use crate::check::is_alias;
use crate::flatten::yaml_text;
use crate::settings;
use aqueduct_core::plugin::Importance;
use aqueduct_core::{Descriptor, OptionKind, OptionSpec, PluginKind};

/// Comments are wrapped here.
const WIDTH: usize = 110;

/// YAML: required options with an example, all others commented out with their default or an example.
pub fn yaml(descriptor: &Descriptor) -> String {
    let common = settings::options(descriptor.kind);
    let mut out = String::new();
    comment(&mut out, &descriptor.summary);
    out.push_str(&format!("name: my-{}\n", descriptor.name));
    out.push_str(&format!("connector.class: {}\n", yaml_text(&descriptor.name)));
    let mut shown = vec!["name", "connector.class"];
    let first: &[&str] = match descriptor.kind {
        PluginKind::Source => &["tasks.max"],
        PluginKind::Sink => &["tasks.max", "topics"],
    };
    for option in common.iter().filter(|option| first.contains(&option.name.as_str())) {
        out.push('\n');
        describe(&mut out, option);
        line(&mut out, option, option.name == "topics");
        shown.push(&option.name);
    }
    let own: Vec<&OptionSpec> = descriptor.options.iter().filter(|option| !is_alias(option)).collect();
    let (live, optional): (Vec<_>, Vec<_>) = own.iter().copied().partition(|option| is_live(option, &own));
    for option in &live {
        out.push('\n');
        describe(&mut out, option);
        line(&mut out, option, true);
    }
    let names: Vec<&str> = live.iter().chain(&optional).map(|option| option.name.as_str()).collect();
    grouped(&mut out, &descriptor.name, &optional);
    let rest: Vec<_> =
        common.iter().filter(|option| !shown.contains(&option.name.as_str()) && !names.contains(&option.name.as_str())).collect();
    grouped(&mut out, "every connector", &rest);
    out
}

/// Required; or the first of those in its group that matter and have an example, since one of several may be required (`file` or `directory`).
fn is_live(option: &OptionSpec, all: &[&OptionSpec]) -> bool {
    let matters =
        |option: &OptionSpec| option.importance == Importance::High && option.default.is_none() && option.example.is_some();
    let first = all.iter().find(|other| other.group == option.group && (other.required || matters(other)));
    option.required || matters(option) && first.is_some_and(|first| first.name == option.name)
}

fn grouped(out: &mut String, of: &str, options: &[&OptionSpec]) {
    let mut groups = Vec::<&str>::new();
    for option in options {
        if !groups.contains(&option.group.as_str()) {
            groups.push(&option.group);
        }
    }
    for group in groups {
        out.push_str(&format!("\n# ---- {group} ({of})\n"));
        for option in options.iter().filter(|option| option.group == group) {
            out.push('\n');
            describe(out, option);
            line(out, option, false);
        }
    }
}

fn describe(out: &mut String, option: &OptionSpec) {
    comment(out, &option.documentation);
    if !option.allowed.is_empty() {
        comment(out, &format!("One of {}.", option.allowed.join(", ")));
    }
}

fn comment(out: &mut String, text: &str) {
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let mut width = 0;
        for word in paragraph.split_whitespace() {
            let len = word.chars().count() + 1;
            if width == 0 || width + len > WIDTH {
                out.push_str(if width == 0 { "#" } else { "\n#" });
                width = 1;
            }
            out.push(' ');
            out.push_str(word);
            width += len;
        }
        out.push('\n');
    }
}

fn line(out: &mut String, option: &OptionSpec, live: bool) {
    let mark = if live { "" } else { "#" };
    // The example of a family is a key and its value.
    let (key, value) = match option.name.strip_suffix('*') {
        Some(prefix) => {
            let (suffix, text) =
                option.example.as_deref().and_then(|example| example.split_once('=')).unwrap_or(("name", sample(option)));
            (format!("{prefix}{suffix}"), yaml_text(text))
        }
        None => (option.name.clone(), value(option)),
    };
    out.push_str(&format!("{mark}{}: {value}\n", yaml_text(&key)));
}

fn value(option: &OptionSpec) -> String {
    let text = option.default.clone().filter(|default| !default.is_empty()).or_else(|| option.example.clone());
    let text = text.unwrap_or_else(|| sample(option).to_owned());
    let readable = match (option.format.as_deref(), text.parse::<u64>()) {
        (Some("duration"), Ok(millis)) => crate::Millis::from_millis(millis).to_string(),
        (Some("bytes"), Ok(bytes)) => crate::ByteSize(bytes).to_string(),
        _ => text,
    };
    let parts = crate::list::split_list(&readable);
    if option.kind == OptionKind::List && parts.len() > 1 {
        return format!("[{}]", parts.into_iter().map(yaml_text).collect::<Vec<_>>().join(", "));
    }
    yaml_text(&readable)
}

/// Some value that its type takes.
fn sample(option: &OptionSpec) -> &str {
    if let Some(allowed) = option.allowed.first() {
        return allowed;
    }
    match (option.format.as_deref(), option.kind) {
        (Some("duration"), _) => "10s",
        (Some("bytes"), _) => "1 MiB",
        (Some("regex"), _) => ".*",
        (Some("glob" | "glob-list"), _) => "/path/to/*",
        (Some("path"), _) => "/path/to/file",
        (Some("charset"), _) => "utf-8",
        (Some("class"), _) => "string",
        (_, OptionKind::Boolean) => "false",
        (_, OptionKind::Double | OptionKind::Int | OptionKind::Long | OptionKind::Short) => "1",
        (_, OptionKind::Password) => "change-me",
        _ => "example",
    }
}
