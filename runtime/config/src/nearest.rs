//! "Did you mean".

/// The candidate that `given` was most likely meant to be: the same but for case, `_`, `-` and camelCase; or few letters away; or the
/// only one that ends in it.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().filter(|candidate| !candidate.is_empty()).collect();
    // Longer texts are no misspelt names, and the distance is quadratic.
    if given.is_empty() || given.len() > 200 {
        return None;
    }
    let wanted = plain(given);
    if let Some(same) = candidates.iter().find(|candidate| plain(candidate) == wanted) {
        return Some(same);
    }
    let scored =
        candidates.iter().map(|candidate| (strsim::normalized_damerau_levenshtein(&wanted, &plain(candidate)), *candidate));
    // The first of equals: candidates are in the order of the reference.
    let best =
        scored.fold(None, |best: Option<(f64, &str)>, next| if best.is_some_and(|b| b.0 >= next.0) { best } else { Some(next) });
    if let Some((score, candidate)) = best
        && score >= 0.66
    {
        return Some(candidate);
    }
    let mut ending = candidates.iter().filter(|candidate| plain(candidate).ends_with(&format!(".{wanted}")));
    match (ending.next(), ending.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// As [`nearest`], for classes: packages and the `SinkConnector` that all end in are no likeness.
pub(crate) fn nearest_class<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let simple = |class: &str| plain(class.rsplit('.').next().unwrap_or(class));
    let stem = |simple: &str| {
        let kind = simple.strip_suffix(".connector").unwrap_or(simple);
        kind.strip_suffix(".sink").or_else(|| kind.strip_suffix(".source")).unwrap_or(kind).to_owned()
    };
    let alike = strsim::normalized_damerau_levenshtein;
    let wanted = simple(given);
    let near = |candidate: &&str| {
        let candidate = simple(candidate);
        // A letter or two in the whole, or in what is its own.
        alike(&wanted, &candidate) >= 0.85 || alike(&stem(&wanted), &stem(&candidate)) >= 0.66
    };
    let candidates: Vec<&str> = candidates.into_iter().filter(near).collect();
    nearest(given, candidates.iter().copied())
        .or_else(|| nearest(given.rsplit('.').next().unwrap_or(given), candidates.iter().copied()))
}

/// `tasksMax`, `tasks_max` and `Tasks-Max` are `tasks.max`.
fn plain(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut lower = false;
    for c in name.chars() {
        if c.is_uppercase() && lower {
            out.push('.');
        }
        lower = c.is_lowercase() || c.is_ascii_digit();
        match c {
            '_' | '-' => out.push('.'),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let names = ["tasks.max", "topics", "topics.regex", "errors.tolerance", "table.include.list"];
        for (given, meant) in [
            ("tasks.mx", Some("tasks.max")),
            ("tasksMax", Some("tasks.max")),
            ("TASKS_MAX", Some("tasks.max")),
            ("topic", Some("topics")),
            ("error.tolerance", Some("errors.tolerance")),
            ("include.list", Some("table.include.list")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, names), meant, "{given}");
        }
    }

    #[test]
    fn a_class_is_near_by_its_own_name() {
        let names = [
            "file-source",
            "jdbc-sink",
            "io.confluent.connect.jdbc.JdbcSinkConnector",
            "org.apache.kafka.connect.file.FileStreamSinkConnector",
        ];
        for (given, meant) in [
            ("io.confluent.connect.s3.S3SinkConnector", None),
            ("io.confluent.connect.jdbc.JdbSinkConnector", Some(names[2])),
            ("org.apache.kafka.connect.file.FileStramSinkConnector", Some(names[3])),
            ("FileStreamSinkConnector", Some(names[3])),
            ("file-sorce", Some("file-source")),
            ("FileSource", Some("file-source")),
        ] {
            assert_eq!(nearest_class(given, names), meant, "{given}");
        }
    }
}
