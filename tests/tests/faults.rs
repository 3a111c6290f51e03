//! Full disks, failing writes, no descriptors, no permission, poison in the files: nothing is lost, REST answers, the rest goes on.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::chaos::{TOPIC, sink_yaml, source_yaml, wait_for_markers};
use aqueduct_tests::ledger::LedgerPlan;
use aqueduct_tests::site::{START_DEADLINE, memory_kib};
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Ledger, LedgerProcess, Mode, Run, Site, check, outputs, segment, wait_until};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

fn site_with(settings: &str, mode: Mode) -> Site {
    let site = Site::with(settings);
    fs::create_dir_all(site.path("in")).unwrap();
    site.connector("source", &source_yaml(&site, "app-*.log*"));
    site.connector("sink", &sink_yaml(&site, mode));
    site
}

fn write_lines(site: &Site, rate: u64) -> LedgerProcess {
    let files = (0..2).map(|n| site.path("in").join(format!("app-{n}.log"))).collect();
    let plan = LedgerPlan {
        ledger: site.path("ledger.txt"),
        files,
        rate,
        rotate_ms: 900,
        keep: 100,
        topic: Some(TOPIC.to_owned()),
        seed: 1,
    };
    LedgerProcess::start(env!("CARGO_BIN_EXE_ledger"), &plan)
}

fn out_files(site: &Site, mode: Mode) -> Vec<PathBuf> {
    match mode {
        Mode::Append => vec![site.path("out.log")],
        Mode::Rolling => outputs::rolled_files(&site.path("out")).unwrap_or_default().into_iter().map(|file| file.path).collect(),
    }
}

#[track_caller]
fn all_arrived(site: &mut Site, written: &Ledger, mode: Mode) {
    wait_for_markers(written, Duration::from_secs(40), || out_files(site, mode));
    site.stop();
    let streams = match mode {
        Mode::Append => outputs::append_file(&site.path("out.log"), Some(TOPIC)).unwrap(),
        Mode::Rolling => outputs::rolled(&site.path("out")).unwrap(),
    };
    let report = check(written, &streams);
    assert!(report.is_clean(), "sink: {report}");
    let report = check(written, &segment::streams(&site.data_dir(), TOPIC).unwrap());
    assert!(report.is_clean(), "log: {report}");
}

/// A small disk; unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "disk-full tests need root and mount: {}", String::from_utf8_lossy(&output.stderr));
        Self(path)
    }

    /// Leaves this much room, or less: who writes meanwhile takes of it, and the last of the ballast may find none.
    fn fill_but(&self, room: u64) -> PathBuf {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        let ballast = self.0.join("ballast");
        let size = usize::try_from(stat.f_bavail * stat.f_frsize - room).unwrap();
        match fs::write(&ballast, vec![1u8; size]) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {}
            written => written.unwrap(),
        }
        ballast
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_under_the_log_stops_the_writers_and_loses_nothing() {
    let mut site = site_with("", Mode::Append);
    let disk = Tmpfs::mount(site.data_dir(), "64m");
    site.start();
    let mut ledger = write_lines(&site, 5_000);
    wait_until(SOON, "lines move", || (fs::metadata(site.path("out.log")).ok()?.len() > 10_000).then_some(()));
    let ballast = disk.fill_but(256 << 10);
    let status = |site: &Site| {
        let client = site.client();
        client.get("/health");
        client.get("/connectors/source/status").expect(200).text.clone()
    };
    wait_until(SOON, "REST answers and says that the disk is full", || status(&site).contains("disk_full").then_some(()));
    let paused = ledger.pause();
    ledger.tell("resume");
    wait_until(SOON, "the writers of the files go on", || {
        (Ledger::load(&ledger.ledger).unwrap().written() > paused.written() + 2_000).then_some(())
    });
    site.client().get("/connectors").expect(200);
    fs::remove_file(ballast).unwrap();
    let written = ledger.finish();
    all_arrived(&mut site, &written, Mode::Append);
}

#[test]
fn a_full_disk_under_the_sink_loses_nothing() {
    for mode in [Mode::Append, Mode::Rolling] {
        let site = Site::new();
        let disk = Tmpfs::mount(site.path("small"), "16m");
        fs::create_dir_all(site.path("in")).unwrap();
        let mut site = site;
        let yaml = sink_yaml(&site, mode)
            .replace(&format!("{}/out", site.root.display()), &format!("{}/small/out", site.root.display()));
        site.connector("source", &source_yaml(&site, "app-*.log*"));
        site.connector("sink", &yaml);
        site.start();
        let ledger = write_lines(&site, 5_000);
        let files = |site: &Site| match mode {
            Mode::Append => vec![site.path("small/out.log")],
            Mode::Rolling => {
                outputs::rolled_files(&site.path("small/out")).unwrap_or_default().into_iter().map(|file| file.path).collect()
            }
        };
        wait_until(SOON, "lines move", || {
            files(&site).iter().any(|file| fs::metadata(file).is_ok_and(|meta| meta.len() > 5_000)).then_some(())
        });
        let ballast = disk.fill_but(128 << 10);
        wait_until(SOON, "REST says why the sink stands still", || {
            let status = site.client().get("/connectors/sink/status").text.to_lowercase();
            (status.contains("no space") || status.contains("disk_full")).then_some(())
        });
        fs::remove_file(ballast).unwrap();
        let written = ledger.finish();
        wait_for_markers(&written, Duration::from_secs(40), || files(&site));
        site.stop();
        let streams = match mode {
            Mode::Append => outputs::append_file(&site.path("small/out.log"), Some(TOPIC)).unwrap(),
            Mode::Rolling => outputs::rolled(&site.path("small/out")).unwrap(),
        };
        let report = check(&written, &streams);
        assert!(report.is_clean(), "{mode:?}: {report}");
    }
}

/// An error at each write and each fsync: the worker goes on by itself, and every line is there once.
fn survives_errors(points: &[&str], mode: Mode) {
    for point in points {
        for errno in ["eio", "enospc"] {
            let mut site = site_with("", mode);
            let plan = format!("{point}={errno}@4x3");
            site.start_with(&Run::failpoints(&plan));
            let mut ledger = write_lines(&site, 5_000);
            wait_until(SOON, &format!("{plan} acts"), || site.failpoint_after(0).filter(|name| name == point));
            let paused = ledger.pause();
            ledger.tell("resume");
            wait_until(SOON, "lines are written after the fault", || {
                (Ledger::load(&ledger.ledger).unwrap().written() > paused.written() + 500).then_some(())
            });
            let written = ledger.finish();
            println!("{plan}");
            all_arrived(&mut site, &written, mode);
        }
    }
}

#[test]
fn errors_of_the_logs_data_lose_nothing() {
    survives_errors(&["log.data.write", "log.data.sync"], Mode::Append);
}

#[test]
fn errors_of_the_logs_journal_lose_nothing() {
    survives_errors(&["log.journal.write", "log.journal.sync"], Mode::Append);
}

#[test]
fn errors_of_the_append_sink_lose_nothing() {
    survives_errors(&["file_sink.write", "file_sink.sync"], Mode::Append);
}

#[test]
fn errors_of_the_rolling_sink_lose_nothing() {
    survives_errors(&["file_sink.write", "file_sink.sync"], Mode::Rolling);
}

#[test]
fn with_64_descriptors_the_worker_stays_up_and_loses_nothing() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    site.connector("source", &source_yaml(&site, "app-*.log*"));
    site.connector("sink", &sink_yaml(&site, Mode::Append));
    let files: Vec<PathBuf> = (0..150).map(|n| site.path("in").join(format!("app-{n}.log"))).collect();
    let plan = LedgerPlan {
        ledger: site.path("ledger.txt"),
        files,
        rate: 20_000,
        rotate_ms: 0,
        keep: 1,
        topic: Some(TOPIC.to_owned()),
        seed: 1,
    };
    let ledger = LedgerProcess::start(env!("CARGO_BIN_EXE_ledger"), &plan);
    site.start_with(&Run { under: vec!["prlimit".to_owned(), "--nofile=64:64".to_owned()], ..Run::default() });
    wait_until(SOON, "lines arrive all the same", || (fs::metadata(site.path("out.log")).ok()?.len() > 1_000).then_some(()));
    for _ in 0..20 {
        site.client().get("/connectors/source/status").expect(200);
        pause(Duration::from_millis(50));
    }
    assert!(site.exited().is_none(), "the worker died\n{}", site.log_tail(30));
    site.stop();
    site.start();
    let written = ledger.finish();
    all_arrived(&mut site, &written, Mode::Append);
}

fn pipe(site: &mut Site, more: &str) {
    fs::create_dir_all(site.path("in")).unwrap();
    site.connector("source", &(source_yaml(site, "*.log") + more));
    site.connector("sink", &sink_yaml(site, Mode::Append));
    site.start();
}

#[test]
fn any_bytes_pass_unchanged() {
    let mut site = Site::new();
    let mut bytes = Vec::new();
    for line in [
        &b"invalid \xff\xfe\xc3\x28 utf-8"[..],
        b"nul \0\0 bytes",
        b"",
        b"\xed\xa0\x80 lone surrogate",
        b"tab\tand \x1b[31mcolour",
        "söme ütf-8".as_bytes(),
    ] {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    for byte in 0..=255u8 {
        if byte != b'\n' && byte != b'\r' {
            bytes.extend_from_slice(&[byte, b'x', b'\n']);
        }
    }
    fs::create_dir_all(site.path("in")).unwrap();
    fs::write(site.path("in/a.log"), &bytes).unwrap();
    pipe(&mut site, "");
    wait_until(SOON, "all bytes arrive", || (fs::metadata(site.path("out.log")).ok()?.len() >= bytes.len() as u64).then_some(()));
    site.stop();
    assert!(fs::read(site.path("out.log")).unwrap() == bytes, "the bytes differ");
}

#[test]
fn a_line_of_100_mb_is_dealt_with_by_policy_in_little_memory() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    let mut file = File::create(site.path("in/a.log")).unwrap();
    file.write_all(b"before\n").unwrap();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        file.write_all(&block).unwrap();
    }
    file.write_all(b"\nafter\n").unwrap();
    pipe(&mut site, "max.line.bytes: 1000\nmax.line.policy: cut\n");
    let out = site.path("out.log");
    let lines = || fs::read_to_string(&out).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    wait_until(SOON, "the line after it arrives", || (lines().last()? == "after").then_some(()));
    let lines = lines();
    assert_eq!((lines.len(), lines[0].as_str(), lines[1].len()), (3, "before", 1000));
    let peak = memory_kib(site.pid().unwrap(), "VmHWM").unwrap();
    assert!(peak < 250 << 10, "{peak} KiB at the peak");
    site.stop();
}

#[test]
fn a_line_that_is_too_long_fails_the_task_by_name() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    fs::write(site.path("in/a.log"), format!("before\n{}\nafter\n", "x".repeat(5_000))).unwrap();
    pipe(&mut site, "max.line.bytes: 1000\nmax.line.policy: fail\n");
    let trace = wait_until(SOON, "the task fails", || {
        let status = site.client().get("/connectors/source/status").json();
        (status["tasks"][0]["state"] == "FAILED").then(|| status["tasks"][0]["trace"].as_str().unwrap_or_default().to_owned())
    });
    assert!(trace.contains("a.log") && trace.contains("max.line.bytes"), "{trace}");
    site.stop();
}

#[test]
fn a_directory_as_a_file_is_an_error_by_name_and_others_go_on() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in/dir.log")).unwrap();
    let yaml = source_yaml(&site, "dir.log").replace("name: source", "name: folder");
    site.connector("folder", &yaml);
    fs::write(site.path("in/a.log"), "fine\n").unwrap();
    pipe(&mut site, "");
    wait_until(SOON, "the file beside it arrives", || (fs::read_to_string(site.path("out.log")).ok()? == "fine\n").then_some(()));
    wait_until(SOON, "the folder is named", || {
        let status = site.client().get("/connectors/folder/status").text;
        (status.contains("dir.log") || site.log().contains("dir.log")).then_some(())
    });
    site.client().get("/health").expect(200);
    site.stop();
}

/// Root reads everything, so the worker runs as nobody.
#[test]
fn no_permission_is_an_error_by_name_and_heals() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    let closed = site.path("in/a.log");
    fs::write(&closed, "secret\n").unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o600)).unwrap();
    site.connector("source", &source_yaml(&site, "*.log"));
    site.connector("sink", &sink_yaml(&site, Mode::Append));
    fs::set_permissions(&site.root, Permissions::from_mode(0o755)).unwrap();
    for path in [site.root.clone(), site.connectors_dir()] {
        chown(&path, Some(65534), Some(65534)).expect("this test needs root: it runs the worker as nobody");
    }
    let binary = site.path("aqueduct");
    fs::copy(aqueduct_tests::site::aqueduct(), &binary).unwrap();
    let under = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned).to_vec();
    File::create(site.stderr_file()).unwrap();
    site.spawn_binary(&Run { under, ..Run::default() }, Path::new(&binary));
    site.wait_healthy(START_DEADLINE).unwrap();
    wait_until(SOON, "the file is named", || {
        let status = site.client().get("/connectors/source/status").text.to_lowercase();
        (status.contains("a.log") && status.contains("permission") || site.log().to_lowercase().contains("permission denied"))
            .then_some(())
    });
    fs::set_permissions(&closed, Permissions::from_mode(0o644)).unwrap();
    wait_until(SOON, "it is read once it may be", || {
        (fs::read_to_string(site.path("out.log")).ok()? == "secret\n").then_some(())
    });
    site.stop();
}

#[test]
fn a_second_worker_on_the_same_data_is_refused() {
    let mut site = Site::new();
    site.start();
    let mut second = Site::with(&format!("data.dir: {}\n", site.data_dir().display()));
    second.spawn(&Run::default());
    let status = second.wait_exit(SOON);
    assert!(!status.success());
    assert!(second.log().contains(&site.data_dir().display().to_string()), "{}", second.log());
    site.client().get("/health").expect(200);
    site.stop();
}
