//! Who may send: bearer tokens and passwords, compared in constant time.

use crate::answer::Refusal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The digests of what is accepted: of equal length whatever was sent, so that the time of a comparison tells nothing.
pub(crate) enum Auth {
    None,
    Bearer(Vec<[u8; 32]>),
    /// Of `user:password`.
    Basic(Vec<[u8; 32]>),
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

impl Auth {
    pub(crate) fn bearer(tokens: &[String]) -> Self {
        Auth::Bearer(tokens.iter().map(|token| digest(token.as_bytes())).collect())
    }

    pub(crate) fn basic(user: &str, passwords: &[String]) -> Self {
        Auth::Basic(passwords.iter().map(|password| digest(format!("{user}:{password}").as_bytes())).collect())
    }

    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let (accepted, asked) = match self {
            Auth::None => return Ok(()),
            Auth::Bearer(accepted) => (accepted, "Bearer"),
            Auth::Basic(accepted) => (accepted, "Basic realm=\"webhook\""),
        };
        let refuse = || Refusal::unauthorized(Some(asked), "the Authorization header is missing or wrong");
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(refuse)?;
        let (scheme, rest) = given.split_once(' ').ok_or_else(refuse)?;
        let digest = match self {
            Auth::Bearer(_) if scheme.eq_ignore_ascii_case("bearer") => digest(rest.trim().as_bytes()),
            Auth::Basic(_) if scheme.eq_ignore_ascii_case("basic") => {
                digest(&STANDARD.decode(rest.trim()).map_err(|_| refuse())?)
            }
            _ => return Err(refuse()),
        };
        let equal = accepted.iter().fold(Choice::from(0), |found, one| found | one.ct_eq(&digest));
        if bool::from(equal) { Ok(()) } else { Err(refuse()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(auth: &Auth, given: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert(AUTHORIZATION, given.parse().unwrap());
        }
        auth.check(&headers).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn tokens_and_passwords() {
        let bearer = Auth::bearer(&["old".to_owned(), "new".to_owned()]);
        for (given, expected) in
            [("Bearer old", 200), ("bearer new", 200), ("Bearer ol", 401), ("Bearer", 401), ("Basic old", 401)]
        {
            assert_eq!(status(&bearer, Some(given)), expected, "{given}");
        }
        assert_eq!(status(&bearer, None), 401);
        // RFC 7617's example.
        let basic = Auth::basic("Aladdin", &["open sesame".to_owned()]);
        for (given, expected) in
            [("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", 200), ("Basic QWxhZGRpbjpvcGVu", 401), ("Basic ***", 401)]
        {
            assert_eq!(status(&basic, Some(given)), expected, "{given}");
        }
        assert_eq!(status(&Auth::None, None), 200);
    }
}
