"""Consuming through pika: prefetch, settling, order, cancelling, priorities, get."""

import pika
import pytest
from pika import spec
from pika.exceptions import ChannelClosedByBroker, DuplicateConsumerTag

import expect
from conftest import Inbox, until
from wire import Wire


@pytest.fixture
def filled(connection, queue):
    """A queue of ten messages 0 … 9."""
    channel = connection.channel()
    channel.confirm_delivery()
    for number in range(10):
        channel.basic_publish("", queue, str(number).encode())
    channel.close()
    return queue


def numbers(*range_arguments):
    return [str(number).encode() for number in range(*range_arguments)]


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_order_and_tags(channel, filled):
    inbox = Inbox(channel, filled).wait(10)
    assert inbox.bodies == numbers(10)
    assert inbox.tags == list(range(1, 11))
    assert inbox.redelivered == [False] * 10
    method = inbox.messages[0][0]
    assert (method.consumer_tag, method.exchange, method.routing_key) == (inbox.tag, "", filled)


def test_prefetch_bounds_what_is_outstanding(channel, filled):
    channel.basic_qos(prefetch_count=3)
    inbox = Inbox(channel, filled).wait(3)
    assert ready(channel, filled) == 7
    for settled in range(1, 8):
        channel.basic_ack(inbox.tags[settled - 1])
        inbox.wait(3 + settled)
        assert ready(channel, filled) == 7 - settled
    assert inbox.bodies == numbers(10)


def test_prefetch_is_per_consumer(channel, filled):
    channel.basic_qos(prefetch_count=2)
    one, two = Inbox(channel, filled), Inbox(channel, filled)
    until(channel.connection, lambda: len(one.messages) + len(two.messages) == 4)
    assert (len(one.messages), len(two.messages), ready(channel, filled)) == (2, 2, 6)


def test_prefetch_applies_to_consumers_started_afterwards(channel, filled):
    channel.basic_qos(prefetch_count=1)
    one = Inbox(channel, filled)
    channel.basic_qos(prefetch_count=4)
    two = Inbox(channel, filled)
    until(channel.connection, lambda: len(one.messages) + len(two.messages) == 5)
    assert (len(one.messages), len(two.messages), ready(channel, filled)) == (1, 4, 5)


def test_ack_multiple(channel, filled):
    inbox = Inbox(channel, filled).wait(10)
    channel.basic_ack(inbox.tags[4], multiple=True)
    channel.basic_ack(0, multiple=True)
    channel.close()
    assert ready(channel.connection.channel(), filled) == 0


def test_acks_out_of_order(channel, filled):
    channel.basic_qos(prefetch_count=5)
    inbox = Inbox(channel, filled).wait(5)
    for tag in [inbox.tags[3], inbox.tags[0]]:
        channel.basic_ack(tag)
    inbox.wait(7)
    channel.close()
    rest = Inbox(channel.connection.channel(), filled).wait(8)
    assert rest.bodies == [b"1", b"2", *numbers(4, 10)]
    assert rest.redelivered == [True] * 5 + [False] * 3


@pytest.mark.parametrize("settle", ["nack", "reject", "recover", "close"])
def test_requeued_messages_come_first_and_are_flagged(channel, filled, settle):
    channel.basic_qos(prefetch_count=3)
    inbox = Inbox(channel, filled).wait(3)
    channel.basic_cancel(inbox.tag)
    match settle:
        case "nack":
            channel.basic_nack(inbox.tags[2], multiple=True, requeue=True)
        case "reject":
            for tag in reversed(inbox.tags):
                channel.basic_reject(tag, requeue=True)
        case "recover":
            channel.basic_recover(requeue=True)
        case "close":
            channel.close()
    again = Inbox(channel.connection.channel(), filled).wait(10)
    assert again.bodies == numbers(10)
    assert again.redelivered == [True] * 3 + [False] * 7


@pytest.mark.parametrize("settle", ["nack", "reject"])
def test_without_requeue_it_is_gone(channel, filled, settle):
    inbox = Inbox(channel, filled).wait(10)
    if settle == "nack":
        channel.basic_nack(inbox.tags[-1], multiple=True, requeue=False)
    else:
        for tag in inbox.tags:
            channel.basic_reject(tag, requeue=False)
    channel.close()
    assert ready(channel.connection.channel(), filled) == 0


def test_a_lost_connection_gives_back_what_it_held(url, channel, filled):
    with Wire(url) as lost:
        lost.open()
        lost.send(spec.Basic.Consume(queue=filled), lost.open_channel())
        while not isinstance(method := lost.receive(), spec.Basic.Deliver) or method.delivery_tag < 10:
            pass
    again = Inbox(channel, filled).wait(10)
    assert (again.bodies, again.redelivered) == (numbers(10), [True] * 10)


def test_without_acks_nothing_is_outstanding(channel, filled):
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, filled, auto_ack=True).wait(10)
    channel.close()
    assert ready(channel.connection.channel(), filled) == 0


def test_cancel_stops_and_keeps_what_is_unacked(channel, filled):
    channel.basic_qos(prefetch_count=2)
    inbox = Inbox(channel, filled).wait(2)
    channel.basic_cancel(inbox.tag)
    channel.basic_cancel("never-there")
    for tag in inbox.tags:
        channel.basic_ack(tag)
    assert (ready(channel, filled), len(inbox.messages)) == (8, 2)


def test_a_chosen_consumer_tag_and_one_from_the_broker(channel, filled):
    assert Inbox(channel, filled, consumer_tag="chosen").wait(10).messages[0][0].consumer_tag == "chosen"
    with pytest.raises(DuplicateConsumerTag):
        Inbox(channel, filled, consumer_tag="chosen")


def test_deleting_the_queue_cancels_its_consumers(connection, channel, queue):
    cancelled = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    inbox = Inbox(channel, queue)
    connection.channel().queue_delete(queue)
    until(connection, lambda: cancelled)
    assert cancelled == [inbox.tag]
    assert channel.queue_declare(queue)


def test_higher_priority_first_while_it_can_take(connection, queue):
    low, high, publisher = (connection.channel() for _ in range(3))
    for channel in [low, high]:
        channel.basic_qos(prefetch_count=2)
    below = Inbox(low, queue)
    above = Inbox(high, queue, arguments={"x-priority": 10})
    publisher.confirm_delivery()
    for number in range(4):
        publisher.basic_publish("", queue, str(number).encode())
        until(connection, lambda: len(below.messages) + len(above.messages) == number + 1)  # noqa: B023
    assert (above.bodies, below.bodies) == ([b"0", b"1"], [b"2", b"3"])
    high.basic_ack(above.tags[0])
    publisher.basic_publish("", queue, b"4")
    above.wait(3)


def test_messages_are_shared_among_equals(channel, filled):
    channel.basic_qos(prefetch_count=5)
    one, two = Inbox(channel, filled), Inbox(channel, filled)
    until(channel.connection, lambda: len(one.messages) + len(two.messages) == 10)
    assert sorted(one.bodies + two.bodies) == numbers(10)
    assert (len(one.messages), len(two.messages)) == (5, 5)


def test_exclusive_consumer(connection, channel, queue):
    Inbox(channel, queue, exclusive=True)
    for exclusive in [False, True]:
        with pytest.raises(ChannelClosedByBroker) as error:
            Inbox(connection.channel(), queue, exclusive=exclusive)
        expect.closed(error.value, 403, "in exclusive use")


def test_get(channel, filled):
    for number in range(10):
        method, _, body = channel.basic_get(filled)
        assert (body, method.redelivered, method.message_count) == (str(number).encode(), False, 9 - number)
        assert (method.exchange, method.routing_key, method.delivery_tag) == ("", filled, number + 1)
    assert channel.basic_get(filled) == (None, None, None)
    channel.basic_nack(3, requeue=True)
    method, _, body = channel.basic_get(filled, auto_ack=True)
    assert (method.redelivered, body) == (True, b"2")


def test_get_is_not_limited_by_prefetch(channel, filled):
    channel.basic_qos(prefetch_count=1)
    for _ in range(10):
        assert channel.basic_get(filled)[0]


def test_delivery_modes_mix_in_order(connection, channel, name):
    fresh = name()
    channel.queue_declare(fresh, durable=True)
    channel.confirm_delivery()
    for number in range(20):
        mode = spec.PERSISTENT_DELIVERY_MODE if number % 2 else spec.TRANSIENT_DELIVERY_MODE
        channel.basic_publish("", fresh, str(number).encode(), pika.BasicProperties(delivery_mode=mode))
    assert Inbox(connection.channel(), fresh).wait(20).bodies == numbers(20)


def test_two_channels_number_their_own_deliveries(connection, filled):
    one, two = connection.channel(), connection.channel()
    first, _, _ = one.basic_get(filled)
    second, _, _ = two.basic_get(filled)
    assert (first.delivery_tag, second.delivery_tag) == (1, 1)
    two.basic_ack(1)
    one.basic_nack(1, requeue=True)
    expect.eventually(lambda: ready(one, filled) == 9)
