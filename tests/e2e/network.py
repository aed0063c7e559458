"""A network of namespaces for a group: each node and its Valkey in one of their own, and the links between them can be cut.

      clients ──"client0"── bridge in namespace clients ──┬── client0 of a        10.77.2.n: clients, never cut
                                                          ├── client0 of b
                                                          └── client0 of c
      a, b, c ──"peer0"──── bridge in namespace switch                           10.77.1.n: members among themselves

What is cut is dropped where it arrives, by nftables: no reset, no answer, as a broken switch would. So a leader without peers still has
its clients. Needs root, iproute2 and nftables (make deps); without them a test fails, it is not skipped.

A thread can be in one namespace while others are elsewhere: that is how tests in one process reach all of them (Endpoint). Namespaces
carry the process id of their test in their names; those of a test that was killed are removed by the next one.
"""
import contextlib
import ctypes
import itertools
import os
import pathlib
import shutil
import socket
import subprocess

CLONE_NEWNET = 0x40000000
PLACE = pathlib.Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()


def _enter(fd):
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def require():
    """What namespaces need; a clear word if it is missing."""
    missing = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
    assert os.geteuid() == 0, "tests with a network of their own make namespaces: run them as root"
    assert not missing, f"not in PATH: {', '.join(missing)}: run `make deps` (iproute2, nftables, util-linux)"


def sweep():
    """Removes the namespaces of test processes that are gone."""
    for name in os.listdir(PLACE) if PLACE.exists() else []:
        words = name.split("-")
        if words[0] == "hf" and len(words) > 3 and words[1].isdigit() and not pathlib.Path("/proc", words[1]).exists():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30)


class Namespace:
    def __init__(self, name):
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True, timeout=30)
        self.ip("link set lo up")
        self.fd = os.open(PLACE / name, os.O_RDONLY | os.O_CLOEXEC)
        self.prefix = ["nsenter", f"--net={PLACE / name}", "--"]

    def ip(self, *lines):
        done = subprocess.run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True,
                              timeout=30)
        assert done.returncode == 0, f"ip in {self.name}: {done.stderr}\n{lines}"

    def nft(self, rules):
        done = subprocess.run([*self.prefix, "nft", "-f", "-"], input=rules, text=True, capture_output=True, timeout=30)
        assert done.returncode == 0, f"nft in {self.name}: {done.stderr}\n{rules}"

    @contextlib.contextmanager
    def entered(self):
        """This thread is in here, for a while."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self.fd)
            yield
        finally:
            _enter(home)
            os.close(home)

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self.fd)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, timeout=30)


class Endpoint:
    """host:port, as seen from a namespace (None: from ours). resp.Client takes it for an address."""

    def __init__(self, host, port, namespace=None):
        self.host, self.port, self.namespace = host, port, namespace

    def connect(self, timeout):
        with self.namespace.entered() if self.namespace else contextlib.nullcontext():
            s = socket.create_connection((self.host, self.port), timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def __str__(self):
        return f"{self.host}:{self.port}"

    __repr__ = __str__


class Network:
    """Namespaces for nodes, joined; cuts between them. cuts: pairs (from, to) of names of which nothing arrives."""

    def __init__(self, names):
        require()
        sweep()
        tag = f"hf-{os.getpid()}-{next(_serial)}"
        self.names = list(names)
        self.made = []
        self.cuts, self.losses = set(), {}
        try:
            self.switch, self.clients = self._make(f"{tag}-switch"), self._make(f"{tag}-clients")
            for hub in (self.switch, self.clients):
                hub.ip("link add name bridge0 type bridge", "link set bridge0 type bridge forward_delay 0", "link set bridge0 up")
            self.clients.ip("addr add 10.77.2.254/24 dev bridge0")
            self.nodes = {name: self._make(f"{tag}-{name}") for name in self.names}
            for n, name in enumerate(self.names):
                self._join(name, n + 1)
        except BaseException:
            self.close()
            raise

    def _make(self, name):
        self.made.append(Namespace(name))
        return self.made[-1]

    def _join(self, name, n):
        node = self.nodes[name]
        for hub, link, net in ((self.switch, "peer0", 1), (self.clients, "client0", 2)):
            node.ip(f"link add name {link} type veth peer name port{n} netns {hub.name}", f"addr add 10.77.{net}.{n}/24 dev {link}",
                    f"link set {link} up")
            hub.ip(f"link set port{n} master bridge0", f"link set port{n} up")

    def peer_host(self, name):
        return f"10.77.1.{self.names.index(name) + 1}"

    def client_host(self, name):
        return f"10.77.2.{self.names.index(name) + 1}"

    # ---- cutting ----
    def _apply(self, name):
        rules = [f"iifname \"peer0\" ip saddr {self.peer_host(a)} drop" for a, b in sorted(self.cuts) if b == name]
        if name in self.losses:
            rules.append(f"iifname \"peer0\" numgen random mod 1000 < {int(self.losses[name] * 10)} drop")
        self.nodes[name].nft("table inet cuts\ndelete table inet cuts\ntable inet cuts {\n chain arriving {\n"
                             "  type filter hook input priority 0;\n" + "".join(f"  {r}\n" for r in rules) + " }\n}\n")

    def _apply_all(self):
        for name in self.names:
            self._apply(name)

    def cut_one_way(self, source, target):
        """Nothing that source sends arrives at target."""
        self.cuts.add((source, target))
        self._apply(target)

    def cut(self, a, b):
        self.cut_one_way(a, b)
        self.cut_one_way(b, a)

    def isolate(self, name):
        for other in self.names:
            if other != name:
                self.cut(name, other)

    def split(self, side):
        """The members of `side` and all others do not hear of each other."""
        for a in side:
            for b in self.names:
                if b not in side:
                    self.cut(a, b)

    def mute(self, name):
        """It hears the others, they do not hear it."""
        for other in self.names:
            if other != name:
                self.cut_one_way(name, other)

    def deafen(self, name):
        """The others hear it, it does not hear them."""
        for other in self.names:
            if other != name:
                self.cut_one_way(other, name)

    def ring(self):
        """Each member sees a majority, and each another one: neighbours in a ring. Of three members, only two cannot see each other."""
        n = len(self.names)
        reach = (n // 2 + 1) // 2 if n > 3 else 1
        for i in range(n):
            for j in range(i + 1, n):
                if min(j - i, n - (j - i)) > reach or (n == 3 and (i, j) == (0, 2)):
                    self.cut(self.names[i], self.names[j])

    def lose(self, percent, names=None):
        """Of what arrives from other members, so much gets lost."""
        assert 0 <= percent < 100
        for name in names or self.names:
            self.losses[name] = percent
            self._apply(name)

    def heal(self):
        self.cuts.clear()
        self.losses.clear()
        self._apply_all()

    def close(self):
        for namespace in reversed(self.made):
            namespace.close()
        self.made = []
