"""A session's own state: transactions, subscriptions, blocking, users, CLIENT; and the order of one connection's commands."""
import socket
import threading
import time

import pytest

from harness import is_error, set_mode, wait_until
from resp import Client, Closed, RespError, encode

SUBSCRIBED = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"


@pytest.fixture(params=["sync", "async", "off"])
def mode(request, pair):
    set_mode(pair[1], request.param)
    return request.param


# ---- order ----

def test_one_connection_sees_its_own_writes(connect, mode):
    """Reads, replayable and captured writes, and what is answered by us, in one pipeline: in order, each seeing those before it."""
    c = connect()
    commands, expected = [], []
    for n in range(200):
        commands += [("SET", "own", n), ("GET", "own"), ("EVAL", "return redis.call('INCR', KEYS[1])", 1, "own"), ("PING", n), ("GET", "own"),
                     ("ECHO", n)]
        expected += [b"OK", b"%d" % n, n + 1, b"%d" % n, b"%d" % (n + 1), b"%d" % n]
    assert c.pipeline(commands) == expected


def test_databases_and_protocols_change_in_line(connect, mode):
    c = connect()
    for db in (0, 1, 2):
        c("SELECT", db)
        c("DEL", "where", "h")
        c("HSET", "h", "f", db)
    got = c.pipeline([("SELECT", 1), ("SET", "where", 1), ("SELECT", 2), ("SET", "where", 2), ("HELLO", 3), ("HGETALL", "h"), ("GET", "where"),
                      ("SELECT", 1), ("GET", "where"), ("HELLO", 2), ("HGETALL", "h"), ("SELECT", 0), ("GET", "where"), ("SELECT", 99),
                      ("GET", "where")])
    assert got[5] == {b"f": b"2"} and got[6] == b"2" and got[8] == b"1" and got[10] == [b"f", b"1"] and got[12] is None
    assert is_error(got[13], "ERR") and got[14] is None


# ---- transactions ----

def test_transaction(connect, mode):
    c, d = connect(), connect()
    c("DEL", "t", "u")
    assert c.pipeline([("MULTI",), ("INCR", "t"), ("SET", "u", "x"), ("GET", "t"), ("EXEC",), ("GET", "u")]) == \
        [b"OK", b"QUEUED", b"QUEUED", b"QUEUED", [1, b"OK", b"1"], b"x"]
    assert c.pipeline([("MULTI",), ("INCR", "t"), ("DISCARD",), ("GET", "t")]) == [b"OK", b"QUEUED", b"OK", b"1"]
    assert c("WATCH", "t") == b"OK"
    assert d("SET", "t", 50) == b"OK"
    assert c.pipeline([("MULTI",), ("INCR", "t"), ("EXEC",)]) == [b"OK", b"QUEUED", None]
    assert c("WATCH", "t") == b"OK"
    assert c("GET", "t") == b"50"
    assert c("UNWATCH") == b"OK"
    d("SET", "t", 60)
    assert c.pipeline([("MULTI",), ("INCR", "t"), ("EXEC",)])[-1] == [61]


def test_errors_of_transactions(connect, mode):
    c = connect()
    assert c.ask("EXEC") == RespError("ERR EXEC without MULTI")
    assert c.ask("DISCARD") == RespError("ERR DISCARD without MULTI")
    got = c.pipeline([("MULTI",), ("MULTI",), ("WATCH", "x"), ("GET",), ("NOSUCH", "a"), ("EXEC",)])
    assert got[0] == b"OK" and all(is_error(r, "ERR") for r in got[1:5]) and is_error(got[5], "EXECABORT")
    got = c.pipeline([("MULTI",), ("EXEC", "x"), ("SET", "e", 1), ("EXEC",), ("PING",)])
    assert is_error(got[1], "EXECABORT") and got[2] == b"OK" and is_error(got[3], "ERR") and got[4] == b"PONG"
    got = c.pipeline([("MULTI",), ("SUBSCRIBE", "x"), ("HELLO", 3), ("CLIENT", "REPLY", "OFF"), ("CLIENT", "KILL", "ID", 1), ("EXEC",)])
    assert all(is_error(r, "ERR") for r in got[1:5])
    assert c("PING") == b"PONG"


def test_select_inside_multi(connect, mode):
    c = connect()
    c("SELECT", 3)
    c("DEL", "s")
    c("SELECT", 0)
    assert c.pipeline([("MULTI",), ("SELECT", 3), ("SET", "s", 1), ("EXEC",), ("GET", "s")])[-2:] == [[b"OK", b"OK"], b"1"]
    assert c.pipeline([("MULTI",), ("SELECT", 0), ("DISCARD",), ("GET", "s")])[-1] == b"1"
    got = c.pipeline([("MULTI",), ("SELECT", 77), ("EXEC",), ("GET", "s")])
    assert is_error(got[2][0], "ERR") and got[3] == b"1"


def test_gone_inside_multi(connect, mode):
    c, d = connect(), connect()
    d("DEL", "gone")
    c.pipeline([("MULTI",), ("SET", "gone", 1)])
    c.close()
    time.sleep(0.1)
    assert d("EXISTS", "gone") == 0


# ---- publish and subscribe ----

@pytest.mark.parametrize("proto", [2, 3])
def test_subscriptions(connect, mode, proto):
    s, p = connect(proto=proto), connect()
    got = []

    def take(n):
        while len(got) < n:
            got.append(list(s.read_any()))
        out = got[:]
        got.clear()
        return out
    s.send("SUBSCRIBE", "a", "b")
    assert take(2) == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]
    s.send("PSUBSCRIBE", "p*")
    assert take(1) == [[b"psubscribe", b"p*", 3]]
    s.send("SSUBSCRIBE", "sh")
    assert take(1) == [[b"ssubscribe", b"sh", 1]]
    assert p.pipeline([("PUBLISH", "a", "1"), ("PUBLISH", "pq", "2"), ("SPUBLISH", "sh", "3"), ("PUBLISH", "none", "4")]) == [1, 1, 1, 0]
    assert take(3) == [[b"message", b"a", b"1"], [b"pmessage", b"p*", b"pq", b"2"], [b"smessage", b"sh", b"3"]]
    if proto == 2:
        assert s.ask("GET", "x") == RespError("ERR Can't execute 'get': " + SUBSCRIBED)
        assert s.ask("PING") == [b"pong", b""] and s.ask("PING", "x") == [b"pong", b"x"]
    else:
        assert s("SET", "while", "subscribed") == b"OK" and s("GET", "while") == b"subscribed"
        assert s("PING") == b"PONG"
    s.send("UNSUBSCRIBE")
    assert sorted(r[1] for r in take(2)) == [b"a", b"b"]
    s.raw(encode("PUNSUBSCRIBE") + encode("SUNSUBSCRIBE"))
    assert [r[0] for r in take(2)] == [b"punsubscribe", b"sunsubscribe"]
    assert s("SET", "k", "v") == b"OK" and s("GET", "k") == b"v" and s("PING") == b"PONG"
    assert p("PUBLISH", "a", "x") == 0


def test_subscribing_in_a_pipeline(connect, mode):
    s = connect()
    s.raw(encode("SET", "pre", 1) + encode("SUBSCRIBE", "a") + encode("SUBSCRIBE", "b") + encode("UNSUBSCRIBE", "a", "b") + encode("GET", "pre"))
    got = [s.read_any() for _ in range(6)]
    assert got == [b"OK", [b"subscribe", b"a", 1], [b"subscribe", b"b", 2], [b"unsubscribe", b"a", 1], [b"unsubscribe", b"b", 0], b"1"]


def test_many_messages_reach_a_subscriber_in_order(connect):
    s, p = connect(), connect()
    s("SUBSCRIBE", "flood")
    for _ in range(20):
        p.pipeline([("PUBLISH", "flood", n) for n in range(500)])
    assert [s.read_any()[2] for _ in range(10000)] == [b"%d" % n for n in range(500)] * 20


def test_markers_cannot_be_seen_or_sent(connect):
    c, d = connect(), connect()
    assert c("MONITOR") == b"OK"
    for n in range(20):
        d("SET", "m", n)
        d("SPOP", "nosuch")
    time.sleep(0.2)
    lines = []
    while not c.silent_for(0.2):
        lines.append(c.read_any())
        if len(lines) > 1000:
            break
    assert any(b'"SET" "m"' in line for line in lines)
    assert not any(b"SPUBLISH" in line.upper() for line in lines)
    c.send("RESET")
    while c.read_any() != b"RESET":
        pass
    assert c("PING") == b"PONG"


# ---- blocking ----

def test_blocking_pop_waits_and_is_woken(connect, mode):
    c, d = connect(), connect()
    d("DEL", "q")
    c.send("BLPOP", "q", 20)
    assert c.silent_for(0.2)
    assert d("RPUSH", "q", "x") == 1
    assert c.read() == [b"q", b"x"]
    assert c.ask("BLPOP", "q", 0.1) is None
    c.raw(encode("BLPOP", "q", 20) + encode("SET", "after", 1) + encode("GET", "after"))
    time.sleep(0.1)
    d("RPUSH", "q", "y")
    assert [c.read() for _ in range(3)] == [[b"q", b"y"], b"OK", b"1"]


def test_gone_client_takes_nothing(connect, mode):
    c, d = connect(), connect()
    d("DEL", "q")
    c.send("BLPOP", "q", 0)
    assert c.silent_for(0.2)
    c.close()
    time.sleep(0.3)
    assert d("RPUSH", "q", "mine") == 1
    assert d("LLEN", "q") == 1


def test_gone_client_with_a_pipeline_behind_takes_nothing(connect, mode):
    c, d = connect(), connect()
    d("DEL", "q")
    c.raw(encode("BLPOP", "q", 0) + encode("GET", "x"))
    assert c.silent_for(0.2)
    c.close()
    time.sleep(0.3)
    assert d("RPUSH", "q", "mine") == 1
    assert d("LLEN", "q") == 1


def test_unblock_by_our_id(connect, mode):
    c, d = connect(), connect()
    number = c("CLIENT", "ID")
    assert d("CLIENT", "UNBLOCK", number) == 0
    c.send("BLPOP", "unblock", 0)
    assert c.silent_for(0.2)
    assert d("CLIENT", "UNBLOCK", number, "ERROR") == 1
    assert is_error(c.read(), "UNBLOCKED")
    assert c("PING") == b"PONG"


def test_stream_read_blocks(connect, mode):
    c, d = connect(), connect()
    d("DEL", "st")
    c.send("XREAD", "BLOCK", 10000, "STREAMS", "st", "$")
    assert c.silent_for(0.2)
    added = d("XADD", "st", "*", "f", "v")
    assert c.read() == [[b"st", [[added, [b"f", b"v"]]]]]


# ---- scripts ----

def test_scripts(connect, mode):
    c = connect()
    sha = c("SCRIPT", "LOAD", "return redis.call('SET', KEYS[1], ARGV[1])")
    assert c("EVALSHA", sha, 1, "script", "v") == b"OK" and c("GET", "script") == b"v"
    assert c("SCRIPT", "EXISTS", sha) == [1]
    assert c("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "script") == b"v"
    assert is_error(c.ask("EVALSHA", "f" * 40, 0), "NOSCRIPT")
    reply = c.ask("EVAL", "redis.set_repl(redis.REPL_NONE) return 1", 0)
    assert is_error(reply, "ERR") if mode == "sync" else True


def test_busy_script_is_killed_through_us(connect, mode):
    c, d = connect(timeout=30), connect(timeout=30)
    d("CONFIG", "SET", "busy-reply-threshold", 100)
    c.send("EVAL", "while true do end", 0)
    time.sleep(0.5)
    assert is_error(connect().ask("GET", "x"), "BUSY")
    assert d("SCRIPT", "KILL") == b"OK"
    assert isinstance(c.read(), RespError)
    assert c("SET", "after", 1) == b"OK" and d("GET", "after") == b"1"
    d("CONFIG", "SET", "busy-reply-threshold", 5000)


# ---- users ----

def test_users(pair, connect, mode):
    admin = connect()
    admin("ACL", "SETUSER", "reader", "on", ">pw", "~r:*", "+@read", "+ping", "+multi", "+exec", "+acl|whoami", "+client|getname", "&*")
    admin("ACL", "SETUSER", "boss", "on", ">pw", "~*", "&*", "+@all")
    admin("SET", "r:1", "x")
    c = connect()
    assert is_error(c.ask("AUTH", "reader", "wrong"), "WRONGPASS")
    assert c("GET", "r:1") == b"x"  # still the default user
    assert c("AUTH", "reader", "pw") == b"OK"
    assert c("ACL", "WHOAMI") == b"reader"
    assert c("GET", "r:1") == b"x"
    for refused in (("GET", "other"), ("SET", "r:1", "y"), ("CONFIG", "GET", "*"), ("EVAL", "return 1", 0), ("INFO",)):
        assert is_error(c.ask(*refused), "NOPERM"), refused
    assert c.pipeline([("MULTI",), ("GET", "r:1"), ("EXEC",)]) == [b"OK", b"QUEUED", [b"x"]]
    got = c.pipeline([("MULTI",), ("SET", "r:1", "z"), ("EXEC",)])
    assert is_error(got[1], "NOPERM") and is_error(got[2], "EXECABORT")
    assert c("AUTH", "boss", "pw") == b"OK"
    assert c("SET", "boss", 1) == b"OK" and c("GET", "boss") == b"1"
    assert c("RESET") == b"RESET" and c("ACL", "WHOAMI") == b"default"
    d = connect()
    assert d.ask("HELLO", 3, "AUTH", "reader", "pw", "SETNAME", "me")[b"proto"] == 3
    assert d("CLIENT", "GETNAME") == b"me"
    assert is_error(d.ask("SET", "r:1", 1), "NOPERM") and d("GET", "r:1") == b"x"
    admin("ACL", "DELUSER", "reader", "boss")
    with pytest.raises(Closed):
        for _ in range(100):
            d.ask("GET", "r:1")
            time.sleep(0.05)


def test_user_that_loses_rights_loses_its_lane(connect):
    admin, c = connect(), connect()
    admin("ACL", "SETUSER", "many", "on", ">pw", "~*", "&*", "+@all")
    assert c("AUTH", "many", "pw") == b"OK" and c("SET", "x", 1) == b"OK"
    admin("ACL", "SETUSER", "many", "-set")
    assert c.closed_within(5)
    admin("ACL", "DELUSER", "many")


def test_own_user_is_not_changed_through_us(connect):
    """Else a password for the default user would lock Holdfast out, which logs in as it here."""
    c = connect()
    assert is_error(c.ask("CONFIG", "SET", "requirepass", "x"), "ERR")
    assert is_error(c.ask("ACL", "SETUSER", "default", ">x"), "ERR")
    assert is_error(c.ask("ACL", "DELUSER", "nobody", "default"), "ERR")


# ---- CLIENT, CONFIG, INFO ----

def test_client(connect):
    c, d = connect(), connect()
    number = c("CLIENT", "ID")
    assert c("CLIENT", "SETNAME", "me") == b"OK" and c("CLIENT", "GETNAME") == b"me"
    assert is_error(c.ask("CLIENT", "SETNAME", "a b"), "ERR")
    assert c("CLIENT", "SETINFO", "lib-name", "lib") == b"OK"
    info = c("CLIENT", "INFO").decode()
    assert info.startswith(f"id={number} addr=127.0.0.1:") and " name=me " in info and " lib-name=lib " in info and info.endswith("\n")
    assert f"id={number} " in d("CLIENT", "LIST").decode()
    assert d("CLIENT", "LIST", "ID", number).decode().count("\n") == 1
    assert f"id={number} " not in d("CLIENT", "LIST", "TYPE", "pubsub").decode()
    assert d("CLIENT", "KILL", "ID", number) == 1
    assert c.closed_within(2)
    assert is_error(d.ask("CLIENT", "KILL", "1.2.3.4:5"), "ERR")


def test_client_reply(connect):
    c = connect()
    c.raw(encode("CLIENT", "REPLY", "OFF") + encode("SET", "quiet", 1) + encode("PING") + encode("CLIENT", "REPLY", "ON"))
    assert c.read() == b"OK"
    assert c("GET", "quiet") == b"1"
    c.raw(encode("CLIENT", "REPLY", "SKIP") + encode("SET", "quiet", 2) + encode("GET", "quiet"))
    assert c.read() == b"2"


def test_tracking(connect, mode):
    c, d = connect(proto=3), connect()
    assert c("CLIENT", "TRACKING", "ON") == b"OK"
    c("GET", "tracked")
    d("SET", "tracked", 1)
    wait_until(lambda: c.ask("PING") == b"PONG" and c.pushes, 5, "the invalidation")
    assert c.pushes[0] == [b"invalidate", [b"tracked"]]
    assert c("CLIENT", "TRACKING", "OFF") == b"OK"
    assert c("SET", "tracked", 2) == b"OK" and c("GET", "tracked") == b"2"


def test_config_is_all_or_nothing(connect):
    c = connect()
    before = c("CONFIG", "GET", "maxclients", "maxmemory-samples")
    assert is_error(c.ask("CONFIG", "SET", "maxmemory-samples", 7, "durability", "perhaps"), "ERR")
    assert is_error(c.ask("CONFIG", "SET", "durability", "async", "maxmemory-samples", "x"), "ERR")
    assert c("CONFIG", "GET", "maxclients", "maxmemory-samples") == before
    assert c("CONFIG", "SET", "maxmemory-samples", 6, "timeout", 0) == b"OK"
    got = c("CONFIG", "GET", "maxmemory-samples", "dura*", "durability")
    pairs = dict(zip(got[::2], got[1::2]))
    assert len(got) == 2 * len(pairs) and pairs[b"maxmemory-samples"] == b"6" and b"durability" in pairs
    assert isinstance(connect(proto=3)("CONFIG", "GET", "port"), dict)


def test_wait(connect, mode):
    c = connect()
    c("SET", "w", 1)
    assert c("WAIT", 0, 1000) == 0
    began = time.monotonic()
    assert c("WAIT", 1, 200) == 0
    assert 0.15 < time.monotonic() - began < 5
    assert c("WAITAOF", 1, 0, 5000) == [1, 0]
    assert is_error(c.ask("WAIT", 1, -1), "ERR") and is_error(c.ask("WAITAOF", 2, 0, 0), "ERR")


# ---- load ----

def test_slow_reader_does_not_disturb(pair, connect, mode):
    slow, c = connect(), connect()
    c("SET", "big", b"x" * (1 << 20))
    sender = threading.Thread(target=lambda: slow.raw(encode("GET", "big") * 300), daemon=True)
    sender.start()
    began = time.monotonic()
    for n in range(200):
        assert c("SET", "beside", n) == b"OK"
    assert time.monotonic() - began < 20
    for _ in range(300):
        assert len(slow.read()) == 1 << 20
    sender.join(5)


def test_large_values(connect, mode):
    c = connect(timeout=60)
    value = bytes(range(256)) * (64 << 12)
    assert c("SET", "large", value) == b"OK"
    assert c("GET", "large") == value
    assert c("DEL", "large") == 1


def test_many_clients_at_once(pair, mode):
    wrong = []

    def work(number):
        with Client(pair[1].port, timeout=60) as c:
            for n in range(30):
                got = c.pipeline([("SET", f"c:{number}", n), ("INCR", f"c:{number}"), ("GET", f"c:{number}"), ("SADD", f"s:{number}", n),
                                  ("MULTI",), ("INCR", f"c:{number}"), ("EXEC",)])
                if got[:3] != [b"OK", n + 1, b"%d" % (n + 1)] or got[-1] != [n + 2]:
                    wrong.append(got)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[0]


def test_half_closed_client_gets_its_answers(pair):
    """printf ... | nc: everything that was asked before the end is answered; a blocked client that ends takes nothing any more."""
    _, holdfast = pair
    with holdfast.client() as c, holdfast.client() as blocked, holdfast.client() as other:
        c.raw(b"SET hc 1\r\nGET hc\r\nMULTI\r\nINCR hc\r\nEXEC\r\nGET hc\r\n")
        c.sock.shutdown(socket.SHUT_WR)
        assert [c.read() for _ in range(6)] == [b"OK", b"1", b"OK", b"QUEUED", [2], b"2"]
        blocked.send("BLPOP", "hl", 0)
        wait_until(lambda: other("INFO", "clients").find(b"blocked_clients:1") >= 0, 10, "it blocks")
        blocked.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: other("INFO", "clients").find(b"blocked_clients:0") >= 0, 10, "it is gone")
        assert other("RPUSH", "hl", "x") == 1
        assert other("LRANGE", "hl", 0, -1) == [b"x"]
