"""Celery as its users run it: worker processes, 1,000 tasks, results by rpc:// and, for a chord, in files."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

HERE = pathlib.Path(__file__).parent
SECONDS = 30


@pytest.fixture(scope="module")
def app(url):
    os.environ["AMQP_URL"] = url
    os.environ["CELERY_QUEUE"] = f"celery-{os.getpid()}"
    from celery_app import app

    return app


def node_name(queue):
    """Fresh for each run: two workers of one name would wait for each other."""
    return f"{queue}@localhost"


@contextlib.contextmanager
def working(app, queue, concurrency, **environment):
    """A worker with a queue of its own."""
    options = ["--concurrency", str(concurrency), "--loglevel", "INFO", "--hostname", node_name(queue)]
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", *options]
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env={**os.environ, "CELERY_QUEUE": queue, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
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
        connection.default_channel.queue_delete(queue)
        connection.default_channel.exchange_delete(queue)


@pytest.fixture(scope="module")
def worker(app):
    with working(app, app.conf.task_default_queue, 2) as process:
        yield process


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
    node = node_name(app.conf.task_default_queue)
    assert app.control.ping(destination=[node], timeout=SECONDS, limit=1) == [{node: {"ok": "pong"}}]


def test_a_task_waits_for_its_time_and_lets_others_pass(worker):
    from celery_app import now

    eta = datetime.now(UTC) + timedelta(seconds=1.5)
    waiting = [now.apply_async(countdown=1), now.apply_async(eta=eta)]
    sent, ran = time.time(), now.delay().get(timeout=SECONDS)
    by_countdown, by_eta = (result.get(timeout=SECONDS) for result in waiting)
    assert ran < by_countdown < by_eta
    assert by_countdown >= sent + 0.9 and by_eta >= eta.timestamp()


def test_urgent_tasks_come_first(app):
    from celery_app import now

    queue = f"{app.conf.task_default_queue}-urgent"
    results = [now.apply_async(queue=queue, priority=priority) for priority in (0, 9, 5)]
    with working(app, queue, 1):
        low, high, middle = (result.get(timeout=SECONDS) for result in results)
    assert high < middle < low


CHORD = """
from celery import chord
from celery_app import add, total
print(chord(add.s(number, number) for number in range(20))(total.s()).get(timeout=30))
"""


def test_a_chord_runs_its_last_task_when_all_others_are_done(app, tmp_path):
    """The task that looks for the end is sent again and again with a countdown. Results by rpc:// have no chords."""
    queue, backend = f"{app.conf.task_default_queue}-chord", f"file://{tmp_path}"
    with working(app, queue, 2, CELERY_BACKEND=backend):
        client = {**os.environ, "CELERY_QUEUE": queue, "CELERY_BACKEND": backend}
        said = subprocess.check_output([sys.executable, "-c", CHORD], cwd=HERE, env=client, text=True)
    assert said == "380\n"
