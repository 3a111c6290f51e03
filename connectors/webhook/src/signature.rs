//! Signatures of bodies: GitHub, Stripe, Slack, Standard Webhooks (Svix), and what options describe.

use crate::config::{Algorithm, Encoding, Scheme};
use crate::template::Part;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use hyper::header::HeaderName;
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use std::time::Duration;
use subtle::{Choice, ConstantTimeEq};

/// How a request is signed.
pub(crate) struct Signature {
    header: HeaderName,
    /// The header under another name: Svix's.
    other: Option<HeaderName>,
    shape: Shape,
    encoding: Encoding,
    signed: Vec<Signed>,
    timestamp: Option<(HeaderName, Option<HeaderName>)>,
    /// Either way from now.
    tolerance: Duration,
    keys: Vec<Key>,
}

enum Shape {
    /// Signatures with a prefix, separated by spaces.
    Prefixed(String),
    /// `t=1492774577,v1=5257a8…,v1=…`
    Stripe,
}

/// A piece of what is signed.
enum Signed {
    Literal(String),
    Body,
    Timestamp,
    Header(HeaderName, Option<HeaderName>),
}

#[derive(Clone)]
enum Key {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// There is no signature, or no time.
    Missing,
    /// The time is too far from now.
    Stale,
    Wrong,
}

/// More than any sender has at once; each costs a comparison.
const CANDIDATES_MAX: usize = 16;

const WEBHOOK: [(&str, &str); 3] =
    [("webhook-id", "svix-id"), ("webhook-timestamp", "svix-timestamp"), ("webhook-signature", "svix-signature")];

impl Signature {
    /// One of the known schemes; not `none` nor `custom`.
    ///
    /// # Errors
    /// For a secret that cannot be one.
    pub(crate) fn of(scheme: Scheme, secrets: &[String], tolerance: Duration) -> Result<Self, String> {
        let plain = || keys(Algorithm::Sha256, secrets.iter().map(|secret| secret.clone().into_bytes()));
        let name = HeaderName::from_static;
        let base = |header: &'static str, prefix: &str, signed: Vec<Signed>| Self {
            header: name(header),
            other: None,
            shape: Shape::Prefixed(prefix.to_owned()),
            encoding: Encoding::Hex,
            signed,
            timestamp: None,
            tolerance,
            keys: plain(),
        };
        let dot = || Signed::Literal(".".to_owned());
        Ok(match scheme {
            Scheme::None | Scheme::Custom | Scheme::Github => base("x-hub-signature-256", "sha256=", vec![Signed::Body]),
            Scheme::Stripe => {
                Self { shape: Shape::Stripe, ..base("stripe-signature", "", vec![Signed::Timestamp, dot(), Signed::Body]) }
            }
            Scheme::Slack => {
                let colon = || Signed::Literal(":".to_owned());
                let signed = vec![Signed::Literal("v0:".to_owned()), Signed::Timestamp, colon(), Signed::Body];
                Self { timestamp: Some((name("x-slack-request-timestamp"), None)), ..base("x-slack-signature", "v0=", signed) }
            }
            Scheme::StandardWebhooks => {
                let [id, timestamp, signature] = WEBHOOK.map(|(ours, svix)| (name(ours), Some(name(svix))));
                let secrets: Result<Vec<_>, _> =
                    secrets.iter().map(|secret| STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret))).collect();
                let secrets =
                    secrets.map_err(|_| "a secret of Standard Webhooks is base64, with or without whsec_ in front".to_owned())?;
                Self {
                    other: signature.1,
                    encoding: Encoding::Base64,
                    timestamp: Some(timestamp),
                    keys: keys(Algorithm::Sha256, secrets),
                    ..base(
                        "webhook-signature",
                        "v1,",
                        vec![Signed::Header(id.0, id.1), dot(), Signed::Timestamp, dot(), Signed::Body],
                    )
                }
            }
        })
    }

    /// # Errors
    /// For names in `content` that mean nothing.
    pub(crate) fn custom(
        (header, prefix): (HeaderName, &str),
        (encoding, algorithm): (Encoding, Algorithm),
        content: &[Part],
        (timestamp, tolerance): (Option<HeaderName>, Duration),
        secrets: &[String],
    ) -> Result<Self, String> {
        let signed = content.iter().map(|part| match part {
            Part::Literal(text) => Ok(Signed::Literal(text.clone())),
            Part::Name(name) if name == "body" => Ok(Signed::Body),
            Part::Name(name) if name == "timestamp" && timestamp.is_some() => Ok(Signed::Timestamp),
            Part::Name(name) => match name.strip_prefix("header:").map(str::trim).map(HeaderName::try_from) {
                Some(Ok(name)) => Ok(Signed::Header(name, None)),
                _ if name == "timestamp" => Err("{timestamp} needs signature.timestamp.header".to_owned()),
                _ => Err(format!("{{{name}}} is none of {{body}}, {{timestamp}} and {{header:NAME}}")),
            },
        });
        let signed = signed.collect::<Result<Vec<_>, _>>()?;
        if !signed.iter().any(|part| matches!(part, Signed::Body)) {
            return Err("without {body} anything could be sent under a signature that was seen once".to_owned());
        }
        let keys = keys(algorithm, secrets.iter().map(|secret| secret.clone().into_bytes()));
        let shape = Shape::Prefixed(prefix.to_owned());
        Ok(Self { header, other: None, shape, encoding, signed, timestamp: timestamp.map(|name| (name, None)), tolerance, keys })
    }

    /// The headers that carry signatures: never copied into records.
    pub(crate) fn header(&self) -> &HeaderName {
        &self.header
    }

    /// `now` in seconds since 1970.
    pub(crate) fn verify(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<(), Denied> {
        let given = text(headers, &self.header, self.other.as_ref()).ok_or(Denied::Missing)?;
        let mut candidates: Vec<Vec<u8>> = Vec::new();
        let mut timestamp = match &self.timestamp {
            Some((name, other)) => Some(text(headers, name, other.as_ref()).ok_or(Denied::Missing)?),
            None => None,
        };
        let mut add = |encoded: &str| {
            if candidates.len() < CANDIDATES_MAX {
                candidates.extend(decode(self.encoding, encoded));
            }
        };
        match &self.shape {
            Shape::Prefixed(prefix) => {
                given.split(' ').filter_map(|one| one.trim().strip_prefix(prefix.as_str())).for_each(&mut add)
            }
            Shape::Stripe => {
                for (name, value) in given.split(',').filter_map(|item| item.trim().split_once('=')) {
                    match name {
                        "t" => timestamp = Some(value),
                        "v1" => add(value),
                        _ => {}
                    }
                }
                if timestamp.is_none() {
                    return Err(Denied::Missing);
                }
            }
        }
        if let Some(timestamp) = timestamp {
            let at: u64 = timestamp.trim().parse().map_err(|_| Denied::Missing)?;
            if now.abs_diff(at) > self.tolerance.as_secs() {
                return Err(Denied::Stale);
            }
        }
        let mut found = Choice::from(0);
        for key in &self.keys {
            let code = self.code(key, headers, body, timestamp.unwrap_or_default())?;
            for candidate in &candidates {
                found |= code.as_slice().ct_eq(candidate);
            }
        }
        if bool::from(found) { Ok(()) } else { Err(Denied::Wrong) }
    }

    fn code(&self, key: &Key, headers: &HeaderMap, body: &[u8], timestamp: &str) -> Result<Vec<u8>, Denied> {
        let mut key = key.clone();
        for part in &self.signed {
            key.update(match part {
                Signed::Literal(text) => text.as_bytes(),
                Signed::Body => body,
                Signed::Timestamp => timestamp.as_bytes(),
                Signed::Header(name, other) => text(headers, name, other.as_ref()).ok_or(Denied::Missing)?.as_bytes(),
            });
        }
        Ok(key.finish())
    }
}

impl Key {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Key::Sha1(mac) => mac.update(bytes),
            Key::Sha256(mac) => mac.update(bytes),
            Key::Sha512(mac) => mac.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Key::Sha1(mac) => mac.finalize().into_bytes().to_vec(),
            Key::Sha256(mac) => mac.finalize().into_bytes().to_vec(),
            Key::Sha512(mac) => mac.finalize().into_bytes().to_vec(),
        }
    }
}

fn keys(algorithm: Algorithm, secrets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Key> {
    let key = |secret: Vec<u8>| match algorithm {
        Algorithm::Sha1 => Key::Sha1(Hmac::new_from_slice(&secret).expect("HMAC takes keys of any length")),
        Algorithm::Sha256 => Key::Sha256(Hmac::new_from_slice(&secret).expect("HMAC takes keys of any length")),
        Algorithm::Sha512 => Key::Sha512(Hmac::new_from_slice(&secret).expect("HMAC takes keys of any length")),
    };
    secrets.into_iter().map(key).collect()
}

/// One value: of a header that is there twice nobody knows which one was meant.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName, other: Option<&HeaderName>) -> Option<&'a str> {
    let one = |name: &HeaderName| {
        let mut all = headers.get_all(name).iter();
        let first = all.next()?;
        if all.next().is_some() { None } else { first.to_str().ok() }
    };
    one(name).or_else(|| other.and_then(one))
}

fn decode(encoding: Encoding, text: &str) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Base64 => STANDARD.decode(text).ok(),
        Encoding::Hex if text.len().is_multiple_of(2) && text.is_ascii() => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            text.as_bytes().chunks_exact(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
        }
        Encoding::Hex => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template;

    const MINUTES: Duration = Duration::from_secs(300);

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        map
    }

    /// `text` as the only secret, and also as the second of two.
    fn both(scheme: Scheme, text: &str) -> [Signature; 2] {
        let other = "whsec_b3RoZXI=".to_owned();
        [
            Signature::of(scheme, &[text.to_owned()], MINUTES).unwrap(),
            Signature::of(scheme, &[other, text.to_owned()], MINUTES).unwrap(),
        ]
    }

    #[test]
    fn githubs_published_example() {
        let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        for signature in both(Scheme::Github, "It's a Secret to Everybody") {
            let given = headers(&[("X-Hub-Signature-256", good)]);
            assert_eq!(signature.verify(&given, b"Hello, World!", 0), Ok(()));
            assert_eq!(signature.verify(&given, b"Hello, World?", 0), Err(Denied::Wrong));
            assert_eq!(signature.verify(&headers(&[]), b"Hello, World!", 0), Err(Denied::Missing));
            let twice = headers(&[("X-Hub-Signature-256", good), ("X-Hub-Signature-256", "sha256=00")]);
            assert_eq!(signature.verify(&twice, b"Hello, World!", 0), Err(Denied::Missing));
            for bad in ["sha256=", "sha256=zz", "sha256=7571", &good[7..], "sha256=\u{7f}"] {
                let given = headers(&[("X-Hub-Signature-256", bad.trim_end_matches('\u{7f}'))]);
                assert_eq!(signature.verify(&given, b"Hello, World!", 0), Err(Denied::Wrong), "{bad}");
            }
        }
    }

    #[test]
    fn slacks_published_example() {
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let given = headers(&[
            ("X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
            ("X-Slack-Request-Timestamp", "1531420618"),
        ]);
        for signature in both(Scheme::Slack, "8f742231b10e8888abcd99yyyzzz85a5") {
            for (now, expected) in [
                (1_531_420_618, Ok(())),
                (1_531_420_918, Ok(())),
                (1_531_420_919, Err(Denied::Stale)),
                (1_531_420_317, Err(Denied::Stale)),
            ] {
                assert_eq!(signature.verify(&given, body, now), expected, "{now}");
            }
        }
    }

    #[test]
    fn the_standards_own_vectors() {
        let body = br#"{"test": 2432232314}"#;
        let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let list = format!("v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,x {good}");
        for secret in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            for signature in both(Scheme::StandardWebhooks, secret) {
                for (prefix, value) in [("webhook", good), ("svix", good), ("webhook", &list)] {
                    let (id, at, sig) = (format!("{prefix}-id"), format!("{prefix}-timestamp"), format!("{prefix}-signature"));
                    let given = headers(&[(&id, "msg_p5jXN8AQM9LWM0D4loKWxJek"), (&at, "1614265330"), (&sig, value)]);
                    assert_eq!(signature.verify(&given, body, 1_614_265_330), Ok(()), "{prefix} {value}");
                    assert_eq!(signature.verify(&given, body, 1_614_999_999), Err(Denied::Stale));
                    assert_eq!(signature.verify(&given, b"{}", 1_614_265_330), Err(Denied::Wrong));
                }
                let without_id = headers(&[("webhook-timestamp", "1614265330"), ("webhook-signature", good)]);
                assert_eq!(signature.verify(&without_id, body, 1_614_265_330), Err(Denied::Missing));
            }
        }
        // Svix's documentation.
        let given = headers(&[
            ("svix-id", "msg_loFOjxBNrRLzqYUf"),
            ("svix-timestamp", "1731705121"),
            ("svix-signature", "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="),
        ]);
        let svix = Signature::of(Scheme::StandardWebhooks, &["whsec_plJ3nmyCDGBKInavdOK15jsl".to_owned()], MINUTES).unwrap();
        assert_eq!(svix.verify(&given, br#"{"event_type":"ping","data":{"success":true}}"#, 1_731_705_121), Ok(()));
        assert!(Signature::of(Scheme::StandardWebhooks, &["whsec_***".to_owned()], MINUTES).is_err());
    }

    /// Made with `printf '1492774577.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test`.
    const STRIPE: &str = "7656fc2882a7ca0a651666b36bf2f2f22ee204f54f608f227498a2419f2890b2";

    #[test]
    fn stripes_header_of_several_signatures() {
        let body = br#"{"id":"evt_1"}"#;
        let zeros = "0".repeat(64);
        for signature in both(Scheme::Stripe, "whsec_test") {
            for (value, expected) in [
                (format!("t=1492774577,v1={STRIPE}"), Ok(())),
                (format!("t=1492774577,v1={zeros}, v1={STRIPE},v0={zeros}"), Ok(())),
                (format!("t=1492774578,v1={STRIPE}"), Err(Denied::Wrong)),
                (format!("t=1492774577,v0={STRIPE}"), Err(Denied::Wrong)),
                (format!("t=1492700000,v1={STRIPE}"), Err(Denied::Stale)),
                (format!("v1={STRIPE}"), Err(Denied::Missing)),
                ("nonsense".to_owned(), Err(Denied::Missing)),
            ] {
                let given = headers(&[("Stripe-Signature", &value)]);
                assert_eq!(signature.verify(&given, body, 1_492_774_577), expected, "{value}");
            }
        }
    }

    fn custom(algorithm: Algorithm, encoding: Encoding, content: &str, timestamp: bool) -> Result<Signature, String> {
        let time = timestamp.then(|| HeaderName::from_static("x-time"));
        let content = template::parse(content)?;
        Signature::custom(
            (HeaderName::from_static("x-sig"), "s="),
            (encoding, algorithm),
            &content,
            (time, MINUTES),
            &["key".to_owned()],
        )
    }

    #[test]
    fn what_options_describe() {
        // The vectors that Wikipedia's article on HMAC gives for the key "key".
        let body = b"The quick brown fox jumps over the lazy dog";
        for (algorithm, hex) in [
            (Algorithm::Sha1, "de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9"),
            (Algorithm::Sha256, "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"),
            (
                Algorithm::Sha512,
                "b42af09057bac1e2d41708e48a902e09b5ff7f12ab428a4fe86653c73dd248fb82f948a549f7b791a5b41915ee4d1ec3935357e4e2317250d0372afa2ebeeb3a",
            ),
        ] {
            let signature = custom(algorithm, Encoding::Hex, "{body}", false).unwrap();
            assert_eq!(signature.verify(&headers(&[("x-sig", &format!("s={hex}"))]), body, 9), Ok(()));
            assert_eq!(signature.verify(&headers(&[("x-sig", &format!("s={}", hex.to_uppercase()))]), body, 9), Ok(()));
            let base64 = STANDARD.encode(decode(Encoding::Hex, hex).unwrap());
            let signature = custom(algorithm, Encoding::Base64, "{body}", false).unwrap();
            assert_eq!(signature.verify(&headers(&[("x-sig", &format!("s={base64}"))]), body, 9), Ok(()));
            // The same text, put together.
            let signature = custom(algorithm, Encoding::Hex, "The {timestamp} {header:x-what} fox{body}", true).unwrap();
            let pairs = [("x-sig", format!("s={hex}")), ("x-time", "quick".to_owned()), ("x-what", "brown".to_owned())];
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let rest = b" jumps over the lazy dog";
            assert_eq!(signature.verify(&headers(&pairs), rest, 9), Err(Denied::Missing), "a time is a number");
        }
        for (content, timestamp) in [("{timestamp}{body}", false), ("{timestamp}", true), ("{path}{body}", true)] {
            assert!(custom(Algorithm::Sha256, Encoding::Hex, content, timestamp).is_err(), "{content}");
        }
    }
}
