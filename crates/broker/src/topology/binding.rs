//! Bindings, and the indices that make routing quick.

use std::cmp::Ordering;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::ExchangeKind;
use super::trie::Trie;
use crate::arguments::Arguments;
use crate::id::QueueId;

/// Where a binding ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// The queue with this name.
    Queue(Arc<str>),
    /// The exchange with this name.
    Exchange(Arc<str>),
}

/// What an exchange does with messages whose key or headers match. All four fields together are its identity.
///
/// The order of the fields is the order of the index: bindings of one routing key stand together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Binding {
    /// Name of the exchange where it starts.
    pub source: Arc<str>,
    /// Binding key; a pattern if the source is a topic exchange.
    pub routing_key: Arc<str>,
    /// Where it ends.
    pub destination: Destination,
    /// What a headers exchange matches.
    pub arguments: Arguments,
}

/// All bindings of a virtual host.
///
/// Invariant: `sources` and `destinations` hold the same bindings; no source is empty, no destination is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings {
    sources: OrdMap<Arc<str>, Source>,
    destinations: OrdMap<Destination, OrdSet<Arc<Binding>>>,
}

/// The bindings of one exchange.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    /// With the id of the queue at the other end; `None` if there is an exchange.
    bindings: OrdMap<Arc<Binding>, Option<QueueId>>,
    /// The distinct binding keys, if the exchange is a topic exchange.
    patterns: Trie,
    /// The exchanges at the other ends, with the number of bindings to each.
    onward: OrdMap<Arc<str>, usize>,
}

impl Bindings {
    /// Adds a binding; false if it was there. `queue` is the id of its destination unless that is an exchange.
    pub(super) fn insert(
        &mut self,
        kind: ExchangeKind,
        binding: Arc<Binding>,
        queue: Option<QueueId>,
    ) -> bool {
        let source = self.sources.entry(Arc::clone(&binding.source)).or_default();
        if source.bindings.contains_key(&binding) {
            return false;
        }
        if kind == ExchangeKind::Topic {
            source.patterns.insert(&binding.routing_key);
        }
        if let Destination::Exchange(name) = &binding.destination {
            *source.onward.entry(Arc::clone(name)).or_default() += 1;
        }
        source.bindings.insert(Arc::clone(&binding), queue);
        self.destinations.entry(binding.destination.clone()).or_default().insert(binding);
        true
    }

    /// Removes a binding; false if it was not there.
    pub(super) fn remove(&mut self, binding: &Binding) -> bool {
        if !self.contains(binding) {
            return false;
        }
        self.remove_at_source(binding);
        self.remove_at_destination(binding);
        true
    }

    /// Removes all bindings that start at `exchange`.
    pub(super) fn remove_from(&mut self, exchange: &str) {
        let Some(source) = self.sources.remove(exchange) else {
            return;
        };
        for binding in source.bindings.keys() {
            self.remove_at_destination(binding);
        }
    }

    /// Removes all bindings that end at `destination`.
    pub(super) fn remove_to(&mut self, destination: &Destination) {
        let Some(bindings) = self.destinations.remove(destination) else {
            return;
        };
        for binding in &bindings {
            self.remove_at_source(binding);
        }
    }

    fn remove_at_source(&mut self, binding: &Binding) {
        let Some(source) = self.sources.get_mut(&binding.source) else {
            return;
        };
        source.remove(binding);
        if source.bindings.is_empty() {
            self.sources.remove(&binding.source);
        }
    }

    fn remove_at_destination(&mut self, binding: &Binding) {
        let Some(bindings) = self.destinations.get_mut(&binding.destination) else {
            return;
        };
        bindings.remove(binding);
        if bindings.is_empty() {
            self.destinations.remove(&binding.destination);
        }
    }

    pub(super) fn contains(&self, binding: &Binding) -> bool {
        self.source(&binding.source).is_some_and(|source| source.bindings.contains_key(binding))
    }

    pub(super) fn source(&self, exchange: &str) -> Option<&Source> {
        self.sources.get(exchange)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.sources.values().flat_map(|source| source.bindings.keys())
    }

    pub(super) fn from<'a>(&'a self, exchange: &'a str) -> impl Iterator<Item = &'a Arc<Binding>> {
        self.source(exchange).into_iter().flat_map(|source| source.bindings.keys())
    }

    pub(super) fn to<'a>(&'a self, destination: &'a Destination) -> impl Iterator<Item = &'a Arc<Binding>> {
        self.destinations.get(destination).into_iter().flatten()
    }

    /// How many there are of these.
    pub(super) fn count_to(&self, destination: &Destination) -> usize {
        self.destinations.get(destination).map_or(0, OrdSet::len)
    }

    /// Checks the indices against each other and against what `queue_id` knows; panics if they differ.
    pub(super) fn check(&self, kind: impl Fn(&str) -> ExchangeKind, queue_id: impl Fn(&str) -> QueueId) {
        let by_source: OrdSet<Arc<Binding>> = self.iter().cloned().collect();
        let by_destination: OrdSet<Arc<Binding>> = self.destinations.values().flatten().cloned().collect();
        assert_eq!(by_source, by_destination, "both indices hold the same bindings");
        assert!(self.destinations.values().all(|bindings| !bindings.is_empty()), "no destination is empty");
        for (name, source) in &self.sources {
            assert!(!source.bindings.is_empty(), "no source is empty");
            source.check(name, kind(name), &queue_id);
        }
    }
}

impl Source {
    fn remove(&mut self, binding: &Binding) {
        self.bindings.remove(binding);
        if self.with_key(&binding.routing_key).next().is_none() {
            self.patterns.remove(&binding.routing_key);
        }
        if let Destination::Exchange(name) = &binding.destination {
            let count = self.onward.get_mut(name).expect("each binding to an exchange is counted");
            *count -= 1;
            if *count == 0 {
                self.onward.remove(name);
            }
        }
    }

    /// All bindings with their queues.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<Binding>, Option<QueueId>)> {
        self.bindings.iter().map(|(binding, queue)| (binding, *queue))
    }

    /// One binding with its queue: the one with this number, counted round and round.
    pub(super) fn nth(&self, number: u64) -> Option<(&Arc<Binding>, Option<QueueId>)> {
        let count = u64::try_from(self.bindings.len()).ok().filter(|count| *count > 0)?;
        self.all().nth(usize::try_from(number % count).ok()?)
    }

    /// The bindings whose key is `key`, with their queues.
    pub(super) fn with_key(&self, key: &str) -> impl Iterator<Item = (&Arc<Binding>, Option<QueueId>)> {
        let from_key = self.bindings.range(BeforeKey(key)..);
        from_key
            .take_while(move |(binding, _)| &*binding.routing_key == key)
            .map(|(binding, queue)| (binding, *queue))
    }

    /// The distinct binding keys of a topic exchange.
    pub(super) fn patterns(&self) -> &Trie {
        &self.patterns
    }

    /// The exchanges at the other ends.
    pub(super) fn onward(&self) -> impl Iterator<Item = &Arc<str>> {
        self.onward.keys()
    }

    fn check(&self, name: &str, kind: ExchangeKind, queue_id: impl Fn(&str) -> QueueId) {
        let mut onward = OrdMap::<Arc<str>, usize>::new();
        let mut patterns = OrdSet::new();
        for (binding, queue) in &self.bindings {
            assert_eq!(&*binding.source, name, "a binding stands at its source");
            if kind == ExchangeKind::Topic {
                patterns.insert(Arc::clone(&binding.routing_key));
            }
            match &binding.destination {
                Destination::Queue(name) => {
                    assert_eq!(*queue, Some(queue_id(name)), "a binding knows its queue");
                }
                Destination::Exchange(name) => *onward.entry(Arc::clone(name)).or_default() += 1,
            }
        }
        assert_eq!(self.onward, onward, "bindings to exchanges are counted");
        assert_eq!(self.patterns.to_set(), patterns, "the trie holds the binding keys");
    }
}

/// The place in the index just before the bindings with this key. No allocation is needed to look there.
struct BeforeKey<'a>(&'a str);

impl Equivalent<Arc<Binding>> for BeforeKey<'_> {
    fn equivalent(&self, _: &Arc<Binding>) -> bool {
        false
    }
}

impl Comparable<Arc<Binding>> for BeforeKey<'_> {
    fn compare(&self, binding: &Arc<Binding>) -> Ordering {
        self.0.cmp(&binding.routing_key).then(Ordering::Less)
    }
}
