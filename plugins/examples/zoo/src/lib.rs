//! Guests that do what they must not: fixtures of the host's tests. `mode` says what.

use aqueduct_sdk::{
    Ack, Applied, Frame, HttpRequest, Issue, Level, Limits, Part, Polled, Rejects, Result, Share, Sink, Source, SourceOffset,
    Transform, env, export_plugin, http, log, secret, sleep, state,
};
use serde::Deserialize;
use std::hint::black_box;
use std::time::Duration;

#[derive(Clone, Deserialize)]
pub struct Config {
    mode: String,
    topic: String,
}

/// `loop-poll` loops in poll, and so on.
fn misbehave(config: &Config, call: &str) {
    let Some(what) = config.mode.strip_suffix(call).and_then(|mode| mode.strip_suffix('-')) else { return };
    match what {
        "loop" => loop {
            black_box(());
        },
        "memory" => {
            let mut kept = Vec::new();
            loop {
                kept.push(black_box(vec![1u8; 1 << 20]));
            }
        }
        "trap" => panic!("on purpose\n\u{1b}[31m"),
        "recursion" => {
            #[inline(never)]
            fn deeper(n: u64) -> u64 {
                let kept = black_box([n; 64]);
                if black_box(true) { deeper(n + 1) + kept[7] } else { 0 }
            }
            black_box(deeper(0));
        }
        "logs" => loop {
            log(Level::Info, &"flood ".repeat(20_000));
        },
        "naps" => loop {
            black_box(sleep(Duration::from_millis(1)));
        },
        _ => {}
    }
}

pub struct Animal {
    config: Config,
    polled: bool,
    next: u64,
}

impl Source for Animal {
    type Config = Config;

    fn validate(config: &Config) -> Vec<Issue> {
        misbehave(config, "validate");
        match config.mode.as_str() {
            "issues" => (0..5000).map(|n| Issue::error("mode", format!("{n}\n"), "")).collect(),
            _ => Vec::new(),
        }
    }

    fn plan(config: &Config, tasks_max: usize) -> Result<Vec<Share>> {
        misbehave(config, "plan");
        let count = if config.mode == "shares" { tasks_max + 1 } else { 1 };
        Ok(vec![Share::new(); count])
    }

    fn open(config: Config, _: Share, resume: Vec<SourceOffset>) -> Result<Self> {
        misbehave(&config, "open");
        let stored = resume.first().and_then(|offset| offset.offset.as_ref()?.get("n")?.as_u64());
        Ok(Self { config, polled: false, next: stored.unwrap_or(0) })
    }

    fn poll(&mut self, limits: Limits) -> Result<Polled> {
        misbehave(&self.config, "poll");
        let mut polled = Polled::default();
        match self.config.mode.as_str() {
            "many" => (0..=limits.max_records).for_each(|_| polled.record(&self.config.topic, None, Some(b"x"), None)),
            "topic" => polled.record("no such / topic", None, Some(b"x"), None),
            "same" => polled.batch.changed(0, Part::Same, Part::Same, None),
            "offsets" => {
                (0..20_000).for_each(|_| polled.resume.push(SourceOffset { partition: Default::default(), offset: None }))
            }
            "http" => drop(http(HttpRequest::get("http://169.254.169.254/latest/meta-data"))?),
            "secret" => {
                let text = secret("token").map_err(|error| aqueduct_sdk::Error::fatal("secret", error))?;
                log(Level::Info, &format!("the token is {text}"));
                return Err(aqueduct_sdk::Error::fatal("token", format!("it is {text}, of {} bytes", text.len())));
            }
            "state" => {
                // Counts its polls, and tells.
                let count = state::get("polls").map_err(|error| aqueduct_sdk::Error::fatal("state", error))?;
                let count = count.map_or(0, |count| count[0]) + 1;
                state::set("polls", &[count]).map_err(|error| aqueduct_sdk::Error::fatal("state", error))?;
                polled.record(&self.config.topic, None, Some(format!("poll {count}").as_bytes()), None);
            }
            // Until the host says that it is enough.
            "hoard" => {
                for n in 0u32.. {
                    state::set(&n.to_string(), &[7; 1000]).map_err(|error| aqueduct_sdk::Error::fatal("state", error))?;
                }
            }
            "huge" => polled.record(&self.config.topic, None, Some(&black_box(vec![1u8; 2_000_000_000])), None),
            "utf8" => {
                // SAFETY: none, which is the point: the host must not believe it.
                let text = unsafe { String::from_utf8_unchecked(black_box(vec![b'x', 0xff, 0xfe])) };
                return Err(aqueduct_sdk::Error::fatal("text", text));
            }
            "reserved" => {
                let partition = [("aqueduct.state".to_owned(), "{}".into())].into_iter().collect();
                polled.resume.push(SourceOffset { partition, offset: None });
            }
            // Half of what small() in the host's tests allows: it is replaced, and goes on.
            "leak" => {
                std::mem::forget(black_box(vec![1u8; 2 << 20]));
                self.next += 1;
                polled.record(&self.config.topic, None, Some(self.next.to_string().as_bytes()), None);
                let map = |value: u64| [("n".to_owned(), value.into())].into_iter().collect();
                polled.resume.push(SourceOffset { partition: map(0), offset: Some(map(self.next)) });
            }
            "env" => return Err(aqueduct_sdk::Error::fatal("env", env("PATH").unwrap_err())),
            _ if !self.polled => polled.record(&self.config.topic, Some(b"k"), Some(b"v"), Some(1)),
            _ => drop(sleep(limits.wait)),
        }
        self.polled = true;
        Ok(polled)
    }

    fn commit(&mut self, _: &[SourceOffset]) -> Result<()> {
        misbehave(&self.config, "commit");
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        misbehave(&self.config, "close");
        Ok(())
    }
}

/// One value that it cannot bear.
fn poison(config: &Config, batch: &Frame<'_>) -> Result<()> {
    if config.mode == "poison" {
        for record in batch.records() {
            assert_ne!(record?.value.bytes(), Some(b"poison".as_slice()));
        }
    }
    Ok(())
}

pub struct Eater(Config);

impl Sink for Eater {
    type Config = Config;

    fn open(config: Config) -> Result<Self> {
        misbehave(&config, "open");
        Ok(Self(config))
    }

    fn put(&mut self, batch: Frame<'_>, rejects: &mut Rejects) -> Result<Ack> {
        misbehave(&self.0, "put");
        poison(&self.0, &batch)?;
        match self.0.mode.as_str() {
            "reject-twice" => (0..2).for_each(|_| rejects.push(0, "again")),
            "reject-beyond" => rejects.push(1_000_000, "there is none"),
            "reject" => rejects.push(0, "bad\n\u{7}record"),
            _ => {}
        }
        Ok(Ack::Buffered)
    }

    fn flush(&mut self) -> Result<()> {
        misbehave(&self.0, "flush");
        Ok(())
    }
}

pub struct Changer(Config);

impl Transform for Changer {
    type Config = Config;

    fn open(config: Config) -> Result<Self> {
        misbehave(&config, "open");
        Ok(Self(config))
    }

    fn apply(&mut self, batch: Frame<'_>, out: &mut Applied) -> Result<()> {
        misbehave(&self.0, "apply");
        poison(&self.0, &batch)?;
        for (index, record) in batch.records().enumerate() {
            let record = record?;
            match self.0.mode.as_str() {
                "beyond" => out.keep(batch.len() + 7, &record),
                "bomb" => (0..2000).for_each(|_| out.keep(index, &record)),
                "drop" => {}
                _ => out.keep(index, &record),
            }
        }
        Ok(())
    }
}

export_plugin!(metadata: "../plugin.json", source: Animal, sink: Eater, transform: Changer);
