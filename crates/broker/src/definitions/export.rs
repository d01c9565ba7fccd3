//! Definitions as RabbitMQ writes them, of what is durable.

use std::sync::Arc;

use amqp::table::{Array, Table, Value as Field};
use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::limits::{UserLimits, VhostLimits};
use crate::policy::{Policy, Tier};
use crate::topology::{Binding, Destination, Exchange, Queue, Topology, Vhost};

/// A document, and what it could not say.
#[derive(Debug)]
pub struct Exported {
    /// The document, for [`parse`](super::parse) and for RabbitMQ.
    pub json: String,
    /// Arguments that JSON has no words for, such as bytes that are no text: what they are and whose.
    pub lost: Vec<String>,
}

/// Writes a document with all users, permissions, virtual hosts, and what is durable in them.
pub fn export(topology: &Topology) -> Exported {
    let access = topology.access();
    let mut lost = Vec::new();
    let users: Vec<_> = access
        .users()
        .map(|user| {
            let (hash, algorithm) = user.password.in_definitions();
            json!({"name": user.name, "password_hash": hash, "hashing_algorithm": algorithm, "tags": user.tags,
                   "limits": user_limits(access.limits(&user.name))})
        })
        .collect();
    let permissions: Vec<_> = access
        .users()
        .flat_map(|user| access.permissions(&user.name).map(move |(vhost, it)| (user, vhost, it)))
        .map(|(user, vhost, it)| {
            json!({"user": user.name, "vhost": vhost, "configure": it.configure, "write": it.write, "read": it.read})
        })
        .collect();
    let topic_permissions: Vec<_> = access
        .users()
        .flat_map(|user| access.topic_permissions(&user.name).map(move |it| (user, it)))
        .map(|(user, (vhost, exchange, it))| {
            json!({"user": user.name, "vhost": vhost, "exchange": exchange, "write": it.write, "read": it.read})
        })
        .collect();
    let vhosts: Vec<_> = topology.vhosts().map(vhost_definition).collect();
    let parameters: Vec<_> = topology.vhosts().flat_map(|vhost| parameters(vhost, &mut lost)).collect();
    let policies: Vec<_> = topology.vhosts().flat_map(|vhost| policies(vhost, &mut lost)).collect();
    let mut all = (Vec::new(), Vec::new(), Vec::new());
    for vhost in topology.vhosts() {
        let exchanges = vhost.exchanges().filter(|exchange| exchange.durable && !exchange.is_predeclared());
        all.0.extend(exchanges.map(|exchange| exchange_definition(vhost, exchange, &mut lost)));
        let queues = vhost.queues().filter(|queue| queue.durable && queue.keeps_for().is_none());
        all.1.extend(queues.map(|queue| queue_definition(queue, &mut lost)));
        let bindings = vhost.bindings().filter(|binding| vhost.is_durable_binding(binding));
        all.2.extend(bindings.map(|binding| binding_definition(vhost, binding, &mut lost)));
    }
    let (exchanges, queues, bindings) = all;
    let document = json!({
        "product_name": "Leveret",
        "product_version": env!("CARGO_PKG_VERSION"),
        "users": users,
        "vhosts": vhosts,
        "permissions": permissions,
        "topic_permissions": topic_permissions,
        "parameters": parameters,
        "global_parameters": [],
        "policies": policies,
        "exchanges": exchanges,
        "queues": queues,
        "bindings": bindings,
    });
    Exported { json: format!("{document:#}\n"), lost }
}

fn vhost_definition(vhost: &Vhost) -> Value {
    let mut metadata = json!({"description": vhost.metadata().description, "tags": vhost.metadata().tags});
    if let Some(name) = &vhost.metadata().default_queue_type {
        metadata["default_queue_type"] = json!(name);
    }
    json!({"name": vhost.name(), "metadata": metadata})
}

fn user_limits(limits: UserLimits) -> Value {
    limits_to_json([("max-connections", limits.connections_max), ("max-channels", limits.channels_max)])
}

fn limits_to_json(limits: [(&str, Option<u64>); 2]) -> Value {
    let limits = limits.into_iter().filter_map(|(key, limit)| Some((key.to_owned(), limit?.into())));
    Value::Object(limits.collect())
}

/// Limits and operator policies, as RabbitMQ writes them.
fn parameters(vhost: &Vhost, lost: &mut Vec<String>) -> Vec<Value> {
    let limits = vhost.limits();
    let value =
        limits_to_json([("max-connections", limits.connections_max), ("max-queues", limits.queues_max)]);
    let parameter = |component: &str, name: &str, value: Value| json!({"component": component, "name": name, "vhost": vhost.name(), "value": value});
    let limited = (limits != VhostLimits::default()).then(|| parameter("vhost-limits", "limits", value));
    let policies = vhost.policies(Tier::Operator);
    let policies =
        policies.map(|it| parameter("operator_policy", &it.name, policy(vhost, Tier::Operator, it, lost)));
    limited.into_iter().chain(policies).collect()
}

fn policies(vhost: &Vhost, lost: &mut Vec<String>) -> Vec<Value> {
    let definition = |it: &Arc<Policy>| {
        let mut definition = policy(vhost, Tier::User, it, lost);
        definition["name"] = json!(it.name);
        definition["vhost"] = json!(vhost.name());
        definition
    };
    vhost.policies(Tier::User).map(definition).collect()
}

fn policy(vhost: &Vhost, tier: Tier, policy: &Policy, lost: &mut Vec<String>) -> Value {
    let whose = format!("{} '{}' in vhost '{}'", tier.as_str(), policy.name, vhost.name());
    json!({
        "pattern": policy.pattern,
        "apply-to": policy.apply_to,
        "priority": policy.priority,
        "definition": arguments(&policy.definition, &whose, lost),
    })
}

fn exchange_definition(vhost: &Vhost, exchange: &Exchange, lost: &mut Vec<String>) -> Value {
    let whose = format!("exchange '{}' in vhost '{}'", exchange.name, vhost.name());
    json!({
        "name": exchange.name,
        "vhost": vhost.name(),
        "type": exchange.kind.as_str(),
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": arguments(&exchange.arguments, &whose, lost),
    })
}

fn queue_definition(queue: &Queue, lost: &mut Vec<String>) -> Value {
    let whose = format!("queue '{}' in vhost '{}'", queue.name, queue.vhost);
    json!({
        "name": queue.name,
        "vhost": queue.vhost,
        "type": queue.kind().as_str(),
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "arguments": arguments(&queue.arguments, &whose, lost),
    })
}

fn binding_definition(vhost: &Vhost, binding: &Binding, lost: &mut Vec<String>) -> Value {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    };
    let whose = format!("the binding of {kind} '{destination}' in vhost '{}'", vhost.name());
    json!({
        "source": binding.source,
        "vhost": vhost.name(),
        "destination": destination,
        "destination_type": kind,
        "routing_key": binding.routing_key,
        "arguments": arguments(&binding.arguments, &whose, lost),
    })
}

fn arguments(arguments: &Arguments, whose: &str, lost: &mut Vec<String>) -> Value {
    let mut fields = Map::new();
    for (key, value) in arguments.table() {
        match to_json(value) {
            Some(value) => drop(fields.insert(key.to_owned(), value)),
            None => lost
                .push(format!("argument '{key}' of {whose}: a {} that JSON cannot say", value.type_name())),
        }
    }
    Value::Object(fields)
}

/// `None` if reading it again would give something else.
fn to_json(value: Field<'_>) -> Option<Value> {
    match value {
        Field::Bool(truth) => Some(truth.into()),
        Field::LongString(bytes) => Some(str::from_utf8(bytes).ok()?.into()),
        Field::F32(number) => serde_json::Number::from_f64(number.into()).map(Value::Number),
        Field::F64(number) => serde_json::Number::from_f64(number).map(Value::Number),
        Field::Array(array) => array_to_json(array),
        Field::Table(table) => table_to_json(table),
        Field::Decimal { .. } | Field::Timestamp(_) | Field::Void | Field::Binary(_) => None,
        integer => Some(integer.as_int()?.into()),
    }
}

fn array_to_json(array: Array<'_>) -> Option<Value> {
    array.iter().map(to_json).collect::<Option<Vec<_>>>().map(Value::Array)
}

fn table_to_json(table: Table<'_>) -> Option<Value> {
    let fields = table.iter().map(|(key, value)| Some((key.to_owned(), to_json(value)?)));
    fields.collect::<Option<Map<_, _>>>().map(Value::Object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::User;
    use crate::definitions::parse;
    use crate::meta::{Change, DeclareQueue, Meta};
    use crate::password::PasswordHash;
    use amqp::table::{ArrayBuilder, TableBuilder};

    const DOCUMENT: &str = r##"{
        "users": [
            {"name": "old", "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
             "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["administrator", "x"],
             "limits": {"max-connections": 3, "max-channels": 0}},
            {"name": "new", "password": "secret", "tags": ""},
            {"name": "certificate", "tags": ""}
        ],
        "vhosts": [{"name": "/", "metadata": {"description": "The first", "tags": ["a"], "default_queue_type": "classic"}},
                   {"name": "shop"}],
        "policies": [{"name": "p", "vhost": "shop", "pattern": "^q", "apply-to": "queues", "priority": -3,
                      "definition": {"max-length": 5, "overflow": "reject-publish"}},
                     {"name": "all", "vhost": "/", "pattern": "", "apply-to": "all", "priority": 0,
                      "definition": {"alternate-exchange": "x", "ha-mode": "exactly", "ha-params": 2}}],
        "parameters": [{"component": "vhost-limits", "name": "limits", "vhost": "/", "value": {"max-queues": 5}},
                       {"component": "operator_policy", "name": "o", "vhost": "shop", "value":
                        {"pattern": "", "apply-to": "quorum_queues", "priority": 1, "definition": {"expires": 5}}}],
        "permissions": [{"user": "new", "vhost": "shop", "configure": "^mine", "write": ".*", "read": ""}],
        "topic_permissions": [{"user": "new", "vhost": "shop", "exchange": "x", "write": "^{username}", "read": ".*"}],
        "exchanges": [{"name": "x", "vhost": "shop", "type": "topic", "durable": true, "auto_delete": true,
                       "internal": true, "arguments": {"alternate-exchange": "amq.fanout"}},
                      {"name": "h", "vhost": "/", "type": "x-consistent-hash", "durable": true, "auto_delete": false,
                       "internal": false, "arguments": {"hash-header": "customer"}}],
        "queues": [{"name": "q", "vhost": "shop", "type": "quorum", "durable": true, "auto_delete": false,
                    "arguments": {"x-message-ttl": 60000, "nested": {"list": [1, 1.5, true, "s", [], {}]}}}],
        "bindings": [
            {"source": "x", "vhost": "shop", "destination": "q", "destination_type": "queue", "routing_key": "a.#",
             "arguments": {"n": 1}},
            {"source": "amq.topic", "vhost": "shop", "destination": "x", "destination_type": "exchange",
             "routing_key": "#", "arguments": {}}
        ]
    }"##;

    fn import(json: &str) -> Meta {
        let mut meta = Meta::new();
        let definitions = parse(json, |_, password| PasswordHash::hash(password, [1; 16])).unwrap();
        assert!(definitions.ignored.is_empty(), "{:?}", definitions.ignored);
        definitions.changes.into_iter().for_each(|change| ask(&mut meta, change));
        meta
    }

    fn ask(meta: &mut Meta, change: Change) {
        let decision = meta.decide(change).unwrap();
        decision.records.iter().for_each(|record| drop(meta.apply(record)));
    }

    #[test]
    fn what_was_imported_is_exported_and_imported_again() {
        let first = import(DOCUMENT);
        let exported = export(first.topology());
        assert!(exported.lost.is_empty());
        let second = import(&exported.json);
        let records = |meta: &Meta| meta.snapshot_records().collect::<Vec<_>>();
        assert_eq!(records(&first), records(&second));
        assert_eq!(export(second.topology()).json, exported.json);
        let access = second.topology().access();
        assert!(access.user("old").unwrap().password.verify("test12"));
        assert!(access.user("new").unwrap().password.verify("secret"));
        assert_eq!(access.user("certificate").unwrap().password, PasswordHash::none());
        let document: Value = serde_json::from_str(&exported.json).unwrap();
        assert_eq!(document["users"].as_array().unwrap().len(), 3);
        assert_eq!(document["bindings"][1]["routing_key"], "a.#");
        let policy = json!({"name": "p", "vhost": "shop", "pattern": "^q", "apply-to": "queues", "priority": -3,
                            "definition": {"max-length": 5, "overflow": "reject-publish"}});
        assert_eq!(document["policies"][1], policy);
    }

    #[test]
    fn what_is_not_durable_and_what_json_cannot_say_is_left_out() {
        let mut meta = Meta::new();
        let user = User { name: "u".into(), password: PasswordHash::none(), tags: Vec::new() };
        ask(&mut meta, Change::PutUser { user });
        let queue = |name: &str, durable, table: TableBuilder| {
            Change::DeclareQueue(DeclareQueue {
                vhost: "/".into(),
                name: name.into(),
                server_named: false,
                durable,
                auto_delete: false,
                owner: None,
                arguments: table.as_table().into(),
            })
        };
        let void = ArrayBuilder::new().with(Field::Void);
        let table = TableBuilder::new()
            .with("bytes", Field::LongString(b"\xff"))
            .with("time", Field::Timestamp(1))
            .with("list", void.as_array())
            .with("kept", 1i8);
        ask(&mut meta, queue("kept", true, table));
        ask(&mut meta, queue("gone", false, TableBuilder::new()));
        let exported = export(meta.topology());
        let document: Value = serde_json::from_str(&exported.json).unwrap();
        let expected = json!([{
            "name": "kept", "vhost": "/", "type": "classic", "durable": true, "auto_delete": false, "arguments": {"kept": 1}
        }]);
        assert_eq!(document["queues"], expected);
        assert_eq!(document["exchanges"], json!([]));
        assert_eq!(
            exported.lost,
            [
                "argument 'bytes' of queue 'kept' in vhost '/': a longstr that JSON cannot say",
                "argument 'list' of queue 'kept' in vhost '/': a array that JSON cannot say",
                "argument 'time' of queue 'kept' in vhost '/': a timestamp that JSON cannot say",
            ]
        );
    }
}
