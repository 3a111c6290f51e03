//! A file's bytes: what they export and import, and the metadata, found without compiling. A core module is made a component.

use crate::kept::Kept;
use crate::metadata::{BYTES_MAX, Metadata, SECTION};
use aqueduct_core::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{Encoding, Parser, Payload};

/// The guests of all languages known have 50 KiB to 20 MB.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 20;

/// What every component may import of ours, and the version of Aqueduct that first had it.
const IMPORTS: [(&str, &str); 7] = [
    ("types", "0.1.0"),
    ("runtime", "0.1.0"),
    ("metrics", "0.1.0"),
    ("environment", "0.1.0"),
    ("secrets", "0.1.0"),
    ("state", "0.1.0"),
    ("http", "0.1.0"),
];
const PACKAGE: &str = "aqueduct:connector/";
/// Of the contract.
const VERSION: &str = "0.1.0";
/// Of WASI, in any patch of 0.2.
const WASI: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];

pub(crate) struct Parsed {
    pub(crate) metadata: Metadata,
    /// A component, valid.
    pub(crate) component: Vec<u8>,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

/// A component with its metadata in it: for tools that cannot put it there themselves.
pub fn embed(mut component: Vec<u8>, metadata: &[u8]) -> Vec<u8> {
    CustomSection { name: SECTION.into(), data: metadata.into() }.append_to_component(&mut component);
    component
}

/// `hash` is that of the bytes. Blocking.
///
/// # Errors
/// `plugin.malformed`, `plugin.metadata`, `plugin.interface`; all fatal.
pub(crate) fn parse(bytes: Vec<u8>, hash: &str) -> Result<Parsed> {
    // The parsers are fuzzed, but not ours: a panic in one of them must not end the worker.
    catch_unwind(AssertUnwindSafe(|| read(bytes, hash, &Kept::of_user())))
        .unwrap_or_else(|_| Err(malformed("its parser panicked")))
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

fn read(bytes: Vec<u8>, hash: &str, kept: &Kept) -> Result<Parsed> {
    let is_component = is_component(&bytes)?;
    match kept.get(hash) {
        Some(_) if is_component => describe(bytes),
        // What is kept of it may have been cut by a full disk.
        Some(component) => describe(component).or_else(|_| read_new(bytes, is_component)),
        None => {
            let parsed = read_new(bytes, is_component)?;
            kept.put(hash, if is_component { &[] } else { &parsed.component });
            Ok(parsed)
        }
    }
}

fn is_component(bytes: &[u8]) -> Result<bool> {
    match Parser::new(0).parse_all(bytes).next() {
        Some(Ok(begins)) => Ok(matches!(begins, Payload::Version { encoding: Encoding::Component, .. })),
        Some(Err(error)) => Err(malformed(error)),
        None => Err(malformed("the file is empty")),
    }
}

fn read_new(bytes: Vec<u8>, is_component: bool) -> Result<Parsed> {
    validate(&bytes)?;
    if is_component {
        return describe(bytes);
    }
    let encoder = wit_component::ComponentEncoder::default().validate(false).module(&bytes);
    let component = encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| malformed(format!("{error:#}")))?;
    validate(&component)?;
    describe(component)
}

/// Of a valid component.
fn describe(component: Vec<u8>) -> Result<Parsed> {
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
    Ok(Parsed { metadata, component, imports, exports })
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

/// The plugin is told which import the host lacks and who has it, and what its metadata promises and its exports do not keep.
fn check(metadata: &Metadata, exports: &[String], imports: &[String]) -> Result<()> {
    for import in imports {
        if let Some(fix) = lacking(import) {
            let what = format!("it imports {}, which this Aqueduct does not have", crate::error::clean(import, 200));
            return Err(Error::fatal("plugin.interface", what).fix(fix));
        }
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

/// What to do about an import. None: it is there.
fn lacking(import: &str) -> Option<String> {
    let aqueduct = env!("CARGO_PKG_VERSION");
    if let Some((name, version)) = import.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) {
        let since = IMPORTS.iter().find(|(known, _)| *known == name).map(|(_, since)| since);
        return match since {
            Some(_) if version == VERSION => None,
            Some(since) => Some(format!(
                "{name} is in {PACKAGE}…@{VERSION} since Aqueduct {since}, and this is Aqueduct {aqueduct}: take the Aqueduct whose contract is \
                 {version}, or build it with the SDK of this one"
            )),
            None => Some(format!(
                "no Aqueduct up to this one, {aqueduct}, has it: take a newer Aqueduct, or build it with the SDK of this one, whose imports are {}",
                IMPORTS.map(|(known, _)| known).join(", ")
            )),
        };
    }
    let Some((package, version)) = import.strip_prefix("wasi:").and_then(|rest| rest.split_once('@')) else {
        return Some(format!("import only from {PACKAGE}…@{VERSION} and from wasi 0.2"));
    };
    let (package, _) = package.split_once('/').unwrap_or((package, ""));
    if WASI.contains(&package) && version.starts_with("0.2.") {
        return None;
    }
    Some(if WASI.contains(&package) {
        format!("Aqueduct {aqueduct} has wasi:{package} 0.2: build it for WASI 0.2")
    } else {
        format!("Aqueduct {aqueduct} has of WASI 0.2: {}", WASI.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_of_a_file_is_taken_and_made_again_when_it_was_cut() {
        let folder = tempfile::TempDir::new().unwrap();
        let kept = Kept(Some(folder.path().to_owned()));
        let file = std::fs::read(plugin_services::guest("counter-source")).unwrap();
        let made = read(file.clone(), "hash", &kept).unwrap();
        let path = folder.path().join("hash");
        assert_eq!(std::fs::read(&path).unwrap(), made.component);
        // A component that was found good is kept by its name alone.
        assert!(read(made.component.clone(), "other", &kept).is_ok());
        assert_eq!(std::fs::metadata(folder.path().join("other")).unwrap().len(), 0);
        for left in [0, made.component.len() / 2, made.component.len()] {
            std::fs::write(&path, &made.component[..left]).unwrap();
            let again = read(file.clone(), "hash", &kept).unwrap();
            assert!(again.component == made.component && again.exports == made.exports, "{left} bytes were left");
        }
        // What is refused is not kept.
        assert!(read(file[..file.len() / 2].to_vec(), "bad", &kept).is_err());
        assert_eq!(kept.get("bad"), None);
    }

    #[test]
    fn an_import_that_is_not_there_is_told_who_has_it() {
        for there in [
            "aqueduct:connector/state@0.1.0",
            "wasi:cli/environment@0.2.0",
            "wasi:clocks/wall-clock@0.2.12",
            "wasi:http/outgoing-handler@0.2.3",
        ] {
            assert_eq!(lacking(there), None, "{there}");
        }
        for (import, part) in [
            ("aqueduct:connector/runtime@0.2.0", "whose contract is 0.2.0"),
            ("aqueduct:connector/queue@0.1.0", "no Aqueduct up to this one, 0.1.0"),
            ("wasi:http/client@0.3.0", "for WASI 0.2"),
            ("wasi:clocks/wall-clock@0.3.0", "for WASI 0.2"),
            ("wasi:nn/graph@0.2.0", "cli, clocks"),
            ("env", "import only from"),
        ] {
            let fix = lacking(import).unwrap();
            assert!(fix.contains(part), "{import}: {fix}");
        }
    }
}
