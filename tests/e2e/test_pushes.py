"""Pushes of a session's own connection: in their place among its replies, and not silenced by CLIENT REPLY."""
import pytest

from harness import is_error, wait_until
from resp import PushReply, encode


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_messages_to_oneself_come_behind_the_reply_of_what_published_them(rig, mode):
    _, h = rig.pair(durability=mode)
    with h.client(proto=3) as c:
        c.raw(encode("SUBSCRIBE", "foo"))
        assert c.read_any() == PushReply([b"subscribe", b"foo", 1])
        for round_number in range(20):
            c.raw(encode("EVAL", "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', 'foo', ARGV[1]) return ARGV[1]", 1, "k", round_number)
                  + encode("MULTI") + encode("SET", "k", "x") + encode("PUBLISH", "foo", "in multi") + encode("EXEC"))
            got = [c.read_any() for _ in range(7)]
            number = b"%d" % round_number
            assert got == [number, PushReply([b"message", b"foo", number]), b"OK", b"QUEUED", b"QUEUED", [b"OK", 1],
                           PushReply([b"message", b"foo", b"in multi"])], got


def test_an_invalidation_does_not_overtake_the_reply_that_it_invalidates(rig):
    """The reply of a read of what is not durable yet is held; the key changes once more meanwhile. Were its invalidation sent at once, the
    client would forget the key first, and then keep the stale value for ever."""
    v, h = rig.pair(durability="sync", disk=True)
    with h.client(proto=3) as cache, h.client() as writer, v.client() as direct:
        assert cache("CLIENT", "TRACKING", "ON") == b"OK"
        assert cache("GET", "k") is None
        h.disk.set("stall")
        set_it = "return redis.call('SET', KEYS[1], ARGV[1])"
        writer.send("EVAL", set_it, 1, "k", "old")
        wait_until(lambda: direct("GET", "k") == b"old", 10, "the first write in Valkey")
        assert cache.read_any() == PushReply([b"invalidate", [b"k"]])
        cache.send("GET", "k")
        wait_until(lambda: h.status()["waiting_replies"] >= 2, 10, "both replies are held")
        writer.send("EVAL", set_it, 1, "k", "new")
        wait_until(lambda: direct("GET", "k") == b"new", 10, "the second write in Valkey")
        wait_until(lambda: h.status()["waiting_replies"] >= 3, 10, "the third reply is held")
        assert cache.silent_for(0.1)
        h.disk.set("")
        assert [cache.read_any(), cache.read_any()] == [b"old", PushReply([b"invalidate", [b"k"]])]
        assert [writer.read(), writer.read()] == [b"OK", b"OK"]
        assert cache("GET", "k") == b"new"


@pytest.mark.parametrize("proto", [2, 3])
def test_client_reply_off_silences_neither_confirmations_nor_messages(rig, proto):
    _, h = rig.pair(durability="sync")
    with h.client(proto=proto) as c, h.client() as other:
        form = PushReply if proto == 3 else list
        c.raw(encode("CLIENT", "REPLY", "OFF") + encode("SUBSCRIBE", "a", "b"))
        assert [c.read_any(), c.read_any()] == [form([b"subscribe", b"a", 1]), form([b"subscribe", b"b", 2])]
        assert other("PUBLISH", "a", "hello") == 1
        assert c.read_any() == form([b"message", b"a", b"hello"])
        c.raw(encode("UNSUBSCRIBE", "a"))
        assert c.read_any() == form([b"unsubscribe", b"a", 1])


def test_a_deep_reply_passes(rig):
    """A table that contains itself ends at the limit of Lua's stack, thousands of levels down."""
    _, h = rig.pair(durability="async")
    with h.client() as c:
        c.raw(encode("EVAL", "local a = {}; local b = {a}; a[1] = b; return a", 0))
        depth, line = 0, c._line()
        while line == b"*1":
            depth, line = depth + 1, c._line()
        assert depth > 1000 and line == b"-ERR reached lua stack limit"
        assert c("PING") == b"PONG"


def test_invalidations_are_redirected_to_a_session_that_has_no_connection_of_its_own_yet(rig):
    _, h = rig.pair(durability="sync")
    with h.client() as c, h.client(proto=3) as target, h.client() as other:
        number = target("CLIENT", "ID")
        assert c("CLIENT", "GETREDIR") == -1
        assert c("CLIENT", "TRACKING", "ON", "REDIRECT", number) == b"OK"
        assert c("CLIENT", "GETREDIR") == number
        shown = c("CLIENT", "TRACKINGINFO")
        assert shown[shown.index(b"redirect") + 1] == number
        c("GET", "k")
        other("SET", "k", 1)
        assert target.read_any() == PushReply([b"invalidate", [b"k"]])
        c("CLIENT", "TRACKING", "OFF")
        assert c("CLIENT", "GETREDIR") == -1
        assert is_error(c.ask("CLIENT", "TRACKING", "ON", "REDIRECT", 123456), "ERR")


def test_a_broken_redirection_is_told_with_our_id(rig):
    _, h = rig.pair(durability="async")
    with h.client(proto=3) as c, h.client() as other:
        with h.client() as target:
            number = target("CLIENT", "ID")
            assert c("CLIENT", "TRACKING", "ON", "REDIRECT", number) == b"OK"
            c("GET", "k")
        wait_until(lambda: other("CLIENT", "LIST", "ID", number) == b"", 5, "the target is gone")
        wait_until(lambda: other("SET", "k", 1) and c("GET", "k") and c.pushes, 5, "the push")
        assert c.pushes[0] == PushReply([b"tracking-redir-broken", number])
        assert c("CLIENT", "TRACKINGINFO")[b"redirect"] == number


@pytest.mark.parametrize("proto", [2, 3])
def test_a_user_who_may_subscribe_and_nothing_else(rig, proto):
    _, h = rig.pair(durability="sync")
    with h.client(proto=proto) as c, h.client() as other:
        form = PushReply if proto == 3 else list
        assert other("ACL", "SETUSER", "ear", "on", "nopass", "resetchannels", "&news*", "-@all", "+subscribe", "+unsubscribe") == b"OK"
        assert c("AUTH", "ear", "") == b"OK"
        for channel in (b"news", b"news:2"):
            c.raw(encode("SUBSCRIBE", channel))
            assert c.read_any()[:2] == [b"subscribe", channel]
        c.raw(encode("SUBSCRIBE", "secret"))
        assert is_error(c.read_any(), "NOPERM")
        assert other("PUBLISH", "news", "hello") == 1
        assert c.read_any() == form([b"message", b"news", b"hello"])
        c.raw(encode("UNSUBSCRIBE", "news") + encode("UNSUBSCRIBE", "news:2"))
        assert [c.read_any()[2], c.read_any()[2]] == [1, 0]
        assert is_error(c.ask("GET", "k"), "NOPERM")
