//! Relative links between the Markdown pages must lead somewhere.

use crate::sh::Sh;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// # Errors
/// With every link that leads nowhere.
pub(crate) fn check(sh: &Sh) -> Result<()> {
    let files = sh.output(sh.command("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]))?;
    let mut broken = Vec::new();
    for page in files.lines().map(|name| sh.root.join(name)).filter(|path| path.is_file()) {
        let text = fs::read_to_string(&page)?;
        let dead = links(&text).into_iter().filter(|link| !target(&page, link).exists());
        broken.extend(dead.map(|link| format!("{}: {link}", page.display())));
    }
    if !broken.is_empty() {
        bail!("links that lead nowhere:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

fn target(page: &Path, link: &str) -> PathBuf {
    page.parent().unwrap_or(page).join(link.split('#').next().unwrap_or_default())
}

/// What stands in `](…)`, but for addresses and places within the page.
fn links(text: &str) -> Vec<&str> {
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    ends.filter(|link| !link.contains("://") && !link.starts_with('#') && !link.contains(char::is_whitespace) && !link.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_only() {
        let text = "[a](b.md) [c](https://x.y/z) `x[0](not code)` [d](#here) [e](../f.md#g)";
        assert_eq!(links(text), ["b.md", "../f.md#g"]);
        assert_eq!(target(Path::new("/a/docs/x.md"), "../f.md#g"), Path::new("/a/docs/../f.md"));
    }
}
