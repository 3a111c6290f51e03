//! Kafka's own Java tools, where kcat cannot say it. Each costs a JVM: one to two CPU-seconds.

use crate::broker::Broker;
use crate::home::{kafka_home, run, run_with, text};
use std::process::{Command, Output};

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

impl Broker {
    #[track_caller]
    fn tool(&self, main: &str, args: &[&str]) -> String {
        let bootstrap = self.bootstrap();
        let all: Vec<&str> = ["--bootstrap-server", &bootstrap].into_iter().chain(args.iter().copied()).collect();
        let output = java_tool(main, &all);
        assert!(output.status.success(), "{main} {}: {}", args.join(" "), text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
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

    /// `kafka-transactions.sh`.
    #[track_caller]
    pub fn transactions(&self, args: &[&str]) -> String {
        self.tool("org.apache.kafka.tools.TransactionsCommand", args)
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
