"""Exchanges, queues and bindings through pika."""

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker

import expect
from conftest import Inbox


def bodies(channel, queue):
    """Takes everything out of the queue."""
    taken = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return taken
        taken.append(body)


def exchange(channel, name, kind, **options):
    fresh = name()
    channel.exchange_declare(fresh, kind, **options)
    return fresh


def bound(channel, name, source, routing_key="", arguments=None):
    fresh = name()
    channel.queue_declare(fresh)
    channel.queue_bind(fresh, source, routing_key, arguments)
    return fresh


@pytest.fixture
def confirming(connection):
    """When a publish returns, the message is in its queues."""
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def test_direct(confirming, name):
    source = exchange(confirming, name, "direct")
    red, both = bound(confirming, name, source, "red"), bound(confirming, name, source, "red")
    confirming.queue_bind(both, source, "blue")
    for key in ["red", "blue", "green"]:
        confirming.basic_publish(source, key, key.encode())
    assert bodies(confirming, red) == [b"red"]
    assert bodies(confirming, both) == [b"red", b"blue"]


def test_default_exchange_routes_by_queue_name(confirming, queue):
    confirming.basic_publish("", queue, b"hello")
    assert bodies(confirming, queue) == [b"hello"]


def test_fanout(confirming, name):
    source = exchange(confirming, name, "fanout")
    queues = [bound(confirming, name, source, key) for key in ["", "ignored"]]
    confirming.basic_publish(source, "whatever", b"news")
    assert [bodies(confirming, queue) for queue in queues] == [[b"news"], [b"news"]]


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("stock.*.nyse", ["stock.usd.nyse"]),
        ("stock.#", ["stock", "stock.usd", "stock.usd.nyse"]),
        ("#.nyse", ["stock.usd.nyse", "nyse"]),
        ("#", ["stock", "stock.usd", "stock.usd.nyse", "nyse", ""]),
        ("*", ["stock", "nyse"]),
        ("#.usd.#", ["stock.usd", "stock.usd.nyse"]),
    ],
)
def test_topic(confirming, name, pattern, matching):
    source = exchange(confirming, name, "topic")
    queue = bound(confirming, name, source, pattern)
    keys = ["stock", "stock.usd", "stock.usd.nyse", "nyse", ""]
    for key in keys:
        confirming.basic_publish(source, key, key.encode())
    assert bodies(confirming, queue) == [key.encode() for key in keys if key in matching]


@pytest.mark.parametrize(
    ("match", "headers", "routed"),
    [
        ("all", {"format": "pdf", "pages": 3}, True),
        ("all", {"format": "pdf", "pages": 3, "more": True}, True),
        ("all", {"format": "pdf"}, False),
        ("any", {"format": "pdf"}, True),
        ("any", {"format": "zip", "pages": 4}, False),
        ("any", {}, False),
    ],
)
def test_headers(confirming, name, match, headers, routed):
    source = exchange(confirming, name, "headers")
    queue = bound(confirming, name, source, arguments={"x-match": match, "format": "pdf", "pages": 3})
    confirming.basic_publish(source, "", b"report", BasicProperties(headers=headers))
    assert bodies(confirming, queue) == ([b"report"] if routed else [])


def test_exchange_to_exchange(confirming, name):
    source, target = exchange(confirming, name, "topic"), exchange(confirming, name, "fanout")
    confirming.exchange_bind(target, source, "a.#")
    queue = bound(confirming, name, target)
    confirming.basic_publish(source, "a.b", b"through")
    confirming.basic_publish(source, "b.a", b"not")
    confirming.exchange_unbind(target, source, "a.#")
    confirming.basic_publish(source, "a.b", b"unbound")
    assert bodies(confirming, queue) == [b"through"]


def test_two_ways_to_one_queue_give_one_message(confirming, name):
    source = exchange(confirming, name, "topic")
    queue = bound(confirming, name, source, "a.*")
    confirming.queue_bind(queue, source, "#")
    confirming.basic_publish(source, "a.b", b"once")
    assert bodies(confirming, queue) == [b"once"]


def test_cycle_of_exchanges(confirming, name):
    one, two = exchange(confirming, name, "fanout"), exchange(confirming, name, "fanout")
    confirming.exchange_bind(one, two)
    confirming.exchange_bind(two, one)
    queue = bound(confirming, name, two)
    confirming.basic_publish(one, "", b"once")
    assert bodies(confirming, queue) == [b"once"]


def test_alternate_exchange(confirming, name):
    spare = exchange(confirming, name, "fanout")
    source = exchange(confirming, name, "direct", arguments={"alternate-exchange": spare})
    known, unknown = bound(confirming, name, source, "known"), bound(confirming, name, spare)
    confirming.basic_publish(source, "known", b"known")
    confirming.basic_publish(source, "other", b"other", mandatory=True)
    assert bodies(confirming, known) == [b"known"]
    assert bodies(confirming, unknown) == [b"other"]


def test_unbind(confirming, name):
    source = exchange(confirming, name, "direct")
    queue = bound(confirming, name, source, "key")
    confirming.queue_unbind(queue, source, "key")
    confirming.queue_unbind(queue, source, "never-bound")
    confirming.basic_publish(source, "key", b"lost")
    assert bodies(confirming, queue) == []


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic", "headers", "match"])
def test_predeclared_exchanges(channel, kind):
    channel.exchange_declare(f"amq.{kind}", passive=True)


def test_declaring_again_is_fine(channel, name):
    fresh = name()
    for _ in range(2):
        channel.exchange_declare(fresh, "topic", durable=True)
        channel.queue_declare(fresh, durable=True)
        channel.queue_bind(fresh, fresh, "key")


def test_auto_delete_exchange_goes_with_its_last_binding(connection, channel, name):
    source = exchange(channel, name, "fanout", auto_delete=True)
    queue = bound(channel, name, source)
    channel.exchange_declare(source, passive=True)
    channel.queue_unbind(queue, source, "")
    with pytest.raises(ChannelClosedByBroker) as error:
        channel.exchange_declare(source, passive=True)
    expect.closed(error.value, 404, f"no exchange '{source}' in vhost '/'")


def test_declare_says_how_many(confirming, connection, queue):
    assert confirming.queue_declare(queue).method.message_count == 0
    for _ in range(3):
        confirming.basic_publish("", queue, b"x")
    consumer = connection.channel()
    consumer.basic_qos(prefetch_count=1)
    Inbox(consumer, queue).wait(1)
    answer = confirming.queue_declare(queue, passive=True).method
    assert (answer.queue, answer.message_count, answer.consumer_count) == (queue, 2, 1)


def test_server_named_queue(channel):
    one, two = (channel.queue_declare("", exclusive=True).method.queue for _ in range(2))
    assert one.startswith("amq.gen-") and two.startswith("amq.gen-") and one != two
    channel.queue_bind("", "amq.fanout")
    channel.queue_unbind(two, "amq.fanout")
    channel.queue_delete(one)


def test_exclusive_queue_goes_with_its_connection(connect, channel, name):
    owner, fresh = connect(), name()
    owner.channel().queue_declare(fresh, exclusive=True)
    owner.close()

    def is_free():
        try:
            return bool(channel.connection.channel().queue_declare(fresh, exclusive=True))
        except ChannelClosedByBroker as error:
            expect.closed(error, 405)
            return False

    expect.eventually(is_free)


def test_auto_delete_queue_goes_with_its_last_consumer(connection, channel, name):
    fresh = name()
    channel.queue_declare(fresh, auto_delete=True)
    first, second = (channel.basic_consume(fresh, lambda *_: None) for _ in range(2))
    channel.basic_cancel(first)
    assert channel.queue_declare(fresh, passive=True).method.consumer_count == 1
    channel.basic_cancel(second)
    with pytest.raises(ChannelClosedByBroker) as error:
        channel.queue_declare(fresh, passive=True)
    expect.closed(error.value, 404, f"no queue '{fresh}' in vhost '/'")


def test_purge(confirming, queue):
    for _ in range(5):
        confirming.basic_publish("", queue, b"x")
    assert confirming.queue_purge(queue).method.message_count == 5
    assert confirming.queue_purge(queue).method.message_count == 0


def test_purge_leaves_what_is_unacked(confirming, queue):
    for body in [b"held", b"gone"]:
        confirming.basic_publish("", queue, body)
    held, _, _ = confirming.basic_get(queue)
    assert confirming.queue_purge(queue).method.message_count == 1
    confirming.basic_nack(held.delivery_tag, requeue=True)
    assert bodies(confirming, queue) == [b"held"]


def test_delete_says_how_many(confirming, queue):
    for _ in range(3):
        confirming.basic_publish("", queue, b"x")
    assert confirming.queue_delete(queue).method.message_count == 3
    assert confirming.queue_delete(queue).method.message_count == 0, "deleting what is gone is fine"


def test_delete_if_unused(connection, channel, queue):
    tag = channel.basic_consume(queue, lambda *_: None)
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().queue_delete(queue, if_unused=True)
    expect.closed(error.value, 406, expect.IN_USE)
    channel.basic_cancel(tag)
    channel.queue_delete(queue, if_unused=True)


def test_delete_if_empty(connection, confirming, queue):
    confirming.basic_publish("", queue, b"x")
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().queue_delete(queue, if_empty=True)
    expect.closed(error.value, 406, expect.NOT_EMPTY)
    confirming.queue_purge(queue)
    confirming.queue_delete(queue, if_empty=True)


def test_delete_exchange_if_unused(connection, channel, name):
    source = exchange(channel, name, "fanout")
    bound(channel, name, source)
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().exchange_delete(source, if_unused=True)
    expect.closed(error.value, 406, expect.IN_USE)
    channel.exchange_delete(source)
    channel.exchange_delete(source)


def test_names_are_bytes_of_utf8(confirming, name):
    fresh = name("Zürich-東京-../../etc/passwd")
    confirming.queue_declare(fresh, durable=True)
    confirming.basic_publish("", fresh, b"here")
    assert bodies(confirming, fresh) == [b"here"]


def test_empty_name_means_the_last_declared_queue(confirming, name):
    fresh = name()
    confirming.queue_declare(fresh)
    confirming.queue_bind("", "amq.direct", fresh)
    confirming.basic_publish("amq.direct", fresh, b"mine")
    assert bodies(confirming, "") == [b"mine"]


def test_vhosts_are_apart(connect, channel, queue):
    with pytest.raises(ChannelClosedByBroker) as error:
        connect(vhost="second").channel().queue_declare(queue, passive=True)
    expect.closed(error.value, 404, f"no queue '{queue}' in vhost 'second'")
