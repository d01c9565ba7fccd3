//! A virtual host: a name space of exchanges, queues and bindings.

use std::sync::Arc;

use imbl::OrdMap;

use super::binding::{Binding, Bindings, Destination};
use super::{Exchange, Queue};
use crate::error::{Error, Kind};

/// Everything in one virtual host.
#[derive(Clone, Debug)]
pub struct Vhost {
    name: Arc<str>,
    exchanges: OrdMap<Arc<str>, Arc<Exchange>>,
    queues: OrdMap<Arc<str>, Arc<Queue>>,
    /// Both ends of each binding are in the two maps above.
    bindings: Bindings,
}

impl Vhost {
    /// A virtual host with the predeclared exchanges.
    pub(super) fn new(name: Arc<str>) -> Vhost {
        let exchanges =
            Exchange::predeclared().map(|exchange| (Arc::clone(&exchange.name), Arc::new(exchange)));
        Vhost { name, exchanges: exchanges.collect(), queues: OrdMap::new(), bindings: Bindings::default() }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The exchange called `name`.
    pub fn exchange(&self, name: &str) -> Option<&Arc<Exchange>> {
        self.exchanges.get(name)
    }

    /// The exchange called `name`, or the 404 that RabbitMQ answers.
    pub fn find_exchange(&self, name: &str) -> Result<&Arc<Exchange>, Error> {
        self.exchange(name).ok_or_else(|| self.not_found("exchange", name))
    }

    /// The queue called `name`.
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// The queue called `name`, or the 404 that RabbitMQ answers.
    pub fn find_queue(&self, name: &str) -> Result<&Arc<Queue>, Error> {
        self.queue(name).ok_or_else(|| self.not_found("queue", name))
    }

    fn not_found(&self, what: &str, name: &str) -> Error {
        Error::new(Kind::NotFound, format!("no {what} '{name}' in vhost '{}'", self.name))
    }

    /// All exchanges by name.
    pub fn exchanges(&self) -> impl Iterator<Item = &Arc<Exchange>> {
        self.exchanges.values()
    }

    /// All queues by name.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    /// All bindings, by source and routing key. The default exchange's are not among them: it routes by queue name.
    pub fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings.iter()
    }

    /// The bindings that start at an exchange.
    pub fn bindings_from<'a>(&'a self, exchange: &'a str) -> impl Iterator<Item = &'a Arc<Binding>> {
        self.bindings.from(exchange)
    }

    /// The bindings that end at a queue or an exchange.
    pub fn bindings_to<'a>(&'a self, destination: &'a Destination) -> impl Iterator<Item = &'a Arc<Binding>> {
        self.bindings.to(destination)
    }

    /// Whether this very binding exists.
    pub fn is_bound(&self, binding: &Binding) -> bool {
        self.bindings.contains(binding)
    }

    /// Whether both ends of a binding outlive the broker, and so the binding.
    pub(crate) fn is_durable_binding(&self, binding: &Binding) -> bool {
        self.exchange(&binding.source).is_some_and(|source| source.durable)
            && self.is_durable(&binding.destination)
    }

    pub(super) fn index(&self) -> &Bindings {
        &self.bindings
    }

    /// Whether the thing at this end of a binding exists and outlives the broker.
    fn is_durable(&self, end: &Destination) -> bool {
        match end {
            Destination::Queue(name) => self.queue(name).is_some_and(|queue| queue.durable),
            Destination::Exchange(name) => self.exchange(name).is_some_and(|exchange| exchange.durable),
        }
    }

    pub(super) fn add_exchange(&mut self, exchange: Arc<Exchange>) -> bool {
        if self.exchanges.contains_key(&exchange.name) {
            return false;
        }
        self.exchanges.insert(Arc::clone(&exchange.name), exchange);
        true
    }

    pub(super) fn remove_exchange(&mut self, name: &str) -> bool {
        let Some(exchange) = self.exchanges.remove(name) else {
            return false;
        };
        self.bindings.remove_from(name);
        self.bindings.remove_to(&Destination::Exchange(Arc::clone(&exchange.name)));
        true
    }

    pub(super) fn add_queue(&mut self, queue: Arc<Queue>) -> bool {
        if self.queues.contains_key(&queue.name) {
            return false;
        }
        self.queues.insert(Arc::clone(&queue.name), queue);
        true
    }

    pub(super) fn remove_queue(&mut self, name: &str) -> bool {
        let Some(queue) = self.queues.remove(name) else {
            return false;
        };
        self.bindings.remove_to(&Destination::Queue(Arc::clone(&queue.name)));
        true
    }

    /// Adds a binding unless it is there or one of its ends is not.
    pub(super) fn bind(&mut self, binding: Arc<Binding>) -> bool {
        let Some(source) = self.exchanges.get(&binding.source) else {
            return false;
        };
        let queue = match &binding.destination {
            Destination::Exchange(name) if !self.exchanges.contains_key(name) => return false,
            Destination::Exchange(_) => None,
            Destination::Queue(name) => match self.queues.get(name) {
                Some(queue) => Some(queue.id),
                None => return false,
            },
        };
        self.bindings.insert(source.kind, binding, queue)
    }

    pub(super) fn unbind(&mut self, binding: &Binding) -> bool {
        self.bindings.remove(binding)
    }

    /// Panics if an invariant is broken.
    pub(super) fn check(&self) {
        for exchange in Exchange::predeclared() {
            assert!(self.exchanges.contains_key(&exchange.name), "predeclared exchanges stay");
        }
        assert!(self.exchanges.iter().all(|(name, exchange)| *name == exchange.name));
        assert!(self.queues.iter().all(|(name, queue)| *name == queue.name && queue.vhost == self.name));
        for binding in self.bindings() {
            if let Destination::Exchange(name) = &binding.destination {
                assert!(self.exchanges.contains_key(name), "a binding ends at an exchange that exists");
            }
        }
        let kind =
            |name: &str| self.exchange(name).expect("a binding starts at an exchange that exists").kind;
        let queue_id = |name: &str| self.queue(name).expect("a binding ends at a queue that exists").id;
        self.bindings.check(kind, queue_id);
    }
}
