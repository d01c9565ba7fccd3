"""Policies, limits and default types of queues, as definitions set them up."""

import json
import os
import signal
import subprocess

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, ProbableAccessDeniedError

import broker
import expect

own_broker = pytest.mark.skipif("LEVERET_BIN" not in os.environ, reason="starts a broker of its own")

# The names stand in definitions.json.
ALTERNATE = "unrouted-by-policy"
GUEST = {"name": "guest", "password": "guest", "tags": []}
PERMISSION = {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}


@pytest.fixture
def alternate(channel):
    """A queue that gets what the alternate exchange of the policy gets."""
    channel.exchange_declare(ALTERNATE, "fanout")
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, ALTERNATE)
    yield queue
    channel.connection.channel().exchange_delete(ALTERNATE)


def bodies(channel, queue):
    while (message := channel.basic_get(queue, auto_ack=True))[0]:
        yield message[2]


def test_an_alternate_exchange_by_policy(channel, alternate, name):
    channel.confirm_delivery()
    exchange, other = name("policed"), name("free")
    channel.exchange_declare(exchange, "direct")
    channel.exchange_declare(other, "direct")
    channel.basic_publish(exchange, "k", b"caught", mandatory=True)
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(other, "k", b"lost", mandatory=True)
    channel.queue_bind(alternate, exchange, "bound")
    channel.basic_publish(exchange, "bound", b"bound", mandatory=True)
    assert list(bodies(channel, alternate)) == [b"caught", b"bound"]


def test_an_argument_counts_more_than_a_policy(channel, alternate, name):
    channel.confirm_delivery()
    exchange, mine = name("policed"), name("mine")
    channel.exchange_declare(mine, "fanout")
    channel.exchange_declare(exchange, "direct", arguments={"alternate-exchange": mine})
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, mine)
    channel.basic_publish(exchange, "k", b"x", mandatory=True)
    assert list(bodies(channel, queue)) == [b"x"]
    assert list(bodies(channel, alternate)) == []


def refused(connect, *arguments, **options):
    with pytest.raises(ProbableAccessDeniedError) as error:
        connect(*arguments, **options)
    return str(error.value)


def test_a_user_has_so_many_connections(connect):
    first, _second = connect("few", "few"), connect("few", "few")
    text = "(530) \"NOT_ALLOWED - connection refused for user 'few': user connection limit (2) is reached\""
    assert text in refused(connect, "few", "few")
    first.close()
    expect.eventually(lambda: connects(connect, "few", "few"))


def connects(connect, *arguments, **options):
    try:
        return connect(*arguments, **options)
    except ProbableAccessDeniedError:
        return None


def test_a_user_has_so_many_channels(connect):
    first, second = connect("few", "few"), connect("few", "few")
    _channels = [first.channel(), first.channel(), second.channel()]
    with pytest.raises(ConnectionClosedByBroker) as error:
        first.channel()
    text = "number of channels opened for user 'few' has reached the maximum allowed user limit of (3)"
    expect.closed(error.value, 530, text)


def test_a_virtual_host_has_so_many_connections(connect):
    _open = [connect(vhost="small"), connect(vhost="small")]
    text = "(530) \"NOT_ALLOWED - access to vhost 'small' refused for user 'guest': connection limit (2) is reached\""
    assert text in refused(connect, vhost="small")


def test_a_virtual_host_has_so_many_queues(connect):
    connection = connect(vhost="small")
    channel = connection.channel()
    for queue in ["one", "two", "one"]:
        channel.queue_declare(queue, exclusive=True)
    with pytest.raises(ChannelClosedByBroker) as error:
        channel.queue_declare("three", exclusive=True)
    expect.closed(error.value, 406, "cannot declare queue 'three': queue limit in vhost 'small' (2) is reached")
    channel = connection.channel()
    channel.queue_delete("one")
    channel.queue_declare("three", exclusive=True)


def policy(definition, **fields):
    return {"vhost": "/", "name": "p", "pattern": "^amq.direct$", "apply-to": "all", "definition": definition, **fields}


def write(path, **fields):
    document = {"users": [GUEST], "vhosts": [{"name": "/"}], "permissions": [PERMISSION], **fields}
    path.write_text(json.dumps(document))
    return ["--definitions", str(path)]


@own_broker
def test_policies_for_queues_hold_at_once(tmp_path):
    path = tmp_path / "definitions.json"
    limited = {"pattern": "^q$", "apply-to": "queues"}
    arguments = write(path, policies=[policy({"max-length": 2, "dead-letter-exchange": "amq.fanout"}, **limited)])
    with broker.process(os.environ["LEVERET_BIN"], arguments) as serving:
        url = f"amqp://guest:guest@{broker.listens_at(serving, broker.LISTENING)}/"
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.queue_declare("q")
        channel.queue_declare("dead")
        channel.queue_bind("dead", "amq.fanout")

        def count(queue):
            return channel.queue_declare(queue, passive=True).method.message_count

        for body in [b"a", b"b", b"c", b"d"]:
            channel.basic_publish("", "q", body)
        expect.eventually(lambda: (count("q"), count("dead")) == (2, 2))
        operator = {"component": "operator_policy", "name": "o", "vhost": "/"}
        operator["value"] = {"pattern": "^q$", "apply-to": "queues", "definition": {"max-length": 1}}
        definitions = policy({"message-ttl": 3_600_000, "dead-letter-exchange": "amq.fanout"}, **limited)
        write(path, policies=[definitions], parameters=[operator])
        serving.send_signal(signal.SIGHUP)
        expect.eventually(lambda: (count("q"), count("dead")) == (1, 3))
        write(path, policies=[policy({"message-ttl": 1, "dead-letter-exchange": "amq.fanout"}, **limited)])
        serving.send_signal(signal.SIGHUP)
        expect.eventually(lambda: (count("q"), count("dead")) == (0, 4))
        assert list(bodies(channel, "dead")) == [b"a", b"b", b"c", b"d"]
        connection.close()


@own_broker
def test_a_policy_changes_on_sighup(tmp_path):
    path = tmp_path / "definitions.json"
    arguments = write(path, policies=[policy({"alternate-exchange": "amq.fanout"})])
    with broker.process(os.environ["LEVERET_BIN"], arguments) as serving:
        url = f"amqp://guest:guest@{broker.listens_at(serving, broker.LISTENING)}/"
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.confirm_delivery()
        queues = {exchange: channel.queue_declare("", exclusive=True).method.queue for exchange in ["amq.fanout", "amq.topic"]}
        for exchange, queue in queues.items():
            channel.queue_bind(queue, exchange, "#")

        def goes_to():
            channel.basic_publish("amq.direct", "k", b"x", mandatory=True)
            return [exchange for exchange, queue in queues.items() if list(bodies(channel, queue))]

        assert goes_to() == ["amq.fanout"]
        path.write_text("not JSON")
        serving.send_signal(signal.SIGHUP)
        assert goes_to() == ["amq.fanout"]
        write(path, policies=[policy({"alternate-exchange": "amq.topic"})])
        # Until the broker has read what makes no sense, the two signals may count as one: that is fine, too.
        serving.send_signal(signal.SIGHUP)
        expect.eventually(lambda: goes_to() == ["amq.topic"])
        connection.close()


@own_broker
def test_durable_queues_get_the_default_type(tmp_path):
    vhosts = [{"name": "/", "metadata": {"description": "", "tags": [], "default_queue_type": "quorum"}}]
    with broker.running(os.environ["LEVERET_BIN"], write(tmp_path / "definitions.json", vhosts=vhosts)) as url:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.queue_declare("plain", durable=True)
        channel.queue_declare("plain", durable=True)
        channel.queue_declare("plain", durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_declare("transient")
        channel.queue_declare("exclusive", exclusive=True)
        channel.queue_declare("auto-delete", durable=True, auto_delete=True)
        classic = {"x-queue-type": "classic"}
        for name, options in [("transient", {}), ("exclusive", {"exclusive": True}), ("auto-delete", {"durable": True, "auto_delete": True})]:
            channel.queue_declare(name, arguments=classic, **options)
        with pytest.raises(ChannelClosedByBroker) as error:
            channel.queue_declare("plain", durable=True, arguments=classic)
        expect.closed(error.value, 406, "inequivalent arg 'x-queue-type' for queue 'plain' in vhost '/'")
        connection.close()


@own_broker
@pytest.mark.parametrize(
    "fields, text",
    [
        ({"policies": [policy({"message-ttl": "soon"})]}, "policy 'p' in vhost '/': message-ttl is the string 'soon', expected an integer from 0 to"),
        ({"policies": [policy({"hats": 1})]}, "policy 'p' in vhost '/': key 'hats' is not known, expected one of message-ttl, "),
        ({"policies": [policy({"max-length": 1}, pattern="(")]}, "policy 'p' in vhost '/': regular expression '(' is invalid"),
        ({"policies": [policy({"max-length": 1}, **{"apply-to": "hats"})]}, "unknown variant `hats`, expected one of `all`, `queues`"),
        ({"vhosts": [{"name": "/", "default_queue_type": "sideways"}]}, "vhost '/': default_queue_type is 'sideways', expected classic, quorum or stream"),
        ({"users": [{**GUEST, "limits": {"max-channels": "x"}}]}, "limit 'max-channels' of user 'guest' is \"x\", expected an integer"),
    ],
)
def test_definitions_that_make_no_sense_stop_the_start(tmp_path, fields, text):
    arguments = write(tmp_path / "definitions.json", **fields)
    command = [os.environ["LEVERET_BIN"], "serve", "--amqp", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=expect.SECONDS)
    assert ended.returncode == 1 and text in ended.stderr, ended.stderr
