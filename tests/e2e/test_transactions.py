"""MULTI to EXEC: queued with us, one block for Valkey, one intent for the log. As a bare Valkey answers, whatever is in it.

Each transaction of `ALIKE` goes to a bare Valkey and through Holdfast, in every mode, and must be answered and leave data alike. What is
written as one intent (a REF) and what is not is told by the counters of INFO.
"""
import threading
import time

import pytest

from harness import Rig, eventually, is_error, set_mode, wait_until
from resp import Closed, RespError

PREPARE = [("FLUSHALL",), ("SET", "n", 5), ("SET", "s", "text"), ("RPUSH", "l", "a", "b", "c"), ("SADD", "set", "x"), ("HSET", "h", "f", 1),
           ("ZADD", "z", 1, "m"), ("XADD", "x", "5-1", "f", "v"), ("PFADD", "hll", "a"), ("SET", "old", 1, "PX", 30)]

ALIKE = {
    "empty": [],
    "one write": [("SET", "a", 1)],
    "writes": [("SET", "a", 1), ("INCR", "n"), ("RPUSH", "l", "d"), ("HSET", "h", "g", 2), ("ZADD", "z", 2, "k")],
    "writes and reads": [("INCR", "n"), ("GET", "s"), ("LRANGE", "l", 0, -1), ("INCR", "n"), ("HGETALL", "h")],
    "one write, reads": [("GET", "n"), ("INCR", "n"), ("GET", "n")],
    "reads": [("GET", "n"), ("MGET", "n", "s", "nothing"), ("LLEN", "l")],
    "reads of everything": [("DBSIZE",), ("KEYS", "n*")],
    "expiries": [("SET", "a", 1, "EX", 100), ("EXPIRE", "n", 100), ("PERSIST", "s"), ("TTL", "a"), ("TTL", "n")],
    "times to live": [("SET", "a", 1, "EX", 100), ("EXPIRE", "n", 100), ("PERSIST", "a"), ("TTL", "n"), ("TTL", "a")],
    "an expired key": [("INCR", "old"), ("GET", "old"), ("SET", "old2", 1)],
    "no effect": [("SETNX", "n", 9), ("SREM", "set", "none"), ("DEL", "nothing")],
    "some effect": [("SETNX", "n", 9), ("SET", "a", 1), ("SETNX", "b", 2)],
    "wrong types": [("INCR", "n"), ("LPUSH", "s", "x"), ("SET", "a", 1), ("INCR", "l"), ("GET", "l")],
    "only wrong types": [("LPUSH", "s", "x"), ("INCR", "s")],
    "rewritten": [("GETDEL", "n"), ("GETSET", "s", "t"), ("LMPOP", 1, "l", "LEFT"), ("INCRBYFLOAT", "f", "1.5")],
    "captured": [("SPOP", "set"), ("EXISTS", "set"), ("SADD", "set", "a")],
    "script": [("SET", "a", 1), ("EVAL", "return redis.call('INCR', KEYS[1])", 1, "a"), ("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "a")],
    "script load": [("SET", "a", 1), ("SCRIPT", "LOAD", "return 1"), ("SET", "b", 2)],
    "does not block": [("BLPOP", "nothing", 0), ("BRPOP", "l", 0), ("BLMOVE", "l", "m", "LEFT", "LEFT", 0), ("BZPOPMIN", "z", 0),
                       ("XREAD", "BLOCK", 0, "STREAMS", "x", "$")],
    "streams": [("XADD", "x", "6-1", "f", "v"), ("XLEN", "x"), ("XGROUP", "CREATE", "x", "g", "0"), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", ">")],
    "publish": [("SET", "a", 1), ("PUBLISH", "ch", "m"), ("SPUBLISH", "sh", "m")],
    "publish only": [("PUBLISH", "ch", "m"), ("PING",), ("ECHO", "e")],
    "pfcount": [("PFADD", "hll", "b"), ("PFCOUNT", "hll")],
    "flush": [("SET", "a", 1), ("FLUSHALL",), ("SET", "b", 2)],
    "select": [("SET", "a", 1), ("SELECT", 3), ("SET", "a", 3), ("SELECT", 0), ("SET", "b", 2)],
    "other databases": [("SET", "a", 1), ("COPY", "a", "b", "DB", 2), ("MOVE", "n", 2)],
    "swap": [("SET", "a", 1), ("SWAPDB", 0, 1)],
    "the same twice": [("INCR", "n"), ("INCR", "n"), ("RPUSH", "l", "x"), ("RPUSH", "l", "x")],
    "lower case": [("set", "a", "1"), ("Incr", "n"), ("geT", "n")],
    "binary": [("SET", b"\x00\r\n\xff", b"\r\n$3\r\n*1\r\n"), ("GET", b"\x00\r\n\xff")],
    "unknown": [("SET", "a", 1), ("NOSUCH", "x"), ("SET", "b", 2)],
    "unknown subcommand": [("SET", "a", 1), ("OBJECT", "NOSUCH", "a")],
    "few arguments": [("SET", "a", 1), ("GET",), ("SET", "b", 2)],
    "only bad ones": [("SET",), ("NOSUCH",)],
    "many arguments": [("GET", "a", "b")],
    "nested": [("SET", "a", 1), ("MULTI",), ("SET", "b", 2)],
    "watch inside": [("SET", "a", 1), ("WATCH", "a"), ("SET", "b", 2)],
    "unwatch inside": [("SET", "a", 1), ("UNWATCH",), ("SET", "b", 2)],
    "syntax is looked at late": [("SET", "a", 1, "NOSUCH"), ("SET", "b", 2), ("EXPIRE", "b", "soon")],
    "object": [("SET", "a", 1), ("OBJECT", "ENCODING", "a")],
}
DATA = ["a", "b", "c", "f", "n", "s", "l", "m", "set", "h", "z", "hll", "old", "old2", b"\x00\r\n\xff"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory, disk_library):
    rig = Rig(tmp_path_factory.mktemp("transactions"))
    direct = rig.valkey()
    valkey, holdfast = rig.pair(durability="sync")
    for server in (direct, valkey):
        with server.client() as c:
            assert c("DEBUG", "SET-ACTIVE-EXPIRE", 0) == b"OK"
    yield direct, valkey, holdfast
    trouble = rig.trouble()
    rig.close()
    assert not trouble, "\n".join(trouble)


@pytest.fixture(params=["sync", "async"])
def mode(request, servers):
    set_mode(servers[2], request.param)
    return request.param


def contents(client):
    out = []
    for db in (0, 1, 2, 3):
        client("SELECT", db)
        out.append([sorted(client("KEYS", "*"))] + [client("DUMP", k) for k in DATA] + [client("PTTL", k) > 0 for k in DATA])
    return out


def prepared(server):
    with server.client() as c:
        assert not [r for r in c.pipeline(PREPARE) if isinstance(r, RespError)]
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 0.04, 5, "the key is past its time, and nobody has looked at it")


def figures(holdfast):
    wait_until(lambda: int(holdfast.info()["holdfast_pending_intents"]) == 0, 10, "all is resolved")
    return {k: int(holdfast.info()[f"holdfast_{k}"]) for k in ("effects_ref", "effects_raw", "writes_sync", "writes_captured", "pinned")}


@pytest.mark.parametrize("name", list(ALIKE))
def test_as_a_bare_valkey(servers, mode, name):
    """One command a time, and as one pipeline, with something before and behind."""
    direct, _, holdfast = servers
    for pipelined, proto in ((False, 2), (True, 3)):
        answers = []
        for server in (direct, holdfast):
            prepared(server)
            with server.client(proto=proto) as c:
                commands = [("SET", "c", 0), ("MULTI",), *ALIKE[name], ("EXEC",), ("APPEND", "c", "!"), ("GET", "c"), ("EXEC",)]
                got = c.pipeline(commands) if pipelined else [c.ask(*each) for each in commands]
            with server.client() as c:
                answers.append((got, contents(c)))
        assert answers[0][0] == answers[1][0]
        assert answers[0][1] == answers[1][1]


@pytest.mark.parametrize("name, refs", [("one write", 1), ("writes", 1), ("writes and reads", 1), ("one write, reads", 1), ("times to live", 1),
                                        ("the same twice", 1), ("lower case", 1), ("binary", 1), ("reads", 0), ("captured", 0), ("script", 0)])
def test_one_intent(servers, name, refs):
    """A transaction of replayable writes is logged once; its unit in the stream is a reference to it."""
    _, _, holdfast = servers
    with holdfast.client() as c:
        c("CONFIG", "SET", "durability", "sync")
        prepared(holdfast)
        before = figures(holdfast)
        got = c.pipeline([("MULTI",), *ALIKE[name], ("EXEC",)])
        assert isinstance(got[-1], list), got
        after = figures(holdfast)
    assert after["effects_ref"] - before["effects_ref"] == refs
    assert after["writes_sync"] - before["writes_sync"] == refs
    if refs == 1:
        assert after["effects_raw"] == before["effects_raw"] and after["writes_captured"] == before["writes_captured"]


def test_one_intent_in_another_database(servers):
    """The unit in the stream has a SELECT in it, which the intent has not."""
    _, _, holdfast = servers
    with holdfast.client() as c, holdfast.client(db=5) as d:
        c("CONFIG", "SET", "durability", "sync")
        before = figures(holdfast)
        for n in range(20):
            assert c("SET", "elsewhere", n) == b"OK"
            assert d.pipeline([("MULTI",), ("SET", "u", n), ("INCR", "v"), ("EXEC",)])[-1] == [b"OK", n + 1]
        after = figures(holdfast)
    assert after["effects_ref"] - before["effects_ref"] == 40 and after["effects_raw"] == before["effects_raw"]


def test_no_connection_of_its_own(servers, mode):
    """Many sessions in MULTI at once, many times: Valkey sees none of them come or go."""
    _, valkey, holdfast = servers
    clients = [holdfast.client() for _ in range(50)]
    for c in clients:
        c("PING")
    before = int(valkey.info("stats")["total_connections_received"])
    for n in range(20):
        for c in clients:
            c.send("MULTI")
            c.send("INCR", "together")
        for c in clients:
            assert c.read() == b"OK" and c.read() == b"QUEUED"
        for c in clients:
            c.send("EXEC")
        for c in clients:
            assert isinstance(c.read(), list)
    after = int(valkey.info("stats")["total_connections_received"])
    assert after - before <= 4, "those that asked for INFO"
    assert int(holdfast.info()["holdfast_pinned"]) == 0
    with holdfast.client() as c:
        assert c("GET", "together") == b"1000" and c("DEL", "together") == 1
    for c in clients:
        c.close()


def test_nobody_sees_the_middle(servers, mode):
    """Two keys that are always written together are always read together."""
    _, _, holdfast = servers
    stop, torn = threading.Event(), []

    def writer(k):
        with holdfast.client() as c:
            n = 0
            while not stop.is_set():
                n += 1
                c.pipeline([("MULTI",), ("SET", "left", f"{k}:{n}"), ("SET", "right", f"{k}:{n}"), ("EXEC",)])

    threads = [threading.Thread(target=writer, args=(k,)) for k in range(3)]
    with holdfast.client() as c:
        c("MSET", "left", "0", "right", "0")
        for t in threads:
            t.start()
        for n in range(300):
            left, right = c("MGET", "left", "right") if n % 2 else c.pipeline([("MULTI",), ("GET", "left"), ("GET", "right"), ("EXEC",)])[-1]
            if left != right:
                torn.append((left, right))
        stop.set()
        for t in threads:
            t.join()
    assert not torn


def test_queue_is_bounded(rig):
    """A transaction larger than the log takes is refused while it is queued."""
    _, holdfast = rig.pair(log_size_max="64mb")
    with holdfast.client() as c:
        got = c.pipeline([("MULTI",)] + [("SET", f"k{n}", b"x" * 1_000_000) for n in range(9)] + [("EXEC",)])
        assert got[1:8] == [b"QUEUED"] * 7 and is_error(got[9], "ERR") and is_error(got[10], "EXECABORT")
        assert c("DBSIZE") == 0
        got = c.pipeline([("MULTI",)] + [("GET", f"k{n}") for n in range(2000)] + [("EXEC",)])
        assert got[-1] == [None] * 2000


@pytest.mark.parametrize("command", [("SELECT", 1), ("NOSUCH", "x")])
def test_no_connection_for_it(rig, command):
    """What needs a connection of its own is refused, once, while Valkey lets nobody in; EXEC runs nothing."""
    valkey, holdfast = rig.pair()
    with holdfast.client() as c, holdfast.client() as other, valkey.client() as direct:
        assert c.pipeline([("SET", "k", 1), ("MULTI",), ("SET", "k", 2)]) == [b"OK", b"OK", b"QUEUED"]
        direct("CONFIG", "SET", "maxclients", 1)
        got = c.pipeline([command, ("GET", "k"), ("EXEC",), ("GET", "k")])
        assert is_error(got[0], "LOADING") and is_error(got[2], "EXECABORT") and got[3] == b"1", got
        assert other("GET", "k") == b"1"
        direct("CONFIG", "SET", "maxclients", 1000)
        got = c.pipeline([("MULTI",), ("SET", "k", 3), ("SELECT", 1), ("GET", "k"), ("EXEC",)])
        assert got[-1] == [b"OK", b"OK", None], got


def test_over_a_valkey_that_comes_back(rig):
    """What is queued with us does not depend on the Valkey that was there at MULTI."""
    valkey, holdfast = rig.pair()
    with holdfast.client(timeout=30) as c, holdfast.client(timeout=30) as d:
        c.pipeline([("SET", "k", 1), ("MULTI",), ("INCR", "k"), ("INCR", "j")])
        d.pipeline([("MULTI",), ("INCR", "k")])
        valkey.kill9()
        wait_until(lambda: not holdfast.ready(), 10, "it is seen")
        got = d.ask("EXEC")
        assert is_error(got, "EXECABORT") and "LOADING" in got.text, got
        valkey.restart_empty()
        holdfast.wait_ready()
        assert c("EXEC") == [2, 1]
        assert d.pipeline([("MULTI",), ("INCR", "k"), ("EXEC",)])[-1] == [3]


def test_killed_in_the_middle(rig):
    """Valkey is killed again and again below transactions of two keys and their sum: what was answered is there, whole, once."""
    valkey, holdfast = rig.pair()
    stop, lock = threading.Event(), threading.Lock()
    answered, unknown = [], []

    def client(k):
        n = 0
        while not stop.is_set():
            n += 1
            tag = f"{k}.{n}"
            try:
                with holdfast.client(timeout=30) as c:
                    got = c.pipeline([("MULTI",), ("RPUSH", "first", tag), ("LLEN", "first"), ("RPUSH", "second", tag), ("EXEC",)])[-1]
            except (Closed, OSError):
                got = None
            with lock:
                if isinstance(got, list):
                    assert len(got) == 3
                    answered.append(tag)
                elif got is None or is_error(got, "UNCERTAIN"):
                    unknown.append(tag)
                else:
                    assert is_error(got, "EXECABORT") or is_error(got, "LOADING") or is_error(got, "CLUSTERDOWN"), got

    threads = [threading.Thread(target=client, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for n in range(6):
        target = len(answered) + 100
        wait_until(lambda: len(answered) >= target, 60, "transactions are answered")
        valkey.restart_empty()
        holdfast.wait_ready(30)
    stop.set()
    for t in threads:
        t.join()
    with holdfast.client() as c:
        first, second = eventually(lambda: [c.ask("LRANGE", k, 0, -1) for k in ("first", "second")],
                                   lambda r: all(isinstance(x, list) for x in r), 30, "it is read")
    tags = [t.decode() for t in first]
    assert first == second, "transactions were torn or reordered"
    assert len(tags) == len(set(tags)) and set(answered) <= set(tags) <= set(answered) | set(unknown)


def asked_as(holdfast, user, password, command):
    try:
        with holdfast.client() as c:
            c("AUTH", user, password)
            return c.ask(*command)
    except Closed: # in the moment in which its rights change
        return None


def test_rights_that_change_inside(rig):
    """A user who loses rights between MULTI and EXEC changes nothing any more."""
    _, holdfast = rig.pair()
    with holdfast.client() as admin, holdfast.client() as c:
        assert admin("ACL", "SETUSER", "u", "on", ">p", "+@all", "~*", "&*") == b"OK"
        assert c("AUTH", "u", "p") == b"OK"
        assert c.pipeline([("MULTI",), ("SET", "k", 1)]) == [b"OK", b"QUEUED"]
        assert admin("ACL", "SETUSER", "u", "-set") == b"OK"
        wait_until(lambda: is_error(asked_as(holdfast, "u", "p", ("SET", "k", 1)), "NOPERM"), 10, "it holds")
        try:
            assert is_error(c.ask("EXEC"), "EXECABORT")
        except Closed:
            pass
        assert admin("EXISTS", "k") == 0


def test_what_is_logged_counts_not_what_was_queued(rig):
    """EXPIRE becomes PEXPIREAT, half as long again: a transaction that fits as it was queued, but not into the log as it is logged."""
    _, h = rig.pair(durability="sync", log_size_max="1mb")  # a command takes an eighth: 131072 bytes
    with h.client(timeout=60) as c:
        c("SET", "k", 1)
        for count, fits in ((3900, False), (2600, True), (3900, False)):
            replies = c.pipeline([("MULTI",), ("INCR", "k"), *[("EXPIRE", "k", 60)] * count, ("EXEC",)])
            assert all(r == b"QUEUED" for r in replies[1:-1]), "it fits when it is queued"
            if fits:
                assert replies[-1] == [2, *[1] * count]
            else:
                assert is_error(replies[-1], "ERR") and "larger than the log takes" in replies[-1].text
        assert c("GET", "k") == b"2" and c("SET", "k", 3) == b"OK", "those were not executed, and the log goes on"
