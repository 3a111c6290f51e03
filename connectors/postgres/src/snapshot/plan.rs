//! What there is to read before and beside the stream: from the mode, what is stored, and the tables that are captured. Pure.

use super::reader::cut_columns;
use super::state::{Kind, Name, Read, States, TableState};
use super::visibility::Visible;
use crate::source::options::modes::SnapshotMode;
use crate::table::Table;
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the stored offset of the stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing is stored, or what is stored is of no use any more.
    Nothing,
    /// An initial snapshot was under way.
    Unfinished,
    Streaming,
}

pub struct Situation<'a> {
    pub mode: SnapshotMode,
    pub before: Before,
    pub stored: States,
    /// Captured, in the order in which they are read.
    pub captured: &'a [Arc<Table>],
    /// `snapshot.include.collection.list`
    pub include: &'a dyn Fn(&Table) -> bool,
    /// A statement of the user's own is read in place of the table, as a whole.
    pub own: &'a dyn Fn(&Table) -> bool,
    /// What the view of an unfinished initial snapshot has seen.
    pub seen: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub states: States,
    /// Tables to read before the stream begins.
    pub first: Vec<Name>,
    /// They are read in the snapshot that a slot exports.
    pub export: bool,
    /// Tables that were not captured before: what was under way when they joined must have ended before they are read.
    pub joined: BTreeSet<Name>,
    /// What moved already.
    pub moved: BTreeSet<Name>,
}

pub fn plan(situation: Situation<'_>) -> Plan {
    let Situation { mode, before, stored, captured, include, own, seen } = situation;
    let wanted: Vec<&Arc<Table>> = captured.iter().filter(|table| include(table)).collect();
    let streams = mode != SnapshotMode::InitialOnly;
    // Debezium's own offset of an unfinished snapshot says nothing of tables: it begins anew there too.
    let anew = before == Before::Nothing
        || (before == Before::Unfinished && stored.0.is_empty())
        || (before == Before::Streaming && mode == SnapshotMode::Always);
    match (mode, anew, before) {
        (SnapshotMode::NoData, ..) => joined_without(stored, captured, |_| true),
        (_, true, _) => fresh(&stored, &wanted),
        (_, _, Before::Unfinished) if !streams => rest_without_stream(stored, &wanted, own),
        (_, _, Before::Unfinished) => rest(stored, &wanted, own, seen),
        // Taken over from Debezium: it has read what it captured.
        _ if stored.0.is_empty() => joined_without(stored, captured, |_| true),
        (SnapshotMode::Initial | SnapshotMode::WhenNeeded | SnapshotMode::Always, ..) => joining(stored, captured, &wanted, own),
        _ => joined_without(stored, captured, |_| false),
    }
}

fn name(table: &Table) -> Name {
    (table.schema.clone(), table.name.clone())
}

fn initial(order: usize) -> Read {
    Read { snapshot: Kind::Initial, order: order as u64, ..Read::default() }
}

/// Everything, from the beginning; what earlier snapshots knew is forgotten in the first commit.
fn fresh(stored: &States, wanted: &[&Arc<Table>]) -> Plan {
    let state = |(order, table): (usize, &&Arc<Table>)| {
        (name(table), TableState { oid: table.oid, done: false, read: Some(initial(order)) })
    };
    let states = States(wanted.iter().enumerate().map(state).collect());
    let first: Vec<Name> = wanted.iter().map(|table| name(table)).collect();
    let moved = stored.0.keys().chain(&first).cloned().collect();
    Plan { export: true, first, moved, joined: BTreeSet::new(), states }
}

/// No snapshot: from here on the stream has everything.
fn joined_without(mut stored: States, captured: &[Arc<Table>], done: impl Fn(&Table) -> bool) -> Plan {
    let mut moved = BTreeSet::new();
    for table in captured.iter().filter(|table| done(table)) {
        let state = stored.0.entry(name(table)).or_default();
        if *state != (TableState { oid: table.oid, done: true, read: state.read.clone() }) {
            (state.oid, state.done) = (table.oid, true);
            moved.insert(name(table));
        }
    }
    Plan { states: stored, first: queued(&BTreeSet::new()), export: false, joined: BTreeSet::new(), moved }
}

fn queued(first: &BTreeSet<Name>) -> Vec<Name> {
    first.iter().cloned().collect()
}

/// The exported snapshot is gone: tables with a key are read on beside the stream, the others before it begins.
fn rest(stored: States, wanted: &[&Arc<Table>], own: &dyn Fn(&Table) -> bool, seen: Option<&str>) -> Plan {
    let mut plan = joined_without(stored, &[], |_| false);
    for table in wanted {
        let name = name(table);
        let order = plan.states.next_order();
        let known = plan.states.0.get(&name).is_some_and(|state| state.oid == table.oid);
        let state = plan.states.0.entry(name.clone()).or_default();
        if !known {
            // What it held before it was captured is in no stream.
            *state = TableState { oid: table.oid, ..TableState::default() };
            plan.joined.insert(name.clone());
        }
        if state.done {
            continue;
        }
        let keyed = cut_columns(table).is_some() && !own(table);
        let read = state.read.get_or_insert_with(|| Read { order, ..Read::default() });
        if known && read.id.is_none() && read.seen.is_none() {
            read.seen = seen.map(str::to_owned);
        }
        read.snapshot = if keyed { Kind::Incremental } else { Kind::Initial };
        if !keyed {
            plan.first.push(name.clone());
        }
        plan.moved.insert(name);
    }
    plan
}

/// `initial_only`: there is no stream that could tell what changed; what is left is read as it is now.
fn rest_without_stream(stored: States, wanted: &[&Arc<Table>], own: &dyn Fn(&Table) -> bool) -> Plan {
    let mut plan = Plan { joined: BTreeSet::new(), ..rest(stored, wanted, own, None) };
    for table in wanted {
        let name = name(table);
        if let Some(read) = plan.states.0.get_mut(&name).and_then(|state| state.read.as_mut()) {
            // Rows of a table without a key have moved: it is read anew.
            (read.snapshot, read.ctid) = (Kind::Initial, None);
        }
    }
    plan.first = wanted.iter().map(|table| name(table)).filter(|name| plan.states.0[name].read.is_some()).collect();
    plan
}

/// Tables that were not captured before.
fn joining(stored: States, captured: &[Arc<Table>], wanted: &[&Arc<Table>], own: &dyn Fn(&Table) -> bool) -> Plan {
    let known: BTreeSet<Name> = captured
        .iter()
        .filter(|table| {
            stored.0.get(&name(table)).is_some_and(|state| state.oid == table.oid && (state.done || state.read.is_some()))
        })
        .map(|table| name(table))
        .collect();
    let mut plan = rest(stored, wanted, own, None);
    plan.joined = plan.moved.difference(&known).cloned().collect();
    plan
}

/// As `RelationalSnapshotChangeEventSource.addSignalingCollectionAndSort`: by the expressions of the include list, and by name for each.
pub fn order(mut tables: Vec<Arc<Table>>, include: &[Regex]) -> Vec<Arc<Table>> {
    tables.sort_by_cached_key(|table| {
        let name = format!("{}.{}", table.schema, table.name);
        let place = include.iter().position(|pattern| pattern.is_match(&name)).unwrap_or(include.len());
        (place, name)
    });
    tables
}

/// Rows as they were at an earlier view, and have not changed since: the stream has all others. The view is one that a slot exported: it names
/// subtransactions too, which `xmin` may be. `None` where ids of transactions have wrapped, so that old rows cannot be told from new ones for sure:
/// then some come twice.
pub fn unchanged_since(seen: &Visible) -> Option<String> {
    (seen.xmax >> 32 == 0).then(|| {
        let running: Vec<String> = seen.running().iter().map(u64::to_string).collect();
        let id = "xmin::text::int8";
        let between = if running.is_empty() { String::new() } else { format!(" AND {id} NOT IN ({})", running.join(", ")) };
        format!("{id} < {} OR ({id} < {}{between})", seen.xmin, seen.xmax)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Column, ReplicaIdentity};
    use std::collections::BTreeMap;

    fn table(oid: u32, name: &str, keyed: bool) -> Arc<Table> {
        let column = Column { name: "k".into(), type_oid: 23, modifier: -1, not_null: true, default: None };
        let key = if keyed { vec![0] } else { vec![] };
        Arc::new(Table {
            oid,
            schema: "s".into(),
            name: name.into(),
            columns: vec![column],
            key,
            identity: ReplicaIdentity::Default,
        })
    }

    fn of(mode: SnapshotMode, before: Before, stored: &States, captured: &[Arc<Table>]) -> Plan {
        let (include, own) = (|table: &Table| table.name != "left_out", |table: &Table| table.name == "own");
        plan(Situation { mode, before, stored: stored.clone(), captured, include: &include, own: &own, seen: Some("5:9:7") })
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| ("s".to_owned(), (*name).to_owned())).collect()
    }

    fn stored(entries: &[(&str, u32, bool, Option<Read>)]) -> States {
        let state = |(name, oid, done, read): &(&str, u32, bool, Option<Read>)| {
            (("s".to_owned(), (*name).to_owned()), TableState { oid: *oid, done: *done, read: read.clone() })
        };
        States(entries.iter().map(state).collect::<BTreeMap<_, _>>())
    }

    use crate::source::options::modes::SnapshotMode::*;

    #[test]
    fn a_first_start_reads_everything_in_one_exported_snapshot() {
        let captured = [table(1, "b", true), table(2, "a", false), table(3, "left_out", true)];
        for (mode, before) in [
            (Initial, Before::Nothing),
            (WhenNeeded, Before::Nothing),
            (InitialOnly, Before::Nothing),
            (Always, Before::Streaming),
            (Initial, Before::Unfinished),
        ] {
            let plan = of(mode, before, &States::default(), &captured);
            assert_eq!((plan.first, plan.export), (names(&["b", "a"]), true), "{mode:?} {before:?}");
        }
        let plan = of(Always, Before::Streaming, &stored(&[("gone", 9, true, None)]), &captured);
        assert!(plan.moved.contains(&names(&["gone"])[0]) && !plan.states.0.contains_key(&names(&["gone"])[0]));
        let plan = of(NoData, Before::Nothing, &States::default(), &captured);
        assert!(plan.first.is_empty() && !plan.export && plan.states.0.values().all(|state| state.done));
    }

    #[test]
    fn after_a_crash_what_has_a_key_is_read_on_beside_the_stream() {
        let captured = [table(1, "a", true), table(2, "b", true), table(3, "c", false), table(4, "d", true)];
        let half = Read { key: Some(vec!["7".into()]), rows: 7, ..Read::default() };
        let heap = Read { ctid: Some("(8,1)".into()), file: Some(3), order: 2, ..Read::default() };
        let before = stored(&[("a", 1, true, None), ("b", 2, false, Some(half)), ("c", 3, false, Some(heap))]);
        let plan = of(Initial, Before::Unfinished, &before, &captured);
        assert_eq!((plan.first.clone(), plan.export), (names(&["c"]), false));
        assert_eq!(plan.states.queue(Kind::Incremental), names(&["b", "d"]));
        let read = |name: &str| plan.states.0[&names(&[name])[0]].read.clone().unwrap();
        assert_eq!((read("b").key, read("b").seen.as_deref()), (Some(vec!["7".to_owned()]), Some("5:9:7")));
        assert_eq!(read("c").seen.as_deref(), Some("5:9:7"));
        // It was not captured when the view was taken: what it held then is in no stream.
        assert_eq!((plan.joined.clone(), read("d").seen), (names(&["d"]).into_iter().collect(), None));
        let own = [table(7, "own", true)];
        let plan = of(Initial, Before::Unfinished, &stored(&[("own", 7, false, Some(Read::default()))]), &own);
        assert_eq!(plan.first, names(&["own"]), "the user's statement is read again, not the table");
        let plan = of(InitialOnly, Before::Unfinished, &before, &captured);
        assert_eq!(plan.first, names(&["b", "c", "d"]));
        assert_eq!(plan.states.0[&names(&["c"])[0]].read.as_ref().unwrap().ctid, None);
    }

    #[test]
    fn tables_join_and_tables_made_anew_do_too() {
        let captured = [table(1, "a", true), table(20, "b", true), table(3, "c", false), table(4, "d", true)];
        let before = stored(&[
            ("a", 1, true, None),
            ("b", 2, true, None),
            ("d", 4, false, Some(Read { snapshot: Kind::Incremental, ..Read::default() })),
        ]);
        let plan = of(Initial, Before::Streaming, &before, &captured);
        assert_eq!((plan.first.clone(), plan.states.queue(Kind::Incremental)), (names(&["c"]), names(&["d", "b"])));
        assert_eq!(plan.joined, names(&["b", "c"]).into_iter().collect());
        // Debezium's offset: it has read them all.
        let plan = of(Initial, Before::Streaming, &States::default(), &captured);
        assert!(plan.first.is_empty() && plan.states.0.values().all(|state| state.done) && plan.moved.len() == 4);
        assert_eq!(of(Initial, Before::Streaming, &plan.states, &captured).moved.len(), 0);
        assert_eq!(of(InitialOnly, Before::Streaming, &before, &captured).first, names(&[]));
    }

    #[test]
    fn tables_are_read_in_debeziums_order() {
        let tables = vec![table(1, "b", true), table(2, "a", true), table(3, "z", true)];
        let order = |include: &[&str]| -> Vec<String> {
            let include: Vec<Regex> = include.iter().map(|text| Regex::new(&format!("(?i)^(?:{text})$")).unwrap()).collect();
            order(tables.clone(), &include).iter().map(|table| table.name.clone()).collect()
        };
        assert_eq!(order(&[]), ["a", "b", "z"]);
        assert_eq!(order(&["S\\.Z", "s\\..*"]), ["z", "a", "b"]);
    }

    #[test]
    fn rows_of_an_earlier_view_are_told_while_ids_have_not_wrapped() {
        let seen = |text: &str| unchanged_since(&Visible::parse(text).unwrap());
        assert_eq!(seen("5:9:").unwrap(), "xmin::text::int8 < 5 OR (xmin::text::int8 < 9)");
        assert_eq!(seen("5:9:5,7").unwrap(), "xmin::text::int8 < 5 OR (xmin::text::int8 < 9 AND xmin::text::int8 NOT IN (5, 7))");
        assert_eq!(seen("5:4294967297:"), None);
    }
}
