"""Places orders: asks for the stock, then publishes the order. It never waits for a payment.

usage: order_service.py COUNT
"""

import sys
import time

from pika import BasicProperties

import shop

PAUSE_SECONDS = 0.01  # between two customers
ANSWER_SECONDS = 5
PRODUCTS = [b"hat", b"scarf", b"glove"]


class Stock:
    """Asks the stock service, by direct reply-to: no reply queue needs to be declared."""

    def __init__(self, channel):
        self.channel, self.answers = channel, {}
        channel.basic_consume("amq.rabbitmq.reply-to", self.receive, auto_ack=True)

    def receive(self, _channel, _method, reply, left):
        self.answers[reply.correlation_id] = int(left)

    def left(self, question, product):
        properties = BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=question)
        self.channel.basic_publish("", shop.STOCK, product, properties, mandatory=True)
        deadline = time.monotonic() + ANSWER_SECONDS
        while question not in self.answers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the stock service did not answer within {ANSWER_SECONDS} s")
            self.channel.connection.process_data_events(time_limit=0.05)
        return self.answers.pop(question)


def place(channel, stock, number):
    """Returns when the order is safe with the broker, whatever the payment service is doing."""
    order, product = f"order-{number}", PRODUCTS[number % len(PRODUCTS)]
    if stock.left(order, product) == 0:
        return shop.say("refused", order)
    properties = BasicProperties(message_id=order, delivery_mode=shop.PERSISTENT)
    channel.basic_publish("", shop.ORDERS, product, properties, mandatory=True)


channel = shop.connect()
shop.declare(channel)
stock = Stock(channel)
shop.say("ready")
for number in range(int(sys.argv[1])):
    started = time.monotonic()
    place(channel, stock, number)
    milliseconds = (time.monotonic() - started) * 1000
    shop.say("placed", f"order-{number}", f"{milliseconds:.1f}", "ms")
    channel.connection.sleep(PAUSE_SECONDS)
channel.connection.close()
