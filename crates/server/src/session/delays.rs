//! Messages that wait for their time: they can be looked at, and called off.

use std::sync::Arc;

use amqp::content;
use amqp::error::Error;
use amqp::method::{Method, basic};
use amqp::properties::Properties;
use broker::access::{Operation, Resource};
use broker::id::QueueId;
use broker::message::{Messages, Parts};
use broker::shard::{Bookmark, Browse, Request};
use broker::topology::{DELIVER_AT, Queue, called_off};

use super::answers::Awaited;
use super::{Outcome, Session, reply};

/// Bytes of messages that a consumer is shown in one go; the next when these are written.
const SHOWN_MAX: usize = 256 << 10;

/// A consumer that is shown what waits.
#[derive(Debug)]
pub(super) struct Browser {
    consumer: u32,
    queue: QueueId,
    /// The last that it was shown.
    after: Option<Bookmark>,
    /// What it was shown waits for the socket.
    is_full: bool,
}

/// Messages that are being called off.
#[derive(Debug)]
pub(super) struct CallOff {
    pub(super) channel: u16,
    /// The number of the message that does so, in confirm mode.
    number: Option<u64>,
    /// It goes back if there was nothing to call off.
    mandatory: Option<Messages>,
}

impl Session {
    /// Consumes from the queue of a delayed exchange: copies of what waits, in the order of its time, and then the end.
    pub(super) fn start_browsing(
        &mut self,
        number: u16,
        consume: &basic::Consume<'_>,
        tag: &Arc<str>,
        queue: &Queue,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if !consume.no_ack {
            let text = format!("{} only shows what waits: there is nothing to acknowledge", queue.label());
            return Err(Error::precondition_failed(text));
        }
        let consumer = self.subscribe(number, consume, tag, queue.id, 0)?.consumer;
        self.browsers.push_back(Browser { consumer, queue: queue.id, after: None, is_full: false });
        if !consume.nowait {
            reply(out, number, &Method::BasicConsumeOk(basic::ConsumeOk { consumer_tag: tag }))?;
        }
        self.browse();
        Ok(())
    }

    /// What browsers were shown is written.
    pub(super) fn browse_on(&mut self) {
        self.browsers.iter_mut().for_each(|browser| browser.is_full = false);
        self.browse();
    }

    /// Asks for what the first browser is to be shown next, if it can be now.
    pub(crate) fn browse(&mut self) {
        // Some may have been cancelled.
        self.browsers.retain(|browser| self.consumers.contains_key(&browser.consumer));
        let Some(browser) = self.browsers.front().filter(|browser| !browser.is_full) else { return };
        if self.awaited.is_some() {
            return;
        }
        let Some(consumer) = self.consumers.get(&browser.consumer) else { return };
        let Browser { queue, after, .. } = *browser;
        let awaited = Awaited::Browse { channel: consumer.channel };
        self.ask(queue, Request::Browse(Browse { queue, after, size_max: SHOWN_MAX }), awaited);
    }

    /// Shows messages to the first browser; none: it has seen all.
    pub(super) fn show(&mut self, messages: &[(Bookmark, Messages)], out: &mut Vec<u8>) {
        let Some(browser) = self.browsers.front_mut() else { return };
        let Some((last, _)) = messages.last() else {
            let consumer = browser.consumer;
            self.browsers.pop_front();
            return self.cancelled(consumer, out);
        };
        (browser.after, browser.is_full) = (Some(*last), true);
        let Some(consumer) = self.consumers.get(&browser.consumer) else { return };
        let Some(channel) = self.channels.get_mut(&consumer.channel) else { return };
        let mut properties = Vec::new();
        for (place, message) in messages {
            let message = message.first();
            put_deliver_at(&mut properties, message.properties(), place.due_ms);
            let delivery_tag = channel.next_delivery_tag(1);
            let method = content::Deliver { consumer_tag: &consumer.tag, delivery_tag, redelivered: false };
            let (exchange_and_key, body) = (message.route(), message.body());
            let message = content::Message { exchange_and_key, properties: &properties, body };
            content::deliver(out, consumer.channel, method, message, self.identity.frame_max);
        }
    }

    /// The queue where messages wait that one for this exchange calls off, and their id.
    pub(super) fn calls_off<'m>(
        &self,
        exchange: &str,
        properties: Properties<'m>,
    ) -> Option<(QueueId, &'m str)> {
        let id = called_off(properties)?;
        let vhost = self.topology.vhost(&self.identity.vhost)?;
        let queue = vhost.delays(exchange)?;
        // Nobody publishes to an internal one.
        vhost.exchange(exchange).filter(|exchange| !exchange.internal)?;
        Some((queue.id, id))
    }

    /// Calls off messages that wait; the message that says so is confirmed when they are gone for good.
    pub(super) fn call_off(
        &mut self,
        number: u16,
        method: basic::Publish<'_>,
        (queue, id): (QueueId, &str),
        parts: &Parts<'_>,
    ) -> Outcome {
        self.authorize(Operation::Write, Resource::Exchange(method.exchange))?;
        if let Some(exchange) = self.topology.exchange(&self.identity.vhost, method.exchange) {
            self.authorize_key(Operation::Write, exchange, method.routing_key)?;
        }
        let channel = self.channel(number)?;
        if channel.transaction.is_some() {
            return Err(Error::not_implemented("calling off messages in a transaction"));
        }
        let confirm = channel.confirms.as_mut().map(|confirms| confirms.expect(1));
        let mandatory = method.mandatory.then(|| parts.to_messages());
        let awaited = CallOff { channel: number, number: confirm, mandatory };
        self.ask(queue, Request::CallOff { queue, id: id.to_owned() }, Awaited::CallOff(awaited));
        Ok(())
    }

    /// So many messages are gone.
    pub(super) fn called_off(&mut self, called: &CallOff, count: usize, out: &mut Vec<u8>) {
        if let Some(message) = called.mandatory.as_ref().filter(|_| count == 0) {
            let message = message.first();
            let (properties, body) = (message.properties(), message.body());
            self.give_back(called.channel, &Parts { route: message.route(), properties, body }, out);
        }
        let confirms = self.channels.get_mut(&called.channel).and_then(|channel| channel.confirms.as_mut());
        if let (Some(confirms), Some(number)) = (confirms, called.number) {
            confirms.safe(number, number);
            self.note_confirmed(called.channel);
        }
    }
}

/// The properties of a message that waits, with the header that says until when.
fn put_deliver_at(out: &mut Vec<u8>, properties: &[u8], due_ms: u64) {
    out.clear();
    let known = Properties::new(properties).unwrap_or(Properties::EMPTY);
    if known.headers().is_some_and(|headers| headers.get(DELIVER_AT).is_some()) {
        out.extend_from_slice(properties);
    } else {
        known.with_long_header(DELIVER_AT, i64::try_from(due_ms).unwrap_or(i64::MAX), out);
    }
}
