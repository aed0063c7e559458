"""Commands that a module brings: whatever COMMAND says about them. tests/tools/counter_module.c has a data type of its own, effects by
chance, effects that are another command's, and a command that blocks.
"""
import os
import subprocess
import threading

import pytest

from harness import TOP, eventually, is_error, wait_until
from resp import Closed, RespError

RUNS = 20


@pytest.fixture(scope="session")
def module():
    made = TOP / "build" / "counter_module.so"
    source = TOP / "tests/tools/counter_module.c"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        made.parent.mkdir(exist_ok=True)
        fresh = made.with_name(f"{made.name}.{os.getpid()}")
        subprocess.check_call(["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-o", str(fresh), str(source)])
        fresh.rename(made)
    return str(made)


def all_killed(valkey, holdfast):
    holdfast.kill9()
    valkey.restart_empty()
    holdfast.start()


@pytest.mark.parametrize("mode", ["SYNC", "ASYNC"])
def test_commands_and_what_a_kill_leaves(rig, module, mode):
    valkey, holdfast = rig.pair("--loadmodule", module)
    with holdfast.client() as c:
        c("CLIENT", "DURABILITY", mode)
        assert c("HFC.ADD", "n", 5) == 5 and c("HFC.GET", "n") == 5
        assert is_error(c.ask("HFC.ADD", "n", "x"), "ERR") and is_error(c.ask("HFC.ADD", "n"), "ERR")
        assert c.pipeline([("HFC.ADD", "n", 1), ("SET", "k", 1), ("HFC.ADD", "n", 1), ("GET", "k"), ("HFC.GET", "n")]) == [6, b"OK", 7, b"1", 7]
        assert is_error(c.ask("HFC.ADD", "k", 1), "WRONGTYPE")
        assert c.pipeline([("MULTI",), ("HFC.ADD", "n", 1), ("INCR", "k"), ("HFC.ROLL", "m"), ("EXEC",)])[4][:2] == [8, 2]
        assert c("EVAL", "return server.call('HFC.ADD', KEYS[1], 2)", 1, "n") == 10
        for _ in range(RUNS):
            c("HFC.ROLL", "m")
            c("HFC.SET", "s", c("HFC.GET", "m"))
        assert c("HFC.SLOWADD", "n", 5, 20) == 15
        c("WAITAOF", 1, 0, 5000)
        before = [c("HFC.GET", "n"), c("HFC.GET", "m"), c("GET", "s"), c("GET", "k")]
        assert c("TYPE", "n") == b"hfcounter"
        digest = valkey.digest()
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert [c("HFC.GET", "n"), c("HFC.GET", "m"), c("GET", "s"), c("GET", "k")] == before
        assert valkey.digest() == digest
    holdfast.http("/snapshot", method="POST")
    with holdfast.client() as c:
        c("HFC.ADD", "n", 100)
    all_killed(valkey, holdfast)
    with holdfast.client() as c:
        assert c("HFC.GET", "n") == 115, "from the snapshot, with what came after it"


@pytest.mark.parametrize("mode", ["SYNC", "ASYNC"])
def test_a_blocked_client_keeps_nobody_waiting(rig, module, mode):
    _, holdfast = rig.pair("--loadmodule", module)
    with holdfast.client(timeout=30) as slow, holdfast.client(timeout=30) as gone, holdfast.client(timeout=5) as c:
        for each in (slow, gone, c):
            each("CLIENT", "DURABILITY", mode)
        slow.send("HFC.SLOWADD", "n", 1, 1500)
        gone.send("HFC.SLOWADD", "n", 10, 700)
        wait_until(lambda: c("INFO", "clients") and int(dict(line.split(":") for line in c("INFO", "clients").decode().split("\r\n") if ":" in line)
                                                        ["blocked_clients"]) == 2, 5, "both block")
        gone.close()
        for n in range(RUNS):
            assert c("SET", "k", n) == b"OK" and c("GET", "k") == b"%d" % n and c("HFC.ADD", "other", 1) == n + 1
        assert slow.silent_for(0.05)
        assert slow.read() in (1, 11)


def test_killed_with_answers_outstanding(rig, module):
    """Each answered addition is there, and none twice."""
    valkey, holdfast = rig.pair("--loadmodule", module)
    totals, unknown = {n: 0 for n in range(4)}, {n: 0 for n in range(4)}
    stop = threading.Event()

    def add(n):
        client = None
        while not stop.is_set():
            try:
                client = client or holdfast.client(timeout=30)
                reply = client.ask("HFC.ADD" if n % 2 else "HFC.SLOWADD", f"n{n}", 1, *([] if n % 2 else [1]))
                if isinstance(reply, int):
                    totals[n] += 1
                elif reply.code == "UNCERTAIN":
                    unknown[n] += 1
            except Closed:
                unknown[n] += 1
                client = None
    threads = [threading.Thread(target=add, args=(n,), daemon=True) for n in totals]
    for t in threads:
        t.start()
    for _ in range(3):
        at = min(totals.values())
        wait_until(lambda: min(totals.values()) >= at + 10, 30, "additions")
        all_killed(valkey, holdfast)
    stop.set()
    for t in threads:
        t.join(40)
    with holdfast.client() as c:
        for n, total in totals.items():
            assert total <= c("HFC.GET", f"n{n}") <= total + unknown[n]


def test_loaded_and_unloaded_while_running(rig, module):
    valkey, holdfast = rig.pair("--enable-module-command", "yes")
    with holdfast.client() as c:
        assert is_error(c.ask("HFP.SET", "k", 1), "ERR")
        assert c("MODULE", "LOAD", module, "plain") == b"OK"
        for n in range(3):
            assert c("HFP.SET", "k", n) == b"OK" and c("GET", "k") == b"%d" % n
        assert c("MODULE", "UNLOAD", "hfplain") == b"OK"
        assert is_error(c.ask("HFP.SET", "k", 9), "ERR")
        assert c("MODULE", "LOAD", module) == b"OK"
        assert c("HFC.ADD", "n", 1) == 1
        refused = c.ask("MODULE", "UNLOAD", "hfcounter")
        assert isinstance(refused, RespError) and "data types" in refused.text
    with valkey.client() as direct:
        assert direct("MODULE", "LIST")


def test_of_a_group(rig, module):
    """Followers have it as well: nothing is lost in a failover, and all end alike."""
    g = rig.group(valkey_options=("--loadmodule", module))
    for m in g:
        with m.client(timeout=30) as c:
            for _ in range(RUNS):
                c("HFC.ADD", "n", 1)
                c("HFC.ROLL", f"r:{m.name}")
            c("HFC.SLOWADD", "n", 1, 10)
            c("HFC.SET", "s", m.name)
    old = g.leader()
    old.kill9()
    with g.leader(besides=[old.name]).client(timeout=30) as c:
        assert eventually(lambda: c.ask("HFC.GET", "n"), lambda r: isinstance(r, int), 20, "the new leader serves") == 3 * (RUNS + 1)
        assert c("HFC.ADD", "n", 1) == 3 * (RUNS + 1) + 1
    old.start()
    g.wait_equal()


def test_a_member_that_lacks_the_module(rig, module):
    """It cannot follow, and says so; the others go on. With the module loaded it follows."""
    g = rig.group(valkey_options=("--enable-module-command", "yes"))
    lacking = g.followers()[0]
    for m in g:
        if m is not lacking:
            with m.valkey_process.client() as direct:
                assert direct("MODULE", "LOAD", module) == b"OK"
    with g.leader().client(timeout=30) as c:
        c("SET", "k", "v")
        wait_until(lambda: isinstance(c.ask("HFC.ADD", "n", 1), int), 20, "its commands are known")
        for _ in range(RUNS):
            c("HFC.ADD", "n", 1)
        total = c("HFC.GET", "n")
        wait_until(lambda: "modules?" in lacking.text(), 20, "it says what is wrong")
        assert c("SET", "k", "w") == b"OK", "the others go on"
    with lacking.valkey_process.client() as direct:
        assert direct("MODULE", "LOAD", module) == b"OK"
    lacking.kill9()  # it would try again by itself, after a while
    lacking.start()
    g.wait_equal()
    with lacking.client(timeout=30) as c:
        assert c("HFC.GET", "n") == total
