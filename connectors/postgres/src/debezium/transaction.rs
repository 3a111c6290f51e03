//! `provide.transaction.metadata`: which place an event has in its transaction, and the records of its beginning and its end.

use super::Model;
use super::composite::java_order;
use aqueduct_core::{Data, JsonMap, Payload, Record};
use std::sync::Arc;

/// One transaction as it goes by. Holds one number for each table that it touches.
#[derive(Debug)]
pub(crate) struct Transaction {
    id: u32,
    total: i64,
    counts: Vec<(Arc<str>, i64)>,
}

/// An event's place in its transaction.
#[derive(Debug)]
pub(crate) struct Place {
    id: String,
    total: i64,
    order: i64,
}

impl Place {
    pub(super) fn block(self) -> Data {
        Data::Struct(vec![Data::String(self.id), Data::Int64(self.total), Data::Int64(self.order)])
    }
}

impl Transaction {
    pub(crate) fn new(id: u32) -> Self {
        Self { id, total: 0, counts: Vec::new() }
    }

    /// Counts one event of this table (`schema.table`).
    pub(crate) fn place(&mut self, collection: &Arc<str>, lsn: Option<u64>) -> Place {
        self.total += 1;
        let known = self.counts.iter().position(|(name, _)| Arc::ptr_eq(name, collection) || name == collection);
        let at = known.unwrap_or_else(|| {
            self.counts.push((collection.clone(), 0));
            self.counts.len() - 1
        });
        self.counts[at].1 += 1;
        Place { id: self.name(lsn), total: self.total, order: self.counts[at].1 }
    }

    /// As `TransactionContext.store`: Debezium counts on from it.
    pub(crate) fn offset(&self) -> JsonMap {
        let counts =
            self.counts.iter().map(|(name, count)| (format!("transaction_data_collection_order_{name}"), (*count).into()));
        [("transaction_id".to_owned(), self.id.to_string().into())].into_iter().chain(counts).collect()
    }

    /// Debezium's: the transaction's id and the LSN of the event at hand.
    fn name(&self, lsn: Option<u64>) -> String {
        format!("{}:{}", self.id, lsn.unwrap_or_default())
    }
}

impl Model {
    /// Whether `provide.transaction.metadata` is set: without it no [`Transaction`] is needed.
    pub(crate) fn tells_transactions(&self) -> bool {
        self.transactions
    }

    /// `lsn`: of the BEGIN as Debezium has it in its offset; `commit_ms`: when the transaction committed.
    pub(crate) fn begin(&self, transaction: &Transaction, lsn: Option<u64>, commit_ms: i64) -> Record {
        self.boundary(transaction, "BEGIN", lsn, commit_ms, (Data::Null, Data::Null))
    }

    pub(crate) fn end(&self, transaction: &Transaction, lsn: Option<u64>, commit_ms: i64) -> Record {
        let counts = transaction.counts.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        let collections = java_order(counts).into_iter();
        let collections = collections.map(|(name, count)| Data::Struct(vec![Data::String(name), Data::Int64(count)]));
        let counts = (Data::Int64(transaction.total), Data::Array(collections.collect()));
        self.boundary(transaction, "END", lsn, commit_ms, counts)
    }

    fn boundary(
        &self,
        transaction: &Transaction,
        status: &str,
        lsn: Option<u64>,
        commit_ms: i64,
        counts: (Data, Data),
    ) -> Record {
        let id = || Data::String(transaction.name(lsn));
        let value = Data::Struct(vec![Data::String(status.to_owned()), id(), counts.0, counts.1, Data::Int64(commit_ms)]);
        let mut record = Record::new(self.transaction_topic.clone(), Payload::data(Some(self.transaction_value.clone()), value));
        record.key = Payload::data(Some(self.transaction_key.clone()), Data::Struct(vec![id()]));
        record
    }
}
