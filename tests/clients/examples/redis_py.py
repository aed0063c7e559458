#!/usr/bin/python3
"""Durable writes with redis-py (valkey-py is the same with another name): every write once, whatever fails.

    redis_py.py NAME COUNT PORT [PORT ...]      python3 tests/clients/examples/redis_py.py orders 100 6379 6380 6381

Adds 1 to the counter NAME:total COUNT times, each time with a request id, and writes NAME:profile. Run again with the same NAME it changes
nothing: the ids are known. The last line says what it met.

    what was heard                                what it means                   what is done
    CLUSTERDOWN, LOADING, TRYAGAIN, ...           refused: it has no effect       wait, then ask again
    no connection could be made                   it was not sent                 the next node, then ask again
    UNCERTAIN, a broken connection, no answer     it may have been applied,       ask again only what may be done twice
                                                  or may still be
"""
import json
import random
import sys
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

BACKOFF_S, BACKOFF_MAX_S = 0.01, 1.0
ANSWER_S = 5.0     # without an answer for so long: as if the connection had broken
GIVE_UP_S = 60.0
REFUSED = ("CLUSTERDOWN", "LOADING", "TRYAGAIN", "UNBLOCKED", "READONLY")
REFUSED_CLASSES = (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError, redis.exceptions.ClusterDownError,
                   redis.exceptions.TryAgainError)

# The id and the effect are in one script, so both are done or neither is. An id is kept for longer than anybody may ask again.
ADD_ONCE = """
if redis.call('SET', KEYS[2], 1, 'NX', 'EX', 86400) then
    return redis.call('INCRBY', KEYS[1], ARGV[1])
end
return tonumber(redis.call('GET', KEYS[1]))
"""


class Uncertain(Exception):
    """Nobody knows whether it was done, or will be."""


class Holdfast:
    """One connection at a time, to any of the nodes."""

    def __init__(self, ports):
        self.ports, self.at, self.client = ports, 0, None
        self.met = {"refused": 0, "uncertain": 0}

    def connect(self):
        if self.client is None:  # the library must not send anything again by itself
            self.client = redis.Redis(port=self.ports[self.at], socket_timeout=ANSWER_S, socket_connect_timeout=1, decode_responses=True,
                                      single_connection_client=True, retry=Retry(NoBackoff(), 0))

    def next_node(self):
        if self.client is not None:
            self.client.connection.disconnect()
        self.client, self.at = None, (self.at + 1) % len(self.ports)

    def once(self, *command):
        """Done at most once: asks again only when it is sure that nothing was done. Raises Uncertain otherwise."""
        return self._ask(command, repeat=False)

    def repeat(self, *command):
        """For what may be done twice: a read, SET of a whole value, SADD, a script that knows its request's id."""
        return self._ask(command, repeat=True)

    def _ask(self, command, repeat):
        end, attempt = time.monotonic() + GIVE_UP_S, 0
        while True:
            try:
                return self._try(command)
            except Uncertain:
                self.met["uncertain"] += 1
                if not repeat or time.monotonic() > end:
                    raise
            except redis.RedisError:
                self.met["refused"] += 1
                if time.monotonic() > end:
                    raise
            time.sleep(random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** attempt)))  # exponential, with full jitter
            attempt = min(attempt + 1, 20)

    def _try(self, command):
        """The answer; Uncertain; or another RedisError: refused. An error that is none of these is the caller's: TypeError, WRONGTYPE ..."""
        try:
            self.connect()
        except redis.ConnectionError:
            self.next_node()
            raise  # not sent
        try:
            return self.client.execute_command(*command)
        except REFUSED_CLASSES:  # before ConnectionError: for redis-py LOADING is one
            self.next_node()
            raise
        except (redis.ConnectionError, redis.TimeoutError) as lost:
            self.next_node()
            raise Uncertain(str(lost)) from lost
        except redis.ResponseError as answer:
            code = str(answer).split(" ", 1)[0]
            if code == "UNCERTAIN":
                raise Uncertain(str(answer)) from answer
            if code in REFUSED:
                self.next_node()
                raise
            raise ValueError(str(answer)) from answer


def main():
    name, count, ports = sys.argv[1], int(sys.argv[2]), [int(p) for p in sys.argv[3:]]
    holdfast = Holdfast(ports)

    holdfast.repeat("SET", f"{name}:profile", json.dumps({"name": name, "requests": count}))
    for n in range(count):
        holdfast.repeat("EVAL", ADD_ONCE, 2, f"{name}:total", f"{name}:request:{n}", 1)

    # Without an id: only the caller can decide. That it is there is proof; that it is not there is none: it may still come.
    try:
        holdfast.once("RPUSH", f"{name}:log", "finished")
    except Uncertain:
        print("in doubt, and there:", holdfast.repeat("LRANGE", f"{name}:log", 0, -1))

    print(json.dumps({"total": int(holdfast.repeat("GET", f"{name}:total")), **holdfast.met}))


if __name__ == "__main__":
    main()
