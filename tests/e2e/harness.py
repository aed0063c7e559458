"""Servers for end-to-end tests: a real Valkey, Holdfast in front of it, a relay that can misbehave, and a disk that can.

Each of them lives in a directory of its own, listens on loopback on a free port, and is ended by its own process id. Nothing waits
by sleeping: wait_until() polls a condition with a deadline. After each test the fixtures of conftest.py look at what Holdfast wrote:
a sanitizer's report or a failed CHECK fails the test, whatever it tested.

    HOLDFAST_BIN     the binary (default build/holdfast); HOLDFAST_SAN: the sanitizers it was built with
    VALKEY_SERVER    valkey-server (default: from PATH)
"""
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

from resp import Client, Closed, RespError, info_fields

TOP = pathlib.Path(__file__).resolve().parents[2]
SANITIZED = bool(os.environ.get("HOLDFAST_SAN"))
FULL = os.environ.get("HF_FULL", "") not in ("", "0")
PATIENCE = 4.0 if SANITIZED else 2.0  # factor on deadlines that only bound how long a hung test takes

TROUBLE = re.compile(r"ERROR: \w+Sanitizer|SUMMARY: \w+Sanitizer|runtime error:|CHECK failed|CHECK\(|LeakSanitizer|"
                     r"Segmentation fault|double free|\*\*\* stack smashing")


def wait_until(condition, seconds, what, every=0.01):
    """Polls until condition() is true and returns its value; fails after the deadline (stretched on slow builds). what: text, or a
    function that makes it then."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * PATIENCE:.0f} s: {what() if callable(what) else what}")
        time.sleep(every)


def set_mode(holdfast, mode):
    """The server-wide mode, in force for new connections."""
    with holdfast.client() as c:
        assert c("CONFIG", "SET", "durability", mode) == b"OK"
        wait_until(lambda: c("CLIENT", "DURABILITY", "GET") == mode.encode(), 5, "the mode")


_given_ports = {}


def free_port():
    """A port below the ephemeral range, so that nobody gets it by chance between now and its use; nor does another run of these tests, which
    sees the name that we hold."""
    rnd = random.Random(os.urandom(8))
    for _ in range(1000):
        port = rnd.randint(12000, 31999)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0holdfast-test-port-{port}")
            with contextlib.closing(socket.socket()) as s:
                s.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _given_ports[port] = claim
        return port
    raise AssertionError("no free port")


def binary():
    found = os.environ.get("HOLDFAST_BIN") or str(TOP / "build" / "holdfast")
    assert os.access(found, os.X_OK), f"no binary at {found}: run make first, or set HOLDFAST_BIN"
    return found


def valkey_server():
    found = os.environ.get("VALKEY_SERVER") or shutil.which("valkey-server")
    assert found, "valkey-server is not in PATH"
    return found


def tool(name):
    """valkey-cli, valkey-benchmark: beside VALKEY_SERVER or from PATH."""
    server = os.environ.get("VALKEY_SERVER")
    beside = os.path.join(os.path.dirname(server), name) if server else None
    found = beside if beside and os.access(beside, os.X_OK) else shutil.which(name)
    assert found, f"{name} is not in PATH"
    return found


class Process:
    """A child with its output in a file. Ended by pid, and only by whom it belongs to."""

    def __init__(self, directory, name):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.output = self.dir / f"{name}.out"
        self.process = None
        self.paused = False
        self.end_expected = False

    prefix = ()  # words before each command: what puts it into a namespace

    def spawn(self, command, env=None):
        assert not self.alive()
        with open(self.output, "ab") as out:
            self.process = subprocess.Popen([*self.prefix, *command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                            cwd=self.dir, env=env)
        self.paused = self.end_expected = False

    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid

    def text(self):
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def kill9(self):
        if self.alive():
            self.end_expected = True
            self.process.kill()
        if self.process is not None:
            self.process.wait(30)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def terminate(self, seconds=20):
        """SIGTERM; the exit code."""
        if self.alive():
            if self.paused:
                self.resume()
            self.end_expected = True
            self.process.terminate()
        return self.process.wait(seconds * PATIENCE)

    def close(self):
        if self.process is None:
            return
        self.kill9()


class Valkey(Process):
    """valkey-server without persistence of its own, on a port and a Unix socket."""

    def __init__(self, directory, *options, port=None):
        super().__init__(directory, "valkey")
        self.port = port or free_port()
        self.socket = str(self.dir / "v.sock")
        self.options = options
        self.start()

    def start(self, *more):
        self.spawn([valkey_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket,
                    "--dir", str(self.dir), "--save", "", "--appendonly", "no", "--enable-debug-command", "yes",
                    "--repl-diskless-sync-delay", "0", *map(str, self.options), *map(str, more)])
        self.wait_ready()

    def wait_ready(self):
        def answers():
            assert self.alive(), f"valkey-server ended:\n{self.text()[-2000:]}"
            try:
                with self.client() as c:
                    reply = c.ask("PING")
                    return reply == b"PONG" or is_error(reply, "NOAUTH")
            except (Closed, OSError):
                return False
        wait_until(answers, 10, "valkey-server answers")

    def restart_empty(self, *more):
        """As a supervisor would after a crash: same port, nothing in memory."""
        self.kill9()
        for f in self.dir.glob("*.rdb"):
            f.unlink()
        self.start(*more)

    def client(self, **options):
        return Client(self.port, **options)

    def info(self, section="everything"):
        with self.client() as c:
            return info_fields(c("INFO", section))

    def digest(self):
        with self.client() as c:
            return c("DEBUG", "DIGEST")


class Disk:
    """The shim of tests/faults/disk.c around one data directory."""

    library = None  # built once per run by conftest.py

    def __init__(self, directory, data_dir):
        self.control = pathlib.Path(directory) / "disk.control"
        data = os.path.realpath(data_dir)
        self.under = f"{data}/log:{data}/snapshots"
        self.set("")

    def set(self, what):
        """"", "stall", "enospc", "eio", "eio-sync" or "slow N" (ms)."""
        fresh = self.control.with_suffix(".new")
        fresh.write_text(what)
        fresh.rename(self.control)

    def env(self, env):
        preload = [str(self.library)]
        if "address" in os.environ.get("HOLDFAST_SAN", ""):
            preload.insert(0, subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip())
        return {**env, "LD_PRELOAD": " ".join(preload), "HOLDFAST_DISK_CONTROL": str(self.control),
                "HOLDFAST_DISK_UNDER": self.under}


class Holdfast(Process):
    def __init__(self, directory, valkey=None, disk=False, start=True, settings=None, **options):
        """valkey: a Valkey, an address, or None for valkey-spawn. Options are settings, '_' for '-'."""
        super().__init__(directory, "holdfast")
        self.data_dir = self.dir / "data"
        self.port = free_port()
        self.admin_port = free_port()
        self.valkey = valkey
        self.settings = {"bind": "127.0.0.1", "port": self.port, "admin-port": self.admin_port, "data-dir": self.data_dir,
                         "durability": "sync"}
        if valkey is None:
            self.settings["valkey-spawn"] = "yes"
            self.settings["valkey-server"] = valkey_server()
        else:
            self.settings["valkey"] = valkey if isinstance(valkey, str) else f"127.0.0.1:{valkey.port}"
        self.settings.update({k.replace("_", "-"): v for k, v in options.items()})
        self.settings.update(settings or {})
        self.disk = Disk(self.dir, self.data_dir) if disk else None
        self.expect_trouble = False
        if start:
            self.start()

    def command(self):
        words = [binary()]
        for name, value in self.settings.items():
            words += [f"--{name}", str(value)]
        return words

    def env(self):
        env = dict(os.environ)
        env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=1")
        env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
        return self.disk.env(env) if self.disk else env

    def launch(self):
        self.spawn(self.command(), self.env())

    def start(self, seconds=20):
        self.launch()
        self.wait_ready(seconds)

    def ready(self):
        if not self.alive():
            raise AssertionError(f"holdfast ended with {self.process.poll()}:\n{self.text()[-3000:]}")
        code, _ = self.http("/readyz")
        return code == 200

    def wait_ready(self, seconds=20):
        wait_until(self.ready, seconds, "holdfast is ready")

    def wait_listening(self, seconds=10):
        wait_until(lambda: self.http("/healthz")[0] == 200, seconds, "the admin port answers")

    def restart(self, seconds=20):
        self.kill9()
        self.start(seconds)

    def client(self, **options):
        return Client(self.port, **options)

    def http(self, path, method="GET"):
        """(status, body); (0, reason) when nobody answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=5 * PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()
        except (urllib.error.URLError, OSError) as e:
            return 0, str(e)

    def status(self):
        code, body = self.http("/status")
        assert code == 200, body
        return json.loads(body)

    def info(self, section="durability"):
        with self.client() as c:
            return info_fields(c("INFO", section))

    def rss_kib(self):
        for line in open(f"/proc/{self.pid}/status", encoding="ascii"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def spawned_socket(self):
        """The Unix socket of the Valkey that Holdfast started."""
        return str(next(self.data_dir.glob("valkey/*.sock")))

    def spawned_pid(self):
        with Client(self.spawned_socket()) as c:
            return int(info_fields(c("INFO", "server"))["process_id"])

    def trouble(self):
        found = [line for line in self.text().splitlines() if TROUBLE.search(line)]
        if self.process is not None and not self.alive() and not self.end_expected:
            found.append(f"ended by itself, exit code {self.process.returncode}")
        return found

    def close(self):
        """Ends it, and a Valkey that it started: that one is its child, or was left by it when it was killed."""
        if self.valkey is None and self.process is not None:
            with contextlib.suppress(Exception):
                pid = self.spawned_pid()
                super().close()
                os.kill(pid, signal.SIGKILL)
        super().close()


class Relay:
    """A TCP relay on loopback: cut it, hold it up, reset it."""

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.pairs, self.lock = [], threading.Lock()
        self.flowing = threading.Event()
        self.flowing.set()
        self.open = True
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while self.open:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            for s in (near, far):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = [near, far]
            with self.lock:
                self.pairs.append(pair)
            threading.Thread(target=self._pump, args=(near, far, pair, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, pair, False), daemon=True).start()

    def _pump(self, source, sink, pair, toward_valkey):
        pair_hold = {"toward": None}
        try:
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                self.flowing.wait()
                hook = self.hook
                if hook is not None:
                    data = hook(data, toward_valkey, pair, pair_hold)
                    if data is None:
                        return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for s in (source, sink):
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RDWR)

    hook = None  # hook(data, toward_valkey, pair, memory) -> data to pass on, or None after it has reset the pair

    @staticmethod
    def reset_pair(pair):
        for s in pair:
            with contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RD)
            with contextlib.suppress(OSError):
                s.close()

    def reset_all(self):
        """RST on all connections, both ways. Bytes that are in Valkey's socket may still run."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            self.reset_pair(pair)
        return len(pairs)

    def hold(self):
        self.flowing.clear()

    def release(self):
        self.flowing.set()

    def close(self):
        self.open = False
        self.release()
        self.listener.close()
        self.reset_all()


class Rig:
    """Makes servers in a test's directory and ends them all."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.things, self.count = [], 0
        self.failed = False

    def _add(self, thing):
        self.things.append(thing)
        return thing

    def _place(self, name):
        self.count += 1
        return self.dir / f"{name}{self.count}"

    def valkey(self, *options, **more):
        return self._add(Valkey(self._place("valkey"), *options, **more))

    def holdfast(self, valkey=None, **options):
        place = self._place("holdfast")
        h = Holdfast(place, valkey, **{**options, "start": False})
        self._add(h)
        if options.get("start", True):
            h.start()
        return h

    def pair(self, *valkey_options, **options):
        v = self.valkey(*valkey_options)
        return v, self.holdfast(v, **options)

    def relay(self, target):
        return self._add(Relay(target))

    def group(self, *args, **options):
        """See group.py."""
        from group import Group  # it builds on this module
        g = self._add(Group(self._place("group"), *args, **{**options, "start": False}))
        if options.get("start", True):
            g.start()
        return g

    def holdfasts(self):
        return [t for t in self.things if isinstance(t, Holdfast)] + [h for t in self.things if hasattr(t, "holdfasts") for h in t.holdfasts()]

    def trouble(self):
        """Asked before close(): afterwards everything has ended."""
        return [f"{h.output}: {line}" for h in self.holdfasts() if not h.expect_trouble for line in h.trouble()]

    def close(self):
        for thing in reversed(self.things):
            with contextlib.suppress(Exception):
                thing.close()


def eventually(ask, accept, seconds, what):
    """Repeats ask() until accept(reply); connection trouble counts as not yet."""
    last = [None]

    def try_once():
        try:
            last[0] = ask()
        except (Closed, OSError) as e:
            last[0] = e
            return False
        return accept(last[0])
    try:
        wait_until(try_once, seconds, what)
    except AssertionError as e:
        raise AssertionError(f"{e}; last: {last[0]!r}") from None
    return last[0]


def is_error(reply, code):
    return isinstance(reply, RespError) and reply.code == code
