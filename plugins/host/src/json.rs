//! Structured values cross as JSON without a schema (`plugins/wit/FRAME.md`).

use aqueduct_core::schema::Field;
use aqueduct_core::{Data, Payload, Schema, Structured};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

/// Of what a schema or a guest nests; serde_json's own bound for what it reads is 128.
const DEPTH_MAX: usize = 128;

pub(crate) fn to_json(structured: &Structured) -> Value {
    value(&structured.data, structured.schema.as_deref(), 0)
}

fn value(data: &Data, schema: Option<&Schema>, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    let inner = |data: &Data, schema: Option<&Schema>| value(data, schema, depth + 1);
    match data {
        Data::Null | Data::Unavailable => Value::Null,
        Data::Boolean(flag) => Value::Bool(*flag),
        Data::Int8(number) => (*number).into(),
        Data::Int16(number) => (*number).into(),
        Data::Int32(number) => (*number).into(),
        Data::Int64(number) => (*number).into(),
        Data::Float32(number) => float(f64::from(*number)),
        Data::Float64(number) => float(*number),
        Data::String(text) => Value::String(text.clone()),
        Data::Bytes(bytes) => Value::String(STANDARD.encode(bytes)),
        Data::Array(items) => {
            let of = schema.and_then(|schema| schema.values.as_deref());
            Value::Array(items.iter().map(|item| inner(item, of)).collect())
        }
        Data::Map(entries) => {
            let of = schema.and_then(|schema| schema.values.as_deref());
            let name = |key: &Data| match key {
                Data::String(text) => text.clone(),
                other => inner(other, None).to_string(),
            };
            Value::Object(entries.iter().map(|(key, data)| (name(key), inner(data, of))).collect())
        }
        Data::Struct(values) => {
            let fields: &[Field] = schema.map(|schema| schema.fields.as_slice()).unwrap_or_default();
            // A value that the source did not send is absent, not null.
            let members = fields.iter().zip(values).filter(|(_, data)| !matches!(data, Data::Unavailable));
            let members: Map<String, Value> =
                members.map(|(field, data)| (field.name.to_string(), inner(data, Some(&field.schema)))).collect();
            Value::Object(members)
        }
    }
}

/// What came back for a structured value.
pub(crate) fn from_json(text: &[u8]) -> Result<Payload, serde_json::Error> {
    Ok(Payload::data(None, data(serde_json::from_slice(text)?)))
}

fn data(value: Value) -> Data {
    match value {
        Value::Null => Data::Null,
        Value::Bool(flag) => Data::Boolean(flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Data::Int64(whole),
            None => Data::Float64(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Data::String(text),
        Value::Array(items) => Data::Array(items.into_iter().map(data).collect()),
        Value::Object(members) => Data::object(members.into_iter().map(|(name, value)| (name, data(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::schema::Kind;

    #[test]
    fn structs_maps_and_numbers() {
        let int = || Schema::new(Kind::Int64);
        let schema = Schema::new(Kind::Struct).field("id", int()).field("gone", int()).field("tags", Schema::new(Kind::Array));
        let data = Data::Struct(vec![7i64.into(), Data::Unavailable, Data::Array(vec!["a".into(), Data::Null])]);
        let json = to_json(&Structured { schema: Some(schema.into()), data });
        assert_eq!(json.to_string(), r#"{"id":7,"tags":["a",null]}"#);
        let text = r#"{"a":[1,2.5,null,true,"x"],"b":{"c":-9223372036854775808}}"#;
        let Payload::Data(back) = from_json(text.as_bytes()).unwrap() else { panic!("structured") };
        assert_eq!(to_json(&back).to_string(), text);
        assert!(from_json(b"{").is_err());
    }
}
