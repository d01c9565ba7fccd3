"""The patterns that aio-pika ships: calls with answers, and a master with workers."""

import asyncio

import aio_pika
import pytest
from aio_pika.exceptions import MessageProcessError
from aio_pika.patterns import RPC, Master, NackMessage, RejectMessage

import expect


@pytest.fixture
async def connection(url):
    async with await aio_pika.connect(url) as connection:
        yield connection


@pytest.fixture
async def rpc(connection):
    """A caller and a server, each with a channel of its own."""
    pair = [await RPC.create(await connection.channel()) for _ in range(2)]
    yield pair
    for one in pair:
        await one.close()


async def test_calls_are_answered_with_results_and_errors(rpc, name):
    caller, server = rpc
    doubled = name()

    async def double(number):
        return 2 * number if number >= 0 else int("not a number")

    await server.register(doubled, double, auto_delete=True)
    async with asyncio.timeout(expect.SECONDS):
        answers = await asyncio.gather(*(caller.call(doubled, {"number": number}) for number in range(50)))
        assert answers == [2 * number for number in range(50)]
        with pytest.raises(ValueError, match="not a number"):
            await caller.call(doubled, {"number": -1})


async def test_a_call_that_nobody_serves_comes_back(rpc, name):
    caller, _ = rpc
    async with asyncio.timeout(expect.SECONDS):
        with pytest.raises(MessageProcessError, match="returned"):
            await caller.call(name(), {})


async def test_a_call_that_waits_too_long_comes_back_as_dead_letter(connection, rpc, name):
    caller, _ = rpc
    slow = name()
    channel = await connection.channel()
    await channel.declare_queue(slow, auto_delete=True, arguments={"x-dead-letter-exchange": RPC.DLX_NAME})
    async with asyncio.timeout(expect.SECONDS):
        with pytest.raises(asyncio.TimeoutError, match="timed-out"):
            await caller.call(slow, {}, expiration=0.1)


async def test_workers_do_each_task_once_or_give_it_back(connection, name):
    tasks, done, is_done = name(), [], asyncio.Event()
    refused = set()

    async def work(number):
        if number == 3 and number not in refused:
            refused.add(number)
            raise NackMessage(requeue=True)
        if number == 4:
            raise RejectMessage(requeue=False)
        done.append(number)
        if len(done) == 9:
            is_done.set()

    masters = []
    for _ in range(3):
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        masters.append(Master(channel))
    workers = [await master.create_worker(tasks, work, auto_delete=False) for master in masters[:2]]
    for number in range(10):
        await masters[2].create_task(tasks, {"number": number})
    async with asyncio.timeout(expect.SECONDS):
        await is_done.wait()
    for worker in workers:
        await worker.close()
    assert sorted(done) == [number for number in range(10) if number != 4]
    queue = await masters[2].channel.declare_queue(tasks, passive=True)
    assert queue.declaration_result.message_count == 0
