"""The suites: which tests of each package talk to a broker, and what is known of them.

Left out are tests of other servers (Redis, SQS, Kafka, …), of TLS with certificates that the packages do not ship, of
Django, and files that talk to no broker, but for those that come in one run with others.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Suite:
    name: str
    # For pytest or, for a crate, for `cargo test`.
    arguments: tuple[str, ...]
    # So many there are, with those that skip themselves: a suite that finds fewer has lost some.
    tests: int
    # Takes seconds, so that `make test` runs it.
    is_short: bool = False
    # The version of a crate; those of Python's packages are in requirements.txt.
    crate: str | None = None
    # Parts of the names of tests that fail against RabbitMQ 3.10, too, or race with themselves, and why.
    not_counted: dict[str, str] = dataclasses.field(default_factory=dict)


CELERY = [f"t/integration/test_{part}.py" for part in ("tasks", "canvas", "inspect", "worker", "beat", "serialization")]

SUITES = [
    Suite("amqp", ("t/integration", "-k", "not tls"), tests=48, is_short=True),
    Suite("kombu", ("t/integration/test_py_amqp.py",), tests=51, is_short=True),
    Suite("rabbitpy", ("tests",), tests=369, is_short=True),
    Suite(
        "aiormq",
        ("-p", "plugin", "tests", "-k", "not amqps and not ssl"),
        tests=561,
        not_counted={
            "test_closing_waiter_cancel": "two tasks of the client race for the reason of its close",
            "test_connection_close_during_publish_drain": "the same race",
        },
    ),
    Suite("dramatiq", ("--no-cov", "tests/test_rabbitmq.py"), tests=28),
    Suite(
        "celery",
        # The tests of replaced chains expect to fail after a minute without Redis.
        ("-p", "celery.contrib.pytest", *CELERY, "-k", "not django and not replaced_with_chain"),
        tests=333,
        not_counted={
            "test_tasks::test_retry": "it sees no state RETRY through rpc://",
            "test_replaced_task_nesting_level_0": "it forgets what it saw if the task arrives at once",
            "test_trace_log_arguments": "records of level INFO that nothing asks for",
        },
    ),
    # Its examples are run as tests as far as they end.
    Suite("lapin", ("--tests", "--examples", "--features", "smol"), crate="4.12.3", tests=38),
    Suite(
        "amqprs",
        ("--tests",),
        crate="2.1.5",
        tests=52,
        not_counted={"test_open_amqp_connection": "a mechanism for demonstrations, off by default"},
    ),
]
