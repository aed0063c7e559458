"""What an operator does while it runs: the durability mode by the admin port, a node taken out of service and brought back, ctl top."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios

import pytest

from callers import Retrying
from harness import PATIENCE, binary, free_port, wait_until
from test_ctl import ctl, rows


# ---- the mode ----

def test_mode_of_one_node(rig):
    _, h = rig.pair(durability="sync")
    assert ctl("mode", admin=h.admin_port)[:2] == (0, "sync\n")
    with h.client() as c:
        for mode in ("async", "off", "sync"):
            assert ctl("mode", mode, admin=h.admin_port)[:2] == (0, "done\n")
            assert ctl("mode", admin=h.admin_port)[:2] == (0, f"{mode}\n")
            assert c("CONFIG", "GET", "durability") == [b"durability", mode.encode()]
    code, out, err = ctl("mode", "always", admin=h.admin_port)
    assert code == 1 and out == "" and "sync, async or off" in err
    assert h.http("/mode?durability=off")[0] == 405 and h.status()["mode"] == "sync", "a GET changes nothing"


def test_mode_of_a_group_outlives_its_leader(rig):
    g = rig.group()
    before = g.leader()
    for words in (["mode"], ["mode", "async"]):
        code, out = g.ctl(*words, at=g.followers()[0])
        assert code == 1 and f"ask the leader, {before.name}" in out, out
    assert g.ctl("mode")[1] == "sync\n"
    assert g.ctl("mode", "async") == (0, "done\n") and g.ctl("mode") == (0, "async\n")
    assert before.look()["mode"] == "async"
    g.kill9_zone(before)
    after = g.leader(besides=[before])
    g.wait_serving()
    assert g.ctl("mode", at=after) == (0, "async\n"), "it is in the log"
    with after.client() as c:
        assert c("CONFIG", "GET", "durability") == [b"durability", b"async"]
    assert g.ctl("mode", "sync", at=after) == (0, "done\n")
    g.restart(before)
    g.transfer(before)
    wait_until(lambda: g.leader_now() is before and before.ready(), 20, "the former leader leads")
    assert g.ctl("mode", at=before) == (0, "sync\n")


# ---- out of service ----

def drained(m):
    code, why = m.http("/readyz")
    return code == 503 and why.startswith("draining: ")


def test_drain_of_one_node(rig):
    _, h = rig.pair()
    assert ctl("drain", admin=h.admin_port)[:2] == (0, "done\n")
    assert h.http("/readyz") == (503, "draining: out of service until ctl undrain or a restart\n")
    assert h.http("/healthz")[0] == 200 and "\nholdfast_draining 1\n" in h.http("/metrics")[1]
    with h.client() as c:
        assert c("SET", "k", "v") == b"OK", "a new connection is served"
        assert b"holdfast_draining:1" in c("INFO", "durability")
    assert any("This node is draining" in p["what"] for p in h.status()["problems"])
    code, out, _ = ctl("status", admin=h.admin_port)
    assert code == 0 and "not ready: draining" in out and "This node is draining" in out, out
    assert ctl("undrain", admin=h.admin_port)[:2] == (0, "done\n") and h.ready()
    assert ctl("drain", admin=h.admin_port)[0] == 0 and not h.ready()
    h.restart()
    assert h.ready() and not h.status()["draining"], "a restart ends it"
    assert h.text().count("Draining: taken out of service") == 2 and h.text().count("Draining ends: back in service") == 1


def test_drain_of_a_leader_under_load(rig):
    """Nobody loses a write or gets an error. Then the new leader dies: the drained node votes, but the third one leads."""
    g = rig.group()
    a = g.leader()
    endpoints = [a.endpoint(), *(m.endpoint() for m in g.others(a))]
    writers = [Retrying(endpoints[i:] + endpoints[:i], f"w{i}") for i in range(3)]
    writers += [Retrying([a.endpoint()], "stays")]
    for w in writers:
        w.start()
    for w in writers:
        w.wait_for(50)
    assert g.ctl("drain", at=a) == (0, "done\n")
    b = g.leader(besides=[a])
    assert drained(a) and a.look()["role"] == "follower"
    for w in writers:
        w.wait_for(50)
        assert not w.troubled(), "planned: nobody is left in doubt"
    assert writers[3].client is not None and writers[3].requests[-1].attempts == []
    wait_until(lambda: rows(g.ctl("members", at=b)[1])[a.name]["STATE"] == "draining", 10, "the others know")
    code, out = g.ctl("transfer", a.name, at=b)
    assert code == 1 and "it is draining" in out and g.leader() is b, out
    with a.client() as c:
        assert c("SET", "new", "connection") == b"OK", "relayed"
    third = g.others(a, b)[0]
    g.kill9_zone(b)
    wait_until(lambda: g.leader_now() is third, 20, lambda: f"{third.name} leads: {g.summary()}")
    for w in writers:
        w.wait_for(50)
    assert drained(a)
    g.restart(b)
    assert g.ctl("undrain", at=a) == (0, "done\n")
    wait_until(a.ready, 10, "it is back in service")
    assert g.ctl("transfer", a.name) == (0, "done\n")
    for w in writers:
        w.wait_for(50)
        w.finish()
    with g.leader().client() as c:
        for w in writers:
            w.check(c)
    g.wait_equal()


def test_drain_of_the_last_one_standing(rig):
    """Two of three are drained, the third one is down: the leader leads on, and says so. It hands over when somebody is in service again."""
    g = rig.group()
    leader, follower, down = g.leader(), *g.followers()
    assert g.ctl("drain", at=follower) == (0, "done\n") and drained(follower)
    g.kill9_zone(down)
    w = Retrying([leader.endpoint()], "w")
    w.start()
    w.wait_for(20)
    term = leader.look()["term"]
    code, out = g.ctl("drain", at=leader)
    assert code == 1 and "leads on until another one can" in out, out
    assert drained(leader) and leader.http("/readyz")[1].endswith("it still leads\n")
    assert any("leads on: nobody else can" in p["what"] for p in leader.look()["problems"])
    w.wait_for(100)
    assert leader.look()["term"] == term and leader.look()["role"] == "leader", "two drained nodes do not pass it to and fro"
    assert not w.troubled()
    assert g.ctl("undrain", at=follower) == (0, "done\n")
    wait_until(lambda: g.leader_now() is follower, 30, lambda: f"it hands over by itself: {g.summary()}")
    w.wait_for(20)
    w.finish()
    assert not w.troubled()
    with follower.client() as c:
        w.check(c)
    g.restart(leader)
    wait_until(leader.ready, 20, "a restart ends it")


def test_a_drained_node_leads_when_nobody_else_can(rig):
    """Two Valkeys and a witness: with the other Valkey's zone gone, the drained node must serve."""
    g = rig.group(witness=True)
    a = g.leader()
    assert g.ctl("drain", at=a) == (0, "done\n")
    b = g.leader(besides=[a])
    with a.client() as c:
        assert c("SET", "k", "v") == b"OK"
    g.kill9_zone(b)
    wait_until(lambda: g.leader_now() is a and g.write_answers(a) == b"OK", 30, lambda: f"{a.name} serves: {g.summary()}")
    assert drained(a)
    with a.client() as c:
        assert c("GET", "k") == b"v"
    g.restart(b, wait=False)
    wait_until(lambda: g.leader_now() is b, 40, lambda: f"{b.name} takes over again: {g.summary()}")
    with a.client() as c:
        assert c("GET", "k") == b"v"
    g.wait_equal()


# ---- ctl top ----

def test_top_without_a_terminal(rig):
    _, h = rig.pair(node="n-1")
    with h.client() as c:
        for i in range(50):
            c("SET", f"k{i}", i)
    code, out, err = ctl("top", "--count", 2, "--interval", 0.1, admin=h.admin_port)
    assert code == 0 and err == "" and "\033" not in out
    assert len(re.findall(r"(?m)^\d\d:\d\d:\d\d  node n-1 .*: leader, serving, ready$", out)) == 2, out
    assert re.search(r"(?m)^durability  sync, lag \d+ of 10000 ms \[[#.]{30}\] .* pending$", out)
    assert re.search(r"(?m)^a second    writes \d+, others \d+, commands \d+, rejected 0, uncertain 0$", out)
    assert re.search(r"(?m)^p50, p99    commit \S.*; fsync \S.*; forward \S.*; release ", out)
    for word in ("log         entries 1 to ", "snapshot    ", "clients     "):
        assert word in out, out

    def counted():
        code, out, _ = ctl("top", "--count", 1, admin=h.admin_port)
        with h.client() as c:
            c("SET", "k", "v")
        return code == 0 and re.search(r"writes [1-9]\d*, ", out) and re.search(r"fsync \d[\d.]* [um]s, \d", out)
    wait_until(counted, 15, "rates and latencies of the last second are shown", every=0.1)
    code, out, err = ctl("top", admin=free_port())
    assert code == 3 and out == "" and "no answer" in err
    for words in (["top", "--interval", "0"], ["top", "--interval", "x"], ["top", "--count", "0"], ["top", "--count"], ["top", "a"]):
        assert ctl(*words)[0] == 2, words


def test_top_shows_a_group(rig):
    g = rig.group()
    code, out = g.ctl("top", "--count", "1")
    table = rows(out[out.index("NAME "):])
    assert code == 0 and set(table) == {"a", "b", "c"} and all(row["BEHIND"].isdigit() for row in table.values()), out
    follower = g.followers()[0]
    code, out = g.ctl("top", "--count", "1", at=follower)
    assert code == 0 and f": follower of {g.leader().name}, fed, ready" in out, out
    g.ctl("drain", at=follower)
    code, out = g.ctl("top", "--count", "1", at=follower)
    assert "NOT READY, draining" in out and "This node is draining" in out, out


class Terminal:
    """ctl top in a terminal of its own."""

    def __init__(self, h, *words, rows=24, columns=80):
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.theirs, self.before, self.seen = theirs, termios.tcgetattr(theirs), b""
        self.process = subprocess.Popen([binary(), "ctl", "--admin", f"127.0.0.1:{h.admin_port}", "top", *words], stdin=theirs, stdout=theirs,
                                        stderr=theirs, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def read(self):
        while select.select([self.ours], [], [], 0)[0]:
            self.seen += os.read(self.ours, 65536)
        return self.seen

    def wait_seen(self, what, count=1):
        wait_until(lambda: self.read().count(what) >= count, 10, lambda: f"{count} times {what} in {self.seen[-2000:]}")

    def key(self, key):
        os.write(self.ours, key)

    def end(self):
        wait_until(lambda: self.read() is not None and self.process.poll() is not None, 10, "it ends")
        self.read()
        code, after = self.process.returncode, termios.tcgetattr(self.theirs)
        os.close(self.ours)
        os.close(self.theirs)
        return code, after == self.before


@pytest.mark.parametrize("how", ["ctrl-c", "q", "term"])
def test_top_in_a_terminal(rig, how):
    _, h = rig.pair(node="n-1")
    t = Terminal(h, "--interval", "0.2", rows=10, columns=60)
    t.wait_seen(b"\033[H", 3)
    assert t.seen.startswith(b"\033[?1049h\033[?25l"), t.seen[:50]
    frames = t.seen.split(b"\033[H")
    lines = frames[1].replace(b"\033[K", b"").replace(b"\033[J", b"").split(b"\r\n")
    assert len(lines) <= 10 and all(len(line) < 60 for line in lines), lines
    assert b"node n-1" in lines[0]
    fcntl.ioctl(t.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))  # the kernel sends SIGWINCH
    t.wait_seen(b"  SKEW")
    if how == "term":
        t.process.send_signal(signal.SIGTERM)
    else:
        t.key(b"\x03" if how == "ctrl-c" else b"q")
    code, restored = t.end()
    assert code == 0 and restored and t.seen.endswith(b"\033[?25h\033[?1049l"), (code, restored, t.seen[-100:])


def test_top_outlives_the_node(rig):
    """A node that is restarted: what was seen stays, said to be old; then it goes on. Ended while nobody answers, it exits with 3."""
    _, h = rig.pair()
    t = Terminal(h, "--interval", "0.2", columns=200)
    t.wait_seen(b"\033[H", 2)
    h.kill9()
    t.wait_seen(b"NO ANSWER   ")
    h.launch()
    h.wait_ready()
    seen = len(t.read())
    wait_until(lambda: b"NO ANSWER" not in t.read()[seen:].split(b"\033[H")[-1] and t.seen[seen:].count(b"\033[H") > 1, 10, "it goes on")
    h.kill9()
    seen = len(t.read())
    wait_until(lambda: b"NO ANSWER" in t.read()[seen:], 10 * PATIENCE, "it says so")
    t.key(b"q")
    code, restored = t.end()
    assert code == 3 and restored
