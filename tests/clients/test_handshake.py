"""What is agreed before and beside all work: versions, logins, limits of frames, heartbeats."""

import pytest
from pika import BasicProperties, frame, spec

import expect
from wire import CAPABILITIES, Closed, Wire, count


class TestTuning:
    @pytest.fixture
    def tuned(self, url):
        """A handshake up to tune-ok with these values, then connection.open."""

        def answer(**tuning):
            with Wire(url) as wire:
                wire.open(**tuning)
                return wire.call(spec.Channel.Open(), 1)

        return answer

    @pytest.mark.parametrize("frame_max", [4096, 8192, 131072])
    def test_frames(self, tuned, frame_max):
        assert isinstance(tuned(frame_max=frame_max), spec.Channel.OpenOk)

    @pytest.mark.parametrize("tuning", [{"channel_max": 0}, {"frame_max": 0}])
    def test_no_limit_where_the_server_has_one(self, url, tuning, old_rabbitmq):
        with Wire(url) as wire:
            wire.tune(**tuning)
            wire.send(spec.Connection.Open("/"))
            if old_rabbitmq:
                with pytest.raises((EOFError, ConnectionError)):
                    wire.receive()
            else:
                with pytest.raises(Closed) as error:
                    wire.receive()
                expect.closed(error.value, 530)

    def test_a_longer_heartbeat_than_offered(self, tuned):
        assert isinstance(tuned(heartbeat=600), spec.Channel.OpenOk)


class TestHandshake:
    @pytest.fixture
    def fresh(self, url):
        with Wire(url) as one:
            yield one

    def test_the_header_of_0_9(self, fresh):
        fresh.send_bytes(b"AMQP\x01\x01\x00\x09")
        assert isinstance(fresh.receive(), spec.Connection.Start)

    def test_amqplain(self, fresh):
        fresh.send_bytes(b"AMQP\x00\x00\x09\x01")
        assert b"AMQPLAIN" in fresh.receive().mechanisms.split()
        login = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest"
        properties = {"capabilities": CAPABILITIES}
        fresh.send(spec.Connection.StartOk(properties, "AMQPLAIN", login.decode("latin-1"), "en_US"))
        assert isinstance(fresh.receive(), spec.Connection.Tune)

    def test_a_plain_response_that_is_none(self, fresh, old_rabbitmq):
        fresh.send_bytes(b"AMQP\x00\x00\x09\x01")
        fresh.receive()
        fresh.send(spec.Connection.StartOk({"capabilities": CAPABILITIES}, "PLAIN", "guest", "en_US"))
        try:
            with pytest.raises(Closed) as error:
                fresh.receive()
            expect.closed(error.value, {403, 501, 502})
        except (EOFError, ConnectionError):
            assert old_rabbitmq

    def test_open_ok_says_nothing(self, fresh):
        fresh.tune()
        assert fresh.call(spec.Connection.Open("/")).known_hosts == ""

    def test_what_the_server_says_of_itself(self, fresh):
        fresh.send_bytes(b"AMQP\x00\x00\x09\x01")
        properties = fresh.receive().server_properties
        assert properties.keys() >= {"capabilities", "cluster_name", "copyright", "information", "platform", "product", "version"}

    def test_the_header_of_amqp_1_is_answered_with_a_header(self, fresh):
        fresh.send_bytes(b"AMQP\x03\x01\x00\x00")
        with pytest.raises((EOFError, ConnectionError)):
            while len(fresh.buffer) < 1000:
                fresh.receive_bytes()
        assert fresh.buffer[:4] == b"AMQP"


def test_a_frame_may_be_eight_bytes_too_long(url, name):
    """Some clients do not count the eight bytes around a payload."""
    fresh = name()
    with Wire(url) as wire:
        wire.open(frame_max=4096)
        wire.open_channel()
        wire.call(spec.Queue.Declare(queue=fresh), 1)
        wire.send(spec.Basic.Publish(routing_key=fresh), 1)
        wire.send_bytes(frame.Header(1, 4096, BasicProperties()).marshal() + frame.Body(1, b"x" * 4096).marshal())
        expect.eventually(lambda: count(wire, fresh) == 1)
        wire.send(spec.Basic.Publish(routing_key=fresh), 1)
        wire.send_bytes(frame.Header(1, 4097, BasicProperties()).marshal() + frame.Body(1, b"x" * 4097).marshal())
        with pytest.raises(Closed) as error:
            wire.receive()
        expect.closed(error.value, 501)


def test_traffic_counts_as_heartbeats(url):
    with Wire(url) as wire:
        wire.open(heartbeat=1)
        wire.open_channel()
        for _ in range(4):
            assert isinstance(wire.receive_frame(), frame.Heartbeat)
            wire.send(spec.Basic.Qos(), 1)
            assert isinstance(wire.receive(), spec.Basic.QosOk)
