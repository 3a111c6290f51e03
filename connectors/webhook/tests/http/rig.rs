//! What stands in for the worker, and a client that sends exactly the bytes it is told.

use aqueduct_core::{CancellationToken, Error, Options, Payload, Plugin, Record, SourceOffset, TaskContext, TaskId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `more` over a connector at `/orders` on `port`.
pub fn options(port: u16, more: &[(&str, &str)]) -> Options {
    let listener = format!("http://127.0.0.1:{port}");
    let first = [("listener", listener.as_str()), ("path", "/orders"), ("topic", "orders")];
    first.into_iter().chain(more.iter().copied()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// What outlives a task: the log.
#[derive(Clone, Default)]
pub struct Log {
    pub records: Arc<Mutex<Vec<Record>>>,
    offsets: Arc<Mutex<BTreeMap<String, SourceOffset>>>,
}

impl Log {
    pub fn values(&self) -> Vec<String> {
        let text = |record: &Record| match &record.value {
            Payload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        };
        self.records.lock().iter().map(text).collect()
    }

    pub fn slots(&self) -> usize {
        self.offsets.lock().len()
    }
}

/// A task with its loop. Dropped as in a crash, unless it is stopped.
pub struct Running {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    /// True: appended, and not durable yet.
    pub hold: watch::Sender<bool>,
}

pub async fn start(log: &Log, options: &Options) -> Result<Running, Error> {
    let Plugin::Source(plugin) = aqueduct_connector_webhook::plugins().remove(0) else { panic!("a source") };
    let resume = log.offsets.lock().values().cloned().collect();
    let spec = plugin.plan(options, 1).await?.remove(0);
    let mut task = plugin.open(options, spec, resume).await?;
    let (stop, (hold, mut held)) = (CancellationToken::new(), watch::channel(false));
    let (log, stopped) = (log.clone(), stop.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while !stopped.is_cancelled() {
            let cx = TaskContext {
                task: TaskId::new("webhook", 0),
                wait_max: Duration::from_secs(1),
                max_bytes: 1 << 20,
                max_records: 500,
                interrupt: stopped.child_token(),
            };
            let polled = task.poll(&cx).await.unwrap();
            let resume = polled.resume;
            log.records.lock().extend(polled.batch.into_records());
            for offset in &resume {
                match offset.offset {
                    Some(_) => log.offsets.lock().insert(offset.partition_key(), offset.clone()),
                    None => log.offsets.lock().remove(&offset.partition_key()),
                };
            }
            let _ = held.wait_for(|held| !held).await;
            task.commit(&resume).await.unwrap();
        }
        task.close().await.unwrap();
    });
    Ok(Running { tasks, stop, hold })
}

impl Running {
    pub async fn stop(mut self) {
        self.stop.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.unwrap().unwrap().unwrap();
    }

    pub async fn crash(mut self) {
        self.tasks.shutdown().await;
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// `{error_code, message}`.
    #[track_caller]
    pub fn message(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"));
        assert_eq!(body["error_code"], self.status, "{self:?}");
        body["message"].as_str().unwrap().to_owned()
    }

    pub fn has(&self, header: &str) -> bool {
        self.head.to_ascii_lowercase().contains(&header.to_ascii_lowercase())
    }
}

/// One connection.
pub struct Client<S = TcpStream> {
    pub io: S,
    buffer: Vec<u8>,
}

pub async fn connect(port: u16) -> Client {
    Client::over(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
}

/// A request by itself: POST to `/orders`.
pub async fn post(port: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    connect(port).await.post(headers, body).await
}

pub fn request(first: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{first} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text + "\r\n" + body
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(io: S) -> Self {
        Self { io, buffer: Vec::new() }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may have hung up already; the answer tells.
        let _ = self.io.write_all(bytes.as_ref()).await;
        let _ = self.io.flush().await;
    }

    pub async fn post(&mut self, headers: &[(&str, &str)], body: &str) -> Answer {
        self.ask(request("POST /orders", headers, body)).await
    }

    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.write(bytes).await;
        self.answer().await.expect("an answer")
    }

    /// `None` when the connection ends without one.
    pub async fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.parse() {
                return Some(answer);
            }
            let mut piece = [0; 4096];
            match timeout(PATIENCE, self.io.read(&mut piece)).await.expect("an answer or an end") {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.buffer.extend_from_slice(&piece[..length]),
            }
        }
    }

    fn parse(&mut self) -> Option<Answer> {
        let text = String::from_utf8_lossy(&self.buffer).into_owned();
        let (head, rest) = text.split_once("\r\n\r\n")?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status == 100 {
            self.buffer.drain(..head.len() + 4);
            return self.parse();
        }
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.unwrap_or(0);
        if rest.len() < length {
            return None;
        }
        self.buffer.drain(..head.len() + 4 + length);
        Some(Answer { status, head: head.to_owned(), body: rest[..length].to_owned() })
    }

    /// The other side hangs up, without more.
    pub async fn ends(&mut self) {
        assert!(self.answer().await.is_none(), "there was an answer");
    }

    /// Nothing comes for a while.
    pub async fn silent(&mut self, time: Duration) -> bool {
        let mut piece = [0; 1];
        timeout(time, self.io.read(&mut piece)).await.is_err()
    }
}

/// Until it is true.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
