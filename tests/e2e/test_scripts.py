"""Scripts and functions: what they read and write without saying so, what is a read, what is durable, and one that does not end."""
import contextlib
import threading
import time

import pytest

from harness import is_error, wait_until
from resp import Closed, RespError, encode, info_fields

LIBRARY = """#!lua name=shop
server.register_function{function_name='sell', callback=function(keys, args)
    server.call('DECRBY', keys[1], args[1]) return server.call('RPUSH', keys[1] .. ':sold', args[1]) end}
server.register_function{function_name='stock', callback=function(keys) return server.call('GET', keys[1]) end, flags={'no-writes'}}
"""
READS = "#!lua flags=no-writes\nreturn server.call('GET', KEYS[1] or 'k')"


@pytest.fixture(params=["sync", "async"])
def pair(request, rig):
    return rig.pair("--busy-reply-threshold", "50", durability=request.param, disk=True)


def all_killed(valkey, holdfast):
    holdfast.kill9()
    valkey.restart_empty()
    holdfast.start()


# ---- what is a read ----

def captured(holdfast):
    return holdfast.status()["writes_captured"] + holdfast.status()["writes_async"]


def test_scripts_that_promise_not_to_write_are_reads(pair):
    _, holdfast = pair
    with holdfast.client() as c:
        c("SET", "k", "v")
        sha, other = c("SCRIPT", "LOAD", READS), c("SCRIPT", "LOAD", "return server.call('GET', KEYS[1])")
        c("FUNCTION", "LOAD", LIBRARY)
        before = captured(holdfast)
        for _ in range(5):
            assert c("EVAL", READS, 1, "k") == b"v" and c("EVAL", READS, 0) == b"v"
            assert c("EVALSHA", sha, 1, "k") == b"v" and c("EVALSHA", sha.upper(), 0) == b"v"
            assert c("EVALSHA_RO", other, 1, "k") == b"v" and c("EVAL_RO", "return server.call('GET', 'k')", 0) == b"v"
            assert c("FCALL_RO", "stock", 1, "k") == b"v"
        assert captured(holdfast) == before
        c("EVALSHA", other, 1, "k")
        c("FCALL", "stock", 1, "k")
        assert captured(holdfast) == before + 2
        lies = "#!lua flags=no-writes\nreturn server.call('SET', 'k', 'changed')"
        assert is_error(c.ask("EVAL", lies, 0), "ERR") and is_error(c.ask("EVALSHA", c("SCRIPT", "LOAD", lies), 0), "ERR")
        assert is_error(c.ask("EVAL", "#!lua flags=no-writes\nreturn server.call('PFCOUNT', 'h')", 0), "ERR")
        assert is_error(c.ask("FCALL_RO", "sell", 1, "k", 1), "ERR")
        assert c("GET", "k") == b"v"


def test_reads_go_on_while_writes_are_refused(rig):
    _, holdfast = rig.pair(durability="sync", disk=True, durability_lag_max="1s")
    with holdfast.client(timeout=30) as c, holdfast.client(timeout=30) as writer:
        c("SET", "k", "v")
        sha = c("SCRIPT", "LOAD", READS)
        holdfast.disk.set("stall")
        writer.send("SET", "other", 1)
        wait_until(lambda: is_error(c.ask("SET", "x", 1), "CLUSTERDOWN"), 20, "writes are refused")
        assert c("EVALSHA", sha, 1, "k") == b"v" and c("EVAL", READS, 1, "k") == b"v"
        assert is_error(c.ask("EVAL", "return 1", 0), "CLUSTERDOWN")
        holdfast.disk.set("")
        writer.read()


# ---- undeclared keys ----

WAYS = {"declared": ("EVAL", "return server.call('SET', KEYS[1], ARGV[1])", 1, "k", "new"),
        "undeclared": ("EVAL", "return server.call('SET', 'k', ARGV[1])", 0, "new"),
        "another declared": ("EVAL", "return server.call('SET', 'k', ARGV[1])", 1, "elsewhere", "new"),
        "unit": None}


@pytest.mark.parametrize("asks", ["sync", "async"])
@pytest.mark.parametrize("way", WAYS)
def test_a_read_of_what_a_script_has_written_waits_for_it(rig, way, asks):
    """Whatever the script says of its keys: who is shown the new value sees it after a kill of everything."""
    valkey, holdfast = rig.pair(durability="sync", disk=True, valkey_timeout="20s")
    with holdfast.client(timeout=30) as script, holdfast.client(timeout=30) as reads, holdfast.client(timeout=30) as by_script:
        script("CLIENT", "DURABILITY", asks)
        reads("SET", "k", "old")
        reads("SET", "calm", "water")
        sha = reads("SCRIPT", "LOAD", READS)
        holdfast.disk.set("stall")
        if way == "unit":
            script.raw(b"".join(encode(*w) for w in [("MULTI",), WAYS["undeclared"], ("EXEC",)]))
        else:
            script.send(*WAYS[way])
        with valkey.client() as direct:
            wait_until(lambda: direct("GET", "k") == b"new", 10, "the script has run")
        reads.send("GET", "k")
        by_script.send("EVALSHA", sha, 0)
        assert reads.silent_for(0.3) and by_script.silent_for(0.05), "what was read can be undone"
        with holdfast.client(timeout=30) as calm:
            assert calm("GET", "calm") == b"water", "of another key nothing is in doubt"
        holdfast.disk.set("")
        assert reads.read() == b"new" and by_script.read() == b"new"
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("GET", "k") == b"new"


def test_reads_beside_scripts_with_undeclared_keys(rig):
    """The same, at random: every value that a read was answered with is there, or a newer one, after each kill."""
    valkey, holdfast = rig.pair(durability="sync", disk=True)
    for _ in range(4):
        stop, seen, failed = threading.Event(), [0] * 3, []

        def write(_):
            with contextlib.suppress(Closed, OSError), holdfast.client(timeout=30) as c:
                while not stop.is_set():
                    c.ask("EVAL", "server.call('INCR', 'u0') server.call('INCR', 'u1') return server.call('INCR', 'u2')", 0)

        def read(n):
            with contextlib.suppress(Closed, OSError), holdfast.client(timeout=30) as c:
                while not stop.is_set():
                    reply = c.ask("GET", f"u{n}") if n else c.ask("EVAL_RO", "return server.call('GET', 'u0')", 0)
                    if not isinstance(reply, RespError):
                        value = int(reply or 0)
                        if value < seen[n]:
                            failed.append((n, value, seen[n]))
                        seen[n] = value
        threads = [threading.Thread(target=f, args=(n,)) for f in (write, read) for n in range(3)]
        holdfast.disk.set("slow 3")
        for t in threads:
            t.start()
        wait_until(lambda: min(seen) > 30, 30, "everybody has seen something")
        all_killed(valkey, holdfast)
        stop.set()
        for t in threads:
            t.join(60)
        holdfast.disk.set("")
        with holdfast.client() as c:
            now = [int(v) for v in c("MGET", "u0", "u1", "u2")]
        assert not failed and all(n >= s for n, s in zip(now, seen)), (failed, now, seen)
        assert len(set(now)) == 1, f"half a script: {now}"


# ---- what is durable ----

def test_functions_and_scripts_after_a_kill(pair):
    valkey, holdfast = pair
    with holdfast.client() as c:
        assert c("FUNCTION", "LOAD", LIBRARY) == b"shop"
        sha = c("SCRIPT", "LOAD", "return 7")
        assert c("SCRIPT", "EXISTS", sha) == [1] and c("SCRIPT", "SHOW", sha) == b"return 7" if _has(c, "script|show") else True
        c("SET", "apples", 10)
        assert c("FCALL", "sell", 1, "apples", 3) == 1
        dump = c("FUNCTION", "DUMP")
        assert c("WAITAOF", 1, 0, 20000) == [1, 0]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert is_error(c.ask("EVALSHA", sha, 0), "NOSCRIPT") and c("SCRIPT", "EXISTS", sha) == [0]
        assert c("EVAL", "return 7", 0) == 7 and c("EVALSHA", sha, 0) == 7
        assert c("FCALL", "sell", 1, "apples", 3) == 2 and c("GET", "apples") == b"4"
        assert c("LRANGE", "apples:sold", 0, -1) == [b"3", b"3"]
        assert c("FUNCTION", "DUMP") == dump
        assert c("SCRIPT", "FLUSH") == b"OK" and is_error(c.ask("EVALSHA", sha, 0), "NOSCRIPT")
        assert c("FUNCTION", "DELETE", "shop") == b"OK"
        assert is_error(c.ask("FCALL", "stock", 1, "apples"), "ERR")
        assert c("WAITAOF", 1, 0, 20000) == [1, 0]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("FUNCTION", "LIST") == []
        assert c("FUNCTION", "RESTORE", dump) == b"OK" and c("FCALL", "stock", 1, "apples") == b"4"
        assert c("WAITAOF", 1, 0, 20000) == [1, 0]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("FCALL_RO", "stock", 1, "apples") == b"4"
        assert c("FUNCTION", "LOAD", "REPLACE", LIBRARY.replace("GET', keys[1]", "STRLEN', keys[1]")) == b"shop"
        assert c("FCALL_RO", "stock", 1, "apples") == 1
        assert c("FUNCTION", "FLUSH") == b"OK"
        assert c("WAITAOF", 1, 0, 20000) == [1, 0]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("FUNCTION", "LIST") == []


def _has(c, name):
    return bool(c("COMMAND", "INFO", name)[0])


@pytest.mark.parametrize("ask", [("FUNCTION", "LIST"), ("FUNCTION", "DUMP")])
def test_a_library_is_not_shown_before_it_is_durable(rig, ask):
    valkey, holdfast = rig.pair(disk=True)
    with holdfast.client() as writer, holdfast.client() as reader, valkey.client() as direct:
        before = reader(*ask)
        holdfast.disk.set("stall")
        writer.send("FUNCTION", "LOAD", LIBRARY)
        wait_until(lambda: direct("FUNCTION", "LIST") != [], 10, "Valkey has it")
        reader.send(*ask)
        assert reader.silent_for(0.3)
        holdfast.disk.set("")
        assert writer.read() == b"shop" and reader.read() not in (before, [])


def test_functions_are_in_all_zones(rig):
    g = rig.group()
    with g["a"].client() as c:
        assert c("FUNCTION", "LOAD", LIBRARY) == b"shop"
        c("SET", "apples", 10)
        assert c("FCALL", "sell", 1, "apples", 3) == 1
        sha = c("SCRIPT", "LOAD", READS)
        assert c("EVALSHA", sha, 1, "apples") == b"7"
    g.wait_equal()
    for m in g:
        with m.reader() as c:
            wait_until(lambda: c.ask("FCALL_RO", "stock", 1, "apples") == b"7", 10, f"{m.name} has it")  # noqa: B023
    for n in range(2):
        old = g.leader()
        if n:
            g.transfer()
        else:
            g.kill9_zone(old)
        g.wait_serving(members=g.others(old))
        with g.others(old)[0].client() as c:
            assert c("FCALL", "sell", 1, "apples", 1) == 2 + n
            reply = c.ask("EVALSHA", sha, 1, "apples")
            assert is_error(reply, "NOSCRIPT"), "as after a failover of Valkey: it is not in the stream"
            assert c("EVAL", READS, 1, "apples") == b"%d" % (6 - n) == c("EVALSHA", sha, 1, "apples")
        if not n:
            g.restart(old)
            g.wait_joined(old)
    g.wait_equal()


# ---- one that does not end ----

def wait_busy(holdfast):
    """Each time on another connection: a sync read that Valkey has answered just before the script waits for its end."""
    def busy():
        with holdfast.client(timeout=1) as c, contextlib.suppress(TimeoutError):
            return is_error(c.ask("GET", "x"), "BUSY")
    wait_until(busy, 20, "a script runs")


@pytest.mark.parametrize("kind", ["script", "function", "read", "transaction"])
def test_a_long_script_holds_up_nobody_but_scripts(pair, kind):
    """Everybody else is told -BUSY, as by Valkey, and can end it."""
    valkey, holdfast = pair
    sync = holdfast.status()["mode"] == "sync"
    with holdfast.client(timeout=60) as c, holdfast.client(timeout=60) as d, contextlib.ExitStack() as stack:
        c("FUNCTION", "LOAD", "#!lua name=l\nserver.register_function('spin', function() while true do end end)")
        others = [stack.enter_context(holdfast.client(timeout=60)) for _ in range(4)]
        for o in others:
            assert o("GET", "x") is None
        command = {"script": [("EVAL", "while true do end", 0)], "function": [("FCALL", "spin", 0)],
                   "read": [("EVAL_RO", "while true do end", 0)],
                   "transaction": [("MULTI",), ("EVAL", "while true do end", 0), ("EXEC",)]}[kind]
        c.raw(b"".join(encode(*w) for w in command))
        wait_busy(holdfast)
        assert all(is_error(o.ask("GET", "x"), "BUSY") for o in [*others, d])
        if not sync:
            assert all(is_error(o.ask("SET", "x", 1), "BUSY") for o in others), "an async write is refused by Valkey"
        assert d("FUNCTION" if kind == "function" else "SCRIPT", "KILL") == b"OK"
        replies = [c.read() for _ in command]
        assert isinstance(replies[-1], RespError) or isinstance(replies[-1][0], RespError)
        for o in [*others, c]:
            assert o("SET", "x", 1) == b"OK" and o("GET", "x") == b"1"


def test_a_long_script_that_has_written_ends_by_itself(pair):
    """UNKILLABLE: it is waited for, and what it wrote is durable."""
    valkey, holdfast = pair
    with holdfast.client(timeout=60) as c, holdfast.client(timeout=60) as d:
        c.send("EVAL", "server.call('SET', 'w', 1) local t = server.call('TIME') repeat local n = server.call('TIME') "
               "until (n[1] - t[1]) * 1000000 + n[2] - t[2] > 3000000 return server.call('INCR', 'w')", 0)
        wait_busy(holdfast)
        assert is_error(d.ask("SCRIPT", "KILL"), "UNKILLABLE")
        assert c.read() == 2
        assert d("GET", "w") == b"2"
        assert c("WAITAOF", 1, 0, 20000) == [1, 0]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("GET", "w") == b"2"


def test_what_is_stuck_behind_a_script_is_not_lost(pair):
    """Sync writes wait for the end of the script; killed meanwhile, they are uncertain, never half there."""
    valkey, holdfast = pair
    with holdfast.client(timeout=60) as c, holdfast.client(timeout=60) as d, holdfast.client(timeout=60) as w:
        c.send("EVAL", "while true do end", 0)
        wait_busy(holdfast)
        w.send("INCR", "n")
        time.sleep(0.1)  # on its way
        assert d("SCRIPT", "KILL") == b"OK"
        reply = w.read()
        assert reply == 1 or is_error(reply, "BUSY")
        wait_until(lambda: not is_error(d.ask("GET", "n"), "BUSY"), 20, "the script has ended")
        assert int(d("GET", "n") or 0) == (reply if isinstance(reply, int) else 0)
        assert info_fields(d("INFO", "clients"))["blocked_clients"] == "0"
