"""The checkers themselves: a good history passes, and each way of breaking it is found."""
import copy
import random

import pytest

import history
from history import LagSample, Push, Read, Write


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
