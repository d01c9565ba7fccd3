"""Servers that are measured: each started on a free port of the loopback interface with a directory of its own."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

START_SECONDS = 60
STOP_SECONDS = 30
ROOT = pathlib.Path(__file__).parent.parent
RABBITMQ = pathlib.Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A process that listens on `address`; `pid` is the one whose processor time counts."""

    def __init__(self, command, directory, environment=None):
        directory.mkdir()
        with open(directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=directory,
            )
        self.output = directory / "output"
        self.pid = self.process.pid

    def wait_for(self, ready):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            if found := ready():
                return found
            time.sleep(0.02)
        raise RuntimeError(f"{self.process.args[0]} did not start:\n{self.output.read_text()[-2000:]}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def leveret(directory, binary):
    server = Server([binary, "serve", "--amqp", "127.0.0.1:0", "--data-dir", directory / "leveret" / "data"],
                    directory / "leveret")
    try:
        listening = re.compile(r"^leveret: listening for AMQP on (\S+)$", re.MULTILINE)
        match = server.wait_for(lambda: listening.search(server.output.read_text()))
        server.address = match[1]
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def rabbitmq(directory, port=None, configuration="", plugins=()):
    """Debian's RabbitMQ, with its defaults but for `configuration` and `plugins`; not by its service script, which wants its
    own user and paths.
    """
    home = directory / "rabbitmq"
    port, names_port = port or free_port(), free_port()
    written, enabled = directory / "rabbitmq.conf", directory / "plugins"
    written.write_text(configuration)
    enabled.write_text(f"[{','.join(plugins)}].")
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(names_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(written),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(enabled),
    }
    server = Server([RABBITMQ], home, environment)
    try:
        server.wait_for(lambda: "Starting broker... completed" in server.output.read_text() and accepts(port))
        server.address = f"127.0.0.1:{port}"
        server.pid = descendant(server.pid, "beam.smp")
        yield server
    finally:
        server.stop()
        subprocess.run(["epmd", "-port", str(names_port), "-kill"], env=environment, capture_output=True, check=False)


def descendant(pid, name):
    """The process of this name that a start script left running below `pid`."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, rest = stat.read_text().split(" (", 1)
            command, fields = rest.rsplit(") ", 1)
            children.setdefault(int(fields.split()[1]), []).append((int(number), command))
    below = [pid]
    while below:
        for child, command in children.get(below.pop(), []):
            if command == name:
                return child
            below.append(child)
    raise RuntimeError(f"there is no {name} below process {pid}")


@contextlib.contextmanager
def nats(directory):
    binary = pathlib.Path(sys.executable).parent / "nats-server"
    home, port = directory / "nats", free_port()
    server = Server([binary, "--addr", "127.0.0.1", "--port", port, "--jetstream", "--store_dir", home / "streams"], home)
    try:
        server.wait_for(lambda: accepts(port))
        server.address = f"127.0.0.1:{port}"
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def bare(directory, xtask):
    """The least program that syncs, confirms and delivers: see `xtask bare-broker --help`."""
    home = directory / "bare"
    server = Server([xtask, "bare-broker", "--listen", "127.0.0.1:0", "--directory", home], home)
    try:
        listening = re.compile(r"^bare-broker: listening for AMQP on (\S+)$", re.MULTILINE)
        match = server.wait_for(lambda: listening.search(server.output.read_text()))
        server.address = match[1]
        yield server
    finally:
        server.stop()


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def settle(pids, limit_seconds=15):
    """Waits until the servers have finished what the last run left them to do."""
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end:
        before = [cpu_seconds(pid) for pid in pids]
        time.sleep(0.25)
        if sum(cpu_seconds(pid) for pid in pids) - sum(before) <= 0.03:
            return


def version_of(binary, *arguments):
    said = subprocess.run([binary, *arguments], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def versions(leveret_binary):
    rabbit = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"], capture_output=True, text=True)
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    nats_binary = pathlib.Path(sys.executable).parent / "nats-server"
    return {
        "leveret": f"{version_of(leveret_binary, '--version')} ({commit.stdout.strip()}{' with changes' if changed else ''})",
        "rabbitmq": rabbit.stdout.strip() or "unknown",
        "nats": version_of(nats_binary, "--version"),
    }


@contextlib.contextmanager
def data_directory(parent):
    parent.mkdir(parents=True, exist_ok=True)
    directory = parent / f"bench-{os.getpid()}"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
