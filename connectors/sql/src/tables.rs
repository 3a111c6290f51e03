//! Which tables there are, which are wanted, and whose task they are.

use aqueduct_config::nearest;
use regex::Regex;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Table {
    pub(crate) catalog: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

impl Table {
    /// `database.schema.table` as far as there are such parts: Confluent's name of the offset's partition.
    pub(crate) fn full(&self) -> String {
        let parts = [self.catalog.as_deref(), self.schema.as_deref(), Some(self.name.as_str())];
        parts.into_iter().flatten().collect::<Vec<_>>().join(".")
    }

    /// All that it may be called, the longest first.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = vec![self.full()];
        if let Some(schema) = &self.schema {
            names.push(format!("{schema}.{}", self.name));
        }
        names.push(self.name.clone());
        names.dedup();
        names
    }

    /// The same in every process and version: a table may not change its task by an upgrade alone.
    pub(crate) fn share(&self, tasks: u64) -> u64 {
        let fnv = self
            .full()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        (fnv ^ (fnv >> 32)) % tasks.max(1)
    }
}

/// What the options say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) whitelist: Vec<String>,
    pub(crate) blacklist: Vec<String>,
    pub(crate) include: Vec<Regex>,
    pub(crate) exclude: Vec<Regex>,
    /// In capitals.
    pub(crate) types: Vec<String>,
    pub(crate) catalog: Option<String>,
    pub(crate) schema: Option<String>,
}

impl Wanted {
    pub(crate) fn has_type(&self, kind: &str) -> bool {
        self.types.iter().any(|wanted| wanted == kind)
    }

    pub(crate) fn wants(&self, table: &Table) -> bool {
        let names = table.names();
        let plain = |listed: &String| {
            let listed: String = listed.chars().filter(|c| !matches!(c, '"' | '`')).collect();
            names.contains(&listed)
        };
        let matches = |pattern: &Regex| names.iter().any(|name| pattern.is_match(name));
        (self.whitelist.is_empty() || self.whitelist.iter().any(plain))
            && !self.blacklist.iter().any(plain)
            && (self.include.is_empty() || self.include.iter().any(matches))
            && !self.exclude.iter().any(matches)
    }

    /// Names of the whitelist that are no table, each with the nearest that is.
    pub(crate) fn missing(&self, tables: &[Table]) -> Vec<String> {
        let there: Vec<String> = tables.iter().flat_map(Table::names).collect();
        let gone = self.whitelist.iter().filter(|name| !there.iter().any(|there| *there == name.replace(['"', '`'], "")));
        gone.map(|name| match nearest(name, there.iter().map(String::as_str)) {
            Some(near) => format!("{name} (did you mean {near}?)"),
            None => name.clone(),
        })
        .collect()
    }
}

/// `LIKE` with `%`, `_` and `\`, as JDBC's patterns of names are.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    let mut regex = String::from("(?s)^");
    let mut escaped = false;
    for c in pattern.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '%' if !escaped => regex.push_str(".*"),
            '_' if !escaped => regex.push('.'),
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
        escaped = false;
    }
    regex.push('$');
    Regex::new(&regex).is_ok_and(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(full: &str) -> Table {
        let mut parts = full.rsplit('.');
        let name = parts.next().unwrap().to_owned();
        Table { schema: parts.next().map(str::to_owned), catalog: parts.next().map(str::to_owned), name }
    }

    #[test]
    fn names_and_lists() {
        let orders = table("shop.public.orders");
        assert_eq!(orders.names(), ["shop.public.orders", "public.orders", "orders"]);
        for name in ["orders", "public.orders", "\"shop\".\"public\".\"orders\""] {
            let wanted = Wanted { whitelist: vec![name.to_owned()], ..Wanted::default() };
            assert!(wanted.wants(&orders) && !wanted.wants(&table("shop.public.items")), "{name}");
            let unwanted = Wanted { blacklist: vec![name.to_owned()], ..Wanted::default() };
            assert!(!unwanted.wants(&orders) && unwanted.wants(&table("shop.public.items")), "{name}");
        }
        let regex = |pattern: &str| vec![Regex::new(&format!("^(?:{pattern})$")).unwrap()];
        let wanted = Wanted { include: regex("shop\\.public\\.o.*"), exclude: regex(".*_old"), ..Wanted::default() };
        assert!(
            wanted.wants(&orders)
                && !wanted.wants(&table("shop.public.orders_old"))
                && !wanted.wants(&table("shop.public.items"))
        );
        let wanted = Wanted { whitelist: vec!["ordres".to_owned(), "public.orders".to_owned()], ..Wanted::default() };
        assert_eq!(wanted.missing(&[orders]), ["ordres (did you mean orders?)"]);
    }

    #[test]
    fn tasks_share_all_tables() {
        let tables: Vec<Table> = (0..300).map(|n| table(&format!("db.s.t{n}"))).collect();
        for tasks in [1, 2, 3, 7] {
            let mut counts = vec![0; tasks];
            tables.iter().for_each(|table| counts[table.share(tasks as u64) as usize] += 1);
            assert!(counts.iter().all(|count| *count > 300 / tasks / 2), "{counts:?}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("%", "", true),
            ("pub%", "public", true),
            ("pub_ic", "public", true),
            ("pub\\_ic", "public", false),
            ("a\\%", "a%", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(like(pattern, text), fits, "{pattern} {text}");
        }
    }
}
