//! One queue: what waits, what is out with consumers, and who consumes.
//!
//! A queue decides nothing that must survive: its shard writes the record and then calls `enqueue`, `settle` and the
//! like, and so does recovery.

mod consumer;

pub use consumer::Subscription;
pub(crate) use consumer::{Consumer, Consumers, Place, Turn};

use crate::id::QueueId;
use crate::message::Messages;
use crate::record::{Position, Span, tidy};
use crate::sequence::{Sequence, Stretch};
use crate::shard::Delivery;

/// What a shard must know of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How errors name it: `queue 'q' in vhost '/'`.
    pub label: String,
    /// Persistent messages go to the log.
    pub durable: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
}

impl Options {
    /// A volatile queue for direct reply-to. Clients know its address and not its name.
    pub fn of_reply_queue() -> Options {
        Options { label: "reply queue".to_owned(), durable: false, auto_delete: true }
    }
}

/// Where the log holds messages that were written one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Position of the first record that was written together with theirs.
    pub(crate) position: Position,
    /// How many were written from there to the first of these: with the position it names a message.
    pub(crate) nth: u32,
    /// Queues that share each record.
    pub(crate) targets: u32,
    /// Bytes of records per message, beside the message.
    pub(crate) overhead: u32,
}

/// Messages of a queue whose sequence numbers follow each other and that share everything else.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) messages: Messages,
    /// `None`: they are in memory only.
    pub(crate) stored: Option<Stored>,
    pub(crate) redelivered: bool,
}

impl Stretch for Run {
    fn count(&self) -> u32 {
        self.messages.count()
    }

    fn split_to(&mut self, count: u32) -> Run {
        let first = Run { messages: self.messages.split_to(count), ..*self };
        if let Some(stored) = &mut self.stored {
            stored.nth += count;
        }
        first
    }

    fn stays(&mut self) {
        self.messages.move_out();
    }
}

/// Who holds unacked messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its connection's place in the shard.
    pub(crate) connection: usize,
    pub(crate) channel: u16,
    /// Place and number; `None` when basic.get took it.
    pub(crate) consumer: Option<(Place, u32)>,
}

#[derive(Debug)]
struct Unacked {
    run: Run,
    holder: Holder,
}

impl Stretch for Unacked {
    fn count(&self) -> u32 {
        self.run.count()
    }

    fn split_to(&mut self, count: u32) -> Unacked {
        Unacked { run: self.run.split_to(count), holder: self.holder }
    }

    fn stays(&mut self) {
        self.run.stays();
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
    ready: Sequence<Run>,
    unacked: Sequence<Unacked>,
    next_sequence: u64,
    /// Highest sequence number that was given out, and the highest that the log knows of.
    delivered: u64,
    delivered_logged: u64,
    /// Stored messages settled in this round, not yet in the log.
    settled: Vec<Span>,
}

impl Queue {
    pub(crate) fn new(options: Options) -> Queue {
        Queue {
            options,
            consumers: Consumers::default(),
            closing: false,
            touched: false,
            ready: Sequence::default(),
            unacked: Sequence::default(),
            next_sequence: 1,
            delivered: 0,
            delivered_logged: 0,
            settled: Vec::new(),
        }
    }

    /// Puts the queue, whose number is `id`, into the list of queues to look at, once.
    pub(crate) fn touch(&mut self, list: &mut Vec<QueueId>, id: QueueId) {
        if !self.touched {
            self.touched = true;
            list.push(id);
        }
    }

    /// Messages that wait for a consumer.
    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn unacked_len(&self) -> usize {
        self.unacked.len()
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
        self.ready.insert(first, run);
    }

    /// How many messages the next delivery can carry; `None` when none waits.
    pub(crate) fn next_run_len(&self) -> Option<u32> {
        self.ready.first().map(|(_, run)| run.count())
    }

    /// Gives the next messages to a consumer; its connection and what it gets. What needs no ack is settled.
    pub(crate) fn hand_out(
        &mut self,
        id: QueueId,
        turn: Turn,
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
            self.lend(Holder { connection, channel, consumer: Some((turn.place, number)) }, turn.count)?
        };
        let Run { messages, redelivered, .. } = run;
        Some((connection, Delivery { consumer: number, queue: id, first, redelivered, messages }))
    }

    /// Takes the next messages, at most `count_max`, out of the queue for good.
    pub(crate) fn take(&mut self, count_max: u32) -> Option<(u64, Run)> {
        let (first, run) = self.ready.pop_first(count_max)?;
        self.note_delivery(first, &run);
        note_settled(&mut self.settled, first, &run);
        Some((first, run))
    }

    /// Gives the next messages, at most `count_max`, to `holder`, who will settle them or give them back.
    pub(crate) fn lend(&mut self, holder: Holder, count_max: u32) -> Option<(u64, Run)> {
        let (first, run) = self.ready.pop_first(count_max)?;
        self.note_delivery(first, &run);
        self.unacked.insert(first, Unacked { run: run.clone(), holder });
        Some((first, run))
    }

    /// The holder is done with messages: they leave the queue. Those that this connection does not hold stay.
    pub(crate) fn settle(&mut self, connection: usize, span: Span, mut gone: impl FnMut(&Run)) {
        let Queue { unacked, consumers, settled, .. } = self;
        unacked.remove(
            span.first,
            last(span),
            |unacked| unacked.holder.connection == connection,
            |first, unacked| {
                release(consumers, &unacked);
                note_settled(settled, first, &unacked.run);
                gone(&unacked.run);
            },
        );
    }

    /// The holder gives messages back, to their old places.
    pub(crate) fn requeue(&mut self, connection: usize, span: Span) {
        let Queue { unacked, consumers, ready, .. } = self;
        let mut taken = Vec::new();
        let of_it = |unacked: &Unacked| unacked.holder.connection == connection;
        unacked.remove(span.first, last(span), of_it, |first, unacked| taken.push((first, unacked)));
        for (first, unacked) in taken.into_iter().rev() {
            release(consumers, &unacked);
            ready.insert(first, Run { redelivered: true, ..unacked.run });
        }
    }

    /// Takes back all that a connection, or one channel of it, holds.
    pub(crate) fn requeue_all(&mut self, connection: usize, channel: Option<u16>) {
        let of_it =
            |holder: Holder| holder.connection == connection && channel.is_none_or(|c| c == holder.channel);
        // The highest first, so that each is put in front of the one before.
        let taken = self.unacked.extract(|unacked| of_it(unacked.holder));
        for (first, Unacked { run, .. }) in taken.into_iter().rev() {
            self.ready.insert(first, Run { redelivered: true, ..run });
        }
    }

    /// Empties the queue of what waits; what is unacked stays.
    pub(crate) fn purge(&mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        while let Some((first, run)) = self.ready.pop_first(u32::MAX) {
            note_settled(&mut self.settled, first, &run);
            runs.push(run);
        }
        runs
    }

    /// Recovery: settled messages are gone.
    pub(crate) fn forget(&mut self, span: Span, mut gone: impl FnMut(&Run)) {
        self.ready.remove(span.first, last(span), |_| true, |_, run| gone(&run));
    }

    /// Recovery: all up to `last` may have been delivered before.
    pub(crate) fn recovered_delivered(&mut self, last: u64) {
        self.delivered = self.delivered.max(last);
        self.delivered_logged = self.delivered;
    }

    /// Recovery is over: flags what may have been delivered before.
    pub(crate) fn flag_redelivered(&mut self) {
        let last = self.delivered;
        // One stretch may lie across the end.
        if let Some((first, run)) = self.ready.get(last)
            && first + u64::from(run.count()) - 1 > last
        {
            let mut before = None;
            self.ready.remove(first, last, |_| true, |first, run| before = Some((first, run)));
            before.into_iter().for_each(|(first, run)| self.ready.insert(first, run));
        }
        let delivered = self.ready.iter_mut().take_while(|(first, _)| *first <= last);
        delivered.for_each(|(_, run)| run.redelivered = true);
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

    /// All messages, waiting and unacked.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, &Run)> {
        let unacked = self.unacked.iter().map(|(first, unacked)| (first, &unacked.run));
        self.ready.iter().chain(unacked)
    }

    /// The same, to change where the log holds them.
    pub(crate) fn runs_mut(&mut self) -> impl Iterator<Item = (u64, &mut Run)> {
        let unacked = self.unacked.iter_mut().map(|(first, unacked)| (first, &mut unacked.run));
        self.ready.iter_mut().chain(unacked)
    }

    fn note_delivery(&mut self, first: u64, run: &Run) {
        if run.stored.is_some() {
            self.delivered = self.delivered.max(first + u64::from(run.count()) - 1);
        }
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
        for (first, unacked) in self.unacked.iter() {
            for sequence in first..first + u64::from(unacked.count()) {
                assert!(self.ready.get(sequence).is_none(), "{sequence} both waits and is out");
            }
        }
        for (place, consumer) in self.consumers.iter() {
            let held = self.unacked.iter().filter(|(_, unacked)| {
                let of_it = unacked.holder.consumer == Some((place, consumer.subscription.consumer));
                of_it && unacked.holder.connection == consumer.connection
            });
            let held: usize = held.map(|(_, unacked)| unacked.count() as usize).sum();
            assert_eq!(held, consumer.in_flight as usize, "count of unacked messages");
            let prefetch = consumer.subscription.prefetch as usize;
            assert!(prefetch == 0 || held <= prefetch, "{held} unacked with prefetch {prefetch}");
        }
    }
}

/// The consumer that held them may take others.
fn release(consumers: &mut Consumers, unacked: &Unacked) {
    let Holder { connection, consumer, .. } = unacked.holder;
    if let Some((place, number)) = consumer
        && let Some(consumer) = consumers.get_mut(place, connection, number)
    {
        consumer.in_flight -= unacked.count();
    }
}

fn note_settled(settled: &mut Vec<Span>, first: u64, run: &Run) {
    if run.stored.is_none() {
        return;
    }
    let span = Span { first, count: run.count() };
    if !settled.last_mut().is_some_and(|before| before.join(span)) {
        settled.push(span);
    }
}

/// The last number of a span, which is not empty.
fn last(span: Span) -> u64 {
    span.end() - 1
}
