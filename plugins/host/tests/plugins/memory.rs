//! What many instances, and instances that fail, leave behind.

use super::{DEADLINE, context, failing, guest, mode, small, zoo_source};
use aqueduct_core::{Plugin, TaskSpec};
use aqueduct_plugin_host::load_bytes;
use std::time::Duration;

/// Of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Each takes its 16 MiB and fails: what one left behind would be 16 MiB for each.
#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_when_an_instance_is_gone() {
    let source = zoo_source(small());
    let exhaust = async |rounds: usize| {
        for _ in 0..rounds {
            let mut task = source.open(&mode("memory-poll"), TaskSpec::new(), Vec::new()).await.unwrap();
            assert_eq!(failing(task.poll(&context(Duration::ZERO))).await.code(), "plugin.memory");
        }
    };
    // What is compiled and what the allocator keeps is there from then on.
    exhaust(5).await;
    let before = resident();
    exhaust(50).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 200, "{grown} MiB more than before, where leaks would be 800 (other tests run beside this one)");
}

/// A number in a component.
fn leb(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        out.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return out;
        }
    }
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(body.len()), body].concat()
}

/// `count` instances of a module that has nothing in it; `module` is its index in the component.
fn instances_of_nothing(module: usize, count: usize) -> Vec<u8> {
    let empty = section(1, b"\0asm\x01\0\0\0");
    let instance = [&[0x00][..], &leb(module), &[0x00]].concat();
    [empty, section(2, &[leb(count), instance.repeat(count)].concat())].concat()
}

/// Refused when it is read; where the format allows as many, when it is started.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_instances_of_nothing_are_refused() {
    let million = [b"\0asm\x0d\0\x01\0".to_vec(), instances_of_nothing(0, 1_000_000)].concat();
    let error = load_bytes(million, &Default::default()).err().unwrap();
    assert_eq!(error.code(), "plugin.malformed", "{error}");
    let mut encoder = wit_component::ComponentEncoder::default().module(&guest("counter-source")).unwrap();
    let mut component = encoder.encode().unwrap();
    let modules = modules_of(&component);
    component.extend(instances_of_nothing(modules, 900));
    let loaded = load_bytes(component, &[("counter-source".to_owned(), small())].into()).unwrap();
    let Plugin::Source(source) = &loaded.plugins[0] else { panic!("a source") };
    let options = super::options(&[("topic", "t")]);
    let opened = tokio::time::timeout(DEADLINE, source.open(&options, TaskSpec::new(), Vec::new())).await.unwrap();
    let error = opened.err().unwrap();
    assert!(error.code() == "plugin.trap" && error.message().contains("instance"), "{error}");
}

/// The modules of the component itself.
fn modules_of(component: &[u8]) -> usize {
    let mut depth = 0;
    let mut modules = 0;
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload.unwrap() {
            wasmparser::Payload::ModuleSection { .. } => {
                modules += usize::from(depth == 0);
                depth += 1;
            }
            wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    modules
}
