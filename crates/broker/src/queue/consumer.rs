//! Who takes messages from a queue, and whose turn it is.

use std::collections::VecDeque;

use slab::Slab;

use crate::window::Window;

/// What a session says of a consumer that it starts.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The session's own number for it: unique on its connection, never reused there.
    pub consumer: u32,
    /// The channel on which it was started.
    pub channel: u16,
    /// Deliveries need no ack: a message is settled when it is handed out.
    pub no_ack: bool,
    /// Nobody else may consume from the queue.
    pub exclusive: bool,
    /// Those with a higher number are served first while they can take more.
    pub priority: i32,
    /// How many messages it may hold unacked; 0: any number.
    pub prefetch: u32,
    /// How long it may hold a message, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The limit that all consumers of its channel share.
    pub window: Window,
}

/// A running consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// Its connection's place in the shard.
    pub(crate) connection: usize,
    pub(crate) subscription: Subscription,
    /// Messages it holds unacked.
    pub(crate) in_flight: u32,
}

impl Consumer {
    /// How many messages more it may hold; without acks it holds none.
    fn credit(&self) -> u32 {
        match self.subscription.prefetch {
            0 => u32::MAX - self.in_flight,
            _ if self.subscription.no_ack => u32::MAX,
            prefetch => prefetch.saturating_sub(self.in_flight),
        }
    }
}

/// Who gets the next messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) place: Place,
    /// At most so many: at least one.
    pub(crate) count: u32,
}

/// A consumer's place in its queue. Places are reused, so whoever keeps one also keeps the consumer's number.
pub(crate) type Place = usize;

/// Who gets messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Sharing {
    /// All.
    #[default]
    All,
    /// One gets everything, the others wait for its end.
    One,
    /// So it is, but one with a higher priority takes over when the one before holds nothing any more.
    OneByPriority,
}

/// The consumers of one queue: by priority, and in turn within a priority.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    all: Slab<Consumer>,
    /// Highest priority first.
    turns: Vec<(i32, VecDeque<Place>)>,
    sharing: Sharing,
    /// Which, if it is one.
    active: Option<Place>,
}

impl Consumers {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, &Consumer)> {
        self.all.iter()
    }

    pub(crate) fn share(&mut self, sharing: Sharing) {
        if self.sharing != sharing {
            self.sharing = sharing;
            self.active = None;
        }
        self.activate();
    }

    /// Whether a consumer waits for another one.
    fn waits(&self, place: Place) -> bool {
        self.sharing != Sharing::All && self.only_one() != Some(place)
    }

    /// Who gets everything now; nobody, while the one before a higher priority still holds messages.
    fn only_one(&self) -> Option<Place> {
        let active = self.active?;
        let consumer = self.all.get(active)?;
        let (highest, turn) = self.turns.first()?;
        if self.sharing != Sharing::OneByPriority || *highest <= consumer.subscription.priority {
            return Some(active);
        }
        turn.front().copied().filter(|_| consumer.in_flight == 0)
    }

    /// The first one with the highest priority is active until it ends.
    fn activate(&mut self) {
        if self.sharing != Sharing::All && self.active.is_none() {
            self.active = self.turns.first().and_then(|(_, turn)| turn.front().copied());
        }
    }

    pub(crate) fn has_exclusive(&self) -> bool {
        self.all.iter().any(|(_, consumer)| consumer.subscription.exclusive)
    }

    pub(crate) fn add(&mut self, consumer: Consumer) {
        let priority = consumer.subscription.priority;
        let place = self.all.insert(consumer);
        match self.turns.binary_search_by(|(p, _)| priority.cmp(p)) {
            Ok(at) => self.turns[at].1.push_back(place),
            Err(at) => self.turns.insert(at, (priority, VecDeque::from([place]))),
        }
        self.activate();
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<Consumer> {
        let consumer = self.all.try_remove(place)?;
        for (_, turn) in &mut self.turns {
            turn.retain(|p| *p != place);
        }
        self.turns.retain(|(_, turn)| !turn.is_empty());
        if self.active == Some(place) {
            self.active = None;
            self.activate();
        }
        Some(consumer)
    }

    pub(crate) fn find(&self, connection: usize, number: u32) -> Option<Place> {
        let same = |c: &Consumer| c.connection == connection && c.subscription.consumer == number;
        self.all.iter().find(|(_, consumer)| same(consumer)).map(|(place, _)| place)
    }

    /// The consumer at `place`, if it is still the one with that number.
    pub(crate) fn get_mut(&mut self, place: Place, connection: usize, number: u32) -> Option<&mut Consumer> {
        let consumer = self.all.get_mut(place)?;
        (consumer.connection == connection && consumer.subscription.consumer == number).then_some(consumer)
    }

    /// Whether somebody could take a message now.
    pub(crate) fn anyone_free(&self, writable: impl Fn(usize) -> bool) -> bool {
        let has_room = |c: &Consumer| c.subscription.no_ack || !c.subscription.window.is_full();
        let mut all = self.all.iter();
        all.any(|(place, c)| !self.waits(place) && c.credit() > 0 && writable(c.connection) && has_room(c))
    }

    /// Picks who gets the next of `ready` messages, and counts them as held unless no ack is needed. One message at a
    /// time, so that consumers take turns; one that is alone gets as many as it may hold.
    /// `writable` says whether a connection can be given more. The one picked goes to the end of its turn.
    pub(crate) fn pick(&mut self, ready: u32, writable: impl Fn(usize) -> bool) -> Option<Turn> {
        if self.sharing != Sharing::All {
            self.active = Some(self.only_one()?);
        }
        let Consumers { all, turns, sharing, active } = self;
        let single = *sharing != Sharing::All;
        let wanted = if all.len() == 1 || single { ready } else { 1 };
        for (_, turn) in turns {
            for _ in 0..turn.len() {
                let place = turn[0];
                turn.rotate_left(1);
                if single && *active != Some(place) {
                    continue;
                }
                let consumer = &mut all[place];
                let credit = consumer.credit().min(wanted);
                if credit == 0 || !writable(consumer.connection) {
                    continue;
                }
                if consumer.subscription.no_ack {
                    return Some(Turn { place, count: credit });
                }
                let count = consumer.subscription.window.take(credit);
                if count > 0 {
                    consumer.in_flight += count;
                    return Some(Turn { place, count });
                }
            }
        }
        None
    }

    /// The consumer at `place`, if it is still the one with that number.
    pub(crate) fn find_at(&self, place: Place, connection: usize, number: u32) -> Option<&Consumer> {
        let consumer = self.all.get(place)?;
        (consumer.connection == connection && consumer.subscription.consumer == number).then_some(consumer)
    }

    /// The consumer at `place`.
    pub(crate) fn get(&self, place: Place) -> &Consumer {
        &self.all[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_active_stays_so_when_other_settings_change() {
        let mut consumers = Consumers::default();
        consumers.share(Sharing::One);
        for number in 1..4 {
            let subscription = Subscription {
                consumer: number,
                channel: 1,
                no_ack: false,
                exclusive: false,
                priority: 0,
                prefetch: 0,
                timeout_ms: None,
                window: Window::default(),
            };
            consumers.add(Consumer { connection: 0, subscription, in_flight: 0 });
        }
        let mut pick = |sharing| {
            consumers.share(sharing);
            consumers.pick(1, |_| true).map(|turn| turn.place)
        };
        let first = pick(Sharing::One);
        assert!(first.is_some());
        assert_eq!([pick(Sharing::One), pick(Sharing::One)], [first; 2]);
    }
}
