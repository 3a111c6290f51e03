//! Bodies that come compressed: one coding, bounded in what becomes of it. Signatures are of the bytes as they were sent.

use crate::answer::Refusal;
use crate::intake::Held;
use brotli_decompressor::DecompressorWriter;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;
use std::io::{self, Write};
use tokio::sync::Semaphore;
use zstd::stream::{raw, zio};

/// What is understood.
pub(crate) const ENCODINGS: &str = "gzip, br, zstd, deflate";
/// Bodies that are decoded at once, in the whole process: a decoder holds a window of up to 16 MiB, which `queue.max.bytes` does not count (invariant 6).
static DECODERS: Semaphore = Semaphore::const_new(8);
/// So much goes in at a time; between two, other requests get the thread, and the bounds are looked at as the bytes come out.
const PIECE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// # Errors
    /// 415 for another coding, and for several.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut found = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let names = value.to_str().map_err(|_| Refusal::encoding())?;
            for name in names.split(',').map(str::trim).filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"))
            {
                let coding = match name.to_ascii_lowercase().as_str() {
                    "gzip" | "x-gzip" => Coding::Gzip,
                    "deflate" => Coding::Deflate,
                    "br" => Coding::Brotli,
                    "zstd" => Coding::Zstd,
                    _ => return Err(Refusal::encoding()),
                };
                if found.replace(coding).is_some() {
                    return Err(Refusal::encoding());
                }
            }
        }
        Ok(found)
    }

    /// The body as it was before; `held` grows with it.
    ///
    /// # Errors
    /// 413 when it has more than `max` bytes, 429 when memory is full, 400 when it is not of this coding or was cut.
    pub(crate) async fn decode(self, sent: &[u8], max: usize, held: &mut Held) -> Result<Bytes, Refusal> {
        if sent.is_empty() {
            return Ok(Bytes::new());
        }
        // Nobody closes the semaphore.
        let _permit = DECODERS.acquire().await.ok();
        let mut decoder = Decoder::new(self, sent, Bounded { bytes: Vec::new(), max, over: false });
        let mut counted = 0;
        for piece in sent.chunks(PIECE) {
            let written = decoder.write_all(piece);
            grow(&mut decoder, held, &mut counted)?;
            written.map_err(|why| decoder.refusal(&why))?;
            if sent.len() > PIECE {
                tokio::task::yield_now().await;
            }
        }
        let ended = decoder.end();
        grow(&mut decoder, held, &mut counted)?;
        ended.map_err(|why| decoder.refusal(&why))?;
        Ok(std::mem::take(&mut decoder.bottom().bytes).into())
    }
}

fn grow(decoder: &mut Decoder, held: &mut Held, counted: &mut usize) -> Result<(), Refusal> {
    let now = decoder.bottom().bytes.capacity();
    let more = now - *counted;
    *counted = now;
    if more == 0 { Ok(()) } else { held.grow(more) }
}

enum Decoder {
    Gzip(Box<MultiGzDecoder<Bounded>>),
    Deflate(Box<Inflate>),
    Brotli(Box<DecompressorWriter<Bounded>>),
    Zstd(Box<zio::Writer<Bounded, raw::Decoder<'static>>>),
}

impl Decoder {
    fn new(coding: Coding, sent: &[u8], bottom: Bounded) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(bottom))),
            // RFC 9110 means zlib's form; some senders leave its frame away.
            Coding::Deflate => {
                Self::Deflate(Box::new(Inflate { state: Decompress::new(is_zlib(sent)), ended: false, out: bottom }))
            }
            Coding::Brotli => Self::Brotli(Box::new(DecompressorWriter::new(bottom, PIECE))),
            Coding::Zstd => {
                let mut decoder = raw::Decoder::new().expect("a decoder without a dictionary can be made");
                // 8 MiB, what RFC 9659 allows on the web: a frame may announce gigabytes.
                decoder.set_parameter(raw::DParameter::WindowLogMax(23)).expect("a window of 8 MiB is allowed");
                Self::Zstd(Box::new(zio::Writer::new(bottom, decoder)))
            }
        }
    }

    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.write_all(piece),
            Self::Deflate(decoder) => decoder.write_all(piece),
            Self::Brotli(decoder) => decoder.write_all(piece),
            Self::Zstd(decoder) => decoder.write_all(piece),
        }
    }

    /// An error where the body ends before its coding does.
    fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Deflate(decoder) if decoder.ended => Ok(()),
            Self::Deflate(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Brotli(decoder) => decoder.close(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }

    fn bottom(&mut self) -> &mut Bounded {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => &mut decoder.out,
            Self::Brotli(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.writer_mut(),
        }
    }

    fn refusal(&mut self, why: &io::Error) -> Refusal {
        let Bounded { max, over, .. } = *self.bottom();
        if over {
            return Refusal::too_large(format!("the body has more than {max} bytes once it is decompressed (body.max.bytes)"));
        }
        Refusal::bad(format!("the body cannot be decompressed: {why}"))
    }
}

/// flate2's own writers do not tell that the end is missing.
struct Inflate {
    state: Decompress,
    ended: bool,
    out: Bounded,
}

impl Inflate {
    fn write_all(&mut self, mut piece: &[u8]) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while !self.ended {
            let (read, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(piece, &mut buffer, FlushDecompress::None).map_err(io::Error::other)?;
            let read = (self.state.total_in() - read) as usize;
            piece = &piece[read..];
            let made = (self.state.total_out() - made) as usize;
            self.out.write_all(&buffer[..made])?;
            self.ended = status == Status::StreamEnd;
            // A full buffer may leave more behind; otherwise it waits for the next piece.
            if (piece.is_empty() && made < buffer.len()) || (read == 0 && made == 0) {
                break;
            }
        }
        Ok(())
    }
}

/// RFC 1950: method 8, and a checksum of the two bytes.
fn is_zlib(sent: &[u8]) -> bool {
    matches!(sent, [first, second, ..] if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

struct Bounded {
    bytes: Vec<u8>,
    max: usize,
    over: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max {
            self.over = true;
            return Err(io::Error::other("a bound is passed"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ids;
    use crate::intake::Intake;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    /// As each coding has it; brotli in a block that is not compressed (RFC 7932, 9.2).
    fn compressed(coding: Coding, raw_deflate: bool, bytes: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut out = GzEncoder::new(Vec::new(), Compression::default());
                out.write_all(bytes).and_then(|()| out.finish()).unwrap()
            }
            Coding::Deflate if raw_deflate => {
                let mut out = DeflateEncoder::new(Vec::new(), Compression::default());
                out.write_all(bytes).and_then(|()| out.finish()).unwrap()
            }
            Coding::Deflate => {
                let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
                out.write_all(bytes).and_then(|()| out.finish()).unwrap()
            }
            Coding::Zstd => zstd::encode_all(bytes, 3).unwrap(),
            Coding::Brotli => {
                let (mut out, mut first) = (Vec::new(), true);
                for chunk in bytes.chunks(1 << 16) {
                    let block = ((chunk.len() - 1) as u32) << 3 | 1 << 19;
                    let bits = if first { block << 1 } else { block };
                    out.extend_from_slice(&bits.to_le_bytes()[..3]);
                    out.extend_from_slice(chunk);
                    first = false;
                }
                out.push(if first { 0b110 } else { 0b11 });
                out
            }
        }
    }

    fn decoded(coding: Coding, sent: &[u8], max: usize, memory: usize) -> Result<Bytes, u16> {
        let intake = Intake::new(memory, Ids::load(&[], 1, 1));
        let mut held = intake.hold().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outcome = runtime.block_on(coding.decode(sent, max, &mut held)).map_err(|refusal| refusal.status.as_u16());
        drop(held);
        assert_eq!(intake.used_bytes(), 0);
        outcome
    }

    const ALL: [(Coding, bool); 5] = [
        (Coding::Gzip, false),
        (Coding::Deflate, false),
        (Coding::Deflate, true),
        (Coding::Brotli, false),
        (Coding::Zstd, false),
    ];

    #[test]
    fn what_is_too_large_or_broken_is_refused() {
        for (coding, raw) in ALL {
            let sent = compressed(coding, raw, &[b'0'; 100_000]);
            let length = |sent: &[u8], max, memory| decoded(coding, sent, max, memory).map(|bytes| bytes.len());
            assert_eq!(length(&sent, 100_000, 1 << 20), Ok(100_000), "{coding:?}");
            assert_eq!(length(&sent, 99_999, 1 << 20), Err(413), "{coding:?}");
            assert_eq!(length(&sent, 100_000, 50_000), Err(429), "{coding:?}");
            assert_eq!(length(&sent[..sent.len() - 1], 100_000, 1 << 20), Err(400), "{coding:?} that is cut");
            assert_eq!(length(b"\xffnot at all", 100_000, 1 << 20), Err(400), "{coding:?}");
            assert_eq!(length(b"", 100_000, 1 << 20), Ok(0), "{coding:?}");
        }
        // 10 MB of zeros in 10 KB: refused long before they are there.
        let bomb = compressed(Coding::Gzip, false, &vec![0; 10_000_000]);
        assert_eq!(decoded(Coding::Gzip, &bomb, 1 << 20, 4 << 20), Err(413));
    }

    #[test]
    fn names_of_codings() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            Coding::of(&headers).map_err(|refusal| refusal.status.as_u16())
        };
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&["identity"], Ok(None)),
            (&["GZIP"], Ok(Some(Coding::Gzip))),
            (&["identity, br"], Ok(Some(Coding::Brotli))),
            (&["deflate"], Ok(Some(Coding::Deflate))),
            (&["zstd"], Ok(Some(Coding::Zstd))),
            (&["gzip, br"], Err(415)),
            (&["gzip", "gzip"], Err(415)),
            (&["compress"], Err(415)),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..70_000)) {
            for (coding, raw) in ALL {
                let back = decoded(coding, &compressed(coding, raw, &bytes), bytes.len(), 1 << 20);
                prop_assert_eq!(back.as_deref(), Ok(&bytes[..]));
            }
        }

        #[test]
        fn nonsense_is_refused_in_order(sent in prop::collection::vec(any::<u8>(), 1..2000)) {
            for (coding, _) in ALL {
                let _ = decoded(coding, &sent, 10_000, 1 << 20);
            }
        }
    }
}
