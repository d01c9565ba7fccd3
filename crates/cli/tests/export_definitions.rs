//! `leveret export-definitions`: what a broker had is what another gets.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::{Broker, Outcome, leveret};

const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clients/definitions.json");

fn export(arguments: &[&str]) -> Outcome {
    let arguments = [&["export-definitions", "--data-dir"], arguments].concat();
    Outcome::from(leveret(&arguments).output().unwrap())
}

#[test]
fn what_one_broker_had_another_gets() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (first, second, file) = (path("first"), path("second"), path("definitions.json"));
    let broker = Broker::start(Path::new(&first), &["--definitions", DEFINITIONS]);
    broker.run(&["publish", "--queue", "orders", "--declare", "a"]).done();
    // The hash of guest's password may become a better one at any moment.
    let beside = export(&[&first]).done();
    assert!(beside.contains(r#""name": "orders""#), "{beside}");
    assert!(broker.terminate().success());

    export(&[&first, &file]).done();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = export(&[&first]).done();
    assert_eq!(text, std::fs::read_to_string(&file).unwrap());
    for expected in [r#""name": "orders""#, r#""user": "topical""#, r#""name": "second""#] {
        assert!(text.contains(expected), "{text}");
    }

    let broker = Broker::start(Path::new(&second), &["--definitions", &file]);
    broker.run(&["publish", "--queue", "orders", "b"]).done();
    assert!(broker.terminate().success());
    assert_eq!(export(&[&second]).done(), text);
}

#[test]
fn a_directory_that_is_none_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let refused = export(&[dir.path().to_str().unwrap()]).failed();
    assert!(refused.contains("is no data directory"), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
}
