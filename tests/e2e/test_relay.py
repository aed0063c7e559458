"""Clients of nodes that do not lead: the pipe to the leader, what it restores and what it says when the leader is gone."""
import contextlib
import random
import threading
import time

import pytest

from harness import eventually, is_error, wait_until
from resp import Client, Closed, PushReply, RespError, encode, info_fields


def follower_of(g):
    return g.followers()[0]


def kill_leader(g):
    """The leader's node and Valkey, and who leads then."""
    old = g.leader()
    g.kill9_zone(old)
    return old, g.leader(besides=[old])


# ---- the pipe ----

def test_many_pipelines(rig):
    g = rig.group()
    failed = []

    def work(endpoint, name):
        rnd = random.Random(name)
        try:
            with Client(endpoint, proto=rnd.choice((2, 3)), timeout=30) as c:
                for turn in range(20):
                    n = rnd.choice((1, 16, 700))
                    sent = b"".join(encode("RPUSH", name, f"{turn}.{i}") + encode("ECHO", f"{turn}.{i}") for i in range(n))
                    cut = rnd.randrange(len(sent))
                    c.raw(sent[:cut])
                    c.raw(sent[cut:])
                    for i in range(n):
                        assert c.read() > 0 and c.read() == f"{turn}.{i}".encode()
        except BaseException as e:  # noqa: BLE001
            failed.append((name, repr(e)))

    threads = [threading.Thread(target=work, args=(m.endpoint(), f"list:{m.name}:{i}")) for m in g for i in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    g.wait_equal()


def test_large_values_and_a_slow_reader(rig):
    g = rig.group(election_timeout="2s")  # an election on a slow machine would be no fault, but another test
    value = random.Random(5).randbytes(4 << 20)
    with follower_of(g).client(timeout=60) as c:
        assert c("SET", "large", value) == b"OK"
        for _ in range(30):
            c.send("GET", "large")
        time.sleep(1)
        for _ in range(30):
            assert c.read() == value
        assert c("PING") == b"PONG"


def test_protocol_errors_are_valkeys(rig):
    g = rig.group()
    for bad in (b"*1\r\n+PING\r\n", b"*x\r\n", b"*1\r\n$-5\r\n", b'SET "k\r\n', b"*2\r\n$1000000000000\r\n"):
        told = []
        for m in g:
            with m.client() as c:
                c.raw(encode("PING") + bad + encode("PING"))
                assert c.read() == b"PONG"
                reply = c.read()
                assert is_error(reply, "ERR") and c.closed_within(5), (m.name, bad)
                told.append(reply.text)
        assert len(set(told)) == 1, told


def test_state_of_all_kinds_while_the_leader_lives(rig):
    g = rig.group()
    f = follower_of(g)
    with f.client(proto=3) as c, f.client() as subscriber, g.leader().client() as direct:
        assert c("SELECT", 3) == b"OK" and c("CLIENT", "SETNAME", "far") == b"OK"
        info = c("CLIENT", "INFO").decode()
        address = f"{c.sock.getsockname()[0]}:{c.sock.getsockname()[1]}"
        assert f"addr={address} " in info and "name=far " in info and "db=3 " in info
        assert info_fields(c("INFO", "durability"))["holdfast_relayed_through"] == f.name
        assert "holdfast_relayed_through" not in info_fields(direct("INFO", "durability"))
        assert c("WATCH", "w") == b"OK" and direct("SELECT", 3) == b"OK" and direct("SET", "w", 1) == b"OK"
        assert c("MULTI") == b"OK" and c("INCR", "w") == b"QUEUED" and c("EXEC") is None
        assert c("CLIENT", "TRACKING", "ON") == b"OK" and c("GET", "w") == b"1"
        assert direct("SET", "w", 2) == b"OK"
        assert c("GET", "w") == b"2"
        eventually(lambda: c("PING") and c.pushes, bool, 5, "an invalidation")
        subscriber.send("SUBSCRIBE", "ch")
        assert subscriber.read() == [b"subscribe", b"ch", 1]
        assert direct("PUBLISH", "ch", "hello") == 1
        assert subscriber.read() == [b"message", b"ch", b"hello"]
        # CLIENT KILL by the address that the leader shows ends the client's own connection.
        assert direct("CLIENT", "KILL", "ADDR", address) == 1
        assert c.closed_within(5)


def test_blocked_clients(rig):
    g = rig.group()
    f = follower_of(g)
    with f.client() as c, g.leader().client() as direct:
        c.send("BLPOP", "queue", 0)
        assert c.silent_for(0.3)
        assert direct("RPUSH", "queue", "x") == 1
        assert c.read() == [b"queue", b"x"]
        c.send("BLPOP", "queue", 0)
        assert c.silent_for(0.2)
        c.close()  # must not take anything any more
        time.sleep(0.5)
        assert direct("RPUSH", "queue", "y") == 1
        time.sleep(0.2)
        assert direct("LLEN", "queue") == 1


def test_authentication_is_the_leaders(rig):
    g = rig.group()
    for m in g:  # users are Valkey's own, and not replicated
        with m.valkey_client() as v:
            v("ACL", "SETUSER", "far", "on", ">secret", "~far:*", "+@all", "-@dangerous")
    with follower_of(g).client(timeout=30) as c:
        assert is_error(c.ask("AUTH", "far", "wrong"), "WRONGPASS")
        assert c("AUTH", "far", "secret") == b"OK" and c("SET", "far:k", 1) == b"OK"
        assert is_error(c.ask("SET", "other", 1), "NOPERM")
        kill_leader(g)
        eventually(lambda: c.ask("SET", "far:k", 2), lambda r: r == b"OK", 20, "the client's own user, on the new leader")
        assert c("ACL", "WHOAMI") == b"far" and is_error(c.ask("SET", "other", 1), "NOPERM")


# ---- losing the leader ----

def test_connections_outlive_the_leader(rig):
    g = rig.group()
    old = g.leader()
    clients = [m.client(proto=3, timeout=30) for m in g.others(old) for _ in range(20)]
    with contextlib.ExitStack() as stack:
        for n, c in enumerate(clients):
            stack.enter_context(c)
            assert c("SELECT", n % 10) == b"OK" and c("CLIENT", "SETNAME", f"c{n}") == b"OK"
            assert c("CLIENT", "DURABILITY", "SYNC") == b"OK" and c("SET", f"k{n}", n) == b"OK"
        kill_leader(g)
        for n, c in enumerate(clients):
            eventually(lambda: c.ask("SET", f"k{n}", n + 1000), lambda r: r == b"OK", 20, f"client {n}: {g.summary()}")
            assert c("GET", f"k{n}") == str(n + 1000).encode()
            info = c("CLIENT", "INFO").decode()
            assert f"name=c{n} " in info and f"db={n % 10} " in info and "resp=3 " in info
            assert c("CLIENT", "DURABILITY", "GET") == b"sync"


def test_uncertain_is_told_for_each_unanswered_command(rig):
    g = rig.group()
    old = g.leader()
    with g.others(old)[0].client(timeout=30) as c, g.others(old)[1].client(timeout=30) as tx:
        assert c("PING") == b"PONG"
        assert tx("MULTI") == b"OK" and tx("SET", "tx", 1) == b"QUEUED"
        old.pause()
        c.raw(b"".join(encode("RPUSH", "l", i) for i in range(100)))
        time.sleep(0.1)
        g.kill9_zone(old)
        replies = [c.read() for _ in range(100)]
        assert all(is_error(r, "UNCERTAIN") for r in replies), replies[:3]
        assert tx.closed_within(10)
        eventually(lambda: c.ask("PING"), lambda r: r == b"PONG", 20, "the connection was kept")
        values = c("LRANGE", "l", 0, -1)  # at most once each, in order
        assert values == [str(i).encode() for i in range(len(values))]
    with g.leader(besides=[old]).client() as c:
        assert c("EXISTS", "tx") == 0


def test_no_leader(rig):
    g = rig.group(relay_timeout="500ms")
    old = g.leader()
    last = g.others(old)[0]
    with last.client(timeout=30) as c:
        assert c("SELECT", 2) == b"OK" and c("SET", "k", 1) == b"OK"
        with last.reader(db=2) as r:
            eventually(lambda: r.ask("GET", "k"), lambda v: v == b"1", 10, "the follower has it")
        for m in g.others(last):
            g.kill9_zone(m)
        eventually(lambda: c.ask("PING"), lambda r: is_error(r, "CLUSTERDOWN"), 20, "no leader is known")
        begun = time.monotonic()
        c.raw(encode("SET", "k", 2) + encode("MULTI") + encode("SET", "k", 3) + encode("EXEC"))
        replies = [c.read() for _ in range(4)]
        took = time.monotonic() - begun
        assert is_error(replies[0], "CLUSTERDOWN") and replies[1] == b"OK"
        assert is_error(replies[2], "CLUSTERDOWN") and is_error(replies[3], "EXECABORT"), replies
        assert 0.4 < took < 3, took
        with last.reader(db=2) as r:  # the local Valkey is still there
            assert r("GET", "k") == b"1"
        for m in g.others(last):
            g.restart(m, wait=False)
        eventually(lambda: c.ask("GET", "k"), lambda r: not isinstance(r, RespError), 30, "served again")
        assert c("GET", "k") == b"1"  # refused means refused
    g.wait_equal()


# ---- handing over ----

def test_a_hand_over_is_not_noticed(rig):
    """Idle and busy connections to all nodes stay, whatever part their node plays before and after."""
    g = rig.group()
    leader = g.leader()
    to = g.others(leader)[0]
    clients = {m.name: [m.client(proto=p, timeout=30) for p in (2, 3)] for m in g}
    with contextlib.ExitStack() as stack:
        for name, own in clients.items():
            for n, c in enumerate(own):
                stack.enter_context(c)
                assert c("SELECT", n + 1) == b"OK" and c("CLIENT", "SETNAME", f"{name}{n}") == b"OK"
        for turn, target in enumerate((to, leader, to)):
            code, text = g.transfer(to=target)
            assert code == 200, text
            wait_until(lambda: g.leader_now() is target, 10, lambda: g.summary())
            for name, own in clients.items():
                for n, c in enumerate(own):
                    eventually(lambda: c.ask("SET", name, turn), lambda r: r == b"OK", 10, f"{name}: a client after the hand-over")
                    assert c("GET", name) == str(turn).encode()
                    info = c("CLIENT", "INFO").decode()
                    assert f"name={name}{n} " in info and f"db={n + 1} " in info and f"resp={n + 2} " in info, info
            g.wait_serving()
            wait_until(lambda: all(m.serves_reads() for m in g), 10, "all Valkeys are warm")
    g.wait_equal()


# ---- reader-port ----

def test_reader_port_in_detail(rig):
    g = rig.group()
    with g.leader().client() as c:
        assert c("SET", "k", "v") == b"OK"
    for m in g:
        with m.reader(proto=3) as r:
            eventually(lambda: r.ask("GET", "k"), lambda v: v == b"v", 10, f"{m.name} has it")
            assert is_error(r.ask("CLIENT", "DURABILITY", "SYNC"), "ERR") and is_error(r.ask("WAIT", 0, 0), "ERR")
            assert r("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "k") == b"v"
            assert r("EVAL", "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])", 1, "k") == b"v"
            sha = r("SCRIPT", "LOAD", "return redis.call('GET', KEYS[1])")
            assert r("EVALSHA_RO", sha, 1, "k") == b"v"
            for command in (("EVALSHA", sha, 1, "k"), ("PFCOUNT", "k"), ("PUBLISH", "c", "m"), ("SPOP", "s"), ("NOSUCH",)):
                assert r.ask(*command).text == "READONLY You can't write against a read only replica.", (m.name, command)
            assert r("MULTI") == b"OK" and r("GET", "k") == b"QUEUED" and r("EXEC") == [b"v"]
            assert r("MULTI") == b"OK" and is_error(r.ask("SET", "k", 1), "READONLY")
            assert is_error(r.ask("EXEC"), "EXECABORT") and r("GET", "k") == b"v"
            assert r("WATCH", "k") == b"OK" and r("MULTI") == b"OK" and r("EXEC") == []
            assert is_error(r.ask("CONFIG", "SET", "durability", "async"), "ERR")
            assert r("CLIENT", "TRACKING", "ON") == b"OK" and r("GET", "k") == b"v"
            with g.leader().client() as c:
                assert c("SET", "k", "v") == b"OK"
            eventually(lambda: r("PING") and r.pushes, bool, 5, "an invalidation")
            assert isinstance(r.pushes[0], PushReply)


@pytest.mark.parametrize("stop", ["transfer", "kill"])
def test_readers_stay_when_leadership_moves(rig, stop):
    g = rig.group()
    with g.leader().client() as c:
        assert c("SET", "k", "v") == b"OK"
    old = g.leader()
    survivors = list(g) if stop == "transfer" else g.others(old)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(m.reader(timeout=30)) for m in survivors]
        for r in readers:
            eventually(lambda: r.ask("GET", "k"), lambda v: v == b"v", 10, "it has it")
        if stop == "transfer":
            assert g.transfer()[0] == 200
        else:
            g.kill9_zone(old)
        g.leader(besides=[old])
        for r in readers:
            eventually(lambda: r.ask("GET", "k"), lambda v: v == b"v", 20, "the same connection reads on")


def test_maxclients_counts_relays(rig):
    g = rig.group(maxclients=20)
    f = follower_of(g)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(f.client()) for _ in range(20)]
        for c in clients[:5]:
            assert c("PING") == b"PONG"
        with f.client() as c:
            with contextlib.suppress(Closed):
                assert c.read().text == "ERR max number of clients reached"
            assert c.closed_within(5)
    wait_until(lambda: f.look()["relays"] == 0, 10, "all are gone")
