"""Runs the tests that docs/compatibility.md names, against Leveret and, with RABBIT=1, against RabbitMQ: `make compat`.
What must hold: all pass against Leveret, and what has another outcome against RabbitMQ stands in
rabbitmq-differences.toml with the reason. Arguments: some of the files."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import tomllib

import broker
from outcomes import FAILED, from_junit, summary

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
DEFINITIONS = HERE / "definitions.json"
DIFFERENCES = HERE / "rabbitmq-differences.toml"
LOGS = ROOT / ".tools" / "compat"
PLUGINS = [
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_random_exchange",
    "rabbitmq_recent_history_exchange",
    "rabbitmq_sharding",
]

sys.path.append(str(ROOT / "bench"))
import servers  # noqa: E402


def main():
    named = sorted(set(re.findall(r"`(test_\w+\.py)", (ROOT / "docs" / "compatibility.md").read_text())))
    files = sys.argv[1:] or named
    if unknown := set(files) - set(named):
        sys.exit(f"compat: {', '.join(unknown)}: expected some of {' '.join(named)}")
    here = outcomes(leveret, files)
    problems = [f"{name} fails against Leveret" for name, outcome in here.items() if outcome == FAILED]
    if os.environ.get("RABBIT"):
        problems += compare(files, here, outcomes(rabbitmq, files))
    print("\n".join(["", *problems, f"compat: {len(problems)} tests are not as they must be"]))
    return 1 if problems else 0


@contextlib.contextmanager
def leveret():
    """Yields what the tests must know."""
    binary = os.environ["LEVERET_BIN"]
    with broker.running(binary, ["--definitions", str(DEFINITIONS), "--log", "error"]) as url:
        yield {"AMQP_URL": url, "LEVERET_BIN": binary}


@contextlib.contextmanager
def rabbitmq():
    configuration = f"load_definitions = {DEFINITIONS}\n"
    with (
        tempfile.TemporaryDirectory(prefix="compat-") as directory,
        servers.rabbitmq(pathlib.Path(directory), configuration=configuration, plugins=PLUGINS) as server,
    ):
        yield {"AMQP_URL": f"amqp://guest:guest@{server.address}/"}


def outcomes(start, files):
    """What came of each test against one broker."""
    LOGS.mkdir(parents=True, exist_ok=True)
    began, log, junit = time.monotonic(), LOGS / f"{start.__name__}.log", LOGS / f"{start.__name__}.xml"
    junit.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-c", HERE / "pytest.ini", "--rootdir", HERE, "--junitxml", junit]
    inherited = {key: value for key, value in os.environ.items() if key not in {"AMQP_URL", "LEVERET_BIN"}}
    with start() as environment, open(log, "w") as output:
        subprocess.run(
            [*map(str, command), *(str(HERE / file) for file in files)],
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    found = from_junit(junit)
    if not found:
        sys.exit(f"compat: no test ran, see {log}")
    print(f"compat: {start.__name__}: {summary(found)} in {time.monotonic() - began:.0f} s, see {log}", flush=True)
    return found


def compare(files, here, there):
    """Prints what differs and why; yields what differs and nobody has said why, and what is said and does not."""
    differing = {}
    for name in sorted(here.keys() | there.keys()):
        outcome = here.get(name, "missing"), there.get(name, "missing")
        if outcome[0] != outcome[1]:
            differing[name] = "{} against Leveret, {} against RabbitMQ".format(*outcome)
    explained = set()
    for difference in tomllib.loads(DIFFERENCES.read_text())["difference"]:
        tests = [test for test in difference["tests"] if file_of(test) in files]
        if tests:
            print(f"\n{difference['why']}")
        for test in tests:
            names = [name for name in differing if test in (name, name.split("[")[0], name.split("::")[0])]
            explained.update(names)
            yield from [] if names else [f"{test} is explained in {DIFFERENCES.name}, and there is no difference"]
            print("\n".join(f"    {name}: {differing[name]}" for name in names))
    yield from (f"{name}: {outcome}" for name, outcome in differing.items() if name not in explained)


def file_of(test):
    """Of `test_wire.TestFrames::test_wrong_end`."""
    return re.split(r"\.|::", test)[0] + ".py"


if __name__ == "__main__":
    sys.exit(main())
