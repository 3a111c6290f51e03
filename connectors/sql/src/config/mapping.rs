//! Which columns a table is read by.

use regex::Regex;

/// One name for all tables, or by the table's.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    fixed: Vec<String>,
    by_table: Vec<(Regex, Vec<String>)>,
}

impl Columns {
    pub(crate) fn fixed(names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        Self { fixed: names.collect(), by_table: Vec::new() }
    }

    /// `regex:column` or `regex:[column|column]`.
    ///
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(crate) fn by_table(entries: &[String]) -> Result<Self, String> {
        let by_table = entries.iter().map(|entry| {
            let (pattern, names) = entry.rsplit_once(':').ok_or_else(|| format!("{entry:?} is not of the form regex:column"))?;
            let pattern = whole(pattern.trim())?;
            let names = names.trim().trim_start_matches('[').trim_end_matches(']').split('|');
            let names: Vec<String> = names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
            if names.is_empty() { Err(format!("{entry:?} names no column")) } else { Ok((pattern, names)) }
        });
        Ok(Self { fixed: Vec::new(), by_table: by_table.collect::<Result<_, _>>()? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.by_table.is_empty()
    }

    /// For a table that is called by any of these names.
    pub(crate) fn of(&self, names: &[String]) -> &[String] {
        let found = self.by_table.iter().find(|(pattern, _)| names.iter().any(|name| pattern.is_match(name)));
        found.map_or(&self.fixed, |(_, columns)| columns)
    }
}

/// Over the whole text.
pub(crate) fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|_| format!("{pattern:?} is not a regular expression"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_table_or_for_all() {
        let all = Columns::fixed([" id ".to_owned(), String::new()]);
        assert_eq!(all.of(&["x".to_owned()]), ["id"]);
        let entries = ["db.s.a.*:[u|c]".to_owned(), ".*:t".to_owned()];
        let by_table = Columns::by_table(&entries).unwrap();
        assert_eq!(by_table.of(&["db.s.ab".to_owned()]), ["u", "c"]);
        assert_eq!(by_table.of(&["db.s.b".to_owned()]), ["t"]);
        for wrong in ["x", "(:a", "a:[]"] {
            assert!(Columns::by_table(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
