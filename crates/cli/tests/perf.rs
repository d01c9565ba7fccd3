//! `leveret perf` against `leveret serve`: it counts what it should, and finds what is wrong.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod support;

use serde_json::Value;
use support::Broker;
use tempfile::TempDir;

/// Runs `leveret perf` with these options and returns what `--json` printed.
fn perf(broker: &Broker, options: &str) -> Value {
    let mut arguments = vec!["perf", "--json"];
    arguments.extend(options.split_whitespace());
    let output = broker.client(&arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{options}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn messages(report: &Value, what: &str) -> Option<u64> {
    report[what]["messages"].as_u64()
}

#[test]
fn published_confirmed_consumed_and_verified() {
    let directory = TempDir::new().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let options = "--count 5000 --producers 2 --consumers 3 --queues 4 --size 100 --persistent --confirm 100 --ack 10 --verify";
    let report = perf(&broker, options);
    assert_eq!(
        ["published", "confirmed", "consumed"].map(|what| messages(&report, what)),
        [Some(5000); 3],
        "{report}"
    );
    assert_eq!(report["verified"], true);
    assert_eq!(report["missing"], 0);
}

#[test]
fn bodies_of_several_frames_and_of_none() {
    let directory = TempDir::new().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let report = perf(&broker, "--count 20 --size 300000 --verify");
    assert_eq!(messages(&report, "consumed"), Some(20), "{report}");
    let report = perf(&broker, "--count 1000 --size 0");
    assert_eq!(messages(&report, "consumed"), Some(1000), "{report}");
}

#[test]
fn a_fanout_brings_every_message_to_every_queue() {
    let directory = TempDir::new().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let report = perf(&broker, "--count 100 --fanout 7 --consumers 2 --confirm 10 --ack 1 --verify");
    assert_eq!(
        ["published", "consumed"].map(|what| messages(&report, what)),
        [Some(100), Some(700)],
        "{report}"
    );
}

#[test]
fn a_filled_queue_is_drained() {
    let directory = TempDir::new().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let report = perf(&broker, "--consume-only --prefill 3000 --ack 100");
    assert_eq!(messages(&report, "consumed"), Some(3000), "{report}");
    assert!(report["published"].is_null(), "{report}");
}

#[test]
fn a_fixed_rate_tells_latencies() {
    let directory = TempDir::new().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let report = perf(&broker, "--count 200 --rate 2000 --confirm 50 --persistent --ack 1");
    for latency in ["delivery_latency_us", "confirm_latency_us"] {
        assert_eq!(report[latency]["messages"], 200, "{report}");
        assert!(report[latency]["p50"].as_f64() <= report[latency]["p99.9"].as_f64(), "{report}");
    }
}

#[test]
fn what_cannot_work_is_told() {
    let directory = TempDir::new().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let wrong_user = format!("amqp://nobody:x@{}", broker.address());
    for (options, expected) in [
        (&["perf", "--size", "15", "--verify", "--count", "1"][..], "--size is 15"),
        (&["perf", "--url", &wrong_user, "--count", "1"], "ACCESS_REFUSED"),
        (&["perf", "--ack", "11", "--prefetch", "10", "--count", "1"], "--ack is 11"),
    ] {
        let output = broker.client(options).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(expected), "{options:?}: {errors}");
    }
}
