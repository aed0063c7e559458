"""Every command that COMMAND lists: asked in the same order of a bare Valkey and of one behind Holdfast, with equal replies; or it is named
below, with what is different about it. A command that no line speaks of fails the test: somebody has to decide about it."""
import pytest

from harness import wait_until
from resp import PushReply

# Commands with '|' or a line's end between them, asked in order on one connection. Equal replies are expected, errors too; of one that ends
# with '_' only the kind of reply, since it is not the same each time.
SAME = r"""
    set k 1 | get k | append k 2 | strlen k | getrange k 0 0 | substr k 0 0 | setrange k 1 xx | getset k 7 | incr k | decr k | incrby k 3
    decrby k 2 | incrbyfloat f 1.5 | mset a 1 b 2 | mget a b c | msetnx a 1 d 2 | setnx n 1 | setex e 100 v | psetex e 100000 v | getex e
    getdel n | lcs a b | set k v get | exists k a | type k | touch k a | copy a a2 | rename a2 a3 | renamenx a3 a4 | unlink a4 | del b
    keys a* | randomkey_ | dbsize | expire a 100 | pexpire a 100000 | expireat a 9999999999 | pexpireat a 9999999999000 | expiretime a
    pexpiretime a | persist a | ttl a | pttl a | move a 1 | select 1 | exists a | select 0 | swapdb 0 1 | swapdb 0 1 | dump nothing
    setbit bits 7 1 | getbit bits 7 | bitcount bits | bitpos bits 1 | bitop not bits2 bits | bitfield bits set u4 0 9 | bitfield_ro bits get u4 0
    rpush l 1 2 3 | lpush l 0 | rpushx l 4 | lpushx none 1 | llen l | lrange l 0 -1 | lindex l 0 | lset l 0 x | linsert l before x w | lpos l x
    lrem l 0 x | ltrim l 0 3 | lpop l | rpop l | lmove l l2 left right | rpoplpush l l2 | blpop l2 1 | brpop l2 1 | blpop none 0.01
    rpush l 1 2 3 | blmove l l3 left left 1 | brpoplpush l l3 1 | lmpop 1 l3 left | blmpop 1 1 l3 left
    hset h f 1 g 2 | hget h f | hmget h f x | hmset h z 3 | hincrby h f 2 | hincrbyfloat h f 1.5 | hsetnx h f 9 | hstrlen h f | hlen h | hexists h f
    hkeys h | hvals h | hgetall h | hdel h g z | hrandfield h | hscan h 0 | sort l3 alpha | sort_ro l alpha | sort l alpha store sorted
    sadd s 1 2 3 | sadd t 3 4 | scard s | sismember s 1 | smismember s 1 9 | smembers s | sinter s t | sintercard 2 s t | sinterstore u s t
    sunion s t | sunionstore u s t | sdiff s t | sdiffstore u s t | smove s t 1 | srem s 2 | srandmember s | sscan s 0 | spop s | scard s
    zadd z 1 a 2 b 3 c | zadd y 1 a | zcard z | zscore z a | zmscore z a x | zincrby z 1 a | zrank z a | zrevrank z a | zrange z 0 -1 withscores
    zrevrange z 0 -1 | zrangebyscore z 0 9 | zrevrangebyscore z 9 0 | zrangebylex z - + | zrevrangebylex z + - | zlexcount z - + | zcount z 0 9
    zrangestore zs z 0 -1 | zunion 2 z y | zunionstore zu 2 z y | zinter 2 z y | zintercard 2 z y | zinterstore zi 2 z y | zdiff 2 z y
    zdiffstore zd 2 z y | zrem z c | zpopmin z | zpopmax z | bzpopmin zu 1 | bzpopmax zu 1 | zadd z 1 q | zmpop 1 z min | zadd z 1 q
    bzmpop 1 1 z min | bzpopmin none 0.01 | zadd z 1 q | zrandmember z | zscan z 0 | zremrangebyscore z 0 0 | zremrangebyrank z 5 6
    zremrangebylex z [x [y | geoadd g 13.361389 38.115556 p 15.087269 37.502669 c | geodist g p c | geohash g p | geopos g p
    georadius g 15 37 200 km | georadius_ro g 15 37 200 km | georadiusbymember g p 200 km | georadiusbymember_ro g p 200 km
    geosearch g frommember p byradius 200 km | geosearchstore gs g frommember p byradius 200 km
    pfadd hll a b | pfcount hll | pfmerge hll2 hll | pfselftest_
    xadd x 1-1 f v | xadd x 1-2 f v | xlen x | xrange x - + | xrevrange x + - | xread count 1 streams x 0 | xread block 10 streams x $
    xgroup create x gr 0 | xgroup createconsumer x gr c | xreadgroup group gr c count 1 streams x > | xack x gr 1-1 | xpending x gr
    xreadgroup group gr c count 1 streams x > | xclaim x gr d 0 1-2 justid | xautoclaim x gr c 0 0 justid | xinfo consumers_ | xinfo groups x
    xinfo help | xinfo stream x | xgroup setid x gr 0 | xgroup delconsumer x gr c | xgroup destroy x gr | xgroup help | xdel x 1-1 | xtrim x maxlen 1
    xsetid x 5-1 | eval 'return_ARGV[1]' 0 a | eval 'return_redis.call("incr",KEYS[1])' 1 n2 | eval_ro 'return_1' 0
    script load 'return_7' | evalsha e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | script exists e0e1f9fabfc9d4800c877a703b823ac0578ff8db
    script load 'return_1' | evalsha e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | evalsha_ro e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
    script show e0e1f9fabfc9d4800c877a703b823ac0578ff8db | script debug no | script kill | script flush | script help
    function load '#!lua_name=lib\nserver.register_function{function_name="f",callback=function()_return_5_end,flags={"no-writes"}}'
    fcall f 0 | fcall_ro f 0 | function list | function dump | function kill | function delete lib | function flush | function help
    function restore bad | multi | set m 1 | get m | exec | multi | set m 2 | discard | watch m | multi | get m | exec | unwatch | exec | discard
    multi | nonsense | exec | object encoding k | object refcount k | object idletime k_ | object freq k | object help | memory usage k | memory help
    memory doctor_ | memory purge | echo hello | ping | ping x | time_ | command count | command getkeys set k v | command getkeysandflags set k v
    command info get | command list_ | command docs get | command help | restore back 0 nonsense | flushdb | flushall | save_ | config resetstat
    config set maxmemory-samples 7 | config get maxmemory-samples | config set nonsense 1 | config help | config rewrite
    latency reset | latency latest | latency history x | latency graph x | latency doctor | latency histogram nonsense | latency help
    slowlog reset | slowlog len | slowlog help | acl whoami | acl users | acl list | acl cat | acl cat string | acl getuser default
    acl setuser u on >p ~k:* +get | acl getuser u | acl dryrun u get k:1 | acl dryrun u get other | acl dryrun u set k:1 1 | acl setuser u nonsense
    acl deluser u | acl deluser default | acl log reset | acl log | acl help | acl save | acl load | publish c x | spublish c x
    pubsub channels | pubsub numsub c | pubsub numpat | pubsub shardchannels | pubsub shardnumsub c | pubsub help
    subscribe c1 | unsubscribe c1 | psubscribe p* | punsubscribe p* | ssubscribe s1 | sunsubscribe s1 | readonly | readwrite | asking
    cluster info | cluster help | cluster keyslot k | module list | module help | client help_ | client getname | client setname n | client getname
    client setinfo lib-name l | client setinfo x y | client getredir | client trackinginfo | client caching yes | client no-evict on | client no-evict off
    client no-touch on | client no-touch off | client reply on | client unblock 999999 | client pause 0 | client unpause | client capa redirect
    client tracking on | client tracking off | client kill id 999999 | client nonsense | wait 0 1 | hello 9 | hello 2 auth a b | auth x y z
    lolwut nonsense_ | sort k by nosort get # | select 99 | select x | get | nonsense | debug_ | quit
"""
SAME = SAME.replace("\n", "|")

# What Holdfast treats in a way of its own, and where that is tested.
DIFFERENT = {
    "client id": "ids are Holdfast's (test_connections.py)", "client info": "likewise", "client list": "likewise",
    "info": "a section more (test_info_admin.py)", "role": "no replicas (test_like_valkey.py)", "waitaof": "of the log (test_sessions.py)",
    "monitor": "no markers (test_like_valkey.py)", "reset": "see test_sessions.py", "config": "container", "debug": "test_guards.py",
    "migrate": "test_guards.py", "shutdown": "test_guards.py", "pfdebug": "test_guards.py", "restore-asking": "test_guards.py",
    "replicaof": "test_guards.py", "slaveof": "test_guards.py", "failover": "test_guards.py", "psync": "test_guards.py", "sync": "test_backup.py",
    "replconf": "test_backup.py", "bgsave": "by Valkey; two of them at once fail", "bgrewriteaof": "likewise", "lastsave": "Valkey's",
    "acl genpass": "random", "memory stats": "figures", "memory malloc-stats": "figures", "slowlog get": "Holdfast's connections are its clients",
    "function stats": "figures", "scan": "order", "module load": "none here", "module loadex": "none here", "module unload": "none here",
    "client import-source": "refused", "commandlog": "as slowlog",
}
# Refused, or answered by Valkey that it is no cluster.
CLUSTER = "cluster "


def words_of(line):
    out = []
    for word in line.split():
        word = word.strip("'") if word.startswith("'") else word
        if "_" in word and ("return" in word or word.startswith("#!lua")):
            word = word.replace("_", " ") if not word.startswith("#!lua") else \
                word.replace("lua_name", "lua name").replace("()_return_5_end", "() return 5 end").replace("\\n", "\n")
        out.append(word.rstrip("'"))
    return out


def commands():
    for line in filter(None, (part.strip() for part in SAME.split("|"))):
        loose = line.split()[0].endswith("_") or line.endswith("_")
        yield words_of(line.replace("_ ", " ").removesuffix("_") if loose else line), loose


def read_all(c, words):
    """The reply; of (un)subscribing, the push."""
    c.send(*words)
    return c.read_any()


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("mode", ["sync", "async", "off"])
def test_replies_are_valkeys(rig, mode, proto):
    bare = rig.valkey()
    _, h = rig.pair(durability=mode)
    wrong = []
    with bare.client(proto=proto) as theirs, h.client(proto=proto) as ours:
        for words, loose in commands():
            want, got = read_all(theirs, words), read_all(ours, words)
            if loose:
                want, got = type(want), type(got)
            if words == ["acl", "cat", "string"]:
                want, got = set(want), set(got)
            if got != want:
                wrong.append(f"{' '.join(words)}: {got!r}, not {want!r}")
        assert not wrong, "\n".join(wrong)
        assert ours.closed_within(5) and theirs.closed_within(5)
    with bare.client() as a, h.client() as b:
        assert a("DBSIZE") == b("DBSIZE") and bare.digest() == h.valkey.digest()


def test_every_command_was_thought_of(rig):
    v = rig.valkey()
    spoken_of = {" ".join(w.lower() for w in words[:n]) for words, _ in commands() for n in (1, 2)} | set(DIFFERENT)
    with v.client() as c:
        names = sorted(n.decode().replace("|", " ") for n in c("COMMAND", "LIST"))
    containers = {n.split()[0] for n in names if " " in n}
    version = tuple(int(n) for n in v.info("server")["valkey_version"].split(".")[:2])
    forgotten = [n for n in names if n not in spoken_of and n not in containers and not n.startswith(CLUSTER) and n.split()[0] not in DIFFERENT]
    assert not forgotten or version > (8, 1), forgotten


# ---- keyspace notifications, and pub/sub through relays and over a failover ----

NOTIFIED = [(("SET", "n:k", 1), [b"set"]), (("EXPIRE", "n:k", 100), [b"expire"]), (("INCR", "n:k"), [b"incrby"]), (("DEL", "n:k"), [b"del"]),
            (("SADD", "n:s", 1, 2), [b"sadd"]), (("SPOP", "n:s", 2), [b"spop", b"del"]), (("XADD", "n:x", "*", "f", "v"), [b"xadd"]),
            (("EVAL", "return redis.call('LPUSH', KEYS[1], 1)", 1, "n:l"), [b"lpush"]), (("RENAME", "n:l", "n:m"), [b"rename_from", b"rename_to"])]


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_keyspace_notifications(rig, mode, proto):
    """Each write's, in order, whatever way it takes to Valkey; and nothing of Holdfast's own."""
    _, h = rig.pair(durability=mode)
    with h.client(proto=proto) as sub, h.client() as c, h.client() as other:
        assert c("CONFIG", "SET", "notify-keyspace-events", "KEA") == b"OK"
        sub.send("PSUBSCRIBE", "__key*@*__:*", "*")
        got = [sub.read_any() for _ in range(2)]
        assert [g[0] for g in got] == [b"psubscribe"] * 2
        for words, events in NOTIFIED:
            other(*words)
            for event in events:
                for space in (True, False):  # each pattern hears it, in an order of Valkey's
                    heard = [sub.read_any() for _ in range(2)]
                    assert {m[1] for m in heard} == {b"__key*@*__:*", b"*"} and heard[0][2:] == heard[1][2:], heard
                    channel, what = heard[0][2:]
                    if space:
                        assert channel.startswith(b"__keyspace@0__:n:") and what == event, (words, channel, what)
                    else:
                        assert channel == b"__keyevent@0__:" + event and what.startswith(b"n:"), (words, channel, what)
        other("PUBLISH", "end", "x")
        assert sub.read_any()[1:] == [b"*", b"end", b"x"]


def test_pubsub_shows_nothing_of_ours(rig):
    _, h = rig.pair(durability="sync")
    with h.client() as c, h.client() as sub:
        sub("SUBSCRIBE", "seen")
        c("SET", "k", 1)
        c("SPOP", "none")
        assert c("PUBSUB", "CHANNELS") == [b"seen"] and c("PUBSUB", "NUMPAT") == 0 and c("PUBSUB", "SHARDCHANNELS") == []


def test_subscribers_of_all_nodes_hear_all(rig):
    """Those of followers are sessions on the leader. When the leader goes, they are closed, as with any server, and hear all again when they
    have subscribed again."""
    g = rig.group()
    kinds = {"SUBSCRIBE": "PUBLISH", "PSUBSCRIBE": "PUBLISH", "SSUBSCRIBE": "SPUBLISH"}

    def hears(name, kind, proto):
        with g[name].client(proto=proto) as sub, g.leader().client() as c:
            sub.send(kind, "news")
            assert sub.read_any()[0] == kind.lower().encode()
            for publisher in (c, *([sub] if proto == 3 else [])):
                publisher.send(kinds[kind], "news", "x")
                got = [sub.read_any() for _ in range(2 if publisher is sub else 1)]
                assert any(isinstance(m, (list, PushReply)) and m[-1] == b"x" for m in got), got
    for name in "abc":
        for kind in kinds:
            for proto in (2, 3):
                hears(name, kind, proto)
    old = g.leader().name
    near = next(n for n in "abc" if n != old)
    with g[near].client() as sub:
        sub("SUBSCRIBE", "news")
        g.kill9_zone(old)
        assert sub.closed_within(30)
    g.leader()
    wait_until(lambda: g[near].ready(), 30, "served again")
    hears(near, "SUBSCRIBE", 2)
