//! Real Kafka Connect: the witness for its internal topics, and the peer of the benchmark.

use crate::home::{debezium_home, free_port, kafka_home, must_run, run, script, text};
use crate::process::Process;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use wait_services::wait_until;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Offsets in a file.
    Standalone,
    /// Configs, offsets and states in `<group>-configs`, `<group>-offsets` and `<group>-status`.
    Distributed,
}

#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub mode: Mode,
    pub group: String,
    /// More lines of `worker.properties`; they win over ours (converters are `StringConverter`).
    pub properties: Vec<String>,
    pub heap: String,
    pub jvm: String,
    /// Folders of plugins beside the FileStream connectors.
    pub plugins: Vec<PathBuf>,
}

impl ConnectOptions {
    pub fn distributed(group: &str) -> Self {
        let (heap, jvm) = ("384m".into(), "-XX:+UseSerialGC -XX:TieredStopAtLevel=1".into());
        Self { mode: Mode::Distributed, group: group.into(), properties: Vec::new(), heap, jvm, plugins: Vec::new() }
    }

    pub fn standalone() -> Self {
        Self { mode: Mode::Standalone, ..Self::distributed("connect") }
    }

    /// For benchmarks: heap, collector and compiler as `connect-standalone.sh` and `kafka-run-class.sh` set them.
    #[must_use]
    pub fn fast(self) -> Self {
        let jvm = "-Xms256M -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent";
        Self { heap: "2g".into(), jvm: jvm.into(), ..self }
    }

    /// With Debezium's Postgres connector.
    #[must_use]
    pub fn with_debezium(mut self) -> Self {
        self.plugins.push(debezium_home("postgres"));
        Self { heap: if self.heap == "384m" { "768m".into() } else { self.heap }, ..self }
    }

    /// With Debezium's JDBC sink.
    #[must_use]
    pub fn with_debezium_jdbc(mut self) -> Self {
        self.plugins.push(debezium_home("jdbc"));
        self
    }

    #[must_use]
    pub fn with(mut self, property: &str) -> Self {
        self.properties.push(property.to_owned());
        self
    }
}

/// A Connect worker with the FileStream connectors. Killed on drop.
#[derive(Debug)]
pub struct Connect {
    process: Process,
    options: ConnectOptions,
    bootstrap: String,
    port: u16,
}

impl Connect {
    /// Starts a worker (4 s) and returns when its REST interface answers.
    ///
    /// # Panics
    /// When it does not start, with the tail of its log.
    #[track_caller]
    pub fn start(bootstrap: &str, options: ConnectOptions) -> Self {
        let process = Process::new("connect", "Kafka Connect".into());
        let mut connect = Self { process, options, bootstrap: bootstrap.into(), port: free_port() };
        connect.restart();
        connect
    }

    /// Starts it again, on the same port, topics and offset file.
    ///
    /// # Panics
    /// When it already runs, or does not start.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.pid().is_none(), "Kafka Connect already runs");
        let mut command = Command::new(script("start-connect.sh"));
        command
            .arg(if self.options.mode == Mode::Standalone { "standalone" } else { "distributed" })
            .arg(self.process.dir())
            .args([&self.bootstrap, &self.port.to_string()])
            .env("GROUP", &self.options.group)
            .env("KAFKA_HOME", kafka_home())
            .env("HEAP", &self.options.heap)
            .env("JVM", &self.options.jvm)
            .env("EXTRA", self.options.properties.join("\n"))
            .env("PLUGIN_PATH", self.plugin_path())
            .env("OWNER", std::process::id().to_string());
        self.process.started(&run(&mut command));
    }

    /// Connect looks for plugins in the folders below each of these.
    fn plugin_path(&self) -> String {
        let plugins = [kafka_home().join("plugins")].into_iter().chain(self.options.plugins.iter().cloned());
        plugins.map(|path| path.display().to_string()).collect::<Vec<_>>().join(",")
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// `worker.properties`, `connect.out`, standalone's `offsets`.
    pub fn dir(&self) -> &Path {
        self.process.dir()
    }

    /// SIGTERM: offsets are committed.
    pub fn stop(&mut self) {
        self.process.end(Signal::TERM);
    }

    pub fn kill9(&mut self) {
        self.process.end(Signal::KILL);
    }

    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }

    /// Any request: the status and the body, null when there is none.
    ///
    /// # Panics
    /// When nothing answers.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        must_run("curl", &["-V"], "curl");
        let url = format!("{}{path}", self.url());
        let mut command = Command::new("curl");
        command.args(["-s", "-m", "60", "-X", method, "-H", "Content-Type: application/json", "-w", "\n%{http_code}", &url]);
        if let Some(body) = body {
            command.args(["-d", &body.to_string()]);
        }
        let output = run(&mut command);
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = answer.rsplit_once('\n').unwrap_or_else(|| panic!("{method} {path}: {}", text(&output)));
        assert!(output.status.success(), "{method} {path}: {}\n{}", text(&output), self.log_tail(20));
        (status.parse().expect("curl's http_code"), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// # Panics
    /// When it is not 200.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// Creates or changes a connector, and waits until its first task runs.
    ///
    /// # Panics
    /// When it is refused or fails.
    #[track_caller]
    pub fn connector(&self, name: &str, config: &Value) {
        let (status, body) = self.call("PUT", &format!("/connectors/{name}/config"), Some(config));
        assert!(status < 300, "{name}: {status} {body}");
        self.wait_state(name, "RUNNING");
    }

    /// Waits until the first task is in this state.
    ///
    /// # Panics
    /// After a minute.
    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) {
        wait_until(Duration::from_secs(60), &format!("task 0 of {name} is {state}"), || {
            let (_, status) = self.call("GET", &format!("/connectors/{name}/status"), None);
            let task = &status["tasks"][0];
            assert!(state == "FAILED" || task["state"] != "FAILED", "{name}: {}", task["trace"]);
            (task["state"] == state).then_some(())
        });
    }

    /// `[{"partition": …, "offset": …}]`, as `GET /connectors/{name}/offsets` has it.
    #[track_caller]
    pub fn offsets(&self, name: &str) -> Value {
        self.get(&format!("/connectors/{name}/offsets"))["offsets"].clone()
    }
}

/// The config of a `FileStreamSourceConnector`.
pub fn file_stream_source(file: &Path, topic: &str) -> Value {
    json!({"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "tasks.max": "1", "file": file, "topic": topic})
}

/// The config of a `FileStreamSinkConnector`.
pub fn file_stream_sink(file: &Path, topics: &str) -> Value {
    json!({"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector", "tasks.max": "1", "file": file, "topics": topics})
}
