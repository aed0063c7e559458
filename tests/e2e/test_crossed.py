"""Replies never reach another client. Thousands of sessions come and go at random: in MULTI, while blocked, with a pipeline under way, in the
middle of a request or of a reply; each reply proves by its content whose it is, and which of its commands it answers.

A crowd: threads with dozens of open sessions each. A step takes one of them, sends something, reads something that is due, or ends it
without a word. HF_FULL=1: longer, and more of the large ones.
"""
import contextlib
import os
import random
import selectors
import socket
import threading
import time

import pytest

from harness import FULL, SANITIZED, wait_until
from resp import Client, Closed, RespError, encode

SECONDS = 90 if FULL else 10
THREADS, OPEN, OPEN_RELAYED = 12, 40, 15  # sessions that each thread keeps open; relayed, each costs a TLS handshake
ERRORS = ("UNCERTAIN", "LOADING", "CLUSTERDOWN", "EXECABORT", "UNBLOCKED", "TRYAGAIN")
SESSIONS_MIN = 300      # on a slow machine that takes longer
SECONDS_MAX = 60 + SECONDS
SEED = os.environ.get("HF_SEED") or str(random.SystemRandom().randint(1, 1 << 30))
LARGEST = 64 << 20
REPEAT = "return string.rep(ARGV[1], tonumber(ARGV[2]))"
TAKE = "redis.call('INCR', KEYS[1]) return {ARGV[1], redis.call('GET', KEYS[1])}"


class Session:
    """One connection: what it was sent and has not answered yet, as (command, what the answer must be)."""

    UNREAD_BYTES_MAX = 200_000  # who sends and does not read is not read either, in the end

    def __init__(self, crowd, address, tag, r):
        self.crowd, self.tag, self.r = crowd, tag, r
        self.key, self.n, self.count = f"k:{tag}", 0, 0
        self.due, self.value, self.blocked = [], None, None
        self.client = Client(address, timeout=crowd.patience, proto=r.choice([2, 2, 3]))

    def word(self):
        self.n += 1
        return f"{self.tag}.{self.n}"

    def size(self):
        dice = self.r.random()
        return self.r.randint(1, 300) if dice < 0.9 else self.r.randint(300, 64 << 10) if dice < 0.995 else self.r.randint(64 << 10, 1 << 20)

    # ---- what can be asked ----
    def make(self):
        """(command, its answer)"""
        word = self.word()
        kind = self.r.choice(["echo", "set", "get", "incr", "eval", "take", "error", "unknown", "repeat", "list", "ping", "hash"])
        if kind == "echo":
            filler = word + "-" * self.size()
            return ("ECHO", filler), filler.encode()
        if kind == "ping":
            return ("PING", word), word.encode()
        if kind == "set":
            self.value = (word + ";") * (1 + self.size() // len(word))
            return ("SET", self.key, self.value), b"OK"
        if kind == "get":
            return ("GET", self.key), self.value and self.value.encode()
        if kind == "incr":
            self.count += 1
            return ("INCR", f"{self.key}:n"), self.count
        if kind == "take":
            self.count += 1
            return ("EVAL", TAKE, 1, f"{self.key}:n", word), [word.encode(), b"%d" % self.count]
        if kind == "eval":
            return ("EVAL", "return ARGV[1]", 0, word), word.encode()
        if kind == "error":
            return ("EVAL_RO", "return redis.error_reply('MINE ' .. ARGV[1])", 0, word), RespError(f"MINE {word}")
        if kind == "unknown":
            return (f"no.{word}",), RespError(f"ERR unknown command 'no.{word}', with args beginning with: ")
        if kind == "repeat":
            times = 1 + self.size() // len(word)
            return ("EVAL_RO", REPEAT, 0, word, times), word.encode() * times
        if kind == "list":
            return ("LPOS", self.key + ":none", word), None
        return ("SADD", f"{self.key}:s", word), 1

    def batch(self):
        """Commands with their answers; transactions among them."""
        out = []
        for _ in range(self.r.randint(1, 6)):
            if self.r.random() < 0.2:
                unit = [self.make() for _ in range(self.r.randint(0, 3))]
                unit = [u for u in unit if not u[0][0].startswith("no.")]  # they would abort it
                out += [(("MULTI",), b"OK"), *[(c, b"QUEUED") for c, _ in unit], (("EXEC",), [a for _, a in unit])]
            elif self.r.random() < 0.08:
                word = self.word()
                out += [(("RPUSH", f"{self.key}:l", word), 1), (("BLPOP", f"{self.key}:l", 0), [f"{self.key}:l".encode(), word.encode()])]
            else:
                out.append(self.make())
        return out

    # ---- steps ----
    def send(self, batch, part=1.0):
        if sum(len(a) for _, a in self.due if isinstance(a, bytes)) > self.UNREAD_BYTES_MAX:
            self.read()
        data = b"".join(encode(*c) for c, _ in batch)
        self.client.raw(data[:int(len(data) * part)])
        self.due += batch

    def read(self, count=None):
        for _ in range(len(self.due) if count is None else min(count, len(self.due))):
            command, answer = self.due.pop(0)
            got = self.client.read()
            if got != answer:
                self.crowd.wrong(self, command, answer, got)
                raise Closed("after that nothing can be expected of it")
            self.crowd.checked += 1

    def huge(self, size):
        """A long string that is its owner's at both ends; nothing of it is logged but these."""
        self.read()
        word = self.word().encode()
        key = f"{self.key}:huge"
        self.send([(("SETRANGE", key, size - len(word), word), size), (("SETRANGE", key, 0, word), size),
                   (("GET", key), word + bytes(size - 2 * len(word)) + word), (("UNLINK", key), 1), self.make()])
        self.read()

    def block(self):
        self.read()
        self.blocked = f"{self.key}:b{self.n}"
        self.send([(("BLPOP", self.blocked, 0), None)])

    def wake(self, pusher):
        """By another session; what it is handed is for this one alone."""
        word = self.word()
        self.due[-1] = (self.due[-1][0], [self.blocked.encode(), word.encode()])
        pusher.send([(("RPUSH", self.blocked, word), 1)])
        self.blocked = None
        self.read()

    def die(self):
        """Somewhere in the middle of something."""
        how = self.r.randrange(7)
        with contextlib.suppress(Closed, OSError):
            if how == 0 and not self.blocked:
                self.send([(("MULTI",), None), (("SET", self.key, "never"), None)])
            elif how == 1 and not self.blocked:
                self.send([(("BLPOP", f"{self.key}:none", 0), None)])
            elif how == 2:
                self.send(self.batch(), part=self.r.random())
            elif how == 3 and not self.blocked:
                self.send(self.batch())
                self.client.sock.recv(self.r.randint(1, 50))
            elif how == 4:
                self.send([(("EVAL_RO", REPEAT, 0, self.tag, 2000), None)])
            elif how == 5:
                self.client.sock.shutdown(socket.SHUT_WR)
        if self.r.random() < 0.4:
            self.client.reset()
        else:
            self.client.close()


class Crowd:
    def __init__(self, endpoints, seconds, allowed=(), patience=120, keep_open=OPEN, at_least=0):
        now = time.monotonic()
        self.endpoints, self.until, self.at_most, self.allowed = endpoints, now + seconds, now + SECONDS_MAX, set(allowed)
        self.at_least = at_least
        self.patience, self.keep_open = patience, keep_open
        self.checked = self.sessions = self.huge = self.forgiven = 0
        self.found, self.crashes = [], []
        self.one_huge = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(THREADS)]
        for t in self.threads:
            t.start()

    def wrong(self, session, command, answer, got):
        if isinstance(got, RespError) and got.code in self.allowed:
            self.forgiven += 1
            return
        self.found.append(f"{session.tag} asked {repr(command)[:200]}: {repr(got)[:300]} instead of {repr(answer)[:300]}")

    def _goes_on(self):
        enough = self.sessions >= self.at_least and self.checked > self.sessions
        return not self.found and time.monotonic() < (self.until if enough else self.at_most)

    def _run(self, number):
        r = random.Random(f"{SEED}/{number}")
        mine, serial = [], 0
        try:
            while self._goes_on():
                while len(mine) < self.keep_open:
                    serial += 1
                    with contextlib.suppress(RespError if self.allowed else (), Closed if self.allowed else ()):
                        mine.append(Session(self, r.choice(self.endpoints), f"<{number}.{serial}>", r))
                        self.sessions += 1
                self._step(r, mine)
        except BaseException:  # noqa: BLE001
            import traceback
            self.crashes.append(traceback.format_exc())
        for s in mine:
            s.client.close()

    def _step(self, r, mine):
        s = r.choice(mine)
        try:
            dice = r.random()
            if dice < 0.12:
                mine.remove(s)
                s.die()
            elif s.blocked:
                other = r.choice(mine)
                if other is not s and not other.blocked:
                    s.wake(other)
            elif dice < 0.2:
                s.block()
            elif dice < 0.202 and self.one_huge.acquire(blocking=False):
                try:
                    s.huge(LARGEST if FULL else LARGEST >> 4)
                    self.huge += 1
                finally:
                    self.one_huge.release()
            elif dice < 0.6:
                s.send(s.batch())  # read later
                s.read(r.randint(0, 3))
            else:
                s.send(s.batch())
                s.read()
        except (Closed, OSError) as e:
            if s in mine:
                mine.remove(s)
            s.client.close()
            if not self.allowed and not self.found:
                raise AssertionError(f"{s.tag}: {e!r}; due: {repr(s.due)[:500]}") from e

    def finish(self):
        for t in self.threads:
            t.join(SECONDS_MAX + 200)
            assert not t.is_alive(), f"hangs (HF_SEED={SEED})"
        print(f"{self.sessions} sessions, {self.checked} answers, {self.huge} large ones, {self.forgiven} errors (HF_SEED={SEED})")
        assert not self.found, "\n".join(self.found[:5]) + f"\nHF_SEED={SEED}"
        assert not self.crashes, self.crashes[0] + f"\nHF_SEED={SEED}"
        return self


def large_ones(endpoints, allowed=()):
    """However short the crowd's time was: each largest size once, two sessions at a time. What is refused is tried again."""
    crowd, done = Crowd.__new__(Crowd), []
    crowd.found, crowd.allowed, crowd.checked, crowd.forgiven, crowd.patience = [], set(allowed), 0, 0, 120

    def one(n):
        for attempt in range(8):
            s = Session(crowd, endpoints[n % len(endpoints)], f"<large{n}.{attempt}>", random.Random(n))
            with contextlib.suppress(Closed), contextlib.closing(s.client):  # what was wrong has been noted
                s.huge(LARGEST)
                done.append(n)
                return
            time.sleep(1)  # another leader, perhaps
    threads = [threading.Thread(target=one, args=(n,)) for n in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not crowd.found and sorted(done) == [0, 1], (crowd.found, done)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_no_reply_is_anothers(rig, mode):
    _, holdfast = rig.pair(durability=mode)
    crowd = Crowd([holdfast.port], SECONDS, at_least=SESSIONS_MIN).finish()
    assert crowd.sessions >= SESSIONS_MIN and crowd.checked > crowd.sessions
    large_ones([holdfast.port])
    with holdfast.client() as c:
        wait_until(lambda: c("INFO", "clients").find(b"blocked_clients:0") >= 0, 20, "who is gone is not blocked any more")


def test_no_reply_is_anothers_through_relays(rig):
    """On a machine that is too slow for all that, another node may come to lead: then some are refused, or in doubt."""
    g = rig.group(election_timeout="3s")
    followers = [m.endpoint() for m in g.followers()]
    crowd = Crowd(followers, SECONDS, allowed=ERRORS, keep_open=OPEN_RELAYED, at_least=SESSIONS_MIN // 2).finish()
    assert crowd.sessions >= SESSIONS_MIN // 2 and crowd.checked > crowd.sessions
    large_ones(followers, ERRORS)
    with g.leader().client() as c:
        wait_until(lambda: c("INFO", "clients").find(b"blocked_clients:0") >= 0, 20, "who is gone is not blocked any more")


def test_no_reply_is_anothers_while_connections_break(rig):
    """Connections to Valkey are killed, all kinds in turn: errors are given, another one's reply is not."""
    valkey, holdfast = rig.pair(durability="sync")
    crowd = Crowd([holdfast.port], SECONDS, allowed=ERRORS)
    r = random.Random(SEED)
    while time.monotonic() < crowd.until and not crowd.found:
        with contextlib.suppress(Closed, OSError, RespError), valkey.client() as direct:
            names = [dict(f.split("=", 1) for f in line.split() if "=" in f) for line in direct("CLIENT", "LIST").decode().splitlines()]
            ours = [n for n in names if n["name"].startswith("holdfast-") and n["flags"] != "S"]
            if ours:
                direct.ask("CLIENT", "KILL", "ID", r.choice(ours)["id"])
        time.sleep(0.05)  # between two faults
    crowd.finish()
    assert crowd.checked > 500


# ---- teeth ----

class Crosser(threading.Thread):
    """A proxy that now and then gives the answers of one client to another one."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.server = target, socket.create_server(("127.0.0.1", 0))
        self.port, self.seen = self.server.getsockname()[1], 0
        self.selector, self.up, self.ends = selectors.DefaultSelector(), {}, threading.Event()

    def run(self):
        self.selector.register(self.server, selectors.EVENT_READ)
        while not self.ends.is_set():
            for key, _ in self.selector.select(0.1):
                self._ready(key.fileobj)

    def _ready(self, s):
        if s is self.server:
            client, _ = s.accept()
            other = socket.create_connection(("127.0.0.1", self.target))
            self.up[client], self.up[other] = (other, False), (client, True)
            for each in (client, other):
                self.selector.register(each, selectors.EVENT_READ)
            return
        to, answers = self.up[s]
        try:
            data = s.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(s)
            with contextlib.suppress(OSError):
                to.shutdown(socket.SHUT_WR)
            return
        self.seen += answers
        if answers and self.seen % 500 == 499:
            to = next((c for c, (_, a) in self.up.items() if not a and c is not to), to)
        with contextlib.suppress(OSError):
            to.sendall(data)


def test_the_judge_finds_crossed_replies(rig):
    valkey = rig.valkey("--save", "")
    crosser = Crosser(valkey.port)
    crosser.start()
    with pytest.raises(AssertionError):
        Crowd([crosser.port], 30, patience=3).finish()
    crosser.ends.set()


def test_the_judge_accepts_a_valkey(rig):
    crowd = Crowd([rig.valkey("--save", "").port], 3 if not SANITIZED else 5).finish()
    assert crowd.checked > 300
