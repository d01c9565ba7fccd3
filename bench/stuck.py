"""A consumer that never reads its socket, and a producer that goes on filling its queue."""

import contextlib
import socket
import struct
import threading

QUEUE = b"bench-stuck"
BODY = bytes(1024)
# Enough that both sockets are full before anything is measured.
BACKLOG = 16_000
# Messages after that, each time so many.
BATCH = 100
PERIOD_SECONDS = 0.1
ANSWER_SECONDS = 10


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel, class_id, method_id, arguments=b""):
    return frame(1, channel, struct.pack(">HH", class_id, method_id) + arguments)


def short(text):
    return bytes([len(text)]) + text


def long(text):
    return struct.pack(">I", len(text)) + text


HANDSHAKE = b"".join([
    b"AMQP\0\0\x09\x01",
    method(0, 10, 11, long(b"") + short(b"PLAIN") + long(b"\0guest\0guest") + short(b"en_US")),
    method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0)),
    method(0, 10, 40, short(b"/") + b"\0\0"),
    method(1, 20, 10, short(b"")),
])
AUTO_DELETE = b"\x08"
DECLARE = method(1, 50, 10, b"\0\0" + short(QUEUE) + AUTO_DELETE + long(b""))
NO_ACK = b"\x02"
CONSUME = method(1, 60, 20, b"\0\0" + short(QUEUE) + short(b"stuck") + NO_ACK + long(b""))
CONSUME_OK = struct.pack(">HH", 60, 21)
PUBLISH = b"".join([
    method(1, 60, 40, b"\0\0" + short(b"") + short(QUEUE) + b"\0"),
    frame(2, 1, struct.pack(">HHQH", 60, 0, len(BODY), 0)),
    frame(3, 1, BODY),
])


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), ANSWER_SECONDS)


def fill(address, stop):
    """Publishes until it is stopped."""
    with connect(address) as producer:
        producer.sendall(HANDSHAKE + PUBLISH * BACKLOG)
        while not stop.wait(PERIOD_SECONDS):
            producer.sendall(PUBLISH * BATCH)


@contextlib.contextmanager
def consumer(address):
    """While this goes on, a consumer's queue fills and the consumer does not read. The queue goes with it."""
    stop = threading.Event()
    with connect(address) as stuck:
        stuck.sendall(HANDSHAKE + DECLARE + CONSUME)
        heard = b""
        while CONSUME_OK not in heard:
            more = stuck.recv(4096)
            if not more:
                raise RuntimeError(f"the server refused the consumer that never reads: {heard[-200:]}")
            heard += more
        producer = threading.Thread(target=fill, args=(address, stop))
        producer.start()
        try:
            yield
        finally:
            stop.set()
            producer.join()
