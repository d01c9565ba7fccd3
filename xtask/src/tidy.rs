//! The rules of the house, one module each. A check reads the [`Tree`] and returns what is wrong.

mod arrows;
mod banned_text;
mod decisions;
mod dependencies;
mod file_size;
mod function_length;
mod links;
mod names;
mod tree;
mod unsafe_code;

use std::fmt;

use anyhow::Result;

pub use tree::{Text, Tree};

/// One broken rule: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path from the root of the workspace.
    pub file: String,
    /// First line is 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    fn new(file: &str, line: usize, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}\n    {}", self.file, self.line, self.what, self.remedy)
    }
}

/// What all checks together found.
#[derive(Debug)]
pub struct Report {
    /// How many files were looked at.
    pub files: usize,
    /// Must be mended.
    pub problems: Vec<Problem>,
    /// Worth a look.
    pub warnings: Vec<Problem>,
}

/// Runs every check over the tree.
///
/// # Errors
/// When `cargo metadata` or the list of long functions cannot be read.
pub fn check(tree: &Tree) -> Result<Report> {
    let mut problems = arrows::check(&tree.metadata()?)?;
    problems.extend(function_length::check(tree, &function_length::Ratchet::read(tree)?));
    problems.extend(file_size::check(tree));
    problems.extend(names::check(tree));
    problems.extend(banned_text::check(tree));
    problems.extend(unsafe_code::check(tree));
    problems.extend(dependencies::check(tree));
    problems.extend(decisions::check(tree));
    problems.extend(links::check(tree));
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(Report { files: tree.len(), problems, warnings: file_size::warnings(tree) })
}

#[cfg(test)]
fn shown(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}
