//! The bodies of the fuzz targets in `fuzz/`, so that plain tests can replay what fuzzing found.
//!
//! Each takes arbitrary bytes and panics if a promise is broken.

use crate::client;
use crate::content;
use crate::error::Error;
use crate::frame;
use crate::method::Method;
use crate::properties::Properties;
use crate::receiver::{Event, Failure, Limits, Publish, Receiver, Side, Step};
use crate::sasl::{self, Credentials};
use crate::server;
use crate::table::{ArrayBuilder, Table, TableBuilder, Value};

/// Bytes of a frame with its overhead, in all targets.
const FRAME_MAX: u32 = 4096;

/// Bytes of a body, in all targets.
const MAX_MESSAGE_SIZE: u64 = 16 * 1024;

const LIMITS: Limits = Limits { frame_max: FRAME_MAX, channel_max: 16, max_message_size: MAX_MESSAGE_SIZE };

/// Frames into a receiver, whose first octet says which side it is; channel 1 is open.
/// Promises: methods survive encoding and decoding; nothing is held beyond twice the input.
pub fn frame(input: &[u8]) {
    let Some((&side, mut rest)) = input.split_first() else {
        return;
    };
    let mut receiver = Receiver::new(if side % 2 == 0 { Side::Server } else { Side::Client }, LIMITS);
    receiver.open(1);
    loop {
        let shortcut = receiver.receive_publish(rest);
        let used = match receiver.receive(rest) {
            Ok(step) => {
                step.event.iter().for_each(check_event);
                check_shortcut(shortcut, &step);
                step.used
            }
            Err(failure) if failure.channel != 0 => failure.used,
            Err(_) => break,
        };
        rest = rest.get(used..).expect("no more is used than there is");
        assert!(receiver.buffered_size() <= 2 * input.len(), "memory follows what has arrived");
        if used == 0 {
            break;
        }
    }
}

/// The shortcut for publishes says the same as the general way.
fn check_shortcut(shortcut: Option<Publish<'_>>, step: &Step<'_>) {
    let Some(shortcut) = shortcut else { return };
    let Some(Event::Content { channel, method: Method::BasicPublish(method), properties, body }) = step.event
    else {
        panic!("{shortcut:?} is also {step:?}");
    };
    let mut exchange_and_key = Vec::new();
    content::put_exchange_and_key(&mut exchange_and_key, method.exchange, method.routing_key);
    let Publish { used, mandatory, .. } = shortcut;
    let expected =
        Publish { used, channel, exchange_and_key: &exchange_and_key, mandatory, properties, body };
    assert_eq!(shortcut, expected);
    assert_eq!((used, mandatory, method.immediate), (step.used, method.mandatory, false));
}

fn check_event(event: &Event<'_>) {
    match event {
        Event::Method { method, .. } => check_method(method),
        Event::Content { method, properties, .. } => {
            check_method(method);
            check_properties(*properties);
        }
        Event::Crossed { .. } | Event::Heartbeat => {}
    }
}

fn check_method(method: &Method<'_>) {
    let mut encoded = Vec::new();
    method.encode(&mut encoded);
    let decoded = Method::decode(&encoded).expect("what we encode decodes");
    let mut again = Vec::new();
    decoded.encode(&mut again);
    assert_eq!(encoded, again, "a method survives");
}

fn check_properties(properties: Properties<'_>) {
    let mut rewritten = Vec::new();
    properties.with_reply_to("elsewhere", &mut rewritten);
    let rewritten = Properties::new(&rewritten).expect("rewritten properties are valid");
    assert_eq!(rewritten.reply_to(), Some("elsewhere"));
    assert_eq!(rewritten.headers(), properties.headers());
    assert_eq!(rewritten.cluster_id(), properties.cluster_id());
    let mut shortened = Vec::new();
    properties.without_expiration(&mut shortened);
    let shortened = Properties::new(&shortened).expect("shortened properties are valid");
    assert_eq!(shortened.expiration(), None);
    assert_eq!(shortened.message_id(), properties.message_id());
}

/// A table, and the same bytes as an array, properties and login responses.
/// Promises: a valid table survives reading and writing; all of it can be shown.
pub fn table(input: &[u8]) {
    if let Ok(table) = Table::new(input) {
        let rebuilt = rebuild(table);
        let rebuilt = rebuilt.as_table();
        assert_eq!(rebuild(rebuilt).as_table(), rebuilt, "a table survives");
        assert_eq!(rebuilt.iter().count(), table.iter().count());
        for (key, value) in table {
            assert!(!value.type_name().is_empty() && format!("{value}").len() < usize::MAX);
            assert!(table.get(key).is_some());
        }
    }
    if let Ok(properties) = Properties::new(input) {
        check_properties(properties);
    }
    let _ = sasl::parse_plain(input);
    let _ = sasl::parse_amqplain(input);
}

fn rebuild(table: Table<'_>) -> TableBuilder {
    let mut builder = TableBuilder::new();
    for (key, value) in table {
        match value {
            Value::Table(nested) => builder.insert(key, rebuild(nested).as_table()),
            Value::Array(nested) => {
                let mut array = ArrayBuilder::new();
                nested.iter().for_each(|value| array.push(value));
                builder.insert(key, array.as_array());
            }
            value => builder.insert(key, value),
        }
    }
    builder
}

/// All that a client sends in one connection; the first octet says in pieces of how many bytes it arrives (0:
/// at once). The same bytes go to a client, too. Promises: answers are whole frames; a closed connection
/// stays closed.
pub fn connection(input: &[u8]) {
    let Some((&piece_size, bytes)) = input.split_first() else {
        return;
    };
    let piece_size = if piece_size == 0 { bytes.len().max(1) } else { usize::from(piece_size) };
    serve(bytes, piece_size);
    consume(bytes, piece_size);
}

fn serve(bytes: &[u8], piece_size: usize) {
    let offer = server::Offer {
        frame_max: 2 * FRAME_MAX,
        channel_max: 16,
        heartbeat: 60,
        max_message_size: MAX_MESSAGE_SIZE,
    };
    let (mut connection, mut out) = (server::Connection::new(offer), Vec::new());
    let mut buffer = Vec::new();
    for piece in bytes.chunks(piece_size) {
        buffer.extend_from_slice(piece);
        let used = serve_all(&mut connection, &buffer, &mut out);
        buffer.drain(..used);
    }
    let answers = out.strip_prefix(&frame::PROTOCOL_HEADER).unwrap_or(&out);
    check_frames(answers);
}

/// Feeds the connection until it wants more; returns the bytes used.
fn serve_all(connection: &mut server::Connection, input: &[u8], out: &mut Vec<u8>) -> usize {
    let mut total = 0;
    loop {
        let rest = input.get(total..).expect("no more is used than there is");
        let was_closed = connection.is_closed();
        let (used, answer) = match connection.receive(rest, out) {
            Ok(server::Step { used, event }) => (used, event.map(Answer::to)),
            Err(failure) => (failure.used, Some(Answer::Fail(failure))),
        };
        assert!(!was_closed || connection.is_closed(), "a closed connection stays closed");
        total += used;
        match answer {
            Some(answer) => answer.give(connection, out),
            None if used == 0 => return total,
            None => {}
        }
    }
}

/// What a server would do about an event.
enum Answer {
    Start,
    AcceptLogin,
    AcceptOpen,
    AcceptChannel(u16),
    CloseChannel(u16),
    Fail(Failure),
    Nothing,
}

impl Answer {
    fn to(event: server::Event<'_>) -> Self {
        match event {
            server::Event::ProtocolHeader => Self::Start,
            server::Event::Login { .. } | server::Event::Response { .. } => Self::AcceptLogin,
            server::Event::Open { .. } => Self::AcceptOpen,
            server::Event::ChannelOpened { channel } => Self::AcceptChannel(channel),
            server::Event::Method { channel, .. } => Self::CloseChannel(channel),
            server::Event::Publish { properties, .. } => {
                check_properties(properties);
                Self::Nothing
            }
            server::Event::ChannelClosed { .. } | server::Event::Heartbeat | server::Event::Closed => {
                Self::Nothing
            }
        }
    }

    fn give(self, connection: &mut server::Connection, out: &mut Vec<u8>) {
        match self {
            Self::Start => connection.send_start(out, Table::EMPTY, "PLAIN"),
            Self::AcceptLogin => connection.accept_login(out),
            Self::AcceptOpen => connection.accept_open(out),
            Self::AcceptChannel(channel) => connection.accept_channel(out, channel),
            Self::CloseChannel(channel) => {
                connection.close_channel(out, channel, &Error::not_found("no queue 'q' in vhost '/'"));
            }
            Self::Fail(failure) => connection.fail(out, &failure),
            Self::Nothing => {}
        }
    }
}

fn check_frames(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let frame = frame::parse(bytes, 0).expect("we write valid frames").expect("we write whole frames");
        Method::decode(frame.payload).expect("we write valid methods");
        bytes = bytes.get(frame.size()..).expect("a frame is not longer than itself");
    }
}

fn consume(bytes: &[u8], piece_size: usize) {
    let options = client::Options {
        credentials: Credentials { user: "guest".to_owned(), password: "guest".to_owned() },
        vhost: "/".to_owned(),
        connection_name: None,
        frame_max: FRAME_MAX,
        channel_max: 16,
        heartbeat: 0,
        max_message_size: MAX_MESSAGE_SIZE,
    };
    let mut out = Vec::new();
    let mut connection = client::Connection::start(options, &mut out);
    out.clear();
    let mut buffer = Vec::new();
    for piece in bytes.chunks(piece_size) {
        buffer.extend_from_slice(piece);
        loop {
            let (used, is_opened) = match connection.receive(&buffer, &mut out) {
                Ok(step) => (step.used, step.event == Some(client::Event::Opened)),
                Err(failure) => (failure.used, false),
            };
            buffer.drain(..used);
            if is_opened {
                connection.open_channel(&mut out, 1);
            }
            if used == 0 {
                break;
            }
        }
    }
    check_frames(&out);
}
