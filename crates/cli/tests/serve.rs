//! `leveret serve`: how it starts and stops.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use support::{Broker, Outcome, leveret, send};

fn serve(arguments: &[&str]) -> Outcome {
    Outcome::from(leveret(&[&["serve"], arguments].concat()).output().unwrap())
}

#[test]
fn a_typo_in_a_key_is_named_with_the_key_that_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leveret.toml");
    std::fs::write(&path, "data-dri = '/x'\n").unwrap();
    let path = path.to_str().unwrap();
    let expected = format!("leveret: in {path}: unknown key 'data-dri'; did you mean 'data-dir'?\n");
    assert_eq!(serve(&["--config", path]).misused(), expected);
    let found = leveret(&["serve"]).current_dir(dir.path()).output().unwrap();
    let expected = "leveret: in leveret.toml: unknown key 'data-dri'; did you mean 'data-dir'?\n";
    assert_eq!(Outcome::from(found).misused(), expected);
}

#[test]
fn a_configuration_can_be_checked_without_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let said = serve(&["--check-config", "--data-dir", data, "--shards", "2"]).done();
    assert_eq!(said, "the configuration makes sense\n");
    let said = serve(&["--check-config", "--data-dir", data, "--shards", "65"]).misused();
    assert_eq!(said, "leveret: shards is 65, expected 1 to 64\n");
    assert!(!dir.path().join("data").exists(), "nothing was created");
    serve(&["--shards", "many"]).misused();
}

#[test]
fn one_broker_per_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = Broker::start(dir.path(), &[]);
    let path = dir.path().to_str().unwrap();
    let said = serve(&["--log", "off", "--amqp", "127.0.0.1:0", "--data-dir", path]).failed();
    assert!(said.contains(&format!("another broker is using the data directory {path}")), "{said}");
    assert_eq!(first.terminate().code(), Some(0));
    assert_eq!(Broker::start(dir.path(), &[]).terminate().code(), Some(0));
}

#[test]
fn a_taken_address_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let first = Broker::start(&dir.path().join("first"), &[]);
    let second = dir.path().join("second");
    let address = first.address().to_string();
    let said = serve(&["--log", "off", "--amqp", &address, "--data-dir", second.to_str().unwrap()]).failed();
    assert!(said.contains(&format!("cannot listen at {address}: Address already in use")), "{said}");
}

#[test]
fn ctrl_c_stops_it_too() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Broker::start(dir.path(), &[]).stop_by(Signal::INT).code(), Some(0));
}

#[test]
fn clients_are_told_that_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &[]);
    broker.run(&["publish", "--queue", "q", "--declare", "a"]).done();
    let mut consumer = broker.client(&["consume", "--queue", "q"]).spawn().unwrap();
    read_line(consumer.stdout.take().unwrap());
    assert_eq!(broker.terminate().code(), Some(0));
    let said = Outcome::from(consumer.wait_with_output().unwrap()).failed();
    assert!(said.contains("consuming from queue 'q' failed: 320 CONNECTION_FORCED"), "{said}");
}

/// One has said nothing, one is in the middle of the handshake, and one is a consumer that has been stopped.
#[test]
fn clients_that_do_not_answer_cannot_hold_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &[]);
    let _silent = TcpStream::connect(broker.address()).unwrap();
    let mut greeted = TcpStream::connect(broker.address()).unwrap();
    greeted.write_all(b"AMQP\0\0\x09\x01").unwrap();
    greeted.read_exact(&mut [0]).unwrap();
    broker.run(&["publish", "--queue", "q", "--declare", "a"]).done();
    let mut consumer = broker.client(&["consume", "--queue", "q"]).spawn().unwrap();
    read_line(consumer.stdout.take().unwrap());
    send(&consumer, Signal::STOP);
    assert_eq!(broker.terminate().code(), Some(0));
    send(&consumer, Signal::KILL);
    consumer.wait().unwrap();
}

#[test]
fn logs_go_to_standard_error_as_json_if_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "serve",
        "--amqp",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--data-dir",
        dir.path().to_str().unwrap(),
    ];
    let mut child = leveret(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    read_line(child.stdout.take().unwrap());
    send(&child, Signal::TERM);
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(0));
    let lines: Vec<serde_json::Value> =
        outcome.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["fields"]["message"] == "listening for AMQP"), "{lines:?}");
}

fn read_line(from: impl Read) -> String {
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line).unwrap();
    line
}

/// Descriptors that the broker may have.
const DESCRIPTORS: u64 = 256;

#[test]
fn a_broker_that_is_out_of_descriptors_refuses_connections_and_goes_on_storing() {
    // For this process too; the broker inherits it.
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &["--shards", "1", "--journal-file-size", "1MiB"]);
    let publish = ["publish", "--queue", "deep", "--declare", "--lines", "--window", "1000"];
    let mut client = broker.client(&publish).spawn().unwrap();
    let mut lines = client.stdin.take().unwrap();
    let line = "x".repeat(1000) + "\n";
    lines.write_all(line.repeat(100).as_bytes()).unwrap();
    // As many as there can be, and more.
    let sockets: Vec<TcpStream> = (0..180).map(|_| TcpStream::connect(broker.address()).unwrap()).collect();
    let refused = |mut socket: &TcpStream| {
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        matches!(socket.read(&mut [0]), Ok(0)) || socket.write_all(b"AMQP").is_err()
    };
    assert!(refused(sockets.last().unwrap()), "there is a limit");
    assert!(!refused(&sockets[0]), "the first is served");
    // Journal files roll, and segments are written, meanwhile.
    lines.write_all(line.repeat(20_000).as_bytes()).unwrap();
    drop(lines);
    let outcome = Outcome::from(client.wait_with_output().unwrap());
    assert!(outcome.done().contains("20100"));
    assert!(std::fs::read_dir(dir.path().join("segments/shard-0")).unwrap().count() > 0);
    drop(sockets);
    broker.run(&["publish", "--queue", "deep", "one more"]).done();
    assert_eq!(broker.terminate().code(), Some(0));
}
