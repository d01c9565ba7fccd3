//! No Rust file is longer than 800 lines; over 400 it is worth a look.

use super::{Problem, Tree};

const LINES_MAX: usize = 800;
const LINES_LOOK: usize = 400;

pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let over = sizes(tree).filter(|(_, lines)| *lines > LINES_MAX);
    over.map(|(path, lines)| {
        let what = format!("{lines} lines, the limit is {LINES_MAX}");
        Problem::new(path, LINES_MAX + 1, what, "find the noun that wants a file of its own")
    })
    .collect()
}

pub(super) fn warnings(tree: &Tree) -> Vec<Problem> {
    let long = sizes(tree).filter(|(_, lines)| (LINES_LOOK + 1..=LINES_MAX).contains(lines));
    long.map(|(path, lines)| {
        let what = format!("{lines} lines, the aim is under {LINES_LOOK}");
        Problem::new(path, LINES_LOOK + 1, what, "is there a noun that wants a file of its own?")
    })
    .collect()
}

fn sizes(tree: &Tree) -> impl Iterator<Item = (&str, usize)> {
    tree.texts(".rs").map(|text| (text.path.as_str(), text.content.lines().count()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    fn tree(lines: usize) -> Tree {
        Tree::of(&[("crates/amqp/src/lib.rs", &"\n".repeat(lines))])
    }

    #[test]
    fn at_the_limits() {
        assert_eq!((check(&tree(800)), warnings(&tree(400))), (vec![], vec![]));
    }

    #[test]
    fn over_the_aim() {
        assert!(shown(&warnings(&tree(401))).starts_with("crates/amqp/src/lib.rs:401: 401 lines"));
    }

    #[test]
    fn over_the_limit() {
        assert!(shown(&check(&tree(801))).starts_with("crates/amqp/src/lib.rs:801: 801 lines, the limit"));
        assert_eq!(warnings(&tree(801)), []);
    }
}
