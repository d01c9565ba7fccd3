"""AMQP 0-9-1 on a bare socket, for what client libraries refuse to send. pika only encodes and decodes."""

import socket
import struct
from urllib.parse import unquote, urlsplit

from pika import BasicProperties, frame, spec

HEADER = b"AMQP\x00\x00\x09\x01"
CAPABILITIES = {"authentication_failure_close": True, "consumer_cancel_notify": True, "connection.blocked": True}


class Closed(Exception):
    """The broker closed the channel or the connection."""

    def __init__(self, method):
        super().__init__(method)
        self.method, self.reply_code, self.reply_text = method, method.reply_code, method.reply_text
        self.of_connection = isinstance(method, spec.Connection.Close)


class Wire:
    """One connection. `receive` raises `Closed` on a close and `EOFError` when the socket ends."""

    def __init__(self, url, seconds=10):
        self.url = urlsplit(url)
        self.socket = socket.create_connection((self.url.hostname, self.url.port or 5672), seconds)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send_bytes(self, data):
        self.socket.sendall(data)

    def send(self, method, channel=0):
        self.send_bytes(frame.Method(channel, method).marshal())

    def receive_bytes(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the broker closed the socket")
        self.buffer += data

    def receive_frame(self):
        """The next frame as pika shows it."""
        while True:
            used, value = frame.decode_frame(self.buffer) if self.buffer else (0, None)
            if value is not None:
                self.buffer = self.buffer[used:]
                return value
            self.receive_bytes()

    def receive(self):
        """The next method, heartbeats left out."""
        while True:
            value = self.receive_frame()
            if isinstance(value, frame.Method):
                if isinstance(value.method, (spec.Connection.Close, spec.Channel.Close)):
                    raise Closed(value.method)
                return value.method

    def receive_raw(self):
        """Type, channel and payload of the next frame, not decoded."""
        while len(self.buffer) < 7 or len(self.buffer) < 8 + struct.unpack(">I", self.buffer[3:7])[0]:
            self.receive_bytes()
        kind, channel, size = struct.unpack(">BHI", self.buffer[:7])
        payload, self.buffer = self.buffer[7 : 7 + size], self.buffer[8 + size :]
        return kind, channel, payload

    def call(self, method, channel=0):
        self.send(method, channel)
        return self.receive()

    def start(self, password=None, mechanism="PLAIN", capabilities=None):
        """Up to start-ok; the answer is the caller's to receive."""
        self.send_bytes(HEADER)
        start = self.receive()
        response = f"\0{unquote(self.url.username)}\0{password or unquote(self.url.password)}"
        properties = {"capabilities": CAPABILITIES if capabilities is None else capabilities}
        self.send(spec.Connection.StartOk(properties, mechanism, response, "en_US"))
        return start

    def tune(self, channel_max=None, frame_max=None, heartbeat=0, capabilities=None):
        """Up to tune-ok."""
        self.start(capabilities=capabilities)
        offer = self.receive()
        channel_max = offer.channel_max if channel_max is None else channel_max
        frame_max = offer.frame_max if frame_max is None else frame_max
        self.send(spec.Connection.TuneOk(channel_max, frame_max, heartbeat))
        return offer

    def open(self, vhost="/", **tuning):
        """All of the handshake."""
        offer = self.tune(**tuning)
        self.call(spec.Connection.Open(vhost))
        return offer

    def open_channel(self, channel=1):
        self.call(spec.Channel.Open(), channel)
        return channel


def publish(wire, routing_key, *bodies, exchange="", properties=None, **bits):
    for body in bodies:
        wire.send(spec.Basic.Publish(exchange=exchange, routing_key=routing_key, **bits), 1)
        header = frame.Header(1, len(body), properties or BasicProperties())
        wire.send_bytes(header.marshal() + (frame.Body(1, body).marshal() if body else b""))


def receive_content(wire):
    """Header and body of the method that was just received."""
    header, body = wire.receive_frame(), b""
    while len(body) < header.body_size:
        body += wire.receive_frame().fragment
    return header.properties, body


def count(wire, queue):
    return wire.call(spec.Queue.Declare(queue=queue, passive=True), 1).message_count


def get(wire, queue, no_ack=True):
    """The next message: method, properties, body; None if there is none."""
    method = wire.call(spec.Basic.Get(queue=queue, no_ack=no_ack), 1)
    return None if isinstance(method, spec.Basic.GetEmpty) else (method, *receive_content(wire))


def deliveries(wire, number):
    """So many deliveries: tag, consumer, body; in order."""
    found = []
    for _ in range(number):
        method = wire.receive()
        found.append((method.delivery_tag, method.consumer_tag, receive_content(wire)[1]))
    return found
