//! Versions of plugins: their order, and what `connector.plugin.version` asks for (KIP-891).

use std::cmp::Ordering;

/// What is taken of several versions: Kafka Connect's notation, which is Maven's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted(Vec<Range>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    from: Option<Bound>,
    to: Option<Bound>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    version: String,
    /// It is in the range itself.
    closed: bool,
}

impl Wanted {
    /// `latest` or nothing: any. `1.0`: that one alone. `[1.0,2.0)`, `(,1.0]`, `[1.0]`, and several of them with commas between.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text == "latest" {
            return Ok(Self(vec![Range { from: None, to: None }]));
        }
        if !text.contains(['[', ']', '(', ')', ',']) {
            return Ok(Self(vec![Range::only(text)]));
        }
        let (mut ranges, mut left) = (Vec::new(), text);
        loop {
            let end = left.find([']', ')']).ok_or_else(|| format!("{left:?} has no end: a range is [1.0,2.0) or [1.0]"))?;
            ranges.push(Range::parse(&left[..=end])?);
            left = left[end + 1..].trim_start();
            if left.is_empty() {
                return Ok(Self(ranges));
            }
            left = left.strip_prefix(',').ok_or_else(|| format!("{left:?} follows a range without a comma"))?.trim_start();
        }
    }

    pub fn takes(&self, version: &str) -> bool {
        self.0.iter().any(|range| range.has(version))
    }
}

impl Range {
    fn only(version: &str) -> Self {
        let bound = || Some(Bound { version: version.trim().to_owned(), closed: true });
        Self { from: bound(), to: bound() }
    }

    /// With its brackets.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of versions: write [1.0,2.0), (,1.0], [1.0,) or [1.0]");
        let inner = text.strip_prefix(['[', '(']).and_then(|rest| rest.strip_suffix([']', ')'])).ok_or_else(wrong)?;
        let Some((from, to)) = inner.split_once(',') else {
            let exact = text.starts_with('[') && text.ends_with(']') && !inner.trim().is_empty();
            return if exact { Ok(Self::only(inner)) } else { Err(wrong()) };
        };
        let bound = |text: &str, closed: bool| match text.trim() {
            "" => None,
            version => Some(Bound { version: version.to_owned(), closed }),
        };
        let range = Self { from: bound(from, text.starts_with('[')), to: bound(to, text.ends_with(']')) };
        match (&range.from, &range.to) {
            _ if to.contains(',') || inner.contains(['[', '(']) => Err(wrong()),
            (Some(from), Some(to)) if compare(&from.version, &to.version) == Ordering::Greater => Err(wrong()),
            _ => Ok(range),
        }
    }

    fn has(&self, version: &str) -> bool {
        let beyond = |bound: &Option<Bound>, wrong: Ordering| {
            bound.as_ref().is_some_and(|bound| match compare(version, &bound.version) {
                Ordering::Equal => !bound.closed,
                order => order == wrong,
            })
        };
        !beyond(&self.from, Ordering::Less) && !beyond(&self.to, Ordering::Greater)
    }
}

/// `1.2` is before `1.10`, `1.0` is `1.0.0`, and `1.0-rc1` is before `1.0`, as is every word but those of Maven that mean the release or what follows
/// it. What stands after `+` does not count (Semantic Versioning).
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    let part = |parts: &[Part], at: usize| parts.get(at).cloned().unwrap_or(Part::Release);
    let orders = (0..a.len().max(b.len())).map(|at| part(&a, at).cmp(&part(&b, at)));
    orders.fold(Ordering::Equal, Ordering::then)
}

/// In their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Alpha,
    Beta,
    Milestone,
    Candidate,
    Snapshot,
    Word(String),
    /// Where a version ends, and 0: they are the same.
    Release,
    ServicePack,
    /// Without zeros in front, so that the longer one is larger.
    Number(usize, String),
}

impl Part {
    fn of(text: &str) -> Self {
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let digits = text.trim_start_matches('0');
            return if digits.is_empty() { Part::Release } else { Part::Number(digits.len(), digits.to_owned()) };
        }
        match text.to_ascii_lowercase().as_str() {
            "a" | "alpha" => Part::Alpha,
            "b" | "beta" => Part::Beta,
            "m" | "milestone" => Part::Milestone,
            "rc" | "cr" => Part::Candidate,
            "snapshot" => Part::Snapshot,
            "ga" | "final" | "release" => Part::Release,
            "sp" => Part::ServicePack,
            word => Part::Word(word.to_owned()),
        }
    }
}

/// At dots, dashes and underlines, and between digits and letters. Zeros before a word do not count: `1.0.0-rc1` is `1.0-rc1`.
fn parts(version: &str) -> Vec<Part> {
    let counted = version.trim().split('+').next().unwrap_or_default();
    let mut parts = Vec::new();
    for piece in counted.split(['.', '-', '_']) {
        let letters: Vec<char> = piece.chars().collect();
        for run in letters.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
            let part = Part::of(&run.iter().collect::<String>());
            while part < Part::Release && parts.last() == Some(&Part::Release) {
                parts.pop();
            }
            parts.push(part);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        let ascending = [
            "1-alpha2",
            "1.0.0-beta.1",
            "1.0-M1",
            "1.0-rc1",
            "1.0.0-rc.2",
            "1.0-SNAPSHOT",
            "1.0-x",
            "1",
            "1.0-sp1",
            "1.0.1",
            "1.2",
            "1.10",
            "2026.11.22",
            "99999999999999999999999.1",
        ];
        for pair in ascending.windows(2) {
            assert_eq!((compare(pair[0], pair[1]), compare(pair[1], pair[0])), (Ordering::Less, Ordering::Greater), "{pair:?}");
        }
        for (a, b) in [("1", "1.0.0"), ("3.0.8.Final", "3.0.8"), ("1.0+a", "1.0+b"), ("01.2", "1.2"), ("", "0")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
    }

    #[test]
    fn ranges_are_mavens() {
        let versions = ["0.9", "1.0", "1.5", "2.0"];
        for (wanted, taken) in [
            ("latest", &versions[..]),
            (" ", &versions[..]),
            ("1.0.0", &["1.0"]),
            ("[1.5]", &["1.5"]),
            ("[1.0,2.0)", &["1.0", "1.5"]),
            ("(1.0, 2.0]", &["1.5", "2.0"]),
            ("(,1.0]", &["0.9", "1.0"]),
            ("(1.0,)", &["1.5", "2.0"]),
            ("(,1.0),[2.0,)", &["0.9", "2.0"]),
        ] {
            let wanted = Wanted::parse(wanted).unwrap();
            assert_eq!(versions.into_iter().filter(|version| wanted.takes(version)).collect::<Vec<_>>(), taken, "{wanted:?}");
        }
        for wrong in ["[1.0", "1.0]", "[]", "(1.0)", "[2.0,1.0]", "[1.0,2.0,3.0]", "[1.0][2.0]", "[1.0,", "1.0,2.0"] {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }
}
