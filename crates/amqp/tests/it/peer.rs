//! What a peer sends, as bytes, and what a receiver makes of it, as text.

use amqp::error::Error;
use amqp::frame;
use amqp::method::{Method, basic, channel};
use amqp::receiver::{Event, Failure, Limits, Receiver, Side, Step};

pub(crate) const LIMITS: Limits = Limits { frame_max: 4096, channel_max: 8, max_message_size: 10_000 };

/// Bytes of a peer, frame by frame.
#[derive(Default)]
pub(crate) struct Peer(pub(crate) Vec<u8>);

impl Peer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn frame(mut self, kind: u8, channel: u16, payload: &[u8]) -> Self {
        self.0.push(kind);
        self.0.extend_from_slice(&channel.to_be_bytes());
        self.0.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        self.0.extend_from_slice(payload);
        self.0.push(frame::END);
        self
    }

    pub(crate) fn method(mut self, channel: u16, method: &Method<'_>) -> Self {
        frame::method(&mut self.0, channel, method);
        self
    }

    pub(crate) fn open(self, channel: u16) -> Self {
        self.method(channel, &Method::ChannelOpen(channel::Open {}))
    }

    pub(crate) fn close(self, channel: u16) -> Self {
        let close = channel::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };
        self.method(channel, &Method::ChannelClose(close))
    }

    pub(crate) fn close_ok(self, channel: u16) -> Self {
        self.method(channel, &Method::ChannelCloseOk(channel::CloseOk {}))
    }

    pub(crate) fn ack(self, channel: u16, delivery_tag: u64) -> Self {
        self.method(channel, &Method::BasicAck(basic::Ack { delivery_tag, multiple: false }))
    }

    pub(crate) fn publish_method(self, channel: u16) -> Self {
        let publish = basic::Publish { exchange: "x", routing_key: "k", mandatory: true, immediate: false };
        self.method(channel, &Method::BasicPublish(publish))
    }

    pub(crate) fn header(self, channel: u16, class: u16, body_size: u64, properties: &[u8]) -> Self {
        let mut payload = class.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0, 0]);
        payload.extend_from_slice(&body_size.to_be_bytes());
        payload.extend_from_slice(properties);
        self.frame(2, channel, &payload)
    }

    pub(crate) fn body(self, channel: u16, piece: &[u8]) -> Self {
        self.frame(3, channel, piece)
    }

    pub(crate) fn publish(self, channel: u16, body: &[u8]) -> Self {
        let size = u64::try_from(body.len()).unwrap();
        let mut peer = self.publish_method(channel).header(channel, 60, size, &[0x10, 0, 2]);
        for piece in body.chunks(4088) {
            peer = peer.body(channel, piece);
        }
        peer
    }
}

/// Everything that a receiver says about `bytes`, which arrive in pieces that end at `cuts`.
pub(crate) fn receive_all(receiver: &mut Receiver, bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let (mut said, mut used, mut arrived) = (Vec::new(), 0, 0);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        arrived = arrived.max(end.min(bytes.len()));
        loop {
            let step = receiver.receive(&bytes[used..arrived]);
            let (more, line, is_over) = describe(step);
            said.extend(line);
            used += more;
            if is_over {
                return said;
            }
            if more == 0 {
                break;
            }
        }
    }
    if used < bytes.len() {
        said.push(format!("waits behind {} of {} bytes", used, bytes.len()));
    }
    said
}

fn describe(step: Result<Step<'_>, Failure>) -> (usize, Option<String>, bool) {
    match step {
        Ok(Step { used, event }) => (used, event.map(|event| show(&event)), false),
        Err(Failure { channel, used, error }) => {
            (used, Some(format!("{channel}: closes, {}", show_error(&error))), channel == 0)
        }
    }
}

pub(crate) fn show_error(error: &Error) -> String {
    let (class, method) = error.method;
    format!("{error} [{class},{method}]")
}

fn show(event: &Event<'_>) -> String {
    match event {
        Event::Method { channel, method } => format!("{channel}: {}", method.name()),
        Event::Content { channel, method, properties, body } => {
            let sum = body.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
            let mode = if properties.is_persistent() { "persistent" } else { "transient" };
            format!("{channel}: {} {mode} {} bytes #{sum:x}", method.name(), body.len())
        }
        Event::Crossed { channel } => format!("{channel}: both closed"),
        Event::Heartbeat => "heartbeat".to_owned(),
    }
}

pub(crate) fn server_receiver() -> Receiver {
    Receiver::new(Side::Server, LIMITS)
}
