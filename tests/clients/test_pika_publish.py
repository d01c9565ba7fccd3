"""Publishing through pika: confirms, returns, transactions, properties, sizes, requests."""

import random
import uuid

import pika
import pytest
from pika import BasicProperties, spec
from pika.exceptions import ChannelClosedByBroker, UnroutableError

import expect
from conftest import Inbox, until
from wire import Wire


@pytest.fixture
def confirming(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def test_a_confirmed_message_is_in_the_queue(confirming, name):
    fresh = name()
    confirming.queue_declare(fresh, durable=True)
    for number in range(50):
        persistent = BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
        confirming.basic_publish("", fresh, str(number).encode(), persistent)
        assert confirming.queue_declare(fresh, passive=True).method.message_count == number + 1


def test_confirms_number_every_publish_once(url, name):
    """1,000 publishes in flight: each is confirmed exactly once, multiples expanded."""
    fresh = name()
    with Wire(url) as wire:
        wire.open()
        channel = wire.open_channel()
        wire.call(spec.Queue.Declare(queue=fresh, durable=True), channel)
        wire.call(spec.Confirm.Select(), channel)
        publish = pika.frame.Method(channel, spec.Basic.Publish(routing_key=fresh)).marshal()
        header = pika.frame.Header(channel, 1, BasicProperties(delivery_mode=2)).marshal()
        wire.send_bytes((publish + header + pika.frame.Body(channel, b"x").marshal()) * 1000)
        waiting = set(range(1, 1001))
        while waiting:
            ack = wire.receive()
            assert isinstance(ack, spec.Basic.Ack), ack
            tags = {tag for tag in waiting if tag <= ack.delivery_tag} if ack.multiple else {ack.delivery_tag}
            assert tags and tags <= waiting, f"{ack} confirms twice"
            waiting -= tags
        answer = wire.call(spec.Queue.Declare(queue=fresh, passive=True), channel)
        assert answer.message_count == 1000


def test_unroutable_without_mandatory_is_confirmed(confirming):
    confirming.basic_publish("", f"nowhere-{uuid.uuid4()}", b"lost")


def test_mandatory_returns_before_it_confirms(confirming):
    nowhere = f"nowhere-{uuid.uuid4()}"
    properties = BasicProperties(message_id="7", headers={"a": 1})
    with pytest.raises(UnroutableError) as error:
        confirming.basic_publish("", nowhere, b"back", properties, mandatory=True)
    [returned] = error.value.messages
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key) == ("", nowhere)
    assert (returned.body, returned.properties.message_id, returned.properties.headers) == (b"back", "7", {"a": 1})


def test_mandatory_returns_without_confirms(connection, channel):
    returned = []
    channel.add_on_return_callback(lambda _channel, method, _properties, body: returned.append((method, body)))
    channel.basic_publish("", f"nowhere-{uuid.uuid4()}", b"back", mandatory=True)
    until(connection, lambda: returned)
    assert (returned[0][0].reply_code, returned[0][1]) == (312, b"back")


def test_mandatory_that_is_routed(confirming, queue):
    confirming.basic_publish("", queue, b"x", mandatory=True)


def test_publish_to_a_missing_exchange_closes_the_channel_later(connection, channel, queue):
    missing = f"missing-{uuid.uuid4()}"
    channel.basic_publish(missing, "key", b"lost")
    with pytest.raises(ChannelClosedByBroker) as error:
        until(connection, lambda: channel.queue_declare(queue, passive=True) is None)
    expect.closed(error.value, 404, f"no exchange '{missing}' in vhost '/'")
    assert connection.channel().queue_declare(queue, passive=True)


def test_publish_to_a_missing_exchange_with_confirms(connection, confirming, queue):
    with pytest.raises(ChannelClosedByBroker) as error:
        confirming.basic_publish(f"missing-{uuid.uuid4()}", "key", b"lost")
    expect.closed(error.value, 404)
    assert connection.channel().queue_declare(queue, passive=True)


def test_transaction_commits_and_rolls_back(connection, channel, queue):
    def count():
        return connection.channel().queue_declare(queue, passive=True).method.message_count

    channel.tx_select()
    channel.tx_select()
    channel.basic_publish("", queue, b"one")
    channel.basic_publish("", queue, b"two")
    channel.queue_declare(queue, passive=True)
    assert count() == 0
    channel.tx_commit()
    assert count() == 2
    channel.basic_publish("", queue, b"three")
    channel.tx_rollback()
    channel.tx_commit()
    assert count() == 2


def test_transaction_of_acks(connection, channel, queue):
    channel.basic_publish("", queue, b"one")
    channel.tx_select()
    until(connection, lambda: channel.queue_declare(queue, passive=True).method.message_count == 1)
    method, _, _ = channel.basic_get(queue)
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()
    channel.close()
    other = connection.channel()
    method, _, body = other.basic_get(queue)
    assert (method.redelivered, body) == (True, b"one")
    other.tx_select()
    other.basic_ack(method.delivery_tag)
    other.tx_commit()
    other.close()
    assert connection.channel().queue_declare(queue, passive=True).method.message_count == 0


def test_transaction_publishes_in_order_and_returns(connection, channel, queue):
    returned = []
    channel.add_on_return_callback(lambda *message: returned.append(message[3]))
    channel.tx_select()
    for number in range(10):
        channel.basic_publish("", queue, str(number).encode())
    channel.basic_publish("", f"nowhere-{uuid.uuid4()}", b"back", mandatory=True)
    channel.tx_commit()
    until(connection, lambda: returned == [b"back"])
    assert Inbox(channel, queue).wait(10).bodies == [str(number).encode() for number in range(10)]


PROPERTIES = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "correlation Ü",
    "reply_to": "somewhere",
    "expiration": "3600000",
    "message_id": str(uuid.UUID(int=1)),
    "timestamp": 1_700_000_000,
    "type": "order.placed",
    "user_id": "guest",
    "app_id": "shop",
    "cluster_id": "",
}
HEADERS = {
    "string": "text",
    "empty": "",
    "integer": 2**31 - 1,
    "negative": -(2**31),
    "long": 2**40,
    "true": True,
    "void": None,
    "list": [1, "two", [3, {"four": 4}]],
    "table": {"nested": {"deeper": "still"}},
    "bytes": b"\x00\xff\xfe",
}


def test_properties_come_back(confirming, queue):
    sent = BasicProperties(headers=HEADERS, **PROPERTIES)
    confirming.basic_publish("", queue, b"x", sent)
    _, got, _ = confirming.basic_get(queue, auto_ack=True)
    assert {key: getattr(got, key) for key in PROPERTIES} == PROPERTIES
    assert got.headers == HEADERS


@pytest.mark.parametrize("only", sorted(PROPERTIES))
def test_a_single_property_comes_alone(confirming, queue, only):
    confirming.basic_publish("", queue, b"x", BasicProperties(**{only: PROPERTIES[only]}))
    _, got, _ = confirming.basic_get(queue, auto_ack=True)
    assert {key: value for key, value in vars(got).items() if value is not None} == {only: PROPERTIES[only]}


@pytest.mark.parametrize("size", [0, 1, 4096, 131072 - 8, 131072 - 7, 2**20, 10 * 2**20])
def test_bodies_of_all_sizes(confirming, queue, size):
    body = random.Random(size).randbytes(size)
    confirming.basic_publish("", queue, body)
    _, _, got = confirming.basic_get(queue, auto_ack=True)
    assert got == body


def test_small_frames(connect, queue):
    channel = connect(frame_max=4096).channel()
    channel.confirm_delivery()
    body = random.Random(1).randbytes(100_000)
    channel.basic_publish("", queue, body)
    assert Inbox(channel, queue, auto_ack=True).wait(1).bodies == [body]


def serve_length(channel, queue):
    """Answers each request with the length of its body."""

    def answer(_channel, method, properties, body):
        reply = BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, str(len(body)).encode(), reply)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, answer)


def request_lengths(service, client, queue, reply_to, replies):
    """Ten requests; both connections are served until all replies are there."""
    for number in range(10):
        properties = BasicProperties(reply_to=reply_to, correlation_id=str(number))
        replies.channel.basic_publish("", queue, b"x" * number, properties)

    def both_served():
        client.process_data_events(time_limit=0.01)
        return len(replies.messages) == 10

    until(service, both_served)
    answers = {properties.correlation_id: body for _, properties, body in replies.messages}
    assert answers == {str(number): str(number).encode() for number in range(10)}


def test_request_and_reply_through_a_queue(connect, connection, channel, queue):
    serve_length(channel, queue)
    client = connect()
    mine = client.channel()
    reply_to = mine.queue_declare("", exclusive=True).method.queue
    request_lengths(connection, client, queue, reply_to, Inbox(mine, reply_to, auto_ack=True))


def test_request_and_direct_reply(connect, connection, channel, queue):
    serve_length(channel, queue)
    client = connect()
    replies = Inbox(client.channel(), "amq.rabbitmq.reply-to", auto_ack=True)
    request_lengths(connection, client, queue, "amq.rabbitmq.reply-to", replies)
    assert all(method.routing_key.startswith("amq.rabbitmq.reply-to.") for method, _, _ in replies.messages)


def test_direct_reply_address_is_rewritten_and_can_be_probed(connect, confirming, queue):
    client = connect()
    mine = client.channel()
    Inbox(mine, "amq.rabbitmq.reply-to", auto_ack=True)
    mine.basic_publish("", queue, b"?", BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    request = Inbox(confirming, queue, auto_ack=True).wait(1).messages[0]
    reply_to = request[1].reply_to
    assert reply_to.startswith("amq.rabbitmq.reply-to.")
    assert confirming.queue_declare(reply_to, passive=True).method.consumer_count == 1
    client.close()

    def is_gone():
        try:
            confirming.connection.channel().queue_declare(reply_to, passive=True)
        except ChannelClosedByBroker as error:
            expect.closed(error, 404)
            return True
        return False

    expect.eventually(is_gone)


def test_direct_reply_needs_its_consumer_first(connection, channel, queue):
    channel.basic_publish("", queue, b"?", BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    with pytest.raises(ChannelClosedByBroker) as error:
        channel.queue_declare(queue, passive=True)
    expect.closed(error.value, 406, "fast reply consumer does not exist")


def test_direct_reply_is_never_acked(channel):
    with pytest.raises(ChannelClosedByBroker) as error:
        Inbox(channel, "amq.rabbitmq.reply-to", auto_ack=False)
    expect.closed(error.value, 406, "reply consumer cannot acknowledge")
