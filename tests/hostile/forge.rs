//! Plugins that no compiler makes: the built hostile plugin with another description or other code, and components with modules beside it.

use wit_component::ComponentEncoder;

use crate::support::host::plugin_file;

/// An unsigned number as WebAssembly writes it.
pub(super) fn leb(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7f).expect("seven bits");
        n >>= 7;
        bytes.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return bytes;
        }
    }
}

/// A number from 0 up as WebAssembly writes signed ones.
fn signed(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x3f {
        bytes.push(u8::try_from(n & 0x7f).expect("seven bits") | 0x80);
        n >>= 7;
    }
    bytes.push(u8::try_from(n).expect("six bits"));
    bytes
}

/// Takes an unsigned number off the front.
fn number(bytes: &mut &[u8]) -> usize {
    let (mut n, mut shift) = (0, 0);
    loop {
        let (first, rest) = bytes.split_first().expect("the number ends");
        *bytes = rest;
        n |= usize::from(first & 0x7f) << shift;
        shift += 7;
        if first & 0x80 == 0 {
            return n;
        }
    }
}

/// Takes so many bytes off the front.
fn taken<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (first, rest) = bytes.split_at(count);
    *bytes = rest;
    first
}

pub(super) fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &leb(content.len())[..], content].concat()
}

/// A core module of these sections.
pub(super) fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0", &sections.concat()[..]].concat()
}

/// A component that holds this module and nothing else.
pub(super) fn component(module: &[u8]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0", &section(1, module)[..]].concat()
}

/// The sections of a module or a component, each with its id.
fn sections(file: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut rest, mut found) = (&file[8..], Vec::new());
    while !rest.is_empty() {
        let id = taken(&mut rest, 1)[0];
        let length = number(&mut rest);
        found.push((id, taken(&mut rest, length).to_vec()));
    }
    found
}

fn hostile() -> Vec<u8> {
    std::fs::read(plugin_file("hostile")).expect("the build has left it there")
}

/// The hostile plugin as a component, with one more module, which is instantiated whenever the plugin is.
pub(super) fn beside(module: &[u8]) -> Vec<u8> {
    let encoded = ComponentEncoder::default().module(&hostile()).and_then(|encoder| encoder.encode());
    let component = encoded.expect("it is a plugin");
    let modules = sections(&component).iter().filter(|(id, _)| *id == 1).count();
    [component, section(1, module), section(2, &[&[1, 0][..], &leb(modules), &[0]].concat())].concat()
}

/// The function that exports one of the contract's calls.
fn exported(sections: &[(u8, Vec<u8>)], name: &str) -> usize {
    assert!(sections.iter().all(|(id, _)| *id != 2), "a plugin imports nothing");
    let mut rest = &sections.iter().find(|(id, _)| *id == 7).expect("it exports something").1[..];
    for _ in 0..number(&mut rest) {
        let length = number(&mut rest);
        let is_it = taken(&mut rest, length) == name.as_bytes();
        let kind = taken(&mut rest, 1)[0];
        let index = number(&mut rest);
        if is_it && kind == 0 {
            return index;
        }
    }
    panic!("{name} is not exported")
}

/// Without locals: loops for ever.
pub(super) const LOOPS: &[u8] = &[0, 0x03, 0x40, 0x0c, 0, 0x0b, 0, 0x0b];

/// The hostile plugin with other code for these calls of the contract.
pub(super) fn with_code(calls: &[(&str, &[u8])]) -> Vec<u8> {
    let mut sections = sections(&hostile());
    put_code(&mut sections, calls);
    written(&sections)
}

fn put_code(sections: &mut [(u8, Vec<u8>)], calls: &[(&str, &[u8])]) {
    let at = |name: &str| exported(sections, name);
    let replaced: Vec<(usize, &[u8])> = calls.iter().map(|(name, body)| (at(name), *body)).collect();
    let (_, code) = sections.iter_mut().find(|(id, _)| *id == 10).expect("it has code");
    let mut rest = &code[..];
    let count = number(&mut rest);
    let mut new = leb(count);
    for index in 0..count {
        let length = number(&mut rest);
        let body = taken(&mut rest, length);
        let body = replaced.iter().find(|(at, _)| *at == index).map_or(body, |(_, body)| body);
        new.extend(leb(body.len()));
        new.extend_from_slice(body);
    }
    *code = new;
}

fn written(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    module(&sections.iter().map(|(id, content)| section(*id, content)).collect::<Vec<_>>())
}

/// Puts bytes at the end of the memory that the plugin begins with; `content` is told where that is.
fn put_data(sections: &mut [(u8, Vec<u8>)], pages: usize, content: impl FnOnce(usize) -> Vec<u8>) -> usize {
    let (_, memory) = sections.iter_mut().find(|(id, _)| *id == 5).expect("it has a memory");
    let mut rest = &memory[..];
    assert_eq!((number(&mut rest), number(&mut rest)), (1, 0), "one memory, without a maximum");
    let had = number(&mut rest);
    *memory = [&[1, 0][..], &leb(had + pages)].concat();
    let base = had << 16;
    let bytes = content(base);
    assert!(bytes.len() <= pages << 16);
    for (id, content) in sections.iter_mut().filter(|(id, _)| matches!(id, 11 | 12)) {
        let mut rest = &content[..];
        let count = leb(number(&mut rest) + 1);
        let segment = [&[0, 0x41], &signed(base)[..], &[0x0b], &leb(bytes.len()), &bytes].concat();
        let added: &[u8] = if *id == 11 { &segment } else { &[] };
        *content = [&count[..], rest, added].concat();
    }
    base
}

/// What a plugin says of itself.
pub(super) struct Described<'a> {
    pub(super) name: &'a str,
    /// Its table, with the names of the hostile plugin's four columns.
    pub(super) table: (&'a str, [&'a str; 4]),
    /// The JSON Schema of its configuration.
    pub(super) schema: &'a str,
}

pub(super) const DESCRIBED: Described<'_> =
    Described { name: "forged", table: ("out", ["k", "n", "v", "items"]), schema: "{}" };

/// Text, integer, integer, text list: the columns of the hostile plugin.
const KINDS: [u8; 4] = [4, 1, 1, 6];

/// Data of the contract as it lies in a plugin's memory.
struct Arena {
    base: usize,
    bytes: Vec<u8>,
}

fn u32_of(n: usize) -> [u8; 4] {
    u32::try_from(n).expect("it fits").to_le_bytes()
}

impl Arena {
    /// Address and length.
    fn put(&mut self, bytes: &[u8], count: usize) -> [[u8; 4]; 2] {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let at = self.base + self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        [u32_of(at), u32_of(count)]
    }

    fn text(&mut self, text: &str) -> Vec<u8> {
        self.put(text.as_bytes(), text.len()).concat()
    }
}

/// The hostile plugin with another description.
pub(super) fn described(described: &Described<'_>) -> Vec<u8> {
    let Described { name, table: (table, columns), schema } = described;
    let most = name.len() + table.len() + columns.concat().len() + schema.len();
    with_description((most >> 16) + 2, |arena| {
        let columns = columns.iter().zip(KINDS).enumerate().map(|(i, (column, kind))| {
            let name = arena.text(column);
            [&name[..], &[kind, u8::from(i < 2), 0, 0]].concat()
        });
        let columns = columns.collect::<Vec<_>>().concat();
        let columns = arena.put(&columns, KINDS.len()).concat();
        let table = [arena.text(table), columns].concat();
        (arena.put(&table, 1), schema.len(), arena.text(schema), arena.text(name))
    })
}

/// The hostile plugin with so many tables, all of whose names are the same megabyte.
pub(super) fn of_many_tables(count: usize) -> Vec<u8> {
    with_description(17 + ((count * 16) >> 16) + 2, |arena| {
        let name = arena.put(&vec![b'x'; 1 << 20], 1 << 20).concat();
        let table = [&name[..], &[0; 8]].concat();
        (arena.put(&table.repeat(count), count), 2, arena.text("{}"), arena.text("forged"))
    })
}

/// Tables, the length of the schema, the schema and the name.
type Parts = ([[u8; 4]; 2], usize, Vec<u8>, Vec<u8>);

fn with_description(pages: usize, parts: impl FnOnce(&mut Arena) -> Parts) -> Vec<u8> {
    let mut sections = sections(&hostile());
    let mut place = 0;
    put_data(&mut sections, pages, |base| {
        let mut arena = Arena { base, bytes: Vec::new() };
        let (tables, _, schema, name) = parts(&mut arena);
        let version = arena.text("1.0.0");
        let whole = [name, version, u32_of(1).to_vec(), tables.concat(), schema, u32_of(0).to_vec()].concat();
        place = arena.put(&whole, 1).concat()[..4].try_into().map_or(0, u32::from_le_bytes) as usize;
        arena.bytes
    });
    let describe = [&[0, 0x41], &signed(place)[..], &[0x0b]].concat();
    // What frees the description has nothing to free.
    let calls: [(&str, &[u8]); 2] = [(&call("describe"), &describe), (&post_return("describe"), &[0, 0x0b])];
    put_code(&mut sections, &calls);
    written(&sections)
}

/// The name under which a call of the contract is exported.
pub(super) fn call(name: &str) -> String {
    format!("keyfold:mapper/mapper@1.0.0#{name}")
}

fn post_return(name: &str) -> String {
    format!("cabi_post_{}", call(name))
}

/// The hostile plugin, whose `configure` refuses every configuration with this text.
pub(super) fn that_refuses(text: &str) -> Vec<u8> {
    refusing(text, text.len())
}

/// The same, with so many megabytes of text: zeros, which need not be in the file.
pub(super) fn that_refuses_at_length(megabytes: usize) -> Vec<u8> {
    refusing("", megabytes << 20)
}

fn refusing(text: &str, length: usize) -> Vec<u8> {
    let mut sections = sections(&hostile());
    let mut place = 0;
    put_data(&mut sections, (length >> 16) + 1, |base| {
        place = base;
        // `err`, and the text behind it.
        [&[1, 0, 0, 0][..], &u32_of(base + 12), &u32_of(length), text.as_bytes()].concat()
    });
    let configure = [&[0, 0x41], &signed(place)[..], &[0x0b]].concat();
    let calls: [(&str, &[u8]); 2] = [(&call("configure"), &configure), (&post_return("configure"), &[0, 0x0b])];
    put_code(&mut sections, &calls);
    written(&sections)
}
