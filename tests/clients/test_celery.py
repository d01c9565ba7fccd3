"""Celery as its users run it: a worker process, 1,000 tasks, results by rpc://."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

HERE = pathlib.Path(__file__).parent
SECONDS = 30


@pytest.fixture(scope="module")
def app(url):
    os.environ["AMQP_URL"] = url
    os.environ["CELERY_QUEUE"] = f"celery-{os.getpid()}"
    from celery_app import app

    return app


def node_name(app):
    """Fresh for each run: two workers of one name would wait for each other."""
    return f"{app.conf.task_default_queue}@localhost"


@pytest.fixture(scope="module")
def worker(app):
    options = ["--concurrency", "2", "--loglevel", "INFO", "--hostname", node_name(app)]
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", *options]
    process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log, is_ready = [], threading.Event()

    def read():
        for line in process.stdout:
            log.append(line)
            if " ready." in line:
                is_ready.set()
        is_ready.set()

    threading.Thread(target=read, daemon=True).start()
    assert is_ready.wait(SECONDS) and process.poll() is None, "".join(log)
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0, "".join(log[-20:])
    with app.connection_for_write() as connection:
        connection.default_channel.queue_delete(app.conf.task_default_queue)
        connection.default_channel.exchange_delete(app.conf.task_default_queue)


@pytest.mark.timeout(60)
def test_a_thousand_tasks(app, worker):
    from celery import group
    from celery_app import add

    result = group(add.s(number, number) for number in range(1000)).apply_async()
    assert result.get(timeout=SECONDS) == [2 * number for number in range(1000)]


def test_retries(worker):
    from celery_app import third_time_lucky

    assert [r.get(timeout=SECONDS) for r in [third_time_lucky.delay() for _ in range(3)]] == [2, 2, 2]


def test_an_error_comes_back(worker):
    from celery_app import broken

    with pytest.raises(ValueError, match="always"):
        broken.delay().get(timeout=SECONDS)


def test_ping(app, worker):
    replies = app.control.ping(destination=[node_name(app)], timeout=SECONDS, limit=1)
    assert replies == [{node_name(app): {"ok": "pong"}}]
