"""What a group's log begins with, and where it ends: adopted data, and room made without a Valkey."""
import random

import pytest

from harness import wait_until

BEGUN = 30


def test_the_log_begins_with_what_one_valkey_holds(rig):
    """It is everybody's from then on: who held it may go."""
    g = rig.group(start=False)
    holder = g["c"]
    holder.valkey_client()("MSET", *(word for n in range(100) for word in (f"old{n}", n)))
    g.start(BEGUN)
    with g.leader().client() as c:
        assert c("SET", "new", 1) == b"OK"
    g.wait_equal()
    g.kill9_zone(holder)
    g.wait_serving(members=["a", "b"])
    for m in (g["a"], g["b"]):
        with m.client() as c:
            assert c("EXISTS", "new", *(f"old{n}" for n in range(100))) == 101


def test_nothing_begins_while_two_valkeys_hold_data(rig):
    """Neither is overwritten; the group goes on by itself once one of them is empty."""
    g = rig.group(start=False)
    for m in (g["a"], g["b"]):
        m.valkey_client()("SET", "whose", m.name)
    for m in g:
        m.launch()
    leader = g.leader(BEGUN)
    wait_until(lambda: "THE LOG CANNOT BEGIN" in leader.text(), BEGUN, "it says why")
    g.kill9(leader)  # another one leads, and finds the same
    leader.launch()
    leader = g.leader(BEGUN)
    wait_until(lambda: "THE LOG CANNOT BEGIN" in leader.text(), BEGUN, "it says why")
    for m in (g["a"], g["b"]):
        assert m.valkey_client()("GET", "whose") == m.name.encode()
    g["b"].valkey_client()("FLUSHALL")
    g.wait_serving(BEGUN)
    with g["c"].client() as c:
        assert c("GET", "whose") == b"a"


@pytest.mark.parametrize("who, size_max, least", [("a witness", "64mb", 3_000_000), ("a follower whose Valkey is gone", "8mb", 12_000_000)])
def test_a_log_without_a_valkey_is_cut(rig, who, size_max, least):
    """Snapshots come from another member then. Without them this log would be full one day, and the node no help any more. Where
    a Valkey may come back, what its feed needs is kept until the log is full."""
    g = rig.group(witness=who == "a witness", snapshot_log_bytes="256kb", log_size_max=size_max)
    node = g["c"] if who == "a witness" else g.followers()[0]
    if node.valkey_process:
        node.valkey_process.kill9()
    rnd = random.Random(7)
    written = 0

    def cut():
        nonlocal written
        if written <= least:
            replies = c.pipeline([("SET", f"k{rnd.randint(0, 20)}", rnd.randbytes(5000)) for _ in range(20)])
            written += sum(5000 for r in replies if r == b"OK")  # else CLUSTERDOWN: the leader's own log must be cut first
        look = node.look()
        return written > least and not look["log_stalled"] and look["log_first_index"] > 20
    with g.leader().client() as c:
        wait_until(cut, 90, lambda: f"its log is cut, {written} bytes later: {node.look()['log_first_index']}", every=0.02)
    leader = g.leader()
    for m in g.others(leader, node):
        g.kill9_zone(m)
    with leader.client() as c:
        wait_until(lambda: c.ask("SET", "k", "last") == b"OK", 20, "leader and node are a majority, as any two")
