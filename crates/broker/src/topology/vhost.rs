//! A virtual host: a name space of exchanges, queues and bindings.

use std::sync::Arc;

use imbl::OrdMap;

use super::binding::{Binding, Bindings, Destination};
use super::policies::Policies;
use super::settings::Said;
use super::{Exchange, ExchangeKind, Metadata, Queue, Settings, delay, history};
use crate::error::{Error, Kind};
use crate::id::QueueId;
use crate::limits::VhostLimits;
use crate::policy::{Policy, Tier};

/// Everything in one virtual host.
#[derive(Clone, Debug)]
pub struct Vhost {
    name: Arc<str>,
    metadata: Arc<Metadata>,
    limits: VhostLimits,
    exchanges: OrdMap<Arc<str>, Arc<Exchange>>,
    queues: OrdMap<Arc<str>, Arc<Queue>>,
    /// Both ends of each binding are in the two maps above.
    bindings: Bindings,
    policies: Policies,
    /// What arguments and policies come to, for the queues where that is not the default.
    settings: OrdMap<QueueId, Arc<Settings>>,
    /// Alternates that exchanges have by policy.
    alternates: OrdMap<Arc<str>, Arc<str>>,
}

impl Vhost {
    /// A virtual host with the predeclared exchanges.
    pub(super) fn new(name: Arc<str>) -> Vhost {
        let exchanges =
            Exchange::predeclared().map(|exchange| (Arc::clone(&exchange.name), Arc::new(exchange)));
        Vhost {
            name,
            metadata: Arc::default(),
            limits: VhostLimits::default(),
            exchanges: exchanges.collect(),
            queues: OrdMap::new(),
            bindings: Bindings::default(),
            policies: Policies::default(),
            settings: OrdMap::new(),
            alternates: OrdMap::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What is written about it.
    pub fn metadata(&self) -> &Arc<Metadata> {
        &self.metadata
    }

    /// What it may have.
    pub fn limits(&self) -> VhostLimits {
        self.limits
    }

    /// How many queues it has.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
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

    /// How many bindings end at a queue or an exchange.
    pub(crate) fn count_bindings_to(&self, destination: &Destination) -> usize {
        self.bindings.count_to(destination)
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

    /// All policies of one tier, those that win first.
    pub fn policies(&self, tier: Tier) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter(tier)
    }

    /// The policy called `name`.
    pub fn policy(&self, tier: Tier, name: &str) -> Option<&Arc<Policy>> {
        self.policies(tier).find(|policy| &*policy.name == name)
    }

    /// The policy that counts for a queue.
    pub fn policy_for_queue(&self, tier: Tier, queue: &Queue) -> Option<&Arc<Policy>> {
        self.policies.for_queue(tier, &queue.name, queue.kind())
    }

    /// The policy that counts for an exchange.
    pub fn policy_for_exchange(&self, exchange: &Exchange) -> Option<&Arc<Policy>> {
        self.policies.for_exchange(&exchange.name)
    }

    /// What the arguments of a queue in here and the policies for it come to. This is looked up, not worked out.
    pub fn settings(&self, queue: &Queue) -> Settings {
        self.settings.get(&queue.id).map_or_else(Settings::default, |settings| Settings::clone(settings))
    }

    /// Where messages go that an exchange has no binding for, by its argument or else by policy. It need not exist.
    pub fn alternate<'a>(&'a self, exchange: &'a Exchange) -> Option<&'a str> {
        exchange.alternate().or_else(|| self.alternates.get(&exchange.name).map(|name| &**name))
    }

    /// The queue where messages of an exchange wait for their time, if it is of that type.
    pub fn delays(&self, exchange: &str) -> Option<&Arc<Queue>> {
        let exchange = self.exchange(exchange)?;
        let delays = exchange.kind == ExchangeKind::Delayed;
        delays.then(|| self.queue(&delay::queue_name(&exchange.name)))?
    }

    /// The queue that keeps the last messages of an exchange, if it is of that type.
    pub fn history(&self, exchange: &str) -> Option<&Arc<Queue>> {
        let exchange = self.exchange(exchange)?;
        let remembers = exchange.kind == ExchangeKind::RecentHistory;
        remembers.then(|| self.queue(&history::queue_name(&exchange.name)))?
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

    pub(super) fn set_metadata(&mut self, metadata: &Arc<Metadata>) -> bool {
        let news = self.metadata != *metadata;
        self.metadata = Arc::clone(metadata);
        news
    }

    pub(super) fn set_limits(&mut self, limits: VhostLimits) -> bool {
        let news = self.limits != limits;
        self.limits = limits;
        news
    }

    pub(super) fn add_exchange(&mut self, exchange: Arc<Exchange>) -> bool {
        if self.exchanges.contains_key(&exchange.name) {
            return false;
        }
        if let Some(alternate) = self.policies.alternate(&exchange.name) {
            self.alternates.insert(Arc::clone(&exchange.name), Arc::from(alternate));
        }
        self.exchanges.insert(Arc::clone(&exchange.name), exchange);
        true
    }

    pub(super) fn remove_exchange(&mut self, name: &str) -> bool {
        let Some(exchange) = self.exchanges.remove(name) else {
            return false;
        };
        self.alternates.remove(name);
        self.bindings.remove_from(name);
        self.bindings.remove_to(&Destination::Exchange(Arc::clone(&exchange.name)));
        true
    }

    pub(super) fn add_queue(&mut self, queue: Arc<Queue>) -> bool {
        if self.queues.contains_key(&queue.name) {
            return false;
        }
        self.settle(&queue);
        self.queues.insert(Arc::clone(&queue.name), queue);
        true
    }

    pub(super) fn remove_queue(&mut self, name: &str) -> bool {
        let Some(queue) = self.queues.remove(name) else {
            return false;
        };
        self.settings.remove(&queue.id);
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
        self.bindings.insert(source.routing_kind(), binding, queue)
    }

    pub(super) fn unbind(&mut self, binding: &Binding) -> bool {
        self.bindings.remove(binding)
    }

    /// Adds a policy in place of the one of its name; returns the queues whose settings are others now.
    pub(super) fn put_policy(&mut self, tier: Tier, policy: &Arc<Policy>) -> Vec<Arc<Queue>> {
        self.policies.put(tier, policy);
        self.policies_changed()
    }

    /// Removes a policy, if there is one; returns the queues whose settings are others now.
    pub(super) fn remove_policy(&mut self, tier: Tier, name: &str) -> Option<Vec<Arc<Queue>>> {
        self.policies.remove(tier, name).then(|| self.policies_changed())
    }

    fn policies_changed(&mut self) -> Vec<Arc<Queue>> {
        self.alternates = self.work_out_alternates();
        let queues: Vec<_> = self.queues().cloned().collect();
        queues.into_iter().filter(|queue| self.settle(queue)).collect()
    }

    fn work_out(&self, queue: &Queue) -> Settings {
        let (policy, operator) = self.policies.definitions(&queue.name, queue.kind());
        Settings::new(Said { queue, policy, operator })
    }

    fn work_out_alternates(&self) -> OrdMap<Arc<str>, Arc<str>> {
        let with_alternate = |name: &Arc<str>| {
            let alternate = self.policies.alternate(name)?;
            Some((Arc::clone(name), Arc::from(alternate)))
        };
        self.exchanges.keys().filter_map(with_alternate).collect()
    }

    /// Works out the settings of a queue; whether they are others than before.
    fn settle(&mut self, queue: &Queue) -> bool {
        let settings = self.work_out(queue);
        if self.settings(queue) == settings {
            return false;
        }
        if settings == Settings::default() {
            self.settings.remove(&queue.id);
        } else {
            self.settings.insert(queue.id, Arc::new(settings));
        }
        true
    }

    /// Panics if an invariant is broken.
    pub(super) fn check(&self) {
        self.policies.check();
        assert_eq!(self.alternates, self.work_out_alternates(), "alternates are those of the policies");
        let default = Settings::default();
        let settings = self.queues().map(|queue| (queue.id, self.work_out(queue)));
        let settings = settings.filter(|(_, settings)| *settings != default);
        let settings: OrdMap<_, _> = settings.map(|(id, settings)| (id, Arc::new(settings))).collect();
        assert_eq!(self.settings, settings, "settings are what arguments and policies come to");
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
        let kind = |name: &str| {
            self.exchange(name).expect("a binding starts at an exchange that exists").routing_kind()
        };
        let queue_id = |name: &str| self.queue(name).expect("a binding ends at a queue that exists").id;
        self.bindings.check(kind, queue_id);
    }
}
