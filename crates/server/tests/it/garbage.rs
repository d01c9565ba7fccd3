//! Clients that do not keep to the rules, by accident or not. The broker goes on as if nothing were.

use std::net::SocketAddr;

use amqp::frame;
use amqp::method::{Method, basic};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::client::{Client, consumer, content_header, durable, persistent, raw_frame, transient};
use crate::{PATIENCE, eventually, within};

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Writes until the server has had enough, and reads until it closes.
async fn provoke(client: &mut Client, bytes: &[u8]) {
    let (mut reader, mut writer) = client.stream.split();
    let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, bytes).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
    let mut answers = Vec::new();
    let _ = within(PATIENCE, "the server closes", reader.read_to_end(&mut answers)).await;
}

/// A good beginning that goes wrong at some point, in some way.
async fn attack(address: SocketAddr, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let kind = random.below(6);
    if kind == 0 {
        let len = random.below(5000);
        return provoke(&mut Client::dial(address).await, &random.bytes(len)).await;
    }
    if kind == 1 {
        let mut handshake = frame::PROTOCOL_HEADER.to_vec();
        handshake.truncate(random.below(9));
        return provoke(&mut Client::dial(address).await, &handshake).await;
    }
    let mut client = Client::connect(address).await;
    let mut bytes = Vec::new();
    frame::method(&mut bytes, 1, &Method::QueueDeclare(transient("of an attacker")));
    let publish = amqp::content::Publish { mandatory: true };
    client.put_publish(&mut bytes, 1, ("", "of an attacker"), publish, persistent(), &[b'x'; 2000]);
    frame::method(&mut bytes, 1, &Method::BasicConsume(consumer("of an attacker", "c")));
    frame::method(&mut bytes, 1, &Method::BasicAck(basic::Ack { delivery_tag: 1, multiple: true }));
    match kind {
        2 => {
            for _ in 0..=random.below(20) {
                let at = random.below(bytes.len());
                bytes[at] = random.next().to_le_bytes()[0];
            }
        }
        3 => bytes.truncate(random.below(bytes.len())),
        4 => {
            let (kind, len) = ([1, 2, 3, 4, 8, 255][random.below(6)], random.below(300));
            let payload = random.bytes(len);
            bytes.extend(raw_frame(kind, u16::try_from(random.below(4)).unwrap(), &payload));
        }
        _ => {
            bytes.extend(raw_frame(2, 1, &content_header(random.next())));
            bytes.extend(raw_frame(3, 1, b"nobody asked"));
        }
    }
    provoke(&mut client, &bytes).await;
}

/// Publishes with confirms and consumes, one by one, until told to stop; how many.
async fn canary(address: SocketAddr, stop: watch::Receiver<bool>) -> u64 {
    let mut client = Client::connect(address).await;
    client.declare(durable("canary")).await;
    client.select_confirms(1).await;
    client.consume(1, consumer("canary", "c")).await;
    let mut number = 0;
    while !*stop.borrow() {
        number += 1;
        client.publish_with(1, "", "canary", persistent(), number.to_string()).await;
        client.confirmed(1, number, number).await;
        let message = client.delivery(1).await;
        assert_eq!((message.text(), message.tag), (&*number.to_string(), number));
        client.ack(1, number, false).await;
    }
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_sings_while_two_hundred_attack() {
    let broker = Broker::start_sharded().await;
    let (stop, stopped) = watch::channel(false);
    let canary = tokio::spawn(canary(broker.address, stopped));
    let mut attackers = JoinSet::new();
    for attacker in 0..200 {
        let address = broker.address;
        attackers.spawn(async move {
            for round in 0..5 {
                attack(address, attacker * 1000 + round).await;
            }
        });
    }
    attackers.join_all().await;
    stop.send(true).unwrap();
    assert!(canary.await.unwrap() > 0);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_the_wrong_order_have_their_codes() {
    let broker = Broker::start().await;
    let publish = basic::Publish { exchange: "", routing_key: "q", mandatory: false, immediate: false };
    let mut method = Vec::new();
    frame::method(&mut method, 1, &Method::BasicPublish(publish));
    let header = raw_frame(2, 1, &content_header(3));
    let body = raw_frame(3, 1, b"foo");
    let mut of_another_class = content_header(3);
    of_another_class[1] = 50;
    let bad_end = [&raw_frame(8, 0, &[])[..7], &[0]].concat();
    let cases: [(&str, Vec<u8>, u16); 14] = [
        ("a header without a method", header.clone(), 505),
        ("a body without a method", body.clone(), 505),
        ("a body without a header", [&*method, &*body].concat(), 505),
        ("a method instead of a header", [&*method, &*method].concat(), 505),
        ("a method instead of a body", [&*method, &*header, &*method].concat(), 505),
        ("two headers", [&*method, &*header, &*header].concat(), 505),
        ("a header of another class", [&*method, &*raw_frame(2, 1, &of_another_class)].concat(), 505),
        ("a body longer than announced", [&*method, &*header, &*raw_frame(3, 1, b"food")].concat(), 501),
        ("an impossible body", [&*method, &*raw_frame(2, 1, &content_header(1 << 40))].concat(), 501),
        ("a heartbeat on a channel", raw_frame(8, 1, &[]), 505),
        ("a frame of unknown kind", raw_frame(7, 1, &[]), 501),
        ("a frame that does not end", bad_end, 501),
        ("an unknown method", raw_frame(1, 1, &[0, 60, 0, 99]), 503),
        ("a method that is cut off", raw_frame(1, 1, &[0, 60, 0, 40, 0]), 502),
    ];
    for (what, bytes, code) in cases {
        let mut client = Client::connect(broker.address).await;
        client.declare(transient("q")).await;
        client.write(&bytes).await;
        let close = client.connection_closed().await;
        assert_eq!(close.code, code, "{what}: {}", close.text);
    }
}

/// Open files and resident kilobytes of this process.
fn taken() -> (usize, usize) {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (files, resident.trim().trim_end_matches(" kB").parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_and_go_leave_nothing() {
    let broker = Broker::start().await;
    let come_and_go = async |count: u64| {
        for first in (0..count).step_by(50) {
            let mut clients = JoinSet::new();
            for number in first..first + 50 {
                let address = broker.address;
                clients.spawn(async move {
                    match number % 4 {
                        0 => drop(Client::dial(address).await),
                        1 => drop(Client::connect(address).await),
                        2 => Client::connect(address).await.close().await,
                        _ => {
                            let mut client = Client::connect(address).await;
                            let queue = amqp::method::queue::Declare { exclusive: true, ..transient("") };
                            let name = client.declare(queue).await.text;
                            client.consume(1, consumer(&name, "c")).await;
                            client.publish("", &name, "x").await;
                        }
                    }
                });
            }
            clients.join_all().await;
        }
    };
    come_and_go(1000).await;
    let (files, resident) = taken();
    come_and_go(4000).await;
    eventually("sockets are closed", async || (taken().0 <= files + 10).then_some(())).await;
    let grown = taken().1.saturating_sub(resident);
    assert!(grown < 16 << 10, "{grown} KB more after 4000 connections");
}
