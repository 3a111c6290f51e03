//! Options as Markdown tables, for the reference: `worker_config::options()`, `settings::options(kind)`, a connector's own.

use crate::check::is_alias;
use aqueduct_core::{OptionKind, OptionSpec};

/// One table for each group, in order; the group's name above it where there are several.
pub fn markdown(options: &[OptionSpec]) -> String {
    let mut groups = Vec::<&str>::new();
    for option in options.iter().filter(|option| !is_alias(option)) {
        if !groups.contains(&option.group.as_str()) {
            groups.push(&option.group);
        }
    }
    let mut out = String::new();
    for group in &groups {
        if groups.len() > 1 {
            out.push_str(&format!("**{group}**\n\n"));
        }
        out.push_str("| Option | Type | Default | |\n|---|---|---|---|\n");
        for option in options.iter().filter(|option| option.group == *group && !is_alias(option)) {
            let aliases =
                options.iter().filter(|other| is_alias(other) && other.documentation.contains(&format!("`{}`", option.name)));
            let names: Vec<String> =
                std::iter::once(&option.name).chain(aliases.map(|alias| &alias.name)).map(|name| code(name)).collect();
            let default = match (&option.default, option.required) {
                (_, true) => "**required**".to_owned(),
                (Some(default), _) if !default.is_empty() => code(default),
                _ => String::new(),
            };
            let mut text = cell(&option.documentation);
            if let Some(example) = &option.example {
                text.push_str(&format!(" Example: {}", code(example)));
            }
            out.push_str(&format!("| {} | {} | {default} | {text} |\n", names.join(", "), kind(option)));
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn kind(option: &OptionSpec) -> String {
    if !option.allowed.is_empty() {
        return option.allowed.iter().map(|value| code(value)).collect::<Vec<_>>().join(", ");
    }
    match (option.format.as_deref(), option.kind) {
        (Some("bytes"), _) => "size".to_owned(),
        (Some("glob-list"), _) => "list of path patterns".to_owned(),
        (Some("glob"), _) => "path pattern".to_owned(),
        (Some("charset"), _) => "character set".to_owned(),
        (Some(format), _) => format.to_owned(),
        (None, OptionKind::Boolean) => "true, false".to_owned(),
        (None, OptionKind::Int | OptionKind::Long | OptionKind::Short) => "whole number".to_owned(),
        (None, OptionKind::Double) => "number".to_owned(),
        (None, OptionKind::List) => "list".to_owned(),
        (None, OptionKind::Password) => "password".to_owned(),
        (None, OptionKind::Class | OptionKind::String) => "text".to_owned(),
    }
}

fn code(text: &str) -> String {
    let text = text.replace('\n', "\\n").replace('\t', "\\t").replace('|', "\\|");
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

fn cell(text: &str) -> String {
    text.replace("\n\n", "<br>").replace('\n', " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GlobList, Millis};
    use schemars::JsonSchema;
    use serde::Deserialize;

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Config {
        /// What to read: a|b.
        #[schemars(extend("x-group" = "File", "x-aliases" = ["file"], "x-example" = "/a"))]
        path: GlobList,
        /// How long.
        ///
        /// At most.
        #[serde(rename = "wait.ms", default)]
        #[schemars(extend("x-group" = "Time"))]
        wait: Millis,
    }

    #[test]
    fn a_table_for_each_group() {
        let expected = "**File**\n\n| Option | Type | Default | |\n|---|---|---|---|\n\
             | `path`, `file` | list of path patterns | **required** | What to read: a\\|b. Example: `/a` |\n\n\
             **Time**\n\n| Option | Type | Default | |\n|---|---|---|---|\n| `wait.ms` | duration | `0` | How long.<br>At most. |\n";
        assert_eq!(markdown(&crate::specs::<Config>()), expected);
    }
}
