//! Which files are read, and which bytes of them: patterns, identity, compression, deletion, tasks, bounds.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod source_rig;

use aqueduct_core::{Class, SourceOffset};
use flate2::Compression;
use flate2::write::GzEncoder;
use source_rig::{Rig, Tail, numbered, plugin};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As `gzip` does it: the new file beside the old one, then the old one away.
fn compress(rig: &Rig, name: &str) {
    let bytes = gzip(&fs::read(rig.path(name)).unwrap());
    rig.write(&format!("{name}.gz"), bytes);
    fs::remove_file(rig.path(name)).unwrap();
}

async fn sorted(tail: &mut Tail, count: usize) -> Vec<String> {
    let mut lines = tail.lines(count).await;
    lines.sort();
    lines
}

#[tokio::test]
async fn patterns_exclusions_and_folders_that_come_later() {
    let rig = Rig::new();
    rig.write("a.log", "a\n");
    rig.write("a.tmp.log", "no\n");
    rig.write("b.txt", "no\n");
    let options = [("file", "*.log,later/**/x?.log"), ("paths", "named.txt"), ("exclude", "*.tmp.log")];
    let mut tail = rig.open(&options).await;
    assert_eq!(tail.lines(1).await, ["a"]);
    tail.quiet().await;
    rig.write("named.txt", "named\n");
    rig.write("c.log", "c\n");
    assert_eq!(sorted(&mut tail, 2).await, ["c", "named"]);
    fs::create_dir_all(rig.path("later/deep/er")).unwrap();
    rig.write("later/deep/er/x1.log", "x1\n");
    rig.write("later/x2.log", "x2\n");
    rig.write("later/y.log", "no\n");
    assert_eq!(sorted(&mut tail, 2).await, ["x1", "x2"]);
    // The folder goes and another one comes in its place.
    fs::remove_dir_all(rig.path("later")).unwrap();
    fs::create_dir_all(rig.path("later")).unwrap();
    rig.write("later/x3.log", "x3\n");
    assert_eq!(tail.lines(1).await, ["x3"]);
    tail.quiet().await;
}

#[tokio::test]
async fn a_deleted_file_is_read_to_its_end() {
    let rig = Rig::new();
    let lines = numbered(20_000);
    rig.write("a.log", text(&lines) + "no newline");
    let mut tail = rig.open(&[("file", "*.log"), ("batch.size", "100")]).await;
    let mut got = tail.lines(100).await;
    fs::remove_file(rig.path("a.log")).unwrap();
    got.extend(tail.lines(lines.len() - 100).await);
    assert_eq!(got, lines);
    assert_eq!(tail.lines(1).await, ["no newline"]);
    // The same inode, perhaps, and the same head; but another file.
    rig.write("a.log", text(&lines));
    assert_eq!(tail.lines(lines.len()).await, lines);
    tail.quiet().await;
}

#[tokio::test]
async fn another_file_at_the_same_path_after_a_restart() {
    let rig = Rig::new();
    for options in [[("file", "a.log")], [("file", "*.log")]] {
        rig.write("a.log", "head\none\n");
        let mut tail = rig.open(&options).await;
        assert_eq!(tail.lines(2).await, ["head", "one"]);
        tail.close().await;
        fs::remove_file(rig.path("a.log")).unwrap();
        rig.write("a.log", "head\none\ntwo\n");
        let mut tail = rig.reopen(tail, &options).await;
        assert_eq!(tail.lines(3).await, ["head", "one", "two"]);
        tail.quiet().await;
    }
}

/// After a reboot the same file system may have another number.
#[tokio::test]
async fn a_device_that_is_numbered_anew() {
    for (options, renamed) in [([("file", "a.log")], false), ([("file", "*.log*")], false), ([("file", "*.log*")], true)] {
        let rig = Rig::new();
        rig.write("a.log", "one\ntwo\n");
        let mut tail = rig.open(&options).await;
        assert_eq!(tail.lines(2).await, ["one", "two"]);
        tail.close().await;
        for offset in tail.offsets.values_mut() {
            let map = offset.offset.as_mut().unwrap();
            let other = map["dev"].as_u64().unwrap() + 1000;
            map.insert("dev".to_owned(), other.into());
        }
        let name = if renamed { "a.log.1" } else { "a.log" };
        fs::rename(rig.path("a.log"), rig.path(name)).unwrap();
        rig.append(name, "three\n");
        for more in [&["three"][..], &[]] {
            tail = rig.reopen(tail, &options).await;
            assert_eq!(tail.lines(more.len()).await, more);
            tail.quiet().await;
            assert_eq!(tail.offsets.len(), 1);
        }
        // Another file with the inode's number, and other content, is another file.
        tail.close().await;
        for offset in tail.offsets.values_mut() {
            let map = offset.offset.as_mut().unwrap();
            map.insert("dev".to_owned(), 1.into());
            map.insert("anchor".to_owned(), "0".into());
        }
        tail = rig.reopen(tail, &options).await;
        assert_eq!(tail.lines(3).await, ["one", "two", "three"]);
    }
}

/// With `lost.policy: fail`, the warning is an error.
#[tokio::test]
async fn what_was_compressed_before_any_of_it_was_read_is_not_lost() {
    let rig = Rig::new();
    let options = [("file", "*.log*"), ("lost.policy", "fail"), ("max.open.files", "2"), ("batch.size", "10")];
    let lines = numbered(3000);
    for name in ["a.log", "b.log", "c.log", "d.log"] {
        rig.write(name, format!("{name}\n") + &text(&lines[1..]));
    }
    let mut tail = rig.open(&options).await;
    // One batch is of one file: nothing of the last one was read.
    tail.one_batch().await;
    compress(&rig, "d.log");
    let mut got = 10;
    while got < 4 * lines.len() {
        got += tail.one_batch().await.len();
    }
    for _ in 0..10 {
        tail.quiet().await;
    }
}

#[tokio::test]
async fn equal_files_are_two_files() {
    let rig = Rig::new();
    let lines = numbered(1000);
    rig.write("a.log", text(&lines));
    rig.write("b.log", text(&lines));
    let options = [("file", "*.log")];
    let mut tail = rig.open(&options).await;
    assert_eq!(tail.lines(2000).await.len(), 2000);
    rig.write("c.log", text(&lines));
    assert_eq!(tail.lines(1000).await, lines);
    let mut tail = rig.reopen(tail, &options).await;
    rig.append("b.log", "more\n");
    assert_eq!(tail.lines(1).await, ["more"]);
    tail.quiet().await;
}

#[tokio::test]
async fn compressed_files_are_read() {
    let rig = Rig::new();
    let lines = numbered(50_000);
    let (first, second) = lines.split_at(20_000);
    // Two members, as `cat a.gz b.gz` makes it.
    rig.write("a.log.gz", [gzip(text(first).as_bytes()), gzip(text(second).as_bytes())].concat());
    let options = [("file", "a.log*"), ("batch.size", "777")];
    let mut tail = rig.open(&options).await;
    let mut got = tail.lines(10_000).await;
    tail = rig.reopen(tail, &options).await;
    got.extend(tail.lines(40_000).await);
    assert_eq!(got, lines);
    // One that is written bit by bit, and has another name.
    let whole = zstd::encode_all(text(&lines).as_bytes(), 1).unwrap();
    let mut file = File::create(rig.path("a.log.z")).unwrap();
    let mut got = Vec::new();
    for piece in [&whole[..2], &whole[2..5000], &whole[5000..]] {
        tail.poll().await.unwrap();
        file.write_all(piece).unwrap();
    }
    got.extend(tail.lines(lines.len()).await);
    assert_eq!(got, lines);
    tail.quiet().await;
    let mut tail = rig.reopen(tail, &options).await;
    tail.quiet().await;
}

#[tokio::test]
async fn a_damaged_compressed_file_is_an_error_by_name() {
    let rig = Rig::new();
    let mut bytes = gzip(text(&numbered(50_000)).as_bytes());
    let middle = bytes.len() / 2;
    bytes[middle..middle + 200].fill(0xff);
    rig.write("a.log.gz", bytes);
    let mut tail = rig.open(&[("file", "a.log.gz")]).await;
    let error = tail.fails().await;
    assert_eq!((error.code(), error.class()), ("file.decode", Class::Fatal));
    assert!(error.message().contains("a.log.gz"), "{error}");
}

#[tokio::test]
async fn a_rotated_file_that_was_compressed_is_not_read_twice() {
    let rig = Rig::new();
    let options = [("file", "a.log*"), ("batch.size", "100")];
    let mut tail = rig.open(&options).await;
    let mut wanted = 0;
    for turn in 0..6 {
        let lines: Vec<String> = (0..500).map(|line| format!("turn {turn} line {line}")).collect();
        rig.append("a.log", text(&lines));
        wanted += lines.len();
        // Compressed before it was read to its end; while nobody looked; and after it was read.
        let mut got = match turn % 3 {
            0 => tail.lines(150).await,
            1 => tail
                .lines(50)
                .await
                .into_iter()
                .chain({
                    tail.close().await;
                    Vec::new()
                })
                .collect(),
            _ => tail.lines(500).await,
        };
        fs::rename(rig.path("a.log"), rig.path(&format!("a.log.{turn}"))).unwrap();
        rig.write("a.log", "");
        compress(&rig, &format!("a.log.{turn}"));
        if turn % 3 == 1 {
            tail = rig.reopen(tail, &options).await;
        }
        let rest = 500 - got.len();
        got.extend(tail.lines(rest).await);
        let wrong = (0..500).find(|n| got[*n] != lines[*n]);
        assert_eq!(wrong.map(|n| &got[n..(n + 3).min(500)]), None, "turn {turn}");
    }
    assert_eq!(wanted, 3000);
    tail.quiet().await;
    tail.until("the originals are forgotten for the copies", |tail| {
        tail.offsets.values().filter(|offset| offset.offset.as_ref().unwrap().contains_key("gone")).count() == 0
    })
    .await;
    let mut tail = rig.reopen(tail, &options).await;
    tail.quiet().await;
}

#[tokio::test]
async fn copytruncate_with_the_copy_under_the_pattern() {
    let rig = Rig::new();
    let options = [("file", "a.log*")];
    let mut tail = rig.open(&options).await;
    let mut writer = rig.appender("a.log");
    for turn in 0..4 {
        let lines: Vec<String> = (0..300).map(|line| format!("turn {turn} line {line}")).collect();
        writer.write_all(text(&lines).as_bytes()).unwrap();
        assert_eq!(tail.lines(300).await, lines);
        // Not read before the copy is made: the copy has it.
        let late: Vec<String> = (0..5).map(|line| format!("turn {turn} late {line}")).collect();
        if turn % 2 == 1 {
            tail.close().await;
            writer.write_all(text(&late).as_bytes()).unwrap();
        }
        fs::copy(rig.path("a.log"), rig.path(&format!("a.log.{turn}"))).unwrap();
        writer.set_len(0).unwrap();
        if turn % 2 == 1 {
            tail = rig.reopen(tail, &options).await;
            assert_eq!(tail.lines(5).await, late, "turn {turn}");
        }
        tail.quiet().await;
    }
}

#[tokio::test]
async fn tasks_share_the_files_also_when_their_number_changes() {
    let rig = Rig::new();
    let options = [("file", "*.log")];
    let mut offsets = BTreeMap::new();
    let mut all = Vec::new();
    for (turn, tasks) in [3u32, 2, 5].into_iter().enumerate() {
        for file in 0..30 {
            rig.append(&format!("{file}.log"), format!("{turn} {file} a\n{turn} {file} b\n"));
        }
        let (mut got, mut stored) = (Vec::new(), offsets.clone());
        for index in 0..tasks as usize {
            let mut tail = rig.open_share(&options, offsets.clone(), tasks, index).await.unwrap();
            let mut idle = 0;
            while idle < 3 {
                idle = if tail.poll().await.unwrap() == 0 { idle + 1 } else { 0 };
            }
            assert!(tail.ready.len() < 60, "one task has all");
            got.extend(tail.ready.drain(..).map(|line| String::from_utf8(line.value).unwrap()));
            tail.close().await;
            stored.extend(tail.offsets.into_iter().filter(|(key, offset)| offsets.get(key) != Some(offset)));
        }
        offsets = stored;
        got.sort();
        let mut wanted: Vec<String> = (0..30).flat_map(|file| ["a", "b"].map(|line| format!("{turn} {file} {line}"))).collect();
        wanted.sort();
        assert_eq!(got, wanted, "{tasks} tasks");
        all.extend(got);
    }
    assert_eq!(all.len(), 180);
}

/// The copy has another inode than the original, but belongs to the task that read the original; also when that was not read to its end.
#[tokio::test]
async fn tasks_agree_on_whose_a_compressed_file_is() {
    let rig = Rig::new();
    let options = [("file", "*.log*"), ("batch.size", "40")];
    let mut tails = Vec::new();
    for index in 0..3 {
        tails.push(rig.open_share(&options, BTreeMap::new(), 3, index).await.unwrap());
    }
    let mut wanted = Vec::new();
    for file in 0..12 {
        let lines: Vec<String> = (0..100).map(|line| format!("file {file} line {line}")).collect();
        rig.write(&format!("{file}.log"), text(&lines));
        wanted.extend(lines);
    }
    // One that nobody has read before it was compressed.
    let strange: Vec<String> = (0..50).map(|line| format!("strange {line}")).collect();
    rig.write("strange.log.gz", gzip(text(&strange).as_bytes()));
    wanted.extend(strange);
    for tail in &mut tails {
        tail.until("every task has begun", |tail| tail.ready.len() >= 40).await;
    }
    for file in 0..12 {
        compress(&rig, &format!("{file}.log"));
    }
    let mut idle = 0;
    while idle < 12 {
        let mut polled = 0;
        for tail in &mut tails {
            polled += tail.poll().await.unwrap();
        }
        idle = if polled == 0 { idle + 1 } else { 0 };
    }
    let mut got: Vec<String> = Vec::new();
    for tail in &mut tails {
        got.extend(tail.ready.drain(..).map(|line| String::from_utf8(line.value).unwrap()));
    }
    got.sort();
    wanted.sort();
    assert!(got == wanted, "{} lines, {} wanted", got.len(), wanted.len());
}

/// Polls all in turn until nothing comes; the lines, sorted.
async fn all_lines(tails: &mut [Tail]) -> Vec<String> {
    let mut idle = 0;
    while idle < 4 {
        let mut polled = 0;
        for tail in tails.iter_mut() {
            polled += tail.poll().await.unwrap();
        }
        idle = if polled == 0 { idle + 1 } else { 0 };
    }
    let ready = tails.iter_mut().flat_map(|tail| tail.ready.drain(..));
    let mut lines: Vec<String> = ready.map(|line| String::from_utf8(line.value).unwrap()).collect();
    lines.sort();
    lines
}

/// The copy has another inode than its original, and so has what is moved to another file system; also when the number of tasks changes.
#[tokio::test]
async fn tasks_keep_a_rotation_family_together() {
    let rig = Rig::new();
    let options = [("file", "*.log*,old/*"), ("rotate.wait", "100ms"), ("poll.interval", "50ms")];
    fs::create_dir(rig.path("old")).unwrap();
    let mut offsets = BTreeMap::new();
    for (turn, tasks) in [4u32, 3, 5].into_iter().enumerate() {
        let mut tails = Vec::new();
        for index in 0..tasks as usize {
            tails.push(rig.open_share(&options, offsets.clone(), tasks, index).await.unwrap());
        }
        let mut wanted = Vec::new();
        for file in 0..12 {
            let lines: Vec<String> = (0..40).map(|line| format!("turn {turn} file {file} line {line:02}")).collect();
            rig.append(&format!("{file}.log"), text(&lines));
            wanted.extend(lines);
        }
        wanted.sort();
        let got = all_lines(&mut tails).await;
        assert!(got == wanted, "{tasks} tasks: {} lines, {} wanted", got.len(), wanted.len());
        for file in 0..12 {
            let name = format!("{file}.log");
            match file % 3 {
                0 => {
                    fs::copy(rig.path(&name), rig.path(&format!("{name}.{turn}"))).unwrap();
                    rig.appender(&name).set_len(0).unwrap();
                }
                // Renamed within its family, and to another one.
                1 => fs::rename(rig.path(&name), rig.path(&format!("{name}.{turn}"))).unwrap(),
                _ => fs::rename(rig.path(&name), rig.path(&format!("old/{file}-{turn}"))).unwrap(),
            }
        }
        assert_eq!(all_lines(&mut tails).await, [""; 0], "{tasks} tasks");
        let mut stored = offsets.clone();
        for mut tail in tails {
            tail.close().await;
            stored.extend(tail.offsets.into_iter().filter(|(key, offset)| offsets.get(key) != Some(offset)));
        }
        offsets = stored;
    }
}

#[tokio::test]
async fn two_thousand_files_with_few_open() {
    let rig = Rig::new();
    for file in 0..2000 {
        rig.write(&format!("{file}.log"), format!("{file} 0\n"));
    }
    let options = [("file", "*.log"), ("max.open.files", "16")];
    let mut tail = rig.open(&options).await;
    let open = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        links.filter(|path| path.starts_with(rig.dir.path()) && path.extension().is_some_and(|x| x == "log")).count()
    };
    let mut got = Vec::new();
    for round in 0..3 {
        while got.len() < 2000 {
            got.extend(tail.one_batch().await);
            assert!(open() <= 16, "{} files are open", open());
        }
        got.sort();
        got.dedup();
        assert_eq!(got.drain(..).len(), 2000);
        tail.quiet().await;
        if round == 1 {
            tail = rig.reopen(tail, &options).await;
            tail.quiet().await;
        }
        for file in 0..2000 {
            rig.append(&format!("{file}.log"), format!("{file} {}\n", round + 1));
        }
    }
}

/// A logrotate that never rests, against a writer that never waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_under_writes_every_line_arrives_once_in_order() {
    let rig = Rig::new();
    let stop = AtomicBool::new(false);
    let mut tail = rig.open(&[("file", "a.log*")]).await;
    let (written, got) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut lines, mut rotations) = (0, 0);
            let mut file = rig.appender("a.log");
            while !stop.load(Ordering::Relaxed) || rotations < 30 {
                // Files that are younger than a tick of the file system's clock (4 ms) are of one age.
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_millis(15) {
                    writeln!(file, "{lines}").unwrap();
                    lines += 1;
                }
                fs::rename(rig.path("a.log"), rig.path(&format!("a.log.{rotations}"))).unwrap();
                for _ in 0..20 {
                    writeln!(file, "{lines}").unwrap();
                    lines += 1;
                }
                rotations += 1;
                file = rig.appender("a.log");
            }
            lines
        });
        let got = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut got = tail.lines(5000).await;
                stop.store(true, Ordering::Relaxed);
                while !writer.is_finished() {
                    tail.poll().await.unwrap();
                }
                got.extend(tail.ready.drain(..).map(|line| String::from_utf8(line.value).unwrap()));
                got
            })
        });
        (writer.join().unwrap(), got)
    });
    let mut got = got;
    got.extend(tail.lines(written - got.len()).await);
    let wrong = (0..written).find(|line| got[*line] != line.to_string());
    assert_eq!(wrong.map(|line| (line, got[line].clone())), None);
    tail.quiet().await;
}

#[tokio::test]
async fn read_from_the_end_of_what_is_there_at_the_first_start() {
    let rig = Rig::new();
    rig.write("a.log", "old\nhalf a li");
    let options = [("file", "*.log"), ("read.from", "end")];
    let mut tail = rig.open(&options).await;
    tail.quiet().await;
    rig.append("a.log", "ne\nnew\n");
    rig.write("b.log", "all of it\n");
    assert_eq!(sorted(&mut tail, 2).await, ["all of it", "new"]);
    tail.close().await;
    rig.write("c.log", "written while it was down\n");
    rig.append("a.log", "newer\n");
    let mut tail = rig.reopen(tail, &options).await;
    assert_eq!(sorted(&mut tail, 2).await, ["newer", "written while it was down"]);
    tail.quiet().await;
}

#[tokio::test]
async fn offsets_of_kafka_connect_are_taken_over_and_look_the_same() {
    let rig = Rig::new();
    rig.write("a.log", "one\ntwo\n");
    let partition = serde_json::json!({"filename": rig.path("a.log")}).as_object().unwrap().clone();
    let offset = serde_json::json!({"position": 4}).as_object().cloned();
    let stored = SourceOffset { partition, offset };
    let offsets = BTreeMap::from([(stored.partition_key(), stored)]);
    let mut tail = rig.open_at(&[("file", "a.log")], offsets).await.unwrap();
    assert_eq!(tail.lines(1).await, ["two"]);
    assert_eq!((tail.offsets.len(), tail.position("a.log")), (1, 8));
}

#[tokio::test]
async fn an_operator_sets_the_position() {
    let rig = Rig::new();
    rig.write("a.log", "one\ntwo\nthree\n");
    for options in [[("file", "a.log")], [("file", "*.log")]] {
        let mut tail = rig.open(&options).await;
        assert_eq!(tail.lines(3).await, ["one", "two", "three"]);
        tail.close().await;
        for offset in tail.offsets.values_mut() {
            offset.offset = serde_json::json!({"position": 4}).as_object().cloned();
        }
        let mut tail = rig.reopen(tail, &options).await;
        assert_eq!(tail.lines(2).await, ["two", "three"]);
        tail.quiet().await;
        assert_eq!((tail.offsets.len(), tail.position("a.log")), (1, 14));
    }
}

#[tokio::test]
async fn what_is_not_a_file_is_named() {
    let rig = Rig::new();
    fs::create_dir(rig.path("dir.log")).unwrap();
    let error = rig.open(&[("file", "dir.log")]).await.fails().await;
    assert_eq!((error.code(), error.class()), ("file.not_a_file", Class::Fatal));
    assert!(error.message().contains("dir.log"), "{error}");
    // Nor is it a pipe, which would be waited for.
    let pipe = std::os::unix::net::UnixListener::bind(rig.path("socket")).unwrap();
    let error = rig.open(&[("file", "socket")]).await.fails().await;
    assert!(error.message().ends_with("is not a file but a pipe, a socket or a device"), "{error}");
    drop(pipe);
    // A pattern does not mean folders.
    rig.write("a.log", "fine\n");
    assert_eq!(rig.open(&[("file", "*.log")]).await.lines(1).await, ["fine"]);
    // A link to itself stands for all that cannot be opened, since root may read everything. It heals.
    symlink(rig.path("loop"), rig.path("loop")).unwrap();
    let mut tail = rig.open(&[("file", "loop")]).await;
    let error = tail.fails().await;
    assert_eq!((error.code(), error.class()), ("file.open", Class::Retriable));
    fs::remove_file(rig.path("loop")).unwrap();
    rig.write("loop", "healed\n");
    assert_eq!(rig.reopen(tail, &[("file", "loop")]).await.lines(1).await, ["healed"]);
}

#[test]
fn a_config_is_judged_as_a_whole() {
    let rig = Rig::new();
    let codes = |pairs: &[(&str, &str)]| -> Vec<String> {
        plugin().validate(&rig.options(pairs)).iter().map(|issue| format!("{} {}", issue.path, issue.code)).collect()
    };
    assert_eq!(codes(&[]), ["file config.missing"]);
    let nothing: Vec<String> = plugin().validate(&Default::default()).into_iter().map(|issue| issue.path).collect();
    assert_eq!(nothing, ["file", "topic"]);
    assert_eq!(
        codes(&[
            ("file", "a"),
            ("topic", "no spaces"),
            ("delimiter", "\\q"),
            ("max.line.policy", "dead-letter"),
            ("multiline.start.pattern", "a"),
            ("multiline.continuation.pattern", "b"),
        ]),
        [
            "topic config.topic",
            "max.line.topic config.missing",
            "delimiter file.delimiter",
            "multiline.continuation.pattern file.multiline"
        ]
    );
}

#[tokio::test]
async fn what_is_cut_off_before_it_was_read_is_counted() {
    let rig = Rig::new();
    rig.write("cut.log", "a 0\nunfinished");
    rig.write("copied.log", "b 0\nrest");
    let mut tail = rig.open(&[("file", "*.log*"), ("poll.interval", "1 s")]).await;
    assert_eq!(sorted(&mut tail, 2).await, ["a 0", "b 0"]);
    tail.quiet().await;
    assert_eq!(tail.task.take_lost_bytes(), 0);
    rig.write("cut.log", "a 1\n");
    // As copytruncate does it; the name of the copy is of the pattern, so the rest is read there.
    fs::copy(rig.path("copied.log"), rig.path("copied.log.1")).unwrap();
    rig.write("copied.log", "");
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut lost = 0;
    while lost == 0 {
        assert!(Instant::now() < deadline, "nothing was counted");
        tail.poll().await.unwrap();
        lost = tail.task.take_lost_bytes();
    }
    assert_eq!(lost, "unfinished".len() as u64);
}
