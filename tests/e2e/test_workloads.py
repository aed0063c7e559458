"""The judges of workloads.py: they accept what a Valkey does that nobody disturbs, and find each single thing that is changed there."""
import time

import pytest

import load
import workloads
from harness import wait_until
from resp import Client


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A load that has run against a plain Valkey, and its port."""
    from harness import Rig
    rig = Rig(tmp_path_factory.mktemp("workloads"))
    valkey, reference = rig.valkey("--save", ""), rig.valkey("--save", "")
    shared = load.Shared("w")
    clients = [load.LoadClient(n, valkey.port, reference.port, shared, 1) for n in range(3)]
    for c in clients:
        c.start()

    def enough():
        return min(shared.ledger.called, len(shared.ledger.transfers), len(shared.ledger.balances), len(shared.jobs.finished),
                   len(shared.stream.acknowledged), sum(map(len, shared.jobs.in_hand.values())), sum(map(len, shared.stream.in_hand.values()))) >= 3
    wait_until(enough, 60, "everything has happened")
    for c in clients:
        c.stop.set()
    for c in clients:
        c.finish()
    yield shared, valkey.port
    rig.close()


@pytest.fixture
def state(played):
    """(shared, client); what a test changes is put back."""
    shared, port = played
    with Client(port) as c:
        before = {k: c("DUMP", k) for k in c("KEYS", "w:*")}
        yield shared, c
        c("FLUSHALL")
        for key, dump in before.items():
            c("RESTORE", key, 0, dump)


def judged(state):
    shared, client = state
    return [bad for work in (shared.ledger, shared.jobs, shared.stream) for bad in work.judge(client)]


def test_a_valkey_that_nobody_disturbs(state):
    assert judged(state) == []


def ledger_loses_the_newest(s, c):
    c("RPOP", s.ledger.key)


def ledger_is_doubled(s, c):
    c("RPUSH", s.ledger.key, c("LINDEX", s.ledger.key, -1))


def half_a_transfer(s, c):
    c("INCR", s.ledger.accounts[0])


def a_transfer_is_undone(s, c):
    _, a, b, amount = c("RPOP", s.ledger.key).decode().split("/")
    c("INCRBY", s.ledger.accounts[int(a)], amount)
    c("DECRBY", s.ledger.accounts[int(b)], amount)


def a_job_is_lost(s, c):
    work = next(w for w, those in s.jobs.in_hand.items() if those)
    c("LREM", work, 1, s.jobs.in_hand[work][0])


def a_job_is_doubled(s, c):
    c("RPUSH", s.jobs.queue, s.jobs.finished[0])


def a_finished_job_is_back(s, c):
    c("SMOVE", s.jobs.done, "w:elsewhere", s.jobs.finished[0])
    c("RPUSH", s.jobs.queue, s.jobs.finished[0])


def an_entry_is_lost(s, c):
    c("XDEL", s.stream.key, next(a.id for a in s.stream.added if a.outcome == "ok"))


def an_entry_is_doubled(s, c):
    c("XADD", s.stream.key, "*", "w", next(a.word for a in s.stream.added if a.outcome == "ok"))


def an_acknowledgement_is_undone(s, c):
    c("XCLAIM", s.stream.key, "g", "c0", 0, s.stream.acknowledged[0], "FORCE", "JUSTID")


def a_delivery_is_undone(s, c):
    c("XACK", s.stream.key, "g", next(i for those in s.stream.in_hand.values() for i in those))


def a_delivery_moves(s, c):
    me, ident = next((me, i) for me, those in s.stream.in_hand.items() for i in those)
    c("XCLAIM", s.stream.key, "g", "c1" if me == "c0" else "c0", 0, ident)


def the_group_goes_back(s, c):
    c("XGROUP", "SETID", s.stream.key, "g", "0")


@pytest.mark.parametrize("change", [ledger_loses_the_newest, ledger_is_doubled, half_a_transfer, a_transfer_is_undone, a_job_is_lost, a_job_is_doubled,
                                    a_finished_job_is_back, an_entry_is_lost, an_entry_is_doubled, an_acknowledgement_is_undone,
                                    a_delivery_is_undone, a_delivery_moves, the_group_goes_back], ids=lambda f: f.__name__)
def test_a_change_is_found(state, change):
    change(*state)
    assert judged(state)


def test_what_was_read_and_is_gone():
    ledger = workloads.Ledger("x", accounts=2)
    now = time.monotonic()
    ledger.transfers = [workloads.Transfer("1/0/1/5", now, now + 1, "ok", 1, (-5, 5)), workloads.Transfer("2/0/1/5", now + 2, now + 9, "unknown")]
    assert workloads.judge_ledger(ledger, ["1/0/1/5"], [-5, 5]) == []
    ledger.balances = [workloads.Balance(now + 3, now + 4, -1, [-10, 10])]
    assert workloads.judge_ledger(ledger, ["1/0/1/5"], [-5, 5])
    assert workloads.judge_ledger(ledger, ["1/0/1/5", "2/0/1/5"], [-10, 10]) == []
    ledger.balances = [workloads.Balance(now + 3, now + 4, -1, [0, 5])]
    assert workloads.judge_ledger(ledger, ["1/0/1/5"], [-5, 5]), "half a transfer was seen"
    ledger.balances = [workloads.Balance(now + 3, now + 4, 0, [0, 0])]
    assert workloads.judge_ledger(ledger, ["1/0/1/5"], [-5, 5]), "a stale read"
