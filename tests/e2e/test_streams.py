"""XADD with `*` as a replayable write: the id is chosen by Holdfast, logged, and then sent; where the stream is already past it, Valkey's
own `*` decides at the same moment. Nobody may see the difference, and after a kill of everything each answered id is there, once.
"""
import threading
import time

import pytest

from harness import SANITIZED, eventually, is_error, wait_until
from resp import Closed, RespError

FUTURE = 33000000000000  # ms: the year 3015
RUNS = 12 if SANITIZED else 25


def ids(client, key):
    return [entry for entry, _ in client("XRANGE", key, "-", "+")]


def number(stream_id):
    ms, seq = stream_id.split(b"-")
    return int(ms), int(seq)


def all_killed(valkey, holdfast):
    holdfast.kill9()
    valkey.restart_empty()
    holdfast.start()


def contents(client, keys):
    return {k: client("XRANGE", k, "-", "+") if client("TYPE", k) == b"stream" else client("GET", k) for k in keys}


@pytest.mark.parametrize("proto", [2, 3])
def test_is_replayable_and_answered_as_by_valkey(rig, proto):
    valkey, holdfast = rig.pair()
    with holdfast.client() as c:
        c("HELLO", proto)
        before, now = holdfast.status(), int(time.time() * 1000)
        answers = [c("XADD", "s", "*", "f", n) for n in range(40)]
        answers += c.pipeline([("XADD", "s", "NOMKSTREAM", "MAXLEN", "~", 1000, "*", "f", n, "g", n) for n in range(40)])
        after = holdfast.status()
        assert after["effects_ref"] - before["effects_ref"] >= 80 and after["writes_captured"] == before["writes_captured"]
        assert answers == sorted(answers, key=number) and len(set(answers)) == 80
        assert all(now - 1000 <= number(a)[0] <= time.time() * 1000 + 1000 for a in answers)
        assert ids(c, "s") == answers
        assert c("XADD", "nope", "NOMKSTREAM", "*", "f", "v") is None and c("EXISTS", "nope") == 0
        c("SET", "k", "v")
        assert is_error(c.ask("XADD", "k", "*", "f", "v"), "WRONGTYPE")
        with valkey.client() as direct:
            for wrong in (("XADD", "s", "*", "f"), ("XADD", "s", "*"), ("XADD", "s", "MAXLEN", "x", "*", "f", "v"), ("XADD", "k", "*", "f", "v")):
                assert c.ask(*wrong).text == direct.ask(*wrong).text
        assert c("XADD", "s", "MAXLEN", "~", 10, "*", "f", "last") and c("XLEN", "s") == 10
        left = ids(c, "s")
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert ids(c, "s") == left


def test_in_a_transaction(rig):
    """One unit in log and Valkey, with Valkey's ids: captured (test_out_of_memory_in_a_transaction)."""
    valkey, holdfast = rig.pair()
    answers = []
    with holdfast.client() as c:
        for n in range(RUNS):
            if n == RUNS // 2:
                c("XADD", "s", f"{FUTURE}-0", "f", "far")
                answers.append(b"%d-0" % FUTURE)
            before = holdfast.status()["writes_captured"]
            reply = c.pipeline([("MULTI",), ("XADD", "s", "*", "f", n), ("SET", "k", n), ("XADD", "s", "MAXLEN", "~", 1000, "*", "f", n), ("XLEN", "s"),
                                ("EXEC",), ("MULTI",), ("XADD", "t", "*", "f", n), ("EXEC",)])
            assert reply[5][1] == b"OK" and reply[5][3] == len(answers) + 2 and holdfast.status()["writes_captured"] == before + 2
            answers += [reply[5][0], reply[5][2]]
            assert isinstance(reply[8][0], bytes)
        assert ids(c, "s") == answers == sorted(set(answers), key=number) and c("XLEN", "t") == RUNS
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert ids(c, "s") == answers and c("XLEN", "t") == RUNS and c("GET", "k") == b"%d" % (RUNS - 1)


def test_out_of_memory_in_a_transaction(rig):
    """Valkey refuses the XADD when it queues it, and then EXEC runs nothing, also of what needs no memory."""
    valkey, holdfast = rig.pair(durability="sync")
    with holdfast.client() as c, valkey.client() as direct:
        c("RPUSH", "q", "job")
        direct("CONFIG", "SET", "maxmemory", 1)
        got = c.pipeline([("MULTI",), ("LPOP", "q"), ("XADD", "done", "*", "f", "v"), ("EXEC",)])
        assert is_error(got[-1], "EXECABORT") and "OOM" in got[-1].text, got
        direct("CONFIG", "SET", "maxmemory", 0)
        assert c("LRANGE", "q", 0, -1) == [b"job"]
        got = c.pipeline([("MULTI",), ("LPOP", "q"), ("XADD", "done", "*", "f", "v"), ("EXEC",)])
        assert got[-1][0] == b"job" and c("XLEN", "done") == 1


def test_order_where_the_stream_is_ahead(rig):
    """Refused ids in the middle of a pipeline: what stands behind them does not overtake them."""
    valkey, holdfast = rig.pair()
    expected = {}
    with holdfast.client() as c:
        for n in range(RUNS):
            s, t = f"s{n}", f"t{n}"
            replies = c.pipeline([("XADD", s, f"{FUTURE}-{n}", "f", "far"), ("XADD", s, "*", "f", 1), ("SET", t, "before"), ("XADD", s, "*", "f", 2),
                                  ("DEL", s), ("XADD", s, "*", "f", 3), ("XADD", s, "*", "f", 4), ("SET", t, "after"), ("XLEN", s)])
            assert replies[1] == b"%d-%d" % (FUTURE, n + 1) and replies[3] == b"%d-%d" % (FUTURE, n + 2)
            assert number(replies[5]) < number(replies[6]) < (FUTURE, 0) and replies[8] == 2
            expected[n] = replies[5:7]
        for n in range(RUNS):
            assert ids(c, f"s{n}") == expected[n]
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        for n in range(RUNS):
            assert ids(c, f"s{n}") == expected[n] and c("GET", f"t{n}") == b"after"


def test_killed_right_after_a_refused_id(rig):
    """The answer to an XADD whose chosen id was refused waits until what Valkey did instead is durable."""
    valkey, holdfast = rig.pair()
    answered = [b"%d-0" % FUTURE]
    with holdfast.client() as c:
        c("XADD", "s", f"{FUTURE}-0", "f", "far")
    for n in range(5):
        with holdfast.client() as c:
            answered += c.pipeline([("XADD", "s", "*", "f", n)] * 3)
        all_killed(valkey, holdfast)
        with holdfast.client() as c:
            assert ids(c, "s") == answered


def test_killed_while_the_intent_is_pending(rig):
    """Nobody was answered: the entry may be there or not, once, with the id that was chosen or the one that Valkey made of it."""
    valkey, holdfast = rig.pair(disk=True)
    for n in range(6):
        s = f"s{n}"
        with holdfast.client(timeout=30) as c, valkey.client() as direct:
            if n % 2:
                direct("XADD", s, f"{FUTURE}-0", "f", "far")  # logged as it is: the intent that follows is refused
            c("SET", "barrier", n)
            holdfast.disk.set("slow 40")
            for i in range(4):
                c.send("XADD", s, "*", "f", i)
            wait_until(lambda: direct("XLEN", s) > n % 2, 20, "one of them has run")
            all_killed(valkey, holdfast)
            holdfast.disk.set("")
        with holdfast.client() as c:
            entries = c("XRANGE", s, "-", "+")
            said = [fields[1] for _, fields in entries if fields[1] != b"far"]
            assert said == [b"%d" % i for i in range(len(said))], entries
            assert [e for e, _ in entries] == sorted({e for e, _ in entries}, key=number)


def test_an_uncertain_predecessor_decides_nothing(rig):
    """An async XADD from far ahead runs, and is lost with the log behind it; the sync XADD answered after it must be there all the same."""
    valkey, holdfast = rig.pair()
    for n in range(8):
        s = f"s{n}"
        with holdfast.client() as c, holdfast.client() as plain:
            plain("CLIENT", "DURABILITY", "ASYNC")
            plain.send("XADD", s, f"{FUTURE}-0", "f", "far")
            c.send("XADD", s, "*", "f", "near")
            answer = c.read()
        all_killed(valkey, holdfast)
        with holdfast.client() as c:
            assert [e for e in c("XRANGE", s, "-", "+") if e[0] == answer] == [[answer, [b"f", b"near"]]]


class Writers:
    """Sessions that add to the same streams in every way there is; each knows what it was answered."""

    def __init__(self, holdfast, valkey, keys):
        self.holdfast, self.valkey, self.keys = holdfast, valkey, keys
        self.stop, self.failures = threading.Event(), []
        self.sent = {n: [] for n in range(5)}  # writer -> [(key, value, answer or None)]
        self.threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in self.sent]
        for t in self.threads:
            t.start()

    def _commands(self, n, i):
        key = self.keys[i % len(self.keys)]
        value = f"{n}:{i}"
        if n == 0:
            return key, value, ("EVAL", "return redis.call('XADD', KEYS[1], '*', 'v', ARGV[1])", 1, key, value)
        if n == 1:
            return key, value, ("XADD", key, f"{int(time.time() * 1000) + 200}-*", "v", value)  # a little ahead: those after it are refused
        return key, value, ("XADD", key, "*", "v", value)

    def _run(self, n):
        client, i = None, 0
        try:
            while not self.stop.is_set():
                batch = [self._commands(n, i + j) for j in range(1 if n < 2 else 4)]
                i += len(batch)
                try:
                    client = client or self.holdfast.client(timeout=30)
                    for _, _, command in batch:
                        client.send(*command)
                    for key, value, _ in batch:
                        self.sent[n].append([key, value, None])
                    for at in range(len(batch)):
                        self.sent[n][at - len(batch)][2] = client.read()
                except Closed:
                    if client:
                        client.close()
                    client = None
                    time.sleep(0.01)
        except BaseException as e:  # noqa: BLE001
            self.failures.append(e)
        finally:
            if client:
                client.close()

    def more(self, n=40):
        def count():
            return min(sum(isinstance(a, bytes) for _, _, a in sent) for sent in self.sent.values())
        at = count()
        wait_until(lambda: count() >= at + n or self.failures, 30, "entries are added")

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(40)
            assert not t.is_alive()
        assert not self.failures, self.failures

    def check(self):
        with self.holdfast.client(timeout=30) as c:
            there = {k: c("XRANGE", k, "-", "+") for k in self.keys}
        place = {}
        for k, entries in there.items():
            for at, (stream_id, (_, value)) in enumerate(entries):
                assert value not in place, f"{value}: twice"
                place[value] = (k, at, stream_id)
        for n, sent in self.sent.items():
            last = {}
            for key, value, answer in sent:
                value = value.encode()
                if isinstance(answer, bytes):
                    assert place.get(value, (None,))[0] == key and place[value][2] == answer, f"{value} was answered {answer}: {place.get(value)}"
                elif isinstance(answer, RespError) and answer.code not in ("UNCERTAIN", "ERR"):
                    assert value not in place, f"{value} was refused ({answer.text}) and is there"
                if value in place:
                    assert place[value][1] > last.get(key, -1), f"{value}: out of order"
                    last[key] = place[value][1]


@pytest.mark.parametrize("trouble", ["kills", "lanes"])
def test_many_writers(rig, trouble):
    valkey, holdfast = rig.pair()
    work = Writers(holdfast, valkey, [f"s{n}" for n in range(3)])
    work.more()
    for _ in range(3):
        if trouble == "kills":
            all_killed(valkey, holdfast)
        else:
            with valkey.client() as direct:
                for line in direct("CLIENT", "LIST").decode().splitlines():
                    if "name=holdfast-" in line and "writer" in line:
                        direct.ask("CLIENT", "KILL", "ID", line.split("id=")[1].split(" ")[0])
        work.more(20)
    work.end()
    work.check()
    all_killed(valkey, holdfast)
    work.check()


def test_valkey_without_scripts(rig):
    """Nothing can be tried twice at one moment: XADD with `*` is captured, as before."""
    valkey, holdfast = rig.pair("--rename-command", "EVAL", "")
    with holdfast.client() as c:
        answers = c.pipeline([("XADD", "s", "*", "f", n) for n in range(20)])
        assert ids(c, "s") == answers
    assert holdfast.status()["writes_captured"] >= 20
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert ids(c, "s") == answers


def test_failing_over_to_a_clock_that_is_behind(rig):
    """The new leader's clock has not reached the ids that the old one chose."""
    g = rig.group(clock=True)
    for m in g:
        m.clock.set(0.4 if m is g.leader() else 0)
    with g.leader().client() as c:
        answers = c.pipeline([("XADD", "s", "*", "f", n) for n in range(20)])
        for n in range(60):  # the first of the new leader comes at once
            answers.append(c("XADD", "s", "*", "f", n))
    old = g.leader()
    old.kill9()
    new = g.leader(besides=[old.name])
    with new.client(timeout=30) as c:
        answers.append(eventually(lambda: c.ask("XADD", "s", "*", "f", "first"), lambda a: isinstance(a, bytes), 20, "the new leader serves"))
        answers += c.pipeline([("XADD", "s", "*", "f", n) for n in range(20)])
        assert answers == sorted(set(answers), key=number)
        assert ids(c, "s") == answers
    old.start()
    g.wait_equal()
