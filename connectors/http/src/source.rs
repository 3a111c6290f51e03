//! The task: asks for pages, hands their records over in batches, and says with each where to go on.

mod config;
mod page;
mod paging;
mod place;
mod pointer;
mod record;
mod request;
mod xml;

pub use config::Config;

use crate::client::pace::Bucket;
use crate::client::{Client, Failure, Reply, shown};
use aqueduct_config::SourceConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{
    BatchBuilder, Issue, Plugin, Polled, Report, Result, SourceOffset, SourceTask, TaskContext, TaskSpec, blocking,
};
use async_trait::async_trait;
use config::Settings;
use page::Page;
use paging::{Next, Resume, Signs};
use place::{Chain, Found, Place, digest_of, find_again};
use record::{identity, properties};
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// For the list of built-ins.
pub fn plugin() -> Plugin {
    aqueduct_config::plugin::source::<HttpSource>()
}

pub struct HttpSource;

#[async_trait]
impl SourceConnector for HttpSource {
    type Config = Config;
    type Task = HttpSourceTask;
    const NAME: &'static str = "http-source";
    const ALIASES: &'static [&'static str] =
        &["com.github.castorm.kafka.connect.http.HttpSourceConnector", "HttpSourceConnector"];
    const SUMMARY: &'static str = "Polls a web API, page by page, and remembers where it was.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings().map_or_else(|issues| issues, |(_, warnings)| warnings)
    }

    fn check_offset(offset: &SourceOffset) -> Result<()> {
        place::check(offset)
    }

    /// One task: pages are in an order.
    async fn plan(_: &Config, _: u32) -> Result<Vec<TaskSpec>> {
        Ok(vec![TaskSpec::new()])
    }

    async fn open(config: Config, _: TaskSpec, resume: Vec<SourceOffset>) -> Result<HttpSourceTask> {
        let (settings, _) = config.settings().map_err(|issues| invalid(&issues))?;
        let client = Client::open(settings.client.clone()).await?;
        Ok(HttpSourceTask::new(Arc::new(settings), client, &resume))
    }
}

/// A page that was read, and what of it is handed over already.
struct Loaded {
    page: Page,
    /// The list is newest first: it is handed over from its end.
    turned: bool,
    at: usize,
    chain: Chain,
    /// Of the last record that was handed over before the page was read.
    last: Option<String>,
    /// Where this page's records end; in a sweep of one page the next request may ask whether anything changed.
    next: Next,
    etag: Option<String>,
    modified: Option<String>,
}

type Fetch = Pin<Box<dyn Future<Output = Result<Fetched, Failure>> + Send>>;

enum Fetched {
    Unchanged,
    Page(Box<Loaded>),
}

pub struct HttpSourceTask {
    settings: Arc<Settings>,
    client: Client,
    endpoint: String,
    place: Place,
    loaded: Option<Loaded>,
    fetch: Option<Fetch>,
    bucket: Option<Bucket>,
    /// When the next request may be sent.
    due: Instant,
    /// The next request waits for a token already, so it takes no other.
    paid: bool,
    /// Failures in a row.
    attempt: u32,
    /// Whether this sweep gave a record, and how many pages it had.
    fresh: bool,
    pages: u64,
    doing: String,
}

impl HttpSourceTask {
    fn new(settings: Arc<Settings>, client: Client, stored: &[SourceOffset]) -> Self {
        let now = Instant::now();
        let endpoint = request::endpoint(&settings.request.url);
        let place = Place::find(&endpoint, stored).unwrap_or_else(|| Place {
            properties: settings.initial.clone(),
            base: settings.initial.clone(),
            ..Place::default()
        });
        Self {
            client,
            endpoint,
            place,
            loaded: None,
            fetch: None,
            bucket: settings.rate.map(|(rate, burst)| Bucket::new(rate, burst, now)),
            due: now,
            paid: false,
            attempt: 0,
            fresh: false,
            pages: 0,
            doing: String::new(),
            settings,
        }
    }

    /// Whether a request may be sent now; where not, `due` says when.
    fn may_send(&mut self) -> bool {
        let now = Instant::now();
        if self.due > now {
            return false;
        }
        match &mut self.bucket {
            Some(bucket) if !self.paid => {
                self.due = now + bucket.take(now);
                self.paid = true;
                self.due <= now
            }
            _ => true,
        }
    }

    fn start(&mut self) -> Result<()> {
        self.paid = false;
        let request = request::build(&self.settings, &self.place)?;
        self.doing = format!("asks {}", shown(&request.url));
        let (settings, client, place) = (self.settings.clone(), self.client.clone(), self.place.clone());
        self.fetch = Some(Box::pin(async move {
            let reply = client.send(request).await?;
            if reply.status == StatusCode::NOT_MODIFIED {
                return Ok(Fetched::Unchanged);
            }
            // Reading a large page takes long enough to hold up others.
            if reply.body.len() < READ_HERE_BYTES {
                return Ok(Fetched::Page(Box::new(load(&reply, &settings, &place)?)));
            }
            let permit = blocking::permit().await;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                load(&reply, &settings, &place)
            });
            let loaded = work.await.map_err(|_| Failure::retriable("http.body", "reading a page was ended"))??;
            Ok(Fetched::Page(Box::new(loaded)))
        }));
        Ok(())
    }

    /// What came of a request. `Some` when the place moved without a record.
    fn took(&mut self, fetched: Result<Fetched, Failure>) -> Result<Option<Polled>> {
        let failure = match fetched {
            Ok(Fetched::Unchanged) => {
                self.attempt = 0;
                self.rest();
                return Ok(None);
            }
            Ok(Fetched::Page(loaded)) => {
                self.attempt = 0;
                self.pages += 1;
                let before = self.place.clone();
                // Also where the page has changed, so that it is known by what it is now.
                if let Some(last) = &loaded.last {
                    (self.place.index, self.place.seen, self.place.last) =
                        (loaded.at as u64, loaded.chain.digest(), last.clone());
                }
                let nothing = loaded.at == loaded.page.len();
                self.loaded = Some(*loaded);
                if !nothing {
                    return Ok(None);
                }
                self.pass();
                let moved = self.place != before;
                return Ok(moved.then(|| Polled { resume: vec![self.place.offset(&self.endpoint)], ..Polled::default() }));
            }
            Err(failure) => failure,
        };
        let pause = self.settings.client.retry.wait(self.attempt, failure.after).filter(|_| failure.is_retriable());
        let Some(pause) = pause else { return Err(failure.into_error()) };
        self.attempt += 1;
        self.due = Instant::now() + pause;
        self.doing = format!("{failure}; tries again in {:.1} s (attempt {})", pause.as_secs_f64(), self.attempt);
        tracing::warn!("{}", self.doing);
        Ok(None)
    }

    /// The next records of the page.
    fn batch(&mut self, cx: &TaskContext) -> Result<Polled> {
        let Some(loaded) = &mut self.loaded else { return Ok(Polled::default()) };
        let (mut batch, from) = (BatchBuilder::new(), loaded.at);
        let mut last = None;
        while loaded.at < loaded.page.len() && batch.len() < cx.max_records && batch.bytes() < cx.max_bytes {
            let (text, raw) = (loaded.text(loaded.at), loaded.raw(loaded.at));
            // A single record may be larger than a batch; it then stands alone.
            if loaded.at > from && batch.bytes() + raw.len() > cx.max_bytes {
                break;
            }
            let identity = identity(&text, raw, &self.settings);
            loaded.chain.push(&identity);
            batch.push(record::record(&text, &self.settings)?);
            last = Some((text, identity));
            loaded.at += 1;
        }
        if let Some((text, identity)) = last {
            self.place.properties.extend(properties(&text, &self.settings)?);
            (self.place.index, self.place.seen) = (loaded.at as u64, loaded.chain.digest());
            self.place.last = digest_of(&identity);
            (self.place.etag, self.place.modified) = (None, None);
            self.fresh = true;
        }
        if loaded.at == loaded.page.len() {
            self.pass();
        }
        Ok(Polled { batch: batch.finish(), resume: vec![self.place.offset(&self.endpoint)] })
    }

    /// The page is handed over: on to the next, or to rest.
    fn pass(&mut self) {
        let Some(loaded) = self.loaded.take() else { return };
        let place = &mut self.place;
        match (loaded.next, self.settings.resume) {
            (Next::Page(token), _) => {
                place.turn_to(Some(token));
                self.due = Instant::now();
                return;
            }
            // Whether it is the end of the feed nobody says; from the start again it would be met again.
            (Next::Later(token), Resume::Start) => {
                place.turn_to(Some(token));
                self.due = Instant::now() + self.settings.interval.min(EMPTY_PAGE_PAUSE);
                return;
            }
            // What is new will stand behind what was handed over.
            (Next::End(None), Resume::Last) => (place.etag, place.modified) = (loaded.etag, loaded.modified),
            (Next::Later(token), Resume::Last) => place.turn_to(Some(token)),
            (Next::End(token), Resume::Last) => place.turn_to(token),
            (Next::End(_), Resume::Start) => {
                // The tag of one page says nothing about others.
                let (etag, modified) =
                    if self.pages == 1 && place.token.is_none() { (loaded.etag, loaded.modified) } else { (None, None) };
                let same_request = place.base == place.properties || !self.settings.by_offset;
                let properties = std::mem::take(&mut place.properties);
                *place = Place { base: properties.clone(), properties, ..Place::default() };
                if same_request {
                    (place.etag, place.modified) = (etag, modified);
                }
            }
        }
        self.rest();
    }

    /// Until the API is asked again.
    fn rest(&mut self) {
        let pause = if self.fresh { self.settings.catchup } else { self.settings.interval };
        (self.fresh, self.pages) = (false, 0);
        self.due = Instant::now() + pause;
        self.doing = format!("up to date; asks again every {:.1} s", self.settings.interval.as_secs_f64());
    }
}

/// Between a page without records and the next.
const EMPTY_PAGE_PAUSE: Duration = Duration::from_secs(1);
/// Smaller pages are read in less than a millisecond.
const READ_HERE_BYTES: usize = 256 << 10;

impl Loaded {
    fn index(&self, at: usize) -> usize {
        if self.turned { self.page.len() - 1 - at } else { at }
    }

    fn text(&self, at: usize) -> bytes::Bytes {
        self.page.record(self.index(at))
    }

    fn raw(&self, at: usize) -> &[u8] {
        self.page.raw(self.index(at))
    }
}

/// Reads a page, and finds where in it to go on.
fn load(reply: &Reply, settings: &Settings, place: &Place) -> Result<Loaded> {
    let text = |name: header::HeaderName, headers: &HeaderMap| {
        headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let content_type = text(header::CONTENT_TYPE, &reply.headers).unwrap_or_default();
    let page = page::read(reply.body.clone(), &content_type, settings)?;
    let signs = Signs { records: page.len() as u64, headers: &reply.headers, url: &reply.url, text: page.document() };
    let current = place.token.clone().or_else(|| settings.paging.first());
    let next = request::without_secret(settings.paging.next(current.as_ref(), &signs)?, &settings.client.auth);
    let turned = is_turned(&page, settings)?;
    let mut loaded = Loaded {
        page,
        turned,
        at: 0,
        chain: Chain::default(),
        last: None,
        next,
        etag: text(header::ETAG, &reply.headers),
        modified: text(header::LAST_MODIFIED, &reply.headers),
    };
    let seen = seen_before(&loaded, settings, place)?;
    let known = if place.index == 0 { 0 } else { known(&loaded, settings, place, &reply.url) };
    loaded.at = known.max(seen);
    for at in 0..loaded.at {
        let identity = identity(&loaded.text(at), loaded.raw(at), settings);
        loaded.chain.push(&identity);
        if at + 1 == loaded.at {
            loaded.last = Some(digest_of(&identity));
        }
    }
    Ok(loaded)
}

/// How many records of this page were handed over before it was read again.
fn known(loaded: &Loaded, settings: &Settings, place: &Place, url: &reqwest::Url) -> usize {
    let identities: Vec<Vec<u8>> =
        (0..loaded.page.len()).map(|at| identity(&loaded.text(at), loaded.raw(at), settings)).collect();
    match find_again(place, identities.iter().map(Vec::as_slice)) {
        Found::Same(at) => at,
        Found::Moved(at) => {
            tracing::warn!("{} begins otherwise than before: goes on behind the record that was handed over last", shown(url));
            at
        }
        Found::Changed => {
            tracing::warn!(
                "{} has changed, and the record that was handed over last is gone: all its records count as new",
                shown(url)
            );
            0
        }
    }
}

/// Records of earlier sweeps, where the offset can tell.
fn seen_before(loaded: &Loaded, settings: &Settings, place: &Place) -> Result<usize> {
    if settings.resume != Resume::Start || settings.offsets.is_empty() || place.base.is_empty() {
        return Ok(0);
    }
    let all = (0..loaded.page.len()).map(|at| properties(&loaded.text(at), settings)).collect::<Result<Vec<_>>>()?;
    Ok(paging::already_seen(&all, &place.base, |value| settings.zone.millis(value)))
}

fn is_turned(page: &Page, settings: &Settings) -> Result<bool> {
    match settings.order {
        config::Order::Asc => Ok(false),
        config::Order::Desc => Ok(true),
        config::Order::Implicit if settings.timestamp.is_some() && page.len() > 1 => {
            let at = |index: usize| record::record(&page.record(index), settings).map(|record| record.timestamp);
            Ok(at(0)?.zip(at(page.len() - 1)?).is_some_and(|(first, last)| first > last))
        }
        config::Order::Implicit => Ok(false),
    }
}

#[async_trait]
impl SourceTask for HttpSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        let deadline = Instant::now() + cx.wait_max;
        loop {
            if self.loaded.is_some() {
                return self.batch(cx);
            }
            if let Some(fetch) = &mut self.fetch {
                tokio::select! {
                    fetched = fetch => {
                        self.fetch = None;
                        if let Some(polled) = self.took(fetched)? {
                            return Ok(polled);
                        }
                    }
                    () = cx.interrupt.cancelled() => {}
                    () = sleep_until(deadline) => {}
                }
            } else if self.may_send() {
                self.start()?;
            } else {
                tokio::select! {
                    () = cx.interrupt.cancelled() => {}
                    () = sleep_until(self.due.min(deadline)) => {}
                }
            }
            if self.loaded.is_none() && (Instant::now() >= deadline || cx.interrupt.is_cancelled()) {
                return Ok(Polled::default());
            }
        }
    }

    fn report(&self) -> Report {
        Report { summary: self.doing.clone(), ..Report::default() }
    }

    async fn close(&mut self) -> Result<()> {
        // A request under way is given up.
        (self.fetch, self.loaded) = (None, None);
        Ok(())
    }
}
