//! One of the two: sends requests byte for byte as the battery has them (no client that tidies up paths), and keeps the answers.

use crate::battery::{Before, Request};
use aqueduct_tests::{poll_for, wait_until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

pub struct Side {
    pub name: String,
    /// `host:port`
    pub address: String,
    /// Stands for `{dir}`.
    pub dir: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// With `{dir}` for the side's folder.
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.text).ok()
    }
}

impl Side {
    /// Prepares what the request presupposes, and sends it.
    pub fn answer(&self, request: &Request) -> Answer {
        request.before.iter().for_each(|before| self.prepare(&request.id, before));
        self.send(request)
    }

    pub fn send(&self, request: &Request) -> Answer {
        let body = request.body.as_ref().map(|body| self.filled(body));
        self.settled(&request.id, || self.call(&request.method, &request.path, &request.headers, body.as_deref()))
    }

    fn filled(&self, text: &str) -> String {
        text.replace("{dir}", &self.dir.display().to_string())
    }

    /// Kafka Connect refuses for a moment while its group rebalances: clients ask again, and so do we.
    fn settled(&self, what: &str, send: impl Fn() -> Answer) -> Answer {
        let busy = |answer: &Answer| {
            let passing =
                ["conflicting operation", "stale configuration", "rebalance is expected", "tasks haven't stopped completely"];
            matches!(answer.status, 409 | 500) && passing.iter().any(|why| answer.text.contains(why))
        };
        wait_until(SOON, &format!("{}: {what} is taken", self.name), || Some(send()).filter(|answer| !busy(answer)))
    }

    fn get(&self, path: &str) -> Answer {
        self.settled(path, || self.call("GET", path, &[], None))
    }

    fn prepare(&self, id: &str, before: &Before) {
        if let Before::Fresh { connector } = before {
            self.create(connector);
            return self.prepare(id, &Before::State { connector: connector.clone(), state: "RUNNING".to_owned() });
        }
        let (mut last, begin) = (String::new(), format!("{} before {id}", self.name));
        let mut look = |path: &str| {
            let answer = self.get(path);
            last = format!("{} {}", answer.status, answer.text);
            answer
        };
        let done = poll_for(3 * SOON, || match before {
            Before::Clean => {
                let Some(Value::Array(names)) = look("/connectors").json() else { return None };
                // Kafka Connect cannot delete what has a slash in its name.
                let names: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| !name.contains('/')).collect();
                for name in &names {
                    let path = format!("/connectors/{}", encode(name));
                    self.settled(&path, || self.call("DELETE", &path, &[], None));
                }
                names.is_empty().then_some(())
            }
            Before::State { connector, state } => {
                let status = look(&format!("/connectors/{connector}/status")).json()?;
                let tasks = status["tasks"].as_array()?;
                let enough = match state.as_str() {
                    "STOPPED" => tasks.is_empty(),
                    "PAUSED" => true,
                    _ => !tasks.is_empty(),
                };
                let all = tasks.iter().all(|task| task["state"] == **state);
                (enough && all && (status["connector"]["state"] == **state || state == "FAILED")).then_some(())
            }
            Before::Until { path, text } => {
                let answer = look(path);
                (answer.status == 200 && answer.text.contains(text)).then_some(())
            }
            Before::Gone { path } => (look(path).status == 404).then_some(()),
            Before::Fresh { .. } => Some(()),
        });
        assert!(done.is_some(), "{begin}: not yet {before:?}: {last}");
    }

    fn create(&self, connector: &str) {
        let path = format!("/connectors/{connector}/config");
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())];
        let body = self.filled(r#"{"connector.class": "FileStreamSource", "file": "{dir}/in.txt", "topic": "l-topic"}"#);
        let answer = self.settled(&path, || self.call("PUT", &path, &headers, Some(&body)));
        assert_eq!(answer.status, 201, "{}: {path}: {}", self.name, answer.text);
    }

    fn call(&self, method: &str, path: &str, headers: &[(String, String)], body: Option<&str>) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if body.is_some() || matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {}\r\n", body.unwrap_or_default().len()));
        }
        let whole = format!("{head}\r\n{}", body.unwrap_or_default());
        let answer = (|| {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(100)))?;
            stream.write_all(whole.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        })();
        let answer = answer.unwrap_or_else(|error| panic!("{}: {method} {path}: {error}", self.name));
        let answer =
            parse(&answer).unwrap_or_else(|| panic!("{}: {method} {path}: {:?}", self.name, String::from_utf8_lossy(&answer)));
        Answer { text: answer.text.replace(&self.dir.display().to_string(), "{dir}"), ..answer }
    }
}

/// An HTTP/1.1 answer that ends with the connection.
fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = &answer[end + 4..];
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { unchunked(body)? } else { body.to_vec() };
    Some(Answer { status, headers, text: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(body.get(end + 2..end + 2 + length)?);
        body = body.get(end + 4 + length..)?;
    }
}

fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[test]
fn answers_in_chunks_are_put_together() {
    let answer =
        parse(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n").expect("whole");
    assert_eq!((answer.status, answer.text.as_str()), (404, "abcd"));
    assert_eq!(encode("a/b é"), "a%2Fb%20%C3%A9");
}
