//! Rules that no compiler checks: who may know whom (a table in host/ARCHITECTURE.md), and that the contract changes its version with its
//! code.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Rows of the table `| file | may not use |`: files under host/, and crates or modules.
fn forbidden(architecture: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let cells =
        |line: &str| -> Vec<String> { line.trim().trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect() };
    let names =
        |cell: &str| -> Vec<String> { cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect() };
    let mut lines = architecture.lines().skip_while(|line| cells(line) != ["file", "may not use"]);
    lines.next();
    let rows = lines.skip(1).take_while(|line| line.trim_start().starts_with('|'));
    rows.map(cells).map(|row| (names(&row[0]), names(&row[1]))).collect()
}

/// Lines of `source` that use `name`, comments and tests left out.
fn uses<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default().lines().map(str::trim);
    code.filter(|line| !line.starts_with("//") && uses_in_line(line, name)).collect()
}

fn uses_in_line(line: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let whole = !before.ends_with(word) && !after.starts_with(word);
        let imported = before.trim_end().ends_with("use") && (after.starts_with(';') || after.starts_with(" as "));
        whole && (after.starts_with("::") || imported)
    })
}

#[test]
fn no_file_uses_what_the_architecture_forbids_it() {
    let table = forbidden(&read(&root().join("host/ARCHITECTURE.md")));
    assert!(!table.is_empty(), "host/ARCHITECTURE.md has the table `| file | may not use |`");
    let mut broken = Vec::new();
    for (files, names) in &table {
        for file in files {
            let source = read(&root().join("host").join(file));
            let found = names.iter().flat_map(|name| uses(&source, name).into_iter().map(move |line| (name, line)));
            broken.extend(found.map(|(name, line)| format!("host/{file} may not use {name}: {line}")));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn forbidden_uses_are_found_and_others_are_not() {
    let check = |line: &str, expect: bool| assert_eq!(!uses(line, "tokio").is_empty(), expect, "{line}");
    check("use tokio::sync::mpsc;", true);
    check("use tokio;", true);
    check("use tokio as runtime;", true);
    check("    let handle = tokio::spawn(work);", true);
    check("/// Runs on tokio::spawn.", false);
    check("use tokio_stream::StreamExt;", false);
    check("let name = \"tokio\";", false);
    let table = forbidden("text\n\n| file | may not use |\n|---|---|\n| a.rs, `b/c.rs` | tokio, `rdkafka` |\n\nmore");
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<String>>();
    assert_eq!(table, [(names(&["a.rs", "b/c.rs"]), names(&["tokio", "rdkafka"]))]);
}

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
