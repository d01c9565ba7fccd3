"""What is refused, with which code and which text, whoever asks: on a bare socket."""

import pytest
from pika import BasicProperties, spec

import expect
from wire import Closed, Wire, count, publish, receive_content

QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture
def refused(url):
    """Does something on a fresh connection, whose channel or itself is then closed with one of these codes."""

    def check(codes, text, *methods, of_connection=False):
        with Wire(url) as wire:
            wire.open()
            wire.open_channel()
            for method in methods:
                wire.send(method, 1)
            with pytest.raises(Closed) as error:
                while True:
                    wire.receive()
            expect.closed(error.value, codes, text)
            assert error.value.of_connection == of_connection
            assert (error.value.method.class_id, error.value.method.method_id) == divmod(methods[-1].INDEX, 1 << 16)

    return check


def test_nowait_errors_close_the_channel(refused, name):
    fresh = name()
    refused(406, "inequivalent arg", spec.Queue.Declare(queue=fresh), spec.Queue.Declare(queue=fresh, durable=True, nowait=True))
    refused(404, "no queue", spec.Queue.Declare(queue=name(), passive=True, nowait=True))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"x-expires": 0}, "'x-expires'"),
        ({"x-expires": "soon"}, "'x-expires'"),
        ({"x-message-ttl": -1}, "'x-message-ttl'"),
        ({"x-message-ttl": 315_360_000_001}, "'x-message-ttl'"),
        ({"x-max-length": -1}, "'x-max-length'"),
        ({"x-max-length-bytes": True}, "'x-max-length-bytes'"),
        ({"x-max-priority": 256}, "'x-max-priority'"),
        ({"x-overflow": "drop-tail"}, "'x-overflow'"),
        ({"x-dead-letter-exchange": 1}, "'x-dead-letter-exchange'"),
        ({"x-dead-letter-routing-key": "k"}, "'x-dead-letter-routing-key'"),
        ({"x-single-active-consumer": "yes"}, "'x-single-active-consumer'"),
        ({"x-queue-type": "mirrored"}, "'x-queue-type'"),
        ({"x-delivery-limit": 3}, "'x-delivery-limit'"),
        ({"x-max-age": "1h"}, "'x-max-age'"),
        (QUORUM | {"x-max-priority": 3}, "'x-max-priority'"),
        (QUORUM | {"x-queue-mode": "lazy"}, "'x-queue-mode'"),
    ],
)
def test_406_arguments_of_queues(refused, name, arguments, text):
    refused(406, text, spec.Queue.Declare(queue=name(), durable=True, arguments=arguments))


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (QUORUM | {"x-consumer-disconnected-timeout": -1}, {406}),
        (QUORUM | {"x-member-placement-tag": 1}, {406}),
        ({"x-member-placement-tag": "rack"}, {406}),
    ],
)
def test_406_arguments_of_new_releases(refused, name, arguments, codes, old_rabbitmq):
    if old_rabbitmq:
        pytest.skip("since 4.3")
    refused(codes, "invalid arg", spec.Queue.Declare(queue=name(), durable=True, arguments=arguments))


def test_403_a_reserved_name_is_refused_even_if_it_is_there(wire, refused):
    mine = wire.call(spec.Queue.Declare(), 1).queue
    refused(403, "ACCESS_REFUSED", spec.Queue.Declare(queue=mine))
    assert count(wire, mine) == 0, "asking for it is fine"
    exists = spec.Exchange.Declare(exchange="amq.direct", type="direct", durable=True)
    assert isinstance(wire.call(exists, 1), spec.Exchange.DeclareOk)
    wire.call(spec.Queue.Delete(queue=mine), 1)


def test_403_an_exclusive_consumer_is_alone(wire, refused, queue):
    wire.call(spec.Basic.Consume(queue=queue), 1)
    refused(403, "in exclusive use", spec.Basic.Consume(queue=queue, exclusive=True))


def test_404_no_queue_was_declared(refused):
    for method in [spec.Basic.Consume(), spec.Queue.Purge(), spec.Queue.Bind(exchange="amq.fanout")]:
        refused(404, "NOT_FOUND", method)


def test_405_declared_with_another_exclusive(refused, queue):
    refused(405, "RESOURCE_LOCKED", spec.Queue.Declare(queue=queue, exclusive=True))


def test_405_get_from_a_quorum_queue_with_a_single_active_consumer(refused, name):
    fresh = name()
    declare = spec.Queue.Declare(queue=fresh, durable=True, arguments=QUORUM | {"x-single-active-consumer": True})
    refused(405, "single active consumer", declare, spec.Basic.Get(queue=fresh))


def test_406_what_is_in_use_or_not_empty(wire, refused, queue):
    publish(wire, queue, b"a")
    expect.eventually(lambda: count(wire, queue) == 1)
    refused(406, expect.NOT_EMPTY, spec.Queue.Delete(queue=queue, if_empty=True))
    wire.call(spec.Basic.Consume(queue=queue), 1)
    assert isinstance(wire.receive(), spec.Basic.Deliver)
    receive_content(wire)
    refused(406, expect.IN_USE, spec.Queue.Delete(queue=queue, if_unused=True))


@pytest.mark.parametrize("bits", [{"exclusive": True, "durable": True}, {"auto_delete": True, "durable": True}, {}])
def test_406_quorum_queues_are_durable_and_shared(refused, name, bits):
    refused(406, "", spec.Queue.Declare(queue=name(), arguments=QUORUM, **bits))


def test_406_quorum_queues_have_names(refused):
    refused(406, "server-named", spec.Queue.Declare(durable=True, arguments=QUORUM))


def test_406_a_second_internal_is_another(refused, name):
    fresh = name()
    declare = spec.Exchange.Declare(exchange=fresh, type="direct")
    internal = spec.Exchange.Declare(exchange=fresh, type="direct", internal=True)
    refused(406, "inequivalent arg 'internal' for exchange", declare, internal)


def test_540_flow_off(refused):
    refused(540, "NOT_IMPLEMENTED", spec.Channel.Flow(active=False), of_connection=True)


def test_if_unused_of_a_stream(wire, name, old_rabbitmq):
    if old_rabbitmq:
        pytest.skip("this RabbitMQ deletes all the same")
    fresh = name()
    wire.call(spec.Queue.Declare(queue=fresh, durable=True, arguments={"x-queue-type": "stream"}), 1)
    wire.call(spec.Basic.Qos(prefetch_count=1), 1)
    wire.call(spec.Basic.Consume(queue=fresh), 1)
    with pytest.raises(Closed) as error:
        wire.call(spec.Queue.Delete(queue=fresh, if_unused=True), 1)
    expect.closed(error.value, 406, expect.IN_USE)


def test_direct_reply_has_one_consumer_a_channel(refused):
    consume = spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True)
    refused(406, "reply consumer already set", consume, consume)


@pytest.mark.parametrize(
    ("method", "channel", "codes"),
    [
        (spec.Queue.DeclareOk("q", 0, 0), 1, {503}),
        (spec.Basic.GetEmpty(), 1, {503}),
        (spec.Queue.Declare(queue="q"), 0, {503, 504}),
        (spec.Connection.TuneOk(0, 0, 0), 0, {503, 504}),
        (spec.Connection.Open("/"), 0, {503, 504}),
        (spec.Connection.Open("/"), 1, {503, 504}),
    ],
)
def test_methods_in_the_wrong_place(wire, method, channel, codes):
    wire.send(method, channel)
    with pytest.raises(Closed) as error:
        wire.receive()
    expect.closed(error.value, codes)
    assert error.value.of_connection


def test_direct_reply_cannot_be_bound(refused):
    # 404 before 4.3
    refused({403, 404}, "", spec.Queue.Bind(queue="amq.rabbitmq.reply-to", exchange="amq.direct", routing_key="k"))


def test_if_unused_of_a_quorum_queue(wire, name):
    fresh = name()
    wire.call(spec.Queue.Declare(queue=fresh, durable=True, arguments=QUORUM), 1)
    wire.call(spec.Basic.Consume(queue=fresh), 1)
    with pytest.raises(Closed) as error:
        wire.call(spec.Queue.Delete(queue=fresh, if_unused=True), 1)
    if error.value.of_connection:
        expect.closed(error.value, 540, "not supported by quorum queues")
    else:
        expect.closed(error.value, 406, expect.IN_USE)


def test_a_publish_is_refused_for_the_first_of_its_faults(url, name, wire):
    missing = name()
    publish(wire, "k", b"a", exchange=missing, properties=BasicProperties(expiration="soon"))
    with pytest.raises(Closed) as error:
        wire.receive()
    expect.closed(error.value, 404)
    with Wire(expect.url_with(url, "limited", "limited")) as limited:
        limited.open()
        limited.open_channel()
        publish(limited, "k", b"a", exchange=missing)
        with pytest.raises(Closed) as error:
            limited.receive()
        expect.closed(error.value, 403)


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [("0", True), ("315360000000", True), ("315360000001", False), ("", False), ("5 ", False), ("0x5", False)],
)
def test_how_long_a_message_may_wait(wire, value, is_valid):
    wire.call(spec.Confirm.Select(), 1)
    publish(wire, "nobody", b"a", properties=BasicProperties(expiration=value))
    if is_valid:
        assert wire.receive().delivery_tag == 1
    else:
        with pytest.raises(Closed) as error:
            wire.receive()
        expect.closed(error.value, 406, "expiration")


def test_403_an_exclusive_consumer_of_a_queue_with_one_active_consumer(refused, name):
    fresh = name()
    declare = spec.Queue.Declare(queue=fresh, arguments={"x-single-active-consumer": True})
    refused(403, "in exclusive use", declare, spec.Basic.Consume(queue=fresh, exclusive=True))


def test_406_a_priority_that_is_no_number(refused, queue):
    refused(406, "x-priority", spec.Basic.Consume(queue=queue, arguments={"x-priority": "high"}))


def test_403_the_default_exchange_is_bound_to_nothing(refused):
    refused(403, "ACCESS_REFUSED", spec.Exchange.Bind(destination="", source="amq.fanout"))
    refused(403, "ACCESS_REFUSED", spec.Exchange.Unbind(destination="amq.fanout", source=""))


# Texts that clients look for words in, as RabbitMQ 3.10 has them.
@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("PRECONDITION_FAILED - unknown delivery tag 5", [spec.Basic.Ack(delivery_tag=5)]),
        ("NOT_FOUND - no queue 'nope' in vhost '/'", [spec.Queue.Declare(queue="nope", passive=True)]),
        ("NOT_FOUND - no exchange 'nope' in vhost '/'", [spec.Exchange.Declare(exchange="nope", passive=True)]),
        (
            "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'mine' in vhost '/'",
            [spec.Exchange.Declare(exchange="mine", type="direct", arguments={"alternate-exchange": 1})],
        ),
        (
            "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
            [spec.Queue.Declare(queue="amq.mine")],
        ),
        ("PRECONDITION_FAILED - cannot switch from confirm to tx mode", [spec.Confirm.Select(), spec.Tx.Select()]),
        (
            "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'mine' in vhost '/': \"expected integer, got longstr\"",
            [
                spec.Queue.Declare(queue="mine", exclusive=True),
                spec.Basic.Consume(queue="mine", arguments={"x-priority": "high"}),
            ],
        ),
    ],
)
def test_texts(refused, text, methods):
    refused({403, 404, 406}, text, *methods)


@pytest.mark.parametrize(
    ("expiration", "why"),
    [("soon", "no_integer"), ("-1", "{value_negative,-1}"), ("1x", '{leftover_string,"x"}'), ("", "no_integer")],
)
def test_text_of_an_expiration_that_is_none(wire, expiration, why):
    publish(wire, "nobody", b"a", properties=BasicProperties(expiration=expiration))
    with pytest.raises(Closed) as error:
        wire.receive()
    expect.closed(error.value, 406, f"PRECONDITION_FAILED - invalid expiration '{expiration}': {why}")
