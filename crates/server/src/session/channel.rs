//! A channel's own state, and the small methods that touch nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use amqp::error::Error;
use amqp::method::{Method, basic, channel, confirm};
use broker::id::QueueId;
use broker::record::Span;
use broker::sequence::{Sequence, Stretch};
use broker::window::Window;

use super::answers::Awaited;
use super::confirm::Confirms;
use super::outgoing::Route;
use super::tx::Transaction;
use super::{Outcome, Session, clean, reply};

/// Messages that the client has and has not settled, in the order of their queue and of their delivery tags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unacked {
    pub(super) queue: QueueId,
    pub(super) span: Span,
    /// A consumer got them, so they count in the channel's window.
    pub(super) consumed: bool,
    /// The number of the consumer that reads a stream: it settles by itself, and others hold the same messages.
    pub(super) reader: Option<u32>,
}

impl Stretch for Unacked {
    fn count(&self) -> u32 {
        self.span.count
    }

    fn split_to(&mut self, count: u32) -> Unacked {
        let Span { first, count: all } = self.span;
        self.span = Span { first: first + u64::from(count), count: all - count };
        Unacked { span: Span { first, count }, ..*self }
    }
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    /// Consumer number by tag.
    pub(super) tags: HashMap<Arc<str>, u32>,
    /// What each consumer started from now on may hold unacked; 0: any number.
    pub(super) prefetch: u32,
    /// What all its consumers together may hold.
    pub(super) window: Window,
    /// By delivery tag.
    pub(super) unacked: Sequence<Unacked>,
    pub(super) last_delivery_tag: u64,
    /// The queue that an empty name stands for.
    pub(super) last_queue: Option<Arc<str>>,
    /// In confirm mode: its number as a publisher, and what is not yet confirmed.
    pub(super) publisher: u32,
    pub(super) confirms: Option<Confirms>,
    pub(super) transaction: Option<Transaction>,
    /// The consumer of amq.rabbitmq.reply-to, if there is one.
    pub(super) reply_queue: Option<QueueId>,
    /// It consumed or got something: shards must hear of its end.
    pub(super) has_taken: bool,
}

/// A consumer, as its session knows it.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) channel: u16,
    pub(super) tag: Arc<str>,
    pub(super) queue: QueueId,
    pub(super) no_ack: bool,
    /// It reads a stream.
    pub(super) reads: bool,
}

impl Channel {
    /// The first of the tags of the next `count` deliveries.
    pub(super) fn next_delivery_tag(&mut self, count: u32) -> u64 {
        let first = self.last_delivery_tag + 1;
        self.last_delivery_tag += u64::from(count);
        first
    }

    /// Counts a message that takes this route, if the channel is in confirm mode: its publisher's number and its own.
    pub(super) fn expect_confirm(&mut self, route: &Route) -> Option<(u32, u64)> {
        let publisher = self.publisher;
        self.confirms.as_mut().map(|confirms| (publisher, confirms.expect(route.shards.len())))
    }

    /// The name, or if it is empty the queue declared last.
    pub(super) fn queue_or_last(&self, name: &str) -> Result<Arc<str>, Error> {
        if !name.is_empty() {
            return Ok(clean(name).into());
        }
        let missing = || Error::not_found("no previously declared queue");
        self.last_queue.clone().ok_or_else(missing)
    }
}

impl Session {
    pub(super) fn qos(&mut self, number: u16, qos: basic::Qos, out: &mut Vec<u8>) -> Outcome {
        if qos.prefetch_size != 0 {
            return Err(Error::not_implemented(format!("prefetch_size!=0 ({})", qos.prefetch_size)));
        }
        let channel = self.channel(number)?;
        let count = u32::from(qos.prefetch_count);
        if !qos.global {
            channel.prefetch = count;
            return reply(out, number, &Method::BasicQosOk(basic::QosOk {}));
        }
        if count > 0 && !channel.window.is_limited() && !channel.tags.is_empty() {
            channel.window.close();
            if let Some((token, shards)) = self.ask_known() {
                self.awaited = Some((token, Awaited::Window { channel: number, limit: count, shards }));
                return Ok(());
            }
        }
        self.set_window(number, count);
        reply(out, number, &Method::BasicQosOk(basic::QosOk {}))
    }

    /// A client cannot stop deliveries by channel.flow, only by basic.qos. That it wants more says that it is alive: what
    /// it holds it may hold for longer.
    pub(super) fn flow(&mut self, number: u16, flow: channel::Flow, out: &mut Vec<u8>) -> Outcome {
        if !flow.active {
            return Err(Error::not_implemented("active=false"));
        }
        self.outgoing.send_to_known(&broker::shard::Command::Extend(number));
        reply(out, number, &Method::ChannelFlowOk(channel::FlowOk { active: true }))
    }

    /// Limits what the consumers of a channel hold together; all that they were sent without a limit is here.
    pub(super) fn set_window(&mut self, number: u16, limit: u32) {
        let Some(channel) = self.channels.get(&number) else { return };
        let consumed = channel.unacked.iter().filter(|(_, unacked)| unacked.consumed);
        let unacked = consumed.map(|(_, unacked)| unacked.count()).fold(0, u32::saturating_add);
        channel.window.set_limit(limit, unacked);
        self.outgoing.send_to_known(&broker::shard::Command::Resume);
    }

    pub(super) fn select_confirms(
        &mut self,
        number: u16,
        select: confirm::Select,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let publisher = self.next_publisher;
        let channel = self.channel(number)?;
        if channel.transaction.is_some() {
            return Err(Error::precondition_failed("cannot switch from tx to confirm mode"));
        }
        if channel.confirms.is_none() {
            channel.confirms = Some(Confirms::default());
            channel.publisher = publisher;
            self.publishers.insert(publisher, number);
            self.next_publisher += 1;
        }
        if select.nowait {
            Ok(())
        } else {
            reply(out, number, &Method::ConfirmSelectOk(confirm::SelectOk {}))
        }
    }
}
