//! A disk that loses power, in memory, driven by a seed.
//!
//! What is written is in the page cache until it is synced. When power goes, each 512-byte sector of each write since the last sync of its file is on
//! the disk or is not, whatever the order; so is each entry of a directory that was not synced since. A file's sync that fails may have written anything of
//! it and never tries again. After a mere kill the page cache is still there, and still not on the disk.

use aqueduct_log::disk::{Disk, DiskFile, Open, SyncTarget};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

const SECTOR: u64 = 512;
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// A part of the truth that the disk keeps to itself: what a log with that bug would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    SkipDataSync,
    SkipJournalSync,
    SkipCheckpointSync,
    SkipDirSync,
    /// Of the directories of partitions only.
    SkipPartitionDirSync,
    /// Errors of fsync are not told.
    HideSyncErrors,
}

/// What becomes of operations.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The operation (from 0) during which the power goes, or the process is killed.
    pub stop_at: Option<u64>,
    /// Operations that fail with EIO.
    pub eio: Vec<u64>,
    /// While the disk is full.
    pub full: Option<Range<u64>>,
}

#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Sim>>);

struct Sim {
    rng: fastrand::Rng,
    /// Of the process that has the disk; handles of an older one are dead.
    life: u64,
    running: bool,
    ops: u64,
    plan: Plan,
    lie: Option<Lie>,
    trace: bool,
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    syncs_failed: u64,
}

enum Node {
    File(FileNode),
    Dir(DirNode),
}

#[derive(Default)]
struct FileNode {
    cached: Vec<u8>,
    on_disk: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Default)]
struct DirNode {
    cached: BTreeMap<String, u64>,
    on_disk: BTreeMap<String, u64>,
    unsynced: Vec<Entry>,
}

#[derive(Clone)]
enum Entry {
    Put(String, u64),
    Remove(String),
    /// Atomic.
    Rename(String, String, u64),
}

impl Entry {
    fn apply(&self, entries: &mut BTreeMap<String, u64>) {
        match self {
            Entry::Put(name, node) => drop(entries.insert(name.clone(), *node)),
            Entry::Remove(name) => drop(entries.remove(name)),
            Entry::Rename(from, to, node) => {
                if entries.get(from) == Some(node) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *node);
            }
        }
    }
}

const ROOT: u64 = 0;

impl SimDisk {
    pub fn new(seed: u64, lie: Option<Lie>) -> Self {
        let sim = Sim {
            rng: fastrand::Rng::with_seed(seed),
            life: 0,
            running: true,
            ops: 0,
            plan: Plan::default(),
            lie,
            trace: false,
            nodes: BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]),
            next_node: 1,
            syncs_failed: 0,
        };
        Self(Arc::new(Mutex::new(sim)))
    }

    /// Prints each operation.
    pub fn trace(&self) {
        self.0.lock().trace = true;
    }

    /// The machine or the process starts, for what is planned from now on.
    pub fn start(&self, plan: Plan) {
        let mut sim = self.0.lock();
        if sim.trace {
            println!("start: {plan:?}");
        }
        sim.life += 1;
        (sim.running, sim.ops, sim.plan) = (true, 0, plan);
    }

    /// The process is gone; the page cache stays.
    pub fn kill(&self) {
        self.0.lock().running = false;
    }

    /// Only what is on the disk stays.
    pub fn cut_power(&self) {
        self.kill();
        let mut sim = self.0.lock();
        sim.lose_power();
        if sim.trace {
            println!("power cut");
        }
    }

    pub fn is_running(&self) -> bool {
        self.0.lock().running
    }

    pub fn syncs_failed(&self) -> u64 {
        self.0.lock().syncs_failed
    }

    /// Runs one operation that changes something: counted, maybe failed, or the last one.
    fn change<T>(&self, life: u64, what: (&str, &str), act: impl FnOnce(&mut Sim, Outcome) -> io::Result<T>) -> io::Result<T> {
        let mut sim = self.0.lock();
        sim.alive(life)?;
        let op = sim.ops;
        sim.ops += 1;
        let stops = sim.plan.stop_at == Some(op);
        let fails = sim.plan.eio.contains(&op);
        let full = sim.plan.full.as_ref().is_some_and(|full| full.contains(&op));
        if sim.trace {
            println!(
                "  {op} {} {}{}{}{}",
                what.0,
                what.1,
                if stops { " STOPS" } else { "" },
                if fails { " EIO" } else { "" },
                if full { " FULL" } else { "" }
            );
        }
        if stops {
            let _ = act(&mut sim, Outcome::Cut);
            sim.running = false;
            return Err(eio());
        }
        if fails {
            return act(&mut sim, Outcome::Fail);
        }
        act(&mut sim, if full { Outcome::Full } else { Outcome::Done })
    }

    fn life(&self) -> u64 {
        self.0.lock().life
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Done in part, in the cache.
    Cut,
    Fail,
    Full,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Sim {
    fn alive(&self, life: u64) -> io::Result<()> {
        if self.running && self.life == life { Ok(()) } else { Err(eio()) }
    }

    fn find(&self, path: &str) -> Option<u64> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |dir, name| match self.nodes.get(&dir)? {
            Node::Dir(dir) => dir.cached.get(name).copied(),
            Node::File(_) => None,
        })
    }

    fn dir(&mut self, path: &str) -> io::Result<&mut DirNode> {
        let id = self.find(path).ok_or_else(not_found)?;
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        }
    }

    fn file(&mut self, id: u64) -> &mut FileNode {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => file,
            _ => panic!("a file handle without a file"),
        }
    }

    fn note(&mut self, dir: &str, entry: Entry) -> io::Result<()> {
        let dir = self.dir(dir)?;
        entry.apply(&mut dir.cached);
        dir.unsynced.push(entry);
        Ok(())
    }

    fn add(&mut self, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    fn lose_power(&mut self) {
        let Self { nodes, rng, .. } = self;
        let loss = Loss::choose(rng);
        for node in nodes.values_mut() {
            match node {
                Node::File(file) => {
                    let unsynced = std::mem::take(&mut file.unsynced);
                    loss.write(rng, &unsynced, &mut file.on_disk);
                    file.cached = file.on_disk.clone();
                }
                Node::Dir(dir) => {
                    let unsynced = std::mem::take(&mut dir.unsynced);
                    loss.entries(rng, &unsynced, &mut dir.on_disk);
                    dir.cached = dir.on_disk.clone();
                }
            }
        }
        let mut reachable = vec![ROOT];
        let mut at = 0;
        while let Some(id) = reachable.get(at) {
            if let Some(Node::Dir(dir)) = nodes.get(id) {
                let children: Vec<_> = dir.cached.values().copied().collect();
                reachable.extend(children);
            }
            at += 1;
        }
        nodes.retain(|id, _| reachable.contains(id));
    }
}

/// How much of what was not synced is lost.
#[derive(Clone, Copy)]
enum Loss {
    All,
    Nothing,
    /// What came last.
    Suffix,
    Writes,
    Sectors,
}

impl Loss {
    fn choose(rng: &mut fastrand::Rng) -> Self {
        [Loss::All, Loss::Nothing, Loss::Suffix, Loss::Writes, Loss::Sectors, Loss::Sectors][rng.usize(..6)]
    }

    fn write(self, rng: &mut fastrand::Rng, writes: &[Write], disk: &mut Vec<u8>) {
        let kept = rng.usize(..=writes.len());
        for (index, write) in writes.iter().enumerate() {
            let whole = match self {
                Loss::All => continue,
                Loss::Nothing => true,
                Loss::Suffix if index > kept => continue,
                // The one on its way is torn.
                Loss::Suffix => index < kept,
                Loss::Writes if rng.bool() => continue,
                Loss::Writes => true,
                Loss::Sectors => false,
            };
            match write {
                Write::Truncate(len) if whole || rng.bool() => disk.resize(*len as usize, 0),
                Write::Truncate(_) => {}
                Write::Bytes(position, bytes) if whole => put(disk, *position, bytes),
                Write::Bytes(position, bytes) => {
                    let (mut from, end) = (*position, position + bytes.len() as u64);
                    while from < end {
                        let to = ((from / SECTOR + 1) * SECTOR).min(end);
                        if rng.bool() {
                            put(disk, from, &bytes[(from - position) as usize..(to - position) as usize]);
                        }
                        from = to;
                    }
                }
            }
        }
    }

    fn entries(self, rng: &mut fastrand::Rng, entries: &[Entry], disk: &mut BTreeMap<String, u64>) {
        let kept = rng.usize(..=entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let stays = match self {
                Loss::All => false,
                Loss::Nothing => true,
                Loss::Suffix => index < kept,
                Loss::Writes | Loss::Sectors => rng.bool(),
            };
            if stays {
                entry.apply(disk);
            }
        }
    }
}

fn put(file: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    let (start, end) = (position as usize, position as usize + bytes.len());
    if file.len() < end {
        file.resize(end, 0);
    }
    file[start..end].copy_from_slice(bytes);
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Disk for SimDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let life = self.life();
        let handle = |id| Arc::new(SimFile { disk: self.clone(), id, life, path: path.to_owned() });
        if how != Open::Create {
            let sim = self.0.lock();
            sim.alive(life)?;
            return Ok(handle(sim.find(path).ok_or_else(not_found)?));
        }
        self.change(life, ("create", path), |sim, outcome| {
            if outcome == Outcome::Full {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            if outcome == Outcome::Fail {
                return Err(eio());
            }
            let (dir, name) = split(path);
            sim.dir(dir)?;
            if sim.find(path).is_some() {
                sim.note(dir, Entry::Remove(name.to_owned()))?;
            }
            let id = sim.add(Node::File(FileNode::default()));
            sim.note(dir, Entry::Put(name.to_owned(), id))?;
            Ok(handle(id) as Arc<dyn DiskFile>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(self.life(), ("rename", from), |sim, outcome| {
            let id = sim.find(from).ok_or_else(not_found)?;
            if outcome == Outcome::Fail {
                return Err(eio());
            }
            let ((from_dir, from), (to_dir, to)) = (split(from), split(to));
            assert_eq!(from_dir, to_dir, "renames between directories are not simulated");
            sim.note(from_dir, Entry::Rename(from.to_owned(), to.to_owned(), id))
        })
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.change(self.life(), ("unlink", path), |sim, outcome| {
            sim.find(path).ok_or_else(not_found)?;
            let (dir, name) = split(path);
            if outcome == Outcome::Fail { Err(eio()) } else { sim.note(dir, Entry::Remove(name.to_owned())) }
        })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut sim = self.0.lock();
        let life = sim.life;
        sim.alive(life)?;
        match sim.dir(dir) {
            Ok(dir) => Ok(dir.cached.keys().cloned().collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.change(self.life(), ("mkdir", dir), |sim, outcome| {
            if sim.find(dir).is_some() {
                return Ok(());
            }
            match outcome {
                Outcome::Full => return Err(io::Error::from_raw_os_error(ENOSPC)),
                Outcome::Fail => return Err(eio()),
                Outcome::Done | Outcome::Cut => {}
            }
            let (parent, name) = split(dir);
            sim.dir(parent)?;
            let id = sim.add(Node::Dir(DirNode::default()));
            sim.note(parent, Entry::Put(name.to_owned(), id))
        })
    }

    fn remove_dir_all(&self, dir: &str) -> io::Result<()> {
        self.change(self.life(), ("rmdir", dir), |sim, outcome| {
            let Ok(node) = sim.dir(dir) else { return Ok(()) };
            let names: Vec<_> = node.cached.keys().cloned().collect();
            // An error in the middle leaves some of it.
            let removed = if outcome == Outcome::Fail { sim.rng.usize(..=names.len()) } else { names.len() };
            for name in &names[..removed] {
                assert!(
                    !matches!(sim.find(&format!("{dir}/{name}")).and_then(|id| sim.nodes.get(&id)), Some(Node::Dir(_))),
                    "nested"
                );
                sim.note(dir, Entry::Remove(name.clone()))?;
            }
            if outcome == Outcome::Fail {
                return Err(eio());
            }
            let (parent, name) = split(dir);
            sim.note(parent, Entry::Remove(name.to_owned()))
        })
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.change(self.life(), ("sync dir", path), |sim, outcome| {
            let lie = match sim.lie {
                Some(Lie::SkipDirSync) => true,
                Some(Lie::SkipPartitionDirSync) => path.starts_with("topics/"),
                _ => false,
            };
            let dir = sim.dir(path)?;
            match outcome {
                Outcome::Done | Outcome::Full if !lie => {
                    let unsynced = std::mem::take(&mut dir.unsynced);
                    unsynced.iter().for_each(|entry| entry.apply(&mut dir.on_disk));
                }
                Outcome::Done | Outcome::Full => {}
                // Unlike a file's data, what a directory holds stays dirty: file systems journal it, and stop when they cannot.
                Outcome::Fail => {
                    sim.syncs_failed += 1;
                    return Err(eio());
                }
                Outcome::Cut => return Err(eio()),
            }
            Ok(())
        })
    }

    fn sync_all(&self, targets: &[SyncTarget]) -> io::Result<()> {
        let mut order: Vec<_> = targets.iter().collect();
        self.0.lock().rng.shuffle(&mut order);
        let mut first = Ok(());
        for target in order {
            let result = match target {
                SyncTarget::File(file, _) => file.sync_data(),
                SyncTarget::Dir(dir) => self.sync_dir(dir),
            };
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    life: u64,
    path: String,
}

impl SimFile {
    fn is_lied_about(&self, lie: Option<Lie>) -> bool {
        match lie {
            Some(Lie::SkipDataSync) => self.path.starts_with("topics/"),
            Some(Lie::SkipJournalSync) => self.path.ends_with(".journal"),
            Some(Lie::SkipCheckpointSync) => self.path.contains("checkpoint"),
            _ => false,
        }
    }
}

impl DiskFile for SimFile {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.disk.change(self.life, ("write", &format!("{} {} bytes at {position}", self.path, bytes.len())), |sim, outcome| {
            // Short writes: what fails has written a part.
            let len = if outcome == Outcome::Done { bytes.len() } else { sim.rng.usize(..=bytes.len()) };
            let file = sim.file(self.id);
            put(&mut file.cached, position, &bytes[..len]);
            file.unsynced.push(Write::Bytes(position, bytes[..len].to_vec()));
            match outcome {
                Outcome::Done | Outcome::Cut => Ok(()),
                Outcome::Fail => Err(eio()),
                Outcome::Full => Err(io::Error::from_raw_os_error(ENOSPC)),
            }
        })
    }

    fn read_at(&self, position: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let mut sim = self.disk.0.lock();
        sim.alive(self.life)?;
        let bytes = &sim.file(self.id).cached;
        let start = (position as usize).min(bytes.len());
        out.extend_from_slice(&bytes[start..(start + len).min(bytes.len())]);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut sim = self.disk.0.lock();
        sim.alive(self.life)?;
        Ok(sim.file(self.id).cached.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.change(self.life, ("truncate", &format!("{} to {len}", self.path)), |sim, outcome| {
            if outcome == Outcome::Fail {
                return Err(eio());
            }
            let file = sim.file(self.id);
            file.cached.resize(len as usize, 0);
            file.unsynced.push(Write::Truncate(len));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change(self.life, ("sync", &self.path), |sim, outcome| {
            let lied = self.is_lied_about(sim.lie);
            let mut rng = sim.rng.fork();
            let hides = sim.lie == Some(Lie::HideSyncErrors);
            let file = sim.file(self.id);
            match outcome {
                Outcome::Done | Outcome::Full if lied => Ok(()),
                Outcome::Done | Outcome::Full => {
                    // Only what is dirty: what a failed sync lost stays lost.
                    let unsynced = std::mem::take(&mut file.unsynced);
                    Loss::Nothing.write(&mut rng, &unsynced, &mut file.on_disk);
                    Ok(())
                }
                // The pages are clean now, whatever is on the disk, and may be read again from there.
                Outcome::Fail => {
                    let unsynced = std::mem::take(&mut file.unsynced);
                    Loss::choose(&mut rng).write(&mut rng, &unsynced, &mut file.on_disk);
                    if rng.bool() {
                        file.cached = file.on_disk.clone();
                    }
                    sim.syncs_failed += 1;
                    if hides { Ok(()) } else { Err(eio()) }
                }
                Outcome::Cut => Err(eio()),
            }
        })
    }
}
