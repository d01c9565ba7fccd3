//! What is written about virtual hosts, and limits.

use expect_test::expect;

use super::*;
use crate::topology::QueueKind;

fn metadata(default_queue_type: Option<&str>) -> Change {
    let metadata = Metadata { default_queue_type: default_queue_type.map(Arc::from), ..Metadata::default() };
    Change::SetVhostMetadata { vhost: "/".into(), metadata }
}

fn queues_max(queues_max: Option<u64>) -> Change {
    let limits = VhostLimits { connections_max: None, queues_max };
    Change::SetVhostLimits { vhost: "/".into(), limits }
}

fn durable(name: &str) -> DeclareQueue {
    DeclareQueue { durable: true, ..queue(name) }
}

impl Story {
    fn kind(&self, queue: &str) -> QueueKind {
        self.meta.topology().queue("/", queue).unwrap().kind()
    }
}

#[test]
fn queues_get_the_default_type_where_it_fits() {
    let mut story = Story::with([metadata(Some("quorum"))]);
    let classic = arguments(|table| table.with("x-queue-type", "classic"));
    let kept = arguments(|table| table.with("x-message-ttl", 1i32).with("z", 1i32));
    let wishes = [
        DeclareQueue { arguments: kept, ..durable("plain") },
        DeclareQueue { arguments: classic, ..durable("explicit") },
        DeclareQueue { owner: Some(MINE), ..durable("exclusive") },
        DeclareQueue { auto_delete: true, ..durable("auto-delete") },
        queue("transient"),
        DeclareQueue { server_named: true, ..durable("amq.gen-1") },
    ];
    let mut kinds = Vec::new();
    for wish in wishes {
        let name = Arc::clone(&wish.name);
        story.tell(Change::DeclareQueue(wish.clone()));
        kinds.push(format!("{name} {:?}", story.kind(&name)));
        story.text.clear();
        story.tell(Change::DeclareQueue(wish));
        assert_eq!(story.text, "unchanged\n", "{name} is declared again as it was");
    }
    expect![[r#"
        plain Quorum
        explicit Classic
        exclusive Classic
        auto-delete Classic
        transient Classic
        amq.gen-1 Classic"#]]
    .assert_eq(&kinds.join("\n"));
    let arguments = &story.meta.topology().queue("/", "plain").unwrap().arguments;
    let expected = r#"{"x-message-ttl": signedint 1, "x-queue-type": longstr quorum, "z": signedint 1}"#;
    assert_eq!(format!("{arguments:?}"), expected);
}

#[test]
fn queues_keep_their_type_when_the_default_changes() {
    let mut story = Story::with([Change::DeclareQueue(durable("classic")), metadata(Some("quorum"))]);
    story.tell(Change::DeclareQueue(durable("classic")));
    story.tell(Change::DeclareQueue(durable("quorum")));
    story.tell(metadata(Some("classic")));
    story.tell(metadata(Some("classic")));
    story.tell(Change::DeclareQueue(durable("quorum")));
    story.tell(Change::DeclareQueue(durable("new")));
    assert_eq!([story.kind("classic"), story.kind("new")], [QueueKind::Classic; 2]);
    assert_eq!(story.kind("quorum"), QueueKind::Quorum);
    story.ends(&expect![[r#"
        unchanged
        queue quorum durable, open quorum
        about / durable
        unchanged
        406 inequivalent arg 'x-queue-type' for queue 'quorum' in vhost '/': received none but current is the value 'quorum' of type 'longstr'
        queue new durable, open new
    "#]]);
}

#[test]
fn default_types_that_there_are_not() {
    let elsewhere = Change::SetVhostMetadata { vhost: "v".into(), metadata: Metadata::default() };
    let asked = [metadata(Some("sideways")), metadata(None), elsewhere];
    check(
        [],
        asked,
        &expect![[r#"
        406 vhost '/': default_queue_type is 'sideways', expected classic, quorum or stream
        unchanged
        404 vhost 'v' does not exist
    "#]],
    );
}

#[test]
fn a_virtual_host_has_so_many_queues_and_no_more() {
    let mut story = Story::with([queues_max(Some(2))]);
    story.tell(Change::DeclareQueue(queue("a")));
    story.tell(Change::DeclareQueue(DeclareQueue { owner: Some(MINE), ..queue("b") }));
    story.tell(Change::DeclareQueue(queue("c")));
    story.tell(Change::DeclareQueue(queue("a")));
    story.delete_queue("a");
    story.tell(Change::DeclareQueue(queue("c")));
    story.tell(queues_max(Some(1)));
    story.tell(Change::DeclareQueue(queue("d")));
    story.tell(queues_max(None));
    story.tell(queues_max(None));
    story.tell(Change::DeclareQueue(queue("d")));
    story.ends(&expect![[r#"
        ids below 4096 durable
        queue a, open a
        queue b, open b
        406 cannot declare queue 'c': queue limit in vhost '/' (2) is reached
        unchanged
        no queue 0, drop a
        queue c, open c
        limits of / durable
        406 cannot declare queue 'd': queue limit in vhost '/' (1) is reached
        limits of / durable
        unchanged
        queue d, open d
    "#]]);
}

#[test]
fn limits_of_users_stay_with_them() {
    let user = |tag: &str| {
        let user = User { name: "u".into(), password: PasswordHash::none(), tags: vec![tag.into()] };
        Change::PutUser { user }
    };
    let limits = UserLimits { connections_max: Some(1), channels_max: None };
    let limit = || Change::SetUserLimits { user: "u".into(), limits };
    let mut story = Story::default();
    for change in [limit(), user("a"), limit(), limit(), user("b")] {
        story.tell(change);
    }
    assert_eq!(story.meta.topology().access().limits("u"), limits);
    for change in [Change::DeleteUser { name: "u".into() }, user("a")] {
        story.tell(change);
    }
    assert_eq!(story.meta.topology().access().limits("u"), UserLimits::default());
    story.ends(&expect![[r#"
        404 user 'u' does not exist
        user u durable, look at u
        limits of user u durable
        unchanged
        user u durable, look at u
        no user u durable, look at u
        user u durable, look at u
    "#]]);
}
