//! What a config struct says of its options in its JSON schema: kinds, ranges, formats, documentation.
//!
//! Extensions: `#[schemars(extend("x-importance" = "high", "x-group" = "File", "x-example" = "/var/log/*.log", "x-aliases" = ["file"]))]`.

use crate::list::split_list;
use crate::nearest::nearest;
use crate::types::{ByteSize, Millis};
use aqueduct_core::plugin::Importance;
use aqueduct_core::{Issue, OptionKind, OptionSpec};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The options of a config struct, in the order of its fields.
pub fn specs<C: JsonSchema>() -> Vec<OptionSpec> {
    Shape::of::<C>().options()
}

/// The format of an option that is only another name of one: `the same as `path``.
pub const ALIAS: &str = "alias";

#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) spec: OptionSpec,
    /// Other keys that mean this option.
    pub(crate) aliases: Vec<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    /// Characters of a text, elements of a list.
    min_length: u64,
    max_length: Option<u64>,
    integer: bool,
}

impl Shape {
    /// Made once for each type: a worker with 1,000 connectors asks thousands of times.
    pub(crate) fn of<C: JsonSchema>() -> &'static Self {
        static SHAPES: Mutex<BTreeMap<&'static str, &'static Shape>> = Mutex::new(BTreeMap::new());
        // Full paths, so that only types within different blocks of one function could share a name.
        let name = std::any::type_name::<C>();
        let known = |shapes: &BTreeMap<_, &'static Shape>| shapes.get(name).copied();
        if let Some(shape) = known(&SHAPES.lock().unwrap_or_else(PoisonError::into_inner)) {
            return shape;
        }
        let made = Self::make::<C>();
        let mut shapes = SHAPES.lock().unwrap_or_else(PoisonError::into_inner);
        known(&shapes).unwrap_or_else(|| {
            let shape: &'static Shape = Box::leak(Box::new(made));
            shapes.insert(name, shape);
            shape
        })
    }

    fn make<C: JsonSchema>() -> Self {
        let generator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
        Self::of_schema(generator.into_root_schema_for::<C>().as_value())
    }

    pub(crate) fn of_schema(schema: &Value) -> Self {
        let root = schema.as_object();
        let required: Vec<&str> =
            root.and_then(|root| root.get("required")?.as_array()).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = root.and_then(|root| root.get("properties")?.as_object());
        let fields = properties
            .into_iter()
            .flatten()
            .map(|(name, property)| Field::new(name, property, required.contains(&name.as_str())));
        Self { fields: fields.collect() }
    }

    /// The options in order, then their other names.
    pub(crate) fn options(&self) -> Vec<OptionSpec> {
        let alias = |field: &Field, name: &String| OptionSpec {
            name: name.clone(),
            required: false,
            default: None,
            importance: Importance::Low,
            documentation: format!("The same as `{}`.", field.spec.name),
            format: Some(ALIAS.to_owned()),
            ..field.spec.clone()
        };
        let aliases = self.fields.iter().flat_map(|field| field.aliases.iter().map(move |name| alias(field, name)));
        self.fields.iter().map(|field| field.spec.clone()).chain(aliases).collect()
    }
}

impl Field {
    fn new(name: &str, property: &Value, required: bool) -> Self {
        let empty = Map::new();
        let outer = property.as_object().unwrap_or(&empty);
        let inner = without_null(outer);
        let text = |key: &str| outer.get(key).or_else(|| inner.get(key)).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| inner.get(key).or_else(|| outer.get(key)).and_then(Value::as_f64);
        let items = inner.get("items").and_then(Value::as_object);
        let family = inner.get("x-family").is_some();
        let format = text("x-format").or_else(|| items?.get("x-format")?.as_str().map(str::to_owned));
        let default = outer.get("default").filter(|value| !value.is_null()).map(default_text);
        let required = required && default.is_none() && !family;
        let importance = match text("x-importance").as_deref() {
            Some("high") => Importance::High,
            Some("low") => Importance::Low,
            Some("medium") => Importance::Medium,
            _ if required => Importance::High,
            _ => Importance::Medium,
        };
        let example = outer.get("x-example").or_else(|| outer.get("examples")?.as_array()?.first()).map(default_text);
        let kind = kind_of(name, inner, format.as_deref());
        let default = default.map(|text| if kind == OptionKind::Long { plain_number(&text, format.as_deref()) } else { text });
        let spec = OptionSpec {
            name: name.to_owned(),
            kind,
            required,
            default,
            importance,
            documentation: one_paragraph(&text("description").unwrap_or_default()),
            group: text("x-group").unwrap_or_else(|| "Connector".to_owned()),
            format,
            allowed: allowed_of(items.unwrap_or(inner)),
            example,
        };
        let aliases = outer.get("x-aliases").and_then(Value::as_array).into_iter().flatten();
        Self {
            aliases: aliases.filter_map(Value::as_str).map(str::to_owned).collect(),
            minimum: number("minimum"),
            maximum: number("maximum"),
            min_length: number("minLength").or_else(|| number("minItems")).unwrap_or(0.0) as u64,
            max_length: number("maxLength").or_else(|| number("maxItems")).map(|n| n as u64),
            integer: has_type(inner, "integer"),
            spec,
        }
    }

    /// `headers.` of the family `headers.*`.
    pub(crate) fn family_prefix(&self) -> Option<&str> {
        self.spec.name.strip_suffix('*')
    }

    pub(crate) fn missing(&self) -> Issue {
        let mut fix = format!("add `{}: {}`", self.spec.name, self.spec.example.as_deref().unwrap_or("…"));
        if let Some(sentence) = self.spec.documentation.split_inclusive(['.', ';']).next().filter(|s| !s.is_empty()) {
            fix.push_str(&format!(" ({})", sentence.trim_end_matches(['.', ';'])));
        }
        Issue::error(&self.spec.name, "config.missing", "is required and has no default").fix(fix)
    }

    /// The issue for a value that its type refused, with `reason` from the type.
    pub(crate) fn refused(&self, key: &str, reason: &str) -> Issue {
        let spec = &self.spec;
        if !spec.allowed.is_empty() {
            let given = reason.split('"').nth(1).unwrap_or_default();
            let choice = format!("use one of {}", spec.allowed.join(", "));
            let fix = match nearest(given, spec.allowed.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}? Or {choice}"),
                None => choice,
            };
            return Issue::error(key, "config.enum", format!("{given:?} is not allowed here")).fix(fix);
        }
        let (code, fix) = match spec.format.as_deref() {
            Some("duration") => {
                ("config.duration", "write milliseconds (500) or a number and its unit (10s, 5 min, 1h)".to_owned())
            }
            Some("bytes") => ("config.bytes", "write a number of bytes or a size such as 64 KiB, 10 MiB or 1 GB".to_owned()),
            Some("regex") if reason.contains("look-") || reason.contains("backreference") => {
                ("config.regex", "write it without look-around and back-references: patterns match in linear time".to_owned())
            }
            Some("regex") => {
                ("config.regex", "correct the pattern; in YAML put it into 'single quotes' so that \\ and # stay".to_owned())
            }
            Some("glob" | "glob-list") => {
                ("config.glob", "* and ? stay within a folder, ** crosses folders, {a,b} and [a-z] as in a shell".to_owned())
            }
            Some("charset") => ("config.charset", "use a label such as utf-8, latin1, windows-1252 or shift_jis".to_owned()),
            Some("path") => ("config.path", "write the path of a file or folder".to_owned()),
            Some("password") => return Issue::error(key, "config.type", "cannot be read as text"),
            _ if reason.contains("is not between") => {
                let number = reason.split(' ').next().unwrap_or_default();
                if let Some(issue) = self.out_of_range(key, number) {
                    return issue;
                }
                ("config.range", self.range_fix())
            }
            _ => ("config.type", self.type_fix()),
        };
        Issue::error(key, code, reason).fix(fix)
    }

    fn type_fix(&self) -> String {
        match self.spec.kind {
            OptionKind::Boolean => "write true or false".into(),
            _ if self.integer => format!("write a whole number{}", self.range_text()),
            OptionKind::Double => format!("write a number such as 0.5{}", self.range_text()),
            OptionKind::List => "write a comma list, or a list in YAML".into(),
            _ => "see the reference for what it accepts".into(),
        }
    }

    fn range_fix(&self) -> String {
        match self.range_text().trim_start() {
            "" => "use a smaller number".to_owned(),
            range => format!("use a value {range}"),
        }
    }

    fn range_text(&self) -> String {
        match (self.minimum, self.maximum) {
            (Some(min), Some(max)) => format!(" from {} to {}", self.show(min), self.show(max)),
            (Some(min), None) => format!(" of at least {}", self.show(min)),
            (None, Some(max)) => format!(" of at most {}", self.show(max)),
            (None, None) => String::new(),
        }
    }

    fn show(&self, number: f64) -> String {
        match self.spec.format.as_deref() {
            Some("duration") => Millis::from_millis(number as u64).to_string(),
            Some("bytes") => ByteSize(number as u64).to_string(),
            _ => number.to_string(),
        }
    }

    /// A value of the right type that is too small, too large, too short or too long.
    pub(crate) fn out_of_range(&self, key: &str, text: &str) -> Option<Issue> {
        let number = match self.spec.format.as_deref() {
            Some("duration") => Millis::parse(text).ok().map(|millis| millis.as_millis() as f64),
            Some("bytes") => ByteSize::parse(text).ok().map(|size| size.get() as f64),
            _ => text.trim().parse::<f64>().ok(),
        };
        if let Some(number) = number.filter(|_| self.minimum.is_some() || self.maximum.is_some()) {
            let below = self.minimum.filter(|min| number < *min);
            let above = self.maximum.filter(|max| number > *max);
            let shown = text.trim();
            let message = match (below, above) {
                (Some(min), _) => format!("{shown} is below the minimum of {}", self.show(min)),
                (_, Some(max)) => format!("{shown} is above the maximum of {}", self.show(max)),
                _ => return None,
            };
            return Some(Issue::error(key, "config.range", message).fix(self.range_fix()));
        }
        let list = self.spec.kind == OptionKind::List;
        let length = if list { split_list(text).len() } else { text.chars().count() } as u64;
        let unit = if list { "elements" } else { "characters" };
        if length == 0 && self.min_length > 0 {
            let fix = if self.spec.required { "give it a value" } else { "give it a value, or remove the line for the default" };
            return Some(Issue::error(key, "config.range", "is empty").fix(fix));
        }
        if length < self.min_length {
            let message = format!("has {length} {unit}, fewer than {}", self.min_length);
            return Some(Issue::error(key, "config.range", message).fix(format!("give it at least {} {unit}", self.min_length)));
        }
        let max = self.max_length.filter(|max| length > *max)?;
        Some(
            Issue::error(key, "config.range", format!("has {length} {unit}, more than {max}"))
                .fix(format!("give it at most {max} {unit}")),
        )
    }
}

/// `Option<T>` is `anyOf: [T, null]` or `type: [T, "null"]`.
fn without_null(schema: &Map<String, Value>) -> &Map<String, Value> {
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    alternatives.and_then(|list| list.iter().filter_map(Value::as_object).find(|s| !has_type(s, "null"))).unwrap_or(schema)
}

fn has_type(schema: &Map<String, Value>, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(many)) => many.iter().any(|one| one == name),
        _ => false,
    }
}

/// Kafka's type. Durations and sizes are LONG only where the name says the unit, since clients check that a LONG is a number.
fn kind_of(name: &str, schema: &Map<String, Value>, format: Option<&str>) -> OptionKind {
    match format {
        Some("password") => OptionKind::Password,
        Some("class") => OptionKind::Class,
        Some("duration") if name.ends_with(".ms") => OptionKind::Long,
        Some("bytes") if name.ends_with(".bytes") => OptionKind::Long,
        Some("glob-list") => OptionKind::List,
        Some("duration" | "bytes") => OptionKind::String,
        _ if has_type(schema, "array") => OptionKind::List,
        _ if has_type(schema, "boolean") => OptionKind::Boolean,
        _ if has_type(schema, "integer") => match schema.get("format").and_then(Value::as_str) {
            Some("int8" | "uint8" | "int16") => OptionKind::Short,
            Some("int32" | "uint16") => OptionKind::Int,
            _ => OptionKind::Long,
        },
        _ if has_type(schema, "number") => OptionKind::Double,
        _ => OptionKind::String,
    }
}

fn allowed_of(schema: &Map<String, Value>) -> Vec<String> {
    if let Some(list) = schema.get("enum").and_then(Value::as_array) {
        return list.iter().filter(|value| !value.is_null()).map(default_text).collect();
    }
    // Variants with documentation: `oneOf: [{const, description}]`, those without in one `{enum: […]}` among them.
    let alternatives = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    alternatives
        .flat_map(|one| one.get("const").map(|value| vec![default_text(value)]).unwrap_or_else(|| allowed_of(one)))
        .collect()
}

fn default_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(default_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn plain_number(text: &str, format: Option<&str>) -> String {
    match format {
        Some("duration") => Millis::parse(text).map_or_else(|_| text.to_owned(), |millis| millis.as_millis().to_string()),
        Some("bytes") => ByteSize::parse(text).map_or_else(|_| text.to_owned(), |size| size.get().to_string()),
        _ => text.to_owned(),
    }
}

/// Doc comments are wrapped; paragraphs stay apart.
fn one_paragraph(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
