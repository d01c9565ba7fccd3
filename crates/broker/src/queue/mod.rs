//! One queue: what waits, what is out with consumers, and who consumes.
//!
//! A queue decides nothing that must survive: its shard writes the record and then calls `enqueue`, `settle` and the
//! like, and so does recovery.

mod backlog;
mod consumer;
mod extras;
mod grouped;
mod groups;
mod limits;
mod paging;
mod returns;
mod run;
mod runs;
mod seen;
mod times;
mod unacked;

pub use consumer::Subscription;
pub(crate) use consumer::{Consumer, Consumers, Place, Turn};
pub(crate) use paging::to_page;
pub(crate) use run::{Logged, Run, Stored};
pub(crate) use seen::SEEN_WEIGHT;
pub use seen::Seen;
pub use times::Mark;
pub(crate) use unacked::Holder;

use std::collections::BTreeMap;

use crate::id::QueueId;
use crate::message::Messages;
use crate::record::{Span, tidy};
use crate::sequence::{Sequence, Stretch};
use crate::shard::{Bookmark, Delivery};
use crate::topology::{Return, Settings};
use backlog::Backlog;
use extras::Extras;
use grouped::groups_of;
use groups::Groups;
pub(crate) use runs::Runs;
use unacked::{Held, Unacked};

/// What a shard must know of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How errors name it: `queue 'q' in vhost '/'`.
    pub label: String,
    /// Persistent messages go to the log.
    pub durable: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// What its arguments and policies say.
    pub settings: Settings,
}

impl Options {
    /// A volatile queue for direct reply-to. Clients know its address and not its name.
    pub fn of_reply_queue() -> Options {
        Options {
            label: "reply queue".to_owned(),
            durable: false,
            auto_delete: true,
            settings: Settings::default(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) options: Options,
    pub(crate) consumers: Consumers,
    /// Being deleted: it takes no more requests.
    pub(crate) closing: bool,
    /// It is in its shard's list of queues to look at.
    pub(crate) touched: bool,
    /// What waits in memory below the first message of the backlog: consumers get this.
    front: Runs,
    /// What waits on a disk.
    backlog: Backlog,
    /// What waits in memory above the first message of the backlog.
    behind: Runs,
    unacked: Unacked,
    next_sequence: u64,
    /// Messages up to this number come back from the disk as redelivered.
    flagged: u64,
    /// Highest sequence number that was given out, and the highest that the log knows of.
    delivered: u64,
    delivered_logged: u64,
    /// Stored messages settled in this round, not yet in the log.
    settled: Vec<Span>,
    extras: Option<Box<Extras>>,
}

impl Queue {
    pub(crate) fn new(options: Options) -> Queue {
        let unacked = match options.settings.groups {
            Some(_) => Unacked::InNoOrder(BTreeMap::new()),
            None => Unacked::InOrder(Sequence::default()),
        };
        Queue {
            options,
            consumers: Consumers::default(),
            closing: false,
            touched: false,
            front: Runs::default(),
            backlog: Backlog::default(),
            behind: Runs::default(),
            unacked,
            next_sequence: 1,
            flagged: 0,
            delivered: 0,
            delivered_logged: 0,
            settled: Vec::new(),
            extras: None,
        }
    }

    /// Puts the queue, whose number is `id`, into the list of queues to look at, once.
    pub(crate) fn touch(&mut self, list: &mut Vec<QueueId>, id: QueueId) {
        if !self.touched {
            self.touched = true;
            list.push(id);
        }
    }

    /// Whether a message waits that a consumer could be given, in memory or on the disk.
    pub(crate) fn has_next(&self) -> bool {
        self.groups().map_or_else(|| self.ready_len() > 0, |groups| groups.next().is_some())
    }

    /// Messages that wait for a consumer.
    pub(crate) fn ready_len(&self) -> usize {
        let elsewhere = self.extras.as_ref().map_or(0, |extras| extras.len());
        elsewhere + self.front.len() + self.backlog.len() + self.behind.len()
    }

    /// The first of the numbers that the next `count` messages get.
    pub(crate) fn take_sequence(&mut self, count: u32) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += u64::from(count);
        sequence
    }

    /// Numbers below `end` have been used: later messages get higher ones.
    pub(crate) fn saw_sequence(&mut self, end: u64) {
        self.next_sequence = self.next_sequence.max(end);
    }

    pub(crate) fn enqueue(&mut self, first: u64, run: Run) {
        if self.extras.is_some() {
            if self.groups().is_some() {
                return self.enqueue_by_group(first, run);
            }
            if self.has_levels() {
                return self.enqueue_by_priority(first, run);
            }
        }
        self.enqueue_last(first, run);
    }

    /// Puts messages of the lowest priority into their place.
    fn enqueue_last(&mut self, first: u64, run: Run) {
        if self.backlog.first().is_some_and(|boundary| boundary < first) {
            self.behind.insert(first, run);
        } else {
            self.front.insert(first, run);
        }
    }

    /// How many messages the next delivery can carry; `None` when none waits in memory.
    pub(crate) fn next_run_len(&self) -> Option<u32> {
        let len_max = self.run_len_max();
        self.next_ready().map(|(_, run)| run.count().min(len_max))
    }

    /// Gives the next messages to a consumer; its connection and what it gets. What needs no ack is settled.
    pub(crate) fn hand_out(
        &mut self,
        id: QueueId,
        turn: Turn,
        now: u64,
        gone: impl FnOnce(&Run),
    ) -> Option<(usize, Delivery)> {
        let consumer = self.consumers.get(turn.place);
        let (connection, subscription) = (consumer.connection, &consumer.subscription);
        let (number, channel) = (subscription.consumer, subscription.channel);
        let (first, run) = if subscription.no_ack {
            let taken = self.take(turn.count)?;
            gone(&taken.1);
            taken
        } else {
            let consumer = Some((turn.place, number));
            self.lend(Holder { connection, channel, consumer, since: now }, turn.count)?
        };
        let Run { messages, redelivered, returns, .. } = run;
        Some((connection, Delivery { consumer: number, queue: id, first, redelivered, returns, messages }))
    }

    /// Takes the next messages, at most `count_max`, out of the queue for good.
    pub(crate) fn take(&mut self, count_max: u32) -> Option<(u64, Run)> {
        let (first, run) = self.pop_ready(count_max)?;
        grouped::release(&mut self.extras, first, &run);
        self.note_settled(first, &run);
        Some((first, run))
    }

    /// Gives the next messages, at most `count_max`, to `holder`, who will settle them or give them back.
    pub(crate) fn lend(&mut self, holder: Holder, count_max: u32) -> Option<(u64, Run)> {
        let (first, run) = self.pop_ready(count_max)?;
        self.unacked.insert(first, Held { run: run.clone(), holder });
        Some((first, run))
    }

    fn pop_ready(&mut self, count_max: u32) -> Option<(u64, Run)> {
        let (first, run) = match self.groups_mut() {
            Some(groups) => groups.pop_next()?,
            None => self.pop_head(count_max)?,
        };
        if self.extras.is_some() {
            self.count_taken(&run);
        }
        self.note_delivery(first, &run);
        Some((first, run))
    }

    /// Messages that left what waits go to `holder`, who will settle them: no consumer saw them.
    pub(crate) fn lend_taken(&mut self, holder: Holder, first: u64, run: Run) {
        self.unacked.insert(first, Held { run, holder });
    }

    /// Messages that left what waits leave the queue.
    pub(crate) fn settle_taken(&mut self, first: u64, run: &Run) {
        self.note_settled(first, run);
    }

    /// What a connection holds of a span passes to another holder; `passed` hears of it.
    pub(crate) fn pass_on(
        &mut self,
        connection: usize,
        span: Span,
        to: Holder,
        mut passed: impl FnMut(u64, &Run),
    ) {
        let Queue { unacked, consumers, .. } = self;
        let mut taken = Vec::new();
        let of_it = |holder: Holder| holder.connection == connection;
        unacked.remove(span.first, last(span), of_it, |first, held| {
            release(consumers, &held);
            taken.push((first, held.run));
        });
        for (first, run) in &taken {
            grouped::release(&mut self.extras, *first, run);
            passed(*first, run);
        }
        for (first, run) in taken.into_iter().rev() {
            self.unacked.insert(first, Held { run, holder: to });
        }
    }

    /// The holder is done with messages: they leave the queue. Those that this connection does not hold stay.
    pub(crate) fn settle(&mut self, connection: usize, span: Span, mut gone: impl FnMut(&Run)) {
        let Queue { unacked, consumers, settled, backlog, extras, .. } = self;
        unacked.remove(
            span.first,
            last(span),
            |holder| holder.connection == connection,
            |first, held| {
                release(consumers, &held);
                grouped::release(extras, first, &held.run);
                note_settled(settled, backlog, first, &held.run);
                gone(&held.run);
            },
        );
    }

    /// The holder gives messages back, to their old places.
    ///
    /// What was given back too often is returned, and is in no place any more.
    pub(crate) fn requeue(
        &mut self,
        connection: usize,
        span: Span,
        how: Return,
        now: u64,
    ) -> Vec<(u64, Run)> {
        let Queue { unacked, consumers, .. } = self;
        let mut taken = Vec::new();
        let of_it = |holder: Holder| holder.connection == connection;
        unacked.remove(span.first, last(span), of_it, |first, held| {
            release(consumers, &held);
            taken.push((first, held.run));
        });
        self.put_back(taken, how, now)
    }

    /// Takes back all that a connection, or one channel of it, holds. See `requeue`.
    pub(crate) fn requeue_all(
        &mut self,
        connection: usize,
        channel: Option<u16>,
        now: u64,
    ) -> Vec<(u64, Run)> {
        let of_it =
            |holder: Holder| holder.connection == connection && channel.is_none_or(|c| c == holder.channel);
        let taken = self.unacked.extract(of_it);
        let taken = taken.into_iter().map(|(first, held)| (first, held.run)).collect();
        self.put_back(taken, Return::Failed, now)
    }

    /// The highest first, so that each is put in front of the one before.
    fn put_back(&mut self, taken: Vec<(u64, Run)>, how: Return, now: u64) -> Vec<(u64, Run)> {
        let mut too_often = Vec::new();
        for (first, run) in taken.into_iter().rev() {
            let run = Run { redelivered: true, ..run };
            if self.extras.is_some() {
                too_often.extend(self.put_back_counted(first, run, how, now));
            } else {
                self.enqueue(first, run);
            }
        }
        too_often.reverse();
        too_often
    }

    /// Empties the queue of what waits; what is unacked stays. `gone` hears of what was in memory. How many there were.
    pub(crate) fn purge(&mut self, mut gone: impl FnMut(&Run)) -> usize {
        let count = self.ready_len();
        self.drop_backlog();
        while let Some((first, run)) = (self.pop_grouped())
            .or_else(|| self.head().pop_first(u32::MAX))
            .or_else(|| self.behind.pop_first(u32::MAX))
            .or_else(|| self.pop_delayed())
        {
            if self.extras.is_some() {
                self.count_taken(&run);
            }
            grouped::release(&mut self.extras, first, &run);
            self.note_settled(first, &run);
            gone(&run);
        }
        count
    }

    /// Recovery: joins what was read, so that it takes less memory; see [`Runs::join_many`].
    pub(crate) fn join_recovered(&mut self) -> Option<(Vec<(u64, Run)>, Run)> {
        self.front.join_many()
    }

    /// Recovery is over, and nothing more is read: joins the rest.
    pub(crate) fn join_rest(&mut self) -> Option<(Vec<(u64, Run)>, Run)> {
        let joined = self.front.join_last();
        self.front.shrink();
        joined
    }

    /// Recovery: settled messages are gone.
    pub(crate) fn forget(&mut self, span: Span, mut gone: impl FnMut(&Run)) {
        let mut forgotten = self.take_grouped(span);
        for runs in Queue::levels_mut(&mut self.extras).chain([&mut self.front, &mut self.behind]) {
            runs.remove(span.first, last(span), |first, run| forgotten.push((first, run)));
        }
        for (_, run) in forgotten {
            if self.extras.is_some() {
                self.count_taken(&run);
            }
            gone(&run);
        }
        self.forget_backlog(span);
    }

    /// Recovery: all up to `last` may have been delivered before.
    pub(crate) fn recovered_delivered(&mut self, last: u64) {
        self.delivered = self.delivered.max(last);
        self.delivered_logged = self.delivered;
    }

    /// Recovery is over: flags what may have been delivered before.
    pub(crate) fn flag_redelivered(&mut self) {
        self.flagged = self.delivered;
        self.backlog.forget_dead();
        for runs in Queue::levels_mut(&mut self.extras).chain([&mut self.front, &mut self.behind]) {
            runs.flag_redelivered(self.delivered);
        }
        let grouped = groups_of(&mut self.extras).into_iter().flat_map(Groups::iter_mut);
        grouped.filter(|(number, _)| *number <= self.delivered).for_each(|(_, run)| run.redelivered = true);
    }

    /// Stored messages that were settled since the last call.
    pub(crate) fn take_settled(&mut self) -> Vec<Span> {
        let mut settled = std::mem::take(&mut self.settled);
        tidy(&mut settled);
        settled
    }

    /// The highest number that was given out, if the log has not heard of it yet.
    pub(crate) fn take_delivered(&mut self) -> Option<u64> {
        let news = self.delivered > self.delivered_logged;
        self.delivered_logged = self.delivered;
        news.then_some(self.delivered)
    }

    /// What the log knows of deliveries: copied along when the log is shortened.
    pub(crate) fn delivered_logged(&self) -> u64 {
        self.delivered_logged
    }

    /// All messages in memory, waiting and unacked.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, &Run)> {
        let unacked = self.unacked.iter().map(|(first, held)| (first, &held.run));
        self.ready().chain(self.delayed()).chain(unacked)
    }

    /// All messages in memory that wait.
    fn ready(&self) -> impl Iterator<Item = (u64, &Run)> {
        let grouped = self.groups().into_iter().flat_map(Groups::iter);
        self.levels().chain([&self.front, &self.behind]).flat_map(Runs::iter).chain(grouped)
    }

    /// Copies of what waits in memory, in the order in which it will go, from behind a place on: so many bytes of them,
    /// and one at least.
    pub(crate) fn browse(&self, after: Option<Bookmark>, size_max: usize) -> Vec<(Bookmark, Messages)> {
        let delayed = self.delayed_after(after);
        let ready = self.ready().map(|(first, run)| (Bookmark { due_ms: 0, number: first }, run));
        let mut left = Some(size_max);
        let singles = ready.chain(delayed).flat_map(|(first, run)| {
            let numbers = (first.number..).map(move |number| Bookmark { number, ..first });
            numbers.zip(run.messages.singles())
        });
        let behind = singles.filter(|(place, _)| after.is_none_or(|after| *place > after));
        let in_size = behind.take_while(|(_, message)| {
            let fits = left.is_some();
            left = left.and_then(|left| left.checked_sub(message.size()));
            fits
        });
        in_size.collect()
    }

    /// The same, to change where the log holds them.
    pub(crate) fn runs_mut(&mut self) -> impl Iterator<Item = (u64, &mut Run)> {
        let Queue { front, behind, unacked, extras, .. } = self;
        let unacked = unacked.iter_mut().map(|(first, held)| (first, &mut held.run));
        let waiting = front.iter_mut().chain(behind.iter_mut()).chain(unacked);
        let more = extras.iter_mut().flat_map(|extras| extras.runs_mut());
        waiting.chain(more)
    }

    fn note_delivery(&mut self, first: u64, run: &Run) {
        let last = first + u64::from(run.count()) - 1;
        if run.stored.is_some() {
            self.delivered = self.delivered.max(last);
        }
        if let Some(spill) = &mut self.backlog.spill {
            spill.handed = spill.handed.max(last);
        }
    }

    fn note_settled(&mut self, first: u64, run: &Run) {
        note_settled(&mut self.settled, &mut self.backlog, first, run);
    }

    /// Panics where an invariant does not hold.
    pub(crate) fn check(&self) {
        for (first, run) in self.runs() {
            let end = first + u64::from(run.count());
            assert!(end <= self.next_sequence, "{end} was never given out");
            assert_eq!(
                Messages::decode(run.messages.as_bytes().to_vec().into()).as_ref(),
                Some(&run.messages)
            );
        }
        for (first, held) in self.unacked.iter() {
            for sequence in first..first + u64::from(held.count()) {
                let waits = self.front.get(sequence).is_some() || self.behind.get(sequence).is_some();
                assert!(!waits && !self.backlog.holds(sequence), "{sequence} both waits and is out");
            }
        }
        self.check_backlog();
        self.check_extras();
        for (place, consumer) in self.consumers.iter() {
            let held = self.unacked.iter().filter(|(_, held)| {
                let of_it = held.holder.consumer == Some((place, consumer.subscription.consumer));
                of_it && held.holder.connection == consumer.connection
            });
            let held: usize = held.map(|(_, held)| held.count() as usize).sum();
            assert_eq!(held, consumer.in_flight as usize, "count of unacked messages");
            let prefetch = consumer.subscription.prefetch as usize;
            assert!(prefetch == 0 || held <= prefetch, "{held} unacked with prefetch {prefetch}");
        }
    }
}

/// The consumer that held them may take others.
fn release(consumers: &mut Consumers, held: &Held) {
    let Holder { connection, consumer, .. } = held.holder;
    if let Some((place, number)) = consumer
        && let Some(consumer) = consumers.get_mut(place, connection, number)
    {
        consumer.in_flight -= held.count();
    }
}

fn note_settled(settled: &mut Vec<Span>, backlog: &mut Backlog, first: u64, run: &Run) {
    match run.stored {
        None => return,
        Some(Stored::Log(_)) => {}
        Some(Stored::Segment(segment)) => backlog.gone(segment, run.count()),
    }
    push_settled(settled, Span { first, count: run.count() });
}

fn push_settled(settled: &mut Vec<Span>, span: Span) {
    if !settled.last_mut().is_some_and(|before| before.join(span)) {
        settled.push(span);
    }
}

/// The last number of a span, which is not empty.
fn last(span: Span) -> u64 {
    span.end() - 1
}
