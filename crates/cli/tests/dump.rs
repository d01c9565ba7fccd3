//! `leveret dump` of what a broker has written.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use support::{Broker, Outcome, leveret};

fn dump(path: &Path) -> Outcome {
    Outcome::from(leveret(&["dump", path.to_str().unwrap()]).output().unwrap())
}

/// The only file of a journal.
fn journal(data: &Path, name: &str) -> PathBuf {
    let files = std::fs::read_dir(data.join("journal").join(name)).unwrap();
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "journal");
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).filter(is_journal).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// What records say, without their positions and sizes.
fn says(text: &str, what: &str) -> bool {
    text.lines().any(|line| line.ends_with(what))
}

#[test]
fn what_was_just_written_can_be_read_while_the_broker_runs() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &["--shards", "1"]);
    broker.run(&["publish", "--queue", "orders", "--declare", "a", "b\u{1b}[31m", &"c".repeat(41)]).done();
    let (meta, shard) =
        (dump(&journal(dir.path(), "meta")).done(), dump(&journal(dir.path(), "shard-0")).done());
    assert!(meta.starts_with("journal 0, base 0, the first file\n"), "{meta}");
    assert!(says(&meta, "  queue 0 \"orders\" in \"/\" declared"), "{meta}");
    assert!(
        says(&meta, "  permissions of \"guest\" in \"/\" set: configure \".*\", write \".*\", read \".*\""),
        "{meta}"
    );
    assert!(
        says(&meta, "  user \"guest\" put: tags [administrator]"),
        "no password, not even its hash: {meta}"
    );
    assert!(says(&shard, "enqueue in queue 0 #1 to #3:"), "{shard}");
    for body in ["1 B \"a\"", "6 B \"b\\x1b[31m\"", &format!("41 B \"{}\"…", "c".repeat(40))] {
        let said = format!("    persistent, from \"\" by \"orders\", {body}");
        assert!(says(&shard, &said), "{shard}");
    }
}

#[test]
fn settlements_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &["--shards", "1"]);
    broker.run(&["publish", "--queue", "orders", "--declare", "a", "b", "c"]).done();
    broker.run(&["consume", "--queue", "orders", "--count", "2", "--ack"]).done();
    assert_eq!(broker.terminate().code(), Some(0));
    let shard = dump(&journal(dir.path(), "shard-0")).done();
    assert!(says(&shard, "settle in queue 0 #1 to #2"), "{shard}");
    assert!(says(&shard, "delivered from queue 0 up to #2"), "{shard}");
}

#[test]
fn what_is_no_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    let said = dump(&path).failed();
    assert_eq!(
        said,
        format!("leveret: cannot open {}: No such file or directory (os error 2)\n", path.display())
    );
    std::fs::write(&path, "buy milk\n".repeat(20)).unwrap();
    let said = dump(&path).failed();
    assert_eq!(
        said,
        format!("leveret: {} is no journal file: neither its header nor its name is\n", path.display())
    );
    assert!(dump(dir.path()).failed().contains("Is a directory"));
}

#[test]
fn nobody_reading_the_output_ends_it_quietly() {
    let dir = tempfile::tempdir().unwrap();
    drop(Broker::start(dir.path(), &["--shards", "1"]));
    let path = journal(dir.path(), "meta");
    let mut command = leveret(&["dump", path.to_str().unwrap()]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    assert_eq!(Outcome::from(child.wait_with_output().unwrap()).done(), "");
}
