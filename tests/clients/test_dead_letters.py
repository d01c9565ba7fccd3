"""Messages that leave their queue without being consumed: too old, too many, rejected; and where they go."""

import time

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker, NackError

import expect
from conftest import Inbox, until


@pytest.fixture
def graveyard(channel, name):
    """A queue behind a dead-letter exchange of its own."""

    class Graveyard:
        exchange, queue = name("dlx"), name("dead")

        def arguments(self, **more):
            return {"x-dead-letter-exchange": self.exchange} | {
                f"x-{key.replace('_', '-')}": value for key, value in more.items()
            }

        def wait(self, count):
            """So many dead messages, and no more."""
            found = []
            deadline = time.monotonic() + expect.SECONDS
            while len(found) < count and time.monotonic() < deadline:
                method, properties, body = channel.basic_get(self.queue, auto_ack=True)
                if method is None:
                    channel.connection.process_data_events(0.01)
                else:
                    found.append((method, properties, body))
            assert len(found) == count, found
            assert channel.basic_get(self.queue, auto_ack=True)[0] is None
            return found

    made = Graveyard()
    channel.exchange_declare(made.exchange, "fanout")
    channel.queue_declare(made.queue)
    channel.queue_bind(made.queue, made.exchange)
    return made


def publish(channel, queue, *bodies, **properties):
    for body in bodies:
        channel.basic_publish("", queue, str(body).encode(), BasicProperties(**properties))


def count(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def get_all(channel, queue):
    found = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append(body.decode())


def death(properties, nth=0):
    return properties.headers["x-death"][nth]


@pytest.mark.parametrize("how", ["reject", "nack", "nack all"])
def test_rejected(channel, name, graveyard, how):
    queue = name()
    channel.queue_declare(queue, arguments=graveyard.arguments())
    publish(channel, queue, "a", "b", headers={"mine": 1}, message_id="m")
    inbox = Inbox(channel, queue).wait(2)
    if how == "nack all":
        channel.basic_nack(inbox.tags[1], multiple=True, requeue=False)
    else:
        settle = channel.basic_reject if how == "reject" else channel.basic_nack
        for tag in inbox.tags:
            settle(tag, requeue=False)
    dead = graveyard.wait(2)
    assert [body for _, _, body in dead] == [b"a", b"b"]
    method, properties, _ = dead[0]
    assert (method.exchange, method.routing_key, properties.message_id) == (graveyard.exchange, queue, "m")
    first = death(properties)
    assert first.pop("time").year >= 2024
    assert first == {"count": 1, "reason": "rejected", "queue": queue, "exchange": "", "routing-keys": [queue]}
    headers = properties.headers
    assert headers["mine"] == 1
    first_death = [headers[f"x-first-death-{key}"] for key in ("reason", "queue", "exchange")]
    assert first_death == ["rejected", queue, ""]
    assert count(channel, queue) == 0


def test_rejected_without_a_dead_letter_exchange(channel, queue):
    publish(channel, queue, "a")
    inbox = Inbox(channel, queue).wait(1)
    channel.basic_reject(inbox.tags[0], requeue=False)
    channel.basic_cancel(inbox.tag)
    assert count(channel, queue) == 0


def test_the_dead_letter_exchange_need_not_exist(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-dead-letter-exchange": name("nowhere")})
    publish(channel, queue, "a")
    inbox = Inbox(channel, queue).wait(1)
    channel.basic_reject(inbox.tags[0], requeue=False)
    channel.basic_cancel(inbox.tag)
    until(channel.connection, lambda: count(channel, queue) == 0)


@pytest.mark.parametrize("ttl", [0, 30])
def test_time_to_live_of_a_queue(channel, name, graveyard, ttl):
    queue = name()
    channel.queue_declare(queue, arguments=graveyard.arguments(message_ttl=ttl))
    publish(channel, queue, "a", "b", expiration="60000")
    dead = graveyard.wait(2)
    assert [body for _, _, body in dead] == [b"a", b"b"]
    assert death(dead[0][1])["reason"] == "expired"
    assert death(dead[0][1])["original-expiration"] == "60000"
    assert dead[0][1].expiration is None
    assert count(channel, queue) == 0


def test_time_to_live_of_a_message(channel, name, graveyard):
    queue = name()
    channel.queue_declare(queue, arguments=graveyard.arguments())
    publish(channel, queue, "short", expiration="30")
    publish(channel, queue, "long", expiration="60000")
    publish(channel, queue, "ever")
    assert [body for _, _, body in graveyard.wait(1)] == [b"short"]
    assert get_all(channel, queue) == ["long", "ever"]


def test_the_shorter_of_two_times_to_live_counts(channel, name, graveyard):
    queue = name()
    channel.queue_declare(queue, arguments=graveyard.arguments(message_ttl=40))
    publish(channel, queue, "a", expiration="60000")
    publish(channel, queue, "b", expiration="1")
    assert len(graveyard.wait(2)) == 2


def test_a_free_consumer_gets_what_may_not_wait(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-message-ttl": 0})
    inbox = Inbox(channel, queue, auto_ack=True)
    publish(channel, queue, "a")
    assert inbox.wait(1).bodies == [b"a"]


@pytest.mark.parametrize("value", ["-1", "soon", "1.5"])
def test_an_expiration_that_is_no_number(connection, name, value):
    channel = connection.channel()
    queue = name()
    channel.queue_declare(queue)
    publish(channel, queue, "a", expiration=value)
    with pytest.raises(ChannelClosedByBroker) as error:
        channel.queue_declare(queue, passive=True)
    expect.closed(error.value, 406, "expiration")


@pytest.mark.parametrize(("limit", "left"), [({"max_length": 2}, ["d", "e"]), ({"max_length_bytes": 2}, ["d", "e"])])
def test_what_is_too_much_goes_at_the_head(channel, name, graveyard, limit, left):
    queue = name()
    channel.queue_declare(queue, arguments=graveyard.arguments(**limit))
    publish(channel, queue, *"abcde")
    assert [body for _, _, body in graveyard.wait(3)] == [b"a", b"b", b"c"]
    assert get_all(channel, queue) == left


def test_too_much_without_a_dead_letter_exchange(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-length": 3})
    publish(channel, queue, *range(1000))
    assert count(channel, queue) == 3
    assert get_all(channel, queue) == ["997", "998", "999"]


def test_what_consumers_hold_does_not_count(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-length": 1})
    publish(channel, queue, "held")
    inbox = Inbox(channel, queue).wait(1)
    channel.basic_cancel(inbox.tag)
    publish(channel, queue, "b", "c")
    assert get_all(channel, queue) == ["c"]


@pytest.mark.parametrize("limit", ["x-max-length", "x-max-length-bytes"])
def test_a_full_queue_refuses(connection, name, limit):
    channel = connection.channel()
    channel.confirm_delivery()
    queue = name()
    channel.queue_declare(queue, arguments={limit: 2, "x-overflow": "reject-publish"})
    publish(channel, queue, "a", "b")
    for _ in range(2):
        with pytest.raises(NackError):
            publish(channel, queue, "c")
    assert get_all(channel, queue) == ["a", "b"]
    publish(channel, queue, "d")
    assert get_all(channel, queue) == ["d"]


def test_a_full_queue_refuses_in_silence_without_confirms(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    publish(channel, queue, *"abc")
    assert get_all(channel, queue) == ["a"]


def test_other_queues_keep_what_a_full_one_refuses(connection, name):
    channel = connection.channel()
    channel.confirm_delivery()
    full, free, exchange = name(), name(), name()
    channel.exchange_declare(exchange, "fanout")
    channel.queue_declare(full, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    channel.queue_declare(free)
    for queue in (full, free):
        channel.queue_bind(queue, exchange)
    with pytest.raises(NackError):
        channel.basic_publish(exchange, "", b"a")
    assert get_all(channel, free) == ["a"]


def test_refused_messages_can_go_to_the_dead_letter_exchange(connection, name, graveyard):
    channel = connection.channel()
    channel.confirm_delivery()
    queue = name()
    arguments = graveyard.arguments(max_length=1, overflow="reject-publish-dlx")
    channel.queue_declare(queue, arguments=arguments)
    publish(channel, queue, "a")
    with pytest.raises(NackError):
        publish(channel, queue, "b")
    ((_, properties, body),) = graveyard.wait(1)
    assert (body, death(properties)["reason"]) == (b"b", "maxlen")


def test_another_routing_key(channel, name):
    queue, dead = name(), name()
    channel.queue_declare(dead)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead, "x-max-length": 0}
    channel.queue_declare(queue, arguments=arguments)
    channel.basic_publish("", queue, b"a", BasicProperties(headers={"CC": [name("nobody")]}))
    until(channel.connection, lambda: count(channel, dead) == 1)
    method, properties, _ = channel.basic_get(dead, auto_ack=True)
    assert (method.exchange, method.routing_key) == ("", dead)
    assert "CC" not in properties.headers


def test_dead_letters_die_again_and_are_counted(channel, name):
    work, wait = name("work"), name("wait")
    channel.queue_declare(work, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": wait})
    retry = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": work, "x-message-ttl": 10}
    channel.queue_declare(wait, arguments=retry)
    publish(channel, work, "a")
    inbox = Inbox(channel, work)
    for tries in range(1, 5):
        inbox.wait(tries)
        method, properties, _ = inbox.messages[-1]
        deaths = (properties.headers or {}).get("x-death", [])
        counts = {(death["queue"], death["reason"]): death["count"] for death in deaths}
        seen = {(wait, "expired"): tries - 1, (work, "rejected"): tries - 1} if tries > 1 else {}
        assert counts == seen
        if tries > 1:
            assert deaths[0]["queue"] == wait, "the newest is first"
        channel.basic_reject(method.delivery_tag, requeue=False)


def test_a_message_does_not_go_round_for_ever(channel, name):
    queue = name()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-message-ttl": 5}
    channel.queue_declare(queue, arguments=arguments)
    publish(channel, queue, "a")
    until(channel.connection, lambda: count(channel, queue) == 0)


def test_a_queue_that_nobody_uses_goes(channel, connection, name):
    queue = name()
    channel.queue_declare(queue, arguments={"x-expires": 100})
    used = name()
    channel.queue_declare(used, arguments={"x-expires": 100})
    channel.basic_consume(used, lambda *_: None)

    def is_gone(queue):
        asking = connection.channel()
        try:
            asking.queue_declare(queue, passive=True)
        except ChannelClosedByBroker as error:
            assert error.reply_code == 404
            return True
        asking.close()
        connection.process_data_events(0.3)  # asking is using
        return False

    until(connection, lambda: is_gone(queue))
    assert not is_gone(used)


def test_a_dead_letter_is_as_persistent_as_it_was(channel, name, graveyard):
    queue = name()
    channel.queue_declare(queue, durable=True, arguments=graveyard.arguments(max_length=0))
    publish(channel, queue, "a", delivery_mode=2)
    assert graveyard.wait(1)[0][1].delivery_mode == 2


def test_what_a_queue_rejected_arrives_though_it_is_deleted(channel, name):
    dead, queue = name(), name()
    channel.queue_declare(dead, durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    channel.queue_declare(queue, durable=True, arguments=arguments)
    publish(channel, queue, *range(1000), delivery_mode=2)
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(1000)]
    channel.basic_nack(tags[-1], multiple=True, requeue=False)
    channel.queue_delete(queue)
    until(channel.connection, lambda: count(channel, dead) == 1000)
