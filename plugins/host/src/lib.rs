//! Third parties' connectors as WebAssembly components: every `*.wasm` in `plugin.path` becomes the same values that built-ins are.
//!
//! A component runs as one instance for each task, with its own memory, its own time and only what worker.yaml grants it (invariant 8). What it
//! says of itself stands in a custom section (`aqueduct:plugin`), which is read without running or compiling anything; it is compiled when the
//! first connector uses it.

mod component;
mod engine;
mod error;
mod frames;
mod guest;
mod hosts;
mod http;
mod imports;
mod json;
mod kept;
pub mod kit;
mod lines;
mod load;
mod measures;
mod metadata;
mod parts;
mod plugin;
mod sink;
mod sockets;
mod source;
mod state;
mod transform;
mod waits;
mod wasi;
mod wasi_http;

pub use component::embed;
pub use load::{Folders, Inspected, Loaded, inspect, load, load_bytes};
pub use metadata::{Capabilities, Kind, Metadata, PluginMetadata, SECTION};

/// The WIT, as the host sees it.
mod bindings {
    pub(crate) mod source {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "source-plugin",
            imports: { "aqueduct:connector/runtime.sleep": async, "aqueduct:connector/http.send": async },
            exports: { default: async },
        });
    }
    pub(crate) mod sink {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "sink-plugin",
            exports: { default: async },
            with: {
                "aqueduct:connector/types": crate::bindings::source::aqueduct::connector::types,
                "aqueduct:connector/runtime": crate::bindings::source::aqueduct::connector::runtime,
                "aqueduct:connector/metrics": crate::bindings::source::aqueduct::connector::metrics,
                "aqueduct:connector/environment": crate::bindings::source::aqueduct::connector::environment,
                "aqueduct:connector/secrets": crate::bindings::source::aqueduct::connector::secrets,
                "aqueduct:connector/http": crate::bindings::source::aqueduct::connector::http,
            },
        });
    }
    pub(crate) mod transform {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "transform-plugin",
            exports: { default: async },
            with: {
                "aqueduct:connector/types": crate::bindings::source::aqueduct::connector::types,
                "aqueduct:connector/runtime": crate::bindings::source::aqueduct::connector::runtime,
                "aqueduct:connector/metrics": crate::bindings::source::aqueduct::connector::metrics,
                "aqueduct:connector/environment": crate::bindings::source::aqueduct::connector::environment,
            },
        });
    }
    pub(crate) use source::aqueduct::connector::{environment, http, metrics, runtime, secrets, state, types};
}
