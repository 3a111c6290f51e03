//! Options that a JSON schema declares at run time: those of a plugin. The same findings as for a struct, from the same code.

use crate::list::split_list;
use crate::shape::{Field, Shape};
use crate::types::{ByteSize, Millis};
use aqueduct_core::{Issue, OptionKind, OptionSpec, Options};
use serde_json::{Map, Number, Value};

/// The shape of a plugin's config: `properties` of a JSON Schema 2020-12 object, with the extensions of `shape.rs`.
#[derive(Debug)]
pub struct Schema(Shape);

impl Schema {
    /// What is no object schema has no options.
    pub fn new(schema: &Value) -> Self {
        Self(Shape::of_schema(schema))
    }

    /// In order.
    pub fn options(&self) -> Vec<OptionSpec> {
        self.0.options()
    }

    /// The options that the schema knows, each with its type: numbers (durations in ms, sizes in bytes), booleans, lists, texts. Options that were
    /// not given are absent unless the schema has a default.
    ///
    /// # Errors
    /// Every issue.
    pub fn read(&self, options: &Options) -> Result<Map<String, Value>, Vec<Issue>> {
        let (mut config, mut issues) = (Map::new(), Vec::new());
        for field in &self.0.fields {
            let name = &field.spec.name;
            if let Some(prefix) = field.family_prefix() {
                let members = options.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
                config.extend(members.map(|(key, text)| (key.clone(), Value::String(text.clone()))));
                continue;
            }
            let mut names = std::iter::once(name).chain(&field.aliases);
            let given = names.find_map(|key| options.get(key).map(|text| (key.as_str(), text.as_str())));
            let (key, text) = match (given, &field.spec.default) {
                (Some(given), _) => given,
                (None, Some(default)) => (name.as_str(), default.as_str()),
                (None, None) => {
                    issues.extend(field.spec.required.then(|| field.missing()));
                    continue;
                }
            };
            match typed(field, text) {
                Ok(value) => match field.out_of_range(key, text) {
                    Some(issue) => issues.push(issue),
                    None => drop(config.insert(name.clone(), value)),
                },
                Err(reason) => issues.push(field.refused(key, &reason)),
            }
        }
        if issues.is_empty() { Ok(config) } else { Err(issues) }
    }
}

fn typed(field: &Field, text: &str) -> Result<Value, String> {
    let spec = &field.spec;
    let allowed = |text: &str| spec.allowed.is_empty() || spec.allowed.iter().any(|allowed| allowed == text);
    match spec.format.as_deref() {
        Some("duration") => return Millis::parse(text).map(|millis| millis.as_millis().into()),
        Some("bytes") => return ByteSize::parse(text).map(|size| size.get().into()),
        Some("regex") => return crate::types::Regex::parse(text).map(|_| text.into()),
        _ => {}
    }
    match spec.kind {
        OptionKind::Boolean => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err(format!("{text:?} is not true or false")),
        },
        OptionKind::Int | OptionKind::Long | OptionKind::Short => {
            text.trim().parse::<i64>().map(Value::from).map_err(|_| format!("{text:?} is no whole number"))
        }
        OptionKind::Double => {
            let number = text.trim().parse().ok().and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| format!("{text:?} is no number"))
        }
        OptionKind::List => {
            let items = split_list(text);
            match items.iter().find(|item| !allowed(item)) {
                Some(wrong) => Err(format!("{wrong:?} is not allowed")),
                None => Ok(Value::Array(items.into_iter().map(Value::from).collect())),
            }
        }
        OptionKind::Class | OptionKind::Password | OptionKind::String => {
            if allowed(text) {
                Ok(text.into())
            } else {
                Err(format!("{text:?} is not allowed"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::new(&json!({
            "type": "object",
            "required": ["topic", "count"],
            "properties": {
                "topic": {"type": "string", "description": "The topic."},
                "count": {"type": "integer", "minimum": 1, "description": "How many."},
                "wait.ms": {"type": "integer", "x-format": "duration", "default": "5 s", "description": "How long."},
                "mode": {"enum": ["fast", "slow"], "description": "How."},
                "fields": {"type": "array", "items": {"type": "string"}, "description": "Which."},
                "loud": {"type": "boolean", "description": "Whether."}
            }
        }))
    }

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn text_becomes_what_the_schema_says() {
        let given = options(&[("topic", "t"), ("count", " 3 "), ("fields", "a, b"), ("loud", "TRUE"), ("tasks.max", "1")]);
        let read = Value::Object(schema().read(&given).unwrap());
        assert_eq!(read, json!({"topic": "t", "count": 3, "wait.ms": 5000, "fields": ["a", "b"], "loud": true}));
    }

    #[test]
    fn every_issue_at_once() {
        let issues = schema().read(&options(&[("count", "0"), ("mode", "fsat"), ("loud", "x"), ("wait.ms", "z")])).unwrap_err();
        let found: Vec<(&str, &str)> = issues.iter().map(|issue| (issue.path.as_str(), issue.code.as_str())).collect();
        let expected = [
            ("topic", "config.missing"),
            ("count", "config.range"),
            ("wait.ms", "config.duration"),
            ("mode", "config.enum"),
            ("loud", "config.type"),
        ];
        assert_eq!(found, expected);
        assert!(issues[3].fix.as_deref().unwrap().starts_with("did you mean fast?"));
        assert!(Schema::new(&Value::Null).options().is_empty());
    }
}
