//! Apache Kafka's own dump tool reads a segment of ours.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Site, segment, wait_until};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `AQUEDUCT_KAFKA_HOME`, or a cache outside of the checkout; `cargo xtask test` has filled it, otherwise this does.
fn kafka_home() -> PathBuf {
    let home = std::env::var_os("AQUEDUCT_KAFKA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/aqueduct/kafka")))
        .expect("HOME or AQUEDUCT_KAFKA_HOME");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/get-kafka.sh");
    let output = Command::new(&script).arg(&home).output().unwrap();
    assert!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    home
}

/// `cargo xtask test` installs Java and names the folder, and then nothing is skipped.
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn java_is_missing() -> bool {
    let there = Command::new("java").arg("-version").output().is_ok_and(|output| output.status.success());
    if there || std::env::var_os("AQUEDUCT_KAFKA_HOME").is_some() {
        return false;
    }
    eprintln!(
        "\n!!! SKIPPED: no java, so Kafka's dump tool did NOT read our segments. `cargo xtask services install` installs it.\n"
    );
    true
}

fn dump(home: &Path, segment: &Path) -> String {
    let output = Command::new("java")
        .arg("-cp")
        .arg(format!("{}/libs/*", home.display()))
        .arg("org.apache.kafka.tools.DumpLogSegments")
        .args(["--print-data-log", "--deep-iteration", "--files"])
        .arg(segment)
        .output()
        .expect("a JDK: apt-get install default-jre-headless");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

#[test]
fn kafkas_dump_tool_reads_our_segments() {
    if java_is_missing() {
        return;
    }
    let mut site = Site::new();
    site.start();
    let client = site.client();
    for (topic, compression) in [("plain", "none"), ("zipped", "lz4"), ("zstded", "zstd")] {
        let config = json!({"connector.class": "datagen-source", "template": "orders", "topic": topic, "count": "300", "rate": "100000", "seed": "1",
            "topic.creation.default.compression.type": compression, "topic.creation.default.segment.bytes": "16384"});
        client.put(&format!("/connectors/{topic}/config"), Some(&config)).expect(201);
        wait_until(Duration::from_secs(30), "300 records are in the log", || {
            let status = client.get(&format!("/connectors/{topic}/status")).json();
            (status["tasks"][0]["aqueduct"]["records_out"] == 300).then_some(())
        });
    }
    site.stop();
    let home = kafka_home();
    for topic in ["plain", "zipped", "zstded"] {
        let (_, dir) = segment::partitions(&site.data_dir(), topic).unwrap().remove(0);
        let mut offsets = Vec::new();
        for file in segment::segments(&dir).unwrap() {
            let text = dump(&home, &file);
            assert!(!text.contains("isvalid: false") && !text.to_lowercase().contains("corrupt"), "{text}");
            offsets.extend(
                text.lines().filter_map(|line| line.trim().strip_prefix("| offset: ")?.split(' ').next()?.parse::<u64>().ok()),
            );
        }
        assert_eq!(offsets, (0..300).collect::<Vec<_>>(), "{topic}");
    }
    let (_, dir) = segment::partitions(&site.data_dir(), "plain").unwrap().remove(0);
    let first = &segment::segments(&dir).unwrap()[0];
    let text = dump(&home, first);
    for record in segment::read_segment(&std::fs::read(first).unwrap()).unwrap() {
        let value = String::from_utf8(record.value.unwrap()).unwrap();
        assert!(text.contains(&format!("payload: {value}")), "{value} is not in Kafka's dump");
    }
}
