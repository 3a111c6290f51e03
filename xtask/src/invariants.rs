//! ARCHITECTURE.md says where each invariant is enforced; those files must exist and cite its number.

use crate::sh::Sh;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// # Errors
/// With every place that no longer holds what the page says.
pub(crate) fn check(sh: &Sh) -> Result<()> {
    let page = fs::read_to_string(sh.root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let places = places(&page);
    let mut wrong: Vec<String> =
        (1..=10).filter(|n| !page.contains(&format!("\n{n}. **"))).map(|n| format!("invariant {n} is not stated")).collect();
    wrong.extend(
        places
            .iter()
            .filter(|(n, path)| !cites(&sh.root.join(path), *n))
            .map(|(n, path)| format!("{path} does not cite invariant {n}")),
    );
    if places.is_empty() || !wrong.is_empty() {
        bail!("ARCHITECTURE.md is stale:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// `(number, path)` of the numbered list under `## Invariants`.
fn places(page: &str) -> Vec<(u32, &str)> {
    let list = page.split("\n## ").find(|section| section.starts_with("Invariants")).unwrap_or_default();
    let mut number = 0;
    let mut places = Vec::new();
    for line in list.lines() {
        if let Some(n) = line.split_once(". **").and_then(|(n, _)| n.parse().ok()) {
            number = n;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        places.extend(quoted.filter(|text| text.ends_with(".rs")).map(|path| (number, path)));
    }
    places
}

/// `invariant 3`, `Invariants 1 and 3`, `(invariant 5, …)`.
fn cites(path: &Path, number: u32) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default().to_lowercase();
    text.match_indices("invariant").any(|(at, _)| {
        let line = text[at..].lines().next().unwrap_or_default();
        let words = line.split(|c: char| !c.is_ascii_alphanumeric()).skip(1);
        words
            .take_while(|word| word.is_empty() || *word == "and" || word.parse::<u32>().is_ok())
            .any(|word| word.parse() == Ok(number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let page =
            "# A\n\n## Invariants\n\n1. **One.**\n   `a/b.rs`, `c.rs`\n2. **Two `x`.** `d.rs`\n\n## Next\n1. **Three** `e.rs`\n";
        assert_eq!(places(page), [(1, "a/b.rs"), (1, "c.rs"), (2, "d.rs")]);
    }

    #[test]
    fn citations() {
        let file = std::env::temp_dir().join(format!("aqueduct-xtask-{}", std::process::id()));
        fs::write(&file, "/// Invariant 3: a\n// (invariants 1 and 10)\n").unwrap();
        assert_eq!((1..=10).filter(|n| cites(&file, *n)).collect::<Vec<_>>(), [1, 3, 10]);
        fs::remove_file(&file).unwrap();
        assert!(!cites(&file, 3));
    }
}
