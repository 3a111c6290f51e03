//! Whether the stored offset, the slot and the server still belong together. Pure: what is seen goes in, what to do comes out.
//!
//! A gap is never passed over in silence: each way in which changes may be missing has its own code and its choices, and only
//! `offset.mismatch.strategy` or `snapshot.mode: when_needed` consent to one.

use super::options::modes::{MismatchStrategy, SnapshotMode};
use super::position::{Position, Stored, lsn};
use super::slot::Slot;
use super::wire::System;
use aqueduct_core::Error;

pub struct Seen<'a> {
    pub system: &'a System,
    pub slot: Option<&'a Slot>,
    /// Where each earlier timeline ended: `TIMELINE_HISTORY`.
    pub history: &'a [(u32, u64)],
    pub database: &'a str,
}

pub struct Rules<'a> {
    pub slot: &'a str,
    pub mismatch: MismatchStrategy,
    pub snapshot: SnapshotMode,
}

#[derive(Debug)]
pub enum Verdict {
    /// Nothing is stored: a first start.
    Fresh,
    /// Go on from here. The words tell what was consented to.
    Resume {
        position: Position,
        warning: Option<String>,
    },
    /// `when_needed`: what is missing is copied again.
    Resnapshot {
        why: Error,
    },
    Refuse(Error),
}

pub fn decide(stored: Option<&Stored>, seen: &Seen<'_>, rules: &Rules<'_>) -> Verdict {
    if let Some(slot) = seen.slot
        && let Err(refused) = usable(slot, seen, rules)
    {
        return Verdict::Refuse(refused);
    }
    let Some(stored) = stored else {
        return match seen.slot.map(|slot| kept(slot, rules)) {
            Some(Err(lost)) => Verdict::Refuse(lost),
            _ => Verdict::Fresh,
        };
    };
    match covered(stored, seen, rules) {
        Ok(()) => Verdict::Resume { position: stored.position.clone(), warning: None },
        Err(why) if rules.snapshot == SnapshotMode::WhenNeeded => Verdict::Resnapshot { why },
        Err(why) => match (consent(stored, seen, rules, &why), seen.slot) {
            (true, Some(slot)) => Verdict::Resume {
                position: Position { commit: slot.confirmed, inside: None },
                warning: Some(format!(
                    "{}: going on from the slot at {}, as offset.mismatch.strategy says",
                    why.message(),
                    lsn(slot.confirmed)
                )),
            },
            _ => Verdict::Refuse(why),
        },
    }
}

/// A slot that is ours to read at all.
fn usable(slot: &Slot, seen: &Seen<'_>, rules: &Rules<'_>) -> Result<(), Error> {
    let name = rules.slot;
    if slot.plugin != "pgoutput" {
        let what =
            if slot.plugin.is_empty() { "is a physical one".to_owned() } else { format!("is of the plugin {}", slot.plugin) };
        let error = Error::fatal("postgres.slot_plugin", format!("the replication slot {name} {what}; pgoutput is needed"));
        return Err(error.fix(format!("Set slot.name to another name, or run: SELECT pg_drop_replication_slot('{name}');")));
    }
    if slot.database != seen.database {
        let what = format!("the replication slot {name} is of the database {}, not of {}", slot.database, seen.database);
        return Err(Error::fatal("postgres.slot_database", what)
            .fix("Set slot.name to another name: slots are named for the whole server."));
    }
    Ok(())
}

/// The server still has what the slot points to.
fn kept(slot: &Slot, rules: &Rules<'_>) -> Result<(), Error> {
    if slot.wal_status != "lost" && slot.invalidation.is_none() && (slot.restart.is_some() || slot.active_pid.is_some()) {
        return Ok(());
    }
    let why = slot.invalidation.as_deref().unwrap_or("max_slot_wal_keep_size was reached");
    let what = format!(
        "the server removed WAL that the replication slot {} still needed ({why}): changes after {} are gone",
        rules.slot,
        lsn(slot.confirmed)
    );
    Err(Error::fatal("postgres.wal_lost", what).fix(format!(
        "Run SELECT pg_drop_replication_slot('{}'); and then either reset the connector's offsets (a new snapshot), or set snapshot.mode to when_needed. \
         Raise max_slot_wal_keep_size so that it does not happen again.",
        rules.slot
    )))
}

fn covered(stored: &Stored, seen: &Seen<'_>, rules: &Rules<'_>) -> Result<(), Error> {
    let at = stored.position.commit;
    if let Some(system) = &stored.system
        && *system != seen.system.id
    {
        let what = format!(
            "the stored offset is of the database system {system}, but the server is {}: another server, or one that was made anew",
            seen.system.id
        );
        return Err(Error::fatal("postgres.other_system", what).fix(AGAIN));
    }
    if let Some(fork) = stored.timeline.and_then(|timeline| fork_of(timeline, seen))
        && at > fork
    {
        let what = format!(
            "the server was promoted at {} and never had what was read up to {}: the copy holds changes that the database has lost",
            lsn(fork),
            lsn(at)
        );
        return Err(Error::fatal("postgres.diverged", what).fix(AGAIN));
    }
    let Some(slot) = seen.slot else {
        let what = format!(
            "an offset is stored ({}), but the replication slot {} is gone: changes since then may be lost",
            lsn(at),
            rules.slot
        );
        return Err(Error::fatal("postgres.slot_missing", what).fix(AGAIN));
    };
    kept(slot, rules)?;
    if seen.system.lsn < at {
        let what = format!(
            "the server's WAL ends at {}, before the stored offset {}: it was restored from a backup",
            lsn(seen.system.lsn),
            lsn(at)
        );
        return Err(Error::fatal("postgres.restored", what).fix(AGAIN));
    }
    if slot.confirmed > at {
        let what = format!(
            "the replication slot {} stands at {}, past the stored offset {}: it was made anew, or something else read from it. What lies between is not in the log",
            rules.slot,
            lsn(slot.confirmed),
            lsn(at)
        );
        return Err(Error::fatal("postgres.slot_ahead", what).fix(
            "Either reset the connector's offsets (DELETE /connectors/<name>/offsets while it is stopped: a new snapshot), or set snapshot.mode to when_needed, \
             or accept the gap with offset.mismatch.strategy: trust_slot.",
        ));
    }
    Ok(())
}

const AGAIN: &str = "Either reset the connector's offsets (DELETE /connectors/<name>/offsets while it is stopped), so that it begins with a new snapshot, \
                     or set snapshot.mode to when_needed, which does so by itself.";

/// Where the stored timeline ended, if the server is on a later one.
fn fork_of(timeline: u32, seen: &Seen<'_>) -> Option<u64> {
    if timeline == seen.system.timeline {
        return None;
    }
    // A timeline that is not in the server's history is of another branch: nothing of it is common for sure.
    Some(seen.history.iter().find(|(known, _)| *known == timeline).map_or(0, |(_, end)| *end))
}

/// `offset.mismatch.strategy` covers a slot that stands elsewhere, not one that is gone.
fn consent(stored: &Stored, seen: &Seen<'_>, rules: &Rules<'_>, why: &Error) -> bool {
    let ahead = seen.slot.is_some_and(|slot| slot.confirmed > stored.position.commit);
    match (rules.mismatch, why.code()) {
        (
            MismatchStrategy::TrustSlot,
            "postgres.slot_ahead" | "postgres.other_system" | "postgres.diverged" | "postgres.restored",
        ) => true,
        (MismatchStrategy::TrustGreaterLsn, "postgres.slot_ahead") => ahead,
        _ => false,
    }
}

/// The lines `<timeline>\t<lsn>\t<reason>` of a history file.
pub fn parse_history(content: &str) -> Vec<(u32, u64)> {
    let line = |line: &str| {
        let mut parts = line.split_whitespace();
        Some((parts.next()?.parse().ok()?, super::position::parse_lsn(parts.next()?)?))
    };
    content.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::position::{Origin, offset};

    const NO: MismatchStrategy = MismatchStrategy::NoValidation;

    fn stored(commit: u64) -> Stored {
        let origin = Origin { system: "1".into(), timeline: 1 };
        Stored::read(&offset(&Position { commit, inside: None }, None, None, &origin))
    }

    fn slot(confirmed: u64) -> Slot {
        Slot { plugin: "pgoutput".into(), database: "shop".into(), confirmed, restart: Some(1), ..Slot::default() }
    }

    struct World {
        stored: Option<Stored>,
        slot: Option<Slot>,
        system: System,
        history: Vec<(u32, u64)>,
        mismatch: MismatchStrategy,
        snapshot: SnapshotMode,
    }

    fn world() -> World {
        World {
            stored: Some(stored(100)),
            slot: Some(slot(90)),
            system: System { id: "1".into(), timeline: 1, lsn: 1000 },
            history: Vec::new(),
            mismatch: NO,
            snapshot: SnapshotMode::Initial,
        }
    }

    fn verdict(world: &World) -> String {
        let seen = Seen { system: &world.system, slot: world.slot.as_ref(), history: &world.history, database: "shop" };
        let rules = Rules { slot: "s", mismatch: world.mismatch, snapshot: world.snapshot };
        match decide(world.stored.as_ref(), &seen, &rules) {
            Verdict::Fresh => "fresh".to_owned(),
            Verdict::Resume { position, warning } => {
                format!("resume {}{}", position.commit, if warning.is_some() { " warned" } else { "" })
            }
            Verdict::Resnapshot { why } => format!("again {}", why.code()),
            Verdict::Refuse(why) => {
                assert!(why.hint().is_some(), "{why} has no fix");
                why.code().to_owned()
            }
        }
    }

    #[test]
    fn what_belongs_together_goes_on() {
        assert_eq!(verdict(&world()), "resume 100");
        assert_eq!(verdict(&World { stored: None, ..world() }), "fresh");
        assert_eq!(verdict(&World { stored: None, slot: None, ..world() }), "fresh");
        let promoted = System { id: "1".into(), timeline: 2, lsn: 1000 };
        assert_eq!(verdict(&World { system: promoted, history: vec![(1, 100)], ..world() }), "resume 100");
    }

    #[test]
    fn every_gap_has_a_name() {
        let lost = Slot { wal_status: "lost".into(), ..slot(90) };
        let invalid = Slot { invalidation: Some("idle_timeout".into()), ..slot(90) };
        let promoted = System { id: "1".into(), timeline: 2, lsn: 1000 };
        for (world, code) in [
            (World { slot: None, ..world() }, "postgres.slot_missing"),
            (World { slot: Some(slot(101)), ..world() }, "postgres.slot_ahead"),
            (World { slot: Some(lost.clone()), ..world() }, "postgres.wal_lost"),
            (World { slot: Some(invalid), ..world() }, "postgres.wal_lost"),
            (World { slot: Some(lost), stored: None, ..world() }, "postgres.wal_lost"),
            (World { system: System { id: "2".into(), timeline: 1, lsn: 1000 }, ..world() }, "postgres.other_system"),
            (World { system: System { id: "1".into(), timeline: 1, lsn: 99 }, ..world() }, "postgres.restored"),
            (World { system: promoted.clone(), history: vec![(1, 99)], ..world() }, "postgres.diverged"),
            (World { system: promoted, history: Vec::new(), ..world() }, "postgres.diverged"),
            (World { slot: Some(Slot { plugin: "decoderbufs".into(), ..slot(90) }), ..world() }, "postgres.slot_plugin"),
            (World { slot: Some(Slot { database: "other".into(), ..slot(90) }), ..world() }, "postgres.slot_database"),
        ] {
            assert_eq!(verdict(&world), code);
        }
    }

    #[test]
    fn only_an_option_consents_to_a_gap() {
        let ahead = World { slot: Some(slot(150)), ..world() };
        assert_eq!(verdict(&World { mismatch: MismatchStrategy::TrustSlot, ..ahead }), "resume 150 warned");
        let ahead = World { slot: Some(slot(150)), ..world() };
        assert_eq!(verdict(&World { mismatch: MismatchStrategy::TrustGreaterLsn, ..ahead }), "resume 150 warned");
        let ahead = World { slot: Some(slot(150)), ..world() };
        assert_eq!(verdict(&World { mismatch: MismatchStrategy::TrustOffset, ..ahead }), "postgres.slot_ahead");
        let gone = World { slot: None, mismatch: MismatchStrategy::TrustSlot, ..world() };
        assert_eq!(verdict(&gone), "postgres.slot_missing");
        assert_eq!(verdict(&World { snapshot: SnapshotMode::WhenNeeded, ..gone }), "again postgres.slot_missing");
    }

    #[test]
    fn a_history_file() {
        assert_eq!(
            parse_history("1\t0/3000060\tno recovery target specified\n\n2\t0/4000000\tx\n"),
            [(1, 0x300_0060), (2, 0x400_0000)]
        );
    }
}
