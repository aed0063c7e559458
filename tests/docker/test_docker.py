"""The images and the compose files, in an engine of our own: three zones, of which one is killed and comes back.

Needs root, docker.io, docker-compose and debootstrap (DOCKER=1 make deps). `dockerd` is started by hand with its data in a directory of its
own; no registry is reached: debian:trixie-slim is made with debootstrap from the mirror that this system uses.

    /usr/bin/python3 -m pytest -s tests/docker        about five minutes the first time; HF_DOCKER=/some/dir keeps engine and images there
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))
from harness import Client, eventually, free_port, wait_until  # noqa: E402


class Network:
    """Bridges and packet filters as they were before there was an engine: it makes some and leaves them."""

    FORWARD = pathlib.Path("/proc/sys/net/ipv4/ip_forward")

    def __init__(self):
        self.filters = {v: subprocess.run([f"ip{v}tables-save"], stdout=subprocess.PIPE, check=True).stdout for v in ("", "6")}
        self.links, self.forward = self._links(), self.FORWARD.read_text()

    @staticmethod
    def _links():
        return {n for n in os.listdir("/sys/class/net") if n.startswith(("docker", "br-"))}

    def restore(self):
        self.FORWARD.write_text(self.forward)
        for link in self._links() - self.links:
            subprocess.run(["ip", "link", "delete", link], check=True)
        for v, rules in self.filters.items():
            for table in ("filter", "nat"):
                if f"*{table}".encode() not in rules:  # it was not there
                    subprocess.run([f"ip{v}tables", "-t", table, "-F"], check=True)
                    subprocess.run([f"ip{v}tables", "-t", table, "-X"], check=True)
            for chain in ("INPUT", "FORWARD", "OUTPUT"):
                subprocess.run([f"ip{v}tables", "-P", chain, "ACCEPT"], check=True)
            subprocess.run([f"ip{v}tables-restore"], input=rules, check=True)


class Engine:
    def __init__(self, place):
        self.network = Network()
        self.dir = pathlib.Path(place)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.log = open(self.dir / "dockerd.log", "ab")
        self.socket = f"unix://{self.dir}/docker.sock"
        self.daemon = subprocess.Popen(["dockerd", "--data-root", str(self.dir / "root"), "--exec-root", str(self.dir / "exec"), "-H", self.socket,
                                        "--pidfile", str(self.dir / "pid")], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        wait_until(lambda: self.run("docker", "info", check=False).returncode == 0, 60, "the engine answers")

    def run(self, *words, check=True, seconds=900, **env):
        done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, cwd=TOP,
                              env={**os.environ, "DOCKER_HOST": self.socket, **{k: str(v) for k, v in env.items()}})
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-4000:]}"
        return done

    def base_image(self):
        if self.run("docker", "image", "inspect", "debian:trixie-slim", check=False).returncode == 0:
            return
        mirror = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian"],
                                stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
        with tempfile.TemporaryDirectory(dir=self.dir) as root:
            self.run("debootstrap", "--variant=minbase", "trixie", f"{root}/trixie", mirror)
            self.run("sh", "-c", f"tar -C {root}/trixie -c . | docker import - debian:trixie-slim")

    def close(self):
        self.daemon.terminate()
        self.daemon.wait(60)
        self.network.restore()
        self.log.close()


@pytest.fixture(scope="module")
def engine():
    assert os.geteuid() == 0 and shutil.which("dockerd") and shutil.which("docker-compose") and shutil.which("debootstrap"), \
        "root, docker.io, docker-compose and debootstrap: DOCKER=1 make deps"
    kept = os.environ.get("HF_DOCKER")
    place = kept or tempfile.mkdtemp(prefix="hf-docker-")
    e = Engine(place)
    try:
        e.base_image()
        e.run("docker", "build", "-f", "docker/Dockerfile", "--target", "holdfast", "-t", "holdfast", ".")
        e.run("docker", "build", "-f", "tests/docker/valkey.Dockerfile", "-t", "hf-valkey", "tests/docker")
        yield e
    finally:
        e.close()
        if not kept:
            shutil.rmtree(place, ignore_errors=True)


class Stack:
    """What a compose file describes, on free ports."""

    def __init__(self, engine, file, project):
        self.engine, self.words = engine, ["docker-compose", "-p", project, "-f", f"docker/{file}"]
        self.ports = {n: free_port() for n in ("PORT", "ADMIN", *(f"{w}_{z}" for w in ("PORT", "ADMIN") for z in "ABC"))}
        self.project = project

    def compose(self, *words, check=True):
        return self.engine.run(*self.words, *words, check=check, VALKEY_IMAGE="hf-valkey", **self.ports)

    def health(self, service):
        name = self.compose("ps", "-q", service).stdout.strip()
        return self.engine.run("docker", "inspect", "-f", "{{.State.Health.Status}}", name, check=False).stdout.strip() if name else ""

    def inside(self, service, *words):
        return self.compose("exec", "-T", service, *words).stdout.strip()

    def client(self, zone):
        return Client(self.ports["PORT" if zone is None else f"PORT_{zone.upper()}"], timeout=20)

    def ask(self, zone, *command):
        with self.client(zone) as c:
            return c.ask(*command)

    def close(self):
        self.compose("down", "-v", "--timeout", "2", check=False)


@pytest.fixture
def stack(engine, request):
    s = Stack(engine, *request.param)
    try:
        s.compose("up", "-d")
        yield s
    finally:
        print(s.compose("logs", "--tail", "60", check=False).stdout[-12000:])
        s.close()


def test_image(engine):
    """Small, nobody's root, private files, settings from the environment; options win."""
    def run(*words, **env):
        flags = [f for k, v in env.items() for f in ("-e", f"{k}={v}")]
        return engine.run("docker", "run", "--rm", *flags, "holdfast", *words).stdout.strip()
    assert run("--version").startswith("Holdfast ")
    assert run("sh", "-c", "id -u") == "0" and "999" in run("sh", "-c", "setpriv --reuid=holdfast id -u")
    said = engine.run("docker", "run", "--rm", "-e", "HOLDFAST_DURABILITY=perhaps", "holdfast", check=False).stdout
    assert "FATAL CONFIG" in said and "durability" in said
    said = engine.run("docker", "run", "--rm", "-e", "HOLDFAST_PORT=nothing", "-e", "HOLDFAST_MEMBER=a az-a x:1;b az-b y:2;", "holdfast", "--port", "0",
                      check=False).stdout
    assert ">>> 'port nothing'" in said, said
    said = engine.run("docker", "run", "--rm", "-e", "HOLDFAST_MEMBER=a az-a x:1;b az-b y:2;", "-e", "HOLDFAST_NODE=q", "holdfast", check=False).stdout
    assert "FATAL CONFIG" in said and "q" in said, said
    said = engine.run("docker", "run", "--rm", "-e", "HOLDFAST_SERVICE_HOST=10.96.0.10", "-e", "HOLDFAST_SERVICE_PORT=6379", "-e",
                      "HOLDFAST_PORT=tcp://10.96.0.10:6379", "-e", "HOLDFAST_PORT_6379_TCP_ADDR=10.96.0.10", "-e", "HOLDFAST_DURABILITY=perhaps",
                      "holdfast", check=False).stdout
    assert ">>> 'durability perhaps'" in said, f"what Kubernetes says of a Service is no setting: {said}"
    base, ours = (int(engine.run("docker", "image", "inspect", "-f", "{{.Size}}", i).stdout) for i in ("debian:trixie-slim", "holdfast"))
    assert ours - base < 60_000_000, f"{(ours - base) / 1e6:.0f} MB on top of the base"


@pytest.mark.parametrize("stack", [("compose.single.yaml", "hfsingle")], indirect=True)
def test_single(stack):
    wait_until(lambda: stack.health("holdfast") == "healthy", 90, "it is healthy", every=0.5)
    assert stack.ask(None, "SET", "k", "v") == b"OK"
    owner = stack.inside("holdfast", "sh", "-c", "stat -c '%U %a' /data/log; ps -o user= -p 1 2>/dev/null || stat -c %U /proc/1")
    assert owner.split() == ["holdfast", "700", "holdfast"], owner
    stack.compose("kill", "valkey")
    stack.compose("up", "-d", "valkey")
    eventually(lambda: stack.ask(None, "GET", "k"), lambda r: r == b"v", 60, "the value is back in an empty Valkey")


@pytest.mark.parametrize("stack", [("compose.yaml", "hfthree")], indirect=True)
def test_three_zones(stack):
    for z in "abc":
        wait_until(lambda: stack.health(f"holdfast-{z}") == "healthy", 120, lambda: f"zone {z} is healthy: {stack.health(f'holdfast-{z}')}", every=0.5)
    for n in range(300):
        assert stack.ask("abc"[n % 3], "SET", f"k{n}", n) == b"OK"
    leader = next(z for z in "abc" if "leader" in stack.inside(f"holdfast-{z}", "holdfast", "ctl", "status").splitlines()[1])
    others = [z for z in "abc" if z != leader]

    stack.compose("kill", f"valkey-{leader}", f"holdfast-{leader}")
    for n in range(300):
        expected = str(n).encode()
        eventually(lambda: stack.ask(others[n % 2], "GET", f"k{n}"), lambda r: r == expected, 60, "what was acknowledged is there")
    for n in range(300, 400):
        eventually(lambda: stack.ask(others[n % 2], "SET", f"k{n}", n), lambda r: r == b"OK", 30, "writes go on")

    stack.compose("up", "-d")
    wait_until(lambda: stack.health(f"holdfast-{leader}") == "healthy", 120, "it is back", every=0.5)

    def digests():
        return {stack.inside(f"valkey-{z}", "valkey-cli", "debug", "digest") for z in "abc"}
    wait_until(lambda: len(digests()) == 1, 60, lambda: f"all Valkeys are equal: {digests()}", every=0.5)
    assert stack.ask(leader, "DBSIZE") == 400
