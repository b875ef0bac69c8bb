//! Every public item of the SDK has an example that compiles.
//!
//! The rule: the documentation of a function, type, trait, constant or macro has an example that names the item. A method is called by an
//! example in its file. The documentation of either may say "For an example, see" another item or the module instead; then an example
//! anywhere must name the item. Hidden lines of an example do not count. Items that are `#[doc(hidden)]` or generated need no example.

use std::path::Path;

use syn::{Attribute, Expr, ImplItem, Item, Lit, Meta, TraitItem, Visibility};

/// The public items of a file, and its examples.
#[derive(Default)]
struct Source {
    examples: String,
    needed: Vec<Needed>,
}

struct Needed {
    name: String,
    docs: String,
    method: bool,
}

fn docs(attributes: &[Attribute]) -> String {
    let line = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(text) => match &text.lit {
                Lit::Str(text) => Some(text.value() + "\n"),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    attributes.iter().filter_map(line).collect()
}

/// Returns the lines of the examples that a reader sees.
fn examples(docs: &str) -> String {
    let parts = docs.split("```").skip(1).step_by(2).filter(|part| part.starts_with('\n'));
    let lines = parts.flat_map(str::lines).filter(|line| !matches!(line.trim_start(), "#" | "") && !is_hidden(line));
    lines.map(|line| format!("{line}\n")).collect()
}

fn is_hidden(line: &str) -> bool {
    line.trim_start().starts_with("# ")
}

/// Whether code names this.
fn names(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| !code[..at].ends_with(word) && !code[at + name.len()..].starts_with(word))
}

/// Whether code calls or defines a function of this name, or passes its path to serde.
fn calls(code: &str, name: &str) -> bool {
    [".", "::", "fn "]
        .iter()
        .any(|before| ["(", "::<", "\""].iter().any(|after| code.contains(&format!("{before}{name}{after}"))))
}

fn is_hidden_item(attributes: &[Attribute]) -> bool {
    let says = |attribute: &Attribute, name: &str, what: &str| {
        let Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident(name) && list.tokens.to_string() == what
    };
    attributes.iter().any(|attribute| says(attribute, "doc", "hidden") || says(attribute, "cfg", "test"))
}

impl Source {
    fn read(path: &Path) -> Source {
        let file = syn::parse_file(&std::fs::read_to_string(path).expect("it is there")).expect("it is Rust");
        let mut source = Source { examples: examples(&docs(&file.attrs)), needed: Vec::new() };
        file.items.iter().for_each(|item| source.item(item));
        source
    }

    fn item(&mut self, item: &Item) {
        let (attributes, visibility, name) = match item {
            Item::Fn(item) => (&item.attrs, &item.vis, &item.sig.ident),
            Item::Struct(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Enum(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Type(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Const(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Trait(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Impl(item) => return item.items.iter().for_each(|method| self.method(method)),
            Item::Macro(item) => {
                let exported = item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"));
                if let (Some(name), true) = (&item.ident, exported) {
                    self.need(&item.attrs, &name.to_string(), false);
                }
                return;
            }
            _ => return,
        };
        if !matches!(visibility, Visibility::Public(_)) || is_hidden_item(attributes) {
            return;
        }
        self.need(attributes, &name.to_string(), false);
        if let Item::Trait(item) = item {
            for method in &item.items {
                if let TraitItem::Fn(method) = method
                    && !is_hidden_item(&method.attrs)
                {
                    self.need(&method.attrs, &method.sig.ident.to_string(), true);
                }
            }
        }
    }

    /// Adds a method of the type itself; the methods of a trait are added with the trait.
    fn method(&mut self, item: &ImplItem) {
        match item {
            ImplItem::Fn(item) if matches!(item.vis, Visibility::Public(_)) && !is_hidden_item(&item.attrs) => {
                self.need(&item.attrs, &item.sig.ident.to_string(), true);
            }
            _ => {}
        }
    }

    fn need(&mut self, attributes: &[Attribute], name: &str, method: bool) {
        let docs = docs(attributes);
        self.examples += &examples(&docs);
        self.needed.push(Needed { name: name.into(), docs, method });
    }

    /// Returns the items without an example; `all` are the examples of all files.
    fn missing(&self, all: &str) -> impl Iterator<Item = &str> {
        let shown = move |item: &&Needed| {
            let at_its_place = match item.method {
                true => calls(&self.examples, &item.name),
                false => names(&examples(&item.docs), &item.name),
            };
            let elsewhere = item.docs.split_whitespace().collect::<Vec<_>>().join(" ").contains("For an example, see");
            at_its_place || elsewhere && names(all, &item.name)
        };
        self.needed.iter().filter(move |item| !shown(item)).map(|item| item.name.as_str())
    }
}

#[test]
fn every_public_item_is_shown_by_an_example() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    for file in std::fs::read_dir(folder).expect("the sources are there") {
        let path = file.expect("the folder is readable").path();
        // The whole module is hidden.
        if path.file_name().is_some_and(|name| name == "panic.rs") {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sources.push((name, Source::read(&path)));
    }
    let all: String = sources.iter().map(|(_, source)| source.examples.as_str()).collect();
    let missing =
        sources.iter().flat_map(|(file, source)| source.missing(&all).map(move |name| format!("{file}: {name}")));
    let missing: Vec<_> = missing.collect();
    let seen: usize = sources.iter().map(|(_, source)| source.needed.len()).sum();
    assert!(missing.is_empty(), "public items without an example:\n{}", missing.join("\n"));
    assert!(seen > 70, "{seen} public items were found");
}

#[test]
fn an_item_without_an_example_is_found() {
    let source = |text: &str| {
        let mut source = Source::default();
        syn::parse_file(text).expect("it is Rust").items.iter().for_each(|item| source.item(item));
        source.missing(&source.examples).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(source("/// Nothing.\npub fn a() {}"), ["a"]);
    assert_eq!(source("/// ```\n/// a();\n/// ```\npub fn a() {}"), [""; 0]);
    assert_eq!(source("/// ```text\n/// a();\n/// ```\npub fn a() {}"), ["a"]);
    assert_eq!(source("/// ```\n/// # a();\n/// ```\npub fn a() {}"), ["a"]);
    assert_eq!(source("#[doc(hidden)]\npub fn a() {}\nfn b() {}\npub(crate) struct C;"), [""; 0]);
    assert_eq!(
        source("/// ```\n/// A.b();\n/// ```\npub struct A;\nimpl A { pub fn b() {} pub fn c() {} fn d() {} }"),
        ["c"]
    );
    assert_eq!(
        source("/// For an example, see [`A`].\npub struct B;\n/// ```\n/// A(B);\n/// ```\npub struct A(B);"),
        [""; 0]
    );
    assert_eq!(source("/// For an example, see [`A`].\npub struct B;\n/// ```\n/// A;\n/// ```\npub struct A;"), ["B"]);
    assert_eq!(source("#[macro_export]\nmacro_rules! a { () => {}; }\nmacro_rules! b { () => {}; }"), ["a"]);
}
