#!/usr/bin/python3
"""Runs the tests that are asked for and adds up what the runners counted.

    run_all.py --out build [--totals FILE] unit fuzz e2e clients docker tidy

Each stage yields (passed, failed, skipped). The last line is always `N passed, N failed`. Exit code 1 if anything failed,
or if nothing ran at all. --totals appends `passed failed` to FILE, for a caller that adds up several runs.

  unit     every <out>/unit/test_*: a cmocka program; its TAP output is counted, a crash counts as one failure
  fuzz     every <out>/fuzz/fuzz_*: corpus and seeded mutations for a short time; one target = one test
  e2e      pytest over tests/e2e, counted from JUnit XML: files side by side, then those of ALONE, one after the other
  clients  tests/clients/run.py; it says `N passed, N failed[, N skipped]`, or what `node --test` says is added up
  docker   pytest over tests/docker: images and compose files in an engine of its own; as root
  tidy     tests/tools/tidy.py: one rule = one test
"""
import argparse
import concurrent.futures
import glob
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

# Tests whose subject is time: leaderships, lag, kills under load. Others mostly wait, and do so beside each other.
ALONE = ("test_crossed", "test_group", "test_group_faults", "test_group_log", "test_history", "test_kill", "test_lag", "test_page",
         "test_prometheus", "test_relay", "test_schedules", "test_stall", "test_workloads")
# Unit tests without a clock: on all cores at once. The others come after them, one by one.
TIMELESS = ("test_canon", "test_command", "test_guards", "test_raft_group", "test_raft_rules", "test_raft_sim", "test_record", "test_replay", "test_resp",
            "test_router", "test_router_plain", "test_sequencer", "test_sequencer_group", "test_sequencer_hand", "test_store", "test_store_ahead",
            "test_store_rules")
SIDE_BY_SIDE = int(os.environ.get("HF_SIDE_BY_SIDE", "3"))
FUZZ_SECONDS = os.environ.get("FUZZ_SECONDS", "3")
UNIT_SECONDS_MAX = 600
PYTEST_SECONDS_MAX = 1800
CLIENTS_SECONDS_MAX = 900


def sanitizer_env():
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=1")
    env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
    env.setdefault("TSAN_OPTIONS", "halt_on_error=1")
    return env


def run(command, seconds_max, extra=None):
    """(exit code, output); a program that hangs is ended and counts as failed."""
    env = sanitizer_env()
    env.update(extra or {})
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, timeout=seconds_max)
        return done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as e:
        return -1, (e.stdout or b"").decode(errors="replace") + f"\nno end after {seconds_max} s\n"


def unit(out):
    passed = failed = skipped = 0
    def ran(program):
        return (program, *run([program], UNIT_SECONDS_MAX, {"CMOCKA_MESSAGE_OUTPUT": "TAP"}))
    everything = programs(out, "unit", "test_")
    timeless = [p for p in everything if os.path.basename(p) in TIMELESS]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(ran, timeless))
    for program, code, text in itertools.chain(results, map(ran, [p for p in everything if p not in timeless])):
        good = len(re.findall(r"^ok \d+ (?!.*# SKIP)", text, re.M))
        skips = len(re.findall(r"^ok \d+ .*# SKIP", text, re.M))
        bad = len(re.findall(r"^not ok ", text, re.M))
        if code != 0 and bad == 0:
            bad = 1  # it crashed, or a sanitizer spoke
        if good + bad + skips == 0:
            bad, text = 1, text + "\nran no test\n"
        if bad:
            print(text)
        print(f"unit {os.path.basename(program)}: {good} passed, {bad} failed" + (f" (exit {code})" if code else ""))
        passed, failed, skipped = passed + good, failed + bad, skipped + skips
    return passed, failed, skipped


def fuzz(out):
    passed = failed = 0
    for program in programs(out, "fuzz", "fuzz_"):
        name = os.path.basename(program)
        corpus = os.path.join("tests/fuzz/corpus", name[len("fuzz_"):])
        code, text = run([program, FUZZ_SECONDS, corpus], 60 + 10 * int(FUZZ_SECONDS))
        last = text.strip().splitlines()[-1] if text.strip() else ""
        print(f"fuzz {name}: " + (last if code == 0 else f"FAILED (exit {code})\n{text}"))
        passed, failed = passed + (code == 0), failed + (code != 0)
    return passed, failed, 0


def programs(out, kind, prefix):
    """Those that have a source: what a removed test left behind is not run."""
    sources = sorted(glob.glob(f"tests/{kind}/{prefix}*.c"))
    return [os.path.join(out, kind, os.path.basename(s)[:-2]) for s in sources]


def e2e(_out):
    files = sorted(glob.glob("tests/e2e/test_*.py"))
    alone = [f for f in files if os.path.basename(f)[:-3] in ALONE]
    others = [f for f in files if f not in alone]
    results = pytest(others, ["-n", str(SIDE_BY_SIDE), "--dist", "loadfile"]), pytest(alone)
    return tuple(sum(r) for r in zip(*results))


def pytest(files, options=()):
    with tempfile.TemporaryDirectory() as temporary:
        report = os.path.join(temporary, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-ra", f"--junitxml={report}", *options, *files]
        process = subprocess.Popen(command, env={**sanitizer_env(), "PYTHONDONTWRITEBYTECODE": "1"})
        try:
            code = process.wait(timeout=PYTEST_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            code = -1
            print(f"{' '.join(files)}: no end after {PYTEST_SECONDS_MAX} s")
        if not os.path.exists(report):
            return 0, 1, 0
        total = failed = skipped = 0
        for suite in xml.parse(report).getroot().iter("testsuite"):
            total += int(suite.get("tests"))
            failed += int(suite.get("failures")) + int(suite.get("errors"))
            skipped += int(suite.get("skipped"))
        if code != 0 and failed == 0:
            failed, total = 1, total + 1
        return max(total - failed - skipped, 0), failed, skipped


def clients(_out):
    if not os.path.exists("tests/clients/run.py"):
        print("tests/clients: no run.py yet")
        return 0, 0, 0
    code, text = run([sys.executable, "tests/clients/run.py"], CLIENTS_SECONDS_MAX)
    print(text, end="")
    summary = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", text, re.M)
    if summary:
        passed, failed, skipped = (int(n or 0) for n in summary[-1])
    else:
        passed, failed, skipped = (sum(int(n) for n in re.findall(rf"^(?:#|\u2139) {word} (\d+)$", text, re.M))
                                   for word in ("pass", "fail", "skipped"))
    if failed == 0 and (code != 0 or passed + skipped == 0):
        failed = 1
    return passed, failed, skipped


def tidy(_out):
    code, text = run([sys.executable, "tests/tools/tidy.py"], 120)
    print(text, end="")
    counts = re.search(r"^tidy: (\d+) rules kept, (\d+) broken$", text, re.M)
    if not counts:
        return 0, 1, 0
    kept, broken = int(counts.group(1)), int(counts.group(2))
    return kept, max(broken, int(code != 0)), 0


STAGES = {
    "tidy": tidy,
    "unit": unit,
    "fuzz": fuzz,
    "e2e": e2e,
    "clients": clients,
    "docker": lambda _out: pytest(["tests/docker"]),
}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--out", default="build")
    options.add_argument("--totals")
    options.add_argument("stages", nargs="+", choices=STAGES)
    chosen = options.parse_args()
    totals = [0, 0, 0]
    for stage in chosen.stages:
        began = time.monotonic()
        result = STAGES[stage](chosen.out)
        print(f"== {stage}: {result[0]} passed, {result[1]} failed, {result[2]} skipped "
              f"in {time.monotonic() - began:.1f} s", flush=True)
        totals = [a + b for a, b in zip(totals, result)]
    if chosen.totals:
        with open(chosen.totals, "a", encoding="ascii") as f:
            f.write(f"{totals[0]} {totals[1]}\n")
    if totals[2]:
        print(f"({totals[2]} skipped)")
    print(f"{totals[0]} passed, {totals[1]} failed")
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main())
