"""Users as Valkey defines them: rights are Valkey's to judge, also for what Holdfast answers itself, and change at once."""
import time

import pytest

from harness import eventually, is_error, wait_until
from resp import Closed, RespError, encode


@pytest.fixture(autouse=True)
def no_users_left(pair):
    """Torn down after `connect`: nobody is logged in any more."""
    yield
    with pair[1].client() as c:
        names = [n for n in c("ACL", "USERS") if n != b"default"]
        if names:
            c("ACL", "DELUSER", *names)


def user(admin, name, *rules):
    assert admin("ACL", "SETUSER", name, "reset", "on", ">pw", *rules) == b"OK"


# What Holdfast answers itself, with arguments that do no harm.
ANSWERED = [("CLIENT", "ID"), ("CLIENT", "INFO"), ("CLIENT", "LIST"), ("CLIENT", "KILL", "ID", 999999), ("CLIENT", "GETNAME"),
            ("CLIENT", "SETNAME", "x"), ("CLIENT", "SETINFO", "lib-name", "x"), ("CLIENT", "PAUSE", 0), ("CLIENT", "UNPAUSE"),
            ("CLIENT", "UNBLOCK", 999999), ("CLIENT", "GETREDIR"), ("CLIENT", "TRACKINGINFO"), ("CLIENT", "HELP"), ("SELECT", 1), ("PING",),
            ("ACL", "WHOAMI"), ("WAIT", 0, 1), ("WAITAOF", 0, 0, 1), ("READONLY",), ("INFO", "server"), ("CONFIG", "GET", "maxclients"),
            ("CONFIG", "SET", "maxclients", 100), ("ROLE",), ("ACL", "SETUSER", "x"), ("ACL", "DELUSER", "x"), ("MONITOR",),
            ("CLIENT", "NO-TOUCH", "OFF"), ("CLIENT", "CAPA", "redirect"), ("ECHO", "x"), ("COMMAND", "COUNT"), ("SCRIPT", "KILL"),
            ("SUBSCRIBE", "x"), ("CLIENT", "TRACKING", "ON"), ("WATCH", "k"), ("MULTI",), ("DBSIZE",), ("SET", "a", 1), ("SPOP", "a")]


@pytest.mark.parametrize("words", ANSWERED, ids=lambda words: " ".join(map(str, words)))
def test_noperm_is_valkeys(pair, connect, words):
    """A user that may do nothing: the same words as Valkey's, for every way a command can go."""
    with pair[0].client() as v:
        user(v, "nobody")
        user(v, "nobody")
        v("AUTH", "nobody", "pw")
        got = connect("nobody").ask(*words)
        assert is_error(got, "NOPERM") and got == v.ask(*words)


@pytest.mark.parametrize("rules,words,allowed", [
    (("+client|id",), ("CLIENT", "ID"), True),
    (("+client", "-client|list"), ("CLIENT", "LIST"), False),
    (("+client", "-client|list"), ("CLIENT", "GETREDIR"), True),
    (("+@connection",), ("CLIENT", "PAUSE", 0), False),   # @admin, too: but + of the one is enough
    (("+@all", "-@admin"), ("CLIENT", "KILL", "ID", 999999), False),
    (("+@all", "-@dangerous"), ("CLIENT", "INFO"), True),
    (("+select|1",), ("SELECT", 1), True),
    (("+select|1",), ("SELECT", 2), False),
    (("+get", "~a:*"), ("GET", "b:1"), False),
    (("+@all", "%R~a:*"), ("GET", "a:1"), True),
    (("+@all", "%R~a:*"), ("SET", "a:1", 1), False),
    (("+@all", "%W~a:*"), ("SET", "a:1", 1), True),
    (("+@all", "%W~a:*"), ("SET", "a:1", 1, "GET"), False),
    (("+@all", "%R~src:*", "%W~dst:*"), ("COPY", "src:1", "dst:1"), True),
    (("+@all", "%R~src:*", "%W~dst:*"), ("COPY", "dst:1", "src:1"), False),
    (("-@all", "(+get ~s1:*)", "(+set ~s2:*)"), ("GET", "s1:x"), True),
    (("-@all", "(+get ~s1:*)", "(+set ~s2:*)"), ("SET", "s2:x", 1), True),
    (("-@all", "(+get ~s1:*)", "(+set ~s2:*)"), ("SET", "s1:x", 1), False),
    (("+@all", "~*", "&news:*"), ("PUBLISH", "news:1", "x"), True),
    (("+@all", "~*", "&news:*"), ("PUBLISH", "other", "x"), False),
    (("+@all", "~*", "&news:*"), ("SPUBLISH", "other", "x"), False),
    (("+@all", "~*", "&news:*"), ("SUBSCRIBE", "other"), False),
    (("+@all", "~*", "&news:*"), ("PSUBSCRIBE", "news:*"), True),
    (("+@all", "~*", "&news:*"), ("PSUBSCRIBE", "new*"), False),
    (("+eval", "+get", "~k"), ("EVAL", "return redis.call('SET', 'k', 1)", 1, "k"), None),
])
def test_rules(pair, connect, mode, rules, words, allowed):
    with pair[0].client() as v:
        admin = connect()
        user(admin, "ruled", *rules)
        v("AUTH", "ruled", "pw")
        got, theirs = connect("ruled").ask(*words), v.ask(*words)
        assert is_error(got, "NOPERM") == is_error(theirs, "NOPERM"), (got, theirs)
        if isinstance(theirs, RespError):
            assert got == theirs
        if allowed is not None and words != ("CLIENT", "PAUSE", 0):
            assert is_error(got, "NOPERM") == (not allowed), got


def test_refused_writes_are_in_no_log(pair, connect):
    admin = connect()
    user(admin, "careful", "+@all", "~mine:*")
    c = connect("careful")
    before = pair[1].status()
    for words in (("SET", "other", 1), ("MSET", "mine:1", 1, "other", 1), ("SPOP", "other"), ("EVAL", "return redis.call('DEL', KEYS[1])", 1, "other"),
                  ("RENAME", "mine:1", "other")):
        assert is_error(c.ask(*words), "NOPERM"), words
    c.pipeline([("MULTI",), ("SET", "mine:1", 1)])
    assert is_error(c.ask("SET", "other", 1), "NOPERM")
    assert is_error(c.ask("EXEC"), "EXECABORT")
    after = pair[1].status()
    assert after["effects_raw"] == before["effects_raw"] and after["effects_ref"] == before["effects_ref"]
    assert admin("EXISTS", "other", "mine:1") == 0


# ---- rights that change ----

def test_fewer_rights_hold_from_the_next_command_on(connect, mode):
    """Restricted before and after: the connection stays, as in Valkey."""
    admin = connect()
    user(admin, "changing", "+@all", "-@admin", "~a:*")
    c = connect("changing")
    assert c("SET", "a:1", 1) == b"OK" and is_error(c.ask("SET", "b:1", 1), "NOPERM")
    assert admin("ACL", "SETUSER", "changing", "resetkeys", "~b:*", "-client|info") == b"OK"
    assert is_error(c.ask("SET", "a:1", 2), "NOPERM") and c("SET", "b:1", 1) == b"OK"
    assert is_error(c.ask("CLIENT", "INFO"), "NOPERM")
    assert admin("ACL", "SETUSER", "changing", "off") == b"OK"
    assert c("GET", "b:1") == b"1"  # only logging in is over
    assert is_error(connect().ask("AUTH", "changing", "pw"), "WRONGPASS")
    assert admin("ACL", "SETUSER", "changing", "on", "+@all", "allkeys", "allchannels") == b"OK"
    assert c("SET", "a:1", 3) == b"OK" and c("CLIENT", "INFO").startswith(b"id=")


def test_full_rights_lost(connect, mode):
    """It shared connections that may do everything: its own connections are closed, and come back with what is left."""
    admin = connect()
    user(admin, "boss", "+@all", "~*", "&*")
    c, other = connect("boss"), connect()
    assert c("SET", "x", 1) == b"OK"
    assert admin("ACL", "SETUSER", "boss", "-flushall") == b"OK"
    assert c.closed_within(5) and other("PING") == b"PONG"
    c = connect("boss")
    assert is_error(c.ask("FLUSHALL"), "NOPERM") and c("GET", "x") == b"1"


def test_off_closes_nobody(connect):
    admin = connect()
    user(admin, "boss", "+@all", "~*", "&*")
    c = connect("boss")
    assert admin("ACL", "SETUSER", "boss", "off") == b"OK"
    assert c("SET", "x", 2) == b"OK" and c("ACL", "WHOAMI") == b"boss"


@pytest.mark.parametrize("rules", [("+@all", "~*", "&*"), ("+@read", "~*")])
@pytest.mark.parametrize("state", ["idle", "subscribed", "blocked", "multi"])
def test_deleted_user_is_disconnected(connect, rules, state):
    admin = connect()
    user(admin, "doomed", *rules, "+subscribe", "&*", "+blpop", "+multi")
    c, other = connect("doomed"), connect()
    if state == "subscribed":
        c("SUBSCRIBE", "here")
    elif state == "blocked":
        c.send("BLPOP", "nothing", 0)
    elif state == "multi":
        c("MULTI")
    assert admin("ACL", "DELUSER", "doomed") == 1
    c.sock.settimeout(5)
    with pytest.raises(Closed):
        while True:
            c.read_any()
    assert other("PING") == b"PONG" and admin("RPUSH", "nothing", 1) == 1 and admin("DEL", "nothing") == 1


@pytest.mark.parametrize("kind", ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"])
@pytest.mark.parametrize("rules", [("+@all", "~*", "&*"), ("+@pubsub", "&*")])
def test_withdrawn_channel_disconnects_its_subscribers(connect, kind, rules):
    admin = connect()
    user(admin, "listener", *rules)
    c, stays = connect("listener"), connect()
    c(kind, "news")
    stays(kind, "news")
    assert admin("ACL", "SETUSER", "listener", "resetchannels", "&other") == b"OK"
    c.sock.settimeout(5)
    with pytest.raises(Closed):
        c.read_any()
    admin("SPUBLISH" if kind == "SSUBSCRIBE" else "PUBLISH", "news", "x")
    assert b"x" in stays.read_any()


def test_default_user_with_password(rig):
    """Strangers get nothing but AUTH and HELLO; who was there stays."""
    v, h = rig.pair(valkey_user="holdfast", valkey_password="own", start=False)
    with v.client() as direct:
        direct("ACL", "SETUSER", "holdfast", "on", ">own", "~*", "&*", "+@all")
    h.start()
    with h.client() as old:
        assert old("SET", "k", 1) == b"OK"
        assert old("CONFIG", "SET", "requirepass", "secret") == b"OK"
        assert old("GET", "k") == b"1"
        with h.client() as c:
            for words in (("GET", "k"), ("CLIENT", "LIST"), ("INFO",), ("PING",), ("SUBSCRIBE", "x"), ("PROXY", "INFO"), ("CLIENT", "ID")):
                assert is_error(c.ask(*words), "NOAUTH"), words
            assert is_error(c.ask("AUTH", "wrong"), "WRONGPASS")
            assert is_error(c.ask("HELLO", 3, "AUTH", "default", "wrong"), "WRONGPASS")
            hello = c("HELLO", 3, "AUTH", "default", "secret", "SETNAME", "me")
            assert hello[b"proto"] == 3 and c("CLIENT", "GETNAME") == b"me" and c("GET", "k") == b"1"
            assert c("RESET") == b"RESET"
            assert is_error(c.ask("GET", "k"), "NOAUTH")
            assert c("AUTH", "secret") == b"OK" and c("GET", "k") == b"1"
        assert old("CONFIG", "SET", "requirepass", "") == b"OK"
        with h.client() as c:
            assert c("GET", "k") == b"1"


def test_acl_log_knows_the_user(connect, mode):
    admin = connect()
    user(admin, "logged", "+@all", "~mine:*")
    c = connect("logged")
    admin("ACL", "LOG", "RESET")
    for words in (("GET", "other"), ("SPOP", "other"), ("LPUSH", "other", 1)):
        assert is_error(c.ask(*words), "NOPERM")
    assert is_error(connect().ask("AUTH", "logged", "wrong"), "WRONGPASS")
    rows = [dict(zip(e[::2], e[1::2])) for e in admin("ACL", "LOG")]
    assert {(r[b"username"], r[b"reason"]) for r in rows} == {(b"logged", b"key"), (b"logged", b"auth")}


def test_pipelines_of_a_restricted_user_keep_their_order(connect, mode):
    admin = connect()
    user(admin, "piper", "+@all", "-flushall", "~p:*")
    c = connect("piper")
    words, expected = [], []
    for n in range(100):
        words += [("SET", "p:k", n), ("GET", "p:k"), ("SET", "q:k", n), ("CLIENT", "GETNAME"), ("INCR", "p:k"), ("SELECT", 0), ("GET", "p:k")]
        expected += [b"OK", b"%d" % n, "NOPERM", None, n + 1, b"OK", b"%d" % (n + 1)]
    got = c.pipeline(words)
    assert [g.code if isinstance(g, RespError) else g for g in got] == expected


def test_replayable_writes_of_a_restricted_user_take_the_writer_lane(pair, connect):
    """Authorised first, then logged ahead, as everybody's; refused ones leave nothing behind, and the order stays."""
    admin = connect()
    assert admin("CONFIG", "SET", "durability", "sync") == b"OK"
    user(admin, "laned", "+@all", "-flushall", "-setex", "~p:*")
    c = connect("laned")
    before = pair[1].status()
    words = [w for n in range(200) for w in (("INCR", "p:n"), ("SET", "q:n", n), ("RPUSH", "p:l", n), ("SETEX", "p:e", 100, n), ("EXPIRE", "p:n", 100))]
    got = c.pipeline(words)
    assert got[0::5] == list(range(1, 201)) and got[2::5] == list(range(1, 201)) and got[4::5] == [1] * 200
    assert all(is_error(g, "NOPERM") for g in got[1::5] + got[3::5])
    after = pair[1].status()
    assert after["writes_sync"] - before["writes_sync"] == 600 and after["writes_captured"] == before["writes_captured"]
    assert c("LRANGE", "p:l", 0, -1) == [b"%d" % n for n in range(200)]
    large = "x" * 100_000  # larger than is worth asking about: on its own connection
    assert c("SET", "p:large", large) == b"OK" and c("STRLEN", "p:large") == len(large)
    assert is_error(c.ask("SET", "q:large", large), "NOPERM") and admin("EXISTS", "q:n", "q:large", "p:e") == 0
    admin("DEL", "p:l", "p:n", "p:large")


def test_rights_withdrawn_under_load(connect, mode):
    """Each write is either done or refused, and from the answer of SETUSER on refused; nothing is half done."""
    admin = connect()
    user(admin, "loaded", "+@all", "-@admin", "~load:*")
    writers = [connect("loaded") for _ in range(4)]
    for c in writers:
        c.raw(b"".join(encode("RPUSH", "load:l", n) for n in range(500)))
    assert admin("ACL", "SETUSER", "loaded", "resetkeys") == b"OK"
    done = sum(1 for c in writers for _ in range(500) if isinstance(c.read(), int))
    assert admin("LLEN", "load:l") == done
    for c in writers:
        assert is_error(c.ask("RPUSH", "load:l", 1), "NOPERM")
    admin("DEL", "load:l")


def test_rights_of_relayed_clients(rig):
    g = rig.group()
    leader = g.leader().name
    near, far = g[leader], g[next(n for n in "abc" if n != leader)]
    with near.client() as admin, far.client() as c, far.client() as sub:
        user(admin, "remote", "+@all", "-@admin", "~a:*", "&a:*")
        assert c("AUTH", "remote", "pw") == b"OK" and sub("AUTH", "remote", "pw") == b"OK"
        assert c("SET", "a:1", 1) == b"OK" and is_error(c.ask("SET", "b:1", 1), "NOPERM") and is_error(c.ask("CLIENT", "LIST"), "NOPERM")
        sub("SUBSCRIBE", "a:news")
        assert admin("ACL", "SETUSER", "remote", "resetkeys", "~b:*", "resetchannels") == b"OK"
        sub.sock.settimeout(10)
        with pytest.raises(Closed):
            sub.read_any()
        assert is_error(c.ask("SET", "a:1", 1), "NOPERM") and c("SET", "b:1", 1) == b"OK"
        assert admin("ACL", "DELUSER", "remote") == 1
        c.sock.settimeout(10)
        c.raw(encode("GET", "b:1"))
        with pytest.raises(Closed):
            while True:
                c.read_any()


# ---- users of a group ----

def users_of(client):
    return sorted(client("ACL", "LIST"))


def logged_in(h, name, password="pw"):
    with h.client() as c:
        return c.ask("AUTH", name, password) == b"OK"


def test_users_after_a_failover(rig):
    """ACL SETUSER is in no replication stream: Holdfast's log carries it. Every node's Valkey knows the users, the next leader's too."""
    g = rig.group()
    first = g.leader().name
    with g[first].client() as admin:
        assert admin("ACL", "SETUSER", "alice", "on", ">pw", "~a:*", "resetchannels", "&news:*", "-@all", "+@read", "+ping", "+set",
                     "(~b:* +@write -@dangerous)") == b"OK"
        assert admin("ACL", "SETUSER", "bob", "on", ">pw", "+@all", "~*", "&*") == b"OK"
        assert admin("ACL", "SETUSER", "gone", "on", ">pw") == b"OK" and admin("ACL", "DELUSER", "gone") == 1
        want = users_of(admin)
    for name in "abc":
        with g[name].valkey.client() as v:
            wait_until(lambda: users_of(v) == want, 20, f"the users in {name}'s Valkey")
    g.kill9_zone(first)

    def seen_at(second):
        eventually(lambda: logged_in(second, "alice"), bool, 30, "alice may log in")
        with second.client() as c, second.client() as admin:
            assert c("AUTH", "alice", "pw") == b"OK"
            assert c("SET", "a:1", 1) == b"OK" and c("GET", "a:1") == b"1" and is_error(c.ask("SET", "c:1", 1), "NOPERM")
            assert logged_in(second, "bob") and not logged_in(second, "gone")
            assert admin("ACL", "SETUSER", "alice", "resetkeys", "~c:*") == b"OK"
            assert is_error(c.ask("SET", "a:1", 2), "NOPERM")
            return users_of(admin)

    second = g.leader()
    assert second.name != first
    term = second.status()["term"]
    try:
        want = seen_at(second)
    except Closed:  # a node that leads no more closes connections that are a user's own
        assert g.leader().status()["term"] != term, "closed without a reason"
        with g.leader().client() as admin:
            assert admin("ACL", "SETUSER", "alice", "resetkeys", "~a:*") == b"OK"
        want = seen_at(g.leader())
    g.restart(first)
    g.wait_serving()
    with g[first].valkey.client() as v:
        wait_until(lambda: users_of(v) == want, 30, "the users in the Valkey that came back empty")


def test_users_outlive_valkey_and_snapshots(rig):
    """A Valkey that comes back empty gets the users again, also when the entry that named them has gone with the log."""
    v, h = rig.pair(settings={"snapshot-log-bytes": "64kb", "log-size-max": "16mb"})
    with h.client() as c:
        assert c("ACL", "SETUSER", "kept", "on", ">pw", "+@all", "~k:*") == b"OK"
        want = users_of(c)
        for _ in range(3):
            before = h.status()["snapshot_index"]
            for n in range(40):
                c("SET", f"k:{n}", "x" * 8000)
            h.http("/snapshot", "POST")
            wait_until(lambda: h.status()["snapshot_index"] > before, 20, "a snapshot")
    v.restart_empty()
    wait_until(lambda: h.ready(), 20, "rebuilt")
    with h.client() as c:
        assert users_of(c) == want and c("AUTH", "kept", "pw") == b"OK" and c("STRLEN", "k:1") == 8000
    h.kill9()
    v.restart_empty()
    h.start()
    with h.client() as c:
        assert users_of(c) == want


def test_users_that_cannot_be_logged_are_not_promised(rig):
    """Holdfast may not read them: who is in sync mode is not told that they are safe."""
    v, h = rig.pair(valkey_user="holdfast", valkey_password="own", start=False)
    with v.client() as direct:
        direct("ACL", "SETUSER", "holdfast", "on", ">own", "~*", "&*", "+@all", "-acl|list")
    h.start()
    with h.client() as c:
        assert is_error(c.ask("ACL", "SETUSER", "new", "on"), "UNCERTAIN") and b"new" in c("ACL", "USERS")
        assert is_error(c.ask("ACL", "SETUSER", "new", "nonsense"), "ERR"), "nothing was done"
        assert c("CLIENT", "DURABILITY", "ASYNC") == b"OK"
        assert c("ACL", "SETUSER", "other", "on") == b"OK"


def test_users_that_nobody_changed_through_us_are_valkeys_own(rig):
    """Its own file counts, until somebody changes users by way of Holdfast; Holdfast's own user is never touched."""
    v, h = rig.pair(valkey_user="holdfast", valkey_password="own", start=False)

    def directly(*words):
        with v.client() as c:  # a restart closes what was connected to Valkey
            return c(*words)
    directly("ACL", "SETUSER", "holdfast", "on", ">own", "~*", "&*", "+@all")
    directly("ACL", "SETUSER", "file", "on", ">pw", "+get", "~*")
    h.start()
    h.restart()
    assert b"file" in directly("ACL", "USERS")
    with h.client() as c:
        assert c("ACL", "SETUSER", "new", "on", ">pw", "+@all", "~*") == b"OK"
        want = users_of(c)
    directly("ACL", "DELUSER", "new", "file")
    directly("ACL", "SETUSER", "stranger", "on")
    h.restart()
    assert sorted(directly("ACL", "LIST")) == want
    with h.client() as c:
        assert c("ACL", "DELUSER", "file", "new") == 2
    h.restart()
    assert sorted(directly("ACL", "USERS")) == [b"default", b"holdfast"]


def test_a_time_that_passes_while_rights_are_asked_for(pair, connect):
    """A moment so near that one look at the clock finds it to come and the next one past: it is done, in one way or another."""
    with pair[1].client() as admin:
        user(admin, "near", "~*", "+@all", "-@dangerous")
    c = connect("near")
    for _ in range(400):
        for ahead in range(3):
            now = int(time.time() * 1000) + ahead
            replies = c.pipeline([("SET", "near", "x", "PXAT", now + i // 20) for i in range(100)])
            assert replies == [b"OK"] * 100, [r for r in replies if r != b"OK"][:3]
