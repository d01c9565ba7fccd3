"""What methods and their bits do that client libraries hide or never send, on a bare socket."""

import struct

import pytest
from pika import BasicProperties, frame, spec

import expect
from wire import CAPABILITIES, Closed, Wire


@pytest.fixture
def wire(url):
    with Wire(url) as one:
        one.open()
        one.open_channel()
        yield one


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


def publish(wire, routing_key, *bodies, exchange="", properties=None, **bits):
    for body in bodies:
        wire.send(spec.Basic.Publish(exchange=exchange, routing_key=routing_key, **bits), 1)
        header = frame.Header(1, len(body), properties or BasicProperties())
        wire.send_bytes(header.marshal() + (frame.Body(1, body).marshal() if body else b""))


def receive_content(wire):
    """Header and body of the method that was just received."""
    header, body = wire.receive_frame(), b""
    while len(body) < header.body_size:
        body += wire.receive_frame().fragment
    return header.properties, body


def count(wire, queue):
    return wire.call(spec.Queue.Declare(queue=queue, passive=True), 1).message_count


def get(wire, queue, no_ack=True):
    """The next message: method, properties, body; None if there is none."""
    method = wire.call(spec.Basic.Get(queue=queue, no_ack=no_ack), 1)
    return None if isinstance(method, spec.Basic.GetEmpty) else (method, *receive_content(wire))


@pytest.fixture
def queue(wire, name):
    return wire.call(spec.Queue.Declare(queue=name()), 1).queue


def test_access_is_granted(wire):
    # access.request with the realm "/data" and all bits; pika does not know the class.
    request = struct.pack(">HHB5sB", 30, 10, 5, b"/data", 0b11111)
    wire.send_bytes(struct.pack(">BHI", 1, 1, len(request)) + request + b"\xce")
    assert wire.receive_raw() == (1, 1, struct.pack(">HHH", 30, 11, 1))


def test_nowait(wire, name):
    """Nothing is answered; the next answer is that of the question at the end."""
    exchange, other, queue = name(), name(), name()
    for method in [
        spec.Exchange.Declare(exchange=exchange, type="fanout", nowait=True),
        spec.Exchange.Declare(exchange=other, type="fanout", nowait=True),
        spec.Exchange.Bind(destination=other, source=exchange, nowait=True),
        spec.Queue.Declare(queue=queue, nowait=True),
        spec.Queue.Bind(queue=queue, exchange=other, nowait=True),
        spec.Confirm.Select(nowait=True),
    ]:
        wire.send(method, 1)
    publish(wire, "", b"a", exchange=exchange)
    assert isinstance(wire.receive(), spec.Basic.Ack)
    wire.send(spec.Basic.Consume(queue=queue, consumer_tag="mine", no_ack=True, nowait=True), 1)
    assert wire.receive().consumer_tag == "mine"
    assert receive_content(wire)[1] == b"a"
    for method in [
        spec.Basic.Cancel(consumer_tag="mine", nowait=True),
        spec.Queue.Purge(queue=queue, nowait=True),
        spec.Exchange.Unbind(destination=other, source=exchange, nowait=True),
        spec.Queue.Delete(queue=queue, nowait=True),
        spec.Exchange.Delete(exchange=exchange, nowait=True),
        spec.Exchange.Delete(exchange=other, nowait=True),
        spec.Queue.Delete(queue=name(), nowait=True),
        spec.Exchange.Delete(exchange=name(), nowait=True),
    ]:
        wire.send(method, 1)
    assert isinstance(wire.call(spec.Basic.Qos(), 1), spec.Basic.QosOk)
    with pytest.raises(Closed) as error:
        wire.call(spec.Queue.Declare(queue=queue, passive=True), 1)
    expect.closed(error.value, 404)


def test_nowait_errors_close_the_channel(refused, name):
    fresh = name()
    refused(406, "inequivalent arg", spec.Queue.Declare(queue=fresh), spec.Queue.Declare(queue=fresh, durable=True, nowait=True))
    refused(404, "no queue", spec.Queue.Declare(queue=name(), passive=True, nowait=True))


def test_what_is_not_there_can_be_deleted_unbound_and_cancelled(wire, queue, name):
    missing = name()
    assert wire.call(spec.Queue.Delete(queue=missing), 1).message_count == 0
    assert isinstance(wire.call(spec.Exchange.Delete(exchange=missing), 1), spec.Exchange.DeleteOk)
    for source in ("amq.direct", missing):
        unbind = spec.Queue.Unbind(queue=queue, exchange=source, routing_key="never bound")
        assert isinstance(wire.call(unbind, 1), spec.Queue.UnbindOk)
    unbind = spec.Queue.Unbind(queue=missing, exchange="amq.direct", routing_key="never bound")
    assert isinstance(wire.call(unbind, 1), spec.Queue.UnbindOk)
    unbind = spec.Exchange.Unbind(destination=missing, source="amq.direct")
    assert isinstance(wire.call(unbind, 1), spec.Exchange.UnbindOk)
    assert wire.call(spec.Basic.Cancel(consumer_tag="nobody"), 1).consumer_tag == "nobody"


def test_selecting_twice_is_fine(wire):
    for _ in range(2):
        assert isinstance(wire.call(spec.Confirm.Select(), 1), spec.Confirm.SelectOk)
    wire.open_channel(2)
    for _ in range(2):
        assert isinstance(wire.call(spec.Tx.Select(), 2), spec.Tx.SelectOk)


def test_binding_twice_gives_one_message(wire, queue):
    for _ in range(2):
        wire.call(spec.Queue.Bind(queue=queue, exchange="amq.direct", routing_key=queue), 1)
    publish(wire, queue, b"a", b"b", exchange="amq.direct")
    expect.eventually(lambda: count(wire, queue) >= 2)
    assert [get(wire, queue)[2] for _ in range(2)] == [b"a", b"b"]
    assert get(wire, queue) is None


def test_line_ends_are_left_out_of_names(wire, name):
    fresh = name()
    assert wire.call(spec.Queue.Declare(queue=f"\r{fresh[:5]}\n{fresh[5:]}\r\n"), 1).queue == fresh
    exchange = spec.Exchange.Declare(exchange=f"{fresh}\n", type="direct")
    assert isinstance(wire.call(exchange, 1), spec.Exchange.DeclareOk)
    assert isinstance(wire.call(spec.Exchange.Declare(exchange=fresh, passive=True), 1), spec.Exchange.DeclareOk)


def test_names_that_the_broker_makes(wire):
    assert wire.call(spec.Queue.Declare(exclusive=True), 1).queue.startswith("amq.gen-")
    assert wire.call(spec.Basic.Consume(), 1).consumer_tag.startswith("amq.ctag-")


def test_an_exclusive_queue_is_never_durable(wire, name):
    fresh = name()
    wire.call(spec.Queue.Declare(queue=fresh, exclusive=True, durable=True), 1)
    assert wire.call(spec.Queue.Declare(queue=fresh, exclusive=True), 1).queue == fresh


def test_transient_queues_may_be_shared(wire, queue):
    with Wire(wire.url.geturl()) as other:
        other.open()
        other.open_channel()
        assert count(other, queue) == 0


def test_numbers_of_any_width_are_the_same(wire, name):
    fresh = name()
    wire.call(spec.Queue.Declare(queue=fresh, arguments={"x-max-length": 7}), 1)
    # pika sends 7 with 32 bits; here with 8 and with 64.
    for number in (b"b\x07", b"l" + struct.pack(">q", 7)):
        table = b"\x0cx-max-length" + number
        declare = struct.pack(">HHHB", 50, 10, 0, len(fresh)) + fresh.encode() + b"\0" + struct.pack(">I", len(table)) + table
        wire.send_bytes(struct.pack(">BHI", 1, 1, len(declare)) + declare + b"\xce")
        assert wire.receive().queue == fresh


def test_a_missing_type_is_classic(wire, name):
    fresh, other = name(), name()
    wire.call(spec.Queue.Declare(queue=fresh, arguments={"x-queue-type": "classic"}), 1)
    assert wire.call(spec.Queue.Declare(queue=fresh), 1).queue == fresh
    wire.call(spec.Queue.Declare(queue=other), 1)
    assert wire.call(spec.Queue.Declare(queue=other, arguments={"x-queue-type": "classic"}), 1).queue == other


QUORUM = {"x-queue-type": "quorum"}


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


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-queue-mode": "lazy"},
        {"x-queue-version": 2},
        {"mine": 1, "x-nobody-knows": {"a": [1]}},
        {"x-name-prefix": "mine"},
        {"x-selector-fields": []},
        QUORUM | {"x-quorum-initial-group-size": 1},
        QUORUM | {"x-max-in-memory-length": 1, "x-max-in-memory-bytes": 1},
        QUORUM | {"x-queue-leader-locator": "client-local"},
        QUORUM | {"x-consumer-disconnected-timeout": 1, "x-member-placement-tag": "rack"},
    ],
)
def test_arguments_that_change_nothing(wire, name, arguments):
    fresh = name()
    declare = spec.Queue.Declare(queue=fresh, durable=True, arguments=arguments)
    wire.call(declare, 1)
    publish(wire, fresh, b"a", b"b")
    expect.eventually(lambda: count(wire, fresh) == 2)
    assert wire.call(declare, 1).queue == fresh


def test_a_leader_locator_on_a_classic_queue(wire, name):
    # Spring puts it on each anonymous queue.
    declare = spec.Queue.Declare(queue=name(), arguments={"x-queue-leader-locator": "client-local"})
    assert isinstance(wire.call(declare, 1), spec.Queue.DeclareOk)


def test_a_time_to_live_of_ten_years(wire, name):
    declare = spec.Queue.Declare(queue=name(), arguments={"x-message-ttl": 315_360_000_000, "x-expires": 315_360_000_000})
    assert isinstance(wire.call(declare, 1), spec.Queue.DeclareOk)


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


def deliveries(wire, number):
    """So many deliveries: tag, consumer, body; in order."""
    found = []
    for _ in range(number):
        method = wire.receive()
        found.append((method.delivery_tag, method.consumer_tag, receive_content(wire)[1]))
    return found


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


def test_unroutable_messages_are_confirmed_after_their_return(wire):
    wire.call(spec.Confirm.Select(), 1)
    publish(wire, "nobody", b"a", exchange="amq.direct", mandatory=True)
    returned = wire.receive()
    assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
    assert receive_content(wire)[1] == b"a"
    assert wire.receive().delivery_tag == 1


def test_a_deleted_queue_does_not_keep_confirms_back(wire, queue):
    wire.call(spec.Confirm.Select(), 1)
    publish(wire, queue, b"a")
    wire.send(spec.Queue.Delete(queue=queue, nowait=True), 1)
    publish(wire, queue, b"b")
    confirmed = 0
    while confirmed < 2:
        confirmed = wire.receive().delivery_tag


def test_no_confirm_before_the_select(wire, queue):
    publish(wire, queue, b"a")
    wire.call(spec.Confirm.Select(), 1)
    publish(wire, queue, b"b")
    assert wire.receive().delivery_tag == 1


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


def test_nothing_is_heard_between_a_close_and_its_answer(wire, queue):
    wire.send(spec.Queue.Declare(queue="never-there", passive=True), 1)
    publish(wire, queue, b"lost")
    wire.send(spec.Basic.Ack(delivery_tag=99), 1)
    wire.send(spec.Queue.Delete(queue=queue), 1)
    wire.send(spec.Channel.Open(), 2)
    with pytest.raises(Closed) as error:
        wire.receive()
    expect.closed(error.value, 404)
    assert isinstance(wire.receive(), spec.Channel.OpenOk)
    # The number is taken until the close is answered.
    wire.send(spec.Channel.CloseOk(), 1)
    wire.open_channel(1)
    assert count(wire, queue) == 0


def test_both_close_at_once(wire):
    wire.send(spec.Queue.Declare(queue="never-there", passive=True), 1)
    wire.send(spec.Channel.Close(200, "me too", 0, 0), 1)
    with pytest.raises(Closed):
        wire.receive()
    assert isinstance(wire.receive(), spec.Channel.CloseOk)
    wire.send(spec.Channel.CloseOk(), 1)
    wire.open_channel(1)


def test_direct_reply_has_one_consumer_a_channel(refused):
    consume = spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True)
    refused(406, "reply consumer already set", consume, consume)


def test_direct_reply_is_for_the_channel_that_asked(url, wire, queue):
    """The consumer of another channel is none."""
    wire.open_channel(2)
    wire.call(spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True), 2)
    publish(wire, queue, b"?", properties=BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    with pytest.raises(Closed) as error:
        wire.receive()
    expect.closed(error.value, 406, "fast reply consumer does not exist")


def test_a_reply_for_who_has_gone_is_dropped(url, wire, queue):
    with Wire(url) as other:
        other.open()
        other.open_channel()
        other.call(spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True), 1)
        publish(other, queue, b"?", properties=BasicProperties(reply_to="amq.rabbitmq.reply-to"))
        expect.eventually(lambda: count(wire, queue) == 1)
    _, properties, _ = get(wire, queue)
    wire.call(spec.Confirm.Select(), 1)
    publish(wire, properties.reply_to, b"!")
    assert wire.receive().delivery_tag == 1


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


class TestTuning:
    @pytest.fixture
    def tuned(self, url):
        """A handshake up to tune-ok with these values, then connection.open."""

        def answer(**tuning):
            with Wire(url) as wire:
                wire.open(**tuning)
                return wire.call(spec.Channel.Open(), 1)

        return answer

    @pytest.mark.parametrize("frame_max", [4096, 8192, 131072])
    def test_frames(self, tuned, frame_max):
        assert isinstance(tuned(frame_max=frame_max), spec.Channel.OpenOk)

    @pytest.mark.parametrize("tuning", [{"channel_max": 0}, {"frame_max": 0}])
    def test_no_limit_where_the_server_has_one(self, url, tuning, old_rabbitmq):
        with Wire(url) as wire:
            wire.tune(**tuning)
            wire.send(spec.Connection.Open("/"))
            if old_rabbitmq:
                with pytest.raises((EOFError, ConnectionError)):
                    wire.receive()
            else:
                with pytest.raises(Closed) as error:
                    wire.receive()
                expect.closed(error.value, 530)

    def test_a_longer_heartbeat_than_offered(self, tuned):
        assert isinstance(tuned(heartbeat=600), spec.Channel.OpenOk)


class TestHandshake:
    @pytest.fixture
    def fresh(self, url):
        with Wire(url) as one:
            yield one

    def test_the_header_of_0_9(self, fresh):
        fresh.send_bytes(b"AMQP\x01\x01\x00\x09")
        assert isinstance(fresh.receive(), spec.Connection.Start)

    def test_amqplain(self, fresh):
        fresh.send_bytes(b"AMQP\x00\x00\x09\x01")
        assert b"AMQPLAIN" in fresh.receive().mechanisms.split()
        login = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest"
        properties = {"capabilities": CAPABILITIES}
        fresh.send(spec.Connection.StartOk(properties, "AMQPLAIN", login.decode("latin-1"), "en_US"))
        assert isinstance(fresh.receive(), spec.Connection.Tune)

    def test_a_plain_response_that_is_none(self, fresh, old_rabbitmq):
        fresh.send_bytes(b"AMQP\x00\x00\x09\x01")
        fresh.receive()
        fresh.send(spec.Connection.StartOk({"capabilities": CAPABILITIES}, "PLAIN", "guest", "en_US"))
        try:
            with pytest.raises(Closed) as error:
                fresh.receive()
            expect.closed(error.value, {403, 501, 502})
        except (EOFError, ConnectionError):
            assert old_rabbitmq

    def test_open_ok_says_nothing(self, fresh):
        fresh.tune()
        assert fresh.call(spec.Connection.Open("/")).known_hosts == ""

    def test_what_the_server_says_of_itself(self, fresh):
        fresh.send_bytes(b"AMQP\x00\x00\x09\x01")
        properties = fresh.receive().server_properties
        assert properties.keys() >= {"capabilities", "cluster_name", "copyright", "information", "platform", "product", "version"}

    def test_the_header_of_amqp_1_is_answered_with_a_header(self, fresh):
        fresh.send_bytes(b"AMQP\x03\x01\x00\x00")
        with pytest.raises((EOFError, ConnectionError)):
            while len(fresh.buffer) < 1000:
                fresh.receive_bytes()
        assert fresh.buffer[:4] == b"AMQP"


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


def test_a_frame_may_be_eight_bytes_too_long(url, name):
    """Some clients do not count the eight bytes around a payload."""
    fresh = name()
    with Wire(url) as wire:
        wire.open(frame_max=4096)
        wire.open_channel()
        wire.call(spec.Queue.Declare(queue=fresh), 1)
        wire.send(spec.Basic.Publish(routing_key=fresh), 1)
        wire.send_bytes(frame.Header(1, 4096, BasicProperties()).marshal() + frame.Body(1, b"x" * 4096).marshal())
        expect.eventually(lambda: count(wire, fresh) == 1)
        wire.send(spec.Basic.Publish(routing_key=fresh), 1)
        wire.send_bytes(frame.Header(1, 4097, BasicProperties()).marshal() + frame.Body(1, b"x" * 4097).marshal())
        with pytest.raises(Closed) as error:
            wire.receive()
        expect.closed(error.value, 501)


def test_traffic_counts_as_heartbeats(url):
    with Wire(url) as wire:
        wire.open(heartbeat=1)
        wire.open_channel()
        for _ in range(4):
            assert isinstance(wire.receive_frame(), frame.Heartbeat)
            wire.send(spec.Basic.Qos(), 1)
            assert isinstance(wire.receive(), spec.Basic.QosOk)


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


def test_a_passive_declare_needs_no_permission(url, queue):
    # Since 4.3.1 it needs one of the three.
    with Wire(expect.url_with(url, "limited", "limited")) as wire:
        wire.open()
        wire.open_channel()
        assert count(wire, queue) == 0


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


def test_an_empty_queue_and_key_bind_the_last_queue_by_its_name(wire, name):
    fresh = name()
    wire.call(spec.Queue.Declare(queue=fresh), 1)
    wire.call(spec.Queue.Bind(exchange="amq.direct"), 1)
    publish(wire, fresh, b"a", exchange="amq.direct")
    expect.eventually(lambda: count(wire, fresh) == 1)


def test_confirms_count_from_the_select_on_each_channel(wire, queue):
    wire.open_channel(2)
    for channel in (1, 2):
        wire.call(spec.Confirm.Select(), channel)
    publish(wire, queue, b"a")
    assert wire.receive().delivery_tag == 1
    wire.send(spec.Basic.Publish(routing_key=queue), 2)
    wire.send_bytes(frame.Header(2, 0, BasicProperties()).marshal())
    assert wire.receive().delivery_tag == 1


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


def test_a_quorum_queue_takes_reject_publish_dlx_for_drop_head(wire, name):
    fresh = name()
    arguments = QUORUM | {"x-max-length": 1, "x-overflow": "reject-publish-dlx"}
    wire.call(spec.Queue.Declare(queue=fresh, durable=True, arguments=arguments), 1)
    wire.call(spec.Confirm.Select(), 1)
    for number in range(3):
        publish(wire, fresh, b"%d" % number)
        assert isinstance(wire.receive(), spec.Basic.Ack)
    expect.eventually(lambda: count(wire, fresh) == 1)
    assert get(wire, fresh)[2] == b"2"


def test_403_an_exclusive_consumer_of_a_queue_with_one_active_consumer(refused, name):
    fresh = name()
    declare = spec.Queue.Declare(queue=fresh, arguments={"x-single-active-consumer": True})
    refused(403, "in exclusive use", declare, spec.Basic.Consume(queue=fresh, exclusive=True))


def test_406_a_priority_that_is_no_number(refused, queue):
    refused(406, "x-priority", spec.Basic.Consume(queue=queue, arguments={"x-priority": "high"}))


def test_a_passive_declare_looks_at_nothing_but_the_name(wire, queue, name):
    passive = spec.Exchange.Declare(exchange="amq.direct", type="fanout", passive=True)
    assert isinstance(wire.call(passive, 1), spec.Exchange.DeclareOk)
    passive = spec.Queue.Declare(queue=queue, passive=True, durable=True, arguments={"x-max-length": -1})
    assert wire.call(passive, 1).queue == queue


def test_403_the_default_exchange_is_bound_to_nothing(refused):
    refused(403, "ACCESS_REFUSED", spec.Exchange.Bind(destination="", source="amq.fanout"))
    refused(403, "ACCESS_REFUSED", spec.Exchange.Unbind(destination="amq.fanout", source=""))


def test_bindings_with_other_arguments_are_others(wire, queue):
    for arguments in ({}, {"a": 1}, {"a": 2}):
        wire.call(spec.Queue.Bind(queue=queue, exchange="amq.direct", routing_key=queue, arguments=arguments), 1)
    for arguments in ({}, {"a": 2}):
        wire.call(spec.Queue.Unbind(queue=queue, exchange="amq.direct", routing_key=queue, arguments=arguments), 1)
    publish(wire, queue, b"a", exchange="amq.direct")
    expect.eventually(lambda: count(wire, queue) == 1)


def test_a_channel_can_be_closed_and_opened_again_and_again(wire):
    for _ in range(100):
        assert isinstance(wire.call(spec.Channel.Close(200, "", 0, 0), 1), spec.Channel.CloseOk)
        wire.open_channel(1)


def test_a_get_beside_an_exclusive_consumer(wire, queue, url):
    wire.call(spec.Basic.Consume(queue=queue, exclusive=True), 1)
    with Wire(url) as other:
        other.open()
        other.open_channel()
        assert get(other, queue) is None


def test_a_rollback_forgets_publishes_and_acks(wire, queue):
    wire.call(spec.Tx.Select(), 1)
    publish(wire, queue, b"a")
    wire.call(spec.Tx.Commit(), 1)
    got = get(wire, queue, no_ack=False)
    wire.send(spec.Basic.Ack(delivery_tag=got[0].delivery_tag), 1)
    publish(wire, queue, b"b")
    wire.call(spec.Tx.Rollback(), 1)
    assert count(wire, queue) == 0
    wire.call(spec.Basic.Recover(requeue=True), 1)
    expect.eventually(lambda: count(wire, queue) == 1)
    assert get(wire, queue)[2] == b"a"


def test_a_tx_commit_tells_of_what_cannot_be_routed(wire):
    wire.call(spec.Tx.Select(), 1)
    publish(wire, "nobody", b"a", mandatory=True)
    wire.send(spec.Tx.Commit(), 1)
    assert wire.receive().reply_code == 312
    receive_content(wire)
    assert isinstance(wire.receive(), spec.Tx.CommitOk)


def test_what_a_consumer_held_without_acks_is_gone(wire, queue, url):
    publish(wire, queue, b"a")
    with Wire(url) as other:
        other.open()
        other.open_channel()
        other.call(spec.Basic.Consume(queue=queue, no_ack=True), 1)
        assert deliveries(other, 1)[0][2] == b"a"
    assert count(wire, queue) == 0
