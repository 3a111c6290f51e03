//! One file that is being written: text is gathered here, compressed and written by a thread of the blocking pool while the next text is
//! gathered, and made durable on demand.

use super::disk;
use aqueduct_core::failpoint::{self, bug, point};
use aqueduct_core::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// One write(2): large enough that the call and the hand-over to the pool cost nothing for each record, small enough to stay in the cache.
pub(super) const WRITE_BYTES: usize = 1 << 20;
/// How much of the file's end is checked before a committed length is trusted.
const TAIL_BYTES: u64 = 64 << 10;
const ZSTD_LEVEL: i32 = 3;
/// So much that is written is sent to the disk at once, while more is written: `flush` then waits for this much at most, not for all since the last
/// one. Large enough that the extra fdatasyncs (some ms each) do not count.
const WRITEBACK_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    /// A gzip member for each flush; `zcat` reads them as one text.
    Gzip,
    /// A zstd frame for each flush; `zstdcat` reads them as one text.
    Zstd,
}

impl Compression {
    pub(super) fn extension(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        }
    }
}

/// The end of a file that is durable, and a checksum of what stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) length: u64,
    /// CRC32C of the last 64 KiB before `length`.
    pub(super) crc: u32,
}

/// The gathering side. Dropped midway, its file ends in something that `Disk::open` cuts.
pub(super) struct Output {
    pub(super) buffer: Vec<u8>,
    spare: Vec<u8>,
    state: State,
    /// Under way beside the writes. Its error is the file's: the kernel tells it only once.
    writeback: Option<JoinHandle<Result<()>>>,
    /// The length when the last one began.
    sent: u64,
}

enum State {
    Idle(Disk),
    Busy(JoinHandle<(Disk, Vec<u8>, Result<()>)>),
    /// A write or fsync failed: what the kernel still holds cannot be trusted, so nothing but reopening helps.
    Broken,
}

impl Output {
    pub(super) fn new(disk: Disk) -> Self {
        let sent = disk.length;
        Self { buffer: Vec::new(), spare: Vec::new(), state: State::Idle(disk), writeback: None, sent }
    }

    /// Hands the gathered text to the pool; waits only for the write before it.
    pub(super) async fn write(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut disk = self.take().await?;
        self.write_back(&disk).await?;
        let text = std::mem::replace(&mut self.buffer, std::mem::take(&mut self.spare));
        self.state = State::Busy(
            disk::spawn(move || {
                let result = disk.write(&text);
                (disk, text, result)
            })
            .await,
        );
        Ok(())
    }

    /// Writes what is gathered and makes the file durable up to its end, which is returned. A compressed file ends in a whole frame.
    pub(super) async fn sync(&mut self) -> Result<End> {
        self.write().await?;
        let mut disk = self.take().await?;
        self.written_back().await?;
        let done = disk::spawn(move || {
            let end = disk.sync();
            (disk, end)
        });
        let (disk, end) = done.await.await.map_err(disk::lost_thread)?;
        let end = end?;
        self.sent = disk.length;
        self.state = State::Idle(disk);
        Ok(end)
    }

    /// Begins to send what is written to the disk, if it is much and the last time is over. Only `sync` makes anything durable for good.
    async fn write_back(&mut self, disk: &Disk) -> Result<()> {
        if disk.length.saturating_sub(self.sent) < WRITEBACK_BYTES
            || self.writeback.as_ref().is_some_and(|writeback| !writeback.is_finished())
        {
            return Ok(());
        }
        self.written_back().await?;
        self.sent = disk.length;
        let (file, path) = (disk.file.try_clone().map_err(|error| disk::error("write", &disk.path, error))?, disk.path.clone());
        self.writeback =
            Some(disk::spawn(move || sync_data(&file).map_err(|error| disk::error("make durable", &path, error))).await);
        Ok(())
    }

    async fn written_back(&mut self) -> Result<()> {
        match self.writeback.take() {
            Some(writeback) => writeback.await.map_err(disk::lost_thread)?,
            None => Ok(()),
        }
    }

    /// Waits for the last write, so that nothing of this output touches the file any more.
    pub(super) async fn close(&mut self) {
        let _ = self.take().await;
        let _ = self.written_back().await;
    }

    async fn take(&mut self) -> Result<Disk> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Idle(disk) => Ok(disk),
            State::Busy(write) => {
                let (disk, mut text, result) = write.await.map_err(disk::lost_thread)?;
                result?;
                text.clear();
                // A record may be larger than a write by far; its memory is not kept (invariant 6).
                text.shrink_to(2 * WRITE_BYTES);
                self.spare = text;
                Ok(disk)
            }
            State::Broken => Err(Error::retriable("file_sink.io", "an earlier write to the file failed")),
        }
    }
}

/// The writing side: the file, its true length, the open frame.
pub(super) struct Disk {
    path: PathBuf,
    file: File,
    length: u64,
    compression: Compression,
    frame: Frame,
    /// Of the folder. Held as long as a write may be under way, also when the task was dropped.
    _lock: Option<Arc<File>>,
}

enum Frame {
    None,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Disk {
    /// Opens `path` (creating it) at its present end.
    pub(super) fn open(path: &Path, compression: Compression, lock: Option<Arc<File>>) -> Result<Self> {
        let fail = |error| disk::error("open", path, error);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(Error::fatal("file_sink.not_a_file", format!("{} is not a regular file", path.display()))
                .fix("name a regular file: a pipe or a device cannot be cut back, so nothing could be written exactly once"));
        }
        let length = file.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, length, compression, frame: Frame::None, _lock: lock })
    }

    /// Again at its end, after a wait for the lock: whoever held it may have written or replaced the file.
    pub(super) fn refresh(&mut self) -> Result<()> {
        self.length = self.file.seek(SeekFrom::End(0)).map_err(|error| disk::error("open", &self.path, error))?;
        self.still_ours()
    }

    /// # Errors
    /// `file_sink.compression` when a file begins otherwise than its end will be written.
    pub(super) fn check_compression(&self) -> Result<()> {
        let mut magic = [0; 4];
        if self.length < magic.len() as u64 {
            return Ok(());
        }
        self.file.read_exact_at(&mut magic, 0).map_err(|error| disk::error("read", &self.path, error))?;
        let found = match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ => Compression::None,
        };
        if found == self.compression {
            return Ok(());
        }
        let message = format!("{} begins with compression.type {found:?}, not {:?}", self.path.display(), self.compression);
        Err(Error::fatal("file_sink.compression", message).fix("set compression.type back, or name another file"))
    }

    /// An empty file and a compressed one do.
    pub(super) fn ends_in_line_feed(&self) -> Result<bool> {
        if self.length == 0 || self.compression != Compression::None {
            return Ok(true);
        }
        let mut last = [0];
        self.file.read_exact_at(&mut last, self.length - 1).map_err(|error| disk::error("read", &self.path, error))?;
        Ok(last == *b"\n")
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Cuts the file back to what was committed, after it has shown that this is still the same file.
    pub(super) fn cut(&mut self, end: End) -> Result<()> {
        self.verify(end)?;
        if self.length == end.length || failpoint::planted(bug::SINK_NO_TRUNCATE) {
            return Ok(());
        }
        let fail = |error| disk::error("cut back", &self.path, error);
        tracing::info!(file = %self.path.display(), from = self.length, to = end.length, "cut back to what was committed");
        self.file.set_len(end.length).map_err(fail)?;
        self.file.seek(SeekFrom::Start(end.length)).map_err(fail)?;
        self.file.sync_data().map_err(fail)?;
        self.length = end.length;
        Ok(())
    }

    /// # Errors
    /// `file_sink.lost`, `file_sink.changed` (both fatal).
    pub(super) fn verify(&self, end: End) -> Result<()> {
        let path = self.path.display();
        if self.length < end.length {
            return Err(lost(&self.path, self.length, end.length));
        }
        if self.tail_crc(end.length)? != end.crc {
            return Err(Error::fatal(
                "file_sink.changed",
                format!("{path} does not hold what was written to it before byte {}", end.length),
            )
            .fix("somebody else changed the file: restore it, or move it away and reset the connector's offsets"));
        }
        Ok(())
    }

    pub(super) fn end(&self) -> Result<End> {
        Ok(End { length: self.length, crc: self.tail_crc(self.length)? })
    }

    fn tail_crc(&self, length: u64) -> Result<u32> {
        let from = length.saturating_sub(TAIL_BYTES);
        let mut tail = vec![0; (length - from) as usize];
        self.file.read_exact_at(&mut tail, from).map_err(|error| disk::error("read", &self.path, error))?;
        Ok(crc32c::crc32c(&tail))
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        // A file that was cut under us would get a hole here.
        self.has_our_length()?;
        self.try_write(text).map_err(|error| disk::error("write", &self.path, error))
    }

    fn try_write(&mut self, text: &[u8]) -> std::io::Result<()> {
        if let Err(error) = failpoint::hit_io(point::FILE_SINK_WRITE) {
            // As a disk that fills up does it.
            let _ = self.file.write(&text[..text.len() / 2]);
            return Err(error);
        }
        if self.compression == Compression::None {
            self.file.write_all(text)?;
            self.length += text.len() as u64;
            return Ok(());
        }
        if let Frame::None = self.frame {
            self.frame = match self.compression {
                Compression::Gzip => Frame::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default())),
                _ => Frame::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
            };
        }
        let packed = match &mut self.frame {
            Frame::Gzip(encoder) => encoder.write_all(text).map(|()| std::mem::take(encoder.get_mut()))?,
            Frame::Zstd(encoder) => encoder.write_all(text).map(|()| std::mem::take(encoder.get_mut()))?,
            Frame::None => Vec::new(),
        };
        self.write_packed(&packed)
    }

    fn write_packed(&mut self, packed: &[u8]) -> std::io::Result<()> {
        self.file.write_all(packed)?;
        self.length += packed.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<End> {
        let fail = |path: &Path, error| disk::error("make durable", path, error);
        let packed = match std::mem::replace(&mut self.frame, Frame::None) {
            Frame::None => Vec::new(),
            Frame::Gzip(encoder) => encoder.finish().map_err(|error| fail(&self.path, error))?,
            Frame::Zstd(encoder) => encoder.finish().map_err(|error| fail(&self.path, error))?,
        };
        self.write_packed(&packed).map_err(|error| fail(&self.path, error))?;
        let synced = failpoint::hit_io(point::FILE_SINK_SYNC).and_then(|()| sync_data(&self.file));
        synced.map_err(|error| fail(&self.path, error))?;
        self.still_ours()?;
        self.end()
    }

    /// A file that somebody truncates, appends to, moves or deletes under us would be found only after the next restart.
    fn still_ours(&self) -> Result<()> {
        let ours = self.file.metadata().map_err(|error| disk::error("look at", &self.path, error))?;
        let named = std::fs::metadata(&self.path).ok();
        if named.is_none_or(|named| (named.dev(), named.ino()) != (ours.dev(), ours.ino())) {
            return Err(Error::fatal("file_sink.lost", format!("{} was moved or deleted while it was written", self.path.display()))
                .fix("put it back; for files that something else rotates or collects, use directory instead of file: finished files may be taken away"));
        }
        self.has_our_length()
    }

    fn has_our_length(&self) -> Result<()> {
        let ours = self.file.metadata().map_err(|error| disk::error("look at", &self.path, error))?;
        if ours.len() != self.length {
            return Err(Error::fatal("file_sink.changed", format!("{} has {} bytes where {} were written", self.path.display(), ours.len(), self.length))
                .fix("somebody else writes to the file: give each writer its own, then restore this one or reset the connector's offsets"));
        }
        Ok(())
    }
}

fn sync_data(file: &File) -> std::io::Result<()> {
    let skipped = failpoint::planted(bug::SKIP_FILE_SYNC) || failpoint::planted(bug::RENAME_BEFORE_SYNC);
    if skipped { Ok(()) } else { file.sync_data() }
}

/// A file is shorter than what was committed to it.
pub(super) fn lost(path: &Path, length: u64, committed: u64) -> Error {
    Error::fatal("file_sink.lost", format!("{} has {length} bytes, but {committed} were committed to it", path.display())).fix(
        "restore the file; or set the connector's offsets: back, to have its records written again, or to where they stand, to go on in a new file",
    )
}

/// The text of a file that was written with a compression. For tests and tools; reads all of it.
///
/// # Errors
/// I/O errors, and those of a damaged frame.
pub fn read_text(path: &Path, compression: Compression) -> std::io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    let mut text = Vec::new();
    match compression {
        Compression::None => return Ok(bytes),
        Compression::Gzip => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text)?,
        Compression::Zstd => zstd::stream::read::Decoder::new(&bytes[..])?.read_to_end(&mut text)?,
    };
    Ok(text)
}
