//! Stories: what clients ask, what they are told, and what comes of it.

mod declaring;
mod format;
mod keeping;
mod limits;
mod policies;
mod random;
mod routing;

use std::sync::Arc;

use amqp::properties::{Properties, PropertiesBuilder};
use amqp::table::{Table, TableBuilder, Value};
use expect_test::Expect;

use super::*;
use crate::access::{Permissions, TopicPermissions, User};
use crate::arguments::Arguments;
use crate::limits::{UserLimits, VhostLimits};
use crate::password::PasswordHash;
use crate::policy::{ApplyTo, Policy, Tier};
use crate::topology::{Binding, Destination, Envelope, Exchange, ExchangeKind, Metadata, Queue};

const MINE: ConnectionId = ConnectionId(1);
const THEIRS: ConnectionId = ConnectionId(2);

fn queue(name: &str) -> DeclareQueue {
    DeclareQueue {
        vhost: "/".into(),
        name: name.into(),
        server_named: false,
        durable: false,
        auto_delete: false,
        owner: None,
        arguments: Arguments::default(),
    }
}

fn exchange(name: &str, kind: ExchangeKind) -> DeclareExchange {
    DeclareExchange {
        vhost: "/".into(),
        name: name.into(),
        kind,
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: Arguments::default(),
    }
}

fn arguments(fields: impl Fn(TableBuilder) -> TableBuilder) -> Arguments {
    fields(TableBuilder::new()).as_table().into()
}

fn binding(source: &str, key: &str, destination: Destination) -> Binding {
    Binding { source: source.into(), routing_key: key.into(), destination, arguments: Arguments::default() }
}

fn to_queue(source: &str, key: &str, queue: &str) -> Change {
    bind(binding(source, key, Destination::Queue(queue.into())))
}

fn to_exchange(source: &str, key: &str, exchange: &str) -> Change {
    bind(binding(source, key, Destination::Exchange(exchange.into())))
}

fn bind(binding: Binding) -> Change {
    Change::Bind { vhost: "/".into(), binding, connection: Some(MINE) }
}

fn unbind(change: Change) -> Change {
    let Change::Bind { vhost, binding, connection } = change else { panic!("not a binding") };
    Change::Unbind { vhost, binding, connection }
}

fn delete_exchange(name: &str, if_unused: bool) -> Change {
    Change::DeleteExchange { vhost: "/".into(), name: name.into(), if_unused }
}

/// Tells each change to a broker and writes down what came of it.
#[derive(Default)]
struct Story {
    meta: Meta,
    text: String,
}

impl Story {
    fn with(changes: impl IntoIterator<Item = Change>) -> Story {
        let mut story = Story::default();
        changes.into_iter().for_each(|change| story.tell(change));
        story.text.clear();
        story
    }

    fn tell(&mut self, change: Change) {
        match self.meta.decide(change) {
            Err(error) => self.text += &format!("{} {}\n", error.amqp_code().value(), error.text),
            Ok(decision) if decision.records.is_empty() => self.text += "unchanged\n",
            Ok(decision) => decision.records.iter().for_each(|record| self.apply(record)),
        }
        self.meta.check();
    }

    fn apply(&mut self, record: &Record) {
        let durable = if record.is_durable() { " durable" } else { "" };
        self.text += &format!("{}{durable}", name(record));
        for effect in self.meta.apply(record) {
            self.text += &match effect {
                Effect::QueueOpened(queue) => format!(", open {}", queue.name),
                Effect::QueueChanged(queue) => format!(", change {}", queue.name),
                Effect::QueueDropped(queue) => format!(", drop {}", queue.name),
                Effect::VhostDropped(vhost) => format!(", close {vhost}"),
                Effect::AccessChanged(user) => format!(", look at {user}"),
            };
        }
        self.text.push('\n');
    }

    fn delete_queue(&mut self, name: &str) {
        let id = self.meta.topology().queue("/", name).unwrap().id;
        self.tell(Change::DeleteQueue { id });
    }

    fn routes(&self, exchange: &str, key: &str) -> String {
        let headers = TableBuilder::new().with("a", 1i32);
        self.routes_with(exchange, key, Some(headers.as_table()))
    }

    fn routes_with(&self, exchange: &str, key: &str, headers: Option<Table<'_>>) -> String {
        let properties = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes();
        let properties = Properties::new(&properties).unwrap();
        self.routes_of(exchange, &Envelope { routing_keys: &[key], properties, random: 0, due: false })
    }

    fn routes_of(&self, exchange: &str, message: &Envelope<'_>) -> String {
        let topology = self.meta.topology();
        let mut targets = Vec::new();
        topology.route("/", exchange, message, &mut targets).unwrap();
        let names: Vec<_> = targets.iter().map(|id| &*topology.queue_by_id(*id).unwrap().name).collect();
        names.join(" ")
    }

    fn ends(&self, expected: &Expect) {
        expected.assert_eq(&self.text);
    }
}

/// `exchange_deleted x`
fn name(record: &Record) -> String {
    match record {
        Record::QueueIdsReserved { below } => format!("ids below {below}"),
        Record::ExchangeDeclared { exchange, .. } => format!("exchange {}", exchange.name),
        Record::ExchangeDeleted { name, .. } => format!("no exchange {name}"),
        Record::QueueDeclared { queue } => format!("queue {}", queue.name),
        Record::QueueDeleted { id, .. } => format!("no queue {id}"),
        Record::Bound { binding, .. } => format!("bound {}", binding.source),
        Record::Unbound { binding, .. } => format!("unbound {}", binding.source),
        Record::VhostAdded { name } => format!("vhost {name}"),
        Record::VhostDeleted { name } => format!("no vhost {name}"),
        Record::UserPut { user } => format!("user {}", user.name),
        Record::UserDeleted { name } => format!("no user {name}"),
        Record::PermissionsSet { user, vhost, .. } => format!("{user} may {vhost}"),
        Record::TopicPermissionsSet { user, exchange, .. } => format!("{user} may keys of {exchange}"),
        Record::PermissionsCleared { user, vhost } => format!("{user} may not {vhost}"),
        Record::PolicyPut { tier, policy, .. } => format!("{} {}", tier.as_str(), policy.name),
        Record::VhostMetadataSet { vhost, .. } => format!("about {vhost}"),
        Record::VhostLimitsSet { vhost, .. } => format!("limits of {vhost}"),
        Record::UserLimitsSet { user, .. } => format!("limits of user {user}"),
        Record::PolicyDeleted { tier, name, .. } => format!("no {} {name}", tier.as_str()),
    }
}

/// What was there, then what is asked for, then the answer.
fn check(
    before: impl IntoIterator<Item = Change>,
    asked: impl IntoIterator<Item = Change>,
    expected: &Expect,
) {
    let mut story = Story::with(before);
    asked.into_iter().for_each(|change| story.tell(change));
    story.ends(expected);
}
