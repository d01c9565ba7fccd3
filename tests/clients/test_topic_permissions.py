"""Which keys of a topic exchange a user may use: `topical` has topic permissions for amq.topic in definitions.json."""

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker

import expect

REFUSED = "access to topic '{}' in exchange 'amq.topic' in vhost '/' refused for user 'topical'"


@pytest.fixture
def topical(connect):
    channel = connect("topical", "topical").channel()
    channel.confirm_delivery()
    return channel


def test_keys_that_may_be_used(topical):
    queue = topical.queue_declare("", exclusive=True).method.queue
    for key in ["topical.#", "public.news"]:
        topical.queue_bind(queue, "amq.topic", key)
        topical.queue_unbind(queue, "amq.topic", key)
    topical.queue_bind(queue, "amq.topic", "topical.#")
    topical.basic_publish("amq.topic", "topical.news", b"x", mandatory=True)
    assert topical.basic_get(queue, auto_ack=True)[2] == b"x"


@pytest.mark.parametrize("key", ["public.news", "other", "topical", ""])
def test_keys_that_may_not_be_published(topical, key):
    with pytest.raises(ChannelClosedByBroker) as error:
        topical.basic_publish("amq.topic", key, b"x")
    expect.closed(error.value, 403, REFUSED.format(key))


@pytest.mark.parametrize("key", ["#", "other.news"])
def test_keys_that_may_not_be_bound(topical, key):
    queue = topical.queue_declare("", exclusive=True).method.queue
    with pytest.raises(ChannelClosedByBroker) as error:
        topical.queue_bind(queue, "amq.topic", key)
    expect.closed(error.value, 403, REFUSED.format(key))


def test_exchanges_are_bound_under_the_same_rules(topical, connect, name):
    destination = name()
    connect().channel().exchange_declare(destination, "fanout")
    topical.exchange_bind(destination, "amq.topic", "public.#")
    topical.exchange_unbind(destination, "amq.topic", "public.#")
    with pytest.raises(ChannelClosedByBroker) as error:
        topical.exchange_bind(destination, "amq.topic", "#")
    expect.closed(error.value, 403, REFUSED.format("#"))


def test_other_exchanges_and_other_users_are_free(topical, channel, name):
    source = name()
    channel.exchange_declare(source, "topic")
    topical.basic_publish(source, "anything", b"x")
    topical.basic_publish("amq.direct", "anything", b"x", BasicProperties())
    channel.basic_publish("amq.topic", "anything", b"x")
