"""Delayed messages, as applications make them: by delay queues of their own, or by the exchange of a plugin."""

import json
import os
import subprocess
import time

import pika
import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, UnroutableError

from conftest import Inbox, until
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


class Shown(Inbox):
    """What waits behind a delayed exchange: a consumer that ends by itself."""

    def __init__(self, channel, exchange):
        channel.add_on_cancel_callback(lambda _: setattr(self, "cancelled", True))
        super().__init__(channel, f"amq.delayed.{exchange}", auto_ack=True)

    def wait_for_end(self):
        until(self.channel.connection, lambda: self.cancelled)
        return self


def waiting(channel, exchange):
    return [body.decode() for body in Shown(channel, exchange).wait_for_end().bodies]


def delay_with_id(channel, exchange, body, delay_ms, message_id):
    properties = BasicProperties(headers={"x-delay": delay_ms}, message_id=message_id, delivery_mode=2)
    channel.basic_publish(exchange, "", body, properties)


def call_off(channel, exchange, message_id):
    properties = BasicProperties(headers={"x-cancel": message_id})
    channel.basic_publish(exchange, "", b"", properties, mandatory=True)


HOUR_MS = 3_600_000


def test_what_waits_can_be_seen(connection, delayed, queue):
    exchange, channel = delayed("fanout", durable=True), connection.channel()
    channel.queue_bind(queue, exchange)
    channel.confirm_delivery()
    before = int(time.time() * 1000)
    for hours, body in [(3, "third"), (1, "first"), (2, "second")]:
        delay_with_id(channel, exchange, body, hours * HOUR_MS, body)
    shown = Shown(connection.channel(), exchange).wait_for_end()
    assert shown.bodies == [b"first", b"second", b"third"]
    for hours, (method, properties, body) in enumerate(shown.messages, start=1):
        assert (properties.message_id, method.exchange) == (body.decode(), exchange)
        assert 0 <= properties.headers["x-deliver-at"] - before - hours * HOUR_MS < 60_000
    assert waiting(connection.channel(), exchange) == ["first", "second", "third"], "nothing was taken"
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().basic_consume(f"amq.delayed.{exchange}", lambda *_: None)
    closed(error.value, 406, "acknowledge")


def test_much_that_waits_can_be_seen_by_several(connection, delayed):
    exchange, channel = delayed("fanout"), connection.channel()
    body = b"x" * 50_000
    for number in range(100):
        later(channel, exchange, str(number), body, **{"x-delay": HOUR_MS + number})
    first, second = [Shown(connection.channel(), exchange) for _ in range(2)]
    for shown in [first, second]:
        shown.wait_for_end()
        assert [int(method.routing_key) for method, _, _ in shown.messages] == list(range(100))


def test_who_stops_looking_keeps_nobody_from_it(connection, delayed):
    exchange, channel = delayed("fanout"), connection.channel()
    for number in range(20):
        later(channel, exchange, "", b"x" * 100_000, **{"x-delay": HOUR_MS + number})
    for stop in [lambda shown: shown.channel.basic_cancel(shown.tag), lambda shown: shown.channel.close()]:
        first, second = [Shown(connection.channel(), exchange) for _ in range(2)]
        stop(first)
        assert len(second.wait_for_end().messages) == 20
        assert len(first.messages) <= 20


def test_nothing_waits(connection, delayed):
    assert waiting(connection.channel(), delayed("fanout")) == []


def test_what_waits_can_be_called_off(connection, delayed, queue):
    exchange, channel = delayed("fanout", durable=True), connection.channel()
    channel.queue_bind(queue, exchange)
    channel.confirm_delivery()
    for number in range(3):
        delay_with_id(channel, exchange, f"twice {number}", HOUR_MS, f"id {number // 2}")
    delay_with_id(channel, exchange, "soon", 200, "soon")
    call_off(channel, exchange, "id 0")
    assert waiting(connection.channel(), exchange) == ["soon", "twice 2"]
    call_off(channel, exchange, "soon")
    with pytest.raises(UnroutableError):
        call_off(channel, exchange, "id 0")
    with pytest.raises(UnroutableError):
        call_off(channel, exchange, "")
    connection.process_data_events(0.4)
    assert channel.basic_get(queue, auto_ack=True)[0] is None
    assert waiting(connection.channel(), exchange) == ["twice 2"]


def test_calling_off_is_confirmed_in_its_order(connection, delayed):
    exchange, channel = delayed("fanout", durable=True), connection.channel()
    for number in range(50):
        delay_with_id(channel, exchange, "x", HOUR_MS, str(number))
        properties = BasicProperties(headers={"x-cancel": str(number)})
        channel.basic_publish(exchange, "", b"", properties)
    assert waiting(channel, exchange) == []


def test_who_may_see_and_call_off(connect, connection, delayed):
    exchange, channel = delayed("fanout"), connection.channel()
    delay_with_id(channel, exchange, "x", HOUR_MS, "id")
    stranger = connect("limited", "limited")
    with pytest.raises(ChannelClosedByBroker) as error:
        Shown(stranger.channel(), exchange)
    closed(error.value, 403, exchange)
    with pytest.raises(ChannelClosedByBroker) as error:
        refused = stranger.channel()
        refused.confirm_delivery()
        call_off(refused, exchange, "id")
    closed(error.value, 403, exchange)
    assert waiting(channel, exchange) == ["x"]


def test_who_may_not_use_a_key_calls_nothing_off_with_it(connect, connection, delayed):
    delayed("topic")
    exchange, channel = "delayed.topical", connection.channel()
    channel.exchange_declare(exchange, "x-delayed-message", arguments={"x-delayed-type": "topic"})
    delay_with_id(channel, exchange, "x", HOUR_MS, "id")
    topical = connect("topical", "topical")
    for key, refused in [("other", True), ("topical.key", False)]:
        stranger = topical.channel()
        stranger.confirm_delivery()
        properties = BasicProperties(headers={"x-cancel": "id"})
        if refused:
            with pytest.raises(ChannelClosedByBroker) as error:
                stranger.basic_publish(exchange, key, b"", properties, mandatory=True)
            closed(error.value, 403, exchange)
        else:
            stranger.basic_publish(exchange, key, b"", properties, mandatory=True)
        assert waiting(connection.channel(), exchange) == (["x"] if refused else [])
    channel.exchange_delete(exchange)


def test_a_header_that_calls_off_means_nothing_elsewhere(channel, queue):
    channel.basic_publish("", queue, b"x", BasicProperties(headers={"x-cancel": "id"}))
    assert channel.basic_get(queue, auto_ack=True)[1].headers == {"x-cancel": "id"}


def test_a_killed_broker_still_knows_what_was_called_off(survivor):
    def opened():
        channel = pika.BlockingConnection(pika.URLParameters(survivor.start())).channel()
        channel.confirm_delivery()
        return channel

    channel = opened()
    channel.exchange_declare("x", "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"})
    for body in ["called off", "kept"]:
        delay_with_id(channel, "x", body, HOUR_MS, body)
    call_off(channel, "x", "called off")
    survivor.kill()
    channel = opened()
    assert waiting(channel, "x") == ["kept"]
    call_off(channel, "x", "kept")
    assert waiting(channel, "x") == []


@pytest.mark.skipif("LEVERET_BIN" not in os.environ, reason="runs the binary")
def test_the_command_line_lists_and_calls_off(url, connection, delayed, queue):
    def leveret(*arguments):
        command = [os.environ["LEVERET_BIN"], "delayed", *arguments, "--url", url.rstrip("/")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout, done.stderr

    exchange, channel = delayed("fanout", durable=True), connection.channel()
    channel.confirm_delivery()
    at = int(time.time() * 1000) + HOUR_MS
    for more, message_id in [(2, "b"), (1, "a"), (0, None)]:
        properties = BasicProperties(headers={"x-deliver-at": at + more}, message_id=message_id)
        channel.basic_publish(exchange, "key", "body", properties)
    lines = f"{at}\t-\tkey\n{at + 1}\ta\tkey\n{at + 2}\tb\tkey\n"
    assert leveret("list", exchange) == (0, lines, "")
    _, shown, _ = leveret("list", exchange, "--json")
    shown = [json.loads(line) for line in shown.splitlines()]
    assert [one["headers"]["x-deliver-at"] for one in shown] == [at, at + 1, at + 2]
    assert shown[1]["properties"]["message_id"] == "a"
    assert leveret("cancel", exchange, "a") == (0, "", "")
    code, _, why = leveret("cancel", exchange, "a")
    assert (code, "no message with the id 'a' waits" in why) == (1, True), why
    assert leveret("list", exchange)[1].count("\n") == 2
    for command in [["list", "amq.fanout"], ["cancel", "amq.fanout", "a"]]:
        code, _, why = leveret(*command)
        assert (code, "amq.fanout" in why, "404" in why) == (1, True, True), why


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
