//! A source's own encoder: the connector's converters without a batch of objects before them.

use crate::converters::Converters;
use crate::json::Json;
use aqueduct_core::{Encoder, Fields, Result, Schema};
use std::sync::Arc;

impl Converters {
    /// One that writes what [`Converters::encode`] would, byte for byte; none where the converters are not all of those that this is for: JSON or plain
    /// for keys and values, and for headers one that leaves bytes alone.
    pub fn encoder(&self) -> Option<Box<dyn Encoder>> {
        let (key, value) = self.parts()?;
        Some(Box::new(Direct { key, value }))
    }
}

struct Direct {
    key: Json,
    value: Json,
}

impl Encoder for Direct {
    fn key(&mut self, schema: &Arc<Schema>, fields: &dyn Fields, out: &mut Vec<u8>) -> Result<()> {
        self.key.encode_fields(schema, fields, out)
    }

    fn value(&mut self, schema: &Arc<Schema>, fields: &dyn Fields, out: &mut Vec<u8>) -> Result<()> {
        self.value.encode_fields(schema, fields, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::schema::Kind;
    use aqueduct_core::{BatchBuilder, Data, Error, Options, Payload, Record, Rejects, Span};

    fn converters(options: &[(&str, &str)]) -> Converters {
        let options: Options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Converters::new(&options, &Options::new()).unwrap()
    }

    fn bytes(payload: aqueduct_core::PayloadRef<'_>) -> Option<String> {
        match payload {
            aqueduct_core::PayloadRef::Null => None,
            aqueduct_core::PayloadRef::Bytes(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_at_once_is_what_the_converters_write_and_passes_them() {
        let inner = Schema::new(Kind::Struct).field("b", Schema::new(Kind::Bytes).optional());
        let schema = Schema::new(Kind::Struct).named("n").field("a", Schema::new(Kind::String)).field("in", inner.optional());
        let schema = Arc::new(schema);
        let values = vec!["é\"".into(), Data::Struct(vec![Data::Bytes(vec![1, 2].into())])];
        let data = Data::Struct(values.clone());
        let json = "org.apache.kafka.connect.json.JsonConverter";
        for options in [
            &[][..],
            &[("key.converter", json), ("value.converter", json)],
            &[("value.converter", json), ("value.converter.schemas.enable", "false")],
        ] {
            let converters = converters(options);
            let payload = || Payload::data(Some(schema.clone()), data.clone());
            let mut builder = BatchBuilder::new();
            builder.push(Record { key: payload(), ..Record::new("t", payload()) });
            let expected = converters.encode(builder.finish(), &mut Rejects::default());

            let (mut encoder, mut builder) = (converters.encoder().unwrap(), BatchBuilder::new());
            let mut write = |out: &mut Vec<u8>, fails: bool| {
                encoder.key(&schema, &values, out)?;
                let key = Span { start: 0, len: out.len() as u32 };
                encoder.value(&schema, &values, out)?;
                let value = Span { start: key.len, len: out.len() as u32 - key.len };
                if fails { Err(Error::fatal("test", "no")) } else { Ok([Some(key), Some(value)]) }
            };
            builder.push_encoded(&"t".into(), &[], |out| write(out, true)).unwrap_err();
            assert!(builder.is_empty());
            builder.push_encoded(&"t".into(), &[], |out| write(out, false)).unwrap();
            let batch = builder.finish();
            assert!(!converters.encodes(&batch) && batch.chunks()[0].is_encoded());
            let (written, expected) = (batch.iter().next().unwrap(), expected.iter().next().unwrap());
            assert_eq!((bytes(written.key()), bytes(written.value())), (bytes(expected.key()), bytes(expected.value())));
        }
    }

    #[test]
    fn other_converters_have_none() {
        for options in [
            [("value.converter", "org.apache.kafka.connect.storage.StringConverter")],
            [("key.converter", "long")],
            [("header.converter", "org.apache.kafka.connect.json.JsonConverter")],
        ] {
            assert!(converters(&options).encoder().is_none(), "{options:?}");
        }
    }
}
