//! Tests on real services, which they start by themselves. `kafka()` and `cassandra()` give addresses, or nothing where a test is to be
//! skipped.

#![expect(clippy::disallowed_methods, reason = "real processes are waited for by the machine's clock")]

#[path = "../support/mod.rs"]
mod support;

mod service;
mod load;
mod topics;
mod tables;
#[path = "../hostile/forge.rs"]
#[expect(dead_code, reason = "attacks without a database need more of it")]
mod forge;

mod admin;
mod author;
mod backup;
#[cfg(feature = "cloud")]
mod bucket;
mod container;
mod deploy;
mod doctor;
mod groups;
mod injected;
mod input;
mod letters;
mod live_edge;
mod metrics;
mod operation;
mod outages;
mod recreated_topics;
mod replay;
mod rights;
mod rotated;
mod seed;
mod secured;
mod sinks;
mod sources;
mod started;

pub(crate) use service::{cassandra, kafka};
