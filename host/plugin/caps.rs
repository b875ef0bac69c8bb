//! what a file may make the host compile: limits that are looked at before the compiler sees it. Fuel limits what a plugin does, not what its
//! code costs the host before it runs.

use wasmparser::{BinaryReaderError, FunctionBody, Operator, Parser, Payload};

use crate::failure::Failure;

/// Bytes of a file. A plugin in JavaScript, which contains an engine, has 12 MiB, and one in Rust a quarter of one.
const BYTES: u64 = 64 << 20;
/// Functions in all modules of a file. A plugin in JavaScript has 13,000.
const FUNCTIONS: u64 = 100_000;
/// Modules and components in a file.
const PARTS: u64 = 256;
/// Bytes of one function. The largest of a JavaScript engine has 170 KiB.
const BODY: u64 = 2 << 20;
/// Locals of one function; WebAssembly allows 50,000. The functions of a JavaScript engine have some hundred.
const LOCALS: u64 = 10_000;
/// Blocks in blocks of one function. The deepest of a JavaScript engine are 456.
const DEPTH: u64 = 4_000;
/// Locals times blocks of one function: the compiler may have to carry each local into each block. A JavaScript engine has up to 200,000.
const CARRIED: u64 = 2_000_000;
/// The sum of this over all functions of a file. A JavaScript engine has 3 million.
const CARRIED_IN_ALL: u64 = 30_000_000;

/// What was counted in a file so far.
#[derive(Default)]
struct Counts {
    parts: u64,
    functions: u64,
    carried: u64,
}

/// Refuses a file whose code would cost the compiler more than any plugin needs.
pub(super) fn check(bytes: &[u8]) -> Result<(), Failure> {
    at_most("it has", bytes.len() as u64, "bytes", BYTES)?;
    if !bytes.starts_with(b"\0asm") {
        return Ok(()); // no code: what it is, is said where it is read
    }
    let mut counts = Counts::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { .. } => {
                counts.parts += 1;
                at_most("it has", counts.parts, "modules and components", PARTS)?;
            }
            Payload::CodeSectionEntry(body) => counts.add(&body)?,
            _ => {}
        }
    }
    Ok(())
}

impl Counts {
    fn add(&mut self, body: &FunctionBody<'_>) -> Result<(), Failure> {
        self.functions += 1;
        at_most("it has", self.functions, "functions", FUNCTIONS)?;
        let range = body.range();
        let function = format!("its function at byte {} has", range.start);
        at_most(&function, range.end - range.start, "bytes of code", BODY)?;
        let mut locals = 0;
        for group in body.get_locals_reader().map_err(invalid)? {
            locals += u64::from(group.map_err(invalid)?.0);
            at_most(&function, locals, "locals", LOCALS)?;
        }
        let (mut blocks, mut depth) = (0_u64, 0_u64);
        for operator in body.get_operators_reader().map_err(invalid)? {
            match operator.map_err(invalid)? {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                    (blocks, depth) = (blocks + 1, depth + 1);
                    at_most(&function, depth, "blocks in each other", DEPTH)?;
                }
                Operator::End => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        let carried = blocks * locals;
        at_most(&function, carried, "locals times blocks", CARRIED)?;
        self.carried += carried;
        at_most("its functions have", self.carried, "locals times blocks in all", CARRIED_IN_ALL)
    }
}

fn at_most(what: &str, found: u64, unit: &str, limit: u64) -> Result<(), Failure> {
    if found <= limit {
        return Ok(());
    }
    Err(Failure::plugin(format!(
        "{what} {found} {unit}, and the host compiles at most {limit}; generate less code, or split large functions"
    )))
}

fn invalid(error: BinaryReaderError) -> Failure {
    Failure::plugin(format!("it is not valid WebAssembly: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unsigned number as WebAssembly writes it.
    fn leb(mut n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(0x80 | u8::try_from(n & 0x7f).expect("seven bits"));
            n >>= 7;
        }
        bytes.push(u8::try_from(n).expect("seven bits"));
        bytes
    }

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id], &leb(content.len())[..], content].concat()
    }

    /// A module of this many functions, each with so many locals and so many loops in each other.
    fn module(functions: usize, locals: usize, loops: usize) -> Vec<u8> {
        let body = [&[1][..], &leb(locals), &[0x7f], &[0x03, 0x40].repeat(loops), &vec![0x0b; loops + 1]].concat();
        let code = [&leb(body.len())[..], &body].concat();
        [
            b"\0asm\x01\0\0\0".to_vec(),
            section(1, &[1, 0x60, 0, 0]),
            section(3, &[leb(functions), vec![0; functions]].concat()),
            section(10, &[leb(functions), code.repeat(functions)].concat()),
        ]
        .concat()
    }

    #[test]
    fn what_would_cost_the_compiler_too_much_is_refused_with_the_limit() {
        let refused = |bytes: &[u8], words: &[&str]| {
            let reason = check(bytes).expect_err("it is refused").message;
            assert!(words.iter().all(|word| reason.contains(word)), "{words:?} in {reason}");
        };
        assert!(check(&module(1_000, 100, 100)).is_ok());
        refused(&module(1, 10_001, 0), &["its function at byte", "10001 locals", "at most 10000"]);
        refused(&module(1, 0, 4_001), &["4001 blocks in each other", "at most 4000"]);
        refused(&module(1, 2_000, 1_001), &["2002000 locals times blocks", "at most 2000000"]);
        refused(&module(76, 2_000, 200), &["its functions have 30400000 locals times blocks in all"]);
        refused(&module(100_001, 0, 0), &["it has 100001 functions"]);
        refused(&module(1, 0, 1)[..25], &["not valid WebAssembly"]);
        refused(&vec![0; (64 << 20) + 1], &["67108865 bytes"]);
    }
}
