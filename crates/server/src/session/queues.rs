//! The methods of class queue.

use std::sync::Arc;

use amqp::error::Error;
use amqp::method::{Method, queue};
use amqp::table::Table;
use broker::access::{Operation, Resource};
use broker::arguments::Arguments;
use broker::meta::{Change, DeclareQueue};
use broker::shard::Request;
use broker::topology::{Binding, Destination};

use super::answers::{Awaited, Plain};
use super::{Outcome, Session, clean, reply, reply_to};
use crate::random;

impl Session {
    pub(super) fn declare_queue(
        &mut self,
        number: u16,
        declare: &queue::Declare<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if declare.queue == reply_to::PSEUDO_QUEUE {
            let (queue, nowait) = (declare.queue, declare.nowait);
            let declare_ok =
                Method::QueueDeclareOk(queue::DeclareOk { queue, message_count: 0, consumer_count: 1 });
            return if nowait { Ok(()) } else { reply(out, number, &declare_ok) };
        }
        if let Some(reply_queue) = reply_to::parse_name(declare.queue) {
            return self.find_requester(number, declare, reply_queue);
        }
        if declare.passive {
            return self.inspect_queue(number, declare);
        }
        let server_named = declare.queue.is_empty();
        let name: Arc<str> =
            if server_named { random::name("amq.gen-").into() } else { Arc::from(&*clean(declare.queue)) };
        self.authorize(Operation::Configure, Resource::Queue(&name))?;
        self.authorize_dead_letters(&name, declare.arguments)?;
        let connection = self.identity.connection;
        let wish = Box::new(DeclareQueue {
            vhost: Arc::clone(&self.identity.vhost),
            name,
            server_named,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            owner: declare.exclusive.then_some(connection),
            arguments: Arguments::from(declare.arguments),
        });
        self.declare(number, declare.nowait, wish);
        Ok(())
    }

    pub(super) fn declare(&mut self, channel: u16, nowait: bool, wish: Box<DeclareQueue>) {
        let change = Change::DeclareQueue(DeclareQueue::clone(&wish));
        self.change(change, Awaited::DeclareQueue { channel, nowait, wish });
    }

    /// A passive declare: is it there, and what is in it?
    fn inspect_queue(&mut self, number: u16, declare: &queue::Declare<'_>) -> Outcome {
        let queue = self.queue_named(number, declare.queue)?;
        self.channel(number)?.last_queue = Some(Arc::clone(&queue.name));
        if !declare.nowait {
            let awaited = Awaited::Counts { channel: number, queue: Arc::clone(&queue.name), declared: None };
            self.ask(queue.id, Request::Inspect(queue.id), awaited);
        }
        Ok(())
    }

    /// Declaring an address of direct reply-to asks whether the requester is still there.
    fn find_requester(
        &mut self,
        number: u16,
        declare: &queue::Declare<'_>,
        queue: Option<broker::id::QueueId>,
    ) -> Outcome {
        let (name, vhost) = (declare.queue, &self.identity.vhost);
        let queue = queue.ok_or_else(|| Error::not_found(format!("no queue '{name}' in vhost '{vhost}'")))?;
        let awaited = Awaited::Counts { channel: number, queue: name.into(), declared: None };
        self.ask(queue, Request::Inspect(queue), awaited);
        Ok(())
    }

    /// Who declares where dead letters go must be allowed to take them out and to put them there.
    fn authorize_dead_letters(&self, queue: &str, arguments: Table<'_>) -> Outcome {
        let Some(exchange) = arguments.get("x-dead-letter-exchange") else {
            return Ok(());
        };
        self.authorize(Operation::Read, Resource::Queue(queue))?;
        self.authorize(Operation::Write, Resource::Exchange(exchange.as_str().unwrap_or_default()))
    }

    pub(super) fn bind_queue(&mut self, number: u16, bind: &queue::Bind<'_>) -> Outcome {
        let (queue, binding) =
            self.binding(number, bind.queue, bind.exchange, bind.routing_key, bind.arguments)?;
        self.authorize(Operation::Write, Resource::Queue(&queue))?;
        self.authorize_source(bind.exchange, &binding.routing_key)?;
        self.bind(number, binding, Plain::BindQueue, bind.nowait);
        Ok(())
    }

    pub(super) fn unbind_queue(&mut self, number: u16, unbind: &queue::Unbind<'_>) -> Outcome {
        let (queue, binding) =
            self.binding(number, unbind.queue, unbind.exchange, unbind.routing_key, unbind.arguments)?;
        self.authorize(Operation::Write, Resource::Queue(&queue))?;
        self.authorize_source(unbind.exchange, &binding.routing_key)?;
        let (vhost, connection) = (Arc::clone(&self.identity.vhost), Some(self.identity.connection));
        let awaited = Awaited::Plain { channel: number, method: Plain::UnbindQueue, nowait: false };
        self.change(Change::Unbind { vhost, binding, connection }, awaited);
        Ok(())
    }

    /// A binding as the client names it: an empty queue is the last one declared, and then an empty key is its name.
    fn binding(
        &mut self,
        number: u16,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: Table<'_>,
    ) -> Result<(Arc<str>, Binding), Error> {
        let name = self.channel(number)?.queue_or_last(queue)?;
        let routing_key: Arc<str> =
            if queue.is_empty() && routing_key.is_empty() { Arc::clone(&name) } else { routing_key.into() };
        let binding = Binding {
            source: Arc::from(&*clean(exchange)),
            destination: Destination::Queue(Arc::clone(&name)),
            routing_key,
            arguments: Arguments::from(arguments),
        };
        Ok((name, binding))
    }

    pub(super) fn purge(&mut self, number: u16, purge: &queue::Purge<'_>) -> Outcome {
        let queue = self.queue_named(number, purge.queue)?;
        self.authorize(Operation::Read, Resource::Queue(&queue.name))?;
        self.ask(
            queue.id,
            Request::Purge(queue.id),
            Awaited::Purge { channel: number, nowait: purge.nowait },
        );
        Ok(())
    }

    /// Deletes a queue: first its shard lets go of it, then the meta task forgets it. None is fine.
    pub(super) fn delete_queue(
        &mut self,
        number: u16,
        delete: &queue::Delete<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let name = self.channel(number)?.queue_or_last(delete.queue)?;
        self.authorize(Operation::Configure, Resource::Queue(&name))?;
        let nowait = delete.nowait;
        if self.topology.queue(&self.identity.vhost, &name).is_none() {
            let delete_ok = Method::QueueDeleteOk(queue::DeleteOk { message_count: 0 });
            return if nowait { Ok(()) } else { reply(out, number, &delete_ok) };
        }
        let queue = self.find_queue(&name)?;
        if let Some(exchange) = queue.keeps_for() {
            let text = format!("queue '{name}' goes with its exchange '{exchange}'");
            return Err(Error::access_refused(text));
        }
        let queue = queue.id;
        let request = Request::Delete { queue, if_unused: delete.if_unused, if_empty: delete.if_empty };
        self.ask(queue, request, Awaited::DeleteAtShard { channel: number, queue, nowait });
        Ok(())
    }
}
