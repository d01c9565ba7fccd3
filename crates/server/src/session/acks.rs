//! Ack, nack, reject, recover: how a client settles what it holds.

use amqp::error::Error;
use amqp::method::basic;
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
}

impl Settlement {
    fn of(requeue: bool) -> Settlement {
        if requeue { Settlement::Requeue } else { Settlement::Done }
    }
}

impl Session {
    pub(super) fn ack(&mut self, number: u16, ack: basic::Ack) -> Outcome {
        self.settle(number, ack.delivery_tag, ack.multiple, Settlement::Done)
    }

    pub(super) fn nack(&mut self, number: u16, nack: basic::Nack) -> Outcome {
        self.settle(number, nack.delivery_tag, nack.multiple, Settlement::of(nack.requeue))
    }

    pub(super) fn reject(&mut self, number: u16, reject: basic::Reject) -> Outcome {
        self.settle(number, reject.delivery_tag, false, Settlement::of(reject.requeue))
    }

    /// Gives back all that the channel holds.
    pub(super) fn recover(&mut self, number: u16, requeue: bool) -> Outcome {
        if !requeue {
            return Err(Error::not_implemented("requeue=false"));
        }
        let channel = self.channel(number)?;
        let mut taken = Vec::new();
        while let Some((_, unacked)) = channel.unacked.pop_first() {
            taken.push(unacked);
        }
        self.settle_all(number, &taken, Settlement::Requeue);
        Ok(())
    }

    /// Sends messages that were taken out of `unacked` to where they belong, and makes room in the channel's window.
    pub(super) fn settle_all(&mut self, number: u16, messages: &[Unacked], settlement: Settlement) {
        let mut consumed = 0;
        for message in messages {
            consumed += u32::from(message.consumed);
            match settlement {
                Settlement::Done => self.outgoing.settle(message.queue, message.sequence),
                Settlement::Requeue => self.outgoing.requeue(message.queue, message.sequence),
            }
        }
        self.make_room(number, consumed);
    }

    fn settle(&mut self, number: u16, tag: u64, multiple: bool, settlement: Settlement) -> Outcome {
        let channel = self.channel(number)?;
        let unknown = || Error::precondition_failed(format!("unknown delivery tag {tag}"));
        let all = multiple && tag == 0;
        if !all && channel.unacked.get(tag).is_none() {
            return Err(unknown());
        }
        if !multiple && channel.transaction.is_none() {
            let message = channel.unacked.remove(tag).ok_or_else(unknown)?;
            self.settle_all(number, &[message], settlement);
            return Ok(());
        }
        let mut taken = Vec::new();
        if multiple {
            let last = if all { u64::MAX } else { tag };
            while let Some(message) = channel.unacked.pop_first_up_to(last) {
                taken.push(message);
            }
        } else {
            taken.extend(channel.unacked.remove(tag).map(|message| (tag, message)));
        }
        if let Some(transaction) = &mut channel.transaction {
            transaction.settle(taken, settlement);
            return Ok(());
        }
        let messages: Vec<_> = taken.into_iter().map(|(_, message)| message).collect();
        self.settle_all(number, &messages, settlement);
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
