//! Transactions: publishes and acks that wait for tx.commit.

use amqp::error::Error;
use amqp::method::{Method, tx};
use broker::message::{Messages, Parts};

use super::acks::Settlement;
use super::answers::Awaited;
use super::channel::Unacked;
use super::drafts::Traits;
use super::outgoing::Route;
use super::{Outcome, Session, reply};

/// A message of a transaction.
#[derive(Debug)]
pub(super) struct Published {
    message: Messages,
    route: Route,
    mandatory: bool,
    traits: Traits,
}

impl Published {
    pub(super) fn new(parts: &Parts<'_>, route: Route, mandatory: bool, traits: Traits) -> Published {
        Published { message: parts.to_messages(), route, mandatory, traits }
    }
}

/// What waits for a commit.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    published: Vec<Published>,
    /// By delivery tag, to be put back by a rollback.
    settled: Vec<(u64, Unacked, Settlement)>,
}

impl Transaction {
    pub(super) fn publish(&mut self, published: Published) {
        self.published.push(published);
    }

    pub(super) fn settle(&mut self, tag: u64, message: Unacked, settlement: Settlement) {
        self.settled.push((tag, message, settlement));
    }
}

impl Session {
    pub(super) fn select_tx(&mut self, number: u16, out: &mut Vec<u8>) -> Outcome {
        let channel = self.channel(number)?;
        if channel.confirms.is_some() {
            return Err(Error::precondition_failed("cannot switch from confirm to tx mode"));
        }
        channel.transaction.get_or_insert_default();
        reply(out, number, &Method::TxSelectOk(tx::SelectOk {}))
    }

    /// Carries out what has gathered and answers when all of it is committed by every shard concerned.
    pub(super) fn commit(&mut self, number: u16, out: &mut Vec<u8>) -> Outcome {
        let Transaction { published, settled } = std::mem::take(self.transaction(number)?);
        for Published { message, route, mandatory, traits } in published {
            let message = message.first();
            let (properties, body) = (message.properties(), message.body());
            let parts = Parts { route: message.route(), properties, body };
            if route.is_empty() {
                self.unroutable(number, &parts, mandatory, out);
            } else {
                if route.unheard && mandatory {
                    self.give_back(number, &parts, out);
                }
                self.outgoing.publish(&route, &parts, traits, None);
            }
        }
        for wanted in [Settlement::Done, Settlement::Requeue, Settlement::Fail, Settlement::Reject] {
            let of_it = settled.iter().filter(|(_, _, settlement)| *settlement == wanted);
            self.settle_all(number, of_it.map(|(_, message, _)| *message), wanted);
        }
        let Some((token, shards)) = self.ask_known() else {
            return reply(out, number, &Method::TxCommitOk(tx::CommitOk {}));
        };
        self.awaited = Some((token, Awaited::Commit { channel: number, shards }));
        Ok(())
    }

    pub(super) fn rollback(&mut self, number: u16, out: &mut Vec<u8>) -> Outcome {
        let Transaction { settled, .. } = std::mem::take(self.transaction(number)?);
        let channel = self.channel(number)?;
        for (tag, message, _) in settled {
            channel.unacked.insert(tag, message);
        }
        reply(out, number, &Method::TxRollbackOk(tx::RollbackOk {}))
    }

    fn transaction(&mut self, number: u16) -> Result<&mut Transaction, Error> {
        let missing = || Error::precondition_failed("channel is not transactional");
        self.channel(number)?.transaction.as_mut().ok_or_else(missing)
    }
}
