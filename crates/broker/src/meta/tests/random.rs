//! Random sequences of changes: the invariants hold after each, a restart keeps what is durable, and it all drains.

use std::sync::Arc;

use amqp::table::TableBuilder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::topology::{Settings, Vhost};

/// Numbers below this mean one of the open queues; itself, it is an id like any other.
const AIMED: u64 = 20;

/// Few names, so that changes meet.
fn name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["[abc]", Just("amq.topic".to_owned()), Just(String::new())].prop_map(Arc::from)
}

fn vhost() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![9 => Just("/"), 1 => Just("v")].prop_map(Arc::from)
}

fn kind() -> impl Strategy<Value = ExchangeKind> {
    prop_oneof![
        Just(ExchangeKind::Direct),
        Just(ExchangeKind::Fanout),
        Just(ExchangeKind::Topic),
        Just(ExchangeKind::Headers),
        Just(ExchangeKind::ModulusHash),
        Just(ExchangeKind::Random)
    ]
}

fn arguments() -> impl Strategy<Value = Arguments> {
    prop_oneof![3 => Just(TableBuilder::new()), 1 => Just(TableBuilder::new().with("a", 1i32))]
        .prop_map(|table| table.as_table().into())
}

fn connection() -> impl Strategy<Value = ConnectionId> {
    (0..2u64).prop_map(ConnectionId)
}

fn binding() -> impl Strategy<Value = Binding> {
    let destination =
        prop_oneof![name().prop_map(Destination::Queue), name().prop_map(Destination::Exchange)];
    (name(), prop_oneof!["[ab]", "#|[*]\\.a"], destination, arguments()).prop_map(
        |(source, key, destination, arguments)| Binding {
            source,
            routing_key: key.into(),
            destination,
            arguments,
        },
    )
}

fn declare_exchange() -> impl Strategy<Value = Change> {
    (vhost(), name(), kind(), any::<[bool; 3]>()).prop_map(
        |(vhost, name, kind, [durable, auto_delete, internal])| {
            let arguments = Arguments::default();
            Change::DeclareExchange(DeclareExchange {
                vhost,
                name,
                kind,
                durable,
                auto_delete,
                internal,
                arguments,
            })
        },
    )
}

fn declare_queue() -> impl Strategy<Value = Change> {
    let owner = proptest::option::weighted(0.3, connection());
    (vhost(), name(), any::<[bool; 2]>(), owner).prop_map(|(vhost, name, [durable, auto_delete], owner)| {
        let arguments = Arguments::default();
        Change::DeclareQueue(DeclareQueue {
            vhost,
            name,
            server_named: false,
            durable,
            auto_delete,
            owner,
            arguments,
        })
    })
}

fn access() -> impl Strategy<Value = Change> {
    (0..5, vhost(), "[uw]").prop_map(|(what, vhost, user)| {
        let user: Arc<str> = user.into();
        match what {
            0 => Change::PutUser {
                user: User { name: user, password: PasswordHash::none(), tags: Vec::new() },
            },
            1 => Change::DeleteUser { name: user },
            2 => Change::SetPermissions { user, vhost, permissions: Permissions::full() },
            3 => Change::SetTopicPermissions {
                user,
                vhost,
                exchange: "x".into(),
                permissions: TopicPermissions::default(),
            },
            _ => Change::ClearPermissions { user, vhost },
        }
    })
}

fn about() -> impl Strategy<Value = Change> {
    (0..4, vhost(), "[uw]", proptest::option::of(1..9u64)).prop_map(|(what, vhost, user, max)| match what {
        0 => Change::SetVhostLimits { vhost, limits: VhostLimits { connections_max: None, queues_max: max } },
        1 => Change::SetUserLimits {
            user: user.into(),
            limits: UserLimits { connections_max: max, channels_max: max },
        },
        _ => Change::SetVhostMetadata {
            vhost,
            metadata: Metadata {
                default_queue_type: max.map(|max| ["quorum", "classic"][(max % 2) as usize].into()),
                ..Metadata::default()
            },
        },
    })
}

fn definition() -> impl Strategy<Value = Arguments> {
    let ttl = |ttl: i64| TableBuilder::new().with("message-ttl", ttl);
    let alternate = TableBuilder::new().with("alternate-exchange", "b");
    let dead_letters = TableBuilder::new().with("dead-letter-exchange", "a").with("delivery-limit", 3i64);
    let table = prop_oneof![(1..3i64).prop_map(ttl), Just(alternate), Just(dead_letters)];
    table.prop_map(|table| table.as_table().into())
}

fn policy() -> impl Strategy<Value = Change> {
    let tier = prop_oneof![3 => Just(Tier::User), 1 => Just(Tier::Operator)];
    let apply_to = prop_oneof![Just(ApplyTo::All), Just(ApplyTo::Queues), Just(ApplyTo::Exchanges)];
    let put = (vhost(), tier.clone(), "[pq]", "a|b|", apply_to, 0..3i64, definition()).prop_map(
        |(vhost, tier, name, pattern, apply_to, priority, definition)| {
            let name = name.into();
            let policy = Policy { name, pattern, apply_to, priority, definition };
            Change::PutPolicy { vhost, tier, policy }
        },
    );
    let delete = (vhost(), tier, "[pq]");
    let delete =
        delete.prop_map(|(vhost, tier, name)| Change::DeletePolicy { vhost, tier, name: name.into() });
    prop_oneof![3 => put, 1 => delete]
}

fn change() -> impl Strategy<Value = Change> {
    let delete_exchange = (vhost(), name(), any::<bool>())
        .prop_map(|(vhost, name, if_unused)| Change::DeleteExchange { vhost, name, if_unused });
    prop_oneof![
        4 => declare_exchange(),
        4 => declare_queue(),
        2 => delete_exchange,
        2 => (0..=AIMED).prop_map(|id| Change::DeleteQueue { id: QueueId(id) }),
        1 => connection().prop_map(|connection| Change::DeleteConnectionQueues { connection }),
        8 => (vhost(), binding(), connection())
            .prop_map(|(vhost, binding, by)| Change::Bind { vhost, binding, connection: Some(by) }),
        3 => (vhost(), binding(), connection())
            .prop_map(|(vhost, binding, by)| Change::Unbind { vhost, binding, connection: Some(by) }),
        1 => vhost().prop_map(|name| Change::AddVhost { name }),
        1 => vhost().prop_map(|name| if &*name == "/" { Change::AddVhost { name } } else { Change::DeleteVhost { name } }),
        2 => access(),
        3 => policy(),
        1 => about(),
    ]
}

/// A broker with its log, and all ids that it ever gave to queues.
#[derive(Default)]
struct Broker {
    meta: Meta,
    log: Vec<Vec<u8>>,
    ids: BTreeSet<QueueId>,
    open: BTreeMap<QueueId, Settings>,
}

impl Broker {
    fn ask(&mut self, change: Change) {
        let change = self.aim(change);
        let Ok(decision) = self.meta.decide(change.clone()) else {
            return;
        };
        let sources = bound_sources(&self.meta);
        assert_eq!(decision.durable, decision.records.iter().any(Record::is_durable));
        for record in &decision.records {
            let version = self.meta.topology().version();
            let effects = self.meta.apply(record);
            self.check_announced(&effects);
            let reserves = matches!(record, Record::QueueIdsReserved { .. });
            assert!(reserves || self.meta.topology().version() > version, "{record:?} changes something");
            effects.into_iter().for_each(|effect| self.perform(effect));
            if record.is_durable() {
                self.log.push(record.encode());
            }
        }
        self.meta.check();
        self.check_open();
        self.check_auto_deleted(&sources);
        if let (true, Ok(again)) = (is_idempotent(&change), self.meta.decide(change)) {
            assert!(again.records.is_empty(), "asked twice, done once");
        }
    }

    /// Makes a small random number the id of one of the open queues.
    fn aim(&self, change: Change) -> Change {
        match change {
            Change::DeleteQueue { id: QueueId(number @ 0..AIMED) } if !self.open.is_empty() => {
                let nth = usize::try_from(number).unwrap() % self.open.len();
                Change::DeleteQueue { id: *self.open.keys().nth(nth).unwrap() }
            }
            change => change,
        }
    }

    /// Exactly the queues are announced whose settings are others than their shards have.
    fn check_announced(&self, effects: &[Effect]) {
        let topology = self.meta.topology();
        let differs = |queue: &&Arc<Queue>| {
            self.open.get(&queue.id).is_some_and(|settings| *settings != topology.settings(queue))
        };
        let announced = effects.iter().filter_map(|effect| match effect {
            Effect::QueueChanged(queue) => Some(queue.id),
            _ => None,
        });
        let changed = topology.queues().filter(differs).map(|queue| queue.id);
        assert_eq!(changed.collect::<BTreeSet<_>>(), announced.collect());
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::QueueOpened(queue) => {
                assert!(self.ids.insert(queue.id), "ids are not used twice");
                self.open.insert(queue.id, self.meta.topology().settings(&queue));
            }
            Effect::QueueChanged(queue) => {
                let settings = self.meta.topology().settings(&queue);
                assert!(self.open.insert(queue.id, settings).is_some(), "what changes was open");
            }
            Effect::QueueDropped(queue) => {
                assert!(self.open.remove(&queue.id).is_some(), "what is dropped was open");
            }
            Effect::VhostDropped(_) | Effect::AccessChanged(_) => {}
        }
    }

    fn check_open(&self) {
        assert_eq!(settings(&self.meta), self.open, "shards have the queues of the topology");
    }

    /// An auto-delete exchange does not outlive its last binding.
    fn check_auto_deleted(&self, bound_before: &BTreeSet<(Arc<str>, Arc<str>)>) {
        let bound = bound_sources(&self.meta);
        for (vhost, name) in bound_before.difference(&bound) {
            let left = self.meta.topology().exchange(vhost, name);
            assert!(left.is_none_or(|exchange| !exchange.auto_delete), "{name} lost its last binding");
        }
    }

    /// Loses what is not durable.
    fn restart(&mut self) {
        let mut meta = Meta::new();
        for bytes in &self.log {
            meta.apply(&Record::decode(KIND, VERSION, bytes).unwrap());
        }
        meta.check();
        assert_eq!(durable(&self.meta), durable(&meta), "a restart keeps what is durable");
        assert_eq!(durable(&meta), everything(&meta), "and nothing else");
        self.open = settings(&meta);
        self.meta = meta.recovered();
    }

    fn shorten_log(&mut self) {
        self.log = self.meta.snapshot_records().map(|record| record.encode()).collect();
    }

    /// Removes all that can be removed.
    fn drain(&mut self) {
        while !self.open.is_empty() {
            self.ask(Change::DeleteQueue { id: QueueId(0) });
        }
        let vhosts: Vec<Vhost> = self.meta.topology().vhosts().cloned().collect();
        for vhost in &vhosts {
            for exchange in vhost.exchanges().filter(|exchange| !exchange.is_predeclared()) {
                let (vhost, name) = (Arc::clone(vhost.name()), Arc::clone(&exchange.name));
                self.ask(Change::DeleteExchange { vhost, name, if_unused: false });
            }
            for binding in vhost.bindings() {
                let binding = Binding::clone(binding);
                self.ask(Change::Unbind { vhost: Arc::clone(vhost.name()), binding, connection: None });
            }
        }
    }
}

/// The settings of all queues.
fn settings(meta: &Meta) -> BTreeMap<QueueId, Settings> {
    let topology = meta.topology();
    topology.queues().map(|queue| (queue.id, topology.settings(queue))).collect()
}

/// Virtual hosts and names of the exchanges that are the source of a binding.
fn bound_sources(meta: &Meta) -> BTreeSet<(Arc<str>, Arc<str>)> {
    let bindings =
        meta.topology().vhosts().flat_map(|vhost| vhost.bindings().map(move |binding| (vhost, binding)));
    bindings.map(|(vhost, binding)| (Arc::clone(vhost.name()), Arc::clone(&binding.source))).collect()
}

fn is_idempotent(change: &Change) -> bool {
    !matches!(change, Change::DeleteVhost { .. } | Change::DeleteUser { .. } | Change::DeletePolicy { .. })
}

type State = (Vec<Arc<Exchange>>, Vec<Arc<Queue>>, Vec<(Arc<str>, Arc<Binding>)>, Vec<String>);

fn state(meta: &Meta, keep: impl Fn(&Vhost, &Binding) -> bool, durable_only: bool) -> State {
    let topology = meta.topology();
    let exchanges = topology.vhosts().flat_map(Vhost::exchanges).filter(|it| it.durable || !durable_only);
    let queues = topology.queues().filter(|queue| queue.durable || !durable_only);
    let mut bindings = Vec::new();
    for vhost in topology.vhosts() {
        let kept = vhost.bindings().filter(|binding| keep(vhost, binding));
        bindings.extend(kept.map(|binding| (Arc::clone(vhost.name()), Arc::clone(binding))));
    }
    let names = topology.vhosts().map(|vhost| {
        let policies = [Tier::User, Tier::Operator].map(|tier| vhost.policies(tier).collect::<Vec<_>>());
        format!("{} {:?} {:?} {policies:?}", vhost.name(), vhost.metadata(), vhost.limits())
    });
    let users = topology.access().users().map(|user| {
        let permissions: Vec<_> = topology.access().permissions(&user.name).collect();
        let topics: Vec<_> = topology.access().topic_permissions(&user.name).collect();
        format!("{user:?} {:?} {permissions:?} {topics:?}", topology.access().limits(&user.name))
    });
    (exchanges.cloned().collect(), queues.cloned().collect(), bindings, names.chain(users).collect())
}

fn durable(meta: &Meta) -> State {
    state(meta, Vhost::is_durable_binding, true)
}

fn everything(meta: &Meta) -> State {
    state(meta, |_, _| true, false)
}

proptest! {
    #[test]
    fn any_changes_keep_the_invariants_survive_restarts_and_drain(changes in vec((change(), 0..40), 1..120)) {
        let mut broker = Broker::default();
        for (change, event) in changes {
            broker.ask(change);
            match event {
                0 => broker.restart(),
                1 => broker.shorten_log(),
                _ => {}
            }
        }
        broker.restart();
        broker.drain();
        let topology = broker.meta.topology();
        prop_assert_eq!(topology.queues().count(), 0);
        for vhost in topology.vhosts() {
            prop_assert!(vhost.exchanges().all(|exchange| exchange.is_predeclared()));
            prop_assert_eq!(vhost.bindings().count(), 0);
        }
    }
}
