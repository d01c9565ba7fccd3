"""A consumer as kombu's users write it: ConsumerMixin in a thread of its own, a producer with retries beside it."""

import queue as queues
import socket
import threading

import kombu
import pytest
from kombu.mixins import ConsumerMixin

import expect


class Consumer(ConsumerMixin):
    """Acks what it gets; the first time that it sees a "twice" it gives it back."""

    def __init__(self, connection, queue):
        self.connection, self.queue, self.seen, self.serving = connection, queue, queues.Queue(), None

    def get_consumers(self, Consumer, channel):  # noqa: N803
        return [Consumer(queues=[self.queue], callbacks=[self.on_task], accept=["json"], prefetch_count=3)]

    def on_consume_ready(self, connection, channel, consumers, **_):
        self.serving = connection

    def on_task(self, body, message):
        if body["task"] == "twice" and not message.delivery_info["redelivered"]:
            message.requeue()
        else:
            message.ack()
            self.seen.put((body["task"], message.delivery_info["redelivered"]))

    def take(self, count):
        return [self.seen.get(timeout=expect.SECONDS) for _ in range(count)]


@pytest.fixture
def queue(name):
    exchange = kombu.Exchange(name(), type="topic")
    return kombu.Queue(name(), exchange, routing_key="task.#")


@pytest.fixture
def consumer(url, queue):
    with kombu.Connection(url) as connection:
        one = Consumer(connection, queue)
        thread = threading.Thread(target=one.run, daemon=True)
        thread.start()
        yield one
        one.should_stop = True
        thread.join(expect.SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def producer(url, queue):
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        yield connection.Producer(exchange=queue.exchange, serializer="json", auto_declare=True)


def send(producer, queue, *tasks):
    for task in tasks:
        producer.publish({"task": task}, routing_key="task.new", declare=[queue], retry=True)


def test_a_mixin_consumer_gets_all_and_gets_back_what_it_requeues(consumer, producer, queue):
    send(producer, queue, *(str(number) for number in range(20)), "twice")
    seen = consumer.take(21)
    assert seen[:20] == [(str(number), False) for number in range(20)]
    assert seen[20] == ("twice", True)


def test_a_mixin_consumer_comes_back_when_its_connection_is_lost(consumer, producer, queue):
    send(producer, queue, "before")
    assert consumer.take(1) == [("before", False)]
    lost = consumer.serving
    lost.connection.transport.sock.shutdown(socket.SHUT_RDWR)
    send(producer, queue, "after")
    assert consumer.take(1)[0][0] == "after"
    assert consumer.serving is not lost
