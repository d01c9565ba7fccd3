"""What a broker may answer. Where RabbitMQ's releases differ, every accepted answer stands here."""

import os
import time
from urllib.parse import urlsplit, urlunsplit

import pytest

SECONDS = 10

# RabbitMQ 3.10 closes the connection with 503, 4.x the channel with 406.
UNKNOWN_EXCHANGE_TYPE = {406, 503}
# RabbitMQ 3.10 refuses if-unused and if-empty with 406 and answers like this:
IN_USE = "in use"
NOT_EMPTY = "not empty"


def is_old_rabbitmq(server_properties):
    """Before 4.0 RabbitMQ dropped some connections without a close and let some nonsense pass."""
    text = {key: value.decode() if isinstance(value, bytes) else value for key, value in server_properties.items()}
    return text["product"] == "RabbitMQ" and int(text["version"].split(".")[0]) < 4


def closed(error, codes, text=""):
    """The error is a close with one of these codes and has this in its text."""
    codes = codes if isinstance(codes, set) else {codes}
    assert error.reply_code in codes, f"{error!r}: expected {codes}"
    assert text in error.reply_text, f"{error!r}: expected {text!r}"


def eventually(holds, seconds=SECONDS):
    """Asks the broker again until it is so. Each question is a round trip: there is no pause to tune."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not become true within {seconds} s"


def url_with(url, user=None, password=None, vhost=None):
    """The same broker for another user or vhost (already percent-encoded)."""
    parts = urlsplit(url)
    user, password = user or parts.username or "guest", password or parts.password or "guest"
    path = parts.path if vhost is None else f"/{vhost}"
    netloc = f"{user}:{password}@{parts.hostname}:{parts.port or 5672}"
    return urlunsplit((parts.scheme, netloc, path, parts.query, ""))
