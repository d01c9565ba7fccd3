//! The files of the repository, read once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One text file.
pub struct Text {
    /// From the root, with `/` between the parts.
    pub path: String,
    /// All of it.
    pub content: String,
    /// The same as Rust, if it is Rust that parses.
    pub rust: Option<syn::File>,
}

impl Text {
    /// A file with this path and content.
    pub fn new(path: &str, content: &str) -> Self {
        let rust = path.ends_with(".rs").then(|| syn::parse_file(content).ok()).flatten();
        Self { path: path.to_owned(), content: content.to_owned(), rust }
    }

    /// Whether the whole file is test code.
    pub(super) fn is_test(&self) -> bool {
        let in_tests = self.path.starts_with("tests/") || self.path.contains("/tests/");
        in_tests || self.path.ends_with("/tests.rs") || self.path.ends_with("_test.rs")
    }

    /// The directory's name under `crates/`, or `xtask`.
    pub(super) fn crate_name(&self) -> Option<&str> {
        let mut parts = self.path.split('/');
        match parts.next()? {
            "crates" => parts.next(),
            "xtask" => Some("xtask"),
            _ => None,
        }
    }
}

/// All files that git tracks or would track.
pub struct Tree {
    root: PathBuf,
    paths: BTreeSet<String>,
    texts: Vec<Text>,
}

impl Tree {
    /// The workspace this program was built from.
    ///
    /// # Errors
    /// When git cannot list the files.
    pub fn of_workspace() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root)
            .output()
            .context("git ls-files")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).context("a file name is not UTF-8")?;
        let paths = listed.split_terminator('\0').filter(|path| root.join(path).exists());
        let paths: BTreeSet<String> = paths.map(ToOwned::to_owned).collect();
        let read = |path: &String| Some(Text::new(path, &std::fs::read_to_string(root.join(path)).ok()?));
        let texts = paths.iter().filter_map(read).collect();
        Ok(Self { root: root.to_owned(), paths, texts })
    }

    /// A tree that is not on a disk.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let texts: Vec<Text> = files.iter().map(|(path, content)| Text::new(path, content)).collect();
        let paths = texts.iter().map(|text| text.path.clone()).collect();
        Self { root: PathBuf::new(), paths, texts }
    }

    /// How many files there are, whatever is in them.
    #[expect(clippy::len_without_is_empty, reason = "an empty repository has no xtask")]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// `cargo metadata` of the workspace, without other people's crates.
    pub(super) fn metadata(&self) -> Result<Value> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(&self.root)
            .output()
            .context("cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something else than JSON")
    }

    /// Whether a file or a directory of this path exists.
    pub(super) fn holds(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        path.is_empty() || self.paths.contains(path) || self.paths.iter().any(|p| p.starts_with(&inside))
    }

    /// All paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }

    /// The text file of this path.
    pub(super) fn text(&self, path: &str) -> Option<&Text> {
        self.texts.iter().find(|text| text.path == path)
    }

    /// All text files whose name ends so.
    pub(super) fn texts<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = &'a Text> {
        self.texts.iter().filter(move |text| text.path.ends_with(ending))
    }

    /// All Rust that parses; what does not is the compiler's to report.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&Text, &syn::File)> {
        self.texts.iter().filter_map(|text| Some((text, text.rust.as_ref()?)))
    }
}
