//! `docs/compatibility.md` says what the code does: they know the same, and the tests that it names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use amqp::capabilities::Capabilities;
use amqp::error::Code;
use amqp::method::Method;
use broker::policy::{self, Tier};
use broker::topology::{EXCHANGE_ARGUMENTS, ExchangeKind};
use broker::{consuming, meta};

const PAGE: &str = include_str!("../../../../docs/compatibility.md");

struct Row {
    /// The heading above its table.
    table: &'static str,
    item: &'static str,
    status: &'static str,
    text: &'static str,
}

fn rows() -> Vec<Row> {
    let mut table = "";
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            table = heading;
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", item, status, text, ""] = cells[..]
            && !status.is_empty()
            && !status.starts_with('-')
        {
            rows.push(Row { table, item, status, text });
        }
    }
    rows
}

/// What stands between backquotes.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The items of a table that has them between backquotes, with their status.
fn items(table: &str) -> BTreeMap<&'static str, &'static str> {
    let mut items = BTreeMap::new();
    for row in rows().iter().filter(|row| row.table == table) {
        for item in code(row.item) {
            assert!(items.insert(item, row.status).is_none(), "{table}: two rows for {item}");
        }
    }
    items
}

/// Compares a table with what the code knows.
fn check<'a>(table: &str, known: impl IntoIterator<Item = &'a str>) {
    let items = items(table);
    let here: BTreeSet<_> =
        items.iter().filter(|(_, status)| **status != "absent").map(|(item, _)| *item).collect();
    let known: BTreeSet<_> = known.into_iter().collect();
    let untold: Vec<_> = known.difference(&here).collect();
    assert!(untold.is_empty(), "{table}: the code knows {untold:?}; no row says how they are supported");
    let unknown: Vec<_> = here.difference(&known).collect();
    assert!(unknown.is_empty(), "{table}: there is a row for {unknown:?}, and the code does not know them");
}

/// What is kept and changes nothing is not as with RabbitMQ, and the row must say why.
fn check_effects(table: &str, has_effect: impl Fn(&str) -> bool) {
    for (item, status) in items(table) {
        assert!(
            status != "supported" || has_effect(item),
            "{table}: {item} changes nothing, so it is different"
        );
    }
}

#[test]
fn methods() {
    check("Methods", Method::NAMES.iter().copied());
}

#[test]
fn capabilities() {
    let all = Capabilities::ALL.to_table();
    check("Capabilities", all.as_table().iter().map(|(key, _)| key));
}

#[test]
fn reply_codes() {
    let codes = (0..=u16::MAX).filter_map(Code::from_value);
    let codes: Vec<_> = codes.map(|code| format!("{} {}", code.value(), code.name())).collect();
    check("Reply codes", codes.iter().map(String::as_str));
}

#[test]
fn arguments_of_queues() {
    check("Arguments of queues", meta::queue_arguments());
    check_effects("Arguments of queues", meta::queue_argument_has_effect);
}

#[test]
fn arguments_of_consumers() {
    check("Arguments of consumers", consuming::ARGUMENTS);
}

#[test]
fn exchanges() {
    check("Types of exchanges", ExchangeKind::ALL.map(ExchangeKind::as_str));
    check("Arguments of exchanges", EXCHANGE_ARGUMENTS);
}

#[test]
fn keys_of_policies() {
    check("Keys of policies", policy::keys(Tier::User));
    check_effects("Keys of policies", policy::has_effect);
    check("Keys of operator policies", policy::keys(Tier::Operator));
}

/// Where a test that a row names should be.
fn path_of(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if file.contains('/') { root.join(file) } else { root.join("tests/clients").join(file) }
}

#[test]
fn rows_name_tests_that_exist() {
    for Row { item, status, text, .. } in rows() {
        assert!(["supported", "different", "absent"].contains(&status), "{item} is {status}");
        let mut tests = 0;
        for test in code(text) {
            let (file, function) =
                test.split_once("::").map_or((test, None), |(file, name)| (file, Some(name)));
            if !(file.ends_with(".py") || file.ends_with(".rs")) {
                continue;
            }
            tests += 1;
            let content = std::fs::read_to_string(path_of(file));
            let content = content.unwrap_or_else(|error| panic!("{item}: {file}: {error}"));
            let has =
                |name: &str| ["def", "fn"].iter().any(|word| content.contains(&format!("{word} {name}(")));
            assert!(function.is_none_or(has), "{item}: {file} has no {}", function.unwrap_or_default());
        }
        assert!(tests > 0 || status == "absent", "{item} is {status}, and no test shows it");
    }
}

#[test]
fn all_tables_are_read() {
    let tables: BTreeSet<_> = rows().iter().map(|row| row.table).collect();
    assert_eq!(tables.len(), PAGE.matches("\n## ").count());
    let lines = PAGE.lines().filter(|line| line.starts_with("| ") && !line.contains("| | how it differs"));
    assert_eq!(rows().len(), lines.count(), "each line of a table is a row of three cells");
}
