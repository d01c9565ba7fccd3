//! basic.publish: checks, routing, confirms.

use std::sync::Arc;

use amqp::content;
use amqp::error::{Code, Error};
use amqp::method::basic;
use amqp::properties::Properties;
use amqp::receiver::Publish;
use broker::access::{Operation, Resource};
use broker::message::Parts;
use broker::topology::{Duplicates, Envelope, Queue};

use super::copies::Copies;
use super::drafts::Traits;
use super::outgoing::{Path, Route};
use super::tx::Published;
use super::{Outcome, Session, blame, refused, reply_to};

/// Class and method id of basic.publish.
const PUBLISH: (u16, u16) = (60, 40);

/// Ten years: the longest time to live, as with RabbitMQ.
const EXPIRATION_MAX_MS: u64 = 315_360_000_000;

impl Session {
    /// Takes a message in the usual case: it goes where others went before, and nothing about it needs a look. False:
    /// it was not taken, `publish` will see.
    #[inline]
    pub(crate) fn publish_again(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) -> bool {
        let Publish { channel: number, exchange_and_key, mandatory, properties, body, .. } = *publish;
        let Session { topology, channels, routes, outgoing, .. } = self;
        let Some(route) = routes.get(topology.version(), exchange_and_key) else {
            return false;
        };
        let Some(channel) = channels.get_mut(&number).filter(|channel| channel.transaction.is_none()) else {
            return false;
        };
        if properties.needs_a_look() {
            return false;
        }
        let parts = Parts { route: exchange_and_key, properties: properties.as_bytes(), body };
        let confirm = channel.expect_confirm(route);
        if route.is_empty() {
            self.unroutable(number, &parts, mandatory, out);
        } else {
            let duplicates = Duplicates::AsQueuesSay;
            let traits = Traits { persistent: properties.is_persistent(), expires: false, duplicates };
            outgoing.publish(route, &parts, traits, confirm);
        }
        true
    }

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
        self.publish_first(number, method, properties, body, out).map_err(|error| blame(error, PUBLISH))
    }

    fn publish_first(
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
        let mut names = Vec::new();
        content::put_exchange_and_key(&mut names, method.exchange, method.routing_key);
        if let Some(called_off) = self.calls_off(method.exchange, properties) {
            let parts = Parts { route: &names, properties: properties.as_bytes(), body };
            return self.call_off(number, method, called_off, &parts);
        }
        let copies = Copies::read(properties)?;
        let (route, duplicates) = self.route(&names, method, properties, &copies)?;
        self.check_user_id(properties)?;
        check_expiration(properties)?;
        let expires = properties.expiration().is_some();
        let traits = Traits { persistent: properties.is_persistent(), expires, duplicates };
        let rewritten = self.rewrite(number, properties, &copies)?;
        let properties = rewritten.as_deref().unwrap_or(properties.as_bytes());
        let parts = Parts { route: &names, properties, body };
        let channel = self.channel(number)?;
        if let Some(transaction) = &mut channel.transaction {
            transaction.publish(Published::new(&parts, route, method.mandatory, traits));
            return Ok(());
        }
        let confirm = channel.expect_confirm(&route);
        if route.is_empty() {
            self.unroutable(number, &parts, method.mandatory, out);
        } else {
            if route.unheard && method.mandatory {
                self.give_back(number, &parts, out);
            }
            self.outgoing.publish(&route, &parts, traits, confirm);
        }
        Ok(())
    }

    /// The properties as consumers shall see them, if not as they are: with the address of the requester, and without
    /// those who get a blind copy.
    fn rewrite(
        &mut self,
        number: u16,
        properties: Properties<'_>,
        copies: &Copies<'_>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut rewritten = None;
        if let Some(headers) = copies.headers_without_bcc() {
            let mut out = Vec::new();
            properties.with_headers(headers.as_table(), &mut out);
            rewritten = Some(out);
        }
        if properties.reply_to() == Some(reply_to::PSEUDO_QUEUE) {
            let address = self.reply_address(number)?;
            let mut out = Vec::new();
            let properties = rewritten.as_deref().map_or(Ok(properties), Properties::new)?;
            properties.with_reply_to(&address, &mut out);
            rewritten = Some(out);
        }
        Ok(rewritten)
    }

    /// Nobody wants a message: it goes back if it was mandatory, and is confirmed in any case.
    pub(super) fn unroutable(&mut self, number: u16, parts: &Parts<'_>, mandatory: bool, out: &mut Vec<u8>) {
        if mandatory {
            self.give_back(number, parts, out);
        }
        self.note_confirmed(number);
    }

    pub(super) fn give_back(&self, number: u16, parts: &Parts<'_>, out: &mut Vec<u8>) {
        let Parts { route: exchange_and_key, properties, body } = *parts;
        let message = content::Message { exchange_and_key, properties, body };
        let method = content::Return { reply_code: Code::NoRoute.value(), reply_text: Code::NoRoute.name() };
        content::return_(out, number, method, message, self.identity.frame_max);
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

    /// A queue has refused a message.
    pub(super) fn refused(&mut self, publisher: u32, first: u64, last: u64) {
        let Some(number) = self.publishers.get(&publisher).copied() else {
            return;
        };
        if let Some(confirms) = self.channels.get_mut(&number).and_then(|channel| channel.confirms.as_mut()) {
            confirms.refused(first, last);
            self.note_confirmed(number);
        }
    }

    pub(super) fn note_confirmed(&mut self, number: u16) {
        if !self.confirmed.contains(&number) {
            self.confirmed.push(number);
        }
    }

    /// Where a message goes, if this user may publish there, and what is to be done if it came before.
    fn route(
        &mut self,
        names: &[u8],
        method: basic::Publish<'_>,
        properties: Properties<'_>,
        copies: &Copies<'_>,
    ) -> Result<(Route, Duplicates), Error> {
        if copies.is_empty()
            && let Some(route) = self.routes.get(self.topology.version(), names)
        {
            return Ok((Arc::clone(route), Duplicates::AsQueuesSay));
        }
        let basic::Publish { exchange, routing_key, .. } = method;
        let vhost = &*self.identity.vhost;
        self.authorize(Operation::Write, Resource::Exchange(exchange))?;
        let found = self.topology.find_vhost(vhost).and_then(|vhost| vhost.find_exchange(exchange).cloned());
        let found = found.map_err(|error| refused(&error))?;
        if found.internal {
            let text = format!("cannot publish to internal exchange '{exchange}' in vhost '{vhost}'");
            return Err(Error::access_refused(text));
        }
        if let Some(queue) = reply_to::parse(exchange, routing_key).filter(|_| copies.is_empty()) {
            return Ok((Arc::new(self.outgoing.path(&[queue])), Duplicates::AsQueuesSay));
        }
        let routing_keys = copies.with(routing_key);
        for key in &routing_keys {
            self.authorize_key(Operation::Write, &found, key)?;
        }
        let identity = found.identify(properties);
        let random = identity.map_or_else(|| self.random.next(), |identity| identity.chance());
        let message = Envelope { routing_keys: &routing_keys, properties, random, due: false };
        let mut queues = Vec::new();
        self.topology.route(vhost, exchange, &message, &mut queues).map_err(|error| refused(&error))?;
        let by_more = self.topology.routes_by_more_than_key(vhost, exchange);
        let route = self.routes.to(self.topology.version(), &queues, || {
            let queues_there = || queues.iter().filter_map(|id| self.topology.queue_by_id(*id));
            let refuses = |queue: &Arc<Queue>| self.topology.settings(queue).may_refuse();
            let remembers = |queue: &Arc<Queue>| queue.remembers_for().is_some();
            Arc::new(Path {
                refusable: queues_there().any(refuses),
                unheard: queues_there().all(remembers),
                ..self.outgoing.path(&queues)
            })
        });
        if !by_more && copies.is_empty() {
            self.routes.put(names, Arc::clone(&route));
        }
        Ok((route, identity.map_or(Duplicates::AsQueuesSay, Duplicates::Drop)))
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
    let why = expiration_fault(expiration);
    Err(Error::precondition_failed(format!("invalid expiration '{expiration}': {why}")))
}

/// What is wrong with an expiration, in RabbitMQ's words.
fn expiration_fault(expiration: &str) -> String {
    let (sign, rest) = match expiration.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", expiration),
    };
    let leftover = rest.trim_start_matches(|character: char| character.is_ascii_digit());
    match (rest.len() - leftover.len(), leftover, sign) {
        (0, ..) => "no_integer".to_owned(),
        (_, "", "") => format!("{{value_too_large,{rest}}}"),
        (_, "", _) => format!("{{value_negative,-{rest}}}"),
        _ => format!("{{leftover_string,{leftover:?}}}"),
    }
}
