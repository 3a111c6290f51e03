//! YAML and JSON to the flat connector config, typed options, secrets, and every issue with its place.

pub mod connector;
pub mod list;
pub mod nearest;
pub mod options;
pub mod plugin;
pub mod shape;
pub mod types;

pub use connector::{SinkConnector, SourceConnector};
pub use nearest::nearest;
pub use options::{from_options, parse};
pub use shape::specs;
pub use types::{ByteSize, Charset, Family, Glob, GlobList, List, Millis, PathText, Regex, Secret};
