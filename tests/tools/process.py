"""Processes for tests and benchmarks: started on free ports or sockets in a directory of their own, stopped by pid, never outliving us.

    with Process(["valkey-server", "--port", str(port)], directory) as valkey: ...

Holdfast's settings are written as a file, so that what ran can be read afterwards. A Valkey that Holdfast spawned outlives a killed
Holdfast on purpose; stop() ends it too.
"""
import ctypes
import os
import signal
import socket
import subprocess
import time

START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 15
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def free_port():
    """A port that nobody listens on now. Somebody may take it before we do; then the start fails loudly."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def encode(*args):
    parts = [a if isinstance(a, bytes) else str(a).encode() for a in args]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def read_reply(stream):
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("closed")
    kind, rest = line[:1], line[1:-2]
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [read_reply(stream) for _ in range(int(rest))]
    if kind == b":":
        return int(rest)
    if kind == b"-":
        raise RuntimeError(rest.decode(errors="replace"))
    return rest


def command(port, *args, timeout=10):
    """One command on a connection of its own (RESP2)."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        s.sendall(encode(*args))
        with s.makefile("rb") as stream:
            return read_reply(stream)


def info(port, section):
    text = command(port, "INFO", section).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _child():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    def __init__(self, arguments, directory, name=None, env=None):
        self.name = name or os.path.basename(arguments[0])
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.log = os.path.join(directory, self.name + ".out")
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(arguments, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                            env=env, preexec_fn=_child)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def tail(self, lines=30):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def running(self):
        return self.process.poll() is None

    def wait_for(self, what, check, seconds=START_SECONDS_MAX):
        """Waits until check() is true; a process that ends meanwhile, or takes too long, is an error with its last words."""
        end = time.monotonic() + seconds
        error = None
        while time.monotonic() < end:
            if not self.running():
                raise RuntimeError(f"{self.name} ended with {self.process.returncode} before: {what}\n{self.tail()}")
            try:
                if check():
                    return
                error = None
            except (OSError, RuntimeError) as e:
                error = e
            time.sleep(0.02)
        raise RuntimeError(f"{self.name}: no {what} after {seconds} s ({error})\n{self.tail()}")

    def wait_port(self, port):
        self.wait_for(f"listener on {port}", lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)

    def stop(self):
        """SIGTERM, then SIGKILL. Returns the exit code."""
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def rss_bytes(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return 0


class Valkey(Process):
    def __init__(self, directory, *settings, program="valkey-server"):
        self.port = free_port()
        super().__init__([program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", *settings],
                         directory, "valkey")
        self.wait_for("PONG", lambda: command(self.port, "PING") == b"PONG")


class Holdfast(Process):
    """`settings`: name -> value, beyond port and data-dir. valkey=None: it spawns its own."""

    def __init__(self, program, directory, valkey=None, **settings):
        self.port = free_port()
        self.data_dir = os.path.join(directory, "data")
        values = {"bind": "127.0.0.1", "port": self.port, "data-dir": self.data_dir}
        values.update({"valkey": f"127.0.0.1:{valkey}"} if valkey else {"valkey-spawn": "yes"})
        values.update({name.replace("_", "-"): value for name, value in settings.items()})
        os.makedirs(self.data_dir, exist_ok=True)
        file = os.path.join(directory, "holdfast.conf")
        with open(file, "w", encoding="utf-8") as f:
            f.writelines(f"{name} {value}\n" for name, value in values.items())
        super().__init__([program, file], directory, "holdfast")
        self.wait_for("PONG", lambda: command(self.port, "PING") == b"PONG")

    @property
    def valkey_pidfile(self):
        return os.path.join(self.data_dir, "valkey", "valkey.pid")

    def stop(self):
        code = super().stop()
        try:
            with open(self.valkey_pidfile, encoding="ascii") as f:
                pid = int(f.read())
            with open(f"/proc/{pid}/comm", encoding="ascii") as f:
                if f.read().startswith("valkey-server"):
                    os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):
            pass  # it ended with Holdfast, as it should
        return code
