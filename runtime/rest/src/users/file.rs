//! One user a line: `name:HASH:role[:connector-glob,…]`. HASH is an argon2id password hash (a PHC string), `sha256:HEX` of a token, or
//! `cert-sha256:HEX`, the fingerprint of a client's certificate.

use super::unusable;
use crate::access::Role;
use aqueduct_core::{Error, Result};
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use globset::{Glob, GlobSet, GlobSetBuilder};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Some ten thousand users.
const FILE_MAX: u64 = 1 << 20;
/// What one verification may cost: 256 MiB, and sixteen passes.
const MEMORY_MAX_KIB: u32 = 256 << 10;
const PASSES_MAX: u32 = 16;
const NAME_MAX: usize = 128;
/// A person chooses it: longer is better, shorter is guessed.
const PASSWORD_CHARS_MIN: usize = 8;

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) proof: Proof,
    pub(super) role: Role,
    pub(super) connectors: Option<Arc<GlobSet>>,
}

#[derive(Clone)]
pub(super) enum Proof {
    /// A PHC string that [`check`] found good.
    Password(String),
    Token([u8; 32]),
    Certificate([u8; 32]),
}

/// Changes when the file does.
pub(super) type Stamp = Option<(u64, u64, u32, SystemTime)>;

pub(super) fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mode(), meta.modified().ok()?))
}

/// # Errors
/// `rest.users`: it is not there, others may read or write it, or a line is wrong. No message has a hash in it (invariant 9).
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let fix = "write one with `aqueduct rest-user NAME --role admin > FILE`";
    let file = File::open(path).map_err(|why| unusable(path, why).fix(fix))?;
    let meta = file.metadata().map_err(|why| unusable(path, why))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let error = unusable(path, format!("others than its owner may use it (mode {mode:03o})"));
        return Err(error.fix(format!("chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|why| unusable(path, why))?;
    if text.len() as u64 > FILE_MAX {
        return Err(unusable(path, format!("is larger than {FILE_MAX} bytes")).fix("check the path in rest.users"));
    }
    let entries = parse(&text).map_err(|(line, why)| {
        unusable(path, format!("line {line}: {why}"))
            .fix("write `name:HASH:role[:connector-glob,…]`, as `aqueduct rest-user` does")
    })?;
    if entries.is_empty() {
        return Err(unusable(path, "has no user").fix("add one with `aqueduct rest-user NAME --role admin >> FILE`"));
    }
    Ok(entries)
}

fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let mut entries: Vec<Entry> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = entry(line).map_err(|why| (at + 1, why))?;
        // Several tokens are right while one takes the place of the other; a password of two is a mistake.
        let password = |entry: &Entry| matches!(entry.proof, Proof::Password(_));
        if password(&entry) && entries.iter().any(|other| other.name == entry.name && password(other)) {
            return Err((at + 1, format!("{} has a password already", entry.name)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(line: &str) -> Result<Entry, String> {
    let (name, rest) = line.split_once(':').ok_or("it has no `:`")?;
    check_name(name)?;
    let (proof, rest) = match rest.split_once(':').ok_or("it has no role")? {
        ("sha256", rest) => {
            let (hash, rest) = rest.split_once(':').ok_or("it has no role")?;
            (Proof::Token(digest(hash)?), rest)
        }
        ("cert-sha256", rest) => {
            let (hash, rest) = rest.split_once(':').ok_or("it has no role")?;
            (Proof::Certificate(digest(hash)?), rest)
        }
        (hash, rest) => {
            check(hash)?;
            (Proof::Password(hash.to_owned()), rest)
        }
    };
    let (role, globs) = rest.split_once(':').map_or((rest, None), |(role, globs)| (role, Some(globs)));
    Ok(Entry { name: name.to_owned(), proof, role: role.trim().parse()?, connectors: globs.map(connectors).transpose()? })
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty()
        || name.len() > NAME_MAX
        || name.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '#'))
    {
        return Err(format!("a name has 1 to {NAME_MAX} bytes, without spaces, `:` and `#`"));
    }
    Ok(())
}

/// 64 hex digits.
fn digest(hex: &str) -> Result<[u8; 32], String> {
    let wrong = || "the SHA-256 is not 64 hex digits".to_owned();
    let hex = hex.trim();
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong());
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(digest)
}

/// An argon2id hash that costs no more than is sane.
fn check(hash: &str) -> Result<(), String> {
    if !hash.starts_with("$argon2id$") {
        return Err("the hash is neither argon2id ($argon2id$…) nor sha256: nor cert-sha256:".to_owned());
    }
    let parsed = PasswordHash::new(hash).ok().filter(|hash| hash.salt.is_some() && hash.hash.is_some());
    let params =
        parsed.as_ref().and_then(|hash| Params::try_from(hash).ok()).ok_or("the argon2id hash is not a whole PHC string")?;
    if params.m_cost() > MEMORY_MAX_KIB || params.t_cost() > PASSES_MAX || params.p_cost() > 16 {
        return Err(format!("the argon2id hash costs too much: at most m={MEMORY_MAX_KIB}, t={PASSES_MAX}, p=16"));
    }
    Ok(())
}

fn connectors(globs: &str) -> Result<Arc<GlobSet>, String> {
    let mut set = GlobSetBuilder::new();
    let globs: Vec<&str> = globs.split(',').map(str::trim).filter(|glob| !glob.is_empty()).collect();
    if globs.is_empty() {
        return Err("the list of connectors is empty: leave the last `:` out to allow all".to_owned());
    }
    for glob in globs {
        set.add(Glob::new(glob).map_err(|why| why.to_string())?);
    }
    set.build().map(Arc::new).map_err(|why| why.to_string())
}

/// A line for the file, for a user with this password.
///
/// # Errors
/// `rest.user`: a name, password or glob that cannot be.
pub fn password_line(name: &str, password: &str, role: Role, globs: &str) -> Result<String> {
    if password.chars().count() < PASSWORD_CHARS_MIN {
        let error = Error::fatal("rest.user", format!("the password has less than {PASSWORD_CHARS_MIN} characters"));
        return Err(error.fix("choose a longer one"));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    let hash = hash.map_err(|why| Error::fatal("rest.user", format!("the password cannot be hashed: {why}")))?;
    line(name, &hash.to_string(), role, globs)
}

/// A line for the file, and the new token of 256 bits that it is for.
///
/// # Errors
/// `rest.user`: a name or glob that cannot be.
pub fn token_line(name: &str, role: Role, globs: &str) -> Result<(String, String)> {
    let token = format!("aqt_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let hex: String = Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((line(name, &format!("sha256:{hex}"), role, globs)?, token))
}

fn line(name: &str, hash: &str, role: Role, globs: &str) -> Result<String> {
    let line = if globs.is_empty() { format!("{name}:{hash}:{role}") } else { format!("{name}:{hash}:{role}:{globs}") };
    if line.contains(['\n', '\r']) {
        return Err(Error::fatal("rest.user", "a user is one line").fix("leave line ends out"));
    }
    entry(&line).map_err(|why| Error::fatal("rest.user", why).fix("choose another name, or other globs"))?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_command_writes_is_read() {
        let password = password_line("ann", "correct horse", Role::Operate, "team-a-*,x:y").unwrap();
        let (token, secret) = token_line("ci", Role::Admin, "").unwrap();
        assert!(secret.len() >= 47 && !token.contains(&secret));
        let entries = parse(&format!("# users\n\n{password}\n{token}\n")).unwrap();
        assert!(matches!(entries[0].proof, Proof::Password(_)) && matches!(entries[1].proof, Proof::Token(_)));
        assert_eq!((entries[0].role, entries[1].role), (Role::Operate, Role::Admin));
        let globs = entries[0].connectors.clone().unwrap();
        assert!(globs.is_match("team-a-1") && globs.is_match("x:y") && !globs.is_match("team-b-1"));
        assert!(entries[1].connectors.is_none());
        assert!(
            password_line("ann", "short", Role::Read, "").is_err()
                && password_line("a:b", "long enough", Role::Read, "").is_err()
        );
        assert!(token_line("ann", Role::Read, "[").is_err() && token_line("ann", Role::Read, "a\nb").is_err());
    }

    #[test]
    fn a_wrong_line_is_named_without_its_hash() {
        let hex = "0f".repeat(32);
        for (line, says) in [
            ("ann", "no `:`"),
            ("ann:sha256", "no role"),
            (&format!("ann:sha256:{hex}"), "no role"),
            (&format!("ann:sha256:{hex}:root"), "`root` is no role"),
            (&format!("ann:sha256:{}:read", &hex[1..]), "64 hex digits"),
            (&format!("ann:sha256:{hex}:read:"), "leave the last `:` out"),
            (&format!(":sha256:{hex}:read"), "a name has"),
            ("ann:hunter2:read", "neither argon2id"),
            ("ann:$2b$12$abcdefghijklmnopqrstuv:read", "neither argon2id"),
            ("ann:$argon2id$v=19$m=19456,t=2,p=1:read", "whole PHC"),
            ("ann:$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA:read", "costs too much"),
        ] {
            let (at, why) = parse(&format!("\n{line}\n")).err().unwrap();
            assert!(at == 2 && why.contains(says), "{line}: {why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
        let line = password_line("ann", "correct horse", Role::Read, "").unwrap();
        assert!(parse(&format!("{line}\n{line}")).err().unwrap().1.contains("already"));
    }
}
