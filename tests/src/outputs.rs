//! Reads what the file sink left: one append file, or a tree of rolled files `topic/partition/start-offset…`.

use crate::checker::Stream;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One file that the sink appends to. A file that is not there yet is empty.
///
/// # Errors
/// When it is there and cannot be read.
pub fn append_file(path: &Path, topic: Option<&str>) -> Result<Vec<Stream>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(vec![Stream { topic: topic.map(str::to_owned), ..Stream::new(path.display().to_string(), bytes) }])
}

/// A finished file of the rolling mode.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rolled {
    pub topic: String,
    pub partition: i32,
    pub start: u64,
    pub path: PathBuf,
}

/// The finished files under a folder, by topic, partition and start offset. Temporary names (no number in front, or a dot) are not delivered yet.
///
/// # Errors
/// When the folder cannot be read.
pub fn rolled_files(root: &Path) -> Result<Vec<Rolled>> {
    let mut files = Vec::new();
    if !root.exists() {
        return Ok(files);
    }
    for topic in folders(root)? {
        for partition in folders(&topic)? {
            let Ok(number) = name(&partition).parse::<i32>() else { continue };
            for entry in fs::read_dir(&partition)? {
                let path = entry?.path();
                let file = name(&path);
                let digits: String = file.chars().take_while(char::is_ascii_digit).collect();
                let finished =
                    !digits.is_empty() && !file.ends_with(".tmp") && !file.ends_with(".partial") && !file.contains(".open");
                if finished {
                    files.push(Rolled { topic: name(&topic), partition: number, start: digits.parse()?, path });
                }
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The rolled files, one stream for each partition. One record is one line, so names and counts must agree.
///
/// # Errors
/// When a file starts below the end of the one before it in the same partition.
pub fn rolled(root: &Path) -> Result<Vec<Stream>> {
    let mut streams: BTreeMap<(String, i32), (Stream, u64)> = BTreeMap::new();
    for file in rolled_files(root)? {
        let bytes = fs::read(&file.path).with_context(|| file.path.display().to_string())?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let (stream, next) = streams.entry((file.topic.clone(), file.partition)).or_insert_with(|| {
            let name = format!("{}/{}/{}", root.display(), file.topic, file.partition);
            (Stream { topic: Some(file.topic.clone()), ..Stream::new(name, Vec::new()) }, file.start)
        });
        ensure!(file.start >= *next, "{} starts at {}, but {next} records come before it", file.path.display(), file.start);
        *next = file.start + lines;
        stream.bytes.extend_from_slice(&bytes);
    }
    Ok(streams.into_values().map(|(stream, _)| stream).collect())
}

fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolled_files_are_read_in_the_order_of_their_offsets() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("t/0");
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in [
            ("9.log", "nine\nten\n"),
            ("11.log", "eleven\n"),
            ("0.log", "zero\n"),
            (".12.log.tmp", "no\n"),
            ("13.log.tmp", "no\n"),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        let streams = rolled(root.path()).unwrap();
        assert_eq!(streams.len(), 1);
        assert_eq!(String::from_utf8_lossy(&streams[0].bytes), "zero\nnine\nten\neleven\n");
        fs::write(dir.join("10.log"), "overlap\n").unwrap();
        assert!(rolled(root.path()).unwrap_err().to_string().contains("10.log starts at 10"));
    }
}
