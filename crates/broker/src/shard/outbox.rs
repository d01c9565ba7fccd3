//! What goes to connections: gathered per connection, and held back until the log has committed what it rests on.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;
use slab::Slab;

use super::{Delivery, Effect};
use crate::id::{ConnectionId, QueueId};
use crate::message::Messages;
use crate::record::Position;

/// Bytes of deliveries that may be on their way to a connection and not yet written to its socket. A client that does
/// not read holds up itself and nobody else.
pub(super) const UNWRITTEN_MAX: usize = 1 << 20;

/// What a delivery counts beside its message, bytes.
const DELIVERY_OVERHEAD: usize = 64;

/// About how many bytes messages will take on the wire: what to report as written.
pub fn weight(messages: &Messages) -> usize {
    messages.size() + messages.count() as usize * DELIVERY_OVERHEAD
}

impl Delivery {
    /// See [`weight`].
    pub fn weight(&self) -> usize {
        weight(&self.messages)
    }
}

/// What a shard knows of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    id: ConnectionId,
    effects: Vec<Effect>,
    unwritten: usize,
    /// Queues where it consumes or holds messages.
    pub(super) queues: BTreeSet<QueueId>,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    connections: Slab<Connection>,
    places: FxHashMap<ConnectionId, usize>,
    /// Places of connections that have effects.
    ready: VecDeque<usize>,
    /// Effects that wait for the log, by position.
    held: VecDeque<(Position, ConnectionId, Effect)>,
}

impl Outbox {
    /// The connection's place; made when it is new.
    pub(super) fn place(&mut self, id: ConnectionId) -> usize {
        *self.places.entry(id).or_insert_with(|| {
            self.connections.insert(Connection {
                id,
                effects: Vec::new(),
                unwritten: 0,
                queues: BTreeSet::new(),
            })
        })
    }

    pub(super) fn find(&self, id: ConnectionId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Connection> {
        self.connections.get_mut(place)
    }

    /// The connection has ended: what was meant for it is dropped.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(place) = self.places.remove(&id) {
            self.connections.remove(place);
            self.ready.retain(|p| *p != place);
        }
    }

    pub(super) fn is_writable(&self, place: usize) -> bool {
        self.connections.get(place).is_some_and(|connection| connection.unwritten < UNWRITTEN_MAX)
    }

    /// Counts bytes as written; true when the connection had been full and has room again.
    pub(super) fn written(&mut self, place: usize, bytes: usize) -> bool {
        let Some(connection) = self.connections.get_mut(place) else {
            return false;
        };
        let was_full = connection.unwritten >= UNWRITTEN_MAX;
        connection.unwritten = connection.unwritten.saturating_sub(bytes);
        was_full && connection.unwritten < UNWRITTEN_MAX
    }

    pub(super) fn push(&mut self, id: ConnectionId, effect: Effect) {
        let place = self.place(id);
        self.push_at(place, effect);
    }

    pub(super) fn push_at(&mut self, place: usize, effect: Effect) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        match &effect {
            Effect::Deliver(delivery) => connection.unwritten += delivery.weight(),
            Effect::Forward(forward) => connection.unwritten += weight(&forward.messages),
            _ => {}
        }
        if connection.effects.is_empty() {
            self.ready.push_back(place);
        }
        connection.effects.push(effect);
    }

    /// Keeps an effect until everything up to and including the record at `position` is committed.
    pub(super) fn hold(&mut self, position: Position, id: ConnectionId, effect: Effect) {
        debug_assert!(
            self.held.back().is_none_or(|(last, _, _)| *last <= position),
            "held in the order of the log"
        );
        // Known from now on, so that it is found when the log has committed.
        self.place(id);
        self.held.push_back((position, id, effect));
    }

    /// The last record that a held effect rests on.
    pub(super) fn awaited(&self) -> Option<Position> {
        self.held.back().map(|(position, _, _)| *position)
    }

    /// Lets go of what rests on records below `committed`. What was for a connection that has ended is dropped.
    pub(super) fn release(&mut self, committed: Position) {
        while let Some((_, id, effect)) = self.held.pop_front_if(|(position, _, _)| *position < committed) {
            if let Some(place) = self.find(id) {
                self.push_at(place, effect);
            }
        }
    }

    pub(super) fn poll(&mut self) -> Option<(ConnectionId, Vec<Effect>)> {
        let place = self.ready.pop_front()?;
        let connection = &mut self.connections[place];
        Some((connection.id, std::mem::take(&mut connection.effects)))
    }

    pub(super) fn check(&self) {
        assert_eq!(self.places.len(), self.connections.len(), "one place per connection");
        for (id, place) in &self.places {
            assert_eq!(self.connections[*place].id, *id, "a place holds its connection");
            let listed = self.ready.iter().filter(|p| *p == place).count();
            let expected = usize::from(!self.connections[*place].effects.is_empty());
            assert_eq!(listed, expected, "a connection with effects is listed once");
        }
    }
}
