//! The format of records.

use expect_test::expect_file;

use super::*;

/// One of each, for the format.
fn samples() -> Vec<Record> {
    let name = || Arc::<str>::from("n");
    let vhost = || Arc::<str>::from("/");
    let arguments = || arguments(|table| table.with("a", 1i32));
    let exchange = Exchange {
        name: name(),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        internal: true,
        arguments: arguments(),
    };
    let queue = Queue {
        id: QueueId(7),
        vhost: vhost(),
        name: name(),
        durable: true,
        auto_delete: true,
        exclusive: None,
        arguments: arguments(),
    };
    let to_queue = binding("x", "k", Destination::Queue("q".into()));
    let to_exchange =
        Binding { arguments: arguments(), ..binding("x", "k", Destination::Exchange("y".into())) };
    let user = User { name: name(), password: PasswordHash::dummy(), tags: vec!["administrator".into()] };
    let policy = Policy {
        name: name(),
        pattern: "^a".into(),
        apply_to: ApplyTo::QuorumQueues,
        priority: -1,
        definition: arguments(),
    };
    let metadata = Metadata {
        description: "d".into(),
        tags: vec!["t".into()],
        default_queue_type: Some("quorum".into()),
    };
    vec![
        Record::QueueIdsReserved { below: 4096 },
        Record::VhostAdded { name: name() },
        Record::VhostDeleted { name: name() },
        Record::ExchangeDeclared { vhost: vhost(), exchange: Arc::new(exchange) },
        Record::ExchangeDeleted { vhost: vhost(), name: name(), durable: true },
        Record::QueueDeclared { queue: Arc::new(queue) },
        Record::QueueDeleted { id: QueueId(7), durable: true },
        Record::Bound { vhost: vhost(), binding: Arc::new(to_queue), durable: true },
        Record::Unbound { vhost: vhost(), binding: Arc::new(to_exchange), durable: true },
        Record::UserPut { user: Arc::new(user) },
        Record::UserDeleted { name: name() },
        Record::PermissionsSet { user: name(), vhost: vhost(), permissions: Permissions::full() },
        Record::PermissionsCleared { user: name(), vhost: vhost() },
        Record::TopicPermissionsSet {
            user: name(),
            vhost: vhost(),
            exchange: "x".into(),
            permissions: TopicPermissions { write: "^a".into(), read: "".into() },
        },
        Record::PolicyPut { vhost: vhost(), tier: Tier::Operator, policy: Arc::new(policy) },
        Record::PolicyDeleted { vhost: vhost(), tier: Tier::User, name: name() },
        Record::VhostMetadataSet { vhost: vhost(), metadata: Arc::new(metadata) },
        Record::VhostLimitsSet {
            vhost: vhost(),
            limits: VhostLimits { connections_max: Some(9), queues_max: None },
        },
        Record::UserLimitsSet {
            user: name(),
            limits: UserLimits { connections_max: None, channels_max: Some(0) },
        },
    ]
}

#[test]
fn golden_records() {
    let mut text = String::new();
    for record in samples() {
        text += &format!("# {record:?}\n");
        for byte in record.encode() {
            text += &format!("{byte:02x}");
        }
        text.push('\n');
    }
    expect_file!["../../../fixtures/meta_v1.txt"].assert_eq(&text);
    let lines = include_str!("../../../fixtures/meta_v1.txt").lines().filter(|line| !line.starts_with('#'));
    let hex = |line: &str| -> Vec<u8> {
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
    };
    let read: Vec<_> = lines.map(|line| Record::decode(KIND, VERSION, &hex(line)).unwrap()).collect();
    assert_eq!(read, samples());
}

#[test]
fn records_of_others_are_refused() {
    let bytes = Record::QueueIdsReserved { below: 1 }.encode();
    assert!(Record::decode(KIND, VERSION + 1, &bytes).is_err());
    assert!(Record::decode(KIND + 1, VERSION, &bytes).is_err());
    for end in 0..bytes.len() {
        assert!(Record::decode(KIND, VERSION, &bytes[..end]).is_err(), "cut at {end}");
    }
}
