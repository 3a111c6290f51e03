//! mosquitto's own clients, as witnesses.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use wait_services::poll_for;

/// `mosquitto_pub -l`: each line is a message.
#[derive(Debug)]
pub struct Publisher {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Publisher {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        Self { child, stdin }
    }

    /// # Panics
    /// When the client has ended.
    #[track_caller]
    pub fn line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open until `finish`");
        writeln!(stdin, "{line}").expect("mosquitto_pub runs");
    }

    /// Returns when the broker has acknowledged everything (QoS 1 and 2).
    ///
    /// # Panics
    /// When it does not within a minute.
    #[track_caller]
    pub fn finish(mut self) {
        self.stdin = None;
        let ended = poll_for(Duration::from_secs(120), || self.child.try_wait().expect("our own child can be waited for"));
        assert!(ended.is_some_and(|status| status.success()), "mosquitto_pub: {ended:?}");
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `mosquitto_sub`: what it has printed so far.
#[derive(Debug)]
pub struct Subscriber {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reading: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// # Panics
    /// When it does not subscribe within a minute.
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        // Says when it has subscribed; without a buffer between it and us.
        let mut unbuffered = Command::new("stdbuf");
        unbuffered.args(["-oL", "-eL"]).arg(command.get_program()).args(command.get_args()).arg("-d");
        command = unbuffered;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscribed = Arc::new(Mutex::new(false));
        let (into, done) = (Arc::clone(&lines), Arc::clone(&subscribed));
        let reading = std::thread::spawn(move || {
            for line in stdout.split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                match line.strip_prefix("Client ").or_else(|| line.strip_prefix("Subscribed ")) {
                    // -d: what it does, beside what it gets.
                    Some(_) if line.starts_with("Subscribed ") => *done.lock().expect("no panic while it is held") = true,
                    Some(_) => {}
                    None => into.lock().expect("no panic while it is held").push(line),
                }
            }
        });
        let subscriber = Self { child, lines, reading: Some(reading) };
        let there = poll_for(Duration::from_secs(60), || subscribed.lock().expect("no panic while it is held").then_some(()));
        assert!(there.is_some(), "mosquitto_sub does not subscribe");
        subscriber
    }

    /// What came so far, a message a line.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic while it is held").clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
    }
}
