//! Defaults of columns, as far as Debezium reads them out of their expressions.

use super::kind::Typed;
use super::value::Decoder;
use aqueduct_core::Data;
use regex::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Debezium's `FUNCTION_DEFAULT_PATTERN`: what starts with a call.
static CALL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[(]?[A-Za-z0-9_.]+\(.*\)").expect("it is written right here, and tests use it"));

/// The default for the column's schema; `None` where there is none, or none that can be known without asking the database.
///
/// A call (`now()`, `nextval(…)`) stands for a zero of the type, as with Debezium: it says that there is a default.
pub(crate) fn default(expression: &str, typed: &Typed) -> Option<Data> {
    let name = typed.name.as_str();
    // The schema's labels are there for enums alone.
    if typed.schema.parameters.contains_key("allowed") {
        let (literal, cast) = expression.rsplit_once("::")?;
        let cast = cast.strip_prefix("public.").unwrap_or(cast).trim_matches('"');
        return (cast == name).then(|| literal_text(literal)).flatten().map(|text| Data::String(text.into_owned()));
    }
    let placeholder = match name {
        "bit" => "00",
        "varbit" | "int2" | "int4" | "int8" | "smallserial" | "serial" | "bigserial" => "0",
        "bool" => "f",
        "bpchar" | "varchar" | "text" | "xml" => "",
        "numeric" | "float4" | "float8" => "0.0",
        "json" | "jsonb" => "{}",
        "uuid" => "00000000-0000-0000-0000-000000000000",
        "date" | "timestamp" | "timestamptz" => "1970-01-01",
        "time" => "00:00:00",
        "interval" => "00:00:00",
        _ => return None,
    };
    // A struct cannot be a default in Kafka Connect (KAFKA-12694).
    if typed.decoder == Decoder::VariableDecimal {
        return None;
    }
    let expression = expression.trim();
    let now = ["current_timestamp", "current_time", "current_date", "localtime", "localtimestamp"];
    let text = if CALL.is_match(expression) || now.iter().any(|word| expression.eq_ignore_ascii_case(word)) {
        Cow::Borrowed(placeholder)
    } else {
        literal_text(expression)?
    };
    match (&typed.decoder, name) {
        (Decoder::Boolean, _) => Some(Data::Boolean(text.eq_ignore_ascii_case("true") || text == "t")),
        (Decoder::Text, "uuid") => uuid::Uuid::parse_str(&text).ok().map(|uuid| Data::String(uuid.to_string())),
        (Decoder::Timestamp(_) | Decoder::TimestampIso, _) => {
            // A zone in the text of a `timestamp` says nothing.
            let end = text.rfind(['+', '-']).filter(|at| *at > 10).unwrap_or(text.len());
            typed.decoder.decode(text[..end].as_bytes()).ok()
        }
        (decoder, _) => decoder.decode(text.as_bytes()).ok(),
    }
}

/// What stands in quotes, or the whole; `None` for NULL.
fn literal_text(expression: &str) -> Option<Cow<'_, str>> {
    let Some(open) = expression.find('\'') else {
        return (!expression.starts_with("NULL::") && !expression.eq_ignore_ascii_case("NULL"))
            .then_some(Cow::Borrowed(expression));
    };
    let escapes = expression[..open].ends_with(['E', 'e']);
    let mut out = String::new();
    let mut rest = expression[open + 1..].chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' if rest.peek() == Some(&'\'') => {
                rest.next();
                out.push('\'');
            }
            '\'' => return Some(Cow::Owned(out)),
            '\\' if escapes => out.extend(rest.next()),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        for (expression, text) in [
            ("5", Some("5")),
            ("'-1'::integer", Some("-1")),
            ("'it''s'::text", Some("it's")),
            (r"E'a\\b'::text", Some(r"a\b")),
            ("B'101'::\"bit\"", Some("101")),
            ("NULL::character varying", None),
            ("'open", None),
        ] {
            assert_eq!(literal_text(expression).as_deref(), text, "{expression}");
        }
        assert!(CALL.is_match("nextval('public.a_id_seq'::regclass)"));
        assert!(CALL.is_match("(now() + '1 day'::interval)"));
        assert!(!CALL.is_match("'now()'::text"));
    }
}
