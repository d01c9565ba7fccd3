//! Messages on their way out: their bytes, and that a client reads what a server writes.

use amqp::content::{self, Deliver, GetOk, Message, Publish, Return};
use amqp::frame;
use amqp::method::Method;
use amqp::receiver::{Event, Limits, Receiver, Side};
use expect_test::expect;
use proptest::prelude::*;

const DELIVER: Deliver<'_> = Deliver { consumer_tag: "ctag", delivery_tag: 7, redelivered: true };
const GET_OK: GetOk = GetOk { delivery_tag: 8, redelivered: false, message_count: 9 };
const RETURN: Return<'_> = Return { reply_code: 312, reply_text: "NO_ROUTE" };

fn message(body: &[u8]) -> Message<'_> {
    Message { exchange_and_key: b"\x01x\x03key", properties: &[0x10, 0, 2], body }
}

#[test]
fn a_delivery_is_three_frames() {
    let mut out = Vec::new();
    content::deliver(&mut out, 1, DELIVER, message(b"body"), 4096);
    expect![[r#"
        \x01\x00\x01\x00\x00\x00\x18\x00<\x00<\x04ctag\x00\x00\x00\x00\x00\x00\x00\x07\x01\x01x\x03key\xce
        \x02\x00\x01\x00\x00\x00\x0f\x00<\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x10\x00\x02\xce
        \x03\x00\x01\x00\x00\x00\x04body\xce
    "#]]
    .assert_eq(&out.escape_ascii().to_string().replace("\\xce", "\\xce\n"));
}

#[test]
fn an_empty_body_has_no_frame() {
    let mut out = Vec::new();
    content::publish(&mut out, 1, Publish { mandatory: true }, message(b""), 4096);
    expect![[r#"
        \x01\x00\x01\x00\x00\x00\r\x00<\x00(\x00\x00\x01x\x03key\x01\xce
        \x02\x00\x01\x00\x00\x00\x0f\x00<\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x02\xce
    "#]]
    .assert_eq(&out.escape_ascii().to_string().replace("\\xce", "\\xce\n"));
}

#[test]
fn a_head_and_a_body_are_the_whole() {
    for body in [&b"body"[..], b""] {
        let (mut whole, mut head) = (Vec::new(), Vec::new());
        content::deliver(&mut whole, 1, DELIVER, message(body), 4096);
        content::deliver_head(&mut head, 1, DELIVER, message(body), 4096);
        if !body.is_empty() {
            head.extend_from_slice(body);
            head.push(frame::END);
        }
        assert_eq!(head, whole);
    }
}

#[test]
#[should_panic(expected = "fits one frame")]
fn a_head_is_for_one_frame() {
    content::deliver_head(&mut Vec::new(), 1, DELIVER, message(&[0; 4089]), 4096);
}

#[test]
fn a_body_splits_at_frame_max() {
    assert!(content::fits_one_frame(4088, 4096) && !content::fits_one_frame(4089, 4096));
    let mut out = Vec::new();
    content::deliver(&mut out, 1, DELIVER, message(&[7; 4089]), 4096);
    let mut rest = &out[..];
    let mut sizes = Vec::new();
    while let Some(frame) = frame::parse(rest, 4096).unwrap() {
        sizes.push(frame.size());
        rest = &rest[frame.size()..];
    }
    assert_eq!(sizes[2..], [4096, 9]);
}

fn receive_one(bytes: &[u8], side: Side, frame_max: u32, check: impl FnOnce(&Method<'_>, &[u8])) {
    let mut receiver = Receiver::new(side, Limits { frame_max, channel_max: 9, max_message_size: 100_000 });
    receiver.open(1);
    let mut rest = bytes;
    loop {
        let step = receiver.receive(rest).unwrap();
        assert!(step.used > 0, "a whole message says something");
        rest = &rest[step.used..];
        if let Some(Event::Content { method, properties, body, .. }) = step.event {
            assert!(properties.is_persistent() && rest.is_empty());
            return check(&method, body);
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        body in proptest::collection::vec(any::<u8>(), 0..10_000),
        frame_max in prop_oneof![Just(0_u32), 100..12_000_u32],
    ) {
        let mut out = Vec::new();
        content::deliver(&mut out, 1, DELIVER, message(&body), frame_max);
        prop_assert!(out.capacity() >= out.len());
        receive_one(&out, Side::Client, frame_max, |method, read| {
            let Method::BasicDeliver(deliver) = method else { panic!("{method:?}") };
            assert_eq!((deliver.consumer_tag, deliver.delivery_tag, deliver.redelivered), ("ctag", 7, true));
            assert_eq!((deliver.exchange, deliver.routing_key, read), ("x", "key", &body[..]));
        });
        out.clear();
        content::get_ok(&mut out, 1, GET_OK, message(&body), frame_max);
        receive_one(&out, Side::Client, frame_max, |method, read| {
            let Method::BasicGetOk(got) = method else { panic!("{method:?}") };
            assert_eq!((got.delivery_tag, got.redelivered, got.message_count), (8, false, 9));
            assert_eq!((got.exchange, got.routing_key, read), ("x", "key", &body[..]));
        });
        out.clear();
        content::return_(&mut out, 1, RETURN, message(&body), frame_max);
        receive_one(&out, Side::Client, frame_max, |method, read| {
            let Method::BasicReturn(returned) = method else { panic!("{method:?}") };
            assert_eq!((returned.reply_code, returned.reply_text), (312, "NO_ROUTE"));
            assert_eq!((returned.exchange, returned.routing_key, read), ("x", "key", &body[..]));
        });
        out.clear();
        content::publish(&mut out, 1, Publish { mandatory: true }, message(&body), frame_max);
        receive_one(&out, Side::Server, frame_max, |method, read| {
            let Method::BasicPublish(publish) = method else { panic!("{method:?}") };
            assert_eq!((publish.mandatory, publish.immediate), (true, false));
            assert_eq!((publish.exchange, publish.routing_key, read), ("x", "key", &body[..]));
        });
    }
}
