"""Bytes that no good client sends: each is answered as Valkey answers it, or with a protocol error and a close; memory stays
bounded, and a well-behaved client beside is served throughout.

What Valkey lets through and we do not (a bulk that does not end in CRLF: Valkey before 8.0.10 does not look) is marked.
"""
import contextlib
import os
import re
import shutil
import socket
import tempfile
import threading
import time

import pytest

from harness import SANITIZED, Rig, is_error, wait_until
from resp import Client, Closed, RespError, connect, encode

RSS_SLACK_KIB = 200000 if SANITIZED else 60000


@pytest.fixture(scope="module")
def servers(disk_library):
    """One pair for all of this file, and the good client that is served throughout."""
    place = tempfile.mkdtemp(prefix="hf-", dir=os.environ.get("HF_TMP"))
    rig = Rig(place)
    direct = rig.valkey()
    _, holdfast = rig.pair(durability="sync")
    good = Good(holdfast)
    good.start()
    yield direct, holdfast
    good.stop.set()
    good.join(30)
    trouble = rig.trouble() + good.failures
    rig.close()
    trouble += [t for t in rig.trouble() if t not in trouble]
    assert not trouble, f"{place}: {trouble}"
    assert good.served > 10
    shutil.rmtree(place)


class Good(threading.Thread):
    """Asks and writes all the time; nothing that others do may disturb it."""

    def __init__(self, holdfast):
        super().__init__(daemon=True)
        self.holdfast, self.stop, self.failures, self.served = holdfast, threading.Event(), [], 0

    def run(self):
        client = None
        while not self.stop.is_set():
            self.served += 1
            try:
                client = client or self.holdfast.client(timeout=20, db=9)
                if client("SET", "good", self.served) != b"OK" or client("GET", "good") != b"%d" % self.served:
                    raise AssertionError("not what was written")
            except Closed:  # CLIENT KILL reaches it too; that nothing else does, alive_after says
                client = None
            except (AssertionError, OSError, RespError) as e:
                self.failures.append(f"the good client: {e!r}")
                client = None
                self.stop.wait(0.1)
            self.stop.wait(0.01)


@pytest.fixture(autouse=True)
def alive_after(servers):
    """Each test leaves Holdfast alive, in service, and not grown. A dead one is started again, so that the next test says something."""
    _, holdfast = servers
    before = holdfast.rss_kib()
    yield
    if not holdfast.alive():
        code = holdfast.process.returncode
        holdfast.start()
        raise AssertionError(f"holdfast ended, exit code {code}:\n{holdfast.text()[-3000:]}")
    with holdfast.client() as c:
        assert c("PING") == b"PONG"
    wait_until(lambda: holdfast.rss_kib() < before + RSS_SLACK_KIB, 5, "memory is given back")


def everything(port, data, tail=encode("PING"), seconds=0.3):
    """All that comes back for these bytes, until a close or a while of silence; (bytes, closed)."""
    got = b""
    with contextlib.closing(connect(port, 5)) as s:
        try:
            s.sendall(data + tail)
            s.settimeout(seconds)
            while not got.endswith(b"+PONG\r\n"):
                more = s.recv(1 << 16)
                if not more:
                    return got, True
                got += more
        except (TimeoutError, socket.timeout):
            return got, False
        except ConnectionError:
            return got, True
    return got, False


SAME = {
    # 1: headers
    "count 3000000000": b"*3000000000\r\n", "count -10": b"*-10\r\n", "count 0": b"*0\r\n", "no count": b"*\r\n", "count NUL": b"*\0\r\n",
    "count letters": b"*x\r\n", "count +3": b"*+3\r\n", "count 03": b"*03\r\n", "bulk -1": b"*1\r\n$-1\r\n", "bulk +3": b"*1\r\n$+3\r\nfoo\r\n",
    "bulk 03": b"*1\r\n$03\r\nfoo\r\n", "bulk space": b"*1\r\n$ 3\r\nfoo\r\n", "bulk 2^31": b"*1\r\n$2147483648\r\n",
    "bulk 2^32": b"*1\r\n$4294967296\r\n", "bulk 2^63": b"*1\r\n$9223372036854775808\r\n", "bulk long": b"*1\r\n$" + b"1" * 25 + b"\r\n",
    "bulk missing": b"*1\r\nfoo\r\n", "bulk empty length": b"*1\r\n$\r\n", "count 2^31": b"*2147483648\r\n", "count long": b"*" + b"9" * 25 + b"\r\n",
    "count -1": b"*-1\r\n", "no dollar": b"*2\r\n+GET\r\n", "count 2^31-1": b"*2147483647\r\n$-5\r\n",
    # 2: terminators
    "leading crlf": b"\r\n\r\n", "leading lf": b"\n", "inline": b"PING\r\n", "inline lf": b"PING\n", "empty key": encode("GET", ""),
    # 3: mixtures
    "empty then multibulk": b"*0\r\n" + encode("ECHO", "x"), "inline then multibulk": b"ECHO a\r\n" + encode("ECHO", "b") + b"ECHO c\r\n",
    "inline quotes": b"ECHO \"a\\x41\\n b\"\r\n", "inline unbalanced": b"ECHO \"a\r\n", "inline many": b"PING\r\nPING\r\n  \r\nPING\r\n",
    "unknown command": encode("NOSUCH", "a", "b"), "unknown sub": encode("CLIENT", "NOSUCH"), "arity": encode("GET"), "arity sub": encode("CLIENT", "ID", "x"),
    "command is binary": encode(b"\x00\xff\r\n", "a"), "empty command": encode(""), "long name": encode("A" * 300, "b"),
}


# Valkey takes a negative count for an empty command, does not see a line's end behind a NUL, and allows counts up to 2^31-1.
MAY_BE_REFUSED = {"count -10", "count NUL", "count 2^31-1"}


@pytest.mark.parametrize("what", sorted(SAME))
def test_same_answer_as_valkey(servers, what):
    direct, holdfast = servers
    ours, theirs = everything(holdfast.port, SAME[what]), everything(direct.port, SAME[what])
    if what in MAY_BE_REFUSED and ours != theirs:
        assert ours[1] and ours[0].startswith(b"-ERR Protocol error: invalid"), ours
    else:
        assert ours == theirs


STRICT = {  # bulks that do not end in CRLF: refused by us, taken by Valkey before 8.0.10
    "bulk lf": b"*1\r\n$4\r\nPING\n\n", "bulk cr x": b"*1\r\n$4\r\nPING\rx", "bulk xx": b"*1\r\n$4\r\nPINGxx",
    "one byte more": b"*2\r\n$3\r\nGET\r\n$1\r\nkk\r\n", "valkey#2872": b"*2\r\n$4\r\nECHO\r\n$5\r\nvalue12",
    "one byte less": b"*2\r\n$3\r\nGET\r\n$2\r\nk\r\n",
}


@pytest.mark.parametrize("what", sorted(STRICT))
def test_bulk_without_crlf_is_refused(servers, what):
    _, holdfast = servers
    got, closed = everything(holdfast.port, STRICT[what])
    assert closed and got.startswith(b"-ERR Protocol error"), got


BARE_LF = {"count lf": b"*1\n$4\r\nPING\r\n", "bulk header lf": b"*1\r\n$4\nPING\r\n"}


@pytest.mark.parametrize("what", sorted(BARE_LF))
def test_header_with_a_bare_lf(servers, what):
    """Valkey looks for CR and skips two bytes; we answer the same, or refuse and close."""
    direct, holdfast = servers
    ours, theirs = everything(holdfast.port, BARE_LF[what]), everything(direct.port, BARE_LF[what])
    assert ours == theirs or (ours[1] and ours[0].startswith(b"-ERR Protocol error")) or ours == (b"", False)


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"Host: example.org\r\n"])
def test_http_is_cut_off(servers, line):
    direct, holdfast = servers
    ours, theirs = everything(holdfast.port, line + encode("SET", "http", 1)), everything(direct.port, line + encode("SET", "http", 1))
    assert ours[1] and theirs[1]
    with holdfast.client() as c:
        assert c("EXISTS", "http") == 0


@pytest.mark.parametrize("begin", [b"*", b"*1\r\n$", b"GET "])
def test_header_that_never_ends(servers, begin):
    """64 KiB and one byte without CRLF."""
    direct, holdfast = servers
    data = begin + b"1" * (64 * 1024 + 1)
    ours, theirs = everything(holdfast.port, data, b""), everything(direct.port, data, b"")
    assert ours == theirs
    assert ours[1] and ours[0].startswith(b"-ERR Protocol error")


def test_announced_and_not_sent(servers):
    """512 MB announced on each of many connections: nothing is allocated before bytes arrive."""
    _, holdfast = servers
    before = holdfast.rss_kib()
    socks = [connect(holdfast.port, 5) for _ in range(300)]
    try:
        for s in socks:
            s.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n")
        for s in socks[:100]:
            s.sendall(b"x" * 1000)
        with holdfast.client() as c:
            for _ in range(20):
                assert c("PING") == b"PONG"
        assert holdfast.rss_kib() - before < 40000 + (60000 if SANITIZED else 0)
    finally:
        for s in socks:
            s.close()


def test_many_arguments_announced(servers):
    _, holdfast = servers
    before = holdfast.rss_kib()
    socks = [connect(holdfast.port, 5) for _ in range(100)]
    try:
        for s in socks:
            s.sendall(b"*1000000\r\n$3\r\nDEL\r\n")
        with holdfast.client() as c:
            assert c("PING") == b"PONG"
        assert holdfast.rss_kib() - before < 40000 + (60000 if SANITIZED else 0)
    finally:
        for s in socks:
            s.close()


def test_a_million_arguments(servers):
    direct, holdfast = servers
    n = 1000000
    data = b"*%d\r\n$5\r\nRPUSH\r\n$7\r\nmillion\r\n" % (n + 2) + b"$1\r\nx\r\n" * n
    with holdfast.client(timeout=60) as c:
        c.raw(data)
        assert c.read() == n
        assert c("DEL", "million") == 1


def test_one_byte_at_a_time(servers):
    _, holdfast = servers
    with holdfast.client() as c:
        for command in (encode("SET", "slow", "value"), encode("GET", "slow"), b"GET slow\r\n"):
            for i in range(len(command)):
                c.raw(command[i:i + 1])
                if i % 7 == 0:
                    time.sleep(0.001)
        assert [c.read() for _ in range(3)] == [b"OK", b"value", b"value"]


def test_connect_and_say_nothing(servers):
    _, holdfast = servers
    socks = [connect(holdfast.port, 5) for _ in range(500)]
    try:
        with holdfast.client() as c:
            assert c("PING") == b"PONG"
    finally:
        for s in socks:
            s.close()


def test_slow_reader_of_large_replies(servers):
    """Many large replies asked and none read: reading stops, memory does not follow."""
    _, holdfast = servers
    with holdfast.client(timeout=60) as c:
        c("SET", "large", b"z" * (1 << 20))
        before = holdfast.rss_kib()
        slow = connect(holdfast.port, 5)
        slow.settimeout(2)
        with contextlib.suppress(TimeoutError, socket.timeout):
            slow.sendall(encode("GET", "large") * 2000)  # 2 GB of replies
        for _ in range(20):
            assert c("PING") == b"PONG"
            time.sleep(0.02)
        grown = holdfast.rss_kib() - before
        slow.close()
        assert grown < 150000 + (150000 if SANITIZED else 0), f"{grown} KiB"
        c("DEL", "large")


def test_slow_reader_of_one_large_reply(servers):
    _, holdfast = servers
    with holdfast.client(timeout=60) as c:
        for _ in range(10):
            c.pipeline([("RPUSH", "long", *["y" * 1000] * 1000)])
        slow = holdfast.client(timeout=60)
        slow.send("LRANGE", "long", 0, -1)
        for _ in range(20):
            assert c("PING") == b"PONG"
        assert len(slow.read()) == 10000
        slow.close()
        c("DEL", "long")


def test_pipelining_without_reading_stops(servers):
    """Small replies that nobody takes: in the end our side stops reading."""
    _, holdfast = servers
    before = holdfast.rss_kib()
    s = connect(holdfast.port, 5)
    s.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError, socket.timeout, ConnectionError):
        while sent < 200 << 20:
            sent += s.send(encode("PING", "x" * 500) * 200)
    grown = holdfast.rss_kib() - before
    s.close()
    assert sent < 200 << 20, "it never stopped to read"
    assert grown < 100000 + (100000 if SANITIZED else 0), f"{grown} KiB"


# ---- 6: not authenticated ----

def test_unauthenticated(rig):
    valkey = rig.valkey("--requirepass", "secret")
    direct = valkey
    holdfast = rig.holdfast(f"127.0.0.1:{valkey.port}", valkey_password="secret")
    with holdfast.client() as c:
        assert is_error(c.ask("PING"), "NOAUTH")
    for data in (b"*11\r\n", b"*2\r\n$16385\r\n", encode("GET", "k"), encode("PING"), b"GET k\r\n", encode("HELLO", 3), encode("AUTH", "wrong"),
                 encode("AUTH", "default", "wrong"), encode("CONFIG", "GET", "*"), encode("QUIT")):
        ours, theirs = everything(holdfast.port, data, b"", 0.5), everything(direct.port, data, b"", 0.5)
        assert ours == theirs, data
    before = holdfast.rss_kib()
    s = connect(holdfast.port, 5)
    s.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError, socket.timeout, ConnectionError):
        while sent < 100 << 20:
            sent += s.send(encode("GET", "k") * 5000)
    assert holdfast.rss_kib() - before < 60000 + (100000 if SANITIZED else 0), "NOAUTH replies pile up"
    s.close()
    with holdfast.client() as c:
        assert c("AUTH", "secret") == b"OK"
        assert c("SET", "k", 1) == b"OK"


# ---- 8: what scripts answer ----

@pytest.mark.parametrize("body", [
    "return redis.error_reply('ERR a\\0b')", "return redis.error_reply('ERR a\\r\\nb\\r\\n+OK')", "return redis.status_reply('a\\r\\nb')",
    "return {err='x\\r\\ny'}", "return {ok='x\\r\\ny'}", "return {1,2,{3,'four',{err='five'}},false,nil,6}", "return {double=1.5}", "error('x\\ny')",
    "return redis.call('NOSUCH')", "return redis.pcall('GET')", "return {map={a=1}}", "#!lua flags=no\nreturn 1", "#!nosuch\nreturn 1", "return",
    "redis.setresp(3) return redis.call('HGETALL', 'none')", "return redis.sha1hex('')", "return string.rep('x', 100000)"])
@pytest.mark.parametrize("proto", [2, 3])
def test_script_answers(servers, body, proto):
    direct, holdfast = servers
    answers = []
    for port in (holdfast.port, direct.port):
        with Client(port, proto=proto) as c:
            answers.append([c.ask("EVAL", body, 0), c.ask("ECHO", "still in step")])
    assert answers[0] == answers[1]


def test_commands_in_rows_stay_in_step(servers):
    """The reply that could be taken for two, between others."""
    _, holdfast = servers
    with holdfast.client() as c:
        replies = c.pipeline([("ECHO", 1), ("EVAL", "return redis.error_reply('ERR x\\r\\n+OK\\r\\n')", 0), ("ECHO", 2), ("SET", "a\r\nb", "c\r\n+d"),
                              ("GET", "a\r\nb"), ("ECHO", 3)])
        assert [replies[i] for i in (0, 2, 3, 4, 5)] == [b"1", b"2", b"OK", b"c\r\n+d", b"3"]


# ---- 9: tricks with state ----

def test_multi_and_disconnect(servers):
    _, holdfast = servers
    with holdfast.client() as c:
        c.pipeline([("MULTI",), ("SET", "half", 1)])
    with holdfast.client() as c:
        c.pipeline([("WATCH", "half"), ("MULTI",), ("SET", "half", 1)])
        c.reset()
    with holdfast.client() as c:
        assert c("EXISTS", "half") == 0


def test_exec_and_disconnect(servers):
    """EXEC was sent, nobody waits for the answer: it is done whole or not at all."""
    _, holdfast = servers
    for n in range(20):
        c = holdfast.client()
        c.raw(encode("MULTI") + encode("SET", f"both{n}", 1) + encode("SET", f"too{n}", 1) + encode("EXEC"))
        c.close() if n % 2 else c.reset()
    with holdfast.client() as c:
        for n in range(20):
            wait_until(lambda: c("EXISTS", f"both{n}") == c("EXISTS", f"too{n}"), 5, "whole or nothing")


STATE = {
    "reply off": [("CLIENT", "REPLY", "OFF"), ("SET", "quiet", 1), ("CLIENT", "REPLY", "ON"), ("GET", "quiet")],
    "reply skip": [("CLIENT", "REPLY", "SKIP"), ("SET", "quiet", 2), ("GET", "quiet")],
    "hello in between": [("SET", "h", 1), ("HGETALL", "none"), ("HELLO", "3"), ("HGETALL", "none"), ("HELLO", "2"), ("HGETALL", "none")],
    "hello bad": [("HELLO", "4"), ("HELLO", "x"), ("HELLO", "3", "AUTH"), ("HELLO", "3", "SETNAME"), ("ECHO", "1")],
    "hello name": [("HELLO", "3", "SETNAME", "me"), ("CLIENT", "GETNAME"), ("HELLO", "2")],
    "select": [("SELECT", "1"), ("SET", "s", 1), ("SELECT", "0"), ("GET", "s"), ("SELECT", "99"), ("SELECT", "x"), ("SELECT", "-1"), ("GET", "s"),
               ("SELECT", "1"), ("GET", "s"), ("DEL", "s")],
    "select in multi": [("MULTI",), ("SELECT", "2"), ("SET", "m", 1), ("EXEC",), ("GET", "m"), ("DEL", "m"), ("SELECT", "0"), ("GET", "m")],
    "reset": [("SELECT", "1"), ("MULTI",), ("SET", "r", 1), ("RESET",), ("EXEC",), ("GET", "r"), ("CLIENT", "GETNAME")],
    "discard": [("MULTI",), ("SET", "d", 1), ("DISCARD",), ("GET", "d"), ("DISCARD",), ("EXEC",), ("MULTI",), ("MULTI",), ("EXEC",)],
    "exec abort": [("MULTI",), ("NOSUCH",), ("SET", "d"), ("SET", "d", 1), ("EXEC",), ("GET", "d")],
    "watch": [("WATCH", "w"), ("SET", "w", 1), ("MULTI",), ("SET", "w", 2), ("EXEC",), ("GET", "w"), ("UNWATCH",), ("DEL", "w")],
    "watch in multi": [("MULTI",), ("WATCH", "w"), ("EXEC",)],
    "subscribe": [("SUBSCRIBE", "a", "b"), ("PING",), ("GET", "k"), ("UNSUBSCRIBE", "a"), ("UNSUBSCRIBE",), ("PING",)],
    "subscribe multi": [("MULTI",), ("GET", "k"), ("EXEC",), ("PSUBSCRIBE", "x*"), ("PUNSUBSCRIBE",), ("ECHO", "x")],
    "unsubscribe alone": [("UNSUBSCRIBE",), ("PUNSUBSCRIBE", "x"), ("SUNSUBSCRIBE",), ("PING",)],
    "quit": [("SET", "q", 1), ("INCR", "q"), ("QUIT",), ("INCR", "q")],
    "blocking in multi": [("MULTI",), ("BLPOP", "none", "0"), ("BZPOPMIN", "none", "0"), ("EXEC",)],
    "bad timeouts": [("BLPOP", "none", "-1"), ("BLPOP", "none", "x"), ("BLPOP", "none"), ("BLPOP", "none", "0.01")],
}


@pytest.mark.parametrize("what", sorted(STATE))
def test_state_in_a_pipeline(servers, what):
    """The same bytes come back as from Valkey, pipelined and one by one."""
    direct, holdfast = servers
    data = b"".join(encode(*c) for c in STATE[what])

    def normal(got):
        return re.sub(rb"(id\r\n:\d+|:\d+\r\n\$4\r\nmode)", b"", got[0]), got[1]
    ours, theirs = everything(holdfast.port, data, encode("PING")), everything(direct.port, data, encode("PING"))
    assert normal(ours) == normal(theirs)


def test_blocked_and_gone(servers):
    """A client blocks and goes; what is pushed afterwards is not taken by it."""
    _, holdfast = servers
    for n in range(10):
        b = holdfast.client()
        b.send("BLPOP", f"gone{n}", 0)
        assert b.silent_for(0.02)
        b.close() if n % 2 else b.reset()
    with holdfast.client() as c:
        wait_until(lambda: b"gone" not in c("CLIENT", "LIST"), 5, "they are gone")
        time.sleep(0.1)  # their connections to Valkey are closed right after
        for n in range(10):
            assert c("RPUSH", f"gone{n}", "x") == 1
            assert c("LRANGE", f"gone{n}", 0, -1) == [b"x"]
            c("DEL", f"gone{n}")


def test_writes_then_close_are_done(servers):
    """Pipelined writes before an orderly end of the connection are executed."""
    _, holdfast = servers
    s = connect(holdfast.port, 5)
    s.sendall(b"".join(encode("RPUSH", "parting", n) for n in range(100)) + encode("QUIT"))
    got = b""
    with contextlib.suppress(ConnectionError):
        while more := s.recv(1 << 16):
            got += more
    s.close()
    assert got.endswith(b"+OK\r\n") and got.count(b":") == 100
    with holdfast.client() as c:
        assert c("LLEN", "parting") == 100
        c("DEL", "parting")


def test_kill_of_our_own_link_is_refused(servers):
    """Our connections to Valkey cannot be killed, paused or listed by id through us."""
    _, holdfast = servers
    with holdfast.client() as c, holdfast.client() as d:
        for number in range(1, 40):
            c.ask("CLIENT", "KILL", "ID", number)
            if not _alive(c):
                break
        with holdfast.client() as e:
            assert e("SET", "k", 1) == b"OK"
    with holdfast.client() as c:
        c.ask("CLIENT", "KILL", "TYPE", "replica")
        c.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        c.ask("CLIENT", "PAUSE", 100)
        c.ask("CLIENT", "UNPAUSE")
    with holdfast.client() as c:
        assert c("SET", "k", 2) == b"OK"
    assert d is not None


def _alive(c):
    try:
        return c.ask("PING") == b"PONG"
    except Closed:
        return False


# ---- 10: by arguments ----

REFUSED = [("REPLICAOF", "127.0.0.1", "1"), ("replicaof", "NO", "ONE"), ("SLAVEOF", "127.0.0.1", "1"), ("FAILOVER",), ("PSYNC", "?", "-1"), ("SYNC",),
           ("REPLCONF", "ACK", "1"), ("DEBUG", "SLEEP", "5"), ("debug", "segfault"), ("SHUTDOWN", "NOSAVE"), ("shutdown",),
           ("MIGRATE", "127.0.0.1", "1", "k", "0", "100"), ("CONFIG", "SET", "replicaof", "x 1"),
           ("CONFIG", "SET", "repl-backlog-size", "1"), ("MODULE", "LOAD", "/tmp/x.so")]


@pytest.mark.parametrize("command", REFUSED, ids=lambda c: " ".join(c[:3]))
def test_refused_commands(servers, command):
    _, holdfast = servers
    with holdfast.client(timeout=10) as c:
        reply = c.ask(*command)
        assert isinstance(reply, RespError), reply
        assert c("SET", "after", 1) == b"OK"
        assert holdfast.alive()
        with holdfast.client() as d:
            assert d.ask("EVAL", "return redis.call('PING')", 0) == b"PONG"
        inside = c.pipeline([("MULTI",), command, ("EXEC",)])
        assert isinstance(inside[-1], RespError) or all(isinstance(r, RespError) for r in inside[-1]), inside
    with holdfast.client() as c:
        assert c("PING") == b"PONG"


@pytest.mark.parametrize("command", [
    ("COPY", "a", "b", "DB", "1", "DB", "2"), ("COPY", "a", "b", "REPLACE", "DB", "1", "REPLACE"), ("GEORADIUS", "g", "1", "2", "9", "km", "STORE", "x", "STORE", "y"),
    ("GEORADIUS", "g", "1", "2", "9", "km", "STOREDIST", "x", "STORE", "y"), ("SORT", "l", "STORE", "x", "STORE", "y"), ("sort", "l", "by", "w*", "store", "z"),
    ("EVAL", "return redis.call('SET', 'undeclared', 1)", "0"), ("EVAL", "return 1", "5", "a"), ("EVAL", "return 1", "-1"), ("EVAL", "return 1", "x"),
    ("RESTORE", "bad", "0", b"\x00\x01garbage"), ("RESTORE", "bad", "0", b""), ("RESTORE", "bad", "-1", b"x"), ("SWAPDB", "0", "99"), ("SWAPDB", "x", "0"),
    ("MSET", "k"), ("MSET", "a", "1", "b"), ("MGET", "{a}1", "{b}1"), ("SET", "k"), ("SET", "k", "v", "NX", "XX"), ("SET", "k", "v", "EX", "0"),
    ("SET", "k", "v", "EX", "-5"), ("SET", "k", "v", "EX", "9223372036854775807"), ("SET", "k", "v", "PX", "x"), ("SETEX", "k", "0", "v"),
    ("EXPIRE", "k", "9223372036854775807"), ("EXPIRE", "k", "x"), ("EXPIRE", "k", "1", "NX", "XX"), ("INCRBY", "k", "9223372036854775808"), ("INCRBY", "k", "+1"),
    ("SET", "", "empty key"), ("GET", ""), ("DEL", ""), ("XADD", "x", "0-0", "f", "v"), ("XADD", "x", "*"), ("ZADD", "z", "nan", "m"), ("ZADD", "z", "NX", "GT", "1", "m"),
    ("LMPOP", "2", "a"), ("LMPOP", "0", "a", "LEFT"), ("ZUNIONSTORE", "d", "0"), ("ZUNIONSTORE", "d", "5", "a"), ("OBJECT", "NOSUCH", "k"), ("object", "encoding", "none"),
    ("SINTERCARD", "0", "a"), ("BITOP", "NOT", "d", "a", "b"), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "x"), ("GETEX", "k", "EX", "0"), ("HSET", "h", "f"),
    ("setRANGE", "k", "-1", "v"), ("SETRANGE", "k", "536870912", "v"), ("FUNCTION", "LOAD", "garbage"), ("FCALL", "nosuch", "0"), ("EVALSHA", "x" * 40, "0"),
    ("PFADD", "p"), ("PFMERGE",), ("SPOP", "s", "-1"), ("LPOP", "l", "-1"), ("COPY", "same", "same"), ("MOVE", "k", "0"), ("RENAME", "none", "x"),
    ("ACL", "NOSUCH"), ("ACL", "WHOAMI"), ("CLIENT", "SETNAME", "a b"), ("CLIENT", "KILL", "ID", "x"), ("WAIT", "x", "y"), ("OBJECT",), ("XGROUP", "NOSUCH", "x", "g")],
    ids=lambda c: " ".join(str(w) for w in c)[:60])
def test_odd_arguments_are_answered_alike(servers, command):
    direct, holdfast = servers
    answers, after = [], []
    for port in (holdfast.port, direct.port):
        with Client(port) as c:
            c("FLUSHDB")
            c.pipeline([("SET", "k", 5), ("RPUSH", "l", 3, 1, 2), ("SADD", "s", "m"), ("ZADD", "z", 1, "m"), ("GEOADD", "g", 1, 2, "m")])
            answers.append(c.ask(*command))
            after.append([(k, c("TYPE", k)) for k in sorted(c("KEYS", "*"))])
    assert answers[0] == answers[1]
    assert after[0] == after[1]


def test_acl_users_are_held_to_their_rights(servers):
    """What a user may not do is refused before it is logged, and their scripts cannot do it either."""
    _, holdfast = servers
    with holdfast.client() as admin, holdfast.client() as c, holdfast.client() as d:
        admin("ACL", "SETUSER", "bob", "on", ">pw", "~bob:*", "+@all", "-@dangerous")
        try:
            assert c("AUTH", "bob", "pw") == b"OK"
            assert is_error(c.ask("SET", "alice", 1), "NOPERM")
            assert is_error(c.ask("GET", "alice"), "NOPERM")
            assert c("SET", "bob:k", 1) == b"OK"
            assert isinstance(c.ask("EVAL", "return redis.call('SET', 'alice', 1)", 0), RespError)
            assert is_error(c.ask("FLUSHALL"), "NOPERM")
            assert is_error(c.ask("COPY", "bob:k", "alice"), "NOPERM")
            assert c("ACL", "WHOAMI") == b"bob"
            assert d("EXISTS", "alice") == 0
            assert d("ACL", "WHOAMI") == b"default"
        finally:
            admin("ACL", "DELUSER", "bob")
