"""The broker of aiormq's tests, which they start in a container; their package does not ship how."""

import os
from types import SimpleNamespace

import pytest
from yarl import URL


@pytest.fixture(scope="session")
def rabbitmq_container():
    """Port 5671 is of no use here: the tests with TLS are left out."""
    return SimpleNamespace(host="127.0.0.1", ports={"5672/tcp": 5672, "5671/tcp": 5671})


@pytest.fixture
def amqp_direct_url():
    return URL(os.environ["RABBITMQ_URL"])
