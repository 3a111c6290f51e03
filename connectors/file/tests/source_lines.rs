//! What a line is: delimiters, charsets, lengths, records of several lines.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod source_rig;

use source_rig::Rig;
use std::io::Write;

#[tokio::test]
async fn any_bytes_pass_unchanged() {
    let rig = Rig::new();
    let lines: [&[u8]; 5] = [b"\xff\xfe\xc3\x28", b"nul \0\0", b"", b"\xed\xa0\x80", b"\x1b[31m\t"];
    rig.write("a.log", lines.join(&b'\n'));
    rig.append("a.log", "\n");
    let mut tail = rig.open(&[("file", "a.log")]).await;
    let got: Vec<Vec<u8>> = tail.records(5).await.into_iter().map(|line| line.value).collect();
    assert_eq!(got, lines);
}

#[tokio::test]
async fn delimiters() {
    for (delimiter, text) in
        [("\\0", "one\0two\nhalf\0"), ("||", "one||two\nhalf||"), ("\\x1e\\x1f", "one\x1e\x1ftwo\nhalf\x1e\x1f")]
    {
        let rig = Rig::new();
        rig.write("a.log", text);
        let mut tail = rig.open(&[("file", "a.log"), ("delimiter", delimiter)]).await;
        assert_eq!(tail.lines(2).await, ["one", "two\nhalf"]);
        assert_eq!(tail.position("a.log"), text.len() as u64);
    }
}

#[tokio::test]
async fn charsets_become_utf_8() {
    let rig = Rig::new();
    rig.write("latin.log", b"gr\xfc\xdfe\nzwei\r\n");
    let mut tail = rig.open(&[("file", "latin.log"), ("charset", "latin1")]).await;
    assert_eq!(tail.lines(2).await, ["grüße", "zwei"]);
    // U+0A0D and U+0D0A have the delimiter's bytes at odd places.
    let wide: Vec<u8> = "\u{feff}eins\r\nz\u{a0d}\u{d0a}wei\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    rig.write("wide.log", wide);
    let mut tail = rig.open(&[("file", "wide.log"), ("charset", "utf-16le"), ("record.key", "file")]).await;
    let records = tail.records(2).await;
    assert_eq!(records[1].value, "z\u{a0d}\u{d0a}wei".as_bytes());
    assert_eq!(records[0].value, b"eins");
    assert_eq!(records[0].key.as_deref(), rig.path("wide.log").to_str());
}

#[tokio::test]
async fn keys_and_headers() {
    let rig = Rig::new();
    rig.write("a.log", "one\ntwo\n");
    let mut tail = rig.open(&[("file", "a.log"), ("record.key", "file"), ("record.headers", "true"), ("batch.size", "1")]).await;
    let records = tail.records(2).await;
    let path = rig.path("a.log").to_string_lossy().into_owned();
    assert_eq!((records[1].key.as_deref(), records[1].value.as_slice()), (Some(path.as_str()), &b"two"[..]));
    let wanted = [("aqueduct.file", path.as_str()), ("aqueduct.offset", "4"), ("aqueduct.line", "1")];
    assert_eq!(records[1].headers, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn lines_that_are_too_long() {
    let rig = Rig::new();
    rig.write("a.log", format!("before\n{}\nafter\n", "x".repeat(5000)));
    let base = [("file", "a.log"), ("max.line.bytes", "1000")];
    let with = |policy: &'static str| [&base[..], &[("max.line.policy", policy), ("max.line.topic", "dead")]].concat();

    let mut tail = rig.open(&with("cut")).await;
    let lines = tail.lines(3).await;
    assert_eq!((lines[0].as_str(), lines[1].len(), lines[2].as_str()), ("before", 1000, "after"));
    let mut tail = rig.open(&with("drop")).await;
    assert_eq!(tail.lines(2).await, ["before", "after"]);

    let mut tail = rig.open(&with("dead-letter")).await;
    let mut records = tail.records(3).await;
    records.sort_by_key(|line| line.topic.clone());
    assert_eq!((records[0].topic.as_str(), records[0].value.len()), ("dead", 1000));
    let header = |name: &str| records[0].headers.iter().find(|(known, _)| known == name).unwrap().1.clone();
    assert_eq!((header("aqueduct.offset"), header("aqueduct.line")), ("7".to_owned(), "1".to_owned()));
    assert_eq!((records[1].value.as_slice(), records[2].value.as_slice()), (&b"before"[..], &b"after"[..]));

    let mut tail = rig.open(&with("fail")).await;
    assert_eq!(tail.lines(1).await, ["before"]);
    let error = tail.fails().await;
    assert_eq!(error.code(), "file.line_too_long");
    assert!(error.message().contains("a.log") && error.message().contains("byte 7"), "{error}");
    assert_eq!(tail.position("a.log"), 7);
    // A larger maximum, and it goes on where it stopped.
    let mut tail = rig.reopen(tail, &[("file", "a.log")]).await;
    assert_eq!(tail.lines(2).await.last().unwrap(), "after");
}

#[tokio::test]
async fn a_line_of_100_mb() {
    let rig = Rig::new();
    let mut file = rig.appender("a.log");
    file.write_all(b"before\n").unwrap();
    let block = vec![b'x'; 1 << 20];
    (0..100).for_each(|_| file.write_all(&block).unwrap());
    file.write_all(b"\nafter\n").unwrap();
    let mut tail = rig.open(&[("file", "a.log"), ("max.line.policy", "cut")]).await;
    let records = tail.records(3).await;
    assert_eq!((records[1].value.len(), records[2].value.as_slice()), (1 << 20, &b"after"[..]));
    // The longest that may be.
    let mut file = rig.appender("b.log");
    (0..40).for_each(|_| file.write_all(&block).unwrap());
    file.write_all(b"\nafter\n").unwrap();
    let mut tail = rig.open(&[("file", "b.log"), ("max.line.bytes", "40 MiB")]).await;
    let records = tail.records(2).await;
    assert_eq!((records[0].value.len(), records[1].value.as_slice()), (40 << 20, &b"after"[..]));
}

#[tokio::test]
async fn records_of_several_lines() {
    let rig = Rig::new();
    rig.write("a.log", "2026 one\n  at a\n  at b\n2026 two\n2026 three\n");
    let start = [("file", "a.log"), ("multiline.start.pattern", "^2026"), ("multiline.timeout", "1h"), ("batch.size", "1")];
    let mut tail = rig.open(&start).await;
    assert_eq!(tail.lines(2).await, ["2026 one\n  at a\n  at b", "2026 two"]);
    tail.quiet().await;
    rig.append("a.log", "  at c\n2026 four\n");
    let mut tail = rig.reopen(tail, &start).await;
    assert_eq!(tail.lines(1).await, ["2026 three\n  at c"]);
    tail.quiet().await;
    // With a timeout the last one comes too.
    let soon = [("file", "a.log"), ("multiline.continuation.pattern", "^\\s"), ("multiline.timeout", "50ms")];
    let mut tail = rig.reopen(tail, &soon).await;
    assert_eq!(tail.lines(1).await, ["2026 four"]);
    rig.append("a.log", "2026 five\n  half");
    assert_eq!(tail.lines(1).await, ["2026 five"]);
    rig.append("a.log", " whole\n");
    assert_eq!(tail.lines(1).await, ["  half whole"]);
    let few =
        [("file", "b.log"), ("multiline.start.pattern", "^2026"), ("multiline.max.lines", "2"), ("multiline.timeout", "50ms")];
    rig.write("b.log", "2026 one\nb\nc\nd\ne\n");
    assert_eq!(rig.open(&few).await.lines(3).await, ["2026 one\nb", "c\nd", "e"]);
}

#[tokio::test]
async fn a_last_line_without_its_delimiter() {
    let rig = Rig::new();
    rig.write("a.log", "one\nhalf");
    let options = [("file", "a.log"), ("partial.line.timeout", "50ms")];
    let mut tail = rig.open(&options).await;
    assert_eq!(tail.lines(2).await, ["one", "half"]);
    rig.append("a.log", "\nnext\n");
    assert_eq!(tail.lines(2).await, ["", "next"]);
}
