//! What was computed of a schema, by the identity of its `Arc`.

use aqueduct_core::Schema;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The entry keeps its schema alive, so an address never comes to mean another schema.
#[derive(Debug)]
pub(crate) struct SchemaCache<T> {
    entries: FxHashMap<usize, (Arc<Schema>, T)>,
    capacity: usize,
}

impl<T> SchemaCache<T> {
    /// Forgets everything when `capacity` is reached (invariant 6): a source has few schemas; one that makes a new one for each record
    /// gains nothing from a cleverer rule.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: FxHashMap::default(), capacity }
    }

    pub(crate) fn get<E>(&mut self, schema: &Arc<Schema>, make: impl FnOnce(&Schema) -> Result<T, E>) -> Result<&T, E> {
        let address = Arc::as_ptr(schema) as usize;
        if !self.entries.contains_key(&address) {
            let made = make(schema)?;
            if self.entries.len() >= self.capacity {
                self.entries.clear();
            }
            self.entries.insert(address, (schema.clone(), made));
        }
        Ok(&self.entries.get(&address).expect("it was there or was just inserted").1)
    }
}
