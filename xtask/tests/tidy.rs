//! The rules of the house hold for the repository as it is.

use xtask::tidy::{Tree, check};

#[test]
fn the_house_is_tidy() {
    let report = check(&Tree::of_workspace().unwrap()).unwrap();
    let said: String = report.problems.iter().map(|problem| format!("\n{problem}")).collect();
    assert!(report.problems.is_empty(), "{said}");
}
