"""Thanks for each payment, once: a payment that is announced twice is recognised by its id."""

import shop

thanked = set()


def thank(channel, method, payment, _body):
    if payment.message_id not in thanked:
        thanked.add(payment.message_id)
        shop.say("mailed", payment.message_id)
    channel.basic_ack(method.delivery_tag)


channel = shop.connect()
shop.declare(channel)
channel.basic_consume(shop.EMAILS, thank)
shop.serve(channel)
