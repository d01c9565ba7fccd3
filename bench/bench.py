"""Measures Leveret beside RabbitMQ and NATS: every row on every server in turn, for some rounds."""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

import report
import servers
import stuck
from rows import ROWS

DOCUMENTS = servers.ROOT / "docs" / "benchmarks"
# Peers that share a server with another.
SERVERS = {"jetstream": "nats", "stuck": "leveret"}


def arguments():
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Measures Leveret beside RabbitMQ and NATS on this machine, one after the other in rounds.",
        epilog="example: bench/run --only e2e16 --only dur16 --rounds 5",
    )
    parser.add_argument("--quick", action="store_true", help="one round of 1 s runs of the most telling rows")
    parser.add_argument("--only", metavar="ROW", action="append", help="only this row (again for more)")
    parser.add_argument("--peers", metavar="NAMES", help="only these, with commas: leveret,rabbitmq,nats,jetstream,bare,disk,stuck")
    parser.add_argument("--rounds", type=int, help="rounds over all rows and servers (default 3)")
    parser.add_argument("--seconds", type=float, help="seconds of each run (default 3)")
    parser.add_argument("--save", action="store_true", help="write docs/benchmarks/DATE.json, .md and .svg")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--data", metavar="DIRECTORY", help="where servers keep their data (default: the target directory)")
    parser.add_argument("--target", default="target", help=argparse.SUPPRESS)
    parser.add_argument("--leveret", metavar="BINARY", help="measure this build instead")
    chosen = parser.parse_args()
    unknown = set(chosen.only or []) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"unknown row {', '.join(sorted(unknown))}; there are: {', '.join(row.name for row in ROWS)}")
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    chosen.seconds = chosen.seconds or (1.0 if chosen.quick else 3.0)
    chosen.warmup = 0.5 if chosen.quick else 1.0
    chosen.target = pathlib.Path(chosen.target).resolve()
    return chosen


def chosen_rows(chosen):
    for row in ROWS:
        if row.name in chosen.only if chosen.only else row.quick or not chosen.quick:
            yield row


class Bench:
    def __init__(self, chosen, directory, running):
        self.chosen = chosen
        self.directory = directory
        self.running = running

    def command(self, peer, work):
        xtask, timing = self.chosen.target / "release" / "xtask", ["--duration", str(self.chosen.seconds)]
        if peer == "disk":
            return [xtask, "disk-load", "--directory", self.directory, "--json", *timing, *work.split()]
        timing += ["--warmup", str(self.chosen.warmup)]
        server = self.running[SERVERS.get(peer, peer)]
        common = ["--json", "--server-pid", str(server.pid), *timing, *work.split()]
        if peer in ("nats", "jetstream"):
            return [xtask, "nats-load", "--server", server.address, *common]
        return [self.chosen.target / "release" / "leveret", "perf", "--url", f"amqp://{server.address}", *common]

    def measure(self, row, peer):
        servers.settle([server.pid for server in self.running.values()])
        beside = stuck.consumer(self.running["leveret"].address) if peer == "stuck" else contextlib.nullcontext()
        with beside:
            return self.run(row, peer)

    def run(self, row, peer):
        said = subprocess.run(self.command(peer, row.work[peer]), capture_output=True, text=True, timeout=300, check=False)
        if said.returncode != 0:
            raise RuntimeError(f"{row.name} on {peer}: {said.stderr.strip()}")
        return json.loads(said.stdout)

    def round(self, number, rows, results):
        for row in rows:
            for peer in self.peers_of(row):
                show(f"round {number}: {row.name} on {report.NAMES[peer]}")
                try:
                    run = self.measure(row, peer)
                    results[row.name].setdefault(peer, []).append(run)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    show("")
                    print(error, file=sys.stderr)
        show("")

    def peers_of(self, row):
        wanted = self.chosen.peers.split(",") if self.chosen.peers else row.work
        return [peer for peer in row.work if peer in wanted]


def show(text):
    """What is going on, for a person at a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def start(stack, chosen, directory, rows):
    """Starts those servers that some row needs."""
    peers = {peer for row in rows for peer in row.work}
    if chosen.peers:
        peers &= set(chosen.peers.split(","))
    running = {}
    if peers & {"leveret", "stuck"}:
        binary = chosen.leveret or chosen.target / "release" / "leveret"
        running["leveret"] = stack.enter_context(servers.leveret(directory, pathlib.Path(binary).resolve()))
    if "bare" in peers:
        running["bare"] = stack.enter_context(servers.bare(directory, chosen.target / "release" / "xtask"))
    if "rabbitmq" in peers:
        running["rabbitmq"] = stack.enter_context(servers.rabbitmq(directory))
    if peers & {"nats", "jetstream"}:
        running["nats"] = stack.enter_context(servers.nats(directory))
    return running


def about(chosen, directory):
    processors = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in processors if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    file_system = subprocess.run(["findmnt", "--noheadings", "--output", "FSTYPE", "--target", directory], capture_output=True, text=True, check=False)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": model,
            "cores": os.cpu_count(),
            "memory_gib": round(memory),
            "system": f"{platform.system()} {platform.release()}",
            "file_system": file_system.stdout.strip(),
        },
        "versions": servers.versions(chosen.target / "release" / "leveret"),
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "warmup": chosen.warmup,
    }


def save(facts, rows, results):
    DOCUMENTS.mkdir(parents=True, exist_ok=True)
    name = facts["date"]
    measured = [(row, results[row.name]) for row in rows if results[row.name]]
    (DOCUMENTS / f"{name}.json").write_text(json.dumps({**facts, "rows": results}, indent=1) + "\n")
    (DOCUMENTS / f"{name}.svg").write_text(report.svg(measured))
    (DOCUMENTS / f"{name}.md").write_text(report.page({"about": facts, "rows": measured}, f"{name}.svg"))
    print(f"written: docs/benchmarks/{name}.json, .md and .svg")


def main():
    chosen = arguments()
    if chosen.list:
        print("\n".join(f"{row.name:<10} {row.title}" for row in ROWS))
        return
    rows = list(chosen_rows(chosen))
    results = {row.name: {} for row in rows}
    data = pathlib.Path(chosen.data) if chosen.data else chosen.target
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(servers.data_directory(data.resolve()))
        bench = Bench(chosen, directory, start(stack, chosen, directory, rows))
        facts = about(chosen, directory)
        for number in range(1, chosen.rounds + 1):
            bench.round(number, rows, results)
            (chosen.target / "bench.json").write_text(json.dumps({**facts, "rows": results}))
    for row in rows:
        if results[row.name]:
            print(report.as_text(row, results[row.name]))
    if chosen.save:
        save(facts, rows, results)
    if any(not results[row.name].get(peer) for row in rows for peer in bench.peers_of(row)):
        sys.exit("some runs failed; what they said stands above")


if __name__ == "__main__":
    main()
