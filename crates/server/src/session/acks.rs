//! Ack, nack, reject, recover: how a client settles what it holds.

use amqp::error::Error;
use amqp::method::basic;
use broker::sequence::Stretch;
use broker::shard::Command;

use super::channel::Unacked;
use super::{Outcome, Session};

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// It leaves its queue.
    Done,
    /// It goes back to its place.
    Requeue,
    /// So it does, since it could not be handled.
    Fail,
    /// It leaves its queue for a dead-letter exchange, if there is one.
    Reject,
}

impl Session {
    pub(super) fn ack(&mut self, number: u16, ack: basic::Ack) -> Outcome {
        self.settle(number, ack.delivery_tag, ack.multiple, Settlement::Done)
    }

    pub(super) fn nack(&mut self, number: u16, nack: basic::Nack) -> Outcome {
        self.refuse_for_streams(number, nack.delivery_tag, nack.multiple)?;
        let settlement = if nack.requeue { Settlement::Requeue } else { Settlement::Reject };
        self.settle(number, nack.delivery_tag, nack.multiple, settlement)
    }

    pub(super) fn reject(&mut self, number: u16, reject: basic::Reject) -> Outcome {
        self.refuse_for_streams(number, reject.delivery_tag, false)?;
        let settlement = if reject.requeue { Settlement::Fail } else { Settlement::Reject };
        self.settle(number, reject.delivery_tag, false, settlement)
    }

    /// A message of a stream is acknowledged and nothing else. That of a consumer which is gone may be given back, as
    /// pika does with what it has not looked at.
    fn refuse_for_streams(&mut self, number: u16, tag: u64, multiple: bool) -> Outcome {
        let unacked = &self.channel(number)?.unacked;
        let last = if multiple && tag == 0 { u64::MAX } else { tag };
        let of_stream = |message: &Unacked| message.reader.map(|reader| (reader, message.queue));
        let found = if multiple {
            unacked.iter().take_while(|(first, _)| *first <= last).find_map(|(_, message)| of_stream(message))
        } else {
            unacked.get(tag).and_then(|(_, message)| of_stream(message))
        };
        let Some((_, queue)) = found.filter(|(reader, _)| self.consumers.contains_key(reader)) else {
            return Ok(());
        };
        let label = self.topology.queue_by_id(queue).map(|queue| queue.label()).unwrap_or_default();
        let what = format!("basic.nack and basic.reject not supported by stream queues {label}");
        Err(Error::not_implemented(what))
    }

    /// Gives back all that the channel holds.
    pub(super) fn recover(&mut self, number: u16, requeue: bool) -> Outcome {
        if !requeue {
            return Err(Error::not_implemented("requeue=false"));
        }
        let unacked = std::mem::take(&mut self.channel(number)?.unacked);
        self.settle_all(number, unacked.iter().map(|(_, unacked)| *unacked), Settlement::Requeue);
        Ok(())
    }

    /// Sends messages that were taken out of `unacked` to where they belong, and makes room in the channel's window.
    pub(super) fn settle_all(
        &mut self,
        number: u16,
        messages: impl IntoIterator<Item = Unacked>,
        settlement: Settlement,
    ) {
        let mut consumed = 0;
        for message in messages {
            if message.consumed {
                consumed += message.count();
            }
            if let Some(reader) = message.reader {
                self.outgoing.credit(message.queue, reader, message.span);
                continue;
            }
            match settlement {
                Settlement::Done => self.outgoing.settle(message.queue, message.span),
                Settlement::Requeue => self.outgoing.requeue(message.queue, message.span),
                Settlement::Fail => self.outgoing.fail(message.queue, message.span),
                Settlement::Reject => self.outgoing.reject(message.queue, message.span),
            }
        }
        self.make_room(number, consumed);
    }

    fn settle(&mut self, number: u16, tag: u64, multiple: bool, settlement: Settlement) -> Outcome {
        let channel = self.channel(number)?;
        let all = multiple && tag == 0;
        if !all && channel.unacked.get(tag).is_none() {
            return Err(Error::precondition_failed(format!("unknown delivery tag {tag}")));
        }
        let first = if multiple { 0 } else { tag };
        let last = if all { u64::MAX } else { tag };
        if let Some(transaction) = &mut channel.transaction {
            let settle = |tag, message| transaction.settle(tag, message, settlement);
            channel.unacked.remove(first, last, |_| true, settle);
            return Ok(());
        }
        let mut taken = std::mem::take(&mut self.taken);
        let channel = self.channel(number)?;
        channel.unacked.remove(first, last, |_| true, |_, message| taken.push(message));
        self.settle_all(number, taken.drain(..), settlement);
        self.taken = taken;
        Ok(())
    }

    /// Other shards may wait for the room too.
    fn make_room(&mut self, number: u16, consumed: u32) {
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        if consumed > 0 && channel.window.is_limited() {
            channel.window.give_back(consumed);
            self.outgoing.send_to_known(&Command::Resume);
        }
    }
}
