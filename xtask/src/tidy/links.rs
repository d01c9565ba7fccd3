//! A link in Markdown to a file of the repository leads somewhere.

use super::{Problem, Text, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let all = tree.texts(".md").flat_map(|text| links(text).into_iter().map(move |link| (text, link)));
    let broken = all.filter(|(text, (_, target))| !leads_somewhere(tree, &text.path, target));
    broken
        .map(|(text, (line, target))| {
            let what = format!("the link to `{target}` leads nowhere");
            Problem::new(
                &text.path,
                line,
                what,
                "mend the path (from this file, or from the root with a leading /)",
            )
        })
        .collect()
}

/// Line and target of each `[text](target)` outside code.
fn links(text: &Text) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut found = Vec::new();
    for (index, line) in text.content.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            let outside_spans = line.split('`').step_by(2);
            found.extend(outside_spans.flat_map(targets).map(|target| (index + 1, target)));
        }
    }
    found
}

/// Also finds `](target)` where the text before was a code span.
fn targets(piece: &str) -> impl Iterator<Item = &str> {
    piece.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

fn leads_somewhere(tree: &Tree, from: &str, target: &str) -> bool {
    let path = target.split('#').next().unwrap_or(target);
    if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let base =
        if path.starts_with('/') { "" } else { from.rsplit_once('/').map_or("", |(folder, _)| folder) };
    normal(base, path).is_some_and(|path| tree.holds(&path))
}

/// `base/path` without `.` and `..`; none when it leaves the repository.
fn normal(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;

    fn check_page(page: &str) -> String {
        shown(&check(&Tree::of(&[("docs/testing.md", page), ("README.md", ""), ("examples/shop/run", "")])))
    }

    #[test]
    fn links_that_lead_somewhere() {
        let page = "[a](../README.md#start) [b](https://example.org/x) [`c`](/examples/shop) [d](#here)\n\
                    ```\n[e](nowhere)\n```\n`[f](nowhere)`";
        assert_eq!(check_page(page), "");
    }

    #[test]
    fn links_that_do_not() {
        for target in ["README.md", "../LICENSE", "../../README.md", "/examples/bank"] {
            let said = check_page(&format!("\nsee [`x`]({target}), please"));
            assert!(said.starts_with("docs/testing.md:2: the link to"), "{target}: {said}");
        }
    }
}
