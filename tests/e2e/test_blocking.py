"""Clients that block: who blocks first is served first, nothing is lost or handed out twice, whoever is gone takes nothing; and what they
hear when their server is killed, handed over or shut down."""
import contextlib
import re
import threading
import time

import pytest

import history
from harness import Rig, is_error, wait_until
from resp import Client, Closed, RespError, encode, info_fields

POPS = 4   # consumers in the tests that count


@pytest.fixture(scope="module")
def pair(tmp_path_factory, disk_library):
    rig = Rig(tmp_path_factory.mktemp("blocking"))
    yield rig.pair(durability="sync")
    trouble = rig.trouble()
    rig.close()
    assert not trouble, "\n".join(trouble)


@pytest.fixture(scope="module")
def trio(tmp_path_factory, disk_library):
    rig = Rig(tmp_path_factory.mktemp("blocking3"))
    yield rig.group()
    trouble = rig.trouble()
    rig.close()
    assert not trouble, "\n".join(trouble)


@pytest.fixture(params=["valkey", "sync", "async", "relayed"])
def server(request, pair, trio):
    """connect() to a Valkey, to Holdfast before it in either mode, to a follower of a group; and to that Valkey itself."""
    made = []

    class Server:
        name = request.param

        def connect(self, **options):
            thing = pair[0] if self.name == "valkey" else pair[1] if self.name != "relayed" else trio.followers()[0]
            made.append(thing.client(**options))
            return made[-1]

        def direct(self):
            made.append(trio.leader().valkey_client() if self.name == "relayed" else pair[0].client())
            return made[-1]

        def wait_blocked(self, count):
            with contextlib.closing(self.direct()) as c:
                wait_until(lambda: info_fields(c("INFO", "clients"))["blocked_clients"] == str(count), 20, f"{count} clients are blocked")
    s = Server()
    if s.name in ("sync", "async"):
        with pair[1].client() as c:
            c("CONFIG", "SET", "durability", s.name)
    s.connect()("FLUSHALL")
    s.wait_blocked(0)
    yield s
    for c in made:
        c.close()


# ---- order ----

@pytest.mark.parametrize("wake", ["one push", "pushes", "script", "transaction", "move"])
def test_who_blocks_first_is_served_first(server, wake):
    push = server.connect()
    clients = [server.connect() for _ in range(12)]
    for n, c in enumerate(clients):
        if n % 3:
            assert c("BLPOP", "warm", 0.01) is None
    for n, c in enumerate(clients):
        c.send("BLPOP", "q", 0)
        server.wait_blocked(n + 1)
    if wake == "one push":
        push("RPUSH", "q", *range(12))
    elif wake == "pushes":
        push.pipeline([("RPUSH", "q", n) for n in range(12)])
    elif wake == "script":
        push("EVAL", "for i = 0, 11 do redis.call('RPUSH', 'q', i) end", 0)
    elif wake == "transaction":
        push.pipeline([("MULTI",), *[("RPUSH", "q", n) for n in range(12)], ("EXEC",)])
    else:
        push("RPUSH", "other", *range(12))
        push.pipeline([("LMOVE", "other", "q", "LEFT", "RIGHT") for _ in range(12)])
    assert [c.read() for c in clients] == [[b"q", b"%d" % n] for n in range(12)]
    assert push("EXISTS", "q", "other") == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_connection_in_the_making_keeps_its_place(pair, mode):
    """The first one's connection to Valkey has still to be made when the next one, who has one, comes."""
    valkey, holdfast = pair
    with holdfast.client() as watch, contextlib.ExitStack() as stack:
        watch("CONFIG", "SET", "durability", mode)
        clients = [stack.enter_context(holdfast.client()) for _ in range(6)]
        for c in clients[1::2]:
            assert c("BLPOP", "warm", 0.01) is None
        numbers = [c("CLIENT", "ID") for c in clients]
        valkey.pause()
        for c, number in zip(clients, numbers):
            c.send("BLPOP", "q", 0)
            wait_until(lambda: b" cmd=blpop " in watch("CLIENT", "LIST", "ID", number), 10, "Holdfast has read it")  # noqa: B023
        valkey.resume()
        wait_until(lambda: info_fields(watch("INFO", "clients"))["blocked_clients"] == "6", 20, "all are blocked")
        watch("RPUSH", "q", *range(6))
        assert [c.read() for c in clients] == [[b"q", b"%d" % n] for n in range(6)]


def test_who_got_an_error_holds_nobody_up(rig):
    """No connection could be made for its BLPOP; what it waits for now, until it reads, is not its turn to block."""
    valkey, holdfast = rig.pair()
    with holdfast.client() as slow, holdfast.client() as other, valkey.client() as direct:
        other("SET", "big", b"x" * 1_000_000)
        direct("CONFIG", "SET", "maxclients", 1)
        number = slow("CLIENT", "ID")
        slow.raw(encode("BLPOP", "q", 0) + encode("GET", "big") * 40)
        assert is_error(slow.read(), "LOADING")
        direct("CONFIG", "SET", "maxclients", 1000)
        wait_until(lambda: int(re.search(rb" omem=(\d+)", other("CLIENT", "LIST", "ID", number))[1]) > 10_000_000, 10, "it does not read")
        slow.send("GET", "big")
        other("RPUSH", "q", "x")
        assert other("BLPOP", "q", 0) == [b"q", b"x"]
        assert [slow.read() for _ in range(41)] == [b"x" * 1_000_000] * 41


def test_who_comes_back_is_last(server):
    """Two clients take turns, however fast they ask again."""
    push, a, b = server.connect(), server.connect(), server.connect()
    a.send("BLPOP", "q", 0)
    server.wait_blocked(1)
    b.send("BLPOP", "q", 0)
    server.wait_blocked(2)
    for n in range(0, 20, 2):
        push("RPUSH", "q", n)
        assert a.read() == [b"q", b"%d" % n]
        a.send("BLPOP", "q", 0)
        server.wait_blocked(2)
        push("RPUSH", "q", n + 1)
        assert b.read() == [b"q", b"%d" % (n + 1)]
        b.send("BLPOP", "q", 0)
        server.wait_blocked(2)


def test_in_a_pipeline(server):
    c, push = server.connect(), server.connect()
    c.raw(b"".join(encode(*w) for w in [("SET", "k", 1), ("BLPOP", "q", 0), ("INCR", "k"), ("BLPOP", "q", 0), ("GET", "k")]))
    assert c.read() == b"OK"
    server.wait_blocked(1)
    push("RPUSH", "q", "x", "y")
    assert [c.read() for _ in range(4)] == [[b"q", b"x"], 2, [b"q", b"y"], b"2"]


# ---- each of them ----

EACH = [(("BLPOP", "q", 0), ("RPUSH", "q", "x"), [b"q", b"x"]), (("BRPOP", "p", "q", 0), ("RPUSH", "q", "x"), [b"q", b"x"]),
        (("BLMOVE", "q", "d", "LEFT", "RIGHT", 0), ("RPUSH", "q", "x"), b"x"), (("BRPOPLPUSH", "q", "d", 0), ("LPUSH", "q", "x"), b"x"),
        (("BLMPOP", 0, 2, "p", "q", "LEFT", "COUNT", 3), ("RPUSH", "q", "x", "y"), [b"q", [b"x", b"y"]]),
        (("BZPOPMIN", "q", 0), ("ZADD", "q", 2, "x", 1, "y"), [b"q", b"y", b"1"]),
        (("BZPOPMAX", "q", 0), ("ZADD", "q", 2, "x", 1, "y"), [b"q", b"x", b"2"]),
        (("BZMPOP", 0, 1, "q", "MIN"), ("ZADD", "q", 2, "x"), [b"q", [[b"x", b"2"]]]),
        (("XREAD", "BLOCK", 0, "STREAMS", "q", "$"), ("XADD", "q", "7-1", "f", "v"), [[b"q", [[b"7-1", [b"f", b"v"]]]]]),
        (("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "q", ">"), ("XADD", "q", "7-1", "f", "v"), [[b"q", [[b"7-1", [b"f", b"v"]]]]])]


@pytest.mark.parametrize("waits,push,answer", EACH, ids=[e[0][0] for e in EACH])
def test_each_is_woken(server, waits, push, answer):
    c, d = server.connect(), server.connect()
    if waits[0] == "XREADGROUP":
        d("XGROUP", "CREATE", "q", "g", "$", "MKSTREAM")
    c.send(*waits)
    server.wait_blocked(1)
    d(*push)
    assert c.read() == answer
    assert c("PING") == b"PONG"


@pytest.mark.parametrize("waits,push,answer", EACH, ids=[e[0][0] for e in EACH])
def test_each_ends_by_time_and_by_unblock(server, waits, push, answer):
    c, d = server.connect(), server.connect()
    if waits[0] == "XREADGROUP":
        d("XGROUP", "CREATE", "q", "g", "$", "MKSTREAM")
    at = waits.index(0)
    short = (*waits[:at], 30 if waits[0].startswith("X") else 0.03, *waits[at + 1:])
    assert c(*short) is None
    number = c("CLIENT", "ID")
    c.send(*waits)
    server.wait_blocked(1)
    assert d("CLIENT", "UNBLOCK", number) == 1
    assert c.read() is None
    c.send(*waits)
    server.wait_blocked(1)
    assert d("CLIENT", "UNBLOCK", number, "ERROR") == 1
    assert is_error(c.read(), "UNBLOCKED")
    assert d("CLIENT", "UNBLOCK", number) == 0
    d(*push)
    assert c(*waits) == answer if waits[0] != "XREAD" else c("XLEN", "q") == 1


def test_inside_a_transaction_nothing_blocks(server):
    c = server.connect()
    unit = [w for w, _, _ in EACH if not w[0].startswith("XREADGROUP")]
    assert c.pipeline([("MULTI",), *unit, ("EXEC",)])[-1] == [None] * len(unit)
    assert c("EVAL", "return redis.call('BLPOP', 'q', 0)", 0) is None


# ---- gone ----

@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("waits,push,answer", EACH, ids=[e[0][0] for e in EACH])
def test_whoever_is_gone_takes_nothing(server, waits, push, answer, how):
    """Its connection to Valkey ends as well, at once; who blocked behind it is served."""
    gone, next_one, d = server.connect(), server.connect(), server.connect()
    if waits[0] == "XREADGROUP":
        d("XGROUP", "CREATE", "q", "g", "$", "MKSTREAM")
    gone.send(*waits)
    server.wait_blocked(1)
    next_one.send(*waits)
    server.wait_blocked(2)
    getattr(gone, how)()
    server.wait_blocked(1)
    d(*push)
    assert next_one.read() == answer


def test_whoever_is_gone_with_much_behind_takes_nothing(server):
    """More than is read ahead: the end of the client comes after all that."""
    gone, d = server.connect(), server.connect()
    gone.raw(encode("BLPOP", "q", 0) + encode("SET", "k", "x" * 700) * 5000)
    server.wait_blocked(1)
    gone.close()
    server.wait_blocked(0)
    assert d("RPUSH", "q", "x") == 1 and d("LLEN", "q") == 1 and d("EXISTS", "k") == 0


def test_many_are_gone_at_once(server):
    """Elements pushed while blocked clients disappear: each is handed out once, and what a gone client took is what Valkey gave it."""
    push, taken, left = server.connect(), [], []
    for n in range(10):
        some = [server.connect() for _ in range(6)]
        for c in some:
            c.send("BLPOP", f"q{n}", 0)
        server.wait_blocked(6)
        for c in some[::2]:
            c.close()
        push("RPUSH", f"q{n}", *[f"{n}.{i}" for i in range(6)])
        taken += [c.read()[1] for c in some[1::2]]
        server.wait_blocked(0)
        left += push("LRANGE", f"q{n}", 0, -1)
    assert len(set(taken)) == len(taken) == 30 and not set(taken) & set(left)
    assert len(set(left)) == len(left) <= 30


# ---- killed, handed over, shut down ----

class Popper(threading.Thread):
    """Blocks for ever, again and again, at one endpoint after the other; knows what it was handed, and how often it does not know."""

    def __init__(self, endpoints, key, number):
        super().__init__(daemon=True)
        self.endpoints, self.key, self.at = endpoints, key, number
        self.popped, self.unknown, self.codes, self.stop = [], 0, {}, threading.Event()
        self.client = None

    def run(self):
        while not self.stop.is_set():
            sent = False
            try:
                self.client = self.client or Client(self.endpoints[self.at % len(self.endpoints)], timeout=60)
                sent = True
                reply = self.client.ask("BLPOP", self.key, 0)
            except (Closed, OSError, RespError):
                self.unknown += sent
                self.client, self.at = None, self.at + 1
                time.sleep(0.01)
                continue
            if isinstance(reply, RespError):
                self.codes[reply.code] = self.codes.get(reply.code, 0) + 1
                self.unknown += reply.code == "UNCERTAIN"
                time.sleep(0.005)
            elif reply[1] != b"end":
                self.popped.append(reply[1].decode())


class Pusher(threading.Thread):
    """Pushes unique elements, slowly enough that the poppers are blocked most of the time."""

    def __init__(self, endpoints, key):
        super().__init__(daemon=True)
        self.endpoints, self.key, self.pushed, self.stop, self.client = endpoints, key, {}, threading.Event(), None

    def run(self):
        n = 0
        while not self.stop.is_set():
            n += 1
            ident, outcome = f"e{n}", "unknown"
            try:
                self.client = self.client or Client(self.endpoints[n % len(self.endpoints)], timeout=20)
            except (Closed, OSError, RespError):
                continue
            try:
                command = [("RPUSH", self.key, ident), ("EVAL", "return redis.call('RPUSH', KEYS[1], ARGV[1])", 1, self.key, ident)][n % 2]
                reply = self.client.ask(*command)
                if not isinstance(reply, RespError):
                    outcome = "ok"
                elif reply.code != "UNCERTAIN":
                    outcome = "refused"
            except (Closed, OSError):
                self.client = None
            self.pushed[ident] = outcome
            if outcome == "refused":
                self.client = None
            time.sleep(0.002)


class Scene:
    def __init__(self, endpoints):
        self.endpoints = endpoints
        self.pusher = Pusher(endpoints, "q")
        self.poppers = [Popper(endpoints, "q", n) for n in range(POPS)]
        for t in (self.pusher, *self.poppers):
            t.start()

    def popped(self):
        return sum(len(p.popped) for p in self.poppers)

    def more(self, n=30):
        before = self.popped()
        wait_until(lambda: self.popped() >= before + n, 30, lambda: f"elements are handed out: {self.codes()}")

    def codes(self):
        return [p.codes for p in self.poppers]

    def finish(self):
        self.pusher.stop.set()
        self.pusher.join(60)
        for p in self.poppers:
            p.stop.set()
        with Client(self.endpoints[0], timeout=20) as c:
            def ended():
                if any(p.is_alive() for p in self.poppers):
                    c.ask("RPUSH", "q", "end")
                return not any(p.is_alive() for p in self.poppers)
            wait_until(ended, 30, "all have ended", every=0.05)
            left = [e.decode() for e in c("LRANGE", "q", 0, -1) if e != b"end"]
        unknown = sum(p.unknown for p in self.poppers)
        popped = [e for p in self.poppers for e in p.popped]
        print(f"{len(self.pusher.pushed)} pushed, {len(popped)} handed out, {len(left)} left, {unknown} pops unknown; {self.codes()}")
        assert history.queue(self.pusher.pushed, popped, unknown, left) == []


@pytest.mark.parametrize("victim", ["valkey", "holdfast", "both"])
def test_kills_while_blocked(rig, victim):
    valkey, holdfast = rig.pair(durability="sync")
    scene = Scene([holdfast.port])
    for _ in range(3):
        scene.more()
        if victim in ("valkey", "both"):
            valkey.kill9()
        if victim in ("holdfast", "both"):
            holdfast.kill9()
            holdfast.launch()
        if victim in ("valkey", "both"):
            valkey.restart_empty()
        holdfast.wait_ready(30)
    scene.more()
    scene.finish()


def test_failovers_while_blocked(rig):
    g = rig.group()
    scene = Scene(g.endpoints())
    scene.more()
    for step in ("transfer", "kill the leader's zone", "kill its valkey", "pause"):
        leader = g.leader()
        if step == "transfer":
            g.transfer()
        elif step == "kill its valkey":
            leader.valkey_process.kill9()
            leader.valkey_process.restart_empty()
        elif step == "pause":
            g.pause(leader)
            g.leader(besides=[leader])
            g.resume(leader)
        else:
            g.kill9_zone(leader)
            g.leader(besides=[leader])
            g.restart(leader)
        g.wait_serving(40)
        scene.more()
    scene.finish()
    g.wait_equal(60)


def test_a_hand_over_with_blocked_clients(rig):
    """They hear -UNBLOCKED, which is certain, and keep their connections; nobody else hears anything."""
    g = rig.group()
    leader = g.leader()
    clients = {m.name: [m.client() for _ in range(3)] for m in g}
    for those in clients.values():
        those[0].send("BLPOP", "q", 0)
        those[1].send("XREAD", "BLOCK", 0, "STREAMS", "s", "$")
        those[2].send("BLMOVE", "q", "d", "LEFT", "LEFT", 0)
    with leader.valkey_client() as c:
        wait_until(lambda: info_fields(c("INFO", "clients"))["blocked_clients"] == "9", 20, "all are blocked")
    code, text = g.transfer()
    assert code == 200, text
    for those in clients.values():
        for c in those:
            assert is_error(c.read(), "UNBLOCKED")
    g.wait_serving()
    for those in clients.values():
        assert those[0]("SET", "after", 1) == b"OK", "the connection is as before"


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_an_end_with_blocked_clients(rig, where):
    """SIGTERM does not wait for clients that may be blocked for ever."""
    g = rig.group(shutdown_timeout="60")
    m = g.leader() if where == "leader" else g.followers()[0]
    clients = [m.client() for _ in range(3)]
    for c in clients:
        c.send("BLPOP", "q", 0)
    with g.leader().valkey_client() as c:
        wait_until(lambda: info_fields(c("INFO", "clients"))["blocked_clients"] == "3", 20, "all are blocked")
    began = time.monotonic()
    m.terminate(50)
    assert time.monotonic() - began < 20, "it has waited for them"
    for c in clients:
        with contextlib.suppress(Closed):
            assert is_error(c.read(), "UNBLOCKED")
    g.wait_serving(members=g.others(m))
    with g.others(m)[0].client() as c:
        assert c("RPUSH", "q", "x") == 1 and c("LLEN", "q") == 1


def test_an_end_of_a_lone_node_with_blocked_clients(rig):
    _, holdfast = rig.pair(shutdown_timeout="60")
    with holdfast.client() as c, holdfast.client() as d:
        c.send("BLPOP", "q", 0)
        wait_until(lambda: info_fields(d("INFO", "clients"))["blocked_clients"] == "1", 20, "it is blocked")
        began = time.monotonic()
        holdfast.terminate(50)
        assert time.monotonic() - began < 20
        assert is_error(c.read(), "UNBLOCKED")
