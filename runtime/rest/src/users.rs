//! `rest.users`: who may call, from a file that is read anew when it changes.

mod file;

use crate::ApiError;
use crate::access::{Caller, Peer};
use crate::failures::Failures;
use aqueduct_core::{Error, Result};
use arc_swap::ArcSwap;
use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use file::{Entry, Proof, read, stamp};
pub use file::{password_line, token_line};

/// The file is looked at once in this time, when somebody calls.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Password hashes computed at once: each takes 50 ms of a core and 19 MiB.
const HASHES_AT_ONCE: usize = 2;
/// Logins that wait for that; beyond, 429.
const LOGINS_MAX: usize = 32;
/// Verified credentials that are remembered. When there are more, all are forgotten.
const REMEMBERED_MAX: usize = 1024;
/// 22 characters of base64 are 128 bits.
const TOKEN_CHARS_MIN: usize = 22;
/// A longer `Authorization` is nobody's.
const CREDENTIAL_MAX: usize = 8192;

pub struct Users {
    path: PathBuf,
    loaded: ArcSwap<Loaded>,
    looked: Mutex<Instant>,
    failures: Failures,
    hashing: Arc<Semaphore>,
    logins: Semaphore,
}

/// One reading of the file, and what was verified against it: a user who is taken out is taken out at once.
struct Loaded {
    stamp: file::Stamp,
    entries: Vec<Entry>,
    /// Of this reading alone: what it says of a password tells nothing to who reads the memory of another.
    key: [u8; 32],
    /// Keyed hashes of verified credentials. Nobody can aim at one without the key, so that the time of a lookup tells nothing.
    verified: Mutex<HashMap<[u8; 32], usize>>,
}

/// Why a call is not let in.
pub(crate) enum Refusal {
    /// 401. The same for no credentials, an unknown user and a wrong password.
    Unknown,
    /// 429
    Wait(Duration),
}

impl Users {
    /// # Errors
    /// `rest.users` with what is wrong with the file: that others may read it, a line.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            loaded: ArcSwap::from_pointee(Loaded::read(path)?),
            path: path.to_path_buf(),
            looked: Mutex::new(Instant::now()),
            failures: Failures::default(),
            hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            logins: Semaphore::new(LOGINS_MAX),
        })
    }

    pub(crate) async fn caller(&self, authorization: Option<&HeaderValue>, peer: &Peer) -> Result<Caller, Refusal> {
        self.look().await;
        let loaded = self.loaded.load_full();
        let Some(header) = authorization else {
            // The certificate was verified when the connection began.
            let certificate = peer.certificate.and_then(|shown| loaded.certificate(&shown));
            return certificate.ok_or(Refusal::Unknown);
        };
        let text = header.to_str().ok().filter(|text| text.len() <= CREDENTIAL_MAX).unwrap_or_default();
        let (scheme, credential) = text.split_once(' ').unwrap_or_default();
        let (address, now) = (peer.address.map(|address| address.ip()), Instant::now());
        if scheme.eq_ignore_ascii_case("bearer") {
            // A right token is never told to wait: 128 bits cannot be guessed, so that to answer tells nobody anything, and what others do at the
            // same address does not lock automation out.
            if let Some(caller) = loaded.token(credential.trim()) {
                return Ok(caller);
            }
            return Err(self.refuse(address, "", now));
        }
        let decoded = STANDARD.decode(credential.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let (name, password) = decoded.split_once(':').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("basic") || name.is_empty() {
            return Err(self.refuse(address, "", now));
        }
        if let Some(wait) = self.failures.wait(address, name, now) {
            return Err(Refusal::Wait(wait));
        }
        match self.password(&loaded, name, password).await? {
            Some(caller) => {
                self.failures.succeeded(address, name);
                Ok(caller)
            }
            None => Err(self.refuse(address, name, Instant::now())),
        }
    }

    /// Counts a failure. Who must wait is told so.
    fn refuse(&self, address: Option<std::net::IpAddr>, user: &str, now: Instant) -> Refusal {
        if let Some(wait) = self.failures.wait(address, user, now) {
            return Refusal::Wait(wait);
        }
        self.failures.failed(address, user, now);
        match address {
            Some(address) => tracing::warn!(target: "audit", %address, "audit: a login failed"),
            None => tracing::warn!(target: "audit", "audit: a login failed"),
        }
        Refusal::Unknown
    }

    async fn password(&self, loaded: &Arc<Loaded>, name: &str, password: &str) -> Result<Option<Caller>, Refusal> {
        let digest = loaded.digest(name, password);
        if let Some(at) = loaded.verified.lock().get(&digest) {
            return Ok(loaded.entries.get(*at).map(Entry::caller));
        }
        let is_named = |entry: &&(usize, String, bool)| entry.2;
        let hashes: Vec<(usize, String, bool)> = loaded
            .entries
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| match &entry.proof {
                Proof::Password(hash) => Some((at, hash.clone(), entry.name == name)),
                _ => None,
            })
            .collect();
        // A name that is not there costs as much as one that is: the time does not tell which names there are.
        let Some((at, hash, named)) = hashes.iter().find(is_named).or(hashes.first()).cloned() else { return Ok(None) };
        let Ok(_login) = self.logins.try_acquire() else { return Err(Refusal::Wait(Duration::from_secs(1))) };
        let Ok(permit) = self.hashing.clone().acquire_owned().await else { return Ok(None) };
        let password = password.to_owned();
        // Off the control plane's threads (invariant 10). The permit goes along: a client that hangs up does not make room for another hash.
        let verified = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            // Compares in constant time.
            PasswordHash::new(&hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        });
        if !(verified.await.unwrap_or(false) && named) {
            return Ok(None);
        }
        let mut known = loaded.verified.lock();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(digest, at);
        Ok(loaded.entries.get(at).map(Entry::caller))
    }

    /// Reads the file anew if it changed. One that cannot be read leaves the users that there are.
    async fn look(&self) {
        {
            let mut looked = self.looked.lock();
            if looked.elapsed() < LOOK_EVERY {
                return;
            }
            *looked = Instant::now();
        }
        let (path, before) = (self.path.clone(), self.loaded.load().stamp);
        let read = tokio::task::spawn_blocking(move || {
            let now = stamp(&path);
            (now != before).then(|| (now, Loaded::read(&path)))
        });
        let Ok(Some((now, outcome))) = read.await else { return };
        match outcome {
            Ok(new) => {
                tracing::info!(target: "audit", users = new.entries.len(), "{} was read anew", self.path.display());
                self.loaded.store(Arc::new(new));
            }
            Err(error) => {
                tracing::error!("{} changed, and the users that were there stay: {error}", self.path.display());
                // Told once for each change.
                let old = self.loaded.load();
                self.loaded.store(Arc::new(Loaded::new(now, old.entries.clone())));
            }
        }
    }
}

impl Loaded {
    fn new(stamp: file::Stamp, entries: Vec<Entry>) -> Self {
        Self { stamp, entries, key: rand::random(), verified: Mutex::default() }
    }

    fn read(path: &Path) -> Result<Self> {
        let stamp = stamp(path);
        Ok(Self::new(stamp, read(path)?))
    }

    fn digest(&self, name: &str, password: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        // A name has no colon.
        mac.update(name.as_bytes());
        mac.update(b":");
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// SHA-256 is right for what has 128 bits and more: nobody can try them all, so that a slow hash would protect nothing.
    fn token(&self, token: &str) -> Option<Caller> {
        if token.len() < TOKEN_CHARS_MIN {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.with(|proof| matches!(proof, Proof::Token(hash) if bool::from(hash.ct_eq(&digest))))
    }

    fn certificate(&self, shown: &[u8; 32]) -> Option<Caller> {
        self.with(|proof| matches!(proof, Proof::Certificate(hash) if hash == shown))
    }

    fn with(&self, right: impl Fn(&Proof) -> bool) -> Option<Caller> {
        self.entries.iter().find(|entry| right(&entry.proof)).map(Entry::caller)
    }
}

impl Entry {
    fn caller(&self) -> Caller {
        Caller::new(&self.name, self.role, self.connectors.clone())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        let error = match self {
            Refusal::Unknown => {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Aqueduct\", charset=\"UTF-8\""));
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"Aqueduct\""));
                ApiError::new(401, "HTTP 401 Unauthorized: send the name and password of a user, or a token")
            }
            Refusal::Wait(wait) => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
                ApiError::new(429, format!("HTTP 429 Too Many Requests: too many logins failed; try again in {seconds} s"))
            }
        };
        (headers, error).into_response()
    }
}

pub(crate) fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::fatal("rest.users", format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests;
