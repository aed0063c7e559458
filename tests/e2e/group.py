"""A group of nodes for end-to-end tests: three zones on loopback, or each in a network namespace of its own (network.py).

    with the rig fixture:
        g = rig.group()                              three nodes a, b, c in zones az-a, az-b, az-c, TLS between them; started, serving
        g = rig.group(n=5, netns=True, durability="async", snapshot_log_bytes="1mb")
        g = rig.group(witness=True)                  the last one is log-only
        g = rig.group(spawn=True)                    each node starts its own Valkey
        g = rig.group(start=False, disk=True, clock=True, power=True)        with the shims of tests/faults/

        g.leader().name                              by what /status says, once the group agrees
        with g["b"].client() as c: ...               g["b"].reader() by its reader-port
        g.kill9_zone(g.leader()); g.restart("a"); g.pause("b"); g.resume("b"); g.net.isolate("a"); g.net.heal()
        g.wait_serving(); g.wait_equal()             every endpoint acknowledges; all logs and all Valkeys are equal
        g.stop(); g.compare_logs()                   entry by entry, what is in the stopped nodes' files

Names of nodes are used for everything; a Member will do where a name is wanted. Everything that waits has a deadline.
"""
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import time

import network
from harness import PATIENCE, TOP, Disk, Holdfast, Valkey, binary, eventually, free_port, wait_until
from resp import Client, Closed, RespError, info_fields

CLUSTER = "hf-test"
SHIMS = TOP / "build" / "faults"
LEADER_S = 15


def built(source, name, *libraries):
    """A library or program of tests/faults/, made if it is older than its source."""
    source, made = TOP / "tests/faults" / source, SHIMS / name
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        made.parent.mkdir(parents=True, exist_ok=True)
        fresh = made.with_name(f"{name}.{os.getpid()}")
        shared = ["-fPIC", "-shared"] if name.endswith(".so") else []
        subprocess.check_call(["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", *shared, "-o", str(fresh),
                               str(source), *libraries])
        fresh.rename(made)
    return made


class Clock:
    """The shim of tests/faults/clock.c: the wall clock of one node (and its Valkey) is off by so much."""

    def __init__(self, directory):
        self.control = pathlib.Path(directory) / "clock.control"
        self.library = built("clock.c", "libclock.so", "-ldl")
        self.control.write_bytes(bytes(8))

    def set(self, seconds):
        """In place: the file is mapped by those whom it concerns."""
        with open(self.control, "r+b") as f:
            f.write(struct.pack("=q", int(seconds * 1_000_000)))


class Power:
    """The shim of tests/faults/power.c: what a node's log had not synced can be taken back after it was killed."""

    def __init__(self, directory, data_dir):
        self.undo = _made(pathlib.Path(directory) / "undo")
        self.under = os.path.realpath(data_dir)
        self.library = built("power.c", "libpower.so", "-ldl")

    def unsynced(self):
        """Whether something is written and not synced, of a process that is stopped."""
        return any(file.stat().st_size for file in self.undo.iterdir())

    def fail(self):
        """To be called when the process is dead; how many writes were undone."""
        count = 0
        for file in self.undo.iterdir():
            data, at, records = file.read_bytes(), 0, []
            while at + 24 <= len(data):
                offset, size, n, path_n = struct.unpack_from("=QQII", data, at)
                at += 24
                path, old = data[at:at + path_n], data[at + path_n:at + path_n + n]
                at += path_n + n
                if at > len(data):
                    break  # killed while it was remembered: the write itself had not begun
                records.append((path, offset, size, old))
            for path, offset, size, old in reversed(records):
                with contextlib.suppress(FileNotFoundError), open(path, "r+b") as f:
                    f.seek(offset)
                    f.write(old)
                    f.truncate(size)
                    count += 1
            file.unlink()
        return count


def shimmed(env, libraries, settings):
    """env with these libraries preloaded, the sanitizer's before them."""
    if not libraries:
        return env
    if "address" in os.environ.get("HOLDFAST_SAN", ""):
        libraries = [subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip(), *libraries]
    return {**env, **settings, "LD_PRELOAD": " ".join(map(str, libraries))}


class GroupValkey(Valkey):
    """A node's Valkey, in the node's namespace; spoken to by its Unix socket, which is in none."""

    def __init__(self, directory, namespace, clock, *options):
        self.prefix = namespace.prefix if namespace else []
        self.clock = clock
        super().__init__(directory, *options)

    def spawn(self, command, env=None):
        settings = {"HOLDFAST_CLOCK_CONTROL": str(self.clock.control)} if self.clock else {}
        env = {**os.environ, **settings, "LD_PRELOAD": str(self.clock.library)} if self.clock else env
        super().spawn(command, env)

    def client(self, **options):
        return Client(self.socket, **options)


class Member(Holdfast):
    """One node, with its Valkey (unless it is log-only or spawns its own)."""

    def __init__(self, group, name, zone, log_only):
        self.group, self.name, self.zone, self.log_only = group, name, zone, log_only
        self.namespace = group.net.nodes[name] if group.net else None
        self.prefix = self.namespace.prefix if self.namespace else []
        self.peer_port, self.reader_port = free_port(), free_port()
        self.host = group.net.client_host(name) if group.net else "127.0.0.1"
        peer_host = group.net.peer_host(name) if group.net else "127.0.0.1"
        self.peer_address = f"{peer_host}:{self.peer_port}"
        place = group.dir / name
        self.clock = Clock(_made(place)) if group.clocks else None
        self.valkey_process = None
        if not log_only and not group.spawn:
            self.valkey_process = GroupValkey(place / "valkey", self.namespace, self.clock, *group.valkey_options)
        super().__init__(place, valkey=self.valkey_process, start=False, durability=group.durability)
        if group.disks:
            self.disk = Disk(self.dir, self.data_dir)
        self.power = Power(self.dir, self.data_dir) if group.powers else None
        self.settings.update({"node": name, "cluster": group.cluster, "reader-port": self.reader_port})
        if group.net:
            self.settings["bind"] = f"{self.host} 127.0.0.1"
        if log_only:
            for setting in ("valkey-spawn", "valkey-server"):
                del self.settings[setting]
            self.settings["valkey"] = "none"
        self.settings["peer-tls"] = "yes" if group.tls else "no"
        self.settings.update(group.settings)
        self.ready_once = False

    @property
    def line(self):
        return f"{self.name} {self.zone} {self.peer_address}" + (" log-only" if self.log_only else "")

    # ---- starting ----
    def write_config(self):
        """holdfast.conf, from the settings; the member lines are the group's."""
        if self.group.tls:
            self.group.certify(self.name)
            cert, key, ca = self.group.certificate(self.name)
            for setting, file in (("cert", cert), ("key", key), ("ca-cert", ca)):
                self.settings.setdefault(f"peer-tls-{setting}-file", file)
        lines = [f"member {m}" for m in self.group.member_lines] + [f"{k} {v}" for k, v in self.settings.items() if v is not None]
        (self.dir / "holdfast.conf").write_text("\n".join(lines) + "\n")

    def command(self):
        self.write_config()
        return [binary(), str(self.dir / "holdfast.conf")]

    def env(self):
        env = dict(os.environ)
        env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=1")
        env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
        libraries, settings = [], {}
        if self.disk:
            libraries.append(Disk.library or built("disk.c", "libdisk.so", "-ldl"))
            settings.update(HOLDFAST_DISK_CONTROL=str(self.disk.control), HOLDFAST_DISK_UNDER=self.disk.under)
        if self.power:  # behind the disk: what that one fails is not written
            libraries.append(self.power.library)
            settings.update(HOLDFAST_POWER_UNDO=str(self.power.undo), HOLDFAST_POWER_UNDER=self.power.under)
        if self.clock:
            libraries.append(self.clock.library)
            settings.update(HOLDFAST_CLOCK_CONTROL=str(self.clock.control))
        return shimmed(env, libraries, settings)

    # ---- asking ----
    def endpoint(self):
        return network.Endpoint(self.host, self.port, self.group.net.clients if self.group.net else None)

    def reader_endpoint(self):
        return network.Endpoint(self.host, self.reader_port, self.group.net.clients if self.group.net else None)

    def client(self, **options):
        return Client(self.endpoint(), **options)

    def reader(self, **options):
        return Client(self.reader_endpoint(), **options)

    def http(self, path, method="GET", body=None, timeout=None):
        """(status, body); (0, reason) when nobody answers. By loopback, inside of the node's namespace."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=timeout or 5 * PATIENCE)
        try:
            connection.sock = network.Endpoint("127.0.0.1", self.admin_port, self.namespace).connect(timeout or 5 * PATIENCE)
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as e:
            return 0, str(e)
        finally:
            connection.close()

    def look(self, timeout=2.0):
        """/status as a dict; {} when nobody answers in time."""
        if not self.alive() or self.paused:
            return {}
        try:
            code, body = self.http("/status", timeout=timeout)
            return json.loads(body) if code == 200 else {}
        except ValueError:
            return {}

    def serves_reads(self):
        """Its Valkey is warm: a local, possibly stale read is answered."""
        try:
            with self.reader(timeout=2) as c:
                return not isinstance(c.ask("GET", "hf:probe"), RespError)
        except (Closed, OSError):
            return False

    def leads(self):
        return self.look().get("role") == "leader"

    # ---- its Valkey ----
    def valkey_client(self, **options):
        """Directly to the node's Valkey."""
        return self.valkey_process.client(**options) if self.valkey_process else Client(self.spawned_socket(), **options)

    def valkey_pid(self):
        if self.valkey_process:
            return self.valkey_process.pid
        with self.valkey_client() as c:
            return int(info_fields(c("INFO", "server"))["process_id"])

    def digest(self):
        with self.valkey_client(timeout=30) as c:
            return c("DEBUG", "DIGEST")

    def close(self):
        if self.paused and self.alive():
            self.resume()
        super().close()
        if self.valkey_process:
            self.valkey_process.close()


def _made(place):
    place.mkdir(parents=True, exist_ok=True)
    return place


class Group:
    def __init__(self, directory, n=3, zones=None, durability="sync", tls=True, netns=False, spawn=False, witness=False, disk=False,
                 clock=False, power=False, start=True, cluster=CLUSTER, valkey_options=(), **settings):
        """Options beyond these are settings of all nodes, '_' for '-'. zones: one for each node."""
        self.dir = _made(pathlib.Path(directory))
        self.durability, self.tls, self.spawn, self.cluster = durability, tls or netns, spawn, cluster
        self.disks, self.clocks, self.powers, self.valkey_options = disk, clock, power, valkey_options
        self.settings = {k.replace("_", "-"): v for k, v in settings.items()}
        names = [chr(ord("a") + i) for i in range(n)]
        self.net = network.Network(names) if netns else None
        self.members = {}
        self.certified = set()
        self.retired = []
        try:
            for i, name in enumerate(names):
                self.members[name] = Member(self, name, (zones or [f"az-{x}" for x in names])[i], witness and i == n - 1)
            self.member_lines = [m.line for m in self.members.values()]
            if self.tls:
                self.certify(*names)
        except BaseException:
            self.close()
            raise
        if start:
            self.start()

    # ---- members ----
    def __getitem__(self, name):
        return name if isinstance(name, Member) else self.members[name]

    def __iter__(self):
        return iter(self.members.values())

    node = __getitem__

    def others(self, *besides):
        besides = [self[b] for b in besides]
        return [m for m in self if m not in besides]

    def living(self):
        return [m for m in self if m.alive() and not m.paused]

    def with_valkey(self):
        return [m for m in self if not m.log_only]

    def holdfasts(self):
        return list(self.members.values()) + self.retired

    def endpoints(self):
        return [m.endpoint() for m in self.with_valkey()]

    # ---- certificates ----
    def certify(self, *names):
        """Certificates that the members prove themselves with, by config/certs.sh."""
        fresh = [n for n in names if n not in self.certified]
        if not fresh:
            return
        done = subprocess.run(["bash", str(TOP / "config" / "certs.sh"), str(self.dir / "certs"), self.cluster, *fresh],
                              capture_output=True, text=True, timeout=60, cwd=TOP)
        assert done.returncode == 0, f"certs.sh: {done.stdout}{done.stderr}"
        self.certified.update(fresh)

    def certificate(self, name):
        """(certificate, key, CA) of a member."""
        place = self.dir / "certs"
        return place / f"{name}.crt", place / f"{name}.key", place / "ca.crt"

    # ---- starting and ending ----
    def start(self, seconds=30):
        for m in self:
            m.launch()
        self.wait_serving(seconds)

    def launch(self, name):
        self[name].launch()

    def restart(self, name, seconds=30, wait=True):
        """Starts it (and its Valkey, empty) if it is down; kills it before if not."""
        m = self[name]
        m.kill9()
        if m.valkey_process and not m.valkey_process.alive():
            m.valkey_process.restart_empty()
        m.launch()
        if wait:
            self.wait_joined(m, seconds)

    def kill9(self, name):
        self[name].kill9()

    def kill9_zone(self, name, rnd=random):
        """The node and its Valkey, one right after the other."""
        m = self[name]
        victims = [m.pid] if m.alive() else []
        if not m.log_only:
            with contextlib.suppress(Exception):
                victims.append(m.valkey_pid())
        rnd.shuffle(victims)
        m.end_expected = True
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        m.kill9()
        if m.valkey_process:
            m.valkey_process.kill9()

    def power_fail(self, name):
        """kill9_zone, and the disk forgets what was not synced. How many writes that were."""
        self.kill9_zone(name)
        return self[name].power.fail()

    def pause_unsynced(self, name):
        """Pauses it at a moment at which its disk has not yet all that it was given."""
        m = self[name]

        def caught():
            m.pause()
            stats = pathlib.Path(f"/proc/{m.pid}/task")
            wait_until(lambda: all((t / "stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt" for t in stats.iterdir()), 5, "it stands",
                       every=0.001)
            if m.power.unsynced():
                return True
            m.resume()
            return False
        wait_until(caught, 20, f"{m.name} writes", every=0.003)

    def pause(self, name):
        self[name].pause()

    def resume(self, name):
        self[name].resume()

    def stop(self, seconds=20):
        """SIGTERM to all; each must end with 0."""
        codes = {}
        for m in self:
            if m.alive():
                if m.paused:
                    m.resume()
                m.end_expected = True
                m.process.terminate()  # once: a second one means "at once"
        for m in self:
            if m.process is not None:
                codes[m.name] = m.process.wait(seconds * PATIENCE)
        return codes

    def close(self):
        for m in self.holdfasts():
            with contextlib.suppress(Exception):
                m.close()
        if self.net:
            self.net.close()
            self.net = None

    # ---- looking ----
    def looks(self):
        """name -> /status, of those that answer."""
        found = {m.name: m.look() for m in self.living()}
        return {name: s for name, s in found.items() if s}

    def leader_now(self, besides=()):
        """The node that says it leads, in the newest term that anybody knows; None."""
        found = self.looks()
        besides = [self[b].name for b in besides]
        newest = max((s.get("term", 0) for s in found.values()), default=0)
        leading = [n for n, s in found.items() if s.get("role") == "leader" and s.get("term") == newest and n not in besides]
        return self[leading[0]] if len(leading) == 1 else None

    def leader(self, seconds=LEADER_S, besides=()):
        return wait_until(lambda: self.leader_now(besides), seconds, lambda: f"a leader besides {besides}: {self.summary()}", every=0.02)

    def followers(self):
        leader = self.leader()
        return [m for m in self if m is not leader]

    def summary(self):
        keys = ("role", "leader", "state", "term", "log_index", "log_committed", "ready")
        return {m.name: {k: s.get(k) for k in keys} if (s := m.look()) else ("paused" if m.paused else "no answer" if m.alive() else "dead")
                for m in self}

    # ---- waiting ----
    def write_answers(self, m, timeout=2):
        """What a probing write is answered by this endpoint."""
        try:
            with m.client(timeout=timeout) as c:
                return c.ask("SET", "hf:probe", f"{m.name}:{time.monotonic()}")
        except (Closed, OSError) as e:
            return e

    def wait_serving(self, seconds=30, members=None):
        """Each of these (default: all that live and have a Valkey) acknowledges a write."""
        last = {}

        def serve():
            for m in members or self.living():
                m = self[m]
                if not m.alive():
                    raise AssertionError(f"{m.name} ended with {m.process.poll()}:\n{m.text()[-3000:]}")
                if not m.log_only:
                    last[m.name] = self.write_answers(m)
                    if last[m.name] != b"OK":
                        return False
            return True
        try:
            wait_until(serve, seconds, "every endpoint acknowledges a write", every=0.02)
        except AssertionError as e:
            raise AssertionError(f"{e}\nlast {last}; {self.summary()}") from None

    def wait_joined(self, name, seconds=30):
        """It is part of the group again: knows the leader, and has all that is committed."""
        m = self[name]

        def joined():
            if not m.alive():
                raise AssertionError(f"{m.name} ended with {m.process.poll()}:\n{m.text()[-3000:]}")
            mine, leader = m.look(), self.leader_now()
            if not mine or leader is None:
                return False
            return mine.get("log_committed", -1) >= leader.look().get("log_committed", 1 << 62) - 50 and (m.log_only or m.serves_reads())
        wait_until(joined, seconds, lambda: f"{m.name} has joined: {self.summary()}", every=0.05)

    def wait_equal(self, seconds=30):
        """All living logs end alike, and so do all Valkeys. Asked while nobody writes."""
        seen = {}

        def equal():
            before = self._log_ends()
            seen["logs"] = before
            if len(before) != len(self.living()) or len(set(before.values())) != 1:
                return False
            digests = {}
            for m in self.living():
                if not m.log_only:
                    try:
                        digests[m.name] = m.digest()
                    except (Closed, OSError, RespError) as e:
                        digests[m.name] = repr(e)
            seen["digests"] = digests
            return len(set(digests.values())) == 1 and self._log_ends() == before
        try:
            wait_until(equal, seconds, "logs and Valkeys are equal", every=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{seen}\n{self.summary()}\n{self.differences()}") from None
        return seen["digests"]

    def _log_ends(self):
        return {name: (s.get("log_committed"), s.get("log_index"), s.get("log_running", s.get("log_hash")))
                for name, s in self.looks().items()}

    def differences(self, limit=10):
        """Keys that are not the same in all Valkeys."""
        found, digests = [], {}
        for m in self.living():
            if m.log_only:
                continue
            with contextlib.suppress(Closed, OSError, RespError), m.valkey_client(timeout=30) as c:
                for line in c("INFO", "keyspace").decode().split():
                    if match := re.match(r"db(\d+):", line):
                        c("SELECT", match.group(1))
                        keys = c("KEYS", "*")
                        for key, digest in zip(keys, c("DEBUG", "DIGEST-VALUE", *keys) if keys else []):
                            digests.setdefault((int(match.group(1)), key), {})[m.name] = digest
        names = {m.name for m in self.living() if not m.log_only}
        for key, by in sorted(digests.items()):
            if len(by) < len(names) or len(set(by.values())) > 1:
                found.append(f"{key}: on {sorted(by)}, {len(set(by.values()))} values")
        return found[:limit]

    # ---- asking for things ----
    def transfer(self, to=None, seconds=10):
        """A planned hand-over; the answer of the admin port."""
        return self.leader().http("/transfer" + (f"?to={self[to].name}" if to else ""), "POST", timeout=seconds * PATIENCE)

    def change(self, what, name, seconds=60):
        """add, remove or replace a member; True, or what the admin port says against it. Waits until it is done."""
        leader = self.leader()
        code, text = leader.http(f"/members/{what}?name={name}", "POST", timeout=seconds * PATIENCE)
        if code == 202:
            def idle():
                code, text = leader.http("/members")
                return code == 200 and not json.loads(text).get("busy")
            wait_until(idle, seconds, lambda: f"{what} {name} is done", every=0.1)
            text = json.loads(leader.http("/members")[1]).get("last", "")
            return True if text.endswith("done") else text
        return True if code == 200 else text

    def lose_disk(self, name):
        """kill9_zone, and its data directory is gone for good."""
        m = self[name]
        self.kill9_zone(m)
        shutil.rmtree(m.data_dir)
        for file in m.power.undo.iterdir() if m.power else ():
            file.unlink()  # nothing of it is to be undone in the next one

    def admit(self, name, seconds=60):
        """Makes a voter of what runs under this name with a data directory that the group does not know, by what its members say:
        replaced, added, or what an earlier leader had begun. Leaders may be lost meanwhile."""
        said = []

        def admitted():
            leader = self.leader_now()
            known = {m["name"]: m for m in leader.look().get("members", [])} if leader else {}
            if not known:
                return False
            it = known.get(name)
            if it and it["role"] == "voter" and it["connected"]:  # not while its old self is meant
                return True
            with contextlib.suppress(OSError, ValueError):
                what = "add" if it is None or it["role"] == "standby" else "replace"
                said.append((what, *leader.http(f"/members/{what}?name={name}", "POST", timeout=seconds * PATIENCE)))
            return False
        wait_until(admitted, seconds, lambda: f"{name} is a voter: {self.summary()}, {said[-5:]}", every=0.1)

    def ctl(self, *words, at=None, seconds=60):
        """`holdfast ctl`; (exit code, output)."""
        m = self[at] if at else self.leader()
        command = [*m.prefix, binary(), "ctl", "--admin", f"127.0.0.1:{m.admin_port}", *map(str, words)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds * PATIENCE)
        return done.returncode, done.stdout

    # ---- logs ----
    def log_lists(self):
        """Of nodes that do not run: name -> {index: fingerprint of the entry}."""
        program, found = built("log_list.c", "log_list", "-llmdb", "-lxxhash"), {}
        for m in self:
            assert not m.alive(), f"{m.name} runs"
            text = subprocess.run([str(program), str(m.data_dir / "log")], check=True, capture_output=True, text=True, timeout=120).stdout
            found[m.name] = dict(tuple(line.split(" ", 1)) for line in text.splitlines())
        return found

    def compare_logs(self):
        """Violations: entries that two stopped nodes have and that differ. A minority may have more at its end: it was not committed."""
        logs, bad = self.log_lists(), []
        for a in logs:
            for b in logs:
                if a < b:
                    common = logs[a].keys() & logs[b].keys()
                    different = sorted(int(i) for i in common if logs[a][i] != logs[b][i])
                    if different:
                        bad.append(f"logs of {a} and {b} differ at {different[:5]} ({len(different)} of {len(common)} entries)")
        return bad

    def leaders_by_term(self, text=r"This node leads in term (\d+)"):
        """term -> names of nodes whose own output says that they led in it."""
        found = {}
        for m in self:
            for term in re.findall(text, m.text()):
                found.setdefault(int(term), set()).add(m.name)
        return found


def ask_until(endpoint, command, accept, seconds, what):
    """A new connection for each attempt."""
    def ask():
        with Client(endpoint, timeout=5) as c:
            return c.ask(*command)
    return eventually(ask, accept, seconds, what)
