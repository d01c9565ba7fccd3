//! `leveret publish` and `leveret consume` against a running broker.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Child;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Broker, Outcome, leveret, send};
use tempfile::TempDir;

fn broker() -> (Broker, TempDir) {
    broker_with(&[])
}

fn broker_with(arguments: &[&str]) -> (Broker, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Broker::start(&dir.path().join("data"), arguments), dir)
}

fn publish(broker: &Broker, bodies: &[&str]) {
    let arguments = ["publish", "--queue", "q", "--declare", "--"];
    let said = broker.run(&[&arguments[..], bodies].concat()).done();
    assert_eq!(said, format!("messages confirmed: {}\n", bodies.len()));
}

/// Takes as many messages as there are lines expected, and no message is there after them.
#[track_caller]
fn drain(broker: &Broker, expected: &str) {
    publish(broker, &["the last"]);
    let count = (expected.lines().count() + 1).to_string();
    let taken = broker.run(&["consume", "--queue", "q", "--ack", "--count", &count]).done();
    assert_eq!(taken, format!("{expected}the last\n"));
}

fn consume(broker: &Broker, count: u32, more: &[&str]) -> Outcome {
    let count = count.to_string();
    broker.run(&[&["consume", "--queue", "q", "--count", &count], more].concat())
}

fn write(dir: &TempDir, name: &str, content: &[u8]) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A consumer that runs on, and has printed these lines.
fn consumer(broker: &Broker, arguments: &[&str], lines: &[&str]) -> (Child, Box<dyn BufRead>) {
    let mut child = broker.client(&[&["consume", "--queue", "q"], arguments].concat()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for line in lines {
        let mut printed = String::new();
        stdout.read_line(&mut printed).unwrap();
        assert_eq!(printed.trim_end(), *line);
    }
    (child, Box::new(stdout))
}

#[test]
fn bodies_come_from_arguments() {
    let (broker, _dir) = broker();
    publish(&broker, &["one", "and two", "", "--four"]);
    assert_eq!(consume(&broker, 4, &[]).done(), "one\nand two\n\n--four\n");
}

#[test]
fn bodies_come_from_lines() {
    let (broker, _dir) = broker();
    let arguments = ["publish", "--queue", "q", "--declare", "--lines"];
    assert_eq!(broker.run_with_input(&arguments, b"a\n\nb\xff\nc").done(), "messages confirmed: 4\n");
    assert_eq!(consume(&broker, 4, &[]).stdout, b"a\n\nb\xff\nc\n");
    assert_eq!(broker.run_with_input(&arguments, b"").done(), "messages confirmed: 0\n");
}

#[test]
fn a_line_is_published_when_it_comes() {
    let (broker, _dir) = broker();
    publish(&broker, &["first"]);
    let mut child = broker.client(&["publish", "--queue", "q", "--lines"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"second\nthi").unwrap();
    assert_eq!(consume(&broker, 2, &["--ack"]).done(), "first\nsecond\n");
    input.write_all(b"rd\n").unwrap();
    drop(input);
    assert_eq!(Outcome::from(child.wait_with_output().unwrap()).done(), "messages confirmed: 2\n");
    drain(&broker, "third\n");
}

#[test]
fn many_lines_keep_their_order_in_a_small_window() {
    let (broker, _dir) = broker();
    let lines: String = (0..5000).map(|number| format!("{number}\n")).collect();
    let arguments = ["publish", "--queue", "q", "--declare", "--lines", "--window", "7"];
    assert_eq!(broker.run_with_input(&arguments, lines.as_bytes()).done(), "messages confirmed: 5000\n");
    assert_eq!(consume(&broker, 5000, &["--ack", "--prefetch", "3"]).done(), lines);
    drain(&broker, "");
}

#[test]
fn bodies_come_from_files_and_may_be_binary() {
    let (broker, dir) = broker();
    let large: Vec<u8> = (0..3 << 20).map(|index: u32| index.to_be_bytes()[2]).collect();
    let files =
        [write(&dir, "small", b"\xff\x00\n"), write(&dir, "empty", b""), write(&dir, "large", &large)];
    let arguments = ["--file", &files[0], "--file", &files[1], "--file", &files[2]];
    broker.run(&[&["publish", "--queue", "q", "--declare"], &arguments[..]].concat()).done();
    let printed = consume(&broker, 3, &[]);
    assert_eq!(printed.stdout, [&b"\xff\x00\n\n\n"[..], &large, b"\n"].concat());
    let printed = consume(&broker, 1, &["--json"]).done();
    let message: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&message["body"], &message["body_encoding"]), (&json!("/wAK"), &json!("base64")));
    let missing = broker.run(&["publish", "--queue", "q", "--file", "/no/such/file"]).failed();
    assert!(missing.contains("cannot read /no/such/file: No such file"), "{missing}");
}

#[test]
fn a_frame_may_be_larger_than_usual() {
    let (broker, dir) = broker_with(&["--frame-max", "1MiB"]);
    let body = vec![b'x'; (1 << 20) - 8];
    let file = write(&dir, "large", &body);
    let url = format!("{}?frame_max=1048576", broker.url());
    broker.run(&["publish", "--queue", "q", "--declare", "--file", &file, "--url", &url]).done();
    assert_eq!(consume(&broker, 1, &["--url", &url]).done().len(), body.len() + 1);
}

#[test]
fn properties_and_headers_arrive() {
    let (broker, _dir) = broker();
    let properties =
        ["--property", "content_type=text/plain", "--property", "priority=5", "--property", "type=greeting"];
    let arguments = ["--header", "colour=blue", "--header", "x=", "--transient", "hello"];
    broker.run(&[&["publish", "--queue", "q", "--declare"], &properties[..], &arguments].concat()).done();
    let message: Value = serde_json::from_str(&consume(&broker, 1, &["--json"]).done()).unwrap();
    let expected = json!({
        "exchange": "", "routing_key": "q", "redelivered": false, "body": "hello", "body_encoding": "text",
        "properties": { "content_type": "text/plain", "delivery_mode": 1, "priority": 5, "type": "greeting" },
        "headers": { "colour": "blue", "x": "" },
    });
    assert_eq!(message, expected);
}

#[test]
fn a_look_takes_nothing_and_an_ack_takes_what_was_printed() {
    let (broker, _dir) = broker();
    publish(&broker, &["a", "b", "c", "d"]);
    assert_eq!(consume(&broker, 2, &[]).done(), "a\nb\n");
    assert_eq!(consume(&broker, 3, &[]).done(), "a\nb\nc\n");
    assert_eq!(consume(&broker, 3, &["--ack"]).done(), "a\nb\nc\n");
    let last = consume(&broker, 1, &["--ack", "--json"]).done();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["body"], &last["redelivered"]), (&json!("d"), &json!(false)), "it was never taken");
    drain(&broker, "");
}

#[test]
fn ctrl_c_settles_what_was_printed() {
    let (broker, _dir) = broker();
    publish(&broker, &["a", "b", "c"]);
    for signal in [Signal::INT, Signal::TERM] {
        let (child, _stdout) = consumer(&broker, &[], &["a", "b", "c"]);
        send(&child, signal);
        assert_eq!(Outcome::from(child.wait_with_output().unwrap()).done(), "");
    }
    let (child, _stdout) = consumer(&broker, &["--ack"], &["a", "b", "c"]);
    send(&child, Signal::INT);
    assert_eq!(Outcome::from(child.wait_with_output().unwrap()).done(), "");
    drain(&broker, "");
}

#[test]
fn ctrl_c_before_the_count_is_a_failure() {
    let (broker, _dir) = broker();
    publish(&broker, &["a"]);
    let (child, _stdout) = consumer(&broker, &["--ack", "--count", "2"], &["a"]);
    send(&child, Signal::INT);
    let said = Outcome::from(child.wait_with_output().unwrap()).failed();
    assert_eq!(said, "leveret: interrupted after 1 of 2 messages\n");
    drain(&broker, "");
}

#[test]
fn nobody_reading_the_output_ends_it_quietly() {
    let (broker, _dir) = broker();
    publish(&broker, &["a"]);
    let (child, stdout) = consumer(&broker, &["--ack"], &["a"]);
    drop(stdout);
    publish(&broker, &["b"]);
    assert_eq!(Outcome::from(child.wait_with_output().unwrap()).done(), "");
    drain(&broker, "b\n");
}

#[test]
fn a_message_without_a_queue_comes_back() {
    let (broker, _dir) = broker();
    let said = broker.run(&["publish", "--queue", "missing", "a", "b"]).failed();
    let expected =
        "2 of 2 messages came back: 312 NO_ROUTE, there is no queue 'missing' (--declare creates it)";
    assert_eq!(said, format!("leveret: {expected}\n"));
    let to_exchange = ["publish", "--exchange", "amq.topic", "--routing-key", "k", "a"];
    broker.run(&to_exchange).done();
    let outcome = broker.run(&[&to_exchange[..], &["--mandatory", "--json"]].concat());
    let summary: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(
        (&summary["published"], &summary["confirmed"], &summary["returned"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert!(outcome.failed().contains("exchange 'amq.topic' has no queue for routing key 'k'"));
}

/// The broker sends back as much as it gets: if one side only wrote, both would wait for ever.
#[test]
fn large_messages_that_come_back_block_nobody() {
    let (broker, _dir) = broker();
    let line = [&vec![b'x'; 1 << 20][..], b"\n"].concat();
    let arguments = ["publish", "--exchange", "amq.fanout", "--mandatory", "--lines"];
    let said = broker.run_with_input(&arguments, &line.repeat(40)).failed();
    assert!(said.contains("40 of 40 messages came back"), "{said}");
}

#[test]
fn a_refusal_says_what_and_why() {
    let (broker, _dir) = broker_with(&["--message-size-max", "1KiB"]);
    let address = broker.address();
    let with_url = |url: &str| broker.run(&["publish", "--url", url, "--queue", "q", "x"]).failed();
    let said = with_url(&format!("amqp://guest:wrong@{address}"));
    assert!(
        said.starts_with(&format!("leveret: cannot log in to {address} as user 'guest': 403 ACCESS_REFUSED")),
        "{said}"
    );
    let said = with_url(&format!("amqp://{address}/nowhere"));
    assert!(
        said.contains(&format!("cannot open the virtual host 'nowhere' at {address} as user 'guest': 530")),
        "{said}"
    );
    let said = with_url("amqp://127.0.0.1:1");
    assert!(said.starts_with("leveret: cannot connect to 127.0.0.1:1: Connection refused"), "{said}");
    let said = broker.run(&["consume", "--queue", "missing"]).failed();
    assert!(said.starts_with("leveret: consuming from queue 'missing' failed: 404 NOT_FOUND"), "{said}");
    let said = broker.run(&["publish", "--exchange", "missing", "x"]).failed();
    assert!(said.contains("0 of 1 messages were confirmed: 404 NOT_FOUND"), "{said}");
    publish(&broker, &[&"x".repeat(1024)]);
    let said = broker.run(&["publish", "--queue", "q", &"x".repeat(1025)]).failed();
    assert!(said.contains("0 of 1 messages were confirmed: 406 PRECONDITION_FAILED"), "{said}");
}

#[test]
fn a_server_that_speaks_something_else_is_no_broker() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let output =
        leveret(&["consume", "--queue", "q", "--url", &format!("amqp://{address}")]).output().unwrap();
    server.join().unwrap();
    let said = Outcome::from(output).failed();
    assert!(
        said.contains(&format!("{address} does not complete the AMQP handshake: the server broke")),
        "{said}"
    );
}

#[test]
fn misuse_exits_with_2() {
    let long = "x".repeat(256);
    for (arguments, expected) in [
        (&["consume"][..], "--queue <NAME>"),
        (&["consume", "--queue", ""], "expected the name of a queue"),
        (&["consume", "--queue", &long], "256 bytes, expected at most 255"),
        (&["consume", "--queue", "q", "--count", "0"], "0 is not in 1.."),
        (&["consume", "--queue", "q", "--prefetch", "9"], "--ack"),
        (&["consume", "--queue", "q", "--url", "http://x"], "unknown scheme 'http', expected amqp://"),
        (&["publish", "--queue", "q"], "<BODY|--lines|--file <FILE>>"),
        (&["publish", "body"], "<--queue <NAME>|--exchange <NAME>|--routing-key <KEY>>"),
        (&["publish", "--queue", "q", "--lines", "body"], "cannot be used with"),
        (&["publish", "--queue", "q", "--exchange", "x", "body"], "cannot be used with"),
        (&["publish", "--queue", "q", "body", "--property", "colour=red"], "unknown property 'colour'"),
        (&["dump"], "<FILE>"),
    ] {
        let said = Outcome::from(leveret(arguments).output().unwrap()).misused();
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn every_help_has_an_example() {
    for command in ["serve", "publish", "consume", "dump"] {
        let help = Outcome::from(leveret(&[command, "--help"]).output().unwrap()).done();
        assert!(help.contains(&format!("  leveret {command} ")), "{help}");
    }
}

#[test]
fn clients_notice_that_the_broker_is_gone() {
    let (broker, _dir) = broker();
    publish(&broker, &["a"]);
    let (killed, _stdout) = consumer(&broker, &[], &["a"]);
    let address = broker.address();
    broker.kill();
    let said = Outcome::from(killed.wait_with_output().unwrap()).failed();
    assert!(said.contains(&format!("the connection to {address} is lost")), "{said}");
}

#[test]
fn a_deleted_queue_ends_its_consumers() {
    let (broker, _dir) = broker();
    publish(&broker, &["a"]);
    let (child, _stdout) = consumer(&broker, &["--ack"], &["a"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let deleted = runtime.block_on(async {
        let connection = lapin::Connection::connect(&broker.url(), Default::default()).await?;
        let channel = connection.create_channel().await?;
        channel.queue_delete("q".into(), Default::default()).await
    });
    assert_eq!(deleted.unwrap(), 0, "messages that were ready");
    let said = Outcome::from(child.wait_with_output().unwrap()).failed();
    assert_eq!(said, "leveret: the queue 'q' was deleted\n");
}

#[test]
fn a_blocked_publisher_says_so_and_fails_only_for_what_is_not_confirmed() {
    let (broker, _dir) = broker_with(&["--disk-free-min", "1000000GiB"]);
    let arguments = ["publish", "--queue", "q", "--declare"];
    let outcome = broker.run(&[&arguments[..], &["a"]].concat());
    assert_eq!((outcome.code, &outcome.stdout[..]), (Some(0), &b"messages confirmed: 1\n"[..]));
    let mut child = broker.client(&[&arguments[..], &["--lines"]].concat()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"b\n").unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("leveret: waiting, the broker blocks publishers: "), "{line}");
    stdin.write_all(b"c\n").unwrap();
    assert_eq!(broker.terminate().code(), Some(0));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("messages were confirmed: 320 CONNECTION_FORCED"), "{line}");
}

#[test]
fn confirmed_messages_are_there_after_a_kill() {
    let (broker, dir) = broker();
    publish(&broker, &["a", "b"]);
    assert_eq!(consume(&broker, 1, &["--ack"]).done(), "a\n");
    publish(&broker, &["c"]);
    broker.kill();
    let data: &Path = &dir.path().join("data");
    let broker = Broker::start(data, &[]);
    let taken = consume(&broker, 2, &["--ack", "--json"]).done();
    let bodies: Vec<Value> =
        taken.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["body"].clone()).collect();
    // An ack is not confirmed, so the first may come again.
    assert!(bodies == ["b", "c"] || bodies == ["a", "b"], "{bodies:?}");
}
