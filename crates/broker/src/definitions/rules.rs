//! What documents say about how things shall be: policies, limits, and what is written about virtual hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Ignored, to_arguments};
use crate::error::{Error, Kind};
use crate::limits::{UserLimits, VhostLimits};
use crate::meta::Change;
use crate::policy::{ApplyTo, Policy, Tier};
use crate::topology::Metadata;

/// An object, or, since RabbitMQ writes it so in some places, pairs of a key and a value.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Fields {
    Object(Map<String, Value>),
    Pairs(Vec<(String, Value)>),
}

impl Fields {
    fn into_map(self) -> Map<String, Value> {
        match self {
            Fields::Object(fields) => fields,
            Fields::Pairs(pairs) => pairs.into_iter().collect(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct VhostDefinition {
    name: Arc<str>,
    metadata: Option<MetadataDefinition>,
    limits: Option<Fields>,
    #[serde(flatten)]
    own: MetadataDefinition,
}

#[derive(Deserialize, Default)]
struct MetadataDefinition {
    description: Option<String>,
    tags: Option<Vec<Arc<str>>>,
    default_queue_type: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl MetadataDefinition {
    fn says_something(&self) -> bool {
        self.description.is_some() || self.tags.is_some() || self.default_queue_type.is_some()
    }
}

impl VhostDefinition {
    /// The changes but for limits, which go to `limits`.
    pub(super) fn read(self, ignored: &mut Ignored, limits: &mut Limits) -> Result<Vec<Change>, Error> {
        let VhostDefinition { name, metadata, limits: own_limits, own } = self;
        ignored.note("vhosts[].", &own.rest);
        if let Some(fields) = own_limits {
            limits.read(Arc::clone(&name), fields.into_map(), "vhosts[].limits.", ignored)?;
        }
        let mut changes = vec![Change::AddVhost { name: Arc::clone(&name) }];
        let written = metadata.is_some() || own.says_something();
        let inner = metadata.unwrap_or_default();
        ignored.note("vhosts[].metadata.", &inner.rest);
        if written {
            let metadata = Metadata {
                description: inner.description.or(own.description).unwrap_or_default(),
                tags: inner.tags.or(own.tags).unwrap_or_default(),
                default_queue_type: inner.default_queue_type.or(own.default_queue_type).and_then(queue_type),
            };
            changes.push(Change::SetVhostMetadata { vhost: name, metadata });
        }
        Ok(changes)
    }
}

/// The type as `x-queue-type` names it. RabbitMQ has written names of modules, and `undefined` for none.
fn queue_type(name: String) -> Option<Arc<str>> {
    match name.as_str() {
        "" | "undefined" => None,
        "rabbit_classic_queue" => Some(Arc::from("classic")),
        "rabbit_quorum_queue" => Some(Arc::from("quorum")),
        "rabbit_stream_queue" => Some(Arc::from("stream")),
        _ => Some(Arc::from(name)),
    }
}

/// Virtual hosts whose default type is not the classic one, by what has been read.
pub(super) fn with_default_type(changes: &[Change]) -> BTreeSet<Arc<str>> {
    let vhost = |change: &Change| match change {
        Change::SetVhostMetadata { vhost, metadata } => {
            let default = metadata.default_queue_type.as_deref();
            default.is_some_and(|name| name != "classic").then(|| Arc::clone(vhost))
        }
        _ => None,
    };
    changes.iter().filter_map(vhost).collect()
}

/// Limits of virtual hosts, which stand in two places. They are set last, so that they do not keep out what comes with
/// them.
#[derive(Default)]
pub(super) struct Limits(BTreeMap<Arc<str>, VhostLimits>);

impl Limits {
    fn read(
        &mut self,
        vhost: Arc<str>,
        mut fields: Map<String, Value>,
        path: &str,
        ignored: &mut Ignored,
    ) -> Result<(), Error> {
        let whose = format!("vhost '{vhost}'");
        let limits = VhostLimits {
            connections_max: take_limit(&mut fields, "max-connections", &whose)?,
            queues_max: take_limit(&mut fields, "max-queues", &whose)?,
        };
        ignored.note(path, &fields);
        self.0.insert(vhost, limits);
        Ok(())
    }

    pub(super) fn into_changes(self) -> impl Iterator<Item = Change> {
        self.0.into_iter().map(|(vhost, limits)| Change::SetVhostLimits { vhost, limits })
    }
}

/// Reads `users[].limits`.
pub(super) fn user_limits(user: &Arc<str>, limits: Fields, ignored: &mut Ignored) -> Result<Change, Error> {
    let mut fields = limits.into_map();
    let whose = format!("user '{user}'");
    let limits = UserLimits {
        connections_max: take_limit(&mut fields, "max-connections", &whose)?,
        channels_max: take_limit(&mut fields, "max-channels", &whose)?,
    };
    ignored.note("users[].limits.", &fields);
    Ok(Change::SetUserLimits { user: Arc::clone(user), limits })
}

/// Below zero is no limit, as is none at all.
fn take_limit(fields: &mut Map<String, Value>, key: &str, whose: &str) -> Result<Option<u64>, Error> {
    let Some(value) = fields.remove(key) else { return Ok(None) };
    if let Some(limit) = value.as_u64() {
        return Ok(Some(limit));
    }
    if value.is_i64() {
        return Ok(None);
    }
    let text = format!("limit '{key}' of {whose} is {value}, expected an integer, below 0 for no limit");
    Err(Error::new(Kind::Invalid, text))
}

#[derive(Deserialize)]
pub(super) struct PolicyDefinition {
    vhost: Arc<str>,
    name: Arc<str>,
    #[serde(flatten)]
    value: PolicyValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PolicyValue {
    pattern: String,
    #[serde(default)]
    apply_to: ApplyTo,
    #[serde(default)]
    priority: i64,
    definition: Fields,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl PolicyDefinition {
    pub(super) fn read(self, ignored: &mut Ignored) -> Result<Change, Error> {
        ignored.note("policies[].", &self.value.rest);
        self.value.read(Tier::User, self.vhost, self.name)
    }
}

impl PolicyValue {
    fn read(self, tier: Tier, vhost: Arc<str>, name: Arc<str>) -> Result<Change, Error> {
        let PolicyValue { pattern, apply_to, priority, definition, .. } = self;
        let definition = to_arguments(&definition.into_map()).map_err(|error| {
            let text = format!("{} '{name}' in vhost '{vhost}': {}", tier.as_str(), error.text);
            Error::new(error.kind, text)
        })?;
        let policy = Policy { name, pattern, apply_to, priority, definition };
        Ok(Change::PutPolicy { vhost, tier, policy })
    }
}

/// What RabbitMQ calls a parameter: limits of virtual hosts, operator policies, and what plugins keep there.
#[derive(Deserialize)]
pub(super) struct ParameterDefinition {
    component: String,
    vhost: Arc<str>,
    name: Arc<str>,
    value: Value,
}

impl ParameterDefinition {
    /// The change, if it is one; limits go to `limits`.
    pub(super) fn read(self, ignored: &mut Ignored, limits: &mut Limits) -> Result<Option<Change>, Error> {
        let ParameterDefinition { component, vhost, name, value } = self;
        let wrong = |error: serde_json::Error| {
            let text = format!("parameter '{name}' of component '{component}' in vhost '{vhost}': {error}");
            Error::new(Kind::Invalid, text)
        };
        match component.as_str() {
            "operator_policy" => {
                let value: PolicyValue = serde_json::from_value(value).map_err(wrong)?;
                ignored.note("parameters[].value.", &value.rest);
                value.read(Tier::Operator, vhost, name).map(Some)
            }
            "vhost-limits" => {
                let fields: Fields = serde_json::from_value(value).map_err(wrong)?;
                limits.read(vhost, fields.into_map(), "parameters[].value.", ignored)?;
                Ok(None)
            }
            _ => {
                ignored.add(format!("parameters[] of component '{component}'"));
                Ok(None)
            }
        }
    }
}
