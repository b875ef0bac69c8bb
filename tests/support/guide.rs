//! Documentation as tests follow it: its blocks of code, word by word.

use std::path::{Path, PathBuf};

/// A file of the repository.
pub(crate) fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// A block of code: its language, and the paragraph before it.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) before: String,
    pub(crate) text: String,
}

/// All blocks of a text, also those indented in a list.
pub(crate) fn blocks(markdown: &str) -> Vec<Block> {
    let (mut found, mut open, mut before, mut indent) = (Vec::new(), None::<Block>, String::new(), "");
    for line in markdown.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                indent = &line[..line.len() - line.trim_start().len()];
                open = Some(Block { language: language.to_owned(), before: before.clone(), text: String::new() });
            }
            (Some(block), None) => {
                block.text.push_str(line.strip_prefix(indent).unwrap_or(line));
                block.text.push('\n');
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, None) if line.is_empty() => {}
            (None, None) => line.clone_into(&mut before),
        }
    }
    found
}

/// The block that stands for a file: the one after "`name`:".
pub(crate) fn file_block(blocks: &[Block], name: &str) -> String {
    let block = blocks.iter().find(|block| block.before == format!("`{name}`:"));
    block.unwrap_or_else(|| panic!("there is a block of code after \"`{name}`:\"")).text.clone()
}

/// The text of the guide for authors under this heading.
pub(crate) fn section(title: &str) -> String {
    let guide = read("plugins/README.md");
    let section = guide.split("\n## ").find(|section| section.lines().next() == Some(title));
    section.unwrap_or_else(|| panic!("plugins/README.md has a section {title:?}")).to_owned()
}

/// The commands in a text's blocks of the language `sh`.
pub(crate) fn commands(text: &str) -> String {
    blocks(text).into_iter().filter(|block| block.language == "sh").map(|block| block.text).collect()
}
