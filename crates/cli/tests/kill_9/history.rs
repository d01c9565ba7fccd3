//! What publishers and consumers saw, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

/// Each with one consumer, so that what it sees is in the order of the queue.
pub(crate) const QUEUES: [&str; 3] = ["kill-a", "kill-b", "kill-c"];

/// Bound to all queues.
pub(crate) const FANOUT: &str = "kill-fanout";

/// Messages of a queue that its consumer keeps unacked: fewer than its prefetch, or it would get no more.
const KEPT_MAX: u32 = 40;

/// A message, by its publisher and the publisher's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) publisher: u32,
    pub(crate) sequence: u64,
}

impl Id {
    /// Every tenth message goes to all queues, the others to one.
    pub(crate) fn goes_to(self, queue: usize) -> bool {
        self.sequence.is_multiple_of(10) || self.queue() == queue
    }

    /// Exchange and routing key.
    pub(crate) fn route(self) -> (&'static str, &'static str) {
        if self.sequence.is_multiple_of(10) { (FANOUT, "") } else { ("", QUEUES[self.queue()]) }
    }

    fn queue(self) -> usize {
        usize::try_from(self.sequence % 3).expect("less than three")
    }

    /// Publisher, sequence number, length, checksum, and some bytes that follow from them.
    pub(crate) fn body(self) -> Vec<u8> {
        let mut body = [&self.publisher.to_be_bytes()[..], &self.sequence.to_be_bytes()].concat();
        let len = usize::try_from(mix(self.sequence) % 1500).expect("a small number");
        let mut filling = Vec::with_capacity(len + 8);
        while filling.len() < len {
            filling.extend_from_slice(&mix(filling.len() as u64 ^ self.sequence << 32).to_be_bytes());
        }
        body.extend((filling.len() as u64).to_be_bytes());
        body.extend(
            filling.iter().fold(mix(self.sequence), |sum, byte| mix(sum ^ u64::from(*byte))).to_be_bytes(),
        );
        body.extend(filling);
        body
    }

    /// The id of a body, if not a bit of it is another than it must be.
    pub(crate) fn of(body: &[u8]) -> Option<Id> {
        let (publisher, rest) = body.split_first_chunk()?;
        let sequence = rest.first_chunk()?;
        let id = Id { publisher: u32::from_be_bytes(*publisher), sequence: u64::from_be_bytes(*sequence) };
        (id.body() == body).then_some(id)
    }
}

/// Stirs a number (splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[derive(Clone, Copy, Debug)]
struct Delivered {
    event: u64,
    round: usize,
    queue: usize,
    id: Id,
    redelivered: bool,
}

/// Everything that happened, in the order in which it was seen.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) round: usize,
    /// Everything is taken out and acked now.
    pub(crate) draining: bool,
    /// How many messages a consumer keeps, by round and queue.
    kept: BTreeMap<(usize, usize), u32>,
    /// How many things happened so far.
    events: u64,
    /// When each message was attempted.
    attempted: BTreeMap<Id, u64>,
    next: BTreeMap<u32, u64>,
    confirmed: BTreeSet<Id>,
    /// By round and queue: the latest attempt that was confirmed in that round. Its round of the shard came after every
    /// delivery that was seen before the attempt, so what the log knew of those was written.
    vouched: BTreeMap<(usize, usize), u64>,
    deliveries: Vec<Delivered>,
    /// Bodies or properties that are not what was published.
    pub(crate) corrupt: u64,
    /// In which round a message of a queue was last acked.
    acked: BTreeMap<(usize, Id), usize>,
    /// By round, queue and publisher: the latest message that was delivered.
    passed: BTreeMap<(usize, usize, u32), u64>,
    /// Second deliveries of what had been acked.
    acked_again: u64,
    /// The same, though a life of the broker in between went past the message: it knew that the message was gone.
    resurrected: u64,
}

/// The counts to print, and to check.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "some are printed only")]
pub(crate) struct Counts {
    pub(crate) attempted: u64,
    pub(crate) confirmed: u64,
    pub(crate) unknown: u64,
    pub(crate) delivered: u64,
    /// Confirmed, and missing in a queue.
    pub(crate) lost: u64,
    pub(crate) unexpected: u64,
    pub(crate) corrupt: u64,
    /// First deliveries that came after a later message of the same publisher.
    pub(crate) disordered: u64,
    pub(crate) duplicated: u64,
    pub(crate) redelivered: u64,
    pub(crate) redelivered_after_ack: u64,
    pub(crate) resurrected: u64,
    /// Second deliveries without the flag, where the log may not have known of the first.
    pub(crate) unflagged_duplicates: u64,
    /// The same, where a later confirm proves that it did.
    pub(crate) unflagged_for_no_reason: u64,
    /// With the flag, behind one without it: the flag marks all up to a place.
    pub(crate) flagged_late: u64,
}

impl History {
    /// The next message of a publisher, who will try to publish it now.
    pub(crate) fn attempt(&mut self, publisher: u32) -> Id {
        let next = self.next.entry(publisher).or_default();
        *next += 1;
        let id = Id { publisher, sequence: *next };
        self.events += 1;
        self.attempted.insert(id, self.events);
        id
    }

    pub(crate) fn confirm(&mut self, id: Id) {
        assert!(self.confirmed.insert(id), "{id:?} was confirmed twice");
        let attempted = self.attempted[&id];
        for queue in (0..QUEUES.len()).filter(|queue| id.goes_to(*queue)) {
            let vouched = self.vouched.entry((self.round, queue)).or_default();
            *vouched = attempted.max(*vouched);
        }
    }

    /// Messages that were attempted and not confirmed.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.next.values().sum::<u64>() - self.confirmed.len() as u64
    }

    pub(crate) fn confirmed(&self) -> usize {
        self.confirmed.len()
    }

    pub(crate) fn deliver(&mut self, queue: usize, id: Id, redelivered: bool) {
        let round = self.round;
        self.events += 1;
        self.deliveries.push(Delivered { event: self.events, round, queue, id, redelivered });
        if let Some(acked) = self.acked.get(&(queue, id)) {
            let passed = |between| self.passed.get(&(between, queue, id.publisher)) > Some(&id.sequence);
            self.acked_again += 1;
            self.resurrected += u64::from(*acked == round || (acked + 1..=round).any(passed));
        }
        let passed = self.passed.entry((round, queue, id.publisher)).or_default();
        *passed = id.sequence.max(*passed);
    }

    /// Whether the consumer acks a message, which it then does at once. Some it keeps for as long as the broker lives: they
    /// come again, and the log must know that they do.
    pub(crate) fn acks(&mut self, queue: usize, id: Id) -> bool {
        let kept = self.kept.entry((self.round, queue)).or_default();
        if !self.draining && *kept < KEPT_MAX && id.sequence % 8 == 3 {
            *kept += 1;
            return false;
        }
        self.acked.insert((queue, id), self.round);
        true
    }

    /// Checks everything, after all queues were drained.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts {
            attempted: self.next.values().sum(),
            confirmed: self.confirmed.len() as u64,
            unknown: self.unconfirmed(),
            delivered: self.deliveries.len() as u64,
            corrupt: self.corrupt,
            redelivered_after_ack: self.acked_again,
            resurrected: self.resurrected,
            ..Counts::default()
        };
        let mut seen: BTreeMap<(usize, Id), Delivered> = BTreeMap::new();
        let mut highest: BTreeMap<(usize, u32), u64> = BTreeMap::new();
        let mut unflagged: BTreeSet<(usize, usize)> = BTreeSet::new();
        for delivered in &self.deliveries {
            let Delivered { round, queue, id, redelivered, .. } = *delivered;
            counts.unexpected += u64::from(!self.attempted.contains_key(&id) || !id.goes_to(queue));
            counts.redelivered += u64::from(redelivered);
            counts.flagged_late += u64::from(redelivered && unflagged.contains(&(round, queue)));
            if !redelivered {
                unflagged.insert((round, queue));
            }
            let Some(before) = seen.insert((queue, id), *delivered) else {
                let highest = highest.entry((queue, id.publisher)).or_default();
                counts.disordered += u64::from(id.sequence <= *highest);
                *highest = id.sequence.max(*highest);
                continue;
            };
            counts.duplicated += 1;
            if !redelivered {
                let known = self.vouched.get(&(before.round, queue)) > Some(&before.event);
                counts.unflagged_duplicates += u64::from(!known);
                counts.unflagged_for_no_reason += u64::from(known);
            }
        }
        let everywhere = self.confirmed.iter().flat_map(|id| (0..QUEUES.len()).map(|queue| (queue, *id)));
        let missing =
            everywhere.filter(|(queue, id)| id.goes_to(*queue) && !seen.contains_key(&(*queue, *id)));
        counts.lost = missing.count() as u64;
        counts
    }
}
