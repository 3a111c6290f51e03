//! A folder for each partition, with files that roll.

use super::disk;
use super::encode::{Encoder, refuse};
use super::folder::{self, Done, Found, Kept, NOTE, Note, Part};
use super::output::{Compression, Disk, End, Output, WRITE_BYTES};
use aqueduct_core::failpoint::{self, bug, point};
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{Batch, Chunk, Error, LogPosition, Rejects, Result, TopicPartition};
use futures_util::future::try_join_all;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Of text that is gathered for all partitions together (invariant 6); as much again may be on its way to the disk.
const GATHERED_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) interval: Duration,
    pub(super) records: u64,
}

pub(super) struct Rolling {
    /// A mutex, since files grow old also when nobody calls.
    shared: Arc<Mutex<Folders>>,
    timer: Option<JoinHandle<()>>,
    /// As of the last flush (or the assignment).
    kept: BTreeMap<TopicPartition, String>,
}

struct Folders {
    settings: Settings,
    folders: BTreeMap<TopicPartition, Folder>,
    /// What went wrong when nobody called.
    failed: Option<Error>,
}

struct Settings {
    directory: PathBuf,
    extension: String,
    encoder: Encoder,
    compression: Compression,
    limits: Limits,
}

struct Folder {
    dir: PathBuf,
    lock: Arc<File>,
    note: Note,
    open: Option<Open>,
    /// Records before this offset are in finished files already.
    skip_before: i64,
    /// The offset after the last record written.
    next: i64,
    /// As of the last flush.
    durable: Option<Part>,
    flushed: bool,
}

struct Open {
    output: Output,
    /// As it will be when finished.
    name: String,
    start: i64,
    records: u64,
    text: u64,
    opened: i64,
    due: Instant,
    dirty: bool,
}

impl Rolling {
    pub(super) fn new(directory: &Path, encoder: Encoder, compression: Compression, limits: Limits) -> Self {
        let extension = format!("{}{}", encoder.format.extension(), compression.extension());
        let settings = Settings { directory: directory.to_owned(), extension, encoder, compression, limits };
        let folders = Folders { settings, folders: BTreeMap::new(), failed: None };
        Self { shared: Arc::new(Mutex::new(folders)), timer: None, kept: BTreeMap::new() }
    }

    pub(super) async fn assigned(&mut self, positions: &[LogPosition]) -> Result<()> {
        let mut shared = self.shared.lock().await;
        // Together, since each waits for a few fsyncs.
        let opened = try_join_all(positions.iter().map(|position| shared.settings.open_folder(position))).await?;
        for (position, folder) in positions.iter().zip(opened) {
            self.kept.insert(position.topic_partition(), shared.settings.kept(&folder));
            shared.folders.insert(position.topic_partition(), folder);
        }
        drop(shared);
        if self.timer.is_none() {
            #[allow(clippy::disallowed_methods, reason = "owned by this sink, which ends it when it is closed or dropped")]
            let timer = tokio::task::spawn(roll_in_time(self.shared.clone()));
            self.timer = Some(timer);
        }
        Ok(())
    }

    /// What was put of them was committed, so their files can be finished: the next owner begins new ones.
    pub(super) async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let mut shared = self.shared.lock().await;
        let mut result = Ok(());
        for partition in partitions {
            self.kept.remove(partition);
            if let Some(mut folder) = shared.folders.remove(partition) {
                folder.note.from = None;
                result = result.and(folder.roll().await);
            }
        }
        result
    }

    pub(super) async fn put(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<()> {
        let mut shared = self.shared.lock().await;
        let Folders { settings, folders, failed } = &mut *shared;
        failed.take().map_or(Ok(()), Err)?;
        let write_bytes = (GATHERED_BYTES / folders.len().max(1)).clamp(16 << 10, WRITE_BYTES);
        for chunk in batch.chunks() {
            let folder = chunk.origin.as_ref().and_then(|origin| folders.get_mut(&**origin)).ok_or_else(not_assigned)?;
            folder.put(chunk, settings, write_bytes, rejects).await?;
        }
        for folder in folders.values_mut().filter(|folder| folder.is_full(&settings.limits)) {
            folder.roll().await?;
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<()> {
        let mut shared = self.shared.lock().await;
        let Folders { settings, folders, failed } = &mut *shared;
        failed.take().map_or(Ok(()), Err)?;
        try_join_all(folders.values_mut().map(Folder::flush)).await?;
        self.kept = folders.iter().map(|(partition, folder)| (partition.clone(), settings.kept(folder))).collect();
        Ok(())
    }

    pub(super) fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        self.kept.get(partition).cloned()
    }

    /// Finishes what is durable to its end, so that a stopped connector leaves no parts behind.
    pub(super) async fn close(&mut self) {
        let mut shared = self.shared.lock().await;
        self.timer.take().inspect(JoinHandle::abort);
        for mut folder in std::mem::take(&mut shared.folders).into_values() {
            if folder.open.as_ref().is_some_and(|open| !open.dirty)
                && let Err(error) = folder.roll().await
            {
                tracing::warn!(%error, "a file was not finished; it will be when the connector runs again");
            }
            if let Some(open) = &mut folder.open {
                open.output.close().await;
            }
        }
    }
}

impl Drop for Rolling {
    fn drop(&mut self) {
        self.timer.take().inspect(JoinHandle::abort);
    }
}

async fn roll_in_time(shared: Arc<Mutex<Folders>>) {
    loop {
        let mut folders = shared.lock().await;
        if let Err(error) = folders.roll_due().await {
            tracing::warn!(%error, "a file could not be finished in time");
            folders.failed.get_or_insert(error);
        }
        // A file that is opened while this sleeps is due after that.
        let interval = folders.settings.limits.interval;
        let due = folders.folders.values().filter_map(|folder| folder.open.as_ref()).map(|open| open.due).min();
        drop(folders);
        let wait = due.map_or(interval, |due| due.saturating_duration_since(Instant::now()).min(interval));
        // At most 100 times a second, also when a file that failed stays due.
        tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
    }
}

impl Folders {
    async fn roll_due(&mut self) -> Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        for folder in self.folders.values_mut() {
            if folder.open.as_ref().is_some_and(|open| open.due <= Instant::now()) {
                folder.roll().await?;
            }
        }
        Ok(())
    }
}

impl Folder {
    async fn put(&mut self, chunk: &Chunk, settings: &Settings, write_bytes: usize, rejects: &mut Rejects) -> Result<()> {
        if std::mem::take(&mut self.flushed) {
            // The worker commits after each flush, or closes us.
            self.note.from = None;
        }
        for record in chunk.iter() {
            let (_, offset) = record.origin().ok_or_else(not_assigned)?;
            if offset < self.skip_before {
                // Its dead letter may not be durable: it is refused again.
                settings.encoder.check(record).unwrap_or_else(|error| refuse(record, error, rejects));
                continue;
            }
            // What transforms made of one record stays in one file, also when it is spread over chunks: offsets never go back within a batch,
            // so a file may end where a new one comes.
            if offset >= self.next && self.is_full(&settings.limits) {
                self.roll().await?;
            }
            if self.open.is_none() {
                self.begin(offset, settings).await?;
            }
            let Some(open) = &mut self.open else { return Err(not_assigned()) };
            let before = open.output.buffer.len();
            match settings.encoder.encode(record, &mut open.output.buffer) {
                Ok(()) => open.records += 1,
                Err(error) => refuse(record, error, rejects),
            }
            open.text += (open.output.buffer.len() - before) as u64;
            open.dirty = true;
            self.next = offset + 1;
            if open.output.buffer.len() >= write_bytes {
                open.output.write().await?;
            }
        }
        Ok(())
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.open.as_ref().is_some_and(|open| open.text >= limits.bytes || open.records >= limits.records)
    }

    async fn begin(&mut self, start: i64, settings: &Settings) -> Result<()> {
        let name = folder::name(start, &settings.extension);
        let (path, lock, compression) = (self.dir.join(folder::part_name(&name)), self.lock.clone(), settings.compression);
        let disk = disk::blocking(move || {
            let mut disk = Disk::open(&path, compression, Some(lock))?;
            disk.cut(End::default())?;
            // Durable before a commit can name it.
            disk::sync_dir(disk::parent(&path))?;
            Ok(disk)
        })
        .await?;
        let part = Part { start, length: 0, crc: 0, records: 0, text: 0, opened: disk::now_ms() };
        let open = self.open.insert(Open::new(disk, name, &part, settings.limits.interval));
        settings.encoder.begin(&mut open.output.buffer);
        open.text = open.output.buffer.len() as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.flushed = true;
        self.durable = match &mut self.open {
            Some(open) if open.dirty => Some(open.sync().await?),
            Some(_) => self.durable.take(),
            None => None,
        };
        Ok(())
    }

    /// Finishes the open file, in the order that `folder` describes.
    async fn roll(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Part { start, length, crc, .. } = open.sync().await?;
        open.output.close().await;
        let (dir, lock, name, end) = (self.dir.clone(), self.lock.clone(), open.name.clone(), self.next);
        let note = Note { done: Some(Done { name: name.clone(), start, end, length, crc }), ..self.note.clone() };
        self.note = disk::blocking(move || {
            let part = dir.join(folder::part_name(&name));
            write_note(&dir, &note)?;
            failpoint::hit_io(point::FILE_SINK_ROLLED).map_err(|error| disk::error("finish", &part, error))?;
            disk::rename(&part, &dir.join(&name))?;
            failpoint::hit_io(point::FILE_SINK_RENAMED).map_err(|error| disk::error("finish", &part, error))?;
            if failpoint::planted(bug::RENAME_BEFORE_SYNC) {
                let synced = File::open(dir.join(&name)).and_then(|file| file.sync_data());
                synced.map_err(|error| disk::error("make durable", &dir.join(&name), error))?;
            }
            disk::sync_dir(&dir)?;
            drop(lock);
            Ok(note)
        })
        .await?;
        (self.open, self.durable) = (None, None);
        Ok(())
    }
}

impl Open {
    fn new(disk: Disk, name: String, part: &Part, interval: Duration) -> Self {
        let age = Duration::from_millis((disk::now_ms() - part.opened).max(0) as u64);
        let due = Instant::now() + interval.saturating_sub(age);
        let Part { start, records, text, opened, .. } = *part;
        Self { output: Output::new(disk), name, start, records, text, opened, due, dirty: false }
    }

    async fn sync(&mut self) -> Result<Part> {
        let End { length, crc } = self.output.sync().await?;
        self.dirty = false;
        Ok(Part { start: self.start, length, crc, records: self.records, text: self.text, opened: self.opened })
    }
}

impl Settings {
    fn kept(&self, folder: &Folder) -> String {
        let kept = Kept { file: self.file(), topic_id: folder.note.topic_id, open: folder.durable.clone() };
        serde_json::to_string(&kept).expect("numbers and text are always JSON")
    }

    fn file(&self) -> String {
        self.directory.to_string_lossy().into_owned()
    }

    async fn open_folder(&self, position: &LogPosition) -> Result<Folder> {
        if !is_valid_topic_name(&position.topic) {
            // Never a path out of the directory.
            return Err(Error::fatal("file_sink.topic_name", format!("{:?} cannot be the name of a folder", position.topic)));
        }
        let dir = self.directory.join(&*position.topic).join(position.partition.to_string());
        let kept = position.metadata.as_deref().and_then(|text| serde_json::from_str::<Kept>(text).ok());
        let kept = kept.filter(|kept| kept.topic_id == position.topic_id && kept.file == self.file());
        // Twice at most: the second time when the folder of an older topic was moved away.
        loop {
            let path = dir.clone();
            let lock = disk::blocking(move || {
                disk::create_dirs(&path)?;
                File::open(&path).map_err(|error| disk::error("open", &path, error))
            })
            .await?;
            disk::lock(&lock, &dir).await?;
            let (path, lock, topic_id) = (dir.clone(), Arc::new(lock), position.topic_id);
            let ready = {
                let lock = lock.clone();
                disk::blocking(move || is_ready(&path, &lock, topic_id)).await?
            };
            if ready {
                return self.recover(dir, lock, position, kept).await;
            }
        }
    }

    async fn recover(&self, dir: PathBuf, lock: Arc<File>, position: &LogPosition, kept: Option<Kept>) -> Result<Folder> {
        let (path, held, topic_id, offset) = (dir.clone(), lock.clone(), position.topic_id, position.offset);
        let compression = self.compression;
        let recovery = disk::blocking(move || {
            let found = look(&path)?;
            let recovery = folder::decide(&path, &found, topic_id, offset, kept.as_ref())?;
            for name in &recovery.delete {
                tracing::info!(folder = %path.display(), name, "removed a part that was not committed");
                disk::remove(&path.join(folder::part_name(name)))?;
            }
            if found.note.as_ref() != Some(&recovery.note) {
                write_note(&path, &recovery.note)?;
            }
            let open = recovery.open.as_ref().map(|(name, part)| {
                let mut disk = Disk::open(&path.join(folder::part_name(name)), compression, Some(held))?;
                disk.cut(End { length: part.length, crc: part.crc })?;
                Ok(disk)
            });
            Ok((open.transpose()?, recovery))
        });
        let (disk, recovery) = recovery.await?;
        let skip_before = recovery.skip_before;
        let next = position.offset.max(skip_before);
        let mut folder = Folder { dir, lock, note: recovery.note, open: None, skip_before, next, durable: None, flushed: false };
        if let (Some(disk), Some((name, part))) = (disk, recovery.open) {
            let same = name == folder::name(part.start, &self.extension);
            folder.open = Some(Open::new(disk, name, &part, self.limits.interval));
            folder.durable = Some(part);
            if !same {
                // The format or the compression was changed: a file has one of each.
                folder.roll().await?;
            }
        }
        Ok(folder)
    }
}

fn write_note(dir: &Path, note: &Note) -> Result<()> {
    disk::write_note(&dir.join(NOTE), &serde_json::to_string(note).expect("numbers and text are always JSON"))
}

/// The folder is of this topic, and what was being finished is. False when the folder was moved away.
fn is_ready(dir: &Path, lock: &File, topic_id: Uuid) -> Result<bool> {
    let id = |metadata: std::io::Result<std::fs::Metadata>| metadata.map(|metadata| (metadata.dev(), metadata.ino())).ok();
    if id(std::fs::metadata(dir)) != id(lock.metadata()) {
        return Ok(false);
    }
    let Some(note) = disk::read_note::<Note>(&dir.join(NOTE))? else { return Ok(true) };
    if let Some(done) = &note.done {
        let part = dir.join(folder::part_name(&done.name));
        if part.exists() {
            Disk::open(&part, Compression::None, None)?.cut(End { length: done.length, crc: done.crc })?;
            disk::rename(&part, &dir.join(&done.name))?;
        }
        disk::sync_dir(dir)?;
    }
    if note.topic_id == topic_id {
        return Ok(true);
    }
    // The topic was deleted and made again: its offsets begin anew, and so do the files.
    let old = dir.with_extension(note.topic_id.to_string());
    tracing::info!(from = %dir.display(), to = %old.display(), "the topic was made again; its old files were moved");
    disk::rename(dir, &old)?;
    disk::sync_dir(disk::parent(dir))?;
    Ok(false)
}

fn look(dir: &Path) -> Result<Found> {
    let mut found = Found { note: disk::read_note(&dir.join(NOTE))?, ..Found::default() };
    let fail = |error| disk::error("list", dir, error);
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        if let Some(name) = entry.map_err(fail)?.file_name().to_str() {
            found.add(name);
        }
    }
    Ok(found)
}

fn not_assigned() -> Error {
    Error::fatal("file_sink.not_assigned", "a record came that is of no assigned partition")
        .fix("check the transforms: what they make must keep the place in the log that it was made from")
}
