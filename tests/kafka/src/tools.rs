//! Kafka's own Java tools, where kcat cannot say it. Each costs a JVM: one to two CPU-seconds.

use crate::broker::Broker;
use crate::home::{kafka_home, run, run_with, text};
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;
use wait_services::pause;

/// Runs a main class of Kafka's jars.
pub fn java_tool(main: &str, args: &[&str]) -> Output {
    run(&mut java(main, args))
}

fn java(main: &str, args: &[&str]) -> Command {
    let home = kafka_home();
    let mut command = Command::new("java");
    command
        .args([
            "-Xmx192m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-Xlog:cds=off",
            "-Xlog:cds+dynamic=off",
        ])
        .arg(format!("-XX:SharedArchiveFile={}/kafka.jsa", home.display()))
        .arg(format!("-Dlog4j2.configurationFile={}", crate::home::script("tools-log4j2.properties").display()))
        .arg("-cp")
        .arg(format!("{}/libs/*", home.display()))
        .arg(main)
        .args(args);
    command
}

#[track_caller]
fn tool(bootstrap: &str, main: &str, args: &[&str]) -> String {
    let all: Vec<&str> = ["--bootstrap-server", bootstrap].into_iter().chain(args.iter().copied()).collect();
    let output = java_tool(main, &all);
    assert!(output.status.success(), "{main} {}: {}", args.join(" "), text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";

/// Apache Kafka 4.3.1 that is alone and dies between the decision to commit (`PrepareCommit`) and its markers says `CompleteCommit` when it starts
/// again, and never writes them: about once in 30 kills. Readers wait for that transaction for ever, ours too; an operator aborts it, and since the
/// source's offset was in it, its records come again. How many were aborted, on broker 1.
///
/// Only what is open for long: to abort a transaction that a task is in the middle of would lose its records, since its offset is committed after all.
/// And the offsets last, in topics named so: who waits for them, freed before the rest, would begin the next transaction inside the one that still
/// hangs elsewhere, and the second abort would lose what it commits.
///
/// Where some of the markers were written, what is aborted may be records whose offset is committed: they are lost then, and only Kafka's own log can tell.
///
/// # Panics
/// When one of the tools fails.
#[track_caller]
pub fn abort_hanging(bootstrap: &str) -> usize {
    // Topic, partition, producer id and epoch, the coordinator's epoch, first offset; then times.
    let open = || -> BTreeSet<Vec<String>> {
        let found = tool(bootstrap, TRANSACTIONS, &["find-hanging", "--broker-id", "1", "--max-transaction-timeout", "0"]);
        found.lines().skip(1).map(|row| row.split_whitespace().take(6).map(str::to_owned).collect()).collect()
    };
    let before = open();
    // Ours end within a second.
    pause(Duration::from_secs(15));
    let mut hanging: Vec<_> = open().intersection(&before).cloned().collect();
    hanging.sort_by_key(|row| row[0].contains("offsets"));
    for row in &hanging {
        let [topic, partition, _, _, _, start] = &row[..] else { panic!("{row:?}") };
        tool(bootstrap, TRANSACTIONS, &["abort", "--topic", topic, "--partition", partition, "--start-offset", start]);
    }
    hanging.len()
}

impl Broker {
    #[track_caller]
    fn tool(&self, main: &str, args: &[&str]) -> String {
        tool(&self.bootstrap(), main, args)
    }

    /// `kafka-configs.sh`.
    #[track_caller]
    pub fn configs(&self, args: &[&str]) -> String {
        self.tool("kafka.admin.ConfigCommand", args)
    }

    /// `kafka-consumer-groups.sh`.
    #[track_caller]
    pub fn consumer_groups(&self, args: &[&str]) -> String {
        self.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", args)
    }

    /// `kafka-topics.sh`.
    #[track_caller]
    pub fn topics(&self, args: &[&str]) -> String {
        self.tool("org.apache.kafka.tools.TopicCommand", args)
    }

    /// Keys and values as the Java client partitions them (`kafka-console-producer.sh`; acks=all, idempotent). Without tabs and line feeds.
    #[track_caller]
    pub fn java_produce(&self, topic: &str, records: &[(&str, &str)]) {
        let properties = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=\t"];
        let bootstrap = self.bootstrap();
        let args = [&["--bootstrap-server", &bootstrap, "--topic", topic][..], &properties].concat();
        let lines: String = records.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
        let output = run_with(&mut java("org.apache.kafka.tools.ConsoleProducer", &args), lines.as_bytes());
        assert!(output.status.success(), "console producer: {}", text(&output));
    }

    /// `kafka-console-consumer.sh`: give it `--topic`, `--from-beginning`, `--max-messages` or `--timeout-ms`.
    #[track_caller]
    pub fn console_consumer(&self, args: &[&str]) -> String {
        self.tool("org.apache.kafka.tools.consumer.ConsoleConsumer", args)
    }
}
