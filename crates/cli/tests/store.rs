//! `leveret store` on the directory of a broker that was filled, stopped and damaged.

mod support;

use std::path::PathBuf;

use support::{Broker, Outcome, leveret};

fn store(command: &str, data: &std::path::Path) -> Outcome {
    leveret(&["store", command]).arg(data).output().expect("the binary was just built").into()
}

#[test]
fn a_missing_segment_keeps_a_broker_from_starting_until_it_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let broker = Broker::start(&data, &[]);
    let line = "x".repeat(1000) + "\n";
    let publish = ["publish", "--queue", "deep", "--declare", "--lines", "--window", "5000"];
    broker.run_with_input(&publish, line.repeat(30_000).as_bytes()).done();
    assert!(store("check", &data).failed().contains("another broker is using"), "while it runs");
    assert!(broker.terminate().success());
    let stats = store("stats", &data).done();
    assert!(stats.contains("1 queues, 30000 messages"), "{stats}");
    let checked = store("check", &data).done();
    assert!(checked.contains("all is well"), "{checked}");

    let segments: Vec<PathBuf> = std::fs::read_dir(data.join("segments/shard-0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    std::fs::remove_file(&segments[0]).unwrap();
    let refused = leveret(&["serve", "--amqp", "127.0.0.1:0", "--data-dir"]).arg(&data).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("is missing; it should hold") && why.contains("leveret store repair"), "{why}");
    let checked = store("check", &data);
    assert_eq!(checked.code, Some(1));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("is missing"), "{checked:?}");

    // A flipped bit is named, and nothing else is.
    let mut bytes = std::fs::read(&segments[1]).unwrap();
    let dump = |file: &PathBuf| leveret(&["dump", "--check"]).arg(file).output().unwrap();
    assert!(dump(&segments[1]).status.success());
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&segments[1], &bytes).unwrap();
    let dumped = dump(&segments[1]);
    assert_eq!(dumped.status.code(), Some(1), "{dumped:?}");
    assert!(String::from_utf8_lossy(&dumped.stdout).contains("1 damaged parts"), "{dumped:?}");
    bytes[at] ^= 4;
    std::fs::write(&segments[1], &bytes).unwrap();

    let repaired = store("repair", &data).done();
    assert!(repaired.contains("messages are lost"), "{repaired}");
    assert!(store("check", &data).done().contains("all is well"));
    let broker = Broker::start(&data, &[]);
    broker.run(&["consume", "--queue", "deep", "--count", "1"]).done();
    assert!(broker.terminate().success());
}
