"""Valkey's own tools, unchanged, against Holdfast: no error printed, exit code 0."""
import re
import subprocess

import pytest

from harness import FULL, PATIENCE, SANITIZED, tool

REQUESTS = 20000 if FULL else 1500 if SANITIZED else 4000


def run(*words, stdin=None, seconds=120):
    done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, input=stdin, text=True, timeout=seconds * PATIENCE)
    return done.returncode, done.stdout


@pytest.fixture
def cli(rig):
    _, h = rig.pair()

    def call(*words, stdin=None):
        code, text = run(tool("valkey-cli"), "-p", h.port, *words, stdin=stdin)
        assert code == 0, text
        return text.rstrip("\n")
    call.holdfast = h
    return call


@pytest.mark.parametrize("form", [[], ["-3"], ["-2"]], ids=["default", "RESP3", "RESP2"])
def test_cli(cli, form):
    assert cli(*form, "PING") == "PONG"
    assert cli(*form, "SET", "k", "v") == "OK"
    assert cli(*form, "GET", "k") == "v"
    assert cli(*form, "-n", "3", "SET", "k", "three") == "OK"
    assert cli(*form, "-n", "3", "GET", "k") == "three"
    assert cli(*form, "HSET", "h", "a", "1", "b", "2") == "2"
    assert cli(*form, "HGETALL", "h").split() == ["a", "1", "b", "2"]
    assert "redis_version" in cli(*form, "INFO") or "valkey_version" in cli(*form, "INFO")
    assert cli(*form, "EVAL", "return {1, KEYS[1]}", "1", "x").split() == ["1", "x"]
    assert "ERR" in cli(*form, "NOSUCH")
    assert cli(*form, stdin="MULTI\nSET a 1\nINCR a\nEXEC\n").split() == ["OK", "QUEUED", "QUEUED", "OK", "2"]
    assert cli(*form, "-x", "SET", "piped", stdin="from stdin") == "OK"
    assert cli(*form, "--no-auth-warning", "CLIENT", "DURABILITY", "ASYNC") == "OK"
    assert cli(*form, "-r", "5", "INCR", "counted").split() == ["1", "2", "3", "4", "5"]


def test_cli_modes(cli):
    for n in range(20):
        cli("SET", f"key:{n}", "x" * n)
    assert sorted(cli("--scan", "--pattern", "key:*").split()) == sorted(f"key:{n}" for n in range(20))
    assert "Biggest string" in cli("--bigkeys")
    pipe = "".join(f"*3\r\n$3\r\nSET\r\n$6\r\npiped{n}\r\n$1\r\n{n}\r\n" for n in range(10))
    assert "errors: 0, replies: 10" in cli("--pipe", stdin=pipe)
    assert cli("GET", "piped7") == "7"
    assert "valkey" in cli("HELLO", "3").lower() or "redis" in cli("HELLO", "3").lower()
    assert "summary" in cli("COMMAND", "DOCS", "get")
    assert cli("-u", f"valkey://127.0.0.1:{cli.holdfast.port}/5", "SET", "k", "five") == "OK"
    assert cli("-n", "5", "GET", "k") == "five"


BENCHMARKS = [[], ["-P", "16"], ["--threads", "2"], ["-P", "16", "--threads", "2"], ["-3"]]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("options", BENCHMARKS, ids=lambda o: " ".join(o) or "plain")
def test_benchmark(rig, mode, options):
    _, h = rig.pair(durability=mode)
    code, text = run(tool("valkey-benchmark"), "-p", h.port, "-n", REQUESTS, "-c", 20, "-r", 1000, *options, seconds=240)
    assert code == 0, text
    wrong = [line for line in text.splitlines() if re.search(r"(?i)error|warning|invalid|refused|could not|CLUSTERDOWN|UNCERTAIN", line)]
    assert not wrong, wrong
    summaries = re.findall(r"throughput summary: ([0-9.]+) requests per second", text)
    assert len(summaries) >= 18, f"{len(summaries)} tests:\n{text[-2000:]}"
    assert h.status()["writes_uncertain"] == 0 and h.status()["writes_rejected"] == 0
