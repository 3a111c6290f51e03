//! `response.http.headers.config`: headers of every answer, as Kafka Connect has them written (Jetty's `HeaderFilter`).

use aqueduct_core::Issue;

/// `set X-Frame-Options: DENY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    pub action: HeaderAction,
    pub name: String,
    /// Of the two with a date: milliseconds from the moment of the answer on.
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderAction {
    /// In place of what the answer has under this name.
    Set,
    /// Beside it.
    Add,
    SetDate,
    AddDate,
}

impl HeaderAction {
    pub fn is_date(self) -> bool {
        matches!(self, Self::SetDate | Self::AddDate)
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "set" => Self::Set,
            "add" => Self::Add,
            "setDate" => Self::SetDate,
            "addDate" => Self::AddDate,
            _ => return None,
        })
    }
}

pub(super) const KEY: &str = "response.http.headers.config";
/// A client takes some 100 headers of an answer at most, and the worker has its own.
const RULES_MAX: usize = 50;
/// They say how the answer is framed: another value would make it unreadable.
const OF_THE_PROTOCOL: [&str; 4] = ["connection", "content-length", "content-type", "transfer-encoding"];

/// `[action] [name]:[value], …`; an entry that holds a comma stands in double quotes.
pub(super) fn read(text: &str, issues: &mut Vec<Issue>) -> Vec<HeaderRule> {
    let entries = entries(text);
    if entries.len() > RULES_MAX {
        let message = format!("has {} headers; at most {RULES_MAX} are sent", entries.len());
        issues.push(Issue::error(KEY, "config.range", message).fix("remove some"));
        return Vec::new();
    }
    let mut rules = Vec::with_capacity(entries.len());
    for entry in entries {
        match rule(&entry) {
            Ok(rule) => rules.push(rule),
            Err(why) => issues.push(Issue::error(KEY, "config.header", format!("{entry:?} {why}")).fix(
                "write `set X-Frame-Options: DENY, \"add Cache-Control: no-cache, no-store\"`: set, add, setDate or addDate",
            )),
        }
    }
    rules
}

fn rule(entry: &str) -> Result<HeaderRule, &'static str> {
    let (action, header) = entry.split_once(char::is_whitespace).ok_or("has no space between action and header")?;
    let action = HeaderAction::parse(action).ok_or("begins with none of set, add, setDate and addDate")?;
    let (name, value) = header.split_once(':').ok_or("has no colon between name and value")?;
    let (name, value) = (name.trim(), value.trim());
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err("has no name of a header before the colon");
    }
    if OF_THE_PROTOCOL.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err("is a header that says how the answer is to be read");
    }
    if value.is_empty() || !value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)) {
        return Err("has no value, or one that is not plain ASCII");
    }
    if action.is_date() && value.parse::<i64>().is_err() {
        return Err("has no whole number of milliseconds as its value");
    }
    Ok(HeaderRule { action, name: name.to_owned(), value: value.to_owned() })
}

/// Parts between commas that are in no quotes, without the quotes and the spaces around them.
fn entries(text: &str) -> Vec<String> {
    let (mut all, mut entry, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => quoted = !quoted,
            '\\' if quoted => entry.extend(chars.next()),
            ',' if !quoted => all.push(std::mem::take(&mut entry)),
            other => entry.push(other),
        }
    }
    all.push(entry);
    all.iter().map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<HeaderRule>, Vec<String>) {
        let mut issues = Vec::new();
        let rules = read(text, &mut issues);
        (rules, issues.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn headers_are_written_as_for_kafka_connect() {
        let rule = |action, name: &str, value: &str| HeaderRule { action, name: name.to_owned(), value: value.to_owned() };
        let text =
            r#"set X-Frame-Options:DENY, "add Cache-Control: no-cache, no-store", setDate Expires: 31540000000, add X: "a:b""#;
        let expected = vec![
            rule(HeaderAction::Set, "X-Frame-Options", "DENY"),
            rule(HeaderAction::Add, "Cache-Control", "no-cache, no-store"),
            rule(HeaderAction::SetDate, "Expires", "31540000000"),
            rule(HeaderAction::Add, "X", "a:b"),
        ];
        assert_eq!(parse(text), (expected, Vec::new()));
        assert_eq!(parse(""), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_is_no_header_is_said() {
        for (text, says) in [
            ("X-Frame-Options:DENY", "no space"),
            ("put X: y", "none of set, add"),
            ("set X", "no colon"),
            ("set : y", "no name"),
            ("set a b: y", "no name"),
            ("set X:", "no value"),
            ("set X: \u{e9}", "no value"),
            ("addDate Expires: soon", "milliseconds"),
            ("set Content-Length: 5", "how the answer is to be read"),
            (&"add X: y,".repeat(51), "at most 50"),
        ] {
            let (rules, issues) = parse(text);
            assert!(rules.is_empty() && issues.len() == 1 && issues[0].contains(says), "{text}: {issues:?}");
        }
    }
}
