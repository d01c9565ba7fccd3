//! Only the files in the list may contain `unsafe`.

use proc_macro2::{Span, TokenStream, TokenTree};

use super::{Problem, Tree};

/// Each is a file of its own and says, in SAFETY and WHY comments, why it is sound and why it is needed.
const FILES: &[&str] = &[
    // Settings of the C library's allocator, which no crate offers.
    "crates/cli/src/allocator.rs",
    // Counts allocations: an allocator cannot be written without it.
    "crates/amqp/tests/allocations.rs",
    "crates/server/tests/counts/allocator.rs",
    // Counts calls of the C library: what is called is a symbol, and defining one is unsafe.
    "crates/server/tests/counts/calls.rs",
];

pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (text, _) in tree.rust() {
        if FILES.contains(&text.path.as_str()) {
            continue;
        }
        let spans = text.content.parse().map(unsafe_words).unwrap_or_default();
        problems.extend(spans.into_iter().map(|span| {
            let remedy =
                "use a crate that hides it, or list a file of its own in xtask/src/tidy/unsafe_code.rs";
            Problem::new(&text.path, span.start().line, "`unsafe` where it may not be", remedy)
        }));
    }
    problems
}

fn unsafe_words(tokens: TokenStream) -> Vec<Span> {
    let words = |token| match token {
        TokenTree::Ident(ident) if ident == "unsafe" => vec![ident.span()],
        TokenTree::Group(group) => unsafe_words(group.stream()),
        _ => Vec::new(),
    };
    tokens.into_iter().flat_map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    #[test]
    fn an_unsafe_block() {
        let source = "// unsafe\nfn f() {\n    unsafe { g(\"unsafe\") }\n}";
        let said = shown(&check(&Tree::of(&[("crates/store/src/lib.rs", source)])));
        assert!(said.starts_with("crates/store/src/lib.rs:3: `unsafe`"), "{said}");
        assert_eq!(said.lines().count(), 2, "once");
    }

    #[test]
    fn a_listed_file() {
        assert_eq!(check(&Tree::of(&[(FILES[0], "unsafe fn f() {}")])), []);
    }
}
