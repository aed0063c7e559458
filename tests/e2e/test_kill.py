"""kill -9 in the middle of everything, again and again: what was acknowledged or read is there, what was refused is not.

A round: clients work (load.py), something is killed and started again as a supervisor would, the clients go on, stop, and everything is
judged (history.py). At the end everything is killed once more and all rounds are judged again. HF_ROUNDS sets the number of
rounds of each test: few by default, 50 and more before a release.
"""
import json
import os
import random
import signal
import threading
import time

import pytest

import load
from harness import FULL, is_error, wait_until
from history import LagSample
from resp import Client, Closed

ROUNDS = int(os.environ.get("HF_ROUNDS", "50" if FULL else "6"))
SEED = os.environ.get("HF_SEED") or str(random.SystemRandom().randint(1, 1 << 30))
CLIENTS = 3  # in each of two databases


class Scene:
    """Holdfast, its Valkey, the reference, and how to kill and start them."""

    def __init__(self, rig, spawn, **settings):
        self.rig, self.spawn = rig, spawn
        self.reference = rig.valkey()
        settings = {"snapshot-log-bytes": "2mb", "valkey-timeout": "5", **settings}
        self.valkey = None if spawn else rig.valkey()
        self.holdfast = rig.holdfast(self.valkey, settings=settings)
        self.r = random.Random(f"{SEED}/scene")

    def kill(self, victim):
        """Kills, and returns what starts it again."""
        spawned = self.holdfast.spawned_pid() if self.spawn and victim != "holdfast" else None
        if victim in ("holdfast", "both") and self.r.random() < 0.5:
            self.holdfast.kill9()
        if victim in ("valkey", "both"):
            if self.spawn:
                os.kill(spawned, signal.SIGKILL)
            else:
                self.valkey.kill9()
        if victim in ("holdfast", "both"):
            self.holdfast.kill9()

    def start(self, victim):
        time.sleep(self.r.choice([0, 0, 0.02, 0.1]))
        holdfast_first = self.r.random() < 0.5
        if victim in ("holdfast", "both") and holdfast_first:
            self.holdfast.launch()
        if victim in ("valkey", "both") and not self.spawn:
            self.valkey.restart_empty()
        if victim in ("holdfast", "both") and not holdfast_first:
            self.holdfast.launch()
        self.wait_serving()

    def wait_serving(self):
        self.holdfast.wait_ready(30)

        def answers():
            try:
                with self.holdfast.client() as c:
                    return not is_error(c.ask("GET", "no such key"), "LOADING")
            except (Closed, OSError):
                return False
        wait_until(answers, 30, "Holdfast serves again")

    def judge_again(self, rounds):
        bad = []
        for groups in rounds:
            for shared, clients in groups:
                state = load.State(self.holdfast.port, self.reference.port)
                bad += load.judge_sync(shared, clients, state)
                state.close()
        return bad

    def keep(self, groups, why):
        """The history beside the data directory, for whoever has to find out."""
        place = self.rig.dir / "history.json"
        place.write_text(json.dumps({"seed": SEED, "why": why, "groups": [
            {"shared": {k: v for k, v in vars(shared).items()},
             "bundles": [vars(b) for c in clients for b in [*c.bundles.values(), *c.retired]]} for shared, clients in groups]},
            default=lambda o: vars(o) if hasattr(o, "__dict__") else repr(o), indent=1))
        return f"{place} (HF_SEED={SEED})"


def begin(scene, tag, is_async=False):
    groups = []
    for db in (0, 1):
        shared = load.Shared(f"{tag}d{db}")
        clients = [load.LoadClient(n, scene.holdfast.port, scene.reference.port, shared, f"{SEED}/{tag}/{db}", is_async, db)
                   for n in range(CLIENTS)]
        clients.append(load.Worker(CLIENTS, scene.holdfast.port, scene.reference.port, shared, f"{SEED}/{tag}/{db}", is_async, db))
        groups.append((shared, clients))
    for _, clients in groups:
        for c in clients:
            c.start()
    return groups


def answered(groups):
    return sum(c.done["ok"] for _, clients in groups for c in clients)


def finish(groups):
    for _, clients in groups:
        for c in clients:
            c.stop.set()
    for _, clients in groups:
        for c in clients:
            c.finish()


def sync_rounds(rig, victim, spawn, rounds):
    scene = Scene(rig, spawn, durability="sync")
    past = []
    for n in range(rounds):
        groups = begin(scene, f"r{n}")
        wait_until(lambda: answered(groups) > 200, 30, "the load runs")
        time.sleep(scene.r.random() * 0.4)
        scene.kill(victim)
        scene.start(victim)
        before = answered(groups)
        wait_until(lambda: answered(groups) > before + 100, 30, "the load runs again")
        finish(groups)
        past.append(groups)
        bad = scene.judge_again([groups])
        assert not bad, f"round {n}: " + "\n".join(bad) + f"\n{scene.keep(groups, bad)}"
    scene.kill("both")
    scene.start("both")
    bad = scene.judge_again(past)
    assert not bad, "at the end: " + "\n".join(bad) + f"\n{scene.keep([g for p in past for g in p], bad)}"


@pytest.mark.parametrize("victim", ["valkey", "holdfast", "both"])
def test_sync(rig, victim):
    sync_rounds(rig, victim, spawn=False, rounds=ROUNDS)


@pytest.mark.parametrize("victim", ["valkey", "holdfast", "both"])
def test_sync_spawn(rig, victim):
    sync_rounds(rig, victim, spawn=True, rounds=max(2, ROUNDS // 2))


class LagWatch(threading.Thread):
    """Asks the node for its lag, over and over."""

    def __init__(self, holdfast):
        super().__init__(daemon=True)
        self.holdfast, self.samples, self.stop = holdfast, [], threading.Event()

    def run(self):
        while not self.stop.wait(0.01):
            asked = time.monotonic()
            try:
                self.samples.append(LagSample(asked, self.holdfast.status()["lag_ms"] / 1000))
            except (AssertionError, KeyError, OSError, ValueError):
                pass


def async_rounds(rig, victim, spawn, rounds, lag_max_s=10):
    scene = Scene(rig, spawn, durability="async")
    lost = written = 0
    for n in range(rounds):
        groups, watch = begin(scene, f"r{n}", is_async=True), LagWatch(scene.holdfast)
        watch.start()
        wait_until(lambda: answered(groups) > 200, 30, "the load runs")
        time.sleep(scene.r.random() * 0.4)
        killed = time.monotonic()
        scene.kill(victim)
        dead = time.monotonic()
        watch.stop.set()
        for _, clients in groups:
            for c in clients:
                c.stop.set()
        scene.start(victim)
        finish(groups)
        bad = []
        for shared, clients in groups:
            state = load.State(scene.holdfast.port, scene.reference.port)
            found, gone, all_of = load.judge_async(shared, clients, state, killed, dead, lag_max_s, watch.samples)
            bad += found
            lost, written = lost + gone, written + all_of
            state.close()
        assert not bad, f"round {n}: " + "\n".join(bad) + f"\n{scene.keep(groups, bad)}"
        assert watch.samples
    print(f"async, {victim}: {lost} of {written} acknowledged writes lost in {rounds} crashes")
    return lost


@pytest.mark.parametrize("spawn", [False, True], ids=["external", "spawn"])
@pytest.mark.parametrize("victim", ["valkey", "holdfast", "both"])
def test_async(rig, victim, spawn):
    lost = async_rounds(rig, victim, spawn, max(2, ROUNDS // (4 if spawn else 2)))
    if victim == "holdfast" and not spawn:
        assert lost == 0, "Valkey lived: its stream had everything"


# ---- teeth: a Valkey that simply forgets, judged the same way ----

def plain_round(rig, is_async):
    valkey, reference = rig.valkey("--save", ""), rig.valkey()
    shared = load.Shared("t")
    clients = [load.LoadClient(n, valkey.port, reference.port, shared, SEED, is_async) for n in range(2)]
    for c in clients:
        c.start()
    groups = [(shared, clients)]
    wait_until(lambda: answered(groups) > 300, 20, "the load runs")
    return valkey, reference, shared, clients, groups


def test_the_judge_accepts_a_valkey_that_nobody_kills(rig):
    valkey, reference, shared, clients, groups = plain_round(rig, False)
    finish(groups)
    assert load.judge_sync(shared, clients, load.State(valkey.port, reference.port)) == []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_judge_finds_a_valkey_that_forgets(rig, is_async):
    valkey, reference, shared, clients, groups = plain_round(rig, is_async)
    valkey.restart_empty()
    dead = time.monotonic()
    finish(groups)
    state = load.State(valkey.port, reference.port)
    if is_async:
        bad, _, _ = load.judge_async(shared, clients, state, dead, dead, 0.05, [])
    else:
        bad = load.judge_sync(shared, clients, state)
    assert bad


def test_the_judge_finds_one_lost_write(rig):
    valkey, reference, shared, clients, groups = plain_round(rig, False)
    finish(groups)
    with Client(valkey.port) as c:
        c("RPOP", next(k for k in shared.lists if c("LLEN", k)))
    assert load.judge_sync(shared, clients, load.State(valkey.port, reference.port))


def test_the_judge_finds_one_changed_key(rig):
    valkey, reference, shared, clients, groups = plain_round(rig, False)
    finish(groups)
    with Client(valkey.port) as c:
        key = next(k for client in clients for b in client.bundles.values() for k in b.keys if c("TYPE", k) == b"string")
        c("APPEND", key, "!")
    assert load.judge_sync(shared, clients, load.State(valkey.port, reference.port))
