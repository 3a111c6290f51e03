//! News of changes, by `notify`: one watcher for the process, since the system grants a user only 128. Where it fails, polling goes on.

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// More changed paths than this, and everything is looked at (invariant 6).
const PATHS_MAX: usize = 4096;
/// More folders than this are left to polling.
const DIRS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) paths: FxHashSet<PathBuf>,
    /// Files came, went or were renamed.
    pub(crate) names: bool,
}

#[derive(Debug, Default)]
pub(crate) struct News {
    changed: Mutex<Changed>,
    pub(crate) wake: Notify,
}

impl News {
    fn tell(&self, path: Option<PathBuf>) {
        let mut changed = self.changed.lock();
        match path {
            Some(path) if changed.paths.len() < PATHS_MAX => _ = changed.paths.insert(path),
            _ => changed.names = true,
        }
        drop(changed);
        self.wake.notify_one();
    }

    pub(crate) fn is_empty(&self) -> bool {
        let changed = self.changed.lock();
        changed.paths.is_empty() && !changed.names
    }

    pub(crate) fn take(&self) -> Changed {
        std::mem::take(&mut self.changed.lock())
    }
}

struct Subscriber {
    news: Weak<News>,
    /// The folder as its patterns write it.
    dir: PathBuf,
}

type Subscribers = FxHashMap<PathBuf, Vec<Subscriber>>;

/// By absolute path of the folder. Never held while the watcher is called: the watcher's thread takes it too.
static SUBSCRIBERS: LazyLock<Mutex<Subscribers>> = LazyLock::new(Mutex::default);
static WATCHER: Mutex<Option<RecommendedWatcher>> = Mutex::new(None);

/// The folders that one task watches.
pub(crate) struct Watch {
    pub(crate) news: Arc<News>,
    dirs: FxHashMap<PathBuf, (u64, u64)>,
    warned: bool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { news: Arc::default(), dirs: FxHashMap::default(), warned: false }
    }

    /// True when one of them is watched only from now on: what happened in it before was not announced.
    pub(crate) fn follow(&mut self, dirs: &[(PathBuf, (u64, u64))]) -> bool {
        let mut fresh = false;
        for (dir, inode) in dirs {
            match self.dirs.get(dir) {
                Some(known) if known == inode => continue,
                // Another folder at the same path: the watch went with the old one.
                Some(_) => unsubscribe(dir, &self.news),
                None if self.dirs.len() >= DIRS_MAX => continue,
                None => {}
            }
            match subscribe(dir, &self.news) {
                Ok(()) => fresh = true,
                Err(error) if !self.warned => {
                    self.warned = true;
                    tracing::warn!(dir = %dir.display(), %error, "file.watch: changes are found by polling only (poll.interval)");
                }
                Err(_) => {}
            }
            self.dirs.insert(dir.clone(), *inode);
        }
        if self.dirs.len() > dirs.len() {
            let now: FxHashSet<&Path> = dirs.iter().map(|(dir, _)| dir.as_path()).collect();
            let news = &self.news;
            self.dirs.retain(|dir, _| {
                let keep = now.contains(dir.as_path());
                if !keep {
                    unsubscribe(dir, news);
                }
                keep
            });
        }
        fresh
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for dir in self.dirs.keys() {
            unsubscribe(dir, &self.news);
        }
    }
}

fn subscribe(dir: &Path, news: &Arc<News>) -> notify::Result<()> {
    let key = std::path::absolute(dir).map_err(notify::Error::io)?;
    let mut watcher = WATCHER.lock();
    let live = match &mut *watcher {
        Some(live) => live,
        none => none.insert(notify::recommended_watcher({
            let mut pace = Pace::default();
            move |event| {
                pace.wait();
                on_event(event);
            }
        })?),
    };
    let name = if dir == Path::new(".") { PathBuf::new() } else { dir.to_owned() };
    SUBSCRIBERS.lock().entry(key.clone()).or_default().push(Subscriber { news: Arc::downgrade(news), dir: name });
    live.watch(&key, RecursiveMode::NonRecursive).inspect_err(|_| _ = forget(&key, news))
}

fn unsubscribe(dir: &Path, news: &Arc<News>) {
    let Ok(key) = std::path::absolute(dir) else { return };
    let mut watcher = WATCHER.lock();
    if forget(&key, news)
        && let Some(live) = &mut *watcher
    {
        // It fails when the folder is gone, and the watch with it.
        let _ = live.unwatch(&key);
    }
}

/// True when nobody is left.
fn forget(key: &Path, news: &Arc<News>) -> bool {
    let mut subscribers = SUBSCRIBERS.lock();
    let Some(list) = subscribers.get_mut(key) else { return false };
    list.retain(|one| one.news.strong_count() > 0 && !std::ptr::eq(one.news.as_ptr(), Arc::as_ptr(news)));
    let empty = list.is_empty();
    if empty {
        subscribers.remove(key);
    }
    empty
}

fn on_event(event: notify::Result<Event>) {
    use notify::event::ModifyKind;
    let all = || SUBSCRIBERS.lock().values().flatten().filter_map(|one| one.news.upgrade()).for_each(|news| news.tell(None));
    let event = match event {
        Ok(event) if event.need_rescan() => return all(),
        Ok(event) => event,
        Err(_) => return all(),
    };
    let names = match event.kind {
        // Also our own reading.
        EventKind::Access(_) => return,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Create(_) | EventKind::Remove(_) => true,
        _ => false,
    };
    let subscribers = SUBSCRIBERS.lock();
    for path in &event.paths {
        let (dir, name) = (path.parent(), path.file_name().unwrap_or_default());
        let within = dir.and_then(|dir| subscribers.get(dir)).into_iter().flatten();
        for (news, dir) in within.filter_map(|one| Some((one.news.upgrade()?, &one.dir))) {
            news.tell((!names).then(|| dir.join(name)));
        }
        for news in subscribers.get(path).into_iter().flatten().filter_map(|one| one.news.upgrade()) {
            news.tell(None);
        }
    }
}

/// A program that writes line by line makes an event for each. The kernel merges those that wait, so we let them wait: at most 64 events in
/// 5 ms, which is a delay that nobody sees.
struct Pace {
    since: Instant,
    events: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since: Instant::now(), events: 0 }
    }
}

impl Pace {
    fn wait(&mut self) {
        const WINDOW: Duration = Duration::from_millis(5);
        self.events += 1;
        let elapsed = self.since.elapsed();
        if elapsed < WINDOW && self.events <= 64 {
            return;
        }
        if elapsed < WINDOW {
            std::thread::park_timeout(WINDOW - elapsed);
        }
        *self = Self::default();
    }
}
