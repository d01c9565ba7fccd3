//! What a server said, kept.

use amqp::method::Method;
use amqp::receiver::{Event, Receiver};

/// A message as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Consumer tag of a delivery; empty for basic.get and basic.return.
    pub(crate) consumer: String,
    /// Delivery tag; 0 for a return.
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) reply_to: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Of basic.get: how many are left.
    pub(crate) left: u32,
}

impl Message {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Why something was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) text: String,
    pub(crate) method: (u16, u16),
}

/// A method without content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) id: (u16, u16),
    /// The one string that some have: a queue, a consumer tag, a reason.
    pub(crate) text: String,
    /// Messages and consumers, where it counts them.
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Method(u16, Plain),
    Delivery(u16, Message),
    Got(u16, Message),
    Returned(u16, Message),
    Ack {
        channel: u16,
        number: u64,
        multiple: bool,
    },
    ChannelClosed(u16, Close),
    ConnectionClosed(Close),
    Heartbeat,
    /// The server has closed its socket.
    End,
}

/// The next thing in `input`, and how many bytes it took; `None`: more has to be read.
pub(crate) fn next(receiver: &mut Receiver, input: &[u8]) -> Option<(usize, Option<Heard>)> {
    let step = receiver.receive(input).expect("the server speaks AMQP");
    if step.used == 0 && step.event.is_none() {
        return None;
    }
    Some((step.used, step.event.map(|event| hear(&event))))
}

fn hear(event: &Event<'_>) -> Heard {
    match event {
        Event::Heartbeat => Heard::Heartbeat,
        Event::Crossed { channel } => Heard::Method(*channel, Plain { id: (20, 40), ..Plain::default() }),
        Event::Content { channel, method, properties, body } => {
            let message = |consumer: &str, tag, redelivered, exchange: &str, key: &str, left| Message {
                consumer: consumer.to_owned(),
                tag,
                redelivered,
                exchange: exchange.to_owned(),
                key: key.to_owned(),
                reply_to: properties.reply_to().map(str::to_owned),
                body: body.to_vec(),
                left,
            };
            match method {
                Method::BasicDeliver(m) => Heard::Delivery(
                    *channel,
                    message(m.consumer_tag, m.delivery_tag, m.redelivered, m.exchange, m.routing_key, 0),
                ),
                Method::BasicGetOk(m) => Heard::Got(
                    *channel,
                    message("", m.delivery_tag, m.redelivered, m.exchange, m.routing_key, m.message_count),
                ),
                Method::BasicReturn(m) => {
                    assert_eq!((m.reply_code, m.reply_text), (312, "NO_ROUTE"));
                    Heard::Returned(*channel, message("", 0, false, m.exchange, m.routing_key, 0))
                }
                other => panic!("{} has no content", other.name()),
            }
        }
        Event::Method { channel, method } => method_heard(*channel, method),
    }
}

fn method_heard(channel: u16, method: &Method<'_>) -> Heard {
    let close = |code: u16, text: &str, class: u16, method: u16| Close {
        code,
        text: text.to_owned(),
        method: (class, method),
    };
    let mut plain = Plain { id: method.id(), ..Plain::default() };
    match method {
        Method::BasicAck(ack) => {
            return Heard::Ack { channel, number: ack.delivery_tag, multiple: ack.multiple };
        }
        Method::ChannelClose(c) => {
            return Heard::ChannelClosed(channel, close(c.reply_code, c.reply_text, c.class_id, c.method_id));
        }
        Method::ConnectionClose(c) => {
            return Heard::ConnectionClosed(close(c.reply_code, c.reply_text, c.class_id, c.method_id));
        }
        Method::QueueDeclareOk(ok) => {
            plain.text = ok.queue.to_owned();
            (plain.messages, plain.consumers) = (ok.message_count, ok.consumer_count);
        }
        Method::QueueDeleteOk(ok) => plain.messages = ok.message_count,
        Method::QueuePurgeOk(ok) => plain.messages = ok.message_count,
        Method::BasicConsumeOk(ok) => plain.text = ok.consumer_tag.to_owned(),
        Method::BasicCancelOk(ok) => plain.text = ok.consumer_tag.to_owned(),
        Method::BasicCancel(cancel) => plain.text = cancel.consumer_tag.to_owned(),
        Method::ConnectionBlocked(blocked) => plain.text = blocked.reason.to_owned(),
        _ => {}
    }
    Heard::Method(channel, plain)
}
