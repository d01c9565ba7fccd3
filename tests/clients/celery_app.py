"""The Celery application under test; the worker runs in a process of its own."""

import os

from celery import Celery

app = Celery("celery_app", broker=os.environ["AMQP_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=os.environ["CELERY_QUEUE"],
    broker_connection_retry_on_startup=False,
    result_expires=60,
    task_acks_late=True,
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
def broken():
    raise ValueError("always")
