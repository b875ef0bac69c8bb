//! From a plugin's file to a component: wraps a core module that has the contract's `component-type` section, and refuses any other file
//! with what it is and what to do.

use wasmparser::{Encoding, Parser, Payload};

use crate::failure::Failure;

/// Returns the component in `bytes`, wrapping a core module if necessary.
pub(super) fn wrap(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Failure::plugin("it is not WebAssembly: it does not begin with the bytes \\0asm"));
    }
    match parse(bytes)? {
        Found::Component => Ok(bytes.to_vec()),
        Found::Module { imports, .. } if !imports.is_empty() => Err(Failure::plugin(foreign_imports(&imports))),
        Found::Module { contract: false, .. } => Err(Failure::plugin(
            "it is a core module without a component-type section, so it was not built with a keyfold SDK; build a cdylib that calls keyfold_sdk::plugin!",
        )),
        Found::Module { .. } => encode(bytes),
    }
}

/// Refuses a plugin that imports something.
pub(super) fn foreign_imports(imports: &[String]) -> String {
    format!(
        "it imports {}, but a plugin must not import anything (no clock, randomness, files or network); build Rust with `cargo build --target \
         wasm32-unknown-unknown`, not for a wasi target, and remove the crates that need these",
        imports.join(", ")
    )
}

enum Found {
    Component,
    Module { imports: Vec<String>, contract: bool },
}

fn parse(bytes: &[u8]) -> Result<Found, Failure> {
    let (mut imports, mut contract) = (Vec::new(), false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| Failure::plugin(format!("it is not valid WebAssembly: {e}")))? {
            Payload::Version { encoding: Encoding::Component, .. } => return Ok(Found::Component),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(|e| Failure::plugin(format!("it is not valid WebAssembly: {e}")))?;
                    let name = format!("{}.{}", import.module, import.name);
                    if !imports.contains(&name) {
                        imports.push(name);
                    }
                }
            }
            Payload::CustomSection(section) => contract |= section.name().starts_with("component-type"),
            _ => {}
        }
    }
    Ok(Found::Module { imports, contract })
}

fn encode(module: &[u8]) -> Result<Vec<u8>, Failure> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .map_err(|e| Failure::plugin(format!("its exports do not match its component-type section: {e:#}")))
}
