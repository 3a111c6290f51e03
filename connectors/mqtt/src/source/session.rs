//! What of a session must outlive the process, and which answers wait for the log. Pure.
//!
//! A message of QoS 2 is ours from its PUBLISH to the PUBCOMP. In between its packet id is *held*: the same PUBLISH may come again, with DUP, after any break. So
//! held ids are part of the source offset, in the commit of the record; and an id is let go of only when the offset without it is durable, since after
//! PUBCOMP the broker uses it for another message. No answer leaves before the offset that explains it is durable (invariant 1).

use crate::wire::Ack;
use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use std::collections::{BTreeSet, VecDeque};

/// As it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Counts offsets; the answers of a durable one may leave.
    pub step: u64,
    /// Packet ids of QoS 2 that are on the log and not released.
    pub held: BTreeSet<u16>,
    /// The session's subscriptions.
    pub filters: Vec<String>,
    /// How often the broker has had none where we had one.
    pub lost: u64,
}

const CLIENT: &str = "client";

/// The partition: sessions belong to client ids.
fn partition(client: &str) -> JsonMap {
    [(CLIENT.to_owned(), client.into())].into_iter().collect()
}

/// The client ids that have offsets.
pub(super) fn clients(offsets: &[SourceOffset]) -> impl Iterator<Item = &str> {
    offsets.iter().filter_map(|offset| offset.partition.get(CLIENT)?.as_str())
}

impl Stored {
    pub(super) fn find(client: &str, offsets: &[SourceOffset]) -> Option<Self> {
        let offset = offsets.iter().find(|offset| offset.partition == partition(client))?.offset.as_ref()?;
        let number = |key: &str| offset.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default();
        let text = |key: &str| offset.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
        let filters = serde_json::from_str(text("filters")).unwrap_or_default();
        Some(Self { step: number("step"), held: ids(text("held")), filters, lost: number("lost") })
    }

    pub(super) fn offset(&self, client: &str) -> SourceOffset {
        let fields = [
            ("step", self.step.into()),
            ("held", ranges(&self.held).into()),
            // Offsets are flat.
            ("filters", serde_json::Value::from(self.filters.clone()).to_string().into()),
            ("lost", self.lost.into()),
        ];
        SourceOffset {
            partition: partition(client),
            offset: Some(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        }
    }
}

/// Whether an offset that an operator sets is one. A wrong `held` would make records of messages that were stored, or pass over new ones.
pub(super) fn check(offset: &SourceOffset) -> Result<()> {
    let form = r#"write {"partition": {"client": "<mqtt.client.id>"}, "offset": {"step": 0, "held": "", "filters": "[]", "lost": 0}}, where what is 0 or empty may be left out; or null as the offset, which forgets the session"#;
    let refuse = |why: String| Err(Error::fatal("mqtt.offset", why).fix(form));
    match offset.partition.get(CLIENT) {
        Some(client) if client.as_str().is_some_and(|client| !client.is_empty()) && offset.partition.len() == 1 => {}
        Some(_) if offset.partition.len() > 1 => return refuse("the partition has more keys than \"client\"".to_owned()),
        Some(_) => return refuse("\"client\" in the partition is not the text of a client id".to_owned()),
        None => return refuse("the partition has no \"client\"".to_owned()),
    }
    for (key, value) in offset.offset.iter().flatten() {
        let (good, what) = match key.as_str() {
            "step" | "lost" => (value.is_u64(), "is not a whole number from 0 on"),
            "held" => (value.as_str().is_some_and(are_ids), "is not a text of packet ids from 1 to 65535, as in \"3,7-9\""),
            "filters" => {
                let list = |text: &str| serde_json::from_str::<Vec<String>>(text).is_ok();
                (value.as_str().is_some_and(list), "is not the text of a JSON array of topics, as in \"[\\\"fleet/#\\\"]\"")
            }
            _ => (false, "is no key of it"),
        };
        if !good {
            return refuse(format!("{key:?} in the offset {what}"));
        }
    }
    Ok(())
}

fn are_ids(text: &str) -> bool {
    let id = |text: &str| text.trim().parse::<u16>().ok().filter(|id| *id > 0);
    let run = |run: &str| {
        let (start, end) = run.split_once('-').unwrap_or((run, run));
        matches!((id(start), id(end)), (Some(start), Some(end)) if start <= end)
    };
    text.is_empty() || text.split(',').all(run)
}

/// `3,7-9`
fn ranges(ids: &BTreeSet<u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for id in ids.iter().copied() {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == id => *end = id,
            _ => runs.push((id, id)),
        }
    }
    let run = |(start, end): &(u16, u16)| if start == end { start.to_string() } else { format!("{start}-{end}") };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

fn ids(text: &str) -> BTreeSet<u16> {
    let run = |run: &str| {
        let (start, end) = run.split_once('-').unwrap_or((run, run));
        Some(start.trim().parse().ok()?..=end.trim().parse().ok()?)
    };
    text.split(',').filter_map(run).flatten().filter(|id| *id > 0).collect()
}

/// One answer to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub kind: Ack,
    pub pid: u16,
    pub reason: u8,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Record,
    /// It is on the log, or with what is about to be.
    Known,
    /// An id that was held is used for another message: the broker has forgotten the older one. A record.
    Reused,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub stored: Stored,
    /// Of the batch that is being made, in the order of what they answer.
    answers: Vec<Answer>,
    /// Of what is not durable yet, by step.
    waiting: VecDeque<(u64, Vec<Answer>)>,
    /// Messages among `answers` and `waiting`.
    unsettled: usize,
    changed: bool,
}

impl Session {
    pub(super) fn new(stored: Stored) -> Self {
        Self { stored, ..Self::default() }
    }

    /// Messages that the broker waits for us to answer.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Whether something is stored and not durable yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn received(&mut self, qos: u8, pid: u16, dup: bool) -> Fate {
        let kind = match qos {
            0 => return Fate::Record,
            1 => Ack::Puback,
            _ => Ack::Pubrec,
        };
        self.answers.push(Answer { kind, pid, reason: 0 });
        self.unsettled += 1;
        match qos == 2 && !self.stored.held.insert(pid) {
            false => Fate::Record,
            true if dup => Fate::Known,
            true => Fate::Reused,
        }
    }

    /// PUBREL. `explain`: 5.0 has a reason for an id that nobody holds.
    pub(super) fn released(&mut self, pid: u16, explain: bool) {
        let held = self.stored.held.remove(&pid);
        let reason = if held || !explain { 0 } else { 0x92 };
        self.answers.push(Answer { kind: Ack::Pubcomp, pid, reason });
    }

    /// These are the session's subscriptions from now on.
    pub(super) fn subscribed(&mut self, filters: Vec<String>) {
        self.changed |= self.stored.filters != filters;
        self.stored.filters = filters;
    }

    /// The broker has no session: nothing that was held will be released.
    pub(super) fn begin_anew(&mut self, lost: bool) {
        self.stored.lost += u64::from(lost);
        self.changed |= lost || !self.stored.held.is_empty() || !self.stored.filters.is_empty();
        self.stored.held.clear();
        self.stored.filters.clear();
    }

    /// Whether there is something to store.
    pub(super) fn is_changed(&self) -> bool {
        self.changed || !self.answers.is_empty()
    }

    /// The offset after all that came so far.
    pub(super) fn step(&mut self, client: &str) -> SourceOffset {
        self.stored.step += 1;
        self.changed = false;
        self.waiting.push_back((self.stored.step, std::mem::take(&mut self.answers)));
        self.stored.offset(client)
    }

    /// The answers that may leave now, in the order of what came.
    pub(super) fn durable(&mut self, client: &str, offsets: &[SourceOffset]) -> Vec<Answer> {
        let Some(stored) = offsets.iter().rev().find_map(|offset| Stored::find(client, std::slice::from_ref(offset))) else {
            return Vec::new();
        };
        let mut free = Vec::new();
        while let Some((_, answers)) = self.waiting.pop_front_if(|(step, _)| *step <= stored.step) {
            self.unsettled -= answers.iter().filter(|answer| answer.kind != Ack::Pubcomp).count();
            free.extend(answers);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(answers: &[Answer]) -> Vec<(Ack, u16)> {
        answers.iter().map(|answer| (answer.kind, answer.pid)).collect()
    }

    #[test]
    fn an_offset_that_is_none_is_refused_by_the_name_of_its_key() {
        let offset = |partition: serde_json::Value, offset: serde_json::Value| SourceOffset {
            partition: partition.as_object().cloned().unwrap(),
            offset: offset.as_object().cloned(),
        };
        let client = || serde_json::json!({"client": "c"});
        let stored =
            Stored { step: 7, held: BTreeSet::from([1, 2, 3, 9, u16::MAX]), filters: vec!["a/#".into()], lost: 2 }.offset("c");
        check(&stored).unwrap();
        check(&offset(client(), serde_json::json!({}))).unwrap();
        for (bad, key) in [
            (offset(serde_json::json!({"topic": "t"}), serde_json::json!({})), "client"),
            (offset(serde_json::json!({"client": 7}), serde_json::json!({})), "client"),
            (offset(serde_json::json!({"client": "c", "x": 1}), serde_json::json!({})), "client"),
            (offset(client(), serde_json::json!({"step": -1})), "step"),
            (offset(client(), serde_json::json!({"held": [1]})), "held"),
            (offset(client(), serde_json::json!({"held": "9-3"})), "held"),
            (offset(client(), serde_json::json!({"held": "0"})), "held"),
            (offset(client(), serde_json::json!({"filters": ["a"]})), "filters"),
            (offset(client(), serde_json::json!({"offset": 5})), "offset"),
        ] {
            let error = check(&bad).unwrap_err();
            assert!(error.message().contains(&format!("{key:?}")) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn nothing_is_answered_before_it_is_durable_and_then_in_order() {
        let mut session = Session::default();
        assert_eq!(session.received(1, 1, false), Fate::Record);
        assert_eq!(session.received(2, 2, false), Fate::Record);
        let first = session.step("c");
        assert_eq!(session.received(1, 3, false), Fate::Record);
        let second = session.step("c");
        assert_eq!(session.unsettled(), 3);
        assert_eq!(answers(&session.durable("c", &[first])), [(Ack::Puback, 1), (Ack::Pubrec, 2)]);
        assert_eq!(session.durable("other", std::slice::from_ref(&second)), []);
        assert_eq!(answers(&session.durable("c", &[second])), [(Ack::Puback, 3)]);
        assert_eq!(session.unsettled(), 0);
    }

    #[test]
    fn a_message_of_qos_2_that_comes_again_after_a_crash_is_known() {
        let mut session = Session::default();
        session.received(2, 7, false);
        let offset = session.step("c");
        // The crash: PUBREC was never sent.
        let mut session = Session::new(Stored::find("c", &[offset]).unwrap());
        assert_eq!(session.received(2, 7, true), Fate::Known);
        let offset = session.step("c");
        assert_eq!(answers(&session.durable("c", &[offset])), [(Ack::Pubrec, 7)]);
        session.released(7, true);
        let offset = session.step("c");
        // Let go of in the store first: from PUBCOMP on the id is another message's.
        assert_eq!(Stored::find("c", std::slice::from_ref(&offset)).unwrap().held.len(), 0);
        assert_eq!(session.durable("c", &[offset]), [Answer { kind: Ack::Pubcomp, pid: 7, reason: 0 }]);
        assert_eq!(session.received(2, 7, false), Fate::Record);
    }

    #[test]
    fn what_was_not_durable_is_a_record_again() {
        let mut session = Session::default();
        session.received(2, 7, false);
        let mut session = Session::new(Stored::default());
        assert_eq!(session.received(2, 7, true), Fate::Record);
    }

    #[test]
    fn a_release_of_what_nobody_holds_is_answered_too() {
        let mut session = Session::default();
        session.released(9, true);
        session.released(9, false);
        let offset = session.step("c");
        let free = session.durable("c", &[offset]);
        assert_eq!(free.iter().map(|answer| answer.reason).collect::<Vec<_>>(), [0x92, 0]);
    }

    #[test]
    fn a_new_session_holds_nothing() {
        let held = BTreeSet::from([1, 2]);
        let mut session = Session::new(Stored { held, filters: vec!["a".into()], ..Stored::default() });
        session.begin_anew(true);
        assert!(session.is_changed());
        let stored = Stored::find("c", &[session.step("c")]).unwrap();
        assert_eq!(stored, Stored { step: 1, lost: 1, ..Stored::default() });
        assert_eq!(session.received(2, 1, false), Fate::Record);
    }

    #[test]
    fn an_id_in_a_new_message_is_not_the_old_one() {
        let mut session = Session::new(Stored { held: BTreeSet::from([1]), ..Stored::default() });
        assert_eq!(session.received(2, 1, false), Fate::Reused);
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_again(held in proptest::collection::btree_set(1u16.., 0..50), step in any::<u64>(), lost in 0u64..9) {
            let stored = Stored { step, held, filters: vec!["a/+".into(), "b,c/#".into()], lost };
            prop_assert_eq!(Stored::find("c", &[stored.offset("c")]), Some(stored));
        }

        /// A broker that loses the connection at any time, and a process that crashes at any time: every message is stored once.
        #[test]
        fn every_message_of_qos_2_is_stored_once(events in proptest::collection::vec(0u8..6, 1..200)) {
            let mut model = Model::default();
            for event in events {
                model.act(event);
            }
            model.settle();
            let expected: Vec<u32> = (0..model.next).collect();
            let mut found = model.log.clone();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }

    /// One end of the broker's: id → message and whether it has had a PUBREC.
    #[derive(Default)]
    struct Model {
        session: Session,
        durable: Stored,
        in_flight: std::collections::BTreeMap<u16, (u32, bool)>,
        /// Appended and not durable: messages and the offset after them.
        pending: VecDeque<(Vec<u32>, SourceOffset)>,
        batch: Vec<u32>,
        log: Vec<u32>,
        next: u32,
    }

    impl Model {
        fn act(&mut self, event: u8) {
            match event {
                0 => {
                    if let Some(pid) = (1..6).find(|pid| !self.in_flight.contains_key(pid)) {
                        self.in_flight.insert(pid, (self.next, false));
                        self.next += 1;
                        self.publish(pid, false);
                    }
                }
                1 if self.session.is_changed() => {
                    let offset = self.session.step("c");
                    self.pending.push_back((std::mem::take(&mut self.batch), offset));
                }
                2 => {
                    if let Some((messages, offset)) = self.pending.pop_front() {
                        self.log.extend(messages);
                        self.durable = Stored::find("c", std::slice::from_ref(&offset)).unwrap();
                        let answers = self.session.durable("c", &[offset]);
                        self.hear(&answers);
                    }
                }
                // Durable, and the answers are lost with the connection.
                3 => {
                    if let Some((messages, offset)) = self.pending.pop_front() {
                        self.log.extend(messages);
                        self.durable = Stored::find("c", &[offset]).unwrap();
                    }
                    self.crash();
                }
                4 => self.crash(),
                _ => {}
            }
        }

        fn publish(&mut self, pid: u16, dup: bool) {
            let (message, _) = self.in_flight[&pid];
            match self.session.received(2, pid, dup) {
                Fate::Known => {}
                Fate::Record | Fate::Reused => self.batch.push(message),
            }
        }

        fn hear(&mut self, answers: &[Answer]) {
            for answer in answers {
                match answer.kind {
                    Ack::Pubrec => {
                        self.in_flight.get_mut(&answer.pid).unwrap().1 = true;
                        self.session.released(answer.pid, true);
                    }
                    Ack::Pubcomp => {
                        self.in_flight.remove(&answer.pid);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        fn crash(&mut self) {
            self.session = Session::new(self.durable.clone());
            self.pending.clear();
            self.batch.clear();
            for (pid, (_, heard)) in self.in_flight.clone() {
                if heard { self.session.released(pid, true) } else { self.publish(pid, true) }
            }
        }

        fn settle(&mut self) {
            while !self.in_flight.is_empty() || !self.pending.is_empty() {
                self.act(1);
                self.act(2);
            }
        }
    }
}
