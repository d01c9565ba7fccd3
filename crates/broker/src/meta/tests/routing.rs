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
        let cached =
            if story.meta.topology().routes_by_headers("/", exchange) { " (by headers)" } else { "" };
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
fn routing_adds_to_what_is_there_once() {
    let mut story = Story::with(["a", "b"].map(|name| Change::DeclareQueue(queue(name))));
    story.tell(to_queue("amq.direct", "x", "a"));
    story.tell(to_queue("amq.direct", "x", "b"));
    let mut targets = Vec::new();
    for key in ["b", "a", "b"] {
        story.meta.topology().route("/", "", key, None, &mut targets).unwrap();
    }
    story.meta.topology().route("/", "amq.direct", "x", None, &mut targets).unwrap();
    assert_eq!(targets, [QueueId(0), QueueId(1)]);
    let topology = story.meta.topology();
    let missing = topology.route("/", "nope", "x", None, &mut targets).unwrap_err();
    assert_eq!((missing.amqp_code().value(), &*missing.text), (404, "no exchange 'nope' in vhost '/'"));
    let missing = topology.route("nowhere", "", "x", None, &mut targets).unwrap_err();
    assert_eq!((missing.amqp_code().value(), &*missing.text), (530, "vhost nowhere not found"));
}
