//! `orders-{shop}`: literals and names in braces.

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Name(String),
}

/// # Errors
/// What is wrong, as a sentence's end.
pub(crate) fn parse(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').ok_or_else(|| format!("{text:?} has a {{ without a }}"))? + open;
        let name = rest[open + 1..close].trim();
        if name.is_empty() {
            return Err(format!("{text:?} has no name between its braces"));
        }
        if open > 0 {
            parts.push(Part::Literal(rest[..open].to_owned()));
        }
        parts.push(Part::Name(name.to_owned()));
        rest = &rest[close + 1..];
    }
    if rest.contains('}') {
        return Err(format!("{text:?} has a }} without a {{"));
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

pub(crate) fn names(parts: &[Part]) -> impl Iterator<Item = &str> {
    parts.iter().filter_map(|part| match part {
        Part::Name(name) => Some(name.as_str()),
        Part::Literal(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_names() {
        let parts = parse("a-{b}.{ header:X }").unwrap();
        assert_eq!(
            parts,
            [Part::Literal("a-".into()), Part::Name("b".into()), Part::Literal(".".into()), Part::Name("header:X".into())]
        );
        assert_eq!(names(&parts).collect::<Vec<_>>(), ["b", "header:X"]);
        assert_eq!(parse("").unwrap(), []);
        for wrong in ["a{b", "a{}", "a}b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
