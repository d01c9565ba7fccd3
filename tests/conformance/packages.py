"""Fetches the packages with the tests that they ship, unpacked below .tools/conformance, and says how to run them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = ROOT / ".tools" / "conformance"
# Beside the tests of these packages, what they import and the package does not ship.
SUPPORT = {"aiormq": "", "dramatiq": "tests"}


def version(suite):
    if suite.crate:
        return suite.crate
    lines = (HERE / "requirements.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{suite.name}=="))


def directory(suite):
    return TOOLS / f"{suite.name}-{version(suite)}"


def fetch(suite):
    """The package as it is published, and for a crate its tests, compiled."""
    if not directory(suite).is_dir():
        print(f"conformance: fetching {suite.name} {version(suite)}", flush=True)
        fresh = directory(suite).with_suffix(".part")
        shutil.rmtree(fresh, ignore_errors=True)
        (fetch_crate if suite.crate else fetch_sdist)(suite, fresh)
        fresh.rename(directory(suite))
    if suite.crate:
        print(f"conformance: compiling the tests of {suite.name}", flush=True)
        compiled = subprocess.run(cargo_test(suite, "--no-run"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if compiled.returncode:
            sys.exit(compiled.stdout)


def fetch_sdist(suite, fresh):
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", TOOLS]
    subprocess.run([*pip, "--no-deps", "--no-binary", suite.name, f"{suite.name}=={version(suite)}"], check=True)
    archive = TOOLS / f"{suite.name}-{version(suite)}.tar.gz"
    with tarfile.open(archive) as tar:
        tar.extractall(TOOLS / "unpacked", filter="data")
    (TOOLS / "unpacked" / f"{suite.name}-{version(suite)}").rename(fresh)
    if suite.name in SUPPORT:
        shutil.copytree(HERE / "support" / suite.name, fresh / SUPPORT[suite.name], dirs_exist_ok=True)


def fetch_crate(suite, fresh):
    """By way of a package that depends on it, for cargo unpacks only dependencies."""
    wanting = TOOLS / "wanting" / suite.name
    (wanting / "src").mkdir(parents=True, exist_ok=True)
    (wanting / "src" / "lib.rs").touch()
    package = '[package]\nname = "wanting"\nedition = "2024"\n[workspace]\n[dependencies]\n'
    (wanting / "Cargo.toml").write_text(f'{package}{suite.name} = "={version(suite)}"\n')
    metadata = ["cargo", "metadata", "--format-version", "1", "--manifest-path", wanting / "Cargo.toml"]
    packages = json.loads(subprocess.check_output(metadata))["packages"]
    manifest = next(package["manifest_path"] for package in packages if package["name"] == suite.name)
    shutil.copytree(pathlib.Path(manifest).parent, fresh)


def cargo_test(suite, *options):
    target = ["--target-dir", TOOLS / "target", "--manifest-path", directory(suite) / "Cargo.toml"]
    return ["cargo", "test", *target, "--locked", *suite.arguments, *options]


def command(suite, junit):
    """Runs the tests of one suite, in its directory."""
    if suite.crate:
        return cargo_test(suite, "--offline", "--no-fail-fast", "--", "--test-threads", "1")
    # A test that passes the second time has found something: there are no reruns.
    options = ["-p", "no:cacheprovider", "--junitxml", junit, "--tb", "short", "-q"]
    return [sys.executable, "-m", "pytest", *options, *suite.arguments]


def environment(suite):
    """What the suites read: one broker at localhost:5672."""
    return {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(directory(suite)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RABBITMQ_HOST": "localhost",
        "RABBITMQ_5672_TCP": "5672",
        "RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:5672/%2f",
        "AMQP_ADDR": "amqp://guest:guest@127.0.0.1:5672/%2f",
        "TEST_BROKER": "pyamqp://guest:guest@127.0.0.1:5672//",
        "TEST_BACKEND": "rpc://",
        "RUST_LOG": "off",
    }
