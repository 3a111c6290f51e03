//! Consumer groups as a pure state machine: members and topics in, who reads which partition out. Shared by the logs that have no broker.
//!
//! The assignment is sticky (nothing moves without need), balanced (counts of members with equal subscriptions differ by one at most) and cooperative
//! (a partition is given to its next owner only when the last one has given it up; the others are read on meanwhile).

use aqueduct_core::{Error, Result, Topic, TopicPartition, Topics};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// One consumer group. After each call that changes it (all but [`Group::poll`] with `released == false`) its members should be woken.
#[derive(Debug, Default)]
pub struct Group {
    members: BTreeMap<Arc<str>, Member>,
    /// Those that a member subscribes to.
    topics: BTreeMap<Topic, TopicState>,
    /// Who shall read what: what is owned moves towards this.
    target: BTreeMap<TopicPartition, Arc<str>>,
    next_epoch: u64,
}

/// A topic as a group sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicState {
    pub id: Uuid,
    pub partitions: i32,
}

/// What a member must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// With the topics' ids.
    Assigned(Vec<(TopicPartition, Uuid)>),
    /// The member's next poll gives them up.
    Revoked(Vec<TopicPartition>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Poll {
    pub event: Option<Event>,
    /// Partitions became free by this call: other members may have news.
    pub released: bool,
}

#[derive(Debug)]
struct Member {
    epoch: u64,
    subscription: Subscription,
    /// With the id of the topic that they are of.
    owned: BTreeMap<TopicPartition, Uuid>,
    /// Told to give these up; does so by the next poll.
    leaving: BTreeSet<TopicPartition>,
}

/// Which topics a member reads.
#[derive(Debug)]
pub enum Subscription {
    Names(BTreeSet<Topic>),
    Regex(Regex),
}

impl Subscription {
    /// # Errors
    /// `log.topics_regex`: fatal.
    pub fn new(topics: &Topics) -> Result<Self> {
        match topics {
            Topics::Names(names) => Ok(Subscription::Names(names.iter().cloned().collect())),
            Topics::Regex(pattern) => Regex::new(&format!("^(?:{pattern})$")).map(Subscription::Regex).map_err(|error| {
                Error::fatal("log.topics_regex", format!("topics.regex {pattern:?} is not a regular expression"))
                    .because(error)
                    .fix("correct topics.regex")
            }),
        }
    }

    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Subscription::Names(names) => names.contains(topic),
            Subscription::Regex(regex) => regex.is_match(topic),
        }
    }
}

impl Group {
    /// A member joins and gets its epoch. One of the same name is fenced; what it owned is free at once, and as a rule goes to its successor.
    /// `catalogue` is all topics there are.
    ///
    /// # Errors
    /// `log.topics_regex`: fatal.
    pub fn join<'a>(
        &mut self,
        name: &str,
        topics: &Topics,
        catalogue: impl IntoIterator<Item = (&'a Topic, TopicState)>,
    ) -> Result<u64> {
        let subscription = Subscription::new(topics)?;
        for (topic, state) in catalogue {
            if subscription.matches(topic) {
                self.topics.insert(topic.clone(), state);
            }
        }
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        let member = Member { epoch, subscription, owned: BTreeMap::new(), leaving: BTreeSet::new() };
        self.members.insert(name.into(), member);
        self.rebalance();
        Ok(epoch)
    }

    /// Frees what the member owned. Nothing happens when the epoch is an old one.
    pub fn leave(&mut self, name: &str, epoch: u64) {
        if self.members.get(name).is_some_and(|member| member.epoch == epoch) {
            self.members.remove(name);
            self.rebalance();
        }
    }

    pub fn topic_created(&mut self, topic: &Topic, state: TopicState) {
        if self.members.values().any(|member| member.subscription.matches(topic)) {
            self.topics.insert(topic.clone(), state);
            self.rebalance();
        }
    }

    pub fn topic_deleted(&mut self, topic: &str) {
        if self.topics.remove(topic).is_some() {
            self.rebalance();
        }
    }

    /// The next thing that a member must be told. Polling again gives up what was `Revoked`.
    ///
    /// # Errors
    /// `log.fenced`: fatal.
    pub fn poll(&mut self, name: &str, epoch: u64) -> Result<Poll> {
        let member = self.member_mut(name, epoch)?;
        let released = !member.leaving.is_empty();
        for partition in std::mem::take(&mut member.leaving) {
            member.owned.remove(&partition);
        }
        let revoked = self.to_revoke(name);
        if !revoked.is_empty() {
            self.member_mut(name, epoch)?.leaving = revoked.iter().cloned().collect();
            return Ok(Poll { event: Some(Event::Revoked(revoked)), released });
        }
        let assigned = self.to_assign(name);
        if assigned.is_empty() {
            return Ok(Poll { event: None, released });
        }
        self.member_mut(name, epoch)?.owned.extend(assigned.iter().cloned());
        Ok(Poll { event: Some(Event::Assigned(assigned)), released })
    }

    /// What a member reads, with the topics' ids; also what it was told to give up and has not yet.
    ///
    /// # Errors
    /// `log.fenced`: fatal.
    pub fn owned(&self, name: &str, epoch: u64) -> Result<&BTreeMap<TopicPartition, Uuid>> {
        match self.members.get(name) {
            Some(member) if member.epoch == epoch => Ok(&member.owned),
            _ => Err(fenced(name)),
        }
    }

    /// True for a partition that still exists and whose records a member may be given: owned and not told to give up.
    pub fn readable(&self, name: &str, epoch: u64, partition: &TopicPartition) -> bool {
        self.members.get(name).is_some_and(|member| {
            member.epoch == epoch
                && !member.leaving.contains(partition)
                && member.owned.get(partition).is_some_and(|id| self.exists(partition, *id))
        })
    }

    /// True when it has members.
    pub fn is_active(&self) -> bool {
        !self.members.is_empty()
    }

    fn member_mut(&mut self, name: &str, epoch: u64) -> Result<&mut Member> {
        match self.members.get_mut(name) {
            Some(member) if member.epoch == epoch => Ok(member),
            _ => Err(fenced(name)),
        }
    }

    fn exists(&self, partition: &TopicPartition, id: Uuid) -> bool {
        self.topics.get(&partition.topic).is_some_and(|topic| topic.id == id && partition.partition < topic.partitions)
    }

    fn to_revoke(&self, name: &str) -> Vec<TopicPartition> {
        let member = &self.members[name];
        let stays = |partition: &TopicPartition, id: Uuid| {
            self.exists(partition, id) && self.target.get(partition).is_some_and(|owner| &**owner == name)
        };
        member.owned.iter().filter(|(partition, id)| !stays(partition, **id)).map(|(partition, _)| partition.clone()).collect()
    }

    /// Of the member's target, what nobody owns. A partition of a topic that was deleted and created anew is another one.
    fn to_assign(&self, name: &str) -> Vec<(TopicPartition, Uuid)> {
        let mine = self.target.iter().filter(|(_, owner)| &***owner == name).map(|(partition, _)| partition);
        mine.filter_map(|partition| {
            let id = self.topics.get(&partition.topic)?.id;
            let free = self.members.values().all(|member| member.owned.get(partition) != Some(&id));
            free.then(|| (partition.clone(), id))
        })
        .collect()
    }

    fn rebalance(&mut self) {
        let Self { members, topics, .. } = self;
        topics.retain(|topic, _| members.values().any(|member| member.subscription.matches(topic)));
        self.target = Balance::of(self).run();
    }
}

fn fenced(name: &str) -> Error {
    Error::fatal("log.fenced", format!("another reader took over as group member {name:?}"))
}

/// Computes the next target from the last one. Members are numbers here, in the order of their names.
struct Balance<'a> {
    group: &'a Group,
    names: Vec<&'a Arc<str>>,
    /// For each topic, who subscribes to it.
    eligible: BTreeMap<&'a Topic, Vec<usize>>,
    /// Who reads a partition now and was not told to give it up.
    readers: BTreeMap<&'a TopicPartition, usize>,
    /// The cheapest to move first, so that a move need not look at all of them.
    parts: Vec<BTreeSet<(Cost, TopicPartition)>>,
}

/// What it costs to take a partition from the member that shall have it, by who reads it now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    /// Another member reads it still.
    Other,
    Nobody,
    /// Must be revoked first.
    Owner,
}

impl<'a> Balance<'a> {
    fn of(group: &'a Group) -> Self {
        let eligible = |topic: &Topic| {
            let members = group.members.values().enumerate();
            members.filter(|(_, member)| member.subscription.matches(topic)).map(|(index, _)| index).collect()
        };
        let mut readers = BTreeMap::new();
        for (index, member) in group.members.values().enumerate() {
            let reads = member.owned.iter().filter(|(tp, id)| !member.leaving.contains(tp) && group.exists(tp, **id));
            readers.extend(reads.map(|(partition, _)| (partition, index)));
        }
        Self {
            group,
            names: group.members.keys().collect(),
            eligible: group.topics.keys().map(|topic| (topic, eligible(topic))).collect(),
            readers,
            parts: vec![BTreeSet::new(); group.members.len()],
        }
    }

    fn run(mut self) -> BTreeMap<TopicPartition, Arc<str>> {
        self.place();
        while self.move_one() {}
        let names = &self.names;
        let owners = self.parts.into_iter().enumerate();
        owners
            .flat_map(|(member, parts)| parts.into_iter().map(move |(_, partition)| (partition, names[member].clone())))
            .collect()
    }

    /// Everything where it was; what has no owner to the least loaded, by preference to who reads it now.
    fn place(&mut self) {
        let mut free = Vec::new();
        for (topic, state) in &self.group.topics {
            for partition in (0..state.partitions).map(|partition| TopicPartition::new(topic.clone(), partition)) {
                let last = self.group.target.get(&partition).and_then(|name| self.names.binary_search(&name).ok());
                match last.filter(|member| self.eligible[topic].contains(member)) {
                    Some(member) => self.give(member, partition),
                    None => free.push(partition),
                }
            }
        }
        for partition in free {
            let load = |&member: &usize| (self.parts[member].len(), self.cost(member, &partition) != Cost::Owner, member);
            if let Some(member) = self.eligible[&partition.topic].iter().copied().min_by_key(load) {
                self.give(member, partition);
            }
        }
    }

    /// Moves one partition from a member to one that has at least two fewer; false when there is none. Each move lowers the sum of the squares,
    /// so there is an end.
    fn move_one(&mut self) -> bool {
        let mut by_load: Vec<usize> = (0..self.parts.len()).collect();
        by_load.sort_by_key(|&member| (self.parts[member].len(), member));
        for &from in by_load.iter().rev() {
            for &to in &by_load {
                if self.parts[from].len() < self.parts[to].len() + 2 {
                    break;
                }
                if let Some(entry) = self.movable(from, to).cloned() {
                    self.parts[from].remove(&entry);
                    self.give(to, entry.1);
                    return true;
                }
            }
        }
        false
    }

    fn movable(&self, from: usize, to: usize) -> Option<&(Cost, TopicPartition)> {
        let mut entries = self.parts[from].iter().filter(|(_, partition)| self.eligible[&partition.topic].contains(&to));
        let mut by_others = self.parts[from].iter().take_while(|(cost, _)| *cost == Cost::Other);
        by_others.find(|(_, partition)| self.readers.get(partition) == Some(&to)).or_else(|| entries.next())
    }

    fn give(&mut self, member: usize, partition: TopicPartition) {
        let cost = self.cost(member, &partition);
        self.parts[member].insert((cost, partition));
    }

    fn cost(&self, member: usize, partition: &TopicPartition) -> Cost {
        match self.readers.get(partition) {
            None => Cost::Nobody,
            Some(reader) if *reader == member => Cost::Owner,
            Some(_) => Cost::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const MEMBERS: [&str; 4] = ["m0", "m1", "m2", "m3"];
    const TOPICS: [&str; 3] = ["ta", "tb", "other"];

    fn subscription(index: usize) -> Topics {
        match index {
            0 => Topics::Names(vec!["ta".into(), "tb".into()]),
            1 => Topics::Regex("t.".to_owned()),
            2 => Topics::Names(vec!["other".into(), "ta".into()]),
            _ => Topics::Regex(".*".to_owned()),
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Join(usize, usize),
        Leave(usize),
        Create(usize, i32),
        Delete(usize),
        Poll(usize),
        PollFenced(usize),
    }

    fn op(subscriptions: usize) -> impl Strategy<Value = Op> {
        prop_oneof![
            2 => (0..4usize, 0..subscriptions).prop_map(|(member, topics)| Op::Join(member, topics)),
            1 => (0..4usize).prop_map(Op::Leave),
            2 => (0..3usize, 1..9i32).prop_map(|(topic, n)| Op::Create(topic, n)),
            1 => (0..3usize).prop_map(Op::Delete),
            6 => (0..4usize).prop_map(Op::Poll),
            1 => (0..4usize).prop_map(Op::PollFenced),
        ]
    }

    /// What can be known from outside: who was told what.
    #[derive(Default)]
    struct Model {
        group: Group,
        topics: BTreeMap<Topic, TopicState>,
        epochs: HashMap<usize, (u64, usize)>,
        fenced: HashMap<usize, u64>,
        owners: HashMap<(TopicPartition, Uuid), usize>,
        revoking: HashMap<usize, Vec<TopicPartition>>,
        ids: u128,
    }

    impl Model {
        fn apply(&mut self, op: Op) {
            match op {
                Op::Join(member, topics) => {
                    let catalogue: Vec<_> = self.topics.iter().map(|(topic, state)| (topic, *state)).collect();
                    let epoch = self.group.join(MEMBERS[member], &subscription(topics), catalogue).unwrap();
                    self.release_all(member);
                    if let Some((old, _)) = self.epochs.insert(member, (epoch, topics)) {
                        self.fenced.insert(member, old);
                    }
                }
                Op::Leave(member) => {
                    if let Some((epoch, _)) = self.epochs.remove(&member) {
                        self.group.leave(MEMBERS[member], epoch);
                        self.release_all(member);
                    }
                }
                Op::Create(topic, partitions) if !self.topics.contains_key(TOPICS[topic]) => {
                    self.ids += 1;
                    let (topic, state) = (Topic::from(TOPICS[topic]), TopicState { id: Uuid::from_u128(self.ids), partitions });
                    self.topics.insert(topic.clone(), state);
                    self.group.topic_created(&topic, state);
                }
                Op::Create(..) => {}
                Op::Delete(topic) => {
                    self.topics.remove(TOPICS[topic]);
                    self.group.topic_deleted(TOPICS[topic]);
                }
                Op::Poll(member) => drop(self.poll(member)),
                Op::PollFenced(member) => {
                    if let Some(&epoch) = self.fenced.get(&member) {
                        assert_eq!(self.group.poll(MEMBERS[member], epoch).unwrap_err().code(), "log.fenced");
                        self.group.leave(MEMBERS[member], epoch);
                    }
                }
            }
        }

        fn release_all(&mut self, member: usize) {
            self.owners.retain(|_, owner| *owner != member);
            self.revoking.remove(&member);
        }

        fn poll(&mut self, member: usize) -> Option<Event> {
            let (epoch, _) = *self.epochs.get(&member)?;
            let poll = self.group.poll(MEMBERS[member], epoch).unwrap();
            let given_up = self.revoking.remove(&member);
            assert_eq!(poll.released, given_up.is_some());
            for partition in given_up.into_iter().flatten() {
                self.owners.retain(|(tp, _), owner| *tp != partition || *owner != member);
            }
            match &poll.event {
                Some(Event::Assigned(partitions)) => {
                    assert!(!partitions.is_empty());
                    for partition in partitions {
                        let before = self.owners.insert(partition.clone(), member);
                        assert_eq!(before, None, "{partition:?} has two owners");
                    }
                }
                Some(Event::Revoked(partitions)) => {
                    assert!(!partitions.is_empty());
                    for partition in partitions {
                        assert!(self.owners.iter().any(|((tp, _), owner)| tp == partition && *owner == member));
                        assert!(!self.group.readable(MEMBERS[member], epoch, partition));
                    }
                    self.revoking.insert(member, partitions.clone());
                }
                None => {}
            }
            poll.event
        }

        /// Polls until nobody has news. Returns the partitions that were revoked.
        fn settle(&mut self) -> usize {
            let mut moved = 0;
            for _ in 0..20 {
                let mut quiet = true;
                for member in 0..MEMBERS.len() {
                    quiet &= !self.revoking.contains_key(&member);
                    let event = self.poll(member);
                    quiet &= event.is_none();
                    moved += matches!(event, Some(Event::Revoked(_))) as usize * self.revoking.get(&member).map_or(0, Vec::len);
                }
                if quiet {
                    return moved;
                }
            }
            panic!("the group does not come to rest");
        }

        fn counts(&self) -> Vec<usize> {
            self.epochs.keys().map(|member| self.owners.values().filter(|owner| *owner == member).count()).collect()
        }

        fn check_settled(&self) {
            for (topic, state) in &self.topics {
                let wanted =
                    self.epochs.values().any(|(_, topics)| Subscription::new(&subscription(*topics)).unwrap().matches(topic));
                for partition in 0..state.partitions {
                    let key = (TopicPartition::new(topic.clone(), partition), state.id);
                    assert_eq!(self.owners.contains_key(&key), wanted, "{key:?}");
                }
            }
            let existing = |(tp, id): &(TopicPartition, Uuid)| self.topics.get(&tp.topic).is_some_and(|topic| topic.id == *id);
            assert!(self.owners.keys().all(existing), "a deleted partition is still owned");
            for (member, (epoch, topics)) in &self.epochs {
                let owned = self.group.owned(MEMBERS[*member], *epoch).unwrap();
                let told = self.owners.iter().filter(|(_, owner)| *owner == member).count();
                assert_eq!(owned.len(), told);
                let subscription = Subscription::new(&subscription(*topics)).unwrap();
                assert!(owned.keys().all(|tp| subscription.matches(&tp.topic)));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn one_owner_always_and_every_partition_owned_at_rest(ops in vec(op(4), 0..60)) {
            let mut model = Model::default();
            ops.into_iter().for_each(|op| model.apply(op));
            model.settle();
            model.check_settled();
        }

        #[test]
        fn equal_subscriptions_get_equal_shares(ops in vec(op(2), 0..60)) {
            let mut model = Model::default();
            ops.into_iter().for_each(|op| model.apply(op));
            model.settle();
            let counts = model.counts();
            let (min, max) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
            prop_assert!(max - min <= 1, "{:?}", counts);
        }

        #[test]
        fn nothing_moves_without_need(ops in vec(op(1), 0..60), last in op(1)) {
            let mut model = Model::default();
            ops.into_iter().for_each(|op| model.apply(op));
            model.settle();
            let before = model.owners.clone();
            let members = model.epochs.len();
            let newcomer = matches!(last, Op::Join(member, _) if !model.epochs.contains_key(&member));
            let deletes = matches!(last, Op::Delete(_));
            model.apply(last);
            let moved = model.settle();
            if newcomer && members > 0 {
                prop_assert!(moved <= before.len() / (members + 1), "{} of {} moved", moved, before.len());
                let changed = before.iter().filter(|(partition, owner)| model.owners[*partition] != **owner).count();
                prop_assert_eq!(changed, moved, "only what was revoked moved");
            } else if !deletes {
                prop_assert_eq!(moved, 0, "neither leaving, rejoining nor a new topic takes anything away");
            }
        }
    }

    #[test]
    fn a_successor_of_the_same_name_gets_the_same_partitions() {
        let mut model = Model::default();
        [Op::Create(0, 7), Op::Join(0, 0), Op::Join(1, 0)].into_iter().for_each(|op| model.apply(op));
        model.settle();
        let before = model.owners.clone();
        model.apply(Op::Join(1, 0));
        assert_eq!(model.settle(), 0);
        assert_eq!(model.owners, before);
    }

    #[test]
    fn a_partition_waits_until_it_is_given_up() {
        let mut model = Model::default();
        [Op::Create(0, 2), Op::Join(0, 0)].into_iter().for_each(|op| model.apply(op));
        model.settle();
        model.apply(Op::Join(1, 0));
        assert_eq!(model.poll(1), None);
        let Some(Event::Revoked(revoked)) = model.poll(0) else { panic!("nothing revoked") };
        assert_eq!((revoked.len(), model.poll(1)), (1, None));
        assert_eq!(model.poll(0), None);
        assert!(matches!(model.poll(1), Some(Event::Assigned(got)) if got[0].0 == revoked[0]));
    }

    #[test]
    fn many_partitions_are_shared_out_in_no_time() {
        let catalogue: Vec<(Topic, TopicState)> =
            (0..2000u128).map(|i| (format!("t{i}").into(), TopicState { id: Uuid::from_u128(i), partitions: 4 })).collect();
        let mut group = Group::default();
        let started = std::time::Instant::now();
        for name in MEMBERS {
            group.join(name, &Topics::Regex("t.*".to_owned()), catalogue.iter().map(|(topic, state)| (topic, *state))).unwrap();
        }
        let counts = MEMBERS.map(|name| group.target.values().filter(|owner| &***owner == name).count());
        assert_eq!(counts, [2000; 4]);
        assert!(started.elapsed().as_secs() < 5, "quadratic: {:?}", started.elapsed());
    }

    #[test]
    fn a_bad_pattern_is_an_error() {
        let error = Group::default().join("m", &Topics::Regex("(".to_owned()), []).unwrap_err();
        assert_eq!((error.code(), error.is_retriable()), ("log.topics_regex", false));
    }
}
