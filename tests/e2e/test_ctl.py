"""holdfast ctl and the actions of the admin port; `make run`."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request

import pytest

from group import Member
from harness import PATIENCE, TOP, Client, Closed, binary, free_port, wait_until
from resp import info_fields


def ctl(*words, admin=None, seconds=60):
    """(exit code, output, what it said on stderr)"""
    command = [binary(), "ctl"] + (["--admin", f"127.0.0.1:{admin}"] if admin else []) + [str(w) for w in words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * PATIENCE)
    return done.returncode, done.stdout, done.stderr


# ---- one node ----

def test_usage():
    code, out, _ = ctl("--help")
    assert code == 0 and out.startswith("Usage: holdfast ctl")
    for words in ([], ["nonsense"], ["status", "x"], ["add"], ["transfer", "a", "b"], ["--nonsense", "status"], ["--admin"]):
        code, out, err = ctl(*words)
        assert code == 2 and out == "" and err.startswith("Usage: holdfast ctl"), words
    code, _, err = ctl("add", "a b")
    assert code == 2 and "not a node's name" in err


def test_nobody_answers():
    code, out, err = ctl("status", admin=free_port())
    assert code == 3 and out == "" and "no answer from the admin port" in err
    code, _, err = ctl("--admin", "nonsense", "members")
    assert code == 3 and "is not HOST:PORT" in err


def test_one_node(rig):
    _, h = rig.pair(node="n-1", cluster="solo")
    with h.client() as c:
        c("SET", "k", "v")
    code, out, err = ctl("status", admin=h.admin_port)
    assert code == 0 and err == ""
    lines = dict(line.split(None, 1) for line in out.splitlines() if line and line[0].islower())
    assert lines["node"].startswith("n-1") and " of solo, version " in lines["node"]
    assert lines["role"].startswith("leader, term ")
    assert lines["state"] == "serving, ready"
    assert lines["durability"].startswith("sync, ")
    assert lines["warning"].startswith("the loss of one zone"), "one node is in one zone"
    code, out, _ = ctl("--json", "status", admin=h.admin_port)
    assert code == 0 and json.loads(out)["node"] == "n-1"
    code, out, _ = ctl("--json", "members", admin=h.admin_port)
    group = json.loads(out)
    assert code == 0 and group["role"] == "leader" and group["cluster"] == "solo" and group["busy"] == ""
    assert ctl("members", admin=h.admin_port)[0] == 0


def test_snapshot_on_demand(rig):
    _, h = rig.pair()
    with h.client() as c:
        c("SET", "k", "v")
    before = h.status()["snapshot_unix_ms"]
    code, out, err = ctl("snapshot", admin=h.admin_port)
    assert code == 0 and out == "done\n", err
    assert h.status()["snapshot_unix_ms"] > before
    assert json.loads(h.http("/members")[1])["last"] == "snapshot: done"


def test_snapshot_without_valkey(rig):
    valkey, h = rig.pair()
    valkey.kill9()
    wait_until(lambda: h.http("/readyz")[0] == 503, 10, "Valkey's end is seen")
    code, _, err = ctl("snapshot", admin=h.admin_port)
    assert code == 1 and "not proven" in err


def test_a_lone_node_has_no_group(rig):
    _, h = rig.pair()
    for words in (["transfer"], ["transfer", "b"], ["add", "b"], ["remove", "b"], ["replace", "b"]):
        code, out, err = ctl(*words, admin=h.admin_port)
        assert code == 1 and out == "" and "there is no group" in err, words
        code, out, err = ctl("--json", *words, admin=h.admin_port)
        assert code == 1 and json.loads(out)["ok"] is False


def post(h, path, headers=None):
    request = urllib.request.Request(f"http://127.0.0.1:{h.admin_port}{path}", method="POST", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=5 * PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code


def test_who_may_act(rig):
    _, h = rig.pair()
    assert post(h, "/snapshot") == 200
    assert post(h, "/snapshot", {"Origin": "http://127.0.0.1:1"}) == 403, "a web page"
    assert h.http("/snapshot")[0] == 405
    _, wide = rig.pair(admin_bind="0.0.0.0", admin_token="secret")
    assert post(wide, "/snapshot") == 401 and wide.http("/members")[0] == 401 and wide.http("/readyz")[0] == 200
    assert post(wide, "/snapshot", {"Authorization": "Bearer secret"}) == 200
    assert ctl("status", admin=wide.admin_port)[0] == 1 and ctl("--token", "wrong", "status", admin=wide.admin_port)[0] == 1
    assert ctl("--json", "status", admin=wide.admin_port)[0] == 1 and ctl("--json", "members", admin=wide.admin_port)[0] == 1
    assert ctl("--token", "secret", "snapshot", admin=wide.admin_port)[:2] == (0, "done\n")
    assert ctl("ready", admin=wide.admin_port)[:2] == (0, "ok\n")
    with wide.client() as c:
        assert c("CONFIG", "GET", "admin-token") == [b"admin-token", b""], "it is not shown"


def test_an_open_admin_port_needs_a_token(rig):
    done = subprocess.run([binary(), "--port", str(free_port()), "--admin-port", str(free_port()), "--admin-bind", "0.0.0.0", "--data-dir",
                           str(rig.dir / "data")], capture_output=True, text=True, timeout=20 * PATIENCE)
    assert done.returncode == 1 and "an admin-token is needed" in done.stderr


# ---- a group ----

def rows(out):
    """The table of members: name -> column -> cell."""
    lines = [line.split("  ") for line in out.splitlines()]
    cells = [[c.strip() for c in line if c.strip()] for line in lines]
    return {line[0]: dict(zip(cells[0], line)) for line in cells[1:] if len(line) == len(cells[0])}


def test_members_of_a_group(rig):
    g = rig.group()
    leader = g.leader()
    code, out = g.ctl("members")
    table = rows(out)
    assert code == 0 and set(table) == {"a", "b", "c"}, out
    for m in g:
        row = table[m.name]
        assert row["ZONE"] == m.zone and row["ADDRESS"] == m.peer_address and row["ROLE"] == "voter"
        assert row["LEADER"] == ("yes" if m is leader else "-")
        assert row["STATE"] == ("self" if m is leader else "online")
    for m in g:
        code, out = g.ctl("status", at=m)
        assert code == 0 and f"node        {m.name} in {m.zone} of {g.cluster}" in out, out
        assert ("role        leader" if m is leader else f"role        follower of {leader.name}") in out
        assert "warning" not in out


def test_members_in_info_and_metrics(rig):
    g = rig.group()
    leader = g.leader()
    with leader.client() as c:
        c("SET", "k", "v")
    for m in g:
        with m.reader() as c:
            info = info_fields(c("INFO", "durability"))
        lines = [dict(pair.split("=", 1) for pair in info[f"holdfast_member{i}"].split(",")) for i in range(3)]
        by_name = {line["name"]: line for line in lines}
        assert info["holdfast_role"] == ("leader" if m is leader else "follower") and info["holdfast_leader"] == leader.name
        assert {n: line["zone"] for n, line in by_name.items()} == {x.name: x.zone for x in g}
        assert by_name[m.name]["state"] == "self" and by_name[leader.name]["leader"] == "1"
        assert all(line["state"] == "online" for n, line in by_name.items() if n != m.name)
        text = m.http("/metrics")[1]
        with m.valkey_client() as v:
            own = info_fields(v("INFO", "server"))
        assert f'holdfast_valkey_info{{version="{own["valkey_version"]}",run_id="{own["run_id"]}"}} 1\n' in text, "its own, a follower too"
        for other in g.others(m):
            assert f'holdfast_peer_up{{peer="{other.name}",zone="{other.zone}"}} 1\n' in text
        assert f'holdfast_peer_up{{peer="{m.name}"' not in text
    down = g.followers()[0]
    g.kill9_zone(down)
    wait_until(lambda: f'holdfast_peer_up{{peer="{down.name}",zone="{down.zone}"}} 0\n' in leader.http("/metrics")[1], 10, "down is seen")
    assert rows(g.ctl("members")[1])[down.name]["STATE"] == "down"
    assert g.ctl("members", at=leader)[0] == 0


def test_a_follower_without_a_leader_is_not_ready(rig):
    g = rig.group()
    follower = g.followers()[0]
    assert follower.http("/readyz")[0] == 200
    for m in g.others(follower):
        m.kill9()
    wait_until(lambda: follower.http("/readyz")[0] == 503, 10, "it is not ready any more")
    why = follower.http("/readyz")[1]
    assert "no leader is known" in why or "no link to the leader" in why, why
    code, out = g.ctl("status", at=follower)
    assert code == 0 and "not ready: " in out, out
    code, out = g.ctl("transfer", at=follower)
    assert code == 1 and ("no leader is known" in out or "ask the leader" in out), out


def test_snapshots_in_a_group(rig):
    g = rig.group()
    with g.leader().client() as c:
        for i in range(100):
            c("SET", f"k{i}", i)
    for m in g:
        before = m.look()["snapshot_unix_ms"]
        code, out = g.ctl("snapshot", at=m)
        assert code == 0 and out == "done\n", f"{m.name}: {out}"
        assert m.look()["snapshot_unix_ms"] > before


def test_a_witness(rig):
    g = rig.group(witness=True)
    witness = g["c"]
    wait_until(witness.ready, 10, "the witness relays")
    table = rows(g.ctl("members")[1])
    assert table["c"]["ROLE"] == "log-only" and table["a"]["ROLE"] == table["b"]["ROLE"] == "voter"
    code, out = g.ctl("status", at=witness)
    assert code == 0 and "state       log-only, ready" in out and "Valkey      none" in out, out
    code, out = g.ctl("snapshot", at=witness)
    assert code == 1 and "has no Valkey" in out
    code, out = g.ctl("transfer", "c")
    assert code == 1 and "log-only" in out and g.leader() is not witness, out


def test_transfer_by_ctl(rig):
    g = rig.group()
    before = g.leader()
    follower = g.followers()[0]
    code, out = g.ctl("transfer", at=follower)
    assert code == 1 and f"ask the leader, {before.name}" in out
    code, out = g.ctl("transfer", follower.name)
    assert code == 0 and out == "done\n", out
    wait_until(lambda: g.leader_now() is follower, 10, f"{follower.name} leads")
    code, out = g.ctl("transfer", "nobody")
    assert code == 1 and out.strip(), out
    code, out = g.ctl("transfer", at=g.leader())
    assert code == 0, out
    assert g.leader() is not follower


def lose_disk(m):
    m.kill9()
    m.valkey_process.restart_empty()
    shutil.rmtree(m.data_dir)


def when_known(g, *words):
    """The leader has to hear of a newcomer before it can take it in."""
    def known():
        code, out = g.ctl(*words)
        return None if "no node of that name is connected" in out else (code, out)
    return wait_until(known, 10, "the leader has heard of it", every=0.1)


def test_remove_and_add_by_ctl(rig):
    g = rig.group()
    victim = g.followers()[0]
    code, out = g.ctl("remove", victim.name)
    assert code == 0, out
    code, out = g.ctl("members")
    assert victim.name not in rows(out), out
    code, out = g.ctl("remove", victim.name)
    assert code == 1 and out.strip()
    g.wait_serving(members=g.others(victim))
    lose_disk(victim)
    victim.launch()
    victim.wait_listening()
    code, out = when_known(g, "add", victim.name)
    assert code == 0, out
    code, out = g.ctl("members")
    assert rows(out)[victim.name]["ROLE"] == "voter", out
    g.wait_serving()
    g.wait_equal()


def test_new_members_by_ctl(rig):
    """Three become five, while the three do not know the new lines; then they are started with them."""
    g = rig.group()
    with g.leader().client() as c:
        c("SET", "k", "v")
    for name in "de":
        m = g.members[name] = Member(g, name, f"az-{name}", False)
        g.member_lines.append(m.line)
        m.launch()
        m.wait_listening()
        code, out = when_known(g, "add", name)
        assert code == 0, out
    code, out = g.ctl("members")
    assert {row["ROLE"] for row in rows(out).values()} == {"voter"} and set(rows(out)) == set("abcde"), out
    g.wait_serving()
    g.wait_equal()
    for name in "abc":
        g.restart(name)
    g.wait_serving()
    assert set(rows(g.ctl("members")[1])) == set("abcde")
    with g["e"].client() as c:
        assert c("GET", "k") == b"v"


def test_replace_by_ctl(rig):
    g = rig.group()
    victim = g.followers()[0]
    with g.leader().client() as c:
        for i in range(100):
            c("SET", f"k{i}", i)
    lose_disk(victim)
    victim.launch()
    victim.wait_listening()
    code, out = when_known(g, "replace", victim.name)
    assert code == 0, out
    code, out = g.ctl("members")
    assert set(rows(out)) == {"a", "b", "c"} and rows(out)[victim.name]["ROLE"] == "voter", out
    g.wait_serving()
    g.wait_equal()
    with victim.reader() as c:
        assert c("GET", "k99") == b"99"


# ---- make run ----

class Run:
    def __init__(self, directory, nodes, number):
        self.ports = {"PORT": free_port(), "READER_PORT": free_port(), "ADMIN_PORT": free_port()}
        self.dir = directory
        self.output = directory / f"run{number}.out"
        env = {**os.environ, **{k: str(v) for k, v in self.ports.items()}, "NODES": str(nodes), "RUN_DIR": str(directory / "run")}
        with open(self.output, "ab") as out:
            self.process = subprocess.Popen(["bash", "config/run.sh", binary()], cwd=TOP, env=env, stdout=out, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, start_new_session=True)

    def text(self):
        return self.output.read_text(errors="replace")

    def wait_said(self, what, seconds=60):
        def said():
            assert self.process.poll() is None, self.text()[-3000:]
            return what in self.text()
        wait_until(said, seconds, f"it says {what}", every=0.05)

    def ctrl_c(self):
        """As a terminal sends it: to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60 * PATIENCE)

    def left(self):
        """Command lines that name our directory."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                words = open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\0", b" ").decode(errors="replace")
                if str(self.dir / "run") in words and int(pid) != os.getpid():
                    found.append((int(pid), words))
        return found

    def close(self):
        """Whatever went wrong: nothing of ours stays."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid, _ in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def make_run(tmp_path):
    started = []

    def start(nodes):
        started.append(Run(tmp_path, nodes, len(started)))
        return started[-1]
    yield start
    for r in started:
        r.close()


def ports_said(r, column):
    """The ports that follow `valkey-cli -p` in this column of the table."""
    table = [line for line in r.text().splitlines() if line[:1] in "abc" and " az-" in line[:12] and "valkey-cli -p" in line]
    return [int(line.split("valkey-cli -p ")[column].split()[0]) for line in table[-3:]]


def test_make_run_one_node(make_run):
    r = make_run(1)
    r.wait_said("Talk to it:")
    with Client(r.ports["PORT"]) as c:
        assert c("SET", "k", "v") == b"OK"
    assert ctl("status", admin=r.ports["ADMIN_PORT"])[0] == 0
    assert r.ctrl_c() == 0, r.text()[-2000:]
    assert r.left() == []
    r = make_run(1)
    r.wait_said("Talk to it:")
    with Client(r.ports["PORT"]) as c:
        assert c("GET", "k") == b"v"
    assert r.ctrl_c() == 0


def test_make_run_three_nodes(make_run):
    """All endpoints serve; a node dies, is started again by hand; Ctrl-C ends all, Valkeys too; the next run goes on."""
    r = make_run(3)
    r.wait_said("Every client port serves")
    ports, readers = ports_said(r, 1), ports_said(r, 2)
    assert len(ports) == len(readers) == 3
    for i, port in enumerate(ports):
        with Client(port, timeout=10) as c:
            assert c("SET", f"k{i}", i) == b"OK"
    for reader in readers:
        with Client(reader, timeout=10) as c:
            wait_until(lambda: c.ask("GET", "k2") == b"2", 10, "the stale read is fresh")
    code, out, _ = ctl("members", admin=r.ports["ADMIN_PORT"])
    assert code == 0 and set(rows(out)) == {"a", "b", "c"}, out
    pages = re.findall(r"^[abc] .* (http://127\.0\.0\.1:\d+/)$", r.text(), re.M)
    assert len(pages) == 3
    for page in pages:
        assert b"<title>Holdfast" in urllib.request.urlopen(page, timeout=10).read()
    node = next(pid for pid, words in r.left() if words.strip().endswith("run/b.conf"))
    os.kill(node, signal.SIGKILL)
    r.wait_said("node b has ended (137). Start it again:")

    def serves():
        try:
            with Client(ports[0], timeout=10) as c:
                return c.ask("SET", "after", 1) == b"OK"
        except (Closed, OSError):
            return False
    wait_until(serves, 20, "two of three serve")
    assert r.ctrl_c() == 0, r.text()[-3000:]
    wait_until(lambda: r.left() == [], 5, f"nothing is left: {r.left()}")
    r = make_run(3)
    r.wait_said("Every client port serves")
    with Client(ports_said(r, 1)[2], timeout=10) as c:
        assert c("GET", "after") == b"1"
    assert r.ctrl_c() == 0, r.text()[-3000:]
