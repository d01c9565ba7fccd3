"""Exchanges that give those who come later the last messages, as RabbitMQ's plugin does."""

import pika
import pytest
from pika import BasicProperties
from pika.exceptions import AMQPError, ChannelClosedByBroker, UnroutableError

from conftest import Inbox
from expect import closed, eventually

KIND = "x-recent-history"


@pytest.fixture
def history(connect, name):
    """Declares such an exchange, where the broker has them."""

    def declare(length=None, alternate=None):
        exchange = name("history")
        given = {"x-recent-history-length": length, "alternate-exchange": alternate}
        arguments = {key: value for key, value in given.items() if value is not None}
        try:
            connect().channel().exchange_declare(exchange, KIND, arguments=arguments)
        except AMQPError:
            pytest.skip("RabbitMQ without the plugin")
        return exchange

    return declare


@pytest.fixture
def confirming(channel):
    channel.confirm_delivery()
    return channel


def publish(channel, exchange, *bodies, **headers):
    for body in bodies:
        channel.basic_publish(exchange, "key", str(body), BasicProperties(headers=headers, delivery_mode=2))


def bind_new(channel, exchange, queue, **options):
    """Binds a queue; what is in it then."""
    channel.queue_declare(queue, **options)
    channel.queue_bind(queue, exchange, "any")
    return drained(channel, queue)


def drained(channel, queue):
    bodies = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        bodies.append(got[2].decode())
    return bodies


def numbers(*between):
    return [str(number) for number in range(*between)]


def test_who_comes_later_gets_the_last_messages(confirming, history, name):
    exchange, queue = history(), name()
    publish(confirming, exchange, *range(25))
    assert bind_new(confirming, exchange, queue) == numbers(5, 25), "20 unless told otherwise"
    publish(confirming, exchange, 25)
    assert drained(confirming, queue) == ["25"], "it is like a fanout exchange"
    confirming.queue_bind(queue, exchange, "any")
    assert drained(confirming, queue) == [], "it was bound"
    assert bind_new(confirming, exchange, name()) == numbers(6, 26)


def test_so_many_as_it_is_told(confirming, history, name):
    exchange = history(2)
    publish(confirming, exchange, 1, 2, 3)
    assert bind_new(confirming, exchange, name()) == ["2", "3"]


def test_what_is_not_to_be_stored_is_not(confirming, history, name):
    exchange, there = history(), name()
    bind_new(confirming, exchange, there)
    publish(confirming, exchange, "secret", **{"x-recent-history-no-store": True})
    publish(confirming, exchange, "public", **{"x-recent-history-no-store": False})
    assert drained(confirming, there) == ["secret", "public"]
    assert bind_new(confirming, exchange, name()) == ["public"]


@pytest.fixture
def through(confirming, history, queue, name):
    """What is in a queue after an exchange that leads to it in two ways was bound to one that got messages."""
    exchange, other = history(), name()
    publish(confirming, exchange, 1, 2, 3)
    confirming.exchange_declare(other, "topic")
    confirming.queue_bind(queue, other, "k*")
    confirming.queue_bind(queue, other, "key")
    confirming.exchange_bind(other, exchange)
    return drained(confirming, queue)


def test_an_exchange_that_is_bound_gets_them_too(through):
    assert sorted(through) == ["1", "2", "3"]


def test_an_exchange_that_is_bound_gets_them_in_order(through):
    assert through == ["1", "2", "3"]


def test_what_only_the_exchange_keeps_is_returned_if_mandatory(confirming, history, name):
    exchange = history()
    with pytest.raises(UnroutableError):
        confirming.basic_publish(exchange, "", b"x", mandatory=True)
    assert bind_new(confirming, exchange, name()) == ["x"]
    confirming.basic_publish(exchange, "", b"y", mandatory=True)


def test_messages_keep_what_is_written_on_them(confirming, history, queue):
    exchange = history()
    properties = BasicProperties(headers={"a": 1}, message_id="m")
    confirming.basic_publish(exchange, "the key", b"x", properties)
    confirming.queue_bind(queue, exchange)
    method, properties, _ = confirming.basic_get(queue, auto_ack=True)
    assert (method.exchange, method.routing_key, method.redelivered) == (exchange, "the key", False)
    assert (properties.headers, properties.message_id) == ({"a": 1}, "m")


def test_another_binding_gets_them_again(confirming, history, name):
    exchange, queue = history(), name()
    publish(confirming, exchange, 1, 2)
    assert bind_new(confirming, exchange, queue) == ["1", "2"]
    confirming.queue_bind(queue, exchange, "another")
    assert drained(confirming, queue) == ["1", "2"]


def test_what_no_queue_takes_goes_to_the_alternate_exchange_and_is_kept(confirming, history, queue, name):
    alternate = name()
    exchange = history(alternate=alternate)
    confirming.exchange_declare(alternate, "fanout")
    confirming.queue_bind(queue, alternate)
    publish(confirming, exchange, 1)
    assert drained(confirming, queue) == ["1"]
    assert bind_new(confirming, exchange, name()) == ["1"]


def test_what_is_too_old_is_kept_no_longer(confirming, history, name):
    exchange = history()
    confirming.basic_publish(exchange, "key", "old", BasicProperties(expiration="100"))
    publish(confirming, exchange, "young")
    eventually(lambda: bind_new(confirming, exchange, name()) == ["young"])


def test_what_is_not_committed_is_not_kept(channel, history, name):
    exchange = history()
    channel.tx_select()
    publish(channel, exchange, "taken back")
    channel.tx_rollback()
    publish(channel, exchange, "committed")
    channel.tx_commit()
    assert bind_new(channel, exchange, name()) == ["committed"]


def test_a_stream_gets_them_too(confirming, history, name):
    exchange, stream = history(), name()
    publish(confirming, exchange, 1, 2)
    confirming.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
    confirming.queue_bind(stream, exchange)
    publish(confirming, exchange, 3)
    confirming.basic_qos(prefetch_count=10)
    inbox = Inbox(confirming, stream, arguments={"x-stream-offset": "first"})
    assert inbox.wait(3).bodies == [b"1", b"2", b"3"]


@pytest.mark.parametrize("length", [0, -1, 10_001, "many"])
def test_a_length_that_makes_no_sense(connection, history, name, length):
    history()
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().exchange_declare(name(), KIND, arguments={"x-recent-history-length": length})
    closed(error.value, 406, "x-recent-history-length")


def test_what_is_kept_is_the_exchanges(connection, history):
    exchange = history()
    kept = f"amq.history.{exchange}"
    for touch in [
        lambda channel: channel.basic_get(kept),
        lambda channel: channel.basic_consume(kept, lambda *_: None),
        lambda channel: channel.queue_delete(kept),
        lambda channel: channel.queue_bind(kept, "amq.fanout"),
    ]:
        with pytest.raises(ChannelClosedByBroker) as error:
            touch(connection.channel())
        closed(error.value, 403, exchange)
    channel = connection.channel()
    publish(channel, exchange, 1, 2)
    channel.confirm_delivery()
    with pytest.raises(UnroutableError):
        channel.basic_publish("", kept, b"forged", mandatory=True)
    assert channel.queue_purge(kept).method.message_count == 2
    channel.exchange_delete(exchange)
    with pytest.raises(ChannelClosedByBroker) as error:
        channel.queue_declare(kept, passive=True)
    closed(error.value, 404)


def test_a_killed_broker_still_knows_the_last_messages(survivor):
    channel = pika.BlockingConnection(pika.URLParameters(survivor.start())).channel()
    channel.confirm_delivery()
    channel.exchange_declare("x", KIND, durable=True, arguments={"x-recent-history-length": 3})
    publish(channel, "x", 1, 2)
    channel.basic_publish("x", "", b"transient")
    publish(channel, "x", 3)
    survivor.kill()
    channel = pika.BlockingConnection(pika.URLParameters(survivor.start())).channel()
    assert bind_new(channel, "x", "q") == ["2", "3"]
