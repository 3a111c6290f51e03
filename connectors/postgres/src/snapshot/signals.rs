//! Debezium's signals. Pure.

use aqueduct_core::{Error, Result, Signal};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

#[derive(Debug)]
pub enum Request {
    Execute(Execute),
    /// Those whose names match; empty: all.
    Stop(Vec<Pattern>),
    Pause,
    Resume,
    Log(String),
    /// Of a window that Debezium opened or closed: nothing to do.
    Window,
}

#[derive(Debug)]
pub struct Execute {
    pub id: String,
    /// The stream waits meanwhile.
    pub blocking: bool,
    pub tables: Vec<Pattern>,
    /// Over `schema.table`; the first that matches counts.
    pub conditions: Vec<(Pattern, String)>,
    pub surrogate: Option<String>,
}

/// An expression over whole names `schema.table`. A name with the database before it means the same.
#[derive(Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// # Errors
    /// `postgres.signal`: no regular expression.
    pub fn new(text: &str) -> Result<Self> {
        // Debezium's users quote names that need it.
        let text = text.trim().replace('"', "");
        let regex = RegexBuilder::new(&format!("^(?:{text})$")).case_insensitive(true).size_limit(1 << 20).build();
        regex.map(Self).map_err(|_| bad(format!("{text:?} is no regular expression over schema.table")))
    }

    pub fn matches(&self, schema: &str, table: &str, database: &str) -> bool {
        let name = format!("{schema}.{table}");
        self.0.is_match(&name) || self.0.is_match(&format!("{database}.{name}"))
    }
}

fn bad(why: impl std::fmt::Display) -> Error {
    Error::fatal("postgres.signal", format!("the signal cannot be carried out: {why}"))
}

/// # Errors
/// `postgres.signal`: what is wrong with it.
pub fn parse(signal: &Signal) -> Result<Request> {
    // A row of the signal table has its data as a text.
    let data = match &signal.data {
        Value::String(text) if text.trim().is_empty() => Value::Null,
        Value::String(text) => serde_json::from_str(text).map_err(|error| bad(format!("its data is no JSON: {error}")))?,
        data => data.clone(),
    };
    match signal.kind.as_str() {
        "execute-snapshot" => execute(&signal.id, &data).map(Request::Execute),
        "stop-snapshot" => Ok(Request::Stop(patterns(&data)?)),
        "pause-snapshot" => Ok(Request::Pause),
        "resume-snapshot" => Ok(Request::Resume),
        "log" => {
            let message = data.get("message").and_then(Value::as_str).filter(|text| !text.is_empty());
            message.map(|text| Request::Log(text.to_owned())).ok_or_else(|| bad("`message` is missing"))
        }
        "snapshot-window-open" | "snapshot-window-close" => Ok(Request::Window),
        other => {
            let known = "execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot and log";
            Err(bad(format!("its type is {other:?}; there are {known}")))
        }
    }
}

fn execute(id: &str, data: &Value) -> Result<Execute> {
    let blocking = match data.get("type").and_then(Value::as_str).unwrap_or("incremental").to_ascii_lowercase().as_str() {
        "incremental" => false,
        "blocking" => true,
        other => return Err(bad(format!("`type` is {other:?}; it can be incremental or blocking"))),
    };
    let tables = patterns(data)?;
    if tables.is_empty() {
        return Err(bad("`data-collections` is missing or empty"));
    }
    let mut conditions = Vec::new();
    for condition in data.get("additional-conditions").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| {
            condition.get(key).and_then(Value::as_str).ok_or_else(|| bad(format!("`{key}` is missing in additional-conditions")))
        };
        conditions.push((Pattern::new(text("data-collection")?)?, text("filter")?.to_owned()));
    }
    let surrogate = data.get("surrogate-key").and_then(Value::as_str).map(str::trim).filter(|key| !key.is_empty());
    Ok(Execute { id: id.to_owned(), blocking, tables, conditions, surrogate: surrogate.map(str::to_owned) })
}

fn patterns(data: &Value) -> Result<Vec<Pattern>> {
    let all = data.get("data-collections").and_then(Value::as_array).into_iter().flatten();
    all.map(|name| Pattern::new(name.as_str().ok_or_else(|| bad("`data-collections` must be texts"))?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn signal(kind: &str, data: Value) -> Result<Request> {
        parse(&Signal { id: "1".into(), kind: kind.into(), data })
    }

    #[test]
    fn signals_come_as_debeziums_users_write_them() {
        let data = json!({"type": "INCREMENTAL", "data-collections": ["public.\"Orders\"", "shop.public.i.*"],
            "additional-conditions": [{"data-collection": "public.orders", "filter": "x > 1"}], "surrogate-key": "k"});
        for data in [Value::String(data.to_string()), data] {
            let Request::Execute(execute) = signal("execute-snapshot", data).unwrap() else { panic!() };
            assert!(!execute.blocking && execute.surrogate.as_deref() == Some("k"));
            let matches = |table: &str| execute.tables.iter().any(|pattern| pattern.matches("public", table, "shop"));
            assert!(matches("orders") && matches("items") && !matches("reorders"));
            assert!(execute.conditions[0].0.matches("public", "orders", "shop") && execute.conditions[0].1 == "x > 1");
        }
        assert!(matches!(signal("stop-snapshot", Value::Null).unwrap(), Request::Stop(all) if all.is_empty()));
        assert!(matches!(signal("log", json!({"message": "hello"})).unwrap(), Request::Log(text) if text == "hello"));
        assert!(matches!(signal("snapshot-window-open", json!("")).unwrap(), Request::Window));
    }

    #[test]
    fn a_wrong_signal_says_what_is_wrong() {
        for (kind, data, says) in [
            ("sing", json!({}), "its type is \"sing\""),
            ("execute-snapshot", json!({}), "`data-collections` is missing"),
            ("execute-snapshot", json!({"data-collections": ["a.b"], "type": "quick"}), "`type` is \"quick\""),
            ("execute-snapshot", json!({"data-collections": ["("]}), "no regular expression"),
            ("execute-snapshot", json!("{"), "no JSON"),
            (
                "execute-snapshot",
                json!({"data-collections": ["a"], "additional-conditions": [{"filter": "x"}]}),
                "`data-collection` is missing",
            ),
            ("log", json!({}), "`message` is missing"),
        ] {
            let error = signal(kind, data).unwrap_err();
            assert!(error.code() == "postgres.signal" && error.message().contains(says), "{error}");
        }
    }
}
