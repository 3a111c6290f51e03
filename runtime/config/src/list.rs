//! Comma lists: how lists are written in a flat config.

/// The parts of a comma list, trimmed; empty parts are dropped. Commas within balanced `{}`, `[]` or `()` do not separate, so that
/// `*.{log,txt}` and `a{1,3}` are one part; after a backslash a bracket is no bracket.
pub fn split_list(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'{' | b'[' | b'(' => at = closing(bytes, at).unwrap_or(at),
            b',' => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Brackets nest at most this deep before they are taken as plain text: keeps the scan linear in practice.
const NESTING_MAX: usize = 16;

/// Where the bracket that opens at `open` closes.
fn closing(bytes: &[u8], open: usize) -> Option<usize> {
    let mut expected = Vec::new();
    let mut at = open;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'{' => expected.push(b'}'),
            b'[' => expected.push(b']'),
            b'(' => expected.push(b')'),
            close @ (b'}' | b']' | b')') => {
                if expected.pop() != Some(close) {
                    return None;
                }
                if expected.is_empty() {
                    return Some(at);
                }
            }
            _ => {}
        }
        if expected.len() > NESTING_MAX {
            return None;
        }
        at += 1;
    }
    None
}

/// A list as a flat config has it, or the element that cannot stand in one.
///
/// # Errors
/// The element that has a comma, is empty, or starts or ends with white space.
pub fn join_list<'a>(elements: &[&'a str]) -> Result<String, &'a str> {
    let joined = elements.join(",");
    if split_list(&joined) == elements {
        return Ok(joined);
    }
    let bad = elements.iter().find(|element| split_list(element) != [**element]);
    Err(bad.or(elements.first()).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn brackets_keep_their_commas() {
        assert_eq!(split_list(" a, b ,,c "), ["a", "b", "c"]);
        assert_eq!(split_list("*.{log,txt},x"), ["*.{log,txt}", "x"]);
        assert_eq!(split_list("a{1,3},[,],(x,y)"), ["a{1,3}", "[,]", "(x,y)"]);
        assert_eq!(split_list("a(,b"), ["a(", "b"], "a bracket that never closes is plain text");
        assert_eq!(split_list(r"a\(b,c)"), [r"a\(b", "c)"]);
        assert_eq!(split_list(""), Vec::<&str>::new());
    }

    #[test]
    fn what_cannot_stand_in_a_list_is_named() {
        assert_eq!(join_list(&["a", "b,c"]), Err("b,c"));
        assert_eq!(join_list(&["a", ""]), Err(""));
        assert_eq!(join_list(&["a", "{b,c}"]), Ok("a,{b,c}".into()));
        assert_eq!(join_list(&["a[", "b]"]), Err("a["), "joined, the brackets would swallow the comma");
    }

    proptest! {
        #[test]
        fn splitting_never_panics_and_joins_back(text in r"[a-c,{}()\[\]\\ é]{0,40}") {
            let parts = split_list(&text);
            if let Ok(joined) = join_list(&parts) {
                prop_assert_eq!(split_list(&joined), parts);
            }
        }
    }
}
