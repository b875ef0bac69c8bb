//! From a plugin's file to a component: wraps a core module that carries the contract's `component-type` section, and says of any other
//! file what it is and what to do.

use wasmparser::{Encoding, Parser, Payload};

use crate::plugin::Error;

/// The component in `bytes`, wrapping a core module if need be.
pub(super) fn wrap(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Error::Refused("it is not WebAssembly: it does not begin with the bytes \\0asm".into()));
    }
    match look(bytes)? {
        Found::Component => Ok(bytes.to_vec()),
        Found::Module { imports, .. } if !imports.is_empty() => Err(Error::Refused(foreign_imports(&imports))),
        Found::Module { contract: false, .. } => Err(Error::Refused(
            "it is a core module without a component-type section, so not built on a keyfold SDK: build a cdylib that calls keyfold_sdk::plugin!".into(),
        )),
        Found::Module { .. } => encode(bytes),
    }
}

/// What to say of a plugin that imports something.
pub(super) fn foreign_imports(imports: &[String]) -> String {
    format!(
        "it imports {}; a plugin may import nothing (no clock, randomness, files or network). Build Rust with `cargo build --target \
         wasm32-unknown-unknown`, not for a wasi target, and leave out the crates that need these",
        imports.join(", ")
    )
}

enum Found {
    Component,
    Module { imports: Vec<String>, contract: bool },
}

fn look(bytes: &[u8]) -> Result<Found, Error> {
    let (mut imports, mut contract) = (Vec::new(), false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| Error::Refused(format!("it is not valid WebAssembly: {e}")))? {
            Payload::Version { encoding: Encoding::Component, .. } => return Ok(Found::Component),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(|e| Error::Refused(format!("it is not valid WebAssembly: {e}")))?;
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

fn encode(module: &[u8]) -> Result<Vec<u8>, Error> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .map_err(|e| Error::Refused(format!("its component-type section does not fit its exports: {e:#}")))
}
