"""Delayed messages, as applications make them: by delay queues of their own, or by the exchange of a plugin."""

import time

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, UnroutableError

from conftest import Inbox
from expect import closed, eventually

LEVELS = 28
UNIT_MS = 50


def test_a_queue_for_each_delay_as_laravel_declares_it(channel, queue, name):
    """Its messages go back to the queue of the jobs, and a while later the delay queue itself goes."""
    delayed, delay_ms = name(), 200
    back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
    times = {"x-message-ttl": delay_ms, "x-expires": 2 * delay_ms}
    channel.queue_declare(delayed, durable=True, arguments={**back, **times})
    channel.confirm_delivery()
    channel.basic_publish("", delayed, b"job", BasicProperties(delivery_mode=2), mandatory=True)
    assert channel.basic_get(queue, auto_ack=True)[0] is None, "it waits"
    (_, properties, body), = Inbox(channel, queue, auto_ack=True).wait(1).messages
    death, = properties.headers["x-death"]
    assert (body, death["queue"], death["reason"], death["count"]) == (b"job", delayed, "expired", 1)
    until_gone(channel, delayed)


def until_gone(channel, queue):
    """Asks by publishing, for a declare or a get would count as use and keep the queue."""

    def unroutable():
        try:
            channel.basic_publish("", queue, b"are you there?", mandatory=True)
        except UnroutableError:
            return True

    eventually(unroutable)


def test_a_delayed_exchange_as_masstransit_declares_it(channel, queue, name):
    """One exchange for all delays: what is to wait longer does not hold up what is to wait less."""
    delayed, target = name(), name()
    channel.exchange_declare(target, "fanout", durable=True)
    channel.queue_bind(queue, target)
    try:
        channel.exchange_declare(delayed, "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"})
    except ConnectionClosedByBroker:
        pytest.skip("RabbitMQ 3.10 without the plugin")
    channel.exchange_bind(target, delayed)
    inbox = Inbox(channel, queue, auto_ack=True)
    for delay_ms in (400, 200):
        channel.basic_publish(delayed, "", str(delay_ms), BasicProperties(headers={"x-delay": delay_ms}))
    assert inbox.wait(2).bodies == [b"200", b"400"]


@pytest.fixture
def delayed(connection, name):
    """Declares a delayed exchange, where the broker has them."""

    def declare(kind, **options):
        exchange = name("delayed")
        try:
            connection.channel().exchange_declare(
                exchange, "x-delayed-message", arguments={"x-delayed-type": kind}, **options
            )
        except ConnectionClosedByBroker:
            pytest.skip("RabbitMQ 3.10 without the plugin")
        return exchange

    return declare


def later(channel, exchange, key, body, **headers):
    channel.basic_publish(exchange, key, body, BasicProperties(headers=headers, delivery_mode=2))


def test_a_delayed_exchange_routes_as_its_type_says(connection, delayed, queue):
    exchange, channel = delayed("topic"), connection.channel()
    channel.queue_bind(queue, exchange, "a.*")
    inbox = Inbox(channel, queue, auto_ack=True)
    for key in ["a.b", "b.a"]:
        later(channel, exchange, key, key.encode(), **{"x-delay": 50})
        later(channel, exchange, key, key.upper().encode())
    assert inbox.wait(2).bodies == [b"A.B", b"a.b"]
    assert [method.exchange for method, _, _ in inbox.messages] == [exchange, exchange]


def test_a_message_for_a_point_in_time(connection, delayed, queue):
    exchange, channel = delayed("direct"), connection.channel()
    channel.queue_bind(queue, exchange, "k")
    inbox = Inbox(channel, queue, auto_ack=True)
    at = int(time.time() * 1000) + 300
    later(channel, exchange, "k", b"then", **{"x-deliver-at": at})
    later(channel, exchange, "k", b"past", **{"x-deliver-at": at - 1000})
    inbox.wait(2)
    assert inbox.bodies == [b"past", b"then"] and time.time() * 1000 >= at


def test_confirms_say_that_a_delayed_message_is_safe(connection, delayed, queue):
    exchange, channel = delayed("fanout", durable=True), connection.channel()
    channel.queue_bind(queue, exchange)
    channel.confirm_delivery()
    channel.basic_publish(exchange, "", b"x", BasicProperties(headers={"x-delay": 20}), mandatory=True)
    assert Inbox(channel, queue, auto_ack=True).wait(1).bodies == [b"x"]


def test_what_is_delayed_goes_with_its_exchange(connection, delayed, queue):
    exchange, channel = delayed("fanout"), connection.channel()
    channel.queue_bind(queue, exchange)
    later(channel, exchange, "", b"x", **{"x-delay": 100})
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().queue_delete(f"amq.delayed.{exchange}")
    closed(error.value, 403, "goes with its exchange")
    channel.exchange_delete(exchange)
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().queue_declare(f"amq.delayed.{exchange}", passive=True)
    closed(error.value, 404, "no queue")
    connection.process_data_events(0.2)
    assert channel.basic_get(queue, auto_ack=True)[0] is None


@pytest.mark.parametrize("arguments", [{}, {"x-delayed-type": "sideways"}, {"x-delayed-type": "x-delayed-message"}])
def test_a_delayed_exchange_needs_a_type(connection, delayed, arguments, name):
    delayed("direct")
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().exchange_declare(name(), "x-delayed-message", arguments=arguments)
    closed(error.value, 406, "x-delayed-type")


class DelayLevels:
    """The topology of NServiceBus: level n holds a message for 2ⁿ units if bit n of its routing key is 1, and passes it
    on to level n-1 at once if it is 0."""

    def __init__(self, channel, name, kind):
        self.channel, self.deliver = channel, name("deliver")
        self.levels = [name(f"level-{level:02}") for level in range(LEVELS)]
        channel.exchange_declare(self.deliver, "topic", durable=True)
        for level, this in enumerate(self.levels):
            below = self.levels[level - 1] if level else self.deliver
            channel.exchange_declare(this, "topic", durable=True)
            strategy = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
            arguments = {
                "x-queue-type": kind,
                "x-message-ttl": 2**level * UNIT_MS,
                "x-dead-letter-exchange": below,
                **(strategy if kind == "quorum" else {}),
            }
            channel.queue_declare(this, durable=True, arguments=arguments)
            passed = "*." * (LEVELS - 1 - level)
            channel.queue_bind(this, this, f"{passed}1.#")
            channel.exchange_bind(below, this, f"{passed}0.#")

    def send(self, address, units, body):
        bits = ".".join(f"{units:0{LEVELS}b}")
        properties = BasicProperties(delivery_mode=2)
        self.channel.basic_publish(self.levels[-1], f"{bits}.{address}", body, properties, mandatory=True)


@pytest.fixture(params=["classic", "quorum"])
def delays(request, channel, name):
    channel.confirm_delivery()
    return DelayLevels(channel, name, request.param)


def test_no_delay_as_nservicebus_sends_it_passes_28_levels_at_once(channel, queue, delays):
    channel.queue_bind(queue, delays.deliver, f"#.{queue}")
    delays.send(queue, 0, b"now")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"now"


def test_delays_as_nservicebus_sends_them_add_up_by_their_bits(channel, queue, delays):
    channel.queue_bind(queue, delays.deliver, f"#.{queue}")
    inbox = Inbox(channel, queue, auto_ack=True)
    for units in (5, 2):
        delays.send(queue, units, str(units))
    assert inbox.wait(2).bodies == [b"2", b"5"]
    deaths = inbox.messages[1][1].headers["x-death"]
    assert [(death["queue"], death["reason"]) for death in deaths] == [
        (delays.levels[0], "expired"),
        (delays.levels[2], "expired"),
    ]


def test_the_longest_delay_of_nservicebus_is_not_too_long(channel, name):
    arguments = {"x-message-ttl": 2 ** (LEVELS - 1) * 1000, "x-dead-letter-exchange": "amq.topic"}
    assert channel.queue_declare(name(), durable=True, arguments=arguments)
