"""Connections through pika: logging in, tuning, many channels, closing."""

import pytest
from pika.exceptions import AMQPConnectionError

import expect


def refused(connect, code, text, *login, **settings):
    """pika wraps the close in the text of its own error."""
    with pytest.raises(AMQPConnectionError) as error:
        connect(*login, **settings)
    said = " ".join(map(str, error.value.args))
    assert str(code) in said and text in said, said


def test_wrong_password(connect):
    refused(connect, 403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", "guest", "wrong")


def test_unknown_user(connect):
    refused(connect, 403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", "nobody", "wrong")


def test_unknown_vhost(connect):
    refused(connect, 530, "vhost nowhere not found", vhost="nowhere")


def test_vhost_without_permission(connect):
    text = "access to vhost 'second' refused for user 'limited'"
    refused(connect, 530, text, "limited", "limited", vhost="second")


@pytest.mark.parametrize(("asked", "agreed"), [(7, 7), (0, 0), (600, 600)])
def test_heartbeat_is_what_the_client_wants(connect, asked, agreed):
    connection = connect(heartbeat=asked)
    assert connection._impl.params.heartbeat == agreed
    assert connection.channel().queue_declare("", exclusive=True)


def test_smaller_limits_than_offered(connect):
    connection = connect(channel_max=10, frame_max=8192)
    assert len([connection.channel() for _ in range(10)]) == 10


def test_many_channels(connection):
    channels = [connection.channel() for _ in range(200)]
    queues = [channel.queue_declare("", exclusive=True).method.queue for channel in channels]
    for number, channel in enumerate(channels):
        channel.basic_publish("", queues[number - 1], str(number).encode())
    for number, channel in enumerate(channels):
        channel.confirm_delivery()
        expect.eventually(lambda: channel.queue_declare(queues[number - 1], passive=True).method.message_count)  # noqa: B023
        assert channel.basic_get(queues[number - 1], auto_ack=True)[2] == str(number).encode()
    for channel in channels:
        channel.close()


def test_many_connections(connect):
    connections = [connect() for _ in range(30)]
    names = {connection.channel().queue_declare("", exclusive=True).method.queue for connection in connections}
    assert len(names) == 30


def test_channel_flow_active(connection):
    assert connection.channel().flow(True) is True


def test_client_properties_do_not_matter(connect):
    properties = {"connection_name": "ü" * 100, "nested": {"a": [1, None]}}
    assert connect(client_properties=properties).channel()


def test_update_secret(connection):
    channel = connection.channel()
    connection.update_secret("guest", "still the same")
    assert channel.queue_declare("", exclusive=True)
