//! The single writer: applies rounds of requests to the disk, then to what readers see. No threads and no clock of its own.

use super::behind::Behind;
use super::journal::{self, Journal, encode_checkpoint, io_error};
use super::plan::{Planner, Round, Run, resolve};
use super::request::Request;
use super::segment::{Segment, TOPICS, cleaned_path, partition_dir};
use super::shared::{Shared, TopicView, again};
use super::state::Change;
use super::view::PartitionView;
use crate::disk::{Disk, DiskFile, Open, SyncTarget};
use aqueduct_core::failpoint::{self, bug, point};
use aqueduct_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use uuid::Uuid;

pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) journal: Journal,
    /// Of the newest checkpoint that was tried.
    pub(crate) seq: u64,
    /// What failed. Then the journal is not trusted any more: nothing is committed until a new checkpoint is durable.
    pub(crate) broken: Option<Error>,
    /// The journal says that the last commit is durable.
    pub(crate) sealed: bool,
    /// To go with the next commit: of no use alone.
    pub(crate) pending: Vec<Change>,
    /// What the journal alone holds durably.
    pub(crate) behind: Behind,
}

/// Partitions to publish anew, with the segments that they did not have before.
type Touched = BTreeMap<(Uuid, i32), (Arc<PartitionView>, Vec<Arc<Segment>>)>;

impl Core {
    /// Commits all of it with one sync, or nothing; answers everyone.
    pub(crate) fn apply_round(&mut self, requests: Vec<Request>) {
        let shared = self.shared.clone();
        let round = Planner::plan(&shared.state.read(), &shared, requests);
        if round.is_empty() {
            return resolve(round.waiting, None);
        }
        self.apply_changes(round);
    }

    pub(crate) fn apply_changes(&mut self, mut round: Round) {
        round.changes.append(&mut self.pending);
        if let Err(error) = self.heal() {
            return resolve(round.waiting, Some(&error));
        }
        if self.bug(bug::ACK_BEFORE_WRITE) {
            resolve(std::mem::take(&mut round.waiting), None);
        }
        match self.commit(&mut round) {
            Ok(()) => self.succeeded(round),
            Err(error) => self.failed(round, &error),
        }
        if self.broken.is_none() && self.journal.len > self.shared.options.journal_bytes {
            // An error is kept in `broken`: the next round tries again.
            let _ = self.checkpoint(false);
        }
    }

    /// After a failure: nothing goes on but with a new journal.
    ///
    /// # Errors
    /// What fails now.
    pub(crate) fn heal(&mut self) -> Result<()> {
        if self.broken.is_some() { self.checkpoint(false) } else { Ok(()) }
    }

    fn commit(&mut self, round: &mut Round) -> Result<()> {
        let mut changes = round.all_changes();
        let too_early = |change: &Change| match change {
            Change::Offset { .. } => self.bug(bug::OFFSET_BEFORE_RECORD),
            Change::Position { .. } => self.bug(bug::POSITION_BEFORE_LETTER),
            _ => false,
        };
        let (early, others) = changes.into_iter().partition::<Vec<_>, _>(too_early);
        changes = others;
        if !early.is_empty() {
            let target = self.write_frame(early, &[])?;
            self.sync(&[target])?;
            self.shared.state.write().commit += 1;
        }
        // The next one to be synced takes the others along.
        let due = self.behind.is_due(self.shared.options.behind_bytes);
        let carried = if due { None } else { self.carried(&round.runs) };
        let mut dirs = BTreeSet::new();
        let files = self.write_data(&round.runs, carried.as_deref(), &mut dirs)?;
        let mut targets = Vec::new();
        if carried.is_none() {
            targets.extend(files.iter().map(|file| SyncTarget::File(file.clone(), point::LOG_DATA_SYNC)));
            targets.extend(dirs.into_iter().map(SyncTarget::Dir));
            targets.extend(due.then(|| self.behind.targets()).into_iter().flatten());
        }
        targets.push(self.write_frame(changes, carried.as_deref().unwrap_or_default())?);
        if self.bug(bug::ACK_BEFORE_SYNC) {
            resolve(std::mem::take(&mut round.waiting), None);
        }
        self.sync(&targets)?;
        if due {
            self.behind.clear();
        } else if carried.is_none() {
            round.runs.iter().for_each(|run| self.behind.forget(&run.segment));
        }
        for ((run, file), bytes) in round.runs.iter().zip(files).zip(carried.into_iter().flatten()) {
            self.behind.add(run, file, &bytes);
        }
        failpoint::hit(point::LOG_COMMITTED);
        Ok(())
    }

    /// The bytes of each run, when they are few enough to go with the frame. A new file is synced at once: its name must be durable too.
    fn carried(&self, runs: &[Run]) -> Option<Vec<Vec<u8>>> {
        let bytes: u64 = runs.iter().map(|run| run.append.to - run.append.from).sum();
        let carries = bytes <= self.shared.options.carry_bytes && runs.iter().all(|run| !run.fresh);
        let whole = |run: &Run| run.writes.iter().map(|(_, bytes)| bytes.as_slice()).collect::<Vec<_>>().concat();
        carries.then(|| runs.iter().map(whole).collect())
    }

    /// The files of the runs. `dirs`: those with new names are added.
    fn write_data(
        &self,
        runs: &[Run],
        carried: Option<&[Vec<u8>]>,
        dirs: &mut BTreeSet<String>,
    ) -> Result<Vec<Arc<dyn DiskFile>>> {
        let mut files = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            let path = run.segment.path();
            let failed = |error: io::Error| io_error(&path, "write", &error);
            let file = if run.fresh { self.create(run, dirs) } else { self.shared.files.get(&run.segment) }.map_err(failed)?;
            let write = |position: u64, bytes: &[u8]| {
                failpoint::hit_io(point::LOG_DATA_WRITE).and_then(|()| file.write_all_at(bytes, position)).map_err(failed)
            };
            match carried {
                Some(carried) => write(run.append.from, &carried[index])?,
                None => run.writes.iter().try_for_each(|(position, bytes)| write(*position, bytes))?,
            }
            files.push(file);
        }
        if !runs.is_empty() {
            failpoint::hit_io(point::LOG_DATA_WRITTEN).map_err(|error| io_error(TOPICS, "write", &error))?;
        }
        Ok(files)
    }

    fn create(&self, run: &Run, dirs: &mut BTreeSet<String>) -> io::Result<Arc<dyn DiskFile>> {
        failpoint::hit_io(point::LOG_SEGMENT_ROLL)?;
        self.disk.create_dir(&run.segment.dir)?;
        let file = self.disk.open(&run.segment.path(), Open::Create)?;
        self.shared.files.put(run.segment.key, file.clone());
        dirs.insert(run.segment.dir.clone());
        dirs.insert(TOPICS.to_owned());
        Ok(file)
    }

    fn write_frame(&mut self, changes: Vec<Change>, carried: &[Vec<u8>]) -> Result<SyncTarget> {
        let n = self.shared.state.read().commit;
        let journal = &mut self.journal;
        let write = failpoint::hit_io(point::LOG_JOURNAL_WRITE)
            .and_then(|()| journal.write(n + 1, n, changes, carried.iter().map(Vec::as_slice)));
        let written = write.and_then(|file| failpoint::hit_io(point::LOG_JOURNAL_WRITTEN).map(|()| file));
        let file = written.map_err(|error| io_error(&journal.path, "write", &error))?;
        self.sealed = false;
        Ok(SyncTarget::File(file, point::LOG_JOURNAL_SYNC))
    }

    /// Syncs what the journal alone holds, so that it may go.
    fn sync_behind(&mut self) -> Result<()> {
        if self.behind.is_empty() {
            return Ok(());
        }
        if self.broken.is_some() {
            let written = failpoint::hit_io(point::LOG_DATA_WRITE).and_then(|()| self.behind.write_anew(&*self.disk));
            written.map_err(|error| io_error(TOPICS, "write", &error))?;
        }
        self.sync(&self.behind.targets().collect::<Vec<_>>())?;
        self.behind.clear();
        Ok(())
    }

    fn sync(&self, targets: &[SyncTarget]) -> Result<()> {
        self.shared.counters.syncs.fetch_add(1, Relaxed);
        let result = if self.bug(bug::SKIP_DIR_SYNC) {
            let files: Vec<_> = targets.iter().filter(|target| matches!(target, SyncTarget::File(..))).cloned().collect();
            self.disk.sync_all(&files)
        } else {
            self.disk.sync_all(targets)
        };
        result.map_err(|error| io_error("the log", "sync", &error))
    }

    fn succeeded(&mut self, round: Round) {
        let Round { changes, runs, waiting, appends, records } = round;
        let mut touched = Touched::new();
        let (mut created, mut deleted, mut gone, mut compacted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut state = self.shared.state.write();
        for run in &runs {
            state.apply(&Change::Append(run.append));
            let fresh = &mut touched.entry((run.append.t, run.append.p)).or_insert_with(|| (run.view.clone(), Vec::new())).1;
            fresh.extend(run.fresh.then(|| run.segment.clone()));
        }
        for change in &changes {
            state.apply(change);
            match change {
                Change::Topic { id, .. } => {
                    let view = TopicView::new(*id, &state.topics[id]);
                    created.push(self.shared.catalogue.write().add(view));
                }
                Change::TopicDeleted { id } => deleted.extend(self.shared.catalogue.write().remove(*id)),
                Change::Start { t, p, .. }
                | Change::Compacted { t, p, .. }
                | Change::Sealed { t, p }
                | Change::Swapped { t, p, .. } => {
                    if let Some(view) = self.shared.view_by_id(*t, *p) {
                        let fresh = &mut touched.entry((*t, *p)).or_insert_with(|| (view.clone(), Vec::new())).1;
                        if let Change::Compacted { base, len, .. } = change {
                            let segment = Arc::new(Segment::new(&partition_dir(&view.tp.topic, *p), *base, *len, -1));
                            segment.cleaned.store(true, Release);
                            fresh.push(segment.clone());
                            compacted.push((*t, *p, segment));
                        }
                    }
                }
                _ => {}
            }
        }
        state.commit += 1;
        for ((topic, partition), (view, fresh)) in &touched {
            if let Some(partition) = state.partition(*topic, *partition) {
                gone.extend(view.publish(partition, fresh));
            }
        }
        deleted.iter().flat_map(|topic| &topic.partitions).for_each(|view| view.publish_deleted());
        drop(state);
        let mut bytes = 0;
        for mut run in runs {
            run.segment.note(run.notes.iter().copied());
            bytes += run.append.to - run.append.from;
            run.writes.drain(..).for_each(|(_, buffer)| self.shared.recycle(buffer));
        }
        self.count(appends, records, bytes);
        self.announce(&created, &deleted);
        self.clean_up(&gone, &deleted);
        self.settle(compacted);
        resolve(waiting, None);
        touched.values().for_each(|(view, _)| view.wake());
        for (view, fresh) in touched.values().filter(|(_, fresh)| !fresh.is_empty()) {
            self.index_before(view, fresh[0].base);
        }
    }

    fn count(&self, appends: u64, records: u64, bytes: u64) {
        let counters = &self.shared.counters;
        counters.commits.fetch_add(appends, Relaxed);
        counters.records.fetch_add(records, Relaxed);
        counters.bytes.fetch_add(bytes, Relaxed);
        if let Some(reason) = counters.stopped.lock().take() {
            tracing::info!(reason, "the log writes again");
        }
    }

    fn announce(&self, created: &[Arc<TopicView>], deleted: &[Arc<TopicView>]) {
        if created.is_empty() && deleted.is_empty() {
            return;
        }
        let mut groups = self.shared.groups.lock();
        deleted.iter().for_each(|topic| groups.topic_deleted(&topic.name));
        created.iter().for_each(|topic| groups.topic_created(topic));
        drop(groups);
        deleted.iter().flat_map(|topic| &topic.partitions).for_each(|view| view.wake());
    }

    /// The segment before a new one will not grow any more.
    fn index_before(&self, view: &PartitionView, base: i64) {
        if let Some(closed) = view.segments().iter().rev().find(|segment| segment.base < base) {
            closed.write_index(&*self.disk);
        }
    }

    /// Removes files of what is no part of the log any more. What cannot be removed is told, and goes with the next start.
    fn clean_up(&mut self, gone: &[(Arc<Segment>, bool)], deleted: &[Arc<TopicView>]) {
        for (segment, replaced) in gone {
            self.shared.files.forget(segment.key);
            self.behind.forget(segment);
            for suffix in ["index", "timeindex", "log"].iter().take(if *replaced { 2 } else { 3 }) {
                let path = super::segment::segment_file(&segment.dir, segment.base, suffix);
                warn(&path, crate::disk::not_found_is_fine(self.disk.unlink(&path)));
            }
        }
        deleted.iter().for_each(|topic| self.behind.forget_topic(topic.id));
        for view in deleted.iter().flat_map(|topic| &topic.partitions) {
            view.segments().iter().for_each(|segment| self.shared.files.forget(segment.key));
            let dir = partition_dir(&view.tp.topic, view.tp.partition);
            warn(&dir, self.disk.remove_dir_all(&dir));
        }
    }

    /// Compacted segments take the places of the others. Where that fails the next start does it.
    fn settle(&mut self, compacted: Vec<(Uuid, i32, Arc<Segment>)>) {
        for (t, p, segment) in compacted {
            let swapped = self.disk.rename(&cleaned_path(&segment.dir, segment.base), &segment.path());
            let swapped = swapped.and_then(|()| self.disk.sync_dir(&segment.dir));
            if swapped.is_ok() {
                segment.cleaned.store(false, Release);
                self.pending.push(Change::Swapped { t, p, base: segment.base });
            }
            warn(&segment.path(), swapped);
        }
    }

    /// Nothing of the round was kept. What was written to is not written to again: after a failed fsync nobody knows what it holds.
    fn failed(&mut self, round: Round, error: &Error) {
        tracing::error!(%error, "a commit failed");
        for run in &round.runs {
            self.shared.files.forget(run.segment.key);
            if run.fresh {
                warn(&run.segment.path(), crate::disk::not_found_is_fine(self.disk.unlink(&run.segment.path())));
                continue;
            }
            let cut = self.disk.open(&run.segment.path(), Open::Write).and_then(|file| file.truncate(run.segment.len()));
            warn(&run.segment.path(), cut);
            self.shared.state.write().apply(&Change::Sealed { t: run.append.t, p: run.append.p });
        }
        self.breaks(error);
        resolve(round.waiting, Some(error));
    }

    pub(crate) fn breaks(&mut self, error: &Error) {
        // Readers find what is committed in the segments, and a failed sync may have lost it there.
        warn(TOPICS, self.behind.write_anew(&*self.disk));
        self.journal = Journal::default();
        self.broken = Some(again(error));
        self.sealed = true;
        *self.shared.counters.stopped.lock() = Some(error.to_string());
    }

    /// When nothing is to do: notes that the last commit is durable, so that damage to it can be told from a torn tail.
    pub(crate) fn seal(&mut self) {
        if self.sealed || self.broken.is_some() {
            return;
        }
        let n = self.shared.state.read().commit;
        let written = self.journal.write(n, n, Vec::new(), std::iter::empty());
        match written.and_then(|file| self.disk.sync_all(&[SyncTarget::File(file, point::LOG_JOURNAL_SYNC)])) {
            Ok(()) => self.sealed = true,
            Err(error) => {
                let error = io_error(&self.journal.path, "write", &error);
                tracing::error!(%error, "the journal failed");
                self.breaks(&error);
            }
        }
    }

    /// Writes the state and begins a new journal. `clean`: nothing follows, and no file has a tail to cut.
    ///
    /// # Errors
    /// `log.disk_full`, `log.io`: then nothing is committed until another attempt succeeds, since nobody knows which checkpoint a crash would leave.
    pub(crate) fn checkpoint(&mut self, clean: bool) -> Result<()> {
        self.seq += 1;
        let result = self.try_checkpoint(clean);
        match &result {
            Ok(()) => {
                self.broken = None;
                self.sealed = true;
            }
            Err(error) => {
                tracing::error!(%error, "a checkpoint failed");
                self.breaks(error);
            }
        }
        result
    }

    fn try_checkpoint(&mut self, clean: bool) -> Result<()> {
        self.sync_behind()?;
        let path = journal::checkpoint_path(self.seq);
        let temporary = format!("{path}.tmp");
        let failed = |error: io::Error| io_error(&path, "write", &error);
        let options = &self.shared.options;
        let salt = (options.new_id)().as_fields().0;
        let bytes = encode_checkpoint(self.seq, clean, salt, &self.shared.state.read());
        let journal = Journal::create(&*self.disk, self.seq, salt, options.journal_fill_bytes).map_err(failed)?;
        let write = || -> io::Result<()> {
            let file = self.disk.open(&temporary, Open::Create)?;
            file.write_all_at(&bytes, 0)?;
            failpoint::hit_io(point::LOG_CHECKPOINT_WRITTEN)?;
            file.sync_data()?;
            // The journal's name first: where there is a checkpoint, there is its journal.
            self.sync_journal_dir()?;
            self.disk.rename(&temporary, &path)?;
            failpoint::hit_io(point::LOG_CHECKPOINT_RENAMED)?;
            self.sync_journal_dir()
        };
        if let Err(error) = write() {
            let _ = self.disk.unlink(&temporary);
            return Err(failed(error));
        }
        self.journal = journal;
        self.remove_old();
        Ok(())
    }

    fn sync_journal_dir(&self) -> io::Result<()> {
        if self.bug(bug::SKIP_DIR_SYNC) { Ok(()) } else { self.disk.sync_dir(journal::DIR) }
    }

    fn remove_old(&self) {
        for name in self.disk.list(journal::DIR).unwrap_or_default() {
            let seq = name.split_once('.').and_then(|(seq, _)| seq.parse::<u64>().ok());
            if seq.is_none_or(|seq| seq < self.seq) {
                let path = format!("{}/{name}", journal::DIR);
                warn(&path, self.disk.unlink(&path));
            }
        }
    }

    /// The last act: all that was committed is in a checkpoint, and no file has a tail.
    pub(crate) fn close(&mut self) {
        for topic in self.shared.catalogue.read().by_name.values() {
            for view in &topic.partitions {
                if let Some(last) = view.segments().last() {
                    last.write_index(&*self.disk);
                }
            }
        }
        let clean = self.broken.is_none();
        // What fails here is found by the next start, which then cannot take the short way.
        let _ = self.checkpoint(clean);
    }

    pub(crate) fn bug(&self, name: &str) -> bool {
        cfg!(debug_assertions) && (failpoint::planted(name) || self.shared.options.bugs.contains(&name))
    }
}

pub(crate) fn warn(path: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(path, %error, "cannot clean up");
    }
}
