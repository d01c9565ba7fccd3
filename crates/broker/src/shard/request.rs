//! Requests: what a session waits for.

use super::paging::Get;
use super::{Browse, Delivery, Effect, Reply, Request, Shard};
use crate::error::{Error, Kind};
use crate::id::{ConnectionId, QueueId};
use crate::queue::{Consumer, Holder, Queue, Run, Subscription};
use crate::record::Log;
use crate::topology::QueueKind;

impl Shard {
    pub(super) fn request(&mut self, from: ConnectionId, token: u64, request: Request, log: &mut impl Log) {
        let Some(request) = self.stream_request(from, token, request) else { return };
        // What was published before goes to consumers that wait for it first.
        if let Request::Get { queue, .. }
        | Request::Purge(queue)
        | Request::Delete { queue, .. }
        | Request::Browse(Browse { queue, .. })
        | Request::CallOff { queue, .. }
        | Request::Inspect(queue) = &request
        {
            self.dispatch(*queue);
            if self.queues.get(queue).is_some_and(Queue::has_extras) {
                self.after_dispatch(*queue);
            }
        }
        let answer = match request {
            Request::Consume(queue, subscription) | Request::Read(queue, subscription, _) => {
                self.consume(from, queue, subscription)
            }
            Request::Cancel(queue, consumer) => {
                if self.cancel(from, queue, consumer) {
                    self.waiting_for_drop.push((queue, from, token));
                    return;
                }
                Ok(Reply::Cancelled)
            }
            Request::Get { queue, channel, no_ack } => {
                let get = Get { queue, from, token, channel, no_ack };
                if self.must_wait(get) {
                    return;
                }
                self.get(get)
            }
            Request::Purge(queue) => {
                let purged = self.purge(queue, log);
                return self.reply_when_committed(from, token, purged.map(Reply::Purged));
            }
            Request::Delete { queue, if_unused, if_empty } => self.delete(queue, if_unused, if_empty),
            Request::Browse(Browse { queue, after, size_max }) => {
                self.open_queue(queue).map(|queue| Reply::Browsed(queue.browse(after, size_max)))
            }
            Request::CallOff { queue, id } => {
                let count = self.call_off(queue, &id, log);
                return self.reply_when_committed(from, token, count.map(Reply::CalledOff));
            }
            Request::Inspect(queue) => {
                let now = self.now;
                self.touch(queue);
                self.open_queue(queue).map(|queue| {
                    queue.used(now);
                    Reply::Counts { ready: queue.ready_len(), consumers: queue.consumers.len() }
                })
            }
            Request::Sync => {
                // What the round settled so far must be in the log before its end is waited for.
                for queue in self.touched.clone() {
                    self.log_outcomes(queue, log);
                }
                self.log_tracked(log);
                return self.reply_when_committed(from, token, Ok(Reply::Synced));
            }
        };
        self.outbox.push(from, Effect::Reply(token, answer));
    }

    /// Answers once everything that is in the log by now is committed.
    fn reply_when_committed(&mut self, to: ConnectionId, token: u64, answer: Result<Reply, Error>) {
        match self.last_append.filter(|last| *last >= self.committed) {
            Some(last) => self.outbox.hold(last, to, Effect::Reply(token, answer)),
            None => self.outbox.push(to, Effect::Reply(token, answer)),
        }
    }

    fn consume(
        &mut self,
        from: ConnectionId,
        id: QueueId,
        subscription: Subscription,
    ) -> Result<Reply, Error> {
        let (connection, now) = (self.outbox.place(from), self.now);
        self.expect_timeout(subscription.timeout_ms);
        let queue = self.open_queue(id)?;
        queue.used(now);
        // Where one consumer at a time gets everything, none may keep the others out. RabbitMQ allows it in quorum queues.
        let settings = &queue.options.settings;
        let takes_turns = settings.single_active_consumer && settings.kind == QueueKind::Classic;
        let is_shared = takes_turns || !queue.consumers.is_empty();
        let taken = queue.consumers.has_exclusive() || (subscription.exclusive && is_shared);
        if taken {
            return Err(Error::new(Kind::Refused, format!("{} in exclusive use", queue.options.label)));
        }
        queue.consumers.add(Consumer { connection, subscription, in_flight: 0 });
        self.takes_part(connection, id);
        self.touch(id);
        Ok(Reply::Consuming)
    }

    /// Stops a consumer; true when its queue goes with it.
    fn cancel(&mut self, from: ConnectionId, id: QueueId, consumer: u32) -> bool {
        let Some(connection) = self.outbox.find(from) else {
            return false;
        };
        let Some(queue) = self.queues.get(&id) else {
            return false;
        };
        match queue.consumers.find(connection, consumer) {
            Some(place) => self.remove_consumers(id, &[place]),
            None => false,
        }
    }

    pub(super) fn get(&mut self, get: Get) -> Result<Reply, Error> {
        let Get { queue: id, from, channel, no_ack, .. } = get;
        let (connection, since) = (self.outbox.place(from), self.now);
        let queue = self.open_queue(id)?;
        queue.used(since);
        let taken = if no_ack {
            queue.take(1)
        } else {
            let holder = Holder { connection, channel, consumer: None, since };
            queue.lend(holder, 1)
        };
        let ready = queue.ready_len();
        let Some((first, run)) = taken else {
            return Ok(Reply::Got(None, ready));
        };
        if no_ack {
            self.usage.remove(&run);
        } else {
            self.takes_part(connection, id);
        }
        self.touch(id);
        let Run { messages, redelivered, returns, .. } = run;
        let delivery = Delivery { consumer: 0, queue: id, first, redelivered, returns, messages };
        Ok(Reply::Got(Some(delivery), ready))
    }

    fn purge(&mut self, id: QueueId, log: &mut impl Log) -> Result<usize, Error> {
        self.open_queue(id)?;
        let Shard { queues, usage, .. } = self;
        let purged = queues.get_mut(&id).map_or(0, |queue| queue.purge(|run| usage.remove(run)));
        self.log_outcomes(id, log);
        self.serve_waiting(id);
        self.touch(id);
        Ok(purged)
    }

    fn call_off(&mut self, queue_id: QueueId, id: &str, log: &mut impl Log) -> Result<usize, Error> {
        let mut count = 0;
        while let Some((first, run)) = self.open_queue(queue_id)?.call_off(id) {
            self.open_queue(queue_id)?.settle_taken(first, &run);
            self.usage.remove(&run);
            count += 1;
        }
        self.log_outcomes(queue_id, log);
        self.touch(queue_id);
        Ok(count)
    }

    fn delete(&mut self, id: QueueId, if_unused: bool, if_empty: bool) -> Result<Reply, Error> {
        let queue = self.open_queue(id)?;
        let refuse =
            |why: &str| Err(Error::new(Kind::Precondition, format!("{} {why}", queue.options.label)));
        if if_unused && !queue.consumers.is_empty() {
            return refuse("in use");
        }
        if if_empty && queue.ready_len() > 0 {
            return refuse("not empty");
        }
        queue.closing = true;
        Ok(Reply::Deletable(queue.ready_len()))
    }

    fn open_queue(&mut self, id: QueueId) -> Result<&mut Queue, Error> {
        match self.queues.get_mut(&id) {
            Some(queue) if !queue.closing => Ok(queue),
            Some(queue) => Err(Error::new(Kind::NotFound, format!("no {}", queue.options.label))),
            None => Err(Error::new(Kind::NotFound, "the queue was deleted".to_owned())),
        }
    }

    /// Remembers that a connection consumes from a queue or holds messages of it.
    pub(super) fn takes_part(&mut self, connection: usize, queue: QueueId) {
        if let Some(connection) = self.outbox.get_mut(connection) {
            connection.queues.insert(queue);
        }
    }
}
