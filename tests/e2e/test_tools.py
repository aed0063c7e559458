"""Valkey's own tools, unchanged, against Holdfast: no error printed, exit code 0."""
import os
import pty
import re
import subprocess
import threading

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


# ---- what looks at a server, or fills it: by the port of the leader, of a follower, and by reader-port ----

def watched(port, *words, lines, seconds=30):
    """A mode of valkey-cli that never ends, on a terminal: its first lines. Then it is ended."""
    ours, its = pty.openpty()
    done = subprocess.Popen([tool("valkey-cli"), "-p", str(port), *words], stdin=its, stdout=its, stderr=its)
    os.close(its)
    late = threading.Timer(seconds * PATIENCE, done.kill)
    late.start()
    text = b""
    try:
        while text.count(b"\n") < lines:
            text += os.read(ours, 4096)
    except OSError:
        raise AssertionError(f"it has ended, or said too little: {text.decode()}") from None
    finally:
        late.cancel()
        done.kill()
        done.wait()
        os.close(ours)
    return text.decode().splitlines()[:lines]


@pytest.fixture
def ports(rig):
    """Of a group with some data: {what: port}."""
    g = rig.group(valkey_options=("--maxmemory-policy", "allkeys-lfu"))
    leader = g.leader()
    follower = g.others(leader)[0]
    commands = [("SET", f"key:{n:03}", "x" * n) for n in range(200)] + [("RPUSH", "list", *range(500)), ("SADD", "set", *range(50)),
                                                                        ("HSET", "hash", "f", "v" * 3000), ("ZADD", "zset", 1, "a"), ("XADD", "stream", "*", "f", "v")]
    with leader.client() as c:
        assert not [r for r in c.pipeline(commands) if isinstance(r, Exception)]
        c.pipeline([("GET", "key:007")] * 500)
    g.wait_equal()
    with follower.reader() as c:
        c.pipeline([("GET", "key:007")] * 500)
    return {"leader": leader.port, "follower": follower.port, "reader-port": follower.reader_port}


def test_modes_that_look(ports):
    for what, port in ports.items():
        def cli(*words):
            code, text = run(tool("valkey-cli"), "-p", port, *words)
            assert code == 0 and "ERR" not in text and "error" not in text.lower(), (what, words, text)
            return text
        keys = int(cli("DBSIZE"))
        text = cli("--bigkeys")
        assert keys >= 205 and f"Sampled {keys} keys in the keyspace" in text and re.search(r'Biggest +list found .*list.* has 500 items', text), (what, text)
        assert re.search(r'Biggest +string found .*key:199.* has 199 bytes', text) and re.search(r'Biggest +set found .*set.* has 50 members', text), (what, text)
        text = cli("--memkeys")
        assert f"Sampled {keys} keys in the keyspace" in text and re.search(r"Biggest +hash found .*hash.* has \d{4} bytes", text), (what, text)
        text = cli("--hotkeys")
        hottest = re.search(r"hot key found with counter: (\d+)\s+keyname: .*key:007", text)
        assert hottest and int(hottest[1]) > 5, (what, text)
        assert len(cli("--scan").split()) == keys and sorted(cli("--scan", "--pattern", "key:00?").split()) == [f"key:00{n}" for n in range(10)], what
        header, fields, first, second = watched(port, "--stat", "-i", "0.05", lines=4)
        assert header.startswith("------- data ") and fields.split()[:2] == ["keys", "mem"], (what, header, fields)
        for line in (first, second):
            shown, _, clients, blocked, requests = line.split()[:5]
            assert int(shown) == keys and int(clients) >= 1 and blocked == "0" and int(requests) > 0, (what, line)


def test_latency_modes(ports):
    """min, max, average in milliseconds, and of how many."""
    for what, port in ports.items():
        for words in (["--latency"], ["--latency-history", "-i", "1"]):
            for line in watched(port, "--raw", *words, lines=1 if len(words) == 1 else 2):
                least, most, mean, samples = line.split()[:4]
                assert 0 <= float(least) <= float(mean) <= float(most) < 5000 and int(samples) >= 1, (what, words, line)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_pipe(rig, mode):
    """Mass insertion: each is answered, the errors counted, by the leader's port and by a follower's."""
    g = rig.group(durability=mode)
    leader = g.leader()
    follower = g.others(leader)[0]
    count = 3000
    for name, port in (("a", leader.port), ("b", follower.port)):
        rows = "".join(f"*3\r\n$3\r\nSET\r\n$6\r\n{name}{n:05}\r\n$5\r\n{n:05}\r\n" for n in range(count))
        wrong = "*3\r\n$5\r\nLPUSH\r\n$6\r\na00000\r\n$1\r\n1\r\n"
        code, text = run(tool("valkey-cli"), "-p", port, "--pipe", stdin=rows)
        assert code == 0 and f"errors: 0, replies: {count}" in text, text
        code, text = run(tool("valkey-cli"), "-p", port, "--pipe", stdin=rows + wrong)
        assert f"errors: 1, replies: {count + 1}" in text, text
    g.wait_equal()
    for m in g:
        with m.reader() as c:
            assert c.pipeline([("GET", "a02999"), ("GET", "b00001")]) == [b"02999", b"00001"]
            assert len([k for k in c("KEYS", "*") if re.fullmatch(rb"[ab]\d{5}", k)]) == 2 * count


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
