"""Builds tests/tools/canon_cli.c (or takes $CANON_CLI) and speaks with it; runs a valkey-server, reads RESP."""
import os
import shutil
import socket
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PARTS = ["proxy/argv.c", "proxy/resp.c", "proxy/resp_pool.c", "proxy/resp_reply.c", "proxy/canon.c",
         "proxy/canon_forms.c", "proxy/canon_time.c", "proxy/canon_streams.c", "proxy/canon_belongs.c", "log/base/buf.c", "log/base/diag.c"]


def build(folder):
    if os.environ.get("CANON_CLI"):
        return os.environ["CANON_CLI"]
    binary = os.path.join(folder, "canon_cli")
    own = os.path.join(TOP, "build/deps/lib/libhiredis.a")
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-I.",
                    "-isystem", "build/deps/include", "-o", binary, "tests/tools/canon_cli.c", *PARTS,
                    own if os.path.exists(own) else "-lhiredis"],
                   cwd=TOP, check=True)
    return binary


def valkey_binary():
    return os.environ.get("VALKEY_SERVER") or shutil.which("valkey-server")


def encode(*args):
    out = b"*%d\r\n" % len(args)
    for a in args:
        a = a if isinstance(a, bytes) else str(a).encode("latin-1")
        out += b"$%d\r\n%s\r\n" % (len(a), a)
    return out


class Reader:
    """RESP2 from a binary file; errors are returned as Error."""

    def __init__(self, file):
        self.file = file

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(line)
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Error(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        assert kind == b"*", line
        return None if rest == b"-1" else [self.read() for _ in range(int(rest))]


class Error(bytes):
    pass


class Canon:
    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.reader = Reader(self.process.stdout)

    def ask(self, *args):
        self.process.stdin.write(encode(*args))
        self.process.stdin.flush()
        return self.reader.read()

    def intent(self, now_ms, version, args):
        """The canonical intent as RESP with that version of Valkey, or None."""
        return self.ask("intent", now_ms, version, *args)

    def with_id(self, stream_id, args):
        """XADD with `*`: intent and what is sent, as RESP; None if it is not replayable."""
        return self.ask("with_id", stream_id, *args)

    def belongs(self, intent, effect):
        return self.ask("belongs", len(intent), *intent, *effect) == 1

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=5)


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.reader = Reader(self.socket.makefile("rb"))

    def raw(self, resp):
        self.socket.sendall(resp)
        return self.reader.read()

    def call(self, *args):
        return self.raw(encode(*args))

    def close(self):
        self.reader.file.close()
        self.socket.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Valkey:
    """One valkey-server on a free port, without persistence; ended by stop()."""

    def __init__(self, *settings, server=None):
        self.folder = tempfile.mkdtemp(prefix="valkey-")
        self.port = free_port()
        self.process = subprocess.Popen([server or valkey_binary(), "--port", str(self.port), "--bind", "127.0.0.1",
                                         "--save", "", "--dir", self.folder, "--repl-diskless-sync-delay", "0",
                                         *settings],
                                        stdout=subprocess.DEVNULL)
        for _ in range(100):
            try:
                c = Connection(self.port)
                if c.call("PING") == b"PONG":
                    c.close()
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("valkey-server does not start")

    def connect(self):
        return Connection(self.port)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)
