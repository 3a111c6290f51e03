//! The near limit of a mask: the code of plugins/examples/mask-transform, compiled for this machine, in a loop on one thread.

use anyhow::{Result, ensure};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The field that is masked.
pub(super) const FIELD: &str = "email";

/// What all lines take, over and over in memory.
pub(super) fn native(lines: u64) -> Result<Duration> {
    let some: Vec<Vec<u8>> = (0..1000).map(|n| line(n).into_bytes()).collect();
    let fields = BTreeSet::from([FIELD.to_owned()]);
    let (mut out, mut masked) = (Vec::new(), 0);
    let begin = Instant::now();
    for n in 0..lines {
        masked += u64::from(mask(black_box(&some[n as usize % some.len()]), &fields, &mut out)?);
        black_box(&out);
    }
    let spent = begin.elapsed();
    ensure!(masked == lines, "every line has the field");
    Ok(spent)
}

/// An object of 99 bytes; with its line end 100.
pub(super) fn line(n: u64) -> String {
    format!(r#"{{"id":{n:>12},"email":"{n:012}@example.com","text":"{}"}}"#, "x".repeat(35))
}

/// False: it has none of the fields.
fn mask(value: &[u8], fields: &BTreeSet<String>, out: &mut Vec<u8>) -> Result<bool> {
    let Members(members) = serde_json::from_slice(value)?;
    out.clear();
    let mut found = false;
    for (index, (name, raw)) in members.iter().enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        name.serialize(&mut serde_json::Serializer::new(&mut *out))?;
        out.push(b':');
        let masked = fields.contains(&**name);
        found |= masked;
        out.extend_from_slice(if masked { br#""****""# } else { raw.get().as_bytes() });
    }
    out.push(b'}');
    Ok(found)
}

/// In their order, as they were written.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_99_bytes_and_is_masked() {
        assert_eq!((line(0).len(), line(999_999_999_999).len()), (99, 99));
        let mut out = Vec::new();
        assert!(mask(line(7).as_bytes(), &BTreeSet::from([FIELD.to_owned()]), &mut out).unwrap());
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(r#"{"id":7,"email":"****","text":"xxx"#), "{text}");
        native(10).unwrap();
    }
}
