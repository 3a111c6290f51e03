//! The OpenAPI document as one page of HTML, made here: no script, no font, no call to anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The page's Content-Security-Policy: nothing is loaded, and no style but its own, by its hash.
pub(crate) fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
}

/// Operations by tag, then schemas.
pub(crate) fn render(document: &Value) -> String {
    let info = &document["info"];
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Aqueduct REST API</title><style>{STYLE}</style></head><body>\n<h1>Aqueduct REST API <small>{}</small></h1>\n",
        escape(text(info, "version"))
    );
    for paragraph in text(info, "description").split("\n\n") {
        line(&mut out, &format!("<p>{}</p>", prose(paragraph)));
    }
    line(&mut out, "<p><a href=\"openapi.json\">openapi.json</a> is the same for programs: OpenAPI 3.1.</p>");
    let tags = document["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    contents(&mut out, document, tags);
    for tag in tags {
        let name = text(tag, "name");
        line(&mut out, &format!("<h2 id=\"{0}\">{0}</h2>\n<p>{1}</p>", escape(name), prose(text(tag, "description"))));
        for (path, method, operation) in operations(document, name) {
            render_operation(&mut out, document, path, method, operation);
        }
    }
    line(&mut out, "<h2 id=\"schemas\">Schemas</h2>");
    for (name, schema) in members(&document["components"]["schemas"]) {
        render_schema(&mut out, name, schema);
    }
    out + "</body></html>\n"
}

fn contents(out: &mut String, document: &Value, tags: &[Value]) {
    line(out, "<nav>");
    for name in tags.iter().map(|tag| text(tag, "name")) {
        line(out, &format!("<details><summary>{}</summary><ul>", escape(name)));
        for (path, method, operation) in operations(document, name) {
            let (id, method) = (escape(text(operation, "operationId")), method.to_uppercase());
            let about = escape(text(operation, "summary"));
            line(out, &format!("<li><a href=\"#{id}\"><code>{method} {}</code></a> {about}</li>", escape(path)));
        }
        line(out, "</ul></details>");
    }
    line(out, "</nav>");
}

fn operations<'a>(document: &'a Value, tag: &'a str) -> impl Iterator<Item = (&'a str, &'a str, &'a Value)> {
    let all = members(&document["paths"])
        .flat_map(|(path, item)| members(item).map(move |(method, operation)| (path, method, operation)));
    all.filter(move |(_, _, operation)| operation["tags"][0] == tag)
}

fn render_operation(out: &mut String, document: &Value, path: &str, method: &str, operation: &Value) {
    let id = escape(text(operation, "operationId"));
    let heading = format!("<b class=\"{0}\">{1}</b> <code>{2}</code>", escape(method), method.to_uppercase(), escape(path));
    line(out, &format!("<section id=\"{id}\"><h3><a href=\"#{id}\">{heading}</a></h3>"));
    line(out, &format!("<p>{}. {}</p>", prose(text(operation, "summary")), prose(text(operation, "description"))));
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        line(out, "<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>");
        for parameter in parameters {
            let (name, place) = (escape(text(parameter, "name")), escape(text(parameter, "in")));
            let (kind, about) = (kind(&parameter["schema"]), prose(text(parameter, "description")));
            line(out, &format!("<tr><td><code>{name}</code></td><td>{place}</td><td>{kind}</td><td>{about}</td></tr>"));
        }
        line(out, "</table>");
    }
    if let Some(body) = operation.get("requestBody") {
        line(out, &format!("<p>Body: {}</p>", content(body)));
    }
    line(out, "<table><tr><th>status</th><th>body</th><th></th></tr>");
    for (status, response) in members(&operation["responses"]) {
        let pointer = response["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        let response = pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(response);
        let (body, about) = (content(response), prose(text(response, "description")));
        line(out, &format!("<tr><td><code>{status}</code></td><td>{body}</td><td>{about}</td></tr>"));
    }
    line(out, "</table></section>");
}

fn render_schema(out: &mut String, name: &str, schema: &Value) {
    let name = escape(name);
    line(out, &format!("<section id=\"schema-{name}\"><h3>{name}</h3><p>{}</p>", prose(text(schema, "description"))));
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if schema.get("properties").is_none() {
        line(out, &format!("<p>{}</p></section>", kind(schema)));
        return;
    }
    line(out, "<table><tr><th>property</th><th>type</th><th></th></tr>");
    for (property, of) in members(&schema["properties"]) {
        let optional = if required.contains(&property) { "" } else { " <i>optional</i>" };
        let (kind, about) = (kind(of), prose(text(of, "description")));
        line(out, &format!("<tr><td><code>{}</code>{optional}</td><td>{kind}</td><td>{about}</td></tr>", escape(property)));
    }
    line(out, "</table></section>");
}

/// The types of a body, each with its media type where that is not JSON.
fn content(of: &Value) -> String {
    let one = |(media, value): (&str, &Value)| {
        let kind = kind(&value["schema"]);
        if media == "application/json" { kind } else { format!("{kind} <small>{}</small>", escape(media)) }
    };
    members(&of["content"]).map(one).collect::<Vec<_>>().join(" or ")
}

/// A schema in a few words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = escape(reference.rsplit('/').next().unwrap_or_default());
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(several) = ["oneOf", "anyOf", "allOf"].iter().find_map(|key| schema[*key].as_array()) {
        return several.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("<code>{}</code>", escape(&word.to_string()))).collect::<Vec<_>>().join(" or ");
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => return "any".to_owned(),
    };
    let of = |name: &&str| match *name {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema.get("additionalProperties").is_some_and(Value::is_object) => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        other => escape(other),
    };
    names.iter().map(of).collect::<Vec<_>>().join(" or ")
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// With what stands between backticks as code.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in escape(text).split('`').enumerate() {
        let _ = if at % 2 == 1 { write!(out, "<code>{part}</code>") } else { write!(out, "{part}") };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;

    #[test]
    fn the_page_has_every_operation_and_schema_and_loads_nothing() {
        let page = render(openapi());
        for (path, item) in members(&openapi()["paths"]) {
            assert!(page.contains(&escape(path)), "{path}");
            for (_, operation) in members(item) {
                let id = format!("<section id=\"{}\">", text(operation, "operationId"));
                assert_eq!(page.matches(&id).count(), 1, "{id}");
            }
        }
        for (name, _) in members(&openapi()["components"]["schemas"]) {
            assert!(page.contains(&format!("<section id=\"schema-{name}\">")), "{name}");
        }
        for foreign in ["<script", "http://", "https://", "<link", "<img", "url(", "@import", " style="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
        assert_eq!(page.matches("<table").count(), page.matches("</table>").count());
    }

    #[test]
    fn what_is_said_cannot_become_markup() {
        assert_eq!(prose("a `b<c>` & \"d\""), "a <code>b&lt;c&gt;</code> &amp; &quot;d&quot;");
        let odd = serde_json::json!({"type": ["string", "null"]});
        assert_eq!(kind(&odd), "string or null");
        assert_eq!(
            kind(&serde_json::json!({"type": "array", "items": {"$ref": "#/components/schemas/X"}})),
            "list of <a href=\"#schema-X\">X</a>"
        );
    }
}
