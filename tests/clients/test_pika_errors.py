"""What is refused, with which code and text, and that another channel goes on."""

import pytest
from pika import BasicProperties, spec
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

import expect
from conftest import Inbox, until


def call_until_closed(connection, channel):
    """A close that answers no call shows at a later one."""
    until(connection, lambda: channel.basic_qos(prefetch_count=1) is not None)


@pytest.fixture
def refused(connection):
    """Calls with a fresh channel, expects the close, and uses another channel of the same connection."""

    def check(codes, text, act):
        channel = connection.channel()
        with pytest.raises(ChannelClosedByBroker) as error:
            act(channel)
            call_until_closed(connection, channel)
        expect.closed(error.value, codes, text)
        assert connection.channel().queue_declare("", exclusive=True)

    return check


def test_403_reserved_names(refused):
    refused(403, "ACCESS_REFUSED", lambda channel: channel.queue_declare("amq.mine"))
    refused(403, "ACCESS_REFUSED", lambda channel: channel.exchange_declare("amq.mine", "direct"))
    refused(403, "ACCESS_REFUSED", lambda channel: channel.exchange_delete("amq.direct"))


def test_403_default_exchange(refused, queue):
    refused(403, "ACCESS_REFUSED", lambda channel: channel.queue_bind(queue, "", "key"))
    refused(403, "ACCESS_REFUSED", lambda channel: channel.queue_unbind(queue, "", queue))
    refused(403, "ACCESS_REFUSED", lambda channel: channel.exchange_delete(""))
    refused(403, "ACCESS_REFUSED", lambda channel: channel.exchange_declare("", passive=True))


def test_403_internal_exchange(refused, channel, name):
    internal = name()
    channel.exchange_declare(internal, "fanout", internal=True)
    refused(403, f"'{internal}'", lambda channel: channel.basic_publish(internal, "", b"x"))


def test_404_queue(refused, name):
    missing = name()
    text = f"NOT_FOUND - no queue '{missing}' in vhost '/'"
    refused(404, text, lambda channel: channel.queue_declare(missing, passive=True))
    refused(404, text, lambda channel: channel.basic_get(missing))
    refused(404, text, lambda channel: Inbox(channel, missing))
    refused(404, text, lambda channel: channel.queue_purge(missing))
    refused(404, text, lambda channel: channel.queue_bind(missing, "amq.direct", "key"))
    refused(404, "NOT_FOUND", lambda channel: channel.basic_get(""))


def test_404_exchange(refused, queue, name):
    missing = name()
    text = f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
    refused(404, text, lambda channel: channel.exchange_declare(missing, passive=True))
    refused(404, text, lambda channel: channel.queue_bind(queue, missing, "key"))
    refused(404, text, lambda channel: channel.exchange_bind("amq.fanout", missing))
    refused(404, text, lambda channel: channel.basic_publish(missing, "key", b"x"))


def test_405_exclusive_queue_of_another_connection(refused, connect, name):
    locked = name()
    connect().channel().queue_declare(locked, exclusive=True)
    text = f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{locked}' in vhost '/'"
    refused(405, text, lambda channel: channel.queue_declare(locked, exclusive=True))
    refused(405, text, lambda channel: channel.queue_declare(locked, passive=True))
    refused(405, text, lambda channel: Inbox(channel, locked))
    refused(405, text, lambda channel: channel.basic_get(locked))
    refused(405, text, lambda channel: channel.queue_purge(locked))
    refused(405, text, lambda channel: channel.queue_bind(locked, "amq.direct", "key"))
    refused(405, text, lambda channel: channel.queue_delete(locked))


def test_406_declared_otherwise(refused, channel, name):
    fresh = name()
    channel.queue_declare(fresh, durable=True)
    channel.exchange_declare(fresh, "topic")
    refused(406, f"inequivalent arg 'durable' for queue '{fresh}' in vhost '/'", lambda c: c.queue_declare(fresh))
    refused(
        406,
        f"inequivalent arg 'auto_delete' for queue '{fresh}' in vhost '/'",
        lambda channel: channel.queue_declare(fresh, durable=True, auto_delete=True),
    )
    refused(
        406,
        f"inequivalent arg 'type' for exchange '{fresh}' in vhost '/'",
        lambda channel: channel.exchange_declare(fresh, "fanout"),
    )
    refused(
        406,
        f"inequivalent arg 'durable' for exchange '{fresh}' in vhost '/'",
        lambda channel: channel.exchange_declare(fresh, "topic", durable=True),
    )


@pytest.mark.parametrize("settle", ["basic_ack", "basic_nack", "basic_reject"])
def test_406_unknown_delivery_tag(refused, settle):
    refused(406, "unknown delivery tag 7", lambda channel: getattr(channel, settle)(7))


def test_406_acked_twice(refused, connection, queue):
    publisher = connection.channel()
    publisher.confirm_delivery()
    publisher.basic_publish("", queue, b"x")

    def twice(channel):
        method, _, _ = channel.basic_get(queue)
        channel.basic_ack(method.delivery_tag)
        channel.basic_ack(method.delivery_tag)

    refused(406, "unknown delivery tag 1", twice)


def test_406_confirms_and_transactions_exclude_each_other(refused):
    def confirm_then_tx(channel):
        channel.confirm_delivery()
        channel.tx_select()

    def tx_then_confirm(channel):
        channel.tx_select()
        channel.confirm_delivery()

    refused(406, "cannot switch from confirm to tx mode", confirm_then_tx)
    refused(406, "cannot switch from tx to confirm mode", tx_then_confirm)


def test_406_no_transaction(refused):
    refused(406, "channel is not transactional", lambda channel: channel.tx_commit())
    refused(406, "channel is not transactional", lambda channel: channel.tx_rollback())


def test_406_bad_properties(refused, queue):
    def publish(**properties):
        return lambda channel: channel.basic_publish("", queue, b"x", BasicProperties(**properties))

    refused(406, "invalid expiration", publish(expiration="soon"))
    refused(406, "user_id property set to 'other' but authenticated user was 'guest'", publish(user_id="other"))


def test_406_bad_headers_binding(refused, queue):
    arguments = {"x-match": "most"}
    refused(406, "x-match", lambda channel: channel.queue_bind(queue, "amq.headers", "", arguments))


def test_unknown_exchange_type(connect, name):
    connection = connect()
    with pytest.raises((ChannelClosedByBroker, ConnectionClosedByBroker)) as error:
        connection.channel().exchange_declare(name(), "x-nonsense")
    expect.closed(error.value, expect.UNKNOWN_EXCHANGE_TYPE, "x-nonsense")


def test_530_consumer_tag_used_twice(connect, queue):
    connection = connect()
    channel = connection.channel()
    Inbox(channel, queue, consumer_tag="mine")
    channel._impl._send_method(spec.Basic.Consume(queue=queue, consumer_tag="mine"))
    with pytest.raises(ConnectionClosedByBroker) as error:
        call_until_closed(connection, channel)
    expect.closed(error.value, 530, "NOT_ALLOWED")


def test_540_what_nobody_implements(connect, queue):
    def immediate(channel):
        publish = spec.Basic.Publish(routing_key=queue, immediate=True)
        channel._impl._send_method(publish, (BasicProperties(), b"x"))

    acts = [
        immediate,
        lambda channel: channel.basic_qos(prefetch_size=1),
        lambda channel: channel.basic_recover(requeue=False),
    ]
    for act in acts:
        connection = connect()
        with pytest.raises(ConnectionClosedByBroker) as error:
            channel = connection.channel()
            act(channel)
            call_until_closed(connection, channel)
        expect.closed(error.value, 540, "NOT_IMPLEMENTED")


def test_one_channels_error_leaves_the_others(connection, queue):
    consumer, wrong = connection.channel(), connection.channel()
    inbox = Inbox(consumer, queue)
    with pytest.raises(ChannelClosedByBroker):
        wrong.queue_declare("never-there", passive=True)
    connection.channel().basic_publish("", queue, b"still here")
    assert inbox.wait(1).bodies == [b"still here"]


def test_a_closed_channel_number_can_be_used_again(connection):
    channel = connection.channel(5)
    with pytest.raises(ChannelClosedByBroker):
        channel.queue_declare("never-there", passive=True)
    assert connection.channel(5).queue_declare("", exclusive=True)


def test_acks_for_a_channel_that_was_just_closed_do_no_harm(connection, queue):
    publisher = connection.channel()
    publisher.confirm_delivery()
    publisher.basic_publish("", queue, b"x")
    channel = connection.channel()
    method, _, _ = channel.basic_get(queue)
    channel._impl._send_method(spec.Basic.Publish(exchange="never-there"), (BasicProperties(), b"x"))
    channel._impl._send_method(spec.Basic.Ack(method.delivery_tag))
    channel._impl._send_method(spec.Basic.Ack(method.delivery_tag))
    with pytest.raises(ChannelClosedByBroker) as error:
        call_until_closed(connection, channel)
    expect.closed(error.value, 404)
    assert connection.channel().queue_declare(queue, passive=True)


class TestLimitedUser:
    """May only touch what is called limited-…"""

    @pytest.fixture
    def limited(self, connect):
        return connect("limited", "limited")

    @pytest.fixture
    def denied(self, limited):
        def check(resource, act):
            channel = limited.channel()
            with pytest.raises(ChannelClosedByBroker) as error:
                act(channel)
                call_until_closed(limited, channel)
            expect.closed(error.value, 403, "ACCESS_REFUSED - ")
            # Since 3.11 the permission stands before "access".
            expect.closed(error.value, 403, f"access to {resource}")
            expect.closed(error.value, 403, "in vhost '/' refused for user 'limited'")

        return check

    def test_may(self, limited, name):
        fresh = name("limited")
        channel = limited.channel()
        channel.confirm_delivery()
        channel.queue_declare(fresh)
        channel.exchange_declare(fresh, "fanout")
        channel.queue_bind(fresh, fresh)
        channel.basic_publish(fresh, "", b"x")
        assert channel.basic_get(fresh, auto_ack=True)[2] == b"x"
        channel.queue_purge(fresh)
        channel.queue_delete(fresh)

    def test_configure(self, denied, queue):
        denied(f"queue '{queue}'", lambda channel: channel.queue_declare(queue))
        denied(f"queue '{queue}'", lambda channel: channel.queue_delete(queue))
        denied(f"exchange '{queue}'", lambda channel: channel.exchange_declare(queue, "fanout"))
        denied("queue 'amq.gen-", lambda channel: channel.queue_declare("", exclusive=True))

    def test_write(self, denied, limited, queue, name):
        own = name("limited")
        limited.channel().queue_declare(own)
        denied("exchange 'amq.fanout'", lambda channel: channel.basic_publish("amq.fanout", "", b"x"))
        denied("exchange 'amq.default'", lambda channel: channel.basic_publish("", own, b"x"))
        denied(f"queue '{queue}'", lambda channel: channel.queue_bind(queue, "amq.fanout"))

    def test_places_that_messages_go_on_to(self, denied, limited, name):
        own = name("limited")
        limited.channel().exchange_declare(own, "fanout")
        target, new = "amq.fanout", name("limited")
        dead, unrouted = {"x-dead-letter-exchange": target}, {"alternate-exchange": target}
        refusals = [
            lambda channel: channel.queue_declare(new, arguments=dead),
            lambda channel: channel.exchange_declare(new, "fanout", arguments=unrouted),
            lambda channel: channel.exchange_bind(own, target),
            lambda channel: channel.exchange_bind(target, own),
        ]
        for refusal in refusals:
            denied(f"exchange '{target}'", refusal)

    def test_read(self, denied, limited, queue, name):
        own = name("limited")
        limited.channel().queue_declare(own)
        denied(f"queue '{queue}'", lambda channel: channel.basic_get(queue))
        denied(f"queue '{queue}'", lambda channel: Inbox(channel, queue))
        denied(f"queue '{queue}'", lambda channel: channel.queue_purge(queue))
        denied("exchange 'amq.fanout'", lambda channel: channel.queue_bind(own, "amq.fanout"))
