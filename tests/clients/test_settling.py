"""Prefetch, acks, consumers and dead letters as the bytes have them, on a bare socket."""

import pytest
from pika import BasicProperties, frame, spec

import expect
from wire import CAPABILITIES, Wire, count, deliveries, get, publish, receive_content


def test_a_global_prefetch_is_shared_by_the_channel(wire, queue):
    publish(wire, queue, *[b"%d" % number for number in range(5)])
    expect.eventually(lambda: count(wire, queue) == 5)
    wire.call(spec.Basic.Qos(prefetch_count=3, global_qos=True), 1)
    for tag in ("one", "two"):
        wire.send(spec.Basic.Consume(queue=queue, consumer_tag=tag, nowait=True), 1)
    assert [body for _, _, body in deliveries(wire, 3)] == [b"0", b"1", b"2"]
    assert count(wire, queue) == 2, "no more come"
    wire.send(spec.Basic.Ack(delivery_tag=1), 1)
    assert [(tag, body) for tag, _, body in deliveries(wire, 1)] == [(4, b"3")]


def test_the_smaller_of_two_prefetches_counts(wire, queue):
    publish(wire, queue, *[b"%d" % number for number in range(5)])
    expect.eventually(lambda: count(wire, queue) == 5)
    wire.call(spec.Basic.Qos(prefetch_count=4, global_qos=True), 1)
    wire.call(spec.Basic.Qos(prefetch_count=1), 1)
    wire.send(spec.Basic.Consume(queue=queue, nowait=True), 1)
    assert len(deliveries(wire, 1)) == 1
    assert count(wire, queue) == 4


def test_tag_0_is_all(wire, queue):
    publish(wire, queue, b"a", b"b", b"c")
    expect.eventually(lambda: count(wire, queue) == 3)
    for _ in range(3):
        get(wire, queue, no_ack=False)
    wire.send(spec.Basic.Nack(delivery_tag=0, multiple=True, requeue=True), 1)
    assert count(wire, queue) == 3
    for _ in range(2):
        get(wire, queue, no_ack=False)
    wire.send(spec.Basic.Ack(delivery_tag=0, multiple=True), 1)
    assert count(wire, queue) == 1
    assert get(wire, queue)[2] == b"c"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_recover(wire, queue, asynchronous):
    publish(wire, queue, b"a", b"b")
    expect.eventually(lambda: count(wire, queue) == 2)
    for _ in range(2):
        get(wire, queue, no_ack=False)
    if asynchronous:
        wire.send(spec.Basic.RecoverAsync(requeue=True), 1)
    else:
        assert isinstance(wire.call(spec.Basic.Recover(requeue=True), 1), spec.Basic.RecoverOk)
    expect.eventually(lambda: count(wire, queue) == 2)
    method, _, body = get(wire, queue)
    assert (method.redelivered, body) == (True, b"a")


def test_closing_a_channel_gives_back_what_it_holds(wire, queue):
    publish(wire, queue, b"a")
    expect.eventually(lambda: count(wire, queue) == 1)
    get(wire, queue, no_ack=False)
    assert isinstance(wire.call(spec.Channel.Close(200, "done", 0, 0), 1), spec.Channel.CloseOk)
    wire.open_channel(1)
    expect.eventually(lambda: count(wire, queue) == 1)
    method, _, _ = get(wire, queue)
    assert (method.redelivered, method.delivery_tag) == (True, 1)


def test_no_local_is_ignored(wire, queue):
    wire.call(spec.Basic.Consume(queue=queue, no_local=True, no_ack=True), 1)
    publish(wire, queue, b"a")
    assert deliveries(wire, 1)[0][2] == b"a"


@pytest.mark.parametrize("notify", [True, False])
def test_who_does_not_understand_a_cancel_gets_none(url, wire, queue, notify):
    with Wire(url) as other:
        other.open(capabilities=CAPABILITIES | {"consumer_cancel_notify": notify})
        other.open_channel()
        other.call(spec.Basic.Consume(queue=queue, consumer_tag="mine"), 1)
        wire.call(spec.Queue.Delete(queue=queue), 1)
        if notify:
            cancel = other.receive()
            assert (cancel.consumer_tag, cancel.nowait) == ("mine", True)
        else:
            assert isinstance(other.call(spec.Basic.Qos(), 1), spec.Basic.QosOk)
            assert other.call(spec.Basic.Cancel(consumer_tag="mine"), 1).consumer_tag == "mine"


@pytest.fixture
def dead(wire, name):
    """A queue whose dead letters go to another, and that one."""
    first, second = name(), name()
    wire.call(spec.Queue.Declare(queue=second, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": first}), 1)
    wire.call(spec.Queue.Declare(queue=first, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": second}), 1)
    return first, second


def reject(wire, queue):
    found = []

    def has_come():
        found[:] = [get(wire, queue, no_ack=False)]
        return found[0]

    expect.eventually(has_come)
    wire.send(spec.Basic.Reject(delivery_tag=found[0][0].delivery_tag, requeue=False), 1)


def test_the_first_death_stays_and_the_last_changes(wire, dead, old_rabbitmq):
    first, second = dead
    publish(wire, first, b"a")
    reject(wire, first)
    reject(wire, second)
    expect.eventually(lambda: count(wire, first) == 1)
    headers = get(wire, first)[1].headers
    assert [death["queue"] for death in headers["x-death"]] == [second, first]
    assert [headers[f"x-first-death-{key}"] for key in ("queue", "reason", "exchange")] == [first, "rejected", ""]
    if not old_rabbitmq:  # since 3.13
        assert [headers[f"x-last-death-{key}"] for key in ("queue", "reason", "exchange")] == [second, "rejected", ""]


def test_blind_copies_are_not_in_the_headers_of_a_death(wire, name):
    queue, copy, grave = name(), name(), name()
    for one in (grave, copy):
        wire.call(spec.Queue.Declare(queue=one), 1)
    wire.call(spec.Exchange.Declare(exchange=grave, type="fanout"), 1)
    wire.call(spec.Queue.Bind(queue=grave, exchange=grave), 1)
    wire.call(spec.Queue.Declare(queue=queue, arguments={"x-dead-letter-exchange": grave}), 1)
    properties = BasicProperties(headers={"CC": ["seen"], "BCC": [copy]}, expiration="60000")
    publish(wire, queue, b"a", properties=properties)
    reject(wire, queue)
    expect.eventually(lambda: count(wire, grave) == 1)
    _, properties, _ = get(wire, grave)
    assert "BCC" not in properties.headers
    (death,) = properties.headers["x-death"]
    assert (death["routing-keys"], death["original-expiration"]) == ([queue, "seen"], "60000")
    assert properties.expiration is None


def test_a_queue_that_expires_leaves_no_dead_letters(wire, name):
    queue, grave = name(), name()
    wire.call(spec.Queue.Declare(queue=grave), 1)
    arguments = {"x-expires": 50, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": grave}
    wire.call(spec.Queue.Declare(queue=queue, arguments=arguments), 1)
    wire.call(spec.Queue.Bind(queue=queue, exchange="amq.direct", routing_key=queue), 1)
    publish(wire, queue, b"a")

    def is_gone():
        publish(wire, queue, b"", exchange="amq.direct", mandatory=True)
        wire.send(spec.Basic.Qos(), 1)
        method = wire.receive()
        if gone := isinstance(method, spec.Basic.Return):
            receive_content(wire)
            wire.receive()
        return gone

    expect.eventually(is_gone)
    assert count(wire, grave) == 0


def test_a_prefetch_of_0_is_none(wire, queue):
    wire.call(spec.Basic.Qos(prefetch_count=1), 1)
    wire.call(spec.Basic.Qos(prefetch_count=0), 1)
    wire.call(spec.Basic.Consume(queue=queue), 1)
    publish(wire, queue, *[b"%d" % number for number in range(100)])
    assert len(deliveries(wire, 100)) == 100


def test_consume_ok_is_first_and_cancel_ok_is_last(wire, queue):
    publish(wire, queue, *[b"x"] * 100)
    expect.eventually(lambda: count(wire, queue) == 100)
    assert isinstance(wire.call(spec.Basic.Consume(queue=queue, consumer_tag="mine", no_ack=True), 1), spec.Basic.ConsumeOk)
    wire.send(spec.Basic.Cancel(consumer_tag="mine"), 1)
    received = 0
    while isinstance(wire.receive(), spec.Basic.Deliver):
        receive_content(wire)
        received += 1
    assert count(wire, queue) == 100 - received


def test_a_get_beside_an_exclusive_consumer(wire, queue, url):
    wire.call(spec.Basic.Consume(queue=queue, exclusive=True), 1)
    with Wire(url) as other:
        other.open()
        other.open_channel()
        assert get(other, queue) is None


def test_what_a_consumer_held_without_acks_is_gone(wire, queue, url):
    publish(wire, queue, b"a")
    with Wire(url) as other:
        other.open()
        other.open_channel()
        other.call(spec.Basic.Consume(queue=queue, no_ack=True), 1)
        assert deliveries(other, 1)[0][2] == b"a"
    assert count(wire, queue) == 0


def test_a_priority_that_is_a_large_number(wire, queue):
    first = wire.call(spec.Basic.Consume(queue=queue, consumer_tag="low", arguments={"x-priority": -(2**40)}), 1)
    second = wire.call(spec.Basic.Consume(queue=queue, consumer_tag="high", arguments={"x-priority": 2**40}), 1)
    assert (first.consumer_tag, second.consumer_tag) == ("low", "high")
    publish(wire, queue, b"a")
    assert deliveries(wire, 1)[0][1] == "high"


def test_what_is_refused_on_one_channel_takes_nothing_from_another(wire, queue):
    wire.open_channel(2)
    wire.call(spec.Basic.Consume(queue=queue, no_ack=True, exclusive=True), 2)
    # At once, so that the broker works on both in one go.
    message = frame.Header(1, 3, BasicProperties()).marshal() + frame.Body(1, b"one").marshal()
    wire.send_bytes(
        frame.Method(1, spec.Basic.Publish(routing_key=queue)).marshal()
        + message
        + frame.Method(1, spec.Basic.Consume(queue=queue)).marshal()
    )
    frames = [wire.receive_frame() for _ in range(4)]
    methods = {it.channel_number: it.method for it in frames if isinstance(it, frame.Method)}
    assert methods[1].reply_code == 403
    assert methods[2].routing_key == queue
