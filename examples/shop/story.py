"""Runs the shop: kills the payment service in the middle, starts it again, and counts what became of the orders.

usage: story.py [ORDERS]
"""

import collections
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time

import shop

HERE = pathlib.Path(__file__).parent
ORDERS_DEFAULT = 300
QUIET_SECONDS = 20  # give up when no service says anything for so long


class Shop:
    """The running services and what they said, one event a line."""

    def __init__(self, ledger):
        self.ledger, self.events, self.services = ledger, queue.Queue(), {}
        self.payment_is_down = False
        self.orders = collections.defaultdict(set)  # "placed", "paid", "mailed" → orders
        self.latencies_ms, self.latencies_down_ms, self.paid_again = [], [], 0

    def start(self, service, *arguments):
        command = [sys.executable, HERE / f"{service}_service.py", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.services[service] = process
        threading.Thread(target=self.listen, args=[service, process], daemon=True).start()
        self.until(lambda event: event == (service, "ready"))

    def listen(self, service, process):
        for line in process.stdout:
            self.events.put((service, *line.split()))

    def kill(self, service):
        self.services[service].send_signal(signal.SIGKILL)
        self.services.pop(service).wait()

    def stop(self):
        for process in self.services.values():
            process.terminate()
            process.wait()

    def until(self, is_it):
        """Notes what the services say until it is what we wait for."""
        while True:
            event = self.events.get(timeout=QUIET_SECONDS)
            self.note(*event)
            if is_it(event):
                return

    def note(self, _service, what, order=None, *details):
        if order:
            self.orders[what].add(order)
        if what == "paid" and "again" in details:
            self.paid_again += 1
        if what == "placed":
            self.latencies_ms.append(float(details[0]))
            if self.payment_is_down:
                self.latencies_down_ms.append(float(details[0]))
                if len(self.latencies_down_ms) % 25 == 1:
                    tell(f"payment is down; {order} was placed in {details[0]} ms all the same")

    def count(self, what):
        return len(self.orders[what])


def tell(text):
    print(f"shop: {text}", flush=True)


def act(running, count):
    for service, arguments in [("stock", []), ("email", []), ("payment", [running.ledger]), ("order", [count])]:
        running.start(service, *arguments)
    tell(f"all four services run; {count} customers come")
    running.until(lambda _: running.count("placed") >= count // 3)
    running.kill("payment")
    running.payment_is_down = True
    tell(f"payment killed (SIGKILL) after {running.count('placed')} orders")
    running.until(lambda _: running.count("placed") >= 2 * count // 3)
    running.payment_is_down = False
    running.start("payment", running.ledger)
    tell(f"payment started again after {running.count('placed')} orders")
    running.until(lambda _: running.count("placed") >= count)
    running.until(lambda _: running.count("mailed") >= count)


def account(running, count):
    charged = collections.Counter(running.ledger.read_text().split())
    unpaid, twice = count - len(charged), sum(times > 1 for times in charged.values())
    median = sorted(running.latencies_ms)[len(running.latencies_ms) // 2] if running.latencies_ms else 0.0
    print(f"""
orders placed                     {running.count("placed")}
orders paid                       {len(charged)}
orders unpaid                     {unpaid}
orders charged twice              {twice}
orders delivered to payment again {running.paid_again}
e-mails                           {running.count("mailed")}
order latency                     {median:.1f} ms median, {max(running.latencies_ms, default=0):.1f} ms at most
  while payment was down          {max(running.latencies_down_ms, default=0):.1f} ms at most
""")
    return running.count("placed") == running.count("mailed") == count and unpaid == twice == 0


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ORDERS_DEFAULT
    channel = shop.connect()
    shop.remove(channel)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        running = Shop(pathlib.Path(directory) / "ledger")
        try:
            act(running, count)
        except queue.Empty:
            tell(f"no service has said anything for {QUIET_SECONDS} s")
        finally:
            running.stop()
        good = account(running, count)
    shop.remove(channel)
    channel.connection.close()
    tell(f"{'every order is paid' if good else 'SOMETHING IS MISSING'} ({time.monotonic() - started:.1f} s)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
