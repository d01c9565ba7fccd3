"""What methods and their bits do that client libraries hide or never send, on a bare socket."""

import struct

import pytest
from pika import BasicProperties, frame, spec

import expect
from wire import Closed, Wire, count, get, publish, receive_content

QUORUM = {"x-queue-type": "quorum"}


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


def test_a_passive_declare_needs_no_permission(url, queue):
    # Since 4.3.1 it needs one of the three.
    with Wire(expect.url_with(url, "limited", "limited")) as wire:
        wire.open()
        wire.open_channel()
        assert count(wire, queue) == 0


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


def test_a_passive_declare_looks_at_nothing_but_the_name(wire, queue, name):
    passive = spec.Exchange.Declare(exchange="amq.direct", type="fanout", passive=True)
    assert isinstance(wire.call(passive, 1), spec.Exchange.DeclareOk)
    passive = spec.Queue.Declare(queue=queue, passive=True, durable=True, arguments={"x-max-length": -1})
    assert wire.call(passive, 1).queue == queue


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


def test_the_name_of_direct_reply_can_be_declared(wire):
    for passive in (False, True):
        declared = wire.call(spec.Queue.Declare(queue="amq.rabbitmq.reply-to", passive=passive), 1)
        assert (declared.queue, declared.message_count, declared.consumer_count) == ("amq.rabbitmq.reply-to", 0, 1)
