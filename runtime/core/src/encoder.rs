//! Values on their way into the log without an object in between: a source tells them one by one, from where they lie, and they are written as the log
//! will hold them.

use crate::{Data, Result, Schema};
use std::sync::Arc;

/// A struct that tells its values.
pub trait Fields {
    /// Tells the values to `to`, each once, in the order of the schema's fields.
    ///
    /// # Errors
    /// Those of `to`; or a value cannot be made.
    fn tell(&self, to: &mut dyn Values) -> Result<()>;
}

/// Takes the values of a struct, in the order of its schema's fields.
///
/// # Errors
/// All of them: a value that the schema does not allow, one too many.
pub trait Values {
    fn null(&mut self) -> Result<()>;
    fn boolean(&mut self, value: bool) -> Result<()>;
    fn int16(&mut self, value: i16) -> Result<()>;
    fn int32(&mut self, value: i32) -> Result<()>;
    fn int64(&mut self, value: i64) -> Result<()>;
    fn float32(&mut self, value: f32) -> Result<()>;
    fn float64(&mut self, value: f64) -> Result<()>;
    fn string(&mut self, text: &str) -> Result<()>;
    /// A struct within.
    fn fields(&mut self, fields: &dyn Fields) -> Result<()>;
    /// Any other.
    fn data(&mut self, data: &Data) -> Result<()>;
    /// As [`Values::data`], of what was made to be told.
    fn made(&mut self, data: Data) -> Result<()> {
        self.data(&data)
    }
}

/// Writes keys and values as the converters of a connector do. A source has one of its own ([`crate::SourceTask::encode_with`]).
pub trait Encoder: Send + Sync {
    /// Appends the key to `out`.
    ///
    /// # Errors
    /// What the converter or `fields` refused; `out` may have a part of it. Who then hands the record over as [`Data`] leaves it to the connector's
    /// policy.
    fn key(&mut self, schema: &Arc<Schema>, fields: &dyn Fields, out: &mut Vec<u8>) -> Result<()>;

    /// As [`Encoder::key`], of the value.
    ///
    /// # Errors
    /// As [`Encoder::key`].
    fn value(&mut self, schema: &Arc<Schema>, fields: &dyn Fields, out: &mut Vec<u8>) -> Result<()>;
}

/// Makes objects of what is told, and hands them on.
pub struct Objects<F>(pub F);

impl<F: FnMut(Data)> Values for Objects<F> {
    fn null(&mut self) -> Result<()> {
        self.made(Data::Null)
    }

    fn boolean(&mut self, value: bool) -> Result<()> {
        self.made(value.into())
    }

    fn int16(&mut self, value: i16) -> Result<()> {
        self.made(value.into())
    }

    fn int32(&mut self, value: i32) -> Result<()> {
        self.made(value.into())
    }

    fn int64(&mut self, value: i64) -> Result<()> {
        self.made(value.into())
    }

    fn float32(&mut self, value: f32) -> Result<()> {
        self.made(value.into())
    }

    fn float64(&mut self, value: f64) -> Result<()> {
        self.made(value.into())
    }

    fn string(&mut self, text: &str) -> Result<()> {
        self.made(text.into())
    }

    fn fields(&mut self, fields: &dyn Fields) -> Result<()> {
        let made = Data::of(fields)?;
        self.made(made)
    }

    fn data(&mut self, data: &Data) -> Result<()> {
        self.made(data.clone())
    }

    fn made(&mut self, data: Data) -> Result<()> {
        (self.0)(data);
        Ok(())
    }
}

impl Data {
    /// # Errors
    /// Those of `fields`.
    pub fn of(fields: &dyn Fields) -> Result<Self> {
        let mut values = Vec::new();
        fields.tell(&mut Objects(|value| values.push(value)))?;
        Ok(Data::Struct(values))
    }
}

impl Fields for Vec<Data> {
    fn tell(&self, to: &mut dyn Values) -> Result<()> {
        self.iter().try_for_each(|value| to.data(value))
    }
}
