"""redis-py, with and without asyncio (RESP2: the RESP3 of redis-py begins with version 5)."""
import asyncio
import itertools
import os
import signal
import threading
import time

import pytest
import redis
import redis.asyncio

EVERY_BYTE = bytes(range(256))
LARGE = EVERY_BYTE * 16384
_names = itertools.count()


def fresh(what):
    """A name that no other test uses: tests share one server and delete nothing."""
    return f"{what}:{os.getpid()}:{time.time_ns()}:{next(_names)}"


def eventually(what, check, seconds=30):
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if check():
                return
        except redis.RedisError as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s; last: {last!r}")


@pytest.fixture(params=["sync", "async"])
def mode(request, server):
    if not server.bare:
        with redis.Redis(port=server.port) as control:
            assert control.config_set("durability", request.param)
    return request.param


@pytest.fixture
def connect(server, mode):
    made = []

    def new(**options):
        made.append(redis.Redis(port=server.port, **{"decode_responses": True, "socket_timeout": 30, **options}))
        return made[-1]
    yield new
    for client in made:
        client.close()


@pytest.fixture
def client(connect):
    return connect()


def test_connects(client):
    assert client.ping()
    assert client.client_setname("suite") and client.client_getname() == "suite"
    assert "valkey_version" in client.info("server")


def test_set_get_and_their_kin(client):
    key = fresh("string")
    assert client.set(key, 1)
    assert client.incrby(key, 41) == 42
    assert client.get(key) == "42"
    assert client.set(key, "x", nx=True) is None
    assert client.set(key, "y", ex=100, get=True) == "42"
    assert 90_000 < client.pttl(key) <= 100_000
    assert client.getdel(key) == "y" and client.get(key) is None
    assert client.hset(key, mapping={"a": 1, "b": 2}) == 2
    assert client.hgetall(key) == {"a": "1", "b": "2"}
    client.zadd(key + "z", {"b": 2.5, "a": 1})
    assert client.zrange(key + "z", 0, -1, withscores=True) == [("a", 1.0), ("b", 2.5)]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE|wrong kind of value"):
        client.incr(key)


def test_pipeline(client):
    key = fresh("pipe")
    pipe = client.pipeline(transaction=False)
    for i in range(300):
        pipe.set(f"{key}:{i}", i).get(f"{key}:{i}").lpush(f"{key}:{i}", "wrong type")
    replies = pipe.execute(raise_on_error=False)
    assert len(replies) == 900
    for i in range(300):
        assert replies[3 * i] is True and replies[3 * i + 1] == str(i)
        assert isinstance(replies[3 * i + 2], redis.ResponseError)


def test_transaction(client, connect):
    key = fresh("multi")
    assert client.pipeline().set(key, 1).incr(key).get(key).execute() == [True, 2, "2"]
    with connect().pipeline() as own:
        own.watch(key)
        assert own.get(key) == "2"
        client.set(key, "other")
        own.multi()
        own.set(key, "lost")
        with pytest.raises(redis.WatchError):
            own.execute()
        own.watch(key)
        own.multi()
        assert own.set(key, "won").execute() == [True]
    assert client.get(key) == "won"

    counter = fresh("counter")

    def add(pipe):
        value = int(pipe.get(counter) or 0)
        pipe.multi()
        pipe.set(counter, value + 1)
    threads = [threading.Thread(target=lambda: [client.transaction(add, counter) for _ in range(10)]) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert client.get(counter) == "50"


def test_script(client):
    key = fresh("script")
    body = "server.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], ARGV[1], 7}"
    assert client.eval(body, 1, key, "v") == [key, "v", 7]
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 1, key)
    append = client.register_script(f"return redis.call('APPEND', KEYS[1], ARGV[1]) -- {key}")
    assert append(keys=[key], args=["w"]) == 2
    assert append(keys=[key], args=["w"]) == 3


def test_publish_and_subscribe(client):
    channel = fresh("channel")
    with client.pubsub() as subscriber:
        subscriber.subscribe(channel)
        subscriber.psubscribe(channel + "*")
        assert [subscriber.get_message(timeout=10)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
        assert client.publish(channel, "one") == 2
        assert client.publish(channel + "x", "two") == 1
        got = [subscriber.get_message(timeout=10) for _ in range(3)]
        assert [(m["type"], m["channel"], m["data"]) for m in got] == [
            ("message", channel, "one"), ("pmessage", channel, "one"), ("pmessage", channel + "x", "two")]
        subscriber.unsubscribe()
        assert subscriber.get_message(timeout=10)["type"] == "unsubscribe"


def test_blocking_pops(client, connect):
    waiting, key = connect(), fresh("list")
    got = []
    thread = threading.Thread(target=lambda: got.append(waiting.blpop(key, 20)))
    thread.start()
    eventually("blocked", lambda: client.info("clients")["blocked_clients"] > 0)
    client.rpush(key, "pushed")
    thread.join(20)
    assert got == [(key, "pushed")]
    assert waiting.blpop(key, 0.05) is None
    client.rpush(key, "a", "b")
    assert waiting.blmove(key, key + "2", 1, "LEFT", "RIGHT") == "a"
    assert client.lrange(key + "2", 0, -1) == ["a"]


def test_stream_with_a_consumer_group(client, connect):
    stream = fresh("stream")
    assert client.xgroup_create(stream, "g", "$", mkstream=True)
    got = []
    thread = threading.Thread(target=lambda: got.append(connect().xreadgroup("g", "alice", {stream: ">"}, block=20000)))
    thread.start()
    entry = client.xadd(stream, {"field": "value"})
    thread.join(20)
    assert got == [[[stream, [(entry, {"field": "value"})]]]]
    assert client.xpending(stream, "g")["pending"] == 1
    assert client.xclaim(stream, "g", "bob", 0, [entry]) == [(entry, {"field": "value"})]
    assert client.xack(stream, "g", entry) == 1
    assert client.xreadgroup("g", "bob", {stream: ">"}, block=20) == []


def test_several_databases(client, connect):
    three, key = connect(db=3), fresh("db")
    client.set(key, "zero")
    three.set(key, "three")
    assert client.get(key) == "zero" and three.get(key) == "three"
    assert three.move(key, 7)
    assert connect(db=7).get(key) == "three"
    assert three.get(key) is None


def test_binary_and_large_values(connect):
    client = connect(decode_responses=False)
    key = fresh("binary").encode() + EVERY_BYTE
    client.set(key, EVERY_BYTE)
    assert client.get(key) == EVERY_BYTE
    client.set(key, LARGE)
    assert client.get(key) == LARGE
    assert client.append(key, b"end") == len(LARGE) + 3
    client.set(key, b"")
    assert client.get(key) == b""


def test_asyncio_clients_get_their_own_replies(server, mode):
    key = fresh("shared")

    async def one(n):
        async with redis.asyncio.Redis(port=server.port, decode_responses=True) as own:
            seen = []
            for i in range(50):
                seen.append(await own.incr(key))
                await own.set(f"{key}:{n}", i)
                assert await own.get(f"{key}:{n}") == str(i)
            return seen

    async def all_of_them():
        return await asyncio.gather(*(one(n) for n in range(20)))
    seen = list(itertools.chain(*asyncio.run(all_of_them())))
    assert sorted(seen) == list(range(1, 1001))


def test_a_connection_chooses_its_durability(server, client, connect, mode):
    if server.bare:
        pytest.skip("a bare Valkey has no modes")
    with connect(single_connection_client=True) as own:
        key = fresh("choice")
        assert own.execute_command("CLIENT DURABILITY", "async" if mode == "sync" else "sync") in ("OK", True)
        assert own.set(key, mode)
        assert client.get(key) == mode
        assert own.execute_command("CLIENT DURABILITY", "DEFAULT") in ("OK", True)
        with pytest.raises(redis.ResponseError):
            own.execute_command("CLIENT DURABILITY", "MAYBE")


def test_goes_on_after_kill_of_valkey(server, client, mode):
    """What was acknowledged is there afterwards: in sync mode everything, in async mode what was durable before."""
    if server.bare:
        pytest.skip("a bare Valkey stays dead")
    key, acknowledged, stop = fresh("kill"), [], threading.Event()

    def write():
        for i in itertools.count():
            if stop.is_set():
                return
            try:
                if client.set(f"{key}:{i}", f"v{i}"):
                    acknowledged.append(i)
            except redis.RedisError:
                time.sleep(0.01)
    thread = threading.Thread(target=write)
    thread.start()
    try:
        eventually("first writes", lambda: len(acknowledged) >= 50)
        if mode == "async":
            stop.set()
            thread.join(30)
            eventually("everything durable", lambda: client.info("durability")["holdfast_lag_ms"] == 0)
        with open(server.pidfile, encoding="ascii") as f:
            os.kill(int(f.read()), signal.SIGKILL)
        before = len(acknowledged)
        if mode == "async":
            eventually("a write after the kill", lambda: client.set(key, "after"))
        else:
            eventually("a write after the kill", lambda: len(acknowledged) > before + 20)
    finally:
        stop.set()
        thread.join(30)
    assert {i for i in acknowledged if client.get(f"{key}:{i}") != f"v{i}"} == set()
