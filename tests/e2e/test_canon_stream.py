"""The replayable table against a real Valkey: what it puts in its replication stream for a canonical intent is the
intent, byte for byte, or an effect that belongs to it; and the intent alone, executed by a replica, leaves the same
data.

    VALKEY_SERVER=/path/to/valkey-server pytest tests/e2e/test_canon_stream.py      for any other version

Without VALKEY_SERVER it is run against the installed one and against those that tests/tools/valkeys.sh has put into
build/valkeys, as far as canon.c says that they were tried. The last test tells how many forms are what with each.
"""
import os
import re
import socket
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tools"))
from canon_tool import Canon, Error, Reader, TOP, Valkey, build, encode, valkey_binary  # noqa: E402

pytestmark = pytest.mark.skipif(valkey_binary() is None, reason="no valkey-server")
FAR = 99999999999999



def version_of(server):
    text = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"v=(\d+\.\d+\.\d+)", text).group(1)


def number(version):
    major, minor = version.split(".")[:2]
    return int(major) * 100 + int(minor)


def tried():
    with open(os.path.join(TOP, "proxy/canon.c"), encoding="utf-8") as f:
        return {int(n) for n in re.search(r"tried\[\] = \{([^}]*)\}", f.read()).group(1).split(",")}


def servers():
    """One of each version."""
    listed = os.path.join(TOP, "build/valkeys/list")
    found = {version_of(valkey_binary()): valkey_binary()}
    if "VALKEY_SERVER" not in os.environ and os.path.exists(listed):
        with open(listed, encoding="utf-8") as f:
            for server in f.read().split():
                if number(version_of(server)) in tried():
                    found.setdefault(version_of(server), server)
    return found


SERVERS = servers() if valkey_binary() else {}

SETUP = """
SET s old|SET n 10|SET f 1.5|SET bits abc|SET ttl v PX 5000000|SET keep v PX 5000000
RPUSH l a b c a b c|RPUSH m x|SADD s1 a b c|SADD s2 b c d|SADD s3 z|HSET h f v n 5
ZADD z 1 a 2 b 3 c|ZADD y 5 a 6 d|GEOADD g 1.0 2.0 p 1.1 2.1 q|PFADD p1 a b|PFADD p2 c d
XADD x 1-1 a 1|XADD x 2-1 a 2|XADD x 3-1 a 3|XGROUP CREATE x grp 0|XREADGROUP GROUP grp con COUNT 2 STREAMS x >
XGROUP CREATE x grp2 0|RPUSH nums 3 1 2 10
""".replace("\n", "|")
SETUP_900 = f"HSET e f 1 g 2 n 5|HPEXPIREAT e {FAR} FIELDS 2 f g|HSET e2 f 1|HPEXPIREAT e2 {FAR} FIELDS 1 f"

# Every row of the table, in every form that it takes; "{now+N}" is a moment in ms, "{sec+N}" in s. Each runs alone,
# on keys that are set up afresh.
FORMS = """
SET s new|set s new|SET s new XX|SET fresh v NX|SET keep w KEEPTTL|SET s v GET|SET s v GET XX|SET fresh v NX GET
SET keep w GET KEEPTTL
SET s v EX 100|SET s v PX 100000|SET s v EXAT {sec+1000}|SET s v PXAT {now+1000000}|SET fresh v NX EX 100
SET s v PX 100000 XX GET
SET s v GET EX 100|SET s v GET get|SET s v PXAT {now+1000000} GET|SET s v XX EX 50|SETNX fresh v|SETEX s 100 v
PSETEX s 100000 v|SETEX fresh 1 v
GETSET s v|GETSET fresh v|GETSET ttl v|GETDEL s|GETDEL ttl|DELIFEQ s old|SET s v IFEQ old
SET s v IFEQ old GET|SET s v IFEQ old EX 100|SET keep v IFEQ v KEEPTTL|SET s v GET PX 100000 IFEQ old|set s v ifeq old
GETEX s EX 100|GETEX s PX 100000|GETEX s EXAT {sec+1000}|GETEX ttl PXAT {now+1000000}|GETEX ttl PERSIST|getex s ex 7
MSETEX 2 s 1 t 2|MSETEX 2 s 1 t 2 EX 100|MSETEX 1 s 1 XX PX 100000|MSETEX 2 t1 1 t2 2 NX EXAT {sec+1000}
MSETEX 2 s 1 keep 2 KEEPTTL|MSETEX 1 s 1 PXAT {now+1000000}|MSETEX 1 t 1 NX|msetex 1 s 1 ex 9
MSET s 1 t 2|MSET s 1 s 2|MSETNX t1 1 t2 2|APPEND s x|APPEND fresh x|SETRANGE s 5 x|SETBIT bits 7 0|SETBIT fresh 100 1
BITOP AND dst bits s|BITOP OR dst bits s|BITOP XOR dst bits bits|BITOP NOT dst bits|BITOP and s nope nope
BITFIELD bits SET u8 0 255 INCRBY u8 0 10|BITFIELD bits OVERFLOW SAT INCRBY u8 0 200
BITFIELD fresh SET i5 #3 7 GET i5 #3
INCR n|INCR fresh|DECR n|INCRBY n 5|DECRBY n 5|INCRBY ttl2 5|INCRBYFLOAT f 1.25|INCRBYFLOAT n 1e2
INCRBYFLOAT fresh 0.1
DEL s|DEL s nope n|UNLINK s|UNLINK s nope n|PERSIST ttl|RENAME s t|RENAME ttl keep|RENAMENX s t|COPY s t
COPY s n REPLACE|COPY s s DB 5|COPY ttl n DB 5 REPLACE|MOVE s 5|MOVE ttl 5
EXPIRE s 100|EXPIRE ttl 100 XX|EXPIRE s 100 NX|EXPIRE ttl 99999 GT|EXPIRE ttl 10 LT|expire ttl 10 lt
PEXPIRE s 100000|PEXPIRE s 100000 NX|EXPIREAT s {sec+1000}|EXPIREAT s {sec+1000} LT
PEXPIREAT s {now+1000000}|PEXPIREAT ttl {now+99000000} GT
EXPIRE s -1|EXPIRE s 0|expire ttl 0|PEXPIRE s -100|PEXPIREAT s 5|EXPIREAT s 5|EXPIREAT ttl -5|PEXPIREAT ttl {now-5000}
LPUSH l x y|RPUSH l x|LPUSHX l x|RPUSHX l x y|LPUSH fresh a|LPOP l|LPOP l 2|LPOP l 100|RPOP l|RPOP l 5|RPOP m|LPOP m 1
LINSERT l BEFORE b x|LINSERT l after c x|LSET l 0 x|LSET l -1 x|LREM l 1 a|LREM l -2 b|LREM l 0 c|LREM m 0 x
LTRIM l 0 1|LTRIM l 50 60|LTRIM l -2 -1
LMOVE l m LEFT RIGHT|LMOVE l l left right|LMOVE m l RIGHT LEFT|RPOPLPUSH l m|RPOPLPUSH l fresh|RPOPLPUSH l l
LMPOP 2 nope l LEFT COUNT 2|LMPOP 1 l RIGHT|LMPOP 2 l m LEFT COUNT 100|LMPOP 2 m l right|lmpop 1 l left
SADD s1 x y a|SADD fresh x|SREM s1 a b|SREM s3 z|SMOVE s1 s2 a|SMOVE s3 fresh z|SINTERSTORE dst s1 s2
SUNIONSTORE dst s1 s2|SDIFFSTORE dst s1 s2|SDIFFSTORE s1 s1 s1
SINTERSTORE s1 s1 nope|SUNIONSTORE l s1 s2
HSET h f new x y|HSET fresh a b|HMSET h f v2|HSETNX h new v|HINCRBY h n 2|HINCRBY h fresh 2|HDEL h f|HDEL h f n nope
HINCRBYFLOAT h n 1.5|HINCRBYFLOAT h fresh 0.1|HINCRBYFLOAT fresh f 1e2
HEXPIRE h 100 FIELDS 1 f|HEXPIRE h 100 NX FIELDS 2 f n|HEXPIRE e 10 LT FIELDS 1 f|HEXPIRE e 999999999999 GT FIELDS 2 f nope
HPEXPIRE h 100000 FIELDS 1 f|hpexpire h 100000 fields 1 f|HEXPIREAT h {sec+1000} FIELDS 1 f|HEXPIREAT e {sec+1000} XX FIELDS 1 f
HPEXPIREAT h {now+1000000} FIELDS 2 f n|HPEXPIREAT e {now+1000000} FIELDS 3 f g n|HPERSIST e FIELDS 1 f|HPERSIST e FIELDS 3 f n nope
HGETDEL h FIELDS 1 f|HGETDEL h FIELDS 3 f n nope|HGETDEL e FIELDS 3 f g n|HGETDEL e2 FIELDS 1 f
HGETEX h EX 100 FIELDS 1 f|HGETEX h PX 100000 FIELDS 2 f n|HGETEX e EXAT {sec+1000} FIELDS 2 f n|HGETEX e PXAT {now+1000000} FIELDS 1 g
HGETEX e PERSIST FIELDS 2 f g|hgetex e persist fields 1 f|hgetex h ex 10 fields 1 f
HSETEX h FIELDS 1 f w|HSETEX h EX 100 FIELDS 2 f w new x|HSETEX fresh PX 100000 FIELDS 1 f v|HSETEX e EXAT {sec+1000} FIELDS 1 f w
HSETEX e PXAT {now+1000000} FIELDS 2 f w n w|HSETEX e KEEPTTL FIELDS 2 f w n w|HSETEX e FIELDS 1 f w|hsetex h ex 9 fields 1 f v
HINCRBY e n 2|HSET e f w|HDEL e f|HDEL e f g n|HSETNX e new v
ZADD z 1.5 a 2 new|ZADD z NX 1 new|ZADD z XX CH 5 a|ZADD z GT CH 5 a|ZADD z LT 0.5 c|ZADD z INCR 1.5 a
ZADD z XX INCR 1.5 a|ZADD fresh inf a -inf b
ZINCRBY z 1.25 a|ZINCRBY z 1 new|ZREM z a|ZREM z a b c|ZPOPMIN z|ZPOPMAX z 2|ZPOPMIN z 100|ZMPOP 1 z MIN
ZMPOP 2 nope z MAX COUNT 2|ZMPOP 1 z MIN COUNT 100
ZREMRANGEBYSCORE z 0 1|ZREMRANGEBYSCORE z (1 +inf|ZREMRANGEBYRANK z 0 0|ZREMRANGEBYRANK z 0 -1|ZREMRANGEBYLEX z [a [a
ZUNIONSTORE dst 2 z y|ZUNIONSTORE dst 2 z y WEIGHTS 2 0.5 AGGREGATE MAX|ZINTERSTORE dst 2 z y|ZINTERSTORE z 2 z nope
ZDIFFSTORE dst 2 z y|ZUNIONSTORE dst 1 s1
ZRANGESTORE dst z 0 -1|ZRANGESTORE dst z (1 3 BYSCORE LIMIT 0 1|ZRANGESTORE dst z + - BYLEX REV|ZRANGESTORE z z 50 60
GEOADD g 3 4 new|GEOADD g NX 3 4 new|GEOADD g CH 3 4 p 5 6 q|GEOADD g XX 3 4 p|GEOADD fresh 1 2 a 3 4 b|geoadd g 9 9 z
GEORADIUS g 1 2 500 km STORE dst|GEORADIUS g 1 2 500 km COUNT 1 ASC STOREDIST dst|georadius g 1 2 500 km store g
GEORADIUSBYMEMBER g p 500 km STORE dst|GEORADIUSBYMEMBER g p 500 km DESC STOREDIST z
SORT nums STORE dst|SORT l ALPHA STORE dst|SORT nums DESC LIMIT 1 2 STORE l|SORT s1 ALPHA STORE s1|sort z alpha store dst
SORT nope STORE s
GEOSEARCHSTORE dst g FROMLONLAT 1 2 BYRADIUS 500 km
GEOSEARCHSTORE dst g FROMMEMBER p BYBOX 500 500 km ASC COUNT 1 STOREDIST
PFADD p1 x y z|PFADD fresh|PFMERGE p1 p2|PFMERGE dst p1 p2
XADD x 5-1 f v|XADD x NOMKSTREAM 5-1 f v g w|XADD x MAXLEN 1 5-1 f v|XADD x MAXLEN = 2 5-1 f v
XADD x MINID 2-1 5-1 f v|XADD x MINID = 3-1 5-1 f v|XADD fresh 0-1 f v
XADD x MINID 2 5-1 f v|XADD x MAXLEN ~ 1 5-1 f v|XADD x NOMKSTREAM MINID ~ 2-1 5-1 f v|xadd x maxlen ~ 1000 5-1 f v
XDEL x 1-1|XDEL x 1-1 2-1 9-9|XTRIM x MAXLEN 1|XTRIM x MAXLEN = 0|XTRIM x MINID 2-1|XTRIM x MINID = 3-0
XACK x grp 1-1|XACK x grp 1-1 2-1 7-7
XSETID x 9-9|XSETID x 9-9 ENTRIESADDED 10 MAXDELETEDID 1-1
XGROUP CREATE x g3 0|XGROUP CREATE x g3 $|XGROUP CREATE x g3 1-1 ENTRIESREAD 1|XGROUP CREATE fresh g $ MKSTREAM
XGROUP SETID x grp 0|XGROUP SETID x grp 1-1 ENTRIESREAD 1
XGROUP DESTROY x grp|XGROUP DESTROY x grp2|XGROUP CREATECONSUMER x grp other|XGROUP DELCONSUMER x grp con
xgroup create x g4 $
"""

# What came with a later version: refused by those before.
SINCE = [(801, r"\bIFEQ\b"), (900, r"^DELIFEQ|^H(P?EXPIRE|PERSIST|GETDEL|GETEX|SETEX)"), (901, r"^MSETEX")]
# Until when: after that they are captured.
UNTIL = [(801, r"^HINCRBYFLOAT")]

# XADD with `*`; with an id of ours.
CHOSEN = """
XADD x * f v|XADD x NOMKSTREAM * f v g w|xadd x maxlen 2 * f v|XADD x MAXLEN = 1 * f v|XADD x MAXLEN ~ 2 * f v
XADD x MINID 2-1 * f v|XADD x MINID ~ 2 * f v|XADD x NOMKSTREAM MAXLEN ~ 0 * f v|XADD fresh * f v|XADD fresh MAXLEN 5 * f v
"""

# Forms that must be captured.
CAPTURED = """
SPOP s1|SPOP s1 2|XADD x * f v|XADD x 5-* f v|XADD x 5 f v|XADD x MAXLEN ~ 1 LIMIT 5 5-1 f v|XTRIM x MAXLEN ~ 1
XADD x MAXLEN ~ x 5-1 f v|XADD x MAXLEN ~ 5-1 f v|XADD x MINID ~ z 5-1 f v
EXPIRE s -1 NX|EXPIRE s -99999999999|EXPIREAT s {sec+0}|PEXPIREAT s {now-999}|PEXPIREAT s 5 GT
HSETEX h NX FIELDS 1 f v|HSETEX h FNX FIELDS 1 f v|HSETEX h FIELDS 2 f v|HSETEX h EX 0 FIELDS 1 f v|HSETEX h EX 5 EX 5 FIELDS 1 f v
HGETEX h FIELDS 1 f|HGETEX h EX 5 PERSIST FIELDS 1 f|HEXPIRE h 0 FIELDS 1 f|HEXPIRE h 100 FIELDS 2 f|HEXPIRE h 5 ZZ FIELDS 1 f
HPERSIST h FIELDS 0|HGETDEL h FIELDS 9223372036854775807 f|MSETEX 2 a 1|MSETEX 0 EX 5|MSETEX 1 a 1 EX 5 KEEPTTL|MSETEX 1 a 1 FOO
MSETEX 9223372036854775807 a 1|RESTORE k 100 x FOO|RESTORE k x y|RESTORE k 5 x ABSTTL|RESTORE k 100 x FREQ
SORT l STORE d BY nosort|SORT l GET # STORE d|SORT l STORE a STORE b|SORT l|SORT l STORE|SORT l LIMIT 0 STORE d
GEORADIUS g 1 2 5 km|GEORADIUS g 1 2 5 km STORE a STORE b|GEORADIUS g 1 2 5 km STORE store|GEORADIUS g 1 2 5 km COUNT 1 ANY STORE d
GEORADIUS g 1 2 5 km STORE|SET s v IFEQ old NX|SET s v IFEQ|SET s v IFEQ a IFEQ b
XTRIM x MAXLEN = 1 LIMIT 5|XREADGROUP GROUP grp c STREAMS x >
XCLAIM x grp c 0 1-1|XAUTOCLAIM x grp c 0 0|FLUSHALL|FLUSHDB|SWAPDB 0 1|EVAL return(1) 0|BLPOP l 0
BLMOVE l m LEFT LEFT 0|BLMPOP 0 1 l LEFT
GET s|GETEX s|SCRIPT LOAD x
BITFIELD bits GET u8 0
SET s v EX 0|SET s v EX -1|SET s v EX x|SET s v EX|SET s v EX 9223372036854775807|SET s v EX 9223372036854776
SET s v PX 9223372036854775807|SET s v PXAT 5|SET s v EXAT 5
SET s v NX XX|SET s v EX 5 PX 5|SET s v EX 5 KEEPTTL|SET s v FOO|SET s|EXPIRE s x
EXPIRE s 9223372036854775807|EXPIRE s 100 NX XX|EXPIRE s 100 ZZ
GETEX s EX 0|GETEX s PXAT 5|GETEX s FOO|GETEX s EX 100 PERSIST|SETEX s 0 v|SETEX s -1 v|PSETEX s x v|MSET a
MSET a 1 b|HSET h f|HSET h f v x|INCRBY n x|INCRBY n 1.5|INCRBY n +1
LPOP l 0|LPOP l -1|LPOP l x|LSET l x y|LINSERT l MIDDLE a b|LMOVE l m UP DOWN|LMPOP 0 l LEFT|LMPOP 1 l
LMPOP 1 l LEFT COUNT 0|LMPOP x l LEFT|COPY s t DB 1 DB 2|COPY s t DB x|COPY s t FOO
MOVE s x|ZADD z|ZADD z 1|ZADD z 1 a 2|ZADD z INCR 1 a 2 b|ZUNIONSTORE d 0 z|ZUNIONSTORE d 2 z|BITOP FOO d s
BITOP NOT d s s|GEOSEARCHSTORE d g FROMLONLAT 1 2 BYRADIUS 5 km COUNT 1 ANY
XSETID x 9|XGROUP CREATE x g 5|XGROUP FOO x g|XADD x 5-1 f|XADD x 05-1 f v|XADD x 5-1|BITOP DIFF d s s
"""


def forms(text):
    return [f for f in text.replace("\n", "|").split("|") if f]


class Tap:
    """A replica that reads the stream as commands."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        file = self.socket.makefile("rb")
        for line in (b"PING", b"REPLCONF listening-port 1", b"REPLCONF capa eof capa psync2"):
            self.socket.sendall(line + b"\r\n")
            file.readline()
        self.socket.sendall(b"PSYNC ? -1\r\n")
        line = b"\n"
        while line == b"\n":
            line = file.readline()
        assert line.startswith(b"+FULLRESYNC"), line
        line = b"\n"
        while line == b"\n":
            line = file.readline()
        if line.startswith(b"$EOF:"):
            mark, rdb = line[5:-2], b""
            while not rdb.endswith(mark):
                rdb += file.read1(65536)
        else:
            file.read(int(line[1:]))
        self.ack()
        self.file = file
        self.reader = Reader(file)

    def ack(self):
        self.socket.sendall(encode("REPLCONF", "ACK", 0))

    def until(self, marker):
        """Commands up to SPUBLISH of this payload, without what only keeps the link alive."""
        found = []
        while True:
            command = self.reader.read()
            name = command[0].upper()
            if name == b"SPUBLISH" and command[2] == marker:
                return found
            if name not in (b"PING", b"SELECT", b"REPLCONF"):
                found.append(command)

    def close(self):
        self.file.close()
        self.socket.close()


class Feed:
    """A primary with an empty data set and one replica, the Valkey given, which executes what is sent."""

    EMPTY = bytes.fromhex("524544495330303131ff0000000000000000")  # no keys, checksum off

    def __init__(self, valkey):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.control = valkey.connect()
        assert self.control.call("REPLICAOF", "127.0.0.1", self.listener.getsockname()[1]) == b"OK"
        self.listener.settimeout(10)
        self.socket, _ = self.listener.accept()
        self.file = self.socket.makefile("rb")
        reader = Reader(self.file)
        while True:
            command = reader.read()
            name = command[0].upper()
            if name == b"PSYNC":
                break
            self.socket.sendall(b"+PONG\r\n" if name == b"PING" else b"+OK\r\n")
        self.socket.sendall(b"+FULLRESYNC %s 0\r\n$%d\r\n" % (b"f" * 40, len(self.EMPTY)) + self.EMPTY)
        self.offset = 0
        self.send(encode("SELECT", 0))
        self.settle()

    def send(self, resp):
        self.socket.sendall(resp)
        self.offset += len(resp)

    def settle(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            info = self.control.call("INFO", "replication").decode()
            offset = re.search(r"slave_repl_offset:(-?\d+)", info)
            if "master_link_status:up" in info and offset and int(offset.group(1)) >= self.offset:
                return
            time.sleep(0.001)
        raise RuntimeError("the replica does not follow")

    def close(self):
        self.control.call("REPLICAOF", "NO", "ONE")
        self.control.close()
        self.file.close()
        self.socket.close()
        self.listener.close()


def without_times(answer):
    """XINFO STREAM ... FULL without what each server reads off its own clock, and how its memory is laid out."""
    if not isinstance(answer, list):
        return answer
    own = (b"seen-time", b"active-time", b"radix-tree-keys", b"radix-tree-nodes")
    out, skip = [], False
    for item in answer:
        if not skip and item not in own:
            out.append(without_times(item))
        skip = item in own if not isinstance(item, list) else False
    return out


class World:
    def __init__(self, folder, version):
        self.version = version
        self.number = number(version)
        self.counts = {"verbatim": 0, "belongs": 0, "rewritten by Valkey": 0, "captured": 0, "not there": 0}
        self.canon = Canon(build(folder))
        self.primary = Valkey("--enable-debug-command", "yes", server=SERVERS[version])
        self.replica = Valkey("--enable-debug-command", "yes", server=SERVERS[version])
        self.client = self.primary.connect()
        self.client.call("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        self.tap = Tap(self.primary.port)
        self.feed = Feed(self.replica)
        self.markers = 0

    def effects(self):
        self.markers += 1
        payload = b"%d" % self.markers
        self.client.call("SPUBLISH", "mark", payload)
        return self.tap.until(payload)

    def fresh(self):
        """The same keys on both, from what Valkey itself would send."""
        self.tap.ack()
        self.client.call("FLUSHALL")
        for command in forms(SETUP) + (forms(SETUP_900) if self.number >= 900 else []):
            answer = self.client.call(*command.split(" "))
            assert not isinstance(answer, Error), (command, answer)
        for effect in self.effects():
            self.feed.send(encode(*effect))
        self.compare("set-up")

    def digests(self):
        self.feed.settle()
        return self.client.call("DEBUG", "DIGEST"), self.feed.control.call("DEBUG", "DIGEST")

    def compare(self, what):
        mine, other = self.digests()
        assert mine == other, f"{what}: primary and replica differ"
        both = self.client, self.feed.control
        mine, other = ({k: c.call("PEXPIRETIME", k) for k in c.call("KEYS", "*")} for c in both)
        assert mine == other, f"{what}: expiries"  # of which DEBUG DIGEST sees only that there is one
        for key in ("h", "e", "e2", "fresh") if self.number >= 900 else ():
            mine, other = ([c.call("HPEXPIRETIME", key, "FIELDS", 4, "f", "g", "n", "new")] for c in both)
            assert mine == other, f"{what}: expiries of {key}'s fields"
        for key in ("x", "fresh"):  # DEBUG DIGEST looks at a stream's entries only
            mine, other = (without_times(c.call("XINFO", "STREAM", key, "FULL")) for c in both)
            assert mine == other, f"{what}: {key}"

    def close(self):
        self.feed.close()
        self.tap.close()
        self.client.close()
        self.canon.close()
        self.primary.stop()
        self.replica.stop()


@pytest.fixture(scope="module", params=sorted(SERVERS))
def world(tmp_path_factory, request):
    w = World(str(tmp_path_factory.mktemp("canon")), request.param)
    yield w
    w.close()


def has(world, form):
    return all(world.number >= since for since, pattern in SINCE if re.search(pattern, form, re.I))


def held(world, form):
    return all(world.number <= until for until, pattern in UNTIL if re.search(pattern, form, re.I))


def decode(resp):
    from io import BytesIO
    return Reader(BytesIO(resp)).read()


def fill_in(form, now_ms):
    form = re.sub(r"\{now([+-]\d+)\}", lambda m: str(now_ms + int(m.group(1))), form)
    return re.sub(r"\{sec([+-]\d+)\}", lambda m: str(now_ms // 1000 + int(m.group(1))), form).split(" ")


# A hash with fields that may expire: Valkey says the result, not the increment; nobody's intent.
SAID_OTHERWISE = [(900, r"^HINCRBY e |^HSETNX e ")]


def otherwise(world, form):
    return any(world.number >= since and re.search(pattern, form) for since, pattern in SAID_OTHERWISE)


@pytest.mark.parametrize("form", forms(FORMS))
def test_stream_is_the_intent(world, form):
    if world.number < 900 and re.search(" e2? ", form):
        return  # fields that expire, which there are not
    now_ms = int(time.time() * 1000)
    args = fill_in(form, now_ms)
    canonical = world.canon.intent(now_ms, world.version, args)
    if not held(world, form):
        assert canonical is None
        world.counts["captured"] += 1
        return
    assert canonical is not None, "not taken"
    world.fresh()
    answer = world.client.raw(canonical)
    if not has(world, form):
        assert isinstance(answer, Error) and not world.effects(), answer
        world.counts["not there"] += 1
        return
    assert not isinstance(answer, Error), answer
    effects = world.effects()
    assert len(effects) == 1, f"the form should have an effect here: {effects}"
    intent, effect = decode(canonical), effects[0]
    verbatim, belongs = encode(*effect) == canonical, world.canon.belongs(intent, effect)
    if otherwise(world, form):
        assert not verbatim and not belongs, effect
        world.counts["rewritten by Valkey"] += 1
        return
    assert verbatim or belongs, effect
    world.counts["verbatim" if verbatim else "belongs"] += 1
    world.feed.send(encode("SELECT", 0) + canonical)
    world.compare(form)


@pytest.mark.parametrize("form", forms(CHOSEN))
def test_chosen_id(world, form):
    """The id that we choose, and what Valkey makes of `*` when the stream is ahead of it."""
    intent, sent = world.canon.with_id("77-5", form.split(" "))
    for ahead in (False, True):
        world.fresh()
        if ahead:
            world.client.call("XADD", form.split(" ")[1], "77-6", "a", "b")
            for effect in world.effects():
                world.feed.send(encode(*effect))
        answer = world.client.raw(sent)
        (effect,) = world.effects()
        if ahead:
            assert effect[0].upper() == b"XADD" and answer in effect and encode(*effect) != intent
            assert int(answer.split(b"-")[0]) > 77
            assert not world.canon.belongs(decode(intent), effect)
        else:
            assert answer == b"77-5" and encode(*effect) == intent
        world.feed.send(encode("SELECT", 0) + encode(*effect))
        world.compare(form)
    world.counts["verbatim"] += 1


@pytest.mark.parametrize("setting", [[], ["maxmemory", "1"]])
@pytest.mark.parametrize("form", ["XADD s * f v", "XADD nope NOMKSTREAM * f v", "XADD full * f v"])
def test_chosen_id_is_answered_as_without(world, form, setting):
    world.fresh()
    world.client.call("XADD", "full", "18446744073709551615-18446744073709551615", "f", "v")
    world.effects()
    if setting:
        world.client.call("CONFIG", "SET", *setting)
    try:
        sent = world.canon.with_id("77-5", form.split(" "))[1]
        plain = world.client.call(*form.split(" "))
        assert plain is None or isinstance(plain, Error)
        assert world.client.raw(sent) == plain
        assert not world.effects()
    finally:
        world.client.call("CONFIG", "SET", "maxmemory", "0")


def test_restore(world):
    for ttl, options in ((0, []), (0, ["REPLACE"]), (100000, []), (FAR, ["ABSTTL", "REPLACE"]), (5000, ["REPLACE", "FREQ", 5])):
        now_ms = int(time.time() * 1000)
        world.fresh()
        args = ["RESTORE", "s" if "REPLACE" in options else "fresh", ttl, world.client.call("DUMP", "l"), *options]
        canonical = world.canon.intent(now_ms, world.version, args)
        assert world.client.raw(canonical) == b"OK"
        assert [encode(*effect) for effect in world.effects()] == [canonical]
        world.feed.send(encode("SELECT", 0) + canonical)
        world.compare(str(args[:3] + options))
        world.counts["verbatim"] += 1


TIMED = re.compile(r"\{|\b(EX|PX|ex|px|LT|lt|GT)\b|EXPIRE|SETEX")


@pytest.mark.parametrize("form", [f for f in forms(FORMS) if TIMED.search(f)])
def test_reply_is_the_same(world, form):
    """The client's own spelling and the canonical one are answered alike."""
    now_ms = int(time.time() * 1000)
    args = fill_in(form, now_ms)
    canonical = world.canon.intent(now_ms, world.version, args)
    if not has(world, form):
        return
    world.fresh()
    own = world.client.call(*args)
    world.effects()
    world.fresh()
    assert world.client.raw(canonical) == own
    world.effects()


@pytest.mark.parametrize("form", forms(CAPTURED))
def test_captured(world, form):
    now_ms = int(time.time() * 1000)
    assert world.canon.intent(now_ms, world.version, fill_in(form, now_ms)) is None
    world.counts["captured"] += 1


def test_every_row_is_tried():
    with open(os.path.join(TOP, "proxy/canon.c"), encoding="ascii") as f:
        rows = set(re.findall(r'^ +ROW\("([^"]+)"', f.read(), re.M))
    tried = set()
    for form in forms(FORMS) + ["RESTORE"]:
        words = form.lower().split(" ")
        tried |= {words[0], "|".join(words[:2])}
    assert rows <= tried, rows - tried


def test_untried_versions(world):
    """Only what is left byte for byte is replayable with a Valkey that nobody tried."""
    now_ms = int(time.time() * 1000)
    for version in ("7.2.4", "9.0.1", "9.2.0", "10.0.0", "unknown"):
        assert world.canon.intent(now_ms, version, ["SET", "k", "v", "EX", "5"])
        assert world.canon.intent(now_ms, version, ["SET", "get", "get"])
        assert world.canon.intent(now_ms, version, ["GETDEL", "k"]) is None
        assert world.canon.intent(now_ms, version, ["SET", "k", "v", "GET"]) is None
    assert world.canon.intent(now_ms, "8.1.9", ["HINCRBYFLOAT", "k", "f", "1"])
    assert world.canon.intent(now_ms, "9.1.0", ["HINCRBYFLOAT", "k", "f", "1"]) is None


def test_foreign_effects_do_not_belong(world):
    belongs = world.canon.belongs
    assert belongs(["GETDEL", "k"], ["DEL", "k"]) and belongs(["GETDEL", "k"], ["unlink", "k"])
    assert not belongs(["GETDEL", "k"], ["DEL", "j"]) and not belongs(["GETDEL", "k"], ["DEL", "k", "j"])
    assert not belongs(["SET", "k", "v"], ["SET", "k", "v", "KEEPTTL"])
    assert not belongs(["SET", "k", "v", "GET"], ["SET", "k", "w"])
    assert not belongs(["SET", "k", "v", "XX", "GET"], ["SET", "k", "v"])
    assert not belongs(["GETSET", "k", "v"], ["SET", "k", "w"])
    assert not belongs(["GETEX", "k", "PXAT", "77"], ["PEXPIREAT", "k", "78"])
    assert not belongs(["INCRBYFLOAT", "k", "1"], ["SET", "k", "2"])
    assert not belongs(["INCRBYFLOAT", "k", "1"], ["SET", "j", "2", "KEEPTTL"])
    assert not belongs(["LMPOP", "1", "k", "LEFT"], ["LPOP", "k", "2"])
    assert not belongs(["LMPOP", "1", "k", "LEFT"], ["RPOP", "k", "1"])
    assert not belongs(["LMPOP", "1", "k", "LEFT"], ["LPOP", "LEFT", "1"])
    assert not belongs(["GEOADD", "g", "1", "2", "a"], ["ZADD", "g", "1", "b"])
    assert not belongs(["GEOADD", "g", "1", "2", "a"], ["ZADD", "g", "NX", "1", "a"])
    assert not belongs(["GEOADD", "g", "1", "2", "a"], ["ZADD", "g", "1", "a", "2", "b"])
    assert not belongs(["INCR", "k"], ["INCR", "k"])  # equal bytes are not this question
    assert belongs(["HGETEX", "h", "PXAT", "7", "FIELDS", "2", "f", "g"], ["HPEXPIREAT", "h", "7", "FIELDS", "2", "f", "g"])
    assert not belongs(["HGETEX", "h", "PXAT", "7", "FIELDS", "2", "f", "g"], ["HPEXPIREAT", "h", "7", "FIELDS", "1", "f"])
    assert not belongs(["HGETEX", "h", "PXAT", "7", "FIELDS", "1", "f"], ["HPEXPIREAT", "h", "8", "FIELDS", "1", "f"])
    assert not belongs(["HGETEX", "h", "PERSIST", "FIELDS", "1", "f"], ["HPERSIST", "h", "FIELDS", "1", "g"])
    assert not belongs(["HINCRBYFLOAT", "h", "f", "1"], ["HSET", "h", "g", "1"])


def test_counts(world):
    """How many of the forms above are what with this version (seen with -s)."""
    print(f"\nValkey {world.version}: " + ", ".join(f"{n} {what}" for what, n in world.counts.items()))
    assert world.counts["verbatim"] > 0
