//! The consumer groups that have members now, and how to wake them. Positions are in the state.

use super::shared::{Catalogue, TopicView};
use crate::group::{Event, Group, TopicState};
use aqueduct_core::{Error, Result, Topic, TopicPartition, Topics};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::Notify;
use uuid::Uuid;

#[derive(Default)]
pub(crate) struct Groups(HashMap<Arc<str>, Entry>);

#[derive(Default)]
struct Entry {
    group: Group,
    members: HashMap<Arc<str>, (u64, Arc<Notify>)>,
    /// Goes up whenever a member may have news.
    version: u64,
}

/// A member's news; `version` is what it has seen then.
pub(crate) struct News {
    pub(crate) event: Option<Event>,
    pub(crate) released: bool,
    pub(crate) version: u64,
}

impl Groups {
    /// # Errors
    /// `log.topics_regex`
    pub(crate) fn join(
        &mut self,
        group: &Arc<str>,
        member: &Arc<str>,
        topics: &Topics,
        catalogue: &Catalogue,
        waker: Arc<Notify>,
    ) -> Result<u64> {
        let entry = self.0.entry(group.clone()).or_default();
        let topics_now = catalogue.by_name.values().map(|view| (&view.name, topic_state(view)));
        let joined = entry.group.join(member, topics, topics_now);
        if let Ok(epoch) = joined {
            let fenced = entry.members.insert(member.clone(), (epoch, waker));
            entry.changed();
            if let Some((_, waker)) = fenced {
                waker.notify_one();
            }
        } else if !entry.group.is_active() {
            self.0.remove(group);
        }
        joined
    }

    pub(crate) fn leave(&mut self, group: &str, member: &str, epoch: u64) {
        let Some(entry) = self.0.get_mut(group) else { return };
        if entry.members.get(member).is_some_and(|(current, _)| *current == epoch) {
            entry.members.remove(member);
            entry.group.leave(member, epoch);
            entry.changed();
        }
        if entry.members.is_empty() {
            self.0.remove(group);
        }
    }

    /// News since `seen`, if there may be any. Polling gives up what was revoked.
    ///
    /// # Errors
    /// `log.fenced`
    pub(crate) fn poll(&mut self, group: &str, member: &str, epoch: u64, seen: Option<u64>) -> Result<Option<News>> {
        let Some(entry) = self.0.get_mut(group) else { return Err(fenced(member)) };
        if seen == Some(entry.version) {
            return Ok(None);
        }
        let poll = entry.group.poll(member, epoch)?;
        if poll.released {
            entry.changed();
        }
        Ok(Some(News { event: poll.event, released: poll.released, version: entry.version }))
    }

    /// # Errors
    /// `log.fenced`
    pub(crate) fn owned(&self, group: &str, member: &str, epoch: u64) -> Result<&BTreeMap<TopicPartition, Uuid>> {
        self.0.get(group).ok_or_else(|| fenced(member))?.group.owned(member, epoch)
    }

    pub(crate) fn is_active(&self, group: &str) -> bool {
        self.0.contains_key(group)
    }

    pub(crate) fn topic_created(&mut self, view: &TopicView) {
        for entry in self.0.values_mut() {
            entry.group.topic_created(&view.name, topic_state(view));
            entry.changed();
        }
    }

    pub(crate) fn topic_deleted(&mut self, topic: &Topic) {
        for entry in self.0.values_mut() {
            entry.group.topic_deleted(topic);
            entry.changed();
        }
    }

    pub(crate) fn wake_all(&mut self) {
        self.0.values_mut().for_each(Entry::changed);
    }
}

impl Entry {
    fn changed(&mut self) {
        self.version += 1;
        self.members.values().for_each(|(_, waker)| waker.notify_one());
    }
}

fn topic_state(view: &TopicView) -> TopicState {
    TopicState { id: view.id, partitions: view.partitions.len() as i32 }
}

fn fenced(member: &str) -> Error {
    Error::fatal("log.fenced", format!("another reader took over as group member {member:?}"))
}
