//! Tests that need nothing but this repository.

#[path = "../support/mod.rs"]
mod support;

mod docs;
mod input;
mod replay;
mod tidy;
