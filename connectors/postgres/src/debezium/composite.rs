//! Values that are made of others: arrays, hstore, points, vectors.

use std::borrow::Cow;

/// The elements of an array in row-major order, whatever its dimensions: the schema that Debezium gives an array has one.
/// `None` for what is no array.
pub(crate) fn array(text: &[u8], delimiter: u8) -> Option<Vec<Option<Cow<'_, [u8]>>>> {
    // Bounds that are not 1: `[0:2]={…}`.
    let open = memchr::memchr(b'{', text)?;
    if open > 0 && !(text[0] == b'[' && text[..open].ends_with(b"]=")) {
        return None;
    }
    let (mut items, mut depth, mut at, mut wants_item) = (Vec::new(), 0usize, open, true);
    while at < text.len() {
        match text[at] {
            b'{' if wants_item => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                wants_item = false;
                if depth == 0 {
                    return (at + 1 == text.len()).then_some(items);
                }
            }
            byte if byte == delimiter => {
                if wants_item {
                    return None;
                }
                wants_item = true;
            }
            b'"' if wants_item => {
                let (item, next) = quoted(text, at)?;
                items.push(Some(item));
                wants_item = false;
                at = next;
                continue;
            }
            _ if wants_item => {
                let len = text[at..].iter().position(|byte| *byte == delimiter || matches!(byte, b'{' | b'}' | b'"'))?;
                let item = &text[at..at + len];
                items.push((!item.eq_ignore_ascii_case(b"NULL")).then(|| unescape(item)));
                wants_item = false;
                at += len;
                continue;
            }
            _ => return None,
        }
        at += 1;
    }
    None
}

/// From the quote at `open` on: what it quotes, and where what follows begins.
fn quoted(text: &[u8], open: usize) -> Option<(Cow<'_, [u8]>, usize)> {
    let start = open + 1;
    let mut at = start;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return Some((unescape(&text[start..at]), at + 1)),
            _ => at += 1,
        }
    }
    None
}

fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    Cow::Owned(out)
}

/// `"a"=>"1", "b"=>NULL`, in the order in which Debezium's map gives them out.
pub(crate) fn hstore(text: &[u8]) -> Option<Vec<(String, Option<String>)>> {
    let string = |bytes: Cow<'_, [u8]>| String::from_utf8(bytes.into_owned()).ok();
    let (mut pairs, mut at) = (Vec::new(), 0);
    loop {
        at += text[at..].iter().take_while(|byte| matches!(byte, b' ' | b',')).count();
        if at == text.len() {
            break;
        }
        if text[at] != b'"' {
            return None;
        }
        let (key, next) = quoted(text, at)?;
        at = next;
        if !text[at..].starts_with(b"=>") {
            return None;
        }
        at += 2;
        let value = if text[at..].starts_with(b"\"") {
            let (value, next) = quoted(text, at)?;
            at = next;
            Some(string(value)?)
        } else if text[at..].starts_with(b"NULL") {
            at += 4;
            None
        } else {
            return None;
        };
        pairs.push((string(key)?, value));
    }
    Some(java_order(pairs))
}

/// The order of a `java.util.HashMap`: by the bucket of the key's hash, then by insertion.
pub(crate) fn java_order<V>(mut pairs: Vec<(String, V)>) -> Vec<(String, V)> {
    let mut buckets = 16;
    while pairs.len() > buckets / 4 * 3 {
        buckets *= 2;
    }
    pairs.sort_by_key(|(key, _)| {
        let hash = key.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
        (hash ^ (hash >> 16)) as usize & (buckets - 1)
    });
    pairs
}

/// A JSON object as Jackson writes it.
pub(crate) fn json_object(pairs: &[(String, Option<String>)]) -> String {
    let mut out = String::from("{");
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        json_string(&mut out, key);
        out.push(':');
        match value {
            Some(value) => json_string(&mut out, value),
            None => out.push_str("null"),
        }
    }
    out.push('}');
    out
}

fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `(1.5,-2)`
pub(crate) fn point(text: &[u8]) -> Option<(f64, f64)> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let (x, y) = inner.split_once(',')?;
    Some((x.trim().parse().ok()?, y.trim().parse().ok()?))
}

/// A point as little-endian WKB.
pub(crate) fn wkb_point(x: f64, y: f64) -> Vec<u8> {
    let mut wkb = Vec::with_capacity(21);
    wkb.push(1);
    wkb.extend(1u32.to_le_bytes());
    wkb.extend(x.to_le_bytes());
    wkb.extend(y.to_le_bytes());
    wkb
}

/// All numbers of `(1,1),(0,0)`, `[(0,0),(1,1)]`, `<(0,0),1>`, `{1,2,3}`.
pub(crate) fn coordinates(text: &[u8]) -> Option<Vec<f64>> {
    let parts = std::str::from_utf8(text).ok()?.split(|c: char| "()[]{}<>, ".contains(c)).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().ok()).collect()
}

fn wkb(kind: u32, rings: Option<u32>, points: &[(f64, f64)]) -> Vec<u8> {
    let mut wkb = Vec::with_capacity(13 + 16 * points.len());
    wkb.push(1);
    wkb.extend(kind.to_le_bytes());
    wkb.extend(rings.into_iter().flat_map(u32::to_le_bytes));
    wkb.extend((points.len() as u32).to_le_bytes());
    wkb.extend(points.iter().flat_map(|(x, y)| [x.to_le_bytes(), y.to_le_bytes()]).flatten());
    wkb
}

/// A line string as little-endian WKB.
pub(crate) fn wkb_line(points: &[(f64, f64)]) -> Vec<u8> {
    wkb(2, None, points)
}

/// A polygon of one ring, which is closed.
pub(crate) fn wkb_polygon(ring: &[(f64, f64)]) -> Vec<u8> {
    wkb(3, Some(1), ring)
}

/// PostGIS' hexadecimal EWKB, and its SRID where it has one.
pub(crate) fn geometry(text: &[u8]) -> Option<(Vec<u8>, Option<i32>)> {
    const SRID: u32 = 0x2000_0000;
    let ewkb = super::text::hex(text)?;
    let word = |at: usize| -> Option<u32> {
        let bytes: [u8; 4] = ewkb.get(at..at + 4)?.try_into().ok()?;
        Some(if ewkb[0] == 0 { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    if ewkb.len() < 9 {
        return None;
    }
    let srid = if word(1)? & SRID != 0 { Some(word(5)? as i32) } else { None };
    Some((ewkb, srid))
}

/// `[1,2.5,3]`
pub(crate) fn vector(text: &[u8]) -> Option<Vec<&str>> {
    let inner = std::str::from_utf8(text).ok()?.trim().strip_prefix('[')?.strip_suffix(']')?;
    Some(inner.split(',').map(str::trim).collect())
}

/// `{1:0.5,3:2}/4`
pub(crate) fn sparse_vector(text: &[u8]) -> Option<(i16, Vec<(i16, f64)>)> {
    let (inner, dimensions) = std::str::from_utf8(text).ok()?.trim().split_once('/')?;
    let inner = inner.trim().strip_prefix('{')?.strip_suffix('}')?;
    let pairs = inner.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (index, value) = pair.split_once(':')?;
        Some((index.trim().parse().ok()?, value.trim().parse().ok()?))
    });
    Some((dimensions.trim().parse().ok()?, pairs.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn items(text: &str) -> Option<Vec<Option<String>>> {
        let items = array(text.as_bytes(), b',')?;
        Some(items.into_iter().map(|item| item.map(|item| String::from_utf8(item.into_owned()).unwrap())).collect())
    }

    #[test]
    fn arrays() {
        let some = |items: &[&str]| Some(items.iter().map(|item| Some((*item).to_owned())).collect::<Vec<_>>());
        assert_eq!(items("{}"), Some(vec![]));
        assert_eq!(items("{1,2}"), some(&["1", "2"]));
        assert_eq!(items("{NULL,\"NULL\",\"\"}"), Some(vec![None, Some("NULL".into()), Some(String::new())]));
        assert_eq!(items(r#"{"a\"b","c\\d","e,{f}"}"#), some(&["a\"b", "c\\d", "e,{f}"]));
        assert_eq!(items("{{1,2},{3,4}}"), some(&["1", "2", "3", "4"]));
        assert_eq!(items("[0:1]={7,8}"), some(&["7", "8"]));
        for wrong in ["", "{", "}", "{1", "{1,}", "{,1}", "{1}}", "{\"a}", "x{1}", "{1 {2}}"] {
            let _ = items(wrong);
        }
        for wrong in ["", "{", "}", "{1", "{,1}", "{1}}", "{\"a}", "x{1}"] {
            assert_eq!(items(wrong), None, "{wrong}");
        }
    }

    /// Taken from a real HashMap.
    #[test]
    fn the_order_is_that_of_a_hash_map() {
        let pairs = java_order((0..30).map(|index| (format!("key-{}é", index * 7), ())).collect());
        let order: Vec<&str> = pairs.iter().map(|(key, ())| &key[4..key.len() - 2]).collect();
        assert_eq!(
            order.join(" "),
            "49 77 35 63 21 70 161 175 133 189 7 147 105 119 28 56 14 84 98 42 91 182 140 196 154 0 168 112 126 203"
        );
    }

    #[test]
    fn hstores() {
        let pairs = hstore(br#""a"=>"1", "b"=>NULL, "c d"=>"x\"y\\", "key"=>"value""#).unwrap();
        assert_eq!(json_object(&pairs), r#"{"a":"1","b":null,"c d":"x\"y\\","key":"value"}"#);
        assert_eq!(hstore(b""), Some(vec![]));
        for wrong in ["a", "\"a\"", "\"a\"=>", "\"a\"=>b", "\"a"] {
            assert_eq!(hstore(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn points_and_vectors() {
        assert_eq!(point(b"(1.5,-2)"), Some((1.5, -2.0)));
        assert_eq!(point(b"1,2"), None);
        assert_eq!(vector(b"[1, 2.5]"), Some(vec!["1", "2.5"]));
        assert_eq!(sparse_vector(b"{1:0.5,3:2}/4"), Some((4, vec![(1, 0.5), (3, 2.0)])));
        let hex = b"0101000020E6100000000000000000F03F0000000000000040";
        assert_eq!(geometry(hex).unwrap().1, Some(4326));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in r#"[-\[\]{}()",\\=>NUL0-9a:./ ]{0,40}"#) {
            for text in [&bytes[..], text.as_bytes()] {
                let _ = (array(text, b','), hstore(text), point(text), coordinates(text), geometry(text), vector(text), sparse_vector(text));
            }
        }

        #[test]
        fn arrays_read_back(texts in proptest::collection::vec(proptest::option::of(".{0,12}"), 0..8)) {
            let quote = |text: &Option<String>| match text {
                Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
                None => "NULL".to_owned(),
            };
            let text = format!("{{{}}}", texts.iter().map(quote).collect::<Vec<_>>().join(","));
            prop_assert_eq!(items(&text), Some(texts));
        }

        #[test]
        fn hstores_read_back(pairs in proptest::collection::btree_map(".{0,8}", proptest::option::of(".{0,8}"), 0..30)) {
            let escape = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let text: Vec<String> = pairs.iter().map(|(key, value)| {
                format!("{}=>{}", escape(key), value.as_deref().map_or("NULL".to_owned(), escape))
            }).collect();
            let back = hstore(text.join(", ").as_bytes()).unwrap();
            prop_assert_eq!(back.into_iter().collect::<std::collections::BTreeMap<_, _>>(), pairs);
        }
    }
}
