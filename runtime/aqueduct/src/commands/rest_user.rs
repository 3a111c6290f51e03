//! `rest-user`: lines for the file of worker.yaml's `rest.users`.

use crate::failure::{Failure, Outcome};
use crate::output::print;
use aqueduct_rest::{Role, password_line, token_line};
use std::io::{BufRead, IsTerminal, Write};

/// Print a line for worker.yaml's rest.users: a user with a password, or a new token.
///
/// The password is one line of stdin. A token is told once, on stderr; the line has only its hash.
/// `aqueduct rest-user ann --role operate >> users` adds ann. The file must be its owner's alone (chmod 600).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The user's name, as the audit log shows it.
    #[arg(value_name = "NAME")]
    name: String,
    /// `read`, `operate` (also pause, resume, stop, restart) or `admin` (everything).
    #[arg(long, value_name = "ROLE")]
    role: Role,
    /// The connectors that the user sees, as globs separated by commas; all if not given.
    #[arg(long, value_name = "GLOBS", default_value = "", hide_default_value = true)]
    connectors: String,
    /// A random token for programs, instead of a password.
    #[arg(long)]
    token: bool,
}

/// A line of stdin that is longer is no password.
const PASSWORD_MAX: u64 = 4096;

pub(crate) fn run(args: &Args) -> Outcome {
    let mut stderr = std::io::stderr();
    if args.token {
        let (line, token) = token_line(&args.name, args.role, &args.connectors)?;
        print(&line)?;
        writeln!(stderr, "the token, told only now: {token}")?;
        return Ok(());
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        write!(stderr, "password (it is shown): ")?;
    }
    let mut password = String::new();
    std::io::Read::take(stdin.lock(), PASSWORD_MAX).read_line(&mut password)?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::usage("there is no password on stdin").fix("pipe it in, or ask for a --token"));
    }
    print(&password_line(&args.name, password, args.role, &args.connectors)?)
}
