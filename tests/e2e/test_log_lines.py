"""The log that people read: its lines, in each format, over a whole life; each change of state once; nothing of users, nothing per request."""
import json
import re
import signal
import socket

import pytest

from harness import eventually, is_error, wait_until
from resp import Client, Closed, RespError, encode

LEVELS = {".": "debug", "-": "info", "*": "notice", "#": "warning"}
LEGACY_TIME = r"\d\d (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d\.\d{3}"
ISO_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
LEGACY = re.compile(rf"(\d+):H ({LEGACY_TIME}) ([.*#-]) ([^\x00-\x1f\x7f]+)")
LOGFMT = re.compile(rf'pid=(\d+) role=holdfast timestamp="({ISO_TIME})" level=(debug|info|notice|warning) '
                    r'message="((?:[^"\\\x00-\x1f\x7f]|\\\\)+)"')


def read_legacy(line, pid):
    m = LEGACY.fullmatch(line)
    return m and int(m[1]) == pid and (LEVELS[m[3]], m[4])


def read_logfmt(line, pid):
    m = LOGFMT.fullmatch(line)
    return m and int(m[1]) == pid and (m[3], m[4].replace("\\\\", "\\"))


def read_json(line, pid):
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if list(found) != ["pid", "role", "timestamp", "level", "message"] or found["pid"] != pid or found["role"] != "holdfast":
        return None
    if not re.fullmatch(r"\d{13}", found["timestamp"]) or found["level"] not in LEVELS.values():
        return None
    return found["level"], found["message"]


READERS = {"legacy": read_legacy, "logfmt": read_logfmt, "json": read_json}
STAMPS = {"legacy": "legacy", "logfmt": "iso8601", "json": "milliseconds"}


def test_every_line_of_every_format(rig):
    """Three nodes, each with another format, through hand-overs and deaths, with everything logged: each line reads strictly."""
    g = rig.group(start=False, loglevel="debug")
    formats = dict(zip("abc", READERS))
    for m in g:
        m.settings.update({"log-format": formats[m.name], "log-timestamp-format": STAMPS[formats[m.name]]})
    pids = {m.name: set() for m in g}

    def note():
        for m in g:
            pids[m.name].add(m.pid)
    g.start()
    note()
    for name in "abc":
        if g.leader().name != name:
            assert g.transfer(name)[0] == 200
            g.wait_serving()
            g.wait_equal()
        with g[name].client() as c:
            assert c("SET", "k", name) == b"OK"
    g["b"].valkey_process.kill9()
    g["b"].valkey_process.start()
    g.wait_equal()
    dead = g.leader()
    dead.kill9()
    g.wait_serving(members=[m for m in g if m is not dead])
    g.restart(dead.name)
    note()
    g.wait_equal()
    assert set(g.stop().values()) == {0}
    for m in g:
        lines, levels, messages = m.text().splitlines(), set(), []
        for line in lines:
            found = next(filter(None, (READERS[formats[m.name]](line, pid) for pid in pids[m.name])), None)
            assert found, f"{m.name}, {formats[m.name]}: {line!r}"
            levels.add(found[0])
            messages.append(found[1])
        assert levels == set(LEVELS.values()), "lines of all levels were there to be read"
        assert len(lines) > 40 and any("This node leads in term" in text for text in messages)


def test_the_format_changes_while_it_runs(rig):
    _, h = rig.pair()
    with h.client() as c:
        for name, reader in [*READERS.items(), ("legacy", read_legacy)]:
            said = len(h.text())
            assert c("CONFIG", "SET", "log-format", name, "log-timestamp-format", STAMPS[name]) == b"OK"
            assert c("CONFIG", "GET", "log-format") == [b"log-format", name.encode()]
            assert c("CONFIG", "SET", "timeout", len(name) + 100) == b"OK"
            assert c("CONFIG", "SET", "timeout", 0) == b"OK"

            def last(said=said, reader=reader):
                return [reader(line, h.pid) for line in h.text()[said:].splitlines()][-2:]
            assert [found[1] for found in last()] == [f'CONFIG SET timeout: {q}{a}{q} -> {q}{b}{q}' for a, b in
                                                      ((0, len(name) + 100), (len(name) + 100, 0))
                                                      for q in ("'" if name == "logfmt" else '"',)]
        assert is_error(c.ask("CONFIG", "SET", "log-format", "xml"), "ERR")
        assert is_error(c.ask("CONFIG", "SET", "syslog-enabled", "yes"), "ERR"), "as in Valkey, not at run time"
        assert c("CONFIG", "SET", "hide-user-data-from-log", "no") == b"OK", "that is Valkey's"


def test_a_logfile_that_cannot_be_opened_ends_the_start(rig):
    h = rig.holdfast(rig.valkey(), start=False, logfile="nowhere/there.log")
    h.launch()
    assert h.process.wait(20) == 1
    h.end_expected = True
    assert "logfile nowhere/there.log: No such file or directory" in h.text()
    assert not h.data_dir.exists()


class Told:
    """What the nodes have said since it was made, without the lines of the machine being slow."""

    def __init__(self, *nodes):
        self.at = {node: len(node.text()) for node in nodes}

    def lines(self, node, pattern):
        return [line for line in node.text()[self.at[node]:].splitlines() if re.search(pattern, line)]

    def once(self, node, *patterns):
        for pattern in patterns:
            wait_until(lambda p=pattern: self.lines(node, p), 10, f"{pattern} is logged")
            assert len(self.lines(node, pattern)) == 1, self.lines(node, pattern)

    def never(self, node, *patterns):
        for pattern in patterns:
            assert not self.lines(node, pattern), self.lines(node, pattern)


def test_changes_of_a_group_are_told_once(rig):
    g = rig.group(start=False)
    g.start()
    a, (b, c) = g.leader(), g.followers()
    for m in (b, c):
        assert len(re.findall(r"feeding -> fed: it has caught up with the log, by full sync", m.text())) == 1
    assert all(len(re.findall(r"Members of the group, as the log says: a, b, c\n", m.text())) == 1 for m in g)

    told = Told(*g)
    assert g.transfer(b)[0] == 200
    g.wait_serving()
    g.wait_equal()
    told.once(a, rf"\* Handing leadership over to {b.name}$", r"\* Leadership is handed over$", r"\* This node leads no longer: another one is to",
              rf"\* Node {b.name} leads in term", r"attached -> ", r" -> fed: .* by (partial|full) sync")  # a slow machine proves nothing in time
    told.once(b, r"\* This node leads in term", r"fed -> promoting: it leads", r"promoting -> attached", r"\* Ready to accept commands")
    told.once(c, rf"\* Node {b.name} leads in term")
    for m in g:
        told.never(m, "Writes are")

    told = Told(*g)
    b.valkey_process.kill9()  # the leader's
    wait_until(lambda: g.leader_now(besides=(b.name,)), 20, "another one leads")
    told.once(b, r" # Valkey at \S+: attached -> connecting: .*(closed|reset)", r"\* Leadership should be elsewhere: our Valkey is gone")
    b.valkey_process.start()
    g.wait_serving()
    g.wait_equal()
    told.once(b, r"connecting -> feeding", r"feeding -> fed")

    dead, told = g.leader(), Told(*g)
    dead.kill9()
    rest = [m for m in g if m is not dead]
    g.wait_serving(members=rest)
    for m in rest:
        told.once(m, rf" # Link to node {dead.name} is down: ")
    g.restart(dead.name)
    g.wait_equal()
    for m in rest:
        told.once(m, rf"\* Link to node {dead.name} is up")

    leader = g.leader()
    follower, told = next(m for m in g if m is not leader), Told(*g)
    assert follower.http("/snapshot", "POST")[0] == 200
    told.once(follower, r"\* Snapshot begun: asked for at the admin port", r"\* Snapshot done, at entry \d+: \d+ bytes in \d+ ms")

    told = Told(*g)
    with leader.client() as client:
        for _ in range(3):
            assert client("CONFIG", "SET", "durability", "async", "tcp-keepalive", 77) == b"OK"
    told.once(leader, r'\* CONFIG SET tcp-keepalive: "300" -> "77"')


def test_a_stalled_log_is_told_at_its_beginning_and_its_end(rig):
    """Falls behind, writes refused, and the end of each: one line, once, with what it waits for."""
    h = rig.holdfast(rig.valkey(), disk=True, durability_lag_max="2s")
    with h.client(timeout=60) as c:
        assert c("SET", "k", 0) == b"OK"
        told = Told(h)
        h.disk.set("stall")
        assert is_error(c.ask("SET", "k", 1), "UNCERTAIN")
        for _ in range(100):
            assert is_error(c.ask("SET", "k", 2), "CLUSTERDOWN")
        told.once(h, r" # The log falls behind: .*our disk does not answer \(durability-lag-max 2000 ms\)",
                  r" # Writes are refused: the oldest one that is not durable is older than durability-lag-max \(lag \d+ ms")
        told.never(h, "accepted again", "keeps up again")
        h.disk.set("")
        assert eventually(lambda: c.ask("SET", "k", 3), lambda reply: reply == b"OK", 20, "writes are accepted")
        told.once(h, r"\* Writes are accepted again: .*refused for \d+ ms", r"\* The log keeps up again, after \d+ ms", " # The log falls",
                  " # Writes are")

        told = Told(h)
        h.disk.set("enospc")
        full = r" # The log cannot grow, tried again every \d+ ms: ."
        wait_until(lambda: told.lines(h, full) or not c.ask("SET", "filler", "x" * 300_000), 30, "what is allocated is used up", every=0)
        h.disk.set("")
        told.once(h, full, r"\* The log has room again")


def test_settings_that_a_reload_changes_are_told(rig):
    h = rig.holdfast(rig.valkey(), start=False)
    file = h.dir / "h.conf"
    command = h.command()
    file.write_text("timeout 5\nadmin-token one-token\n")
    h.command = lambda: [command[0], str(file), *command[1:]]
    h.start()
    told = Told(h)
    file.write_text("timeout 6\nadmin-token another-token\nread-lanes 7\n")
    h.process.send_signal(signal.SIGHUP)
    told.once(h, r"\* Received SIGHUP, loading", r'\* SIGHUP: timeout: "5" -> "6"', r'\* SIGHUP: admin-token: "" -> ""', " # read-lanes .* restart")
    told = Told(h)
    file.write_text("timeout 7\nadmin-token 'third-token\n")
    h.process.send_signal(signal.SIGHUP)
    told.once(h, " # .*a line with a secret")
    told.never(h, "timeout")
    assert not re.search("(one|another|third)-token", h.text())


CANARY = "kanari7e"


def provoke(c):
    """Everything that names the canary, with errors of all kinds; what the answers are is tested elsewhere."""
    for words in [
            ("SET", CANARY, CANARY), ("GET", CANARY), ("INCR", CANARY), ("LPUSH", CANARY, CANARY), ("HSET", f"{CANARY}-h", CANARY, CANARY),
            ("SET", CANARY, CANARY, "EX", CANARY), ("SET", f"{CANARY}-t", CANARY, "PX", "20"), ("XADD", f"{CANARY}-x", "*", CANARY, CANARY),
            ("XGROUP", "CREATE", f"{CANARY}-x", CANARY, "0"), ("XREADGROUP", "GROUP", CANARY, CANARY, "STREAMS", f"{CANARY}-x", ">"),
            ("EVAL", f"return redis.call('{CANARY}', KEYS[1])", "1", CANARY), ("EVAL", f"error('{CANARY}')", "0"), ("EVAL", f"syntax {CANARY}", "0"),
            ("EVAL", f"redis.log(redis.LOG_WARNING, 'x') redis.set_repl(redis.REPL_NONE) -- {CANARY}", "0"), ("EVALSHA", CANARY, "0"),
            ("EVAL", f"redis.call('SET', KEYS[1], '{CANARY}')", "1", CANARY), ("FUNCTION", "LOAD", f"#!lua name={CANARY}\n broken"),
            ("FUNCTION", "LOAD", f"#!lua name={CANARY}\nserver.register_function('{CANARY}', function(keys, args) return '{CANARY}' end)"),
            ("FCALL", CANARY, "0"), ("SCRIPT", "LOAD", f"return '{CANARY}'"), ("SPOP", CANARY), (CANARY, CANARY), ("CLIENT", CANARY),
            ("CONFIG", "SET", "maxclients", CANARY), ("CONFIG", "SET", CANARY, CANARY), ("CONFIG", "GET", CANARY), ("CONFIG", "SET", "loglevel", CANARY),
            ("AUTH", CANARY), ("AUTH", CANARY, CANARY), ("HELLO", "3", "AUTH", CANARY, CANARY), ("HELLO", CANARY), ("CLIENT", "SETNAME", CANARY),
            ("CLIENT", "SETNAME", f"{CANARY} x"), ("CLIENT", "SETINFO", "lib-name", CANARY), ("CLIENT", "KILL", "USER", CANARY), ("CLIENT", "KILL", CANARY),
            ("CLIENT", "DURABILITY", CANARY), ("SELECT", CANARY), ("PUBLISH", CANARY, CANARY), ("SPUBLISH", CANARY, CANARY), ("ACL", "SETUSER", CANARY, CANARY),
            ("ACL", "SETUSER", f"{CANARY}", "reset", "on", f">{CANARY}", f"~{CANARY}*", "&*", "+@all", "-@dangerous"), ("ACL", "DRYRUN", CANARY, "GET", CANARY),
            ("WAIT", CANARY, CANARY), ("DEBUG", CANARY), ("MIGRATE", CANARY, "1", CANARY, "0", "10"), ("REPLICAOF", CANARY, "1"), ("OBJECT", CANARY),
            ("SORT", CANARY, "BY", f"{CANARY}-*", "GET", f"{CANARY}-*"), ("WATCH", CANARY), ("MULTI",), ("SET", CANARY, CANARY), (CANARY,), ("EXEC",),
            ("MULTI",), ("SET", CANARY, CANARY), ("INCR", CANARY), ("EXEC",), ("RESTORE", CANARY, "0", CANARY), ("PROXY", CANARY)]:
        c.ask(*words)


def misframe(port):
    """Bytes that are no commands, and connections that end in the middle of one."""
    for data in (f"*1\r\n${CANARY}\r\n", f"*{CANARY}\r\n", f"*2\r\n$3\r\nGET\r\n:{CANARY}\r\n", f"GET '{CANARY}\r\n", f"GET \"{CANARY}\\x\r\n",
                 f"GET / HTTP/1.1\r\nHost: {CANARY}\r\n\r\n", f"POST /{CANARY} HTTP/1.1\r\n\r\n", f"*3\r\n$3\r\nSET\r\n$8\r\n{CANARY}\r\n$99\r\n{CANARY}"):
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            s.sendall(data.encode())
            s.shutdown(socket.SHUT_WR)
            while s.recv(4096):
                pass


def test_nothing_of_users_is_logged(rig):
    """Keys, values, arguments, scripts, names, passwords, at debug level, on each port of each node, through errors and deaths."""
    g = rig.group(start=False, loglevel="debug", valkey_options=("--requirepass", f"{CANARY}-pw"))
    for m in g:
        m.settings["valkey-password"] = f"{CANARY}-pw"
        m.settings["admin-token"] = f"{CANARY}-token"
        m.wait_ready = lambda *_: None  # this group's clients must log in
    for m in g:
        g.launch(m.name)

    def login(port):
        client = Client(port, timeout=60)
        assert client("AUTH", f"{CANARY}-pw") == b"OK"
        return client

    def serves(m):
        try:
            with login(m.port) as c:
                return c.ask("SET", "there", 1) == b"OK"
        except (Closed, OSError, RespError):
            return False
    for m in g:
        wait_until(lambda m=m: serves(m), 30, f"{m.name} serves")
    for m in g:
        with login(m.port) as c:
            provoke(c)
        with login(m.port) as c:
            assert c("AUTH", CANARY, CANARY) == b"OK", "a user with fewer rights"
            for words in (("SET", CANARY, CANARY), ("SPOP", f"{CANARY}-s"), ("GET", "other"), ("FLUSHALL",), ("MULTI",), ("SET", CANARY, 1), ("EXEC",),
                          ("EVAL", f"return '{CANARY}'", "0"), ("SUBSCRIBE", CANARY)):
                c.ask(*words)
        misframe(m.port)
        wait_until(lambda m=m: m.http("/healthz")[0] == 200, 10, "admin")
        m.http(f"/{CANARY}")
        m.http(f"/transfer?to={CANARY}", "POST")
    leader = next(m for m in g if "leads" in m.text() and re.findall(r"(This node leads|Node \w leads|No leader)", m.text())[-1] == "This node leads")
    with login(leader.port) as c, login(leader.port) as blocked:
        blocked.send("BLPOP", f"{CANARY}-l", 0)
        c.raw(b"".join(encode("SET", f"{CANARY}{i}", CANARY) for i in range(200)))
        leader.valkey_process.kill9()
    leader.valkey_process.start()
    for m in g:
        wait_until(lambda m=m: serves(m), 30, f"{m.name} serves again")
    leader.kill9()
    for m in g:
        if m is not leader:
            wait_until(lambda m=m: serves(m), 30, f"{m.name} serves without it")
    with login(next(m for m in g if m is not leader).port) as c:
        assert c("GET", CANARY) is not None and CANARY.encode() in c("CLIENT", "LIST") + c("ACL", "LIST")[1], "it was there to be told"
    for m in g:
        bad = [line for line in m.text().splitlines() if CANARY in line.lower()]
        assert not bad, f"{m.name}: {bad[:5]}"
        assert len(re.findall(r":H .* [.-] ", m.text())) > 20, "and what is for developers was logged"


@pytest.mark.parametrize("level,most", [("notice", 0), ("debug", 20)])
def test_nothing_is_logged_per_request(rig, level, most):
    """10,000 requests of each kind, right and wrong; and at notice, clients that come and go."""
    _, h = rig.pair(loglevel=level)
    kinds = [("SET", "k", 1), ("GET", "k"), ("LPUSH", "k", 1), ("EVAL", "return redis.call('INCR', 'n')", 0), ("SPOP", "s"), ("NOSUCH", "x"), ("GET",),
             ("MULTI",), ("INCR", "n"), ("EXEC",), ("CONFIG", "GET", "timeout"), ("CONFIG", "SET", "timeout", 0), ("CLIENT", "LIST"), ("PUBLISH", "c", "m"),
             ("REPLICAOF", "x", 1), ("SELECT", 0), ("WAIT", 0, 0), ("AUTH", "x", "y"), ("INFO", "durability"), ("CONFIG", "SET", "nonsense", 1)]

    def lines():  # what says that this machine is slow just now is not about requests
        return [line for line in h.text().splitlines() if not re.search("falls behind|keeps up", line)]
    with h.client(timeout=60) as c:
        c.pipeline(kinds)
        before = len(lines())
        for _ in range(500):
            c.pipeline(kinds)
        assert c("GET", "n") == b"1002"
        assert len(lines()) - before <= most, lines()[before:][:10]
    if level == "notice":
        for _ in range(200):
            with h.client() as c:
                assert c("PING") == b"PONG"
        for _ in range(30):
            misframe(h.port)
        new = lines()[before:]
        assert len(new) == 1 and "SECURITY ATTACK" in new[0], new
