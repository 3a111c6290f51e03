//! The near limits: what a plain program needs for the same bytes on the same disk.

use crate::table::median;
use anyhow::{Context, Result, ensure};
use aqueduct_tests::site::cpu_time;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const LINE: u64 = 100;

/// Numbered lines of 100 bytes, the line end included; durable, so that its writing does not disturb what is measured.
pub(crate) fn write_lines(path: &Path, lines: u64) -> Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() == lines * LINE) {
        return Ok(());
    }
    let mut file = std::io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    let filler = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-abcdefghijklmnopqrstuvw";
    for seq in 0..lines {
        writeln!(file, "{seq:012}{:.87}", filler)?;
    }
    file.into_inner()?.sync_all()?;
    ensure!(fs::metadata(path)?.len() == lines * LINE, "the generator writes lines of 100 bytes");
    Ok(())
}

/// Reads lines and appends the same bytes, with so many fdatasyncs in equal distances. Wall time, CPU time.
pub(crate) fn read_and_append(from: &Path, to: &Path, syncs: u64) -> Result<(Duration, Duration)> {
    let total = fs::metadata(from)?.len();
    let piece = usize::try_from((total / syncs.max(1)).max(LINE))?;
    let (begin, cpu) = (Instant::now(), cpu_time(std::process::id())?);
    let mut input = BufReader::with_capacity(1 << 20, File::open(from)?);
    let mut output = File::options().create(true).append(true).open(to)?;
    let mut buffer = Vec::with_capacity(piece + 1024);
    while input.read_until(b'\n', &mut buffer)? > 0 {
        if buffer.len() >= piece {
            output.write_all(&buffer)?;
            output.sync_data()?;
            buffer.clear();
        }
    }
    output.write_all(&buffer)?;
    output.sync_data()?;
    let spent = (begin.elapsed(), cpu_time(std::process::id())?.saturating_sub(cpu));
    ensure!(fs::metadata(to)?.len() == total, "the plain program copied everything");
    fs::remove_file(to)?;
    Ok(spent)
}

/// Writes and deletes a file of this size. In a virtual machine the first touch of a page costs the host's fault, several times what the copy into
/// it costs: who fills the page cache with fresh pages would pay it, and who comes later and gets those that were just given back would not. So
/// every timed phase, ours or a near limit's, begins with pages that were just given back.
pub(crate) fn warm_page_cache(dir: &Path, bytes: u64) -> Result<()> {
    let path = dir.join("warm");
    let mut file = File::create(&path)?;
    let piece = vec![b'w'; 1 << 20];
    for _ in 0..bytes.div_ceil(1 << 20) {
        file.write_all(&piece)?;
    }
    fs::remove_file(path)?;
    Ok(())
}

/// `cp`, then fsync.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let status = Command::new("cp").arg(from).arg(to).status().context("cp")?;
    ensure!(status.success(), "cp ended with {status}");
    File::open(to)?.sync_all()?;
    let spent = begin.elapsed();
    fs::remove_file(to)?;
    Ok(spent)
}

/// The same lines, compared in pieces.
pub(crate) fn same(left: &Path, right: &Path) -> Result<bool> {
    if fs::metadata(left)?.len() != fs::metadata(right)?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (File::open(left)?, File::open(right)?);
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let n = a.read(&mut x)?;
        if n == 0 {
            return Ok(true);
        }
        b.read_exact(&mut y[..n])?;
        if x[..n] != y[..n] {
            return Ok(false);
        }
    }
}

pub(crate) fn sync_latency(dir: &Path) -> Result<Duration> {
    let path = dir.join("sync-latency");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        file.seek(SeekFrom::End(0))?;
        file.write_all(&[7; 4096])?;
        let begin = Instant::now();
        file.sync_data()?;
        times.push(begin.elapsed().as_secs_f64());
    }
    fs::remove_file(path)?;
    Ok(Duration::from_secs_f64(median(times)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_100_bytes_and_the_plain_program_copies_them() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        write_lines(&from, 1_000).unwrap();
        assert!(fs::read_to_string(&from).unwrap().lines().all(|line| line.len() == 99));
        read_and_append(&from, &to, 7).unwrap();
        copy(&from, &to).unwrap();
        assert!(same(&from, &from).unwrap());
        fs::write(&to, vec![b'x'; 100_000]).unwrap();
        assert!(!same(&from, &to).unwrap());
    }
}
