#!/usr/bin/python3
"""Runs the client libraries' suites against one Holdfast that spawns its own Valkey; the failovers against a group of three nodes.

    run.py [--valkey] [suite ...]       suites: python ioredis iovalkey node_redis glide tls python_failover failover python_examples; default: all

HOLDFAST_BIN is what runs (default build/holdfast); --valkey tries the suites against a bare valkey-server instead. The Node.js
libraries are installed from package-lock.json when that is newer than what is there. The last line is always
`N passed, N failed, N skipped`; the exit code is 1 if anything failed or nothing ran.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
from certificates import Authority  # noqa: E402
from group import Group  # noqa: E402
from harness import Holdfast, Valkey, free_port  # noqa: E402

GROUP_SUITES = ["python_failover", "failover", "python_examples"]
NODE_SUITES = ["ioredis", "iovalkey", "node_redis", "glide", "tls", "failover", "python_examples"]
SUITES = ["python", "ioredis", "iovalkey", "node_redis", "glide", "tls", *GROUP_SUITES]
RESTART_S = 2.0  # as a supervisor that is in no hurry
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
    if name.startswith("python"):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-ra", f"--junitxml={report}", f"test_clients_{name}.py"]
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


def with_tls(directory):
    """Settings, which Valkey would take as well; the certificates are in this directory."""
    ca = Authority(directory, "ca")
    own = ca.issue("server")
    ca.issue("client", usage="clientAuth")
    Authority(directory, "other-ca").issue("stranger")
    return {"tls-port": free_port(), "tls-cert-file": own.crt, "tls-key-file": own.key, "tls-ca-cert-file": ca.crt, "tls-auth-clients": "optional"}


@contextlib.contextmanager
def server(bare, directory, settings):
    """Yields (port, pidfile of the Valkey that may be killed); everything has ended afterwards."""
    options = [w for k, v in settings.items() for w in (f"--{k}", v)]
    thing = Valkey(directory, *options) if bare else Holdfast(directory, start=False, settings=settings)
    try:
        if not bare:
            thing.start()
        yield thing, "" if bare else str(thing.data_dir / "valkey" / "valkey.pid")
        if not bare:
            thing.terminate()  # a proper end: sanitizers report leaks then
    finally:
        thing.close()


class Supervisor(threading.Thread):
    """Starts again what a suite has killed, and tells in a file where everything is and which processes it is."""

    def __init__(self, group, place):
        super().__init__(daemon=True)
        self.group, self.place, self.ends = group, place, threading.Event()
        self.tell()

    def tell(self):
        members = [{"name": m.name, "port": m.port, "admin": m.admin_port, "pids": [m.pid, m.valkey_process.pid]} for m in self.group]
        made = self.place.with_suffix(".new")
        made.write_text(json.dumps({"members": members}))
        made.rename(self.place)

    def run(self):
        while not self.ends.wait(RESTART_S):
            for m in self.group:
                if not m.alive() or not m.valkey_process.alive():
                    m.end_expected = True
                    self.group.restart(m.name, wait=False)
                    self.tell()


@contextlib.contextmanager
def group(directory):
    """Yields the file that tells of the members."""
    g = Group(directory, durability="sync")
    supervisor = Supervisor(g, directory / "group.json")
    supervisor.start()
    try:
        yield g, supervisor.place
        supervisor.ends.set()
        supervisor.join()
        g.stop()
    finally:
        supervisor.ends.set()
        g.close()


def run_all(suites, bare, directory):
    """(totals, what Holdfast reported by itself)"""
    totals, trouble = [0, 0, 0], []

    def run(some, env):
        for suite in some:
            done = run_suite(suite, {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **env}, directory)
            totals[:] = [a + b for a, b in zip(totals, done)]
    alone = [s for s in suites if s not in GROUP_SUITES]
    if alone:
        tls = with_tls(directory / "certificates")
        with server(bare, directory / "server", tls) as (thing, pidfile):
            run(alone, {"HOLDFAST_PORT": str(thing.port), "HOLDFAST_VALKEY_PIDFILE": pidfile,
                        "HOLDFAST_TLS_PORT": str(tls["tls-port"]), "HOLDFAST_TLS_DIR": str(directory / "certificates")})
            trouble += [] if bare else thing.trouble()
        trouble += [] if bare else thing.trouble()  # once more: leaks are reported at the end
    together = [s for s in suites if s in GROUP_SUITES and not bare]
    if together:
        with group(directory / "group") as (g, place):
            run(together, {"HOLDFAST_PORT": str(g["a"].port), "HOLDFAST_GROUP": str(place)})
        trouble += [t for m in g for t in m.trouble()]
    return totals, sorted(set(trouble))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--valkey", action="store_true")
    options.add_argument("suites", nargs="*")
    chosen = options.parse_args()
    unknown = set(chosen.suites) - set(SUITES)
    if unknown:
        options.error(f"no such suite: {', '.join(sorted(unknown))}")
    suites = chosen.suites or SUITES
    missing = bool(set(suites) & set(NODE_SUITES)) and not install()
    if missing:
        suites = [s for s in suites if s not in NODE_SUITES]
        print("clients: the Node.js libraries could not be installed")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="hf-clients-"))
    totals, trouble = run_all(suites, chosen.valkey, directory)
    totals[1] += missing
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
