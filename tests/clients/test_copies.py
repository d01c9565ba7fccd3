"""Sender-selected distribution: further routing keys in the headers CC and BCC."""

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker

import expect


@pytest.fixture
def confirming(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def publish(channel, exchange, key, **headers):
    channel.basic_publish(exchange, key, b"x", BasicProperties(headers=headers, message_id="m"), mandatory=True)


def headers_in(channel, queue):
    """The headers of all messages in a queue."""
    found = []
    while True:
        method, properties, _ = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        assert properties.message_id == "m"
        found.append(properties.headers)


def test_copies_through_the_default_exchange(confirming, name):
    to, cc, bcc, other = (confirming.queue_declare(name()).method.queue for _ in range(4))
    publish(confirming, "", to, CC=[cc, to], BCC=[bcc], x=1)
    seen = {"CC": [cc, to], "x": 1}
    assert [headers_in(confirming, queue) for queue in (to, cc, bcc, other)] == [[seen], [seen], [seen], []]


def test_copies_of_a_message_that_nobody_else_wants(confirming, name):
    queue = confirming.queue_declare(name()).method.queue
    publish(confirming, "", "nobody", BCC=[queue])
    assert headers_in(confirming, queue) in ([{}], [None])


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_copies_by_binding_key(confirming, name, kind):
    source = name()
    confirming.exchange_declare(source, kind)
    queues = [confirming.queue_declare(name()).method.queue for _ in range(3)]
    for queue, key in zip(queues, ["a", "b", "c"], strict=True):
        confirming.queue_bind(queue, source, key)
    for _ in range(2):
        publish(confirming, source, "a", CC=["b"])
    # The same key without copies goes its own way.
    publish(confirming, source, "a")
    counts = [len(headers_in(confirming, queue)) for queue in queues]
    assert counts == ([3, 3, 3] if kind == "fanout" else [3, 2, 0])


def test_no_copies(confirming, queue):
    publish(confirming, "", queue, CC=[], BCC=[1, None], note="CC and BCC")
    assert headers_in(confirming, queue) == [{"CC": [], "note": "CC and BCC"}]


@pytest.mark.parametrize("header", ["CC", "BCC"])
@pytest.mark.parametrize("value", ["key", 1, {"a": "b"}])
def test_copies_must_be_an_array(confirming, queue, header, value):
    with pytest.raises(ChannelClosedByBroker) as error:
        publish(confirming, "", queue, **{header: value})
    expect.closed(error.value, 406, "unacceptable_type_in_header")


def test_copies_in_a_transaction(connection, name):
    channel = connection.channel()
    channel.tx_select()
    queues = [channel.queue_declare(name()).method.queue for _ in range(2)]
    publish(channel, "", queues[0], BCC=[queues[1]])
    channel.tx_commit()
    assert [headers_in(channel, queue) for queue in queues] in ([[{}], [{}]], [[None], [None]])
