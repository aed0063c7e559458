"""A small RESP2/RESP3 client on a raw socket, for tests: nothing is retried, hidden or guessed.

    with Client(address) as c:            address: a port, (host, port), a Unix socket's path, or what can connect()
        c("SET", "k", "v")                b"OK"; an error reply raises RespError
        c.ask("GET", "k")                 the reply as it is: an error comes back as a RespError value
        c.send("GET", "a"); c.read()      pipelining by hand

Replies: simple and bulk strings are bytes, integers int, arrays list, null None, maps dict (pairs in order if a key cannot be
hashed), sets are lists marked SetReply, pushes PushReply, doubles float, booleans bool.
"""
import socket
import time


class RespError(Exception):
    """An error reply. Equal to another one when the text is equal."""

    def __init__(self, text):
        super().__init__(text)
        self.text = text

    @property
    def code(self):
        return self.text.split(" ", 1)[0]

    def __eq__(self, other):
        return isinstance(other, RespError) and self.text == other.text

    def __hash__(self):
        return hash(self.text)


class Closed(Exception):
    """The peer closed or reset the connection."""


class SetReply(list):
    pass


class PushReply(list):
    pass


def encode(*args):
    out = [b"*%d\r\n" % len(args)]
    for a in args:
        if isinstance(a, str):
            a = a.encode()
        elif isinstance(a, (int, float)):
            a = str(a).encode()
        out.append(b"$%d\r\n%s\r\n" % (len(a), a))
    return b"".join(out)


def connect(address, timeout):
    if hasattr(address, "connect"):
        return address.connect(timeout)
    if isinstance(address, str):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(timeout)
        s.connect(address)
        return s
    if isinstance(address, int):
        address = ("127.0.0.1", address)
    s = socket.create_connection(address, timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


class Client:
    def __init__(self, address, proto=2, timeout=15.0, db=0):
        try:
            self.sock = connect(address, timeout)
        except (ConnectionError, FileNotFoundError) as e:
            raise Closed(str(e)) from e
        self.buffer, self.at = b"", 0
        self.pushes = []
        try:
            if proto == 3:
                self("HELLO", 3)
            if db:
                self("SELECT", db)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def timeout(self, seconds):
        self.sock.settimeout(seconds)

    # ---- sending ----
    def raw(self, data):
        try:
            self.sock.sendall(data)
        except (ConnectionError, BrokenPipeError) as e:
            raise Closed(str(e)) from e

    def send(self, *args):
        self.raw(encode(*args))

    # ---- receiving ----
    def _fill(self):
        try:
            more = self.sock.recv(1 << 18)
        except ConnectionError as e:
            raise Closed(str(e)) from e
        if not more:
            raise Closed("end of stream")
        self.buffer = self.buffer[self.at:] + more
        self.at = 0

    def _line(self):
        while True:
            end = self.buffer.find(b"\r\n", self.at)
            if end >= 0:
                line = self.buffer[self.at:end]
                self.at = end + 2
                return line
            self._fill()

    def _bytes(self, n):
        if len(self.buffer) - self.at < n + 2:
            parts, have = [self.buffer[self.at:]], len(self.buffer) - self.at
            while have < n + 2:
                try:
                    more = self.sock.recv(max(1 << 18, n + 2 - have))
                except ConnectionError as e:
                    raise Closed(str(e)) from e
                if not more:
                    raise Closed("end of stream inside a bulk")
                parts.append(more)
                have += len(more)
            self.buffer, self.at = b"".join(parts), 0
        data = self.buffer[self.at:self.at + n]
        assert self.buffer[self.at + n:self.at + n + 2] == b"\r\n", "bulk without CRLF"
        self.at += n + 2
        return data

    def read_any(self):
        """The next reply or push."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RespError(rest.decode(errors="replace"))
        if kind in (b":", b"("):
            return int(rest)
        if kind in (b"$", b"="):
            n = int(rest)
            return None if n < 0 else self._bytes(n)
        if kind == b"!":
            return RespError(self._bytes(int(rest)).decode(errors="replace"))
        if kind == b"_":
            return None
        if kind == b"#":
            return rest == b"t"
        if kind == b",":
            return float(rest)
        if kind in (b"*", b"~", b">"):
            n = int(rest)
            if n < 0:
                return None
            items = [self.read_any() for _ in range(n)]
            return items if kind == b"*" else SetReply(items) if kind == b"~" else PushReply(items)
        if kind == b"%":
            pairs = [(self.read_any(), self.read_any()) for _ in range(int(rest))]
            try:
                return dict(pairs)
            except TypeError:
                return pairs
        if kind == b"|":
            for _ in range(int(rest)):
                self.read_any(), self.read_any()
            return self.read_any()
        raise AssertionError(f"not RESP: {line[:80]!r}")

    def read(self):
        """The next reply; pushes are set aside."""
        while True:
            reply = self.read_any()
            if not isinstance(reply, PushReply):
                return reply
            self.pushes.append(reply)

    # ---- both ----
    def ask(self, *args):
        self.send(*args)
        return self.read()

    def __call__(self, *args):
        reply = self.ask(*args)
        if isinstance(reply, RespError):
            raise reply
        return reply

    def pipeline(self, commands):
        self.raw(b"".join(encode(*c) for c in commands))
        return [self.read() for _ in commands]

    def silent_for(self, seconds):
        """True if nothing comes within that time."""
        if self.at < len(self.buffer):
            return False
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self._fill()
            return False
        except (socket.timeout, TimeoutError):
            return True
        finally:
            self.sock.settimeout(before)

    def closed_within(self, seconds):
        """Reads to the end; True if the peer closes in time. What came is dropped."""
        end = time.monotonic() + seconds
        try:
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self.sock.settimeout(left)
                self.buffer, self.at = b"", 0
                self._fill()
        except Closed:
            return True
        except (socket.timeout, TimeoutError):
            return False


def info_fields(text):
    """INFO's lines as a dict."""
    return dict(line.split(":", 1) for line in text.decode().split("\r\n") if ":" in line and not line.startswith("#"))
