//! Postgres' text forms of values.

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
