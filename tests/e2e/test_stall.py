"""A stalled log: two of three nodes stop while writes are under way. Within two seconds it is seen in INFO, in /metrics, on the page and as an
alert, and so is its end. With the settings that everybody has.

    time  0            pause both followers      0.4 to 0.8 s: the leader has not heard a majority: detached
          ...          each way of looking       when it first shows it
          0 again      they go on                until the group has a leader again, and all that waited is logged
"""
import statistics
import threading
import time

import pytest

from harness import SANITIZED, Closed, RespError, wait_until
from resp import info_fields
from watchers import Prometheus, chromium, page_of, shown

SEEN_WITHIN_S = 2.0 * (3 if SANITIZED else 1)
ROUNDS = 3


class Stream(threading.Thread):
    """Writes without a pause, by one node's port; refusals are no news."""

    def __init__(self, m):
        super().__init__(daemon=True)
        self.m, self.stop, self.done = m, threading.Event(), 0

    def run(self):
        client = None
        while not self.stop.wait(0.01):
            try:
                client = client or self.m.client(timeout=10)
                self.done += client.ask("INCR", "n") is not None
            except (Closed, OSError):
                client = None


class Look(threading.Thread):
    """Looks in one way, again and again, and notes when what is seen changes: bad() is asked."""

    def __init__(self, name, bad, every=0.02):
        super().__init__(daemon=True)
        self.name, self.bad, self.every = name, bad, every
        self.stop, self.changes, self.crash = threading.Event(), [(0.0, None)], None

    def run(self):
        while not self.stop.wait(self.every):
            try:
                now = self.bad()
            except (Closed, OSError, RespError):
                continue  # nothing is seen
            except Exception as e:  # noqa: BLE001
                self.crash = e
                return
            if now != self.changes[-1][1]:
                self.changes.append((time.monotonic(), now))

    def after(self, since, what):
        """Seconds from then until it showed that, as it does now; None: it does not."""
        assert self.crash is None, (self.name, self.crash)
        at, seen = self.changes[-1]
        return at - since if seen == what and at >= since else None

    def now(self):
        return self.changes[-1][1]


def in_info(leader):
    def bad():
        with leader.client(timeout=5) as c:
            seen = info_fields(c("INFO", "durability"))
        return seen["holdfast_detached"] == "1" or int(seen["holdfast_lag_ms"]) > 1000
    return bad


def in_metrics(leader):
    def bad():
        code, text = leader.http("/metrics")
        if code != 200:
            raise Closed(text)
        seen = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
        return float(seen["holdfast_detached"]) == 1 or float(seen["holdfast_lag_seconds"]) > 1
    return bad


def on_the_page(browser):
    def bad():
        sentence, problems = shown(browser, "#sentence"), shown(browser, "#problems")
        return "Something is wrong" in sentence and ("The majority is lost" in problems or "lags by" in problems)
    return bad


@pytest.fixture
def watched(rig):
    g = rig.group(durability="async")
    leader = g.leader()
    prometheus = Prometheus(rig.dir / "prometheus", [m.admin_port for m in g], every_ms=250)
    rig.things.append(prometheus)
    wait_until(lambda: prometheus.value("count(up==1)") == 3, 30, "three nodes are scraped")
    browser = chromium()
    looks = []
    try:
        stream = Stream(leader)
        looks += [Look("INFO", in_info(leader)), Look("/metrics", in_metrics(leader)), Look("the page", on_the_page(browser), 0.05),
                  Look("an alert", lambda: bool(prometheus.firing() & {"HoldfastDetached", "HoldfastLag"}), 0.05)]
        browser.get(page_of(leader))
        wait_until(lambda: "All is well" in shown(browser, "#sentence"), 20, "all is well", every=0.1)
        for t in (stream, *looks):
            t.start()
        yield g, leader, stream, looks
    finally:
        for t in (stream, *looks):
            t.stop.set()
            t.join(30)
        browser.quit()


def test_a_stalled_log_is_seen_within_two_seconds_and_so_is_its_end(watched):
    g, leader, stream, looks = watched
    begins, ends = {look.name: [] for look in looks}, {look.name: [] for look in looks}

    def all_see(what, since, into):
        wait_until(lambda: all(look.after(since, what) is not None for look in looks), 15,
                   lambda: f"{what} is seen by each: {[(k.name, k.after(since, what), k.crash) for k in looks]}, {g.summary()}", every=0.05)
        for look in looks:
            into[look.name].append(look.after(since, what))
    for _ in range(ROUNDS):
        wait_until(lambda: all(look.now() is False for look in looks), 20, "all is well, in each way of looking", every=0.05)
        if g.leader() is not leader:  # the page that is open, and what is asked, is this node's
            g.transfer(leader)
            wait_until(lambda: g.leader_now() is leader, 20, f"{leader.name} leads")
        before = stream.done
        wait_until(lambda: stream.done > before + 20, 20, "writes are under way")
        others = g.others(leader)
        for m in others:
            g.pause(m)
        all_see(True, time.monotonic(), begins)
        code, why = leader.http("/readyz")
        assert code == 503, why
        for m in others:
            g.resume(m)
        all_see(False, time.monotonic(), ends)
    for what, measured in (("its beginning", begins), ("its end", ends)):
        for name, times in measured.items():
            print(f"{what}, {name}: {', '.join(f'{t:.2f}' for t in times)} s")
    for what, measured in (("its beginning", begins), ("its end", ends)):
        late = {name: times for name, times in measured.items() if statistics.median(times) > SEEN_WITHIN_S}
        assert not late, f"{what} is seen late: {late}"
