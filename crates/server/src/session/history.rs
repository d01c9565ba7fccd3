//! Bindings, and what an exchange of type `x-recent-history` remembers for those that are new.

use std::sync::Arc;

use amqp::properties::Properties;
use broker::id::QueueId;
use broker::message::{Message, Messages, Parts};
use broker::meta::Change;
use broker::shard::{Bookmark, Browse, Request};
use broker::topology::{Binding, Destination, Duplicates, Envelope};

use super::Session;
use super::answers::{Awaited, Plain, put_unless};
use super::drafts::Traits;

/// A binding that was made, whose destination gets what its source remembers.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) channel: u16,
    pub(super) method: Plain,
    nowait: bool,
    destination: Destination,
}

impl Session {
    /// Has a binding made. One that was there gets nothing again.
    pub(super) fn bind(&mut self, channel: u16, binding: Binding, method: Plain, nowait: bool) {
        let history = self.history_for(&binding);
        let destination = binding.destination.clone();
        let (vhost, connection) = (Arc::clone(&self.identity.vhost), Some(self.identity.connection));
        let change = Change::Bind { vhost, binding, connection };
        match history {
            None => self.plain(channel, change, method, nowait),
            Some(history) => {
                let bound = Bound { channel, method, nowait, destination };
                self.change(change, Awaited::BindAndRecall { bound, history });
            }
        }
    }

    /// The queue that keeps what the source of a new binding remembers.
    fn history_for(&self, binding: &Binding) -> Option<QueueId> {
        let vhost = self.topology.vhost(&self.identity.vhost)?;
        let queue = vhost.history(&binding.source)?;
        (!vhost.is_bound(binding)).then_some(queue.id)
    }

    /// The binding is there. What other sessions send by what they knew before can come twice, or not at all.
    pub(super) fn ask_history(&mut self, queue: QueueId, bound: Bound) {
        let browse = Browse { queue, after: None, size_max: usize::MAX };
        self.ask(queue, Request::Browse(browse), Awaited::Recall { bound });
    }

    /// Puts what is remembered into the new destination.
    pub(super) fn recall(&mut self, bound: &Bound, messages: &[(Bookmark, Messages)], out: &mut Vec<u8>) {
        for (_, message) in messages {
            self.recall_one(&bound.destination, message.first());
        }
        put_unless(bound.nowait, out, bound.channel, &bound.method.answer());
    }

    fn recall_one(&mut self, destination: &Destination, message: Message<'_>) {
        let properties = Properties::new(message.properties()).unwrap_or(Properties::EMPTY);
        let mut queues = Vec::new();
        match destination {
            Destination::Queue(name) => {
                queues.extend(self.topology.queue(&self.identity.vhost, name).map(|queue| queue.id));
            }
            Destination::Exchange(name) => {
                let routing_keys = &[message.routing_key()][..];
                let envelope = Envelope { routing_keys, properties, random: self.random.next(), due: false };
                // An exchange that has gone leads nowhere.
                let _ = self.topology.route(&self.identity.vhost, name, &envelope, &mut queues);
            }
        }
        if queues.is_empty() {
            return;
        }
        let route = Arc::new(self.outgoing.path(&queues));
        let traits = Traits {
            persistent: properties.is_persistent(),
            expires: properties.expiration().is_some(),
            duplicates: Duplicates::AsQueuesSay,
        };
        let parts = Parts { route: message.route(), properties: message.properties(), body: message.body() };
        self.outgoing.publish(&route, &parts, traits, None);
    }
}
