//! The methods of class exchange.

use std::sync::Arc;

use amqp::method::{Method, exchange};
use amqp::table::{Table, Value};
use broker::access::{Operation, Resource};
use broker::arguments::Arguments;
use broker::meta::{self, Change, DeclareExchange};
use broker::topology::{ALTERNATE_EXCHANGE, Binding, Destination, ExchangeKind};

use super::answers::{Awaited, Plain};
use super::{Outcome, Session, clean, refused, reply};

impl Session {
    pub(super) fn declare_exchange(
        &mut self,
        number: u16,
        declare: &exchange::Declare<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let name = clean(declare.exchange);
        if declare.passive {
            meta::refuse_default_exchange(&name).map_err(|error| refused(&error))?;
            let vhost = self.topology.find_vhost(&self.identity.vhost).map_err(|error| refused(&error))?;
            vhost.find_exchange(&name).map_err(|error| refused(&error))?;
            let declare_ok = Method::ExchangeDeclareOk(exchange::DeclareOk {});
            return if declare.nowait { Ok(()) } else { reply(out, number, &declare_ok) };
        }
        self.authorize(Operation::Configure, Resource::Exchange(&name))?;
        self.authorize_alternate(&name, declare.arguments)?;
        let change = DeclareExchange {
            vhost: Arc::clone(&self.identity.vhost),
            name: Arc::from(&*name),
            kind: ExchangeKind::parse(declare.kind).map_err(|error| refused(&error))?,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: Arguments::from(declare.arguments),
        };
        self.plain(number, Change::DeclareExchange(change), Plain::DeclareExchange, declare.nowait);
        Ok(())
    }

    /// Who declares where unroutable messages go must be allowed to take them out and to put them there.
    fn authorize_alternate(&self, name: &str, arguments: Table<'_>) -> Outcome {
        // What is no string is for the meta task to refuse.
        let Some(alternate) = arguments.get(ALTERNATE_EXCHANGE).and_then(Value::as_str) else {
            return Ok(());
        };
        self.authorize(Operation::Read, Resource::Exchange(name))?;
        self.authorize(Operation::Write, Resource::Exchange(alternate))
    }

    pub(super) fn delete_exchange(&mut self, number: u16, delete: &exchange::Delete<'_>) -> Outcome {
        let name = clean(delete.exchange);
        self.authorize(Operation::Configure, Resource::Exchange(&name))?;
        let vhost = Arc::clone(&self.identity.vhost);
        let change = Change::DeleteExchange { vhost, name: Arc::from(&*name), if_unused: delete.if_unused };
        self.plain(number, change, Plain::DeleteExchange, delete.nowait);
        Ok(())
    }

    pub(super) fn bind_exchange(&mut self, number: u16, bind: &exchange::Bind<'_>) -> Outcome {
        self.authorize(Operation::Write, Resource::Exchange(&clean(bind.destination)))?;
        self.authorize_source(bind.source, bind.routing_key)?;
        let binding = binding(bind.source, bind.destination, bind.routing_key, bind.arguments);
        self.bind(number, binding, Plain::BindExchange, bind.nowait);
        Ok(())
    }

    pub(super) fn unbind_exchange(&mut self, number: u16, unbind: &exchange::Unbind<'_>) -> Outcome {
        self.authorize(Operation::Write, Resource::Exchange(&clean(unbind.destination)))?;
        self.authorize_source(unbind.source, unbind.routing_key)?;
        let binding = binding(unbind.source, unbind.destination, unbind.routing_key, unbind.arguments);
        let (vhost, connection) = (Arc::clone(&self.identity.vhost), Some(self.identity.connection));
        self.plain(
            number,
            Change::Unbind { vhost, binding, connection },
            Plain::UnbindExchange,
            unbind.nowait,
        );
        Ok(())
    }

    /// Asks for a change whose answer says nothing more.
    pub(super) fn plain(&mut self, channel: u16, change: Change, method: Plain, nowait: bool) {
        self.change(change, Awaited::Plain { channel, method, nowait });
    }
}

fn binding(source: &str, destination: &str, routing_key: &str, arguments: Table<'_>) -> Binding {
    Binding {
        source: Arc::from(&*clean(source)),
        destination: Destination::Exchange(Arc::from(&*clean(destination))),
        routing_key: routing_key.into(),
        arguments: Arguments::from(arguments),
    }
}
