"""Work that several clients share and that can be judged to the last element, also where outcomes are unknown: every operation leaves a
trace that is as atomic as the operation itself. Used by load.py; each class has a step for a client, and a judgement, which is pure.

    Ledger    transfers between accounts, each in one unit with an entry in a list: as MULTI ... EXEC, under WATCH, as a script, with
              undeclared keys, as a script in MULTI, as a function, with SPOP in MULTI. What the accounts hold is the sum of the list, always.
    Jobs      put into a queue, taken by BLMOVE and its kin into the taker's own list, finished in one transaction. Each job is in one place.
    Consumers a stream with a consumer group: XADD *, XREADGROUP with and without BLOCK, XACK. Each entry goes to one consumer, and is
              pending there until it is acknowledged.
"""
from dataclasses import dataclass

import history
from resp import RespError

TRANSFER = """
local function number(key) return tonumber(redis.call('GET', key) or '0') end
local from, to, list, amount = KEYS[1] or ARGV[3], KEYS[2] or ARGV[4], KEYS[3] or ARGV[5], tonumber(ARGV[1])
redis.call('SET', from, number(from) - amount)
local there = redis.call('INCRBY', to, amount)
return {number(from), there, redis.call('RPUSH', list, ARGV[2])}
"""
LIBRARY = f"#!lua name=ledger\nredis.register_function('transfer', function(KEYS, ARGV) {TRANSFER} end)"
BALANCE = "return {redis.call('LLEN', KEYS[1]), redis.call('MGET', unpack(KEYS, 2))}"


def numbers(values):
    return [int(v or 0) for v in values]


# ---- ledger ----

@dataclass
class Transfer:
    entry: str  # "id/from/to/amount"
    invoked: float
    returned: float
    outcome: str
    position: int = 0  # of the entry, as answered
    left: tuple = ()   # what the two accounts held then


@dataclass
class Balance:
    invoked: float
    returned: float
    length: int  # of the ledger at that moment; -1: not asked
    held: list


class Ledger:
    WAYS = ("plain", "plain", "watched", "script", "undeclared", "script in a unit", "draw in a unit", "function")

    def __init__(self, tag, accounts=4):
        self.key, self.scratch = f"{tag}:ledger", f"{tag}:ledger:scratch"
        self.accounts = [f"{tag}:account{n}" for n in range(accounts)]
        self.transfers, self.balances = [], []
        self.loaded = set()  # clients that know the function to be there
        self.called = 0

    def step(self, c):
        if c.r.random() < 0.3:
            self._look(c)
            return
        a, b = c.r.sample(range(len(self.accounts)), 2)
        amount = c.r.randint(1, 9)
        entry = f"{c.fresh_id()}/{a}/{b}/{amount}"
        way = c.r.choice(self.WAYS)
        one, two = self.accounts[a], self.accounts[b]
        plain = [("DECRBY", one, amount), ("INCRBY", two, amount), ("RPUSH", self.key, entry)]
        script = {"script": ("EVAL", TRANSFER, 3, one, two, self.key, amount, entry),
                  "undeclared": ("EVAL", TRANSFER, 0, amount, entry, one, two, self.key)}
        if way == "function":
            self._function(c, entry, (one, two, self.key, amount, entry))
        elif way == "watched":
            self._watched(c, entry, (one, two), amount)
        elif way == "plain":
            self._unit(c, entry, plain, lambda r: r)
        elif way == "script in a unit":
            self._unit(c, entry, [script["script"]], lambda r: r[0])
        elif way == "draw in a unit":
            self._unit(c, entry, [("SADD", self.scratch, entry), ("SPOP", self.scratch), *plain],
                       lambda r: r[2:] if r[:2] == [1, entry.encode()] else None)
        else:
            invoked, returned, what, reply = c.ask(*script[way])
            self._note(c, entry, invoked, returned, what, reply)

    def _unit(self, c, entry, commands, taken, before=()):
        commands = [*before, ("MULTI",), *commands, ("EXEC",)]
        invoked, returned, replies, came = c.exchange(commands)
        what = c.unit_outcome(commands, replies, came)
        c.count(what)
        if what == "ok" and replies[-1] is None:
            what = "refused"  # WATCH: nothing was done
        self._note(c, entry, invoked, returned, what, taken(replies[-1]) if what == "ok" and isinstance(replies[-1], list) else None)

    def _function(self, c, entry, words):
        """A library is as durable as a key: once acknowledged, it is there on whoever serves."""
        if c.number not in self.loaded:
            _, _, what, reply = c.ask("FUNCTION", "LOAD", "REPLACE", LIBRARY)
            if what == "ok" and reply == b"ledger":
                self.loaded.add(c.number)
            elif what == "ok":
                c.violation(f"FUNCTION LOAD: {reply!r}")
            return
        invoked, returned, what, reply = c.ask("FCALL", "transfer", 3, *words)
        if c.is_async and isinstance(reply, RespError) and "Function not found" in str(reply):
            self.loaded.discard(c.number)  # lost within the bound
            what = "refused"
        self.called += what == "ok"
        self._note(c, entry, invoked, returned, what, reply)

    def _watched(self, c, entry, pair, amount):
        commands = [("WATCH", *pair), ("MGET", *pair)]
        _, _, replies, came = c.exchange(commands)
        if came < 2 or any(isinstance(r, RespError) for r in replies):
            c.count("refused" if came == 2 else "unknown")
            return
        one, two = numbers(replies[1])
        self._unit(c, entry, [("SET", pair[0], one - amount), ("SET", pair[1], two + amount), ("RPUSH", self.key, entry)],
                   lambda r: [one - amount, two + amount, r[2]])

    def _note(self, c, entry, invoked, returned, what, answer):
        if what == "ok" and (not isinstance(answer, list) or len(answer) != 3 or any(isinstance(a, RespError) for a in answer)):
            c.violation(f"transfer {entry}: {answer!r}")
            what = "unknown"
        if what == "ok":
            self.transfers.append(Transfer(entry, invoked, returned, what, answer[2], tuple(answer[:2])))
        else:
            self.transfers.append(Transfer(entry, invoked, history.INFINITE, what))

    def _look(self, c):
        way = c.r.choice(["MGET", "MGET", "unit", "script"])
        if way == "unit":
            commands = [("MULTI",), ("LLEN", self.key), ("MGET", *self.accounts), ("EXEC",)]
            invoked, returned, replies, came = c.exchange(commands)
            what, reply = c.unit_outcome(commands, replies, came), replies[-1]
            c.count(what)
        elif way == "script":
            invoked, returned, what, reply = c.ask("EVAL_RO", BALANCE, 1 + len(self.accounts), self.key, *self.accounts)
        else:
            invoked, returned, what, reply = c.ask("MGET", *self.accounts)
            reply = [-1, reply]
        if what != "ok":
            return
        if isinstance(reply, list) and isinstance(reply[1], list):
            self.balances.append(Balance(invoked, returned, reply[0], numbers(reply[1])))
        else:
            c.violation(f"balance by {way}: {reply!r}")

    def judge(self, client):
        """`client` asks the server that everybody used; nothing else runs."""
        entries = [e.decode() for e in client("LRANGE", self.key, 0, -1)]
        bad = judge_ledger(self, entries, numbers(client("MGET", *self.accounts)))
        if client("EXISTS", self.scratch):
            bad.append(f"{self.scratch}: half of a transaction is there")
        return bad

    def judge_cut(self, client):
        """After a crash in async mode: whatever is left, a transfer is there with both its sides, or not at all."""
        entries = [e.decode() for e in client("LRANGE", self.key, 0, -1)]
        return history.Report(_sums(self, entries, numbers(client("MGET", *self.accounts)))[1])


def _sums(ledger, entries, held):
    """(what the accounts held after 0, 1, 2 ... entries, violations at the end)"""
    sums = [[0] * len(ledger.accounts)]
    for entry in entries:
        _, a, b, amount = entry.split("/")
        now = list(sums[-1])
        now[int(a)] -= int(amount)
        now[int(b)] += int(amount)
        sums.append(now)
    return sums, [] if held == sums[-1] else [f"{ledger.key}: the accounts hold {held}, their {len(entries)} transfers sum up to {sums[-1]}"]


def judge_ledger(ledger, entries, held):
    bad = history.Report()
    sums, end = _sums(ledger, entries, held)
    bad += end
    pushes = [history.Push(ledger.key, t.entry, t.invoked, t.returned, t.outcome, t.position) for t in ledger.transfers]
    looks = [b for b in ledger.balances if b.length >= 0]
    reads = [history.Read(ledger.key, b.invoked, b.returned, entries[:b.length]) for b in looks]
    bad += history.appends(pushes, reads, {ledger.key: entries})
    for t in ledger.transfers:
        if t.outcome == "ok" and t.position < len(sums):
            _, a, b, _ = t.entry.split("/")
            then = (sums[t.position][int(a)], sums[t.position][int(b)])
            if then != tuple(t.left):
                bad.add(f"{ledger.key}: {t.entry} at {t.position} was answered {t.left}, it was {then}")
    ever = {tuple(s) for s in sums}
    for b in ledger.balances:
        if b.length >= len(sums):
            bad.add(f"{ledger.key}: {b.length} entries were read, {len(entries)} are there")
        elif b.length >= 0 and b.held != sums[b.length]:
            bad.add(f"{ledger.key}: read {b.held} after {b.length} transfers, which were {sums[b.length]}")
        elif tuple(b.held) not in ever:
            bad.add(f"{ledger.key}: read {b.held}, which it never was")
    return bad


# ---- jobs ----

class Jobs:
    def __init__(self, tag):
        self.queue, self.done = f"{tag}:jobs", f"{tag}:jobs:done"
        self.put, self.finished, self.works = {}, [], set()
        self.in_hand = {}  # list of a taker -> jobs that it knows to have

    def step(self, c):
        dice = c.r.random()
        if dice < 0.45:
            self.give(c)
        elif dice < 0.8:
            self.take(c, c.r.choice([0.01, 0.05, 0.2]))
        else:
            self.finish(c)

    def give(self, c):
        job = c.fresh_id()
        _, _, self.put[job], _ = c.ask(c.r.choice(["LPUSH", "RPUSH"]), self.queue, job)

    def _work(self, c):
        work = f"{self.queue}:{c.number}"
        self.works.add(work)
        return work, self.in_hand.setdefault(work, [])

    def take(self, c, wait):
        work, mine = self._work(c)
        ways = [("BLMOVE", self.queue, work, "LEFT", "RIGHT", wait), ("BRPOPLPUSH", self.queue, work, wait)]
        if wait < 0.5:
            ways.append(("LMOVE", self.queue, work, "RIGHT", "LEFT"))
        _, _, what, reply = c.ask(*c.r.choice(ways))
        if what == "ok" and isinstance(reply, bytes):
            mine.append(reply.decode())
        elif what == "ok" and reply is not None:
            c.violation(f"taking a job: {reply!r}")

    def finish(self, c):
        work, mine = self._work(c)
        if not mine:
            return
        job = mine.pop(c.r.randrange(len(mine)))
        commands = [("MULTI",), ("LREM", work, 1, job), ("SADD", self.done, job), ("EXEC",)]
        _, _, replies, came = c.exchange(commands)
        what = c.unit_outcome(commands, replies, came)
        c.count(what)
        if what == "ok" and replies[-1] != [1, 1]:
            c.violation(f"job {job} in {work} could not be finished: {replies[-1]!r}")
        elif what == "ok":
            self.finished.append(job)
        elif what == "refused":
            mine.append(job)

    def judge(self, client):
        def words(reply):
            return [e.decode() for e in reply]
        return judge_jobs(self, words(client("LRANGE", self.queue, 0, -1)), {w: words(client("LRANGE", w, 0, -1)) for w in self.works},
                          words(client("SMEMBERS", self.done)))


def judge_jobs(jobs, queue, works, done):
    bad = history.Report()
    places = {}
    for name, there in [("queue", queue), *works.items(), ("done", done)]:
        for job in there:
            places.setdefault(job, []).append(name)
    for job, at in places.items():
        if len(at) > 1:
            bad.add(f"job {job} is in {at}")
        if jobs.put.get(job) in (None, "refused"):
            bad.add(f"job {job} is in {at}, and was {jobs.put.get(job, 'never put there')}")
    for job, outcome in jobs.put.items():
        if outcome == "ok" and job not in places:
            bad.add(f"job {job} is lost")
    for work, those in jobs.in_hand.items():
        for job in those:
            if places.get(job) != [work]:
                bad.add(f"job {job} was taken to {work}, and is in {places.get(job)}")
    for job in jobs.finished:
        if places.get(job) != ["done"]:
            bad.add(f"job {job} was finished, and is in {places.get(job)}")
    return bad


# ---- a stream with a consumer group ----

@dataclass
class Added:
    word: str
    invoked: float
    returned: float
    outcome: str
    id: str = ""


def order(ident):
    ms, _, n = ident.partition("-")
    return int(ms), int(n)


class Consumers:
    def __init__(self, tag):
        self.key = f"{tag}:stream"
        self.added, self.delivered, self.acknowledged, self.perhaps = [], [], [], set()
        self.in_doubt = set()  # consumers with a read of unknown outcome
        self.in_hand = {}
        self.made = set()      # clients that know the group to be there

    def step(self, c):
        dice = c.r.random()
        if dice < 0.45:
            self.add(c)
        elif dice < 0.8:
            self.take(c, c.r.choice([0, 10, 100]))
        else:
            self.acknowledge(c)

    def _ready(self, c):
        me = f"c{c.number}"
        if me not in self.made:
            _, _, what, reply = c.ask("XGROUP", "CREATE", self.key, "g", "0", "MKSTREAM")
            if what == "ok" and (reply == b"OK" or (isinstance(reply, RespError) and reply.code == "BUSYGROUP")):
                self.made.add(me)
            elif what == "ok":
                c.violation(f"XGROUP CREATE: {reply!r}")
        return me in self.made

    def add(self, c):
        word = c.fresh_id()
        dice = c.r.random()
        if dice < 0.25:
            commands = [("MULTI",), ("XADD", self.key, "*", "w", word), ("EXEC",)]
            invoked, returned, replies, came = c.exchange(commands)
            what = c.unit_outcome(commands, replies, came)
            c.count(what)
            reply = replies[-1][0] if what == "ok" and isinstance(replies[-1], list) else replies[-1]
        elif dice < 0.5:
            invoked, returned, what, reply = c.ask("EVAL", "return redis.call('XADD', KEYS[1], '*', 'w', ARGV[1])", 1, self.key, word)
        else:
            invoked, returned, what, reply = c.ask("XADD", self.key, "*", "w", word)
        if what == "ok" and not isinstance(reply, bytes):
            c.violation(f"XADD: {reply!r}")
            what = "unknown"
        self.added.append(Added(word, invoked, returned if what == "ok" else history.INFINITE, what, reply.decode() if what == "ok" else ""))

    def take(self, c, block_ms):
        if not self._ready(c):
            return
        me = f"c{c.number}"
        mine = self.in_hand.setdefault(me, [])
        block = ("BLOCK", block_ms) if block_ms else ()
        _, _, what, reply = c.ask("XREADGROUP", "GROUP", "g", me, "COUNT", c.r.randint(1, 3), *block, "STREAMS", self.key, ">")
        if what == "unknown":
            self.in_doubt.add(me)
        elif what == "ok" and isinstance(reply, list):
            for ident, fields in reply[0][1]:
                self.delivered.append((ident.decode(), me, fields[1].decode()))
                mine.append(ident.decode())
        elif what == "ok" and reply is not None:
            c.violation(f"XREADGROUP: {reply!r}")

    def acknowledge(self, c):
        me = f"c{c.number}"
        mine = self.in_hand.get(me)
        if not mine or c.client is None:  # take() may have lost the connection
            return
        some = [mine.pop() for _ in range(min(len(mine), c.r.randint(1, 3)))]
        _, _, what, reply = c.ask("XACK", self.key, "g", *some)
        if what == "ok":
            if reply != len(some):
                c.violation(f"XACK of {some} by {me}: {reply!r}")
            self.acknowledged += some
        elif what == "unknown":
            self.perhaps.update(some)
        else:
            mine += some

    def state(self, client):
        """(entries, the last one delivered, who has what pending)"""
        if not client("EXISTS", self.key):
            return [], "0-0", {}
        entries = [(i.decode(), f[1].decode()) for i, f in client("XRANGE", self.key, "-", "+")]
        groups = client("XINFO", "GROUPS", self.key)
        if not groups:
            return entries, "0-0", {}
        last = dict(zip(groups[0][::2], groups[0][1::2]))[b"last-delivered-id"].decode()
        pending = {p[0].decode(): p[1].decode() for p in client("XPENDING", self.key, "g", "-", "+", 1000000)}
        return entries, last, pending

    def judge(self, client):
        return judge_consumers(self, *self.state(client))


def judge_consumers(group, entries, last, pending):
    bad = history.Report()
    words = {w: i for i, w in entries}
    outcomes = {a.word: a.outcome for a in group.added}
    if len(words) != len(entries):
        bad.add(f"{group.key}: something was added twice")
    for word, ident in words.items():
        if outcomes.get(word) in (None, "refused"):
            bad.add(f"{group.key}: {ident} {word} is there, and was {outcomes.get(word, 'never added')}")
    latest = (0, 0)
    done = [a for a in group.added if a.outcome == "ok"]
    ends = sorted(done, key=lambda a: a.returned)
    at = 0
    for a in sorted(done, key=lambda a: a.invoked):
        if words.get(a.word) != a.id:
            bad.add(f"{group.key}: {a.word} was added as {a.id}, and is {words.get(a.word)}")
        while at < len(ends) and ends[at].returned < a.invoked:
            latest, at = max(latest, order(ends[at].id)), at + 1
        if order(a.id) <= latest:
            bad.add(f"{group.key}: {a.word} got {a.id} when {latest} was there")
    _deliveries(bad, group, entries, last, pending)
    return bad


def _deliveries(bad, group, entries, last, pending):
    whose, by_id = {}, dict(entries)
    for ident, consumer, word in group.delivered:
        if ident in whose:
            bad.add(f"{group.key}: {ident} went to {whose[ident]} and to {consumer}")
        if by_id.get(ident) != word:
            bad.add(f"{group.key}: {ident} {word} was delivered, and is {by_id.get(ident)}")
        if order(ident) > order(last):
            bad.add(f"{group.key}: {ident} was delivered, the group is at {last} only")
        whose[ident] = consumer
    acknowledged = set(group.acknowledged)
    for ident in by_id:
        holder, consumer = pending.get(ident), whose.get(ident)
        if ident in acknowledged:
            fine = holder is None
        elif consumer is not None:
            fine = holder == consumer or (holder is None and ident in group.perhaps)
        elif order(ident) > order(last):
            fine = holder is None
        else:  # delivered by a read whose answer nobody got
            fine = holder in group.in_doubt
        if not fine:
            bad.add(f"{group.key}: {ident} was delivered to {consumer}, acknowledged: {ident in acknowledged}; it is pending with {holder}")
    for ident in pending:
        if ident not in by_id:
            bad.add(f"{group.key}: {ident} is pending and not there")
