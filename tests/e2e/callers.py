"""Clients with a stopwatch: one that retries as a sensible client does, one that asks in turn and notes what it was told.

    w = Retrying([group["b"].endpoint()], "w"); w.start(); ...; w.finish(); w.check(client)
    w.next_acknowledged(after=t)      when the first write that was begun after t was acknowledged
    w.longest(since, until)           the longest time from a request's first sending to its acknowledgement
"""
import threading
import time

import load
from harness import wait_until
from resp import Client, Closed, RespError

RETRY_S = 0.002
REFUSED_UNTIL_ELSEWHERE_S = 1.0


class Request:
    """One write: when it was first sent, what its attempts were told, when it was acknowledged (None: never)."""

    def __init__(self, ident):
        self.id, self.sent, self.acknowledged, self.attempts, self.outcome = ident, time.monotonic(), None, [], None

    def __repr__(self):
        took = f"{(self.acknowledged - self.sent) * 1000:.0f} ms" if self.acknowledged else "never acknowledged"
        return f"<{self.id}: {self.outcome}, {took}, {self.attempts[-4:]}>"


class Retrying(threading.Thread):
    """Writes, one at a time: RPUSH of unique ids to a list of its own. A refused one is sent again; an uncertain one is given up (it may
    be there) and the next one begins. Goes to the next endpoint when the connection is lost, or refuses for long."""

    def __init__(self, endpoints, name, pause=0.001, timeout=15, command="RPUSH", db=0):
        super().__init__(daemon=True)
        self.endpoints, self.name_, self.key = list(endpoints), name, f"list:{name}"
        self.pause, self.timeout, self.command, self.db = pause, timeout, command, db
        self.requests, self.stop, self.crash = [], threading.Event(), None
        self.client, self.since, self.at = None, 0.0, 0

    def run(self):
        try:
            n = 0
            while not self.stop.is_set():
                n += 1
                self._one(Request(f"{self.name_}.{n}"))
                time.sleep(self.pause)
        except BaseException as e:  # noqa: BLE001
            self.crash = e
        finally:
            if self.client:
                self.client.close()

    def _one(self, request):
        self.requests.append(request)
        while request.outcome is None:
            try:
                if self.client is None:
                    self.client, self.since = Client(self.endpoints[self.at], timeout=self.timeout, db=self.db), time.monotonic()
            except (Closed, OSError, RespError) as e:
                request.attempts.append(f"connect: {e}")
                self._lost()
            else:
                self._attempt(request)
            if request.outcome is None:
                if self.client and len(self.endpoints) > 1 and time.monotonic() > max(request.sent, self.since) + REFUSED_UNTIL_ELSEWHERE_S:
                    self._lost()
                if self.stop.is_set():
                    request.outcome = "refused"  # of all its attempts
                time.sleep(RETRY_S)

    def _attempt(self, request):
        try:
            reply = self.client.ask(self.command, self.key, request.id)
        except (Closed, OSError) as e:
            request.attempts.append(f"lost: {e}")
            request.outcome = "unknown"
            self._lost()
            return
        if isinstance(reply, RespError):
            request.attempts.append(reply.text)
        what = load.outcome(reply)
        if what == load.OK and isinstance(reply, RespError):
            raise AssertionError(f"{request.id}: {reply.text}")
        if what == load.OK:
            request.acknowledged = time.monotonic()
        if what != load.REFUSED:
            request.outcome = what

    def _lost(self):
        if self.client:
            self.client.close()
        self.client = None
        self.at = (self.at + 1) % len(self.endpoints)

    # ---- looking ----
    def acknowledged(self):
        return [r for r in self.requests if r.acknowledged]

    def wait_for(self, count, seconds=20, what="writes are acknowledged"):
        """So many more acknowledged than now."""
        goal = len(self.acknowledged()) + count
        wait_until(lambda: self.crash or len(self.acknowledged()) >= goal, seconds, lambda: f"{what}: {self.requests[-3:]}")
        assert not self.crash, self.crash

    def next_acknowledged(self, after, seconds=20):
        """Seconds from `after` to the acknowledgement of a write that was sent later than that, first or again."""
        def found():
            assert not self.crash, self.crash
            return next((r for r in list(self.requests) if r.acknowledged and r.acknowledged > after and
                         (r.sent > after or r.attempts)), None)
        return wait_until(found, seconds, lambda: f"the next acknowledged write: {self.requests[-3:]}", every=0.002).acknowledged - after

    def longest(self, since, until):
        return max((r.acknowledged - r.sent for r in self.requests if r.acknowledged and r.acknowledged >= since and r.sent <= until),
                   default=0.0)

    def troubled(self, since=0.0):
        """Requests that ended in doubt."""
        return [r for r in self.requests if r.sent >= since and r.outcome == "unknown"]

    def finish(self):
        self.stop.set()
        self.join(60)
        assert not self.is_alive(), "a writer hangs"
        assert self.crash is None, self.crash
        return self

    def check(self, client, may_be_lost=lambda request: False):
        """What was acknowledged is there, once and in order; what is not acknowledged is there once at most, or not if it was refused."""
        there = [e.decode() for e in client("LRANGE", self.key, 0, -1)]
        assert len(set(there)) == len(there), "twice"
        must = [r.id for r in self.requests if r.acknowledged and not may_be_lost(r)]
        missing = set(must) - set(there)
        assert not missing, f"acknowledged and gone: {sorted(missing)[:5]} ({len(missing)} of {len(must)})"
        order = [r.id for r in self.requests if r.id in set(there)]
        assert there == order, f"order: {next((a, b) for a, b in zip(there, order) if a != b)}"
        refused = {r.id for r in self.requests if r.outcome == "refused"} & set(there)
        assert not refused, f"refused and there: {sorted(refused)[:5]}"
        return there


class Asking(threading.Thread):
    """Asks one endpoint the same again and again, with a connection that it keeps if it can: (sent, answered, reply or exception)."""

    def __init__(self, endpoint, *command, pause=0.003, timeout=15):
        super().__init__(daemon=True)
        self.endpoint, self.command, self.pause, self.timeout = endpoint, command, pause, timeout
        self.seen, self.stop = [], threading.Event()

    def run(self):
        client = None
        while not self.stop.is_set():
            sent = time.monotonic()
            try:
                client = client or Client(self.endpoint, timeout=self.timeout)
                reply = client.ask(*self.command)
            except (Closed, OSError, RespError) as e:
                reply, client = e, None
            self.seen.append((sent, time.monotonic(), reply))
            time.sleep(self.pause)

    def good(self):
        return [s for s in list(self.seen) if not isinstance(s[2], Exception)]

    def errors(self, code=None):
        return [s for s in list(self.seen) if isinstance(s[2], RespError) and code in (None, s[2].code)]

    def finish(self):
        self.stop.set()
        self.join(60)
        assert not self.is_alive()
        return self
