"""The broker under test: the one that AMQP_URL names, or one that is started from LEVERET_BIN."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).parent
LISTENING = re.compile(r"^leveret: listening for AMQP on (\S+)$")
START_SECONDS = 10
STOP_SECONDS = 15


@contextlib.contextmanager
def running(binary, arguments=(), listening=LISTENING, address="127.0.0.1:0"):
    """Runs `leveret serve` on a fresh data directory, and a free port unless `address` names one; yields its URL."""
    with process(binary, arguments, address) as serving:
        yield f"amqp://guest:guest@{listens_at(serving, listening)}/"


@contextlib.contextmanager
def process(binary, arguments=(), address="127.0.0.1:0"):
    """Runs `leveret serve` on a fresh data directory, and a free port unless `address` names one; yields its process."""
    with tempfile.TemporaryDirectory(prefix="leveret-clients-") as directory:
        command = [binary, "serve", "--amqp", address, "--data-dir", directory, *arguments]
        serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield serving
        finally:
            serving.send_signal(signal.SIGTERM)
            code = serving.wait(STOP_SECONDS)
        assert code == 0, f"the broker stopped with {code}"


class Survivor:
    """A broker of a test's own on a directory that stays, to be killed and started again."""

    def __init__(self, binary, directory):
        self.command = [binary, "serve", "--amqp", "127.0.0.1:0", "--data-dir", str(directory)]
        self.serving = None

    def start(self):
        """Starts it; its URL."""
        self.serving = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return f"amqp://guest:guest@{listens_at(self.serving, LISTENING)}/"

    def kill(self):
        """kill -9."""
        self.serving.kill()
        self.serving.wait(STOP_SECONDS)


def listens_at(process, listening):
    """The address that the broker prints when it accepts connections; its other lines pass through."""
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            match = listening.match(line.rstrip())
            if match:
                threading.Thread(target=pass_on, args=[process.stdout], daemon=True).start()
                return match[1]
            sys.stderr.write(line)
    finally:
        watchdog.cancel()
    raise RuntimeError(f"the broker did not say where it listens within {START_SECONDS} s")


def pass_on(lines):
    for line in lines:
        sys.stderr.write(line)


@contextlib.contextmanager
def under_test():
    url = os.environ.get("AMQP_URL")
    binary = os.environ.get("LEVERET_BIN")
    if url:
        yield url
    elif binary:
        with running(binary, ["--definitions", str(HERE / "definitions.json")]) as url:
            yield url
    else:
        raise RuntimeError("set AMQP_URL to a running broker or LEVERET_BIN to a leveret binary")


if __name__ == "__main__":
    # `python broker.py COMMAND…` runs a command with AMQP_URL set to the broker under test.
    with under_test() as broker_url:
        sys.exit(subprocess.call(sys.argv[1:], env={**os.environ, "AMQP_URL": broker_url}))
