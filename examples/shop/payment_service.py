"""Takes orders when it can, slowly, and tells everyone when one is paid.

An order is acked only after its payment is known to the broker. If this process dies in between, the order
comes back and `LEDGER` tells that the card was charged already: delivered at least once, charged once.

usage: payment_service.py LEDGER
"""

import pathlib
import sys
import time

from pika import BasicProperties

import shop

CARD_SECONDS = 0.005  # how long the card network takes

ledger = pathlib.Path(sys.argv[1])
ledger.touch()
charged = set(ledger.read_text().split())


def charge(order):
    if order in charged:
        return
    time.sleep(CARD_SECONDS)
    charged.add(order)
    with ledger.open("a") as lines:
        lines.write(f"{order}\n")


def pay(channel, method, order, _product):
    charge(order.message_id)
    paid = BasicProperties(message_id=order.message_id, delivery_mode=shop.PERSISTENT)
    channel.basic_publish(shop.PAYMENTS, "", b"paid", paid)
    channel.basic_ack(method.delivery_tag)
    shop.say("paid", order.message_id, "again" if method.redelivered else "")


channel = shop.connect()
shop.declare(channel)
channel.basic_qos(prefetch_count=10)
channel.basic_consume(shop.ORDERS, pay)
shop.serve(channel)
