//! The policies of a virtual host.

use std::sync::Arc;

use super::QueueKind;
use crate::arguments::Arguments;
use crate::policy::{Policy, Ready, Tier};

/// Both lists are sorted: those that win first.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    user: Arc<Vec<Arc<Ready>>>,
    operator: Arc<Vec<Arc<Ready>>>,
}

impl Policies {
    /// All of one tier, those that win first.
    pub(super) fn iter(&self, tier: Tier) -> impl Iterator<Item = &Arc<Policy>> {
        self.of(tier).iter().map(|ready| &ready.policy)
    }

    /// The one that counts for a queue.
    pub(super) fn for_queue(&self, tier: Tier, name: &str, kind: QueueKind) -> Option<&Arc<Policy>> {
        let mut matching = self.of(tier).iter().filter(|ready| ready.matches_queue(name, kind));
        matching.next().map(|ready| &ready.policy)
    }

    /// The one that counts for an exchange. The default exchange has none: it routes to queues and nowhere else.
    pub(super) fn for_exchange(&self, name: &str) -> Option<&Arc<Policy>> {
        if name.is_empty() {
            return None;
        }
        self.user.iter().find(|ready| ready.matches_exchange(name)).map(|ready| &ready.policy)
    }

    /// Where an exchange sends what it has no binding for, by the policy that counts.
    pub(super) fn alternate(&self, exchange: &str) -> Option<&str> {
        self.for_exchange(exchange)?.definition.string(super::ALTERNATE_EXCHANGE)
    }

    /// The definitions that count for a queue: of users, and of operators.
    pub(super) fn definitions(
        &self,
        queue: &str,
        kind: QueueKind,
    ) -> (Option<&Arguments>, Option<&Arguments>) {
        let definition = |tier| self.for_queue(tier, queue, kind).map(|policy| &policy.definition);
        (definition(Tier::User), definition(Tier::Operator))
    }

    /// Adds a policy in place of the one of its name.
    pub(super) fn put(&mut self, tier: Tier, policy: &Arc<Policy>) {
        self.remove(tier, &policy.name);
        let list = self.of_mut(tier);
        let rank = |it: &Policy| (std::cmp::Reverse(it.priority), Arc::clone(&it.name));
        let at = list.partition_point(|ready| rank(&ready.policy) < rank(policy));
        list.insert(at, Arc::new(Ready::new(policy)));
    }

    /// Removes a policy; false if there was none.
    pub(super) fn remove(&mut self, tier: Tier, name: &str) -> bool {
        let Some(at) = self.of(tier).iter().position(|ready| &*ready.policy.name == name) else {
            return false;
        };
        self.of_mut(tier).remove(at);
        true
    }

    fn of(&self, tier: Tier) -> &[Arc<Ready>] {
        match tier {
            Tier::User => &self.user,
            Tier::Operator => &self.operator,
        }
    }

    fn of_mut(&mut self, tier: Tier) -> &mut Vec<Arc<Ready>> {
        Arc::make_mut(match tier {
            Tier::User => &mut self.user,
            Tier::Operator => &mut self.operator,
        })
    }

    /// Panics if an invariant is broken.
    pub(super) fn check(&self) {
        for tier in [Tier::User, Tier::Operator] {
            let ranks = self.iter(tier).map(|it| (std::cmp::Reverse(it.priority), &it.name));
            assert!(ranks.is_sorted(), "those that win stand first");
            let mut names: Vec<_> = self.iter(tier).map(|it| &it.name).collect();
            names.sort();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "names are unique");
        }
    }
}
