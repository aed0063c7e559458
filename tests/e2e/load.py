"""The load of the kill tests: clients that write and read everything Valkey has, and know what must be there afterwards.

Each client has bundles: three private keys of one type, worked on by random commands one at a time. Each answered command is then run
on a reference Valkey that nobody kills, and the two answers must be equal; at the end so must the keys. A command with an
unknown outcome retires its bundle: at the end it holds what the reference held before, or after. A refused one is not run on the
reference. What is random (SPOP, XADD *) is run there as what the answer says that it did.

Beside that all clients share lists (RPUSH of unique ids in several ways, reads, COPY), queues (blocking pops, also by clients that
vanish while they are blocked), counters, a set that is drawn from (SPOP), and use keys with times to live of milliseconds. history.py judges
those. And they share what workloads.py has: transfers in transactions, jobs, a stream with a consumer group.

For a group, clients are given the addresses of all nodes: each begins at another one and goes on to the next when it is cut off or
refused for long. They also share registers, sets that only grow and a set that is drawn from (Shared(..., group=True)), whose answers
must look like one server's, whichever node gave them.
"""
import random
import threading
import time

import history
import workloads
from resp import Client, Closed, RespError, encode

UNKNOWN, REFUSED, OK = "unknown", "refused", "ok"
REFUSALS = ("CLUSTERDOWN", "LOADING", "EXECABORT", "READONLY", "TRYAGAIN", "UNBLOCKED")
RETRY_S = 0.01
REFUSALS_UNTIL_ELSEWHERE = 50
TTL_SLACK_MS = 30  # Valkey's clock is read once per turn of its loop


def outcome(reply):
    if isinstance(reply, RespError):
        if reply.code == "UNCERTAIN":
            return UNKNOWN
        if reply.code in REFUSALS:
            return REFUSED
    return OK


# ---- random commands, by type ----

def _word(r):
    return r.choice(["", "v", "value", "x" * r.randint(1, 60), str(r.randint(-99, 99))])


def string_command(r, a, b, c):
    return r.choice([
        ("SET", a, _word(r)), ("SET", a, r.randint(0, 999)), ("SET", a, _word(r), "NX"), ("SET", a, _word(r), "XX", "GET"),
        ("SET", a, _word(r), "EX", 1000), ("SET", a, _word(r), "KEEPTTL"), ("SETEX", a, 2000, _word(r)),
        ("PSETEX", a, 900000, _word(r)), ("SETNX", a, "n"), ("GETSET", a, _word(r)), ("GETDEL", a), ("GETEX", a, "EX", 500),
        ("GETEX", a, "PERSIST"), ("APPEND", a, _word(r)), ("SETRANGE", a, r.randint(0, 20), _word(r)),
        ("INCRBY", a, r.randint(-5, 5)), ("INCR", a), ("DECRBY", a, 3), ("INCRBYFLOAT", a, "1.5"), ("MSET", a, 1, b, _word(r)),
        ("MSETNX", b, 2, c, 3), ("DEL", a, b), ("UNLINK", c), ("EXPIRE", a, 1000), ("EXPIRE", a, 1000, "NX"),
        ("PEXPIRE", b, 777777, "XX"), ("PERSIST", a), ("RENAME", a, b), ("RENAMENX", b, c), ("COPY", a, c), ("COPY", c, b, "REPLACE"),
        ("SETBIT", a, r.randint(0, 100), 1), ("BITFIELD", a, "INCRBY", "u8", 0, 10), ("BITOP", "XOR", c, a, b), ("PFADD", c, "q", "r"),
        ("GET", a), ("MGET", a, b, c), ("STRLEN", a), ("TYPE", a), ("EXISTS", a, b, c), ("GETRANGE", a, 0, 5), ("PFCOUNT", c)])


def hash_command(r, a, b, _c):
    f, g = r.choice("fgh"), r.choice("ijk")
    return r.choice([
        ("HSET", a, f, _word(r), g, r.randint(0, 9)), ("HSET", b, f, r.randint(0, 9)), ("HMSET", a, f, "m"), ("HSETNX", a, g, "n"),
        ("HINCRBY", b, f, 7), ("HINCRBYFLOAT", b, g, "0.25"), ("HDEL", a, f), ("HDEL", a, "f", "g", "h", "i", "j", "k"),
        ("COPY", a, b, "REPLACE"), ("RENAME", b, a), ("LPUSH", a, "wrong type"), ("HGET", a, f), ("HMGET", a, f, g), ("HLEN", b),
        ("HGETALL", a), ("EXPIRE", a, 5000), ("DEL", b)])


def list_command(r, a, b, c):
    n = r.randint(0, 99)
    return r.choice([
        ("RPUSH", a, n, n + 1), ("LPUSH", a, n), ("RPUSH", b, "u", "v", "u"), ("LPUSHX", b, n), ("RPUSHX", a, n), ("LPOP", a), ("RPOP", a),
        ("LPOP", a, 2), ("RPOP", b, 3), ("LTRIM", a, 0, 12), ("LSET", a, 0, "s"), ("LINSERT", b, "BEFORE", "u", n), ("LREM", b, 1, "u"),
        ("LMOVE", a, b, "LEFT", "RIGHT"), ("RPOPLPUSH", b, a), ("LMPOP", 2, b, a, "LEFT", "COUNT", 2), ("BLPOP", a, b, 0.02),
        ("BRPOP", c, 0.01), ("BLMOVE", a, c, "LEFT", "LEFT", 0.02), ("BLMPOP", 0.01, 1, a, "RIGHT"), ("SORT", a, "ALPHA", "STORE", c),
        ("COPY", a, c, "REPLACE"), ("RENAME", c, b), ("INCR", a), ("LRANGE", a, 0, -1), ("LLEN", b), ("LINDEX", a, 0), ("LPOS", b, "u"),
        ("DEL", c)])


def set_command(r, a, b, c):
    n = r.randint(0, 30)
    return r.choice([
        ("SADD", a, n, n + 1, n + 2), ("SADD", b, n, "w"), ("SREM", a, n), ("SMOVE", a, b, n), ("SPOP", a), ("SPOP", a, 2), ("SPOP", b, 3),
        ("COPY", a, c, "REPLACE"), ("SUNIONSTORE", c, a, b), ("SINTERSTORE", c, a, b), ("SDIFFSTORE", c, a, b), ("SADD", c, "y"),
        ("SISMEMBER", a, n), ("SCARD", c), ("SMEMBERS", a), ("SINTERCARD", 2, a, b), ("SMISMEMBER", b, n, "w"), ("DEL", b)])


def zset_command(r, a, b, c):
    m, n = r.choice("pqrst"), r.randint(0, 9)
    return r.choice([
        ("ZADD", a, n, m, n + 1, "z"), ("ZADD", a, "GT", "CH", n, m), ("ZADD", a, "INCR", "1.5", m), ("ZADD", b, "NX", n, m),
        ("ZINCRBY", a, "0.5", m), ("ZREM", a, m), ("ZPOPMIN", a), ("ZPOPMAX", b, 2), ("ZMPOP", 1, a, "MIN"), ("BZPOPMIN", b, 0.02),
        ("ZREMRANGEBYSCORE", a, 0, 1), ("ZREMRANGEBYRANK", a, 3, 9), ("ZUNIONSTORE", c, 2, a, b), ("ZINTERSTORE", c, 2, a, b),
        ("ZDIFFSTORE", c, 2, a, b), ("ZRANGESTORE", c, a, 0, 2), ("GEOADD", c, "13.3", "38.1", m), ("COPY", a, b, "REPLACE"),
        ("GEOSEARCHSTORE", b, c, "FROMLONLAT", 13, 38, "BYRADIUS", 200, "km"), ("ZSCORE", a, m), ("ZRANGE", a, 0, -1, "WITHSCORES"),
        ("ZCARD", b), ("ZRANK", a, m), ("DEL", c)])


def stream_command(r, a, b, _c):
    # A consumer that XREADGROUP or XAUTOCLAIM makes without giving it an entry is not in Valkey's replication stream: it is
    # on no replica and in no log. So c and d are never asked for by name.
    n = r.randint(1, 5)
    return r.choice([
        ("XADD", a, "*", "f", _word(r)), ("XADD", a, "*", "f", "v", "g", "w"), ("XADD", a, "MAXLEN", "=", 8, "*", "f", n),
        ("XADD", b, f"{n}-{r.randint(1, 99)}", "f", "v"), ("XADD", b, "MAXLEN", 3, f"{n + 5}-1", "f", "v"), ("XTRIM", a, "MAXLEN", 4), ("XTRIM", b, "MAXLEN", "~", 3),
        ("XDEL", b, "1-1", f"{n}-7"), ("XGROUP", "CREATE", b, "g", 0, "MKSTREAM"), ("XGROUP", "CREATECONSUMER", b, "g", f"n{r.random()}"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", 2, "STREAMS", b, ">"), ("XACK", b, "g", f"{n}-7"), ("XAUTOCLAIM", b, "g", "d", 0, 0),
        ("XPENDING", b, "g"), ("XSETID", b, "20-1"), ("COPY", b, a, "REPLACE"), ("XLEN", a), ("XRANGE", b, "-", "+"), ("DEL", b)])


SCRIPTS = [
    "redis.call('INCR', KEYS[1]) return redis.call('RPUSH', KEYS[2], ARGV[1])",
    "local v = redis.call('LPOP', KEYS[2]) if v then redis.call('SADD', KEYS[3], v) end return v",
    "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('LPUSH', KEYS[1], 'wrong type')",
    "return redis.call('GET', KEYS[1])",
    "for i = 1, 5 do redis.call('SADD', KEYS[3], ARGV[1] .. i) end return redis.call('SCARD', KEYS[3])",
    "return redis.pcall('INCRBY', KEYS[1], 2)",
    "redis.call('DEL', KEYS[1], KEYS[3]) return redis.call('LLEN', KEYS[2])",
    "redis.call('COPY', KEYS[2], KEYS[2] .. ':copy', 'REPLACE') return 1",
]


def script_command(r, a, b, c):
    return ("EVAL", r.choice(SCRIPTS), 3, a, b, c, r.randint(0, 99))


def mixed_command(r, a, b, c):
    return r.choice([string_command, list_command, script_command, set_command])(r, a, b, c)


MAKERS = {"string": string_command, "hash": hash_command, "list": list_command, "set": set_command, "zset": zset_command,
          "stream": stream_command, "script": script_command}
UNORDERED = ("SMEMBERS", "HGETALL")
RANDOM_IN_UNITS = ("SPOP", "XADD", "XREADGROUP", "XAUTOCLAIM", "XPENDING", "BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BZPOPMIN")


def answers_agree(command, ours, reference):
    if isinstance(ours, RespError) and isinstance(reference, RespError):
        return ours.text == reference.text
    if command[0] == "SMEMBERS" and isinstance(ours, list) and isinstance(reference, list):
        return sorted(ours) == sorted(reference)
    if command[0] == "HGETALL" and isinstance(ours, list) and isinstance(reference, list):
        return sorted(zip(ours[::2], ours[1::2])) == sorted(zip(reference[::2], reference[1::2]))
    return ours == reference


def reference_command(command, reply):
    """What to run on the reference for what is random, and the answer it must give; (command, None) if nothing is."""
    if command[0] == "SPOP" and not isinstance(reply, RespError):
        members = [] if reply is None else reply if isinstance(reply, list) else [reply]
        return ("SREM", command[1], *members) if members else ("SCARD", command[1]), len(members)
    if command[0] == "XADD" and "*" in command and isinstance(reply, bytes):
        at = command.index("*")
        return (*command[:at], reply, *command[at + 1:]), reply
    return command, None


class Bundle:
    """Three keys of one client, their commands in order. In a bundle nothing runs beside anything else."""

    def __init__(self, name, kind, db):
        self.name, self.kind, self.db = name, kind, db
        self.keys = [f"{name}:{k}" for k in "abc"]
        if kind == "script":
            self.keys.append(f"{name}:b:copy")
        self.steps = 0
        self.retired = None    # the command of unknown outcome
        self.allowed = None    # digests of before and after
        self.trail = []        # async: (invoked, returned, outcome, digest after it)

    def commands(self, r):
        a, b, c = self.keys[:3]
        if r.random() < 0.5:
            a, b, c = r.sample([a, b, c], 3)
            if self.kind == "script":
                a, b, c = self.keys[:3]
        dice = r.random()
        if dice < 0.12:
            unit = []
            while len(unit) < r.randint(2, 4):
                command = MAKERS[self.kind](r, a, b, c)
                if command[0] not in RANDOM_IN_UNITS:
                    unit.append(command)
            watch = [("WATCH", a)] if r.random() < 0.4 else []
            return watch + [("MULTI",), *unit, ("EXEC",)]
        return [MAKERS[self.kind](r, a, b, c)]


class Reference:
    """One client's connection to the Valkey that nobody kills."""

    def __init__(self, address, db):
        self.client = Client(address, timeout=60, db=db)
        self.db = db

    def digest(self, keys):
        return tuple(self.client("DEBUG", "DIGEST-VALUE", *keys))

    def run(self, commands, replies):
        """Runs what was answered; text of the disagreement or None."""
        command, expected = reference_command(commands[0], replies[0]) if len(commands) == 1 else (None, None)
        if command is None:
            for sent, ours, theirs in zip(commands, replies, self.client.pipeline(commands)):
                if not self._unit_agrees(commands, sent, ours, theirs):
                    return f"{sent} in {commands}: answered {ours!r}, the reference {theirs!r}"
            return None
        theirs = self.client.ask(*command)
        if expected is not None:
            return None if theirs == expected or command[0] == "SCARD" else f"{commands[0]}: {replies[0]!r}, reference {theirs!r}"
        if not answers_agree(command, replies[0], theirs):
            return f"{command}: answered {replies[0]!r}, the reference {theirs!r}"
        return None

    @staticmethod
    def _unit_agrees(commands, sent, ours, theirs):
        if sent[0] != "EXEC" or not isinstance(ours, list) or not isinstance(theirs, list):
            return answers_agree(sent, ours, theirs)
        inside = commands[[c[0] for c in commands].index("MULTI") + 1:-1]
        return len(ours) == len(theirs) and all(answers_agree(*three) for three in zip(inside, ours, theirs))

    def digest_of(self, dumps):
        """The digest of keys given as (DUMP, PTTL) pairs."""
        names = []
        for n, (dump, ttl) in enumerate(dumps):
            name = f"check:{self.db}:{threading.get_ident()}:{n}"
            names.append(name)
            self.client("DEL", name)
            if dump is not None:
                self.client("RESTORE", name, max(ttl, 0), dump)
        found = self.digest(names)
        self.client("DEL", *names)
        return found


class Shared:
    """What all clients of one round work on together, and what they saw. list.append is atomic."""

    def __init__(self, tag, lists=3, group=False):
        self.tag, self.group = tag, group
        self.lists = [f"{tag}:list{n}" for n in range(lists)]
        self.pushes, self.reads, self.copies = [], [], []
        self.queues = [f"{tag}:queue{n}" for n in range(2)]
        self.pushed, self.popped, self.unknown_pops = {}, [], []
        self.counter = f"{tag}:counter"
        self.counted, self.uncounted = [], []
        self.counts = []
        self.registers = [f"{tag}:register{n}" for n in range(4)]
        self.accesses = []
        self.sets = [f"{tag}:set{n}" for n in range(2)]
        self.adds, self.members_read = [], []
        self.draw = f"{tag}:draw"
        self.put, self.drawn, self.unknown_draws = {}, [], []
        self.ledger, self.jobs, self.stream = workloads.Ledger(tag), workloads.Jobs(tag), workloads.Consumers(tag)
        self.rare, self.rare_stream = workloads.Jobs(f"{tag}:rare"), workloads.Consumers(f"{tag}:rare")  # Worker waits for them
        self.violations = []
        self.answered = 0
        self.codes = {}


class LoadClient(threading.Thread):
    """One client. It works until `stop` is set, and reconnects when it is cut off."""

    def __init__(self, number, address, reference, shared, seed, is_async=False, db=0, proto=2, timeout=30, ttl=True):
        """address: one, or a list of all endpoints. ttl: use keys that expire (the clocks are right)."""
        super().__init__(daemon=True)
        self.addresses = address if isinstance(address, list) else [address]
        self.at = number % len(self.addresses)
        self.number, self.shared, self.is_async, self.db, self.proto = number, shared, is_async, db, proto
        self.timeout, self.ttl, self.refused_in_a_row = timeout, ttl, 0
        self.r = random.Random(f"{seed}/{number}")
        self.reference = Reference(reference, db)
        self.tag = f"{shared.tag}:c{number}"
        self.bundles, self.retired, self.made = {}, [], 0
        self.stop = threading.Event()
        self.client = None
        self.serial = 0
        self.ttl_keys = {}
        self.done = {OK: 0, UNKNOWN: 0, REFUSED: 0}
        self.crash = None

    # ---- running ----
    def run(self):
        try:
            while not self.stop.is_set():
                if self.client is None and not self._connect():
                    continue
                self._step()
        except BaseException as e:  # noqa: BLE001 -- a broken client is a failed test, reported by finish()
            import traceback
            self.crash = traceback.format_exc() + repr(e)
        finally:
            self._drop()

    def finish(self):
        self.stop.set()
        self.join(60)
        assert not self.is_alive(), f"client {self.number} hangs"
        assert not self.crash, self.crash
        return self

    def _connect(self):
        try:
            self.client = Client(self.addresses[self.at], timeout=self.timeout, proto=2, db=0)
            reply = self.client.ask("SELECT", self.db)
            if reply != b"OK":
                self._drop()
        except (Closed, OSError):
            self._drop()
        if self.client is None:
            time.sleep(RETRY_S)
            self._elsewhere()
        return self.client is not None

    def _elsewhere(self):
        self.at = (self.at + 1) % len(self.addresses)
        self.refused_in_a_row = 0

    def _drop(self):
        if self.client is not None:
            self.client.close()
            self.client = None
            self._elsewhere()

    def exchange(self, commands):
        """(invoked, returned, replies); None stands for the replies that never came."""
        invoked, replies = time.monotonic(), []
        try:
            if self.client is None and not self._connect():  # lost in the middle of a step
                raise Closed("no connection")
            self.client.raw(b"".join(encode(*c) for c in commands))
            for _ in commands:
                replies.append(self.client.read())
        except (Closed, OSError):
            self._drop()
        returned = time.monotonic() if len(replies) == len(commands) else history.INFINITE
        for reply in replies:
            if isinstance(reply, RespError):
                self.shared.codes[reply.code] = self.shared.codes.get(reply.code, 0) + 1
        return invoked, returned, replies + [None] * (len(commands) - len(replies)), len(replies)

    def ask(self, *command):
        """(invoked, returned, outcome, reply)"""
        invoked, returned, (reply,), came = self.exchange([command])
        what = outcome(reply) if came else UNKNOWN
        self.count(what)
        return invoked, returned if what == OK else history.INFINITE, what, reply

    def count(self, what):
        self.done[what] += 1
        self.refused_in_a_row = self.refused_in_a_row + 1 if what == REFUSED else 0
        if what == REFUSED:
            time.sleep(0.002)
        if self.refused_in_a_row > REFUSALS_UNTIL_ELSEWHERE and len(self.addresses) > 1:
            self._drop()

    def violation(self, text):
        self.shared.violations.append(f"client {self.number}: {text}")

    def fresh_id(self):
        self.serial += 1
        return f"{self.number}.{self.serial}"

    def _step(self):
        dice = self.r.random()
        if dice < 0.25:
            self.r.choice([self.shared.ledger.step, self.shared.ledger.step, self.shared.jobs.step, self.shared.stream.step,
                           self.shared.rare.give, self.shared.rare_stream.add])(self)
            self.shared.answered += 1
            return
        if self.shared.group and dice < 0.55:
            self.r.choice([self._register, self._register, self._set, self._count_up])()
            self.shared.answered += 1
            return
        dice = self.r.random()
        if dice < 0.55:
            self._bundle_step()
        elif dice < 0.70:
            self._shared_push()
        elif dice < 0.78:
            self._shared_read()
        elif dice < 0.80:
            self._shared_copy()
        elif dice < 0.86:
            self._queue()
        elif dice < 0.88:
            self._draw()
        elif dice < 0.91 or not self.ttl:
            self._count_up()
        else:
            self._ttl()
        self.shared.answered += 1

    # ---- bundles ----
    def _bundle(self, kind):
        bundle = self.bundles.get(kind)
        if bundle is None:
            self.made += 1
            bundle = self.bundles[kind] = Bundle(f"{self.tag}:{kind}{self.made}", kind, self.db)
        return bundle

    def _bundle_step(self):
        kinds = self.r.sample(sorted(MAKERS), self.r.choice([1, 1, 1, 2, 4]))
        work = [(b, b.commands(self.r)) for b in map(self._bundle, kinds)]
        invoked, returned, replies, came = self.exchange([c for _, commands in work for c in commands])
        at = 0
        for bundle, commands in work:
            mine = replies[at:at + len(commands)]
            known = max(0, min(came - at, len(commands)))
            at += len(commands)
            self._bundle_answered(bundle, commands, mine, known, invoked, returned)

    def _bundle_answered(self, bundle, commands, replies, known, invoked, returned):
        what = self.unit_outcome(commands, replies, known)
        self.count(what)
        if what == REFUSED:
            return
        before = None
        if what == UNKNOWN:
            before = self.reference.digest(bundle.keys)
            bundle.retired = commands
        if what == OK:
            difference = self.reference.run(commands, replies)
            if difference:
                self.violation(f"{bundle.name} after {bundle.steps}: {difference}")
                bundle.retired = commands
        elif not self._is_open(commands):
            self.reference.client.pipeline(commands)
        bundle.steps += 1
        if self.is_async:
            bundle.trail.append((invoked, returned, what, self.reference.digest(bundle.keys)))
        if bundle.retired:
            bundle.allowed = {before, self.reference.digest(bundle.keys)} if before else None
            self.retired.append(bundle)
            del self.bundles[bundle.kind]

    def unit_outcome(self, commands, replies, known):
        if commands[-1][0] != "EXEC":
            return outcome(replies[0]) if known == len(commands) else UNKNOWN
        if known < len(commands):
            return UNKNOWN
        last = outcome(replies[-1])
        if last == OK and any(outcome(reply) != OK for reply in replies[:-1]):
            self.violation(f"transaction {commands}: {replies}")
        for sent, reply in zip(commands[1:-1], replies[1:-1]):
            if last == REFUSED and sent[0] not in ("MULTI", "WATCH") and not isinstance(reply, RespError) and reply != b"QUEUED":
                self.violation(f"ran outside of its refused transaction: {sent} in {commands}: {replies}")
        return last

    @staticmethod
    def _is_open(commands):
        """Whether what it does can only be told from its answer."""
        return any(c[0] == "SPOP" or (c[0] == "XADD" and "*" in c) for c in commands)

    # ---- shared lists ----
    def _shared_push(self):
        key, ident = self.r.choice(self.shared.lists), self.fresh_id()
        dice = self.r.random()
        if dice < 0.5:
            invoked, returned, what, reply = self.ask("RPUSH", key, ident)
            self._pushed(key, ident, invoked, returned, what, reply)
        elif dice < 0.65:
            invoked, returned, what, reply = self.ask("EVAL", "return redis.call('RPUSH', KEYS[1], ARGV[1])", 1, key, ident)
            self._pushed(key, ident, invoked, returned, what, reply)
        elif dice < 0.8:
            self._push_in_transaction()
        else:
            self._push_pipelined()

    def _pushed(self, key, ident, invoked, returned, what, reply):
        if what == OK and not isinstance(reply, int):
            self.violation(f"RPUSH {key} {ident}: {reply!r}")
            what = UNKNOWN
        self.shared.pushes.append(history.Push(key, ident, invoked, returned, what, reply if what == OK else 0))

    def _push_in_transaction(self):
        keys = self.r.sample(self.shared.lists, 2)
        ids = [self.fresh_id(), self.fresh_id()]
        watch = self.r.random() < 0.4
        commands = ([("WATCH", keys[0])] if watch else []) + [("MULTI",), ("RPUSH", keys[0], ids[0]), ("RPUSH", keys[1], ids[1]), ("EXEC",)]
        invoked, returned, replies, came = self.exchange(commands)
        what = self.unit_outcome(commands, replies, came)
        self.count(what)
        lengths = replies[-1] if what == OK else None
        if what == OK and isinstance(lengths, RespError):
            self.violation(f"{commands}: {replies}")
            what = UNKNOWN
        if what == OK and lengths is None:
            what = REFUSED  # the WATCH noticed another client: nothing was done
        for n in range(2):
            self.shared.pushes.append(history.Push(keys[n], ids[n], invoked, returned if what == OK else history.INFINITE, what,
                                                   lengths[n] if what == OK else 0))

    def _push_pipelined(self):
        work = [(self.r.choice(self.shared.lists), self.fresh_id()) for _ in range(self.r.randint(2, 8))]
        invoked, returned, replies, came = self.exchange([("RPUSH", *w) for w in work])
        for n, (key, ident) in enumerate(work):
            what = outcome(replies[n]) if n < came else UNKNOWN
            self.count(what)
            self._pushed(key, ident, invoked, returned if what == OK else history.INFINITE, what, replies[n])

    def _shared_read(self):
        key = self.r.choice(self.shared.lists)
        invoked, returned, what, reply = self.ask("LRANGE", key, 0, -1)
        if what == OK and isinstance(reply, list):
            self.shared.reads.append(history.Read(key, invoked, returned, [e.decode() for e in reply]))
        elif what == OK:
            self.violation(f"LRANGE {key}: {reply!r}")

    def _shared_copy(self):
        source, target = self.r.choice(self.shared.lists), f"{self.tag}:copy{self.fresh_id()}"
        _, _, what, reply = self.ask("COPY", source, target)
        if what == OK and reply == 1:
            self.shared.copies.append((source, target, self.db))
        elif what == OK and reply != 0:
            self.violation(f"COPY: {reply!r}")

    # ---- queues, counter ----
    def _queue(self):
        queue = self.r.choice(self.shared.queues)
        if self.r.random() < 0.5:
            ident = self.fresh_id()
            _, _, what, reply = self.ask(self.r.choice(["LPUSH", "RPUSH"]), queue, ident)
            self.shared.pushed[ident] = what
            return
        if self.r.random() < 0.06:
            self._vanish(queue)
            return
        _, _, what, reply = self.ask(*self.r.choice([("BLPOP", *self.shared.queues, 0.03), ("BRPOP", queue, 0.3), ("LPOP", queue),
                                                     ("BLMPOP", 0.05, 2, *self.shared.queues, "LEFT"),
                                                     ("EVAL", "return redis.call('RPOP', KEYS[1])", 1, queue)]))
        if what == UNKNOWN:
            self.shared.unknown_pops.append(1)
        elif what == OK and reply is not None:
            if isinstance(reply, RespError):
                self.violation(f"pop: {reply!r}")
                return
            taken = reply[1] if isinstance(reply, list) else reply
            self.shared.popped.append((taken[0] if isinstance(taken, list) else taken).decode())

    def _vanish(self, queue):
        """Blocks and is gone: as with Valkey, it may have been handed one element, and no more."""
        self.shared.unknown_pops.append(1)
        try:
            self.client.raw(encode("BLPOP", queue, 0.5))
            time.sleep(self.r.choice([0, 0.002, 0.02]))
        except (Closed, OSError):
            pass
        self._drop()

    def _count_up(self):
        if self.shared.group and self.r.random() < 0.3:
            invoked, returned, what, reply = self.ask("GET", self.shared.counter)
            if what == OK:
                self.shared.counts.append(history.Count("get", int(reply or 0), invoked, returned))
            return
        invoked, returned, what, reply = self.ask("INCR", self.shared.counter)
        if what == OK:
            self.shared.counted.append(reply)
            self.shared.counts.append(history.Count("incr", reply, invoked, returned))
        elif what == UNKNOWN:
            self.shared.uncounted.append(1)

    # ---- groups: registers, growing sets, a set to draw from ----
    def _register(self):
        key = self.r.choice(self.shared.registers)
        if self.r.random() < 0.5:
            value = f"{self.tag}.{self.fresh_id()}"
            command = self.r.choice([("SET", key, value), ("SET", key, value), ("SET", key, value, "EX", 100000), ("MSET", key, value),
                                     ("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, key, value)])
            invoked, returned, what, reply = self.ask(*command)
            if what == OK and reply != b"OK":
                self.violation(f"{command}: {reply!r}")
                what, returned = UNKNOWN, history.INFINITE
            self.shared.accesses.append(history.Access(key, "write", value, invoked, returned, what))
            return
        command = self.r.choice([("GET", key), ("GET", key), ("MGET", key), ("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, key)])
        invoked, returned, what, reply = self.ask(*command)
        if what == OK:
            if isinstance(reply, list):
                reply = reply[0]
            if isinstance(reply, RespError):
                self.violation(f"{command}: {reply!r}")
            else:
                self.shared.accesses.append(history.Access(key, "read", reply and reply.decode(), invoked, returned))

    def _set(self):
        key = self.r.choice(self.shared.sets)
        if self.r.random() < 0.6:
            member = self.fresh_id()
            invoked, returned, what, reply = self.ask("SADD", key, member)
            if what == OK and reply != 1:
                self.violation(f"SADD {key} {member}: {reply!r}")
            self.shared.adds.append(history.Add(key, member, invoked, returned, what))
            return
        invoked, returned, what, reply = self.ask("SMEMBERS", key)
        if what == OK and isinstance(reply, list):
            self.shared.members_read.append(history.Read(key, invoked, returned, [m.decode() for m in reply]))
        elif what == OK:
            self.violation(f"SMEMBERS {key}: {reply!r}")

    def _draw(self):
        if self.r.random() < 0.55:
            member = self.fresh_id()
            _, _, what, _ = self.ask("SADD", self.shared.draw, member)
            self.shared.put[member] = what
            return
        _, _, what, reply = self.ask("SPOP", self.shared.draw)
        if what == UNKNOWN:
            self.shared.unknown_draws.append(1)
        elif what == OK and isinstance(reply, bytes):
            self.shared.drawn.append(reply.decode())

    # ---- times to live ----
    def _ttl(self):
        """Keys that expire: present before their time, absent after it; INCR on an expired one begins anew."""
        name = self.r.choice(sorted(self.ttl_keys)) if self.ttl_keys and self.r.random() < 0.7 else None
        if name is None:
            name = f"{self.tag}:ttl{self.fresh_id()}"
            ms = self.r.choice([20, 100, 400, 1500, 4000, 60000])
            command = self.r.choice([("SET", name, 5, "PX", ms), ("PSETEX", name, ms, 5)])
            low = time.time() * 1000
            _, _, what, reply = self.ask(*command)
            if what == OK and reply == b"OK":
                self.ttl_keys[name] = (5, low + ms, time.time() * 1000 + ms)
            elif what == OK:
                self.violation(f"{command}: {reply!r}")
            return
        value, low, high = self.ttl_keys[name]
        command = self.r.choice([("GET", name), ("GET", name), ("INCR", name), ("PERSIST", name)])
        before = time.time() * 1000
        _, _, what, reply = self.ask(*command)
        after = time.time() * 1000
        if what == UNKNOWN and command[0] != "GET":
            del self.ttl_keys[name]
        if what != OK:
            return
        may_live, may_be_gone = before <= high + TTL_SLACK_MS, after >= low - TTL_SLACK_MS
        lives, gone = {"GET": (b"%d" % value, None), "INCR": (value + 1, 1), "PERSIST": (1 if high < history.INFINITE else 0, 0)}[command[0]]
        alive = may_live and reply == lives
        dead = may_be_gone and reply == gone
        if not (alive or dead):
            self.violation(f"{command}: {reply!r}; value {value}, lives until {low - before:.0f}..{high - before:.0f} ms from then")
        if command[0] == "GET" and alive:
            return
        if command[0] == "INCR" and (alive or dead):
            self.ttl_keys[name] = (value + 1, low, high) if alive else (1, history.INFINITE, history.INFINITE)
        elif command[0] == "PERSIST" and alive and not dead:
            self.ttl_keys[name] = (value, history.INFINITE, history.INFINITE)
        else:
            del self.ttl_keys[name]


class Worker(LoadClient):
    """A client that is blocked nearly all of its time, on what the others hand out now and then."""

    WAIT_S = 1.0  # less than finish() takes for a hang

    def _step(self):
        rare, stream = self.shared.rare, self.shared.rare_stream
        if self.r.random() < 0.5:
            first, second = (lambda: rare.take(self, self.WAIT_S)), rare.finish
        else:
            first, second = (lambda: stream.take(self, int(self.WAIT_S * 1000))), stream.acknowledge
        first()
        if self.client is not None:
            second(self)


# ---- judging ----

class State:
    """What is there now, asked of any endpoint."""

    def __init__(self, address, reference):
        self.address = address
        self.references = {}
        self.reference = reference
        self.clients = {}

    def client(self, db):
        if db not in self.clients:
            self.clients[db] = Client(self.address, timeout=60, db=db)
            self.references[db] = Reference(self.reference, db)
        return self.clients[db], self.references[db]

    def digest(self, bundle):
        client, reference = self.client(bundle.db)
        replies = client.pipeline([c for k in bundle.keys for c in (("DUMP", k), ("PTTL", k))])
        assert not any(isinstance(reply, RespError) for reply in replies), replies
        return reference.digest_of(list(zip(replies[::2], replies[1::2])))

    def close(self):
        for c in [*self.clients.values(), *(r.client for r in self.references.values())]:
            c.close()


def _open_outcome_allowed(bundle, state):
    """SPOP or XADD * of unknown outcome: the state before, or one that it may have left."""
    client, reference = state.client(bundle.db)
    command = next(c for c in bundle.retired if c[0] in ("SPOP", "XADD"))
    key = command[1]
    if command[0] == "SPOP":
        was, now = set(reference.client("SMEMBERS", key)), set(client("SMEMBERS", key))
        count = int(command[2]) if len(command) > 2 else 1
        if not now <= was or len(was - now) not in (0, min(count, len(was))):
            return False
        if was - now:
            reference.client("SREM", key, *(was - now))
    else:
        last = client("XREVRANGE", key, "+", "-", "COUNT", 1)
        known = reference.client("XREVRANGE", key, "+", "-", "COUNT", 1)
        if last and last != known:
            at = command.index("*")
            if [w if isinstance(w, bytes) else str(w).encode() for w in command[at + 1:]] != last[0][1]:
                return False
            reference.client(*command[:at], last[0][0], *command[at + 1:])
    return state.digest(bundle) == reference.digest(bundle.keys)


def bundle_holds(bundle, state):
    _, reference = state.client(bundle.db)
    if bundle.retired and bundle.allowed is None:
        return True  # reported when it happened
    if bundle.retired and LoadClient._is_open(bundle.retired):
        return _open_outcome_allowed(bundle, state)
    found = state.digest(bundle)
    return found in (bundle.allowed or {reference.digest(bundle.keys)})


def lists_now(shared, client):
    return {key: [e.decode() for e in client("LRANGE", key, 0, -1)] for key in shared.lists}


def judge_sync(shared, clients, state):
    """Everything that must hold after kills in sync mode."""
    bad = history.Report(shared.violations[:12])
    client, _ = state.client(clients[0].db)
    finals = lists_now(shared, client)
    bad += history.appends(shared.pushes, shared.reads, finals)
    remaining = [e.decode() for q in shared.queues for e in client("LRANGE", q, 0, -1)]
    bad += history.queue(shared.pushed, shared.popped, len(shared.unknown_pops), remaining)
    bad += history.counter(shared.counted, len(shared.uncounted), int(client("GET", shared.counter) or 0))
    left = [m.decode() for m in client("SMEMBERS", shared.draw)]
    bad += [f"drawn: {b}" for b in history.queue(shared.put, shared.drawn, len(shared.unknown_draws), left)]
    for work in (shared.ledger, shared.jobs, shared.stream, shared.rare, shared.rare_stream):
        bad += work.judge(client)
    if shared.group:
        bad += judge_group(shared, client)
    for source, target, db in shared.copies:
        copied = [e.decode() for e in state.client(db)[0]("LRANGE", target, 0, -1)]
        if not copied or finals[source][:len(copied)] != copied:
            bad.add(f"COPY {source} {target}: {len(copied)} elements, no prefix of the final {len(finals[source])}")
    for c in clients:
        for bundle in [*c.bundles.values(), *c.retired]:
            if not bundle_holds(bundle, state):
                bad.add(f"{bundle.name}: differs from the reference after {bundle.steps} commands; last {bundle.retired}")
        _judge_ttl(bad, c, state)
    return bad


def judge_group(shared, client):
    """What all clients of a group saw of its registers, sets and counter."""
    finals = {}
    for key in shared.registers:
        invoked = time.monotonic()
        value = client("GET", key)
        finals[key] = (value and value.decode(), invoked, time.monotonic())
    bad = history.lost_registers(shared.accesses, finals)
    bad += history.growing_sets(shared.adds, shared.members_read, {k: {m.decode() for m in client("SMEMBERS", k)} for k in shared.sets})
    bad += history.counts(shared.counts, len(shared.uncounted), int(client("GET", shared.counter) or 0))
    return bad


def _judge_ttl(bad, c, state):
    client, _ = state.client(c.db)
    for name, (value, low, high) in c.ttl_keys.items():
        before = time.time() * 1000
        reply = client("GET", name)
        after = time.time() * 1000
        if reply is None and after < low - TTL_SLACK_MS:
            bad.add(f"{name}: gone {low - after:.0f} ms before its time")
        elif reply is not None and (before > high + TTL_SLACK_MS or reply != b"%d" % value):
            bad.add(f"{name}: {reply!r}, should be {value} until {high - before:.0f} ms from now")


def judge_async(shared, clients, state, killed, dead, lag_max_s, samples):
    """After one kill in async mode, the clients having stopped."""
    bad = history.Report(shared.violations[:12])
    client, _ = state.client(clients[0].db)
    found, writes = history.async_appends(shared.pushes, lists_now(shared, client))
    bad += found
    bad += shared.ledger.judge_cut(client)
    for c in clients:
        for bundle in [*c.bundles.values(), *c.retired]:
            if any(LoadClient._is_open(b) for b in [bundle.retired or []]):
                continue
            _, reference = state.client(bundle.db)
            now = state.digest(bundle)
            empty = tuple([b"0" * 40] * len(bundle.keys))
            stages = [empty] + [step[3] for step in bundle.trail]
            last = max((n for n, stage in enumerate(stages) if stage == now), default=None)
            if last is None:
                bad.add(f"{bundle.name}: is in a state that it never had, after {bundle.steps} commands")
                continue
            first = min(n for n, stage in enumerate(stages) if stage == now)
            for n, (invoked, returned, what, digest) in enumerate(bundle.trail):
                changed = digest != stages[n]
                survived = (True if n < first else None) if n < last else False
                if changed:
                    writes.append(history.Write(f"{bundle.name} step {n}", invoked, returned, what, survived))
    bad += history.suffix(writes, killed, dead, lag_max_s, samples)
    return bad, sum(1 for w in writes if w.survived is False and w.outcome == OK), len(writes)
