//! A server's connection: handshake, tuning, closing.

use amqp::capabilities::Capabilities;
use amqp::error::{Code, Error};
use amqp::frame;
use amqp::method::{Method, connection};
use amqp::server::{Connection, Event, Offer};
use amqp::table::{Table, TableBuilder};
use expect_test::expect;

use crate::peer::{Peer, show_error};

const OFFER: Offer =
    Offer { frame_max: 131_072, channel_max: 2047, heartbeat: 60, max_message_size: 16 * 1024 * 1024 };

/// A connection, what it said, and what it answered.
struct Story {
    connection: Connection,
    told: String,
}

impl Story {
    fn new() -> Self {
        Self { connection: Connection::new(OFFER), told: String::new() }
    }

    /// A story that begins after `connection.open-ok`.
    fn ready() -> Self {
        let mut story = Self::new().after(header().start_ok().tune_ok(8, 8192, 30).open_vhost());
        story.told.clear();
        story
    }

    /// Lets bytes arrive, answers what they say, and tells everything.
    fn after(mut self, peer: Peer) -> Self {
        let mut rest = &peer.0[..];
        loop {
            let mut out = Vec::new();
            let (used, answer) = match self.connection.receive(rest, &mut out) {
                Ok(step) => {
                    self.told +=
                        &step.event.map(|event| format!("← {}\n", describe(&event))).unwrap_or_default();
                    (step.used, step.event.map(|event| reply(&event)))
                }
                Err(failure) => {
                    self.told += &format!("← wrong: {}\n", show_error(&failure.error));
                    let used = failure.used;
                    let fail: Reply = Box::new(move |connection, out| connection.fail(out, &failure));
                    (used, Some(fail))
                }
            };
            let is_over = used == 0 && answer.is_none();
            answer.into_iter().for_each(|answer| answer(&mut self.connection, &mut out));
            self.tell_answers(&out);
            if is_over {
                return self;
            }
            rest = &rest[used..];
        }
    }

    fn act(mut self, act: impl FnOnce(&mut Connection, &mut Vec<u8>)) -> Self {
        let mut out = Vec::new();
        act(&mut self.connection, &mut out);
        self.tell_answers(&out);
        self
    }

    fn tell_answers(&mut self, out: &[u8]) {
        let mut rest = out;
        if rest.starts_with(b"AMQP") {
            self.told += &format!("→ {}\n", rest.escape_ascii());
            return;
        }
        while let Some(frame) = frame::parse(rest, 0).unwrap() {
            self.told += &match Method::decode(frame.payload).unwrap() {
                Method::ConnectionClose(close) => format!("→ close: {close:?}\n"),
                Method::ChannelClose(close) => format!("→ {} close: {close:?}\n", frame.channel),
                Method::ConnectionTune(tune) => format!("→ {tune:?}\n"),
                method => format!("→ {} {}\n", frame.channel, method.name()),
            };
            rest = &rest[frame.size()..];
        }
    }

    fn end(self) -> String {
        format!("{}{}\n", self.told, if self.connection.is_closed() { "closed" } else { "open" })
    }
}

fn describe(event: &Event<'_>) -> String {
    match event {
        Event::Login { mechanism, response, client_properties, locale } => {
            let keys: Vec<_> = client_properties.iter().map(|(key, _)| key).collect();
            format!("login {mechanism} {} {keys:?} {locale}", response.escape_ascii())
        }
        Event::Method { channel, method } => format!("{channel} {}", method.name()),
        Event::Publish { channel, method, body, .. } => {
            format!("{channel} publish to {} {} bytes", method.exchange, body.len())
        }
        event => format!("{event:?}"),
    }
}

type Reply = Box<dyn FnOnce(&mut Connection, &mut Vec<u8>)>;

fn reply(event: &Event<'_>) -> Reply {
    match *event {
        Event::ProtocolHeader => Box::new(|connection, out| {
            let properties =
                TableBuilder::new().with("capabilities", Capabilities::ALL.to_table().as_table());
            connection.send_start(out, properties.as_table(), "PLAIN AMQPLAIN");
        }),
        Event::Login { mechanism: "PLAIN", .. } | Event::Response { .. } => {
            Box::new(Connection::accept_login)
        }
        Event::Login { mechanism: "CHALLENGE", .. } => {
            Box::new(|connection, out| connection.challenge(out, b"?"))
        }
        Event::Login { .. } => Box::new(|connection, out| connection.refuse_login(out, "EXTERNAL")),
        Event::Open { .. } => Box::new(Connection::accept_open),
        Event::ChannelOpened { channel } => {
            Box::new(move |connection, out| connection.accept_channel(out, channel))
        }
        _ => Box::new(|_, _| {}),
    }
}

fn header() -> Peer {
    Peer::new().raw(b"AMQP\0\0\x09\x01")
}

impl Peer {
    fn start_ok(self) -> Self {
        self.login("PLAIN", Capabilities::ALL)
    }

    fn login(self, mechanism: &str, capabilities: Capabilities) -> Self {
        let client_properties = TableBuilder::new()
            .with("capabilities", capabilities.to_table().as_table())
            .with("connection_name", "me");
        let start_ok = connection::StartOk {
            client_properties: client_properties.as_table(),
            mechanism,
            response: b"\0guest\0guest",
            locale: "en_US",
        };
        self.method(0, &Method::ConnectionStartOk(start_ok))
    }

    fn tune_ok(self, channel_max: u16, frame_max: u32, heartbeat: u16) -> Self {
        let tune_ok = connection::TuneOk { channel_max, frame_max, heartbeat };
        self.method(0, &Method::ConnectionTuneOk(tune_ok))
    }

    fn open_vhost(self) -> Self {
        self.method(0, &Method::ConnectionOpen(connection::Open { vhost: "/" }))
    }

    fn close_connection(self) -> Self {
        let close = connection::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };
        self.method(0, &Method::ConnectionClose(close))
    }

    fn connection_close_ok(self) -> Self {
        self.method(0, &Method::ConnectionCloseOk(connection::CloseOk {}))
    }
}

#[test]
fn a_client_that_sends_all_at_once_gets_all_answers_in_order() {
    let peer = header().start_ok().tune_ok(8, 8192, 30).open_vhost();
    let story = Story::new().after(peer.open(1).publish(1, b"hello").close(1).close_connection());
    assert_eq!(story.connection.connection_name(), Some("me"));
    assert_eq!(story.connection.capabilities(), Capabilities::ALL);
    let negotiated = story.connection.negotiated();
    assert_eq!((negotiated.channel_max, negotiated.frame_max, negotiated.heartbeat), (8, 8192, 30));
    expect![[r#"
        ← ProtocolHeader
        → 0 connection.start
        ← login PLAIN \x00guest\x00guest ["capabilities", "connection_name"] en_US
        → Tune { channel_max: 2047, frame_max: 131072, heartbeat: 60 }
        ← Open { vhost: "/" }
        → 0 connection.open-ok
        ← ChannelOpened { channel: 1 }
        → 1 channel.open-ok
        ← 1 publish to x 5 bytes
        ← ChannelClosed { channel: 1 }
        → 1 channel.close-ok
        ← Closed
        → 0 connection.close-ok
        closed
    "#]]
    .assert_eq(&story.end());
}

#[test]
fn other_versions_and_protocols_are_told_ours() {
    let headers = [
        &b"AMQP\x01\x01\x00\x09"[..],
        b"AMQP\0\0\x09\x02",
        b"AMQP\x03\x01\0\0",
        b"AMQP\0\x01\0\0",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01",
        b"\0\x01",
        b"AMQ",
    ];
    let told = headers.map(|header| Story::new().after(Peer::new().raw(header)).end());
    expect![[r#"
        ← ProtocolHeader
        → 0 connection.start
        open
        ---
        ← wrong: 501 FRAME_ERROR - the client speaks AMQP version 0 0 9 2, expected 0 0 9 1 [0,0]
        → AMQP\x00\x00\t\x01
        closed
        ---
        ← wrong: 501 FRAME_ERROR - the client speaks AMQP 1.0 (protocol 3), expected AMQP 0-9-1 [0,0]
        → AMQP\x00\x00\t\x01
        closed
        ---
        ← wrong: 501 FRAME_ERROR - the client speaks AMQP 1.0 (protocol 0), expected AMQP 0-9-1 [0,0]
        → AMQP\x00\x00\t\x01
        closed
        ---
        ← wrong: 501 FRAME_ERROR - the client speaks HTTP on the AMQP port [0,0]
        → AMQP\x00\x00\t\x01
        closed
        ---
        ← wrong: 501 FRAME_ERROR - the client speaks TLS on the plain AMQP port [0,0]
        → AMQP\x00\x00\t\x01
        closed
        ---
        ← wrong: 501 FRAME_ERROR - the client sent "\x00\x01", expected an AMQP protocol header [0,0]
        → AMQP\x00\x00\t\x01
        closed
        ---
        open
    "#]]
    .assert_eq(&told.join("---\n"));
}

#[test]
fn logins_can_be_refused_and_challenged() {
    let told = [
        Story::new().after(header().login("EXTERNAL", Capabilities::ALL).connection_close_ok()),
        Story::new().after(header().login("EXTERNAL", Capabilities::default())),
        Story::new().after(header().login("CHALLENGE", Capabilities::ALL)).after(
            Peer::new().method(0, &Method::ConnectionSecureOk(connection::SecureOk { response: b"!" })),
        ),
    ];
    expect![[r#"
        ← ProtocolHeader
        → 0 connection.start
        ← login EXTERNAL \x00guest\x00guest ["capabilities", "connection_name"] en_US
        → close: Close { reply_code: 403, reply_text: "ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL. For details see the broker logfile.", class_id: 0, method_id: 0 }
        ← Closed
        closed
        ---
        ← ProtocolHeader
        → 0 connection.start
        ← login EXTERNAL \x00guest\x00guest ["capabilities", "connection_name"] en_US
        closed
        ---
        ← ProtocolHeader
        → 0 connection.start
        ← login CHALLENGE \x00guest\x00guest ["capabilities", "connection_name"] en_US
        → 0 connection.secure
        ← Response { response: [33] }
        → Tune { channel_max: 2047, frame_max: 131072, heartbeat: 60 }
        open
    "#]].assert_eq(&told.map(Story::end).join("---\n"));
}

#[test]
fn tuning_keeps_to_what_was_offered() {
    let told = [(2048, 131_072), (0, 131_072), (2047, 131_073), (2047, 0), (2047, 4095), (1, 4096)].map(
        |(channel_max, frame_max)| {
            let mut story = Story::new().after(header().start_ok());
            story.told.clear();
            story.after(Peer::new().tune_ok(channel_max, frame_max, 0)).end()
        },
    );
    expect![[r#"
        ← wrong: 530 NOT_ALLOWED - negotiated channel_max = 2048 is higher than the maximum allowed value (2047) [10,31]
        → close: Close { reply_code: 530, reply_text: "NOT_ALLOWED - negotiated channel_max = 2048 is higher than the maximum allowed value (2047)", class_id: 10, method_id: 31 }
        open
        ---
        ← wrong: 530 NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047) [10,31]
        → close: Close { reply_code: 530, reply_text: "NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)", class_id: 10, method_id: 31 }
        open
        ---
        ← wrong: 530 NOT_ALLOWED - negotiated frame_max = 131073 is higher than the maximum allowed value (131072) [10,31]
        → close: Close { reply_code: 530, reply_text: "NOT_ALLOWED - negotiated frame_max = 131073 is higher than the maximum allowed value (131072)", class_id: 10, method_id: 31 }
        open
        ---
        ← wrong: 530 NOT_ALLOWED - negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072) [10,31]
        → close: Close { reply_code: 530, reply_text: "NOT_ALLOWED - negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)", class_id: 10, method_id: 31 }
        open
        ---
        ← wrong: 530 NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum allowed value (4096) [10,31]
        → close: Close { reply_code: 530, reply_text: "NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum allowed value (4096)", class_id: 10, method_id: 31 }
        open
        ---
        open
    "#]].assert_eq(&told.join("---\n"));
}

#[test]
fn before_the_connection_is_open_only_the_handshake_is_heard() {
    let told = [
        Story::new().after(header().tune_ok(1, 4096, 0)),
        Story::new().after(header().open(1)),
        Story::new().after(header().frame(3, 0, b"x")),
        Story::new().after(header().frame(8, 0, b"").close_connection()),
        Story::new().after(header().raw(b"\x01\0\0\0\0\x20\x01")),
    ];
    expect![[r#"
        ← ProtocolHeader
        → 0 connection.start
        ← wrong: 504 CHANNEL_ERROR - unexpected method 'connection.tune-ok' in connection state starting [10,31]
        → close: Close { reply_code: 504, reply_text: "CHANNEL_ERROR - unexpected method 'connection.tune-ok' in connection state starting", class_id: 10, method_id: 31 }
        open
        ---
        ← ProtocolHeader
        → 0 connection.start
        ← wrong: 504 CHANNEL_ERROR - channel 1 before the connection is open [0,0]
        → close: Close { reply_code: 504, reply_text: "CHANNEL_ERROR - channel 1 before the connection is open", class_id: 0, method_id: 0 }
        open
        ---
        ← ProtocolHeader
        → 0 connection.start
        ← wrong: 505 UNEXPECTED_FRAME - content before the connection is open [0,0]
        → close: Close { reply_code: 505, reply_text: "UNEXPECTED_FRAME - content before the connection is open", class_id: 0, method_id: 0 }
        open
        ---
        ← ProtocolHeader
        → 0 connection.start
        ← Heartbeat
        ← Closed
        → 0 connection.close-ok
        closed
        ---
        ← ProtocolHeader
        → 0 connection.start
        ← wrong: 501 FRAME_ERROR - frame payload of 8193 bytes is larger than frame_max 8192 allows [0,0]
        → close: Close { reply_code: 501, reply_text: "FRAME_ERROR - frame payload of 8193 bytes is larger than frame_max 8192 allows", class_id: 0, method_id: 0 }
        open
    "#]].assert_eq(&told.map(Story::end).join("---\n"));
}

#[test]
fn after_our_close_only_the_answer_counts() {
    let error = || Error::new(Code::ConnectionForced, "shutdown");
    let close = |connection: &mut Connection, out: &mut Vec<u8>| connection.close(out, &error());
    let noise = || Peer::new().open(1).publish(1, b"late").raw(b"");
    let told = [
        Story::ready().act(close).act(close).after(noise().connection_close_ok().open(2)),
        Story::ready().act(close).after(noise().close_connection()),
        Story::ready().act(close).after(noise().raw(b"garbage")),
    ];
    expect![[r#"
        → close: Close { reply_code: 320, reply_text: "CONNECTION_FORCED - shutdown", class_id: 0, method_id: 0 }
        ← Closed
        closed
        ---
        → close: Close { reply_code: 320, reply_text: "CONNECTION_FORCED - shutdown", class_id: 0, method_id: 0 }
        ← Closed
        → 0 connection.close-ok
        closed
        ---
        → close: Close { reply_code: 320, reply_text: "CONNECTION_FORCED - shutdown", class_id: 0, method_id: 0 }
        open
    "#]].assert_eq(&told.map(Story::end).join("---\n"));
}

#[test]
fn channels_close_from_both_sides() {
    let error = || Error::not_found("no queue 'q' in vhost '/'").at((50, 10));
    let close = |connection: &mut Connection, out: &mut Vec<u8>| connection.close_channel(out, 1, &error());
    let told = [
        Story::ready()
            .after(Peer::new().open(1))
            .act(close)
            .act(close)
            .after(Peer::new().ack(1, 1).publish(1, b"late").close_ok(1).open(1).ack(1, 1)),
        Story::ready().after(Peer::new().open(1)).act(close).after(Peer::new().close(1).close_ok(1).open(1)),
        Story::ready()
            .after(Peer::new().open(1).publish_method(1).header(1, 60, 20_000_000, &[0, 0]).ack(1, 1)),
    ];
    expect![[r#"
        ← ChannelOpened { channel: 1 }
        → 1 channel.open-ok
        → 1 close: Close { reply_code: 404, reply_text: "NOT_FOUND - no queue 'q' in vhost '/'", class_id: 50, method_id: 10 }
        ← ChannelOpened { channel: 1 }
        → 1 channel.open-ok
        ← 1 basic.ack
        open
        ---
        ← ChannelOpened { channel: 1 }
        → 1 channel.open-ok
        → 1 close: Close { reply_code: 404, reply_text: "NOT_FOUND - no queue 'q' in vhost '/'", class_id: 50, method_id: 10 }
        → 1 channel.close-ok
        ← ChannelOpened { channel: 1 }
        → 1 channel.open-ok
        open
        ---
        ← ChannelOpened { channel: 1 }
        → 1 channel.open-ok
        ← wrong: 406 PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216 [60,40]
        → 1 close: Close { reply_code: 406, reply_text: "PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216", class_id: 60, method_id: 40 }
        open
    "#]].assert_eq(&told.map(Story::end).join("---\n"));
}

#[test]
fn a_running_connection_hears_no_handshake() {
    let update = connection::UpdateSecret { new_secret: b"new", reason: "old" };
    let told = [
        Story::ready().after(Peer::new().method(0, &Method::ConnectionUpdateSecret(update)).frame(8, 0, b"")),
        Story::ready().after(Peer::new().open_vhost().connection_close_ok()),
        Story::ready().after(Peer::new().connection_close_ok()),
        Story::ready().after(Peer::new().open(1).frame(3, 1, &[0; 8193])),
    ];
    expect![[r#"
        ← 0 connection.update-secret
        ← Heartbeat
        open
        ---
        ← wrong: 504 CHANNEL_ERROR - unexpected method 'connection.open' in connection state running [10,40]
        → close: Close { reply_code: 504, reply_text: "CHANNEL_ERROR - unexpected method 'connection.open' in connection state running", class_id: 10, method_id: 40 }
        ← Closed
        closed
        ---
        ← wrong: 504 CHANNEL_ERROR - unexpected method 'connection.close-ok' in connection state running [10,51]
        → close: Close { reply_code: 504, reply_text: "CHANNEL_ERROR - unexpected method 'connection.close-ok' in connection state running", class_id: 10, method_id: 51 }
        ← Closed
        closed
        ---
        ← ChannelOpened { channel: 1 }
        → 1 channel.open-ok
        ← wrong: 501 FRAME_ERROR - frame payload of 8193 bytes is larger than frame_max 8192 allows [0,0]
        → close: Close { reply_code: 501, reply_text: "FRAME_ERROR - frame payload of 8193 bytes is larger than frame_max 8192 allows", class_id: 0, method_id: 0 }
        open
    "#]].assert_eq(&told.map(Story::end).join("---\n"));
}

#[test]
fn a_reply_text_is_cut_at_a_character() {
    let error = Error::not_found(format!("{}é", "x".repeat(242)));
    assert_eq!(error.reply_text().len(), 254);
    assert!(error.is_hard() != Error::not_allowed("x").is_hard());
}

#[test]
#[should_panic(expected = "follow its events")]
fn answers_out_of_turn_are_a_bug() {
    Connection::new(OFFER).send_start(&mut Vec::new(), Table::EMPTY, "PLAIN");
}
