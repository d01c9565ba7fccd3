"""What is measured: rows of work, and what each server is asked to do for them."""

import dataclasses

# Everywhere: durable queues, so that RabbitMQ's are the classic durable ones. Acks are for 250 messages at once.
ACKS = "--ack 250 --prefetch 1000"
DURABLE = f"--persistent --confirm 1000 {ACKS}"
JETSTREAM = f"--jetstream --confirm 1000 {ACKS}"


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    title: str
    # Options of the load generator for each peer that is measured; "disk" is the bare disk, "bare" a bare program,
    # "stuck" is Leveret beside a consumer that never reads.
    work: dict
    quick: bool = False
    # What the figure is: messages "consumed" or "published" per second, or "latency".
    figure: str = "consumed"


def amqp(options, **others):
    return {"leveret": options, "rabbitmq": options, **others}


def transient(name, size, title):
    options = f"--durable --size {size}"
    return Row(name, f"{title}, transient, no acks", amqp(options, nats=f"--size {size}"), quick=size < 2000)


def durable(name, size, title):
    options = f"{DURABLE} --size {size}"
    work = amqp(options, jetstream=f"{JETSTREAM} --size {size}", bare=options, disk=f"--size {size}")
    return Row(name, f"{title}, durable, confirms (window 1,000), acks", work, quick=size < 2000)


def latency(name, rate):
    options = f"--size 1024 --rate {rate} --confirm 10000 {ACKS}"
    work = amqp(
        f"{options} --persistent",
        nats=f"--size 1024 --rate {rate}",
        jetstream=f"{options} --jetstream",
        disk=f"--size 1024 --rate {rate}",
    )
    return Row(name, f"1 KB at {rate:,}/s, durable, confirms, acks", work, figure="latency")


ROWS = [
    Row(
        "pub16",
        "16 B, publish only",
        amqp(
            "--durable --publish-only",
            nats="--publish-only",
            jetstream="--jetstream --publish-only --confirm 1000",
        ),
        figure="published",
    ),
    transient("e2e16", 16, "16 B"),
    transient("e2e1k", 1024, "1 KB"),
    transient("e2e16k", 16384, "16 KB"),
    Row(
        "sub16ack",
        "16 B, consume only, acks",
        {
            "leveret": f"--durable --consume-only --prefill 3000000 {ACKS}",
            "rabbitmq": f"--durable --consume-only --prefill 200000 {ACKS}",
            "jetstream": f"--jetstream --consume-only --prefill 1000000 {ACKS}",
        },
    ),
    durable("dur16", 16, "16 B"),
    durable("dur1k", 1024, "1 KB"),
    durable("dur16k", 16384, "16 KB"),
    Row(
        "dur16w10k",
        "16 B, durable, confirms (window 10,000), acks",
        amqp(
            f"--persistent --confirm 10000 {ACKS}",
            jetstream=f"--jetstream --confirm 10000 {ACKS}",
            bare=f"--persistent --confirm 10000 {ACKS}",
            disk="--size 16 --window 10000",
        ),
    ),
    latency("lat5k", 5000),
    latency("lat20k", 20000),
    Row(
        "fan100",
        "1 KB, one to 100 queues on 10 connections, durable, confirms (window 100), acks; deliveries",
        amqp(
            f"--persistent --confirm 100 {ACKS} --size 1024 --fanout 100 --consumers 10",
            nats="--size 1024 --fanout 100 --consumers 10",
        ),
    ),
    Row(
        "two16",
        "16 B, two producers, two consumers, four queues, transient, no acks",
        amqp("--durable --producers 2 --consumers 2 --queues 4", nats="--producers 2 --consumers 2 --queues 4"),
    ),
    Row(
        "stream1k3",
        "1 KB, a stream, one producer, confirms (window 1,000), three readers, acks; deliveries",
        amqp(f"--stream --confirm 1000 {ACKS} --size 1024 --consumers 3"),
        quick=True,
    ),
    Row(
        "stuck1k",
        "1 KB, transient, no acks, alone and beside a consumer of another queue that never reads",
        {"leveret": "--durable --size 1024", "stuck": "--durable --size 1024"},
    ),
]
