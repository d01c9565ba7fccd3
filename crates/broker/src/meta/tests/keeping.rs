//! Virtual hosts, users, and what a restart keeps.

use expect_test::expect;

use super::*;

#[test]
fn a_better_hash_replaces_only_the_one_it_was_made_for() {
    let user = |password| User { name: "u".into(), password, tags: vec!["monitoring".into()] };
    let hashes = [1, 2, 3].map(|salt| PasswordHash::hash("pw", [salt; 16]).unwrap());
    let replace = |name: &str, old: usize, new: usize| Change::ReplaceHash {
        user: name.into(),
        old: hashes[old].clone(),
        new: hashes[new].clone(),
    };
    let mut story = Story::with([Change::PutUser { user: user(hashes[0].clone()) }]);
    for change in [replace("nobody", 0, 1), replace("u", 1, 2), replace("u", 0, 1), replace("u", 0, 2)] {
        story.tell(change);
    }
    assert_eq!(**story.meta.topology().access().user("u").unwrap(), user(hashes[1].clone()));
    story.ends(&expect![[r#"
        unchanged
        unchanged
        user u durable, look at u
        unchanged
    "#]]);
}

#[test]
fn virtual_hosts_users_and_permissions() {
    let user = || User { name: "u".into(), password: PasswordHash::none(), tags: vec!["monitoring".into()] };
    let may = |user: &str, vhost: &str, read: &str| Change::SetPermissions {
        user: user.into(),
        vhost: vhost.into(),
        permissions: Permissions { read: read.into(), ..Permissions::full() },
    };
    let mine = DeclareQueue { vhost: "shop".into(), owner: Some(MINE), ..queue("mine") };
    let asked = [
        Change::AddVhost { name: "shop".into() },
        Change::AddVhost { name: "shop".into() },
        Change::AddVhost { name: "".into() },
        may("u", "shop", ""),
        Change::PutUser { user: user() },
        Change::PutUser { user: user() },
        Change::PutUser { user: User { name: "".into(), ..user() } },
        may("u", "nowhere", ""),
        may("u", "shop", "("),
        may("u", "shop", ""),
        may("u", "shop", ""),
        may("u", "shop", "^q"),
        Change::DeclareQueue(mine),
        Change::DeleteVhost { name: "shop".into() },
        Change::DeleteVhost { name: "shop".into() },
        may("u", "/", ""),
        Change::ClearPermissions { user: "u".into(), vhost: "/".into() },
        Change::ClearPermissions { user: "u".into(), vhost: "/".into() },
        Change::DeleteUser { name: "u".into() },
        Change::DeleteUser { name: "u".into() },
    ];
    check(
        [],
        asked,
        &expect![[r#"
        vhost shop durable
        unchanged
        406 invalid vhost name: it is empty
        404 user 'u' does not exist
        user u durable, look at u
        unchanged
        406 invalid user name: it is empty
        404 vhost 'nowhere' does not exist
        502 regular expression '(' is invalid
        u may shop durable, look at u
        unchanged
        u may shop durable, look at u
        ids below 4096 durable
        queue mine, open mine
        no vhost shop durable, drop mine, close shop
        404 vhost 'shop' does not exist
        u may / durable, look at u
        u may not / durable, look at u
        unchanged
        no user u durable, look at u
        404 user 'u' does not exist
    "#]],
    );
}

#[test]
fn ids_of_queues_are_not_used_twice_even_after_a_restart() {
    let mut story =
        Story::with([Change::DeclareQueue(queue("transient")), Change::DeclareQueue(queue("gone"))]);
    story.delete_queue("gone");
    let mut restarted = Meta::new();
    story.meta.snapshot_records().for_each(|record| drop(restarted.apply(&record)));
    story.meta = restarted.recovered();
    story.tell(Change::DeclareQueue(queue("next")));
    assert!(story.meta.topology().queue("/", "next").unwrap().id > QueueId(1));
    story.ends(&expect![[r#"
        no queue 1, drop gone
        ids below 8192 durable
        queue next, open next
    "#]]);
}

#[test]
fn the_default_virtual_host_stays_deleted_after_a_restart() {
    let story = Story::with([Change::DeleteVhost { name: "/".into() }]);
    let mut restarted = Meta::new();
    story.meta.snapshot_records().for_each(|record| drop(restarted.apply(&record)));
    assert!(restarted.topology().vhost("/").is_none());
}

#[test]
fn versions_grow_with_changes_only() {
    let mut story = Story::default();
    let mut versions = vec![story.meta.topology().version()];
    for change in [
        Change::DeclareQueue(queue("q")),
        Change::DeclareQueue(queue("q")),
        to_queue("amq.fanout", "", "q"),
        to_queue("amq.fanout", "", "q"),
        unbind(to_queue("amq.fanout", "", "q")),
    ] {
        story.tell(change);
        versions.push(story.meta.topology().version());
    }
    assert_eq!(versions, [1, 2, 2, 3, 3, 4]);
}
