//! Replays the seeds of the fuzz targets and many small damages to them, the same ones every time.
//!
//! The seeds are files under `fuzz/seeds`, written by `UPDATE_SEEDS=1 cargo test -p leveret-amqp --test
//! fuzz_replay` from the list below; what fuzzing finds is added to the same folders by hand.
#![allow(clippy::disallowed_methods, reason = "the seeds are files")]

use std::path::PathBuf;

use amqp::content::{self, Message, Publish};
use amqp::frame;
use amqp::method::{Method, basic, channel, connection, queue};
use amqp::properties::PropertiesBuilder;
use amqp::table::{ArrayBuilder, Table, TableBuilder, Value};

const EXECUTIONS: usize = 20_000;

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target)
}

fn replay(target: &str, run: fn(&[u8]), seeds: &Seeds) {
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        std::fs::create_dir_all(folder(target)).expect("the folder of the seeds can be made");
        for (name, bytes) in seeds {
            std::fs::write(folder(target).join(name), bytes).expect("a seed can be written");
        }
    }
    for (name, bytes) in seeds {
        let stored = std::fs::read(folder(target).join(name)).expect("each seed is a file");
        assert_eq!(&stored, bytes, "{target}/{name} is out of date: run with UPDATE_SEEDS=1");
    }
    let mut files: Vec<_> = std::fs::read_dir(folder(target))
        .expect("the folder of the seeds is there")
        .map(|entry| entry.expect("the folder can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() >= 8, "{target} has {} seeds", files.len());
    let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
    for path in &files {
        let seed = std::fs::read(path).expect("a seed can be read");
        run(&seed);
        for _ in 0..EXECUTIONS / files.len() {
            run(&damaged(&seed, &mut random));
        }
    }
}

/// A small generator; the damages must be the same in every run.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 8] = [0, 1, 2, 3, 8, 0x7f, 0xce, 0xff];
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { self.next().to_be_bytes()[0] }
    }
}

/// One to four damages: a byte changed, inserted, removed, a bit flipped, a piece repeated, the end cut.
fn damaged(seed: &[u8], random: &mut Xorshift) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let place = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.insert(place, random.byte()),
            1 => bytes.truncate(place),
            2 if !bytes.is_empty() => drop(bytes.remove(place)),
            3 => bytes.extend_from_within(place..),
            4 => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 1 << (random.next() & 7)),
            _ => {
                let changed = random.byte();
                bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte = changed);
            }
        }
    }
    bytes
}

#[test]
fn frames() {
    replay("frame", amqp::fuzzing::frame, &frame_seeds());
}

#[test]
fn tables() {
    replay("table", amqp::fuzzing::table, &table_seeds());
}

#[test]
fn connections() {
    replay("connection", amqp::fuzzing::connection, &connection_seeds());
}

fn method(bytes: &mut Vec<u8>, channel: u16, method: &Method<'_>) {
    frame::method(bytes, channel, method);
}

fn message(body: &[u8]) -> Message<'_> {
    Message { exchange_and_key: b"\x01x\x01k", properties: &[0x90, 0, 1, b't', 2], body }
}

fn frame_seeds() -> Seeds {
    let made = |side: u8, make: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![side];
        make(&mut bytes);
        bytes
    };
    let arguments = TableBuilder::new().with("x-max-length", 10).with("x-overflow", "drop-head");
    let declare = queue::Declare {
        queue: "q",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: arguments.as_table(),
    };
    let deliver = content::Deliver { consumer_tag: "c", delivery_tag: 1, redelivered: false };
    let get_ok = content::GetOk { delivery_tag: 1, redelivered: true, message_count: 2 };
    let returned = content::Return { reply_code: 312, reply_text: "NO_ROUTE" };
    vec![
        ("ack", made(0, &|out| frame::ack(out, 1, 7, true))),
        ("declare", made(0, &|out| method(out, 1, &Method::QueueDeclare(declare)))),
        ("heartbeat", made(0, &|out| frame::heartbeat(out))),
        (
            "publish",
            made(0, &|out| {
                content::publish(out, 1, Publish::default(), message(b"body"), 4096);
            }),
        ),
        (
            "publish-empty",
            made(0, &|out| {
                content::publish(out, 1, Publish::default(), message(b""), 4096);
            }),
        ),
        (
            "publish-split",
            made(0, &|out| {
                content::publish(out, 1, Publish::default(), message(b"two parts"), 13);
            }),
        ),
        (
            "deliver",
            made(1, &|out| {
                content::deliver(out, 1, deliver, message(b"body"), 4096);
            }),
        ),
        ("get-ok", made(1, &|out| content::get_ok(out, 1, get_ok, message(b"body"), 4096))),
        (
            "return",
            made(1, &|out| {
                content::return_(out, 1, returned, message(b"body"), 4096);
            }),
        ),
        (
            "nack-and-close",
            made(0, &|out| {
                let nack = basic::Nack { delivery_tag: 1, multiple: true, requeue: true };
                method(out, 1, &Method::BasicNack(nack));
                let close = channel::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
                method(out, 1, &Method::ChannelClose(close));
                method(out, 1, &Method::ChannelOpen(channel::Open {}));
            }),
        ),
    ]
}

fn table_seeds() -> Seeds {
    let nested = TableBuilder::new().with("a", TableBuilder::new().with("b", Value::Void).as_table());
    let array = ArrayBuilder::new().with(1).with("x").with(nested.as_table());
    let numbers = TableBuilder::new().with("b", 1_i8).with("B", 2_u8).with("s", 3_i16).with("u", 4_u16);
    let numbers = numbers.with("I", 5).with("i", 6_u32).with("l", 7_i64).with("f", 8_f32).with("d", 9_f64);
    let properties = PropertiesBuilder {
        content_type: Some("text/plain"),
        headers: Some(nested.as_table()),
        delivery_mode: Some(2),
        reply_to: Some("r"),
        expiration: Some("60000"),
        timestamp: Some(1),
        cluster_id: Some("c"),
        ..PropertiesBuilder::default()
    };
    let decimal = Value::Decimal { scale: 2, value: 314 };
    let mixed =
        TableBuilder::new().with("D", decimal).with("T", Value::Timestamp(1)).with("x", Value::Binary(b"\0"));
    vec![
        ("amqplain", TableBuilder::new().with("LOGIN", "guest").with("PASSWORD", "guest").into_bytes()),
        ("array", TableBuilder::new().with("array", array.as_array()).into_bytes()),
        ("death", TableBuilder::new().with("x-death", array.as_array()).with("t", true).into_bytes()),
        ("mixed", mixed.into_bytes()),
        ("nested", nested.as_table().as_bytes().to_vec()),
        ("numbers", numbers.into_bytes()),
        ("plain", b"\0guest\0guest".to_vec()),
        ("properties", properties.to_bytes()),
        ("text", TableBuilder::new().with("k", "value").with("é", "ü").into_bytes()),
    ]
}

/// A client's side of a connection, from the protocol header on.
fn opened(piece_size: u8) -> Vec<u8> {
    let mut bytes = started(piece_size);
    let tune_ok = connection::TuneOk { channel_max: 8, frame_max: 4096, heartbeat: 0 };
    method(&mut bytes, 0, &Method::ConnectionTuneOk(tune_ok));
    method(&mut bytes, 0, &Method::ConnectionOpen(connection::Open { vhost: "/" }));
    method(&mut bytes, 1, &Method::ChannelOpen(channel::Open {}));
    bytes
}

fn started(piece_size: u8) -> Vec<u8> {
    let mut bytes = vec![piece_size];
    bytes.extend_from_slice(&frame::PROTOCOL_HEADER);
    let start_ok = connection::StartOk {
        client_properties: Table::EMPTY,
        mechanism: "PLAIN",
        response: b"\0g\0g",
        locale: "en_US",
    };
    method(&mut bytes, 0, &Method::ConnectionStartOk(start_ok));
    bytes
}

/// A server's side of a connection, for the client that gets the same bytes.
fn greeted() -> Vec<u8> {
    let mut bytes = vec![0];
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: Table::EMPTY,
        mechanisms: b"PLAIN",
        locales: b"en_US",
    };
    method(&mut bytes, 0, &Method::ConnectionStart(start));
    let tune = connection::Tune { channel_max: 8, frame_max: 4096, heartbeat: 0 };
    method(&mut bytes, 0, &Method::ConnectionTune(tune));
    method(&mut bytes, 0, &Method::ConnectionOpenOk(connection::OpenOk {}));
    bytes
}

fn connection_seeds() -> Seeds {
    let then = |mut bytes: Vec<u8>, add: &dyn Fn(&mut Vec<u8>)| {
        add(&mut bytes);
        bytes
    };
    let close = connection::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };
    let channel_close = channel::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };
    let deliver = content::Deliver { consumer_tag: "c", delivery_tag: 1, redelivered: false };
    vec![
        ("http", b"\0GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("version", b"\0AMQP\x03\x01\0\0".to_vec()),
        ("started", started(0)),
        ("opened", opened(0)),
        ("opened-slowly", opened(1)),
        (
            "published",
            then(opened(0), &|out| {
                content::publish(out, 1, Publish::default(), message(b"body"), 4096);
            }),
        ),
        (
            "published-slowly",
            then(opened(7), &|out| {
                content::publish(out, 1, Publish::default(), message(b"body"), 11);
            }),
        ),
        ("closed", then(opened(0), &|out| method(out, 0, &Method::ConnectionClose(close)))),
        (
            "refused",
            then(opened(0), &|out| {
                frame::ack(out, 1, 1, false);
                frame::ack(out, 1, 2, false);
                method(out, 1, &Method::ChannelClose(channel_close));
                method(out, 1, &Method::ChannelCloseOk(channel::CloseOk {}));
                method(out, 1, &Method::ChannelOpen(channel::Open {}));
            }),
        ),
        ("greeted", greeted()),
        (
            "delivered",
            then(greeted(), &|out| {
                method(out, 1, &Method::ChannelOpenOk(channel::OpenOk {}));
                content::deliver(out, 1, deliver, message(b"body"), 4096);
                method(out, 1, &Method::ChannelClose(channel_close));
                method(out, 0, &Method::ConnectionClose(close));
            }),
        ),
    ]
}
