//! `${env:NAME}`, `${file:path:key}`, `${dir:path:name}`: Kafka's config providers, within what worker.yaml allows.
//!
//! References stay unresolved in what is stored and shown; a task resolves them when it starts (invariants 8 and 9).

use crate::document::properties_lines;
use crate::flatten::Flat;
use crate::nearest::nearest;
use aqueduct_core::{Error, Issue, Options, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use indexmap::IndexMap;
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// A file with secrets is small; a larger one is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// References in one value: a real one has one or two.
const REFERENCES_MAX: usize = 32;
/// Shorter secrets are not masked in messages: they would blank out half of every text.
const MASKED_BYTES_MIN: usize = 3;
const MASK: &str = "[hidden]";
/// Of a shorter one too few characters are its own, and would be found in other texts.
const IN_BASE64_BYTES_MIN: usize = 5;

/// What references may read. Cheap to clone. The default allows nothing.
#[derive(Clone, Debug, Default)]
pub struct Providers(Arc<BTreeMap<String, Provider>>);

#[derive(Clone, Debug)]
pub enum Provider {
    /// Variables whose whole name matches.
    Env { allow: Option<Regex> },
    /// Properties in files below these paths.
    File { allow: Allowed },
    /// Files in folders below these paths.
    Dir { allow: Allowed },
}

#[derive(Clone, Debug)]
pub enum Allowed {
    All,
    Below(Vec<PathBuf>),
}

/// A config whose references are resolved: never logged, stored or shown.
#[derive(Clone, Default)]
pub struct Resolved {
    pub options: Options,
    secrets: Vec<String>,
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolved({} options, {} secrets)", self.options.len(), self.secrets.len())
    }
}

impl Resolved {
    /// The texts that references stood for, the longest first.
    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// Also these texts are masked from now on: literal passwords, say.
    pub fn also_hide(&mut self, secrets: impl IntoIterator<Item = String>) {
        self.secrets.extend(secrets.into_iter().filter(|secret| secret.len() >= MASKED_BYTES_MIN));
        self.secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.secrets.dedup();
    }

    /// A message without the secrets, also where it shows them escaped as in `{:?}`, in JSON or in a URL, or in base64 (`Authorization: Basic`).
    pub fn redact(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| {
            let quoted = format!("{secret:?}");
            let mut forms = vec![secret.clone(), quoted[1..quoted.len() - 1].to_owned(), in_url(secret)];
            forms.extend(in_base64(secret));
            forms
                .iter()
                .fold(text, |text, form| if text.contains(form.as_str()) { text.replace(form.as_str(), MASK) } else { text })
        })
    }
}

/// As it stands in the base64 of any text that holds it: but for the characters that the text around it has a part in.
fn in_base64(secret: &str) -> Vec<String> {
    if secret.len() < IN_BASE64_BYTES_MIN {
        return Vec::new();
    }
    let at = |before: usize| {
        let bytes = [&[0; 2][..before], secret.as_bytes()].concat();
        let text = STANDARD_NO_PAD.encode(&bytes);
        text[(before * 8).div_ceil(6)..bytes.len() * 8 / 6].to_owned()
    };
    let plain: Vec<String> = (0..3).map(at).collect();
    let for_urls = plain.iter().map(|text| text.replace('+', "-").replace('/', "_"));
    for_urls.chain(plain.iter().cloned()).collect()
}

fn in_url(secret: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    secret.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `${provider:path:key}`; `path` is empty where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// As written.
    pub text: &'a str,
    pub provider: &'a str,
    pub path: &'a str,
    pub key: &'a str,
    /// Where it starts in the value, in bytes.
    pub start: usize,
}

/// The references in a value, as Kafka's `ConfigTransformer` finds them.
pub fn references(value: &str) -> Vec<Reference<'_>> {
    static PATTERN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\$\{([^}:]*):(?:([^}:]*):)?([^}]*)\}").expect("a pattern in the source compiles"));
    if !value.contains("${") {
        return Vec::new();
    }
    let found = PATTERN.captures_iter(value).map(|captures| {
        let part = |index: usize| captures.get(index).map_or("", |part| part.as_str());
        Reference {
            text: part(0),
            provider: part(1),
            path: part(2),
            key: part(3),
            start: captures.get(0).map_or(0, |whole| whole.start()),
        }
    });
    found.collect()
}

impl Providers {
    /// By the name before the colon: `env`, `file`, `dir`.
    pub fn new(providers: BTreeMap<String, Provider>) -> Self {
        Self(Arc::new(providers))
    }

    /// Everything that the process may read: for checks on an operator's own machine, where no worker.yaml says otherwise.
    pub fn open() -> Self {
        let all = [
            ("env", Provider::Env { allow: Some(Regex::new("").expect("the empty pattern compiles")) }),
            ("file", Provider::File { allow: Allowed::All }),
            ("dir", Provider::Dir { allow: Allowed::All }),
        ];
        Self::new(all.into_iter().map(|(name, provider)| (name.to_owned(), provider)).collect())
    }

    /// Replaces the references by what they stand for. What a reference gives is not searched for further references.
    ///
    /// # Errors
    /// `config.secret`, fatal, with every reference that gives nothing. Never with a secret in its message.
    pub fn resolve(&self, config: &IndexMap<String, String>) -> Result<Resolved> {
        let (resolved, mut issues) = self.resolve_all(config);
        // As in Kafka: what names no provider is text. In files the check has refused it before.
        issues.retain(|issue| issue.code != "config.unknown_provider");
        if issues.is_empty() {
            return Ok(resolved);
        }
        let lines: Vec<String> = issues.iter().map(ToString::to_string).collect();
        Err(Error::fatal("config.secret", lines.join("; ")).fix("provide what the references name, then restart the connector"))
    }

    /// An issue for each reference that gives nothing. Reads what is allowed, shows none of it.
    pub fn check(&self, config: &Flat) -> Vec<Issue> {
        let (_, mut issues) = self.resolve_all(&config.entries);
        config.locate(&mut issues);
        issues
    }

    /// What could be resolved; values with a reference that gives nothing stay as they are.
    pub(crate) fn resolve_all(&self, config: &IndexMap<String, String>) -> (Resolved, Vec<Issue>) {
        let (mut resolved, mut issues, mut files) = (Resolved::default(), Vec::new(), Files::default());
        for (key, value) in config {
            let references = references(value);
            if references.len() > REFERENCES_MAX {
                let message = format!("has {} references; at most {REFERENCES_MAX} are resolved", references.len());
                issues.push(Issue::error(key, "config.secret", message).fix("put the whole text into one secret"));
                resolved.options.insert(key.clone(), value.clone());
                continue;
            }
            let (mut text, mut end) = (String::with_capacity(value.len()), 0);
            let before = issues.len();
            for reference in references {
                text.push_str(&value[end..reference.start]);
                end = reference.start + reference.text.len();
                match self.read(&reference, &mut files) {
                    Ok(secret) => {
                        text.push_str(&secret);
                        resolved.secrets.push(secret);
                    }
                    Err((code, why, fix)) => issues.push(Issue::error(key, code, why).fix(fix)),
                }
            }
            text.push_str(&value[end..]);
            let text = if issues.len() == before { text } else { value.clone() };
            resolved.options.insert(key.clone(), text);
        }
        let found = std::mem::take(&mut resolved.secrets);
        resolved.also_hide(found);
        (resolved, issues)
    }

    /// The text, or code, message and fix.
    fn read(&self, reference: &Reference<'_>, files: &mut Files) -> Result<String, (&'static str, String, String)> {
        let text = reference.text;
        let Some(provider) = self.0.get(reference.provider) else {
            return Err(self.unknown(reference));
        };
        let missing = |why: String, fix: &str| ("config.secret_missing", why, fix.to_owned());
        match provider {
            Provider::Env { allow } => {
                let name = reference.key;
                if !reference.path.is_empty() || name.is_empty() {
                    return Err(missing(format!("{text} names no variable"), "write ${env:NAME}"));
                }
                if !allow.as_ref().is_some_and(|allow| allow.is_match(name)) {
                    let fix = format!(
                        "add it in worker.yaml: `config.providers.env.param.allowlist.pattern: {name}` (a regular expression)"
                    );
                    return Err((
                        "config.secret_denied",
                        format!("{text} is not among the variables that worker.yaml allows"),
                        fix,
                    ));
                }
                match std::env::var(name) {
                    Ok(value) => Ok(value),
                    Err(std::env::VarError::NotPresent) => {
                        let near = nearest_variable(name, allow.as_ref());
                        let fix = near.unwrap_or_else(|| format!("set {name} in the environment of the worker"));
                        Err(missing(format!("{text} stands for a variable that is not set"), &fix))
                    }
                    Err(std::env::VarError::NotUnicode(_)) => Err(missing(format!("{text} is not UTF-8"), "set it to text")),
                }
            }
            Provider::File { allow } => {
                if reference.path.is_empty() || reference.key.is_empty() {
                    return Err(missing(
                        format!("{text} does not name a file and a key in it"),
                        "write ${file:/path/to.properties:key}",
                    ));
                }
                let properties = files.properties(allow, reference)?;
                properties.get(reference.key).cloned().ok_or_else(|| {
                    missing(format!("{text}: the file has no such key"), &format!("add `{}=…` to it", reference.key))
                })
            }
            Provider::Dir { allow } => {
                let name = reference.key;
                if reference.path.is_empty() || name.is_empty() || name.contains('/') || name == "." || name == ".." {
                    return Err(missing(format!("{text} does not name a folder and a file in it"), "write ${dir:/path:name}"));
                }
                let path = Path::new(reference.path).join(name);
                let content = read_allowed(allow, &path, reference)?;
                // Editors and `echo` end a file with a line end, which is never meant to be part of a password.
                Ok(content.strip_suffix("\r\n").or(content.strip_suffix('\n')).unwrap_or(&content).to_owned())
            }
        }
    }

    fn unknown(&self, reference: &Reference<'_>) -> (&'static str, String, String) {
        let name = reference.provider;
        let known = ["env", "file", "dir"];
        if known.contains(&name) {
            let (fix, what) = match name {
                "env" => (
                    "set `config.providers.env.param.allowlist.pattern` in worker.yaml to the variables it may read",
                    "environment variables",
                ),
                "file" => ("set `config.providers.file.param.allowed.paths` in worker.yaml to the folders it may read", "files"),
                _ => ("set `config.providers.dir.param.allowed.paths` in worker.yaml to the folders it may read", "folders"),
            };
            return ("config.secret_denied", format!("{}: worker.yaml allows no {what}", reference.text), fix.to_owned());
        }
        let names: Vec<&str> = self.0.keys().map(String::as_str).chain(known).collect();
        let fix = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean ${{{near}:…}}?"),
            None => "there are ${env:NAME}, ${file:path:key} and ${dir:path:name}".to_owned(),
        };
        ("config.unknown_provider", format!("{}: no config provider is called {name:?}", reference.text), fix)
    }
}

/// Only names that a reference may read are shown.
fn nearest_variable(name: &str, allow: Option<&Regex>) -> Option<String> {
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|other| allow.is_some_and(|allow| allow.is_match(other)))
        .collect();
    nearest(name, names.iter().map(String::as_str)).map(|near| format!("did you mean ${{env:{near}}}?"))
}

type Refused = (&'static str, String, String);

/// Property files that were read for one config: each is read once, so that its keys belong together.
#[derive(Default)]
struct Files(BTreeMap<String, BTreeMap<String, String>>);

impl Files {
    fn properties(&mut self, allow: &Allowed, reference: &Reference<'_>) -> Result<&BTreeMap<String, String>, Refused> {
        if !self.0.contains_key(reference.path) {
            let text = read_allowed(allow, Path::new(reference.path), reference)?;
            let properties = properties_lines(&text).into_iter().map(|(_, key, value)| (key, value)).collect();
            self.0.insert(reference.path.to_owned(), properties);
        }
        Ok(&self.0[reference.path])
    }
}

/// The text of a file that is, after links are followed, below an allowed path.
fn read_allowed(allow: &Allowed, path: &Path, reference: &Reference<'_>) -> Result<String, Refused> {
    let text = reference.text;
    let denied = || {
        let fix = format!("allow its folder in worker.yaml: `config.providers.{}.param.allowed.paths`", reference.provider);
        ("config.secret_denied", format!("{text} is outside the paths that worker.yaml allows"), fix)
    };
    // Before the file is looked at: an answer of "not found" must not tell what exists outside.
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err((
            "config.secret_missing",
            format!("{text}: the path must be absolute, without `..`"),
            "write the whole path".to_owned(),
        ));
    }
    if !allow.allows(path) {
        return Err(denied());
    }
    let failed = |error: std::io::Error| {
        let why = format!("{text} cannot be read: {}", reason(&error));
        ("config.secret_missing", why, "check the path and the permissions of the worker".to_owned())
    };
    let real = path.canonicalize().map_err(failed)?;
    if !allow.allows(&real) {
        return Err(denied());
    }
    let file = File::open(&real).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(("config.secret_missing", format!("{text} is not a file"), "name a file".to_owned()));
    }
    let mut content = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut content).map_err(failed)?;
    if read as u64 > FILE_BYTES_MAX {
        let why = format!("{text} is larger than {FILE_BYTES_MAX} bytes");
        return Err(("config.secret_missing", why, "is this the right file?".to_owned()));
    }
    Ok(content)
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

impl Allowed {
    fn allows(&self, path: &Path) -> bool {
        match self {
            Allowed::All => true,
            Allowed::Below(roots) => {
                roots.iter().any(|root| path.starts_with(root) || root.canonicalize().is_ok_and(|root| path.starts_with(root)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> IndexMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn providers(root: &Path) -> Providers {
        let below = || Allowed::Below(vec![root.to_owned()]);
        let all = [
            ("env", Provider::Env { allow: Some(Regex::new("^(?:CARGO.*)$").unwrap()) }),
            ("file", Provider::File { allow: below() }),
            ("dir", Provider::Dir { allow: below() }),
        ];
        Providers::new(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    }

    #[test]
    fn references_are_found_as_kafka_finds_them() {
        let found: Vec<_> = references("a${env:X}b${file:/a/b:k.c}${dir:/d:e}${topic}${env::Y}$1 ${x")
            .iter()
            .map(|r| (r.provider, r.path, r.key))
            .collect();
        assert_eq!(found, [("env", "", "X"), ("file", "/a/b", "k.c"), ("dir", "/d", "e"), ("env", "", "Y")]);
    }

    #[test]
    fn they_are_replaced_and_masked() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("db.properties"), "password=hunt\\u0065r2\nuser = app\n").unwrap();
        std::fs::write(root.join("token"), "t0p\"secret\n").unwrap();
        let at = root.display();
        let config = config(&[
            ("url", &format!("x://${{file:{at}/db.properties:user}}:${{file:{at}/db.properties:password}}@h")),
            ("token", &format!("${{dir:{at}:token}}")),
            ("name", "${env:CARGO_PKG_NAME}"),
            ("format", "${topic}-x"),
        ]);
        let resolved = providers(&root).resolve(&config).unwrap();
        assert_eq!(resolved.options["url"], "x://app:hunter2@h");
        assert_eq!(resolved.options["token"], "t0p\"secret");
        assert_eq!(resolved.options["name"], "aqueduct-config");
        assert_eq!(resolved.options["format"], "${topic}-x");
        let message = format!("cannot log in with hunter2 and {:?} or t0p\"secret at x://t0p%22secret@h", "t0p\"secret");
        assert_eq!(resolved.redact(message), "cannot log in with [hidden] and \"[hidden]\" or [hidden] at x://[hidden]@h");
        assert!(!format!("{resolved:?}").contains("hunter2"));
        for user in ["u", "me", "app"] {
            let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:hunter2!"));
            let message = resolved.redact(format!("refused: Basic {basic}"));
            assert!(message.contains("[hidden]") && !message.contains(&basic[6..10]), "{message}");
        }
    }

    #[test]
    fn what_is_not_allowed_or_not_there_is_an_issue() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(outside.path().join("secret"), "k=v").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("link")).unwrap();
        std::fs::write(root.join("f"), "k=v").unwrap();
        let (at, out) = (root.display().to_string(), outside.path().display().to_string());
        for (value, code, part) in [
            ("${env:CARGO_NOPE_X}".to_owned(), "config.secret_missing", "is not set"),
            ("${env:CARGO_PKG_NAM}".to_owned(), "config.secret_missing", "did you mean ${env:CARGO_PKG_NAME}?"),
            ("${env:PATH}".to_owned(), "config.secret_denied", "allowlist.pattern: PATH"),
            ("${enf:PATH}".to_owned(), "config.unknown_provider", "did you mean ${env:…}?"),
            (format!("${{file:{at}/f:no}}"), "config.secret_missing", "no such key"),
            (format!("${{file:{at}/g:k}}"), "config.secret_missing", "no such file"),
            (format!("${{file:{at}/link:k}}"), "config.secret_denied", "allowed.paths"),
            (format!("${{file:{out}/secret:k}}"), "config.secret_denied", "allowed.paths"),
            (format!("${{file:{at}/../x:k}}"), "config.secret_missing", "without `..`"),
            (format!("${{dir:{at}:../f}}"), "config.secret_missing", "folder and a file"),
            (format!("${{dir:{at}:link}}"), "config.secret_denied", "allowed.paths"),
            (format!("${{dir:{out}:secret}}"), "config.secret_denied", "allowed.paths"),
            (format!("${{file:{at}/f}}"), "config.secret_missing", "a file and a key"),
        ] {
            let config = config(&[("k", &value)]);
            let issues = providers(&root).check(&Flat::from(config.clone()));
            assert_eq!(issues.len(), 1, "{value}: {issues:?}");
            assert!(issues[0].code == code && issues[0].to_string().contains(part), "{value}: {}", issues[0]);
            match providers(&root).resolve(&config) {
                Ok(resolved) => assert!(code == "config.unknown_provider" && resolved.options["k"] == value),
                Err(error) => assert_eq!(error.code(), "config.secret"),
            }
        }
        let none = Providers::default().check(&Flat::from(config(&[("k", "${env:HOME}"), ("l", "${file:/a:b}")])));
        assert!(none.iter().all(|issue| issue.code == "config.secret_denied") && none.len() == 2, "{none:?}");
        assert!(Providers::open().resolve(&config(&[("k", &format!("${{file:{out}/secret:k}}"))])).is_ok());
    }
}
