//! The contract's host side, generated from `wit/`. Parameters borrow (the host's columns are lowered from where they lie), results own.
#![allow(missing_docs, unreachable_pub, reason = "generated")]

wasmtime::component::bindgen!({
    path: "wit",
    world: "plugin",
    ownership: Borrowing { duplicate_if_necessary: true },
});
