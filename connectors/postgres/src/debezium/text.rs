//! Octets as text.

use crate::source::options::modes::BinaryMode;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Two digits for each octet; `None` if it is anything else.
pub(crate) fn hex(text: &[u8]) -> Option<Vec<u8>> {
    const BAD: u8 = 0xff;
    const VALUES: [u8; 256] = {
        let mut values = [BAD; 256];
        let mut digit = 0;
        while digit < 16 {
            values[b"0123456789abcdef"[digit] as usize] = digit as u8;
            values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
            digit += 1;
        }
        values
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = text.chunks_exact(2).map(|pair| {
        let (high, low) = (VALUES[pair[0] as usize], VALUES[pair[1] as usize]);
        (high != BAD && low != BAD).then_some(high << 4 | low)
    });
    pairs.collect()
}

/// `bytea`: `\x…`, or the old escape format.
pub(crate) fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix(b"\\x") {
        return hex(digits);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let octal = |at: usize| text.get(at).filter(|byte| (b'0'..=b'7').contains(byte)).map(|byte| u32::from(byte - b'0'));
        match (text[at], text.get(at + 1)) {
            (b'\\', Some(b'\\')) => {
                out.push(b'\\');
                at += 2;
            }
            (b'\\', _) => {
                let value = octal(at + 1)? * 64 + octal(at + 2)? * 8 + octal(at + 3)?;
                out.push(u8::try_from(value).ok()?);
                at += 4;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Some(out)
}

/// `binary.handling.mode`, where it is one of text.
pub(crate) fn encode_binary(bytes: &[u8], mode: BinaryMode) -> String {
    match mode {
        BinaryMode::Base64 => STANDARD.encode(bytes),
        BinaryMode::Base64UrlSafe => URL_SAFE.encode(bytes),
        BinaryMode::Hex | BinaryMode::Bytes => super::columns::lower_hex(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytea() {
        assert_eq!(unhex(b"\\x00fF"), Some(vec![0, 255]));
        assert_eq!(unhex(b"a\\\\\\000b"), Some(b"a\\\0b".to_vec()));
        for wrong in ["\\x0", "\\xzz", "\\1", "\\999"] {
            assert_eq!(unhex(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(encode_binary(&[0xfb, 0xff], BinaryMode::Base64UrlSafe), "-_8=");
    }

    proptest! {
        #[test]
        fn hex_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(unhex(format!("\\x{}", encode_binary(&bytes, BinaryMode::Hex)).as_bytes()), Some(bytes.clone()));
            let _ = unhex(&bytes);
        }
    }
}
