"""The bound: when the log cannot keep up, writes go on for durability-lag-max and no longer, reads go on, and nothing is lost.

The disk is tests/faults/disk.c. The long form (10 s bound, 30 s stall, as released) runs with HF_FULL=1; the short one has a bound of 2 s.
"""
import json
import threading
import time

import pytest

from harness import FULL, SANITIZED, eventually, is_error, wait_until
from resp import RespError

CLUSTERDOWN = "CLUSTERDOWN The cluster is down and only accepts read commands"
BOUNDS = [(2.0, 5.0)] + ([(10.0, 30.0)] if FULL else [])
TOLERANCE_S = 1.0 if SANITIZED else 0.5


def one_write(client, n):
    return client.ask("SET", f"w{n}", n)


class Stream(threading.Thread):
    """One client that writes and reads in turn, and notes when what was answered."""

    def __init__(self, holdfast, name, write=True, pause=0.005):
        super().__init__(daemon=True)
        self.holdfast, self.name, self.write, self.pause = holdfast, name, write, pause
        self.seen = []  # (sent, answered, id, reply)
        self.stop = threading.Event()
        self.failure = None

    def run(self):
        n = 0
        try:
            with self.holdfast.client(timeout=60) as c:
                while not self.stop.is_set():
                    n += 1
                    sent = time.monotonic()
                    reply = c.ask("RPUSH", f"list:{self.name}", n) if self.write else c.ask("LRANGE", f"list:{self.name}", 0, 3)
                    self.seen.append((sent, time.monotonic(), n, reply))
                    time.sleep(self.pause)
        except BaseException as e:  # noqa: BLE001
            self.failure = e

    def finish(self):
        self.stop.set()
        self.join(60)
        assert not self.is_alive()
        assert self.failure is None, self.failure
        return self


def acknowledged(stream):
    return [n for _, _, n, reply in stream.seen if isinstance(reply, int)]


def check_list(holdfast, stream, uncertain=()):
    """What was acknowledged is there in order; what was refused is not; what is uncertain may be."""
    with holdfast.client() as c:
        there = [int(e) for e in c("LRANGE", f"list:{stream.name}", 0, -1)]
    refused = {n for _, _, n, reply in stream.seen if isinstance(reply, RespError) and reply.code in ("CLUSTERDOWN", "LOADING")}
    assert len(set(there)) == len(there), "twice"
    assert not refused & set(there), sorted(refused & set(there))[:5]
    missing = set(acknowledged(stream)) - set(there)
    assert not missing, f"acknowledged and gone: {sorted(missing)[:5]}"
    return there


def restarted(valkey, holdfast):
    holdfast.kill9()
    valkey.restart_empty()
    holdfast.start()


@pytest.mark.parametrize("bound_s,stall_s", BOUNDS)
def test_async_stall(rig, bound_s, stall_s):
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="async", durability_lag_max=f"{int(bound_s * 1000)}ms")
    writer, reader = Stream(holdfast, "w"), Stream(holdfast, "w", write=False)
    writer.start()
    reader.start()
    wait_until(lambda: len(acknowledged(writer)) > 50, 10, "writes")
    stalled = time.monotonic()
    holdfast.disk.set("stall")
    wait_until(lambda: isinstance(writer.seen[-1][3], RespError), bound_s + 5, "writes are refused")
    first = next(s for s in writer.seen if isinstance(s[3], RespError))
    assert first[3].text == CLUSTERDOWN
    age = first[1] - stalled
    assert bound_s - TOLERANCE_S <= age <= bound_s + TOLERANCE_S, f"refused {age:.2f} s after the stall"
    status = holdfast.status()
    assert status["refusing_writes"] and not status["ready"] and status["lag_ms"] >= bound_s * 1000
    code, body = holdfast.http("/readyz")
    assert code == 503 and body.strip()
    with holdfast.client() as c:
        for command in (("DEL", "k"), ("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, "k"), ("BLPOP", "none", 0.01), ("FLUSHALL",),
                        ("SPOP", "s"), ("PFCOUNT", "k")):
            assert c.ask(*command).text == CLUSTERDOWN, command
        assert c.ask("MULTI") == b"OK"
        c.ask("SET", "k", 1)
        assert c.ask("EXEC").code in ("EXECABORT", "CLUSTERDOWN")
        assert c.ask("EXISTS", "k") == 0
        assert c.ask("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "k") is None
        assert c.ask("PING") == b"PONG"
    before = len(reader.seen)
    wait_until(lambda: time.monotonic() > stalled + stall_s, stall_s, "the stall's time")
    assert len(reader.seen) > before + 20, "reads go on"
    assert all(not isinstance(s[3], RespError) for s in reader.seen)
    assert all(isinstance(s[3], RespError) for s in writer.seen if s[0] > first[1]), "no write is let through in between"
    holdfast.disk.set("")
    wait_until(lambda: isinstance(writer.seen[-1][3], int), 5, "writes are accepted again, by itself")
    wait_until(lambda: holdfast.ready() and holdfast.status()["lag_ms"] < 500, 10, "caught up, with writes going on")
    writer.finish()
    reader.finish()
    check_list(holdfast, writer)
    wait_until(lambda: holdfast.status()["lag_ms"] == 0, 10, "caught up")
    restarted(valkey, holdfast)
    check_list(holdfast, writer)


def test_async_crash_in_a_stall_loses_no_more_than_the_bound(rig):
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="async", durability_lag_max="1s")
    writer = Stream(holdfast, "w")
    writer.start()
    wait_until(lambda: len(acknowledged(writer)) > 50, 10, "writes")
    time.sleep(0.3)  # so that something older than an epoch is durable
    stalled = time.monotonic()
    holdfast.disk.set("stall")
    wait_until(lambda: isinstance(writer.seen[-1][3], RespError), 10, "writes are refused")
    holdfast.kill9()
    writer.stop.set()
    writer.join(30)
    valkey.restart_empty()
    holdfast.disk.set("")
    holdfast.start()
    with holdfast.client() as c:
        there = [int(e) for e in c("LRANGE", "list:w", 0, -1)]
    told = acknowledged(writer)
    assert there == told[:len(there)], "what is lost is the newest"
    lost = [s for s in writer.seen if isinstance(s[3], int) and s[2] not in set(there)]
    assert all(s[1] > stalled - 0.25 for s in lost), f"lost {stalled - min(s[1] for s in lost):.2f} s before the stall"


def test_sync_stall(rig):
    """Accepted ones get -UNCERTAIN when they have waited too long; later ones are refused; then service returns."""
    bound_s = 2.0
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="sync", durability_lag_max="2s")
    writer = Stream(holdfast, "w")
    writer.start()
    wait_until(lambda: len(acknowledged(writer)) > 30, 10, "writes")
    with holdfast.client(timeout=60) as c, holdfast.client(timeout=60) as reads:
        c("SET", "seen", "before")
        holdfast.disk.set("stall")
        stalled = time.monotonic()
        c.send("SET", "accepted", 1)
        waiting = holdfast.client(timeout=60)
        waiting.send("SPOP", "nothing")
        assert reads("GET", "seen") == b"before", "reads go on"
        assert reads.ask("GET", "accepted") is None, "what is not durable has not reached Valkey"
        reply = c.read()
        age = time.monotonic() - stalled
        assert is_error(reply, "UNCERTAIN"), reply
        assert bound_s - TOLERANCE_S <= age <= bound_s + TOLERANCE_S, f"{age:.2f}"
        assert waiting.read().code == "UNCERTAIN"
        waiting.close()
        assert c.ask("SET", "later", 1).text == CLUSTERDOWN
        wait_until(lambda: is_error(writer.seen[-1][3], "CLUSTERDOWN"), 5, "the writer is refused")
        assert reads("GET", "seen") == b"before"
        holdfast.disk.set("")
        wait_until(lambda: isinstance(writer.seen[-1][3], int), 5, "writes are accepted again")
        assert c("SET", "later", 2) == b"OK"
        assert c("GET", "accepted") in (None, b"1")
        assert reads("GET", "later") == b"2"
    writer.finish()
    there = check_list(holdfast, writer)
    restarted(valkey, holdfast)
    assert check_list(holdfast, writer) == there
    with holdfast.client() as c:
        assert c("GET", "later") == b"2"


def test_sync_slow_disk(rig):
    """A slow disk slows acknowledgements; group commit carries many clients along."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="sync")
    holdfast.disk.set("slow 20")
    streams = [Stream(holdfast, f"s{n}", pause=0) for n in range(10)]
    for s in streams:
        s.start()
    wait_until(lambda: all(len(acknowledged(s)) >= 10 for s in streams), 30, "progress")
    for s in streams:
        s.finish()
        took = sorted(b - a for a, b, _, _ in s.seen)
        assert took[0] >= 0.02, f"answered before the disk was: {took[0]:.4f}"
    holdfast.disk.set("")
    restarted(valkey, holdfast)
    for s in streams:
        check_list(holdfast, s)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_full_disk(rig, mode):
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability=mode, durability_lag_max="1s")
    writer = Stream(holdfast, "w", pause=0.002)
    writer.start()
    wait_until(lambda: len(acknowledged(writer)) > 30, 10, "writes")
    holdfast.disk.set("enospc")
    with holdfast.client(timeout=60) as c:
        filler = b"x" * 300000  # what is allocated can still be used: use it up
        def refused():
            reply = c.ask("SET", "filler", filler)
            return isinstance(reply, RespError) and reply.text == CLUSTERDOWN
        wait_until(refused, 30, "writes are refused", every=0)
        wait_until(lambda: is_error(writer.seen[-1][3], "CLUSTERDOWN"), 10, "the writer is refused")
        assert c("LRANGE", "list:w", 0, 0) == [b"1"], "reads go on"
        assert holdfast.status()["log_stalled"]
        assert holdfast.http("/readyz")[0] == 503
        assert "full" in holdfast.http("/readyz")[1] or "space" in holdfast.http("/readyz")[1], holdfast.http("/readyz")
        holdfast.disk.set("")
        wait_until(lambda: isinstance(writer.seen[-1][3], int), 10, "there is room: service is back")
        writer.finish()
        check_list(holdfast, writer)
        wait_until(lambda: holdfast.status()["lag_ms"] == 0, 10, "caught up")
    restarted(valkey, holdfast)
    check_list(holdfast, writer)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_log_size_max(rig, mode):
    """A tiny log: snapshots make room all the time. If they cannot (the disk is stalled under them), writes are refused."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, durability=mode, log_size_max="1mb", durability_lag_max="1s")
    with holdfast.client(timeout=60) as c:
        written, refused = {}, 0
        for n in range(600):
            value = f"{n}:" + "y" * 8000
            reply = c.ask("SET", f"k{n % 50}", value)
            if reply == b"OK":
                written[f"k{n % 50}"] = value.encode()
            elif is_error(reply, "CLUSTERDOWN"):
                refused += 1
                wait_until(holdfast.ready, 20, "a snapshot makes room")
            else:
                assert is_error(reply, "UNCERTAIN"), reply
                written.pop(f"k{n % 50}", None)
        assert holdfast.status()["snapshot_index"] > 1
        assert holdfast.status()["log_bytes"] <= 2 << 20
        for key, value in written.items():
            assert c("GET", key) == value
        wait_until(lambda: holdfast.status()["lag_ms"] == 0, 10, "caught up")
    restarted(valkey, holdfast)
    with holdfast.client() as c:
        for key, value in written.items():
            assert c("GET", key) == value


@pytest.mark.parametrize("fault", ["eio", "eio-sync"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_eio_stops_the_process_at_once(rig, mode, fault):
    """After a failed sync nobody knows what the disk holds: no further answer, no retry. A restart finds all that was acknowledged."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability=mode)
    writer = Stream(holdfast, "w", pause=0.001)
    writer.start()
    wait_until(lambda: len(acknowledged(writer)) > 50, 10, "writes")
    if mode == "async":
        time.sleep(0.5)
    failing = time.monotonic()
    holdfast.end_expected = True
    holdfast.disk.set(fault)
    code = holdfast.process.wait(10)
    assert code != 0
    writer.stop.set()
    writer.join(20)
    holdfast.disk.set("")
    valkey.restart_empty()
    holdfast.start()
    with holdfast.client() as c:
        there = {int(e) for e in c("LRANGE", "list:w", 0, -1)}
    bound = failing - 0.3 if mode == "async" else float("inf")
    missing = [n for _, answered, n, reply in writer.seen if isinstance(reply, int) and n not in there and answered < bound]
    assert not missing, f"acknowledged and gone: {missing[:5]}"


# ---- modes ----

def test_mode_changes_under_load(rig):
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, durability="async")
    streams = [Stream(holdfast, f"m{n}", pause=0) for n in range(4)]
    for s in streams:
        s.start()
    with holdfast.client() as c:
        for mode in ("sync", "async", "off", "sync", "off", "async", "sync"):
            assert c("CONFIG", "SET", "durability", mode) == b"OK"
            assert c("CONFIG", "GET", "durability") == [b"durability", mode.encode()]
            assert holdfast.info()["holdfast_mode"] == mode
            counts = [len(acknowledged(s)) for s in streams]
            wait_until(lambda: all(len(acknowledged(s)) > n + 5 for s, n in zip(streams, counts)), 20, f"writes in mode {mode}")
        assert is_error(c.ask("CONFIG", "SET", "durability", "perhaps"), "ERR")
    for s in streams:
        s.finish()
        assert all(isinstance(reply, int) for _, _, _, reply in s.seen)
        assert [reply for _, _, _, reply in s.seen] == list(range(1, len(s.seen) + 1)), "in order, once each"
    restarted(valkey, holdfast)
    for s in streams:
        check_list(holdfast, s)


def test_a_mode_is_in_force_when_it_is_durable(rig):
    """Its answer waits for the log; until then the old one holds; what the log does not take in time is in doubt."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="async", durability_lag_max="2s")
    with holdfast.client(timeout=60) as c, holdfast.client(timeout=60) as other:
        def mode():
            assert other("CONFIG", "GET", "durability")[1].decode() == holdfast.info()["holdfast_mode"]
            return holdfast.info()["holdfast_mode"]
        holdfast.disk.set("stall")
        c.send("CONFIG", "SET", "durability", "sync")
        c.send("PING")
        assert c.silent_for(0.5), "it waits for the disk"
        assert mode() == "async" and other("SET", "k", 1) == b"OK"
        assert is_error(other.ask("CONFIG", "SET", "durability", "off"), "TRYAGAIN"), "one at a time"
        assert other("CONFIG", "SET", "loglevel", "verbose") == b"OK", "others do not wait"
        answer = c.read()
        assert is_error(answer, "UNCERTAIN"), answer
        assert c.read() == b"PONG" and mode() == "async"
        holdfast.disk.set("")
        wait_until(lambda: mode() == "sync", 20, "it came into force after all")
        assert c("CONFIG", "SET", "durability", "off", "loglevel", "notice") == b"OK" and mode() == "off"
        replies = c.pipeline([("CONFIG", "SET", "hz", "20", "durability", "sync"), ("INFO", "durability")])
        assert replies[0] == b"OK" and b"holdfast_mode:sync" in replies[1], "with a setting of Valkey's, and what follows goes by it"
        assert is_error(c.ask("CONFIG", "SET", "hz", "x", "durability", "async"), "ERR") and mode() == "sync"
        assert is_error(c.ask("CONFIG", "SET", "requirepass", "x", "durability", "async"), "ERR") and mode() == "sync"


def test_client_durability(rig):
    """A connection chooses for itself; one that is sync is held to the log whatever the server's mode is."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="async", durability_lag_max="30s")
    sync, plain, back = (holdfast.client(timeout=60) for _ in range(3))
    assert sync("CLIENT", "DURABILITY", "SYNC") == b"OK"
    assert back("client", "durability", "sync") == b"OK"
    assert back("CLIENT", "DURABILITY", "DEFAULT") == b"OK"
    assert is_error(plain.ask("CLIENT", "DURABILITY", "MAYBE"), "ERR")
    assert sync("SET", "k", "durable") == b"OK"
    holdfast.disk.set("stall")
    assert plain("SET", "p", 1) == b"OK", "async writes go on"
    assert back("SET", "b", 1) == b"OK"
    sync.send("SET", "k", "later")
    assert sync.silent_for(0.5), "a sync write waits for the disk"
    reader = holdfast.client(timeout=60)
    reader("CLIENT", "DURABILITY", "SYNC")
    reader.send("GET", "p")
    assert reader.silent_for(0.5), "a sync reader is not shown what is not durable"
    assert plain("GET", "p") == b"1", "an async one is"
    holdfast.disk.set("")
    assert sync.read() == b"OK"
    assert reader.read() == b"1"
    for c in (sync, plain, back, reader):
        c.close()
    restarted(valkey, holdfast)
    with holdfast.client() as c:
        assert c("MGET", "k", "p", "b") == [b"later", b"1", b"1"]


def test_off_is_never_refused(rig):
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="off", durability_lag_max="200ms")
    with holdfast.client() as c:
        holdfast.disk.set("stall")
        end = time.monotonic() + 1.5
        n = 0
        while time.monotonic() < end:
            assert c("INCR", "n") == n + 1
            n += 1
        holdfast.disk.set("")
        wait_until(lambda: holdfast.status()["lag_ms"] == 0, 10, "caught up")
    restarted(valkey, holdfast)
    with holdfast.client() as c:
        assert int(c("GET", "n")) == n


def test_wait(rig):
    """WAIT waits for the log, and answers with the number of other zones: none, in a group of one."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="async", durability_lag_max="30s")
    with holdfast.client(timeout=60) as c:
        assert c("WAIT", 0, 100) == 0, "nothing written: at once"
        c("SET", "a", 1)
        assert c("WAIT", 0, 0) == 0
        began = time.monotonic()
        assert c("WAIT", 1, 300) == 0, "there is no other zone"
        assert time.monotonic() - began < 5
        assert c("WAITAOF", 1, 0, 1000) == [1, 0], "the log is our fsync"
        assert is_error(c.ask("WAIT", "x", 0), "ERR")
        assert is_error(c.ask("WAIT", 1), "ERR")
        assert is_error(c.ask("WAIT", 1, -1), "ERR")
        holdfast.disk.set("stall")
        c("SET", "b", 1)
        began = time.monotonic()
        assert c("WAITAOF", 1, 0, 400) == [0, 0], "not durable in time"
        assert 0.3 < time.monotonic() - began < 3
        c.send("WAITAOF", 1, 0, 0)
        assert c.silent_for(0.3)
        holdfast.disk.set("")
        assert c.read() == [1, 0]
        assert c("SET", "c", 1) == b"OK"


def test_lag_is_shown(rig):
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability="async", durability_lag_max="30s")
    with holdfast.client() as c:
        c("SET", "k", 1)
        wait_until(lambda: holdfast.status()["lag_ms"] == 0, 5, "no lag")
        holdfast.disk.set("stall")
        c("SET", "k", 2)
        began = time.monotonic()
        time.sleep(1.2)
        elapsed = (time.monotonic() - began) * 1000
        lag = int(holdfast.info()["holdfast_lag_ms"])
        assert elapsed - 150 <= lag <= elapsed + 250 + 1000 * (TOLERANCE_S - 0.5), (lag, elapsed)
        metrics = holdfast.http("/metrics")[1]
        shown = float(next(line.split()[1] for line in metrics.splitlines() if line.startswith("holdfast_lag_seconds ")))
        assert shown * 1000 >= lag - 5
        assert json.loads(holdfast.http("/status")[1])["lag_ms"] >= lag
        holdfast.disk.set("")
        wait_until(lambda: holdfast.status()["lag_ms"] == 0, 5, "caught up")


def test_blocked_time_is_no_lag(rig):
    """A client that blocks for long is not a write that waits."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, durability="sync", durability_lag_max="500ms")
    with holdfast.client(timeout=60) as blocked, holdfast.client() as c:
        blocked.send("BLPOP", "queue", 0)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert c("SET", "k", 1) == b"OK"
            time.sleep(0.02)
        assert c("RPUSH", "queue", "x") == 1
        assert blocked.read() == [b"queue", b"x"]


def test_held_read_is_given_up(rig):
    """Sync: a read of a value that is not durable waits for the log, but not longer than durability-lag-max."""
    valkey = rig.valkey()
    holdfast = rig.holdfast(valkey, disk=True, durability_lag_max="1500ms")
    with holdfast.client(timeout=20) as plain, holdfast.client(timeout=20) as reader:
        plain("SADD", "s", 1, 2, 3)
        plain("CLIENT", "DURABILITY", "ASYNC")
        holdfast.disk.set("stall")
        plain("SPOP", "s")
        asked = time.monotonic()
        reader.send("SMEMBERS", "s")
        assert is_error(reader.read(), "TRYAGAIN")
        assert 1.5 - TOLERANCE_S <= time.monotonic() - asked <= 1.5 + 2 * TOLERANCE_S
        holdfast.disk.set("")
        assert len(eventually(lambda: reader.ask("SMEMBERS", "s"), lambda r: not isinstance(r, RespError), 10, "it is durable")) == 2
