//! Consumers and basic.get: how a client takes messages.

use std::sync::Arc;

use amqp::content;
use amqp::error::Error;
use amqp::frame;
use amqp::method::{Method, basic};
use amqp::properties::Properties;
use broker::access::{Operation, Resource};
use broker::consuming;
use broker::id::QueueId;
use broker::message::Message;
use broker::queue::Subscription;
use broker::record::Span;
use broker::shard::{Command, Delivery, Request};
use broker::stream::Reading;
use broker::topology::{Queue, QueueKind};
use tracing::debug;

use super::answers::Awaited;
use super::channel::{Consumer, Unacked};
use super::{CONSUMERS_MAX, Outcome, Session, refused, reply, reply_to};
use crate::output::{Output, REFERENCED_FROM};
use crate::random;

/// The header that says how often a message came back.
const DELIVERY_COUNT: &str = "x-delivery-count";

impl Session {
    pub(super) fn consume(
        &mut self,
        number: u16,
        consume: &basic::Consume<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let tag = self.consumer_tag(number, consume.consumer_tag)?;
        if consume.queue == reply_to::PSEUDO_QUEUE {
            return self.consume_replies(number, consume, &tag, out);
        }
        let queue = self.queue_named(number, consume.queue)?;
        self.authorize(Operation::Read, Resource::Queue(&queue.name))?;
        if queue.delays_for().is_some() {
            return self.start_browsing(number, consume, &tag, &queue, out);
        }
        queue.check_kept().map_err(|error| refused(&error))?;
        for (key, _) in consume.arguments.iter().filter(|(key, _)| !consuming::ARGUMENTS.contains(key)) {
            debug!(key, queue = &*queue.name, "an argument of a consumer changes nothing");
        }
        if queue.is_stream() {
            return self.read_stream(number, consume, &tag, &queue);
        }
        let arguments = consume.arguments;
        let priority = consuming::priority(arguments, &queue).map_err(|error| refused(&error))?;
        let own_timeout = consuming::timeout_ms(arguments).map_err(|error| refused(&error))?;
        let own_timeout = own_timeout.or(self.topology.settings(&queue).consumer_timeout_ms);
        let timeout_ms = own_timeout.or(self.identity.consumer_timeout_ms);
        let subscription = self.subscribe(number, consume, &tag, queue.id, priority)?;
        let subscription = Subscription { timeout_ms, ..subscription };
        let nowait = consume.nowait;
        let consumer = subscription.consumer;
        self.ask(
            queue.id,
            Request::Consume(queue.id, subscription),
            Awaited::Consume { channel: number, consumer, nowait },
        );
        Ok(())
    }

    /// Consumes from a stream.
    fn read_stream(
        &mut self,
        number: u16,
        consume: &basic::Consume<'_>,
        tag: &Arc<str>,
        queue: &Queue,
    ) -> Outcome {
        let reading = Reading::of(consume.arguments, &queue.label(), tag).map_err(|error| refused(&error))?;
        let subscription = self.subscribe(number, consume, tag, queue.id, 0)?;
        let consumer = subscription.consumer;
        if let Some(known) = self.consumers.get_mut(&consumer) {
            known.reads = true;
        }
        self.ask(
            queue.id,
            Request::Read(queue.id, subscription, Box::new(reading)),
            Awaited::Consume { channel: number, consumer, nowait: consume.nowait },
        );
        Ok(())
    }

    /// Consumes from amq.rabbitmq.reply-to: from a queue of the channel's own that only its address names.
    fn consume_replies(
        &mut self,
        number: u16,
        consume: &basic::Consume<'_>,
        tag: &Arc<str>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if !consume.no_ack {
            return Err(Error::precondition_failed("reply consumer cannot acknowledge"));
        }
        if self.channel(number)?.reply_queue.is_some() {
            return Err(Error::precondition_failed("reply consumer already set"));
        }
        let queue = QueueId::volatile(random::number());
        let subscription = self.subscribe(number, consume, tag, queue, 0)?;
        self.channel(number)?.reply_queue = Some(queue);
        self.outgoing.request(queue, Command::OpenReplyQueue(queue));
        let token = self.token();
        self.outgoing.request(queue, Command::Request(token, Request::Consume(queue, subscription)));
        // Nothing can go wrong there, and an answer published from now on arrives after the two commands.
        if consume.nowait {
            Ok(())
        } else {
            reply(out, number, &Method::BasicConsumeOk(basic::ConsumeOk { consumer_tag: tag }))
        }
    }

    /// Makes the consumer known here; the shard is told by the caller.
    pub(super) fn subscribe(
        &mut self,
        number: u16,
        consume: &basic::Consume<'_>,
        tag: &Arc<str>,
        queue: QueueId,
        priority: i32,
    ) -> Result<Subscription, Error> {
        let consumer = self.next_consumer;
        self.next_consumer += 1;
        let channel = self.channel(number)?;
        channel.tags.insert(Arc::clone(tag), consumer);
        channel.has_taken = true;
        let subscription = Subscription {
            consumer,
            channel: number,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            priority,
            prefetch: channel.prefetch,
            timeout_ms: None,
            window: channel.window.clone(),
        };
        let (tag, no_ack) = (Arc::clone(tag), consume.no_ack);
        let known = Consumer { channel: number, tag, queue, no_ack, reads: false };
        self.consumers.insert(consumer, known);
        Ok(subscription)
    }

    /// The tag a client gives, or one made up for it.
    fn consumer_tag(&mut self, number: u16, tag: &str) -> Result<Arc<str>, Error> {
        let channel = self.channel(number)?;
        if channel.tags.len() >= CONSUMERS_MAX {
            return Err(Error::not_allowed(format!(
                "reached maximum ({CONSUMERS_MAX}) of consumers per channel"
            )));
        }
        if channel.tags.contains_key(tag) {
            return Err(Error::not_allowed(format!("attempt to reuse consumer tag '{tag}'")));
        }
        Ok(if tag.is_empty() { random::name("amq.ctag-").into() } else { tag.into() })
    }

    pub(super) fn cancel(&mut self, number: u16, cancel: &basic::Cancel<'_>, out: &mut Vec<u8>) -> Outcome {
        let tag = cancel.consumer_tag;
        let found = self.channel(number)?.tags.get(tag).copied();
        let Some((consumer, queue)) =
            found.and_then(|number| Some((number, self.consumers.get(&number)?.queue)))
        else {
            return if cancel.nowait { Ok(()) } else { cancel_ok(out, number, tag) };
        };
        let nowait = cancel.nowait;
        self.ask(
            queue,
            Request::Cancel(queue, consumer),
            Awaited::Cancel { channel: number, consumer, nowait },
        );
        Ok(())
    }

    /// A consumer is over: its tag is free.
    pub(super) fn forget_consumer(&mut self, consumer: u32) -> Option<Consumer> {
        let known = self.consumers.remove(&consumer)?;
        if let Some(channel) = self.channels.get_mut(&known.channel) {
            channel.tags.remove(&known.tag);
            channel.reply_queue = channel.reply_queue.filter(|queue| *queue != known.queue);
        }
        Some(known)
    }

    /// A consumer has held a message for too long: its channel closes, and what it holds goes to others.
    pub(super) fn timed_out(&mut self, consumer: u32, timeout_ms: u64) -> Result<(), (u16, Error)> {
        let Some(channel) = self.consumers.get(&consumer).map(|consumer| consumer.channel) else {
            return Ok(());
        };
        let text = format!(
            "delivery acknowledgement on channel {channel} timed out. Timeout value used: {timeout_ms} ms. This timeout \
             value can be configured, see consumers doc guide to learn more"
        );
        Err((channel, Error::precondition_failed(text)))
    }

    /// The queue of a consumer is gone.
    pub(super) fn cancelled(&mut self, consumer: u32, out: &mut Vec<u8>) {
        let Some(Consumer { channel, tag, .. }) = self.forget_consumer(consumer) else {
            return;
        };
        if self.identity.consumer_cancel_notify {
            let cancel = basic::Cancel { consumer_tag: &tag, nowait: true };
            amqp::frame::method(out, channel, &Method::BasicCancel(cancel));
        }
    }

    pub(super) fn get(&mut self, number: u16, get: &basic::Get<'_>) -> Outcome {
        let queue = self.queue_named(number, get.queue)?;
        self.authorize(Operation::Read, Resource::Queue(&queue.name))?;
        queue.check_kept().map_err(|error| refused(&error))?;
        let settings = self.topology.settings(&queue);
        if settings.kind == QueueKind::Quorum && settings.single_active_consumer {
            return Err(Error::resource_locked(format!(
                "cannot obtain access to locked {}. basic.get operations are not supported by quorum queues with single \
                 active consumer",
                queue.label()
            )));
        }
        self.channel(number)?.has_taken = true;
        let request = Request::Get { queue: queue.id, channel: number, no_ack: get.no_ack };
        self.ask(queue.id, request, Awaited::Get { channel: number, no_ack: get.no_ack });
        Ok(())
    }

    /// Messages for a consumer. What is for a channel which has ended went back to its queue with it.
    pub(super) fn deliver(&mut self, shard: usize, delivery: &Delivery, out: &mut Output) {
        self.outgoing.count_written(shard, delivery.weight());
        let Some(consumer) = self.consumers.get(&delivery.consumer) else {
            return;
        };
        let Some(channel) = self.channels.get_mut(&consumer.channel) else {
            return;
        };
        let Delivery { queue, first, redelivered, returns, messages, .. } = delivery;
        let first_tag = channel.next_delivery_tag(messages.count());
        let mut properties = Vec::new();
        for ((message, delivery_tag), offset) in messages.iter().zip(first_tag..).zip(*first..) {
            let mut content = content(message);
            if consumer.reads {
                put_offset(&mut properties, content.properties, offset);
                content.properties = &properties;
            } else if *returns > 0 {
                put_delivery_count(&mut properties, content.properties, *returns);
                content.properties = &properties;
            }
            let method =
                content::Deliver { consumer_tag: &consumer.tag, delivery_tag, redelivered: *redelivered };
            let (body, frame_max) = (message.body(), self.identity.frame_max);
            if body.len() < REFERENCED_FROM || !content::fits_one_frame(body.len(), frame_max) {
                content::deliver(&mut out.bytes, consumer.channel, method, content, frame_max);
            } else {
                content::deliver_head(&mut out.bytes, consumer.channel, method, content, frame_max);
                out.refer(messages.share(body));
                out.bytes.push(frame::END);
            }
        }
        if !consumer.no_ack {
            let span = Span { first: *first, count: messages.count() };
            let reader = consumer.reads.then_some(delivery.consumer);
            channel
                .unacked
                .insert(first_tag, Unacked { queue: *queue, span, consumed: !consumer.reads, reader });
        }
    }

    /// The answer to basic.get.
    pub(super) fn got(
        &mut self,
        number: u16,
        no_ack: bool,
        got: Option<&Delivery>,
        left: usize,
        out: &mut Vec<u8>,
    ) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let Some(delivery) = got else {
            return amqp::frame::method(out, number, &Method::BasicGetEmpty(basic::GetEmpty {}));
        };
        let delivery_tag = channel.next_delivery_tag(1);
        let message_count = u32::try_from(left).unwrap_or(u32::MAX);
        let method = content::GetOk { delivery_tag, redelivered: delivery.redelivered, message_count };
        let message = delivery.messages.first();
        let mut counted = Vec::new();
        let mut content = content(message);
        if delivery.returns > 0 {
            put_delivery_count(&mut counted, content.properties, delivery.returns);
            content.properties = &counted;
        }
        content::get_ok(out, number, method, content, self.identity.frame_max);
        if !no_ack {
            let span = Span::one(delivery.first);
            let unacked = Unacked { queue: delivery.queue, span, consumed: false, reader: None };
            channel.unacked.insert(delivery_tag, unacked);
        }
    }
}

fn cancel_ok(out: &mut Vec<u8>, channel: u16, tag: &str) -> Outcome {
    reply(out, channel, &Method::BasicCancelOk(basic::CancelOk { consumer_tag: tag }))
}

fn content(message: Message<'_>) -> content::Message<'_> {
    content::Message {
        exchange_and_key: message.route(),
        properties: message.properties(),
        body: message.body(),
    }
}

/// The properties of a message that came back, with the header that says how often.
fn put_delivery_count(out: &mut Vec<u8>, properties: &[u8], returns: u16) {
    out.clear();
    let properties = Properties::new(properties).unwrap_or(Properties::EMPTY);
    properties.with_long_header(DELIVERY_COUNT, returns.into(), out);
}

/// The properties of a message of a stream, as its readers see them: with its offset.
fn put_offset(out: &mut Vec<u8>, properties: &[u8], offset: u64) {
    out.clear();
    let properties = Properties::new(properties).unwrap_or(Properties::EMPTY);
    properties.with_long_header("x-stream-offset", i64::try_from(offset).unwrap_or(i64::MAX), out);
}
