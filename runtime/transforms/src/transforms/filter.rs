//! Drops records: all of them, or with a predicate those that it selects.

use super::Apply;
use crate::converters::NoOptions;
use crate::parts::{PartDescriptor, transform};
use crate::predicates::When;
use aqueduct_core::{Batch, Rejects};

pub(super) const CLASS: &str = "org.apache.kafka.connect.transforms.Filter";

pub(super) fn part() -> PartDescriptor {
    transform::<NoOptions>(CLASS, "Drops records; give it a predicate that says which.")
}

pub(super) struct Filter;

impl Apply for Filter {
    fn apply(&mut self, mut batch: Batch, when: &mut When, _: &mut Rejects) -> Batch {
        batch.retain(|record| !when.selects(record));
        batch
    }
}
