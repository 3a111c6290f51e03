//! A receiver that does what a test wants of it, down to the bytes of a reply.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16, Vec<(&'static str, String)>, String),
    /// The connection is reset before a reply.
    Reset,
    /// The status line and a part of the body that was promised, then the end.
    Half,
    /// A byte at a time, for ever.
    SlowLoris,
    /// Nothing, for ever.
    Silence,
    Later(Duration, Box<Reply>),
}

impl Reply {
    pub fn ok() -> Self {
        Self::status(200)
    }

    pub fn status(status: u16) -> Self {
        Reply::Status(status, Vec::new(), String::new())
    }

    pub fn json(status: u16, body: &str) -> Self {
        Reply::Status(status, Vec::new(), body.to_owned())
    }

    pub fn retry_after(status: u16, after: &str) -> Self {
        Reply::Status(status, vec![("Retry-After", after.to_owned())], String::new())
    }

    pub fn later(self, after: Duration) -> Self {
        Reply::Later(after, Box::new(self))
    }
}

/// What is answered to a request; the number counts the requests from 0.
type Script = dyn Fn(&Seen, usize) -> Reply + Send + Sync;

pub struct Receiver {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Requests that were begun, at once.
    busy: Arc<Mutex<(usize, usize)>>,
    _tasks: JoinSet<()>,
}

struct Shared {
    script: Box<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    busy: Arc<Mutex<(usize, usize)>>,
}

impl Receiver {
    pub async fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, busy) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<(usize, usize)>>::default());
        let shared = Arc::new(Shared { script: Box::new(script), seen: seen.clone(), busy: busy.clone() });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move { drop(connection(stream, &shared).await) });
            }
        });
        Self { url, seen, busy, _tasks: tasks }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn bodies(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.body).collect()
    }

    /// The most requests at once.
    pub fn busiest(&self) -> usize {
        self.busy.lock().unwrap().1
    }
}

async fn connection(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let number = {
            let mut seen = shared.seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        {
            let mut busy = shared.busy.lock().unwrap();
            busy.0 += 1;
            busy.1 = busy.1.max(busy.0);
        }
        let mut reply = (shared.script)(&request, number);
        while let Reply::Later(after, then) = reply {
            tokio::time::sleep(after).await;
            reply = *then;
        }
        shared.busy.lock().unwrap().0 -= 1;
        let stream = stream.get_mut();
        match reply {
            Reply::Status(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
                headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
                stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
            }
            Reply::Reset => return stream.set_zero_linger(),
            Reply::Half => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await,
            Reply::SlowLoris => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ").await?;
                loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    stream.write_all(b"x").await?;
                }
            }
            Reply::Silence => std::future::pending().await,
            Reply::Later(..) => unreachable!("unwrapped above"),
        }
    }
    Ok(())
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen { method, path, headers: Vec::new(), body: String::new() };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        seen.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut body = vec![0; seen.header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    seen.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(seen))
}
