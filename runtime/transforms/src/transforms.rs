//! The transforms, each applied to whole batches.

mod filter;
mod hoist_field;
mod insert_field;
mod regex_router;

use crate::parts::PartDescriptor;
use crate::predicates::When;
use aqueduct_core::{Batch, BatchBuilder, Error, Issue, Options, Record, Rejects, Result, Stage};

/// A transform, told which records it is for. Each does it the cheapest way: chunk by chunk where it can.
pub(crate) trait Apply: Send {
    fn apply(&mut self, batch: Batch, when: &mut When, rejects: &mut Rejects) -> Batch;
}

pub(crate) fn parts() -> Vec<PartDescriptor> {
    let mut parts = vec![filter::part(), regex_router::part()];
    parts.extend(hoist_field::parts());
    parts.extend(insert_field::parts());
    parts
}

/// # Errors
/// Every issue, below `path`.
pub(crate) fn build(class: &str, path: &str, own: &Options) -> Result<Box<dyn Apply>, Vec<Issue>> {
    Ok(match class {
        filter::CLASS => Box::new(filter::Filter),
        regex_router::CLASS => Box::new(regex_router::RegexRouter::new(path, own)?),
        hoist_field::KEY | hoist_field::VALUE => Box::new(hoist_field::HoistField::new(side(class), path, own)?),
        _ => Box::new(insert_field::InsertField::new(side(class), path, own)?),
    })
}

/// Which half of a record a transform changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Key,
    Value,
}

fn side(class: &str) -> Side {
    if class.ends_with("$Key") { Side::Key } else { Side::Value }
}

/// Record by record: what `change` does to those selected; the others pass. Refused records go to `rejects` as they were.
fn each(
    batch: Batch,
    when: &mut When,
    rejects: &mut Rejects,
    class: &str,
    mut change: impl FnMut(&mut Record) -> Result<()>,
) -> Batch {
    let mut out = BatchBuilder::new();
    for chunk in batch.into_chunks() {
        if when.selects_topic(&chunk.topic) == Some(false) {
            out.push_chunk(chunk);
            continue;
        }
        for record in chunk.iter() {
            let mut owned = record.to_record();
            match if when.selects(record) { change(&mut owned) } else { Ok(()) } {
                Ok(()) => out.push(owned),
                Err(error) => rejects.push(record.to_record(), Stage::Transformation, class, error),
            }
        }
    }
    out.finish()
}

fn unsupported(needed: &str, purpose: &str, found: &str) -> Error {
    Error::fatal("transform.type", format!("Only {needed} for [{purpose}], found: {found}"))
}
