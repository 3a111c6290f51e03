//! The binary: parses arguments, wires things together, and nothing else. One file a command group.

mod client;
mod commands;
mod failure;
mod output;
mod wiring;

use clap::{CommandFactory, Parser, Subcommand};
use output::Screen;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A connector runtime: Kafka Connect without the JVM.
///
/// `aqueduct worker` runs connectors; the other commands talk to a running worker over REST, or look at files without one.
#[derive(Parser)]
#[command(name = "aqueduct", version, max_term_width = 110, propagate_version = false, subcommand_required = true)]
#[command(after_help = "Exit codes: 0 ok, 1 it failed or is invalid, 2 wrong usage, 3 not found, 4 no worker answers.")]
struct Cli {
    /// How to print: a table for people, the others for scripts.
    #[arg(long, short, global = true, value_enum, default_value_t, env = "AQUEDUCT_OUTPUT", hide_env_values = true)]
    output: output::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Worker(commands::worker::Args),
    Validate(commands::validate::Args),
    Status(commands::status::Args),
    #[command(subcommand)]
    Connectors(commands::connectors::Command),
    #[command(subcommand)]
    Offsets(commands::offsets::Command),
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(commands::plugins::Command),
    #[command(subcommand)]
    Topics(commands::topics::Command),
    #[command(subcommand)]
    Log(commands::log::Command),
    RestUser(commands::rest_user::Args),
    Completions(commands::docs::Completions),
    #[command(subcommand, hide = true)]
    Docs(commands::docs::Command),
}

/// Freed memory goes back after a second: at once costs sources of many small values 40 % of their time in page faults, for 25 MB less at the peak
/// (docs/bench.md's `postgres`). And memory comes in pages of 4 KiB: with huge ones, a few KiB in use of every 2 MiB held 124 MB where 30 MB do, at the
/// same speed (`moves`).
#[allow(unsafe_code, reason = "the allocator's options have no safe interface; this one only sets a number")]
fn give_memory_back() {
    /// `mi_option_purge_delay` of mimalloc.h, in milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const ONE_SECOND: std::ffi::c_long = 1000;
    // SAFETY: a plain call of C with two integers, before any other thread runs.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, ONE_SECOND) };
    // A kernel without huge pages has nothing to disable.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn main() -> ExitCode {
    give_memory_back();
    // Exits with 2 on wrong usage, with 0 after --help.
    let cli = Cli::parse();
    let screen = Screen::new(cli.output);
    let outcome = match cli.command {
        Command::Worker(args) => commands::worker::run(args),
        Command::Validate(args) => commands::validate::run(&args, &screen),
        Command::Status(args) => client::block_on(commands::status::run(&args, &screen)),
        Command::Connectors(command) => client::block_on(commands::connectors::run(command, &screen)),
        Command::Offsets(command) => client::block_on(commands::offsets::run(command, &screen)),
        Command::Plugins(command) => commands::plugins::run(command, &screen),
        Command::Topics(command) => client::block_on(commands::topics::run(command, &screen)),
        Command::Log(command) => commands::log::run(command, &screen),
        Command::RestUser(args) => commands::rest_user::run(&args),
        Command::Completions(args) => commands::docs::completions(&args, &mut Cli::command()),
        Command::Docs(command) => commands::docs::run(&command, &mut Cli::command()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_are_2() {
        for args in [&["aqueduct"][..], &["aqueduct", "nope"], &["aqueduct", "validate"], &["aqueduct", "topics", "read"]] {
            assert_eq!(Cli::try_parse_from(args).err().map(|error| error.exit_code()), Some(2), "{args:?}");
        }
    }
}
