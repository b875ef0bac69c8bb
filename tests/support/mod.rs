//! What both test binaries share: generated logs, the naive model of the semantics, and the host as a process.
#![allow(dead_code, reason = "each of the two test binaries uses a part")]

pub(crate) mod author;
pub(crate) mod case;
pub(crate) mod certificates;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod guide;
pub(crate) mod host;
pub(crate) mod mock;
pub(crate) mod model;
pub(crate) mod random;
pub(crate) mod rows;
pub(crate) mod scrape;
pub(crate) mod settings;
