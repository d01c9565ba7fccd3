//! What must not be left lying about: unfinished code, debugging, ignored tests, sleeps in tests.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::{Problem, Text, Tree};

const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
/// Written in two halves, so that this file may be checked too.
const MARKS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];
const MARKED_FILES: &[&str] = &[".rs", ".py", ".mjs", ".js", ".toml", "Makefile", "/run"];
const PYTHON_SLEEPS: &[&str] = &["time.sleep(", "asyncio.sleep("];

const NO_SLEEP: &str = "wait for the event with a time limit, or pause time";

pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for ending in MARKED_FILES {
        tree.texts(ending).for_each(|text| marks(text, &mut problems));
    }
    for text in tree.texts(".py").filter(|text| text.is_test()) {
        python_sleeps(text, &mut problems);
    }
    for (text, file) in tree.rust() {
        let tests = TestLines::of(text, file);
        let Ok(tokens) = text.content.parse() else {
            continue;
        };
        for (span, what, remedy) in rust(tokens, &tests) {
            problems.push(Problem::new(&text.path, span.start().line, what, remedy));
        }
    }
    problems
}

fn marks(text: &Text, problems: &mut Vec<Problem>) {
    for (line, mark) in lines_with(text, MARKS) {
        if has_word(line.1, mark) {
            let what = format!("`{mark}` marks something unfinished");
            problems.push(Problem::new(
                &text.path,
                line.0,
                what,
                "finish it, or open an issue and remove the mark",
            ));
        }
    }
}

fn python_sleeps(text: &Text, problems: &mut Vec<Problem>) {
    for (line, call) in lines_with(text, PYTHON_SLEEPS) {
        problems.push(Problem::new(&text.path, line.0, format!("`{call}…)` in a test"), NO_SLEEP));
    }
}

fn lines_with<'a>(text: &'a Text, needles: &'a [&str]) -> impl Iterator<Item = ((usize, &'a str), &'a str)> {
    let lines = text.content.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.flat_map(move |line| {
        needles.iter().filter(move |needle| line.1.contains(**needle)).map(move |needle| (line, *needle))
    })
}

fn has_word(line: &str, word: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word))
}

type Found = (Span, String, &'static str);

/// Looks at every token, also inside macros, and never at strings or comments.
fn rust(tokens: TokenStream, tests: &TestLines) -> Vec<Found> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let next = &tokens[index + 1..];
        match token {
            TokenTree::Group(group) => found.extend(rust(group.stream(), tests)),
            TokenTree::Punct(punct) if punct.as_char() == '#' && is_ignore(next) => found.push((
                punct.span(),
                "an ignored test".to_owned(),
                "make it pass or remove it; what takes long goes behind `make torture`",
            )),
            TokenTree::Ident(ident)
                if MACROS.iter().any(|name| ident == name) && is_punct(next.first(), '!') =>
            {
                found.push((ident.span(), format!("`{ident}!` is left in the code"), "finish it"));
            }
            TokenTree::Ident(ident) if is_sleep(ident, next) && tests.contain(ident.span()) => {
                found.push((ident.span(), format!("`{ident}::sleep` in a test"), NO_SLEEP));
            }
            _ => {}
        }
    }
    found
}

fn is_ignore(next: &[TokenTree]) -> bool {
    let Some(TokenTree::Group(group)) = next.first() else {
        return false;
    };
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket
        && matches!(first, Some(TokenTree::Ident(ident)) if ident == "ignore")
}

/// `thread::sleep` or `time::sleep`, however much stands before it.
fn is_sleep(ident: &proc_macro2::Ident, next: &[TokenTree]) -> bool {
    let sleeps = matches!(next.get(2), Some(TokenTree::Ident(called)) if called == "sleep");
    (ident == "thread" || ident == "time") && is_punct(next.first(), ':') && sleeps
}

fn is_punct(token: Option<&TokenTree>, letter: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == letter)
}

/// Which lines of a file are test code.
struct TestLines(Vec<std::ops::RangeInclusive<usize>>);

impl TestLines {
    fn of(text: &Text, file: &syn::File) -> Self {
        if text.is_test() {
            return Self(vec![0..=usize::MAX]);
        }
        let mut lines = Self(Vec::new());
        lines.visit_file(file);
        lines
    }

    fn contain(&self, span: Span) -> bool {
        self.0.iter().any(|range| range.contains(&span.start().line))
    }
}

impl<'ast> Visit<'ast> for TestLines {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_cfg_test = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
        };
        match &item.content {
            Some((braces, _)) if item.attrs.iter().any(is_cfg_test) => {
                let span = braces.span;
                self.0.push(span.open().start().line..=span.close().end().line);
            }
            _ => visit::visit_item_mod(self, item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    fn check_file(path: &str, source: &str) -> String {
        shown(&check(&Tree::of(&[(path, source)])))
    }

    fn check_source(source: &str) -> String {
        check_file("crates/broker/src/lib.rs", source)
    }

    #[test]
    fn words_in_strings_and_names_are_fine() {
        assert_eq!(check_source(r#"fn ignore() { print("todo!"); let dbg = XXXL; } // todo! later"#), "");
    }

    #[test]
    fn unfinished_code_and_debugging_even_in_a_macro() {
        for name in MACROS {
            let said = check_source(&format!("fn f() {{\n    assert!({name}!(1));\n}}"));
            assert!(said.starts_with(&format!("crates/broker/src/lib.rs:2: `{name}!`")), "{said}");
        }
    }

    #[test]
    fn marks_in_comments() {
        for mark in MARKS {
            assert!(check_source(&format!("// {mark}: later")).contains(":1: `"), "{mark}");
            assert!(check_file("Makefile", &format!("# {mark}")).contains("Makefile:1: "), "{mark}");
        }
    }

    #[test]
    fn ignored_tests() {
        assert!(check_source("#[test]\n#[ignore = \"slow\"]\nfn f() {}").contains(":2: an ignored test"));
    }

    #[test]
    fn sleeps_in_tests_only() {
        assert_eq!(check_source("fn f() { std::thread::sleep(pause); }"), "");
        let module = "#[cfg(test)]\nmod tests {\n    fn f() { tokio::time::sleep(pause); }\n}";
        assert!(check_source(module).contains(":3: `time::sleep` in a test"));
        let said = check_file("crates/server/tests/kill.rs", "fn f() { thread::sleep(pause); }");
        assert!(said.contains("kill.rs:1: `thread::sleep`"), "{said}");
        let said = check_file("tests/clients/test_pika.py", "time.sleep(1)");
        assert!(said.contains("test_pika.py:1: "), "{said}");
    }
}
