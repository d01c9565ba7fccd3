//! basic.publish: checks, routing, confirms.

use std::sync::Arc;

use amqp::content;
use amqp::error::{Code, Error};
use amqp::method::basic;
use amqp::properties::Properties;
use broker::access::{Operation, Resource};
use broker::message::Parts;

use super::outgoing::Route;
use super::tx::Published;
use super::{Outcome, Session, blame, refused, reply_to};

/// Class and method id of basic.publish.
const PUBLISH: (u16, u16) = (60, 40);

/// Ten years: the longest time to live, as with RabbitMQ.
const EXPIRATION_MAX_MS: u64 = 315_360_000_000;

impl Session {
    /// Takes a message that the client publishes.
    pub(crate) fn publish(
        &mut self,
        number: u16,
        method: basic::Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Outcome {
        self.has_published = true;
        self.publish_checked(number, method, properties, body, out).map_err(|error| blame(error, PUBLISH))
    }

    fn publish_checked(
        &mut self,
        number: u16,
        method: basic::Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Outcome {
        if method.immediate {
            return Err(Error::not_implemented("immediate=true"));
        }
        let route = self.route(method.exchange, method.routing_key, properties)?;
        self.check_user_id(properties)?;
        check_expiration(properties)?;
        if properties.reply_to() == Some(reply_to::PSEUDO_QUEUE) {
            let mut rewritten = Vec::new();
            properties.with_reply_to(&self.reply_address(number)?, &mut rewritten);
            let properties = Properties::new(&rewritten)?;
            return self.publish_routed(number, method, properties, body, &route, out);
        }
        self.publish_routed(number, method, properties, body, &route, out)
    }

    fn publish_routed(
        &mut self,
        number: u16,
        method: basic::Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        route: &Route,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let (exchange, routing_key) = (method.exchange, method.routing_key);
        let parts = Parts { exchange, routing_key, properties: properties.as_bytes(), body };
        let channel = self.channel(number)?;
        if let Some(transaction) = &mut channel.transaction {
            let persistent = properties.is_persistent();
            transaction.publish(Published::new(&parts, Arc::clone(route), method.mandatory, persistent));
            return Ok(());
        }
        let shards = u8::try_from(route.len()).map_err(|_| Error::internal_error("more than 255 shards"))?;
        let publisher = channel.publisher;
        let confirm = channel.confirms.as_mut().map(|confirms| (publisher, confirms.expect(shards)));
        if route.is_empty() {
            self.unroutable(number, &parts, method.mandatory, out);
            return Ok(());
        }
        self.outgoing.publish(route, &parts, properties.is_persistent(), confirm);
        Ok(())
    }

    /// Nobody wants a message: it goes back if it was mandatory, and is confirmed in any case.
    pub(super) fn unroutable(&mut self, number: u16, parts: &Parts<'_>, mandatory: bool, out: &mut Vec<u8>) {
        if mandatory {
            let mut exchange_and_key = Vec::new();
            content::put_exchange_and_key(&mut exchange_and_key, parts.exchange, parts.routing_key);
            let message = content::Message {
                exchange_and_key: &exchange_and_key,
                properties: parts.properties,
                body: parts.body,
            };
            let method =
                content::Return { reply_code: Code::NoRoute.value(), reply_text: Code::NoRoute.name() };
            content::return_(out, number, method, message, self.identity.frame_max);
        }
        self.note_confirmed(number);
    }

    /// Shards report messages as safe.
    pub(super) fn safe(&mut self, publisher: u32, first: u64, last: u64) {
        let Some(number) = self.publishers.get(&publisher).copied() else {
            return;
        };
        if let Some(confirms) = self.channels.get_mut(&number).and_then(|channel| channel.confirms.as_mut()) {
            confirms.safe(first, last);
            self.note_confirmed(number);
        }
    }

    fn note_confirmed(&mut self, number: u16) {
        if !self.confirmed.contains(&number) {
            self.confirmed.push(number);
        }
    }

    /// Where a message goes, if this user may publish there.
    fn route(
        &mut self,
        exchange: &str,
        routing_key: &str,
        properties: Properties<'_>,
    ) -> Result<Route, Error> {
        if let Some(route) = self.routes.get(self.topology.version(), exchange, routing_key) {
            return Ok(Arc::clone(route));
        }
        let vhost = &*self.identity.vhost;
        self.authorize(Operation::Write, Resource::Exchange(exchange))?;
        let found = self.topology.find_vhost(vhost).and_then(|vhost| vhost.find_exchange(exchange).cloned());
        let found = found.map_err(|error| refused(&error))?;
        if found.internal {
            let text = format!("cannot publish to internal exchange '{exchange}' in vhost '{vhost}'");
            return Err(Error::access_refused(text));
        }
        if let Some(queue) = reply_to::parse(exchange, routing_key) {
            return Ok(self.outgoing.route(&[queue]));
        }
        let mut queues = Vec::new();
        let routed = self.topology.route(vhost, exchange, routing_key, properties.headers(), &mut queues);
        routed.map_err(|error| refused(&error))?;
        let route = self.outgoing.route(&queues);
        if !self.topology.routes_by_headers(vhost, exchange) {
            self.routes.put(exchange, routing_key, Arc::clone(&route));
        }
        Ok(route)
    }

    /// A message may name its publisher, but only truly.
    fn check_user_id(&self, properties: Properties<'_>) -> Outcome {
        match properties.user_id() {
            Some(user) if user != &*self.identity.user => {
                let actual = &self.identity.user;
                let text = format!("user_id property set to '{user}' but authenticated user was '{actual}'");
                Err(Error::precondition_failed(text))
            }
            _ => Ok(()),
        }
    }
}

/// A message's expiration is a number of milliseconds, as text.
fn check_expiration(properties: Properties<'_>) -> Outcome {
    let Some(expiration) = properties.expiration() else {
        return Ok(());
    };
    if expiration.parse::<u64>().is_ok_and(|milliseconds| milliseconds <= EXPIRATION_MAX_MS) {
        return Ok(());
    }
    Err(Error::precondition_failed(format!(
        "invalid expiration '{expiration}': expected 0 to {EXPIRATION_MAX_MS} ms"
    )))
}
