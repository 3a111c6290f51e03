//! Reads the battery: files of requests as editors' REST clients know them (`.http`).
//!
//! `### name` begins a request; then come directives, the request line, headers, an empty line and the body. A body has `Content-Type: application/json`
//! unless another is given (`-`: none). `{dir}` is a folder of the side's own, with `in.txt` of three lines. Directives:
//! - `# clean`: no connector is left;
//! - `# fresh NAME`: a source of this name is created and runs. After a restart there is no telling a RUNNING of before from one of after;
//! - `# state NAME STATE`: wait until the connector and its tasks (at least one when RUNNING, none when STOPPED) are in this state;
//! - `# until PATH TEXT`: wait until a GET of the path is 200 and has the text;
//! - `# gone PATH`: wait until a GET of the path is 404.

use std::fs;
use std::path::Path;

#[derive(Debug)]
pub struct Request {
    /// `file/name`
    pub id: String,
    pub before: Vec<Before>,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
}

#[derive(Debug)]
pub enum Before {
    Clean,
    Fresh { connector: String },
    State { connector: String, state: String },
    Until { path: String, text: String },
    Gone { path: String },
}

impl Request {
    /// May be asked again.
    pub fn is_read(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS")
    }
}

/// Every request of every file of the folder, in order.
pub fn load(folder: &Path) -> Vec<Request> {
    let entries = fs::read_dir(folder).expect("the battery is beside this file");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "http"));
    files.sort();
    let mut requests = Vec::new();
    for file in files {
        let area = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("a readable file");
        requests.extend(text.split("\n### ").skip(1).map(|part| parse(&area, part)));
    }
    let mut ids: Vec<&str> = requests.iter().map(|request| request.id.as_str()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a request's name is there twice: {ids:?}");
    requests
}

fn parse(area: &str, part: &str) -> Request {
    let (head, body) = part.split_once("\n\n").unwrap_or((part, ""));
    let mut lines = head.lines();
    let id = format!("{area}/{}", lines.next().unwrap_or_default().trim());
    let (mut before, mut line) = (Vec::new(), None);
    for next in lines.by_ref() {
        match next.strip_prefix("# ") {
            Some(words) => before.push(directive(&id, words)),
            None => {
                line = next.split_once(' ');
                break;
            }
        }
    }
    let (method, path) = line.unwrap_or_else(|| panic!("{id}: no request line"));
    let mut headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{id}: `{line}` is no header")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let body = (!body.trim().is_empty()).then(|| body.trim().to_owned());
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if body.is_some() && !typed {
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
    }
    headers.retain(|(_, value)| value != "-");
    Request { id, before, method: method.to_owned(), path: path.to_owned(), headers, body }
}

fn directive(id: &str, words: &str) -> Before {
    let words: Vec<String> = words.splitn(3, ' ').map(str::to_owned).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clean"] => Before::Clean,
        ["fresh", connector] => Before::Fresh { connector: connector.to_owned() },
        ["state", connector, state] => Before::State { connector: connector.to_owned(), state: state.to_owned() },
        ["until", path, text] => Before::Until { path: path.to_owned(), text: text.to_owned() },
        ["gone", path] => Before::Gone { path: path.to_owned() },
        _ => panic!("{id}: `# {}` is no directive", words.join(" ")),
    }
}
