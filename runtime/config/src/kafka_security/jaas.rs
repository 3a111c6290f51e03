//! One line of JAAS, as `sasl.jaas.config` has it.

use super::{Found, JAAS, wrong};
use std::collections::BTreeMap;

/// `Debug` is not derived: it has passwords (invariant 9).
pub(super) struct Jaas {
    /// The class without its package; never loaded, only compared.
    pub(super) module: String,
    pub(super) options: BTreeMap<String, String>,
}

pub(super) const PLAIN: &str = "PlainLoginModule";
pub(super) const SCRAM: &str = "ScramLoginModule";
pub(super) const OAUTH: &str = "OAuthBearerLoginModule";

pub(super) fn example(module: &str) -> String {
    let (package, options) = match module {
        PLAIN => ("plain", "username=\"…\" password=\"…\""),
        SCRAM => ("scram", "username=\"…\" password=\"…\""),
        _ => ("oauthbearer", "clientId=\"…\" clientSecret=\"…\""),
    };
    format!("write org.apache.kafka.common.security.{package}.{module} required {options};")
}

/// `org.apache.kafka.common.security.plain.PlainLoginModule required username="a" password="b";`
pub(super) fn jaas(text: &str) -> Found<Jaas> {
    // Never shows the text: it has the password.
    let malformed = |why: &str| Box::new(wrong(JAAS, why).fix(example(PLAIN)));
    let text = text.trim().strip_suffix(';').ok_or_else(|| malformed("does not end with ;"))?.trim_end();
    let (class, rest) = text.split_once(char::is_whitespace).ok_or_else(|| malformed("has no options"))?;
    let module = class.rsplit('.').next().unwrap_or_default();
    let is_known = [PLAIN, SCRAM, OAUTH].contains(&module);
    if !is_known || class.len() > module.len() && !class.starts_with("org.apache.kafka.common.security.") {
        return Err(malformed(
            "names a login module that is not known: PlainLoginModule, ScramLoginModule and OAuthBearerLoginModule are",
        ));
    }
    let mut rest = rest.trim_start();
    let flag = rest.split(char::is_whitespace).next().unwrap_or_default();
    if !["required", "requisite", "sufficient", "optional"].contains(&flag.to_ascii_lowercase().as_str()) {
        return Err(malformed("has no `required` behind the class"));
    }
    rest = rest[flag.len()..].trim_start();
    let mut options = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| malformed("has an option without ="))?;
        let (value, after) = value(after.trim_start()).ok_or_else(|| malformed("has a value that does not end"))?;
        options.insert(key.trim().to_owned(), value);
        rest = after.trim_start();
    }
    Ok(Jaas { module: module.to_owned(), options })
}

/// Quoted with backslashes as in Java, or up to the next space; and what comes behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let (mut value, mut chars) = (String::new(), text.char_indices().skip(1));
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, &text[at + c.len_utf8()..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}
