//! A table as the database describes it, and a row of it as it comes over the wire: what the stream, the snapshot and the model of changes share.

use std::sync::Arc;

/// One version of a table. A change of its columns makes a new value.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// `pg_class.oid`; of the root where `publish_via_partition_root` is set.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// In the order of `attnum`, dropped ones left out.
    pub columns: Vec<Column>,
    /// Indexes into `columns`, in the order of the primary key (or of the replica identity's index where there is no primary key).
    pub key: Vec<usize>,
    pub identity: ReplicaIdentity,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: Arc<str>,
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub modifier: i32,
    pub not_null: bool,
    /// The default's expression as `pg_get_expr` prints it.
    pub default: Option<String>,
}

/// `pg_class.relreplident`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index,
}

/// `pg_type`, as far as a value's shape depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    pub oid: u32,
    pub name: String,
    /// The schema it is in; `pg_catalog` for built-in ones.
    pub schema: String,
    pub kind: TypeKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TypeKind {
    Base,
    /// The labels, in order.
    Enum(Vec<String>),
    /// Of this type, with this modifier.
    Domain(u32, i32),
    /// Of this element type.
    Array(u32),
    Composite,
    Range,
}

/// One value of a row in Postgres' text form: pgoutput's tuples and `COPY … TO STDOUT` (unescaped) speak the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    Null,
    /// A large value that did not change: pgoutput does not send it.
    Unchanged,
    Text(&'a [u8]),
}
