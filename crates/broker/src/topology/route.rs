//! From an exchange and a routing key to queues.

use std::collections::BTreeSet;
use std::sync::Arc;

use amqp::table::Table;

use super::binding::Source;
use super::{Binding, Destination, Exchange, ExchangeKind, Topology, Vhost, headers};
use crate::error::Error;
use crate::id::QueueId;

impl Topology {
    /// Adds to `targets` the queues that a message reaches, and leaves `targets` sorted and each queue in it once.
    ///
    /// What is there already stays, so a message with further routing keys (its CC and BCC headers) is routed by one
    /// call per key with the same `targets`. Publishing to an internal exchange is for the session to refuse.
    ///
    /// # Errors
    /// 530 without the virtual host, 404 without the exchange.
    pub fn route(
        &self,
        vhost: &str,
        exchange: &str,
        routing_key: &str,
        headers: Option<Table<'_>>,
        targets: &mut Vec<QueueId>,
    ) -> Result<(), Error> {
        let vhost = self.find_vhost(vhost)?;
        let exchange = vhost.find_exchange(exchange)?;
        let mut routing = Routing { vhost, routing_key, headers, targets, onward: Vec::new() };
        routing.visit(exchange);
        routing.follow_onward(exchange);
        if targets.len() > 1 {
            targets.sort_unstable();
            targets.dedup();
        }
        Ok(())
    }

    /// Whether the headers of a message may decide where it goes from this exchange, directly or through other exchanges.
    ///
    /// If not, what [`Topology::route`] found for a routing key holds for all messages until [`Topology::version`] grows.
    pub fn routes_by_headers(&self, vhost: &str, exchange: &str) -> bool {
        let Some(vhost) = self.vhost(vhost) else {
            return false;
        };
        let mut seen = BTreeSet::new();
        let mut waiting = vec![exchange];
        while let Some(name) = waiting.pop() {
            let Some(exchange) = vhost.exchange(name).filter(|_| seen.insert(name)) else {
                continue;
            };
            if exchange.kind == ExchangeKind::Headers {
                return true;
            }
            let onward = vhost.index().source(name).into_iter().flat_map(Source::onward);
            waiting.extend(onward.map(|name| &**name).chain(exchange.alternate()));
        }
        false
    }
}

/// One message on its way.
struct Routing<'a, 'm> {
    vhost: &'a Vhost,
    routing_key: &'m str,
    headers: Option<Table<'m>>,
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
        let before = (self.targets.len(), self.onward.len());
        if exchange.name.is_empty() {
            let queue = self.vhost.queue(self.routing_key);
            self.targets.extend(queue.map(|queue| queue.id));
        } else if let Some(source) = self.vhost.index().source(&exchange.name) {
            self.visit_source(exchange.kind, source);
        }
        if before == (self.targets.len(), self.onward.len()) {
            self.onward.extend(exchange.alternate());
        }
    }

    fn visit_source(&mut self, kind: ExchangeKind, source: &'a Source) {
        match kind {
            ExchangeKind::Direct => self.take(source.with_key(self.routing_key)),
            ExchangeKind::Fanout => self.take(source.all()),
            ExchangeKind::Topic => {
                source.patterns().matches(self.routing_key, |pattern| self.take(source.with_key(pattern)));
            }
            ExchangeKind::Headers => {
                let headers = self.headers.unwrap_or_default();
                let matching =
                    |(binding, _): &(&Arc<Binding>, _)| headers::matches(binding.arguments.table(), headers);
                self.take(source.all().filter(matching));
            }
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
