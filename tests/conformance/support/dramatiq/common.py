"""What dramatiq's tests import and its package does not ship."""

import contextlib

import pika
import pytest
from dramatiq import Worker

RABBITMQ_USERNAME = RABBITMQ_PASSWORD = "guest"
RABBITMQ_CREDENTIALS = pika.credentials.PlainCredentials(RABBITMQ_USERNAME, RABBITMQ_PASSWORD)
skip_unless_rabbit_mq = pytest.mark.skipif(False, reason="there is a broker")


@contextlib.contextmanager
def worker(broker, **options):
    one = Worker(broker, **options)
    one.start()
    yield one
    one.stop()
