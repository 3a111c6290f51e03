//! A file's bytes: what they export and import, and the metadata, found without compiling. A core module is made a component.

use crate::metadata::{BYTES_MAX, Metadata, SECTION};
use aqueduct_core::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use wasmparser::{Encoding, Parser, Payload};

/// The guests of all languages known have 50 KiB to 20 MB.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 20;

/// What every component may import; `wasi:` is not among them.
const IMPORTS: [&str; 5] = ["types", "runtime", "environment", "http", "source"];
const PACKAGE: &str = "aqueduct:connector/";
const VERSION: &str = "0.1.0";

pub(crate) struct Parsed {
    pub(crate) metadata: Metadata,
    /// A component, valid.
    pub(crate) component: Vec<u8>,
}

/// # Errors
/// `plugin.malformed`, `plugin.metadata`, `plugin.interface`; all fatal.
pub(crate) fn parse(bytes: Vec<u8>) -> Result<Parsed> {
    // The parsers are fuzzed, but not ours: a panic in one of them must not end the worker.
    catch_unwind(AssertUnwindSafe(|| read(bytes))).unwrap_or_else(|_| Err(malformed("its parser panicked")))
}

/// The plugins that the metadata of a file names, as far as it can be read: of one that is refused, too.
pub(crate) fn names(bytes: &[u8]) -> Vec<String> {
    let sections = || {
        Parser::new(0).parse_all(bytes).map_while(|payload| payload.ok()).find_map(|payload| match payload {
            Payload::CustomSection(custom) if custom.name() == SECTION => Metadata::parse(custom.data()).ok(),
            _ => None,
        })
    };
    let metadata = catch_unwind(AssertUnwindSafe(sections)).ok().flatten();
    metadata.into_iter().flat_map(|metadata| metadata.plugins).map(|plugin| plugin.name).collect()
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::fatal("plugin.malformed", format!("it is no WebAssembly component: {what}"))
        .fix("build it again; a core module must have the component's type embedded, as wit-bindgen does")
}

fn validate(bytes: &[u8]) -> Result<()> {
    wasmparser::Validator::new_with_features(features()).validate_all(bytes).map(drop).map_err(malformed)
}

fn read(bytes: Vec<u8>) -> Result<Parsed> {
    validate(&bytes)?;
    let begins = Parser::new(0).parse_all(&bytes).next();
    let is_component = begins.map(|begins| begins.map(|p| matches!(p, Payload::Version { encoding: Encoding::Component, .. })));
    let component = match is_component {
        Some(Ok(true)) => bytes,
        Some(Ok(false)) => wit_component::ComponentEncoder::default()
            .validate(false)
            .module(&bytes)
            .and_then(|mut encoder| encoder.encode())
            .map_err(|error| malformed(format!("{error:#}")))?,
        Some(Err(error)) => return Err(malformed(error)),
        None => return Err(malformed("the file is empty")),
    };
    validate(&component)?;
    let mut depth = 0;
    let (mut section, mut exports, mut imports) = (None, Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(&component) {
        match payload.map_err(malformed)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(custom) if custom.name() == SECTION => section = Some(custom.data().to_vec()),
            Payload::ComponentExportSection(found) if depth == 0 => {
                for export in found {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentImportSection(found) if depth == 0 => {
                for import in found {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let Some(section) = section.filter(|section| section.len() <= BYTES_MAX) else {
        let what = format!("there is no custom section {SECTION} that says what it is (of at most {BYTES_MAX} bytes)");
        return Err(Error::fatal("plugin.metadata", what).fix("embed one: export_plugin! of the SDK does"));
    };
    let metadata = Metadata::parse(&section)?;
    check(&metadata, &exports, &imports)?;
    Ok(Parsed { metadata, component })
}

/// What wasmtime is told too (`engine.rs`): the plain language, without threads, shared memory, GC, 64-bit memories.
fn features() -> wasmparser::WasmFeatures {
    use wasmparser::WasmFeatures as F;
    F::MUTABLE_GLOBAL
        | F::SATURATING_FLOAT_TO_INT
        | F::SIGN_EXTENSION
        | F::REFERENCE_TYPES
        | F::MULTI_VALUE
        | F::BULK_MEMORY
        | F::SIMD
        | F::EXTENDED_CONST
        | F::FLOATS
        | F::COMPONENT_MODEL
        | F::GC_TYPES
}

/// The plugin is told which import the host lacks, and what its metadata promises and its exports do not keep.
fn check(metadata: &Metadata, exports: &[String], imports: &[String]) -> Result<()> {
    for import in imports {
        let ours = import.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@'));
        let fix = match ours {
            Some((name, VERSION)) if IMPORTS.contains(&name) => continue,
            Some(_) => {
                format!("this Aqueduct has {PACKAGE}…@{VERSION}: build it for that, or take the Aqueduct that it was built for")
            }
            None if import.starts_with("wasi:") => {
                "this Aqueduct has no WASI: build it for wasm32-unknown-unknown, and take clock, log and HTTP from the SDK"
                    .to_owned()
            }
            None => format!("import only from {PACKAGE}…@{VERSION}"),
        };
        return Err(Error::fatal("plugin.interface", format!("it imports {import}, which this Aqueduct does not have")).fix(fix));
    }
    for plugin in &metadata.plugins {
        let wanted = plugin.kind.interface();
        if !exports.iter().any(|export| export == wanted) {
            let what = format!("{} is a {:?}, but it does not export {wanted}", plugin.name, plugin.kind);
            let there = format!("it exports {}; correct its metadata or its world", exports.join(", "));
            return Err(Error::fatal("plugin.interface", what).fix(there));
        }
    }
    Ok(())
}
