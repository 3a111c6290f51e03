//! Blocks of a file's content: by `pread` of a plain file, through a decoder of a compressed one.

use super::identity::{ANCHOR_BYTES, HEAD_BYTES, Kind, Stat, fnv};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

impl Codec {
    /// By the magic number, whatever the name says.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let mut magic = [0; 4];
        let len = read_at(file, &mut magic, 0)?;
        Ok(match &magic[..len] {
            [0x1f, 0x8b, 8, _] => Codec::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Codec::Zstd,
            _ => Codec::Plain,
        })
    }

    fn decoder(self, file: File) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Codec::Plain => Box::new(file),
            Codec::Gzip => Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(64 << 10, file))),
            Codec::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
        })
    }
}

pub(crate) struct Reader {
    file: File,
    codec: Codec,
    stream: Option<Stream>,
}

/// Decoded bytes from `at` on; the decoder stands behind them.
struct Stream {
    decoder: Box<dyn Read + Send>,
    at: u64,
    window: Vec<u8>,
    /// What stopped the decoder behind the window.
    failed: Option<io::Error>,
}

impl Reader {
    pub(crate) fn open(path: &Path, decompress: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let codec = if decompress && Stat::from(&file.metadata()?).kind == Kind::File { Codec::of(&file)? } else { Codec::Plain };
        Ok(Self { file, codec, stream: None })
    }

    pub(crate) fn stat(&self) -> io::Result<Stat> {
        Ok(Stat::from(&self.file.metadata()?))
    }

    /// Before anything was read: a file that was empty when it was opened may turn out to be compressed. False: too short to tell.
    pub(crate) fn settle(&mut self) -> io::Result<bool> {
        if self.codec != Codec::Plain {
            return Ok(true);
        }
        self.codec = Codec::of(&self.file)?;
        let mut magic = [0; 3];
        let len = read_at(&self.file, &mut magic, 0)?;
        let partial =
            len > 0 && len < 3 && [[0x1f, 0x8b, 8], [0x28, 0xb5, 0x2f]].iter().any(|known| known.starts_with(&magic[..len]));
        Ok(!partial)
    }

    /// Whether the first `len` bytes of the content (at most 1 KiB) have this hash.
    pub(crate) fn has_head(&mut self, hash: u64, len: u64) -> io::Result<bool> {
        let mut head = vec![0; len.min(HEAD_BYTES as u64) as usize];
        Ok(self.read(&mut head, 0)? == head.len() && fnv(&head) == hash)
    }

    /// Whether the up to 64 bytes before `offset` have this hash.
    pub(crate) fn has_anchor(&mut self, offset: u64, hash: Option<u64>) -> io::Result<bool> {
        let mut anchor = vec![0; offset.min(ANCHOR_BYTES) as usize];
        Ok(self.read(&mut anchor, offset - offset.min(ANCHOR_BYTES))? == anchor.len() && hash == Some(fnv(&anchor)))
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// Content from `offset` on; fewer bytes than asked for mean the end of what is there now.
    ///
    /// # Errors
    /// `UnexpectedEof`: a compressed file that is not whole (yet).
    pub(crate) fn read(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (read, failed) = self.read_some(buffer, offset)?;
        if read < buffer.len() && failed {
            return Err(self.failure().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(read)
    }

    /// The same; fewer bytes and true mean that more cannot be decoded: then `failure` says why.
    pub(crate) fn read_some(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<(usize, bool)> {
        if self.codec == Codec::Plain {
            return Ok((read_at(&self.file, buffer, offset)?, false));
        }
        if self.stream.as_ref().is_none_or(|stream| stream.at > offset) {
            let file = self.file.try_clone()?;
            io::Seek::seek(&mut &file, io::SeekFrom::Start(0))?;
            self.stream = Some(Stream { decoder: self.codec.decoder(file)?, at: 0, window: Vec::new(), failed: None });
        }
        let Some(stream) = &mut self.stream else { return Ok((0, false)) };
        let read = stream.read(buffer, offset);
        Ok((read, read < buffer.len() && stream.failed.is_some()))
    }

    /// Why the decoder stopped; the next read starts anew.
    pub(crate) fn failure(&mut self) -> Option<io::Error> {
        self.stream.take().and_then(|stream| stream.failed)
    }
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> usize {
        let mut scratch = vec![0; 64 << 10];
        loop {
            let have = self.at + self.window.len() as u64;
            if have <= offset {
                self.window.clear();
                self.at = have;
            } else if self.at < offset {
                self.window.drain(..(offset - self.at) as usize);
                self.at = offset;
            }
            if self.failed.is_some() || (self.at == offset && self.window.len() >= buffer.len()) {
                break;
            }
            match self.decoder.read(&mut scratch) {
                Ok(0) => break,
                Ok(read) => self.window.extend_from_slice(&scratch[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before the damage can still be used.
                Err(error) => self.failed = Some(error),
            }
        }
        let len = if self.at == offset { buffer.len().min(self.window.len()) } else { 0 };
        buffer[..len].copy_from_slice(&self.window[..len]);
        len
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Large blocks come from a pool: fresh pages cost as much as the read. 8 × 1 MiB is what one busy source has in flight.
static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
const POOL_BUFFERS: usize = 8;
pub(crate) const POOL_BYTES: usize = (1 << 20) + 4096;
/// Smaller blocks have a buffer of their own size: a line must not hold 1 MiB while it waits for its commit.
const SMALL_BYTES: usize = 128 << 10;

/// A block's memory; goes back to the pool when the last slice of it is gone.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = match len {
            SMALL_BYTES..=POOL_BYTES => POOL.lock().pop().unwrap_or_else(|| vec![0; POOL_BYTES]),
            len => vec![0; len],
        };
        Self { bytes, len }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == POOL_BYTES {
            let mut pool = POOL.lock();
            if pool.len() < POOL_BUFFERS {
                pool.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}
