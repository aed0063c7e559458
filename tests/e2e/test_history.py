"""The checkers themselves: a good history passes, and each way of breaking it is found."""
import copy
import itertools
import random

import pytest

import history
from history import INFINITE, Access, Add, Count, LagSample, Push, Read, Write


def good_history(seed=1):
    """Clients that push to and read two lists, one operation at a time each."""
    rnd = random.Random(seed)
    finals, pushes, reads, now = {"a": [], "b": []}, [], [], 0.0
    for n in range(400):
        now += 1
        key = rnd.choice("ab")
        dice = rnd.random()
        begin, end = now - rnd.random() * 3, now + rnd.random() * 3
        if dice < 0.5:
            finals[key].append(f"i{n}")
            pushes.append(Push(key, f"i{n}", begin, end, "ok", len(finals[key])))
        elif dice < 0.6:
            if rnd.random() < 0.5:
                finals[key].append(f"u{n}")
            pushes.append(Push(key, f"u{n}", begin, history.INFINITE, "unknown"))
        elif dice < 0.65:
            pushes.append(Push(key, f"r{n}", begin, end, "refused"))
        else:
            reads.append(Read(key, begin, end, list(finals[key])))
    return pushes, reads, finals


def lose_acknowledged(pushes, reads, finals):
    p = [p for p in pushes if p.outcome == "ok"][-1]
    finals[p.key].remove(p.id)


def lose_early(pushes, reads, finals):
    p = [p for p in pushes if p.outcome == "ok"][5]
    finals[p.key].remove(p.id)


def double(pushes, reads, finals):
    finals["a"].append(finals["a"][3])


def double_unknown(pushes, reads, finals):
    p = next(p for p in pushes if p.outcome == "unknown" and p.id in finals[p.key])
    finals[p.key].append(p.id)


def swap(pushes, reads, finals):
    finals["a"][7], finals["a"][8] = finals["a"][8], finals["a"][7]


def refused_applied(pushes, reads, finals):
    p = next(p for p in pushes if p.outcome == "refused")
    finals[p.key].append(p.id)


def stranger(pushes, reads, finals):
    finals["b"].append("x1")


def wrong_list(pushes, reads, finals):
    finals["b"].append(next(p.id for p in pushes if p.outcome == "unknown" and p.key == "a" and p.id not in finals["a"]))


def stale_read(pushes, reads, finals):
    reads[-1].value = reads[-1].value[:2]


def undone_read(pushes, reads, finals):
    reads[-1].value = finals[reads[-1].key] + ["y1"]


def wrong_length(pushes, reads, finals):
    next(p for p in pushes if p.outcome == "ok").length += 1


def everything_gone(pushes, reads, finals):
    finals["a"].clear()


BREAKS = [lose_acknowledged, lose_early, double, double_unknown, swap, refused_applied, stranger, wrong_list, stale_read,
          undone_read, wrong_length, everything_gone]


@pytest.mark.parametrize("seed", range(5))
def test_good_history_passes(seed):
    assert history.appends(*good_history(seed)) == []


@pytest.mark.parametrize("broken", BREAKS, ids=lambda f: f.__name__)
def test_broken_history_is_found(broken):
    changed = copy.deepcopy(good_history())
    broken(*changed)
    assert history.appends(*changed)


def test_an_order_against_real_time_is_found():
    late_first = [Push("a", "1", 0, 1, "ok", 2), Push("a", "2", 2, 3, "ok", 1)]
    assert history.appends(late_first, [], {"a": ["2", "1"]})


def test_queue():
    pushed = {"1": "ok", "2": "ok", "3": "unknown", "4": "refused"}
    assert history.queue(pushed, ["1"], 0, ["2"]) == []
    assert history.queue(pushed, ["1"], 1, ["3"]) == []
    assert history.queue(pushed, ["1"], 0, []), "2 is gone"
    assert history.queue(pushed, ["1", "2"], 0, ["1"]), "1 twice"
    assert history.queue(pushed, ["1", "2", "4"], 0, []), "4 was refused"
    assert history.queue(pushed, ["1", "2", "9"], 0, []), "9 is a stranger"


def test_counter():
    assert history.counter([1, 2, 4], 1, 4) == []
    assert history.counter([1, 2, 2], 1, 3)
    assert history.counter([1, 2, 5], 5, 4)
    assert history.counter([1, 2, 3], 0, 4)
    assert history.counter([1, 2, 3], 0, 2)


def suffix_history():
    return [Write(f"w{n}", n - 0.5, float(n), "ok", n <= 90) for n in range(100)]


def test_suffix():
    check = lambda w, **more: history.suffix(w, 100.0, 100.1, more.pop("lag_max_s", 15), **more)  # noqa: E731
    assert check(suffix_history()) == []
    assert check(suffix_history(), samples=[LagSample(99.0, 9.5)]) == []
    hole = suffix_history()
    hole[40].survived = False
    assert check(hole), "a hole is no suffix"
    assert check(suffix_history(), lag_max_s=5), "older than the bound"
    assert check(suffix_history(), samples=[LagSample(99.0, 2.0)]), "the lag shown was a lie"
    refused = suffix_history()
    refused[3].outcome = "refused"
    assert check(refused)
    after = suffix_history() + [Write("late", 101, 102, "ok", False)]
    assert check(after)


def test_async_appends():
    pushes = [Push("a", str(n), n, n + 0.5, "ok", n + 1) for n in range(10)]
    bad, writes = history.async_appends(pushes, {"a": [str(n) for n in range(7)]})
    assert bad == [] and [w.survived for w in writes] == [True] * 7 + [False] * 3
    bad, _ = history.async_appends(pushes, {"a": ["1", "0"]})
    assert bad


# ---- registers ----

def good_registers(seed=1, clients=4, length=300):
    """What clients of a real register see: each operation takes effect at a moment inside of its time."""
    rnd = random.Random(seed)
    free, moments = [0.0] * clients, []
    for n in range(length):
        client = rnd.randrange(clients)
        invoked = free[client] + rnd.random()
        returned = invoked + rnd.random() * 2
        free[client] = returned
        moments.append((rnd.uniform(invoked, returned), n, invoked, returned))
    found, value = [], None
    for _, n, invoked, returned in sorted(moments):
        dice = rnd.random()
        if dice < 0.4:
            value = f"v{n}"
            found.append(Access("k", "write", value, invoked, returned))
        elif dice < 0.5:
            taken = rnd.random() < 0.5
            value = f"u{n}" if taken else value
            found.append(Access("k", "write", f"u{n}", invoked, INFINITE, "unknown"))
        elif dice < 0.55:
            found.append(Access("k", "write", f"r{n}", invoked, INFINITE, "refused"))
        else:
            found.append(Access("k", "read", value, invoked, returned))
    return found


def reads_of(accesses):
    return [a for a in accesses if a.kind == "read"]


def register_stale(accesses):
    written = [a for a in accesses if a.kind == "write" and a.outcome == "ok"]
    read = reads_of(accesses)[-1]
    read.value = written[3].value


def register_lost(accesses):
    """An acknowledged write that nobody ever sees: all go on reading what was before."""
    order = [a for a in accesses if a.outcome == "ok"]
    last = max(a.returned for a in order if a.returned < INFINITE)
    before = next(a.value for a in reversed(order) if a.kind == "read")
    accesses.append(Access("k", "write", "lost", last + 1, last + 2))
    accesses.append(Access("k", "read", before, last + 3, last + 4))


def register_swapped(accesses):
    end = max(a.returned for a in accesses if a.returned < INFINITE)
    accesses += [Access("k", "write", "x", end + 1, end + 2), Access("k", "write", "y", end + 3, end + 4),
                 Access("k", "read", "y", end + 5, end + 6), Access("k", "read", "x", end + 7, end + 8)]


def register_split(accesses):
    """Two nodes serve: each value is read after the other."""
    end = max(a.returned for a in accesses if a.returned < INFINITE)
    accesses += [Access("k", "write", "x", end + 1, end + 10), Access("k", "write", "y", end + 1, end + 10)]
    accesses += [Access("k", "read", value, end + 11 + n, end + 11.5 + n) for n, value in enumerate("xyx")]


def register_refused(accesses):
    reads_of(accesses)[10].value = next(a.value for a in accesses if a.outcome == "refused")


def register_never_written(accesses):
    reads_of(accesses)[10].value = "never"


def register_from_the_future(accesses):
    reads_of(accesses)[2].value = [a for a in accesses if a.kind == "write" and a.outcome == "ok"][-1].value


def register_emptied(accesses):
    reads_of(accesses)[-1].value = None


@pytest.mark.parametrize("seed", range(20))
def test_good_registers_pass(seed):
    assert history.registers(good_registers(seed)) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("broken", [register_stale, register_lost, register_swapped, register_split, register_refused, register_never_written,
                                    register_from_the_future, register_emptied], ids=lambda f: f.__name__)
def test_broken_registers_are_found(broken, seed):
    accesses = good_registers(seed)
    broken(accesses)
    assert history.registers(accesses)


def linearizable(accesses):
    """By trying every order."""
    must = [a for a in accesses if a.outcome == "ok"]
    may = [a for a in accesses if a.outcome == "unknown"]
    for r in range(len(may) + 1):
        for chosen in itertools.combinations(may, r):
            for order in itertools.permutations(must + list(chosen)):
                value, fits = None, True
                for n, a in enumerate(order):
                    if a.kind == "read" and a.value != value or any(b.returned < a.invoked for b in order[n + 1:]):
                        fits = False
                        break
                    value = a.value
                if fits:
                    return True
    return False


def test_registers_against_every_order():
    """Small random histories, good and bad ones: the zones say what trying out all orders says."""
    rnd, verdicts = random.Random(7), {True: 0, False: 0}
    for _ in range(1200):
        written, accesses = [], []
        for n in range(rnd.randint(1, 5)):
            invoked = rnd.randint(0, 12) + rnd.random()
            returned = invoked + rnd.random() * 6
            if rnd.random() < 0.5:
                outcome = rnd.choice(["ok", "ok", "unknown"])
                written.append(f"v{n}")
                accesses.append(Access("k", "write", f"v{n}", invoked, returned if outcome == "ok" else INFINITE, outcome))
            else:
                accesses.append(Access("k", "read", n, invoked, returned))
        for a in reads_of(accesses):
            a.value = rnd.choice([None, *written])
        verdict = linearizable(accesses)
        verdicts[verdict] += 1
        assert (history.registers(accesses) == []) == verdict, accesses
    assert min(verdicts.values()) > 200, verdicts


def test_final_values_count_as_reads():
    accesses = [Access("k", "write", "a", 0, 1), Access("k", "write", "b", 2, 3)]
    assert history.lost_registers(accesses, {"k": ("b", 10, 11)}) == []
    assert history.lost_registers(accesses, {"k": ("a", 10, 11)})
    assert history.lost_registers(accesses, {"k": (None, 10, 11)})


# ---- counters in real time, growing sets, terms ----

def good_counts():
    return [Count("incr", n, n, n + 1.5) for n in range(1, 30)] + [Count("get", n, n + 1.1, n + 1.4) for n in range(1, 29)]


def test_counts():
    assert history.counts(good_counts(), 0, 29) == []
    assert history.counts([c for c in good_counts() if c.value != 7], 1, 29) == []
    stale = good_counts() + [Count("get", 3, 20, 21)]
    assert history.counts(stale, 0, 29), "a stale read"
    swapped = good_counts()
    swapped[5].value, swapped[9].value = swapped[9].value, swapped[5].value
    assert history.counts(swapped, 0, 29), "against real time"
    assert history.counts(good_counts(), 0, 28), "one is gone"
    assert history.counts(good_counts() + [Count("incr", 4, 4, 5)], 1, 30), "one value twice"
    assert history.counts([c for c in good_counts() if c.value != 7], 0, 29), "one that nobody asked for"


def good_sets():
    adds = [Add("s", str(n), n, n + 0.5, "ok") for n in range(20)] + [Add("s", "u", 3, INFINITE, "unknown"), Add("s", "r", 4, INFINITE, "refused")]
    reads = [Read("s", n + 0.6, n + 0.8, [str(i) for i in range(n + 1)] + (["u"] if n > 10 else [])) for n in range(20)]
    return adds, reads, {"s": {str(n) for n in range(20)} | {"u"}}


def test_growing_sets():
    assert history.growing_sets(*good_sets()) == []
    for change in ("lost", "refused", "stranger", "stale", "undone", "future", "read unknown and gone"):
        adds, reads, finals = good_sets()
        if change == "lost":
            finals["s"].discard("7")
            reads = []
        elif change == "refused":
            finals["s"].add("r")
        elif change == "stranger":
            finals["s"].add("x")
        elif change == "stale":
            reads[10].value.remove("2")
        elif change == "undone":
            reads[15].value.remove("u")
        elif change == "future":
            reads[2].value.append("12")
        else:
            finals["s"].discard("u")
        assert history.growing_sets(adds, reads, finals), change


def test_one_leader_per_term():
    assert history.one_leader_per_term([(1, "a"), (2, "b"), (2, "b"), (5, "a")]) == []
    assert history.one_leader_per_term([(1, "a"), (2, "b"), (2, "c")])
