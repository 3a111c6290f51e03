//! `plugins new`: a folder with a plugin that builds, and with the SDK, so that nothing of Aqueduct is needed but this binary.

use crate::failure::{Failure, Outcome};
use crate::output::Screen;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Begin a plugin: a folder with its code, its metadata and the SDK.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The language.
    #[arg(long, value_enum)]
    lang: Language,
    /// What it is [default: source; in C, which has only that: transform].
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// The plugin's name, which is the folder's too: 1 to 64 of a-z, 0-9 and -, beginning with a letter.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    Rust,
    Python,
    Js,
    C,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Source,
    Sink,
    Transform,
}

/// A file of the checkout, from when this was built.
macro_rules! file {
    ($path:literal) => {
        include_str!(concat!("../../../../../plugins/", $path))
    };
}

const WIT: &str = file!("wit/connector.wit");
/// What the SDK's manifests say in the checkout comes from its workspace; here they stand alone.
const SDK: &[(&str, &str)] = &[
    (
        "aqueduct/sdk/Cargo.toml",
        "[package]\nname = \"aqueduct-sdk\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         aqueduct-plugin-frame = { path = \"../frame\" }\nserde = \"1\"\nserde_json = { version = \"1\", features = [\"preserve_order\"] }\n\
         wit-bindgen = { version = \"0.60\", default-features = false, features = [\"macros\"] }\n",
    ),
    ("aqueduct/sdk/src/calls.rs", file!("sdk/src/calls.rs")),
    ("aqueduct/sdk/src/error.rs", file!("sdk/src/error.rs")),
    ("aqueduct/sdk/src/imports.rs", file!("sdk/src/imports.rs")),
    ("aqueduct/sdk/src/lib.rs", file!("sdk/src/lib.rs")),
    ("aqueduct/sdk/src/sink.rs", file!("sdk/src/sink.rs")),
    ("aqueduct/sdk/src/source.rs", file!("sdk/src/source.rs")),
    ("aqueduct/sdk/src/transform.rs", file!("sdk/src/transform.rs")),
    ("aqueduct/frame/Cargo.toml", "[package]\nname = \"aqueduct-plugin-frame\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
    ("aqueduct/frame/src/lib.rs", file!("frame/src/lib.rs")),
    ("aqueduct/frame/src/read.rs", file!("frame/src/read.rs")),
    ("aqueduct/frame/src/write.rs", file!("frame/src/write.rs")),
    ("aqueduct/wit/connector.wit", WIT),
];

const IGNORED: (&str, &str) = (".gitignore", "target\n*.wasm\n__pycache__\nnode_modules\nbindings\n");

fn files(language: Language, kind: Kind) -> Vec<(&'static str, &'static str)> {
    let mut files = vec![IGNORED];
    match language {
        Language::Rust => {
            files.push(("Cargo.toml", file!("templates/Cargo.toml")));
            files.extend(SDK);
        }
        Language::Python => files.extend([("aqueduct.py", file!("python/aqueduct.py")), ("wit/connector.wit", WIT)]),
        Language::Js => {
            files.extend([("aqueduct.js", file!("javascript/aqueduct.js")), ("package.json", file!("templates/package.json"))]);
            files.push(("wit/connector.wit", WIT));
        }
        Language::C => files.extend([("aqueduct.h", file!("c/aqueduct.h")), ("wit/connector.wit", WIT)]),
    }
    files.extend(match (language, kind) {
        (Language::Rust, Kind::Source) => {
            [("src/lib.rs", file!("templates/rust-source/lib.rs")), ("plugin.json", file!("templates/rust-source/plugin.json"))]
        }
        (Language::Rust, Kind::Sink) => {
            [("src/lib.rs", file!("templates/rust-sink/lib.rs")), ("plugin.json", file!("templates/rust-sink/plugin.json"))]
        }
        (Language::Rust, Kind::Transform) => [
            ("src/lib.rs", file!("templates/rust-transform/lib.rs")),
            ("plugin.json", file!("templates/rust-transform/plugin.json")),
        ],
        (Language::Python, Kind::Source) => {
            [("app.py", file!("templates/python-source/app.py")), ("plugin.json", file!("templates/python-source/plugin.json"))]
        }
        (Language::Python, Kind::Sink) => {
            [("app.py", file!("templates/python-sink/app.py")), ("plugin.json", file!("templates/python-sink/plugin.json"))]
        }
        (Language::Python, Kind::Transform) => [
            ("app.py", file!("templates/python-transform/app.py")),
            ("plugin.json", file!("templates/python-transform/plugin.json")),
        ],
        (Language::Js, Kind::Source) => {
            [("app.js", file!("templates/js-source/app.js")), ("plugin.json", file!("templates/js-source/plugin.json"))]
        }
        (Language::Js, Kind::Sink) => {
            [("app.js", file!("templates/js-sink/app.js")), ("plugin.json", file!("templates/js-sink/plugin.json"))]
        }
        (Language::Js, Kind::Transform) => {
            [("app.js", file!("templates/js-transform/app.js")), ("plugin.json", file!("templates/js-transform/plugin.json"))]
        }
        // No source and no sink: their options and offsets are JSON, for which there is no library that every C compiler has.
        (Language::C, _) => {
            [("plugin.c", file!("templates/c-transform/plugin.c")), ("plugin.json", file!("templates/c-transform/plugin.json"))]
        }
    });
    files
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Outcome {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let begins = args.name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !begins || args.name.len() > 64 || !args.name.bytes().all(letters) {
        let failure = Failure::usage(format!("{:?} is no name of a plugin", args.name));
        return Err(failure.fix("take 1 to 64 of a-z, 0-9 and -, beginning with a letter"));
    }
    if args.lang == Language::C && args.kind.is_some_and(|kind| kind != Kind::Transform) {
        let failure = Failure::usage("there is only a transform to begin with in C");
        return Err(failure.fix("take --kind transform, or --lang rust, python or js"));
    }
    let folder = PathBuf::from(&args.name);
    if folder.exists() {
        return Err(Failure::failed(format!("{} is there already", folder.display())).fix("take another name, or remove it"));
    }
    for (path, text) in files(args.lang, args.kind.unwrap_or(Kind::Source)) {
        write(&folder.join(path), &text.replace("@NAME@", &args.name))?;
    }
    let name = &args.name;
    let first = if args.lang == Language::Js { format!("  (cd {name} && npm install)\n") } else { String::new() };
    screen.show(&json!({ "folder": folder }), || {
        format!(
            "{name}/ is a plugin: edit it, then\n{first}  aqueduct plugin build {name}\n  aqueduct plugin test {name}/{name}.wasm"
        )
    })
}

fn write(path: &Path, text: &str) -> Outcome {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
    std::fs::write(path, text).map_err(failed)
}
