//! `completions`, and the hidden `docs cli` and `docs openapi` that make docs/cli.md and docs/openapi.json.

use crate::failure::Outcome;
use crate::output::print;
use clap_complete::Shell;

/// Print a completion script for a shell: `source <(aqueduct completions bash)`.
#[derive(clap::Args)]
pub(crate) struct Completions {
    /// Which shell.
    shell: Shell,
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// The reference of the command line, in Markdown.
    Cli,
    /// The REST API as OpenAPI 3.1, in JSON.
    Openapi,
}

pub(crate) fn completions(args: &Completions, command: &mut clap::Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "aqueduct", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(crate) fn run(which: &Command, command: &mut clap::Command) -> Outcome {
    match which {
        Command::Cli => print(&reference(command)),
        Command::Openapi => print(&format!("{:#}\n", aqueduct_rest::openapi())),
    }
}

/// Every command's help, as it prints it. The same on every machine.
fn reference(command: &mut clap::Command) -> String {
    let mut command = std::mem::take(command).term_width(100).color(clap::ColorChoice::Never);
    command.build();
    let mut text = "# The command line\n\nMade by `cargo xtask reference` from the binary's own help: do not edit.\n".to_owned();
    describe(&mut command, 2, &mut text);
    text
}

fn describe(command: &mut clap::Command, level: usize, text: &mut String) {
    let title = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let heading = "#".repeat(level.min(4));
    text.push_str(&format!("\n{heading} `{title}`\n\n```text\n{}\n```\n", help.join("\n")));
    for inner in command.get_subcommands_mut() {
        if !inner.is_hide_set() && inner.get_name() != "help" {
            describe(inner, level + 1, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_reference_has_every_command_and_no_secret_of_this_machine() {
        let text = reference(&mut crate::Cli::command());
        for command in ["aqueduct worker", "aqueduct topics read", "aqueduct log verify", "aqueduct offsets set"] {
            assert!(text.contains(&format!("`{command}`\n")), "{command} is missing in\n{text}");
        }
        assert!(!text.contains("aqueduct docs") && !text.contains("`aqueduct help`"));
    }
}
