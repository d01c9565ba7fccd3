//! What must be in every queue, what may be, and what must never be again.

use std::collections::{BTreeMap, BTreeSet};

use broker::message::{Messages, Parts};
use broker::shard::Delivery;
use store::Lsn;
use store::sim::Random;

/// A message of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    /// It is in the log: a persistent message in a durable queue.
    pub(crate) stored: bool,
    /// Its publisher heard that it is safe.
    pub(crate) confirmed: bool,
    /// Where the round with its record ends, once there is such a round.
    pub(crate) logged: Option<Lsn>,
    /// It was given to somebody once, in this life of the broker or before.
    pub(crate) delivered: bool,
    /// The next delivery says so.
    pub(crate) flagged: bool,
}

/// A stored message that was settled, until that is durable.
#[derive(Clone, Copy, Debug, Default)]
struct Gone {
    entry: Entry,
    /// Where the round with its settle record ends, once there is such a round.
    logged: Option<Lsn>,
    /// The record is in the log's buffer already, and not only in the shard's.
    appended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) durable: bool,
    /// Waiting, by message number, which is the order of publication.
    pub(crate) ready: BTreeMap<u64, Entry>,
    /// Given out and not settled.
    pub(crate) held: BTreeMap<u64, Entry>,
    gone: BTreeMap<u64, Gone>,
    /// Highest message that was ever given out.
    delivered: u64,
    /// The same for stored messages, and what of it the log was told: where the round ends, and up to which message.
    delivered_stored: u64,
    delivered_appended: u64,
    delivered_logged: Vec<(Lsn, u64)>,
}

/// What a recovery found in one queue, in the order in which it is delivered.
pub(crate) type Found = Vec<(Messages, bool)>;

/// What is wrong after a crash. All zero, unless syncing is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Confirmed or synced, never settled, and not there.
    pub(crate) lost: u64,
    /// Never published, or settled for good, or lost before; or its bytes are others.
    pub(crate) unexpected: u64,
    /// Not in the order of publication.
    pub(crate) disordered: u64,
    /// Delivered before and not flagged, though the log knew; or flagged and never delivered.
    pub(crate) misflagged: u64,
    /// Parts of the journal, and messages of segments, that were durable and cannot be read.
    pub(crate) damaged: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) queues: BTreeMap<u64, Queue>,
    /// Messages whose record was appended and is in no round yet: queue and number.
    appended: BTreeSet<(u64, u64)>,
}

/// The message with this number: anybody can tell what its bytes must be.
pub(crate) fn message(number: u64) -> Messages {
    let mut random = Random::new(number);
    let len = match random.below(16) {
        0 => random.index(3000),
        1 => 0,
        _ => random.index(200),
    };
    let mut body = number.to_be_bytes().to_vec();
    while body.len() < len {
        body.extend_from_slice(&random.next_u64().to_be_bytes());
    }
    Parts { route: b"\x01x\x03key", properties: &[0x10, 0, 2], body: &body }.to_messages()
}

/// The number of a message that is alone, if its bytes are what they must be.
pub(crate) fn number_of(found: &Messages) -> Option<u64> {
    let number = u64::from_be_bytes(*found.first().body().first_chunk()?);
    (found.as_bytes() == message(number).as_bytes()).then_some(number)
}

impl Oracle {
    pub(crate) fn publish(&mut self, queue: u64, number: u64, persistent: bool) {
        let Some(model) = self.queues.get_mut(&queue) else { return };
        let stored = persistent && model.durable;
        model.ready.insert(number, Entry { stored, ..Entry::default() });
        if stored {
            self.appended.insert((queue, number));
        }
    }

    /// Checks a delivery and notes it. All that is delivered comes from the front of its queue.
    pub(crate) fn deliver(&mut self, delivery: &Delivery, no_ack: bool) -> u64 {
        let number = number_of(&delivery.messages).expect("the bytes of a message are what was published");
        let queue = self.queues.get_mut(&delivery.queue.0).expect("only from a queue that exists");
        let (first, mut entry) = queue.ready.pop_first().expect("only what waits is delivered");
        assert_eq!(number, first, "queue {} gives its oldest message", delivery.queue);
        assert_eq!(
            delivery.redelivered, entry.flagged,
            "flag of message {number} of queue {}",
            delivery.queue
        );
        if !entry.delivered {
            assert!(number > queue.delivered, "first delivery of {number} after that of {}", queue.delivered);
            queue.delivered = number;
        }
        entry.delivered = true;
        if entry.stored {
            queue.delivered_stored = queue.delivered_stored.max(number);
        }
        if no_ack {
            queue.settled(number, entry);
        } else {
            queue.held.insert(number, entry);
        }
        number
    }

    /// A holder is done with a message.
    pub(crate) fn settle(&mut self, queue: u64, number: u64) {
        let Some(queue) = self.queues.get_mut(&queue) else { return };
        let entry = queue.held.remove(&number).expect("only what is held is settled");
        queue.settled(number, entry);
    }

    /// A holder gives a message back.
    pub(crate) fn requeue(&mut self, queue: u64, number: u64) {
        let Some(queue) = self.queues.get_mut(&queue) else { return };
        let entry = queue.held.remove(&number).expect("only what is held goes back");
        queue.ready.insert(number, Entry { flagged: true, ..entry });
    }

    /// All that waits goes; how many that is. What the shard settled of this queue is in the log's buffer now.
    pub(crate) fn purge(&mut self, queue: u64) -> usize {
        let queue = self.queues.get_mut(&queue).expect("only queues that exist are purged");
        let ready = std::mem::take(&mut queue.ready);
        let count = ready.len();
        ready.into_iter().for_each(|(number, entry)| queue.settled(number, entry));
        queue.appended();
        count
    }

    /// What the shard settled so far is in the log's buffer now.
    pub(crate) fn appended_all(&mut self) {
        self.queues.values_mut().for_each(Queue::appended);
    }

    /// A round was taken that ends here. `finished`: at the end of a round of commands, so all that happened is in it;
    /// else it was taken in between, with only what was in the log's buffer.
    pub(crate) fn round(&mut self, end: Lsn, finished: bool) {
        for (queue, number) in std::mem::take(&mut self.appended) {
            let Some(queue) = self.queues.get_mut(&queue) else { continue };
            queue.entry_mut(number).logged = Some(end);
        }
        for queue in self.queues.values_mut() {
            for gone in queue.gone.values_mut().filter(|gone| gone.appended || finished) {
                gone.logged = gone.logged.or(Some(end));
            }
            let delivered = if finished { queue.delivered_stored } else { queue.delivered_appended };
            if delivered > queue.told() {
                queue.delivered_logged.push((end, delivered));
            }
        }
    }

    /// Whether something happened that must be in the log and is in no round.
    pub(crate) fn owes_a_round(&self) -> bool {
        let owed = |queue: &Queue| {
            queue.delivered_stored > queue.told() || queue.gone.values().any(|gone| gone.logged.is_none())
        };
        !self.appended.is_empty() || self.queues.values().any(owed)
    }

    /// Everything below is durable: what is settled there cannot come back.
    pub(crate) fn synced(&mut self, synced: Lsn) {
        for queue in self.queues.values_mut() {
            queue.gone.retain(|_, gone| gone.logged.is_none_or(|end| end > synced));
        }
    }

    /// Settled messages of a queue, or of all, whose settling is not durable yet.
    pub(crate) fn unsynced_settles(&self, only: Option<u64>) -> Vec<(u64, u64)> {
        let queues = self.queues.iter().filter(|(queue, _)| only.is_none_or(|only| only == **queue));
        queues.flat_map(|(queue, model)| model.gone.keys().map(|number| (*queue, *number))).collect()
    }

    /// Whether the settling of a message is durable.
    pub(crate) fn is_settled_for_good(&self, queue: u64, number: u64) -> bool {
        self.queues.get(&queue).is_none_or(|queue| !queue.gone.contains_key(&number))
    }

    /// A publisher hears that a message is safe, when all below `synced` is: wherever it is stored, it must be.
    pub(crate) fn confirm(&mut self, number: u64, synced: Lsn) {
        for (id, queue) in &mut self.queues {
            let Some(entry) = queue.find_mut(number).filter(|entry| entry.stored) else { continue };
            let safe = entry.logged.is_some_and(|end| end <= synced);
            assert!(safe, "{number} was confirmed, and its record in queue {id} is not durable");
            entry.confirmed = true;
        }
    }

    /// A broker has crashed and this is what it found; all below `survives` must have survived. What was found is what
    /// there is from now on.
    pub(crate) fn recover(&mut self, mut found: BTreeMap<u64, Found>, survives: Lsn) -> Wrong {
        let mut wrong = Wrong::default();
        self.appended.clear();
        for (id, queue) in &mut self.queues {
            queue.recover(found.remove(id).unwrap_or_default(), survives, &mut wrong);
        }
        wrong
    }

    /// Stored messages that somebody was told are safe, and nobody has settled.
    pub(crate) fn confirmed(&self) -> usize {
        let all = self.queues.values().flat_map(|queue| queue.ready.values().chain(queue.held.values()));
        all.filter(|entry| entry.confirmed).count()
    }
}

impl Queue {
    fn settled(&mut self, number: u64, entry: Entry) {
        if entry.stored {
            self.gone.insert(number, Gone { entry, ..Gone::default() });
        }
    }

    /// What was settled and delivered so far is in the log's buffer now.
    fn appended(&mut self) {
        self.gone.values_mut().for_each(|gone| gone.appended = true);
        self.delivered_appended = self.delivered_stored;
    }

    /// Up to which message the log was told of deliveries.
    fn told(&self) -> u64 {
        self.delivered_logged.last().map_or(0, |(_, number)| *number)
    }

    fn find_mut(&mut self, number: u64) -> Option<&mut Entry> {
        let gone = self.gone.get_mut(&number).map(|gone| &mut gone.entry);
        self.ready.get_mut(&number).or(self.held.get_mut(&number)).or(gone)
    }

    fn entry_mut(&mut self, number: u64) -> &mut Entry {
        self.find_mut(number).expect("what was published is somewhere until its settling is durable")
    }

    fn recover(&mut self, found: Found, survives: Lsn, wrong: &mut Wrong) {
        let mut possible = std::mem::take(&mut self.ready);
        possible.append(&mut self.held);
        possible.retain(|_, entry| entry.stored);
        let safe = |entry: &Entry| entry.confirmed || entry.logged.is_some_and(|end| end <= survives);
        let must: BTreeSet<u64> =
            possible.iter().filter(|(_, entry)| safe(entry)).map(|(number, _)| *number).collect();
        for (number, gone) in std::mem::take(&mut self.gone) {
            if gone.logged.is_none_or(|end| end > survives) {
                possible.insert(number, gone.entry);
            }
        }
        let known =
            self.delivered_logged.iter().filter(|(end, _)| *end <= survives).map(|(_, number)| *number);
        let known = known.max().unwrap_or(0);
        let mut last = 0;
        let mut flagged_last = 0;
        for (message, flagged) in found {
            let Some((number, entry)) = number_of(&message).and_then(|number| possible.remove_entry(&number))
            else {
                wrong.unexpected += 1;
                continue;
            };
            wrong.disordered += u64::from(number <= last);
            last = number;
            let unflagged = entry.delivered && number <= known && !flagged;
            let too_high = flagged && number > self.delivered_stored;
            wrong.misflagged += u64::from(unflagged || too_high);
            if flagged {
                flagged_last = number;
            }
            // A purge that was not durable yet can put a message back behind younger ones that were delivered.
            let delivered = entry.delivered || number <= self.delivered;
            self.ready.insert(number, Entry { flagged, delivered, logged: Some(Lsn::ZERO), ..entry });
        }
        wrong.lost += must.iter().filter(|number| !self.ready.contains_key(number)).count() as u64;
        // The log knows at least this much now, and what it did not know is not told again.
        let known = known.max(flagged_last);
        self.delivered_logged = vec![(Lsn::ZERO, known)];
        self.delivered_stored = known;
        self.delivered_appended = known;
    }
}
