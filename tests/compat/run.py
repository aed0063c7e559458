#!/usr/bin/python3
"""Valkey's own test suite, directly and through Holdfast: what differs?

    git clone --branch 8.0.1 --depth 1 https://github.com/valkey-io/valkey /tmp/valkey-src     # the version of valkey-server
    tests/compat/run.py /tmp/valkey-src [--modes async,sync] [--units unit/multi,unit/type/list] [--verbose]

Each file of the suite runs in its external mode (--host, --port) against a fresh valkey-server, and against a fresh Holdfast before a fresh
valkey-server with the same settings, in each mode. A test is known by its file, its name and, since names repeat, its place among its equals:

    unit/multi  "MULTI / EXEC basics"     direct ok    async ok    sync ok      equal
    unit/multi  "MULTI with config error"  direct ok    async err   sync err     a difference: a line of accepted.txt, or exit code 1

What the suite leaves out against an external server is left out here, but for TAKEN_IN, and with DENIED_TAGS what needs DEBUG, PFDEBUG or a
replica's connection.
A test that raises an exception does not end its file (--durable). One that hangs does; the file is then run again without it. A test that fails directly
as well is equal when it fails through Holdfast; one that hangs directly is left out. What differs is run once more; if it is equal then, it is counted as unsteady and listed.
Tcl is needed (`apt-get install tcl`); VALKEY_SERVER and HOLDFAST_BIN as for the end-to-end tests. Nothing of the suite is kept here.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
from harness import Rig, free_port, valkey_server  # noqa: E402

DENIED_TAGS = ("needs:debug", "needs:pfdebug", "needs:repl")
HANGS_AFTER_S = 150    # no test of those that run needs so long
MEMORY = "/dev/shm"    # where the servers live, unless HF_TMP says otherwise: it is not the disk that is compared
UNIT_SECONDS_MAX = 540
RERUNS_MAX = 8         # tests that hang, in one file

OWN_USER = "holdfast"  # Holdfast's own at Valkey: the default one is the tests' to change
# Files that the suite leaves out against an external server although most of their tests would run: they are run all the same.
TAKEN_IN = ("unit/acl", "unit/acl-v2", "unit/auth", "unit/info", "unit/maxmemory", "unit/pubsubshard")

# The suite's own (tests/assets/default.conf), as far as they concern an external server.
SETTINGS = ("--notify-keyspace-events", "KEA", "--latency-monitor-threshold", "1", "--enable-protected-configs", "yes",
            "--enable-module-command", "yes", "--propagation-error-behavior", "panic", "--enable-debug-assert", "yes",
            "--hide-user-data-from-log", "no", "--loglevel", "verbose",
            "--user", OWN_USER, "on", f">{OWN_USER}", "~*", "&*", "+@all")

RECORD = re.compile(r"^\[(ok|err|skip|ignore|exception|TIMEOUT|ready)\]: ?(.*)")
ENDING = re.compile(r"^(\[\d+/\d+ done\]: |Testing |\s+The End|Cleanup: |Starting test server|Logged warnings|\*\*\* \[|sock[0-9a-f]+ => )")
RUNNING = re.compile(r"^sock\w+ => \((IN PROGRESS|OK|ERR)\) (.*)")


class Outcome(collections.namedtuple("Outcome", "result detail")):
    def __str__(self):
        return self.result


def records(text):
    """(kind, lines) of each message of the suite's output; a message may have several lines."""
    kind, lines = None, []
    for line in text.splitlines():
        line = re.sub(r"\x1b\[[0-9;]*m", "", line)
        begins = RECORD.match(line)
        if begins or ENDING.match(line):
            if kind:
                yield kind, lines
            kind, lines = (begins.group(1), [begins.group(2)]) if begins else (None, [])
            if line.startswith("[TIMEOUT]"):
                kind, lines = "TIMEOUT", []
        elif kind:
            lines.append(line)
    if kind:
        yield kind, lines


def parse(text, unit):
    """{(name, place): Outcome} of one run of one file, and what it hung in (None: it did not)."""
    found, places = {}, collections.Counter()

    def note(name, result, detail=""):
        found[(name, places[name])] = Outcome(result, detail)
        places[name] += 1

    for kind, lines in records(text.split("!!! WARNING")[0]):
        whole = "\n".join(lines)
        if kind == "ok":
            note(re.match(r"(.*?) \(\d+ ms\)$", whole, re.S | re.M).group(1), "ok")
        elif kind == "skip":
            note(whole, "skip")
        elif kind == "err":
            name, in_test, detail = whole.partition(f" in tests/{unit}.tcl")
            if in_test:
                note(name, "err", detail.strip())
            else:
                note(f"(between tests) {lines[0]}", "err", whole)
        elif kind == "exception":
            note(f"(the file ended) {lines[0]}", "err", whole)
    hung = None
    for line in text.splitlines():
        running = RUNNING.match(line)
        if running and "TIMEOUT" in text:
            hung = running.group(2) if running.group(1) == "IN PROGRESS" else "?"
    return found, hung


def suite_run(source, unit, port, without):
    """Output of one file of the suite against a port."""
    command = ["./runtest", "--host", "127.0.0.1", "--port", str(port), "--single", unit, "--durable", "--timeout", str(HANGS_AFTER_S),
               "--clients", "1", "--baseport", str(free_port()), "--portcount", "64", "--dont-clean", "--dont-pre-clean",
               "--tags", " ".join(f"-{tag}" for tag in DENIED_TAGS)]
    for name in without:
        command += ["--skiptest", name]
    process = subprocess.Popen(command, cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=UNIT_SECONDS_MAX)
        return out.decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return process.communicate()[0].decode(errors="replace") + "\n[exception]: no end\n"


def servers(rig, mode):
    """What the suite talks to, fresh: its port."""
    valkey = rig.valkey(*SETTINGS)
    if mode == "direct":
        return valkey
    return rig.holdfast(valkey, durability=mode, valkey_user=OWN_USER, valkey_password=OWN_USER)


def run_unit(source, unit, mode, left_out=()):
    """{(name, place): Outcome} of a file in one mode, without the tests that are left out."""
    without, found = list(left_out), {}
    for _ in range(RERUNS_MAX):
        with tempfile.TemporaryDirectory(prefix="compat-", dir=os.environ.get("HF_TMP") or (MEMORY if os.path.isdir(MEMORY) else None)) as place:
            rig = Rig(place)
            try:
                text = suite_run(source, unit, servers(rig, mode).port, without)
                trouble = rig.trouble()
            finally:
                rig.close()
        if os.environ.get("COMPAT_KEEP"):
            pathlib.Path(os.environ["COMPAT_KEEP"], f"{unit.replace('/', '-')}.{mode}.{len(without)}.txt").write_text(text)
        assert "Testing " in text, f"the suite itself did not run:\n{text}"
        found, hung = parse(text, unit)
        for line in trouble:
            found[(f"(Holdfast) {line}", 0)] = Outcome("err", line)
        if hung is None:
            break
        found[(f"(hung) {hung}", 0)] = Outcome("err", "no progress")
        if hung == "?" or hung in without:
            break
        without.append(hung)
    for name in without[len(left_out):]:
        for key in [k for k in found if k[0] == name]:
            found[key] = Outcome("hung", f"no progress for {HANGS_AFTER_S} s")
    return found


def run_directly(source, unit, keep):
    """The same for valkey-server alone; kept in a directory if there is one, for the next time."""
    file = keep / f"{unit.replace('/', '-')}.json" if keep else None
    if file and file.exists():
        return {(name, place): Outcome(result, detail) for name, place, result, detail in json.loads(file.read_text())}
    found = run_unit(source, unit, "direct")
    if file:
        keep.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([[*key, *outcome] for key, outcome in found.items()]))
    return found


def prepared(source, place):
    """A copy of the suite, in which the first block of servers of TAKEN_IN is not left out (later ones want settings of their own)."""
    place = pathlib.Path(place)
    shutil.copy2(pathlib.Path(source) / "runtest", place)
    shutil.copytree(pathlib.Path(source) / "tests", place / "tests", ignore=shutil.ignore_patterns("tmp", "modules", "rdma"))
    (place / "tests/tmp").mkdir()
    for unit in TAKEN_IN:
        file = place / f"tests/{unit}.tcl"
        file.write_text(file.read_text().replace("external:skip", "", 1))
    return place


def units_of(source):
    out = subprocess.run(["./runtest", "--list-tests"], cwd=source, stdout=subprocess.PIPE, check=True).stdout.decode()
    return out.split()


class Accepted:
    """accepted.txt: `file | modes | row of the table in proxy/DIFFERENCES.md | name of the test`. A mode with `!`: it is not even run, since it would hang,
    or leave its connection in a state that the tests behind it are not made for."""

    def __init__(self, path):
        self.rows = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = [field.strip() for field in line.split("|", 3)]
            assert len(fields) == 4, f"{path}:{number}: file | modes | row | name"
            for mode in fields[1].split(","):
                self.rows[(fields[0], mode.rstrip("!"), fields[3])] = (fields[2], mode.endswith("!"))

    def reason(self, unit, mode, name):
        return self.rows.get((unit, mode, name), (None, False))[0]

    def left_out(self, unit, mode):
        return [n for (u, m, n), (_, out) in self.rows.items() if (u, m) == (unit, mode) and out]

    def unused(self, seen, units):
        return [row for row in self.rows if row not in seen and row[0] in units]


def differs(direct, other):
    """Keys that have another result. A test that was not reached counts as one."""
    missing = Outcome("not run", "")
    return [k for k in {**direct, **other} if direct.get(k, missing).result != other.get(k, missing).result]


def tests_run(found):
    """Without what is said between tests."""
    return [key for key, v in found.items() if v.result in ("ok", "err") and not key[0].startswith("(")]


class Totals:
    def __init__(self):
        self.run = self.equal = self.unsteady = 0
        self.accepted, self.unexpected = [], []


def compare(source, unit, mode, direct, accepted, totals, told, once=False):
    too_slow = {name for (name, _), v in direct.items() if v.result == "hung"}  # on this machine: nothing to compare
    left_out = accepted.left_out(unit, mode) + sorted(too_slow)
    through = run_unit(source, unit, mode, left_out)
    again, not_run = None, 0
    missing = Outcome("not run", "")
    for key in differs(direct, through):
        reason = accepted.reason(unit, mode, key[0])
        if key[0] in too_slow or key[0].startswith("(hung) ") and key[0][7:] in too_slow:
            continue
        if reason:
            totals.accepted.append((unit, mode, key[0]))
            told(f"  {mode}: accepted ({reason}): {key[0]}")
            continue
        again = again if again is not None else (through if once else run_unit(source, unit, mode, left_out))
        if again.get(key, missing).result == direct.get(key, missing).result:
            totals.unsteady += 1
            kind = "UNSTEADY"
        else:
            totals.unexpected.append((unit, key[0]))
            kind = "DIFFERS"
        mine = through.get(key, missing)
        if mine.result == "not run" and kind == "DIFFERS":
            not_run += 1
            continue
        print(f"  {mode}: {kind}: {key[0]}: directly {direct.get(key, missing)}, through Holdfast {mine}\n      "
              + mine.detail.replace("\n", "\n      ")[:900], flush=True)
    if not_run:
        print(f"  {mode}: DIFFERS: {not_run} tests were not reached", flush=True)
    ran = tests_run(direct)
    totals.run += len(ran)
    totals.equal += sum(1 for k in ran if k in through and through[k].result == direct[k].result)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("source", help="a checkout of Valkey, of the version of valkey-server")
    options.add_argument("--modes", default="async,sync")
    options.add_argument("--units", help="files of the suite, by commas; default: all")
    options.add_argument("--accepted", type=pathlib.Path, default=HERE / "accepted.txt")
    options.add_argument("--verbose", action="store_true", help="name the accepted differences, too")
    options.add_argument("--direct", type=pathlib.Path, help="a directory to keep the results of the direct run in, and to take them from")
    options.add_argument("--once", action="store_true", help="no second run of what differs")
    options.add_argument("--json", type=pathlib.Path, help="write the counts there")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="compat-suite-") as place:
        return run(prepared(chosen.source, place), chosen)


def run(source, chosen):
    modes = chosen.modes.split(",")
    accepted, units = Accepted(chosen.accepted), []
    totals = {mode: Totals() for mode in modes}
    told = print if chosen.verbose else lambda _: None
    failed_directly = 0
    print(subprocess.run([valkey_server(), "--version"], stdout=subprocess.PIPE, check=True).stdout.decode().strip())
    for unit in chosen.units.split(",") if chosen.units else units_of(source):
        began = time.monotonic()
        direct = run_directly(source, unit, chosen.direct)
        ran = len(tests_run(direct))
        if not ran:
            continue
        units.append(unit)
        print(f"{unit}: {ran} tests", flush=True)
        failed_directly += sum(1 for v in direct.values() if v.result != "ok")
        for key, v in direct.items():
            if v.result == "err":
                told(f"  fails directly, too: {key[0]}: {v.detail[:300]}")
        for mode in modes:
            compare(source, unit, mode, direct, accepted, totals[mode], told, chosen.once)
        told(f"  {time.monotonic() - began:.0f} s")
    for mode, t in totals.items():
        print(f"{mode}: {t.run} tests run, {t.equal} equal, {len(t.accepted)} accepted differences, {t.unsteady} unsteady, "
              f"{len(t.unexpected)} unexpected")
    for unit, mode, name in accepted.unused({row for t in totals.values() for row in t.accepted}, units):
        if mode in modes:
            print(f"accepted, but equal now: {unit} {mode} {name}")
    print(f"({failed_directly} failed against valkey-server itself)")
    if chosen.json:
        chosen.json.write_text(json.dumps({m: {**vars(t)} for m, t in totals.items()}, indent=1))
    return 1 if any(t.unexpected for t in totals.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
