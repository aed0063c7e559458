#!/usr/bin/python3
"""Holdfast beside a bare Valkey, HAProxy and nutcracker, on this machine, in one run.

    run.py [--quick] [--rounds N] [--only PART ...] [--json FILE]        parts: get set tls watched sync commands zones failover mixed log memory

What counts are ratios. Each round measures every subject once, the direct one and the proxies in turns and in changing order, so
that a noise of the machine meets all of them; a ratio is the median of the rounds' own ratios. Every server runs in a temporary
directory on a free port and is ended by its pid.

    clients ──▶ Valkey ("direct")              clients ──▶ HAProxy ───┐
    clients ──▶ Holdfast ──▶ another Valkey    clients ──▶ nutcracker ┴─▶ the direct Valkey

Holdfast has a Valkey of its own, because its tap is a replica: the direct figures must not pay for that. For the sync rows
"direct" is a Valkey with appendfsync always, and HAProxy and nutcracker stand before that one. In the TLS rows both sides of the comparison
speak TLS with their clients, and Holdfast speaks it with its Valkey, too. The rows of three zones set a group of
three on loopback, with TLS between its members, beside a Valkey and two replicas, all with appendfsync always, whose clients send a
WAIT or WAITAOF after each SET (waits.c): disks and loopback as they are. Exit code 1 if a bar was missed.
"""
import argparse
import contextlib
import csv
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))
from callers import Retrying  # noqa: E402
from certificates import Authority  # noqa: E402
from group import Group  # noqa: E402
from harness import Holdfast, Process, Valkey, free_port, tool, wait_until  # noqa: E402

PARTS = ["get", "set", "tls", "watched", "sync", "commands", "zones", "failover", "mixed", "log", "memory"]
CLIENTS, BYTES, KEYS = 50, 100, 100_000
IDLE_CONNECTIONS = 2000
MIXED_SET_SHARE = 0.2
MIXED_OF_CAPACITY = 0.4  # offered load, as a share of what the slower side does flat out: latencies, not queues, are compared
CLK = os.sysconf("SC_CLK_TCK")


# ---- servers

class Proxy(Process):
    def __init__(self, directory, name, command, config, port):
        super().__init__(directory, name)
        self.port = port
        file = self.dir / f"{name}.conf"
        file.write_text(config)
        self.spawn([*command, str(file)])
        wait_until(lambda: accepts(port), 10, f"{name} listens")


def accepts(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def haproxy(directory, valkey):
    port = free_port()
    return Proxy(directory, "haproxy", ["haproxy", "-db", "-f"], f"""
global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout connect 5s
    timeout client 5m
    timeout server 5m
listen valkey
    bind 127.0.0.1:{port}
    server valkey 127.0.0.1:{valkey.port}
""", port)


def nutcracker(directory, valkey):
    port = free_port()
    return Proxy(directory, "nutcracker", ["nutcracker", "-m", "16384", "-s", str(free_port()), "-c"], f"""
pool:
  listen: 127.0.0.1:{port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  auto_eject_hosts: false
  servers:
    - 127.0.0.1:{valkey.port}:1
""", port)


class Servers:
    """Made when first asked for; all ended at the end."""

    def __init__(self, directory):
        self.dir, self.made, self.authority = pathlib.Path(directory), {}, None

    def get(self, name):
        if name not in self.made:
            self.made[name] = self._make(name, self.dir / name)
            if isinstance(self.made[name], (Valkey, Holdfast, Group)):
                fill(self.made[name].port)
        return self.made[name]

    def _make(self, name, place):
        if name == "direct":
            return Valkey(place)
        if name == "aof":
            return Valkey(place, "--appendonly", "yes", "--appendfsync", "always")
        if name == "holdfast":
            return self.holdfast(place)
        if name == "group":
            return self.group(place)
        if name == "direct+tls":
            return self.valkey_tls(place, free_port())
        if name == "aof+tls":
            return self.valkey_tls(place, free_port(), "--appendonly", "yes", "--appendfsync", "always")
        if name == "holdfast+tls":
            return self.holdfast_tls(place)
        if name == "replicated":
            return self.replicated(place)
        kind, behind = name.split("/")
        return {"haproxy": haproxy, "nutcracker": nutcracker}[kind](place, self.get(behind))

    def holdfast(self, place, **settings):
        behind = Valkey(place / "valkey")
        self.made[f"{place} valkey"] = behind
        made = Holdfast(place, behind, start=False, durability="sync", read_lanes=1, **settings)
        self.made[str(place)] = made  # so that it is ended even if it does not start
        made.start()
        made.behind = behind
        return made

    def tls_options(self, port):
        if self.authority is None:
            self.authority = Authority(self.dir / "certificates", "ca")
            self.certificate = self.authority.issue("server")
        return {"tls-port": port, "tls-auth-clients": "no", "tls-cert-file": self.certificate.crt, "tls-key-file": self.certificate.key,
                "tls-ca-cert-file": self.authority.crt}

    def valkey_tls(self, place, port, *more):
        return self.with_tls(Valkey(place, *more, *(w for k, v in self.tls_options(port).items() for w in (f"--{k}", v))), port)

    @staticmethod
    def with_tls(thing, port):
        thing.tls_port = port
        return thing

    def holdfast_tls(self, place):
        behind, port = self.valkey_tls(place / "valkey", free_port()), free_port()
        self.made[f"{place} valkey"] = behind
        made = Holdfast(place, f"127.0.0.1:{behind.tls_port}", start=False, durability="async", read_lanes=1, settings={
            **self.tls_options(port), "valkey-tls": "yes", "valkey-tls-ca-cert-file": self.authority.crt})
        self.made[str(place)] = made
        made.start()
        return self.with_tls(made, port)

    def group(self, place):
        made = Group(place, start=False, durability="sync", read_lanes=1)
        self.made[str(place)] = made  # so that it is ended even if it does not start
        made.start()
        made.port = made.leader().port
        return made

    def replicated(self, place):
        """A primary and two replicas, none of which answers before its own disk has it (replicas: report it)."""
        options = ("--appendonly", "yes", "--appendfsync", "always")
        primary = Valkey(place, *options)
        for n in range(2):
            self.made[f"{place} replica {n}"] = Valkey(place / f"replica{n}", *options, "--replicaof", f"127.0.0.1 {primary.port}")
        wait_until(lambda: primary.info("replication")["connected_slaves"] == "2", 20, "both replicas are connected")
        return primary

    def mode(self, mode):
        with self.get("holdfast").client() as c:
            assert c("CONFIG", "SET", "durability", mode) == b"OK"

    def close(self):
        for thing in reversed(list(self.made.values())):
            thing.close()


def fill(port):
    """Every key of the key space, so that each GET finds one."""
    load_keys(port, KEYS, lambda i: b"key:%012d" % i)


def load_keys(port, count, name):
    value = b"$%d\r\n%s\r\n" % (BYTES, b"x" * BYTES)
    with socket.create_connection(("127.0.0.1", port)) as s, s.makefile("rb") as replies:
        for start in range(0, count, 1000):
            names = [name(i) for i in range(start, min(start + 1000, count))]
            s.sendall(b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n" % (len(n), n) + value for n in names))
            got = replies.read(5 * len(names))
            assert got == b"+OK\r\n" * len(names), got[:200]


# ---- measuring

class Bench:
    def __init__(self, chosen, directory):
        self.seconds = 0.4 if chosen.quick else 1.2
        self.rounds = chosen.rounds or (2 if chosen.quick else 5)
        self.quick = chosen.quick
        self.servers = Servers(directory)
        self.dir = directory
        self.rates = {}  # of earlier runs, so that a run takes about self.seconds
        self.raw, self.rows = {}, []

    def cpu_seconds(self):
        """CPU used by each server that is up."""
        used = {}
        made = {**self.servers.made}
        for name, thing in self.servers.made.items():
            if isinstance(thing, Group):
                made.update({f"{name} {m.name}": m for m in thing})
        for name, thing in made.items():
            with contextlib.suppress(OSError, AttributeError):
                fields = pathlib.Path(f"/proc/{thing.pid}/stat").read_text().rsplit(")", 1)[1].split()
                used[name] = (int(fields[11]) + int(fields[12])) / CLK
        return used

    def benchmark(self, subject, test, pipeline=1, clients=CLIENTS):
        """One run of valkey-benchmark: throughput and percentiles (ms), and who used how much CPU."""
        server, key = self.servers.get(subject), (subject, test, pipeline, clients)
        port, tls = server.port, ()
        if hasattr(server, "tls_port"):
            port, tls = server.tls_port, ("--tls", "--cacert", str(self.servers.authority.crt))
        if key not in self.rates:
            self.rates[key] = self._benchmark(port, test, pipeline, clients, 300 * clients if clients > 1 else 2000, tls)["rps"]
        before, began = self.cpu_seconds(), time.monotonic()
        result = self._benchmark(port, test, pipeline, clients, max(int(self.rates[key] * self.seconds), 1000), tls)
        took = time.monotonic() - began
        result["cpu"] = {name: round((cpu - before[name]) / took, 2) for name, cpu in self.cpu_seconds().items()
                         if cpu - before[name] > 0.02 * took}
        self.rates[key] = result["rps"]
        return result

    @staticmethod
    def _benchmark(port, test, pipeline, clients, requests, tls=()):
        command = [tool("valkey-benchmark"), "-p", str(port), "-t", test, "-c", str(clients), "-d", str(BYTES), "-r", str(KEYS),
                   "-P", str(pipeline), "-n", str(requests), "--csv", *tls]
        text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
        rows = [r for r in csv.reader(text.splitlines()) if r and r[0].lower() == test]
        if not rows:
            raise RuntimeError(f"no figures from {' '.join(command)}:\n{text[-500:]}")
        names = ["rps", "avg", "min", "p50", "p95", "p99", "max"]
        return dict(zip(names, map(float, rows[-1][1:])))

    def rounds_of(self, what, subjects, measure):
        """{subject: [figures of each round]}; subjects in turns, each round beginning with another one."""
        found = {s: [] for s in subjects}
        for subject in subjects:
            measure(subject)  # once for warmth
        for n in range(self.rounds):
            for subject in subjects[n % len(subjects):] + subjects[:n % len(subjects)]:
                found[subject].append(measure(subject))
        self.raw[what] = found
        return found

    def row(self, name, value, bar, at_most=False, unit="", others=(), note=""):
        """others: what HAProxy and nutcracker reached; where there is a bar, being ahead of both is one too."""
        passed = None if bar is None or value is None else (value <= bar if at_most else value >= bar)
        ahead = None
        if passed is not None and others:
            ahead = all(value <= o if at_most else value >= o for o in others if o is not None)
        self.rows.append({"work": name, "value": value, "bar": bar, "at_most": at_most, "unit": unit, "passed": passed,
                          "haproxy_nutcracker": list(others), "ahead": ahead, "note": note})
        print(line_of(self.rows[-1]), flush=True)


def ratio(found, subject, base, figure):
    pairs = [s[figure] / b[figure] for s, b in zip(found[subject], found[base]) if b[figure]]
    return statistics.median(pairs) if pairs else None


def line_of(row):
    def show(v):
        return "-" if v is None else f"{v:.0f}" if abs(v) >= 100 else f"{v:.2f}"
    verdict = {True: "pass", False: "MISS", None: "-"}[row["passed"]]
    if row["ahead"] is False:
        verdict += ", behind"
    bar = "-" if row["bar"] is None else f"{'<=' if row['at_most'] else '>='} {show(row['bar'])}"
    others = [*row["haproxy_nutcracker"], None, None][:2]
    return (f"{row['work']:<58} {show(row['value']) + row['unit']:>10} {bar:>9} {show(others[0]):>8} {show(others[1]):>10}"
            f"  {verdict}" + (f"  ({row['note']})" if row["note"] else ""))


HEAD = f"{'work':<58} {'Holdfast':>10} {'bar':>9} {'HAProxy':>8} {'nutcracker':>10}  verdict"


# ---- the parts

def compare(bench, test, pipeline, bar, base, label, p50_bar=None):
    """Throughput (and p50) of Holdfast and of the two proxies, each through `base` = 1."""
    subjects = [base, "holdfast", f"haproxy/{base}", f"nutcracker/{base}"]
    found = bench.rounds_of(label, subjects, lambda s: bench.benchmark(s, test, pipeline))
    rps = [ratio(found, s, base, "rps") for s in subjects[1:]]
    bench.row(f"{label}: throughput", rps[0], bar, others=rps[1:])
    p50 = [ratio(found, s, base, "p50") for s in subjects[1:]]
    bench.row(f"{label}: p50", p50[0], p50_bar, at_most=True, others=p50[1:])


def part_get(bench):
    bench.servers.get("holdfast")
    bench.servers.mode("sync")
    compare(bench, "get", 1, 0.80, "direct", "GET / direct", p50_bar=1.4)
    compare(bench, "get", 16, 0.90, "direct", "GET / direct, pipeline of 16")


def part_set(bench):
    bench.servers.mode("async")
    compare(bench, "set", 1, 0.80, "direct", "async SET / direct SET")
    compare(bench, "set", 16, 0.60, "direct", "async SET / direct SET, pipeline of 16")


def part_tls(bench):
    for test, pipeline, label in (("get", 1, "GET"), ("get", 16, "GET, pipeline of 16"), ("set", 1, "async SET")):
        label = f"TLS: {label} / direct"
        found = bench.rounds_of(label, ["direct+tls", "holdfast+tls"], lambda s: bench.benchmark(s, test, pipeline))
        bench.row(f"{label}: throughput", ratio(found, "holdfast+tls", "direct+tls", "rps"), None)
        bench.row(f"{label}: p50", ratio(found, "holdfast+tls", "direct+tls", "p50"), None, at_most=True)
    with bench.servers.get("holdfast+tls").client() as c:
        assert c("CONFIG", "SET", "durability", "sync") == b"OK"
    label = "TLS: sync SET / appendfsync always"
    found = bench.rounds_of(label, ["aof+tls", "holdfast+tls"], lambda s: bench.benchmark(s, "set"))
    bench.row(f"{label}: throughput", ratio(found, "holdfast+tls", "aof+tls", "rps"), None)
    bench.row(f"{label}: p50", ratio(found, "holdfast+tls", "aof+tls", "p50"), None, at_most=True)
    with bench.servers.get("holdfast+tls").client() as c:
        assert c("CONFIG", "SET", "durability", "async") == b"OK"


class Watchers:
    """Prometheus, and three people with the page open: each asks once a second."""

    PATHS = ("/metrics", "/history", "/history", "/history")

    def __init__(self, port):
        self.over, self.answers, self.port = threading.Event(), 0, port
        self.threads = [threading.Thread(target=self.watch, args=(path,), daemon=True) for path in self.PATHS]

    def watch(self, path):
        since = int(time.time() * 1000)
        while True:
            of = f"?since={since}" if path == "/history" else ""
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}{of}", timeout=10) as answer:
                assert answer.read()
            since = int(time.time() * 1000)
            self.answers += 1
            if self.over.wait(1):
                return

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join()
        assert self.answers >= len(self.threads), "somebody got no answer"


def part_watched(bench):
    """With its metrics scraped and its page looked at, against nobody watching."""
    port = bench.servers.get("holdfast").admin_port
    for mode, test in (("sync", "get"), ("async", "set")):
        bench.servers.mode(mode)

        def measure(subject):
            with Watchers(port) if subject == "watched" else contextlib.nullcontext():
                return bench.benchmark("holdfast", test)  # noqa: B023
        label = f"{mode} {test.upper()}, watched / not watched"
        found = bench.rounds_of(label, ["alone", "watched"], measure)
        bench.row(f"{label}: throughput", ratio(found, "watched", "alone", "rps"), None)
        bench.row(f"{label}: p50", ratio(found, "watched", "alone", "p50"), None, at_most=True)


def part_sync(bench):
    bench.servers.mode("sync")
    compare(bench, "set", 1, 0.80, "aof", "sync SET / appendfsync always")
    label = "sync SET / appendfsync always, one client"
    subjects = ["aof", "holdfast", "haproxy/aof", "nutcracker/aof"]
    found = bench.rounds_of(label, subjects, lambda s: bench.benchmark(s, "set", clients=1))
    p50 = [ratio(found, s, "aof", "p50") for s in subjects[1:]]
    bench.row(f"{label}: p50", p50[0], 1.8, at_most=True, others=p50[1:])


SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('INCR', KEYS[2])"
COMMANDS = {"transaction": "MULTI / SET %k %d / INCR n:%k / EXEC".split(), "EVALSHA": ["EVALSHA", None, "2", "%k", "n:%k", "%d"],
            "XADD": "XADD x:%k MAXLEN ~ 1000 * f %d".split(), "BLPOP, hand-over": ["HANDOVER"], "SET": "SET %k %d".split()}


def blocks(bench, subject, what, clients=CLIENTS):
    """One run of blocks.c."""
    server = bench.servers.get(subject)
    with server.client() as c:
        sha = c("SCRIPT", "LOAD", SCRIPT).decode()
    words = [sha if w is None else w for w in COMMANDS[what]]
    command = [build("blocks"), server.port, bench.seconds, clients, KEYS, BYTES, *words]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{what}, {subject}: {done.stderr}")
    return json.loads(done.stdout)


def part_commands(bench):
    """Of what is replayable the transaction and XADD, of what is captured the script, and what changes hands."""
    bench.servers.get("holdfast")
    for mode, base, with_what in (("async", "direct", "direct"), ("sync", "aof", "appendfsync always")):
        bench.servers.mode(mode)
        for what in ("transaction", "EVALSHA", "XADD", "BLPOP, hand-over"):
            label = f"{mode} {what} / {with_what}"
            found = bench.rounds_of(label, [base, "holdfast"], lambda s: blocks(bench, s, what))  # noqa: B023
            bench.row(f"{label}: throughput", ratio(found, "holdfast", base, "rps"), None)
            bench.row(f"{label}: p50", ratio(found, "holdfast", base, "p50"), None, at_most=True)
    ways = {"captured": lambda: blocks(bench, "holdfast", "EVALSHA", 1), "replayable": lambda: blocks(bench, "holdfast", "SET", 1),
            "captured, many": lambda: blocks(bench, "holdfast", "EVALSHA")}
    found = bench.rounds_of("captured", list(ways), lambda way: ways[way]())
    bench.row("sync EVALSHA (captured) / sync SET, one client: p50", ratio(found, "captured", "replayable", "p50"), 2.0, at_most=True)
    bench.row("sync EVALSHA, 50 clients / one client: throughput", ratio(found, "captured, many", "captured", "rps"), 5.0)


WAITS = {"group": ("group", ()), "wait": ("replicated", ("WAIT", 1, 1000)), "waitaof": ("replicated", ("WAITAOF", 1, 1, 5000))}
WAITAOF_SECONDS = 4  # replicas report what they have synced once a second: fewer would measure nothing


def waits(bench, subject, clients):
    server, words = WAITS[subject]
    seconds = max(bench.seconds, WAITAOF_SECONDS if subject == "waitaof" else 0)
    command = [build("waits"), bench.servers.get(server).port, seconds, clients, KEYS, BYTES, *words]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{subject}: {done.stderr}")
    return json.loads(done.stdout)


def part_zones(bench):
    label = "sync SET, three zones / two replicas, AOF always"
    found = bench.rounds_of(label, list(WAITS), lambda s: waits(bench, s, CLIENTS))
    bench.row(f"{label}, WAIT 1: throughput", ratio(found, "group", "wait", "rps"), 1.0)
    bench.row(f"{label}, WAITAOF 1 1: throughput", ratio(found, "group", "waitaof", "rps"), 8)
    bench.row(f"{label}, WAIT 1: p50", ratio(found, "group", "wait", "p50"), None, at_most=True)
    found = bench.rounds_of(f"{label}, one client", ["group", "wait"], lambda s: waits(bench, s, 1))
    bench.row(f"{label}, WAIT 1, one client: p50", ratio(found, "group", "wait", "p50"), 1.0, at_most=True)


def part_failover(bench):
    """kill -9 of the leader and its Valkey, to the next acknowledged write by another endpoint."""
    group, times = bench.servers.get("group"), []
    for n in range(3 if bench.quick else 10):
        leader = group.leader()
        writer = Retrying([m.endpoint() for m in group.others(leader)], f"failover{n}")
        writer.start()
        writer.wait_for(50)
        killed = time.monotonic()
        group.kill9_zone(leader)
        times.append(writer.next_acknowledged(killed))
        writer.wait_for(20)
        writer.finish()
        group.restart(leader)
        group.wait_equal()
        with group.leader().client() as c:
            writer.check(c)
    group.port = group.leader().port
    bench.raw["failover"] = times
    bench.row("failover, kill -9 of the leader and its Valkey: s to a write", statistics.median(times), 1.0, at_most=True,
              note=f"worst {max(times):.2f} s, of {len(times)}")


def part_mixed(bench):
    program, port = build("mixed"), bench.servers.get("holdfast").port
    seconds = bench.seconds * 2

    def run(mode, rate):
        bench.servers.mode(mode)
        command = [program, port, seconds, rate, MIXED_SET_SHARE, CLIENTS, KEYS, BYTES]
        done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout)
    flat_out = {mode: run(mode, 0) for mode in ("sync", "async")}
    # In a closed loop the two kinds go at different speeds: of each, what the slower mode reached.
    capacity = min(min(f["get"]["rps"] / (1 - MIXED_SET_SHARE), f["set"]["rps"] / MIXED_SET_SHARE) for f in flat_out.values())
    rate = int(capacity * MIXED_OF_CAPACITY)
    label = "GET beside SETs (80/20), sync / async"
    found = bench.rounds_of(label, ["sync", "async"], lambda mode: run(mode, rate))
    bench.raw[label]["flat out"], bench.raw[label]["rate"] = flat_out, rate
    gets = {mode: [f["get"] for f in found[mode]] for mode in ("sync", "async")}
    bench.row(f"{label}: p50", ratio(gets, "sync", "async", "p50"), 1.10, at_most=True, note=f"{rate}/s")
    bench.row(f"{label}: p99", ratio(gets, "sync", "async", "p99"), 1.25, at_most=True)


def part_log(bench):
    """log_bench says, for each size: bytes, LMDB MB/s, log MB/s, their ratio ..."""
    text = subprocess.run([build("log_bench"), str(bench.dir), "0.5" if bench.quick else "2"], check=True, capture_output=True,
                          text=True, timeout=240).stdout
    rows = [[float(w) for w in line.split()] for line in text.splitlines() if re.match(r"^[\s\d.]+$", line) and line.strip()]
    bench.raw["log"] = text.splitlines()
    large = [r[3] for r in rows if r[0] >= 1_000_000]
    bench.row("log / LMDB alone, values of 1 MB and more: throughput", statistics.median(large), 0.80)


def memory_of(pid):
    """(anonymous, all) resident bytes: what is mapped from the log's file is the kernel's to drop."""
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return [int(fields[f].split()[0]) * 1024 for f in ("RssAnon", "VmRSS")]


def settled_memory(pid):
    """Once two looks agree: what was queued has been freed."""
    last = memory_of(pid)
    for _ in range(50):
        time.sleep(0.2)
        now = memory_of(pid)
        if abs(now[0] - last[0]) < 16384:
            return now
        last = now
    return last


def part_memory(bench):
    """In a Holdfast of its own, that takes no snapshot: memory used and given back would hide what is measured, or count as it."""
    fresh = bench.servers.holdfast(bench.dir / "memory", snapshot_log_bytes="64gb")
    idle, looks = [], []
    try:
        for count in (IDLE_CONNECTIONS // 2, IDLE_CONNECTIONS):  # the first ones fill what the start has freed
            for _ in range(count):
                s = socket.create_connection(("127.0.0.1", fresh.port))
                idle.append(s)
                s.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n")
                assert s.recv(64) == b"$-1\r\n"
            looks.append(settled_memory(fresh.pid))
    finally:
        for s in idle:
            s.close()
    each = (looks[1][0] - looks[0][0]) / IDLE_CONNECTIONS
    bench.row("memory: an idle connection, KiB", each / 1024, 4.0, at_most=True)
    million = 200_000 if bench.quick else 1_000_000
    load_keys(fresh.port, million, lambda i: b"first:%012d" % i)  # buffers find their size
    before = settled_memory(fresh.pid)
    load_keys(fresh.port, million, lambda i: b"second:%012d" % i)
    after = settled_memory(fresh.pid)
    bench.raw["memory"] = {"idle": looks, "keys": [before, after]}
    bench.row("memory: a million keys, MiB", (after[0] - before[0]) / million * 1e6 / 2**20, 2.0, at_most=True,
              note=f"bar: none; resident with the mapped log {(after[1] - before[1]) / million * 1e6 / 2**20:+.0f} MiB")


def build(name):
    """The Makefile's build/bench/<name>."""
    out = TOP / "build" / "bench" / name
    subprocess.run(["make", "-s", "-C", str(TOP), str(out.relative_to(TOP))], check=True, stdout=subprocess.DEVNULL)
    return str(out)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--quick", action="store_true")
    options.add_argument("--rounds", type=int)
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--json", default=str(TOP / "build" / "bench.json"))
    chosen = options.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="hf-bench-", dir=os.environ.get("HF_TMP")))
    bench, began = Bench(chosen, directory), time.monotonic()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): figures will be worse than they are, and of the proxies most of all.")
    print(HEAD, flush=True)
    try:
        for part in PARTS:
            if part in chosen.only:
                globals()[f"part_{part}"](bench)
    finally:
        bench.servers.close()
        shutil.rmtree(directory, ignore_errors=True)
    missed = [r["work"] for r in bench.rows if r["passed"] is False or r["ahead"] is False]
    with open(chosen.json, "w", encoding="utf-8") as f:
        json.dump({"rows": bench.rows, "raw": bench.raw, "rounds": bench.rounds, "load": load, "seconds": time.monotonic() - began}, f, indent=1)
    print(f"{len(bench.rows)} rows, {len(missed)} missed or behind, in {time.monotonic() - began:.0f} s; raw figures in {chosen.json}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
