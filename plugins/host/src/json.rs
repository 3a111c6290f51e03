//! Structured values cross as JSON without a schema (`plugins/wit/FRAME.md`).

use aqueduct_core::schema::Field;
use aqueduct_core::{Data, Payload, Schema, Structured};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

/// Of what a schema or a guest nests; serde_json's own bound for what it reads is 128.
const DEPTH_MAX: usize = 128;
/// Of what a guest returns for one record: `[0,0,…` takes 30 times its bytes once it is read.
const VALUES_MAX: usize = 1 << 20;

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
        Data::Shared(shared) => value(shared, schema, depth),
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
                other => match inner(other, None) {
                    Value::String(text) => text,
                    other => other.to_string(),
                },
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
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn from_json(text: &[u8]) -> Result<Payload, String> {
    if separators(text) > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    serde_json::from_slice(text).map(|value| Payload::data(None, data(value))).map_err(|error| error.to_string())
}

/// Outside of strings: each value but the first comes after one of them.
fn separators(text: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if std::mem::take(&mut escaped) => {}
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' | b':' if !quoted => count += 1,
            _ => {}
        }
    }
    count
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
        let tags = Data::Shared(Data::Array(vec!["a".into(), Data::Null]).into());
        let data = Data::Struct(vec![7i64.into(), Data::Unavailable, tags]);
        let json = to_json(&Structured { schema: Some(schema.into()), data });
        assert_eq!(json.to_string(), r#"{"id":7,"tags":["a",null]}"#);
        let text = r#"{"a":[1,2.5,null,true,"x"],"b":{"c":-9223372036854775808}}"#;
        let Payload::Data(back) = from_json(text.as_bytes()).unwrap() else { panic!("structured") };
        assert_eq!(to_json(&back).to_string(), text);
        assert!(from_json(b"{").is_err());
        let bomb = format!("[{}0]", "0,".repeat(VALUES_MAX));
        assert!(from_json(bomb.as_bytes()).unwrap_err().contains("values"));
        assert_eq!(separators(br#"{"a,[":[1,"\",\\"],"b":2}"#), 6);
    }
}
