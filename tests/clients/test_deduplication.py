"""Messages that are published twice and taken once, with the arguments of LavinMQ and of RabbitMQ's plugin."""

import threading

import pika
import pytest
from pika import BasicProperties
from pika.exceptions import AMQPError, ChannelClosedByBroker

from conftest import Inbox
from expect import closed, eventually

ON = {"x-message-deduplication": True}


@pytest.fixture(autouse=True)
def has_deduplication(connect, name):
    try:
        connect().channel().exchange_declare(name(), "x-message-deduplication", arguments={"x-cache-size": 1})
    except AMQPError:
        pytest.skip("the broker has no deduplication")


@pytest.fixture
def confirming(channel):
    channel.confirm_delivery()
    return channel


def publish(channel, exchange, key, body, identity=None, header="x-deduplication-header", **more):
    """Mandatory: a duplicate is not returned."""
    headers = {**({} if identity is None else {header: identity}), **more}
    properties = BasicProperties(headers=headers, delivery_mode=2)
    channel.basic_publish(exchange, key, body, properties, mandatory=True)


def drained(channel, queue):
    """What waits in a queue, as text."""
    bodies = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        bodies.append(got[2].decode())
    return bodies


def declare(channel, name, **arguments):
    return channel.queue_declare(name(), durable=True, arguments={**ON, **arguments}).method.queue


def test_a_queue_takes_what_has_an_id_once(confirming, name):
    queue = declare(confirming, name)
    for body, identity in [("1", "a"), ("2", "a"), ("3", 7), ("4", "7"), ("5", 7), ("6", None), ("7", None)]:
        publish(confirming, "", queue, body, identity)
    assert drained(confirming, queue) == ["1", "3", "4", "6", "7"]
    publish(confirming, "", queue, "8", "a")
    assert drained(confirming, queue) == [], "it is remembered though it was consumed"


def test_so_many_ids_are_remembered_and_no_more(confirming, name):
    queue = declare(confirming, name, **{"x-cache-size": 2})
    for identity in "abcab":
        publish(confirming, "", queue, identity, identity)
    assert drained(confirming, queue) == ["a", "b", "c", "a", "b"]
    publish(confirming, "", queue, "b", "b")
    assert drained(confirming, queue) == []


def test_ids_are_remembered_for_a_time(confirming, name):
    queue = declare(confirming, name, **{"x-cache-ttl": 50})
    for identity, more in [("short", {}), ("long", {"x-cache-ttl": 3_600_000})]:
        publish(confirming, "", queue, identity, identity, **more)

    def taken_again():
        publish(confirming, "", queue, "again", "short")
        return confirming.queue_declare(queue, passive=True).method.message_count == 3

    eventually(taken_again)
    publish(confirming, "", queue, "no", "long")
    assert drained(confirming, queue) == ["short", "long", "again"]


def test_the_header_can_have_another_name(confirming, name):
    queue = declare(confirming, name, **{"x-deduplication-header": "id"})
    for body in "12":
        publish(confirming, "", queue, body, "a", header="id")
        publish(confirming, "", queue, body, "a")
    assert drained(confirming, queue) == ["1", "1", "2"]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_through_an_exchange_each_queue_takes_a_message_once(confirming, name, kind):
    exchange, queues = name(), [name(), name()]
    confirming.exchange_declare(exchange, "topic", durable=True, arguments=ON)
    for queue in queues:
        confirming.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    confirming.queue_bind(queues[0], exchange, "a.#")
    confirming.queue_bind(queues[1], exchange, "#.b")
    for body, key in [("1", "a"), ("2", "a.b"), ("3", "c.b")]:
        publish(confirming, exchange, key, body, "same")
    publish(confirming, "", queues[0], "4", "same")
    assert [drained(confirming, queue) for queue in queues] == [["1", "4"], ["2"]], "the other has not seen it yet"


def test_the_exchange_type_of_the_plugin(confirming, name):
    exchange, queues = name(), [name(), name()]
    confirming.exchange_declare(exchange, "x-message-deduplication", arguments={"x-cache-size": 5})
    for queue in queues:
        confirming.queue_declare(queue)
        confirming.queue_bind(queue, exchange, queue)
    for _ in range(100):
        publish(confirming, exchange, "whatever", "hello", "hello")
    assert [drained(confirming, queue) for queue in queues] == [["hello"], ["hello"]]


def test_a_copy_goes_where_the_first_went_though_that_was_chance(confirming, name):
    exchange, queues = name(), [name() for _ in range(5)]
    confirming.exchange_declare(exchange, "x-random", arguments=ON)
    for queue in queues:
        confirming.queue_declare(queue)
        confirming.queue_bind(queue, exchange)
    for identity in range(20):
        for _ in range(3):
            publish(confirming, exchange, "", str(identity), identity)
    bodies = sorted(int(body) for queue in queues for body in drained(confirming, queue))
    assert bodies == list(range(20))


def test_what_no_queue_took_is_not_remembered(confirming, name):
    exchange, queue = name(), name()
    confirming.exchange_declare(exchange, "fanout", arguments=ON)
    with pytest.raises(pika.exceptions.UnroutableError):
        publish(confirming, exchange, "", "1", "a")
    confirming.queue_declare(queue)
    confirming.queue_bind(queue, exchange)
    publish(confirming, exchange, "", "2", "a")
    assert drained(confirming, queue) == ["2"]


def test_what_is_refused_is_not_remembered(confirming, name):
    queue = declare(confirming, name, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    publish(confirming, "", queue, "1", "a")
    with pytest.raises(pika.exceptions.NackError):
        publish(confirming, "", queue, "2", "b")
    publish(confirming, "", queue, "3", "a")
    assert drained(confirming, queue) == ["1"]
    publish(confirming, "", queue, "4", "b")
    assert drained(confirming, queue) == ["4"]


def test_a_dead_letter_that_comes_back_is_no_duplicate(connection, name):
    """The loop of a retry: from the queue over one that waits, back through the exchange."""
    channel, exchange, queue, waiting = connection.channel(), name(), name(), name()
    channel.exchange_declare(exchange, "fanout", durable=True, arguments=ON)
    channel.queue_declare(queue, arguments={**ON, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": waiting})
    channel.queue_declare(waiting, arguments={"x-message-ttl": 20, "x-dead-letter-exchange": exchange})
    channel.queue_bind(queue, exchange)
    publish(channel, exchange, "", "x", "a")
    inbox = Inbox(channel, queue).wait(1)
    channel.basic_reject(inbox.tags[0], requeue=False)
    inbox.wait(2)
    publish(channel, exchange, "", "y", "a")
    channel.basic_ack(inbox.tags[1])
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_a_delayed_exchange_that_deduplicates(connection, name):
    channel, exchange, queue = connection.channel(), name("delayed"), name()
    arguments = {**ON, "x-delayed-type": "fanout"}
    channel.exchange_declare(exchange, "x-delayed-message", durable=True, arguments=arguments)
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange)
    inbox = Inbox(channel, queue, auto_ack=True)
    for body in ["1", "2"]:
        publish(channel, exchange, "", body, "a", **{"x-delay": 50})
    publish(channel, exchange, "", "3", "b", **{"x-delay": 100})
    assert inbox.wait(2).bodies == [b"1", b"3"]


def test_in_a_transaction(connection, name):
    channel = connection.channel()
    queue = declare(channel, name)
    channel.tx_select()
    for body in ["1", "2"]:
        publish(channel, "", queue, body, "a")
    channel.tx_commit()
    assert drained(channel, queue) == ["1"]


def test_publishers_that_send_the_same_at_the_same_time(connect, name):
    control, count = connect().channel(), 100
    exchange, queue = name(), name()
    control.exchange_declare(exchange, "direct", durable=True, arguments={**ON, "x-cache-size": count})
    control.queue_declare(queue, durable=True)
    control.queue_bind(queue, exchange, "k")
    channels = [connect().channel() for _ in range(4)]

    def send(channel):
        channel.confirm_delivery()
        for number in range(count):
            publish(channel, exchange, "k", str(number), number)

    threads = [threading.Thread(target=send, args=[channel]) for channel in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, drained(control, queue))) == list(range(count))


@pytest.mark.parametrize(
    "arguments",
    [{"x-cache-size": 0}, {"x-cache-size": 2**20 + 1}, {"x-cache-ttl": -1}, {"x-deduplication-header": 5},
     {"x-message-deduplication": 1}],
)
def test_arguments_that_make_no_sense(connection, name, arguments):
    for declare_it in [
        lambda channel: channel.queue_declare(name(), arguments={**ON, **arguments}),
        lambda channel: channel.exchange_declare(name(), "direct", arguments={**ON, **arguments}),
    ]:
        with pytest.raises(ChannelClosedByBroker) as error:
            declare_it(connection.channel())
        closed(error.value, 406, next(iter(arguments)))


def test_a_killed_broker_still_knows_what_it_took(survivor):
    """What was consumed, what waits, and what is behind an exchange."""

    def opened():
        channel = pika.BlockingConnection(pika.URLParameters(survivor.start())).channel()
        channel.confirm_delivery()
        return channel

    channel = opened()
    channel.exchange_declare("x", "fanout", durable=True, arguments=ON)
    channel.queue_declare("own", durable=True, arguments=ON)
    channel.queue_declare("behind", durable=True)
    channel.queue_bind("behind", "x")
    for round_ in range(3):
        for identity in range(10):
            publish(channel, "", "own", str(identity), identity)
            publish(channel, "x", "", str(identity), identity)
        expected = [str(identity) for identity in range(10)]
        if round_ == 0:
            assert [channel.basic_get("own", auto_ack=True)[2].decode() for _ in range(5)] == expected[:5]
            assert channel.queue_purge("behind").method.message_count == 10
            publish(channel, "", "own", "confirmed after what was taken is gone for good")
        survivor.kill()
        channel = opened()
        counts = [channel.queue_declare(queue, passive=True).method.message_count for queue in ["own", "behind"]]
        assert counts == [6, 0]
    publish(channel, "x", "", "new", "new")
    assert (drained(channel, "behind"), drained(channel, "own")[:5]) == (["new"], ["5", "6", "7", "8", "9"])
