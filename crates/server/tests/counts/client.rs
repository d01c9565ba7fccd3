//! A client that costs as little as it can: blocking, one channel, and of what it hears it counts deliveries and confirms.

#![allow(clippy::unwrap_used, reason = "this is test code")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use amqp::content::{self, Message, put_exchange_and_key};
use amqp::frame::{self, Frame, Kind};
use amqp::method::{Method, basic, channel, confirm, connection, queue};
use amqp::properties::PropertiesBuilder;
use amqp::table::Table;

/// The one channel.
pub(crate) const CHANNEL: u16 = 1;

const FRAME_MAX: u32 = 131_072;
const READ_SIZE: usize = 256 << 10;

/// How long anything that should happen at once may take. Long, since machines are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    /// Where in `input` what was not looked at begins and ends.
    begin: usize,
    end: usize,
}

impl Client {
    /// A guest with the channel open.
    pub(crate) fn connect(address: SocketAddr) -> Client {
        Client::connect_with_input(address, READ_SIZE)
    }

    /// The same with room for little: for a client that has many like it.
    pub(crate) fn connect_small(address: SocketAddr) -> Client {
        Client::connect_with_input(address, 1 << 10)
    }

    fn connect_with_input(address: SocketAddr, input_size: usize) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client { stream, input: vec![0; input_size], begin: 0, end: 0 };
        // The whole handshake in one go: each part is an answer that does not depend on its question.
        let mut out = frame::PROTOCOL_HEADER.to_vec();
        let start_ok = connection::StartOk {
            client_properties: Table::EMPTY,
            mechanism: "PLAIN",
            response: b"\0guest\0guest",
            locale: "en_US",
        };
        frame::method(&mut out, 0, &Method::ConnectionStartOk(start_ok));
        let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 };
        frame::method(&mut out, 0, &Method::ConnectionTuneOk(tune_ok));
        frame::method(&mut out, 0, &Method::ConnectionOpen(connection::Open { vhost: "/" }));
        frame::method(&mut out, CHANNEL, &Method::ChannelOpen(channel::Open {}));
        client.write(&out);
        client.wait_for([0, 20, 0, 11]);
        client
    }

    /// Declares a queue of which nothing else is asked.
    pub(crate) fn declare(&mut self, queue: &str, durable: bool) {
        let mut out = Vec::new();
        put_declare(&mut out, queue, durable);
        self.write(&out);
        self.wait_for([0, 50, 0, 11]);
    }

    /// Consumes with a prefetch of so many; 0 is no limit.
    pub(crate) fn consume(&mut self, queue: &str, no_ack: bool, prefetch: u16) {
        let qos = basic::Qos { prefetch_size: 0, prefetch_count: prefetch, global: false };
        self.call(&Method::BasicQos(qos), [0, 60, 0, 11]);
        let consume = basic::Consume {
            queue,
            consumer_tag: "c",
            no_local: false,
            no_ack,
            exclusive: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        self.call(&Method::BasicConsume(consume), [0, 60, 0, 21]);
    }

    /// Has publishes confirmed.
    pub(crate) fn select_confirms(&mut self) {
        self.call(&Method::ConfirmSelect(confirm::Select { nowait: false }), [0, 85, 0, 11]);
    }

    /// Acknowledges all deliveries up to this one.
    pub(crate) fn ack(&mut self, delivery_tag: u64) {
        let mut out = Vec::new();
        frame::ack(&mut out, CHANNEL, delivery_tag, true);
        self.write(&out);
    }

    /// Writes all of it.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Waits until so many messages have come whole; the delivery tag of the last.
    pub(crate) fn deliveries(&mut self, count: usize) -> u64 {
        let (mut tag, mut left, mut body_left) = (0, count, 0);
        while left > 0 {
            let frame = self.frame();
            match frame.kind {
                Kind::Method => tag = delivery_tag(frame.payload),
                Kind::Header => {
                    body_left = u64::from_be_bytes(*frame.payload[4..].first_chunk().unwrap());
                    left -= usize::from(body_left == 0);
                }
                Kind::Body => {
                    body_left -= frame.payload.len() as u64;
                    left -= usize::from(body_left == 0);
                }
                Kind::Heartbeat => {}
            }
        }
        tag
    }

    /// Waits until all publishes up to this one are confirmed, by a server that confirms in order.
    pub(crate) fn confirms(&mut self, up_to: u64) {
        loop {
            let payload = self.wait_for([0, 60, 0, 80]);
            if u64::from_be_bytes(*payload[4..].first_chunk().unwrap()) >= up_to {
                return;
            }
        }
    }

    /// Waits for a method with this class and method number and returns its payload. What comes before it is forgotten.
    pub(crate) fn wait_for(&mut self, number: [u8; 4]) -> Vec<u8> {
        loop {
            let frame = self.frame();
            if frame.kind == Kind::Method && frame.payload.starts_with(&number) {
                return frame.payload.to_vec();
            }
        }
    }

    fn call(&mut self, request: &Method<'_>, answer: [u8; 4]) {
        let mut out = Vec::new();
        frame::method(&mut out, CHANNEL, request);
        self.write(&out);
        self.wait_for(answer);
    }

    /// The next frame. A close is a failure.
    fn frame(&mut self) -> Frame<'_> {
        while frame::parse(&self.input[self.begin..self.end], 0).unwrap().is_none() {
            self.input.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            if self.end == self.input.len() {
                self.input.resize(2 * self.end, 0);
            }
            let read = self.stream.read(&mut self.input[self.end..]).unwrap();
            assert!(read > 0, "the server closed the socket");
            self.end += read;
        }
        let frame = frame::parse(&self.input[self.begin..self.end], 0).unwrap().unwrap();
        self.begin += frame.size();
        let is_close = [[0, 10, 0, 50], [0, 20, 0, 40]].iter().any(|close| frame.payload.starts_with(close));
        assert!(frame.kind != Kind::Method || !is_close, "closed: {}", frame.payload.escape_ascii());
        frame
    }
}

fn delivery_tag(payload: &[u8]) -> u64 {
    assert!(payload.starts_with(&[0, 60, 0, 60]), "a delivery, not {}", payload.escape_ascii());
    let (tag_size, rest) = payload[4..].split_first().unwrap();
    u64::from_be_bytes(*rest[usize::from(*tag_size)..].first_chunk().unwrap())
}

/// Appends a declaration.
pub(crate) fn put_declare(out: &mut Vec<u8>, queue: &str, durable: bool) {
    let declare = queue::Declare {
        queue,
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    frame::method(out, CHANNEL, &Method::QueueDeclare(declare));
}

/// So many publishes to a queue, ready to be written, again and again.
pub(crate) fn publishes(queue: &str, count: usize, body_size: usize, persistent: bool) -> Vec<u8> {
    let delivery_mode = persistent.then_some(2);
    let properties = PropertiesBuilder { delivery_mode, ..PropertiesBuilder::default() }.to_bytes();
    let mut exchange_and_key = Vec::new();
    put_exchange_and_key(&mut exchange_and_key, "", queue);
    let body = vec![b'x'; body_size];
    let message = Message { exchange_and_key: &exchange_and_key, properties: &properties, body: &body };
    let mut out = Vec::new();
    for _ in 0..count {
        content::publish(&mut out, CHANNEL, content::Publish::default(), message, FRAME_MAX);
    }
    out
}
