//! A response's body: read whole, within bounds, and decompressed as it arrives.

use super::failure::Failure;
use super::shown;
use brotli_decompressor::DecompressorWriter;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use reqwest::header::{self, HeaderMap};
use reqwest::{Response, Url};
use std::io::{self, Write};
use zstd::stream::{raw, zio};

/// What is asked for, and understood.
pub(super) const ENCODINGS: &str = "gzip, br, zstd";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Decompressed.
    pub(crate) bytes_max: usize,
    /// Decompressed to sent, beyond the first MiB.
    pub(crate) ratio_max: usize,
}

/// What small bodies shrink to says nothing: a list of equal records is honest.
const RATIO_FROM: usize = 1 << 20;
/// Nobody wraps an answer more often.
const CODINGS_MAX: usize = 3;

/// `headers`: those of the response.
pub(super) async fn read(mut response: Response, headers: &HeaderMap, bounds: Bounds, url: &Url) -> Result<Bytes, Failure> {
    let codings = codings(headers, url)?;
    // What is announced is refused before a byte of it is read.
    if codings.is_empty() && response.content_length().is_some_and(|length| length > bounds.bytes_max as u64) {
        return Err(too_large(url, bounds));
    }
    let mut sink = codings.iter().fold(Coder::Plain(Bounded { bytes: Vec::new(), sent: 0, bounds, over: None }), Coder::around);
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::of_transport(error, url))? {
        sink.bottom().sent += chunk.len();
        // Pieces, so that the ratio is looked at before a bomb went off, and the thread is given back in between.
        for piece in chunk.chunks(16 << 10) {
            sink.write_all(piece).map_err(|error| refused(&mut sink, &error, url, bounds))?;
        }
    }
    // No content has no encoding, whatever the header says.
    if sink.bottom().sent == 0 {
        return Ok(Bytes::new());
    }
    match sink.finish() {
        Ok(bytes) => Ok(Bytes::from(bytes)),
        Err((Some(Over::Bytes), _)) => Err(too_large(url, bounds)),
        Err((Some(Over::Ratio), _)) => Err(bomb(url, bounds)),
        Err((None, error)) => Err(broken(url, &error)),
    }
}

/// Outermost last, as the header has them; so they are undone from the end.
fn codings(headers: &HeaderMap, url: &Url) -> Result<Vec<Coding>, Failure> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let names: Vec<String> = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
    let coding = |name: &String| match name.as_str() {
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        "br" => Ok(Coding::Brotli),
        "zstd" => Ok(Coding::Zstd),
        other => {
            let text = format!("{} answers in the encoding {other:?}", shown(url));
            Err(Failure::fatal(
                "http.encoding",
                text,
                "gzip, br and zstd are understood; ask for one by http.request.header.Accept-Encoding",
            ))
        }
    };
    let found: Vec<Coding> =
        names.iter().filter(|name| !name.is_empty() && *name != "identity").map(coding).collect::<Result<_, _>>()?;
    if found.len() > CODINGS_MAX {
        Err(Failure::fatal("http.encoding", "an answer is wrapped too often", "ask its operator"))
    } else {
        Ok(found)
    }
}

fn too_large(url: &Url, bounds: Bounds) -> Failure {
    let text = format!("the answer of {} is larger than {} bytes", shown(url), bounds.bytes_max);
    Failure::fatal("http.too_large", text, "ask for smaller pages, or raise http.response.max.bytes")
}

fn bomb(url: &Url, bounds: Bounds) -> Failure {
    let text = format!("the answer of {} grows more than {} times when it is decompressed", shown(url), bounds.ratio_max);
    Failure::fatal("http.too_large", text, "if it is honest, raise http.response.max.ratio")
}

fn broken(url: &Url, error: &io::Error) -> Failure {
    Failure::retriable("http.encoding", format!("the answer of {} cannot be decompressed: {error}", shown(url)))
}

fn refused(sink: &mut Coder, error: &io::Error, url: &Url, bounds: Bounds) -> Failure {
    match sink.bottom().over {
        Some(Over::Bytes) => too_large(url, bounds),
        Some(Over::Ratio) => bomb(url, bounds),
        None => broken(url, error),
    }
}

#[derive(Clone, Copy, Debug)]
enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

/// What is written into it comes out decoded at the bottom.
enum Coder {
    Plain(Bounded),
    Gzip(Box<MultiGzDecoder<Coder>>),
    Brotli(Box<DecompressorWriter<Coder>>),
    Zstd(Box<zio::Writer<Coder, raw::Decoder<'static>>>),
}

impl Coder {
    fn around(inner: Coder, coding: &Coding) -> Coder {
        match coding {
            Coding::Gzip => Coder::Gzip(Box::new(MultiGzDecoder::new(inner))),
            Coding::Brotli => Coder::Brotli(Box::new(DecompressorWriter::new(inner, 16 << 10))),
            Coding::Zstd => {
                let mut decoder = raw::Decoder::new().expect("a decoder without a dictionary can be made");
                // 8 MiB, what RFC 9659 allows on the web: a frame may announce gigabytes.
                decoder.set_parameter(raw::DParameter::WindowLogMax(23)).expect("a window of 8 MiB is allowed");
                Coder::Zstd(Box::new(zio::Writer::new(inner, decoder)))
            }
        }
    }

    fn bottom(&mut self) -> &mut Bounded {
        match self {
            Coder::Plain(bounded) => bounded,
            Coder::Gzip(coder) => coder.get_mut().bottom(),
            Coder::Brotli(coder) => coder.get_mut().bottom(),
            Coder::Zstd(coder) => coder.writer_mut().bottom(),
        }
    }

    /// All of it, if it ended as its encoding says.
    fn finish(mut self) -> Result<Vec<u8>, (Option<Over>, io::Error)> {
        match self.end() {
            Ok(()) => Ok(std::mem::take(&mut self.bottom().bytes)),
            Err(error) => Err((self.bottom().over, error)),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Coder::Plain(_) => Ok(()),
            Coder::Gzip(coder) => {
                coder.try_finish()?;
                coder.get_mut().end()
            }
            Coder::Brotli(coder) => {
                coder.close()?;
                coder.get_mut().end()
            }
            Coder::Zstd(coder) => {
                coder.finish()?;
                coder.writer_mut().end()
            }
        }
    }
}

impl Write for Coder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Coder::Plain(bounded) => bounded.write(bytes),
            Coder::Gzip(coder) => coder.write(bytes),
            Coder::Brotli(coder) => coder.write(bytes),
            Coder::Zstd(coder) => coder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bounded {
    bytes: Vec<u8>,
    /// As it came, compressed.
    sent: usize,
    bounds: Bounds,
    over: Option<Over>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Bytes,
    Ratio,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.bytes.len() + bytes.len();
        if len > self.bounds.bytes_max {
            self.over = Some(Over::Bytes);
        } else if len > RATIO_FROM && len / self.sent.max(1) > self.bounds.ratio_max {
            self.over = Some(Over::Ratio);
        }
        if self.over.is_some() {
            return Err(io::Error::other("a bound is passed"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
