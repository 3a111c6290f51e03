//! XML as JSON, so that the same pointers find records in both: an element is an object of its attributes (`@name`), its children by name (several of
//! one name are a list) and its text (`#text`); an element with text alone is that text, one with nothing is null. Namespace prefixes stay.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

/// As for JSON and YAML (reliability.md, 32).
const DEPTH_MAX: usize = 64;
/// An element takes some hundred bytes while it is read.
const ELEMENTS_MAX: usize = 1_000_000;

#[derive(Default)]
struct Element {
    name: String,
    fields: Map<String, Value>,
    text: String,
}

/// # Errors
/// Why it is none, as a sentence's end.
pub(crate) fn to_json(text: &str) -> Result<String, String> {
    let mut reader = Reader::from_str(text);
    // The bottom holds the root.
    let (mut stack, mut elements) = (vec![Element::default()], 0);
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                elements += 1;
                if stack.len() > DEPTH_MAX || elements > ELEMENTS_MAX {
                    return Err(format!("more than {DEPTH_MAX} levels or {ELEMENTS_MAX} elements"));
                }
                stack.push(open(&start)?);
            }
            Event::Empty(start) => {
                elements += 1;
                let element = open(&start)?;
                close(&mut stack, element);
            }
            Event::End(_) => {
                let element = stack.pop().unwrap_or_default();
                if stack.is_empty() {
                    return Err("an element ends that did not begin".into());
                }
                close(&mut stack, element);
            }
            Event::Text(part) => top(&mut stack).text.push_str(&part.xml10_content()),
            Event::CData(part) => top(&mut stack).text.push_str(&part.xml10_content()),
            Event::GeneralRef(entity) => {
                // Only the five of XML and characters by number: no entities of the document's own (billion laughs).
                let text = match entity.resolve_char_ref().map_err(|error| error.to_string())? {
                    Some(character) => character.to_string(),
                    None => resolve_predefined_entity(&entity).ok_or("an entity that is not of XML itself")?.to_owned(),
                };
                top(&mut stack).text.push_str(&text);
            }
            Event::Eof => break,
            Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Comment(_) => {}
        }
    }
    match (stack.len(), stack.pop()) {
        (1, Some(root)) if root.fields.len() == 1 && root.text.trim().is_empty() => Ok(Value::Object(root.fields).to_string()),
        (1, _) => Err("it has not one root".into()),
        _ => Err("it ends within an element".into()),
    }
}

fn top(stack: &mut [Element]) -> &mut Element {
    stack.last_mut().expect("the bottom stays")
}

fn open(start: &BytesStart<'_>) -> Result<Element, String> {
    let mut element = Element { name: start.name().0.to_owned(), ..Element::default() };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
        element.fields.insert(format!("@{}", attribute.key.0), Value::from(value.as_ref()));
    }
    Ok(element)
}

/// Puts an element into the one around it.
fn close(stack: &mut [Element], element: Element) {
    let text = element.text.trim();
    let value = if element.fields.is_empty() {
        if text.is_empty() { Value::Null } else { Value::from(text) }
    } else {
        let mut fields = element.fields;
        if !text.is_empty() {
            fields.insert("#text".to_owned(), Value::from(text));
        }
        Value::Object(fields)
    };
    let parent = &mut top(stack).fields;
    match parent.get_mut(&element.name) {
        // A value made here is a list only when it was made one here.
        Some(Value::Array(list)) => list.push(value),
        Some(first) => {
            let list = vec![first.take(), value];
            *first = Value::Array(list);
        }
        None => drop(parent.insert(element.name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements() {
        for (xml, json) in [
            ("<a/>", r#"{"a":null}"#),
            ("<?xml version=\"1.0\"?>\n<a> x &amp; &#233; </a>\n", r#"{"a":"x & é"}"#),
            (r#"<a id="1">t</a>"#, r##"{"a":{"@id":"1","#text":"t"}}"##),
            ("<r><i>1</i><i>2</i><j/></r>", r#"{"r":{"i":["1","2"],"j":null}}"#),
            ("<r><i/><i/><i/></r>", r#"{"r":{"i":[null,null,null]}}"#),
            ("<n:r xmlns:n='u'><![CDATA[<x>]]><!-- c --></n:r>", r##"{"n:r":{"@xmlns:n":"u","#text":"<x>"}}"##),
        ] {
            assert_eq!(to_json(xml).unwrap(), json, "{xml}");
        }
    }

    #[test]
    fn what_is_refused() {
        let laughs = r#"<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><l>&b;</l>"#;
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        for xml in ["", "x", "<a>", "</a>", "<a></b>", "<a/><b/>", "<a b=c/>", laughs, &deep] {
            assert!(to_json(xml).is_err(), "{xml}");
        }
    }
}
