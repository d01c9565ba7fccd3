//! `docs/decisions/NNNN-name.md`, numbered from 0001 without a gap.

use super::{Problem, Tree};

const FOLDER: &str = "docs/decisions/";

pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let names = tree.paths().filter_map(|path| path.strip_prefix(FOLDER)).filter(|name| *name != "README.md");
    let wrong = names.zip(1_usize..).find(|(name, number)| !name.starts_with(&format!("{number:04}-")));
    wrong
        .map(|(name, number)| {
            let what = format!("the next decision should have number {number:04}");
            Problem::new(
                &format!("{FOLDER}{name}"),
                1,
                what,
                "rename it; numbers have no gaps and no doubles",
            )
        })
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    fn check_names(names: &[&str]) -> String {
        let paths: Vec<String> = names.iter().map(|name| format!("{FOLDER}{name}")).collect();
        let files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "")).collect();
        shown(&check(&Tree::of(&files)))
    }

    #[test]
    fn in_order() {
        assert_eq!(check_names(&["0001-a.md", "0002-b.md", "README.md"]), "");
    }

    #[test]
    fn a_gap_a_double_and_no_number() {
        assert!(check_names(&["0001-a.md", "0003-c.md"]).starts_with("docs/decisions/0003-c.md:1: "));
        assert!(check_names(&["0001-a.md", "0001-b.md"]).starts_with("docs/decisions/0001-b.md:1: "));
        assert!(check_names(&["journal.md"]).starts_with("docs/decisions/journal.md:1: "));
    }
}
