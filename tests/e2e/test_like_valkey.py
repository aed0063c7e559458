"""What a client sees of the server: as if there were nothing between it and a Valkey."""
import pytest

from harness import is_error, wait_until
from resp import encode, info_fields


@pytest.mark.parametrize("proto", [2, 3])
def test_info_and_role_speak_of_the_clients_own_connections(rig, proto):
    v, h = rig.pair(durability="sync", maxclients=321)
    others = [h.client() for _ in range(7)]
    with h.client(proto=proto) as c:
        for o in others:
            assert o("SET", "k", 1) == b"OK"
        fields = info_fields(c("INFO"))
        assert fields["connected_clients"] == "8" and fields["maxclients"] == "321" and fields["tcp_port"] == str(h.port)
        assert fields["role"] == "master" and fields["connected_slaves"] == "0" and "slave0" not in fields
        assert fields["holdfast_mode"] == "sync" and fields["redis_version"] == v.info()["redis_version"]
        assert v.info("replication")["connected_slaves"] == "1"  # our tap
        assert info_fields(c("INFO", "clients"))["connected_clients"] == "8"
        assert "holdfast_mode" not in info_fields(c("INFO", "clients", "replication"))
        role = c("ROLE")
        assert role[0] == b"master" and role[1] > 0 and role[2] == []
        others.pop().close()
        wait_until(lambda: info_fields(c("INFO", "clients"))["connected_clients"] == "7", 5, "one is gone")
    for o in others:
        o.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_monitor_shows_commands_of_clients_only(rig, mode):
    """Not what tells a shared connection whose command comes next, nor a new connection's first words."""
    _, h = rig.pair(durability=mode)
    with h.client() as m, h.client(proto=3, db=3) as c, h.client() as d:
        assert m("MONITOR") == b"OK"
        d("SET", "a", 1)
        c("SET", "b", 2)
        c("GET", "b")
        d("GET", "a")
        d("BLPOP", "nosuch", 0.01)  # a connection of its own
        c("SET", "last", 1)
        lines = []
        while not lines or b"last" not in lines[-1]:
            lines.append(m.read_any().split(b"] ", 1)[1])
        assert lines == [b'"SET" "a" "1"', b'"SET" "b" "2"', b'"GET" "b"', b'"GET" "a"', b'"BLPOP" "nosuch" "0.01"', b'"SET" "last" "1"']


def test_a_subcommand_glued_to_its_command_is_unknown(rig):
    _, h = rig.pair(durability="async")
    with h.client() as c:
        for command in (("CONFIG|GET", "port"), ("client|id",), ("GET|SET",)):
            assert is_error(c.ask(*command), "ERR") and "unknown command" in c.ask(*command).text


def test_ping_says_that_a_script_keeps_valkey_busy(rig):
    """As Valkey does: a health check that gets +PONG would be told that all is well."""
    _, h = rig.pair("--busy-reply-threshold", "50", durability="sync")
    with h.client() as c, h.client() as busy:
        busy.raw(encode("EVAL", "while true do end", 0))
        wait_until(lambda: is_error(c.ask("PING"), "BUSY"), 10, "-BUSY")
        assert c("SCRIPT", "KILL") == b"OK"
        assert is_error(busy.read(), "ERR")
        wait_until(lambda: c.ask("PING") == b"PONG", 10, "+PONG")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_exec_says_why_valkey_refuses_it(rig, mode):
    v, h = rig.pair(durability=mode)
    with h.client() as c, v.client() as direct, v.client() as admin:
        c("SET", "n", 1)
        answers = []
        for client in (direct, c):
            assert admin("CONFIG", "SET", "maxmemory", 0) == b"OK"
            assert client.pipeline([("MULTI",), ("GET", "n"), ("SET", "n", 2), ("INCR", "n")]) == [b"OK"] + 3 * [b"QUEUED"]
            assert admin("CONFIG", "SET", "maxmemory", 1) == b"OK"
            answers.append(client.ask("EXEC"))
            assert client.pipeline([("MULTI",), ("GET", "n"), ("EXEC",)])[2] == [b"1"]  # reads need no memory
        assert answers[1] == answers[0] and is_error(answers[0], "EXECABORT") and "OOM" in answers[0].text
        assert admin("CONFIG", "SET", "maxmemory", 0) == b"OK" and c("INCR", "n") == 2


@pytest.mark.parametrize("proto", [2, 3])
def test_a_refused_password_is_answered_in_any_database(rig, proto):
    """Valkey itself drops -WRONGPASS when an earlier reply of the connection has not left yet."""
    _, h = rig.pair(durability="async")
    with h.client(proto=proto, db=9) as c:
        assert c("ACL", "SETUSER", "alice", "on", ">right", "+@all", "~*", "&*") == b"OK"
        c("SET", "k", "in 9")
        for _ in range(3):
            assert is_error(c.ask("AUTH", "alice", "wrong"), "WRONGPASS")
            got = c.pipeline([("GET", "k"), ("AUTH", "alice", "wrong"), ("GET", "k"), ("HELLO", proto, "AUTH", "alice", "bad"), ("GET", "k")])
            assert [got[0], got[2], got[4]] == [b"in 9"] * 3 and is_error(got[1], "WRONGPASS") and is_error(got[3], "WRONGPASS")
        assert c("AUTH", "alice", "right") == b"OK" and c("ACL", "WHOAMI") == b"alice" and c("GET", "k") == b"in 9"
        assert c("ACL", "SETUSER", "bob", "on", ">right", "+get", "~*") == b"OK"  # neither SELECT nor HELLO
        assert c("AUTH", "bob", "right") == b"OK" and c("GET", "k") == b"in 9" and is_error(c.ask("SET", "k", 1), "NOPERM")


def test_what_client_pause_holds_is_counted_as_blocked(rig):
    _, h = rig.pair(durability="async")
    with h.client() as admin, h.client() as a, h.client() as b, h.client() as c:
        def blocked():
            return int(info_fields(admin("INFO", "clients"))["blocked_clients"])
        assert admin("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"
        c.send("BLPOP", "nothing", 0)  # a write: held, not yet waiting
        a.send("SET", "k", 1)
        wait_until(lambda: blocked() == 2, 5, "two are held")
        read_only = "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])"
        assert b.pipeline([("MULTI",), ("EVAL", read_only, 1, "k"), ("GET", "k"), ("EXEC",)])[3] == [None, None]
        b.raw(encode("MULTI") + encode("PUBLISH", "ch", "m") + encode("EXEC"))
        assert b.read() == b"OK"
        wait_until(lambda: blocked() == 3, 5, "PUBLISH is held, since it is in the stream")
        assert admin("CLIENT", "UNPAUSE") == b"OK"
        assert a.read() == b"OK" and [b.read(), b.read()] == [b"QUEUED", [0]]
        wait_until(lambda: blocked() == 1, 5, "only BLPOP waits")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_shared_connections_are_not_evicted(rig, mode):
    """With maxmemory-clients Valkey closes the connections whose buffers are the largest. That would hit clients that have done nothing."""
    v, h = rig.pair("--maxmemory-clients", "1mb", durability=mode)
    with h.client(timeout=60) as large, h.client() as small:
        assert large("SET", "large", b"x" * (1 << 20)) == b"OK"
        for _ in range(5):
            large.raw(encode("GET", "large") * 20 + encode("SET", "other", b"y" * (4 << 20)))
            assert small("SET", "k", 1) == b"OK" and small("GET", "k") == b"1"
            assert [len(large.read()) for _ in range(20)] == [1 << 20] * 20 and large.read() == b"OK"
        assert int(v.info("stats")["evicted_clients"]) == 0
