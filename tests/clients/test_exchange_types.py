"""Exchanges that pick one of their queues. RabbitMQ has them as plugins: a broker without them skips these tests."""

import pytest
from pika import BasicProperties
from pika.exceptions import AMQPError, ChannelClosedByBroker

import expect

MESSAGES = 600


@pytest.fixture
def spread(connect, name):
    """Publishes to an exchange over three queues; tells how many each got and where each message went."""

    def run(kind, message, arguments=None, keys="111"):
        connection = connect()
        channel = connection.channel()
        source = name()
        try:
            channel.exchange_declare(source, kind, arguments=arguments)
        except AMQPError:
            pytest.skip(f"the broker has no {kind}")
        channel.confirm_delivery()
        queues = [channel.queue_declare(name()).method.queue for _ in keys]
        for queue, key in zip(queues, keys, strict=True):
            channel.queue_bind(queue, source, key)
        for number in range(MESSAGES):
            key, properties = message(number)
            channel.basic_publish(source, key, str(number).encode(), properties, mandatory=True)
        places = {}
        for place, queue in enumerate(queues):
            while (taken := channel.basic_get(queue, auto_ack=True))[0] is not None:
                number = int(taken[2])
                assert number not in places, "a message is in one queue only"
                places[number] = place
        assert len(places) == MESSAGES
        return [list(places.values()).count(place) for place in range(len(keys))], places

    return run


def is_even(counts):
    """Far from all in one queue; the exact shares of few keys are chance."""
    return all(MESSAGES / 3 * 0.4 < count < MESSAGES / 3 * 1.6 for count in counts)


def by_customer(number):
    return f"customer.{number % 200}", None


def test_consistent_hash_by_routing_key(spread):
    counts, places = spread("x-consistent-hash", by_customer)
    assert all(places[number] == places[number % 200] for number in places), "a key stays in its queue"
    assert is_even(counts), counts


def test_consistent_hash_by_weight(spread):
    counts, _ = spread("x-consistent-hash", lambda number: (str(number), None), keys="118")
    assert counts[2] > 2 * (counts[0] + counts[1]), counts


def test_consistent_hash_by_header(spread):
    counts, places = spread(
        "x-consistent-hash",
        lambda number: ("same", BasicProperties(headers={"customer": str(number % 200)})),
        {"hash-header": "customer"},
    )
    assert all(places[number] == places[number % 200] for number in places)
    assert is_even(counts), counts


@pytest.mark.parametrize("field", ["message_id", "correlation_id", "timestamp"])
def test_consistent_hash_by_property(spread, field):
    value = int if field == "timestamp" else str
    counts, places = spread(
        "x-consistent-hash",
        lambda number: ("same", BasicProperties(**{field: value(number % 200)})),
        {"hash-property": field},
    )
    assert all(places[number] == places[number % 200] for number in places)
    assert is_even(counts), counts


def test_consistent_hash_refuses_nonsense(connect, name):
    for arguments in [{"hash-header": "a", "hash-property": "message_id"}, {"hash-property": "app_id"}]:
        channel = connect().channel()
        with pytest.raises(AMQPError) as error:
            channel.exchange_declare(name(), "x-consistent-hash", arguments=arguments)
        if "unknown exchange type" in str(error.value):
            pytest.skip("the broker has no x-consistent-hash")
        expect.closed(error.value, 406)


@pytest.mark.parametrize("key", ["many", "0", "-1", ""])
def test_consistent_hash_weight_is_a_positive_number(channel, name, key):
    source, queue = name(), channel.queue_declare(name()).method.queue
    try:
        channel.exchange_declare(source, "x-consistent-hash")
    except AMQPError:
        pytest.skip("the broker has no x-consistent-hash")
    with pytest.raises(ChannelClosedByBroker) as error:
        channel.queue_bind(queue, source, key)
    expect.closed(error.value, 406, "The binding key must be")


def test_modulus_hash(spread):
    counts, places = spread("x-modulus-hash", by_customer)
    assert all(places[number] == places[number % 200] for number in places)
    assert is_even(counts), counts


def test_random(spread):
    counts, _ = spread("x-random", lambda number: ("same", None))
    assert is_even(counts), counts
