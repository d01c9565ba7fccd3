"""The fixtures that dramatiq's tests of RabbitMQ ask for and its package does not ship."""

import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from . import common


@pytest.fixture
def rabbitmq_broker():
    broker = RabbitmqBroker(host="127.0.0.1", credentials=common.RABBITMQ_CREDENTIALS, max_priority=10)
    broker.emit_after("process_boot")
    dramatiq.set_broker(broker)
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def rabbitmq_worker(rabbitmq_broker):
    with common.worker(rabbitmq_broker, worker_threads=32) as one:
        yield one
