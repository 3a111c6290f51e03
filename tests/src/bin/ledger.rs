//! Writes numbered lines to files that a worker tails, and keeps the ledger of what it wrote. Never killed by a test.
//!
//! The ledger is fsynced before the lines it announces are written, so a delivered line that is not in it was invented.

use anyhow::{Context, Result};
use aqueduct_tests::ledger::line;
use aqueduct_tests::wait::pause;
use clap::Parser;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    ledger: PathBuf,
    /// Lines per second over all files.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Rename rotation every so many milliseconds; 0: never.
    #[arg(long, default_value_t = 0)]
    rotate_ms: u64,
    #[arg(long, default_value_t = 5)]
    keep: u32,
    #[arg(long)]
    topic: Option<String>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    files: Vec<PathBuf>,
}

struct Source {
    name: String,
    path: PathBuf,
    file: File,
    next: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut ledger = OpenOptions::new().create(true).append(true).open(&args.ledger)?;
    let mut sources = Vec::new();
    for path in &args.files {
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a file name")?.to_owned();
        if let Some(topic) = &args.topic {
            writeln!(ledger, "topic {name} {topic}")?;
        }
        sources.push(Source { name, path: path.clone(), file: append(path)?, next: 0 });
    }
    let commands = commands();
    let mut random = fastrand::Rng::with_seed(args.seed);
    let (mut rotated, mut written, begin) = (Instant::now(), 0u64, Instant::now());
    let mut paused = Duration::ZERO;
    loop {
        match commands.try_recv() {
            Ok(command) => match obey(&command, &commands, &mut sources)? {
                Some(time) => paused += time,
                None => return Ok(()),
            },
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        if args.rotate_ms > 0 && rotated.elapsed() >= Duration::from_millis(args.rotate_ms) {
            for source in &mut sources {
                rotate(source, args.keep)?;
            }
            rotated = Instant::now();
        }
        let pick = random.usize(..sources.len());
        written += write_some(&mut sources[pick], &mut ledger, &mut random)?;
        let due = Duration::from_secs_f64(written as f64 / args.rate.max(1) as f64);
        let ahead = due.saturating_sub(begin.elapsed().saturating_sub(paused));
        if !ahead.is_zero() {
            pause(ahead.min(Duration::from_millis(50)));
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Commands from stdin; the thread ends with the pipe.
fn commands() -> Receiver<String> {
    let (send, receive) = sync_channel(16);
    std::thread::spawn(move || {
        for command in io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(command).is_err() {
                break;
            }
        }
    });
    receive
}

/// `None` to stop; else the time that it was paused.
fn obey(command: &str, commands: &Receiver<String>, sources: &mut [Source]) -> Result<Option<Duration>> {
    let begin = Instant::now();
    let (mut command, mut paused) = (command.to_owned(), false);
    loop {
        match command.as_str() {
            "pause" => paused = true,
            "resume" => paused = false,
            "reopen" => {
                for source in sources.iter_mut() {
                    source.file = append(&source.path)?;
                }
            }
            _ => {}
        }
        let mut out = io::stdout();
        writeln!(out, "{command}")?;
        out.flush()?;
        if command == "stop" {
            return Ok(None);
        }
        if !paused {
            return Ok(Some(begin.elapsed()));
        }
        command = match commands.recv_timeout(Duration::from_secs(600)) {
            Ok(next) => next,
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return Ok(None),
        };
    }
}

/// One to some dozens of lines, in one to three writes that need not end where a line ends.
fn write_some(source: &mut Source, ledger: &mut File, random: &mut fastrand::Rng) -> Result<u64> {
    let count = random.u64(1..60);
    let mut bytes = Vec::new();
    for seq in source.next..source.next + count {
        line(&source.name, seq, &mut bytes);
        bytes.push(b'\n');
    }
    source.next += count;
    writeln!(ledger, "issued {} {}", source.name, source.next)?;
    ledger.sync_data()?;
    let cut = random.usize(..bytes.len());
    source.file.write_all(&bytes[..cut])?;
    source.file.write_all(&bytes[cut..])?;
    writeln!(ledger, "written {} {}", source.name, source.next)?;
    Ok(count)
}

/// `app.log.1` → `app.log.2` …, `app.log` → `app.log.1`, a new `app.log`: as logrotate with `create`.
fn rotate(source: &mut Source, keep: u32) -> Result<()> {
    let numbered = |n: u32| PathBuf::from(format!("{}.{n}", source.path.display()));
    for n in (1..keep).rev() {
        if numbered(n).exists() {
            fs::rename(numbered(n), numbered(n + 1))?;
        }
    }
    fs::rename(&source.path, numbered(1))?;
    source.file = append(&source.path)?;
    Ok(())
}
