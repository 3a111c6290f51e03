//! Where the stream is: Debezium's offset, read and written, and what to skip after a restart. Pure.
//!
//! Transactions come in the order of their commits, and after a restart the server sends each that is not confirmed as a whole. So a position is
//! (everything that committed up to here, then that much of the next transaction). Events may share an LSN (one WAL record holds many rows of a
//! `COPY`), so within a transaction it is (LSN, events done with that LSN).

use crate::snapshot::is_table_state;
use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use serde_json::{Value, json};

/// `16/B374D848`, as the server prints it.
pub fn lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

/// The kind of the last event, by Debezium's names (`ReplicationMessage.Operation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Begin,
    Commit,
    Insert,
    Update,
    Delete,
    Truncate,
    Message,
}

impl Kind {
    const NAMES: [(Kind, &'static str); 7] = [
        (Kind::Begin, "BEGIN"),
        (Kind::Commit, "COMMIT"),
        (Kind::Insert, "INSERT"),
        (Kind::Update, "UPDATE"),
        (Kind::Delete, "DELETE"),
        (Kind::Truncate, "TRUNCATE"),
        (Kind::Message, "MESSAGE"),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("COMMIT", |(_, name)| name)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The end of the last commit of which everything is done: what is confirmed to the server. 0: nothing known.
    pub commit: u64,
    pub inside: Option<Inside>,
}

/// Within the transaction that follows `commit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    pub xid: Option<u32>,
    /// Of the last event done.
    pub lsn: u64,
    pub kind: Kind,
    /// Events done that have this LSN. `None`: written by Debezium, which does not count them.
    pub same: Option<u32>,
    /// Events of the transaction done.
    pub index: u64,
}

/// What else an offset says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub position: Position,
    /// A snapshot was under way when it was stored.
    pub snapshot: bool,
    pub snapshot_last: bool,
    /// `aqueduct.system_id`: none in an offset of Debezium's.
    pub system: Option<String>,
    pub timeline: Option<u32>,
    /// Everything as it stands: the keys of others (`transaction_id`, `incremental_snapshot_…`) are carried on.
    pub raw: JsonMap,
}

const SYSTEM: &str = "aqueduct.system_id";
const TIMELINE: &str = "aqueduct.timeline";
const INDEX: &str = "aqueduct.index";
const SAME: &str = "aqueduct.lsn_index";

/// `{"server": topic.prefix}`, as Debezium's.
pub fn partition(prefix: &str) -> JsonMap {
    [("server".to_owned(), Value::from(prefix))].into_iter().collect()
}

impl Stored {
    /// A snapshot was begun and not completed.
    pub fn in_snapshot(&self) -> bool {
        self.snapshot && !self.snapshot_last
    }

    /// The offset of this connector among all that are stored for it.
    pub fn find(offsets: &[SourceOffset], prefix: &str) -> Option<Self> {
        let partition = partition(prefix);
        offsets.iter().rev().find(|offset| offset.partition == partition)?.offset.as_ref().map(Self::read)
    }

    pub fn read(offset: &JsonMap) -> Self {
        let number = |key: &str| match offset.get(key) {
            // Java's longs are signed; an LSN is not.
            Some(Value::Number(number)) => number.as_u64().or_else(|| number.as_i64().map(i64::cast_unsigned)),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        let flag = |key: &str| match offset.get(key) {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(text)) => !matches!(text.as_str(), "" | "false"),
            _ => false,
        };
        let last = number("lsn_proc").or_else(|| number("lsn")).unwrap_or(0);
        let commit = number("lsn_commit").unwrap_or(last);
        let kind = offset.get("messageType").and_then(Value::as_str).and_then(Kind::parse);
        // A boundary is a commit, or (in an old offset without the type) the same LSN twice.
        let inside = match kind {
            Some(Kind::Commit) => None,
            None if last <= commit => None,
            kind => Some(Inside {
                xid: number("txId").and_then(|xid| u32::try_from(xid).ok()),
                lsn: last,
                kind: kind.unwrap_or(Kind::Insert),
                same: number(SAME).and_then(|same| u32::try_from(same).ok()),
                index: number(INDEX).unwrap_or(0),
            }),
        };
        Self {
            position: Position { commit, inside },
            snapshot: flag("snapshot"),
            snapshot_last: flag("last_snapshot_record") || flag("snapshot_completed"),
            system: offset.get(SYSTEM).and_then(Value::as_str).map(str::to_owned),
            timeline: number(TIMELINE).and_then(|timeline| u32::try_from(timeline).ok()),
            raw: offset.clone(),
        }
    }
}

/// Whether an offset that an operator sets is one: of the stream, as Debezium's are, or of a table's snapshot.
pub fn check(offset: &SourceOffset) -> Result<()> {
    let form = r#"write {"partition": {"server": "<topic.prefix>"}, "offset": {"lsn": 23456789}}, as Debezium's offsets are; of a table the partition has "schema" and "table" too, and null as its offset reads the table anew"#;
    let refuse = |why: String| Err(Error::fatal("postgres.offset", why).fix(form));
    let at = &offset.partition;
    let text = |key: &str| at.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if let Some(key) = at.keys().find(|key| !matches!(key.as_str(), "server" | "schema" | "table")) {
        return refuse(format!("{key:?} in the partition is no key of it"));
    }
    if !text("server") {
        return refuse("the partition has no text \"server\"".to_owned());
    }
    let of_table = at.contains_key("schema") || at.contains_key("table");
    if let Some(key) = ["schema", "table"].into_iter().find(|key| of_table && !text(key)) {
        return refuse(format!("the partition of a table has no text {key:?}"));
    }
    match &offset.offset {
        None => Ok(()),
        Some(map) if of_table => match is_table_state(map) {
            Ok(()) => Ok(()),
            Err(why) => refuse(format!("the offset is none of a table: {why}")),
        },
        Some(map) => stream_offset(map).or_else(refuse),
    }
}

/// What is wrong with the stream's own offset.
fn stream_offset(map: &JsonMap) -> Result<(), String> {
    if !map.contains_key("lsn") && !map.contains_key("lsn_proc") {
        return Err("the offset has neither \"lsn\" nor \"lsn_proc\"".to_owned());
    }
    let whole =
        |value: &Value| value.is_u64() || value.is_i64() || value.as_str().is_some_and(|text| text.parse::<u64>().is_ok());
    for key in ["lsn", "lsn_proc", "lsn_commit", "txId", INDEX, SAME, TIMELINE] {
        let Some(value) = map.get(key).filter(|value| !value.is_null() && !whole(value)) else { continue };
        return Err(match value.as_str().and_then(parse_lsn) {
            Some(lsn) => format!("{key:?} in the offset is a number there: {lsn} for {value}"),
            None => format!("{key:?} in the offset is not a whole number"),
        });
    }
    match map.get("messageType") {
        Some(kind) if !kind.is_null() && kind.as_str().and_then(Kind::parse).is_none() => {
            let names: Vec<&str> = Kind::NAMES.iter().map(|(_, name)| *name).collect();
            Err(format!("\"messageType\" in the offset is none of {}", names.join(", ")))
        }
        _ => Ok(()),
    }
}

/// The server as the offset names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub system: String,
    pub timeline: u32,
}

/// Debezium's fields, and ours beside them, so that either can go on from it.
pub fn offset(position: &Position, xid: Option<u32>, time_micros: Option<i64>, origin: &Origin) -> JsonMap {
    let mut map = JsonMap::new();
    let (last, kind) = match &position.inside {
        Some(inside) => (inside.lsn, inside.kind),
        None => (position.commit, Kind::Commit),
    };
    map.insert("lsn_proc".into(), json!(last));
    map.insert("messageType".into(), json!(kind.name()));
    map.insert("lsn_commit".into(), json!(position.commit));
    map.insert("lsn".into(), json!(last));
    if let Some(xid) = xid {
        map.insert("txId".into(), json!(xid));
    }
    if let Some(time) = time_micros {
        map.insert("ts_usec".into(), json!(time));
    }
    if let Some(inside) = &position.inside {
        map.insert(INDEX.into(), json!(inside.index));
        if let Some(same) = inside.same {
            map.insert(SAME.into(), json!(same));
        }
    }
    map.insert(SYSTEM.into(), json!(origin.system));
    map.insert(TIMELINE.into(), json!(origin.timeline));
    map
}

/// Follows the stream, and tells what was done before the restart.
#[derive(Clone, Debug)]
pub struct Tracker {
    position: Position,
    /// The end of the last commit or lone message: what Debezium's `sequence` has, which knows nothing of keep-alives.
    last_commit: u64,
    /// What a restart has still to skip.
    resume: Option<Inside>,
    /// The whole of the open transaction was done before.
    skip_all: bool,
    /// `None` between transactions.
    xid: Option<u32>,
}

impl Tracker {
    pub fn new(stored: Position) -> Self {
        let resume = stored.inside.clone();
        Self { last_commit: stored.commit, position: stored, resume, skip_all: false, xid: None }
    }

    pub fn position(&self) -> &Position {
        &self.position
    }

    pub fn last_commit(&self) -> u64 {
        self.last_commit
    }

    /// Between transactions, with nothing left to skip.
    pub fn idle(&self) -> bool {
        self.xid.is_none() && self.resume.is_none()
    }

    /// The open transaction is new: nothing of it was done before.
    pub fn is_new(&self) -> bool {
        self.follows() && self.resume.is_none()
    }

    /// What was done of the open transaction counts as not done.
    pub fn back(&mut self) {
        self.position.inside = None;
    }

    /// The open transaction is new, or was begun before: not one that was done as a whole.
    pub fn follows(&self) -> bool {
        self.xid.is_some() && !self.skip_all
    }

    /// True: new. False: done before the restart.
    pub fn begin(&mut self, lsn: u64, final_lsn: u64, xid: u32) -> bool {
        self.xid = Some(xid);
        // A commit that starts before the end of the last one is that one or an earlier one.
        self.skip_all = final_lsn < self.position.commit;
        if self.skip_all {
            return false;
        }
        // Another transaction than the one that was begun: that one has nothing for us any more (its publication changed).
        if self.resume.as_ref().is_some_and(|resume| resume.xid.is_some_and(|stored| stored != xid)) {
            tracing::warn!(xid, "the transaction that the stored offset stands in does not come again");
            self.resume = None;
        }
        if self.resume.is_some() {
            return false;
        }
        self.position.inside = Some(Inside { xid: Some(xid), lsn, kind: Kind::Begin, same: Some(0), index: 0 });
        true
    }

    /// One event of the open transaction. True: new. False: done before the restart.
    pub fn event(&mut self, lsn: u64, kind: Kind) -> bool {
        if self.skip_all {
            return false;
        }
        if let Some(resume) = &mut self.resume {
            if done_before(resume, lsn, kind) {
                return false;
            }
            self.resume = None;
        }
        let inside = self.position.inside.get_or_insert(Inside { xid: self.xid, lsn, kind, same: Some(0), index: 0 });
        // An event of Debezium's offset with this LSN is one at least.
        let same = if inside.lsn == lsn && inside.kind != Kind::Begin { inside.same.unwrap_or(1) + 1 } else { 1 };
        *inside = Inside { xid: self.xid, lsn, kind, same: Some(same), index: inside.index + 1 };
        true
    }

    /// True: new. False: all of it was done before.
    pub fn commit(&mut self, end_lsn: u64) -> bool {
        let new = !self.skip_all;
        self.xid = None;
        if new {
            self.resume = None;
            self.last_commit = end_lsn;
            self.position = Position { commit: end_lsn, inside: None };
        }
        self.skip_all = false;
        new
    }

    /// A message outside of any transaction; the next start begins behind it. True: new.
    pub fn lone_message(&mut self, lsn: u64) -> bool {
        let new = lsn > self.position.commit;
        if new && self.idle() {
            self.last_commit = lsn;
            self.position = Position { commit: lsn, inside: None };
        }
        new
    }

    /// Everything before `lsn` was sent, and between transactions that means done (ADR 0006). True where that moves the position.
    pub fn keep_alive(&mut self, lsn: u64) -> bool {
        let moves = self.idle() && lsn > self.position.commit;
        if moves {
            self.position = Position { commit: lsn, inside: None };
        }
        moves
    }
}

/// Whether an event lies at or before the stored one; counts those with its LSN.
fn done_before(resume: &mut Inside, lsn: u64, kind: Kind) -> bool {
    if resume.kind == Kind::Begin || lsn > resume.lsn {
        return false;
    }
    if lsn < resume.lsn {
        return true;
    }
    match &mut resume.same {
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
        // Debezium's: of several events with one LSN it is not known which was the last. Up to the first of its kind they were done for sure;
        // what follows may come twice, but nothing is left out.
        none => {
            if kind == resume.kind {
                *none = Some(0);
            }
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_offset_that_is_none_is_refused_by_the_name_of_its_key() {
        let server = || json!({"server": "shop"});
        let table = || json!({"server": "shop", "schema": "public", "table": "orders"});
        for (at, to, wrong) in [
            (
                server(),
                json!({"lsn": 24023128, "txId": 571, "ts_usec": 1, "snapshot": true, "last_snapshot_record": false}),
                None,
            ),
            (server(), json!({"lsn_proc": "24023128", "messageType": "COMMIT", "transaction_id": null}), None),
            (table(), json!({"oid": 7, "done": true}), None),
            (table(), json!({"oid": 7, "snapshot": "initial", "order": 0, "rows": 0, "key": ["1"]}), None),
            (json!({"topic": "t"}), json!({"lsn": 1}), Some("topic")),
            (json!({"server": 1}), json!({"lsn": 1}), Some("server")),
            (json!({"server": "shop", "schema": "public"}), json!({"oid": 1}), Some("table")),
            (server(), json!({}), Some("lsn")),
            (server(), json!({"offset": 5}), Some("lsn")),
            (server(), json!({"lsn": true}), Some("lsn")),
            (server(), json!({"lsn": 1, "lsn_commit": "many"}), Some("lsn_commit")),
            (server(), json!({"lsn": 1, "messageType": "UPSERT"}), Some("messageType")),
            (table(), json!({"done": true}), Some("oid")),
        ] {
            let map = |value: Value| value.as_object().cloned().unwrap();
            let checked = check(&SourceOffset { partition: map(at), offset: Some(map(to)) });
            match wrong {
                None => checked.unwrap(),
                Some(key) => {
                    let error = checked.unwrap_err();
                    assert!(error.message().contains(key) && error.hint().is_some(), "{key}: {error}");
                }
            }
        }
        let written = json!({"lsn": "16/B374D848"});
        let error = check(&SourceOffset { partition: partition("shop"), offset: written.as_object().cloned() }).unwrap_err();
        assert!(error.message().contains("97500059720"), "an LSN as the server prints it: {error}");
        let origin = Origin { system: "1".into(), timeline: 1 };
        let inside = Inside { xid: Some(3), lsn: u64::MAX, kind: Kind::Begin, same: Some(0), index: 0 };
        for position in [Position::default(), Position { commit: 7, inside: Some(inside) }] {
            let ours = offset(&position, Some(3), Some(-1), &origin);
            check(&SourceOffset { partition: partition("shop"), offset: Some(ours) }).unwrap();
        }
    }

    #[test]
    fn an_lsn_reads_as_it_is_printed() {
        assert_eq!(lsn(0x16_b374_d848), "16/B374D848");
        assert_eq!(parse_lsn("16/B374D848"), Some(0x16_b374_d848));
        assert_eq!((parse_lsn("16"), parse_lsn("x/1"), parse_lsn("/")), (None, None, None));
    }

    fn debezium(text: &str) -> Position {
        Stored::read(&serde_json::from_str(text).unwrap()).position
    }

    #[test]
    fn offsets_of_debezium() {
        // After a commit, then in the middle, then of the snapshot's end, then without a type.
        assert_eq!(
            debezium(r#"{"lsn_proc":200,"messageType":"COMMIT","lsn_commit":200,"lsn":200,"txId":7,"ts_usec":1}"#),
            Position { commit: 200, inside: None }
        );
        let inside = Inside { xid: Some(8), lsn: 150, kind: Kind::Insert, same: None, index: 0 };
        assert_eq!(
            debezium(r#"{"lsn_proc":150,"messageType":"INSERT","lsn_commit":200,"lsn":150,"txId":8,"ts_usec":1}"#),
            Position { commit: 200, inside: Some(inside) }
        );
        assert_eq!(debezium(r#"{"lsn":300,"txId":9,"ts_usec":1,"snapshot":true}"#), Position { commit: 300, inside: None });
        assert_eq!(debezium(r#"{"lsn_proc":300,"lsn_commit":300,"lsn":300}"#), Position { commit: 300, inside: None });
        let negative = debezium(r#"{"lsn_proc":-1,"lsn_commit":-1,"lsn":-1,"messageType":"COMMIT"}"#);
        assert_eq!(negative.commit, u64::MAX);
    }

    #[test]
    fn an_event_at_the_end_of_the_last_commit_is_not_taken_for_that_commit() {
        let position = debezium(r#"{"lsn_proc":200,"messageType":"INSERT","lsn_commit":200,"lsn":200,"txId":8}"#);
        let mut tracker = Tracker::new(position);
        assert!(!tracker.begin(200, 250, 8));
        assert!(!tracker.event(200, Kind::Insert));
        assert!(tracker.event(210, Kind::Insert));
        let position = debezium(r#"{"lsn_proc":200,"messageType":"COMMIT","lsn_commit":200,"lsn":200,"txId":7}"#);
        let mut tracker = Tracker::new(position);
        assert!(tracker.begin(200, 250, 8) && tracker.event(200, Kind::Insert));
    }

    #[test]
    fn of_events_with_one_lsn_none_is_lost_when_debezium_wrote_the_offset() {
        let position = debezium(r#"{"lsn_proc":150,"messageType":"INSERT","lsn_commit":100,"lsn":150,"txId":8}"#);
        let mut tracker = Tracker::new(position);
        tracker.begin(150, 250, 8);
        let new: Vec<bool> =
            [(150, Kind::Message), (150, Kind::Insert), (150, Kind::Insert)].map(|(lsn, kind)| tracker.event(lsn, kind)).into();
        assert_eq!(new, [false, false, true]);
    }

    #[test]
    fn a_keep_alive_moves_the_position_only_between_transactions() {
        let mut tracker = Tracker::new(Position { commit: 100, inside: None });
        assert!(tracker.keep_alive(120) && !tracker.keep_alive(110));
        tracker.begin(130, 150, 1);
        assert!(!tracker.keep_alive(140));
        tracker.commit(160);
        assert!(!tracker.keep_alive(160) && tracker.keep_alive(170));
        assert!(!tracker.lone_message(170) && tracker.lone_message(180));
        assert_eq!(tracker.position().commit, 180);
    }

    /// Transactions in commit order: (xid, events' LSNs in order, where the commit starts, where it ends).
    fn stream() -> impl Strategy<Value = Vec<(u32, Vec<u64>, u64, u64)>> {
        let transaction = (proptest::collection::vec(0u64..3, 0..6), 1u64..5, 0u64..40);
        proptest::collection::vec(transaction, 1..6).prop_map(|transactions| {
            let mut end = 1000;
            let mut all = Vec::new();
            for (xid, (steps, gap, back)) in transactions.into_iter().enumerate() {
                // Events may lie before the end of the transactions that committed while this one was open.
                let mut at = end + gap - back.min(end);
                let events: Vec<u64> = steps
                    .into_iter()
                    .map(|step| {
                        at += step;
                        at
                    })
                    .collect();
                let commit = end.max(at) + gap;
                end = commit + 8;
                all.push((xid as u32 + 1, events, commit, end));
            }
            all
        })
    }

    proptest! {
        /// Stop after any number of events, store the offset as JSON, start again from any earlier commit: nothing is left out, nothing comes twice.
        #[test]
        fn any_restart_goes_on_exactly(stream in stream(), stop in 0usize..40, again_from in 0usize..6) {
            let mut before = Tracker::new(Position::default());
            let (mut first, mut count) = (Vec::new(), 0);
            'all: for (xid, events, commit, end) in &stream {
                let lsn = events.first().copied().unwrap_or(*commit);
                if count == stop { break; }
                before.begin(lsn, *commit, *xid);
                count += 1;
                for (index, event) in events.iter().enumerate() {
                    if count == stop { break 'all; }
                    prop_assert!(before.event(*event, Kind::Insert));
                    first.push((*xid, index));
                    count += 1;
                }
                if count == stop { break; }
                prop_assert!(before.commit(*end));
                count += 1;
            }
            let origin = Origin { system: "1".into(), timeline: 1 };
            let xid = before.position().inside.as_ref().and_then(|inside| inside.xid);
            let json = serde_json::to_string(&offset(before.position(), xid, None, &origin)).unwrap();
            let stored = Stored::read(&serde_json::from_str(&json).unwrap());
            prop_assert_eq!(stored.position.commit, before.position().commit);
            // The server begins behind what is confirmed: at most the stored commit.
            let from = stream.iter().map(|(_, _, _, end)| *end).filter(|end| *end <= stored.position.commit).nth(again_from).unwrap_or(0);
            let mut after = Tracker::new(stored.position);
            for (xid, events, commit, end) in stream.iter().filter(|(_, _, commit, _)| *commit >= from) {
                after.begin(events.first().copied().unwrap_or(*commit), *commit, *xid);
                for (index, event) in events.iter().enumerate() {
                    if after.event(*event, Kind::Insert) {
                        first.push((*xid, index));
                    }
                }
                after.commit(*end);
            }
            let expected: Vec<_> = stream.iter().flat_map(|(xid, events, _, _)| (0..events.len()).map(|index| (*xid, index))).collect();
            prop_assert_eq!(first, expected);
            prop_assert_eq!(after.position().commit, stream.last().unwrap().3);
        }
    }
}
