//! One queue: what waits, what is out with consumers, and who consumes.
//!
//! A queue decides nothing that must survive: its shard writes the record and then calls `enqueue`, `settle` and the
//! like, and so does recovery.

mod consumer;

pub use consumer::Subscription;
pub(crate) use consumer::{Consumer, Consumers, Place};

use crate::id::QueueId;
use crate::message::Message;
use crate::record::Position;
use crate::sequence::Sequence;

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

/// Where the log holds a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Position of its record.
    pub(crate) position: Position,
    /// This queue's share of the record's bytes: a record can serve many queues.
    pub(crate) share: u32,
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    /// `None`: it is in memory only.
    pub(crate) stored: Option<Stored>,
    pub(crate) redelivered: bool,
}

/// Who holds an unacked message.
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
    entry: Entry,
    holder: Holder,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) options: Options,
    pub(crate) consumers: Consumers,
    /// Being deleted: it takes no more requests.
    pub(crate) closing: bool,
    /// It is in its shard's list of queues to look at.
    pub(crate) touched: bool,
    ready: Sequence<Entry>,
    unacked: Sequence<Unacked>,
    next_sequence: u64,
    /// Highest sequence number that was given out, and the highest that the log knows of.
    delivered: u64,
    delivered_logged: u64,
    /// Stored messages settled in this round, not yet in the log.
    settled: Vec<u64>,
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

    /// The number that the next message gets.
    pub(crate) fn take_sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// A number has been used: later messages get higher ones.
    pub(crate) fn saw_sequence(&mut self, sequence: u64) {
        self.next_sequence = self.next_sequence.max(sequence + 1);
    }

    pub(crate) fn enqueue(&mut self, sequence: u64, entry: Entry) {
        self.ready.insert(sequence, entry);
    }

    /// Takes the next message out of the queue for good.
    pub(crate) fn take(&mut self) -> Option<(u64, Entry)> {
        let (sequence, entry) = self.ready.pop_first()?;
        self.note_delivery(sequence, &entry);
        self.note_settled(sequence, &entry);
        Some((sequence, entry))
    }

    /// Gives the next message to `holder`, who will settle it or give it back.
    pub(crate) fn lend(&mut self, holder: Holder) -> Option<(u64, &Entry)> {
        let (sequence, entry) = self.ready.pop_first()?;
        self.note_delivery(sequence, &entry);
        self.unacked.insert(sequence, Unacked { entry, holder });
        self.unacked.get(sequence).map(|unacked| (sequence, &unacked.entry))
    }

    /// The holder is done with a message: it leaves the queue. `None`: that connection does not hold it.
    pub(crate) fn settle(&mut self, connection: usize, sequence: u64) -> Option<Entry> {
        let entry = self.release(connection, sequence)?;
        self.note_settled(sequence, &entry);
        Some(entry)
    }

    /// The holder gives a message back, to its old place.
    pub(crate) fn requeue(&mut self, connection: usize, sequence: u64) -> bool {
        let Some(mut entry) = self.release(connection, sequence) else {
            return false;
        };
        entry.redelivered = true;
        self.ready.insert(sequence, entry);
        true
    }

    /// Takes back all that a connection, or one channel of it, holds. True when there was anything.
    pub(crate) fn requeue_all(&mut self, connection: usize, channel: Option<u16>) -> bool {
        let of_it =
            |holder: Holder| holder.connection == connection && channel.is_none_or(|c| c == holder.channel);
        let taken = self.unacked.extract(|unacked| of_it(unacked.holder));
        let any = !taken.is_empty();
        for (sequence, Unacked { mut entry, .. }) in taken {
            entry.redelivered = true;
            self.ready.insert(sequence, entry);
        }
        any
    }

    /// Empties the queue of what waits; what is unacked stays.
    pub(crate) fn purge(&mut self) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(self.ready.len());
        while let Some((sequence, entry)) = self.ready.pop_first() {
            self.note_settled(sequence, &entry);
            entries.push(entry);
        }
        entries
    }

    /// Recovery: a settled message is gone.
    pub(crate) fn forget(&mut self, sequence: u64) -> Option<Entry> {
        self.ready.remove(sequence)
    }

    /// Recovery: all up to `last` may have been delivered before.
    pub(crate) fn recovered_delivered(&mut self, last: u64) {
        self.delivered = self.delivered.max(last);
        self.delivered_logged = self.delivered;
    }

    /// Recovery is over: flags what may have been delivered before.
    pub(crate) fn flag_redelivered(&mut self) {
        for (sequence, entry) in self.ready.iter_mut() {
            entry.redelivered = sequence <= self.delivered;
        }
    }

    /// Sequence numbers of stored messages that were settled since the last call.
    pub(crate) fn take_settled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.settled)
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
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let unacked = self.unacked.iter().map(|(sequence, unacked)| (sequence, &unacked.entry));
        self.ready.iter().chain(unacked)
    }

    /// The same, to change where the log holds them.
    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = (u64, &mut Entry)> {
        let unacked = self.unacked.iter_mut().map(|(sequence, unacked)| (sequence, &mut unacked.entry));
        self.ready.iter_mut().chain(unacked)
    }

    fn release(&mut self, connection: usize, sequence: u64) -> Option<Entry> {
        let held = self.unacked.get(sequence)?;
        if held.holder.connection != connection {
            return None;
        }
        let Unacked { entry, holder } = self.unacked.remove(sequence)?;
        if let Some((place, number)) = holder.consumer
            && let Some(consumer) = self.consumers.get_mut(place, connection, number)
        {
            consumer.in_flight -= 1;
        }
        Some(entry)
    }

    fn note_delivery(&mut self, sequence: u64, entry: &Entry) {
        if entry.stored.is_some() {
            self.delivered = self.delivered.max(sequence);
        }
    }

    fn note_settled(&mut self, sequence: u64, entry: &Entry) {
        if entry.stored.is_some() {
            self.settled.push(sequence);
        }
    }

    /// Panics where an invariant does not hold.
    pub(crate) fn check(&self) {
        for (sequence, _) in self.entries() {
            assert!(sequence < self.next_sequence, "{sequence} was never given out");
        }
        for (sequence, _) in self.unacked.iter() {
            assert!(self.ready.get(sequence).is_none(), "{sequence} both waits and is out");
        }
        for (place, consumer) in self.consumers.iter() {
            let held = self.unacked.iter().filter(|(_, unacked)| {
                let of_it = unacked.holder.consumer == Some((place, consumer.subscription.consumer));
                of_it && unacked.holder.connection == consumer.connection
            });
            let held = held.count();
            assert_eq!(held, consumer.in_flight as usize, "count of unacked messages");
            let prefetch = consumer.subscription.prefetch as usize;
            assert!(prefetch == 0 || held <= prefetch, "{held} unacked with prefetch {prefetch}");
        }
    }
}
