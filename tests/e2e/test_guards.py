"""Commands that would break durability: refused with a reason, and what allow-guarded-commands makes of them."""
import pytest

from harness import eventually, is_error, wait_until
from resp import RespError

NEVER = [("REPLICAOF", "NO", "ONE"), ("SLAVEOF", "127.0.0.1", 1), ("FAILOVER",), ("PSYNC", "?", -1), ("SYNC",), ("REPLCONF", "ACK", 1),
         ("CLUSTER", "RESET"), ("RESTORE-ASKING", "k", 0, "x")]
GUARDED = [("DEBUG", "OBJECT", "k"), ("DEBUG", "SEGFAULT"), ("PFDEBUG", "ENCODING", "k"), ("SHUTDOWN",), ("SHUTDOWN", "NOSAVE"),
           ("MIGRATE", "127.0.0.1", 1, "k", 0, 10)]
SETTINGS = [("save", "60 1"), ("appendonly", "yes"), ("dir", "/tmp"), ("dbfilename", "x.rdb")]
RELIED_ON = [("repl-timeout", 1), ("repl-diskless-sync", "no"), ("repl-backlog-size", "1mb"), ("min-replicas-to-write", 1),
             ("replica-priority", 1), ("replicaof", "no one"), ("masterauth", "x"), ("databases", 3)]


def test_refused_by_default(rig):
    v, h = rig.pair()
    with h.client() as c:
        c("SET", "k", 1)
        for words in NEVER + GUARDED:
            got = c.ask(*words)
            assert is_error(got, "ERR") and "is not available through Holdfast: " in got.text, (words, got)
            assert ("allow-guarded-commands" in got.text) == (words in GUARDED), (words, got)
        for name, value in SETTINGS:
            got = c.ask("CONFIG", "SET", name, value)
            assert is_error(got, "ERR") and "allow-guarded-commands" in got.text, (name, got)
        for name, value in RELIED_ON:
            assert is_error(c.ask("CONFIG", "SET", name, value), "ERR"), name
        for words in (("CONFIG", "SET", "save", ""), ("CONFIG", "SET", "appendonly", "no"), ("CONFIG", "SET", "repl-backlog-size", "128mb")):
            assert c(*words) == b"OK", words
        assert c("GET", "k") == b"1"
        rows = [r.decode() for r in c("PROXY", "COMMANDS")]
        assert any(r.startswith("migrate: refused") for r in rows)
        assert c("CONFIG", "GET", "allow-guarded-commands") == [b"allow-guarded-commands", b""]
        assert is_error(c.ask("CONFIG", "SET", "allow-guarded-commands", "debug"), "ERR")  # as enable-debug-command: not at run time
    assert v.info("replication")["role"] == "master"


def test_allowed(rig):
    """MIGRATE takes the key away for good; DEBUG tells; the unsafe ones have a word of their own."""
    other = rig.valkey()
    v, h = rig.pair(settings={"allow-guarded-commands": "debug migrate persistence"})
    with h.client() as c, other.client() as o:
        c.pipeline([("SET", "k", 1), ("RPUSH", "l", 1, 2), ("SET", "stays", 1)])
        assert c("DEBUG", "OBJECT", "k").startswith(b"Value at:") and c("DEBUG", "DIGEST") == v.digest()
        assert c("DEBUG", "SLEEP", 0) == b"OK" and c("DEBUG", "RELOAD") == b"OK"
        assert isinstance(c.ask("PFDEBUG", "ENCODING", "nothing"), RespError)
        assert c("CONFIG", "SET", "save", "3600 1") == b"OK"
        for words in (("DEBUG", "SEGFAULT"), ("DEBUG", "REPLICATE", "all", "SET", "a", "b"), ("DEBUG", "POPULATE", 3), ("DEBUG", "RELOAD", "NOSAVE")):
            got = c.ask(*words)
            assert is_error(got, "ERR") and "debug-unsafe" in got.text, words
        assert is_error(c.ask("SHUTDOWN"), "ERR")
        assert c("MIGRATE", "127.0.0.1", other.port, "", 0, 5000, "KEYS", "k", "l") == b"OK"
        assert o.pipeline([("GET", "k"), ("LRANGE", "l", 0, -1)]) == [b"1", [b"1", b"2"]]
        assert c("EXISTS", "k", "l") == 0
        payload = o("DUMP", "l")
        assert c("RESTORE", "back", 0, payload) == b"OK" and c("RESTORE", "back", 60000, payload, "REPLACE") == b"OK"
        assert is_error(c.ask("RESTORE", "back", 0, payload), "BUSYKEY")
    v.restart_empty()
    wait_until(lambda: h.ready(), 20, "rebuilt")
    with h.client() as c:
        assert c.pipeline([("EXISTS", "k", "l"), ("GET", "stays"), ("LRANGE", "back", 0, -1)]) == [0, b"1", [b"1", b"2"]]
        assert 0 < c("PTTL", "back") <= 60000


@pytest.mark.parametrize("words", [("SHUTDOWN", "NOSAVE"), ("DEBUG", "SEGFAULT")])
def test_ending_valkey_loses_nothing(rig, words):
    """As if it had died; whoever supervises it starts it again, with nothing in it."""
    v, h = rig.pair(settings={"allow-guarded-commands": "debug-unsafe shutdown"})
    with h.client() as c:
        for n in range(100):
            assert c("SET", f"k:{n}", n) == b"OK"
        c.ask(*words)
    wait_until(lambda: not v.alive(), 20, "Valkey has ended")
    v.restart_empty()

    def served():
        with h.client() as c:
            return c.ask("GET", "k:99")
    eventually(served, lambda got: got == b"99", 20, "served again")
    with h.client() as c:
        assert c("DBSIZE") == 100


def test_words_are_checked(rig):
    v = rig.valkey()
    h = rig.holdfast(v, start=False, settings={"allow-guarded-commands": "debug everything"})
    h.expect_trouble = True
    h.launch()
    wait_until(lambda: not h.alive(), 10, "it ends")
    assert "must be one of the following: debug, debug-unsafe, migrate, shutdown, persistence" in h.text()
