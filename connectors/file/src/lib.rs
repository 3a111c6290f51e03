//! `file-source` tails files into a topic; `file-sink` writes topics to files, exactly once.

pub mod sink;
pub mod source;

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    vec![
        aqueduct_config::plugin::source::<source::FileSource>(),
        aqueduct_config::plugin::sink::<sink::FileSinkConnector>(),
        aqueduct_config::plugin::sink::<sink::FileStreamSinkConnector>(),
    ]
}
