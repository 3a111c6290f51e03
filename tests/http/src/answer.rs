//! Answers, and what can be wrong with them.

use std::io::Write;
use std::time::Duration;

/// What is sent for a request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Besides the length and what the body needs.
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// Ends the connection with a reset behind what was sent.
    pub reset: bool,
}

#[derive(Clone, Debug)]
pub enum Body {
    Whole(Vec<u8>),
    /// In chunks of this many bytes.
    Chunked(Vec<u8>, usize),
    /// So many bytes are announced, these are sent, and then the connection ends.
    Short(Vec<u8>, usize),
    /// One byte at a time, each after this long.
    Slow(Vec<u8>, Duration),
    /// So many zeros, in chunks.
    Endless(u64),
    /// Only the head, in pieces; then nothing until the server stops.
    HeadForever,
    /// Nothing at all until the server stops.
    Silence,
}

impl Answer {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: Body::Whole(body.into()), reset: false }
    }

    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "application/json", body)
    }

    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()), reset: false }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn redirect(status: u16, location: impl Into<String>) -> Self {
        Self::status(status).header("location", location)
    }

    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        match &self.body {
            Body::Whole(bytes) | Body::Chunked(bytes, _) | Body::Short(bytes, _) | Body::Slow(bytes, _) => bytes.clone(),
            Body::Endless(_) | Body::HeadForever | Body::Silence => Vec::new(),
        }
    }

    /// Whether another request may follow. `wait` is false when the server stops.
    pub(crate) fn write(&self, out: &mut impl Write, wait: &dyn Fn(Duration) -> bool) -> bool {
        self.try_write(out, wait).unwrap_or(false)
    }

    fn try_write(&self, out: &mut impl Write, wait: &dyn Fn(Duration) -> bool) -> std::io::Result<bool> {
        const FOREVER: Duration = Duration::from_secs(3600);
        let mut head = format!("HTTP/1.1 {} x\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        // These two have no body, whatever their length says.
        let bodiless = matches!(self.status, 204 | 304);
        match &self.body {
            Body::Whole(bytes) => {
                let mut whole = if bodiless { head } else { format!("{head}content-length: {}\r\n", bytes.len()) }.into_bytes();
                whole.extend_from_slice(b"\r\n");
                if !bodiless {
                    whole.extend_from_slice(bytes);
                }
                out.write_all(&whole)?;
                out.flush()?;
                Ok(true)
            }
            Body::Chunked(bytes, size) => {
                out.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes())?;
                for chunk in bytes.chunks((*size).max(1)) {
                    out.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())?;
                }
                out.write_all(b"0\r\n\r\n")?;
                out.flush()?;
                Ok(true)
            }
            Body::Short(bytes, length) => {
                out.write_all(format!("{head}content-length: {length}\r\n\r\n").as_bytes())?;
                out.write_all(bytes)?;
                out.flush()?;
                Ok(false)
            }
            Body::Slow(bytes, pause) => {
                out.write_all(format!("{head}content-length: {}\r\n\r\n", bytes.len()).as_bytes())?;
                for byte in bytes {
                    out.write_all(&[*byte])?;
                    out.flush()?;
                    if !wait(*pause) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Body::Endless(bytes) => {
                out.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes())?;
                let zeros = [&b"10000\r\n"[..], &vec![b'0'; 0x10000], b"\r\n"].concat();
                for _ in 0..bytes.div_ceil(0x10000) {
                    out.write_all(&zeros)?;
                }
                out.write_all(b"0\r\n\r\n")?;
                out.flush()?;
                Ok(true)
            }
            Body::HeadForever => {
                out.write_all(head.as_bytes())?;
                out.flush()?;
                wait(FOREVER);
                Ok(false)
            }
            Body::Silence => {
                wait(FOREVER);
                Ok(false)
            }
        }
    }
}

/// What happens to an answer that would have been right.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This in its place.
    Instead(Answer),
    /// The head, half of the body, then a reset.
    Reset,
    /// More is announced than comes, then an end.
    TooShort,
    /// A byte each so long.
    Slow(Duration),
    /// Half of the JSON, as if it were all.
    CutJson,
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Fault::Instead(Answer::json(status, format!("{{\"error\":\"{status}\"}}")))
    }

    pub fn retry_after(status: u16, after: &str) -> Self {
        Fault::Instead(Answer::status(status).header("retry-after", after))
    }

    pub(crate) fn spoil(self, mut answer: Answer) -> Answer {
        let bytes = answer.bytes();
        let half = bytes[..bytes.len() / 2].to_vec();
        match self {
            Fault::Instead(other) => return other,
            Fault::Reset => (answer.body, answer.reset) = (Body::Short(half, bytes.len()), true),
            Fault::TooShort => answer.body = Body::Short(half, bytes.len() + 1),
            Fault::Slow(pause) => answer.body = Body::Slow(bytes, pause),
            Fault::CutJson => answer.body = Body::Whole(half),
        }
        answer
    }
}

/// In this content encoding.
///
/// # Panics
/// For one that is not known.
pub fn compressed(coding: &str, bytes: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            out.write_all(bytes).and_then(|()| out.finish()).expect("memory takes everything")
        }
        "deflate" => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            out.write_all(bytes).and_then(|()| out.finish()).expect("memory takes everything")
        }
        "zstd" => zstd::encode_all(bytes, 3).expect("memory takes everything"),
        "br" => brotli_stored(bytes),
        other => panic!("{other} is not known"),
    }
}

/// Brotli in blocks that are not compressed (RFC 7932, 9.2): as good as any for whoever reads it.
fn brotli_stored(bytes: &[u8]) -> Vec<u8> {
    // WBITS 16: one bit 0. Then for each block ISLAST 0, MNIBBLES 4 (00), MLEN - 1 in 16 bits, ISUNCOMPRESSED 1, to the byte's end.
    let (mut out, mut first) = (Vec::new(), true);
    for chunk in bytes.chunks(1 << 16) {
        let length = (chunk.len() - 1) as u32;
        let block = (length << 3) | (1 << 19);
        let bits = if first { block << 1 } else { block };
        out.extend_from_slice(&bits.to_le_bytes()[..3]);
        out.extend_from_slice(chunk);
        first = false;
    }
    // ISLAST 1, ISLASTEMPTY 1; behind the WBITS where there was no block.
    out.push(if first { 0b110 } else { 0b11 });
    out
}

/// A small body of this encoding that becomes `size` zeros.
pub fn bomb(coding: &str, size: usize) -> Vec<u8> {
    compressed(coding, &vec![b'0'; size])
}
