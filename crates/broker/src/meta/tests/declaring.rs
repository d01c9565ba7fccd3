//! Queues and exchanges come, stay as they were declared, and go.

use expect_test::expect;

use super::*;

#[test]
fn a_queue_is_declared_again_as_it_was_or_not_at_all() {
    let ttl = |ms: i64| arguments(|table| table.with("x-message-ttl", ms));
    let before = [
        Change::DeclareQueue(queue("q")),
        Change::DeclareQueue(DeclareQueue { arguments: ttl(10), ..queue("ttl") }),
    ];
    let asked = [
        queue("q"),
        DeclareQueue { durable: true, ..queue("q") },
        DeclareQueue { auto_delete: true, ..queue("q") },
        DeclareQueue { owner: Some(MINE), ..queue("q") },
        DeclareQueue { arguments: ttl(10), ..queue("q") },
        DeclareQueue { arguments: arguments(|table| table.with("foo", "bar")), ..queue("q") },
        DeclareQueue { arguments: arguments(|table| table.with("x-queue-type", "classic")), ..queue("q") },
        DeclareQueue { arguments: arguments(|table| table.with("x-message-ttl", 10i16)), ..queue("ttl") },
        DeclareQueue { arguments: ttl(11), ..queue("ttl") },
        DeclareQueue { arguments: arguments(|table| table.with("x-message-ttl", "10")), ..queue("ttl") },
        queue("ttl"),
    ];
    check(
        before,
        asked.map(Change::DeclareQueue),
        &expect![[r#"
        unchanged
        406 inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'
        406 inequivalent arg 'auto_delete' for queue 'q' in vhost '/': received 'true' but current is 'false'
        405 cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.
        406 inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '10' of type 'long' but current is none
        unchanged
        unchanged
        unchanged
        406 inequivalent arg 'x-message-ttl' for queue 'ttl' in vhost '/': received '11' but current is '10'
        406 inequivalent arg 'x-message-ttl' for queue 'ttl' in vhost '/': received '10' but current is '10'
        406 inequivalent arg 'x-message-ttl' for queue 'ttl' in vhost '/': received none but current is the value '10' of type 'long'
    "#]],
    );
}

#[test]
fn an_exchange_is_declared_again_as_it_was_or_not_at_all() {
    let direct = |name| exchange(name, ExchangeKind::Direct);
    let alternate = |table: TableBuilder| table.with("alternate-exchange", "y");
    let asked = [
        direct("x"),
        exchange("x", ExchangeKind::Fanout),
        DeclareExchange { durable: true, ..direct("x") },
        DeclareExchange { auto_delete: true, ..direct("x") },
        DeclareExchange { internal: true, ..direct("x") },
        DeclareExchange { arguments: arguments(alternate), ..direct("x") },
        DeclareExchange { arguments: arguments(|table| table.with("foo", 1i32)), ..direct("x") },
        DeclareExchange { durable: true, ..direct("amq.direct") },
        direct("amq.direct"),
    ];
    check(
        [Change::DeclareExchange(direct("x"))],
        asked.map(Change::DeclareExchange),
        &expect![[r#"
        unchanged
        406 inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'direct'
        406 inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'true' but current is 'false'
        406 inequivalent arg 'auto_delete' for exchange 'x' in vhost '/': received 'true' but current is 'false'
        406 inequivalent arg 'internal' for exchange 'x' in vhost '/': received 'true' but current is 'false'
        406 inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received the value 'y' of type 'longstr' but current is none
        unchanged
        unchanged
        406 inequivalent arg 'durable' for exchange 'amq.direct' in vhost '/': received 'false' but current is 'true'
    "#]],
    );
}

#[test]
fn names_and_operations_that_are_refused() {
    let direct = |name| Change::DeclareExchange(exchange(name, ExchangeKind::Direct));
    let ae = arguments(|table| table.with("alternate-exchange", 1i32));
    let elsewhere = DeclareQueue { vhost: "nowhere".into(), ..queue("q") };
    let asked = [
        direct(""),
        direct("amq.foo"),
        direct("a\nb"),
        direct(&"x".repeat(256)),
        Change::DeclareExchange(DeclareExchange { arguments: ae, ..exchange("ae", ExchangeKind::Direct) }),
        Change::DeclareQueue(queue("")),
        Change::DeclareQueue(queue("amq.foo")),
        Change::DeclareQueue(DeclareQueue { server_named: true, ..queue("amq.gen-1") }),
        Change::DeclareQueue(queue("a\u{1}b")),
        Change::DeclareQueue(elsewhere),
        delete_exchange("", false),
        delete_exchange("amq.direct", false),
        delete_exchange("amq.nope", false),
        delete_exchange("nope", true),
        to_queue("", "k", "amq.gen-1"),
        to_exchange("amq.direct", "k", ""),
        to_queue("nope", "k", "nope"),
        to_queue("amq.direct", "k", "nope"),
        to_exchange("amq.direct", "k", "nope"),
        to_queue("amq.direct", &"k".repeat(256), "amq.gen-1"),
        unbind(to_queue("", "k", "q")),
        unbind(to_queue("amq.direct", "k", "nope")),
        unbind(to_queue("nope", "k", "amq.gen-1")),
    ];
    check(
        [],
        asked,
        &expect![[r#"
        403 operation not permitted on the default exchange
        403 exchange name 'amq.foo' contains reserved prefix 'amq.*'
        406 invalid exchange name: 'a\nb' holds control characters
        406 invalid exchange name: 256 bytes, at most 255 are allowed
        406 invalid type 'signedint' for arg 'alternate-exchange' in exchange 'ae' in vhost '/'
        406 invalid queue name: it is empty
        403 queue name 'amq.foo' contains reserved prefix 'amq.*'
        ids below 4096 durable
        queue amq.gen-1, open amq.gen-1
        406 invalid queue name: 'a\u{1}b' holds control characters
        530 vhost nowhere not found
        403 operation not permitted on the default exchange
        403 deletion of system exchange 'amq.direct' in vhost '/' not allowed
        403 deletion of system exchange 'amq.nope' in vhost '/' not allowed
        unchanged
        403 operation not permitted on the default exchange
        403 operation not permitted on the default exchange
        404 no exchange 'nope' in vhost '/'
        404 no queue 'nope' in vhost '/'
        404 no exchange 'nope' in vhost '/'
        406 a routing key has more than 255 bytes
        403 operation not permitted on the default exchange
        unchanged
        unchanged
    "#]],
    );
    let unknown = ExchangeKind::parse("sideways").unwrap_err();
    assert_eq!((unknown.amqp_code().value(), &*unknown.text), (406, "unknown exchange type 'sideways'"));
}

#[test]
fn an_exclusive_queue_is_for_its_connection_and_goes_with_it() {
    let mine = DeclareQueue { owner: Some(MINE), durable: true, ..queue("mine") };
    let mut story = Story::default();
    story.tell(Change::DeclareQueue(mine.clone()));
    story.tell(Change::DeclareQueue(mine.clone()));
    story.tell(Change::DeclareQueue(DeclareQueue { owner: Some(THEIRS), ..mine.clone() }));
    story.tell(Change::DeclareQueue(DeclareQueue { owner: None, ..mine }));
    let theirs = binding("amq.fanout", "", Destination::Queue("mine".into()));
    let theirs = Change::Bind { vhost: "/".into(), binding: theirs, connection: Some(THEIRS) };
    story.tell(theirs.clone());
    story.tell(to_queue("amq.fanout", "", "mine"));
    story.tell(unbind(theirs));
    story.tell(Change::DeleteConnectionQueues { connection: THEIRS });
    story.tell(Change::DeleteConnectionQueues { connection: MINE });
    story.tell(Change::DeleteConnectionQueues { connection: MINE });
    story.ends(&expect![[r#"
        ids below 4096 durable
        queue mine, open mine
        unchanged
        405 cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.
        405 cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.
        405 cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.
        bound amq.fanout
        405 cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.
        unchanged
        no queue 0, drop mine
        unchanged
    "#]]);
}

#[test]
fn arguments_of_streams() {
    let wishes: Vec<(&str, Value<'_>)> = vec![
        ("x-max-age", "1h".into()),
        ("x-max-age", "1x".into()),
        ("x-max-age", 5i32.into()),
        ("x-max-length-bytes", 5i32.into()),
        ("x-max-length", 5i32.into()),
        ("x-stream-max-segment-size-bytes", 3_000_000_000i64.into()),
        ("x-stream-max-segment-size-bytes", 3_000_000_001i64.into()),
        ("x-stream-max-segment-size-bytes", (-1i32).into()),
        ("x-stream-filter-size-bytes", 15i32.into()),
        ("x-stream-filter-size-bytes", 16i32.into()),
        ("x-stream-filter-size-bytes", 255i32.into()),
        ("x-stream-filter-size-bytes", 256i32.into()),
        ("x-stream-filter-size-bytes", "16".into()),
        ("x-initial-cluster-size", 1i32.into()),
        ("x-queue-leader-locator", "client-local".into()),
        ("x-message-ttl", 1i32.into()),
        ("x-overflow", "drop-head".into()),
        ("x-single-active-consumer", true.into()),
    ];
    let mut story = Story::default();
    for (key, value) in wishes {
        let arguments = arguments(|table| table.with("x-queue-type", "stream").with(key, value));
        declare_and_forget(&mut story, &DeclareQueue { arguments, durable: true, ..queue("q") });
    }
    story.ends(&expect![[r#"
        {"x-max-age": longstr 1h, "x-queue-type": longstr stream}: ok
        {"x-max-age": longstr 1x, "x-queue-type": longstr stream}: 406 invalid arg 'x-max-age' for queue 'q' in vhost '/': invalid_max_age
        {"x-max-age": signedint 5, "x-queue-type": longstr stream}: 406 invalid arg 'x-max-age' for queue 'q' in vhost '/': {unacceptable_type,signedint}
        {"x-max-length-bytes": signedint 5, "x-queue-type": longstr stream}: ok
        {"x-max-length": signedint 5, "x-queue-type": longstr stream}: ok
        {"x-queue-type": longstr stream, "x-stream-max-segment-size-bytes": long 3000000000}: ok
        {"x-queue-type": longstr stream, "x-stream-max-segment-size-bytes": long 3000000001}: 406 invalid arg 'x-stream-max-segment-size-bytes' for queue 'q' in vhost '/': {value_too_large,3000000001}
        {"x-queue-type": longstr stream, "x-stream-max-segment-size-bytes": signedint -1}: 406 invalid arg 'x-stream-max-segment-size-bytes' for queue 'q' in vhost '/': {value_negative,-1}
        {"x-queue-type": longstr stream, "x-stream-filter-size-bytes": signedint 15}: 406 invalid arg 'x-stream-filter-size-bytes' for queue 'q' in vhost '/': "expected 16 to 255, got 15"
        {"x-queue-type": longstr stream, "x-stream-filter-size-bytes": signedint 16}: ok
        {"x-queue-type": longstr stream, "x-stream-filter-size-bytes": signedint 255}: ok
        {"x-queue-type": longstr stream, "x-stream-filter-size-bytes": signedint 256}: 406 invalid arg 'x-stream-filter-size-bytes' for queue 'q' in vhost '/': "expected 16 to 255, got 256"
        {"x-queue-type": longstr stream, "x-stream-filter-size-bytes": longstr 16}: 406 invalid arg 'x-stream-filter-size-bytes' for queue 'q' in vhost '/': "expected integer, got longstr"
        {"x-initial-cluster-size": signedint 1, "x-queue-type": longstr stream}: ok
        {"x-queue-leader-locator": longstr client-local, "x-queue-type": longstr stream}: ok
        {"x-message-ttl": signedint 1, "x-queue-type": longstr stream}: 406 invalid arg 'x-message-ttl' for queue 'q' in vhost '/' of queue type rabbit_stream_queue
        {"x-overflow": longstr drop-head, "x-queue-type": longstr stream}: 406 invalid arg 'x-overflow' for queue 'q' in vhost '/' of queue type rabbit_stream_queue
        {"x-queue-type": longstr stream, "x-single-active-consumer": bool true}: 406 invalid arg 'x-single-active-consumer' for queue 'q' in vhost '/' of queue type rabbit_stream_queue
    "#]]);
}

#[test]
fn arguments_of_queues() {
    let classic: Vec<(&str, Value<'_>)> = vec![
        ("x-message-ttl", 0i32.into()),
        ("x-message-ttl", (-1i32).into()),
        ("x-message-ttl", "a".into()),
        ("x-message-ttl", true.into()),
        ("x-message-ttl", arguments::DURATION_MS_MAX.into()),
        ("x-message-ttl", (arguments::DURATION_MS_MAX + 1).into()),
        ("x-expires", 0i32.into()),
        ("x-expires", 1i32.into()),
        ("x-dead-letter-exchange", 1i32.into()),
        ("x-dead-letter-routing-key", "k".into()),
        ("x-dead-letter-routing-key", 1i32.into()),
        ("x-max-length", (-1i32).into()),
        ("x-max-priority", 255i32.into()),
        ("x-max-priority", 256i32.into()),
        ("x-overflow", "reject-publish-dlx".into()),
        ("x-overflow", "x".into()),
        ("x-overflow", 1i32.into()),
        ("x-queue-mode", "lazy".into()),
        ("x-queue-mode", "x".into()),
        ("x-queue-version", 3i32.into()),
        ("x-single-active-consumer", 1i32.into()),
        ("x-queue-type", "x".into()),
        ("x-queue-type", 1i32.into()),
        ("x-queue-type", "stream".into()),
        ("x-delivery-limit", 5i32.into()),
        ("x-queue-leader-locator", "balanced".into()),
        ("x-max-age", "1Y".into()),
        ("x-unknown", Value::Void),
    ];
    let quorum: Vec<(&str, Value<'_>)> = vec![
        ("x-delivery-limit", (-1i32).into()),
        ("x-delivery-limit", (-2i32).into()),
        ("x-max-priority", 3i32.into()),
        ("x-dead-letter-strategy", "x".into()),
        ("x-quorum-initial-group-size", 0i32.into()),
    ];
    let mut story = Story::default();
    for (key, value) in classic {
        let arguments = arguments(|table| table.with(key, value));
        declare_and_forget(&mut story, &DeclareQueue { arguments, ..queue("q") });
    }
    for (key, value) in quorum {
        let arguments = arguments(|table| table.with("x-queue-type", "quorum").with(key, value));
        declare_and_forget(&mut story, &DeclareQueue { arguments, durable: true, ..queue("q") });
    }
    story.ends(&expect![[r#"
        {"x-message-ttl": signedint 0}: ok
        {"x-message-ttl": signedint -1}: 406 invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_negative,-1}
        {"x-message-ttl": longstr a}: 406 invalid arg 'x-message-ttl' for queue 'q' in vhost '/': "expected integer, got longstr"
        {"x-message-ttl": bool true}: 406 invalid arg 'x-message-ttl' for queue 'q' in vhost '/': "expected integer, got bool"
        {"x-message-ttl": long 315360000000}: ok
        {"x-message-ttl": long 315360000001}: 406 invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_too_large,315360000001}
        {"x-expires": signedint 0}: 406 invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}
        {"x-expires": signedint 1}: ok
        {"x-dead-letter-exchange": signedint 1}: 406 invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'
        {"x-dead-letter-routing-key": longstr k}: 406 invalid arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': routing_key_but_no_dlx_defined
        {"x-dead-letter-routing-key": signedint 1}: 406 invalid arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': {unacceptable_type,signedint}
        {"x-max-length": signedint -1}: 406 invalid arg 'x-max-length' for queue 'q' in vhost '/': {value_negative,-1}
        {"x-max-priority": signedint 255}: ok
        {"x-max-priority": signedint 256}: 406 invalid arg 'x-max-priority' for queue 'q' in vhost '/': {max_value_exceeded,256}
        {"x-overflow": longstr reject-publish-dlx}: ok
        {"x-overflow": longstr x}: 406 invalid arg 'x-overflow' for queue 'q' in vhost '/': invalid_overflow
        {"x-overflow": signedint 1}: 406 invalid arg 'x-overflow' for queue 'q' in vhost '/': {unacceptable_type,signedint}
        {"x-queue-mode": longstr lazy}: ok
        {"x-queue-mode": longstr x}: 406 invalid arg 'x-queue-mode' for queue 'q' in vhost '/': "unsupported queue mode 'x'"
        {"x-queue-version": signedint 3}: 406 invalid arg 'x-queue-version' for queue 'q' in vhost '/': "unsupported queue version '3'"
        {"x-single-active-consumer": signedint 1}: 406 invalid arg 'x-single-active-consumer' for queue 'q' in vhost '/': {unacceptable_type,signedint}
        {"x-queue-type": longstr x}: 406 invalid arg 'x-queue-type' for queue 'q' in vhost '/': "unsupported queue type 'x'"
        {"x-queue-type": signedint 1}: 406 invalid arg 'x-queue-type' for queue 'q' in vhost '/': {unacceptable_type,signedint}
        {"x-queue-type": longstr stream}: 406 invalid property 'non-durable' for queue 'q' in vhost '/'
        {"x-delivery-limit": signedint 5}: 406 invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type rabbit_classic_queue
        {"x-queue-leader-locator": longstr balanced}: ok
        {"x-max-age": longstr 1Y}: 406 invalid arg 'x-max-age' for queue 'q' in vhost '/' of queue type rabbit_classic_queue
        {"x-unknown": void undefined}: ok
        {"x-delivery-limit": signedint -1, "x-queue-type": longstr quorum}: ok
        {"x-delivery-limit": signedint -2, "x-queue-type": longstr quorum}: 406 invalid arg 'x-delivery-limit' for queue 'q' in vhost '/': {value_negative,-2}
        {"x-max-priority": signedint 3, "x-queue-type": longstr quorum}: 406 invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue
        {"x-dead-letter-strategy": longstr x, "x-queue-type": longstr quorum}: 406 invalid arg 'x-dead-letter-strategy' for queue 'q' in vhost '/': invalid_dlx_strategy
        {"x-queue-type": longstr quorum, "x-quorum-initial-group-size": signedint 0}: 406 invalid arg 'x-quorum-initial-group-size' for queue 'q' in vhost '/': {value_zero,0}
    "#]]);
}

#[test]
fn arguments_of_message_groups() {
    let long = "h".repeat(256);
    let alone: [(&str, Value<'_>); 5] = [
        ("x-group-header", "x-group-id".into()),
        ("x-group-header", "".into()),
        ("x-group-header", (&*long).into()),
        ("x-group-header", 1i32.into()),
        ("x-group-concurrency", 2i32.into()),
    ];
    let beside: [(&str, Value<'_>); 9] = [
        ("x-group-concurrency", 1i32.into()),
        ("x-group-concurrency", 65_535i32.into()),
        ("x-group-concurrency", 65_536i32.into()),
        ("x-group-concurrency", 0i32.into()),
        ("x-group-concurrency", (-1i32).into()),
        ("x-group-concurrency", "2".into()),
        ("x-max-priority", 3i32.into()),
        ("x-queue-type", "quorum".into()),
        ("x-queue-type", "stream".into()),
    ];
    let mut story = Story::default();
    for (key, value) in alone {
        let arguments = arguments(|table| table.with(key, value));
        declare_and_forget(&mut story, &DeclareQueue { arguments, ..queue("q") });
    }
    for (key, value) in beside {
        let arguments = arguments(|table| table.with("x-group-header", "id").with(key, value));
        declare_and_forget(&mut story, &DeclareQueue { arguments, durable: true, ..queue("q") });
    }
    story.text = story.text.replace(&long, "h…");
    story.ends(&expect![[r#"
        {"x-group-header": longstr x-group-id}: ok
        {"x-group-header": longstr }: 406 invalid arg 'x-group-header' for queue 'q' in vhost '/': "expected 1 to 255 bytes, got 0"
        {"x-group-header": longstr h…}: 406 invalid arg 'x-group-header' for queue 'q' in vhost '/': "expected 1 to 255 bytes, got 256"
        {"x-group-header": signedint 1}: 406 invalid arg 'x-group-header' for queue 'q' in vhost '/': {unacceptable_type,signedint}
        {"x-group-concurrency": signedint 2}: 406 invalid arg 'x-group-concurrency' for queue 'q' in vhost '/': "needs x-group-header"
        {"x-group-concurrency": signedint 1, "x-group-header": longstr id}: ok
        {"x-group-concurrency": signedint 65535, "x-group-header": longstr id}: ok
        {"x-group-concurrency": signedint 65536, "x-group-header": longstr id}: 406 invalid arg 'x-group-concurrency' for queue 'q' in vhost '/': {max_value_exceeded,65536}
        {"x-group-concurrency": signedint 0, "x-group-header": longstr id}: 406 invalid arg 'x-group-concurrency' for queue 'q' in vhost '/': {value_zero,0}
        {"x-group-concurrency": signedint -1, "x-group-header": longstr id}: 406 invalid arg 'x-group-concurrency' for queue 'q' in vhost '/': {value_negative,-1}
        {"x-group-concurrency": longstr 2, "x-group-header": longstr id}: 406 invalid arg 'x-group-concurrency' for queue 'q' in vhost '/': "expected integer, got longstr"
        {"x-group-header": longstr id, "x-max-priority": signedint 3}: 406 invalid arg 'x-group-header' for queue 'q' in vhost '/': "cannot be combined with x-max-priority: the messages of a group stay in order"
        {"x-group-header": longstr id, "x-queue-type": longstr quorum}: ok
        {"x-group-header": longstr id, "x-queue-type": longstr stream}: 406 invalid arg 'x-group-header' for queue 'q' in vhost '/' of queue type rabbit_stream_queue
    "#]]);
}

fn declare_and_forget(story: &mut Story, wish: &DeclareQueue) {
    let text = story.meta.decide(Change::DeclareQueue(wish.clone()));
    let text =
        text.map_or_else(|error| format!("{} {}", error.amqp_code().value(), error.text), |_| "ok".into());
    story.text += &format!("{:?}: {text}\n", wish.arguments);
}

#[test]
fn quorum_queues_are_durable_shared_and_named() {
    let arguments = arguments(|table| table.with("x-queue-type", "quorum"));
    let quorum = DeclareQueue { arguments, durable: true, ..queue("q") };
    let asked = [
        DeclareQueue { durable: false, ..quorum.clone() },
        DeclareQueue { owner: Some(MINE), ..quorum.clone() },
        DeclareQueue { auto_delete: true, ..quorum.clone() },
        DeclareQueue { server_named: true, ..quorum.clone() },
        quorum,
        DeclareQueue { durable: true, ..queue("q") },
    ];
    check(
        [],
        asked.map(Change::DeclareQueue),
        &expect![[r#"
        406 invalid property 'non-durable' for queue 'q' in vhost '/'
        406 invalid property 'exclusive-owner' for queue 'q' in vhost '/'
        406 invalid property 'auto-delete' for queue 'q' in vhost '/'
        406 Cannot declare a server-named queue for type rabbit_quorum_queue
        ids below 4096 durable
        queue q durable, open q
        406 inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received none but current is the value 'quorum' of type 'longstr'
    "#]],
    );
}

#[test]
fn arguments_about_time_that_consumers_have() {
    let mut story = Story::default();
    for (key, value) in [
        ("x-consumer-timeout", Value::from(0i32)),
        ("x-consumer-timeout", 1i32.into()),
        ("x-delayed-retry-type", "failed".into()),
        ("x-delayed-retry-type", "x".into()),
        ("x-delayed-retry-min", (-1i32).into()),
        ("x-delayed-retry-max", 1i32.into()),
        ("x-delayed-retry-backoff", "x".into()),
        ("x-delayed-retry-backoff", "linear".into()),
        ("x-delayed-retry-jitter", 100i32.into()),
        ("x-delayed-retry-jitter", 101i32.into()),
    ] {
        let arguments = arguments(|table| table.with("x-queue-type", "quorum").with(key, value));
        declare_and_forget(&mut story, &DeclareQueue { arguments, durable: true, ..queue("q") });
    }
    let arguments = arguments(|table| table.with("x-delayed-retry-type", "failed"));
    declare_and_forget(&mut story, &DeclareQueue { arguments, ..queue("q") });
    story.ends(&expect![[r#"
        {"x-consumer-timeout": signedint 0, "x-queue-type": longstr quorum}: 406 invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/': {value_zero,0}
        {"x-consumer-timeout": signedint 1, "x-queue-type": longstr quorum}: ok
        {"x-delayed-retry-type": longstr failed, "x-queue-type": longstr quorum}: ok
        {"x-delayed-retry-type": longstr x, "x-queue-type": longstr quorum}: 406 invalid arg 'x-delayed-retry-type' for queue 'q' in vhost '/': invalid_delayed_retry_type
        {"x-delayed-retry-min": signedint -1, "x-queue-type": longstr quorum}: 406 invalid arg 'x-delayed-retry-min' for queue 'q' in vhost '/': {value_negative,-1}
        {"x-delayed-retry-max": signedint 1, "x-queue-type": longstr quorum}: ok
        {"x-delayed-retry-backoff": longstr x, "x-queue-type": longstr quorum}: 406 invalid arg 'x-delayed-retry-backoff' for queue 'q' in vhost '/': invalid_delayed_retry_backoff
        {"x-delayed-retry-backoff": longstr linear, "x-queue-type": longstr quorum}: ok
        {"x-delayed-retry-jitter": signedint 100, "x-queue-type": longstr quorum}: ok
        {"x-delayed-retry-jitter": signedint 101, "x-queue-type": longstr quorum}: 406 invalid arg 'x-delayed-retry-jitter' for queue 'q' in vhost '/': {max_value_exceeded,101}
        {"x-delayed-retry-type": longstr failed}: 406 invalid arg 'x-delayed-retry-type' for queue 'q' in vhost '/' of queue type rabbit_classic_queue
    "#]]);
}
