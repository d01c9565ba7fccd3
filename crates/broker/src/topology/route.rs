//! From an exchange and a routing key to queues.

use std::collections::BTreeSet;
use std::sync::Arc;

use amqp::properties::Properties;

use super::binding::Source;
use super::{Binding, Destination, Exchange, ExchangeKind, Topology, Vhost, delay, headers, history, pick};
use crate::error::Error;
use crate::id::QueueId;

/// What is written on a message, for exchanges to read.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'m> {
    /// The routing key, then those of its CC and BCC headers.
    pub routing_keys: &'m [&'m str],
    /// Its properties.
    pub properties: Properties<'m>,
    /// Any number, another one for each message.
    pub random: u64,
    /// It has waited for its time.
    pub due: bool,
}

impl Topology {
    /// The queues that a message reaches, in order and each once, in place of what is in `targets`.
    ///
    /// Publishing to an internal exchange is for the session to refuse.
    ///
    /// # Errors
    /// 530 without the virtual host, 404 without the exchange.
    pub fn route(
        &self,
        vhost: &str,
        exchange: &str,
        message: &Envelope<'_>,
        targets: &mut Vec<QueueId>,
    ) -> Result<(), Error> {
        targets.clear();
        let vhost = self.find_vhost(vhost)?;
        let exchange = vhost.find_exchange(exchange)?;
        let mut routing = Routing { vhost, message, targets, onward: Vec::new() };
        routing.visit(exchange);
        routing.follow_onward(exchange);
        if targets.len() > 1 {
            targets.sort_unstable();
            targets.dedup();
        }
        Ok(())
    }

    /// Whether more than its routing key may decide where a message goes from this exchange, directly or through other
    /// exchanges: its headers, its properties, or chance.
    ///
    /// If not, what [`Topology::route`] found for a routing key holds for all messages until [`Topology::version`] grows.
    pub fn routes_by_more_than_key(&self, vhost: &str, exchange: &str) -> bool {
        let Some(vhost) = self.vhost(vhost) else {
            return false;
        };
        let mut seen = BTreeSet::new();
        let mut waiting = vec![exchange];
        while let Some(name) = waiting.pop() {
            let Some(exchange) = vhost.exchange(name).filter(|_| seen.insert(name)) else {
                continue;
            };
            if exchange.deduplicates() {
                return true;
            }
            match exchange.kind {
                ExchangeKind::Headers
                | ExchangeKind::Random
                | ExchangeKind::Delayed
                | ExchangeKind::RecentHistory => return true,
                ExchangeKind::ConsistentHash if pick::looks_at_properties(exchange) => return true,
                _ => {}
            }
            let onward = vhost.index().source(name).into_iter().flat_map(Source::onward);
            waiting.extend(onward.map(|name| &**name).chain(vhost.alternate(exchange)));
        }
        false
    }
}

/// One message on its way.
struct Routing<'a, 'm> {
    vhost: &'a Vhost,
    message: &'m Envelope<'m>,
    targets: &'m mut Vec<QueueId>,
    /// Exchanges that matching bindings and alternates lead to.
    onward: Vec<&'a str>,
}

impl<'a> Routing<'a, '_> {
    /// Goes on from exchange to exchange, to each once: bindings may form a circle.
    fn follow_onward(&mut self, start: &'a Exchange) {
        if self.onward.is_empty() {
            return;
        }
        let mut seen = BTreeSet::from([&*start.name]);
        while let Some(name) = self.onward.pop() {
            if !seen.insert(name) {
                continue;
            }
            if let Some(exchange) = self.vhost.exchange(name) {
                self.visit(exchange);
            }
        }
    }

    fn visit(&mut self, exchange: &'a Exchange) {
        if exchange.kind == ExchangeKind::Delayed
            && !self.message.due
            && delay::asks_for_delay(self.message.properties)
        {
            self.targets.extend(self.vhost.queue(&delay::queue_name(&exchange.name)).map(|queue| queue.id));
            return;
        }
        if exchange.kind == ExchangeKind::RecentHistory && history::may_keep(self.message.properties) {
            self.targets.extend(self.vhost.history(&exchange.name).map(|queue| queue.id));
        }
        let before = (self.targets.len(), self.onward.len());
        if exchange.name.is_empty() {
            let queues = self.message.routing_keys.iter().filter_map(|key| self.vhost.queue(key));
            // What an exchange keeps comes through it, past who may not publish there.
            self.targets.extend(queues.filter(|queue| queue.keeps_for().is_none()).map(|queue| queue.id));
        } else if let Some(source) = self.vhost.index().source(&exchange.name) {
            self.visit_source(exchange, source);
        }
        if before == (self.targets.len(), self.onward.len()) {
            self.onward.extend(self.vhost.alternate(exchange));
        }
    }

    fn visit_source(&mut self, exchange: &Exchange, source: &'a Source) {
        let Envelope { routing_keys, properties, random, .. } = *self.message;
        match exchange.routing_kind() {
            // They have another one.
            ExchangeKind::Delayed | ExchangeKind::Deduplication | ExchangeKind::RecentHistory => {}
            ExchangeKind::Direct => routing_keys.iter().for_each(|key| self.take(source.with_key(key))),
            ExchangeKind::Fanout => self.take(source.all()),
            ExchangeKind::Topic => {
                for key in routing_keys {
                    source.patterns().matches(key, |pattern| self.take(source.with_key(pattern)));
                }
            }
            ExchangeKind::Headers => {
                let headers = properties.headers().unwrap_or_default();
                let matching =
                    |(binding, _): &(&Arc<Binding>, _)| headers::matches(binding.arguments.table(), headers);
                self.take(source.all().filter(matching));
            }
            ExchangeKind::ConsistentHash => {
                let hash = pick::hash_of(exchange, self.message);
                self.take(pick::best(source.all(), hash).into_iter());
            }
            ExchangeKind::ModulusHash => self.take(source.nth(pick::hash_keys(routing_keys)).into_iter()),
            ExchangeKind::Random => self.take(source.nth(random).into_iter()),
        }
    }

    fn take(&mut self, bindings: impl Iterator<Item = (&'a Arc<Binding>, Option<QueueId>)>) {
        for (binding, queue) in bindings {
            match (&binding.destination, queue) {
                (Destination::Exchange(name), _) => self.onward.push(name),
                (Destination::Queue(_), queue) => self.targets.extend(queue),
            }
        }
    }
}
