"""AMQP over TLS through pika and Python's ssl, against a broker of its own with certificates made by openssl."""

import os
import pathlib
import re
import socket
import ssl
import subprocess
import tempfile

import pika
import pytest

import broker

pytestmark = pytest.mark.skipif("LEVERET_BIN" not in os.environ, reason="starts a broker of its own")

LISTENING = re.compile(r"^leveret: listening for AMQPS on (\S+)$")
CONFIGURED = '{"users": [{"name": "CN=ann,O=Hare", "tags": ""}], "permissions": [{"user": "CN=ann,O=Hare", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]}'


def openssl(directory, *arguments):
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def sign(directory, name, subject):
    request = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    openssl(directory, "req", *request, "-subj", subject, "-out", f"{name}.csr")
    pathlib.Path(directory, "names").write_text("subjectAltName=DNS:localhost")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2"]
    openssl(directory, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")


@pytest.fixture(scope="module")
def secure():
    """A directory with certificates, and the port where the broker speaks TLS."""
    with tempfile.TemporaryDirectory(prefix="leveret-tls-") as directory:
        authority = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key"]
        openssl(directory, "req", "-x509", *authority, "-subj", "/CN=authority", "-days", "2", "-out", "ca.pem")
        sign(directory, "server", "/CN=localhost")
        sign(directory, "ann", "/O=Hare/CN=ann")
        path = pathlib.Path(directory)
        definitions = path / "definitions.json"
        definitions.write_text(CONFIGURED)
        arguments = ["--amqps", "127.0.0.1:0", "--tls-certificate", path / "server.pem", "--tls-key", path / "server.key"]
        arguments += ["--tls-client-ca", path / "ca.pem", "--definitions", definitions]
        with broker.running(os.environ["LEVERET_BIN"], list(map(str, arguments)), LISTENING) as url:
            yield path, int(url.rstrip("/").rsplit(":", 1)[1])


def connect(secure, certificate=None, version=None):
    directory, port = secure
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    if version:
        context.minimum_version = context.maximum_version = version
    credentials = pika.PlainCredentials("guest", "guest")
    if certificate:
        context.load_cert_chain(directory / f"{certificate}.pem", directory / f"{certificate}.key")
        credentials = pika.credentials.ExternalCredentials()
    options = pika.SSLOptions(context, "localhost")
    parameters = pika.ConnectionParameters("127.0.0.1", port, credentials=credentials, ssl_options=options)
    return pika.BlockingConnection(parameters)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_through_tls(secure, version):
    connection = connect(secure, version=version)
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue
    bodies = [b"small", b"x" * 3_000_000, b"", b"y" * 100_000] * 3
    for body in bodies:
        channel.basic_publish("", queue, body, mandatory=True)
    taken = [channel.basic_get(queue, auto_ack=True)[2] for _ in bodies]
    assert taken == bodies
    connection.close()


def test_login_by_certificate(secure):
    connection = connect(secure, "ann")
    assert connection._impl.server_properties
    assert connection.channel().queue_declare("", exclusive=True)
    connection.close()


def test_old_versions_of_tls_are_refused(secure):
    directory, port = secure
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    # Or the client itself would not dare.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError) as error:
        context.wrap_socket(plain, server_hostname="localhost")
    assert "ALERT" in str(error.value), "the broker refuses, not the client"


def test_a_certificate_without_a_user_is_refused(secure):
    with pytest.raises(pika.exceptions.AMQPConnectionError) as error:
        connect(secure, "server")
    assert "403" in " ".join(map(str, error.value.args)), error.value
