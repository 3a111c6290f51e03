//! Writes one field of a JSON object in upper case; what is no JSON object goes to the dead letter queue.

use aqueduct_sdk::{Applied, Frame, Result, Transform, export_plugin};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
pub struct Config {
    field: String,
}

pub struct Upper(Config);

impl Transform for Upper {
    type Config = Config;

    fn open(config: Config) -> Result<Self> {
        Ok(Self(config))
    }

    fn apply(&mut self, batch: Frame<'_>, out: &mut Applied) -> Result<()> {
        for (index, record) in batch.records().enumerate() {
            let record = record?;
            let Some(value) = record.value.bytes() else {
                out.keep(index, &record);
                continue;
            };
            let Ok(mut object) = serde_json::from_slice::<Map<String, Value>>(value) else {
                out.reject(index, "it is no JSON object");
                continue;
            };
            if let Some(Value::String(text)) = object.get_mut(&self.0.field) {
                *text = text.to_uppercase();
                out.value(index, &record, Some(Value::Object(object).to_string().as_bytes()));
            } else {
                out.keep(index, &record);
            }
        }
        Ok(())
    }
}

export_plugin!(metadata: "../plugin.json", transform: Upper);
