"""What no client library sends: handshakes, frames and sequences that are wrong, on a bare socket."""

import struct

import pytest
from pika import BasicProperties, frame, spec

import expect
from wire import HEADER, Closed, Wire


@pytest.fixture
def wire(url):
    with Wire(url) as one:
        yield one


def closed(wire, codes, of_connection=True):
    """The next method is this close; the broker still serves others."""
    with pytest.raises(Closed) as error:
        wire.receive()
    expect.closed(error.value, codes)
    assert error.value.of_connection == of_connection
    return error.value


def ended(wire):
    """The broker ends the connection without a word."""
    with pytest.raises((EOFError, ConnectionError)):
        while True:
            wire.receive_bytes()


def closed_or_dropped(wire, codes, old_rabbitmq):
    """A close with one of these codes, which old RabbitMQ does not send."""
    if old_rabbitmq:
        ended(wire)
    else:
        closed(wire, codes)


class TestHandshake:
    @pytest.mark.parametrize("header", [b"AMQP\x00\x00\x08\x00", b"AMQP\x00\x00\x09\x02", b"HELO\x00\x00\x09\x01"])
    def test_wrong_header_is_answered_with_a_header(self, wire, header):
        wire.send_bytes(header)
        ended(wire)
        # Garbage: RabbitMQ names AMQP 1.0, LavinMQ 0-9-1.
        assert wire.buffer in {HEADER, b"AMQP\x03\x01\x00\x00"}

    def test_start(self, wire):
        start = wire.start()
        assert (start.version_major, start.version_minor) == (0, 9)
        assert b"PLAIN" in start.mechanisms.split()
        assert b"en_US" in start.locales.split()
        assert start.server_properties["product"]
        capabilities = {key for key, value in start.server_properties["capabilities"].items() if value}
        assert capabilities >= {
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        }

    def test_tune_offer(self, wire):
        offer = wire.tune()
        assert (offer.channel_max, offer.frame_max, offer.heartbeat) == (2047, 131072, 60)

    def test_wrong_password(self, wire):
        wire.start(password="wrong")
        error = closed(wire, 403)
        assert error.reply_text == (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
            "For details see the broker logfile."
        )

    def test_wrong_password_without_the_capability(self, wire):
        wire.start(password="wrong", capabilities={})
        ended(wire)
        assert wire.buffer == b""

    def test_unknown_mechanism(self, wire, old_rabbitmq):
        wire.start(mechanism="CRAM-X")
        closed_or_dropped(wire, 503, old_rabbitmq)

    def test_unknown_vhost(self, wire):
        wire.tune()
        wire.send(spec.Connection.Open("nowhere"))
        assert "vhost nowhere not found" in closed(wire, 530).reply_text

    @pytest.mark.parametrize("tuning", [{"frame_max": 262144}, {"channel_max": 4000}, {"frame_max": 100}])
    def test_tune_beyond_the_offer(self, wire, tuning, old_rabbitmq):
        wire.tune(**tuning)
        closed_or_dropped(wire, 530, old_rabbitmq)

    def test_method_before_its_time(self, wire):
        wire.tune()
        wire.send(spec.Channel.Open(), 1)
        with pytest.raises((Closed, EOFError, ConnectionError)):
            wire.receive()

    def test_close_is_answered(self, wire):
        wire.open()
        assert isinstance(wire.call(spec.Connection.Close(200, "bye", 0, 0)), spec.Connection.CloseOk)


class TestHeartbeats:
    def test_the_broker_sends_them(self, wire):
        wire.open(heartbeat=1)
        assert isinstance(wire.receive_frame(), frame.Heartbeat)

    def test_a_silent_client_is_dropped(self, wire):
        wire.open(heartbeat=1)
        ended(wire)

    def test_on_a_channel(self, wire):
        wire.open()
        wire.send_bytes(struct.pack(">BHIB", 8, 1, 0, 0xCE))
        # RabbitMQ 3.10 lets it pass when the channel is not open.
        wire.send(spec.Channel.Open(), 1)
        try:
            assert isinstance(wire.receive(), spec.Channel.OpenOk)
        except Closed as error:
            expect.closed(error, {501, 504, 505})


class TestFrames:
    @pytest.fixture
    def opened(self, wire):
        wire.open()
        wire.open_channel()
        return wire

    def test_wrong_end(self, opened):
        opened.send_bytes(struct.pack(">BHIB", 1, 1, 0, 0xCD))
        closed(opened, 501)

    def test_unknown_type(self, opened):
        opened.send_bytes(struct.pack(">BHI4sB", 7, 1, 4, b"what", 0xCE))
        closed(opened, 501)

    def test_larger_than_agreed(self, opened):
        opened.send_bytes(struct.pack(">BHI", 1, 1, 2**31 - 1) + b"\0" * 1000)
        closed(opened, 501)

    def test_unknown_method(self, opened, old_rabbitmq):
        opened.send_bytes(struct.pack(">BHIHHB", 1, 1, 4, 60, 999, 0xCE))
        closed_or_dropped(opened, {501, 502, 503, 540}, old_rabbitmq)

    def test_truncated_method(self, opened):
        opened.send_bytes(struct.pack(">BHIHHB", 1, 1, 4, 50, 10, 0xCE))
        closed(opened, {501, 502})

    def test_bad_table(self, opened, old_rabbitmq):
        declare = struct.pack(">HHHB1sB", 50, 10, 0, 1, b"q", 0) + struct.pack(">I", 3) + b"\x01k?"
        opened.send_bytes(struct.pack(">BHI", 1, 1, len(declare)) + declare + b"\xce")
        closed_or_dropped(opened, {501, 502}, old_rabbitmq)

    def test_body_without_a_header(self, opened):
        opened.send(spec.Basic.Publish(routing_key="x"), 1)
        opened.send_bytes(frame.Body(1, b"x").marshal())
        closed(opened, 505)

    def test_method_instead_of_a_header(self, opened):
        opened.send(spec.Basic.Publish(routing_key="x"), 1)
        opened.send(spec.Basic.Qos(prefetch_count=1), 1)
        closed(opened, 505)

    def test_body_out_of_the_blue(self, opened):
        opened.send_bytes(frame.Body(1, b"x").marshal())
        closed(opened, 505)

    def test_header_of_another_class(self, opened):
        opened.send(spec.Basic.Publish(routing_key="x"), 1)
        header = struct.pack(">HHQH", 50, 0, 0, 0)
        opened.send_bytes(struct.pack(">BHI", 2, 1, len(header)) + header + b"\xce")
        closed(opened, 505)

    def test_body_longer_than_announced(self, opened, old_rabbitmq):
        opened.send(spec.Basic.Publish(routing_key="x"), 1)
        opened.send_bytes(frame.Header(1, 3, BasicProperties()).marshal() + frame.Body(1, b"long").marshal())
        if old_rabbitmq:
            opened.send(spec.Basic.Qos(prefetch_count=1), 1)
            closed(opened, 505)
        else:
            closed(opened, 501)

    def test_too_large_a_message_is_refused_at_its_header(self, opened, old_rabbitmq):
        opened.send(spec.Basic.Publish(routing_key="x"), 1)
        opened.send_bytes(frame.Header(1, 2**26, BasicProperties()).marshal())
        if old_rabbitmq:
            opened.send(spec.Basic.Qos(prefetch_count=1), 1)
            closed(opened, 505)
        else:
            closed(opened, 406, of_connection=False)

    def test_a_message_that_no_broker_takes(self, opened, old_rabbitmq):
        opened.send(spec.Basic.Publish(routing_key="x"), 1)
        opened.send_bytes(frame.Header(1, 2**40, BasicProperties()).marshal())
        if old_rabbitmq:
            opened.send(spec.Basic.Qos(prefetch_count=1), 1)
            closed(opened, 505)
        else:
            closed(opened, 501)

    def test_others_go_on(self, url, opened):
        opened.send_bytes(b"\xff" * 1000)
        closed(opened, 501)
        with Wire(url) as other:
            other.open()


class TestChannels:
    @pytest.fixture
    def opened(self, wire):
        wire.open()
        return wire

    def test_not_open(self, opened):
        opened.send(spec.Queue.Declare(queue="x"), 7)
        closed(opened, 504)

    def test_opened_twice(self, opened):
        opened.open_channel(3)
        opened.send(spec.Channel.Open(), 3)
        closed(opened, 504)

    def test_beyond_channel_max(self, url):
        with Wire(url) as wire:
            wire.open(channel_max=4)
            for number in range(1, 5):
                wire.open_channel(number)
            wire.send(spec.Channel.Open(), 5)
            closed(wire, {504, 530})

    def test_their_numbers_may_be_above_channel_max(self, url):
        with Wire(url) as wire:
            wire.open(channel_max=4)
            for number in (5, 65535):
                wire.open_channel(number)

    def test_all_of_them(self, opened):
        for number in range(1, 2048):
            opened.send(spec.Channel.Open(), number)
        for _ in range(1, 2048):
            assert isinstance(opened.receive(), spec.Channel.OpenOk)

    def test_soft_error_names_the_method_and_silences_the_channel(self, opened):
        channel = opened.open_channel()
        opened.send(spec.Queue.Declare(queue="never-there", passive=True), channel)
        opened.send(spec.Queue.Declare(queue="", exclusive=True), channel)
        error = closed(opened, 404, of_connection=False)
        assert (error.method.class_id, error.method.method_id) == (50, 10)
        opened.send(spec.Channel.CloseOk(), channel)
        assert isinstance(opened.call(spec.Channel.Open(), channel), spec.Channel.OpenOk)


def test_properties_and_headers_come_back_bit_by_bit(wire, name):
    """Every field type that RabbitMQ knows, encoded by hand, in one header."""
    fields = b"".join(
        bytes([len(key)]) + key + value
        for key, value in [
            (b"bool", b"t\x01"),
            (b"int8", b"b\xff"),
            (b"uint8", b"B\xff"),
            (b"int16", b"s\xff\xfe"),
            (b"uint16", b"u\xff\xfe"),
            (b"int32", b"I\xff\xff\xff\xfe"),
            (b"uint32", b"i\xff\xff\xff\xfe"),
            (b"int64", b"l" + b"\xff" * 8),
            (b"float", b"f\x3f\x80\x00\x00"),
            (b"double", b"d\x3f\xf0" + b"\0" * 6),
            (b"decimal", b"D\x02\x00\x00\x01\x00"),
            (b"string", b"S\x00\x00\x00\x02\xc3\xbc"),
            (b"bytes", b"x\x00\x00\x00\x02\x00\xff"),
            (b"time", b"T" + b"\x00" * 7 + b"\x01"),
            (b"void", b"V"),
            (b"array", b"A\x00\x00\x00\x03Vt\x00"),
            (b"table", b"F\x00\x00\x00\x03\x01kV"),
            (b"twice", b"V"),
            (b"twice", b"t\x00"),
        ]
    )
    table = struct.pack(">I", len(fields)) + fields
    # content-type, headers, delivery-mode
    header = struct.pack(">HHQH", 60, 0, 1, 0b1011 << 12) + b"\x03a/b" + table + b"\x02"
    fresh = name()
    wire.open()
    channel = wire.open_channel()
    wire.call(spec.Queue.Declare(queue=fresh, durable=True), channel)
    wire.call(spec.Confirm.Select(), channel)
    wire.send(spec.Basic.Publish(routing_key=fresh), channel)
    wire.send_bytes(struct.pack(">BHI", 2, channel, len(header)) + header + b"\xce")
    wire.send_bytes(frame.Body(channel, b"x").marshal())
    assert isinstance(wire.receive(), spec.Basic.Ack)
    assert isinstance(wire.call(spec.Basic.Get(queue=fresh, no_ack=True), channel), spec.Basic.GetOk)
    assert wire.receive_raw() == (2, channel, header)
    assert wire.receive_raw() == (3, channel, b"x")
