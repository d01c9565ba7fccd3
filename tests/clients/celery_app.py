"""The Celery application under test; the worker runs in a process of its own."""

import os
import time

from celery import Celery

app = Celery("celery_app", broker=os.environ["AMQP_URL"], backend=os.environ.get("CELERY_BACKEND", "rpc://"))
app.conf.update(
    task_default_queue=os.environ["CELERY_QUEUE"],
    broker_connection_retry_on_startup=False,
    result_expires=60,
    result_chord_retry_interval=0.1,
    task_acks_late=True,
    task_queue_max_priority=10,
    worker_prefetch_multiplier=4,
)


@app.task
def add(x, y):
    return x + y


@app.task(bind=True, autoretry_for=(ConnectionError,), max_retries=5, default_retry_delay=0)
def third_time_lucky(self):
    if self.request.retries < 2:
        raise ConnectionError("not yet")
    return self.request.retries


@app.task
def now():
    return time.time()


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def broken():
    raise ValueError("always")
