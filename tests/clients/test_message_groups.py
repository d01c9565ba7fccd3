"""Message groups: order for each key with consumers that work side by side, limits for each key, turns for all keys."""

import collections
import contextlib
import os
import random
import subprocess
import sys
import tempfile

import pika
import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker

import broker
import expect
from conftest import Inbox, until

pytestmark = pytest.mark.skipif("LEVERET_BIN" not in os.environ, reason="RabbitMQ has no message groups")

HEADER = {"x-group-header": "x-group-id"}


def publish(channel, queue, *messages, size=0, **properties):
    """Messages named KEY-NUMBER, of the group KEY; those without a number have no group."""
    for message in messages:
        key = message.rpartition("-")[0]
        headers = {"x-group-id": key} if key else None
        body = message.ljust(size, ".").encode()
        channel.basic_publish("", queue, body, BasicProperties(headers=headers, **properties))


def parse(body):
    key, number = body.decode().rstrip(".").split("-")
    return key, int(number)


@pytest.fixture
def declare(channel, name):
    def declare_one(**arguments):
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        queue = name()
        channel.queue_declare(queue, durable=True, arguments=HEADER | arguments)
        return queue

    return declare_one


def get(channel, queue):
    """Tag and body of the next message."""
    method, _, body = channel.basic_get(queue)
    return (method and method.delivery_tag), (body and body.decode())


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_get_takes_of_each_group_what_it_may(channel, declare):
    queue = declare()
    publish(channel, queue, "a-1", "a-2", "b-1", "a-3", "c")
    a1, first = get(channel, queue)
    assert [first, get(channel, queue)[1], get(channel, queue)[1]] == ["a-1", "b-1", "c"]
    assert (get(channel, queue), ready(channel, queue)) == ((None, None), 2)
    channel.basic_ack(a1)
    a2, body = get(channel, queue)
    assert body == "a-2"
    channel.basic_nack(a2)
    assert get(channel, queue)[1] == "a-2"


def test_keys_are_strings_and_integers(channel, declare):
    queue = declare()
    for value in ["7", 7, 7 << 40, "", True, None, ["7"]]:
        channel.basic_publish("", queue, repr(value).encode(), BasicProperties(headers={"x-group-id": value}))
    bodies = [get(channel, queue)[1] for _ in range(7)]
    assert bodies == ["'7'", repr(7 << 40), "''", "True", "None", "['7']", None]


class Worker(Inbox):
    """A consumer on a connection of its own, that settles in any order."""

    def __init__(self, connection, queue, prefetch):
        channel = connection.channel()
        channel.basic_qos(prefetch_count=prefetch)
        super().__init__(channel, queue)

    def settle_one(self, chance, acked):
        method, _, body = self.messages.pop(chance.randrange(len(self.messages)))
        if chance.random() < 0.3:
            self.channel.basic_nack(method.delivery_tag)
        else:
            self.channel.basic_ack(method.delivery_tag)
            acked[parse(body)[0]].append(parse(body)[1])


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_each_key_in_order_whoever_works_and_dies(connect, declare, kind):
    queue = declare(x_queue_type=kind, **({"x_delivery_limit": -1} if kind == "quorum" else {}))
    publisher, chance = connect().channel(), random.Random(1)
    keys, count = [f"k{n}" for n in range(12)], 15
    messages = [f"{key}-{n}" for n in range(count) for key in keys]
    publish(publisher, queue, *messages, delivery_mode=2)
    workers = [Worker(connect(), queue, 10) for _ in range(4)]
    acked = collections.defaultdict(list)

    def work():
        for worker in workers:
            worker.channel.connection.process_data_events(0.001)
        held = [parse(body) for worker in workers for body in worker.bodies]
        assert len({key for key, _ in held}) == len(held), f"one of each key at a time: {held}"
        for key, number in held:
            assert number == len(acked[key]), f"{key}-{number} after {acked[key]}"
        for worker in workers:
            if worker.messages and chance.random() < 0.8:
                worker.settle_one(chance, acked)
        if chance.random() < 0.02:
            workers.pop(0).channel.connection.close()
            workers.append(Worker(connect(), queue, 10))
        return sum(map(len, acked.values())) == len(messages)

    expect.eventually(work, seconds=60)
    assert dict(acked) == {key: list(range(count)) for key in keys}


CONSUMER = """
import sys, pika
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
channel.basic_qos(prefetch_count=2)
channel.basic_consume(sys.argv[2], lambda _c, _m, _p, body: print(body.decode(), flush=True))
channel.start_consuming()
"""


def test_what_a_killed_consumer_held_comes_before_what_came_later(channel, declare, url):
    queue = declare()
    publish(channel, queue, "a-1", "a-2", "b-1", "b-2")
    killed = subprocess.Popen([sys.executable, "-c", CONSUMER, url, queue], stdout=subprocess.PIPE, text=True)
    try:
        assert [killed.stdout.readline() for _ in range(2)] == ["a-1\n", "b-1\n"]
        inbox = Inbox(channel, queue)
        publish(channel, queue, "c-1")
        assert inbox.wait(1).bodies == [b"c-1"], "the others wait for what is out"
    finally:
        killed.kill()
        killed.wait()
    assert sorted(inbox.wait(3).bodies[1:]) == [b"a-1", b"b-1"]
    assert inbox.redelivered == [False, True, True]
    channel.basic_ack(inbox.tags[-1], multiple=True)
    assert sorted(inbox.wait(5).bodies[3:]) == [b"a-2", b"b-2"]


def test_so_many_of_a_key_at_once(connect, channel, declare):
    queue = declare(x_group_concurrency=3)
    publish(channel, queue, *[f"a-{n}" for n in range(6)], *[f"b-{n}" for n in range(2)])
    inboxes = [Inbox(connect().channel(), queue) for _ in range(2)]

    def out():
        for inbox in inboxes:
            inbox.channel.connection.process_data_events(0.02)
        return sorted(parse(body) for inbox in inboxes for body in inbox.bodies)

    expected = [("a", n) for n in range(3)] + [("b", n) for n in range(2)]
    until(channel.connection, lambda: out() == expected)
    assert ready(channel, queue) == 3
    one = next(inbox for inbox in inboxes if b"a-1" in inbox.bodies)
    one.channel.basic_ack(one.tags[one.bodies.index(b"a-1")])
    until(channel.connection, lambda: out() == sorted([*expected, ("a", 3)]))


def test_a_key_that_floods_the_queue_lets_others_pass(channel, declare):
    queue = declare(x_group_concurrency=1000)
    publish(channel, queue, *[f"flood-{n}" for n in range(500)], size=1000)
    publish(channel, queue, *[f"{key}-{n}" for n in range(3) for key in "abc"], size=1000)
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    for count in range(1, 31):
        inbox.wait(count)
        channel.basic_ack(inbox.tags[-1])
    keys = [parse(body)[0] for body in inbox.bodies]
    assert collections.Counter(keys) == {"flood": 21, "a": 3, "b": 3, "c": 3}, keys
    assert "flood" not in keys[keys.index("a") : keys.index("a") + 9], "one turn after the other"


def test_what_has_no_group_takes_turns_with_the_others(channel, declare):
    queue = declare()
    publish(channel, queue, *[str(n) for n in range(100)], size=500)
    publish(channel, queue, "a-1", "a-2")
    bodies = [get(channel, queue)[1] for _ in range(9)]
    assert "a-1" in bodies and "a-2" not in bodies
    assert sum("-" not in body for body in bodies) == 8, "others are not limited"


def test_a_rejected_message_lets_its_key_go_on(channel, declare, name):
    dead = name()
    channel.queue_declare(dead)
    queue = declare(**{"x_dead_letter_exchange": "", "x_dead_letter_routing_key": dead})
    publish(channel, queue, "a-1", "a-2")
    channel.basic_reject(get(channel, queue)[0], requeue=False)
    assert get(channel, queue)[1] == "a-2"
    until(channel.connection, lambda: ready(channel, dead) == 1)


def test_a_message_that_came_back_too_often_lets_its_key_go_on(channel, declare):
    queue = declare(x_queue_type="quorum", x_delivery_limit=1)
    publish(channel, queue, "a-1", "a-2")
    for _ in range(2):
        tag, body = get(channel, queue)
        assert body == "a-1"
        channel.basic_nack(tag)
    assert get(channel, queue)[1] == "a-2"


def test_a_key_waits_for_what_will_be_tried_again(channel, declare):
    retry = {"x_delayed_retry_type": "all", "x_delayed_retry_min": 150}
    queue = declare(x_queue_type="quorum", **retry)
    publish(channel, queue, "a-1", "a-2", "b-1")
    channel.basic_nack(get(channel, queue)[0])
    assert [get(channel, queue)[1] for _ in range(2)] == ["b-1", None]
    inbox = Inbox(channel, queue).wait(1)
    assert inbox.bodies == [b"a-1"]
    channel.basic_ack(inbox.tags[0])
    assert inbox.wait(2).bodies == [b"a-1", b"a-2"]


def test_the_oldest_go_where_there_are_too_many(channel, declare):
    queue = declare(x_max_length=3)
    publish(channel, queue, "a-1", "a-2")
    tag, _ = get(channel, queue)
    publish(channel, queue, "a-3", "b-1", "b-2")
    assert ready(channel, queue) == 3, "a-2 is the oldest that waits"
    channel.basic_ack(tag)
    assert sorted(get(channel, queue)[1] for _ in range(2)) == ["a-3", "b-1"]


def test_a_message_is_too_old_wherever_its_key_stands(channel, declare):
    queue = declare()
    publish(channel, queue, "a-1", "a-2", "b-1")
    publish(channel, queue, "b-2", expiration="1")
    inbox = Inbox(channel, queue).wait(2)
    channel.connection.process_data_events(0.02)
    publish(channel, queue, "b-3")
    channel.basic_ack(inbox.tags[1])
    assert inbox.wait(3).bodies == [b"a-1", b"b-1", b"b-3"]


def test_purge_leaves_what_is_out(channel, declare):
    queue = declare()
    publish(channel, queue, "a-1", "a-2", "b-1")
    tag, _ = get(channel, queue)
    assert channel.queue_purge(queue).method.message_count == 2
    publish(channel, queue, "a-3")
    assert get(channel, queue) == (None, None)
    channel.basic_ack(tag)
    assert get(channel, queue)[1] == "a-3"


def test_a_single_active_consumer_gets_the_keys_in_turn(connect, channel, declare):
    queue = declare(x_single_active_consumer=True)
    first = Inbox(channel, queue)
    second = Inbox(connect().channel(), queue)
    publish(channel, queue, "a-1", "a-2", "b-1")
    assert first.wait(2).bodies == [b"a-1", b"b-1"]
    channel.connection.close()
    assert sorted(second.wait(2).bodies) == [b"a-1", b"b-1"]


@pytest.mark.parametrize("arguments", [{"x-max-priority": 3}, {"x-queue-type": "stream"}, {"x-group-concurrency": 0}])
def test_what_cannot_be_combined_is_refused(connection, name, arguments):
    with pytest.raises(ChannelClosedByBroker) as error:
        connection.channel().queue_declare(name(), durable=True, arguments=HEADER | arguments)
    expect.closed(error.value, 406, "invalid arg 'x-group-")


def test_order_for_each_key_survives_kill_9(name):
    """Twice: what was out is back in its place, and what was acked is gone."""
    with tempfile.TemporaryDirectory(prefix="leveret-clients-") as directory:
        with killed_in_the_end(directory) as channel:
            channel.queue_declare("q", durable=True, arguments=HEADER)
            channel.confirm_delivery()
            publish(channel, "q", *[f"{key}-{n}" for n in range(5) for key in "abc"], delivery_mode=2)
            inbox = Inbox(channel, "q").wait(3)
            channel.basic_ack(inbox.tags[0])
            assert inbox.wait(4).bodies == [b"a-0", b"b-0", b"c-0", b"a-1"]
        with killed_in_the_end(directory) as channel:
            # The last acks may be undone.
            inbox = Inbox(channel, "q").wait(3)
            firsts = dict(map(parse, inbox.bodies))
            assert firsts in ({"a": 0, "b": 0, "c": 0}, {"a": 1, "b": 0, "c": 0})
            channel.basic_nack(inbox.tags[1])
            inbox.wait(4)
        with killed_in_the_end(directory) as channel:
            bodies = collections.defaultdict(list)
            while (message := channel.basic_get("q"))[0]:
                key, number = parse(message[2])
                bodies[key].append(number)
                channel.basic_ack(message[0].delivery_tag)
            assert {key: numbers[-4:] for key, numbers in bodies.items()} == dict.fromkeys("abc", [1, 2, 3, 4])
            assert all(numbers == sorted(numbers) for numbers in bodies.values())


@contextlib.contextmanager
def killed_in_the_end(directory):
    """A channel to a broker on a directory."""
    command = [os.environ["LEVERET_BIN"], "serve", "--amqp", "127.0.0.1:0", "--data-dir", directory]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = f"amqp://guest:guest@{broker.listens_at(process, broker.LISTENING)}/"
        yield pika.BlockingConnection(pika.URLParameters(url)).channel()
    finally:
        process.kill()
        process.wait()
