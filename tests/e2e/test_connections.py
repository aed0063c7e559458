"""CLIENT over all sessions of Holdfast: PAUSE, LIST and KILL with their filters, UNBLOCK, tracking with REDIRECT, by Holdfast's ids."""
import time

import pytest

from harness import is_error, wait_until
from resp import Closed, PushReply, encode


@pytest.fixture(autouse=True)
def no_pause_left(pair):
    yield
    with pair[1].client() as c:
        c("CLIENT", "UNPAUSE")


def line_of(c, number):
    text = c("CLIENT", "LIST", "ID", number).decode()
    return dict(pair.split("=", 1) for pair in text.split())


def blocked(c, number):
    return "b" in line_of(c, number)["flags"]


# ---- PAUSE ----

def test_pause_write(connect, mode):
    admin, w, r = connect(), connect(), connect()
    number = w("CLIENT", "ID")
    w("SET", "paused", 1)
    assert admin("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"
    w.raw(encode("SET", "paused", 2) + encode("GET", "paused"))
    wait_until(lambda: blocked(admin, number), 5, "the writer is held")
    assert r.pipeline([("GET", "paused"), ("PING",), ("EVAL_RO", "return 1", 0), ("EVAL", "#!lua flags=no-writes\nreturn 2", 0)]) == \
        [b"1", b"PONG", 1, 2]
    assert admin("CLIENT", "UNPAUSE") == b"OK"
    assert w.read() == b"OK" and w.read() == b"2"
    assert not blocked(admin, number)


@pytest.mark.parametrize("command", [("PUBLISH", "there", "x"), ("SPUBLISH", "there", "x"), ("PFCOUNT", "hll"), ("EVAL", "return 0", 0),
                                     ("FCALL", "nothing", 0), ("INCRBY", "paused:n", 0), ("BLPOP", "paused:none", 0.01),
                                     ("XADD", "paused:x", "*", "f", "v")])
def test_pause_write_holds_up(connect, command):
    """What may write, and what replicas would hear."""
    admin, c = connect(), connect()
    number = c("CLIENT", "ID")
    admin("CLIENT", "PAUSE", 100000, "WRITE")
    c.send(*command)
    wait_until(lambda: blocked(admin, number), 5, "held")
    admin("CLIENT", "UNPAUSE")
    c.read()


def test_pause_and_transactions(connect, mode):
    admin, c, d = connect(), connect(), connect()
    number = c("CLIENT", "ID")
    assert c.pipeline([("MULTI",), ("SET", "paused:tx", "done")]) == [b"OK", b"QUEUED"]
    admin("DEL", "paused:tx")
    admin("CLIENT", "PAUSE", 100000, "WRITE")
    assert d.pipeline([("MULTI",), ("GET", "paused:tx"), ("EXEC",)]) == [b"OK", b"QUEUED", [None]]
    c.send("EXEC")
    wait_until(lambda: blocked(admin, number), 5, "EXEC is held")
    assert d("GET", "paused:tx") is None
    admin("CLIENT", "UNPAUSE")
    assert c.read() == [b"OK"] and d("GET", "paused:tx") == b"done"


def test_pause_all(connect, mode):
    """Everything waits, UNPAUSE too, until the time is over."""
    admin, c = connect(), connect()
    began = time.monotonic()
    assert admin("CLIENT", "PAUSE", 400) == b"OK"
    c.raw(encode("PING") + encode("SET", "paused:all", 1) + encode("GET", "paused:all"))
    admin.send("CLIENT", "UNPAUSE")
    assert [c.read() for _ in range(3)] == [b"PONG", b"OK", b"1"]
    assert time.monotonic() - began >= 0.395  # milliseconds count, by the loop's clock
    assert admin.read() == b"OK"


def test_nested_pauses(connect):
    """The later end counts, and ALL outlives WRITE."""
    admin, c = connect(), connect()
    admin.raw(encode("CLIENT", "PAUSE", 60000, "WRITE") + encode("CLIENT", "PAUSE", 1, "WRITE"))
    assert [admin.read(), admin.read()] == [b"OK", b"OK"]
    number = c("CLIENT", "ID")
    c.send("SET", "paused:nested", 1)
    wait_until(lambda: blocked(admin, number), 5, "held by the longer one")
    wait_until(lambda: int(line_of(admin, number)["idle"]) >= 1, 5, "a second has passed")
    assert blocked(admin, number)
    admin("CLIENT", "UNPAUSE")
    assert c.read() == b"OK"
    began = time.monotonic()
    admin.send("CLIENT", "PAUSE", 300, "ALL")
    assert admin.read() == b"OK"
    admin.send("CLIENT", "PAUSE", 10, "WRITE")  # is held itself, then ends at once
    c.send("PING")
    assert c.read() == b"PONG" and admin.read() == b"OK"
    assert time.monotonic() - began >= 0.3


def test_paused_client_that_goes_away_does_nothing(connect):
    admin, c = connect(), connect()
    number = c("CLIENT", "ID")
    admin("SET", "paused:gone", 1)
    admin("CLIENT", "PAUSE", 100000, "WRITE")
    c.send("SET", "paused:gone", 2)
    wait_until(lambda: blocked(admin, number), 5, "held")
    assert admin("CLIENT", "UNBLOCK", number) == 0
    c.close()
    wait_until(lambda: admin("CLIENT", "LIST", "ID", number) == b"", 5, "it is gone")
    admin("CLIENT", "UNPAUSE")
    assert admin("GET", "paused:gone") == b"1"


def test_pause_waits_for_what_is_under_way(connect, mode):
    """After its OK nothing changes any more, however many writes were in the pipelines."""
    admin, writers = connect(), [connect() for _ in range(8)]
    for round_ in range(20):
        for c in writers:
            c.raw(b"".join(encode("INCR", "paused:count") for _ in range(100)))
        assert admin("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"
        first = admin("GET", "paused:count")
        for _ in range(20):
            assert admin("GET", "paused:count") == first
        admin("CLIENT", "UNPAUSE")
        for c in writers:
            for _ in range(100):
                assert isinstance(c.read(), int)
    assert admin("GET", "paused:count") == b"%d" % (len(writers) * 2000) or mode == "async"
    admin("DEL", "paused:count")


def test_pause_arguments_are_checked_as_valkey_does(pair, connect):
    c = connect()
    with pair[0].client() as v:
        for words in (("x",), (-1,), (10, "SOME"), ()):
            assert c.ask("CLIENT", "PAUSE", *words) == v.ask("CLIENT", "PAUSE", *words), words
        assert c.ask("CLIENT", "UNPAUSE", 1) == v.ask("CLIENT", "UNPAUSE", 1)


def test_pause_holds_for_relayed_clients(rig):
    g = rig.group()
    leader = g.leader().name
    other = next(n for n in "abc" if n != leader)
    with g[leader].client() as admin, g[other].client() as c, g[other].client() as far:
        number = c("CLIENT", "ID")
        assert far("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"  # by way of a follower: it is the leader's
        c.send("SET", "relayed", 1)
        wait_until(lambda: blocked(admin, number), 10, "held")
        assert far("GET", "relayed") is None
        assert admin("CLIENT", "UNPAUSE") == b"OK"
        assert c.read() == b"OK"


# ---- LIST and KILL ----

def test_list_has_valkeys_fields(pair, connect):
    c = connect(proto=3)
    with pair[0].client(proto=3) as v:
        theirs = [p.split("=")[0] for p in v("CLIENT", "INFO").decode().split()]
    ours = [p.split("=")[0] for p in c("CLIENT", "INFO").decode().split()]
    assert ours == ["txt:id" if theirs[0] == "txt:id" else "id", *theirs[1:], "durability"]


def test_fields_tell_the_truth(connect):
    a, c = connect(), connect(proto=3)
    number = c("CLIENT", "ID")
    c("CLIENT", "SETNAME", "its-name")
    c("SELECT", 3)
    for words in (("SUBSCRIBE", "x", "y"), ("PSUBSCRIBE", "p*"), ("SSUBSCRIBE", "s", "t", "u"), ("UNSUBSCRIBE", "y")):
        c.send(*words)
    c.send("PING")
    assert c.read() == b"PONG"
    got = line_of(a, number)
    expected = dict(name="its-name", db="3", sub="1", psub="1", ssub="3", flags="P", cmd="ping", user="default", resp="3", redir="-1",
                    multi="-1", watch="0")
    assert {k: got[k] for k in expected} == expected
    d = connect()
    d("WATCH", "k")
    d.pipeline([("MULTI",), ("GET", "k"), ("GET", "k")])
    got = line_of(a, d_id := int(line_of_self(a, d)))
    assert got["multi"] == "2" and got["flags"] == "x" and got["watch"] != "0" and d_id > 0


def line_of_self(a, c):
    """The id of a client inside MULTI, by its address."""
    address = "%s:%d" % c.sock.getsockname()
    return next(line for line in a("CLIENT", "LIST").decode().splitlines() if f" addr={address} " in line).split()[0][3:]


def ids(c, *words):
    return [int(line.split()[0][3:]) for line in c("CLIENT", "LIST", *words).decode().splitlines()]


def test_filters(connect):
    a, b, sub = connect(), connect(), connect()
    me, other, third = a("CLIENT", "ID"), b("CLIENT", "ID"), sub("CLIENT", "ID")
    b("CLIENT", "SETNAME", "filtered")
    b("CLIENT", "SETINFO", "lib-name", "lib-x")
    b("CLIENT", "SETINFO", "lib-ver", "1.2")
    b("SELECT", 7)
    sub("SUBSCRIBE", "here")
    address = "%s:%d" % b.sock.getsockname()
    assert ids(a, "ID", other, me, other, 999999) == [other, me, other]
    assert set(ids(a, "TYPE", "pubsub")) == {third} and third not in ids(a, "TYPE", "normal")
    assert ids(a, "TYPE", "replica") == ids(a, "TYPE", "master") == ids(a, "TYPE", "primary") == []
    assert ids(a, "ADDR", address) == ids(a, "NAME", "filtered") == ids(a, "LIB-NAME", "lib-x") == ids(a, "DB", 7) == [other]
    assert ids(a, "LIB-VER", "1.2", "USER", "default", "IP", "127.0.0.1") == [other]
    assert ids(a, "LADDR", "%s:%d" % b.sock.getpeername(), "NAME", "filtered") == [other]
    assert ids(a, "FLAGS", "P") == [third] and third not in ids(a, "NOT-FLAGS", "P")
    assert ids(a, "NOT-ID", me, "NOT-TYPE", "pubsub", "NAME", "filtered") == [other]
    assert ids(a, "USER", "nobody") == ids(a, "MAXAGE", 100000) == ids(a, "IDLE", 100000) == []
    assert me not in ids(a, "SKIPME", "yes", "TYPE", "normal") and me in ids(a, "SKIPME", "no", "TYPE", "normal")
    for words in (("TYPE", "nonsense"), ("ID", "x"), ("ID",), ("TYPE",), ("nonsense", 1)):
        assert is_error(a.ask("CLIENT", "LIST", *words), "ERR"), words


def test_kill(pair, connect):
    a = connect()
    made = {}
    for name in ("id", "addr", "laddr", "user", "type", "not", "many1", "many2"):
        c = made[name] = connect()
        c("CLIENT", "SETNAME", f"kill-{name}")
    number = {name: c("CLIENT", "ID") for name, c in made.items()}
    me = a("CLIENT", "ID")
    assert a("CLIENT", "KILL", "ID", number["id"]) == 1 and made["id"].closed_within(2)
    assert a("CLIENT", "KILL", "ADDR", "%s:%d" % made["addr"].sock.getsockname()) == 1 and made["addr"].closed_within(2)
    assert a("CLIENT", "KILL", "LADDR", "%s:%d" % made["laddr"].sock.getpeername(), "ID", number["laddr"]) == 1
    assert made["laddr"].closed_within(2)
    assert a("CLIENT", "KILL", "ID", number["many1"], number["many2"]) == 2
    assert made["many1"].closed_within(2) and made["many2"].closed_within(2)
    made["type"]("SUBSCRIBE", "x")
    assert a("CLIENT", "KILL", "TYPE", "pubsub", "MAXAGE", 100000) == 0
    assert a("CLIENT", "KILL", "TYPE", "pubsub") == 1
    made["type"].sock.settimeout(5)
    with pytest.raises(Closed):
        made["type"].read()
    assert a("CLIENT", "KILL", "USER", "default", "NAME", "kill-user") == 1 and made["user"].closed_within(2)
    assert a("CLIENT", "KILL", "%s:%d" % made["not"].sock.getsockname()) == b"OK" and made["not"].closed_within(2)
    assert a("CLIENT", "KILL", "ID", me) == 0 and a("PING") == b"PONG"  # SKIPME is yes by default
    assert a("CLIENT", "KILL", "ID", me, "SKIPME", "no") == 1 and a.closed_within(2)
    b = connect()
    with pair[0].client() as v:
        for words in (("1.2.3.4:5",), ("ID", 0), ("TYPE", "z"), ("SKIPME", "perhaps"), ("MAXAGE", 0), ("MAXAGE", "x"), ("ID",),
                      ("x", "y"), ()):
            assert b.ask("CLIENT", "KILL", *words) == v.ask("CLIENT", "KILL", *words), words
    assert b("CLIENT", "KILL", "%s:%d" % b.sock.getsockname()) == b"OK" and b.closed_within(2)


def test_kill_of_a_blocked_client_takes_nothing(connect, mode):
    a, c = connect(), connect()
    number = c("CLIENT", "ID")
    c.send("BLPOP", "kill:list", 0)
    wait_until(lambda: blocked(a, number), 5, "blocked")
    assert a("CLIENT", "KILL", "ID", number) == 1
    assert a("RPUSH", "kill:list", 1) == 1
    assert a("LLEN", "kill:list") == 1
    a("DEL", "kill:list")


# ---- UNBLOCK ----

@pytest.mark.parametrize("command,timed_out", [(("BLPOP", "unblock:none", 0), None), (("XREAD", "BLOCK", 0, "STREAMS", "unblock:x", "$"), None),
                                               (("WAIT", 7, 0), 0), (("WAITAOF", 0, 7, 0), [0, 1])])
def test_unblock(connect, command, timed_out):
    a, c = connect(), connect()
    number = c("CLIENT", "ID")
    for how in ("TIMEOUT", "ERROR"):
        c("SET", "unblock:some", 1)
        c.send(*command)
        wait_until(lambda: blocked(a, number), 5, "blocked")
        wait_until(lambda: a("CLIENT", "UNBLOCK", number, how) == 1, 5, "unblocked")
        if how == "TIMEOUT":
            got = c.read()  # WAITAOF: durable here, or not yet known to be
            assert got == timed_out if command[0] != "WAITAOF" else got[0] in timed_out and got[1] == 0
        else:
            assert c.read().text == "UNBLOCKED client unblocked via CLIENT UNBLOCK"
    assert c("PING") == b"PONG" and a("CLIENT", "UNBLOCK", number) == 0 and a("CLIENT", "UNBLOCK", 999999) == 0


# ---- tracking ----

def invalidated(c):
    """The keys of the next invalidation of a RESP2 subscriber."""
    kind, channel, keys = c.read()
    assert (kind, channel) == (b"message", b"__redis__:invalidate")
    return keys


@pytest.mark.parametrize("subscribes_first", [True, False])
def test_redirect(connect, mode, subscribes_first):
    """By Holdfast's ids, whichever comes first: REDIRECT or SUBSCRIBE."""
    c, target, d = connect(), connect(), connect()
    number = target("CLIENT", "ID")
    if subscribes_first:
        target("SUBSCRIBE", "__redis__:invalidate")
    assert c("CLIENT", "GETREDIR") == -1
    assert c("CLIENT", "TRACKING", "ON", "REDIRECT", number) == b"OK"
    if not subscribes_first:
        target("SUBSCRIBE", "__redis__:invalidate")
    assert c("CLIENT", "GETREDIR") == number
    info = c("CLIENT", "TRACKINGINFO")
    assert dict(zip(info[::2], info[1::2])) == {b"flags": [b"on"], b"redirect": number, b"prefixes": []}
    assert line_of(d, c("CLIENT", "ID"))["redir"] == str(number)
    c("GET", "redirected")
    d("SET", "redirected", 1)
    assert invalidated(target) == [b"redirected"]
    target.close()
    wait_until(lambda: line_of(d, c("CLIENT", "ID"))["flags"] == "tR", 5, "the redirection is broken")
    assert c("CLIENT", "TRACKING", "OFF") == b"OK" and c("CLIENT", "GETREDIR") == -1
    for bad in (999999, "x", -5):
        assert is_error(c.ask("CLIENT", "TRACKING", "ON", "REDIRECT", bad), "ERR")


def test_redirect_to_resp3(connect):
    c, target, d = connect(), connect(proto=3), connect()
    assert c("CLIENT", "TRACKING", "ON", "REDIRECT", target("CLIENT", "ID")) == b"OK"
    c("GET", "redirected:3")
    d("SET", "redirected:3", 1)
    assert target.read_any() == [b"invalidate", [b"redirected:3"]]


def push(c):
    got = c.read_any()
    assert isinstance(got, PushReply), got
    return got


def test_tracking_modes(pair, connect, mode):
    c, d = connect(proto=3), connect()
    assert c("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "user:", "PREFIX", "item:") == b"OK"
    d("SET", "other:1", 1)
    d("SET", "user:1", 1)
    assert push(c) == [b"invalidate", [b"user:1"]]
    assert line_of(d, c("CLIENT", "ID"))["flags"] == "tB"
    assert c("CLIENT", "TRACKING", "OFF") == b"OK"
    assert c("CLIENT", "TRACKING", "ON", "OPTIN") == b"OK"
    c("GET", "optin:not")
    assert c("CLIENT", "CACHING", "YES") == b"OK"
    c("GET", "optin:yes")
    d.pipeline([("SET", "optin:not", 1), ("SET", "optin:yes", 1)])
    assert push(c) == [b"invalidate", [b"optin:yes"]]
    assert c("CLIENT", "TRACKING", "OFF") == b"OK"
    assert c("CLIENT", "TRACKING", "ON", "OPTOUT", "NOLOOP") == b"OK"
    assert c("CLIENT", "CACHING", "NO") == b"OK"
    c("GET", "optout:no")
    c("GET", "optout:yes")
    c("GET", "optout:own")
    d.pipeline([("SET", "optout:no", 1), ("SET", "optout:yes", 1)])
    assert push(c) == [b"invalidate", [b"optout:yes"]]
    d("FLUSHDB")
    assert push(c) == [b"invalidate", None]
    with pair[0].client(proto=3) as v:
        for words in (("ON", "OPTIN", "OPTOUT"), ("ON", "PREFIX", "x"), ("ON", "BCAST", "OPTIN"), ("PERHAPS",), ("ON", "nonsense")):
            v("CLIENT", "TRACKING", "OFF")
            c("CLIENT", "TRACKING", "OFF")
            assert c.ask("CLIENT", "TRACKING", *words) == v.ask("CLIENT", "TRACKING", *words), words
        assert c.ask("CLIENT", "CACHING", "YES") == v.ask("CLIENT", "CACHING", "YES")
        assert c("CLIENT", "TRACKINGINFO") == v("CLIENT", "TRACKINGINFO")


@pytest.mark.parametrize("how", ["lane", "captured"])
def test_noloop(connect, mode, how):
    """A write of the tracking connection itself runs on its own connection, so Valkey knows whose it is."""
    c, d = connect(proto=3), connect()
    assert c("CLIENT", "TRACKING", "ON", "NOLOOP") == b"OK"
    c("GET", "noloop:k")
    c("GET", "noloop:end")
    if how == "lane":
        c("SET", "noloop:k", 1)
    else:
        c("EVAL", "return redis.call('SET', KEYS[1], 2)", 1, "noloop:k")
    d("SET", "noloop:end", 1)
    wait_until(lambda: c.ask("PING") == b"PONG" and c.pushes, 5, "the end")
    assert c.pushes == [[b"invalidate", [b"noloop:end"]]]
