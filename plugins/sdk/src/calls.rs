//! Between the WIT and the traits. An instance is one task, so what `open` made stands in a static.

use crate::{
    Ack, Applied, Class, Error, Frame, JsonMap, Limits, Polled, Rejects, Result, Sink, Source, SourceOffset, Transform, Writer,
};
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::time::Duration;

#[allow(unsafe_code, clippy::all, clippy::pedantic, reason = "generated; the exports' glue must be unsafe")]
pub mod source {
    wit_bindgen::generate!({
        path: "../wit",
        world: "source-plugin",
        pub_export_macro: true,
        default_bindings_module: "aqueduct_sdk::private::source",
        export_macro_name: "export_source",
        generate_all,
    });
}

#[allow(unsafe_code, clippy::all, clippy::pedantic, reason = "generated; the exports' glue must be unsafe")]
pub mod sink {
    wit_bindgen::generate!({
        path: "../wit",
        world: "sink-plugin",
        pub_export_macro: true,
        default_bindings_module: "aqueduct_sdk::private::sink",
        export_macro_name: "export_sink",
        generate_all,
    });
}

#[allow(unsafe_code, clippy::all, clippy::pedantic, reason = "generated; the exports' glue must be unsafe")]
pub mod transform {
    wit_bindgen::generate!({
        path: "../wit",
        world: "transform-plugin",
        pub_export_macro: true,
        default_bindings_module: "aqueduct_sdk::private::transform",
        export_macro_name: "export_transform",
        generate_all,
    });
}

/// The one task of this instance. WebAssembly has one thread, and calls never overlap.
pub struct Slot<T>(RefCell<Option<T>>);

impl<T> Slot<T> {
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    fn set(&self, task: T) {
        *self.0.borrow_mut() = Some(task);
    }

    fn with<R>(&self, call: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        match self.0.borrow_mut().as_mut() {
            Some(task) => call(task),
            None => Err(Error::fatal("not_open", "called before it was opened")),
        }
    }

    fn close(&self, close: impl FnOnce(T) -> Result<()>) -> Result<()> {
        let task = self.0.borrow_mut().take();
        task.map_or(Ok(()), close)
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A panic says why in the log before it traps.
pub fn panics_are_logged() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| crate::log(crate::Level::Error, &info.to_string()))));
}

fn config<C: DeserializeOwned>(text: &str) -> Result<C> {
    serde_json::from_str(text).map_err(|error| Error::fatal("config", error.to_string()))
}

fn findings<C: DeserializeOwned>(text: &str, judge: impl FnOnce(&C) -> Vec<crate::Issue>) -> Vec<crate::Issue> {
    match config(text) {
        Ok(config) => judge(&config),
        Err(error) => vec![crate::Issue::error("", error.message, "correct the option that it names")],
    }
}

macro_rules! conversions {
    ($world:ident, $exports:path) => {
        use $exports as wire;

        pub(super) fn error(error: Error) -> wire::Error {
            use super::$world::aqueduct::connector::types;
            let kind = match error.class {
                Class::Retriable => types::ErrorKind::Retriable,
                Class::Fatal => types::ErrorKind::Fatal,
            };
            types::Error { kind, code: error.code, message: error.message }
        }

        pub(super) fn issue(issue: crate::Issue) -> wire::Issue {
            wire::Issue { path: issue.path, message: issue.message, fix: issue.fix }
        }
    };
}

pub mod of_source {
    use super::*;
    conversions!(source, super::source::exports::aqueduct::connector::source);

    fn stored(offset: wire::Offset) -> Result<SourceOffset> {
        let position = offset.position.as_deref().map(serde_json::from_str).transpose()?;
        Ok(SourceOffset { partition: serde_json::from_str(&offset.partition)?, offset: position })
    }

    fn offset(offset: &SourceOffset) -> wire::Offset {
        let text = |map: &JsonMap| serde_json::to_string(map).expect("a JSON object is JSON");
        wire::Offset { partition: text(&offset.partition), position: offset.offset.as_ref().map(text) }
    }

    pub fn validate<T: Source>(text: String) -> Vec<wire::Issue> {
        findings(&text, T::validate).into_iter().map(issue).collect()
    }

    pub fn plan<T: Source>(text: String, tasks_max: u32) -> Result<Vec<String>, wire::Error> {
        let shares = config(&text).and_then(|config| T::plan(&config, tasks_max as usize)).map_err(error)?;
        Ok(shares.iter().map(|share| serde_json::to_string(share).expect("a map of texts is JSON")).collect())
    }

    pub fn open<T: Source>(slot: &Slot<T>, text: String, share: String, resume: Vec<wire::Offset>) -> Result<(), wire::Error> {
        panics_are_logged();
        let opened = || {
            let resume = resume.into_iter().map(stored).collect::<Result<Vec<_>>>()?;
            T::open(config(&text)?, serde_json::from_str(&share)?, resume)
        };
        opened().map(|task| slot.set(task)).map_err(error)
    }

    pub fn poll<T: Source>(slot: &Slot<T>, limits: wire::Limits) -> Result<wire::Polled, wire::Error> {
        let limits = Limits {
            max_records: limits.max_records as usize,
            max_bytes: limits.max_bytes as usize,
            wait: Duration::from_millis(limits.wait_ms.into()),
        };
        let Polled { batch, resume } = slot.with(|task| task.poll(limits)).map_err(error)?;
        Ok(wire::Polled { batch: batch.finish(), resume: resume.iter().map(offset).collect() })
    }

    pub fn commit<T: Source>(slot: &Slot<T>, durable: Vec<wire::Offset>) -> Result<(), wire::Error> {
        let durable = durable.into_iter().map(stored).collect::<Result<Vec<_>>>().map_err(error)?;
        slot.with(|task| task.commit(&durable)).map_err(error)
    }

    pub fn close<T: Source>(slot: &Slot<T>) -> Result<(), wire::Error> {
        slot.close(|mut task| task.close()).map_err(error)
    }
}

pub mod of_sink {
    use super::*;
    conversions!(sink, super::sink::exports::aqueduct::connector::sink);

    pub fn validate<T: Sink>(text: String) -> Vec<wire::Issue> {
        findings(&text, T::validate).into_iter().map(issue).collect()
    }

    pub fn open<T: Sink>(slot: &Slot<T>, text: String) -> Result<(), wire::Error> {
        panics_are_logged();
        config(&text).and_then(T::open).map(|task| slot.set(task)).map_err(error)
    }

    pub fn put<T: Sink>(slot: &Slot<T>, batch: Vec<u8>) -> Result<wire::PutResult, wire::Error> {
        let mut rejects = Rejects::default();
        let ack = slot.with(|task| task.put(Frame::read(&batch)?, &mut rejects)).map_err(error)?;
        let rejected = rejects.0.into_iter().map(|(record_index, message)| wire::Reject { record_index, message });
        Ok(wire::PutResult { durable: ack == Ack::Durable, rejected: rejected.collect() })
    }

    pub fn flush<T: Sink>(slot: &Slot<T>) -> Result<(), wire::Error> {
        slot.with(T::flush).map_err(error)
    }

    pub fn close<T: Sink>(slot: &Slot<T>) -> Result<(), wire::Error> {
        slot.close(|mut task| task.close()).map_err(error)
    }
}

pub mod of_transform {
    use super::*;
    conversions!(transform, super::transform::exports::aqueduct::connector::transform);

    pub fn validate<T: Transform>(text: String) -> Vec<wire::Issue> {
        findings(&text, T::validate).into_iter().map(issue).collect()
    }

    pub fn open<T: Transform>(slot: &Slot<T>, text: String) -> Result<(), wire::Error> {
        panics_are_logged();
        config(&text).and_then(T::open).map(|task| slot.set(task)).map_err(error)
    }

    pub fn apply<T: Transform>(slot: &Slot<T>, batch: Vec<u8>) -> Result<wire::Applied, wire::Error> {
        // What comes back is mostly about as large as what came.
        let mut out = Applied { batch: Writer::with_capacity(batch.len()), ..Applied::default() };
        slot.with(|task| task.apply(Frame::read(&batch)?, &mut out)).map_err(error)?;
        let rejected = out.rejects.0.into_iter().map(|(record_index, message)| wire::Reject { record_index, message });
        Ok(wire::Applied { batch: out.batch.finish(), rejected: rejected.collect() })
    }
}

/// Exports a plugin: its metadata (a file beside `Cargo.toml`, as `include_bytes!` finds it from the source file), and what it is.
///
/// `export_plugin!(metadata: "../plugin.json", source: Counter);`
#[macro_export]
macro_rules! export_plugin {
    (metadata: $file:literal, $($kind:ident : $task:ty),+ $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            const TEXT: &[u8] = include_bytes!($file);
            const fn copied() -> [u8; TEXT.len()] {
                let mut out = [0; TEXT.len()];
                let mut at = 0;
                while at < TEXT.len() {
                    out[at] = TEXT[at];
                    at += 1;
                }
                out
            }
            #[used]
            #[unsafe(link_section = "aqueduct:plugin")]
            static METADATA: [u8; TEXT.len()] = copied();
        };
        $($crate::export_plugin!(@ $kind $task);)+
    };
    (@ source $task:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::private::of_source as calls;
            use $crate::private::source::exports::aqueduct::connector::source as wire;
            std::thread_local!(static SLOT: $crate::private::Slot<$task> = const { $crate::private::Slot::new() });
            struct Exported;
            impl wire::Guest for Exported {
                fn validate(config: String) -> Vec<wire::Issue> { calls::validate::<$task>(config) }
                fn plan(config: String, tasks_max: u32) -> Result<Vec<String>, wire::Error> { calls::plan::<$task>(config, tasks_max) }
                fn open(config: String, share: String, resume: Vec<wire::Offset>) -> Result<(), wire::Error> {
                    SLOT.with(|slot| calls::open(slot, config, share, resume))
                }
                fn poll(limits: wire::Limits) -> Result<wire::Polled, wire::Error> { SLOT.with(|slot| calls::poll(slot, limits)) }
                fn commit(durable: Vec<wire::Offset>) -> Result<(), wire::Error> { SLOT.with(|slot| calls::commit(slot, durable)) }
                fn close() -> Result<(), wire::Error> { SLOT.with(calls::close) }
            }
            $crate::private::source::export_source!(Exported with_types_in $crate::private::source);
        };
    };
    (@ sink $task:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::private::of_sink as calls;
            use $crate::private::sink::exports::aqueduct::connector::sink as wire;
            std::thread_local!(static SLOT: $crate::private::Slot<$task> = const { $crate::private::Slot::new() });
            struct Exported;
            impl wire::Guest for Exported {
                fn validate(config: String) -> Vec<wire::Issue> { calls::validate::<$task>(config) }
                fn open(config: String) -> Result<(), wire::Error> { SLOT.with(|slot| calls::open(slot, config)) }
                fn put(batch: Vec<u8>) -> Result<wire::PutResult, wire::Error> { SLOT.with(|slot| calls::put(slot, batch)) }
                fn flush() -> Result<(), wire::Error> { SLOT.with(calls::flush) }
                fn close() -> Result<(), wire::Error> { SLOT.with(calls::close) }
            }
            $crate::private::sink::export_sink!(Exported with_types_in $crate::private::sink);
        };
    };
    (@ transform $task:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::private::of_transform as calls;
            use $crate::private::transform::exports::aqueduct::connector::transform as wire;
            std::thread_local!(static SLOT: $crate::private::Slot<$task> = const { $crate::private::Slot::new() });
            struct Exported;
            impl wire::Guest for Exported {
                fn validate(config: String) -> Vec<wire::Issue> { calls::validate::<$task>(config) }
                fn open(config: String) -> Result<(), wire::Error> { SLOT.with(|slot| calls::open(slot, config)) }
                fn apply(batch: Vec<u8>) -> Result<wire::Applied, wire::Error> { SLOT.with(|slot| calls::apply(slot, batch)) }
            }
            $crate::private::transform::export_transform!(Exported with_types_in $crate::private::transform);
        };
    };
}
