"""A Valkey rebuilt from snapshot and log is the one that it replaces: DEBUG DIGEST says the same.

Random commands of every data type go through Holdfast into several databases, with keys that expire under way. Then the digest is taken,
Valkey is killed, replaced, frozen, or restarted with something else in memory, and the digest is taken again.
"""
import os
import random
import threading
import time

import pytest

import load
from harness import FULL, eventually, is_error, wait_until
from resp import Client, RespError

COMMANDS = 20000 if FULL else 2500
SEED = os.environ.get("HF_SEED") or "rebuild"
SHORT_MS = 300
FUNCTIONS = """#!lua name=lib
redis.register_function('push', function(keys, args)
    redis.call('RPUSH', keys[1], args[1], redis.call('TIME')[1]) return redis.call('LLEN', keys[1]) end)
redis.register_function{function_name='size', callback=function(keys, args) return redis.call('LLEN', keys[1]) end, flags={'no-writes'}}
"""


def special_command(r, a, b, c):
    """What names other databases, all keys, or the time."""
    return r.choice([
        ("COPY", a, b, "DB", r.randint(0, 3), "REPLACE"), ("MOVE", a, r.randint(0, 3)), ("SWAPDB", r.randint(0, 3), r.randint(0, 3)),
        ("SELECT", r.randint(0, 3)), ("SELECT", r.randint(0, 3)), ("SELECT", r.randint(0, 3)), ("FCALL", "push", 1, c, r.randint(0, 9)),
        ("EVAL", "return redis.call('SET', KEYS[1], redis.call('TIME')[2])", 1, a),
        ("EVAL", "redis.call('SET', KEYS[1], math.random()) redis.call('PEXPIRE', KEYS[1], 250) return redis.call('INCRBYFLOAT', KEYS[1], 2)", 1, b),
        ("SPOP", a), ("SPOP", b, 2), ("SORT", a, "BY", "nosort", "GET", "x*", "STORE", c),
        ("SET", a, "short", "PX", r.randint(1, SHORT_MS)), ("PEXPIRE", b, r.randint(1, SHORT_MS)), ("PSETEX", c, SHORT_MS, 5),
        ("INCR", c), ("EXPIREAT", a, 1), ("SET", b, "v", "PXAT", 5), ("GETEX", c, "PX", r.randint(1, SHORT_MS)),
        ("EXPIRE", a, 4000000), ("PERSIST", b), ("XADD", c, "*", "f", "v"), ("XADD", a, "5-*", "f", "v"),
        ("RANDOMKEY",), ("DBSIZE",), ("FUNCTION", "LOAD", "REPLACE", FUNCTIONS), ("UNLINK", a, b, c)])


MAKERS = [load.string_command, load.hash_command, load.list_command, load.set_command, load.zset_command, load.stream_command,
          load.script_command, special_command, special_command]


class Writer:
    """Random commands on few keys, so that types collide, expire and are carried about."""

    def __init__(self, holdfast, seed):
        self.client = holdfast.client(timeout=60)
        self.r = random.Random(f"{SEED}/{seed}")
        self.codes = {}

    def command(self):
        keys = [f"k{self.r.randint(0, 25)}" for _ in range(3)]
        if self.r.random() < 0.002:
            return [("FLUSHDB",)]
        if self.r.random() < 0.08:
            unit = [self.r.choice(MAKERS)(self.r, *keys) for _ in range(3)]
            return [("MULTI",), *[u for u in unit if u[0] != "FUNCTION"], ("EXEC",)]
        return [self.r.choice(MAKERS)(self.r, *keys)]

    def run(self, count):
        """Pipelines of random length; all answered, and nothing refused."""
        while count > 0:
            commands = [c for _ in range(self.r.choice([1, 1, 5, 20])) for c in self.command()]
            count -= len(commands)
            for command, reply in zip(commands, self.client.pipeline(commands)):
                if isinstance(reply, RespError):
                    self.codes[reply.code] = self.codes.get(reply.code, 0) + 1
                    assert reply.code not in ("UNCERTAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MISCONF"), (command, reply)


def fill(holdfast, count, writers=3, seed=""):
    with holdfast.client() as c:
        c("FUNCTION", "LOAD", "REPLACE", FUNCTIONS)
    all_of = [Writer(holdfast, f"{seed}{n}") for n in range(writers)]
    failures = []

    def run(w):
        try:
            w.run(count // writers)
        except BaseException as e:  # noqa: BLE001 -- handed on to the test
            failures.append(e)
    threads = [threading.Thread(target=run, args=(w,)) for w in all_of]
    for t in threads:
        t.start()
    for t in threads:
        t.join(300)
    if failures:
        raise failures[0]
    for w in all_of:
        w.client.close()


def settled_digest(valkey):
    """Everything once all short-lived keys are gone: the digest of the whole, and to name a difference,
    of each key with its time to live."""
    time.sleep(SHORT_MS / 1000 + 0.05)  # the keys' own time, not a wait for something to happen
    found = {}
    with valkey.client() as c:
        for db in range(4):
            c("SELECT", db)
            wait_until(lambda: c("DBSIZE") == len(c("KEYS", "*")), 10, "what has expired is deleted")  # DEBUG DIGEST counts it
            for key in c("KEYS", "*"):
                found[db, key] = (c("TYPE", key), c("PEXPIRETIME", key), *c("DEBUG", "DIGEST-VALUE", key))
        for library in c("FUNCTION", "LIST"):
            found[library[1]] = sorted(map(str, library[5]))
        found["digest"] = c("DEBUG", "DIGEST")
    return found


def differences(before, after):
    return {k: (before.get(k), after.get(k)) for k in before.keys() | after.keys() if before.get(k) != after.get(k)}


def durable(holdfast):
    """Until everything is in the log."""
    def quiet():
        s = holdfast.status()
        return s["lag_ms"] == 0 and s["pending_bytes"] == 0 and s["pending_intents"] == 0
    wait_until(quiet, 15, "everything is durable")


def served(holdfast):
    eventually(lambda: ask_once(holdfast, "GET", "nothing"), lambda reply: reply is None, 30, "reads are served")
    holdfast.wait_ready(30)


def ask_once(holdfast, *command):
    with holdfast.client() as c:
        return c.ask(*command)


def rebuilds_seen(holdfast):
    return holdfast.status()["rebuilds"]


def same_after(valkey, holdfast, replace):
    """Digest, replace(), digest; keys that fall due in between are gone in both."""
    durable(holdfast)
    before = settled_digest(valkey)
    with holdfast.client() as c:
        for n in range(50):
            assert c("SET", f"due{n}", 1, "PX", 50 + 5 * n) == b"OK"
        c("HSET", "due hash", "f", 1)
        c("PEXPIRE", "due hash", 200)
    durable(holdfast)
    count = rebuilds_seen(holdfast)
    replace()
    wait_until(lambda: rebuilds_seen(holdfast) > count, 30, "a rebuild")
    served(holdfast)
    assert not differences(before, settled_digest(valkey))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_rebuilt_is_equal(rig, mode):
    valkey, holdfast = rig.pair("--maxmemory-policy", "noeviction", durability=mode)
    for n in range(2):
        fill(holdfast, COMMANDS, seed=f"{mode}{n}")
        same_after(valkey, holdfast, valkey.restart_empty)


def test_mixed_modes(rig):
    """Connections of both kinds beside each other, and changing."""
    valkey, holdfast = rig.pair(durability="sync")
    with holdfast.client() as c:
        c("FUNCTION", "LOAD", "REPLACE", FUNCTIONS)
    writers = [Writer(holdfast, f"mixed{n}") for n in range(4)]
    for n, w in enumerate(writers):
        w.client("CLIENT", "DURABILITY", ["SYNC", "ASYNC", "DEFAULT", "ASYNC"][n])
    failures = []

    def run(w):
        try:
            for n in range(4):
                w.run(COMMANDS // 16)
                w.client("CLIENT", "DURABILITY", w.r.choice(["SYNC", "ASYNC", "DEFAULT"]))
        except BaseException as e:  # noqa: BLE001
            failures.append(e)
    threads = [threading.Thread(target=run, args=(w,)) for w in writers]
    for t in threads:
        t.start()
    with holdfast.client() as c:
        for mode in ("async", "sync", "off", "sync"):
            time.sleep(0.2)
            assert c("CONFIG", "SET", "durability", mode) == b"OK"
    for t in threads:
        t.join(300)
    assert not failures, failures
    same_after(valkey, holdfast, valkey.restart_empty)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_snapshots_and_truncation_under_way(rig, mode):
    """Snapshots are taken while commands run; the log before them goes; what is rebuilt from them is equal, by a new process too."""
    valkey, holdfast = rig.pair(durability=mode, snapshot_log_bytes="64kb", log_size_max="8mb")
    for n in range(3):
        fill(holdfast, COMMANDS, seed=f"snap{mode}{n}")
        wait_until(lambda: not holdfast.status()["snapshot_running"], 20, "the snapshot is done")
        if n == 1:
            durable(holdfast)
            holdfast.restart()
        same_after(valkey, holdfast, valkey.restart_empty)
    status = holdfast.status()
    assert status["snapshot_index"] > 1 and status["log_first_index"] > 1, status
    durable(holdfast)
    before = settled_digest(valkey)
    holdfast.kill9()
    valkey.restart_empty()
    holdfast.start()
    served(holdfast)
    assert not differences(before, settled_digest(valkey))


def test_restarted_with_an_old_rdb_of_its_own(rig):
    valkey, holdfast = rig.pair()
    fill(holdfast, COMMANDS // 2, seed="rdb0")
    with valkey.client() as c:
        c("SAVE")
    fill(holdfast, COMMANDS // 2, seed="rdb1")

    def restart_old():
        valkey.kill9()
        valkey.start("--dbfilename", "dump.rdb")
        with valkey.client() as c:
            c.ask("SET", "a key of its own", 1)  # may be refused: Holdfast may be faster
    same_after(valkey, holdfast, restart_old)
    with holdfast.client() as c:
        assert c("EXISTS", "a key of its own") == 0


def test_replaced_by_another_with_data(rig):
    valkey, holdfast = rig.pair()
    fill(holdfast, COMMANDS // 2, seed="other")
    other = rig.valkey()
    with other.client() as c:
        c.pipeline([("SET", f"stranger{n}", n) for n in range(100)])
        c("SAVE")

    def replace():
        valkey.kill9()
        (valkey.dir / "dump.rdb").write_bytes((other.dir / "dump.rdb").read_bytes())
        valkey.start()
    same_after(valkey, holdfast, replace)
    with holdfast.client() as c:
        assert c("EXISTS", "stranger1") == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_hung_and_resumed(rig, mode):
    """A Valkey that does not answer counts as gone; when it comes back, nothing is lost and nothing runs twice."""
    valkey, holdfast = rig.pair(durability=mode, valkey_timeout="700ms")
    fill(holdfast, COMMANDS // 4, seed="hung")
    durable(holdfast)
    before = settled_digest(valkey)
    valkey.pause()
    try:
        eventually(lambda: ask_once(holdfast, "GET", "k1"), lambda r: is_error(r, "LOADING"), 20, "LOADING for reads")
        assert is_error(ask_once(holdfast, "SET", "refused", "x"), "LOADING")
        assert holdfast.http("/readyz")[0] == 503
        assert holdfast.http("/healthz")[0] == 200
    finally:
        valkey.resume()
    served(holdfast)
    assert ask_once(holdfast, "EXISTS", "refused") == 0
    assert not differences(before, settled_digest(valkey))
    fill(holdfast, COMMANDS // 4, seed="hung again")
    same_after(valkey, holdfast, valkey.restart_empty)


def test_loading_until_rebuilt(rig):
    """While Valkey is dead: LOADING, for reads and writes, of every client; connections live on."""
    valkey, holdfast = rig.pair()
    with holdfast.client() as c, holdfast.client(proto=3) as d:
        assert c("SET", "k", "v") == b"OK"
        valkey.kill9()
        for client in (c, d):
            eventually(lambda: client.ask("GET", "k"), lambda r: is_error(r, "LOADING"), 20, "LOADING")
            assert is_error(client.ask("SET", "k", "w"), "LOADING")
            assert is_error(client.ask("EVAL", "return redis.call('SET', 'k', 'x')", 0), "LOADING")
        assert holdfast.status()["state"] != "serving"
        valkey.restart_empty()
        for client in (c, d):
            eventually(lambda: client.ask("GET", "k"), lambda r: r == b"v", 20, "the value is back")
            assert client("SET", "k", "v") == b"OK"


def test_adopts_what_valkey_holds(rig):
    valkey = rig.valkey()
    source = load.Client(valkey.port)
    r = random.Random(1)
    source("FUNCTION", "LOAD", FUNCTIONS)
    for db in range(3):
        source("SELECT", db)
        for _ in range(600):
            keys = [f"k{r.randint(0, 60)}" for _ in range(3)]
            source.ask(*r.choice(MAKERS[:7])(r, *keys))
    before = settled_digest(valkey)
    holdfast = rig.holdfast(valkey)
    assert not differences(before, settled_digest(valkey))
    with holdfast.client() as c:
        c("SET", "later", 1)
    expected = settled_digest(valkey)
    same_after(valkey, holdfast, valkey.restart_empty)
    holdfast.kill9()
    valkey.restart_empty()
    holdfast.start()
    served(holdfast)
    assert not differences(expected, settled_digest(valkey))


def test_big_values_and_a_large_state(rig):
    valkey, holdfast = rig.pair(durability="sync", snapshot_log_bytes="20mb")
    with holdfast.client(timeout=60) as c:
        assert c("SET", "big", os.urandom(12 << 20)) == b"OK"
        for n in range(20):
            c.pipeline([("HSET", f"h{n}:{i % 50}", f"f{i}", "x" * 50) for i in range(1000)])
        assert c("EVAL", "for i = 1, 20000 do redis.call('SET', 'e' .. i, i) end return 1", 0) == 1
    same_after(valkey, holdfast, valkey.restart_empty)


def test_spawned_valkey_is_rebuilt(rig):
    """valkey-spawn: the same, seen through Holdfast alone."""
    holdfast = rig.holdfast(None)
    fill(holdfast, COMMANDS // 4, seed="spawn")

    def seen():
        time.sleep(SHORT_MS / 1000 + 0.05)
        with holdfast.client() as c:
            everything = []
            for db in range(4):
                c("SELECT", db)
                keys = sorted(c("KEYS", "*"))
                everything.append([(k, c("TYPE", k), c.ask("GET", k), c.ask("LRANGE", k, 0, -1)) for k in keys])
            return everything
    before = seen()
    pid = holdfast.spawned_pid()
    os.kill(pid, 9)
    wait_until(lambda: rebuilds_seen(holdfast) >= 1 and holdfast.ready(), 30, "a rebuild")
    served(holdfast)
    assert holdfast.spawned_pid() != pid
    assert seen() == before


def test_teeth_digest_sees_a_difference(rig):
    valkey = rig.valkey()
    with Client(valkey.port) as c:
        c("SET", "k", 1)
        before = settled_digest(valkey)
        c("EXPIRE", "k", 1000)
        assert set(differences(before, settled_digest(valkey))) == {"digest", (0, b"k")}
