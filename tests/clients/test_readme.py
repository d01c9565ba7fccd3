"""What the README shows to a newcomer works as it stands there."""

import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[2] / "README.md"
LOCAL = 'pika.ConnectionParameters("localhost")'


@pytest.fixture
def programs(url):
    """The Python of the README, with the broker under test in place of the default port."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert all(LOCAL in program for program in found)
    return [program.replace(LOCAL, f"pika.URLParameters({url!r})") for program in found]


def test_hello_world(programs, janitor):
    send, receive = programs
    assert "Sent" in subprocess.check_output([sys.executable, "-c", send], text=True)
    receiver = subprocess.Popen([sys.executable, "-c", receive], stdout=subprocess.PIPE, text=True)
    try:
        assert receiver.stdout.readline() == " [x] Received b'Hello World!'\n"
    finally:
        receiver.kill()
        receiver.wait()
        janitor.channel().queue_delete("hello")
