use super::{Compression, Damage, MAX_BATCH_BYTES};
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::io::{Read, Write};

/// Kafka's default.
const ZSTD_LEVEL: i32 = 3;
/// 64 MiB: no window needs to be larger than the largest batch; a frame that claims more is not given the memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;
/// More than this is taken for a bomb above [`RATIO_FREE_BYTES`]. LZ4 reaches 255 at most; text reaches 20.
const RATIO_MAX: usize = 1000;
const RATIO_FREE_BYTES: usize = 1 << 20;

/// How snappy-java, and so Kafka's Java clients, begin: the magic, a version and the oldest version that can read it.
const XERIAL: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Of plain bytes; snappy-java's.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// Compresses what follows `from`, where that makes it smaller and a reader will believe it. Returns the batch's attributes.
pub(super) fn in_place(compression: Compression, out: &mut Vec<u8>, from: usize) -> i16 {
    let plain = &out[from..];
    let (attributes, packed) = match compression {
        Compression::None => return 0,
        Compression::Gzip => (1, gzip(plain)),
        Compression::Snappy => (2, xerial(plain)),
        Compression::Lz4 => (3, lz4(plain)),
        Compression::Zstd => (4, zstd::bulk::compress(plain, ZSTD_LEVEL)),
    };
    match packed {
        Ok(packed) if packed.len() < plain.len() && plain.len() <= expanded_max(packed.len()) => {
            out.truncate(from);
            out.extend_from_slice(&packed);
            attributes
        }
        // An error here is of memory at most; uncompressed is always right.
        _ => 0,
    }
}

/// # Errors
/// [`Damage::Bomb`] before more than the limit is held; [`Damage::Decompress`].
pub(super) fn expand(compression: Compression, packed: &[u8]) -> Result<Vec<u8>, Damage> {
    let limit = expanded_max(packed.len());
    let mut out = Vec::with_capacity((packed.len() * 4).min(limit));
    let read = match compression {
        Compression::None => return Ok(packed.to_vec()),
        Compression::Gzip => MultiGzDecoder::new(packed).take(limit as u64 + 1).read_to_end(&mut out),
        Compression::Snappy => return unsnap(packed, limit),
        Compression::Lz4 => FrameDecoder::new(packed).take(limit as u64 + 1).read_to_end(&mut out),
        Compression::Zstd => zstd::stream::read::Decoder::with_buffer(packed).and_then(|mut decoder| {
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            decoder.take(limit as u64 + 1).read_to_end(&mut out)
        }),
    };
    read.map_err(|error| Damage::Decompress(error.to_string()))?;
    if out.len() > limit {
        return Err(Damage::Bomb { limit });
    }
    Ok(out)
}

fn expanded_max(packed: usize) -> usize {
    packed.saturating_mul(RATIO_MAX).clamp(RATIO_FREE_BYTES, MAX_BATCH_BYTES)
}

/// As Kafka's clients write it: independent blocks of 64 KiB without checksums (the batch has one).
fn lz4(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::with_capacity(plain.len() / 2));
    encoder.write_all(plain)?;
    encoder.finish().map_err(Into::into)
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 2), flate2::Compression::default());
    encoder.write_all(plain)?;
    encoder.finish()
}

fn xerial(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut out, mut encoder) = (XERIAL.to_vec(), snap::raw::Encoder::new());
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block)?;
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

/// In snappy-java's frame, or bare as librdkafka writes it.
fn unsnap(packed: &[u8], limit: usize) -> Result<Vec<u8>, Damage> {
    let mut out = Vec::new();
    let Some(mut rest) = packed.strip_prefix(&XERIAL[..8]).and_then(|rest| rest.get(8..)) else {
        unsnap_block(packed, limit, &mut out)?;
        return Ok(out);
    };
    while let Some((length, blocks)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) = blocks.split_at_checked(length).ok_or_else(|| Damage::Decompress("a block ends early".into()))?;
        unsnap_block(block, limit, &mut out)?;
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(Damage::Decompress("bytes after the last block".into())) }
}

fn unsnap_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Damage> {
    let broken = |error: snap::Error| Damage::Decompress(error.to_string());
    let (at, length) = (out.len(), snap::raw::decompress_len(block).map_err(broken)?);
    if at + length > limit {
        return Err(Damage::Bomb { limit });
    }
    out.resize(at + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[at..]).map_err(broken).map(drop)
}
