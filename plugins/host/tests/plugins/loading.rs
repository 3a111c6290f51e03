//! Files that are no plugins, change, or want what there is not.

use super::{DEADLINE, context, guest, options, small};
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{Plugin, TaskSpec};
use aqueduct_plugin_host::{Folders, load, load_bytes};
use std::collections::BTreeMap;

#[test]
fn what_cannot_be_loaded_is_said_and_the_others_work() {
    let folder = tempfile::TempDir::new().unwrap();
    let good = guest("counter-source");
    std::fs::write(folder.path().join("a.wasm"), &good).unwrap();
    std::fs::write(folder.path().join("b.wasm"), &good[..good.len() / 2]).unwrap();
    std::fs::write(folder.path().join("c.wasm"), b"\0asm\x01\0\0\0").unwrap();
    std::fs::write(folder.path().join("d.wasm"), b"").unwrap();
    std::fs::write(folder.path().join("e.txt"), b"").unwrap();
    let found = load(&[folder.path().to_owned(), folder.path().join("none")], &BTreeMap::new());
    assert_eq!(found.plugins.len(), 1);
    let codes: Vec<&str> = found.issues.iter().map(|issue| issue.code.as_str()).collect();
    assert_eq!(codes[..1], ["plugin.malformed"]);
    assert_eq!((codes.len(), codes[3]), (4, "plugin.path"));
    let pinned = PluginGrant { sha256: [1, 0].map(|n| n.to_string().repeat(64)).into_iter().collect(), ..PluginGrant::default() };
    let error = load_bytes(good, &[("counter-source".to_owned(), pinned)].into()).err().unwrap();
    assert_eq!(error.code(), "plugin.sha256");
}

#[test]
fn a_file_is_read_once_two_looks_saw_the_same() {
    let folder = tempfile::TempDir::new().unwrap();
    let (file, good) = (folder.path().join("a.wasm"), guest("counter-source"));
    let mut folders = Folders::new(vec![folder.path().to_owned()], BTreeMap::new());
    assert!(folders.look() && folders.loaded().plugins.is_empty());
    std::fs::write(&file, &good[..5_000]).unwrap();
    assert!(!folders.look());
    std::fs::write(&file, &good).unwrap();
    assert!(!folders.look(), "it is still being copied");
    assert!(folders.look() && folders.loaded().issues.is_empty());
    assert_eq!(folders.loaded().plugins.len(), 1);
    assert!(!folders.look());
    // Copied again, it is no other plugin: nothing that runs need start again.
    let plugin = |folders: &Folders| match &folders.loaded().plugins[0] {
        Plugin::Source(source) => source.clone(),
        Plugin::Sink(_) => panic!("a source"),
    };
    let before = plugin(&folders);
    let written = std::fs::File::options().append(true).open(&file).unwrap();
    written.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    assert!(!folders.look() && !folders.look() && std::sync::Arc::ptr_eq(&before, &plugin(&folders)));
    std::fs::write(&file, &good[..5_000]).unwrap();
    assert!(!folders.look() && folders.look());
    let found = folders.loaded();
    assert_eq!((found.plugins.len(), &*found.issues[0].code), (0, "plugin.malformed"));
    std::fs::remove_file(&file).unwrap();
    assert!(folders.look() && folders.loaded().issues.is_empty());
}

/// With another text of the same length in each of its places.
fn patched(package: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = guest(package);
    let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty() && from.len() == to.len());
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    bytes
}

#[test]
fn a_wrong_world_is_told_what_it_lacks() {
    let refused = |bytes: Vec<u8>| load_bytes(bytes, &BTreeMap::new()).err().unwrap();
    let error = refused(patched("counter-source", b"\"kind\": \"source\"", b"\"kind\":   \"sink\""));
    assert_eq!(error.code(), "plugin.interface");
    assert!(error.message().contains("does not export aqueduct:connector/sink@0.1.0"), "{error}");
    let error = refused(patched("paged-api-source", b"aqueduct:connector/http@0.1.0", b"aqueduct:connector/gftp@0.1.0"));
    assert_eq!(error.code(), "plugin.interface");
    assert!(error.message().contains("it imports aqueduct:connector/gftp@0.1.0"), "{error}");
    let error = refused(patched("counter-source", b"aqueduct:plugin", b"aqueduct:plogin"));
    assert_eq!(error.code(), "plugin.metadata");
}

#[test]
fn bytes_that_were_changed_never_end_the_process() {
    let good = guest("mask-transform");
    let mut dice = 7u64;
    let mut roll = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % below
    };
    let seeds = std::env::var("FUZZ_SEEDS").map_or(60, |text| text.parse().unwrap());
    for _ in 0..seeds {
        let mut bytes = good.clone();
        for _ in 0..3 {
            let at = roll(bytes.len());
            bytes[at] = roll(256) as u8;
        }
        if roll(3) == 0 {
            bytes.truncate(roll(good.len()));
        }
        if let Err(error) = load_bytes(bytes, &BTreeMap::new()) {
            assert!(error.code().starts_with("plugin."), "{error}");
        }
    }
    // Cut at the front of a section, between two, in its name.
    for part in 0..64 {
        let error = load_bytes(good[..good.len() * part / 64].to_vec(), &BTreeMap::new()).err().unwrap();
        assert!(["plugin.malformed", "plugin.metadata"].contains(&error.code()), "{part} of 64: {error}");
    }
}

/// What still loads is run as far as it comes.
#[tokio::test(flavor = "multi_thread")]
async fn code_that_was_changed_is_kept_in_its_bounds() {
    let good = guest("counter-source");
    let grants = BTreeMap::from([("counter-source".to_owned(), small())]);
    let (mut ran, config) = (0, options(&[("topic", "t"), ("count", "1")]));
    for seed in 0u64.. {
        let mut bytes = good.clone();
        for change in 1..=2 {
            let dice = (seed * 31 + change).wrapping_mul(6_364_136_223_846_793_005) >> 17;
            // In the second quarter, which is code: elsewhere few still load.
            let at = good.len() / 4 + dice as usize % (good.len() / 4);
            bytes[at] ^= 1 << (dice % 7);
        }
        let Ok(loaded) = load_bytes(bytes, &grants) else { continue };
        let Plugin::Source(source) = &loaded.plugins[0] else { panic!("a source") };
        let opened = tokio::time::timeout(DEADLINE, source.open(&config, TaskSpec::new(), Vec::new())).await.unwrap();
        if let Ok(mut task) = opened {
            let polled = tokio::time::timeout(DEADLINE, task.poll(&context(std::time::Duration::ZERO))).await.unwrap();
            assert!(polled.err().is_none_or(|error| error.code().starts_with("plugin.")));
        }
        ran += 1;
        if ran == 3 {
            return;
        }
    }
}
