//! W3C Trace Context: two headers that travel with a record from who sent it to who is sent it.

/// Which trace, and which span of it, a message comes from.
pub const TRACEPARENT: &str = "traceparent";
/// What vendors add to that.
pub const TRACESTATE: &str = "tracestate";

/// Whether it is a `traceparent` of version 00 (`00-` trace id `-` span id `-` flags, in lower-case hex), or of a later one that begins so. Ids of
/// zeros name nothing.
pub fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let named = |part: &[u8]| hex(part) && part.iter().any(|byte| *byte != b'0');
    let Some((front, rest)) = value.split_at_checked(55) else { return false };
    let parts: Vec<&[u8]> = front.split(|byte| *byte == b'-').collect();
    match parts.as_slice() {
        [version, trace, span, flags] => {
            (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2)
                && hex(version)
                && *version != b"ff"
                && named(trace)
                && named(span)
                && hex(flags)
                && (rest.is_empty() || *version != b"00" && rest[0] == b'-')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_a_span_passes() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(good.as_bytes()));
        assert!(is_traceparent(format!("01{}-more", &good[2..]).as_bytes()));
        for bad in [
            "",
            "00",
            &good[1..],
            &format!("{good}-more"),
            &good.to_uppercase(),
            &good.replace('b', "g"),
            &format!("ff{}", &good[2..]),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319cb-7ad6b7169203331-01",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }
}
