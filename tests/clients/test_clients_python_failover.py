"""redis-py before a group of three nodes that loses its leader, machine and all; run.py starts the group and tells of it in a file."""
import json
import os
import pathlib
import signal
import threading
import time
import urllib.request

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from test_clients_python import eventually, fresh


def members():
    return json.loads(pathlib.Path(os.environ["HOLDFAST_GROUP"]).read_text())["members"]


def find_leader():
    found = []

    def all_ready():
        found.clear()
        try:
            for m in members():
                with urllib.request.urlopen(f"http://127.0.0.1:{m['admin']}/status", timeout=2) as page:
                    status = json.load(page)
                if not status["ready"]:
                    return False
                if status["role"] == "leader":
                    found.append(m)
        except OSError:
            return False
        return len(found) == 1
    eventually("all are there, one leads", all_ready, 60)
    return found[0]


class Writer(threading.Thread):
    def __init__(self, client, key):
        super().__init__(daemon=True)
        self.client, self.key, self.acknowledged, self.errors, self.stop = client, key, [], {}, threading.Event()

    def run(self):
        n = 0
        while not self.stop.is_set():
            n += 1
            try:
                if n % 3:
                    self.client.set(f"{self.key}:{n}", n)
                else:
                    with self.client.pipeline(transaction=True) as unit:
                        unit.set(f"{self.key}:{n}", n).set(f"{self.key}:{n}:2", n).execute()
                self.acknowledged.append(n)
            except redis.RedisError as error:
                code = str(error).split(" ", 1)[0]
                self.errors[code] = self.errors.get(code, 0) + 1
                time.sleep(0.01)


@pytest.mark.parametrize("retries", [0, 3], ids=["plain", "the library retries"])
def test_goes_on_after_a_failover(retries):
    leader = find_leader()
    follower = next(m for m in members() if m["name"] != leader["name"])

    def connect(m):
        retry = {"retry": Retry(ConstantBackoff(0.2), retries), "retry_on_error": [redis.ConnectionError]} if retries else {}
        return redis.Redis(port=m["port"], socket_timeout=30, decode_responses=True, **retry)
    key = fresh("failover")
    through, own = Writer(connect(follower), f"{key}:through"), Writer(connect(leader), f"{key}:own")
    waiting, popped = connect(follower), []

    def pop():
        while not popped:
            try:
                element = waiting.blpop([f"{key}:list"], 20)
                popped.extend(element[1:] if element else [])
            except redis.RedisError:
                time.sleep(0.01)
    blocked = threading.Thread(target=pop, daemon=True)
    for t in (through, own, blocked):
        t.start()
    eventually("first writes", lambda: min(len(through.acknowledged), len(own.acknowledged)) >= 30)
    for pid in leader["pids"]:
        os.kill(pid, signal.SIGKILL)
    before, then = len(through.acknowledged), len(own.acknowledged)
    eventually("writes by a node that is left", lambda: len(through.acknowledged) >= before + 50, 40)
    eventually("writes by the one that is back", lambda: len(own.acknowledged) >= then + 30, 60)
    client = connect(follower)
    for w in (through, own):
        w.stop.set()
        w.join(60)
        assert not w.is_alive()
        for n in w.acknowledged:
            assert client.get(f"{w.key}:{n}") == str(n)
            assert n % 3 or client.get(f"{w.key}:{n}:2") == str(n)
    eventually("pushed", lambda: client.rpush(f"{key}:list", "x") > 0)
    blocked.join(60)
    assert popped == ["x"]
    print({"through": through.errors, "own": own.errors})
