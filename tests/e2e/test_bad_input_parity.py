"""What the request parser refuses, and how, next to a real Valkey given the same bytes.

Texts are equal where Valkey refuses too. Where it does not (or frames differently), the parser is stricter: those are
listed with what it says.
"""
import os
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tools"))
from canon_tool import Valkey, build, encode, valkey_binary  # noqa: E402

pytestmark = pytest.mark.skipif(valkey_binary() is None, reason="no valkey-server")

PING = encode("PING")
LINE = 64 * 1024

SAME = {
    "too many arguments": b"*3000000000\r\n",
    "no number": b"*\r\n",
    "letters": b"*x\r\n",
    "plus": b"*+1\r\n",
    "leading zero": b"*01\r\n",
    "space": b"* 1\r\n",
    "2^63": b"*9223372036854775808\r\n",
    "20 digits and more": b"*123456789012345678901234567890\r\n",
    "null bulk": b"*1\r\n$-1\r\n",
    "negative bulk": b"*1\r\n$-2\r\n",
    "bulk plus": b"*1\r\n$+3\r\n",
    "bulk leading zero": b"*1\r\n$03\r\n",
    "bulk space": b"*1\r\n$ 3\r\n",
    "bulk nothing": b"*1\r\n$\r\n",
    "bulk 512 MB + 1": b"*1\r\n$536870913\r\n",
    "bulk 2^31": b"*1\r\n$2147483648\r\n",
    "bulk 2^32": b"*1\r\n$4294967296\r\n",
    "bulk 2^63 - 1": b"*1\r\n$9223372036854775807\r\n",
    "bulk 2^63": b"*1\r\n$9223372036854775808\r\n",
    "bulk 2^64": b"*1\r\n$18446744073709551616\r\n",
    "integer": b"*1\r\n:1\r\n",
    "status": b"*1\r\n+OK\r\n",
    "nested": b"*1\r\n*1\r\n$4\r\nPING\r\n",
    "no type": b"*1\r\nPING\r\n",
    "RESP3 map": b"*1\r\n%1\r\n",
    "RESP3 null": b"*1\r\n_\r\n",
    "quote": b"*1\r\n\"x\r\n",
    "backslash": b"*1\r\n\\x\r\n",
    "tab": b"*1\r\n\tx\r\n",
    "second argument": b"*2\r\n$3\r\nGET\r\n#t\r\n",
    "after a good one": PING + b"*1\r\n!\r\n",
    "unbalanced": b"SET \"a\r\n",
    "unbalanced single": b"SET 'a\r\n",
    "closing quote inside a word": b"SET \"a\"b c\r\n",
    "long inline": b"x" * (LINE + 100),
    "long multibulk header": b"*" + b"1" * (LINE + 100),
    "long bulk header": b"*1\r\n$" + b"1" * (LINE + 100),
    "empty ones, then a bad one": b"\r\n\n*0\r\n*-1\r\n*y\r\n",
    "inline, then a bad one": b"PING\r\n*1\r\n$a\r\n",
}

STRICT = {  # unauthenticated, on a server with a password
    "eleven arguments": b"*11\r\n",
    "long argument": b"*1\r\n$16385\r\n",
}

# Refused by us alone. What Valkey 8.0.1 does with it: nothing, accepts, or waits.
STRICTER = {
    "negative count": (b"*-5\r\n" + PING, b"-ERR Protocol error: invalid multibulk length\r\n"),
    "2^31 - 1 arguments": (b"*2147483647\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
    "bulk's end LF": (b"*1\r\n$4\r\nPING\nx", b"-ERR Protocol error: invalid CRLF in request\r\n"),
    "bulk's end CR": (b"*1\r\n$4\r\nPING\rx", b"-ERR Protocol error: invalid CRLF in request\r\n"),
    "bulk's end anything": (b"*1\r\n$4\r\nPINGxy", b"-ERR Protocol error: invalid CRLF in request\r\n"),
    "header's end CR": (b"*1\rX$4\r\nPING\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
    "NUL in a line": (b"PI\0NG\r\n", b"-ERR Protocol error: too big inline request\r\n"),
}

ACCEPTED = {
    "inline": b"PING\r\n",
    "inline LF": b"PING\n",
    "quoted": b"ECHO \"a b\\x41\\n\\\"\" \r\n",
    "single quoted": b"ECHO 'a\\'b'\r\n",
    "empty requests": b"\r\n\r\n*0\r\n*-1\r\n" + PING,
    "mixed": PING + b"PING\r\n" + PING + b"\r\nPING\n",
    "empty key": encode("GET", ""),
    "binary": encode("ECHO", bytes(range(256))),
    "arguments of 1 byte": encode("DEL", *["k"] * 20000),
    "1 MB": encode("ECHO", b"x" * 1000000),
}


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    return build(str(tmp_path_factory.mktemp("canon")))


@pytest.fixture(scope="module")
def valkey():
    v = Valkey()
    yield v
    v.stop()


@pytest.fixture(scope="module")
def closed_valkey():
    v = Valkey()
    c = v.connect()
    c.call("CONFIG", "SET", "requirepass", "secret")
    c.close()
    yield v
    v.stop()


def talk(port, sent):
    """All that the server answers until it closes, or until it has answered what follows."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        s.sendall(sent)
        s.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while True:
                piece = s.recv(65536)
                if not piece:
                    return answer
                answer += piece
        except ConnectionResetError:
            return answer


def parse(tool, sent, *options):
    return subprocess.run([tool, "parse", *options], input=sent, stdout=subprocess.PIPE, check=True).stdout


def error_of(answer):
    """The last line, if it is a protocol error."""
    line = answer.rstrip(b"\r\n").split(b"\r\n")[-1]
    return line if line.startswith(b"-ERR Protocol error") else None


@pytest.mark.parametrize("name", SAME)
def test_same_error(name, tool, valkey):
    theirs = error_of(talk(valkey.port, SAME[name]))
    assert theirs is not None
    assert error_of(parse(tool, SAME[name])) == theirs


@pytest.mark.parametrize("name", STRICT)
def test_same_error_unauthenticated(name, tool, closed_valkey):
    theirs = error_of(talk(closed_valkey.port, STRICT[name]))
    assert theirs is not None
    assert error_of(parse(tool, STRICT[name], "strict")) == theirs


@pytest.mark.parametrize("name", STRICTER)
def test_stricter(name, tool):
    sent, want = STRICTER[name]
    assert parse(tool, sent) == want


@pytest.mark.parametrize("name", ACCEPTED)
def test_canonical_means_the_same(name, tool, valkey):
    """Valkey answers the canonical bytes as it answers the client's own."""
    canonical = parse(tool, ACCEPTED[name])
    assert error_of(canonical) is None
    assert talk(valkey.port, canonical) == talk(valkey.port, ACCEPTED[name]) != b""
