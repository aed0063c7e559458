"""Backups: `valkey-cli --rdb FILE`. What comes is a plain RDB file that Valkey loads; it holds every write that was acknowledged before it was
asked for, and none that is not durable; whoever reads it slowly costs nobody anything."""
import concurrent.futures
import contextlib
import os
import pathlib
import re
import socket
import subprocess
import threading
import time

import pytest

from certificates import Authority, Tls
from harness import PATIENCE, SANITIZED, TOP, eventually, is_error, tool, wait_until
from resp import Client, encode

CLIS = [tool("valkey-cli")] + sorted(map(str, (TOP / "build/valkeys").glob("*/bin/valkey-cli")))
BIG = (20 if SANITIZED else 100) << 20
ASK = encode("REPLCONF", "capa", "eof") + encode("REPLCONF", "rdb-only", 1) + encode("SYNC")

EVERYTHING = """set s v | set expires v px 100000000 | setbit bits 70000 1 | incr n | append s w | rpush l a b 3 | lpush l z | sadd ints 1 2 3 | sadd s2 a b |
    hset h f 1 g 2 | zadd z 1 a 2.5 b | pfadd hll a b c | geoadd geo 13.361389 38.115556 p | xadd x 1-1 f v | xadd x 2-1 f w | xgroup create x gr 0 |
    xreadgroup group gr c count 1 streams x > | xdel x 2-1 | setrange big 100000 end | select 3 | set s three | mset a 1 b 2 | select 0"""


def ask_cli(port, file, *words, cli=CLIS[0], seconds=120):
    return subprocess.run(list(map(str, (cli, "-p", port, *words, "--rdb", file))), capture_output=True, text=True, timeout=seconds * PATIENCE)


def backup(port, file, *words, **more):
    done = ask_cli(port, file, *words, **more)
    assert done.returncode == 0, done
    return file


def loaded(rig, file):
    """A Valkey that begins with this file."""
    pathlib.Path(file).chmod(0o644)
    return rig.valkey("--dir", str(file.parent), "--dbfilename", file.name)


def fill(c):
    for words in filter(None, (command.split() for command in EVERYTHING.split("|"))):
        c(*words)
    c("FUNCTION", "LOAD", "#!lua name=lib\nserver.register_function('f', function() return 5 end)")
    c("RPUSH", "binary", bytes(range(256)), os.urandom(5000))


def contents(c):
    return c("DEBUG", "DIGEST"), c("FUNCTION", "LIST", "WITHCODE")


class Reader:
    """A client that asks for a backup and reads it when it is told to."""

    def __init__(self, address, window=None):
        self.sock = socket.socket()
        if window:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.sock.settimeout(60 * PATIENCE)
        self.sock.connect(("127.0.0.1", address))
        self.sock.sendall(ASK)
        self.file = self.sock.makefile("rb", buffering=1 << 16 if not window else 0)
        assert [self.file.readline() for _ in range(2)] == [b"+OK\r\n"] * 2
        self.taken, self.last = 0, b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.sock.close()

    def header(self):
        """How many bytes are to come; an error, as it is."""
        line = b"\n"
        while line == b"\n":
            line = self.file.readline()
        return int(line[1:]) if line[:1] == b"$" else line

    def some(self, n):
        got = self.file.read(n)
        self.taken += len(got)
        return got

    def rest(self):
        """All until it is closed."""
        out = []
        with contextlib.suppress(ConnectionError):
            while got := self.file.read(1 << 16):
                out.append(got)
                self.last = got
        self.taken += sum(map(len, out))
        return b"".join(out)


def held_files(h):
    """Snapshot files that are open in it, removed ones too."""
    found = []
    for fd in pathlib.Path(f"/proc/{h.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(fd))
    return [f for f in found if re.search(r"/snapshots/\d+\.rdb( \(deleted\))?$", f)]


# ---- what is in it ----

@pytest.mark.parametrize("cli", CLIS, ids=lambda p: pathlib.Path(p).parts[-3])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_of_all_types(rig, mode, cli):
    v, h = rig.pair(durability=mode)
    with h.client() as c:
        fill(c)
    for form in ([], ["-3"], ["-n", 3]):
        file = backup(h.port, rig.dir / f"{len(form)}{form and form[0]}.rdb", *form, cli=cli)
        with loaded(rig, file).client() as theirs, v.client() as ours:
            assert contents(theirs) == contents(ours)
            assert 0 < theirs("PTTL", "expires") <= 100000000 and theirs("XINFO", "GROUPS", "x") == ours("XINFO", "GROUPS", "x")
    assert "Backup to client id=" in h.text()


def test_of_every_node_of_a_group(rig):
    """By each port; reader-port gives the node's own, and the leader takes no snapshot for that."""
    g = rig.group()
    leader = g.leader()
    with leader.client() as c:
        fill(c)
    g.wait_equal()
    for m in g:
        file = backup(m.port, rig.dir / f"{m.name}.rdb")
        with loaded(rig, file).client() as theirs, leader.valkey_client() as ours:
            assert contents(theirs) == contents(ours)
    follower = g.others(leader)[0]
    before = leader.status()["snapshot_unix_ms"], g[follower].status()["snapshot_unix_ms"]
    file = backup(g[follower].reader_port, rig.dir / "reader.rdb")
    with loaded(rig, file).client() as theirs, leader.valkey_client() as ours:
        assert contents(theirs) == contents(ours)
    assert leader.status()["snapshot_unix_ms"] == before[0] and g[follower].status()["snapshot_unix_ms"] > before[1]


class Writer(threading.Thread):
    """a, then b, then both again with the next number: whatever is a prefix of that has a == b or a == b + 1."""

    def __init__(self, m, name):
        super().__init__(daemon=True)
        self.m, self.keys, self.acked, self.sent, self.stop, self.error = m, [f"{name}:a", f"{name}:b"], [0, 0], [0, 0], False, None

    def run(self):
        try:
            with self.m.client() as c:
                n = 0
                while not self.stop:
                    n += 1
                    for i, key in enumerate(self.keys):
                        self.sent[i] = n
                        # the second one is captured: in sync its effect is in the log later than that of the first
                        assert c(*(("SET", key, n) if i == 0 else ("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, key, n))) == b"OK"
                        self.acked[i] = n
        except Exception as e:  # noqa: BLE001 told by the test
            self.error = e


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_under_writes_it_is_a_prefix_with_all_that_was_acknowledged(rig, mode):
    """Also when another snapshot is under way as it is asked for: that one would be too old."""
    g = rig.group(durability=mode)
    leader = g.leader()
    follower = g[g.others(leader)[0]]
    with leader.client() as c:
        c("EVAL", "for i = 1, 20000 do redis.call('SET', 'filler:' .. i, string.rep(i, 50)) end", 0)
    g.wait_equal()
    writers = [Writer(m, f"w{i}") for i, m in enumerate((leader, leader, follower))]
    for w in writers:
        w.start()
    wait_until(lambda: all(w.acked[1] > 5 or w.error for w in writers), 20, "they write")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for turn, port in enumerate([leader.port, follower.port, leader.port, follower.port, follower.reader_port]):
            of = follower if port == follower.reader_port else leader
            other = pool.submit(of.http, "/snapshot", "POST") if turn >= 2 else None
            if other:
                eventually(lambda: of.status()["snapshot_running"] or other.done(), bool, 10, "a snapshot is under way")
            before = [list(w.acked) for w in writers]
            file = backup(port, rig.dir / f"{turn}.rdb")
            after = [list(w.sent) for w in writers]
            with loaded(rig, file).client() as theirs:
                for w, least, most in zip(writers, before, after):
                    a, b = (int(v or 0) for v in theirs("MGET", *w.keys))
                    assert b in (a, a - 1) and a <= most[0], (turn, w.keys, a, b, most)
                    assert port == follower.reader_port or (a >= least[0] and b >= least[1]), (turn, w.keys, a, b, least)
    for w in writers:
        w.stop = True
        w.join(20)
        assert w.error is None, w.error


def test_what_is_not_durable_is_not_shown(rig):
    """An async leader without its majority: what it has answered may yet be dropped. Asked when that is known already, and just before."""
    g = rig.group(durability="async", durability_lag_max="60s")
    leader = g.leader()
    with leader.client() as c, Reader(leader.port) as first:
        assert isinstance(first.header(), int)
        for m in g.others(leader):
            g.pause(m)
        assert c("SET", "ghost", 1) == b"OK"
        with Reader(leader.port) as early:
            got = early.header()
            assert got.startswith(b"-CLUSTERDOWN "), got
        wait_until(lambda: leader.status()["detached"], 20, "it is detached")
        done = ask_cli(leader.port, rig.dir / "none.rdb")
        assert done.returncode == 1 and "SYNC with primary failed: -CLUSTERDOWN " in done.stderr and not (rig.dir / "none.rdb").exists(), done
        for m in g.others(leader):
            g.resume(m)
    g.leader()
    g.wait_serving()
    backup(g.leader().port, rig.dir / "later.rdb")


# ---- who takes long ----

def big_pair(rig):
    v, h = rig.pair(snapshot_log_bytes="4gb")
    with h.client(timeout=60 * PATIENCE) as c:
        assert c("CLIENT", "DURABILITY", "ASYNC") == b"OK"
        chunk = 1 << 20
        for at in range(0, BIG, chunk):
            c("SET", f"large:{at}", os.urandom(chunk))
    return v, h


def test_a_big_one_for_a_slow_reader(rig):
    """No memory for it, no limit of output buffers, nobody else waits; its snapshot may be replaced meanwhile. Who goes away leaves nothing."""
    v, h = big_pair(rig)
    file = backup(h.port, rig.dir / "first.rdb")
    assert file.stat().st_size > BIG
    memory = h.rss_kib()
    with h.client() as c:
        assert c("CONFIG", "SET", "client-output-buffer-limit", "normal 400kb 300kb 1") == b"OK"
    with Reader(h.port, window=64 << 10) as slow, Reader(h.port, window=64 << 10) as leaves, h.client() as c:
        size = slow.header()
        assert size == leaves.header() and size > BIG
        slow.some(1000)
        slowest = 0.0
        with Reader(h.port) as fast:
            assert fast.header() == size
            began = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor() as pool:
                reading = pool.submit(fast.rest)
                while not reading.done():
                    asked = time.monotonic()
                    assert c("PING") == b"PONG"
                    slowest = max(slowest, time.monotonic() - asked)
                took = time.monotonic() - began
                assert len(reading.result()) == size
        print(f"{size / took / 1e6:.0f} MB/s, the slowest PING {slowest * 1000:.1f} ms, {h.rss_kib() - memory} KiB more memory")
        assert slowest < 1.0 * PATIENCE
        assert c("SET", "later", 1) == b"OK"
        assert h.http("/snapshot", "POST")[0] == 200
        assert len(held_files(h)) >= 2
        assert h.rss_kib() - memory < 12 * 1024 * PATIENCE
    wait_until(lambda: not held_files(h), 20, lambda: f"no file is held: {held_files(h)}")
    with h.client() as c:
        assert c("PING") == b"PONG"


def test_what_was_replaced_meanwhile_arrives_whole(rig):
    v, h = rig.pair()
    with h.client() as c:
        c("CLIENT", "DURABILITY", "ASYNC")
        for n in range(24):
            c("SET", f"large:{n}", os.urandom(1 << 20))
        digest = v.digest()
        with Reader(h.port, window=64 << 10) as slow:
            size = slow.header()
            data = slow.some(1 << 16)
            c("FLUSHALL")
            assert h.http("/snapshot", "POST")[0] == 200
            data += slow.rest()
    assert len(data) == size and data.startswith((b"REDIS", b"VALKEY"))
    file = rig.dir / "slow.rdb"
    file.write_bytes(data)
    assert loaded(rig, file).digest() == digest
    wait_until(lambda: not held_files(h), 20, "no file is held")


def test_asked_for_during_a_long_snapshot(rig):
    """Longer than a snapshot that does not begin is waited for: it gets the next one, with what was written meanwhile."""
    v, h = rig.pair()
    with h.client() as c, v.client() as direct, concurrent.futures.ThreadPoolExecutor() as pool:
        for n in range(8):
            assert c("SET", f"k{n}", n) == b"OK"
        assert direct("CONFIG", "SET", "rdb-key-save-delay", 1000000) == b"OK"  # a second for each key
        long = pool.submit(h.http, "/snapshot", "POST")
        wait_until(lambda: b"rdb_bgsave_in_progress:1" in direct("INFO", "persistence"), 10, "Valkey has forked")
        assert direct("CONFIG", "SET", "rdb-key-save-delay", 0) == b"OK"
        assert c("SET", "meanwhile", 1) == b"OK"
        began = time.monotonic()
        file = backup(h.port, rig.dir / "after.rdb")
        assert time.monotonic() - began > 5, "the other one was long"
        long.result()
        digest = v.digest()
    assert loaded(rig, file).digest() == digest


def test_a_damaged_file_never_arrives_whole(rig):
    v, h = rig.pair()
    with h.client() as c:
        c("CLIENT", "DURABILITY", "ASYNC")
        for n in range(16):
            c("SET", f"large:{n}", os.urandom(1 << 20))
    with Reader(h.port, window=64 << 10) as slow:
        size = slow.header()
        slow.some(1 << 16)
        [path] = held_files(h)
        with open(path, "r+b") as f:
            f.seek(size - 1000)
            byte = f.read(1)
            f.seek(size - 1000)
            f.write(bytes([byte[0] ^ 1]))
        slow.rest()
        assert slow.taken < size
    wait_until(lambda: "given up: the snapshot's file is not whole" in h.text(), 10, "the log says it")


def test_leaving_does_not_wait_for_a_reader(rig):
    _, h = rig.pair()
    with h.client() as c:
        c("CLIENT", "DURABILITY", "ASYNC")
        for n in range(16):
            c("SET", f"large:{n}", os.urandom(1 << 20))
    with Reader(h.port, window=64 << 10) as slow:
        size = slow.header()
        began = time.monotonic()
        assert h.terminate() == 0
        assert time.monotonic() - began < 5 * PATIENCE, "shutdown-timeout is ten seconds"
        slow.rest()
        assert slow.taken < size


def test_a_hand_over_does_not_wait_for_a_reader(rig):
    """They read on, also by way of a relay; but not when the node that sends it has died."""
    g = rig.group()
    leader = g.leader()
    other, third = g.others(leader)
    with leader.client() as c:
        c("CLIENT", "DURABILITY", "ASYNC")
        for n in range(48):
            c("SET", f"large:{n}", os.urandom(1 << 20))
    digest = leader.digest()
    with Reader(leader.port, window=64 << 10) as direct, Reader(other.port, window=64 << 10) as relayed:
        size = direct.header()
        assert relayed.header() == size
        began = time.monotonic()
        code, text = g.transfer(third)
        assert code == 200, text
        assert time.monotonic() - began < 10 * PATIENCE
        assert g.leader() == third
        wait_until(lambda: other.status()["leader"] == third.name, 10, "the relay's node knows it, too")
        with other.client() as c:
            assert c("SET", "after", 1) == b"OK"
        data = direct.rest()
        with Reader(other.port, window=64 << 10) as fails:
            assert fails.header() > size
            fails.some(1 << 16)
            files = {"direct": data, "relayed": relayed.rest()}
            g.kill9(third)
            fails.rest()
            assert b"UNCERTAIN" not in fails.last and fails.taken < size
    for name, got in files.items():
        file = rig.dir / f"{name}.rdb"
        file.write_bytes(got)
        assert len(got) == size and loaded(rig, file).digest() == digest


# ---- who may, and what else ----

def test_what_is_refused(rig):
    v, h = rig.pair()
    with h.client() as c, h.client(proto=3) as three:
        c("SET", "k", 1)
        for words in (("SYNC",), ("PSYNC", "?", -1), ("REPLCONF", "listening-port", 1), ("REPLCONF", "ACK", 1), ("REPLCONF",), ("REPLCONF", "capa"),
                      ("REPLCONF", "rdb-only", 2), ("REPLCONF", "rdb-filter-only", "functions")):
            got = c.ask(*words)
            assert is_error(got, "ERR") and "is not available through Holdfast: " in got.text, (words, got)
        assert c("REPLCONF", "rdb-only", 1) == b"OK" and "not of a part" in c.ask("SYNC").text
        c("RESET")
        assert c("REPLCONF", "rdb-only", 1) == b"OK" and c("MULTI") == b"OK"
        assert is_error(c.ask("SYNC"), "ERR") and is_error(c.ask("EXEC"), "EXECABORT")
        assert c("REPLCONF", "rdb-only", 0) == b"OK" and "rdb-only 1" in c.ask("SYNC").text
        three("REPLCONF", "rdb-only", 1)
        three.send("SUBSCRIBE", "news")
        three.read_any()
        assert "without subscriptions" in three.ask("SYNC").text
        assert c("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-sync") == b"OK"
        assert c("ACL", "SETUSER", "may", "on", ">p", "~*", "+sync", "+replconf") == b"OK"
    done = ask_cli(h.port, rig.dir / "functions.rdb", "--functions-rdb", rig.dir / "functions.rdb")
    assert done.returncode == 1 and not (rig.dir / "functions.rdb").exists(), done
    done = ask_cli(h.port, rig.dir / "u.rdb", "--user", "u", "--pass", "p", "--no-auth-warning")
    assert done.returncode == 1 and "SYNC with primary failed: -NOPERM " in done.stderr, done
    backup(h.port, rig.dir / "may.rdb", "--user", "may", "--pass", "p", "--no-auth-warning")
    assert loaded(rig, rig.dir / "may.rdb").digest() == v.digest()
    v.kill9()
    eventually(lambda: ask_cli(h.port, rig.dir / "gone.rdb"), lambda done: done.returncode == 1 and "-LOADING " in done.stderr, 20, "Valkey is away")


def test_whatever_comes_behind_it_does_not_run(rig):
    """And a client that sends no more is given what it asked for: printf ... | nc."""
    _, h = rig.pair()
    with Reader(h.port) as r:
        r.sock.sendall(encode("SET", "behind", 1))
        size = r.header()
        r.rest()
        assert r.taken == size, "closed behind the last byte"
    with h.client() as c:
        assert c("EXISTS", "behind") == 0
    with socket.create_connection(("127.0.0.1", h.port)) as s:
        s.settimeout(30 * PATIENCE)
        s.sendall(b"GET behind\r\nREPLCONF rdb-only 1\r\nSYNC\r\n")
        s.shutdown(socket.SHUT_WR)
        with s.makefile("rb") as f:
            assert [f.readline() for _ in range(2)] == [b"$-1\r\n", b"+OK\r\n"]
            size = int(f.readline().lstrip(b"\n")[1:])
            assert len(f.read()) == size


def test_with_tls_and_a_password(rig, tmp_path):
    ca = Authority(tmp_path, "ca")
    server, alice = ca.issue("server"), ca.issue("alice", usage="clientAuth")
    v = rig.valkey("--requirepass", "secret")
    h = rig.holdfast(v, start=False, valkey_password="secret", port=0)
    h.settings.update({"tls-port": h.port, "tls-cert-file": server.crt, "tls-key-file": server.key, "tls-ca-cert-file": ca.crt})
    h.start()
    with Client(Tls(h.port, ca, alice)) as c:
        c("AUTH", "secret")
        fill(c)
        for n in range(8):
            c("SET", f"large:{n}", os.urandom(1 << 20))
    tls = ("--tls", "--cert", alice.crt, "--key", alice.key, "--cacert", ca.crt)
    done = ask_cli(h.port, rig.dir / "no.rdb", *tls)
    assert done.returncode == 1 and "-NOAUTH" in done.stderr, done
    file = backup(h.port, rig.dir / "tls.rdb", *tls, "-a", "secret", "--no-auth-warning")
    theirs = loaded(rig, file)
    with v.client() as c:
        c("AUTH", "secret")
        assert theirs.digest() == c("DEBUG", "DIGEST")
