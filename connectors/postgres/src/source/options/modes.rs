//! The options that are one of a few words, by Debezium's words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! modes {
    ($($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident),* $(,)? })*) => {$(
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum $name { $($(#[$inner])* $variant),* }
    )*};
}

modes! {
    SslMode {
        Disable,
        /// Plain first, TLS if the server insists.
        Allow,
        /// TLS if the server has it.
        #[default]
        Prefer,
        Require,
        /// TLS, and the certificate is signed by an authority that is trusted.
        #[serde(rename = "verify-ca")]
        VerifyCa,
        /// As `verify-ca`, and it is for this host.
        #[serde(rename = "verify-full")]
        VerifyFull,
    }
    SnapshotMode {
        /// A snapshot at the first start, then the stream.
        #[default]
        Initial,
        /// A snapshot at every start, then the stream.
        Always,
        /// No snapshot: the stream from now on. `never` and `schema_only` mean the same.
        #[serde(alias = "never", alias = "schema_only")]
        NoData,
        /// A snapshot, and no stream.
        InitialOnly,
        /// As `initial`, and again when the stored offset is no longer in the server's WAL.
        WhenNeeded,
    }
    SnapshotIsolation { #[default] Serializable, RepeatableRead, ReadCommitted, ReadUncommitted }
    SnapshotLocking {
        #[default]
        None,
        /// `ACCESS SHARE` on each table: no DDL meanwhile.
        Shared,
    }
    TableOrder { #[default] Disabled, Ascending, Descending }
    PublicationMode {
        /// The publication must exist.
        Disabled,
        /// Made `FOR ALL TABLES` if it does not exist; needs a superuser.
        AllTables,
        /// Made for the captured tables, and kept to them.
        #[default]
        Filtered,
        /// Made without tables: add them by SQL.
        NoTables,
    }
    MismatchStrategy {
        /// The stored offset counts; an error if the slot cannot give what follows it.
        #[default]
        NoValidation,
        /// The same, and the slot is moved up to the offset.
        TrustOffset,
        /// The slot counts, also where changes were skipped between the offset and it.
        TrustSlot,
        /// Whichever is further.
        TrustGreaterLsn,
    }
    FlushMode {
        /// The LSN is confirmed once the records are durable in the log.
        #[default]
        Connector,
        /// Never confirmed by Aqueduct: something else advances the slot.
        Manual,
        /// As `connector`, and with keep-alives also while nothing is captured. Here `connector` does that too.
        ConnectorAndDriver,
    }
    TimeoutAction { #[default] Fail, Warn, Ignore }
    WalPolicy {
        /// A warning in the log and in the status.
        #[default]
        Warn,
        /// The task fails; the slot stays.
        Fail,
        /// The slot is dropped, so that the database's disk does not fill. What was not captured is lost to the stream: a new snapshot is needed.
        Drop,
    }
    DecimalMode { #[default] Precise, String, Double }
    TimeMode {
        /// As exact as the column is: milliseconds, microseconds.
        #[default]
        Adaptive,
        AdaptiveTimeMicroseconds,
        /// Kafka Connect's own types: milliseconds, what is finer is cut.
        Connect,
        Isostring,
        Microseconds,
        Nanoseconds,
    }
    BinaryMode {
        #[default]
        Bytes,
        Base64,
        #[serde(rename = "base64-url-safe")]
        Base64UrlSafe,
        Hex,
    }
    HstoreMode { #[default] Json, Map }
    IntervalMode {
        /// Microseconds, with months of 30.4375 days.
        #[default]
        Numeric,
        /// ISO 8601: `P1Y2M3DT4H5M6.78S`.
        String,
    }
    NameAdjustment {
        #[default]
        None,
        /// What Avro does not allow becomes `_`.
        Avro,
        /// What Avro does not allow becomes `_uxxxx`; `_` becomes `__`.
        AvroUnicode,
    }
    RefreshMode { #[default] ColumnsDiff, ColumnsDiffExcludeUnchangedToast }
    FailureMode {
        #[default]
        Fail,
        Warn,
        #[serde(alias = "ignore")]
        Skip,
    }
    ConvertFailureMode {
        Fail,
        /// The value becomes null, with a warning.
        #[default]
        Warn,
        /// The value becomes null.
        Skip,
    }
    Watermark { #[default] InsertInsert, InsertDelete }
    Operation {
        /// Inserts.
        C,
        U,
        D,
        /// Truncates.
        #[default]
        T,
        None,
    }
    LimitAction { #[default] Warn, Fail }
}
