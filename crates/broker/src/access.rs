//! Who may do what. Every front end asks here, and nowhere else.
//!
//! As in RabbitMQ, a user has three patterns per virtual host; an operation on a resource is allowed when the resource's
//! name matches the pattern of that operation. A pattern matches anywhere in a name unless it is anchored.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::limits::UserLimits;
use crate::password::PasswordHash;
use crate::pattern::Pattern;

/// A user, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: Arc<str>,
    /// Of the password; [`PasswordHash::none`] for users that cannot log in with one.
    pub password: PasswordHash,
    /// Such as `administrator`; what they mean is up to the HTTP API.
    pub tags: Vec<Arc<str>>,
}

/// A user's patterns in one virtual host, as written. An empty one matches no name.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Permissions {
    /// What may be declared and deleted.
    pub configure: String,
    /// Where messages may be put.
    pub write: String,
    /// Where messages may be taken from.
    pub read: String,
}

/// A user's patterns for the routing keys of one topic exchange, as written. `{username}` and `{vhost}` in them stand for
/// the names, letter by letter. Where a user has none, every key is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TopicPermissions {
    /// With which keys may be published.
    pub write: String,
    /// With which keys may be bound.
    pub read: String,
}

/// What is done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Declare, delete.
    Configure,
    /// Publish to an exchange, bind a destination.
    Write,
    /// Consume, get or purge a queue, bind a source.
    Read,
}

/// What something is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource<'a> {
    /// The queue with this name.
    Queue(&'a str),
    /// The exchange with this name. The default exchange counts as `amq.default`.
    Exchange(&'a str),
}

/// Users and permissions, as of one version of the topology.
#[derive(Clone, Debug, Default)]
pub struct Access {
    accounts: OrdMap<Arc<str>, Account>,
}

#[derive(Clone, Debug)]
struct Account {
    user: Arc<User>,
    limits: UserLimits,
    grants: OrdMap<Arc<str>, Arc<Grant>>,
    /// By virtual host, then by exchange. No map within is empty.
    topics: OrdMap<Arc<str>, OrdMap<Arc<str>, Arc<TopicGrant>>>,
}

/// Permissions, ready to be asked.
#[derive(Debug)]
struct Grant {
    permissions: Permissions,
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

/// Topic permissions, ready to be asked.
#[derive(Debug)]
struct TopicGrant {
    permissions: TopicPermissions,
    write: Pattern,
    read: Pattern,
}

impl Access {
    /// The user called `name`.
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        Some(&self.accounts.get(name)?.user)
    }

    /// All users by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.accounts.values().map(|account| &account.user)
    }

    /// What a user may have.
    pub fn limits(&self, user: &str) -> UserLimits {
        self.accounts.get(user).map_or_else(UserLimits::default, |account| account.limits)
    }

    /// The permissions of a user by virtual host.
    pub fn permissions(&self, user: &str) -> impl Iterator<Item = (&Arc<str>, &Permissions)> {
        let grants = self.accounts.get(user).into_iter().flat_map(|account| &account.grants);
        grants.map(|(vhost, grant)| (vhost, &grant.permissions))
    }

    /// The permissions of a user in one virtual host.
    pub fn permissions_in(&self, user: &str, vhost: &str) -> Option<&Permissions> {
        Some(&self.grant(user, vhost)?.permissions)
    }

    /// Whether `user` may do this; 403 if not.
    pub fn authorize(
        &self,
        user: &str,
        vhost: &str,
        operation: Operation,
        resource: Resource<'_>,
    ) -> Result<(), Error> {
        let (kind, name) = resource.named();
        if self.grant(user, vhost).is_some_and(|grant| grant.pattern(operation).matches(name)) {
            return Ok(());
        }
        let text = format!("access to {kind} '{name}' in vhost '{vhost}' refused for user '{user}'");
        Err(Error::new(Kind::Refused, text))
    }

    /// The topic permissions of a user: virtual host, exchange, patterns.
    pub fn topic_permissions(
        &self,
        user: &str,
    ) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &TopicPermissions)> {
        let topics = self.accounts.get(user).into_iter().flat_map(|account| &account.topics);
        topics.flat_map(|(vhost, exchanges)| {
            exchanges.iter().map(move |(exchange, grant)| (vhost, exchange, &grant.permissions))
        })
    }

    /// Whether `user` may publish with this key to a topic exchange, or bind with it; 403 if not. The exchange itself is
    /// another question: [`Access::authorize`].
    pub fn authorize_topic(
        &self,
        user: &str,
        vhost: &str,
        operation: Operation,
        exchange: &str,
        key: &str,
    ) -> Result<(), Error> {
        let Some(grant) = self.topic_grant(user, vhost, exchange) else { return Ok(()) };
        let pattern = match operation {
            Operation::Write => &grant.write,
            Operation::Read => &grant.read,
            Operation::Configure => return Ok(()),
        };
        if pattern.matches(key) {
            return Ok(());
        }
        let text = format!(
            "access to topic '{key}' in exchange '{exchange}' in vhost '{vhost}' refused for user '{user}'"
        );
        Err(Error::new(Kind::Refused, text))
    }

    /// Whether `user` may open this virtual host at all: has permissions there, even empty ones. 530 if not.
    pub fn may_enter(&self, user: &str, vhost: &str) -> Result<(), Error> {
        if self.grant(user, vhost).is_some() {
            return Ok(());
        }
        Err(Error::new(Kind::NotAllowed, format!("access to vhost '{vhost}' refused for user '{user}'")))
    }

    fn grant(&self, user: &str, vhost: &str) -> Option<&Grant> {
        Some(self.accounts.get(user)?.grants.get(vhost)?)
    }

    fn topic_grant(&self, user: &str, vhost: &str, exchange: &str) -> Option<&TopicGrant> {
        Some(self.accounts.get(user)?.topics.get(vhost)?.get(exchange)?)
    }
}

/// Changes, for the meta shard's `apply`.
impl Access {
    pub(crate) fn put_user(&mut self, user: &Arc<User>) {
        let (user, limits) = (Arc::clone(user), UserLimits::default());
        let account =
            Account { user: Arc::clone(&user), limits, grants: OrdMap::new(), topics: OrdMap::new() };
        let account = self.accounts.entry(Arc::clone(&user.name)).or_insert(account);
        account.user = user;
    }

    pub(crate) fn set_limits(&mut self, user: &str, limits: UserLimits) {
        if let Some(account) = self.accounts.get_mut(user) {
            account.limits = limits;
        }
    }

    pub(crate) fn remove_user(&mut self, name: &str) {
        self.accounts.remove(name);
    }

    pub(crate) fn set_permissions(&mut self, user: &str, vhost: &Arc<str>, permissions: &Permissions) {
        if let Some(account) = self.accounts.get_mut(user) {
            account.grants.insert(Arc::clone(vhost), Arc::new(Grant::new(permissions)));
        }
    }

    pub(crate) fn clear_permissions(&mut self, user: &str, vhost: &str) {
        if let Some(account) = self.accounts.get_mut(user) {
            account.grants.remove(vhost);
        }
    }

    pub(crate) fn set_topic_permissions(
        &mut self,
        user: &str,
        vhost: &Arc<str>,
        exchange: &Arc<str>,
        permissions: &TopicPermissions,
    ) {
        if let Some(account) = self.accounts.get_mut(user) {
            let exchanges = account.topics.entry(Arc::clone(vhost)).or_default();
            let grant = TopicGrant::new(permissions, user, vhost);
            exchanges.insert(Arc::clone(exchange), Arc::new(grant));
        }
    }

    pub(crate) fn forget_vhost(&mut self, vhost: &str) {
        let has_any =
            |account: &Account| account.grants.contains_key(vhost) || account.topics.contains_key(vhost);
        let with_any = self.accounts.iter().filter(|(_, account)| has_any(account));
        for name in with_any.map(|(name, _)| Arc::clone(name)).collect::<Vec<_>>() {
            if let Some(account) = self.accounts.get_mut(&name) {
                account.grants.remove(vhost);
                account.topics.remove(vhost);
            }
        }
    }
}

impl Access {
    /// Panics if an invariant is broken.
    pub(crate) fn check(&self, vhost_exists: impl Fn(&str) -> bool) {
        for (name, account) in &self.accounts {
            assert_eq!(*name, account.user.name, "a user stands at its name");
            let vhosts = account.grants.keys().chain(account.topics.keys());
            assert!(vhosts.into_iter().all(|vhost| vhost_exists(vhost)), "permissions are for what exists");
            assert!(account.topics.values().all(|exchanges| !exchanges.is_empty()), "no map is empty");
        }
    }
}

/// Whether `user` may connect from `peer`: those in `loopback_users` only from this machine.
pub fn may_connect(user: &str, peer: IpAddr, loopback_users: &[String]) -> Result<(), Error> {
    let is_confined = loopback_users.iter().any(|name| name == user);
    if !is_confined || peer.to_canonical().is_loopback() {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("user '{user}' can only connect via localhost")))
}

impl Permissions {
    /// All three patterns match every name.
    pub fn full() -> Permissions {
        let all = || ".*".to_owned();
        Permissions { configure: all(), write: all(), read: all() }
    }

    /// Checks that all three are regular expressions that we can compile.
    pub fn check(&self) -> Result<(), Error> {
        for pattern in [&self.configure, &self.write, &self.read] {
            Pattern::new(pattern)?;
        }
        Ok(())
    }
}

impl TopicPermissions {
    /// Checks that both are regular expressions that we can compile.
    pub fn check(&self, user: &str, vhost: &str) -> Result<(), Error> {
        for pattern in [&self.write, &self.read] {
            Pattern::new(&expanded(pattern, user, vhost))?;
        }
        Ok(())
    }
}

/// A pattern with the names in it. Names mean themselves, whatever is in them; a variable that is not ours does, too.
fn expanded(pattern: &str, user: &str, vhost: &str) -> String {
    pattern
        .replace("{client_id}", "\\{client_id\\}")
        .replace("{username}", &regex::escape(user))
        .replace("{vhost}", &regex::escape(vhost))
}

impl TopicGrant {
    fn new(permissions: &TopicPermissions, user: &str, vhost: &str) -> TopicGrant {
        // As with other permissions: should one not compile now, it allows nothing.
        let pattern = |text| Pattern::new(&expanded(text, user, vhost)).unwrap_or(Pattern::Nothing);
        TopicGrant {
            write: pattern(&permissions.write),
            read: pattern(&permissions.read),
            permissions: permissions.clone(),
        }
    }
}

impl<'a> Resource<'a> {
    fn named(self) -> (&'static str, &'a str) {
        match self {
            Resource::Queue(name) => ("queue", name),
            Resource::Exchange("") => ("exchange", "amq.default"),
            Resource::Exchange(name) => ("exchange", name),
        }
    }
}

impl Grant {
    fn new(permissions: &Permissions) -> Grant {
        // They were compiled once when they were set. Should one not compile now, it allows nothing.
        let pattern = |text| Pattern::new(text).unwrap_or(Pattern::Nothing);
        Grant {
            configure: pattern(&permissions.configure),
            write: pattern(&permissions.write),
            read: pattern(&permissions.read),
            permissions: permissions.clone(),
        }
    }

    fn pattern(&self, operation: Operation) -> &Pattern {
        match operation {
            Operation::Configure => &self.configure,
            Operation::Write => &self.write,
            Operation::Read => &self.read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn access(configure: &str, write: &str, read: &str) -> Access {
        let mut access = Access::default();
        let user = User { name: "u".into(), password: PasswordHash::none(), tags: Vec::new() };
        access.put_user(&Arc::new(user));
        let permissions = Permissions { configure: configure.into(), write: write.into(), read: read.into() };
        permissions.check().unwrap();
        access.set_permissions("u", &"/".into(), &permissions);
        access
    }

    #[test]
    fn a_table_of_patterns_and_names() {
        let mut story = String::new();
        for pattern in ["", "^$", ".*", "ok", "^ok", "^ok$", "^(amq\\.default|ok)$", "^amq\\.default$", "a|b"]
        {
            let access = access("", pattern, "");
            story += &format!("{pattern:?}:");
            for resource in
                ["ok", "not-ok", "okay", "b"].map(Resource::Queue).into_iter().chain([Resource::Exchange("")])
            {
                let allowed = access.authorize("u", "/", Operation::Write, resource).is_ok();
                story += &format!(" {}{}", if allowed { "" } else { "-" }, resource.named().1);
            }
            story.push('\n');
        }
        expect![[r#"
            "": -ok -not-ok -okay -b -amq.default
            "^$": -ok -not-ok -okay -b -amq.default
            ".*": ok not-ok okay b amq.default
            "ok": ok not-ok okay -b -amq.default
            "^ok": ok -not-ok okay -b -amq.default
            "^ok$": ok -not-ok -okay -b -amq.default
            "^(amq\\.default|ok)$": ok -not-ok -okay -b amq.default
            "^amq\\.default$": -ok -not-ok -okay -b amq.default
            "a|b": -ok -not-ok okay b amq.default
        "#]]
        .assert_eq(&story);
    }

    #[test]
    fn each_operation_has_its_own_pattern() {
        let access = access("c", "w", "r");
        let mut story = String::new();
        for operation in [Operation::Configure, Operation::Write, Operation::Read] {
            for name in ["c", "w", "r"] {
                if access.authorize("u", "/", operation, Resource::Queue(name)).is_ok() {
                    story += &format!("{operation:?} {name}\n");
                }
            }
        }
        expect![[r#"
            Configure c
            Write w
            Read r
        "#]]
        .assert_eq(&story);
    }

    #[test]
    fn refusals_in_the_words_of_rabbitmq() {
        let access = access("", "", "");
        let refusals = [
            access.authorize("u", "/", Operation::Read, Resource::Queue("q")),
            access.authorize("u", "/", Operation::Write, Resource::Exchange("")),
            access.authorize("u", "other", Operation::Read, Resource::Queue("q")),
            access.authorize("nobody", "/", Operation::Read, Resource::Queue("q")),
            access.may_enter("u", "/"),
            access.may_enter("u", "other"),
            access.may_enter("nobody", "/"),
            Permissions { read: "(".into(), ..Permissions::full() }.check(),
            Permissions { read: "\\w{1000}{1000}".into(), ..Permissions::full() }.check(),
        ];
        let story: Vec<_> =
            refusals.into_iter().map(|it| it.map_or_else(|error| error.text, |()| "ok".into())).collect();
        expect![[r#"
            access to queue 'q' in vhost '/' refused for user 'u'
            access to exchange 'amq.default' in vhost '/' refused for user 'u'
            access to queue 'q' in vhost 'other' refused for user 'u'
            access to queue 'q' in vhost '/' refused for user 'nobody'
            ok
            access to vhost 'other' refused for user 'u'
            access to vhost '/' refused for user 'nobody'
            regular expression '(' is invalid
            regular expression '\w{1000}{1000}' is invalid"#]]
        .assert_eq(&story.join("\n"));
    }

    #[test]
    fn topics_are_free_until_there_are_permissions_for_the_exchange() {
        let mut access = access(".*", ".*", ".*");
        let topics = |write: &str, read: &str| TopicPermissions { write: write.into(), read: read.into() };
        access.set_topic_permissions(
            "u",
            &"/".into(),
            &"x".into(),
            &topics("^a\\.", "^{vhost}{username}-.*"),
        );
        let may = |operation, exchange, key| access.authorize_topic("u", "/", operation, exchange, key);
        assert!(may(Operation::Write, "x", "a.b").is_ok() && may(Operation::Write, "y", "b").is_ok());
        assert!(may(Operation::Read, "x", "/u-1").is_ok() && may(Operation::Read, "x", "/v-1").is_err());
        assert_eq!(
            may(Operation::Write, "x", "b.a").unwrap_err().text,
            "access to topic 'b.a' in exchange 'x' in vhost '/' refused for user 'u'"
        );
    }

    #[test]
    fn names_in_patterns_mean_themselves() {
        let may = |user: &str, pattern: &str, key: &str| {
            let pattern = Pattern::new(&expanded(pattern, user, "v")).unwrap();
            pattern.matches(key)
        };
        assert!(may("a.c", "^{username}$", "a.c") && !may("a.c", "^{username}$", "abc"));
        assert!(may("a-z", "^[{username}]$", "-") && !may("a-z", "^[{username}]$", "m"));
        assert!(!may(".*", "^{username}$", "anything"));
        assert!(may("u", "^{client_id}$", "{client_id}") && !may("u", "^{client_id}$", "x"));
        assert!(TopicPermissions { write: "(".into(), read: String::new() }.check("u", "v").is_err());
    }

    #[test]
    fn loopback_users_connect_from_this_machine_only() {
        let confined = ["guest".to_owned()];
        let from = |user, peer: &str| may_connect(user, peer.parse().unwrap(), &confined).is_ok();
        assert!(from("guest", "127.0.0.1") && from("guest", "::1") && from("guest", "::ffff:127.0.0.1"));
        assert!(!from("guest", "10.0.0.1") && !from("guest", "::ffff:10.0.0.1"));
        assert!(from("u", "10.0.0.1"));
    }
}
