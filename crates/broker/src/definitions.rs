//! RabbitMQ's definitions as one JSON document: users, virtual hosts, permissions, limits, policies, exchanges, queues and
//! bindings.
//!
//! Reading them yields [`Change`]s, so what is imported passes the same checks as what clients declare.

mod export;
mod rules;

use std::sync::Arc;

use amqp::table::{ArrayBuilder, TableBuilder, Value as Field};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::access::{Permissions, TopicPermissions, User};
use crate::arguments::Arguments;
use crate::error::{Error, Kind};
use crate::meta::{Change, DeclareExchange, DeclareQueue, NAME_SIZE_MAX};
use crate::password::PasswordHash;
use crate::topology::{Binding, Destination, ExchangeKind};

use rules::{Fields, Limits, ParameterDefinition, PolicyDefinition, VhostDefinition};

pub use export::{Exported, export};

/// What a document says.
#[derive(Debug)]
pub struct Definitions {
    /// To be decided one after another: later ones need earlier ones.
    pub changes: Vec<Change>,
    /// Keys that hold something which was not understood, such as `global_parameters` or `users[].limits.max-hats`; each once.
    pub ignored: Vec<String>,
}

/// Keys that say where the document comes from.
const ORIGIN_KEYS: [&str; 8] = [
    "rabbit_version",
    "rabbitmq_version",
    "product_name",
    "product_version",
    "rabbitmq_definition_format",
    "original_cluster_name",
    "original_vhost_name",
    "explanation",
];

/// Algorithm of password hashes that do not name one.
const DEFAULT_ALGORITHM: &str = "rabbit_password_hashing_sha256";

/// Reads a document. `hash` is asked for the hash of each plain password, with the name of its user.
///
/// # Errors
/// What is not JSON or lacks a field, with line and column; passwords, types and arguments that make no sense.
pub fn parse(
    json: &str,
    mut hash: impl FnMut(&str, &str) -> Result<PasswordHash, Error>,
) -> Result<Definitions, Error> {
    let document: Document = serde_json::from_str(json)
        .map_err(|error| Error::new(Kind::Invalid, format!("definitions: {error}")))?;
    let mut ignored = Ignored::default();
    let mut changes = Vec::new();
    let mut limits = Limits::default();
    ignored.note("", &document.rest);
    for vhost in document.vhosts {
        changes.extend(vhost.read(&mut ignored, &mut limits)?);
    }
    let with_default_type = rules::with_default_type(&changes);
    for mut user in document.users {
        ignored.note("users[].", &user.rest);
        let limits = user.limits.take();
        let user = user.read(&mut hash)?;
        let limits = limits.map(|limits| rules::user_limits(&user.name, limits, &mut ignored)).transpose()?;
        changes.extend([Change::PutUser { user }].into_iter().chain(limits));
    }
    for permission in document.permissions {
        ignored.note("permissions[].", &permission.rest);
        changes.push(permission.read());
    }
    for permission in document.topic_permissions {
        ignored.note("topic_permissions[].", &permission.rest);
        changes.push(permission.read());
    }
    for policy in document.policies {
        changes.push(policy.read(&mut ignored)?);
    }
    for parameter in document.parameters {
        changes.extend(parameter.read(&mut ignored, &mut limits)?);
    }
    for exchange in document.exchanges {
        ignored.note("exchanges[].", &exchange.rest);
        changes.push(exchange.read()?);
    }
    for queue in document.queues {
        ignored.note("queues[].", &queue.rest);
        let has_default_type = with_default_type.contains(&queue.vhost);
        changes.push(queue.read(has_default_type)?);
    }
    // The default exchange's bindings, which some tools write, exist anyway.
    for binding in document.bindings.into_iter().filter(|binding| !binding.source.is_empty()) {
        ignored.note("bindings[].", &binding.rest);
        changes.push(binding.read()?);
    }
    changes.extend(limits.into_changes());
    Ok(Definitions { changes, ignored: ignored.0 })
}

/// Collects keys with a value that was not understood.
#[derive(Default)]
struct Ignored(Vec<String>);

impl Ignored {
    fn note(&mut self, path: &str, rest: &Map<String, Value>) {
        for (key, value) in rest {
            let known = path.is_empty() && ORIGIN_KEYS.contains(&key.as_str());
            let name = format!("{path}{key}");
            if !known && !is_empty(value) {
                self.add(name);
            }
        }
    }

    fn add(&mut self, name: String) {
        if !self.0.contains(&name) {
            self.0.push(name);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    vhosts: Vec<VhostDefinition>,
    #[serde(default)]
    users: Vec<UserDefinition>,
    #[serde(default)]
    permissions: Vec<PermissionDefinition>,
    #[serde(default)]
    topic_permissions: Vec<TopicPermissionDefinition>,
    #[serde(default)]
    policies: Vec<PolicyDefinition>,
    #[serde(default)]
    parameters: Vec<ParameterDefinition>,
    #[serde(default)]
    exchanges: Vec<ExchangeDefinition>,
    #[serde(default)]
    queues: Vec<QueueDefinition>,
    #[serde(default)]
    bindings: Vec<BindingDefinition>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct UserDefinition {
    name: Arc<str>,
    password: Option<String>,
    password_hash: Option<String>,
    hashing_algorithm: Option<String>,
    limits: Option<Fields>,
    #[serde(default)]
    tags: Tags,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Old versions write one string with commas.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tags {
    Text(String),
    List(Vec<Arc<str>>),
}

impl Default for Tags {
    fn default() -> Tags {
        Tags::List(Vec::new())
    }
}

impl UserDefinition {
    fn read(self, hash: &mut impl FnMut(&str, &str) -> Result<PasswordHash, Error>) -> Result<User, Error> {
        let password = match (self.password.as_deref(), self.password_hash.as_deref()) {
            (None | Some(""), None) => PasswordHash::none(),
            (Some(password), None) => hash(&self.name, password)?,
            (_, Some(hash)) => {
                let algorithm = self.hashing_algorithm.as_deref().unwrap_or(DEFAULT_ALGORITHM);
                PasswordHash::from_definitions(hash, algorithm)?
            }
        };
        let tags = match self.tags {
            Tags::List(tags) => tags,
            Tags::Text(text) => {
                text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(Arc::from).collect()
            }
        };
        Ok(User { name: self.name, password, tags })
    }
}

#[derive(Deserialize)]
struct PermissionDefinition {
    user: Arc<str>,
    vhost: Arc<str>,
    configure: String,
    write: String,
    read: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl PermissionDefinition {
    fn read(self) -> Change {
        let permissions = Permissions { configure: self.configure, write: self.write, read: self.read };
        Change::SetPermissions { user: self.user, vhost: self.vhost, permissions }
    }
}

#[derive(Deserialize)]
struct TopicPermissionDefinition {
    user: Arc<str>,
    vhost: Arc<str>,
    exchange: Arc<str>,
    write: String,
    read: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl TopicPermissionDefinition {
    fn read(self) -> Change {
        let TopicPermissionDefinition { user, vhost, exchange, write, read, .. } = self;
        Change::SetTopicPermissions { user, vhost, exchange, permissions: TopicPermissions { write, read } }
    }
}

#[derive(Deserialize)]
struct ExchangeDefinition {
    vhost: Arc<str>,
    name: Arc<str>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default = "yes")]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    arguments: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn yes() -> bool {
    true
}

impl ExchangeDefinition {
    fn read(self) -> Result<Change, Error> {
        Ok(Change::DeclareExchange(DeclareExchange {
            kind: ExchangeKind::parse(&self.kind)?,
            arguments: to_arguments(&self.arguments)?,
            vhost: self.vhost,
            name: self.name,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
        }))
    }
}

#[derive(Deserialize)]
struct QueueDefinition {
    vhost: Arc<str>,
    name: Arc<str>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default = "yes")]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    arguments: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl QueueDefinition {
    /// A classic queue has to say so where others are the default.
    fn read(mut self, has_default_type: bool) -> Result<Change, Error> {
        if let Some(kind) = self.kind.filter(|kind| kind != "classic" || has_default_type) {
            self.arguments.entry("x-queue-type").or_insert(Value::String(kind));
        }
        Ok(Change::DeclareQueue(DeclareQueue {
            arguments: to_arguments(&self.arguments)?,
            // A document may hold queues whose names RabbitMQ once drew.
            server_named: self.name.starts_with("amq."),
            vhost: self.vhost,
            name: self.name,
            durable: self.durable,
            auto_delete: self.auto_delete,
            owner: None,
        }))
    }
}

#[derive(Deserialize)]
struct BindingDefinition {
    vhost: Arc<str>,
    source: Arc<str>,
    destination: Arc<str>,
    destination_type: DestinationType,
    #[serde(default)]
    routing_key: Arc<str>,
    #[serde(default)]
    arguments: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum DestinationType {
    Queue,
    Exchange,
}

impl BindingDefinition {
    fn read(self) -> Result<Change, Error> {
        let destination = match self.destination_type {
            DestinationType::Queue => Destination::Queue(self.destination),
            DestinationType::Exchange => Destination::Exchange(self.destination),
        };
        let arguments = to_arguments(&self.arguments)?;
        let binding = Binding { source: self.source, routing_key: self.routing_key, destination, arguments };
        Ok(Change::Bind { vhost: self.vhost, binding, connection: None })
    }
}

/// JSON as arguments, with the types that RabbitMQ gives: integers are `long`, fractions `double`.
///
/// # Errors
/// `null`; integers beyond 64 bits; keys beyond 255 bytes; too deep nesting.
pub fn to_arguments(fields: &Map<String, Value>) -> Result<Arguments, Error> {
    Arguments::try_from(Bytes::from(to_table(fields)?.into_bytes()))
}

fn to_table(fields: &Map<String, Value>) -> Result<TableBuilder, Error> {
    let mut table = TableBuilder::new();
    for (key, value) in fields {
        if key.len() > NAME_SIZE_MAX {
            return Err(Error::new(Kind::Invalid, "an argument's name has more than 255 bytes"));
        }
        with_field(value, &mut |field| table.insert(key, field))?;
    }
    Ok(table)
}

/// Calls `put` with `value` as a field, which may borrow from a table built on the way.
fn with_field(value: &Value, put: &mut dyn FnMut(Field<'_>)) -> Result<(), Error> {
    match value {
        Value::Null => return Err(Error::new(Kind::Invalid, "null is not allowed in arguments")),
        Value::Bool(truth) => put((*truth).into()),
        Value::String(text) => put(text.as_str().into()),
        Value::Number(number) => put(to_number(number)?),
        Value::Object(fields) => put(to_table(fields)?.as_table().into()),
        Value::Array(values) => {
            let mut array = ArrayBuilder::new();
            for value in values {
                with_field(value, &mut |field| array.push(field))?;
            }
            put(array.as_array().into());
        }
    }
    Ok(())
}

fn to_number(number: &serde_json::Number) -> Result<Field<'static>, Error> {
    match (number.as_i64(), number.as_f64()) {
        (Some(integer), _) => Ok(Field::I64(integer)),
        (None, Some(fraction)) if number.is_f64() => Ok(Field::F64(fraction)),
        _ => Err(Error::new(Kind::Invalid, format!("{number} in arguments does not fit 64 bits"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Meta;
    use crate::topology::Envelope;
    use amqp::properties::Properties;
    use expect_test::expect;

    fn hash(_user: &str, password: &str) -> Result<PasswordHash, Error> {
        PasswordHash::hash(password, [1; 16])
    }

    const DOCUMENT: &str = r#"{
        "rabbit_version": "3.10.8",
        "users": [
            {"name": "imported", "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
             "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["administrator"], "limits": {}},
            {"name": "plain", "password": "secret", "tags": "management, monitoring",
             "limits": {"max-channels": 5, "max-connections": -1, "max-hats": 1}},
            {"name": "certificate", "tags": ""}
        ],
        "vhosts": [{"name": "/"}, {"name": "shop", "metadata": {"description": "Shop", "tags": ["t"], "colour": 1},
                    "limits": [], "default_queue_type": "rabbit_quorum_queue"}],
        "permissions": [{"user": "plain", "vhost": "shop", "configure": "^mine", "write": ".*", "read": ""}],
        "topic_permissions": [{"user": "plain", "vhost": "shop", "exchange": "x", "write": "^{username}", "read": ".*"}],
        "policies": [{"vhost": "/", "name": "p", "pattern": "^q", "apply-to": "quorum_queues", "priority": 2,
                      "definition": {"message-ttl": 5, "overflow": "drop-head"}},
                     {"vhost": "/", "name": "plain", "pattern": "", "definition": {"max-length": 1}, "colour": 1}],
        "parameters": [
            {"component": "operator_policy", "name": "o", "vhost": "/", "value":
             {"pattern": "", "definition": [["message-ttl", 3]], "apply-to": "all", "priority": 0}},
            {"component": "vhost-limits", "name": "limits", "vhost": "shop", "value": {"max-queues": 7, "max-hats": 1}},
            {"component": "shovel", "name": "s", "vhost": "/", "value": {"src-uri": "amqp://"}}
        ],
        "global_parameters": [{"name": "cluster_name", "value": "rabbit"}],
        "exchanges": [{"name": "x", "vhost": "shop", "type": "topic", "durable": true, "auto_delete": false,
                       "internal": false, "arguments": {"alternate-exchange": "amq.fanout"}}],
        "queues": [{"name": "q", "vhost": "shop", "type": "quorum", "durable": true, "auto_delete": false,
                    "arguments": {"x-message-ttl": 60000, "nested": {"list": [1, 1.5, true, "s"]}}}],
        "bindings": [
            {"source": "", "vhost": "shop", "destination": "q", "destination_type": "queue", "routing_key": "q",
             "arguments": {}},
            {"source": "x", "vhost": "shop", "destination": "q", "destination_type": "queue", "routing_key": "a.*",
             "arguments": {}}
        ]
    }"#;

    #[test]
    fn a_document_becomes_changes() {
        let definitions = parse(DOCUMENT, hash).unwrap();
        let story: Vec<_> = definitions.changes.iter().map(|change| format!("{change:?}")).collect();
        expect![[r#"
            AddVhost { name: "/" }
            AddVhost { name: "shop" }
            SetVhostMetadata { vhost: "shop", metadata: Metadata { description: "Shop", tags: ["t"], default_queue_type: Some("quorum") } }
            PutUser { user: User { name: "imported", password: PasswordHash(…), tags: ["administrator"] } }
            SetUserLimits { user: "imported", limits: UserLimits { connections_max: None, channels_max: None } }
            PutUser { user: User { name: "plain", password: PasswordHash(…), tags: ["management", "monitoring"] } }
            SetUserLimits { user: "plain", limits: UserLimits { connections_max: None, channels_max: Some(5) } }
            PutUser { user: User { name: "certificate", password: PasswordHash(none), tags: [] } }
            SetPermissions { user: "plain", vhost: "shop", permissions: Permissions { configure: "^mine", write: ".*", read: "" } }
            SetTopicPermissions { user: "plain", vhost: "shop", exchange: "x", permissions: TopicPermissions { write: "^{username}", read: ".*" } }
            PutPolicy { vhost: "/", tier: User, policy: Policy { name: "p", pattern: "^q", apply_to: QuorumQueues, priority: 2, definition: {"message-ttl": long 5, "overflow": longstr drop-head} } }
            PutPolicy { vhost: "/", tier: User, policy: Policy { name: "plain", pattern: "", apply_to: All, priority: 0, definition: {"max-length": long 1} } }
            PutPolicy { vhost: "/", tier: Operator, policy: Policy { name: "o", pattern: "", apply_to: All, priority: 0, definition: {"message-ttl": long 3} } }
            DeclareExchange(DeclareExchange { vhost: "shop", name: "x", kind: Topic, durable: true, auto_delete: false, internal: false, arguments: {"alternate-exchange": longstr amq.fanout} })
            DeclareQueue(DeclareQueue { vhost: "shop", name: "q", server_named: false, durable: true, auto_delete: false, owner: None, arguments: {"nested": table [{<<"list">>,array,[{long,1},{double,1.5},{bool,true},{longstr,<<"s">>}]}], "x-message-ttl": long 60000, "x-queue-type": longstr quorum} })
            Bind { vhost: "shop", binding: Binding { source: "x", routing_key: "a.*", destination: Queue("q"), arguments: {} }, connection: None }
            SetVhostLimits { vhost: "shop", limits: VhostLimits { connections_max: None, queues_max: Some(7) } }"#]].assert_eq(&story.join("\n"));
        expect![[r#"
            global_parameters
            vhosts[].metadata.colour
            users[].limits.max-hats
            policies[].colour
            parameters[].value.max-hats
            parameters[] of component 'shovel'"#]]
        .assert_eq(&definitions.ignored.join("\n"));
    }

    #[test]
    fn imported_definitions_serve() {
        let mut meta = Meta::new();
        for change in parse(DOCUMENT, hash).unwrap().changes {
            let decision = meta.decide(change).unwrap();
            decision.records.iter().for_each(|record| drop(meta.apply(record)));
        }
        meta.check();
        let access = meta.topology().access();
        assert!(access.user("imported").unwrap().password.verify("test12"));
        assert!(access.user("plain").unwrap().password.verify("secret"));
        assert!(!access.user("certificate").unwrap().password.verify(""));
        let mut targets = Vec::new();
        let message =
            Envelope { routing_keys: &["a.b"], properties: Properties::EMPTY, random: 0, due: false };
        meta.topology().route("shop", "x", &message, &mut targets).unwrap();
        assert_eq!(targets.len(), 1);
    }

    #[test]
    fn documents_that_make_no_sense_are_refused() {
        let queue = |arguments: &str| {
            format!(
                r#"{{"queues": [{{"name": "q", "vhost": "/", "durable": true, "arguments": {arguments}}}]}}"#
            )
        };
        let deep = "[".repeat(40) + &"]".repeat(40);
        let long = "k".repeat(256);
        let documents = [
            "{".to_owned(),
            r#"{"queues": [{"name": "q"}]}"#.to_owned(),
            r#"{"exchanges": [{"name": "x", "vhost": "/", "type": "sideways"}]}"#.to_owned(),
            r#"{"users": [{"name": "u", "password_hash": "AA=="}]}"#.to_owned(),
            r#"{"users": [{"name": "u", "limits": {"max-channels": "5"}}]}"#.to_owned(),
            r#"{"vhosts": [{"name": "v", "limits": {"max-queues": 1.5}}]}"#.to_owned(),
            r#"{"policies": [{"name": "p", "vhost": "/", "pattern": "", "definition": {"message-ttl": null}}]}"#
                .to_owned(),
            r#"{"policies": [{"name": "p", "vhost": "/", "pattern": "", "apply-to": "hats", "definition": {}}]}"#
                .to_owned(),
            r#"{"parameters": [{"component": "operator_policy", "name": "o", "vhost": "/", "value": {}}]}"#
                .to_owned(),
            queue(r#"{"x": null}"#),
            queue(r#"{"x": 18446744073709551615}"#),
            queue(&format!(r#"{{"x": {deep}}}"#)),
            queue(&format!(r#"{{"{long}": 1}}"#)),
        ];
        let story = documents.map(|document| parse(&document, hash).unwrap_err().text);
        expect![[r#"
            definitions: EOF while parsing an object at line 1 column 1
            definitions: missing field `vhost` at line 1 column 25
            unknown exchange type 'sideways'
            a password hash has 1 bytes, expected 36
            limit 'max-channels' of user 'u' is "5", expected an integer, below 0 for no limit
            limit 'max-queues' of vhost 'v' is 1.5, expected an integer, below 0 for no limit
            policy 'p' in vhost '/': null is not allowed in arguments
            definitions: unknown variant `hats`, expected one of `all`, `queues`, `classic_queues`, `quorum_queues`, `streams`, `exchanges` at line 1 column 94
            parameter 'o' of component 'operator_policy' in vhost '/': missing field `pattern`
            null is not allowed in arguments
            18446744073709551615 in arguments does not fit 64 bits
            a table nests more than 32 levels deep
            an argument's name has more than 255 bytes"#]]
        .assert_eq(&story.join("\n"));
    }
}
