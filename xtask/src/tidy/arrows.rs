//! Which crate may use which. Arrows point down only; a new one needs a decision record and a line here.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Problem;

/// Each crate and what it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["server", "amqp", "broker", "store"]),
    ("server", &["amqp", "broker", "store"]),
    ("broker", &["amqp"]),
    ("store", &[]),
    ("amqp", &[]),
    // The bare program that Leveret is measured against speaks AMQP, and shall not do so worse than Leveret.
    ("xtask", &["amqp"]),
];

/// What its tests may use besides.
const TEST_ARROWS: &[(&str, &[&str])] = &[];

/// Compares the output of `cargo metadata` with the tables.
pub(super) fn check(metadata: &Value) -> Result<Vec<Problem>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut problems = Vec::new();
    for package in packages {
        let from = short(package["name"].as_str().context("a package has no name")?);
        let manifest = format!("{}/Cargo.toml", directory(from));
        if row(ARROWS, from).is_none() {
            let what = format!("the crate `{from}` is not in the table of arrows");
            problems.push(Problem::new(&manifest, 1, what, REMEDY));
            continue;
        }
        let dependencies = package["dependencies"].as_array().context("a package has no dependencies")?;
        let inside = dependencies.iter().filter(|dependency| dependency["path"].is_string());
        for dependency in inside {
            let to = short(dependency["name"].as_str().context("a dependency has no name")?);
            let in_tests = dependency["kind"] == "dev";
            if !allowed(from, to, in_tests) {
                let kind = if in_tests { "test dependency" } else { "dependency" };
                let what = format!("{kind} {from} → {to} is not in the table of arrows");
                problems.push(Problem::new(&manifest, 1, what, REMEDY));
            }
        }
    }
    Ok(problems)
}

const REMEDY: &str = "remove it, or write docs/decisions/ and a line in xtask/src/tidy/arrows.rs";

fn allowed(from: &str, to: &str, in_tests: bool) -> bool {
    let named = |table| row(table, from).is_some_and(|targets| targets.contains(&to));
    named(ARROWS) || (in_tests && named(TEST_ARROWS))
}

fn row(table: &[(&str, &'static [&'static str])], from: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(name, _)| *name == from).map(|(_, targets)| *targets)
}

fn short(package: &str) -> &str {
    package.strip_prefix("leveret-").unwrap_or(package)
}

fn directory(from: &str) -> String {
    if from == "xtask" { from.to_owned() } else { format!("crates/{from}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::shown;
    use serde_json::json;

    fn metadata(from: &str, to: &str, kind: Option<&str>) -> Value {
        let dependency = json!({ "name": to, "kind": kind, "path": "/somewhere" });
        json!({ "packages": [{ "name": from, "dependencies": [dependency] }] })
    }

    #[test]
    fn an_arrow_down_is_fine() {
        let problems = check(&metadata("leveret-server", "leveret-broker", None)).unwrap();
        assert_eq!(problems, []);
    }

    #[test]
    fn an_arrow_up_is_not_even_in_tests() {
        let problems = check(&metadata("leveret-amqp", "leveret-server", Some("dev"))).unwrap();
        assert!(shown(&problems).starts_with("crates/amqp/Cargo.toml:1: test dependency amqp → server"));
    }

    #[test]
    fn an_arrow_aside_is_not() {
        let problems = check(&metadata("leveret-broker", "leveret-store", None)).unwrap();
        assert!(shown(&problems).contains("dependency broker → store is not in the table"));
    }

    #[test]
    fn a_crate_that_the_table_does_not_know() {
        let problems = check(&metadata("leveret-extra", "leveret-amqp", None)).unwrap();
        assert!(shown(&problems).contains("`extra` is not in the table"));
    }
}
