//! `psql`, the independent witness: one-off statements, and sessions that keep a transaction open.

use crate::home::bin_dir;
use crate::options::USER;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Where psql goes: the socket of a server, which may be down. For a thread that goes on while its server is killed.
#[derive(Clone, Debug)]
pub struct Psql {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
}

impl Psql {
    fn command(&self, database: &str) -> Command {
        let mut command = Command::new(bin_dir().join("psql"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        let port = self.port.to_string();
        command.env("LC_ALL", "C.UTF-8").args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            USER,
            "-d",
            database,
            "-p",
            &port,
        ]);
        command.arg("-h").arg(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Statements on their own, each its transaction, unless they say BEGIN. Unaligned rows, columns apart by `|`.
    ///
    /// # Errors
    /// With the server's words, or psql's when there is no server.
    pub fn run(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = self.command(database);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut input = child.stdin.take().expect("piped");
        let output = std::thread::scope(|scope| {
            // From a thread of its own: it answers before it has read all.
            scope.spawn(move || input.write_all(sql.as_bytes()));
            child.wait_with_output().expect("our own child can be waited for")
        });
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub(crate) fn session(&self, database: &str) -> Session {
        // Not stopping at an error: a test of deadlocks goes on after it. Errors come where the rows come.
        let mut command = self.command(database);
        command.args(["-v", "ON_ERROR_STOP=0"]).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (input, output) = (child.stdin.take().expect("piped"), BufReader::new(child.stdout.take().expect("piped")));
        Session { child, input, output }
    }
}

/// A `psql` that stays: for transactions that are open while something else happens. Rolled back and ended on drop.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Does not wait: for a statement that blocks. [`Session::run`] then also returns what this one said.
    pub fn send(&mut self, sql: &str) {
        writeln!(self.input, "{sql};").expect("psql runs");
    }

    /// Its rows; with `ERROR:  40P01` and the like in a line of its own when it failed.
    ///
    /// # Panics
    /// When psql has ended, as it does when the server was killed.
    pub fn run(&mut self, sql: &str) -> String {
        const END: &str = "~~ end of answer ~~";
        self.send(sql);
        writeln!(self.input, "\\if :ERROR\n\\echo 'ERROR: ' :SQLSTATE :LAST_ERROR_MESSAGE\n\\endif\n\\echo '{END}'")
            .expect("psql runs");
        let mut rows = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).is_ok_and(|read| read > 0), "psql has ended; it had said {rows:?}");
            if line.trim_end() == END {
                return rows.trim_end().to_owned();
            }
            rows.push_str(&line);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
