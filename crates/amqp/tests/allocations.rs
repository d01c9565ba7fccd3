//! The hot path allocates nothing: counts, not timings.
#![allow(
    unsafe_code,
    reason = "a global allocator that counts is unsafe to implement and delegates everything"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use amqp::content::{self, Deliver, Message, Publish};
use amqp::method::{Method, connection};
use amqp::properties::PropertiesBuilder;
use amqp::server::{Connection, Event, Offer};
use amqp::table::{Table, TableBuilder};

const COUNT: usize = 10_000;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting has no influence on it.
// WHY: the number of allocations is what this test is about.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `act` allocates.
fn allocations(act: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    act();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Feeds all of `input`, answers the handshake, and counts the messages and the bytes of their bodies.
fn receive_all(connection: &mut Connection, input: &[u8], out: &mut Vec<u8>) -> (usize, usize) {
    let (mut rest, mut messages, mut bytes) = (input, 0, 0);
    loop {
        let step = connection.receive(rest, out).expect("the client is right");
        rest = &rest[step.used..];
        match step.event {
            Some(Event::ProtocolHeader) => connection.send_start(out, Table::EMPTY, "PLAIN"),
            Some(Event::Login { .. }) => connection.accept_login(out),
            Some(Event::Open { .. }) => connection.accept_open(out),
            Some(Event::Publish { body, .. }) => {
                messages += 1;
                bytes += body.len();
            }
            Some(_) => {}
            None if step.used == 0 => return (messages, bytes),
            None => {}
        }
    }
}

fn ready(out: &mut Vec<u8>) -> Connection {
    let offer = Offer { frame_max: 131_072, channel_max: 2047, heartbeat: 60, max_message_size: 1 << 24 };
    let mut connection = Connection::new(offer);
    let mut input = amqp::frame::PROTOCOL_HEADER.to_vec();
    let start_ok = connection::StartOk {
        client_properties: Table::EMPTY,
        mechanism: "PLAIN",
        response: b"\0guest\0guest",
        locale: "en_US",
    };
    amqp::frame::method(&mut input, 0, &Method::ConnectionStartOk(start_ok));
    let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    amqp::frame::method(&mut input, 0, &Method::ConnectionTuneOk(tune_ok));
    amqp::frame::method(&mut input, 0, &Method::ConnectionOpen(connection::Open { vhost: "/" }));
    amqp::frame::method(&mut input, 1, &Method::ChannelOpen(amqp::method::channel::Open {}));
    receive_all(&mut connection, &input, out);
    assert!(connection.is_ready());
    connection
}

#[test]
fn messages_that_lie_whole_in_the_buffer_cost_no_allocation() {
    let headers = TableBuilder::new().with("trace", "0123456789abcdef").with("attempt", 1);
    let properties = PropertiesBuilder {
        content_type: Some("application/octet-stream"),
        headers: Some(headers.as_table()),
        delivery_mode: Some(2),
        message_id: Some("m-1"),
        ..PropertiesBuilder::default()
    }
    .to_bytes();
    let message = Message { exchange_and_key: b"\0\x05queue", properties: &properties, body: &[7; 64] };

    let mut out = Vec::new();
    let mut connection = ready(&mut out);
    let mut input = Vec::new();
    for _ in 0..COUNT {
        content::publish(&mut input, 1, Publish::default(), message, 131_072);
    }
    let mut received = (0, 0);
    let count = allocations(|| received = receive_all(&mut connection, &input, &mut out));
    assert_eq!(received, (COUNT, COUNT * 64));
    assert_eq!(count, 0, "receiving");

    out.clear();
    out.reserve(64 * 1024);
    let deliver = |out: &mut Vec<u8>, delivery_tag| {
        let method = Deliver { consumer_tag: "amq.ctag-1", delivery_tag, redelivered: false };
        content::deliver(out, 1, method, message, 131_072);
        amqp::frame::ack(out, 1, delivery_tag, true);
    };
    let count = allocations(|| {
        for delivery_tag in 1.. {
            if delivery_tag > 10_000 {
                break;
            }
            if out.len() > 60 * 1024 {
                out.clear();
            }
            deliver(&mut out, delivery_tag);
        }
    });
    assert_eq!(count, 0, "sending");
}
