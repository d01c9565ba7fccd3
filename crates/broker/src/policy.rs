//! Policies: settings for queues and exchanges by the pattern of their names.
//!
//! Of the policies that match, one counts: the one with the highest priority, and of equals the first by name. Beside it
//! counts one operator policy, which limits what users may set: see [`crate::topology::Settings`] for how the two and a
//! queue's arguments come together. As in RabbitMQ a policy does not match a queue whose type does not know all keys in it.

mod rules;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::error::{Error, precondition};
use crate::pattern::Pattern;
use crate::topology::QueueKind;

pub use rules::{has_effect, keys};

/// A policy, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Unique among the policies of its tier in its virtual host.
    pub name: Arc<str>,
    /// A regular expression, found anywhere in a name unless it is anchored. An empty one is found in every name.
    pub pattern: String,
    /// What it is for.
    pub apply_to: ApplyTo,
    /// Higher wins.
    pub priority: i64,
    /// What it sets. Keys are those of arguments without the `x-`.
    pub definition: Arguments,
}

/// Who sets a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Those who use the broker.
    User,
    /// Those who run it, to limit the others.
    Operator,
}

/// What a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyTo {
    /// Queues of all types, and exchanges.
    #[default]
    All,
    /// Queues of all types.
    Queues,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
    /// Exchanges.
    Exchanges,
}

impl ApplyTo {
    fn queues_of(self, kind: QueueKind) -> bool {
        match self {
            ApplyTo::All | ApplyTo::Queues => true,
            ApplyTo::ClassicQueues => kind == QueueKind::Classic,
            ApplyTo::QuorumQueues => kind == QueueKind::Quorum,
            ApplyTo::Streams => kind == QueueKind::Stream,
            ApplyTo::Exchanges => false,
        }
    }
}

impl Tier {
    /// How RabbitMQ's texts call a policy of this tier.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::User => "policy",
            Tier::Operator => "operator policy",
        }
    }
}

impl Policy {
    /// Checks the pattern and the definition.
    ///
    /// # Errors
    /// A pattern that cannot be compiled; no keys, keys that are not known, values that make no sense: which, what was
    /// found, and what was expected.
    pub fn check(&self, tier: Tier, vhost: &str) -> Result<(), Error> {
        let Policy { name, .. } = self;
        let refuse =
            |why: String| precondition(format!("{} '{name}' in vhost '{vhost}': {why}", tier.as_str()));
        Pattern::of_policy(&self.pattern).map_err(|error| refuse(error.text))?;
        if self.definition.is_empty() {
            return Err(refuse("it sets nothing, expected at least one key".to_owned()));
        }
        for (key, value) in self.definition.table() {
            rules::check(tier, key, value).map_err(refuse)?;
        }
        Ok(())
    }
}

/// A policy, ready to be asked.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) policy: Arc<Policy>,
    pattern: Pattern,
    /// Types of queues that know all keys.
    kinds: Vec<QueueKind>,
}

impl Ready {
    pub(crate) fn new(policy: &Arc<Policy>) -> Ready {
        // It was compiled once when it was set. Should it not compile now, it matches nothing.
        let pattern = Pattern::of_policy(&policy.pattern).unwrap_or(Pattern::Nothing);
        let known =
            |kind: &QueueKind| policy.definition.table().iter().all(|(key, _)| rules::is_for(key, *kind));
        let kinds = [QueueKind::Classic, QueueKind::Quorum, QueueKind::Stream].into_iter();
        let kinds = kinds.filter(|kind| policy.apply_to.queues_of(*kind)).filter(known).collect();
        Ready { policy: Arc::clone(policy), pattern, kinds }
    }

    pub(crate) fn matches_queue(&self, name: &str, kind: QueueKind) -> bool {
        self.kinds.contains(&kind) && self.pattern.matches(name)
    }

    pub(crate) fn matches_exchange(&self, name: &str) -> bool {
        matches!(self.policy.apply_to, ApplyTo::All | ApplyTo::Exchanges) && self.pattern.matches(name)
    }
}
