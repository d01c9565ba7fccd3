//! Bindings, what hangs on them, and the ways of messages.

use expect_test::expect;

use super::*;

#[test]
fn auto_delete_exchanges_go_with_their_last_binding_and_take_others_along() {
    let auto = |name| DeclareExchange { auto_delete: true, ..exchange(name, ExchangeKind::Fanout) };
    let mut story = Story::with([
        Change::DeclareExchange(auto("first")),
        Change::DeclareExchange(auto("second")),
        Change::DeclareQueue(queue("q")),
        Change::DeclareQueue(queue("other")),
        to_exchange("first", "", "second"),
        to_queue("second", "", "q"),
        to_queue("second", "again", "q"),
        to_queue("second", "", "other"),
    ]);
    story.tell(unbind(to_queue("second", "", "other")));
    story.delete_queue("q");
    story.ends(&expect![[r#"
        unbound second
        no queue 0, drop q
        no exchange second
        no exchange first
    "#]]);
}

#[test]
fn exchanges_bound_in_a_circle_go_together() {
    let auto = |name| DeclareExchange { auto_delete: true, ..exchange(name, ExchangeKind::Fanout) };
    let mut story = Story::with([
        Change::DeclareExchange(auto("a")),
        Change::DeclareExchange(auto("b")),
        to_exchange("a", "", "b"),
        to_exchange("b", "", "a"),
    ]);
    story.tell(delete_exchange("a", true));
    story.tell(unbind(to_exchange("b", "", "a")));
    story.ends(&expect![[r#"
        406 exchange 'a' in vhost '/' in use
        unbound b
        no exchange b
        no exchange a
    "#]]);
}

#[test]
fn bindings_are_durable_if_both_ends_are() {
    let durable_queue = DeclareQueue { durable: true, ..queue("durable") };
    let before = [Change::DeclareQueue(durable_queue), Change::DeclareQueue(queue("transient"))];
    let asked = [
        to_queue("amq.fanout", "", "durable"),
        to_queue("amq.fanout", "", "durable"),
        to_queue("amq.fanout", "", "transient"),
        unbind(to_queue("amq.fanout", "", "transient")),
        unbind(to_queue("amq.fanout", "", "durable")),
    ];
    check(
        before,
        asked,
        &expect![[r#"
        bound amq.fanout durable
        unchanged
        bound amq.fanout
        unbound amq.fanout
        unbound amq.fanout durable
    "#]],
    );
}

#[test]
fn headers_exchanges_check_x_match() {
    let with = |exchange: &str, fields: &dyn Fn(TableBuilder) -> TableBuilder| {
        let binding = binding(exchange, "", Destination::Queue("q".into()));
        bind(Binding { arguments: arguments(fields), ..binding })
    };
    let asked = [
        with("amq.headers", &|table| table.with("x-match", "foo")),
        with("amq.headers", &|table| table.with("x-match", 1i32)),
        with("amq.headers", &|table| table.with("x-match", "any-with-x")),
        with("amq.headers", &|table| table),
        with("amq.direct", &|table| table.with("x-match", 1i32)),
    ];
    check(
        [Change::DeclareQueue(queue("q"))],
        asked,
        &expect![[r#"
        406 Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x
        406 Invalid x-match field type signedint (value 1); expected longstr
        bound amq.headers
        bound amq.headers
        bound amq.direct
    "#]],
    );
}

#[test]
fn messages_find_their_queues() {
    let alternate = arguments(|table| table.with("alternate-exchange", "amq.fanout"));
    let with_alternate = DeclareExchange { arguments: alternate, ..exchange("alt", ExchangeKind::Direct) };
    let headers = Binding {
        arguments: arguments(|table| table.with("a", 1i32)),
        ..binding("amq.headers", "", Destination::Queue("headers".into()))
    };
    let mut story =
        Story::with(["direct", "topic", "headers", "fallback"].map(|name| Change::DeclareQueue(queue(name))));
    story.tell(Change::DeclareExchange(with_alternate));
    story.tell(Change::DeclareExchange(exchange("loop", ExchangeKind::Fanout)));
    for change in [
        to_queue("amq.direct", "k", "direct"),
        to_queue("alt", "k", "direct"),
        to_queue("alt", "kk", "topic"),
        to_queue("amq.topic", "a.*", "topic"),
        to_queue("amq.topic", "#.b", "topic"),
        to_exchange("amq.topic", "#", "loop"),
        to_queue("amq.fanout", "", "fallback"),
        bind(headers),
        to_exchange("loop", "", "loop"),
        to_exchange("loop", "", "amq.topic"),
        to_exchange("loop", "", "amq.headers"),
    ] {
        story.tell(change);
    }
    let mut text = String::new();
    for (exchange, key) in [
        ("", "direct"),
        ("", "nope"),
        ("amq.direct", "k"),
        ("amq.direct", "kk"),
        ("alt", "k"),
        ("alt", "nope"),
        ("amq.topic", "a.b"),
        ("amq.topic", "b"),
        ("amq.topic", "nope"),
        ("amq.fanout", "anything"),
        ("amq.headers", ""),
        ("loop", "x"),
    ] {
        let by_more = story.meta.topology().routes_by_more_than_key("/", exchange);
        let cached = if by_more { " (by headers)" } else { "" };
        text += &format!("{exchange} {key}: {}{cached}\n", story.routes(exchange, key));
    }
    expect![[r#"
         direct: direct
         nope: 
        amq.direct k: direct
        amq.direct kk: 
        alt k: direct
        alt nope: fallback
        amq.topic a.b: topic headers (by headers)
        amq.topic b: topic headers (by headers)
        amq.topic nope: headers (by headers)
        amq.fanout anything: fallback
        amq.headers : headers (by headers)
        loop x: headers (by headers)
    "#]]
    .assert_eq(&text);
    assert_eq!(story.routes_with("amq.headers", "", None), "");
}

#[test]
fn further_routing_keys_add_queues_once() {
    let mut story = Story::with(["a", "b"].map(|name| Change::DeclareQueue(queue(name))));
    story.tell(to_queue("amq.direct", "x", "a"));
    story.tell(to_queue("amq.direct", "x", "b"));
    story.tell(to_queue("amq.topic", "#.b", "b"));
    story.tell(to_queue("amq.fanout", "", "a"));
    let keys = |routing_keys| Envelope { routing_keys, properties: Properties::EMPTY, random: 0, due: false };
    assert_eq!(story.routes_of("", &keys(&["b", "a", "b"])), "a b");
    assert_eq!(story.routes_of("", &keys(&["nope", "b"])), "b");
    assert_eq!(story.routes_of("amq.direct", &keys(&["x", "x"])), "a b");
    assert_eq!(story.routes_of("amq.topic", &keys(&["a", "a.b", "b"])), "b");
    assert_eq!(story.routes_of("amq.fanout", &keys(&["a", "b"])), "a");
    let topology = story.meta.topology();
    let mut targets = Vec::new();
    let missing = topology.route("/", "nope", &keys(&["x"]), &mut targets).unwrap_err();
    assert_eq!((missing.amqp_code().value(), &*missing.text), (404, "no exchange 'nope' in vhost '/'"));
    let missing = topology.route("nowhere", "", &keys(&["x"]), &mut targets).unwrap_err();
    assert_eq!((missing.amqp_code().value(), &*missing.text), (530, "vhost nowhere not found"));
}

fn hash_exchange(fields: impl Fn(TableBuilder) -> TableBuilder) -> Change {
    let arguments = arguments(fields);
    Change::DeclareExchange(DeclareExchange { arguments, ..exchange("hash", ExchangeKind::ConsistentHash) })
}

#[test]
fn hashing_exchanges_check_what_they_hash_and_their_weights() {
    let asked = [
        hash_exchange(|table| table.with("hash-header", "h").with("hash-property", "message_id")),
        hash_exchange(|table| table.with("hash-property", "app_id")),
        hash_exchange(|table| table.with("hash-header", 1i32)),
        hash_exchange(|table| table),
        to_queue("hash", "many", "q"),
        to_queue("hash", "0", "q"),
        to_queue("hash", "1001", "q"),
        to_queue("hash", "1000", "q"),
    ];
    check(
        [Change::DeclareQueue(queue("q"))],
        asked,
        &expect![[r#"
        406 hash-header and hash-property are mutually exclusive
        406 Unsupported property: app_id; expected correlation_id, message_id or timestamp
        406 hash-header is a signedint, expected a string
        exchange hash
        406 The binding key must be an integer: many
        406 The binding key must be greater than 0
        406 The binding key, the weight, is 1001; at most 1000 is allowed
        bound hash
    "#]],
    );
}

/// Exchanges of this type over three queues.
fn over_three_queues(declare: Change, name: &str) -> Story {
    let mut story = Story::with(["a", "b", "c"].map(|name| Change::DeclareQueue(queue(name))));
    story.tell(declare);
    ["a", "b", "c"].into_iter().for_each(|queue| story.tell(to_queue(name, "1", queue)));
    story
}

/// How many of 3,000 messages each queue gets.
fn shares(
    story: &Story,
    exchange: &str,
    message: impl Fn(u64) -> Vec<u8>,
    key: impl Fn(u64) -> String,
    random: impl Fn(u64) -> u64,
) -> [usize; 3] {
    let mut counts = [0; 3];
    for number in 0..3000 {
        let (bytes, key) = (message(number), key(number));
        let envelope = Envelope {
            routing_keys: &[&key],
            properties: Properties::new(&bytes).unwrap(),
            random: random(number),
            due: false,
        };
        let place = story.routes_of(exchange, &envelope);
        counts[["a", "b", "c"].iter().position(|name| *name == place).expect("exactly one queue")] += 1;
        assert_eq!(story.routes_of(exchange, &envelope), place, "the same message, the same queue");
    }
    counts
}

fn is_even(counts: [usize; 3]) -> bool {
    counts.iter().all(|count| (900..1100).contains(count))
}

#[test]
fn hashing_exchanges_spread_by_what_they_are_told_to() {
    let plain = |_| Properties::EMPTY.as_bytes().to_vec();
    let with_id = |number: u64| {
        let id = number.to_string();
        PropertiesBuilder { message_id: Some(&id), ..PropertiesBuilder::default() }.to_bytes()
    };
    let with_time =
        |number| PropertiesBuilder { timestamp: Some(number), ..PropertiesBuilder::default() }.to_bytes();
    let with_header = |number: u64| {
        let headers = TableBuilder::new().with("customer", i64::try_from(number).unwrap());
        PropertiesBuilder { headers: Some(headers.as_table()), ..PropertiesBuilder::default() }.to_bytes()
    };
    let keyed = |number: u64| number.to_string();
    let one_key = |_| "k".to_owned();
    let story = over_three_queues(hash_exchange(|table| table), "hash");
    assert!(is_even(shares(&story, "hash", plain, keyed, |_| 0)));
    assert!(shares(&story, "hash", with_id, one_key, |number| number).contains(&3000));
    let story = over_three_queues(hash_exchange(|table| table.with("hash-property", "message_id")), "hash");
    assert!(is_even(shares(&story, "hash", with_id, one_key, |_| 0)));
    assert!(shares(&story, "hash", plain, keyed, |_| 0).contains(&3000), "without an id all go to one queue");
    let story = over_three_queues(hash_exchange(|table| table.with("hash-property", "timestamp")), "hash");
    assert!(is_even(shares(&story, "hash", with_time, one_key, |_| 0)));
    let story = over_three_queues(hash_exchange(|table| table.with("hash-header", "customer")), "hash");
    assert!(is_even(shares(&story, "hash", with_header, one_key, |_| 0)));
    let modulus = Change::DeclareExchange(exchange("modulus", ExchangeKind::ModulusHash));
    let story = over_three_queues(modulus, "modulus");
    assert!(is_even(shares(&story, "modulus", plain, keyed, |number| number)));
    let random = Change::DeclareExchange(exchange("random", ExchangeKind::Random));
    let story = over_three_queues(random, "random");
    assert_eq!(shares(&story, "random", plain, one_key, |number| number), [1000; 3]);
}

#[test]
fn only_what_the_key_alone_decides_may_be_remembered() {
    let by_more = |declare: Change, name: &str| {
        let story = over_three_queues(declare, name);
        story.meta.topology().routes_by_more_than_key("/", name)
    };
    let declare = |kind| Change::DeclareExchange(exchange("x", kind));
    assert!(!by_more(hash_exchange(|table| table), "hash"));
    assert!(by_more(hash_exchange(|table| table.with("hash-header", "h")), "hash"));
    assert!(by_more(hash_exchange(|table| table.with("hash-property", "timestamp")), "hash"));
    assert!(!by_more(declare(ExchangeKind::ModulusHash), "x"));
    assert!(by_more(declare(ExchangeKind::Random), "x"));
}

#[test]
fn what_an_exchange_keeps_comes_through_it_only() {
    let kind = arguments(|table| table.with("x-delayed-type", "fanout"));
    let delayed = DeclareExchange { arguments: kind, ..exchange("later", ExchangeKind::Delayed) };
    let history = exchange("last", ExchangeKind::RecentHistory);
    let mut story = Story::with([delayed, history].map(Change::DeclareExchange));
    assert_eq!(story.routes("last", ""), "amq.history.last");
    for queue in ["amq.delayed.later", "amq.history.last"] {
        assert_eq!(story.routes("", queue), "", "{queue}");
        story.tell(to_queue("amq.fanout", "", queue));
    }
    story.ends(&expect![[r#"
        403 queue 'amq.delayed.later' in vhost '/' is kept by its exchange 'later'
        403 queue 'amq.history.last' in vhost '/' is kept by its exchange 'last'
    "#]]);
}
