"""Streams through pika. What only Leveret (or LavinMQ) has is skipped elsewhere."""

import datetime

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

import expect

STREAM = {"x-queue-type": "stream"}


@pytest.fixture
def stream(connect, name):
    """Declares a stream, with more arguments, and gives its name."""

    def declare(**arguments):
        queue = name("stream")
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        connect().channel().queue_declare(queue, durable=True, arguments={**STREAM, **arguments})
        return queue

    return declare


@pytest.fixture
def only_leveret(janitor):
    product = janitor._impl.server_properties["product"]
    if product in ("RabbitMQ", b"RabbitMQ"):
        pytest.skip("RabbitMQ 3.10 does not have it")


def publish(connection, queue, bodies, headers=None):
    """Publishes with confirms."""
    channel = connection.channel()
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(headers=headers))
    channel.close()


class Reader:
    """A consumer of a stream on a channel of its own."""

    def __init__(self, connection, queue, prefetch=100, tag=None, ack=True, **arguments):
        self.channel = connection.channel()
        self.channel.basic_qos(prefetch_count=prefetch)
        self.got = []
        self.ack = ack
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        more = {"consumer_tag": tag} if tag else {}
        self.tag = self.channel.basic_consume(queue, self.take, arguments=arguments, **more)

    def take(self, channel, method, properties, body):
        self.got.append((properties.headers["x-stream-offset"], body, method, properties))
        if self.ack:
            channel.basic_ack(method.delivery_tag)

    def read(self, count):
        """Waits until there are so many."""
        expect.eventually(lambda: self.channel.connection.process_data_events(0.05) or len(self.got) >= count)
        return [body for _, body, _, _ in self.got]

    def offsets(self):
        return [offset for offset, _, _, _ in self.got]

    def nothing_more(self):
        """A round trip later nothing more has come."""
        before = len(self.got)
        self.channel.queue_declare("", exclusive=True, auto_delete=True)
        self.channel.connection.process_data_events(0)
        assert len(self.got) == before, self.got[before:]


def numbered(first, end):
    return [b"%d" % number for number in range(first, end)]


def test_a_reader_from_first_gets_all_with_offsets_and_so_does_another(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 20), headers={"a": 1})
    for _ in range(2):
        reader = Reader(connect(), queue, x_stream_offset="first")
        assert reader.read(20) == numbered(0, 20)
        assert reader.offsets() == list(range(20))
        assert not any(method.redelivered for _, _, method, _ in reader.got)
        assert reader.got[3][3].headers == {"a": 1, "x-stream-offset": 3}
        assert (reader.got[0][2].exchange, reader.got[0][2].routing_key) == ("", queue)


def test_without_an_offset_a_reader_begins_with_what_comes_next(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 5))
    default, following = Reader(connect(), queue), Reader(connect(), queue, x_stream_offset="next")
    publish(connect(), queue, numbered(5, 8))
    assert default.read(3) == following.read(3) == numbered(5, 8)
    assert default.offsets() == [5, 6, 7]


@pytest.mark.parametrize("offset, first", [(0, 0), (7, 7), (9, 9), (-3, 0)])
def test_a_reader_begins_with_an_offset(connect, stream, offset, first):
    queue = stream()
    publish(connect(), queue, numbered(0, 10))
    reader = Reader(connect(), queue, x_stream_offset=offset)
    assert reader.read(10 - first) == numbered(first, 10)
    assert reader.offsets()[0] == first


def test_last_gives_at_least_the_youngest_message(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 10))
    reader = Reader(connect(), queue, x_stream_offset="last")
    expect.eventually(lambda: reader.channel.connection.process_data_events(0.05) or 9 in reader.offsets())


def test_an_offset_that_is_not_there_yet_is_waited_for(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 3))
    reader = Reader(connect(), queue, x_stream_offset=5)
    publish(connect(), queue, numbered(3, 7))
    assert reader.read(2) == numbered(5, 7)


def test_timestamps_and_intervals(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 5))
    hour = datetime.timedelta(hours=1)
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    for past in (now - hour, "1h", "1Y"):
        assert Reader(connect(), queue, x_stream_offset=past).read(5) == numbered(0, 5)
    future = Reader(connect(), queue, x_stream_offset=now + hour)
    publish(connect(), queue, numbered(5, 6))
    assert future.read(1) == numbered(5, 6)


@pytest.mark.parametrize("offset", ["0s", "1x"])
def test_an_offset_that_makes_no_sense_is_refused(connect, stream, offset):
    queue = stream()
    with pytest.raises(ChannelClosedByBroker) as error:
        Reader(connect(), queue, x_stream_offset=offset)
    expect.closed(error.value, 406, f"invalid arg 'x-stream-offset' for queue '{queue}' in vhost '/'")


def test_acks_give_credit_and_nothing_else(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 10))
    reader = Reader(connect(), queue, prefetch=3, ack=False, x_stream_offset="first")
    reader.read(3)
    reader.nothing_more()
    reader.channel.basic_ack(reader.got[1][2].delivery_tag, multiple=True)
    assert reader.read(5) == numbered(0, 5)
    reader.nothing_more()
    reader.channel.close()
    assert Reader(connect(), queue, x_stream_offset="first").read(10) == numbered(0, 10)


def test_two_readers_of_one_connection_and_of_one_channel_do_not_share_credit(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 10))
    connection = connect()
    one = Reader(connection, queue, prefetch=2, ack=False, x_stream_offset="first")
    other = Reader(connection, queue, prefetch=2, x_stream_offset="first")
    assert other.read(10) == numbered(0, 10)
    assert one.read(2) == numbered(0, 2)
    one.nothing_more()


def test_many_readers_get_everything(connect, stream):
    queue = stream()
    connection = connect()
    readers = [Reader(connection, queue, x_stream_offset="first") for _ in range(10)]
    publish(connect(), queue, numbered(0, 200))
    for reader in readers:
        assert reader.read(200) == numbered(0, 200)
        assert reader.offsets() == list(range(200))


def test_large_messages_and_many_of_them_come_back(connect, stream):
    """More than is kept in memory, with small segments."""
    queue = stream(x_stream_max_segment_size_bytes=1_000_000)
    bodies = [b"%06d" % number + b"." * 10_000 for number in range(1200)]
    connection = connect()
    channel = connection.channel()
    for body in bodies:
        channel.basic_publish("", queue, body)
    publish(connection, queue, [b"end"])
    reader = Reader(connect(), queue, x_stream_offset="first")
    assert reader.read(1201)[:1200] == bodies
    offsets = reader.offsets()
    assert offsets == sorted(set(offsets)), "RabbitMQ leaves some out"
    middle = Reader(connect(), queue, x_stream_offset=offsets[555])
    assert middle.read(646)[:645] == bodies[555:]


def test_a_fanout_reaches_queues_and_streams(connect, stream, name):
    connection = connect()
    channel = connection.channel()
    exchange, classic, queue = name(), name(), stream()
    channel.exchange_declare(exchange, "fanout")
    channel.queue_declare(classic)
    for one in (classic, queue):
        channel.queue_bind(one, exchange)
    channel.confirm_delivery()
    for body in numbered(0, 5):
        channel.basic_publish(exchange, "", body)
    assert Reader(connect(), queue, x_stream_offset="first").read(5) == numbered(0, 5)
    assert [channel.basic_get(classic, auto_ack=True)[2] for _ in range(5)] == numbered(0, 5)


def test_transient_messages_stay_too(connect, stream):
    queue = stream()
    channel = connect().channel()
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"x", pika.BasicProperties(delivery_mode=1))
    assert Reader(connect(), queue, x_stream_offset="first").read(1) == [b"x"]


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"durable": False}, "invalid property 'non-durable'"),
        ({"durable": True, "exclusive": True}, "invalid property 'exclusive-owner'"),
        ({"durable": True, "auto_delete": True}, "invalid property 'auto-delete'"),
    ],
)
def test_a_stream_is_durable_and_shared(connect, name, settings, text):
    with pytest.raises(ChannelClosedByBroker) as error:
        connect().channel().queue_declare(name(), arguments=STREAM, **settings)
    expect.closed(error.value, 406, text)


def test_a_stream_has_a_name(connect):
    with pytest.raises(ChannelClosedByBroker) as error:
        connect().channel().queue_declare("", durable=True, arguments=STREAM)
    expect.closed(error.value, 406, "Cannot declare a server-named queue for type rabbit_stream_queue")


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"x-max-age": "1x"}, "invalid arg 'x-max-age' for queue '{}' in vhost '/': invalid_max_age"),
        ({"x-max-age": "0s"}, "invalid_max_age"),
        ({"x-max-age": 5}, "{{unacceptable_type,signedint}}"),
        ({"x-stream-max-segment-size-bytes": -1}, "{{value_negative,-1}}"),
        ({"x-stream-max-segment-size-bytes": 3_000_000_001}, "x-stream-max-segment-size-bytes"),
        ({"x-message-ttl": 5}, "invalid arg 'x-message-ttl' for queue '{}' in vhost '/' of queue type rabbit_stream_queue"),
        ({"x-dead-letter-exchange": "x"}, "of queue type rabbit_stream_queue"),
        ({"x-single-active-consumer": True}, "of queue type rabbit_stream_queue"),
        ({"x-max-priority": 1}, "of queue type rabbit_stream_queue"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(connect, name, arguments, text):
    queue = name()
    with pytest.raises(ChannelClosedByBroker) as error:
        connect().channel().queue_declare(queue, durable=True, arguments={**STREAM, **arguments})
    expect.closed(error.value, 406, text.format(queue))


def test_get_purge_and_nack_are_not_for_streams(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 3))

    def nack(channel):
        reader = Reader(channel.connection, queue, ack=False, x_stream_offset="first")
        reader.read(3)
        reader.channel.basic_nack(reader.got[0][2].delivery_tag)
        channel.connection.process_data_events(1)

    refused = [
        (lambda channel: channel.basic_get(queue), "basic.get not supported by stream queues"),
        (lambda channel: channel.queue_purge(queue), "queue.purge not supported by stream queues"),
        (nack, "basic.nack and basic.reject not supported by stream queues"),
    ]
    for ask, text in refused:
        with pytest.raises(ConnectionClosedByBroker) as error:
            ask(connect().channel())
        expect.closed(error.value, 540, text)


def test_readers_have_a_prefetch_and_ack(connect, stream):
    queue = stream()
    with pytest.raises(ChannelClosedByBroker) as error:
        connect().channel().basic_consume(queue, lambda *_: None)
    expect.closed(error.value, 406, f"consumer prefetch count is not set for 'queue '{queue}' in vhost '/''")
    channel = connect().channel()
    channel.basic_qos(prefetch_count=1)
    with pytest.raises(ConnectionClosedByBroker) as error:
        channel.basic_consume(queue, lambda *_: None, auto_ack=True)
    expect.closed(error.value, 540, "automatic acknowledgement not supported by stream queues")


def test_a_stream_keeps_its_type(connect, stream):
    queue = stream()
    connect().channel().queue_declare(queue, durable=True, arguments=STREAM)
    with pytest.raises(ChannelClosedByBroker) as error:
        connect().channel().queue_declare(queue, durable=True)
    expect.closed(error.value, 406, "inequivalent arg 'x-queue-type'")


def test_deleting_a_stream_cancels_its_readers(connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 3))
    reader = Reader(connect(), queue, x_stream_offset="first")
    cancelled = []
    reader.channel.add_on_cancel_callback(cancelled.append)
    reader.read(3)
    connect().channel().queue_delete(queue)
    expect.eventually(lambda: reader.channel.connection.process_data_events(0.05) or cancelled)
    with pytest.raises(ChannelClosedByBroker) as error:
        connect().channel().queue_declare(queue, passive=True)
    expect.closed(error.value, 404)


def test_a_cancelled_reader_gets_nothing_more(connect, stream):
    queue = stream()
    reader = Reader(connect(), queue, x_stream_offset="first")
    publish(connect(), queue, numbered(0, 3))
    reader.read(3)
    reader.channel.basic_cancel(reader.tag)
    publish(connect(), queue, numbered(3, 6))
    reader.nothing_more()


def test_retention_by_size_drops_whole_segments(connect, stream):
    queue = stream(x_max_length_bytes=500_000, x_stream_max_segment_size_bytes=100_000)
    channel = connect().channel()
    for number in range(3000):
        channel.basic_publish("", queue, b"%06d" % number + b"." * 1000)
    publish(connect(), queue, [b"end"])

    def first():
        reader = Reader(connect(), queue, prefetch=1, ack=False, x_stream_offset="first")
        reader.read(1)
        return reader.offsets()[0]

    expect.eventually(lambda: first() > 0)


def test_the_count_of_a_declare(only_leveret, connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 5))
    Reader(connect(), queue, x_stream_offset="first").read(5)
    declared = connect().channel().queue_declare(queue, passive=True).method
    assert (declared.message_count, declared.consumer_count) == (5, 1)


def test_retention_by_count(only_leveret, connect, stream):
    queue = stream(x_max_length=500, x_stream_max_segment_size_bytes=100_000)
    channel = connect().channel()
    for number in range(3000):
        channel.basic_publish("", queue, b"." * 1000)
    publish(connect(), queue, [b"end"])
    count = lambda: connect().channel().queue_declare(queue, passive=True).method.message_count
    expect.eventually(lambda: count() < 700)


def test_retention_by_age(only_leveret, connect, stream):
    queue = stream(x_max_age="1s")
    publish(connect(), queue, numbered(0, 5))
    count = lambda: connect().channel().queue_declare(queue, passive=True).method.message_count
    expect.eventually(lambda: count() == 0)
    publish(connect(), queue, numbered(5, 6))
    reader = Reader(connect(), queue, x_stream_offset="first")
    reader.read(1)
    assert reader.offsets() == [5]


def test_the_server_keeps_offsets_by_consumer_tag(only_leveret, connect, stream):
    queue = stream()
    publish(connect(), queue, numbered(0, 10))
    tracked = {"x_stream_automatic_offset_tracking": True}
    reader = Reader(connect(), queue, tag="me", prefetch=4, ack=False, x_stream_offset="first", **tracked)
    reader.read(4)
    reader.channel.basic_ack(reader.got[2][2].delivery_tag, multiple=True)
    reader.channel.close()
    again = Reader(connect(), queue, tag="me", **tracked)
    assert again.read(7) == numbered(3, 10)
    again.channel.close()
    other = Reader(connect(), queue, tag="other", x_stream_offset=8, **tracked)
    assert other.read(2) == numbered(8, 10)
    publish(connect(), queue, numbered(10, 11))
    assert Reader(connect(), queue, tag="me", x_stream_offset="first", **tracked).read(1) == numbered(10, 11)


def test_filters(only_leveret, connect, stream):
    queue = stream()
    for colour in ("red", "blue", None, "red"):
        headers = {"x-stream-filter-value": colour} if colour else None
        publish(connect(), queue, [str(colour).encode()], headers)
    read = lambda count, **arguments: Reader(connect(), queue, x_stream_offset="first", **arguments).read(count)
    assert read(2, x_stream_filter="red") == [b"red", b"red"]
    assert read(3, x_stream_filter=["red", "blue"]) == [b"red", b"blue", b"red"]
    assert read(2, x_stream_filter="blue", x_stream_match_unfiltered=True) == [b"blue", b"None"]


def test_filters_skip_what_is_in_segments(only_leveret, connect, stream):
    queue = stream(x_stream_max_segment_size_bytes=100_000, x_stream_filter_size_bytes=32)
    connection = connect()
    channel = connection.channel()
    for number in range(9000):
        value = "rare" if number % 3000 == 0 else f"common {number % 5}"
        channel.basic_publish("", queue, b"%05d" % number + b"." * 1000, pika.BasicProperties(headers={"x-stream-filter-value": value}))
    publish(connection, queue, [b"end"], {"x-stream-filter-value": "rare"})
    reader = Reader(connect(), queue, x_stream_offset="first", x_stream_filter="rare")
    assert [body[:5] for body in reader.read(4)] == [b"00000", b"03000", b"06000", b"end"]
    assert reader.offsets() == [0, 3000, 6000, 9000]
