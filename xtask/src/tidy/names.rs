//! Names that say nothing: of types, of modules and of crates.

use syn::visit::{self, Visit};

use super::{Problem, Tree};

/// In any place of a type's or module's name.
const WORDS: &[&str] = &["manager", "helper", "helpers", "util", "utils"];
/// At either end of a type's name.
const ENDS: &[&str] = &["impl"];
/// As a module's whole name.
const MODULES: &[&str] = &["common", "data", "info"];
/// As a crate's whole name.
const CRATES: &[&str] = &["common", "core", "types", "util", "utils"];

const REMEDY: &str = "name what it is or does; if nothing comes to mind, its parts belong elsewhere";

pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for manifest in tree.texts("/Cargo.toml") {
        let Some(name) = manifest.crate_name().filter(|name| CRATES.contains(name)) else {
            continue;
        };
        let what = format!("a crate called `{name}` collects what has no place");
        problems.push(Problem::new(&manifest.path, 1, what, REMEDY));
    }
    for (text, file) in tree.rust() {
        let mut walk = Walk::default();
        walk.visit_file(file);
        let found = walk.found.into_iter();
        problems.extend(found.map(|(line, what)| Problem::new(&text.path, line, what, REMEDY)));
    }
    problems
}

#[derive(Default)]
struct Walk {
    found: Vec<(usize, String)>,
}

impl Walk {
    fn type_name(&mut self, ident: &syn::Ident) {
        let words = words(&ident.to_string());
        let at_an_end =
            [words.first(), words.last()].into_iter().flatten().any(|w| ENDS.contains(&w.as_str()));
        if at_an_end || words.iter().any(|word| WORDS.contains(&word.as_str())) {
            self.found.push((ident.span().start().line, format!("the type name `{ident}` says nothing")));
        }
    }

    fn module_name(&mut self, ident: &syn::Ident) {
        let name = ident.to_string();
        if MODULES.contains(&name.as_str()) || name.split('_').any(|word| WORDS.contains(&word)) {
            self.found.push((ident.span().start().line, format!("the module name `{ident}` says nothing")));
        }
    }
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.type_name(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.type_name(&item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.type_name(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.type_name(&item.ident);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module_name(&item.ident);
        visit::visit_item_mod(self, item);
    }
}

/// The lower-case words of a `CamelCase` name.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for letter in name.chars() {
        match words.last_mut() {
            Some(word) if !letter.is_uppercase() => word.push(letter),
            _ => words.push(letter.to_lowercase().collect()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    fn check_source(source: &str) -> String {
        shown(&check(&Tree::of(&[("crates/broker/src/lib.rs", source)])))
    }

    #[test]
    fn names_that_say_something() {
        assert_eq!(check_source("struct Queue; enum Utility {} mod exchange {} trait Simple {}"), "");
    }

    #[test]
    fn types() {
        for name in ["QueueManager", "ManagerOfQueues", "FrameHelper", "TableUtils", "DiskImpl", "ImplDisk"] {
            let said = check_source(&format!("\nstruct {name};"));
            assert!(said.starts_with("crates/broker/src/lib.rs:2: the type name"), "{name}: {said}");
        }
    }

    #[test]
    fn modules() {
        for name in ["common", "frame_util", "helpers", "data"] {
            assert!(check_source(&format!("mod {name};")).contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn crates() {
        let said = shown(&check(&Tree::of(&[("crates/core/Cargo.toml", "")])));
        assert!(said.starts_with("crates/core/Cargo.toml:1: a crate called `core`"), "{said}");
    }
}
