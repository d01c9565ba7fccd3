//! From queues to consumers, and back.

use super::{Effect, Notice, Reason, Shard};
use crate::id::{ConnectionId, QueueId};
use crate::queue::{Place, Queue};
use crate::record::{self, Log, Span};
use crate::sequence::Stretch;
use crate::topology::Return;

/// Messages that may wait before a queue whose consumers are busy counts as congested.
const CONGESTED_LEN: usize = 1024;

/// Messages that a consumer has to settle at once to count as busy: one that is slow settles few.
const BUSY_SETTLED: u32 = 64;

impl Shard {
    /// Hands out what waits in a queue to consumers that can take it.
    pub(super) fn dispatch(&mut self, id: QueueId) {
        let has_extras = self.queues.get(&id).is_some_and(Queue::has_extras);
        loop {
            if has_extras {
                self.before_dispatch(id);
            }
            if !self.hand_out(id) {
                return;
            }
        }
    }

    /// The same, without looking at the clock before. True when it has to be looked at to go on.
    fn hand_out(&mut self, id: QueueId) -> bool {
        let Shard { queues, outbox, usage, progressed, congested, now, .. } = self;
        let Some(queue) = queues.get_mut(&id).filter(|queue| !queue.closing) else {
            return false;
        };
        while let Some(ready) = queue.next_run_len() {
            let Some(turn) = queue.consumers.pick(ready, |connection| outbox.is_writable(connection)) else {
                *congested |= *progressed && queue.ready_len() > CONGESTED_LEN;
                return false;
            };
            let Some((connection, delivery)) =
                queue.hand_out(id, turn, *now, |settled| usage.remove(settled))
            else {
                return false;
            };
            outbox.push_at(connection, Effect::Deliver(delivery));
            if queue.next_is_old(now.saturating_sub(1)) {
                return true;
            }
        }
        // Consumers that could take more wait for the disk.
        *congested |= queue.waits_for_disk() && !queue.consumers.is_empty();
        false
    }

    /// Logs what the round settled and delivered of one queue's stored messages.
    pub(super) fn log_outcomes(&mut self, id: QueueId, log: &mut impl Log) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let delivered = queue.take_delivered();
        let settled = queue.take_settled();
        let dead = queue.take_dead();
        if let Some(last) = delivered {
            let position = record::append_delivered(log, id, last);
            self.append_at(position);
        }
        if !settled.is_empty() {
            let position = record::append_settle(log, &mut self.scratch, id, &settled);
            self.append_at(position);
        }
        dead.into_iter().for_each(|segment| self.doom(id, segment));
    }

    pub(super) fn settle(&mut self, from: ConnectionId, messages: &[(QueueId, Span)]) {
        let Some(connection) = self.outbox.find(from) else {
            return;
        };
        let mut settled = 0;
        for (id, span) in messages {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.settle(connection, *span, |run| {
                    settled += run.count();
                    self.usage.remove(run);
                });
                queue.touch(&mut self.touched, *id);
            }
        }
        self.progressed |= settled >= BUSY_SETTLED;
    }

    pub(super) fn requeue(&mut self, from: ConnectionId, messages: &[(QueueId, Span)], how: Return) {
        let Some(connection) = self.outbox.find(from) else {
            return;
        };
        for (id, span) in messages {
            if let Some(queue) = self.queues.get_mut(id) {
                let too_often = queue.requeue(connection, *span, how, self.now);
                queue.touch(&mut self.touched, *id);
                for (first, run) in too_often {
                    self.dead_letter(*id, Reason::DeliveryLimit, first, run);
                }
            }
        }
    }

    /// What a channel holds counts as just given to it.
    pub(super) fn extend(&mut self, from: ConnectionId, channel: u16) {
        let Some(connection) = self.outbox.find(from) else { return };
        let queues = self.outbox.get_mut(connection).map(|c| c.queues.clone()).unwrap_or_default();
        for id in queues {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.extend(connection, channel, self.now);
            }
        }
    }

    pub(super) fn written(&mut self, from: ConnectionId, bytes: usize) {
        if let Some(place) = self.outbox.find(from)
            && self.outbox.written(place, bytes)
        {
            self.touch_queues_of(from);
            self.progressed = true;
        }
    }

    /// Looks again at every queue where a connection takes part.
    pub(super) fn touch_queues_of(&mut self, connection: ConnectionId) {
        let Some(place) = self.outbox.find(connection) else { return };
        let queues = self.outbox.get_mut(place).map(|connection| connection.queues.clone());
        queues.into_iter().flatten().for_each(|queue| self.touch(queue));
    }

    /// A channel, or with `None` the whole connection, has ended.
    pub(super) fn close(&mut self, from: ConnectionId, channel: Option<u16>) {
        let Some(connection) = self.outbox.find(from) else {
            return;
        };
        let queues = self.outbox.get_mut(connection).map(|c| c.queues.clone()).unwrap_or_default();
        self.stop_waiting(from, channel);
        for id in queues {
            let Some(queue) = self.queues.get_mut(&id) else {
                self.stop_reading(id, connection, channel);
                continue;
            };
            let of_it = |c: u16| channel.is_none_or(|closed| closed == c);
            let gone: Vec<Place> = queue
                .consumers
                .iter()
                .filter(|(_, c)| c.connection == connection && of_it(c.subscription.channel))
                .map(|(place, _)| place)
                .collect();
            let too_often = queue.requeue_all(connection, channel, self.now);
            for (first, run) in too_often {
                self.dead_letter(id, Reason::DeliveryLimit, first, run);
            }
            self.remove_consumers(id, &gone);
            self.touch(id);
        }
        if channel.is_none() {
            self.outbox.remove(from);
            self.waiting_for_drop.retain(|(_, waiting, _)| *waiting != from);
        }
    }

    /// Takes consumers out of a queue; true when the owner of the topology must delete it because of that.
    pub(super) fn remove_consumers(&mut self, id: QueueId, places: &[Place]) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else {
            return false;
        };
        let mut any = false;
        for place in places {
            any |= queue.consumers.remove(*place).is_some();
        }
        let unused = any && queue.options.auto_delete && queue.consumers.is_empty();
        if unused && id.is_volatile() {
            self.drop_queue(id);
            return false;
        }
        if unused && !queue.closing {
            queue.closing = true;
            self.notices.push_back(Notice::Unused(id));
        }
        unused
    }
}
