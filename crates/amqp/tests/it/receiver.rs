//! What a receiver takes and what it refuses.

use amqp::method::{Method, basic, connection, queue};
use amqp::receiver::{Receiver, Side};
use amqp::table::Table;
use expect_test::{Expect, expect};

use crate::peer::{LIMITS, Peer, receive_all, server_receiver};

fn check(peer: Peer, expected: Expect) {
    expected.assert_eq(&receive_all(&mut server_receiver(), &peer.0, &[]).join("\n"));
}

#[test]
fn a_message_in_one_piece_is_borrowed_whole() {
    check(
        Peer::new().open(1).publish(1, b"hello").publish(1, b"").ack(1, 1),
        expect![[r#"
            1: channel.open
            1: basic.publish persistent 5 bytes #5e918d2
            1: basic.publish persistent 0 bytes #0
            1: basic.ack"#]],
    );
}

#[test]
fn the_body_of_a_whole_message_is_the_callers_own_bytes() {
    let bytes = Peer::new().publish(1, b"hello").0;
    let mut receiver = server_receiver();
    receiver.open(1);
    let step = receiver.receive(&bytes).unwrap();
    let Some(amqp::receiver::Event::Content { body, .. }) = step.event else { panic!("{step:?}") };
    assert!(bytes.as_ptr_range().contains(&body.as_ptr()));
    assert_eq!(step.used, bytes.len());
}

#[test]
fn a_large_body_comes_in_many_frames() {
    check(
        Peer::new().open(1).publish(1, &[7; 10_000]),
        expect![[r#"
        1: channel.open
        1: basic.publish persistent 10000 bytes #c85ef700"#]],
    );
}

#[test]
fn channels_interleave() {
    let peer = Peer::new().open(1).open(2).publish_method(1).publish_method(2);
    let peer = peer.header(2, 60, 4, &[0, 0]).header(1, 60, 4, &[0, 0]);
    check(
        peer.body(1, b"on").body(2, b"two!").ack(3, 1).body(1, b"e!"),
        expect![[r#"
            1: channel.open
            2: channel.open
            2: basic.publish transient 4 bytes #368755
            0: closes, 504 CHANNEL_ERROR - expected 'channel.open' [60,80]"#]],
    );
    let peer = Peer::new().open(1).open(2).publish_method(1).publish(2, b"whole").header(1, 60, 1, &[0, 0]);
    check(
        peer.frame(8, 0, b"").body(1, b"x"),
        expect![[r#"
        1: channel.open
        2: channel.open
        2: basic.publish persistent 5 bytes #6bde1b7
        heartbeat
        1: basic.publish transient 1 bytes #78"#]],
    );
}

#[test]
fn empty_body_frames_say_nothing() {
    let peer = Peer::new().open(1).publish_method(1).header(1, 60, 1, &[0, 0]);
    check(
        peer.body(1, b"").body(1, b"x"),
        expect![[r#"
        1: channel.open
        1: basic.publish transient 1 bytes #78"#]],
    );
}

#[test]
fn a_message_too_large_costs_its_channel_only() {
    let peer = Peer::new().open(1).open(2).publish(1, &[0; 10_001]).ack(1, 1).publish(2, b"ok");
    check(
        peer.open(1).close_ok(1).open(1).publish(1, &[0; 10_000]),
        expect![[r#"
            1: channel.open
            2: channel.open
            1: closes, 406 PRECONDITION_FAILED - message size 10001 is larger than configured max size 10000 [60,40]
            2: basic.publish persistent 2 bytes #ddc
            1: channel.close-ok
            1: channel.open
            1: basic.publish persistent 10000 bytes #0"#]],
    );
}

#[test]
fn a_body_above_the_protocols_limit_costs_the_connection() {
    let peer = Peer::new().open(1).publish_method(1).header(1, 60, 512 * 1024 * 1024 + 1, &[0, 0]);
    check(
        peer,
        expect![[r#"
        1: channel.open
        0: closes, 501 FRAME_ERROR - content body of 536870913 bytes is larger than 536870912 [60,40]"#]],
    );
}

#[test]
fn properties_too_large_cost_the_channel() {
    let limits = amqp::receiver::Limits { frame_max: 0, ..LIMITS };
    let mut receiver = Receiver::new(Side::Server, limits);
    let peer = Peer::new().open(1).publish_method(1).header(1, 60, 0, &[0; 65_537]).publish_method(1);
    expect![[r#"
        1: channel.open
        1: closes, 406 PRECONDITION_FAILED - message properties of 65537 bytes are larger than max size 65536 [60,40]"#]].assert_eq(&receive_all(&mut receiver, &peer.0, &[]).join("\n"));
}

#[test]
fn frames_out_of_sequence_are_unexpected() {
    check(
        Peer::new().open(1).header(1, 60, 0, &[0, 0]),
        expect![[r#"
        1: channel.open
        0: closes, 505 UNEXPECTED_FRAME - expected method frame, got non method frame instead [0,0]"#]],
    );
    check(
        Peer::new().open(1).body(1, b"x"),
        expect![[r#"
        1: channel.open
        0: closes, 505 UNEXPECTED_FRAME - expected method frame, got non method frame instead [0,0]"#]],
    );
    check(
        Peer::new().open(1).publish_method(1).ack(1, 1),
        expect![[r#"
        1: channel.open
        0: closes, 505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead [60,40]"#]],
    );
    check(
        Peer::new().open(1).publish_method(1).body(1, b"x"),
        expect![[r#"
        1: channel.open
        0: closes, 505 UNEXPECTED_FRAME - expected content header, got non content header frame instead [60,40]"#]],
    );
    check(
        Peer::new().open(1).publish_method(1).header(1, 50, 1, &[0, 0]),
        expect![[r#"
            1: channel.open
            0: closes, 505 UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead [60,40]"#]],
    );
    let peer = Peer::new().open(1).publish_method(1).header(1, 60, 1, &[0, 0]);
    check(
        peer.header(1, 60, 1, &[0, 0]),
        expect![[r#"
        1: channel.open
        0: closes, 505 UNEXPECTED_FRAME - expected content body, got non content body frame instead [60,40]"#]],
    );
    let peer = Peer::new().open(1).publish_method(1).header(1, 60, 1, &[0, 0]);
    check(
        peer.ack(1, 1),
        expect![[r#"
        1: channel.open
        0: closes, 505 UNEXPECTED_FRAME - expected content body, got non content body frame instead [60,40]"#]],
    );
    check(
        Peer::new().frame(8, 1, b""),
        expect!["0: closes, 505 UNEXPECTED_FRAME - heartbeat on channel 1, expected channel 0 [0,0]"],
    );
}

#[test]
fn a_body_longer_than_announced_is_a_frame_error() {
    let peer = Peer::new().open(1).publish_method(1).header(1, 60, 3, &[0, 0]).body(1, b"four");
    check(
        peer,
        expect![[r#"
        1: channel.open
        0: closes, 501 FRAME_ERROR - content body is longer than the 3 bytes announced [60,40]"#]],
    );
}

#[test]
fn broken_frames_are_frame_errors() {
    check(Peer::new().raw(b"\x09"), expect!["0: closes, 501 FRAME_ERROR - unknown frame type 9 [0,0]"]);
    check(
        Peer::new().raw(b"\x01\0\0\0\0\x10\x01"),
        expect![
            "0: closes, 501 FRAME_ERROR - frame payload of 4097 bytes is larger than frame_max 4096 allows [0,0]"
        ],
    );
    check(
        Peer::new().raw(b"\x08\0\0\0\0\0\0\xCD"),
        expect!["0: closes, 501 FRAME_ERROR - invalid frame end marker 205, expected 206 [0,0]"],
    );
    check(
        Peer::new().frame(8, 0, b"x"),
        expect!["0: closes, 501 FRAME_ERROR - a heartbeat frame has a payload [0,0]"],
    );
    check(Peer::new().raw(b"\x01\0\0\0\0\x10\x00"), expect!["waits behind 0 of 7 bytes"]);
}

#[test]
fn broken_methods_are_syntax_errors() {
    check(
        Peer::new().open(1).frame(1, 1, b"\0\x3c"),
        expect![[r#"
        1: channel.open
        0: closes, 502 SYNTAX_ERROR - a field ends after the bytes that hold it [0,0]"#]],
    );
    check(
        Peer::new().open(1).frame(1, 1, b"\0\x3c\0\x50\0\0"),
        expect![[r#"
            1: channel.open
            0: closes, 502 SYNTAX_ERROR - a field ends after the bytes that hold it [60,80]"#]],
    );
    check(
        Peer::new().open(1).frame(1, 1, b"\0\x5a\0\x0a!"),
        expect![[r#"
        1: channel.open
        0: closes, 502 SYNTAX_ERROR - 1 bytes are left after the last field [90,10]"#]],
    );
    check(
        Peer::new().open(1).frame(1, 1, b"\0\x3c\0\x63"),
        expect![[r#"
        1: channel.open
        0: closes, 503 COMMAND_INVALID - unknown method 60,99 [60,99]"#]],
    );
    check(
        Peer::new().open(1).frame(1, 1, b"\0\x32\0\x0a\0\0\x01\xff\0\0\0\0\0"),
        expect![[r#"
            1: channel.open
            0: closes, 502 SYNTAX_ERROR - a short string is not UTF-8 [50,10]"#]],
    );
    let bad_table = b"\0\x32\0\x0a\0\0\x01q\0\0\0\0\x03\x01aZ";
    check(
        Peer::new().open(1).frame(1, 1, bad_table),
        expect![[r#"
        1: channel.open
        0: closes, 502 SYNTAX_ERROR - a table holds a value of unknown type 90 [50,10]"#]],
    );
    check(
        Peer::new().open(1).publish_method(1).header(1, 60, 0, &[0x80, 0]),
        expect![[r#"
            1: channel.open
            0: closes, 502 SYNTAX_ERROR - a field ends after the bytes that hold it [60,40]"#]],
    );
    check(
        Peer::new().open(1).publish_method(1).header(1, 60, 0, &[0, 1, 0, 0]),
        expect![[r#"
            1: channel.open
            0: closes, 502 SYNTAX_ERROR - property flags 0x0001 have unknown bits [60,40]"#]],
    );
}

#[test]
fn channels_open_once_and_within_their_number() {
    check(Peer::new().ack(1, 1), expect!["0: closes, 504 CHANNEL_ERROR - expected 'channel.open' [60,80]"]);
    check(
        Peer::new().header(1, 60, 0, &[0, 0]),
        expect!["0: closes, 504 CHANNEL_ERROR - expected 'channel.open' [0,0]"],
    );
    check(
        Peer::new().open(1).open(1),
        expect![[r#"
        1: channel.open
        0: closes, 504 CHANNEL_ERROR - second 'channel.open' seen [20,10]"#]],
    );
    check(
        Peer::new().open(8).open(9),
        expect![[r#"
        8: channel.open
        9: channel.open"#]],
    );
    let all = (1..=8).fold(Peer::new(), Peer::open);
    check(
        all.open(9),
        expect![[r#"
        1: channel.open
        2: channel.open
        3: channel.open
        4: channel.open
        5: channel.open
        6: channel.open
        7: channel.open
        8: channel.open
        0: closes, 530 NOT_ALLOWED - number of channels opened (8) has reached the negotiated channel_max (8) [20,10]"#]],
    );
    check(
        Peer::new().open(1).close(1).open(1).close_ok(2),
        expect![[r#"
        1: channel.open
        1: channel.close
        1: channel.open"#]],
    );
    check(
        Peer::new().open(1).close_ok(1),
        expect![[r#"
        1: channel.open
        0: closes, 503 COMMAND_INVALID - unimplemented method 'channel.close-ok' [20,41]"#]],
    );
}

#[test]
fn methods_keep_to_their_side_and_channel() {
    let declare = queue::Declare {
        queue: "q",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    check(
        Peer::new().method(0, &Method::QueueDeclare(declare)),
        expect!["0: closes, 504 CHANNEL_ERROR - 'queue.declare' on channel 0, expected a channel [50,10]"],
    );
    let unblocked = Method::ConnectionUnblocked(connection::Unblocked {});
    check(
        Peer::new().open(1).method(1, &unblocked),
        expect![[r#"
        1: channel.open
        0: closes, 503 COMMAND_INVALID - unimplemented method 'connection.unblocked' [10,61]"#]],
    );
    let deliver = basic::Deliver {
        consumer_tag: "c",
        delivery_tag: 1,
        redelivered: false,
        exchange: "",
        routing_key: "q",
    };
    check(
        Peer::new().open(1).method(1, &Method::BasicDeliver(deliver)),
        expect![[r#"
            1: channel.open
            0: closes, 503 COMMAND_INVALID - unimplemented method 'basic.deliver' [60,60]"#]],
    );
}

#[test]
fn a_closing_channel_hears_only_close_and_close_ok() {
    let mut receiver = server_receiver();
    receive_all(&mut receiver, &Peer::new().open(1).open(2).publish_method(1).0, &[]);
    receiver.close(1);
    let peer = Peer::new().header(1, 60, 4, &[0, 0]).body(1, b"body").publish(1, b"more").ack(1, 9);
    let peer = peer.frame(1, 1, b"junk").open(1).ack(2, 1).close_ok(1).open(1).ack(1, 1);
    expect![[r#"
        2: basic.ack
        1: channel.close-ok
        1: channel.open
        1: basic.ack"#]]
    .assert_eq(&receive_all(&mut receiver, &peer.0, &[]).join("\n"));
}

#[test]
fn when_both_close_a_channel_it_can_be_opened_with_or_without_close_ok() {
    for peer in [Peer::new().close(1).close_ok(1).open(1), Peer::new().close(1).open(1)] {
        let mut receiver = server_receiver();
        receiver.open(1);
        receiver.close(1);
        assert_eq!(receive_all(&mut receiver, &peer.0, &[])[0], "1: both closed");
        assert!(receiver.is_open(1) && receiver.open_count() == 1);
    }
}

#[test]
fn an_announced_body_reserves_nothing_before_it_comes() {
    let mut receiver =
        Receiver::new(Side::Server, amqp::receiver::Limits { max_message_size: 512 * 1024 * 1024, ..LIMITS });
    let peer = Peer::new().open(1).publish_method(1).header(1, 60, 512 * 1024 * 1024, &[0, 0]);
    let peer = peer.body(1, &[0; 1000]);
    receive_all(&mut receiver, &peer.0, &[]);
    assert!(receiver.buffered_size() < 1100, "{}", receiver.buffered_size());
    receive_all(&mut receiver, &Peer::new().body(1, &[0; 4000]).0, &[]);
    assert!(receiver.buffered_size() < 10_100, "{}", receiver.buffered_size());
    receiver.close(1);
    assert_eq!(receiver.buffered_size(), 0);
}

#[test]
fn a_small_message_cut_short_is_waited_for() {
    let mut receiver = server_receiver();
    receiver.open(1);
    let bytes = Peer::new().publish(1, b"hello").0;
    for end in 0..bytes.len() {
        assert_eq!(receiver.receive(&bytes[..end]).unwrap().used, 0);
    }
    assert_eq!(receiver.buffered_size(), 0);
}
