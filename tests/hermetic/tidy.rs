//! Rules that no compiler checks: the layers and the forbidden uses of host/ARCHITECTURE.md, the sizes of files and functions, invariants with
//! a test each, ids of log events, and that the contract changes its version with its code.
//!
//! Sources are read whole, as the compiler reads them: grouped `use` trees, `super::`, paths in code and in macros, test modules too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use sha2::{Digest, Sha256};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lines of a file, and of a function, at most.
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 60;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The sources below a folder: path relative to it with `/`, and text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let (root, mut found, mut folders) = (root().join(folder), Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).expect("a folder of the repository").map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.to_string_lossy().replace('\\', "/"), read(&entry.path())));
            }
        }
    }
    found.sort();
    found
}

/// The sources of the host. Templates of plugins are not part of it.
fn host() -> Vec<(String, String)> {
    let own = |(path, _): &(String, String)| !path.starts_with("author/rust/") && path != "build.rs";
    sources("host").into_iter().filter(own).collect()
}

/// The cells of the rows of a table with this header, each cell split at commas.
fn table(architecture: &str, header: [&str; 2]) -> Vec<[Vec<String>; 2]> {
    let cells =
        |line: &str| -> Vec<String> { line.trim().trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect() };
    let names =
        |cell: &str| -> Vec<String> { cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect() };
    let mut lines = architecture.lines().skip_while(|line| cells(line) != header);
    lines.next();
    let rows = lines.skip(1).take_while(|line| line.trim_start().starts_with('|'));
    rows.map(cells).map(|row| [names(&row[0]), names(&row[1])]).collect()
}

// ---- what a source uses

/// The paths that a source uses, in full: `crate::a::b`, `tokio::sync::mpsc`.
#[derive(Default)]
struct Uses {
    /// The path of the module that is being read.
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Uses {
    /// Those of a file of the host, by its path relative to `host/`.
    fn of(path: &str, source: &str) -> Vec<Vec<String>> {
        let file = syn::parse_file(source).unwrap_or_else(|error| panic!("host/{path}: {error}"));
        let module = path.trim_end_matches(".rs").split('/').filter(|name| !matches!(*name, "lib" | "main"));
        let mut uses = Uses { module: module.map(str::to_owned).collect(), found: Vec::new() };
        uses.visit_file(&file);
        uses.found
    }

    fn add(&mut self, path: &[String]) {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let rest = &path[supers..];
        let absolute = match path.first().map(String::as_str) {
            Some("super") => {
                let above = self.module.len().checked_sub(supers).expect("a path stays in the crate");
                [&["crate".to_owned()], &self.module[..above], rest].concat()
            }
            Some("keyfold") => [&["crate".to_owned()], &path[1..]].concat(),
            Some("self") | None => return,
            Some(_) => path.to_vec(),
        };
        self.found.push(absolute);
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.add(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
        }
    }

    /// Paths in the tokens of a macro or an attribute.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Group(group) => {
                    self.end_path(&mut path);
                    self.tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.end_path(&mut path);
                    colons = 0;
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        if path.len() > 1 {
            self.add(path);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 {
            self.add(&names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone());
    }
}

/// Whether `path` is `name` or below it.
fn is_below(path: &[String], name: &str) -> bool {
    let name: Vec<&str> = name.split("::").collect();
    path.len() >= name.len() && path.iter().zip(&name).all(|(have, want)| have == want)
}

// ---- layers

/// The modules of host/ from the bottom up, as the table of layers lists them.
fn layers(architecture: &str) -> Vec<String> {
    table(architecture, ["layer", "modules"]).into_iter().flat_map(|[_, modules]| modules).collect()
}

/// Imports of a file that go up: a module uses only those before it in `order`.
fn upward(order: &[String], path: &str, source: &str) -> Vec<String> {
    let own = path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let rank = |module: &str| order.iter().position(|name| name == module);
    let Some(here) = rank(own) else { return vec![format!("host/{path}: {own} stands in no layer")] };
    let up = |used: &Vec<String>| -> Option<String> {
        let module = used.get(1).filter(|_| used[0] == "crate")?;
        let there = rank(module)?;
        (there > here).then(|| format!("host/{path}: {own} may not use {module}: {}", used.join("::")))
    };
    Uses::of(path, source).iter().filter_map(up).collect()
}

#[test]
fn no_module_of_the_host_uses_one_above_it() {
    let order = layers(&read(&root().join("host/ARCHITECTURE.md")));
    let (files, mut broken) = (host(), Vec::new());
    let modules: BTreeSet<&str> =
        files.iter().filter_map(|(path, _)| path.split('/').next()?.trim_end_matches(".rs").into()).collect();
    let listed: BTreeSet<&str> = order.iter().map(String::as_str).chain(["lib", "main"]).collect();
    assert_eq!(modules, listed, "the table of layers in host/ARCHITECTURE.md lists every module of host/ once");
    for (path, source) in files.iter().filter(|(path, _)| !matches!(path.as_str(), "lib.rs" | "main.rs")) {
        broken.extend(upward(&order, path, source));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn an_upward_use_is_found_however_it_is_written() {
    let order = ["clock", "source", "lane"].map(str::to_owned);
    let check = |path: &str, source: &str, up: bool| {
        assert_eq!(!upward(&order, path, source).is_empty(), up, "{path}: {source}");
    };
    check("source/merge.rs", "use crate::lane::Lane;", true);
    check("source/merge.rs", "use crate::{clock, lane::{time, core}};", true);
    check("source/merge.rs", "use super::super::lane;", true);
    check("source.rs", "fn f() { let x = crate::lane::x(); }", true);
    check("source.rs", "fn f() { println!(\"{}\", crate::lane::x()); }", true);
    check("source.rs", "#[cfg(test)] mod tests { use super::*; use crate::lane::Lane; }", true);
    check("source.rs", "mod a { fn f() { super::super::lane::x() } }", true);
    check("source.rs", "impl T for crate::lane::Lane {}", true);
    check("lane/time.rs", "use crate::{clock, source::{self, merge}};", false);
    check("source.rs", "//! See crate::lane.\nconst S: &str = \"crate::lane::x\";", false);
    check("source.rs", "use crate::clock; mod lane { pub fn x() {} }", false);
    check("nowhere.rs", "", true);
}

/// Lines of a source's path that break the table of forbidden uses.
fn forbidden_uses(path: &str, source: &str, names: &[String]) -> Vec<String> {
    let uses = Uses::of(path, source);
    let broken =
        |name: &String| uses.iter().find(|used| is_below(used, name)).map(|used| (name.clone(), used.join("::")));
    names.iter().filter_map(broken).map(|(name, used)| format!("host/{path} may not use {name}: {used}")).collect()
}

#[test]
fn no_file_uses_what_the_architecture_forbids_it() {
    let forbidden = table(&read(&root().join("host/ARCHITECTURE.md")), ["file", "may not use"]);
    assert!(!forbidden.is_empty(), "host/ARCHITECTURE.md has the table `| file | may not use |`");
    let mut broken = Vec::new();
    for [files, names] in &forbidden {
        for file in files {
            broken.extend(forbidden_uses(file, &code_before_tests(&read(&root().join("host").join(file))), names));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A source without its test modules, which may start threads and write files.
fn code_before_tests(source: &str) -> String {
    use quote::ToTokens;
    let mut file = syn::parse_file(source).expect("a source of the host");
    let is_test = |attribute: &syn::Attribute| {
        attribute.path().is_ident("cfg") && attribute.to_token_stream().to_string().contains("test")
    };
    file.items.retain(|item| !matches!(item, syn::Item::Mod(module) if module.attrs.iter().any(is_test)));
    file.to_token_stream().to_string()
}

#[test]
fn forbidden_uses_are_found_and_others_are_not() {
    let names = ["tokio".to_owned(), "std::fs".to_owned()];
    let check =
        |source: &str, expect: bool| assert_eq!(!forbidden_uses("a.rs", source, &names).is_empty(), expect, "{source}");
    check("use tokio::sync::mpsc;", true);
    check("use tokio;", true);
    check("use tokio as runtime;", true);
    check("use std::{env, fs::{self, File}};", true);
    check("fn f() { let handle = tokio::spawn(work); }", true);
    check("fn f() { assert!(std::fs::read(path).is_ok()); }", true);
    check("#[tokio::main] async fn main() {}", true);
    check("/// Runs on tokio::spawn.\nfn f() {}", false);
    check("use tokio_stream::StreamExt;", false);
    check("const NAME: &str = \"tokio::spawn\";", false);
    let text = "text\n\n| file | may not use |\n|---|---|\n| a.rs, `b/c.rs` | tokio, `rdkafka` |\n\nmore";
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<String>>();
    assert_eq!(table(text, ["file", "may not use"]), [[names(&["a.rs", "b/c.rs"]), names(&["tokio", "rdkafka"])]]);
}

// ---- sizes

/// The functions of a source with their lines.
#[derive(Default)]
struct Functions(Vec<(String, usize)>);

impl Functions {
    fn add(&mut self, attributes: &[syn::Attribute], signature: &syn::Signature, whole: proc_macro2::Span) {
        let excepted = attributes.iter().any(|attribute| {
            use quote::ToTokens;
            let text = attribute.to_token_stream().to_string();
            text.contains("too_many_lines") && text.contains("reason")
        });
        let lines = whole.end().line + 1 - signature.span().start().line;
        if !excepted {
            self.0.push((signature.ident.to_string(), lines));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.attrs, &item.sig, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.attrs, &item.sig, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn files_and_functions_of_the_host_fit() {
    let known = oversized();
    let mut found = BTreeSet::new();
    for (path, source) in host() {
        if source.lines().count() > FILE_LINES {
            found.insert(path.clone());
        }
        let mut functions = Functions::default();
        functions.visit_file(&syn::parse_file(&source).expect("a source of the host"));
        found.extend(
            functions.0.iter().filter(|(_, lines)| *lines > FUNCTION_LINES).map(|(name, _)| format!("{path}: {name}")),
        );
    }
    let listed: BTreeSet<String> = known
        .into_iter()
        .map(|[what, reason]| {
            assert!(!reason.join(",").is_empty(), "{what:?}: an exception has a reason");
            what.join(",")
        })
        .collect();
    assert_eq!(
        found, listed,
        "files over {FILE_LINES} lines and functions over {FUNCTION_LINES}: split them, or list them with a reason in host/ARCHITECTURE.md"
    );
}

/// The exceptions from the limits of size, from the table `| too large | why |`.
fn oversized() -> Vec<[Vec<String>; 2]> {
    table(&read(&root().join("host/ARCHITECTURE.md")), ["too large", "why"])
}

// ---- invariants and events

#[test]
fn each_invariant_is_named_by_a_test() {
    let architecture = read(&root().join("host/ARCHITECTURE.md"));
    let invariants: Vec<String> = architecture
        .lines()
        .filter_map(|line| line.strip_prefix("- **I")?.split_once('.').map(|(number, _)| format!("i{number}_")))
        .collect();
    assert!(invariants.len() >= 10, "{invariants:?}");
    let all: Vec<(String, String)> = host().into_iter().chain(sources("tests")).collect();
    for prefix in invariants {
        let named = |(_, source): &(String, String)| {
            let lines: Vec<&str> = source.lines().map(str::trim).collect();
            lines.windows(2).any(|pair| pair[0] == "#[test]" && pair[1].starts_with(&format!("fn {prefix}")))
        };
        assert!(all.iter().any(named), "no test is named `fn {prefix}...`");
    }
}

/// Macros that log, with their tokens.
#[derive(Default)]
struct Events(Vec<String>);

impl<'ast> Visit<'ast> for Events {
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let names: Vec<String> = item.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() == 2
            && names[0] == "tracing"
            && matches!(names[1].as_str(), "info" | "warn" | "error" | "debug" | "trace")
        {
            self.0.push(item.tokens.to_string());
        }
    }
}

#[test]
fn every_log_line_of_the_host_has_an_event_id() {
    let mut count = 0;
    for (path, source) in host() {
        let mut events = Events::default();
        events.visit_file(&syn::parse_file(&source).expect("a source of the host"));
        for tokens in events.0 {
            count += 1;
            // What plugins and librdkafka log has a target instead: the wording is theirs.
            let ok = tokens.starts_with("event = ") || tokens.starts_with("target :");
            assert!(ok, "host/{path}: a log line begins with `event = \"...\"`: {tokens}");
        }
    }
    assert!(count > 40, "{count} log lines");
}

// ---- the contract

/// The code of a WIT file: its text without comments, and with each run of whitespace as one space.
fn code(wit: &str) -> String {
    let lines = wit.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// Doc comments are not part of the contract: the host refuses a plugin built against another version, and better wording is no reason to
/// rebuild every plugin. All else is: the hash covers every name, type, order and annotation.
#[test]
fn the_contract_changes_its_version_with_its_code() {
    let text = read(&root().join("wit/keyfold.wit"));
    assert!(!text.contains("/*"), "wit/keyfold.wit has a block comment: use `//` or `///`, which this test leaves out");
    let version = text.lines().find_map(|line| line.strip_prefix("package keyfold:mapper@")?.strip_suffix(';'));
    let version = version.expect("wit/keyfold.wit begins with `package keyfold:mapper@<version>;`");
    let hash: String = Sha256::digest(code(&text).as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = read(&root().join("tests/golden/wit.sha256"));
    let known = golden.lines().find_map(|line| line.strip_prefix(version)?.strip_prefix(' '));
    assert_eq!(
        known,
        Some(hash.as_str()),
        "wit/keyfold.wit differs from version {version} in more than comments: raise its version, and add `<version> <hash>` to \
         tests/golden/wit.sha256"
    );
}

#[test]
fn comments_and_whitespace_are_not_part_of_the_contract_and_all_else_is() {
    let check = |other: &str, same: bool| {
        assert_eq!(code("/// A key.\nrecord key {\n  name: string, // UTF-8\n}\n") == code(other), same, "{other}");
    };
    check("// Another comment.\nrecord key {\n\tname: string,\n}", true);
    check("record key {\n  names: string,\n}", false);
    check("record key {\n  name: u32,\n}", false);
    check("record key {\n  name: string,\n  more: string,\n}", false);
    check("record key {\n  // name: string,\n}", false);
}
