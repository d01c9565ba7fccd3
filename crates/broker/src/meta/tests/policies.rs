//! Policies: which one counts, what comes of it, and what is refused.

use expect_test::expect;

use super::*;
use std::sync::Arc;

use crate::topology::{
    DeadLetterStrategy, DelayedRetry, DelayedRetryOf, Overflow, QueueKind, Settings, Source,
};

fn policy(name: &str, pattern: &str, definition: impl Fn(TableBuilder) -> TableBuilder) -> Policy {
    let (name, pattern) = (name.into(), pattern.into());
    Policy { name, pattern, apply_to: ApplyTo::All, priority: 0, definition: arguments(definition) }
}

fn put(tier: Tier, policy: Policy) -> Change {
    Change::PutPolicy { vhost: "/".into(), tier, policy }
}

fn delete(tier: Tier, name: &str) -> Change {
    Change::DeletePolicy { vhost: "/".into(), tier, name: name.into() }
}

fn ttl(name: &str, pattern: &str, ttl: i64) -> Policy {
    policy(name, pattern, |table| table.with("message-ttl", ttl))
}

fn declare(name: &str, fields: impl Fn(TableBuilder) -> TableBuilder) -> Change {
    Change::DeclareQueue(DeclareQueue { durable: true, arguments: arguments(fields), ..queue(name) })
}

impl Story {
    fn settings(&self, queue: &str) -> Settings {
        let topology = self.meta.topology();
        topology.settings(topology.queue("/", queue).unwrap())
    }

    fn counts(&self, queue: &str) -> String {
        let vhost = self.meta.topology().vhost("/").unwrap();
        let policy = vhost.policy_for_queue(Tier::User, vhost.queue(queue).unwrap());
        policy.map_or_else(|| "none".to_owned(), |policy| policy.name.to_string())
    }
}

#[test]
fn queues_change_as_policies_come_and_go() {
    let mut story = Story::with([declare("a", |it| it), declare("b", |it| it)]);
    story.tell(put(Tier::User, ttl("p", "^a", 100)));
    story.tell(put(Tier::User, ttl("p", "^a", 100)));
    story.tell(put(Tier::User, ttl("q", "", 100)));
    story.tell(put(Tier::Operator, ttl("o", "", 50)));
    story.tell(put(Tier::User, ttl("p", "^a", 20)));
    assert_eq!(story.settings("a").message_ttl_ms, Some(20));
    assert_eq!(story.settings("b").message_ttl_ms, Some(50));
    story.tell(delete(Tier::Operator, "o"));
    story.tell(delete(Tier::Operator, "o"));
    story.tell(delete(Tier::User, "p"));
    story.tell(delete(Tier::User, "q"));
    assert_eq!(story.settings("a"), Settings::default());
    story.ends(&expect![[r#"
        policy p durable, change a
        unchanged
        policy q durable, change b
        operator policy o durable, change a, change b
        policy p durable, change a
        no operator policy o durable, change b
        404 operator policy 'o' does not exist in vhost '/'
        no policy p durable, change a
        no policy q durable, change a, change b
    "#]]);
}

#[test]
fn the_highest_priority_counts_then_the_first_name() {
    let mut story = Story::with([declare("orders", |it| it)]);
    let mut found = vec![story.counts("orders")];
    for (name, pattern, priority) in
        [("m", "rd", 0), ("z", "^orders$", 0), ("c", "s$", 0), ("y", "^ord", 1), ("x", "^rd", 9)]
    {
        story.tell(put(Tier::User, Policy { priority, ..ttl(name, pattern, 1) }));
        found.push(story.counts("orders"));
    }
    assert_eq!(found, ["none", "m", "m", "c", "y", "y"]);
}

#[test]
fn a_policy_is_for_some_types_of_queues_and_for_those_that_know_its_keys() {
    let quorum = |name| declare(name, |it| it.with("x-queue-type", "quorum"));
    let story = |apply_to, key: &str, value: Value<'_>| {
        let definition = arguments(|table| table.with(key, value));
        let policy = Policy { apply_to, definition, ..ttl("p", "", 1) };
        let story = Story::with([put(Tier::User, policy), declare("classic", |it| it), quorum("quorum")]);
        [story.counts("classic"), story.counts("quorum")].map(|name| name == "p")
    };
    let found = [
        ApplyTo::All,
        ApplyTo::Queues,
        ApplyTo::ClassicQueues,
        ApplyTo::QuorumQueues,
        ApplyTo::Streams,
        ApplyTo::Exchanges,
    ]
    .map(|apply_to| story(apply_to, "max-length", 1i64.into()));
    let [all, classic, quorum, none] = [[true, true], [true, false], [false, true], [false, false]];
    assert_eq!(found, [all, all, classic, quorum, none, none]);
    assert_eq!(story(ApplyTo::All, "delivery-limit", 1i64.into()), quorum);
    assert_eq!(story(ApplyTo::All, "max-age", "1D".into()), none);
    assert_eq!(story(ApplyTo::All, "alternate-exchange", "x".into()), all);
    assert_eq!(story(ApplyTo::All, "ha-mode", "all".into()), all);
}

#[test]
fn all_keys_become_settings() {
    let by_policy = policy("p", "", |table| {
        table
            .with("message-ttl", 1i64)
            .with("expires", 2i64)
            .with("max-length", 3i64)
            .with("max-length-bytes", 4i64)
            .with("overflow", "reject-publish")
            .with("dead-letter-exchange", "x")
            .with("dead-letter-routing-key", "k")
            .with("dead-letter-strategy", "at-least-once")
            .with("delivery-limit", 5i64)
            .with("consumer-timeout", 6i64)
            .with("delayed-retry-type", "failed")
            .with("delayed-retry-min", 7i64)
            .with("delayed-retry-max", 8i64)
            .with("delayed-retry-backoff", "exponential")
            .with("delayed-retry-jitter", 9i64)
    });
    let by_arguments = |table: TableBuilder| {
        let mut table = table.with("x-queue-type", "quorum");
        for (key, value) in by_policy.definition.table() {
            table.insert(&format!("x-{key}"), value);
        }
        table
    };
    let expected = |queue: &str| Settings {
        kind: QueueKind::Quorum,
        dead_letters_from: Some(Arc::new(Source { vhost: "/".into(), queue: queue.into() })),
        message_ttl_ms: Some(1),
        expires_ms: Some(2),
        dead_letter_exchange: Some("x".into()),
        dead_letter_routing_key: Some("k".into()),
        dead_letter_strategy: DeadLetterStrategy::AtLeastOnce,
        max_length: Some(3),
        max_length_bytes: Some(4),
        overflow: Overflow::RejectPublish,
        max_priority: None,
        groups: None,
        single_active_consumer: false,
        delivery_limit: Some(5),
        consumer_timeout_ms: Some(6),
        delayed_retry: Some(DelayedRetry {
            of: DelayedRetryOf::Failed,
            min_ms: 7,
            max_ms: 8,
            exponential: true,
            jitter_percent: 9,
        }),
        deduplication: None,
        keeps: None,
        max_age_ms: None,
        segment_size: None,
        filter_size: None,
    };
    let mut story = Story::with([declare("arguments", by_arguments)]);
    assert_eq!(story.settings("arguments"), expected("arguments"));
    story.tell(declare("policy", |table| table.with("x-queue-type", "quorum")));
    story.tell(put(Tier::User, by_policy.clone()));
    assert_eq!(story.settings("policy"), expected("policy"));
}

#[test]
fn of_what_is_said_of_a_stream_the_least_counts() {
    let by_policy = policy("s", "", |table| {
        let table = table.with("max-age", "2h").with("max-length-bytes", 7i64);
        table.with("stream-max-segment-size-bytes", 9i64).with("stream-filter-size-bytes", 32i64)
    });
    let stream = |table: TableBuilder| table.with("x-queue-type", "stream").with("x-max-age", "1D");
    let mut story = Story::with([declare("s", stream)]);
    assert_eq!(story.settings("s").max_age_ms, Some(86_400_000));
    story.tell(put(Tier::User, by_policy));
    let settings = story.settings("s");
    let said = (settings.max_age_ms, settings.max_length_bytes, settings.segment_size, settings.filter_size);
    assert_eq!(said, (Some(7_200_000), Some(7), Some(9), Some(32)));
}

#[test]
fn what_only_arguments_can_say() {
    let story = Story::with([declare("q", |table| {
        table.with("x-max-priority", 9i32).with("x-single-active-consumer", true)
    })]);
    let settings = story.settings("q");
    assert_eq!((settings.max_priority, settings.single_active_consumer), (Some(9), true));
}

/// What an argument, a policy and an operator's policy say, and what comes of it.
#[test]
fn numbers_are_limits_and_words_are_the_arguments() {
    let mut lines = String::new();
    for (kind, key, [argument, policy, operator]) in [
        ("classic", "max-length", [Some("3"), Some("2"), Some("1")]),
        ("classic", "max-length", [Some("1"), Some("2"), Some("3")]),
        ("classic", "max-length", [None, Some("2"), Some("3")]),
        ("classic", "max-length", [None, None, Some("3")]),
        ("classic", "overflow", [Some("reject-publish"), Some("drop-head"), None]),
        ("classic", "overflow", [None, Some("reject-publish"), Some("drop-head")]),
        ("classic", "overflow", [None, Some("reject-publish-dlx"), None]),
        ("quorum", "overflow", [Some("reject-publish"), Some("drop-head"), None]),
        ("quorum", "overflow", [Some("drop-head"), Some("drop-head"), Some("reject-publish")]),
        ("quorum", "overflow", [None, Some("reject-publish-dlx"), None]),
        ("quorum", "delivery-limit", [None, None, None]),
        ("quorum", "delivery-limit", [None, Some("-1"), None]),
        ("quorum", "delivery-limit", [Some("-1"), Some("7"), None]),
        ("quorum", "delivery-limit", [Some("9"), Some("-1"), Some("8")]),
        ("classic", "delivery-limit", [None, None, None]),
        ("classic", "dead-letter-exchange", [Some("mine"), Some("theirs"), None]),
        ("classic", "dead-letter-exchange", [None, Some("theirs"), None]),
    ] {
        let say = |key: &str, table: TableBuilder, text: &str| match text.parse::<i64>() {
            Ok(number) => table.with(key, number),
            Err(_) => table.with(key, text),
        };
        let mut story = Story::default();
        for (tier, text) in [(Tier::User, policy), (Tier::Operator, operator)] {
            let definition = text.map(|text| arguments(|table| say(key, table, text)));
            let policy = definition.map(|definition| Policy { definition, ..ttl("p", "", 1) });
            policy.into_iter().for_each(|policy| story.tell(put(tier, policy)));
        }
        story.tell(declare("q", |table| {
            let table = table.with("x-queue-type", kind);
            argument.into_iter().fold(table, |table, text| say(&format!("x-{key}"), table, text))
        }));
        let settings = story.settings("q");
        let found = match key {
            "max-length" => format!("{:?}", settings.max_length),
            "overflow" => format!("{:?}", settings.overflow),
            "delivery-limit" => format!("{:?}", settings.delivery_limit),
            _ => format!("{:?}", settings.dead_letter_exchange),
        };
        let said = [argument, policy, operator].map(|text| text.unwrap_or("-"));
        lines += &format!("{kind} {key} {}: {found}\n", said.join(" "));
    }
    expect![[r#"
        classic max-length 3 2 1: Some(1)
        classic max-length 1 2 3: Some(1)
        classic max-length - 2 3: Some(2)
        classic max-length - - 3: Some(3)
        classic overflow reject-publish drop-head -: RejectPublish
        classic overflow - reject-publish drop-head: DropHead
        classic overflow - reject-publish-dlx -: RejectPublishDlx
        quorum overflow reject-publish drop-head -: DropHead
        quorum overflow drop-head drop-head reject-publish: RejectPublish
        quorum overflow - reject-publish-dlx -: DropHead
        quorum delivery-limit - - -: Some(20)
        quorum delivery-limit - -1 -: None
        quorum delivery-limit -1 7 -: Some(7)
        quorum delivery-limit 9 -1 8: Some(8)
        classic delivery-limit - - -: None
        classic dead-letter-exchange mine theirs -: Some("mine")
        classic dead-letter-exchange - theirs -: Some("theirs")
    "#]]
    .assert_eq(&lines);
}

#[test]
fn strategies_and_delays_that_cannot_take_effect_are_left_out() {
    let settings = |fields: &dyn Fn(TableBuilder) -> TableBuilder| {
        let story = Story::with([declare("q", |table| fields(table.with("x-queue-type", "quorum")))]);
        story.settings("q")
    };
    let strict = |table: TableBuilder| table.with("x-dead-letter-strategy", "at-least-once");
    let exchange = |table: TableBuilder| strict(table).with("x-dead-letter-exchange", "x");
    assert_eq!(settings(&exchange).dead_letter_strategy, DeadLetterStrategy::AtMostOnce);
    let refusing = |table: TableBuilder| strict(table).with("x-overflow", "reject-publish");
    assert_eq!(settings(&refusing).dead_letter_strategy, DeadLetterStrategy::AtMostOnce);
    let retry = |kind: &str, min: i32, max: i32| {
        let table = settings(&|table| {
            let table = table.with("x-delayed-retry-type", kind).with("x-delayed-retry-min", min);
            table.with("x-delayed-retry-max", max)
        });
        table.delayed_retry
    };
    let of = DelayedRetryOf::All;
    let all = |max_ms| Some(DelayedRetry { of, min_ms: 5, max_ms, exponential: false, jitter_percent: 0 });
    assert_eq!([retry("all", 5, 9), retry("all", 5, 1), retry("all", 0, 9)], [all(9), all(5), None]);
    assert_eq!(retry("disabled", 5, 9), None);
}

#[test]
fn policies_give_exchanges_alternates() {
    let mut story = Story::with([
        Change::DeclareExchange(exchange("x", ExchangeKind::Direct)),
        Change::DeclareExchange(exchange("other", ExchangeKind::Fanout)),
        declare("q", |it| it),
        declare("mine", |it| it),
        to_queue("amq.fanout", "", "q"),
        to_queue("other", "", "mine"),
        Change::DeclareExchange(DeclareExchange {
            arguments: arguments(|table| table.with("alternate-exchange", "other")),
            ..exchange("with", ExchangeKind::Direct)
        }),
    ]);
    let alternate = |pattern: &str| policy("p", pattern, |it| it.with("alternate-exchange", "amq.fanout"));
    let mut found = vec![story.routes("x", "k")];
    story.tell(put(Tier::User, alternate("")));
    story.tell(Change::DeclareExchange(exchange("late", ExchangeKind::Direct)));
    found.extend(["x", "late", "with", ""].map(|name| story.routes(name, "k")));
    story.tell(put(Tier::User, Policy { apply_to: ApplyTo::Queues, ..alternate("") }));
    found.push(story.routes("x", "k"));
    story.tell(put(Tier::User, alternate("late")));
    found.extend(["x", "late"].map(|name| story.routes(name, "k")));
    story.tell(delete(Tier::User, "p"));
    found.push(story.routes("late", "k"));
    assert_eq!(found, ["", "q", "q", "mine", "", "", "", "q", ""]);
}

#[test]
fn an_alternate_by_policy_may_look_at_headers() {
    let by_more = |story: &Story| story.meta.topology().routes_by_more_than_key("/", "amq.direct");
    let mut story = Story::default();
    assert!(!by_more(&story));
    story.tell(put(Tier::User, policy("p", "^amq", |it| it.with("alternate-exchange", "amq.headers"))));
    assert!(by_more(&story));
}

#[test]
fn policies_that_make_no_sense() {
    let refused = |key: &str, value: Value<'_>| policy("p", "", |table| table.with(key, value));
    let elsewhere = Change::PutPolicy { vhost: "v".into(), tier: Tier::User, policy: ttl("p", "", 1) };
    let mut asked = vec![
        elsewhere,
        put(Tier::User, ttl("", "", 1)),
        put(Tier::User, ttl("p", "(", 1)),
        put(Tier::User, ttl("p", r"\w{1000}{1000}", 1)),
        put(Tier::User, policy("p", "", |table| table)),
        put(Tier::Operator, refused("dead-letter-exchange", "x".into())),
        put(Tier::Operator, refused("ha-mode", "all".into())),
    ];
    asked.extend(
        [
            refused("max-priority", 1i64.into()),
            refused("group-header", "x-group-id".into()),
            refused("message-ttl", "x".into()),
            refused("message-ttl", (-1i64).into()),
            refused("message-ttl", (arguments::DURATION_MS_MAX + 1).into()),
            refused("message-ttl", 1.5f64.into()),
            refused("expires", 0i64.into()),
            refused("max-length", true.into()),
            refused("delivery-limit", (-2i64).into()),
            refused("overflow", "sideways".into()),
            refused("dead-letter-exchange", 1i64.into()),
            refused("dead-letter-strategy", "never".into()),
            refused("delayed-retry-type", 1i64.into()),
            refused("max-age", "1x".into()),
            refused("max-age", "D".into()),
            refused("stream-filter-size-bytes", 15i64.into()),
        ]
        .map(|policy| put(Tier::User, policy)),
    );
    check(
        [],
        asked,
        &expect![[r#"
            404 vhost 'v' does not exist
            406 invalid policy name: it is empty
            406 policy 'p' in vhost '/': regular expression '(' is invalid
            406 policy 'p' in vhost '/': regular expression '\w{1000}{1000}' is invalid
            406 policy 'p' in vhost '/': it sets nothing, expected at least one key
            406 operator policy 'p' in vhost '/': key 'dead-letter-exchange' is not known, expected one of message-ttl, expires, max-length, max-length-bytes, overflow, delivery-limit
            406 operator policy 'p' in vhost '/': key 'ha-mode' is not known, expected one of message-ttl, expires, max-length, max-length-bytes, overflow, delivery-limit
            406 policy 'p' in vhost '/': key 'max-priority' is not known, expected one of message-ttl, expires, max-length, max-length-bytes, overflow, delivery-limit, alternate-exchange, dead-letter-exchange, dead-letter-routing-key, consumer-timeout, dead-letter-strategy, delayed-retry-type, delayed-retry-min, delayed-retry-max, delayed-retry-backoff, delayed-retry-jitter, max-age, stream-max-segment-size-bytes, stream-filter-size-bytes, max-segment-size, queue-leader-locator, queue-master-locator, initial-cluster-size, target-group-size, consumer-disconnected-timeout, queue-mode, queue-version, max-in-memory-length, max-in-memory-bytes, ha-mode, ha-params, ha-sync-mode, ha-sync-batch-size, ha-promote-on-shutdown, ha-promote-on-failure
            406 policy 'p' in vhost '/': key 'group-header' is not known, expected one of message-ttl, expires, max-length, max-length-bytes, overflow, delivery-limit, alternate-exchange, dead-letter-exchange, dead-letter-routing-key, consumer-timeout, dead-letter-strategy, delayed-retry-type, delayed-retry-min, delayed-retry-max, delayed-retry-backoff, delayed-retry-jitter, max-age, stream-max-segment-size-bytes, stream-filter-size-bytes, max-segment-size, queue-leader-locator, queue-master-locator, initial-cluster-size, target-group-size, consumer-disconnected-timeout, queue-mode, queue-version, max-in-memory-length, max-in-memory-bytes, ha-mode, ha-params, ha-sync-mode, ha-sync-batch-size, ha-promote-on-shutdown, ha-promote-on-failure
            406 policy 'p' in vhost '/': message-ttl is the string 'x', expected an integer from 0 to 315360000000
            406 policy 'p' in vhost '/': message-ttl is -1, expected an integer from 0 to 315360000000
            406 policy 'p' in vhost '/': message-ttl is 315360000001, expected an integer from 0 to 315360000000
            406 policy 'p' in vhost '/': message-ttl is 1.5, expected an integer from 0 to 315360000000
            406 policy 'p' in vhost '/': expires is 0, expected an integer from 1 to 315360000000
            406 policy 'p' in vhost '/': max-length is true, expected an integer, at least 0
            406 policy 'p' in vhost '/': delivery-limit is -2, expected an integer, at least -1
            406 policy 'p' in vhost '/': overflow is the string 'sideways', expected one of drop-head, reject-publish, reject-publish-dlx
            406 policy 'p' in vhost '/': dead-letter-exchange is 1, expected a string
            406 policy 'p' in vhost '/': dead-letter-strategy is the string 'never', expected one of at-most-once, at-least-once
            406 policy 'p' in vhost '/': delayed-retry-type is 1, expected one of disabled, all, failed, returned
            406 policy 'p' in vhost '/': max-age is the string '1x', expected a number with one of the units Y, M, D, h, m, s, as in 7D
            406 policy 'p' in vhost '/': max-age is the string 'D', expected a number with one of the units Y, M, D, h, m, s, as in 7D
            406 policy 'p' in vhost '/': stream-filter-size-bytes is 15, expected an integer from 16 to 255
        "#]],
    );
}

#[test]
fn a_virtual_host_has_so_many_policies_and_no_more() {
    let many = (0..decide::POLICIES_MAX).map(|n| put(Tier::User, ttl(&n.to_string(), "^none$", 1)));
    let mut story = Story::with(many);
    story.tell(put(Tier::User, ttl("more", "", 1)));
    story.tell(put(Tier::User, ttl("7", "", 1)));
    story.tell(put(Tier::Operator, ttl("more", "", 1)));
    story.ends(&expect![[r#"
        406 policy 'more' in vhost '/': there are 1000 already, which is the limit
        policy 7 durable
        operator policy more durable
    "#]]);
}
