"""The broker under test and, for pika, connections and names that are cleaned up."""

import contextlib
import itertools
import os
import re
import time

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

import broker
import expect
from wire import Wire


@pytest.fixture(scope="session")
def url():
    with broker.under_test() as broker_url:
        yield broker_url


@pytest.fixture(scope="session")
def janitor(url):
    """Deletes what tests leave behind."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    connection = pika.BlockingConnection(parameters)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def old_rabbitmq(janitor):
    """Whether the broker under test is a RabbitMQ from before 4.0."""
    return expect.is_old_rabbitmq(janitor._impl.server_properties)


COUNTER = itertools.count()


@pytest.fixture
def name(request, janitor):
    """Makes a fresh name for a queue or an exchange of this test and deletes both afterwards."""
    made = []

    def make(prefix="test"):
        test = re.sub(r"\W+", "-", request.node.name, flags=re.ASCII)
        made.append(f"{prefix}-{os.getpid()}-{next(COUNTER)}-{test}"[:120])
        return made[-1]

    yield make
    for one in made:
        channel = janitor.channel()
        with contextlib.suppress(ChannelClosedByBroker):  # an exclusive queue goes with its connection
            channel.exchange_delete(one)
            channel.queue_delete(one)
            channel.close()


@pytest.fixture
def connect(url):
    """Opens a pika connection; all are closed after the test."""
    opened = []

    def open_one(user=None, password=None, vhost=None, **settings):
        parameters = pika.URLParameters(expect.url_with(url, user, password, vhost))
        for key, value in settings.items():
            setattr(parameters, key, value)
        opened.append(pika.BlockingConnection(parameters))
        return opened[-1]

    yield open_one
    for connection in opened:
        if connection.is_open:
            connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def survivor(tmp_path):
    """A broker that a test may kill and start again."""
    if "LEVERET_BIN" not in os.environ:
        pytest.skip("starts a broker of its own")
    made = broker.Survivor(os.environ["LEVERET_BIN"], tmp_path / "data")
    yield made
    made.kill()


class Inbox:
    """A pika consumer that keeps what it gets, in order."""

    def __init__(self, channel, queue, **options):
        self.channel, self.messages, self.cancelled = channel, [], False
        self.tag = channel.basic_consume(queue, self.receive, **options)

    def receive(self, _channel, method, properties, body):
        self.messages.append((method, properties, body))

    @property
    def bodies(self):
        return [body for _, _, body in self.messages]

    @property
    def tags(self):
        return [method.delivery_tag for method, _, _ in self.messages]

    @property
    def redelivered(self):
        return [method.redelivered for method, _, _ in self.messages]

    def wait(self, count):
        """Until so many messages in all have come."""
        until(self.channel.connection, lambda: len(self.messages) >= count)
        assert len(self.messages) == count, self.bodies
        return self


def until(connection, holds, seconds=expect.SECONDS):
    """Serves the pika connection until it is so."""
    deadline = time.monotonic() + seconds
    while not holds():
        left = deadline - time.monotonic()
        assert left > 0, f"did not become true within {seconds} s"
        connection.process_data_events(time_limit=min(left, 0.1))


@pytest.fixture
def queue(channel, name):
    """A plain queue of this test."""
    return channel.queue_declare(name()).method.queue


@pytest.fixture
def wire(url):
    """A bare socket with an open channel, number 1."""
    with Wire(url) as one:
        one.open()
        one.open_channel()
        yield one
