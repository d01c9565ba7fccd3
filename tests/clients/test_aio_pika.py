"""The same broker through aio-pika."""

import asyncio
import itertools
import random

import aio_pika
import pytest
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

import expect

SECONDS = expect.SECONDS


@pytest.fixture
async def connect(url):
    opened = []

    async def open_one(user=None, password=None, vhost=None, **settings):
        opened.append(await aio_pika.connect(expect.url_with(url, user, password, vhost), **settings))
        return opened[-1]

    yield open_one
    for connection in opened:
        await connection.close()


@pytest.fixture
async def connection(connect):
    return await connect()


@pytest.fixture
async def channel(connection):
    """Publishes with confirms, as is aio-pika's default."""
    return await connection.channel()


@pytest.fixture
async def queue(channel, name):
    return await channel.declare_queue(name())


async def fill(channel, queue, count=10):
    for number in range(count):
        await channel.default_exchange.publish(Message(str(number).encode()), queue.name)


async def ready(channel, queue):
    return (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count


class Inbox:
    """A consumer that keeps what it gets, in order."""

    def __init__(self):
        self.messages, self.arrived, self.queue, self.tag = [], asyncio.Condition(), None, None

    @classmethod
    async def of(cls, queue, **options):
        inbox = cls()
        inbox.queue = queue
        inbox.tag = await queue.consume(inbox.receive, **options)
        return inbox

    async def receive(self, message):
        async with self.arrived:
            self.messages.append(message)
            self.arrived.notify_all()

    async def wait(self, count):
        async with asyncio.timeout(SECONDS), self.arrived:
            await self.arrived.wait_for(lambda: len(self.messages) >= count)
        assert len(self.messages) == count, self.bodies
        return self

    @property
    def bodies(self):
        return [message.body for message in self.messages]

    @property
    def redelivered(self):
        return [message.redelivered for message in self.messages]


async def bodies(queue):
    taken = []
    while message := await queue.get(no_ack=True, fail=False):
        taken.append(message.body)
    return taken


@pytest.mark.parametrize(
    ("kind", "binding", "key", "routed"),
    [
        (ExchangeType.DIRECT, "red", "red", True),
        (ExchangeType.DIRECT, "red", "blue", False),
        (ExchangeType.FANOUT, "red", "blue", True),
        (ExchangeType.TOPIC, "a.*.c", "a.b.c", True),
        (ExchangeType.TOPIC, "a.#", "a", True),
        (ExchangeType.TOPIC, "a.*", "a", False),
    ],
)
async def test_exchanges(channel, queue, name, kind, binding, key, routed):
    exchange = await channel.declare_exchange(name(), kind)
    await queue.bind(exchange, binding)
    await exchange.publish(Message(b"x"), key, mandatory=False)
    assert await bodies(queue) == ([b"x"] if routed else [])


@pytest.mark.parametrize(("match", "routed"), [("all", False), ("any", True)])
async def test_headers_exchange(channel, queue, name, match, routed):
    exchange = await channel.declare_exchange(name(), ExchangeType.HEADERS)
    await queue.bind(exchange, arguments={"x-match": match, "a": 1, "b": "two"})
    await exchange.publish(Message(b"x", headers={"a": 1, "b": "three"}), "", mandatory=False)
    assert await bodies(queue) == ([b"x"] if routed else [])


async def test_exchange_to_exchange_and_alternate(channel, queue, name):
    spare = await channel.declare_exchange(name(), ExchangeType.FANOUT)
    target = await channel.declare_exchange(name(), ExchangeType.FANOUT)
    source = await channel.declare_exchange(
        name(), ExchangeType.TOPIC, arguments={"alternate-exchange": spare.name}
    )
    other = await channel.declare_queue(name())
    await target.bind(source, "a.#")
    await queue.bind(target)
    await other.bind(spare)
    await source.publish(Message(b"through"), "a.b")
    await source.publish(Message(b"aside"), "b.a")
    assert (await bodies(queue), await bodies(other)) == ([b"through"], [b"aside"])


async def test_a_thousand_confirms_in_flight(channel, name):
    queue = await channel.declare_queue(name(), durable=True)
    publish = channel.default_exchange.publish
    persistent = [Message(str(n).encode(), delivery_mode=DeliveryMode.PERSISTENT) for n in range(1000)]
    await asyncio.gather(*(publish(message, queue.name) for message in persistent))
    assert await ready(channel, queue) == 1000
    inbox = await (await Inbox.of(queue, no_ack=True)).wait(1000)
    assert inbox.bodies == [str(n).encode() for n in range(1000)]


async def test_mandatory(connection):
    channel = await connection.channel(on_return_raises=True)
    with pytest.raises(DeliveryError) as error:
        await channel.default_exchange.publish(Message(b"back"), "nowhere-to-go", mandatory=True)
    assert error.value.message.delivery.reply_code == 312
    assert error.value.message.body == b"back"
    await channel.default_exchange.publish(Message(b"lost"), "nowhere-to-go", mandatory=False)


async def test_prefetch_bounds_what_is_outstanding(channel, queue):
    await fill(channel, queue)
    await channel.set_qos(prefetch_count=3)
    inbox = await (await Inbox.of(queue)).wait(3)
    for settled in range(1, 8):
        assert await ready(channel, queue) == 8 - settled
        await inbox.messages[settled - 1].ack()
        await inbox.wait(3 + settled)


@pytest.mark.parametrize("settle", ["nack", "reject", "close"])
async def test_requeued_messages_come_first_and_are_flagged(connection, channel, queue, settle):
    await fill(channel, queue)
    consumer = await connection.channel()
    await consumer.set_qos(prefetch_count=3)
    source = await consumer.get_queue(queue.name)
    inbox = await (await Inbox.of(source)).wait(3)
    await source.cancel(inbox.tag)
    if settle == "nack":
        await inbox.messages[-1].nack(multiple=True, requeue=True)
    elif settle == "reject":
        for message in reversed(inbox.messages):
            await message.reject(requeue=True)
    await consumer.close()
    again = await (await Inbox.of(queue)).wait(10)
    assert again.bodies == [str(n).encode() for n in range(10)]
    assert again.redelivered == [True] * 3 + [False] * 7


async def test_reject_without_requeue(channel, queue):
    await fill(channel, queue, 3)
    inbox = await (await Inbox.of(queue)).wait(3)
    await inbox.messages[0].reject(requeue=False)
    await inbox.messages[2].nack(multiple=True, requeue=False)
    await channel.close()
    await channel.reopen()
    assert await ready(channel, queue) == 0


async def test_get(channel, queue):
    await fill(channel, queue, 2)
    first, second = await queue.get(), await queue.get(no_ack=True)
    assert (first.body, second.body, first.redelivered) == (b"0", b"1", False)
    assert await queue.get(fail=False) is None
    await first.reject(requeue=True)
    assert (await queue.get(no_ack=True)).redelivered


async def test_transaction(connection, channel, queue):
    plain = await connection.channel(publisher_confirms=False)
    async with plain.transaction():
        await plain.default_exchange.publish(Message(b"kept"), queue.name)
        await plain.declare_queue(queue.name, passive=True)
        assert await ready(channel, queue) == 0
    assert await ready(channel, queue) == 1
    with pytest.raises(ZeroDivisionError):
        async with plain.transaction():
            await plain.default_exchange.publish(Message(b"dropped"), queue.name)
            raise ZeroDivisionError
    assert await bodies(queue) == [b"kept"]


async def test_request_and_reply(connect, channel, queue):
    async def answer(request):
        async with request.process():
            reply = Message(request.body.upper(), correlation_id=request.correlation_id)
            await channel.default_exchange.publish(reply, request.reply_to)

    await queue.consume(answer)
    client = await (await connect()).channel()
    replies = await client.declare_queue("", exclusive=True)
    direct = await client.get_queue("amq.rabbitmq.reply-to", ensure=False)
    for reply_to in [replies, direct]:
        inbox = await Inbox.of(reply_to, no_ack=True)
        for number in range(5):
            request = Message(f"a{number}".encode(), reply_to=reply_to.name, correlation_id=str(number))
            await client.default_exchange.publish(request, queue.name)
        await inbox.wait(5)
        answers = {reply.correlation_id: reply.body for reply in inbox.messages}
        assert answers == {str(number): f"A{number}".encode() for number in range(5)}


async def test_kinds_of_queues(connect, connection, channel, name):
    server_named = await channel.declare_queue("", exclusive=True)
    assert server_named.name.startswith("amq.gen-")
    vanishing = await channel.declare_queue(name(), auto_delete=True)
    await vanishing.cancel(await vanishing.consume(lambda _: None))
    with pytest.raises(ChannelNotFoundEntity):
        await (await connection.channel()).declare_queue(vanishing.name, passive=True)
    with pytest.raises(ChannelLockedResource):
        await (await (await connect()).channel()).declare_queue(server_named.name, passive=True)


async def test_consumer_priority(connection, channel, queue):
    inboxes = []
    for priority in [0, 5]:
        consumer = await connection.channel()
        await consumer.set_qos(prefetch_count=1)
        source = await consumer.get_queue(queue.name)
        inboxes.append(await Inbox.of(source, arguments={"x-priority": priority}))
    low, high = inboxes
    await fill(channel, queue, 1)
    await high.wait(1)
    await channel.default_exchange.publish(Message(b"1"), queue.name)
    await low.wait(1)
    assert (high.bodies, low.bodies) == ([b"0"], [b"1"])


async def test_purge_and_delete(connection, channel, queue):
    await fill(channel, queue, 4)
    with pytest.raises(ChannelPreconditionFailed, match=expect.NOT_EMPTY):
        await (await (await connection.channel()).get_queue(queue.name)).delete(if_unused=False, if_empty=True)
    assert (await queue.purge()).message_count == 4
    await queue.consume(lambda _: None)
    with pytest.raises(ChannelPreconditionFailed, match=expect.IN_USE):
        await (await (await connection.channel()).get_queue(queue.name)).delete(if_unused=True)
    assert (await queue.delete(if_unused=False)).message_count == 0


async def test_errors_leave_the_connection_alone(connect, connection, channel, name):
    owner = await (await connect()).channel()
    locked, fresh = await owner.declare_queue(name(), exclusive=True), name()
    await channel.declare_queue(fresh, durable=True)
    refused = [
        (ChannelAccessRefused, lambda one: one.declare_queue("amq.mine")),
        (ChannelNotFoundEntity, lambda one: one.declare_queue("never-there", passive=True)),
        (ChannelLockedResource, lambda one: one.declare_queue(locked.name, passive=True)),
        (ChannelPreconditionFailed, lambda one: one.declare_queue(fresh, durable=False)),
    ]
    for error, act in refused:
        with pytest.raises(error):
            await act(await connection.channel())
        assert await (await connection.channel()).declare_queue(fresh, durable=True)


async def test_publish_to_a_missing_exchange(connection, channel, queue):
    one = await connection.channel()
    missing = await one.get_exchange("never-there", ensure=False)
    with pytest.raises(ChannelNotFoundEntity):
        await missing.publish(Message(b"lost"), "key")
    await fill(channel, queue, 1)
    assert await ready(channel, queue) == 1


async def test_limited_user(connect, name):
    limited = await connect("limited", "limited")
    own = await (await limited.channel()).declare_queue(name("limited"))
    assert (await own.purge()).message_count == 0
    with pytest.raises(ChannelAccessRefused):
        await (await limited.channel()).declare_queue("someone-elses")


async def test_logging_in(connect):
    with pytest.raises(AMQPError, match="Login was refused"):
        await connect("guest", "wrong")
    with pytest.raises(AMQPError):
        await connect(vhost="nowhere")


async def test_large_message_and_properties(channel, queue):
    body = random.Random(1).randbytes(10 * 2**20)
    headers = {"text": "Ü", "number": 2**40, "list": [1, "two"], "table": {"k": True}, "void": None}
    sent = Message(body, headers=headers, content_type="a/b", priority=3, message_id="m", correlation_id="c",
                   type="t", app_id="a", content_encoding="e", expiration=60, delivery_mode=DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(sent, queue.name)
    got = await queue.get(no_ack=True)
    assert got.body == body
    assert {**got.headers} == headers
    for field in ["content_type", "priority", "message_id", "correlation_id", "type", "app_id", "content_encoding"]:
        assert getattr(got, field) == getattr(sent, field), field


async def test_channels_and_connections_at_once(connect, queue):
    connections = await asyncio.gather(*(connect() for _ in range(5)))
    numbers = itertools.count()

    async def publish(connection):
        channel = await connection.channel()
        for _ in range(10):
            await channel.default_exchange.publish(Message(str(next(numbers)).encode()), queue.name)

    await asyncio.gather(*(publish(connection) for connection in connections for _ in range(10)))
    inbox = await (await Inbox.of(queue, no_ack=True)).wait(500)
    assert sorted(map(int, inbox.bodies)) == list(range(500))


async def test_deleting_the_queue_ends_its_iterator(connection, channel, queue):
    await fill(channel, queue, 1)
    async with asyncio.timeout(SECONDS):
        async with queue.iterator(no_ack=True) as messages:
            async for message in messages:
                assert message.body == b"0"
                await (await connection.channel()).queue_delete(queue.name)
                break


async def test_robust_connection_comes_back(url, name):
    """The default of aio-pika's users: it declares and consumes again after its socket is lost."""
    connection = await aio_pika.connect_robust(url, reconnect_interval=0.05)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name(), durable=True)
        inbox = await Inbox.of(queue, no_ack=True)
        await channel.default_exchange.publish(Message(b"before"), queue.name)
        await inbox.wait(1)
        reconnected = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: reconnected.set())
        await connection.transport.connection.close(ConnectionError("lost"))
        async with asyncio.timeout(SECONDS):
            await reconnected.wait()
            await channel.default_exchange.publish(Message(b"after"), queue.name)
        await inbox.wait(2)
        assert inbox.bodies == [b"before", b"after"]
