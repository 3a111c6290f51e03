//! Where a table is read up to, as Confluent's connector stores it.

use crate::tables::Table;
use crate::temporal::SECOND;
use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Microseconds since 1970 (SQLite's texts: as if UTC).
    pub(crate) time: Option<i64>,
    pub(crate) id: Option<i64>,
}

impl Place {
    /// `{"incrementing": 23, "timestamp": <ms>, "timestamp_nanos": <of the second>}`
    pub(crate) fn to_json(self) -> JsonMap {
        let mut map = JsonMap::new();
        if let Some(id) = self.id {
            map.insert("incrementing".to_owned(), id.into());
        }
        if let Some(time) = self.time {
            map.insert("timestamp".to_owned(), time.div_euclid(1000).into());
            map.insert("timestamp_nanos".to_owned(), (time.rem_euclid(SECOND) * 1000).into());
        }
        map
    }

    /// What is no number is not there, as for Confluent's.
    pub(crate) fn from_json(map: &JsonMap) -> Self {
        let number = |name: &str| map.get(name).and_then(Value::as_i64);
        let time = number("timestamp").map(|millis| match number("timestamp_nanos") {
            Some(nanos) => millis.div_euclid(1000).saturating_mul(SECOND).saturating_add(nanos / 1000),
            None => millis.saturating_mul(1000),
        });
        Self { time, id: number("incrementing") }
    }
}

/// The name of a table's (or the query's) place: as it was found, so that it can be given back, else Confluent's newest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Partition(pub(crate) JsonMap);

impl Partition {
    pub(crate) fn of_query() -> Self {
        Self(map(json!({"query": "query"})))
    }

    pub(crate) fn of(table: &Table) -> Self {
        Self(map(json!({"protocol": "1", "table": table.full()})))
    }

    /// All names that it may have been stored under, the newest first: whole names by drivers that know the catalog, without it by those that do not,
    /// and the bare name of Confluent's first protocol.
    fn candidates(table: &Table) -> Vec<Self> {
        let mut all: Vec<Self> =
            table.names().into_iter().map(|name| Self(map(json!({"protocol": "1", "table": name})))).collect();
        all.push(Self(map(json!({"table": table.name}))));
        all
    }

    pub(crate) fn find(table: &Table, stored: &[SourceOffset]) -> (Self, Place) {
        let found = Self::candidates(table).into_iter().find_map(|candidate| {
            let place = place_of(&candidate, stored)?;
            Some((candidate, place))
        });
        match found {
            // Protocol 0 does not tell schemas apart, and Confluent's goes on with 1.
            Some((partition, place)) if partition.0.contains_key("protocol") => (partition, place),
            Some((_, place)) => (Self::of(table), place),
            None => (Self::of(table), Place::default()),
        }
    }

    pub(crate) fn find_query(stored: &[SourceOffset]) -> (Self, Place) {
        let partition = Self::of_query();
        let place = place_of(&partition, stored).unwrap_or_default();
        (partition, place)
    }
}

fn place_of(partition: &Partition, stored: &[SourceOffset]) -> Option<Place> {
    let found = stored.iter().find(|offset| offset.partition == partition.0)?;
    found.offset.as_ref().map(Place::from_json)
}

/// Whether an offset that an operator sets is one.
pub(crate) fn check(offset: &SourceOffset) -> Result<()> {
    let named = ["table", "query"].iter().any(|name| offset.partition.get(*name).is_some_and(Value::is_string));
    if named && offset.offset.as_ref().is_some_and(|offset| Place::from_json(offset) != Place::default()) {
        return Ok(());
    }
    let message = r#"an offset is {"partition": {"protocol": "1", "table": "public.orders"}, "offset": {"incrementing": 7, "timestamp": 1700000000000}}, where one of the two may be left out; of a query the partition is {"query": "query"}"#;
    Err(Error::fatal("sql.offset", message))
}

fn map(value: Value) -> JsonMap {
    match value {
        Value::Object(map) => map,
        _ => JsonMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored(partition: Value, offset: Value) -> SourceOffset {
        SourceOffset { partition: map(partition), offset: Some(map(offset)) }
    }

    #[test]
    fn confluents_offsets_are_taken_over_and_kept_under_their_name() {
        let table = Table { catalog: Some("shop".into()), schema: Some("public".into()), name: "orders".into() };
        let offset = json!({"incrementing": 23, "timestamp": 1_767_323_045_123_i64, "timestamp_nanos": 123_456_000});
        let place = Place { id: Some(23), time: Some(1_767_323_045_123_456) };
        for name in ["shop.public.orders", "public.orders", "orders"] {
            let partition = json!({"protocol": "1", "table": name});
            let found = Partition::find(&table, &[stored(partition.clone(), offset.clone())]);
            assert_eq!(found, (Partition(map(partition)), place));
        }
        let (partition, found) = Partition::find(&table, &[stored(json!({"table": "orders"}), offset.clone())]);
        assert_eq!((partition, found), (Partition::of(&table), place));
        assert_eq!(Value::Object(place.to_json()), offset);
        assert_eq!(
            Partition::find(&table, &[stored(json!({"protocol": "1", "table": "shop.public.items"}), offset)]).1,
            Place::default()
        );
        assert_eq!(Place::from_json(&map(json!({"timestamp": -1}))).time, Some(-1000), "before 1970, without nanos");
    }

    #[test]
    fn an_offset_that_is_none_is_refused() {
        let table = json!({"protocol": "1", "table": "orders"});
        for (partition, offset, good) in [
            (table.clone(), json!({"incrementing": 7}), true),
            (json!({"query": "query"}), json!({"timestamp": 7}), true),
            (json!({"topic": "orders"}), json!({"incrementing": 7}), false),
            (table.clone(), json!({}), false),
            (table, json!({"incrementing": "seven"}), false),
        ] {
            assert_eq!(check(&stored(partition.clone(), offset.clone())).is_ok(), good, "{partition} {offset}");
        }
    }

    proptest! {
        #[test]
        fn places_survive_the_store(time in proptest::option::of(-9_000_000_000_000_000i64..9_000_000_000_000_000), id in any::<Option<i64>>()) {
            let place = Place { time, id };
            prop_assert_eq!(Place::from_json(&place.to_json()), place);
        }
    }
}
