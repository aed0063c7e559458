"""Schedules in which a proxy like this loses or doubles a write unless it keeps each clause of the release rule (design section 5),
played by hand against a real Valkey; and lanes, stream and markers that are cut, forged or refused.

Each ends with a kill of everything: what was answered must be what comes back.
"""
import re
import threading
import time

import pytest

from harness import SANITIZED, eventually, is_error, wait_until
from resp import Closed, RespError, encode

MARKER_PREFIX = "__holdfast__:"
RUNS = 12 if SANITIZED else 25


@pytest.fixture
def pair(rig):
    return rig.pair("--busy-reply-threshold", "100", disk=True, valkey_timeout="20s")


def all_killed(valkey, holdfast):
    holdfast.kill9()
    valkey.restart_empty()
    holdfast.start()


def lane_clients(direct):
    """Holdfast's connections as Valkey lists them: name -> [ids]."""
    found = {}
    for line in direct("CLIENT", "LIST").decode().splitlines():
        fields = dict(f.split("=", 1) for f in line.split() if "=" in f)
        if fields["name"].startswith("holdfast-"):
            found.setdefault(fields["name"], []).append(fields["id"])
    return found


def kill_by_name(valkey, name=None):
    """CLIENT KILL of our connections of that name, or of all; one that bridges kills direct connections in its turn."""
    with valkey.client() as direct:
        for each, ids in lane_clients(direct).items():
            for i in ids if name in (None, each) else []:
                try:
                    direct.ask("CLIENT", "KILL", "ID", i)
                except Closed:
                    return


def test_connections_have_names(pair):
    valkey, holdfast = pair
    with valkey.client() as direct, holdfast.client() as c:
        c("SET", "k", 1)
        c("GET", "k")
        assert lane_clients(direct)


# ---- the five schedules ----

def test_copy_of_what_spop_left(pair):
    """SPOP s is captured; COPY s t carries its effect on: replayed from the intent alone, t would hold what was popped."""
    valkey, holdfast = pair
    with holdfast.client() as c:
        for n in range(RUNS):
            s, t = f"s{n}", f"t{n}"
            c("SADD", s, *range(8))
            replies = c.pipeline([("SPOP", s), ("COPY", s, t), ("SADD", t, "y"), ("SMEMBERS", t)])
            assert replies[1:3] == [1, 1] and replies[0] not in replies[3]
    with holdfast.client() as c:
        before = [(sorted(c("SMEMBERS", f"s{n}")), sorted(c("SMEMBERS", f"t{n}"))) for n in range(RUNS)]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert [(sorted(c("SMEMBERS", f"s{n}")), sorted(c("SMEMBERS", f"t{n}"))) for n in range(RUNS)] == before


def test_killed_right_after_the_copy(rig):
    """The same, the kill coming at once after the last answer."""
    valkey, holdfast = rig.pair()
    for n in range(6):
        with holdfast.client() as c:
            s, t = f"s{n}", f"t{n}"
            c("SADD", s, *range(8))
            popped, _, _ = c.pipeline([("SPOP", s), ("COPY", s, t), ("SADD", t, "y")])
        all_killed(valkey, holdfast)
        with holdfast.client() as c:
            assert c("SISMEMBER", s, popped) == 0 and c("SISMEMBER", t, popped) == 0
            assert c("SCARD", t) == 8 and c("SISMEMBER", t, "y") == 1


def test_refused_by_oom_then_accepted(pair):
    """INCR k is refused by Valkey although a replay would apply it; the next INCR's answer must hold all the same."""
    valkey, holdfast = pair
    with valkey.client() as direct, holdfast.client() as c, holdfast.client() as d:
        c("SET", "k", 10)
        value = 10
        for n in range(RUNS):
            direct("CONFIG", "SET", "maxmemory", 1)
            assert is_error(c.ask("INCR", "k"), "OOM")
            c.send("INCR", "k")
            d.send("APPEND", "other", "x")
            direct("CONFIG", "SET", "maxmemory", 0)
            reply = c.read()
            value += not is_error(reply, "OOM")
            d.read()
            assert c("INCR", "k") == value + 1
            value += 1
        length = c("STRLEN", "other")
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("GET", "k") == b"%d" % value
        assert c("STRLEN", "other") == length


def test_equal_effects_with_a_rename_between(pair):
    """A script's LPOP l puts the same bytes into the stream as a pending LPOP l of the lane, with RENAME between them."""
    valkey, holdfast = pair
    script = "local v = redis.call('LPOP', KEYS[1]) redis.call('RENAME', KEYS[1], KEYS[2]) return v"
    state, popped = {}, []
    with holdfast.client() as setup, holdfast.client() as a, holdfast.client() as b, holdfast.client() as d:
        d("CLIENT", "DURABILITY", "ASYNC")
        for n in range(RUNS):
            l, m = f"l{n}", f"m{n}"
            setup("RPUSH", l, *range(6))
            setup("RPUSH", m, "m")
            a.send("LPOP", l)
            b.send("EVAL", script, 2, l, m)
            d.send("EVAL", "return redis.call('LPOP', KEYS[1])", 1, l)
            a.send("LPOP", m)
            answers = [a.read(), b.read(), a.read(), d.read()]
            popped.append(answers)
        for n in range(RUNS):
            state[n] = (setup("LRANGE", f"l{n}", 0, -1), setup("LRANGE", f"m{n}", 0, -1))
            everything = [e for part in state[n] for e in part] + [p for p in popped[n] if isinstance(p, bytes)]
            numbers = sorted(e for e in everything if e != b"m")
            assert len(set(numbers)) == len(numbers), (state[n], popped[n])
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        for n in range(RUNS):
            assert (c("LRANGE", f"l{n}", 0, -1), c("LRANGE", f"m{n}", 0, -1)) == state[n], popped[n]


def test_increment_of_an_expired_key(pair):
    """k is over its time: INCR k begins anew in Valkey, and would not in a replay that knows no time."""
    valkey, holdfast = pair
    with valkey.client() as direct:
        direct("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    with holdfast.client() as c:
        for n in range(RUNS):
            c("SET", f"k{n}", 41, "PX", 10 + n % 5)
        time.sleep(0.05)  # the keys' own time
        for n in range(RUNS):
            assert c.pipeline([("INCR", f"k{n}"), ("GET", f"k{n}"), ("TTL", f"k{n}")]) == [1, b"1", -1]
        for n in range(RUNS):  # and while it is falling due
            c("SET", f"j{n}", 41, "PX", 3)
            replies = c.pipeline([("INCR", f"j{n}"), ("GET", f"j{n}"), ("INCR", f"j{n}"), ("INCR", f"j{n}")])
            assert replies[0] in (1, 42)
        time.sleep(0.02)
        before = [c("GET", f"j{n}") for n in range(RUNS)]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        for n in range(RUNS):
            assert c("GET", f"k{n}") == b"1" and c("TTL", f"k{n}") == -1
        assert [c("GET", f"j{n}") for n in range(RUNS)] == before


def test_expiring_set_reaches_valkey_late(pair):
    """An intent with an absolute expiry that is over when Valkey gets it: the key is never there, also after a replay."""
    valkey, holdfast = pair
    with holdfast.client(timeout=30) as c:
        c("SET", "k", "old")
        holdfast.disk.set("slow 60")
        for n in range(4):
            assert c("SET", "k", "short", "PX", 25) == b"OK"
            assert c("GET", "k") is None
            assert c("RPUSH", "k", "list") == 1, "the key was free"
            assert c("DEL", "k") == 1
        assert c("SET", "k", "short", "PX", 25) == b"OK"
        c("EXPIRE", "k", 1000)
        holdfast.disk.set("")
        assert c("GET", "k") is None
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("GET", "k") is None


def test_a_read_waits_for_what_is_not_durable(pair):
    """SPOP s has run in Valkey; its outcome is not in the log: SMEMBERS s must wait, GET of another key need not."""
    valkey, holdfast = pair
    with holdfast.client(timeout=30) as c, holdfast.client(timeout=30) as reader, holdfast.client(timeout=30) as other, \
            holdfast.client(timeout=30) as plain:
        plain("CLIENT", "DURABILITY", "ASYNC")
        c("SADD", "s", *range(50))
        c("SET", "k", "v")
        holdfast.disk.set("stall")
        popped = plain("SPOP", "s")
        assert len(plain("SMEMBERS", "s")) == 49, "an async reader waits for nothing"
        reader.send("SMEMBERS", "s")
        other.send("GET", "k")
        assert other.read() == b"v"
        assert reader.silent_for(0.5), "the read saw what may be undone"
        other.send("DBSIZE")
        assert other.silent_for(0.3), "a read without keys waits for every taint"
        holdfast.disk.set("")
        assert popped not in reader.read()
        assert other.read() == 2
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("SISMEMBER", "s", popped) == 0


def test_a_read_is_not_undone_by_the_kill(rig):
    """Whoever was shown the effect of an async write sees it after the kill; whoever was not answered saw nothing."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True)
    for n in range(4):
        plain, reader = holdfast.client(timeout=30), holdfast.client(timeout=30)
        plain("CLIENT", "DURABILITY", "ASYNC")
        holdfast.disk.set("slow 60")
        plain("SET", f"k{n}", n)
        reader.send("GET", f"k{n}")
        reader.timeout(5)
        if n % 2:
            assert reader.read() == b"%d" % n
            told = True
        else:
            told = not reader.silent_for(0.01)
        all_killed(valkey, holdfast)
        holdfast.disk.set("")
        if told:
            with holdfast.client() as c:
                assert c("GET", f"k{n}") == b"%d" % n


def test_captured_write_is_acknowledged_when_durable(pair):
    """A captured write's answer waits for its outcome."""
    valkey, holdfast = pair
    with holdfast.client(timeout=30) as c, holdfast.client(timeout=30) as d:
        c("SADD", "s", 1, 2, 3)
        d("RPUSH", "l", "x")
        holdfast.disk.set("stall")
        c.send("EVAL", "return redis.call('INCR', 'e')", 0)
        d.send("BLPOP", "l", 0)
        assert c.silent_for(0.4) and d.silent_for(0.2)
        holdfast.disk.set("")
        assert c.read() == 1
        assert d.read() == [b"l", b"x"]


# ---- lanes that break ----

class Load:
    """A few clients that append to their own list, each knowing what was answered."""

    def __init__(self, holdfast, count=4, command="RPUSH"):
        self.holdfast, self.stop = holdfast, threading.Event()
        self.answers = {n: [] for n in range(count)}  # client -> [(id, reply or None)]
        self.failures = []
        self.threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(count)]
        for t in self.threads:
            t.start()

    def _run(self, n):
        client, i = None, 0
        try:
            while not self.stop.is_set():
                i += 1
                try:
                    client = client or self.holdfast.client(timeout=30)
                    if n % 2:
                        reply = client.ask("RPUSH", f"own{n}", i)
                    else:
                        reply = client.ask("EVAL", "return redis.call('RPUSH', KEYS[1], ARGV[1])", 1, f"own{n}", i)
                    self.answers[n].append((i, reply))
                    if isinstance(reply, RespError):
                        assert reply.code in ("UNCERTAIN", "LOADING", "BUSY"), reply
                        time.sleep(0.005)
                except Closed:
                    self.answers[n].append((i, None))
                    if client:
                        client.close()
                    client = None
                    time.sleep(0.01)
        except BaseException as e:  # noqa: BLE001
            self.failures.append(e)
        finally:
            if client:
                client.close()

    def count(self):
        return min(sum(isinstance(reply, int) for _, reply in answers) for answers in self.answers.values())

    def more(self, n=10, seconds=20):
        at = self.count()
        wait_until(lambda: self.count() >= at + n or self.failures, seconds, "the load goes on")

    def finish(self):
        self.stop.set()
        for t in self.threads:
            t.join(40)
            assert not t.is_alive()
        assert not self.failures, self.failures

    def check(self):
        with self.holdfast.client(timeout=30) as c:
            for n, answers in self.answers.items():
                there = [int(e) for e in c("LRANGE", f"own{n}", 0, -1)]
                assert len(set(there)) == len(there), f"own{n}: twice"
                assert there == sorted(there), f"own{n}: out of order"
                for i, reply in answers:
                    if isinstance(reply, int):
                        assert there[reply - 1:reply] == [i], f"own{n}: {i} answered {reply}"
                    elif isinstance(reply, RespError) and reply.code in ("LOADING", "BUSY", "CLUSTERDOWN"):
                        assert i not in there, f"own{n}: {i} was refused ({reply.text}) and is there"

    def end(self, valkey):
        self.finish()
        self.check()
        all_killed(valkey, self.holdfast)
        self.check()


def test_lanes_killed_one_by_one(pair):
    """CLIENT KILL of each of our connections, by somebody with a direct connection."""
    valkey, holdfast = pair
    work = Load(holdfast)
    work.more()
    with valkey.client() as direct:
        names = sorted(lane_clients(direct))
    for name in 3 * names:
        kill_by_name(valkey, name)
        work.more(5)
    work.end(valkey)


def test_all_lanes_killed_at_once(pair):
    valkey, holdfast = pair
    work = Load(holdfast)
    work.more()
    for _ in range(6):
        kill_by_name(valkey)
        work.more(5)
    work.end(valkey)


def test_stream_cut(pair):
    """CLIENT KILL TYPE replica: the tap. It continues from the backlog; nothing is missed."""
    valkey, holdfast = pair
    work = Load(holdfast)
    work.more()
    rebuilds = holdfast.status()["rebuilds"]
    for _ in range(6):
        with valkey.client() as direct:
            direct("CLIENT", "KILL", "TYPE", "replica")
        work.more(5)
    assert holdfast.status()["rebuilds"] == rebuilds, "the backlog had everything"
    work.end(valkey)


def test_stream_cut_beyond_the_backlog(rig):
    """The stream cannot be continued: Valkey is rebuilt, and no acknowledged write is missed."""
    valkey, holdfast = rig.pair()
    work = Load(holdfast, 2)
    work.more()
    rebuilds = holdfast.status()["rebuilds"]
    for _ in range(3):
        with valkey.client() as direct:
            direct("CONFIG", "SET", "repl-backlog-size", "16kb")  # Holdfast raises it at each start
            direct.raw(encode("MULTI") + encode("CLIENT", "KILL", "TYPE", "replica") +
                       b"".join(encode("SET", f"bypass{n}", "x" * 4000) for n in range(50)) + encode("EXEC"))
            try:
                direct.closed_within(0.2)
            except Closed:
                pass
        work.more(5)
    assert holdfast.status()["rebuilds"] > rebuilds
    work.end(valkey)


def test_connections_reset(rig):
    """RST between Holdfast and Valkey, all at once, while Valkey lives: bytes already in its socket still run."""
    valkey = rig.valkey("--busy-reply-threshold", "100")
    relay = rig.relay(valkey.port)
    holdfast = rig.holdfast(f"127.0.0.1:{relay.port}")
    work = Load(holdfast)
    work.more()
    for _ in range(6):
        assert relay.reset_all() > 0
        work.more(5)
    work.end(valkey)


def test_reset_with_bytes_in_flight(rig):
    """Valkey is busy while the connections break: what is in its sockets runs afterwards."""
    valkey = rig.valkey("--busy-reply-threshold", "5000")
    relay = rig.relay(valkey.port)
    holdfast = rig.holdfast(f"127.0.0.1:{relay.port}", valkey_timeout="20s")
    work = Load(holdfast)
    work.more()
    for _ in range(4):
        with valkey.client() as direct:
            direct.send("DEBUG", "SLEEP", "0.3")
            time.sleep(0.1)  # Valkey sleeps: what clients send now stays in its sockets
            relay.reset_all()
            direct.read()
        work.more(5)
    work.end(valkey)


def test_valkey_held_up(rig):
    """The relay stops for a while, within valkey-timeout: everything waits, nothing is lost."""
    valkey = rig.valkey()
    relay = rig.relay(valkey.port)
    holdfast = rig.holdfast(f"127.0.0.1:{relay.port}", valkey_timeout="20s")
    work = Load(holdfast)
    for _ in range(3):
        work.more()
        relay.hold()
        time.sleep(0.3)
        relay.release()
    work.more()
    assert all(isinstance(reply, int) for answers in work.answers.values() for _, reply in answers)
    work.end(valkey)


# ---- busy ----

def test_busy_script_in_the_middle(pair):
    """A long script on a direct connection: -BUSY to some, markers refused and sent again; afterwards all goes on."""
    valkey, holdfast = pair
    work = Load(holdfast)
    work.more()
    with valkey.client(timeout=60) as direct:
        for _ in range(3):
            direct.send("EVAL", "local t = redis.call('TIME')[1] * 1000000 + redis.call('TIME')[2] "
                        "while redis.call('TIME')[1] * 1000000 + redis.call('TIME')[2] - t < 400000 do end return 1", 0)
            assert direct.read() == 1
            work.more(5)
    assert not any(reply is None for answers in work.answers.values() for _, reply in answers), "nobody was cut off"
    work.end(valkey)


def test_lane_killed_while_a_script_is_busy(pair):
    """Valkey answers our CLIENT KILL of the broken lane with -BUSY: it is asked again, and the lane opens when the script has ended."""
    valkey, holdfast = pair
    with holdfast.client(timeout=30) as c, valkey.client(timeout=60) as direct:
        c("SET", "k", 0)
        writer = next(ids for name, ids in lane_clients(direct).items() if "writer" in name)
        direct.raw(encode("CLIENT", "KILL", "ID", writer[0]) + encode(
            "EVAL", "local t = redis.call('TIME')[1] * 1000000 + redis.call('TIME')[2] "
            "while redis.call('TIME')[1] * 1000000 + redis.call('TIME')[2] - t < 1500000 do end return 1", 0))
        assert direct.read() == 1 and direct.read() == 1
        served = eventually(lambda: c.ask("INCR", "k"), lambda reply: not isinstance(reply, RespError), 8, "writes are served again")
        assert served >= 1
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert int(c("GET", "k")) >= served


# ---- forged markers ----

def marker_channels(valkey, holdfast):
    """The channels that markers are seen on, read from the replication stream by a replica of our own."""
    with valkey.client(timeout=10) as tap, holdfast.client() as c:
        tap.raw(b"*3\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$6\r\npsync2\r\n")
        tap.read()
        tap.send("PSYNC", "?", "-1")
        data = b""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            tap.send("REPLCONF", "ACK", 0)
            c("SET", "poke", time.monotonic())
            tap.timeout(0.2)
            try:
                data += tap.sock.recv(1 << 16)
            except (TimeoutError, OSError):
                continue
            found = re.findall(rb"(?i)SPUBLISH\r\n\$\d+\r\n(" + MARKER_PREFIX.encode() + rb"[^\r]*)\r\n\$\d+\r\n([^\r]*)\r\n", data)
            if len(found) >= 3:
                return found
    raise AssertionError("no markers in the stream")


def test_forged_markers(pair):
    """Markers that others publish close nothing, even with the right channel and a good guess at the payload."""
    valkey, holdfast = pair
    markers = marker_channels(valkey, holdfast)
    channel, payload = markers[-1][0].decode(), markers[-1][1].decode()
    work = Load(holdfast)
    work.more()
    numbers = [int(n) for n in re.findall(r"\d+", payload)]
    with valkey.client() as direct, holdfast.client() as c:
        for command in (("PUBLISH", channel, payload), ("SPUBLISH", channel, payload), ("SUBSCRIBE", channel), ("SSUBSCRIBE", channel),
                        ("spublish", channel, "x")):
            assert isinstance(c.ask(*command), RespError), command
        for n in range(60):
            guess = " ".join(str(x + n) for x in numbers)
            direct.ask("SPUBLISH", channel, guess)
            direct.ask("SPUBLISH", MARKER_PREFIX + "guess", guess)
            direct.ask("EVAL", "return redis.call('SPUBLISH', ARGV[1], ARGV[2])", 0, channel, guess)
            c.ask("EVAL", "return redis.call('SPUBLISH', ARGV[1], ARGV[2])", 0, channel, guess)
            direct.ask("SPUBLISH", channel, payload)
            direct.ask("SPUBLISH", channel, " ".join(str(x + 1000000) for x in numbers))
            direct.ask("SPUBLISH", channel, "")
            direct.ask("PUBLISH", channel, guess)
    work.more(20)
    work.end(valkey)


def test_writers_that_bypass_holdfast_are_logged(pair):
    """Direct writes are effects like others: in the log, and there after a kill."""
    valkey, holdfast = pair
    with valkey.client() as direct, holdfast.client() as c:
        direct("SET", "bypass", 1)
        for n in range(20):
            c("SET", f"k{n}", n)
            direct("APPEND", f"k{n}", "!")
            assert c("GET", f"k{n}") == b"%d!" % n
        assert c("GET", "bypass") == b"1"
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert [c("GET", f"k{n}") for n in range(20)] == [b"%d!" % n for n in range(20)]
        assert c("GET", "bypass") == b"1"


# ---- a Valkey that is suddenly another ----

@pytest.mark.parametrize("mode", ["SYNC", "ASYNC"])
def test_restarted_empty_between_two_reads(rig, mode):
    """Never an empty answer: the value, -LOADING, or a closed connection."""
    valkey, holdfast = rig.pair()
    wrong, stop = [], threading.Event()
    counts = {"value": 0, "error": 0}

    def read_on():
        client = None
        while not stop.is_set():
            try:
                if client is None:
                    client = holdfast.client(timeout=30)
                    client("CLIENT", "DURABILITY", mode)
                reply = client.ask("GET", "k")
                if reply == b"v":
                    counts["value"] += 1
                elif is_error(reply, "LOADING"):
                    counts["error"] += 1
                else:
                    wrong.append(reply)
                replies = client.pipeline([("EXISTS", "k"), ("LRANGE", "l", 0, -1)])
                if any(r not in (1, [b"a", b"b"]) and not is_error(r, "LOADING") for r in replies):
                    wrong.append(replies)
            except (Closed, RespError):
                if client:
                    client.close()
                client = None
    with holdfast.client() as c:
        c("SET", "k", "v")
        c("RPUSH", "l", "a", "b")
        c("WAIT", 0, 0)
        c("WAITAOF", 1, 0, 5000)
    readers = [threading.Thread(target=read_on, daemon=True) for _ in range(4)]
    for t in readers:
        t.start()
    for _ in range(5):
        at = counts["value"]
        wait_until(lambda: counts["value"] > at + 50, 30, "values are read")
        valkey.restart_empty()
    at = counts["value"]
    wait_until(lambda: counts["value"] > at + 50, 30, "values are read again")
    stop.set()
    for t in readers:
        t.join(40)
    assert not wrong, wrong[:5]


def test_flushed_behind_our_back(pair):
    """FLUSHALL by a direct client is an effect like any other: nobody is surprised, and it lasts."""
    valkey, holdfast = pair
    with valkey.client() as direct, holdfast.client() as c:
        c("SET", "k", 1)
        direct("FLUSHALL")
        assert c("GET", "k") is None
        c("SET", "j", 2)
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("MGET", "k", "j") == [None, b"2"]


def test_transactions_and_watch_over_a_kill(rig):
    """MULTI begun before Valkey died is not half done afterwards; WATCH of a key in the old Valkey never lets EXEC pass unseen changes."""
    valkey, holdfast = rig.pair()
    with holdfast.client() as c, holdfast.client() as d:
        c("SET", "k", 1)
        c("WATCH", "k")
        d("MULTI")
        d("RPUSH", "l", 1)
        valkey.restart_empty()
        with holdfast.client() as e:
            eventually(lambda: e.ask("INCR", "k"), lambda r: r == 2, 30, "service is back")
        outcome = []
        for command in (("MULTI",), ("INCR", "k"), ("EXEC",)):
            try:
                outcome.append(c.ask(*command))
            except Closed:
                outcome.append(None)
                break
        assert not isinstance(outcome[-1], list), f"EXEC passed although k changed: {outcome}"
        try:
            replies = [d.ask("RPUSH", "l", 2), d.ask("EXEC")]
        except Closed:
            replies = [None]
        with holdfast.client() as e:
            there = e("LRANGE", "l", 0, -1)
            value = e("GET", "k")
        if isinstance(replies[-1], list):
            assert there == [b"1", b"2"]
        else:
            assert there in ([], [b"1", b"2"]), (replies, there)
        assert value == b"2", "the watched transaction was refused"


@pytest.mark.parametrize("delay_s", [0.3, 1.1, 1.6])
def test_a_transaction_sent_while_there_is_no_valkey(rig, delay_s):
    """Sent in one piece, as client libraries do: it is done whole or not at all, whenever Valkey comes back; Valkey itself takes MULTI
    while it loads, and EXEC is then aborted. Refused to the client, its commands must not run one by one."""
    valkey, holdfast = rig.pair()
    clients = [holdfast.client(timeout=30) for _ in range(8)]
    for c in clients:
        c("SET", "warm", 1)
    valkey.kill9()
    begun = time.monotonic()
    for n, c in enumerate(clients):
        watch = encode("WATCH", "warm") if n % 2 else b""
        c.raw(watch + encode("MULTI") + encode("RPUSH", f"t{n}", 1) + encode("RPUSH", f"t{n}", 2) + encode("EXEC"))
        time.sleep(0.1)
    wait_until(lambda: time.monotonic() - begun > delay_s, delay_s + 1, "the moment to come back")
    valkey.restart_empty()
    for n, c in enumerate(clients):
        try:
            replies = [c.read() for _ in range(5 if n % 2 else 4)]
        except Closed:
            replies = [None]
        with holdfast.client() as d:
            there = eventually(lambda: d.ask("LRANGE", f"t{n}", 0, -1), lambda r: isinstance(r, list), 20, "reads")
        if isinstance(replies[-1], list):
            assert replies[-1] == [1, 2] and there == [b"1", b"2"], replies
        elif is_error(replies[-1], "UNCERTAIN") or replies == [None]:
            assert there in ([], [b"1", b"2"]), (replies, there)
        else:
            assert isinstance(replies[-1], RespError) and there == [], (replies, there)


def test_the_rest_of_a_transaction_comes_when_valkey_is_back(rig):
    """MULTI met no Valkey, the rest of the pipeline does: nothing of it runs by itself."""
    valkey, holdfast = rig.pair()
    with holdfast.client(timeout=30) as c, holdfast.client(timeout=30) as d:
        c("SET", "k", 1)
        d("SET", "k", 1)
        valkey.kill9()
        wait_until(lambda: not holdfast.ready(), 10, "it is seen")
        c.raw(encode("MULTI") + encode("RPUSH", "l", 1))
        assert c.read() == b"OK", "as Valkey itself, while it loads"
        assert is_error(c.read(), "LOADING")
        assert d.pipeline([("MULTI",), ("INCR", "k"), ("DISCARD",)])[2] == b"OK"
        assert is_error(d.pipeline([("MULTI",), ("INCR", "k"), ("EXEC",)])[2], "EXECABORT")
        valkey.restart_empty()
        holdfast.wait_ready()
        assert is_error(c.pipeline([("RPUSH", "l", 2), ("EXEC",)])[1], "EXECABORT")
        assert c("EXISTS", "l") == 0 and c("GET", "k") == b"1"
        assert c.pipeline([("MULTI",), ("RPUSH", "l", 3), ("EXEC",)])[2] == [1], "the next one is served"
        assert d("INCR", "k") == 2
