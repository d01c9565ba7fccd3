//! No function is longer than 70 lines, but for those in `xtask/ratchet.toml`, which may only shrink.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use syn::visit::{self, Visit};

use super::{Problem, Tree};

const LINES_MAX: usize = 70;
const LIST: &str = "xtask/ratchet.toml";

/// The long functions that are tolerated, each with its length.
pub(super) struct Ratchet(BTreeMap<String, usize>);

impl Ratchet {
    pub(super) fn read(tree: &Tree) -> Result<Self> {
        let text = tree.text(LIST).with_context(|| format!("{LIST} is missing"))?;
        let table: toml::Table = text.content.parse().with_context(|| format!("{LIST} is not TOML"))?;
        let entry = |(name, lines): (String, toml::Value)| {
            let lines = lines.as_integer().and_then(|lines| usize::try_from(lines).ok());
            Ok((name.clone(), lines.with_context(|| format!("{LIST}: `{name}` is not a number of lines"))?))
        };
        table.into_iter().map(entry).collect::<Result<_>>().map(Self)
    }
}

pub(super) fn check(tree: &Tree, ratchet: &Ratchet) -> Vec<Problem> {
    let mut unused = ratchet.0.clone();
    let mut problems = Vec::new();
    for (text, file) in tree.rust() {
        for function in functions(file) {
            let name = format!("{}::{}", text.path, function.name);
            let listed = ratchet.0.get(&name).copied();
            if function.lines > LINES_MAX {
                unused.remove(&name);
            }
            if let Some((what, remedy)) = verdict(&function, listed) {
                problems.push(Problem::new(&text.path, function.line, what, remedy));
            }
        }
    }
    problems.extend(unused.keys().map(|name| {
        let what = format!("`{name}` is within {LINES_MAX} lines or gone");
        Problem::new(LIST, 1, what, "remove its line, so that it stays so")
    }));
    problems
}

fn verdict(function: &Function, listed: Option<usize>) -> Option<(String, String)> {
    let Function { name, lines, .. } = function;
    if *lines <= LINES_MAX {
        return None;
    }
    match listed {
        None => Some((
            format!("function `{name}` is {lines} lines, the limit is {LINES_MAX}"),
            "give its parts names of their own".to_owned(),
        )),
        Some(before) if *lines > before => Some((
            format!("function `{name}` grew from {before} to {lines} lines"),
            format!("it is over the limit of {LINES_MAX} and may only shrink: take something out"),
        )),
        Some(before) if *lines < before => Some((
            format!("function `{name}` shrank from {before} to {lines} lines"),
            format!("write {lines} in {LIST}, so that it stays so"),
        )),
        Some(_) => None,
    }
}

struct Function {
    /// With its type, if it has one.
    name: String,
    line: usize,
    /// From the signature to the closing brace; attributes and documentation do not count.
    lines: usize,
}

fn functions(file: &syn::File) -> Vec<Function> {
    let mut walk = Walk::default();
    walk.visit_file(file);
    walk.found
}

#[derive(Default)]
struct Walk {
    of_type: Option<String>,
    found: Vec<Function>,
}

impl Walk {
    fn record(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.fn_token.span.start().line, block.brace_token.span.close().end().line);
        let name = match &self.of_type {
            Some(of_type) => format!("{of_type}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        self.found.push(Function { name, line: first, lines: last - first + 1 });
    }

    fn inside(&mut self, of_type: Option<String>, walk: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.of_type, of_type);
        walk(self);
        self.of_type = before;
    }
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.record(&item.sig, &item.block);
        self.inside(None, |walk| visit::visit_item_fn(walk, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.record(&item.sig, &item.block);
        self.inside(None, |walk| visit::visit_impl_item_fn(walk, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.record(&item.sig, block);
        }
        self.inside(None, |walk| visit::visit_trait_item_fn(walk, item));
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of_type = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
            _ => None,
        };
        self.inside(of_type, |walk| visit::visit_item_impl(walk, item));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.inside(Some(item.ident.to_string()), |walk| {
            visit::visit_item_trait(walk, item);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    const FILE: &str = "crates/amqp/src/frame.rs";

    /// A method of so many lines, its attribute not counted.
    fn check_method(lines: usize, ratchet: &[(&str, usize)]) -> String {
        let body = "        ();\n".repeat(lines - 2);
        let source = format!("impl Frame {{\n    #[inline]\n    fn decode() {{\n{body}    }}\n}}\n");
        let ratchet = Ratchet(ratchet.iter().map(|(name, lines)| ((*name).to_owned(), *lines)).collect());
        shown(&check(&Tree::of(&[(FILE, &source)]), &ratchet))
    }

    const NAME: &str = "crates/amqp/src/frame.rs::Frame::decode";

    #[test]
    fn at_the_limit() {
        assert_eq!(check_method(70, &[]), "");
    }

    #[test]
    fn one_line_over() {
        let said = check_method(71, &[]);
        assert!(
            said.starts_with("crates/amqp/src/frame.rs:3: function `Frame::decode` is 71 lines"),
            "{said}"
        );
    }

    #[test]
    fn listed_and_as_it_was() {
        assert_eq!(check_method(90, &[(NAME, 90)]), "");
    }

    #[test]
    fn listed_and_grown() {
        assert!(check_method(91, &[(NAME, 90)]).contains("grew from 90 to 91"));
    }

    #[test]
    fn listed_and_shrunk_must_be_said() {
        assert!(check_method(89, &[(NAME, 90)]).contains("write 89 in"));
    }

    #[test]
    fn listed_without_need() {
        assert!(check_method(60, &[(NAME, 90)]).starts_with("xtask/ratchet.toml:1: "));
    }
}
