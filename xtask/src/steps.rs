//! The steps of a test run, each with its time, and the report in the end.

use crate::sh::Sh;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

pub(crate) struct Steps<'a> {
    sh: &'a Sh,
    done: Vec<Step>,
    begin: Instant,
}

pub(crate) struct Step {
    pub(crate) name: String,
    time: Duration,
    failure: Option<Failure>,
}

struct Failure {
    error: String,
    /// The last lines of what it printed.
    tail: Vec<String>,
}

impl Step {
    pub(crate) fn take(sh: &Sh, name: &str, step: impl FnOnce() -> Result<()>) -> Self {
        let begin = Instant::now();
        sh.take_tail();
        let error = step().err().map(|error| format!("{error:#}"));
        let failure = error.map(|error| Failure { error, tail: sh.take_tail() });
        if let Some(failure) = &failure {
            eprintln!("✗ {name}: {}", failure.error);
        }
        Self { name: name.to_owned(), time: begin.elapsed(), failure }
    }

    /// What a failed one printed last.
    #[cfg(test)]
    pub(crate) fn tail(&self) -> Option<String> {
        self.failure.as_ref().map(|failure| failure.tail.join("\n"))
    }
}

impl<'a> Steps<'a> {
    pub(crate) fn new(sh: &'a Sh) -> Self {
        Self { sh, done: Vec::new(), begin: Instant::now() }
    }

    /// Goes on after a failure; [`Steps::report`] fails in the end.
    pub(crate) fn note(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        self.done.push(Step::take(self.sh, name, step));
    }

    /// What ran beside others.
    pub(crate) fn add(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.done.extend(steps);
    }

    /// Ends here, with the report, when it failed.
    pub(crate) fn must(&mut self, step: Step) -> Result<()> {
        let failed = step.failure.is_some();
        self.done.push(step);
        if failed { self.report() } else { Ok(()) }
    }

    /// What failed comes last, in one block: the log of a CI run may be cut short at its beginning.
    pub(crate) fn report(&self) -> Result<()> {
        let width = self.done.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        println!("\n{:width$}  seconds", "step");
        for step in &self.done {
            let mark = step.failure.as_ref().map_or("", |_| "  FAILED");
            println!("{:width$}  {:7.1}{mark}", step.name, step.time.as_secs_f64());
        }
        println!("{:width$}  {:7.1}", "all, some beside others", self.begin.elapsed().as_secs_f64());
        let failed: Vec<_> = self.done.iter().filter_map(|step| Some((step.name.as_str(), step.failure.as_ref()?))).collect();
        if failed.is_empty() {
            return Ok(());
        }
        for (name, failure) in &failed {
            println!("\n──── FAILED: {name}: {}\n{}", failure.error, failure.tail.join("\n"));
        }
        let names: Vec<&str> = failed.into_iter().map(|(name, _)| name).collect();
        bail!("{} of {} steps failed: {}", names.len(), self.done.len(), names.join(", "));
    }
}
