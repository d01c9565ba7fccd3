"""What the services of the shop share: their queues, and a connection."""

import os
import signal
import sys

import pika

ORDERS = "shop.orders"  # queue: orders that wait for payment
PAYMENTS = "shop.payments"  # fanout exchange: everyone may hear that an order is paid
EMAILS = "shop.emails"  # queue: the e-mail service's own copy of it
STOCK = "shop.stock"  # queue: questions to the stock service
PERSISTENT = pika.DeliveryMode.Persistent


def connect():
    """A channel with publisher confirms: when `basic_publish` returns, the broker has the message on disk."""
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.confirm_delivery()
    return channel


def declare(channel):
    """Any service may be the first to start, so each declares all of it; declaring again is free."""
    channel.queue_declare(ORDERS, durable=True)
    channel.exchange_declare(PAYMENTS, "fanout", durable=True)
    channel.queue_declare(EMAILS, durable=True)
    channel.queue_bind(EMAILS, PAYMENTS)
    channel.queue_declare(STOCK)


def remove(channel):
    channel.exchange_delete(PAYMENTS)
    for queue in [ORDERS, EMAILS, STOCK]:
        channel.queue_delete(queue)


def serve(channel):
    """Consumes until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say("ready")
    channel.start_consuming()


def say(*words):
    print(*words, flush=True)
