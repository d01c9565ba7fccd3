"""Runs the clients' own test suites: `conformance.py fetch|run [--short] [SUITE…]`. What holds: nothing that passes
against RabbitMQ fails against Leveret. With RABBIT=1 the first is found out as well, otherwise suites.py has it."""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import packages
from suites import SUITES

sys.path[:0] = [str(packages.ROOT / "tests" / "clients"), str(packages.ROOT / "bench")]
import broker  # noqa: E402
import servers  # noqa: E402
from outcomes import FAILED, PASSED, SKIPPED, count, from_junit, summary  # noqa: E402

ADDRESS = "127.0.0.1:5672"
DEFINITIONS = packages.HERE / "definitions.json"
# What RabbitMQ 3.10 takes; its later releases take 16 MiB, as Leveret does by default, and aiormq's tests send 20.
MESSAGE_SIZE_MAX = "128MiB"
SUITE_SECONDS = 1800
# Suites that run side by side: they mostly wait.
AT_ONCE = 2
OUTCOME = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (?:.*\b)?(ok|FAILED|ignored)", re.MULTILINE)
RUNNING = re.compile(r"^ *Running (?:unittests )?(\S+) \(", re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["fetch", "run"])
    parser.add_argument("--short", action="store_true", help="only suites that take seconds")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=" ".join(suite.name for suite in SUITES))
    chosen = parser.parse_args()
    names = chosen.suites or [suite.name for suite in SUITES if suite.is_short or not chosen.short]
    suites = [next(suite for suite in SUITES if suite.name == name) for name in names]
    if chosen.step == "fetch":
        for suite in suites:
            packages.fetch(suite)
        return 0
    brokers = {"RabbitMQ": rabbitmq} if os.environ.get("RABBIT") else {}
    brokers["Leveret"] = leveret
    results = {(name, suite.name): outcomes for name, start in brokers.items() for suite, outcomes in run(start, suites)}
    return report(suites, brokers, results)


@contextlib.contextmanager
def leveret():
    options = ["--definitions", str(DEFINITIONS), "--message-size-max", MESSAGE_SIZE_MAX, "--log", "error"]
    with broker.running(os.environ["LEVERET_BIN"], options, address=ADDRESS):
        yield


@contextlib.contextmanager
def rabbitmq():
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        with servers.rabbitmq(pathlib.Path(directory), 5672, f"load_definitions = {DEFINITIONS}\n"):
            yield


def run(start, suites):
    """Each suite with its tests' outcomes, all against one broker."""
    with (
        start(),
        tempfile.TemporaryDirectory(prefix="conformance-") as directory,
        concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        against = [(suite, start.__name__, pathlib.Path(directory, suite.name)) for suite in suites]
        return list(zip(suites, pool.map(lambda one: outcomes(*one), against), strict=True))


def outcomes(suite, against, junit):
    began, log = time.monotonic(), packages.TOOLS / f"{suite.name}-{against}.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            list(map(str, packages.command(suite, junit))),
            cwd=packages.directory(suite),
            env=packages.environment(suite),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(SUITE_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"conformance: {suite.name} took more than {SUITE_SECONDS} s", flush=True)
        finally:
            process.kill()
    found = from_libtest(log.read_text()) if suite.crate else from_junit(junit)
    seconds = time.monotonic() - began
    print(f"conformance: {suite.name} against {against}: {summary(found)} in {seconds:.0f} s, see {log}", flush=True)
    return found


def from_libtest(text):
    """`cargo test` names a file, then runs its tests: a test's name is unique only together with it."""
    found, words = {}, {"ok": PASSED, "FAILED": FAILED, "ignored": SKIPPED}
    _, *files = RUNNING.split(text)
    for file, lines in zip(files[::2], files[1::2]):
        found |= {f"{file}::{name}": words[outcome] for name, outcome in OUTCOME.findall(lines)}
    return found


def report(suites, brokers, results):
    """The table, then what each failure is; the exit code says whether there is one that must not be."""
    print(f"\n{'package':10}{'version':10}{'broker':10}{'passed':>8}{'failed':>8}{'skipped':>8}")
    for suite in suites:
        for name in brokers:
            numbers = "".join(f"{count(results[name, suite.name], one):8}" for one in (PASSED, FAILED, SKIPPED))
            print(f"{suite.name:10}{packages.version(suite):10}{name:10}{numbers}")
    problems = []
    for suite in suites:
        found = results["Leveret", suite.name]
        print_reasons(suite, found)
        problems += judged(suite, found, results.get(("RabbitMQ", suite.name)))
    print("\n".join(["", *problems, f"conformance: {len(problems)} tests are not as they must be"]))
    return 1 if problems else 0


def print_reasons(suite, found):
    """Of failures that are known."""
    for name in (name for name, outcome in found.items() if outcome == FAILED):
        if why := not_counted(suite, name):
            print(f"{suite.name}: {name} is not counted: {why}")


def judged(suite, found, baseline):
    """What must not be: that a test passes against RabbitMQ and not here."""
    if len(found) < suite.tests:
        yield f"{suite.name}: ran {len(found)} tests, not {suite.tests}"
    expected = baseline or {name: PASSED for name, outcome in found.items() if outcome != SKIPPED}
    for name, there in expected.items():
        here = found.get(name, "missing")
        if there == PASSED != here and not not_counted(suite, name):
            yield f"{suite.name}: {name} {here}"


def not_counted(suite, name):
    """Why it is not, if it is not."""
    return next((why for part, why in suite.not_counted.items() if part in name), None)


if __name__ == "__main__":
    sys.exit(main())
