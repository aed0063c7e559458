"""The examples of config/CLIENTS.md, before a group of three nodes that loses its leader, machine and all, in the middle of them: each of their writes
is there, once. run.py starts the group and tells of it in a file."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import redis
from test_clients_python import eventually, fresh
from test_clients_python_failover import find_leader, members

EXAMPLES = pathlib.Path(__file__).resolve().parent / "examples"
COUNT = 600
SECONDS_MAX = 120


def command_of(example):
    return [sys.executable if example.suffix == ".py" else shutil.which("node"), str(example)]


def begin(example, name, count, ports):
    return subprocess.Popen([*command_of(example), name, str(count), *map(str, ports)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(process):
    try:
        out, err = process.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, out + err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("example", sorted(p.name for p in EXAMPLES.iterdir() if p.suffix in (".py", ".mjs")))
def test_every_write_once(example):
    leader = find_leader()
    others = [m for m in members() if m["name"] != leader["name"]]
    ports = [m["port"] for m in (leader, *others)]  # the leader first: its client's connection breaks
    client, name = redis.Redis(port=others[0]["port"], socket_timeout=30, decode_responses=True), fresh(f"example:{example}")

    def total():
        try:
            return int(client.get(f"{name}:total") or 0)
        except (redis.RedisError, ValueError):
            return -1
    running = begin(EXAMPLES / example, name, COUNT, ports)
    try:
        eventually("it is under way", lambda: total() >= COUNT // 10)
        running.send_signal(signal.SIGSTOP)  # so that it is in the middle, however fast it is
        assert total() < COUNT, "it was too fast for this test"
        for pid in leader["pids"]:
            os.kill(pid, signal.SIGKILL)
        running.send_signal(signal.SIGCONT)
        met = end_of(running)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    print(example, met)
    assert met["total"] == COUNT
    # GLIDE may find a broken connection between two commands, and connect again without a word.
    assert met["refused"] + met["uncertain"] > 0 or example == "glide.mjs", f"the failover was met: {met}"
    eventually("it is asked again", lambda: total() == COUNT)
    assert json.loads(client.get(f"{name}:profile")) == {"name": name, "requests": COUNT}
    log = client.lrange(f"{name}:log", 0, -1)
    assert log == ["finished"], log

    # asked again with the same ids: nothing is done twice
    again = end_of(begin(EXAMPLES / example, name, COUNT, ports))
    assert again["total"] == COUNT and total() == COUNT
    find_leader()  # and the lost one is back
