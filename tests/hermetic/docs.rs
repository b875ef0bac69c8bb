//! Checks that the documentation is true: generated references, commands, configurations, links and images in the guides, and the invariants
//! and the code map of host/ARCHITECTURE.md. With `UPDATE=1`, the generated references are written instead of compared.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{CommandFactory, Parser};
use keyfold::commands::cli::Arguments;
use keyfold::config;
use keyfold::observe::metrics;
use serde_json::Value;

use crate::support::guide::{Block, blocks, file_block, read, root};
use crate::support::host::Pipeline;

/// The page that says how to run a pipeline.
const OPERATIONS: &str = "host/docs/operations.md";

/// The pages that users read: README.md, the guides, and everything in host/docs/.
fn pages() -> Vec<String> {
    let mut pages = ["README.md", "docker/README.md", "plugins/README.md"].map(str::to_owned).to_vec();
    for entry in std::fs::read_dir(root().join("host/docs")).expect("a folder of the repository") {
        let name = entry.expect("a folder of the repository").file_name();
        pages.push(format!("host/docs/{}", name.to_str().expect("files have plain names")));
    }
    assert!(pages.len() >= 8, "{pages:?}");
    pages
}

/// Compares the generated part of `page`, from `<!-- name: begin -->` to `<!-- name: end -->`, or writes it with `UPDATE=1`.
fn check_generated(page: &str, name: &str, from: &str, generated: &str) {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->\n"));
    let text = read(page);
    let (head, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{page} has no {begin}"));
    let (table, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{page} has no {end}"));
    if std::env::var_os("UPDATE").is_some_and(|update| update == "1") {
        let updated = [head, &begin, "\n", generated, "\n", &end, tail].concat();
        std::fs::write(root().join(page), updated).expect("the page is writable");
        return;
    }
    assert_eq!(table.trim(), generated.trim(), "{page} is behind {from}: run this test with UPDATE=1");
}

/// The calls of keyfold in a block, in a container or not: arguments, the first being the program.
fn calls(block: &Block) -> Vec<Vec<String>> {
    let words = |line: &str| -> Vec<String> {
        let ends = [" #", " < ", " > "];
        let command = ends.iter().fold(line, |command, end| command.split(end).next().unwrap_or_default());
        command.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
    };
    let text = block.text.replace("\\\n", " ");
    let lines: Vec<Vec<String>> = text.lines().map(words).collect();
    lines.iter().filter_map(|words| call(words)).collect()
}

fn call(words: &[String]) -> Option<Vec<String>> {
    let at = match words.first()?.as_str() {
        "keyfold" => 0,
        "cargo" if words.get(1)? == "run" => words.iter().position(|word| word == "--")?,
        "./x" if words.get(1)? == "demo" => 0,
        "docker" if words.iter().any(|word| word == "run" || word == "exec") => {
            let at = words.iter().rposition(|word| word == "keyfold" || word.starts_with("keyfold:"))?;
            // Without arguments the image runs its default command.
            words.get(at + 1).map(|_| at)?
        }
        _ => return None,
    };
    Some(std::iter::once("keyfold".to_owned()).chain(words[at + 1..].iter().cloned()).collect())
}

#[test]
fn the_reference_of_the_configuration_is_that_of_its_keys() {
    check_generated("host/docs/configuration.md", "configuration", "config/keys.rs", &config::reference());
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let (dashboard, known) = (read("docker/grafana/keyfold.json"), metrics::names().collect::<BTreeSet<_>>());
    let names: BTreeSet<&str> = dashboard
        .match_indices("keyfold_")
        .map(|(at, _)| {
            dashboard[at..].split(|c: char| !(c.is_ascii_lowercase() || c == '_')).next().unwrap_or_default()
        })
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let name = name.trim_end_matches("_bucket");
        assert!(known.contains(name), "docker/grafana/keyfold.json shows {name}, which there is not");
    }
}

#[test]
fn the_reference_of_the_metrics_is_that_of_the_host() {
    check_generated("host/docs/metrics.md", "metrics", "metrics.rs", &metrics::reference());
}

#[test]
fn the_readme_fits_on_a_few_screens() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: move what is reference to host/docs/");
}

#[test]
fn the_commands_of_the_documentation_exist() {
    let mut seen = 0;
    for name in pages() {
        for call in blocks(&read(&name)).iter().filter(|block| block.language == "sh").flat_map(calls) {
            let parsed = Arguments::try_parse_from(&call);
            assert!(parsed.is_ok(), "{name}: `{}`: {}", call.join(" "), parsed.expect_err("just seen"));
            seen += 1;
        }
    }
    assert!(seen >= 50, "the pages show commands in blocks of the language sh, {seen} found");
}

/// The spans of code in running text that begin with `keyfold `; blocks of code are left out.
fn spans(text: &str) -> Vec<Vec<String>> {
    let mut prose = String::new();
    let mut is_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            prose.push_str(line.trim_start_matches(['#', ' ']));
            prose.push(' ');
        }
    }
    let code = prose.split('`').skip(1).step_by(2);
    code.filter(|code| code.starts_with("keyfold "))
        .map(|code| code.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// What is wrong with a command in running text: a subcommand or a flag that does not exist.
fn wrong_in(span: &[String]) -> Option<&str> {
    let root = Arguments::command();
    let mut command = &root;
    for word in &span[1..] {
        if let Some(flag) = word.strip_prefix("--") {
            let flag = flag.split(|c: char| !(c.is_alphanumeric() || c == '-')).next().unwrap_or_default();
            let mut known =
                command.get_arguments().chain(root.get_arguments().filter(|argument| argument.is_global_set()));
            if !known.any(|argument| argument.get_long() == Some(flag)) && flag != "help" && flag != "version" {
                return Some(word);
            }
        } else if command.has_subcommands() {
            // A placeholder or a flag may follow a command, but not in the place of a subcommand.
            command = match command.find_subcommand(word.trim_end_matches(',')) {
                Some(subcommand) => subcommand,
                None => return Some(word),
            };
        }
    }
    None
}

#[test]
fn the_commands_named_in_running_text_exist() {
    let others = [
        "CHANGELOG.md",
        "keyfold.example.toml",
        "docker/keyfold.toml",
        "docker/kubernetes.yaml",
        "docker/compose.yaml",
    ];
    let mut seen = 0;
    for name in pages().iter().map(String::as_str).chain(others) {
        for span in spans(&read(name)) {
            assert_eq!(wrong_in(&span), None, "{name}: `{}`", span.join(" "));
            seen += 1;
        }
    }
    assert!(seen >= 60, "{seen} found");
}

#[test]
fn commands_in_running_text_are_judged() {
    let check = |text: &str, expect: Option<&str>| {
        let found = spans(text);
        let wrong: Vec<&str> = found.iter().filter_map(|span| wrong_in(span)).collect();
        assert_eq!(wrong, expect.into_iter().collect::<Vec<_>>(), "{text}");
    };
    check("Run `keyfold check -c FILE`,\n then `keyfold\nplugin check FILE` and `keyfold run --watch new.wasm`.", None);
    check("Not `keyfold rnu` nor `other rnu`.", Some("rnu"));
    check("Not `keyfold plugin rnu`.", Some("rnu"));
    check("Not `keyfold run --untl-end`.", Some("--untl-end"));
    check("```sh\nkeyfold rnu\n```\nNot `keyfold health --redy`, but `keyfold state list`.", Some("--redy"));
}

#[test]
fn the_quick_start_gives_what_its_page_says() {
    let blocks = blocks(&read(OPERATIONS));
    let pipeline = Pipeline::new(&file_block(&blocks, "keyfold.toml"));
    pipeline.write("visits.ndjson", file_block(&blocks, "visits.ndjson").as_bytes());
    let rows = file_block(&blocks, "sessions.ndjson");
    let written = || std::fs::read_to_string(pipeline.path("sessions.ndjson")).expect("the run wrote rows");
    pipeline.call("check", &[]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    assert_eq!(written(), rows);
    pipeline.call("reset", &[]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    assert_eq!(written(), rows, "after a reset");
    let letters = std::fs::read_to_string(pipeline.path("dead-letters.ndjson")).expect("the run wrote a dead letter");
    let letter: Value = serde_json::from_str(&letters).expect("one line of JSON");
    let reason = letter["reason"].as_str().expect("a dead letter has a reason");
    assert!(read(OPERATIONS).contains(&format!("`{reason}`")), "{OPERATIONS} gives another reason than {reason}");
}

#[test]
fn the_configurations_that_are_shown_are_right() {
    for name in ["keyfold.example.toml", "docker/keyfold.toml"] {
        let loaded = config::load(&root().join(name), std::iter::empty());
        assert!(loaded.is_ok(), "{}", loaded.expect_err("just seen"));
    }
}

#[test]
fn samples_of_the_guide_stand_in_code_that_is_compiled() {
    let compiled = [read("host/author/rust/lib.rs"), read("plugins/sdk/tests/state.rs")];
    let samples: Vec<Block> =
        blocks(&read("plugins/README.md")).into_iter().filter(|block| block.language == "rust").collect();
    assert!(!samples.is_empty(), "the guide shows code");
    for sample in samples {
        assert!(compiled.iter().any(|code| code.contains(&sample.text)), "nowhere compiled: {}", sample.text);
    }
}

/// The anchor that a heading gets: lower case, spaces as hyphens, without punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|&c| c.is_alphanumeric() || c == ' ' || c == '-' || c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let others = ["CHANGELOG.md", "host/ARCHITECTURE.md"].map(str::to_owned);
    for name in pages().into_iter().chain(others) {
        let (text, folder) = (read(&name), root().join(Path::new(&name).parent().expect("a file's name")));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root().join(&name) } else { folder.join(file) };
            assert!(file.exists(), "{name}: there is no {target}");
            if !heading.is_empty() {
                let page = std::fs::read_to_string(file).expect("a page with headings");
                let mut headings =
                    page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
                assert!(headings.any(|known| anchor(known) == heading), "{name}: there is no heading {target}");
            }
        }
    }
}

#[test]
fn the_container_s_files_name_this_version_and_this_compiler() {
    let version = env!("CARGO_PKG_VERSION");
    for name in ["docker/compose.yaml", "docker/kubernetes.yaml", "docker/README.md"] {
        let text = read(name);
        let images = text.split("keyfold:").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let others: Vec<&str> = images.filter(|rest| !rest.starts_with(version)).collect();
        assert!(text.contains(&format!("keyfold:{version}")) && others.is_empty(), "{name} names keyfold:{version}");
    }
    let dockerfile = read("docker/Dockerfile");
    assert!(dockerfile.contains(&format!("ARG VERSION={version}\n")), "docker/Dockerfile is behind Cargo.toml");
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split('"').nth(1).expect("the channel comes first");
    assert!(
        dockerfile.contains(&format!("rust:{channel}-")),
        "docker/Dockerfile builds with another compiler than {channel}"
    );
}

// ---- host/ARCHITECTURE.md

/// The files under host/, by their paths in it.
fn host_files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("a folder of the repository").path();
        if path.is_dir() {
            host_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root().join("host")).expect("below host/");
            found.insert(name.to_str().expect("files have plain names").to_owned());
        }
    }
}

fn all_host_files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    host_files(&root().join("host"), &mut found);
    found
}

/// `I1`, `I2` and so on in a text.
fn invariants(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let numbered =
        |word: &&str| word.strip_prefix('I').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    words.filter(numbered).map(str::to_owned)
}

#[test]
fn every_invariant_is_cited_and_every_citation_is_one() {
    let architecture = read("host/ARCHITECTURE.md");
    let heads = architecture.lines().filter_map(|line| line.strip_prefix("- **I")?.split_once(".** "));
    let stated: BTreeSet<String> = heads.map(|(number, _)| format!("I{number}")).collect();
    let numbers: BTreeSet<String> = (1..=stated.len()).map(|n| format!("I{n}")).collect();
    assert_eq!(stated, numbers, "invariants are numbered from 1 without gaps");
    let mut cited = BTreeSet::new();
    for file in all_host_files() {
        let source = read(&format!("host/{file}"));
        let comments = source.lines().filter_map(|line| line.split_once("//")).map(|(_, comment)| comment);
        cited.extend(comments.flat_map(invariants));
    }
    assert_eq!(cited, stated, "left: cited in host/, right: stated in host/ARCHITECTURE.md");
}

#[test]
fn the_code_map_names_every_file_of_the_host_once() {
    let architecture = read("host/ARCHITECTURE.md");
    let (_, rest) = architecture.split_once("## Code map\n").expect("there is a code map");
    let (map, _) = rest.split_once("\n## ").expect("something follows the code map");
    let named: Vec<String> = map
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(file, _)| file.to_owned())
        .collect();
    let once: BTreeSet<String> = named.iter().cloned().collect();
    assert_eq!(named.len(), once.len(), "no file stands twice in the code map");
    assert_eq!(once, all_host_files(), "left: the code map, right: host/");
}

#[test]
fn blocks_calls_and_invariants_are_found() {
    let found = blocks(
        "text\n\n`a.toml`:\n\n```toml\nx = 1\n```\n\n```sh\nFOO=1 keyfold run\nkeyfold run -c a.toml < b # why\ncargo run --release -- demo\ncargo test\n./x demo\n./x test\nkeyfold schema > a.json\n```\n\n1. Indented:\n\n   ```sh\n   docker compose run -v \"$PWD:/a\" keyfold \\\n     reset\n   docker compose start keyfold\n   docker run keyfold:1.0\n   ```\n",
    );
    assert_eq!(file_block(&found, "a.toml"), "x = 1\n");
    let expected = [
        vec!["keyfold", "run", "-c", "a.toml"],
        vec!["keyfold", "demo"],
        vec!["keyfold", "demo"],
        vec!["keyfold", "schema"],
    ];
    assert_eq!(calls(&found[1]), expected);
    assert_eq!(calls(&found[2]), [["keyfold", "reset"]]);
    assert_eq!(invariants(" Keeps I2 and I13; not I, Ix, XI4 or I/O.").collect::<Vec<_>>(), ["I2", "I13"]);
}
