//! What must not be seen, and by whom.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use support::{Broker, Outcome, leveret};

/// The hash of `test12`, as RabbitMQ writes it.
const TEST12: &str = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";

fn run(broker: &Broker, login: &str, arguments: &[&str]) -> Outcome {
    let url = format!("amqp://{login}@{}", broker.address());
    leveret(arguments).env("LEVERET_URL", url).stdin(Stdio::null()).output().unwrap().into()
}

fn audited(data: &Path) -> Outcome {
    leveret(&["audit", data.to_str().unwrap()]).output().unwrap().into()
}

#[test]
fn passwords_are_in_no_log_and_in_nothing_that_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let [data, log, definitions] = ["data", "log", "definitions.json"].map(|name| dir.path().join(name));
    let text = format!(
        r#"{{"users": [{{"name": "plain", "password": "taint-plain", "tags": ""}},
                       {{"name": "hashed", "password_hash": "{TEST12}", "tags": ""}}],
            "vhosts": [{{"name": "/"}}],
            "permissions": [{{"user": "plain", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}},
                            {{"user": "hashed", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}}]}}"#
    );
    std::fs::write(&definitions, &text).unwrap();
    let arguments = ["--definitions", definitions.to_str().unwrap()];
    let broker = Broker::start_logging(&data, &arguments, "trace", File::create(&log).unwrap().into());
    let publish = ["publish", "--queue", "q", "--declare", "x"];
    let mut said = Vec::new();
    for login in ["plain:taint-plain", "hashed:test12"] {
        said.push(run(&broker, login, &publish).done());
    }
    for login in ["plain:taint-wrong", "nobody:taint-plain"] {
        said.push(run(&broker, login, &publish).failed());
    }
    std::fs::write(&definitions, text.replace("taint-plain", "taint-changed")).unwrap();
    broker.hang_up();
    while run(&broker, "plain:taint-changed", &publish).code != Some(0) {}
    assert_eq!(broker.terminate().code(), Some(0));

    said.push(std::fs::read_to_string(&log).unwrap());
    said.push(audited(&data).done());
    let data_dir = data.to_str().unwrap();
    let export = leveret(&["export-definitions", "--data-dir", data_dir]).output().unwrap();
    said.push(Outcome::from(export).done());
    for said in &said {
        assert!(!said.contains("taint") && !said.contains("test12"), "a password is in {said}");
    }
    let with_hashes = said.pop().unwrap();
    assert!(with_hashes.contains("$argon2id$"), "definitions have hashes: {with_hashes}");
    for journal in files(&data.join("journal/meta")) {
        let dump = leveret(&["dump", journal.to_str().unwrap()]).output().unwrap();
        said.push(Outcome::from(dump).done());
    }
    assert!(said.iter().any(|said| said.contains("hashed")), "the user is in the dump");
    for said in said {
        assert!(!said.contains("$argon2id$") && !said.contains(TEST12), "a hash is in {said}");
    }
}

#[test]
fn what_a_stranger_sends_is_one_short_line_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let broker =
        Broker::start_logging(&dir.path().join("data"), &[], "info", File::create(&log).unwrap().into());
    let user = format!("stranger%0D%0A2026-01-01T00%3A00%3A00Z%20INFO%20forged%1B{}", "%07".repeat(2000));
    run(&broker, &format!("{user}:x"), &["publish", "--queue", "q", "x"]).failed();
    assert_eq!(broker.terminate().code(), Some(0));
    let log = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("forged")).collect();
    assert!(matches!(&lines[..], [line] if line.contains("stranger") && line.len() <= 1024), "{lines:?}");
    assert!(log.lines().all(|line| line.len() <= 1024 && !line.contains(|c: char| c.is_control())), "{log}");
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn the_data_directory_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let broker = Broker::start(&data, &[]);
    for queue in ["../../etc/passwd", "/tmp/x", "a/../../b"] {
        broker.run(&["publish", "--queue", queue, "--declare", "x"]).done();
        broker.run(&["consume", "--queue", queue, "--count", "1"]).done();
    }
    assert_eq!(broker.terminate().code(), Some(0));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let files = files(&data);
    assert!(files.len() > 4, "{files:?}");
    for file in &files {
        assert_eq!((mode(file), mode(file.parent().unwrap())), (0o600, 0o700), "{}", file.display());
        assert!(!file.to_str().unwrap().contains("passwd"), "a name became a path");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside the data directory");
}

#[test]
fn a_changed_audit_log_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Broker::start(dir.path(), &[]).terminate().code(), Some(0));
    let said = audited(dir.path()).done();
    assert!(said.starts_with("2 lines, all as they were written; the last has the hash "), "{said}");
    let path = dir.path().join("audit.log");
    let log = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, log.replacen("administrator", "administratos", 1)).unwrap();
    let said = audited(dir.path()).failed();
    assert_eq!(said, format!("leveret: {}, line 1: this line was changed\n", path.display()));
}
