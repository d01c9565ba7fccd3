//! Answers of shards and the meta task, and what they mean for the client that waits.

use std::sync::Arc;

use amqp::error::Error;
use amqp::method::{Method, basic, exchange, queue, tx};
use broker::error::Kind;
use broker::id::QueueId;
use broker::meta;
use broker::meta::{Change, DeclareQueue};
use broker::shard::{Reply, Request};

use super::delays::CallOff;
use super::history::Bound;
use super::{Session, blame, refused};

/// What the client waits for.
#[derive(Debug)]
pub(super) enum Awaited {
    /// The meta task declares a queue.
    DeclareQueue { channel: u16, nowait: bool, wish: Box<DeclareQueue> },
    /// A shard counts what is in a queue; one that was just declared is declared anew should it be going.
    Counts { channel: u16, queue: Arc<str>, declared: Option<(QueueId, Box<DeclareQueue>)> },
    /// A shard lets go of a queue.
    DeleteAtShard { channel: u16, queue: QueueId, nowait: bool },
    /// The meta task deletes it.
    Delete { channel: u16, messages: u32, nowait: bool },
    /// A shard purges a queue.
    Purge { channel: u16, nowait: bool },
    /// The meta task does something that is answered without more.
    Plain { channel: u16, method: Plain, nowait: bool },
    /// The meta task makes a binding; then its destination gets what this queue remembers.
    BindAndRecall { bound: Bound, history: QueueId },
    /// A shard says what waits for its time.
    Browse { channel: u16 },
    /// A shard calls messages off.
    CallOff(CallOff),
    /// A shard says what a queue remembers.
    Recall { bound: Bound },
    /// A shard starts a consumer.
    Consume { channel: u16, consumer: u32, nowait: bool },
    /// A shard stops a consumer.
    Cancel { channel: u16, consumer: u32, nowait: bool },
    /// A shard hands out a message.
    Get { channel: u16, no_ack: bool },
    /// So many shards still commit a transaction.
    Commit { channel: u16, shards: usize },
    /// So many shards can still have deliveries under way that no limit held for.
    Window { channel: u16, limit: u32, shards: usize },
}

/// Methods that are answered by an empty one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plain {
    BindQueue,
    UnbindQueue,
    DeclareExchange,
    DeleteExchange,
    BindExchange,
    UnbindExchange,
}

impl Plain {
    pub(super) fn answer(self) -> Method<'static> {
        match self {
            Plain::BindQueue => Method::QueueBindOk(queue::BindOk {}),
            Plain::UnbindQueue => Method::QueueUnbindOk(queue::UnbindOk {}),
            Plain::DeclareExchange => Method::ExchangeDeclareOk(exchange::DeclareOk {}),
            Plain::DeleteExchange => Method::ExchangeDeleteOk(exchange::DeleteOk {}),
            Plain::BindExchange => Method::ExchangeBindOk(exchange::BindOk {}),
            Plain::UnbindExchange => Method::ExchangeUnbindOk(exchange::UnbindOk {}),
        }
    }

    fn id(self) -> (u16, u16) {
        match self {
            Plain::BindQueue => (50, 20),
            Plain::UnbindQueue => (50, 50),
            Plain::DeclareExchange => (40, 10),
            Plain::DeleteExchange => (40, 20),
            Plain::BindExchange => (40, 30),
            Plain::UnbindExchange => (40, 40),
        }
    }
}

impl Awaited {
    fn channel(&self) -> u16 {
        match self {
            Awaited::DeclareQueue { channel, .. }
            | Awaited::Counts { channel, .. }
            | Awaited::DeleteAtShard { channel, .. }
            | Awaited::Delete { channel, .. }
            | Awaited::Purge { channel, .. }
            | Awaited::Plain { channel, .. }
            | Awaited::Consume { channel, .. }
            | Awaited::Cancel { channel, .. }
            | Awaited::Get { channel, .. }
            | Awaited::Commit { channel, .. }
            | Awaited::Browse { channel }
            | Awaited::CallOff(CallOff { channel, .. })
            | Awaited::Window { channel, .. } => *channel,
            Awaited::BindAndRecall { bound, .. } | Awaited::Recall { bound } => bound.channel,
        }
    }

    /// Class and method id of what the client sent.
    fn method(&self) -> (u16, u16) {
        match self {
            Awaited::DeclareQueue { .. } | Awaited::Counts { .. } => (50, 10),
            Awaited::DeleteAtShard { .. } | Awaited::Delete { .. } => (50, 40),
            Awaited::Purge { .. } => (50, 30),
            Awaited::Plain { method, .. } => method.id(),
            Awaited::BindAndRecall { bound, .. } | Awaited::Recall { bound } => bound.method.id(),
            Awaited::Consume { .. } | Awaited::Browse { .. } => (60, 20),
            Awaited::CallOff(_) => (60, 40),
            Awaited::Cancel { .. } => (60, 30),
            Awaited::Get { .. } => (60, 70),
            Awaited::Commit { .. } => (90, 20),
            Awaited::Window { .. } => (60, 10),
        }
    }
}

impl Session {
    /// A shard answers. An answer that nobody waits for is that of a reply consumer.
    pub(super) fn shard_answered(
        &mut self,
        token: u64,
        result: Result<Reply, broker::error::Error>,
        out: &mut Vec<u8>,
    ) -> Result<(), (u16, Error)> {
        let Some((_, awaited)) = self.awaited.take_if(|(awaited, _)| *awaited == token) else {
            return Ok(());
        };
        match result {
            Ok(reply) => {
                self.shard_agreed(awaited, reply, out);
                Ok(())
            }
            Err(error) => match awaited {
                // Its shard has given the queue up. Whoever had it do so may have gone: the meta task has to know.
                Awaited::Counts { channel, declared: Some((id, wish)), .. }
                    if error.kind == Kind::NotFound =>
                {
                    let token = self.token();
                    self.changes.push((token, Change::DeleteQueue { id }));
                    self.declare(channel, false, wish);
                    Ok(())
                }
                Awaited::DeleteAtShard { channel, queue: id, nowait } if error.kind == Kind::NotFound => {
                    self.change(Change::DeleteQueue { id }, Awaited::Delete { channel, messages: 0, nowait });
                    Ok(())
                }
                // The exchange has gone, and so has all that waited.
                Awaited::Browse { .. } if error.kind == Kind::NotFound => {
                    self.show(&[], out);
                    Ok(())
                }
                // The exchange has gone, and so has what it remembers.
                Awaited::Recall { bound } if error.kind == Kind::NotFound => {
                    self.recall(&bound, &[], out);
                    Ok(())
                }
                _ => Err(self.shard_refused(&awaited, &error)),
            },
        }
    }

    fn shard_agreed(&mut self, awaited: Awaited, reply: Reply, out: &mut Vec<u8>) {
        match (awaited, reply) {
            (Awaited::Consume { channel, consumer, nowait }, Reply::Consuming) => {
                if let Some(consumer) = self.consumers.get(&consumer).filter(|_| !nowait) {
                    let consume_ok = basic::ConsumeOk { consumer_tag: &consumer.tag };
                    put(out, channel, &Method::BasicConsumeOk(consume_ok));
                }
            }
            (Awaited::Cancel { channel, consumer, nowait }, Reply::Cancelled) => {
                if let Some(consumer) = self.forget_consumer(consumer).filter(|_| !nowait) {
                    let cancel_ok = basic::CancelOk { consumer_tag: &consumer.tag };
                    put(out, channel, &Method::BasicCancelOk(cancel_ok));
                }
            }
            (Awaited::Get { channel, no_ack }, Reply::Got(got, left)) => {
                self.got(channel, no_ack, got.as_ref(), left, out);
            }
            (Awaited::Purge { channel, nowait }, Reply::Purged(count)) => {
                let purge_ok = queue::PurgeOk { message_count: clamp(count) };
                put_unless(nowait, out, channel, &Method::QueuePurgeOk(purge_ok));
            }
            (Awaited::DeleteAtShard { channel, queue, nowait }, Reply::Deletable(count)) => {
                let awaited = Awaited::Delete { channel, messages: clamp(count), nowait };
                self.change(Change::DeleteQueue { id: queue }, awaited);
            }
            (Awaited::Counts { channel, queue, .. }, Reply::Counts { ready, consumers }) => {
                let (message_count, consumer_count) = (clamp(ready), clamp(consumers));
                let declare_ok = queue::DeclareOk { queue: &queue, message_count, consumer_count };
                put(out, channel, &Method::QueueDeclareOk(declare_ok));
            }
            (Awaited::Commit { channel, shards: 1 }, Reply::Synced) => {
                put(out, channel, &Method::TxCommitOk(tx::CommitOk {}));
            }
            (Awaited::Commit { channel, shards }, Reply::Synced) => {
                self.awaited = Some((self.next_token, Awaited::Commit { channel, shards: shards - 1 }));
            }
            (Awaited::Window { channel, limit, shards: 1 }, Reply::Synced) => {
                self.set_window(channel, limit);
                put(out, channel, &Method::BasicQosOk(basic::QosOk {}));
            }
            (Awaited::Window { channel, limit, shards }, Reply::Synced) => {
                self.awaited =
                    Some((self.next_token, Awaited::Window { channel, limit, shards: shards - 1 }));
            }
            (Awaited::Browse { .. }, Reply::Browsed(messages)) => self.show(&messages, out),
            (Awaited::CallOff(called), Reply::CalledOff(count)) => self.called_off(&called, count, out),
            (Awaited::Recall { bound }, Reply::Browsed(messages)) => self.recall(&bound, &messages, out),
            (awaited, reply) => unreachable!("a shard answered {awaited:?} with {reply:?}"),
        }
    }

    fn shard_refused(&mut self, awaited: &Awaited, error: &broker::error::Error) -> (u16, Error) {
        if let Awaited::Consume { consumer, .. } = awaited {
            self.forget_consumer(*consumer);
        }
        let error = match awaited {
            // A queue can go between the look-up and the answer; its shard does not know a reply queue's address.
            Awaited::Counts { queue, .. } if error.kind == Kind::NotFound => {
                Error::not_found(format!("no queue '{queue}' in vhost '{}'", self.identity.vhost))
            }
            _ => refused(error),
        };
        (awaited.channel(), blame(error, awaited.method()))
    }

    /// The meta task answers.
    pub(crate) fn meta_answered(
        &mut self,
        token: u64,
        result: Result<meta::Reply, broker::error::Error>,
        out: &mut Vec<u8>,
    ) -> Result<(), (u16, Error)> {
        let Some((_, awaited)) = self.awaited.take_if(|(awaited, _)| *awaited == token) else {
            return Ok(());
        };
        let reply = result.map_err(|error| (awaited.channel(), blame(refused(&error), awaited.method())))?;
        match (awaited, reply) {
            (Awaited::DeclareQueue { channel, nowait, wish }, meta::Reply::Queue(queue)) => {
                if let Some(channel) = self.channels.get_mut(&channel) {
                    channel.last_queue = Some(Arc::clone(&queue.name));
                }
                if !nowait {
                    let declared = Some((queue.id, wish));
                    let awaited = Awaited::Counts { channel, queue: Arc::clone(&queue.name), declared };
                    self.ask(queue.id, Request::Inspect(queue.id), awaited);
                }
            }
            (Awaited::Delete { channel, messages, nowait }, _) => {
                let delete_ok = queue::DeleteOk { message_count: messages };
                put_unless(nowait, out, channel, &Method::QueueDeleteOk(delete_ok));
            }
            (Awaited::Plain { channel, method, nowait }, _) => {
                put_unless(nowait, out, channel, &method.answer());
            }
            (Awaited::BindAndRecall { bound, history }, _) => self.ask_history(history, bound),
            (awaited, reply) => unreachable!("the meta task answered {awaited:?} with {reply:?}"),
        }
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, channel: u16, method: &Method<'_>) {
    amqp::frame::method(out, channel, method);
}

pub(super) fn put_unless(nowait: bool, out: &mut Vec<u8>, channel: u16, method: &Method<'_>) {
    if !nowait {
        put(out, channel, method);
    }
}

fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
