"""What the arguments of a queue and of its consumers change: order, who consumes, how often and for how long."""

import pytest
from pika import BasicProperties

import expect
from conftest import Inbox, until


def publish(channel, queue, *bodies, **properties):
    for body in bodies:
        channel.basic_publish("", queue, str(body).encode(), BasicProperties(**properties))


def get_all(channel, queue):
    found = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append(body.decode())


def test_higher_priorities_first(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-priority": 5})
    for body, priority in [("a0", 0), ("b3", 3), ("c", None), ("d5", 5), ("e9", 9), ("f3", 3)]:
        publish(channel, queue, body, priority=priority)
    expect.eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count == 6)
    assert get_all(channel, queue) == ["d5", "e9", "b3", "f3", "a0", "c"]


def test_what_comes_back_keeps_its_priority(channel, name):
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-max-priority": 2})
    publish(channel, queue, "low", delivery_mode=2)
    publish(channel, queue, "high", priority=1, delivery_mode=2)
    method, _, body = channel.basic_get(queue)
    assert body == b"high"
    channel.basic_nack(method.delivery_tag)
    assert get_all(channel, queue) == ["high", "low"]


def test_without_priorities_order_is_order(channel, queue):
    for body, priority in [("a", 0), ("b", 9), ("c", 5)]:
        publish(channel, queue, body, priority=priority)
    assert get_all(channel, queue) == ["a", "b", "c"]


def test_a_single_active_consumer(connect, name):
    channels = [connect().channel() for _ in range(3)]
    queue = name()
    channels[0].queue_declare(queue, arguments={"x-single-active-consumer": True})
    inboxes = [Inbox(channel, queue, auto_ack=True) for channel in channels]
    publish(channels[0], queue, *"abc")
    assert inboxes[0].wait(3).bodies == [b"a", b"b", b"c"]
    channels[0].basic_cancel(inboxes[0].tag)
    publish(channels[0], queue, "d")
    assert inboxes[1].wait(1).bodies == [b"d"]
    channels[1].connection.close()
    publish(channels[0], queue, "e")
    assert inboxes[2].wait(1).bodies == [b"e"]
    assert len(inboxes[0].messages) == 3


def test_what_the_active_consumer_held_goes_to_the_next(connect, name):
    one, two = connect(), connect()
    queue = name()
    channel = one.channel()
    channel.queue_declare(queue, arguments={"x-single-active-consumer": True})
    first, second = Inbox(channel, queue), Inbox(two.channel(), queue)
    publish(channel, queue, *"ab")
    first.wait(2)
    one.close()
    assert second.wait(2).bodies == [b"a", b"b"]
    assert second.redelivered == [True, True]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_consumer_with_a_higher_priority_takes_over_when_the_one_before_holds_nothing(
    connection, name, old_rabbitmq, kind
):
    """In quorum queues. Classic queues wait for the end of the one before."""
    if old_rabbitmq and kind == "quorum":
        pytest.skip("since 4.0")
    channel, queue = connection.channel(), name()
    arguments = {"x-single-active-consumer": True, "x-queue-type": kind}
    channel.queue_declare(queue, durable=True, arguments=arguments)
    first = Inbox(channel, queue)
    publish(channel, queue, *"ab")
    first.wait(2)
    second = Inbox(channel, queue, arguments={"x-priority": 5})
    equal = Inbox(channel, queue, arguments={"x-priority": 5})
    if kind == "classic":
        publish(channel, queue, "c")
        assert first.wait(3).bodies == [b"a", b"b", b"c"]
        return
    publish(channel, queue, *"cd")
    channel.basic_ack(first.tags[0])
    assert channel.queue_declare(queue, passive=True).method.message_count == 2, "it still holds one"
    channel.basic_ack(first.tags[1])
    assert second.wait(2).bodies == [b"c", b"d"]
    channel.basic_cancel(second.tag)
    publish(channel, queue, "e")
    assert equal.wait(1).bodies == [b"e"]
    assert len(first.messages) == 2


def test_a_consumer_that_holds_a_message_for_too_long(connect, connection, name, old_rabbitmq):
    if old_rabbitmq:
        pytest.skip("this RabbitMQ looks once a minute")
    queue = name()
    connection.channel().queue_declare(queue, arguments={"x-consumer-timeout": 200})
    slow = connection.channel()
    inbox = Inbox(slow, queue)
    publish(slow, queue, "a")
    inbox.wait(1)
    until(connection, lambda: slow.is_closed)
    expect.closed(slow._closing_reason, 406, "timed out")
    other = connect().channel()
    assert Inbox(other, queue).wait(1).redelivered == [True]


def test_a_consumer_that_says_it_is_alive(connection, name, old_rabbitmq):
    if old_rabbitmq:
        pytest.skip("this RabbitMQ looks once a minute")
    queue = name()
    channel = connection.channel()
    channel.queue_declare(queue)
    inbox = Inbox(channel, queue, arguments={"x-consumer-timeout": 600})
    publish(channel, queue, "a")
    inbox.wait(1)
    for _ in range(6):
        connection.process_data_events(0.2)
        channel.flow(True)
    channel.basic_ack(inbox.tags[0])


QUORUM = {"x-queue-type": "quorum"}


def get(channel, queue):
    """The next message, when it is there: what comes back to a RabbitMQ's quorum queue takes its time."""
    got = []

    def has_come():
        got[:] = channel.basic_get(queue)
        return got[0] is not None

    until(channel.connection, has_come)
    return got


def test_a_quorum_queue_counts_deliveries(channel, name):
    queue = name()
    channel.queue_declare(queue, durable=True, arguments=QUORUM)
    publish(channel, queue, "a", headers={"mine": 1})
    for returns in range(4):
        method, properties, _ = get(channel, queue)
        assert properties.headers.get("x-delivery-count", 0) == returns
        assert (properties.headers["mine"], method.redelivered) == (1, returns > 0)
        channel.basic_reject(method.delivery_tag)


def test_a_message_that_comes_back_too_often(channel, name):
    queue, dead = name(), name()
    channel.queue_declare(dead)
    arguments = QUORUM | {"x-delivery-limit": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    channel.queue_declare(queue, durable=True, arguments=arguments)
    publish(channel, queue, "a")
    for _ in range(3):
        method, _, _ = get(channel, queue)
        channel.basic_nack(method.delivery_tag)
    assert get_all(channel, queue) == []
    until(channel.connection, lambda: channel.queue_declare(dead, passive=True).method.message_count == 1)
    _, properties, _ = channel.basic_get(dead, auto_ack=True)
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


def test_quorum_queues_have_a_limit_of_their_own(channel, name, old_rabbitmq):
    if old_rabbitmq:
        pytest.skip("since 4.0")
    limited, unlimited = name(), name()
    channel.queue_declare(limited, durable=True, arguments=QUORUM)
    channel.queue_declare(unlimited, durable=True, arguments=QUORUM | {"x-delivery-limit": -1})
    for queue, deliveries in [(limited, 21), (unlimited, 30)]:
        publish(channel, queue, "a")
        for _ in range(deliveries):
            method, _, _ = get(channel, queue)
            channel.basic_nack(method.delivery_tag)
    assert (get_all(channel, limited), get_all(channel, unlimited)) == ([], ["a"])


def test_urgent_messages_of_a_quorum_queue(channel, name, old_rabbitmq):
    if old_rabbitmq:
        pytest.skip("since 4.0")
    queue = name()
    channel.queue_declare(queue, durable=True, arguments=QUORUM)
    for body, priority in [("a", None), ("b", 4), ("c", 5), ("d", 9)]:
        publish(channel, queue, body, priority=priority)
    assert get_all(channel, queue)[0] == "c"
    for number in range(6):
        publish(channel, queue, f"normal {number}")
        publish(channel, queue, f"urgent {number}", priority=5)
    urgent = [body.startswith("urgent") for body in get_all(channel, queue)]
    assert urgent.index(False) <= 2 and urgent[-3:] == [False] * 3, "two for one: normal messages do not starve"


def nack(channel, tag):
    channel.basic_nack(tag)


def reject(channel, tag):
    channel.basic_reject(tag)


def close(channel, _):
    channel.close()


@pytest.mark.parametrize("give_back", [nack, reject, close])
@pytest.mark.parametrize("kind", ["disabled", "all", "failed", "returned"])
def test_which_messages_wait_that_come_back(connection, name, old_rabbitmq, kind, give_back):
    if old_rabbitmq:
        pytest.skip("since 4.3")
    channel, queue, hour_ms = connection.channel(), name(), 3_600_000
    retry = {"x-delayed-retry-type": kind, "x-delayed-retry-min": hour_ms, "x-delayed-retry-max": hour_ms}
    channel.queue_declare(queue, durable=True, arguments=QUORUM | retry)
    publish(channel, queue, "a")
    give_back(channel, get(channel, queue)[0].delivery_tag)
    waits = {"disabled": [], "all": [nack, reject, close], "failed": [reject, close], "returned": [nack]}
    expected = [] if give_back in waits[kind] else ["a"]
    assert get_all(connection.channel(), queue) == expected


def test_what_comes_back_waits(channel, name, old_rabbitmq):
    if old_rabbitmq:
        pytest.skip("since 4.3")
    queue = name()
    retry = {"x-delayed-retry-type": "all", "x-delayed-retry-min": 150, "x-delayed-retry-max": 10_000}
    channel.queue_declare(queue, durable=True, arguments=QUORUM | retry)
    publish(channel, queue, "a", "b")
    method, _, body = get(channel, queue)
    channel.basic_nack(method.delivery_tag)
    assert get_all(channel, queue) == ["b"], "the others do not wait for it"
    inbox = Inbox(channel, queue).wait(1)
    assert inbox.bodies == [b"a"]
