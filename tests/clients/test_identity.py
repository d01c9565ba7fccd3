"""What the broker says it is: some clients switch on the product and the version."""

import os

import pika
import pytest

import broker


def identity(url):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    properties = connection._impl.server_properties
    connection.close()
    return {key: properties[key] for key in ["product", "version"]}


def test_a_product_and_a_version(url):
    assert all(identity(url).values())


@pytest.mark.skipif("LEVERET_BIN" not in os.environ, reason="starts a broker of its own")
def test_identity_by_configuration():
    arguments = ["--compat-product", "RabbitMQ", "--compat-version", "3.10.8"]
    with broker.running(os.environ["LEVERET_BIN"], arguments) as url:
        assert identity(url) == {"product": "RabbitMQ", "version": "3.10.8"}
