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

/// How many imports a refusal names.
const NAMED: usize = 8;

/// Refuses a plugin that imports something, with the likely cause.
pub(super) fn foreign_imports(imports: &[String]) -> String {
    let named: Vec<&str> = imports.iter().take(NAMED).map(String::as_str).collect();
    let more = if imports.len() > NAMED { format!(" and {} more", imports.len() - NAMED) } else { String::new() };
    let any = |part: &str| imports.iter().any(|import| import.contains(part));
    let cause = if any("wbindgen") || any("wbg") {
        "this is wasm-bindgen, which calls a browser: a crate takes the clock or randomness from it, mostly `chrono` with its default features (use \
         default-features = false), or `getrandom` with `wasm_js` or `js` below `rand`, `uuid` or `ahash` (remove them; derive numbers from the \
         record's partition and offset); `cargo tree --target wasm32-unknown-unknown -i wasm-bindgen` names the crate"
    } else if any("wasi") {
        "this is WASI: build Rust with `cargo build --target wasm32-unknown-unknown`, as `keyfold plugin build` does, not for a wasi target; what needs \
         println!, std::env, std::fs or the clock must go (log with keyfold_sdk::log!, take settings from plugin.config and times from the event)"
    } else {
        "a function is declared `extern` and not linked: a C library, or a crate for another host; `cargo tree` shows what brings it, and it must go"
    };
    format!(
        "it imports {}{more}, but a plugin must not import anything (no clock, randomness, files or network); {cause}",
        named.join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_import_is_refused_with_its_likely_cause() {
        let check = |imports: &[&str], words: &[&str]| {
            let imports: Vec<String> = imports.iter().map(|import| (*import).to_owned()).collect();
            let text = foreign_imports(&imports);
            assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
        };
        check(
            &["__wbindgen_placeholder__.__wbg_now_1", "__wbindgen_externref_xform__.grow"],
            &["chrono", "rand", "-i wasm-bindgen"],
        );
        check(&["wasi_snapshot_preview1.fd_write"], &["wasm32-unknown-unknown", "println!", "keyfold_sdk::log!"]);
        check(&["wasi:clocks/wall-clock@0.2.0"], &["it imports wasi:clocks/wall-clock@0.2.0", "the clock"]);
        check(&["env.strlen"], &["it imports env.strlen", "a C library"]);
        let many: Vec<String> = (0..20).map(|i| format!("env.f{i}")).collect();
        assert!(foreign_imports(&many).contains("env.f7 and 12 more"));
    }
}
