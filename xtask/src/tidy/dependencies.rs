//! Other people's crates are guests: named once in the root manifest, each with its reason.

use toml::{Table, Value};

use super::{Problem, Text, Tree};

const ROOT: &str = "Cargo.toml";
const KINDS: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = tree.text(ROOT).map(reasons).unwrap_or_default();
    let members = tree.texts("/Cargo.toml").filter(|manifest| manifest.crate_name().is_some());
    problems.extend(members.flat_map(from_the_workspace));
    problems
}

/// Every line of `[workspace.dependencies]` that names a guest ends with a reason.
fn reasons(root: &Text) -> Vec<Problem> {
    let numbered = root.content.lines().enumerate();
    let section = numbered.skip_while(|(_, line)| line.trim() != "[workspace.dependencies]").skip(1);
    let section = section.take_while(|(_, line)| !line.starts_with('['));
    let guests =
        section.filter(|(_, line)| line.contains('=') && !line.starts_with('#') && !line.contains("path ="));
    let unexplained = guests.filter(|(_, line)| reason(line).is_none_or(|reason| reason.trim().is_empty()));
    unexplained
        .map(|(index, line)| {
            let name = line.split(['=', '.']).next().unwrap_or(line).trim();
            let what = format!("the dependency `{name}` has no reason");
            Problem::new(ROOT, index + 1, what, "say on the same line, after `#`, what it is for")
        })
        .collect()
}

/// What stands behind the first `#` outside a string.
fn reason(line: &str) -> Option<&str> {
    let mut in_string = false;
    for (at, letter) in line.char_indices() {
        match letter {
            '"' => in_string = !in_string,
            '#' if !in_string => return Some(&line[at + 1..]),
            _ => {}
        }
    }
    None
}

fn from_the_workspace(manifest: &Text) -> Vec<Problem> {
    let Ok(table) = manifest.content.parse::<Table>() else {
        return Vec::new();
    };
    let platforms = table.get("target").and_then(Value::as_table).into_iter().flatten();
    let tables = platforms.filter_map(|(_, platform)| platform.as_table()).chain([&table]);
    let dependencies = tables.flat_map(|table| KINDS.iter().filter_map(|kind| table.get(*kind)?.as_table()));
    let own = dependencies.flatten().filter(|(_, value)| !is_from_workspace(value));
    own.map(|(name, _)| {
        let line = manifest.content.lines().position(|line| line.starts_with(name.as_str()));
        let what = format!("the dependency `{name}` does not come from the workspace");
        let remedy =
            format!("name it in {ROOT} with its reason and write `{name} = {{ workspace = true }}` here");
        Problem::new(&manifest.path, line.map_or(1, |index| index + 1), what, remedy)
    })
    .collect()
}

fn is_from_workspace(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    fn check_file(path: &str, content: &str) -> String {
        shown(&check(&Tree::of(&[(path, content)])))
    }

    #[test]
    fn guests_with_reasons() {
        let root = "[workspace.dependencies]\nleveret-amqp = { path = \"crates/amqp\" }\nbytes = \"1\" # slices\n[lints]\na = 1";
        assert_eq!(check_file("Cargo.toml", root), "");
    }

    #[test]
    fn a_guest_without_a_reason() {
        for guest in ["bytes = \"1\"", "bytes = \"1\" #", "bytes = { version = \"1#\" }"] {
            let said = check_file("Cargo.toml", &format!("[workspace.dependencies]\n{guest}\n"));
            assert!(
                said.starts_with("Cargo.toml:2: the dependency `bytes` has no reason"),
                "{guest}: {said}"
            );
        }
    }

    #[test]
    fn a_guest_through_the_door() {
        let manifest = "[dependencies]\nbytes.workspace = true\nrand = { workspace = true, features = [] }\n";
        assert_eq!(check_file("crates/amqp/Cargo.toml", manifest), "");
    }

    #[test]
    fn a_guest_through_the_window() {
        for section in ["dependencies", "dev-dependencies", "target.'cfg(unix)'.dependencies"] {
            let said = check_file("crates/amqp/Cargo.toml", &format!("[{section}]\nrand = \"1\"\n"));
            assert!(said.starts_with("crates/amqp/Cargo.toml:2: the dependency `rand`"), "{section}: {said}");
        }
    }
}
