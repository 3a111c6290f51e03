//! The commands, one file a group.

pub(crate) mod connectors;
pub(crate) mod docs;
pub(crate) mod log;
pub(crate) mod offsets;
pub(crate) mod plugins;
pub(crate) mod rest_user;
pub(crate) mod status;
pub(crate) mod topics;
pub(crate) mod validate;
pub(crate) mod worker;
