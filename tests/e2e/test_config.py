"""Settings, start-up, signals: what the operator touches."""
import os
import signal
import subprocess
import threading
import time

import pytest

from harness import binary, free_port, is_error, wait_until
from resp import Client, Closed, RespError


def run(*args, stdin=None, cwd=None):
    return subprocess.run([binary(), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, input=stdin, timeout=30,
                          cwd=cwd, text=True)


# ---- the command line and the file ----

@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help(word):
    done = run(word)
    assert done.returncode == 0 and done.stdout.startswith("Usage: holdfast")


@pytest.mark.parametrize("word", ["--version", "-v"])
def test_version(word):
    done = run(word)
    assert done.returncode == 0 and done.stdout.lower().startswith("holdfast")


@pytest.mark.parametrize("line,reason", [
    ("port 70000", "between"), ("port x", "port"), ("no-such-setting 1", "Bad directive"), ("durability perhaps", "durability"),
    ("maxclients", "arguments"), ("durability-lag-max -5", "durability-lag-max"), ("bind \"unbalanced", "Unbalanced"),
    ("member a az-1", "member"), ("member a/b az-1 h:1", "name"), ("member a az-1 h:0", "address"), ("cluster a b", "arguments"),
    ("election-timeout 10ms", "between"), ("peer-tls maybe", "yes"), ("peer-listen 7000", "host:port"),
    ("durability-lag-max 100ms", "durability-lag-max"), ("log-size-max 1x", "log-size-max"), ("read-lanes 0", "read-lanes")])
def test_bad_file(tmp_path, line, reason):
    """Valkey's kind of message: the file, the line, its number, what is wrong; exit code 1, nothing started."""
    file = tmp_path / "bad.conf"
    file.write_text(f"# comment\nloglevel notice\n{line}\nport 0\n")
    done = run(file, cwd=tmp_path)
    assert done.returncode == 1
    assert "*** FATAL CONFIG FILE ERROR (Version " in done.stdout
    assert "Reading the configuration file, at line 3" in done.stdout
    assert f">>> '{line}'" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert reason.lower() in done.stdout.lower() and not last.startswith(">>>")
    assert not (tmp_path / "holdfast-data").exists()


def test_bad_option(tmp_path):
    for words in (["--port", "x"], ["--no-such", "1"], ["--durability", "perhaps"]):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 1 and "FATAL CONFIG" in done.stdout, words


def test_missing_file(tmp_path):
    done = run(tmp_path / "nowhere.conf", cwd=tmp_path)
    assert done.returncode == 1 and "nowhere.conf" in done.stdout


GROUP = ["--member", "a az-a 127.0.0.1:7001", "--member", "b az-b 127.0.0.1:7002", "--member", "c az-c 127.0.0.1:7003 log-only"]


@pytest.mark.parametrize("words,reason", [
    ([], "node node-1 is not among the members"),
    (["--node", "a"], "peer-tls-cert-file"),
    (["--node", "a", "--peer-tls", "no", "--valkey", "none"], "'a az-a 127.0.0.1:7001' is not log-only"),
    (["--node", "c", "--peer-tls", "no"], "which needs valkey none"),
    (["--node", "a", "--peer-tls", "no", "--member", "d az-d 10.1.2.3:7004"], "loopback"),
    (["--node", "a", "--peer-tls", "no", "--member", "b az-d 127.0.0.1:7004"], "the same name"),
    (["--node", "c", "--peer-tls", "no", "--valkey", "none", "--valkey-spawn", "yes"], "contradicts")])
def test_group_settings_that_contradict(tmp_path, words, reason):
    done = run(*GROUP, *words, cwd=tmp_path)
    assert done.returncode == 1 and "*** FATAL CONFIG FILE ERROR (Version " in done.stdout and reason in done.stdout, done.stdout
    assert not (tmp_path / "holdfast-data").exists()


def launched_with_file(rig, text, *words, **more):
    """A Holdfast that reads a file; the harness's own settings are in it, so that --name value can override them."""
    valkey = rig.valkey()
    h = rig.holdfast(valkey, start=False, **more)
    file = h.dir / "holdfast.conf"
    lines = [f"{k} {v}" for k, v in h.settings.items()]
    file.write_text("\n".join(lines) + "\n" + text)
    h.command = lambda: [binary(), str(file), *map(str, words)]
    h.start()
    return valkey, h, file


def test_command_line_wins_over_the_file(rig):
    _, h, _ = launched_with_file(rig, "durability async\nmaxclients 77\n", "--durability", "sync", "--timeout", "123")
    with h.client() as c:
        assert c("CONFIG", "GET", "durability") == [b"durability", b"sync"]
        assert c("CONFIG", "GET", "maxclients") == [b"maxclients", b"77"]
        assert c("CONFIG", "GET", "timeout") == [b"timeout", b"123"]


def test_config_get_is_merged(rig):
    """Holdfast's settings under their names, Valkey's for the rest; glob patterns, several of them, RESP3."""
    valkey, h = rig.pair(node="n-7")
    with h.client() as c, h.client(proto=3) as d:
        assert c("CONFIG", "GET", "node") == [b"node", b"n-7"]
        assert c("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"0"]
        assert c("CONFIG", "GET", "save") == [b"save", b""]
        assert c("CONFIG", "GET", "port") == [b"port", b"%d" % h.port], "ours, not Valkey's"
        several = d("CONFIG", "GET", "durability*", "hz")
        assert several[b"durability"] == b"sync" and b"hz" in several and b"durability-lag-max" in several
        everything = d("CONFIG", "GET", "*")
        assert b"maxmemory-policy" in everything and b"snapshot-log-bytes" in everything
        flat = c("CONFIG", "GET", "*")[::2]
        assert len(set(flat)) == len(flat), "each name once"
        assert c("CONFIG", "GET", "nothing-like-it") == []
        assert is_error(c.ask("CONFIG", "GET"), "ERR")


def test_config_set(rig):
    valkey, h = rig.pair()
    with h.client() as c:
        assert c("CONFIG", "SET", "durability-lag-max", "3") == b"OK"
        assert c("CONFIG", "GET", "durability-lag-max")[1] in (b"3", b"3s", b"3000ms")
        assert c("CONFIG", "SET", "maxmemory-policy", "noeviction") == b"OK"
        assert c("CONFIG", "SET", "hash-max-listpack-entries", "64") == b"OK"
        with valkey.client() as direct:
            assert direct("CONFIG", "GET", "hash-max-listpack-entries")[1] == b"64"
        assert is_error(c.ask("CONFIG", "SET", "port", "1"), "ERR")
        assert is_error(c.ask("CONFIG", "SET", "data-dir", "/tmp"), "ERR")
        assert is_error(c.ask("CONFIG", "SET", "no-such-thing", "1"), "ERR")
        assert is_error(c.ask("CONFIG", "SET", "durability", "perhaps"), "ERR")
        assert is_error(c.ask("CONFIG", "SET", "durability"), "ERR")
        assert c("CONFIG", "GET", "durability")[1] == b"sync"
        assert c("CONFIG", "SET", "maxclients", "500", "timeout", "0") == b"OK"
        assert c("CONFIG", "GET", "maxclients")[1] == b"500"


def test_password_is_not_shown(rig):
    valkey = rig.valkey("--requirepass", "very secret")
    h = rig.holdfast(f"127.0.0.1:{valkey.port}", valkey_password="very secret")
    with h.client() as c:
        c("AUTH", "very secret")
        assert b"very secret" not in repr(c("CONFIG", "GET", "valkey-password")).encode()
    assert "very secret" not in h.text()
    assert "very secret" not in h.http("/status")[1]


def test_sighup_reloads(rig):
    _, h, file = launched_with_file(rig, "maxclients 100\nloglevel notice\n")
    with h.client() as c:
        assert c("CONFIG", "GET", "maxclients")[1] == b"100"
        file.write_text(file.read_text() + "maxclients 200\nnode other\ndurability async\n")
        h.process.send_signal(signal.SIGHUP)
        wait_until(lambda: c("CONFIG", "GET", "maxclients")[1] == b"200", 10, "the file is read again")
        assert c("CONFIG", "GET", "node")[1] == b"node-1", "needs a restart"
        wait_until(lambda: "node" in h.text().split("SIGHUP")[-1], 5, "and is named in the log")
        assert c("CONFIG", "GET", "durability")[1] == b"async"
        wait_until(lambda: h.info()["holdfast_mode"] == "async", 5, "the mode is changed")
        file.write_text(file.read_text() + "nonsense\n")
        h.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nonsense" in h.text(), 10, "a bad file is reported")
        assert c("CONFIG", "GET", "maxclients")[1] == b"200" and c("SET", "k", 1) == b"OK"


def test_maxclients(rig):
    valkey, h = rig.pair(maxclients=5)
    held = [h.client() for _ in range(5)]
    for c in held:
        assert c("PING") == b"PONG"
    with h.client() as one_more:
        try:
            reply = one_more.read()
            assert reply.text == "ERR max number of clients reached"
        except Closed:
            pytest.fail("closed without a word")
    held.pop().close()

    def room():
        try:
            with h.client() as c:
                return c.ask("PING") == b"PONG"
        except Closed:
            return False
    wait_until(room, 10, "room again")
    for c in held:
        c.close()


def test_idle_timeout(rig):
    valkey, h = rig.pair(timeout=1)
    with h.client() as c, h.client() as blocked:
        blocked.send("BLPOP", "none", 0)
        assert c("PING") == b"PONG"
        assert c.closed_within(10)
        assert blocked.silent_for(0.1), "who blocks is not idle"


def test_unix_socket(rig):
    valkey = rig.valkey()
    h = rig.holdfast(valkey, start=False)
    h.settings["unixsocket"] = str(h.dir / "h.sock")
    h.settings["unixsocketperm"] = "700"
    h.start()
    with Client(str(h.dir / "h.sock")) as c:
        assert c("SET", "k", 1) == b"OK"
    assert os.stat(h.dir / "h.sock").st_mode & 0o777 == 0o700
    h.settings["port"] = 0
    assert h.terminate() == 0
    h.start()
    with Client(str(h.dir / "h.sock")) as c:
        assert c("GET", "k") == b"1"


def test_valkey_by_unix_socket(rig):
    valkey = rig.valkey()
    h = rig.holdfast(valkey.socket)
    with h.client() as c:
        assert c("SET", "k", 1) == b"OK"
        valkey.restart_empty()
        wait_until(lambda: c.ask("GET", "k") == b"1", 20, "rebuilt over the socket")


def test_file_from_standard_input(rig):
    valkey = rig.valkey()
    h = rig.holdfast(valkey, start=False)
    text = "\n".join(f"{k} {v}" for k, v in h.settings.items())
    (h.dir / "in.conf").write_text(text)
    h.command = lambda: ["sh", "-c", f"exec '{binary()}' - < in.conf"]
    h.start()
    with h.client() as c:
        assert c("PING") == b"PONG"


# ---- SIGTERM ----

@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_end_loses_nothing(rig, mode, which):
    """Commands in flight are finished, made durable and answered; exit code 0; then everything is there."""
    valkey, h = rig.pair(durability=mode)
    answered, threads, stop = {n: 0 for n in range(6)}, [], threading.Event()
    sent = {n: 0 for n in range(6)}

    def work(n):
        with h.client(timeout=30) as c:
            try:
                while not stop.is_set():
                    sent[n] += 1
                    reply = c.ask("RPUSH", f"l{n}", sent[n])
                    if isinstance(reply, RespError):
                        assert reply.code in ("LOADING", "CLUSTERDOWN"), reply
                        sent[n] -= 1
                        return
                    answered[n] = sent[n]
            except Closed:
                pass
    for n in answered:
        threads.append(threading.Thread(target=work, args=(n,), daemon=True))
        threads[-1].start()
    wait_until(lambda: min(answered.values()) > 20, 20, "load")
    h.end_expected = True
    h.process.send_signal(which)
    assert h.process.wait(30) == 0
    stop.set()
    for t in threads:
        t.join(20)
    assert "bye bye" in h.text()
    valkey.restart_empty()
    h.start()
    with h.client() as c:
        for n, count in answered.items():
            there = [int(e) for e in c("LRANGE", f"l{n}", 0, -1)]
            assert there == list(range(1, len(there) + 1)) and len(there) >= count, (n, count, len(there))


def test_pipeline_in_flight_is_answered_on_end(rig):
    """A client with a pipeline under way gets the answers of what was read, then a close."""
    valkey = rig.valkey()
    h = rig.holdfast(valkey, disk=True)
    with h.client(timeout=30) as c:
        c("SET", "k", 1)
        h.disk.set("slow 100")
        c.pipeline([("PING",)])
        for n in range(20):
            c.send("RPUSH", "l", n)
        c.raw(b"")
        wait_until(lambda: h.status()["pending_intents"] > 0, 10, "writes under way")
        h.end_expected = True
        h.process.send_signal(signal.SIGTERM)
        replies = []
        try:
            for _ in range(20):
                replies.append(c.read())
        except Closed:
            pass
        assert h.process.wait(30) == 0
    h.disk.set("")
    told = [r for r in replies if isinstance(r, int)]
    assert told == list(range(1, len(told) + 1)) and told
    valkey.restart_empty()
    h.start()
    with h.client() as c:
        there = c("LRANGE", "l", 0, -1)
        assert len(there) >= len(told) and there == [b"%d" % n for n in range(len(there))]


def test_second_interrupt_ends_at_once(rig):
    """As with Valkey: a second SIGINT. SIGTERM may come twice from a supervisor, and is patient."""
    valkey = rig.valkey()
    h = rig.holdfast(valkey, disk=True, shutdown_timeout=60)
    with h.client() as c:
        h.disk.set("stall")
        c.send("SET", "k", 1)
        wait_until(lambda: h.status()["pending_intents"] > 0, 10, "a write under way")
        h.end_expected = True
        h.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in h.text(), 10, "the first is seen")
        h.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert h.alive()
        h.process.send_signal(signal.SIGINT)
        assert h.process.wait(10) == 1
    h.disk.set("")


def test_shutdown_timeout(rig):
    """A disk that never comes back does not hold the end up beyond shutdown-timeout."""
    valkey = rig.valkey()
    h = rig.holdfast(valkey, disk=True, shutdown_timeout=1)
    with h.client() as c:
        c.send("BLPOP", "none", 0)
        wait_until(lambda: h.status()["pinned"] > 0, 10, "blocked")
        began = time.monotonic()
        assert h.terminate() == 0
        assert time.monotonic() - began < 10
        assert c.closed_within(5)


def test_spawned_valkey_ends_with_us(rig):
    h = rig.holdfast(None)
    with h.client() as c:
        c("SET", "k", 1)
    pid = h.spawned_pid()
    assert h.terminate() == 0
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10, "the spawned Valkey has ended")
    h.start()
    with h.client() as c:
        assert c("GET", "k") == b"1"


# ---- what is refused at the start ----

def refused_start(h, *reasons):
    h.launch()
    h.end_expected = True
    code = h.process.wait(30)
    assert code == 1, h.text()
    assert any(r.lower() in h.text().lower() for r in reasons), h.text()


def test_second_instance_on_the_same_data(rig):
    valkey, h = rig.pair()
    second = rig.holdfast(valkey, start=False)
    second.settings["data-dir"] = h.data_dir
    refused_start(second, "in use", "another process", "lock")
    with h.client() as c:
        assert c("SET", "k", 1) == b"OK"


def test_port_in_use(rig):
    valkey, h = rig.pair()
    second = rig.holdfast(valkey, start=False, port=h.port)
    refused_start(second, "Could not create server TCP listening socket", "in use")


def test_data_dir_that_cannot_be(rig):
    h = rig.holdfast(rig.valkey(), start=False, data_dir="/proc/nowhere/data")
    refused_start(h, "/proc/nowhere")


def test_other_node_name(rig):
    valkey, h = rig.pair(node="first")
    h.terminate()
    h.settings["node"] = "second"
    refused_start(h, "first")


def test_damaged_log_is_refused(rig):
    """A flipped bit in the log is found at the start, and nothing is repaired by cutting."""
    valkey, h = rig.pair()
    with h.client() as c:
        for n in range(200):
            c("SET", f"needle{n}", "haystack" * 20)
    h.terminate()
    file = h.data_dir / "log" / "data.mdb"
    data = file.read_bytes()
    assert b"haystackhaystack" in data
    data = data.replace(b"haystackhaystack", b"haystackhaxstack")  # in all copies: of which one is live
    file.write_bytes(data)
    refused_start(h, "damaged", "checksum")
    assert file.read_bytes() == data


def test_cluster_enabled_valkey_is_refused(rig):
    """It serves nobody, and says why; liveness stays."""
    valkey = rig.valkey("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    h = rig.holdfast(valkey, start=False)
    h.launch()
    h.end_expected = True

    def told():
        return "cluster" in h.text().lower()
    wait_until(told, 15, "it says that this Valkey is cluster-enabled")
    if h.alive():
        assert h.http("/readyz")[0] == 503
        with h.client() as c:
            assert is_error(c.ask("GET", "k"), "LOADING")
    else:
        assert h.process.returncode == 1


def test_valkey_comes_later(rig):
    """Started before its Valkey: LOADING, then service."""
    port = free_port()
    h = rig.holdfast(f"127.0.0.1:{port}", start=False)
    h.launch()
    h.wait_listening()
    with h.client() as c:
        assert is_error(c.ask("GET", "k"), "LOADING")
        rig.valkey(port=port)
        h.wait_ready()
        assert c("SET", "k", 1) == b"OK"


def test_password_of_valkey_is_wrong(rig):
    valkey = rig.valkey("--requirepass", "right")
    h = rig.holdfast(f"127.0.0.1:{valkey.port}", start=False, valkey_password="wrong")
    h.launch()
    wait_until(lambda: "WRONGPASS" in h.text() or "password" in h.text(), 15, "it is said")
    assert h.alive() and h.http("/readyz")[0] == 503


def test_login_of_ours(rig):
    """valkey-user and valkey-password: lanes, tap and control connection log in; clients still need the password of their own user."""
    valkey = rig.valkey("--user", "ours", "on", ">pw", "~*", "&*", "+@all", "--requirepass", "theirs")
    h = rig.holdfast(f"127.0.0.1:{valkey.port}", start=False, valkey_user="ours", valkey_password="pw")
    h.launch()
    wait_until(lambda: h.http("/readyz")[0] == 200, 15, "it serves")
    with h.client() as c:
        assert is_error(c.ask("SET", "k", 1), "NOAUTH")
        assert is_error(c.ask("AUTH", "wrong"), "WRONGPASS")
        assert c("AUTH", "theirs") == b"OK"
        assert c("SET", "k", 1) == b"OK" and c("GET", "k") == b"1"
