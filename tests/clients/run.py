#!/usr/bin/python3
"""Runs the client libraries' suites against one Holdfast that spawns its own Valkey.

    run.py [--valkey] [suite ...]       suites: python ioredis iovalkey node_redis glide; default: all

HOLDFAST_BIN is what runs (default build/holdfast); --valkey tries the suites against a bare valkey-server instead. The Node.js
libraries are installed from package-lock.json when that is newer than what is there. The last line is always
`N passed, N failed, N skipped`; the exit code is 1 if anything failed or nothing ran.
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
from harness import Holdfast, Valkey  # noqa: E402

NODE_SUITES = ["ioredis", "iovalkey", "node_redis", "glide"]
SUITES = ["python", *NODE_SUITES]
SUITE_SECONDS_MAX = 600


def install():
    """True if the Node.js libraries are there. npm's own record of what it installed tells how old they are."""
    if not shutil.which("node") or not shutil.which("npm"):
        print("clients: no node or npm here (make deps installs them)")
        return False
    record, lock = HERE / "node_modules" / ".package-lock.json", HERE / "package-lock.json"
    if record.exists() and record.stat().st_mtime >= lock.stat().st_mtime:
        return True
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    return subprocess.run(command, cwd=HERE, check=False).returncode == 0


def count(report):
    """(passed, failed, skipped) of a JUnit file; Node.js nests its suites and counts none of them."""
    cases = list(xml.parse(report).getroot().iter("testcase"))
    failed = sum(c.find("failure") is not None or c.find("error") is not None for c in cases)
    skipped = sum(c.find("skipped") is not None for c in cases)
    return len(cases) - failed - skipped, failed, skipped


def run_suite(name, env, directory):
    report = directory / f"{name}.xml"
    if name == "python":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-ra", f"--junitxml={report}", "test_clients_python.py"]
    else:
        command = ["node", "--test", "--test-concurrency=1", "--test-reporter=spec", "--test-reporter-destination=stdout",
                   "--test-reporter=junit", f"--test-reporter-destination={report}", f"{name}.test.mjs"]
    print(f"== {name}", flush=True)
    process = subprocess.Popen(command, cwd=HERE, env=env)
    try:
        code = process.wait(SUITE_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        code = -1
        print(f"{name}: no end after {SUITE_SECONDS_MAX} s")
    try:
        passed, failed, skipped = count(report)
    except (OSError, xml.ParseError):
        return 0, 1, 0
    return passed, failed or int(code != 0 or passed == 0), skipped


@contextlib.contextmanager
def server(bare, directory):
    """Yields (port, pidfile of the Valkey that may be killed); everything has ended afterwards."""
    thing = Valkey(directory) if bare else Holdfast(directory, start=False)
    try:
        if not bare:
            thing.start()
        yield thing, "" if bare else str(thing.data_dir / "valkey" / "valkey.pid")
        if not bare:
            thing.terminate()  # a proper end: sanitizers report leaks then
    finally:
        thing.close()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--valkey", action="store_true")
    options.add_argument("suites", nargs="*")
    chosen = options.parse_args()
    unknown = set(chosen.suites) - set(SUITES)
    if unknown:
        options.error(f"no such suite: {', '.join(sorted(unknown))}")
    suites = chosen.suites or SUITES
    totals = [0, 0, 0]
    if set(suites) & set(NODE_SUITES) and not install():
        suites = [s for s in suites if s == "python"]
        totals[1] += 1
        print("clients: the Node.js libraries could not be installed")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="hf-clients-"))
    with server(chosen.valkey, directory / "server") as (thing, pidfile):
        env = {**os.environ, "HOLDFAST_PORT": str(thing.port), "HOLDFAST_VALKEY_PIDFILE": pidfile, "PYTHONDONTWRITEBYTECODE": "1"}
        for suite in suites:
            totals = [a + b for a, b in zip(totals, run_suite(suite, env, directory))]
        trouble = [] if chosen.valkey else thing.trouble()
    if not chosen.valkey:  # once more: leaks are reported at the end
        trouble += [t for t in thing.trouble() if t not in trouble]
    if trouble:
        totals[1] += 1
        print("\n".join(trouble))
    if totals[1]:
        print(f"kept: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main())
