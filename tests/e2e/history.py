"""Checkers: what a history of invocations and replies allows, given what is there at the end. Pure; tested by test_history.py.

An operation's outcome is one of
    "ok"       answered: it took effect exactly once, at the place its reply says
    "unknown"  -UNCERTAIN, or the connection broke: it took effect once or not at all
    "refused"  -CLUSTERDOWN, -LOADING and the like: it never takes effect
Times are one process's monotonic clock, invoke before sending, returned after the reply was read.

    client 1   |--RPUSH l 1 = 1--|            |--LRANGE = [1, 2]--|
    client 2         |---------RPUSH l 2 = unknown ...
    final            l = [1, 2]                                            fine
                     l = [1]                                               a read was undone
                     l = [2, 1]                                            an acknowledged write moved
"""
import bisect
from dataclasses import dataclass

INFINITE = float("inf")


@dataclass
class Push:
    key: str
    id: str
    invoked: float
    returned: float
    outcome: str
    length: int = 0  # the reply


@dataclass
class Read:
    key: str
    invoked: float
    returned: float
    value: list


class Report(list):
    """Violations, as text."""

    def add(self, text, limit=12):
        if len(self) < limit:
            self.append(text)


def appends(pushes, reads, finals):
    """Sync: lists grown by RPUSH of unique ids. pushes and reads over all keys; finals: key -> list."""
    bad = Report()
    known = {p.id: p for p in pushes}
    for key, final in finals.items():
        _final_is_made_of_pushes(bad, key, final, known)
    for p in pushes:
        final = finals.get(p.key, [])
        if p.outcome == "ok" and not (0 < p.length <= len(final) and final[p.length - 1] == p.id):
            there = final.index(p.id) + 1 if p.id in final else "nowhere"
            bad.add(f"acknowledged {p.key} {p.id} at {p.length}: is {there} of {len(final)}")
    for key, final in finals.items():
        _real_time(bad, key, [p for p in pushes if p.key == key], [r for r in reads if r.key == key], final)
    return bad


def _final_is_made_of_pushes(bad, key, final, known):
    if len(set(final)) != len(final):
        bad.add(f"{key}: twice there: {sorted({e for e in final if final.count(e) > 1})[:5]}")
    for element in final:
        p = known.get(element)
        if p is None or p.key != key:
            bad.add(f"{key}: {element} was never pushed there")
        elif p.outcome == "refused":
            bad.add(f"{key}: {element} was refused and is there")


def _real_time(bad, key, pushes, reads, final):
    """Reads are prefixes of the final list, and nobody sees less than was complete before he asked."""
    for r in reads:
        if final[:len(r.value)] != r.value:
            bad.add(f"{key}: a read of {len(r.value)} elements is no prefix of the final {len(final)}: "
                    f"first difference at {_first_difference(r.value, final)}")
    done = sorted([(p.returned, p.length) for p in pushes if p.outcome == "ok"] + [(r.returned, len(r.value)) for r in reads])
    times, longest, most = [], [], 0
    for returned, length in done:
        most = max(most, length)
        times.append(returned)
        longest.append(most)

    def before(t):
        at = bisect.bisect_left(times, t)
        return longest[at - 1] if at else 0
    for r in reads:
        if len(r.value) < before(r.invoked):
            bad.add(f"{key}: a stale read: {len(r.value)} elements, {before(r.invoked)} were complete before")
    for p in pushes:
        if p.outcome == "ok" and p.length <= before(p.invoked):
            bad.add(f"{key}: {p.id} at {p.length} went before what was complete ({before(p.invoked)})")


def _first_difference(a, b):
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))


def queue(pushed, popped, unknown_pops, remaining):
    """Ids put into queues and taken out. pushed: id -> outcome; popped: ids answered; remaining: what is left at the end."""
    bad = Report()
    out = list(popped) + list(remaining)
    seen = set()
    for i in out:
        if i in seen:
            bad.add(f"queue: {i} came out twice")
        seen.add(i)
        if pushed.get(i) is None:
            bad.add(f"queue: {i} was never put in")
        elif pushed[i] == "refused":
            bad.add(f"queue: {i} was refused and came out")
    missing = [i for i, outcome in pushed.items() if outcome == "ok" and i not in seen]
    if len(missing) > unknown_pops:
        bad.add(f"queue: {len(missing)} acknowledged are gone, {unknown_pops} pops are unknown: {missing[:5]}")
    return bad


def counter(oks, unknown, final):
    """INCRs of one counter: each answer unique, none above the final value, the final one within reason."""
    bad = Report()
    if len(set(oks)) != len(oks):
        bad.add("counter: one value answered twice")
    if oks and max(oks) > final:
        bad.add(f"counter: {max(oks)} was answered, {final} is there")
    if not len(oks) <= final <= len(oks) + unknown:
        bad.add(f"counter: {final} after {len(oks)} acknowledged and {unknown} unknown")
    return bad


@dataclass
class Write:
    """Async: one write, and whether it survived the crash (None: cannot be told)."""
    what: str
    invoked: float
    returned: float
    outcome: str
    survived: bool


@dataclass
class LagSample:
    """What the node said of its lag; `asked` before the question was sent."""
    asked: float
    lag_s: float


def suffix(writes, killed, dead, lag_max_s, samples=(), slack_s=0.05):
    """Async: what a crash took is the newest, younger than the bound, and younger than the lag that was shown.
    killed: before the kill; dead: after it."""
    bad = Report()
    survivors = [w for w in writes if w.survived]
    newest = max((w.invoked for w in survivors if w.invoked < dead), default=-INFINITE)
    shown = max((s.asked - s.lag_s for s in samples if s.asked < killed), default=-INFINITE)
    for w in writes:
        if w.survived is None:
            continue
        if w.survived:
            if w.outcome == "refused":
                bad.add(f"{w.what} was refused and is there")
            continue
        if w.outcome != "ok":
            continue
        if w.invoked > dead:
            bad.add(f"{w.what}: acknowledged after the crash and lost")
        if w.returned < newest:
            bad.add(f"{w.what}: lost, though a write invoked {newest - w.returned:.3f} s after its reply survived")
        if w.returned < killed - lag_max_s:
            bad.add(f"{w.what}: lost at the age of {killed - w.returned:.3f} s")
        if w.returned < shown - slack_s:
            bad.add(f"{w.what}: lost, though the lag shown said that it was durable ({shown - w.returned:.3f} s before)")
    return bad


def async_appends(pushes, finals):
    """The lists after an async crash, as Writes for suffix(); survivors must stand where they were answered."""
    bad, writes = Report(), []
    known = {p.id: p for p in pushes}
    for key, final in finals.items():
        _final_is_made_of_pushes(bad, key, final, known)
    for p in pushes:
        final = finals.get(p.key, [])
        there = p.id in final
        if there and p.outcome == "ok" and final.index(p.id) + 1 != p.length:
            bad.add(f"{p.key}: {p.id} was answered {p.length} and stands at {final.index(p.id) + 1}")
        writes.append(Write(f"RPUSH {p.key} {p.id}", p.invoked, p.returned, p.outcome, there))
    return bad, writes


# ---- for groups: what several nodes answered must look like one ----

@dataclass
class Access:
    """Of a register: a write of a value that nobody else writes, or a read (None: nothing there)."""
    key: str
    kind: str  # "write" or "read"
    value: object
    invoked: float
    returned: float
    outcome: str = "ok"


def registers(accesses):
    """Exactly: is each key's history linearizable? By zones (Gibbons and Korach 1997), in n log n.

    All accesses of one value are its cluster: the write and the reads that saw it. Its zone lies between the first return and the last
    invocation in it. If the first return comes first, the register holds the value all that time ("forward"), and nothing else fits into
    it; otherwise there is one moment at which all of the cluster can be done, anywhere in the zone ("backward").

        w(1) |--|      r=1 |--|        forward: from the end of w(1) to the begin of r=1 it is 1
                 w(2) |-|              backward, and inside of the other: 2 has no place
    """
    bad = Report()
    by_key = {}
    for a in accesses:
        by_key.setdefault(a.key, []).append(a)
    for key, those in by_key.items():
        _register(bad, key, those)
    return bad


def _register(bad, key, accesses):
    reads = [a for a in accesses if a.kind == "read" and a.outcome == "ok"]
    seen = {a.value for a in reads}
    clusters = {None: [Access(key, "write", None, -INFINITE, -INFINITE)]}
    for a in accesses:
        if a.kind != "write":
            continue
        if a.outcome == "refused" and a.value in seen:
            bad.add(f"{key}: {a.value} was refused and read")
        elif a.outcome == "ok":
            clusters[a.value] = [a]
        elif a.outcome == "unknown" and a.value in seen:
            clusters[a.value] = [Access(key, "write", a.value, a.invoked, INFINITE)]
    for a in reads:
        if a.value not in clusters:
            bad.add(f"{key}: {a.value} was read and never written")
            continue
        if a.returned < clusters[a.value][0].invoked:
            bad.add(f"{key}: {a.value} was read {clusters[a.value][0].invoked - a.returned:.3f} s before it was written")
        clusters[a.value].append(a)
    forward, backward = [], []
    for value, cluster in clusters.items():
        first, last = min(a.returned for a in cluster), max(a.invoked for a in cluster)
        (forward if first < last else backward).append((min(first, last), max(first, last), value))
    _zones(bad, key, sorted(forward, key=lambda z: z[:2]), backward)


def _zones(bad, key, forward, backward):
    for (begin, end, value), (begin2, end2, value2) in zip(forward, forward[1:]):
        if begin2 < end:
            bad.add(f"{key}: {value} and {value2} were both there: {value} until {end:.3f}, {value2} from {begin2:.3f} on")
    begins = [z[0] for z in forward]
    for begin, end, value in backward:
        at = bisect.bisect_left(begins, begin) - 1
        if at >= 0 and forward[at][0] < begin and end < forward[at][1]:
            bad.add(f"{key}: {value} ({begin:.3f} to {end:.3f}) has no place: it was {forward[at][2]} from {forward[at][0]:.3f} "
                    f"to {forward[at][1]:.3f}")


def lost_registers(accesses, finals):
    """What the registers hold at the end, as reads after everything: finals is {key: (value, invoked, returned)}."""
    return registers(list(accesses) + [Access(k, "read", *v) for k, v in finals.items()])


@dataclass
class Count:
    """INCR answered by `value` ("incr"), or GET of the counter ("get")."""
    kind: str
    value: int
    invoked: float
    returned: float


def counts(answered, unknown, final):
    """A counter in real time: its values are an order, and nobody may be answered against it."""
    bad = counter([c.value for c in answered if c.kind == "incr"], unknown, final)
    latest, whose = -INFINITE, None
    for c in sorted(answered, key=lambda c: (c.value, c.kind == "get")):
        if c.returned < latest:
            bad.add(f"counter: {c.kind} = {c.value} was answered {latest - c.returned:.3f} s before {whose.kind} = {whose.value} was asked for")
        if c.invoked > latest:
            latest, whose = c.invoked, c
    if any(c.value > final for c in answered):
        bad.add(f"counter: {max(c.value for c in answered)} was seen, {final} is there")
    return bad


@dataclass
class Add:
    """SADD of a member that nobody else adds, and that nobody removes."""
    key: str
    member: str
    invoked: float
    returned: float
    outcome: str


def growing_sets(adds, reads, finals):
    """Sets that only grow. reads: Read with the members; finals: key -> members."""
    bad = Report()
    known = {(a.key, a.member): a for a in adds}
    for key, final in finals.items():
        for member in final:
            a = known.get((key, member))
            if a is None:
                bad.add(f"{key}: {member} was never added")
            elif a.outcome == "refused":
                bad.add(f"{key}: {member} was refused and is there")
    there_since = {}  # when it is certain that a member is there
    for a in adds:
        if a.outcome == "ok":
            there_since[a.key, a.member] = a.returned
            if a.member not in finals.get(a.key, ()):
                bad.add(f"{a.key}: {a.member} was acknowledged and is gone")
    for r in sorted(reads, key=lambda r: r.returned):
        have = set(r.value)
        if not have <= set(finals.get(r.key, ())):
            bad.add(f"{r.key}: read and gone: {sorted(have - set(finals.get(r.key, ())))[:5]}")
        for member in have:
            at = there_since.get((r.key, member), INFINITE)
            there_since[r.key, member] = min(at, r.returned)
            a = known.get((r.key, member))
            if a is not None and r.returned < a.invoked:
                bad.add(f"{r.key}: {member} was read before it was added")
    for r in reads:
        missing = [m for (key, m), since in there_since.items() if key == r.key and since < r.invoked and m not in set(r.value)]
        if missing:
            bad.add(f"{r.key}: a stale read at {r.invoked:.3f}: {len(missing)} are missing: {missing[:3]}")
    return bad


def one_leader_per_term(seen):
    """seen: (term, node) pairs, of nodes that acknowledged writes as the leader in that term."""
    bad, of_term = Report(), {}
    for term, node in seen:
        of_term.setdefault(term, set()).add(node)
    for term, nodes in sorted(of_term.items()):
        if len(nodes) > 1:
            bad.add(f"term {term}: led by {sorted(nodes)}")
    return bad
