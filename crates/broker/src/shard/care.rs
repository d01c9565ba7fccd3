//! What the clock and the limits of a queue ask for: messages that are too old, too many or unwanted go, and some go
//! to another place.
//!
//! A message for another place stays in its queue, held by the *forwarder*, until it has arrived there. The forwarder is
//! a connection like others: it gets [`Effect::Forward`] and settles what it has done.

use super::{Effect, Forward, Notice, Reason, Shard};
use crate::id::{ConnectionId, QueueId};
use crate::queue::{Holder, Queue, Run};
use crate::record::{self, Log, Span};
use crate::topology::{Keeps, Settings};

/// How often consumers that hold messages for too long are looked for, milliseconds.
const TIMEOUT_CHECK_MAX_MS: u64 = 60_000;
const TIMEOUT_CHECK_MIN_MS: u64 = 100;

impl Shard {
    /// It is so late, in milliseconds since 1970: to be said before each round. Time does not run backwards here.
    pub fn tick(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.streams.tick(self.now);
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= self.now) {
            self.set_deadline(id, None);
            self.deadlines.pop_first();
            self.touch(id);
        }
        if self.timeouts_at.is_some_and(|at| at <= self.now) {
            self.check_timeouts();
        }
    }

    /// When there is something to do though nobody asks for it: a round is due then.
    pub fn next_deadline(&self) -> Option<u64> {
        let queues = self.deadlines.first().map(|(at, _)| *at);
        [queues, self.timeouts_at, self.streams.next_deadline()].into_iter().flatten().min()
    }

    /// The arguments and policies of a queue say something new.
    pub fn configure(&mut self, id: QueueId, settings: Settings, log: &mut impl Log) {
        let Some(queue) = self.queues.get_mut(&id) else { return self.streams.configure(id, &settings) };
        if let Some(mark) = queue.configure(settings, self.now)
            && queue.options.durable
        {
            let position = record::append_arrived(log, &mut self.scratch, id, &[mark]);
            self.append_at(position);
        }
        self.touch(id);
    }

    /// Before messages are handed out: those whose time has come are there again, those whose time is over are not.
    pub(super) fn before_dispatch(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.options.settings.keeps == Some(Keeps::Delayed) {
            queue.sort_by_due();
            return self.send_due(id);
        }
        queue.end_delays(self.now);
        // Who may wait for no time at all is given to a consumer that is free.
        self.expire(id, self.now.saturating_sub(1));
    }

    /// After messages were handed out: what is too old or too much goes.
    pub(super) fn after_dispatch(&mut self, id: QueueId) {
        self.expire(id, self.now);
        while self.trim(id) {
            // The next one may be too old.
            self.expire(id, self.now);
        }
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let outlook = queue.outlook(self.now);
        if outlook.expired && !queue.closing {
            queue.closing = true;
            self.notices.push_back(Notice::Unused(id));
        }
        self.set_deadline(id, outlook.next);
    }

    fn set_deadline(&mut self, id: QueueId, next: Option<u64>) {
        let Some(deadline) = self.queues.get_mut(&id).and_then(Queue::deadline) else { return };
        let before = std::mem::replace(deadline, next);
        if before != next {
            if let Some(at) = before {
                self.deadlines.remove(&(at, id));
            }
            self.deadlines.extend(next.map(|at| (at, id)));
        }
    }

    /// Messages whose time has come go to where their exchange sends them.
    fn send_due(&mut self, id: QueueId) {
        while self.may_forward()
            && let Some(queue) = self.queues.get_mut(&id)
            && let Some((first, run)) = queue.take_due(self.now)
        {
            self.forward(id, Reason::Due, first, run);
        }
    }

    pub(super) fn expire(&mut self, id: QueueId, now: u64) {
        let settings = self.queues.get(&id).map(|queue| &queue.options.settings);
        let leads_somewhere = settings.is_some_and(|settings| settings.dead_letter_exchange.is_some());
        while (!leads_somewhere || self.may_forward())
            && let Some(queue) = self.queues.get_mut(&id)
            && let Some((first, run)) = queue.take_expired(now)
        {
            self.dead_letter(id, Reason::Expired, first, run);
        }
    }

    /// The head goes until the queue is as short as it has to be; false when it was.
    fn trim(&mut self, id: QueueId) -> bool {
        let mut trimmed = false;
        while let Some(queue) = self.queues.get_mut(&id) {
            let excess = queue.excess();
            if excess == 0 {
                break;
            }
            match queue.take_head(excess) {
                Some((first, run)) => self.dead_letter(id, Reason::MaxLen, first, run),
                None if queue.options.settings.dead_letter_exchange.is_none() && queue.has_backlog() => {
                    queue.drop_backlog_head(excess.min(queue.head_len_max().into()));
                }
                None => break,
            }
            trimmed = true;
        }
        trimmed
    }

    fn may_forward(&mut self) -> bool {
        let place = self.outbox.place(ConnectionId::FORWARDER);
        self.outbox.is_writable(place)
    }

    /// Messages that do not wait any more leave the queue for its dead-letter exchange, or for good.
    pub(super) fn dead_letter(&mut self, id: QueueId, reason: Reason, first: u64, run: Run) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.options.settings.dead_letter_exchange.is_none() {
            queue.settle_taken(first, &run);
            self.usage.remove(&run);
            return;
        }
        self.forward(id, reason, first, run);
    }

    /// Messages that do not wait any more go to another place.
    fn forward(&mut self, id: QueueId, reason: Reason, first: u64, run: Run) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let messages = run.messages.clone();
        let letters = queue.options.settings.dead_letters();
        let connection = self.outbox.place(ConnectionId::FORWARDER);
        queue.lend_taken(Holder { connection, channel: 0, consumer: None, since: self.now }, first, run);
        self.takes_part(connection, id);
        let forward = Forward { queue: id, first: Some(first), reason, letters, messages };
        self.outbox.push_at(connection, Effect::Forward(forward));
    }

    /// Consumers do not want messages that they hold.
    pub(super) fn reject(&mut self, from: ConnectionId, messages: &[(QueueId, Span)]) {
        let Some(connection) = self.outbox.find(from) else { return };
        let forwarder = self.outbox.place(ConnectionId::FORWARDER);
        for (id, span) in messages {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            if queue.options.settings.dead_letter_exchange.is_none() {
                self.settle(from, &[(*id, *span)]);
                continue;
            }
            let to = Holder { connection: forwarder, channel: 0, consumer: None, since: self.now };
            let outbox = &mut self.outbox;
            let letters = queue.options.settings.dead_letters();
            queue.pass_on(connection, *span, to, |first, run| {
                let messages = run.messages.clone();
                let (first, letters) = (Some(first), letters.clone());
                let forward = Forward { queue: *id, first, reason: Reason::Rejected, letters, messages };
                outbox.push_at(forwarder, Effect::Forward(forward));
            });
            queue.touch(&mut self.touched, *id);
            self.takes_part(forwarder, *id);
        }
    }

    /// Whether a queue takes messages that are published now.
    pub(super) fn admits(&mut self, id: QueueId) -> bool {
        if !self.queues.get(&id).is_some_and(Queue::refuses) {
            return true;
        }
        // Some may be on their way to consumers already.
        self.dispatch(id);
        !self.queues.get(&id).is_some_and(Queue::refuses)
    }

    /// Notes that messages have arrived.
    pub(super) fn arrived(
        &mut self,
        id: QueueId,
        first: u64,
        expires: bool,
        stored: bool,
        log: &mut impl Log,
    ) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if let Some(mark) = queue.arrive(first, self.now, expires)
            && stored
        {
            let position = record::append_arrived(log, &mut self.scratch, id, &[mark]);
            self.append_at(position);
        }
    }

    /// Logs how often messages were given back.
    pub(super) fn log_returns(&mut self, id: QueueId, log: &mut impl Log) {
        let returned = self.queues.get_mut(&id).map_or_else(Vec::new, Queue::take_returned);
        for (returns, spans) in returned {
            let position = record::append_returned(log, &mut self.scratch, id, returns, &spans);
            self.append_at(position);
        }
    }

    /// A consumer with this limit has started.
    pub(super) fn expect_timeout(&mut self, timeout_ms: Option<u64>) {
        let Some(timeout) = timeout_ms else { return };
        let next = self.now + (timeout / 4).clamp(TIMEOUT_CHECK_MIN_MS, TIMEOUT_CHECK_MAX_MS);
        self.timeouts_at = Some(self.timeouts_at.map_or(next, |at| at.min(next)));
    }

    /// Tells sessions of consumers that hold messages for too long.
    fn check_timeouts(&mut self) {
        self.timeouts_at = None;
        let mut shortest: Option<u64> = None;
        for queue in self.queues.values_mut() {
            for timeout in queue.consumers.iter().filter_map(|(_, consumer)| consumer.subscription.timeout_ms)
            {
                shortest = Some(shortest.map_or(timeout, |least| least.min(timeout)));
            }
            for (connection, consumer, timeout) in queue.late_consumers(self.now) {
                self.outbox.push_at(connection, Effect::TimedOut(consumer, timeout));
            }
        }
        self.expect_timeout(shortest);
    }
}
