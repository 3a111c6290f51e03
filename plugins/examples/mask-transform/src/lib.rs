//! Masks fields of JSON objects. Values stay as they were written but for the masked fields.

use aqueduct_sdk::{Applied, Frame, Result, Transform, export_plugin, metrics};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeSet;

#[derive(Deserialize)]
pub struct Config {
    fields: BTreeSet<String>,
    mask: String,
}

pub struct Mask {
    fields: BTreeSet<String>,
    mask: String,
}

impl Transform for Mask {
    type Config = Config;

    fn open(config: Config) -> Result<Self> {
        Ok(Self { fields: config.fields, mask: serde_json::to_string(&config.mask)? })
    }

    fn apply(&mut self, batch: Frame<'_>, out: &mut Applied) -> Result<()> {
        let (mut masked, mut changed) = (Vec::new(), 0.0);
        for (index, record) in batch.records().enumerate() {
            let record = record?;
            let Some(value) = record.value.bytes() else {
                out.keep(index, &record);
                continue;
            };
            match self.mask(value, &mut masked) {
                Ok(true) => {
                    changed += 1.0;
                    out.value(index, &record, Some(&masked));
                }
                Ok(false) => out.keep(index, &record),
                Err(error) => out.reject(index, format!("the value is no JSON object: {error}")),
            }
        }
        metrics::add("records_masked", &[], changed);
        Ok(())
    }
}

impl Mask {
    /// False: it has none of the fields.
    fn mask(&self, value: &[u8], out: &mut Vec<u8>) -> serde_json::Result<bool> {
        let Members(members) = serde_json::from_slice(value)?;
        out.clear();
        let mut found = false;
        for (index, (name, raw)) in members.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            serde_json::to_writer(&mut *out, name)?;
            out.push(b':');
            let masked = self.fields.contains(&**name);
            found |= masked;
            out.extend_from_slice(if masked { self.mask.as_bytes() } else { raw.get().as_bytes() });
        }
        out.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
        Ok(found)
    }
}

/// In their order, as they were written.
struct Members<'a>(Vec<(std::borrow::Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

export_plugin!(metadata: "../plugin.json", transform: Mask);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_fields_change() {
        let mask = Mask::open(Config { fields: ["email".to_owned()].into(), mask: "x".into() }).unwrap();
        let mut out = Vec::new();
        assert!(mask.mask(br#"{"id": 1.50,"email":"a@b","x":{"email":2}}"#, &mut out).unwrap());
        assert_eq!(out, br#"{"id":1.50,"email":"x","x":{"email":2}}"#);
        assert!(!mask.mask(b"{}", &mut out).unwrap());
        assert!(mask.mask(b"[1]", &mut out).is_err());
    }
}
