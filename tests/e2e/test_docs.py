"""Every command that a reader is told to type is executed, as it stands there: by a test below, or by one that is named in ELSEWHERE.

    README.md, docker/README.md, config/*.md      indented lines, and inline code that begins with one of INLINE
        ─▶ a setting                               its name is in config/config_table.c
        ─▶ a command                               in HERE, and run by that test; or in ELSEWHERE
        ─▶ neither                                 in NO_COMMANDS, else test_every_command_is_executed fails

What is substituted: ports, places (/var/lib/holdfast), and what starts services (`systemctl`), by what the harness has for them.
"""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.request

import pytest

from certificates import Authority
from group import Member
from harness import PATIENCE, TOP, Client, Process, binary, eventually, free_port, tool, wait_until

PAGES = ["README.md", "docker/README.md", *sorted(f"config/{p.name}" for p in (TOP / "config").glob("*.md"))]
PROGRAMS = {"make", "valkey-cli", "build/holdfast", "holdfast", "docker-compose", "bash", "useradd", "systemctl", "find", "openssl", "cp", "dd", "rm"}
INLINE = {"make", "docker-compose", "bash", "python3", "node", "npm"}
NO_COMMANDS = ("holdfast ctl [--admin", "| transfer [NAME]", "pause = random", "if redis.call", "return redis.call", "return tonumber", "holdfast.service  ", "alerts.yml  ", "OPERATIONS.md  ", "holdfast.conf  ",
               "config.h", "config.c", "config_", "make docker-test", "make deps")

COMPOSE = "docker-compose -f docker/compose.yaml"
DOCKER_TEST = "tests/docker/test_docker.py"
EXAMPLES_TEST = ("tests/clients/test_clients_python_examples.py", "def test_every_write_once", "EXAMPLES / example, name, COUNT, ports")
# command: (file, what begins its test, what it executes)
ELSEWHERE = {
    f"{COMPOSE} up -d --build": (DOCKER_TEST, "def test_three_zones", '"up", "-d"'),
    "valkey-cli -p 6379 --rdb /var/backups/orders.rdb": ("tests/e2e/test_backup.py", "def ask_cli", '"-p", port, *words, "--rdb", file'),
    "valkey-cli -p 6479 --rdb /var/backups/orders.rdb": ("tests/e2e/test_backup.py", "reader_port", '"-p", port, *words, "--rdb", file'),
    f"{COMPOSE} up -d": (DOCKER_TEST, "def test_three_zones", 'stack.compose("up", "-d")'),
    f"{COMPOSE} ps": (DOCKER_TEST, "def test_three_zones", 'self.compose("ps"'),
    f"{COMPOSE} kill valkey-a holdfast-a": (DOCKER_TEST, "def test_three_zones", 'stack.compose("kill", f"valkey-{leader}", f"holdfast-{leader}")'),
    f"{COMPOSE} down -v": (DOCKER_TEST, "def test_three_zones", 'self.compose("down", "-v"'),
    "docker build -f docker/Dockerfile -t holdfast .": (DOCKER_TEST, "def engine", '"docker", "build", "-f", "docker/Dockerfile"'),
    "make": (".ci/run", "step \"build\"", 'make -j"$jobs" all'),
    "make SAN=address,undefined test": (".ci/run", "step \"tests, ASan", "SAN=address,undefined test"),
    "make test": (".ci/run", "step \"tests, ASan", "SAN=address,undefined test"),
    "make install": ("tests/e2e/test_install.py", "def test_install_and_uninstall", 'make("install", tmp_path)'),
    "systemctl enable --now holdfast": ("tests/e2e/test_install.py", "def test_the_unit_is_one", '"verify"'),
    "make run NODES=1": ("tests/e2e/test_ctl.py", "def test_make_run_one_node", "make_run(1)"),
    "npm ci": ("tests/clients/run.py", "def install", '"npm", "ci"'),
    "python3 tests/clients/examples/redis_py.py orders 100 6379 6380 6381": EXAMPLES_TEST,
    "node tests/clients/examples/ioredis.mjs orders 100 6379 6380 6381": EXAMPLES_TEST,
    "node tests/clients/examples/glide.mjs orders 100 6379 6380 6381": EXAMPLES_TEST,
}
# test: what it executes, in this order
HERE = {
    "test_quick_start": [
        "make run",
        "valkey-cli -p 6379 set greeting hello",
        "valkey-cli -p 6380 get greeting",
        "build/holdfast ctl --admin 127.0.0.1:9121 status",
        "build/holdfast ctl --admin 127.0.0.1:9121 members",
        "build/holdfast ctl --admin 127.0.0.1:9121 top --count 1",
        "valkey-cli -p 6379 config set durability async"],
    "test_sidecar": ["build/holdfast --port 7000 --valkey 127.0.0.1:6379 --data-dir /var/lib/holdfast"],
    "test_three_zones_by_the_file": ["bash config/certs.sh certs orders a b c"],
    "test_tls": ["valkey-cli --tls --cert client.crt --key client.key --cacert ca.crt -p 6390"],
    "test_certificates": [
        "bash config/certs.sh certs orders a b c",
        "bash config/certs.sh certs orders d",
        "bash config/certs.sh --revoke certs certs/d.crt && cat certs/ca.crt certs/ca.crl > /etc/holdfast/ca.crt"],
    "test_service_user": ["useradd --system --home-dir /var/lib/holdfast holdfast"],
    "test_disk": ["dd if=/dev/zero of=/var/lib/holdfast/probe bs=4k count=1000 oflag=dsync", "rm /var/lib/holdfast/probe"],
    "test_make_knows_the_targets": ["make check", "make format", "make bench"],
    "test_runbook": [
        "holdfast ctl status", "holdfast ctl members", "holdfast ctl ready",
        "systemctl start holdfast", "systemctl stop holdfast", "systemctl restart holdfast", "systemctl reload holdfast", "systemctl restart valkey",
        "find /var/lib/holdfast -mindepth 1 -delete",
        "holdfast ctl replace c", "holdfast ctl add d", "holdfast ctl remove c", "holdfast ctl add c",
        "holdfast ctl snapshot", "holdfast ctl transfer", "holdfast ctl transfer b", "holdfast ctl drain", "holdfast ctl undrain",
        "openssl x509 -in /etc/holdfast/a.crt -noout -enddate",
        "cp /var/lib/holdfast/snapshots/*.rdb /var/backups/",
        "valkey-cli -p 6380 replicaof no one", "valkey-cli -p 6380 --rdb saved.rdb"],
}


def code_of(page):
    """(line number, text) of each line of code."""
    found, fenced = [], False
    for number, line in enumerate((TOP / page).read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            found.append((number, line.strip()))
        else:
            found += [(number, span) for span in re.findall("`([^`]+)`", line) if span.split()[0] in INLINE and len(span.split()) > 1]
    return found


def command_of(text):
    """Without what is said about it: after a `#`, or after a gap."""
    return re.split(r"\s+#\s|\s{3,}", text)[0].strip()


def settings():
    return set(re.findall(r'^    \{"([a-z0-9-]+)", KIND_', (TOP / "config/config_table.c").read_text(), re.M)) | {"include"}


def test_every_command_is_executed():
    here = {command for commands in HERE.values() for command in commands}
    names, open_, used = settings(), [], set()
    for page in PAGES:
        for number, text in code_of(page):
            command = command_of(text)
            used.add(command)
            if command in here or command in ELSEWHERE or text.startswith(NO_COMMANDS) or text == "end" or text.split()[0] in names:
                continue
            open_.append(f"{page}:{number}: {'nobody executes' if text.split()[0] in PROGRAMS else 'what is'} `{command}`")
    assert not open_, "\n".join(open_)
    assert len(used) > 40
    stale = {command for command in here | set(ELSEWHERE) if command not in used} - {"docker build -f docker/Dockerfile -t holdfast ."}
    assert not stale, f"nobody is told to: {stale}"


def test_who_executes_them_is_there():
    for command, (file, begins, does) in ELSEWHERE.items():
        text = (TOP / file).read_text()
        assert begins in text and does in text, f"{command}: {file} has no {begins} with {does}"
    source = (TOP / "tests/e2e/test_docs.py").read_text()
    for name in HERE:
        assert re.search(rf"^def {name}\(", source, re.M) and f"HERE[\"{name}\"]" in source, f"{name} does not go by its list"


def anchors(path):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    wrong = []
    for page in [*PAGES, "proxy/README.md", "proxy/DIFFERENCES.md", "log/README.md", "tests/README.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", (TOP / page).read_text()):
            if "://" not in link:
                file, _, anchor = link.partition("#")
                target = ((TOP / page).parent / file).resolve() if file else TOP / page
                if not target.exists() or (anchor and anchor not in anchors(target)):
                    wrong.append(f"{page}: {link}")
    assert not wrong, wrong


def sh(command, cwd=TOP, seconds=60, expect=0, **env):
    done = subprocess.run(["bash", "-c", command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
                          timeout=seconds * PATIENCE, env={**os.environ, **{k: str(v) for k, v in env.items()}})
    assert expect is None or done.returncode == expect, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


# ---- README ----

def test_quick_start(tmp_path):
    """As a newcomer does: make run, a write, a read elsewhere, the page, the lag."""
    run, *commands = HERE["test_quick_start"]
    ports = {"PORT": free_port(), "READER_PORT": free_port(), "ADMIN_PORT": free_port(), "RUN_DIR": tmp_path / "run"}
    output = tmp_path / "run.out"
    with open(output, "wb") as out:  # MAKE=true: it is built already
        process = subprocess.Popen([*run.split(), "MAKE=true", f"BIN={binary()}"], cwd=TOP, stdout=out, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **{k: str(v) for k, v in ports.items()}})
    try:
        def says():
            assert process.poll() is None, output.read_text()
            return "Every client port serves" in output.read_text()
        wait_until(says, 60, lambda: f"it serves: {output.read_text()[-3000:]}", every=0.05)
        table = [line for line in output.read_text().splitlines() if re.match(r"[abc]\s+az-", line)]
        clients = [int(re.search(r"valkey-cli -p (\d+)", line).group(1)) for line in table]
        admins = [int(re.search(r"http://127\.0\.0\.1:(\d+)", line).group(1)) for line in table]

        def typed(command, at=0):
            for said, there in (("-p 6379", f"-p {clients[0]}"), ("-p 6380", f"-p {clients[1]}"), ("127.0.0.1:9121", f"127.0.0.1:{admins[at]}"),
                                ("build/holdfast", binary()), ("valkey-cli", tool("valkey-cli"))):
                command = command.replace(said, there)
            return sh(command).strip()
        set_, get, status, members, top, mode = commands
        assert typed(set_) == "OK" and typed(get) == "hello"
        assert all(f"az-{z}" in typed(members) for z in "abc") and "az-a of holdfast-run" in typed(status)
        leader = next(i for i in range(3) if "role        leader" in typed(status, i))
        assert "lag" in typed(top, leader).lower(), typed(top, leader)
        assert typed(mode) == "OK" and "async" in typed(status, leader)
        with urllib.request.urlopen(f"http://127.0.0.1:{admins[leader]}/", timeout=20) as page:
            assert b"lag-chart" in page.read()
        with urllib.request.urlopen(f"http://127.0.0.1:{admins[leader]}/status", timeout=20) as page:
            assert json.load(page)["lag_ms"] < 10_000
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60 * PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for name in "abc":
            left = tmp_path / "run" / name / "valkey" / "valkey.sock"
            if left.exists():
                subprocess.run([tool("valkey-cli"), "-s", str(left), "shutdown", "nosave"], timeout=20, check=False)


class Typed(Process):
    """A command that goes on until it is ended."""

    def __init__(self, directory, name, command):
        super().__init__(directory, name)
        self.spawn(shlex.split(command))


def test_sidecar(rig):
    valkey, port = rig.valkey(), free_port()
    with valkey.client() as c:
        c("SET", "before", 1)
    (command,) = HERE["test_sidecar"]
    for said, there in (("build/holdfast", binary()), ("7000", str(port)), ("127.0.0.1:6379", f"127.0.0.1:{valkey.port}"),
                        ("/var/lib/holdfast", str(rig.dir / "data"))):
        command = command.replace(said, there)
    rig.things.append(Typed(rig.dir / "typed", "holdfast", command))

    def ask(*words):
        with Client(port, timeout=10) as c:
            return c.ask(*words)
    eventually(lambda: ask("SET", "after", 1), lambda r: r == b"OK", 30, "it serves")
    assert ask("GET", "before") == b"1", "what was there is adopted"


def block_with(word):
    """The block of README.md that has this line, as text."""
    for block in re.findall(r"(?:^    .*\n)+", (TOP / "README.md").read_text(), re.M):
        if f"    {word}\n" in block:
            return re.sub("^    ", "", block, flags=re.M)
    raise AssertionError(word)


def test_three_zones_by_the_file(rig):
    """The file and the certificates as they are shown; other addresses, since all are on one machine."""
    (certs,) = HERE["test_three_zones_by_the_file"]
    os.symlink(TOP / "config", rig.dir / "config")
    sh(certs, cwd=rig.dir)
    text, ports = block_with("node a"), {}
    assert set(line.split()[0] for line in text.splitlines()) <= settings()
    peers = {z: free_port() for z in "abc"}
    for i, z in enumerate("abc"):
        text = text.replace(f"10.0.{i}.1:7000", f"127.0.0.1:{peers[z]}")
    for z in "abc":
        valkey, ports[z] = rig.valkey(), free_port()
        mine = text
        for said, there in (("node a", f"node {z}"), ("/etc/holdfast/a.", f"{rig.dir}/certs/{z}."), ("/etc/holdfast", f"{rig.dir}/certs"),
                            ("bind 10.0.0.1 127.0.0.1", "bind 127.0.0.1"), ("reader-port 6479", f"reader-port {free_port()}"),
                            ("port 6379", f"port {ports[z]}"), ("127.0.0.1:6380", f"127.0.0.1:{valkey.port}"),
                            ("/var/lib/holdfast", f"{rig.dir}/data-{z}"), ("admin-port 9121", f"admin-port {free_port()}")):
            assert said in mine, said
            mine = mine.replace(said, there)
        (rig.dir / f"{z}.conf").write_text(mine)
        rig.things.append(Typed(rig.dir / f"typed-{z}", "holdfast", f"{binary()} {rig.dir}/{z}.conf"))

    def ask(z, *words):
        with Client(ports[z], timeout=10) as c:
            return c.ask(*words)
    for z in "abc":
        eventually(lambda: ask(z, "SET", f"k{z}", z), lambda r: r == b"OK", 30, f"{z} serves")
    assert ask("c", "GET", "ka") == b"a"


def test_tls(rig):
    ca = Authority(rig.dir / "certificates", "ca")
    ca.issue("server")
    ca.issue("client", usage="clientAuth")
    port, place = free_port(), f"{rig.dir}/certificates"
    lines = [line.split(None, 1) for line in block_with("tls-port 6390").splitlines()]
    assert {name for name, _ in lines} <= settings()
    rig.holdfast(rig.valkey(), settings={name: value.replace("/etc/holdfast", place).replace("6390", str(port)) for name, value in lines})
    (command,) = HERE["test_tls"]
    for said, there in (("6390", str(port)), ("valkey-cli", tool("valkey-cli"))):
        command = command.replace(said, there)
    assert sh(f"{command} set k v", cwd=place).strip() == "OK"


def test_certificates(rig):
    os.symlink(TOP / "config", rig.dir / "config")
    for command in HERE["test_certificates"]:
        sh(command.replace("/etc/holdfast", str(rig.dir)), cwd=rig.dir)
    assert {f"{n}.crt" for n in ("ca", "a", "b", "c", "d")} <= {p.name for p in (rig.dir / "certs").iterdir()}
    assert "X509 CRL" in (rig.dir / "ca.crt").read_text()


def test_service_user(tmp_path):
    (command,) = HERE["test_service_user"]
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).write_text("")
    rights = "" if os.geteuid() == 0 else "unshare --user --map-root-user "
    sh(f"{rights}{command.replace('useradd', f'useradd --prefix {tmp_path}')}", PATH=f"{os.environ['PATH']}:/usr/sbin")
    assert "holdfast:x:" in (tmp_path / "etc/passwd").read_text() and ":/var/lib/holdfast:" in (tmp_path / "etc/passwd").read_text()


def test_disk(tmp_path):
    for command in HERE["test_disk"]:
        sh(command.replace("/var/lib/holdfast", str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_make_knows_the_targets():
    """Tests run by tests would never end: make only says what it would do. CI executes what `make check` consists of, and a release `make bench`."""
    for command in HERE["test_make_knows_the_targets"]:
        assert sh(f"{command} --dry-run").strip()


# ---- the runbook ----

class Machine:
    """What an operator types on the machine of a member."""

    def __init__(self, member, place, typed):
        self.m, self.place, self.typed = member, place, typed

    def __call__(self, command, expect=0):
        assert command in HERE["test_runbook"], command
        self.typed.add(command)
        m, words = self.m, command.split()
        if words[0] == "systemctl":
            return self.service(*words[1:])
        if words[:2] == ["holdfast", "ctl"]:
            command = f"{binary()} ctl --admin 127.0.0.1:{m.admin_port} {' '.join(words[2:])}"
        for said, there in (("valkey-cli -p 6380", f"{tool('valkey-cli')} -s {m.valkey_process.socket}"), ("/var/lib/holdfast", str(m.data_dir)),
                            ("/var/backups", str(self.place)), ("saved.rdb", f"{self.place}/saved.rdb"),
                            ("/etc/holdfast/a.crt", str(m.group.certificate(m.name)[0]))):
            command = command.replace(said, there)
        return sh(command, expect=expect)

    def service(self, what, service):
        m = self.m
        if service == "valkey":
            return m.valkey_process.restart_empty()
        if what == "reload":
            return m.process.send_signal(signal.SIGHUP)
        if what in ("stop", "restart"):
            assert m.terminate() == 0
        if what in ("start", "restart"):
            m.launch()
            m.wait_listening()
        return None

    def until_ready(self):
        wait_until(lambda: self("holdfast ctl ready", expect=None).strip() == "ok", 60, lambda: f"{self.m.name} is ready: {self.m.group.summary()}",
                   every=0.05)

    def when_known(self, command):
        """A newcomer is heard of first."""
        wait_until(lambda: self(command, expect=None).strip() == "done", 60, lambda: f"{command}: {self(command, expect=None)}", every=0.2)


def online(leader, *names):
    def seen():
        lines = [line for line in leader("holdfast ctl members").splitlines() if re.match(r"[a-d]\s", line)]
        return {line.split()[0] for line in lines} == set(names) and all("online" in line or "self" in line for line in lines)
    wait_until(seen, 60, lambda: f"{names} are online: {leader('holdfast ctl members')}", every=0.1)


def leads(g, on, name):
    """Names in the runbook are what they are: leadership goes there."""
    if g.leader() is not g[name]:
        assert g.transfer(name)[0] == 200
        wait_until(lambda: g.leader_now() is g[name], 20, f"{name} leads")
    for machine in on.values():
        if machine.m.alive():
            machine.until_ready()


@pytest.fixture
def orders(rig):
    """Three members with something in them; (group, machine by name, what was typed)."""
    g, typed = rig.group(cluster="orders"), set()
    place = rig.dir / "backups"
    place.mkdir()
    on = {m.name: Machine(m, place, typed) for m in g}
    leads(g, on, "a")
    with g["a"].client() as c:
        for n in range(100):
            c("SET", f"k{n}", n)
    return g, on, typed, place


def restored(rig, file, name):
    """A new Valkey with this file, a new Holdfast before it: what they have."""
    place = rig.dir / name
    place.mkdir()
    shutil.copy(file, place / "dump.rdb")
    valkey = rig.valkey("--dir", place)
    with rig.holdfast(valkey).client() as c:
        return c("DBSIZE"), c("GET", "k99")


def test_runbook(rig, orders):
    g, on, typed, place = orders
    for machine in on.values():
        assert machine.m.name in machine("holdfast ctl status")
        machine.until_ready()
    online(on["a"], "a", "b", "c")

    # a lost node, machine and all
    g.kill9_zone("c")
    g["c"].valkey_process.restart_empty()
    on["c"]("systemctl start holdfast")
    on["c"].until_ready()
    online(on["a"], "a", "b", "c")

    # a lost disk
    for command in ("systemctl stop holdfast", "find /var/lib/holdfast -mindepth 1 -delete", "systemctl start holdfast"):
        on["c"](command)
    on["a"].when_known("holdfast ctl replace c")
    on["c"].until_ready()
    online(on["a"], "a", "b", "c")

    # a lost zone: another member, then without the lost one; and the lost one's line changes
    d = g.members["d"] = Member(g, "d", "az-d", False)
    g.member_lines.append(d.line)
    g.kill9_zone("c")
    on["d"] = Machine(d, place, typed)
    on["d"]("systemctl start holdfast")
    on["a"].when_known("holdfast ctl add d")
    on["a"]("holdfast ctl remove c")
    online(on["a"], "a", "b", "d")
    g["c"].valkey_process.restart_empty()
    on["c"]("find /var/lib/holdfast -mindepth 1 -delete")
    on["c"]("systemctl start holdfast")
    on["a"].when_known("holdfast ctl add c")
    on["a"]("holdfast ctl remove c")  # three are enough for what follows
    g["c"].kill9()
    g.retired.append(g.members.pop("c"))
    del on["c"]

    # hand-overs; restarting all, the leader last
    on["a"]("holdfast ctl transfer b")
    wait_until(lambda: g.leader_now() is g["b"], 20, "b leads")
    on["b"]("holdfast ctl transfer")
    leader = wait_until(lambda: (m := g.leader_now()) and m is not g["b"] and m, 20, "another one leads")
    for machine in on.values():
        machine.until_ready()
    for m in [*g.others(leader), leader]:
        on[m.name]("holdfast ctl drain")
        assert g.leader() is not m
        on[m.name]("systemctl restart holdfast")
        on[m.name].until_ready()
        online(on[g.leader().name], "a", "b", "d")
    leads(g, on, "a")
    on["b"]("holdfast ctl drain")
    wait_until(lambda: on["b"]("holdfast ctl ready", expect=None).strip() != "ok", 20, "new clients go elsewhere")
    on["b"]("holdfast ctl undrain")
    on["b"].until_ready()

    # a Valkey that comes up empty
    on["b"]("systemctl restart valkey")
    wait_until(lambda: g["b"].look().get("state") == "fed" and g["b"].serves_reads(), 60, "b is warm again")
    g.wait_equal()

    # certificates
    assert "notAfter=" in on["a"]("openssl x509 -in /etc/holdfast/a.crt -noout -enddate")
    for machine in on.values():
        machine("systemctl reload holdfast")
    g.wait_serving()
    online(on["a"], "a", "b", "d")

    # backup, and restore
    assert on["b"]("holdfast ctl snapshot") == "done\n"
    on["b"]("cp /var/lib/holdfast/snapshots/*.rdb /var/backups/")
    (copy,) = place.glob("*.rdb")
    assert restored(rig, copy, "restored") == (101, b"99"), "the hundred, and the harness' probe"

    # a lost majority: with its disks; and without
    for name in "ad":
        g.kill9_zone(name)
    wait_until(lambda: on["b"]("holdfast ctl ready", expect=None).strip() != "ok", 20, "b is not ready alone")
    for name in "ad":
        g[name].valkey_process.restart_empty()
        on[name]("systemctl start holdfast")
    for machine in on.values():
        machine.until_ready()
    for name in "ad":
        g.kill9_zone(name)
    for command in ("systemctl stop holdfast", "valkey-cli -p 6380 replicaof no one", "valkey-cli -p 6380 --rdb saved.rdb"):
        on["b"](command)
    assert restored(rig, place / "saved.rdb", "anew") == (101, b"99")

    assert typed == set(HERE["test_runbook"]), set(HERE["test_runbook"]) - typed
