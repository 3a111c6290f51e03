//! The stranger's path: the lines of plugins/README.md, typed in an empty folder; and what an author edits into the code that it began with.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::site::{aqueduct, free_port};
use aqueduct_tests::wait::poll_for;
use aqueduct_tests::{Run, Site, javascript, python, wait_until};
use http_services::{Answer, Api};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// From nothing: a Rust standard library for WebAssembly, or an interpreter's 18 MB compiled by a debug build.
const DEADLINE: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(90);

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every line in a block "```sh LANGUAGE".
fn listing(language: &str) -> Vec<String> {
    let text = fs::read_to_string(checkout().join("plugins/README.md")).unwrap();
    let (mut lines, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        match line {
            "```" => inside = false,
            _ if line == format!("```sh {language}") => inside = true,
            _ if inside => lines.push(line.to_owned()),
            _ => {}
        }
    }
    assert!(lines.len() > 8, "plugins/README.md has the lines for {language}: {lines:?}");
    lines
}

/// Of built and of compiled plugins, from run to run.
fn cache() -> PathBuf {
    let ci = std::env::var_os("AQUEDUCT_CI_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/aqueduct");
    let cache = ci.unwrap_or_else(home).join("guests");
    fs::create_dir_all(&cache).unwrap();
    cache
}

/// Types the lines into one shell; what it printed.
fn typed(folder: &Path, lines: &[String]) -> String {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(aqueduct(), bin.join("aqueduct")).unwrap();
    let log = folder.join("typed.log");
    let out = File::create(&log).unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-e", "-x", "-c", &lines.join("\n")]).current_dir(folder).env("PATH", path);
    command.env("AQUEDUCT_LISTENERS", &url).env("AQUEDUCT_URL", &url).env("XDG_CACHE_HOME", cache());
    command.env("CARGO_TARGET_DIR", cache().join("target"));
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).process_group(0);
    let mut child = command.spawn().unwrap();
    let ended = poll_for(DEADLINE, || child.try_wait().unwrap());
    // With it what it left running.
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let said = fs::read_to_string(&log).unwrap();
    let status = ended.unwrap_or_else(|| panic!("it did not end within {DEADLINE:?}:\n{said}"));
    assert!(status.success(), "{status}:\n{said}");
    said
}

/// The tool at this place of a new folder: what it makes of the same files is kept in the cache, by their hash.
fn keeping(place: &Path, tool: &Path, version: &str) {
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    // The last argument is what it writes. Renamed into place: another process may look.
    let script = format!(
        "#!/usr/bin/env bash\nset -euo pipefail\nout=${{@: -1}}\n\
         hash=$({{ echo '{version}' \"$@\"; cat app.* aqueduct.* wit/*; }} | sha256sum | cut -c 1-24)\n\
         kept={cache}/component-$hash.wasm\n\
         if [ ! -f \"$kept\" ]; then {tool} \"$@\"; cp \"$out\" \"$kept.$$\"; mv \"$kept.$$\" \"$kept\"; fi\n\
         cp \"$kept\" \"$out\"\n",
        cache = cache().display(),
        tool = tool.display(),
    );
    fs::write(place, script).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
}

fn judged(said: &str, first: &str) {
    assert!(said.lines().any(|line| line.starts_with(first)), "a record is printed that begins with {first}:\n{said}");
    assert!(said.contains(" 0 failed, 0 skipped"), "the kit passes:\n{said}");
}

#[test]
fn a_stranger_comes_to_a_running_source_in_rust() {
    let folder = tempfile::TempDir::new().unwrap();
    let said = typed(folder.path(), &listing("rust"));
    judged(&said, r#"{"topic":"counts","key":"0","value":"{\"#);
}

/// What an author adds to the Python that `plugin new` begins with: a source that fails.
const FAILING: &str = r#"
import os


class Failing(Counter):
    def __init__(self, config, share, resume):
        super().__init__(config, share, resume)
        self.first = self.next
        if config["greeting"] == "fatal":
            raise aqueduct.Failure("no_account", "there is no such account", retriable=False)
        if config["greeting"] == "curious":
            try:
                found = open("/etc/passwd").read()
            except OSError as error:
                found = type(error).__name__
            raise aqueduct.Failure("curious", f"file: {found}, variable: {os.environ.get('CANARY')}", retriable=False)

    def poll(self, limits):
        # Only after a new beginning it goes on.
        if self.config["greeting"] == "retriable" and self.next == 3 and self.first != 3:
            raise aqueduct.Failure("away", "the API is away")
        return super().poll(limits)


Source = aqueduct.source(Failing)
"#;

/// The guide without its two lines that fetch the tool: it is in the cache. One component for both halves: an interpreter takes long to compile.
#[test]
fn a_stranger_comes_to_a_running_source_in_python_and_its_errors_are_the_workers() {
    let folder = tempfile::TempDir::new().unwrap();
    let list = fs::read_to_string(checkout().join("tests/python/componentize.txt")).unwrap();
    let version = list.lines().find(|line| line.starts_with("componentize-py==")).unwrap();
    let tool = python::program("componentize", "componentize-py");
    keeping(&folder.path().join("venv/bin/componentize-py"), &tool, version);
    let mut lines = listing("python");
    let fetched: Vec<String> = lines.drain(..2).collect();
    assert_eq!(fetched, ["python3 -m venv venv".to_owned(), format!("venv/bin/pip install -q {version}")]);
    fs::write(folder.path().join("failing.py"), FAILING).unwrap();
    assert!(lines[0].starts_with("aqueduct plugin new "), "{lines:?}");
    lines.insert(1, "cat failing.py >> ticker/app.py".to_owned());
    let said = typed(folder.path(), &lines);
    judged(&said, r#"{"topic":"ticks","key":"0","value":"{\"n\": 0, \"greeting\": \"hello\"}""#);
    errors_are_the_workers(&folder.path().join("plugins"));
}

fn errors_are_the_workers(plugins: &Path) {
    let mut site = Site::with(&format!("plugin.path: {}\n", plugins.display()));
    for greeting in ["retriable", "fatal", "curious"] {
        let config = format!(
            "name: {greeting}\nconnector.class: ticker\ntopic: {greeting}\ngreeting: {greeting}\ncount: 6\ninterval.ms: 1\n"
        );
        site.connector(greeting, &config);
    }
    let env = [("XDG_CACHE_HOME", cache().display().to_string()), ("CANARY", "of the worker alone".to_owned())];
    let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
    site.start_with(&Run { env, ..Run::default() });
    let status = |name: &str| site.client().get(&format!("/connectors/{name}/status")).json();
    let failed = |name: &str| {
        wait_until(SOON, "a fatal error fails the task", || {
            let task = status(name)["tasks"][0].clone();
            (task["state"] == "FAILED").then(|| task["trace"].to_string())
        })
    };
    let trace = failed("fatal");
    assert!(trace.contains("plugin.ticker.no_account") && trace.contains("there is no such account"), "{trace}");
    // What worker.yaml does not grant is not there.
    let trace = failed("curious");
    assert!(trace.contains("Error, variable: None"), "{trace}");
    let read = || -> Vec<i64> {
        let output = site.cli(&["topics", "read", "retriable", "--format", "value"]);
        let numbers = String::from_utf8_lossy(&output.stdout).into_owned();
        numbers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_i64().unwrap()).collect()
    };
    let numbers = wait_until(SOON, "what follows a retriable error arrives", || Some(read()).filter(|read| read.len() >= 6));
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5], "each once: opened again from the stored offset");
    assert!(site.log().contains("plugin.ticker.away"), "{}", site.log());
    assert_eq!(status("retriable")["tasks"][0]["state"], "RUNNING");
}

/// What an author adds to the JavaScript that `plugin new` begins with.
const REFUSING: &str = r#"

class Refusing extends Upper {
  constructor(config) {
    super(config);
    if (config.field === "secret") {
      throw new aqueduct.Failure("no_secrets", "secrets are not shouted", { retriable: false });
    }
  }
}

export const transform = aqueduct.transform(Refusing);
"#;

/// The guide without its line that fetches the tool: it is in the cache.
#[test]
fn a_stranger_comes_to_a_running_transform_in_javascript() {
    let folder = tempfile::TempDir::new().unwrap();
    let json = |path: &str| -> Value { serde_json::from_slice(&fs::read(checkout().join(path)).unwrap()).unwrap() };
    let (told, ours) = (json("plugins/templates/package.json"), json("tests/javascript/package.json"));
    assert_eq!((&told["devDependencies"], &told["overrides"]), (&ours["devDependencies"], &ours["overrides"]));
    let tool = javascript::program("componentize-js");
    keeping(&folder.path().join("tool"), &tool, &told["devDependencies"].to_string());
    fs::write(folder.path().join("refusing.js"), REFUSING).unwrap();
    let mut lines = listing("js");
    assert!(lines[0].starts_with("aqueduct plugin new ") && lines[1].contains("npm install"), "{lines:?}");
    lines[1] = "mkdir -p shout/node_modules/.bin; cp tool shout/node_modules/.bin/componentize-js\n\
                sed -i '/^export /d' shout/app.js; cat refusing.js >> shout/app.js"
        .to_owned();
    lines.push("echo 'field: secret' > secret.yaml".to_owned());
    lines.push("if aqueduct plugin run shout/shout.wasm --config secret.yaml < greetings.json; then exit 9; fi".to_owned());
    let said = typed(folder.path(), &lines);
    judged(&said, r#"{"topic":"stdin","key":null,"value":"{\"greeting\":\"HELLO\"}"#);
    assert!(said.contains("plugin.shout.no_secrets") && said.contains("secrets are not shouted"), "{said}");
}

#[test]
fn a_stranger_comes_to_a_running_transform_in_c() {
    let folder = tempfile::TempDir::new().unwrap();
    let said = typed(folder.path(), &listing("c"));
    judged(&said, r#"{"topic":"stdin","key":null,"value":"{\"GREETING\":\"HELLO\"}"#);
}

/// The sinks that `plugin new` begins with: refused until worker.yaml grants what they need, then each line arrives and the kit passes.
fn a_sink_posts(language: &str, tool: impl FnOnce(&Path)) {
    let site = Site::new();
    let cache = cache().display().to_string();
    let said = |args: &[&str], code: i32| -> String {
        let script = format!("exec \"$0\" {} < lines.json", args.join(" "));
        let mut command = Command::new("bash");
        let path = format!("{}:{}", site.path("bin").display(), std::env::var("PATH").unwrap());
        command.args(["-c", &script]).arg(aqueduct()).current_dir(site.path("")).env("XDG_CACHE_HOME", &cache).env("PATH", path);
        let output = command.env("CARGO_TARGET_DIR", format!("{cache}/target")).output().unwrap();
        let text = [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned()).concat();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        text
    };
    let api = Api::start(|request| Answer::status(if request.method == "POST" { 204 } else { 405 }));
    fs::write(site.path("lines.json"), "{\"n\": 1}\nno JSON\n{\"n\": 2}\n").unwrap();
    fs::write(site.path("post.yaml"), format!("name: post\nconnector.class: post\ntopics: t\nurl: {}\n", api.url("/lines")))
        .unwrap();
    said(&["plugin", "new", "--lang", language, "--kind", "sink", "post"], 0);
    tool(&site.path("post"));
    said(&["plugin", "build", "post"], 0);
    let refused = said(&["plugin", "run", "post/post.wasm", "--config", "post.yaml"], 1);
    assert!(refused.contains("plugin.capability") && refused.contains("plugins.post.allow.http"), "{refused}");
    fs::create_dir_all(site.path("config")).unwrap();
    let grant = "plugins.post.allow.http: localhost\nplugins.post.allow.private.networks: true\n";
    fs::write(site.path("config/worker.yaml"), grant).unwrap();
    let ran = said(&["plugin", "run", "post/post.wasm", "--config", "post.yaml"], 0);
    assert!(ran.contains("it is no JSON"), "{ran}");
    let bodies: Vec<String> = api.requests().iter().map(|request| request.text()).collect();
    let lines: Vec<Value> = bodies.concat().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [serde_json::json!({"n": 1}), serde_json::json!({"n": 2})]);
    let tested = said(&["plugin", "test", "post/post.wasm", "--config", "post.yaml"], 0);
    assert!(tested.contains(" 0 failed, 0 skipped"), "{tested}");
}

#[test]
fn a_sink_begins_in_rust() {
    a_sink_posts("rust", |_| {});
}

#[test]
fn a_sink_begins_in_python() {
    let list = fs::read_to_string(checkout().join("tests/python/componentize.txt")).unwrap();
    let tool = python::program("componentize", "componentize-py");
    // Where --tool is not said, it is in PATH; the folder's own is only npm's.
    a_sink_posts("python", |folder| keeping(&folder.join("../bin/componentize-py"), &tool, list.lines().last().unwrap()));
}

#[test]
fn a_sink_begins_in_javascript() {
    let tool = javascript::program("componentize-js");
    a_sink_posts("js", |folder| keeping(&folder.join("node_modules/.bin/componentize-js"), &tool, "sink"));
}

/// A promise that is broken is named, with what happened instead; what cannot be a plugin is refused before anything of it runs.
#[test]
fn what_is_wrong_with_a_plugin_is_said() {
    let site = Site::new();
    let said = |args: &[&str], code: i32| -> String {
        let output = site.cli(args);
        let text = [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned()).concat();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        text
    };
    let zoo = plugin_services::guest("zoo").display().to_string();
    for (mode, name, why) in [
        ("trap-poll", "FAILED  poll:", "plugin.trap"),
        ("many", "FAILED  poll:", "8 records, more than the 7 that were asked for"),
        ("shares", "FAILED  plan:", "2 tasks of at most 1"),
        ("trap-put", "FAILED  put:", "plugin.trap"),
        ("beyond", "FAILED  apply:", "plugin.interface"),
    ] {
        fs::write(site.path("zoo.yaml"), format!("mode: {mode}\n")).unwrap();
        let text = said(&["plugin", "test", &zoo, "--config", "zoo.yaml"], 1);
        assert!(text.contains(name) && text.contains(why), "{mode}: {text}");
    }
    let mask = plugin_services::guest("mask-transform");
    fs::write(site.path("cut.wasm"), &fs::read(&mask).unwrap()[..5_000]).unwrap();
    let mask = mask.display().to_string();
    site.configure("plugin.path: plugins\n");
    for args in [&["inspect"][..], &["run"], &["test"], &["install", "--config", "worker.yaml"]] {
        let text = said(&[&["plugin"], args, &["cut.wasm"]].concat(), 1);
        assert!(text.contains("plugin.malformed"), "{args:?}: {text}");
    }
    assert!(!site.path("plugins").exists(), "nothing is installed of what is refused");
    assert!(said(&["plugin", "inspect", &mask], 0).contains("aqueduct:connector/transform@0.1.0"));
    assert!(said(&["plugin", "inspect", "none.wasm"], 3).contains("none.wasm"));
    assert!(said(&["plugin", "new", "--lang", "rust", "Upper Case"], 2).contains("a-z"));
    assert!(said(&["plugin", "build", "."], 3).contains("aqueduct plugin new"));
    assert!(said(&["plugin", "new", "--lang", "c", "--kind", "source", "upper"], 2).contains("--kind transform"));
    said(&["plugin", "new", "--lang", "c", "upper"], 0);
    assert!(said(&["plugin", "build", "upper", "--tool", "no/clang"], 1).contains("wasi-libc"));
    fs::write(site.path("upper/more.c"), "#include <stdio.h>\n__attribute__((used)) void more(void) { puts(\"\"); }\n").unwrap();
    let text = said(&["plugin", "build", "upper"], 1);
    assert!(text.contains("wasi_snapshot_preview1"), "{text}");
    said(&["plugin", "new", "--lang", "js", "shout"], 0);
    assert!(said(&["plugin", "new", "--lang", "js", "shout"], 1).contains("is there already"));
    let text = said(&["plugin", "build", "shout", "--tool", "no/componentize-js"], 1);
    assert!(text.contains("npm install"), "{text}");
}
